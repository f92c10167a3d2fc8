"""The accuracy of a map against what is known of places on it, and the areas that follow."""

import json as json_
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from landcover.errors import DataError, UsageError, did_you_mean
from landcover.evaluation.estimators import Z_95, Estimates, stratified_estimates
from landcover.evaluation.overlay import Tally, count_points, count_polygons, count_raster
from landcover.evaluation.truth import read_truth
from landcover.io.files import check_json_output, write_text
from landcover.legend import DEEPGLOBE, Legend, UInt8Array
from landcover.metrics import METRICS, ConfusionMatrix, Float64Array, Int64Array, Metric
from landcover.progress import track
from landcover.raster import row_areas
from landcover.raster.classmap import ClassMap, open_class_map
from landcover.raster.zonal import ClassAreas

RASTER_TRUTH = frozenset({".img", ".jp2", ".png", ".tif", ".tiff", ".vrt"})
"""Suffixes, in lower case, of truth that is read as a raster; any other is a vector file or CSV."""

_HOLD_IF = {
    "points": "the points were drawn at random within each class of this map, as landcover sample does, or "
    "at random over the whole map",
    "polygons": "the polygons were chosen at random, each class as often as it is mapped",
    "raster": "the raster covers a part of the map that was chosen at random",
}
_CLUSTERS = (
    "Pixels of polygons and rasters are clusters, whose neighbours go wrong together: standard errors as if "
    "they were independent would be far too small. Draw points with landcover sample to have some."
)

_OTHER_MAP = (
    "At {:,} points the map has another class than the one they were drawn in: they are a sample of another "
    "map's classes, with which the estimates hold at best roughly, and no standard errors are given. Draw "
    "points on this map with landcover sample."
)


def assess(
    map_path: str | Path,
    truth: str | Path,
    *,
    legend: Legend = DEEPGLOBE,
    map_legend: Legend | None = None,
    column: str | None = None,
    layer: str | None = None,
    truth_crs: str | None = None,
    metric: Metric = "challenge",
    json: str | Path | None = None,
    force: bool = False,
) -> dict[str, Any]:
    """Score a georeferenced map against truth on another grid, in polygons or at points, and estimate areas.

    Units are counted once each, where both truth and map have a class:

    - a raster of classes (``.tif``, ``.vrt``, …, any CRS and grid): its own pixels, with the map's class at
      their centres;
    - polygons with a class column: the map's pixels whose centres lie inside; pixels that polygons of
      different classes claim are left out and told of;
    - points with a class column, or a CSV file with ``lon``, ``lat`` and the class: the points, each with the
      class of the pixel it lies in.

    Accuracies and areas are then estimated with the classes of the map as strata
    (:func:`~landcover.evaluation.estimators.stratified_estimates`). Points that are a probability sample give
    standard errors and 95 % intervals; polygons and rasters give none, because their pixels are clusters.

    The map is read once, by strips of 4 MiB or one row of blocks; memory does not grow with its height.

    Args:
        map_path: A raster of one 8-bit band of classes with CRS and transform.
        truth: What is known; a unit of the unknown class is ignored, a row without a class left out.
        legend: Classes of the truth.
        map_legend: Classes of the map where they are in another order; matched by name.
        column: Column with the names or indices of classes in the truth; by default ``class``.
        layer: Layer of the truth, where its file has several.
        truth_crs: CRS of the columns ``x`` and ``y`` of a CSV file.
        metric: One of :data:`landcover.metrics.METRICS`, for IoU and pixel accuracy of the units.
        json: File that the result is written to as well; its name ends with ``.json``.
        force: Replace an existing file.

    Returns:
        Plain data: ``map, truth, truth_kind, metric, legend, classes``; ``units`` (counted), ``off_map``
        (of rasters and polygons only pixels within the map's frame), ``unknown``, ``unlabelled``,
        ``conflicting`` (left out); ``confusion`` (units, rows = truth), ``miou,
        iou{name}, pixel_accuracy, users{name}, producers{name}`` of the units as they are; ``mapped{name:
        {pixels, hectares, share}}``; ``estimates``: ``overall``, ``users{name}``, ``producers{name}``,
        ``shares{name}`` and ``hectares{name}`` of the area, each ``{value, se, interval}`` or None where the
        units do not allow it, ``hold_if`` (the condition) and ``without_errors`` (why ``se`` is None
        everywhere, or None); ``warnings``. Shares and accuracies are 0..1; ``hectares`` is None where the
        CRS is not tied to the Earth.

    Raises:
        UsageError: If an option, a column or a layer does not exist, or the legends have other classes.
        DataError: If a file cannot be read, does not fit the legend, or no unit lies on the map.
        OutputError: If the JSON file exists and ``force`` is off, or cannot be written.
    """
    if metric not in METRICS:
        raise UsageError(f"There is no metric {metric!r}. {did_you_mean(metric, METRICS)}")
    if json is not None:
        check_json_output(Path(json), force=force)
    map_path, truth = Path(map_path), Path(truth)
    is_raster = truth.suffix.lower() in RASTER_TRUTH
    if is_raster and (column or layer or truth_crs):
        raise UsageError(f"--column, --layer and --truth-crs are for vector files; {truth} is a raster.")
    tally = Tally(ConfusionMatrix(legend))
    unlabelled = 0
    with open_class_map(map_path, map_legend, legend) as mapped:
        place = mapped.place
        areas = ClassAreas(legend, row_areas(place, mapped.height, mapped.width))
        strips = _measured(mapped, areas)
        if is_raster:
            kind = "raster"
            with open_class_map(truth, legend) as raster:
                count_raster(mapped, raster, tally)
            deque(strips, maxlen=0)
        else:
            places = read_truth(truth, place.crs, legend, column=column, layer=layer, truth_crs=truth_crs)
            kind, unlabelled = f"{places.kind}s", places.unlabelled
            count = count_points if places.kind == "point" else count_polygons
            count(strips, places, place, tally)
    units = int(tally.matrix.table.sum())
    if not units:
        raise DataError(
            f"No {kind.rstrip('s')} of {truth} with a known class lies on {map_path}: {tally.off_map:,} "
            f"are off it or on its nodata, {tally.unknown:,} are of the unknown class. Do both say the right "
            "CRS, and do they show the same place?"
        )
    result = _report(tally, areas, kind, metric) | {
        "map": str(map_path.absolute()),
        "truth": str(truth.absolute()),
        "unlabelled": unlabelled,
    }
    if unlabelled:
        result["warnings"].append(f"{unlabelled:,} rows of the truth have no class and were left out.")
    if json is not None:
        write_text(Path(json), json_.dumps(result, indent=1) + "\n", force=force)
    return result


def _measured(mapped: ClassMap, areas: ClassAreas) -> Iterator[tuple[int, UInt8Array]]:
    """Read a map, count what each class covers, and yield the first row and the classes of its strips."""
    for window in track(mapped.strips(), f"Reading {mapped.path.name}"):
        strip = mapped.read(window)
        areas.add(window.row, strip)
        yield window.row, strip


def _report(tally: Tally, areas: ClassAreas, kind: str, metric: Metric) -> dict[str, Any]:
    legend, counts = tally.matrix.legend, tally.matrix.counts
    scores = tally.matrix.scores(metric)
    sizes = areas.square_metres if areas.scaled else areas.pixels.astype(np.float64)
    estimates = stratified_estimates(counts.T, sizes)
    return {
        "truth_kind": kind,
        "metric": metric,
        "legend": legend.to_dict(),
        "classes": list(legend.names),
        "units": int(tally.matrix.table.sum()),
        "off_map": tally.off_map,
        "unknown": tally.unknown,
        "conflicting": tally.conflicting,
        "confusion": counts.tolist(),
        **scores.to_dict(),
        "users": _ratios(counts, counts.sum(axis=0), legend),
        "producers": _ratios(counts, counts.sum(axis=1), legend),
        "mapped": {
            name: {
                "pixels": int(areas.pixels[i]),
                "hectares": float(areas.square_metres[i]) / 10_000 if areas.scaled else None,
                "share": float(sizes[i] / sizes.sum()),
            }
            for i, name in enumerate(legend.names)
        },
        "estimates": _estimates(estimates, areas, kind, legend, _why_no_errors(tally, kind)),
        "warnings": [*scores.warnings, *_warnings(tally, sizes, kind)],
    }


def _ratios(counts: Int64Array, totals: Int64Array, legend: Legend) -> dict[str, float | None]:
    return {legend.names[i]: int(counts[i, i]) / int(totals[i]) if totals[i] else None for i in legend.scored}


def _why_no_errors(tally: Tally, kind: str) -> str | None:
    """Tell why there are no standard errors, or None where there are."""
    if kind != "points":
        return _CLUSTERS
    return _OTHER_MAP.format(tally.moved) if tally.moved else None


def _estimates(
    found: Estimates, areas: ClassAreas, kind: str, legend: Legend, without_errors: str | None
) -> dict[str, Any]:
    def one(value: float, se: float, whole: float = 1.0) -> dict[str, Any] | None:
        """An estimate of a part of ``whole``, scaled by it."""
        if np.isnan(value):
            return None
        if np.isnan(se) or without_errors is not None:
            return {"value": value * whole, "se": None, "interval": None}
        low, high = max(value - Z_95 * se, 0.0), min(value + Z_95 * se, 1.0)
        return {"value": value * whole, "se": se * whole, "interval": [low * whole, high * whole]}

    def each(values: Float64Array, errors: Float64Array, whole: float = 1.0) -> dict[str, Any]:
        return {legend.names[i]: one(float(values[i]), float(errors[i]), whole) for i in legend.scored}

    hectares = float(areas.square_metres.sum()) / 10_000 if areas.scaled else None
    return {
        "overall": one(found.overall, found.overall_se),
        "users": each(found.users, found.users_se),
        "producers": each(found.producers, found.producers_se),
        "shares": each(found.shares, found.shares_se),
        "hectares": None if hectares is None else each(found.shares, found.shares_se, hectares),
        "hold_if": _HOLD_IF[kind],
        "without_errors": without_errors,
    }


def _warnings(tally: Tally, sizes: Float64Array, kind: str) -> list[str]:
    """Tell what was left out, and which classes have too few units for what."""
    legend, counts = tally.matrix.legend, tally.matrix.counts
    unit = "points" if kind == "points" else "pixels"
    found = []
    if tally.off_map:
        found.append(f"{tally.off_map:,} {unit} of the truth are off the map or on its nodata: left out.")
    if tally.conflicting:
        found.append(
            f"{tally.conflicting:,} pixels lie in polygons of different classes and were left out: mend the "
            "overlaps."
        )
    drawn, right = counts.sum(axis=0), counts.diagonal()
    for i, name in enumerate(legend.names):
        if not sizes[i] or 0 < right[i] < drawn[i]:
            continue
        share = f"Class {name!r}, {sizes[i] / sizes.sum():.2%} of the map,"
        if not drawn[i]:
            found.append(
                f"{share} has none of the {unit}: overall accuracy, producers' accuracies and areas cannot "
                "be estimated. Draw points with landcover sample, which takes some in each class."
            )
        elif kind == "points" and drawn[i] == 1:
            found.append(f"{share} has one point only: standard errors take two in each mapped class.")
        elif kind == "points":
            verdict = "right" if right[i] else "wrong"
            found.append(
                f"{share} is {verdict} at all of its {drawn[i]} points: its interval of no width says that "
                "the opposite was not met, not that it does not exist."
            )
    return found
