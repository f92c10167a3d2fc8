"""How pixels reach the network, and how its answers return to the image's grid.

:class:`Preprocessing` is stored in every model, and training, evaluation and prediction use it and the
functions below alike: what a network was trained on and what it is given cannot drift apart.

All resampling takes pixel centres to pixel centres (pixel ``i`` covers ``[i, i + 1)``), so nothing moves by
half a pixel. The filters are Pillow's, which weigh source pixels by their distance from the exact position:
bilinear to enlarge, Hamming to reduce. From 0.5 m to 1.195 m on real imagery Hamming came nearest to an exact
average over each pixel's area (RMSE 0.44 grey values; bilinear 1.4; box 1.8, with shifts of 0.3 pixels).
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from landcover.errors import ConfigError, UsageError
from landcover.legend import UInt8Array

Float32Array = npt.NDArray[np.float32]
Size = tuple[int, int]
"""Height and width in pixels."""

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Mean and standard deviation of RGB in 0..1 that timm's encoders were pretrained with."""

_BAND_PX = 256


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """What a network expects of its input.

    Attributes:
        gsd: Ground sample distance in metres per pixel; imagery of another one is resampled to it.
        mean: Mean of red, green and blue in 0..1.
        std: Standard deviation of red, green and blue in 0..1.

    Raises:
        ConfigError: If a value is not finite, or the GSD or a standard deviation is not positive.
    """

    gsd: float
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    def __post_init__(self) -> None:
        check_gsd(self.gsd)
        if len(self.mean) != 3 or len(self.std) != 3 or not all(map(math.isfinite, self.mean)):
            raise ConfigError(f"mean {self.mean} and std {self.std} must be three finite numbers each.")
        if not all(math.isfinite(value) and value > 0 for value in self.std):
            raise ConfigError(f"std {self.std} must be positive: pixels are divided by it.")

    @property
    def factors(self) -> tuple[Float32Array, Float32Array]:
        """``scale`` and ``offset``, float32 (3,) each: normalised = pixel * scale + offset."""
        mean, std = np.asarray(self.mean), np.asarray(self.std)
        return (1 / (255 * std)).astype(np.float32), (-mean / std).astype(np.float32)

    def normalise(self, batch: UInt8Array) -> Float32Array:
        """Turn uint8 (..., 3) RGB into float32 (..., 3): ``(pixel / 255 - mean) / std`` for each colour."""
        scale, offset = self.factors
        normalised = batch * scale
        normalised += offset
        return normalised


def check_gsd(gsd: float) -> float:
    """Return ``gsd`` if it can be a ground sample distance in metres per pixel.

    Raises:
        ConfigError: If it is not a finite number above zero.
    """
    if not (math.isfinite(gsd) and gsd > 0):
        raise ConfigError(f"A ground sample distance of {gsd} was given; expected metres per pixel above 0.")
    return gsd


def scaled_size(size: Size, scale: float) -> Size:
    """Height and width times ``scale``, rounded, at least 1 pixel each."""
    height, width = size
    return max(1, round(height * scale)), max(1, round(width * scale))


def resample_image(image: UInt8Array, size: Size | float) -> UInt8Array:
    """Resample an image: the average over each new pixel's area to reduce, bilinear to enlarge.

    Args:
        image: uint8 (H, W, 3).
        size: Height and width of the result, or one factor for both (0.5 halves the sides).

    Returns:
        uint8 (h, w, 3); ``image`` itself where the size is the same.
    """
    source = (image.shape[0], image.shape[1])
    target = _target(source, size)
    if target == source:
        return image
    return np.asarray(Image.fromarray(image).resize(target[::-1], _filter(source, target)))


def resample_mask(mask: UInt8Array, size: Size | float) -> UInt8Array:
    """Resample class indices to the nearest pixel: no value appears that was not there.

    Args:
        mask: uint8 (H, W).
        size: Height and width of the result, or one factor for both.

    Returns:
        uint8 (h, w); ``mask`` itself where the size is the same.
    """
    source = (mask.shape[0], mask.shape[1])
    target = _target(source, size)
    if target == source:
        return mask
    return np.asarray(Image.fromarray(mask).resize(target[::-1], Image.Resampling.NEAREST))


def resample_probabilities(probabilities: Float32Array, size: Size) -> Float32Array:
    """Resample the probability of each class; where they summed to one they still do.

    Args:
        probabilities: float32 (C, h, w).
        size: Height and width (H, W) of the result.

    Returns:
        float32 (C, H, W); ``probabilities`` itself where the size is the same.
    """
    if probabilities.shape[1:] == size:
        return probabilities
    result = np.empty((len(probabilities), *size), np.float32)
    for rows, band in resampled_bands(probabilities, size):
        result[:, rows] = band
    return result


def resampled_bands(probabilities: Float32Array, size: Size) -> Iterator[tuple[slice, Float32Array]]:
    """Yield the result of :func:`resample_probabilities` as bands of rows, from the top.

    For a consumer that keeps less than all of it, such as an argmax: for six classes at 2448 x 2448 the whole
    result is 144 MB, a band 15 MB.

    Args:
        probabilities: float32 (C, h, w).
        size: Height and width (H, W) of the whole result.

    Yields:
        The band's rows in the result, and float32 (C, rows, W), which the consumer may not write to.
    """
    classes, height, width = probabilities.shape
    if (height, width) == size:
        for top in range(0, height, _BAND_PX):
            rows = slice(top, min(top + _BAND_PX, height))
            yield rows, probabilities[:, rows]
        return
    planes = [Image.fromarray(np.ascontiguousarray(plane)) for plane in probabilities]
    step, resample = height / size[0], _filter((height, width), size)
    for top in range(0, size[0], _BAND_PX):
        rows = slice(top, min(top + _BAND_PX, size[0]))
        box = (0.0, rows.start * step, float(width), min(rows.stop * step, height))
        band = np.empty((classes, rows.stop - top, size[1]), np.float32)
        for channel, plane in zip(band, planes, strict=True):
            channel[:] = np.asarray(plane.resize((size[1], rows.stop - top), resample, box))
        yield rows, band


def _target(source: Size, size: Size | float) -> Size:
    target = tuple(size) if isinstance(size, Sequence) else scaled_size(source, size)
    if len(target) != 2 or min(target) < 1:
        raise UsageError(f"An image of {source[0]} x {source[1]} pixels cannot be resampled to {size}.")
    return target


def _filter(source: Size, target: Size) -> Image.Resampling:
    reduces = target[0] * target[1] < source[0] * source[1]
    return Image.Resampling.HAMMING if reduces else Image.Resampling.BILINEAR
