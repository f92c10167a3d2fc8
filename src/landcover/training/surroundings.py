"""Crops that reach across an image's edges into its neighbours of the same scene.

Tiles are pieces of larger scenes. A crop that must stay within its tile never shows the network what lies
around the tile's border pixels, and shows the same frame again and again; one that may lie anywhere in the
scene shows each pixel with all of its surroundings.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from landcover.data import SceneTile
from landcover.legend import IGNORE, UInt8Array
from landcover.model.filling import mirrored
from landcover.windows import Window

Size = tuple[int, int]
Step = tuple[int, int]
BoolArray = npt.NDArray[np.bool_]

ALONE: Mapping[Step, int] = {}


class Piece(NamedTuple):
    """What one image adds to a crop.

    Attributes:
        item: Index of the image.
        window: Which part of it.
        place: Rows and columns of the crop.
    """

    item: int
    window: Window
    place: tuple[slice, slice]


class Surroundings:
    """The images around each image, one tile far in all eight directions.

    Args:
        places: Each item's place in a scene, or None where it has none.
        sizes: Each item's height and width. Only neighbours of an item's own size count: of others nobody
            could tell where they begin.
    """

    def __init__(self, places: Sequence[SceneTile | None], sizes: Sequence[Size]) -> None:
        there = {place: item for item, place in enumerate(places) if place is not None}
        self._sizes = sizes
        self._around = [
            ALONE
            if place is None
            else {
                step: other
                for step in _STEPS
                if (other := there.get(SceneTile(place.scene, place.row + step[0], place.col + step[1])))
                is not None
                and sizes[other] == sizes[item]
            }
            for item, place in enumerate(places)
        ]

    def room(self, item: int) -> tuple[Size, Size]:
        """Return how far a crop may reach beyond an image: above and below it, left and right of it."""
        height, width = self._sizes[item]
        around = self._around[item]
        return (
            (height * ((-1, 0) in around), height * ((1, 0) in around)),
            (width * ((0, -1) in around), width * ((0, 1) in around)),
        )

    def settle(self, item: int, row: int, col: int, side: int) -> tuple[int, int]:
        """Move a crop that reaches over a corner behind which nothing is back along its shorter overhang.

        Args:
            item: Index of the image.
            row: First row of the crop, within what :meth:`room` gives.
            col: First column, likewise.
            side: Its height and width.

        Returns:
            Its first row and column.
        """
        height, width = self._sizes[item]
        if side > min(height, width):
            return row, col
        down, right = _overhang(row, side, height), _overhang(col, side, width)
        if down and right and (_sign(down), _sign(right)) not in self._around[item]:
            if abs(down) <= abs(right):
                row -= down
            else:
                col -= right
        return row, col

    def pieces(self, item: int, row: int, col: int, side: int) -> Iterator[Piece]:
        """Yield what each image adds to a crop; places that no piece covers have no imagery.

        Args:
            item: Index of the image that the crop belongs to.
            row: First row of the crop in that image; negative above it.
            col: First column, likewise.
            side: Height and width of the crop.
        """
        height, width = self._sizes[item]
        for (down, right), other in ((_HERE, item), *self._around[item].items()):
            top, left = down * height, right * width
            first, begin = max(row, top), max(col, left)
            rows = min(row + side, top + height) - first
            cols = min(col + side, left + width) - begin
            if rows > 0 and cols > 0:
                place = slice(first - row, first - row + rows), slice(begin - col, begin - col + cols)
                yield Piece(other, Window(first - top, begin - left, rows, cols), place)


def cut(
    pieces: Sequence[Piece],
    side: int,
    read_image: Callable[[int, Window], UInt8Array],
    read_channels: Callable[[int, Window], UInt8Array],
) -> tuple[UInt8Array, UInt8Array]:
    """Put a crop together.

    Args:
        pieces: What it is made of.
        side: Its height and width.
        read_image: Reads a window of an item's image, uint8 (h, w, 3).
        read_channels: Reads a window of an item's mask as channels, uint8 (h, w).

    Returns:
        uint8 (side, side, 3), mirrored imagery where there is none (as for prediction), and the channels
        uint8 (side, side), ``IGNORE`` there.
    """
    if len(pieces) == 1 and pieces[0].window[2:] == (side, side):
        item, window, _ = pieces[0]
        return read_image(item, window), read_channels(item, window)
    image = np.zeros((side, side, 3), np.uint8)
    channels = np.full((side, side), IGNORE, np.uint8)
    valid: BoolArray = np.zeros((side, side), np.bool_)
    for item, window, place in pieces:
        image[place] = read_image(item, window)
        channels[place] = read_channels(item, window)
        valid[place] = True
    return mirrored(image, valid), channels


_HERE: Step = (0, 0)
_STEPS = [(down, right) for down in (-1, 0, 1) for right in (-1, 0, 1) if (down, right) != _HERE]


def _overhang(start: int, side: int, length: int) -> int:
    """Return how far a crop reaches beyond an axis: below 0 before its begin, above 0 behind its end."""
    return min(start, 0) or max(start + side - length, 0)


def _sign(number: int) -> int:
    return (number > 0) - (number < 0)
