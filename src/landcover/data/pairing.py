"""Pair images and masks of a folder by words in their paths, or by their formats."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from landcover.errors import DataError
from landcover.io.discovery import MASK_SUFFIXES, MAX_PIXELS, PICTURE_SUFFIXES, role_of, words_of
from landcover.io.images import read_picture

SUBSETS: Mapping[str, str] = {
    **{part: part for part in ("train", "val", "valid", "validation", "test")},
    "training": "train",
    "testing": "test",
}
"""Subset that a folder of this name holds."""

_PICTURE = re.compile(rf".*(?:{'|'.join(map(re.escape, PICTURE_SUFFIXES | MASK_SUFFIXES))})", re.IGNORECASE)
_PREDICTED = re.compile(r"(?:^|/)(?:preds?|predicted|predictions?)/", re.IGNORECASE)
"""Folders that do not belong to a data set."""
_FORMS = frozenset({"instance", "color", "colour"})
"""Words of mask names that say how the labels are stored."""
_LETTERS = frozenset({"l", "m"})
"""Last words of mask names, as in ``0001_L.png`` beside ``0001.png``."""
_MOST_VALUES, _SAMPLE_PX = 64, 256
"""Different values of a mask at most, in a sample of this side."""


class Pairs(NamedTuple):
    """The mask of each image, or None, and the masks without an image, as paths below a folder."""

    masks: dict[str, str | None]
    missing_images: list[str]


def pair_by_words(root: Path, paths: Sequence[str]) -> Pairs:
    """Pair the files whose paths are equal without the words for images and masks."""
    by_key: dict[tuple[str, ...], dict[str, list[str]]] = {}
    for path in filter(_PICTURE.fullmatch, paths):
        if _PREDICTED.search(path):
            continue
        role, key = _role(path)
        by_key.setdefault(key, {}).setdefault(role, []).append(path)
    _remove_letters(by_key)
    _add_neutral_folder(root, by_key)
    pairs: dict[str, str | None] = {}
    lossy: list[str] = []
    missing: list[str] = []
    for roles in by_key.values():
        images, masks, others = (roles.get(role, []) for role in ("image", "mask", ""))
        if not images and masks:
            images, others = others, []
        elif images and not masks:
            masks, others = others, []
        if len(masks) > 1:
            masks = [path for path in masks if path.lower().endswith(tuple(MASK_SUFFIXES))] or masks
            masks = [path for path in masks if not _FORMS & {*words_of(path.replace("/", " "))}] or masks
        if len(images) == 1 and len(masks) == 1:
            pairs[images[0]] = masks[0]
            lossy += [path for path in masks if path.lower().endswith((".jpg", ".jpeg"))]
        elif len(images) == 1 and not masks and roles.get("image"):
            pairs[images[0]] = None
        else:
            missing += masks
    beside = {_folder_and_suffix(image) for image in pairs}
    singles = [roles[""] for roles in by_key.values() if roles.keys() == {""} and len(roles[""]) == 1]
    for (path,) in singles:
        if _folder_and_suffix(path) in beside:
            pairs.setdefault(path, None)
    if lossy:
        raise DataError(
            f"{root / lossy[0]} is a JPEG, and compression changes labels: {len(lossy)} masks of {root}. "
            "Save masks as PNG; landcover convert --to index restores masks in pure colours."
        )
    return Pairs(pairs, missing)


def _remove_letters(by_key: dict[tuple[str, ...], dict[str, list[str]]]) -> None:
    """Give masks NAME_l and NAME_m the key of NAME.

    Where words state masks, these must be just the files with a letter: else t1_m may be a tile of its own.
    Where no word does, single files in lossless formats are the masks, if there is NAME.
    """
    lettered = [key for key in by_key if "_" in key[-1] and key[-1].rpartition("_")[2] in _LETTERS]
    masks = [key for key, roles in by_key.items() if "mask" in roles]
    if masks and (masks != lettered or any(by_key[key].keys() != {"mask"} for key in masks)):
        return
    for key in lettered:
        named, files = (*key[:-1], key[-1].rpartition("_")[0]), next(iter(by_key[key].values()))
        is_mask = key in masks or (
            named in by_key
            and by_key[key].keys() == {""}
            and len(files) == 1
            and _folder_and_suffix(files[0])[1] in MASK_SUFFIXES
        )
        if is_mask:
            del by_key[key]
            by_key.setdefault(named, {}).setdefault("mask", []).extend(files)


def _add_neutral_folder(root: Path, by_key: dict[tuple[str, ...], dict[str, list[str]]]) -> None:
    """Where a set has masks but no images by words, take files as images that differ in one folder's name.

    They may not hold labels themselves, such as predictions. Of two files for a mask neither is taken.
    """
    if not any("mask" in roles for roles in by_key.values()) or any("image" in r for r in by_key.values()):
        return
    neutral = [(key, roles[""]) for key, roles in by_key.items() if roles.keys() == {""}]
    found = [
        (roles, files)
        for key, files in neutral
        for number in range(len(key) - 1)
        if "mask" in (roles := by_key.get(key[:number] + key[number + 1 :], {}))
    ]
    if not all(_holds_labels(root / path) for _, files in found[:4] for path in files):
        for roles, files in found:
            roles.setdefault("image", []).extend(files)


def _folder_and_suffix(path: str) -> tuple[str, str]:
    pure = PurePosixPath(path)
    return str(pure.parent), pure.suffix.lower()


def pair_by_formats(root: Path, paths: Sequence[str]) -> Pairs:
    """Pair the files of one name in two formats.

    The mask is found by the content of a few files, and is not a JPEG; else it is the PNG.
    """
    names: dict[str, list[str]] = {}
    for path in filter(_PICTURE.fullmatch, paths):
        names.setdefault(path[: -len(PurePosixPath(path).suffix)], []).append(path)
    by_formats: dict[tuple[str, ...], list[list[str]]] = {}
    for files in names.values():
        files.sort(key=_folder_and_suffix)
        by_formats.setdefault(tuple(_folder_and_suffix(path)[1] for path in files), []).append(files)
    pairs: dict[str, str | None] = {}
    missing: list[str] = []
    for formats, found in by_formats.items():
        if len(set(formats)) == 2 == len(formats):
            is_mask = [
                one not in (".jpg", ".jpeg") and all(_holds_labels(root / files[n]) for files in found[:4])
                for n, one in enumerate(formats)
            ]
            if is_mask[0] == is_mask[1]:
                is_mask = [one == ".png" for one in formats]
            if is_mask[0] != is_mask[1]:
                mask = is_mask.index(True)
                pairs |= {files[1 - mask]: files[mask] for files in found}
    images, masks = ({_folder_and_suffix(path) for path in each if path} for each in (pairs, pairs.values()))
    for (path,) in (files for files in names.values() if len(files) == 1):
        if _folder_and_suffix(path) in images:
            pairs[path] = None
        elif _folder_and_suffix(path) in masks:
            missing.append(path)
    return Pairs(pairs, missing)


def _role(path: str) -> tuple[str, tuple[str, ...]]:
    """Return ``image``, ``mask`` or an empty text, and the path without the words that say so."""
    *folders, name = PurePosixPath(path).parts
    role, key = "", []
    for folder in folders:
        words = words_of(folder)
        found = role_of(words)
        if not found and (match := re.fullmatch(r"(train|val|valid|validation|test)annot", folder.lower())):
            found, words = "mask", [match[1]]
        role = found or role
        rest = [word for word in words if word in SUBSETS] if found else [folder.lower()]
        key += ["_".join(rest)] if rest else []
    words = words_of(PurePosixPath(name).stem)
    own = role_of(words, in_file=True)
    if own == "mask" or not role:
        role = own or role
    if own:
        words = [word for word in words if not role_of([word], in_file=True) and word not in _FORMS]
    return role, (*key, "_".join(words))


def subset_of(path: str) -> str | None:
    """Return the subset that a folder of a path names, alone or beside words for images and masks."""
    for folder in PurePosixPath(path).parts[:-1]:
        for word in [folder.lower(), *words_of(folder)]:
            if word in SUBSETS:
                return SUBSETS[word]
    return None


def _holds_labels(path: Path) -> bool:
    """Return whether a file holds labels by its content: one band or a palette, or few colours."""
    try:
        picture = read_picture(path, DataError, max_pixels=MAX_PIXELS)
    except DataError:
        return False
    if picture.lossy:
        return False
    step = max(1, min(picture.pixels.shape[:2]) // _SAMPLE_PX)
    pixels = picture.pixels[::step, ::step]
    if picture.palette is not None or pixels.ndim == 2:
        return len(np.unique(pixels)) <= _MOST_VALUES
    return len(np.unique(pixels.reshape(-1, pixels.shape[2]), axis=0)) <= _MOST_VALUES
