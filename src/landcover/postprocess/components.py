"""The connected regions of a map that is read by row blocks: runs, pieces and regions.

A *run* is a stretch of a row with one value. Runs of neighbouring rows that share an edge and a value are
connected; runs connected in the part of the map read so far form a *piece*. Pieces can join further down: all
that do form one *region*, which is known only after the last block. Hence two passes: the first numbers
pieces and records which of them join, the second finds the same pieces again.
"""

from typing import NamedTuple

import numpy as np

from landcover._typing import IntArray, UInt8Array
from landcover.errors import MaskError
from landcover.legend import NODATA


class Runs(NamedTuple):
    """The runs of a block and of the row above it, in reading order.

    Attributes:
        row: First row of the block in the map.
        width: Columns of the map.
        above: Number of runs in the row above, which come first. Above row 0 everything is nodata.
        start: (R,) place of a run's first pixel in the ``1 + n`` rows, counted in reading order.
        length: (R,) pixels.
        value: uint8 (R,).
        piece: (R,) the piece that a run belongs to, -1 for nodata.
        touch: (T,) places in the ``n`` rows of the block, in reading order, where another pair of runs begins
            than in the column before.
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
    """Numbers the 4-connected ``pieces`` of a map of some width, in row blocks from top to bottom.

    Memory: about 200 bytes for each run of a block, and 16 for each piece that joins another. There are as
    many pieces as places where a region begins from above.
    """

    def __init__(self, width: int) -> None:
        self.pieces = 0
        self._next_row = 0
        self._last_row = np.full(width, NODATA, np.uint8)
        self._last_pieces = np.array([-1], np.intp)
        self._joins: list[IntArray] = []

    def label(self, block: UInt8Array) -> Runs:
        """Number the pieces of the next row block, uint8 (n, width), n at least 1."""
        width = self._last_row.size
        if block.ndim != 2 or block.dtype != np.uint8 or block.shape[1] != width or not len(block):
            raise MaskError(
                f"Found rows of shape {block.shape} and type {block.dtype}; expected uint8 (rows, {width})."
            )
        rows = np.concatenate([self._last_row[None], block])
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
        same &= value[lower] != NODATA
        _, heads, which = np.unique(self._last_pieces, return_index=True, return_inverse=True)
        root = join(
            len(start),
            np.concatenate([heads[which], upper[same]]),
            np.concatenate([np.arange(above), lower[same]]),
        )
        # A run has the piece of the row above that it is connected with, else a new one.
        names = np.full(len(root), -1, np.intp)
        names[:above] = self._last_pieces
        new = np.flatnonzero((root == np.arange(len(root))) & (value != NODATA))
        new = new[np.searchsorted(new, above) :]
        names[new] = np.arange(self.pieces, self.pieces + len(new))
        self.pieces += len(new)
        piece = names[root]
        moved = heads[root[heads] != heads]
        self._joins.append(np.stack([self._last_pieces[moved], piece[moved]]))

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
        self._next_row += len(block)
        self._last_row = rows[-1].copy()
        self._last_pieces = piece[np.searchsorted(start, rows.size - width) :]
        return runs

    def regions(self) -> IntArray:
        """Return the region of each piece, in the order of their first pixels; last -1, for nodata."""
        first, second = np.concatenate(self._joins, axis=1) if self._joins else np.empty((2, 0), np.intp)
        root = join(self.pieces, first, second)
        number = np.cumsum(root == np.arange(self.pieces)) - 1
        return np.append(number[root], -1)


def join(count: int, first: IntArray, second: IntArray) -> IntArray:
    """Return the smallest node of each node's connected component, (count,), of a graph of links.

    All links at once: each component's representative links to the smallest one that it is connected with,
    paths are shortened, and links between components are processed again, in a logarithmic number of rounds
    (Liu and Tarjan, Simple concurrent labeling algorithms for connected components, SOSA 2019, algorithm S).
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
    """Return the end of the path from each node to the next in ``following``; ends follow themselves.

    For a circle, one of its nodes is returned.
    """
    for _ in range(len(following).bit_length()):
        further = following[following]
        if np.array_equal(further, following):
            break
        following = further
    return following
