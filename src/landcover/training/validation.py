"""Scores on whole images, by the same prediction as ``landcover predict`` and the challenge's metric."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from landcover.data import Dataset, Item
from landcover.inference import predict_probabilities
from landcover.io import index_to_colours
from landcover.legend import IGNORE, Legend, UInt8Array
from landcover.metrics import ConfusionMatrix, Scores
from landcover.model.runtimes import Runtime

STRIPS = 6
_STRIP_PX = 512
_LEAST_PROBABILITY = 1e-7


@dataclass(frozen=True)
class Validation:
    """What a validation found.

    Attributes:
        scores: Challenge metric over all images.
        loss: Mean cross-entropy over their labelled pixels; None where there is none.
        strips: Image, truth and prediction side by side, uint8 (h, w, 3), of a few images by key.
    """

    scores: Scores
    loss: float | None
    strips: dict[str, UInt8Array]


def validate(
    runtime: Runtime,
    dataset: Dataset,
    items: Sequence[Item],
    *,
    gsd: float,
    stopped: Callable[[], bool] = lambda: False,
) -> Validation | None:
    """Predict and score images at their own size.

    Args:
        runtime: The model.
        dataset: Where the images are.
        items: Which to score; strips are made of a few that are evenly spread.
        gsd: Of the data, in metres per pixel.
        stopped: Asked before each image; the validation is given up when it says so.

    Returns:
        What was found, or None if it was given up.
    """
    legend = dataset.legend
    matrix = ConfusionMatrix(legend)
    shown = {item.key for item in spread(items, STRIPS)}
    strips: dict[str, UInt8Array] = {}
    loss, pixels = 0.0, 0
    for item in items:
        if stopped():
            return None
        image, truth = dataset.read_image(item), dataset.read_mask(item)
        probabilities = predict_probabilities(runtime, image, gsd=gsd)
        prediction = np.asarray(legend.scored, np.uint8)[probabilities.argmax(axis=0)]
        matrix.update(truth, prediction)
        item_loss, item_pixels = _cross_entropy(probabilities, legend.channels[truth])
        loss, pixels = loss + item_loss, pixels + item_pixels
        if item.key in shown:
            strips[item.key] = strip(image, truth, prediction, legend)
    return Validation(matrix.scores(), loss / pixels if pixels else None, strips)


def spread(items: Sequence[Item], count: int | None) -> Sequence[Item]:
    """Return ``count`` items evenly spread over a sequence, or all of them."""
    if count is None or count >= len(items):
        return items
    return [items[i * len(items) // count] for i in range(count)]


def strip(image: UInt8Array, truth: UInt8Array, prediction: UInt8Array, legend: Legend) -> UInt8Array:
    """Put image, truth and prediction side by side, reduced to at most 512 pixels each: uint8 (h, 3 w, 3)."""
    step = -(-max(image.shape[:2]) // _STRIP_PX)
    maps = [
        index_to_colours(np.ascontiguousarray(index[::step, ::step]), legend) for index in (truth, prediction)
    ]
    return np.concatenate((image[::step, ::step], *maps), axis=1)


def _cross_entropy(probabilities: npt.NDArray[np.float32], channels: UInt8Array) -> tuple[float, int]:
    """Sum of the cross-entropy over labelled pixels, and their number."""
    labelled = channels != IGNORE
    index = np.where(labelled, channels, 0)[None]
    of_truth = np.take_along_axis(probabilities, index.astype(np.intp), axis=0)[0][labelled]
    return float(-np.log(np.maximum(of_truth, _LEAST_PROBABILITY)).sum(dtype=np.float64)), int(labelled.sum())
