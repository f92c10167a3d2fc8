"""Kill drivers and workers of fleets at random moments, run the plans again, and compare all bytes.

    python tools/fleet_chaos.py --kills 100 --scenes 200 --large 3
    python tools/fleet_chaos.py --kills 100 --scenes 200 --large 3 --engine ray --bucket

A fleet is planned over procedural scenes and run by ``landcover.fleet`` in a process of its own with two
workers. At a random number of published files, and a random moment later, the driver or one of its workers
gets SIGKILL; a new driver continues. With ``--engine ray`` the workers are actors on two nodes of a cluster
here, of which one may be killed, too, and is replaced. With ``--bucket`` the store is in a server of S3 here,
whose requests may also fail: ten at a time, answered by an error, half or not at all. When the plan is
complete, every file of the store must be that of an undisturbed run in a folder, and none may be left over.
This is repeated until all kills are done.
Linux only.
"""

import argparse
import hashlib
import importlib
import json
import os
import random
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
MODEL = ROOT / "tests/golden/model.onnx"
UNIT_MPX = 0.04


def drive(store: str, log: Path, cluster: str | None) -> None:
    """Run a plan and write each begin and end of a unit into a file: the body of a driver process."""
    from landcover.fleet.ray_engine import RayEngine
    from landcover.fleet.run import Run
    from landcover.fleet.work import LocalEngine, Setup
    from landcover.inference.workers import Engine
    from landcover.storage.store import open_store

    with log.open("a") as file:

        def write(text: str) -> None:
            file.write(text + "\n")
            file.flush()

        setup = Setup(store, threads=1)
        engine: Engine = RayEngine(setup, 2, cluster) if cluster else LocalEngine(setup, 2)
        submit, wait = engine.submit, engine.wait

        def logged_submit(key: str, line: str) -> None:
            write(f"begin {key}")
            submit(key, line)

        def logged_wait(seconds: float) -> Iterator[tuple[str, Any]]:
            for key, outcome in wait(seconds):
                write(f"{getattr(outcome, 'state', 'fault')} {key}")
                yield key, outcome

        vars(engine).update(submit=logged_submit, wait=logged_wait)
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


def files_of(folder: Path) -> dict[str, bytes]:
    """Return every file of a folder but the records of runs, hidden ones too."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.parent.name != "runs"
    }


class Target:
    """The store that a fleet is run in, a folder or a bucket."""

    def __init__(self, folder: Path, proxy: Any = None) -> None:
        from landcover.storage.store import Store, open_store

        self._folder, self._proxy = folder, proxy
        self.address = "s3://maps/out" if proxy else str(folder)
        self._store: Store = open_store(self.address)
        if proxy:  # for all others
            os.environ["AWS_ENDPOINT_URL"] = proxy.address

    def fill(self, planned: Path) -> None:
        """Empty it, and put a plan into it."""
        shutil.rmtree(self._folder, ignore_errors=True)
        for key in [*self._store.list("")]:
            self._store.delete(key)
        for key, data in files_of(planned).items():
            self._store.put(key, data)

    def published(self) -> int:
        """Return the number of receipts."""
        return sum(key.endswith(".json") for folder in ("maps", "parts") for key in self._store.list(folder))

    def digests(self) -> dict[str, str]:
        """Return the digest of every file but the records of runs."""
        keys = [key for key in self._store.list("") if not key.startswith("runs/")]
        found = {key: self._store.read(key) for key in keys} if self._proxy else files_of(self._folder)
        return {key: hashlib.sha256(data).hexdigest() for key, data in found.items()}

    def spoil(self, chance: random.Random) -> None:
        """Let the next requests fail."""
        kinds, methods = ["500", "503:SlowDown", "lost", "cut"], ["PUT", "GET", "HEAD", "DELETE"]
        self._proxy.faults[:] = [(chance.choice(kinds), chance.choice(methods), 1) for _ in range(10)]


class Nodes:
    """A cluster of Ray on this machine: a head without cores, and two nodes of one core."""

    def __init__(self, folder: Path) -> None:
        (folder / "token").write_text(secrets.token_hex(32))
        os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(folder / "token")}
        os.environ |= {"RAY_USAGE_STATS_ENABLED": "0"}
        from ray.cluster_utils import Cluster

        self._memory = {"object_store_memory": 100 << 20}
        head = {"num_cpus": 0, "include_dashboard": False, **self._memory}
        self._cluster: Any = Cluster(initialize_head=True, head_node_args=head)
        self._nodes = [self._add(), self._add()]
        self.address: str = self._cluster.address

    def _add(self) -> Any:
        while True:
            with suppress(Exception):  # of Ray: it waits for 30 seconds, not enough on a busy machine
                return self._cluster.add_node(num_cpus=1, **self._memory)

    def kill(self, chance: random.Random) -> None:
        """Kill a node with all its processes, and start another one."""
        lost = self._nodes.pop(chance.randrange(2))
        self._cluster.remove_node(lost, allow_graceful=False)
        self._nodes.append(self._add())

    def actors(self) -> list[int]:
        """Return the processes of actors."""
        found, left = [], children(os.getpid())
        while left:
            pid = left.pop()
            try:
                left += children(pid)
                if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"ray::_Actor"):
                    found.append(pid)
            except OSError:  # it has just ended
                continue
        return found


def start(store: str, log: Path, nodes: Nodes | None) -> subprocess.Popen[bytes]:
    """Start a driver."""
    command = [sys.executable, __file__, "--drive", store, "--log", str(log)]
    return subprocess.Popen(command + (["--cluster", nodes.address] if nodes else []))


def children(pid: int) -> list[int]:
    """Return the processes that a process has started."""
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(word) for word in text.split()]


def fleet(
    world: Path, planned: Path, chance: random.Random, kills: int, nodes: Nodes | None, target: Target
) -> list[str]:
    """Run one fleet under at most so many kills and bursts of faults; return what they hit."""
    log = world / "log"
    hit: list[str] = []
    others: list[str] = (["node"] * 2 if nodes else []) + (
        ["store"] if target.address.startswith("s3:") else []
    )
    (units,) = planned.glob("plan-*.jsonl")
    most = len(units.read_bytes().splitlines()) // 8  # so that a fleet is killed often
    target.fill(planned)
    while True:
        driver = start(target.address, log, nodes)
        while len(hit) < kills and driver.poll() is None:
            before, more, pause = target.published(), chance.randint(0, most), chance.uniform(0, 0.3)
            while driver.poll() is None and abs(target.published() - before) < more:
                time.sleep(0.05 if "store" in others else 0.005)
            time.sleep(pause)
            if driver.poll() is not None:
                break
            workers = nodes.actors() if nodes else children(driver.pid)[1:]  # first: its tracker
            victims: list[int | str] = [driver.pid, *workers, *others]
            victim = chance.choice(victims)
            if isinstance(victim, int):
                hit.append("driver" if victim == driver.pid else "worker")
                with suppress(ProcessLookupError):  # it has just ended
                    os.kill(victim, signal.SIGKILL)
            else:
                hit.append(victim)
                if victim == "store":
                    target.spoil(chance)
                elif nodes:
                    nodes.kill(chance)
            if victim == driver.pid:
                driver.wait()
        if driver.wait() == 0:
            break
    time.sleep(0.5)  # workers of killed drivers end with their unit
    return hit


@contextmanager
def spoiled_server() -> Iterator[Any]:
    """Run a server of S3 that this process reaches directly; yield the proxy that others go through."""
    sys.path.insert(0, str(ROOT / "tests"))
    tests: Any = importlib.import_module("object_storage")
    with tests.s3_server() as address, tests.FaultProxy(address) as proxy:
        os.environ |= {**tests.ENVIRONMENT, "AWS_ENDPOINT_URL": address}
        yield proxy


def main() -> None:
    """Run fleets until all kills are done; print the failures and a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--scenes", type=int, default=20)
    parser.add_argument("--large", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--engine", choices=["local", "ray"], default="local")
    parser.add_argument("--bucket", action="store_true")
    parser.add_argument("--drive", help=argparse.SUPPRESS)
    parser.add_argument("--log", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--cluster", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.drive:
        drive(arguments.drive, arguments.log, arguments.cluster)
    path = os.pathsep.join(filter(None, (str(ROOT / "src"), os.environ.get("PYTHONPATH"))))
    os.environ |= {"OMP_NUM_THREADS": "1", "LANDCOVER_NO_MODEL_CACHE": "1", "PYTHONPATH": path}
    memory = Path("/dev/shm")  # flushing to a disk takes most of the time
    with (
        tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as name,
        spoiled_server() if arguments.bucket else nullcontext() as proxy,
    ):
        world, chance = Path(name), random.Random(arguments.seed)
        planned = make_world(world, arguments.scenes, arguments.large)
        units = json.loads((planned / "plan.json").read_text())["units"]
        undisturbed = Target(world / "undisturbed")
        fleet(world, planned, chance, 0, None, undisturbed)
        reference = undisturbed.digests()
        (world / "log").unlink()
        target = Target(world / "out", proxy)
        nodes = Nodes(world) if arguments.engine == "ray" else None
        hit: list[str] = []
        fleets, failures = 0, []
        while len(hit) < arguments.kills:
            now = fleet(world, planned, chance, arguments.kills - len(hit), nodes, target)
            hit, fleets, found = hit + now, fleets + 1, target.digests()
            for file in sorted(found.keys() | reference.keys()):
                if found.get(file) != reference.get(file):
                    failures.append(f"fleet {fleets}: {file} is missing, left over or another one")
            print(f"fleet {fleets}: {len(now)} kills, {len(failures)} faults so far", flush=True)
        begun = [line.split()[0] for line in (world / "log").read_text().splitlines()]
    work = begun.count("begin") - begun.count("kept")
    rows = [
        ("kills of the driver", hit.count("driver")),
        ("kills of a worker", hit.count("worker")),
        ("kills of a node of Ray", hit.count("node")),
        ("bursts of ten failing requests", hit.count("store")),
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
