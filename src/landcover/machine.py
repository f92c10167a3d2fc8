"""What this process may use of the machine: memory, processors, disk; and errors of lacking them.

Limits of control groups (version 1 and 2, all levels), of ``ulimit -v`` and of the processor affinity count.
Where the system does not state a limit, nothing is refused.
"""

import errno
import math
import os
import re
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from landcover.errors import OutOfMemoryError, OutputError

_PROC, _CGROUPS = Path("/proc"), Path("/sys/fs/cgroup")
_UNLIMITED = 1 << 62
"""A limit from here on is none: version 1 of control groups then states a number near 2^63."""

_NO_MEMORY = re.compile(
    r"bad_alloc|not enough memory|out of memory|(can't|cannot|failed to|could not|unable to) allocate"
    r"|can't start new thread|allocation failed|resource temporarily unavailable|failed to map segment",
    re.IGNORECASE,
)
"""What OpenVINO, oneDNN, torch, onnxruntime, GDAL, Python and the loader write when an allocation fails."""


def free_memory() -> int | None:
    """Return the bytes of memory that this process can still get; None if the system does not state them."""
    free = list(_memory_limits())
    return max(0, min(free)) if free else None


@contextmanager
def needing_memory(need: int, what: str, advice: str) -> Iterator[None]:
    """Raise OutOfMemoryError if work needs more bytes of memory than are free, or an allocation in it fails.

    ``what`` begins the message, ``advice`` is its last sentence.
    """
    free = free_memory()
    if free is not None and need > free:
        raise OutOfMemoryError(
            f"{what} needs about {readable(need)} of memory; {readable(free)} are free. {advice}"
        )
    try:
        yield
    except Exception as error:
        if isinstance(error, OutOfMemoryError) or not lacks_memory(error):
            raise
        raise OutOfMemoryError(
            f"{what} needs about {readable(need)} of memory or more; the system refuses to give it. {advice}"
        ) from error


def lacks_memory(error: BaseException | None) -> bool:
    """Return whether an error, or one that caused it, is a failed allocation, in any library."""
    while error is not None:
        if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
            return True
        own = isinstance(error, RuntimeError | ImportError) or "OutOfMemory" in type(error).__name__
        own |= type(error).__module__.startswith("onnxruntime")
        if own and _NO_MEMORY.search(str(error)):
            return True
        error = error.__cause__ or error.__context__
    return False


def check_disk(folder: Path, need: int, what: str) -> None:
    """Refuse work, ``what``, whose output does not fit on the disk of a folder, which need not exist."""
    folder = folder.absolute()
    nearest = next(place for place in (folder, *folder.parents) if place.exists())
    try:
        free = shutil.disk_usage(nearest).free
    except OSError:
        return
    if need > free:
        raise OutputError(
            f"{what} needs about {readable(need)} of disk space in {folder}; {readable(free)} are free. Free "
            "some, or choose another output."
        )


def readable(size: float) -> str:
    """Return a size in bytes for people: ``160 GB``, ``5.3 MB``."""
    for unit, name in ((1e9, "GB"), (1e6, "MB")):
        if size >= unit:
            return f"{size / unit:.1f} {name}" if size < 10 * unit else f"{size / unit:,.0f} {name}"
    return f"{size:,.0f} bytes"


def processors() -> int:
    """Return the processors that this process may use: by its affinity and its control group's quota."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas: list[float] = []
    for folder in _cgroup_folders("cpu"):
        quota, period = _number(folder / "cpu.cfs_quota_us"), _number(folder / "cpu.cfs_period_us")
        if quota and period and quota > 0:
            quotas.append(quota / period)
    for folder in _cgroup_folders(""):
        fields = _text(folder / "cpu.max").split()
        if len(fields) == 2 and fields[0].isdigit() and int(fields[1]) > 0:
            quotas.append(int(fields[0]) / int(fields[1]))
    return max(1, min([count, *map(math.ceil, quotas)]))


def idle_processors(seconds: float = 0.2) -> float:
    """Return how many of :func:`processors` were idle while this thread waited for some time."""
    before = _idle_times()
    time.sleep(seconds)
    after = _idle_times()
    idle = total = 0
    for now, then in zip(after, before, strict=True):
        idle += now[0] - then[0]
        total += now[1] - then[1]
    return min(len(after) * idle / total, processors()) if total > 0 else processors()


def sleep_between_layers() -> None:
    """Let threads sleep while they wait for each other, if other programs use the processors now.

    libgomp's threads spin instead, and so keep a processor from the thread that they wait for. Sleeping is
    slower on a quiet machine. Call it before torch is loaded, which reads these variables; what
    the user has set stays.
    """
    if idle_processors() < processors() - 0.5:
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        os.environ.setdefault("GOMP_SPINCOUNT", "0")


@contextmanager
def signals_handled(
    numbers: Iterable[int], handler: Callable[[int, FrameType | None], object]
) -> Iterator[None]:
    """Call a handler on some signals until the block ends; outside the main thread nothing can do that."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)


def _idle_times() -> list[tuple[int, int]]:
    """Return, for each processor of the affinity, ticks spent idle and in total; nothing if not stated."""
    mine = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
    times = []
    for line in _text(_PROC / "stat").splitlines():
        if (match := re.match(r"cpu(\d+) (.*)", line)) and int(match[1]) in mine:
            ticks = [int(number) for number in match[2].split()[:8]]
            times.append((ticks[3] + ticks[4], sum(ticks)))
    return times


def _memory_limits() -> Iterator[int]:
    """Yield what the machine with its swap, ``ulimit -v`` and the control groups leave of their memory."""
    sizes = dict(re.findall(r"(MemAvailable|SwapFree):\s+(\d+) kB", _text(_PROC / "meminfo")))
    if "MemAvailable" in sizes:
        yield 1024 * (int(sizes["MemAvailable"]) + int(sizes.get("SwapFree", 0)))
    if sys.platform != "win32":
        import resource

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        if limit != resource.RLIM_INFINITY:
            yield limit - int((_text(_PROC / "self" / "statm") or "0").split()[0]) * resource.getpagesize()
    for controller, limit_file, usage_file, cache in (
        ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ("", "memory.max", "memory.current", "inactive_file"),
    ):
        for folder in _cgroup_folders(controller):
            most = _number(folder / limit_file)
            if most is None or most >= _UNLIMITED:
                continue
            usage = _number(folder / usage_file)
            if usage is not None:  # cached files count as free, as they can go
                found = re.search(rf"^{cache} (\d+)", _text(folder / "memory.stat"), re.MULTILINE)
                yield most - usage + (int(found[1]) if found else 0)


def _cgroup_folders(controller: str) -> Iterator[Path]:
    """Yield this process's folders of a controller of version 1 (empty: version 2), up to the root.

    In a container the path that the kernel states may not exist below the mount; then its root counts.
    """
    roots = [_CGROUPS / controller] if controller else [_CGROUPS, _CGROUPS / "unified"]
    for line in _text(_PROC / "self" / "cgroup").splitlines():
        _, names, path = line.split(":", 2)
        if controller in names.split(","):
            groups = path.strip("/").split("/")
            yield from (root.joinpath(*groups[:n]) for root in roots for n in range(len(groups), -1, -1))


def _text(path: Path) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:  # noqa: PTH123 - called often
            return file.read()
    except OSError:
        return ""


def _number(path: Path) -> int | None:
    text = _text(path).strip()
    return int(text) if re.fullmatch(r"-?\d+", text) else None
