"""What is done to a finished map: small regions, polygons (``vectorize``, which needs an extra)."""

from landcover.postprocess.cleaning import Cleaned, clean
from landcover.postprocess.regions import parse_min_region, remove_small_regions
from landcover.postprocess.sieve import sieve_bands

__all__ = ["Cleaned", "clean", "parse_min_region", "remove_small_regions", "sieve_bands"]
