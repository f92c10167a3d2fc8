"""The part of a scene that is read: a box, polygons, or both."""

import math
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import numpy.typing as npt
from affine import Affine
from rasterio.crs import CRS
from rasterio.errors import CRSError, RasterioError
from rasterio.features import geometry_mask
from rasterio.warp import transform

from landcover._gdal import CPLE_BaseError
from landcover._typing import BoolArray, Float64Array
from landcover.errors import DataError, UsageError
from landcover.extras import needs
from landcover.raster.georeference import Georeference, Place
from landcover.values import BoundingBox
from landcover.windows import Window

Polygons = npt.NDArray[np.object_]
"""Polygons on the pixel grid of a scene: object (N,), shapely's, in columns and rows."""

Box = tuple[float, float, float, float]
"""Left, bottom, right, top in a CRS; or first col and row, last col and row in pixels."""

_ROUNDING_PX = 1e-6
_FAR = 1e200
"""Beyond all coordinates, and pixels of them are still numbers."""
_POLYGON = 3


def inside_polygons(polygons: Polygons, window: Window) -> BoolArray:
    """Return which pixels of a window of the scene have their centre in a polygon: bool (h, w)."""
    import shapely

    shape, corner = (window.height, window.width), Affine.translation(window.col, window.row)
    right, bottom = window.col + window.width, window.row + window.height
    margin = window.col - 1, window.row - 1, right + 1, bottom + 1
    # Only polygons nearby, because rasterio iterates over all points in Python.
    near = shapely.get_parts(shapely.clip_by_rect(polygons, *margin))
    near = near[shapely.get_type_id(near) == _POLYGON]
    if not len(near):
        return np.zeros(shape, bool)
    inside: BoolArray = geometry_mask(near, shape, corner, invert=True)
    return inside


def part_of(
    name: str,
    place: Place,
    bbox: Sequence[float] | None,
    aoi: str | Path | None,
    layer: str | None = None,
) -> tuple[Window, Polygons | None]:
    """Return the window of a scene that a box and polygons touch, outward to whole pixels, and the polygons.

    The box is left, bottom, right, top in the scene's CRS; ``aoi`` is a vector file of polygons in any CRS.

    Raises:
        UsageError: If the scene is not georeferenced, or the box is not valid.
        DataError: If box or polygons do not touch the scene, or the file cannot be read or has no polygons.
    """
    window, polygons = Window(0, 0, *place.size), None
    if bbox is None and aoi is None:
        return window, None
    if not isinstance(place, Georeference):
        raise UsageError(
            f"{name} is not georeferenced; --bbox and --aoi cannot be used. Leave them out, or give it a "
            "coordinate reference system first."
        )
    if bbox is not None:
        x, y = np.clip(np.meshgrid(*(BoundingBox.parse(bbox)[i::2] for i in (0, 1))), -_FAR, _FAR)
        cols, rows = place.pixels(x, y)
        touched = _touched((cols.min(), rows.min(), cols.max(), rows.max()), window)
        if touched is None:
            raise _outside(f"The box {_spelled(bbox)}", name, place, window)
        window = touched
    if aoi is not None:
        with needs("vector"):
            import shapely
        from landcover.io.vectors import read_features

        features = read_features(aoi, place.crs, layer=layer, longitude=place.middle_longitude)
        if features.kind != "polygon":
            raise DataError(f"{aoi} contains points; expected polygons, the area to map.")
        polygons = shapely.transform(
            features.geometries, lambda points: np.stack(place.pixels(*points.T), axis=1)
        )
        touched = _touched(shapely.total_bounds(polygons).tolist(), window)
        if touched is None:
            extent = _spelled(shapely.total_bounds(features.geometries))
            hint = swapped_axes(shapely.total_bounds(features.geometries), place)
            raise _outside(f"The area {aoi}, which covers {extent},", name, place, window, hint)
        window = touched
    return window, polygons


def _touched(pixels: Box, window: Window) -> Window | None:
    """Return the whole pixels of a window that a box of columns and rows touches; None if there are none."""
    left = max(math.floor(pixels[0] + _ROUNDING_PX), window.col)
    top = max(math.floor(pixels[1] + _ROUNDING_PX), window.row)
    right = min(math.ceil(pixels[2] - _ROUNDING_PX), window.col + window.width)
    bottom = min(math.ceil(pixels[3] - _ROUNDING_PX), window.row + window.height)
    return Window(top, left, bottom - top, right - left) if right > left and bottom > top else None


def swapped_axes(bounds: Sequence[float] | Float64Array, place: Georeference) -> str:
    """Return a sentence if a box of coordinates is on a raster when x and y are swapped; else nothing.

    ``bounds`` are those of one box, or float64 (N, 4) of several, of which one is enough. The axes may have
    been swapped in the raster's CRS, or as latitude and longitude before.
    """
    boxes = np.atleast_2d(np.asarray(bounds, np.float64))
    x, y = (boxes[:, 0] + boxes[:, 2]) / 2, (boxes[:, 1] + boxes[:, 3]) / 2
    swapped = [np.stack([y, x])]
    with suppress(CRSError, RasterioError, CPLE_BaseError):
        wgs84 = CRS.from_epsg(4326)
        lon, lat = transform(place.crs, wgs84, x.tolist(), y.tolist())
        swapped.append(np.array(transform(wgs84, place.crs, lat, lon)))
    cols, rows = place.pixels(*np.concatenate(swapped, axis=1))
    if (((cols >= 0) & (cols <= place.width)) & ((rows >= 0) & (rows <= place.height))).any():
        return " Its axes look swapped: expected x or longitude first. Run: ogr2ogr -swapxy OUT.gpkg IN"
    return ""


def _outside(what: str, name: str, place: Georeference, window: Window, hint: str = "") -> DataError:
    extent = place.part(window).extent()
    return DataError(
        f"{what} does not touch {name}, of which {_spelled(extent)} is read (left, bottom, right, top in "
        f"{place.crs.to_string()[:60]}).{hint}"
    )


def _spelled(box: Sequence[float]) -> str:
    return ", ".join(f"{value:.9g}" for value in box)
