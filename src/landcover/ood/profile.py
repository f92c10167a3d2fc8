"""Profiles of training imagery, mixtures of Gaussians over features of windows, and their comparison."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import zip_longest
from typing import Annotated, Any, NamedTuple, Self

import numpy as np
from pydantic import Field, field_validator, model_validator

from landcover._typing import BoolArray, Float64Array, UInt8Array
from landcover.config import Config
from landcover.ood.features import FEATURES, LEAST_PX, WINDOW_PX, reasons, windows

Floats = tuple[float, ...]

LEVEL = 0.98
"""Windows farther than this fraction of the training windows are out of distribution."""

_FOLDS = 5

LEVELS = (0.5, 0.9, 0.95, 0.97, LEVEL, 0.99, 0.995, 0.999)
"""Fractions of windows whose distances a profile contains."""

_COMPONENTS = 4
_RIDGE = 0.03  # of each feature's variance: no direction is taken for narrower
_ROUNDS = 30

WINDOWS_PER_COMPONENT = 5 * len(FEATURES)
"""A Gaussian is fitted to no fewer."""

WARN_FRACTION = 0.3
"""Warn at or above this fraction of a scene; docs/reports/benchmarks.md reports how often that happens."""


_GRADES = ((1.5, "slightly"), (3.0, "clearly"), (10.0, "far"))
"""Words for degrees below a limit."""


class Mixture(NamedTuple):
    """Gaussians: float64 (K,), (K, F) and (K, F, F)."""

    weights: Float64Array
    means: Float64Array
    covariances: Float64Array

    def logs(self, features: Float64Array) -> Float64Array:
        """Return the logarithm of each weighted density, float64 (N, K)."""
        apart = features[:, None] - self.means
        precisions = np.linalg.inv(self.covariances)
        squares = np.einsum("nki,kij,nkj->nk", apart, precisions, apart)
        volumes = np.linalg.slogdet(2 * np.pi * self.covariances).logabsdet
        result: Float64Array = np.log(self.weights) - (squares + volumes) / 2
        return result

    def distance(self, features: Float64Array) -> Float64Array:
        """Return -2 log density, float64 (N,)."""
        result: Float64Array = -2 * np.logaddexp.reduce(self.logs(features), axis=1)
        return result


def fit_mixture(features: Float64Array) -> Mixture:
    """Fit a mixture by expectation maximisation (Dempster et al. 1977), from equal parts by roughness."""
    count = len(features)
    components = max(1, min(_COMPONENTS, count // WINDOWS_PER_COMPONENT))
    ridge = np.diag(_RIDGE * features.var(axis=0) + 1e-6)
    rank = np.argsort(np.argsort(features[:, FEATURES.index("roughness")], kind="stable"), kind="stable")
    shares = np.eye(components)[rank * components // count]
    for _ in range(_ROUNDS if components > 1 else 1):
        total = shares.sum(axis=0) + 1e-9
        means = shares.T @ features / total[:, None]
        apart = features[:, None] - means
        covariances = np.einsum("nk,nki,nkj->kij", shares, apart, apart, optimize=True)
        mixture = Mixture(total / total.sum(), means, covariances / total[:, None, None] + ridge)
        logs = mixture.logs(features)
        shares = np.exp(logs - np.logaddexp.reduce(logs, axis=1)[:, None])
    return mixture


class ImageryProfile(Config):
    """Description of the training imagery of a model.

    The density of a window with the features x is ``sum_k weights[k] N(x; means[k], covariances[k])``; its
    distance is ``-2 log density``, for one Gaussian the squared Mahalanobis distance plus a constant.

    Attributes:
        window_px: Side of the windows in pixels at the model's GSD.
        windows: Number of windows measured.
        features: Their names, :data:`FEATURES`.
        weights: K fractions that sum to one.
        means: K times F.
        covariances: K times F times F, symmetric, positive definite.
        levels: Fractions of windows, rising, in 0..1.
        distances: Distances below which these fractions are, cross-validated over five folds of images.
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
            try:
                matches = np.array(getattr(self, name), np.float64).shape == shape
            except ValueError:  # rows of different lengths
                matches = False
            if not matches:
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
        """The distance above which a window is out of distribution."""
        return self.distances[self.levels.index(LEVEL)]

    def distance(self, features: Float64Array) -> Float64Array:
        """Return ``-2 log density`` of windows: float64 (N,) for float64 (N, F)."""
        return Mixture(*map(np.array, (self.weights, self.means, self.covariances))).distance(features)

    def degree(self, features: Float64Array) -> Float64Array:
        """Return how far windows are: 0 for the median of the training windows, 1 at the limit."""
        median = float(np.interp(0.5, self.levels, self.distances))
        result: Float64Array = (self.distance(features) - median) / max(self.limit - median, 1e-9)
        return result

    def scores(self, features: Float64Array) -> Float64Array:
        """Return standard scores of features, float64 (N, F) for (N, F)."""
        weights, means = np.array(self.weights), np.array(self.means)
        mean = weights @ means
        variances = np.array([np.diag(spread) for spread in self.covariances])
        variance = weights @ (variances + means**2) - mean**2
        result: Float64Array = (features - mean) / np.sqrt(variance)
        return result


def measure_profile(
    images: Iterable[UInt8Array | tuple[UInt8Array, BoolArray | None]], *, window_px: int = WINDOW_PX
) -> ImageryProfile | None:
    """Return the profile of images, uint8 (H, W, C) each, at the model's scale.

    An image may come with bool (H, W), where there is imagery. None if there are too few windows, fewer than
    five times the features.
    """
    found = []
    for entry in images:
        image, valid = entry if isinstance(entry, tuple) else (entry, None)
        found.append([features for _, features in windows(image, valid, window_px)])
    table = np.array([features for windows_ in found for features in windows_])
    if len(table) < WINDOWS_PER_COMPONENT:
        return None
    # A profile is closer to the windows that it was fitted to than to those of other scenes.
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


def _plain(values: Float64Array) -> Any:
    """Return an array as nested tuples of numbers with seven digits."""
    if values.ndim:
        return tuple(_plain(value) for value in values)
    return float(f"{float(values):.7g}")


@dataclass(frozen=True, slots=True)
class OodReport:
    """The fraction of a scene, 0..1, that is out of distribution, and how it differs, the main reason first.

    ``degree`` is how far that is on average, by :meth:`ImageryProfile.degree`: above 1; None: not known.
    """

    share: float
    reasons: tuple[str, ...] = ()
    degree: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return {"share": self.share, "reasons": list(self.reasons), "degree": self.degree}

    @property
    def is_flagged(self) -> bool:
        """Whether the scene needs a warning."""
        return self.share >= WARN_FRACTION

    @property
    def summary(self) -> str:
        """How much of the scene differs, how far and how."""
        parts = [f"{100 * self.share:.0f} % of its area"]
        if self.degree is not None:
            word = next((word for limit, word in _GRADES if self.degree < limit), "extremely far")
            parts.append(f"{word}: {self.degree:.1f} times the limit")
        return "; ".join([*parts, *([", ".join(self.reasons)] if self.reasons else [])])

    def warning(self, name: str) -> str | None:
        """Return a sentence about the scene of that name; None below :data:`WARN_FRACTION`."""
        if not self.is_flagged:
            return None
        return f"{name} is out of distribution for this model ({self.summary}). Check the map before use."


@dataclass(frozen=True, slots=True)
class OodStats:
    """Counts of a part of a scene, in whole numbers: the order of adding parts does not matter.

    Attributes:
        pixels: Compared pixels.
        unlike: Pixels in windows that are out of distribution.
        windows: Windows that are out of distribution.
        scores: Sums over these windows of :meth:`ImageryProfile.scores` in thousandths, one per feature.
        degree: Sum over these windows of :meth:`ImageryProfile.degree` in thousandths.
    """

    pixels: int = 0
    unlike: int = 0
    windows: int = 0
    scores: tuple[int, ...] = ()
    degree: int = 0

    def __add__(self, other: "OodStats") -> "OodStats":
        scores = tuple(a + b for a, b in zip_longest(self.scores, other.scores, fillvalue=0))
        return OodStats(
            self.pixels + other.pixels,
            self.unlike + other.unlike,
            self.windows + other.windows,
            scores,
            self.degree + other.degree,
        )

    def report(self) -> OodReport | None:
        """Return the fraction and the reasons; None if no pixel was compared."""
        if not self.pixels:
            return None
        why = reasons(np.array(self.scores) / (1000 * self.windows)) if self.windows else ()
        degree = round(self.degree / 1000 / self.windows, 2) if self.windows else None
        return OodReport(round(self.unlike / self.pixels, 4), why, degree)


def ood_stats(profile: ImageryProfile, image: UInt8Array, valid: BoolArray | None = None) -> OodStats:
    """Compare an image, uint8 (H, W, C) at the model's scale, with a profile, window by window.

    ``valid`` is bool (H, W), where there is imagery; None: everywhere.
    """
    found = list(windows(image, valid, profile.window_px))
    if not found:
        return OodStats()
    areas, features = map(np.array, zip(*found, strict=True))
    unlike = profile.distance(features) > profile.limit
    scores = np.rint(1000 * np.clip(profile.scores(features[unlike]), -1e6, 1e6)).astype(np.int64)
    degrees = np.rint(1000 * np.clip(profile.degree(features[unlike]), 0, 1e6)).astype(np.int64)
    return OodStats(
        int(areas.sum()),
        int(areas[unlike].sum()),
        int(unlike.sum()),
        tuple(scores.sum(axis=0).tolist()) if unlike.any() else (),
        int(degrees.sum()),
    )
