"""``landcover evaluate``: scores of a model or of masks on a split, and of a map against truth."""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import typer

from landcover.cli import _options
from landcover.cli._options import option
from landcover.cli._output import log, print_table, put, say
from landcover.config import INPUT, MAIN, PROCESSING
from landcover.errors import UsageError
from landcover.evaluation.report import AssessmentReport, Estimate, EvaluationReport
from landcover.evaluation.scoring import EvaluateOptions
from landcover.evaluation.scoring import evaluate as score
from landcover.inference.options import ImageryOptions
from landcover.values import points


def evaluate(
    imagery: ImageryOptions,
    data: _options.OptionalData = None,
    split: Annotated[
        str | None, option("Subset to score, NAME:part, such as glnet:test.", group=MAIN)
    ] = None,
    model: Annotated[Path | None, option("Model file or run folder to score.", group=MAIN)] = None,
    predictions: Annotated[
        Path | None,
        option("In place of --model: a folder of masks named KEY_mask.png or KEY.png.", group=MAIN),
    ] = None,
    map_path: Annotated[
        Path | None, option("In place of --data: a georeferenced map to assess.", "--map", group=MAIN)
    ] = None,
    truth: Annotated[
        Path | None, option("Truth of --map: labelled points, polygons, or a class raster.", group=INPUT)
    ] = None,
    column: Annotated[str | None, option("Column of the true class.  [default: class]", group=INPUT)] = None,
    layer: Annotated[str | None, option("Layer of the truth, if the file has several.", group=INPUT)] = None,
    truth_crs: Annotated[str | None, option("CRS of x and y in a CSV file, EPSG:CODE.", group=INPUT)] = None,
    legend: _options.Legend = None,
    gsd: _options.Gsd = None,
    metric: Annotated[
        Literal["challenge", "glnet", "seven-class"],
        option(
            "challenge: six classes, unknown ignored. The others follow the literature.", group=PROCESSING
        ),
    ] = "challenge",
    *,
    options: EvaluateOptions,
    borders: Annotated[bool, typer.Option("--borders", hidden=True)] = False,
    json: _options.Json = None,
) -> None:
    """Score a model or masks on a split, or a map against truth."""
    if borders:
        log.warning("--borders is now --boundaries; the old name will be removed in 0.3.")
        options = options.model_copy(update={"boundaries": True})
    report: AssessmentReport | EvaluationReport
    show: Callable[[], None]
    if map_path is not None or truth is not None:
        others = {"data": data, "split": split, "model": model, "predictions": predictions, "gsd": gsd}
        others |= imagery.model_dump(exclude_defaults=True)
        others |= options.model_dump(exclude_defaults=True, exclude={"prediction_legend", "force"})
        flags = (f"--{name.replace('_', '-')}" for name, value in others.items() if value is not None)
        given = ", ".join(flags)
        if map_path is None or truth is None or given:
            end = f", without {given}." if given else "."
            raise UsageError(f"--map MAP and --truth FILE go together{end}")
        from landcover.evaluation.assessment import TruthOptions, assess

        assessed = assess(
            map_path,
            truth,
            legend=legend,
            map_legend=options.prediction_legend,
            options=TruthOptions(column=column, layer=layer, crs=truth_crs),
            metric=metric,
        )
        report, show = assessed, partial(_print_assessment, assessed)
    elif data is None or split is None:
        missing = [name for name, value in (("--data", data), ("--split", split)) if value is None]
        raise UsageError(
            f"Missing: {', '.join(missing)}. Pass --data DATA and --split NAME:part, such as all:all, or "
            "--map MAP and --truth FILE."
        )
    else:
        scored = score(
            data,
            split,
            model=model,
            predictions=predictions,
            metric=metric,
            legend=legend,
            gsd=gsd,
            options=options.model_copy(update={"reading": imagery.reading}),
        )
        report, show = scored, partial(_print_scores, scored)
    put(report.to_dict(), json, show, force=options.force)
    for warning in report.warnings:
        log.warning("%s", warning)


def _print_scores(report: EvaluationReport) -> None:
    """Print IoU and shares of each class, the means, and the matrix with rows that sum to 100 %."""
    import numpy as np

    from landcover.evaluation.overlap import describe_overlap

    def measures(of_class: Mapping[str, Mapping[str, float | None]], digits: int = 2) -> list[list[str]]:
        columns = ("precision", "recall", "f1")
        return [[name, *(points(of[column], digits) for column in columns)] for name, of in of_class.items()]

    counts = report.confusion.astype(float)
    cleaned, overlap = report.min_region, report.training_overlap
    scored = [scores for scores in (report, cleaned) if scores]
    of_truth, of_map = (counts.sum(axis=axis) / max(counts.sum(), 1) for axis in (1, 0))
    print_table(
        ["class", "IoU %", *(["cleaned"] if cleaned else []), "of truth %", "of map %"],
        [
            [
                name,
                *(points(scores.iou.get(name)) for scores in scored),
                *(points(share[i], 1) for share in (of_truth, of_map)),
            ]
            for i, name in enumerate(report.classes)
        ],
        total=["mean", *(points(scores.miou) for scores in scored), "", ""],
    )
    head = ["class", "precision (user's) %", "recall (producer's) %", "F1 %"]
    print_table(head, measures(report.class_measures, 1))
    by_row = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    print_table(
        ["truth, %", *report.classes],
        [
            [name, *(points(share if row.any() else None, 1) for share in row)]
            for name, row in zip(report.classes, by_row, strict=True)
        ],
    )
    say(report.headline)
    kappa = "-" if report.kappa is None else f"{report.kappa:.3f}"
    print(
        f"mIoU over the classes of the truth {points(report.miou_present)}, kappa {kappa}; "
        f"{points(report.unscored)} % of the masks' pixels are not scored (nodata, unknown)"
    )
    if overlap and (sentence := describe_overlap(overlap)):
        say(sentence)
    if cleaned and cleaned.miou_change is not None:
        say(
            f"Without regions below {cleaned.min_pixels:,} px: mIoU {points(cleaned.miou)}, "
            f"{100 * cleaned.miou_change:+.2f} points"
        )
    if boundaries := report.boundaries:  # a row for each bin: its own scores, then those beyond it
        rows = [
            [row.name, points(row.share)]
            + [points(score) for of in (row, row.beyond) for score in (of.miou, of.pixel_accuracy)]
            for row in boundaries.bins
        ]
        head = ["from boundary", "of truth %", "mIoU %", "accuracy %", "beyond: mIoU %", "accuracy %"]
        print_table(head, rows)
        head = [f"boundary, within {boundaries.tolerance}", "precision %", "recall %", "F1 %"]
        rows = measures(boundaries.class_measures)
        print_table(head, rows, total=["mean", "", "", points(boundaries.mean_f1)])
    found = report.calibration
    if found and not found.pixels:
        say(
            "No calibration: the masks contain no labelled pixels. Check the masks and their legend with "
            "landcover verify."
        )
    elif found and found.worst_class is not None:
        print_table(
            ["predicted class", "share %", "confidence %", "accuracy %", "ECE %"],
            [
                [name, *map(points, (of.share, of.confidence, of.accuracy, of.ece) if of else [None] * 4)]
                for name, of in found.per_class.items()
            ],
            total=["all", *map(points, (1.0, found.confidence, found.accuracy, found.ece))],
        )
        worst = found.worst_class
        say(
            f"Calibration error (ECE) {points(found.ece)} %, at worst {points(worst.ece)} % ({worst.name}); "
            f"NLL {found.nll:.4f} at temperature {found.temperature:.4g}"
            + (
                f", fitted on {found.fitted_on}"
                if found.fitted_on
                else ", not fitted: see landcover calibrate"
            )
        )


def _print_assessment(report: AssessmentReport) -> None:
    """Print scores of the units, then the estimates for the map and what their intervals depend on."""
    estimates, units = report.estimates, "points" if report.truth_kind == "points" else "pixels"

    def text(estimate: Estimate | None, scale: float, digits: int) -> str:
        if estimate is None:
            return "-"
        half = "" if estimate.se is None else f" ± {1.96 * scale * estimate.se:,.{digits}f}"
        return f"{scale * estimate.value:,.{digits}f}{half}"

    def row(name: str) -> Iterable[str]:
        mapped, hectares = report.mapped[name].hectares, estimates.hectares
        return (
            name,
            points(report.iou.get(name)),
            text(estimates.users[name], 100, 1),
            text(estimates.producers[name], 100, 1),
            "-" if mapped is None else f"{mapped:,.2f}",
            text(None if hectares is None else hectares[name], 1, 2),
        )

    head = ["class", "IoU %", "user's %", "producer's %", "mapped ha", "estimated ha"]
    print_table(head, map(row, estimates.users))
    say(
        f"Overall accuracy {text(estimates.overall, 100, 1)} % of the area, by {report.units:,} {units}; of "
        f"these {points(report.pixel_accuracy, 1)} % are right, mIoU {points(report.miou)} (metric "
        f"{report.metric})."
    )
    say(estimates.without_errors or f"± is half a 95 % interval. The estimates hold if {estimates.hold_if}.")
