"""Scores by the distance of a pixel from the nearest class boundary of the truth.

Labels are drawn coarsely: near a boundary the truth itself is off by metres, and a correct map may be counted
as wrong there. Far from boundaries it cannot.

A boundary runs between two neighbouring pixels of different known classes. Pixels of unknown truth make no
boundary (the class below them may be that beside them) and are not scored; nor does the image's edge. The
distance of a pixel is Euclidean: from its centre to that of the nearest pixel that touches a boundary, plus
the half pixel from there to the boundary, which is exact along straight boundaries.
"""

import operator
from collections.abc import Sequence
from functools import reduce
from typing import Any

import numpy as np
import numpy.typing as npt

from landcover._typing import BoolArray, UInt8Array
from landcover.legend import IGNORE, NODATA, Legend
from landcover.metrics import ConfusionMatrix

DISTANCE_BINS_M = (0, 5, 10, 20, 40)
"""Lower limit of each bin of distances, in metres; the last bin has no upper limit."""

_BLOCK_PX = 1 << 15
"""Pixels compared with their neighbours along rows at a time, so that they stay in the processor's cache."""

Unsigned = npt.NDArray[np.unsignedinteger[Any]]


def squared_distance(truth: UInt8Array, legend: Legend, reach: int) -> Unsigned:
    """Return the squared distance of each pixel from the nearest pixel at a boundary, exact up to a reach.

    Down columns the distance is counted from pixel to pixel; along rows the least of ``x^2 + down^2`` over
    all neighbours within reach is the Euclidean one (two passes, as in Meijster et al. 2000, "A general
    algorithm for computing distance transforms in linear time", with a bound for the second).

    Args:
        truth: uint8 (H, W), class indices or NODATA.
        legend: Their meaning.
        reach: The longest distance of interest, 1 or more pixels.

    Returns:
        Unsigned (H, W), in squared pixels: 0 at a boundary, exact below ``reach ** 2``; pixels farther away
        have that or more.
    """
    kind = np.min_scalar_type(2 * reach**2)
    down = np.where(_at_boundary(truth, legend), 0, reach).astype(kind)
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


def _at_boundary(truth: UInt8Array, legend: Legend) -> BoolArray:
    """Return bool (H, W): which pixels have another known class above, below, left or right of them."""
    classes = legend.channels[truth]
    boundary = np.zeros(truth.shape, bool)
    for one, other in (
        ((slice(1, None), slice(None)), (slice(None, -1), slice(None))),
        ((slice(None), slice(1, None)), (slice(None), slice(None, -1))),
    ):
        here, there = classes[one], classes[other]
        differ = (here != there) & (here != IGNORE) & (there != IGNORE)
        boundary[one] |= differ
        boundary[other] |= differ
    return boundary


def distance_bins(truth: UInt8Array, legend: Legend, gsd: float) -> UInt8Array:
    """Return the bin of :data:`DISTANCE_BINS_M` of each pixel: uint8 (H, W).

    Args:
        truth: uint8 (H, W), class indices or NODATA.
        legend: Their meaning.
        gsd: Metres per pixel.
    """
    limits = [max(0.0, limit / gsd - 0.5) for limit in DISTANCE_BINS_M[1:]]
    squared = squared_distance(truth, legend, max(1, int(np.ceil(limits[-1]))))
    bins = np.zeros(truth.shape, np.uint8)
    for limit in limits:
        bins += squared >= limit**2
    return bins


def count_by_distance(
    truth: UInt8Array, prediction: UInt8Array, legend: Legend, gsd: float
) -> list[ConfusionMatrix]:
    """Count the pixels of one image, each bin of distances separately.

    Args:
        truth: uint8 (H, W), class indices or NODATA.
        prediction: uint8 (H, W), class indices or NODATA.
        legend: Their meaning.
        gsd: Metres per pixel.

    Returns:
        A matrix for each of :data:`DISTANCE_BINS_M`.

    Raises:
        MaskError: If the prediction does not fit.
    """
    bins = distance_bins(truth, legend, gsd)
    matrices = []
    for number in range(len(DISTANCE_BINS_M)):
        matrix = ConfusionMatrix(legend)
        matrix.update(np.where(bins == number, truth, np.uint8(NODATA)), prediction)
        matrices.append(matrix)
    return matrices


def boundary_scores(matrices: Sequence[ConfusionMatrix]) -> dict[str, Any]:
    """Return the scores of each bin of distances as plain data.

    Args:
        matrices: One for each of :data:`DISTANCE_BINS_M`, summed over all images.

    Returns:
        ``metric`` (always the challenge's) and ``bins``, from the boundaries outwards: ``from_m``, ``to_m``
        (None: no limit), ``pixels`` and ``share`` of the scored pixels, ``miou, iou{name: value},
        pixel_accuracy`` of the bin; ``beyond``: the same of all pixels at ``from_m`` or more.
    """
    legend = matrices[0].legend
    scored = sum(_scored_pixels(matrix) for matrix in matrices)
    rows = []
    for number, (start, stop) in enumerate(zip(DISTANCE_BINS_M, (*DISTANCE_BINS_M[1:], None), strict=True)):
        beyond = reduce(operator.add, matrices[number:], ConfusionMatrix(legend))
        rows.append(
            {
                "from_m": start,
                "to_m": stop,
                **_scores(matrices[number], scored),
                "beyond": _scores(beyond, scored),
            }
        )
    return {"metric": "challenge", "bins": rows}


def bin_name(from_m: float, to_m: float | None) -> str:
    """Return a name of a bin of distances: ``5 to 10 m``, or ``over 40 m`` without an upper limit."""
    return f"over {from_m:g} m" if to_m is None else f"{from_m:g} to {to_m:g} m"


def _scores(matrix: ConfusionMatrix, scored: int) -> dict[str, Any]:
    pixels = _scored_pixels(matrix)
    share = pixels / scored if scored else None
    return {"pixels": pixels, "share": share, **matrix.scores("challenge").to_dict()}


def _scored_pixels(matrix: ConfusionMatrix) -> int:
    return int(matrix.table[list(matrix.legend.scored)].sum())
