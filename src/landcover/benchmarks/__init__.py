"""Measured comparisons with the ways that others do it: each a module to run with ``python -m``."""
