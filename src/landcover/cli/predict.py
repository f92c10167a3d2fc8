"""``landcover predict``."""

import json as json_
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from landcover.batch import MAX_PIXELS
from landcover.cli._options import MaxPixels

if TYPE_CHECKING:
    from landcover.inference import Prediction

_STDOUT = Path("-")


def predict(
    model: Annotated[str, typer.Option(help="Model file, or folder of a training run.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Folder of the maps.", show_default=False)],
    inputs: Annotated[
        list[Path] | None, typer.Argument(help="Images and folders of images.", show_default=False)
    ] = None,
    list_file: Annotated[
        Path | None,
        typer.Option(
            "--list", help="Text file of more inputs: a path a line, seen from the file's folder; # comments."
        ),
    ] = None,
    gsd: Annotated[
        float | None,
        typer.Option(help="Metres per pixel of the images, where neither they nor a landcover.yaml tell."),
    ] = None,
    min_region: Annotated[
        str | None,
        typer.Option(help="Give smaller regions their largest neighbour's class: 8000px or 2000m2."),
    ] = None,
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="Write the probability of each class too (GeoTIFF).")
    ] = False,
    mask_format: Annotated[
        Literal["palette", "rgb", "index"], typer.Option(help="Form of PNG maps.")
    ] = "palette",
    window: Annotated[
        int | None,
        typer.Option(help="Side of the sliding window in pixels of the model; 0: whole images at once."),
    ] = None,
    overlap: Annotated[int | None, typer.Option(help="Pixels that neighbouring windows share.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    max_pixels: MaxPixels = MAX_PIXELS,
    force: Annotated[bool, typer.Option("--force", help="Replace existing maps.")] = False,
    json: Annotated[
        Path | None, typer.Option(help="Write maps and areas as JSON; - is standard output.")
    ] = None,
) -> None:
    """Make a land-cover map of every image."""
    from landcover.files import refuse_existing, write_text
    from landcover.inference import predict as make_maps
    from landcover.inference.plan import read_list

    if json is not None and json != _STDOUT:
        refuse_existing(json, force=force)
    prediction = make_maps(
        [*(inputs or []), *([] if list_file is None else read_list(list_file))],
        model,
        out,
        gsd=gsd,
        min_region=min_region,
        probabilities=probabilities,
        mask_format=mask_format,
        window_px=window,
        overlap_px=overlap,
        device=device,
        max_pixels=max_pixels,
        force=force,
    )
    text = json_.dumps(prediction.to_dict(), indent=1)
    if json == _STDOUT:
        print(text)
    else:
        if json is not None:
            write_text(json, text + "\n", force=force)
        _print_areas(prediction)
    for reason in prediction.failed.values():
        print(f"Skipped: {reason}", file=sys.stderr)
    done, failed = len(prediction.maps), len(prediction.failed)
    print(f"{done} of {done + failed} maps written to {out}.", file=sys.stderr)
    if failed:
        raise typer.Exit(1)


def _print_areas(prediction: "Prediction") -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table("class")
    for name in ("pixels", "share", "hectares"):
        table.add_column(name, justify="right")
    for area in prediction.areas:
        hectares = "-" if area.hectares is None else f"{area.hectares:,.2f}"
        table.add_row(escape(area.name), f"{area.pixels:,}", f"{100 * area.share:.1f} %", hectares)
    Console().print(table)
