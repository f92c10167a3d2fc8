"""Fill pixels without imagery with mirrored imagery.

A network classifies a pixel by its surroundings. It was not trained on flat colours beside the edge of the
imagery, and they distort its predictions far into the imagery; mirrored ground looks like ground.
"""

import numpy as np

from landcover._typing import BoolArray, IntArray, UInt8Array

_FAR = np.int32(1 << 28)
_TOUCH = 1e-6  # of a pixel: below it, edges of both grids are the same


def mirrored(image: UInt8Array, valid: BoolArray) -> UInt8Array:
    """Return an image whose pixels without imagery show the imagery mirrored at its nearest edge.

    The edge is the nearest along the pixel's row or column, whichever is nearer. If the mirrored position has
    no imagery, or neither row nor column has any, pixels filled before count as imagery: narrow strips are
    mirrored repeatedly, about twice as wide each time.

    Images are uint8 (H, W, 3), ``valid`` is bool (H, W): pixels with imagery. ``image`` itself is returned if
    no pixel or every pixel is missing.
    """
    if valid.all() or not valid.any():
        return image
    image, valid = image.copy(), valid.copy()
    rows, cols = np.nonzero(~valid)
    while len(rows):
        across, beside, inside_across = _mirror(valid, rows, cols)
        down, above, inside_down = _mirror(valid.T, cols, rows)
        sideways = beside <= above
        filled = np.where(sideways, inside_across, inside_down)
        source = np.where(sideways, rows, down)[filled], np.where(sideways, across, cols)[filled]
        image[rows[filled], cols[filled]] = image[source]
        valid[rows[filled], cols[filled]] = True
        rows, cols = rows[~filled], cols[~filled]
    return image


def any_within(missing: BoolArray, pixels: slice, step: float, offset: int, axis: int) -> BoolArray:
    """Return, along one axis, whether a source pixel of a resampled pixel is missing.

    Both filters of :mod:`landcover.model.preprocessing` end one pixel of the coarser grid from the centre.

    Args:
        missing: bool (n, m).
        pixels: Pixels of the resampled grid; all their source pixels must be in ``missing``.
        step: Length of such a pixel, in pixels of ``missing``.
        offset: Position of ``missing`` in its own grid.
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
    padding[axis] = (0, 1)  # reduceat accepts no end after the last
    pairs = np.stack([first, stop], axis=1).ravel()
    result: BoolArray = np.logical_or.reduceat(np.pad(missing, padding), pairs, axis=axis)
    return result.take(range(0, len(pairs), 2), axis=axis)


def _mirror(valid: BoolArray, rows: IntArray, cols: IntArray) -> tuple[IntArray, IntArray, BoolArray]:
    """Mirror pixels within their rows.

    Returns:
        The column to copy from, the distance to imagery (very large in rows without), and whether that column
        has imagery.
    """
    width = valid.shape[1]
    at = np.arange(width, dtype=np.int32)
    left = np.maximum.accumulate(np.where(valid, at, -_FAR), axis=1)[rows, cols]
    right = np.minimum.accumulate(np.where(valid, at, _FAR)[:, ::-1], axis=1)[:, ::-1][rows, cols]
    edge = np.where(cols - left <= right - cols, left, right)
    mirror = 2 * edge - cols + np.sign(cols - edge)
    inside = np.clip(mirror, 0, width - 1)
    return inside, np.abs(edge - cols), valid[rows, inside] & (inside == mirror)
