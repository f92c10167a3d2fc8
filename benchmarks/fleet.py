"""Fleets: overhead per unit, two processes against one, and the driver's memory for a million units.

    python benchmarks/fleet.py --scenes 100 --side 512 --units 1000000

Times of a run begin when its workers are ready. Small units show the overhead; with ``--model starter`` and
``--side 2448`` the network takes most of the time, as it does in practice.
"""

import argparse
import json
import os
import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

from landcover.data.synthetic import make_scene
from landcover.fleet.engines import LocalEngine
from landcover.fleet.planning import make_plan
from landcover.fleet.run import Run
from landcover.fleet.store import open_store
from landcover.fleet.units import Outcome, Pin, Plan, Unit, read_plan, read_units, write_plan
from landcover.fleet.work import Setup
from landcover.inference import PredictOptions, predict
from landcover.model.runtimes import open_model

MODEL = Path(__file__).parents[1] / "tests/golden/model.onnx"


class Ready(LocalEngine):
    """Waits until its workers have loaded the model."""

    def __init__(self, setup: Setup, workers: int) -> None:
        super().__init__(setup, workers)
        while not all(worker.ready for worker in self._workers):
            list(self.wait(1.0))


class Stub:
    """Does every unit at once, and none."""

    slots = 64

    def __init__(self) -> None:
        self._keys: list[str] = []

    def submit(self, key: str, line: str) -> None:
        """Take a unit."""
        self._keys.append(key)

    def wait(self, seconds: float) -> Iterator[tuple[str, Outcome]]:
        """Yield all units as done."""
        keys, self._keys = self._keys, []
        for key in keys:
            yield key, Outcome("done")

    def close(self) -> None:
        """Do nothing."""


def timed(folder: Path, scenes: int, side: int, model: str) -> dict[str, Any]:
    """Return seconds per unit of predict and of fleets of one and two processes."""
    from PIL import Image

    (folder / "scenes").mkdir()
    for number in range(scenes):
        Image.fromarray(make_scene(number % 8, side, side).image).save(folder / f"scenes/{number}.png")
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


def memory(folder: Path, units: int) -> dict[str, Any]:
    """Return the peak memory of this process, in MB, before and after a plan is written and run by a stub."""

    def listed() -> Iterator[Unit]:
        for number in range(units):
            pin = Pin(f"/scenes/{number:07}.tif", 1 << 24, f"sha256:{number:064x}", number)
            place = 5.0, 52.0, 5.1, 52.1
            yield Unit(
                output=f"maps/{number:07}_mask.tif",
                scene=pin.path,
                picture=False,
                scale=(0.5, "raster"),
                size=(2448, 2448),
                transform=None,
                pins=(pin,),
                pixels=2448**2,
                model_pixels=10**6,
                square_metres=1.5e6,
                bbox=place,
            )

    def peak() -> float:
        return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)

    store, found = open_store(folder / "memory"), {"before": peak()}
    plan = Plan("model/0/none.onnx", "0" * 64, "openvino", "fp32", "cpu", {})
    began = time.perf_counter()
    write_plan(store, plan, listed(), pixels_per_s=1e6)
    found |= {"written": peak(), "write_s": round(time.perf_counter() - began, 1)}
    began = time.perf_counter()
    assert Run(store, Stub()).run().done == units
    found |= {"run": peak(), "run_s": round(time.perf_counter() - began, 1)}
    assert sum(1 for _ in read_units(store, read_plan(store))) == units
    return found


def main() -> None:
    """Print the results as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--scenes", type=int, default=100)
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--model", default=str(MODEL))
    parser.add_argument("--units", type=int, default=1_000_000, help="0: no measurement of memory")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        result: dict[str, Any] = {}
        if arguments.units:
            result["memory_mb"] = memory(Path(name), arguments.units)
        if arguments.scenes:
            result |= timed(Path(name), arguments.scenes, arguments.side, arguments.model)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
