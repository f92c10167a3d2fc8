"""The events in the log of a training run, as typed records."""

from typing import Any

from pydantic import Field, NonNegativeInt

from landcover.evaluation.report import Number, Record


class Start(Record):
    """What a run was begun, or last resumed, with."""

    config: dict[str, Any] = Field(default_factory=dict)
    counts: dict[str, int] = Field(default_factory=dict)
    provenance: dict[str, Any] = Field(default_factory=dict)
    device: str | None = None
    threads: int | None = None


class Event(Record):
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
