"""How a scene is covered with windows, and where its pixels are on the logit grid.

A scene has three grids: its own pixels; the *model's* pixels, at the ground sample distance of the training
imagery; and the *logit grid* of the network's output, one cell per output stride. Windows begin and end at
cells of the logit grid.
"""

from dataclasses import dataclass

import numpy as np

from landcover.errors import ImageError, UsageError
from landcover.inference.upsampling import Axis, axis
from landcover.model.card import ModelCard
from landcover.model.preprocessing import Size, scaled_size
from landcover.model.runtimes import Runtime
from landcover.scale import check_gsd
from landcover.windows import Span, cannot_overlap, spans

WHOLE_PX = 1536
"""Longest side, in pixels at the model's GSD, up to which a scene is one window by default."""

_COARSEST = 10


@dataclass(frozen=True, slots=True)
class Grid:
    """How a scene is covered with windows.

    Attributes:
        size: Height and width in the scene's own pixels.
        model_size: Height and width in the model's pixels.
        stride: Model pixels per cell.
        rows: Windows from top to bottom, in cells.
        cols: Windows from left to right, in cells.
        own_rows: The scene's rows of pixels between rows of cells.
        own_cols: Its columns between columns of cells.
    """

    size: Size
    model_size: Size
    stride: int
    rows: list[Span]
    cols: list[Span]
    own_rows: Axis
    own_cols: Axis

    def final_cells(self, block: int) -> int:
        """Return how many rows of the logit grid are complete after row of windows ``block``."""
        return self.rows[block + 1].start if block + 1 < len(self.rows) else self.rows[-1].stop

    def block_rows(self, block: int) -> tuple[int, int]:
        """Return the first row of a row block, in the scene's own pixels, and the row after its last."""
        return self._stop(block - 1), self._stop(block)

    def _stop(self, block: int) -> int:
        if block < 0:
            return 0
        if block + 1 == len(self.rows):
            return self.size[0]
        # A pixel needs the row of the logit grid before it and the one after.
        return int(np.searchsorted(self.own_rows.low, self.final_cells(block) - 1))


def make_grid(
    size: Size,
    runtime: Runtime,
    *,
    gsd: float | tuple[float, float] | None = None,
    window_px: int | None = None,
    overlap_px: int | None = None,
) -> Grid:
    """Cover a scene with windows.

    Args:
        size: Height and width of the scene.
        runtime: The model.
        gsd: The scene's ground sample distance in metres per pixel, or (down, across) where pixels are not
            square on the ground. None: the model's.
        window_px: Side of the window in pixels at the model's GSD, rounded up to whole cells. 0: the whole
            scene at once. None: whole up to :data:`WHOLE_PX`, beyond it the window of the model's card.
        overlap_px: Pixels that neighbouring windows share. None: the overlap of the card for its own window,
            a quarter of the window for another.

    Raises:
        UsageError: If GSD, window or overlap are out of range.
        ImageError: If the scene is more than ten times coarser than the model's GSD.
    """
    card, stride = runtime.card, runtime.stride
    model_gsd = card.preprocessing.gsd
    check_windows(card, window_px, overlap_px)
    sides = gsd if isinstance(gsd, tuple) else (model_gsd if gsd is None else gsd,) * 2
    scales = [check_gsd(side) / model_gsd for side in sides]
    if max(scales) > _COARSEST:
        raise ImageError(
            f"The imagery has {max(sides):g} m per pixel, more than {_COARSEST} times the model's "
            f"{model_gsd:g} m: it is too coarse for this model. If the scale is wrong, pass --gsd."
        )
    model_size = scaled_size((size[0], 1), scales[0])[0], scaled_size((1, size[1]), scales[1])[1]
    if window_px is None:
        window_px = 0 if max(model_size) <= WHOLE_PX else card.window_px
    if overlap_px is None:
        overlap_px = card.overlap_px if window_px == card.window_px else window_px // 4
    cells = [-(-side // stride) for side in model_size]
    window = -(-window_px // stride) or max(cells)
    overlap = min(-(-overlap_px // stride), window - 1) if window_px else 0
    down, across = (
        axis(own, n, model / own / stride) for own, n, model in zip(size, cells, model_size, strict=True)
    )
    return Grid(
        size,
        model_size,
        stride,
        spans(cells[0], window, overlap),
        spans(cells[1], window, overlap),
        down,
        across,
    )


def check_windows(card: ModelCard, window_px: int | None, overlap_px: int | None) -> None:
    """Check window and overlap, also where a scene is small enough to be one window.

    Args:
        card: Gives the window where none is passed.
        window_px: As for :func:`make_grid`.
        overlap_px: As for :func:`make_grid`.

    Raises:
        UsageError: If a side is negative, or the overlap is not smaller than the window.
    """
    window_px = card.window_px if window_px is None else window_px
    if window_px < 0:
        raise UsageError(
            f"The window is {window_px} px; expected a number of pixels, or 0 for whole images at once."
        )
    if overlap_px is not None and (overlap_px < 0 or 0 < window_px <= overlap_px):
        raise cannot_overlap(window_px, overlap_px)
