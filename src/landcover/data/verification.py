"""Decode and check every pair of a data set: counts, faults, and leakage between subsets."""

import math
import os
from collections import Counter, defaultdict
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Unpack

import numpy as np

from landcover._typing import Int8Array, Int64Array
from landcover.data.cache import open_dataset
from landcover.data.dataset import DataOptions, Dataset, class_shares, count_classes
from landcover.data.fingerprints import hash_pixels
from landcover.data.folder import FolderDataset
from landcover.data.layouts import LAYOUTS, Item, Layout, vector_hint
from landcover.data.leakage import Borders, Leak, borders, find_leaks, near_copies, perceptual_hashes
from landcover.data.splits import advice_on_splits
from landcover.data.splits import split as split_items
from landcover.errors import DataError, ImageError
from landcover.io.readahead import parallel_map
from landcover.legend import NODATA
from landcover.model.preprocessing import Size
from landcover.progress import track

_MOSTLY = 0.9
"""Images with less imagery than this fraction are not compared by their looks."""

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
        pairing: How images and masks were paired, with an example; None for a cache.
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
        mask_folders: By folder of masks: ``masks``, and the fractions of their pixels that are ``nodata``,
            ``unknown`` and ``off_palette``.
        forms: Number of masks of each form, see :class:`landcover.io.masks.Mask`; empty for a cache.
        notes: What is probably wrong with the labels, and the fraction of pixels without imagery.
        class_share: Fraction of mask pixels of each class.
        class_share_by_part: The same by subset.
        duplicates: Groups of items whose images are identical, pixel for pixel.
        leaks: Pairs of items of different subsets that are identical or adjacent.
        compared: Items of each subset of the folder or split that was checked for leakage.
        leaking: Those with a leak.
        shared_scenes: Scenes of ``scenes.csv`` or georeferences with items in several subsets; None without
            both.
        advice: What keeps neighbours in one subset.
    """

    layout: str
    pairing: str | None
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
    mask_folders: dict[str, dict[str, float]]
    forms: dict[str, int]
    notes: list[str]
    class_share: dict[str, float]
    class_share_by_part: dict[str, dict[str, float]]
    duplicates: list[list[str]]
    leaks: list[Leak]
    compared: dict[str, int]
    leaking: dict[str, int]
    shared_scenes: int | None
    advice: str

    @property
    def ok(self) -> bool:
        """Whether every file can be read and every pair is complete, whatever the leaks."""
        return not (self.unreadable or self.missing_masks or self.missing_images)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return asdict(self)


class _Image(NamedTuple):
    """A decoded image: its size, and its number of pixels without imagery."""

    size: Size
    fingerprint: bytes
    lacking: int
    hashes: Int8Array | None


class _Labels(NamedTuple):
    """A decoded mask: its counts of pixels, and its form."""

    class_pixels: Int64Array
    nodata: int
    off_palette: int
    form: str | None
    borders: Borders | None


@dataclass
class _Subset:
    """The counts of a subset: images, those without a mask, sizes, and pixels of each class."""

    class_pixels: Int64Array
    images: int = 0
    unlabelled: list[str] = field(default_factory=list)
    sizes: Counter[Size] = field(default_factory=Counter)

    @property
    def pairs(self) -> int:
        return self.images - len(self.unlabelled)


def verify(
    path: str | Path | Dataset, *, split: str | None = None, **options: Unpack[DataOptions]
) -> VerifyReport:
    """Decode and check every pair of a data folder or cache.

    Leakage is searched between the subsets of the folder or of a split. Overlapping and adjacent images are
    known from georeferences, adjacent tiles from ``scenes.csv``; without both, edges are compared.

    Args:
        path: The data folder, prepared cache or open dataset.
        split: Name of a split whose subsets are compared, such as ``random-723-80@0``.
        **options: See :class:`~landcover.data.dataset.DataOptions`. Files beyond its limits are counted as
            unreadable.

    Raises:
        DataError: If the folder has no recognised layout.
        SplitError: If the split does not fit the data.

    Example:
        >>> folder = make_dataset("data", scenes=3, size=64)
        >>> lc.verify(folder).ok
        True
    """
    dataset = open_dataset(path, **options)
    if split is None:
        part_of = {item.key: item.part or NO_PART for item in dataset.items}
    else:
        part_of = {item.key: part for part, items in split_items(dataset, split).items() for item in items}
    root, legend = dataset.root, dataset.legend
    is_placed = dataset.scenes is not None or any(map(dataset.georeference, dataset.items))
    has_subsets = len(set(part_of.values())) > 1
    with_borders = not is_placed and has_subsets

    def below(path: Path) -> str:
        return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)

    def check(item: Item) -> tuple[list[Fault], _Image | None, _Labels | None]:
        """Decode one item; errors of its files become part of the result."""
        faults: list[Fault] = []
        found = image = valid = None
        try:
            image, valid = dataset.read_imagery(item)
        except DataError as error:
            faults.append(Fault(below(item.image), str(error)))
        else:
            lacking = 0 if valid is None else int(np.count_nonzero(~valid))
            compared = has_subsets and lacking < (1 - _MOSTLY) * math.prod(image.shape[:2])
            hashes = perceptual_hashes(image) if compared else None
            found = _Image(image.shape[:2], hash_pixels(image), lacking, hashes)
        if item.mask is None:
            return faults, found, None
        try:
            mask = dataset.labels(item, valid)
        except DataError as error:
            if not isinstance(error, ImageError):  # of the image: reported above
                faults.append(Fault(below(item.mask), str(error)))
            return faults, found, None
        edges = borders(image, mask.index) if with_borders and image is not None else None
        nodata = int(np.count_nonzero(mask.index == NODATA))
        counts = count_classes(mask.index, legend)
        return faults, found, _Labels(counts, nodata, mask.off_palette, mask.form, edges)

    published = next((layout for layout in LAYOUTS if layout.name == dataset.layout), Layout("", ""))
    names = sorted({item.part or NO_PART for item in dataset.items})
    subsets = {name: _Subset(np.zeros(len(legend), np.int64)) for name in names}
    top = os.path.commonpath(
        [path.parent for item in dataset.items for path in (item.image, item.mask) if path]
    )
    folders: defaultdict[str, Counter[str]] = defaultdict(Counter)
    same_image: defaultdict[bytes, list[str]] = defaultdict(list)
    hashes: dict[str, Int8Array] = {}
    edges: dict[str, Borders] = {}
    lacking: dict[str, int] = {}
    off_palette: dict[str, int] = {}
    forms: Counter[str] = Counter()
    unreadable: list[Fault] = []
    odd_sizes: list[str] = []
    checked = track(parallel_map(check, dataset.items), "Checking", total=len(dataset.items))
    for item, (faults, image, labels) in zip(dataset.items, checked, strict=True):
        subset = subsets[item.part or NO_PART]
        subset.images += 1
        unreadable += faults
        if image is not None:
            subset.sizes[image.size] += 1
            same_image[image.fingerprint].append(item.key)
            if published.size not in (None, image.size):
                odd_sizes.append(item.key)
            if image.lacking:
                lacking[below(item.image)] = image.lacking
            if image.hashes is not None:
                hashes[item.key] = image.hashes
        if item.mask is None:
            subset.unlabelled.append(below(item.image))
        elif labels is not None:
            subset.class_pixels += labels.class_pixels
            if labels.form is not None:
                forms[labels.form] += 1
            if labels.off_palette:
                off_palette[below(item.mask)] = labels.off_palette
            # Of repeated images only the first is matched.
            if image is not None and labels.borders and same_image[image.fingerprint][0] == item.key:
                edges[item.key] = labels.borders
            off = labels.off_palette if legend.unknown is None else 0  # else counted as unknown below
            folders[item.mask.parent.relative_to(top).as_posix()].update(
                masks=1,
                pixels=int(labels.class_pixels.sum()) + labels.nodata,
                nodata=labels.nodata - off,
                unknown=0 if legend.unknown is None else int(labels.class_pixels[legend.unknown]),
                off_palette=labels.off_palette,
            )
    repeated = sorted(keys for keys in same_image.values() if len(keys) > 1)
    leaks = find_leaks(
        part_of, repeated, dataset.scenes, edges, dataset.neighbours, near_copies(hashes, part_of)
    )
    leaking = {key for leak in leaks for key in (leak.a, leak.b)}
    split_scenes: defaultdict[str, set[str]] = defaultdict(set)
    for key, tile in (dataset.scenes or {}).items():
        if key in part_of:
            split_scenes[tile.scene].add(part_of[key])
    class_pixels = [subset.class_pixels for subset in subsets.values()]
    notes = _notes(dataset, np.sum(class_pixels, axis=0), forms)
    if lacking:
        pixels = sum(math.prod(size) * n for subset in subsets.values() for size, n in subset.sizes.items())
        notes.append(
            f"{len(lacking)} of {len(dataset.items)} images, most of all "
            f"{max(lacking, key=lacking.__getitem__)}, have pixels without imagery: declared nodata, "
            f"or rows and columns of one value at the edges. They are "
            f"{100 * sum(lacking.values()) / pixels:.2g} % of all pixels, and their labels do not count. To "
            "use those of undeclared fill, pass --fill keep."
        )
    return VerifyReport(
        layout=dataset.layout,
        pairing=dataset.found.rule if isinstance(dataset, FolderDataset) else None,
        gsd=dataset.gsd,
        pairs=len(dataset.labelled),
        parts={name: subset.pairs for name, subset in subsets.items()},
        images={name: subset.images for name, subset in subsets.items()},
        expected=dict(published.counts),
        sizes={
            name: {f"{height}x{width}": count for (height, width), count in sorted(subset.sizes.items())}
            for name, subset in subsets.items()
        },
        odd_sizes=odd_sizes,
        unreadable=unreadable,
        # A subset without any mask is unlabelled on purpose, unless it is the whole set.
        missing_masks=[
            image
            for subset in subsets.values()
            if subset.pairs or not dataset.labelled
            for image in subset.unlabelled
        ],
        missing_images=list(dataset.found.missing_images) if isinstance(dataset, FolderDataset) else [],
        off_palette_pixels=sum(off_palette.values()),
        off_palette=off_palette,
        mask_folders={
            name: {"masks": counts["masks"]}
            | {what: counts[what] / max(counts["pixels"], 1) for what in ("nodata", "unknown", "off_palette")}
            for name, counts in sorted(folders.items())
        },
        forms=dict(sorted(forms.items())),
        notes=notes,
        class_share=class_shares(legend, class_pixels),
        class_share_by_part={
            name: class_shares(legend, [subset.class_pixels])
            for name, subset in subsets.items()
            if subset.pairs
        },
        duplicates=repeated,
        leaks=leaks,
        compared=dict(sorted(Counter(part_of.values()).items())),
        leaking=dict(sorted(Counter(part_of[key] for key in leaking).items())),
        shared_scenes=None
        if dataset.scenes is None
        else sum(len(parts) > 1 for parts in split_scenes.values()),
        advice=advice_on_splits(dataset),
    )


def _notes(dataset: Dataset, present: Int64Array, forms: Counter[str]) -> list[str]:
    """Return what is probably wrong with the labels, given the pixels of each class."""
    notes = []
    legend = dataset.legend
    if not dataset.labelled and (hint := vector_hint(dataset.root)):
        notes.append(hint.strip())
    if forms["indices"] and not legend.lists_values and present.any() and not present[0]:
        notes.append(
            f"Value 0 ({legend.names[0]}) never occurs in masks with one band; do the ids begin at 1? If so, "
            "list the values of the classes in the legend."
        )
    for form in ("palette indices", "grey indices"):
        if forms[form]:
            notes.append(
                f"{forms[form]} masks are read by their values ({form}): their colours are not those of the "
                f"legend {legend.name!r}, their values are."
            )
    return notes
