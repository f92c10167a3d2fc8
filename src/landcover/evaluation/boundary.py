"""Scores by the distance of a pixel from the nearest class boundary of the truth, and boundary F1.

Labels are coarse: near a boundary the truth itself is off by metres, so a correct map may be counted as wrong
there, but not far from boundaries.

A boundary runs between two neighbouring pixels of different known classes. Unknown regions and the edge of
the image are not boundaries. The distance of a pixel is Euclidean: from its centre to that of the nearest
pixel at a boundary, plus the half pixel from there to the boundary (exact along straight boundaries).

Boundary F1 compares where both maps draw the boundaries of a class (Csurka et al. 2013, "What is a good
evaluation measure for semantic segmentation?"), here with the pixels of all images together.
"""

import operator
from collections.abc import Sequence
from functools import reduce
from typing import Any

import numpy as np
import numpy.typing as npt

from landcover._typing import BoolArray, Int64Array, UInt8Array
from landcover.evaluation.report import BoundaryScores
from landcover.legend import IGNORE, NODATA, Legend
from landcover.metrics import ConfusionMatrix

DISTANCE_BINS_M = (0, 5, 10, 20, 40)
"""Lower limit of each bin of distances, in metres; the last bin has no upper limit."""

_BLOCK_PX = 1 << 15
"""Pixels compared with their neighbours along rows at a time, so that they stay in the processor's cache."""

BOUNDARY_TOLERANCE = "5m"
"""Distance up to which boundaries of both maps are the same, by default."""

Unsigned = npt.NDArray[np.unsignedinteger[Any]]


def squared_distance(marked: BoolArray, reach: int) -> Unsigned:
    """Return the squared distance of each pixel from the nearest marked one, in squared pixels.

    It is exact below ``reach ** 2`` (1 or more), else that or more. Down columns it is counted from pixel to
    pixel; along rows the least of ``x^2 + down^2`` over all neighbours within reach is the Euclidean one (two
    passes, as in Meijster et al. 2000, "A general algorithm for computing distance transforms in linear
    time", with a bound for the second).
    """
    kind = np.min_scalar_type(2 * reach**2)
    down = np.where(marked, 0, reach).astype(kind)
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


def at_boundary(classes: UInt8Array) -> BoolArray:
    """Return bool (H, W): which pixels have another known class above, below, left or right of them.

    ``classes`` is uint8 (H, W), channels of a legend or IGNORE.
    """
    boundary = np.zeros(classes.shape, bool)
    for found, here in ((boundary, classes), (boundary.T, classes.T)):
        differ = (here[1:] != here[:-1]) & (here[1:] != IGNORE) & (here[:-1] != IGNORE)
        found[1:] |= differ
        found[:-1] |= differ
    return boundary


def distance_bins(truth: UInt8Array, legend: Legend, gsd: float) -> UInt8Array:
    """Return the bin of :data:`DISTANCE_BINS_M` of each pixel: uint8 (H, W)."""
    limits = [max(0.0, limit / gsd - 0.5) for limit in DISTANCE_BINS_M[1:]]
    squared = squared_distance(at_boundary(legend.channels[truth]), max(1, int(np.ceil(limits[-1]))))
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


def count_boundaries(
    truth: UInt8Array, prediction: UInt8Array, legend: Legend, tolerance_px: float
) -> Int64Array:
    """Count the boundary pixels of each class in one image, and those that are near one of the other map.

    A boundary pixel of a class has another known class above, below, left or right of it. It is near another
    if their centres are at most ``tolerance_px`` apart. Pixels of unknown truth belong to neither map.

    Returns:
        int64 (C, 4): boundary pixels of the prediction, of these those near the truth's of the same class;
        and boundary pixels of the truth, of these those near the prediction's.
    """
    known, predicted = legend.channels[truth], legend.channels[prediction]
    maps = [np.where(known == IGNORE, np.uint8(IGNORE), predicted), known]
    edges = [at_boundary(classes) for classes in maps]
    counts = np.zeros((len(legend.scored), 4), np.int64)
    for channel, row in enumerate(counts):
        own = [edge & (classes == channel) for edge, classes in zip(edges, maps, strict=True)]
        row[::2] = [np.count_nonzero(pixels) for pixels in own]
        if row[::2].all():
            reach = int(tolerance_px) + 1
            near = [squared_distance(other, reach) <= tolerance_px**2 for other in own[::-1]]
            row[1::2] = [np.count_nonzero(a & b) for a, b in zip(own, near, strict=True)]
    return counts


def boundary_measures(counts: Int64Array) -> list[dict[str, float | None]]:
    """Return precision, recall and F1, 0..1, of each row of the sum of :func:`count_boundaries`.

    Precision is the fraction of the prediction's boundary pixels that are near the truth's, recall that of
    the truth's that are near the prediction's; None without such pixels. F1 is their harmonic mean, 0 if one
    map alone has boundaries of the class, None if neither has.
    """
    measures: list[dict[str, float | None]] = []
    for drawn, right, true, met in counts.tolist():
        precision, recall = right / drawn if drawn else None, met / true if true else None
        both = (precision or 0) + (recall or 0)
        f1 = None if not drawn and not true else 2 * (precision or 0) * (recall or 0) / both if both else 0.0
        measures.append({"precision": precision, "recall": recall, "f1": f1})
    return measures


def boundary_scores(matrices: Sequence[ConfusionMatrix], **measures: object) -> BoundaryScores:
    """Return the scores of the matrices of :data:`DISTANCE_BINS_M`; the metric is the challenge's.

    ``measures`` are the other fields of :class:`BoundaryScores`.
    """
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
    return BoundaryScores.model_validate({"bins": rows, **measures})
