"""Overlay of truth and map: the true and the mapped class of each unit, counted."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from rasterio.enums import Resampling
from rasterio.features import geometry_mask
from rasterio.vrt import WarpedVRT

from landcover._typing import Float64Array, UInt8Array
from landcover.evaluation.truth import Truth
from landcover.extras import needs
from landcover.io.vectors import Geometries, reproject
from landcover.legend import NODATA
from landcover.metrics import ConfusionMatrix
from landcover.raster import Georeference
from landcover.raster.classmap import ClassMap
from landcover.windows import Window

with needs("vector"):
    import shapely

_TILE_PX = 1024
_TOLERANCE_PX = 1e-4
"""Largest error of GDAL's interpolated coordinates in pixels; its default is an eighth."""

_FAR = 2.0**40
"""Outside every raster, and representable as an integer."""


@dataclass
class Tally:
    """The counts of a comparison of truth and map.

    Attributes:
        matrix: The units that have a known true class and a class on the map.
        unknown: Units whose true class is the unknown one.
        off_map: Units of a known class where the map has none: outside it, or on its nodata.
        conflicting: Pixels that polygons of different classes claim; they are not units.
        moved: Points whose class at sampling time differs from the map's class.
    """

    matrix: ConfusionMatrix
    unknown: int = 0
    off_map: int = 0
    conflicting: int = 0
    moved: int = 0

    def add(self, truth: UInt8Array, mapped: UInt8Array) -> None:
        """Count units: uint8 (H, W) each, class indices of one legend, NODATA for no unit or no map."""
        unknown = truth == self.matrix.legend.unknown
        off_map = (truth != NODATA) & ~unknown & (mapped == NODATA)
        self.unknown += int(np.count_nonzero(unknown))
        self.off_map += int(np.count_nonzero(off_map))
        self.matrix.update(np.where(unknown | off_map, np.uint8(NODATA), truth), mapped)


def count_points(
    strips: Iterable[tuple[int, UInt8Array]], truth: Truth, place: Georeference, tally: Tally
) -> None:
    """Count points, each with the mapped class of its pixel.

    Args:
        strips: First row and uint8 (n, W) classes of the row blocks of a map, from top to bottom.
        truth: The points, in the map's CRS.
        place: Georeference of the map.
        tally: Receives the counts.
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
        corner = place.moved(start, 0)
        near = np.sort(tree.query(_outline(corner, *strip.shape)))
        if near.size:
            labels = np.full(strip.shape, NODATA, np.uint8)
            conflicts = np.zeros(strip.shape, np.bool_)
            for label in np.unique(truth.labels[near]):
                polygons = truth.geometries[near[truth.labels[near] == label]]
                inside = geometry_mask(polygons, strip.shape, corner.transform, invert=True)
                conflicts |= inside & (labels != NODATA)
                labels[inside] = label
            labels[conflicts] = NODATA
            tally.conflicting += int(np.count_nonzero(conflicts))
            tally.add(labels, strip)


def count_raster(mapped: ClassMap, truth: ClassMap, tally: Tally) -> None:
    """Count the pixels of a raster, each with the map's class at its centre (nearest neighbour).

    Only the part of the raster that may overlap the map is read, by tiles of 1024 pixels.

    Raises:
        DataError: If the map's outline cannot be projected into the raster's CRS.
        MaskError: If either is damaged or contains values that are not classes.
    """
    outline = np.array([_outline(mapped.place, mapped.height, mapped.width)], object)
    cols, rows = _pixels(reproject(outline, mapped.place.crs, truth.place.crs), truth.place)
    # One pixel of margin: projected edges are curved between their vertices.
    top, bottom = (int(np.clip(end, 0, truth.height)) for end in (rows.min() - 1, rows.max() + 2))
    left, right = (int(np.clip(end, 0, truth.width)) for end in (cols.min() - 1, cols.max() + 2))
    with WarpedVRT(
        mapped.source,
        nodata=mapped.nodata,
        src_nodata=mapped.nodata,
        crs=truth.place.crs,
        transform=truth.place.transform,
        height=truth.height,
        width=truth.width,
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


def _outline(place: Georeference, height: int, width: int) -> shapely.Polygon:
    corners = place.points(np.array([0.0, width, width, 0]), np.array([0.0, 0, height, height]))
    return shapely.Polygon(np.stack(corners, axis=1))
