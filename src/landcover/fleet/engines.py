"""Processes on this machine that do the units of a fleet."""

from dataclasses import replace
from functools import partial

from landcover.fleet.work import Setup, Worker
from landcover.inference import workers
from landcover.machine import processors


class LocalEngine(workers.LocalEngine):
    """Processes on this machine, each with the model loaded; only lines of the plan travel.

    Args:
        setup: What they need.
        count: Number of processes.
    """

    def __init__(self, setup: Setup, count: int) -> None:
        threads = setup.threads or max(1, processors() // count)
        super().__init__(partial(Worker.begin, replace(setup, threads=threads)), count)
