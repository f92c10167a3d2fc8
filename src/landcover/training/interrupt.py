"""Ctrl-C lets the step finish."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self


def ending_signals() -> list[int]:
    """Return the signals that ask a process to end, a closed terminal's too unless it is ignored (nohup)."""
    numbers: list[int] = [signal.SIGINT, signal.SIGTERM]
    hangup: int | None = getattr(signal, "SIGHUP", None)  # Windows has none
    if hangup is not None and signal.getsignal(hangup) is not signal.SIG_IGN:
        numbers.append(hangup)
    return numbers


class Interrupt:
    """Remembers a signal to end (:func:`ending_signals`) while it runs; a second one has its usual effect.

    In a thread other than the main one, which cannot handle signals, it never is requested.

    Attributes:
        requested: Whether a signal came.
    """

    def __init__(self) -> None:
        self.requested = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._remember) for number in ending_signals()}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._restore()

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
