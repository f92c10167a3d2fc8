"""Networks and model files: DeepLabv3+ on timm encoders, cards, runtimes.

Importing this package loads neither torch nor timm; using any name except :class:`ModelConfig` does.
"""

from typing import TYPE_CHECKING

from landcover.extras import lazy_names
from landcover.model.settings import ModelConfig

if TYPE_CHECKING:
    from landcover.model.encoders import TESTED_ENCODERS, EncoderInfo, describe_encoder
    from landcover.model.network import DeepLabV3Plus, build_model

__all__ = [
    "TESTED_ENCODERS",
    "DeepLabV3Plus",
    "EncoderInfo",
    "ModelConfig",
    "build_model",
    "describe_encoder",
]

__getattr__ = lazy_names(
    __name__,
    {
        "TESTED_ENCODERS": "encoders",
        "DeepLabV3Plus": "network",
        "EncoderInfo": "encoders",
        "build_model": "network",
        "describe_encoder": "encoders",
    },
    extra="train",
)
