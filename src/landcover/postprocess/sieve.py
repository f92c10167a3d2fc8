"""Small regions: the sieve of GDAL, on a whole map or by row blocks for maps larger than memory.

Both follow the rule of :func:`remove_small_regions`, with the same bytes. Only GDAL counts a region up to
2**31 - 1 pixels and takes two larger ones for equal.
"""

from collections.abc import Callable, Iterable, Iterator

import numpy as np
from rasterio.features import sieve

from landcover._typing import IntArray, UInt8Array
from landcover.errors import MaskError, UsageError
from landcover.legend import NODATA
from landcover.postprocess.components import Labeller, Runs, last_of

BLOCK_ROWS = 256
"""Rows of a block by default: a block of a usual map stays in the processor's cache."""

_MANY = 1 << 20


def remove_small_regions(index: UInt8Array, min_pixels: int, nodata: int = NODATA) -> UInt8Array:
    """Give regions below a number of pixels the class of their largest neighbour.

    A region is a set of pixels of one value that are connected along edges (4-connected). The rule is that of
    ``GDALSieveFilter`` as rasterio calls it, for all regions at once on the original map:

    - A region of at least ``min_pixels`` stays.
    - A smaller one joins its largest neighbour; of equal ones, the first in reading order (above before
      left). If that neighbour is small too, it joins *its* largest neighbour, and so on up to a region of at
      least ``min_pixels``.
    - If this leads in a circle, or there is no neighbour, the region stays. Nodata is neither changed nor a
      neighbour.

    Hence small regions can remain, and a second pass may remove some of them that have gained a large
    neighbour. No new values appear, and regions that were large enough never shrink.

    Args:
        index: uint8 (H, W).
        min_pixels: Smallest region that stays, in pixels; 1 changes nothing.
        nodata: Value of pixels outside the imagery.

    Returns:
        uint8 (H, W), a new array.

    Raises:
        MaskError: If ``index`` is not uint8 (H, W).
        UsageError: If ``min_pixels`` is below 1.
    """
    if index.ndim != 2 or index.dtype != np.uint8:
        raise MaskError(
            f"Found a map of shape {index.shape} and type {index.dtype}; expected uint8 (height, width)."
        )
    if min_pixels < 1:
        raise UsageError(f"The smallest region is {min_pixels} pixels; expected at least 1.")
    inside = index != nodata
    if min_pixels == 1 or min_pixels > index.size or not inside.any():
        return index.copy()  # no region is small, or none can grow (rasterio refuses such sizes)
    result: UInt8Array = sieve(np.ascontiguousarray(index), min_pixels, mask=inside.astype(np.uint8))
    return result


def sieve_row_blocks(
    read_rows: Callable[[int, int], UInt8Array],
    height: int,
    width: int,
    min_pixels: int,
    block_rows: int = BLOCK_ROWS,
    nodata: int = NODATA,
) -> Iterator[UInt8Array]:
    """Give regions below a number of pixels the class of their largest neighbour, by row blocks.

    The map is read twice from top to bottom, the first time when the first block is requested.

    Memory: about 200 bytes for each run (stretch of a row with one class) of a block, and 400 bytes for each
    region. Regions that begin in several places and join further down count once for each.

    Args:
        read_rows: ``read_rows(start, stop)`` returns rows of the map, uint8 (stop - start, width).
        height: Rows of the map.
        width: Columns of the map.
        min_pixels: Smallest region that stays, in pixels; 1 changes nothing.
        block_rows: Rows that are read at a time; the result does not depend on it.
        nodata: Value of pixels outside the imagery.

    Returns:
        An iterator over the new map, uint8 (n, width), in the blocks that were read.

    Raises:
        UsageError: If ``min_pixels`` or ``block_rows`` is below 1.
        MaskError: On iteration, if a block has another type or width.
    """
    if min_pixels < 1 or block_rows < 1:
        raise UsageError(
            f"The smallest region is {min_pixels} px and a block {block_rows} rows; expected at least 1."
        )

    def blocks() -> Iterator[UInt8Array]:
        starts = range(0, height, block_rows)
        return (read_rows(start, min(start + block_rows, height)) for start in starts)

    def sieved() -> Iterator[UInt8Array]:
        yield from rewrite(blocks(), width, decide(blocks(), width, min_pixels, nodata), nodata)

    return blocks() if min_pixels == 1 else sieved()


def decide(blocks: Iterable[UInt8Array], width: int, min_pixels: int, nodata: int = NODATA) -> UInt8Array:
    """Read a map once and return the new value of each piece that :class:`Labeller` numbers.

    Args:
        blocks: The map from top to bottom, uint8 (n, width) each.
        width: Columns of the map.
        min_pixels: Smallest region that stays.
        nodata: Value of pixels outside the imagery.

    Returns:
        uint8 (pieces + 1,); the last entry is ``nodata``.
    """
    labeller = Labeller(width, nodata)
    size, value = np.zeros(0, np.intp), np.zeros(0, np.uint8)
    contacts = _Contacts()
    for block in blocks:
        runs = labeller.label(block)
        if labeller.pieces > len(size):
            more = 2 * labeller.pieces - len(size)
            size, value = np.pad(size, (0, more)), np.pad(value, (0, more))
        own = np.flatnonzero(runs.piece >= 0)
        own = own[np.searchsorted(own, runs.above) :]
        np.add.at(size, runs.piece[own], runs.length[own])
        value[runs.piece[own]] = runs.value[own]
        contacts.add(*_small_neighbours(runs, size, min_pixels))
    region = labeller.regions()
    first, second = contacts.pairs()
    pieces = region[:-1]
    sizes = np.zeros(region.max() + 1, np.intp)
    np.add.at(sizes, pieces, size[: len(pieces)])
    heir = _heirs(sizes, region[first], region[second], min_pixels)
    values = np.zeros(len(sizes), np.uint8)
    values[pieces] = value[: len(pieces)]
    return np.append(values[heir[pieces]], np.uint8(nodata))


def rewrite(
    blocks: Iterable[UInt8Array], width: int, values: UInt8Array, nodata: int = NODATA
) -> Iterator[UInt8Array]:
    """Read the same map again, in the same blocks, and give each piece its value from :func:`decide`."""
    labeller = Labeller(width, nodata)
    for block in blocks:
        runs = labeller.label(block)
        own = slice(runs.above, None)
        yield np.repeat(values[runs.piece[own]], runs.length[own]).reshape(block.shape)


class _Contacts:
    """Pairs of pieces that touch, in the order of their first contact.

    Repeated ones are dropped whenever there are many. Different ones are at most three times as many as the
    pieces, because they share edges in the plane.
    """

    def __init__(self) -> None:
        self._parts: list[IntArray] = []
        self._count = 0
        self._limit = _MANY

    def add(self, first: IntArray, second: IntArray) -> None:
        self._parts.append(np.stack([first, second]))
        self._count += len(first)
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


def _small_neighbours(runs: Runs, size: IntArray, min_pixels: int) -> tuple[IntArray, IntArray]:
    """Return the pairs of pieces that touch in a block, at least one of them small, in GDAL's order.

    The order is by pixels in reading order, the neighbour above before the one to the left.
    """
    beside = np.arange(runs.above, len(runs.start))
    beside = beside[runs.start[beside] % runs.width != 0]
    first = np.concatenate([runs.piece[runs.upper], runs.piece[beside - 1]])
    second = np.concatenate([runs.piece[runs.lower], runs.piece[beside]])
    when = np.concatenate([2 * runs.touch, 2 * (runs.start[beside] - runs.width) + 1])
    apart = np.flatnonzero((first != second) & (np.minimum(first, second) >= 0))
    apart = apart[np.minimum(size[first[apart]], size[second[apart]]) < min_pixels]
    apart = apart[np.argsort(when[apart], kind="stable")]  # two sorted lists, which a stable sort merges
    return first[apart], second[apart]


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
