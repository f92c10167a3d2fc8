"""What the files of a report hold: typed records of evaluations and of the events in a run's log."""

import math
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeInt,
    model_validator,
)

from landcover.evaluation.boundary import bin_name
from landcover.evaluation.overlap import TrainingOverlap


def _finite(value: Any) -> Any:
    """Take NaN and infinity, which JSON files of Python may hold, as "no value"."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


Number = Annotated[float | None, BeforeValidator(_finite)]
"""A figure, or None where it is undefined."""


class _Read(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class ImageScore(_Read):
    """Scores of one image, 0..1."""

    key: str
    miou: Number = None
    pixel_accuracy: Number = None


class Cleaned(_Read):
    """Scores after the removal of regions below ``min_region``."""

    min_region: str
    miou: Number
    miou_change: Number


class Bin(_Read):
    """Pixels of about one confidence: their mean confidence, how many are right, their share of all, 0..1."""

    confidence: float
    accuracy: float
    share: float


class WorstClass(_Read):
    """The class with the largest calibration error."""

    name: str
    ece: float


class Calibration(_Read):
    """How far a model's probabilities can be believed."""

    ece: Number
    nll: Number
    confidence: Number = None
    accuracy: Number = None
    worst_class: WorstClass | None = None
    bins: list[Bin]
    temperature: float | None = None
    fitted_on: str | None = None


class BinScores(_Read):
    """Scores of some of the pixels, and which share of all they are."""

    share: Number
    miou: Number
    iou: dict[str, Number]
    pixel_accuracy: Number


class DistanceBin(BinScores):
    """Scores at one distance from class boundaries, and of all pixels but the nearer ones."""

    from_m: float
    to_m: float | None
    beyond: BinScores

    @property
    def name(self) -> str:
        """Such as ``5 to 10 m``."""
        return bin_name(self.from_m, self.to_m)


class Boundaries(_Read):
    """Scores by distance from class boundaries of the truth; 0.1 called the bins ``bands``."""

    bins: list[DistanceBin] = Field(validation_alias=AliasChoices("bins", "bands"))


class Evaluation(_Read):
    """The result of one :func:`landcover.evaluation.evaluate`, which says what each value means."""

    metric: str
    split: str
    model: str | None = None
    gsd: float | None = None
    images: NonNegativeInt
    pixels: NonNegativeInt
    miou: Number
    iou: dict[str, Number]
    pixel_accuracy: Number
    confusion: list[list[NonNegativeInt]]
    classes: list[str]
    per_image: list[ImageScore] = []
    missed: list[NonNegativeInt] = []
    miou_interval: tuple[float, float] | None = None
    resampled: str = "images"
    min_region: Cleaned | None = None
    calibration: Calibration | None = None
    boundaries: Boundaries | None = Field(None, validation_alias=AliasChoices("boundaries", "borders"))
    training_overlap: TrainingOverlap | None = None
    warnings: list[str] = []
    data: Path | None = None
    predictions: Path | None = None
    model_sha256: str | None = None
    legend: dict[str, Any] | None = None
    prediction_legend: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _fits(self) -> "Evaluation":
        size = len(self.classes)
        if len(self.confusion) != size or any(len(row) != size for row in self.confusion):
            raise ValueError(f"'confusion' is not {size} x {size}, but there are {size} 'classes'")
        if self.missed and len(self.missed) != size:
            raise ValueError(f"'missed' has {len(self.missed)} counts, but there are {size} 'classes'")
        strangers = [name for name in self.iou if name not in self.classes]
        if strangers:
            raise ValueError(f"'iou' has {strangers[0]!r}, which is not among 'classes'")
        return self


class Start(_Read):
    """What a run was begun, or last resumed, with."""

    config: dict[str, Any] = {}
    counts: dict[str, int] = {}
    provenance: dict[str, Any] = {}
    device: str | None = None
    threads: int | None = None


class Event(_Read):
    """Something logged after ``step`` steps and ``seconds`` of training, resumed ones included."""

    step: NonNegativeInt
    seconds: float


class Step(Event):
    """One logged training step."""

    loss: Number
    lr: Number
    images: int = 0
    images_per_second: Number = None


class Validation(Event):
    """Scores on the validation images, 0..1."""

    miou: Number
    iou: dict[str, Number]
    pixel_accuracy: Number = None
    loss: Number = None


class End(Event):
    """Why and when a run ended."""

    reason: str
