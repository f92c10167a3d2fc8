"""Windows that cover an axis with overlaps, and the weights that blend their answers without seams.

Rows and columns are covered alike, so everything here is about one axis: a grid of windows is the product of
two lists of spans, and the weight of a window at a position is the product of its row's and its column's.
Nothing here touches imagery.
"""

from typing import NamedTuple

import numpy as np

from landcover._typing import Float32Array
from landcover.errors import UsageError


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


class Span(NamedTuple):
    """The part of an axis that a window covers.

    Attributes:
        start: First position.
        length: Number of positions.
        weights: float32 (length,) in 0..1: weight of the window in the blended answer at each position.
    """

    start: int
    length: int
    weights: Float32Array

    @property
    def stop(self) -> int:
        """Position after the last."""
        return self.start + self.length


def spans(total: int, window: int, overlap: int) -> list[Span]:
    """Cover an axis with windows of one length, in order, all inside the axis.

    The last one is shifted inwards; an axis shorter than ``window`` is covered by one smaller window. At each
    position the weights of all windows sum to one. The outer quarter of an overlap, where the network lacks
    context, has weight 0. In the middle half the weight rises linearly. There is no ramp at the ends of the
    axis. Neighbours share at least ``overlap`` positions; 0 lets them touch.
    """
    if total < 1:
        raise UsageError(f"Found an axis of {total} positions; expected at least 1.")
    if not 0 <= overlap < window:
        raise cannot_overlap(window, overlap)
    if window >= total:
        return [Span(0, total, np.ones(total, np.float32))]
    last = total - window
    starts = [*range(0, last, window - overlap), last]
    margin = overlap // 4
    rise = np.clip((np.arange(window) - margin + 0.5) / max(overlap - 2 * margin, 1), 0, 1)
    raw, sums = [], np.zeros(total)
    for start in starts:  # ramps only where a window ends inside the axis
        weights = rise if overlap and start > 0 else np.ones(window)
        raw.append(np.minimum(weights, rise[::-1]) if overlap and start < last else weights)
    for start, weights in zip(starts, raw, strict=True):
        sums[start : start + window] += weights
    return [
        Span(start, window, (weights / sums[start : start + window]).astype(np.float32))
        for start, weights in zip(starts, raw, strict=True)
    ]


def cannot_overlap(window: int, overlap: int) -> UsageError:
    """Return the error about an overlap that windows cannot have."""
    return UsageError(
        f"Windows of {window} px cannot overlap by {overlap} px: the overlap must be 0 or more and "
        "smaller than the window. A quarter of the window is a good choice."
    )
