r"""Train and score the compared models alike, with intervals: the tables of docs/reports/accuracy.md.

    python benchmarks/accuracy.py scenes --data DATA --out OUT --models reference starter --minutes 25 \
      --weights mobilenetv2_100=MOBILENET.safetensors

``models.toml`` describes the models. Each training is a process of its own, fold by fold, so that all models
get the same machine. A result that exists is not made again: the same command continues after a stop, and
models, folds and seeds can be added. ``--report-only`` makes the tables of the results in a folder.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import combinations, groupby
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from landcover.data import open_dataset, select
from landcover.evaluation.estimators import bootstrap_interval
from landcover.legend import DEEPGLOBE
from landcover.metrics import ConfusionMatrix

HERE = Path(__file__).parent
LAST_WEIGHTS = ("validation.percent=100", "validation.images=null", "validation.keep=last")
"""Settings of trainings that choose nothing by a score."""


@dataclass(frozen=True)
class Protocol:
    """What is trained on and scored.

    Attributes:
        split: The split, with ``{fold}`` where there are folds.
        subset: The subset that is scored.
        folds: Numbers of the folds, or (None,).
        settings: Settings of landcover's trainings that decide which weights are scored.
        metrics: The first one leads.
        about: A sentence for the report.
    """

    split: str
    subset: str
    folds: Sequence[int | None]
    settings: Sequence[str]
    metrics: Sequence[str]
    about: str


PROTOCOLS = {
    "scenes": Protocol(
        "scenes-k5@{fold}",
        "val",
        range(5),
        LAST_WEIGHTS,
        ("challenge",),
        "Five scene-disjoint folds of the training tiles: trained on four, scored on the fifth.",
    ),
    "in-domain": Protocol(
        "folders",
        "validation",
        (None,),
        LAST_WEIGHTS,
        ("challenge",),
        "Trained on the folder train, scored once on the folder validation, whose tiles are neighbours of "
        "training tiles: optimistic.",
    ),
    "glnet": Protocol(
        "glnet",
        "test",
        (None,),
        ("validation.keep=best",),
        ("challenge", "glnet"),
        "GLNet's lists: trained on 454 images, weights chosen on 207, scored once on 142, which are "
        "neighbours of the others: comparable with papers, and optimistic.",
    ),
}


class Trial(NamedTuple):
    """One training: of a model, on a fold (None: the protocol has a single split), from a seed."""

    model: str
    fold: int | None
    seed: int

    @property
    def stem(self) -> str:
        """Name of its files, such as ``fold-3-seed-0``."""
        return f"seed-{self.seed}" if self.fold is None else f"fold-{self.fold}-seed-{self.seed}"


class Result(NamedTuple):
    """What a training scored.

    Attributes:
        about: ``images, miou, iou, training{steps, images, seconds, precision}, rule, warnings, date`` …
        keys: str (N,), the scored tiles.
        groups: str (N,), the scene of each tile, or its key where the scene is not known.
        tables: int64 (N, K, K + 1), the confusion table of each tile.
    """

    about: dict[str, Any]
    keys: np.ndarray
    groups: np.ndarray
    tables: np.ndarray


# ---- training


def read_models(path: Path, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return the description of each named model; exit where one is missing or not understood."""
    known = tomllib.loads(path.read_text(encoding="utf-8"))
    keys = {"preset", "recipe", "model", "encoder", "set", "minutes", "steps", "views"}
    for name in names:
        if name not in known:
            sys.exit(f"{path} has no model {name!r}; it has {', '.join(known)}.")
        if unknown := known[name].keys() - keys:
            sys.exit(
                f"{path}: {name} has the unknown keys {sorted(unknown)}; expected some of {sorted(keys)}."
            )
        if len(known[name].keys() & {"preset", "recipe", "model"}) != 1:
            sys.exit(f"{path}: {name} needs exactly one of preset, recipe and model.")
    return {name: known[name] for name in names}


def training_command(
    trial: Trial, spec: Mapping[str, Any], run: Path, options: argparse.Namespace
) -> list[str]:
    """Return the command that trains a model; none where it was trained elsewhere or the peer is finished."""
    protocol = PROTOCOLS[options.protocol]
    if "model" in spec or (run / "training.json").is_file():
        return []
    weights = options.weights[spec["encoder"]]
    common = ["--split", protocol.split.format(fold=trial.fold), "--weights", weights, "--out", run]
    limit, value = "minutes", spec.get("minutes", options.minutes)
    if options.steps or "steps" in spec:
        limit, value = "steps", spec.get("steps", options.steps)
    common += [f"--{limit}", value]
    if "recipe" in spec:
        command = [HERE / "smp_peer.py", "--data", options.data, "--seed", trial.seed]
        command += ["--recipe", json.dumps({"encoder": spec["encoder"], **spec["recipe"]})]
    else:
        command = ["-m", "landcover", "train", "--data", options.cache, "--preset", spec["preset"]]
        for setting in (*spec.get("set", ()), *protocol.settings, f"seed={trial.seed}"):
            command += ["--set", setting]
    return [sys.executable, *map(str, command), *map(str, common)]


def train(trial: Trial, spec: Mapping[str, Any], options: argparse.Namespace) -> Path:
    """Train a model unless it was trained elsewhere, and return its run folder or file.

    Ctrl-C reaches the training, too; it writes a checkpoint, with which the same command continues.
    """
    run = options.out / trial.model / trial.stem
    if "model" in spec:
        return Path(spec["model"].format(fold=trial.fold, seed=trial.seed))
    if command := training_command(trial, spec, run, options):
        run.parent.mkdir(parents=True, exist_ok=True)
        environment = dict(os.environ)
        if options.at_once > 1:  # each has its part of the processor, also where it happens to be alone
            environment["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // options.at_once))
        log = run.with_suffix(".log")
        with log.open("w", encoding="utf-8") as output:
            status = subprocess.run(command, stdout=output, stderr=output, env=environment).returncode
        if status:
            lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-10:]
            raise RuntimeError("\n".join([f"{trial.model} {trial.stem} ended with status {status}:", *lines]))
    return run


def effort(run: Path) -> dict[str, Any] | None:
    """Return ``steps, images, seconds, precision`` of a training; None if nothing records it."""
    if (run / "training.json").is_file():
        return dict(json.loads((run / "training.json").read_text())["effort"])
    if not (run / "log.jsonl").is_file():
        return None
    events = {}
    for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines():
        event = json.loads(line)
        events[event["event"]] = event
    config, steps = events["start"]["config"], events["end"]["step"]
    return {
        "steps": steps,
        "images": steps * config["batch_size"] * config.get("accumulate", 1),
        "seconds": events.get("step", events["end"])["seconds"],  # the end includes the last validation
        "precision": events["start"].get("precision", "not recorded"),
    }


# ---- scoring


def score(trial: Trial, spec: Mapping[str, Any], run: Path, options: argparse.Namespace) -> None:
    """Map the held-out tiles, count each against its truth, and write the result."""
    protocol = PROTOCOLS[options.protocol]
    target = options.out / trial.model / trial.stem
    split = f"{protocol.split.format(fold=trial.fold)}:{protocol.subset}"
    maps, scores = Path(f"{target}-maps"), Path(f"{target}-scores.json")
    command = [sys.executable, *(["-m", "landcover", "evaluate"] if "recipe" not in spec else [])]
    command += [str(HERE / "smp_peer.py"), "--score"] if "recipe" in spec else []
    words = ("--data", options.data, "--split", split, "--model", run, "--maps", maps, "--json", scores)
    views = ("--views", spec["views"]) if "views" in spec else ()
    subprocess.run([*command, *map(str, (*words, *views)), "--force"], check=True)
    report = json.loads(scores.read_text())
    dataset = open_dataset(options.data)
    items, tables = select(dataset, split), []
    for item in items:
        matrix = ConfusionMatrix(dataset.legend)
        matrix.update(dataset.read_mask(item), np.asarray(Image.open(maps / f"{item.key}_mask.png")))
        tables.append(matrix.table)
    if np.sum(tables, axis=0)[:, : len(dataset.legend)].tolist() != report["confusion"]:
        raise RuntimeError(f"The maps in {maps} do not have the scores of {scores}.")
    scenes = dataset.scenes or {}
    groups = [f"scene {scenes[item.key].scene}" if item.key in scenes else item.key for item in items]
    rule = "best on val" if "validation.keep=best" in protocol.settings else "last weights"
    if "model" in spec:
        rule = f"as given, {spec['views']} views" if "views" in spec else "as given"
    about = {
        "split": split,
        "rule": "last weights" if "recipe" in spec else rule,
        "settings": spec,
        "at_once": options.at_once,
        **{name: report[name] for name in ("images", "miou", "iou", "pixel_accuracy", "warnings")},
        "training": effort(run),
        "model": str(run),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    np.savez_compressed(
        f"{target}.npz", keys=[item.key for item in items], groups=groups, tables=np.stack(tables)
    )
    Path(f"{target}.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    shutil.rmtree(maps)
    scores.unlink()


def run(options: argparse.Namespace) -> None:
    """Train and score what has no result yet, a fold at a time."""
    specs, protocol = read_models(options.config, options.models), PROTOCOLS[options.protocol]
    folds = protocol.folds if options.folds is None else options.folds
    if wrong := set(folds) - set(protocol.folds):
        sys.exit(f"--folds {sorted(wrong)}: the protocol {options.protocol} has {list(protocol.folds)}.")
    trials = [
        Trial(name, fold, seed)
        for fold in folds
        for seed in options.seeds
        for name in options.models
        if not (options.out / name / f"{Trial(name, fold, seed).stem}.json").is_file()
    ]
    for name, spec in specs.items():
        if "model" in spec:
            continue
        if (encoder := spec.get("encoder")) not in options.weights:
            sys.exit(
                f"{name} starts from ImageNet weights: give --weights {encoder}=FILE, or {encoder}=none."
            )
        if options.minutes is None and options.steps is None and not spec.keys() & {"minutes", "steps"}:
            sys.exit(f"{name} has no limit: give --minutes M.")
    options.cache = options.cache or options.out / "cache"
    if any("preset" in specs[trial.model] for trial in trials) and not options.cache.exists():
        words = ("prepare", options.data, "--out", options.cache)
        subprocess.run([sys.executable, "-m", "landcover", *map(str, words)], check=True)
    for _, same_fold in groupby(trials, key=lambda trial: trial.fold):
        fold_trials = list(same_fold)
        with ThreadPoolExecutor(options.at_once) as pool:
            runs = pool.map(lambda trial: train(trial, specs[trial.model], options), fold_trials)
            for trial, path in zip(fold_trials, runs, strict=True):
                score(trial, specs[trial.model], path, options)
                print(f"{trial.model} {trial.stem} is done.", file=sys.stderr)


# ---- reporting


def read_results(out: Path) -> dict[Trial, Result]:
    """Return every result of a folder, models in the order in which their first result was made."""
    results = {}
    for path in out.glob("*/*seed-*.json"):
        if match := re.fullmatch(r"(?:fold-(\d+)-)?seed-(\d+)", path.stem):
            fold = None if match[1] is None else int(match[1])
            about = json.loads(path.read_text(encoding="utf-8"))
            with np.load(path.with_suffix(".npz")) as arrays:
                arrays = [arrays[name] for name in ("keys", "groups", "tables")]
            results[Trial(path.parent.name, fold, int(match[2]))] = Result(about, *arrays)
    return dict(sorted(results.items(), key=lambda pair: pair[1].about["date"]))


def by_scene(folds: Mapping[int | None, Result]) -> tuple[np.ndarray, np.ndarray]:
    """Return the tables of each scene of each fold, int64 (G, K, K + 1), and the number of its fold (G,)."""
    tables, strata = [], []
    for number, result in enumerate(folds.values()):
        names, index = np.unique(result.groups, return_inverse=True)
        sums = np.zeros((len(names), *result.tables.shape[1:]), np.int64)
        np.add.at(sums, index, result.tables)
        tables.append(sums)
        strata.append(np.full(len(names), number))
    return np.concatenate(tables), np.concatenate(strata)


def miou(tables: np.ndarray, metric: Any = "challenge") -> Any:
    """Return the scores of summed tables."""
    matrix = ConfusionMatrix(DEEPGLOBE)
    matrix.table = tables.sum(axis=0)
    return matrix.scores(metric)


def markdown(protocol: Protocol, results: Mapping[Trial, Result]) -> str:
    """Return the tables of the results: mIoU and IoU in %, differences in points.

    The smallest seed of a fold counts; all seeds are in a table of their own. Means are over the folds that a
    model has, differences over those that both have.
    """
    metric: Any = protocol.metrics[0]
    models: dict[str, dict[int | None, Result]] = {}
    for trial, result in sorted(results.items(), key=lambda pair: (pair[0].fold or 0, -pair[0].seed)):
        models.setdefault(trial.model, {})[trial.fold] = result
    models = {trial.model: models[trial.model] for trial in results}
    several = len(protocol.folds) > 1
    rules = "; ".join(f"{name}: {next(iter(of.values())).about['rule']}" for name, of in models.items())
    views = any("views" in of.about.get("settings", ()) for of in results.values())
    augmentation = "views as named below" if views else "no test-time augmentation"
    blocks = [
        f"{protocol.about} Metric `{metric}`, mIoU over the scored classes, in %, {augmentation}; "
        f"intervals of 95 % by drawing whole scenes with replacement.\nCheckpoints: {rules}."
    ]
    scores, classes, efforts = [], [], []
    for name, of in models.items():
        (tables, strata), folds = by_scene(of), {fold: miou(one.tables).miou for fold, one in of.items()}
        row = [name]
        if several:
            row += [percent(folds.get(fold)) for fold in protocol.folds]
            row += [
                percent(mean(folds.values())),
                interval(bootstrap_interval(tables, DEEPGLOBE, metric, strata=strata)),
            ]
        row += [percent(miou(tables).miou), interval(bootstrap_interval(tables, DEEPGLOBE, metric))]
        row += [percent(miou(tables, other).miou) for other in protocol.metrics[1:]]
        scores.append([*row, str(sum(len(one.keys) for one in of.values())), str(len(tables))])
        classes.append([name, *map(percent, miou(tables).iou.values())])
        trainings = [one.about["training"] for one in of.values()]
        efforts.append([name, *(["–"] * 5 if None in trainings else effort_cells(trainings))])
    heads = ["model", *(f"fold {fold}" for fold in protocol.folds if several)]
    heads += ["mean of folds", "95 %"] if several else []
    heads += ["pooled" if several else "mIoU", "95 %", *(f"metric `{name}`" for name in protocol.metrics[1:])]
    blocks.append(table([*heads, "tiles", "scenes"], scores))
    blocks.append(table(["IoU, pooled", *DEEPGLOBE.scored_names], classes))
    blocks.append(
        table(
            ["effort, mean of trainings", "steps", "images seen", "minutes", "images/s", "precision"], efforts
        )
    )
    rows = [difference_cells(pair, models, metric, several) for pair in combinations(models, 2)]
    heads = ["folds", "mean of folds", "95 %", "pooled"] if several else ["mIoU"]
    blocks += [table(["difference, points", *heads, "95 %"], rows)] if rows else []
    seeds = seed_rows(results)
    heads = ["seeds", "fold", "mIoU by seed", "mean", "standard deviation", "range"]
    blocks += [table(heads, seeds)] if seeds else []
    warnings = sorted({text for result in results.values() for text in result.about["warnings"]})
    blocks += ["\n".join(f"- {text}" for text in warnings)] if warnings else []
    return "\n\n".join(blocks) + "\n"


def difference_cells(
    pair: tuple[str, str], models: Mapping[str, Any], metric: Any, several: bool
) -> list[str]:
    """Return by how much the first of two models is better, on the folds that both have."""
    common = [fold for fold in models[pair[0]] if fold in models[pair[1]]]
    cells = [" - ".join(pair), *([", ".join(map(str, common)) or "none in common"] if several else [])]
    if not common:
        return [*cells, *["–"] * (4 if several else 2)]
    ours, theirs = ({fold: models[name][fold] for fold in common} for name in pair)
    for fold in common:
        if not np.array_equal(ours[fold].keys, theirs[fold].keys):
            sys.exit(f"{' and '.join(pair)} were scored on different tiles of fold {fold}; score one again.")
    (first, strata), (second, _) = by_scene(ours), by_scene(theirs)
    if several:
        change = mean(miou(ours[fold].tables).miou - miou(theirs[fold].tables).miou for fold in common)
        ends = bootstrap_interval(first, DEEPGLOBE, metric, minus=second, strata=strata)
        cells += [points(change), interval(ends, points)]
    ends = bootstrap_interval(first, DEEPGLOBE, metric, minus=second)
    return [*cells, points(miou(first).miou - miou(second).miou), interval(ends, points)]


def effort_cells(trainings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the means over trainings."""
    steps, images, seconds = (mean(one[key] for one in trainings) for key in ("steps", "images", "seconds"))
    precision = ", ".join(sorted({one.get("precision") or "not recorded" for one in trainings}))
    return [
        f"{steps:.0f}",
        f"{images:.0f}",
        f"{seconds / 60:.1f}",
        f"{images / max(seconds, 1e-9):.1f}",
        precision,
    ]


def seed_rows(results: Mapping[Trial, Result]) -> list[list[str]]:
    """Return how much seeds differ on each fold that has several."""
    rows: dict[tuple[str, int | None], dict[int, float]] = {}
    for trial, result in sorted(results.items(), key=lambda pair: (pair[0].fold or 0, pair[0].seed)):
        rows.setdefault((trial.model, trial.fold), {})[trial.seed] = miou(result.tables).miou
    return [
        [
            name,
            "–" if fold is None else str(fold),
            ", ".join(f"{seed}: {percent(one)}" for seed, one in of.items()),
        ]
        + [
            f"{100 * value:.2f}"
            for value in (mean(of.values()), stdev(of.values()), max(of.values()) - min(of.values()))
        ]
        for (name, fold), of in rows.items()
        if len(of) > 1
    ]


def percent(share: float | None) -> str:
    """Format a share in %."""
    return "–" if share is None else f"{100 * share:.1f}"


def points(share: float) -> str:
    """Format a difference of shares in points."""
    return f"{100 * share:+.1f}"


def interval(ends: tuple[float, float] | None, form: Any = percent) -> str:
    """Format an interval."""
    return "–" if ends is None else f"{form(ends[0])} to {form(ends[1])}"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [heads, ["---"] * len(heads), *rows])


def main(arguments: Sequence[str] | None = None) -> None:
    """Do what is not done yet, print the tables and write them to ``OUT/accuracy.md``."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("protocol", choices=PROTOCOLS)
    add("--out", type=Path, required=True, help="folder of runs and results")
    add("--data", type=Path, help="data folder of image files")
    add("--cache", type=Path, help="the same, prepared [default: OUT/cache, made if it is missing]")
    add("--models", nargs="+", default=[], metavar="NAME", help="names in --config")
    add("--config", type=Path, default=HERE / "models.toml")
    add("--minutes", type=float, help="limit of each training, unless --config has one")
    add("--steps", type=int, help="the same in steps")
    add("--weights", nargs="+", default=[], metavar="ENCODER=FILE", help="ImageNet weights")
    add("--folds", type=int, nargs="+", help="[default: all]")
    add("--seeds", type=int, nargs="+", default=[0])
    add("--at-once", type=int, default=1, metavar="N", help="trainings of a fold at the same time")
    add("--report-only", action="store_true", help="make the tables of the results that exist")
    options = parser.parse_args(arguments)
    options.weights = dict(text.split("=", 1) for text in options.weights)
    if not options.report_only:
        if options.data is None or not options.models:
            parser.error("--data and --models are needed, or --report-only")
        run(options)
    results = read_results(options.out)
    if not results:
        sys.exit(f"{options.out} has no results.")
    text = f"# Results of {options.out.name}\n\n" + markdown(PROTOCOLS[options.protocol], results)
    (options.out / "accuracy.md").write_text(text, encoding="utf-8")
    print(text, end="")


if __name__ == "__main__":
    main()
