"""Imagery that fits in memory, read whole."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from landcover.errors import ImageError
from landcover.legend import UInt8Array
from landcover.raster.georeference import Georeference
from landcover.raster.scene import open_scene


@dataclass(frozen=True, slots=True)
class Raster:
    """Georeferenced imagery in memory.

    Attributes:
        image: uint8 (H, W, 3), RGB.
        valid: bool (H, W), False where the raster has no data.
        georeference: Where it lies, or None.
    """

    image: UInt8Array
    valid: npt.NDArray[np.bool_]
    georeference: Georeference | None


def read_raster(path: Path, bands: Sequence[int] | None = None, *, max_pixels: int | None = None) -> Raster:
    """Read three bands of a raster, and where they hold data, whole.

    Args:
        path: Any raster that GDAL opens.
        bands: As for :func:`open_scene`.
        max_pixels: Refuse larger rasters. None: no limit.

    Raises:
        ImageError: If it cannot be read whole, lacks a band, is no 8-bit imagery, or is too large.
    """
    with open_scene(path, bands=bands, strict=True) as scene:
        pixels = scene.height * scene.width
        if max_pixels is not None and pixels > max_pixels:
            raise ImageError(
                f"{path} has {scene.height} x {scene.width} pixels; at most {max_pixels:,} are read. "
                f"If it is what you expect, pass --max-pixels {pixels}."
            )
        image, valid = scene.read_rows(0, scene.height)
        everywhere = np.ones(image.shape[:2], bool) if valid is None else valid
        return Raster(image, everywhere, scene.georeference)
