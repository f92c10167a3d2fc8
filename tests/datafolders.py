"""Miniature data folders in every layout of the wild, with known content.

``write_folder(root, "glnet")`` makes one; ``MINIATURES["glnet"]`` says what is in it. The pixels of an item
follow from its key: ``image_of(key)`` (up to JPEG loss) and ``truth_of(key)``, DeepGlobe class indices.
"""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Literal

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


def _flat(layout: str, folders: Mapping[str, str | None], labelled: str, ids: tuple[str, ...]) -> Miniature:
    """Put ``ID_sat.jpg`` into each folder, with ``ID_mask.png`` beside it in the folder ``labelled``."""
    keys = {f"{folder}/{name}": part for folder, part in folders.items() for name in ids}
    return Miniature(
        layout,
        images={key: f"{key}_sat.jpg" for key in keys},
        masks={key: f"{key}_mask.png" for key in keys if key.startswith(labelled)},
        parts={key: part for key, part in keys.items() if part},
    )


_IDS = ("119", "2334", "855")
_KAGGLE = Miniature(
    "kaggle",
    images={
        f"{part}/{name}": f"{part}/{name}_sat.jpg"
        for part, name in (("train", "119"), ("train", "855"), ("valid", "77"), ("test", "3"))
    },
    masks={f"train/{name}": f"train/{name}_mask.png" for name in ("119", "855")},
    parts={"train/119": "train", "train/855": "train", "valid/77": "valid", "test/3": "test"},
    texts={
        # As in the mirror: outside train the last field is empty.
        "metadata.csv": "image_id,split,sat_image_path,mask_path\n"
        "119,train,train/119_sat.jpg,train/119_mask.png\n855,train,train/855_sat.jpg,train/855_mask.png\n"
        "77,valid,valid/77_sat.jpg,\n3,test,test/3_sat.jpg,\n",
        "class_dict.csv": "name,r,g,b\nurban_land,0,255,255\nunknown,0,0,0\n",
    },
)

MINIATURES: dict[str, Miniature] = {
    "challenge": _flat("challenge", {"land-train": "train", "land-valid": "valid"}, "land-train", _IDS),
    "challenge-doubled": _flat("challenge", {"land-train/land-train": "train"}, "land-train", _IDS),
    "challenge-underscore": _flat("challenge", {"land_train": "train"}, "land_train", _IDS),
    "kaggle": _KAGGLE,
    "torchgeo": Miniature(
        "torchgeo",
        images={
            f"data/{part}_data/images/{n}": f"data/{part}_data/images/{n}_sat.jpg"
            for part in ("training", "test")
            for n in _IDS
        },
        masks={
            f"data/{part}_data/images/{n}": f"data/{part}_data/masks/{n}_mask.png"
            for part in ("training", "test")
            for n in _IDS
        },
        parts={
            f"data/{folder}_data/images/{n}": part
            for folder, part in (("training", "train"), ("test", "test"))
            for n in _IDS
        },
    ),
    "glnet": Miniature(
        "glnet",
        images={
            f"{part}/Sat/{n}": f"{part}/Sat/{n}_sat.jpg"
            for part, n in (
                ("train", "119"),
                ("train", "855"),
                ("crossvali", "77"),
                ("offical_crossvali", "3"),
            )
        },
        masks={
            "train/Sat/119": "train/Label/119_mask.png",
            "train/Sat/855": "train/Label/855_mask.png",
            "crossvali/Sat/77": "crossvali/Label/77_mask.png",
        },
        parts={
            "train/Sat/119": "train",
            "train/Sat/855": "train",
            "crossvali/Sat/77": "val",
            "offical_crossvali/Sat/3": "offical_crossvali",
        },
    ),
    "magnet": Miniature(
        "magnet",
        images={f"land-train/{n}": f"land-train/{n}_sat.jpg" for n in _IDS},
        masks={f"land-train/{n}": f"land-train/{n}_mask.png" for n in _IDS},
        parts={"land-train/119": "train", "land-train/2334": "train", "land-train/855": "val"},
        texts={  # No newline at the end of a list.
            "list/deepglobe/train.txt": "land-train/119_sat.jpg\tland-train/119_mask.png\n"
            "land-train/2334_sat.jpg\tland-train/2334_mask.png",
            "list/deepglobe/val.txt": "land-train/855_sat.jpg\tland-train/855_mask.png",
        },
    ),
    "mmsegmentation": Miniature(
        "mmsegmentation",
        images={
            f"img_dir/{part}/{n}": f"img_dir/{part}/{n}_sat.jpg"
            for part, n in (("train", "119"), ("val", "855"), ("test", "77"))
        },
        masks={
            f"img_dir/{part}/{n}": f"rgb2id/{part}/{n}_mask.png"
            for part, n in (("train", "119"), ("val", "855"), ("test", "77"))
        },
        parts={"img_dir/train/119": "train", "img_dir/val/855": "val", "img_dir/test/77": "test"},
        kind="unknown-first",
    ),
    "davidfm43": Miniature(
        "davidfm43",
        images={f"images/{n}": f"images/{n}_sat.jpg" for n in _IDS},
        masks={f"images/{n}": f"raw_masks/{n}_mask.png" for n in _IDS},
    ),
    "seed": Miniature(
        "seed",
        images={f"dataset/land_train/{n}": f"dataset/land_train/{n}_sat.jpg" for n in _IDS},
        masks={f"dataset/land_train/{n}": f"dataset/onechannel_label/{n}_label.png" for n in _IDS},
        parts={f"dataset/land_train/{n}": "train" for n in _IDS},
        kind="index",
    ),
    "pairs": Miniature(
        "pairs",
        images={n: f"{n}_sat.png" for n in ("field", "town")},
        masks={n: f"{n}_mask.png" for n in ("field", "town")},
    ),
    "folders": Miniature(
        "folders",
        images={f"val/images/{n}": f"val/images/{n}.tif" for n in ("field", "town")},
        masks={f"val/images/{n}": f"val/masks/{n}.tif" for n in ("field", "town")},
        parts={f"val/images/{n}": "val" for n in ("field", "town")},
    ),
    "folders-nested-parts": Miniature(
        "folders",
        images={f"images/{part}/a": f"images/{part}/a.jpg" for part in ("train", "test")},
        masks={f"images/{part}/a": f"labels/{part}/a.png" for part in ("train", "test")},
        parts={f"images/{part}/a": part for part in ("train", "test")},
    ),
    "stems": Miniature(
        "stems",
        images={n: f"{n}.jpg" for n in ("field", "town")},
        masks={n: f"{n}.png" for n in ("field", "town")},
    ),
    # Names of the tile set, but not its size: ids restart, scale unknown.
    "restarting": Miniature(
        "pairs",
        images={
            f"{part}/{n}": f"{part}/{n}_sat.jpg"
            for part in ("train", "validation")
            for n in ("0000", "0001", "0002", "0003")
        },
        masks={
            f"{part}/{n}": f"{part}/{n}_mask.png"
            for part in ("train", "validation")
            for n in ("0000", "0001", "0002", "0003")
        },
        parts={
            f"{part}/{n}": part for part in ("train", "validation") for n in ("0000", "0001", "0002", "0003")
        },
    ),
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
