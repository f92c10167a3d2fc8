"""``landcover prepare``."""

from pathlib import Path
from typing import Annotated

import typer

from landcover.cli._options import MaxPixels
from landcover.io.discovery import MAX_PIXELS


def prepare(
    data: Annotated[Path, typer.Argument(help="The data folder.", show_default=False)],
    out: Annotated[Path, typer.Option(help="The cache folder to make.", show_default=False)],
    gsd: Annotated[
        float | None, typer.Option(help="Metres per pixel, where the data do not tell.", show_default=False)
    ] = None,
    legend: Annotated[
        str | None,
        typer.Option(help="Legend of the masks: a name or a YAML file; the data's own by default."),
    ] = None,
    max_pixels: MaxPixels = MAX_PIXELS,
    force: Annotated[bool, typer.Option("--force", help="Replace a cache of other files.")] = False,
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
    typer.echo(
        f"{out} {'written' if written else 'is up to date'}: layout {dataset.layout}, "
        f"{len(dataset.items)} images, {len(dataset.labelled)} with masks, {scale}.",
        err=True,
    )
