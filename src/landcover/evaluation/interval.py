"""Bootstrap intervals of a score, or of the difference of two, over the images of a split."""

import numpy as np

from landcover._typing import Float64Array, Int64Array
from landcover.errors import UsageError
from landcover.legend import Legend
from landcover.metrics import Metric, class_iou, mean_iou

RESAMPLES = 1000
LEAST_GROUPS = 5
"""Fewer groups give no useful interval: two images of 25.8 and 39.2 % gave exactly these two ends."""

_CHUNK = 50
"""Resamples per chunk; one takes 26 MB for the largest legend."""


def bootstrap_interval(
    tables: Int64Array,
    legend: Legend,
    metric: Metric,
    *,
    strata: Int64Array | None = None,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[float, float] | None:
    """Return an interval of the mIoU by resampling the groups with replacement.

    The percentile bootstrap (Efron and Tibshirani 1993, chapter 13). Groups must be independent: whole
    scenes rather than neighbouring tiles, whose errors are correlated.

    Args:
        tables: int64 (G, K, K + 1), ``ConfusionMatrix.table`` of each group.
        legend: The K classes.
        metric: Metric of the mIoU.
        strata: int (G,), such as the fold of each group: groups are drawn within their stratum, and the score
            is the mean of the strata's. None for one mIoU over all groups.
        level: Share of the resamples within the interval.
        seed: Seed of the draws.

    Returns:
        The lower and upper end in 0..1, or None with fewer than five groups in a stratum or where no resample
        has a score.
    """
    return _ends(_resampled(tables[None], legend, metric, strata, seed)[0], level)


def paired_interval(
    first: Int64Array,
    second: Int64Array,
    legend: Legend,
    metric: Metric,
    *,
    strata: Int64Array | None = None,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[float, float] | None:
    """Return an interval of the difference of two methods' mIoU, on the same groups.

    The paired percentile bootstrap: each resample draws groups once, for both. The difficulty of a group
    cancels, so the interval is narrower than those of the two scores suggest.

    Args:
        first: int64 (G, K, K + 1), ``ConfusionMatrix.table`` of each group by the first method.
        second: The same by the second method, groups in the same order.
        legend: The K classes.
        metric: Metric of the mIoU.
        strata: As for :func:`bootstrap_interval`.
        level: Share of the resamples within the interval.
        seed: Seed of the draws; the same as for :func:`bootstrap_interval` draws the same groups.

    Returns:
        The lower and upper end of mIoU(first) - mIoU(second), -1..1, or None as for
        :func:`bootstrap_interval`.

    Raises:
        UsageError: If the shapes differ.
    """
    if first.shape != second.shape:
        raise UsageError(
            f"Paired tables must have the same groups; found the shapes {first.shape} and {second.shape}."
        )
    scores = _resampled(np.stack((first, second)), legend, metric, strata, seed)
    return _ends(scores[0] - scores[1], level)


def _resampled(
    tables: Int64Array, legend: Legend, metric: Metric, strata: Int64Array | None, seed: int
) -> Float64Array:
    """Return the mIoU of each resample, float64 (W, resamples), for tables (W, G, K, K + 1) of W methods.

    There are no resamples where a stratum has fewer than :data:`LEAST_GROUPS` groups.
    """
    ways, groups = tables.shape[:2]
    labels = np.zeros(groups, np.int64) if strata is None else strata
    names, sizes = np.unique(labels, return_counts=True)
    if min(sizes, default=0) < LEAST_GROUPS:
        return np.empty((ways, 0))
    flat = tables.reshape(ways, groups, -1).astype(np.float64)  # exact below 2**53 pixels, fast to multiply
    members = [flat[:, labels == name] for name in names]
    rng = np.random.default_rng(seed)
    scores = []
    for _ in range(0, RESAMPLES, _CHUNK):
        of_strata = []
        for own, size in zip(members, sizes, strict=True):
            times_drawn = rng.multinomial(size, np.full(size, 1 / size), size=_CHUNK)
            sums = (times_drawn @ own).reshape(ways, _CHUNK, *tables.shape[2:])
            of_strata.append(mean_iou(class_iou(sums, legend, metric)))
        scores.append(np.mean(of_strata, axis=0))
    return np.concatenate(scores, axis=1)


def _ends(scores: Float64Array, level: float) -> tuple[float, float] | None:
    known = scores[~np.isnan(scores)]
    if not known.size:
        return None
    low, high = np.quantile(known, ((1 - level) / 2, (1 + level) / 2))
    return float(low), float(high)
