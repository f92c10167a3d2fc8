"""Our loop against the usual one, images per second: ``python -m landcover.benchmarks.loop --data D``.

Both train one network (our DeepLabv3+ on mobilenetv2_100, widths 256) from random weights on crops of 320 px,
12 at a time, in bfloat16 where the processor has it, with flips and quarter turns, cross-entropy and AdamW.
Ours reads a prepared cache, the other image files. Each run is a process of its own; they take turns.
"""

import argparse
import json
import multiprocessing
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

from landcover.benchmarks.reference import WARM_UP_STEPS, reference_loop
from landcover.config import from_mapping
from landcover.data import open_dataset, prepare, split
from landcover.io.files import write_text
from landcover.model import ModelConfig, build_model
from landcover.training import TrainConfig, train

Rate = Callable[[Path, str, int], float]


def reference_rate(data: Path, name: str, steps: int) -> float:
    """Images per second of the usual loop on the part train of a split."""
    dataset = open_dataset(data)
    network = build_model(ModelConfig(), classes=len(dataset.legend.scored))
    items = split(dataset, name)["train"]
    return reference_loop(network, network.encoder, items, dataset.legend, steps=steps).images_per_second


def our_rate(cache: Path, name: str, steps: int) -> float:
    """Images per second of our loop on the part train of a split."""
    config = from_mapping(
        TrainConfig,
        {
            "steps": steps,
            "precision": "auto",
            "log_every": WARM_UP_STEPS,
            "validation": {"images": 1, "percent": 100},
        },
        "benchmark",
    )
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        train(config, data=cache, out=run, split=name)
        events = map(json.loads, (run / "log.jsonl").read_text(encoding="utf-8").splitlines())
        rates: list[float] = [event["images_per_second"] for event in events if event["event"] == "step"]
    return len(rates[1:]) / sum(1 / rate for rate in rates[1:])


def compare(data: Path, cache: Path, name: str, *, steps: int = 60, rounds: int = 3) -> dict[str, Any]:
    """Time both loops in turns.

    Args:
        data: Folder of image files.
        cache: The same data, prepared.
        name: A split with a part named train.
        steps: Steps of each run, of which the first ten are not timed.
        rounds: Runs of each loop.

    Returns:
        ``reference`` and ``landcover``, images per second of each run; ``ratio``, the median of the
        runs' ratios.
    """
    rates: dict[str, list[float]] = {"reference": [], "landcover": []}
    for _ in range(rounds):
        rates["reference"].append(_apart(reference_rate, data, name, steps))
        rates["landcover"].append(_apart(our_rate, cache, name, steps))
    pairs = zip(rates["landcover"], rates["reference"], strict=True)
    return {**rates, "ratio": median(ours / theirs for ours, theirs in pairs)}


def _apart(rate: Rate, data: Path, name: str, steps: int) -> float:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(rate, data, name, steps).result()


def main() -> None:
    """Print the rates, and write them as JSON where asked to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of image files")
    parser.add_argument("--split", default="folders", help="split with a part named train")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="also write the rates here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder) / "cache"
        prepare(options.data, cache)
        found = compare(options.data, cache, options.split, steps=options.steps, rounds=options.rounds)
    for name in ("reference", "landcover"):
        print(f"{name:10}", *(f"{rate:6.2f}" for rate in found[name]), "images/s")
    print(f"ratio {found['ratio']:.2f}")
    if options.json:
        write_text(options.json, json.dumps(found, indent=1) + "\n", force=True)


if __name__ == "__main__":
    main()
