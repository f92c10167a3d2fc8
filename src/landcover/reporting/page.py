"""``report``: one self-contained HTML page, which loads nothing from the network.

The functions below prepare what its templates show of each run and evaluation.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from os.path import realpath
from pathlib import Path
from typing import Any

import numpy as np

import landcover
from landcover.errors import UsageError, printable
from landcover.evaluation.overlap import describe_overlap
from landcover.evaluation.report import EvaluationReport
from landcover.extras import needs
from landcover.io.files import refuse_existing, write_text
from landcover.legend import Legend
from landcover.progress import track
from landcover.reporting.collect import Event, Run, Scored, collect
from landcover.reporting.figures import (
    Curve,
    duration,
    line_chart,
    matrix,
    percent,
    percent_tick,
    reliability_chart,
)
from landcover.reporting.pictures import IGNORED, WRONG, draw_scenes, side_px

NO_DATA = "(no data)"
"""Column of the matrix for pixels that were not mapped."""

_IGNORE_SCENES = ("folders", "glnet", "random", "kfold")
"""Splits that ignore which scene an image was cut from."""


def report(
    inputs: Iterable[str | Path],
    out: str | Path,
    *,
    title: str = "Land-cover report",
    images: int = 3,
    force: bool = False,
) -> Path:
    """Write one self-contained HTML page about training runs and evaluations.

    Args:
        inputs: Run folders and JSON files of ``landcover evaluate``, in any order.
        out: The page to write.
        title: Its heading.
        images: Number of the best and of the worst images that are shown for each evaluation.
        force: Replace an existing page.

    Returns:
        ``out``.

    Raises:
        UsageError: If there is no input, ``out`` is one of them or not ``.html``, or ``images`` is negative.
        DataError: If an input is missing or damaged.
        ModelError: If the best model of a run is damaged.
        OutputError: If ``out`` exists already or cannot be written.
        MissingExtraError: If Jinja is not installed.

    Example:
        >>> folder = make_dataset("data", scenes=3, size=64)
        >>> options = lc.EvaluateOptions(json="evaluation.json")
        >>> _ = lc.evaluate(folder, "all:all", model="starter", options=options)
        >>> lc.report(["evaluation.json"], "report.html").name
        'report.html'
    """
    paths, out = [Path(path) for path in inputs], Path(out)
    if images < 0:
        raise UsageError(f"--images is {images}; expected 0 or more.")
    if out.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"The page would be {out}; expected a name that ends with .html.")
    if realpath(out) in map(realpath, paths):
        raise UsageError(f"{out} is an input. Pass another file for the page.")
    refuse_existing(out, force=force)
    runs, evaluations = collect(paths)
    with needs("report"):
        from jinja2 import Environment, PackageLoader, StrictUndefined
    side = side_px(2 * images * len(evaluations))
    environment = Environment(
        loader=PackageLoader("landcover.reporting"),
        autoescape=True,
        # What changes the text around it in text from files is escaped; parts of the page are a subclass.
        finalize=lambda value: "\n".join(map(printable, value.split("\n"))) if type(value) is str else value,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": percent, "count": "{:,}".format, "duration": duration}
    page = environment.get_template("report.html.j2").render(
        title=title,
        trainings=[training_view(run) for run in runs],
        scores=[score_view(scored, runs, images, side) for scored in track(evaluations, "Drawing")],
        comparison=comparison_notes([scored.evaluation for scored in evaluations]),
        classes=list(dict.fromkeys(name for scored in evaluations for name in scored.evaluation.iou)),
        swatches=swatches(evaluations, runs),
        wrong=css_colour(WRONG),
        ignored=css_colour(IGNORED),
        version=landcover.__version__,
    )
    write_text(out, page, force=force)
    return out


def score_view(scored: Scored, runs: Sequence[Run], images: int, side_px: int) -> dict[str, Any]:
    """Prepare an evaluation for the page, with ``images`` of the best and as many of the worst images.

    ``spread`` counts images by their mIoU in steps of 5 %; ``reliability`` shows accuracy over confidence.
    """
    evaluation = scored.evaluation
    counts, classes = evaluation.confusion, evaluation.classes
    if any(evaluation.missed):
        counts, classes = np.pad(counts, ((0, 1), (0, 1))), [*classes, NO_DATA]
        counts[:-1, -1] = evaluation.missed
    mious = [row.miou for row in evaluation.per_image if row.miou is not None]
    bins = evaluation.calibration.bins if evaluation.calibration else []
    return {
        "evaluation": evaluation,
        "name": scored.name,
        "notes": evaluation_notes(evaluation, runs),
        "matrix": matrix(counts, classes, list(evaluation.iou)),
        "spread": np.histogram(mious, bins=20, range=(0.0, 1.0))[0].tolist(),
        "scenes": draw_scenes(evaluation, scored.legend, images, side_px) if images else None,
        "reliability": reliability_chart([(b.confidence, b.accuracy) for b in bins]) if bins else None,
    }


def evaluation_notes(evaluation: EvaluationReport, runs: Sequence[Run] = ()) -> list[str]:
    """Return the notes on one evaluation: its own warnings, a split that may leak, an unusual metric.

    Of ``runs`` it may have scored the best model, on the subset by which that was chosen.
    """
    notes = list(evaluation.warnings)
    overlap = evaluation.training_overlap
    if overlap is not None and (sentence := describe_overlap(overlap)):
        notes.append(sentence)
    split = evaluation.split.split(":")[0]
    images_known = overlap is not None and overlap.identical is not None
    scenes_known = overlap is not None and (overlap.same_scene or overlap.status == "no overlap")
    if split.split("-")[0] in _IGNORE_SCENES and not scenes_known:
        notes.append(
            f"The split {split} ignores scenes. Where images are tiles of larger scenes, neighbouring tiles "
            "are in training and evaluation and this number is optimistic. A split scenes-kK@I keeps scenes "
            "apart."
        )
    elif split == "all" and not images_known:
        notes.append(
            "All images were scored. If the model was trained on some of them, this number is optimistic."
        )
    notes += [
        f"The best step of run {run.name} was chosen by its scores on {evaluation.split}. If these are the "
        "same images, this number is slightly optimistic."
        for run in runs
        # Names of subsets do not prove that the images are the same; cards of 0.1 have nothing else.
        if not images_known
        and run.card is not None
        and run.digest == evaluation.model_sha256
        and run.card.recipe.get("validation", {}).get("keep") == "best"
        and evaluation.split in [score.get("split") for score in run.card.scores]
    ]
    if evaluation.metric != "challenge":
        notes.append(
            f"The metric is {evaluation.metric}: compare it only with numbers of the same metric, not with "
            "the challenge's."
        )
    return notes


def comparison_notes(evaluations: Sequence[EvaluationReport]) -> list[str]:
    """Return a note on differences between the compared evaluations other than the model."""
    names = {"metric": "metric", "split": "split", "images": "number of images", "pixels": "number of pixels"}
    differing = [text for name, text in names.items() if len({getattr(e, name) for e in evaluations}) > 1]
    if not differing:
        return []
    return [f"These evaluations differ in {', '.join(differing)}: their numbers do not compare directly."]


def training_view(run: Run) -> dict[str, Any]:
    """Prepare a run for the page: its facts and its curves over steps and minutes.

    ``charts`` are of the whole, ``classes`` small ones of each class; ``speed`` is in images per second.
    """
    events = sorted((event.step, event.seconds) for event in (*run.steps, *run.validations))
    at, seconds = np.array([(0, 0.0), *events], np.float64).T
    draw = partial(
        line_chart, minutes=lambda step: float(np.interp(step, at, seconds)) / 60, last_step=float(at[-1])
    )
    draw_share = partial(draw, label=percent_tick, y_max=1.0)
    losses = [_curve("training", run.steps, [s.loss for s in run.steps])]
    if any(v.loss is not None for v in run.validations):
        losses.append(
            _curve("validation", run.validations, [v.loss for v in run.validations], style="ink", dots=True)
        )
    charts = [draw("Loss", losses, label="{:.3g}".format)]
    classes = []
    notes = []
    if run.end is None:
        last = run.steps[-1].step if run.steps else 0
        notes.append(f"The run was interrupted or is still running: its log ends at step {last:,}.")
    if run.validations:
        miou = [v.miou for v in run.validations]
        mean = _curve("mean", run.validations, miou, style="ink")
        charts.append(draw_share("Validation mIoU", [_curve("mIoU", run.validations, miou, dots=True)]))
        for name in run.validations[-1].iou:
            curve = _curve(name, run.validations, [v.iou.get(name) for v in run.validations], dots=True)
            classes.append(draw_share(name, [mean, curve], ticks=2))
    else:
        notes.append("The run has not been validated yet.")
    rates = _curve("learning rate", run.steps, [s.lr for s in run.steps])
    charts.append(draw("Learning rate", [rates], label="{:.2g}".format))
    speeds = [s.images_per_second for s in run.steps if s.images_per_second is not None]
    return {
        "run": run,
        "notes": notes,
        "charts": charts,
        "classes": classes,
        "steps": int(at[-1]),
        "seconds": float(seconds[-1]),
        "speed": float(np.median(speeds)) if speeds else None,
    }


def swatches(scores: Iterable[Scored], runs: Iterable[Run]) -> Mapping[str, str]:
    """Return a CSS colour for each class name; evenly spaced hues for classes without a legend."""
    legends: list[Legend | None] = []
    names: list[str] = []
    for scored in scores:
        legends.append(scored.legend)
        names += scored.evaluation.classes
    for run in runs:
        legends.append(run.legend)
        names += [name for validation in run.validations for name in validation.iou]
    known = {c.name: css_colour(c.colour) for legend in legends if legend for c in legend.classes}
    others = [name for name in dict.fromkeys(names) if name not in known]
    hues = {name: f"hsl({360 * i / len(others):.0f} 60% 55%)" for i, name in enumerate(others)}
    return known | {NO_DATA: "transparent"} | hues


def css_colour(rgb: tuple[int, int, int]) -> str:
    """Return the CSS text of a colour of 0..255 each."""
    return "#{:02x}{:02x}{:02x}".format(*rgb)


def _curve(
    name: str,
    events: Sequence[Event],
    values: Iterable[float | None],
    *,
    style: str = "accent",
    dots: bool = False,
) -> Curve:
    """Return one value over events; None becomes a gap."""
    steps = np.array([event.step for event in events], np.float64)
    return Curve(name, steps, np.array([np.nan if v is None else v for v in values], np.float64), style, dots)
