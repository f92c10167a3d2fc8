"""Compute the next item of an iterator in a thread while the present one is used."""

import threading
from collections.abc import Generator, Iterable
from queue import Empty, Full, Queue
from typing import Generic, TypeVar

T = TypeVar("T")

_POLL_S = 0.1


class _End(Generic[T]):
    """What the thread puts last: nothing more comes, or an error."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


def prefetch(items: Iterable[T]) -> Generator[T, None, None]:
    """Yield the items in order, the next one being computed meanwhile in one thread.

    At most one item waits beside the one in use and the one being computed. An error is raised at its item's
    turn. When the consumer stops early, the thread ends with the item that it computes, and the source, if a
    generator, is closed there.
    """
    queue: Queue[T | _End[T]] = Queue(maxsize=1)
    stopped = threading.Event()

    def put(item: T | _End[T]) -> None:
        while not stopped.is_set():
            try:
                queue.put(item, timeout=_POLL_S)
            except Full:
                continue
            return

    def work() -> None:
        iterator = iter(items)
        try:
            for item in iterator:
                put(item)
                if stopped.is_set():
                    break
        except BaseException as error:  # not handled, but handed over: it is raised in the consumer
            put(_End(error))
        else:
            put(_End(None))
        finally:
            close = getattr(iterator, "close", None)
            if close is not None:
                close()

    thread = threading.Thread(target=work, name="landcover-prefetch", daemon=True)
    thread.start()
    try:
        while True:
            item = _get(queue)
            if isinstance(item, _End):
                if item.error is not None:
                    raise item.error
                return
            yield item
            del item
    finally:
        stopped.set()
        thread.join()


def _get(queue: "Queue[T]") -> T:
    """Wait in short pieces, so that Ctrl-C is heard on every system."""
    while True:
        try:
            return queue.get(timeout=_POLL_S)
        except Empty:
            continue
