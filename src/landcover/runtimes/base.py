"""What prediction asks of a runtime."""

from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from landcover.bundle import ModelCard


class Runtime(Protocol):
    """A model on a device: uint8 pixels in, probabilities out.

    Normalisation and temperature are the runtime's job, so that no caller can forget them.
    """

    @property
    def card(self) -> "ModelCard":
        """Everything about the model but its weights."""

    @property
    def device(self) -> str:
        """Where it computes, such as ``"cpu"`` or ``"cuda:0"``."""

    def probabilities(self, batch: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Classify images that have the model's ground sample distance already.

        Args:
            batch: uint8 (N, H, W, 3), RGB.

        Returns:
            float32 (N, C, H, W), contiguous; over C, the scored classes of the card's legend, it sums to one.
        """
