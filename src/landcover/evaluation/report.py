"""The typed results of ``evaluate`` and ``assess``: the contents of their JSON files."""

import html
import json
import math
import warnings
from collections.abc import Iterable, Sequence
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
from landcover.evaluation.boundary import bin_name
from landcover.evaluation.overlap import TrainingOverlap
from landcover.legend import Legend

JsonValue: TypeAlias = "bool | int | float | str | list[JsonValue] | dict[str, JsonValue] | None"
"""Plain data, as a JSON file holds it."""


def _finite(value: object) -> object:
    """Return None for NaN and infinity, which Python writes into JSON files."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _counts(value: object) -> Int64Array:
    if isinstance(value, list):  # of a JSON file; numpy would round fractions and take text
        numbers = [number for row in value if isinstance(row, list) for number in row]
        if any(type(number) is not int or number < 0 for number in numbers):
            raise ValueError("expected rows of whole numbers, 0 or more")
    counts = np.asarray(value, np.int64)
    if counts.ndim != 2:
        raise ValueError("expected a row of counts for each class")
    return counts


def _legend(value: object) -> Legend:
    return value if isinstance(value, Legend) else Legend.from_dict(value)  # type: ignore[arg-type]


Number = Annotated[float | None, BeforeValidator(_finite)]
"""A number, or None where it is undefined."""

Counts = Annotated[Int64Array, PlainValidator(_counts), PlainSerializer(lambda counts: counts.tolist())]
"""int64 (K, K), a list of rows in JSON."""

LegendField = Annotated[
    Legend, PlainValidator(_legend), PlainSerializer(lambda legend: legend.to_dict(), when_used="always")
]


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
    """Pixels of similar confidence: mean confidence, accuracy, and their share of all pixels, 0..1."""

    confidence: float
    accuracy: float
    share: float


class WorstClass(Record):
    """The class with the largest calibration error."""

    name: str
    ece: float


class ClassCalibration(Record):
    """Calibration of the pixels predicted as one class, 0..1."""

    ece: float
    confidence: float
    accuracy: float
    share: float


class CalibrationScores(Record):
    """Confidence against accuracy, see :meth:`landcover.evaluation.calibration.Reliability.summary`."""

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


class DistanceBin(Record):
    """Scores at one distance from class boundaries; ``beyond``: at this distance or farther."""

    from_m: int | float
    to_m: int | float | None
    pixels: int | None = None
    share: Number
    miou: Number
    iou: dict[str, Number]
    pixel_accuracy: Number
    beyond: PixelScores

    @property
    def name(self) -> str:
        """The distances as text, such as ``5 to 10 m``."""
        return bin_name(self.from_m, self.to_m)


class BoundaryScores(Record):
    """Scores by distance from the class boundaries of the truth, nearest first."""

    metric: str = "challenge"
    bins: list[DistanceBin] = Field(validation_alias=AliasChoices("bins", "bands"))


class EvaluationReport(Record):
    """The result of :func:`landcover.evaluate`.

    Attributes:
        metric: Name of the metric.
        split: The split and its subset, ``NAME:subset``.
        model: Path of the model, ``in memory``, or None where maps of a folder were scored.
        model_sha256: SHA-256 of the model file; None for a folder of maps or a model without a file.
        gsd: Metres per pixel of the data, or None.
        images: Number of scored images.
        pixels: Number of pixels with a true class, unknown included.
        miou: Mean of ``iou``, 0..1, or None where no class has one.
        iou: Intersection over union by class name, 0..1; None for a class in neither truth nor prediction.
        pixel_accuracy: Fraction of the scored pixels that are correct, 0..1.
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
        >>> import landcover as lc
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
    images: NonNegativeInt
    pixels: NonNegativeInt
    miou: Number
    iou: dict[str, Number]
    pixel_accuracy: Number
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
        strangers = [name for name in self.iou if name not in self.classes]
        if strangers:
            raise ValueError(f"'iou' has {strangers[0]!r}, which is not among 'classes'")
        return self

    def __repr__(self) -> str:
        return "\n".join(
            [
                f"EvaluationReport: {self._headline()}",
                *(f"  {name:<16}{value:>7}" for name, value in self._rows()),
            ]
        )

    __str__ = __repr__

    def _repr_html_(self) -> str:
        """Return a table for a notebook."""
        rows = [[_swatch(self.legend, name) + html.escape(name), value] for name, value in self._rows()]
        return (
            f"<p>{html.escape(self._headline())}</p>"
            + html_table(("class", "IoU %"), rows)
            + html_list(self.warnings)
        )

    def _headline(self) -> str:
        low_high = ""
        if self.miou_interval is not None:
            low_high = f" (95 %: {percent(self.miou_interval[0])} to {percent(self.miou_interval[1])})"
        return (
            f"mIoU {percent(self.miou)} %{low_high}, pixel accuracy {percent(self.pixel_accuracy)} %; metric "
            f"{self.metric}, split {self.split}, {self.images:,} images, {self.pixels:,} pixels"
        )

    def _rows(self) -> list[tuple[str, str]]:
        return [(name, percent(value)) for name, value in self.iou.items()]


class Estimate(Record):
    """An estimate with its standard error and 95 % interval; both are None where the sample gives none."""

    value: float
    se: Number
    interval: tuple[float, float] | None


Estimated: TypeAlias = dict[str, Estimate | None]
"""Estimates by class name; None where the sample does not allow one."""


class MapEstimates(Record):
    """What the sample tells of the whole map: fractions are of area, 0..1.

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
        mapped: What the map shows of each class.
        estimates: Accuracies and areas of the whole map, estimated from the units.
        warnings: What was left out, and which classes have too few units.
        map: Absolute path of the map.
        truth: Absolute path of the truth.
        unlabelled: Rows of the truth without a class.

    Example:
        >>> import numpy as np, landcover as lc
        >>> from affine import Affine
        >>> from pathlib import Path
        >>> from rasterio.crs import CRS
        >>> from landcover.raster import Georeference, write_class_raster
        >>> place = Georeference(CRS.from_epsg(32631), Affine(0.5, 0, 500_000, 0, -0.5, 5_000_000))
        >>> classes = np.repeat(np.array([[3], [4]], np.uint8), [40, 60], axis=0).repeat(100, axis=1)
        >>> write_class_raster(Path("map.tif"), classes, lc.DEEPGLOBE, place)
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
            f"{percent(self.miou)} % ({self.map.name})"
        )

    __str__ = __repr__

    def _repr_html_(self) -> str:
        """Return a table for a notebook."""
        columns = (self.estimates.users, self.estimates.producers, self.estimates.shares)
        rows = [
            [
                _swatch(self.legend, name) + html.escape(name),
                percent(self.iou.get(name)),
                *(_value(column[name]) for column in columns),
            ]
            for name in self.estimates.users
        ]
        return (
            f"<p>{html.escape(repr(self))}</p>"
            + html_table(("class", "IoU %", "user's %", "producer's %", "area %"), rows)
            + html_list(self.warnings)
        )


def percent(fraction: float | None) -> str:
    """Return a fraction of 0..1 in percent with two decimals, ``-`` where it is undefined."""
    return "-" if fraction is None else f"{100 * fraction:.2f}"


def _value(estimate: Estimate | None) -> str:
    return percent(None if estimate is None else estimate.value)


def html_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return an HTML table; cells are HTML already."""
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    names = "".join(f"<th>{html.escape(name)}</th>" for name in head)
    return f"<table><thead><tr>{names}</tr></thead><tbody>{body}</tbody></table>"


def html_list(texts: Sequence[str]) -> str:
    """Return texts as an HTML list, nothing for none."""
    return f"<ul>{''.join(f'<li>{html.escape(text)}</li>' for text in texts)}</ul>" if texts else ""


def html_swatch(colour: Sequence[int]) -> str:
    """Return a small square of an RGB colour (0..255 each) as HTML."""
    rgb = ",".join(str(int(value)) for value in colour)
    return (
        f'<span style="display:inline-block;width:.8em;height:.8em;margin-right:.4em;border:1px solid #888;'
        f'background:rgb({rgb})"></span>'
    )


def _swatch(legend: Legend | None, name: str) -> str:
    if legend is None or name not in legend.names:
        return ""
    return html_swatch(legend.colours[legend.names.index(name)].tolist())
