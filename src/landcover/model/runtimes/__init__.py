"""Runtimes of models: one interface for OpenVINO, onnxruntime and torch."""

from contextvars import ContextVar
from pathlib import Path
from typing import Literal, get_args

from landcover.errors import UsageError, did_you_mean
from landcover.extras import needs
from landcover.model.card import is_exported, resolve_model
from landcover.model.runtimes.base import Precision, Runtime

__all__ = ["Runtime", "choose_runtime", "open_model"]

Name = Literal["openvino", "onnxruntime", "torch"]

DEFAULT_CACHE: ContextVar[Path | None] = ContextVar("DEFAULT_CACHE", default=None)
"""Folder of compiled graphs if ``open_model`` is called without one; the command line sets it."""


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
        path: A model file, run folder or bundled model.
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:1"``. Auto is the CPU for an exported model, and
            CUDA if available for a checkpoint.
        runtime: ``"auto"`` or the library that computes, see :func:`choose_runtime`.
        threads: Threads on a CPU; None: the library's choice. torch has one number for the whole process.
        precision: Number format of layers that are not quantised. ``"bf16"`` is about twice as fast on
            processors that support it, and less exact; onnxruntime only has ``"fp32"``.
        cache: Folder that keeps graphs compiled by OpenVINO between processes, such as
            :func:`landcover.model.cache.cache_folder`. None: :data:`DEFAULT_CACHE`, by default no cache.

    Raises:
        ModelError: If the file is missing, cut short or not a model, or its graph and card do not fit.
        UsageError: If the device or runtime is unknown, not available or not for this file, or ``threads`` is
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
    """Return the library that runs a model file, whatever is installed.

    Checkpoints run on torch. Exported models run on OpenVINO, the fastest on CPUs, and on onnxruntime if the
    device is CUDA or it is chosen by name.

    Only the file's name matters; ``device`` and ``runtime`` as for :func:`open_model`.

    Raises:
        UsageError: If the runtime is unknown, or does not support such a file or device.
    """
    known = ("auto", *get_args(Name))
    if runtime not in known:
        raise UsageError(f"Unknown runtime {runtime!r}. {did_you_mean(runtime, known)}")
    if not is_exported(file):
        if runtime in ("auto", "torch"):
            return "torch"
        raise UsageError(
            f"{file} is a checkpoint, which runs on torch; {runtime} runs exported models. Export it first: "
            "landcover export RUN --out MODEL.onnx"
        )
    if runtime == "torch":
        raise UsageError(
            f"{file} is an exported model, which torch cannot run. Use the runtime openvino or onnxruntime, "
            "or pass the run folder that it was exported from."
        )
    if runtime == "onnxruntime" or (runtime == "auto" and device.partition(":")[0] == "cuda"):
        return "onnxruntime"
    if device not in ("auto", "cpu"):
        raise UsageError(
            f"OpenVINO runs models on the cpu; found the device {device!r}. Use cpu, or cuda with the "
            "runtime onnxruntime."
        )
    return "openvino"
