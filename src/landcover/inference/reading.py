"""The reader: a scene from top to bottom, at the model's scale, a row of windows at a time."""

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from landcover.errors import UsageError
from landcover.inference.grid import Grid
from landcover.legend import UInt8Array
from landcover.preprocessing import resample_rows, source_rows

BoolArray = npt.NDArray[np.bool_]

_STEP_PX = 128
_PARTS = 2
_PART_PX = _STEP_PX // _PARTS


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
        return int(self.image.shape[0])

    @property
    def width(self) -> int:
        """Columns."""
        return int(self.image.shape[1])

    def read_rows(self, start: int, stop: int) -> ArrayStrip:
        """Return rows ``start`` to ``stop``."""
        return ArrayStrip(self.image[start:stop], None if self.valid is None else self.valid[start:stop])


class WindowRow(NamedTuple):
    """What a row of windows looks at.

    Attributes:
        image: uint8 (h, w, 3) at the model's scale, edges repeated to whole cells.
        seen: Which of its windows hold imagery.
        valid: Rows of the scene read with it: first, last and where they have imagery.
    """

    image: UInt8Array
    seen: list[bool]
    valid: list[tuple[int, int, BoolArray | None]]


def window_rows(
    source: Source, grid: Grid, begin: int, mean: tuple[float, float, float]
) -> Iterator[WindowRow]:
    """Read and resample a scene, each row of it once."""
    stride = grid.stride
    have: list[_Step] = []
    with ThreadPoolExecutor(_PARTS) as pool:
        steps = _Steps(source, grid, pool, grid.rows[begin].start * stride, mean)
        for span in grid.rows[begin:]:
            top, bottom = span.start * stride, min(span.stop * stride, grid.model_size[0])
            new = list(steps.until(bottom))
            have = [step for step in have if step.stop > top] + new
            parts = [step.image[max(0, top - step.start) : bottom - step.start] for step in have]
            image = parts[0] if len(parts) == 1 else np.concatenate(parts)
            below, right = span.length * stride - len(image), grid.cols[-1].stop * stride - image.shape[1]
            if below or right:
                image = np.pad(image, ((0, below), (0, right), (0, 0)), mode="edge")
            seen = np.logical_or.reduce([step.seen for step in have])
            yield WindowRow(image, seen.tolist(), [valid for step in new for valid in step.valid])


class _Step(NamedTuple):
    """Rows ``start`` to ``stop`` of the model's grid."""

    start: int
    stop: int
    image: UInt8Array
    seen: BoolArray
    valid: list[tuple[int, int, BoolArray | None]]


class _Steps:
    """Steps of rows at the model's scale from the top; what the next needs of the source again is kept.

    Steps begin and end at multiples of their height and are resampled in the same parts, whatever the windows
    and wherever work begins: resampling rounds, and the same scene is to give the same bytes.
    """

    def __init__(
        self,
        source: Source,
        grid: Grid,
        pool: ThreadPoolExecutor,
        row: int,
        mean: tuple[float, float, float],
    ) -> None:
        self._source, self._grid, self._pool = source, grid, pool
        self._filling = np.rint(255 * np.array(mean)).astype(np.uint8)
        self._at = row // _STEP_PX * _STEP_PX
        self._top = source_rows(slice(self._at, self._at + 1), grid.size[0], grid.model_size[0]).start
        self._strip = np.empty((0, grid.size[1], 3), np.uint8)
        self._valid: BoolArray | None = None
        scale = grid.size[1] / grid.model_size[1] * grid.stride
        self._windows = [
            slice(math.floor(span.start * scale), max(1, math.ceil(span.stop * scale))) for span in grid.cols
        ]

    def until(self, row: int) -> Iterator[_Step]:
        """Yield the steps up to the one that holds the model's row before ``row``."""
        while self._at < row:
            yield self._read(slice(self._at, min(self._at + _STEP_PX, self._grid.model_size[0])))
            self._at += _STEP_PX

    def _read(self, rows: slice) -> _Step:
        size, model_size = self._grid.size, self._grid.model_size
        needed = source_rows(rows, size[0], model_size[0])
        bottom = self._top + len(self._strip)
        fresh = []
        if needed.stop > bottom:
            strip = self._source.read_rows(bottom, needed.stop)
            fresh.append((bottom, needed.stop, strip.valid))
            self._append(strip)
        drop = needed.start - self._top
        self._strip, self._top = self._strip[drop:], needed.start
        self._valid = None if self._valid is None else self._valid[drop:]

        def resample(start: int) -> UInt8Array:
            part = slice(start, min(start + _PART_PX, rows.stop))
            inside = source_rows(part, size[0], model_size[0])
            strip = self._strip[inside.start - self._top : inside.stop - self._top]
            return resample_rows(strip, inside.start, part, size, model_size)

        parts = list(self._pool.map(resample, range(rows.start, rows.stop, _PART_PX)))
        image = parts[0] if len(parts) == 1 else np.concatenate(parts)
        return _Step(rows.start, rows.stop, image, self._seen(), fresh)

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
        columns: BoolArray = np.logical_or.reduce(self._valid, axis=0)
        return np.array([columns[window].any() for window in self._windows])


class Validity:
    """Where the scene's own rows have imagery, from when they are read until their band is finished."""

    def __init__(self) -> None:
        self._parts: list[tuple[int, int, BoolArray | None]] = []

    def extend(self, parts: list[tuple[int, int, BoolArray | None]]) -> None:
        """Add what was read."""
        self._parts += parts

    def take(self, start: int, stop: int) -> BoolArray | None:
        """Return rows ``start`` to ``stop``; rows above are forgotten."""
        parts = [part for part in self._parts if part[1] > start]
        self._parts = [part for part in parts if part[1] > stop]
        inside = [part for part in parts if part[0] < stop]
        arrays = [valid for _, _, valid in inside if valid is not None]
        if not arrays:
            return None
        result = np.ones((stop - start, arrays[0].shape[1]), bool)
        for first, last, valid in inside:
            if valid is not None:
                a, b = max(first, start), min(last, stop)
                result[a - start : b - start] = valid[a - first : b - first]
        # What is said must not depend on how the rows were read.
        return None if result.all() else result
