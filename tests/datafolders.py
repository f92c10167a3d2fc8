"""Miniature data folders in every layout of the wild, with known content.

``write_folder(root, "glnet")`` makes one; ``MINIATURES["glnet"]`` says what is in it. The pixels of an item
follow from its key: ``image_of(key)`` (up to JPEG loss) and ``truth_of(key)``, DeepGlobe class indices.
"""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from landcover.legend import DEEPGLOBE

SIZE = (24, 32)
"""Height and width of the images, unless a test asks for others."""

MaskKind = Literal["rgb", "index", "unknown-first"]


def image_of(key: str, size: tuple[int, int] = SIZE) -> NDArray[np.uint8]:
    """Make the image of an item: smooth, so that JPEG keeps it, and different for every key."""
    rng = np.random.default_rng(zlib.crc32(key.encode()))
    coarse = Image.fromarray(rng.integers(0, 256, (4, 4, 3), np.uint8))
    return np.asarray(coarse.resize(size[::-1], Image.Resampling.BILINEAR))


def truth_of(key: str, size: tuple[int, int] = SIZE) -> NDArray[np.uint8]:
    """Make the class indices of an item: blocks of 4 pixels of all seven classes."""
    rng = np.random.default_rng(zlib.crc32(key.encode()) + 1)
    blocks = rng.integers(0, 7, (-(-size[0] // 4), -(-size[1] // 4)), np.uint8)
    return np.kron(blocks, np.ones((4, 4), np.uint8))[: size[0], : size[1]]


def write_image(path: Path, image: NDArray[np.uint8]) -> None:
    """Write an image in the format of its suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, **({"quality": 95} if path.suffix == ".jpg" else {}))


def write_mask(path: Path, index: NDArray[np.uint8], kind: MaskKind = "rgb") -> None:
    """Write a mask as colours, as indices, or as indices with 0 = unknown, 1 = urban ... 6 = barren."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"rgb": DEEPGLOBE.colours[index], "index": index, "unknown-first": (index + 1) % 7}[kind]
    Image.fromarray(content.astype(np.uint8)).save(path)


@dataclass(frozen=True)
class Miniature:
    """Content of a folder.

    Attributes:
        layout: Name of the layout that should be found.
        images: Path of each image, by key.
        masks: Path of each mask, by key.
        parts: Part of each key; a key that is not named has none.
        kind: How the masks are written.
        texts: Further files.
    """

    layout: str
    images: Mapping[str, str]
    masks: Mapping[str, str] = field(default_factory=dict)
    parts: Mapping[str, str] = field(default_factory=dict)
    kind: MaskKind = "rgb"
    texts: Mapping[str, str] = field(default_factory=dict)


def write_folder(root: Path, name: str, *, size: tuple[int, int] = SIZE) -> Miniature:
    """Make the miniature ``name`` in ``root``."""
    miniature = MINIATURES[name]
    for key, path in miniature.images.items():
        write_image(root / path, image_of(key, size))
    for key, path in miniature.masks.items():
        write_mask(root / path, truth_of(key, size), miniature.kind)
    for path, text in miniature.texts.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text, encoding="utf-8")
    return miniature


def _mini(
    layout: str,
    image: str,
    mask: str,
    folders: Mapping[str, tuple[str | None, tuple[str, ...]]],
    *,
    unlabelled: tuple[str, ...] = (),
    **other: Any,
) -> Miniature:
    """Fill the templates of paths with each folder and its ids; ``folders`` gives part and ids."""
    images, masks, parts = {}, {}, {}
    for folder, (part, ids) in folders.items():
        for name in ids:
            path = image.format(folder, name)
            key = path.rpartition(".")[0].removesuffix("_sat")
            images[key] = path
            if folder not in unlabelled:
                masks[key] = mask.format(folder, name)
            if part:
                parts[key] = part
    return Miniature(layout, images, masks, **{"parts": parts, **other})


_IDS = ("119", "2334", "855")
_BESIDE = ("{}/{}_sat.jpg", "{}/{}_mask.png")
_TOWN = ("field", "town")
_RESTARTING = ("0000", "0001", "0002", "0003")

MINIATURES: dict[str, Miniature] = {
    "challenge": _mini(
        "challenge",
        *_BESIDE,
        {"land-train": ("train", _IDS), "land-valid": ("valid", _IDS)},
        unlabelled=("land-valid",),
    ),
    "challenge-doubled": _mini("challenge", *_BESIDE, {"land-train/land-train": ("train", _IDS)}),
    "challenge-underscore": _mini("challenge", *_BESIDE, {"land_train": ("train", _IDS)}),
    "kaggle": _mini(
        "kaggle",
        *_BESIDE,
        {"train": ("train", ("119", "855")), "valid": ("valid", ("77",)), "test": ("test", ("3",))},
        unlabelled=("valid", "test"),
        texts={
            # As in the mirror: outside train the last field is empty.
            "metadata.csv": "image_id,split,sat_image_path,mask_path\n"
            "119,train,train/119_sat.jpg,train/119_mask.png\n"
            "855,train,train/855_sat.jpg,train/855_mask.png\n"
            "77,valid,valid/77_sat.jpg,\n3,test,test/3_sat.jpg,\n",
            "class_dict.csv": "name,r,g,b\nurban_land,0,255,255\nunknown,0,0,0\n",
        },
    ),
    "torchgeo": _mini(
        "torchgeo",
        "data/{}_data/images/{}_sat.jpg",
        "data/{}_data/masks/{}_mask.png",
        {"training": ("train", _IDS), "test": ("test", _IDS)},
    ),
    "glnet": _mini(
        "glnet",
        "{}/Sat/{}_sat.jpg",
        "{}/Label/{}_mask.png",
        {
            "train": ("train", ("119", "855")),
            "crossvali": ("val", ("77",)),
            "offical_crossvali": ("offical_crossvali", ("3",)),
        },
        unlabelled=("offical_crossvali",),
    ),
    "magnet": _mini(
        "magnet",
        *_BESIDE,
        {"land-train": (None, _IDS)},
        parts={"land-train/119": "train", "land-train/2334": "train", "land-train/855": "val"},
        texts={  # No newline at the end of a list.
            "list/deepglobe/train.txt": "land-train/119_sat.jpg\tland-train/119_mask.png\n"
            "land-train/2334_sat.jpg\tland-train/2334_mask.png",
            "list/deepglobe/val.txt": "land-train/855_sat.jpg\tland-train/855_mask.png",
        },
    ),
    "mmsegmentation": _mini(
        "mmsegmentation",
        "img_dir/{}/{}_sat.jpg",
        "rgb2id/{}/{}_mask.png",
        {"train": ("train", ("119",)), "val": ("val", ("855",)), "test": ("test", ("77",))},
        kind="unknown-first",
    ),
    "davidfm43": _mini("davidfm43", _BESIDE[0], "raw_masks/{1}_mask.png", {"images": (None, _IDS)}),
    "seed": _mini(
        "seed",
        _BESIDE[0],
        "dataset/onechannel_label/{1}_label.png",
        {"dataset/land_train": ("train", _IDS)},
        kind="index",
    ),
    "pairs": _mini("pairs", "{1}_sat.png", "{1}_mask.png", {"": (None, _TOWN)}),
    "folders": _mini("folders", "{}/images/{}.tif", "{}/masks/{}.tif", {"val": ("val", _TOWN)}),
    "folders-nested-parts": _mini(
        "folders",
        "images/{}/{}.jpg",
        "labels/{}/{}.png",
        {"train": ("train", ("a",)), "test": ("test", ("a",))},
    ),
    "stems": _mini("stems", "{1}.jpg", "{1}.png", {"": (None, _TOWN)}),
    # Names of the tile set, but not its size: ids restart, scale unknown.
    "restarting": _mini("pairs", *_BESIDE, {part: (part, _RESTARTING) for part in ("train", "validation")}),
}


@cache
def mosaic(seed: int, height: int, width: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Make a large image with its class indices: value noise over several octaves, classes by its level."""
    rng = np.random.default_rng(seed)
    ground = np.zeros((height, width, 3), np.float32)
    for step in (64, 32, 16, 8, 4):
        coarse = rng.normal(0, step**0.5, (height // step + 2, width // step + 2, 3)).astype(np.float32)
        for channel in range(3):
            layer = Image.fromarray(coarse[..., channel]).resize((width, height), Image.Resampling.BICUBIC)
            ground[..., channel] += np.asarray(layer)
    level = ground[..., 0]
    index = np.searchsorted(np.quantile(level, [0.3, 0.5, 0.7, 0.85]), level).astype(np.uint8)
    scaled = (ground - ground.min()) / (ground.max() - ground.min()) * 255
    return scaled.astype(np.uint8), index
