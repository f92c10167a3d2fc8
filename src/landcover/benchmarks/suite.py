"""All measurements of prediction in one run: times, memory, start, installation, windows and scales."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from landcover.benchmarks import peer_scene, prediction, resources, windowing
from landcover.benchmarks.prediction import chart
from landcover.data import open_dataset, select
from landcover.io.files import write_text
from landcover.model.runtimes import open_model

_WHOLE_PIXELS = 8_000_000
"""Larger mosaics are not given to a network at once."""

_MEMORY_RUNS = 3
"""What the threads hold at the same time hangs on the moment: medians are taken."""


def bench(
    run: Path,
    fp32: Path,
    int8: Path,
    image: Path,
    out: Path,
    *,
    gsd: float = 0.5,
    tiles: Path | None = None,
    split: str | None = None,
    full: Path | None = None,
    width: int = 20_000,
    heights: Sequence[int] = (10_000, 20_000, 40_000),
    geoai: Path | None = None,
    geoai_sides: Sequence[int] = (3_000, 6_000),
    repeats: int = 3,
    force: bool = False,
) -> dict[str, Any]:
    """Measure, and write ``bench.json`` and ``bench.svg``.

    Args:
        run: Checkpoint of the model.
        fp32: The model as ONNX.
        int8: The model as INT8 ONNX.
        image: A JPEG.
        out: Folder of the results, and of scenes of some GB.
        gsd: Metres per pixel of the image.
        tiles: Data folder; its images make the scenes for the memory, and its scenes the mosaics.
        split: ``NAME:part`` of it that the model has not seen, for the mosaics.
        full: Data folder of large labelled images of ``gsd``.
        width: Columns of the scenes.
        heights: Rows of them.
        geoai: Interpreter of an environment with geoai, to map scenes of ``tiles`` beside landcover.
        geoai_sides: Heights and widths of these scenes; geoai's memory grows with their square.
        repeats: Runs of each way.
        force: Replace results.

    Raises:
        UsageError: If ``geoai`` cannot be used.
        OutputError: If there are results and ``force`` is off.
        DataError: If an input cannot be read.
        ModelError: If a model cannot be read.
    """
    if geoai is not None:
        peer_scene.geoai_version(geoai)
    dataset = None if tiles is None or split is None else open_dataset(tiles)
    items = [] if dataset is None or split is None else select(dataset, split)
    if dataset is not None:
        windowing.scene_table(dataset)
    large = None if full is None else open_dataset(full)
    # What cannot be used has been refused by now, not after an hour.
    timings = prediction.compare(image, run, fp32, int8, gsd=gsd, repeats=repeats)
    result: dict[str, Any] = {
        "timings": [asdict(timing) for timing in timings],
        "installed_mb": resources.installed(),
        "cold_start_s": resources.cold_start(int8, image, out / "cold", 5),
    }
    if tiles is not None:
        result["memory"] = _memory(int8, tiles, out, width, heights)
    if tiles is not None and geoai is not None:
        result["beside_geoai"] = peer_scene.compare(int8, geoai, tiles, out, geoai_sides)
    if dataset is not None:
        runtime = open_model(int8)
        result["windows"] = windowing.score_windows(runtime, dataset, items)
        result["scales"] = windowing.score_scales(runtime, dataset, items)
        fit = (scene for scene in windowing.mosaics(dataset, items) if scene.truth.size <= _WHOLE_PIXELS)
        result["paths"] = {"mosaics": windowing.score_paths(open_model(run), runtime, fit)}
    if large is not None:
        scenes = windowing.labelled_images(large)
        paths = result.setdefault("paths", {})
        paths["full size"] = windowing.score_paths(open_model(run), open_model(int8), scenes, gsd)
    write_text(out / "bench.json", json.dumps(result, indent=1) + "\n", force=force)
    write_text(out / "bench.svg", chart(timings), force=force)
    return result


def _memory(model: Path, tiles: Path, out: Path, width: int, heights: Sequence[int]) -> dict[str, Any]:
    found = {}
    for height in heights:
        scene = out / f"{height}x{width}.tif"
        if not scene.exists():
            resources.write_scene(scene, height, width, tiles)
        runs = [resources.memory(model, scene, out / "maps") for _ in range(_MEMORY_RUNS)]
        found[f"{height} x {width}"] = {name: median(run[name] for run in runs) for name in runs[0]}
    return found
