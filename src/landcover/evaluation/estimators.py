"""Estimates and their uncertainty: a bootstrap of the mIoU, and a map's accuracy and areas from a sample."""

from typing import NamedTuple

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

Z_95 = 1.959963984540054
"""Half the width of a 95 % interval in standard errors."""


def bootstrap_interval(
    tables: Int64Array,
    legend: Legend,
    metric: Metric,
    *,
    minus: Int64Array | None = None,
    strata: Int64Array | None = None,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[float, float] | None:
    """Return an interval of the mIoU, or of a difference, by resampling the groups with replacement.

    The percentile bootstrap (Efron and Tibshirani 1993, chapter 13). Groups must be independent: whole
    scenes rather than neighbouring tiles, whose errors are correlated. For a difference each resample draws
    groups once for both methods, so that the difficulty of a group cancels.

    Args:
        tables: int64 (G, K, K + 1), ``ConfusionMatrix.table`` of each group.
        legend: The K classes.
        metric: Metric of the mIoU.
        minus: Tables of a second method for the same groups, whose mIoU is subtracted.
        strata: int (G,), such as the fold of each group: groups are drawn within their stratum, and the score
            is the mean of the strata's. None for one mIoU over all groups.
        level: Fraction of the resamples within the interval.
        seed: Seed of the draws.

    Returns:
        The ends; None with fewer than five groups in a stratum or where no resample has a score.
    """
    if minus is not None and minus.shape != tables.shape:
        raise UsageError(
            f"Paired tables must have the same groups; found the shapes {tables.shape} and {minus.shape}."
        )
    both = np.stack([tables] if minus is None else [tables, minus])
    labels = np.zeros(len(tables), np.int64) if strata is None else strata
    names, sizes = np.unique(labels, return_counts=True)
    if min(sizes, default=0) < LEAST_GROUPS:
        return None
    flat = both.reshape(*both.shape[:2], -1).astype(np.float64)  # exact below 2**53 pixels, fast to multiply
    members = [flat[:, labels == name] for name in names]
    rng = np.random.default_rng(seed)
    chunks = []
    for _ in range(0, RESAMPLES, _CHUNK):
        of_strata = []
        for own, size in zip(members, sizes, strict=True):
            times_drawn = rng.multinomial(size, np.full(size, 1 / size), size=_CHUNK)
            sums = (times_drawn @ own).reshape(len(both), _CHUNK, *tables.shape[1:])
            of_strata.append(mean_iou(class_iou(sums, legend, metric)))
        chunks.append(np.mean(of_strata, axis=0))
    scores = np.concatenate(chunks, axis=1)
    differences = scores[0] if minus is None else scores[0] - scores[1]
    known = differences[~np.isnan(differences)]
    if not known.size:
        return None
    low, high = np.quantile(known, ((1 - level) / 2, (1 + level) / 2))
    return float(low), float(high)


class WithError(NamedTuple):
    """Estimates and their standard errors, float64 of one shape; NaN where the sample does not allow one."""

    value: Float64Array
    se: Float64Array


class Estimates(NamedTuple):
    """Estimates for a whole map of K classes, with standard errors: fractions of area, 0..1.

    ``users`` of the area mapped as a class, ``producers`` of the area of a class, (K,) each; ``shares`` (K,)
    of the area of each class on the ground, whose sum is 1.
    """

    overall: WithError
    users: WithError
    producers: WithError
    shares: WithError


def stratified_estimates(counts: Int64Array, areas: Float64Array) -> Estimates:
    """Estimate accuracy and area with the classes of the map as strata.

    P. Olofsson, G. M. Foody, M. Herold, S. V. Stehman, C. E. Woodcock and M. A. Wulder (2014): Good practices
    for estimating area and assessing accuracy of land change. Remote Sensing of Environment 148, 42-57. The
    numbers of equations are theirs. They hold where the units were drawn at random within each class of the
    map, or at random over the whole map (post-stratification).

    ``counts`` is int64 (K, K), units by class of the map (rows) and true class; ``areas`` float64 (K,), the
    mapped area of each class. Unknown values are NaN: with a predicted class without units all but the user's
    accuracies of the other classes, with a class of a single unit the standard errors.
    """
    drawn = counts.sum(axis=1, keepdims=True)
    weights = (areas / areas.sum())[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):  # no unit: 0 / 0; one unit: 0 / 0 or x / 0
        shares = counts / drawn  # of the units of a stratum, by true class
        variances = np.where(drawn > 1, shares * (1 - shares) / (drawn - 1), np.nan)
        # A class that is mapped nowhere is not a stratum.
        cells = np.where(weights > 0, weights * shares, 0.0)  # eq. 4
        cell_variances = np.where(weights > 0, weights**2 * variances, 0.0)
        of_class = cells.sum(axis=0)  # eq. 9
        right, right_variances = cells.diagonal(), cell_variances.diagonal()
        producers = right / of_class  # eq. 3
        wrong_variances = cell_variances.sum(axis=0) - right_variances
        producer_variances = (1 - producers) ** 2 * right_variances + producers**2 * wrong_variances  # eq. 7
        return Estimates(
            overall=WithError(right.sum(), np.sqrt(right_variances.sum())),  # eq. 1 and 5
            users=WithError(shares.diagonal(), np.sqrt(variances.diagonal())),  # eq. 2 and 6
            producers=WithError(producers, np.sqrt(producer_variances) / of_class),
            shares=WithError(of_class, np.sqrt(cell_variances.sum(axis=0))),  # eq. 10
        )
