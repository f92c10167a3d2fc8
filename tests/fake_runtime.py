"""Runtimes without a network, for tests of what is done around one."""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from landcover.legend import DEEPGLOBE, Legend
from landcover.model import ModelConfig
from landcover.model.card import ModelCard
from landcover.model.preprocessing import Preprocessing

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


def normalised(preprocessing: Preprocessing, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Return what a network reads of pixels (..., C)."""
    scale, offset = preprocessing.factors
    return pixels * scale + offset


class AtFullSize:
    """What a runtime whose network answers at every pixel has besides."""

    name = "fake"
    stride = 1

    def coarse(self, batch: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        return self.probabilities(batch)  # type: ignore[attr-defined, no-any-return]


@dataclass
class ColourRuntime(AtFullSize):
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
class ConstantRuntime(AtFullSize):
    """Gives every pixel the same probabilities."""

    values: tuple[float, ...] = (0.1, 0.2, 0.3, 0.15, 0.05, 0.2)
    card: ModelCard = field(default_factory=make_card)
    device: str = "cpu"

    def probabilities(self, batch: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        shape = (len(batch), len(self.values), *batch.shape[1:3])
        return np.broadcast_to(np.array(self.values, np.float32)[None, :, None, None], shape)


@dataclass
class ContextRuntime:
    """Sees 31 x 31 pixels and answers every four: convolutions with zero padding, and no pooling.

    Whole numbers all the way, so that an answer depends on nothing but what is seen.
    """

    card: ModelCard = field(default_factory=make_card)
    device: str = "cpu"
    name: str = "fake"
    stride: int = 4
    windows: list[tuple[int, ...]] = field(default_factory=list)

    def coarse(self, batch: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        self.windows += [image.shape for image in batch]
        height, width = batch.shape[1:3]
        grey = batch.astype(np.int64).sum(-1)
        sums = np.pad(grey, ((0, 0), (16, 15), (16, 15))).cumsum(1).cumsum(2)
        box = sums[:, 31:, 31:] - sums[:, :-31, 31:] - sums[:, 31:, :-31] + sums[:, :-31, :-31]
        # Row r of the box is centred on pixel r; the middle of cell i is pixel 4 i + 2.
        seen = np.pad(box, ((0, 0), (0, 3), (0, 3)))[:, 2 : height + 2 : 4, 2 : width + 2 : 4]
        logits = np.stack([(seen // 97) % (7 + 2 * number) + number / 8 for number in range(6)], axis=1)
        odds = np.exp(logits.astype(np.float32))
        return odds / odds.sum(1, keepdims=True)

    def probabilities(self, batch: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        full = self.coarse(batch).repeat(4, 2).repeat(4, 3)
        return full[:, :, : batch.shape[1], : batch.shape[2]]
