"""Our training against the reference recipe on the same scene-disjoint folds, at the same minutes.

``python -m landcover.benchmarks.training --data D --weights W --folds 0 1 2 --minutes 25 --out DIR``

Each training is a process of its own, one after the other, fold by fold, so that both contenders meet the
same machine. What is finished is not done again: an interrupted comparison goes on where it stopped.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from landcover.config import with_overrides
from landcover.errors import OutputError
from landcover.files import write_text
from landcover.training import load_preset

_PLAN = "plan.json"


def compare(
    data: Path,
    weights: Path,
    out: Path,
    *,
    folds: Sequence[int],
    count: int = 5,
    minutes: float = 25,
    preset: str = "starter",
    settings: Sequence[str] = (),
) -> dict[str, Any]:
    """Train and score both contenders on each fold.

    Args:
        data: Data folder with a ``scenes.csv``.
        weights: ImageNet weights of ``mobilenetv2_100``, where both encoders start.
        out: Folder of runs and results.
        folds: Which of the folds to run.
        count: Into how many folds the scenes are shared out.
        minutes: Wall time of each training.
        preset: Our recipe.
        settings: Changes to it, ``key=value``.

    Returns:
        ``folds`` (for each: ``fold``, and for ``reference`` and ``landcover`` the mIoU, the IoU per class,
        images seen and seconds), and the means over folds ``reference``, ``landcover`` and ``difference``, in
        points.

    Raises:
        OutputError: If the folder holds results of another plan, or of none that is known.
    """
    _begin(
        out,
        {
            "data": str(data.resolve()),
            "weights": str(weights.resolve()),
            "folds": f"scenes-k{count}",
            "minutes": minutes,
            "preset": preset,
            "settings": list(settings),
            "recipe": with_overrides(load_preset(preset), settings).model_dump(mode="json"),
        },
    )
    cache = out / "cache"
    _run("landcover", "prepare", data, "--out", cache)
    rows: list[dict[str, Any]] = []
    for fold in folds:
        split = f"scenes-k{count}@{fold}"
        theirs, run, ours = (
            out / f"reference-{fold}.json",
            out / f"landcover-{fold}",
            out / f"landcover-{fold}.json",
        )
        if not theirs.exists():
            arguments = ["--data", data, "--split", split, "--weights", weights, "--minutes", minutes]
            _run("landcover.benchmarks.reference", *arguments, "--json", theirs)
        if not ours.exists():
            arguments = ["--data", cache, "--split", split, "--preset", preset, "--weights", weights]
            changes = ["validation.percent=100", "validation.keep=last", *settings]
            arguments += ["--minutes", minutes, "--out", run]
            _run(
                "landcover", "train", *arguments, *(word for change in changes for word in ("--set", change))
            )
            _run(
                "landcover",
                "evaluate",
                "--data",
                cache,
                "--split",
                f"{split}:val",
                "--model",
                run,
                "--json",
                ours,
            )
        rows.append({"fold": fold, "reference": _summary(theirs), "landcover": _summary(ours) | _effort(run)})
    means = {name: 100 * mean(row[name]["miou"] for row in rows) for name in ("reference", "landcover")}
    return {"folds": rows, **means, "difference": means["landcover"] - means["reference"]}


def _begin(out: Path, plan: dict[str, Any]) -> None:
    """Write down what the results in a folder are of, or see that it is the same plan as before."""
    file = out / _PLAN
    if not file.exists() and any(out.glob("*-*.json")):
        raise OutputError(f"{out} holds results, but no {_PLAN} that says of what. Choose another --out.")
    there = json.loads(file.read_text(encoding="utf-8")) if file.exists() else plan
    differing = [key for key in plan if there.get(key) != plan[key]]
    if differing:
        raise OutputError(
            f"{out} holds results of another {', '.join(differing)} ({file}). Choose another --out, or give "
            "the same to go on."
        )
    write_text(file, json.dumps(plan, indent=1) + "\n", force=True)


def _run(module: str, *arguments: object) -> None:
    subprocess.run([sys.executable, "-m", module, *map(str, arguments)], check=True)


def _summary(path: Path) -> dict[str, Any]:
    result = json.loads(path.read_text(encoding="utf-8"))
    return {key: result[key] for key in ("miou", "iou", "images", "seconds") if key in result}


def _effort(run: Path) -> dict[str, Any]:
    events = map(json.loads, (run / "log.jsonl").read_text(encoding="utf-8").splitlines())
    last = [event for event in events if event["event"] == "step"][-1]
    return {"images": last["images"], "seconds": last["seconds"]}


def main() -> None:
    """Run the comparison, print its table and write it as ``comparison.json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--folds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--minutes", type=float, default=25)
    parser.add_argument("--preset", default="starter")
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="KEY=VALUE")
    options = parser.parse_args()
    result = compare(
        options.data,
        options.weights,
        options.out,
        folds=options.folds,
        minutes=options.minutes,
        preset=options.preset,
        settings=options.settings,
    )
    print("fold  reference  landcover  difference  images seen")
    for row in result["folds"]:
        theirs, ours = row["reference"], row["landcover"]
        print(
            f"{row['fold']:>4} {100 * theirs['miou']:10.2f} {100 * ours['miou']:10.2f} "
            f"{100 * (ours['miou'] - theirs['miou']):+11.2f}  {theirs['images']} and {ours['images']}"
        )
    print(f"mean {result['reference']:10.2f} {result['landcover']:10.2f} {result['difference']:+11.2f}")
    write_text(options.out / "comparison.json", json.dumps(result, indent=1) + "\n", force=True)


if __name__ == "__main__":
    main()
