"""The data of a run: the subsets of a split, with the classes counted once before the first step."""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Unpack

import numpy as np

from landcover._typing import BoolArray, UInt8Array
from landcover.data import Dataset, Item, SceneTile, open_dataset, split
from landcover.data.dataset import DataOptions
from landcover.data.fingerprints import fingerprints, hash_pixels, image_set
from landcover.data.layouts import SCENES_FILE, vector_hint
from landcover.data.splits import TRAIN_PARTS, VALIDATION_PARTS, parse, warn_of_neighbours
from landcover.errors import DataError, SplitError, UsageError
from landcover.io.readahead import parallel_map
from landcover.model.card import ImageSet
from landcover.model.preprocessing import resample_image, resample_valid
from landcover.ood.features import WINDOW_PX
from landcover.ood.profile import ImageryProfile, measure_profile
from landcover.progress import track
from landcover.training.sampler import ClassCounts, count_classes

MAX_SCALE = 100
"""Largest factor between the GSDs of the data and of the model."""

_DETAIL_LOST = 3
"""Warn if the model's GSD is at least this many times the data's."""

_MIN_PROFILE_IMAGES, _MAX_PROFILE_IMAGES = 100, 800
_PROFILE_WINDOWS = 2048
"""Fewer images are profiled if they are large."""

_CONTENT_FORM = "items:"
"""How content digests begin. Earlier ones were of the masks in order and of the sorted training images."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingData:
    """The items of a run and the classes in them.

    Attributes:
        data_gsd: Metres per pixel of the data.
        model_gsd: Metres per pixel that the network works at.
        train: Items to train on, all with labelled pixels.
        class_counts: Pixels of each class in each of these.
        validation: Items to validate on; empty if the split does not have such a subset.
        validation_subset: Name of that subset.
        digest: SHA-256 of both subsets' keys and the training subset's sizes and class counts.
        images: Fingerprints and scenes of the training images.
        content_digest: ``items:`` and the SHA-256 of the key, image and mask of each item of both subsets.
    """

    dataset: Dataset
    data_gsd: float
    model_gsd: float
    train: Sequence[Item]
    class_counts: Sequence[ClassCounts]
    validation: Sequence[Item]
    validation_subset: str | None
    digest: str
    images: ImageSet
    content_digest: str

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """Height and width of each training image."""
        return [(counts.height, counts.width) for counts in self.class_counts]

    @property
    def class_share(self) -> dict[str, float]:
        """Fraction of the labelled training pixels by class name, 0..1."""
        pixels = np.sum([counts.pixels for counts in self.class_counts], axis=0)
        return dict(zip(self.dataset.legend.scored_names, (pixels / pixels.sum()).tolist(), strict=True))


def load_training_data(
    data: str | Path | Dataset,
    split_name: str,
    *,
    crop_px: int,
    model_gsd: float | None,
    across_tiles: bool = False,
    **options: Unpack[DataOptions],
) -> TrainingData:
    """Open a data set, split it and count the classes of the training masks.

    Logs warnings about images and classes that cannot be learned. ``split_name`` has a subset named train (or
    ``all``), and perhaps a validation subset; ``crop_px`` is a crop's side at the model's scale,
    ``model_gsd`` None for that of the data.
    """
    subset = parse(split_name).part
    if subset is not None:
        raise UsageError(
            f"--split {split_name} names the subset {subset!r}; training uses the whole split: pass "
            f"--split {split_name.rpartition(':')[0]}."
        )
    dataset = open_dataset(data, **options)
    data = dataset.root
    if not dataset.labelled:
        raise DataError(
            f"{data} has {len(dataset.items)} images (layout {dataset.layout}) but no masks. Expected "
            f"NAME_mask.png beside NAME_sat.jpg, or another known layout.{vector_hint(data)}"
        )
    data_gsd = dataset.known_gsd("training")
    model_gsd = model_gsd or data_gsd
    check_scale(data_gsd, model_gsd, "the model")
    subsets = split(dataset, split_name)
    warn_of_neighbours(dataset, subsets, split_name)
    train_subset = next((name for name in TRAIN_PARTS if name in subsets), None)
    if train_subset is None:
        raise SplitError(
            f"The split {split_name!r} has the subsets {', '.join(subsets)}; training needs one named train."
        )
    validation_subset = next((name for name in VALIDATION_PARTS if name in subsets), None)
    if validation_subset is None:
        logger.warning(
            f"The split {split_name!r} has no validation subset ({' or '.join(VALIDATION_PARTS)}; it has "
            f"{', '.join(subsets)}): the last weights are kept, unscored."
        )
    validation = subsets[validation_subset] if validation_subset else []
    legend = dataset.legend

    def count(item: Item) -> tuple[ClassCounts, bytes]:
        mask = dataset.read_mask(item)
        return count_classes(np.take(legend.channels, mask), len(legend.scored)), hash_pixels(mask)

    items = subsets[train_subset]
    results = track(parallel_map(count, items), "Counting classes", total=len(items))
    digest, labelled, masks = hashlib.sha256(), [], []
    for item, (counts, pixels) in zip(items, results, strict=True):
        digest.update(f"{item.key} {counts.height} {counts.width} {counts.pixels.tolist()}\n".encode())
        if counts.blocks.any():
            labelled.append((item, counts))
            masks.append(pixels)
    digest.update("\n".join(item.key for item in validation).encode())
    if not labelled:
        raise DataError(
            f"None of the {len(items)} masks of the subset {train_subset!r} of {data} has a labelled pixel. "
            f"Check the legend ({legend.name}) with: landcover verify {data}"
        )
    train = [item for item, _ in labelled]
    masks += parallel_map(lambda item: hash_pixels(dataset.read_mask(item)), validation)
    both = [*train, *validation]
    content = hashlib.sha256(f"{len(train)}\n".encode())
    for item, image, pixels in zip(both, fingerprints(dataset, both), masks, strict=True):
        content.update(item.key.encode() + b"\n" + image.pixels + pixels)
    loaded = TrainingData(
        dataset=dataset,
        data_gsd=data_gsd,
        model_gsd=model_gsd,
        train=train,
        class_counts=[counts for _, counts in labelled],
        validation=validation,
        validation_subset=validation_subset,
        digest=digest.hexdigest(),
        images=image_set(dataset, train),
        content_digest=_CONTENT_FORM + content.hexdigest(),
    )
    _warn(loaded, crop_px, unlabelled=len(items) - len(labelled), across_tiles=across_tiles)
    return loaded


def same_content(recorded: str | None, digest: str) -> bool:
    """Return whether a recorded content digest equals one, or is unknown: None, or of an earlier form."""
    return not (recorded or "").startswith(_CONTENT_FORM) or recorded == digest


def _warn(data: TrainingData, crop_px: int, *, unlabelled: int, across_tiles: bool) -> None:
    """Log warnings about images and classes that cannot be learned, or only at a cost."""
    scenes: Mapping[str, SceneTile] = data.dataset.scenes or {}
    if across_tiles and not any(
        scenes[item.key].row is not None for item in data.train if item.key in scenes
    ):
        logger.warning(
            "across_tiles=true has no effect: the neighbours of the training images are unknown. Write "
            f"{SCENES_FILE} (id,scene,row,col) into the data folder and prepare the cache again, or set "
            "across_tiles=false."
        )
    if unlabelled:
        logger.warning("Training images without a labelled pixel: %d; they are skipped.", unlabelled)
    for name, fraction in data.class_share.items():
        if not fraction:
            logger.warning("Class %r does not occur in the training images; it cannot be learned.", name)
    scale = data.data_gsd / data.model_gsd
    sides = [min(size) * scale for size in data.sizes]
    small = sum(side < crop_px for side in sides)
    if small:
        logger.warning(
            f"{small} of {len(sides)} training images are smaller than a crop: the smallest has "
            f"{min(sides):.0f} px at the model's scale, a crop has {crop_px}. The rest of such crops is "
            f"filled and ignored. Set crop_px={max(32, int(min(sides)) // 32 * 32)} to avoid this."
        )
    if data.model_gsd >= _DETAIL_LOST * data.data_gsd:
        logger.warning(
            f"The data have {data.data_gsd:g} m per pixel, the network works at {data.model_gsd:g} m: "
            f"smaller detail is lost. --set gsd={data.data_gsd:g} keeps it but costs {scale**-2:.0f} times "
            "the computation."
        )


def check_scale(data_gsd: float, model_gsd: float, model: str) -> None:
    """Raise a :class:`UsageError` if one GSD is more than :data:`MAX_SCALE` times the other."""
    if not 1 / MAX_SCALE <= data_gsd / model_gsd <= MAX_SCALE:
        raise UsageError(
            f"The data have {data_gsd:g} m per pixel and {model} works at {model_gsd:g} m: more than a "
            f"factor of {MAX_SCALE}. Expected metres per pixel; check --gsd and --set gsd."
        )


def evenly_spaced(items: Sequence[Item], count: int | None) -> Sequence[Item]:
    """Return ``count`` evenly spaced items of a sequence, or all of them if it is None."""
    if count is None or count >= len(items):
        return items
    return [items[i * len(items) // count] for i in range(count)]


def measure_imagery(data: TrainingData) -> ImageryProfile | None:
    """Measure a sample of the training images at the model's scale; None if there are too few windows."""
    scale = data.data_gsd / data.model_gsd
    pixels = sum(height * width for height, width in data.sizes) * scale**2
    windows = max(1.0, pixels / len(data.sizes) / WINDOW_PX**2)
    count = max(_MIN_PROFILE_IMAGES, min(_MAX_PROFILE_IMAGES, round(_PROFILE_WINDOWS / windows)))

    def read(item: Item) -> tuple[UInt8Array, BoolArray | None]:
        image, valid = data.dataset.read_imagery(item)
        resampled = resample_image(image, scale)
        return resampled, None if valid is None else resample_valid(valid, resampled.shape[:2])

    return measure_profile(parallel_map(read, evenly_spaced(data.train, count)))
