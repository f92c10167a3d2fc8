"""Validation: whole images, predicted as by ``landcover predict``, scored with the DeepGlobe metric."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from landcover._typing import Float32Array, UInt8Array
from landcover.data import Dataset, Item
from landcover.inference import predict_probabilities
from landcover.io import index_to_colours
from landcover.legend import IGNORE, Legend
from landcover.metrics import ConfusionMatrix, Scores
from landcover.model.runtimes import Runtime

PICTURES = 6
_PICTURE_PX = 512
_MIN_PROBABILITY = 1e-7


@dataclass(frozen=True)
class Validation:
    """Result of a validation.

    Attributes:
        scores: DeepGlobe metric over all images.
        loss: Mean cross-entropy over their labelled pixels; None if there are none.
        pictures: Image, truth and prediction side by side, uint8 (h, w, 3), of a few images by key.
    """

    scores: Scores
    loss: float | None
    pictures: dict[str, UInt8Array]


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
        dataset: The data set of the images.
        items: The images to score; a few evenly spaced ones are drawn as pictures.
        gsd: GSD of the data in metres per pixel.
        stopped: Called before each image; True stops the validation.

    Returns:
        The scores, or None if the validation was stopped.
    """
    legend = dataset.legend
    matrix = ConfusionMatrix(legend)
    shown = {item.key for item in evenly_spaced(items, PICTURES)}
    pictures: dict[str, UInt8Array] = {}
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
            pictures[item.key] = side_by_side(image, truth, prediction, legend)
    return Validation(matrix.scores(), loss / pixels if pixels else None, pictures)


def evenly_spaced(items: Sequence[Item], count: int | None) -> Sequence[Item]:
    """Return ``count`` evenly spaced items of a sequence, or all of them if it is None."""
    if count is None or count >= len(items):
        return items
    return [items[i * len(items) // count] for i in range(count)]


def side_by_side(image: UInt8Array, truth: UInt8Array, prediction: UInt8Array, legend: Legend) -> UInt8Array:
    """Return image, truth and prediction side by side, each at most 512 pixels large: uint8 (h, 3 w, 3)."""
    step = -(-max(image.shape[:2]) // _PICTURE_PX)
    maps = [
        index_to_colours(np.ascontiguousarray(index[::step, ::step]), legend) for index in (truth, prediction)
    ]
    return np.concatenate((image[::step, ::step], *maps), axis=1)


def _cross_entropy(probabilities: Float32Array, channels: UInt8Array) -> tuple[float, int]:
    """Return the sum of the cross-entropy over labelled pixels, and their number."""
    labelled = channels != IGNORE
    index = np.where(labelled, channels, 0)[None]
    of_truth = np.take_along_axis(probabilities, index.astype(np.intp), axis=0)[0][labelled]
    return float(-np.log(np.maximum(of_truth, _MIN_PROBABILITY)).sum(dtype=np.float64)), int(labelled.sum())
