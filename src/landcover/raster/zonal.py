"""Areas of classes: of a whole map, and of polygons on it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import rasterio.windows
from affine import Affine
from rasterio.features import geometry_mask

from landcover._typing import BoolArray, Float64Array, UInt8Array
from landcover.errors import DataError, UsageError
from landcover.legend import Legend
from landcover.raster import Georeference
from landcover.raster.extent import swapped_axes

_BLOCK_PX = 1 << 18
"""Pixels that are counted at a time, so that they stay in the processor's cache."""


@dataclass(frozen=True, slots=True)
class ClassArea:
    """The area of one class.

    Attributes:
        name: The class.
        pixels: Number of its pixels.
        share: Fraction of the area with data, 0..1; of its pixels if the scale is unknown.
        hectares: Area on the ground, or None where no scale is known.

    Example:
        >>> lc.ClassArea("forest", pixels=400, share=0.25, hectares=0.01).name
        'forest'
    """

    name: str
    pixels: int
    share: float
    hectares: float | None


class _Zone(NamedTuple):
    """A polygon on a map, the map's transform, and the rows and columns of the map around it."""

    polygon: Any
    transform: Affine
    rows: range
    cols: range


class ClassAreas:
    """Pixels and square metres of each class, counted strip by strip: of a map, and of zones on it.

    ``row_areas``, float64 (H,), are square metres of a pixel in each row; None: no scale is known.

    Attributes:
        zones: Areas in polygons by name, see :meth:`add_zones`.
        nodata: Pixels of a zone that are on the map, but have no class.
        zone: Where a zone is; None for a map.
        whole: Pixels of a zone's whole polygon, also off the map; 0 for a map.
    """

    def __init__(self, legend: Legend, row_areas: Float64Array | None) -> None:
        self.legend = legend
        self.pixels = np.zeros(len(legend), np.int64)
        self.square_metres = np.zeros(len(legend))
        self.scaled = row_areas is not None
        self.row_areas = row_areas
        self.zones: dict[str, ClassAreas] = {}
        self.nodata = 0
        self.zone: _Zone | None = None
        self.whole = 0.0

    def add_zones(
        self,
        path: Path,
        column: str | None,
        georeference: Georeference,
        layer: str | None = None,
    ) -> None:
        """Also count areas in polygons, which may overlap; a pixel is in a polygon that contains its centre.

        ``column`` names them; without it they are numbered from 1.
        """
        from landcover.io.vectors import read_features  # needs an extra

        features = read_features(
            path,
            georeference.crs,
            layer=layer,
            longitude=georeference.middle_longitude,
            layer_option="--zones-layer",
        )
        if features.kind != "polygon":
            raise UsageError(f"{path} contains points; expected polygons to count areas in.")
        names = [str(number) for number in range(1, len(features.geometries) + 1)]
        if column is not None:
            if column not in features.attributes:
                known = ", ".join(sorted(features.attributes)) or "none"
                raise UsageError(f"{path} has no column {column!r}; it has {known}.")
            values = features.attributes[column].tolist()
            if any(value is None or value != value or value == "" for value in values):  # NaN is not itself
                raise UsageError(
                    f"A polygon of {path} has no {column!r}. Name it, or leave out --zone-column: zones are "
                    "then numbered."
                )
            names = [str(value) for value in values]
            if len(set(names)) < len(names):
                raise UsageError(
                    f"{path} has several polygons of one {column!r}. Rename them, or leave out --zone-column."
                )
        overlaps = False
        for name, geometry in zip(names, features.geometries, strict=True):
            x, y = np.meshgrid(geometry.bounds[::2], geometry.bounds[1::2])
            across, down = georeference.pixels(x, y)
            rows, cols = (
                range(*np.clip([np.floor(at.min()), np.ceil(at.max())], 0, length).astype(int).tolist())
                for at, length in zip((down, across), georeference.size, strict=True)
            )
            areas = self.zones[name] = ClassAreas(self.legend, self.row_areas)
            areas.whole = geometry.area / abs(georeference.transform.determinant)
            areas.zone = _Zone(geometry, georeference.transform, rows, cols)
            overlaps |= bool(rows and cols)
        if not overlaps:
            bounds = np.array([geometry.bounds for geometry in features.geometries])
            box = [*bounds[:, :2].min(axis=0), *bounds[:, 2:].max(axis=0)]
            if hint := swapped_axes(box, georeference):
                raise DataError(f"{path}: no polygon overlaps the map.{hint}")

    def empty(self) -> "ClassAreas":
        """Return counters of the same map and zones, at zero."""
        other = ClassAreas(self.legend, self.row_areas)
        other.zone, other.whole = self.zone, self.whole
        other.zones = {name: zone.empty() for name, zone in self.zones.items()}
        return other

    def add(self, start: int, index: UInt8Array, inside: BoolArray | None = None) -> None:
        """Count uint8 (n, W) class indices of rows from ``start``, where bool (n, W) ``inside``, if given."""
        areas = None if self.row_areas is None else self.row_areas[start : start + len(index)]
        alike = areas is None or areas.size == 0 or areas.min() == areas.max()
        counts = np.zeros((len(self.legend), len(index)), np.int64)
        step = max(1, _BLOCK_PX // max(1, index.shape[1]))
        for top in range(0, len(index), step):
            block = index[top : top + step]
            within = None if inside is None else inside[top : top + step]
            left = block.size if within is None else int(np.count_nonzero(within))
            for number in range(len(self.legend)):
                if not left:
                    break
                mask = block == number
                if within is not None:
                    mask &= within
                if alike:
                    counts[number, top] = np.count_nonzero(mask)
                else:
                    counts[number, top : top + step] = np.count_nonzero(mask, axis=1)
                left -= int(counts[number, top : top + step].sum())
            self.nodata += 0 if within is None else left
        pixels = counts.sum(axis=1)
        self.pixels += pixels
        if areas is not None and areas.size:
            self.square_metres += pixels * areas[0] if alike else [float(each @ areas) for each in counts]
        for counted in self.zones.values():
            if (zone := counted.zone) is None:
                continue
            top, bottom = max(zone.rows.start, start), min(zone.rows.stop, start + len(index))
            if top < bottom and zone.cols:
                window = rasterio.windows.Window(zone.cols.start, top, len(zone.cols), bottom - top)
                place = rasterio.windows.transform(window, zone.transform)
                within = geometry_mask([zone.polygon], (window.height, window.width), place, invert=True)
                counted.add(
                    top, index[top - start : bottom - start, zone.cols.start : zone.cols.stop], within
                )

    def coverage(self) -> dict[str, float]:
        """Return fractions of a zone: ``covered`` by classes, and ``nodata`` of the map.

        The rest of the zone is off the map. Pixels count by their centres: for a zone of few pixels the sum
        may exceed 1.
        """
        return {"covered": int(self.pixels.sum()) / self.whole, "nodata": self.nodata / self.whole}

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
