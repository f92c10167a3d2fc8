"""Where a verb's result goes: to people, to standard output as JSON, or into a file too."""

from collections.abc import Callable
from json import dumps
from pathlib import Path
from typing import Any

_STDOUT = Path("-")


def check_json(json: Path | None, *, force: bool) -> None:
    """Refuse a ``--json FILE`` that cannot be written, before any work.

    Raises:
        OutputError: If it exists and ``force`` is off, or cannot be written.
    """
    from landcover.files import check_output

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
    from landcover.files import write_text

    text = dumps(result, indent=1)
    if json == _STDOUT:
        print(text)
        return
    if show is not None:
        show()
    if json is not None:
        write_text(json, text + "\n", force=force)
