"""The typed results of ``evaluate`` and ``assess``: the contents of their JSON files."""

import html
import json
import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import numpy as np
from pydantic import (
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeInt,
    PlainSerializer,
    PlainValidator,
    model_validator,
)

from landcover._typing import Int64Array
from landcover.evaluation.overlap import TrainingOverlap
from landcover.legend import Legend, LegendField
from landcover.values import points

JsonValue: TypeAlias = "bool | int | float | str | list[JsonValue] | dict[str, JsonValue] | None"
"""Plain data, as a JSON file holds it."""


def _counts(value: object) -> Int64Array:
    if isinstance(value, list):  # of a JSON file; numpy would round fractions and take text
        numbers = [number for row in value if isinstance(row, list) for number in row]
        if any(type(number) is not int or number < 0 for number in numbers):
            raise ValueError("expected rows of whole numbers, 0 or more")
    counts = np.asarray(value, np.int64)
    if counts.ndim != 2:
        raise ValueError("expected a row of counts for each class")
    return counts


Number = Annotated[
    float | None, BeforeValidator(lambda x: None if isinstance(x, float) and not math.isfinite(x) else x)
]
"""A number, or None where it is undefined; Python writes NaN and infinity into JSON files."""

Counts = Annotated[Int64Array, PlainValidator(_counts), PlainSerializer(lambda counts: counts.tolist())]
"""int64 (K, K), a list of rows in JSON."""


class Record(BaseModel):
    """Base of the results: read-only, and tolerant of the keys of newer versions."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    def to_dict(self) -> dict[str, JsonValue]:
        """Return plain data with the keys of the JSON file."""
        data: dict[str, JsonValue] = self.model_dump(mode="json")
        return data

    def to_json(self) -> str:
        """Return the text of the JSON file."""
        return json.dumps(self.to_dict(), indent=1) + "\n"

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and other.to_dict() == self.to_dict()

    def __getitem__(self, key: str) -> JsonValue:
        """Return a value of :meth:`to_dict`, which is what version 0.1 returned. Deprecated."""
        warnings.warn(
            f"result[{key!r}] is deprecated and will be removed in version 0.3. Use the attribute "
            f"result.{key}, or result.to_dict()[{key!r}].",
            DeprecationWarning,
            stacklevel=2,
        )
        data = self.to_dict()
        if key == "borders" and isinstance(scores := data["boundaries"], dict):  # their names in 0.1
            return {"metric": scores["metric"], "bands": scores["bins"]}
        return data["boundaries" if key == "borders" else key]


class ImageScore(Record):
    """Scores of one image, 0..1."""

    key: str
    miou: Number = None
    pixel_accuracy: Number = None


class CleanedScores(Record):
    """Scores after regions smaller than ``min_region`` were removed, and the change of the mIoU."""

    min_region: str
    min_pixels: int | None = None
    miou: Number
    iou: dict[str, Number] = {}
    pixel_accuracy: Number = None
    miou_change: Number
    confusion: Counts | None = None


class ReliabilityBin(Record):
    """Mean confidence and accuracy of some pixels, and their fraction of all pixels, 0..1."""

    confidence: float
    accuracy: float
    share: float


class ClassCalibration(ReliabilityBin):
    """Calibration of the pixels predicted as one class, 0..1."""

    ece: float


class WorstClass(Record):
    """The class with the largest calibration error."""

    name: str
    ece: float


class CalibrationScores(Record):
    """Confidence against accuracy, 0..1; None where no pixel was counted.

    Attributes:
        pixels: Number of pixels.
        ece: Expected calibration error.
        confidence: Mean confidence.
        accuracy: Fraction of the pixels that are correct.
        nll: Mean negative log-likelihood (natural logarithm), 0 or more.
        worst_class: The predicted class with the largest error, whatever its share.
        per_class: Calibration of the pixels predicted as each class; None where there are none.
        bins: Groups of equal size, by increasing confidence.
        temperature: The temperature of the model.
        fitted_on: The split that it was fitted on, or None.
    """

    pixels: int | None = None
    ece: Number
    confidence: Number = None
    accuracy: Number = None
    nll: Number
    worst_class: WorstClass | None = None
    per_class: dict[str, ClassCalibration | None] = {}
    bins: list[ReliabilityBin]
    temperature: float | None = None
    fitted_on: str | None = None


class PixelScores(Record):
    """Scores of a subset of the pixels, and its share of all scored pixels, 0..1."""

    pixels: int | None = None
    share: Number
    miou: Number
    iou: dict[str, Number]
    pixel_accuracy: Number


class DistanceBin(PixelScores):
    """Scores at one distance from class boundaries; ``beyond``: at this distance or farther."""

    from_m: int | float
    to_m: int | float | None
    beyond: PixelScores

    @property
    def name(self) -> str:
        """The distances: ``5 to 10 m``, or ``over 40 m`` without an upper limit."""
        return f"over {self.from_m:g} m" if self.to_m is None else f"{self.from_m:g} to {self.to_m:g} m"


class BoundaryScores(Record):
    """Scores by distance from the class boundaries of the truth, nearest first, and boundary F1.

    Attributes:
        metric: Metric of the scores by distance.
        bins: The distances.
        tolerance: Distance up to which boundaries are the same, in metres or pixels.
        tolerance_px: The same in pixels of the masks.
        class_measures: ``precision``, ``recall`` and ``f1`` of the boundary pixels by class, see
            :func:`landcover.evaluation.boundary.boundary_measures`.
        mean_f1: Mean of ``f1`` over the classes that have one, 0..1.
    """

    metric: str = "challenge"
    bins: list[DistanceBin] = Field(validation_alias=AliasChoices("bins", "bands"))
    tolerance: str = ""
    tolerance_px: Number = None
    class_measures: dict[str, dict[str, Number]] = {}
    mean_f1: Number = None


class EvaluationReport(Record):
    """The result of :func:`landcover.evaluate`.

    Attributes:
        metric: Name of the metric.
        split: The split and its subset, ``NAME:subset``.
        model: Path of the model, ``in memory``, or None where maps of a folder were scored.
        model_sha256: SHA-256 of the model file; None for a folder of maps or a model without a file.
        gsd: Metres per pixel of the data, or None.
        views: Views whose probabilities the model averaged; None for a folder of maps.
        images: Number of scored images.
        pixels: Number of pixels with a true class, unknown included.
        miou: Mean of ``iou``, 0..1, or None where no class has one.
        iou: Intersection over union by class name, 0..1; None for a class in neither truth nor prediction.
        pixel_accuracy: Fraction of the scored pixels that are correct, 0..1.
        miou_present: Mean of ``iou`` over the classes that occur in the truth, 0..1, or None.
        class_measures: ``precision`` (user's accuracy), ``recall`` (producer's accuracy) and ``f1`` by class.
        kappa: Cohen's kappa, -1..1, or None where one class makes up everything.
        unscored: Fraction of the pixels of the masks that are not scored: nodata and unknown truth.
        miou_interval: 95 % bootstrap interval of ``miou``; None for fewer than five groups.
        resampled: The groups that the bootstrap draws: ``scenes`` or ``images``.
        classes: Class names in index order.
        confusion: int64 (K, K), pixels; rows are the true classes, columns the predicted ones.
        missed: Pixels of each true class predicted as nodata, where the legend has no unknown class.
        min_region: Scores without small regions, or None.
        calibration: Confidence against accuracy, or None.
        boundaries: Scores by distance from class boundaries, or None.
        training_overlap: Overlap of the images with the training data of the model; None for maps.
        per_image: Scores of each image, in the order of the split.
        warnings: What a reader should know before trusting the numbers.
        legend: Classes of the truth.
        prediction_legend: Classes of the model or of the folder's maps.
        data: Absolute path of the data.
        predictions: Absolute path of the scored or written maps, or None.

    Example:
        >>> report = lc.EvaluationReport.model_validate(
        ...     {"metric": "challenge", "split": "folders:val", "images": 1, "pixels": 4, "miou": 0.5,
        ...      "iou": {"land": 0.5, "sea": 0.5}, "pixel_accuracy": 0.75, "classes": ["land", "sea"],
        ...      "confusion": [[2, 0], [1, 1]]}
        ... )
        >>> report.iou["sea"], report.confusion[1].tolist()
        (0.5, [1, 1])
        >>> report.to_dict()["split"]
        'folders:val'
    """

    metric: str
    split: str
    model: str | None = None
    model_sha256: str | None = None
    gsd: float | None = None
    views: int | None = None
    images: NonNegativeInt
    pixels: NonNegativeInt
    miou: Number
    iou: dict[str, Number]
    pixel_accuracy: Number
    miou_present: Number = None
    class_measures: dict[str, dict[str, Number]] = {}
    kappa: Number = None
    unscored: Number = None
    miou_interval: tuple[float, float] | None = None
    resampled: str = "images"
    classes: list[str]
    confusion: Counts
    missed: list[NonNegativeInt] = []
    min_region: CleanedScores | None = None
    calibration: CalibrationScores | None = None
    boundaries: BoundaryScores | None = Field(
        default=None, validation_alias=AliasChoices("boundaries", "borders")
    )
    training_overlap: TrainingOverlap | None = None
    per_image: list[ImageScore] = []
    warnings: list[str] = []
    legend: LegendField | None = None
    prediction_legend: LegendField | None = None
    data: Path | None = None
    predictions: Path | None = None

    @model_validator(mode="after")
    def _fits(self) -> "EvaluationReport":
        size = len(self.classes)
        if self.confusion.shape != (size, size):
            raise ValueError(f"'confusion' is not {size} x {size}, but there are {size} 'classes'")
        if self.missed and len(self.missed) != size:
            raise ValueError(f"'missed' has {len(self.missed)} counts, but there are {size} 'classes'")
        for name in self.iou:
            if name not in self.classes:
                raise ValueError(f"'iou' has {name!r}, which is not among 'classes'")
        if self.legend is not None and list(self.legend.names) != self.classes:
            raise ValueError("'legend' has other classes than 'classes'")
        return self

    def __repr__(self) -> str:
        rows = (f"  {name:<16}{points(value):>7}" for name, value in self.iou.items())
        return "\n".join([f"EvaluationReport: {self.headline}", *rows])

    __str__ = __repr__

    def _repr_html_(self) -> str:
        """Return a table for a notebook."""
        rows = {name: [points(value)] for name, value in self.iou.items()}
        return _html(self.headline, self.legend, ["class", "IoU %"], rows, self.warnings)

    @property
    def headline(self) -> str:
        """The main scores, and what they are of, as one sentence."""
        interval = ""
        if self.miou_interval is not None:
            low, high = map(points, self.miou_interval)
            interval = f" (95 %: {low} to {high}, by {self.resampled})"
        return (
            f"mIoU {points(self.miou)} %{interval}, pixel accuracy {points(self.pixel_accuracy)} %; metric "
            f"{self.metric}, split {self.split}, {self.images:,} images, {self.pixels:,} pixels"
        )


class Estimate(Record):
    """An estimate with its standard error and 95 % interval; both are None where the sample gives none."""

    value: float
    se: Number
    interval: tuple[float, float] | None


Estimated: TypeAlias = dict[str, Estimate | None]
"""Estimates by class name; None where the sample does not allow one."""


class MapEstimates(Record):
    """Estimates for the whole map from the sample: fractions of area, 0..1.

    Attributes:
        overall: Overall accuracy.
        users: User's accuracy by class.
        producers: Producer's accuracy by class.
        shares: Fraction of the area by class.
        hectares: Area by class; None where the CRS is not tied to the Earth.
        hold_if: Condition under which the estimates are valid.
        without_errors: Why there are no standard errors, or None.
    """

    overall: Estimate | None
    users: Estimated
    producers: Estimated
    shares: Estimated
    hectares: Estimated | None
    hold_if: str
    without_errors: str | None


class MappedArea(Record):
    """One class on the map: pixels, hectares (None without a scale), fraction of the area."""

    pixels: int
    hectares: float | None
    share: float


class AssessmentReport(Record):
    """The result of :func:`landcover.evaluation.assessment.assess`: the accuracy of one map.

    Attributes:
        truth_kind: ``points``, ``polygons`` or ``raster``.
        metric: Name of the metric.
        legend: Classes of the truth.
        classes: Class names in index order.
        units: Points or pixels that were counted.
        off_map: Units outside the map or on its nodata; of rasters and polygons only within its frame.
        unknown: Units of the unknown class.
        conflicting: Pixels that polygons of different classes claim; left out.
        confusion: int64 (K, K), units; rows are the true classes, columns the mapped ones.
        miou: Mean of ``iou`` over the units, 0..1.
        iou: Intersection over union by class name, 0..1.
        pixel_accuracy: Fraction of the units that are correct, 0..1.
        users: User's accuracy of the units by class name.
        producers: Producer's accuracy of the units by class name.
        mapped: Pixels and area of each class on the map.
        estimates: Accuracies and areas of the whole map, estimated from the units.
        warnings: What was left out, and which classes have too few units.
        map: Absolute path of the map.
        truth: Absolute path of the truth.
        unlabelled: Rows of the truth without a class.

    Example:
        >>> report = lc.assess("map.tif", "map.tif")
        >>> report.truth_kind, report.users["forest"], report.mapped["forest"].hectares
        ('raster', 1.0, 0.1)
    """

    truth_kind: Literal["points", "polygons", "raster"]
    metric: str
    legend: LegendField
    classes: list[str]
    units: int
    off_map: int
    unknown: int
    conflicting: int
    confusion: Counts
    miou: Number
    iou: dict[str, Number]
    pixel_accuracy: Number
    users: dict[str, Number]
    producers: dict[str, Number]
    mapped: dict[str, MappedArea]
    estimates: MapEstimates
    warnings: list[str]
    map: Path
    truth: Path
    unlabelled: int

    def __repr__(self) -> str:
        overall = self.estimates.overall
        return (
            f"AssessmentReport: overall accuracy {_value(overall)} % of the area, by "
            f"{self.units:,} {'points' if self.truth_kind == 'points' else 'pixels'}; mIoU "
            f"{points(self.miou)} % ({self.map.name})"
        )

    __str__ = __repr__

    def _repr_html_(self) -> str:
        """Return a table for a notebook."""
        columns = (self.estimates.users, self.estimates.producers, self.estimates.shares)
        rows = {
            name: [points(self.iou.get(name)), *(_value(column[name]) for column in columns)]
            for name in self.estimates.users
        }
        head = ["class", "IoU %", "user's accuracy %", "producer's accuracy %", "area %"]
        return _html(repr(self), self.legend, head, rows, self.warnings)


class Change(Record):
    """A measurement before and after calibration."""

    before: float
    after: float


class CalibrationReport(Record):
    """The result of :func:`landcover.calibrate`.

    Attributes:
        model: Path of the model.
        sha256: SHA-256 of the new file.
        temperature: The new temperature.
        temperature_before: The previous one.
        date: ISO date of the calibration.
        version: Version of landcover.
        split: The split that the temperature was fitted on; None, as all below, where it was copied.
        data: Name of the data folder.
        gsd: Metres per pixel of the data.
        views: Views whose probabilities were averaged.
        images: Number of images.
        pixels: Number of cells of a known class.
        nll: Mean negative log-likelihood.
        ece: Expected calibration error, 0..1.
        like: SHA-256 of the model that the temperature was copied from; None where it was fitted.
        split_of_like: The split that it was fitted on.
        warnings: Overlap of the images with the training data.

    Example:
        >>> report = lc.calibrate("runs/a", "data", "folders:val")  # doctest: +SKIP
        >>> report.temperature, report.ece.after  # doctest: +SKIP
        (1.2, 0.03)
        >>> report.to_dict()["images"]  # doctest: +SKIP
        215
    """

    model: Path
    sha256: str
    temperature: float
    temperature_before: float
    date: str
    version: str
    split: str | None = None
    data: str | None = None
    gsd: float | None = None
    views: int | None = None
    images: int | None = None
    pixels: int | None = None
    nll: Change | None = None
    ece: Change | None = None
    like: str | None = None
    split_of_like: str | None = None
    warnings: list[str] = []

    def to_dict(self) -> dict[str, JsonValue]:
        """Return plain data with the keys of the JSON file, which has no undefined values."""
        return {key: value for key, value in super().to_dict().items() if value is not None}


def _value(estimate: Estimate | None) -> str:
    return points(None if estimate is None else estimate.value)


def _html(
    title: str,
    legend: Legend | None,
    head: Sequence[str],
    rows: Mapping[str, Sequence[str]],
    warnings: Sequence[str],
) -> str:
    """Return a table with a row for each class, its title and the warnings, as HTML."""
    colours = {} if legend is None else {c.name: c.colour for c in legend.classes}
    body = ""
    for name, cells in rows.items():
        swatch = ""
        if name in colours:
            swatch = (
                '<span style="display:inline-block;width:.8em;height:.8em;margin-right:.4em;border:1px solid '
                f'#888;background:rgb({",".join(map(str, colours[name]))})"></span>'
            )
        body += f"<tr><td>{swatch}{html.escape(name)}</td>{''.join(f'<td>{c}</td>' for c in cells)}</tr>"
    names = "".join(f"<th>{html.escape(name)}</th>" for name in head)
    notes = "".join(f"<li>{html.escape(text)}</li>" for text in warnings)
    return (
        f"<p>{html.escape(title)}</p><table><thead><tr>{names}</tr></thead><tbody>{body}</tbody></table>"
        + (f"<ul>{notes}</ul>" if notes else "")
    )
