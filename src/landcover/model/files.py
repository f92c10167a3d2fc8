"""Read model files: tensors and metadata of safetensors, metadata of ONNX.

Pickled files can run code when they are read; they are recognised and refused.

ONNX metadata is read without the onnx package or a runtime: importing OpenVINO takes a second, too long for
``landcover info``. An ONNX file is one protobuf message: fields, each a tag (number and kind) and a value.
Other fields are skipped by their length, so no weight is read. See
https://protobuf.dev/programming-guides/encoding/ and onnx.proto of https://github.com/onnx/onnx.
"""

import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from landcover.errors import ModelError

Tensors = dict[str, npt.NDArray[Any]]

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_GRAPH, _METADATA = 7, 14  # fields of a ModelProto

# Where tensors can be: message, number of a field, message in that field.
_NESTED = {
    "model": {7: "graph", 25: "function"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
}
_EXTERNAL_DATA = 13  # of a TensorProto: the other file that contains its values
_OPERATOR = 4  # of a NodeProto
_MAX_DEPTH = 100  # as in protobuf's own readers
_MAX_FIELDS = 200_000  # of the whole file but tensors; the bundled networks have up to 24,000
_MAX_TEXT_BYTES = 1 << 24


def read_tensors(path: Path) -> Tensors:
    """Return the tensors of a safetensors file by name."""
    with _open_tensors(path) as handle:
        try:
            return {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118 - not a mapping
        except (SafetensorError, TypeError, AttributeError) as error:
            raise ModelError(
                f"{path} contains tensors that cannot be read ({error}). Store them as float32."
            ) from error


def read_tensor_metadata(path: Path) -> dict[str, str]:
    """Return the texts in the header of a safetensors file; the tensors are not read."""
    with _open_tensors(path) as handle:
        return dict(handle.metadata() or {})


def _open_tensors(path: Path) -> Any:
    if not path.is_file():
        raise ModelError(f"There is no file {path}.")
    try:
        with path.open("rb") as file:
            start = file.read(9)
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}.") from error
    header = int.from_bytes(start[:8], "little")
    if start[8:] == b"{" and header > _MAX_TEXT_BYTES:
        raise ModelError(f"{path} has a header of {header:,} bytes; at most {_MAX_TEXT_BYTES:,} are read.")
    try:
        return safe_open(str(path), framework="numpy")
    except (SafetensorError, OSError) as error:
        size = path.stat().st_size
        reason = f"is not a model file: it has {size} bytes and is not in the safetensors format."
        if start[:4] == b"PK\x03\x04" or (start[:1] == b"\x80" and start[1:2] in b"\x02\x03\x04\x05"):
            reason = (
                "is a pickled checkpoint (.pth, .pt, .ckpt), which can run code when read and is never "
                "loaded. If you trust its source, convert it to safetensors in Python: "
                "safetensors.torch.save_file(torch.load(FILE, weights_only=True), OUTPUT)."
            )
        elif start[8:] == b"{":
            reason = (
                f"is cut short or damaged: it has {size} bytes, {header} of them for its header. Copy it "
                "again."
            )
        raise ModelError(f"{path} {reason}") from error


class _MalformedError(Exception):
    """The bytes are not a protobuf message; the text is the reason."""


class _Field(NamedTuple):
    """One field: its number, and the start and end of its bytes; 0 unless it is a text or message."""

    number: int
    start: int
    end: int


def read_onnx_metadata(path: Path) -> dict[str, str]:
    """Return the entries of ``metadata_props`` of an ONNX file; of two with the same name the last.

    Weights stay on the disk. A file that was cut between two fields is a valid, shorter one; as the entries
    follow the graph, it has lost at least the last of them.
    """
    metadata, has_graph, refusal = {}, False, ""
    size = 0
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            if size == 0:
                raise ModelError(f"{path} is not an ONNX file: it is empty.")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                budget = iter(range(_MAX_FIELDS))
                for field in _fields(content, 0, size, budget):
                    has_graph |= field.number == _GRAPH
                    if field.number == _METADATA:
                        entry = {1: "", 2: ""}  # key and value
                        for part in _fields(content, field.start, field.end, budget):
                            if part.end - part.start > _MAX_TEXT_BYTES:
                                raise _MalformedError(f"a text of {part.end - part.start:,} bytes")
                            if part.number in entry:
                                entry[part.number] = content[part.start : part.end].decode("utf-8")
                        metadata[entry[1]] = entry[2]
                refusal = _refusal(content, "model", 0, size, budget) if has_graph else ""
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}.") from error
    except (_MalformedError, UnicodeDecodeError) as error:
        raise ModelError(
            f"{path} is cut short, damaged or not an ONNX file: {error}; it has {size} bytes. Copy or export "
            "it again."
        ) from error
    if not has_graph:
        raise ModelError(f"{path} is cut short or not an ONNX file: its {size} bytes contain no graph.")
    if refusal:
        raise ModelError(f"{path} {refusal}")
    return metadata


def _fields(content: mmap.mmap, start: int, end: int, budget: Iterator[int]) -> Iterator[_Field]:
    """Yield the fields of the message in ``content[start:end]``; each takes one of the budget."""
    while start < end:
        if next(budget, None) is None:
            raise _MalformedError(f"it has more than {_MAX_FIELDS:,} fields")
        tag, start = _varint(content, start, end)
        number, kind = tag >> 3, tag & 7
        if number == 0:
            raise _MalformedError(f"field number 0 at byte {start}")
        begin = stop = 0
        if kind == _VARINT:
            _, start = _varint(content, start, end)
        elif kind == _BYTES:
            length, begin = _varint(content, start, end)
            start = stop = begin + length
        elif kind in (_FIXED64, _FIXED32):
            start += 8 if kind == _FIXED64 else 4
        else:
            raise _MalformedError(f"unknown kind {kind} of a field at byte {start}")
        if start > end:
            raise _MalformedError(f"field {number} ends {start - end} bytes after the end")
        yield _Field(number, begin, stop)


def _varint(content: mmap.mmap, start: int, end: int) -> tuple[int, int]:
    """Return the number at ``start`` and its end: seven bits a byte, the lowest first."""
    number = 0
    for index, position in enumerate(range(start, min(start + 10, end))):
        byte = content[position]
        number |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return number, position + 1
    raise _MalformedError(f"the number at byte {start} does not end")


def _refusal(
    content: mmap.mmap, message: str, start: int, end: int, budget: Iterator[int], depth: int = 0
) -> str:
    """Return why a message is refused: it has a loop, or a tensor with its values in another file."""
    if depth > _MAX_DEPTH:
        raise _MalformedError(f"its graphs are nested more than {_MAX_DEPTH} deep")
    nested = _NESTED.get(message, {})
    for field in _fields(content, start, end, budget):
        if message == "tensor" and field.number == _EXTERNAL_DATA:
            return (
                "has weights in other files (ONNX external data), which could be lost or replaced. "
                "Expected a single file; export the model again without external data."
            )
        if message == "node" and field.number == _OPERATOR and content[field.start : field.end] == b"Loop":
            return "has a loop, which may never end. Export the model again with landcover export."
        if field.number in nested and (
            reason := _refusal(content, nested[field.number], field.start, field.end, budget, depth + 1)
        ):
            return reason
    return ""
