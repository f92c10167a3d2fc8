"""What a model is made of, as configuration."""

from typing import Annotated, Literal

from pydantic import Field

from landcover.config import Config

Count = Annotated[int, Field(ge=1)]

DEFAULT_ASPP_RATES: dict[int, tuple[int, int, int]] = {8: (12, 24, 36), 16: (6, 12, 18), 32: (3, 6, 9)}
"""Atrous rates by output stride: the paper's at 16 and 8; the same reach in pixels of the image at 32."""


class ModelConfig(Config):
    """Architecture, encoder and widths of a model.

    Attributes:
        architecture: Name in the registry, see ``landcover models``.
        encoder: Name of a timm model that gives features.
        output_stride: Pixels of the image per pixel of the encoder's deepest features.
        aspp_channels: Channels of each branch of the atrous spatial pyramid and of their fusion.
        aspp_rates: Atrous rates of its three 3x3 convolutions; None for :data:`DEFAULT_ASPP_RATES`.
        separable: 3x3 convolutions as depthwise and pointwise ones (fewer operations), else plain.
        decoder_channels: Channels of the decoder's two 3x3 convolutions.
        low_level_channels: Channels that the encoder's stride-4 features are reduced to.
        dropout: Share of the fused pyramid's values that is dropped in training.
        freeze_batch_norm: Keep every batch norm as it is, statistics, scale and offset, also in training. For
            fine-tuning a model whose norms are trained (as the paper does at output stride 8).
    """

    architecture: str = "deeplabv3plus"
    encoder: str = "mobilenetv2_100"
    output_stride: Literal[8, 16, 32] = 16
    aspp_channels: Count = 256
    aspp_rates: tuple[Count, Count, Count] | None = None
    separable: bool = True
    decoder_channels: Count = 256
    low_level_channels: Count = 48
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    freeze_batch_norm: bool = False
