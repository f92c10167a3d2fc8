"""Sums over the regions of a map: class, pixels, area and mean confidence, run by run."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from rasterio.io import DatasetReader

from landcover._typing import Float64Array, IntArray, UInt8Array
from landcover.errors import MaskError
from landcover.io.vectors import Columns
from landcover.postprocess.components import Runs
from landcover.raster.address import BLOCK_CACHE
from landcover.raster.classmap import ClassMap, open_raster, reading, two_rows_of_blocks
from landcover.raster.georeference import Georeference, place_of

_SHIFT_PX = 0.01


@dataclass(frozen=True, slots=True)
class Confidence:
    """An open raster of probabilities on the grid of a map."""

    path: Path
    _source: DatasetReader

    def sums(self, runs: Runs) -> Float64Array:
        """Return the sum of the confidence, 0..1 per pixel, over each run of a framed block."""
        rows, width = int(runs.start[-1]) // runs.width, self._source.width
        stop = min(runs.row + rows, self._source.height)
        with reading(self.path):
            bands = self._source.read(window=((runs.row, stop), (0, width)))
        values = np.zeros((rows, runs.width), bands.dtype)
        np.max(bands, axis=0, out=values[: stop - runs.row, :width])
        values, start = values.reshape(-1), runs.start[runs.above :] - runs.width
        if values.dtype == np.uint8:
            scale = self._source.scales[0]
            if scale == 1:  # not declared, as in files of version 0.1
                scale = 1 / 255
            scaled: Float64Array = np.add.reduceat(values, start, dtype=np.float64) * scale
            return scaled
        lowest, highest = np.minimum.reduceat(values, start), np.maximum.reduceat(values, start)
        fits = (lowest >= 0) & (highest <= 1)
        if not fits[runs.piece[runs.above :] >= 0].all():
            raise MaskError(
                f"{self.path} has values of {values.dtype} that are not probabilities; expected 0 to 1 "
                "wherever the map has a class, or 0 to 255 in 8 bits."
            )
        sums: Float64Array = np.add.reduceat(values, start, dtype=np.float64)
        return sums


@contextmanager
def open_confidence(path: Path | None, grid: ClassMap) -> Iterator[Confidence | None]:
    """Open a raster of probabilities (8-bit or floating-point bands) on the grid of a map; None for None.

    Raises MaskError if it cannot be read, has another grid or another type.
    """
    if path is None:
        yield None
        return
    with open_raster(path, "a raster of confidence or probabilities") as source:
        mine, its = place_of(source)[0], grid.place
        same = mine.size == its.size
        if same and isinstance(mine, Georeference) and isinstance(its, Georeference):
            # Largest shift of a corner, in pixels.
            corner = [its.width, its.height, 1, its.width, its.height, 1]
            shift = abs(np.subtract(mine.transform[:6], its.transform[:6])) @ corner
            same = mine.crs == its.crs and shift <= _SHIFT_PX * abs(its.transform.determinant) ** 0.5
        if not same:
            raise MaskError(
                f"{path} has {mine.height} x {mine.width} pixels, {grid.path} has {its.height} x "
                f"{its.width}, and both must have the same position. Pass the file that was predicted with "
                "the map."
            )
        if not set(source.dtypes) <= {"uint8", "float32", "float64"}:
            raise MaskError(
                f"{path} has pixels of {source.dtypes[0]}; expected probabilities as 8-bit or floating-point "
                "bands."
            )
        with BLOCK_CACHE.share(two_rows_of_blocks(source)):
            yield Confidence(path, source)


class Tallies:
    """Sums for each region of a map: its class, pixels, square metres and confidence."""

    def __init__(
        self, regions: int, row_areas: Float64Array | None, confidence: Confidence | None = None
    ) -> None:
        self.value: UInt8Array = np.zeros(regions, np.uint8)
        self.pixels: IntArray = np.zeros(regions, np.intp)
        self.area_m2: Float64Array | None = None if row_areas is None else np.zeros(regions)
        self._row_areas = row_areas
        self._source = confidence
        self._confidence: Float64Array = np.zeros(0 if confidence is None else regions)

    def add(self, runs: Runs, region: IntArray) -> None:
        """Count a block of the framed map; ``region`` is (R,), that of each run, -1 for nodata."""
        own = np.flatnonzero(region >= 0)
        own = own[np.searchsorted(own, runs.above) :]
        whose, length = region[own], runs.length[own]
        self.value[whose] = runs.value[own]
        np.add.at(self.pixels, whose, length)
        if self.area_m2 is not None and self._row_areas is not None:
            row = runs.row - 1 + runs.start[own] // runs.width
            np.add.at(self.area_m2, whose, self._row_areas[row] * length)
        if self._source is not None:
            np.add.at(self._confidence, whose, self._source.sums(runs)[own - runs.above])

    def attributes(self, regions: IntArray, names: Sequence[str]) -> Columns:
        """Return the attributes of some regions, (n,) numbers; ``names`` are those of the classes."""
        value, pixels = self.value[regions], self.pixels[regions]
        found: dict[str, npt.NDArray[np.generic]] = {
            "class": np.array(names, object)[value],
            "class_index": value.astype(np.int32),
        }
        if self.area_m2 is None:
            found["area_px"] = pixels
        else:
            found["area_m2"] = self.area_m2[regions]
        if self._source is not None:
            found["mean_confidence"] = self._confidence[regions] / pixels
        return found
