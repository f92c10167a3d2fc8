"""From the network's coarse cells to pixels: bilinear interpolation and its argmax.

Cell ``i`` of ``n`` that cover a length lies with its centre at ``i + 0.5`` cells; pixel centres likewise, so
that nothing moves by half a pixel. Beyond the outermost centres the outermost values go on.
"""

from typing import NamedTuple

import numpy as np

from landcover._typing import Float32Array, Int64Array, UInt8Array

_BLOCK_PX = 1 << 17
"""Pixels that are interpolated at a time, so that their values stay in the processor's cache."""


class Axis(NamedTuple):
    """Where pixels lie between cells along one axis.

    Attributes:
        low: int64 (pixels,): the cell whose centre is at or before the pixel's; never decreasing.
        weight: float32 (pixels,) in 0..1: how much the cell after it counts.
    """

    low: Int64Array
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
    down, right = _pieces(rows), _pieces(cols)
    row_cells, col_cells = rows.low[down[0]], cols.low[right[0]]
    above, left = np.nonzero(mixed[row_cells][:, col_cells])
    step = max(1, min(len(above), _BLOCK_PX // (len(down) * len(right))))
    # Memory is slow where it is touched for the first time.
    scratch = np.empty((2, len(down), len(right), step), np.float32)
    for first in range(0, len(above), step):
        up, side = above[first : first + step], left[first : first + step]
        i, j = row_cells[up], col_cells[side]
        corners = np.stack(
            [values[:, i, j], values[:, i + 1, j], values[:, i, j + 1], values[:, i + 1, j + 1]]
        )
        order, contenders = _contenders(corners)
        odds = [corners[:, classes, order[: len(classes)]] for classes in contenders]
        y, x = down[:, up[order]], right[:, side[order]]
        winner = _largest(odds, rows.weight[y], cols.weight[x], [labels[n] for n in contenders], scratch)
        result[y[:, None], x] = winner
    return result


def _pieces(place: Axis) -> Int64Array:
    """Return the pixels between each cell and the next, int64 (length, pieces); short ones repeat their last.

    The outermost cells reach to the edge and have more pixels than others; they are cut, to waste none.
    """
    first, counts = np.unique(place.low, return_index=True, return_counts=True)[1:]
    length = np.sort(counts)[-3:][0]
    inside = np.arange(len(place.low)) - np.repeat(first, counts)
    starts = np.flatnonzero(inside % length == 0)
    ends = np.append(starts[1:], len(place.low))
    pixels: Int64Array = np.minimum(starts + np.arange(length)[:, None], ends - 1)
    return pixels


def _contenders(corners: Float32Array) -> tuple[Int64Array, list[Int64Array]]:
    """Find the classes that can win between the cells at the corners, as a rule two of them.

    A class is out where it is nowhere as large as another is everywhere.

    Args:
        corners: float32 (4, C, Q).

    Returns:
        An order of the Q places, those with the most contenders first; and in this order their first
        contenders, their second ones and so on, of as many places as have them.
    """
    able = corners.max(axis=0) >= corners.min(axis=0).max(axis=0)
    counts = able.sum(axis=0)
    order = np.argsort(-counts, kind="stable")
    classes = np.nonzero(able.T[order])[1]
    firsts = counts[order].cumsum() - counts[order]
    return order, [classes[firsts[: np.count_nonzero(counts > n)] + n] for n in range(counts.max())]


def _largest(
    odds: list[Float32Array],
    down: Float32Array,
    right: Float32Array,
    labels: list[UInt8Array],
    scratch: Float32Array,
) -> UInt8Array:
    """Return the labels of the largest of interpolated contenders; of equal ones the first.

    Args:
        odds: Of each contender float32 (4, n): its values at the four corners of the first n of Q places.
        down: float32 (h, Q): weights of the lower corners.
        right: float32 (w, Q): weights of the right corners.
        labels: Of each contender uint8 (n,).
        scratch: float32 (2, h, w, Q or more).

    Returns:
        uint8 (h, w, Q).
    """
    best = _between(odds[0], down, right, scratch[0])
    winner = np.broadcast_to(labels[0], best.shape).copy()
    for corners, label in zip(odds[1:], labels[1:], strict=True):
        n = len(label)
        value = _between(corners, down[:, :n], right[:, :n], scratch[1])
        # Sums of bytes, which wrap around: several times as fast as assigning where it is better.
        better = (value > best[..., :n]).view(np.uint8)
        better *= label - winner[..., :n]
        winner[..., :n] += better
        np.maximum(best[..., :n], value, out=best[..., :n])
    return winner


def _between(
    corners: Float32Array, down: Float32Array, right: Float32Array, scratch: Float32Array
) -> Float32Array:
    """Interpolate between corners (4, n) at weights (h, n) and (w, n): float32 (h, w, n), in ``scratch``."""
    first, below, second, below_second = corners
    first = first + (below - first) * down
    second = second + (below_second - second) * down
    value = scratch[..., : len(below)]
    np.multiply((second - first)[:, None], right, out=value)
    value += first[:, None]
    return value


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
