import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fake_runtime import normalised
from landcover.errors import ConfigError, UsageError
from landcover.model import preprocessing
from landcover.model.preprocessing import (
    Preprocessing,
    resample_image,
    resample_mask,
    resample_rows,
    scaled_size,
    source_rows,
)

RNG = np.random.default_rng(0)
quick = settings(max_examples=60)
sizes = st.tuples(st.integers(1, 80), st.integers(1, 80))


def test_normalise_is_the_documented_formula():
    preprocessing = Preprocessing(0.5, mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 0.125))
    pixels = RNG.integers(0, 256, (2, 5, 4, 3), dtype=np.uint8)
    expected = (pixels / 255 - np.array([0.1, 0.2, 0.3])) / np.array([0.5, 0.25, 0.125])
    result = normalised(preprocessing, pixels)
    assert result.dtype == np.float32
    assert np.allclose(result, expected, atol=1e-5)


@pytest.mark.parametrize("gsd", [0.0, -0.5, float("nan"), float("inf")])
def test_impossible_gsd_is_refused(gsd):
    with pytest.raises(ConfigError, match="ground sample distance"):
        Preprocessing(gsd)


def test_impossible_mean_and_std_are_refused():
    with pytest.raises(ConfigError, match="positive"):
        Preprocessing(0.5, std=(0.2, 0.0, 0.2))
    with pytest.raises(ConfigError, match="3 finite"):
        Preprocessing(0.5, mean=(0.2, float("nan"), 0.2))
    with pytest.raises(ConfigError, match="3 finite"):
        Preprocessing(0.5, mean=(0.2, 0.2))


def test_scaled_size_rounds_and_never_vanishes():
    assert scaled_size((2448, 2448), 0.5 / 1.195) == (1024, 1024)
    assert scaled_size((3, 1000), 0.1) == (1, 100)


def test_reduced_fine_texture_does_not_alias():
    stripes = np.zeros((96, 96, 3), np.uint8)
    stripes[:, ::2] = 255
    reduced = resample_image(stripes, 1 / 2.39)
    assert np.ptp(reduced[:, 2:-2].astype(int)) < 70  # nearest or plain bilinear sampling: 255
    assert abs(reduced.mean() - 127.5) < 3


def weights(source, target, *, hamming):
    """float64 (target, source): Pillow's filters by their definition."""
    step = source / target
    reach = max(step, 1.0)
    distance = np.abs(np.arange(source) + 0.5 - (np.arange(target)[:, None] + 0.5) * step) / reach
    kernel = np.sinc(distance) * (0.54 + 0.46 * np.cos(np.pi * distance)) if hamming else 1 - distance
    kernel[distance >= 1] = 0
    return np.asarray(kernel / kernel.sum(axis=1, keepdims=True))


@quick
@given(sizes, sizes)
def test_resampling_is_the_filter_but_for_rounding(source, target):
    image = np.random.default_rng(4).integers(0, 256, (*source, 3), dtype=np.uint8)
    hamming = target[0] * target[1] < source[0] * source[1]
    down, across = (weights(source[i], target[i], hamming=hamming) for i in (0, 1))
    expected = np.einsum("hy,wx,yxc->hwc", down, across, image, optimize=True)
    found = resample_image(image, target)
    assert np.array_equal(resample_image(image[::-1].copy()[::-1], target), found)  # a view
    assert found.dtype == np.uint8
    assert np.abs(found - expected).max() < 1.1  # to bytes, once down and once across


@quick
@given(sizes, sizes, st.data())
def test_a_part_of_a_strip_is_that_of_the_whole(source, target, data):
    image = np.random.default_rng(3).integers(0, 256, (*source, 3), dtype=np.uint8)
    start = data.draw(st.integers(0, target[0] - 1))
    rows = slice(start, data.draw(st.integers(start + 1, target[0])))
    needed = source_rows(rows, source[0], target[0])
    found = resample_rows(image[needed], needed.start, rows, source, target)
    expected = resample_image(image, target)[rows]
    assert found.shape == expected.shape
    assert np.abs(found.astype(int) - expected).max() <= 1  # Pillow's fixed-point weights


@pytest.mark.parametrize("scale", [0.3505, 0.45, 0.6, 2.3])
@pytest.mark.parametrize("channels", [3, 4])
def test_columns_of_a_part_are_exactly_those_of_the_whole(monkeypatch, scale, channels):
    monkeypatch.setattr(preprocessing, "_WHOLE_COLS", 128)
    monkeypatch.setattr(preprocessing, "_PIECE_COLS", 64)
    image = np.random.default_rng(5).integers(0, 256, (40, 997, channels), dtype=np.uint8)
    target = preprocessing.scaled_size(image.shape[:2], scale)
    whole = resample_image(image, target)
    monkeypatch.setattr(preprocessing, "_WHOLE_COLS", 10_000)
    assert np.abs(resample_image(image, target).astype(int) - whole).max() <= 1
    monkeypatch.setattr(preprocessing, "_WHOLE_COLS", 128)
    for start in range(0, target[1] - 10, 37):
        cols = slice(start, min(start + 90, target[1]))
        needed = source_rows(cols, 997, target[1])
        part = image[:, needed]
        found = resample_rows(part, 0, slice(0, target[0]), (40, 997), target, needed.start, cols)
        assert np.array_equal(found, whole[:, cols])


@quick
@given(sizes, sizes)
def test_masks_take_the_nearest_pixel(source, target):
    mask = np.random.default_rng(2).integers(0, 256, source, dtype=np.uint8)
    rows = ((np.arange(target[0]) + 0.5) * source[0] / target[0]).astype(int)
    cols = ((np.arange(target[1]) + 0.5) * source[1] / target[1]).astype(int)
    result = resample_mask(mask, target)
    assert result.shape == target
    assert set(np.unique(result)) <= set(np.unique(mask))
    on_edge = source[0] * target[1] and (  # exactly between two pixels either is as near
        np.isclose(rows, (np.arange(target[0]) + 0.5) * source[0] / target[0]).any()
        or np.isclose(cols, (np.arange(target[1]) + 0.5) * source[1] / target[1]).any()
    )
    if not on_edge:
        assert np.array_equal(result, mask[rows][:, cols])


def test_same_size_costs_nothing():
    image = np.zeros((5, 6, 3), np.uint8)
    assert resample_image(image, 1.0) is image
    assert resample_mask(image[..., 0], (5, 6)).base is image


@pytest.mark.parametrize("size", [(0, 5), (5, -1), (5, 5, 5)])
def test_impossible_sizes_are_refused(size):
    with pytest.raises(UsageError, match="cannot be resampled"):
        resample_image(np.zeros((4, 4, 3), np.uint8), size)
