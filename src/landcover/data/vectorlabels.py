"""Labels as polygons and points: vector files, COCO JSON and labelme, burned into masks of the scenes.

Ground without a polygon or point is nodata: neither trained on nor scored. A pixel has the class of the last
shape that contains its centre; a point labels the pixel that contains it.
"""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from rasterio.features import rasterize as burn

from landcover._typing import IntArray, UInt8Array
from landcover.data.annotations import Drawn, Scenes, Target, read_coco, read_labelme
from landcover.data.conversion import MaskTask
from landcover.data.layouts import VECTOR_SUFFIXES
from landcover.data.settings import colour_of
from landcover.errors import DataError, UsageError, did_you_mean, first_few
from landcover.extras import needs
from landcover.io import MAX_PIXELS, image_size
from landcover.io.discovery import MASK_END, PICTURE_SUFFIXES, check_targets, find_files
from landcover.io.images import check_pixels
from landcover.io.locks import locked_folder
from landcover.legend import IGNORE, NODATA, LandClass, Legend
from landcover.model.preprocessing import Size
from landcover.progress import track
from landcover.raster import read_header
from landcover.raster.extent import swapped_axes
from landcover.textfiles import NUMBER, parse_json, read_text

with needs("vector"):
    import shapely

    from landcover.io.vectors import class_text, read_features

logger = logging.getLogger(__name__)

_JSON_BYTES = 1 << 30
_AREAS, _POINTS = (3, 6), (0, 4)
"""shapely's type numbers of polygons and of points."""

_SWAP_TESTED = 100
"""Shapes that are tested for swapped axes where none touches a scene."""

Shapes = npt.NDArray[np.object_]


class VectorSource(NamedTuple):
    """Where polygons or points are, and what their classes are.

    ``path`` is a vector file, COCO JSON or labelme JSON, or a folder of such files; ``column`` the attribute
    of a vector file that holds the class, ``layer`` its layer, optional if only one has geometries;
    ``background`` the class of the ground without a shape, which otherwise is nodata.
    """

    path: Path
    column: str = "class"
    layer: str | None = None
    background: str | None = None


@dataclass(frozen=True)
class VectorLabels:
    """Shapes of scenes on their pixel grids, by key: objects (N,) in columns and rows, and class indices.

    ``shapes`` and ``files``, the first file of each scene's shapes, have only scenes that shapes touch,
    unless there is a ``background``: the class of the ground without a shape, else ``NODATA``.
    """

    source: VectorSource
    legend: Legend
    shapes: Mapping[str, tuple[Shapes, UInt8Array]]
    files: Mapping[str, Path]
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
    """Result of :func:`rasterize`: the masks, and the scenes that no shape touches, which have none."""

    legend: Legend
    written: list[Path] = field(default_factory=list)
    unlabelled: list[Path] = field(default_factory=list)


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
    them need no legend; by default these are the values that occur, in ascending order. Folders of scenes
    keep their structure below ``out``.
    """
    out = Path(out)
    scenes = find_files(like, out, what="images", suffixes=PICTURE_SUFFIXES, left_out=(MASK_END, "_label"))
    targets: dict[str, Target] = {}
    tasks: dict[str, MaskTask] = {}
    for path, relative, _ in scenes:
        target = Target(path, image_size(path), read_header(path).georeference)
        check_pixels(path, target.size, max_pixels)
        key = relative.with_suffix("").as_posix()
        if key in targets:
            raise DataError(f"{path} and {targets[key].path} would have one mask. Rename one of them.")
        targets[key] = target
        suffix = ".png" if target.georeference is None else ".tif"
        tasks[key] = MaskTask(path, out / relative.with_suffix(suffix), target.georeference)
    found = read_vector_labels(labels, targets, legend)
    result = Rasterized(found.legend)
    wanted = {key: task for key, task in tasks.items() if key in found.shapes}
    check_targets([(task.source, task.target) for task in wanted.values()], force=force)
    with locked_folder(out):
        for key, task in track(wanted.items(), "Rasterizing", total=len(wanted)):
            mask = found.mask(key, targets[key].size)
            task.write(mask, found.legend, mask_format="palette", force=force)
            result.written.append(task.target)
    result.unlabelled = [task.source for key, task in tasks.items() if key not in wanted]
    return result


def read_vector_labels(
    source: VectorSource, targets: Mapping[str, Target], legend: Legend | None
) -> VectorLabels:
    """Read the shapes of scenes by key; without a legend the classes are the values that occur, in order.

    Logs the number of shapes that touch no scene, or not the one that they are drawn on.
    """
    found: list[Drawn] = []
    files: dict[str, Path] = {}
    outside, scenes = 0, Scenes(targets)
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
            touching = list(read_coco(path, content, scenes))
        elif "shapes" in content:
            touching = [read_labelme(path, content, scenes)]
        else:
            raise DataError(
                f"{path} is JSON with the keys {first_few(content, 6)}; expected GeoJSON, COCO (images, "
                "annotations, categories) or labelme (shapes). Convert it to one of them."
            )
        for drawn in touching:
            shapes, origin = _clipped(drawn.shapes, targets[drawn.key].size)
            outside += len(drawn.shapes) - len(np.unique(origin))
            if len(shapes):
                found.append(Drawn(drawn.key, shapes, [class_text(drawn.names[i]) for i in origin]))
                files.setdefault(drawn.key, path)
    if not found:
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
    background = NODATA
    if source.background is not None:
        background = legend.names.index(source.background)
        files = dict.fromkeys(targets, next(iter(files.values()))) | files
    burned = {key: (np.empty(0, object), np.empty(0, np.uint8)) for key in files}
    for each in found:
        shapes, classes = burned[each.key]
        own = np.array([index[name] for name in each.names], np.uint8)
        burned[each.key] = np.concatenate([shapes, each.shapes]), np.concatenate([classes, own])
    if outside:
        logger.warning(f"Shapes of {source.path} that touch no scene: {outside:,}.")
    return VectorLabels(source, legend, burned, files, background)


def _from_vector(
    path: Path, source: VectorSource, targets: Mapping[str, Target]
) -> tuple[list[Drawn], int, str]:
    """Return the features that touch each scene, the number of those that touch none, and why none does."""
    placed = {key: target.georeference for key, target in targets.items() if target.georeference is not None}
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
        by_crs.setdefault(place.crs.to_wkt(), []).append(key)
    for keys in by_crs.values():
        first = placed[keys[0]]
        features = read_features(path, first.crs, layer=source.layer, longitude=first.middle_longitude)
        if source.column not in features.attributes:
            raise UsageError(
                f"{path} has no column {source.column!r}. "
                f"{did_you_mean(source.column, list(features.attributes))} Pass it with --column."
            )
        names = features.attributes[source.column].tolist()
        tree = shapely.STRtree(features.geometries)
        for key in keys:
            place = placed[key]
            outline = shapely.Polygon(place.corners())
            inside = np.sort(tree.query(outline, predicate="intersects"))
            touched = np.zeros(len(names), bool)
            touched[inside] = True
            touching = touching | touched
            pixels = shapely.transform(
                features.geometries[inside],
                lambda points: np.stack(place.pixels(*points.T), axis=1),  # noqa: B023
            )
            found.append(Drawn(key, pixels, [names[i] for i in inside]))
        if not np.any(touching) and not hint:
            boxes = shapely.bounds(features.geometries[:_SWAP_TESTED])
            hints = (swapped_axes(boxes, placed[key]) for key in keys)
            hint = next(filter(None, hints), "")
    hint = hint or " Check the CRS of both."
    return found, int(np.count_nonzero(~np.asarray(touching))), hint


def _clipped(shapes: Sequence[Any], size: Size) -> tuple[Shapes, IntArray]:
    """Return the polygons and points of a scene, cut near its edge, and the number of the shape of each.

    Rasterio iterates over all their points in Python.
    """
    height, width = size
    cut = np.empty(len(shapes), object)
    cut[:] = shapes
    areas = np.isin(shapely.get_type_id(cut), _AREAS)
    cut[areas] = shapely.clip_by_rect(cut[areas], -1, -1, width + 1, height + 1)
    parts, origin = shapely.get_parts(cut, return_index=True)
    kinds = shapely.get_type_id(parts)
    kept = np.isin(kinds, (_AREAS[0], _POINTS[0])) & ~shapely.is_empty(parts)
    return parts[kept], origin[kept]


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
