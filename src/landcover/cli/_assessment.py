"""``landcover evaluate --map MAP --truth FILE``: what the verb does with a map of a place."""

from pathlib import Path
from typing import Any

import typer

from landcover.cli._output import put


def assess_map(
    map_path: Path,
    truth: Path,
    *,
    legend: str | None,
    map_legend: str | None,
    column: str | None,
    layer: str | None,
    truth_crs: str | None,
    metric: Any,
    json: Path | None,
    force: bool,
) -> None:
    """Assess a map and print or write the result."""
    from landcover.evaluation.assessment import TruthOptions, assess
    from landcover.legend import DEEPGLOBE, load_legend

    result: dict[str, Any] = assess(
        map_path,
        truth,
        legend=DEEPGLOBE if legend is None else load_legend(legend),
        map_legend=None if map_legend is None else load_legend(map_legend),
        options=TruthOptions(column=column, layer=layer, crs=truth_crs),
        metric=metric,
    ).to_dict()
    put(result, json, lambda: print_assessment(result), force=force)
    for warning in result["warnings"]:
        typer.echo(f"Warning: {warning}", err=True)


def print_assessment(result: dict[str, Any]) -> None:
    """Print scores of the units, then the estimates for the map with what their intervals are, and when."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    estimates, units = result["estimates"], "points" if result["truth_kind"] == "points" else "pixels"
    console = Console(markup=False)  # names of classes and files are plain text
    table = Table("class", box=SIMPLE_HEAD, pad_edge=False, padding=(0, 0, 0, 1))
    columns = ("IoU %", "user's %", "producer's %", "mapped ha", "estimated ha")
    for name in columns:
        table.add_column(name, justify="right")
    for name in estimates["users"]:
        mapped = result["mapped"][name]["hectares"]
        table.add_row(
            name,
            "-" if result["iou"].get(name) is None else f"{100 * result['iou'][name]:.2f}",
            _estimate(estimates["users"][name], 100, 1),
            _estimate(estimates["producers"][name], 100, 1),
            "-" if mapped is None else f"{mapped:,.2f}",
            "-" if estimates["hectares"] is None else _estimate(estimates["hectares"][name], 1, 2),
        )
    console.print(table)
    console.print(
        f"Overall accuracy {_estimate(estimates['overall'], 100, 1)} % of the area, by {result['units']:,} "
        f"{units}; of these {100 * result['pixel_accuracy']:.1f} % are right, mIoU {_points(result['miou'])} "
        f"(metric {result['metric']}).",
        soft_wrap=True,
        highlight=False,
    )
    console.print(
        estimates["without_errors"]
        or f"± is half a 95 % interval. The estimates hold if {estimates['hold_if']}.",
        soft_wrap=True,
        highlight=False,
    )


def _estimate(found: dict[str, Any] | None, scale: float, digits: int) -> str:
    if found is None:
        return "-"
    half = "" if found["se"] is None else f" ± {1.96 * scale * found['se']:,.{digits}f}"
    return f"{scale * found['value']:,.{digits}f}{half}"


def _points(score: float | None) -> str:
    return "-" if score is None else f"{100 * score:.2f}"
