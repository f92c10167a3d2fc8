"""``landcover report``."""

from pathlib import Path
from typing import Annotated

import typer

from landcover.cli import _options
from landcover.cli._options import MAIN, option
from landcover.cli._output import log


def report(
    inputs: Annotated[
        list[Path],
        typer.Argument(help="Run folders and JSON files of landcover evaluate.", show_default=False),
    ],
    out: Annotated[Path, option("HTML file to write.", group=MAIN)],
    title: Annotated[str, option("Heading of the page.", group=MAIN)] = ("Land-cover report"),
    images: Annotated[int, option("Number of best and of worst images to show.", group=MAIN)] = 3,
    force: _options.Force = False,
) -> None:
    """Write an HTML page about training runs and evaluations."""
    from landcover.reporting import report as write_report

    page = write_report(inputs, out, title=title, images=images, force=force)
    log.info("%s  (%.1f MB)", page, page.stat().st_size / 1e6)
