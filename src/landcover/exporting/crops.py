"""Pieces of imagery at the model's scale, to calibrate with and to compare runtimes on."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from landcover._typing import UInt8Array
from landcover.data import Dataset, Item, open_dataset, select
from landcover.data.synthetic import GSD, make_scene
from landcover.errors import UsageError
from landcover.model.preprocessing import resample_image
from landcover.scale import unknown_gsd
from landcover.windows import Window


@dataclass(frozen=True)
class Imagery:
    """Images to cut pieces from.

    Attributes:
        name: What reports call it.
        dataset: The folder or cache; None for the procedural world.
        items: The images of it; empty for the procedural world.
        gsd: Metres per pixel.
    """

    name: str
    dataset: Dataset | None
    items: tuple[Item, ...]
    gsd: float

    def capacity(self, side: int, gsd: float) -> float:
        """Return about how many different crops of this size the images hold, at least one each.

        More crops than that repeat what is already drawn. Arguments as for :meth:`crops`.
        """
        if self.dataset is None:
            return math.inf
        area = (side * gsd / self.gsd) ** 2
        return sum(max(1, round(math.prod(self.dataset.size(item)) / area)) for item in self.items)

    def crops(self, count: int, side: int, gsd: float, *, seed: int) -> Iterator[UInt8Array]:
        """Yield pieces at random places, every image once before one comes again.

        A piece is a function of (seed, its number). Where an image is smaller, the piece is.

        Args:
            count: Number of pieces.
            side: Height and width in pixels of ``gsd``.
            gsd: Metres per pixel of the pieces: the model's.
            seed: Which pieces.

        Yields:
            uint8 (side, side, 3), RGB.
        """
        reach = math.ceil(round(side * gsd / self.gsd, 6))  # in pixels of the images: enough for the side
        order = np.random.default_rng(seed).permutation(max(len(self.items), 1))
        for number in range(count):
            rng = np.random.default_rng((seed, number))
            if self.dataset is None:
                piece = make_scene(int(rng.integers(1 << 62)), reach, reach).image
            else:
                item = self.items[order[number % len(order)]]
                height, width = self.dataset.size(item)
                window = Window(
                    int(rng.integers(max(height - reach, 0) + 1)),
                    int(rng.integers(max(width - reach, 0) + 1)),
                    min(reach, height),
                    min(reach, width),
                )
                piece = self.dataset.read_image(item, window)
            size = [min(side, max(1, round(length * self.gsd / gsd))) for length in piece.shape[:2]]
            yield resample_image(np.ascontiguousarray(piece), (size[0], size[1]))


PROCEDURAL = Imagery("procedural scenes", None, (), GSD)
"""The procedural world of :mod:`landcover.data.synthetic`: imagery that is always there."""


def open_imagery(data: str | Path, split: str | None = None, *, gsd: float | None = None) -> Imagery:
    """Open a folder or cache, labelled or not.

    Args:
        data: Folder of images or pairs, or a prepared cache.
        split: ``NAME:part``, for the images of one part; None for all.
        gsd: Metres per pixel, where the data do not tell.

    Raises:
        UsageError: If the metres per pixel are not known.
        SplitError: If the split cannot be made.
        DataError: If there is no recognised imagery.
    """
    dataset = open_dataset(data, gsd=gsd)
    if dataset.gsd is None:
        raise unknown_gsd(dataset.root)
    items = dataset.items if split is None else tuple(select(dataset, split))
    name = dataset.root.name if split is None else f"{dataset.root.name} {split}"
    return Imagery(name, dataset, items, dataset.gsd)


def parse_imagery(text: str, *, gsd: float | None = None) -> Imagery:
    """Open ``DATA`` or ``DATA:SPLIT``, such as ``tiles`` or ``tiles:folders:train``.

    Raises:
        UsageError: If no such folder or cache exists; else as :func:`open_imagery`.
    """
    pieces = text.split(":")
    for end in range(len(pieces), 0, -1):  # a folder's name may have a colon too
        name = ":".join(pieces[:end])
        if name and Path(name).exists():
            return open_imagery(name, ":".join(pieces[end:]) or None, gsd=gsd)
    raise UsageError(
        f"{pieces[0]!r} does not exist; expected DATA or DATA:SPLIT, such as tiles:folders:train."
    )
