"""Lazy imports, and optional dependencies with an error that names the install command."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
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


def lazy_names(package: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """Return a package's ``__getattr__`` that imports each name, from its module there, when it is used."""

    def get(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(f"{package}.{homes[name]}"), name)

    return get
