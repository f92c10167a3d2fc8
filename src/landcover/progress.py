"""Progress on standard error: a bar in a terminal, log lines when piped."""

import logging
import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

T = TypeVar("T")

LOG_SECONDS = 10.0
"""Time between two log lines about one piece of work."""

_log = logging.getLogger(__name__)


def track(items: Iterable[T], description: str, *, total: int | None = None) -> Iterator[T]:
    """Yield from ``items`` and show how far the work called ``description`` is.

    Nothing is shown unless the logger ``landcover`` handles messages of level INFO, as the command line makes
    it do. ``total`` is the number of items, if they have no length.
    """
    if not _log.isEnabledFor(logging.INFO):
        yield from items
        return
    if sys.stderr is None or not sys.stderr.isatty():  # None: started without one, as by some schedulers
        if total is None and isinstance(items, Sized):
            total = len(items)
        logged = time.monotonic()
        for number, item in enumerate(items, 1):
            yield item
            if time.monotonic() - logged >= LOG_SECONDS:
                logged = time.monotonic()
                _log.info("%s: %d%s", description, number, "" if total is None else f" of {total}")
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        yield from progress.track(items, total=total, description=description)
