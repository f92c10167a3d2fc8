"""``assess``: the accuracy of a map against points, polygons or a raster, and the areas that follow."""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from rasterio.enums import Resampling
from rasterio.features import geometry_mask
from rasterio.vrt import WarpedVRT

from landcover._typing import Float64Array, UInt8Array
from landcover.errors import DataError, UsageError
from landcover.evaluation.estimators import Z_95, Estimates, WithError, stratified_estimates
from landcover.evaluation.report import AssessmentReport, Estimate, Estimated, MapEstimates, MappedArea
from landcover.evaluation.truth import Truth, read_truth
from landcover.extras import needs
from landcover.io.files import check_json_output, write_text
from landcover.io.vectors import Geometries, reproject
from landcover.legend import DEEPGLOBE, NODATA, Legend
from landcover.metrics import ConfusionMatrix, Metric, averaged_classes, class_measures
from landcover.progress import track
from landcover.raster import Georeference
from landcover.raster.classmap import ClassMap, open_class_map
from landcover.raster.zonal import ClassAreas
from landcover.windows import Window

with needs("vector"):
    import shapely

RASTER_TRUTH = frozenset({".img", ".jp2", ".png", ".tif", ".tiff", ".vrt"})
"""Suffixes, in lower case, of truth that is read as a raster; any other is a vector file or CSV."""

Kind = Literal["points", "polygons", "raster"]

_HOLD_IF: dict[Kind, str] = {
    "points": "the points were drawn at random within each class of this map, as landcover sample does, or "
    "at random over the whole map",
    "polygons": "the polygons were chosen at random, each class as often as it is mapped",
    "raster": "the raster covers a part of the map that was chosen at random",
}
_CLUSTERS = (
    "Neighbouring pixels of polygons and rasters have correlated errors; standard errors for independent "
    "pixels would be far too small. Draw points with landcover sample to get standard errors."
)

_OTHER_MAP = (
    "At {:,} points the map has another class than the one in class_map: the points were drawn on another "
    "map. The estimates are rough, and no standard errors are given. Draw points on this map with landcover "
    "sample."
)


_TILE_PX = 1024
_TOLERANCE_PX = 1e-4
"""Largest error of GDAL's interpolated coordinates in pixels; its default is an eighth."""

_FAR = 2.0**40
"""Outside every raster, and representable as an integer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TruthOptions:
    """How :func:`assess` reads a file of points or polygons.

    Attributes:
        column: Column with the names or indices of the true classes.
        layer: Layer of a file that has several.
        crs: CRS of the columns ``x`` and ``y`` of a CSV file, such as ``EPSG:32631``.

    Example:
        >>> lc.TruthOptions(column="landcover").column
        'landcover'
    """

    column: str | None = None
    layer: str | None = None
    crs: str | None = None


@dataclass
class Tally:
    """The counts of a comparison of truth and map: units in the matrix, and what is left out of it.

    Attributes:
        unknown: Units whose true class is the unknown one.
        off_map: Units of a known class outside the map, or on its nodata.
        conflicting: Pixels that polygons of different classes claim.
        moved: Points whose class at sampling time differs from the map's class.
        unlabelled: Rows of the truth without a class.
    """

    matrix: ConfusionMatrix
    kind: Kind = "raster"
    unknown: int = 0
    off_map: int = 0
    conflicting: int = 0
    moved: int = 0
    unlabelled: int = 0

    def add(self, truth: UInt8Array, mapped: UInt8Array) -> None:
        """Count units: uint8 (H, W) each, class indices of one legend, NODATA for no unit or no map."""
        unknown = truth == self.matrix.legend.unknown
        off_map = (truth != NODATA) & ~unknown & (mapped == NODATA)
        self.unknown += int(np.count_nonzero(unknown))
        self.off_map += int(np.count_nonzero(off_map))
        self.matrix.update(np.where(unknown | off_map, np.uint8(NODATA), truth), mapped)


def assess(
    map_path: str | Path,
    truth: str | Path,
    *,
    legend: Legend | None = None,
    map_legend: Legend | None = None,
    options: TruthOptions | None = None,
    metric: Metric = "challenge",
    json: str | Path | None = None,
    force: bool = False,
) -> AssessmentReport:
    """Score a georeferenced map against points, polygons or a raster, and estimate areas.

    Units are counted once each, where both truth and map have a class:

    - a raster of classes (``.tif``, ``.vrt``, …, any CRS and grid): its own pixels, with the map's class at
      their centres;
    - polygons with a class column: the map's pixels whose centres are inside; pixels that polygons of
      different classes claim are left out and reported;
    - points with a class column, or a CSV file with ``lon``, ``lat`` and the class: the points, each with the
      class of its pixel.

    Accuracies and areas are then estimated with the classes of the map as strata
    (:func:`~landcover.evaluation.estimators.stratified_estimates`). Points that are a probability sample give
    standard errors and 95 % intervals; polygons and rasters give none, because their pixels are clusters.

    The map is read once, by row blocks of 4 MiB or one row of blocks of the file; memory does not grow with
    its height.

    Args:
        map_path: A raster of one 8-bit band of classes with CRS and transform.
        truth: The truth. Units of the unknown class are ignored, rows without a class left out.
        legend: Classes of the truth. None: those that the map carries, else DeepGlobe's.
        map_legend: Classes of the map where they are in another order; matched by name.
        options: How to read points and polygons.
        metric: One of :data:`landcover.metrics.METRICS`, for IoU and pixel accuracy of the units.
        json: File, ``*.json``, to which the result is written too.
        force: Replace an existing file.

    Raises:
        UsageError: If an option, a column or a layer does not exist, or the legends have other classes.
        DataError: If a file cannot be read, does not fit the legend, or no unit is on the map.
        OutputError: If the JSON file exists and ``force`` is off, or cannot be written.

    Example:
        >>> _ = lc.sample("map.tif", "points.gpkg", per_class=10)
        >>> # Usually a person fills in the column "class"; here the map's own class is the truth.
        >>> report = lc.assess("map.tif", "points.gpkg", options=lc.TruthOptions(column="class_map"))
        >>> report.estimates.overall.value
        1.0
        >>> round(report.estimates.hectares["water"].value, 3)
        0.15
    """
    options = options or TruthOptions()
    averaged_classes(legend or DEEPGLOBE, metric)  # refuses an unknown metric
    if json is not None:
        check_json_output(Path(json), force=force)
    map_path, truth = Path(map_path), Path(truth)
    is_raster = truth.suffix.lower() in RASTER_TRUTH
    if is_raster and options != TruthOptions():
        raise UsageError(f"--column, --layer and --truth-crs are for vector files; {truth} is a raster.")
    with open_class_map(map_path, map_legend, legend, DEEPGLOBE) as mapped:
        place, legend = mapped.required_georeference, mapped.legend
        tally = Tally(ConfusionMatrix(legend))
        areas = ClassAreas(legend, place.row_areas())

        def measured() -> Iterator[tuple[int, UInt8Array]]:
            """Yield the first row and the classes of each row block, and count the area of each class."""
            for window in track(mapped.strips(), f"Reading {mapped.path.name}"):
                strip = mapped.read(window)
                areas.add(window.row, strip)
                yield window.row, strip

        if is_raster:
            with open_class_map(truth, target=legend) as raster:
                count_raster(mapped, raster, tally)
            deque(measured(), maxlen=0)
        else:
            places = read_truth(
                truth,
                place.crs,
                legend,
                column=options.column,
                layer=options.layer,
                truth_crs=options.crs,
                longitude=place.middle_longitude,
            )
            tally.unlabelled = places.unlabelled
            tally.kind, count = (
                ("points", count_points) if places.kind == "point" else ("polygons", count_polygons)
            )
            count(measured(), places, place, tally)
    if not tally.matrix.table.any():
        raise DataError(
            f"No {tally.kind.rstrip('s')} of {truth} with a known class is on {map_path}: {tally.off_map:,} "
            f"are outside it or on its nodata, {tally.unknown:,} are of the unknown class. Check the CRS of "
            "both files, and that they cover the same place."
        )
    scores = tally.matrix.scores(metric)
    measures, _ = class_measures(tally.matrix)
    sizes = areas.square_metres if areas.scaled else areas.pixels.astype(np.float64)
    report = AssessmentReport(
        truth_kind=tally.kind,
        metric=metric,
        legend=legend,
        classes=list(legend.names),
        units=int(tally.matrix.table.sum()),
        off_map=tally.off_map,
        unknown=tally.unknown,
        conflicting=tally.conflicting,
        confusion=tally.matrix.counts,
        **scores.to_dict(),
        users={name: of["precision"] for name, of in measures.items()},
        producers={name: of["recall"] for name, of in measures.items()},
        mapped={
            name: MappedArea(
                pixels=int(areas.pixels[i]),
                hectares=float(areas.square_metres[i]) / 10_000 if areas.scaled else None,
                share=float(sizes[i] / sizes.sum()),
            )
            for i, name in enumerate(legend.names)
        },
        estimates=_estimates(stratified_estimates(tally.matrix.counts.T, sizes), areas, tally),
        warnings=[*scores.warnings, *_warnings(tally, sizes)],
        map=map_path.absolute(),
        truth=truth.absolute(),
        unlabelled=tally.unlabelled,
    )
    if json is not None:
        write_text(Path(json), report.to_json(), force=force)
    return report


def _estimates(found: Estimates, areas: ClassAreas, tally: Tally) -> MapEstimates:
    legend = areas.legend
    moved = _OTHER_MAP.format(tally.moved) if tally.moved else None
    without_errors = moved if tally.kind == "points" else _CLUSTERS

    def one(value: float, se: float, whole: float = 1.0) -> Estimate | None:
        """Return an estimated fraction of ``whole``, scaled by it."""
        if np.isnan(value):
            return None
        if np.isnan(se) or without_errors is not None:
            return Estimate(value=value * whole, se=None, interval=None)
        ends = max(value - Z_95 * se, 0.0) * whole, min(value + Z_95 * se, 1.0) * whole
        return Estimate(value=value * whole, se=se * whole, interval=ends)

    def each(all_: WithError, whole: float = 1.0) -> Estimated:
        pairs = zip(all_.value.tolist(), all_.se.tolist(), strict=True)
        estimates = [one(value, se, whole) for value, se in pairs]
        return {legend.names[i]: estimates[i] for i in legend.scored}

    hectares = float(areas.square_metres.sum()) / 10_000 if areas.scaled else None
    return MapEstimates(
        overall=one(*map(float, found.overall)),
        users=each(found.users),
        producers=each(found.producers),
        shares=each(found.shares),
        hectares=None if hectares is None else each(found.shares, hectares),
        hold_if=_HOLD_IF[tally.kind],
        without_errors=without_errors,
    )


def _warnings(tally: Tally, sizes: Float64Array) -> list[str]:
    """Return warnings of units that were left out, and of classes with too few units."""
    legend, counts, kind = tally.matrix.legend, tally.matrix.counts, tally.kind
    unit = "points" if kind == "points" else "pixels"
    found = []
    if tally.off_map:
        found.append(
            f"{tally.off_map:,} {unit} of the truth are outside the map or on its nodata; they are left out."
        )
    if tally.conflicting:
        found.append(
            f"{tally.conflicting:,} pixels are in polygons of different classes and were left out. Remove "
            "the overlaps of the polygons."
        )
    drawn, right = counts.sum(axis=0), counts.diagonal()
    for i, name in enumerate(legend.names):
        if not sizes[i]:
            continue
        if not drawn[i]:
            problem = (
                f"is not among the {unit}: overall accuracy, producer's accuracies and areas cannot be "
                "estimated. Draw points with landcover sample, which takes some in each class."
            )
        elif kind == "points" and drawn[i] == 1:
            problem = "has only one point: standard errors need at least two in each predicted class."
        elif kind == "points" and right[i] in (0, drawn[i]):
            problem = (
                f"is {'right' if right[i] else 'wrong'} at all of its {drawn[i]} points: the zero-width "
                "interval reflects the small sample, not certainty."
            )
        else:
            continue
        found.append(f"Class {name!r}, {sizes[i] / sizes.sum():.2%} of the map, {problem}")
    if tally.unlabelled:
        found.append(f"{tally.unlabelled:,} rows of the truth have no class and were left out.")
    return found


def count_points(
    strips: Iterable[tuple[int, UInt8Array]], truth: Truth, place: Georeference, tally: Tally
) -> None:
    """Count points, in the map's CRS, each with the predicted class of its pixel.

    ``strips``: first row and uint8 (n, W) classes of each row block of the map, from top to bottom.
    """
    cols, rows = (
        np.clip(np.floor(values), -1, _FAR).astype(np.int64) for values in _pixels(truth.geometries, place)
    )
    order = np.argsort(rows, kind="stable")
    mapped = np.full(len(rows), NODATA, np.uint8)
    for start, strip in strips:
        first, last = np.searchsorted(rows, (start, start + len(strip)), sorter=order)
        inside = order[first:last]
        inside = inside[(cols[inside] >= 0) & (cols[inside] < strip.shape[1])]
        mapped[inside] = strip[rows[inside] - start, cols[inside]]
    known = (truth.drawn_in != NODATA) & (mapped != NODATA)
    tally.moved += int(np.count_nonzero(known & (truth.drawn_in != mapped)))
    tally.add(truth.labels[None], mapped[None])


def count_polygons(
    strips: Iterable[tuple[int, UInt8Array]], truth: Truth, place: Georeference, tally: Tally
) -> None:
    """Count the map's pixels whose centres are in polygons; arguments as for :func:`count_points`.

    A pixel in several polygons of one class counts once, in polygons of different classes not at all.
    """
    tree = shapely.STRtree(truth.geometries)
    for start, strip in strips:
        part = place.part(Window(start, 0, *strip.shape))
        near = np.sort(tree.query(shapely.Polygon(part.corners())))
        if near.size:
            labels = np.full(strip.shape, NODATA, np.uint8)
            conflicts = np.zeros(strip.shape, np.bool_)
            for label in np.unique(truth.labels[near]):
                polygons = truth.geometries[near[truth.labels[near] == label]]
                inside = geometry_mask(polygons, strip.shape, part.transform, invert=True)
                conflicts |= inside & (labels != NODATA)
                labels[inside] = label
            labels[conflicts] = NODATA
            tally.conflicting += int(np.count_nonzero(conflicts))
            tally.add(labels, strip)


def count_raster(mapped: ClassMap, truth: ClassMap, tally: Tally) -> None:
    """Count the pixels of a raster, each with the map's class at its centre (nearest neighbour).

    Only the part of the raster that may overlap the map is read, by tiles of 1024 pixels. Raises DataError if
    the map's outline cannot be projected into the raster's CRS, MaskError if either is damaged.
    """
    own, place = mapped.required_georeference, truth.required_georeference
    outline = np.array([shapely.Polygon(own.corners())], object)
    cols, rows = _pixels(reproject(outline, own.crs, place.crs), place)
    # One pixel of margin: projected edges are curved between their vertices.
    top, bottom = (int(np.clip(end, 0, place.height)) for end in (rows.min() - 1, rows.max() + 2))
    left, right = (int(np.clip(end, 0, place.width)) for end in (cols.min() - 1, cols.max() + 2))
    with WarpedVRT(
        mapped.source,
        nodata=mapped.nodata,
        src_nodata=mapped.nodata,
        crs=place.crs,
        transform=place.transform,
        height=place.height,
        width=place.width,
        resampling=Resampling.nearest,
        tolerance=_TOLERANCE_PX,
    ) as warped:
        for row in range(top, bottom, _TILE_PX):
            for col in range(left, right, _TILE_PX):
                tile = Window(row, col, min(_TILE_PX, bottom - row), min(_TILE_PX, right - col))
                classes = truth.read(tile)
                if (classes != NODATA).any():
                    tally.add(classes, mapped.read(tile, warped))


def _pixels(geometries: Geometries, place: Georeference) -> tuple[Float64Array, Float64Array]:
    """Return columns and rows, float64 (N,) each, of the points that geometries are made of."""
    return place.pixels(*shapely.get_coordinates(geometries).T)
