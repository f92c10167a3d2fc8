"""Named train/val/test splits of the labelled items of a data set.

A split is written ``NAME`` or ``NAME:part``. The same name gives the same lists on every machine, whatever
the order in which files are found.
"""

import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TypedDict

import numpy as np

from landcover._typing import Int64Array
from landcover.data.dataset import Dataset, class_shares
from landcover.data.layouts import SCENES_FILE, Item
from landcover.data.leakage import find_leaks
from landcover.errors import SplitError, did_you_mean, first_few
from landcover.io.discovery import role_of, words_of
from landcover.io.readahead import parallel_map
from landcover.progress import track
from landcover.textfiles import read_text

logger = logging.getLogger(__name__)

Parts = dict[str, list[Item]]

GLNET_COUNTS = {"train": 454, "val": 207, "test": 142}
"""Images of each GLNet part. Papers print 455/207/142, which sums to 804 of 803 images: a typo."""

TRAIN_PARTS = ("train", "all")
"""Names of the subset for training: the first that a split has."""

VALIDATION_PARTS = ("val", "valid", "validation")
"""Names of the subset for validation: the first that a split has."""

SIZE_CAP = 1.05
"""Limit on the items of a fold, relative to the mean; a larger scene is a fold of its own."""

LISTED_COUNTS = (340, 368, 367, 338, 342)
"""Tiles of each listed fold: together the 1755 training tiles of 512 x 512 pixels at 1.195 m."""


GRAMMAR: Mapping[str, str] = {
    "folders": r"folders",
    "glnet": r"glnet",
    "random-N-M@SEED": r"random-(\d+)-(\d+)@(\d+)",
    "kfold-K@I": r"kfold-(\d+)@(\d+)",
    "scenes-kK@I": r"scenes-k(\d+)@(\d+)",
    "scenes-kK@I,J": r"scenes-k(\d+)@(\d+),(\d+)",
    "group-kK@I": r"group-k(\d+)@(\d+)",
    "all": r"all",
}
"""Each form of a split name, and its pattern. ``scenes-kK@I,J``: fold I is test, J is val, the rest train.
``group-kK@I``: as ``scenes-kK@I``, with the folders of the images for scenes."""


@dataclass(frozen=True)
class SplitName:
    """A split name, ``text`` without its subset: a form of :data:`GRAMMAR`, or ``FILE``, and its numbers."""

    text: str
    kind: str
    numbers: tuple[int, ...] = ()
    part: str | None = None


def parse(text: str) -> SplitName:
    """Parse a split name. A file named like one, such as ``all``, is written ``./all``."""
    name, colon, part = text.rpartition(":") if ":" in text else (text, "", "")
    if colon and not part:
        raise SplitError(f"Split {text!r} ends with a colon; expected a subset, such as {name + ':val'!r}.")
    for kind, pattern in GRAMMAR.items():
        if match := re.fullmatch(pattern, name, re.ASCII):  # no digits of other scripts
            return SplitName(name, kind, tuple(int(number) for number in match.groups()), part or None)
    for file, subset in ((text, None), (name, part or None)):
        if Path(file).is_file():
            return SplitName(file, "FILE", part=subset)
    raise SplitError(
        f"Split {name!r} is neither a file of ids nor a known form. {did_you_mean(name, GRAMMAR)}"
    )


def split(dataset: Dataset, name: str) -> Parts:
    """Return the labelled items of every subset of a split, each sorted by key."""
    parsed = parse(name)
    if not dataset.labelled:
        raise SplitError(f"{dataset.root} has {len(dataset.items)} images and no masks; expected masks.")
    # Folds are made of the subset train if there is one, else of all items.
    pool = dataset.parts.get("train") or dataset.labelled
    match parsed.kind, parsed.numbers:
        case "FILE", _:
            parts = _read_list(dataset, Path(parsed.text))
        case "all", _:
            parts = {"all": dataset.labelled}
        case "folders", _:
            parts = {part: items for part, items in dataset.parts.items() if part is not None}
            if not parts:
                raise SplitError(
                    f"{dataset.root} (layout {dataset.layout}) has no folders such as train and validation. "
                    f"Use another split. {advice_on_splits(dataset)}"
                )
        case "glnet", _:
            parts = _glnet(dataset)
        case "random-N-M@SEED", (train, val, seed):
            if train + val != len(pool):
                raise SplitError(
                    f"{parsed.text} needs {train + val} items; {dataset.root} has {len(pool)} to split."
                )
            order = np.random.default_rng(seed).permutation(len(pool))
            parts = {"train": [pool[i] for i in order[:train]], "val": [pool[i] for i in order[train:]]}
        case "kfold-K@I", (folds, fold):
            _check_fold(folds, fold, len(pool), "items")
            parts = _assign(pool, val=[item.key for item in pool[fold::folds]])
        case "scenes-kK@I", (folds, fold):
            parts = _assign(pool, val=_members(dataset, pool, folds, fold)[fold])
        case "group-kK@I", (folds, fold):
            groups = {item.key: folder_group(item) for item in pool}
            _check_fold(folds, fold, len(set(groups.values())), "folders")
            parts = _assign(pool, val=_scene_folds(dataset, pool, groups, folds)[fold])
        case _, (folds, fold, development):  # scenes-kK@I,J
            if fold == development and fold < folds:
                raise SplitError(
                    f"{parsed.text} tests and develops on the same fold; use another after the comma, such "
                    f"as scenes-k{folds}@{fold},{0 if fold else 1}."
                )
            if folds == 2:
                raise SplitError(f"{parsed.text} leaves no training data; use 3 folds or more.")
            members = _members(dataset, pool, folds, fold, development)
            parts = _assign(pool, val=members[development], test=members[fold])
    part_of: dict[str, str] = {}
    for part, items in parts.items():
        if not items:
            raise SplitError(f"Subset {part!r} of split {parsed.text!r} is empty for {dataset.root}.")
        for item in items:
            if part_of.setdefault(item.key, part) != part:
                raise SplitError(
                    f"{item.key!r} is in two subsets of split {parsed.text!r}: {part_of[item.key]}, {part}."
                )
    sources, used = (
        {source.root: None for source, _ in dataset.by_source(items)}
        for items in (dataset.items, [item for items in parts.values() for item in items])
    )
    if unused := [str(root) for root in sources if root not in used]:
        raise SplitError(
            f"Split {parsed.text!r} has no item of {first_few(unused)}: the labelled images of each data set "
            "must be in folders of the same subsets, such as train and val, or none of any. Change the "
            "folders, leave that --data out, or list the items of all in a file (--split FILE)."
        )
    return {part: sorted(items, key=lambda item: item.key) for part, items in parts.items()}


def select(dataset: Dataset, name: str) -> list[Item]:
    """Return the items of one subset of a split, ``NAME:part``; ``:part`` is optional for a single one."""
    parsed, parts = parse(name), split(dataset, name)
    if parsed.part is None:
        if len(parts) > 1:
            raise SplitError(
                f"Split {parsed.text!r} has the subsets {', '.join(parts)}; choose one, such as "
                f"{parsed.text + ':' + ('val' if 'val' in parts else list(parts)[-1])!r}."
            )
        return next(iter(parts.values()))
    if parsed.part not in parts:
        hint = did_you_mean(parsed.part, parts)
        raise SplitError(f"Split {parsed.text!r} has no subset {parsed.part!r}. {hint}")
    return parts[parsed.part]


def class_pixels(dataset: Dataset, items: Iterable[Item]) -> dict[str, Int64Array]:
    """Count the pixels of each class, int64 (classes,), in each item's mask, by key."""
    wanted = list(items)
    counts = track(parallel_map(dataset.class_pixels, wanted), "Counting classes", total=len(wanted))
    return {item.key: count for item, count in zip(wanted, counts, strict=True)}


@cache
def glnet_ids() -> dict[str, frozenset[str]]:
    """Return the ids of GLNet's subsets: disjoint, together the 803 labelled images of the challenge."""
    folder = files("landcover.data") / "ids"
    lists = {part: (folder / f"glnet-{part}.txt").read_text("utf-8").split() for part in GLNET_COUNTS}
    ids = {part: frozenset(names) for part, names in lists.items()}
    counts = {part: len(names) for part, names in lists.items()}
    if counts != GLNET_COUNTS or len(frozenset().union(*ids.values())) != sum(GLNET_COUNTS.values()):
        raise SplitError(
            f"The GLNet lists of this installation are damaged: {counts}, expected {GLNET_COUNTS}."
        )
    return ids


def _glnet(dataset: Dataset) -> Parts:
    parts: Parts = {}
    by_id = _by_bare_id(dataset)
    for part, ids in glnet_ids().items():
        missing = sorted(ids - by_id.keys())
        if not missing:
            parts[part] = [_only(by_id, name) for name in sorted(ids)]
        elif len(missing) < len(ids):
            raise SplitError(
                f"{dataset.root} has {len(ids) - len(missing)} of the {len(ids)} labelled images of GLNet's "
                f"{part}; missing: {first_few(missing, 10)}. A partial split is not comparable."
            )
    if not parts:
        raise SplitError(f"{dataset.root} has no image of the GLNet lists (803 labelled ones).")
    return parts


def _members(dataset: Dataset, pool: list[Item], folds: int, *used: int) -> list[list[str]]:
    """Return the keys of each fold: listed for tiles of the published benchmark, else computed."""
    if folds == len(LISTED_COUNTS) and _are_listed(dataset, pool):
        for fold in used:
            _check_fold(folds, fold, len(pool), "items")
        return [[key for key, fold in listed_folds().items() if fold == number] for number in range(folds)]
    if dataset.scenes is None:
        raise SplitError(
            f"{dataset.root} has no {SCENES_FILE}, and not all of its images are georeferenced, which "
            f"scene-disjoint folds need. {advice_on_splits(dataset)}"
        )
    scene_of = {key: tile.scene for key, tile in dataset.scenes.items()}
    for fold in used:
        _check_fold(folds, fold, len({scene_of.get(item.key) for item in pool}), "scenes")
    return _scene_folds(dataset, pool, scene_of, folds)


def _scene_folds(
    dataset: Dataset, pool: list[Item], scene_of: Mapping[str, str], folds: int
) -> list[list[str]]:
    scored = list(dataset.legend.scored)
    pixels = {key: count[scored] for key, count in class_pixels(dataset, pool).items()}
    return scene_folds(pixels, scene_of, folds)


def folder_group(item: Item) -> str:
    """Return the folders of an item's key without those that only say images, or a subset.

    Examples:
        >>> folder_group(Item("aachen/images/1", None, Path("1.tif"), None))
        'aachen'
    """
    folders = item.key.split("/")[:-1]
    return "/".join(f for f in folders if not role_of(words_of(f)) and f.lower() != item.part)


def separated_neighbours(dataset: Dataset, parts: Parts) -> list[tuple[str, str]]:
    """Return the pairs of images that overlap or touch and are in different subsets, by key."""
    part_of = {item.key: part for part, items in parts.items() for item in items}
    leaks = find_leaks(part_of, (), dataset.scenes or {}, {}, dataset.neighbours)
    return [(leak.a, leak.b) for leak in leaks]


def warn_of_neighbours(dataset: Dataset, parts: Parts, name: str) -> None:
    """Log a warning if a split separates neighbours, with what keeps them together."""
    if pairs := separated_neighbours(dataset, parts):
        logger.warning(
            f"The split {name!r} puts {len(pairs)} pairs of overlapping or touching images into different "
            f"subsets (such as {pairs[0][0]} and {pairs[0][1]}): scores are optimistic. "
            f"{advice_on_splits(dataset)}"
        )


def advice_on_splits(dataset: Dataset) -> str:
    """Return a sentence on the split that keeps neighbours in one subset, as far as they are known."""
    pool = dataset.parts.get("train") or dataset.labelled
    groups = {item.key: folder_group(item) for item in pool}
    if dataset.scenes is not None:
        scenes = {tile.scene for item in pool if (tile := dataset.scenes.get(item.key)) is not None}
        if len(scenes) > 1:
            return f"Use scenes-k{min(5, len(scenes))}@0, which keeps scenes apart."
        return (
            "All images are one contiguous scene: hold out images that are apart from the others, by a "
            "file of keys with --split FILE, or label another scene."
        )
    if (count := len(set(groups.values()))) > 1:
        return (
            f"If images of one folder are of one scene, use group-k{min(5, count)}@0, which keeps folders "
            f"apart; else write {SCENES_FILE} and use scenes-kK@I."
        )
    return (
        f"If images are neighbours, write {SCENES_FILE} (id,scene,row,col) and use scenes-kK@I; kfold-K@I is "
        "for images that are all apart."
    )


def _are_listed(dataset: Dataset, pool: list[Item]) -> bool:
    """Return whether items are the published benchmark's tiles, so that the listed folds apply.

    A copy may lack up to half of them (one lost tile may not turn fold 1 into fold 2); as keys such as
    ``train/0000`` are common, it needs a table of scenes in which the folds cut no scene.
    """
    fold_of = listed_folds()
    keys = {item.key for item in pool}
    if keys == fold_of.keys():
        return True
    if dataset.scenes is None or not keys <= fold_of.keys() or 2 * len(keys) <= len(fold_of):
        return False
    places = {(dataset.scenes[key].scene, fold_of[key]) for key in keys if key in dataset.scenes}
    return 0 < len(places) == len({scene for scene, _ in places})


def _read_list(dataset: Dataset, path: Path) -> Parts:
    """Read a file of ids: one key or id per line, optionally with its subset after a tab."""
    by_key = {item.key: item for item in dataset.labelled}
    by_id = _by_bare_id(dataset)
    parts: dict[str, dict[str, Item]] = {}
    missing = []
    text = read_text(path, SplitError, "a list of ids, one per line")
    for line in filter(None, map(str.strip, text.splitlines())):
        name, _, part = line.partition("\t")
        item = by_key.get(name) or (_only(by_id, name) if name in by_id else None)
        if item is None:
            missing.append(name)
        else:
            parts.setdefault(part or "all", {})[item.key] = item
    if missing:
        raise SplitError(
            f"{path} lists {len(missing)} items without a pair in {dataset.root}: {first_few(missing, 10)}."
        )
    if not parts:
        raise SplitError(f"{path} lists no items; expected one key or id per line.")
    return {part: list(items.values()) for part, items in parts.items()}


@cache
def listed_folds() -> Mapping[str, int]:
    """Return the fold of each of the 1755 training tiles of the published benchmark, by item key.

    The list, once made by :func:`scene_folds`, defines the benchmark, whatever that gives today.
    """
    text = (files("landcover.data") / "ids" / "scenes-k5.tsv").read_text("utf-8")
    rows = [line.partition("\t")[::2] for line in text.splitlines()]
    folds = {key: int(fold) for key, fold in rows if fold.isdecimal()}
    counts = tuple(sum(fold == number for fold in folds.values()) for number in range(len(LISTED_COUNTS)))
    if counts != LISTED_COUNTS or len(rows) != sum(LISTED_COUNTS):
        raise SplitError(
            f"The list of folds of this installation is damaged: {counts} tiles in {len(rows)} lines, "
            f"expected {LISTED_COUNTS}."
        )
    return folds


def scene_folds(pixels: Mapping[str, Int64Array], scene_of: Mapping[str, str], folds: int) -> list[list[str]]:
    """Assign items to folds, whole scenes at a time: greedy, size-capped, stratified by class.

    Scenes are placed from the largest to the smallest. Each goes to the fold below the size cap with the
    smallest resulting sum, over folds and classes, of squared (pixels of the class in the fold / in all
    folds). Sums are exact, so the result does not depend on the machine or the order of the arguments.
    ``pixels`` are int64 (classes,) of each item's mask, by key.
    """
    if missing := sorted(pixels.keys() - scene_of.keys()):
        raise SplitError(f"{len(missing)} items have no scene in {SCENES_FILE}: {first_few(missing)}.")
    members: dict[str, list[str]] = {}
    for key in sorted(pixels):
        members.setdefault(scene_of[key], []).append(key)
    _check_fold(folds, 0, len(members), "scenes")

    def summed(keys: Iterable[str]) -> list[int]:
        counts: list[int] = np.sum([pixels[key] for key in keys], axis=0).tolist()
        return counts

    totals = summed(pixels)
    cap = max(SIZE_CAP * len(pixels) / folds, max(len(keys) for keys in members.values()))
    held = [[0] * len(totals) for _ in range(folds)]
    result: list[list[str]] = [[] for _ in range(folds)]
    for scene in sorted(members, key=lambda s: (-len(members[s]), s)):
        open_folds = [f for f in range(folds) if len(result[f]) + len(members[scene]) <= cap]
        own = summed(members[scene])
        candidates = open_folds or [min(range(folds), key=lambda f: len(result[f]))]
        # The fold whose sum of squared shares grows least; of equal ones the first.
        growths = {
            fold: sum(
                Fraction(a * (2 * h + a), t * t) for a, h, t in zip(own, held[fold], totals, strict=True) if t
            )
            for fold in candidates
        }
        best = min(candidates, key=growths.__getitem__)
        held[best] = [a + b for a, b in zip(held[best], own, strict=True)]
        result[best] += members[scene]
    return [sorted(keys) for keys in result]


def _check_fold(folds: int, fold: int, available: int, what: str) -> None:
    if available < 2:
        raise SplitError(f"The number of {what} is {available}; folds need 2 or more.")
    if not 2 <= folds <= available:
        raise SplitError(f"Found {folds} folds for {available} {what}; choose 2 to {available}.")
    if fold >= folds:
        raise SplitError(f"Fold {fold} of {folds} does not exist; folds are numbered 0 to {folds - 1}.")


def _assign(pool: list[Item], **held_out: list[str]) -> Parts:
    """Return the subsets of these keys, and all other items as train."""
    part_of = {key: part for part, keys in held_out.items() for key in keys}
    parts: Parts = {part: [] for part in ("train", *held_out)}
    for item in pool:
        parts[part_of.get(item.key, "train")].append(item)
    return parts


def _by_bare_id(dataset: Dataset) -> dict[str, list[Item]]:
    by_id: dict[str, list[Item]] = {}
    for item in dataset.labelled:
        by_id.setdefault(item.id, []).append(item)
    return by_id


def _only(by_id: dict[str, list[Item]], name: str) -> Item:
    if len(by_id[name]) > 1:
        keys = ", ".join(item.key for item in by_id[name])
        raise SplitError(f"The id {name!r} fits several items: {keys}. Use the key instead.")
    return by_id[name][0]


class PartSummary(TypedDict):
    """A subset: its number of items and scenes (None if unknown), fractions of pixels by class, and keys."""

    items: int
    scenes: int | None
    class_share: dict[str, float]
    keys: list[str]


def describe(dataset: Dataset, parts: Parts) -> dict[str, PartSummary]:
    """Summarise each subset of a split."""
    scenes = dataset.scenes
    return {
        part: {
            "items": len(items),
            "scenes": None
            if scenes is None
            else len({scenes[i.key].scene for i in items if i.key in scenes}),
            "class_share": class_shares(dataset.legend, class_pixels(dataset, items).values()),
            "keys": [item.key for item in items],
        }
        for part, items in parts.items()
    }
