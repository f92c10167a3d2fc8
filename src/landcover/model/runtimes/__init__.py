"""Runtimes of models: one interface for OpenVINO, onnxruntime and torch, and the checks that they share."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from landcover._typing import Float32Array, UInt8Array
from landcover.errors import ModelError, OutOfMemoryError, UsageError, did_you_mean
from landcover.extras import needs
from landcover.machine import lacks_memory
from landcover.model.card import ModelCard, is_exported, resolve_model

Name = Literal["openvino", "onnxruntime", "torch"]

DEFAULT_CACHE: ContextVar[Path | None] = ContextVar("DEFAULT_CACHE", default=None)
"""Folder of compiled graphs if ``open_model`` is called without one; the command line sets it."""

Precision = Literal["fp32", "bf16"]
"""Number format of layers that are not quantised."""

PROBABILITIES, COARSE = OUTPUTS = ("probabilities", "coarse")
PROBE_PX = 64
"""Side of the image with which :func:`checked_stride` checks the outputs' shapes."""

INPUT = "image"
STANDARDISED = "standardised"
"""Name of an input that the caller has normalised; another name, so that no runtime confuses them."""


class Runtime(ABC):
    """A model on a device: uint8 pixels in, probabilities out.

    The runtime applies normalisation and temperature. The arrays that it returns belong to the caller: no
    later call changes them. Only one thread may call it at a time.
    """

    card: ModelCard
    name: str
    """The library that computes: ``"openvino"``, ``"onnxruntime"`` or ``"torch"``."""
    device: str
    """Where it computes, such as ``"cpu"`` or ``"cuda:0"``."""
    stride: int
    """Pixels of the image, along each axis, per value of :meth:`coarse`."""

    def probabilities(self, batch: UInt8Array) -> Float32Array:
        """Classify images of the card's bands, uint8 (N, H, W, B), at the model's ground sample distance.

        Returns:
            float32 (N, C, H, W), contiguous; over C, the scored classes of the card's legend, it sums to one.
        """
        return self._checked(PROBABILITIES, batch)

    def coarse(self, batch: UInt8Array) -> Float32Array:
        """Classify as :meth:`probabilities`, but at the decoder's stride, without upsampling.

        Row ``i`` of (N, C, ceil(H / stride), ceil(W / stride)) covers the image's rows from ``i * stride`` up
        to ``(i + 1) * stride``.
        """
        return self._checked(COARSE, batch)

    def _checked(self, output: str, batch: UInt8Array) -> Float32Array:
        bands = self.card.preprocessing.bands
        if batch.dtype != np.uint8 or batch.shape[3:] != (len(bands),) or batch.size == 0:
            raise UsageError(
                f"The batch is {batch.dtype} {batch.shape}; expected images of {', '.join(bands)}: uint8 "
                f"(N, H, W, {len(bands)}), each side at least 1. Scale other imagery to 0..255 first."
            )
        return self._run(output, batch)

    @abstractmethod
    def _run(self, output: str, batch: UInt8Array) -> Float32Array:
        """Compute one of :data:`OUTPUTS` of a checked batch."""


@contextmanager
def model_errors(
    path: Path, library: str, reason: Callable[[str], str], *kinds: type[Exception], advice: str = ""
) -> Iterator[None]:
    """Turn some errors of a library into a ModelError of one line, or an OutOfMemoryError.

    ``reason`` finds the reason in the library's message; ``advice`` is what else to do about it.
    """
    try:
        yield
    except kinds as error:
        if lacks_memory(error):
            raise OutOfMemoryError(
                f"{path} requests more memory than the system gives. Pass a smaller --window, --batch 1 or "
                "another model."
            ) from error
        raise ModelError(
            f"{path} cannot be run by {library}: {reason(str(error).strip())}. Export the run again{advice}."
        ) from error


def signature(dtype: str, shape: Iterable[int | str | None]) -> str:
    """Write a tensor's type as text, ``?`` for a free size: ``float32 (?, 3, ?, ?)``."""
    return f"{dtype} ({', '.join(str(size) if isinstance(size, int) else '?' for size in shape)})"


def check_signatures(
    path: Path, card: ModelCard, inputs: Mapping[str, str], outputs: Collection[str]
) -> None:
    """Check an exported model's inputs, by name and :func:`signature`, and the names of its outputs."""
    wanted = {INPUT: signature("float32", (None, card.preprocessing.channels, None, None))}
    if dict(inputs) != wanted or not set(OUTPUTS) <= set(outputs):
        found, expected = (
            ", ".join(f"{name}: {text}" for name, text in each.items()) or "nothing"
            for each in (inputs, wanted)
        )
        raise ModelError(
            f"{path} takes {found} and returns {', '.join(outputs) or 'nothing'}; expected {expected} and "
            f"{', '.join(OUTPUTS)}. A model exported with --for qgis differs on purpose; export the run "
            "again without it."
        )


def checked_stride(path: Path, card: ModelCard, shapes: Mapping[str, Sequence[int]]) -> int:
    """Check the shapes of both outputs for an image of :data:`PROBE_PX`; return the stride of ``coarse``."""
    classes = len(card.legend.scored)
    side = shapes[COARSE][-1] if shapes[COARSE] else 0
    for name, size in ((PROBABILITIES, PROBE_PX), (COARSE, side)):
        if not size or PROBE_PX % size or tuple(shapes[name]) != (1, classes, size, size):
            divisor = "a divisor of " if name == COARSE else ""
            raise ModelError(
                f"For an image of {PROBE_PX} x {PROBE_PX} px {path} returns {name} of {tuple(shapes[name])}; "
                f"expected 1 image, the {classes} scored classes of its card, and {divisor}{PROBE_PX} rows "
                "and columns. Card and graph do not belong together; export the run again."
            )
    return PROBE_PX // side


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

    Arguments and errors as of :func:`landcover.open_model`. The device ``"auto"`` is the CPU for an exported
    model, and CUDA if available for a checkpoint. torch has one number of threads for the whole process.
    ``"bf16"`` is about twice as fast on processors that support it, and less exact; onnxruntime only has
    ``"fp32"``. ``cache`` keeps graphs compiled by OpenVINO between processes, by default
    :data:`DEFAULT_CACHE`.
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
    """Return the library that runs a model file, by its name alone, whatever is installed.

    Checkpoints run on torch. Exported models run on OpenVINO, the fastest on CPUs, and on onnxruntime if the
    device is CUDA or it is chosen by name. Raises UsageError for an unknown or unsupported runtime or device.
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
