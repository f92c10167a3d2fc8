"""The texture of each class, as two fields: ``light`` (bright or dark) and ``tone`` (the material's hue).

:mod:`landcover.data.synthetic.colours` ranks the fields: only the *arrangement* made here separates classes
of one palette. All arrays are flat: one value per pixel of the class, in the order of ``Ground.here``.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from landcover._typing import BoolArray, Int32Array
from landcover.data.synthetic.layout import Layout
from landcover.data.synthetic.noise import Cells, Dice, Field, fractal_noise, scatter, strips

GREEN_SHARE = 0.12
"""Fraction of trees in towns and of tufts on bare ground, which share one distribution of colours."""

_GREEN = 20.0
"""Added to the tone of such plants: beyond any earth."""


class Texture(NamedTuple):
    """Appearance of the pixels of a class: float32 (N,), and height in pixels of what throws a shadow.

    ``light`` is higher where brighter; ``tone`` runs along the palette: from green to straw, or from slate
    over red earth to green.
    """

    light: Field
    tone: Field
    height: npt.NDArray[np.int8]


class Ground:
    """The pixels of one class in a scene, bool (H, W), and the random numbers for their texture.

    ``y`` and ``x`` are their coordinates, slightly warped, and ``regions`` their regions, (N,) each.
    """

    def __init__(self, rng: np.random.Generator, layout: Layout, here: BoolArray) -> None:
        self.here = here
        self.y, self.x, self.regions = layout.y[here], layout.x[here], layout.regions[here]
        self.sun = layout.sun
        self.dice = Dice(rng)
        self._rng = rng

    def noise(self, scale_px: float, *, octaves: int = 1, gain: float = 0.5) -> Field:
        """Return smooth noise of variance 1."""
        shape = self.here.shape[0], self.here.shape[1]
        return fractal_noise(self._rng, shape, scale_px, octaves=octaves, gain=gain)[self.here]

    def grain(self) -> Field:
        """Return independent normal numbers of variance 1."""
        return self._rng.standard_normal(self.y.shape, np.float32)

    def scatter(self, low_px: float, high_px: float, *, spread: float, ragged_px: float = 0.0) -> Cells:
        """Return the cells of scattered objects at a mean distance between two, with ragged outlines."""
        y, x = self.y, self.x
        if ragged_px:
            y, x = (axis + np.float32(ragged_px) * self.noise(7, octaves=2, gain=0.7) for axis in (y, x))
        return scatter(self._rng, y, x, self._rng.uniform(low_px, high_px), spread=spread)

    def relief_slopes(self) -> tuple[Field, Field]:
        """Return the slopes along y and x of eroded hills: noise with sharp rills cut into it."""
        shape = self.here.shape[0], self.here.shape[1]
        hills = fractal_noise(self._rng, shape, 75, octaves=6, gain=0.47)
        rills = np.sqrt(np.abs(fractal_noise(self._rng, shape, 75 * 0.65, octaves=4)))
        relief = np.pad(np.float32(22) * (hills + np.float32(0.27) * rills), (0, 1), mode="edge")
        return np.diff(relief, axis=0)[:, :-1][self.here], np.diff(relief, axis=1)[:-1][self.here]

    def turned(self, angle: Field) -> tuple[Field, Field]:
        """Return the coordinates (along, across) rotated by an angle per pixel."""
        return _turned(self.y, self.x, angle)

    def crowns(self, cells: Cells) -> tuple[Field, Field]:
        """Return (dome, light) of round objects in ``cells``; dome is 1 on top and below 0 between."""
        rows, cols = cells.rows / cells.radii, cells.cols / cells.radii
        dome = 1 - np.float32(3.2) * (rows**2 + cols**2)
        facing = rows * np.float32(-self.sun[0]) + cols * np.float32(-self.sun[1])
        return dome, np.float32(0.5) * dome + np.float32(1.5) * facing


def forest(ground: Ground) -> Texture:
    """Closed canopy: crowns of many sizes that touch, lit on the sun's side, with dark gaps between."""
    trees = ground.scatter(9, 13, spread=0.5, ragged_px=1.3)
    dome, light = ground.crowns(trees)
    thin = ground.noise(28)
    gap = dome < 0.15 * thin - 0.3
    light = np.where(gap, np.float32(-1), light) + 0.45 * ground.noise(2) + 0.15 * ground.grain()
    light += 0.7 * ground.dice.roll(0, trees.ids) + 0.25 * thin
    tone = ground.noise(110, octaves=4) + 1.3 * ground.dice.roll(1, trees.ids)
    return Texture(light, tone, _height((7, ~gap)))


def rangeland(ground: Ground) -> Texture:
    """Patchy grass with scattered bushes and cattle tracks; no rows, no edges."""
    bushes = ground.scatter(13, 18, spread=0.5, ragged_px=1.0)
    dome, bush_light = ground.crowns(bushes)
    density = ground.noise(60)
    bush = (ground.dice.roll(0, bushes.ids) < 0.16 + 0.14 * density) & (dome > 0.25)
    track = ~bush & (np.abs(ground.noise(90, octaves=3)) < 0.03 + 0.03 * ground.noise(25))
    grass = ground.noise(46, octaves=5, gain=0.75)
    light = np.where(bush, bush_light - 0.8, 0.62 * grass + 0.3 * density) + 0.2 * ground.grain()
    light[track] += 1.2
    tone = ground.noise(80, octaves=5, gain=0.6)
    tone[bush] = tone[bush] * 0.3 - 0.9
    tone[track] += 1.0
    return Texture(light, tone, _height((3, bush)))


def agriculture(ground: Ground) -> Texture:
    """Parcels of crop rows in several directions and spacings, some orchards, tracks and hedges between."""
    dice, region = ground.dice, ground.regions
    angle = dice.roll(0, region) * np.float32(np.pi)
    along, across = ground.turned(angle)
    size = 55 + 60 * dice.roll(1, region)
    belt = strips(dice, 2, across, size, region)
    parcel = strips(dice, 3, along, size * np.float32(1.7), belt.ids, region)
    who = (parcel.ids, belt.ids, region)

    spacing = np.exp(np.float32(np.log(3.6)) + np.float32(0.9) * dice.roll(5, *who) ** 2)
    sown = np.where(dice.roll(4, *who) < 0.75, across, along) + 1.2 * ground.noise(40)
    rows = np.sin(sown * (np.float32(2 * np.pi) / spacing)) * (0.55 + 0.75 * dice.roll(6, *who))
    uneven = ground.noise(40, octaves=4, gain=0.6)
    light = rows + 0.3 * uneven + 0.35 * ground.grain()
    tone = 2.6 * (dice.roll(7, *who) - 0.5) + 0.35 * uneven

    # An orchard is a regular grid of trees; their offsets are turned back to rows and columns.
    step = 9 + 4 * dice.roll(8, *who)
    u, v = along / step, across / step
    ids: Int32Array = np.floor(u).astype(np.int32) * 8191 + np.floor(v).astype(np.int32)
    cols, lines = _turned(v - np.floor(v) - 0.5, u - np.floor(u) - 0.5, -angle)
    dome, tree_light = ground.crowns(Cells(ids, lines, cols, np.ones_like(u)))
    orchard = dice.roll(9, *who) < 0.16
    tree = orchard & (dome > 0.1)
    light = np.where(orchard, np.where(tree, tree_light, 0.4 * uneven - 0.1), light)
    tone[tree] -= 0.8

    edge, lane = np.minimum(parcel.before, parcel.after), np.minimum(belt.before, belt.after)
    ragged = 0.6 * ground.noise(7)
    hedge = (dice.roll(10, parcel.ids, belt.ids) < 0.4) & (edge < 2.8 + ragged)
    hedge |= (dice.roll(11, belt.ids, region) < 0.3) & (lane < 4.5 + ragged)
    track = ~hedge & ((lane < 2.6) | (edge < 1.2))
    verge = ~hedge & ~track & (lane < 4.2)
    light = np.where(hedge, 0.9 * ground.noise(3) - 0.5, light)
    light[track] = 1.3 + 0.3 * uneven[track]
    light[verge] = 0.5 * uneven[verge] - 0.4
    tone[hedge] = -1.3
    tone[track] = 1.1
    return Texture(light, tone, _height((4, hedge), (2, tree & ~hedge & ~track)))


def barren(ground: Ground) -> Texture:
    """Bare ground worn by water: relief in raking light, rills, boulders, tufts here and there."""
    slope_y, slope_x = ground.relief_slopes()
    light = 0.7 * (slope_y * np.float32(ground.sun[0]) + slope_x * np.float32(ground.sun[1]))
    light += 0.2 * ground.grain() + 0.4 * ground.noise(60, octaves=5, gain=0.6)
    tone = ground.noise(85, octaves=5, gain=0.55)

    stones = ground.scatter(10, 13, spread=0.6, ragged_px=0.8)
    dome, stone_light = ground.crowns(stones)
    density = ground.noise(50)
    boulder = (ground.dice.roll(0, stones.ids) < 0.05 + 0.06 * density) & (dome > 0.45)
    light = np.where(boulder, stone_light + 0.4, light)
    bushy = np.minimum(dome, 0.5) + 2.5 * ground.dice.roll(1, stones.ids) - 0.5 * density
    tuft = _highest(np.where(boulder | (dome < 0), np.float32(-9), bushy), GREEN_SHARE)
    light[tuft] = stone_light[tuft] - 0.6
    tone[tuft] += _GREEN
    return Texture(light, tone, _height((3, boulder), (2, tuft)))


def urban(ground: Ground) -> Texture:
    """Streets in a grid, lots along them with pitched or flat roofs, yards, garden and street trees."""
    dice, region = ground.dice, ground.regions
    along, across = ground.turned(dice.roll(0, region) * np.float32(np.pi))
    scale = np.where(dice.roll(1, region) < 0.2, np.float32(1.9), np.float32(1))  # halls or houses
    block = strips(dice, 2, across, 58 * scale, region)
    cross = strips(dice, 3, along, 120 * scale, block.ids, region)
    kerb = np.minimum(block.before, block.after) - np.float32(4.2)
    corner = np.minimum(cross.before, cross.after) - np.float32(3.4)
    road = (kerb < 0) | (corner < 0)

    side = (block.before < block.after).astype(np.int32)
    lot = strips(dice, 4, along, 23 * scale, block.ids, side)
    who = (lot.ids, block.ids * 2 + side, region)
    front, length = 2 + 4 * dice.roll(5, *who), (12 + 9 * dice.roll(6, *who)) * scale
    inside = np.minimum(kerb - front, front + length - kerb)
    inside = np.minimum(inside, (block.before + block.after) / 2 - np.float32(5.2) - kerb)
    inside = np.minimum(inside, np.minimum(lot.before, lot.after) - (1 + 3 * dice.roll(7, *who)))
    roof = (inside > 0) & (corner > 2.6) & (dice.roll(8, *who) < 0.9)

    fall = np.where(dice.roll(9, *who) < 0.6, kerb - front - length / 2, lot.before - lot.after)
    pitch = np.where(dice.roll(10, *who) < 0.6, np.float32(0.55), np.float32(0))
    roof_light = np.where(fall < 0, pitch, -pitch) + 1.5 * (dice.roll(11, *who) - 0.35)
    roof_light[(inside < 1.1) & (pitch == 0)] += 0.5  # the rim of a flat roof
    mottle, district = ground.noise(14, octaves=3), ground.noise(120, octaves=2)
    light = np.where(
        roof, roof_light + 0.08 * mottle, np.where(road, 0.25 + 0.12 * mottle, 0.45 * mottle - 0.25)
    )
    light += 0.07 * ground.grain()
    tone = np.where(road, -0.9 + 0.25 * district, 0.5 * district + 0.35 * mottle)
    tone = np.where(roof, 3.2 * (dice.roll(12, *who) - 0.5), tone)

    trees = ground.scatter(10, 13, spread=0.5, ragged_px=0.8)
    dome, tree_light = ground.crowns(trees)
    leafy = np.minimum(dome, 0.5) + 2 * dice.roll(13, trees.ids) + 0.5 * district
    tree = _highest(np.where(roof | (dome < -0.1) | (kerb < -1.5), leafy - 9, leafy), GREEN_SHARE)
    light = np.where(tree, tree_light - 0.5, light)
    tone[tree] += _GREEN
    return Texture(light, tone, _height((7, roof), (4, tree)))


def _turned(y: Field, x: Field, angle: Field) -> tuple[Field, Field]:
    sin, cos = np.sin(angle), np.cos(angle)
    return x * cos + y * sin, y * cos - x * sin


def _highest(score: Field, share: float) -> BoolArray:
    """Return which values are among the highest ``share`` of all."""
    return score > np.quantile(score, 1 - share)


def _height(*levels: tuple[int, BoolArray]) -> npt.NDArray[np.int8]:
    """Return the height of each pixel from (height, where) pairs that do not overlap."""
    total: npt.NDArray[np.int8] = np.sum(
        [where * np.int8(height) for height, where in levels], axis=0, dtype=np.int8
    )
    return total
