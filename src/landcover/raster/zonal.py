"""Areas of classes: of a whole map, and of polygons on it."""

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
    """Areas in several polygons, which may overlap; a pixel belongs to a polygon that contains its centre.

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
        self._parts = []
        for name, geometry in zip(names, geometries, strict=True):
            x, y = np.meshgrid(geometry.bounds[::2], geometry.bounds[1::2])
            cols, rows = georeference.pixels(x, y)
            top, bottom = (
                np.clip([np.floor(rows.min()), np.ceil(rows.max())], 0, size[0]).astype(int).tolist()
            )
            left, right = (
                np.clip([np.floor(cols.min()), np.ceil(cols.max())], 0, size[1]).astype(int).tolist()
            )
            self._parts.append((name, geometry, range(top, bottom), slice(left, right)))

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
        raise UsageError(f"{path} contains points; expected polygons to count areas in.")
    names = [str(number) for number in range(1, len(features.geometries) + 1)]
    if column is not None:
        if column not in features.attributes:
            raise UsageError(
                f"{path} has no column {column!r}; it has {', '.join(sorted(features.attributes)) or 'none'}."
            )
        values = features.attributes[column].tolist()
        if any(value is None or value != value or value == "" for value in values):  # NaN is not itself
            raise UsageError(
                f"A polygon of {path} has no {column!r}. Name it, or leave out --zone-column: zones are then "
                "numbered."
            )
        names = [str(value) for value in values]
        if len(set(names)) < len(names):
            raise UsageError(
                f"Several polygons of {path} have one {column!r}. Rename them, or leave out --zone-column."
            )
    return ZoneAreas(list(features.geometries), names, georeference, size, areas)
