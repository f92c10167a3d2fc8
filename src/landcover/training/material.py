"""What a run is trained on: the parts of a split, looked through once before the first step."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from landcover.data import Dataset, Item, open_dataset, split
from landcover.data.items import SCENES_FILE
from landcover.data.parallel import parallel_map
from landcover.data.splits import TRAIN_PARTS, VALIDATION_PARTS, parse
from landcover.errors import DataError, SplitError, UsageError
from landcover.legend import Legend
from landcover.progress import track
from landcover.training.sampling import Census, take_census

MOST_SCALE = 100
"""Largest factor between the scales of the data and of the model."""

_DETAIL_LOST = 3
"""From this factor between the scales of model and data on users are told what it costs."""


@dataclass(frozen=True)
class Material:
    """Items, what is in them, and what is worth knowing about them.

    Attributes:
        dataset: Where the items are.
        data_gsd: Metres per pixel of the data.
        model_gsd: Metres per pixel that the network works at.
        train: Items to train on, all with labelled pixels.
        census: Where the classes are in each.
        validation: Items to validate on; empty where the split has no such part.
        validation_part: Its name.
        notices: Sentences for the user.
        digest: SHA-256 of the keys of both parts, and of sizes and class counts in the training part.
    """

    dataset: Dataset
    data_gsd: float
    model_gsd: float
    train: Sequence[Item]
    census: Sequence[Census]
    validation: Sequence[Item]
    validation_part: str | None
    notices: Sequence[str]
    digest: str

    @property
    def class_share(self) -> dict[str, float]:
        """Share of the labelled training pixels by class name."""
        pixels = np.sum([entry.pixels for entry in self.census], axis=0)
        return dict(zip(self.dataset.legend.scored_names, (pixels / pixels.sum()).tolist(), strict=True))


def gather(
    data: Path,
    split_name: str,
    *,
    crop_px: int,
    model_gsd: float | None,
    legend: Legend | None = None,
    gsd: float | None = None,
) -> Material:
    """Open data, split them and look through the masks of the training part.

    Args:
        data: Data folder or prepared cache.
        split_name: A split with a part named train (or ``all``), and perhaps one of :data:`VALIDATION_PARTS`.
        crop_px: Height and width of a crop at the model's scale.
        model_gsd: Metres per pixel that the network works at; None for that of the data.
        legend: Meaning of the masks, if not what the data say.
        gsd: Metres per pixel of the data, if not what the data say.

    Raises:
        UsageError: If nothing tells the GSD or it is absurd, or the split is given with a part.
        SplitError: If the split does not exist or has no part to train on.
        DataError: If images have no masks, or no mask has a labelled pixel.
    """
    part = parse(split_name).part
    if part is not None:
        raise UsageError(
            f"--split {split_name} names one part; training takes the whole split: "
            f"--split {split_name.rpartition(':')[0]}."
        )
    dataset = open_dataset(data, legend=legend, gsd=gsd)
    if not dataset.labelled:
        raise DataError(
            f"{data} has {len(dataset.items)} images (layout {dataset.layout}) but no masks: there is "
            "nothing to train on. Expected NAME_mask.png beside NAME_sat.jpg, or another known layout."
        )
    if dataset.gsd is None:
        raise UsageError(
            f"Nothing tells how many metres a pixel of {data} covers. Pass --gsd METRES, or write "
            f"'gsd: METRES' into {data / 'landcover.yaml'}."
        )
    model_gsd = model_gsd or dataset.gsd
    check_scale(dataset.gsd, model_gsd, "the model")
    parts = split(dataset, split_name)
    train_part = next((part for part in TRAIN_PARTS if part in parts), None)
    if train_part is None:
        raise SplitError(
            f"The split {split_name!r} has the parts {', '.join(parts)}; training needs one named train."
        )
    validation_part = next((part for part in VALIDATION_PARTS if part in parts), None)
    validation = parts[validation_part] if validation_part else []
    items, census, digest = _look_through(dataset, parts[train_part], validation)
    if not items:
        raise DataError(
            f"None of the {len(parts[train_part])} masks of the part {train_part!r} of {data} has a pixel "
            "of a class: "
            f"all are unknown. Check the legend ({dataset.legend.name}) with 'landcover verify'."
        )
    return Material(
        dataset=dataset,
        data_gsd=dataset.gsd,
        model_gsd=model_gsd,
        train=items,
        census=census,
        validation=validation,
        validation_part=validation_part,
        notices=[
            *_missing_validation(split_name, parts, validation_part),
            *_unlabelled(len(parts[train_part]) - len(items)),
            *_absent_classes(dataset.legend, census),
            *_small_images(census, crop_px, dataset.gsd / model_gsd),
            *_lost_detail(dataset.gsd, model_gsd),
        ],
        digest=digest,
    )


def without_neighbours(material: Material) -> list[str]:
    """Return a sentence where no training image has a place in a scene, so that no crop can reach further."""
    if any(item.key in (material.dataset.scenes or {}) for item in material.train):
        return []
    return [
        "Nothing tells which training images are neighbours, so that across_tiles=true changes nothing: "
        f"crops stay within their images. Write {SCENES_FILE} (part,id,scene,row,col) into the data folder, "
        "and prepare a cache again; or pass --set across_tiles=false."
    ]


def check_scale(data_gsd: float, model_gsd: float, model: str) -> None:
    """Refuse a model whose scale is out of all proportion to that of the data.

    Raises:
        UsageError: If one is more than :data:`MOST_SCALE` times the other.
    """
    if not 1 / MOST_SCALE <= data_gsd / model_gsd <= MOST_SCALE:
        raise UsageError(
            f"The data have {data_gsd:g} m per pixel and {model} is to work at {model_gsd:g}: more than a "
            f"factor of {MOST_SCALE}. Expected metres per pixel; check --gsd and --set gsd."
        )


def _look_through(
    dataset: Dataset, items: Sequence[Item], validation: Sequence[Item]
) -> tuple[list[Item], list[Census], str]:
    """Return the items with labelled pixels, their census, and the digest."""
    channels, classes = dataset.legend.channels, len(dataset.legend.scored)

    def count(item: Item) -> Census:
        return take_census(np.take(channels, dataset.read_mask(item)), classes)

    census = list(track(parallel_map(count, items), "Looking through the masks", total=len(items)))
    pairs = list(zip(items, census, strict=True))
    digest = hashlib.sha256()
    for item, entry in pairs:
        line = f"{item.key} {entry.height} {entry.width} {entry.pixels.tolist()}\n"
        digest.update(line.encode())
    digest.update("\n".join(item.key for item in validation).encode())
    kept = [(item, entry) for item, entry in pairs if entry.blocks.any()]
    return [item for item, _ in kept], [entry for _, entry in kept], digest.hexdigest()


def _missing_validation(split_name: str, parts: Iterable[str], part: str | None) -> list[str]:
    if part is not None:
        return []
    return [
        f"The split {split_name!r} has no part named {' or '.join(VALIDATION_PARTS)} (only "
        f"{', '.join(parts)}): nothing is validated, and the last weights are kept."
    ]


def _unlabelled(count: int) -> list[str]:
    if not count:
        return []
    return [
        f"{count} training image{'s have' if count > 1 else ' has'} no pixel of a class and cannot be "
        "learned from."
    ]


def _absent_classes(legend: Legend, census: Sequence[Census]) -> list[str]:
    pixels = np.sum([entry.pixels for entry in census], axis=0)
    return [
        f"Class {name!r} is nowhere in the training part: the model will never learn it."
        for name, count in zip(legend.scored_names, pixels, strict=True)
        if not count
    ]


def _lost_detail(data_gsd: float, model_gsd: float) -> list[str]:
    if model_gsd < _DETAIL_LOST * data_gsd:
        return []
    return [
        f"The data have {data_gsd:g} m per pixel, the network works at {model_gsd:g}: what is smaller than "
        f"that is lost. --set gsd={data_gsd:g} keeps it, at {(model_gsd / data_gsd) ** 2:.0f} times the work "
        "for the same ground."
    ]


def _small_images(census: Sequence[Census], crop_px: int, scale: float) -> list[str]:
    sides = [min(entry.height, entry.width) * scale for entry in census]
    small = sum(side < crop_px for side in sides)
    if not small:
        return []
    return [
        f"{small} of {len(sides)} training images are smaller than a crop (the smallest has "
        f"{min(sides):.0f} px at the "
        f"model's scale, a crop {crop_px}): the rest of such crops is filled and ignored. "
        f"--set crop_px={max(32, int(min(sides)) // 32 * 32)} would waste nothing."
    ]
