"""Reading of truth: labelled points and polygons."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rasterio.crs import CRS
from rasterio.errors import CRSError

from landcover._typing import BoolArray, Float64Array, UInt8Array
from landcover.errors import DataError, UsageError, did_you_mean, shortened
from landcover.extras import needs
from landcover.io.vectors import WGS84, Kind, class_text, move_near, read_features, reproject
from landcover.legend import NODATA, Legend
from landcover.textfiles import parse_csv, parse_number, plain_cell, read_text

with needs("vector"):
    import shapely

CLASS_COLUMN = "class"
"""Default column of the true class."""

MAP_COLUMN = "class_map"
"""Column of the predicted class at sampling time, as ``landcover sample`` writes it."""

LON_LAT = ("lon", "lat")
_OTHER_NAMES = {"lon": ("longitude", "long", "lng"), "lat": ("latitude",)}

X_Y = ("x", "y")


@dataclass(frozen=True, slots=True)
class Truth:
    """Points or polygons, object (N,) in the requested CRS, with their true classes, uint8 (N,).

    ``unlabelled`` is the number of rows without a class, which are left out; ``drawn_in`` the predicted class
    at sampling time, NODATA where it is not recorded.
    """

    geometries: npt.NDArray[np.object_]
    labels: UInt8Array
    kind: Kind
    unlabelled: int
    drawn_in: UInt8Array


def read_truth(
    path: Path,
    crs: CRS,
    legend: Legend,
    *,
    column: str | None = None,
    layer: str | None = None,
    truth_crs: str | None = None,
    longitude: float | None = None,
) -> Truth:
    """Read points or polygons with a column of class names or indices, in any letter case.

    A CSV file has the columns ``lon`` and ``lat`` (or ``longitude`` and ``latitude``; degrees, WGS 84) or,
    where ``truth_crs``, such as ``EPSG:32631``, is given, ``x`` and ``y``. The geometries are returned in
    ``crs``, near the ``longitude`` of the map. The column of the class is ``class`` by default.
    """
    is_table = path.suffix.lower() == ".csv"
    if layer is not None and is_table:
        raise UsageError(f"--layer is for files with layers; {path} is a CSV file.")
    if truth_crs is not None and not is_table:
        raise UsageError(f"--truth-crs is for CSV files; {path} declares its own CRS.")
    if is_table:
        expected = "a CSV file of labelled points"
        header, lines = parse_csv(read_text(path, DataError, expected), str(path), DataError)
        if not lines:
            raise DataError(f"{path} has no rows; expected a header line and a line for each point.")
        rows = {name: np.array([row[name] for _, row in lines], object) for name in header}
        try:
            names, source = (LON_LAT, WGS84) if truth_crs is None else (X_Y, CRS.from_user_input(truth_crs))
        except CRSError as error:
            raise UsageError(
                f"{truth_crs!r} is not a CRS: {error}. Expected for example EPSG:32631."
            ) from error
        points = shapely.points(_coordinates(path, rows, names))
        try:
            geometries, columns = reproject(points, source, crs), rows
        except DataError as error:
            raise DataError(f"{path}: {error}") from error
        kind: Kind = "point"
    else:
        features = read_features(path, crs, layer=layer)
        geometries, columns, kind = features.geometries, features.attributes, features.kind
    move_near(geometries, crs, longitude)
    labels, labelled = parse_labels(path, columns, column or CLASS_COLUMN, legend)
    drawn_in = np.full(len(labels), NODATA, np.uint8)
    if (drawn := _find_column(columns, MAP_COLUMN)) is not None:
        known = {form: index for index, name in enumerate(legend.names) for form in (name, plain_cell(name))}
        drawn_in[:] = [known.get(name, NODATA) for name in columns[drawn]]
    unlabelled = int(np.count_nonzero(~labelled))
    return Truth(geometries[labelled], labels[labelled], kind, unlabelled, drawn_in[labelled])


def parse_labels(
    path: Path, columns: dict[str, npt.NDArray[Any]], column: str, legend: Legend
) -> tuple[UInt8Array, BoolArray]:
    """Parse a column of names or indices into class indices, uint8 (N,) or NODATA; and whether each has one.

    Raises UsageError for a missing column, DataError for a value that is not a class, or no class at all.
    """
    name = _find_column(columns, column)
    if name is None:
        raise UsageError(
            f"{path} has no column {column!r}. {did_you_mean(column, columns)} Pass the column of the "
            "true class with --column."
        )
    texts = np.array([class_text(value) for value in columns[name]])
    folded = [name.casefold() for name in legend.names]
    in_any_case = {name: i for i, name in enumerate(folded) if folded.count(name) == 1}
    known = {str(i): i for i in range(len(legend))} | {name: i for i, name in enumerate(legend.names)}

    def index_of(value: str) -> int:
        if (index := known.get(value, in_any_case.get(value.casefold()))) is None:
            row = int(np.flatnonzero(texts == value)[0]) + 1
            raise DataError(
                f"{path}: row {row} has the class {value!r}, which is not in the legend {legend.name!r}. "
                f"{did_you_mean(value, legend.names)} Pass the right legend with --legend."
            )
        return index

    # A table has few distinct values: each is parsed once.
    values, places = np.unique(texts, return_inverse=True)
    labels = np.array([index_of(value) if value else NODATA for value in values.tolist()], np.uint8)[places]
    labelled = texts != ""
    if not labelled.any():
        raise DataError(
            f"{path}: the column {column!r} is empty in all {len(texts)} rows. Fill in the true classes."
        )
    return labels, labelled


def _find_column(columns: Iterable[str], *names: str) -> str | None:
    """Return the column with one of some names, in any letter case; None if none or several have it."""
    exact = [column for column in columns if column in names]
    folded = {name.casefold() for name in names}
    found = exact or [column for column in columns if column.casefold() in folded]
    return found[0] if len(found) == 1 else None


def _coordinates(path: Path, rows: dict[str, npt.NDArray[Any]], names: tuple[str, str]) -> Float64Array:
    """Return the two columns as float64 (N, 2)."""
    found = [_find_column(rows, name, *_OTHER_NAMES.get(name, ())) for name in names]
    columns = [rows[column] for column in found if column is not None]
    if len(columns) < len(names):
        hint = "" if names == X_Y else " For columns x and y, pass their CRS with --truth-crs EPSG:CODE."
        raise UsageError(
            f"{path} has the columns {', '.join(rows)}; expected the coordinates {' and '.join(names)}.{hint}"
        )
    places = np.empty((len(columns[0]), 2))
    for axis, name in enumerate(names):
        for row, cell in enumerate(columns[axis]):
            if (value := parse_number(cell)) is None:
                raise DataError(f"{path}: row {row + 1} has {shortened(cell)} as {name}; expected a number.")
            places[row, axis] = value
    return places
