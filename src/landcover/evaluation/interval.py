"""How far a score could be off for the images that happen to be in a split."""

import numpy as np

from landcover.legend import Legend
from landcover.metrics import Int64Array, Metric, class_iou, mean_iou

RESAMPLES = 1000
LEAST_GROUPS = 5
"""Fewer say next to nothing about how groups differ: two images of 25.8 and 39.2 % gave just these ends."""

_CHUNK = 50
"""Resamples at a time; a chunk of the largest legend takes 26 MB."""


def bootstrap_interval(
    tables: Int64Array, legend: Legend, metric: Metric, *, level: float = 0.95, seed: int = 0
) -> tuple[float, float] | None:
    """Return an interval of the mIoU by drawing the groups again with replacement.

    The percentile bootstrap (Efron and Tibshirani 1993, chapter 13). Groups should be what is independent:
    whole scenes rather than neighbouring tiles, whose errors go together.

    Args:
        tables: int64 (G, K, K + 1), ``ConfusionMatrix.table`` of each group.
        legend: The K classes.
        metric: Metric of the mIoU.
        level: Share of the resamples within the interval.
        seed: Seed of the draws; the same gives the same interval.

    Returns:
        The lower and upper end in 0..1, or None with fewer than five groups or where no resample has a score.
    """
    groups = len(tables)
    if groups < LEAST_GROUPS:
        return None
    rng = np.random.default_rng(seed)
    flat = tables.reshape(groups, -1).astype(np.float64)  # exact below 2**53 pixels, and fast to multiply
    scores = []
    for _ in range(0, RESAMPLES, _CHUNK):
        times_drawn = rng.multinomial(groups, np.full(groups, 1 / groups), size=_CHUNK)
        sums = (times_drawn @ flat).reshape(_CHUNK, *tables.shape[1:])
        scores.append(mean_iou(class_iou(sums, legend, metric)))
    known = np.concatenate(scores)
    known = known[~np.isnan(known)]
    if not known.size:
        return None
    low, high = np.quantile(known, ((1 - level) / 2, (1 + level) / 2))
    return float(low), float(high)
