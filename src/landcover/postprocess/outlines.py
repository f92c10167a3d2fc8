"""Outlines of regions as polygons: corners found by row blocks, joined once a region is complete.

The lattice has a point at each corner of a pixel. The four pixels around a point determine whether an outline
bends there, so blocks only *collect* bends. A region whose last row has been read has all of its bends, and
sorting them along rows and along columns gives the order, as in "connect the dots" (O'Rourke, Uniqueness of
orthogonal connect-the-dots, 1988). Nothing is cut at the borders of blocks.

Outlines have the region on their right, seen with rows downwards. Where a region touches itself at a point,
its outline keeps to the left: rings are simple and touch each other at points only, and polygons are valid.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from landcover._typing import BoolArray, Float64Array, IntArray, UInt8Array
from landcover.extras import needs
from landcover.postprocess.components import Runs

with needs("vector"):
    import shapely

Polygons = npt.NDArray[np.object_]

NORTH, EAST, SOUTH, WEST = range(4)

_BENDS = (  # place among the four pixels, of its neighbours beside and above or below; where the lines lead
    (0, 1, 2, NORTH, WEST),
    (1, 0, 3, EAST, NORTH),
    (2, 3, 0, WEST, SOUTH),
    (3, 2, 1, SOUTH, EAST),
)
_STRAIGHTS = (  # two places on one side, two on the other, where the line comes from and goes to
    (0, 1, 2, 3, EAST, WEST),
    (2, 3, 0, 1, WEST, EAST),
    (0, 2, 1, 3, NORTH, SOUTH),
    (1, 3, 0, 2, SOUTH, NORTH),
)


class Bends(NamedTuple):
    """Points of outlines.

    Attributes:
        region: (V,) whose outline.
        at: (V,) point of the lattice, in reading order.
        back: uint8 (V,) direction of the point before: ``NORTH``, ``EAST``, ``SOUTH`` or ``WEST``.
        ahead: uint8 (V,) direction of the point after.
    """

    region: IntArray
    at: IntArray
    back: UInt8Array
    ahead: UInt8Array

    def of(self, which: BoolArray | IntArray) -> "Bends":
        """Return some of them."""
        return Bends._make(values[which] for values in self)

    @staticmethod
    def joined(parts: "Sequence[Bends]") -> "Bends":
        """Return all of several blocks, in their order."""
        return Bends._make(np.concatenate(values) for values in zip(*parts, strict=True))


def find_bends(runs: Runs, region: IntArray, *, junctions: bool = False) -> Bends:
    """Find the points where outlines bend, on the upper borders of a block's rows, in reading order.

    The map must have a frame: one more column of nodata at its right and one more row of it at its end, so
    that every point of the lattice is the upper left corner of a pixel. ``region`` is (R,), that of each run;
    ``junctions``: also return points where an outline is straight, but other outlines meet.
    """
    lower, upper = region[runs.lower], region[runs.upper]
    # The four pixels around each point where a pair begins. In the first column, those to the left are the
    # last of the row before, which belong to the frame.
    around = np.stack([np.append(-1, upper[:-1]), upper, np.append(-1, lower[:-1]), lower])
    plain = (around[0] == around[1]) & (around[2] == around[3])
    plain |= (around[0] == around[2]) & (around[1] == around[3])
    corner = np.flatnonzero(~plain)
    around = around[:, corner]
    at = runs.row * runs.width + runs.touch[corner]
    found: list[tuple[IntArray, IntArray, int, int]] = []
    for place, beside, across, first, second in _BENDS:
        here, side, other, opposite = around[[place, beside, across, 3 - place]]
        convex = np.flatnonzero((here >= 0) & (here != side) & (here != other) & (here != opposite))
        found.append((here[convex], at[convex], first, second))
        reflex = np.flatnonzero((side >= 0) & (side == other) & (side != here))
        found.append((side[reflex], at[reflex], second, first))
    if junctions:
        for one, two, three, four, back, ahead in _STRAIGHTS:
            here, same, left, right = around[[one, two, three, four]]
            straight = np.flatnonzero((here >= 0) & (here == same) & (left != right))
            straight = straight[(here[straight] != left[straight]) & (here[straight] != right[straight])]
            found.append((here[straight], at[straight], back, ahead))
    regions, places, backs, aheads = zip(*found, strict=True)
    counts = [len(part) for part in places]
    bends = Bends(
        region=np.concatenate(regions),
        at=np.concatenate(places),
        back=np.repeat(np.array(backs, np.uint8), counts),
        ahead=np.repeat(np.array(aheads, np.uint8), counts),
    )
    return bends.of(np.argsort(bends.at, kind="stable"))


class Rings(NamedTuple):
    """Closed outlines, region by region, of each the outer one first; the last point is not the first.

    Attributes:
        region: (P,) the regions that they belong to, ascending.
        points: float64 (V, 2), column and row.
        ring: (V,) number of each point's ring.
        polygon: (rings,) position in ``region`` of the region of each ring.
        last_row: (P,) lowest row of the lattice that each region reaches.
    """

    region: IntArray
    points: Float64Array
    ring: IntArray
    polygon: IntArray
    last_row: IntArray


def trace(bends: Bends, width: int) -> Rings:
    """Join all bends of some complete regions, in reading order, to rings."""
    region, at, back, ahead = bends.of(np.argsort(bends.region, kind="stable"))
    row, col = np.divmod(at, width)
    # Along a row, the first line that leaves a point eastwards ends at the first point with a line from the
    # west, and so on: lines that have one region on the same side do not overlap.
    following = np.empty(len(at), np.intp)
    following[ahead == EAST] = np.flatnonzero(back == WEST)
    following[ahead == WEST] = np.flatnonzero(back == EAST)
    down = np.argsort(region * width + col, kind="stable")
    back, ahead = back[down], ahead[down]
    following[down[ahead == SOUTH]] = down[back == NORTH]
    following[down[ahead == NORTH]] = down[back == SOUTH]

    # The smallest number on each ring, looking 1, 2, 4, … steps ahead.
    head, ahead_of = np.arange(len(at)), following
    while not np.array_equal(further := np.minimum(head, head[ahead_of]), head):
        head, ahead_of = further, ahead_of[ahead_of]
    # How many steps lead from each point to the head of its ring, 0 from the head itself.
    left: IntArray = (head != np.arange(len(at))).astype(np.intp)
    onward = np.where(left, following, head)
    while not np.array_equal(onward, head):
        left += left[onward]
        onward = onward[onward]
    length = np.bincount(head, minlength=len(at))  # 0 but for heads
    start = np.cumsum(length) - length
    place = start[head] + np.where(left, length[head] - left, 0)
    points = np.empty((len(at), 2))
    points[place] = np.stack([col, row], axis=1)
    heads = np.flatnonzero(length)
    ring = np.repeat(np.arange(len(heads)), length[heads])
    # A region's first point in reading order lies on its outer ring, and heads are in that order.
    regions, polygon = np.unique(region[heads], return_inverse=True)
    last = np.flatnonzero(np.diff(region, append=-1))
    return Rings(regions, points, ring, polygon, row[last])


def to_polygons(rings: Rings) -> Polygons:
    """Return the regions as shapely's polygons, object (P,), in the lattice's columns and rows."""
    outlines = shapely.linearrings(rings.points, indices=rings.ring)
    polygons: Polygons = shapely.polygons(outlines, indices=rings.polygon)
    return polygons
