"""Kill drivers and workers of fleets at random moments, run the plans again, and compare all bytes.

    python tools/fleet_chaos.py --kills 100 --scenes 200 --large 3

A fleet is planned over procedural scenes and run by ``landcover.fleet`` in a process of its own with two
workers. At a random number of published files, and a random moment later, the driver or one of its workers
gets SIGKILL; a new driver continues. When the plan is complete, every file of the store must be that of an
undisturbed run, and none may be left over. This is repeated until all kills are done. Linux only.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
MODEL = ROOT / "tests/golden/model.onnx"
UNIT_MPX = 0.04


def drive(store: str, log: Path) -> None:
    """Run a plan and write each begin and end of a unit into a file: the body of a driver process."""
    from landcover.fleet.engines import LocalEngine
    from landcover.fleet.run import Run
    from landcover.fleet.store import open_store
    from landcover.fleet.work import Setup

    class Logged(LocalEngine):
        def submit(self, key: str, line: str) -> None:
            write(f"begin {key}")
            super().submit(key, line)

        def wait(self, seconds: float):  # type: ignore[no-untyped-def]
            for key, outcome in super().wait(seconds):
                write(f"{outcome.state} {key}")
                yield key, outcome

    with log.open("a") as file:

        def write(text: str) -> None:
            file.write(text + "\n")
            file.flush()

        engine = Logged(Setup(store, threads=1), 2)
        try:
            summary = Run(open_store(store), engine, retry=True).run()  # a unit may be killed three times
        finally:
            engine.close()
    sys.exit(0 if summary.complete else 1)


def make_world(folder: Path, small: int, large: int) -> Path:
    """Write the scenes and plan them; return the store with nothing but the plan."""
    import numpy as np
    import rasterio

    from landcover.fleet.planning import make_plan
    from landcover.inference import PredictOptions

    scenes = folder / "scenes"
    scenes.mkdir()
    rng = np.random.default_rng(0)
    sizes = [(f"s{number}", (40, 48)) for number in range(small)]
    for name, (height, width) in sizes + [(f"large{number}", (640, 256)) for number in range(large)]:
        pixels = rng.integers(0, 255, (3, height // 8, width // 8), dtype=np.uint8).repeat(8, 1).repeat(8, 2)
        place = rasterio.transform.from_origin(5e5, 5.7e6, 2, 2)
        options = {"count": 3, "dtype": "uint8", "height": height, "width": width, "driver": "GTiff"}
        with rasterio.open(scenes / f"{name}.tif", "w", **options, crs="EPSG:32631", transform=place) as file:
            file.write(pixels)
    store = folder / "planned"
    options_ = PredictOptions(window_px=64, overlap_px=16, min_region="20px", confidence=True)
    make_plan([scenes], MODEL, str(store), options_, unit_mpx=UNIT_MPX)
    return store


def tree(store: Path) -> dict[str, str]:
    """Return the digest of every file of a store but the records of runs, hidden ones too."""
    return {
        path.relative_to(store).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in store.rglob("*")
        if path.is_file() and path.parent.name != "runs"
    }


def start(store: Path, log: Path) -> subprocess.Popen[bytes]:
    """Start a driver."""
    command = [sys.executable, __file__, "--drive", str(store), "--log", str(log)]
    return subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(ROOT / "src")})


def published(store: Path) -> int:
    """Return the number of receipts."""
    from landcover.fleet.store import open_store

    found = open_store(store)
    return sum(key.endswith(".json") for folder in ("maps", "parts") for key in found.list(folder))


def children(pid: int) -> list[int]:
    """Return the processes that a process has started."""
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(word) for word in text.split()]


def fleet(world: Path, planned: Path, chance: random.Random, kills: int, log: Path) -> tuple[list[str], Path]:
    """Run one fleet under at most so many kills; return whom they hit, and the store."""
    store = world / "out"
    hit: list[str] = []
    (units,) = planned.glob("plan-*.jsonl")
    most = len(units.read_bytes().splitlines()) // 8  # so that a fleet is killed often
    shutil.rmtree(store, ignore_errors=True)
    shutil.copytree(planned, store)
    while True:
        driver = start(store, log)
        while len(hit) < kills and driver.poll() is None:
            before, more, pause = published(store), chance.randint(0, most), chance.uniform(0, 0.3)
            while driver.poll() is None and abs(published(store) - before) < more:
                time.sleep(0.005)
            time.sleep(pause)
            workers = [] if driver.poll() is not None else children(driver.pid)[1:]  # first: its tracker
            victim = chance.choice([driver.pid, *workers])
            if driver.poll() is None:
                os.kill(victim, signal.SIGKILL)
                hit.append("driver" if victim == driver.pid else "worker")
                if victim == driver.pid:
                    driver.wait()
        if driver.wait() == 0:
            break
    time.sleep(0.5)  # workers of killed drivers end with their unit
    return hit, store


def main() -> None:
    """Run fleets until all kills are done; print the failures and a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--scenes", type=int, default=20)
    parser.add_argument("--large", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--drive", help=argparse.SUPPRESS)
    parser.add_argument("--log", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.drive:
        drive(arguments.drive, arguments.log)
    os.environ |= {"OMP_NUM_THREADS": "1", "LANDCOVER_NO_MODEL_CACHE": "1"}
    memory = Path("/dev/shm")  # flushing to a disk takes most of the time
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as name:
        world, chance = Path(name), random.Random(arguments.seed)
        planned = make_world(world, arguments.scenes, arguments.large)
        units = json.loads((planned / "plan.json").read_text())["units"]
        _, store = fleet(world, planned, chance, 0, world / "log")
        reference = tree(store)
        (world / "log").unlink()
        hit: list[str] = []
        fleets, failures = 0, []
        while len(hit) < arguments.kills:
            now, store = fleet(world, planned, chance, arguments.kills - len(hit), world / "log")
            hit, fleets, found = hit + now, fleets + 1, tree(store)
            print(f"fleet {fleets}: {len(now)} kills", flush=True)
            for file in sorted(found.keys() | reference.keys()):
                if found.get(file) != reference.get(file):
                    failures.append(f"fleet {fleets}: {file} is missing, left over or another one")
        begun = [line.split()[0] for line in (world / "log").read_text().splitlines()]
    work = begun.count("begin") - begun.count("kept")
    rows = [
        ("kills of the driver", hit.count("driver")),
        ("kills of a worker", hit.count("worker")),
        ("fleets", f"{fleets} of {arguments.scenes} small scenes and {arguments.large} large ones"),
        ("units of all fleets", fleets * units),
        ("units begun again", f"{work - fleets * units} ({100 * (work / (fleets * units) - 1):.1f} %)"),
        ("files that differ, are missing or left over", len(failures)),
    ]
    table = "\n".join(["| | |", "|---|---|", *(f"| {what} | {number} |" for what, number in rows)])
    print(table, *failures, sep="\n")
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
