"""What the results in a folder are of, and the report of what is there."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from landcover.benchmarks.accuracy.contenders import Contender
from landcover.benchmarks.accuracy.protocols import PROTOCOLS, Protocol, Unit
from landcover.benchmarks.accuracy.scores import read_scored
from landcover.benchmarks.accuracy.summary import summarise
from landcover.benchmarks.accuracy.tables import markdown
from landcover.config import Config, from_mapping
from landcover.data import Dataset
from landcover.errors import ConfigError, ModelError, OutputError, UsageError
from landcover.io.files import write_text
from landcover.legend import Legend
from landcover.model.card import model_digest

_PLAN = "plan.json"
_SHOWN = ("protocol", "gsd", "at_once")
"""What differs in these keys is told with its values."""


class _Plan(Config):
    """What ``plan.json`` holds; ``dataset`` is :func:`_digest` of the data called ``data``."""

    protocol: str
    data: str = ""
    dataset: str = ""
    gsd: float | None = None
    legend: dict[str, Any]
    at_once: int = 1
    contenders: dict[str, dict[str, Any]]
    units: tuple[tuple[str, int | None, int], ...]


def begin(
    out: Path,
    protocol: Protocol,
    dataset: Dataset,
    contenders: Sequence[Contender],
    units: Sequence[Unit],
    *,
    at_once: int = 1,
) -> None:
    """Write down what the results in a folder are of, or see that it is the same plan as before.

    Contenders and trainings may be added to a plan. A model trained elsewhere is another one as soon as its
    file is; where it is no longer there, its result stays.

    Raises:
        OutputError: If the folder holds results of another plan, or of none that is known.
        DataError: If the result of a model trained elsewhere is damaged.
    """
    plan: dict[str, Any] = {
        "protocol": protocol.name,
        "dataset": _digest(dataset),
        "gsd": dataset.gsd,
        "legend": dataset.legend.to_dict(),
        "at_once": at_once,
    }
    trained = any(contender.config is not None for contender in contenders)
    there: dict[str, Any] = {"data": dataset.root.resolve().name, **plan, "contenders": {}, "units": []}
    if (out / _PLAN).exists():
        there = _read(out)
    elif any(out.glob("*/*seed-*.json")):
        raise OutputError(f"{out} holds results, but no {_PLAN} that says of what. Choose another --out.")
    differing = [
        f"{key} ({there.get(key)} there, {plan[key]} here)" if key in _SHOWN else key
        for key in plan
        if there.get(key) != plan[key] and not (key == "at_once" and not trained)
    ]
    for contender in contenders:
        own, known = _plain(contender.plan()), there["contenders"].get(contender.name)
        if known is None or not any((out / contender.name).glob("*seed-*.json")):
            there["contenders"][contender.name] = own  # where nothing came of it yet it may be mended
        else:
            differing += [f"{key} of {contender.name}" for key in own if known.get(key) != own[key]]
        differing += _replaced(out, contender, units)
    if differing:
        raise OutputError(
            f"{out} holds results of another {', '.join(differing)} ({out / _PLAN}). Choose another --out, "
            "or give the same to go on; a changed contender needs another name."
        )
    rows = [[unit.contender, unit.fold, unit.seed] for unit in units]
    there["units"] += [row for row in rows if row not in there["units"]]
    write_text(out / _PLAN, json.dumps(there, indent=1) + "\n", force=True)


def _digest(dataset: Dataset) -> str:
    """Return the SHA-256 of the labelled tiles' names and places in scenes, wherever the data lie.

    Pixels are not in it.
    """
    places = dataset.scenes or {}
    lines = []
    for item in dataset.labelled:
        place = places.get(item.key)
        lines.append(item.key if place is None else f"{item.key},{place.scene},{place.row},{place.col}")
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


def _replaced(out: Path, contender: Contender, units: Sequence[Unit]) -> list[str]:
    """Name the finished results of a contender whose model, trained elsewhere, is another file by now."""
    if contender.config is not None:
        return []
    replaced = []
    for unit in units:
        if unit.contender != contender.name or not _result(out, unit).is_file():
            continue
        model, scored = contender.model(unit, out / contender.name), read_scored(_result(out, unit))
        try:
            digest = model_digest(model)
        except ModelError:
            continue
        if digest != scored.about.get("model_sha256"):
            replaced.append(f"model {model} ({unit.label})")
    return replaced


def read_plan(out: Path, protocol: Protocol) -> None:
    """See that a folder holds results of a protocol.

    Raises:
        UsageError: If it holds no plan, or one of another protocol.
    """
    if not (out / _PLAN).is_file():
        raise UsageError(f"{out} has no {_PLAN}: nothing was begun there. Give --data and --contender.")
    name = _read(out)["protocol"]
    if name != protocol.name:
        raise UsageError(f"{out} holds results of the protocol {name}, not {protocol.name}.")


def finished(out: Path) -> list[Unit]:
    """Return the trainings that are scored."""
    if not (out / _PLAN).is_file():
        return []
    units = [Unit(*row) for row in _read(out)["units"]]
    return [unit for unit in units if _result(out, unit).is_file()]


def write_report(out: Path) -> dict[str, Any]:
    """Write ``accuracy.json`` and ``accuracy.md`` of what is there.

    Returns:
        What the JSON holds, and ``markdown``: ``protocol, split, part, metric, data, at_once, plan, missing``
        and what :func:`landcover.benchmarks.accuracy.summary.summarise` returns.

    Raises:
        DataError: If a result is damaged.
    """
    plan, done = _read(out), finished(out)
    protocol = PROTOCOLS[plan["protocol"]]
    results = {unit: read_scored(_result(out, unit)) for unit in done}
    report = {
        "protocol": protocol.name,
        "words": protocol.words,
        "split": protocol.split,
        "part": protocol.part,
        "metric": protocol.metrics[0],
        "data": plan["data"],
        "at_once": plan["at_once"],
        "plan": plan["contenders"],
        "missing": [unit.label for row in plan["units"] if (unit := Unit(*row)) not in results],
        **summarise(protocol, Legend.from_dict(plan["legend"]), list(plan["contenders"]), results),
    }
    text = markdown(protocol, report)
    write_text(out / "accuracy.json", json.dumps(report, indent=1) + "\n", force=True)
    write_text(out / "accuracy.md", text, force=True)
    return {**report, "markdown": text}


def _result(out: Path, unit: Unit) -> Path:
    return out / unit.contender / f"{unit.stem}.json"


def _read(out: Path) -> dict[str, Any]:
    try:
        plan = from_mapping(_Plan, json.loads((out / _PLAN).read_text(encoding="utf-8")), _PLAN)
    except (ValueError, ConfigError) as error:
        raise OutputError(f"{out / _PLAN} is damaged ({error}). Choose another --out.") from error
    return plan.model_dump(mode="json")


def _plain(value: dict[str, Any]) -> dict[str, Any]:
    """Return plain data as JSON gives it back."""
    plain: dict[str, Any] = json.loads(json.dumps(value))
    return plain
