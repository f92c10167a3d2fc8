"""A process for each training, and errors in plain words: what the accuracy benchmark's commands share."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import torch

from landcover.errors import LandcoverError, TrainingError, UsageError
from landcover.training.interrupt import Interrupt

INTERRUPTED = 130

_TAIL = 12
"""Lines of a log that an error shows."""


@dataclass(frozen=True)
class Job:
    """A command in a process of its own: ``python -m module arguments``.

    Attributes:
        log: File for what it says where standard error is no terminal.
        module: The module.
        arguments: Its arguments.
    """

    log: Path
    module: str
    arguments: Sequence[object] = ()

    @property
    def words(self) -> list[str]:
        """The module and its arguments, as they are given to Python."""
        return ["-m", self.module, *map(str, self.arguments)]


def run_apart(jobs: Sequence[Job]) -> None:
    """Run jobs at the same time, and wait for them.

    A single one in a terminal shows its progress there; else what they say goes to their files. Several share
    the processor: each computes with its share of the threads. An interrupt is handed on to all once and
    waited for, so that a training can write its checkpoint.

    Raises:
        TrainingError: If one fails, when all have ended; the message has the end of its log.
    """
    shown = len(jobs) == 1 and sys.stderr is not None and sys.stderr.isatty()
    environment = dict(os.environ)
    if len(jobs) > 1:
        environment["OMP_NUM_THREADS"] = str(threads_of_each(len(jobs)))
    statuses = _run(jobs, environment, shown=shown)
    for job, status in zip(jobs, statuses, strict=True):
        if status:
            said = "" if shown else _end(job.log)
            words = " ".join(job.words)
            raise TrainingError(f"{words} ended with status {status}. Mend it and run again to go on.{said}")


def threads_of_each(jobs: int) -> int:
    """Return the threads that each of some jobs gets on this machine."""
    return max(1, torch.get_num_threads() // jobs)


def _end(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return "".join(f"\n  {line}" for line in lines[-_TAIL:])


def _run(jobs: Sequence[Job], environment: Mapping[str, str], *, shown: bool) -> list[int]:
    """Run commands out of the reach of the terminal's Ctrl-C, and return their exit statuses."""
    told = False
    with Interrupt() as interrupt, ExitStack() as stack:
        processes = []
        for job in jobs:
            output = sys.stderr if shown else stack.enter_context(_opened(job.log))
            command = [sys.executable, *job.words]
            processes.append(
                subprocess.Popen(
                    command, stdout=output, stderr=output, env=environment, start_new_session=True
                )
            )
        while any(process.poll() is None for process in processes):
            if interrupt.requested and not told:
                for process in processes:
                    process.terminate()
                told = True
            time.sleep(0.2)
    statuses = [process.returncode for process in processes]
    if interrupt.requested or INTERRUPTED in statuses:
        raise KeyboardInterrupt
    return statuses


def _opened(log: Path) -> IO[str]:
    log.parent.mkdir(parents=True, exist_ok=True)
    return log.open("w", encoding="utf-8")


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
