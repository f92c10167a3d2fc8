"""``prepare``: decode a data folder into a cache, unless the cache is up to date."""

import hashlib
import math
import os
import stat
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, Unpack

import numpy as np

from landcover._typing import BoolArray, UInt8Array
from landcover.data.cache import (
    IMAGES,
    INDEX,
    MASKS,
    READ_WITH,
    VERSION,
    About,
    CacheDataset,
    Entry,
    Index,
    Source,
    cached_dataset,
    is_cache,
    open_dataset,
    read_index,
)
from landcover.data.dataset import DataOptions, Dataset, count_classes
from landcover.data.fingerprints import hash_pixels
from landcover.data.folder import FolderDataset
from landcover.data.layouts import Item
from landcover.errors import DataError, OutputError, UsageError
from landcover.io import Mask
from landcover.io.files import atomic_path, is_temporary, remove_temporary, write_text
from landcover.io.locks import locked_folder
from landcover.io.readahead import parallel_map
from landcover.machine import check_disk
from landcover.progress import track


class Prepared(NamedTuple):
    """A cache, and whether it was written now or was already up to date."""

    dataset: CacheDataset
    written: bool


def prepare(
    path: str | Path | Dataset, out: str | Path, *, force: bool = False, **options: Unpack[DataOptions]
) -> Prepared:
    """Decode a data folder into a cache, unless the cache is up to date.

    Needs a byte of disk per band of an image pixel and 1 per mask pixel: 18 + 6 MB per 2448 x 2448 pair of
    RGB and mask; one more for images with pixels without imagery.

    Args:
        path: The data folder, or one that is open.
        out: The cache folder to make.
        force: Whether to replace a cache that was made from other files or with other settings.
        **options: See :class:`~landcover.data.dataset.DataOptions`.

    Raises:
        DataError: If files cannot be decoded, or images and their masks differ in size; it names them. An
            existing cache stays as it is.
        OutputError: If ``out`` has other content and ``force`` is off, or cannot be written.

    Example:
        >>> folder = make_dataset("data", scenes=3, size=64)
        >>> prepared = lc.prepare(folder, "cache")
        >>> prepared.written, lc.open_dataset("cache").gsd
        (True, 0.5)
    """
    out, source = Path(out), open_dataset(path, **options)
    if not isinstance(source, FolderDataset):
        raise UsageError(
            f"{source.root} is a cache already; expected the folder of images that it was made from."
        )
    about = About(
        layout=source.layout,
        gsd=source.gsd,
        legend=source.legend,
        mask_legend=source.mask_legend,
        scenes=source.scenes,
        scene_table=source.scene_table,
        **{name: getattr(source.reading, name) for name in READ_WITH},
        labels=None if source.vector is None else str(source.vector.source[1:]),
        gsd_from_raster=source.gsd_from_raster,
        crs=tuple(sorted({place.crs.to_wkt() for place in source.places.values()})),
    )
    is_foreign = out.exists() and (not out.is_dir() or not all(map(is_temporary, out.iterdir())))
    if is_foreign and not is_cache(out):
        raise OutputError(f"{out} exists already and is not a cache. Choose a new or empty folder.")
    with locked_folder(out):
        if is_cache(out):
            try:
                present = read_index(out)
            except DataError:  # damaged
                present = None
            if present is not None and _up_to_date(present, about, source):
                return Prepared(cached_dataset(out, present), written=False)
            incomplete = not (out / INDEX).exists() and all(
                path.name in (IMAGES, MASKS) or is_temporary(path) for path in out.iterdir()
            )
            if not force and not incomplete:  # an incomplete one is what a killed process left
                raise OutputError(
                    f"{out} is a cache of other files, made with other settings, or damaged. "
                    "Choose another output, or pass --force to replace it."
                )
        return Prepared(cached_dataset(out, _write(source, about, out)), written=True)


def _up_to_date(index: Index, about: About, source: FolderDataset) -> bool:
    """Return whether a cache has these settings and files, by size and time or by hash."""

    def content(files: Iterable[Source | None]) -> list[tuple[str, str] | None]:
        return [None if file is None else (file.path, file.sha256) for file in files]

    known = {entry.key: (entry.image, entry.mask) for entry in index.items}
    return (
        index.about == about
        and known.keys() == {item.key for item in source.items}
        and all(
            content(_sources(source, item, known[item.key])) == content(known[item.key])
            for item in source.items
        )
    )


_Sources = tuple[Source | None, Source | None]


def _sources(source: FolderDataset, item: Item, known: _Sources = (None, None)) -> _Sources:
    """Return the files of an item's image and mask.

    In place of a mask of polygons and points: the shapes, by which files of several layers or parts are one.
    A file with the size and time of the ``known`` one is not read again.
    """
    image = _describe(item.image, source.root, known[0])
    if item.mask is None:
        return image, None
    if source.vector is None:
        return image, _describe(item.mask, source.root, known[1])
    shapes = source.vector.to_bytes(item.key)
    path, digest = _below(item.mask, source.root), hashlib.sha256(shapes).hexdigest()
    return image, Source(path=path, size=len(shapes), mtime_ns=0, sha256=digest)


def _describe(file: Path, root: Path, known: Source | None) -> Source:
    try:
        status = file.stat()
        if not stat.S_ISREG(status.st_mode):  # /dev/zero would never end
            raise DataError(f"{file} is a device or a pipe; expected an image or a mask. Delete it.")
        if known is not None and (known.size, known.mtime_ns) == (status.st_size, status.st_mtime_ns):
            digest = known.sha256
        else:
            with file.open("rb") as content:
                digest = hashlib.file_digest(content, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}.") from error
    path = _below(file, root)
    return Source(path=path, size=status.st_size, mtime_ns=status.st_mtime_ns, sha256=digest)


def _below(file: Path, root: Path) -> str:
    """Return the path of a file from a folder; labels may be elsewhere."""
    return Path(os.path.relpath(file.absolute(), root.absolute())).as_posix()


def _write(source: FolderDataset, about: About, out: Path) -> Index:
    def decode(item: Item) -> tuple[Entry, UInt8Array, BoolArray | None, Mask | None] | DataError:
        try:
            files = _sources(source, item)
            image, valid = source.read_imagery(item)
            mask = None if item.mask is None else source.labels(item, valid)
            for file, before, after in zip(
                (item.image, item.mask), files, _sources(source, item, files), strict=True
            ):
                if after != before:
                    return DataError(f"{file} was changed while it was read. Run prepare again.")
        except DataError as error:
            return error
        place = source.georeference(item)
        entry = Entry(
            key=item.key,
            part=item.part,
            height=image.shape[0],
            width=image.shape[1],
            image=files[0],
            image_offset=0,
            mask=files[1],
            mask_offset=0,
            class_pixels=tuple(count_classes(mask.index, source.legend).tolist()) if mask else (),
            off_palette=mask.off_palette if mask else 0,
            pixels_hash=hash_pixels(image).hex(),
            transform=None if place is None else tuple(place.transform)[:6],
            crs=None if place is None else about.crs.index(place.crs.to_wkt()),
        )
        return entry, image, valid, mask

    if out.is_dir():
        for leftover in filter(is_temporary, out.iterdir()):
            remove_temporary(leftover)
    need = 0
    for item in source.items:
        with suppress(DataError):  # reported when it is decoded
            need += math.prod(source.size(item)) * (source.reading.channels + (item.mask is not None))
    check_disk(out, need, f"The cache of {source.root}")
    entries: list[Entry] = []
    faults: list[str] = []
    images_bytes = masks_bytes = 0
    with (
        atomic_path(out / IMAGES, force=True) as images_path,
        atomic_path(out / MASKS, force=True) as masks_path,
        images_path.open("xb") as images,
        masks_path.open("xb") as masks,
    ):
        decoded = parallel_map(decode, source.items)
        for result in track(decoded, "Decoding", total=len(source.items)):
            if isinstance(result, DataError):
                faults.append(str(result))
                continue
            entry, image, valid, mask = result
            offsets = {"image_offset": images_bytes, "mask_offset": masks_bytes}
            images_bytes += images.write(np.ascontiguousarray(image).data)
            if valid is not None and not valid.all():
                offsets["valid_offset"] = images_bytes
                images_bytes += images.write(np.ascontiguousarray(valid).data)
            entries.append(entry.model_copy(update=offsets))
            if mask is not None:
                masks_bytes += masks.write(np.ascontiguousarray(mask.index).data)
        if len(faults) == 1:
            raise DataError(faults[0])
        if faults:
            more = [] if len(faults) <= 20 else [f"And {len(faults) - 20} more; landcover verify lists all."]
            raise DataError(
                " ".join([f"{len(faults)} items cannot be used; no cache was made.", *faults[:20], *more])
            )
        (out / INDEX).unlink(missing_ok=True)  # so that the old index never describes new pixels
    index = Index(
        format="landcover-cache",
        version=VERSION,
        source=str(source.root.resolve()),
        about=about,
        images_bytes=images_bytes,
        masks_bytes=masks_bytes,
        items=tuple(entries),
    )
    write_text(out / INDEX, index.model_dump_json(indent=1), force=True)
    return index
