"""The connected regions of a map that is read by bands of rows: runs, pieces and regions.

A *run* is a stretch of a row with one value. Runs of neighbouring rows that share an edge and a value hang
together; what hangs together as far as the map has been read is a *piece*. Pieces can meet further down:
those that do are one *region*, which is known only when the last band has been read. Hence two passes: the
first numbers pieces and learns which of them belong together, the second meets the same pieces again.
"""

from typing import NamedTuple

import numpy as np

from landcover._typing import IntArray, UInt8Array
from landcover.errors import MaskError
from landcover.legend import NODATA


class Runs(NamedTuple):
    """The runs of a band and of the row above it, in reading order.

    Attributes:
        row: Row of the map that the band begins with.
        width: Columns of the map.
        above: Number of runs in the row above, which come first. Above row 0 everything is nodata.
        start: (R,) place of a run's first pixel in the ``1 + n`` rows, counted in reading order.
        length: (R,) pixels.
        value: uint8 (R,).
        piece: (R,) the piece that a run belongs to, -1 for nodata.
        touch: (T,) places in the ``n`` rows of the band, in reading order, from which on another pair of runs
            lies above each other than in the column before.
        upper: (T,) the upper run of each pair.
        lower: (T,) the lower run of each pair.
    """

    row: int
    width: int
    above: int
    start: IntArray
    length: IntArray
    value: UInt8Array
    piece: IntArray
    touch: IntArray
    upper: IntArray
    lower: IntArray


class Labeller:
    """Numbers the 4-connected pieces of a map that is fed to it in bands from top to bottom.

    Memory: some 200 bytes for each run of a band, and 16 for each piece that meets another. There are as many
    pieces as places where a region begins from above.

    Args:
        width: Columns of the map.
        nodata: Value of pixels that belong to no region.

    Attributes:
        pieces: How many there are so far. They are numbered in the order of their first pixels.
    """

    def __init__(self, width: int, nodata: int = NODATA) -> None:
        self.pieces = 0
        self._nodata = nodata
        self._next_row = 0
        self._last_row = np.full(width, nodata, np.uint8)
        self._last_pieces = np.array([-1], np.intp)
        self._met: list[IntArray] = []

    def label(self, band: UInt8Array) -> Runs:
        """Number the pieces of the next band.

        Args:
            band: uint8 (n, width), n at least 1.

        Raises:
            MaskError: If the band has another type or width.
        """
        width = self._last_row.size
        if band.ndim != 2 or band.dtype != np.uint8 or band.shape[1] != width or not len(band):
            raise MaskError(
                f"Found a band of shape {band.shape} and type {band.dtype}; expected uint8 (rows, {width})."
            )
        rows = np.concatenate([self._last_row[None], band])
        begins = np.empty(rows.shape, np.bool_)
        begins[:, 0] = True
        np.not_equal(rows[:, 1:], rows[:, :-1], out=begins[:, 1:])
        above = int(np.count_nonzero(begins[0]))
        start = np.flatnonzero(begins)
        value = rows.reshape(-1)[start]
        # Every run begins a pair with the one above it and with the one below it, so that counting the
        # beginnings among the pairs gives the number of the run.
        touch = np.flatnonzero(begins[1:] | begins[:-1])
        upper = np.cumsum(begins[:-1].reshape(-1)[touch]) - 1
        lower = np.cumsum(begins[1:].reshape(-1)[touch]) + (above - 1)

        same = value[upper] == value[lower]
        same &= value[lower] != self._nodata
        _, heads, which = np.unique(self._last_pieces, return_index=True, return_inverse=True)
        root = join(
            len(start),
            np.concatenate([heads[which], upper[same]]),
            np.concatenate([np.arange(above), lower[same]]),
        )
        piece = self._name(root, value, above)
        moved = heads[root[heads] != heads]
        self._met.append(np.stack([self._last_pieces[moved], piece[moved]]))

        runs = Runs(
            row=self._next_row,
            width=width,
            above=above,
            start=start,
            length=np.diff(start, append=rows.size),
            value=value,
            piece=piece,
            touch=touch,
            upper=upper,
            lower=lower,
        )
        self._next_row += len(band)
        self._last_row = rows[-1].copy()
        self._last_pieces = piece[np.searchsorted(start, rows.size - width) :]
        return runs

    def regions(self) -> IntArray:
        """Return the region of each piece met so far, numbered in the order of the regions' first pixels.

        Returns:
            (pieces + 1,): the last entry is -1, so that nodata (piece -1) is no region.
        """
        first, second = np.concatenate(self._met, axis=1) if self._met else np.empty((2, 0), np.intp)
        root = join(self.pieces, first, second)
        number = np.cumsum(root == np.arange(self.pieces)) - 1
        return np.append(number[root], -1)

    def _name(self, root: IntArray, value: UInt8Array, above: int) -> IntArray:
        """Give each run its piece: that of the row above which it hangs together with, else a new one."""
        names = np.full(len(root), -1, np.intp)
        names[:above] = self._last_pieces
        new = np.flatnonzero((root == np.arange(len(root))) & (value != self._nodata))
        new = new[np.searchsorted(new, above) :]
        names[new] = np.arange(self.pieces, self.pieces + len(new))
        self.pieces += len(new)
        return names[root]


def join(count: int, first: IntArray, second: IntArray) -> IntArray:
    """Find the connected components of a graph, all links at once.

    Each component's representative hooks on to the smallest one that it is linked with, all ways are cut
    short, and links that still lead from one component to another go round again: a logarithmic number of
    rounds (Liu and Tarjan, Simple concurrent labeling algorithms for connected components, SOSA 2019,
    algorithm S).

    Args:
        count: Number of nodes.
        first: (L,) one end of each link.
        second: (L,) the other end.

    Returns:
        (count,): the smallest node of the component that each node belongs to.
    """
    root = np.arange(count)
    while first.size:
        np.minimum.at(root, np.maximum(first, second), np.minimum(first, second))
        root = last_of(root)
        first, second = root[first], root[second]
        apart = first != second
        first, second = first[apart], second[apart]
    return root


def last_of(following: IntArray) -> IntArray:
    """Return where the way from each node ends, if each goes to the one that it names; ends name themselves.

    A way that runs in a circle has no end: some node of the circle is returned.
    """
    for _ in range(len(following).bit_length()):
        further = following[following]
        if np.array_equal(further, following):
            break
        following = further
    return following
