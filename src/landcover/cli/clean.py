"""``landcover clean``."""

from pathlib import Path
from typing import Annotated

import typer

from landcover.cli import _options
from landcover.cli._options import MAIN, option
from landcover.cli._output import log
from landcover.io.discovery import MAX_OFF_PALETTE, MAX_PIXELS


def clean(
    masks: Annotated[list[Path], typer.Argument(help="Masks and folders of masks.", show_default=False)],
    out: Annotated[Path, option("Folder of the cleaned masks.", group=MAIN)],
    min_region: Annotated[
        str,
        option("Smallest region that stays: 8000px or 2000m2.", group=MAIN, metavar="SIZE"),
    ],
    legend: _options.Legend = None,
    gsd: _options.Gsd = None,
    mask_format: _options.Form = "palette",
    max_off_palette: _options.MaxOffPalette = MAX_OFF_PALETTE,
    max_pixels: _options.MaxPixels = MAX_PIXELS,
    force: _options.Force = False,
) -> None:
    """Give small regions of masks their largest neighbour's class."""
    from landcover.legend import load_legend
    from landcover.postprocess import clean as clean_masks

    result = clean_masks(
        masks,
        out,
        min_region=min_region,
        legend=load_legend(legend or "deepglobe"),
        gsd=gsd,
        mask_format=mask_format,
        max_off_palette=max_off_palette,
        max_pixels=max_pixels,
        force=force,
    )
    for reason in result.failed.values():
        log.warning("Skipped: %s", reason)
    if result.off_palette:
        log.warning("%s off-palette pixels became unknown.", f"{result.off_palette:,}")
    share = 100 * result.changed / result.pixels if result.pixels else 0.0
    log.info(
        "Cleaned %d of %d masks into %s; %.2f %% of the pixels changed.",
        len(result.written),
        len(result.written) + len(result.failed),
        out,
        share,
    )
    if result.failed:
        raise typer.Exit(1)
