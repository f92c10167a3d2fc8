"""What prediction asks of a runtime."""

from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np

from landcover._typing import Float32Array, UInt8Array
from landcover.errors import UsageError

if TYPE_CHECKING:
    from landcover.model.card import ModelCard

Precision = Literal["fp32", "bf16"]
"""What layers that are not quantised compute in."""


class Runtime(Protocol):
    """A model on a device: uint8 pixels in, probabilities out.

    Normalisation and temperature are the runtime's job, so that no caller can forget them. The arrays that it
    returns are the caller's own: no later call changes them. One thread may call it at a time.
    """

    @property
    def card(self) -> "ModelCard":
        """Everything about the model but its weights."""

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
        """Classify images that have the model's ground sample distance already.

        Args:
            batch: uint8 (N, H, W, 3), RGB.

        Returns:
            float32 (N, C, H, W), contiguous; over C, the scored classes of the card's legend, it sums to one.

        Raises:
            UsageError: If the batch has another type or shape, or no pixel.
        """

    def coarse(self, batch: UInt8Array) -> Float32Array:
        """Classify as :meth:`probabilities` does, but at the decoder's own stride, without upsampling.

        Row ``i`` answers for the image's rows from ``i * stride`` up to ``(i + 1) * stride``.

        Args:
            batch: uint8 (N, H, W, 3), RGB.

        Returns:
            float32 (N, C, ceil(H / stride), ceil(W / stride)), contiguous, summing to one over C.

        Raises:
            UsageError: If the batch has another type or shape, or no pixel.
        """


def check_batch(batch: UInt8Array) -> None:
    """Raise :class:`UsageError` unless ``batch`` is uint8 (N, H, W, 3) and holds a pixel."""
    if batch.dtype != np.uint8 or batch.ndim != 4 or batch.shape[3] != 3 or batch.size == 0:
        raise UsageError(
            f"A model was given {batch.dtype} {batch.shape}; expected a batch of RGB images: uint8 "
            "(N, H, W, 3), each side at least 1. Scale other imagery to 0..255 first."
        )
