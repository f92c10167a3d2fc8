"""Architectures by name, and the one way to build a model."""

from collections.abc import Callable
from pathlib import Path

from landcover.errors import ConfigError, UsageError, did_you_mean
from landcover.model.deeplabv3plus import DeepLabV3Plus
from landcover.model.encoders import build_encoder
from landcover.model.settings import ModelConfig
from landcover.model.weights import load_encoder_weights

Architecture = type[DeepLabV3Plus]

MODELS: dict[str, Architecture] = {}
"""Architecture by the name that a configuration gives it."""


def register(name: str) -> Callable[[Architecture], Architecture]:
    """Return a class decorator that enters an architecture under ``name``.

    Raises:
        ValueError: If the name is taken.
    """

    def enter(architecture: Architecture) -> Architecture:
        if name in MODELS:
            raise ValueError(
                f"The architecture {name!r} is registered already, by {MODELS[name].__qualname__}."
            )
        MODELS[name] = architecture
        return architecture

    return enter


register("deeplabv3plus")(DeepLabV3Plus)


def build_model(config: ModelConfig, *, classes: int, weights: str | Path | None = None) -> DeepLabV3Plus:
    """Build a model in training mode.

    Random weights come from torch's global generator: seed it for a reproducible start.

    Args:
        config: Architecture, encoder and widths.
        classes: Number of outputs: the scored classes of the legend.
        weights: For the encoder: None for random, ``"timm"`` for timm's own, or a safetensors file.

    Raises:
        ConfigError: If the architecture or encoder is unknown; the message names the nearest ones.
        ModelError: If the encoder cannot have the output stride, or the weights do not fit or cannot be read.
        UsageError: If there is no class.
    """
    if classes < 1:
        raise UsageError(f"A model needs at least one class; found {classes}.")
    if config.architecture not in MODELS:
        raise ConfigError(
            f"There is no architecture {config.architecture!r}. {did_you_mean(config.architecture, MODELS)}"
        )
    encoder = build_encoder(config.encoder, config.output_stride)
    if weights is not None:
        load_encoder_weights(encoder, weights)
    return MODELS[config.architecture](encoder, config, classes=classes)
