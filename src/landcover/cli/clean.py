"""``landcover clean``."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from landcover.cli._options import MaxOffPalette, MaxPixels
from landcover.io.discovery import MAX_OFF_PALETTE, MAX_PIXELS


def clean(
    masks: Annotated[list[Path], typer.Argument(help="Masks and folders of masks.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Folder of the cleaned masks.", show_default=False)],
    min_region: Annotated[
        str, typer.Option(help="Smallest region that stays: 8000px or 2000m2.", show_default=False)
    ],
    legend: Annotated[str, typer.Option(help="Legend of the masks: a name or a YAML file.")] = "deepglobe",
    gsd: Annotated[
        float | None,
        typer.Option(help="Metres per pixel, for sizes in m2 where a mask is not georeferenced."),
    ] = None,
    mask_format: Annotated[
        Literal["palette", "rgb", "index"], typer.Option(help="Form of PNG masks.")
    ] = "palette",
    max_off_palette: MaxOffPalette = MAX_OFF_PALETTE,
    max_pixels: MaxPixels = MAX_PIXELS,
    force: Annotated[bool, typer.Option("--force", help="Replace existing outputs.")] = False,
) -> None:
    """Give small regions of masks their largest neighbour's class."""
    from landcover.legend import load_legend
    from landcover.postprocess import clean as clean_masks

    result = clean_masks(
        masks,
        out,
        min_region=min_region,
        legend=load_legend(legend),
        gsd=gsd,
        mask_format=mask_format,
        max_off_palette=max_off_palette,
        max_pixels=max_pixels,
        force=force,
    )
    for reason in result.failed.values():
        typer.echo(f"Skipped: {reason}", err=True)
    if result.off_palette:
        typer.echo(f"{result.off_palette:,} pixels had a colour of no class and became unknown.", err=True)
    share = 100 * result.changed / result.pixels if result.pixels else 0.0
    typer.echo(
        f"Cleaned {len(result.written)} of {len(result.written) + len(result.failed)} masks into {out}; "
        f"{share:.2f} % of the pixels changed.",
        err=True,
    )
    if result.failed:
        raise typer.Exit(1)
