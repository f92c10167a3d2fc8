"""The verb: images and scenes to maps."""

import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from landcover import __version__
from landcover.data.parallel import parallel_map
from landcover.errors import DataError, LandcoverError, OutputError, UsageError
from landcover.extras import needs
from landcover.inference.auto import choose_model
from landcover.inference.engine import Band
from landcover.inference.grid import check_windows
from landcover.inference.kept import is_made, read_made
from landcover.inference.options import PredictOptions
from landcover.inference.plan import Task, plan
from landcover.inference.results import MadeMap, Prediction
from landcover.inference.scene import make_map
from landcover.inference.upsampling import Float32Array
from landcover.legend import UInt8Array
from landcover.model.bundled import AUTO
from landcover.model.card import model_digest
from landcover.model.runtimes import Runtime, open_model
from landcover.progress import track

if TYPE_CHECKING:
    from landcover.model.card import ModelCard


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
    )
    if options.resume and result.model_sha256 is None:
        raise UsageError("Maps of a model in memory cannot be told from others: --resume needs a model file.")
    if options.vector is not None:
        with needs("vector"):
            from landcover.io.vectors import vector_driver
        vector_driver(Path(f"map.{options.vector}"))
    tasks = plan(inputs, Path(out), options, model_gsd=result.model_gsd)
    print(f"Model: {result.model}, on {result.runtime} ({result.device}).", file=sys.stderr)
    _tell_assumed(tasks, result.model_gsd)
    tags = _provenance(result, options, precision)
    if options.resume:
        kept = [task for task in tasks if is_made(task, options, tags)]
        result.kept = [read_made(task, options, result.legend) for task in kept]
        tasks = [task for task in tasks if task not in kept]
    _make(_Shared(opened), tasks, options, tags, result)
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

    def watched(task: Task, bands: Iterable[Band], total: int) -> Iterator[Band]:
        for band in track(bands, Path(task.name).name, total=total) if alone else bands:
            if stopped.is_set():
                raise KeyboardInterrupt
            yield band

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
        for task, outcome in zip(tasks, outcomes, strict=True):
            if isinstance(outcome, MadeMap):
                result.maps.append(outcome)
            else:
                result.failed[task.name] = str(outcome or f"{task.name}: not mapped, as work has stopped.")
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
        "LANDCOVER_MIN_REGION": options.min_region,
    }
    return {name: value for name, value in tags.items() if value is not None}


def _tell_assumed(tasks: Sequence[Task], model_gsd: float) -> None:
    assumed = [task.name for task in tasks if task.gsd_source == "assumed"]
    if assumed:
        print(
            f"Note: nothing tells the scale of {len(assumed)} of {len(tasks)} images, such as {assumed[0]}; "
            f"the model's {model_gsd:g} m per pixel is assumed. If that is wrong, pass --gsd.",
            file=sys.stderr,
        )
