"""Read a picture file as it is: format by content, size before pixels, every problem as one kind of error."""

import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from landcover.errors import DataError
from landcover.io.formats import FORMATS, Format, Picture, RefusedError

T = TypeVar("T")


def read_size(path: Path, error: type[DataError]) -> tuple[int, int]:
    """Return (height, width) from the header of a picture; problems are raised as ``error``."""
    return _guarded(path, error, lambda file_format: file_format.size(path))


def read_picture(path: Path, error: type[DataError], *, max_pixels: int) -> Picture:
    """Decode a picture of at most ``max_pixels``; problems are raised as ``error``."""

    def read(file_format: Format) -> Picture:
        height, width = file_format.size(path)
        if height * width > max_pixels:
            raise RefusedError(
                f"has {height} x {width} = {height * width:,} pixels; at most {max_pixels:,} are decoded. "
                f"If the file is what you expect, pass --max-pixels {height * width}; train takes it "
                "from the cache that prepare makes."
            )
        return file_format.decode(path)

    return _guarded(path, error, read)


def _guarded(path: Path, error: type[DataError], read: Callable[[Format], T]) -> T:
    """Call ``read`` with the format of the file; what it or a library complains about becomes ``error``."""
    name = "a picture"
    try:
        file_format = _sniff(path)
        name = file_format.name
        return read(file_format)
    except RefusedError as refusal:
        raise error(f"{path} {refusal}") from None
    except (OSError, ValueError, SyntaxError, EOFError, struct.error, zlib.error) as problem:
        if isinstance(problem, OSError) and problem.errno is not None:
            raise error(f"{path} cannot be read: {problem.strerror}.") from problem
        reason = str(problem.__cause__ or problem).rstrip(".")
        raise error(
            f"{path} cannot be decoded as {name}: {reason}. It is damaged or cut short; fetch it again."
        ) from problem


def _sniff(path: Path) -> Format:
    if path.exists() and not path.is_file():
        raise RefusedError("is a device, a pipe or a folder. Delete it.")
    with path.open("rb") as file:
        head = file.read(16)
    if not head:
        raise RefusedError("is empty (0 bytes). Fetch it again.")
    for file_format in FORMATS:
        if head.startswith(file_format.magics):
            return file_format
    names = ", ".join(file_format.name for file_format in FORMATS)
    raise RefusedError(f"is none of {names}: it begins with {head[:8]!r}. Convert it to one of them.")
