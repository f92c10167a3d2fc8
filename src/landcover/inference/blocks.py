"""Row blocks of a scene: where finished rows are kept, and how work is resumed.

A row block is the unit of work. When its rows are in the row buffers, its log is written as a file of its
own; resuming computes the blocks without one. A log contains only what concerns the block's own rows, so the
assembled map is the same whichever process computed which block.
"""

import json
import logging
import math
import os
import re
import zlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from pydantic import TypeAdapter

from landcover._typing import UInt8Array
from landcover.errors import OutputError
from landcover.inference.engine import RowBlock
from landcover.inference.options import FURTHER_RASTERS
from landcover.inference.reading import Source
from landcover.io.files import WorkFolder, work_folder, writing
from landcover.legend import NODATA, Legend
from landcover.model.preprocessing import Size
from landcover.ood.profile import OodStats
from landcover.raster.writing import CONFIDENCE, PROBABILITIES
from landcover.windows import Window

_log = logging.getLogger(__name__)

_WORK = "work.json"
_RECORD = re.compile(r"block-(\d+)\.json")
_STRIP_VALUES = 1 << 24
_CHECKED_ROWS = 128


class RowBuffer:
    """Rows of uint8 values that are written in any order and read anywhere; in memory or in a file.

    A row has the shape ``(width,)``, or ``(bands, width)``.
    """

    def __init__(
        self, height: int, row_shape: tuple[int, ...], path: Path | None = None, file: BinaryIO | None = None
    ) -> None:
        self.height, self.row_shape, self.path = height, row_shape, path
        self.row_bytes = math.prod(row_shape)
        self._file = file
        self._array = np.empty((height, *row_shape) if file is None else 0, np.uint8)

    def write(self, start: int, values: UInt8Array) -> None:
        """Write rows from ``start`` on: uint8 (n, ...), which the buffer may keep."""
        if self._file is None and len(values) == self.height:
            self._array = values  # all at once: nothing to copy
        elif self._file is None:
            self._array[start : start + len(values)] = values
        elif self.path is not None:
            with writing(self.path):
                self._file.seek(start * self.row_bytes)
                self._file.write(np.ascontiguousarray(values).data)

    def read(self, start: int, stop: int) -> UInt8Array:
        """Return rows ``start`` to ``stop``: uint8 (n, ...)."""
        if self._file is None:
            return self._array[start:stop]
        self._file.seek(start * self.row_bytes)
        content = self._file.read((stop - start) * self.row_bytes)
        return np.frombuffer(content, np.uint8).reshape(stop - start, *self.row_shape)

    def strips(self) -> Iterator[UInt8Array]:
        """Yield all rows from the top, in strips of about 16 MB."""
        step = max(1, _STRIP_VALUES // self.row_bytes)
        for start in range(0, self.height, step):
            yield self.read(start, min(start + step, self.height))

    def flush(self) -> None:
        """Make sure that what was written survives the process and a power loss."""
        if self._file is not None and self.path is not None:
            with writing(self.path):
                self._file.flush()
                os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file; it stays."""
        if self._file is not None:
            with suppress(OSError):  # finished blocks were flushed; others are computed again
                self._file.close()


@dataclass(frozen=True, slots=True)
class ReadLog:
    """Events while some rows of a scene were read.

    Attributes:
        damaged: Windows that cannot be read.
        notes: Warnings about the scene.
        ood: How the rows compare with the training imagery.
    """

    damaged: tuple[Window, ...]
    notes: tuple[str, ...]
    ood: OodStats

    @classmethod
    def of(cls, source: Source, block: RowBlock) -> "ReadLog":
        """Return the log of a block, whose rows have been read from ``source``."""
        damaged, (row, col, _, width) = [], source.part
        for window in source.damaged:
            top, left = max(window.row - row, block.start), max(window.col - col, 0)
            bottom = min(window.row - row + window.height, block.stop)
            right = min(window.col - col + window.width, width)
            if top < bottom and left < right:
                damaged.append(Window(top, left, bottom - top, right - left))
        return cls(tuple(damaged), tuple(source.warnings), block.ood)

    @staticmethod
    def from_record(record: object) -> "ReadLog":
        """Return the log in the JSON record of a finished block; ValueError without one."""
        return _READ_LOG.validate_python(record)


_READ_LOG = TypeAdapter(ReadLog)


def joined(logs: Iterable[ReadLog]) -> ReadLog:
    """Return the logs of row blocks as one: each note once, damaged windows that touch as one."""
    logs = list(logs)
    damaged: list[Window] = []
    for window in sorted((w for log in logs for w in log.damaged), key=lambda w: (w.col, w.width, w.row)):
        row, col, height, width = damaged[-1] if damaged else (0, -1, 0, 0)
        if (col, width) == (window.col, window.width) and window.row <= row + height:
            bottom = max(row + height, window.row + window.height)
            damaged[-1] = Window(row, col, bottom - row, width)
        else:
            damaged.append(window)
    notes = tuple(dict.fromkeys(note for log in logs for note in log.notes))
    return ReadLog(tuple(sorted(damaged)), notes, sum((log.ood for log in logs), OodStats()))


def band_count(raster: str, legend: Legend) -> int:
    """Return the bands of ``classes``, or of one of :data:`FURTHER_RASTERS`."""
    return len(legend.scored) if raster == "probabilities" else 1


def product_rows(
    block: RowBlock, legend: Legend, rasters: Collection[str]
) -> Iterator[tuple[str, int, UInt8Array]]:
    """Yield the rows that a block adds to the classes, and to each of ``rasters`` beside them.

    They are the raster's name, the first row, and uint8 (n, ...); pixels without imagery are nodata.
    """
    if block.start < block.stop:
        classes = block.class_indices(legend)
        if block.valid is not None:
            classes[~block.valid] = NODATA
        yield "classes", block.start, classes
    for chunk, values in block.probabilities() if any(name in rasters for name in FURTHER_RASTERS) else ():
        row = block.start + chunk.start
        if "probabilities" in rasters:
            scaled = np.rint(values * PROBABILITIES.steps).astype(np.uint8)
            if block.valid is not None:
                scaled[:, ~block.valid[chunk]] = PROBABILITIES.nodata
            yield "probabilities", row, np.moveaxis(scaled, 0, 1)
        if "confidence" in rasters:
            yield "confidence", row, np.rint(values.max(axis=0) * CONFIDENCE.steps).astype(np.uint8)


class SceneWork:
    """The rows of a scene's rasters, in memory or in a work folder from which work can be resumed.

    Use it as a context. The work folder, that of the map ``target``, is deleted at the end, unless the
    context ends by an interrupt or, when blocks are finished, by an error, such as no space, no memory or no
    answer of a server. Work with another ``identity`` (model, scene and options) is not resumed but an
    :class:`OutputError`; None: keep everything in memory.

    Attributes:
        buffers: A row buffer for each of the ``rasters``, which :func:`product_rows` makes.
        logs: The log of each finished block by its number.
    """

    def __init__(
        self,
        target: Path,
        size: Size,
        legend: Legend,
        identity: dict[str, object] | None,
        *,
        rasters: Sequence[str],
        resume: bool = False,
    ) -> None:
        self.logs: dict[int, ReadLog] = {}
        self._legend = legend
        self._folder: WorkFolder | None = None
        self.buffers: dict[str, RowBuffer] = {}
        height, width = size
        with ExitStack() as stack:
            if identity is not None:
                self._folder = stack.enter_context(work_folder(target))
                self._open(self._folder, identity, resume=resume)
            stack.callback(self._close)
            for name in rasters:
                shape = (band_count(name, legend), width) if name == "probabilities" else (width,)
                path = file = None
                if self._folder is not None:
                    path = self._folder.path / f"{name}.raw"
                    try:
                        file = self._folder.open(path.name)
                    except FileNotFoundError:
                        file = self._folder.create(path.name)
                self.buffers[name] = RowBuffer(height, shape, path, file)
            if self._folder is not None:
                self._read_records(self._folder)
            self._stack = stack.pop_all()

    def _open(self, folder: WorkFolder, identity: dict[str, object], *, resume: bool) -> None:
        """Prepare the folder: nothing is left in it but work with this identity."""
        content = json.dumps(identity, sort_keys=True)
        found = _read_json(folder, _WORK) if resume else None
        if found is None:
            folder.clear()
            folder.write(_WORK, content.encode())
            return
        if found != json.loads(content):
            raise OutputError(
                f"{folder.path} contains work of another model, scene or options. Run again without "
                "--resume to start from the beginning."
            )
        for name in folder.names():
            if name != _WORK and not _RECORD.fullmatch(name) and not name.endswith(".raw"):
                folder.remove(name)

    def _read_records(self, folder: WorkFolder) -> None:
        """Read the logs of finished blocks. A block whose rows or record are damaged is missing."""
        buffers = self.buffers.values()
        rows = [buffer.path.stat().st_size // buffer.row_bytes for buffer in buffers if buffer.path]
        for name in folder.names():
            if (match := _RECORD.fullmatch(name)) is not None:
                with suppress(ValueError, KeyError, TypeError, OSError):
                    record = _read_json(folder, name) or {}
                    checksum = record.pop("checksum")
                    if min(rows) >= record["stop"] and self._checksum(record) == checksum:
                        self.logs[int(match[1])] = ReadLog.from_record(record)

    def _checksum(self, record: dict[str, Any]) -> int:
        """Return the CRC-32 of a block: of its record and of its rows in all buffers."""
        checksum = zlib.crc32(json.dumps(record, sort_keys=True).encode())
        for buffer in self.buffers.values():
            for row in range(record["start"], record["stop"], _CHECKED_ROWS):
                rows = buffer.read(row, min(row + _CHECKED_ROWS, record["stop"]))
                checksum = zlib.crc32(np.ascontiguousarray(rows).data, checksum)
        return checksum

    def missing(self, blocks: range) -> list[range]:
        """Return the blocks, of these, that are not finished, as ranges of consecutive numbers."""
        numbers = (number for number in blocks if number not in self.logs)
        runs = [[n for _, n in run] for _, run in groupby(enumerate(numbers), lambda pair: pair[1] - pair[0])]
        return [range(run[0], run[-1] + 1) for run in runs]

    def finish(self, block: RowBlock, log: ReadLog) -> None:
        """Write the rows of a block."""
        for name, row, values in product_rows(block, self._legend, self.buffers):
            self.buffers[name].write(row, values)
        if self._folder is not None:
            for buffer in self.buffers.values():
                buffer.flush()
            record = {"start": block.start, "stop": block.stop, **asdict(log)}
            record["checksum"] = self._checksum(record)
            self._folder.write(f"block-{block.number:05}.json", json.dumps(record).encode())
        self.logs[block.number] = log

    def __enter__(self) -> "SceneWork":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._stack:
            if self._folder is None:
                return
            if kind is not None and (self.logs or not issubclass(kind, Exception)):
                _log.warning(
                    "%d finished row blocks are kept in %s. Run the same command with --resume to continue.",
                    len(self.logs),
                    self._folder.path,
                )
            else:
                self._close()
                self._folder.delete()

    def _close(self) -> None:
        for buffer in self.buffers.values():
            buffer.close()


def _read_json(folder: WorkFolder, name: str) -> dict[str, Any] | None:
    """Return the object in a JSON file of the folder; None if there is none, or something else."""
    try:
        with folder.open(name) as file:
            data = json.load(file)
    except (FileNotFoundError, ValueError):
        return None
    return data if isinstance(data, dict) else None
