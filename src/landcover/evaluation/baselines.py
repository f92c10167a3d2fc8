"""Colour baselines: classifiers by colour alone, which a network must beat.

Two Bayes classifiers over a table of colours, 5 bits per channel: one uses each pixel's own colour, the
other the mean colour of the 15 x 15 pixels around it. The table is smoothed over neighbouring colours, and of
several weightings of rare classes the one with the best mIoU on the training pixels is used.
"""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageFilter

from landcover._typing import Int32Array, Int64Array, IntArray, UInt8Array
from landcover.data import Dataset, Item
from landcover.errors import UsageError
from landcover.legend import IGNORE, Legend
from landcover.metrics import ConfusionMatrix, Scores
from landcover.progress import track

BASELINES: dict[str, int] = {"pixel colour": 1, "mean colour 15x15": 15}
"""Name and window in pixels of the reported baselines."""

_BITS = 5
_SIDE = 1 << _BITS
_PRIOR_POWERS = (1.0, 0.75, 0.5, 0.25, 0.0)


class ColourClassifier:
    """Bayes classifier of pixels by the mean colour of a square window around them.

    Only scored classes are learned and predicted. The window's side is odd; edge pixels are repeated.
    """

    def __init__(self, legend: Legend, *, window_px: int = 1) -> None:
        if window_px < 1 or window_px % 2 == 0:
            raise UsageError(
                f"A window of {window_px} px has no central pixel; expected an odd number, 1 or more."
            )
        self.legend = legend
        self.window_px = window_px
        self._counts = np.zeros((len(legend.scored), _SIDE**3), np.int64)
        self._decision: UInt8Array | None = None

    def learn(self, image: UInt8Array, index: UInt8Array) -> None:
        """Count the colours of an image, uint8 (H, W, 3), at class indices, uint8 (H, W), that are scored."""
        channel = self.legend.channels[index]
        known = channel != IGNORE
        key = channel[known].astype(np.int64) * _SIDE**3 + self._colour(image)[known]
        self._counts += np.bincount(key, minlength=self._counts.size).reshape(self._counts.shape)
        self._decision = None

    def predict(self, image: UInt8Array) -> UInt8Array:
        """Return uint8 (H, W), the class indices of an image, uint8 (H, W, 3), after learning."""
        if self._decision is None:
            if not self._counts.any():
                raise UsageError(
                    "The colour classifier has no labelled pixel to fit on. Call learn with labelled images "
                    "first."
                )
            self._decision = _decide(self._counts)
        return np.asarray(self.legend.scored, np.uint8)[self._decision[self._colour(image)]]

    def _colour(self, image: UInt8Array) -> Int32Array:
        """Return int32 (H, W), the number of each pixel's colour in the table."""
        blur = ImageFilter.BoxBlur(self.window_px // 2)
        colours = Image.fromarray(np.ascontiguousarray(image[..., :3]))
        high = np.asarray(colours.filter(blur), np.int32) >> (8 - _BITS)
        number: Int32Array = (high[..., 0] * _SIDE + high[..., 1]) * _SIDE + high[..., 2]
        return number


def score_baselines(
    dataset: Dataset, training: Sequence[Item], held_out: Sequence[Item]
) -> dict[str, Scores]:
    """Fit the :data:`BASELINES` on training items and score them on others; return the scores by name."""
    classifiers = {name: ColourClassifier(dataset.legend, window_px=px) for name, px in BASELINES.items()}
    for item in track(training, "Learning colours"):
        image, valid = dataset.read_imagery(item)
        index = dataset.labels(item, valid).index
        for classifier in classifiers.values():
            classifier.learn(image, index)
    confusion = {name: ConfusionMatrix(dataset.legend) for name in BASELINES}
    for item in track(held_out, "Scoring colours"):
        image, valid = dataset.read_imagery(item)
        index = dataset.labels(item, valid).index
        for name, classifier in classifiers.items():
            confusion[name].update(index, classifier.predict(image))
    return {name: matrix.scores() for name, matrix in confusion.items()}


def _decide(counts: Int64Array) -> UInt8Array:
    """Return uint8 (colours,), the channel to predict for each colour, from counts (channels, colours)."""
    smooth = counts.reshape(-1, _SIDE, _SIDE, _SIDE).astype(np.float64)
    for axis in (1, 2, 3) * 2:
        padded = np.pad(smooth, [(1, 1) if a == axis else (0, 0) for a in range(4)])
        inner = np.arange(1, _SIDE + 1)
        smooth = smooth / 2 + (padded.take(inner - 1, axis) + padded.take(inner + 1, axis)) / 4
    likelihood = smooth.reshape(counts.shape)
    likelihood /= np.maximum(likelihood.sum(axis=1, keepdims=True), 1e-12)
    shares = counts.sum(axis=1, keepdims=True) / counts.sum()

    def training_miou(choice: IntArray) -> float:
        chosen = np.arange(len(counts))[:, None] == choice
        right, truth = (counts * chosen).sum(axis=1), counts.sum(axis=1)
        union = truth + chosen @ counts.sum(axis=0) - right
        return float(np.mean(right[truth > 0] / union[truth > 0]))

    # Colours far from all training colours get the most frequent class.
    choices = [np.argmax(likelihood * shares**power + 1e-12 * shares, axis=0) for power in _PRIOR_POWERS]
    decision: UInt8Array = max(choices, key=training_miou).astype(np.uint8)
    return decision
