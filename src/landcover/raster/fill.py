"""Fill that a file does not declare: whole rows and columns of one value at the edges of a scene.

A value is that of a pixel: one number, or a number for each band, such as those of a collar of one colour.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from rasterio.io import DatasetReader

from landcover._typing import BoolArray
from landcover.windows import Window

Read = Callable[[Window], npt.NDArray[Any]]
"""Returns the values (bands, h, w) of a window, NaN where they cannot be read."""

Value = tuple[float, ...]
"""The numbers of a pixel in all bands that are read."""

_SHORTEST_PX = 16
_SHORTEST_COLOUR_PX = 128
"""Shorter rows and columns may have one value by chance: black or white, or one colour.

Of 9,616 crops of 64 x 64 pixels of DeepGlobe's JPEGs one has 8 rows of one colour; of 2,404 of 128 none.
"""
_LARGEST_COLOUR = 0.25
"""Fraction of the height or width that rows or columns of a colour are at most: more is flat water."""
_CORNER_PX = 16


class Fill(NamedTuple):
    """What is fill in a scene.

    Attributes:
        inside: The part without the rows and columns of fill; empty if the scene has one value everywhere.
        lines: Side, value and number of rows or columns of fill, from the outside.
        corners: Values of square corners of the rest, which may be fill or imagery.
    """

    inside: Window
    lines: tuple[tuple[str, Value, int], ...] = ()
    corners: tuple[Value, ...] = ()

    def notes(self, name: str, *, is_whole: bool = False) -> list[str]:
        """Return warnings about the fill of a scene of this name.

        ``is_whole``: the bands that are read are all of a georeferenced file, as GDAL's tools take them.
        """
        found = []
        if self.lines:
            sides = ", ".join(f"{count} at the {side} ({_shown(value)})" for side, value, count in self.lines)
            found.append(
                f"{name} has rows or columns of one value, which it does not declare as nodata: {sides}. "
                "They become nodata. To map them, pass --fill keep."
            )
        if self.corners:
            values = " and ".join(map(_shown, self.corners))
            value = self.corners[0]
            what_to_do = f"pass --nodata {value[0]:g}"
            if _is_colour(value):
                numbers = " ".join(f"{number:g}" for number in value)
                what_to_do = "mark them by an alpha band (--alpha) or a mask file"
                if is_whole:
                    what_to_do = f'mark them: gdalwarp -srcnodata "{numbers}" -dstalpha IN OUT.tif'
            found.append(
                f"{name} has corners of the one value {values}, which it does not declare as nodata: they "
                f"are mapped as imagery. If they are not imagery, {what_to_do}."
            )
        return found


def find_fill(read: Read, height: int, width: int, step: int, *, with_colours: bool = True) -> Fill:
    """Find rows and columns of pixels of one value at the four edges of a scene.

    Dark water or snow that touches an edge is not fill, unless a whole row or column has exactly one value.
    Rows and columns of a colour are fill in a small part of a scene alone, and not without ``with_colours``.
    This is for files that do not declare nodata in any way. Where the corners differ, as in imagery without
    fill, only the corners are read; else ``step`` rows at a time.
    """
    left, top, right, bottom = 0, 0, width, height
    lines: list[tuple[str, Value, int]] = []
    previous = -1
    while previous != len(lines):  # rows that are fill but for columns of another value are found then
        previous = len(lines)
        for side in ("top", "bottom", "left", "right"):
            part = Window(top, left, bottom - top, right - left)
            length = height if side in ("top", "bottom") else width
            most = int(_LARGEST_COLOUR * length) if with_colours else 0
            value, count = _depth(read, part, side, step, most)
            if not count:
                continue
            lines.append((side, value, count))
            top += count * (side == "top")
            bottom -= count * (side == "bottom")
            left += count * (side == "left")
            right -= count * (side == "right")
    inside = Window(top, left, bottom - top, right - left)
    corners = set()
    if min(inside.height, inside.width) >= 2 * _CORNER_PX:
        for row in (top, bottom - _CORNER_PX):
            for col in (left, right - _CORNER_PX):
                corners.add(_one_value(read(Window(row, col, _CORNER_PX, _CORNER_PX))))
    return Fill(inside, tuple(lines), tuple(sorted(corner for corner in corners if corner is not None)))


def _is_colour(value: Value) -> bool:
    """Return whether bands have different numbers."""
    return len(set(value)) > 1


def _shown(value: Value) -> str:
    """Return a value as text: one number where all bands have the same."""
    numbers = [f"{number:g}" for number in value]
    return f"({', '.join(numbers)})" if _is_colour(value) else numbers[0]


def _one_value(values: npt.NDArray[Any]) -> Value | None:
    """Return the only value of some pixels; None if there are others."""
    value = values[:, :1, :1]
    return tuple(value.ravel().astype(float).tolist()) if (values == value).all() else None


def _depth(read: Read, part: Window, side: str, step: int, most: int) -> tuple[Value, int]:
    """Return the value of the rows or columns of fill at a side of a part, and their number.

    More than ``most`` of a colour are not fill.
    """
    is_row, is_last = side in ("top", "bottom"), side in ("bottom", "right")
    lines, length = (part.height, part.width) if is_row else (part.width, part.height)
    if length < _SHORTEST_PX or not lines:
        return (), 0

    def window(first: int, count: int, start: int, stop: int) -> Window:
        """Return ``count`` lines, inwards from line ``first``, between two positions along them."""
        first = lines - first - count if is_last else first
        if is_row:
            return Window(part.row + first, part.col + start, count, stop - start)
        return Window(part.row + start, part.col + first, stop - start, count)

    value = _one_value(read(window(0, 1, 0, 1)))
    if value is None or (_is_colour(value) and (length < _SHORTEST_COLOUR_PX or not most)):
        return (), 0
    end = min(lines, most + 1) if _is_colour(value) else lines  # one more tells that there are too many
    for at in (length - 1, length // 2):
        if _one_value(read(window(0, 1, at, at + 1))) != value:
            return value, 0

    numbers = np.array(value)[:, None, None]

    def leading(first: int, count: int, start: int, stop: int) -> int:
        """Return how many of ``count`` lines have the value alone, from the outside."""
        is_fill = (read(window(first, count, start, stop)) == numbers).all(axis=(0, 2 if is_row else 1))
        is_fill = is_fill[::-1] if is_last else is_fill
        return count if is_fill.all() else int(is_fill.argmin())

    if not is_row:
        depth = end
        for start in range(0, length, step):
            depth = leading(0, depth, start, min(start + step, length)) if depth else 0
    else:
        depth, found, count = 0, 1, 1
        while depth < end and found == count:
            count = min(step if depth else 1, end - depth)
            found = leading(depth, count, 0, length)
            depth += found
    return value, 0 if _is_colour(value) and depth > most else depth


def missing_blocks(reader: DatasetReader, bands: list[int], inside: Window) -> BoolArray | None:
    """Return which blocks of a part of a GeoTIFF were never written.

    Returns:
        bool (rows, columns) of the blocks of the file; None if all are there, or it is another format.
    """
    if reader.driver != "GTiff" or not inside.height or not inside.width:
        return None
    high, wide = reader.block_shapes[0]
    rows, cols = -(-reader.height // high), -(-reader.width // wide)
    missing = np.zeros((rows, cols), bool)
    for row in range(inside.row // high, (inside.row + inside.height - 1) // high + 1):
        for col in range(inside.col // wide, (inside.col + inside.width - 1) // wide + 1):
            name = f"BLOCK_OFFSET_{col}_{row}"
            missing[row, col] = all(not reader.get_tag_item(name, "TIFF", bidx=band) for band in bands)
    return missing if missing.any() else None
