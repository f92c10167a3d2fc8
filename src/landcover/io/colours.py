"""Colours to class indices and back: pure functions on arrays."""

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from landcover._typing import BoolArray, UInt8Array
from landcover.errors import MaskError
from landcover.legend import NODATA, Legend

NO_CLASS = NODATA
"""Index of a colour that no class has (255 is never a class)."""

_BLOCK = 1 << 17
"""Pixels decoded at a time, a multiple of 8: what lies between then stays in the second-level cache."""


def colours_to_index(rgb: UInt8Array, legend: Legend) -> tuple[UInt8Array, int]:
    """Turn the colours of a mask into class indices, and count the pixels whose colour has no class.

    Where all colours of the legend lie on corners of the RGB cube (each channel 0 or 255, as in DeepGlobe),
    each channel counts as 255 from 128 on and as 0 below, so that colours changed by compression keep their
    class; a pixel is off-palette where its corner has no class (red in DeepGlobe). Other legends need the
    exact colour.

    Off-palette pixels become the unknown class or, where the legend has none, ``IGNORE`` (255).

    Args:
        rgb: uint8 (H, W, 3).
        legend: The classes and their colours.

    Returns:
        Class indices, uint8 (H, W), and the number of off-palette pixels.

    Raises:
        MaskError: If ``rgb`` has another type or shape.
    """
    index = find_classes(rgb, legend)
    return index, settle_off_palette(index, index == NO_CLASS, legend)


def index_to_colours(index: UInt8Array, legend: Legend) -> UInt8Array:
    """Return uint8 (H, W, 3), the colours of uint8 (H, W) class indices; black where there is no class."""
    return np.take(legend.colours, index, axis=0)


def find_classes(rgb: UInt8Array, legend: Legend) -> UInt8Array:
    """As :func:`colours_to_index`, but off-palette pixels have the index ``NO_CLASS``."""
    if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3:
        raise MaskError(f"Expected colours as uint8 (height, width, 3); found {rgb.dtype} {rgb.shape}.")
    classes_of = _nearest_corner if on_corners(legend) else _exact
    pixels = np.ascontiguousarray(rgb).reshape(-1, 3)
    index = np.empty(len(pixels), np.uint8)
    for start in range(0, len(pixels), _BLOCK):
        index[start : start + _BLOCK] = classes_of(pixels[start : start + _BLOCK], legend)
    return index.reshape(rgb.shape[:2])


def settle_off_palette(index: UInt8Array, off_palette: BoolArray, legend: Legend) -> int:
    """Turn off-palette pixels into the unknown class where there is one, in place; return their number."""
    count = int(np.count_nonzero(off_palette))
    if count and legend.unknown is not None:
        index[off_palette] = legend.unknown
    return count


def on_corners(legend: Legend) -> bool:
    """Whether every channel of every colour is 0 or 255, so that colours are told apart by thresholds."""
    return bool(np.isin(legend.colours[: len(legend)], (0, 255)).all())


def _nearest_corner(pixels: UInt8Array, legend: Legend) -> UInt8Array:
    """Decode uint8 (N, 3) by thresholds: a bit a channel, then four pixels (12 bits) by one table look-up."""
    groups_of_8 = -(-len(pixels) // 8)
    bits = np.zeros(3 * groups_of_8, np.uint8)  # 8 pixels are 24 bits are 3 bytes
    packed = np.packbits((pixels >= 128).reshape(-1), bitorder="little")
    bits[: len(packed)] = packed
    fours = np.empty((groups_of_8, 2), np.intp)
    # In each 3 bytes the low 12 bits of bytes 0 and 1 are the first 4 pixels, the high of 1 and 2 the others.
    fours[:, 0] = np.ndarray(groups_of_8, "<u2", bits, offset=0, strides=(3,)) & 0xFFF
    fours[:, 1] = np.ndarray(groups_of_8, "<u2", bits, offset=1, strides=(3,)) >> 4
    return np.take(_corner_table(legend), fours.reshape(-1)).view(np.uint8)[: len(pixels)]


def _exact(pixels: UInt8Array, legend: Legend) -> UInt8Array:
    """Decode uint8 (N, 3) by exact colour."""
    words = np.zeros((len(pixels), 4), np.uint8)
    words[:, :3] = pixels
    # The table holds index + 1, so that its zeros wrap around to NO_CLASS.
    return np.take(_exact_table(legend), words.view("<u4").reshape(-1)) - np.uint8(1)


@lru_cache(maxsize=16)
def _corner_table(legend: Legend) -> npt.NDArray[np.uint32]:
    """uint32 (4096,): 12 bits (R, G, B of four pixels, the first lowest) to four class indices."""
    index_of_code = np.full(8, NO_CLASS, np.uint8)
    codes = (legend.colours[: len(legend)] >> 7) @ np.array([1, 2, 4], np.uint8)
    index_of_code[codes] = np.arange(len(legend), dtype=np.uint8)
    code_of_pixel = np.arange(4096)[:, None] >> np.array([0, 3, 6, 9]) & 7
    table: npt.NDArray[np.uint32] = index_of_code[code_of_pixel].view(np.uint32).reshape(-1)
    return table


@lru_cache(maxsize=4)
def _exact_table(legend: Legend) -> UInt8Array:
    """uint8 (2**24,): R + 256 G + 65536 B to class index + 1; untouched zeros take no memory."""
    table = np.zeros(1 << 24, np.uint8)
    keys = legend.colours[: len(legend)].astype(np.uint32) @ np.array([1, 1 << 8, 1 << 16], np.uint32)
    table[keys] = np.arange(1, len(legend) + 1, dtype=np.uint8)
    return table
