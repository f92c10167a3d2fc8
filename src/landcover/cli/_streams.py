"""Standard streams whose end does not end the work: a closed pipe, a full disk, or never open."""

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any


class _Output(io.FileIO):
    """A standard stream that drops what can no longer be written, and remembers why."""

    def __init__(self, descriptor: int, *, absent: bool) -> None:
        super().__init__(descriptor, "wb", closefd=False)
        self.absent = absent
        self.lost: str | None = None

    def write(self, data: Any, /) -> int:
        if self.absent:
            self.lost = "it is closed"
        else:
            try:
                return super().write(data)
            except OSError as error:
                self.lost = error.strerror
        return len(data)


@contextmanager
def lasting_streams() -> Iterator[list[str]]:
    """Replace standard output and standard error until the block ends.

    Standard descriptors that are closed are opened on the null device. Otherwise the next file that is
    opened would get such a number, and with it what libraries print. The list that is yielded has a sentence
    for each stream that lost text, once the block has ended.
    """
    lost: list[str] = []
    replaced: list[tuple[str, Any, _Output]] = []
    if sys.stdin is None and sys.__stdin__ is None:
        os.open(os.devnull, os.O_RDONLY)
    for number, name in enumerate(("stdout", "stderr"), 1):
        stream = getattr(sys, name)
        if stream is not getattr(sys, f"__{name}__"):  # of a test or a notebook
            continue
        absent = stream is None
        output = _Output(os.open(os.devnull, os.O_WRONLY) if absent else number, absent=absent)
        text = io.TextIOWrapper(
            io.BufferedWriter(output),
            encoding="utf-8" if absent else stream.encoding,
            errors="replace" if number == 1 else "backslashreplace",  # a terminal may lack ±
            line_buffering=number == 2 or output.isatty(),
        )
        replaced.append((name, stream, output))
        setattr(sys, name, text)
    try:
        yield lost
    finally:
        for name, stream, output in replaced:
            with suppress(ValueError):  # closed by somebody
                getattr(sys, name).flush()
            setattr(sys, name, stream)
            if output.lost is not None:
                lost.append(f"What was written to {name} is incomplete: {output.lost}.")
