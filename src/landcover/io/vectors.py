"""Read and write vector files of polygons and points, through pyogrio; geometries are shapely's."""

import re
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from threading import Lock
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from rasterio.crs import CRS
from rasterio.errors import CRSError, RasterioError
from rasterio.warp import transform

from landcover._gdal import CPLE_BaseError, grid_file, import_pyogrio
from landcover._typing import BoolArray, Float64Array
from landcover.errors import DataError, OutputError, UsageError, did_you_mean, foreign_errors
from landcover.extras import needs
from landcover.io.files import atomic_path
from landcover.io.vectorfiles import check_vector

with needs("vector"):
    pyogrio = import_pyogrio()
    import shapely

Geometries: TypeAlias = npt.NDArray[np.object_]
Columns: TypeAlias = Mapping[str, npt.NDArray[Any]]
Batch: TypeAlias = tuple[Geometries, Columns]
Kind: TypeAlias = Literal["polygon", "point"]

WGS84 = CRS.from_epsg(4326)

_DRIVERS = {".fgb": "FlatGeobuf", ".geojson": "GeoJSON", ".gpkg": "GPKG", ".parquet": "Parquet"}

_GPKG_VERSION = "1.3"
"""Version of GeoPackages: GDAL before 3.7 warns of later ones."""

_LONGEST_EDGE_M = 1000.0
"""A straight edge is bent in another CRS: over a kilometre by about 2 cm times the latitude's tangent."""

_METRES_PER_DEGREE = 111_320.0
_LONGITUDES, _LATITUDES = 540.0, 90.0
"""Largest longitude, with room for scenes across the date line, and latitude."""
_FARTHEST_M = 1e8
"""Largest coordinate of a projection: more than twice around the Earth."""
_ROUNDED_AREA = 1e-6
_CHUNK = 1 << 18
"""Coordinates reprojected at a time: rasterio makes each a Python number."""

_KINDS: dict[int, Kind] = {0: "point", 4: "point", 3: "polygon", 6: "polygon"}
"""Kind of each supported type of shapely."""

_ADDRESS_MARKS = frozenset("!;")

_date_lock = Lock()


@dataclass(frozen=True, slots=True)
class Features:
    """Geometries of one kind with their attributes.

    Attributes:
        geometries: object (N,) of shapely geometries, at least one: Polygon and MultiPolygon, or Point.
        attributes: Column name to array (N,). Text is ``object`` with None if missing; numbers are as in the
            file, floats with NaN if an integer is missing.
        crs: CRS of the coordinates, easting or longitude first.
        kind: ``polygon`` or ``point``.
    """

    geometries: Geometries
    attributes: dict[str, npt.NDArray[Any]]
    crs: CRS
    kind: Kind


def read_features(
    path: str | Path,
    crs: CRS,
    *,
    layer: str | None = None,
    longitude: float | None = None,
    layer_option: str = "--layer",
) -> Features:
    """Read the polygons or points of a file, reprojected to ``crs`` (see :func:`reproject`).

    Files are GeoPackage, GeoJSON, FlatGeobuf, GeoParquet, shapefile, KML or a .gdb folder. Points of a
    MultiPoint become features of their own; heights are dropped. Longitudes may be beyond 180, and an area
    across the antimeridian may be cut there: where ``crs`` is geographic, each part is moved by whole turns
    to less than half a turn from ``longitude``, that of the raster in its degrees. ``layer`` is optional if
    only one has geometries.

    Raises:
        DataError: If the file is missing or not a vector file, has no CRS, no features or several layers, or
            holds invalid, missing or mixed geometries, lines, or coordinates that do not exist in ``crs``.
        UsageError: If the layer does not exist.
    """
    path = Path(path)
    with foreign_errors(lambda reason: DataError(f"{path} cannot be read as a vector file: {reason}.")):
        if not (path.is_file() or path.is_dir()):  # some vector files are folders
            state = "is a device or a pipe" if path.exists() else "does not exist"
            raise DataError(f"{path} {state}; expected a vector file, such as a GeoPackage.")
        _refuse_address(path, DataError)
        check_vector(path)
        try:
            chosen = _choose_layer(path, layer, layer_option)
            meta, _, raw, fields = pyogrio.raw.read(path, layer=chosen, force_2d=True)
        except (pyogrio.errors.DataSourceError, pyogrio.errors.DataLayerError) as error:
            raise DataError(f"{path} cannot be read as a vector file: {_reason(error)}.") from error
        if not len(raw):
            raise DataError(f"{path} has no features in its layer {chosen!r}; expected polygons or points.")
        if meta["crs"] is None:
            raise DataError(
                f"{path} does not declare the CRS of its coordinates. Declare the one that it was made in: "
                f"ogr2ogr -a_srs EPSG:CODE OUT.gpkg {path.name}"
            )
        if grid := grid_file(meta["crs"]):
            raise DataError(
                f"{path} has a CRS that refers to the file {grid!r}; expected a CRS without files."
            )
        try:
            source = CRS.from_user_input(meta["crs"])
        except CRSError as error:
            raise DataError(f"{path} declares a CRS that is not understood: {error}.") from error
        geometries, kind = _geometries(path, raw)
        if source.is_geographic and kind == "polygon":
            _refuse_long_edges(path, geometries, _turn(source))
        attributes = dict(zip(map(str, meta["fields"]), fields, strict=True))
        if kind == "point":
            geometries, origin = shapely.get_parts(geometries, return_index=True)
            attributes = {name: values[origin] for name, values in attributes.items()}
        try:
            moved = reproject(geometries, source, crs)
        except DataError as error:
            hint = ""
            if source == WGS84 and not crs.is_geographic and path.suffix.lower() in (".geojson", ".json"):
                hint = f" If they are in {crs.to_string()[:60]}, run: ogr2ogr -a_srs {crs.to_string()[:60]} "
                hint += f"{path.stem}.gpkg {path.name}"
            raise DataError(f"{path}: {error}{hint}") from error
    move_near(moved, crs, longitude)
    return Features(moved, attributes, crs, kind)


def class_text(value: object) -> str:
    """Return the class in an attribute as text: "" for a missing one, whole numbers without a point."""
    if value is None or value != value:  # NaN
        return ""
    text = str(value).strip()
    whole = re.fullmatch(r"(-?\d+)\.0*", text)
    return whole[1] if whole else text


def vector_driver(path: Path) -> str:
    """Return the name of GDAL's driver that writes files of this suffix; UsageError if there is none here."""
    suffix = path.suffix.lower()
    if suffix not in _DRIVERS:
        raise UsageError(f"{path} has the suffix {suffix!r}. {did_you_mean(suffix, _DRIVERS)}")
    driver = _DRIVERS[suffix]
    if "w" not in pyogrio.list_drivers(write=True).get(driver, ""):
        raise UsageError(
            f"{path} cannot be written: the GDAL that came with pyogrio has no {driver} driver. Write a "
            "GeoPackage (.gpkg) or a FlatGeobuf (.fgb), or install a pyogrio whose GDAL has it."
        )
    return driver


def write_features(
    path: Path,
    batches: Iterable[Batch],
    columns: Mapping[str, npt.DTypeLike],
    crs: CRS,
    *,
    geometry: Literal["Point", "Polygon", "MultiPolygon"] = "Polygon",
    style: str | None = None,
    force: bool = False,
) -> int:
    """Write features in the format of the suffix, return their number; the same features give the same bytes.

    A GeoPackage (``.gpkg``) is written batch by batch, in the memory of one. FlatGeobuf (``.fgb``, sorted by
    position), GeoJSON (``.geojson``, in longitude and latitude to 9 digits: RFC 7946) and GeoParquet
    (``.parquet``) are written at once: all features and the file are held in memory. The file's name is also
    that of the layer; ``style`` is a QGIS style, which a GeoPackage stores in its table ``layer_styles``.

    Batches, best of about ten thousand features, are geometries, object (n,), and arrays (n,) by the names of
    ``columns``, which have the type of each: ``object`` or ``str`` is text, with None for missing.
    """
    driver = vector_driver(path)
    types = {name: object if np.dtype(t).kind in "UO" else np.dtype(t) for name, t in columns.items()}
    _refuse_address(path.parent, OutputError)
    none: Batch = np.empty(0, object), {name: np.empty(0, kind) for name, kind in types.items()}
    # A GeoPackage refuses some first letters of layers.
    layer = path.stem if re.match(r"(?!gpkg)\w", path.stem, re.IGNORECASE) else f"_{path.stem}"
    options: dict[str, Any] = {"driver": driver, "layer": layer, "geometry_type": geometry}
    if driver == "GPKG":
        options["VERSION"] = _GPKG_VERSION
    count = 0
    bounds: list[Float64Array] = []
    with atomic_path(path, force=force) as temporary:
        try:
            if driver == "GPKG":
                # GDAL does not report all errors of a disk: the tables are made in memory.
                empty = BytesIO()
                with _fixed_date():
                    _write(empty, none, types, crs, **options)
                temporary.write_bytes(empty.getbuffer())
                for batch in batches:
                    with _fixed_date():
                        _write(temporary, batch, types, crs, append=True, **options)
                    count += len(batch[0])
                    if len(batch[0]):
                        bounds.append(shapely.total_bounds(batch[0]))
                if style is not None:
                    with _fixed_date():
                        _write_style(temporary, layer, style)
                if not _is_whole(temporary, layer, count, bounds, styled=style is not None):
                    raise OutputError(
                        f"{path} cannot be written: the file is incomplete. Check disk space and memory."
                    )
            else:
                parts = [none, *batches]
                geometries = np.concatenate([part for part, _ in parts])
                attributes = {
                    name: np.concatenate([np.asarray(values[name], kind) for _, values in parts])
                    for name, kind in types.items()
                }
                count = len(geometries)
                if driver == "GeoJSON":
                    geometries, crs = _cut_at_antimeridian(reproject(geometries, crs, WGS84)), WGS84
                    options |= {"RFC7946": "YES", "COORDINATE_PRECISION": "9"}
                # Through memory, because GDAL does not report a full disk when it closes a file.
                buffer = BytesIO()
                _write(buffer, (geometries, attributes), types, crs, **options)
                temporary.write_bytes(buffer.getbuffer())
        except (pyogrio.errors.DataSourceError, pyogrio.errors.DataLayerError) as error:
            raise OutputError(f"{path} cannot be written: {_reason(error)}.") from error
    return count


def reproject(geometries: Geometries, source: CRS, target: CRS) -> Geometries:
    """Return geometries, object (N,), in another CRS.

    Edges longer than a kilometre get vertices first, which keeps them in place within centimetres. Shared
    boundaries stay shared: the new vertices of an edge depend on the edge alone. In longitude and latitude a
    part that crosses the antimeridian goes on beyond 180 degrees.
    """
    if not len(geometries) or (source == target and not (source.is_geographic or source.is_projected)):
        return geometries
    try:
        unit = _METRES_PER_DEGREE if source.is_geographic else source.linear_units_factor[1]
    except CRSError as error:  # a site's own grid, or geocentric
        raise DataError(
            f"The CRS of the coordinates is not tied to the Earth: {source.to_string()}."
        ) from error
    _check_range(geometries, source, unit)
    if source == target:
        return geometries
    dense = shapely.segmentize(geometries, _LONGEST_EDGE_M / unit)
    places = shapely.get_coordinates(dense)
    reason = "some do not exist there"
    try:
        for start in range(0, len(places), _CHUNK):
            part = places[start : start + _CHUNK]
            part[:] = np.transpose(transform(source, target, part[:, 0], part[:, 1]))
    except (RasterioError, CPLE_BaseError) as error:
        places[:], reason = np.nan, str(error).rstrip(".")
    if np.isfinite(places).all():
        moved: Geometries = shapely.set_coordinates(dense, places)
        if target.is_geographic and len(places) and np.ptp(places[:, 0]) > _turn(target) / 2:
            rings = shapely.get_parts(dense, return_index=True)[0]
            first = np.cumsum([0, *shapely.get_num_coordinates(rings)[:-1]])
            counts = shapely.get_num_coordinates(rings)
            places[:, 0] -= _whole_turns(places[:, 0] - np.repeat(places[first, 0], counts), _turn(target))
            moved = shapely.set_coordinates(dense, places)
        # A polygon that crosses itself by more than rounding, as the world does in a UTM zone, has no inside.
        crossing = moved[~shapely.is_valid(moved)]
        areas, mended = shapely.area(crossing), shapely.area(shapely.make_valid(crossing))
        if (np.abs(areas - mended) <= _ROUNDED_AREA * mended).all():
            return moved
        reason = "some fold over themselves there"
    raise DataError(
        f"Coordinates in {source.to_string()} cannot be transformed to {target.to_string()}: {reason}. "
        "Check that the file declares the CRS that it was made in, and keep only features near the raster."
    )


def _turn(crs: CRS) -> float:
    """Return a whole turn in the unit of a geographic CRS."""
    return float(2 * np.pi / crs.units_factor[1])


def _whole_turns(longitudes: Float64Array, turn: float) -> Float64Array:
    """Return the nearest multiples of a whole turn."""
    result: Float64Array = turn * np.rint(longitudes / turn)
    return result


def move_near(geometries: Geometries, crs: CRS, longitude: float | None) -> None:
    """Move each part of geometries, in place, by whole turns to less than half a turn from a longitude."""
    if longitude is None or not crs.is_geographic:
        return
    turn = _turn(crs)
    for number, geometry in enumerate(geometries):
        parts = shapely.get_parts(geometry)
        bounds = shapely.bounds(parts)
        shifts = _whole_turns((bounds[:, 0] + bounds[:, 2]) / 2 - longitude, turn)
        if shifts.any():
            moved = [
                shapely.transform(part, lambda points, shift=shift: points - [shift, 0])
                for part, shift in zip(parts, shifts, strict=True)
            ]
            geometries[number] = moved[0] if len(moved) == 1 else shapely.union_all(moved)


def _cut_at_antimeridian(geometries: Geometries) -> Geometries:
    """Return geometries in degrees, with all longitudes within 180, cut where they cross it (RFC 7946)."""
    if shapely.get_type_id(geometries[:1]).tolist() == [0]:
        points = shapely.get_coordinates(geometries)
        points[:, 0] -= _whole_turns(points[:, 0], 360.0)
        moved: Geometries = shapely.points(points)
        return moved
    result = geometries.copy()
    bounds = shapely.bounds(geometries)
    for number in np.flatnonzero((bounds[:, 0] < -180) | (bounds[:, 2] > 180)):
        parts = []
        for turn in (-360.0, 0.0, 360.0):
            inside = shapely.intersection(geometries[number], shapely.box(turn - 180, -90, turn + 180, 90))
            parts.append(shapely.transform(inside, lambda points, turn=turn: points - [turn, 0]))
        whole = [
            part for part in shapely.get_parts(parts) if part.geom_type == "Polygon" and not part.is_empty
        ]
        result[number] = whole[0] if len(whole) == 1 else shapely.multipolygons(whole)
    return result


def _refuse_long_edges(path: Path, geometries: Geometries, turn: float) -> None:
    """Refuse polygons with an edge of more than half a turn, but not a whole one, as that of the world."""
    places, ring = shapely.get_coordinates(shapely.get_rings(geometries), return_index=True)
    step = np.abs(np.diff(places[:, 0]))
    wrong = np.flatnonzero((step > turn / 2) & (step < turn * (1 - 1e-9)) & (np.diff(ring) == 0))
    if wrong.size:
        west, east = places[wrong[0], 0], places[wrong[0] + 1, 0]
        raise DataError(
            f"{path} has an edge from longitude {west:.9g} to {east:.9g}, around the Earth or across the "
            "antimeridian. Cut it there: ogr2ogr -wrapdateline OUT.gpkg IN, or write longitudes beyond 180."
        )


def _check_range(geometries: Geometries, source: CRS, unit: float) -> None:
    """Refuse coordinates that are not on the Earth, before the edges between them get vertices."""
    places = shapely.get_coordinates(geometries)
    x_limit, y_limit = (_LONGITUDES, _LATITUDES) if source.is_geographic else (_FARTHEST_M / unit,) * 2
    wrong = ~((np.abs(places[:, 0]) <= x_limit) & (np.abs(places[:, 1]) <= y_limit))
    if wrong.any():
        x, y = places[wrong][0]
        raise DataError(
            f"The coordinates {x:g}, {y:g} do not exist in {source.to_string()[:80]}. Check that the file "
            "declares the CRS that it was made in, and that x or longitude is first."
        )


def _refuse_address(path: Path, error: type[DataError | OutputError]) -> None:
    """Refuse a path that pyogrio would take for another: of ``a!b.gpkg`` it makes ``b.gpkg`` in ``a``."""
    if not _ADDRESS_MARKS.isdisjoint(str(path)):
        raise error(f"{path} has ! or ; in its name, which pyogrio takes for an address. Rename it.")


def _choose_layer(path: Path, layer: str | None, option: str) -> str:
    names = [str(name) for name, geometry in pyogrio.list_layers(path) if geometry is not None]
    if not names:
        raise DataError(f"{path} has a table without geometries; expected polygons or points.")
    if layer is not None:
        if layer not in names:
            raise UsageError(f"{path} has no layer {layer!r}. {did_you_mean(layer, names)}")
        return layer
    if len(names) > 1:
        raise DataError(
            f"{path} has {len(names)} layers with geometries: {', '.join(names)}. Choose one with {option}."
        )
    return names[0]


def _geometries(path: Path, raw: Geometries) -> tuple[Geometries, Kind]:
    """Return well-known binary as shapely's geometries: none missing or invalid, all of one kind."""
    try:
        geometries: Geometries = shapely.from_wkb(raw)
    except shapely.errors.GEOSException as error:
        raise DataError(f"{path} holds a geometry that cannot be read: {error}.") from error
    _refuse(path, shapely.is_missing(geometries) | shapely.is_empty(geometries), "have no geometry")
    kinds = [_KINDS.get(int(number)) for number in shapely.get_type_id(geometries)]
    kind = kinds[0]
    if kind is None or any(other != kind for other in kinds):
        types = sorted({geometry.geom_type for geometry in geometries})
        raise DataError(f"{path} holds {' and '.join(types)}; expected only polygons, or only points.")
    invalid = ~shapely.is_valid(geometries)
    if invalid.any():
        reason = shapely.is_valid_reason(geometries[invalid][0])
        _refuse(path, invalid, f"are invalid ({reason})")
    return geometries, kind


def _refuse(path: Path, bad: BoolArray, what: str) -> None:
    places = np.flatnonzero(bad)
    if places.size:
        raise DataError(
            f"{path}: {places.size} of {bad.size} features {what}, first number {places[0] + 1}. Repair or "
            "delete them, in QGIS with 'Fix geometries' and 'Remove null geometries'."
        )


def _write(
    target: Path | BytesIO,
    batch: Batch,
    types: Mapping[str, npt.DTypeLike],
    crs: CRS,
    **options: Any,
) -> None:
    geometries, columns = batch
    pyogrio.raw.write(
        target,
        shapely.to_wkb(geometries),
        [np.asarray(columns[name], kind) for name, kind in types.items()],
        list(types),
        crs=crs.to_string(),
        promote_to_multi=options["geometry_type"].startswith("Multi"),
        **options,
    )


def _write_style(path: Path, layer: str, style: str) -> None:
    """Add the table ``layer_styles`` with the default style of a layer, as QGIS writes and reads it."""
    row: dict[str, object] = {
        "f_table_catalog": "",
        "f_table_schema": "",
        "f_table_name": layer,
        "f_geometry_column": "geom",
        "styleName": "land cover",
        "styleQML": style,
        "styleSLD": "",
        "useAsDefault": True,
        "description": "",
        "owner": "",
        "ui": "",
        "update_time": np.datetime64(0, "ms"),
    }
    values = [np.array([v], object if isinstance(v, str) else None) for v in row.values()]
    options = {"layer": "layer_styles", "driver": "GPKG", "geometry_type": None, "append": True}
    pyogrio.raw.write(path, None, values, list(row), **options)


def _is_whole(path: Path, layer: str, count: int, bounds: Sequence[Float64Array], *, styled: bool) -> bool:
    """Read back all that a GeoPackage needs: GDAL does not report all errors of a disk.

    ``count`` features were written, with the bounds of each batch; ``styled``: and a row of ``layer_styles``.
    """
    tables = {layer: count, "layer_styles": 1} if styled else {layer: count}
    counts = []
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as database:
        try:
            for table in tables:
                quoted = table.replace('"', '""')
                counts += database.execute(f'SELECT count(*) FROM "{quoted}"').fetchone()
                query = "SELECT feature_count FROM gpkg_ogr_contents WHERE table_name = ?"
                counts += database.execute(query, (table,)).fetchone()
                query = (
                    "SELECT name FROM sqlite_master WHERE type = 'trigger' AND tbl_name = ? ORDER BY rowid"
                )
                triggers = [name for (name,) in database.execute(query, (table,))]  # the last two count rows
                if triggers[-2:] != [
                    f"trigger_{event}_feature_count_{table}" for event in ("insert", "delete")
                ]:
                    return False
            quoted = layer.replace('"', '""')
            counts += database.execute(f'SELECT count(*) FROM "rtree_{quoted}_geom"').fetchone()
            query = "SELECT min_x, min_y, max_x, max_y FROM gpkg_contents WHERE table_name = ?"
            extent = np.array(database.execute(query, (layer,)).fetchone(), np.float64)  # None becomes NaN
            marks = database.execute("PRAGMA application_id").fetchone()
            marks += database.execute("PRAGMA user_version").fetchone()
            query = (
                "SELECT (SELECT count(*) FROM gpkg_spatial_ref_sys WHERE srs_id IN (-1, 0, 4326)), count(*) "
                "FROM gpkg_geometry_columns JOIN gpkg_spatial_ref_sys USING (srs_id) WHERE table_name = ?"
            )
            references = database.execute(query, (layer,)).fetchone()
        except (sqlite3.DatabaseError, TypeError):
            return False
    expected = [n for number in tables.values() for n in (number, number)] + [count]
    if counts != expected or not all(marks) or references != (3, 1):
        return False
    if not count:
        return True
    low, high = np.min(bounds, axis=0)[:2], np.max(bounds, axis=0)[2:]
    return bool(np.allclose(extent, [*low, *high], rtol=1e-12, atol=1e-9))


@contextmanager
def _fixed_date() -> Iterator[None]:
    """Fix the date in a GeoPackage, so that the same features give the same bytes.

    GDAL has one such setting for the whole process: one thread at a time, only while it writes.
    """
    with _date_lock:
        before = pyogrio.get_gdal_config_option("OGR_CURRENT_DATE")
        pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": "1970-01-01T00:00:00.000Z"})
        try:
            yield
        finally:
            pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": before})


def _reason(error: Exception) -> str:
    return str(error).partition("; It might help")[0].strip()[:300].rstrip(".")  # drivers have no option here
