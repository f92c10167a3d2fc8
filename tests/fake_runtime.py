"""Runtimes without a network, for tests of what is done around one."""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from landcover.bundle import ModelCard
from landcover.legend import DEEPGLOBE, Legend
from landcover.models import ModelConfig
from landcover.preprocessing import Preprocessing

SCORED_COLOURS = DEEPGLOBE.colours[list(DEEPGLOBE.scored)].astype(np.float32)


def make_card(
    *, gsd: float = 1.0, window_px: int = 64, overlap_px: int = 16, legend: Legend = DEEPGLOBE
) -> ModelCard:
    return ModelCard(
        model=ModelConfig(),
        legend=legend,
        preprocessing=Preprocessing(gsd),
        window_px=window_px,
        overlap_px=overlap_px,
    )


@dataclass
class ColourRuntime:
    """Takes pixels for the class whose colour in the legend is nearest: a classifier without any context."""

    card: ModelCard = field(default_factory=make_card)
    device: str = "cpu"
    shapes: list[tuple[int, ...]] = field(default_factory=list)

    def probabilities(self, batch: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        self.shapes.append(batch.shape)
        offset = batch.astype(np.float32)[..., None, :] - SCORED_COLOURS
        logits = -np.square(offset / 255).sum(-1) * 4
        odds = np.exp(logits - logits.max(-1, keepdims=True))
        return np.ascontiguousarray(np.moveaxis(odds / odds.sum(-1, keepdims=True), -1, 1))


@dataclass
class ConstantRuntime:
    """Gives every pixel the same probabilities."""

    values: tuple[float, ...] = (0.1, 0.2, 0.3, 0.15, 0.05, 0.2)
    card: ModelCard = field(default_factory=make_card)
    device: str = "cpu"

    def probabilities(self, batch: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        shape = (len(batch), len(self.values), *batch.shape[1:3])
        return np.broadcast_to(np.array(self.values, np.float32)[None, :, None, None], shape)
