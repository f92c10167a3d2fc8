"""Crops of imagery at the model's scale, on which files are calibrated and compared."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from landcover._typing import UInt8Array
from landcover.data import Dataset, Item, open_dataset, select
from landcover.data.folder import read_as
from landcover.data.synthetic import GSD, make_scene
from landcover.errors import UsageError
from landcover.model.preprocessing import Preprocessing, resample_image
from landcover.raster import Reading
from landcover.windows import Window


@dataclass(frozen=True)
class CropSource:
    """Images to crop; without a dataset procedural scenes. ``gsd`` is in metres per pixel.

    ``channels`` are the bands of procedural scenes: red, green and blue, repeated.
    """

    name: str
    dataset: Dataset | None
    items: tuple[Item, ...]
    gsd: float
    channels: int = 3

    def crops(
        self, count: int, side: int, gsd: float, *, seed: int, overlapping: int | None = None
    ) -> Iterator[UInt8Array]:
        """Yield crops, uint8 (side, side, 3), at random positions; of a smaller image a smaller crop.

        Every image is used once before one is used again. A crop depends only on the seed and its number.
        ``gsd`` is that of the crops. ``overlapping``: at most this many times as many as fit side by side
        into the images.
        """
        if overlapping is not None and self.dataset is not None:
            area = (side * gsd / self.gsd) ** 2
            fitting = sum(max(1, round(math.prod(self.dataset.size(item)) / area)) for item in self.items)
            count = min(count, overlapping * fitting)
        reach = math.ceil(round(side * gsd / self.gsd, 6))  # in pixels of the images: enough for the side
        order = np.random.default_rng(seed).permutation(max(len(self.items), 1))
        for number in range(count):
            rng = np.random.default_rng((seed, number))
            if self.dataset is None:
                crop = make_scene(int(rng.integers(1 << 62)), reach, reach).image
                crop = crop[..., np.arange(self.channels) % 3]
            else:
                item = self.items[order[number % len(order)]]
                height, width = self.dataset.size(item)
                top, left = (int(rng.integers(max(length - reach, 0) + 1)) for length in (height, width))
                crop = self.dataset.read_image(item, Window(top, left, min(reach, height), min(reach, width)))
            rows, columns = (min(side, max(1, round(n * self.gsd / gsd))) for n in crop.shape[:2])
            yield resample_image(np.ascontiguousarray(crop), (rows, columns))


PROCEDURAL = CropSource("procedural scenes", None, (), GSD)
"""Scenes of :mod:`landcover.data.synthetic`, which need no data."""


def open_crops(
    data: str | Path,
    split: str | None = None,
    *,
    gsd: float | None = None,
    like: Preprocessing | None = None,
    reading: Reading | None = None,
) -> CropSource:
    """Open a folder or cache, with or without labels; of a split, ``NAME:subset``, only the subset.

    Bands and scaling are those of ``like``, unless ``reading`` or the data declare them.
    """
    dataset = open_dataset(data, gsd=gsd, reading=reading)
    dataset = dataset if like is None else read_as(dataset, like)
    gsd, name = dataset.known_gsd("the model"), dataset.root.name
    if split is None:
        return CropSource(name, dataset, dataset.items, gsd)
    return CropSource(f"{name} {split}", dataset, tuple(select(dataset, split)), gsd)


def parse_crops(text: str, **how: Any) -> CropSource:
    """Open ``DATA`` or ``DATA:SPLIT``, such as ``tiles:folders:train``, as :func:`open_crops` does."""
    pieces = text.split(":")
    for end in range(len(pieces), 0, -1):  # a folder's name may contain colons
        name = ":".join(pieces[:end])
        if name and Path(name).exists():
            return open_crops(name, ":".join(pieces[end:]) or None, **how)
    raise UsageError(
        f"{pieces[0]!r} does not exist; expected DATA or DATA:SPLIT, such as tiles:folders:train."
    )
