"""``landcover demo``: from data to report in a procedural world, as a list of calls."""

import json
import time
from pathlib import Path
from shutil import rmtree
from typing import Annotated, Any

import landcover
from landcover.cli._options import Force, option
from landcover.cli._output import log, print_table
from landcover.config import MAIN
from landcover.errors import DataError, ModelError, OutputError
from landcover.io.files import write_text
from landcover.values import points

_STATE, _SUMMARY, _REPORT = "demo.json", "summary.json", "report.html"
_FOLDERS = ("data", "large", "first", "run", "maps", "predicted", "cleaned")
_FILES = ("evaluation.json", _STATE, _SUMMARY, _REPORT)
"""What the demo writes; ``--force`` removes it."""

_MIN_REGION = "150m2"
_LARGE_WORLD = 1 << 32
"""Added to the seed for the larger scene, which no training scene overlaps."""

SHORT = {"scenes": 40, "steps": 120, "size": 512, "large_size": 1536}
FULL = {"scenes": 64, "steps": 280, "size": 512, "large_size": 1536}


def demo(
    out: Annotated[Path, option("Folder of everything that the demo writes.", group=MAIN)] = Path("demo"),
    seed: Annotated[
        int, option("Seed of the procedural world.", group=MAIN, min=0, max=_LARGE_WORLD - 1)
    ] = 0,
    full: Annotated[
        bool, option("Train longer, on more scenes: about five minutes.", "--full", group=MAIN)
    ] = False,
    force: Force = False,
) -> None:
    """Run the end-to-end demo: map, train, score, report.

    Maps a procedural scene with the bundled model first. Then trains a small network for about 90 seconds on
    two cores, scores it on held-out scenes, maps the scene again, cleans the map and writes a report. Run
    again, it shows the result; after an interruption, training continues.
    """
    settings = {"version": landcover.__version__, "seed": seed, **(FULL if full else SHORT)}
    summary = _begin(out, settings, force=force) or _run(out, settings)
    scored = [summary, *summary["baselines"].values()]
    print_table(
        ["IoU %, held-out scenes", "network", *summary["baselines"]],
        ([name, *(points(scores["iou"][name], 1) for scores in scored)] for name in summary["iou"]),
        total=["mean", *(points(scores["miou"], 1) for scores in scored)],
    )
    print(f"Maps:    {out}/first, predicted, cleaned")
    print(f"Report:  {out / _REPORT}")
    print(f"Summary: {out / _SUMMARY}")


def _begin(out: Path, settings: dict[str, Any], *, force: bool) -> dict[str, Any] | None:
    """Prepare the folder; return the summary of the same demo, if it was finished before."""
    state = out / _STATE
    if not state.is_file() and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise OutputError(f"{out} exists and is not a demo. Choose another --out.")
    if state.is_file() and not force:
        earlier = _read(state)
        if differing := [name for name in settings if earlier.get(name) != settings[name]]:
            values = ", ".join(
                f"{name} {earlier.get(name)} there, {settings[name]} here" for name in differing
            )
            raise OutputError(
                f"{out} holds another demo ({values}). Pass --force to replace it, or another --out."
            )
        return _read(out / _SUMMARY) if (out / _SUMMARY).is_file() else None
    for folder in (out / name for name in _FOLDERS):
        if folder.is_dir():
            rmtree(folder)
    for name in _FILES:
        (out / name).unlink(missing_ok=True)
    write_text(state, json.dumps(settings, indent=1) + "\n", force=True)
    return None


def _run(out: Path, settings: dict[str, Any]) -> dict[str, Any]:
    from landcover.cli.training import keep_freed_memory
    from landcover.config import with_overrides
    from landcover.data import open_dataset, select
    from landcover.data.synthetic import GSD, make_dataset
    from landcover.evaluation.baselines import score_baselines
    from landcover.inference import PredictOptions
    from landcover.training import load_preset

    began = time.monotonic()
    data, large, run, overwrite = out / "data", out / "large", out / "run", PredictOptions(force=True)
    world = {"size": settings["large_size"], "seed": _LARGE_WORLD + settings["seed"]}
    make_dataset(large, scenes=1, parts={"scene": 1}, force=True, **world)
    try:
        first = landcover.predict([large], "starter", out / "first", overwrite)
        log.info("[1/6] A scene mapped with the bundled model: %s", first.maps[0].task.map)
    except ModelError as error:  # an installation without model files
        log.warning("[1/6] No map with the bundled model: %s", error)
    if not (run / "last.safetensors").exists():  # else an interrupted training continues, on the same scenes
        make_dataset(
            data, scenes=settings["scenes"], size=settings["size"], seed=settings["seed"], force=True
        )
    report = landcover.verify(data)
    if not report.ok:
        raise DataError(f"{data} is damaged. Pass --force to start again.")
    log.info("[2/6] %d procedural scenes with their land cover: %s", report.pairs, data)
    log.info("[3/6] Training a small network from random weights, %d steps ...", settings["steps"])
    keep_freed_memory()
    overrides = [f"{name}={settings[name]}" for name in ("seed", "steps")]
    config = with_overrides(load_preset("demo"), overrides)
    if landcover.train(config, data=data, out=run).reason == "interrupted":
        raise KeyboardInterrupt
    held_out, dataset = "folders:validation", open_dataset(data)
    options = landcover.EvaluateOptions(maps=out / "maps", json=out / "evaluation.json", force=True)
    landcover.evaluate(dataset, held_out, model=run, options=options)
    scores = _read(out / "evaluation.json")
    baselines = score_baselines(dataset, select(dataset, "folders:train"), select(dataset, held_out))
    log.info("[4/6] Scored on %d held-out scenes: mIoU %s", scores["images"], points(scores["miou"], 1))
    landcover.predict([large], run, out / "predicted", overwrite)
    landcover.clean([out / "predicted"], out / "cleaned", min_region=_MIN_REGION, gsd=GSD, force=True)
    log.info("[5/6] The scene mapped with the new network, small regions removed: %s", out / "cleaned")
    landcover.report([run, out / "evaluation.json"], out / _REPORT, title="landcover demo", force=True)
    log.info("[6/6] Report: %s", out / _REPORT)
    summary = {
        "miou": scores["miou"],
        "colour_baseline_miou": max(baseline.miou or 0.0 for baseline in baselines.values()),
        "seconds": round(time.monotonic() - began, 1),
        "iou": scores["iou"],
        "pixel_accuracy": scores["pixel_accuracy"],
        "baselines": {name: baseline.to_dict() for name, baseline in baselines.items()},
        "settings": settings,
    }
    write_text(out / _SUMMARY, json.dumps(summary, indent=1) + "\n", force=True)
    return summary


def _read(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        content.keys()
    except (OSError, ValueError, AttributeError) as error:
        raise DataError(f"{path} cannot be read ({error}). Pass --force to start the demo again.") from error
    return content
