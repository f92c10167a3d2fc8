"""What regions hold: their class, pixels, area and confidence, added up run by run."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from landcover._typing import Float64Array, IntArray, UInt8Array
from landcover.io.vectors import Columns
from landcover.postprocess.components import Runs
from landcover.postprocess.confidence import Confidence


class Tallies:
    """Sums for each region of a map.

    Args:
        regions: How many there are.
        row_areas: float64 (height,), square metres of a pixel of each row; None where that is unknown.
        confidence: How sure the map is, or None.

    Attributes:
        value: uint8 (regions,), class of each region.
        pixels: int64 (regions,).
        area_m2: float64 (regions,), or None.
    """

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
        """Count a band.

        Args:
            runs: The band, of a map framed by one more column and row.
            region: (R,) the region of each run, -1 for nodata.
        """
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

    def columns(self) -> dict[str, npt.DTypeLike]:
        """Return name and type of the attributes of regions."""
        columns: dict[str, npt.DTypeLike] = {"class": object, "class_index": np.int32}
        columns |= {"area_px": np.int64} if self.area_m2 is None else {"area_m2": np.float64}
        return columns | ({} if self._source is None else {"mean_confidence": np.float64})

    def attributes(self, regions: IntArray, names: Sequence[str]) -> Columns:
        """Return the attributes of some regions.

        Args:
            regions: (n,) their numbers.
            names: Names of the classes.
        """
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
