"""Which crop is the n-th: a pure function of the seed and n, whoever asks and in whatever order.

Sample ``n`` belongs to epoch ``n // len(sampler)``. All its choices come from one generator that is seeded
by (seed, epoch, index), so that a run can be taken up anywhere, and threads change nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from landcover.legend import UInt8Array
from landcover.training.surroundings import Surroundings

BLOCK_PX = 64

Float64Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Census:
    """Where the classes are in one mask.

    Attributes:
        height: Rows of the mask.
        width: Columns of the mask.
        blocks: uint16 (rows, columns, C): pixels of each class in blocks of :data:`BLOCK_PX`; those at the
            lower and right border may be smaller.
    """

    height: int
    width: int
    blocks: npt.NDArray[np.uint16]

    @property
    def pixels(self) -> npt.NDArray[np.int64]:
        """int64 (C,): labelled pixels of each class."""
        return np.asarray(self.blocks.sum(axis=(0, 1)), np.int64)


def take_census(channels: UInt8Array, classes: int) -> Census:
    """Count the classes of a mask in blocks.

    Args:
        channels: uint8 (H, W): model channel of each pixel, or ``IGNORE``.
        classes: Number of channels C.
    """
    height, width = channels.shape
    rows, cols = -(-height // BLOCK_PX), -(-width // BLOCK_PX)
    bins = classes + 1  # the last one is for pixels to ignore
    block = (np.arange(height) // BLOCK_PX * cols)[:, None] + np.arange(width) // BLOCK_PX
    block *= bins
    block += np.minimum(channels, classes)
    counts = np.bincount(block.ravel(), minlength=rows * cols * bins).reshape(rows, cols, bins)
    return Census(height, width, counts[..., :classes].astype(np.uint16))


class Crop(NamedTuple):
    """A square of one image, and the generator from which its augmentation is drawn.

    Attributes:
        item: Index of the image.
        row: First row; negative where the crop begins above the image.
        col: First column, likewise.
        side: Height and width in pixels of the image.
        rng: Generator that belongs to this crop alone.
    """

    item: int
    row: int
    col: int
    side: int
    rng: np.random.Generator


class CropSampler:
    """The sequence of crops of a run.

    With ``balance`` 0 every epoch goes through all images in a new order, and crops lie anywhere in them.
    Above 0 a class is drawn first, by its share of all pixels to the power of ``1 - balance``; then an image,
    by its pixels of the class to the same power; then a pixel of the class (to within a block), which lies
    anywhere in the crop. So with 1 every class is equally likely, and every image that has it. Crops stay
    inside the image where it is large enough, or reach into those around it.

    Args:
        census: One for each image, each with at least one labelled pixel.
        side_px: Height and width of a crop in pixels of the images, before magnification.
        scale: Smallest and largest magnification; a crop that is magnified by 2 covers half the side.
        balance: 0..1, as above.
        seed: Decides everything.
        surroundings: The images around each; None to keep crops inside. A crop then lies anywhere that holds
            a pixel of its image, drawn as above (with ``balance`` 0: any).
    """

    def __init__(
        self,
        census: Sequence[Census],
        *,
        side_px: float,
        scale: tuple[float, float] = (1.0, 1.0),
        balance: float = 0.0,
        seed: int = 0,
        surroundings: Surroundings | None = None,
    ) -> None:
        self._census = census
        self._surroundings = surroundings
        self._side = side_px
        self._log_scale = np.log(scale)
        self._balance = balance
        self._seed = seed
        self._order = lru_cache(maxsize=4)(self._shuffled)
        pixels = np.stack([entry.pixels for entry in census]).astype(np.float64)
        self._classes = _cumulative(_tempered(pixels.sum(axis=0), balance))
        self._items = [_cumulative(_tempered(column, balance)) for column in pixels.T]

    def __len__(self) -> int:
        """Crops in an epoch: as many as images."""
        return len(self._census)

    def __getitem__(self, n: int) -> Crop:
        """Return crop ``n`` of the endless sequence, ``n`` counting from 0."""
        epoch, index = divmod(n, len(self))
        rng = np.random.default_rng((self._seed, epoch, index))
        side = max(1, round(self._side / float(np.exp(rng.uniform(*self._log_scale)))))
        if self._balance == 0:
            item = int(self._order(epoch)[index])
            channel = None
        else:
            channel = _pick(rng, self._classes)
            item = _pick(rng, self._items[channel])
        row, col = self._place(rng, item, channel, side)
        return Crop(item, row, col, side, rng)

    def _place(self, rng: np.random.Generator, item: int, channel: int | None, side: int) -> tuple[int, int]:
        """Draw where a crop begins: anywhere, or so that it holds a pixel of a class."""
        entry = self._census[item]
        if self._surroundings is None:
            if channel is None:
                return _inside(rng, entry.height, side), _inside(rng, entry.width, side)
            pixel = _pixel_of(rng, entry, channel)
            return _around(rng, pixel[0], entry.height, side), _around(rng, pixel[1], entry.width, side)
        if channel is None:
            pixel = int(rng.integers(entry.height)), int(rng.integers(entry.width))
        else:
            pixel = _pixel_of(rng, entry, channel)
        room = self._surroundings.room(item)
        row, col = (
            _around(rng, position + before, before + length + behind, side) - before
            for position, length, (before, behind) in zip(
                pixel, (entry.height, entry.width), room, strict=True
            )
        )
        return self._surroundings.settle(item, row, col, side)

    def _shuffled(self, epoch: int) -> npt.NDArray[np.int64]:
        return np.random.default_rng((self._seed, epoch)).permutation(len(self))


def _tempered(pixels: Float64Array, balance: float) -> Float64Array:
    """Pixels to the power of 1 - balance, 0 staying 0."""
    return np.where(pixels > 0, pixels ** (1 - balance), 0.0)


def _cumulative(weights: Float64Array) -> Float64Array:
    return np.cumsum(weights)


def _pick(rng: np.random.Generator, cumulative: Float64Array) -> int:
    """Draw an index in proportion to its weight; one of weight 0 is never drawn."""
    return int(np.searchsorted(cumulative, rng.random() * cumulative[-1], side="right"))


def _pixel_of(rng: np.random.Generator, entry: Census, channel: int) -> tuple[int, int]:
    """Draw a pixel in a block that has the class, in proportion to the class's pixels there."""
    counts = entry.blocks[..., channel]
    row, col = divmod(_pick(rng, _cumulative(counts.ravel().astype(np.float64))), counts.shape[1])
    top, left = row * BLOCK_PX, col * BLOCK_PX
    return (
        int(rng.integers(top, min(top + BLOCK_PX, entry.height))),
        int(rng.integers(left, min(left + BLOCK_PX, entry.width))),
    )


def _inside(rng: np.random.Generator, length: int, side: int) -> int:
    """Draw a start so that the crop is inside the image, or the image inside the crop."""
    low, high = sorted((0, length - side))
    return int(rng.integers(low, high + 1))


def _around(rng: np.random.Generator, position: int, length: int, side: int) -> int:
    """Draw a start so that the crop holds ``position``, moved to where :func:`_inside` could have put it."""
    if side >= length:
        return _inside(rng, length, side)
    return min(max(position - int(rng.integers(side)), 0), length - side)
