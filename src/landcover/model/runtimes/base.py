"""The interface of all runtimes, and the checks that they share."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal, Protocol

import numpy as np

from landcover._typing import Float32Array, UInt8Array
from landcover.errors import ModelError, UsageError
from landcover.model.card import ModelCard

Precision = Literal["fp32", "bf16"]
"""Number format of layers that are not quantised."""

PROBABILITIES, COARSE = OUTPUTS = ("probabilities", "coarse")
PROBE_PX = 64
"""Side of the image with which :func:`checked_stride` checks the outputs' shapes."""

_INPUTS = {"image": "float32 (?, 3, ?, ?)"}


class Runtime(Protocol):
    """A model on a device: uint8 pixels in, probabilities out.

    The runtime applies normalisation and temperature. The arrays that it returns belong to the caller: no
    later call changes them. Only one thread may call it at a time.
    """

    @property
    def card(self) -> ModelCard:
        """Everything about the model except its weights."""

    @property
    def name(self) -> str:
        """The library that computes: ``"openvino"``, ``"onnxruntime"`` or ``"torch"``."""

    @property
    def device(self) -> str:
        """Where it computes, such as ``"cpu"`` or ``"cuda:0"``."""

    @property
    def stride(self) -> int:
        """Pixels of the image, along each axis, per value of :meth:`coarse`."""

    def probabilities(self, batch: UInt8Array) -> Float32Array:
        """Classify images at the model's ground sample distance.

        Args:
            batch: uint8 (N, H, W, 3), RGB.

        Returns:
            float32 (N, C, H, W), contiguous; over C, the scored classes of the card's legend, it sums to one.

        Raises:
            UsageError: If the batch has another type or shape, or no pixel.
        """

    def coarse(self, batch: UInt8Array) -> Float32Array:
        """Classify as :meth:`probabilities`, but at the decoder's stride, without upsampling.

        Row ``i`` covers the image's rows from ``i * stride`` up to ``(i + 1) * stride``.

        Args:
            batch: uint8 (N, H, W, 3), RGB.

        Returns:
            float32 (N, C, ceil(H / stride), ceil(W / stride)), contiguous, summing to one over C.

        Raises:
            UsageError: If the batch has another type or shape, or no pixel.
        """


class CheckedRuntime(ABC):
    """Both methods of a :class:`Runtime` by one that computes an output of a checked batch."""

    def probabilities(self, batch: UInt8Array) -> Float32Array:
        """Classify uint8 (N, H, W, 3) images; see :meth:`Runtime.probabilities`."""
        return self._checked(PROBABILITIES, batch)

    def coarse(self, batch: UInt8Array) -> Float32Array:
        """Classify at the decoder's stride; see :meth:`Runtime.coarse`."""
        return self._checked(COARSE, batch)

    def _checked(self, output: str, batch: UInt8Array) -> Float32Array:
        if batch.dtype != np.uint8 or batch.ndim != 4 or batch.shape[3] != 3 or batch.size == 0:
            raise UsageError(
                f"The batch is {batch.dtype} {batch.shape}; expected a batch of RGB images: uint8 "
                "(N, H, W, 3), each side at least 1. Scale other imagery to 0..255 first."
            )
        return self._run(output, batch)

    @abstractmethod
    def _run(self, output: str, batch: UInt8Array) -> Float32Array:
        """Compute one of :data:`OUTPUTS`."""


def signature(dtype: str, shape: Iterable[int | str | None]) -> str:
    """Write a tensor's type as text, ``?`` for a free size: ``float32 (?, 3, ?, ?)``."""
    return f"{dtype} ({', '.join(str(size) if isinstance(size, int) else '?' for size in shape)})"


def check_signatures(path: Path, inputs: Mapping[str, str], outputs: Collection[str]) -> None:
    """Check an exported model's inputs, by name and :func:`signature`, and the names of its outputs.

    Raises:
        ModelError: If the one input is not ``image`` of any size, or an output is missing.
    """
    if dict(inputs) != _INPUTS or not set(OUTPUTS) <= set(outputs):
        found, expected = (
            ", ".join(f"{name}: {text}" for name, text in each.items()) or "nothing"
            for each in (inputs, _INPUTS)
        )
        raise ModelError(
            f"{path} takes {found} and returns {', '.join(outputs) or 'nothing'}; expected {expected} and "
            f"{', '.join(OUTPUTS)}. A model exported with --for qgis differs on purpose; export the run "
            "again without it."
        )


def checked_stride(path: Path, card: ModelCard, shapes: Mapping[str, Sequence[int]]) -> int:
    """Check the shapes of both outputs and return the stride of the coarse one.

    The shapes are those for one image of :data:`PROBE_PX` x :data:`PROBE_PX`.

    Raises:
        ModelError: If the channels are not the card's scored classes, or the sizes do not fit the image.
    """
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
