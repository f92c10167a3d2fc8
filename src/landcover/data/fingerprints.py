"""Fingerprints of images: was this image used for training?

A fingerprint is the first 8 bytes of a SHA-256. Each image has two: of its file, and of its pixels as
:func:`landcover.io.read_image` decodes them (other JPEG decoders may differ by a few grey values). Two images
are identical if one of their fingerprints is; by chance, one image in 10^15 for 10,000 training images.

Resized, cropped or recompressed images have other fingerprints. "No identical image" is therefore weaker than
"no overlap", for which the scenes of all images must be known and differ.
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
    from landcover.data.layouts import Item


class Fingerprint(NamedTuple):
    """The fingerprints of one image, 8 bytes each; ``file`` is None if the file is not known."""

    file: bytes | None
    pixels: bytes


def hash_file(path: Path) -> bytes:
    """Return the fingerprint of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()[:FINGERPRINT_BYTES]


def hash_pixels(image: UInt8Array) -> bytes:
    """Return the fingerprint of decoded pixels, uint8 (H, W, C)."""
    digest = hashlib.sha256("x".join(map(str, image.shape)).encode())
    digest.update(np.ascontiguousarray(image).data)
    return digest.digest()[:FINGERPRINT_BYTES]


def fingerprints(dataset: "Dataset", items: Sequence["Item"]) -> list[Fingerprint]:
    """Return the fingerprints of items, in order: those of a cache, else of the decoded files."""
    return list(parallel_map(dataset.fingerprint, items))


def image_set(dataset: "Dataset", items: Sequence["Item"]) -> ImageSet:
    """Return the fingerprints and scenes of items, as a model card stores them."""
    prints = fingerprints(dataset, items)
    result = ImageSet(
        files=frozenset(found.file for found in prints if found.file is not None),
        pixels=frozenset(found.pixels for found in prints),
    )
    for source, own in dataset.by_source(items):
        places = (source.scenes or {}) if source.scene_table is not None else {}
        scenes = sorted({places[item.key].scene for item in own if item.key in places})
        result |= ImageSet(
            scenes={str(source.scene_table): tuple(scenes)} if scenes else {},
            unplaced=sum(item.key not in places for item in own),
        )
    return result


def identical_items(dataset: "Dataset", items: Sequence["Item"], recorded: ImageSet | None) -> list["Item"]:
    """Return the items that are identical to an image recorded in a model card; without one none is read."""
    if recorded is None:
        return []
    return [
        item
        for item, found in zip(items, fingerprints(dataset, items), strict=True)
        if found.pixels in recorded.pixels or found.file in recorded.files
    ]
