"""Ground sample distance (GSD): the order in which it is found, and the error where it is unknown."""

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

from landcover.errors import ConfigError, UsageError

GsdSource = Literal["option", "raster", "data folder", "assumed"]
"""Origin of a GSD: ``--gsd``; the georeference; ``landcover.yaml`` or a known layout; the model."""

SETTINGS_FILE = "landcover.yaml"
"""Name of the settings in a data folder."""

FromModel = Literal["model"]
"""In place of a number of metres: assume the model's GSD where no other is known."""


class Scale(NamedTuple):
    """A ground sample distance in metres per pixel, and its origin."""

    gsd: float
    source: GsdSource

    def __str__(self) -> str:
        return f"{self.gsd:g} ({self.source})"


def find_scale(
    option: float | None,
    *,
    raster: Callable[[], float | None],
    settings: Callable[[], float | None],
    layout: Callable[[], float | None],
) -> Scale | None:
    """Return the GSD of imagery from the first source that has one; None if none has.

    ``option`` is the number given with ``--gsd``; the functions return the GSD of the georeference, of
    ``landcover.yaml``, and the published one of a recognised layout.
    """
    if option is not None:
        return Scale(check_gsd(option), "option")
    if (gsd := raster()) is not None:
        return Scale(gsd, "raster")
    gsd = settings()
    if gsd is None:
        gsd = layout()
    return None if gsd is None else Scale(gsd, "data folder")


def check_gsd(gsd: float) -> float:
    """Return ``gsd`` if it can be a ground sample distance in metres per pixel."""
    if not (math.isfinite(gsd) and gsd > 0):
        raise ConfigError(f"The ground sample distance is {gsd}; expected metres per pixel above 0.")
    return gsd


def unknown_gsd(
    what: object, other: str = "or write 'gsd: 0.5' into landcover.yaml beside the images"
) -> UsageError:
    """Return the error that the GSD of ``what`` is unknown; ``other``: what helps but ``--gsd``."""
    return UsageError(
        f"Unknown ground sample distance (metres per pixel) of {what}. "
        f"Pass --gsd, such as --gsd 0.5, {other}."
    )
