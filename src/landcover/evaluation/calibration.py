"""Whether probabilities can be believed: confidence against accuracy, counted in bounded memory.

A model is calibrated if of all pixels that it is sure of by 80 %, 80 % are right. Its expected calibration
error (ECE) is the mean distance of the two over groups of pixels of about one confidence: here over 15 groups
of equal size (adaptive bins, Nixon et al. 2019, 1904.01685), since most pixels have a confidence near 1, and
bins of equal width would see them as one group.

Groups of equal size need all pixels in the order of their confidence. They are counted in a fine histogram
instead, whose bins are the narrower the nearer to 1: each is a 512th of an octave of what the confidence
lacks, ``1 - p``, which are the leading bits of that float32. Confidences are summed beside the counts, so
that the means are exact. Where a group ends within a fine bin its pixels are shared out in proportion: pixels
whose confidences are closer than a 512th of ``1 - p`` have no order, as ties have none.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from landcover.errors import UsageError
from landcover.legend import IGNORE, UInt8Array
from landcover.model.runtimes.base import Float32Array

Float64Array = npt.NDArray[np.float64]
Int64Array = npt.NDArray[np.int64]

GROUPS = 15
"""Groups of equal size that an ECE is a mean over, as in Guo et al. 2017 (1706.04599)."""

LEAST_PROBABILITY = 1e-7
"""Smaller probabilities of the true class count as this in the NLL: a float32 softmax may round one to 0."""

_BLOCK_PX = 1 << 18
_MANTISSA_BITS = 23
_STEP_BITS = 9
"""log2 of the fine bins per octave of ``1 - p``."""
_OCTAVES = 24
"""Of ``1 - p``, from 2^-24, the least that a float32 below 1 can lack, up to 1."""
_FINE_BINS = 1 + (_OCTAVES << _STEP_BITS)
_LEAST_CODE = (127 - _OCTAVES) << _STEP_BITS
"""Leading bits of the float32 2^-24, which falls into bin 1; bin 0 is for 1.0 itself."""


@dataclass(frozen=True, slots=True)
class Group:
    """Pixels of about one confidence: their mean confidence, the share that is right, their share of all."""

    confidence: float
    accuracy: float
    share: float


class Reliability:
    """Confidence and accuracy of the most probable class, over any number of images.

    Attributes:
        pixels: int64 (C, 2, fine bins): pixels by said class, wrong and right, from sure to unsure.
        confidence: float64 (C, fine bins): sums of their confidences.
        loss: Sum of the negative log-likelihood (natural logarithm) of the true classes.

    Args:
        classes: C, at least 2.
    """

    def __init__(self, classes: int) -> None:
        self.pixels: Int64Array = np.zeros((classes, 2, _FINE_BINS), np.int64)
        self.confidence: Float64Array = np.zeros((classes, _FINE_BINS), np.float64)
        self.loss = 0.0

    def update(self, probabilities: Float32Array, truth: UInt8Array) -> None:
        """Count pixels.

        Args:
            probabilities: float32 (C, ...), 0..1; over C they sum to one. Of equal ones the first is said.
            truth: uint8 (...): the channel of the true class, or ``IGNORE`` for pixels that are left out.

        Raises:
            UsageError: If the shapes do not fit.
        """
        if probabilities.shape != (len(self.pixels), *truth.shape):
            raise UsageError(
                f"Found probabilities {probabilities.shape} for a truth {truth.shape}; expected "
                f"({len(self.pixels)}, ...) for the same pixels."
            )
        odds, known = probabilities.reshape(len(probabilities), -1), truth.ravel()
        for start in range(0, known.size, _BLOCK_PX):
            self._count(odds[:, start : start + _BLOCK_PX], known[start : start + _BLOCK_PX])

    def _count(self, odds: Float32Array, truth: UInt8Array) -> None:
        known = truth != IGNORE
        if not known.all():
            odds, truth = odds[:, known], truth[known]
        said, confidence, fine = odds.argmax(axis=0), odds.max(axis=0), self.pixels.shape[-1]
        bins = _fine_bins(confidence)
        right = said == truth
        self.pixels += np.bincount((2 * said + right) * fine + bins, minlength=self.pixels.size).reshape(
            self.pixels.shape
        )
        self.confidence += np.bincount(
            said * fine + bins, weights=confidence, minlength=self.confidence.size
        ).reshape(self.confidence.shape)
        of_truth = np.take_along_axis(odds, truth[None].astype(np.intp), axis=0)
        self.loss -= float(np.log(np.maximum(of_truth, LEAST_PROBABILITY)).sum(dtype=np.float64))

    @property
    def nll(self) -> float | None:
        """Mean negative log-likelihood per pixel, 0 or more; None where no pixel was counted."""
        pixels = int(self.pixels.sum())
        return self.loss / pixels if pixels else None

    def groups(self, said: int | None = None) -> list[Group]:
        """Return the pixels in groups of equal size, from the least confidence to the greatest.

        Args:
            said: Only the pixels that were said to be of this channel; None: all.

        Returns:
            15 groups; none where no pixel was counted.
        """
        channels = slice(None) if said is None else slice(said, said + 1)
        wrong, right = self.pixels[channels].sum(axis=0)
        counts = wrong + right
        used = np.flatnonzero(counts)[::-1]
        if not used.size:
            return []
        ends, rights, confidences = (
            np.concatenate([[0.0], np.cumsum(values[used], dtype=np.float64)])
            for values in (counts, right, self.confidence[channels].sum(axis=0))
        )
        # Sums grow in proportion within a fine bin: a group that ends there takes its part.
        cuts = np.linspace(0, ends[-1], GROUPS + 1)
        sizes = np.diff(cuts)
        accuracy, confidence = (
            np.diff(np.interp(cuts, ends, sums)) / sizes for sums in (rights, confidences)
        )
        return [Group(float(c), float(a), 1 / GROUPS) for c, a in zip(confidence, accuracy, strict=True)]

    def ece(self, said: int | None = None) -> float | None:
        """Return the expected calibration error, 0..1, of all pixels or of those said to be of one channel.

        None where there is no such pixel.
        """
        groups = self.groups(said)
        return _mean_gap(groups) if groups else None

    def summary(self, names: Sequence[str]) -> dict[str, Any]:
        """Return all that was found as plain data.

        Args:
            names: Of the C classes, in the order of the channels.

        Returns:
            ``pixels`` that were counted; ``ece``; ``confidence`` and ``accuracy``, the means over all pixels;
            ``nll``; ``worst_class`` ``{name, ece}``: the class with the largest ECE, whatever its share;
            ``per_class`` ``{name: {ece, confidence, accuracy, share} or None}``: of the pixels that were said
            to be of the class, None where there is none; ``bins`` ``[{confidence, accuracy, share}]`` from
            unsure to sure. Shares of 0..1; None where no pixel was counted.
        """
        per_class = {name: self._of_class(channel) for channel, name in enumerate(names)}
        eces = {name: found["ece"] for name, found in per_class.items() if found is not None}
        worst = max(eces, key=eces.__getitem__, default=None)
        pixels = int(self.pixels.sum())
        return {
            "pixels": pixels,
            "ece": self.ece(),
            "confidence": float(self.confidence.sum()) / pixels if pixels else None,
            "accuracy": int(self.pixels[:, 1].sum()) / pixels if pixels else None,
            "nll": self.nll,
            "worst_class": None if worst is None else {"name": worst, "ece": eces[worst]},
            "per_class": per_class,
            "bins": [asdict(group) for group in self.groups()],
        }

    def _of_class(self, channel: int) -> dict[str, float] | None:
        counts = self.pixels[channel]
        pixels = int(counts.sum())
        if not pixels:
            return None
        return {
            "ece": _mean_gap(self.groups(channel)),
            "confidence": float(self.confidence[channel].sum()) / pixels,
            "accuracy": int(counts[1].sum()) / pixels,
            "share": pixels / int(self.pixels.sum()),
        }


def _mean_gap(groups: Sequence[Group]) -> float:
    return sum(group.share * abs(group.accuracy - group.confidence) for group in groups)


def _fine_bins(confidence: Float32Array) -> Int64Array:
    """Return the fine bin of each confidence, int64 (P,): 0 for 1.0, the last for the smallest."""
    lacking = np.float32(1) - np.minimum(confidence, np.float32(1))  # rounding may have left 1 + 2^-23
    codes = lacking.view(np.uint32) >> np.uint32(_MANTISSA_BITS - _STEP_BITS)
    return np.clip(codes.astype(np.int64) - (_LEAST_CODE - 1), 0, _FINE_BINS - 1)
