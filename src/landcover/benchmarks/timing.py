"""Ways to do one job, timed in turns so that a busy machine slows all of them alike."""

import argparse
import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import numpy as np

from landcover.io.files import write_text
from landcover.legend import DEEPGLOBE, UInt8Array


@dataclass(frozen=True, slots=True)
class Timing:
    """One way to do one job.

    Attributes:
        job: What is done, such as ``confusion matrix``.
        way: How it is done.
        ms: Median of the runs in milliseconds.
        ratio: How many times longer it takes than landcover's way.
    """

    job: str
    way: str
    ms: float
    ratio: float


def take_turns(job: str, ways: Mapping[str, Callable[[], object]], repeats: int) -> list[Timing]:
    """Run every way ``repeats`` times, in turns; the first way is what the others are compared to."""
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(repeats):
        for way, run in ways.items():
            start = time.perf_counter()
            run()
            seconds[way].append(time.perf_counter() - start)
    medians = [median(runs) for runs in seconds.values()]
    return [
        Timing(job, way, 1e3 * middle, middle / medians[0])
        for way, middle in zip(seconds, medians, strict=True)
    ]


def print_timings(timings: Iterable[Timing]) -> None:
    """Print a line for each."""
    for timing in timings:
        print(f"{timing.job:26} {timing.way:32} {timing.ms:8.1f} ms {timing.ratio:7.1f} x")


def blocky_index(size: int, seed: int) -> UInt8Array:
    """Return DeepGlobe class indices, uint8 (size, size), in blocks of 24 px with frayed borders."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, len(DEEPGLOBE), (size // 24 + 1, size // 24 + 1), dtype=np.uint8)
    rows, cols = (np.arange(size) + rng.integers(-3, 4, (2, size))).clip(0, size - 1) // 24
    return blocks[np.ix_(rows, cols)]


def run_benchmark(benchmark: Callable[..., list[Timing]], description: str | None, *, repeats: int) -> None:
    """Run a benchmark as the command line has it, print its table, and write it as JSON where asked to.

    Args:
        benchmark: Called with a size and ``repeats``.
        description: What it times.
        repeats: Runs of each way unless told otherwise.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--size", type=int, default=2448, help="edge of the masks in pixels")
    parser.add_argument("--repeats", type=int, default=repeats, help="runs of each way")
    parser.add_argument("--json", type=Path, help="also write the table here")
    options = parser.parse_args()
    timings = benchmark(options.size, repeats=options.repeats)
    print_timings(timings)
    if options.json:
        write_text(options.json, json.dumps([asdict(t) for t in timings], indent=1) + "\n", force=True)
