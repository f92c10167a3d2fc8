"""landcover: half-metre satellite imagery in, land-cover maps that can be trusted out.

The public names are imported on first use: ``import landcover`` loads none of the heavy libraries.
``__init__.pyi`` lists them, here and for type checkers and editors.
"""

import re
from pathlib import Path

from landcover.extras import lazy_names

__version__ = "0.2.0"

_STUB = Path(__file__).with_suffix(".pyi").read_text(encoding="utf-8")
_HOME = {name: home for home, name in re.findall(r"from landcover\.(\S+) import (\w+)", _STUB)}

__all__ = ["__version__", *sorted(_HOME)]

__getattr__ = lazy_names(__name__, _HOME)


def __dir__() -> list[str]:
    return sorted(__all__)
