"""The former name of :mod:`landcover.raster.address`."""

from landcover.raster.address import Address as Source

__all__ = ["Source"]
