"""Data sets: imagery and masks in a folder, read whole or by windows, behind one interface."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import numpy as np

from landcover._typing import Int64Array, UInt8Array
from landcover.config import read_yaml
from landcover.data.fingerprints import Fingerprint, hash_file, hash_pixels, hash_table
from landcover.data.items import SCENES_FILE, Item, SceneTile, read_scenes
from landcover.data.layouts import Discovery, discover, typical_size
from landcover.errors import ConfigError, DataError, UsageError, did_you_mean
from landcover.io import MAX_PIXELS, Mask, image_size, read_image, read_mask
from landcover.io.discovery import RASTER_SUFFIXES
from landcover.legend import DEEPGLOBE, Legend, load_legend, translation
from landcover.raster import ground_sample_distance
from landcover.scale import SETTINGS_FILE, check_gsd, find_scale
from landcover.windows import Window

_GSD_TOLERANCE = 0.01
"""Share by which the scales of images of one folder may differ."""

Array = TypeVar("Array", bound=UInt8Array)


@dataclass(frozen=True)
class Dataset(ABC):
    """Items of one folder or prepared cache. It can be pickled and used after a fork.

    Attributes:
        root: The folder or cache.
        layout: Name of the layout.
        legend: Meaning of the class indices that :meth:`read_mask` returns.
        gsd: Metres per pixel of the images, or None where nothing tells.
        items: All images, labelled or not, sorted by key.
        scenes: Places in larger scenes by item key, or None where there is no ``scenes.csv``.
        scene_table: Digest of that file; None where there is none, or the cache does not record it.

    Example:
        >>> import landcover as lc
        >>> from landcover.data.synthetic import make_dataset
        >>> folder = make_dataset("data", scenes=3, size=64)
        >>> dataset = lc.open_dataset(folder)
        >>> item = dataset.items[0]
        >>> dataset.read_image(item).shape, dataset.read_mask(item).shape
        ((64, 64, 3), (64, 64))
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
        """The items that have a mask."""
        return [item for item in self.items if item.mask is not None]

    @cached_property
    def parts(self) -> dict[str | None, list[Item]]:
        """The labelled items by part; None alone as a key where the layout has no parts."""
        parts: dict[str | None, list[Item]] = {}
        for item in self.labelled:
            parts.setdefault(item.part, []).append(item)
        return parts

    @abstractmethod
    def size(self, item: Item) -> tuple[int, int]:
        """Return (height, width) of an item without decoding it.

        Example:
            >>> import landcover as lc
            >>> from landcover.data.synthetic import make_dataset
            >>> folder = make_dataset("data", scenes=3, size=64)
            >>> dataset = lc.open_dataset(folder)
            >>> dataset.size(dataset.items[0])
            (64, 64)
        """

    @abstractmethod
    def read_image(self, item: Item, window: Window | None = None) -> UInt8Array:
        """Read an image or a window of it: uint8 (height, width, 3), RGB.

        Raises:
            ImageError: If the file is truncated or of a refused form.

        Example:
            >>> import landcover as lc
            >>> from landcover.data.synthetic import make_dataset
            >>> folder = make_dataset("data", scenes=3, size=64)
            >>> dataset = lc.open_dataset(folder)
            >>> dataset.read_image(dataset.items[0]).dtype
            dtype('uint8')
        """

    @abstractmethod
    def labels(self, item: Item) -> Mask:
        """Read a whole mask as class indices of :attr:`legend`, with the count of its off-palette pixels.

        Raises:
            DataError: If the item has no mask, or the mask is unreadable or of another size than the image.

        Example:
            >>> import landcover as lc
            >>> from landcover.data.synthetic import make_dataset
            >>> folder = make_dataset("data", scenes=3, size=64)
            >>> dataset = lc.open_dataset(folder)
            >>> dataset.labels(dataset.items[0]).off_palette
            0
        """

    @abstractmethod
    def fingerprint(self, item: Item) -> Fingerprint:
        """Return the fingerprints of an item's file and pixels; see :mod:`landcover.data.fingerprints`.

        Raises:
            DataError: If the image cannot be read.

        Example:
            >>> import landcover as lc
            >>> from landcover.data.synthetic import make_dataset
            >>> dataset = lc.open_dataset(make_dataset("data", scenes=3, size=64))
            >>> len(dataset.fingerprint(dataset.items[0]).pixels)
            8
        """

    def read_mask(self, item: Item, window: Window | None = None) -> UInt8Array:
        """Read a mask or a window of it: uint8 (height, width), class indices of :attr:`legend`.

        Example:
            >>> import landcover as lc
            >>> from landcover.data.synthetic import make_dataset
            >>> folder = make_dataset("data", scenes=3, size=64)
            >>> dataset = lc.open_dataset(folder)
            >>> bool(dataset.read_mask(dataset.items[0]).max() < len(dataset.legend))
            True
        """
        return crop(self.labels(item).index, window)

    def class_pixels(self, item: Item) -> Int64Array:
        """Count the pixels of each class in an item's mask: int64 (classes,).

        Example:
            >>> import landcover as lc
            >>> from landcover.data.synthetic import make_dataset
            >>> folder = make_dataset("data", scenes=3, size=64)
            >>> dataset = lc.open_dataset(folder)
            >>> int(dataset.class_pixels(dataset.items[0]).sum())
            4096
        """
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
        raise UsageError(f"{window} does not lie within the image of {height} x {width} pixels.")
    return array[window.slices]  # type: ignore[return-value]


@dataclass(frozen=True)
class FolderDataset(Dataset):
    """A folder of image and mask files.

    Reading a window decodes the whole file first: prepare a cache for training.

    Attributes:
        mask_legend: Legend of the mask files, which may have another index order than :attr:`legend`.
        found: What discovery found, pairs missing a half included.
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
        image = self.read_image(item)  # a missing file is a DataError here
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
                f"{item.image} {height} x {width}; they must be of one size."
            )
        if self.mask_legend is self.legend:
            return mask
        return Mask(self._reorder[mask.index], mask.off_palette)

    @cached_property
    def _reorder(self) -> UInt8Array:
        """uint8 (256,): index in the legend of each index in the files."""
        return translation(self.mask_legend, self.legend)


def open_folder(
    path: Path, *, legend: Legend | None = None, gsd: float | None = None, max_pixels: int = MAX_PIXELS
) -> FolderDataset:
    """Find the layout of a folder of files and open it; see :func:`landcover.data.open_dataset`."""
    found = discover(path)
    settings = read_settings(path / SETTINGS_FILE)
    legend = legend or settings.legend
    scale = find_scale(
        gsd,
        raster=lambda: _raster_gsd(found),
        settings=lambda: settings.gsd,
        layout=lambda: _published_gsd(found),
    )
    scenes_file = path / SCENES_FILE
    return FolderDataset(
        root=path,
        layout=found.layout.name,
        legend=legend or DEEPGLOBE,
        gsd=None if scale is None else scale.gsd,
        items=found.items,
        scenes=read_scenes(scenes_file, found.items) if scenes_file.is_file() else None,
        scene_table=hash_table(scenes_file) if scenes_file.is_file() else None,
        # A legend given by the user tells what the files hold; only without one does the layout know better.
        mask_legend=legend or found.layout.mask_legend or DEEPGLOBE,
        found=found,
        max_pixels=max_pixels,
    )


def _raster_gsd(found: Discovery) -> float | None:
    """Return the GSD that the images' transforms tell, None where none does; refuse several."""
    rasters = (item.image for item in found.items if item.image.suffix.lower() in RASTER_SUFFIXES)
    known = {path: gsd for path in rasters if (gsd := ground_sample_distance(path)) is not None}
    if not known:
        return None
    fine, coarse = min(known, key=known.__getitem__), max(known, key=known.__getitem__)
    if known[coarse] > known[fine] * (1 + _GSD_TOLERANCE):
        raise DataError(
            f"{fine} has {known[fine]:g} m per pixel, {coarse} {known[coarse]:g}; the images of a folder "
            "must be of one scale. Put them into separate folders, or pass --gsd if they are."
        )
    return next(iter(known.values()))


def _published_gsd(found: Discovery) -> float | None:
    # Resized copies keep a layout's names, but not its scale.
    gsd, size = found.layout.gsd, found.layout.size
    return gsd if gsd is not None and typical_size(item.image for item in found.items) == size else None


@dataclass(frozen=True)
class Settings:
    """Content of ``landcover.yaml`` in a data folder: ``gsd`` in metres per pixel, and ``legend``."""

    gsd: float | None = None
    legend: Legend | None = None


def read_settings(path: Path) -> Settings:
    """Read ``landcover.yaml``, which may hold ``gsd`` and ``legend``.

    ``gsd`` is in metres per pixel; ``legend`` is a name, a YAML file beside this one, or written out. A file
    that is not there gives empty settings.

    Raises:
        ConfigError: If the file is no YAML, or a key is unknown or of the wrong type.
    """
    if not path.is_file():
        return Settings()
    data = read_yaml(path) or {}
    if not isinstance(data, Mapping):
        raise ConfigError(f"{path} must be a mapping with gsd and legend; found {data!r}.")
    for key in data:
        if key not in ("gsd", "legend"):
            raise ConfigError(f"{path}: unknown key {key!r}. {did_you_mean(str(key), ['gsd', 'legend'])}")
    gsd = data.get("gsd")
    if gsd is not None and (isinstance(gsd, bool) or not isinstance(gsd, int | float)):
        raise ConfigError(f"{path}: gsd is {gsd!r}; expected metres per pixel, such as 0.5.")
    return Settings(
        gsd=None if gsd is None else check_gsd(gsd), legend=_legend(data.get("legend"), path.parent)
    )


def _legend(source: object, folder: Path) -> Legend | None:
    if source is None:
        return None
    if isinstance(source, Mapping):
        return Legend.from_dict(source)
    beside = folder / str(source)
    return load_legend(beside if beside.is_file() else str(source))
