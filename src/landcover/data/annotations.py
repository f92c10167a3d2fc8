"""Annotations of pictures: COCO JSON and labelme JSON, as shapes in the pixels of the pictures."""

import logging
import os
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from affine import Affine
from rasterio.features import shapes as outlines_of

from landcover.errors import DataError, first_few
from landcover.extras import needs
from landcover.model.preprocessing import Size
from landcover.raster import Georeference
from landcover.textfiles import parse_number

with needs("vector"):
    import shapely

logger = logging.getLogger(__name__)

_CIRCLE_SEGMENTS = 16
_FARTHEST = 1e9
"""Pixel positions are below it; shapely fails for much larger ones."""


class Target(NamedTuple):
    """A scene that labels are burned for: its file, (height, width) and georeference."""

    path: Path
    size: Size
    georeference: Georeference | None


class Scenes(dict[str, Target]):
    """Scenes by key, which annotation files name in their own ways."""

    @cached_property
    def _by_stem(self) -> dict[str, list[tuple[str, tuple[str, ...]]]]:
        """The keys of scenes, and the parts of their whole paths, by the stem of the file."""
        scenes: dict[str, list[tuple[str, tuple[str, ...]]]] = {}
        for key, target in self.items():
            parts = Path(os.path.normpath(target.path.absolute())).parts  # links keep their names
            scenes.setdefault(PurePosixPath(parts[-1]).stem, []).append((key, parts))
        return scenes

    def find(self, path: Path, name: str) -> str | None:
        """Return the key of the scene that an annotation file calls ``name``; None if it is not there.

        The folders of a relative name must be those of the scene, as train/1.png and val/1.png are two
        images. Of a name that begins elsewhere (``/``, ``C:`` or ``..``), as on another machine, the last
        folder must be. A name with another suffix is that of the scene where no other fits.
        """
        parts = PurePosixPath(name.replace("\\", "/")).parts
        named = [part for part in parts if part not in ("/", "//", "..") and not part.endswith(":")]
        if not named:
            return None
        needed = len(named) if len(named) == len(parts) else min(2, len(named))
        fitting: dict[tuple[bool, int], list[str]] = {}
        for key, own in self._by_stem.get(PurePosixPath(named[-1]).stem, ()):
            common = 1
            while common < min(len(own), len(named)) and own[-1 - common] == named[-1 - common]:
                common += 1
            if common >= needed:
                fitting.setdefault((own[-1] == named[-1], common), []).append(key)
        matches = fitting[max(fitting)] if fitting else []
        if len(matches) > 1:
            raise DataError(f"{path}: {name!r} fits several scenes: {first_few(matches, 4)}.")
        return matches[0] if matches else None

    def absent(self, path: Path, name: str) -> DataError:
        """Return the error that an annotation file labels no scene."""
        return DataError(
            f"{path} labels the image {name!r}, which is not among the {len(self)} scenes, such as "
            f"{next(iter(self.values())).path}. Pass the folder that has it, with the same folder names."
        )


class Drawn(NamedTuple):
    """The shapes that are drawn on a scene, by its key, and the names of their classes."""

    key: str
    shapes: Any
    names: list[Any]


def read_coco(path: Path, content: Mapping[str, Any], scenes: Scenes) -> Iterator[Drawn]:
    """Yield the shapes of each image of a COCO file; those of run lengths are around their pixels."""
    categories = _by_id(path, content, "categories", "name")
    images = _by_id(path, content, "images", "file_name")
    annotations: dict[Any, list[Mapping[str, Any]]] = {}
    for entry in _listed(path, content, "annotations", "image_id", "category_id"):
        annotations.setdefault(entry["image_id"], []).append(entry)
    if unknown := annotations.keys() - images.keys():
        logger.warning(
            f"{path}: annotations that are not used, as images does not list their image_id: "
            f"{sum(len(annotations[number]) for number in unknown)} (such as {min(unknown, key=str)})."
        )
    named: dict[str, Mapping[str, Any]] = {}
    absent = []
    for image in images.values():
        key = scenes.find(path, str(image["file_name"]))
        if key is None:
            absent.append(image)
        elif named.setdefault(key, image) is not image:
            raise DataError(
                f"{path} lists two images, {named[key]['file_name']} (id {named[key]['id']}) and "
                f"{image['file_name']} (id {image['id']}), which both are {scenes[key].path}. Remove one of "
                "them, or list them with their folders."
            )
    if absent and not named:
        raise scenes.absent(path, str(absent[0]["file_name"]))
    if unused := [image["file_name"] for image in absent if image["id"] in annotations]:
        logger.warning(
            f"{path}: images with annotations that are not among the scenes, and not used: {len(unused)} "
            f"(such as {unused[0]})."
        )
    for key, image in named.items():
        drawn, points = Drawn(key, [], []), []
        for entry in annotations.get(image["id"], ()):
            _check_size(path, (image.get("height"), image.get("width")), scenes[key])
            name, outlines = f"{path}: annotation {entry.get('id')}", entry.get("segmentation")
            if not isinstance(outlines, list | Mapping) or not outlines:
                raise DataError(
                    f"{name} has no segmentation, or only a box; expected segmentation: [[x, y, …]], or run "
                    "lengths (counts, size). Draw it, or remove it."
                )
            if entry["category_id"] not in categories:
                raise DataError(
                    f"{name} has category {entry['category_id']}, which is not listed under categories."
                )
            if isinstance(outlines, Mapping):
                shapes = _from_run_lengths(name, outlines, scenes[key])
            else:
                of_entry = [_points(path, one) for one in outlines]
                shapes = [_polygon(path, one) for one in of_entry]
                points += of_entry
            drawn.shapes.extend(shapes)
            drawn.names.extend([categories[entry["category_id"]]["name"]] * len(shapes))
        _refuse_fractions(path, points, scenes[key])
        if drawn.names:
            yield drawn


def _from_run_lengths(name: str, segmentation: Mapping[str, Any], target: Target) -> list[Any]:
    """Return the outlines of the pixels of a COCO mask: run lengths down the columns, from 0, or as text.

    In text a number has five bits a character from 48 on, the lowest first; from the fourth on it is the
    difference to the last but one.
    """
    counts, size = segmentation.get("counts"), segmentation.get("size")
    if size != [*target.size]:
        raise DataError(
            f"{name} has run lengths of the size {str(size)[:60]}; {target.path} has {[*target.size]} "
            "(height, width). Pass the original images."
        )
    runs: list[int] = []
    if isinstance(counts, str):
        value, shift = 0, 0
        for character in counts:
            bits = ord(character) - 48
            if not 0 <= bits < 64 or shift > 40:
                break
            value |= (bits & 31) << shift
            shift += 5
            if not bits & 32:
                value -= (bits & 16) << (shift - 4)
                runs.append(value + (runs[-2] if len(runs) > 2 else 0))
                value, shift = 0, 0
        else:
            counts = runs if shift == 0 else None
    pixels = target.size[0] * target.size[1]
    if not isinstance(counts, list) or not all(type(run) is int and 0 <= run <= pixels for run in counts):
        raise DataError(f"{name} has run lengths that cannot be read: {str(segmentation)[:80]}. Remove it.")
    if sum(counts) != pixels:
        raise DataError(
            f"{name} has run lengths of {sum(counts)} pixels; {target.path} has {pixels}. Remove it, or "
            "write it again."
        )
    values = np.arange(len(counts), dtype=np.uint8) % 2  # 0 and 1 by turns
    mask = np.repeat(values, counts).reshape(target.size, order="F")
    rows, cols = (np.flatnonzero(mask.any(axis=1 - axis)) for axis in (0, 1))
    if not len(rows):
        return []
    part = mask[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1]
    corner = Affine.translation(cols[0], rows[0])
    return [shapely.geometry.shape(one) for one, _ in outlines_of(part, part > 0, 4, corner)]


def read_labelme(path: Path, content: Mapping[str, Any], scenes: Scenes) -> Drawn:
    """Return the shapes of a labelme file."""
    name = str(content.get("imagePath") or path.with_suffix("").name)
    key = scenes.find(path, name)
    if key is None:
        raise scenes.absent(path, name)
    _check_size(path, (content.get("imageHeight"), content.get("imageWidth")), scenes[key])
    drawn = Drawn(key, [], [])
    entries = _listed(path, content, "shapes", "label", "points")
    outlines = [_points(path, entry["points"]) for entry in entries]
    _refuse_fractions(path, outlines, scenes[key])
    for entry, points in zip(entries, outlines, strict=True):
        match entry.get("shape_type", "polygon"), len(points):
            case "polygon", _:
                shape = _polygon(path, points)
            case "rectangle", 2:
                (left, top), (right, bottom) = points.min(axis=0), points.max(axis=0)
                shape = shapely.box(left, top, right, bottom)
            case "circle", 2:
                radius = float(np.hypot(*(points[1] - points[0])))
                shape = shapely.Point(points[0]).buffer(radius, quad_segs=_CIRCLE_SEGMENTS)
            case "point", 1:
                shape = shapely.Point(points[0])
            case kind, count:
                raise DataError(
                    f"{path} has a {kind} of {count} points; expected polygons, rectangles, circles and "
                    "points. Remove it."
                )
        drawn.shapes.append(shape)
        drawn.names.append(entry["label"])
    return drawn


def _by_id(path: Path, content: Mapping[str, Any], name: str, *needed: str) -> dict[Any, Mapping[str, Any]]:
    """Return a list of JSON objects by their ids, which may not repeat."""
    entries = _listed(path, content, name, "id", *needed)
    by_id = {entry["id"]: entry for entry in entries}
    if len(by_id) < len(entries):
        twice = next(entry["id"] for entry in entries if by_id[entry["id"]] is not entry)
        raise DataError(
            f"{path}: {name} has several entries with the id {twice}; expected one. Renumber them."
        )
    return by_id


def _listed(path: Path, content: Mapping[str, Any], name: str, *needed: str) -> list[Mapping[str, Any]]:
    """Return a list of JSON objects that have some keys; ids and names are numbers or text."""
    single = [key for key in needed if key != "points"]
    entries = content.get(name)
    if isinstance(entries, list) and all(
        isinstance(entry, Mapping)
        and set(needed) <= entry.keys()
        and not any(isinstance(entry[key], list | dict) for key in single)
        for entry in entries
    ):
        return entries
    raise DataError(
        f"{path}: {name} is not a list of objects with {', '.join(needed)}; expected numbers or text as "
        f"{' and '.join(single)}."
    )


def _points(path: Path, values: Any) -> npt.NDArray[np.float64]:
    """Return the columns and rows of an outline, float64 (N, 2), of numbers in any nesting."""
    try:
        numbers = np.ravel(np.asarray(values))
    except ValueError:
        numbers = np.array("ragged")
    if numbers.dtype.kind not in "iuf" or numbers.size % 2 or not (np.abs(numbers) < _FARTHEST).all():
        raise DataError(
            f"{path} has an outline that is not pairs of finite numbers below 1e9: {str(values)[:80]}."
        )
    return numbers.astype(np.float64).reshape(-1, 2)


def _refuse_fractions(path: Path, outlines: list[npt.NDArray[np.float64]], target: Target) -> None:
    """Refuse the shapes of an image if all of them are in its first pixel, and not of whole numbers."""
    points = np.concatenate([np.empty((0, 2)), *outlines])
    if max(target.size) > 2 and (np.abs(points) <= 1).all() and (points != np.rint(points)).any():
        raise DataError(
            f"{path} has shapes in fractions of {target.path}: no coordinate is above 1, such as "
            f"{points[0].tolist()}; expected columns and rows in pixels. Multiply them by the width and "
            "height of the image."
        )


def _polygon(path: Path, points: npt.NDArray[np.float64]) -> Any:
    """Return a polygon of an annotation, mended where it crosses itself."""
    if len(points) < 3:
        raise DataError(f"{path} has a polygon of {len(points)} points; expected at least 3. Remove it.")
    polygon = shapely.Polygon(points)
    return polygon if polygon.is_valid else shapely.make_valid(polygon)


def _check_size(path: Path, stated: tuple[Any, Any], target: Target) -> None:
    sides = tuple(parse_number(str(side)) for side in stated)
    if None not in sides and sides != target.size:
        raise DataError(
            f"{path} was drawn on an image of {stated[0]} x {stated[1]} pixels (height x width); "
            f"{target.path} has {target.size[0]} x {target.size[1]}. Pass the original images."
        )
