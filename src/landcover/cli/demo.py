"""``landcover demo``: the whole way from data to report, in a world of its own."""

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import landcover
from landcover.errors import DataError, OutputError
from landcover.io.files import write_text

if TYPE_CHECKING:
    from landcover.training import TrainConfig

_STATE = "demo.json"
_SUMMARY = "summary.json"
_REPORT = "report.html"
_FOLDERS = ("data", "large", "run", "maps", "predicted", "cleaned")
_FILES = (_STATE, _SUMMARY, _REPORT, "verify.json", "evaluation.json", "baselines.json", "large.json")
_MIN_REGION = "150m2"
_LARGE_WORLD = 1 << 32
"""Added to the seed for the larger scene: a world that no demo learns from."""

_INTERRUPTED = 130
_SHOWN = 4
"""Differing settings that a message names."""


def demo(
    out: Annotated[Path, typer.Option(help="Folder of everything that the demo makes.")] = Path("demo"),
    seed: Annotated[int, typer.Option(help="Which procedural world.", min=0, max=_LARGE_WORLD - 1)] = 0,
    force: Annotated[
        bool, typer.Option("--force", help="Begin anew, replacing a demo that is there.")
    ] = False,
) -> None:
    """Go the whole way in a small world: make, train, map, report.

    Two to eight minutes on two cores. Makes procedural scenes, verifies them, trains a network, scores it on
    scenes not seen, maps a larger scene, cleans the map and writes a report. Run again, it shows the result;
    stopped half-way, it goes on.
    """
    try:
        summary = _run(out, _Settings(seed), force=force)
    except KeyboardInterrupt:
        print(f"\nStopped. The same command goes on from here, in {out}.", file=sys.stderr)
        raise typer.Exit(_INTERRUPTED) from None
    _print(out, summary)


@dataclass(frozen=True)
class _Settings:
    """What a demo is made with: seed, scenes, their side and the larger scene's in pixels, training."""

    seed: int
    scenes: int = 64
    size: int = 512
    large_size: int = 1536
    preset: str = "demo"
    overrides: tuple[str, ...] = ()

    def training(self) -> "TrainConfig":
        """Return the training configuration in full."""
        from landcover.config import with_overrides
        from landcover.training import load_preset

        return with_overrides(load_preset(self.preset), [f"seed={self.seed}", *self.overrides])

    def record(self) -> dict[str, Any]:
        """Return all that decides what comes out, as plain data; by its name alone, a preset may change."""
        training = self.training().model_dump(mode="json")
        return {
            "version": landcover.__version__,
            "seed": self.seed,
            "scenes": self.scenes,
            "size": self.size,
            "large_size": self.large_size,
            "training": training,
        }


@dataclass(frozen=True)
class _Stage:
    """One step of the demo: its name, what it is about to do, and the work, which returns what came out."""

    name: str
    doing: str
    work: Callable[[Path, _Settings], str]


def _run(out: Path, settings: _Settings, *, force: bool) -> dict[str, Any]:
    """Do the stages that are not done yet and return the summary."""
    seconds = _begin(out, settings, force=force)
    summary = out / _SUMMARY
    if summary.is_file() and (out / _REPORT).is_file():
        return _read(summary)
    for number, stage in enumerate(_STAGES, 1):
        heading = f"[{number}/{len(_STAGES)}] {stage.doing.format(**asdict(settings))}"
        if stage.name in seconds:
            _say(f"{heading}: done before")
            continue
        _say(f"{heading} ...")
        began = time.monotonic()
        result = stage.work(out, settings)
        seconds[stage.name] = round(time.monotonic() - began, 1)
        _keep(out, settings, seconds)
        _say(f"      {result} ({seconds[stage.name]:.0f} s)")
    write_text(summary, json.dumps(_summary(out, settings, seconds), indent=1) + "\n", force=True)
    return _read(summary)


def _begin(out: Path, settings: _Settings, *, force: bool) -> dict[str, float]:
    """Return the seconds of the stages that are done, by name; with ``force`` none is.

    Raises:
        OutputError: If the folder holds something else, or another demo and ``force`` is off.
    """
    state = out / _STATE
    if state.is_file():
        if not force:
            there, here = _read(state), settings.record()
            if there.get("settings") != here:
                from shlex import quote

                again = f"landcover demo --out {quote(str(out))} --seed {settings.seed} --force"
                raise OutputError(
                    f"{out} holds a demo of other settings: {_difference(there.get('settings'), here)}. To "
                    f"begin anew in its place, delete {out} or run: {again}. To keep it, choose another "
                    "--out."
                )
            return dict(there["seconds"])
        from shutil import rmtree

        for name in _FOLDERS:
            rmtree(out / name, ignore_errors=True)
        for name in _FILES:
            (out / name).unlink(missing_ok=True)
    elif out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise OutputError(f"{out} exists already and is no demo. Choose another --out.")
    _keep(out, settings, {})
    return {}


def _keep(out: Path, settings: _Settings, seconds: dict[str, float]) -> None:
    state = {"settings": settings.record(), "seconds": seconds}
    write_text(out / _STATE, json.dumps(state, indent=1) + "\n", force=True)


def _make(out: Path, settings: _Settings) -> str:
    from landcover.data.synthetic import make_dataset

    make_dataset(out / "data", scenes=settings.scenes, size=settings.size, seed=settings.seed, force=True)
    make_dataset(
        out / "large",
        scenes=1,
        size=settings.large_size,
        seed=_LARGE_WORLD + settings.seed,
        parts={"scene": 1},
        force=True,
    )
    return f"and one of {settings.large_size} x {settings.large_size}, in {out}"


def _verify(out: Path, settings: _Settings) -> str:
    report = landcover.verify(out / "data")
    write_text(out / "verify.json", json.dumps(report.to_dict(), indent=1) + "\n", force=True)
    if not report.ok:
        raise DataError(f"{out / 'data'} is damaged: see {out / 'verify.json'}. Pass --force to begin anew.")
    parts = ", ".join(f"{count} in {part}" for part, count in report.parts.items())
    return f"{report.pairs} pairs are whole: {parts}; {len(report.leaks)} leaks between them"


def _train(out: Path, settings: _Settings) -> str:
    config = settings.training()
    result = landcover.train(config, data=out / "data", out=out / "run")
    if result.reason == "interrupted":
        raise KeyboardInterrupt
    return f"{result.step} steps of {config.batch_size} crops"


def _evaluate(out: Path, settings: _Settings) -> str:
    from landcover.data import open_dataset, select
    from landcover.evaluation.baselines import score_baselines

    scores = landcover.evaluate(
        out / "data",
        "folders:validation",
        model=out / "run",
        options=landcover.EvaluateOptions(maps=out / "maps", json=out / "evaluation.json", force=True),
    )
    dataset = open_dataset(out / "data")
    found = score_baselines(dataset, select(dataset, "folders:train"), select(dataset, "folders:validation"))
    baselines = {name: baseline.to_dict() for name, baseline in found.items()}
    write_text(out / "baselines.json", json.dumps(baselines, indent=1) + "\n", force=True)
    return f"mIoU {_points(scores.miou)}; by colour alone {_points(_best_miou(baselines))}"


def _predict(out: Path, settings: _Settings) -> str:
    from landcover.inference import PredictOptions

    prediction = landcover.predict(
        [out / "large"], out / "run", out / "predicted", PredictOptions(force=True)
    )
    largest = max(prediction.areas, key=lambda area: area.pixels)
    return f"most of it is {largest.name}, {100 * largest.share:.0f} %"


def _clean(out: Path, settings: _Settings) -> str:
    from landcover.data.synthetic import GSD

    cleaned = landcover.clean(
        [out / "predicted"], out / "cleaned", min_region=_MIN_REGION, gsd=GSD, force=True
    )
    before, after = (
        landcover.evaluate(out / "large", "all:all", predictions=out / name).miou
        for name in ("predicted", "cleaned")
    )
    write_text(out / "large.json", json.dumps({"miou": before, "cleaned_miou": after}) + "\n", force=True)
    changed = 100 * cleaned.changed / cleaned.pixels
    return f"{changed:.1f} % of the pixels changed; mIoU {_points(before)} before, {_points(after)} after"


def _report(out: Path, settings: _Settings) -> str:
    page = landcover.report(
        [out / "run", out / "evaluation.json"], out / _REPORT, title="landcover demo", force=True
    )
    return f"{page}, {page.stat().st_size / 1e6:.1f} MB"


_STAGES = (
    _Stage("make", "Making {scenes} scenes of {size} x {size} pixels, world {seed}", _make),
    _Stage("verify", "Verifying them", _verify),
    _Stage("train", "Training a small network from random weights", _train),
    _Stage("evaluate", "Scoring it on scenes it has not seen", _evaluate),
    _Stage("predict", "Mapping a scene of {large_size} x {large_size} pixels", _predict),
    _Stage("clean", "Removing small regions from the map", _clean),
    _Stage("report", "Writing the report", _report),
)


def _summary(out: Path, settings: _Settings, seconds: dict[str, float]) -> dict[str, Any]:
    """Return what the demo found. Scores are 0..1; of a stage that was stopped, the last go is timed."""
    scores, baselines, large = (
        _read(out / name) for name in ("evaluation.json", "baselines.json", "large.json")
    )
    return {
        "miou": scores["miou"],
        "colour_baseline_miou": _best_miou(baselines),
        "seconds": round(sum(seconds.values()), 1),
        "stages": seconds,
        "iou": scores["iou"],
        "pixel_accuracy": scores["pixel_accuracy"],
        "baselines": baselines,
        "large_scene": large,
        "settings": settings.record(),
    }


def _print(out: Path, summary: dict[str, Any]) -> None:
    """Print the scores as a table, and where to look."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    table = Table("IoU %, held-out scenes")
    for name in ("network", *summary["baselines"]):
        table.add_column(name, justify="right")
    for name in summary["iou"]:
        row = [summary["iou"][name], *(found["iou"][name] for found in summary["baselines"].values())]
        table.add_row(name, *map(_points, row))
    table.add_section()
    means = [summary["miou"], *(found["miou"] for found in summary["baselines"].values())]
    table.add_row("mean", *map(_points, means))
    console.print(table)
    console.print(f"Made in {summary['seconds']:.0f} s. The map: {out / 'cleaned'}", soft_wrap=True)
    console.print(f"Report:  {out / _REPORT}\nSummary: {out / _SUMMARY}", soft_wrap=True)


def _read(path: Path) -> dict[str, Any]:
    """Read a JSON file that the demo wrote.

    Raises:
        DataError: If it is missing or no JSON.
    """
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read ({error}). Pass --force to begin the demo anew.") from error
    return found


def _best_miou(baselines: dict[str, Any]) -> float:
    return max(found["miou"] or 0.0 for found in baselines.values())


def _difference(there: Any, here: Mapping[str, Any]) -> str:
    """Say which settings differ, nested ones by dotted key."""
    old, new = dict(_flat(there)), dict(_flat(here))
    differing = [
        f"{key} {old.get(key, 'not said')} there, {new.get(key, 'not said')} here"
        for key in {**new, **old}
        if old.get(key) != new.get(key)
    ]
    more = len(differing) - _SHOWN
    return "; ".join(differing[:_SHOWN]) + (f"; and {more} more" if more > 0 else "")


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flat(inner, f"{prefix}.{key}" if prefix else key)
    else:
        yield prefix, value


def _points(score: float | None) -> str:
    return "-" if score is None else f"{100 * score:.1f}"


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
