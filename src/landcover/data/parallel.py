"""Decode many files at once, in order, with a bounded number in memory."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from threading import Event
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def parallel_map(
    function: Callable[[T], R],
    items: Iterable[T],
    *,
    workers: int | None = None,
    stopped: Event | None = None,
) -> Iterator[R]:
    """Yield ``function(item)`` for every item, in order, computed by threads.

    Threads suffice because the decoders release the interpreter lock. Unlike ``Executor.map``, at most three
    results per worker are under way or waiting, so that large images do not pile up.

    Args:
        function: What to do with an item. Its exceptions reach the caller at the item's turn.
        items: The items.
        workers: Number of threads; by default one per CPU that this process may use, at most 16.
        stopped: Set as soon as no more results are wanted, for functions that take long and can end early:
            the threads are waited for.
    """
    workers = workers or min(16, _cpus())
    remaining = iter(items)
    pending: deque[Future[R]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            pending.extend(pool.submit(function, item) for item in islice(remaining, 3 * workers))
            while pending:
                result = pending.popleft().result()
                pending.extend(pool.submit(function, item) for item in islice(remaining, 1))
                yield result
        finally:
            if stopped is not None:
                stopped.set()
            for future in pending:
                future.cancel()


def _cpus() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
