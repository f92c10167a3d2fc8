"""What the imagery looks like that a model learned from."""

import math
from collections.abc import Iterable
from typing import Annotated, Any, Self

import numpy as np
from pydantic import Field, field_validator, model_validator

from landcover._typing import Float64Array, UInt8Array
from landcover.config import Config
from landcover.ood.features import FEATURES, LEAST_PX, WINDOW_PX, windows
from landcover.ood.mixture import WINDOWS_PER_COMPONENT, Mixture, fit_mixture

Floats = tuple[float, ...]

LEVEL = 0.98
"""Windows farther than this share of the training windows look unlike them."""

_FOLDS = 5

LEVELS = (0.5, 0.9, 0.95, 0.97, LEVEL, 0.99, 0.995, 0.999)
"""Shares of windows whose distances a profile holds."""


class ImageryProfile(Config):
    """What the imagery looks like that a model learned from.

    The density of a window with the features x is ``sum_k weights[k] N(x; means[k], covariances[k])``; its
    distance is ``-2 log density``, for one Gaussian the squared Mahalanobis distance plus a constant.

    Attributes:
        window_px: Side of the windows in pixels at the model's GSD.
        windows: How many were looked at.
        features: Their names, :data:`FEATURES`.
        weights: K shares that sum to one.
        means: K times F.
        covariances: K times F times F, symmetric, positive definite.
        levels: Shares of windows, rising, in 0..1.
        distances: Distances that these shares of windows stay below, where a fifth of the images was judged
            by a profile of the others.
    """

    window_px: Annotated[int, Field(ge=LEAST_PX)] = WINDOW_PX
    windows: Annotated[int, Field(ge=1)]
    features: tuple[str, ...] = FEATURES
    weights: Floats
    means: tuple[Floats, ...]
    covariances: tuple[tuple[Floats, ...], ...]
    levels: Floats
    distances: Floats

    @field_validator("features")
    @classmethod
    def _known(cls, features: tuple[str, ...]) -> tuple[str, ...]:
        if features != FEATURES:
            raise ValueError(f"expected the features {', '.join(FEATURES)}")
        return features

    @model_validator(mode="after")
    def _sound(self) -> Self:
        count, size = len(self.weights), len(self.features)
        for name, shape in (("means", (count, size)), ("covariances", (count, size, size))):
            if _shape(getattr(self, name)) != shape:
                raise ValueError(f"{name} must be {' x '.join(map(str, shape))} numbers")
        if not count or not math.isclose(sum(self.weights), 1, abs_tol=1e-3) or min(self.weights) <= 0:
            raise ValueError("weights must be above 0 and sum to 1")
        if len(self.levels) != len(self.distances) or LEVEL not in self.levels:
            raise ValueError(f"levels and distances must be pairs, one of them for the level {LEVEL}")
        numbers = (self.means, self.covariances, self.levels, self.distances)
        if not all(np.isfinite(values).all() for values in numbers):
            raise ValueError("means, covariances, levels and distances must be finite")
        if np.any(np.diff(self.levels) <= 0) or np.any(np.diff(self.distances) < 0):
            raise ValueError("levels and distances must rise")
        spread = np.array(self.covariances)
        if not np.allclose(spread, spread.swapaxes(1, 2)) or np.linalg.eigvalsh(spread).min() <= 0:
            raise ValueError("covariances must be symmetric and positive definite")
        return self

    @property
    def limit(self) -> float:
        """The distance from which on a window looks unlike."""
        return self.distances[self.levels.index(LEVEL)]

    def distance(self, features: Float64Array) -> Float64Array:
        """Return ``-2 log density`` of windows: float64 (N,) for float64 (N, F)."""
        return Mixture(*map(np.array, (self.weights, self.means, self.covariances))).distance(features)

    def scores(self, features: Float64Array) -> Float64Array:
        """Return by how many standard deviations features differ from the mean: float64 (N, F) for (N, F)."""
        weights, means = np.array(self.weights), np.array(self.means)
        mean = weights @ means
        variances = np.array([np.diag(spread) for spread in self.covariances])
        variance = weights @ (variances + means**2) - mean**2
        result: Float64Array = (features - mean) / np.sqrt(variance)
        return result


def measure_profile(images: Iterable[UInt8Array], *, window_px: int = WINDOW_PX) -> ImageryProfile | None:
    """Describe imagery.

    Args:
        images: uint8 (H, W, 3) each, at the model's scale.
        window_px: Side of the windows that are looked at.

    Returns:
        The profile, the same for the same images; None where they have too few windows, fewer than five
        times the features.
    """
    found = [[features for _, features in windows(image, None, window_px)] for image in images]
    table = np.array([features for windows_ in found for features in windows_])
    if len(table) < WINDOWS_PER_COMPONENT:
        return None
    # A window is nearer to a profile that knows it than one of the next scene will be.
    fold = np.repeat(np.arange(len(found)) * _FOLDS // len(found), [len(windows_) for windows_ in found])
    apart = [
        fit_mixture(table[fold != number]).distance(table[fold == number])
        for number in np.unique(fold)
        if np.count_nonzero(fold != number) >= 2
    ]
    mixture = fit_mixture(table)
    distances = np.concatenate(apart) if len(apart) > 1 else mixture.distance(table)
    return ImageryProfile(
        window_px=window_px,
        windows=len(table),
        weights=_plain(mixture.weights),
        means=_plain(mixture.means),
        covariances=_plain(mixture.covariances),
        levels=LEVELS,
        distances=_plain(np.quantile(distances, LEVELS)),
    )


def _shape(values: Any) -> tuple[int, ...] | None:
    try:
        return np.array(values, np.float64).shape
    except ValueError:  # rows of different lengths
        return None


def _plain(values: Float64Array) -> Any:
    """Return an array as nested tuples of seven digits, which is far more than the windows tell."""
    if values.ndim:
        return tuple(_plain(value) for value in values)
    return float(f"{float(values):.7g}")
