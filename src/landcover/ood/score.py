"""How much of a scene is out of distribution for a model."""

from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import numpy as np

from landcover._typing import BoolArray, UInt8Array
from landcover.ood.features import reasons, windows
from landcover.ood.profile import ImageryProfile

WARN_FRACTION = 0.3
"""Warn at or above this fraction of a scene; docs/reports/benchmarks.md reports how often that happens."""


@dataclass(frozen=True, slots=True)
class OodReport:
    """The fraction of a scene that is out of distribution, and how it differs.

    Attributes:
        share: Fraction of the compared pixels, 0..1.
        reasons: How they differ, most important first, such as ``darker``; empty where there are none.
    """

    share: float
    reasons: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return {"share": self.share, "reasons": list(self.reasons)}

    def warning(self, name: str) -> str | None:
        """Return a sentence about the scene of that name; None below :data:`WARN_FRACTION`."""
        if self.share < WARN_FRACTION:
            return None
        how = f"; {', '.join(self.reasons)}" if self.reasons else ""
        return (
            f"{name} is out of distribution for this model ({100 * self.share:.0f} % of its area{how}). "
            "Check the map before use."
        )


@dataclass(frozen=True, slots=True)
class OodStats:
    """Counts of a part of a scene, in whole numbers: the order of adding parts does not matter.

    Attributes:
        pixels: Compared pixels.
        unlike: Pixels in windows that are out of distribution.
        windows: Windows that are out of distribution.
        scores: Sums over these windows of :meth:`ImageryProfile.scores` in thousandths, one per feature;
            empty without such windows.
    """

    pixels: int = 0
    unlike: int = 0
    windows: int = 0
    scores: tuple[int, ...] = ()

    def __add__(self, other: "OodStats") -> "OodStats":
        scores = tuple(a + b for a, b in zip_longest(self.scores, other.scores, fillvalue=0))
        return OodStats(
            self.pixels + other.pixels, self.unlike + other.unlike, self.windows + other.windows, scores
        )

    def report(self) -> OodReport | None:
        """Return the fraction and the reasons; None if no pixel was compared."""
        if not self.pixels:
            return None
        why = reasons(np.array(self.scores) / (1000 * self.windows)) if self.windows else ()
        return OodReport(round(self.unlike / self.pixels, 4), why)


def ood_stats(profile: ImageryProfile, image: UInt8Array, valid: BoolArray | None = None) -> OodStats:
    """Compare an image, uint8 (H, W, 3) at the model's scale, with a profile, window by window.

    ``valid`` is bool (H, W), where there is imagery; None: everywhere.
    """
    found = list(windows(image, valid, profile.window_px))
    if not found:
        return OodStats()
    areas, features = map(np.array, zip(*found, strict=True))
    unlike = profile.distance(features) > profile.limit
    scores = np.rint(1000 * np.clip(profile.scores(features[unlike]), -1e6, 1e6)).astype(np.int64)
    return OodStats(
        int(areas.sum()),
        int(areas[unlike].sum()),
        int(unlike.sum()),
        tuple(scores.sum(axis=0).tolist()) if unlike.any() else (),
    )
