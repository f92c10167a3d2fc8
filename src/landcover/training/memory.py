"""Keep freed memory in the process: a training step asks for the same gigabyte again and again."""

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
_MOST = 2**31 - 1


def keep_freed_memory() -> None:
    """Ask the C library not to return freed memory to the system, where it is glibc; elsewhere do nothing.

    Otherwise every large buffer of a step is mapped anew, and the kernel zeroes each of its pages at first
    touch.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, _MOST)
