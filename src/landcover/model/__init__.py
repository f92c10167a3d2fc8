"""Networks and model files: DeepLabv3+ on timm encoders, cards, runtimes.

Importing this package loads neither torch nor timm; its modules ``network`` and ``encoders`` do.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from landcover.config import Config

Count = Annotated[int, Field(ge=1)]

OUTPUT_STRIDES = (8, 16, 32)


@dataclass(frozen=True)
class EncoderInfo:
    """Facts about an encoder; ``parameters`` is None if no output stride is possible.

    ``licence`` is that of timm's pretrained weights, if any; ``tested``: by the test suite, at these strides.
    """

    name: str
    parameters: int | None
    output_strides: tuple[int, ...] = OUTPUT_STRIDES
    licence: str | None = "apache-2.0"
    tested: bool = True


TESTED_ENCODERS = {
    encoder.name: encoder
    for encoder in (
        EncoderInfo("mobilenetv2_100", 1_811_712),
        EncoderInfo("mobilenetv3_large_100", 2_971_952),
        EncoderInfo("efficientnet_b0", 3_595_388),
        EncoderInfo("tf_efficientnet_b4", 16_742_216),
        EncoderInfo("resnet50", 23_508_032),
        EncoderInfo("resnet101", 42_500_160),
        EncoderInfo("resnetv2_101", 42_488_384),
        EncoderInfo("convnext_tiny", 27_818_592),
        EncoderInfo("regnetx_008", 6_586_656, licence="bsd-3-clause"),
        EncoderInfo("hgnetv2_b0", 1_850_396, (32,)),
        EncoderInfo("hgnetv2_b4", 13_553_376, (32,)),
    )
}
"""Encoders that the test suite covers; others are checked when they are built."""

DEFAULT_ASPP_RATES: dict[int, tuple[int, int, int]] = {8: (12, 24, 36), 16: (6, 12, 18), 32: (3, 6, 9)}
"""Atrous rates by output stride: the paper's at 16 and 8; the same reach in pixels of the image at 32."""


class ModelConfig(Config):
    """Settings that decide the shape of a network.

    Attributes:
        architecture: The one architecture; written to model cards.
        encoder: Name of a timm model with feature maps, see ``landcover models``.
        in_channels: Bands of the imagery. With more than three, pretrained weights of the first layer are
            repeated, see :func:`landcover.model.encoders.fit_first_layer`.
        output_stride: Pixels of the image per pixel of the encoder's deepest features.
        aspp_channels: Channels of each branch of the atrous spatial pyramid and of their fusion.
        aspp_rates: Atrous rates of its three 3x3 convolutions; None for :data:`DEFAULT_ASPP_RATES`.
        separable: Split 3x3 convolutions into depthwise and pointwise ones (fewer operations).
        decoder_channels: Channels of the decoder's two 3x3 convolutions.
        low_level_channels: Channels that the encoder's stride-4 features are reduced to.
        dropout: Fraction of the fused pyramid's values that is dropped in training, 0..1.
        freeze_batch_norm: Do not train any batch norm: statistics, scale and offset stay. For fine-tuning a
            model with trained norms (as the paper does at output stride 8).
    """

    architecture: Literal["deeplabv3plus"] = "deeplabv3plus"
    encoder: str = "mobilenetv2_100"
    in_channels: Annotated[int, Field(ge=3)] = 3
    output_stride: Literal[8, 16, 32] = 16
    aspp_channels: Count = 256
    aspp_rates: tuple[Count, Count, Count] | None = None
    separable: bool = True
    decoder_channels: Count = 256
    low_level_channels: Count = 48
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    freeze_batch_norm: bool = False
