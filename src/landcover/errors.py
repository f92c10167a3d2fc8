"""The error tree. Every message states what was found, what was expected, and what to do.

The command line turns any :class:`LandcoverError` into one message without a traceback: exit status 2 for
:class:`UsageError` (a wrong command), 1 for the others (a failure at run time).
"""

import unicodedata
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches

INTERRUPTED = 130
"""Exit status of a run that was stopped by Ctrl-C or SIGTERM: 128 and the number of SIGINT."""


class LandcoverError(Exception):
    """Base of every error that landcover raises on purpose.

    Example:
        >>> try:
        ...     lc.open_model("no such model")
        ... except lc.LandcoverError as error:
        ...     print(type(error).__name__)
        ModelError
    """


class UsageError(LandcoverError, ValueError):
    """An argument, option or combination of them cannot be used."""


class ConfigError(UsageError):
    """A configuration, legend or preset has an unknown key, a wrong type or contradicts itself."""


class SplitError(UsageError):
    """A split does not exist, lists missing items, or has an empty or overlapping subset."""


class DataError(LandcoverError, ValueError):
    """A data folder or one of its files is missing, damaged or invalid."""


class ImageError(DataError):
    """An image cannot be read or has an unsupported form."""


class MaskError(DataError):
    """A mask cannot be read, is not a mask, or does not fit its image or legend."""


class ChangedInputError(DataError):
    """A file is another one than was planned."""


class ModelError(LandcoverError, ValueError):
    """A model file or checkpoint is cut short, of another kind, or does not fit what it is used for."""


class TrainingError(LandcoverError, RuntimeError):
    """Training cannot start or continue."""


class LostProcessError(TrainingError):
    """Another process of a training on several processes has ended."""


class OutputError(LandcoverError, OSError):
    """An output exists already, collides with another, or cannot be written."""


class LockedError(OutputError):
    """Another process is writing the same output; it holds the lock until it ends."""


class OutputLostError(OutputError):
    """The folder of an output was removed, replaced or unmounted during the work."""


class StoreError(LandcoverError, OSError):
    """A store of results, a folder or a bucket, cannot be reached, read or written."""


class MissingKeyError(StoreError):
    """An object does not exist in a store."""


class FleetError(LandcoverError, RuntimeError):
    """Workers cannot be reached, cannot begin or have ended."""


class OutOfMemoryError(LandcoverError, MemoryError):
    """The work needs more memory than this process may use."""


class MissingExtraError(LandcoverError, ImportError):
    """A feature needs a library that an extra installs."""


class LandcoverWarning(UserWarning):
    """A problem that the user should know and that does not stop the run.

    Example:
        >>> import warnings
        >>> warnings.simplefilter("ignore", lc.LandcoverWarning)
    """


_LIBRARIES = frozenset(
    ["PIL", "affine", "onnxruntime", "openvino", "pyarrow", "pyogrio", "rasterio", "safetensors", "shapely"]
)
"""Libraries that read or interpret files."""


def foreign_reason(error: BaseException) -> str | None:
    """Return the first cause of an error that one of the libraries that read files raised; None for others.

    Their errors have no common type, some are plain ones of Python: the place where it was raised decides.
    """
    module, trace = type(error).__module__, error.__traceback__
    while trace is not None:
        module, trace = trace.tb_frame.f_globals.get("__name__") or module, trace.tb_next
    own = {module.partition(".")[0], type(error).__module__.partition(".")[0]}
    if isinstance(error, LandcoverError | MemoryError) or own.isdisjoint(_LIBRARIES):
        return None
    while error.__cause__ is not None:
        error = error.__cause__
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300].rstrip(". ")


@contextmanager
def foreign_errors(refuse: Callable[[str], LandcoverError]) -> Iterator[None]:
    """Turn errors of the libraries that read files into the one that ``refuse`` makes from the reason."""
    try:
        yield
    except Exception as error:
        if (reason := foreign_reason(error)) is None:
            raise
        raise refuse(reason) from error


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return the end of an error message: the matches close to ``name`` among ``known``, else all."""
    options = sorted(known)
    close = get_close_matches(name, options, n=3, cutoff=0.6)
    if close:
        return "Did you mean " + " or ".join(repr(c) for c in close) + "?"
    return "Known: " + ", ".join(options) + "."


def first_few(names: Iterable[object], shown: int = 5) -> str:
    """Return the first names of a message, and the number of the others: ``a, b, and 2 more``."""
    texts = [str(name) for name in names]
    more = len(texts) - shown
    return ", ".join(texts[:shown] + ([f"and {more} more"] if more > 0 else []))


def shortened(text: str, length: int = 40) -> str:
    """Return a text in quotes, with ``...`` after its first characters where it has more: ``'aaaa'...``."""
    return f"{text[:length]!r}{'...' * (len(text) > length)}"


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, in the plural where it is not 1: ``1,200 masks``."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


def is_plain(text: str) -> bool:
    """Return whether a text has no control characters, no ends of lines, and no lone surrogates."""
    return all(unicodedata.category(character) not in ("Cc", "Cs", "Zl", "Zp") for character in text)


def printable(text: str) -> str:
    """Return a text as one line that is safe for terminals: what changes others is escaped."""
    return "".join(
        c.encode("unicode_escape").decode() if unicodedata.category(c) == "Cf" or not is_plain(c) else c
        for c in text
    )
