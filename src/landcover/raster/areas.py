"""How much ground each pixel covers."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from rasterio.crs import CRS

from landcover._typing import Float64Array
from landcover.raster.georeference import Georeference, ground_steps, nominal_size, pixel_size

_WGS84 = (6_378_137.0, 298.257223563)
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(3)


def row_areas(georeference: Georeference, height: int, width: int) -> Float64Array | None:
    """Return the true area of a pixel of each row.

    - Longitude and latitude: the area between two parallels on the reference system's own ellipsoid, in
      closed form, exact but for rounding (1e-8 of a pixel of half a metre).
    - Projections whose unit is the metre on the ground within 1 % (see
      :func:`~landcover.raster.georeference.pixel_size`): the projection's own area, which is then within 2 %
      of the true one; it is what other programs show, too.
    - All others, such as web Mercator, and rotated grids of longitude and latitude: the area on WGS 84 by the
      local scale, averaged over each row (three-point Gauss; relative error below 1e-5 for rows of 100 km).

    Args:
        georeference: Where the raster lies.
        height: Its rows.
        width: Its columns.

    Returns:
        float64 (height,), square metres; None where the reference system is not tied to the Earth, so that
        areas can only be told in pixels.
    """
    a, b, _, d, e, f = georeference.transform[:6]
    if georeference.crs.is_geographic and d == 0:
        unit = float(georeference.crs.units_factor[1])
        edges = unit * (f + e * np.arange(height + 1))
        zones: Float64Array = np.abs(np.diff(_zone(edges, *_ellipsoid(georeference.crs)))) * abs(a) * unit
        return zones
    size = pixel_size(georeference, height, width)
    if size is None:
        return None
    if size == (nominal := nominal_size(georeference)):
        shear = abs(a * e - b * d) / (np.hypot(a, d) * np.hypot(b, e))
        return np.full(height, nominal**2 * shear)
    cols, rows = np.meshgrid((_NODES + 1) / 2 * width, np.arange(height) + 0.5)
    steps = ground_steps(georeference, cols.ravel(), rows.ravel())
    if steps is None:
        return None
    area: Float64Array = np.abs(steps[0, 0] * steps[1, 1] - steps[0, 1] * steps[1, 0])
    mean: Float64Array = area.reshape(height, -1) @ (_WEIGHTS / 2)
    return mean


def _zone(latitude: Float64Array, radius: float, inverse_flattening: float) -> Float64Array:
    """Area from the equator to a latitude in radians, for one radian of longitude, in square metres.

    Source: Snyder, Map Projections: A Working Manual (1987): a² q / 2 with the q of his equation 3-12.
    """
    sine = np.sin(np.clip(latitude, -np.pi / 2, np.pi / 2))
    flattening = 1 / inverse_flattening if inverse_flattening else 0.0
    e2 = flattening * (2 - flattening)
    if e2 == 0:
        return radius**2 * sine
    e = np.sqrt(e2)
    half = radius**2 * (1 - e2) / 2
    zone: Float64Array = half * (sine / (1 - e2 * sine**2) + np.arctanh(e * sine) / e)
    return zone


def _ellipsoid(crs: CRS) -> tuple[float, float]:
    """Semi-major axis in metres and inverse flattening (0: a sphere); WGS 84's where none is told plainly."""
    found = _find(crs.to_dict(projjson=True), "ellipsoid")
    match found:
        case {"radius": float() | int() as radius}:
            return float(radius), 0.0
        case {"semi_major_axis": float() | int() as major, "inverse_flattening": float() | int() as inverse}:
            return float(major), float(inverse)
        case {"semi_major_axis": float() | int() as major, "semi_minor_axis": float() | int() as minor}:
            return float(major), 0.0 if major == minor else major / (major - minor)
    return _WGS84


def _find(node: Any, key: str) -> Any:
    """Return what stands under ``key`` in nested mappings and lists, where it is first; else None."""
    if isinstance(node, Mapping):
        if key in node:
            return node[key]
        node = list(node.values())
    if isinstance(node, list):
        return next((found for part in node if (found := _find(part, key)) is not None), None)
    return None
