"""A prepared cache: memory-mapped uint8 pixels, from which any window is read without decoding.

A cache is a folder of three files: ``images.bin`` with the images one after another as (height, width, C),
each that has pixels without imagery followed by (height, width) of 0 (there) and 1; ``masks.bin`` with the
masks as (height, width) class indices; and ``index.json``, written last.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path, PureWindowsPath
from typing import Annotated, Any, Literal, Unpack

import numpy as np
from affine import Affine
from pydantic import AfterValidator, NonNegativeInt, StringConstraints, ValidationError
from rasterio.crs import CRS

from landcover._typing import BoolArray, Int64Array, UInt8Array
from landcover.config import Config
from landcover.data.dataset import DataOptions, Dataset, Valid, crop, describe_reading
from landcover.data.fingerprints import Fingerprint, hash_pixels
from landcover.data.folder import open_folder
from landcover.data.layouts import Item, SceneTile
from landcover.errors import DataError, UsageError
from landcover.io import Mask
from landcover.legend import LegendField
from landcover.model.card import FINGERPRINT_BYTES
from landcover.raster import Georeference, Reading
from landcover.raster.bands import RGB
from landcover.scale import check_gsd
from landcover.values import BandSelection
from landcover.windows import Window

VERSION = 1
READ_WITH = ("bands", "scaling", "alpha", "nodata", "fill")
"""Fields of :class:`~landcover.raster.Reading` that a cache records."""
INDEX, IMAGES, MASKS = "index.json", "images.bin", "masks.bin"


_Digits = Annotated[str, StringConstraints(pattern="^([0-9a-f]{2})*$")]


class Source(Config):
    """A source file at the time of decoding; ``path`` is below the source folder.

    For labels from polygons and points: the size and the digest of the shapes that were burned, whatever the
    file, and 0 as time.
    """

    path: str
    size: int
    mtime_ns: int
    sha256: _Digits


def _relative(key: str) -> str:
    """Return a key that names nothing outside a folder: maps are written by it."""
    if not key or {"", ".", ".."} & set(key.split("/")) or "\\" in key or PureWindowsPath(key).drive:
        raise ValueError("expected a relative path without '..'")
    return key


class Entry(Config):
    """One item: the byte offsets of its pixels in the two files, and the counts of its mask.

    ``valid_offset`` is that of the mask of pixels with imagery; None if all are. ``transform`` is the affine
    one of the georeference and ``crs`` the number of its CRS, or None. ``pixels_hash`` is the fingerprint of
    the decoded image in hexadecimal digits; None in caches of 0.1.
    """

    key: Annotated[str, AfterValidator(_relative)]
    part: str | None
    height: int
    width: int
    image: Source
    image_offset: int
    mask: Source | None
    mask_offset: int
    class_pixels: tuple[NonNegativeInt, ...]
    off_palette: NonNegativeInt
    pixels_hash: _Digits | None = None
    valid_offset: int | None = None
    transform: tuple[float, float, float, float, float, float] | None = None
    crs: int | None = None


class About(Config):
    """Properties of the whole set.

    ``scenes`` are by key. ``crs`` lists the CRS of georeferences. ``mask_legend`` is the
    legend of the files; a cache without it is never up to date. ``scene_table`` is the digest of
    ``scenes.csv``, None without it or in caches of 0.1. ``bands`` to ``fill`` are those that images were read
    with; without ``fill`` none was searched. ``labels`` is how polygons became labels; None for masks.
    """

    layout: str
    gsd: float | None
    legend: LegendField
    mask_legend: LegendField | None = None
    scenes: dict[str, SceneTile] | None
    scene_table: str | None = None
    bands: tuple[int, ...] | None = None
    scaling: tuple[float, float] | Literal["percentile"] | None = None
    alpha: int | Literal["none"] | None = None
    nodata: float | None = None
    fill: Literal["nodata", "keep"] | None = None
    labels: str | None = None
    gsd_from_raster: bool = False
    crs: tuple[str, ...] = ()


class Index(Config):
    """Content of ``index.json``."""

    format: Literal["landcover-cache"]
    version: int
    source: str
    about: About
    images_bytes: int
    masks_bytes: int
    items: tuple[Entry, ...]


@dataclass(frozen=True)
class CacheDataset(Dataset):
    """A prepared cache. Windows are copies of mapped memory: nothing is decoded.

    Attributes:
        index: The content of ``index.json``.
    """

    index: Index = field(repr=False)

    def size(self, item: Item) -> tuple[int, int]:
        """Return (height, width) from the index."""
        entry = self._entries[item.key]
        return entry.height, entry.width

    def georeference(self, item: Item) -> Georeference | None:
        """Return size, CRS and transform from the index, or None."""
        entry = self._entries[item.key]
        if entry.transform is None or entry.crs is None:
            return None
        return Georeference(*self.size(item), Affine(*entry.transform), self._systems[entry.crs])

    def read_imagery(self, item: Item, window: Window | None = None) -> tuple[UInt8Array, BoolArray | None]:
        """Copy an image or a window of it."""
        entry = self._entries[item.key]
        shape = (entry.height, entry.width)
        whole = self._images.array((*shape, self.reading.channels), entry.image_offset)
        image = np.array(crop(whole, window))
        if entry.valid_offset is None:
            return image, None
        valid = crop(self._images.array(shape, entry.valid_offset), window).view(np.bool_)
        return image, None if valid.all() else np.array(valid)

    def read_mask(self, item: Item, window: Window | None = None) -> UInt8Array:
        """Copy a mask or a window of it."""
        entry = self._entries[item.key]
        if entry.mask is None:
            raise DataError(f"{item.key} of {self.root} has no mask.")
        return np.array(crop(self._masks.array((entry.height, entry.width), entry.mask_offset), window))

    def fingerprint(self, item: Item) -> Fingerprint:
        """Return the fingerprints of the index; for a cache of 0.1 the pixels are hashed."""
        entry = self._entries[item.key]
        file, pixels = bytes.fromhex(entry.image.sha256)[:FINGERPRINT_BYTES], entry.pixels_hash
        if pixels is not None:
            return Fingerprint(file, bytes.fromhex(pixels))
        return self._hash_once((item.key,), lambda: Fingerprint(file, hash_pixels(self.read_image(item))))

    def labels(self, item: Item, valid: Valid = "decode") -> Mask:
        """Copy a whole mask, nodata where there is no imagery; off-palette pixels are those of the index."""
        return Mask(self.read_mask(item), self._entries[item.key].off_palette)

    def class_pixels(self, item: Item) -> Int64Array:
        """Return the counts of the index."""
        return np.array(self._entries[item.key].class_pixels, np.int64)

    @cached_property
    def _entries(self) -> Mapping[str, Entry]:
        return {entry.key: entry for entry in self.index.items}

    @cached_property
    def _systems(self) -> list[CRS]:
        return [CRS.from_wkt(text) for text in self.index.about.crs]

    @cached_property
    def _images(self) -> "_Mapped":
        return _Mapped(self.root / IMAGES, self.index.images_bytes)

    @cached_property
    def _masks(self) -> "_Mapped":
        return _Mapped(self.root / MASKS, self.index.masks_bytes)

    def __getstate__(self) -> dict[str, Any]:
        # A pickled memory map would contain the whole file; each process maps it again instead.
        return {name: value for name, value in self.__dict__.items() if name not in ("_images", "_masks")}


class _Mapped:
    """A file of a cache in memory. Before each read its size is compared with that of the index.

    The system kills a process that reads where a mapped file has been cut off.
    """

    def __init__(self, path: Path, size: int) -> None:
        self._file, self._size = path.open("rb"), size
        self._check()
        # An empty file cannot be mapped.
        self._content = np.memmap(self._file, np.uint8, mode="r") if size else np.empty(0, np.uint8)

    def _check(self) -> None:
        found = os.fstat(self._file.fileno()).st_size
        if found < self._size:
            raise DataError(
                f"{self._file.name} was cut short while it was read: it has {found} bytes; expected "
                f"{self._size}. Run landcover prepare again, with --force."
            )

    def array(self, shape: tuple[int, ...], offset: int) -> UInt8Array:
        """Return the bytes from an offset on, mapped; copy them at once."""
        self._check()
        return np.ndarray(shape, np.uint8, self._content, offset)


def is_cache(path: Path) -> bool:
    """Return whether a folder is a cache, complete or not."""
    return (path / IMAGES).is_file() or (path / MASKS).is_file()


def open_dataset(path: str | Path | Dataset, **options: Unpack[DataOptions]) -> Dataset:
    """Open a data folder of any known layout, or a cache made by :func:`landcover.data.prepare`.

    Args:
        path: The folder or cache. An open dataset is returned: it takes no options but those that it has.
        **options: See :class:`~landcover.data.dataset.DataOptions`. A cache holds decoded files: its limits
            and labels are those that it was made with.

    Raises:
        DataError: If the folder holds no recognised imagery, a layout is refused, a cache is damaged, or no
            legend is declared and the masks are not those of DeepGlobe.
        ConfigError: If ``landcover.yaml`` or the legend is not valid.
        UsageError: If an option contradicts an open dataset, or a cache.

    Example:
        >>> dataset = lc.open_dataset(make_dataset("data", scenes=3, size=64))
        >>> len(dataset.items), dataset.gsd, dataset.legend.name
        (3, 0.5, 'deepglobe')
    """
    known = DataOptions.__annotations__
    if unknown := sorted(options.keys() - known):
        raise TypeError(f"Found the options {', '.join(unknown)}; expected some of {', '.join(known)}.")
    if isinstance(path, Dataset):
        vector = getattr(path, "vector", None)
        current = {**vars(path), "labels": vector and vector.source}
        refused = [
            name
            for name, value in options.items()
            if value is not None and value != current.get(name) and (name, value) != ("reading", Reading())
        ]
        if refused:
            raise UsageError(
                f"{path.root} is open already. Pass {', '.join(refused)} to open_dataset instead."
            )
        return path
    path = Path(path)
    if not is_cache(path):
        return open_folder(path, **options)
    legend, gsd = options.get("legend"), options.get("gsd")
    if options.get("labels") is not None:
        raise UsageError(f"{path} is a cache, which has its labels; expected the folder of scenes.")
    dataset = cached_dataset(path, read_index(path))
    given, own = options.get("reading") or Reading(), dataset.reading
    if any(getattr(given, name) not in (getattr(Reading(), name), getattr(own, name)) for name in READ_WITH):
        raise UsageError(
            f"{path} was prepared with {describe_reading(own)}, not with {describe_reading(given)}. Run "
            "landcover prepare with these, or leave them out."
        )
    if legend is not None and replace(legend, name=dataset.legend.name) != dataset.legend:
        raise UsageError(
            f"{path} was prepared with the legend {dataset.legend.name!r}, not {legend.name!r}: their "
            "classes, colours or unknown class differ. Run landcover prepare with that legend."
        )
    return dataset if gsd is None else replace(dataset, gsd=check_gsd(gsd), gsd_from_raster=False)


def cached_dataset(path: Path, index: Index) -> CacheDataset:
    """Return the data set that an index describes."""
    source, about = Path(index.source), index.about
    return CacheDataset(
        root=path,
        layout=about.layout,
        legend=about.legend,
        gsd=about.gsd,
        gsd_from_raster=about.gsd_from_raster,
        items=tuple(
            Item(e.key, e.part, source / e.image.path, None if e.mask is None else source / e.mask.path)
            for e in index.items
        ),
        scenes=about.scenes,
        scene_table=about.scene_table,
        reading=Reading(
            bands=BandSelection(about.bands or ()) or None,
            scaling=about.scaling,
            alpha=about.alpha,
            nodata=about.nodata,
            fill=about.fill or "keep",  # none was searched
        ),
        index=index,
    )


def read_index(path: Path) -> Index:
    """Read and check the index of a cache, and the sizes of its files."""
    again = f"Run landcover prepare again, with --force, to replace {path}."
    if not (path / INDEX).is_file():
        raise DataError(f"{path} is an incomplete cache: it has no {INDEX}. {again}")
    try:
        index = Index.model_validate_json((path / INDEX).read_bytes())
    except ValidationError as error:
        raise DataError(f"{path / INDEX} is cut short or of another version of landcover. {again}") from error
    if index.version != VERSION:
        raise DataError(f"{path} is a cache of version {index.version}; expected version {VERSION}. {again}")
    classes = len(index.about.legend)
    for entry in index.items:
        pixels, counts = entry.height * entry.width, entry.class_pixels
        image, mask = pixels * len(index.about.bands or RGB), pixels if entry.mask else 0
        if len(counts) != (0 if entry.mask is None else classes) or sum(counts) > mask:
            raise DataError(
                f"{path / INDEX} is damaged: {entry.key} has counts of {len(counts)} classes and "
                f"{sum(counts)} pixels; expected {classes} and at most {mask}. {again}"
            )
        if not (
            min(entry.height, entry.width) > 0
            and (entry.crs is None or 0 <= entry.crs < len(index.about.crs))
            and 0 <= entry.image_offset <= index.images_bytes - image
            and 0 <= (entry.valid_offset or 0) <= index.images_bytes - pixels
            and 0 <= entry.mask_offset <= index.masks_bytes - mask
        ):
            raise DataError(f"{path / INDEX} is damaged: {entry.key} is out of range. {again}")
    for name, expected in ((IMAGES, index.images_bytes), (MASKS, index.masks_bytes)):
        size = (path / name).stat().st_size if (path / name).is_file() else 0
        if size != expected:
            raise DataError(f"{path / name} has {size} bytes; expected {expected}. {again}")
    return index
