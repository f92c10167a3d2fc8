"""Batches of augmented crops, read ahead by threads while the network computes.

A batch is uint8 until it is on the device: there the colour variation and the normalisation, both of them
affine in the bands, are one matrix product for each image (:func:`normalise`).
"""

import io
from collections.abc import Generator
from itertools import count
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageFilter
from torch import Tensor

from landcover._typing import Float32Array, UInt8Array
from landcover.io.readahead import parallel_map
from landcover.model.preprocessing import RGB, Preprocessing, resample_image, resample_mask
from landcover.training.config import AugmentConfig, TrainConfig
from landcover.training.data import TrainingData
from landcover.training.sampler import CropSampler, NeighbourTiles, assemble_crop
from landcover.training.teachers import SoftLabels

_KERNELS = (
    Image.Resampling.BOX,
    Image.Resampling.BILINEAR,
    Image.Resampling.BICUBIC,
    Image.Resampling.LANCZOS,
)
_GREY = np.full((3, 3), 1 / 3)
_TURN = np.array([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / np.sqrt(3)


class Batch(NamedTuple):
    """The input of one forward pass; a single crop has the same arrays without the axis N.

    Attributes:
        images: uint8 (N, H, W, B).
        targets: uint8 (N, H, W): channel of each pixel, or ``IGNORE``.
        colours: float32 (N, B, B + 1): colour matrices for :func:`normalise`.
        soft: uint8 (N, h, w, C): soft labels in cells of the crops; None without teachers.
    """

    images: UInt8Array
    targets: UInt8Array
    colours: Float32Array
    soft: UInt8Array | None = None


class BatchReader:
    """The endless sequence of a run's batches; batch ``n`` depends on the configuration and ``n`` alone.

    Of several processes, each takes every ``size``-th crop, from its ``rank`` on: together they have the
    crops of a batch that is ``size`` times as large.
    """

    def __init__(
        self,
        data: TrainingData,
        config: TrainConfig,
        preprocessing: Preprocessing,
        soft: SoftLabels | None = None,
        *,
        rank: int = 0,
        size: int = 1,
    ) -> None:
        self._rank, self._size = rank, size
        self._data = data
        self._config = config
        self._preprocessing = preprocessing
        self._soft = soft
        scenes = (config.across_tiles and data.dataset.scenes) or {}
        self._neighbours = NeighbourTiles([scenes.get(item.key) for item in data.train], data.sizes)
        self._sampler = CropSampler(
            data.class_counts,
            side_px=config.crop_px / (data.data_gsd / data.model_gsd),
            scale=config.augment.scale,
            balance=config.class_balance,
            seed=config.seed,
            neighbours=self._neighbours if scenes else None,
        )

    def read(self, n: int) -> Batch:
        """Read batch ``n``."""
        crops = self._config.batch_size * self._size
        own = range(n * crops + self._rank, (n + 1) * crops, self._size)
        images, targets, colours, soft = zip(*map(self._crop, own), strict=True)
        return Batch(
            np.stack(images),
            np.stack(targets),
            np.stack(colours),
            None if self._soft is None else np.stack(soft),
        )

    def stream(self, first: int) -> Generator[Batch, None, None]:
        """Yield the batches from number ``first`` on, read ahead.

        Reading copies memory, and decoding and resampling release Python's lock: one thread beside the
        network's is enough for a prepared cache.
        """
        loaders = self._config.loaders
        return parallel_map(self.read, count(first), workers=loaders, ahead=2 * loaders)

    def _crop(self, n: int) -> Batch:
        crop = self._sampler[n]
        pieces = list(self._neighbours.pieces(crop))
        dataset, items = self._data.dataset, self._data.train
        image, channels = assemble_crop(
            pieces,
            crop.side,
            lambda item, window: dataset.read_imagery(items[item], window),
            lambda item, window: np.take(dataset.legend.channels, dataset.read_mask(items[item], window)),
        )
        cells = self._config.crop_px // self._config.loss.stride
        soft = None if self._soft is None else self._soft.cut(pieces, crop.side, cells)
        return augment(image, channels, soft, crop.rng, self._config, self._preprocessing)


def augment(
    image: UInt8Array,
    channels: UInt8Array,
    soft: UInt8Array | None,
    rng: np.random.Generator,
    config: TrainConfig,
    preprocessing: Preprocessing,
) -> Batch:
    """Resample a crop to ``crop_px``, turn it and draw its colour variation.

    The arrays are those of a :class:`Batch`, with any side in pixels of the data.
    """
    size = config.crop_px, config.crop_px
    symmetry = int(rng.integers(8)) if config.augment.d4 else 0
    colours = draw_colours(rng, config.augment, preprocessing)
    if config.augment.texture:
        image = vary_texture(rng, image, config.crop_px, config.augment.texture)
    return Batch(
        d4(resample_image(image, size), symmetry),
        d4(resample_mask(channels, size), symmetry),
        colours,
        None if soft is None else d4(soft, symmetry),
    )


def d4(array: UInt8Array, symmetry: int) -> UInt8Array:
    """Return a view of (H, W, ...) under one of the eight symmetries of the square, numbered 0..7."""
    turned = np.rot90(array, symmetry % 4)
    return turned[:, ::-1] if symmetry >= 4 else turned


def vary_texture(rng: np.random.Generator, image: UInt8Array, side_px: int, probability: float) -> UInt8Array:
    """Change the fine texture of a crop, uint8 (side, side, B), as other cameras and compression would.

    A network that is trained on imagery of one origin otherwise relies on its artefacts: DeepGlobe's tiles,
    reduced and saved at JPEG quality 75, differ in this alone from the full-size images. Each change has the
    ``probability``: Gaussian blur (sigma up to 1 pixel) or sharpening; JPEG of quality 50 to 95; resampling
    to ``side_px`` by another kernel than the network's own. Bands after the third are changed alike, each as
    a grey picture.
    """
    changes = rng.random(3) < probability
    amount, quality, kernel = rng.uniform(-1, 1), int(rng.integers(50, 96)), int(rng.integers(len(_KERNELS)))

    def changed(bands: UInt8Array) -> UInt8Array:
        picture = Image.fromarray(np.ascontiguousarray(bands))
        if changes[0] and amount > 0:
            picture = picture.filter(ImageFilter.GaussianBlur(amount))
        elif changes[0]:
            sharpen = ImageFilter.UnsharpMask(radius=1, percent=round(-100 * amount), threshold=0)
            picture = picture.filter(sharpen)
        if changes[1]:
            file = io.BytesIO()
            picture.save(file, "JPEG", quality=quality)
            picture = Image.open(file)
        if changes[2]:
            picture = picture.resize((side_px, side_px), _KERNELS[kernel])
        return np.asarray(picture)

    others = [changed(image[..., band])[..., None] for band in range(3, image.shape[2])]
    return np.concatenate([changed(image[..., :3]), *others], axis=2) if others else changed(image)


def draw_colours(
    rng: np.random.Generator, config: AugmentConfig, preprocessing: Preprocessing
) -> Float32Array:
    """Draw a colour variation, combined with the normalisation: float32 (B, B + 1).

    In this order: hue (a rotation about the grey axis), saturation (towards or away from grey), contrast
    (towards or away from the mean colour), brightness (a factor), channel gain (a factor for each channel, as
    haze and season change them). Values are not clipped at black and white.

    The matrix is for the B values of a pixel, in 0..255, and 1. Of B bands hue and saturation change those
    that the preprocessing names red, green and blue, else the first three, and leave the others as they are;
    contrast, brightness and gain change all.
    """
    bands = preprocessing.bands
    count = len(bands)
    rgb = [bands.index(name) for name in RGB] if set(RGB) <= set(bands) else [0, 1, 2]
    turn, saturation, contrast, brightness, *gains = rng.uniform(-1, 1, 4 + count) * (
        2 * np.pi * config.hue,
        config.saturation,
        config.contrast,
        config.brightness,
        *count * (config.channel_gain,),
    )
    mean, std = np.asarray(preprocessing.mean), np.asarray(preprocessing.std)
    # Rodrigues' rotation formula.
    hue = np.cos(turn) * np.eye(3) + np.sin(turn) * _TURN + (1 - np.cos(turn)) * _GREY
    saturate = (1 + saturation) * np.eye(3) - saturation * _GREY
    factors = (1 + brightness) * (1 + np.array(gains))
    colours = np.eye(count)
    colours[np.ix_(rgb, rgb)] = saturate @ hue
    matrix = (1 + contrast) * factors[:, None] * colours / 255
    offset = -contrast * factors * mean
    return np.column_stack((matrix, offset - mean)).astype(np.float32) / std.astype(np.float32)[:, None]


def normalise(images: Tensor, colours: Tensor) -> Tensor:
    """Apply (N, B, B + 1) colour matrices to uint8 (N, H, W, B): float32 (N, B, H, W), channels last."""
    pixels = images.flatten(1, 2).float()
    mixed = torch.baddbmm(colours[:, None, :, -1], pixels, colours[..., :-1].mT)
    return mixed.view(images.shape).permute(0, 3, 1, 2)
