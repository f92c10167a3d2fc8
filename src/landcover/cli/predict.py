"""``landcover predict``."""

import csv as csv_
import io
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from landcover.cli._options import MaxPixels
from landcover.cli._output import check_json, put
from landcover.io.discovery import MAX_PIXELS

if TYPE_CHECKING:
    from landcover.inference import Prediction

_MOST_UNLIKE = 5
"""So many scenes that look unlike are told of one by one."""

_READING, _WORK, _PRODUCTS, _REPORT = "What is read", "How it is classified", "What is written", "Report"


def predict(
    model: Annotated[
        str,
        typer.Option(
            help="Model file, folder of a training run, or a model that comes with the package: starter, or "
            "starter-fp32 (see landcover models).",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder of the maps.", show_default=False)],
    inputs: Annotated[
        list[str] | None,
        typer.Argument(help="Images, folders of images, URLs of rasters.", show_default=False),
    ] = None,
    list_file: Annotated[
        Path | None,
        typer.Option(
            "--list",
            help="Text file of more inputs: a path a line, seen from the file's folder; # comments.",
            rich_help_panel=_READING,
        ),
    ] = None,
    gsd: Annotated[
        float | None,
        typer.Option(
            help="Metres per pixel of the images, where neither they nor a landcover.yaml tell.",
            rich_help_panel=_READING,
        ),
    ] = None,
    bands: Annotated[
        str | None,
        typer.Option(help="Bands that hold red, green and blue: 3,2,1.", rich_help_panel=_READING),
    ] = None,
    scaling: Annotated[
        str | None,
        typer.Option(
            help="Values of 16-bit rasters that become 0 and 255: 0,3000; or percentile, of each scene.",
            rich_help_panel=_READING,
        ),
    ] = None,
    bbox: Annotated[
        str | None,
        typer.Option(
            help="Only this part: left,bottom,right,top in the scene's CRS.", rich_help_panel=_READING
        ),
    ] = None,
    aoi: Annotated[
        Path | None, typer.Option(help="Only inside the polygons of this file.", rich_help_panel=_READING)
    ] = None,
    strict: Annotated[
        bool,
        typer.Option(
            "--strict",
            help="Skip a scene with a damaged block, instead of mapping the rest of it.",
            rich_help_panel=_READING,
        ),
    ] = False,
    max_pixels: MaxPixels = MAX_PIXELS,
    window: Annotated[
        int | None,
        typer.Option(
            help="Side of the sliding window in pixels of the model; 0: whole images at once.",
            rich_help_panel=_WORK,
        ),
    ] = None,
    overlap: Annotated[
        int | None, typer.Option(help="Pixels that neighbouring windows share.", rich_help_panel=_WORK)
    ] = None,
    batch: Annotated[
        int, typer.Option(min=1, help="Windows that the network gets at once.", rich_help_panel=_WORK)
    ] = 1,
    tta: Annotated[
        bool,
        typer.Option(
            "--tta", help="Average over the 8 turns and flips: 8 times the work.", rich_help_panel=_WORK
        ),
    ] = False,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.", rich_help_panel=_WORK)] = "auto",
    runtime: Annotated[
        Literal["auto", "openvino", "onnxruntime", "torch"],
        typer.Option(help="Library that computes.", rich_help_panel=_WORK),
    ] = "auto",
    threads: Annotated[
        int | None, typer.Option(min=1, max=1024, help="Threads that compute.", rich_help_panel=_WORK)
    ] = None,
    precision: Annotated[
        Literal["fp32", "bf16"],
        typer.Option(help="bf16: faster where the processor has it, less exact.", rich_help_panel=_WORK),
    ] = "fp32",
    jobs: Annotated[int, typer.Option(min=1, help="Scenes to work on at a time.", rich_help_panel=_WORK)] = 1,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Keep maps that are there, and go on where a killed run stopped.",
            rich_help_panel=_WORK,
        ),
    ] = False,
    min_region: Annotated[
        str | None,
        typer.Option(
            help="Give smaller regions their largest neighbour's class: 8000px or 2000m2.",
            rich_help_panel=_PRODUCTS,
        ),
    ] = None,
    probabilities: Annotated[
        bool,
        typer.Option(
            "--probabilities",
            help="Write the probability of each class too (GeoTIFF).",
            rich_help_panel=_PRODUCTS,
        ),
    ] = False,
    confidence: Annotated[
        bool,
        typer.Option(
            "--confidence",
            help="Write the probability of the mapped class too (GeoTIFF).",
            rich_help_panel=_PRODUCTS,
        ),
    ] = False,
    map_format: Annotated[
        Literal["auto", "png", "tif", "cog"],
        typer.Option(
            help="auto: GeoTIFF for georeferenced images and URLs, else PNG.", rich_help_panel=_PRODUCTS
        ),
    ] = "auto",
    mask_format: Annotated[
        Literal["palette", "rgb", "index"], typer.Option(help="Form of PNG maps.", rich_help_panel=_PRODUCTS)
    ] = "palette",
    qml: Annotated[
        bool,
        typer.Option("--qml", help="Write a QGIS style beside each GeoTIFF.", rich_help_panel=_PRODUCTS),
    ] = False,
    vector: Annotated[
        Literal["gpkg", "geojson", "fgb", "parquet"] | None,
        typer.Option(help="Write polygons too.", rich_help_panel=_PRODUCTS),
    ] = None,
    zones: Annotated[
        Path | None,
        typer.Option(help="Count areas in each polygon of this file too.", rich_help_panel=_PRODUCTS),
    ] = None,
    zone_column: Annotated[
        str | None, typer.Option(help="Column that names the zones.", rich_help_panel=_PRODUCTS)
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace existing maps.", rich_help_panel=_PRODUCTS)
    ] = False,
    json: Annotated[
        Path | None,
        typer.Option(help="Write maps and areas as JSON; - is standard output.", rich_help_panel=_REPORT),
    ] = None,
    csv: Annotated[
        Path | None,
        typer.Option(help="Write the areas of each map and zone as a table.", rich_help_panel=_REPORT),
    ] = None,
) -> None:
    """Make a land-cover map of every image or scene, of any size."""
    from landcover.errors import UsageError
    from landcover.inference import PredictOptions
    from landcover.inference import predict as make_maps
    from landcover.inference.plan import read_list
    from landcover.io.files import check_output, write_text

    replace = force or resume  # a resumed prediction tells anew what all maps show
    check_json(json, force=replace)
    if csv == Path("-"):
        raise UsageError("--csv takes the name of a file; --json - writes to standard output.")
    if csv is not None:
        check_output(csv, force=replace)
    options = PredictOptions(
        gsd=gsd,
        bands=None if bands is None else _whole_numbers(bands),
        scaling=None if scaling is None else "percentile" if scaling == "percentile" else _range(scaling),
        bbox=None if bbox is None else _box(bbox),
        aoi=aoi,
        strict=strict,
        max_pixels=max_pixels,
        window_px=window,
        overlap_px=overlap,
        batch=batch,
        turns=tta,
        min_region=min_region,
        probabilities=probabilities,
        confidence=confidence,
        map_format=map_format,
        mask_format=mask_format,
        qml=qml,
        vector=vector,
        zones=zones,
        zone_column=zone_column,
        jobs=jobs,
        resume=resume,
        force=force,
    )
    given = [*(inputs or []), *([] if list_file is None else read_list(list_file))]
    prediction = make_maps(
        given, model, out, options, device=device, runtime=runtime, threads=threads, precision=precision
    )
    put(prediction.to_dict(), json, lambda: _print_areas(prediction), force=replace)
    if csv is not None:
        write_text(csv, _table(prediction), force=replace)
    _tell(prediction, out)
    if not prediction.complete:
        raise typer.Exit(1)


def _numbers(text: str, count: int, example: str) -> list[float]:
    from landcover.errors import UsageError

    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if len(values) != count:
        raise UsageError(
            f"{text!r} was given; expected {count} numbers with commas between, such as {example}."
        )
    return values


def _whole_numbers(text: str) -> tuple[int, int, int]:
    from landcover.errors import UsageError

    red, green, blue = _numbers(text, 3, "3,2,1")
    if not all(value.is_integer() and value >= 1 for value in (red, green, blue)):
        raise UsageError(f"{text!r} was given; expected the numbers of three bands, from 1, such as 3,2,1.")
    return int(red), int(green), int(blue)


def _range(text: str) -> tuple[float, float]:
    low, high = _numbers(text, 2, "0,3000; or the word percentile")
    return low, high


def _box(text: str) -> tuple[float, float, float, float]:
    left, bottom, right, top = _numbers(text, 4, "5.1,52.0,5.2,52.1")
    return left, bottom, right, top


def _table(prediction: "Prediction") -> str:
    text = io.StringIO()
    names = ("map", "zone", "class", "pixels", "square_metres", "hectares", "share")
    writer = csv_.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(prediction.area_rows())
    return text.getvalue()


def _tell(prediction: "Prediction", out: Path) -> None:
    for made in prediction.all:
        for note in made.notes:
            print(f"Note: {note}", file=sys.stderr)
        if not made.areas.pixels.any():
            print(
                f"Note: {made.task.name} has no imagery in what was read of it: its map is nodata.",
                file=sys.stderr,
            )
        elif made.zones and not any(zone.pixels.any() for zone in made.zones.values()):
            print(f"Note: no zone holds any imagery of {made.task.name}.", file=sys.stderr)
        if made.damaged:
            pixels = sum(window.height * window.width for window in made.damaged)
            print(
                f"Damaged: {made.task.name}: {len(made.damaged)} blocks ({pixels:,} pixels) cannot be read "
                "and have no data in the map. Fetch the file again, or pass --strict to skip such scenes.",
                file=sys.stderr,
            )
    _tell_unlike(prediction)
    for reason in prediction.failed.values():
        print(f"Skipped: {reason}", file=sys.stderr)
    if prediction.kept:
        print(f"{len(prediction.kept)} maps were there already and were kept.", file=sys.stderr)
    done, failed = len(prediction.maps), len(prediction.failed)
    print(f"{done} of {done + failed} maps written to {out}.", file=sys.stderr)


def _tell_unlike(prediction: "Prediction") -> None:
    """Name the scenes that look unlike what the model learned from; of many, those that do most."""
    found = [(made.ood, made.task.name) for made in prediction.all if made.ood is not None]
    found.sort(key=lambda pair: -pair[0].share)
    warnings = [warning for unlike, name in found if (warning := unlike.warning(name)) is not None]
    for warning in warnings[:_MOST_UNLIKE]:
        print(f"Unlike: {warning}", file=sys.stderr)
    if len(warnings) > _MOST_UNLIKE:
        print(
            f"Unlike: so do {len(warnings) - _MOST_UNLIKE} more of {len(found)} scenes; --json lists them.",
            file=sys.stderr,
        )


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
