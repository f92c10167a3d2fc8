"""Scores by the distance of a pixel from the nearest border between classes of the truth.

Labels are drawn coarsely: near a border the truth itself is off by metres, and a map that is right there may
be told wrong. Away from borders there is no such excuse.

A border runs between two pixels side by side that have different known classes. Pixels of unknown truth make
none: what is below them may be the class beside them, and they are not scored either. The image's edge is no
border. The distance of a pixel is Euclidean: from its centre to that of the nearest pixel that touches a
border, and the half pixel from there to the border, which is exact along straight borders.
"""

import operator
from collections.abc import Sequence
from functools import reduce
from typing import Any

import numpy as np
import numpy.typing as npt

from landcover.legend import IGNORE, NODATA, Legend, UInt8Array
from landcover.metrics import ConfusionMatrix

BANDS_M = (0, 5, 10, 20, 40)
"""Where each band of distances begins, in metres; the last goes on for ever."""

_BLOCK_PX = 1 << 15
"""Pixels that are compared with their neighbours along rows at a time, so that they stay in the cache."""

Unsigned = npt.NDArray[np.unsignedinteger[Any]]


def squared_distance(truth: UInt8Array, legend: Legend, reach: int) -> Unsigned:
    """Return the squared distance of each pixel from the nearest pixel at a border, exact up to a reach.

    Down columns the distance is counted from pixel to pixel; along rows the least of ``x^2 + down^2`` over
    all neighbours within reach is the Euclidean one (two passes, as in Meijster et al. 2000, "A general
    algorithm for computing distance transforms in linear time", with a bound for the second).

    Args:
        truth: uint8 (H, W), class indices or NODATA.
        legend: Their meaning.
        reach: The longest distance of interest, 1 or more pixels.

    Returns:
        Unsigned (H, W), in squared pixels: 0 at a border, exact below ``reach ** 2``; what is farther away
        has that or more.
    """
    kind = np.min_scalar_type(2 * reach**2)
    down = np.where(_at_border(truth, legend), 0, reach).astype(kind)
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


def _at_border(truth: UInt8Array, legend: Legend) -> npt.NDArray[np.bool_]:
    """Return bool (H, W): which pixels have another known class above, below, left or right of them."""
    classes = legend.channels[truth]
    border = np.zeros(truth.shape, bool)
    for one, other in (
        ((slice(1, None), slice(None)), (slice(None, -1), slice(None))),
        ((slice(None), slice(1, None)), (slice(None), slice(None, -1))),
    ):
        here, there = classes[one], classes[other]
        differ = (here != there) & (here != IGNORE) & (there != IGNORE)
        border[one] |= differ
        border[other] |= differ
    return border


def bands(truth: UInt8Array, legend: Legend, gsd: float) -> UInt8Array:
    """Return the band of :data:`BANDS_M` that each pixel lies in: uint8 (H, W).

    Args:
        truth: uint8 (H, W), class indices or NODATA.
        legend: Their meaning.
        gsd: Metres per pixel.
    """
    limits = [max(0.0, limit / gsd - 0.5) for limit in BANDS_M[1:]]
    squared = squared_distance(truth, legend, max(1, int(np.ceil(limits[-1]))))
    band = np.zeros(truth.shape, np.uint8)
    for limit in limits:
        band += squared >= limit**2
    return band


def count_by_band(
    truth: UInt8Array, prediction: UInt8Array, legend: Legend, gsd: float
) -> list[ConfusionMatrix]:
    """Count one image, each band of distances by itself.

    Args:
        truth: uint8 (H, W), class indices or NODATA.
        prediction: uint8 (H, W), likewise.
        legend: Their meaning.
        gsd: Metres per pixel.

    Returns:
        A matrix for each of :data:`BANDS_M`.

    Raises:
        MaskError: If the prediction does not fit.
    """
    band = bands(truth, legend, gsd)
    matrices = []
    for number in range(len(BANDS_M)):
        matrix = ConfusionMatrix(legend)
        matrix.update(np.where(band == number, truth, np.uint8(NODATA)), prediction)
        matrices.append(matrix)
    return matrices


def border_scores(matrices: Sequence[ConfusionMatrix]) -> dict[str, Any]:
    """Return the scores of each band as plain data.

    Args:
        matrices: One for each of :data:`BANDS_M`, over all images.

    Returns:
        ``metric`` (the challenge's, always) and ``bands``, from the borders outwards: ``from_m``, ``to_m``
        (None: no end), ``pixels`` and ``share`` of the scored pixels, ``miou, iou{name: value},
        pixel_accuracy`` of the band; ``beyond``: the same of all pixels but those nearer than ``from_m``.
    """
    legend = matrices[0].legend
    scored = sum(_scored_pixels(matrix) for matrix in matrices)
    rows = []
    for number, (start, stop) in enumerate(zip(BANDS_M, (*BANDS_M[1:], None), strict=True)):
        beyond = reduce(operator.add, matrices[number:], ConfusionMatrix(legend))
        rows.append(
            {
                "from_m": start,
                "to_m": stop,
                **_scores(matrices[number], scored),
                "beyond": _scores(beyond, scored),
            }
        )
    return {"metric": "challenge", "bands": rows}


def band_name(from_m: float, to_m: float | None) -> str:
    """Return a name for a band of distances, such as ``5 to 10 m``; without an end, ``over 40 m``."""
    return f"over {from_m:g} m" if to_m is None else f"{from_m:g} to {to_m:g} m"


def _scores(matrix: ConfusionMatrix, scored: int) -> dict[str, Any]:
    pixels = _scored_pixels(matrix)
    share = pixels / scored if scored else None
    return {"pixels": pixels, "share": share, **matrix.scores("challenge").to_dict()}


def _scored_pixels(matrix: ConfusionMatrix) -> int:
    return int(matrix.table[list(matrix.legend.scored)].sum())
