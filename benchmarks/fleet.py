"""Fleets: overhead per unit, two processes against one, one large scene, memory for a million units.

    python benchmarks/fleet.py --scenes 100                               # overhead per unit
    python benchmarks/fleet.py --scenes 32 --side 2448 --model starter    # two processes against one
    python benchmarks/fleet.py --large 20000 --model starter              # a scene by row blocks
    python benchmarks/fleet.py --units 1000000                            # memory of the driver

Times of a run begin when its workers are ready. Each has one thread of the network. With ``--large`` each is
bound to a core of its own, as on machines of one core: it reads, classifies and writes at the same time, and
one worker would use almost half of the second core, too. Run it where nothing else works.
"""

import argparse
import hashlib
import json
import os
import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import rasterio
from rasterio.transform import from_origin
from rasterio.windows import Window

from landcover.data.synthetic import make_scene
from landcover.fleet.planning import make_plan
from landcover.fleet.run import Run
from landcover.fleet.units import Outcome, Pin, Plan, Unit, write_plan
from landcover.fleet.work import LocalEngine, Setup
from landcover.inference import PredictOptions, predict
from landcover.inference.workers import Slot
from landcover.model.runtimes import open_model
from landcover.storage.store import open_store

MODEL = Path(__file__).parents[1] / "tests/golden/model.onnx"


class Ready(LocalEngine):
    """Waits until its workers have loaded the model; notes when the last unit began, such as an assembly.

    With ``bound``, each worker has a core of its own.
    """

    last_began = last_cpu_s = 0.0

    def __init__(self, setup: Setup, workers: int, *, bound: bool = False) -> None:
        self._cores = [{core} for core in sorted(os.sched_getaffinity(0))] if bound else []
        super().__init__(setup, workers)
        while not all(slot.is_ready for slot in self._workers):
            list(self.wait(1.0))

    def _start(self, slot: Slot) -> None:
        if not self._cores:
            super()._start(slot)
            return
        all_cores = os.sched_getaffinity(0)
        os.sched_setaffinity(0, self._cores[0])  # of this thread; the process inherits it
        self._cores.append(self._cores.pop(0))
        try:
            super()._start(slot)
        finally:
            os.sched_setaffinity(0, all_cores)

    def submit(self, key: str, line: str) -> None:
        """Give a unit to a free process."""
        self.last_began, self.last_cpu_s = time.perf_counter(), self.cpu_s()
        super().submit(key, line)

    def cpu_s(self) -> float:
        """Return the seconds of a processor that the workers have used; other load hardly changes them."""
        files = (Path(f"/proc/{slot.worker.pid}/stat") for slot in self._workers)
        ticks = (file.read_text().rpartition(")")[2].split()[11:13] for file in files)
        return sum(int(tick) for pair in ticks for tick in pair) / os.sysconf("SC_CLK_TCK")


class Stub:
    """Does every unit at once, and none; notes the memory of this process ten times."""

    slots = 64

    def __init__(self, units: int) -> None:
        self.resident_mb: list[float] = []
        self._keys: list[str] = []
        self._ended, self._units = 0, units

    def submit(self, key: str, line: str) -> None:
        """Take a unit."""
        self._keys.append(key)

    def wait(self, seconds: float) -> Iterator[tuple[str, Outcome]]:
        """Yield all units as done."""
        keys, self._keys = self._keys, []
        for key in keys:
            self._ended += 1
            if self._ended % max(1, self._units // 10) == 0:
                pages = int(Path("/proc/self/statm").read_text().split()[1])
                self.resident_mb.append(round(pages * resource.getpagesize() / 1e6, 1))
            yield key, Outcome("done")

    def close(self) -> None:
        """Do nothing."""


def timed(folder: Path, scenes: int, side: int, model: str) -> dict[str, Any]:
    """Return seconds per unit of predict and of fleets of one and two processes."""
    from PIL import Image

    (folder / "scenes").mkdir()
    base = min(side, 1024)
    tiles = [make_scene(seed, base, base).image for seed in range(min(scenes, 8))]
    for number in range(scenes):
        image = np.tile(tiles[number % 8], (-(-side // base), -(-side // base), 1))[:side, :side]
        Image.fromarray(image).save(folder / f"scenes/{number}.png", compress_level=1)
    options = PredictOptions(gsd=2.0)
    runtime = open_model(model, threads=1)
    predict([folder / "scenes/0.png"], runtime, folder / "warm", options)
    began = time.perf_counter()
    predict([folder / "scenes"], runtime, folder / "predict", options)
    seconds = {"predict": time.perf_counter() - began}
    for workers in (1, 2):
        out = str(folder / f"fleet{workers}")
        make_plan([folder / "scenes"], model, out, options)
        engine = Ready(Setup(out, threads=1), workers)
        try:
            began = time.perf_counter()
            assert Run(open_store(out), engine).run().done == scenes
            seconds[f"fleet of {workers}"] = time.perf_counter() - began
        finally:
            engine.close()
    return {
        "ms_per_unit": {name: round(1000 * took / scenes, 2) for name, took in seconds.items()},
        "overhead_ms": round(1000 * (seconds["fleet of 1"] - seconds["predict"]) / scenes, 2),
        "two_processes_against_one": round(seconds["fleet of 1"] / seconds["fleet of 2"], 3),
    }


def large(folder: Path, side: int, gsd: float, model: str) -> dict[str, Any]:
    """Return the seconds of one scene by fleets of one and two processes, and those of a square kilometre."""
    scene, place = folder / "large.tif", from_origin(5e5, 5.7e6, gsd, gsd)
    tile = np.moveaxis(make_scene(0, 1024, 1024).image, 2, 0)
    row = np.tile(tile, (1, 1, -(-side // 1024)))[:, :, :side]
    how = {
        "driver": "GTiff",
        "count": 3,
        "dtype": "uint8",
        "tiled": True,
        "compress": "deflate",
        "zlevel": 1,
        "BIGTIFF": "IF_SAFER",
        "num_threads": 2,
    }
    with rasterio.open(scene, "w", height=side, width=side, crs="EPSG:32631", transform=place, **how) as file:
        for top in range(0, side, 1024):
            rows = min(1024, side - top)
            file.write(row[:, :rows], window=Window(0, top, side, rows))
    square_km = (side * gsd / 1000) ** 2
    found: dict[str, Any] = {"pixels": side**2, "square_km": square_km}
    digests = set()
    for workers in (1, 2):
        out = folder / f"large{workers}"
        plan = make_plan([scene], model, str(out), unit_mpx=side**2 / 6e6)
        engine = Ready(Setup(str(out), threads=1), workers, bound=True)
        try:
            began, began_cpu = time.perf_counter(), engine.cpu_s()
            assert Run(open_store(out), engine).run().complete
            whole, cpu = time.perf_counter() - began, engine.cpu_s() - began_cpu
        finally:
            engine.close()
        blocks = engine.last_began - began
        found[f"fleet of {workers}"] = {
            "blocks_s": round(blocks, 1),
            "blocks_cpu_s": round(engine.last_cpu_s - began_cpu, 1),
            "assembly_s": round(whole - blocks, 1),
        }
        digests.add(hashlib.sha256((out / "maps/large_mask.tif").read_bytes()).hexdigest())
        if workers == 1:
            one, written = blocks, sum(path.stat().st_size for path in (out / "maps").iterdir())
            found["per_square_km"] = {
                "seconds": round(whole / square_km, 4),
                "cpu_seconds": round(cpu / square_km, 4),
                "bytes_read": round(scene.stat().st_size / square_km),
                "bytes_written": round(written / square_km),
            }
    found |= {"units": plan.units, "identical": len(digests) == 1}
    return found | {"two_processes_against_one": round(one / blocks, 3)}


def memory(folder: Path, units: int) -> dict[str, Any]:
    """Return the memory of this process, in MB, while a plan is written and run by a stub: all, and a share.

    One scene in about nine hundred is large: 99 units of row blocks, and its assembly.
    """

    def listed() -> Iterator[Unit]:
        for number in range(units):
            part = number % 1000 - 900  # of a large scene, from 0 to 99
            scene = number - max(0, part)
            pin = Pin(f"/scenes/{scene:07}.tif", 1 << 24, f"sha256:{scene:064x}", scene)
            yield Unit(
                output=f"maps/{scene:07}_mask.tif",
                scene=pin.path,
                picture=False,
                scale=(0.5, "raster"),
                size=(2448, 2448),
                transform=None,
                pins=(pin,),
                blocks=(part, part + 1) if 0 <= part < 99 else None,
                parts=tuple(f"{key:064x}" for key in range(99)) if part == 99 else (),
                pixels=2448**2,
                model_pixels=10**6,
                square_metres=1.5e6,
                bbox=(5.0, 52.0, 5.1, 52.1),
            )

    def peak() -> float:
        return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6, 1)

    store, found = open_store(folder / "memory"), dict[str, Any](before=peak())
    plan = Plan("model/0/none.onnx", "0" * 64, "openvino", "fp32", "cpu", {})
    began = time.perf_counter()
    write_plan(store, plan, listed(), pixels_per_s=1e6)
    found |= {"written": peak(), "write_s": round(time.perf_counter() - began, 1)}
    for name, shard in (("run", (0, 1)), ("share", (0, 10))):
        began, stub = time.perf_counter(), Stub(units // shard[1])
        done = Run(store, stub, shard=shard).run().done
        assert done == units if name == "run" else done >= units // 10
        found |= {name: stub.resident_mb, f"{name}_s": round(time.perf_counter() - began, 1)}
    return found | {"peak": peak()}


def main() -> None:
    """Print the results as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--scenes", type=int, default=0)
    parser.add_argument("--side", type=int, default=512, help="of the scenes, in pixels")
    parser.add_argument("--large", type=int, default=0, help="side of a large scene, in pixels")
    parser.add_argument("--gsd", type=float, default=2.39, help="of the large scene, in metres")
    parser.add_argument("--units", type=int, default=0, help="of a plan that is run by a stub")
    parser.add_argument("--model", default=str(MODEL))
    arguments = parser.parse_args()
    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if arguments.units:
            result["memory_mb"] = memory(folder, arguments.units)
        if arguments.scenes:
            result |= timed(folder, arguments.scenes, arguments.side, arguments.model)
        if arguments.large:
            result["large"] = large(folder, arguments.large, arguments.gsd, arguments.model)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
