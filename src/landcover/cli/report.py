"""``landcover report``."""

from pathlib import Path
from typing import Annotated

import typer


def report(
    inputs: Annotated[
        list[Path],
        typer.Argument(help="Run folders and JSON files of landcover evaluate.", show_default=False),
    ],
    out: Annotated[Path, typer.Option(help="The page to write.", show_default=False)],
    title: Annotated[str, typer.Option(help="Heading of the page.")] = "Land-cover report",
    images: Annotated[int, typer.Option(help="How many of the best and of the worst images to show.")] = 3,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing page.")] = False,
) -> None:
    """Write an HTML page about training runs and evaluations."""
    from landcover.reporting import report as write_report

    page = write_report(inputs, out, title=title, images=images, force=force)
    typer.echo(f"{page}  ({page.stat().st_size / 1e6:.1f} MB)", err=True)
