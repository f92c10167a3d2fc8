"""The memory in which GDAL keeps decoded blocks: one for the whole process, whoever reads or writes."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

from landcover._gdal import get_gdal_config, set_gdal_config

_SIZE = "GDAL_CACHEMAX"


class BlockCache:
    """The limit of GDAL's block cache: the sum of what is asked for, GDAL's own while nothing is.

    Its users cannot be kept apart, as the least recently used blocks of all of them go first; but together
    they need no more than the sum. Safe in threads.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._shares: list[int] = []
        self._default = 0

    @contextmanager
    def share(self, size: int) -> Iterator[None]:
        """Ask for ``size`` bytes until the block ends."""
        with self._lock:
            if not self._shares:
                self._default = get_gdal_config(_SIZE)
            self._shares.append(size)
            self._apply()
        try:
            yield
        finally:
            with self._lock:
                self._shares.remove(size)
                self._apply()

    def _apply(self) -> None:
        set_gdal_config(_SIZE, sum(self._shares) if self._shares else self._default)


BLOCK_CACHE = BlockCache()
