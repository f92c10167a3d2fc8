"""The digest by which a model's card tells what data it was trained on."""

import hashlib
from collections.abc import Iterable, Sequence
from typing import NamedTuple


class Counted(NamedTuple):
    """An item of the training part: its key, its size, and its pixels by class in the model's order."""

    key: str
    height: int
    width: int
    pixels: Sequence[int]


def material_digest(training: Iterable[Counted], validation: Iterable[str]) -> str:
    """Return the SHA-256 of what a model was made of, as hexadecimal digits: ``data_digest`` on its card.

    Args:
        training: Items of the training part, sorted by key.
        validation: Keys of the validation part, sorted.
    """
    digest = hashlib.sha256()
    for item in training:
        digest.update(f"{item.key} {item.height} {item.width} {list(item.pixels)}\n".encode())
    digest.update("\n".join(validation).encode())
    return digest.hexdigest()
