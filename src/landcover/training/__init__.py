"""Training: one configuration, one loop, one folder per run.

Configurations and presets load neither torch nor timm; :func:`train` does, when it is first used.
"""

from typing import TYPE_CHECKING, Any

from landcover.extras import lazy_names, needs
from landcover.training.config import TrainConfig, load_preset, presets

if TYPE_CHECKING:
    from landcover.training.session import TrainResult, train

__all__ = ["TrainConfig", "TrainResult", "load_preset", "presets", "train"]

_get = lazy_names(__name__, {"TrainResult": "session", "train": "session"})


def __getattr__(name: str) -> Any:
    with needs("train"):
        return _get(name)
