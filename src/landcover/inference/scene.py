"""One scene to its map and what belongs to it: read, classify, clean, write, count."""

import json
import math
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from landcover.batch import RASTER_SUFFIXES
from landcover.codecs import read_imagery
from landcover.errors import ImageError, OutputError, UsageError
from landcover.files import work_folder
from landcover.inference.areas import ClassAreas, ZoneAreas, read_zones
from landcover.inference.engine import Band, bands
from landcover.inference.grid import make_grid
from landcover.inference.options import PredictOptions
from landcover.inference.plan import GsdSource, Task
from landcover.inference.prefetch import prefetch
from landcover.inference.products import IN_MEMORY_PIXELS, Stores, write_products
from landcover.inference.reading import ArraySource, Source
from landcover.inference.results import MadeMap
from landcover.inference.rowstore import Workplace
from landcover.legend import Legend
from landcover.preprocessing import Size
from landcover.raster import Georeference, Scene, open_scene, row_areas
from landcover.runtimes import Runtime

_NOT_IN_ROWS = ("resume", "force", "jobs")

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

    Up to :data:`landcover.inference.products.IN_MEMORY_PIXELS` the map is held in memory. The rows of a
    larger one go to a hidden folder beside it (a byte a pixel and product) until they are written, and
    ``resume`` can take them up there if the process is killed.

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
        pixel_areas = _pixel_areas(imagery, size, gsd, gsd_source)
        zones = _zones(imagery, task, options, runtime.card.legend, pixel_areas)
        folder = work_folder(task.map) if math.prod(size) > IN_MEMORY_PIXELS else None
        work = _describe_work(task, size, options, tags)
        with Workplace(folder, work, resume=options.resume) as workplace:
            stores = Stores(workplace, size, len(runtime.card.legend.scored), options)
            _classify(runtime, imagery, task, gsd, options, workplace, stores, progress)
            notes = list(imagery.warnings) if isinstance(imagery, Scene) else []
            damaged = tuple(imagery.damaged) if isinstance(imagery, Scene) else ()
            areas = ClassAreas(runtime.card.legend, pixel_areas)
            made = MadeMap(
                task,
                size,
                gsd,
                gsd_source,
                areas,
                {} if zones is None else zones.zones,
                damaged=damaged,
                notes=tuple(notes),
            )
            write_products(made, stores, imagery.georeference, zones, options, tags)
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


def _zones(
    imagery: Imagery,
    task: Task,
    options: PredictOptions,
    legend: Legend,
    pixel_areas: npt.NDArray[np.float64] | None,
) -> ZoneAreas | None:
    if options.zones is None:
        return None
    if imagery.georeference is None:
        raise UsageError(
            f"{task.image} has no georeference: the polygons of {options.zones} cannot be found in it."
        )
    size = imagery.height, imagery.width
    return read_zones(options.zones, options.zone_column, imagery.georeference, size, legend, pixel_areas)


def _describe_work(
    task: Task, size: Size, options: PredictOptions, tags: Mapping[str, str]
) -> dict[str, object]:
    """Return all that the rows of the products depend on, as plain data for JSON."""
    told = {name: value for name, value in asdict(options).items() if name not in _NOT_IN_ROWS}
    work: dict[str, object] = {"scene": str(task.image), "size": size, "tags": dict(tags), "options": told}
    if isinstance(task.image, Path):
        status = task.image.stat()
        work |= {"bytes": status.st_size, "modified": status.st_mtime_ns}
    plain: dict[str, object] = json.loads(json.dumps(work, default=str))
    return plain


# Classifying


def _classify(
    runtime: Runtime,
    imagery: Imagery,
    task: Task,
    gsd: float,
    options: PredictOptions,
    workplace: Workplace,
    stores: Stores,
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
            stores.append(band, runtime.card.legend)
            workplace.commit(band.stop)
    finally:
        made.close()


def _check_format(task: Task, size: Size) -> None:
    if task.map.suffix == ".png" and math.prod(size) > IN_MEMORY_PIXELS * 4:
        raise OutputError(
            f"{task.map} would have {size[0]} x {size[1]} pixels; a PNG cannot be written in parts. "
            "Pass --map-format tif or cog."
        )
