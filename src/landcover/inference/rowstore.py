"""Rows of a map between the network and the file: appended from the top, read anywhere, kept for resuming."""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np

from landcover.errors import DataError, OutputError
from landcover.io.files import WorkFolder, work_folder, writing
from landcover.legend import UInt8Array
from landcover.ood import NOTHING, Look
from landcover.windows import Window

_STATE = "state.json"
_STRIP_VALUES = 1 << 24


class RowStore:
    """An array of rows, uint8, that grows from the top; in memory, or in a file without being mapped.

    Args:
        height: Rows in the end.
        row_shape: Shape of a row, such as ``(width,)``.
        folder: Folder of the file; None keeps the rows in memory.
        name: Name of the file.
        rows: Rows that the file holds already; what stands behind them is overwritten.

    Raises:
        OutputError: If the file cannot be opened or does not hold that many rows.
    """

    def __init__(
        self,
        height: int,
        row_shape: tuple[int, ...],
        folder: WorkFolder | None = None,
        name: str = "",
        rows: int = 0,
    ) -> None:
        self.height, self.row_shape, self.rows = height, row_shape, rows
        self._path = None if folder is None else folder.path / name
        self._row_bytes = int(np.prod(row_shape))
        self._array = np.empty((height, *row_shape) if folder is None else 0, np.uint8)
        self._file: BinaryIO | None = None
        if folder is not None:
            try:
                self._file = folder.open(name) if rows else folder.create(name)
                size = os.fstat(self._file.fileno()).st_size
            except FileNotFoundError:
                size = 0
            if self._file is None or size < rows * self._row_bytes:
                self.close()
                raise OutputError(
                    f"{folder.path / name} has {size} bytes; expected at least {rows * self._row_bytes}. "
                    "Run again without --resume."
                )
            self._file.truncate(rows * self._row_bytes)

    def append(self, values: UInt8Array) -> None:
        """Add rows at the bottom: uint8 (n, *row_shape), which belong to the store from now on.

        Raises:
            OutputError: If there is no space.
        """
        if self._file is None and len(values) == self.height:
            self._array = values  # all at once: there is nothing to gather
        elif self._file is None:
            self._array[self.rows : self.rows + len(values)] = values
        elif self._path is not None:
            with writing(self._path):
                self._file.seek(self.rows * self._row_bytes)
                self._file.write(np.ascontiguousarray(values).data)
        self.rows += len(values)

    def read(self, start: int, stop: int) -> UInt8Array:
        """Return rows ``start`` to ``stop``: uint8 (n, *row_shape)."""
        if self._file is None:
            return self._array[start:stop]
        self._file.seek(start * self._row_bytes)
        content = self._file.read((stop - start) * self._row_bytes)
        return np.frombuffer(content, np.uint8).reshape(stop - start, *self.row_shape)

    def strips(self) -> Iterator[UInt8Array]:
        """Yield all rows from the top, in strips of about 16 MB."""
        step = max(1, _STRIP_VALUES // self._row_bytes)
        for start in range(0, self.rows, step):
            yield self.read(start, min(start + step, self.rows))

    def flush(self) -> None:
        """See that what was appended survives the process and the machine."""
        if self._file is not None and self._path is not None:
            with writing(self._path):
                self._file.flush()
                os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file; it stays."""
        if self._file is not None:
            with suppress(OSError):  # what is committed was flushed; the rest finds no space again
                self._file.close()


@dataclass(frozen=True, slots=True)
class Told:
    """What was found out about a scene while reading it.

    Attributes:
        damaged: Windows that cannot be read.
        notes: What else should be known.
        look: How it compares with what the model learned from.
    """

    damaged: list[Window] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    look: Look = NOTHING

    def joined(self, other: "Told") -> "Told":
        """Return both together, each thing once: the larger of windows that overlap, and the sum of looks."""
        windows = sorted({*self.damaged, *other.damaged}, key=lambda w: -w.height * w.width)
        kept: list[Window] = []
        for window in windows:
            if not any(_overlap(window, larger) for larger in kept):
                kept.append(window)
        notes = list(dict.fromkeys([*self.notes, *other.notes]))
        return Told(sorted(kept), notes, self.look + other.look)


def _overlap(one: Window, other: Window) -> bool:
    return (
        one.row < other.row + other.height
        and other.row < one.row + one.height
        and one.col < other.col + other.width
        and other.col < one.col + one.width
    )


class Workplace:
    """The stores of one scene: in memory, or in a hidden folder from where work can be resumed.

    The folder is this process's own. Used as a context: the folder is deleted when the block ends, unless it
    ends by an interrupt or, when rows are there, by an error about a file that may be mended (no answer, no
    space).

    Attributes:
        rows: Rows that the stores hold.
        told: What was found out about them.

    Args:
        path: The map that is made.
        on_disk: Keep the rows in the map's work folder; else everything is in memory.
        work: What the rows depend on; work of another description is not resumed.
        resume: Take up what is there.

    Raises:
        OutputError: If there is work of another description, another process is at the same map, or the
            folder cannot be written.
    """

    def __init__(self, path: Path, work: dict[str, object], *, on_disk: bool, resume: bool) -> None:
        self._folder: WorkFolder | None = None
        self._work = work
        self._stores: list[RowStore] = []
        self.rows, self.told = 0, Told()
        self._claim = ExitStack()
        if not on_disk:
            return
        with ExitStack() as claim:
            self._folder = claim.enter_context(work_folder(path))
            found = _read_state(self._folder) if resume else None
            if found is None:
                self._folder.clear()
            elif found[0] != work:
                raise OutputError(
                    f"{self._folder.path} holds work of another model, scene or setting. Run again without "
                    "--resume."
                )
            else:
                _, self.rows, self.told = found
            self._claim = claim.pop_all()

    def store(self, name: str, height: int, row_shape: tuple[int, ...]) -> RowStore:
        """Return the store of that name, with the rows that are there already."""
        store = RowStore(height, row_shape, self._folder, f"{name}.raw", self.rows)
        self._stores.append(store)
        return store

    def commit(self, rows: int, told: Told) -> None:
        """Note that all stores hold that many rows, and what this process has found out about them."""
        self.rows = rows
        if self._folder is not None:
            for store in self._stores:
                store.flush()
            all_told = asdict(self.told.joined(told))
            state = json.dumps({"work": self._work, "rows": rows, **all_told})
            self._folder.write(_STATE, state.encode())

    def __enter__(self) -> "Workplace":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._claim:
            self._leave(kind)

    def _leave(self, kind: type[BaseException] | None) -> None:
        for store in self._stores:
            store.close()
        if self._folder is None:
            return
        interrupted = kind is not None and not issubclass(kind, Exception)
        mendable = kind is not None and issubclass(kind, DataError | OutputError)
        if interrupted or (mendable and self.rows):
            print(
                f"{self.rows} rows are kept in {self._folder.path}. Run the same command with --resume to "
                "continue.",
                file=sys.stderr,
            )
        else:
            self._folder.delete()


def _read_state(folder: WorkFolder) -> tuple[object, int, Told] | None:
    """Return description, number of rows and what was told of the work in a folder; None if there is none."""
    try:
        with folder.open(_STATE) as file:
            state = json.load(file)
        look = Look(**{**state["look"], "scores": tuple(state["look"]["scores"])})
        told = Told([Window(*window) for window in state["damaged"]], list(state["notes"]), look)
        return state["work"], int(state["rows"]), told
    except (OSError, ValueError, KeyError, TypeError):
        return None
