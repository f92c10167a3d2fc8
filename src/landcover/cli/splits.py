"""``landcover splits``."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

from landcover.cli import _options
from landcover.cli._options import MAIN, option
from landcover.cli._output import check_json, put
from landcover.io.discovery import MAX_PIXELS

if TYPE_CHECKING:
    from landcover.data.splits import PartSummary


def splits(
    data: _options.Data,
    split: Annotated[
        str,
        option(
            "folders, glnet, random-N-M@SEED, kfold-K@I, scenes-kK@I, scenes-kK@I,J, all, or a file of ids.",
            group=MAIN,
        ),
    ],
    ids: Annotated[
        bool,
        option("Print every key and its subset, a list that --split reads.", "--ids", group=MAIN),
    ] = False,
    legend: _options.Legend = None,
    max_pixels: _options.MaxPixels = MAX_PIXELS,
    json: _options.Json = None,
    force: _options.Force = False,
) -> None:
    """Show the subsets of a split, or list their items."""
    from landcover.data import open_dataset
    from landcover.data import split as split_items
    from landcover.data.splits import describe, parse
    from landcover.errors import UsageError
    from landcover.legend import load_legend

    if parse(split).part is not None:
        raise UsageError(
            f"--split {split} names one subset; all are shown. Pass --split {parse(split).text}."
        )
    check_json(json, force=force)
    dataset = open_dataset(
        data,
        legend=None if legend is None else load_legend(legend),
        max_pixels=max_pixels,
    )
    keys = {part: [item.key for item in items] for part, items in split_items(dataset, split).items()}
    if ids and json is None:
        for part, names in keys.items():
            for name in names:
                print(f"{name}\t{part}")
        return
    summaries = describe(dataset, split)
    parts = {part: {**asdict(summary), "keys": keys[part]} for part, summary in summaries.items()}
    result = {"split": split, "layout": dataset.layout, "parts": parts}
    put(result, json, lambda: _print_table(summaries), force=force)


def _print_table(summaries: "dict[str, PartSummary]") -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("")
    for part in summaries:
        table.add_column(part, justify="right")
    parts = list(summaries.values())
    table.add_row("items", *(str(part.items) for part in parts))
    if parts[0].scenes is not None:
        table.add_row("scenes", *(str(part.scenes) for part in parts))
    for name in parts[0].class_share:
        table.add_row(f"{name} %", *(f"{100 * part.class_share[name]:.2f}" for part in parts))
    Console().print(table)
