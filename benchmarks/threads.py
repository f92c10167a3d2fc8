"""Training with the threads that the command line chooses, on a quiet machine and beside a busy process.

Prints steps in a fixed time: on a quiet machine with libgomp's spinning and with sleeping threads, and beside
one busy process with one thread, with two spinning, with two sleeping and with landcover's own choice. Run it
on a machine where nothing else works.

``--choice --seconds 30`` compares landcover's choice with the first way alone, in under six minutes.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from landcover.data.synthetic import make_dataset
from landcover.training.log import read_log

SLEEP = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0"}
SHORT_SPIN = {"GOMP_SPINCOUNT": "10000"}
WAYS = {
    "quiet": {
        "two threads, libgomp's default": (2, {"GOMP_SPINCOUNT": "300000"}),
        "two threads, sleeping": (2, SLEEP),
        "two threads, 10,000 spins": (2, SHORT_SPIN),
        "landcover's choice": (None, {}),
    },
    "busy": {
        "one thread": (1, {}),
        "two threads, libgomp's default": (2, {"GOMP_SPINCOUNT": "300000"}),
        "two threads, sleeping": (2, SLEEP),
        "two threads, 10,000 spins": (2, SHORT_SPIN),
        "landcover's choice": (None, {}),
    },
}


def steps(data: Path, out: Path, threads: int | None, variables: dict[str, str], seconds: float) -> float:
    """Return the crops per second of a training of the preset starter, without its first ten steps."""
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"} | variables
    number = "null" if threads is None else threads
    command = [sys.executable, "-m", "landcover", "train", "--data", data, "--out", out, "--quiet"]
    command += ["--preset", "starter", "--weights", "none", "--minutes", f"{seconds / 60}"]
    command += ["--set", f"threads={number}", "--set", "log_every=1", "--set", "validation.percent=100"]
    command += ["--set", "freeze=[]", "--set", "gsd=0.5"]  # no weights; the scenes are as large as crops
    subprocess.run(list(map(str, command)), env=environment, check=True)
    times = [(line["images"], line["seconds"]) for line in read_log(out) if line["event"] == "step"]
    if len(times) < 2:
        raise SystemExit(f"A training of {seconds:g} s made {len(times)} steps; pass more --seconds.")
    (first, begin), (last, end) = times[min(10, len(times) - 2)], times[-1]
    return float((last - first) / (end - begin))


def main() -> None:
    """Run all ways and print them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seconds", type=float, default=90, help="duration of each training")
    parser.add_argument("--repeats", type=int, default=2, help="rounds, in turns")
    parser.add_argument("--choice", action="store_true", help="only landcover's choice and the first way")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = make_dataset(folder / "data", scenes=8, size=512)
        for load, ways in WAYS.items():
            if arguments.choice:
                ways = dict([*ways.items()][:: len(ways) - 1])
            speeds: dict[str, list[float]] = {way: [] for way in ways}
            for number in range(arguments.repeats):
                for way, (threads, variables) in ways.items():
                    busy = (
                        subprocess.Popen([sys.executable, "-c", "while True: pass"])
                        if load == "busy"
                        else None
                    )
                    try:
                        out = folder / f"{load} {way} {number}"
                        speeds[way].append(steps(data, out, threads, variables, arguments.seconds))
                    finally:
                        if busy is not None:
                            busy.kill()
                            busy.wait()
            base = max(next(iter(speeds.values())))
            for way, found in speeds.items():
                shown = ", ".join(f"{speed:.2f}" for speed in found)
                print(f"{load:6} {way:32} {shown} crops/s  {max(found) / base:.2f} of the first", flush=True)


if __name__ == "__main__":
    main()
