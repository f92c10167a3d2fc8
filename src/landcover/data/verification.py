"""Decode and check every pair of a data set: counts, faults, and leakage between subsets."""

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from landcover._typing import Int64Array
from landcover.data.dataset import Dataset, FolderDataset, count_classes, open_dataset
from landcover.data.layouts import LAYOUTS, Item
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
from landcover.data.splits import split as split_items
from landcover.errors import DataError, ImageError
from landcover.io import MAX_PIXELS
from landcover.io.readahead import parallel_map
from landcover.legend import Legend
from landcover.progress import track

NO_PART = "all"
"""Subset of the items of a layout without subsets, in reports."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A file that cannot be used, and why."""

    file: str
    reason: str


@dataclass(frozen=True)
class VerifyReport:
    """Result of :func:`verify`. Paths are below the data folder, fractions 0..1, items named by key.

    Attributes:
        layout: Name of the layout.
        gsd: Metres per pixel, or None.
        pairs: Number of labelled items.
        parts: Pairs of each subset; the only key is ``all`` if the layout has no subsets.
        images: Images of each subset, labelled or not.
        expected: Images of each subset as published, if known.
        sizes: Number of images of each size, ``HEIGHTxWIDTH``, of each subset.
        odd_sizes: Keys of images whose size is not the published one of the layout.
        unreadable: Files that cannot be decoded, and masks whose size differs from their image.
        missing_masks: Images without a mask, in subsets that have masks.
        missing_images: Masks without an image, and listed images without a file.
        off_palette_pixels: Mask pixels whose colour is not in the legend.
        off_palette: Those pixels by mask file.
        class_share: Fraction of mask pixels of each class.
        class_share_by_part: The same by subset.
        duplicates: Groups of items whose images are identical, pixel for pixel.
        leaks: Pairs of items of different subsets that are identical or adjacent.
        compared: Items of each subset of the folder or split that was checked for leakage.
        leaking: Those with a leak.
        shared_scenes: Scenes of ``scenes.csv`` with items in several subsets, or None without that table.
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
        """Whether every file can be read and every pair is complete, whatever the leaks."""
        return not (self.unreadable or self.missing_masks or self.missing_images)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class _Checked:
    """Result of decoding one item; None for what could not be read."""

    size: tuple[int, int] | None
    image_hash: str | None
    class_pixels: Int64Array | None
    off_palette: int
    borders: Borders | None
    faults: Mapping[Path, str]


@dataclass
class _Tally:
    """Counts of one subset."""

    class_pixels: Int64Array
    images: int = 0
    pairs: int = 0
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    unlabelled: list[str] = field(default_factory=list)


def verify(
    path: str | Path,
    *,
    legend: Legend | None = None,
    gsd: float | None = None,
    split: str | None = None,
    max_pixels: int = MAX_PIXELS,
) -> VerifyReport:
    """Decode and check every pair of a data folder or cache.

    Leakage is searched between the subsets of the folder or of a split. Adjacent tiles are known from
    ``scenes.csv``; without it, edges are compared.

    Args:
        path: The data folder or prepared cache.
        legend: Meaning of the mask files; see :func:`landcover.data.open_dataset`.
        gsd: Metres per pixel of the images.
        split: Name of a split whose subsets are compared, such as ``random-723-80@0``.
        max_pixels: Larger files are counted as unreadable.

    Raises:
        DataError: If the folder has no recognised layout.
        SplitError: If the split does not fit the data.

    Example:
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
    """Decode one item; errors of its files become part of the result."""
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
            if not isinstance(error, ImageError):  # of the image: reported above
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
    root, classes = dataset.root, len(dataset.legend)
    published = next(layout for layout in LAYOUTS if layout.name == dataset.layout)
    tallies: dict[str, _Tally] = {}
    unreadable: list[Fault] = []
    off_palette: dict[str, int] = {}
    for item in dataset.items:
        result = checked[item.key]
        tally = tallies.setdefault(item.part or NO_PART, _Tally(np.zeros(classes, np.int64)))
        tally.images += 1
        if result.size is not None:
            tally.sizes[result.size] += 1
        if item.mask is None:
            tally.unlabelled.append(_below(root, item.image))
        else:
            tally.pairs += 1
            if result.off_palette:
                off_palette[_below(root, item.mask)] = result.off_palette
        if result.class_pixels is not None:
            tally.class_pixels += result.class_pixels
        unreadable += [Fault(_below(root, path), reason) for path, reason in result.faults.items()]
    tallies = dict(sorted(tallies.items()))

    def shares(pixels: Int64Array) -> dict[str, float]:
        return dict(zip(dataset.legend.names, (pixels / max(pixels.sum(), 1)).tolist(), strict=True))

    leaking = {key for leak in leaks for key in (leak.a, leak.b)}
    return VerifyReport(
        layout=dataset.layout,
        gsd=dataset.gsd,
        pairs=len(dataset.labelled),
        parts={name: tally.pairs for name, tally in tallies.items()},
        images={name: tally.images for name, tally in tallies.items()},
        expected=dict(published.counts),
        sizes={
            name: {f"{height}x{width}": count for (height, width), count in sorted(tally.sizes.items())}
            for name, tally in tallies.items()
        },
        odd_sizes=[k for k, c in checked.items() if published.size and c.size not in (None, published.size)],
        unreadable=unreadable,
        # A subset without any mask is unlabelled on purpose, unless it is the whole set.
        missing_masks=[
            path
            for tally in tallies.values()
            if tally.pairs or not dataset.labelled
            for path in tally.unlabelled
        ],
        missing_images=list(dataset.found.missing_images) if isinstance(dataset, FolderDataset) else [],
        off_palette_pixels=sum(off_palette.values()),
        off_palette=off_palette,
        class_share=shares(np.sum([tally.class_pixels for tally in tallies.values()], axis=0)),
        class_share_by_part={name: shares(t.class_pixels) for name, t in tallies.items() if t.pairs},
        duplicates=groups,
        leaks=leaks,
        compared=dict(sorted(Counter(part_of.values()).items())),
        leaking=dict(sorted(Counter(part_of[key] for key in leaking).items())),
        shared_scenes=None if dataset.scenes is None else shared_scenes(dataset.scenes, part_of),
    )


def _below(root: Path, path: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)
