"""How much ground each class covers: of a whole map, and of polygons on it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio.windows
from rasterio.features import geometry_mask

from landcover._typing import BoolArray, Float64Array, UInt8Array
from landcover.errors import UsageError
from landcover.legend import Legend
from landcover.raster import Georeference


@dataclass(frozen=True, slots=True)
class ClassArea:
    """The area of one class.

    Attributes:
        name: The class.
        pixels: Number of its pixels.
        share: Fraction of the area with data, 0..1; of its pixels if the scale is unknown.
        hectares: Area on the ground, or None where no scale is known.

    Example:
        >>> import landcover as lc
        >>> lc.ClassArea("forest", pixels=400, share=0.25, hectares=0.01).name
        'forest'
    """

    name: str
    pixels: int
    share: float
    hectares: float | None


class ClassAreas:
    """Pixels and square metres of each class, counted strip by strip.

    Args:
        legend: The classes.
        row_areas: float64 (H,): square metres of a pixel in each row. None: no scale is known.
    """

    def __init__(self, legend: Legend, row_areas: Float64Array | None) -> None:
        self.legend = legend
        self.pixels = np.zeros(len(legend), np.int64)
        self.square_metres = np.zeros(len(legend))
        self.scaled = row_areas is not None
        self.row_areas = row_areas

    def add(self, start: int, index: UInt8Array, inside: BoolArray | None = None) -> None:
        """Count uint8 (n, W) class indices of rows from ``start``, where bool (n, W) ``inside``, if given."""
        areas = None if self.row_areas is None else self.row_areas[start : start + len(index)]
        alike = areas is None or areas.size == 0 or areas.min() == areas.max()
        for number in range(len(self.legend)):
            mask = index == number
            if inside is not None:
                mask &= inside
            if alike:
                count = int(np.count_nonzero(mask))
                self.pixels[number] += count
                if areas is not None:
                    self.square_metres[number] += count * float(areas[0])
            else:
                counts = np.count_nonzero(mask, axis=1)
                self.pixels[number] += int(counts.sum())
                self.square_metres[number] += float(counts @ areas)

    def table(self) -> list[ClassArea]:
        """Return the scored classes in the legend's order."""
        covered = self.square_metres if self.scaled else self.pixels
        total = float(covered.sum()) or 1.0
        return [
            ClassArea(
                self.legend.names[i],
                int(self.pixels[i]),
                float(covered[i]) / total,
                float(self.square_metres[i]) / 10_000 if self.scaled else None,
            )
            for i in self.legend.scored
        ]


class ZoneAreas:
    """The same for each of several polygons, which may overlap; a pixel belongs where its centre lies.

    Args:
        geometries: Polygons in the map's coordinates.
        names: Their names.
        georeference: CRS and transform of the map.
        size: Its height and width.
        areas: Its legend and areas of pixels.
    """

    def __init__(
        self,
        geometries: Sequence[Any],
        names: Sequence[str],
        georeference: Georeference,
        size: tuple[int, int],
        areas: ClassAreas,
    ) -> None:
        self.zones = {name: ClassAreas(areas.legend, areas.row_areas) for name in names}
        self._transform = georeference.transform
        self._parts = [
            (name, geometry, *_pixel_bounds(geometry, georeference, size))
            for name, geometry in zip(names, geometries, strict=True)
        ]

    def add(self, start: int, index: UInt8Array) -> None:
        """Count uint8 (n, W) class indices of rows from ``start``."""
        for name, geometry, rows, cols in self._parts:
            top, bottom = max(rows.start, start), min(rows.stop, start + len(index))
            if top >= bottom or cols.start >= cols.stop:
                continue
            window = rasterio.windows.Window(cols.start, top, cols.stop - cols.start, bottom - top)
            place = rasterio.windows.transform(window, self._transform)
            inside = geometry_mask([geometry], (window.height, window.width), place, invert=True)
            self.zones[name].add(top, index[top - start : bottom - start, cols], inside)


def read_zones(
    path: Path,
    column: str | None,
    georeference: Georeference,
    size: tuple[int, int],
    areas: ClassAreas,
) -> ZoneAreas:
    """Read the polygons to count areas in.

    Args:
        path: A file of polygons.
        column: What names them; None numbers them from 1.
        georeference: CRS and transform of the map.
        size: Its height and width.
        areas: Its legend and areas of pixels.

    Raises:
        DataError: If the file is not a file of polygons.
        UsageError: If it does not have the column, or a polygon has no name or that of another.
    """
    from landcover.io.vectors import read_features  # needs an extra

    features = read_features(path, georeference.crs)
    if features.kind != "polygon":
        raise UsageError(f"{path} holds points; expected polygons to count areas in.")
    names = [str(number) for number in range(1, len(features.geometries) + 1)]
    if column is not None:
        if column not in features.attributes:
            raise UsageError(
                f"{path} has no column {column!r}; it has {', '.join(sorted(features.attributes)) or 'none'}."
            )
        values = features.attributes[column].tolist()
        if any(value is None or value != value or value == "" for value in values):  # NaN is not itself
            raise UsageError(
                f"A polygon of {path} has no {column!r}; name it, or leave the column out: zones are "
                "numbered then."
            )
        names = [str(value) for value in values]
        if len(set(names)) < len(names):
            raise UsageError(
                f"Several polygons of {path} have one {column!r}; name them apart, or leave it out."
            )
    return ZoneAreas(list(features.geometries), names, georeference, size, areas)


def _pixel_bounds(geometry: Any, place: Georeference, size: tuple[int, int]) -> tuple[slice, slice]:
    """Rows and columns of the map that a geometry may touch."""
    height, width = size
    left, bottom, right, top = geometry.bounds
    cols, rows = place.pixels(np.array([left, left, right, right]), np.array([bottom, top, bottom, top]))
    return (
        slice(int(np.clip(np.floor(rows.min()), 0, height)), int(np.clip(np.ceil(rows.max()), 0, height))),
        slice(int(np.clip(np.floor(cols.min()), 0, width)), int(np.clip(np.ceil(cols.max()), 0, width))),
    )
