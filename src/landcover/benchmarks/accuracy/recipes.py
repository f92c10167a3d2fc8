"""The peers' recipes, and their crops: read and varied the usual way, with Pillow and ``random``."""

import math
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageEnhance
from torch import Tensor

from landcover.config import Config, load_config
from landcover.data import Item
from landcover.errors import DataError, UsageError, did_you_mean
from landcover.io import colours_to_index
from landcover.legend import Legend, UInt8Array

MEAN = np.array([0.485, 0.456, 0.406], np.float32)
STD = np.array([0.229, 0.224, 0.225], np.float32)
RESULT_NAME = "training.json"
"""What a peer's finished training leaves beside its weights."""


class Recipe(Config):
    """How a peer is trained.

    Attributes:
        encoder: timm's name of the encoder; its output stride is 16.
        crop_px: Height and width of a crop.
        batch_size: Crops per step.
        learning_rate: Of everything but the encoder.
        encoder_learning_rate: Of the encoder.
        weight_decay: Of all parameters.
        power: Of the polynomial decay.
        scale: Smallest and largest magnification of a crop, drawn evenly in the logarithm.
        jitter: Largest change of brightness, contrast and saturation, as a share.
    """

    encoder: str = "mobilenetv2_100"
    crop_px: int = 320
    batch_size: int = 12
    learning_rate: float = 1e-3
    encoder_learning_rate: float = 3e-4
    weight_decay: float = 1e-2
    power: float = 0.9
    scale: tuple[float, float] = (1.0, 1.0)
    jitter: float = 0.0


RECIPES = {
    "reference": Recipe(),
    "peer": Recipe(encoder="tf_efficientnet_b4", scale=(0.75, 1.5), jitter=0.2),
}
"""``reference`` as it was measured from the beginning; ``peer``, a strong one, priors and not tuned."""


def load_recipe(name: str) -> Recipe:
    """Return one of :data:`RECIPES`, or the recipe in a YAML file.

    Raises:
        UsageError: If it is neither.
        ConfigError: If the file does not fit; the message names the key.
    """
    if name in RECIPES:
        return RECIPES[name]
    if Path(name).is_file():
        return load_config(Recipe, Path(name))
    raise UsageError(f"No recipe {name!r}. {did_you_mean(name, RECIPES)}")


class Crops(torch.utils.data.Dataset[tuple[Tensor, Tensor]]):
    """One random crop, magnified, turned and flipped at random, of each image in an epoch."""

    def __init__(self, items: Sequence[Item], legend: Legend, recipe: Recipe) -> None:
        self.items, self.legend, self.recipe = items, legend, recipe

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        item = self.items[number]
        if not item.image.is_file() or item.mask is None:
            raise DataError(f"{item.key} has no pair of files; the peers' recipes read files, not a cache.")
        image = np.asarray(Image.open(item.image).convert("RGB"))
        index, _ = colours_to_index(np.asarray(Image.open(item.mask).convert("RGB")), self.legend)
        side = min(round(self.recipe.crop_px / self._magnification()), *index.shape)
        row = random.randint(0, image.shape[0] - side)
        col = random.randint(0, image.shape[1] - side)
        window = slice(row, row + side), slice(col, col + side)
        turns, mirror = random.randint(0, 3), random.random() < 0.5
        picture = self._jitter(self._sized(_turn(image[window], turns, mirror), Image.Resampling.BILINEAR))
        target = self._sized(_turn(index[window], turns, mirror), Image.Resampling.NEAREST)
        normalised = (picture.astype(np.float32) / 255 - MEAN) / STD
        return (
            torch.from_numpy(np.ascontiguousarray(normalised.transpose(2, 0, 1))),
            torch.from_numpy(self.legend.channels[target].astype(np.int64)),
        )

    def _magnification(self) -> float:
        low, high = self.recipe.scale
        return low if low == high else math.exp(random.uniform(math.log(low), math.log(high)))

    def _sized(self, array: UInt8Array, method: Image.Resampling) -> UInt8Array:
        size = self.recipe.crop_px
        if array.shape[0] == size:
            return array
        return np.asarray(Image.fromarray(array).resize((size, size), method))

    def _jitter(self, image: UInt8Array) -> UInt8Array:
        if not self.recipe.jitter:
            return image
        picture = Image.fromarray(image)
        for change in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
            picture = change(picture).enhance(1 + random.uniform(-self.recipe.jitter, self.recipe.jitter))
        return np.asarray(picture)


def _turn(array: UInt8Array, turns: int, mirror: bool) -> UInt8Array:
    array = np.rot90(array, turns)
    return array[:, ::-1] if mirror else array
