"""Decode and check every pair of a data set: what is there, what is wrong, what leaks between its parts."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from landcover._typing import Int64Array
from landcover.data.dataset import Dataset, FolderDataset, count_classes
from landcover.data.items import Item
from landcover.data.layouts import LAYOUTS
from landcover.data.leakage import (
    Borders,
    Leak,
    borders,
    duplicates,
    identical,
    matching_edges,
    shared_scenes,
    touching,
)
from landcover.data.opening import open_dataset
from landcover.data.splits import split as split_items
from landcover.errors import DataError, ImageError
from landcover.io import MAX_PIXELS
from landcover.io.readahead import parallel_map
from landcover.legend import Legend
from landcover.progress import track

NO_PART = "all"
"""Name under which a report holds the items of a layout without parts."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A file that cannot be used, and why."""

    file: str
    reason: str


@dataclass(frozen=True)
class VerifyReport:
    """What :func:`verify` found. Paths are below the data folder, shares are 0..1, items are named by key.

    Attributes:
        layout: Name of the layout.
        gsd: Metres per pixel, or None.
        pairs: Number of labelled items.
        parts: Pairs of each part; ``all`` where the layout has no parts.
        images: Images of each part, labelled or not.
        expected: Images of each part in the set as published, where that is known.
        sizes: Number of images of each size, ``HEIGHTxWIDTH``, of each part.
        odd_sizes: Keys of images whose size is not the one published for the layout.
        unreadable: Files that cannot be decoded, and masks that are of another size than their image.
        missing_masks: Images without a mask, in parts that have masks.
        missing_images: Masks without an image, and images that a list names and that are not there.
        off_palette_pixels: Mask pixels of no class's colour.
        off_palette: Those pixels by mask file.
        class_share: Share of each class among all mask pixels.
        class_share_by_part: The same within each part.
        duplicates: Groups of items whose images are identical, pixel for pixel.
        leaks: Pairs of items of different parts that are identical or adjacent.
        compared: Items of each part between which leakage was looked for: the folder's parts, or a split's.
        leaking: How many of them are in a leak.
        shared_scenes: Scenes of ``scenes.csv`` with items in more than one part, or None without that table.
    """

    layout: str
    gsd: float | None
    pairs: int
    parts: dict[str, int]
    images: dict[str, int]
    expected: dict[str, int]
    sizes: dict[str, dict[str, int]]
    odd_sizes: list[str]
    unreadable: list[Fault]
    missing_masks: list[str]
    missing_images: list[str]
    off_palette_pixels: int
    off_palette: dict[str, int]
    class_share: dict[str, float]
    class_share_by_part: dict[str, dict[str, float]]
    duplicates: list[list[str]]
    leaks: list[Leak]
    compared: dict[str, int]
    leaking: dict[str, int]
    shared_scenes: int | None

    @property
    def ok(self) -> bool:
        """Whether every file can be read and every pair is whole. Leaks are no fault of a file."""
        return not (self.unreadable or self.missing_masks or self.missing_images)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class _Checked:
    """What decoding one item showed."""

    size: tuple[int, int] | None
    image_hash: str | None
    class_pixels: Int64Array | None
    off_palette: int
    borders: Borders | None
    faults: Mapping[Path, str]


def verify(
    path: str | Path,
    *,
    legend: Legend | None = None,
    gsd: float | None = None,
    split: str | None = None,
    max_pixels: int = MAX_PIXELS,
) -> VerifyReport:
    """Decode and check every pair of a data folder or cache.

    Leakage is looked for between the parts of the folder, or of a split. Where ``scenes.csv`` is there, tiles
    that touch are known from it; where not, borders are compared.

    Args:
        path: The data folder or prepared cache.
        legend: Meaning of the mask files; see :func:`landcover.data.open_dataset`.
        gsd: Metres per pixel of the images.
        split: Name of a split between whose parts leakage is to be looked for, such as ``random-723-80@0``.
        max_pixels: Larger files are counted as unreadable.

    Raises:
        DataError: If the folder has no recognised layout.
        SplitError: If the split does not fit the data.

    Example:
        >>> import landcover as lc
        >>> from landcover.data.synthetic import make_dataset
        >>> folder = make_dataset("data", scenes=3, size=64)
        >>> lc.verify(folder).ok
        True
    """
    dataset = open_dataset(path, legend=legend, gsd=gsd, max_pixels=max_pixels)
    if split is None:
        part_of = {item.key: item.part or NO_PART for item in dataset.items}
    else:
        part_of = {item.key: part for part, items in split_items(dataset, split).items() for item in items}
    compare_borders = dataset.scenes is None and len(set(part_of.values())) > 1
    work = parallel_map(lambda item: _check(dataset, item, compare_borders), dataset.items)
    checked = {
        item.key: result
        for item, result in zip(dataset.items, track(work, "Checking", total=len(dataset.items)), strict=True)
    }
    groups = duplicates({key: c.image_hash for key, c in checked.items() if c.image_hash is not None})
    leaks = identical(groups, part_of)
    if dataset.scenes is not None:
        leaks += touching(dataset.scenes, part_of)
    elif compare_borders:
        repeated = {key for group in groups for key in group[1:]}
        tiles = {
            key: c.borders for key, c in checked.items() if c.borders is not None and key not in repeated
        }
        leaks += matching_edges(tiles, part_of)
    return _report(dataset, checked, groups, leaks, part_of)


def _check(dataset: Dataset, item: Item, compare_borders: bool) -> _Checked:
    """Decode one item; a fault of a file becomes part of the result."""
    faults: dict[Path, str] = {}
    image = mask = None
    try:
        image = dataset.read_image(item)
    except DataError as error:
        faults[item.image] = str(error)
    if item.mask is not None:
        try:
            mask = dataset.labels(item)
        except DataError as error:
            if not isinstance(error, ImageError):  # The image, whose size is asked for, is named already.
                faults[item.mask] = str(error)
    return _Checked(
        size=None if image is None else (image.shape[0], image.shape[1]),
        image_hash=None if image is None else f"{image.shape} {hashlib.sha256(image.data).hexdigest()}",
        class_pixels=None if mask is None else count_classes(mask.index, dataset.legend),
        off_palette=0 if mask is None else mask.off_palette,
        borders=borders(image, mask.index)
        if compare_borders and image is not None and mask is not None
        else None,
        faults=faults,
    )


def _report(
    dataset: Dataset,
    checked: Mapping[str, _Checked],
    groups: list[list[str]],
    leaks: list[Leak],
    part_of: Mapping[str, str],
) -> VerifyReport:
    layout = next(layout for layout in LAYOUTS if layout.name == dataset.layout)
    names = sorted({item.part or NO_PART for item in dataset.items})
    by_part = {name: [item for item in dataset.items if (item.part or NO_PART) == name] for name in names}
    pairs = {name: sum(item.mask is not None for item in items) for name, items in by_part.items()}
    leaking = {key for leak in leaks for key in (leak.a, leak.b)}
    # A part without any mask is unlabelled on purpose, unless it is all there is.
    missing_masks = [
        item
        for name, items in by_part.items()
        for item in items
        if item.mask is None and (pairs[name] or not dataset.labelled)
    ]
    off_palette = {
        item.mask: checked[item.key].off_palette for item in dataset.items if item.mask is not None
    }
    return VerifyReport(
        layout=dataset.layout,
        gsd=dataset.gsd,
        pairs=len(dataset.labelled),
        parts=pairs,
        images={name: len(items) for name, items in by_part.items()},
        expected=dict(layout.counts),
        sizes={name: _sizes(items, checked) for name, items in by_part.items()},
        odd_sizes=[]
        if layout.size is None
        else [k for k, c in checked.items() if c.size not in (None, layout.size)],
        unreadable=[
            Fault(_below(dataset, path), reason)
            for c in checked.values()
            for path, reason in c.faults.items()
        ],
        missing_masks=[_below(dataset, item.image) for item in missing_masks],
        missing_images=list(dataset.found.missing_images) if isinstance(dataset, FolderDataset) else [],
        off_palette_pixels=sum(off_palette.values()),
        off_palette={_below(dataset, path): count for path, count in off_palette.items() if count},
        class_share=_shares(dataset, dataset.items, checked),
        class_share_by_part={name: _shares(dataset, by_part[name], checked) for name in names if pairs[name]},
        duplicates=groups,
        leaks=leaks,
        compared=dict(sorted(Counter(part_of.values()).items())),
        leaking=dict(sorted(Counter(part_of[key] for key in leaking).items())),
        shared_scenes=None if dataset.scenes is None else shared_scenes(dataset.scenes, part_of),
    )


def _sizes(items: list[Item], checked: Mapping[str, _Checked]) -> dict[str, int]:
    counts = Counter(size for item in items if (size := checked[item.key].size) is not None)
    return {f"{height}x{width}": count for (height, width), count in sorted(counts.items())}


def _shares(dataset: Dataset, items: Iterable[Item], checked: Mapping[str, _Checked]) -> dict[str, float]:
    pixels = np.zeros(len(dataset.legend), np.int64)
    for item in items:
        counted = checked[item.key].class_pixels
        if counted is not None:
            pixels += counted
    return dict(zip(dataset.legend.names, (pixels / max(pixels.sum(), 1)).tolist(), strict=True))


def _below(dataset: Dataset, path: Path) -> str:
    return path.relative_to(dataset.root).as_posix() if path.is_relative_to(dataset.root) else str(path)
