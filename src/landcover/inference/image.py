"""The map of one image in memory, by the scene engine."""

import numpy as np

from landcover._typing import BoolArray, Float32Array, UInt8Array
from landcover.inference.engine import row_blocks
from landcover.inference.grid import make_grid
from landcover.inference.reading import ArraySource
from landcover.model.runtimes import Runtime


def predict_probabilities(
    runtime: Runtime,
    image: UInt8Array,
    *,
    gsd: float | tuple[float, float] | None = None,
    window_px: int | None = None,
    overlap_px: int | None = None,
    batch: int = 1,
    turns: bool = False,
    valid: BoolArray | None = None,
) -> Float32Array:
    """Return the probability of each scored class at each pixel of an image.

    Args:
        runtime: The model.
        image: uint8 (H, W, 3), RGB, any size.
        gsd: The image's ground sample distance in metres per pixel, or (down, across) where pixels are not
            square on the ground. None: the model's.
        window_px: Side of the sliding window in pixels of the model's grid. 0: the whole image at once. None:
            whole up to :data:`landcover.inference.grid.WHOLE_PX`, beyond it the window of the model's card.
        overlap_px: Pixels that neighbouring windows share. None: the overlap of the card for its own window,
            a quarter of the window for another.
        batch: Windows per call of the network.
        turns: Average over the eight rotations and flips of each window (test-time augmentation).
        valid: bool (H, W), where the image has data; None: everywhere.

    Returns:
        float32 (C, H, W), C in the order of ``legend.scored``. It takes 4 C bytes per pixel of the image.

    Raises:
        UsageError: If the image is not uint8 (H, W, 3), or GSD, window or overlap are out of range.
        ImageError: If the image is more than ten times coarser than the model's GSD.
        ModelError: If the model returns NaN.
    """
    source = ArraySource(image, valid)
    grid = make_grid(image.shape[:2], runtime, gsd=gsd, window_px=window_px, overlap_px=overlap_px)
    result = np.empty((len(runtime.card.legend.scored), *image.shape[:2]), np.float32)
    for block in row_blocks(runtime, source, grid, batch=batch, tta=turns):
        for part, values in block.probabilities():
            result[:, block.start + part.start : block.start + part.stop] = values
    return result


def predict_index(
    runtime: Runtime,
    image: UInt8Array,
    *,
    gsd: float | tuple[float, float] | None = None,
    window_px: int | None = None,
    overlap_px: int | None = None,
    batch: int = 1,
    turns: bool = False,
) -> UInt8Array:
    """Return the most probable class at each pixel; arguments and errors as :func:`predict_probabilities`.

    Returns:
        uint8 (H, W) class indices of the model's legend; the unknown class is never among them. Equal to the
        argmax of :func:`predict_probabilities`, which is never held as a whole.
    """
    source = ArraySource(image)
    grid = make_grid(image.shape[:2], runtime, gsd=gsd, window_px=window_px, overlap_px=overlap_px)
    made = row_blocks(runtime, source, grid, batch=batch, tta=turns)
    strips = [block.class_indices(runtime.card.legend) for block in made]
    return strips[0] if len(strips) == 1 else np.concatenate(strips)
