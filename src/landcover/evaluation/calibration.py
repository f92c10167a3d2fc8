"""Calibration: confidence against accuracy of the predicted classes, counted in bounded memory.

A model is calibrated if of all pixels predicted with a confidence of 80 %, 80 % are correct. The expected
calibration error (ECE) is the mean distance of the two over groups of pixels of similar confidence: here 15
groups of equal size (adaptive bins, Nixon et al. 2019, 1904.01685), since most pixels have a confidence near
1 and bins of equal width would put them all into one.

Groups of equal size need the pixels sorted by confidence. They are counted in a histogram over the logit of
the confidence, ``log(p / (1 - p))``, whose bins are narrow near 1. Confidences are summed per bin, so that
means are exact. A group that ends within a bin takes its pixels in proportion; compared with sorted pixels
this changes the ECE of a calibrated model by about 1e-4, and not at all where the model is over- or
underconfident throughout.
"""

from collections.abc import Sequence

import numpy as np

from landcover._typing import Float32Array, Float64Array, Int64Array, UInt8Array
from landcover.errors import UsageError
from landcover.evaluation.report import CalibrationScores, ClassCalibration, ReliabilityBin, WorstClass
from landcover.legend import IGNORE

GROUPS = 15
"""Groups of equal size that the ECE is averaged over, as in Guo et al. 2017 (1706.04599)."""

MIN_PROBABILITY = 1e-7
"""Smaller probabilities of the true class count as this in the NLL: a float32 softmax may round one to 0."""

_BINS = 1024
_LOGIT_RANGE = -5.6, 16.7
"""Logits of 1/256, less than a confidence among 255 classes, and of 1 - 2^-24, the last float32 below 1."""
_BLOCK_PX = 1 << 18


class Reliability:
    """Confidence and accuracy of the predicted classes, at least two, over any number of images.

    ``pixels`` are int64 (C, 2, bins), by predicted class, wrong and right; ``confidence`` float64 (C, bins),
    sums; ``loss`` is the sum of the negative log-likelihood (natural logarithm) of the true classes.
    """

    def __init__(self, classes: int) -> None:
        self.pixels: Int64Array = np.zeros((classes, 2, _BINS), np.int64)
        self.confidence: Float64Array = np.zeros((classes, _BINS), np.float64)
        self.loss = 0.0

    def update(self, probabilities: Float32Array, truth: UInt8Array) -> None:
        """Count pixels by probabilities, float32 (C, ...), and true channels (or IGNORE), uint8 (...).

        Of equal probabilities the first is predicted.
        """
        if probabilities.shape != (len(self.pixels), *truth.shape):
            raise UsageError(
                f"Found probabilities {probabilities.shape} for a truth {truth.shape}; expected "
                f"({len(self.pixels)}, ...) for the same pixels."
            )
        flat, known = probabilities.reshape(len(probabilities), -1), truth.ravel()
        for start in range(0, known.size, _BLOCK_PX):
            self._count(flat[:, start : start + _BLOCK_PX], known[start : start + _BLOCK_PX])

    def _count(self, probabilities: Float32Array, truth: UInt8Array) -> None:
        known = truth != IGNORE
        if not known.all():
            probabilities, truth = probabilities[:, known], truth[known]
        predicted, confidence = probabilities.argmax(axis=0), probabilities.max(axis=0)
        low, high = _LOGIT_RANGE
        with np.errstate(divide="ignore", invalid="ignore"):  # a confidence of 1, or above by rounding
            logit = np.log(confidence / (1 - confidence))
        place = np.nan_to_num((logit - low) * (_BINS / (high - low)), nan=_BINS, posinf=_BINS)
        bins = predicted * _BINS + np.clip(place, 0, _BINS - 1).astype(np.intp)
        correct = predicted == truth
        for right in (0, 1):
            counts = np.bincount(bins[correct == right], minlength=self.confidence.size)
            self.pixels[:, right] += counts.reshape(self.confidence.shape)
        sums = np.bincount(bins, weights=confidence, minlength=self.confidence.size)
        self.confidence += sums.reshape(self.confidence.shape)
        of_truth = np.take_along_axis(probabilities, truth[None].astype(np.intp), axis=0)
        self.loss -= float(np.log(np.maximum(of_truth, MIN_PROBABILITY)).sum(dtype=np.float64))

    def groups(self, channel: int | None = None) -> list[ReliabilityBin]:
        """Return 15 groups of equal size by increasing confidence; none where no pixel was counted.

        Of all pixels, or of those that were predicted as one class.
        """
        channels = slice(None) if channel is None else slice(channel, channel + 1)
        wrong, right = self.pixels[channels].sum(axis=0)
        counts = wrong + right
        used = np.flatnonzero(counts)
        if not used.size:
            return []
        ends, rights, confidences = (
            np.concatenate([[0.0], np.cumsum(values[used], dtype=np.float64)])
            for values in (counts, right, self.confidence[channels].sum(axis=0))
        )
        cuts = np.linspace(0, ends[-1], GROUPS + 1)
        sizes = np.diff(cuts)
        accuracy, confidence = (
            np.diff(np.interp(cuts, ends, sums)) / sizes for sums in (rights, confidences)
        )
        return [
            ReliabilityBin(confidence=float(c), accuracy=float(a), share=1 / GROUPS)
            for c, a in zip(confidence, accuracy, strict=True)
        ]

    def ece(self, channel: int | None = None) -> float | None:
        """Return the expected calibration error, 0..1, as for :meth:`groups`; None without a pixel."""
        groups = self.groups(channel)
        return sum(g.share * abs(g.accuracy - g.confidence) for g in groups) if groups else None

    def summary(self, names: Sequence[str]) -> CalibrationScores:
        """Return all results, with the names of the C classes in the order of the channels."""
        counts, rights = self.pixels.sum(axis=(1, 2)).tolist(), self.pixels[:, 1].sum(axis=1).tolist()
        confidences = self.confidence.sum(axis=1)
        pixels = sum(counts)
        per_class: dict[str, ClassCalibration | None] = dict.fromkeys(names)
        for channel, (name, count) in enumerate(zip(names, counts, strict=True)):
            if (ece := self.ece(channel)) is not None:
                confidence, accuracy = float(confidences[channel]) / count, rights[channel] / count
                per_class[name] = ClassCalibration(
                    ece=ece, confidence=confidence, accuracy=accuracy, share=count / pixels
                )
        eces = [WorstClass(name=name, ece=found.ece) for name, found in per_class.items() if found]
        return CalibrationScores(
            pixels=pixels,
            ece=self.ece(),
            confidence=float(confidences.sum()) / pixels if pixels else None,
            accuracy=sum(rights) / pixels if pixels else None,
            nll=self.loss / pixels if pixels else None,
            worst_class=max(eces, key=lambda worst: worst.ece, default=None),
            per_class=per_class,
            bins=self.groups(),
        )
