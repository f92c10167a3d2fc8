"""Progress on standard error: a bar in a terminal, nothing when piped."""

import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def track(items: Iterable[T], description: str, *, total: int | None = None) -> Iterator[T]:
    """Yield from ``items`` under a progress bar with the time left.

    Args:
        items: What to go through.
        description: What is being done, such as ``"Decoding"``.
        total: Number of items, where ``items`` has no length.
    """
    if sys.stderr is None or not sys.stderr.isatty():  # None: started without one, as by some schedulers
        yield from items
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        yield from progress.track(items, total=total, description=description)
