"""Open data sets: images and masks of a folder or a prepared cache, behind one interface."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeVar

import numpy as np
from pydantic import Field

from landcover._typing import Int64Array, UInt8Array
from landcover.config import Config, from_mapping
from landcover.data.fingerprints import Fingerprint, hash_file, hash_pixels, hash_table
from landcover.data.layouts import (
    SCENES_FILE,
    Discovery,
    Item,
    SceneTile,
    discover,
    read_scenes,
    typical_size,
)
from landcover.errors import DataError, UsageError
from landcover.io import MAX_PIXELS, Mask, image_size, read_image, read_mask
from landcover.io.discovery import RASTER_SUFFIXES
from landcover.legend import DEEPGLOBE, Legend, load_legend, translation
from landcover.raster import ground_sample_distance
from landcover.scale import SETTINGS_FILE, find_scale
from landcover.textfiles import read_yaml
from landcover.windows import Window

_GSD_TOLERANCE = 0.01
"""Fraction by which the GSD of images in one folder may differ."""

Array = TypeVar("Array", bound=UInt8Array)


@dataclass(frozen=True)
class Dataset(ABC):
    """Items of one folder or prepared cache. It can be pickled and used after a fork.

    Attributes:
        root: The folder or cache.
        layout: Name of the layout.
        legend: Meaning of the class indices that :meth:`read_mask` returns.
        gsd: Metres per pixel of the images, or None if unknown.
        items: All images, labelled or not, sorted by key.
        scenes: Positions in larger scenes by item key, or None without ``scenes.csv``.
        scene_table: Digest of that file; None without it, or if the cache does not record it.

    Example:
        >>> dataset = lc.open_dataset(make_dataset("data", scenes=3, size=64))
        >>> item = dataset.items[0]
        >>> dataset.size(item), dataset.read_image(item).shape, dataset.read_mask(item).shape
        ((64, 64), (64, 64, 3), (64, 64))
        >>> int(dataset.class_pixels(item).sum()), dataset.labels(item).off_palette
        (4096, 0)
        >>> len(dataset.fingerprint(item).pixels)  # bytes
        8
    """

    root: Path
    layout: str
    legend: Legend
    gsd: float | None
    items: tuple[Item, ...]
    scenes: Mapping[str, SceneTile] | None
    scene_table: str | None

    @property
    def labelled(self) -> list[Item]:
        """Items with a mask."""
        return [item for item in self.items if item.mask is not None]

    @cached_property
    def parts(self) -> dict[str | None, list[Item]]:
        """Labelled items by subset; the only key is None if the layout has no subsets."""
        parts: dict[str | None, list[Item]] = {}
        for item in self.labelled:
            parts.setdefault(item.part, []).append(item)
        return parts

    @abstractmethod
    def size(self, item: Item) -> tuple[int, int]:
        """Return (height, width) of an item without decoding it."""

    @abstractmethod
    def read_image(self, item: Item, window: Window | None = None) -> UInt8Array:
        """Read an image or a window of it: uint8 (height, width, 3), RGB.

        Raises:
            ImageError: If the file is truncated or of an unsupported form.
        """

    @abstractmethod
    def labels(self, item: Item) -> Mask:
        """Read a whole mask as class indices of :attr:`legend`, with the count of its off-palette pixels.

        Raises:
            DataError: If the item has no mask, or the mask is unreadable or of another size than the image.
        """

    @abstractmethod
    def fingerprint(self, item: Item) -> Fingerprint:
        """Return the fingerprints of an item's file and pixels; see :mod:`landcover.data.fingerprints`.

        Raises:
            DataError: If the image cannot be read.
        """

    def read_mask(self, item: Item, window: Window | None = None) -> UInt8Array:
        """Read a mask or a window of it: uint8 (height, width), class indices of :attr:`legend`."""
        return crop(self.labels(item).index, window)

    def class_pixels(self, item: Item) -> Int64Array:
        """Count the pixels of each class in an item's mask: int64 (classes,)."""
        return count_classes(self.labels(item).index, self.legend)


def count_classes(index: UInt8Array, legend: Legend) -> Int64Array:
    """Count the pixels of each class: int64 (classes,). NODATA is not counted."""
    return np.bincount(index.ravel(), minlength=256)[: len(legend)].astype(np.int64)


def crop(array: Array, window: Window | None) -> Array:
    """Cut a window out of (height, width, ...).

    Raises:
        UsageError: If the window is empty or reaches beyond the array.
    """
    if window is None:
        return array
    height, width = array.shape[:2]
    inside = 0 <= window.row < window.row + window.height <= height
    if not (inside and 0 <= window.col < window.col + window.width <= width):
        raise UsageError(f"{window} is not inside the image of {height} x {width} pixels.")
    return array[window.slices]  # type: ignore[return-value]


@dataclass(frozen=True)
class FolderDataset(Dataset):
    """A folder of image and mask files.

    Reading a window decodes the whole file first: prepare a cache for training.

    Attributes:
        mask_legend: Legend of the mask files, which may have another index order than :attr:`legend`.
        found: The discovered items and missing files.
        max_pixels: Larger files are not decoded.
    """

    mask_legend: Legend
    found: Discovery = field(repr=False)
    max_pixels: int = MAX_PIXELS

    def size(self, item: Item) -> tuple[int, int]:
        """Return (height, width) from the header of the image file."""
        return image_size(item.image)

    def read_image(self, item: Item, window: Window | None = None) -> UInt8Array:
        """Decode an image and cut the window out of it."""
        return crop(read_image(item.image, max_pixels=self.max_pixels), window)

    def fingerprint(self, item: Item) -> Fingerprint:
        """Hash the image file, and its pixels once they are decoded."""
        image = self.read_image(item)
        return Fingerprint(hash_file(item.image), hash_pixels(image))

    def labels(self, item: Item) -> Mask:
        """Decode a mask, in any index order, to class indices of :attr:`legend`."""
        if item.mask is None:
            raise DataError(f"{item.image} has no mask.")
        mask = read_mask(item.mask, self.mask_legend, max_pixels=self.max_pixels)
        height, width = self.size(item)
        if mask.index.shape != (height, width):
            raise DataError(
                f"{item.mask} is {mask.index.shape[0]} x {mask.index.shape[1]} pixels, its image "
                f"{item.image} {height} x {width}; expected equal sizes."
            )
        if self.mask_legend is self.legend:
            return mask
        return Mask(translation(self.mask_legend, self.legend)[mask.index], mask.off_palette)


def open_dataset(
    path: str | Path,
    *,
    legend: Legend | None = None,
    gsd: float | None = None,
    max_pixels: int = MAX_PIXELS,
) -> Dataset:
    """Open a data folder of any known layout, or a cache made by :func:`landcover.data.prepare`.

    Args:
        path: The folder or cache.
        legend: Meaning of the mask files; by default that of ``landcover.yaml``, else that of the layout.
        gsd: Metres per pixel; by default from the georeference, ``landcover.yaml`` or the layout.
        max_pixels: Larger images and masks are refused when they are read. A cache holds them decoded.

    Raises:
        DataError: If the folder holds no recognised imagery, a layout is refused, or a cache is damaged.
        ConfigError: If ``landcover.yaml`` or the legend is not valid.

    Example:
        >>> dataset = lc.open_dataset(make_dataset("data", scenes=3, size=64))
        >>> len(dataset.items), dataset.gsd, dataset.legend.name
        (3, 0.5, 'deepglobe')
    """
    from landcover.data.cache import is_cache, open_cache

    path = Path(path)
    if is_cache(path):
        return open_cache(path, legend=legend, gsd=gsd)
    return open_folder(path, legend=legend, gsd=gsd, max_pixels=max_pixels)


def open_folder(
    path: Path, *, legend: Legend | None = None, gsd: float | None = None, max_pixels: int = MAX_PIXELS
) -> FolderDataset:
    """Open a folder of files; see :func:`open_dataset`."""
    found = discover(path)
    settings = read_settings(path / SETTINGS_FILE)
    legend = legend or settings.legend

    def published_gsd() -> float | None:
        # Resized copies keep the names of a layout, but not its scale.
        layout = found.layout
        published = layout.gsd and typical_size(item.image for item in found.items) == layout.size
        return layout.gsd if published else None

    scale = find_scale(
        gsd, raster=lambda: _raster_gsd(found), settings=lambda: settings.gsd, layout=published_gsd
    )
    scenes_file = path / SCENES_FILE
    has_scenes = scenes_file.is_file()
    return FolderDataset(
        root=path,
        layout=found.layout.name,
        legend=legend or DEEPGLOBE,
        gsd=None if scale is None else scale.gsd,
        items=found.items,
        scenes=read_scenes(scenes_file, found.items) if has_scenes else None,
        scene_table=hash_table(scenes_file) if has_scenes else None,
        # A legend given by the user describes the files; only without one the layout's index order applies.
        mask_legend=legend or found.layout.mask_legend or DEEPGLOBE,
        found=found,
        max_pixels=max_pixels,
    )


def _raster_gsd(found: Discovery) -> float | None:
    """Return the GSD of georeferenced images, None if there are none; refuse different ones."""
    rasters = (item.image for item in found.items if item.image.suffix.lower() in RASTER_SUFFIXES)
    known = {path: gsd for path in rasters if (gsd := ground_sample_distance(path)) is not None}
    if not known:
        return None
    fine, coarse = min(known, key=known.__getitem__), max(known, key=known.__getitem__)
    if known[coarse] > known[fine] * (1 + _GSD_TOLERANCE):
        raise DataError(
            f"{fine} has {known[fine]:g} m per pixel, {coarse} {known[coarse]:g}; expected one GSD in a "
            "folder. Put them into separate folders, or pass --gsd if they are equal."
        )
    return next(iter(known.values()))


class Settings(NamedTuple):
    """Content of ``landcover.yaml`` in a data folder: ``gsd`` in metres per pixel, and the legend."""

    gsd: float | None = None
    legend: Legend | None = None


class _SettingsFile(Config):
    gsd: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    legend: str | dict[str, Any] | None = None


def read_settings(path: Path) -> Settings:
    """Read ``landcover.yaml``; a missing file gives empty settings.

    It may hold ``gsd``, in metres per pixel, and ``legend``: a name, a YAML file beside it, or written out.

    Raises:
        ConfigError: If the file is not YAML, or a key is unknown or of the wrong type.
    """
    file = from_mapping(_SettingsFile, (read_yaml(path) or {}) if path.exists() else {}, str(path))
    if file.legend is None:
        return Settings(file.gsd)
    if isinstance(file.legend, str):
        beside = path.parent / file.legend
        return Settings(file.gsd, load_legend(beside if beside.exists() else file.legend))
    return Settings(file.gsd, Legend.from_dict(file.legend, f"{path}: legend"))
