"""``landcover models``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from landcover.cli._output import check_json, put

if TYPE_CHECKING:
    from landcover.models import EncoderInfo


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

    from landcover.models import MODELS, TESTED_ENCODERS, describe_encoder
    from landcover.training import presets

    check_json(json, force=force)
    encoders = [describe_encoder(name) for name in names or TESTED_ENCODERS]
    result = {
        "architectures": sorted(MODELS),
        "encoders": [asdict(encoder) for encoder in encoders],
        "presets": list(presets()),
    }
    put(result, json, lambda: _print(result, encoders), force=force)


def _print(result: dict[str, Any], encoders: "list[EncoderInfo]") -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    typer.echo(f"Architectures: {', '.join(result['architectures'])}")
    typer.echo(f"Presets:       {', '.join(result['presets'])}")
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
