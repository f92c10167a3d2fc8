"""What is done to a finished map: small regions, polygons (``vectorize``, which needs an extra)."""

from typing import TYPE_CHECKING

from landcover.extras import lazy_names

if TYPE_CHECKING:
    from landcover.postprocess.cleaning import Cleaned, clean
    from landcover.postprocess.regions import remove_small_regions
    from landcover.postprocess.sieve import sieve_bands

__all__ = ["Cleaned", "clean", "remove_small_regions", "sieve_bands"]

__getattr__ = lazy_names(
    __name__,
    {
        "clean": "cleaning",
        "Cleaned": "cleaning",
        "remove_small_regions": "regions",
        "sieve_bands": "sieve",
    },
)
