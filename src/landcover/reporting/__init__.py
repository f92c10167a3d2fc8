"""The HTML report: one page, no network."""

from landcover.reporting.page import report

__all__ = ["report"]
