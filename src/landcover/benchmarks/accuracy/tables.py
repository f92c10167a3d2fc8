"""The report of the accuracy benchmark, as Markdown."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from landcover.benchmarks.accuracy.protocols import Protocol

Interval = Sequence[float] | None


def markdown(protocol: Protocol, report: Mapping[str, Any]) -> str:
    """Return the tables of a report, ready to be pasted: mIoU and IoU in %, differences in points.

    Args:
        protocol: What was run.
        report: What ``accuracy.json`` holds.
    """
    contenders: Mapping[str, Mapping[str, Any]] = report["contenders"]
    blocks = [_introduction(protocol, report)]
    if contenders:
        blocks += [_scores(protocol, contenders), _classes(contenders), _effort(contenders)]
        blocks += _differences(protocol, report["differences"]) + _seeds(contenders)
    warnings = sorted({text for row in contenders.values() for text in row["warnings"]})
    blocks += ["\n".join(f"- {text}" for text in warnings)] if warnings else []
    return "\n\n".join(blocks) + "\n"


def _introduction(protocol: Protocol, report: Mapping[str, Any]) -> str:
    lines = [
        f"{protocol.words} Metric `{protocol.metrics[0]}`, mIoU over the scored classes, in %, no test-time "
        "augmentation; intervals of 95 % by drawing whole scenes anew."
    ]
    rules = {name: about["rule"] for name, about in report["plan"].items()}
    lines.append("Checkpoints: " + "; ".join(f"{name}: {rule}" for name, rule in rules.items()) + ".")
    if report["at_once"] > 1:
        lines.append(f"Up to {report['at_once']} trainings at a time share the processor's threads evenly.")
    if report["missing"]:
        lines.append(f"**Not finished**: {'; '.join(report['missing'])}.")
    return "\n".join(lines)


def _scores(protocol: Protocol, contenders: Mapping[str, Mapping[str, Any]]) -> str:
    several = len(protocol.folds) > 1
    heads = ["contender", *(f"fold {fold}" for fold in protocol.folds if several)]
    heads += ["mean of folds", "95 %"] if several else []
    others = protocol.metrics[1:]
    heads += ["pooled" if several else "mIoU", "95 %", *(f"metric `{name}`" for name in others)]
    heads += ["tiles", "scenes"]
    rows = []
    for name, row in contenders.items():
        pooled = row["pooled"]
        cells = [name]
        if several:
            cells += [_percent(row["folds"].get(str(fold), {}).get("miou")) for fold in protocol.folds]
            cells += [_percent(row["mean"]), _interval(row["mean_interval"])]
        cells += [_percent(pooled[protocol.metrics[0]]["miou"]), _interval(row["pooled_interval"])]
        cells += [_percent(pooled[other]["miou"]) for other in others]
        rows.append([*cells, str(row["images"]), str(row["scenes"])])
    return _table(heads, rows)


def _classes(contenders: Mapping[str, Mapping[str, Any]]) -> str:
    found = {name: next(iter(row["pooled"].values()))["iou"] for name, row in contenders.items()}
    heads = ["IoU, pooled", *next(iter(found.values()))]
    return _table(heads, ([name, *map(_percent, iou.values())] for name, iou in found.items()))


def _effort(contenders: Mapping[str, Mapping[str, Any]]) -> str:
    rows = []
    for name, row in contenders.items():
        effort = row["training"]
        cells = ["–"] * 5
        if effort is not None:
            cells = [f"{effort['steps']:.0f}", f"{effort['images']:.0f}", f"{effort['seconds'] / 60:.1f}"]
            cells += [f"{effort['images_per_second']:.1f}", effort["precision"]]
        rows.append([name, *cells])
    return _table(
        ["effort, mean of trainings", "steps", "images seen", "minutes", "images/s", "precision"], rows
    )


def _differences(protocol: Protocol, differences: Sequence[Mapping[str, Any]]) -> list[str]:
    several = len(protocol.folds) > 1
    rows = []
    for row in differences:
        cells = [f"{row['first']} - {row['second']}"]
        if several:
            folds = ", ".join(map(str, row["folds"])) or "none in common"
            cells += [folds, _points(row["mean"]), _interval(row["mean_interval"], signed=True)]
        rows.append([*cells, _points(row["pooled"]), _interval(row["pooled_interval"], signed=True)])
    heads = ["difference, points"]
    heads += ["folds", "mean of folds", "95 %", "pooled"] if several else ["mIoU"]
    return [_table([*heads, "95 %"], rows)] if rows else []


def _seeds(contenders: Mapping[str, Mapping[str, Any]]) -> list[str]:
    rows = []
    for name, row in contenders.items():
        for entry in row["seeds"]:
            each = ", ".join(f"{seed}: {_percent(miou)}" for seed, miou in entry["miou"].items())
            fold = "–" if entry["fold"] is None else str(entry["fold"])
            rows.append([name, fold, each, *(f"{100 * entry[key]:.2f}" for key in ("mean", "std", "range"))])
    heads = ["seeds", "fold", "mIoU by seed", "mean", "standard deviation", "range"]
    return [_table(heads, rows)] if rows else []


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f}"


def _points(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:+.1f}"


def _interval(ends: Interval, *, signed: bool = False) -> str:
    if ends is None:
        return "–"
    show = _points if signed else _percent
    return f"{show(ends[0])} to {show(ends[1])}"


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
