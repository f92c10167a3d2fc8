"""Random fields on a pixel grid: value noise, jittered cells, ranks, shifts.

Noise is a coarse lattice of normal numbers enlarged by cubic interpolation. Its sums are normally
distributed, so thresholds have known fractions.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from landcover._typing import BoolArray, Int32Array

Field = npt.NDArray[np.floating[Any]]
"""float32, one number per pixel: (H, W), or (N,) for some of the pixels."""
Colours = npt.NDArray[np.floating[Any]]
"""float32 (..., 3): RGB in 0..1."""
Shape = tuple[int, int]

_CUBIC_DEVIATION = 0.81
"""Standard deviation of the enlarged lattice relative to the lattice's, averaged over positions."""

_TABLE = 4096
_LEVELS = 2048


def value_noise(rng: np.random.Generator, shape: Shape, scale_px: float, *, stretch: float = 1.0) -> Field:
    """Return smooth noise of mean 0 and variance 1, its bumps ``stretch`` times longer along y than along x.

    ``scale_px`` is the distance of the lattice points along x; bumps are about twice as wide.
    """
    height, width = shape
    rows, cols = height / (scale_px * stretch), width / scale_px
    lattice = rng.standard_normal((int(rows) + 6, int(cols) + 6)).astype(np.float32)
    top, left = rng.uniform(2, 3, size=2)
    box = (left, top, left + cols, top + rows)
    enlarged = Image.fromarray(lattice).resize((width, height), Image.Resampling.BICUBIC, box=box)
    return np.asarray(enlarged, np.float32) / np.float32(_CUBIC_DEVIATION)


def fractal_noise(
    rng: np.random.Generator, shape: Shape, scale_px: float, *, octaves: int = 4, gain: float = 0.5
) -> Field:
    """Return a sum of value noises, each half as wide and ``gain`` times as high as the last; variance 1."""
    total = np.zeros(shape, np.float32)
    heights = gain ** np.arange(octaves)
    for octave, height in enumerate(heights / np.sqrt(np.sum(heights**2))):
        total += np.float32(height) * value_noise(rng, shape, scale_px / 2**octave)
    return total


def white_noise(rng: np.random.Generator, shape: Shape) -> Field:
    """Return independent normal numbers of mean 0 and variance 1."""
    return rng.standard_normal(shape, np.float32)


class Dice:
    """Random numbers of objects, not pixels: the same ids always give the same number in 0..1."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._table = rng.random(_TABLE, np.float32)

    def roll(self, salt: int, *ids: Int32Array) -> Field:
        """Return one number per id (or combination of ids); another ``salt`` gives independent numbers."""
        key = np.full(ids[0].shape, salt * 7919, np.int32)
        for place, identity in enumerate(ids):
            key += identity * np.int32((1, 613, 2311)[place])
        rolled: Field = self._table[(key * np.int32(-1640531527)) >> 7 & (_TABLE - 1)]
        return rolled


class Cells(NamedTuple):
    """For each pixel the nearest of many scattered points, by distance / radius.

    ``ids`` are int32; ``rows`` and ``cols`` the distances to the point, and ``radii`` its radius, in cells.
    """

    ids: Int32Array
    rows: Field
    cols: Field
    radii: Field


def scatter(rng: np.random.Generator, y: Field, x: Field, cell_px: float, *, spread: float = 0.0) -> Cells:
    """Return the cells of points scattered on a jittered lattice (a Voronoi diagram, weighted by radii).

    Coordinates and the mean distance ``cell_px`` of the points are in pixels; radii are uniform in
    1 - ``spread`` .. 1 + ``spread``.
    """
    v, u = y / np.float32(cell_px), x / np.float32(cell_px)
    top, left = (int(np.floor(axis.min())) - 1 for axis in (v, u))
    rows, cols = int(np.floor(v.max())) - top + 2, int(np.floor(u.max())) - left + 2
    point_v = (np.arange(rows) + top)[:, None] + rng.random((rows, cols))
    point_u = (np.arange(cols) + left)[None, :] + rng.random((rows, cols))
    points_v, points_u = (p.astype(np.float32).ravel() for p in (point_v, point_u))
    radii = rng.uniform(1 - spread, 1 + spread, rows * cols).astype(np.float32)
    home = (np.floor(v).astype(np.int32) - top) * cols + (np.floor(u).astype(np.int32) - left)

    best = np.full(v.shape, np.inf, np.float32)
    ids = np.zeros(v.shape, np.int32)
    for step in (i * cols + j for i in (-1, 0, 1) for j in (-1, 0, 1)):
        candidate = home + step
        distance = (v - points_v[candidate]) ** 2 + (u - points_u[candidate]) ** 2
        distance /= radii[candidate] ** 2
        nearer = distance < best
        np.copyto(best, distance, where=nearer)
        np.copyto(ids, candidate, where=nearer)
    return Cells(ids, v - points_v[ids], u - points_u[ids], radii[ids])


class Strips(NamedTuple):
    """For each pixel the number of its strip, and the distances to its two borders in pixels."""

    ids: Int32Array
    before: Field
    after: Field


def strips(dice: Dice, salt: int, along: Field, width_px: Field, *others: Int32Array) -> Strips:
    """Divide a coordinate into strips 0.4 to 1.6 ``width_px`` wide, differently for each of ``others``."""
    position = along / width_px
    ids = np.floor(position).astype(np.int32)

    def border(number: Int32Array) -> Field:
        return number + np.float32(0.6) * dice.roll(salt, number, *others) - np.float32(0.3)

    ids -= position < border(ids)
    ids += position >= border(ids + 1)
    return Strips(ids, (position - border(ids)) * width_px, (border(ids + 1) - position) * width_px)


def ranks(values: Field, groups: Int32Array, group_count: int) -> Field:
    """Return each value's rank, uniform in 0..1, within its group (0..group_count - 1)."""
    low, high = np.percentile(values[:: max(1, values.shape[0] // 256)], (0.2, 99.8))
    scale = np.float32(_LEVELS - 1) / np.float32(max(high - low, 1e-6))
    level = np.clip((values - np.float32(low)) * scale, 0, _LEVELS - 1).astype(np.int32)
    key = groups * np.int32(_LEVELS) + level
    counts = np.bincount(key.ravel(), minlength=group_count * _LEVELS).reshape(group_count, _LEVELS)
    middle = np.cumsum(counts, axis=1) - counts / 2
    table = middle / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    ranked: Field = table.astype(np.float32).ravel()[key]
    return ranked


def shifted(field: BoolArray, rows: int, cols: int) -> BoolArray:
    """Move a mask by whole pixels, filled with False."""
    moved = np.zeros_like(field)
    height, width = field.shape
    if abs(rows) < height and abs(cols) < width:
        moved[max(rows, 0) : height + min(rows, 0), max(cols, 0) : width + min(cols, 0)] = field[
            max(-rows, 0) : height + min(-rows, 0), max(-cols, 0) : width + min(-cols, 0)
        ]
    return moved


def smooth_step(values: Field, low: float, high: float) -> Field:
    """Return 0 below ``low``, 1 above ``high``, and a smooth ramp between."""
    t = np.clip((values - np.float32(low)) / np.float32(high - low), 0, 1)
    ramp: Field = t * t * (3 - 2 * t)
    return ramp
