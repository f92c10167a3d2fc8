"""A model that runs: one interface, whatever library computes."""

from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from landcover.errors import UsageError, did_you_mean
from landcover.extras import lazy_names, needs
from landcover.model.card import is_exported, resolve_model
from landcover.model.runtimes.base import Precision, Runtime

if TYPE_CHECKING:
    from landcover.model.runtimes.onnx_runtime import ONNXRuntime
    from landcover.model.runtimes.openvino_runtime import OpenVINORuntime
    from landcover.model.runtimes.torch_runtime import TorchRuntime

__all__ = ["ONNXRuntime", "OpenVINORuntime", "Runtime", "TorchRuntime", "choose_runtime", "open_model"]

Name = Literal["openvino", "onnxruntime", "torch"]

DEFAULT_CACHE: ContextVar[Path | None] = ContextVar("DEFAULT_CACHE", default=None)
"""Folder of compiled graphs where ``open_model`` gets none; the command line sets it."""

_NAMES: tuple[Name, ...] = ("openvino", "onnxruntime", "torch")
__getattr__ = lazy_names(
    __name__,
    {
        "ONNXRuntime": "onnx_runtime",
        "OpenVINORuntime": "openvino_runtime",
        "TorchRuntime": "torch_runtime",
    },
    extra="train",  # torch alone is imported by its module
)


def open_model(
    path: str | Path,
    *,
    device: str = "auto",
    runtime: str = "auto",
    threads: int | None = None,
    precision: Precision = "fp32",
    cache: Path | None = None,
) -> Runtime:
    """Load an exported model, a checkpoint, or the best model of a run folder, ready to predict.

    Args:
        path: A model file or run folder.
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:1"``. Auto is the CPU for an exported model, and
            CUDA where there is one for a checkpoint.
        runtime: ``"auto"`` or the library that is to compute, see :func:`choose_runtime`.
        threads: Threads to compute with on a CPU; the library's choice where None. Torch knows one number for
            the whole process.
        precision: What the layers that are not quantised compute in. ``"bf16"`` is about twice as fast on
            processors made for it, and less exact; onnxruntime has ``"fp32"`` only.
        cache: Folder that keeps graphs compiled by OpenVINO between processes, such as
            :func:`landcover.model.cache.cache_folder`. None: no cache. Only the command line sets one by
            itself (:data:`DEFAULT_CACHE`).

    Raises:
        ModelError: If the file is missing, cut short or no model, or its graph and card do not fit.
        UsageError: If the device or runtime is unknown, not there or not for this file, or ``threads`` is
            below 1.
        MissingExtraError: If the library is not installed.
    """
    if threads is not None and threads < 1:
        raise UsageError(f"A model cannot run on {threads} threads; expected 1 or more.")
    file = resolve_model(path)
    chosen = choose_runtime(file, device=device, runtime=runtime)
    if chosen == "openvino":
        from landcover.model.runtimes.openvino_runtime import OpenVINORuntime

        return OpenVINORuntime(file, threads=threads, precision=precision, cache=cache or DEFAULT_CACHE.get())
    if chosen == "onnxruntime":
        if precision != "fp32":
            raise UsageError(f"onnxruntime computes in fp32, not in {precision}; use the runtime openvino.")
        from landcover.model.runtimes.onnx_runtime import ONNXRuntime

        return ONNXRuntime(file, device=device, threads=threads)
    with needs("train"):
        from landcover.model.runtimes.torch_runtime import load
    return load(file, device=device, threads=threads, precision=precision)


def choose_runtime(file: Path, *, device: str = "auto", runtime: str = "auto") -> Name:
    """Return the library that runs a model file: a rule, whatever is installed.

    Torch runs checkpoints. Exported models run on OpenVINO, which is the fastest on CPUs, and on onnxruntime
    where CUDA is asked for, or it by name.

    Args:
        file: A model file; only its name is looked at.
        device: As for :func:`open_model`.
        runtime: ``"auto"`` or the library's name.

    Raises:
        UsageError: If the runtime is unknown, or is not for such a file or device.
    """
    if runtime not in ("auto", *_NAMES):
        raise UsageError(f"There is no runtime {runtime!r}. {did_you_mean(runtime, ('auto', *_NAMES))}")
    if not is_exported(file):
        if runtime in ("auto", "torch"):
            return "torch"
        raise UsageError(
            f"{file} is a checkpoint, which torch runs; {runtime} runs exported models. Export it first: "
            "landcover export RUN --out MODEL.onnx"
        )
    if runtime == "torch":
        raise UsageError(
            f"{file} is an exported model, which torch does not run. Use the runtime openvino or "
            "onnxruntime, or give the run folder that it was exported from."
        )
    if runtime == "onnxruntime" or (runtime == "auto" and device.partition(":")[0] == "cuda"):
        return "onnxruntime"
    if device not in ("auto", "cpu"):
        raise UsageError(
            f"OpenVINO runs models on the cpu; found the device {device!r}. Use cpu, or cuda with the "
            "runtime onnxruntime."
        )
    return "openvino"
