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

from landcover.errors import LandcoverError, UsageError
from landcover.training.loop import Interrupt, ending_signals

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


def run_apart(jobs: Sequence[Job], *, at_once: int = 1) -> list[str]:
    """Run jobs at the same time, and wait for them.

    Where there is one at once and a terminal, it shows its progress there; else what they say goes to their
    files. An interrupt is handed on to all once and waited for, so that a training can write its checkpoint.

    Args:
        jobs: At most ``at_once``.
        at_once: Jobs that share the processor: each computes with this part of the threads, also where it
            happens to be alone.

    Returns:
        What went wrong with each job, with the end of its log; nothing, ``""``, where it ended well.
    """
    shown = at_once == 1 and sys.stderr is not None and sys.stderr.isatty()
    environment = dict(os.environ)
    if at_once > 1:
        share = str(max(1, torch.get_num_threads() // at_once))
        environment |= {"OMP_NUM_THREADS": share, "MKL_NUM_THREADS": share}
    failures = []
    for job, status in zip(jobs, _run(jobs, environment, shown=shown), strict=True):
        said = "" if shown or not status else _end(job.log)
        failures.append(f"{' '.join(job.words)} ended with status {status}.{said}" if status else "")
    return failures


def _end(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return "".join(f"\n  {line}" for line in lines[-_TAIL:])


def _run(jobs: Sequence[Job], environment: Mapping[str, str], *, shown: bool) -> list[int]:
    """Run commands out of the reach of the terminal's Ctrl-C, and return their exit statuses."""
    told = False
    with Interrupt() as interrupt, ExitStack() as stack:
        outputs = [sys.stderr if shown else stack.enter_context(_opened(job.log)) for job in jobs]
        processes: list[subprocess.Popen[bytes]] = []
        stack.callback(_stop, processes)
        for job, output in zip(jobs, outputs, strict=True):
            command = [sys.executable, *job.words]
            processes.append(
                subprocess.Popen(
                    command, stdout=output, stderr=output, env=environment, start_new_session=True
                )
            )
        failed: set[int] = set()
        while any(process.poll() is None for process in processes):
            for number, process in enumerate(processes):
                if len(jobs) > 1 and process.poll() and number not in failed and not told:
                    failed.add(number)
                    print(f"A training failed, see {jobs[number].log}; the others go on.", file=sys.stderr)
            if interrupt.requested and not told:
                for process in processes:
                    process.terminate()
                told = True
            time.sleep(0.2)
    statuses = [process.returncode for process in processes]
    if interrupt.requested or INTERRUPTED in statuses:
        raise KeyboardInterrupt
    return statuses


def _stop(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Leave no process behind, whatever went wrong."""
    for process in processes:
        if process.poll() is None:
            process.terminate()
    for process in processes:
        process.wait()


def _opened(log: Path) -> IO[str]:
    log.parent.mkdir(parents=True, exist_ok=True)
    return log.open("w", encoding="utf-8")


@contextmanager
def plain_errors() -> Iterator[None]:
    """End the process with one message where landcover raises an error or a signal stops it.

    Exit status 1 for what failed, 2 for wrong usage, 130 when interrupted.
    """
    for number in ending_signals():
        signal.signal(number, signal.default_int_handler)
    try:
        yield
    except LandcoverError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, UsageError) else 1)
    except KeyboardInterrupt:
        print("Interrupted. The same command goes on where this one stopped.", file=sys.stderr)
        sys.exit(INTERRUPTED)
