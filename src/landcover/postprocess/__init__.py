"""Cleaning of finished maps: small regions; polygons (``vectorize``, which needs an extra)."""
