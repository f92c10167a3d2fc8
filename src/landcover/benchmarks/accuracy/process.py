"""A process for each training, and errors in plain words: what the accuracy benchmark's commands share."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from landcover.errors import LandcoverError, TrainingError, UsageError
from landcover.training.interrupt import Interrupt

INTERRUPTED = 130

_TAIL = 12
"""Lines of a log that an error shows."""


def run_apart(log: Path, module: str, *arguments: object) -> None:
    """Run ``python -m module arguments`` in a process of its own, and wait for it.

    In a terminal it shows its progress there; else what it says goes to a file. An interrupt is handed on
    once and waited for, so that a training can write its checkpoint.

    Args:
        log: File for what it says where standard error is no terminal.
        module: The module.
        arguments: Its arguments.

    Raises:
        TrainingError: If it fails; the message has the end of the log.
    """
    command = [sys.executable, "-m", module, *map(str, arguments)]
    if sys.stderr is not None and sys.stderr.isatty():
        status, said = _run(command, sys.stderr), ""
    else:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("w", encoding="utf-8") as file:
            status = _run(command, file)
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
        said = "".join(f"\n  {line}" for line in lines[-_TAIL:])
    if status:
        words = " ".join(command[1:])
        raise TrainingError(f"{words} ended with status {status}. Mend it and run again to go on.{said}")


def _run(command: list[str], output: IO[str]) -> int:
    """Run a command out of the reach of the terminal's Ctrl-C, and return its exit status."""
    told = False
    with Interrupt() as interrupt:
        process = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)
        while process.poll() is None:
            if interrupt.requested and not told:
                process.terminate()
                told = True
            with suppress(subprocess.TimeoutExpired):
                process.wait(1)
    if interrupt.requested or process.returncode == INTERRUPTED:
        raise KeyboardInterrupt
    return process.returncode


@contextmanager
def plain_errors() -> Iterator[None]:
    """End the process with one message where landcover raises an error or a signal stops it.

    Exit status 1 for what failed, 2 for wrong usage, 130 when interrupted.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except LandcoverError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, UsageError) else 1)
    except KeyboardInterrupt:
        print("Interrupted. The same command goes on where this one stopped.", file=sys.stderr)
        sys.exit(INTERRUPTED)
