"""Accuracy and area from a sample that is stratified by the classes of a map, with standard errors.

P. Olofsson, G. M. Foody, M. Herold, S. V. Stehman, C. E. Woodcock and M. A. Wulder (2014): Good practices
for estimating area and assessing accuracy of land change. Remote Sensing of Environment 148, 42-57. The
numbers of equations are theirs. They hold where the units were drawn at random within each class of the map,
or at random over the whole map (post-stratification).
"""

from dataclasses import dataclass

import numpy as np

from landcover._typing import Float64Array, Int64Array

Z_95 = 1.959963984540054
"""Half the width of a 95 % interval in standard errors."""


@dataclass(frozen=True, slots=True)
class Estimates:
    """Estimates with standard errors (``_se``); NaN where the sample does not allow one.

    Attributes:
        overall: Share of the area that the map has right, 0..1.
        overall_se: Its standard error.
        users: float64 (K,), share of the area mapped as each class that is that class.
        users_se: float64 (K,).
        producers: float64 (K,), share of the area of each class that is mapped as it.
        producers_se: float64 (K,).
        shares: float64 (K,), share of the area that is of each class, whatever the map says. Its sum is 1.
        shares_se: float64 (K,).
    """

    overall: float
    overall_se: float
    users: Float64Array
    users_se: Float64Array
    producers: Float64Array
    producers_se: Float64Array
    shares: Float64Array
    shares_se: Float64Array


def stratified_estimates(counts: Int64Array, areas: Float64Array) -> Estimates:
    """Estimate accuracy and area with the classes of the map as strata.

    A class that is mapped somewhere but has no unit leaves everything but the users' accuracies of the other
    classes unknown; one with a single unit leaves their standard errors unknown.

    Args:
        counts: int64 (K, K), units by class of the map (rows) and true class (columns).
        areas: float64 (K,), mapped area of each class in any unit.

    Returns:
        The estimates, float64, with NaN for what is unknown.
    """
    drawn = counts.sum(axis=1, keepdims=True)
    weights = (areas / areas.sum())[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):  # no unit: 0 / 0; one unit: 0 / 0 or x / 0
        shares = counts / drawn  # of the units of a stratum, by true class
        variances = np.where(drawn > 1, shares * (1 - shares) / (drawn - 1), np.nan)
        # A class that is mapped nowhere is no stratum.
        cells = np.where(weights > 0, weights * shares, 0.0)  # eq. 4
        cell_variances = np.where(weights > 0, weights**2 * variances, 0.0)
        of_class = cells.sum(axis=0)  # eq. 9
        right, right_variances = cells.diagonal(), cell_variances.diagonal()
        producers = right / of_class  # eq. 3
        wrong_variances = cell_variances.sum(axis=0) - right_variances
        producer_variances = (1 - producers) ** 2 * right_variances + producers**2 * wrong_variances  # eq. 7
        return Estimates(
            overall=float(right.sum()),  # eq. 1
            overall_se=float(np.sqrt(right_variances.sum())),  # eq. 5
            users=shares.diagonal(),  # eq. 2
            users_se=np.sqrt(variances.diagonal()),  # eq. 6
            producers=producers,
            producers_se=np.sqrt(producer_variances) / of_class,
            shares=of_class,
            shares_se=np.sqrt(cell_variances.sum(axis=0)),  # eq. 10
        )
