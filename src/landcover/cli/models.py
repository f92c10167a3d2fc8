"""``landcover models``."""

from textwrap import fill
from typing import TYPE_CHECKING, Annotated, Any

import typer

from landcover.cli import _options
from landcover.cli._output import check_json, put
from landcover.errors import printable

if TYPE_CHECKING:
    from rich.table import Table


def models(
    names: Annotated[
        list[str] | None,
        typer.Argument(help="timm encoders to check. By default the tested ones.", show_default=False),
    ] = None,
    json: _options.Json = None,
    force: _options.Force = False,
) -> None:
    """List bundled models, architectures, encoders, licences, presets."""
    from landcover.errors import MissingExtraError

    check_json(json, force=force)
    result: dict[str, Any] = {"shipped": _shipped()}
    try:
        result |= _trainable(names)
    except MissingExtraError as error:
        if names:
            raise
        result["missing"] = str(error)
    put(result, json, lambda: _print(result), force=force)


def _shipped() -> list[dict[str, Any]]:
    """Return figures of the bundled models from their cards; None where a file is missing."""
    from landcover.model.bundled import SHIPPED
    from landcover.model.card import read_card

    rows = []
    for model in SHIPPED:
        there = model.path.is_file()
        card = read_card(model.path) if there else None
        score = card.scores[0] if card is not None and card.scores else {}
        rows.append(
            {
                "name": model.name,
                "about": model.about,
                "file": str(model.path) if there else None,
                "megabytes": round(model.path.stat().st_size / 1e6, 1) if there else None,
                "gsd": None if card is None else card.preprocessing.gsd,
                "miou": score.get("miou"),
                "split": score.get("split"),
                "licence": model.licence,
            }
        )
    return rows


def _trainable(names: list[str] | None) -> dict[str, Any]:
    """Return what can be trained; needs the training extra."""
    from dataclasses import asdict

    from landcover.model import TESTED_ENCODERS, describe_encoder
    from landcover.training import presets

    return {
        "architectures": ["deeplabv3plus"],
        "encoders": [asdict(describe_encoder(name)) for name in names or TESTED_ENCODERS],
        "presets": list(presets()),
    }


def _print(result: dict[str, Any]) -> None:
    from rich.console import Console

    print("Bundled models, for --model:")
    Console().print(_shipped_table(result["shipped"]))
    for model in result["shipped"]:
        print(fill(f"{model['name']}: {model['about']}. Licence: {model['licence']}.", 80))
    if "missing" in result:
        print(f"\nArchitectures, encoders and presets are not listed: {result['missing']}")
        return
    print(f"\nArchitectures: {', '.join(result['architectures'])}")
    print(f"Presets:       {', '.join(result['presets'])}")
    Console().print(_encoder_table(result["encoders"]))


def _shipped_table(rows: list[dict[str, Any]]) -> "Table":
    from rich.box import SIMPLE_HEAD
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD)
    table.add_column("model", min_width=max(len(row["name"]) for row in rows))
    for name in ("size", "GSD", "mIoU"):
        table.add_column(name, justify="right")
    table.add_column("scored on")
    for row in rows:
        if row["file"] is None:
            table.add_row(row["name"], "-", "-", "-", "not in this installation")
            continue
        miou = "-" if row["miou"] is None else f"{100 * row['miou']:.1f}"
        scored = escape(printable(str(row["split"] or "-")))
        table.add_row(row["name"], f"{row['megabytes']:.1f} MB", f"{row['gsd']:g} m", miou, scored)
    return table


def _encoder_table(encoders: list[dict[str, Any]]) -> "Table":
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD)
    table.add_column("encoder", min_width=max(len(encoder["name"]) for encoder in encoders))
    table.add_column("parameters", justify="right")
    table.add_column("output strides")
    table.add_column("licence")
    table.add_column("tested")
    for encoder in encoders:
        table.add_row(
            encoder["name"],
            "" if encoder["parameters"] is None else f"{encoder['parameters'] / 1e6:.1f} M",
            ", ".join(map(str, encoder["output_strides"])) or "none",
            encoder["licence"] or "-",
            "yes" if encoder["tested"] else "checked now",
        )
    return table
