"""Moved to :mod:`landcover.io.readahead`."""

from landcover.io.readahead import parallel_map

__all__ = ["parallel_map"]
