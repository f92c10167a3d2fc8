"""What a network is shown where there is no imagery: the imagery beside it, mirrored.

A network judges by what surrounds a pixel. A flat colour beside the edge of the imagery is a thing that it
has never seen, and falsifies its answers far into the imagery; mirrored ground looks like ground.
"""

import numpy as np
import numpy.typing as npt

from landcover.legend import UInt8Array

BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.intp]

_TOUCH = 1e-6  # of a pixel: less is the rounding of an edge that two grids share


def mirrored(image: UInt8Array, valid: BoolArray) -> UInt8Array:
    """Return an image whose pixels without imagery show the imagery mirrored at its nearest edge.

    The edge is the nearest along the pixel's row or column, whichever is nearer. Where nothing stands at the
    mirrored place, or neither row nor column has imagery, what was filled before counts as imagery: narrow
    strips are mirrored to and fro.

    Args:
        image: uint8 (H, W, 3).
        valid: bool (H, W): where there is imagery.

    Returns:
        uint8 (H, W, 3); ``image`` itself where nothing is missing or everything is.
    """
    if not valid.any():
        return image
    rows, cols = np.ogrid[: valid.shape[0], : valid.shape[1]]
    while not valid.all():  # each time, strips become at least twice as wide
        across, beside, seen_across = _mirror(valid)
        down, above, seen_down = (part.T for part in _mirror(valid.T))
        sideways = beside <= above
        image = image[np.where(sideways, rows, down), np.where(sideways, across, cols)]
        valid = np.where(sideways, seen_across, seen_down)
    return image


def any_within(missing: BoolArray, pixels: slice, step: float, offset: int, axis: int) -> BoolArray:
    """Return, along one axis, whether anything is missing under pixels of another grid.

    Args:
        missing: bool (n, m).
        pixels: Which pixels of the other grid; what lies under them must be in ``missing``.
        step: Length of such a pixel, in pixels of ``missing``.
        offset: Where ``missing`` begins in its own grid.
        axis: 0 or 1.

    Returns:
        bool (n, m) with ``pixels`` along ``axis``.
    """
    edges = np.arange(pixels.start, pixels.stop + 1) * step - offset
    end = missing.shape[axis] - 1
    first = np.clip(np.floor(edges[:-1] + _TOUCH).astype(np.intp), 0, end)
    last = np.clip(np.ceil(edges[1:] - _TOUCH).astype(np.intp) - 1, 0, end)
    inside = missing.take(range(last[-1] + 1), axis=axis)
    found: BoolArray = np.logical_or.reduceat(inside, first, axis=axis)
    return found | missing.take(last, axis=axis)  # reduceat ends where the next begins, and they share pixels


def _mirror(valid: BoolArray) -> tuple[IntArray, IntArray, BoolArray]:
    """Mirror each row: the column to take, how far the row's imagery is, and whether it is at that column.

    Imagery itself stays where it is. In rows without imagery it is farther away than in any other.
    """
    width = valid.shape[1]
    cols = np.arange(width)
    left = np.maximum.accumulate(np.where(valid, cols, -3 * width), axis=1)
    right = np.minimum.accumulate(np.where(valid, cols, 4 * width)[:, ::-1], axis=1)[:, ::-1]
    edge = np.where(cols - left <= right - cols, left, right)
    place = 2 * edge - cols + np.sign(cols - edge)
    inside = np.clip(place, 0, width - 1)
    return inside, np.abs(edge - cols), np.take_along_axis(valid, inside, axis=1) & (inside == place)
