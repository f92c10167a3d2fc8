"""Fingerprints of images: was this image used for training?

A fingerprint is the first 8 bytes of a SHA-256. Each image has two: of its file's bytes, and of its pixels.
Pixels are decoded by :func:`landcover.io.read_image`, which for JPEG is simplejpeg (libjpeg-turbo, accurate
DCT, smooth chroma upsampling). Other JPEG decoders may differ by a few grey values and so give other
fingerprints; the file's fingerprint does not depend on a decoder. Two images are identical if one of their
fingerprints is. By chance that happens to one image in 10^15 when a model was trained on 10,000.

An image that was resized, cropped or recompressed has other fingerprints. "No identical image" is therefore a
weaker statement than "no overlap", for which the scenes of all images must be known and differ.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from landcover._typing import UInt8Array
from landcover.io.readahead import parallel_map
from landcover.model.card import FINGERPRINT_BYTES, ImageSet

if TYPE_CHECKING:
    from landcover.data.dataset import Dataset
    from landcover.data.items import Item


class Fingerprint(NamedTuple):
    """The fingerprints of one image, 8 bytes each; ``file`` is None where the file is not known."""

    file: bytes | None
    pixels: bytes


def hash_file(path: Path) -> bytes:
    """Return the fingerprint of a file, which is read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()[:FINGERPRINT_BYTES]


def hash_pixels(image: UInt8Array) -> bytes:
    """Return the fingerprint of decoded pixels.

    Args:
        image: uint8 (H, W, 3), RGB.
    """
    digest = hashlib.sha256("x".join(map(str, image.shape)).encode())
    digest.update(np.ascontiguousarray(image).data)
    return digest.digest()[:FINGERPRINT_BYTES]


def hash_table(path: Path) -> str:
    """Return the digest of a scene table (``scenes.csv``): 16 hexadecimal digits.

    Scene ids such as "12" mean something only together with the table that defines them.
    """
    return hash_file(path).hex()


def fingerprints(dataset: "Dataset", items: Sequence["Item"]) -> list[Fingerprint]:
    """Return the fingerprints of items, in their order.

    Args:
        dataset: The data. A prepared cache stores the fingerprints; a folder's files are read and decoded.
        items: Items of the data.

    Raises:
        DataError: If an image cannot be read.
    """
    return list(parallel_map(dataset.fingerprint, items))


def image_set(dataset: "Dataset", items: Sequence["Item"]) -> ImageSet:
    """Return the fingerprints and scenes of items, as a model's card stores them.

    Args:
        dataset: The data.
        items: Items of the data.

    Raises:
        DataError: If an image cannot be read.
    """
    prints = fingerprints(dataset, items)
    places = (dataset.scenes or {}) if dataset.scene_table is not None else {}
    scenes = sorted({places[item.key].scene for item in items if item.key in places})
    return ImageSet(
        files=frozenset(found.file for found in prints if found.file is not None),
        pixels=frozenset(found.pixels for found in prints),
        scenes={str(dataset.scene_table): tuple(scenes)} if scenes else {},
        unplaced=sum(item.key not in places for item in items),
    )


def identical_items(
    items: Sequence["Item"], prints: Sequence[Fingerprint], recorded: ImageSet | None
) -> list["Item"]:
    """Return the items that are identical to a recorded image, in their order.

    Args:
        items: The items.
        prints: Their fingerprints.
        recorded: Fingerprints from a model's card; None: nothing was recorded.
    """
    if recorded is None:
        return []
    return [
        item
        for item, found in zip(items, prints, strict=True)
        if found.pixels in recorded.pixels or found.file in recorded.files
    ]
