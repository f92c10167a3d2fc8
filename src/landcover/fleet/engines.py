"""Processes on this machine that do the units of a fleet."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

from landcover.errors import LandcoverError
from landcover.fleet.units import Outcome
from landcover.fleet.work import Setup, Worker
from landcover.inference import workers
from landcover.machine import processors


class LocalEngine(workers.LocalEngine):
    """Processes on this machine, each with the model loaded; only lines of the plan travel.

    Args:
        setup: What they need.
        workers: Number of processes.
    """

    def __init__(self, setup: Setup, workers: int) -> None:
        threads = setup.threads or max(1, processors() // workers)
        super().__init__(partial(_begin, replace(setup, threads=threads)), workers)

    def wait(self, seconds: float) -> Iterator[tuple[str, Outcome]]:
        """Yield key and outcome of the units that have ended."""
        for key, outcome in super().wait(seconds):
            ended = isinstance(outcome, LandcoverError)
            yield key, Outcome("fault", str(outcome)) if ended else outcome


def _begin(setup: Setup) -> Callable[[str], Outcome]:
    return Worker(setup).do
