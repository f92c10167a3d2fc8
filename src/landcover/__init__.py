"""landcover: half-metre satellite imagery in, land-cover maps that can be trusted out.

The public names are imported on first use: ``import landcover`` loads none of the heavy libraries.
``__init__.pyi`` lists them, here and for type checkers and editors.
"""

from landcover.extras import lazy_imports

__version__ = "0.2.0"

__getattr__, _names = lazy_imports(__name__, f"{__file__}i")  # the stub
__all__ = ["__version__", *_names]


def __dir__() -> list[str]:
    return sorted(__all__)
