"""The reader: a scene from top to bottom, at the model's scale, a row of windows at a time."""

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from landcover._typing import BoolArray, UInt8Array
from landcover.errors import UsageError
from landcover.inference.grid import Grid
from landcover.model.preprocessing import any_within, resample_rows, source_rows
from landcover.raster import Scene, Strip
from landcover.raster.mosaic import MosaicScene
from landcover.windows import Window

_STEP_ROWS = 128
_STEP_PIXELS = 1 << 22
"""A reading step has at least so many rows of the model's, and up to so many pixels of the scene."""

_PARTS = 2
_PART_ROWS = 128
"""A step is resampled in parts of at most so many rows, at least two: two threads share them."""


ReadRows = tuple[int, int, BoolArray | None]
"""First row of the scene that was read, the row after the last, and where the columns are mapped."""


@dataclass(frozen=True, slots=True)
class ArraySource:
    """An image in memory: uint8 (H, W, C), and bool (H, W) where there is imagery (None: everywhere).

    ``channels`` is the number of bands that the model takes; an image of another number is a UsageError.
    """

    image: UInt8Array
    valid: BoolArray | None = None
    warnings: Sequence[str] = ()
    damaged: Sequence[Window] = ()
    channels: int = 3

    def __post_init__(self) -> None:
        image = self.image
        if image.dtype != np.uint8 or image.shape[2:] != (self.channels,) or image.size == 0:
            raise UsageError(
                f"Found an image of {image.dtype} {image.shape}; expected uint8 (height, width, "
                f"{self.channels})."
            )

    @property
    def height(self) -> int:
        """Rows."""
        return int(self.image.shape[0])

    @property
    def width(self) -> int:
        """Columns."""
        return int(self.image.shape[1])

    @property
    def part(self) -> Window:
        """The pixels that are mapped: all."""
        return Window(0, 0, self.height, self.width)

    def read_rows(self, start: int, stop: int, cols: slice) -> Strip:
        """Return rows ``start`` to ``stop`` of columns."""
        valid = None if self.valid is None else self.valid[start:stop, cols]
        return Strip(self.image[start:stop, cols], valid)


Source = Scene | MosaicScene | ArraySource
"""Imagery that one thread reads from top to bottom."""


class WindowRow(NamedTuple):
    """The imagery of a row of windows.

    Attributes:
        image: uint8 (h, w, C) at the model's GSD, edges repeated to whole cells.
        whole: bool (h, w): which of the pixels are resampled from imagery alone; None: all.
        seen: Which of its windows contain imagery that is mapped.
        valid: Rows of the scene that were read for it.
    """

    image: UInt8Array
    whole: BoolArray | None
    seen: list[bool]
    valid: list[ReadRows]


def window_rows(source: Source, grid: Grid, numbers: range, mean: tuple[float, ...]) -> Iterator[WindowRow]:
    """Read and resample the imagery of some consecutive rows of windows, each row of pixels once."""
    stride = grid.stride
    have: list[_Step] = []
    with ThreadPoolExecutor(_PARTS) as pool:
        steps = _Steps(source, grid, pool, grid.rows[numbers.start].start * stride, mean)
        for span in grid.rows[numbers.start : numbers.stop]:
            top, bottom = span.start * stride, min(span.stop * stride, grid.model_size[0])
            new = list(steps.until(bottom))
            have = [step for step in have if step.stop > top] + new
            size = span.length * stride, (grid.cols[-1].stop - grid.cols[0].start) * stride
            inside = [slice(max(0, top - step.start), bottom - step.start) for step in have]
            image = _joined([step.image[part] for step, part in zip(have, inside, strict=True)], size)
            whole = None
            if any(step.whole is not None for step in have):
                parts = [
                    np.ones(step.image.shape[:2], bool)[part] if step.whole is None else step.whole[part]
                    for step, part in zip(have, inside, strict=True)
                ]
                whole = _joined(parts, size)
            seen = np.logical_or.reduce([step.seen for step in have])
            yield WindowRow(image, whole, seen.tolist(), [valid for step in new for valid in step.valid])


def _joined(parts: list[npt.NDArray[Any]], size: tuple[int, int]) -> npt.NDArray[Any]:
    """Put rows together and repeat the last row and column up to a size."""
    rows = parts[0] if len(parts) == 1 else np.concatenate(parts)
    below, right = size[0] - len(rows), size[1] - rows.shape[1]
    if not below and not right:
        return rows
    return np.pad(rows, ((0, below), (0, right)) + ((0, 0),) * (rows.ndim - 2), mode="edge")


class _Step(NamedTuple):
    """Rows ``start`` to ``stop`` of the model's grid; ``seen``: windows with mapped imagery there."""

    start: int
    stop: int
    image: UInt8Array
    whole: BoolArray | None
    seen: BoolArray
    valid: list[ReadRows]


class _Steps:
    """Steps of rows at the model's GSD; the source rows that the next step needs again are kept.

    Steps begin and end at multiples of their height, which depends on the scene's width and scale only, and
    are resampled in the same parts for any windows and any first row block: resampling rounds, and the same
    scene must give the same bytes.
    """

    def __init__(
        self,
        source: Source,
        grid: Grid,
        pool: ThreadPoolExecutor,
        row: int,
        mean: tuple[float, ...],
    ) -> None:
        self._source, self._grid, self._pool = source, grid, pool
        self._filling = np.rint(255 * np.array(mean)).astype(np.uint8)
        pixels = max(grid.model_size[1], grid.size[1] * grid.size[0] // grid.model_size[0])  # a model's row
        self._cols = grid.source_cols
        self._height = max(1, _STEP_PIXELS // pixels // _STEP_ROWS) * _STEP_ROWS
        self._at = row // self._height * self._height
        self._top = source_rows(slice(self._at, self._at + 1), grid.size[0], grid.model_size[0]).start
        self._strip = np.empty((0, self._cols.stop - self._cols.start, len(mean)), np.uint8)
        self._valid: BoolArray | None = None
        self._mapped: BoolArray | None = None
        scale, left = grid.size[1] / grid.model_size[1] * grid.stride, self._cols.start
        self._windows = [
            slice(max(0, math.floor(span.start * scale) - left), max(1, math.ceil(span.stop * scale) - left))
            for span in grid.cols
        ]

    def until(self, row: int) -> Iterator[_Step]:
        """Yield the steps up to the one that holds the model's row before ``row``."""
        while self._at < row:
            yield self._read(slice(self._at, min(self._at + self._height, self._grid.model_size[0])))
            self._at += self._height

    def _read(self, rows: slice) -> _Step:
        size, model_size = self._grid.size, self._grid.model_size
        needed = source_rows(rows, size[0], model_size[0])
        bottom = self._top + len(self._strip)
        fresh = []
        if needed.stop > bottom:
            strip = self._source.read_rows(bottom, needed.stop, self._cols)
            mapped = strip.valid
            if strip.wanted is not None:
                mapped = strip.wanted if mapped is None else mapped & strip.wanted
            fresh.append((bottom, needed.stop, mapped))
            self._append(strip, mapped)
        drop = needed.start - self._top
        self._strip, self._top = self._strip[drop:], needed.start
        self._valid = None if self._valid is None else self._valid[drop:]
        self._mapped = None if self._mapped is None else self._mapped[drop:]

        height = min(_PART_ROWS, self._height // _PARTS)

        def resample(start: int) -> UInt8Array:
            part = slice(start, min(start + height, rows.stop))
            inside = source_rows(part, size[0], model_size[0])
            strip = self._strip[inside.start - self._top : inside.stop - self._top]
            cols = self._grid.model_cols
            return resample_rows(strip, inside.start, part, size, model_size, self._cols.start, cols)

        parts = list(self._pool.map(resample, range(rows.start, rows.stop, height)))
        image = parts[0] if len(parts) == 1 else np.concatenate(parts)
        seen = np.ones(len(self._windows), bool)
        if self._mapped is not None:
            columns = np.logical_or.reduce(self._mapped, axis=0)
            seen = np.array([columns[window].any() for window in self._windows])
        return _Step(rows.start, rows.stop, image, self._whole(rows), seen, fresh)

    def _append(self, strip: Strip, mapped: BoolArray | None) -> None:
        image, valid, have = strip.image, strip.valid, self._strip
        if valid is not None and not valid.all():
            # Values without imagery are arbitrary, and resampling mixes them with their neighbours.
            image = image.copy()
            image[~valid] = self._filling
        shapes = have.shape[:2], image.shape[:2]
        self._valid = _stacked(self._valid, valid, shapes)
        self._mapped = _stacked(self._mapped, mapped, shapes)
        self._strip = np.concatenate([have, image]) if len(have) else image

    def _whole(self, rows: slice) -> BoolArray | None:
        """Return bool (rows, model's width): which pixels are made of imagery alone; None: all."""
        if self._valid is None or self._valid.all():
            return None
        size, model_size = self._grid.size, self._grid.model_size
        if size == model_size:
            return self._valid[rows.start - self._top : rows.stop - self._top]
        missing = ~self._valid
        for axis, pixels, first in ((0, rows, self._top), (1, self._grid.model_cols, self._cols.start)):
            missing = any_within(missing, pixels, size[axis] / model_size[axis], first, axis)
        return ~missing


def _stacked(
    above: BoolArray | None, below: BoolArray | None, shapes: tuple[tuple[int, ...], tuple[int, ...]]
) -> BoolArray | None:
    """Put masks of two shapes together, of which None is all True."""
    if above is None and below is None:
        return None
    masks = (
        np.ones(shape, bool) if m is None else m for m, shape in zip((above, below), shapes, strict=True)
    )
    return np.concatenate(list(masks))


def valid_rows(parts: Sequence[ReadRows], start: int, stop: int) -> BoolArray | None:
    """Return bool (stop - start, W): where rows of the scene are mapped; None: everywhere."""
    arrays = [valid for _, _, valid in parts if valid is not None]
    result = np.ones((stop - start, arrays[0].shape[1] if arrays else 0), bool)
    for first, last, valid in parts:
        a, b = max(first, start), min(last, stop)
        if valid is not None and a < b:
            result[a - start : b - start] = valid[a - first : b - first]
    # The result must not depend on how the rows were read.
    return None if result.all() else result
