"""``landcover evaluate``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from landcover.cli._assessment import assess_map
from landcover.cli._options import MaxPixels
from landcover.cli._output import check_json, put
from landcover.errors import UsageError
from landcover.io.discovery import MAX_PIXELS

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


def evaluate(
    data: Annotated[
        Path | None, typer.Option(help="Data folder or prepared cache.", show_default=False)
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="What to score, NAME:part, such as glnet:test.", show_default=False)
    ] = None,
    model: Annotated[
        Path | None, typer.Option(help="Score this model file or run folder ...", show_default=False)
    ] = None,
    predictions: Annotated[
        Path | None,
        typer.Option(help="... or a folder of masks named KEY_mask.png or KEY.png.", show_default=False),
    ] = None,
    map_path: Annotated[
        Path | None,
        typer.Option("--map", help="Instead of data: score this georeferenced map ...", show_default=False),
    ] = None,
    truth: Annotated[
        Path | None,
        typer.Option(help="... at labelled points, in polygons or by a class raster.", show_default=False),
    ] = None,
    column: Annotated[
        str | None, typer.Option(help="Column of the true class.  [default: class]", show_default=False)
    ] = None,
    layer: Annotated[
        str | None, typer.Option(help="Layer of the truth, where there are several.", show_default=False)
    ] = None,
    truth_crs: Annotated[
        str | None, typer.Option(help="CRS of x and y in a CSV file, EPSG:CODE.", show_default=False)
    ] = None,
    metric: Annotated[
        Literal["challenge", "glnet", "seven-class"],
        typer.Option(help="challenge: six classes, unknown ignored; the others follow the literature."),
    ] = "challenge",
    legend: Annotated[
        str | None, typer.Option(help="Legend of the data's masks: a name or a YAML file.")
    ] = None,
    prediction_legend: Annotated[
        str | None, typer.Option(help="Legend of the predicted masks or the map, where it is another one.")
    ] = None,
    gsd: Annotated[float | None, typer.Option(help="Metres per pixel, where the data do not tell.")] = None,
    min_region: Annotated[
        str | None, typer.Option(help="Score again without smaller regions: 8000px or 2000m2.")
    ] = None,
    calibration: Annotated[
        bool, typer.Option("--calibration", help="Compare the model's confidence with its accuracy.")
    ] = False,
    borders: Annotated[
        bool, typer.Option("--borders", help="Score by distance from class borders of the truth, too.")
    ] = False,
    maps: Annotated[Path | None, typer.Option(help="Keep the model's maps in this folder.")] = None,
    max_pixels: MaxPixels = MAX_PIXELS,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    json: Annotated[Path | None, typer.Option(help="Write the result as JSON; - is standard output.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace existing outputs.")] = False,
) -> None:
    """Score a model or masks on a split, or a map against truth."""
    from landcover.evaluation.scoring import EvaluateOptions
    from landcover.evaluation.scoring import evaluate as score
    from landcover.legend import load_legend

    check_json(json, force=force)
    if map_path is not None or truth is not None:
        others = {
            "--data": data,
            "--split": split,
            "--model": model,
            "--predictions": predictions,
            "--gsd": gsd,
            "--min-region": min_region,
            "--calibration": calibration or None,
            "--borders": borders or None,
            "--maps": maps,
        }
        given = [name for name, value in others.items() if value is not None]
        if map_path is None or truth is None or given:
            raise UsageError(
                "--map MAP and --truth FILE go together"
                + (f", without {', '.join(given)}." if given else ".")
            )
        assess_map(
            map_path,
            truth,
            legend=legend,
            map_legend=prediction_legend,
            column=column,
            layer=layer,
            truth_crs=truth_crs,
            metric=metric,
            json=json,
            force=force,
        )
        return
    if data is None or split is None:
        raise UsageError("Give --data DATA and --split NAME:part, or --map MAP and --truth FILE.")
    result: dict[str, Any] = score(
        data,
        split,
        model=model,
        predictions=predictions,
        metric=metric,
        legend=None if legend is None else load_legend(legend),
        gsd=gsd,
        options=EvaluateOptions(
            prediction_legend=None if prediction_legend is None else load_legend(prediction_legend),
            min_region=min_region,
            calibration=calibration,
            boundaries=borders,
            maps=maps,
            device=device,
            max_pixels=max_pixels,
            force=force,
        ),
    ).to_dict()
    put(result, json, lambda: _print_scores(result), force=force)
    for warning in result["warnings"]:
        typer.echo(f"Warning: {warning}", err=True)


def _print_scores(result: dict[str, Any]) -> None:
    """Print IoU and shares of each class, the means, and the matrix with rows that sum to 100 %."""
    import numpy as np
    from rich.console import Console

    from landcover.evaluation.overlap import TrainingOverlap, describe_overlap

    counts = np.array(result["confusion"], float)
    cleaned = result["min_region"]
    console = Console(markup=False)  # names of classes and files are plain text

    table = _table("class", "IoU %", *(["cleaned"] if cleaned else []), "of truth %", "of map %")
    shares = [_percent(part / max(counts.sum(), 1)) for part in (counts.sum(axis=1), counts.sum(axis=0))]
    for i, name in enumerate(result["classes"]):
        ious = [_points(scores["iou"].get(name)) for scores in (result, cleaned) if scores]
        table.add_row(name, *ious, shares[0][i], shares[1][i])
    table.add_section()
    table.add_row("mean", *[_points(scores["miou"]) for scores in (result, cleaned) if scores], "", "")
    console.print(table)

    matrix = _table("truth, %", *result["classes"])
    by_row = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    for name, row in zip(result["classes"], by_row, strict=True):
        matrix.add_row(name, *(_percent(row) if row.any() else ["-"] * len(row)))
    console.print(matrix)

    console.print(
        f"mIoU {_points(result['miou'])}{_interval(result)}, "
        f"pixel accuracy {_points(result['pixel_accuracy'])}; metric {result['metric']}, "
        f"split {result['split']}, {result['images']} images, {result['pixels']:,} pixels",
        soft_wrap=True,
        highlight=False,
    )
    overlap = result["training_overlap"]
    if overlap and (sentence := describe_overlap(TrainingOverlap(**overlap))):
        console.print(sentence, soft_wrap=True, highlight=False)
    if cleaned and cleaned["miou_change"] is not None:
        console.print(
            f"Without regions below {cleaned['min_pixels']:,} px: mIoU {_points(cleaned['miou'])}, "
            f"{100 * cleaned['miou_change']:+.2f} points",
            highlight=False,
        )
    if result["boundaries"]:
        _print_boundaries(result["boundaries"], console)
    if result["calibration"]:
        _print_calibration(result["calibration"], console)


def _print_boundaries(boundaries: dict[str, Any], console: "Console") -> None:
    """Print a row for each bin of distances, with the scores of all pixels from there on beside its own."""
    from landcover.evaluation.boundary import bin_name

    table = _table("from boundaries", "of truth %", "mIoU %", "accuracy %", "beyond: mIoU %", "accuracy %")
    for row in boundaries["bins"]:
        scores = [_points(of[name]) for of in (row, row["beyond"]) for name in ("miou", "pixel_accuracy")]
        table.add_row(bin_name(row["from_m"], row["to_m"]), _points(row["share"]), *scores)
    console.print(table)


def _print_calibration(calibration: dict[str, Any], console: "Console") -> None:
    """Print how sure the model was of each class that it said, and how right."""
    if not calibration["pixels"]:
        console.print(
            "No calibration: none of the pixels has a known class in the truth, so that the "
            "model can be neither right nor wrong. Check the masks and their legend with landcover verify.",
            soft_wrap=True,
        )
        return
    table = _table("said", "of map %", "sure %", "right %", "ECE %")
    for name, found in calibration["per_class"].items():
        columns = ("share", "confidence", "accuracy", "ece")
        table.add_row(name, *(_points(found and found[column]) for column in columns))
    table.add_section()
    means = (calibration[name] for name in ("confidence", "accuracy", "ece"))
    table.add_row("all", _points(1.0), *map(_points, means))
    console.print(table)
    fitted = calibration["fitted_on"]
    console.print(
        f"Calibration error (ECE) {_points(calibration['ece'])} %, at worst "
        f"{_points(calibration['worst_class']['ece'])} % ({calibration['worst_class']['name']}); "
        f"NLL {calibration['nll']:.4f} at temperature {calibration['temperature']:.4g}"
        + (f", fitted on {fitted}" if fitted else ", not fitted: see landcover calibrate"),
        soft_wrap=True,
        highlight=False,
    )


def _table(first: str, *numbers: str) -> "Table":
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(first, box=SIMPLE_HEAD, pad_edge=False, padding=(0, 0, 0, 1))
    for name in numbers:
        table.add_column(name, justify="right")
    return table


def _points(score: float | None) -> str:
    return "-" if score is None else f"{100 * score:.2f}"


def _percent(shares: Any) -> list[str]:
    return [f"{100 * share:.1f}" for share in shares]


def _interval(result: dict[str, Any]) -> str:
    if result["miou_interval"] is None:
        return ""
    low, high = result["miou_interval"]
    return f" (95 %: {_points(low)} to {_points(high)}, by {result['resampled']})"
