"""How fast a run goes: the number of threads it starts with, and a warning when it becomes slow."""

import os
from pathlib import Path

import torch

from landcover.machine import idle_processors, processors
from landcover.training.log import LOG_NAME, read_log

_SLOW = 3
_WINDOW_S = 60.0


def choose_threads(setting: int | None, folder: Path, processes: int = 1) -> int:
    """Return the number of threads on a CPU: one for each idle processor, once per run, unless it is set.

    Threads that share a processor with another program hold up all others at each layer. A resumed run keeps
    its number, as the result depends on it in bits, unless fewer processors are left. ``processes`` of the
    run on this machine share the processors.
    """
    if setting is not None:
        return setting
    default = torch.get_num_threads()
    if "OMP_NUM_THREADS" in os.environ:  # the user's choice, which torch has taken over
        return default
    if (folder / LOG_NAME).is_file():
        starts = [line.get("threads") for line in read_log(folder) if line["event"] == "start"]
        if starts and isinstance(starts[-1], int) and starts[-1] > 0:
            return min(starts[-1], processors())
    return max(1, min(default, round(idle_processors())) // processes)


class Pace:
    """The speed of a run; ``first``: steps in the first minute, None before its end."""

    def __init__(self) -> None:
        self.first: float | None = None
        self._steps, self._seconds, self._warned = 0, 0.0, False

    def step(self, seconds: float) -> str | None:
        """Count a step; return a warning, once, after a minute with a third of the first one's speed."""
        self._steps, self._seconds = self._steps + 1, self._seconds + seconds
        if self._seconds < _WINDOW_S:
            return None
        speed = 60 * self._steps / self._seconds
        self._steps, self._seconds = 0, 0.0
        if self.first is None:
            self.first = speed
        if self._warned or _SLOW * speed >= self.first:
            return None
        self._warned = True
        return (
            f"Training makes {speed:.1f} steps a minute; in its first minute it made {self.first:.1f}. Other "
            "programs use the processors: stop them, or interrupt and resume with --set threads=1."
        )
