"""One scene to its map and what belongs to it: read, classify, clean, write, count."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from landcover.batch import RASTER_SUFFIXES
from landcover.codecs import read_imagery, write_mask
from landcover.errors import ImageError, OutputError, UsageError
from landcover.files import work_folder
from landcover.inference.areas import ClassAreas, ZoneAreas
from landcover.inference.engine import ArraySource, Band, Source, bands, make_grid
from landcover.inference.options import PredictOptions
from landcover.inference.plan import GsdSource, Task
from landcover.inference.prefetch import prefetch
from landcover.inference.results import MadeMap
from landcover.inference.rowstore import RowStore, Workplace
from landcover.legend import NODATA, UInt8Array
from landcover.postprocess import parse_min_region, remove_small_regions
from landcover.postprocess.sieve import sieve_bands
from landcover.preprocessing import Size
from landcover.raster import Georeference, Scene, open_scene, row_areas, write_bands, write_map
from landcover.runtimes import Runtime

IN_MEMORY_PIXELS = 1 << 26
"""Up to so many pixels (8192 x 8192) a scene's map stays in memory until it is written."""

Progress = Callable[[Iterable[Band], int], Iterable[Band]]


class Imagery(Source, Protocol):
    """A source that may know where it lies."""

    @property
    def georeference(self) -> Georeference | None: ...  # noqa: D102


@dataclass(frozen=True, slots=True)
class Picture(ArraySource):
    """A picture in memory: it lies nowhere."""

    georeference: None = None


def make_map(
    runtime: Runtime,
    task: Task,
    options: PredictOptions,
    *,
    tags: Mapping[str, str],
    progress: Progress = lambda bands, total: bands,
) -> MadeMap:
    """Read, classify and write one scene.

    Up to :data:`IN_MEMORY_PIXELS` the map is held in memory; the rows of a larger one go to a hidden folder
    beside the map (a byte a pixel and product) until they are written, and ``resume`` can take them up there
    if the process is killed.

    Args:
        runtime: The model.
        task: The scene and its map.
        options: How it is read, classified and written.
        tags: What the map tells about its making.
        progress: Wraps the bands of the scene, given their number.

    Raises:
        DataError: If the scene cannot be read.
        UsageError: If an option does not suit it.
        OutputError: If something cannot be written.
    """
    with _open(task, options) as imagery:
        size = imagery.height, imagery.width
        gsd, gsd_source = _scale(task, imagery, runtime.card.preprocessing.gsd)
        tags = {**tags, "LANDCOVER_GSD": f"{gsd:g} ({gsd_source})"}
        _check_format(task, size)
        folder = work_folder(task.map) if math.prod(size) > IN_MEMORY_PIXELS else None
        work = {"scene": str(task.image), "size": [*size], "tags": tags, "options": repr(options)}
        with Workplace(folder, work | _fingerprint(task), resume=options.resume) as workplace:
            stores = _Stores(workplace, size, len(runtime.card.legend.scored), options)
            _classify(runtime, imagery, task, gsd, options, workplace, stores, progress)
            notes = list(imagery.warnings) if isinstance(imagery, Scene) else []
            damaged = tuple(imagery.damaged) if isinstance(imagery, Scene) else ()
            made = MadeMap(
                task,
                size,
                gsd,
                gsd_source,
                ClassAreas(runtime.card.legend, _pixel_areas(imagery, size, gsd, gsd_source)),
                damaged=damaged,
                notes=tuple(notes),
            )
            _write(made, stores, imagery.georeference, options, tags)
    return made


# Reading


def _open(task: Task, options: PredictOptions) -> AbstractContextManager[Scene | Picture]:
    if isinstance(task.image, str) or task.image.suffix.lower() in RASTER_SUFFIXES:
        return open_scene(
            task.image,
            bands=options.bands,
            scaling=options.scaling,
            bbox=options.bbox,
            aoi=options.aoi,
            strict=options.strict,
        )
    if options.bbox is not None or options.aoi is not None:
        raise UsageError(
            f"{task.image} is a picture without georeference: --bbox and --aoi cannot be found in it."
        )
    return nullcontext(Picture(*read_imagery(task.image, max_pixels=options.max_pixels)))


def _scale(task: Task, imagery: Scene | Picture, model_gsd: float) -> tuple[float, GsdSource]:
    if task.gsd is not None:
        return task.gsd, task.gsd_source
    known = imagery.gsd if isinstance(imagery, Scene) else None
    return (known, "raster") if known else (model_gsd, "assumed")


def _pixel_areas(
    imagery: Imagery, size: Size, gsd: float, gsd_source: GsdSource
) -> npt.NDArray[np.float64] | None:
    """float64 (H,): square metres of a pixel in each row; None where the scale is assumed."""
    if gsd_source == "assumed":
        return None
    if imagery.georeference is not None and gsd_source == "raster":
        return row_areas(imagery.georeference, *size)
    return np.full(size[0], gsd**2)


def _fingerprint(task: Task) -> dict[str, object]:
    """Return what tells that the scene is still the same file."""
    if isinstance(task.image, str):
        return {}
    status = task.image.stat()
    return {"bytes": status.st_size, "modified": status.st_mtime_ns}


# Classifying


class _Stores:
    """The rows of the products until they are written."""

    def __init__(self, workplace: Workplace, size: Size, classes: int, options: PredictOptions) -> None:
        height, width = size
        self.index = workplace.store("index", height, (width,))
        self.probabilities = (
            workplace.store("probabilities", height, (classes, width)) if options.probabilities else None
        )
        self.confidence = workplace.store("confidence", height, (width,)) if options.confidence else None


def _classify(
    runtime: Runtime,
    imagery: Imagery,
    task: Task,
    gsd: float,
    options: PredictOptions,
    workplace: Workplace,
    stores: _Stores,
    progress: Progress,
) -> None:
    """Fill the stores, going on where they end."""
    try:
        grid = make_grid(
            (imagery.height, imagery.width),
            runtime,
            gsd=gsd,
            window_px=options.window_px,
            overlap_px=options.overlap_px,
        )
    except ImageError as error:
        raise ImageError(f"{task.image}: {error}") from error
    first = next((n for n in range(len(grid.rows)) if grid.band_stop(n) > workplace.rows), len(grid.rows))
    if first == len(grid.rows):
        return  # killed between the last row and the file
    made = prefetch(bands(runtime, imagery, grid, turns=options.turns, first=first))
    try:
        for band in progress(made, len(grid.rows) - first):
            _store(band, runtime, stores)
            workplace.commit(band.stop)
    finally:
        made.close()


def _store(band: Band, runtime: Runtime, stores: _Stores) -> None:
    index = band.index(runtime.card.legend)
    if band.valid is not None:
        index[~band.valid] = NODATA
    stores.index.append(index)
    if stores.probabilities is None and stores.confidence is None:
        return
    for part, values in band.probabilities():
        scaled = np.rint(values * 255).astype(np.uint8)
        if band.valid is not None:
            scaled[:, ~band.valid[part]] = 0
        if stores.probabilities is not None:
            stores.probabilities.append(np.moveaxis(scaled, 0, 1))
        if stores.confidence is not None:
            stores.confidence.append(scaled.max(axis=0))


# Writing


def _check_format(task: Task, size: Size) -> None:
    if task.map.suffix == ".png" and math.prod(size) > IN_MEMORY_PIXELS * 4:
        raise OutputError(
            f"{task.map} would have {size[0]} x {size[1]} pixels; a PNG cannot be written in parts. "
            "Pass --map-format tif or cog."
        )


def _write(
    made: MadeMap,
    stores: _Stores,
    georeference: Georeference | None,
    options: PredictOptions,
    tags: Mapping[str, str],
) -> None:
    """Write the products, the map last: when it is there, all are."""
    task, legend, cog = made.task, made.areas.legend, options.map_format == "cog"
    replace = options.force or options.resume
    height, width = made.size
    if stores.probabilities is not None:
        write_bands(
            task.beside("_probabilities.tif"),
            (np.moveaxis(strip, 1, 0) for strip in stores.probabilities.strips()),
            len(legend.scored),
            height,
            width,
            georeference,
            names=legend.scored_names,
            tags=tags,
            cog=cog,
            force=replace,
        )
    if stores.confidence is not None:
        write_bands(
            task.beside("_confidence.tif"),
            (strip[None] for strip in stores.confidence.strips()),
            1,
            height,
            width,
            georeference,
            names=["confidence"],
            tags=tags,
            cog=cog,
            force=replace,
        )
    zones = _zones(made, georeference, options)
    strips = _counted(_cleaned(stores.index, made, options), made.areas, zones)
    if task.map.suffix == ".png":
        index = list(strips)
        whole = index[0] if len(index) == 1 else np.concatenate(index)
        write_mask(task.map, whole, legend, mask_format=options.mask_format, tags=tags, force=replace)
    else:
        write_map(
            task.map,
            strips,
            height,
            width,
            legend,
            georeference,
            tags=tags,
            cog=cog,
            qml=options.qml,
            force=replace,
        )
    if options.vector is not None:
        from landcover.postprocess import vectorize  # needs an extra

        confidence = task.beside("_confidence.tif") if options.confidence else None
        vectorize(
            task.map,
            task.map.with_suffix(f".{options.vector}"),
            legend=legend,
            confidence=confidence,
            force=replace,
        )


def _cleaned(index: RowStore, made: MadeMap, options: PredictOptions) -> Iterator[UInt8Array]:
    """Yield the map in strips, small regions removed if asked for."""
    if options.min_region is None:
        yield from index.strips()
        return
    min_pixels = parse_min_region(options.min_region, made.gsd)
    height, width = made.size
    if height * width <= IN_MEMORY_PIXELS:
        yield remove_small_regions(index.read(0, height), min_pixels)
    else:
        yield from sieve_bands(index.read, height, width, min_pixels)


def _counted(
    strips: Iterable[UInt8Array], areas: ClassAreas, zones: ZoneAreas | None
) -> Iterator[UInt8Array]:
    """Count what passes by."""
    row = 0
    for strip in strips:
        areas.add(row, strip)
        if zones is not None:
            zones.add(row, strip)
        row += len(strip)
        yield strip


def _zones(made: MadeMap, georeference: Georeference | None, options: PredictOptions) -> ZoneAreas | None:
    if options.zones is None:
        return None
    if georeference is None:
        raise UsageError(
            f"{made.task.image} lies nowhere: the areas of {options.zones} cannot be found in it."
        )
    zones = read_zones(options.zones, options.zone_column, georeference, made)
    made.zones.update(zones.zones)
    return zones


def read_zones(path: Path, column: str | None, georeference: Georeference, made: MadeMap) -> ZoneAreas:
    """Read the polygons to count areas in.

    Raises:
        DataError: If the file is no file of polygons.
        UsageError: If it has no such column, or two polygons have one name.
    """
    from landcover.vectors import read_features  # needs an extra

    features = read_features(path, georeference.crs)
    if features.kind != "polygon":
        raise UsageError(f"{path} holds points; expected polygons to count areas in.")
    names = [str(number) for number in range(1, len(features.geometries) + 1)]
    if column is not None:
        if column not in features.attributes:
            raise UsageError(
                f"{path} has no column {column!r}; it has {', '.join(sorted(features.attributes)) or 'none'}."
            )
        names = [str(value) for value in features.attributes[column]]
        if len(set(names)) < len(names):
            raise UsageError(
                f"Several polygons of {path} have one {column!r}; name them apart, or leave it out."
            )
    return ZoneAreas(
        features.geometries, names, georeference, made.size, made.areas.legend, made.areas.row_areas
    )
