"""Geometry of the report's figures: pure functions from numbers to what the templates draw.

Lines are drawn in a square of 100 x 100 units that the page stretches to any size, while labels are text of
the page at positions in percent: figures stay sharp and their labels readable at every width, in print and on
a phone.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from landcover._typing import Float64Array
from landcover.reporting.wording import duration, percent_tick

_MAX_POINTS = 160
"""Points of a line; more cannot be seen and make the page heavy."""


@dataclass(frozen=True)
class Tick:
    """A labelled position on an axis, in percent from the left or the top."""

    at: float
    label: str
    below: str = ""


@dataclass(frozen=True)
class Dot:
    """A marked value, in percent from the left and the top, and what it says when pointed at."""

    x: float
    y: float
    says: str


@dataclass(frozen=True)
class Line:
    """A drawn line: SVG paths of the line and of the band around it, and its marked values."""

    name: str
    style: str
    path: str
    band: str
    dots: tuple[Dot, ...]


@dataclass(frozen=True)
class Chart:
    """A figure with two axes; ``summary`` says in words what it shows."""

    title: str
    summary: str
    lines: tuple[Line, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]


@dataclass(frozen=True)
class Curve:
    """Values over steps. ``style`` is ``accent`` or ``ink``; NaN is a gap; ``dots`` marks each value."""

    name: str
    steps: Float64Array
    values: Float64Array
    style: str = "accent"
    dots: bool = False


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
    """Lay out curves over one axis of steps (and minutes) that begins at 0, as the values' axis does.

    Args:
        title: What the values are.
        curves: At least one.
        label: Writes a value.
        minutes: Minutes that had passed at a step.
        last_step: Where the axis of steps ends.
        y_max: Upper end of the values' axis; by default the first tick that is not below the largest value.
        ticks: About how many ticks an axis has.
    """
    last = last_step or 1.0
    thinned = [_thin(c) for c in curves]
    finite = np.concatenate([mean[np.isfinite(mean)] for _, mean, _, _ in thinned])
    top = y_max if y_max is not None else float(finite.max(initial=0.0)) or 1.0
    y_values = nice_ticks(top, ticks)
    if y_max is None and y_values[-1] < top:
        y_values.append(y_values[-1] + y_values[1])
        top = y_values[-1]

    def place_x(step: float) -> float:
        return round(100 * step / last, 2)

    def place_y(value: float) -> float:
        return round(100 - 100 * value / top, 2)

    lines = []
    for curve, (steps, mean, low, high) in zip(curves, thinned, strict=True):
        points = [(place_x(s), place_y(v)) for s, v in zip(steps, mean, strict=True)]
        lower = [(place_x(s), place_y(v)) for s, v in zip(steps, low, strict=True)]
        upper = [(place_x(s), place_y(v)) for s, v in zip(steps, high, strict=True)]
        dots = tuple(
            Dot(place_x(s), place_y(v), f"{curve.name}, step {s:,.0f}: {label(v)}")
            for s, v in zip(curve.steps, curve.values, strict=True)
            if curve.dots and math.isfinite(v)
        )
        band = _band(lower, upper) if steps.size < curve.steps.size else ""
        lines.append(Line(curve.name, curve.style, _path(points), band, dots))
    return Chart(
        title,
        f"{title}: " + "; ".join(_summary(c, label) for c in curves) + ".",
        tuple(lines),
        tuple(Tick(place_x(s), f"{s:,.0f}", duration(minutes(s))) for s in nice_ticks(last, ticks)),
        tuple(Tick(place_y(v), label(v)) for v in y_values),
    )


def reliability_chart(confidences: Sequence[float], accuracies: Sequence[float]) -> Chart:
    """Draw accuracy over confidence, both 0..1, beside the diagonal on which the two are equal.

    Args:
        confidences: Mean confidences of groups of pixels, ascending; at least one.
        accuracies: Their accuracies.
    """
    points = [
        (round(100 * x, 2), round(100 - 100 * y, 2)) for x, y in zip(confidences, accuracies, strict=True)
    ]
    dots = tuple(
        Dot(*point, f"confidence {percent_tick(x)}, accuracy {percent_tick(y)}")
        for point, x, y in zip(points, confidences, accuracies, strict=True)
    )
    ticks = [25 * i for i in range(5)]
    return Chart(
        "Accuracy",
        "Accuracy over confidence: " + "; ".join(dot.says for dot in dots) + ".",
        (
            Line("ideal", "ink", "M0 100L100 0", "", ()),
            Line("model", "accent", _path(points), "", dots),
        ),
        tuple(Tick(at, f"{at}\u00a0%", "confidence" if at == 50 else "") for at in ticks),
        tuple(Tick(100 - at, f"{at}\u00a0%") for at in ticks),
    )


def nice_ticks(top: float, count: int = 5) -> list[float]:
    """Return 0 and the multiples up to ``top`` (at most ``count``) of 1, 2, 2.5 or 5 times a power of ten."""
    if not top > 0:
        return [0.0, 1.0]
    rough = top / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * (1 - 1e-9))
    return [step * i for i in range(math.floor(top / step * (1 + 1e-9)) + 1)]


@dataclass(frozen=True)
class Cell:
    """One cell of the matrix: the share of its row (0..1, None where the row is empty) and its count."""

    share: float | None
    pixels: int
    correct: bool


@dataclass(frozen=True)
class MatrixRow:
    """One true class: its cells, its pixels, and its share of all pixels (0..1)."""

    name: str
    cells: tuple[Cell, ...]
    pixels: int
    share: float


@dataclass(frozen=True)
class Matrix:
    """A row-normalised confusion matrix.

    Attributes:
        columns: The predicted classes.
        rows: The true classes.
        unscored: Those of ``rows`` that the metric does not look at.
        confusions: The largest mistakes: truth, prediction, share of the truth; the worst first.
    """

    columns: tuple[str, ...]
    rows: tuple[MatrixRow, ...]
    unscored: tuple[str, ...]
    confusions: tuple[tuple[str, str, float], ...]


def matrix(counts: Sequence[Sequence[int]], names: Sequence[str], scored: Sequence[str]) -> Matrix:
    """Normalise the rows of a confusion matrix (rows are the truth).

    Rows and columns of classes that are not scored and hold no pixel are left out. Counts are Python
    integers: no overflow.

    Args:
        counts: (K, K) pixels.
        names: The K classes.
        scored: Those of them that the metric looks at; only these are named as confusions.
    """
    everything = sum(sum(row) for row in counts)
    kept_rows = [i for i, name in enumerate(names) if name in scored or any(counts[i])]
    kept_columns = [j for j, name in enumerate(names) if name in scored or any(row[j] for row in counts)]
    rows = []
    for i in kept_rows:
        pixels = sum(counts[i])
        cells = tuple(
            Cell(counts[i][j] / pixels if pixels else None, counts[i][j], i == j) for j in kept_columns
        )
        rows.append(MatrixRow(names[i], cells, pixels, pixels / everything if everything else 0.0))
    mistakes = sorted(
        (
            (counts[i][j] / sum(counts[i]), names[i], names[j])
            for i in kept_rows
            for j in kept_columns
            if i != j and counts[i][j] and names[i] in scored
        ),
        key=lambda mistake: -mistake[0],
    )
    return Matrix(
        tuple(names[j] for j in kept_columns),
        tuple(rows),
        tuple(names[i] for i in kept_rows if names[i] not in scored),
        tuple((truth, said, share) for share, truth, said in mistakes[:3]),
    )


def histogram(values: Sequence[float], bins: int = 20) -> list[int]:
    """Count values of 0..1 in ``bins`` bins of equal width; 1 falls into the last."""
    return [int(n) for n in np.histogram(values, bins=bins, range=(0.0, 1.0))[0]]


def _thin(curve: Curve) -> tuple[Float64Array, Float64Array, Float64Array, Float64Array]:
    """Return steps and mean, lowest and highest value of at most ``_MAX_POINTS`` pieces of the curve."""
    if curve.steps.size <= _MAX_POINTS or curve.dots:
        return curve.steps, curve.values, curve.values, curve.values
    pieces = [
        (steps[finite].mean(), values[finite].mean(), values[finite].min(), values[finite].max())
        for steps, values in zip(
            np.array_split(curve.steps, _MAX_POINTS), np.array_split(curve.values, _MAX_POINTS), strict=True
        )
        if (finite := np.isfinite(values)).any()
    ]
    steps, mean, low, high = np.array(pieces, np.float64).reshape(-1, 4).T
    return steps, mean, low, high


def _path(points: Sequence[tuple[float, float]]) -> str:
    """Join points to an SVG path that begins anew after each gap."""
    parts, pen_down = [], False
    for x, y in points:
        if math.isfinite(y):
            parts.append(f"{'L' if pen_down else 'M'}{x:g} {y:g}")
        pen_down = math.isfinite(y)
    return "".join(parts)


def _band(lower: Sequence[tuple[float, float]], upper: Sequence[tuple[float, float]]) -> str:
    return _path([*lower, *reversed(upper)]) + "Z" if lower else ""


def _summary(curve: Curve, label: Callable[[float], str]) -> str:
    finite = np.flatnonzero(np.isfinite(curve.values))
    if not finite.size:
        return f"{curve.name}: no values"
    first, last = (
        f"{label(float(curve.values[i]))} at step {curve.steps[i]:,.0f}" for i in (finite[0], finite[-1])
    )
    return f"{curve.name} from {first} to {last}" if finite.size > 1 else f"{curve.name} {first}"
