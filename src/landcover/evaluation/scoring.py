"""The verb: score a model, or a folder of maps, on one part of a split."""

import json as json_
import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np

from landcover.data import Dataset, Item, open_dataset, select
from landcover.data.parallel import parallel_map
from landcover.errors import MaskError, UsageError, did_you_mean
from landcover.evaluation.boundary import bin_name, boundary_scores, count_by_distance
from landcover.evaluation.calibration import Reliability
from landcover.evaluation.interval import LEAST_GROUPS, bootstrap_interval
from landcover.evaluation.overlap import overlap_warnings, training_overlap
from landcover.evaluation.predictions import Source, from_folder, from_model, keep_maps, required_gsd
from landcover.io import MAX_PIXELS
from landcover.io.files import check_json_output, write_text
from landcover.legend import Legend, UInt8Array, translation
from landcover.metrics import METRICS, ConfusionMatrix, Int64Array, Metric, Scores
from landcover.model.card import ModelCard, model_digest
from landcover.model.runtimes import Runtime, open_model
from landcover.postprocess import parse_min_region, remove_small_regions
from landcover.progress import track


def evaluate(
    data: str | Path,
    split: str,
    *,
    model: str | Path | Runtime | None = None,
    predictions: str | Path | None = None,
    metric: Metric = "challenge",
    prediction_legend: Legend | None = None,
    legend: Legend | None = None,
    gsd: float | None = None,
    min_region: str | None = None,
    calibration: bool = False,
    borders: bool = False,
    maps: str | Path | None = None,
    json: str | Path | None = None,
    device: str = "auto",
    max_pixels: int = MAX_PIXELS,
    force: bool = False,
) -> dict[str, Any]:
    """Score predictions against the masks of one part of a split, at the masks' own size.

    Args:
        data: Data folder or prepared cache.
        split: ``NAME:part``, as for :func:`landcover.data.select`.
        model: What predicts: a model file, a run folder or a runtime. Either this or ``predictions``.
        predictions: Folder of masks named ``<key>_mask.png`` or ``<key>.png`` (or ``.tif``), in any form that
            :func:`landcover.io.read_mask` takes.
        metric: One of :data:`landcover.metrics.METRICS`.
        prediction_legend: Legend of the folder's masks; by default the data's. Classes are matched by name.
        legend: Legend of the data's masks; by default what the data say.
        gsd: Metres per pixel of the data; by default what the data say. A model needs it.
        min_region: Score once more with regions below ``8000px`` or ``2000m2`` removed.
        calibration: Compare the model's confidence with its accuracy, pixel by pixel, over the probabilities
            that ``predict`` delivers.
        borders: Score pixels by their distance from class borders of the truth, too. It needs the GSD.
        maps: Folder where the model's maps are kept, as ``<key>_mask.png``, before any cleaning.
        json: File that the result is written to as well; its name ends with ``.json``.
        device: Where the model computes, unless it is a runtime.
        max_pixels: Larger images and masks are refused.
        force: Replace existing maps and JSON.

    Returns:
        Plain data. ``metric, split, model, gsd, images, pixels`` (those with a true class, unknown included),
        ``miou, iou{name: value}, pixel_accuracy`` (0..1 or None), ``confusion`` (rows = truth), ``classes``;
        ``missed``: pixels by true class predicted as nodata, where the legend has no unknown class;
        ``miou_interval``: 95 %, by drawing what ``resampled`` says anew, or None for fewer than five;
        ``min_region``: the scores after cleaning and ``miou_change``, or None; ``calibration``: what
        :meth:`landcover.evaluation.calibration.Reliability.summary` returns, the model's ``temperature`` and
        the split that it was ``fitted_on`` (None: not fitted), or None; ``boundaries``: what
        :func:`landcover.evaluation.boundary.boundary_scores` returns, or None; ``training_overlap``: the
        fields of :class:`landcover.evaluation.overlap.TrainingOverlap`, None for a folder of maps;
        ``per_image``: ``key, miou, pixel_accuracy``; ``warnings``; ``data`` and
        ``predictions`` (absolute paths), ``legend``, ``prediction_legend`` (of the folder or the model),
        ``model_sha256``: where the numbers come from.

    Raises:
        UsageError: If options contradict each other, the GSD is needed and unknown, or classes do not match.
        SplitError: If the split cannot be made.
        DataError: If predictions are missing or of the wrong size (all are listed, nothing is scored), or a
            file cannot be read.
        ModelError: If the model cannot be read.
        OutputError: If an output exists and ``force`` is off, or cannot be written.
    """
    if metric not in METRICS:
        raise UsageError(f"There is no metric {metric!r}. {did_you_mean(metric, METRICS)}")
    if (model is None) == (predictions is None):
        raise UsageError("Give what to score: either --model M or --predictions DIR.")
    if maps is not None and model is None:
        raise UsageError("--maps keeps the maps of a --model; those of --predictions are files already.")
    if prediction_legend is not None and predictions is None:
        raise UsageError("--prediction-legend goes with --predictions; a model knows its own legend.")
    if calibration and model is None:
        raise UsageError(
            "--calibration looks at probabilities, and the maps of --predictions hold none. Give the model "
            "that made them: --model M."
        )
    if json is not None:
        check_json_output(Path(json), force=force)
    dataset = open_dataset(data, legend=legend, gsd=gsd, max_pixels=max_pixels)
    items = select(dataset, split)
    min_pixels = None if min_region is None else parse_min_region(min_region, dataset.gsd)
    border_gsd = required_gsd(dataset, "--borders") if borders else None
    reliability, overlap, called = None, None, ""
    if predictions is not None:
        source = from_folder(
            dataset, items, Path(predictions), prediction_legend or dataset.legend, max_pixels=max_pixels
        )
    elif model is not None:
        runtime = open_model(model, device=device) if isinstance(model, str | Path) else model
        source = from_model(dataset, runtime, probabilities=calibration)
        if calibration:
            reliability = Reliability(len(runtime.card.legend.scored))
        if maps is not None:
            source = keep_maps(source, dataset, items, Path(maps), force=force)
        called = str(model) if isinstance(model, str | Path) else "the model in memory"
        overlap = training_overlap(runtime.card, dataset, items)
    outcomes = _score(
        dataset,
        items,
        source,
        min_pixels,
        border_gsd=border_gsd,
        reliability=reliability,
    )

    matrix = _sum(outcome.matrix for outcome in outcomes)
    interval, count, groups = _interval(dataset, outcomes, metric)
    scores = matrix.scores(metric)
    cleaned = _after_cleaning(outcomes, min_region, min_pixels, scores)
    believed = None if reliability is None else _calibration(reliability, runtime.card)
    by_border = _by_border(outcomes) if borders else None
    report = {
        "metric": metric,
        "split": split,
        "model": None if model is None else str(model) if isinstance(model, str | Path) else "in memory",
        "model_sha256": model_digest(model) if isinstance(model, str | Path) else None,
        "gsd": dataset.gsd,
        "images": len(items),
        "pixels": int(matrix.table.sum()),
        **scores.to_dict(),
        "miou_interval": interval,
        "resampled": groups,
        "classes": list(dataset.legend.names),
        "confusion": matrix.counts.tolist(),
        "missed": matrix.missed.tolist(),
        "min_region": cleaned,
        "calibration": believed,
        "boundaries": by_border,
        "training_overlap": None if overlap is None else overlap.model_dump(),
        "per_image": [_image_row(outcome, metric) for outcome in outcomes],
        "warnings": [
            *(overlap_warnings(overlap, called, calibration=calibration) if overlap else ()),
            *scores.warnings,
            *_off_palette_warnings(outcomes),
            *_vanished_warnings(scores, cleaned),
            *_bin_warnings(by_border),
            *_interval_warnings(count, groups),
        ],
        "legend": dataset.legend.to_dict(),
        "prediction_legend": source.legend.to_dict(),
        "data": str(Path(data).absolute()),
        "predictions": None if (folder := predictions or maps) is None else str(Path(folder).absolute()),
    }
    if json is not None:
        write_scores(Path(json), report, force=force)
    return report


def write_scores(path: Path, scores: Mapping[str, Any], *, force: bool = False) -> None:
    """Write what :func:`evaluate` returned as JSON.

    Raises:
        OutputError: If the file exists and ``force`` is off, or cannot be written.
    """
    write_text(path, json_.dumps(scores, indent=1) + "\n", force=force)


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What one image adds: its counts, after cleaning and by border too; pixels whose colour is no class."""

    key: str
    matrix: ConfusionMatrix
    cleaned: ConfusionMatrix | None
    by_border: Sequence[ConfusionMatrix]
    off_palette_truth: int
    off_palette_prediction: int


def _score(
    dataset: Dataset,
    items: Sequence[Item],
    source: Source,
    min_pixels: int | None,
    *,
    border_gsd: float | None,
    reliability: Reliability | None,
) -> list[_Outcome]:
    channels = source.legend.channels[translation(dataset.legend, source.legend)]

    def score(item: Item) -> _Outcome:
        truth, prediction = dataset.labels(item), source.predict(item)
        matrix = _count(dataset.legend, item, truth.index, prediction.index)
        cleaned = None
        if min_pixels is not None:
            smooth = remove_small_regions(prediction.index, min_pixels)
            cleaned = _count(dataset.legend, item, truth.index, smooth)
        by_border: Sequence[ConfusionMatrix] = ()
        if border_gsd is not None:
            by_border = count_by_distance(truth.index, prediction.index, dataset.legend, border_gsd)
        if reliability is not None and prediction.probabilities is not None:
            reliability.update(prediction.probabilities, channels[truth.index])
        return _Outcome(item.key, matrix, cleaned, by_border, truth.off_palette, prediction.off_palette)

    outcomes = parallel_map(score, items) if source.parallel else map(score, items)
    return list(track(outcomes, "Scoring", total=len(items)))


def _count(legend: Legend, item: Item, truth: UInt8Array, prediction: UInt8Array) -> ConfusionMatrix:
    matrix = ConfusionMatrix(legend)
    try:
        matrix.update(truth, prediction)
    except MaskError as error:
        raise MaskError(f"{item.key}: {error}") from error
    return matrix


def _sum(matrices: Iterable[ConfusionMatrix]) -> ConfusionMatrix:
    return reduce(operator.add, matrices)


def _interval(
    dataset: Dataset, outcomes: Sequence[_Outcome], metric: Metric
) -> tuple[list[float] | None, int, str]:
    """Return the interval of the mIoU, how many groups were drawn, and what: known scenes, else images."""
    scenes = dataset.scenes or {}
    tables: dict[str, Int64Array] = {}
    for outcome in outcomes:
        group = f"scene {scenes[outcome.key].scene}" if outcome.key in scenes else outcome.key
        tables[group] = tables.get(group, 0) + outcome.matrix.table
    interval = bootstrap_interval(np.stack(list(tables.values())), dataset.legend, metric)
    return interval and list(interval), len(tables), "scenes" if scenes else "images"


def _interval_warnings(count: int, groups: str) -> list[str]:
    if count >= LEAST_GROUPS:
        return []
    return [
        f"No interval is given for the mIoU: {count} of the {groups} are too few to tell how far it could be "
        f"off; it takes {LEAST_GROUPS}."
    ]


def _after_cleaning(
    outcomes: Sequence[_Outcome], min_region: str | None, min_pixels: int | None, before: Scores
) -> dict[str, Any] | None:
    """Return the scores without small regions and the change in mIoU, or None where nothing was cleaned."""
    matrices = [outcome.cleaned for outcome in outcomes if outcome.cleaned is not None]
    if not matrices:
        return None
    matrix = _sum(matrices)
    after = matrix.scores(before.metric)
    change = None if after.miou is None or before.miou is None else after.miou - before.miou
    return {
        "min_region": min_region,
        "min_pixels": min_pixels,
        **after.to_dict(),
        "miou_change": change,
        "confusion": matrix.counts.tolist(),
    }


def _calibration(reliability: Reliability, card: ModelCard) -> dict[str, Any]:
    return {
        **reliability.summary(card.legend.scored_names),
        "temperature": card.temperature,
        "fitted_on": _fitted_on(card.calibration),
    }


def _by_border(outcomes: Sequence[_Outcome]) -> dict[str, Any]:
    bins = zip(*(outcome.by_border for outcome in outcomes), strict=True)
    return boundary_scores([_sum(matrices) for matrices in bins])


def _image_row(outcome: _Outcome, metric: Metric) -> dict[str, Any]:
    scores = outcome.matrix.scores(metric)
    return {"key": outcome.key, "miou": scores.miou, "pixel_accuracy": scores.pixel_accuracy}


def _off_palette_warnings(outcomes: Sequence[_Outcome]) -> list[str]:
    counts = {
        "truth": sum(outcome.off_palette_truth for outcome in outcomes),
        "predictions": sum(outcome.off_palette_prediction for outcome in outcomes),
    }
    return [
        f"{count:,} pixels of the {what} have a colour of no class and count as unknown."
        for what, count in counts.items()
        if count
    ]


def _vanished_warnings(before: Scores, cleaned: dict[str, Any] | None) -> list[str]:
    """Tell of classes that were in small regions of predictions only: the means are over different ones."""
    if cleaned is None:
        return []
    return [
        f"Class {name!r} is in neither truth nor prediction once small regions are removed: "
        "the mIoU before and after are means over different classes."
        for name, iou in cleaned["iou"].items()
        if iou is None and before.iou[name] is not None
    ]


def _fitted_on(record: Mapping[str, Any]) -> str | None:
    """Return the split that a card's temperature was fitted on, None where it was not fitted."""
    split = record.get("split_of_like" if "like" in record else "split")
    if not isinstance(split, str):
        return None
    return f"{split}, by a run of the same recipe" if "like" in record else split


def _bin_warnings(by_border: dict[str, Any] | None) -> list[str]:
    """Name the classes that some bins do not contain: their means are over other classes than the rest's."""
    if by_border is None:
        return []
    rows = by_border["bins"]
    present = [name for name, iou in rows[0]["beyond"]["iou"].items() if iou is not None]
    return [
        f"At {bin_name(row['from_m'], row['to_m'])} from class boundaries there is no "
        f"{', no '.join(absent)}: the mIoU there is a mean over other classes."
        for row in rows
        if row["pixels"] and (absent := [name for name in present if row["iou"][name] is None])
    ]
