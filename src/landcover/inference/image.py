"""One image in memory to its map, by the scene engine."""

import numpy as np

from landcover.inference.engine import row_blocks
from landcover.inference.grid import make_grid
from landcover.inference.reading import ArraySource
from landcover.inference.upsampling import Float32Array
from landcover.legend import UInt8Array
from landcover.model.runtimes import Runtime


def predict_probabilities(
    runtime: Runtime,
    image: UInt8Array,
    *,
    gsd: float | None = None,
    window_px: int | None = None,
    overlap_px: int | None = None,
    batch: int = 1,
    turns: bool = False,
) -> Float32Array:
    """Return the probability of each scored class at each pixel of an image.

    Args:
        runtime: The model.
        image: uint8 (H, W, 3), RGB, any size.
        gsd: The image's ground sample distance in metres per pixel. None: it is the model's.
        window_px: Side of the sliding window in pixels of the model's grid. 0: the whole image at once. None:
            whole up to :data:`landcover.inference.grid.WHOLE_PX`, windows of the size that the model's card
            advises beyond.
        overlap_px: Pixels that neighbouring windows share. None: what the card advises for its own window
            size, a quarter of the window for another.
        batch: Windows that the network gets at once.
        turns: Average over the eight turns and flips of each window.

    Returns:
        float32 (C, H, W), C in the order of ``legend.scored``. It takes 4 C bytes per pixel of the image.

    Raises:
        UsageError: If the image is no uint8 (H, W, 3), or GSD, window or overlap cannot be used.
        ImageError: If the image is so much coarser than the model's imagery that nothing can be seen in it.
        ModelError: If the model answers with values that are no numbers.
    """
    source = ArraySource(image)
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
    gsd: float | None = None,
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
