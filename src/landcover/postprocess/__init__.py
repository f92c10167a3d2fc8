"""Cleaning of finished maps: small regions; polygons (``vectorize``, which needs an extra)."""

from typing import TYPE_CHECKING

from landcover.extras import lazy_names

if TYPE_CHECKING:
    from landcover.postprocess.cleaning import Cleaned, clean
    from landcover.postprocess.sieve import remove_small_regions, sieve_row_blocks

__all__ = ["Cleaned", "clean", "remove_small_regions", "sieve_row_blocks"]

__getattr__ = lazy_names(
    __name__,
    {
        "clean": "cleaning",
        "Cleaned": "cleaning",
        "remove_small_regions": "sieve",
        "sieve_row_blocks": "sieve",
    },
)
