"""What a network is shown where there is no imagery: the imagery beside it, mirrored.

A network judges by what surrounds a pixel. A flat colour beside the edge of the imagery is a thing that it
has never seen, and falsifies its answers far into the imagery; mirrored ground looks like ground.
"""

import numpy as np

from landcover._typing import BoolArray, IntArray, UInt8Array

_FAR = np.int32(1 << 28)
_TOUCH = 1e-6  # of a pixel: less is the rounding of an edge that two grids share


def mirrored(image: UInt8Array, valid: BoolArray) -> UInt8Array:
    """Return an image whose pixels without imagery show the imagery mirrored at its nearest edge.

    The edge is the nearest along the pixel's row or column, whichever is nearer. Where nothing stands at the
    mirrored place, or neither row nor column has imagery, what was filled before counts as imagery: narrow
    strips are mirrored to and fro, about twice as wide each time.

    Args:
        image: uint8 (H, W, 3).
        valid: bool (H, W): where there is imagery.

    Returns:
        uint8 (H, W, 3); ``image`` itself where nothing is missing or everything is.
    """
    if valid.all() or not valid.any():
        return image
    image, valid = image.copy(), valid.copy()
    rows, cols = np.nonzero(~valid)
    while len(rows):
        across, beside, seen_across = _mirror(valid, rows, cols)
        down, above, seen_down = _mirror(valid.T, cols, rows)
        sideways = beside <= above
        seen = np.where(sideways, seen_across, seen_down)
        source = np.where(sideways, rows, down)[seen], np.where(sideways, across, cols)[seen]
        image[rows[seen], cols[seen]] = image[source]
        valid[rows[seen], cols[seen]] = True
        rows, cols = rows[~seen], cols[~seen]
    return image


def any_within(missing: BoolArray, pixels: slice, step: float, offset: int, axis: int) -> BoolArray:
    """Return, along one axis, whether anything is missing of what pixels of another grid are resampled from.

    Both filters of :mod:`landcover.model.preprocessing` end one pixel of the coarser grid from the centre.

    Args:
        missing: bool (n, m).
        pixels: Which pixels of the other grid; what they are made of must be in ``missing``.
        step: Length of such a pixel, in pixels of ``missing``.
        offset: Where ``missing`` begins in its own grid.
        axis: 0 or 1.

    Returns:
        bool (n, m) with ``pixels`` along ``axis``.
    """
    reach = max(step, 1.0) - 0.5
    centre = (np.arange(pixels.start, pixels.stop) + 0.5) * step - offset
    length = missing.shape[axis]
    first = np.clip(np.floor(centre - reach + _TOUCH).astype(np.intp), 0, length - 1)
    stop = np.clip(np.ceil(centre + reach - _TOUCH).astype(np.intp), first + 1, length)
    padding = [(0, 0), (0, 0)]
    padding[axis] = (0, 1)  # reduceat takes no end behind the last
    pairs = np.stack([first, stop], axis=1).ravel()
    found: BoolArray = np.logical_or.reduceat(np.pad(missing, padding), pairs, axis=axis)
    return found.take(range(0, len(pairs), 2), axis=axis)


def _mirror(valid: BoolArray, rows: IntArray, cols: IntArray) -> tuple[IntArray, IntArray, BoolArray]:
    """Mirror pixels within their rows: the column to take, how far imagery is, whether it is at that column.

    In rows without imagery it is farther away than anywhere else.
    """
    width = valid.shape[1]
    at = np.arange(width, dtype=np.int32)
    left = np.maximum.accumulate(np.where(valid, at, -_FAR), axis=1)[rows, cols]
    right = np.minimum.accumulate(np.where(valid, at, _FAR)[:, ::-1], axis=1)[:, ::-1][rows, cols]
    edge = np.where(cols - left <= right - cols, left, right)
    place = 2 * edge - cols + np.sign(cols - edge)
    inside = np.clip(place, 0, width - 1)
    return inside, np.abs(edge - cols), valid[rows, inside] & (inside == place)
