"""What the page shows of a run and of an evaluation, computed: facts, notes, figures, pictures."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from landcover.evaluation.report import EvaluationReport
from landcover.legend import Legend
from landcover.reporting.collect import Run, Scored
from landcover.reporting.figures import (
    Chart,
    Curve,
    Matrix,
    histogram,
    line_chart,
    matrix,
    reliability_chart,
)
from landcover.reporting.notes import evaluation_notes, run_notes
from landcover.reporting.records import Event
from landcover.reporting.strips import Scenes, draw_scenes
from landcover.reporting.wording import count, css_colour, duration, percent, percent_tick

Facts = dict[str, str]
"""What stands in a list of facts: name to text."""

NO_DATA = "(no data)"
"""Column of the matrix for pixels that were not mapped; no class."""


@dataclass(frozen=True)
class TrainingView:
    """A run as the page shows it: ``charts`` of the whole, ``classes`` with a small chart for each class."""

    run: Run
    facts: Facts
    notes: list[str]
    charts: list[Chart]
    classes: list[Chart]


@dataclass(frozen=True)
class ScoreView:
    """An evaluation as the page shows it.

    ``spread`` counts images by their mIoU in steps of 5 %; ``reliability`` shows accuracy over confidence.
    """

    scored: Scored
    facts: Facts
    notes: list[str]
    matrix: Matrix
    spread: list[int]
    scenes: Scenes | None
    reliability: Chart | None

    @property
    def reliability_words(self) -> str:
        """What the chart of calibration shows, in sentences."""
        found = self.evaluation.calibration
        if found is None or self.reliability is None:
            return ""
        words = [
            f"Each dot is one of {len(self.reliability.lines[-1].dots)} equal parts of the pixels; below the "
            f"diagonal the model is too sure. Calibration error (ECE) {percent(found.ece)}"
        ]
        if (worst := found.worst_class) is not None:
            words.append(f", at worst {percent(worst.ece)} where it says {worst.name}")
        if found.temperature is not None:
            fitted = f"fitted on {found.fitted_on}" if found.fitted_on else "not fitted"
            words.append(f"; temperature {found.temperature:.3g}, {fitted}")
        return "".join(words) + "."

    @property
    def evaluation(self) -> EvaluationReport:
        """The scores themselves."""
        return self.scored.evaluation


def score_view(scored: Scored, runs: Sequence[Run], images: int, side_px: int) -> ScoreView:
    """Prepare an evaluation for the page.

    Args:
        scored: The evaluation.
        runs: Runs on the same page, whose best model it may have scored.
        images: How many of the best and of the worst images to draw; 0 leaves them out.
        side_px: Longest side of a picture.
    """
    evaluation = scored.evaluation
    facts = {
        "Metric": evaluation.metric,
        "Split": evaluation.split,
        "Images": count(evaluation.images),
        "Pixels": count(evaluation.pixels),
        "Ground sample distance": f"{evaluation.gsd:g} m" if evaluation.gsd is not None else "not stated",
        "Pixel accuracy": percent(evaluation.pixel_accuracy),
        "Model": evaluation.model or "maps of a folder",
        "Data": str(evaluation.data or "not stated"),
    }
    if (cleaned := evaluation.min_region) is not None:
        change = "" if cleaned.miou_change is None else f" ({100 * cleaned.miou_change:+z.1f} points)"
        facts[f"mIoU without regions below {cleaned.min_region}"] = f"{percent(cleaned.miou)}{change}"
    return ScoreView(
        scored,
        facts,
        evaluation_notes(evaluation, runs),
        matrix(*_with_missed(evaluation), list(evaluation.iou)),
        histogram([row.miou for row in evaluation.per_image if row.miou is not None]),
        draw_scenes(evaluation, scored.legend, images, side_px) if images else None,
        _reliability(evaluation),
    )


def _reliability(evaluation: EvaluationReport) -> Chart | None:
    bins = evaluation.calibration.bins if evaluation.calibration is not None else []
    if not bins:
        return None
    return reliability_chart([group.confidence for group in bins], [group.accuracy for group in bins])


def _with_missed(evaluation: EvaluationReport) -> tuple[list[list[int]], list[str]]:
    """Return counts and classes, with a column more where pixels were mapped as no data."""
    if not any(evaluation.missed):
        return evaluation.confusion.tolist(), evaluation.classes
    counts = evaluation.confusion.tolist()
    rows = [[*row, missed] for row, missed in zip(counts, evaluation.missed, strict=True)]
    return [*rows, [0] * (len(rows) + 1)], [*evaluation.classes, NO_DATA]


def training_view(run: Run) -> TrainingView:
    """Prepare a run for the page: its facts and its curves over steps and minutes."""
    at, seconds = np.array([(0, 0.0), *sorted((e.step, e.seconds) for e in run.events)], np.float64).T
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
    if run.validations:
        miou = _curve("mIoU", run.validations, [v.miou for v in run.validations], dots=True)
        mean = _curve("mean", run.validations, [v.miou for v in run.validations], style="ink")
        charts.append(draw_share("Validation mIoU", [miou]))
        for name in run.validations[-1].iou:
            curve = _curve(name, run.validations, [v.iou.get(name) for v in run.validations], dots=True)
            classes.append(draw_share(name, [mean, curve], ticks=2))
    rates = _curve("learning rate", run.steps, [s.lr for s in run.steps])
    charts.append(draw("Learning rate", [rates], label="{:.2g}".format))
    return TrainingView(run, run_facts(run), run_notes(run), charts, classes)


def run_facts(run: Run) -> Facts:
    """Return what a run was and what came of it."""
    last = max(run.events, key=lambda event: event.step, default=None)
    speeds = [s.images_per_second for s in run.steps if s.images_per_second is not None]
    facts = {
        "Best validation mIoU": f"{percent(run.best.miou)} at step {count(run.best.step)}"
        if run.best
        else "–",
        "Steps": count(last.step) if last else "0",
        "Time": duration(last.seconds / 60) if last else "0 s",
        "Images seen": count(run.steps[-1].images) if run.steps else "0",
        "Images per second": f"{np.median(speeds):.1f} (median)" if speeds else "not stated",
        "Ended": run.end.reason if run.end else "not yet, or cut off",
    }
    if run.start.device is not None:
        facts["Device"] = run.start.device
    if run.start.device == "cpu" and run.start.threads:
        facts["Threads"] = count(run.start.threads)
    facts |= {f"{part.capitalize()} images": count(n) for part, n in run.start.counts.items()}
    made = run.start.provenance
    facts |= {key.capitalize(): str(made[key]) for key in ("data", "split", "date") if made.get(key)}
    if run.card is not None:
        facts["Model"] = f"{run.card.model.architecture}, {run.card.model.encoder}"
        facts["Ground sample distance"] = f"{run.card.preprocessing.gsd:g} m"
        facts["Licence"] = run.card.licence or "not stated"
    return facts


def swatches(scores: Iterable[Scored], runs: Iterable[Run]) -> Mapping[str, str]:
    """Return a CSS colour for each class name; evenly spaced hues for classes that no legend knows."""
    legends: list[Legend | None] = []
    names: list[str] = []
    for scored in scores:
        legends.append(scored.legend)
        names += scored.evaluation.classes
    for run in runs:
        legends.append(run.legend)
        names += [name for validation in run.validations for name in validation.iou]
    known = {c.name: css_colour(c.colour) for legend in legends if legend for c in legend.classes}
    strangers = [name for name in dict.fromkeys(names) if name not in known]
    known[NO_DATA] = "transparent"
    return known | {n: f"hsl({360 * i / len(strangers):.0f} 60% 55%)" for i, n in enumerate(strangers)}


def _curve(
    name: str,
    events: Sequence[Event],
    values: Iterable[float | None],
    *,
    style: str = "accent",
    dots: bool = False,
) -> Curve:
    """Follow one value over events; None becomes a gap."""
    steps = np.array([event.step for event in events], np.float64)
    return Curve(name, steps, np.array([np.nan if v is None else v for v in values], np.float64), style, dots)
