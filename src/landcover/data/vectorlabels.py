"""Labels as polygons and points: vector files, COCO JSON and labelme, burned into masks of the scenes.

Ground without a polygon or point is nodata: neither trained on nor scored. A pixel has the class of the last
shape that contains its centre; a point labels the pixel that contains it.
"""

import logging
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from affine import Affine
from rasterio.features import rasterize as burn
from rasterio.features import shapes as outlines_of

from landcover._typing import UInt8Array
from landcover.data.conversion import MaskTask
from landcover.data.footprints import Place
from landcover.data.layouts import VECTOR_SUFFIXES
from landcover.data.survey import colour_of
from landcover.errors import DataError, UsageError, did_you_mean, first_few
from landcover.extras import needs
from landcover.io import MAX_PIXELS, image_size
from landcover.io.discovery import MASK_END, PICTURE_SUFFIXES, check_targets, find_files
from landcover.io.images import check_pixels
from landcover.io.locks import locked_folder
from landcover.legend import IGNORE, NODATA, LandClass, Legend
from landcover.model.preprocessing import Size
from landcover.progress import track
from landcover.raster import Georeference, read_georeference
from landcover.raster.extent import middle_longitude, swapped_axes
from landcover.textfiles import NUMBER, parse_json, read_text

with needs("vector"):
    import shapely

    from landcover.io.vectors import class_text, read_features

logger = logging.getLogger(__name__)

_JSON_BYTES = 1 << 30
_CIRCLE_SEGMENTS = 16
_FARTHEST = 1e9
"""Pixel positions are below it; shapely fails for much larger ones."""
_AREAS, _POINTS = (3, 6), (0, 4)
"""shapely's type numbers of polygons and of points."""

_SWAP_TESTED = 100
"""Shapes that are tested for swapped axes where none touches a scene."""

Shapes = npt.NDArray[np.object_]


class VectorSource(NamedTuple):
    """Where polygons or points are, and what their classes are.

    Attributes:
        path: A vector file, COCO JSON or labelme JSON; or a folder of such files.
        column: Attribute of a vector file that holds the class.
        layer: Layer of a vector file; optional if only one has geometries.
        background: Class of the ground without a shape; None: it is nodata.
    """

    path: Path
    column: str = "class"
    layer: str | None = None
    background: str | None = None


class Target(NamedTuple):
    """A scene that labels are burned for: its file, (height, width) and georeference."""

    path: Path
    size: Size
    georeference: Georeference | None


@dataclass(frozen=True)
class VectorLabels:
    """Shapes of scenes on their pixel grids.

    Attributes:
        shapes: By key of a scene, the shapes in its columns and rows, object (N,), and their class indices,
            uint8 (N,); only scenes that shapes touch.
        files: By key of a scene, the first file of its shapes.
        outside: Number of shapes that touch no scene.
        background: Index of the class of the ground without a shape, or ``NODATA``.
    """

    source: VectorSource
    legend: Legend
    shapes: Mapping[str, tuple[Shapes, UInt8Array]]
    files: Mapping[str, Path]
    outside: int
    background: int

    def mask(self, key: str, size: Size) -> UInt8Array:
        """Return the class indices of a scene of (height, width): uint8 (H, W), with ``NODATA``."""
        shapes, classes = self.shapes[key]
        if not len(shapes):
            return np.full(size, self.background, np.uint8)
        pairs = zip(shapes, classes.tolist(), strict=True)
        return np.asarray(burn(pairs, out_shape=size, fill=self.background, dtype="uint8"))

    def to_bytes(self, key: str) -> bytes:
        """Return the class indices and shapes of a scene, in order; equal bytes give equal masks."""
        shapes, classes = self.shapes[key]
        return classes.tobytes() + b"".join(shapely.to_wkb(shapes))


@dataclass
class Rasterized:
    """Result of :func:`rasterize`.

    Attributes:
        unlabelled: Scenes that no shape touches; they have no mask.
        outside: Number of shapes that touch no scene.
    """

    legend: Legend
    written: list[Path] = field(default_factory=list)
    unlabelled: list[Path] = field(default_factory=list)
    outside: int = 0


def rasterize(
    labels: VectorSource,
    like: Sequence[str | Path],
    out: str | Path,
    *,
    legend: Legend | None = None,
    max_pixels: int = MAX_PIXELS,
    force: bool = False,
) -> Rasterized:
    """Write a mask for each scene that polygons or points touch, on the scene's own grid.

    A georeferenced scene gets a GeoTIFF, any other a PNG. The masks carry their classes: data folders with
    them need no legend.

    Args:
        labels: The polygons or points.
        like: Scenes, and folders of scenes; these keep their structure below ``out``.
        out: Folder of the masks.
        legend: The classes; by default the values that occur, in ascending order.
        max_pixels: Larger scenes are refused.
        force: Replace existing masks.
    """
    out = Path(out)
    scenes = find_files(like, out, what="images", suffixes=PICTURE_SUFFIXES, left_out=(MASK_END, "_label"))
    targets: dict[str, Target] = {}
    tasks: dict[str, MaskTask] = {}
    for path, relative, _ in scenes:
        target = Target(path, image_size(path), read_georeference(path))
        check_pixels(path, target.size, max_pixels)
        key = relative.with_suffix("").as_posix()
        if key in targets:
            raise DataError(f"{path} and {targets[key].path} would have one mask. Rename one of them.")
        targets[key] = target
        suffix = ".png" if target.georeference is None else ".tif"
        tasks[key] = MaskTask(path, out / relative.with_suffix(suffix), target.georeference)
    found = read_vector_labels(labels, targets, legend)
    result = Rasterized(found.legend, outside=found.outside)
    wanted = {key: task for key, task in tasks.items() if key in found.shapes}
    check_targets([(task.source, task.target) for task in wanted.values()], force=force)
    with locked_folder(out):
        for key, task in track(wanted.items(), "Rasterizing", total=len(wanted)):
            mask = found.mask(key, targets[key].size)
            task.write(mask, found.legend, mask_format="palette", force=force)
            result.written.append(task.target)
    result.unlabelled = [task.source for key, task in tasks.items() if key not in wanted]
    return result


class _Found(NamedTuple):
    """Shapes of one scene from one file, in its pixels, with the names of their classes."""

    key: str
    file: Path
    shapes: Shapes
    names: list[str]


def read_vector_labels(
    source: VectorSource, targets: Mapping[str, Target], legend: Legend | None
) -> VectorLabels:
    """Read the shapes of scenes by key; without a legend the classes are the values that occur, in order."""
    found: list[_Found] = []
    outside = 0
    hint = " Expected shapes inside the images that they were drawn on."
    paths = [source.path]
    if source.path.is_dir() and source.path.suffix.lower() != ".gdb":
        suffixes, out = frozenset(VECTOR_SUFFIXES), source.path / ".landcover"
        inside = find_files(paths, out, what="labels", suffixes=suffixes, left_out=())
        paths = sorted(file.path for file in inside)
    for path in paths:
        content: Any = None
        if path.suffix.lower() == ".json":
            text = read_text(path, DataError, "labels as GeoJSON, COCO or labelme", max_bytes=_JSON_BYTES)
            content = parse_json(text, str(path), DataError)
            if not isinstance(content, dict):
                raise DataError(f"{path} is JSON without keys; expected GeoJSON, COCO or labelme.")
        if content is None or content.get("type") in ("FeatureCollection", "Feature"):
            touching, missed, hint = _from_vector(path, source, targets)
            outside += missed
        elif "annotations" in content and "images" in content:
            touching = list(_from_coco(path, content, targets))
        elif "shapes" in content:
            touching = list(_from_labelme(path, content, targets))
        else:
            raise DataError(
                f"{path} is JSON with the keys {first_few(content, 6)}; expected GeoJSON, COCO (images, "
                "annotations, categories) or labelme (shapes). Convert it to one of them."
            )
        found += touching
    if not any(len(each.shapes) for each in found):
        raise DataError(
            f"No shape of {source.path} touches one of the {len(targets)} scenes, such as "
            f"{next(iter(targets.values())).path}.{hint}"
        )
    counts = Counter(name for each in found for name in each.names)
    legend = legend or _legend_of({*counts, source.background or ""} - {""}, source)
    index = _indices(counts, legend, source)
    if source.background is not None and source.background not in legend.names:
        raise UsageError(
            f"The background {source.background!r} is not a class of the legend {legend.name!r}. "
            f"{did_you_mean(source.background, legend.names)}"
        )
    shapes: dict[str, tuple[Shapes, UInt8Array]] = {}
    files: dict[str, Path] = {}
    for each in found:
        if not len(each.shapes):
            continue
        before, classes = shapes.get(each.key, (np.empty(0, object), np.empty(0, np.uint8)))
        own = np.array([index[name] for name in each.names], np.uint8)
        shapes[each.key] = np.concatenate([before, each.shapes]), np.concatenate([classes, own])
        files.setdefault(each.key, each.file)
    background = NODATA
    if source.background is not None:
        background = legend.names.index(source.background)
        file = next(iter(files.values()))
        for key in targets:
            shapes.setdefault(key, (np.empty(0, object), np.empty(0, np.uint8)))
            files.setdefault(key, file)
    return VectorLabels(source, legend, shapes, files, outside, background)


def _from_vector(
    path: Path, source: VectorSource, targets: Mapping[str, Target]
) -> tuple[list[_Found], int, str]:
    """Return the features that touch each scene, the number of those that touch none, and why none does."""
    placed = {
        key: Place(target.georeference, target.size)
        for key, target in targets.items()
        if target.georeference is not None
    }
    if not placed:
        raise DataError(
            f"None of the {len(targets)} scenes is georeferenced (such as "
            f"{next(iter(targets.values())).path}); the shapes of {path} cannot be placed on them."
        )
    found = []
    hint = ""
    touching: Any = False
    by_crs: dict[str, list[str]] = {}
    for key, place in placed.items():
        by_crs.setdefault(place.georeference.crs.to_wkt(), []).append(key)
    for keys in by_crs.values():
        first = placed[keys[0]]
        longitude = middle_longitude(first.georeference, *first.size)
        features = read_features(path, first.georeference.crs, layer=source.layer, longitude=longitude)
        if source.column not in features.attributes:
            raise UsageError(
                f"{path} has no column {source.column!r}. "
                f"{did_you_mean(source.column, list(features.attributes))} Pass it with --column."
            )
        names = features.attributes[source.column].tolist()
        tree = shapely.STRtree(features.geometries)
        for key in keys:
            georeference, (height, width) = placed[key]
            x, y = georeference.points(np.array([0.0, width, width, 0]), np.array([0.0, 0, height, height]))
            inside = np.sort(tree.query(shapely.polygons(np.stack([x, y], axis=1)), predicate="intersects"))
            touched = np.zeros(len(names), bool)
            touched[inside] = True
            touching = touching | touched
            pixels = shapely.transform(
                features.geometries[inside],
                lambda points: np.stack(georeference.pixels(*points.T), axis=1),  # noqa: B023
            )
            found.append(_clipped(key, path, pixels, [names[i] for i in inside], (height, width)))
        if not np.any(touching) and not hint:
            boxes = shapely.bounds(features.geometries[:_SWAP_TESTED])
            hints = (swapped_axes(boxes, placed[key].georeference, *placed[key].size) for key in keys)
            hint = next(filter(None, hints), "")
    hint = hint or " Check the CRS of both."
    return found, int(np.count_nonzero(~np.asarray(touching))), hint


def _clipped(
    key: str, path: Path, shapes: Shapes | Sequence[Any], names: Sequence[Any], size: Size
) -> _Found:
    """Cut polygons near the edge of a scene, because rasterio iterates over all their points in Python."""
    height, width = size
    cut = np.empty(len(shapes), object)
    cut[:] = shapes
    areas = np.isin(shapely.get_type_id(cut), _AREAS)
    cut[areas] = shapely.clip_by_rect(cut[areas], -1, -1, width + 1, height + 1)
    parts, origin = shapely.get_parts(cut, return_index=True)
    kinds = shapely.get_type_id(parts)
    kept = np.isin(kinds, (_AREAS[0], _POINTS[0])) & ~shapely.is_empty(parts)
    return _Found(key, path, parts[kept], [class_text(names[i]) for i in origin[kept]])


def _from_coco(path: Path, content: Mapping[str, Any], targets: Mapping[str, Target]) -> Iterator[_Found]:
    """Yield the shapes of each image of a COCO file; those of run lengths are around their pixels."""
    categories = {entry["id"]: entry["name"] for entry in _listed(path, content, "categories", "id", "name")}
    annotations: dict[Any, list[Mapping[str, Any]]] = {}
    for entry in _listed(path, content, "annotations", "image_id", "category_id"):
        annotations.setdefault(entry["image_id"], []).append(entry)
    images = _listed(path, content, "images", "id", "file_name")
    if unknown := annotations.keys() - {image["id"] for image in images}:
        logger.warning(
            "%s: annotations that are not used, as images does not list their image_id: %d (such as %s).",
            path,
            sum(len(annotations[number]) for number in unknown),
            min(unknown, key=str),
        )
    by_stem = _by_stem(targets)
    scenes: dict[str, Mapping[str, Any]] = {}
    absent = []
    for image in images:
        key = _scene_of(path, str(image["file_name"]), by_stem)
        if key is None:
            absent.append(image)
        elif scenes.setdefault(key, image) is not image:
            raise DataError(
                f"{path} lists two images, {scenes[key]['file_name']} (id {scenes[key]['id']}) and "
                f"{image['file_name']} (id {image['id']}), which both are {targets[key].path}. Remove one of "
                "them, or list them with their folders."
            )
    if absent and not scenes:
        raise _absent(path, str(absent[0]["file_name"]), targets)
    if unused := [image for image in absent if image["id"] in annotations]:
        logger.warning(
            "%s: images with annotations that are not among the scenes, and not used: %d (such as %s).",
            path,
            len(unused),
            unused[0]["file_name"],
        )
    for key, image in scenes.items():
        of_image = annotations.get(image["id"], [])
        if not of_image:
            continue
        _check_size(path, (image.get("height"), image.get("width")), targets[key])
        shapes, names = [], []
        for entry in of_image:
            outlines = entry.get("segmentation")
            if not isinstance(outlines, list | Mapping) or not outlines:
                raise DataError(
                    f"{path}: annotation {entry.get('id')} has no segmentation, or only a box; expected "
                    "segmentation: [[x, y, …]], or run lengths (counts, size). Draw it, or remove it."
                )
            if entry["category_id"] not in categories:
                raise DataError(
                    f"{path}: annotation {entry.get('id')} has category {entry['category_id']}, which is not "
                    "listed under categories."
                )
            if isinstance(outlines, Mapping):
                drawn = _from_run_lengths(f"{path}: annotation {entry.get('id')}", outlines, targets[key])
            else:
                drawn = [_polygon(path, _points(path, one)) for one in outlines]
            shapes += drawn
            names += [categories[entry["category_id"]]] * len(drawn)
        yield _clipped(key, path, shapes, names, targets[key].size)


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


def _from_labelme(path: Path, content: Mapping[str, Any], targets: Mapping[str, Target]) -> Iterator[_Found]:
    """Yield the shapes of a labelme file."""
    name = str(content.get("imagePath") or path.with_suffix("").name)
    key = _scene_of(path, name, _by_stem(targets))
    if key is None:
        raise _absent(path, name, targets)
    _check_size(path, (content.get("imageHeight"), content.get("imageWidth")), targets[key])
    shapes, names = [], []
    for entry in _listed(path, content, "shapes", "label", "points"):
        points = _points(path, entry["points"])
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
        shapes.append(shape)
        names.append(entry["label"])
    yield _clipped(key, path, shapes, names, targets[key].size)


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


def _polygon(path: Path, points: npt.NDArray[np.float64]) -> Any:
    """Return a polygon of an annotation, mended where it crosses itself."""
    if len(points) < 3:
        raise DataError(f"{path} has a polygon of {len(points)} points; expected at least 3. Remove it.")
    polygon = shapely.Polygon(points)
    return polygon if polygon.is_valid else shapely.make_valid(polygon)


def _by_stem(targets: Mapping[str, Target]) -> dict[str, list[tuple[str, tuple[str, ...]]]]:
    """Return the keys of scenes, and the parts of their whole paths, by the stem of the file."""
    scenes: dict[str, list[tuple[str, tuple[str, ...]]]] = {}
    for key, target in targets.items():
        parts = Path(os.path.normpath(target.path.absolute())).parts  # links keep their names
        scenes.setdefault(PurePosixPath(parts[-1]).stem, []).append((key, parts))
    return scenes


def _scene_of(
    path: Path, name: str, by_stem: Mapping[str, Sequence[tuple[str, tuple[str, ...]]]]
) -> str | None:
    """Return the key of the scene that an annotation file names; None if it is not there.

    The folders of a relative name must be those of the scene, as train/1.png and val/1.png are two images. Of
    a name that begins elsewhere (``/``, ``C:`` or ``..``), as on another machine, the last folder must be.
    A name with another suffix is that of the scene where no other fits.
    """
    parts = PurePosixPath(name.replace("\\", "/")).parts
    named = [part for part in parts if part not in ("/", "//", "..") and not part.endswith(":")]
    if not named:
        return None
    needed = len(named) if len(named) == len(parts) else min(2, len(named))
    fitting: dict[tuple[bool, int], list[str]] = {}
    for key, own in by_stem.get(PurePosixPath(named[-1]).stem, ()):
        common = 1
        while common < min(len(own), len(named)) and own[-1 - common] == named[-1 - common]:
            common += 1
        if common >= needed:
            fitting.setdefault((own[-1] == named[-1], common), []).append(key)
    matches = fitting[max(fitting)] if fitting else []
    if len(matches) > 1:
        raise DataError(f"{path}: {name!r} fits several scenes: {first_few(matches, 4)}.")
    return matches[0] if matches else None


def _absent(path: Path, name: str, targets: Mapping[str, Target]) -> DataError:
    return DataError(
        f"{path} labels the image {name!r}, which is not among the {len(targets)} scenes, such as "
        f"{next(iter(targets.values())).path}. Pass the folder that has it, with the same folder names."
    )


def _check_size(path: Path, stated: tuple[Any, Any], target: Target) -> None:
    if all(isinstance(side, int) for side in stated) and stated != target.size:
        raise DataError(
            f"{path} was drawn on an image of {stated[0]} x {stated[1]} pixels (height x width); "
            f"{target.path} has {target.size[0]} x {target.size[1]}. Pass the original images."
        )


def _legend_of(names: set[str], source: VectorSource) -> Legend:
    """Return a legend of the classes that occur, in ascending order."""
    ordered = sorted(names)
    if all(map(NUMBER.fullmatch, ordered)):
        ordered.sort(key=float)
    if not 2 <= len(ordered) < IGNORE:
        raise UsageError(
            f"{source.path} has {len(ordered)} classes ({first_few(ordered, 4)}); expected 2 to 254. With "
            "one class, state that of the other ground with --background NAME; else check --column."
        )
    classes = (LandClass(name, colour_of(number)) for number, name in enumerate(ordered))
    return Legend(source.path.stem, tuple(classes), None)


def _indices(counts: Mapping[str, int], legend: Legend, source: VectorSource) -> dict[str, int]:
    """Return the class index of each value: by the name of a class, else by a value of the legend."""
    index: dict[str, int] = {}
    for name in counts:
        if name in legend.names:
            index[name] = legend.names.index(name)
        elif name.lstrip("-").isdecimal() and int(name) in legend.class_of_value:
            index[name] = legend.class_of_value[int(name)]
    if unknown := [name for name in counts if name not in index]:
        listing = first_few((f"{name or 'no value'} ({counts[name]})" for name in unknown), 8)
        raise DataError(
            f"{source.path} has shapes with classes that are not in the legend {legend.name!r}: {listing}. "
            f"Expected {first_few(legend.names, 12)}. Correct them in the file, add them to the legend, or "
            "pass the right --column or --legend."
        )
    return index
