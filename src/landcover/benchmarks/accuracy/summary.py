"""From the counts of each tile to scores, intervals and differences."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from statistics import mean, stdev
from typing import Any

import numpy as np

from landcover.benchmarks.accuracy.protocols import Protocol, Unit
from landcover.benchmarks.accuracy.scores import Scored
from landcover.errors import DataError
from landcover.evaluation.interval import Strata, bootstrap_interval, paired_interval
from landcover.legend import Legend
from landcover.metrics import ConfusionMatrix, Int64Array, Metric

Results = Mapping[Unit, Scored]
Fold = int | None


def summarise(protocol: Protocol, legend: Legend, names: Sequence[str], results: Results) -> dict[str, Any]:
    """Return everything that the report says, as plain data; shares in 0..1.

    The smallest seed that is there stands for a contender on a fold; all seeds are under ``seeds``. Means and
    pooled scores are over the folds that are there; differences over those that both have. A fold whose tiles
    have no pixel of a scored class has no mIoU: it is None, left out of means, and told of in ``warnings``.

    Args:
        protocol: How the results were made.
        legend: The classes.
        names: Contenders, in the order of the report; those without a result are left out.
        results: What has been scored.

    Returns:
        ``contenders{name: folds, mean, mean_interval, pooled, pooled_interval, images, scenes, training,
        warnings, seeds}`` and ``differences[first, second, folds, mean, mean_interval, pooled,
        pooled_interval]``. Intervals are 95 %, by drawing scenes; None where scenes are too few. ``mean`` is
        None where there is a single split, and where no fold has a score.

    Raises:
        DataError: If contenders were scored on other tiles of a fold.
    """
    leading = {name: _leading(name, results) for name in names}
    leading = {name: of_folds for name, of_folds in leading.items() if of_folds}
    _check_same_tiles(leading)
    return {
        "contenders": {
            name: _contender(protocol, legend, name, of_folds)
            | {"seeds": _seeds(name, results, protocol.metrics[0], legend)}
            for name, of_folds in leading.items()
        },
        "differences": [
            _difference(protocol, legend, (first, second), leading)
            for first, second in combinations(leading, 2)
        ],
    }


def _leading(name: str, results: Results) -> dict[Fold, Scored]:
    """Return a contender's result on each fold: that of the smallest seed."""
    ordered = sorted((unit for unit in results if unit.contender == name), key=lambda unit: -unit.seed)
    found = {unit.fold: results[unit] for unit in ordered}
    return dict(sorted(found.items(), key=lambda pair: pair[0] or 0))


def _check_same_tiles(leading: Mapping[str, Mapping[Fold, Scored]]) -> None:
    first: dict[Fold, tuple[str, Scored]] = {}
    for name, of_folds in leading.items():
        for fold, scored in of_folds.items():
            other, there = first.setdefault(fold, (name, scored))
            if not np.array_equal(scored.keys, there.keys):
                raise DataError(
                    f"{other} and {name} were scored on other tiles of fold {fold}; score them anew."
                )


def _contender(
    protocol: Protocol, legend: Legend, name: str, of_folds: Mapping[Fold, Scored]
) -> dict[str, Any]:
    metric = protocol.metrics[0]
    of_fold = {fold: _scores(scored.tables, legend, metric) for fold, scored in of_folds.items()}
    known = {fold: of_folds[fold] for fold, scores in of_fold.items() if scores["miou"] is not None}
    training = [scored.about["training"] for scored in of_folds.values()]
    several = len(protocol.folds) > 1
    tables, _ = _by_scene(of_folds)
    mean_of_folds = mean_interval = None
    if several and known:
        mean_of_folds = mean(of_fold[fold]["miou"] for fold in known)
        of_known, strata = _by_scene(known)
        mean_interval = bootstrap_interval(of_known, legend, metric, strata=strata)
    warnings = {text for scored in of_folds.values() for text in scored.about["warnings"]}
    return {
        "folds": {str(fold): scores for fold, scores in of_fold.items()} if several else {},
        "mean": mean_of_folds,
        "mean_interval": mean_interval,
        "pooled": {metric: _scores(tables, legend, metric) for metric in protocol.metrics},
        "pooled_interval": bootstrap_interval(tables, legend, metric),
        "images": sum(len(scored.keys) for scored in of_folds.values()),
        "scenes": len(tables),
        "training": None if None in training else _effort(training),
        "warnings": sorted(warnings | {_no_score(name, fold) for fold in of_folds if fold not in known}),
    }


def _no_score(name: str, fold: Fold) -> str:
    if fold is None:
        return f"{name} has no mIoU: the tiles have no pixel of a scored class."
    return f"{name} has no mIoU on fold {fold}, whose tiles have no pixel of a scored class: left out."


def _difference(
    protocol: Protocol,
    legend: Legend,
    pair: tuple[str, str],
    leading: Mapping[str, Mapping[Fold, Scored]],
) -> dict[str, Any]:
    """Return by how much the first of two is better, on the folds that both have a score on."""
    metric = protocol.metrics[0]
    miou = [
        {fold: _scores(scored.tables, legend, metric)["miou"] for fold, scored in leading[name].items()}
        for name in pair
    ]
    common = [fold for fold, score in miou[0].items() if None not in (score, miou[1].get(fold))]
    row: dict[str, Any] = {"first": pair[0], "second": pair[1], "folds": common, "mean": None, "pooled": None}
    row |= {"mean_interval": None, "pooled_interval": None}
    if not common:
        return row
    (ours, strata), (theirs, _) = (_by_scene({fold: leading[name][fold] for fold in common}) for name in pair)
    pooled = [_scores(tables, legend, metric)["miou"] for tables in (ours, theirs)]
    row["pooled"] = pooled[0] - pooled[1]
    row["pooled_interval"] = paired_interval(ours, theirs, legend, metric)
    if len(protocol.folds) > 1:
        row["mean"] = mean(miou[0][fold] for fold in common) - mean(miou[1][fold] for fold in common)
        row["mean_interval"] = paired_interval(ours, theirs, legend, metric, strata=strata)
    return row


def _seeds(name: str, results: Results, metric: Metric, legend: Legend) -> list[dict[str, Any]]:
    """Return how much seeds differ on each fold that has several with a score."""
    of_folds: dict[Fold, dict[int, float]] = {}
    for unit, scored in results.items():
        miou = _scores(scored.tables, legend, metric)["miou"]
        if unit.contender == name and miou is not None:
            of_folds.setdefault(unit.fold, {})[unit.seed] = miou
    return [
        {
            "fold": fold,
            "miou": dict(sorted(of_seeds.items())),
            "mean": mean(of_seeds.values()),
            "std": stdev(of_seeds.values()),
            "range": max(of_seeds.values()) - min(of_seeds.values()),
        }
        for fold, of_seeds in sorted(of_folds.items(), key=lambda pair: pair[0] or 0)
        if len(of_seeds) > 1
    ]


def _by_scene(of_folds: Mapping[Fold, Scored]) -> tuple[Int64Array, Strata]:
    """Return the tables of each scene of each fold, int64 (G, K, K + 1), and the number of its fold (G,)."""
    tables, strata = [], []
    for number, scored in enumerate(of_folds.values()):
        names, index = np.unique(scored.groups, return_inverse=True)
        sums = np.zeros((len(names), *scored.tables.shape[1:]), np.int64)
        np.add.at(sums, index, scored.tables)
        tables.append(sums)
        strata.append(np.full(len(names), number))
    return np.concatenate(tables), np.concatenate(strata)


def _scores(tables: Int64Array, legend: Legend, metric: Metric) -> dict[str, Any]:
    matrix = ConfusionMatrix(legend)
    matrix.table = tables.sum(axis=0)
    return matrix.scores(metric).to_dict()


def _effort(training: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the means over trainings, the rate of all of them, and what they were computed in."""
    found = {key: mean(row[key] for row in training) for key in ("images", "steps", "seconds")}
    precisions = sorted({row.get("precision") or "not told" for row in training})
    return found | {
        "images_per_second": found["images"] / max(found["seconds"], 1e-9),
        "precision": ", ".join(precisions),
    }
