"""landcover: half-metre satellite imagery in, land-cover maps that can be trusted out.

Every verb of the command line is a function here. They are imported on first use, so that
``import landcover`` loads none of the heavy libraries.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_VERBS = {
    "calibrate": "landcover.evaluation.temperature",
    "clean": "landcover.postprocess",
    "convert": "landcover.data",
    "evaluate": "landcover.evaluation",
    "export": "landcover.exporting",
    "predict": "landcover.inference",
    "prepare": "landcover.data",
    "report": "landcover.reporting",
    "sample": "landcover.evaluation.sampling",
    "train": "landcover.training",
    "vectorize": "landcover.postprocess.vectorize",
    "verify": "landcover.data",
}

__all__ = ["__version__", *_VERBS]


def __getattr__(name: str) -> Any:
    if name in _VERBS:
        return getattr(import_module(_VERBS[name]), name)
    raise AttributeError(f"module 'landcover' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
