"""Where a verb's results and messages go: to people, to standard output as JSON, into files."""

import logging
import re
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from landcover.errors import UsageError, printable

if TYPE_CHECKING:
    from rich.table import Table

log = logging.getLogger("landcover.cli")
"""Messages of the command line to people, on standard error."""

_STDOUT = Path("-")

_REPORTS = {"json": ".json", "csv": ".csv", "stac_mlm": ".json"}
"""Options of verbs that name a report, and the suffix it must have."""

_DATA = re.compile(r"(.*/)?(index\.json|scenes\.csv|ann/[^/]+\.json)")
"""Files with these suffixes that data sets consist of."""


class _TextFormatter(logging.Formatter):
    """``Warning: message``; with the time where nobody watches."""

    def __init__(self, *, times: bool) -> None:
        super().__init__()
        self._times = times

    def format(self, record: logging.LogRecord) -> str:
        name = f"{record.levelname.capitalize()}: " if record.levelno >= logging.WARNING else ""
        when = time.strftime("%Y-%m-%d %H:%M:%S ", time.localtime(record.created)) if self._times else ""
        return f"{when}{name}{printable(record.getMessage())}"


class _JsonFormatter(logging.Formatter):
    """One JSON object per line: time (UTC, ISO 8601), level, logger, message."""

    def format(self, record: logging.LogRecord) -> str:
        when = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line = {"time": f"{when}Z", "level": record.levelname.lower(), "logger": record.name}
        return dumps(line | {"message": record.getMessage()}, ensure_ascii=False)


class _StandardError(logging.Handler):
    """Writes to ``sys.stderr`` as it is at that time: a progress bar may have taken its place."""

    def emit(self, record: logging.LogRecord) -> None:
        if sys.stderr is not None:
            with suppress(OSError, ValueError):  # closed, or a full disk
                print(self.format(record), file=sys.stderr, flush=True)


@contextmanager
def logging_to(
    *, quiet: bool = False, verbose: bool = False, log_file: Path | None = None, log_format: str = "text"
) -> Iterator[None]:
    """Send the messages and warnings of landcover to standard error and to a file.

    Raises:
        UsageError: If ``quiet`` and ``verbose`` are both on, or the file cannot be written.
    """
    if quiet and verbose:
        raise UsageError("--quiet and --verbose contradict each other. Pass only one.")
    logger = logging.getLogger("landcover")
    watched = sys.stderr is not None and sys.stderr.isatty()
    formatter = _JsonFormatter() if log_format == "json" else _TextFormatter(times=not watched)
    handlers: list[logging.Handler] = [_StandardError()]
    with ExitStack() as stack:
        if log_file is not None:
            try:
                file: TextIO = stack.enter_context(log_file.open("a", encoding="utf-8"))
            except OSError as error:
                raise UsageError(f"--log-file {log_file} cannot be written: {error.strerror}.") from error
            handlers.append(logging.StreamHandler(file))
        for handler in handlers:
            handler.setFormatter(formatter)
            logger.addHandler(handler)
            stack.callback(logger.removeHandler, handler)
        if log_file is not None and log_format == "text":
            handlers[-1].setFormatter(_TextFormatter(times=True))
        stack.callback(logger.setLevel, logger.level)
        logger.setLevel(logging.WARNING if quiet else logging.DEBUG if verbose else logging.INFO)
        stack.enter_context(warnings.catch_warnings())
        warnings.showwarning = _log_warning
        yield


def _log_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    own = category.__module__.partition(".")[0] == "landcover" or issubclass(category, UserWarning)
    log.log(logging.WARNING if own else logging.DEBUG, "%s", message)


def check_reports(options: Mapping[str, Any]) -> None:
    """Refuse reports that would overwrite a model, imagery, or another file that the command names.

    ``--force`` is for results, and what is overwritten is lost.

    Args:
        options: Arguments of the verb, by the names of its parameters.

    Raises:
        UsageError: If a report has another suffix than reports have, is a file of a data set, or is named by
            another option or argument too.
    """
    for name, suffix in _REPORTS.items():
        file: Path | None = options.get(name)
        if file is None or file == _STDOUT:
            continue
        option = f"--{name.replace('_', '-')}"
        if file.suffix.lower() != suffix:
            raise UsageError(f"{option} would write {file}; expected a name that ends with {suffix}.")
        if file.exists() and _DATA.fullmatch(file.absolute().as_posix()):
            raise UsageError(f"{option} would overwrite {file}, a file of a data set. Name another file.")
        for other, value in options.items():
            for given in value if isinstance(value, list) else [value]:
                if other != name and isinstance(given, str | Path) and _is_same(file, Path(given)):
                    raise UsageError(
                        f"{option} would write {file}, which the command names a second time. "
                        "Name another file."
                    )


def _is_same(file: Path, other: Path) -> bool:
    # Not every argument is the name of a file, or of a file that exists.
    with suppress(OSError, ValueError):
        if file.samefile(other):
            return True
    return file.absolute() == other.absolute()


def check_json(json: Path | None, *, force: bool) -> None:
    """Refuse a ``--json FILE`` that cannot be written, before any work.

    Raises:
        OutputError: If it exists and ``force`` is off, or cannot be written.
    """
    from landcover.io.files import check_output

    if json is not None and json != _STDOUT:
        check_output(json, force=force)


def put(result: Any, json: Path | None, show: Callable[[], object] | None, *, force: bool) -> None:
    """Print a result: as JSON for ``--json -``, else for people; and write it to ``--json FILE``.

    Args:
        result: Plain data.
        json: The option; None: it was not given.
        show: Prints for people; None: a line on standard error is enough. Called before the file is written:
            a full disk must not lose hours of work.
        force: Overwrite an existing file.

    Raises:
        OutputError: If the file exists and ``force`` is off, or cannot be written.
    """
    from landcover.io.files import write_text

    text = dumps(result, indent=1)
    if json == _STDOUT:
        print(text)
        return
    if show is not None:
        show()
    if json is not None:
        write_text(json, text + "\n", force=force)


def table(first: str, *numbers: str) -> "Table":
    """Return a table for people with one column of names and columns of numbers."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    made = Table(first, box=SIMPLE_HEAD, pad_edge=False, padding=(0, 0, 0, 1))
    for name in numbers:
        made.add_column(name, justify="right")
    return made


def points(score: float | None, digits: int = 2) -> str:
    """Return a score of 0..1 in percentage points; ``-`` for None.

    Examples:
        >>> points(0.5391), points(None)
        ('53.91', '-')
    """
    return "-" if score is None else f"{100 * score:.{digits}f}"
