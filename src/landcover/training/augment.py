"""Crops to batches: resample, turn, and vary the colours.

A batch is uint8 until it is on the device: there the colour variation and the normalisation, both of them
affine in (red, green, blue), are one matrix product for each image (:func:`normalise`).
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from landcover.legend import UInt8Array
from landcover.model.preprocessing import Preprocessing, resample_image, resample_mask
from landcover.training.config import AugmentConfig

Float32Array = npt.NDArray[np.float32]

_GREY = np.full((3, 3), 1 / 3)
_TURN = np.array([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / np.sqrt(3)


class Batch(NamedTuple):
    """What one forward pass needs, in arrays that the next but two batch overwrites.

    Attributes:
        images: uint8 (N, H, W, 3).
        targets: uint8 (N, H, W): channel of each pixel, or ``IGNORE``.
        colours: float32 (N, 3, 4): what :func:`normalise` applies to the images.
        soft: uint8 (N, h, w, C): soft labels in cells of the crops, None without teachers.
    """

    images: UInt8Array
    targets: UInt8Array
    colours: Float32Array
    soft: UInt8Array | None = None


def fill_sample(
    batch: Batch,
    slot: int,
    rng: np.random.Generator,
    image: UInt8Array,
    channels: UInt8Array,
    config: AugmentConfig,
    preprocessing: Preprocessing,
    soft: UInt8Array | None = None,
) -> None:
    """Write one crop, resampled and augmented, into a batch.

    Args:
        batch: Where to write.
        slot: Which of the batch's samples.
        rng: The augmentation is drawn from it.
        image: The crop, uint8 (side, side, 3).
        channels: Its mask as channels, uint8 (side, side).
        config: What may be varied.
        preprocessing: Of the model.
        soft: Its soft labels, uint8 (h, w, C), where the batch has such.
    """
    target = batch.targets.shape[1:3]
    symmetry = int(rng.integers(8)) if config.d4 else 0
    batch.images[slot] = d4(resample_image(image, target), symmetry)
    batch.targets[slot] = d4(resample_mask(channels, target), symmetry)
    batch.colours[slot] = draw_colours(rng, config, preprocessing)
    if batch.soft is not None and soft is not None:
        batch.soft[slot] = d4(soft, symmetry)


def d4(array: UInt8Array, symmetry: int) -> UInt8Array:
    """Return a view of (H, W, ...) under one of the eight symmetries of the square: turned, mirrored."""
    turned = np.rot90(array, symmetry % 4)
    return turned[:, ::-1] if symmetry >= 4 else turned


def draw_colours(
    rng: np.random.Generator, config: AugmentConfig, preprocessing: Preprocessing
) -> Float32Array:
    """Draw a variation of colours, then normalise: float32 (3, 4) for (R, G, B, 1) with R, G, B in 0..255.

    In this order: hue (a turn about the grey axis), saturation (away from or to grey), contrast (away from
    or to the mean colour), brightness (a factor), channel gain (a factor for each channel, as haze and season
    change them). Values are not cut off at black and white.
    """
    turn, saturation, contrast, brightness, *gains = rng.uniform(-1, 1, 7) * (
        2 * np.pi * config.hue,
        config.saturation,
        config.contrast,
        config.brightness,
        *3 * (config.channel_gain,),
    )
    mean, std = np.asarray(preprocessing.mean), np.asarray(preprocessing.std)
    # A turn about an axis, after Rodrigues.
    hue = np.cos(turn) * np.eye(3) + np.sin(turn) * _TURN + (1 - np.cos(turn)) * _GREY
    saturate = (1 + saturation) * np.eye(3) - saturation * _GREY
    factors = (1 + brightness) * (1 + np.array(gains))
    matrix = (1 + contrast) * factors[:, None] * (saturate @ hue) / 255
    offset = -contrast * factors * mean
    return np.column_stack((matrix, offset - mean)).astype(np.float32) / std.astype(np.float32)[:, None]


def normalise(images: Tensor, colours: Tensor) -> Tensor:
    """Apply (N, 3, 4) colour matrices to uint8 (N, H, W, 3).

    Returns:
        float32 (N, 3, H, W), channels last in memory.
    """
    pixels = images.flatten(1, 2).float()
    mixed = torch.baddbmm(colours[:, None, :, 3], pixels, colours[..., :3].mT)
    return mixed.view(images.shape).permute(0, 3, 1, 2)
