"""Whether imagery looks like what a model learned from, without a network.

A network answers with confidence on imagery that it has never seen the like of: swapped bands, another
scale, haze, another sensor. An :class:`ImageryProfile` describes what the training imagery looks like at the
model's scale: a mixture of Gaussians over cheap statistics of windows (:data:`FEATURES`). A window whose
density under it is lower than that of almost all training windows looks unlike them. One Gaussian would not
do: water and fields without texture widen it until it holds everything. Measured by
``benchmarks/ood.py``.
"""

from landcover.ood.features import FEATURES, LEAST_PX, WINDOW_PX, window_features, windows
from landcover.ood.profile import LEVEL, LEVELS, ImageryProfile, measure_profile
from landcover.ood.verdict import MUCH, NOTHING, Look, Unlike, look

__all__ = [
    "FEATURES",
    "LEAST_PX",
    "LEVEL",
    "LEVELS",
    "MUCH",
    "NOTHING",
    "WINDOW_PX",
    "ImageryProfile",
    "Look",
    "Unlike",
    "look",
    "measure_profile",
    "window_features",
    "windows",
]
