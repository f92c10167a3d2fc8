"""Where a verb's result goes: to people, to standard output as JSON, or into a file too."""

import logging
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from json import dumps
from pathlib import Path
from typing import Any

import typer

from landcover.errors import UsageError

_STDOUT = Path("-")

_REPORTS = {"json": ".json", "csv": ".csv", "stac_mlm": ".json"}
"""Options of verbs that name a report, and what it ends with."""

_DATA = re.compile(r"(.*/)?(index\.json|scenes\.csv|ann/[^/]+\.json)")
"""Files with these suffixes that data sets consist of."""


class _StandardError(logging.Handler):
    """Write log records to standard error, wherever that is at the time."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line."""
        typer.echo(self.format(record), err=True)


def log_to_standard_error() -> None:
    """Show what landcover logs at level INFO on standard error: the steps of long commands."""
    logger = logging.getLogger("landcover")
    logger.setLevel(logging.INFO)
    if not logger.handlers:
        logger.addHandler(_StandardError())


def check_reports(options: Mapping[str, Any]) -> None:
    """Refuse reports that would take the place of a model, of imagery, or of what else a verb is given.

    ``--force`` is for results, and what is replaced is gone.

    Args:
        options: What a verb is called with, by the names of its parameters.

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
            raise UsageError(f"{option} would replace {file}, a file of a data set. Name another file.")
        for other, value in options.items():
            for given in value if isinstance(value, list) else [value]:
                if other != name and isinstance(given, str | Path) and _is_same(file, Path(given)):
                    raise UsageError(
                        f"{option} would write {file}, which the command names a second time. "
                        "Name another file."
                    )


def _is_same(file: Path, other: Path) -> bool:
    with suppress(
        OSError, ValueError
    ):  # not all that is given is the name of a file, or of one that is there
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
        show: Prints for people; None: a line on standard error will do. Called before the file is written: a
            full disk shall not lose hours of work.
        force: Replace an existing file.

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
