"""What a data set is made of: items, and where their tiles lie in larger scenes."""

import csv
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from landcover.errors import DataError, printable

SCENES_FILE = "scenes.csv"
_COLUMNS = ("part", "id", "scene", "row", "col")


@dataclass(frozen=True, slots=True)
class Item:
    """One image, with its mask where it has one.

    Attributes:
        key: POSIX path of the image below the data folder, without ``_sat`` and suffix, such as
            ``train/0000``.
        part: Part that the folder gives it, such as ``train``, or None where the layout has no parts.
        image: Path of the image.
        mask: Path of the mask, or None where the image is not labelled.
    """

    key: str
    part: str | None
    image: Path
    mask: Path | None

    @property
    def id(self) -> str:
        """The bare id: the last piece of the key. It may repeat from part to part."""
        return self.key.rpartition("/")[2]


@dataclass(frozen=True, slots=True)
class SceneTile:
    """Place of an item in a larger contiguous scene; ``row`` and ``col`` count tiles."""

    scene: str
    row: int
    col: int


def read_scenes(path: Path, items: Iterable[Item]) -> dict[str, SceneTile]:
    """Read ``scenes.csv`` (columns ``part,id,scene,row,col``) for the items that are there.

    Rows about other items are passed over, so that a copy of a few files may keep the whole table.

    Returns:
        The place of every item that the table names, by item key.

    Raises:
        DataError: If columns are missing, a row is no valid place, fits several items, or two items share a
            place.
    """
    by_name: dict[tuple[str, str], list[Item]] = {}
    for item in items:
        by_name.setdefault((item.part or "", item.id), []).append(item)
    scenes: dict[str, SceneTile] = {}
    taken: dict[SceneTile, str] = {}
    for line, row in _rows(path):
        try:
            tile = SceneTile(row["scene"], int(row["row"]), int(row["col"]))
        except ValueError:
            raise DataError(
                f"{path}, line {line}: row and col must be whole numbers; found {_cut(row['row'])} and "
                f"{_cut(row['col'])}."
            ) from None
        matching = by_name.get((row["part"], row["id"]), [])
        if len(matching) > 1:
            keys = ", ".join(item.key for item in matching)
            raise DataError(
                f"{path}, line {line}: {_cut(row['part'])}/{_cut(row['id'])} fits more than one item: {keys}."
            )
        for item in matching:
            other = taken.setdefault(tile, item.key)
            if other != item.key or item.key in scenes:
                raise DataError(
                    f"{path}, line {line}: {item.key} and {other} are named twice or share the place "
                    f"row {tile.row}, col {tile.col} of scene {_cut(tile.scene)}."
                )
            scenes[item.key] = tile
    return scenes


def _rows(path: Path) -> Iterable[tuple[int, Mapping[str, str]]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)  # a quote that nobody closes is an error
            missing = [name for name in _COLUMNS if name not in (reader.fieldnames or ())]
            if missing:
                raise DataError(
                    f"{path} lacks the column {missing[0]!r}; expected the columns {', '.join(_COLUMNS)}."
                )
            for row in reader:
                if any(row[name] is None for name in _COLUMNS):
                    raise DataError(f"{path}, line {reader.line_num}: expected {len(_COLUMNS)} fields.")
                yield reader.line_num, row
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text: {error}.") from error
    except csv.Error as error:
        raise DataError(
            f"{path} is no readable CSV file ({error}); expected the columns {', '.join(_COLUMNS)}. Look for "
            "a quote that is not closed."
        ) from error


def _cut(value: str) -> str:
    """Show a value in a message, cut where it is long."""
    text = printable(value).replace("\n", "\\n")
    return repr(text if len(text) <= 40 else text[:37] + "...")
