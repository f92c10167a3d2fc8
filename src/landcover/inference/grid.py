"""How a scene is covered with windows, and how the network's answers return to the scene's pixels.

A scene has three grids: its own pixels; the *model's* pixels, at the ground sample distance of the training
imagery; and the *logit grid* of the network's output, one cell per output stride. Windows begin and end at
cells of the logit grid.

Cell ``i`` of ``n`` that cover a length has its centre at ``i + 0.5`` cells, and pixels have theirs alike:
nothing moves by half a pixel. Beyond the outermost centres the outermost values continue.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from landcover._typing import Float32Array, Int64Array, UInt8Array
from landcover.errors import ImageError, UsageError
from landcover.model.card import ModelCard
from landcover.model.preprocessing import Size, scaled_size, source_rows
from landcover.model.runtimes import Runtime
from landcover.scale import check_gsd
from landcover.windows import Span, Window, cannot_overlap, spans

WHOLE_PX = 1536
"""Longest side, in pixels at the model's GSD, up to which a scene is one window by default."""

_COARSEST = 10
_BLOCK_PX = 1 << 17
"""Pixels that are interpolated at a time, so that their values stay in the processor's cache."""


class Axis(NamedTuple):
    """Positions of pixels between cells along one axis.

    Attributes:
        low: int64 (pixels,): the cell whose centre is at or before the pixel's; never decreasing.
        weight: float32 (pixels,) in 0..1: weight of the cell after it.
    """

    low: Int64Array
    weight: Float32Array

    def part(self, start: int, stop: int, first_cell: int = 0) -> "Axis":
        """Return pixels ``start`` to ``stop``, with cells counted from ``first_cell``."""
        return Axis(self.low[start:stop] - first_cell, self.weight[start:stop])


def axis(pixels: int, cells: int, cells_per_pixel: float) -> Axis:
    """Place pixels of a length between cells; both begin at the same edge, the last cell may end later."""
    position = np.clip((np.arange(pixels) + 0.5) * cells_per_pixel - 0.5, 0, cells - 1)
    low = np.minimum(position.astype(np.int64), max(cells - 2, 0))
    return Axis(low, (position - low).astype(np.float32))


@dataclass(frozen=True, slots=True)
class Grid:
    """How a scene is covered with windows.

    Attributes:
        size: Height and width in the scene's own pixels.
        model_size: Height and width in the model's pixels.
        stride: Model pixels per cell.
        rows: Windows from top to bottom, in cells.
        cols: Windows from left to right, in cells.
        own_rows: The scene's rows of pixels between rows of cells.
        own_cols: The columns of the part between columns of cells, which count from the first of ``cols``.
        part: The pixels that are mapped; the windows are those of the whole scene.
    """

    size: Size
    model_size: Size
    stride: int
    rows: list[Span]
    cols: list[Span]
    own_rows: Axis
    own_cols: Axis
    part: Window

    @property
    def model_cols(self) -> slice:
        """Columns of the model's pixels that the windows cover."""
        return slice(
            self.cols[0].start * self.stride, min(self.cols[-1].stop * self.stride, self.model_size[1])
        )

    @property
    def source_cols(self) -> slice:
        """Columns of the scene's pixels that they are resampled from."""
        if self.size == self.model_size:
            return self.model_cols
        return source_rows(self.model_cols, self.size[1], self.model_size[1])

    @property
    def blocks(self) -> range:
        """The row blocks with rows of the part."""
        if self.part.height == self.size[0]:
            return range(len(self.rows))
        ends = [self.block_rows(number) for number in range(len(self.rows))]
        top, bottom = self.part.row, self.part.row + self.part.height
        numbers = [n for n, (start, stop) in enumerate(ends) if max(start, top) < min(stop, bottom)]
        return range(numbers[0], numbers[-1] + 1)

    def final_cells(self, block: int) -> int:
        """Return how many rows of the logit grid are complete after row of windows ``block``."""
        return self.rows[block + 1].start if block + 1 < len(self.rows) else self.rows[-1].stop

    def first_cell(self, block: int) -> int:
        """Return the first row of the logit grid that a row block has; it shares it with the block above."""
        return self.final_cells(block - 1) - 1 if block else 0

    def block_rows(self, block: int) -> tuple[int, int]:
        """Return the first row of a row block, in the scene's own pixels, and the row after its last."""
        # A pixel needs the row of the logit grid before it and the one after.
        ends = [self.final_cells(number) - 1 for number in (max(block - 1, 0), block)]
        start, stop = np.searchsorted(self.own_rows.low, ends).tolist()
        return start if block else 0, self.size[0] if block + 1 == len(self.rows) else stop

    def first_needed(self, block: int) -> int:
        """Return the row of windows to begin with, so that the whole of a row block is computed."""
        needed = self.first_cell(block)
        return next(number for number, span in enumerate(self.rows) if span.stop > needed)


def make_grid(
    size: Size,
    runtime: Runtime,
    *,
    gsd: float | tuple[float, float] | None = None,
    window_px: int | None = None,
    overlap_px: int | None = None,
    part: Window | None = None,
) -> Grid:
    """Cover a scene of (height, width) with windows.

    ``gsd`` is the scene's ground sample distance in metres per pixel, or (down, across) where pixels are not
    square on the ground; without it the model's. ``window_px`` is the side of the window at the model's GSD,
    rounded up to whole cells; 0: the whole scene at once; None: whole up to :data:`WHOLE_PX`, beyond it the
    window of the model's card. Neighbours share ``overlap_px``; None: that of the card for its own window, a
    quarter of another one. ``part`` are the pixels to map, None: all; columns of windows that do not reach
    them are left out.
    """
    card, stride = runtime.card, runtime.stride
    model_gsd = card.preprocessing.gsd
    check_windows(card, window_px, overlap_px)
    sides = gsd if isinstance(gsd, tuple) else (model_gsd if gsd is None else gsd,) * 2
    scales = [check_gsd(side) / model_gsd for side in sides]
    if max(scales) > _COARSEST:
        raise ImageError(
            f"The imagery has {max(sides):g} m per pixel, more than {_COARSEST} times the model's "
            f"{model_gsd:g} m: it is too coarse for this model. If the scale is wrong, pass --gsd."
        )
    model_size = scaled_size((size[0], 1), scales[0])[0], scaled_size((1, size[1]), scales[1])[1]
    if window_px is None:
        window_px = 0 if max(model_size) <= WHOLE_PX else card.window_px
    if overlap_px is None:
        overlap_px = card.overlap_px if window_px == card.window_px else window_px // 4
    cells = [-(-side // stride) for side in model_size]
    window = -(-window_px // stride) or max(cells)
    overlap = min(-(-overlap_px // stride), window - 1) if window_px else 0
    down, across = (
        axis(own, n, model / own / stride) for own, n, model in zip(size, cells, model_size, strict=True)
    )
    rows, cols = (spans(count, window, overlap) for count in cells)
    part = part or Window(0, 0, *size)
    if part.width < size[1]:
        across = across.part(part.col, part.col + part.width)
        first, stop = int(across.low[0]), int(across.low[-1]) + 2
        cols = [col for col in cols if col.weights[max(0, first - col.start) : stop - col.start].any()]
        across = across.part(0, part.width, cols[0].start)
    return Grid(size, model_size, stride, rows, cols, down, across, part)


def check_windows(card: ModelCard, window_px: int | None, overlap_px: int | None) -> None:
    """Check window and overlap as for :func:`make_grid`, also where a scene is one window."""
    window_px = card.window_px if window_px is None else window_px
    if window_px < 0:
        raise UsageError(
            f"The window is {window_px} px; expected a number of pixels, or 0 for whole images at once."
        )
    if overlap_px is not None and (overlap_px < 0 or 0 < window_px <= overlap_px):
        raise cannot_overlap(window_px, overlap_px)


def upsample(values: Float32Array, rows: Axis, cols: Axis) -> Float32Array:
    """Interpolate float32 (C, n, m) bilinearly at pixels between its n rows and m columns of cells.

    Returns:
        float32 (C, len(rows.low), len(cols.low)); where the values of a cell sum to one over C, so do these.
    """
    return _mix(_mix(values, rows, 1), cols, 2)


def upsampled_argmax(values: Float32Array, rows: Axis, cols: Axis, labels: UInt8Array) -> UInt8Array:
    """Return the label of the largest value over C of :func:`upsample`, interpolating at boundaries only.

    Between four cells with one winner that class wins everywhere, since interpolation is a weighted mean.
    Winners differ at a few per cent of the pixels of a map with large areas.

    Returns:
        uint8 (len(rows.low), len(cols.low)) of the ``labels``, uint8 (C,); of equal classes the first.
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
    for start in range(0, len(above), step):
        up, side = above[start : start + step], left[start : start + step]
        i, j = row_cells[up], col_cells[side]
        corners = np.stack(
            [values[:, i, j], values[:, i + 1, j], values[:, i, j + 1], values[:, i + 1, j + 1]]
        )
        # A class can win unless another is larger everywhere: as a rule two. Places with most come first.
        able = corners.max(axis=0) >= corners.min(axis=0).max(axis=0)
        counts = able.sum(axis=0)
        order = np.argsort(-counts, kind="stable")
        classes = np.nonzero(able.T[order])[1]
        firsts = counts[order].cumsum() - counts[order]
        contenders = [classes[firsts[: np.count_nonzero(counts > n)] + n] for n in range(counts.max())]
        odds = [corners[:, classes, order[: len(classes)]] for classes in contenders]
        y, x = down[:, up[order]], right[:, side[order]]
        winner = _largest(odds, rows.weight[y], cols.weight[x], [labels[n] for n in contenders], scratch)
        result[y[:, None], x] = winner
    return result


def _pieces(place: Axis) -> Int64Array:
    """Return the pixels between each cell and the next, int64 (length, pieces); short ones repeat their last.

    The outermost cells, which have more pixels than the others, are divided.
    """
    first, counts = np.unique(place.low, return_index=True, return_counts=True)[1:]
    length = np.sort(counts)[-3:][0]
    inside = np.arange(len(place.low)) - np.repeat(first, counts)
    starts = np.flatnonzero(inside % length == 0)
    ends = np.append(starts[1:], len(place.low))
    pixels: Int64Array = np.minimum(starts + np.arange(length)[:, None], ends - 1)
    return pixels


def _largest(
    odds: list[Float32Array],
    down: Float32Array,
    right: Float32Array,
    labels: list[UInt8Array],
    scratch: Float32Array,
) -> UInt8Array:
    """Return the labels, uint8 (h, w, Q), of the largest of interpolated contenders; of equal ones the first.

    Of each contender ``odds`` are float32 (4, n), its values at the four corners of the first n of Q places,
    and ``labels`` uint8 (n,). ``down`` (h, Q) and ``right`` (w, Q) are the weights of the lower and the right
    corners, ``scratch`` is float32 (2, h, w, Q or more).
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
