"""Charts, confusion matrix and numbers of the report: pure functions to what the templates draw.

Lines are drawn in a square of 100 x 100 units that the page stretches to any size, while labels are text of
the page at positions in percent: figures stay sharp and their labels readable at every width and in print.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from landcover._typing import Float64Array, Int64Array

_MAX_POINTS = 160
"""Points of a line; more cannot be seen and make the page heavy."""


class Tick(NamedTuple):
    """A labelled position on an axis, in percent from the left or the top."""

    at: float
    label: str
    below: str = ""


class Dot(NamedTuple):
    """A marked value, in percent from the left and the top, and its tooltip."""

    x: float
    y: float
    text: str


class Line(NamedTuple):
    """SVG paths of a line and of the band around it, and its marked values."""

    name: str
    style: str
    path: str
    band: str
    dots: list[Dot]


class Chart(NamedTuple):
    """A figure with two axes; ``summary`` describes it in words."""

    title: str
    summary: str
    lines: list[Line]
    x_ticks: list[Tick]
    y_ticks: list[Tick]


@dataclass(frozen=True)
class Curve:
    """Values over steps. ``style`` is ``accent`` or ``ink``; NaN is a gap; ``dots`` marks each value."""

    name: str
    steps: Float64Array
    values: Float64Array
    style: str = "accent"
    dots: bool = False

    def thinned(self) -> Float64Array:
        """Return step, mean, lowest and highest value of at most 160 pieces: float64 (4, N)."""
        points = np.stack([self.steps, self.values])
        if self.dots or self.steps.size <= _MAX_POINTS:
            return points[[0, 1, 1, 1]]
        parts = (part[:, np.isfinite(part[1])] for part in np.array_split(points, _MAX_POINTS, axis=1))
        pieces = [(*part.mean(axis=1), part[1].min(), part[1].max()) for part in parts if part.size]
        return np.array(pieces, np.float64).reshape(-1, 4).T

    def summary(self, label: Callable[[float], str]) -> str:
        """Return the first and last value in words."""
        ends = [
            f"{label(value)} at step {step:,.0f}"
            for step, value in zip(self.steps, self.values.tolist(), strict=True)
            if math.isfinite(value)
        ]
        if len(ends) > 1:
            return f"{self.name} from {ends[0]} to {ends[-1]}"
        return f"{self.name} {ends[0]}" if ends else f"{self.name}: no values"


def line_chart(
    title: str,
    curves: Sequence[Curve],
    *,
    label: Callable[[float], str],
    minutes: Callable[[float], float],
    last_step: float,
    y_max: float | None = None,
    ticks: int = 5,
) -> Chart:
    """Lay out curves over one axis of steps; both axes begin at 0.

    ``label`` formats a value, ``minutes`` gives the time of a step. Without ``y_max`` the axis of values ends
    with the first tick that is not below the largest value. ``ticks`` is approximate.
    """
    last = last_step or 1.0
    thinned = [curve.thinned() for curve in curves]
    means = np.concatenate([mean for _, mean, _, _ in thinned])
    top = y_max or float(means[np.isfinite(means)].max(initial=0.0)) or 1.0
    y_values = nice_ticks(top, ticks)
    if y_max is None and y_values[-1] < top:
        y_values.append(y_values[-1] + y_values[1])
        top = y_values[-1]

    def place(steps: Float64Array, values: Float64Array) -> Float64Array:
        return np.stack([100 * steps / last, 100 - 100 * values / top], axis=1).round(2)

    lines = []
    for curve, (steps, mean, low, high) in zip(curves, thinned, strict=True):
        dots = [
            Dot(x, y, f"{curve.name}, step {step:,.0f}: {label(value)}")
            for (x, y), step, value in zip(
                place(curve.steps, curve.values).tolist(), curve.steps, curve.values.tolist(), strict=True
            )
            if curve.dots and math.isfinite(value)
        ]
        band = ""
        if 0 < steps.size < curve.steps.size:
            band = _path(np.concatenate([place(steps, low), place(steps, high)[::-1]])) + "Z"
        lines.append(Line(curve.name, curve.style, _path(place(steps, mean)), band, dots))
    return Chart(
        title,
        f"{title}: " + "; ".join(curve.summary(label) for curve in curves) + ".",
        lines,
        [Tick(round(100 * s / last, 2), f"{s:,.0f}", duration(minutes(s))) for s in nice_ticks(last, ticks)],
        [Tick(round(100 - 100 * value / top, 2), label(value)) for value in y_values],
    )


def reliability_chart(groups: Sequence[tuple[float, float]]) -> Chart:
    """Draw (confidence, accuracy) of groups, 0..1, by ascending confidence, beside the diagonal of equals."""
    confidences, accuracies = np.array(groups, np.float64).T
    points = np.stack([100 * confidences, 100 - 100 * accuracies], axis=1).round(2)
    dots = [
        Dot(left, top, f"confidence {percent_tick(confidence)}, accuracy {percent_tick(accuracy)}")
        for (left, top), (confidence, accuracy) in zip(points.tolist(), groups, strict=True)
    ]
    ticks = [25 * i for i in range(5)]
    return Chart(
        "Accuracy",
        "Accuracy over confidence: " + "; ".join(dot.text for dot in dots) + ".",
        [Line("ideal", "ink", "M0 100L100 0", "", []), Line("model", "accent", _path(points), "", dots)],
        [Tick(at, f"{at}\u00a0%", "confidence" if at == 50 else "") for at in ticks],
        [Tick(100 - at, f"{at}\u00a0%") for at in ticks],
    )


def nice_ticks(top: float, count: int = 5) -> list[float]:
    """Return 0 and the multiples up to ``top`` (at most ``count``) of 1, 2, 2.5 or 5 times a power of ten."""
    if not top > 0:
        return [0.0, 1.0]
    rough = top / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * (1 - 1e-9))
    return [step * i for i in range(math.floor(top / step * (1 + 1e-9)) + 1)]


def _path(points: Float64Array) -> str:
    """Return the SVG path through points, float64 (N, 2), with a gap at each NaN."""
    drawn = np.isfinite(points[:, 1])
    return "".join(
        f"{'L' if i and drawn[i - 1] else 'M'}{x:g} {y:g}" for i, (x, y) in enumerate(points) if drawn[i]
    )


class Matrix(NamedTuple):
    """A confusion matrix without the classes that are neither scored nor have pixels.

    ``rows`` are pixels by predicted class (``columns``) for each true class; ``confusions`` the largest
    errors: true class, predicted class, fraction of the truth.
    """

    columns: list[str]
    rows: dict[str, list[int]]
    confusions: list[tuple[str, str, float]]


def matrix(counts: Int64Array, names: Sequence[str], scored: Sequence[str]) -> Matrix:
    """Select what the page shows of a confusion matrix, int64 (K, K), rows are the truth.

    ``scored`` are the names that the metric uses; only these are listed in ``confusions``.
    """
    is_scored = np.array([name in scored for name in names])
    columns = np.flatnonzero(is_scored | counts.any(axis=0)).tolist()
    rows = {
        names[i]: counts[i, columns].tolist() for i in np.flatnonzero(is_scored | counts.any(axis=1)).tolist()
    }
    errors = [
        (truth, names[j], pixels / sum(row))
        for truth, row in rows.items()
        for j, pixels in zip(columns, row, strict=True)
        if pixels and truth != names[j] and truth in scored
    ]
    return Matrix([names[j] for j in columns], rows, sorted(errors, key=lambda error: -error[2])[:3])


def percent(value: float | None, digits: int = 1) -> str:
    """Format a fraction of 0..1 in percent; a dash where it is undefined."""
    return "–" if value is None else f"{100 * value:.{digits}f}\u00a0%"


def percent_tick(value: float) -> str:
    """Format a fraction of 0..1 in percent, without trailing zeros."""
    return f"{round(100 * value, 1):g}\u00a0%"


def duration(minutes: float) -> str:
    """Format a time span: ``40 s``, ``25 min``, ``3.5 h``."""
    if minutes < 1:
        return f"{60 * minutes:.0f} s"
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"
