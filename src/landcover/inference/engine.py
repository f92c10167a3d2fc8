"""The scene engine: imagery of any size in, class probabilities in bands of rows out.

Reader, network and whoever uses the bands work at the same time, each in a thread, and hand on one strip at
a time. Three grids lie over a scene: its own pixels; the *model's* pixels, at the ground sample distance that
the network knows; and the *cells* of the network's answers, ``stride`` model pixels wide. Windows begin and
end at cells, their probabilities are blended in cells, and a band is brought to the scene's own pixels once,
by its consumer. Probabilities are averaged, never logits: logits of different windows have no common zero
(https://github.com/BloodAxe/pytorch-toolbelt/issues/23).

Memory depends on the width of the scene and not on its height. For W columns at a GSD of g, a model at G,
windows of P model pixels and C classes: 4 W bytes times the rows of a reading step, 3 P W g / G bytes for the
model's pixels of a row of windows, 4 C P W g / (G stride^2) for the sums, and W P G / g for the rows that the
consumer makes of a band; twice, since the next is being made.
"""

import math
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from landcover.errors import ImageError, ModelError, UsageError
from landcover.inference.prefetch import prefetch
from landcover.inference.upsampling import Axis, Float32Array, axis, upsample, upsampled_argmax
from landcover.legend import Legend, UInt8Array
from landcover.preprocessing import Size, check_gsd, resample_rows, scaled_size, source_rows
from landcover.runtimes import Runtime
from landcover.windows import Span, cannot_overlap, spans

BoolArray = npt.NDArray[np.bool_]

WHOLE_PX = 1536
"""Longest side, on the model's grid, up to which a scene is given to the network whole by default."""

_MINIMUM_PX = 32
_COARSEST = 10
_STEP_PX = 128


class Strip(Protocol):
    """Rows of a scene: uint8 (n, W, 3), and bool (n, W) where there is imagery (None: everywhere)."""

    @property
    def image(self) -> UInt8Array: ...  # noqa: D102
    @property
    def valid(self) -> BoolArray | None: ...  # noqa: D102


class Source(Protocol):
    """Imagery that is read in strips from top to bottom, by one thread."""

    @property
    def height(self) -> int: ...  # noqa: D102
    @property
    def width(self) -> int: ...  # noqa: D102
    def read_rows(self, start: int, stop: int) -> Strip: ...  # noqa: D102


@dataclass(frozen=True, slots=True)
class ArrayStrip:
    """Rows of an array."""

    image: UInt8Array
    valid: BoolArray | None


@dataclass(frozen=True, slots=True)
class ArraySource:
    """An image in memory: uint8 (H, W, 3), and bool (H, W) where there is imagery (None: everywhere).

    Raises:
        UsageError: If the image is no uint8 (H, W, 3), or empty.
    """

    image: UInt8Array
    valid: BoolArray | None = None

    def __post_init__(self) -> None:
        image = self.image
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
            raise UsageError(
                f"Found an image of {image.dtype} {image.shape}; expected uint8 (height, width, 3)."
            )

    @property
    def height(self) -> int:
        """Rows."""
        return self.image.shape[0]

    @property
    def width(self) -> int:
        """Columns."""
        return self.image.shape[1]

    def read_rows(self, start: int, stop: int) -> ArrayStrip:
        """Return rows ``start`` to ``stop``."""
        return ArrayStrip(self.image[start:stop], None if self.valid is None else self.valid[start:stop])


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
        own_cols: Its columns between columns of cells.
    """

    size: Size
    model_size: Size
    stride: int
    rows: list[Span]
    cols: list[Span]
    own_rows: Axis
    own_cols: Axis

    def final_cells(self, band: int) -> int:
        """Rows of cells from the top that the rows of windows up to ``band`` complete."""
        return self.rows[band + 1].start if band + 1 < len(self.rows) else self.rows[-1].stop

    def band_stop(self, band: int) -> int:
        """Row after the last of the scene's own rows that band ``band`` consists of; band -1 is empty."""
        if band < 0:
            return 0
        if band + 1 == len(self.rows):
            return self.size[0]
        # A pixel needs the cell before it and the cell after.
        return int(np.searchsorted(self.own_rows.low, self.final_cells(band) - 1))


def make_grid(
    size: Size,
    runtime: Runtime,
    *,
    gsd: float | None = None,
    window_px: int | None = None,
    overlap_px: int | None = None,
) -> Grid:
    """Cover a scene with windows.

    Args:
        size: Height and width of the scene.
        runtime: The model.
        gsd: The scene's ground sample distance in metres per pixel. None: it is the model's.
        window_px: Side of the window in pixels of the model's grid, rounded up to whole cells. 0: the whole
            scene at once. None: whole up to :data:`WHOLE_PX`, beyond it the window that the card advises.
        overlap_px: Pixels that neighbouring windows share. None: what the card advises for its own window, a
            quarter of the window for another.

    Raises:
        UsageError: If GSD, window or overlap cannot be used.
        ImageError: If the scene is so much coarser than the model's imagery that nothing can be seen in it.
    """
    card, stride = runtime.card, runtime.stride
    model_gsd = card.preprocessing.gsd
    _check_windows(card.window_px if window_px is None else window_px, overlap_px)
    scale = 1.0 if gsd is None else check_gsd(gsd) / model_gsd
    if scale > _COARSEST:
        raise ImageError(
            f"The imagery has {gsd:g} m per pixel, more than {_COARSEST} times the model's {model_gsd:g} m: "
            "nothing that the model knows can be seen in it. If the scale is wrong, pass --gsd."
        )
    model_size = scaled_size(size, scale)
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
    return Grid(
        size,
        model_size,
        stride,
        spans(cells[0], window, overlap),
        spans(cells[1], window, overlap),
        down,
        across,
    )


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
    """

    start: int
    stop: int
    cells: Float32Array
    rows: Axis
    cols: Axis
    valid: BoolArray | None

    def index(self, legend: Legend) -> UInt8Array:
        """Return uint8 (rows, W): the most probable class, also where there is no imagery."""
        return np.array(legend.scored, np.uint8)[upsampled_argmax(self.cells, self.rows, self.cols)]

    def probabilities(self) -> Iterator[tuple[slice, Float32Array]]:
        """Yield rows of the band (0: its first) in parts, with float32 (C, n, W)."""
        for top in range(0, self.stop - self.start, _STEP_PX):
            part = slice(top, min(top + _STEP_PX, self.stop - self.start))
            values = upsample(self.cells, self.rows.part(part.start, part.stop), self.cols)
            if self.valid is not None:  # beside windows without imagery the weights sum to less than one
                total = values.sum(axis=0)
                np.divide(values, total, out=values, where=total > 0)
            yield part, values


def bands(
    runtime: Runtime, source: Source, grid: Grid, *, batch: int = 1, turns: bool = False, first: int = 0
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

    Raises:
        ModelError: If the model answers with values that are no numbers.
        ImageError: If the source cannot be read.
    """
    classes, width = len(runtime.card.legend.scored), grid.cols[-1].stop
    begin = _first_needed(grid, first)
    top = grid.rows[begin].start
    sums = np.zeros((classes, 0, width), np.float32)
    valid = _Validity()
    mean = runtime.card.preprocessing.mean
    with closing(prefetch(_window_rows(source, grid, begin, mean))) as rows:
        for number, row in enumerate(rows, begin):
            span = grid.rows[number]
            grown = np.zeros((classes, span.stop - top, width), np.float32)
            grown[:, : sums.shape[1]] = sums
            sums = grown
            target = sums[:, span.start - top :]
            _classify_row(runtime, row, grid, span, target, batch=batch, turns=turns)
            valid.extend(row.valid)
            if number < first:
                continue
            start, stop, final = grid.band_stop(number - 1), grid.band_stop(number), grid.final_cells(number)
            if start < stop:
                low = int(grid.own_rows.low[start])
                place = grid.own_rows.part(start, stop, low)
                cells = sums[:, low - top : final - top]
                yield Band(start, stop, cells, place, grid.own_cols, valid.take(start, stop))
            sums, top = sums[:, final - 1 - top :], final - 1


def _first_needed(grid: Grid, band: int) -> int:
    """Row of windows to begin with, so that all that ``band`` holds is computed."""
    if band == 0:
        return 0
    needed = grid.final_cells(band - 1) - 1
    return next(number for number, span in enumerate(grid.rows) if span.stop > needed)


def _check_windows(window_px: int, overlap_px: int | None) -> None:
    """Refuse what no scene can be covered with, also where this one is small enough to be given whole."""
    if window_px < 0:
        raise UsageError(
            f"Windows of {window_px} px are not possible; expected pixels, or 0 for whole images at once."
        )
    if overlap_px is not None and (overlap_px < 0 or 0 < window_px <= overlap_px):
        raise cannot_overlap(window_px, overlap_px)


# Reading


class _WindowRow(NamedTuple):
    """What a row of windows looks at.

    Attributes:
        image: uint8 (h, w, 3) at the model's scale, edges repeated to whole cells.
        seen: Which of its windows hold imagery.
        valid: Rows of the scene read with it: first, last and where they have imagery.
    """

    image: UInt8Array
    seen: list[bool]
    valid: list[tuple[int, int, BoolArray | None]]


def _window_rows(
    source: Source, grid: Grid, begin: int, mean: tuple[float, float, float]
) -> Iterator[_WindowRow]:
    """Read and resample a scene, each row of it once."""
    height, stride = grid.model_size[0], grid.stride
    have: list[_Step] = []
    # Steps lie where they lie whatever the windows and wherever work begins: resampling rounds.
    at = grid.rows[begin].start * stride // _STEP_PX * _STEP_PX
    reader = _Reader(source, grid, np.rint(255 * np.array(mean)).astype(np.uint8), at)
    for span in grid.rows[begin:]:
        top, bottom = span.start * stride, min(span.stop * stride, height)
        have = [step for step in have if step.stop > top]
        new = []
        while at < bottom:
            new.append(reader.read(at, min(at + _STEP_PX, height)))
            at = new[-1].stop
        have += new
        parts = [step.image[max(0, top - step.start) : bottom - step.start] for step in have]
        image = parts[0] if len(parts) == 1 else np.concatenate(parts)
        seen = np.logical_or.reduce([step.seen for step in have])
        padding = [(0, span.length * stride - len(image)), (0, grid.cols[-1].stop * stride - image.shape[1])]
        if any(after for _, after in padding):
            image = np.pad(image, (*padding, (0, 0)), mode="edge")
        yield _WindowRow(image, seen.tolist(), [valid for step in new for valid in step.valid])


class _Step(NamedTuple):
    """Rows ``start`` to ``stop`` of the model's grid."""

    start: int
    stop: int
    image: UInt8Array
    seen: BoolArray
    valid: list[tuple[int, int, BoolArray | None]]


class _Reader:
    """Reads rows at the model's scale from the top; keeps those of the source that it needs again."""

    def __init__(self, source: Source, grid: Grid, filling: UInt8Array, start: int) -> None:
        self._source, self._grid, self._filling = source, grid, filling
        self._strip = np.empty((0, grid.size[1], 3), np.uint8)
        self._valid: BoolArray | None = None
        self._top = source_rows(slice(start, start + 1), grid.size[0], grid.model_size[0]).start
        scale = grid.size[1] / grid.model_size[1] * grid.stride
        self._windows = [
            slice(math.floor(span.start * scale), max(1, math.ceil(span.stop * scale))) for span in grid.cols
        ]

    def read(self, start: int, stop: int) -> _Step:
        """Read the model's rows ``start`` to ``stop``."""
        grid = self._grid
        needed = source_rows(slice(start, stop), grid.size[0], grid.model_size[0])
        bottom = self._top + len(self._strip)
        fresh = []
        if needed.stop > bottom:
            strip = self._source.read_rows(bottom, needed.stop)
            fresh.append((bottom, needed.stop, strip.valid))
            self._append(strip)
        drop = needed.start - self._top
        self._strip, self._top = self._strip[drop:], needed.start
        self._valid = None if self._valid is None else self._valid[drop:]
        image = resample_rows(self._strip, self._top, slice(start, stop), grid.size, grid.model_size)
        return _Step(start, stop, image, self._seen(), fresh)

    def _append(self, strip: Strip) -> None:
        image, valid, have = strip.image, strip.valid, self._strip
        if valid is not None and not valid.all():
            # What stands where there is no imagery is arbitrary; the mean colour says least to a network.
            image = image.copy()
            image[~valid] = self._filling
        if valid is not None or self._valid is not None:
            above = np.ones(have.shape[:2], bool) if self._valid is None else self._valid
            below = np.ones(image.shape[:2], bool) if valid is None else valid
            self._valid = np.concatenate([above, below])
        self._strip = np.concatenate([have, image]) if len(have) else image

    def _seen(self) -> BoolArray:
        """Return bool (windows,): which windows of a row hold imagery in the strip."""
        if self._valid is None:
            return np.ones(len(self._windows), bool)
        columns = self._valid.any(axis=0)
        return np.array([columns[window].any() for window in self._windows])


class _Validity:
    """Where the scene's own rows have imagery, from when they are read until their band is finished."""

    def __init__(self) -> None:
        self._parts: list[tuple[int, int, BoolArray | None]] = []

    def extend(self, parts: list[tuple[int, int, BoolArray | None]]) -> None:
        self._parts += parts

    def take(self, start: int, stop: int) -> BoolArray | None:
        """Return rows ``start`` to ``stop``; rows above are forgotten."""
        parts = [part for part in self._parts if part[1] > start]
        self._parts = [part for part in parts if part[1] > stop]
        inside = [part for part in parts if part[0] < stop]
        arrays = [valid for _, _, valid in inside if valid is not None]
        if not arrays or all(valid.all() for valid in arrays):
            return None
        result = np.ones((stop - start, arrays[0].shape[1]), bool)
        for first, last, valid in inside:
            if valid is not None:
                a, b = max(first, start), min(last, stop)
                result[a - start : b - start] = valid[a - first : b - first]
        return result


# Network


def _classify_row(
    runtime: Runtime,
    row: _WindowRow,
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
        crops = [row.image[:, col.start * grid.stride : col.stop * grid.stride] for col in group]
        images = np.ascontiguousarray(crops[0])[None] if len(crops) == 1 else np.stack(crops)
        answers = _turned(runtime, images) if turns else _classify(runtime, images)
        for col, answer in zip(group, answers, strict=True):
            weighted = answer * span.weights[:, None]
            weighted *= col.weights
            sums[:, :, col.start : col.stop] += weighted


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
    for mirrored in (False, True):
        looked = images[:, :, ::-1] if mirrored else images
        for quarter in range(4):
            turned = np.ascontiguousarray(np.rot90(looked, quarter, axes=(1, 2)))
            answer = np.rot90(_classify(runtime, turned), -quarter, axes=(2, 3))
            total = total + (answer[..., ::-1] if mirrored else answer)
    result: Float32Array = np.asarray(total, np.float32) / np.float32(8)
    return result
