"""The sequence of training crops: a pure function of the seed and the crop's number.

Crop ``n`` belongs to epoch ``n // len(sampler)``. All its random choices come from one generator seeded with
(seed, epoch, index): a run can be resumed at any crop, and the number of threads changes nothing.

Images are often tiles of larger scenes. A crop that must stay within its tile never shows the network the
surroundings of the pixels at its edges; :class:`NeighbourTiles` lets crops reach into the tiles around.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from landcover._typing import BoolArray, Float64Array, Int64Array, UInt8Array
from landcover.data import SceneTile
from landcover.legend import IGNORE
from landcover.model.preprocessing import Size, mirrored
from landcover.windows import Window

BLOCK_PX = 64
"""Side of the blocks that classes are counted in."""

_STEPS = [(row, col) for row in (-1, 0, 1) for col in (-1, 0, 1) if (row, col) != (0, 0)]
"""Rows and columns of tiles from a tile to its neighbours."""


@dataclass(frozen=True)
class ClassCounts:
    """Pixels of each class, uint16 (rows, columns, C), in blocks of :data:`BLOCK_PX` pixels of a mask."""

    height: int
    width: int
    blocks: npt.NDArray[np.uint16]

    @property
    def pixels(self) -> Int64Array:
        """int64 (C,): labelled pixels of each class."""
        return np.asarray(self.blocks.sum(axis=(0, 1)), np.int64)


def count_classes(channels: UInt8Array, classes: int) -> ClassCounts:
    """Count the pixels of each class in blocks of a mask, uint8 (H, W): channels or ``IGNORE``."""
    height, width = channels.shape
    rows, cols = -(-height // BLOCK_PX), -(-width // BLOCK_PX)
    bins = classes + 1  # the last one counts the pixels to ignore
    block = (np.arange(height) // BLOCK_PX * cols)[:, None] + np.arange(width) // BLOCK_PX
    block *= bins
    block += np.minimum(channels, classes)
    counts = np.bincount(block.ravel(), minlength=rows * cols * bins).reshape(rows, cols, bins)
    return ClassCounts(height, width, counts[..., :classes].astype(np.uint16))


class Crop(NamedTuple):
    """A square of one image, in its pixels, and the generator that draws its augmentation.

    ``row`` and ``col`` are the first ones; they are negative if the crop begins above or left of the image.
    """

    item: int
    row: int
    col: int
    side: int
    rng: np.random.Generator


class CropSampler:
    """The endless sequence of crops of a run.

    With ``balance`` 0 every epoch visits all images in a new order, and crop positions are uniform. Above 0 a
    class is drawn first, by its fraction of all pixels to the power of ``1 - balance``; then an image, by its
    pixels of the class to the same power; then a pixel of the class (up to a block), at a random position in
    the crop. Crops stay inside images that are large enough, or reach into the neighbours.

    Args:
        class_counts: One for each image, each with at least one labelled pixel.
        side_px: Height and width of a crop in pixels of the images, before magnification.
        scale: Smallest and largest magnification; a crop magnified by 2 covers half the side.
        balance: 0..1, see above.
        seed: Seed of all random choices.
        neighbours: The tiles around each image; None to keep crops inside. A crop then contains at least one
            pixel of its image, drawn as above (with ``balance`` 0: any pixel).
    """

    def __init__(
        self,
        class_counts: Sequence[ClassCounts],
        *,
        side_px: float,
        scale: tuple[float, float] = (1.0, 1.0),
        balance: float = 0.0,
        seed: int = 0,
        neighbours: "NeighbourTiles | None" = None,
    ) -> None:
        self._class_counts = class_counts
        self._neighbours = neighbours
        self._side = side_px
        self._log_scale = np.log(scale)
        self._balance = balance
        self._seed = seed
        self._order = lru_cache(maxsize=4)(
            lambda epoch: np.random.default_rng((seed, epoch)).permutation(len(class_counts))
        )
        pixels = np.stack([entry.pixels for entry in class_counts]).astype(np.float64)
        weights = np.where(pixels.sum(axis=0) > 0, pixels.sum(axis=0) ** (1 - balance), 0.0)
        self._classes = np.cumsum(weights)
        self._items = [np.cumsum(np.where(column > 0, column ** (1 - balance), 0.0)) for column in pixels.T]

    def __len__(self) -> int:
        """Return the number of crops in an epoch: one for each image."""
        return len(self._class_counts)

    def __getitem__(self, n: int) -> Crop:
        """Return crop ``n``, counted from 0."""
        epoch, index = divmod(n, len(self))
        rng = np.random.default_rng((self._seed, epoch, index))
        side = max(1, round(self._side / float(np.exp(rng.uniform(*self._log_scale)))))
        if self._balance == 0:
            item = int(self._order(epoch)[index])
            channel = None
        else:
            channel = _pick(rng, self._classes)
            item = _pick(rng, self._items[channel])
        row, col = self._position(rng, item, channel, side)
        return Crop(item, row, col, side, rng)

    def _position(
        self, rng: np.random.Generator, item: int, channel: int | None, side: int
    ) -> tuple[int, int]:
        """Draw the first row and column of a crop: anywhere, or around a pixel of a class."""
        counts, neighbours = self._class_counts[item], self._neighbours
        if neighbours is None and channel is None:
            return _inside(rng, counts.height, side), _inside(rng, counts.width, side)
        if channel is None:
            pixel = int(rng.integers(counts.height)), int(rng.integers(counts.width))
        else:  # a pixel of a block that contains the class, in proportion to the pixels of the class
            blocks = counts.blocks[..., channel]
            block = divmod(_pick(rng, np.cumsum(blocks.ravel().astype(np.float64))), blocks.shape[1])
            top, left = block[0] * BLOCK_PX, block[1] * BLOCK_PX
            pixel = (
                int(rng.integers(top, min(top + BLOCK_PX, counts.height))),
                int(rng.integers(left, min(left + BLOCK_PX, counts.width))),
            )
        row, col = (
            _around(rng, position + before, before + length + after, side) - before
            for position, length, (before, after) in zip(
                pixel,
                (counts.height, counts.width),
                neighbours.margin(item) if neighbours else ((0, 0), (0, 0)),
                strict=True,
            )
        )
        return neighbours.clamp(item, row, col, side) if neighbours else (row, col)


def _pick(rng: np.random.Generator, cumulative: Float64Array) -> int:
    """Draw an index in proportion to its weight; an index of weight 0 is never drawn."""
    return int(np.searchsorted(cumulative, rng.random() * cumulative[-1], side="right"))


def _inside(rng: np.random.Generator, length: int, side: int) -> int:
    """Draw the start of a crop that is inside the image, or that contains the image."""
    low, high = sorted((0, length - side))
    return int(rng.integers(low, high + 1))


def _around(rng: np.random.Generator, position: int, length: int, side: int) -> int:
    """Draw the start of a crop that contains ``position``, and move the crop inside the image."""
    if side >= length:
        return _inside(rng, length, side)
    return min(max(position - int(rng.integers(side)), 0), length - side)


class Piece(NamedTuple):
    """The contribution of one image to a crop: a window, and its rows and columns in the crop."""

    item: int
    window: Window
    target: tuple[slice, slice]


class NeighbourTiles:
    """The tiles around each image, one tile in all eight directions, by scene, row and column of each item.

    Only neighbours of an item's own size are used: the position of others is not known.
    """

    def __init__(self, tiles: Sequence[SceneTile | None], sizes: Sequence[Size]) -> None:
        items = {tile: item for item, tile in enumerate(tiles) if tile is not None and tile.row is not None}
        self._sizes = sizes
        self._around: list[dict[tuple[int, int], int]] = [{} for _ in tiles]
        for item, tile in enumerate(tiles):
            if tile is None:
                continue
            for down, right in _STEPS:
                neighbour = tile.moved(down, right)
                other = None if neighbour is None else items.get(neighbour)
                if other is not None and sizes[other] == sizes[item]:
                    self._around[item][down, right] = other

    def margin(self, item: int) -> tuple[Size, Size]:
        """Return how far a crop may reach beyond an image: above and below it, left and right of it."""
        height, width = self._sizes[item]
        around = self._around[item]
        return (
            (height * ((-1, 0) in around), height * ((1, 0) in around)),
            (width * ((0, -1) in around), width * ((0, 1) in around)),
        )

    def clamp(self, item: int, row: int, col: int, side: int) -> tuple[int, int]:
        """Move a crop that reaches over a corner without a tile back along its shorter overhang.

        Takes and returns the first row and column of the crop in the image, within :meth:`margin`.
        """
        height, width = self._sizes[item]
        if side > min(height, width):
            return row, col
        # How far the crop reaches beyond each axis: negative before its start, positive after its end.
        down = min(row, 0) or max(row + side - height, 0)
        right = min(col, 0) or max(col + side - width, 0)
        if down and right and (int(np.sign(down)), int(np.sign(right))) not in self._around[item]:
            if abs(down) <= abs(right):
                row -= down
            else:
                col -= right
        return row, col

    def pieces(self, crop: Crop) -> Iterator[Piece]:
        """Yield the contribution of each image to a crop; the rest of the crop has no imagery."""
        height, width = self._sizes[crop.item]
        row, col, side = crop.row, crop.col, crop.side
        for (down, right), other in (((0, 0), crop.item), *self._around[crop.item].items()):
            top, left = down * height, right * width
            first_row, first_col = max(row, top), max(col, left)
            rows = min(row + side, top + height) - first_row
            cols = min(col + side, left + width) - first_col
            if rows > 0 and cols > 0:
                target = (
                    slice(first_row - row, first_row - row + rows),
                    slice(first_col - col, first_col - col + cols),
                )
                yield Piece(other, Window(first_row - top, first_col - left, rows, cols), target)


def assemble_crop(
    pieces: Sequence[Piece],
    side: int,
    read_imagery: Callable[[int, Window], tuple[UInt8Array, BoolArray | None]],
    read_channels: Callable[[int, Window], UInt8Array],
) -> tuple[UInt8Array, UInt8Array]:
    """Read image, uint8 (side, side, B), and channels, uint8 (side, side), of a crop from what it covers.

    The functions read a window of an item. Pixels that no piece covers, or without imagery, are mirrored in
    the image (as in prediction) and ``IGNORE`` in the channels.
    """
    if len(pieces) == 1 and pieces[0].window[2:] == (side, side):
        item, window, _ = pieces[0]
        image, inside = read_imagery(item, window)
        return image if inside is None else mirrored(image, inside), read_channels(item, window)
    read = [read_imagery(item, window) for item, window, _ in pieces]
    image = np.zeros((side, side, read[0][0].shape[2]), np.uint8)
    channels = np.full((side, side), IGNORE, np.uint8)
    valid = np.zeros((side, side), np.bool_)
    for (item, window, target), (imagery, inside) in zip(pieces, read, strict=True):
        image[target] = imagery
        channels[target] = read_channels(item, window)
        valid[target] = True if inside is None else inside
    return mirrored(image, valid), channels
