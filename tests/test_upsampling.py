import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.ndimage import map_coordinates

from landcover.inference.grid import axis, upsample, upsampled_argmax

quick = settings(max_examples=80, deadline=None)
pixels = st.integers(1, 70)
scales = st.sampled_from([0.1046, 0.25, 0.5, 1.0, 1.7, 3.0])


def cells_for(size, scale):
    return max(1, int(np.ceil(size * scale)))


def random_odds(rows, cols, seed):
    odds = np.random.default_rng(seed).random((4, rows, cols), dtype=np.float32) ** 3
    return odds / odds.sum(0)


@quick
@given(pixels, pixels, scales, st.integers(0, 9))
@example(1, 1, 0.25, 0)
@example(70, 1, 3.0, 0)
def test_interpolation_agrees_with_scipy(height, width, scale, seed):
    values = random_odds(cells_for(height, scale), cells_for(width, scale), seed)
    rows, cols = axis(height, values.shape[1], scale), axis(width, values.shape[2], scale)
    found = upsample(values, rows, cols)
    places = np.meshgrid(*((np.arange(n) + 0.5) * scale - 0.5 for n in (height, width)), indexing="ij")
    for plane, channel in zip(found, values, strict=True):
        assert np.allclose(plane, map_coordinates(channel, places, order=1, mode="nearest"), atol=1e-5)
    assert np.allclose(found.sum(0), 1, atol=1e-5)


@quick
@given(pixels, pixels, scales, st.integers(0, 9))
@example(1, 1, 0.25, 0)
@example(300, 300, 0.1046, 1)
def test_the_argmax_is_that_of_the_interpolation(height, width, scale, seed):
    values = random_odds(cells_for(height, scale), cells_for(width, scale), seed)
    if seed % 2:  # large areas of one class, as in maps
        values[:, : values.shape[1] // 2] = values[:, :1, :1]
    rows, cols = axis(height, values.shape[1], scale), axis(width, values.shape[2], scale)
    full = upsample(values, rows, cols)
    labels = np.array([7, 3, 0, 200], np.uint8)
    labelled = upsampled_argmax(values, rows, cols, labels)
    assert labelled.dtype == np.uint8
    found = np.argsort(labels)[np.searchsorted(np.sort(labels), labelled)]
    chosen = np.take_along_axis(full, found[None].astype(int), axis=0)[0]
    assert (chosen >= full.max(0) - 1e-6).all()
    assert (found == full.argmax(0)).mean() > 0.999


@quick
@given(st.integers(1, 9), st.integers(1, 9), st.sampled_from([0.125, 0.25, 0.5]), st.integers(0, 99))
def test_of_equal_classes_the_first_wins(rows, cols, scale, seed):
    """Few values and weights in powers of two: sums are exact, and classes often equal."""
    values = (np.random.default_rng(seed).integers(0, 4, (6, rows, cols)) / 4).astype(np.float32)
    down, right = axis(int(rows / scale), rows, scale), axis(int(cols / scale), cols, scale)
    expected = upsample(values, down, right).argmax(axis=0)
    assert np.array_equal(upsampled_argmax(values, down, right, np.arange(6, dtype=np.uint8)), expected)
