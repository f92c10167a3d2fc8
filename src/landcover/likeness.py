"""Whether imagery looks like what a model learned from, without a network.

A network answers with confidence on imagery that it has never seen the like of: swapped bands, another
scale, haze, another sensor. An :class:`ImageryProfile` describes what the training imagery looks like at the
model's scale: a mixture of Gaussians over cheap statistics of windows (:data:`FEATURES`). A window whose
density under it is lower than that of almost all training windows looks unlike them. One Gaussian would not
do: water and fields without texture widen it until it holds everything. Measured by
``python -m landcover.benchmarks.unlike``.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, field_validator, model_validator

from landcover.config import Config
from landcover.legend import UInt8Array

BoolArray = npt.NDArray[np.bool_]
Float32Array = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]
Floats = tuple[float, ...]

WINDOW_PX = 256
"""Side of the windows that are looked at, in the model's pixels, where an image is large enough."""

LEAST_PX = 64
"""Windows with a shorter side are not looked at."""

LEVEL = 0.98
"""Windows farther than this share of the training windows look unlike them."""

MUCH = 0.3
"""From this share of a scene on a warning is given; docs/benchmarks.md says how often of the same kind."""


class _Feature(NamedTuple):
    """A statistic, and what imagery looks like that has more or less of it than usual."""

    name: str
    less: str
    more: str


_FEATURES = (
    _Feature("light", "darker", "brighter"),
    _Feature("warmth", "bluer", "redder"),
    _Feature("greenness", "less green", "greener"),
    _Feature("contrast", "flatter", "richer in contrast"),
    _Feature("warmth_spread", "less varied in colour", "more varied in colour"),
    _Feature("greenness_spread", "less varied in colour", "more varied in colour"),
    _Feature("roughness", "smoother", "rougher"),
    _Feature("sharpness", "blurrier", "sharper or noisier"),
    _Feature("coarseness", "finer in pattern", "coarser in pattern"),
    _Feature("red_with_green", "with bands that differ more", "with bands that differ less"),
    _Feature("blue_with_green", "with bands that differ more", "with bands that differ less"),
    _Feature("warm_light", "with bluer lights", "with redder lights"),
)

FEATURES = tuple(feature.name for feature in _FEATURES)
"""Names of the statistics of a window, see :func:`window_features`."""

LEVELS = (0.5, 0.9, 0.95, 0.97, LEVEL, 0.99, 0.995, 0.999)
"""Shares of windows whose distances a profile holds."""

_LIGHT = np.array([0.25, 0.5, 0.25])
_WARMTH = np.array([1.0, 0.0, -1.0])
_GREENNESS = np.array([-0.5, 1.0, -0.5])
_LAGS = (1, 4, 8, 16)
_LINE_STEP = 8
_NOISE = 0.5  # grey values, as 8 bits round them: keeps logarithms of what does not vary finite

_COMPONENTS = 4
_WINDOWS_PER_COMPONENT = 5 * len(FEATURES)
_ROUNDS = 30
_RIDGE = 0.03  # of each feature's variance: no direction is taken for narrower
_FOLDS = 5


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
        return _Mixture(*map(np.array, (self.weights, self.means, self.covariances))).distance(features)

    def scores(self, features: Float64Array) -> Float64Array:
        """Return by how many standard deviations features differ from the mean: float64 (N, F) for (N, F)."""
        weights, means = np.array(self.weights), np.array(self.means)
        mean = weights @ means
        variances = np.array([np.diag(spread) for spread in self.covariances])
        variance = weights @ (variances + means**2) - mean**2
        result: Float64Array = (features - mean) / np.sqrt(variance)
        return result


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
        return Unlike(share, _reasons(np.array(self.scores) / (1000 * self.windows)) if self.windows else ())


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


def windows(
    image: UInt8Array, valid: BoolArray | None = None, window_px: int = WINDOW_PX
) -> Iterator[tuple[int, Float64Array]]:
    """Cut an image evenly into windows of about ``window_px``; yield pixels and features of each.

    Windows less than half of which is imagery, or narrower than :data:`LEAST_PX`, are left out.

    Args:
        image: uint8 (H, W, 3) at the model's scale.
        valid: bool (H, W): where there is imagery; None: everywhere.
        window_px: Their side.
    """
    height, width = image.shape[:2]
    for rows in _pieces(height, window_px):
        for cols in _pieces(width, window_px):
            inside = None if valid is None else valid[rows, cols]
            area = (rows.stop - rows.start) * (cols.stop - cols.start)
            if inside is not None:
                count = int(np.count_nonzero(inside))
                if 2 * count < area:
                    continue
                inside, area = None if count == area else inside, count
            found = window_features(image[rows, cols], inside)
            if found is not None:
                yield area, found


def window_features(image: UInt8Array, valid: BoolArray | None = None) -> Float64Array | None:
    """Return the statistics of a window, of every eighth row and column.

    With light (R + 2 G + B) / 4, warmth R - B and greenness G - (R + B) / 2, in grey values: the mean of
    each; the logarithm of the standard deviation of each; of the mean absolute difference of light at 4
    pixels (roughness); of its ratio at 1 to 8 (sharpness) and at 16 to 4 pixels (coarseness); Fisher's z of
    the correlation of red and of blue with green; and how much more steeply red rises with green than blue.

    Args:
        image: uint8 (H, W, 3) at the model's scale, H and W at least :data:`LEAST_PX`.
        valid: bool (H, W): what counts; None: everything.

    Returns:
        float64 (F,), finite, in the order of :data:`FEATURES`; None if too little counts.
    """
    whole = (image[::_LINE_STEP], image[:, ::_LINE_STEP].swapaxes(0, 1))
    lines = [np.ascontiguousarray(part, np.float32) for part in whole]
    masks = [None, None] if valid is None else [valid[::_LINE_STEP], valid[:, ::_LINE_STEP].T]
    steps = _differences(lines, masks)
    if steps is None:
        return None
    pixels = np.concatenate(
        [part.reshape(-1, 3) if mask is None else part[mask] for part, mask in zip(lines, masks, strict=True)]
    )
    mean = np.ones(len(pixels), np.float32) @ pixels / len(pixels)  # faster than mean() along three columns
    pixels -= mean
    spread = (pixels.T @ pixels).astype(np.float64) / len(pixels)
    axes = np.stack([_LIGHT, _WARMTH, _GREENNESS])
    spreads = np.log(np.sqrt(np.maximum(np.diag(axes @ spread @ axes.T), 0)) + _NOISE)
    one, four, eight, sixteen = np.log(steps + _NOISE)
    sides = np.sqrt(np.diag(spread)) + _NOISE
    together = np.clip(spread / np.outer(sides, sides), -0.9999, 0.9999)
    slope = (spread[0, 1] - spread[2, 1]) / sides[1] ** 2
    return np.array(
        [
            *(axes @ mean),
            *spreads,
            four,
            one - eight,
            sixteen - four,
            np.arctanh(together[0, 1]),
            np.arctanh(together[2, 1]),
            np.clip(slope, -3, 3),
        ]
    )


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
    if len(table) < _WINDOWS_PER_COMPONENT:
        return None
    # A window is nearer to a profile that knows it than one of the next scene will be.
    fold = np.repeat(np.arange(len(found)) * _FOLDS // len(found), [len(windows_) for windows_ in found])
    apart = [
        _fit(table[fold != number]).distance(table[fold == number])
        for number in np.unique(fold)
        if np.count_nonzero(fold != number) >= 2
    ]
    mixture = _fit(table)
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


class _Mixture(NamedTuple):
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


def _fit(features: Float64Array) -> _Mixture:
    """Fit a mixture by expectation and maximisation (Dempster, Laird and Rubin 1977).

    It begins with equal parts by roughness, and each covariance has a ridge.
    """
    count = len(features)
    components = max(1, min(_COMPONENTS, count // _WINDOWS_PER_COMPONENT))
    ridge = np.diag(_RIDGE * features.var(axis=0) + 1e-6)
    rank = np.argsort(np.argsort(features[:, FEATURES.index("roughness")], kind="stable"), kind="stable")
    shares = np.eye(components)[rank * components // count]
    for _ in range(_ROUNDS if components > 1 else 1):
        total = shares.sum(axis=0) + 1e-9
        means = shares.T @ features / total[:, None]
        apart = features[:, None] - means
        covariances = np.einsum("nk,nki,nkj->kij", shares, apart, apart, optimize=True)
        mixture = _Mixture(total / total.sum(), means, covariances / total[:, None, None] + ridge)
        logs = mixture.logs(features)
        shares = np.exp(logs - np.logaddexp.reduce(logs, axis=1)[:, None])
    return mixture


def _differences(lines: Sequence[Float32Array], masks: Sequence[BoolArray | None]) -> Float64Array | None:
    """Return mean absolute differences of light along lines at each lag, float64; None without any."""
    sums, counts = np.zeros(len(_LAGS)), np.zeros(len(_LAGS))
    weights = _LIGHT.astype(np.float32)
    for part, mask in zip(lines, masks, strict=True):
        light = (part.reshape(-1, 3) @ weights).reshape(part.shape[:2])
        for number, lag in enumerate(_LAGS):
            steps = light[:, lag:] - light[:, :-lag]
            if mask is not None:
                steps = steps[mask[:, lag:] & mask[:, :-lag]]
            sums[number] += float(np.abs(steps, out=steps).sum())
            counts[number] += steps.size
    return sums / counts if counts.all() else None


def _pieces(length: int, window_px: int) -> list[slice]:
    """Cut a length evenly into pieces of about ``window_px``; nothing where it is too short."""
    if length < LEAST_PX:
        return []
    borders = np.rint(np.linspace(0, length, max(1, round(length / window_px)) + 1)).astype(int)
    return [slice(int(a), int(b)) for a, b in pairwise(borders)]


def _reasons(scores: Float64Array) -> tuple[str, ...]:
    """Say how windows differ, by mean standard scores (F,): up to three, each half the first or more."""
    order = np.argsort(-np.abs(scores), kind="stable")
    words = [
        _FEATURES[i].more if scores[i] > 0 else _FEATURES[i].less
        for i in order
        if abs(scores[i]) >= max(1.0, abs(scores[order[0]]) / 2)
    ]
    return tuple(dict.fromkeys(words))[:3]


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
