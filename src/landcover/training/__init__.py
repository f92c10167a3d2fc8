"""Training: one configuration, one loop, one folder per run.

Configurations and presets load neither torch nor timm; :func:`train` does, when it is first used.
"""

from typing import TYPE_CHECKING, Any

from landcover.extras import lazy_imports, needs
from landcover.training.config import TrainConfig as TrainConfig
from landcover.training.config import load_preset as load_preset
from landcover.training.config import presets as presets

if TYPE_CHECKING:
    from landcover.training.session import TrainResult as TrainResult
    from landcover.training.session import train as train

_get, __all__ = lazy_imports(__name__, __file__)


def __getattr__(name: str) -> Any:
    with needs("train"):
        return _get(name)
