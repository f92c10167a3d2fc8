"""How much of a scene looks unlike the imagery that a model learned from."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from landcover.legend import UInt8Array
from landcover.ood.features import BoolArray, reasons, windows
from landcover.ood.profile import ImageryProfile

MUCH = 0.3
"""From this share of a scene on a warning is given; docs/benchmarks.md says how often of the same kind."""


@dataclass(frozen=True, slots=True)
class Unlike:
    """How much of a scene looks unlike the imagery that a model learned from.

    Attributes:
        share: Of the pixels that were looked at, 0..1.
        reasons: How that part differs, most important first, such as ``darker``; empty where there is none.
    """

    share: float
    reasons: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return {"share": self.share, "reasons": list(self.reasons)}

    def warning(self, name: str) -> str | None:
        """Return a sentence about the scene of that name; None below :data:`MUCH`."""
        if self.share < MUCH:
            return None
        how = f" (mostly: {', '.join(self.reasons)})" if self.reasons else ""
        return (
            f"{100 * self.share:.0f} % of {name} looks unlike the imagery this model learned from{how}: "
            "do not trust the map there without checking."
        )


@dataclass(frozen=True, slots=True)
class Look:
    """What was seen of a scene so far, in whole numbers, so that the order of adding changes nothing.

    Attributes:
        pixels: Pixels looked at.
        unlike: Those in windows that look unlike.
        windows: Windows that look unlike.
        scores: Sums over these of what :meth:`ImageryProfile.scores` says, in thousandths; F, or none yet.
    """

    pixels: int = 0
    unlike: int = 0
    windows: int = 0
    scores: tuple[int, ...] = ()

    def __add__(self, other: "Look") -> "Look":
        scores = (
            tuple(a + b for a, b in zip(self.scores, other.scores, strict=True))
            if self.scores and other.scores
            else self.scores or other.scores
        )
        return Look(
            self.pixels + other.pixels, self.unlike + other.unlike, self.windows + other.windows, scores
        )

    def verdict(self) -> Unlike | None:
        """Return what all that says; None where nothing could be looked at."""
        if not self.pixels:
            return None
        share = round(self.unlike / self.pixels, 4)
        return Unlike(share, reasons(np.array(self.scores) / (1000 * self.windows)) if self.windows else ())


NOTHING = Look()
"""What was seen before anything was."""


def look(profile: ImageryProfile, image: UInt8Array, valid: BoolArray | None = None) -> Look:
    """Look at an image by windows.

    Args:
        profile: What a model learned from.
        image: uint8 (H, W, 3) at the model's scale.
        valid: bool (H, W): where there is imagery; None: everywhere.
    """
    seen = list(windows(image, valid, profile.window_px))
    if not seen:
        return NOTHING
    areas, features = np.array([area for area, _ in seen]), np.array([found for _, found in seen])
    unlike = profile.distance(features) > profile.limit
    scores = np.rint(1000 * np.clip(profile.scores(features[unlike]), -1e6, 1e6)).astype(np.int64)
    return Look(
        int(areas.sum()),
        int(areas[unlike].sum()),
        int(unlike.sum()),
        tuple(scores.sum(axis=0).tolist()) if unlike.any() else (),
    )
