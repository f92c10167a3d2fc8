"""What is done to a finished map: small regions."""

from landcover.postprocess.cleaning import Cleaned, clean
from landcover.postprocess.regions import parse_min_region, remove_small_regions

__all__ = ["Cleaned", "clean", "parse_min_region", "remove_small_regions"]
