"""Memory of a process that trains: a step allocates the same gigabyte again and again."""

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
_LARGEST = 2**31 - 1


def keep_freed_memory() -> None:
    """Tell glibc to keep freed memory in the process; do nothing with other C libraries.

    Otherwise every large buffer of a step is mapped again, and the kernel zeroes each of its pages at first
    touch. The setting holds for the whole process, so only the command line calls this.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, _LARGEST)
