"""Optional dependencies: a missing one becomes an error that names the command to run."""

from collections.abc import Iterator
from contextlib import contextmanager

from landcover.errors import MissingExtraError


@contextmanager
def needs(extra: str) -> Iterator[None]:
    """Guard imports that belong to an extra.

    Args:
        extra: The extra's name in ``pyproject.toml``, such as ``train``.

    Raises:
        MissingExtraError: If an import inside the block fails because a library outside landcover is missing.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] == "landcover":
            raise
        raise MissingExtraError(
            f"This needs {error.name}, which is not installed. Run: pip install 'landcover[{extra}]'"
        ) from error
