"""Bounded read-ahead: the next items are computed by threads while the present one is used."""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import closing
from itertools import islice, repeat
from typing import TypeVar, cast

from landcover.machine import processors

T = TypeVar("T")
R = TypeVar("R")

_POLL_S = 0.1
_END = object()


def parallel_map(
    function: Callable[[T], R],
    items: Iterable[T],
    *,
    workers: int | None = None,
    ahead: int | None = None,
) -> Generator[R, None, None]:
    """Yield ``function(item)`` for every item, in order, computed by threads.

    Unlike with ``Executor.map``, the number of results in memory is bounded. When the consumer stops, running
    items are completed and no further ones begin. An exception is raised at its item's turn.

    By default there is a thread for each CPU that this process may use, at most 16, and ``ahead``, the number
    of results computed or waiting beside the one in use, is three times that. The caller's thread consumes
    the items.
    """
    workers = workers or min(16, processors())
    remaining = iter(items)
    pending: deque[Future[R]] = deque()
    with ThreadPoolExecutor(workers, "landcover-ahead") as pool:
        try:
            pending.extend(pool.submit(function, item) for item in islice(remaining, ahead or 3 * workers))
            while pending:
                future = pending.popleft()
                while not future.done():
                    wait([future], _POLL_S)  # in short intervals, so that Ctrl-C works on every system
                pending.extend(pool.submit(function, item) for item in islice(remaining, 1))
                result = future.result()
                del future
                yield result
                del result
        finally:
            for future in pending:
                future.cancel()


def read_ahead(items: Iterable[T]) -> Generator[T, None, None]:
    """Yield the items of an iterator in order, while one thread computes the next.

    At most one item waits. An error is raised at its item's turn. When the consumer stops early, the thread
    completes its item, and the iterator, if a generator, is closed.
    """
    iterator: Iterator[T] = iter(items)

    def following(_: None) -> object:
        return next(iterator, _END)

    try:
        with closing(parallel_map(following, repeat(None), workers=1, ahead=2)) as results:
            for result in results:
                if result is _END:
                    return
                yield cast("T", result)
                del result
    finally:
        if isinstance(iterator, Generator):
            iterator.close()
