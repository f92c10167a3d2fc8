"""One scene to its map and further products: read, classify, clean, write, count."""

import hashlib
import json
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from landcover._gdal import files_of
from landcover._typing import UInt8Array
from landcover.errors import ImageError, OutputError, UsageError
from landcover.inference.blocks import ReadLog, SceneWork, band_count, joined
from landcover.inference.engine import RowBlock, row_blocks
from landcover.inference.grid import Grid, make_grid
from landcover.inference.options import PredictOptions, further_rasters
from landcover.inference.plan import Imagery, Task, pixel_areas
from landcover.io.files import work_folder_path
from landcover.io.readahead import read_ahead
from landcover.io.vectorfiles import vector_files
from landcover.legend import Legend
from landcover.machine import check_disk, needing_memory
from landcover.model.preprocessing import Size
from landcover.model.runtimes import Runtime
from landcover.ood.profile import OodReport
from landcover.postprocess.sieve import (
    SmallRegions,
    remaining_regions,
    remove_small_regions,
    sieve_row_blocks,
)
from landcover.raster import Place, write_bands
from landcover.raster.mapfiles import write_map_file
from landcover.raster.writing import CONFIDENCE, PROBABILITIES
from landcover.raster.zonal import ClassAreas
from landcover.scale import Scale
from landcover.storage.scenes import version_name
from landcover.windows import Window

WORK = "LANDCOVER_WORK"
"""Tag of a map: digest of the scene's content and of the options that change it."""

CONTEXT = "LANDCOVER_CONTEXT"
"""Tag of a map with neighbours: digest of their content, and of the position of the scene among them."""

SAMPLES, SAMPLE_BYTES = 64, 1 << 18
"""A file larger than all these samples (16 MB) is identified by them, which costs little at any size."""

SAVE_MEMORY = "Pass a smaller --window, --batch 1, --jobs 1 or another model, or close other programs."
"""What to do where a scene needs too much memory."""

NETWORK_BYTES = 300
"""Memory of a network for each pixel of a batch, at least."""

UNLIKE = "LANDCOVER_UNLIKE"
"""Tag of a map: the out-of-distribution report of the scene, as JSON."""

NOTES = "LANDCOVER_NOTES"
"""Tag of a map: the warnings about the scene, as JSON."""

IMAGE = "{image}"
"""Stands for the path of the scene in the notes of a map, which should not depend on it."""

IN_MEMORY_PIXELS = 1 << 26
"""Up to this number of pixels (8192 x 8192) a scene's map stays in memory until it is written."""

Progress = Callable[[Iterable[RowBlock], int], Iterable[RowBlock]]


@dataclass(frozen=True, slots=True)
class MadeMap:
    """A map that was written.

    Attributes:
        place: Where it is.
        scale: Metres per pixel of the image, and the origin.
        areas: Pixels and areas of each class, and of each zone.
        damaged: Windows of the scene that could not be read and have no data in the map.
        notes: Warnings about the scene.
        ood: How much of it is out of distribution for the model; None if unknown.
        small_regions: Regions smaller than ``min_region`` that remain; 0 for a kept map.
        kept: Whether it existed before; with ``resume``, or because another process made it.
    """

    task: Task
    place: Place
    scale: Scale
    areas: ClassAreas
    damaged: tuple[Window, ...] = ()
    notes: tuple[str, ...] = ()
    ood: OodReport | None = None
    small_regions: int = 0
    kept: bool = False

    @property
    def warnings(self) -> list[str]:
        """What the user of the map should know, but for the out-of-distribution report."""
        found = [*self.notes]
        if not self.areas.pixels.any():
            found.append(f"{self.task.name}: no imagery in the part that was read; the map is all nodata.")
        if self.damaged:
            pixels = sum(window.height * window.width for window in self.damaged)
            found.append(
                f"{self.task.name}: {len(self.damaged)} damaged blocks ({pixels:,} pixels) are nodata in the "
                "map. Copy the file again, or pass --strict to skip such scenes."
            )
        if self.small_regions:
            found.append(remaining_regions(self.task.name, self.small_regions))
        return found


class Inputs:
    """The files that a map depends on: the scene, what is read along with it, the polygons of ``--aoi``.

    Make it before they are read: what :meth:`changed` compares with is their state then.

    Attributes:
        states: Path, bytes and time of change of each file that exists.
        own: Paths of the files but those of neighbours, which are read as context.
    """

    def __init__(self, task: Task, options: PredictOptions) -> None:
        self._task, self._options = task, options
        self._lock, self._digests = Lock(), dict[str, str]()
        own = task.files[:1] if task.mosaic is not None and task.mosaic.is_context else task.files
        files = [file for scene in own for file in files_of(scene)]
        if options.aoi is not None:
            files += vector_files(options.aoi)
        self.own = frozenset(map(str, files))
        files += [file for scene in task.files[len(own) :] for file in files_of(scene)]
        self.states: list[tuple[str, int, int]] = []
        for file in files:
            with suppress(OSError):  # such as one that does not exist, which its reader reports
                status = file.stat()
                self.states.append((str(file), status.st_size, status.st_mtime_ns))

    def changed(self) -> bool:
        """Return whether a file was changed, removed or added."""
        return Inputs(self._task, self._options).states != self.states

    @property
    def digests(self) -> dict[str, str]:
        """All that a map depends on but the model, by tag: :data:`WORK`, and :data:`CONTEXT` of neighbours.

        They do not depend on where the files are and when they were written.

        Raises:
            ImageError: If a file cannot be read.
        """
        with self._lock:  # a thread may be at it
            self._digests = self._digests or self._compute()
        return self._digests

    def _compute(self) -> dict[str, str]:
        task, own, others = self._task, list[object](), list[object]()
        if not task.files:
            own = [task.content or version_name(str(task.image)) or task.name]
        try:
            for file, _, _ in self.states:
                (own if file in self.own else others).append(_file_digest(Path(file)))
        except OSError as error:
            raise ImageError(f"{error.filename} cannot be read: {error.strerror}.") from error
        work = {"content": own, "options": self._options.identity() | {"aoi": None}}
        found: dict[str, object] = {WORK: work}
        if task.mosaic is not None and task.mosaic.is_context:  # windows depend on the frame
            found[CONTEXT] = [task.mosaic.height, task.mosaic.width, *task.mosaic.pieces[0].window, *others]
        texts = {name: json.dumps(value, default=str, sort_keys=True) for name, value in found.items()}
        return {name: hashlib.sha256(text.encode()).hexdigest() for name, text in texts.items()}


def make_map(
    runtime: Runtime,
    task: Task,
    imagery: Imagery,
    options: PredictOptions,
    *,
    inputs: Inputs,
    tags: Mapping[str, str],
    progress: Progress = lambda blocks, total: blocks,
    finished: Callable[[SceneWork], None] = lambda work: None,
) -> MadeMap:
    """Read, classify and write one scene.

    Up to :data:`IN_MEMORY_PIXELS` the map and its other products are held in memory. The rows of a larger one
    go to a hidden folder beside it (a byte per pixel and band) until they are written, and ``resume``
    continues from them if the process is killed.

    ``inputs`` are the files that the map depends on, as they were before the scene was opened; ``tags`` its
    provenance. ``progress`` wraps the row blocks, given their number; ``finished`` puts row blocks that
    another process has computed into the work.
    """
    place, scale = imagery.place, imagery.scale
    tags = {**tags, "LANDCOVER_GSD": str(scale), **inputs.digests}
    _check_products(task, imagery, options)
    areas = ClassAreas(runtime.card.legend, pixel_areas(place, scale))
    if options.zones is not None and place.georeference is not None:
        areas.add_zones(options.zones, options.zone_column, place.georeference, options.zones_layer)
    grid = scene_grid(runtime, imagery, options, task.name)
    rasters = ["classes", *further_rasters(options)]
    identity: dict[str, object] = {
        "size": place.size,
        "tags": tags,
        "device": runtime.device,
        "rasters": rasters,
    }
    identity["files"] = inputs.states
    on_disk = math.prod(place.size) > IN_MEMORY_PIXELS
    check_disk(task.map.parent, disk_needed(task, place.size, areas.legend, options), task.name)
    need = memory_needed(grid, runtime, options, on_disk=on_disk)
    kept_in = identity if on_disk else None
    with (
        needing_memory(need, task.name, SAVE_MEMORY),
        SceneWork(
            task.map, place.size, areas.legend, kept_in, rasters=rasters, resume=options.resume
        ) as work,
    ):
        finished(work)
        runs = work.missing(grid.blocks)
        blocks = (block for run in runs for block in make_blocks(runtime, imagery, grid, run, options))
        with closing(blocks):
            for block in progress(blocks, sum(map(len, runs))):
                work.finish(block, ReadLog.of(imagery.source, block))
        if inputs.changed():
            work.logs.clear()  # its rows are of two files
            raise ImageError(f"{task.name} was changed or removed while it was read. Run the command again.")
        log = joined(work.logs[number] for number in sorted(work.logs))
        if log.damaged:
            tags["LANDCOVER_DAMAGED"] = json.dumps(log.damaged)
        if log.notes:
            tags[NOTES] = json.dumps([note.replace(task.name, IMAGE) for note in log.notes])
        report = log.ood.report()
        if report is not None:
            tags[UNLIKE] = json.dumps(report.to_dict())
        small = write_products(task, work, imagery, options, areas, tags)
    return MadeMap(task, place, scale, areas, log.damaged, log.notes, report, small)


def scene_grid(runtime: Runtime, imagery: Imagery, options: PredictOptions, name: str) -> Grid:
    """Return the windows of a scene, the same for everyone who works on it."""
    try:
        return make_grid(
            (imagery.source.height, imagery.source.width),
            runtime,
            gsd=imagery.sides,
            window_px=options.window_px,
            overlap_px=options.overlap_px,
            part=imagery.source.part,
        )
    except ImageError as error:
        raise ImageError(f"{name}: {error}") from error


def disk_needed(task: Task, size: Size, legend: Legend, options: PredictOptions) -> int:
    """Return the bytes of disk that a scene takes at least while it is written, beside finished rows.

    All rows of all products if they are kept on disk, else of one product; a third more for overviews.
    """
    bands = [band_count(name, legend) for name in ("classes", *further_rasters(options))]
    on_disk = math.prod(size) > IN_MEMORY_PIXELS
    raw = math.prod(size) * (sum(bands) if on_disk else max(bands))
    finished = (file.stat().st_size for file in work_folder_path(task.map).glob("*.raw") if options.resume)
    return raw * 4 // 3 - sum(finished)


def memory_needed(grid: Grid, runtime: Runtime, options: PredictOptions, *, on_disk: bool) -> int:
    """Return the bytes of memory that a scene takes at least, beside its open file; see the engine's."""
    (_, _, height, width), stride, classes = grid.part, grid.stride, len(runtime.card.legend.scored)
    rows, across = grid.rows[0].length, grid.cols[-1].stop - grid.cols[0].start  # of the logit grid
    batch = min(options.batch, len(grid.cols)) * rows * grid.cols[0].length * stride**2
    if (options.views or runtime.card.views) in (2, 3):
        batch = int(batch * 1.35**2)
    row = across * rows * (4 * stride**2 + 4 * classes)
    bands = 1 + sum(band_count(name, runtime.card.legend) for name in further_rasters(options))
    held = bands * width * (0 if on_disk else height)
    return held + 2 * row + batch * NETWORK_BYTES


def make_blocks(
    runtime: Runtime, imagery: Imagery, grid: Grid, numbers: range, options: PredictOptions
) -> Iterator[RowBlock]:
    """Compute some consecutive row blocks of a scene, the next one while the consumer uses one.

    Nothing is stored: any worker that has the scene and the model can compute blocks. :meth:`ReadLog.of`
    returns the log of a block.
    """
    blocks = row_blocks(
        runtime,
        imagery.source,
        grid,
        numbers=numbers,
        batch=options.batch,
        views=options.views,
        profile=runtime.card.imagery,
    )
    with closing(read_ahead(blocks)) as ahead:
        yield from ahead


def write_products(
    task: Task,
    work: SceneWork,
    imagery: Imagery,
    options: PredictOptions,
    areas: ClassAreas,
    tags: Mapping[str, str],
) -> int:
    """Write the map and the other products of a scene from the rows of all its blocks, and count areas.

    Returns:
        The number of regions that are smaller than ``min_region`` and remain.
    """
    legend, force, place = areas.legend, options.force or options.resume, imagery.place
    cog = options.map_format == "cog"
    for name in further_rasters(options):
        buffer = work.buffers[name]
        bands = (strip.reshape(len(strip), -1, place.width).swapaxes(0, 1) for strip in buffer.strips())
        names, coding = ["confidence"], CONFIDENCE
        if name == "probabilities":
            names, coding = [*legend.scored_names], PROBABILITIES
        path = task.beside(f"_{name}.tif")
        write_bands(path, buffer.path or bands, place, names, coding, tags=tags, cog=cog, force=force)

    classes, min_pixels = work.buffers["classes"], 1
    strips = classes.strips()
    small = SmallRegions(place.width)
    if options.min_region is not None:
        min_pixels = options.min_region.pixels(imagery.scale.gsd)
        strict = options.min_region_strict
        if math.prod(place.size) <= IN_MEMORY_PIXELS:
            strips = iter([remove_small_regions(classes.read(0, place.height), min_pixels, strict=strict)])
        else:
            strips = sieve_row_blocks(classes.read, *place.size, min_pixels, strict=strict)

    def counted() -> Iterator[UInt8Array]:
        row = 0
        for strip in strips:
            areas.add(row, strip)
            if min_pixels > 1:
                small.add(strip)
            row += len(strip)
            yield strip

    rows: Path | Iterator[UInt8Array] = counted()
    if options.min_region is None and classes.path is not None:
        deque(counted(), maxlen=0)  # GDAL reads the file itself
        rows = classes.path
    write_map_file(
        task.map,
        rows,
        place,
        legend,
        task.format(options),
        tags=tags,
        style=options.style,
        force=force,
    )
    if options.vector is not None:
        from landcover.postprocess.vectorize import vectorize  # needs an extra

        confidence = task.beside("_confidence.tif") if options.confidence else None
        polygons = task.map.with_suffix(f".{options.vector}")
        vectorize(task.map, polygons, legend=legend, confidence=confidence, force=force)
    return small.count(min_pixels) if min_pixels > 1 else 0


def _file_digest(file: Path) -> str:
    if not file.is_file():  # a folder, or a pipe, which its reader refuses
        return ""
    with file.open("rb") as source:

        def piece(start: int, stop: int) -> bytes:
            source.seek(start)
            return source.read(stop - start)

        size = file.stat().st_size
        return content_digest(size, (piece(start, stop) for start, stop in sampled(size)))


def sampled(size: int) -> list[tuple[int, int]]:
    """Return begin and end of the pieces that identify a file of so many bytes: of a small one, all of it."""
    if size <= SAMPLES * SAMPLE_BYTES:
        return [(0, size)]
    starts = [number * (size - SAMPLE_BYTES) // (SAMPLES - 1) for number in range(SAMPLES)]
    return [(start, start + SAMPLE_BYTES) for start in starts]


def content_digest(size: int, pieces: Iterable[bytes]) -> str:
    """Return the SHA-256 of the size of a file and of its pieces, see :func:`sampled`."""
    digest = hashlib.sha256(str(size).encode())
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()


def _check_products(task: Task, imagery: Imagery, options: PredictOptions) -> None:
    """Raise an error before the work for products that could not be written after it."""
    height, width = imagery.place.size
    is_geotiff = task.format(options).is_geotiff
    if not is_geotiff and height * width > 4 * IN_MEMORY_PIXELS:
        raise OutputError(
            f"{task.map} would have {height} x {width} pixels; a PNG cannot be written in parts. "
            "Pass --map-format tif or cog."
        )
    georeference = imagery.place.georeference
    if options.vector == "geojson":
        missing = None
        if georeference is None:
            missing = f"{task.name} is not georeferenced"
        elif not is_geotiff:
            missing = "A PNG map has no CRS"
        elif not georeference.is_on_earth:
            missing = f"No transformation leads from the CRS of {task.name} to the Earth"
        if missing:
            raise UsageError(f"{missing}, and GeoJSON is in longitude and latitude. Pass --vector gpkg.")
    if georeference is None and options.zones is not None:
        raise UsageError(
            f"{task.name} is not georeferenced; the polygons of {options.zones} cannot be used with it."
        )
    if options.vector is not None and not is_geotiff and options.mask_format == "rgb":
        raise UsageError("Polygons are made of class indices: pass --mask-format palette with --vector.")
