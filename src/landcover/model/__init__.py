"""Networks: DeepLabv3+ on timm encoders.

Importing this package loads neither torch nor timm; asking for anything but :class:`ModelConfig` does.
"""

from typing import TYPE_CHECKING

from landcover.extras import lazy_names
from landcover.model.settings import ModelConfig

if TYPE_CHECKING:
    from landcover.model.catalogue import EncoderInfo, describe_encoder
    from landcover.model.deeplabv3plus import DeepLabV3Plus
    from landcover.model.encoders import TESTED_ENCODERS
    from landcover.model.parameters import parameter_groups
    from landcover.model.registry import MODELS, build_model, register

__all__ = [
    "MODELS",
    "TESTED_ENCODERS",
    "DeepLabV3Plus",
    "EncoderInfo",
    "ModelConfig",
    "build_model",
    "describe_encoder",
    "parameter_groups",
    "register",
]

__getattr__ = lazy_names(
    __name__,
    {
        "MODELS": "registry",
        "TESTED_ENCODERS": "encoders",
        "DeepLabV3Plus": "deeplabv3plus",
        "EncoderInfo": "catalogue",
        "build_model": "registry",
        "describe_encoder": "catalogue",
        "parameter_groups": "parameters",
        "register": "registry",
    },
    extra="train",
)
