"""The scene engine: imagery of any size in, class probabilities in row blocks out.

Reader, network and the consumer of the blocks work at the same time, each in a thread. Probabilities are
blended on the logit grid (see :mod:`landcover.inference.grid`), and a block is upsampled to the scene's own
pixels once, by its consumer. Probabilities are averaged, never logits: logits of different windows have no
common zero (https://github.com/BloodAxe/pytorch-toolbelt/issues/23).

Memory depends on the width of the scene and not on its height. For W columns at a GSD of g, a model at G,
windows of P model pixels and C classes: 4 W bytes times the rows of a reading step, 4 P W g / G bytes for the
model's pixels of a row of windows and their mask, 4 C P W g / (G stride^2) for the sums, and W P G / g for
the rows that the consumer makes of a block; twice, since the next is being computed.
"""

from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field

import numpy as np

from landcover._typing import BoolArray, Float32Array, UInt8Array
from landcover.errors import ModelError
from landcover.inference.grid import Axis, Grid, axis, make_grid, upsample, upsampled_argmax
from landcover.inference.reading import ArraySource, ReadRows, Source, WindowRow, valid_rows, window_rows
from landcover.io.readahead import read_ahead
from landcover.legend import NODATA, Legend
from landcover.model.preprocessing import mirrored, resample_image
from landcover.model.runtimes import Runtime
from landcover.ood.profile import ImageryProfile, OodStats, ood_stats
from landcover.values import Views, check_views
from landcover.windows import Span

_MINIMUM_PX = 32
_CHUNK_ROWS = 128


@dataclass(frozen=True, slots=True)
class RowBlock:
    """Finished rows of a scene, still on the logit grid.

    Attributes:
        number: The row of windows that completed it; its rows are those of ``grid.block_rows(number)`` in the
            part that is mapped.
        start: First row in the pixels of the part.
        stop: Row after the last; a block may be empty.
        logit_grid: float32 (C, n, m) probabilities; zero over C where no window contains imagery.
        rows: The block's rows between the n rows of the logit grid.
        cols: The columns of the part between its m columns.
        valid: bool (stop - start, W) where there is imagery that is mapped; None: everywhere.
        ood: How the imagery that its row of windows adds compares with the training imagery.
    """

    number: int
    start: int
    stop: int
    logit_grid: Float32Array
    rows: Axis
    cols: Axis
    valid: BoolArray | None
    ood: OodStats = field(default_factory=OodStats)

    def class_indices(self, legend: Legend) -> UInt8Array:
        """Return uint8 (rows, W): the most probable class, also where there is no imagery."""
        if self.start == self.stop:
            return np.empty((0, len(self.cols.low)), np.uint8)
        return upsampled_argmax(self.logit_grid, self.rows, self.cols, np.array(legend.scored, np.uint8))

    def probabilities(self) -> Iterator[tuple[slice, Float32Array]]:
        """Yield rows of the block (0: its first) in chunks, with float32 (C, n, W); 0 without imagery."""
        for top in range(0, self.stop - self.start, _CHUNK_ROWS):
            chunk = slice(top, min(top + _CHUNK_ROWS, self.stop - self.start))
            values = upsample(self.logit_grid, self.rows.part(chunk.start, chunk.stop), self.cols)
            if self.valid is not None:  # beside windows without imagery the weights sum to less than one
                total = values.sum(axis=0)
                np.divide(values, total, out=values, where=total > 0)
                values[:, ~self.valid[chunk]] = 0
            yield chunk, values


def row_blocks(
    runtime: Runtime,
    source: Source,
    grid: Grid,
    *,
    numbers: range | None = None,
    batch: int = 1,
    views: Views | None = None,
    profile: ImageryProfile | None = None,
) -> Iterator[RowBlock]:
    """Classify a scene, or some consecutive row blocks of it: one for each row of windows.

    Blocks follow one another from top to bottom without a gap. The content of a block depends neither on
    timing nor on ``numbers``; a range that begins below the top computes the windows that overlap with its
    first block again. None: all blocks with rows of the part.

    The network gets ``batch`` windows per call. ``views`` of each are averaged; None: those of the model's
    card. The thread that reads compares the scene with ``profile``.
    """
    views = check_views(views) or runtime.card.views
    numbers = grid.blocks if numbers is None else numbers
    part, left = grid.part, grid.cols[0].start
    classes, width = len(runtime.card.legend.scored), grid.cols[-1].stop - left
    begin = grid.first_needed(numbers.start)
    top = grid.rows[begin].start
    sums = np.zeros((classes, 0, width), np.float32)
    read: list[ReadRows] = []
    within = range(begin, numbers.stop)

    def compared() -> Iterator[tuple[WindowRow, OodStats]]:
        """Read rows of windows, and compare what each adds to the one above with the profile."""
        height, columns = grid.model_size[0], slice(grid.model_cols.stop - grid.model_cols.start)
        rows = window_rows(source, grid, within, runtime.card.preprocessing.mean)
        for number, row in zip(within, rows, strict=True):
            first, above = grid.rows[number].start, grid.rows[number - 1].stop if number else 0
            added = slice((above - first) * grid.stride, height - first * grid.stride), columns
            whole = None if row.whole is None else row.whole[added]
            yield row, OodStats() if profile is None else ood_stats(profile, row.image[added], whole)

    with closing(read_ahead(compared())) as rows:
        early = OodStats()
        for number, (row, ood) in enumerate(rows, begin):
            span = grid.rows[number]
            grown = np.zeros((classes, span.stop - top, width), np.float32)
            grown[:, : sums.shape[1]] = sums
            sums = grown
            target = sums[:, span.start - top :]
            for col, answer in _classified(runtime, row, grid, batch=batch, views=views):
                weighted = answer * span.weights[:, None]
                weighted *= col.weights
                target[:, :, col.start - left : col.stop - left] += weighted
            read += row.valid
            if number < numbers.start:
                if numbers.start == grid.blocks.start:  # rows of windows above the part reach into it
                    early += ood
                continue
            (start, stop), final = grid.block_rows(number), grid.final_cells(number)
            if part.height < grid.size[0]:
                start, stop = max(start, part.row), min(stop, part.row + part.height)
            low = grid.first_cell(number)
            own_rows = grid.own_rows.part(start, stop, low)
            logit_grid = sums[:, low - top : final - top]
            mask = valid_rows(read, start, stop)
            if mask is not None and mask.shape[1] > part.width:
                mask = mask[:, part.col - grid.source_cols.start :][:, : part.width]
                mask = None if mask.all() else mask
            read = [rows for rows in read if rows[1] > stop]
            start, stop = start - part.row, stop - part.row
            yield RowBlock(number, start, stop, logit_grid, own_rows, grid.own_cols, mask, early + ood)
            early = OodStats()
            sums, top = sums[:, final - 1 - top :], final - 1


def _classified(
    runtime: Runtime, row: WindowRow, grid: Grid, *, batch: int, views: Views
) -> Iterator[tuple[Span, Float32Array]]:
    """Classify the windows of a row that contain imagery: columns and the views' mean, float32 (C, n, m)."""
    columns = [col for col, seen in zip(grid.cols, row.seen, strict=True) if seen]
    for start in range(0, len(columns), batch):
        group = columns[start : start + batch]
        crops = []
        for col in group:
            left = grid.cols[0].start
            pixels = slice((col.start - left) * grid.stride, (col.stop - left) * grid.stride)
            image = row.image[:, pixels]
            crops.append(image if row.whole is None else mirrored(image, row.whole[:, pixels]))
        images = np.ascontiguousarray(crops[0])[None] if len(crops) == 1 else np.stack(crops)
        answers = sum(_view_answers(runtime, images, views), np.zeros((), np.float32))
        answers /= np.float32(views)
        yield from zip(group, answers, strict=True)


def _run(runtime: Runtime, images: UInt8Array) -> Float32Array:
    """Run the network on uint8 (N, H, W, 3), mirrored outwards where smaller than a network accepts."""
    height, width = images.shape[1:3]
    cells = -(-height // runtime.stride), -(-width // runtime.stride)
    below, right = max(0, _MINIMUM_PX - height), max(0, _MINIMUM_PX - width)
    if below or right:
        images = np.pad(images, ((0, 0), (0, below), (0, right), (0, 0)), mode="symmetric")
    probabilities = runtime.coarse(images)[:, :, : cells[0], : cells[1]]
    if not np.isfinite(probabilities).all():  # argmax would make a map of them all the same
        raise ModelError(
            "The model returned NaN or infinite values: the file is corrupt or training diverged. Copy or "
            "export the model again."
        )
    return probabilities


def _view_answers(runtime: Runtime, images: UInt8Array, views: Views) -> Iterator[Float32Array]:
    """Run the network on each view of uint8 (N, H, W, 3) windows: float32 (N, C, n, m), on their cells."""
    for flipped in (False, True) if views == 8 else (False,):
        oriented = images[:, :, ::-1] if flipped else images
        for quarter in range(4 if views == 8 else 1):
            rotated = np.ascontiguousarray(np.rot90(oriented, quarter, axes=(1, 2)))
            answer = np.rot90(_run(runtime, rotated), -quarter, axes=(2, 3))
            yield answer[..., ::-1] if flipped else answer
    if views == 3:
        yield _run(runtime, np.ascontiguousarray(images[:, :, ::-1]))[..., ::-1]
    if views in (2, 3):
        yield _enlarged(runtime, images)


def _enlarged(runtime: Runtime, images: UInt8Array) -> Float32Array:
    """Run the network on windows enlarged 1.35 times, and return its answer on the cells of the windows.

    A side of n cells becomes one of 1.35 n, rounded, so that both grids cover the same ground. Pixels and
    probabilities are interpolated bilinearly.
    """
    cells = [side // runtime.stride for side in images.shape[1:3]]
    larger = [(27 * n + 10) // 20 for n in cells]  # in whole numbers: 1.35 n and a half, rounded down
    size = larger[0] * runtime.stride, larger[1] * runtime.stride
    answers = _run(runtime, np.stack([resample_image(image, size) for image in images]))
    rows, cols = (axis(n, m, m / n) for n, m in zip(cells, larger, strict=True))
    return np.stack([upsample(answer, rows, cols) for answer in answers])


def predict_probabilities(
    runtime: Runtime,
    image: UInt8Array,
    *,
    valid: BoolArray | None = None,
    gsd: float | tuple[float, float] | None = None,
    window_px: int | None = None,
    overlap_px: int | None = None,
    batch: int = 1,
    views: Views | None = None,
) -> Float32Array:
    """Return the probability of each scored class at each pixel of an image in memory, of any size.

    ``image`` is uint8 (H, W, B), RGB or the bands of the model's card; ``valid``, bool (H, W), is where there
    is imagery (None: everywhere). The others are those of :func:`make_grid` and :func:`row_blocks`.

    Returns:
        float32 (C, H, W), C in the order of ``legend.scored``; 0 without imagery. It takes 4 C bytes per
        pixel of the image.
    """
    source = ArraySource(image, valid, channels=runtime.card.preprocessing.channels)
    grid = make_grid(image.shape[:2], runtime, gsd=gsd, window_px=window_px, overlap_px=overlap_px)
    return whole_probabilities(row_blocks(runtime, source, grid, batch=batch, views=views), runtime, grid)


def whole_probabilities(blocks: Iterable[RowBlock], runtime: Runtime, grid: Grid) -> Float32Array:
    """Return the probabilities of all row blocks of a scene as one array, float32 (C, H, W)."""
    shape = len(runtime.card.legend.scored), grid.part.height, grid.part.width
    result = np.empty(shape, np.float32)
    for block in blocks:
        for chunk, values in block.probabilities():
            result[:, block.start + chunk.start : block.start + chunk.stop] = values
    return result


def predict_index(
    runtime: Runtime,
    image: UInt8Array,
    *,
    valid: BoolArray | None = None,
    gsd: float | tuple[float, float] | None = None,
    window_px: int | None = None,
    overlap_px: int | None = None,
    batch: int = 1,
    views: Views | None = None,
) -> UInt8Array:
    """Return the most probable class at each pixel; arguments and errors as :func:`predict_probabilities`.

    Returns:
        uint8 (H, W) class indices of the model's legend, ``NODATA`` without imagery; the unknown class is
        never among them. Equal to the argmax of :func:`predict_probabilities`, which is never held whole.
    """
    source = ArraySource(image, valid, channels=runtime.card.preprocessing.channels)
    grid = make_grid(image.shape[:2], runtime, gsd=gsd, window_px=window_px, overlap_px=overlap_px)
    blocks = row_blocks(runtime, source, grid, batch=batch, views=views)
    strips = [block.class_indices(runtime.card.legend) for block in blocks]
    index = strips[0] if len(strips) == 1 else np.concatenate(strips)
    return index if valid is None else np.where(valid, index, np.uint8(NODATA))
