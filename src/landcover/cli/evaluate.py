"""``landcover evaluate``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from landcover.cli import _options
from landcover.cli._assessment import assess_map
from landcover.cli._options import INPUT, MAIN, PROCESSING, PRODUCTS, REPORTS, option
from landcover.cli._output import check_json, log, points, put, table
from landcover.errors import UsageError
from landcover.io.discovery import MAX_PIXELS

if TYPE_CHECKING:
    from rich.console import Console


def evaluate(
    data: _options.OptionalData = None,
    split: Annotated[
        str | None,
        option("Subset to score, NAME:part, such as glnet:test.", group=MAIN),
    ] = None,
    model: Annotated[
        Path | None,
        option("Model file or run folder to score.", group=MAIN),
    ] = None,
    predictions: Annotated[
        Path | None,
        option("In place of --model: a folder of masks named KEY_mask.png or KEY.png.", group=MAIN),
    ] = None,
    map_path: Annotated[
        Path | None,
        option("In place of --data: a georeferenced map to assess.", "--map", group=MAIN),
    ] = None,
    truth: Annotated[
        Path | None,
        option("Truth of --map: labelled points, polygons, or a class raster.", group=INPUT),
    ] = None,
    column: Annotated[
        str | None,
        option("Column of the true class.  [default: class]", group=INPUT),
    ] = None,
    layer: Annotated[
        str | None,
        option("Layer of the truth, if the file has several.", group=INPUT),
    ] = None,
    truth_crs: Annotated[
        str | None,
        option("CRS of x and y in a CSV file, EPSG:CODE.", group=INPUT),
    ] = None,
    legend: _options.Legend = None,
    prediction_legend: Annotated[
        str | None,
        option("Legend of the predicted masks or the map, if it differs.", group=INPUT),
    ] = None,
    gsd: _options.Gsd = None,
    max_pixels: _options.MaxPixels = MAX_PIXELS,
    metric: Annotated[
        Literal["challenge", "glnet", "seven-class"],
        option(
            "challenge: six classes, unknown ignored. The others follow the literature.", group=PROCESSING
        ),
    ] = "challenge",
    min_region: Annotated[
        str | None,
        option(
            "Also score without regions below this size: 8000px or 2000m2.", group=PROCESSING, metavar="SIZE"
        ),
    ] = None,
    device: _options.Device = "auto",
    maps: Annotated[
        Path | None,
        option("Keep the maps of the model in this folder.", group=PRODUCTS),
    ] = None,
    force: _options.Force = False,
    calibration: Annotated[
        bool,
        option("Also compare confidence with accuracy.", "--calibration", group=REPORTS),
    ] = False,
    borders: Annotated[
        bool,
        option("Also score by distance from class boundaries of the truth.", "--borders", group=REPORTS),
    ] = False,
    json: _options.Json = None,
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
        raise UsageError("Pass --data DATA and --split NAME:part, or --map MAP and --truth FILE.")
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
        log.warning("%s", warning)


def _print_scores(result: dict[str, Any]) -> None:
    """Print IoU and shares of each class, the means, and the matrix with rows that sum to 100 %."""
    import numpy as np
    from rich.console import Console

    from landcover.evaluation.overlap import TrainingOverlap, describe_overlap

    counts = np.array(result["confusion"], float)
    cleaned = result["min_region"]
    console = Console(markup=False)  # names of classes and files are plain text

    rows = table("class", "IoU %", *(["cleaned"] if cleaned else []), "of truth %", "of map %")
    shares = [_percent(part / max(counts.sum(), 1)) for part in (counts.sum(axis=1), counts.sum(axis=0))]
    for i, name in enumerate(result["classes"]):
        ious = [points(scores["iou"].get(name)) for scores in (result, cleaned) if scores]
        rows.add_row(name, *ious, shares[0][i], shares[1][i])
    rows.add_section()
    rows.add_row("mean", *[points(scores["miou"]) for scores in (result, cleaned) if scores], "", "")
    console.print(rows)

    matrix = table("truth, %", *result["classes"])
    by_row = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    for name, row in zip(result["classes"], by_row, strict=True):
        matrix.add_row(name, *(_percent(row) if row.any() else ["-"] * len(row)))
    console.print(matrix)

    console.print(
        f"mIoU {points(result['miou'])}{_interval(result)}, "
        f"pixel accuracy {points(result['pixel_accuracy'])}; metric {result['metric']}, "
        f"split {result['split']}, {result['images']} images, {result['pixels']:,} pixels",
        soft_wrap=True,
        highlight=False,
    )
    overlap = result["training_overlap"]
    if overlap and (sentence := describe_overlap(TrainingOverlap(**overlap))):
        console.print(sentence, soft_wrap=True, highlight=False)
    if cleaned and cleaned["miou_change"] is not None:
        console.print(
            f"Without regions below {cleaned['min_pixels']:,} px: mIoU {points(cleaned['miou'])}, "
            f"{100 * cleaned['miou_change']:+.2f} points",
            highlight=False,
        )
    if result["boundaries"]:
        _print_boundaries(result["boundaries"], console)
    if result["calibration"]:
        _print_calibration(result["calibration"], console)


def _print_boundaries(boundaries: dict[str, Any], console: "Console") -> None:
    """Print a row for each bin of distances, with the scores of all pixels from there on beside its own."""
    from landcover.evaluation.report import bin_name

    rows = table("from boundary", "of truth %", "mIoU %", "accuracy %", "beyond: mIoU %", "accuracy %")
    for row in boundaries["bins"]:
        scores = [points(of[name]) for of in (row, row["beyond"]) for name in ("miou", "pixel_accuracy")]
        rows.add_row(bin_name(row["from_m"], row["to_m"]), points(row["share"]), *scores)
    console.print(rows)


def _print_calibration(calibration: dict[str, Any], console: "Console") -> None:
    """Print confidence and accuracy of each predicted class."""
    if not calibration["pixels"]:
        console.print(
            "No calibration: the masks contain no labelled pixels. Check the masks and their legend with "
            "landcover verify.",
            soft_wrap=True,
        )
        return
    rows = table("predicted class", "share %", "confidence %", "accuracy %", "ECE %")
    for name, found in calibration["per_class"].items():
        columns = ("share", "confidence", "accuracy", "ece")
        rows.add_row(name, *(points(found and found[column]) for column in columns))
    rows.add_section()
    means = (calibration[name] for name in ("confidence", "accuracy", "ece"))
    rows.add_row("all", points(1.0), *map(points, means))
    console.print(rows)
    fitted = calibration["fitted_on"]
    console.print(
        f"Calibration error (ECE) {points(calibration['ece'])} %, at worst "
        f"{points(calibration['worst_class']['ece'])} % ({calibration['worst_class']['name']}); "
        f"NLL {calibration['nll']:.4f} at temperature {calibration['temperature']:.4g}"
        + (f", fitted on {fitted}" if fitted else ", not fitted: see landcover calibrate"),
        soft_wrap=True,
        highlight=False,
    )


def _percent(shares: Any) -> list[str]:
    return [f"{100 * share:.1f}" for share in shares]


def _interval(result: dict[str, Any]) -> str:
    if result["miou_interval"] is None:
        return ""
    low, high = result["miou_interval"]
    return f" (95 %: {points(low)} to {points(high)}, by {result['resampled']})"
