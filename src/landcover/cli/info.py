"""``landcover info``."""

import json as json_
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Annotated, Any

import typer

from landcover.cli import _options
from landcover.cli._output import check_json, put
from landcover.errors import printable

if TYPE_CHECKING:
    from rich.console import Console

    from landcover.model.card import ModelCard


def info(
    model: Annotated[
        Path,
        typer.Argument(
            help="Model file, run folder, or a bundled model such as starter.",
            show_default=False,
        ),
    ],
    json: _options.Json = None,
    force: _options.Force = False,
) -> None:
    """Print a model's card: classes, input, scores, recipe, origin."""
    from landcover.model.card import model_digest, read_card, resolve_model

    check_json(json, force=force)
    file = resolve_model(model)
    card = read_card(file)
    digest = model_digest(file)
    about = {
        "file": str(file),
        "size": f"{file.stat().st_size / 1e6:.1f} MB",
        "sha256": digest,
        "precision": card.precision,
    }
    result = {"file": str(file), "sha256": digest, **card.model_dump(mode="json")}
    put(result, json, lambda: _print_card(card, about), force=force)


def _print_card(card: "ModelCard", file: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.markup import escape

    console = Console(soft_wrap=True, highlight=False)  # lines are broken below, and words never
    prepared = card.preprocessing
    _section(console, "Model", {**file, **card.model.model_dump(mode="json")})
    _section(
        console,
        "Input",
        {
            "ground sample distance": f"{prepared.gsd:g} m",
            "mean": ", ".join(f"{value:g}" for value in prepared.mean),
            "std": ", ".join(f"{value:g}" for value in prepared.std),
            "windows": f"{card.window_px} px, {card.overlap_px} px overlap",
            "temperature": f"{card.temperature:g}",
            "imagery profile": "-" if card.imagery is None else f"{card.imagery.windows} windows",
        },
    )
    console.print("\n[bold]Classes[/bold]", f"({escape(card.legend.name)})")
    for index, entry in enumerate(card.legend.classes):
        red, green, blue = entry.colour
        note = " [dim](never predicted)[/dim]" if index == card.legend.unknown else ""
        console.print(f"  {index} [on rgb({red},{green},{blue})]   [/] ", end="")
        console.print(entry.name, markup=False, end="")
        console.print(note)
    for scores in card.scores:
        _section(console, "Scores", scores)
    _section(console, "Calibration", card.calibration)
    _section(console, "Export", card.export)
    _section(console, "Recipe", card.recipe)
    _section(console, "Origin", card.provenance)
    _section(console, "Licence", {"terms": card.licence or "not recorded"})


def _section(console: "Console", title: str, rows: dict[str, Any]) -> None:
    """Print a heading and its names and values, nested ones indented."""
    if not rows:
        return
    console.print(f"\n[bold]{title}[/bold]")
    _rows(console, rows, "  ")


def _rows(console: "Console", rows: dict[str, Any], indent: str) -> None:
    width = max(len(name) for name in rows)
    for name, value in rows.items():
        if isinstance(value, dict) and value:
            console.print(f"{indent}{printable(name)}", markup=False)
            _rows(console, value, indent + "  ")
        elif isinstance(value, list) and value and all(isinstance(one, dict) and one for one in value):
            for number, one in enumerate(value, 1):
                console.print(f"{indent}{printable(name)} {number}", markup=False)
                _rows(console, one, indent + "  ")
        else:
            shown = _shown(value)
            first = f"{indent}{printable(name):{width}}  "
            if len(first) + max(map(len, shown.split()), default=0) > console.width:  # such as a digest
                first = f"{indent}{printable(name)} "
            text = fill(
                shown,
                max(len(first) + 20, console.width),
                initial_indent=first,
                subsequent_indent=" " * len(first),
                break_long_words=False,
                break_on_hyphens=False,
            )
            console.print(text, markup=False)


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.6g}"
    return printable(value if isinstance(value, str) else json_.dumps(value, ensure_ascii=False))
