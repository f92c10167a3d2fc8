"""``evaluate``: score a model, or a folder of maps, on one subset of a split."""

import operator
import warnings
from contextlib import nullcontext
from functools import reduce
from pathlib import Path
from threading import Lock
from typing import Annotated

import numpy as np
from pydantic import BeforeValidator, InstanceOf

from landcover._typing import Int64Array, UInt8Array
from landcover.config import INPUT, PROCESSING, PRODUCTS, REPORTS, Option, Options, with_deprecated
from landcover.data import Dataset, Item, open_dataset, select
from landcover.data.dataset import DataOptions
from landcover.data.folder import read_as
from landcover.errors import MaskError, UsageError
from landcover.evaluation.boundary import (
    BOUNDARY_TOLERANCE,
    DISTANCE_BINS_M,
    boundary_measures,
    boundary_scores,
    count_boundaries,
    count_by_distance,
)
from landcover.evaluation.calibration import Reliability
from landcover.evaluation.estimators import LEAST_GROUPS, bootstrap_interval
from landcover.evaluation.overlap import overlap_warnings, training_overlap
from landcover.evaluation.predictions import PredictedMap, from_folder, from_model
from landcover.evaluation.report import (
    BoundaryScores,
    CalibrationScores,
    CleanedScores,
    EvaluationReport,
    Record,
)
from landcover.inference.model import Model
from landcover.io import MAX_PIXELS, write_mask
from landcover.io.discovery import MAX_OFF_PALETTE
from landcover.io.files import check_json_output, check_output, write_text
from landcover.io.locks import locked_folder
from landcover.io.readahead import parallel_map
from landcover.legend import Legend, LegendField, translation
from landcover.metrics import ConfusionMatrix, Metric, Scores, averaged_classes, class_measures
from landcover.model.card import ModelCard, model_digest
from landcover.model.runtimes import Runtime, open_model
from landcover.postprocess.sieve import remove_small_regions
from landcover.progress import track
from landcover.raster import Reading
from landcover.values import VIEWS_HELP, RegionSize, Tolerance, Views, check_views

_MUCH_UNSCORED = 0.5
"""Fraction of unscored truth above which there is a warning."""


with warnings.catch_warnings(action="ignore"):  # pydantic warns of "json", an old method of its models

    class EvaluateOptions(Options):
        """Options of :func:`evaluate` beyond what is scored.

        Example:
            >>> lc.EvaluateOptions(min_region="2000m2", calibration=True).boundaries
            False
        """

        prediction_legend: Annotated[
            LegendField | None,
            Option(
                "Legend of the predicted masks or the map. By default the one that each carries, else that "
                "of the data. Classes are matched by name.",
                group=INPUT,
                metavar="LEGEND",
            ),
        ] = None
        reading: Annotated[
            InstanceOf[Reading] | None,
            Option(
                "Bands and scaling of the images; by default those of the data, else the model's.", group=None
            ),
        ] = None
        max_off_palette: Annotated[
            float,
            Option(
                "Refuse masks with more than this fraction (0..1) of pixels whose colour is not in the "
                "legend.",
                group=INPUT,
            ),
        ] = MAX_OFF_PALETTE
        max_pixels: Annotated[
            int, Option("Refuse images and masks with more pixels.", group=INPUT, minimum=1)
        ] = MAX_PIXELS
        min_region: Annotated[
            str | None,
            Option(
                "Also score without regions below this size: 8000px or 2000m2.",
                group=PROCESSING,
                metavar="SIZE",
            ),
        ] = None
        views: Annotated[
            Views | None,
            BeforeValidator(check_views),
            Option(VIEWS_HELP, group=PROCESSING, metavar="1|2|3|8"),
        ] = None
        device: Annotated[
            str, Option("auto, cpu, cuda, or cuda:1, for a model that is not open.", group=PROCESSING)
        ] = "auto"
        maps: Annotated[
            Path | None,
            Option("Keep the maps of the model in this folder, as KEY_mask.png, uncleaned.", group=PRODUCTS),
        ] = None
        force: Annotated[bool, Option("Overwrite existing outputs.", group=PRODUCTS)] = False
        calibration: Annotated[bool, Option("Also compare confidence with accuracy.", group=REPORTS)] = False
        boundaries: Annotated[
            bool,
            Option(
                "Also score class boundaries (boundary F1), and pixels by their distance from true ones; "
                "needs the GSD.",
                group=REPORTS,
            ),
        ] = False
        boundary_tolerance: Annotated[
            str | None,
            Option(
                "Distance up to which a boundary is right, such as 5m or 3px. By default 5m.",
                group=REPORTS,
                metavar="DISTANCE",
            ),
        ] = None
        json: Annotated[
            Path | None,
            Option("File, ``*.json``, to which the result is written too.", group=None),
        ] = None  # type: ignore[assignment]


def evaluate(
    data: str | Path | Dataset,
    split: str,
    *,
    model: str | Path | Model | Runtime | None = None,
    predictions: str | Path | None = None,
    metric: Metric = "challenge",
    legend: Legend | None = None,
    gsd: float | None = None,
    options: EvaluateOptions | None = None,
    **deprecated: object,
) -> EvaluationReport:
    """Score predictions against the masks of one subset of a split, at the masks' own size.

    Args:
        data: Data folder, prepared cache or open dataset.
        split: ``NAME:subset``, as for :func:`landcover.data.select`.
        model: The model to score: a model file, a run folder, the name of a bundled model, or an open model.
            Either this or ``predictions``.
        predictions: Folder of masks named ``<key>_mask.png`` or ``<key>.png`` (or ``.tif``), in any format
            that :func:`landcover.io.read_mask` reads.
        metric: One of :data:`landcover.metrics.METRICS`.
        legend: Legend of the data's masks; by default the legend that the data declare.
        gsd: Metres per pixel of the data; by default the value that the data declare. A model needs it.
        options: Further scores and outputs.
        **deprecated: The fields of ``options`` as keywords, as in version 0.1.

    Returns:
        The scores; ``report.iou["forest"]`` is in 0..1.

    Raises:
        UsageError: If options contradict each other, the GSD is needed and unknown, or classes do not match.
        SplitError: If the split cannot be made.
        DataError: If predictions are missing or of the wrong size (all are listed, nothing is scored), or a
            file cannot be read.
        ModelError: If the model cannot be read.
        OutputError: If an output exists and ``force`` is off, or cannot be written.

    Example:
        >>> folder = make_dataset("data", scenes=3, size=96)
        >>> report = lc.evaluate(folder, split="all:all", model="starter")
        >>> report.images, report.confusion.shape, sorted(report.iou)[:2]
        (3, (7, 7), ['agriculture', 'barren'])
    """
    options = with_deprecated(options or EvaluateOptions(), deprecated, "evaluate", {"borders": "boundaries"})
    has_model = model is not None
    refusals = [
        (has_model == (predictions is not None), "Pass either --model M or --predictions DIR."),
        (
            options.maps is not None and not has_model,
            "--maps writes the maps of a --model; --predictions are files already.",
        ),
        (
            options.prediction_legend is not None and predictions is None,
            "--prediction-legend requires --predictions; a model contains its legend.",
        ),
        (
            options.views is not None and not has_model,
            "--views sets how a --model is run; --predictions are maps already.",
        ),
        (
            options.calibration and not has_model,
            "--calibration needs probabilities, which --predictions do not contain. Pass --model M.",
        ),
        (
            options.boundary_tolerance is not None and not options.boundaries,
            "--boundary-tolerance needs --boundaries, which compares the class boundaries.",
        ),
    ]
    for is_refused, message in refusals:
        if is_refused:
            raise UsageError(message)
    if options.json is not None:
        check_json_output(options.json, force=options.force)
    given: DataOptions = {"legend": legend, "gsd": gsd, "reading": options.reading}
    if not isinstance(data, Dataset):  # the limits hold for predictions, too
        given |= {"max_pixels": options.max_pixels, "max_off_palette": options.max_off_palette}
    dataset = open_dataset(data, **given)
    items = select(dataset, split)
    averaged_classes(dataset.legend, metric)  # refuses an unknown metric
    views = options.views
    named: str | Path | None = None  # the model, where it has a file
    overlap = None
    extras: dict[str, _Cleaning | _Calibration | _Boundaries] = {}  # by section of the report
    if options.min_region is not None:
        extras["min_region"] = _Cleaning(dataset, options.min_region)
    if predictions is not None:
        source = from_folder(
            dataset, items, Path(predictions), options.prediction_legend, max_pixels=options.max_pixels
        )
    elif model is not None:
        if isinstance(model, Model):
            runtime, named = model.runtime, model.source
        elif isinstance(model, str | Path):
            runtime, named = open_model(model, device=options.device), model
        else:
            runtime = model
        dataset = read_as(dataset, runtime.card.preprocessing)
        views = views or runtime.card.views
        source = from_model(dataset, runtime, views=views, probabilities=options.calibration)
        if options.calibration:
            extras["calibration"] = _Calibration(dataset, runtime.card)
        for item in items:
            if options.maps is not None:
                check_output(options.maps / f"{item.key}_mask.png", force=options.force)
        overlap = training_overlap(runtime.card, dataset, items)
    if options.boundaries:
        extras["boundaries"] = _Boundaries(dataset, options.boundary_tolerance or BOUNDARY_TOLERANCE)

    def score(item: Item) -> tuple[ConfusionMatrix, int, int, int]:
        """Return counts and pixels of an image, and the off-palette pixels of truth and prediction."""
        predicted = source.predict(item)
        truth = predicted.truth or dataset.labels(item)
        if options.maps is not None:
            kept = options.maps / f"{item.key}_mask.png"
            write_mask(kept, predicted.index, dataset.legend, force=options.force)
        try:
            matrix = _counted(dataset.legend, truth.index, predicted.index)
            for extra in extras.values():
                extra.update(truth.index, predicted)
        except MaskError as error:
            raise MaskError(f"{item.key}: {error}") from error
        return matrix, truth.index.size, truth.off_palette, predicted.off_palette

    scored = parallel_map(score, items) if source.parallel else map(score, items)
    with nullcontext() if options.maps is None else locked_folder(options.maps):
        matrices, sizes, *off_palette = zip(*track(scored, "Scoring", total=len(items)), strict=True)
    matrix = reduce(operator.add, matrices)
    scores = matrix.scores(metric)
    scenes = dataset.scenes or {}
    groups = "scenes" if scenes else "images"
    tables: dict[str, Int64Array] = {}
    for item, image in zip(items, matrices, strict=True):
        group = f"scene {scenes[item.key].scene}" if item.key in scenes else item.key
        tables[group] = tables.get(group, 0) + image.table
    interval = bootstrap_interval(np.stack(list(tables.values())), dataset.legend, metric)
    notes = list(scores.warnings) + [
        f"{sum(counts):,} pixels of the {what} have a colour outside the legend; they count as unknown."
        for what, counts in zip(("truth", "predictions"), off_palette, strict=True)
        if any(counts)
    ]
    counted = int(matrix.table[list(dataset.legend.scored)].sum())
    unscored = 1 - counted / sum(sizes)
    if unscored > _MUCH_UNSCORED:
        notes.append(
            f"{unscored:.1%} of the pixels of the masks are not scored: they are nodata or unknown. Check "
            "their meaning with landcover verify."
        )
    measures, kappa = class_measures(matrix)
    if overlap is not None:
        called = str(named or "the model in memory")
        notes[:0] = overlap_warnings(overlap, called, calibration=options.calibration)
    sections: dict[str, Record] = {}
    for name, extra in extras.items():
        sections[name], found = extra.result(scores)
        notes += found
    if len(tables) < LEAST_GROUPS:
        notes.append(
            f"No interval is given for the mIoU: the {len(tables)} {groups} are too few. Evaluate at least "
            f"{LEAST_GROUPS}."
        )
    folder = predictions or options.maps
    report = EvaluationReport.model_validate(
        {
            "metric": metric,
            "split": split,
            "model": None if model is None else str(named or "in memory"),
            "model_sha256": None if named is None else model_digest(named),
            "gsd": dataset.gsd,
            "views": views,
            "images": len(items),
            "pixels": int(matrix.table.sum()),
            **scores.to_dict(),
            "miou_present": scores.miou_present,
            "class_measures": measures,
            "kappa": kappa,
            "unscored": unscored,
            "miou_interval": interval,
            "resampled": groups,
            "classes": list(dataset.legend.names),
            "confusion": matrix.counts,
            "missed": matrix.missed.tolist(),
            **sections,
            "training_overlap": overlap,
            "per_image": [
                {"key": item.key, **image.scores(metric).to_dict()}
                for item, image in zip(items, matrices, strict=True)
            ],
            "warnings": notes,
            "legend": dataset.legend,
            "prediction_legend": source.legend,
            "data": (dataset.root if isinstance(data, Dataset) else Path(data)).absolute(),
            "predictions": None if folder is None else Path(folder).absolute(),
        }
    )
    if options.json is not None:
        write_text(options.json, report.to_json(), force=options.force)
    return report


def _counted(legend: Legend, truth: UInt8Array, prediction: UInt8Array) -> ConfusionMatrix:
    matrix = ConfusionMatrix(legend)
    matrix.update(truth, prediction)
    return matrix


# Further scores, accumulated over the images. Several threads may call ``update``; ``result`` returns the
# section of the report and its warnings, given the scores of the whole.


class _Cleaning:
    """Scores after the removal of small regions."""

    def __init__(self, dataset: Dataset, min_region: str) -> None:
        self.min_region = min_region
        self.min_pixels = RegionSize.parse(min_region).pixels(dataset.gsd)
        self.matrix = ConfusionMatrix(dataset.legend)
        self._lock = Lock()

    def update(self, truth: UInt8Array, predicted: PredictedMap) -> None:
        matrix = _counted(self.matrix.legend, truth, remove_small_regions(predicted.index, self.min_pixels))
        with self._lock:
            self.matrix += matrix

    def result(self, scores: Scores) -> tuple[CleanedScores, list[str]]:
        after = self.matrix.scores(scores.metric)
        cleaned = CleanedScores(
            min_region=self.min_region,
            min_pixels=self.min_pixels,
            **after.to_dict(),
            miou_change=None if after.miou is None or scores.miou is None else after.miou - scores.miou,
            confusion=self.matrix.counts,
        )
        return cleaned, [
            f"Class {name!r} is absent from truth and prediction after the removal of small regions: the "
            "mIoU before and after are means over different classes."
            for name, iou in after.iou.items()
            if iou is None and scores.iou[name] is not None
        ]


class _Calibration:
    """Confidence of the model against its accuracy; a model is scored by one thread."""

    def __init__(self, dataset: Dataset, card: ModelCard) -> None:
        self.card = card
        self.reliability = Reliability(len(card.legend.scored))
        self._channels = card.legend.channels[translation(dataset.legend, card.legend)]

    def update(self, truth: UInt8Array, predicted: PredictedMap) -> None:
        if predicted.probabilities is not None:
            self.reliability.update(predicted.probabilities, self._channels[truth])

    def result(self, scores: Scores) -> tuple[CalibrationScores, list[str]]:
        record = self.card.calibration
        split = record.get("split_of_like" if "like" in record else "split")
        if isinstance(split, str) and "like" in record:
            split = f"{split}, by a run of the same recipe"
        found = self.reliability.summary(self.card.legend.scored_names)
        update = {"temperature": self.card.temperature, "fitted_on": split}
        return found.model_copy(update=update), []


class _Boundaries:
    """Scores by distance from class boundaries of the truth, and of the boundaries themselves."""

    def __init__(self, dataset: Dataset, tolerance: str) -> None:
        self.gsd = dataset.known_gsd("--boundaries")
        self.tolerance = Tolerance.parse(tolerance)
        self.tolerance_px = self.tolerance.pixels(self.gsd)
        self.counts = np.zeros((len(dataset.legend.scored), 4), np.int64)
        self.matrices = [ConfusionMatrix(dataset.legend) for _ in DISTANCE_BINS_M]
        self._lock = Lock()

    def update(self, truth: UInt8Array, predicted: PredictedMap) -> None:
        legend = self.matrices[0].legend
        matrices = count_by_distance(truth, predicted.index, legend, self.gsd)
        counts = count_boundaries(truth, predicted.index, legend, self.tolerance_px)
        with self._lock:
            self.counts += counts
            self.matrices = [total + matrix for total, matrix in zip(self.matrices, matrices, strict=True)]

    def result(self, scores: Scores) -> tuple[BoundaryScores, list[str]]:
        measures = boundary_measures(self.counts)
        known = [of["f1"] for of in measures if of["f1"] is not None]
        section = boundary_scores(
            self.matrices,
            tolerance=str(self.tolerance),
            tolerance_px=self.tolerance_px,
            class_measures=dict(zip(self.matrices[0].legend.scored_names, measures, strict=True)),
            mean_f1=sum(known) / len(known) if known else None,
        )
        present = [name for name, iou in section.bins[0].beyond.iou.items() if iou is not None]
        return section, [
            f"No pixel at {row.name} from class boundaries is {' or '.join(absent)}: the mIoU there is a "
            "mean over fewer classes."
            for row in section.bins
            if row.pixels and (absent := [name for name in present if row.iou[name] is None])
        ]
