"""Where units are done: processes on this machine."""

import multiprocessing
import signal
import sys
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Protocol

from landcover.errors import LandcoverError, OutputError
from landcover.fleet.units import Outcome
from landcover.fleet.work import Setup, Worker
from landcover.machine import processors
from landcover.model.runtimes import DEFAULT_CACHE
from landcover.model.runtimes.openvino_runtime import cache_folder

_STARTS = 3
"""Times that a worker may end before it has done a unit, one after the other."""


class Engine(Protocol):
    """Does units; only their lines travel."""

    @property
    def slots(self) -> int:
        """How many units it takes at a time."""

    def submit(self, key: str, line: str) -> None:
        """Begin a unit; there are never more than ``slots``."""

    def wait(self, seconds: float) -> Iterator[tuple[str, Outcome]]:
        """Yield the units that have ended, after at most so many seconds if there are none.

        Raises:
            LandcoverError: If workers cannot begin, such as with another version of the package.
        """

    def close(self) -> None:
        """End all workers, with what they do."""


class LocalEngine:
    """Processes on this machine, each with the model loaded; one that ends is replaced.

    Args:
        setup: What the workers need.
        workers: Number of processes.
    """

    def __init__(self, setup: Setup, workers: int) -> None:
        threads = setup.threads or max(1, processors() // workers)
        self._setup = Setup(setup.store, setup.device, threads)
        self._context = multiprocessing.get_context("spawn")
        self._failed_starts = 0
        self._workers = [self._start() for _ in range(workers)]

    @property
    def slots(self) -> int:
        """One for each process."""
        return len(self._workers)

    def _start(self) -> "_Process":
        here, there = self._context.Pipe()
        process = self._context.Process(target=_serve, args=(there, self._setup), daemon=True)
        process.start()
        there.close()
        return _Process(process, here)

    def submit(self, key: str, line: str) -> None:
        """Give a unit to a free process."""
        worker = next(worker for worker in self._workers if worker.key is None)
        worker.key, worker.line = key, line
        if worker.ready:
            worker.send()

    def wait(self, seconds: float) -> Iterator[tuple[str, Outcome]]:
        """Yield the units that have ended; see :meth:`Engine.wait`."""
        for pipe in wait([worker.pipe for worker in self._workers], seconds):
            number = next(i for i, worker in enumerate(self._workers) if worker.pipe is pipe)
            worker = self._workers[number]
            try:
                answer = worker.pipe.recv()
            except (EOFError, OSError):
                worker.process.join()
                worker.pipe.close()
                self._failed_starts += not worker.ready
                if self._failed_starts >= _STARTS:
                    raise OutputError(
                        f"{_STARTS} worker processes ended before they could begin, the last with exit "
                        f"status {worker.process.exitcode}. Is there enough memory for {self.slots} of them?"
                    ) from None
                self._workers[number] = new = self._start()
                if not worker.ready:  # its unit was not started
                    new.key, new.line = worker.key, worker.line
                elif worker.key is not None:
                    reason = f"the worker process ended with exit status {worker.process.exitcode}"
                    yield worker.key, Outcome("fault", reason)
                continue
            if isinstance(answer, LandcoverError):
                raise answer
            if answer is None:
                worker.ready, self._failed_starts = True, 0
                worker.send()
            elif worker.key is not None:
                key, worker.key = worker.key, None
                yield key, answer

    def close(self) -> None:
        """End all processes; each removes its temporary files."""
        for worker in self._workers:
            worker.pipe.close()
            if worker.key is not None:
                worker.process.terminate()
        for worker in self._workers:
            worker.process.join()


class _Process:
    """A worker process: ``key`` and ``line`` of its unit, and whether it has loaded the model."""

    def __init__(self, process: SpawnProcess, pipe: Connection) -> None:
        self.process, self.pipe = process, pipe
        self.key: str | None = None
        self.line = ""
        self.ready = False

    def send(self) -> None:
        if self.key is not None:
            with suppress(OSError):  # it has ended, which waiting for it reports
                self.pipe.send(self.line)


def _serve(pipe: Connection, setup: Setup) -> None:
    """Do units until the driver ends: the body of a worker process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the driver ends it
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    DEFAULT_CACHE.set(cache_folder())
    with suppress(EOFError, OSError):  # the driver has ended
        try:
            worker = Worker(setup)
        except LandcoverError as error:
            pipe.send(type(error)(str(error)))
        else:
            pipe.send(None)
            while True:
                pipe.send(worker.do(pipe.recv()))
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it ends, and removes its temporary files
