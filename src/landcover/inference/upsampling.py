"""From the network's coarse cells to pixels: bilinear interpolation and its argmax.

Cell ``i`` of ``n`` that cover a length lies with its centre at ``i + 0.5`` cells; pixel centres likewise, so
that nothing moves by half a pixel. Beyond the outermost centres the outermost values go on.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from landcover.legend import UInt8Array

Float32Array = npt.NDArray[np.float32]

_BLOCK_VALUES = 1 << 20


class Axis(NamedTuple):
    """Where pixels lie between cells along one axis.

    Attributes:
        low: int64 (pixels,): the cell whose centre is at or before the pixel's; never decreasing.
        weight: float32 (pixels,) in 0..1: how much the cell after it counts.
    """

    low: npt.NDArray[np.int64]
    weight: Float32Array

    def part(self, start: int, stop: int, first_cell: int = 0) -> "Axis":
        """Return pixels ``start`` to ``stop``, with cells counted from ``first_cell``."""
        return Axis(self.low[start:stop] - first_cell, self.weight[start:stop])


def axis(pixels: int, cells: int, cells_per_pixel: float) -> Axis:
    """Place pixels between cells; both begin at the same edge.

    Args:
        pixels: Number of pixels.
        cells: Number of cells; the last may reach beyond the last pixel.
        cells_per_pixel: Length of a pixel in cells.
    """
    position = np.clip((np.arange(pixels) + 0.5) * cells_per_pixel - 0.5, 0, cells - 1)
    low = np.minimum(position.astype(np.int64), max(cells - 2, 0))
    return Axis(low, (position - low).astype(np.float32))


def upsample(values: Float32Array, rows: Axis, cols: Axis) -> Float32Array:
    """Interpolate bilinearly.

    Args:
        values: float32 (C, n, m).
        rows: Pixels between the n rows of cells.
        cols: Pixels between the m columns of cells.

    Returns:
        float32 (C, len(rows.low), len(cols.low)); where the values of a cell sum to one over C, so do these.
    """
    return _mix(_mix(values, rows, 1), cols, 2)


def upsampled_argmax(values: Float32Array, rows: Axis, cols: Axis, labels: UInt8Array) -> UInt8Array:
    """Return the label of the largest value over C of :func:`upsample`, computed only where it is not known.

    Between four cells with one winner that class wins everywhere: interpolation is a weighted mean, and the
    class is the largest in all that is averaged. Only where the winners differ, along the borders of classes,
    are the values interpolated; in a map with large areas that is a few per cent of the pixels.

    Args:
        values: float32 (C, n, m), C up to 256.
        rows: Pixels between the n rows of cells.
        cols: Pixels between the m columns of cells.
        labels: uint8 (C,): what stands for each in the result.

    Returns:
        uint8 (len(rows.low), len(cols.low)); of equal classes the first.
    """
    values = _with_next(_with_next(values, 1), 2)
    winners = labels[values.argmax(axis=0)]
    result: UInt8Array = winners.take(cols.low, axis=1)[rows.low]
    corner = winners[:-1, :-1]
    mixed = (corner != winners[1:, :-1]) | (corner != winners[:-1, 1:]) | (corner != winners[1:, 1:])
    above, left = np.nonzero(mixed)
    row_starts, row_counts = _pixels_of_cells(rows, values.shape[1] - 1)
    col_starts, col_counts = _pixels_of_cells(cols, values.shape[2] - 1)
    seen = (row_counts[above] > 0) & (col_counts[left] > 0)
    above, left = above[seen], left[seen]
    if not len(above):
        return result
    height, width = row_counts.max(), col_counts.max()
    step = max(1, _BLOCK_VALUES // int(height * width))
    for first in range(0, len(above), step):
        i, j = above[first : first + step], left[first : first + step]
        # A cell with fewer pixels than the largest repeats its last one.
        y = row_starts[i][:, None] + np.minimum(np.arange(height), row_counts[i][:, None] - 1)
        x = col_starts[j][:, None] + np.minimum(np.arange(width), col_counts[j][:, None] - 1)
        winner = _argmax_between(values, i, j, rows.weight[y], cols.weight[x], labels)
        result[y[:, :, None], x[:, None, :]] = winner
    return result


def _argmax_between(
    values: Float32Array,
    i: npt.NDArray[np.int64],
    j: npt.NDArray[np.int64],
    down: Float32Array,
    right: Float32Array,
    labels: UInt8Array,
) -> UInt8Array:
    """uint8 (Q, h, w): winners between the cells (i, j) and (i + 1, j + 1), at weights (Q, h) and (Q, w)."""
    shape = (len(i), down.shape[1], right.shape[1])
    best, winner = np.full(shape, -np.inf, np.float32), np.zeros(shape, np.uint8)
    better = np.empty(shape, bool)
    for plane, label in zip(values, labels, strict=True):
        first, second = plane[i, j][:, None], plane[i, j + 1][:, None]
        first = first + (plane[i + 1, j][:, None] - first) * down
        second = second + (plane[i + 1, j + 1][:, None] - second) * down
        value = (second - first)[:, :, None] * right[:, None, :]
        value += first[:, :, None]
        np.greater(value, best, out=better)
        np.copyto(best, value, where=better)
        np.copyto(winner, label, where=better)
    return winner


def _pixels_of_cells(place: Axis, cells: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """First pixel and number of pixels between each cell and the next."""
    edges = np.searchsorted(place.low, np.arange(cells + 1))
    return edges[:-1], np.diff(edges)


def _with_next(values: Float32Array, dimension: int) -> Float32Array:
    """Repeat a single cell along a dimension, so that there is a next one."""
    return values.repeat(2, axis=dimension) if values.shape[dimension] == 1 else values


def _mix(values: Float32Array, place: Axis, dimension: int) -> Float32Array:
    """Interpolate along one dimension of float32 (C, n, m)."""
    values = _with_next(values, dimension)
    low = values.take(place.low, axis=dimension)
    change = values.take(place.low + 1, axis=dimension)
    change -= low
    change *= place.weight[:, None] if dimension == 1 else place.weight
    low += change
    return low
