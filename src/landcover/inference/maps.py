"""Predict: images and scenes to maps."""

import json
import logging
import re
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, cast, get_args

from pydantic import TypeAdapter

from landcover import __version__
from landcover.errors import (
    DataError,
    FleetError,
    ImageError,
    LandcoverError,
    LockedError,
    MaskError,
    OutOfMemoryError,
    OutputError,
    OutputLostError,
    UsageError,
    foreign_errors,
    printable,
)
from landcover.extras import needs
from landcover.inference.engine import RowBlock
from landcover.inference.grid import check_windows
from landcover.inference.options import PredictOptions
from landcover.inference.plan import Task, choose_model, open_imagery, pixel_areas, plan, products
from landcover.inference.scene import (
    CONTEXT,
    IMAGE,
    NOTES,
    SAMPLE_BYTES,
    SAMPLES,
    UNLIKE,
    Inputs,
    MadeMap,
    make_map,
)
from landcover.inference.workers import Engine, LocalEngine, ThisProcess, work_through
from landcover.io.locks import locked_file
from landcover.legend import Legend
from landcover.machine import processors
from landcover.model.bundled import AUTO
from landcover.model.card import model_digest, read_card
from landcover.model.runtimes import Precision, Runtime, open_model
from landcover.ood.profile import OodReport
from landcover.progress import track
from landcover.raster.georeference import Georeference
from landcover.raster.mapfiles import open_map_file, read_map_tags
from landcover.raster.mosaic import repeated_rows
from landcover.raster.zonal import ClassArea, ClassAreas
from landcover.scale import GsdSource, Scale
from landcover.windows import Window

_log = logging.getLogger(__name__)

_GSD = re.compile(r"(\S+) \((.+)\)")


@dataclass
class Prediction:
    """The maps of :func:`landcover.inference.predict`, and the model that made them.

    Attributes:
        legend: Classes of the maps.
        model: The model file or folder as given, or ``in memory``.
        model_sha256: Its hash; None for a model in memory.
        model_gsd: Metres per pixel that the model works at.
        runtime: The library that computed.
        device: Where it computed.
        licence: Terms of the model's weights; empty if its card does not state them.
        views: Views whose probabilities were averaged.
        maps: The maps written.
        kept: Existing maps that were kept; they count in all sums.
        failed: Why an image was skipped, by its name.
        repeated: Areas of a map, by its path, on ground that an earlier map has a class for; sums count it
            once.
        has_profile: Whether the model's card describes its training imagery.
    """

    legend: Legend
    model: str
    model_sha256: str | None
    model_gsd: float
    runtime: str
    device: str
    licence: str = ""
    views: int = 1
    maps: list[MadeMap] = field(default_factory=list)
    kept: list[MadeMap] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    repeated: dict[Path, ClassAreas] = field(default_factory=dict)
    has_profile: bool = True

    @property
    def flagged(self) -> list[tuple[OodReport, str]]:
        """Reports and names of the scenes that are out of distribution, the farthest first."""
        reports = [(made.ood, made.task.name) for made in self.all if made.ood is not None]
        flagged = [pair for pair in reports if pair[0].is_flagged]
        return sorted(flagged, key=lambda pair: (-(pair[0].degree or 0), -pair[0].share))

    @property
    def not_judged(self) -> int:
        """The number of maps whose scenes could not be compared with the training imagery."""
        return sum(made.ood is None for made in self.all)

    @property
    def all(self) -> list[MadeMap]:
        """Maps made and kept, by their paths."""
        return sorted([*self.maps, *self.kept], key=lambda made: made.task.map)

    @property
    def complete(self) -> bool:
        """Whether every image got its map, and every block of it could be read."""
        return not self.failed and not any(made.damaged for made in self.all)

    @property
    def areas(self) -> list[ClassArea]:
        """The scored classes over all maps, in the legend's order; ground of several maps counts once."""
        return self._sum([made.areas for made in self.all], list(self.repeated.values())).table()

    @property
    def zones(self) -> dict[str, tuple[list[ClassArea], dict[str, float]]]:
        """By zone, over all maps: the scored classes, and the fractions ``covered`` and ``nodata`` of it.

        Ground of several maps counts once.
        """
        parts: dict[str, list[ClassAreas]] = {}
        for made in self.all:
            for name, zone in made.areas.zones.items():
                parts.setdefault(name, []).append(zone)
        found = {}
        for name, zones in parts.items():
            repeated = [areas.zones[name] for areas in self.repeated.values() if name in areas.zones]
            covered, nodata = (sum(zone.coverage()[key] for zone in zones) for key in ("covered", "nodata"))
            covered -= sum(zone.coverage()["covered"] for zone in repeated)
            if len(zones) > 1:  # nodata of one map may be covered by another one
                nodata = min(nodata, max(0.0, 1 - covered))
            found[name] = self._sum(zones, repeated).table(), {"covered": covered, "nodata": nodata}
        return found

    def _sum(self, parts: Sequence[ClassAreas], repeated: Sequence[ClassAreas]) -> ClassAreas:
        total = ClassAreas(self.legend, None)
        total.scaled = all(areas.scaled for areas in parts)
        for sign, several in ((1, parts), (-1, repeated)):
            for areas in several:
                total.pixels += sign * areas.pixels
                total.square_metres += sign * areas.square_metres
        return total

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return {
            "model": self.model,
            "model_sha256": self.model_sha256,
            "model_gsd": self.model_gsd,
            "runtime": self.runtime,
            "device": self.device,
            "licence": self.licence,
            "views": self.views,
            "classes": [asdict(area) for area in self.areas],
            "zones": {
                name: {"classes": [asdict(area) for area in areas], **coverage}
                for name, (areas, coverage) in self.zones.items()
            },
            "maps": [self._map(made) for made in self.all],
            "out_of_distribution": {
                "flagged": [name for _, name in self.flagged],
                "not_judged": self.not_judged,
                "profile": self.has_profile,
            },
            "kept": [str(made.task.map) for made in self.kept],
            "failed": [{"image": image, "error": reason} for image, reason in self.failed.items()],
        }

    def area_rows(self) -> Iterator[dict[str, Any]]:
        """Yield a row for each map, zone (empty: the whole map) and class, for a table."""
        for made in self.all:
            for zone, areas in [("", made.areas), *made.areas.zones.items()]:
                coverage = areas.coverage() if zone else {"covered": None, "nodata": None}
                for area in areas.table():
                    yield {
                        "map": str(made.task.map),
                        "zone": zone,
                        "class": area.name,
                        "pixels": area.pixels,
                        "square_metres": None if area.hectares is None else area.hectares * 10_000,
                        "hectares": area.hectares,
                        "share": area.share,
                        "zone_covered": coverage["covered"],
                        "zone_nodata": coverage["nodata"],
                    }

    def _map(self, made: MadeMap) -> dict[str, Any]:
        task, (height, width) = made.task, made.place.size
        pixels = made.areas.pixels
        return {
            "image": task.name,
            "map": str(task.map),
            "height": height,
            "width": width,
            "gsd": made.scale.gsd,
            "gsd_source": made.scale.source,
            "nodata_pixels": height * width - int(pixels.sum()),
            "small_regions": made.small_regions,
            "repeated_pixels": int(self.repeated[task.map].pixels.sum()) if task.map in self.repeated else 0,
            "pixels": {self.legend.names[i]: int(pixels[i]) for i in self.legend.scored},
            "classes": [asdict(area) for area in made.areas.table()],
            "zone_coverage": {name: zone.coverage() for name, zone in made.areas.zones.items()},
            "zones": {
                name: [asdict(area) for area in zone.table()] for name, zone in made.areas.zones.items()
            },
            "damaged": [list(window) for window in made.damaged],
            "notes": list(made.notes),
            "unlike": None if made.ood is None else made.ood.to_dict(),
        }


def predict(
    inputs: Sequence[str | Path],
    model: str | Path | Runtime,
    out: str | Path | None = None,
    options: PredictOptions | None = None,
    *,
    device: str = "auto",
    runtime: str = "auto",
    threads: int | None = None,
    precision: Precision = "fp32",
) -> Prediction:
    """Make a land-cover map of every image or scene, of any size, by windows.

    Georeferenced images become GeoTIFFs ``NAME_mask.tif`` with the same CRS and transform, all others
    ``NAME_mask.png``, both on the image's own grid; ``_sat`` at the end of NAME is dropped. Folders below an
    input folder are kept. Where a file has no data (alpha 0, the raster's nodata value or mask) the map has
    none either. Files that adjoin or overlap are read with their neighbours as context. Images that cannot be
    read are skipped; the result contains the reason.

    Rasters are read by windows, and memory does not depend on their height; see
    :mod:`landcover.inference.engine`. JPEG, PNG and WebP files are held whole.

    Args:
        inputs: Image files, folders that are searched with their subfolders, and URLs of rasters.
        model: A model file, a run folder, the name of a bundled model, ``auto`` (the bundled model that suits
            the size of the job), or a runtime.
        out: Folder of the maps; not needed with ``mosaic``.
        options: How to read, classify and write; see :class:`PredictOptions`.
        device: Device to compute on; this and the following have no effect if ``model`` is a runtime.
        runtime: The library that computes.
        threads: Number of threads.
        precision: Precision of layers that are not quantised; see :func:`landcover.open_model`.

    Raises:
        UsageError: If an argument cannot be used.
        DataError: If an input does not exist or a folder contains no images.
        ModelError: If the model cannot be read.
        OutputError: If two images would get one map or a map exists and ``force`` is off (nothing was written
            then), or if a map cannot be written.

    Example:
        >>> folder = make_dataset("scenes", scenes=3, size=64)
        >>> prediction = lc.predict([folder], "starter", "maps")
        >>> len(prediction.maps), prediction.failed
        (3, {})
    """
    options = options or PredictOptions()
    if out is None:
        if options.mosaic is None:
            raise UsageError("No output. Pass --out FOLDER, or --mosaic FILE for one map of all inputs.")
        out = options.mosaic.parent
    tasks, planned = None, (0.0, 0)
    if model == AUTO:
        starter = read_card("starter")
        planned = starter.preprocessing.gsd, starter.window_px
        tasks = plan(inputs, Path(out), options, model_gsd=planned[0], window_px=planned[1])
        model = choose_model(tasks, options, model_gsd=planned[0])
    opened = (
        open_model(model, device=device, runtime=runtime, threads=threads, precision=precision)
        if isinstance(model, str | Path)
        else model
    )
    check_windows(opened.card, options.window_px, options.overlap_px)
    options = options.for_model(opened.card)
    result = Prediction(
        opened.card.legend,
        model=str(model) if isinstance(model, str | Path) else "in memory",
        model_sha256=model_digest(model) if isinstance(model, str | Path) else None,
        model_gsd=opened.card.preprocessing.gsd,
        runtime=opened.name,
        device=opened.device,
        licence=opened.card.licence,
        views=options.views or 1,
        has_profile=opened.card.imagery is not None,
    )
    if options.resume and result.model_sha256 is None:
        raise UsageError("--resume needs a model file: maps of a model in memory cannot be identified.")
    if options.vector is not None:
        with needs("vector"):
            from landcover.io.vectors import vector_driver
        vector_driver(Path(f"map.{options.vector}"))
    if tasks is None or planned != (result.model_gsd, opened.card.window_px):
        window_px = opened.card.window_px
        tasks = plan(inputs, Path(out), options, model_gsd=result.model_gsd, window_px=window_px)
    _log.info("Model: %s, on %s (%s).", result.model, result.runtime, result.device)
    tags = provenance(opened, result.model_sha256, options, precision)
    if options.resume:
        found = [read_kept(task, options, tags, result.legend) for task in tasks]
        result.kept = [made for made in found if made is not None]
        tasks = [task for task, made in zip(tasks, found, strict=True) if made is None]
        for task in tasks:
            if task.map.exists():
                _log.info("%s is made again: its neighbours or the files beside it are others now.", task.map)
    identified = result.model_sha256 is not None
    if options.jobs > 1 and len(tasks) > 1 and isinstance(model, str | Path):
        jobs = min(options.jobs, len(tasks))
        each = threads or max(1, processors() // jobs)
        open_again = partial(
            open_model, model, device=device, runtime=runtime, threads=each, precision=precision
        )
        engine: Engine = LocalEngine(partial(_Mapper, open_again, options, tags), jobs)
    else:
        alone = len(tasks) == 1
        engine = ThisProcess(_Mapper(lambda: opened, options, tags, resumes=identified, alone=alone))
    try:
        _make(engine, tasks, options, result)
    finally:
        engine.close()
    result.repeated = _count_repeated(result.all)
    return result


def _count_repeated(made: Sequence[MadeMap]) -> dict[Path, ClassAreas]:
    """Return the areas of GeoTIFF maps on ground of an earlier map, by their paths."""
    placed = [
        (one, place)
        for one in made
        if (place := one.place.georeference) is not None and one.task.map.suffix != ".png"
    ]
    repeated: dict[Path, ClassAreas] = {}
    try:
        for number, row, index in repeated_rows([(one.task.map, place) for one, place in placed]):
            one, _ = placed[number]
            if one.task.map not in repeated:
                repeated[one.task.map] = one.areas.empty()
            repeated[one.task.map].add(row, index)
    except MaskError as error:
        _log.warning("Ground that several maps cover counts several times in the totals: %s", error)
        return {}
    return repeated


class _Mapper:
    """Makes maps, one after the other, with the model that ``open_runtime`` returns in this process.

    With ``resumes`` a map of these tags that exists is kept: the model is identified by them. ``alone``:
    there is one scene, whose progress is shown.
    """

    def __init__(
        self,
        open_runtime: Callable[[], Runtime],
        options: PredictOptions,
        tags: Mapping[str, str],
        *,
        resumes: bool = True,
        alone: bool = False,
    ) -> None:
        self._runtime, self._options, self._tags = open_runtime(), options, tags
        self._resumes, self._alone = resumes, alone

    def __call__(self, task: Task) -> MadeMap | LandcoverError:
        """Return the map of a scene, or why there is none."""
        runtime, options, tags = self._runtime, self._options, self._tags

        def progress(blocks: Iterable[RowBlock], total: int) -> Iterable[RowBlock]:
            return track(blocks, Path(task.name).name, total=total) if self._alone else blocks

        try:
            with locked_file(task.map):
                if self._resumes and not options.force:
                    made = read_kept(task, options, tags, runtime.card.legend)
                    if made is not None:
                        return made  # another process made it meanwhile
                inputs, gsd = Inputs(task, options), runtime.card.preprocessing.gsd
                with ThreadPoolExecutor(1) as pool, foreign_errors(partial(unreadable, task)):
                    pool.submit(getattr, inputs, "digests")  # while the scene is decoded
                    with open_imagery(task, options, gsd) as imagery:
                        return make_map(
                            runtime, task, imagery, options, inputs=inputs, tags=tags, progress=progress
                        )
        except LandcoverError as error:
            return error


def _make(engine: Engine, tasks: Sequence[Task], options: PredictOptions, result: Prediction) -> None:
    """Make the maps and add them, or errors, to ``result``; stop if nothing more can be written."""
    left, busy, flight, is_last_round = deque(tasks), deque[Task](), dict[str, Task](), False

    def take() -> tuple[str, Task] | None:
        nonlocal left, busy, is_last_round
        if not left and not flight and not is_last_round:
            left, busy, is_last_round = busy, deque(), True
        if not left:
            return None
        task = left.popleft()
        flight[str(task.map)] = task
        return str(task.map), task

    def ended() -> Iterator[tuple[Task, MadeMap | LandcoverError]]:
        for one in filter(None, work_through(engine, take)):
            task, outcome = flight.pop(one[0]), one[1]
            if isinstance(outcome, LockedError) and not is_last_round:
                busy.append(task)  # another process is making it: take the next one, and look again then
            else:
                yield task, outcome

    def fail(task: Task, reason: object) -> None:
        result.failed[task.name] = str(reason)
        _log.warning("%d of %d: skipped. %s", done, len(tasks), reason)

    order = {task.map: number for number, task in enumerate(tasks)}
    done, began = 0, time.monotonic()
    for task, outcome in track(ended(), "Predicting", total=len(tasks)) if len(tasks) > 1 else ended():
        done += 1
        if isinstance(outcome, MadeMap):
            (result.kept if outcome.kept else result.maps).append(outcome)
            how = "mapped by another process" if outcome.kept else f"mapped, {time.monotonic() - began:.1f} s"
            _log.info("%d of %d: %s %s", done, len(tasks), task.name, how)
        elif not isinstance(outcome, DataError | UsageError | OutputError | OutOfMemoryError | FleetError):
            raise outcome
        else:
            lost = isinstance(outcome, FleetError)
            why = (
                f"{task.name}: {outcome}. Is there enough memory? Pass a smaller --jobs." if lost else outcome
            )
            fail(task, why)
            if isinstance(outcome, OutputError) and not isinstance(outcome, LockedError | OutputLostError):
                for other in (*flight.values(), *left, *busy):  # the disk is full, for example
                    done += 1
                    fail(other, f"{other.name}: skipped because the run was stopped.")
                break
        began = time.monotonic()
    result.failed = {task.name: result.failed[task.name] for task in tasks if task.name in result.failed}
    written, result.maps = sorted(result.maps, key=lambda made: order[made.task.map]), []
    for made_map in written:
        if all(map(Path.is_file, products(made_map.task, options))):
            result.maps.append(made_map)
            continue
        reason = f"{made_map.task.map}, or a file beside it, was removed after it was written."
        result.failed[made_map.task.name] = reason
        _log.warning("%s", reason)


def unreadable(task: Task, reason: str) -> DataError:
    """Return the error about a scene that a library cannot read."""
    return DataError(f"{task.name} cannot be read: {reason}. If it is damaged or incomplete, copy it again.")


def provenance(
    runtime: Runtime, sha256: str | None, options: PredictOptions, precision: Precision
) -> dict[str, str]:
    """Return the provenance of a map as tags; make_map adds those of the scene."""
    region = None
    if options.min_region is not None:
        region = str(replace(options.min_region, strict=options.min_region_strict))
    tags = {
        "LANDCOVER_VERSION": __version__,
        "LANDCOVER_MODEL_SHA256": sha256,
        "LANDCOVER_MODEL_GSD": f"{runtime.card.preprocessing.gsd:g}",
        "LANDCOVER_RUNTIME": f"{runtime.name} {precision}",
        "LANDCOVER_VIEWS": str(options.views or runtime.card.views),
        "LANDCOVER_MODEL_LICENCE": runtime.card.licence or None,
        "LANDCOVER_MIN_REGION": region,
    }
    return {name: value for name, value in tags.items() if value is not None}


def read_kept(task: Task, options: PredictOptions, tags: Mapping[str, str], legend: Legend) -> MadeMap | None:
    """Return an existing map with its areas, as if it had been made now; None if it must be made.

    Raises:
        OutputError: If there is a map of that name from another model, scene or options.
        DataError: If the map cannot be read.
    """
    if not task.map.exists():
        return None
    inputs = Inputs(task, options)
    try:
        expected: dict[str, str | None] = {**tags, CONTEXT: None, **inputs.digests}
    except ImageError:
        return None  # reported when it is read
    if task.scale is not None and task.scale.source != "raster":
        expected["LANDCOVER_GSD"] = str(task.scale)

    def is_current(found: Mapping[str, str]) -> bool:
        names = [name for name, value in expected.items() if found.get(name) != value]
        if names == [CONTEXT]:  # its neighbours are others, or not read
            return False
        if names:
            raise _made_otherwise(task, names)
        made_ns = task.map.stat().st_mtime_ns
        for path, size, changed_ns in inputs.states:
            if size > SAMPLES * SAMPLE_BYTES and changed_ns > made_ns:
                if path not in inputs.own:
                    return False
                raise OutputError(
                    f"{path} was changed after {task.map} was made. Choose another --out, or pass --force "
                    "instead of --resume."
                )
        return True

    if not all(path.exists() for path in products(task, options)):
        is_current(read_map_tags(task.map))
        return None
    try:
        with open_map_file(task.map, legend) as opened:
            if not is_current(opened.tags):
                return None
            match = _GSD.fullmatch(opened.tags.get("LANDCOVER_GSD", ""))
            if match is None or match[2] not in get_args(GsdSource):
                raise _made_otherwise(task, ["LANDCOVER_GSD"])
            scale = Scale(float(match[1]), cast(GsdSource, match[2]))
            place = opened.place
            if (known := task.place) and known.georeference and not place.georeference and place.transform:
                # A world file has no CRS: it is that of the scene.
                place = Georeference(*place.size, place.transform, known.georeference.crs)
            areas = ClassAreas(legend, pixel_areas(place, scale))
            if options.zones is not None and place.georeference is not None:
                areas.add_zones(options.zones, options.zone_column, place.georeference, options.zones_layer)
            for row, strip in opened.strips:
                areas.add(row, strip)
    except MaskError:
        if not is_current(read_map_tags(task.map)):  # it may be a map of other classes
            return None
        raise
    damaged = tuple(Window(*window) for window in json.loads(opened.tags.get("LANDCOVER_DAMAGED", "[]")))
    stored = json.loads(opened.tags.get(NOTES, "[]"))
    notes = tuple(printable(str(note)).replace(IMAGE, task.name) for note in stored)
    ood = read_ood(opened.tags.get(UNLIKE, ""))
    return MadeMap(task, place, scale, areas, damaged, notes, ood, kept=True)


def _made_otherwise(task: Task, tags: Sequence[str]) -> OutputError:
    return OutputError(
        f"{task.map} was made by another model, of another scene or with other options (its tags "
        f"{', '.join(tags)} differ). Choose another --out, or pass --force instead of --resume."
    )


def read_ood(text: str) -> OodReport | None:
    """Return the out-of-distribution report in a tag; None if it contains something else."""
    try:
        found = TypeAdapter(OodReport).validate_json(text)
    except ValueError:
        return None
    return replace(found, reasons=tuple(map(printable, found.reasons))) if 0 <= found.share <= 1 else None
