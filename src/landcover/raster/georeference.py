"""Where a raster lies, and how large its pixels are on the ground."""

import math
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from affine import Affine
from rasterio.crs import CRS
from rasterio.errors import CRSError, NotGeoreferencedWarning, RasterioError
from rasterio.io import DatasetReader
from rasterio.warp import transform

from landcover._gdal import CPLE_BaseError, open_raster
from landcover._typing import Float64Array
from landcover.errors import ImageError

# For good and not by catch_warnings, which is not safe in threads: most pictures and all arrays lie nowhere.
warnings.filterwarnings("ignore", category=NotGeoreferencedWarning)


_UNIT_TOLERANCE = 0.01
_STEP_M = 100.0
_WGS84_RADIUS = 6_378_137.0
_WGS84_E2 = 0.00669437999014


@dataclass(frozen=True, slots=True)
class Georeference:
    """Where a raster lies: its coordinate reference system and the transform from (col, row) to it."""

    crs: CRS
    transform: Affine

    def points(self, cols: Float64Array, rows: Float64Array) -> tuple[Float64Array, Float64Array]:
        """Return x and y of positions in pixels, in arrays of their shape; the first pixel covers 0..1."""
        a, b, c, d, e, f = self.transform[:6]
        return a * cols + b * rows + c, d * cols + e * rows + f

    def pixels(self, x: Float64Array, y: Float64Array) -> tuple[Float64Array, Float64Array]:
        """Return the columns and rows at which points lie: the inverse of :meth:`points`."""
        return Georeference(self.crs, ~self.transform).points(x, y)

    def extent(self, height: int, width: int) -> tuple[float, float, float, float]:
        """Return left, bottom, right and top of a raster of this size."""
        x, y = self.points(np.array([0.0, 0, width, width]), np.array([0.0, height, 0, height]))
        return float(x.min()), float(y.min()), float(x.max()), float(y.max())

    def moved(self, row: int, col: int) -> "Georeference":
        """Return where the part of a raster lies whose first pixel is at this row and column."""
        a, b, c, d, e, f = self.transform[:6]
        corner = Affine(a, b, a * col + b * row + c, d, e, d * col + e * row + f)
        return Georeference(self.crs, corner)


def read_georeference(path: str | Path) -> Georeference | None:
    """Return the georeference of a raster from its header; None for any other file."""
    return read_header(path)[0]


def ground_sample_distance(path: str | Path) -> float | None:
    """Return metres per pixel of a georeferenced raster, see :func:`pixel_size`; None for any other file."""
    return read_header(path)[1]


def read_header(path: str | Path) -> tuple[Georeference | None, float | None]:
    """Return georeference and ground sample distance of a raster, which is opened once."""
    try:
        with open_raster(path) as source:
            place, size = georeference_of(source)[0], source.shape
    except (RasterioError, ImageError):
        return None, None
    return place, None if place is None else pixel_size(place, *size)


def georeference_of(source: DatasetReader) -> tuple[Georeference | None, str]:
    """Return where an open raster lies; where it does not say, None and the reason, as half a sentence."""
    try:
        crs = source.crs
    except (CRSError, RasterioError, CPLE_BaseError):
        crs = None
    grid = source.transform
    if grid.is_identity:
        points = "ground control points alone, which gdalwarp can apply" if source.gcps[0] else "no position"
        return None, f"it has {points}"
    if not crs:
        return None, "it has no coordinate reference system that can be read"
    a, b, c, d, e, f = grid[:6]
    sides = math.hypot(a, d) * math.hypot(b, e)
    if not all(map(math.isfinite, (c, f, sides))) or abs(a * e - b * d) <= 1e-9 * sides:
        return None, f"its geotransform {tuple(grid[:6])} gives pixels no area"
    place = Georeference(crs, grid)
    if crs.is_geographic:
        _, south, _, north = place.extent(*source.shape)
        pole, farthest = math.pi / 2 / float(crs.units_factor[1]), max(-south, north)
        if farthest > pole + math.hypot(d, e):  # a pixel centred on the pole reaches half a one beyond
            return None, f"its latitudes reach {farthest:.9g}, as where longitude and latitude are swapped"
    return place, ""


def pixel_size(place: Georeference, height: int, width: int) -> float | None:
    """Return metres per pixel: the geometric mean of the two sides of the pixel at the raster's centre.

    It holds whichever way the raster is turned. The unit of a projection is trusted where it is within 1 % of
    the distance on the ground, as in UTM and national grids, in metres or feet. Elsewhere (longitude and
    latitude, web Mercator off the equator) it is the distance on the WGS 84 ellipsoid.

    Args:
        place: Where the raster lies.
        height: Its rows.
        width: Its columns.

    Returns:
        Metres per pixel; None where the reference system is not tied to the Earth.
    """
    steps = ground_steps(place, np.array([width / 2]), np.array([height / 2]))
    if steps is None:
        return None
    ground = math.sqrt(np.hypot(steps[:, 0], steps[:, 1]).prod())
    nominal = nominal_size(place)
    return ground if nominal is None or abs(nominal / ground - 1) > _UNIT_TOLERANCE else nominal


def pixel_sides(place: Georeference, height: int, width: int) -> tuple[float, float] | None:
    """Return metres on the ground down and across the pixel at the raster's centre.

    In longitude and latitude a pixel is half as wide as high at 60 degrees.

    Args:
        place: Where the raster lies.
        height: Its rows.
        width: Its columns.

    Returns:
        Lengths of a step along the column and along the row; None where the reference system is not tied to
        the Earth.
    """
    steps = ground_steps(place, np.array([width / 2]), np.array([height / 2]))
    if steps is None:
        return None
    across, down = np.hypot(steps[:, 0, 0], steps[:, 1, 0]).tolist()
    return down, across


def nominal_size(place: Georeference) -> float | None:
    """Return metres per pixel as the unit of a projection has it; None where the unit is an angle."""
    if place.crs.is_geographic:
        return None
    a, b, _, d, e, _ = place.transform[:6]
    return math.sqrt(math.hypot(a, d) * math.hypot(b, e)) * float(place.crs.linear_units_factor[1])


def ground_steps(place: Georeference, cols: Float64Array, rows: Float64Array) -> Float64Array | None:
    """Return how far one pixel reaches on the ground, along the row and along the column.

    By central differences over about 100 m (one pixel where that is larger), so that the tolerance to which
    some projections are inverted, some 1e-4 m, does not count.

    Args:
        place: Where the raster lies.
        cols: float64 (N,), positions in pixels; the first pixel covers 0..1.
        rows: float64 (N,), likewise.

    Returns:
        float64 (2, 2, N): metres on WGS 84; first axis column step and row step, second axis east and north.
        None where the reference system is not tied to the Earth.
    """
    a, b, _, d, e, _ = place.transform[:6]
    try:
        unit = float(place.crs.units_factor[1]) * (_WGS84_RADIUS if place.crs.is_geographic else 1)
        span = max(1.0, _STEP_M / (unit * math.sqrt(abs(a * e - b * d))))
        x, y = place.points(
            np.add.outer(np.array([0.5, -0.5, 0, 0]) * span, cols),
            np.add.outer(np.array([0, 0, 0.5, -0.5]) * span, rows),
        )
        points = transform(place.crs, CRS.from_epsg(4326), x.ravel(), y.ravel())
    except (CRSError, RasterioError, CPLE_BaseError):
        return None
    lon, lat = np.radians(points).reshape(2, 4, -1)
    with np.errstate(invalid="ignore"):  # beyond the edge of a projection points are infinite
        middle = lat.mean(axis=0)
        turn = lon[::2] - lon[1::2]
        turn -= 2 * np.pi * np.rint(turn / (2 * np.pi))  # over the date line
        # Radii of curvature across the meridian and along it.
        bend = 1 - _WGS84_E2 * np.sin(middle) ** 2
        east = turn * _WGS84_RADIUS / np.sqrt(bend) * np.cos(middle)
        north = (lat[::2] - lat[1::2]) * _WGS84_RADIUS * (1 - _WGS84_E2) / bend**1.5
        steps = np.stack([east, north], axis=1) / span
    lengths = np.hypot(steps[:, 0], steps[:, 1])
    return steps if np.isfinite(lengths).all() and lengths.all() else None
