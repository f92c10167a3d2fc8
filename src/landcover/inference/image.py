"""One image in memory to its map: resample, cover with windows, blend, resample back.

Everything is computed on the model's grid (its ground sample distance) and returned on the image's own.
Probabilities are averaged, never logits: logits of different windows have no common zero
(https://github.com/BloodAxe/pytorch-toolbelt/issues/23).
"""

import numpy as np
import numpy.typing as npt

from landcover.codecs import MAX_PIXELS
from landcover.errors import ImageError, ModelError, UsageError
from landcover.legend import Legend, UInt8Array
from landcover.preprocessing import (
    Size,
    check_gsd,
    resample_image,
    resample_probabilities,
    resampled_bands,
    scaled_size,
)
from landcover.runtimes import Runtime
from landcover.windows import blend_weights, cannot_overlap, grid

Float32Array = npt.NDArray[np.float32]

WHOLE_PX = 1536
"""Longest side, on the model's grid, up to which an image is given to the network whole by default."""

_MINIMUM_PX = 32


def predict_probabilities(
    runtime: Runtime,
    image: UInt8Array,
    *,
    gsd: float | None = None,
    window_px: int | None = None,
    overlap_px: int | None = None,
    batch: int = 1,
) -> Float32Array:
    """Return the probability of each scored class at each pixel of an image.

    Args:
        runtime: The model.
        image: uint8 (H, W, 3), RGB, any size.
        gsd: The image's ground sample distance in metres per pixel. None: it is the model's.
        window_px: Side of the sliding window in pixels of the model's grid. 0: the whole image at once. None:
            whole up to :data:`WHOLE_PX`, windows of the size that the model's card advises beyond.
        overlap_px: Pixels that neighbouring windows share. None: what the card advises for its own window
            size, a quarter of the window for another.
        batch: Windows that the network gets at once.

    Returns:
        float32 (C, H, W), C in the order of ``legend.scored``. It takes 4 C bytes per pixel of the image; the
        computation needs the same on the model's grid (5.7 times fewer pixels for 0.5 m imagery and a model
        of 1.195 m) besides what the network needs for a window.

    Raises:
        UsageError: If the image is no uint8 (H, W, 3), or GSD, window or overlap cannot be used.
        ImageError: If the GSD is so coarse that the image would not fit in memory on the model's grid.
        ModelError: If the model answers with values that are no numbers.
    """
    own = model_grid_probabilities(
        runtime, image, gsd=gsd, window_px=window_px, overlap_px=overlap_px, batch=batch
    )
    return resample_probabilities(own, image.shape[:2])


def predict_index(
    runtime: Runtime,
    image: UInt8Array,
    *,
    gsd: float | None = None,
    window_px: int | None = None,
    overlap_px: int | None = None,
    batch: int = 1,
) -> UInt8Array:
    """Return the most probable class at each pixel; arguments and errors as :func:`predict_probabilities`.

    Returns:
        uint8 (H, W) class indices of the model's legend; the unknown class is never among them. Equal to the
        argmax of :func:`predict_probabilities`, which is never held as a whole.
    """
    own = model_grid_probabilities(
        runtime, image, gsd=gsd, window_px=window_px, overlap_px=overlap_px, batch=batch
    )
    return most_probable(own, image.shape[:2], runtime.card.legend)


def model_grid_probabilities(
    runtime: Runtime,
    image: UInt8Array,
    *,
    gsd: float | None,
    window_px: int | None,
    overlap_px: int | None,
    batch: int = 1,
) -> Float32Array:
    """As :func:`predict_probabilities`, but on the model's grid: float32 (C, h, w)."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise UsageError(f"Found an image of {image.dtype} {image.shape}; expected uint8 (height, width, 3).")
    card = runtime.card
    _check_windows(card.window_px if window_px is None else window_px, overlap_px)
    if gsd is not None:
        image = resample_image(image, _own_size(image.shape[:2], check_gsd(gsd), card.preprocessing.gsd))
    size = image.shape[:2]
    if window_px is None:
        window_px = 0 if max(size) <= WHOLE_PX else card.window_px
    if window_px == 0 or window_px >= max(size):
        whole: Float32Array = _classify(runtime, image[None])[0]
        return whole
    if overlap_px is None:
        overlap_px = card.overlap_px if window_px == card.window_px else window_px // 4
    return _slide(runtime, image, window_px, overlap_px, batch)


def most_probable(probabilities: Float32Array, size: Size, legend: Legend) -> UInt8Array:
    """Resample float32 (C, h, w) probabilities to ``size`` and return uint8 (H, W) class indices."""
    classes = np.array(legend.scored, np.uint8)
    index = np.empty(size, np.uint8)
    for rows, band in resampled_bands(probabilities, size):
        index[rows] = classes[band.argmax(axis=0)]
    return index


def _check_windows(window_px: int, overlap_px: int | None) -> None:
    """Refuse what no image can be covered with, also where this one is small enough to be given whole."""
    if window_px < 0:
        raise UsageError(
            f"Windows of {window_px} px are not possible; expected pixels, or 0 for whole images at once."
        )
    if overlap_px is not None and (overlap_px < 0 or 0 < window_px <= overlap_px):
        raise cannot_overlap(window_px, overlap_px)


def _own_size(size: Size, gsd: float, model_gsd: float) -> Size:
    """Height and width of an image on the model's grid."""
    height, width = size
    scale = gsd / model_gsd
    if height * scale * width * scale > max(MAX_PIXELS, height * width):
        raise ImageError(
            f"An image of {height} x {width} pixels of {gsd:g} m would have {height * scale:.3g} x "
            f"{width * scale:.3g} at the model's {model_gsd:g} m, more than memory should hold. Imagery "
            "so much coarser than the model's cannot be mapped with it; if the scale is wrong, pass --gsd."
        )
    return scaled_size(size, scale)


def _slide(runtime: Runtime, image: UInt8Array, window_px: int, overlap_px: int, batch: int) -> Float32Array:
    """Weighted mean of the windows' probabilities: float32 (C, H, W) for uint8 (H, W, 3)."""
    height, width = image.shape[:2]
    sums = np.zeros((len(runtime.card.legend.scored), height, width), np.float32)
    total = np.zeros((height, width), np.float32)
    windows = grid(height, width, window_px, overlap_px)
    for start in range(0, len(windows), batch):
        group = windows[start : start + batch]
        crops = np.stack([image[window.slices] for window in group])
        for window, probabilities in zip(group, _classify(runtime, crops), strict=True):
            weights = blend_weights(window, height, width, overlap_px)
            sums[:, *window.slices] += probabilities * weights
            total[window.slices] += weights
    sums /= total
    return sums


def _classify(runtime: Runtime, images: UInt8Array) -> Float32Array:
    """Run the network on uint8 (N, H, W, 3), mirrored outwards where smaller than a network can take."""
    height, width = images.shape[1:3]
    below, right = max(0, _MINIMUM_PX - height), max(0, _MINIMUM_PX - width)
    if below or right:
        images = np.pad(images, ((0, 0), (0, below), (0, right), (0, 0)), mode="symmetric")
    probabilities = runtime.probabilities(images)[:, :, :height, :width]
    if not np.isfinite(probabilities).all():  # argmax would make a map of it all the same
        raise ModelError(
            "The model answers with values that are no numbers: its weights are damaged, or its training "
            "broke down. Copy the model again, or train anew."
        )
    return probabilities
