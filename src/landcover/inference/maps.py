"""Predict: images and scenes to maps."""

import json
import logging
import re
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast, get_args

import numpy as np

from landcover import __version__
from landcover._typing import Float32Array, UInt8Array
from landcover.errors import DataError, LandcoverError, MaskError, OutputError, UsageError, printable
from landcover.extras import needs
from landcover.inference.auto import choose_model
from landcover.inference.engine import RowBlock
from landcover.inference.grid import check_windows
from landcover.inference.options import PredictOptions
from landcover.inference.plan import Task, plan, products
from landcover.inference.results import MadeMap, Prediction
from landcover.inference.scene import UNLIKE, WORK, make_map, work_digest
from landcover.io.readahead import parallel_map
from landcover.legend import Legend
from landcover.model.bundled import AUTO
from landcover.model.card import model_digest
from landcover.model.runtimes import Runtime, open_model
from landcover.ood import OodReport
from landcover.progress import track
from landcover.raster import row_areas
from landcover.raster.mapfiles import MapReader, open_map_file, read_map_tags
from landcover.raster.zonal import ClassAreas, read_zones
from landcover.scale import GsdSource
from landcover.windows import Window

if TYPE_CHECKING:
    from landcover.model.card import ModelCard

_log = logging.getLogger(__name__)

_GSD = re.compile(r"(\S+) \((.+)\)")


def predict(
    inputs: Sequence[str | Path],
    model: str | Path | Runtime,
    out: str | Path,
    options: PredictOptions | None = None,
    *,
    device: str = "auto",
    runtime: str = "auto",
    threads: int | None = None,
    precision: Literal["fp32", "bf16"] = "fp32",
) -> Prediction:
    """Make a land-cover map of every image or scene, of any size, by windows.

    Georeferenced images become GeoTIFFs ``NAME_mask.tif`` with the same CRS and transform, all others
    ``NAME_mask.png``, both on the image's own grid; ``_sat`` at the end of NAME is dropped. Folders below an
    input folder are kept. Where a file has no data (alpha 0, the raster's nodata value or mask) the map has
    none either. Images that cannot be read are skipped and told of in the result.

    Rasters are read by windows, and memory does not depend on their height; see
    :mod:`landcover.inference.engine`. JPEG, PNG and WebP files are held whole.

    Args:
        inputs: Image files, folders that are searched with their subfolders, and URLs of rasters.
        model: A model file, a run folder, the name of a bundled model, ``auto`` (the bundled model that suits
            the size of the job), or a runtime.
        out: Folder of the maps.
        options: How to read, classify and write; see :class:`PredictOptions`.
        device: Where to compute, unless ``model`` is a runtime.
        runtime: Which library computes, likewise.
        threads: With how many threads, likewise.
        precision: In which precision, likewise; see :func:`landcover.model.runtimes.open_model`.

    Raises:
        UsageError: If an argument cannot be used.
        DataError: If an input does not exist or a folder holds no images.
        ModelError: If the model cannot be read.
        OutputError: If two images would get one map or a map exists and ``force`` is off (nothing was written
            then), or if a map cannot be written.

    Example:
        >>> import landcover as lc
        >>> from landcover.data.synthetic import make_dataset
        >>> folder = make_dataset("scenes", scenes=3, size=64)
        >>> prediction = lc.predict([folder], "starter", "maps")
        >>> len(prediction.maps), prediction.failed
        (3, {})
    """
    options = options or PredictOptions()
    if model == AUTO:
        model = choose_model(inputs, Path(out), options)
    opened = (
        open_model(model, device=device, runtime=runtime, threads=threads, precision=precision)
        if isinstance(model, str | Path)
        else model
    )
    check_windows(opened.card, options.window_px, options.overlap_px)
    result = Prediction(
        opened.card.legend,
        model=str(model) if isinstance(model, str | Path) else "in memory",
        model_sha256=model_digest(model) if isinstance(model, str | Path) else None,
        model_gsd=opened.card.preprocessing.gsd,
        runtime=opened.name,
        device=opened.device,
        licence=opened.card.licence,
    )
    if options.resume and result.model_sha256 is None:
        raise UsageError("--resume needs a model file: maps of a model in memory cannot be identified.")
    if options.vector is not None:
        with needs("vector"):
            from landcover.io.vectors import vector_driver
        vector_driver(Path(f"map.{options.vector}"))
    tasks = plan(inputs, Path(out), options, model_gsd=result.model_gsd)
    _log.info("Model: %s, on %s (%s).", result.model, result.runtime, result.device)
    tags = _provenance(result, options, precision)
    if options.resume:
        found = [read_kept(task, options, tags, result.legend) for task in tasks]
        result.kept = [made for made in found if made is not None]
        tasks = [task for task, made in zip(tasks, found, strict=True) if made is None]
    _make(_Shared(opened) if options.jobs > 1 else opened, tasks, options, tags, result)
    return result


def _make(
    runtime: Runtime,
    tasks: Sequence[Task],
    options: PredictOptions,
    tags: dict[str, str],
    result: Prediction,
) -> None:
    """Make the maps, and note in ``result`` what became of each; stop where nothing more can be written."""
    stopped = threading.Event()
    alone = len(tasks) == 1

    def watched(task: Task, blocks: Iterable[RowBlock], total: int) -> Iterator[RowBlock]:
        for block in track(blocks, Path(task.name).name, total=total) if alone else blocks:
            if stopped.is_set():
                raise KeyboardInterrupt
            yield block

    def make(task: Task) -> MadeMap | LandcoverError | None:
        if stopped.is_set():
            return None
        try:
            return make_map(runtime, task, options, tags=tags, progress=partial(watched, task))
        except (DataError, UsageError) as error:
            return error
        except OutputError as error:  # such as a full disk, which the next one would meet too
            stopped.set()
            return error
        except KeyboardInterrupt:
            if options.jobs > 1 and stopped.is_set():
                return None
            raise

    try:
        made = (
            map(make, tasks)
            if options.jobs == 1
            else parallel_map(make, tasks, workers=options.jobs, stopped=stopped)
        )
        outcomes = made if alone else track(made, "Predicting", total=len(tasks))
        began = time.monotonic()
        for number, (task, outcome) in enumerate(zip(tasks, outcomes, strict=True), 1):
            count, took = f"{number} of {len(tasks)}", time.monotonic() - began
            if isinstance(outcome, MadeMap):
                result.maps.append(outcome)
                _log.info("%s: %s mapped, %.1f s", count, task.name, took)
            else:
                reason = str(outcome or f"{task.name}: skipped because the run was stopped.")
                result.failed[task.name] = reason
                _log.warning("%s: skipped. %s", count, reason)
            began = time.monotonic()
    finally:
        stopped.set()


@dataclass
class _Shared:
    """A runtime that several scenes use in turn."""

    runtime: Runtime
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def card(self) -> "ModelCard":
        return self.runtime.card

    @property
    def name(self) -> str:
        return self.runtime.name

    @property
    def device(self) -> str:
        return self.runtime.device

    @property
    def stride(self) -> int:
        return self.runtime.stride

    def probabilities(self, batch: UInt8Array) -> Float32Array:
        with self._lock:
            return self.runtime.probabilities(batch)

    def coarse(self, batch: UInt8Array) -> Float32Array:
        with self._lock:
            return self.runtime.coarse(batch)


def _provenance(result: Prediction, options: PredictOptions, precision: str) -> dict[str, str]:
    """Return what a map tells about its making, as tags; make_map adds what the scene tells."""
    tags = {
        "LANDCOVER_VERSION": __version__,
        "LANDCOVER_MODEL_SHA256": result.model_sha256,
        "LANDCOVER_MODEL_GSD": f"{result.model_gsd:g}",
        "LANDCOVER_RUNTIME": f"{result.runtime} {precision}",
        "LANDCOVER_MODEL_LICENCE": result.licence or None,
        "LANDCOVER_MIN_REGION": None if options.min_region is None else str(options.min_region),
    }
    return {name: value for name, value in tags.items() if value is not None}


def read_kept(task: Task, options: PredictOptions, tags: Mapping[str, str], legend: Legend) -> MadeMap | None:
    """Return what an existing map contains, as if it had been made now; None if it must be made.

    Raises:
        OutputError: If there is a map of that name, made by another model or with other options.
        DataError: If the map cannot be read.
    """
    if not all(path.exists() for path in products(task, options)):
        if task.map.exists():
            _check_tags(task, options, tags, read_map_tags(task.map))
        return None
    try:
        with open_map_file(task.map, legend) as opened:
            _check_tags(task, options, tags, opened.tags)
            return _as_made(task, options, opened, legend)
    except MaskError:
        _check_tags(task, options, tags, read_map_tags(task.map))  # it may not be our map at all
        raise


def _check_tags(
    task: Task, options: PredictOptions, tags: Mapping[str, str], found: Mapping[str, str]
) -> None:
    expected = {**tags, WORK: work_digest(task, options)}
    differing = [name for name, value in expected.items() if found.get(name) != value]
    if differing:
        raise OutputError(
            f"{task.map} was made by another model, of another scene or with other options (its tags "
            f"{', '.join(differing)} differ). Choose another --out, or pass --force instead of --resume."
        )


def _as_made(task: Task, options: PredictOptions, opened: MapReader, legend: Legend) -> MadeMap:
    tags, size, georeference = opened.tags, opened.size, opened.georeference
    found = _GSD.fullmatch(tags.get("LANDCOVER_GSD", ""))
    gsd, source = (float(found[1]), found[2]) if found else (task.gsd, task.gsd_source)
    gsd_source = cast(GsdSource, source if source in get_args(GsdSource) else task.gsd_source)
    true = None if georeference is None else row_areas(georeference, *size)
    if true is None and gsd_source != "assumed":
        true = np.full(size[0], gsd**2)
    areas, zones = ClassAreas(legend, true), None
    if options.zones is not None and georeference is not None:
        zones = read_zones(options.zones, options.zone_column, georeference, size, legend, true)
    for row, strip in opened.strips():
        areas.add(row, strip)
        if zones is not None:
            zones.add(row, strip)
    damaged = tuple(Window(*window) for window in json.loads(tags.get("LANDCOVER_DAMAGED", "[]")))
    of_zones = {} if zones is None else zones.zones
    ood = read_ood(tags.get(UNLIKE, ""))
    return MadeMap(task, size, gsd, gsd_source, areas, of_zones, damaged, ood=ood)


def read_ood(text: str) -> OodReport | None:
    """Return the out-of-distribution report in a map's tag; None if it contains something else."""
    try:
        data = json.loads(text)
        share, reasons = float(data["share"]), tuple(map(str, data["reasons"]))
    except (ValueError, TypeError, KeyError):
        return None
    return OodReport(share, tuple(map(printable, reasons))) if 0 <= share <= 1 else None
