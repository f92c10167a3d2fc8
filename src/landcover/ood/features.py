"""Cheap statistics of windows of an image, and words for them."""

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np

from landcover._typing import BoolArray, Float32Array, Float64Array, UInt8Array

WINDOW_PX = 256
"""Side of the compared windows, in the model's pixels, where an image is large enough."""

LEAST_PX = 64
"""Windows with a shorter side are skipped."""


# Name of each statistic, and a word for imagery with less and with more of it.
_FEATURES = (
    ("light", "darker", "brighter"),
    ("warmth", "bluer", "redder"),
    ("greenness", "less green", "greener"),
    ("contrast", "flatter", "richer in contrast"),
    ("warmth_spread", "less varied in colour", "more varied in colour"),
    ("greenness_spread", "less varied in colour", "more varied in colour"),
    ("roughness", "smoother", "rougher"),
    ("sharpness", "blurrier", "sharper or noisier"),
    ("coarseness", "finer in pattern", "coarser in pattern"),
    ("red_with_green", "with bands that differ more", "with bands that differ less"),
    ("blue_with_green", "with bands that differ more", "with bands that differ less"),
    ("warm_light", "with bluer lights", "with redder lights"),
)

FEATURES = tuple(name for name, _, _ in _FEATURES)
"""Names of the statistics of a window, see :func:`window_features`."""

_LIGHT = np.array([0.25, 0.5, 0.25])
_WARMTH = np.array([1.0, 0.0, -1.0])
_GREENNESS = np.array([-0.5, 1.0, -0.5])
_LAGS = (1, 4, 8, 16)
_LINE_STEP = 8
_NOISE = 0.5  # grey values, as 8 bits round them: keeps logarithms of what does not vary finite


def windows(
    image: UInt8Array, valid: BoolArray | None = None, window_px: int = WINDOW_PX
) -> Iterator[tuple[int, Float64Array]]:
    """Cut an image evenly into windows of about ``window_px``; yield pixels and features of each.

    Windows with imagery in less than half, or narrower than :data:`LEAST_PX`, are skipped. ``image`` is uint8
    (H, W, C) at the model's scale, of which the first three bands are compared, as red, green and blue;
    ``valid`` bool (H, W): where there is imagery; None: everywhere.
    """
    image = image[..., :3]
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
    """Return the statistics of a window, of every eighth row and column: float64 (F,), finite.

    With light (R + 2 G + B) / 4, warmth R - B and greenness G - (R + B) / 2, in grey values: the mean of
    each; the logarithm of the standard deviation of each; of the mean absolute difference of light at 4
    pixels (roughness); of its ratio at 1 to 8 (sharpness) and at 16 to 4 pixels (coarseness); Fisher's z of
    the correlation of red and of blue with green; and how much more steeply red rises with green than blue.
    ``image`` is uint8 (H, W, 3). None if there is too little imagery where ``valid``, bool (H, W).
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


def reasons(scores: Float64Array) -> tuple[str, ...]:
    """Return words for mean standard scores (F,) of windows: up to three, each half the first or more."""
    order = np.argsort(-np.abs(scores), kind="stable")
    words = [
        _FEATURES[i][2 if scores[i] > 0 else 1]
        for i in order
        if abs(scores[i]) >= max(1.0, abs(scores[order[0]]) / 2)
    ]
    return tuple(dict.fromkeys(words))[:3]


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
