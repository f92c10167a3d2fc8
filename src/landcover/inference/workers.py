"""Who does the units of a job, here or elsewhere: one loop for ``predict`` and for fleets."""

import multiprocessing
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from types import ModuleType
from typing import Any, Protocol

from landcover.errors import FleetError, LandcoverError, OutputError
from landcover.model.runtimes import DEFAULT_CACHE
from landcover.model.runtimes.openvino_runtime import cache_folder

_STARTS = 3
"""Times that a worker may end before it has done a unit, one after the other."""


class Engine(Protocol):
    """Does units of work; each has a key."""

    @property
    def slots(self) -> int:
        """How many units it takes at a time."""

    def submit(self, key: str, unit: Any) -> None:
        """Begin a unit; there are never more than ``slots``."""

    def wait(self, seconds: float) -> Iterator[tuple[str, Any]]:
        """Yield key and result of the units that have ended, after at most so many seconds if there are none.

        Raises:
            LandcoverError: If workers cannot begin, such as with another version of the package.
        """

    def close(self) -> None:
        """End all workers, with what they do."""


def work_through(
    engine: Engine, take: Callable[[], tuple[str, Any] | None], *, beat_s: float = 60.0
) -> Iterator[tuple[str, Any] | None]:
    """Give units to an engine, and yield key and result of each that has ended.

    Args:
        engine: Who does them.
        take: Returns key and unit of the next one; None: there is none until another one ends.
        beat_s: None is yielded at least this often, in seconds.
    """
    in_flight = 0
    while True:
        while in_flight < engine.slots and (unit := take()) is not None:
            engine.submit(*unit)
            in_flight += 1
        if not in_flight:
            return
        for ended in engine.wait(beat_s):
            in_flight -= 1
            yield ended
        yield None


class ThisProcess:
    """An engine without others: units are done one after the other by a function."""

    slots = 1

    def __init__(self, do: Callable[[Any], Any]) -> None:
        self._do, self._units = do, list[tuple[str, Any]]()

    def submit(self, key: str, unit: Any) -> None:
        """Note the unit."""
        self._units.append((key, unit))

    def wait(self, seconds: float) -> Iterator[tuple[str, Any]]:
        """Do the unit; see :meth:`Engine.wait`."""
        key, unit = self._units.pop()
        yield key, self._do(unit)

    def close(self) -> None:
        """Do nothing."""


class LocalEngine:
    """Processes on this machine, each with a function that does units; one that ends is replaced.

    The result of a unit whose process ended, for lack of memory for example, is a :class:`FleetError`.

    Args:
        begin: Returns that function, called in each process. It travels there, as units do, and results back.
        workers: Number of processes.
    """

    def __init__(self, begin: Callable[[], Callable[[Any], Any]], workers: int) -> None:
        self._begin = begin
        self._context = multiprocessing.get_context("spawn")
        self._failed_starts = 0
        self._workers = [self._start() for _ in range(workers)]

    @property
    def slots(self) -> int:
        """One for each process."""
        return len(self._workers)

    def _start(self) -> "_Process":
        here, there = self._context.Pipe()
        process = self._context.Process(target=_serve, args=(there, self._begin), daemon=True)
        main = sys.modules["__main__"]
        sys.modules["__main__"] = ModuleType("__main__")  # else the caller's script is run in the process
        try:
            process.start()
        finally:
            sys.modules["__main__"] = main
        there.close()
        return _Process(process, here)

    def submit(self, key: str, unit: Any) -> None:
        """Give a unit to a free process."""
        worker = next(worker for worker in self._workers if worker.key is None)
        worker.key, worker.unit = key, unit
        if worker.ready:
            worker.send()

    def wait(self, seconds: float) -> Iterator[tuple[str, Any]]:
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
                status = f"ended with exit status {worker.process.exitcode}"
                if self._failed_starts >= _STARTS:
                    raise OutputError(
                        f"{_STARTS} worker processes ended before they could begin, the last one {status}. "
                        f"Is there enough memory for {self.slots} of them?"
                    ) from None
                self._workers[number] = new = self._start()
                if not worker.ready:  # its unit was not started
                    new.key, new.unit = worker.key, worker.unit
                elif worker.key is not None:
                    yield worker.key, FleetError(f"the worker process {status}")
                continue
            if worker.ready:
                key, worker.key = worker.key, None
                if key is not None:
                    yield key, answer
            elif isinstance(answer, LandcoverError):
                raise answer
            else:
                worker.ready, self._failed_starts = True, 0
                worker.send()

    def close(self) -> None:
        """End all processes; each removes its temporary files."""
        for worker in self._workers:
            worker.pipe.close()
            if worker.key is not None:
                worker.process.terminate()
        for worker in self._workers:
            worker.process.join()


class _Process:
    """A worker process, ``key`` and ``unit`` of its work, and whether it has begun."""

    def __init__(self, process: SpawnProcess, pipe: Connection) -> None:
        self.process, self.pipe = process, pipe
        self.key: str | None = None
        self.unit: Any = None
        self.ready = False

    def send(self) -> None:
        if self.key is not None:
            with suppress(OSError):  # it has ended, which waiting for it reports
                self.pipe.send(self.unit)


def _serve(pipe: Connection, begin: Callable[[], Callable[[Any], Any]]) -> None:
    """Do units until the driver ends: the body of a worker process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the driver ends it
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    DEFAULT_CACHE.set(cache_folder())
    with suppress(EOFError, OSError):  # the driver has ended
        try:
            do = begin()
        except LandcoverError as error:
            pipe.send(type(error)(str(error)))
        else:
            pipe.send(None)
            while True:
                answer = do(pipe.recv())
                pipe.send(type(answer)(str(answer)) if isinstance(answer, LandcoverError) else answer)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it ends, and removes its temporary files
