"""One scene to its map and what belongs to it: read, classify, clean, write, count."""

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from pathlib import Path

from landcover.errors import ImageError, OutputError, UsageError
from landcover.inference.engine import Band, bands
from landcover.inference.grid import make_grid
from landcover.inference.opening import Imagery, open_imagery
from landcover.inference.options import PredictOptions
from landcover.inference.plan import Task
from landcover.inference.prefetch import prefetch
from landcover.inference.products import IN_MEMORY_PIXELS, Stores, write_products
from landcover.inference.results import MadeMap
from landcover.inference.rowstore import Told, Workplace
from landcover.legend import Legend
from landcover.model.runtimes import Runtime
from landcover.ood import NOTHING, Look
from landcover.raster.zonal import ClassAreas, Float64Array, ZoneAreas, read_zones

WORK = "LANDCOVER_WORK"
"""Tag of a map: digest of the scene and the options that it was made of."""

UNLIKE = "LANDCOVER_UNLIKE"
"""Tag of a map: how much of the scene looks unlike what the model learned from, and how, as JSON."""

Progress = Callable[[Iterable[Band], int], Iterable[Band]]


def make_map(
    runtime: Runtime,
    task: Task,
    options: PredictOptions,
    *,
    tags: Mapping[str, str],
    progress: Progress = lambda bands, total: bands,
) -> MadeMap:
    """Read, classify and write one scene.

    Up to :data:`landcover.inference.products.IN_MEMORY_PIXELS` the map and its other products are held in
    memory. The rows of a larger one go to a hidden folder beside it (a byte a pixel and band) until they are
    written, and ``resume`` can take them up there if the process is killed.

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
    legend = runtime.card.legend
    with open_imagery(task, options, runtime.card.preprocessing.gsd) as imagery:
        tags = {
            **tags,
            "LANDCOVER_GSD": f"{imagery.gsd:g} ({imagery.gsd_source})",
            WORK: work_digest(task, options),
        }
        _check_products(task, imagery, options)
        row_areas = imagery.row_areas()
        zones = _zones(imagery, task, options, legend, row_areas)
        on_disk = math.prod(imagery.size) > IN_MEMORY_PIXELS
        bands_kept = {"probabilities": options.probabilities, "confidence": options.confidence}
        work = {"size": [*imagery.size], "tags": tags, "device": runtime.device, **bands_kept}
        with Workplace(task.map, work, on_disk=on_disk, resume=options.resume) as workplace:
            stores = Stores(workplace, imagery.size, len(legend.scored), options)
            seen = _classify(runtime, imagery, task, options, workplace, stores, progress)
            told = workplace.told.joined(Told(imagery.damaged, imagery.notes, seen))
            if told.damaged:
                tags["LANDCOVER_DAMAGED"] = json.dumps(told.damaged)
            unlike = told.look.verdict()
            if unlike is not None:
                tags[UNLIKE] = json.dumps(unlike.to_dict())
            made = MadeMap(
                task,
                imagery.size,
                imagery.gsd,
                imagery.gsd_source,
                ClassAreas(legend, row_areas),
                {} if zones is None else zones.zones,
                tuple(told.damaged),
                tuple(told.notes),
                unlike,
            )
            write_products(made, stores, imagery.georeference, zones, options, tags)
    return made


def work_digest(task: Task, options: PredictOptions) -> str:
    """Return a digest of all that a map depends on but the model: the scene and the options."""
    work: dict[str, object] = {"scene": task.name, "gsd": task.gsd, "options": options.identity()}
    files = [task.image, options.aoi]
    for file in (file for file in files if isinstance(file, Path) and file.exists()):
        status = file.stat()
        work[str(file)] = [status.st_size, status.st_mtime_ns]
    return hashlib.sha256(json.dumps(work, default=str, sort_keys=True).encode()).hexdigest()


def _check_products(task: Task, imagery: Imagery, options: PredictOptions) -> None:
    """Refuse, before the work, what could not be written after it."""
    height, width = imagery.size
    if task.map.suffix == ".png" and height * width > 4 * IN_MEMORY_PIXELS:
        raise OutputError(
            f"{task.map} would have {height} x {width} pixels; a PNG cannot be written in parts. "
            "Pass --map-format tif or cog."
        )
    if options.vector == "geojson" and imagery.georeference is None:
        raise UsageError(
            f"{task.name} has no georeference, and GeoJSON is in longitude and latitude. Pass --vector gpkg."
        )
    if options.vector is not None and task.map.suffix == ".png" and options.mask_format == "rgb":
        raise UsageError("Polygons are made of class indices: pass --mask-format palette with --vector.")


def _zones(
    imagery: Imagery, task: Task, options: PredictOptions, legend: Legend, row_areas: Float64Array | None
) -> ZoneAreas | None:
    if options.zones is None:
        return None
    if imagery.georeference is None:
        raise UsageError(
            f"{task.name} has no georeference: the polygons of {options.zones} cannot be found in it."
        )
    place, size = imagery.georeference, imagery.size
    return read_zones(options.zones, options.zone_column, place, size, legend, row_areas)


def _classify(
    runtime: Runtime,
    imagery: Imagery,
    task: Task,
    options: PredictOptions,
    workplace: Workplace,
    stores: Stores,
    progress: Progress,
) -> Look:
    """Fill the stores, going on where they end, and return what was seen on the way."""
    try:
        grid = make_grid(
            imagery.size,
            runtime,
            gsd=imagery.sides,
            window_px=options.window_px,
            overlap_px=options.overlap_px,
        )
    except ImageError as error:
        raise ImageError(f"{task.name}: {error}") from error
    first = next((n for n in range(len(grid.rows)) if grid.band_stop(n) > workplace.rows), len(grid.rows))
    if first == len(grid.rows):
        return NOTHING  # killed between the last row and the file
    work = bands(
        runtime,
        imagery.source,
        grid,
        batch=options.batch,
        turns=options.tta,
        first=first,
        profile=runtime.card.imagery,
    )
    seen = NOTHING
    with closing(prefetch(work)) as made:
        for band in progress(made, len(grid.rows) - first):
            stores.append(band, runtime.card.legend)
            seen += band.look
            workplace.commit(band.stop, Told(imagery.damaged, imagery.notes, seen))
    return seen
