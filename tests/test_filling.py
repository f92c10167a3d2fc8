"""What stands where there is no imagery: mirrored ground, and nothing of it in the imagery."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from landcover.model.preprocessing import any_within, mirrored, resample_image

SHAPES = st.tuples(st.integers(1, 12), st.integers(1, 12))


def picture(shape):
    """uint8 (H, W, 3), every pixel of another colour."""
    number = np.arange(shape[0] * shape[1]).reshape(shape)
    return np.stack([number % 251 + 1, number // 251 + 1, np.full(shape, 9)], -1).astype(np.uint8)


@given(hnp.arrays(bool, SHAPES))
def test_imagery_stays_and_the_rest_is_made_of_imagery(valid):
    image = picture(valid.shape)
    image[~valid] = 0
    filled = mirrored(image, valid)
    np.testing.assert_array_equal(filled[valid], image[valid])
    if valid.any():
        known = {tuple(pixel) for pixel in image[valid]}
        assert {tuple(pixel) for pixel in filled.reshape(-1, 3)} <= known


@pytest.mark.parametrize("turns", range(4))
@pytest.mark.parametrize(("width", "missing"), [(9, 1), (9, 3), (9, 5), (9, 7), (60, 33)])
def test_beyond_an_edge_stands_what_numpy_calls_symmetric(width, missing, turns):
    """Also where more is missing than there is, to and fro, and where an image is long and narrow."""
    ground = picture((3, width))[:, : width - missing]
    valid = np.ones((3, width), bool)
    valid[:, width - missing :] = False
    image = np.pad(ground, ((0, 0), (0, missing), (0, 0)))
    filled = mirrored(np.rot90(image, turns), np.rot90(valid, turns))
    expected = np.pad(ground, ((0, 0), (0, missing), (0, 0)), mode="symmetric")
    np.testing.assert_array_equal(filled, np.rot90(expected, turns))


def test_the_nearer_edge_is_taken():
    image = np.zeros((7, 7, 3), np.uint8)
    image[:, :2], image[:2] = 10, 20
    valid = (image > 0).all(-1)
    filled = mirrored(image, valid)
    assert filled[5, 2, 0] == 10
    assert filled[2, 5, 0] == 20


def test_nothing_is_shown_where_nothing_is():
    image = picture((4, 5))
    assert mirrored(image, np.zeros((4, 5), bool)) is image
    assert mirrored(image, np.ones((4, 5), bool)) is image


@given(hnp.arrays(bool, SHAPES), st.integers(1, 20), st.integers(0, 1))
def test_a_pixel_is_whole_if_all_that_it_is_resampled_from_is(missing, length, axis):
    """By the resampling itself: what is missing leaves a trace of its brightness."""
    shape = list(missing.shape)
    step, shape[axis] = shape[axis] / length, length
    found = any_within(missing, slice(0, length), step, 0, axis)
    bright = np.repeat(np.where(missing, 255, 0).astype(np.uint8)[..., None], 3, axis=-1)
    seen = resample_image(bright, (shape[0], shape[1]))[..., 0] > 0
    assert not (seen & ~found).any()
    assert found.shape == tuple(shape)


@given(st.integers(2, 40), st.integers(1, 40))
def test_no_more_is_missing_than_the_filter_reaches(length, pixels):
    step = length / pixels
    missing = np.zeros((length, 1), bool)
    missing[length // 2] = True
    found = np.flatnonzero(any_within(missing, slice(0, pixels), step, 0, 0))
    centre = (found + 0.5) * step
    assert (np.abs(centre - length // 2 - 0.5) < max(step, 1) + 0.5).all()


def test_a_part_is_as_in_the_whole():
    missing = np.random.default_rng(0).random((40, 3)) < 0.2
    whole = any_within(missing, slice(0, 17), 40 / 17, 0, 0)
    part = any_within(missing[9:30], slice(5, 11), 40 / 17, 9, 0)
    np.testing.assert_array_equal(part, whole[5:11])
