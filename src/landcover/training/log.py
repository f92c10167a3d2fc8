"""What a run says: a line of JSON for each event, TensorBoard, and progress on standard error."""

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch.utils.tensorboard import SummaryWriter

from landcover.errors import OutputError
from landcover.io.files import open_append, write_text

LOG_NAME = "log.jsonl"
LOG_BEGIN = b'{"event": "start"'
"""How the log of every run begins."""


class RunLog:
    """The log of a run folder; a context manager.

    Args:
        folder: The run folder.
        step: Step from which the run goes on. Lines beyond it, written before a kill, are dropped: those
            steps come again. So is an end that was not the end.
        validated_step: Step of the last validation that counts.
    """

    def __init__(self, folder: Path, *, step: int, validated_step: int) -> None:
        self._path = folder / LOG_NAME
        last = {"step": step, "validation": validated_step, "end": -1}
        if self._path.exists():
            kept = [line for line in read_log(folder) if line.get("step", 0) <= last.get(line["event"], step)]
            write_text(self._path, "".join(json.dumps(line) + "\n" for line in kept), force=True)
        self._console = Console(stderr=True)
        self._board: SummaryWriter | None = None
        with self._optional_board():
            self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1 if step else None)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self._console,
            disable=not sys.stderr.isatty(),
            transient=True,
        )
        self._task = self._bar.add_task("Training", total=1.0)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bar.stop()
        with self._optional_board():
            if self._board is not None:
                self._board.close()

    @contextmanager
    def _optional_board(self) -> Iterator[None]:
        """Do without TensorBoard from the first time on that it cannot write; the log has all numbers."""
        try:
            yield
        except OSError as error:
            self._board = None
            self.say(f"TensorBoard's files cannot be written ({error.strerror or error}); the run goes on.")

    def event(self, event: str, **values: Any) -> None:
        """Append a line, and the curves that it holds.

        Raises:
            OutputError: If the log cannot be written.
        """
        line = json.dumps({"event": event, **values}) + "\n"
        try:
            with open_append(self._path) as file:
                file.write(line.encode())
        except OSError as error:
            raise OutputError(f"{self._path} cannot be written: {error.strerror}.") from error
        if event not in ("step", "validation"):
            return
        with self._optional_board():
            for name, value in _flat(values):
                if self._board is not None and name not in ("step", "images", "seconds"):
                    self._board.add_scalar(f"{event}/{name}", value, values["step"])

    def strips(self, step: int, strips: Mapping[str, npt.NDArray[np.uint8]]) -> None:
        """Show uint8 (H, W, 3) pictures by name in TensorBoard."""
        with self._optional_board():
            for name, strip in strips.items():
                if self._board is not None:
                    self._board.add_image(name, strip, step, dataformats="HWC")

    def progress(self, share: float, text: str) -> None:
        """Move the bar to ``share`` of the limit."""
        self._bar.update(self._task, completed=share, description=text)

    def say(self, text: str) -> None:
        """Print a line on standard error, above the bar."""
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)


def read_log(folder: Path) -> list[dict[str, Any]]:
    """Return the events of a run's log in order; a line that a kill cut short is left out."""
    events = []
    for text in (folder / LOG_NAME).read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            event = json.loads(text)
        except ValueError:
            continue
        if isinstance(event, dict) and "event" in event:
            events.append(event)
    return events


def _flat(values: Mapping[str, Any]) -> list[tuple[str, float]]:
    """Numbers by name; those of a nested mapping as ``outer/inner``."""
    flat: list[tuple[str, float]] = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat += [(f"{name}/{inner}", number) for inner, number in _flat(value)]
        elif isinstance(value, int | float) and not isinstance(value, bool):
            flat.append((name, float(value)))
    return flat
