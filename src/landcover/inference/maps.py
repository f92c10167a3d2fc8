"""The verb: images and scenes to maps."""

import sys
import threading
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import rasterio
from rasterio.errors import RasterioError

from landcover import __version__
from landcover.bundle import model_digest
from landcover.data.parallel import parallel_map
from landcover.errors import DataError, OutputError, UsageError
from landcover.inference.engine import Band
from landcover.inference.options import PredictOptions
from landcover.inference.plan import Task, plan, products
from landcover.inference.results import MadeMap, Prediction
from landcover.inference.scene import make_map
from landcover.inference.upsampling import Float32Array
from landcover.legend import UInt8Array
from landcover.progress import track
from landcover.runtimes import Runtime, open_model

if TYPE_CHECKING:
    from landcover.bundle import ModelCard


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
        model: A model file, a run folder, or a runtime.
        out: Folder of the maps.
        options: How to read, classify and write; see :class:`PredictOptions`.
        device: Where to compute, unless ``model`` is a runtime.
        runtime: Which library computes, likewise.
        threads: With how many threads, likewise.
        precision: In which precision, likewise; see :func:`landcover.runtimes.open_model`.

    Raises:
        UsageError: If an argument cannot be used.
        DataError: If an input does not exist or a folder holds no images.
        ModelError: If the model cannot be read.
        OutputError: If two images would get one map or a map exists and ``force`` is off (nothing was written
            then), or if a map cannot be written.
    """
    options = options or PredictOptions()
    opened = (
        open_model(model, device=device, runtime=runtime, threads=threads, precision=precision)
        if isinstance(model, str | Path)
        else model
    )
    result = Prediction(
        opened.card.legend,
        model=str(model) if isinstance(model, str | Path) else "in memory",
        model_sha256=model_digest(model) if isinstance(model, str | Path) else None,
        model_gsd=opened.card.preprocessing.gsd,
        runtime=opened.name,
        device=opened.device,
    )
    tasks = plan(inputs, Path(out), options, model_gsd=result.model_gsd)
    print(f"Model: {result.model}, on {result.runtime} ({result.device}).", file=sys.stderr)
    _tell_assumed(tasks, result.model_gsd)
    tags = _provenance(result, options)
    if precision != "fp32":
        tags["LANDCOVER_PRECISION"] = precision
    if options.resume:
        result.kept = [task.map for task in tasks if _is_made(task, options, tags)]
        tasks = [task for task in tasks if task.map not in set(result.kept)]

    def make(task: Task) -> MadeMap | DataError | UsageError:
        try:
            return make_map(shared, task, options, tags=tags, progress=bar)
        except (DataError, UsageError) as error:
            return error

    shared = _Shared(opened)
    alone = len(tasks) == 1
    bar = partial(_bar, tasks[0]) if alone else _no_bar
    made = map(make, tasks) if options.jobs == 1 else parallel_map(make, tasks, workers=options.jobs)
    outcomes = made if alone else track(made, "Predicting", total=len(tasks))
    for task, outcome in zip(tasks, outcomes, strict=True):
        if isinstance(outcome, MadeMap):
            result.maps.append(outcome)
        else:
            result.failed[task.image] = str(outcome)
    return result


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


def _bar(task: Task, bands: Iterable[Band], total: int) -> Iterable[Band]:
    return track(bands, Path(str(task.image)).name, total=total)


def _no_bar(bands: Iterable[Band], total: int) -> Iterable[Band]:
    return bands


def _is_made(task: Task, options: PredictOptions, tags: dict[str, str]) -> bool:
    """Return whether a map and all that belongs to it are there, made by the same model.

    Raises:
        OutputError: If there is a map that this model did not make.
    """
    if not task.map.exists():
        return False
    there: dict[str, str] = {}
    with suppress(RasterioError), rasterio.open(task.map) as source:
        there = source.tags()
    if any(there.get(name) != value for name, value in tags.items()):
        raise OutputError(
            f"{task.map} was made by another model or version, or in another way. Choose another --out, or "
            "replace it with --force in place of --resume."
        )
    return all(path.exists() for path in products(task, options))


def _provenance(result: Prediction, options: PredictOptions) -> dict[str, str]:
    """Return what a map tells about its making, as tags; its scale is added when it is known."""
    tags = {
        "LANDCOVER_VERSION": __version__,
        "LANDCOVER_MODEL_SHA256": result.model_sha256,
        "LANDCOVER_MODEL_GSD": f"{result.model_gsd:g}",
        "LANDCOVER_RUNTIME": result.runtime,
        "LANDCOVER_MIN_REGION": options.min_region,
    }
    return {name: value for name, value in tags.items() if value is not None}


def _tell_assumed(tasks: Sequence[Task], model_gsd: float) -> None:
    assumed = [task.image for task in tasks if task.gsd_source == "assumed"]
    if assumed:
        print(
            f"Note: nothing tells the scale of {len(assumed)} of {len(tasks)} images, such as {assumed[0]}; "
            f"the model's {model_gsd:g} m per pixel is assumed. If that is wrong, pass --gsd.",
            file=sys.stderr,
        )
