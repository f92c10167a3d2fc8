"""The scene engine: imagery of any size in, class probabilities in bands of rows out.

Reader, network and whoever uses the bands work at the same time, each in a thread, and hand on one strip at
a time. Probabilities are blended in cells (see :mod:`landcover.inference.grid`), and a band is brought to
the scene's own pixels once, by its consumer. Probabilities are averaged, never logits: logits of different
windows have no common zero (https://github.com/BloodAxe/pytorch-toolbelt/issues/23).

Memory depends on the width of the scene and not on its height. For W columns at a GSD of g, a model at G,
windows of P model pixels and C classes: 4 W bytes times the rows of a reading step, 4 P W g / G bytes for the
model's pixels of a row of windows and their mask, 4 C P W g / (G stride^2) for the sums, and W P G / g for
the rows that the consumer makes of a band; twice, since the next is being made.
"""

from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass

import numpy as np

from landcover.errors import ModelError
from landcover.inference.filling import mirrored
from landcover.inference.grid import Grid
from landcover.inference.prefetch import prefetch
from landcover.inference.reading import BoolArray, Source, Validity, WindowRow, window_rows
from landcover.inference.upsampling import Axis, Float32Array, upsample, upsampled_argmax
from landcover.legend import Legend, UInt8Array
from landcover.model.runtimes import Runtime
from landcover.ood import NOTHING, ImageryProfile, Look, look
from landcover.windows import Span

_MINIMUM_PX = 32
_PART_PX = 128


@dataclass(frozen=True, slots=True)
class Band:
    """Finished rows of a scene, still in cells.

    Attributes:
        start: First row of the scene's own pixels.
        stop: Row after the last.
        cells: float32 (C, n, m) probabilities; zero over C where no window saw imagery.
        rows: The band's rows between the n rows of cells.
        cols: The scene's columns between the m columns of cells.
        valid: bool (stop - start, W) where there is imagery; None: everywhere.
        look: How its windows compare with the imagery that the model learned from.
    """

    start: int
    stop: int
    cells: Float32Array
    rows: Axis
    cols: Axis
    valid: BoolArray | None
    look: Look = NOTHING

    def index(self, legend: Legend) -> UInt8Array:
        """Return uint8 (rows, W): the most probable class, also where there is no imagery."""
        return upsampled_argmax(self.cells, self.rows, self.cols, np.array(legend.scored, np.uint8))

    def probabilities(self) -> Iterator[tuple[slice, Float32Array]]:
        """Yield rows of the band (0: its first) in parts, with float32 (C, n, W)."""
        for top in range(0, self.stop - self.start, _PART_PX):
            part = slice(top, min(top + _PART_PX, self.stop - self.start))
            values = upsample(self.cells, self.rows.part(part.start, part.stop), self.cols)
            if self.valid is not None:  # beside windows without imagery the weights sum to less than one
                total = values.sum(axis=0)
                np.divide(values, total, out=values, where=total > 0)
            yield part, values


def bands(
    runtime: Runtime,
    source: Source,
    grid: Grid,
    *,
    batch: int = 1,
    turns: bool = False,
    first: int = 0,
    profile: ImageryProfile | None = None,
) -> Iterator[Band]:
    """Classify a scene, a band for each row of windows.

    The bands follow one another without gap from the top (or from band ``first``) to the bottom. What they
    hold does not depend on timing, nor on ``first``.

    Args:
        runtime: The model.
        source: The scene.
        grid: Its windows.
        batch: Windows that the network gets at once.
        turns: Average over the eight turns and flips of each window (test-time augmentation): eight times
            the work.
        first: Band to begin with, for work that was interrupted.
        profile: What to compare the scene with, in the thread that reads; None: nothing.

    Raises:
        ModelError: If the model answers with values that are no numbers.
        ImageError: If the source cannot be read.
    """
    classes, width = len(runtime.card.legend.scored), grid.cols[-1].stop
    begin = _first_needed(grid, first)
    top = grid.rows[begin].start
    sums = np.zeros((classes, 0, width), np.float32)
    valid, seen = Validity(), NOTHING
    mean = runtime.card.preprocessing.mean
    looked = _looked(window_rows(source, grid, begin, mean), grid, begin, profile)
    with closing(prefetch(looked)) as rows:
        for number, (row, looks) in enumerate(rows, begin):
            span = grid.rows[number]
            grown = np.zeros((classes, span.stop - top, width), np.float32)
            grown[:, : sums.shape[1]] = sums
            sums = grown
            target = sums[:, span.start - top :]
            _classify_row(runtime, row, grid, span, target, batch=batch, turns=turns)
            valid.extend(row.valid)
            if number < first:
                continue
            seen += looks
            start, stop, final = grid.band_stop(number - 1), grid.band_stop(number), grid.final_cells(number)
            if start < stop:
                low = int(grid.own_rows.low[start])
                place = grid.own_rows.part(start, stop, low)
                cells = sums[:, low - top : final - top]
                yield Band(start, stop, cells, place, grid.own_cols, valid.take(start, stop), seen)
                seen = NOTHING
            sums, top = sums[:, final - 1 - top :], final - 1


def _looked(
    rows: Iterable[WindowRow], grid: Grid, begin: int, profile: ImageryProfile | None
) -> Iterator[tuple[WindowRow, Look]]:
    """Compare what each row of windows sees first, which together is the scene, with a profile."""
    height, width = grid.model_size
    for number, row in enumerate(rows, begin):
        if profile is None:
            yield row, NOTHING
            continue
        top, above = grid.rows[number].start, grid.rows[number - 1].stop if number else 0
        fresh = slice((above - top) * grid.stride, height - top * grid.stride), slice(width)
        yield row, look(profile, row.image[fresh], None if row.whole is None else row.whole[fresh])


def _first_needed(grid: Grid, band: int) -> int:
    """Row of windows to begin with, so that all that ``band`` holds is computed."""
    if band == 0:
        return 0
    needed = grid.final_cells(band - 1) - 1
    return next(number for number, span in enumerate(grid.rows) if span.stop > needed)


def _classify_row(
    runtime: Runtime,
    row: WindowRow,
    grid: Grid,
    span: Span,
    sums: Float32Array,
    *,
    batch: int,
    turns: bool,
) -> None:
    """Add the weighted answers of a row of windows to float32 (C, span.length, cells of the width)."""
    columns = [col for col, seen in zip(grid.cols, row.seen, strict=True) if seen]
    for start in range(0, len(columns), batch):
        group = columns[start : start + batch]
        crops = [_crop(row, slice(col.start * grid.stride, col.stop * grid.stride)) for col in group]
        images = np.ascontiguousarray(crops[0])[None] if len(crops) == 1 else np.stack(crops)
        answers = _turned(runtime, images) if turns else _classify(runtime, images)
        for col, answer in zip(group, answers, strict=True):
            weighted = answer * span.weights[:, None]
            weighted *= col.weights
            sums[:, :, col.start : col.stop] += weighted


def _crop(row: WindowRow, columns: slice) -> UInt8Array:
    image = row.image[:, columns]
    return image if row.whole is None else mirrored(image, row.whole[:, columns])


def _classify(runtime: Runtime, images: UInt8Array) -> Float32Array:
    """Run the network on uint8 (N, H, W, 3), mirrored outwards where smaller than a network can take."""
    height, width = images.shape[1:3]
    cells = -(-height // runtime.stride), -(-width // runtime.stride)
    below, right = max(0, _MINIMUM_PX - height), max(0, _MINIMUM_PX - width)
    if below or right:
        images = np.pad(images, ((0, 0), (0, below), (0, right), (0, 0)), mode="symmetric")
    probabilities = runtime.coarse(images)[:, :, : cells[0], : cells[1]]
    if not np.isfinite(probabilities).all():  # argmax would make a map of it all the same
        raise ModelError(
            "The model answers with values that are no numbers: its weights are damaged, or its training "
            "broke down. Copy the model again, or train anew."
        )
    return probabilities


def _turned(runtime: Runtime, images: UInt8Array) -> Float32Array:
    """Mean of the answers for the eight symmetries of a square: four quarter turns, each also mirrored."""
    total: Float32Array | float = 0.0
    for flipped in (False, True):
        looked = images[:, :, ::-1] if flipped else images
        for quarter in range(4):
            turned = np.ascontiguousarray(np.rot90(looked, quarter, axes=(1, 2)))
            answer = np.rot90(_classify(runtime, turned), -quarter, axes=(2, 3))
            total = total + (answer[..., ::-1] if flipped else answer)
    result: Float32Array = np.asarray(total, np.float32) / np.float32(8)
    return result
