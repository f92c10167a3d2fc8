"""Inputs of a report: run folders and the JSON files of ``landcover evaluate``."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from os.path import realpath
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, Field, NonNegativeInt, ValidationError

from landcover.errors import DataError, UsageError
from landcover.evaluation.report import EvaluationReport, Number, Record
from landcover.legend import BUILT_IN, Legend
from landcover.model.card import BEST_NAME, ModelCard, model_digest, read_card
from landcover.textfiles import parse_json, read_text


class Start(Record):
    """What a run was started, or last resumed, with."""

    config: dict[str, Any] = Field(default_factory=dict)
    counts: dict[str, int] = Field(default_factory=dict)
    provenance: dict[str, Any] = Field(default_factory=dict)
    device: str | None = None
    threads: int | None = None


class Event(Record):
    """A record after ``step`` steps and ``seconds`` of training, resumed ones included."""

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


_EVENTS: dict[str, type[Start | Step | Validation | End]] = {
    "start": Start,
    "step": Step,
    "validation": Validation,
    "end": End,
}


@dataclass(frozen=True)
class Run:
    """A training run: its folder, configuration and log, and the card and SHA-256 of the best model, if any.

    Steps and validations that a resumed run repeated are there once. ``end`` is None where the run was
    interrupted or is still running.
    """

    folder: Path
    config: str
    start: Start
    steps: Sequence[Step]
    validations: Sequence[Validation]
    end: End | None
    card: ModelCard | None
    digest: str | None

    @property
    def name(self) -> str:
        """Name of the folder."""
        return self.folder.resolve().name

    @property
    def best(self) -> Validation | None:
        """The validation with the highest mIoU (the first of equals)."""
        scored = [v for v in self.validations if v.miou is not None]
        return max(scored, key=lambda v: v.miou or 0.0, default=None)

    @property
    def kept(self) -> Validation | None:
        """The validation of the weights that are kept; None where they were not validated."""
        step = None if self.card is None else self.card.provenance.get("step")
        return next((v for v in self.validations if v.step == step and v.miou is not None), None)

    @property
    def legend(self) -> Legend | None:
        """The legend of the best model, else the built-in one with the classes that were validated."""
        if self.card is not None:
            return self.card.legend
        return built_in_with(list(self.validations[-1].iou)) if self.validations else None


@dataclass(frozen=True)
class Scored:
    """An evaluation, a short name for it, and its legend, if it has one or its classes are built in."""

    evaluation: EvaluationReport
    name: str
    legend: Legend | None


def read_evaluation(path: Path) -> EvaluationReport:
    """Read a JSON file of ``landcover evaluate``."""
    text = read_text(path, DataError, "a result of landcover evaluate --json")
    data = parse_json(text, str(path), DataError, undefined=True)
    if isinstance(data, dict) and "truth_kind" in data:
        raise DataError(
            f"{path} is the result of landcover evaluate --map, for one map; a report shows scores of a "
            "split. Pass a result of landcover evaluate --data, or a run folder."
        )
    return _validated(EvaluationReport, data, f"{path} is not a result of landcover evaluate --json")


def read_run(folder: Path) -> Run:
    """Read the configuration and the log of a run folder; an incomplete last line of a killed run is ignored.

    Raises DataError if ``config.yaml`` or ``log.jsonl`` is missing or damaged, ModelError for the best model.
    """
    config, log = folder / "config.yaml", folder / "log.jsonl"
    for path in (config, log):
        if not path.exists():
            raise DataError(
                f"{folder} is not a run folder: {path.name} is missing. Expected the --out folder of "
                "landcover train."
            )
    steps: list[Step] = []
    validations: list[Validation] = []
    start, end = Start(), None
    text = read_text(log, DataError, "the log of a run")
    lines = text.splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            data = parse_json(line, f"{log}, line {number}", DataError, undefined=True)
        except DataError:
            if number == len(lines) and not text.endswith("\n"):
                break
            raise
        complaint = f"Line {number} of {log} is not a training event"
        kind = _EVENTS.get(str(data.get("event"))) if isinstance(data, dict) else None
        if kind is None:
            raise DataError(f"{complaint}: {line[:60]}; expected the 'event' start, step, validation or end.")
        event = _validated(kind, data, complaint)
        if isinstance(event, Start):
            start, end = event, None
        elif isinstance(event, End):
            end = event
        else:
            logged: list[Any] = steps if isinstance(event, Step) else validations
            while logged and logged[-1].step >= event.step:  # repeated after a resume
                logged.pop()
            logged.append(event)
    best = folder / BEST_NAME
    card, digest = (read_card(best), model_digest(best)) if best.is_file() else (None, None)
    settings = read_text(config, DataError, "the settings of a run")
    return Run(folder, settings, start, steps, validations, end, card, digest)


def collect(inputs: Iterable[Path]) -> tuple[list[Run], list[Scored]]:
    """Read run folders and evaluations, each kind in the order given.

    Raises UsageError if no input is passed, or an input twice; DataError if a file is missing or damaged.
    """
    paths = list(inputs)
    if not paths:
        raise UsageError("Nothing to report on. Pass run folders, JSON files of landcover evaluate, or both.")
    resolved = [realpath(path) for path in paths]  # of a loop of links, too
    for path, target in zip(paths, resolved, strict=True):
        if resolved.count(target) > 1:
            raise UsageError(f"{path} is given more than once.")
        if not path.exists():
            raise DataError(
                f"{path} does not exist. Expected a run folder or a JSON file of landcover evaluate."
            )
    runs = [read_run(path) for path in paths if path.is_dir()]
    sources = [path for path in paths if not path.is_dir()]
    evaluations = [read_evaluation(path) for path in sources]
    return runs, [
        Scored(evaluation, name, evaluation.legend or built_in_with(evaluation.classes))
        for evaluation, name in zip(evaluations, short_names(sources), strict=True)
    ]


def built_in_with(names: Sequence[str]) -> Legend | None:
    """Return the built-in legend with exactly these classes, or scored classes, in this order, else None."""
    return next(
        (known for known in BUILT_IN.values() if tuple(names) in (known.names, known.scored_names)), None
    )


def short_names(paths: Sequence[Path]) -> list[str]:
    """Return the stem of each file, with as many of its folders as it takes to tell them apart."""
    parts = [path.resolve().with_suffix("").parts for path in paths]
    for depth in range(1, max(map(len, parts), default=1) + 1):
        names = ["/".join(part[-depth:]) for part in parts]
        if len(set(names)) == len(names):
            break
    return names


_Model = TypeVar("_Model", bound=BaseModel)


def _validated(kind: type[_Model], data: Any, complaint: str) -> _Model:
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise DataError(f"{complaint}: {repr(place) + ': ' if place else ''}{first['msg']}.") from error
