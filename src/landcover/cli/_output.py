"""Where a verb's results and messages go: to people, to standard output as JSON, into files."""

import logging
import os
import re
import sys
import time
import warnings
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from landcover.errors import OutputError, UsageError, printable
from landcover.values import points

if TYPE_CHECKING:
    from landcover.raster.zonal import ClassArea

log = logging.getLogger("landcover.cli")
"""Messages of the command line to people, on standard error."""

FILE_ONLY = "file_only"
"""Attribute of log records that go to ``--log-file`` only."""

_STDOUT = Path("-")

_NAME_WIDTH = 30
"""Names up to this length are never broken in a table."""

_REPORTS = {"json": ".json", "csv": ".csv", "stac_mlm": ".json"}
"""Options that name a report, and the suffix that it must have."""

_DATA = re.compile(r"(.*/)?(index\.json|scenes\.csv|ann/[^/]+\.json)")
"""Files of data sets that have one of these suffixes."""


class _TextFormatter(logging.Formatter):
    """``Warning: message``, after the time if standard error is not a terminal."""

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
        return dumps(line | {"message": record.getMessage()})  # ASCII: it reaches terminals, too


class _LogFile(logging.StreamHandler[TextIO]):
    """Writes to ``--log-file``; work goes on if that fails."""

    lost: str | None = None

    @classmethod
    @contextmanager
    def opened(cls, path: Path) -> "Iterator[_LogFile]":
        """Open the file, or a pipe that somebody reads; if lines were lost, that is an error at the end."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        try:
            # Without waiting for a reader of a pipe.
            descriptor = os.open(path, flags | getattr(os, "O_NONBLOCK", 0), 0o666)
            os.set_blocking(descriptor, True)
            file = os.fdopen(descriptor, "a", encoding="utf-8")
        except OSError as error:
            raise UsageError(f"--log-file {path} cannot be written: {error.strerror}.") from error
        handler = cls(file)
        try:
            yield handler
        finally:
            with suppress(OSError):
                file.close()
        if handler.lost is not None:
            raise OutputError(f"--log-file {path} is incomplete: {handler.lost}.")

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        self.lost = str(getattr(sys.exc_info()[1], "strerror", None) or sys.exc_info()[1])


class _StandardError(logging.Handler):
    """Write to the ``sys.stderr`` of that moment, which a progress bar may have replaced."""

    def emit(self, record: logging.LogRecord) -> None:
        if sys.stderr is not None and not getattr(record, FILE_ONLY, False):
            with suppress(OSError, ValueError):  # closed, or a full disk
                print(self.format(record), file=sys.stderr, flush=True)


@contextmanager
def logging_to(
    *, quiet: bool = False, verbose: bool = False, log_file: Path | None = None, log_format: str = "text"
) -> Iterator[None]:
    """Send the messages and warnings of landcover to standard error and to a file."""
    if quiet and verbose:
        raise UsageError("--quiet and --verbose contradict each other. Pass only one.")
    logger = logging.getLogger("landcover")
    watched = sys.stderr is not None and sys.stderr.isatty()
    formatter = _JsonFormatter() if log_format == "json" else _TextFormatter(times=not watched)
    handlers: list[logging.Handler] = [_StandardError()]
    with ExitStack() as stack:
        if log_file is not None:
            handlers.append(stack.enter_context(_LogFile.opened(log_file)))
        for handler in handlers:
            handler.setFormatter(formatter)
            logger.addHandler(handler)
            stack.callback(logger.removeHandler, handler)
        if log_file is not None and log_format == "text":
            handlers[-1].setFormatter(_TextFormatter(times=True))
        stack.callback(logger.setLevel, logger.level)
        logger.setLevel(logging.WARNING if quiet else logging.DEBUG if verbose else logging.INFO)
        stack.enter_context(warnings.catch_warnings())

        def log_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
            own = category.__module__.partition(".")[0] == "landcover" or issubclass(category, UserWarning)
            log.log(logging.WARNING if own else logging.DEBUG, "%s", message)

        warnings.showwarning = log_warning
        yield


def check_reports(options: Mapping[str, Any]) -> None:
    """Refuse reports, among the arguments of a verb, that would overwrite a file that they should not.

    ``--force`` is for results: it overwrites no model, no imagery, and no file that the command also names
    elsewhere.
    """
    from landcover.io.files import check_output

    for name, suffix in _REPORTS.items():
        file: Path | None = options.get(name)
        if file is None or file == _STDOUT:
            continue
        option = f"--{name.replace('_', '-')}"
        if file.suffix.lower() != suffix:
            raise UsageError(f"{option} would write {file}; expected a name that ends with {suffix}.")
        if file.exists() and _DATA.fullmatch(file.absolute().as_posix()):
            raise UsageError(f"{option} would overwrite {file}, a file of a data set. Name another file.")
        others = (value for other, value in options.items() if other != name)
        given = (one for value in others for one in (value if isinstance(value, list) else [value]))
        for path in (Path(one) for one in given if isinstance(one, str | Path)):
            is_same = file.absolute() == path.absolute()
            with suppress(OSError, ValueError):  # not every text is the name of a file that exists
                is_same = is_same or file.samefile(path)
            if is_same:
                raise UsageError(
                    f"{option} would write {file}, which the command names a second time. Name another file."
                )
        check_output(file, force=options["force"] or options.get("resume", False))


def put(result: Any, json: Path | None, show: Callable[[], object] | None, *, force: bool) -> None:
    """Print a result, plain data: as JSON for ``--json -``, else for people; and write it to ``--json FILE``.

    ``show`` prints for people, before the file is written: a full disk must not lose hours of work. None: a
    line on standard error is enough.
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


def say(sentence: str) -> None:
    """Print one line for people; what would change others in it is escaped."""
    print(printable(sentence))


def print_table(
    head: Sequence[str],
    rows: Iterable[Iterable[str]],
    *,
    total: Iterable[str] = (),
    text: Container[str] = (),
) -> None:
    """Print a table for people; the first column has names, the others numbers, those of ``text`` too text.

    ``total`` are the cells of a last row below a rule.
    """
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    head, *lines, last = [[printable(cell) for cell in row] for row in (head, *rows, total)]
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 0, 0, 1))
    longest = max((len(line[0]) for line in lines), default=0)
    table.add_column(head[0], min_width=min(longest, _NAME_WIDTH))
    for name in head[1:]:
        table.add_column(name, justify="left" if name in text else "right")
    for line in lines:
        table.add_row(*line)
    if last:
        table.add_section()
        table.add_row(*last)
    Console(markup=False, highlight=False).print(table)  # names of classes and files are plain text


def print_areas(areas: Sequence["ClassArea"]) -> None:
    """Print class, pixels, share of the area, and hectares; nothing if there are none."""
    rows = [
        (
            area.name,
            f"{area.pixels:,}",
            points(area.share, 1),
            "-" if area.hectares is None else f"{area.hectares:,.2f}",
        )
        for area in areas
    ]
    if rows:
        print_table(["class", "pixels", "area %", "hectares"], rows)
