"""Where a raster is, and size and area of its pixels on the ground."""

import math
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
from affine import Affine
from rasterio.crs import CRS
from rasterio.errors import CRSError, RasterioError
from rasterio.io import DatasetReader
from rasterio.transform import from_gcps
from rasterio.warp import transform

from landcover._gdal import CPLE_BaseError, CPLE_NotSupportedError, open_raster
from landcover._typing import Float64Array
from landcover.errors import ImageError, foreign_reason
from landcover.windows import Window

_UNIT_TOLERANCE = 0.01
_STEP_M = 100.0
_LEAST_POINTS = 3
_POINT_ERROR_PX = 0.5
_NO_AREA = 1e-18
_SQUARE = 0.01
"""Sides of a pixel that differ by less are taken as equal."""
_WGS84_RADIUS, _WGS84_INVERSE_FLATTENING = 6_378_137.0, 298.257223563
_WGS84_E2 = 0.00669437999014
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(3)


@dataclass(frozen=True, slots=True)
class Place:
    """Size of a raster in pixels, and where it is: a :class:`Georeference` if that is known.

    Attributes:
        transform: From (col, row) to coordinates, here of an unknown CRS; None: there are none.
    """

    height: int
    width: int
    transform: Affine | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.height, self.width

    @property
    def georeference(self) -> "Georeference | None":
        """The place itself if its CRS is known, else None."""
        return self if isinstance(self, Georeference) else None

    @property
    def gsd(self) -> float | None:
        """Metres per pixel; None: not known."""
        return None

    def sides(self, gsd: float) -> tuple[float, float]:
        """Return metres down and across a pixel, whose geometric mean is ``gsd``."""
        return gsd, gsd

    def row_areas(self) -> Float64Array | None:
        """Return the true area of a pixel of each row, float64 (height,), square metres; None: not known."""
        return None

    def part(self, window: Window) -> Self:
        """Return the place of a window of the raster, which may reach beyond it."""
        row, col, height, width = window
        if self.transform is None:
            return replace(self, height=height, width=width)
        a, b, c, d, e, f = self.transform[:6]
        corner = Affine(a, b, a * col + b * row + c, d, e, d * col + e * row + f)
        return replace(self, height=height, width=width, transform=corner)


@dataclass(frozen=True, slots=True)
class Georeference(Place):
    """A place with a coordinate reference system, to which the transform leads."""

    transform: Affine
    crs: CRS

    def points(self, cols: Float64Array, rows: Float64Array) -> tuple[Float64Array, Float64Array]:
        """Return x and y of positions in pixels, in arrays of their shape; the first pixel covers 0..1."""
        return _transformed(self.transform, cols, rows)

    def pixels(self, x: Float64Array, y: Float64Array) -> tuple[Float64Array, Float64Array]:
        """Return columns and rows of points: the inverse of :meth:`points`."""
        return _transformed(~self.transform, x, y)

    def corners(self) -> Float64Array:
        """Return x and y of the corners, in turn: float64 (4, 2)."""
        cols, rows = (
            np.array([0.0, self.width, self.width, 0.0]),
            np.array([0.0, 0.0, self.height, self.height]),
        )
        return np.stack(self.points(cols, rows), axis=1)

    def extent(self) -> tuple[float, float, float, float]:
        """Return left, bottom, right and top."""
        x, y = self.corners().T
        return float(x.min()), float(y.min()), float(x.max()), float(y.max())

    @property
    def is_on_earth(self) -> bool:
        """Whether a transformation leads to longitude and latitude; none does from a site's own grid."""
        x, y = self.points(np.array([self.width / 2]), np.array([self.height / 2]))
        try:
            transform(self.crs, CRS.from_epsg(4326), x, y)
        except CPLE_NotSupportedError:
            return False
        except (RasterioError, CPLE_BaseError):  # there is one, and the point is outside its domain
            return True
        return True

    @property
    def middle_longitude(self) -> float | None:
        """Longitude of the middle, in the unit of the CRS; None if it is projected."""
        if not self.crs.is_geographic:
            return None
        left, _, right, _ = self.extent()
        return (left + right) / 2

    @property
    def gsd(self) -> float | None:
        """Metres per pixel: the geometric mean of the two sides of the pixel at the centre.

        The unit of a projection is trusted where it is within 1 % of the distance on the ground, as in UTM
        and national grids, in metres or feet. Elsewhere (longitude and latitude, web Mercator off the
        equator) it is the distance on the WGS 84 ellipsoid. Rotated rasters are supported. None where the
        reference system is not tied to the Earth, unless it is the grid of a site, whose unit is trusted.
        """
        sides, nominal = self._ground_sides(), self._nominal_gsd()
        if sides is None:
            return None if self.crs.is_projected else nominal
        ground = math.sqrt(sides[0] * sides[1])
        return ground if nominal is None or abs(nominal / ground - 1) > _UNIT_TOLERANCE else nominal

    def sides(self, gsd: float) -> tuple[float, float]:
        """Return metres down and across a pixel, whose geometric mean is ``gsd``.

        The unit of a projection is trusted; the ratio of the sides is that on the ground.
        """
        sides = self._ground_sides()
        if sides is None or abs(sides[0] / sides[1] - 1) < _SQUARE:
            return gsd, gsd
        ratio = math.sqrt(sides[0] / sides[1])
        return gsd * ratio, gsd / ratio

    def _ground_sides(self) -> tuple[float, float] | None:
        """Return metres on the ground down and across the pixel at the centre.

        In longitude and latitude a pixel is half as wide as high at 60 degrees. None where the reference
        system is not tied to the Earth.
        """
        steps = self._ground_steps(np.array([self.width / 2]), np.array([self.height / 2]))
        if steps is None:
            return None
        across, down = np.hypot(steps[:, 0, 0], steps[:, 1, 0]).tolist()
        return down, across

    def _nominal_gsd(self) -> float | None:
        """Return metres per pixel by the unit of a projection or of a site's grid; None for other units."""
        if self.crs.is_projected:
            unit = float(self.crs.linear_units_factor[1])
        elif self.crs.to_wkt().startswith(("LOCAL_CS", "ENGCRS")):
            unit = float(self.crs.units_factor[1])
        else:
            return None
        a, b, _, d, e, _ = self.transform[:6]
        return math.sqrt(math.hypot(a, d) * math.hypot(b, e)) * unit

    def _ground_steps(self, cols: Float64Array, rows: Float64Array) -> Float64Array | None:
        """Return the length of a pixel on the ground, along the row and along the column.

        By central differences over about 100 m (one pixel where that is larger): the tolerance to which some
        projections are inverted, about 1e-4 m, has no influence. Positions are float64 (N,); the first pixel
        covers 0..1.

        Returns:
            float64 (2, 2, N): metres on WGS 84; first axis column step and row step, second axis east and
            north. None where the reference system is not tied to the Earth.
        """
        a, b, _, d, e, _ = self.transform[:6]
        try:
            unit = float(self.crs.units_factor[1]) * (_WGS84_RADIUS if self.crs.is_geographic else 1)
            span = max(1.0, _STEP_M / (unit * math.sqrt(abs(a * e - b * d))))
            x, y = self.points(
                np.add.outer(np.array([0.5, -0.5, 0, 0]) * span, cols),
                np.add.outer(np.array([0, 0, 0.5, -0.5]) * span, rows),
            )
            points = transform(self.crs, CRS.from_epsg(4326), x.ravel(), y.ravel())
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

    def row_areas(self) -> Float64Array | None:
        """Return the true area of a pixel of each row.

        - Longitude and latitude: the area between two parallels on the reference system's own ellipsoid, in
          closed form, exact but for rounding (1e-8 of a pixel of half a metre).
        - Projections whose unit is the metre on the ground within 1 % (see :attr:`gsd`): the projection's
          own area, which is then within 2 % of the true one; it is what other programs show, too.
        - All others, such as web Mercator, and rotated grids of longitude and latitude: the area on WGS 84 by
          the local scale, averaged over each row (three-point Gauss; relative error below 1e-5 for rows of
          100 km).

        Returns:
            float64 (height,), square metres; None where the reference system is not tied to the Earth.
        """
        a, b, _, d, row_step, f = self.transform[:6]
        if self.crs.is_geographic and d == 0:
            unit = float(self.crs.units_factor[1])
            edges = unit * (f + row_step * np.arange(self.height + 1))
            # Area from the equator to a latitude for one radian of longitude: a² q / 2 with the q of equation
            # 3-12 in Snyder, Map Projections: A Working Manual (1987).
            # The WKT has the semi-major axis, in metres or its own unit, and the inverse flattening, which is
            # 0 for a sphere.
            match = re.search(
                r'(?:SPHEROID|ELLIPSOID)\["(?:[^"]|"")*",([\d.]+),([\d.]+)(?:,LENGTHUNIT\["[^"]*",([\d.]+))?',
                self.crs.to_wkt(),
            )
            axis, inverse, metre = (
                (float(number or 1) for number in match.groups())
                if match
                else (_WGS84_RADIUS, _WGS84_INVERSE_FLATTENING, 1.0)
            )
            radius = axis * metre
            flattening = 1 / inverse if inverse else 0.0
            e2 = flattening * (2 - flattening)
            sine = np.sin(np.clip(edges, -np.pi / 2, np.pi / 2))
            if e2 == 0:
                zone = radius**2 * sine
            else:
                e = np.sqrt(e2)
                zone = radius**2 * (1 - e2) / 2 * (sine / (1 - e2 * sine**2) + np.arctanh(e * sine) / e)
            strips: Float64Array = np.abs(np.diff(zone)) * abs(a) * unit
            return strips
        gsd = self.gsd
        if gsd is None:
            return None
        if gsd == self._nominal_gsd():
            shear = abs(a * row_step - b * d) / (np.hypot(a, d) * np.hypot(b, row_step))
            return np.full(self.height, gsd**2 * shear)
        cols, rows = np.meshgrid((_NODES + 1) / 2 * self.width, np.arange(self.height) + 0.5)
        steps = self._ground_steps(cols.ravel(), rows.ravel())
        if steps is None:
            return None
        area: Float64Array = np.abs(steps[0, 0] * steps[1, 1] - steps[0, 1] * steps[1, 0])
        mean: Float64Array = area.reshape(self.height, -1) @ (_WEIGHTS / 2)
        return mean


def _transformed(grid: Affine, x: Float64Array, y: Float64Array) -> tuple[Float64Array, Float64Array]:
    a, b, c, d, e, f = grid[:6]
    return a * x + b * y + c, d * x + e * y + f


class Header(NamedTuple):
    """What the header of a raster states, but its bands; nothing for a file that is not a raster.

    Attributes:
        place: Where it is.
        reason: Why it has no georeference, a clause such as "it has no CRS".
        dtypes: Types of its bands.
    """

    place: Place | None = None
    reason: str = ""
    dtypes: tuple[str, ...] = ()

    @property
    def georeference(self) -> Georeference | None:
        """The place of a raster whose CRS is known."""
        return None if self.place is None else self.place.georeference

    @property
    def gsd(self) -> float | None:
        """Metres per pixel, if known."""
        return None if self.place is None else self.place.gsd


def read_header(path: str | Path, crs: CRS | None = None) -> Header:
    """Return the header of a raster, which is opened once; ``crs`` as for :func:`place_of`."""
    try:
        with open_raster(path) as source:
            return Header(*place_of(source, crs), tuple(source.dtypes))
    except (RasterioError, ImageError):
        return Header()
    except Exception as error:
        if foreign_reason(error) is None:
            raise
        return Header()


def place_of(source: DatasetReader, declared: CRS | None = None) -> tuple[Place, str]:
    """Return where an open raster is, and the reason if it is not georeferenced, else an empty text.

    ``declared`` is the CRS of its coordinates; None: that of the file.
    """
    found = _georeference_of(source, declared)
    if isinstance(found, Georeference):
        return found, ""
    is_bare = not source.transform.is_identity and not _crs_of(source)
    return Place(source.height, source.width, source.transform if is_bare else None), found


def _crs_of(source: DatasetReader) -> CRS | None:
    """Return the CRS of an open raster; None also where it cannot be read."""
    try:
        return source.crs
    except (CRSError, RasterioError, CPLE_BaseError):
        return None


def _georeference_of(source: DatasetReader, declared: CRS | None) -> Georeference | str:
    """Return the georeference of an open raster, or why there is none.

    Ground control points that lie on a grid within half a pixel are a georeference.
    """
    try:
        points, points_crs = source.gcps
        crs = declared or _crs_of(source) or points_crs
    except (CRSError, RasterioError, CPLE_BaseError):
        crs, points = declared, []
    grid = source.transform
    if grid.is_identity and len(points) >= _LEAST_POINTS:
        grid = from_gcps(points)
        cols, rows = np.array([(point.col, point.row) for point in points]).T
        x, y = np.array([(point.x, point.y) for point in points]).T
        if abs(grid.determinant) < _NO_AREA:
            return "its ground control points are on a line"
        errors = np.subtract(_transformed(~grid, x, y), (cols, rows))
        if not np.abs(errors).max() <= _POINT_ERROR_PX:
            return f"its ground control points are not on a grid. Run: gdalwarp -tps {source.name} OUT.tif"
    if grid.is_identity:
        if source.rpcs is not None:
            return f"it has RPCs alone. Run: gdalwarp -rpc -t_srs EPSG:4326 {source.name} OUT.tif"
        if points:
            return f"it has {len(points)} ground control points; expected at least {_LEAST_POINTS}"
        return "it has no position"
    if not crs:
        return "it has a position but no coordinate reference system that can be read. Pass --crs EPSG:CODE"
    return checked_georeference(source.height, source.width, grid, crs)


def checked_georeference(height: int, width: int, grid: Affine, crs: CRS) -> Georeference | str:
    """Return a georeference, or why a grid and a CRS are none."""
    if not crs.is_geographic and not crs.is_projected and crs.to_wkt().startswith("GEOCCS"):
        return "its coordinates are geocentric"
    a, b, c, d, e, f = grid[:6]
    sides = math.hypot(a, d) * math.hypot(b, e)
    if not all(map(math.isfinite, (c, f, sides))) or abs(a * e - b * d) <= 1e-9 * sides:
        return f"its geotransform {tuple(grid[:6])} gives pixels no area"
    place = Georeference(height, width, grid, crs)
    if crs.is_geographic:
        _, south, _, north = place.extent()
        pole, farthest = math.pi / 2 / float(crs.units_factor[1]), max(-south, north)
        if farthest > pole + math.hypot(d, e):  # a pixel centred on the pole reaches half a one beyond
            return f"its latitudes reach {farthest:.9g}, as where longitude and latitude are swapped"
    return place
