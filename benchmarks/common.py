"""What the scripts share: ways to do one job timed in turns, and landcover's command line."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np

from landcover.legend import DEEPGLOBE


class Timing(NamedTuple):
    """One way to do one job: median milliseconds, and how many times longer than the first way it takes."""

    job: str
    way: str
    ms: float
    ratio: float


def take_turns(job: str, ways: Mapping[str, Callable[[], object]], repeats: int) -> list[Timing]:
    """Run every way ``repeats`` times, in turns, so that a busy machine slows all of them alike."""
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(repeats):
        for way, run in ways.items():
            start = time.perf_counter()
            run()
            seconds[way].append(time.perf_counter() - start)
    medians = [median(runs) for runs in seconds.values()]
    return [Timing(job, way, 1e3 * ms, ms / medians[0]) for way, ms in zip(seconds, medians, strict=True)]


def print_timings(timings: Iterable[Timing]) -> None:
    """Print a line for each."""
    for timing in timings:
        print(f"{timing.job:44} {timing.way:34} {timing.ms:8.1f} ms {timing.ratio:7.2f} x")


def landcover(*arguments: object) -> None:
    """Run a verb of the command line in a process of its own; its output is shown where it fails."""
    command = [sys.executable, "-m", "landcover", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with status {done.returncode}:\n{done.stderr}")


def report(folder: Path, *arguments: object) -> Any:
    """Run a verb that takes ``--json`` and return its report."""
    path = folder / "report.json"
    landcover(*arguments, "--json", path, "--force")
    return json.loads(path.read_text(encoding="utf-8"))


def blocky_index(size: int, seed: int = 0) -> np.ndarray:
    """Return DeepGlobe class indices, uint8 (size, size), in blocks of 24 px with frayed borders."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, len(DEEPGLOBE), (size // 24 + 1, size // 24 + 1), dtype=np.uint8)
    rows, cols = (np.arange(size) + rng.integers(-3, 4, (2, size))).clip(0, size - 1) // 24
    return blocks[np.ix_(rows, cols)]
