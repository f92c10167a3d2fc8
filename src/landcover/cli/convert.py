"""``landcover convert``."""

from pathlib import Path
from typing import Annotated, cast

import typer

from landcover.cli._options import MaxOffPalette, MaxPixels
from landcover.io.discovery import MAX_OFF_PALETTE, MAX_PIXELS


def convert(
    masks: Annotated[list[Path], typer.Argument(help="Masks and folders of masks.", show_default=False)],
    to: Annotated[str, typer.Option(help="What to write: index or colour.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Folder of the new masks.", show_default=False)],
    legend: Annotated[str, typer.Option(help="Legend of the masks: a name or a YAML file.")] = "deepglobe",
    mask_format: Annotated[
        str | None, typer.Option(help="Form of colours: palette (default) or rgb.", show_default=False)
    ] = None,
    max_off_palette: MaxOffPalette = MAX_OFF_PALETTE,
    max_pixels: MaxPixels = MAX_PIXELS,
    force: Annotated[bool, typer.Option("--force", help="Replace existing outputs.")] = False,
) -> None:
    """Convert masks between colours and indices."""
    from landcover.data.convert import ColourFormat, Form
    from landcover.data.convert import convert as convert_masks
    from landcover.legend import load_legend

    result = convert_masks(
        masks,
        out,
        to=cast("Form", to),
        legend=load_legend(legend),
        mask_format=cast("ColourFormat | None", mask_format),
        max_off_palette=max_off_palette,
        max_pixels=max_pixels,
        force=force,
    )
    for reason in result.failed.values():
        typer.echo(f"Skipped: {reason}", err=True)
    for source, count in result.off_palette.items():
        typer.echo(f"{source}: {count:,} pixels have a colour that is no class.", err=True)
    typer.echo(
        f"Converted {len(result.written)} of {len(result.written) + len(result.failed)} masks into {out}.",
        err=True,
    )
    if result.failed:
        raise typer.Exit(1)
