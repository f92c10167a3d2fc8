"""Windows over an image that overlap, and the weights that blend their probabilities without seams.

All lengths are pixels, rows before columns. Nothing here touches imagery.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from landcover.errors import UsageError

Float32Array = npt.NDArray[np.float32]


class Window(NamedTuple):
    """A rectangle of an image: its first row and column, its height and width."""

    row: int
    col: int
    height: int
    width: int

    @property
    def slices(self) -> tuple[slice, slice]:
        """Row and column slices, so that ``image[window.slices]`` is the window's content."""
        return slice(self.row, self.row + self.height), slice(self.col, self.col + self.width)


def grid(height: int, width: int, window_px: int, overlap_px: int) -> list[Window]:
    """Cover an image with windows of one size.

    The windows of the last row and column are shifted inwards rather than cut, so that every window is
    ``window_px`` high and wide. Along an axis shorter than that one smaller window covers the whole axis.

    Args:
        height: Rows of the image, at least 1.
        width: Columns of the image, at least 1.
        window_px: Height and width of a window.
        overlap_px: Rows and columns that neighbours share at least; 0 lets them touch.

    Returns:
        The windows row by row, each once, all inside the image, every pixel in at least one.

    Raises:
        UsageError: If the image is empty or the overlap is negative or not smaller than the window.
    """
    if height < 1 or width < 1:
        raise UsageError(f"An image of {height} x {width} pixels has nothing to cover with windows.")
    if not 0 <= overlap_px < window_px:
        raise cannot_overlap(window_px, overlap_px)
    rows = _starts(height, window_px, window_px - overlap_px)
    cols = _starts(width, window_px, window_px - overlap_px)
    return [Window(row, col, min(window_px, height), min(window_px, width)) for row in rows for col in cols]


def cannot_overlap(window_px: int, overlap_px: int) -> UsageError:
    """Return the error about an overlap that windows cannot have."""
    return UsageError(
        f"Windows of {window_px} px cannot overlap by {overlap_px} px: the overlap must be 0 or more and "
        "smaller than the window. A quarter of the window is a good choice."
    )


def _starts(length: int, window_px: int, stride: int) -> list[int]:
    last = max(length - window_px, 0)
    return [*range(0, last, stride), last]


def blend_weights(window: Window, height: int, width: int, overlap_px: int) -> Float32Array:
    """Weight of each pixel of a window in the weighted mean over all windows that see the pixel.

    The weight rises linearly over ``overlap_px`` pixels from each side that has a neighbour and is 1
    elsewhere. It is never zero, and there is no ramp along the image's own borders, where no neighbour
    could take over.

    Args:
        window: One window of :func:`grid`.
        height: Rows of the image.
        width: Columns of the image.
        overlap_px: The overlap that the grid was made with.

    Returns:
        float32 (window.height, window.width) in (0, 1].
    """
    rows = _ramp(window.row, window.height, height, overlap_px)
    cols = _ramp(window.col, window.width, width, overlap_px)
    return rows[:, None] * cols[None, :]


def _ramp(start: int, length: int, total: int, overlap_px: int) -> Float32Array:
    """float32 (length,): weights along one axis; ramps only where the window ends inside the image."""
    weights = np.ones(length, np.float32)
    rise = ((np.arange(min(overlap_px, length)) + 0.5) / max(overlap_px, 1)).astype(np.float32)
    if start > 0:
        weights[: len(rise)] = rise
    if start + length < total:
        tail = weights[length - len(rise) :]
        np.minimum(tail, rise[::-1], out=tail)
    return weights
