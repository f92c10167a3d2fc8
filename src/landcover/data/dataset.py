"""Open data sets: images and masks of a folder or a prepared cache, or of several, behind one interface."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypedDict, TypeVar

import numpy as np

from landcover._typing import BoolArray, Int64Array, UInt8Array
from landcover.data.fingerprints import Fingerprint
from landcover.data.footprints import Neighbours, find_neighbours, find_scenes
from landcover.data.layouts import Item, SceneTile
from landcover.errors import UsageError
from landcover.io import Mask
from landcover.legend import Legend, index_by_name
from landcover.raster import Georeference, Reading
from landcover.scale import unknown_gsd
from landcover.windows import Window

if TYPE_CHECKING:
    from landcover.data.vectorlabels import VectorSource

GSD_TOLERANCE = 0.01
"""Fraction by which the GSD of the images of a data set may differ."""

Array = TypeVar("Array", UInt8Array, BoolArray)
DatasetT = TypeVar("DatasetT", bound="Dataset")

Valid = BoolArray | None | Literal["decode"]
"""Where an image has imagery, bool (height, width), None: everywhere; or that it must be decoded to know."""


@dataclass(frozen=True)
class Dataset(ABC):
    """Items of one folder or prepared cache. It can be pickled and used after a fork.

    Attributes:
        root: The folder or cache.
        layout: Name of the layout.
        legend: Meaning of the class indices that :meth:`read_mask` returns.
        gsd: Metres per pixel of the images, or None if unknown.
        items: All images, labelled or not, sorted by key.
        gsd_from_raster: Whether the GSD is that of the georeference.
        scenes: Positions in larger scenes by item key, of ``scenes.csv``, else of georeferences; None if both
            are missing.
        scene_table: Digest of that file; None without it, or if the cache does not record it.
        reading: How image files are read: the bands, and the scaling of their values.

    Example:
        >>> dataset = lc.open_dataset(make_dataset("data", scenes=3, size=64))
        >>> item = dataset.items[0]
        >>> dataset.size(item), dataset.read_image(item).shape, dataset.read_mask(item).shape
        ((64, 64), (64, 64, 3), (64, 64))
        >>> int(dataset.class_pixels(item).sum()), dataset.labels(item).off_palette
        (4096, 0)
        >>> len(dataset.fingerprint(item).pixels)  # bytes
        8
        >>> image, valid = dataset.read_imagery(item)  # valid: where there is imagery, None: everywhere
        >>> image.shape, valid, dataset.georeference(item)
        ((64, 64, 3), None, None)
        >>> dataset.labels(item, valid).index.shape
        (64, 64)
        >>> dataset.known_gsd("training"), dataset.sides(item), len(dataset.by_source(dataset.items))
        (0.5, (0.5, 0.5), 1)
    """

    root: Path
    layout: str
    legend: Legend
    gsd: float | None
    gsd_from_raster: bool
    items: tuple[Item, ...]
    scenes: Mapping[str, SceneTile] | None
    scene_table: str | None
    reading: Reading
    _hashed: dict[tuple[object, ...], Fingerprint] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def by_source(self, items: Sequence[Item]) -> "list[tuple[Dataset, list[Item]]]":
        """Return the items with the data set that they are from: more than one for combined data."""
        return [(self, list(items))]

    def known_gsd(self, needed_by: str) -> float:
        """Return :attr:`gsd`; where it is unknown, refuse with what needs it."""
        if self.gsd is None:
            raise unknown_gsd(f"{self.root}, which {needed_by} needs")
        return self.gsd

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
    def georeference(self, item: Item) -> Georeference | None:
        """Return size, CRS and transform of an image, or None."""

    def sides(self, item: Item) -> tuple[float, float]:
        """Return metres down and across a pixel of an image, as prediction takes them from its georeference.

        Raises:
            UsageError: If :attr:`gsd` is unknown.
        """
        gsd, place = self.known_gsd("its imagery"), self.georeference(item)
        own = place.gsd if self.gsd_from_raster and place is not None else None
        return (gsd, gsd) if place is None or own is None else place.sides(own)

    @cached_property
    def places(self) -> dict[str, Georeference]:
        """Georeferences of the images that have one, by key."""
        placed = ((item, self.georeference(item)) for item in self.items)
        return {item.key: place for item, place in placed if place is not None}

    @cached_property
    def neighbours(self) -> list[Neighbours]:
        """The images that overlap or touch by their georeferences."""
        return find_neighbours(self.places)

    @abstractmethod
    def read_imagery(self, item: Item, window: Window | None = None) -> tuple[UInt8Array, BoolArray | None]:
        """Read an image or a window of it, as prediction does.

        Returns:
            uint8 (height, width, C), RGB or the bands of :attr:`reading`; and bool (height, width), where
            there is imagery, None: everywhere.

        Raises:
            ImageError: If the file is truncated or of an unsupported form.
        """

    def read_image(self, item: Item, window: Window | None = None) -> UInt8Array:
        """Read an image or a window of it: uint8 (height, width, C); see :meth:`read_imagery`."""
        return self.read_imagery(item, window)[0]

    @abstractmethod
    def labels(self, item: Item, valid: Valid = "decode") -> Mask:
        """Read a whole mask as class indices of :attr:`legend`, with the count of its off-palette pixels.

        It is NODATA where the image has no imagery. ``valid`` is what :meth:`read_imagery` returned, where
        the image is decoded already; by default it is decoded where the labels depend on it.

        Raises:
            DataError: If the item has no mask, or the mask is unreadable or of another size than the image.
            MaskError: If its compression is lossy, or image and mask are georeferenced in different places.
            ImageError: If the image must be decoded and cannot be.
        """

    @abstractmethod
    def fingerprint(self, item: Item) -> Fingerprint:
        """Return the fingerprints of an item's file and pixels; see :mod:`landcover.data.fingerprints`.

        An image is hashed once, and again if its file has changed; files beside it do not count.

        Raises:
            DataError: If the image cannot be read.
        """

    def _hash_once(self, version: tuple[object, ...], compute: Callable[[], Fingerprint]) -> Fingerprint:
        """Return the fingerprints of a version of an image, computed at the first call."""
        if version not in self._hashed:
            self._hashed[version] = compute()
        return self._hashed[version]

    def read_mask(self, item: Item, window: Window | None = None) -> UInt8Array:
        """Read a mask or a window of it: uint8 (height, width), class indices of :attr:`legend`."""
        return crop(self.labels(item).index, window)

    def class_pixels(self, item: Item) -> Int64Array:
        """Count the pixels of each class in an item's mask: int64 (classes,)."""
        return count_classes(self.labels(item).index, self.legend)


def with_scenes(dataset: DatasetT, known: Sequence[Neighbours] = ()) -> DatasetT:
    """Return data with the scenes of their georeferences, as they are if not all images have one.

    ``known`` are images that are of one scene by other knowledge.
    """
    if len(dataset.places) < len(dataset.items):
        return dataset
    return replace(dataset, scenes=find_scenes(dataset.places, [*dataset.neighbours, *known]))


def count_classes(index: UInt8Array, legend: Legend) -> Int64Array:
    """Count the pixels of each class: int64 (classes,). NODATA is not counted."""
    return np.bincount(index.ravel(), minlength=256)[: len(legend)].astype(np.int64)


def class_shares(legend: Legend, counts: Iterable[Int64Array]) -> dict[str, float]:
    """Return the fraction of each class, by name, of the sum of :func:`count_classes`."""
    pixels = sum(counts, np.zeros(len(legend), np.int64))
    return dict(zip(legend.names, (pixels / max(pixels.sum(), 1)).tolist(), strict=True))


def crop(array: Array, window: Window | None) -> Array:
    """Cut a window out of (height, width, ...)."""
    if window is None:
        return array
    height, width = array.shape[:2]
    inside = 0 <= window.row < window.row + window.height <= height
    if not (inside and 0 <= window.col < window.col + window.width <= width):
        raise UsageError(f"{window} is not inside the image of {height} x {width} pixels.")
    return array[window.slices]


def describe_reading(reading: Reading) -> str:
    """Return how images are read as options, for messages."""
    found = ["--bands " + ",".join(map(str, reading.bands)) if reading.bands else "bands by their names"]
    if isinstance(reading.scaling, tuple):
        found.append("--scaling {:g},{:g}".format(*reading.scaling))
    else:
        found.append(f"--scaling {reading.scaling}" if reading.scaling else "no scaling")
    for name, default in (("alpha", None), ("nodata", None), ("fill", "nodata")):
        if (value := getattr(reading, name)) != default:
            found.append(f"--{name} {value}")
    return f"{', '.join(found[:-1])} and {found[-1]}"


class DataOptions(TypedDict, total=False):
    """How a data folder is read.

    Attributes:
        legend: Meaning of the mask files; by default that of ``landcover.yaml``, else that of the layout.
        gsd: Metres per pixel; by default from the georeference, ``landcover.yaml`` or the layout.
        reading: Bands and scaling of the images; by default those of ``landcover.yaml``, else as for
            prediction: red, green and blue by name or order, and 8-bit values as they are.
        labels: Polygons or points that label the images, in place of masks.
        max_pixels: Larger images and masks are refused when they are read.
        max_off_palette: Masks with a larger fraction of pixels, 0..1, whose colour is not in the legend are
            refused when they are read.
    """

    legend: Legend | None
    gsd: float | None
    reading: Reading | None
    labels: "VectorSource | None"
    max_pixels: int
    max_off_palette: float


@dataclass(frozen=True)
class CombinedDataset(Dataset):
    """The items of several data sets. Keys begin with the name of the folder that an item is from.

    Attributes:
        sources: The data set, the item there and the translation of class indices, uint8 (256,), by key.
    """

    sources: Mapping[str, tuple[Dataset, Item, UInt8Array]] = field(repr=False)

    def size(self, item: Item) -> tuple[int, int]:
        """Return (height, width) of an item."""
        dataset, own, _ = self.sources[item.key]
        return dataset.size(own)

    def georeference(self, item: Item) -> Georeference | None:
        """Return size, CRS and transform of an image, or None."""
        dataset, own, _ = self.sources[item.key]
        return dataset.georeference(own)

    def sides(self, item: Item) -> tuple[float, float]:
        """Return metres down and across a pixel of an image."""
        dataset, own, _ = self.sources[item.key]
        return dataset.sides(own)

    def read_imagery(self, item: Item, window: Window | None = None) -> tuple[UInt8Array, BoolArray | None]:
        """Read an image or a window of it."""
        dataset, own, _ = self.sources[item.key]
        return dataset.read_imagery(own, window)

    def read_mask(self, item: Item, window: Window | None = None) -> UInt8Array:
        """Read a mask or a window of it, in the legend of the first data set."""
        dataset, own, table = self.sources[item.key]
        return np.take(table, dataset.read_mask(own, window))

    def labels(self, item: Item, valid: Valid = "decode") -> Mask:
        """Read a whole mask, in the legend of the first data set."""
        dataset, own, table = self.sources[item.key]
        mask = dataset.labels(own, valid)
        return mask._replace(index=np.take(table, mask.index))

    def fingerprint(self, item: Item) -> Fingerprint:
        """Return the fingerprints of an item."""
        dataset, own, _ = self.sources[item.key]
        return dataset.fingerprint(own)

    def by_source(self, items: Sequence[Item]) -> list[tuple[Dataset, list[Item]]]:
        """Return the items in each data set."""
        groups: dict[int, tuple[Dataset, list[Item]]] = {}
        for item in items:
            dataset, own, _ = self.sources[item.key]
            groups.setdefault(id(dataset), (dataset, []))[1].append(own)
        return list(groups.values())


def combine(datasets: Sequence[Dataset]) -> Dataset:
    """Return several data sets as one; a single one as it is.

    Where all images are georeferenced, scenes are joined across the data sets.
    """
    first = datasets[0]
    if len(datasets) == 1:
        return first
    for dataset in datasets:
        gsd, other = first.known_gsd("the combination"), dataset.known_gsd("the combination")
        if abs(other / gsd - 1) > GSD_TOLERANCE:
            raise UsageError(
                f"{first.root} has {gsd:g} m per pixel, {dataset.root} {other:g}; expected one GSD for all "
                "of --data. Resample one of them (gdalwarp -tr), or pass --gsd if they are equal."
            )
        if dataset.reading != first.reading:
            raise UsageError(
                f"{first.root} is read with {describe_reading(first.reading)}, {dataset.root} with "
                f"{describe_reading(dataset.reading)}; expected the same bands and scaling in all of --data."
            )
    names = [dataset.root.resolve().name for dataset in datasets]
    repeated = {name for name, count in Counter(names).items() if count > 1}
    names = [f"{name}-{n}" if name in repeated else name for n, name in enumerate(names, 1)]
    sources: dict[str, tuple[Dataset, Item, UInt8Array]] = {}
    items = []
    scenes: dict[str, SceneTile] = {}
    for name, dataset in zip(names, datasets, strict=True):
        if unknown := [n for n in dataset.legend.scored_names if n not in first.legend.scored_names]:
            raise UsageError(
                f"{dataset.root} has the classes {', '.join(unknown)}, which the first of --data does not "
                f"have ({', '.join(first.legend.scored_names)}). Name the data set that has all classes "
                "first, or give both the same names in their landcover.yaml."
            )
        table = index_by_name(dataset.legend, first.legend)
        for own in dataset.items:
            item = replace(own, key=f"{name}/{own.key}")
            items.append(item)
            sources[item.key] = dataset, own, table
        for key, tile in (dataset.scenes or {}).items():
            scenes[f"{name}/{key}"] = SceneTile(f"{name}/{tile.scene}", tile.row, tile.col)
    combined = CombinedDataset(
        root=Path(" + ".join(names)),
        layout="combined",
        legend=first.legend,
        gsd=first.gsd,
        gsd_from_raster=first.gsd_from_raster,
        items=tuple(sorted(items, key=lambda item: item.key)),
        scenes=scenes if all(dataset.scenes is not None for dataset in datasets) else None,
        scene_table=None,
        reading=first.reading,
        sources=sources,
    )
    # Those of each data set are kept whole.
    first_of: dict[str, str] = {}
    of_tables = [
        Neighbours(first_of.setdefault(tile.scene, key), key, "touching") for key, tile in scenes.items()
    ]
    return with_scenes(combined, of_tables)
