"""Decode and check every pair of a data set: counts, faults, and leakage between subsets."""

import math
import os
from collections import Counter, defaultdict
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Unpack

import numpy as np

from landcover._typing import Int8Array, Int64Array
from landcover.data.cache import open_dataset
from landcover.data.dataset import DataOptions, Dataset, count_classes
from landcover.data.fingerprints import hash_pixels
from landcover.data.folder import FolderDataset
from landcover.data.layouts import LAYOUTS, Item, Layout, vector_hint
from landcover.data.leakage import Borders, Leak, borders, find_leaks, near_copies, perceptual_hashes
from landcover.data.splits import advice_on_splits
from landcover.data.splits import split as split_items
from landcover.errors import DataError, ImageError
from landcover.io.readahead import parallel_map
from landcover.legend import NODATA
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


@dataclass
class _Checked:
    """Result of decoding one item; None for what could not be read."""

    faults: list[Fault] = field(default_factory=list)
    size: tuple[int, int] | None = None
    image_hash: str | None = None
    hashes: Int8Array | None = None
    class_pixels: Int64Array | None = None
    off_palette: int = 0
    nodata: int = 0
    lacking: int = 0
    form: str | None = None
    borders: Borders | None = None


@dataclass
class _Tally:
    """Counts of one subset."""

    class_pixels: Int64Array
    images: int = 0
    pairs: int = 0
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    unlabelled: list[str] = field(default_factory=list)


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

    def check(item: Item) -> _Checked:
        """Decode one item; errors of its files become part of the result."""
        found = _Checked()
        image = valid = None
        try:
            image, valid = dataset.read_imagery(item)
        except DataError as error:
            found.faults.append(Fault(below(item.image), str(error)))
        else:
            found.size = image.shape[0], image.shape[1]
            found.lacking = 0 if valid is None else int(np.count_nonzero(~valid))
            found.image_hash = hash_pixels(image).hex()
            if has_subsets and (valid is None or valid.mean() > _MOSTLY):
                found.hashes = perceptual_hashes(image)
        if item.mask is None:
            return found
        try:
            mask = dataset.labels_within(item, valid)
        except DataError as error:
            if not isinstance(error, ImageError):  # of the image: reported above
                found.faults.append(Fault(below(item.mask), str(error)))
            return found
        found.class_pixels = count_classes(mask.index, legend)
        found.nodata = int(np.count_nonzero(mask.index == NODATA))
        found.off_palette, found.form = mask.off_palette, mask.form
        if with_borders and image is not None:
            found.borders = borders(image, mask.index)
        return found

    published = next((layout for layout in LAYOUTS if layout.name == dataset.layout), Layout("", ""))
    tallies: defaultdict[str, _Tally] = defaultdict(lambda: _Tally(np.zeros(len(legend), np.int64)))
    same_image: defaultdict[str, list[str]] = defaultdict(list)
    edges: dict[str, Borders] = {}
    hashes: dict[str, Int8Array] = {}
    odd_sizes: list[str] = []
    unreadable: list[Fault] = []
    off_palette: dict[str, int] = {}
    top = os.path.commonpath(
        [path.parent for item in dataset.items for path in (item.image, item.mask) if path is not None]
    )
    folders: defaultdict[str, Counter[str]] = defaultdict(Counter)
    forms: Counter[str] = Counter()
    lacking: dict[str, int] = {}
    pixels = 0
    work = track(parallel_map(check, dataset.items), "Checking", total=len(dataset.items))
    for item, result in zip(dataset.items, work, strict=True):
        tally = tallies[item.part or NO_PART]
        tally.images += 1
        unreadable += result.faults
        if result.size is not None and result.image_hash is not None:
            tally.sizes[result.size] += 1
            if published.size not in (None, result.size):
                odd_sizes.append(item.key)
            same_image[result.image_hash].append(item.key)
            pixels += math.prod(result.size)
            if result.lacking:
                lacking[below(item.image)] = result.lacking
            if result.hashes is not None:
                hashes[item.key] = result.hashes
            if result.borders is not None and same_image[result.image_hash] == [item.key]:
                edges[item.key] = result.borders  # of repeated images only the first is matched
        if item.mask is None:
            tally.unlabelled.append(below(item.image))
        else:
            tally.pairs += 1
            if result.off_palette:
                off_palette[below(item.mask)] = result.off_palette
        if result.class_pixels is not None and item.mask is not None:
            tally.class_pixels += result.class_pixels
            if result.form is not None:
                forms[result.form] += 1
            known = int(result.class_pixels.sum())
            off = result.off_palette if legend.unknown is None else 0  # else counted as unknown below
            folders[item.mask.parent.relative_to(top).as_posix()].update(
                masks=1,
                pixels=known + result.nodata,
                nodata=result.nodata - off,
                unknown=0 if legend.unknown is None else int(result.class_pixels[legend.unknown]),
                off_palette=result.off_palette,
            )
    parts = dict(sorted(tallies.items()))
    class_pixels = np.sum([tally.class_pixels for tally in parts.values()], axis=0)
    repeated = sorted(keys for keys in same_image.values() if len(keys) > 1)
    leaks = find_leaks(
        part_of, repeated, dataset.scenes, edges, dataset.neighbours, near_copies(hashes, part_of)
    )
    leaking = {key for leak in leaks for key in (leak.a, leak.b)}
    split_scenes: defaultdict[str, set[str]] = defaultdict(set)
    for key, tile in (dataset.scenes or {}).items():
        if key in part_of:
            split_scenes[tile.scene].add(part_of[key])

    def shares(pixels: Int64Array) -> dict[str, float]:
        return dict(zip(legend.names, (pixels / max(pixels.sum(), 1)).tolist(), strict=True))

    notes = _notes(dataset, class_pixels, forms)
    if lacking:
        notes.append(
            f"{len(lacking)} of {len(dataset.items)} images, most of all "
            f"{max(lacking, key=lacking.__getitem__)}, have pixels without imagery: declared nodata, or rows "
            f"and columns of one value at the edges. They are {100 * sum(lacking.values()) / pixels:.2g} % "
            "of all pixels, and their labels do not count. To use those of undeclared fill, pass --fill keep."
        )
    return VerifyReport(
        layout=dataset.layout,
        pairing=dataset.found.rule if isinstance(dataset, FolderDataset) else None,
        gsd=dataset.gsd,
        pairs=len(dataset.labelled),
        parts={name: tally.pairs for name, tally in parts.items()},
        images={name: tally.images for name, tally in parts.items()},
        expected=dict(published.counts),
        sizes={
            name: {f"{height}x{width}": count for (height, width), count in sorted(tally.sizes.items())}
            for name, tally in parts.items()
        },
        odd_sizes=odd_sizes,
        unreadable=unreadable,
        # A subset without any mask is unlabelled on purpose, unless it is the whole set.
        missing_masks=[
            path for t in parts.values() if t.pairs or not dataset.labelled for path in t.unlabelled
        ],
        missing_images=list(dataset.found.missing_images) if isinstance(dataset, FolderDataset) else [],
        off_palette_pixels=sum(off_palette.values()),
        off_palette=off_palette,
        mask_folders={
            name: {
                "masks": counts["masks"],
                **{
                    what: counts[what] / max(counts["pixels"], 1)
                    for what in ("nodata", "unknown", "off_palette")
                },
            }
            for name, counts in sorted(folders.items())
        },
        forms=dict(sorted(forms.items())),
        notes=notes,
        class_share=shares(class_pixels),
        class_share_by_part={name: shares(t.class_pixels) for name, t in parts.items() if t.pairs},
        duplicates=repeated,
        leaks=leaks,
        compared=dict(sorted(Counter(part_of.values()).items())),
        leaking=dict(sorted(Counter(part_of[key] for key in leaking).items())),
        shared_scenes=None
        if dataset.scenes is None
        else sum(len(subsets) > 1 for subsets in split_scenes.values()),
        advice=advice_on_splits(dataset),
    )


def _notes(dataset: Dataset, class_pixels: Int64Array, forms: Counter[str]) -> list[str]:
    """Return what is probably wrong with the labels, given the pixels of each class."""
    notes = []
    legend = dataset.legend
    if not dataset.labelled and (hint := vector_hint(dataset.root)):
        notes.append(hint.strip())
    if forms["indices"] and not legend.lists_values and class_pixels.any() and not class_pixels[0]:
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
