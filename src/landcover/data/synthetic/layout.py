"""The plan of a scene: organic regions of land cover, rivers with shores, lakes, the sun."""

from dataclasses import dataclass

import numpy as np

from landcover._typing import Int32Array, UInt8Array
from landcover.data.synthetic.noise import Dice, Field, Shape, fractal_noise, scatter, value_noise
from landcover.legend import DEEPGLOBE

URBAN, AGRICULTURE, RANGELAND, FOREST, WATER, BARREN, UNKNOWN = range(len(DEEPGLOBE))

REGION_PX = 175.0
"""Mean distance of region centres; neighbours of one class merge to regions of 100 to 300 m."""

_SHARES = {AGRICULTURE: 0.27, FOREST: 0.19, RANGELAND: 0.19, URBAN: 0.19, BARREN: 0.16}
_LAKE_LEVEL = 1.72
_RIVERS_PER_512_PX = 0.45


@dataclass(frozen=True)
class Layout:
    """The plan of a scene; arrays are (H, W).

    Attributes:
        y: float32, row coordinates in pixels, slightly warped; ``x`` for columns.
        index: uint8, class indices of :data:`landcover.legend.DEEPGLOBE`, without clouds.
        regions: int32, number of the region.
        depth: float32, pixels from the shore, positive in water.
        sun: Shift of a shadow per unit of height, (rows, cols).
    """

    y: Field
    x: Field
    index: UInt8Array
    regions: Int32Array
    depth: Field
    sun: tuple[float, float]

    @property
    def shape(self) -> Shape:
        """(height, width) in pixels."""
        return self.y.shape[0], self.y.shape[1]


def plan(rng: np.random.Generator, shape: Shape) -> Layout:
    """Draw the plan of a scene of any size."""
    height, width = shape
    y = np.broadcast_to(np.arange(height, dtype=np.float32)[:, None], shape)
    x = np.broadcast_to(np.arange(width, dtype=np.float32)[None, :], shape)
    bend_y, bend_x = (fractal_noise(rng, shape, 120, octaves=4) for _ in range(2))
    far_y, far_x = y + 24 * bend_y, x + 24 * bend_x

    regions = scatter(rng, far_y, far_x, REGION_PX).ids
    dice = Dice(rng)
    borders = np.cumsum(list(_SHARES.values()))[:-1]
    index = np.asarray(list(_SHARES), np.uint8)[np.searchsorted(borders, dice.roll(0, regions))]

    rivers = _rivers(rng, far_y, far_x, shape)
    # Pixels from the nearest lake shore, roughly: noise over its mean slope.
    lakes = np.float32(70) * (fractal_noise(rng, shape, 150, octaves=5, gain=0.42) - np.float32(_LAKE_LEVEL))
    depth = np.maximum(rivers, lakes)
    depth += 1.5 * fractal_noise(rng, shape, 20, octaves=2)
    moist = value_noise(rng, shape, 70)
    index[(depth > -14 - 12 * moist) & (moist > -0.1) & (index != BARREN)] = FOREST
    index[depth > -4 - 7 * value_noise(rng, shape, 45)] = BARREN
    index[depth > 0] = WATER

    azimuth = rng.uniform(0.15, 0.4) * np.pi
    length = rng.uniform(0.9, 1.3)
    sun = (float(length * np.sin(azimuth)), float(length * np.cos(azimuth)))
    return Layout(y + 5 * bend_x, x + 5 * bend_y, index, regions, depth, sun)


def _rivers(rng: np.random.Generator, y: Field, x: Field, shape: Shape) -> Field:
    """Return pixels from the nearest river bank, positive inside a river; rivers are sums of meanders."""
    inside = np.full(shape, -1e6, np.float32)
    for _ in range(rng.poisson(_RIVERS_PER_512_PX * max(shape) / 512)):
        angle = rng.uniform(0, np.pi)
        sin, cos = np.float32(np.sin(angle)), np.float32(np.cos(angle))
        middle_y, middle_x = rng.uniform(0, shape[0]), rng.uniform(0, shape[1])
        along = (x - middle_x) * cos + (y - middle_y) * sin
        across = (y - middle_y) * cos - (x - middle_x) * sin
        bend, slope = np.zeros((2, *shape), np.float32)
        for wavelength, swing in ((900, 80), (380, 36), (170, 9)):
            phase = along * np.float32(2 * np.pi / wavelength) + np.float32(rng.uniform(0, 2 * np.pi))
            bend += np.float32(swing) * np.sin(phase)
            slope += np.float32(swing * 2 * np.pi / wavelength) * np.cos(phase)
        half_width = rng.uniform(10, 30)
        np.maximum(inside, half_width - np.abs(across - bend) / np.sqrt(1 + slope**2), out=inside)
    return inside
