"""Networks: DeepLabv3+ on timm encoders.

Importing this package loads neither torch nor timm; asking for anything but :class:`ModelConfig` does.
"""

from typing import TYPE_CHECKING, Any

from landcover.extras import needs
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

_HOMES = {
    "MODELS": "registry",
    "TESTED_ENCODERS": "encoders",
    "DeepLabV3Plus": "deeplabv3plus",
    "EncoderInfo": "catalogue",
    "build_model": "registry",
    "describe_encoder": "catalogue",
    "parameter_groups": "parameters",
    "register": "registry",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    with needs("train"):
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
