"""Read the metadata of an ONNX file without the onnx package or a runtime.

An ONNX file is one protobuf message: a sequence of fields, each a tag (number and kind) and a value. Other
fields are skipped by their length, so that no weight is read. Importing OpenVINO instead takes a second,
which ``landcover info`` should not cost. Reference:
https://protobuf.dev/programming-guides/encoding/ and onnx.proto of https://github.com/onnx/onnx.
"""

import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from landcover.errors import ModelError

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
    "tensor": {},
}
_EXTERNAL_DATA = 13  # of a TensorProto: the other file that contains its values
_MAX_DEPTH = 100  # as in protobuf's own readers


class _MalformedError(Exception):
    """The bytes are not a protobuf message; the text is the reason."""


class _Field(NamedTuple):
    """One field: its number, and the start and end of its bytes; 0 unless it is a text or message."""

    number: int
    start: int
    end: int


def read_metadata(path: Path) -> dict[str, str]:
    """Return the entries of ``metadata_props``; of two with the same name the last.

    The file is memory-mapped, so that weights stay on the disk. A file that was cut between two fields is a
    valid, shorter one; as the entries are after the graph, it has lost at least the last of them.

    Raises:
        ModelError: If there is no such file, it is cut short or not an ONNX file, or its weights are in other
            files.
    """
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            if size == 0:
                raise ModelError(f"{path} is not an ONNX file: it is empty.")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                return _scan(content, path)
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}.") from error


def _scan(content: mmap.mmap, path: Path) -> dict[str, str]:
    metadata = {}
    found_graph = False
    try:
        for field in _fields(content, 0, len(content)):
            found_graph |= field.number == _GRAPH
            if field.number == _METADATA:
                name, value = _entry(content, field)
                metadata[name] = value
        external = found_graph and _has_external_data(content, "model", 0, len(content), 0)
    except _MalformedError as error:
        raise ModelError(
            f"{path} is cut short, damaged or not an ONNX file: {error}; it has {len(content)} bytes. Copy "
            "or export it again."
        ) from error
    if not found_graph:
        raise ModelError(
            f"{path} is cut short or not an ONNX file: its {len(content)} bytes contain no graph."
        )
    if external:
        raise ModelError(
            f"{path} has weights in other files (ONNX external data), which could be lost or replaced. "
            "Expected a single file; export the model again without external data."
        )
    return metadata


def _fields(content: mmap.mmap, start: int, end: int) -> Iterator[_Field]:
    """Yield the fields of the message in ``content[start:end]``."""
    while start < end:
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
        elif kind == _FIXED64:
            start += 8
        elif kind == _FIXED32:
            start += 4
        else:
            raise _MalformedError(f"unknown kind {kind} of a field at byte {start}")
        if start > end:
            raise _MalformedError(f"field {number} ends {start - end} bytes behind the end")
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


def _entry(content: mmap.mmap, field: _Field) -> tuple[str, str]:
    """Return key and value of a StringStringEntryProto."""
    texts = {1: "", 2: ""}
    for part in _fields(content, field.start, field.end):
        if part.number in texts:
            try:
                texts[part.number] = content[part.start : part.end].decode("utf-8")
            except UnicodeDecodeError:
                raise _MalformedError(f"the text at byte {part.start} is not UTF-8") from None
    return texts[1], texts[2]


def _has_external_data(content: mmap.mmap, message: str, start: int, end: int, depth: int) -> bool:
    """Return whether a tensor anywhere in a message has its values in another file."""
    if depth > _MAX_DEPTH:
        raise _MalformedError(f"its graphs are nested more than {_MAX_DEPTH} deep")
    if message == "tensor":
        return any(field.number == _EXTERNAL_DATA for field in _fields(content, start, end))
    nested = _NESTED[message]
    return any(
        _has_external_data(content, nested[field.number], field.start, field.end, depth + 1)
        for field in _fields(content, start, end)
        if field.number in nested
    )
