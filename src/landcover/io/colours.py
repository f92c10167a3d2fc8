"""Colours to class indices and back: pure functions on arrays."""

from functools import lru_cache

import numpy as np

from landcover._typing import BoolArray, UInt8Array
from landcover.errors import MaskError
from landcover.legend import NODATA, Legend

NO_CLASS = NODATA
"""Index of a colour that no class has (255 is never a class)."""

_BLOCK = 1 << 17
"""Pixels decoded at a time, so that intermediate arrays fit the second-level cache."""


def index_to_colours(index: UInt8Array, legend: Legend) -> UInt8Array:
    """Return uint8 (H, W, 3), the colours of uint8 (H, W) class indices; black if it is not a class."""
    return np.take(legend.colours, index, axis=0)


def find_classes(rgb: UInt8Array, legend: Legend) -> UInt8Array:
    """Turn the colours of a mask, uint8 (H, W, 3), into class indices, ``NO_CLASS`` for those of no class.

    If all colours of the legend are corners of the RGB cube (each channel 0 or 255, as in DeepGlobe), a
    channel counts as 255 from 128 on and as 0 below, so that colours changed by compression keep their class;
    a pixel without a class has a corner without one (red in DeepGlobe). Other legends need the exact colour.
    """
    if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3:
        raise MaskError(f"Expected colours as uint8 (height, width, 3); found {rgb.dtype} {rgb.shape}.")
    corners = on_corners(legend)
    table = _class_table(legend, corners)
    pixels = np.ascontiguousarray(rgb).reshape(-1, 3)
    index = np.empty(len(pixels), np.uint8)
    for start in range(0, len(pixels), _BLOCK):
        block = pixels[start : start + _BLOCK]
        if corners:
            red, green, blue = (block >> 7).T
            codes = red | green << 1 | blue << 2
        else:
            words = np.zeros((len(block), 4), np.uint8)
            words[:, :3] = block
            codes = words.view("<u4").reshape(-1)
        index[start : start + _BLOCK] = np.take(table, codes)
    return index.reshape(rgb.shape[:2])


def settle_off_palette(index: UInt8Array, off_palette: BoolArray, legend: Legend) -> int:
    """Turn off-palette pixels into the unknown class, if there is one, in place; return their number."""
    count = int(np.count_nonzero(off_palette))
    if count and legend.unknown is not None:
        index[off_palette] = legend.unknown
    return count


def on_corners(legend: Legend) -> bool:
    """Return whether every channel of every colour is 0 or 255, so that thresholds identify colours."""
    return bool(np.isin(legend.colours[: len(legend)], (0, 255)).all())


@lru_cache(maxsize=4)
def _class_table(legend: Legend, corners: bool) -> UInt8Array:
    """Return the class of each code of a colour: of red + 2 green + 4 blue, or of R + 256 G + 65536 B."""
    bits = 1 if corners else 8
    table = np.full(1 << 3 * bits, NO_CLASS, np.uint8)
    channels = (legend.colours[: len(legend)] >> (8 - bits)).astype(np.uint32)
    table[channels @ np.array([1, 1 << bits, 1 << 2 * bits], np.uint32)] = np.arange(len(legend))
    return table
