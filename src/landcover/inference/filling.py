"""Moved to :mod:`landcover.model.filling`."""

from landcover.model.filling import any_within, mirrored

__all__ = ["any_within", "mirrored"]
