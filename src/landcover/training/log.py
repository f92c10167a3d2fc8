"""The log of a run: a line of JSON for each event, curves for TensorBoard, and a progress bar."""

import json
import logging
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

from rich.console import Console
from rich.progress import Progress
from torch.utils.tensorboard import SummaryWriter

from landcover._typing import UInt8Array
from landcover.errors import DataError, OutputError
from landcover.io.files import open_append, write_text
from landcover.textfiles import parse_json

LOG_NAME = "log.jsonl"
LOG_BEGIN = b'{"event": "start"'
"""First bytes of the log of every run."""

logger = logging.getLogger(__name__)


class RunLog:
    """The log of a run folder from ``step`` on; a context manager. Of several processes one ``writes`` it.

    The bar is shown in a terminal only; elsewhere each logged step is a message of level INFO. Later lines of
    an earlier part, from before a kill, are dropped: those steps are repeated. So is the line of an earlier
    end.
    """

    def __init__(self, folder: Path, step: int, validated_step: int, *, writes: bool = True) -> None:
        self._path = folder / LOG_NAME
        self._writes = writes
        last = {"step": step, "validation": validated_step, "end": -1}
        if writes and self._path.exists():
            kept = [line for line in read_log(folder) if line.get("step", 0) <= last.get(line["event"], step)]
            write_text(self._path, "".join(json.dumps(line) + "\n" for line in kept), force=True)
        in_terminal = sys.stderr is not None and sys.stderr.isatty()
        self._in_terminal = writes and in_terminal and logger.isEnabledFor(logging.INFO)
        self._board: SummaryWriter | None = None
        if writes:
            with self._optional_board():
                purge = step + 1 if step else None
                self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=purge)
        self._bar = Progress(console=Console(stderr=True), disable=not self._in_terminal, transient=True)
        self._task = self._bar.add_task("Training", total=1.0)

    def __enter__(self) -> Self:
        self._previous_hook, threading.excepthook = threading.excepthook, self._thread_failed
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()
        with self._optional_board() as board:
            if board is not None:
                board.close()
        threading.excepthook = self._previous_hook

    def _thread_failed(self, failure: threading.ExceptHookArgs) -> None:
        """Print no traceback of TensorBoard's thread that cannot write: its next call reports the error."""
        if not isinstance(failure.exc_value, OSError):
            self._previous_hook(failure)

    @contextmanager
    def _optional_board(self) -> Iterator[SummaryWriter | None]:
        """Stop writing for TensorBoard at the first failure; ``log.jsonl`` has all numbers."""
        try:
            yield self._board
        except OSError as error:
            self._board = None
            reason = error.strerror or error
            logger.warning(f"TensorBoard files cannot be written ({reason}); the run continues without them.")

    def event(self, event: str, **values: Any) -> None:
        """Append a line to the log, and its numbers to the curves; OutputError if it cannot be written."""
        if not self._writes:
            return
        line = json.dumps({"event": event, **values}) + "\n"
        try:
            with open_append(self._path) as file:
                file.write(line.encode())
        except OSError as error:
            raise OutputError(f"{self._path} cannot be written: {error.strerror}.") from error
        if event not in ("step", "validation"):
            return
        with self._optional_board() as board:
            for name, value in flatten(values, "/").items():
                is_curve = isinstance(value, int | float) and name not in ("step", "images", "seconds")
                if board is not None and is_curve:
                    board.add_scalar(f"{event}/{name}", float(value), values["step"])

    def pictures(self, step: int, pictures: Mapping[str, UInt8Array]) -> None:
        """Show uint8 (H, W, 3) pictures by name in TensorBoard."""
        with self._optional_board() as board:
            for name, picture in pictures.items():
                if board is not None:
                    board.add_image(name, picture, step, dataformats="HWC")

    def progress(self, fraction: float, text: str) -> None:
        """Move the bar to a fraction of the limit, 0..1."""
        self._bar.update(self._task, completed=fraction, description=text)

    def report_step(self, text: str) -> None:
        """Log a line about a step; in a terminal, which shows the bar, at level DEBUG."""
        logger.log(logging.DEBUG if self._in_terminal else logging.INFO, text)


def read_log(folder: Path) -> list[dict[str, Any]]:
    """Return the events of a run's log in order, without a line that a kill left incomplete."""
    events = []
    for text in (folder / LOG_NAME).read_text(encoding="utf-8", errors="replace").splitlines():
        with suppress(DataError):
            event = parse_json(text, LOG_NAME, DataError, undefined=True)
            if isinstance(event, dict) and "event" in event and isinstance(event.get("step", 0), int):
                events.append(event)
    return events


def flatten(values: Mapping[str, Any], separator: str) -> dict[str, Any]:
    """Return nested values by their joined keys; an empty mapping is a value."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            inner = flatten(value, separator)
            flat.update({f"{name}{separator}{key}": leaf for key, leaf in inner.items()})
        else:
            flat[name] = value
    return flat
