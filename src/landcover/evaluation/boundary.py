"""Scores by the distance of a pixel from the nearest class boundary of the truth.

Labels are coarse: near a boundary the truth itself is off by metres, so a correct map may be counted as wrong
there, but not far from boundaries.

A boundary runs between two neighbouring pixels of different known classes. Unknown regions and the edge of
the image are not boundaries. The distance of a pixel is Euclidean: from its centre to that of the nearest
pixel at a boundary, plus the half pixel from there to the boundary (exact along straight boundaries).
"""

import operator
from collections.abc import Sequence
from functools import reduce
from typing import Any

import numpy as np
import numpy.typing as npt

from landcover._typing import UInt8Array
from landcover.evaluation.report import BoundaryScores
from landcover.legend import IGNORE, NODATA, Legend
from landcover.metrics import ConfusionMatrix

DISTANCE_BINS_M = (0, 5, 10, 20, 40)
"""Lower limit of each bin of distances, in metres; the last bin has no upper limit."""

_BLOCK_PX = 1 << 15
"""Pixels compared with their neighbours along rows at a time, so that they stay in the processor's cache."""

Unsigned = npt.NDArray[np.unsignedinteger[Any]]


def squared_distance(truth: UInt8Array, legend: Legend, reach: int) -> Unsigned:
    """Return the squared distance of each pixel from the nearest one at a boundary: unsigned (H, W).

    In squared pixels, exact below ``reach ** 2``, else that or more. Down columns the distance is counted
    from pixel to pixel; along rows the least of ``x^2 + down^2`` over all neighbours within reach is the
    Euclidean one (two passes, as in Meijster et al. 2000, "A general algorithm for computing distance
    transforms in linear time", with a bound for the second). ``truth`` is uint8 (H, W), class indices or
    NODATA.
    """
    classes, at_boundary = legend.channels[truth], np.zeros(truth.shape, bool)
    for found, here in ((at_boundary, classes), (at_boundary.T, classes.T)):
        differ = (here[1:] != here[:-1]) & (here[1:] != IGNORE) & (here[:-1] != IGNORE)
        found[1:] |= differ
        found[:-1] |= differ
    kind = np.min_scalar_type(2 * reach**2)
    down = np.where(at_boundary, 0, reach).astype(kind)
    for above, below in ((slice(0, -1), slice(1, None)), (slice(-1, 0, -1), slice(-2, None, -1))):
        for known, next_row in zip(down[above], down[below], strict=True):
            np.minimum(next_row, known + kind.type(1), out=next_row)
    down *= down
    width = down.shape[1]
    rows = max(1, _BLOCK_PX // width)
    result = down.copy()
    for top in range(0, len(down), rows):
        square, nearest = down[top : top + rows], result[top : top + rows]
        for across in range(1, min(reach, width)):
            farther = square + kind.type(across * across)
            np.minimum(nearest[:, across:], farther[:, :-across], out=nearest[:, across:])
            np.minimum(nearest[:, :-across], farther[:, across:], out=nearest[:, :-across])
    return result


def distance_bins(truth: UInt8Array, legend: Legend, gsd: float) -> UInt8Array:
    """Return the bin of :data:`DISTANCE_BINS_M` of each pixel: uint8 (H, W)."""
    limits = [max(0.0, limit / gsd - 0.5) for limit in DISTANCE_BINS_M[1:]]
    squared = squared_distance(truth, legend, max(1, int(np.ceil(limits[-1]))))
    bins = np.zeros(truth.shape, np.uint8)
    for limit in limits:
        bins += squared >= limit**2
    return bins


def count_by_distance(
    truth: UInt8Array, prediction: UInt8Array, legend: Legend, gsd: float
) -> list[ConfusionMatrix]:
    """Count the pixels of one image, class indices (H, W): a matrix for each of :data:`DISTANCE_BINS_M`."""
    bins = distance_bins(truth, legend, gsd)
    matrices = [ConfusionMatrix(legend) for _ in DISTANCE_BINS_M]
    for number, matrix in enumerate(matrices):
        matrix.update(np.where(bins == number, truth, np.uint8(NODATA)), prediction)
    return matrices


def boundary_scores(matrices: Sequence[ConfusionMatrix]) -> BoundaryScores:
    """Return the scores of the matrices of :data:`DISTANCE_BINS_M`; the metric is the challenge's."""
    legend = matrices[0].legend
    pixels = [int(matrix.table[list(legend.scored)].sum()) for matrix in matrices]

    def scores(number: int, stop: int | None) -> dict[str, object]:
        merged = reduce(operator.add, matrices[number:stop])
        inside = sum(pixels[number:stop])
        share = inside / sum(pixels) if any(pixels) else None
        return {"pixels": inside, "share": share, **merged.scores("challenge").to_dict()}

    limits = zip(DISTANCE_BINS_M, (*DISTANCE_BINS_M[1:], None), strict=True)
    rows = [
        {"from_m": start, "to_m": stop, **scores(i, i + 1), "beyond": scores(i, None)}
        for i, (start, stop) in enumerate(limits)
    ]
    return BoundaryScores.model_validate({"bins": rows})
