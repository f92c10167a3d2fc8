"""Networks and model files: DeepLabv3+ on timm encoders, cards, runtimes.

Importing this package loads neither torch nor timm; using any name except :class:`ModelConfig` does.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from landcover.extras import needs
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


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = "network" if name in ("DeepLabV3Plus", "build_model") else "encoders"
    with needs("train"):
        return getattr(import_module(f"{__name__}.{module}"), name)
