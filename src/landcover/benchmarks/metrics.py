"""The confusion matrix, timed against the usual ways: ``python -m landcover.benchmarks.metrics``."""

import numpy as np

from landcover.benchmarks.timing import Timing, blocky_index, run_benchmark, take_turns
from landcover.extras import needs
from landcover.legend import DEEPGLOBE, UInt8Array
from landcover.metrics import ConfusionMatrix, Int64Array

CLASSES = len(DEEPGLOBE)


def metric_benchmark(size: int = 2448, *, repeats: int = 9, seed: int = 0) -> list[Timing]:
    """Time landcover's confusion matrix against the usual ones on one pair of masks, in one process.

    Args:
        size: Edge of the masks in pixels.
        repeats: Runs of each way.
        seed: Seed of the masks; 15 % of the predicted pixels are drawn anew.

    Returns:
        The ways of counting, landcover's first.

    Raises:
        MissingExtraError: If scikit-learn is not installed.
    """
    with needs("bench"):
        from sklearn.metrics import confusion_matrix
    truth = blocky_index(size, seed)
    rng = np.random.default_rng(seed + 1)
    redrawn = rng.random(truth.shape) < 0.15
    prediction = np.where(redrawn, rng.integers(0, CLASSES - 1, truth.shape), truth).astype(np.uint8)

    return take_turns(
        "confusion matrix",
        {
            "landcover": lambda: _count(truth, prediction),
            "scikit-learn": lambda: confusion_matrix(truth.ravel(), prediction.ravel()),
            "numpy, masked int64": lambda: _count_masked(truth, prediction),
            "numpy, uint8 at once": lambda: _count_at_once(truth, prediction),
        },
        repeats,
    )


def _count(truth: UInt8Array, prediction: UInt8Array) -> Int64Array:
    matrix = ConfusionMatrix(DEEPGLOBE)
    matrix.update(truth, prediction)
    return matrix.counts


def _count_masked(truth: UInt8Array, prediction: UInt8Array) -> Int64Array:
    """Count as most projects do since FCN: mask, widen, count."""
    known = (truth >= 0) & (truth < CLASSES)
    pairs = CLASSES * truth[known].astype(int) + prediction[known]
    return np.bincount(pairs, minlength=CLASSES**2).reshape(CLASSES, CLASSES)


def _count_at_once(truth: UInt8Array, prediction: UInt8Array) -> Int64Array:
    """Count the whole image at once, without a look at what the values are."""
    pairs = (truth * np.uint8(CLASSES) + prediction).ravel()
    return np.bincount(pairs, minlength=CLASSES**2).reshape(CLASSES, CLASSES)


if __name__ == "__main__":
    run_benchmark(metric_benchmark, __doc__, repeats=9)
