"""``landcover prepare``."""

from pathlib import Path
from typing import Annotated

import typer

from landcover.cli import _options
from landcover.cli._options import MAIN, option
from landcover.cli._output import log
from landcover.io.discovery import MAX_PIXELS


def prepare(
    data: Annotated[Path, typer.Argument(help="Data folder.", show_default=False)],
    out: Annotated[Path, option("Cache folder to write.", group=MAIN)],
    gsd: _options.Gsd = None,
    legend: _options.Legend = None,
    max_pixels: _options.MaxPixels = MAX_PIXELS,
    force: _options.Force = False,
) -> None:
    """Decode a data folder once, into a cache that --data takes."""
    from landcover.data import prepare as make_cache
    from landcover.legend import load_legend

    dataset, written = make_cache(
        data,
        out,
        gsd=gsd,
        legend=None if legend is None else load_legend(legend),
        max_pixels=max_pixels,
        force=force,
    )
    scale = "GSD unknown" if dataset.gsd is None else f"{dataset.gsd:g} m per pixel"
    log.info(
        "%s %s: layout %s, %d images, %d with masks, %s.",
        out,
        "written" if written else "is up to date",
        dataset.layout,
        len(dataset.items),
        len(dataset.labelled),
        scale,
    )
