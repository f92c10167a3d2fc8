"""Read tensors from safetensors files.

Pickled files can run code when they are read; they are recognised and refused.
"""

import struct
from pathlib import Path
from typing import Any

import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from landcover.errors import ModelError

Tensors = dict[str, npt.NDArray[Any]]


def read_tensors(path: Path) -> Tensors:
    """Return the tensors of a safetensors file by name.

    Raises:
        ModelError: If there is no such file, it is cut short, a pickle or not a safetensors file, or has
            values of a type that numpy does not have (bfloat16).
    """
    with open_tensors(path) as handle:
        try:
            return {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118 - not a mapping
        except (SafetensorError, TypeError, AttributeError) as error:
            raise ModelError(
                f"{path} contains tensors that cannot be read ({error}). Store them as float32."
            ) from error


def read_metadata(path: Path) -> dict[str, str]:
    """Return the texts in the header of a safetensors file; the tensors are not read.

    Raises:
        ModelError: If there is no such file, or it is cut short, a pickle or not a safetensors file.
    """
    with open_tensors(path) as handle:
        return dict(handle.metadata() or {})


def open_tensors(path: Path) -> Any:
    """Open a safetensors file, or raise :class:`ModelError` with the reason why it cannot be opened."""
    if not path.is_file():
        raise ModelError(f"There is no file {path}.")
    try:
        return safe_open(str(path), framework="numpy")
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} {_diagnosis(path)}") from error


def _diagnosis(path: Path) -> str:
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(9)
    except OSError as error:
        return f"cannot be read: {error.strerror}."
    if start[:4] == b"PK\x03\x04" or (start[:1] == b"\x80" and start[1:2] in b"\x02\x03\x04\x05"):
        return (
            "is a pickled checkpoint (.pth, .pt, .ckpt), which can run code when read and is never loaded. "
            "If you trust its source, convert it to safetensors in Python: "
            "safetensors.torch.save_file(torch.load(FILE, weights_only=True), OUTPUT)."
        )
    if start[8:] == b"{":
        (header,) = struct.unpack("<Q", start[:8])
        return (
            f"is cut short or damaged: it has {size} bytes, {header} of them for its header. Copy it again."
        )
    return f"is not a model file: it has {size} bytes and is not in the safetensors format."
