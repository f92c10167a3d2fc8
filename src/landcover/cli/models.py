"""``landcover models``."""

import json as json_
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from landcover.models import EncoderInfo

_STDOUT = Path("-")


def models(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            help="Other encoders of timm to try out; else those that we test.", show_default=False
        ),
    ] = None,
    json: Annotated[Path | None, typer.Option(help="Write the list as JSON; - is standard output.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing JSON file.")] = False,
) -> None:
    """List architectures, encoders with their licences, and presets."""
    from dataclasses import asdict

    from landcover.files import refuse_existing, write_text
    from landcover.models import MODELS, TESTED_ENCODERS, describe_encoder
    from landcover.training import presets

    to_file = json is not None and json != _STDOUT
    if json is not None and to_file:
        refuse_existing(json, force=force)
    encoders = [describe_encoder(name) for name in names or TESTED_ENCODERS]
    result = {
        "architectures": sorted(MODELS),
        "encoders": [asdict(encoder) for encoder in encoders],
        "presets": list(presets()),
    }
    text = json_.dumps(result, indent=1)
    if json is not None and to_file:
        write_text(json, text + "\n", force=force)
    if json == _STDOUT:
        print(text)
        return
    typer.echo(f"Architectures: {', '.join(sorted(MODELS))}")
    typer.echo(f"Presets:       {', '.join(presets())}")
    _print_encoders(encoders)


def _print_encoders(encoders: "list[EncoderInfo]") -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD)
    table.add_column("encoder", min_width=max(len(encoder.name) for encoder in encoders))
    table.add_column("parameters", justify="right")
    table.add_column("output strides")
    table.add_column("weights' licence")
    table.add_column("tested")
    for encoder in encoders:
        table.add_row(
            encoder.name,
            "" if encoder.parameters is None else f"{encoder.parameters / 1e6:.1f} M",
            ", ".join(map(str, encoder.output_strides)) or "none",
            encoder.licence or "-",
            "yes" if encoder.tested else "tried now",
        )
    Console().print(table)
