"""Content of the page for a run and for an evaluation: facts, notes, figures and pictures."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from landcover.evaluation.overlap import describe_overlap
from landcover.evaluation.report import EvaluationReport
from landcover.legend import Legend
from landcover.reporting.collect import Event, Run, Scored
from landcover.reporting.figures import (
    Chart,
    Curve,
    Matrix,
    duration,
    line_chart,
    matrix,
    percent,
    percent_tick,
    reliability_chart,
)
from landcover.reporting.pictures import Scenes, draw_scenes

Facts = dict[str, str]
"""Texts by name."""

NO_DATA = "(no data)"
"""Column of the matrix for pixels that were not mapped."""

_IGNORE_SCENES = ("folders", "glnet", "random", "kfold")
"""Splits that ignore which scene an image was cut from."""


@dataclass(frozen=True)
class TrainingView:
    """A run on the page: ``charts`` of the whole, ``classes`` with a small chart for each class."""

    run: Run
    facts: Facts
    notes: list[str]
    charts: list[Chart]
    classes: list[Chart]


@dataclass(frozen=True)
class ScoreView:
    """An evaluation on the page.

    ``spread`` counts images by their mIoU in steps of 5 %; ``reliability`` shows accuracy over confidence.
    """

    evaluation: EvaluationReport
    name: str
    facts: Facts
    notes: list[str]
    matrix: Matrix
    spread: list[int]
    scenes: Scenes | None
    reliability: Chart | None
    reliability_words: str


def score_view(scored: Scored, runs: Sequence[Run], images: int, side_px: int) -> ScoreView:
    """Prepare an evaluation for the page.

    Args:
        scored: The evaluation.
        runs: Runs on the same page, whose best model it may have scored.
        images: Number of the best and of the worst images to draw; 0 leaves them out.
        side_px: Longest side of a picture.
    """
    evaluation = scored.evaluation
    facts = {
        "Metric": evaluation.metric,
        "Split": evaluation.split,
        "Images": f"{evaluation.images:,}",
        "Pixels": f"{evaluation.pixels:,}",
        "Ground sample distance": f"{evaluation.gsd:g} m" if evaluation.gsd is not None else "not stated",
        "Pixel accuracy": percent(evaluation.pixel_accuracy),
        "Model": evaluation.model or "maps of a folder",
        "Data": str(evaluation.data or "not stated"),
    }
    if (cleaned := evaluation.min_region) is not None:
        change = "" if cleaned.miou_change is None else f" ({100 * cleaned.miou_change:+z.1f} points)"
        facts[f"mIoU without regions below {cleaned.min_region}"] = f"{percent(cleaned.miou)}{change}"
    counts, classes = evaluation.confusion, evaluation.classes
    if any(evaluation.missed):
        counts, classes = np.pad(counts, ((0, 1), (0, 1))), [*classes, NO_DATA]
        counts[:-1, -1] = evaluation.missed
    mious = [row.miou for row in evaluation.per_image if row.miou is not None]
    reliability, words = None, ""
    if (calibration := evaluation.calibration) is not None and (bins := calibration.bins):
        reliability = reliability_chart([b.confidence for b in bins], [b.accuracy for b in bins])
        words = (
            f"Each dot is one of {len(bins)} equal groups of pixels; below the diagonal the model is "
            f"overconfident. Calibration error (ECE) {percent(calibration.ece)}"
        )
        if (worst := calibration.worst_class) is not None:
            words += f", at worst {percent(worst.ece)} for pixels predicted as {worst.name}"
        if calibration.temperature is not None:
            fitted = f"fitted on {calibration.fitted_on}" if calibration.fitted_on else "not fitted"
            words += f"; temperature {calibration.temperature:.3g}, {fitted}"
        words += "."
    return ScoreView(
        evaluation,
        scored.name,
        facts,
        evaluation_notes(evaluation, runs),
        matrix(counts, classes, list(evaluation.iou)),
        np.histogram(mious, bins=20, range=(0.0, 1.0))[0].tolist(),
        draw_scenes(evaluation, scored.legend, images, side_px) if images else None,
        reliability,
        words,
    )


def evaluation_notes(evaluation: EvaluationReport, runs: Sequence[Run] = ()) -> list[str]:
    """Return the notes on one evaluation: its own warnings, a split that may leak, an unusual metric.

    Args:
        evaluation: The evaluation.
        runs: Runs whose best model it may have scored, on the subset by which that was chosen.
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


def training_view(run: Run) -> TrainingView:
    """Prepare a run for the page: its facts and its curves over steps and minutes."""
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
    return TrainingView(run, _run_facts(run, int(at[-1]), float(seconds[-1])), notes, charts, classes)


def _run_facts(run: Run, steps: int, seconds: float) -> Facts:
    """Return the setting of a run and its result."""
    speeds = [s.images_per_second for s in run.steps if s.images_per_second is not None]
    facts = {
        "Best validation mIoU": f"{percent(run.best.miou)} at step {run.best.step:,}" if run.best else "–",
        "Steps": f"{steps:,}",
        "Time": duration(seconds / 60),
        "Images seen": f"{run.steps[-1].images if run.steps else 0:,}",
        "Images per second": f"{np.median(speeds):.1f} (median)" if speeds else "not stated",
        "Ended": run.end.reason if run.end else "not yet, or interrupted",
    }
    if run.start.device is not None:
        facts["Device"] = run.start.device
    if run.start.device == "cpu" and run.start.threads:
        facts["Threads"] = f"{run.start.threads:,}"
    facts |= {f"{subset.capitalize()} images": f"{n:,}" for subset, n in run.start.counts.items()}
    origin = run.start.provenance
    facts |= {key.capitalize(): str(origin[key]) for key in ("data", "split", "date") if origin.get(key)}
    if run.card is not None:
        facts["Model"] = f"{run.card.model.architecture}, {run.card.model.encoder}"
        facts["Ground sample distance"] = f"{run.card.preprocessing.gsd:g} m"
        facts["Licence"] = run.card.licence or "not stated"
    return facts


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
