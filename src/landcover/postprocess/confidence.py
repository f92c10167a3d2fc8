"""How sure a map is of its pixels: a raster of probabilities, summed over runs."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rasterio.io import DatasetReader

from landcover._typing import Float64Array
from landcover.errors import MaskError
from landcover.postprocess.components import Runs
from landcover.raster import read_georeference
from landcover.raster.blockcache import BLOCK_CACHE
from landcover.raster.classmap import ClassMap, open_raster, reading, two_rows_of_blocks

_SHIFT_PX = 0.01


@dataclass(frozen=True, slots=True)
class Confidence:
    """An open raster of probabilities on the grid of a map."""

    path: Path
    _source: DatasetReader

    def sums(self, runs: Runs) -> Float64Array:
        """Add up the confidence, 0..1 for each pixel, over each of a band's runs.

        Args:
            runs: A band of the map framed by one more column and row.

        Returns:
            float64 (R - above,); what lies under nodata means nothing.

        Raises:
            MaskError: If the file is damaged, or a pixel of a class has a value that is no probability.
        """
        rows, width = int(runs.start[-1]) // runs.width, self._source.width
        stop = min(runs.row + rows, self._source.height)
        with reading(self.path):
            bands = self._source.read(window=((runs.row, stop), (0, width)))
        values = np.zeros((rows, runs.width), bands.dtype)
        np.max(bands, axis=0, out=values[: stop - runs.row, :width])
        values, start = values.reshape(-1), runs.start[runs.above :] - runs.width
        if values.dtype == np.uint8:
            scaled: Float64Array = np.add.reduceat(values, start, dtype=np.float64) / 255
            return scaled
        lowest, highest = np.minimum.reduceat(values, start), np.maximum.reduceat(values, start)
        fits = (lowest >= 0) & (highest <= 1)
        if not fits[runs.piece[runs.above :] >= 0].all():
            raise MaskError(
                f"{self.path} has values of {values.dtype} that are no probabilities; expected 0 to 1 "
                "wherever the map has a class, or 0 to 255 in 8 bits."
            )
        sums: Float64Array = np.add.reduceat(values, start, dtype=np.float64)
        return sums


@contextmanager
def open_confidence(path: Path | None, grid: ClassMap) -> Iterator[Confidence | None]:
    """Open a raster of probabilities; of None make None.

    Args:
        path: A raster of 8-bit or floating-point bands.
        grid: The map whose pixels it must have.

    Raises:
        MaskError: If it cannot be read, has another grid or another type.
    """
    if path is None:
        yield None
        return
    with open_raster(path, "a raster of confidence or probabilities") as source:
        if source.shape != (grid.height, grid.width) or not _same_place(path, grid):
            raise MaskError(
                f"{path} has {source.height} x {source.width} pixels, {grid.path} has {grid.height} x "
                f"{grid.width}, and they must lie in the same places. Give what was predicted with the map."
            )
        if not set(source.dtypes) <= {"uint8", "float32", "float64"}:
            raise MaskError(
                f"{path} has pixels of {source.dtypes[0]}; expected probabilities as 8-bit or floating-point "
                "bands."
            )
        with BLOCK_CACHE.share(two_rows_of_blocks(source)):
            yield Confidence(path, source)


def _same_place(path: Path, grid: ClassMap) -> bool:
    """Whether two rasters of one size lie in the same place, as far as both say where they lie."""
    mine, its = read_georeference(path), grid.georeference
    if mine is None or its is None:
        return True
    apart = np.subtract(mine.transform[:6], its.transform[:6])
    # How far the farthest corner is off, in pixels, at most.
    off = abs(apart) @ [grid.width, grid.height, 1, grid.width, grid.height, 1]
    return mine.crs == its.crs and bool(off <= _SHIFT_PX * abs(its.transform.determinant) ** 0.5)
