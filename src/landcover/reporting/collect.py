"""Read what a report is made of: run folders and the JSON files of ``landcover evaluate``."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from landcover.errors import DataError, UsageError
from landcover.evaluation.report import EvaluationReport
from landcover.legend import BUILT_IN, Legend
from landcover.model.card import BEST_NAME, ModelCard, model_digest, read_card
from landcover.reporting.records import End, Event, Start, Step, Validation


@dataclass(frozen=True)
class Run:
    """A training run: its folder, configuration and log.

    Attributes:
        folder: The run folder.
        config: ``config.yaml`` as it was saved.
        start: The last start.
        steps: Logged steps in order; what a resumed run did again stands once.
        validations: Likewise.
        end: The last event, or None where the run was cut off or still goes on.
        card: Card of the best model, or None where none was kept yet.
        digest: SHA-256 of the best model, likewise.
    """

    folder: Path
    config: str
    start: Start
    steps: tuple[Step, ...]
    validations: tuple[Validation, ...]
    end: End | None
    card: ModelCard | None
    digest: str | None

    @property
    def name(self) -> str:
        """The folder's own name."""
        return self.folder.resolve().name

    @property
    def events(self) -> tuple[Event, ...]:
        """Steps and validations."""
        return (*self.steps, *self.validations)

    @property
    def best(self) -> Validation | None:
        """The validation with the highest mIoU (the first of equals)."""
        scored = [v for v in self.validations if v.miou is not None]
        return max(scored, key=lambda v: v.miou or 0.0, default=None)

    @property
    def legend(self) -> Legend | None:
        """The legend of the best model, else the built-in one with the classes that were validated."""
        if self.card is not None:
            return self.card.legend
        return built_in_with(list(self.validations[-1].iou)) if self.validations else None


@dataclass(frozen=True)
class Scored:
    """An evaluation, where it was read from, a short name for it, and the legend that fits its classes."""

    evaluation: EvaluationReport
    source: Path
    name: str
    legend: Legend | None


def read_evaluation(path: Path) -> EvaluationReport:
    """Read a JSON file of ``landcover evaluate``.

    Raises:
        DataError: If the file is missing, cut short, or of another kind, such as the result for a map.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from error
    except ValueError as error:  # also of bytes that are not UTF-8
        raise DataError(
            f"{path} is not JSON: {error}. Write it again with: landcover evaluate --json"
        ) from error
    if isinstance(data, dict) and "truth_kind" in data:
        raise DataError(
            f"{path} is the result of landcover evaluate --map, accuracy and areas of one map; the page is "
            "about scores of a data set's split. Give a result of landcover evaluate --data, or a run folder."
        )
    return _validated(EvaluationReport, data, f"{path} is not a result of landcover evaluate --json")


def read_run(folder: Path) -> Run:
    """Read the configuration and the log of a run folder.

    Raises:
        DataError: If ``config.yaml`` is missing, or ``log.jsonl`` is missing or damaged. A last line that was
            cut off by a kill is no damage: it is left out.
        ModelError: If the best model is damaged.
    """
    text = _read_part(folder, "config.yaml")
    steps: list[Step] = []
    validations: list[Validation] = []
    start, end = Start(), None
    for number, event in _events(folder / "log.jsonl", _read_part(folder, "log.jsonl")):
        where = f"Line {number} of {folder / 'log.jsonl'} is no event of a training"
        match event.get("event"):
            case "start":
                start, end = _validated(Start, event, where), None
            case "step":
                _append(steps, _validated(Step, event, where))
            case "validation":
                _append(validations, _validated(Validation, event, where))
            case "end":
                end = _validated(End, event, where)
            case other:
                raise DataError(
                    f"{where}: its 'event' is {other!r}; expected start, step, validation or end."
                )
    best = folder / BEST_NAME
    card, digest = (read_card(best), model_digest(best)) if best.is_file() else (None, None)
    return Run(folder, text, start, tuple(steps), tuple(validations), end, card, digest)


def collect(inputs: Iterable[Path]) -> tuple[list[Run], list[Scored]]:
    """Read run folders and evaluations, each kind in the order given.

    Raises:
        UsageError: If there is no input, or one is given twice.
        DataError: If one is missing or not what it should be.
    """
    paths = list(inputs)
    if not paths:
        raise UsageError(
            "Nothing to report on: give a run folder, JSON files of landcover evaluate, or both."
        )
    resolved = [path.resolve() for path in paths]
    for path, place in zip(paths, resolved, strict=True):
        if resolved.count(place) > 1:
            raise UsageError(f"{path} is given more than once.")
    for path in paths:
        if not path.exists():
            raise DataError(
                f"{path} does not exist. Expected a run folder or a JSON file of landcover evaluate."
            )
    runs = [read_run(path) for path in paths if path.is_dir()]
    sources = [path for path in paths if not path.is_dir()]
    evaluations = [read_evaluation(path) for path in sources]
    names = short_names(sources)
    return runs, [
        Scored(evaluation, source, name, fitting_legend(evaluation, source))
        for evaluation, source, name in zip(evaluations, sources, names, strict=True)
    ]


def fitting_legend(evaluation: EvaluationReport, source: Path) -> Legend | None:
    """Return the legend that the JSON holds, else the built-in one with its classes, else None.

    Raises:
        DataError: If the legend in the JSON has other classes than the scores.
    """
    if evaluation.legend is not None:
        if list(evaluation.legend.names) != evaluation.classes:
            raise DataError(f"{source}: its 'legend' has other classes than its 'classes'. Evaluate again.")
        return evaluation.legend
    return built_in_with(evaluation.classes)


def built_in_with(names: Sequence[str]) -> Legend | None:
    """Return the built-in legend with exactly these classes, or scored classes, in this order, else None."""
    return next(
        (
            known
            for known in BUILT_IN.values()
            if list(names) in (list(known.names), list(known.scored_names))
        ),
        None,
    )


def short_names(paths: Sequence[Path]) -> list[str]:
    """Name each file by its stem, with as many of its folders as it takes to tell them apart."""
    places = [path.resolve() for path in paths]
    depth = 1
    while True:
        names = ["/".join((*place.parts[-depth:-1], place.stem)) for place in places]
        if len(set(names)) == len(names) or depth > max(len(place.parts) for place in places):
            return names
        depth += 1


def _read_part(folder: Path, name: str) -> str:
    try:
        return (folder / name).read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise DataError(
            f"{folder} is not a run folder: it has no {name}. Expected the --out folder of landcover train."
        ) from error
    except UnicodeDecodeError as error:
        raise DataError(f"{folder / name} is not text: {error}.") from error
    except OSError as error:
        raise DataError(f"{folder / name} cannot be read: {error.strerror}.") from error


def _events(path: Path, text: str) -> Iterable[tuple[int, dict[str, Any]]]:
    lines = text.splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            event = json.loads(line)
        except ValueError as error:
            if number == len(lines) and not text.endswith("\n"):
                return  # a killed run leaves half a line
            raise DataError(f"Line {number} of {path} is not JSON: {error}.") from error
        if not isinstance(event, dict):
            raise DataError(f"Line {number} of {path} is no event of a training: {line[:60]!r}.")
        yield number, event


_Event = TypeVar("_Event", Step, Validation)
_Model = TypeVar("_Model", bound=BaseModel)


def _append(events: list[_Event], event: _Event) -> None:
    """Append, dropping what a killed run logged after the checkpoint that it was resumed from."""
    while events and events[-1].step >= event.step:
        events.pop()
    events.append(event)


def _validated(kind: type[_Model], data: Any, complaint: str) -> _Model:
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise DataError(f"{complaint}: {repr(place) + ': ' if place else ''}{first['msg']}.") from error
