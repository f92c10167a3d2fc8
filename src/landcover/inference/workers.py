"""Who does the units of a job, here or elsewhere: one loop for ``predict`` and for fleets."""

import logging
import multiprocessing
import signal
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from logging.handlers import QueueHandler
from multiprocessing.connection import Connection, wait
from queue import SimpleQueue
from types import ModuleType
from typing import Any, NamedTuple, Protocol

from landcover.errors import FleetError, LandcoverError
from landcover.model.runtimes import DEFAULT_CACHE
from landcover.model.runtimes.openvino_runtime import cache_folder

_logger = logging.getLogger("landcover")

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
    """Give units to an engine, and yield key and result of each that has ended; None every ``beat_s`` or so.

    ``take`` returns key and unit of the next one; None: there is none until another one ends.
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


@dataclass(eq=False)
class Slot:
    """A worker, whether it has begun, and the unit that it does or will do."""

    worker: Any = None
    is_ready: bool = False
    key: str | None = None
    unit: Any = None


class Ended(NamedTuple):
    """In place of an answer: the worker has ended."""

    reason: str


class Logged(NamedTuple):
    """An answer of a worker, with what it has logged meanwhile."""

    answer: Any
    records: list[logging.LogRecord]

    @classmethod
    def of(cls, do: Callable[[], Any], level: int) -> "Logged":
        """Call a function in a worker; records of its driver's level and above are kept."""
        records = SimpleQueue[logging.LogRecord]()
        handler = QueueHandler(records)
        _logger.setLevel(level)
        _logger.addHandler(handler)
        try:
            answer = do()
        finally:
            _logger.removeHandler(handler)
        return cls(answer, [records.get() for _ in range(records.qsize())])


class Workers(ABC):
    """What engines of other processes have in common: a unit at a time for each, and replacements.

    The result of a unit whose worker ended, for lack of memory for example, is a :class:`FleetError`. What
    workers log is logged here, when their unit has ended.

    Args:
        count: Number of workers.
        needs: What they need, for the error if they cannot begin.
    """

    def __init__(self, count: int, needs: str) -> None:
        self._failed_starts, self._needs, self._level = 0, needs, _logger.getEffectiveLevel()
        self._workers = [Slot() for _ in range(count)]
        for slot in self._workers:
            self._start(slot)

    @abstractmethod
    def _start(self, slot: Slot) -> None:
        """Start a worker, whose first answer is a :class:`LandcoverError` if it cannot begin."""

    @abstractmethod
    def _send(self, slot: Slot) -> None:
        """Give a worker its unit."""

    @abstractmethod
    def _answers(self, seconds: float) -> Iterator[tuple[Slot, Any]]:
        """Yield the workers that have answered, and their answers."""

    @property
    def slots(self) -> int:
        """One for each worker."""
        return len(self._workers)

    def submit(self, key: str, unit: Any) -> None:
        """Give a unit to an idle worker."""
        slot = next(slot for slot in self._workers if slot.key is None)
        slot.key, slot.unit = key, unit
        if slot.is_ready:
            self._send(slot)

    def wait(self, seconds: float) -> Iterator[tuple[str, Any]]:
        """Yield the units that have ended; see :meth:`Engine.wait`.

        Raises:
            FleetError: If workers end before they can begin.
        """
        for slot, answer in self._answers(seconds):
            key, was_ready = slot.key, slot.is_ready
            if isinstance(answer, Logged):
                for record in answer.records:
                    logging.getLogger(record.name).handle(record)
                answer = answer.answer
            if isinstance(answer, Ended):
                self._failed_starts += not was_ready
                if self._failed_starts >= _STARTS:
                    raise FleetError(
                        f"{_STARTS} workers ended before they could begin, the last because {answer.reason}. "
                        f"{self._needs}"
                    )
                slot.is_ready = False
                self._start(slot)
                answer = FleetError(answer.reason)
            elif not was_ready:
                if isinstance(answer, LandcoverError):
                    raise answer
                slot.is_ready, self._failed_starts = True, 0
                if key is not None:
                    self._send(slot)
            if was_ready and key is not None:  # else its unit was not started
                slot.key = None
                yield key, answer


class LocalEngine(Workers):
    """Processes on this machine, each with a function that does units.

    Args:
        begin: Returns that function, called in each process. It travels there, as units do, and results back.
        count: Number of processes.
    """

    def __init__(self, begin: Callable[[], Callable[[Any], Any]], count: int) -> None:
        self._begin = begin
        self._context = multiprocessing.get_context("spawn")
        self._pipes: dict[Connection, Slot] = {}
        super().__init__(count, f"Is there enough memory for {count} processes?")

    def _start(self, slot: Slot) -> None:
        pipe, there = self._context.Pipe()
        slot.worker = self._context.Process(
            target=_serve, args=(there, self._begin, self._level), daemon=True
        )
        main = sys.modules["__main__"]
        sys.modules["__main__"] = ModuleType("__main__")  # else the caller's script is run in the process
        try:
            slot.worker.start()
        finally:
            sys.modules["__main__"] = main
        there.close()
        self._pipes[pipe] = slot

    def _send(self, slot: Slot) -> None:
        with suppress(OSError):  # it has ended, which waiting for it reports
            next(pipe for pipe, other in self._pipes.items() if other is slot).send(slot.unit)

    def _answers(self, seconds: float) -> Iterator[tuple[Slot, Any]]:
        for pipe in wait([*self._pipes], seconds):
            assert isinstance(pipe, Connection)
            try:
                yield self._pipes[pipe], pipe.recv()
            except (EOFError, OSError):
                pipe.close()
                slot = self._pipes.pop(pipe)
                slot.worker.join()
                status = slot.worker.exitcode
                yield slot, Ended(f"the worker process ended with exit status {status}")

    def close(self) -> None:
        """End all processes; each removes its temporary files."""
        for pipe, slot in self._pipes.items():
            pipe.close()
            if slot.key is not None:
                slot.worker.terminate()
        for slot in self._workers:
            slot.worker.join()


def _serve(pipe: Connection, begin: Callable[[], Callable[[Any], Any]], level: int) -> None:
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
                unit = pipe.recv()
                answer, records = Logged.of(lambda: do(unit), level)  # noqa: B023
                plain = type(answer)(str(answer)) if isinstance(answer, LandcoverError) else answer
                pipe.send(Logged(plain, records))
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it ends, and removes its temporary files
