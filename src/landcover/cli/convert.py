"""``landcover convert``."""

from pathlib import Path
from typing import Annotated, cast

import typer

from landcover.cli import _options
from landcover.cli._options import MAIN, PRODUCTS, option
from landcover.cli._output import log
from landcover.io.discovery import MAX_OFF_PALETTE, MAX_PIXELS


def convert(
    masks: Annotated[list[Path], typer.Argument(help="Masks and folders of masks.", show_default=False)],
    to: Annotated[str, option("Output: index or colour.", group=MAIN)],
    out: Annotated[Path, option("Folder of the new masks.", group=MAIN)],
    legend: _options.Legend = None,
    mask_format: Annotated[
        str | None,
        option("Form of colour masks: palette (default) or rgb.", group=PRODUCTS),
    ] = None,
    max_off_palette: _options.MaxOffPalette = MAX_OFF_PALETTE,
    max_pixels: _options.MaxPixels = MAX_PIXELS,
    force: _options.Force = False,
) -> None:
    """Convert masks between colours and indices."""
    from landcover.data.conversion import ColourFormat, Form
    from landcover.data.conversion import convert as convert_masks
    from landcover.legend import load_legend

    result = convert_masks(
        masks,
        out,
        to=cast("Form", to),
        legend=load_legend(legend or "deepglobe"),
        mask_format=cast("ColourFormat | None", mask_format),
        max_off_palette=max_off_palette,
        max_pixels=max_pixels,
        force=force,
    )
    for reason in result.failed.values():
        log.warning("Skipped: %s", reason)
    for source, count in result.off_palette.items():
        log.warning("%s: %s off-palette pixels.", source, f"{count:,}")
    written = len(result.written)
    log.info("Converted %d of %d masks into %s.", written, written + len(result.failed), out)
    if result.failed:
        raise typer.Exit(1)
