"""Small regions of maps that do not fit memory: the sieve of GDAL, by bands of rows.

The rule is that of :func:`landcover.postprocess.regions.remove_small_regions`, to the byte. Only GDAL stops
counting a region at 2**31 - 1 pixels, and takes two larger ones for equally large.
"""

from collections.abc import Callable, Iterable, Iterator

import numpy as np

from landcover._typing import IntArray, UInt8Array
from landcover.errors import UsageError
from landcover.legend import NODATA
from landcover.postprocess.components import Labeller, Runs, last_of

BAND_ROWS = 256
"""Rows of a band unless told otherwise: a band of a usual map stays in the processor's cache."""

_MANY = 1 << 20


def sieve_bands(
    read_band: Callable[[int, int], UInt8Array],
    height: int,
    width: int,
    min_pixels: int,
    band_rows: int = BAND_ROWS,
    nodata: int = NODATA,
) -> Iterator[UInt8Array]:
    """Give regions below a number of pixels the class of their largest neighbour, band by band.

    The map is read twice from top to bottom: the first time when the first band is asked for.

    Memory: some 200 bytes for each run (stretch of a row with one class) of a band, and some 400 bytes for
    each region. Regions that begin in several places and meet further down count that often.

    Args:
        read_band: ``read_band(start, stop)`` returns these rows of the map, uint8 (stop - start, width).
        height: Rows of the map.
        width: Columns of the map.
        min_pixels: Smallest region that stays, in pixels; 1 changes nothing.
        band_rows: Rows that are read at a time; the result does not depend on it.
        nodata: Value of pixels outside the imagery.

    Returns:
        An iterator over the new map, uint8 (n, width), in the bands that it was read in.

    Raises:
        UsageError: If ``min_pixels`` or ``band_rows`` is below 1.
        MaskError: On iteration, if a band has another type or width.
    """
    if min_pixels < 1 or band_rows < 1:
        raise UsageError(
            f"The smallest region is {min_pixels} px and a band {band_rows} rows; expected 1 or more of both."
        )
    starts = range(0, height, band_rows)

    def bands() -> Iterator[UInt8Array]:
        return (read_band(start, min(start + band_rows, height)) for start in starts)

    def sieved() -> Iterator[UInt8Array]:
        yield from rewrite(bands(), width, decide(bands(), width, min_pixels, nodata), nodata)

    return bands() if min_pixels == 1 else sieved()


def decide(bands: Iterable[UInt8Array], width: int, min_pixels: int, nodata: int = NODATA) -> UInt8Array:
    """Go through a map once and decide the new value of each piece that :class:`Labeller` numbers.

    Args:
        bands: The map from top to bottom, uint8 (n, width) each.
        width: Columns of the map.
        min_pixels: Smallest region that stays.
        nodata: Value of pixels outside the imagery.

    Returns:
        uint8 (pieces + 1,); the last entry is ``nodata``.
    """
    labeller = Labeller(width, nodata)
    size, value = np.zeros(0, np.intp), np.zeros(0, np.uint8)
    contacts = _Contacts()
    for band in bands:
        runs = labeller.label(band)
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
    bands: Iterable[UInt8Array], width: int, values: UInt8Array, nodata: int = NODATA
) -> Iterator[UInt8Array]:
    """Go through the same map again and give each piece its new value.

    Args:
        bands: The map from top to bottom, in the same bands: pieces are numbered by them.
        width: Columns of the map.
        values: What :func:`decide` returned.
        nodata: Value of pixels outside the imagery.
    """
    labeller = Labeller(width, nodata)
    for band in bands:
        runs = labeller.label(band)
        own = slice(runs.above, None)
        yield np.repeat(values[runs.piece[own]], runs.length[own]).reshape(band.shape)


class _Contacts:
    """Pairs of pieces that touch, in the order in which they were met.

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
            pair = np.minimum(first, second) * (max(first.max(), second.max()) + 1) + np.maximum(
                first, second
            )
            earliest = np.sort(np.unique(pair, return_index=True)[1])
            self._parts = [np.stack([first[earliest], second[earliest]])]
            self._count = len(earliest)
            self._limit = max(_MANY, 2 * self._count)

    def pairs(self) -> tuple[IntArray, IntArray]:
        first, second = np.concatenate(self._parts, axis=1) if self._parts else np.empty((2, 0), np.intp)
        return first, second


def _small_neighbours(runs: Runs, size: IntArray, min_pixels: int) -> tuple[IntArray, IntArray]:
    """Return the pairs of pieces that touch in a band, at least one of them small, in GDAL's order.

    That is pixel by pixel in reading order, the neighbour above before the one to the left.
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
    """Return the region whose class each region gets, its own where it stays.

    Args:
        size: (R,) pixels of each region.
        first: (P,) one region of each pair that touches, in the order of the contacts.
        second: (P,) the other one.
        min_pixels: Smallest region that stays.
    """
    region = np.stack([first, second], axis=1).reshape(-1)
    neighbour = np.stack([second, first], axis=1).reshape(-1)
    small = size[region] < min_pixels
    region, neighbour = region[small], neighbour[small]
    largest = np.zeros(len(size), np.intp)
    np.maximum.at(largest, region, size[neighbour])
    among = size[neighbour] == largest[region]
    following = np.arange(len(size))
    following[region[among][::-1]] = neighbour[among][::-1]  # what is written last stays: the first one met
    end = last_of(following)
    return np.where(size[end] >= min_pixels, end, np.arange(len(size)))
