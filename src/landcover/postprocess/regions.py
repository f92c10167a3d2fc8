"""Small regions: the sieve of GDAL."""

import numpy as np
from rasterio.features import sieve

from landcover._typing import UInt8Array
from landcover.errors import MaskError, UsageError
from landcover.legend import NODATA


def remove_small_regions(index: UInt8Array, min_pixels: int, nodata: int = NODATA) -> UInt8Array:
    """Give regions below a number of pixels the class of their largest neighbour.

    A region is a set of pixels of one value that hang together along edges (4-connected). The rule is that of
    ``GDALSieveFilter`` as rasterio calls it, all regions judged at once on the map as it was:

    - A region of at least ``min_pixels`` stays.
    - A smaller one goes to its largest neighbour; of equal ones, to the first met in reading order (above
      before left). Where that neighbour is small too, to *its* largest neighbour, and so on until a region of
      at least ``min_pixels`` is reached.
    - Where the way turns back on itself first, or there is no neighbour, the region stays. Nodata is neither
      changed nor a neighbour.

    Hence small regions can remain, and a second pass may remove some of them that have gained a large
    neighbour. The result holds only values that were there, and regions that were large enough never shrink.

    Args:
        index: uint8 (H, W).
        min_pixels: Smallest region that stays, in pixels; 1 changes nothing.
        nodata: Value of pixels outside the imagery.

    Returns:
        uint8 (H, W), a new array.

    Raises:
        MaskError: If ``index`` is not uint8 (H, W).
        UsageError: If ``min_pixels`` is below 1.
    """
    if index.ndim != 2 or index.dtype != np.uint8:
        raise MaskError(
            f"Found a map of shape {index.shape} and type {index.dtype}; expected uint8 (height, width)."
        )
    if min_pixels < 1:
        raise UsageError(f"The smallest region is {min_pixels} pixels; expected at least 1.")
    inside = index != nodata
    if min_pixels == 1 or min_pixels > index.size or not inside.any():
        return (
            index.copy()
        )  # no region is small, or none is large enough to grow (rasterio refuses such sizes)
    result: UInt8Array = sieve(np.ascontiguousarray(index), min_pixels, mask=inside.astype(np.uint8))
    return result
