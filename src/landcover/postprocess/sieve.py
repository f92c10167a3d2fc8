"""Small regions: the rule of GDAL's sieve, also by row blocks for maps larger than memory.

Both ways give the same bytes; only GDAL takes all regions above 2**31 - 1 pixels for equal. By row blocks
costs time and memory by runs (stretches of a row with one class), GDAL by pixels: usual maps take a third of
GDAL's time, maps of noise eight times as much.
"""

from collections.abc import Callable, Iterable, Iterator
from heapq import heapify, heappop, heappush

import numpy as np
from rasterio.features import sieve

from landcover._typing import IntArray, UInt8Array
from landcover.errors import MaskError, UsageError
from landcover.legend import NODATA
from landcover.postprocess.components import Labeller, Runs, last_of

BLOCK_ROWS = 256
"""Rows of a block by default: a block of a usual map stays in the processor's cache."""

_MANY = 1 << 20
_NOISY = 0.1
"""Runs per pixel from which on GDAL's sieve is faster: blocks of 8 px, or one pixel in 20 by chance."""


def remove_small_regions(index: UInt8Array, min_pixels: int, *, strict: bool = False) -> UInt8Array:
    """Give regions below a number of pixels the class of their largest neighbour: uint8 (H, W).

    A region is a set of pixels of one value that are connected along edges (4-connected). The rule is that of
    ``GDALSieveFilter`` as rasterio calls it, for all regions at once on the original map:

    - A region of at least ``min_pixels`` stays.
    - A smaller one joins its largest neighbour; of equal ones, the first in reading order (above before
      left). If that neighbour is small too, it joins *its* largest neighbour, and so on up to a region of at
      least ``min_pixels``.
    - If this leads in a circle, or there is no neighbour, the region stays. Nodata is neither changed nor a
      neighbour.

    Hence small regions can remain, and a second pass may remove some of them that have gained a large
    neighbour. No new values appear, and regions that were large enough never shrink. ``strict`` as for
    :func:`decide`.
    """
    if index.ndim != 2 or index.dtype != np.uint8:
        raise MaskError(
            f"Found a map of shape {index.shape} and type {index.dtype}; expected uint8 (height, width)."
        )
    height, width = index.shape
    if not strict and 1 < min_pixels <= index.size < 1 << 31:
        runs = np.count_nonzero(index[:, 1:] != index[:, :-1]) + height
        inside = index != NODATA
        if runs > _NOISY * index.size and inside.any():
            result: UInt8Array = sieve(np.ascontiguousarray(index), min_pixels, mask=inside.astype(np.uint8))
            return result
    blocks = sieve_row_blocks(lambda start, stop: index[start:stop], height, width, min_pixels, strict=strict)
    return np.concatenate([index[:0], *blocks])


def sieve_row_blocks(
    read_rows: Callable[[int, int], UInt8Array],
    height: int,
    width: int,
    min_pixels: int,
    block_rows: int = BLOCK_ROWS,
    *,
    strict: bool = False,
) -> Iterator[UInt8Array]:
    """Give regions below a number of pixels the class of their largest neighbour, by row blocks.

    ``read_rows(start, stop)`` returns rows of the map, uint8 (stop - start, width). It is read twice from top
    to bottom, the first time when the first block is requested. Memory: about 200 bytes for each run (stretch
    of a row with one class) of a block, and 400 bytes for each region. Regions that begin in several places
    and join further down count once for each. ``strict`` as for :func:`decide`.
    """
    if min_pixels < 1 or block_rows < 1:
        raise UsageError(
            f"The smallest region is {min_pixels} px and a block {block_rows} rows; expected at least 1."
        )

    def blocks() -> Iterator[UInt8Array]:
        starts = range(0, height, block_rows)
        return (read_rows(start, min(start + block_rows, height)) for start in starts)

    def sieved() -> Iterator[UInt8Array]:
        yield from rewrite(blocks(), width, decide(blocks(), width, min_pixels, strict=strict))

    return blocks() if min_pixels == 1 or not width else sieved()


def decide(blocks: Iterable[UInt8Array], width: int, min_pixels: int, *, strict: bool = False) -> UInt8Array:
    """Read a map once and return the new value of each piece that :class:`Labeller` numbers, then nodata.

    With ``strict`` no small region remains: those that the rule leaves join their largest neighbour, the
    smallest region first, until they are large enough; those without a neighbour become nodata.
    """
    counted, contacts = SmallRegions(width), _Contacts()
    for block in blocks:
        runs = counted.add(block)
        contacts.add(runs, counted.size, min_pixels)
    pieces, sizes = counted.regions()
    first, second = (pieces[ends] for ends in contacts.pairs())
    heir = _heirs(sizes, first, second, min_pixels)
    values = np.zeros(len(sizes), np.uint8)
    values[pieces] = counted.value[: len(pieces)]
    values = values[heir]
    if strict:
        values = _merged(sizes, values, heir, (first, second), min_pixels)
    return np.append(values[pieces], np.uint8(NODATA))


def remaining_regions(name: object, count: int) -> str:
    """Return a sentence about small regions that remain in a map."""
    return (
        f"{name}: {count:,} regions below the smallest size remain, because they touch no region that is "
        "large enough, or nodata alone. Pass --min-region-strict to remove them."
    )


class SmallRegions:
    """The sizes and values of a map's regions, counted while its blocks are read or written."""

    def __init__(self, width: int) -> None:
        self._labeller = Labeller(width)
        self.size, self.value = np.zeros(0, np.intp), np.zeros(0, np.uint8)  # of pieces, with room for more

    def add(self, block: UInt8Array) -> Runs:
        """Count the next block, uint8 (n, width), and return its runs."""
        runs = self._labeller.label(block)
        if self._labeller.pieces > len(self.size):
            more = 2 * self._labeller.pieces - len(self.size)
            self.size, self.value = np.pad(self.size, (0, more)), np.pad(self.value, (0, more))
        own = np.flatnonzero(runs.piece >= 0)
        own = own[np.searchsorted(own, runs.above) :]
        np.add.at(self.size, runs.piece[own], runs.length[own])
        self.value[runs.piece[own]] = runs.value[own]
        return runs

    def regions(self) -> tuple[IntArray, IntArray]:
        """Return the region of each piece, and the pixels of each region."""
        pieces = self._labeller.regions()[:-1]
        sizes = np.zeros(pieces.max(initial=-1) + 1, np.intp)
        np.add.at(sizes, pieces, self.size[: len(pieces)])
        return pieces, sizes

    def count(self, min_pixels: int) -> int:
        """Return how many regions are smaller."""
        return int(np.count_nonzero(self.regions()[1] < min_pixels))


def _merged(
    size: IntArray,
    value: UInt8Array,
    heir: IntArray,
    pairs: tuple[IntArray, IntArray],
    min_pixels: int,
) -> UInt8Array:
    """Return the value of each region, uint8 (R,), after the small ones that remain were merged.

    ``value`` is that by the rule, ``heir`` the region that each has it from, ``pairs`` those that touch, at
    least one of them small, in GDAL's order. A small region without a neighbour becomes nodata.
    """
    root, total, kinds = (
        heir.tolist(),
        np.bincount(heir, size, len(size)).astype(int).tolist(),
        value.tolist(),
    )

    def find(region: int) -> int:
        while root[region] != region:
            root[region] = root[root[region]]
            region = root[region]
        return region

    beside: dict[int, dict[int, None]] = {}  # in the order of contact
    first, second = heir[pairs[0]], heir[pairs[1]]
    for a, b in zip(first.tolist(), second.tolist(), strict=True):
        if a != b:
            beside.setdefault(a, {})[b] = None
            beside.setdefault(b, {})[a] = None
    waiting = [(total[region], region) for region in np.unique(heir).tolist() if total[region] < min_pixels]
    heapify(waiting)
    while waiting:
        pixels, region = heappop(waiting)
        if find(region) != region or total[region] != pixels:
            continue  # it grew
        around = dict.fromkeys(other for other in map(find, beside.get(region, ())) if other != region)
        if not around:
            kinds[region] = NODATA
            continue
        alike = [other for other in around if kinds[other] == kinds[region]]
        target = max(alike or around, key=lambda other: total[other])  # of equal ones the first
        root[region] = target
        total[target] += pixels
        beside.setdefault(target, {}).update(around)
        if total[target] < min_pixels:
            heappush(waiting, (total[target], target))
    return np.array([kinds[find(region)] for region in range(len(root))], np.uint8)


def rewrite(blocks: Iterable[UInt8Array], width: int, values: UInt8Array) -> Iterator[UInt8Array]:
    """Read the same map again, in the same blocks, and give each piece its value from :func:`decide`."""
    labeller = Labeller(width)
    for block in blocks:
        runs = labeller.label(block)
        own = slice(runs.above, None)
        yield np.repeat(values[runs.piece[own]], runs.length[own]).reshape(block.shape)


class _Contacts:
    """Pairs of pieces that touch, at least one of them small, in GDAL's order: that of their first contact.

    Repeated ones are dropped whenever there are many. Different ones are at most three times as many as the
    pieces, because they share edges in the plane.
    """

    def __init__(self) -> None:
        self._parts: list[IntArray] = []
        self._count = 0
        self._limit = _MANY

    def add(self, runs: Runs, size: IntArray, min_pixels: int) -> None:
        """Add those of a block, by pixels in reading order, the neighbour above before the left one."""
        beside = np.arange(runs.above, len(runs.start))
        beside = beside[runs.start[beside] % runs.width != 0]
        first = np.concatenate([runs.piece[runs.upper], runs.piece[beside - 1]])
        second = np.concatenate([runs.piece[runs.lower], runs.piece[beside]])
        when = np.concatenate([2 * runs.touch, 2 * (runs.start[beside] - runs.width) + 1])
        apart = np.flatnonzero((first != second) & (np.minimum(first, second) >= 0))
        apart = apart[np.minimum(size[first[apart]], size[second[apart]]) < min_pixels]
        apart = apart[np.argsort(when[apart], kind="stable")]  # two sorted lists, which a stable sort merges
        self._parts.append(np.stack([first[apart], second[apart]]))
        self._count += len(apart)
        if self._count > self._limit:
            first, second = self.pairs()
            low, high = np.minimum(first, second), np.maximum(first, second)
            pair = low * (high.max() + 1) + high
            earliest = np.sort(np.unique(pair, return_index=True)[1])
            self._parts = [np.stack([first[earliest], second[earliest]])]
            self._count = len(earliest)
            self._limit = max(_MANY, 2 * self._count)

    def pairs(self) -> tuple[IntArray, IntArray]:
        first, second = np.concatenate([np.empty((2, 0), np.intp), *self._parts], axis=1)
        return first, second


def _heirs(size: IntArray, first: IntArray, second: IntArray, min_pixels: int) -> IntArray:
    """Return (R,) the region whose class each region gets, its own where it stays.

    ``size`` is (R,) pixels; ``first`` and ``second`` (P,) are the pairs that touch, in order.
    """
    region = np.stack([first, second], axis=1).reshape(-1)
    neighbour = np.stack([second, first], axis=1).reshape(-1)
    small = size[region] < min_pixels
    region, neighbour = region[small], neighbour[small]
    largest = np.zeros(len(size), np.intp)
    np.maximum.at(largest, region, size[neighbour])
    among = size[neighbour] == largest[region]
    following = np.arange(len(size))
    following[region[among][::-1]] = neighbour[among][::-1]  # the last value stays: that of the first contact
    end = last_of(following)
    return np.where(size[end] >= min_pixels, end, np.arange(len(size)))
