"""Lazy imports, and optional dependencies with an error that names the install command."""

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from landcover.errors import MissingExtraError


@contextmanager
def needs(extra: str) -> Iterator[None]:
    """Guard imports of an extra of ``pyproject.toml``, such as ``train``, with an error that names it."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] == "landcover":
            raise
        raise MissingExtraError(
            f"This needs {error.name}, which is not installed. Run: pip install 'landcover[{extra}]'"
        ) from error


def lazy_imports(package: str, file: str) -> tuple[Callable[[str], Any], list[str]]:
    """Return a package's ``__getattr__`` that imports each name when it is first used, and all names.

    They are those that a file, the package's own or its stub, imports as ``from landcover.a import b as b``.
    """
    found = re.findall(r"from (landcover\.\S+) import (\w+) as ", Path(file).read_text(encoding="utf-8"))
    homes = {name: home for home, name in found}

    def get(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(homes[name]), name)

    return get, sorted(homes)


class _OnUse(ModuleType):
    """In place of a module that is loaded when an attribute of it is used."""

    def __getattr__(self, name: str) -> Any:
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return getattr(import_module(self.__name__), name)


def load_on_use(name: str) -> None:
    """Let a module that others import be loaded when they use it; one that is not installed stays missing."""
    if name not in sys.modules and (spec := find_spec(name)) is not None:
        module = sys.modules[name] = _OnUse(name)
        module.__spec__, module.__file__ = spec, spec.origin
