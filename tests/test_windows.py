from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from landcover.errors import UsageError
from landcover.windows import Window, blend_weights, grid

quick = settings(max_examples=60, deadline=None)
lengths = st.integers(1, 50)
windows_and_overlaps = st.integers(1, 40).flatmap(lambda w: st.tuples(st.just(w), st.integers(0, w - 1)))


@quick
@given(lengths, lengths, windows_and_overlaps)
@example(1, 1, (512, 400))
@example(300, 700, (512, 128))  # mmsegmentation gave negative offsets here
@example(2448, 20, (512, 112))  # and repeated the last window here
@example(512, 512, (512, 400))  # and ran one window four times here
@example(130, 130, (64, 0))
def test_grid_covers_every_pixel_with_distinct_windows_of_one_size_inside_the_image(
    height: int, width: int, window: tuple[int, int]
) -> None:
    window_px, overlap_px = window
    windows = grid(height, width, window_px, overlap_px)
    covered = np.zeros((height, width), int)
    for row, col, h, w in windows:
        assert row >= 0
        assert col >= 0
        assert row + h <= height
        assert col + w <= width
        assert (h, w) == (min(window_px, height), min(window_px, width))
        covered[row : row + h, col : col + w] += 1
    assert covered.min() >= 1
    assert len(set(windows)) == len(windows)
    assert windows == sorted(windows)


@quick
@given(lengths, windows_and_overlaps)
def test_neighbours_overlap_at_least_as_told_and_none_is_needless(
    length: int, window: tuple[int, int]
) -> None:
    window_px, overlap_px = window
    starts = [w.col for w in grid(1, length, window_px, overlap_px)]
    assert all(b - a <= window_px - overlap_px for a, b in pairwise(starts))
    fewest = 1 + max(0, -(-(length - window_px) // (window_px - overlap_px)))
    assert len(starts) == fewest


def test_a_deepglobe_image_in_windows_of_512() -> None:
    windows = grid(2448, 2448, 512, 128)
    assert len(windows) == 49
    assert [w.col for w in windows[:7]] == [0, 384, 768, 1152, 1536, 1920, 1936]


def test_slices_cut_the_window() -> None:
    image = np.arange(60).reshape(6, 10)
    assert (image[Window(1, 4, 2, 3).slices] == [[14, 15, 16], [24, 25, 26]]).all()


@pytest.mark.parametrize(("window_px", "overlap_px"), [(64, 64), (64, 65), (64, -1), (0, 0), (-8, 0)])
def test_impossible_overlaps_are_refused(window_px: int, overlap_px: int) -> None:
    with pytest.raises(UsageError, match=rf"{window_px} px cannot overlap by {overlap_px} px"):
        grid(100, 100, window_px, overlap_px)


@pytest.mark.parametrize("size", [(0, 5), (5, 0)])
def test_an_empty_image_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(UsageError, match="nothing to cover"):
        grid(*size, 64, 16)


@quick
@given(lengths, lengths, windows_and_overlaps)
@example(1, 1, (1, 0))
@example(600, 600, (256, 64))  # a peer lost 2,396 pixels of this one
def test_blending_a_constant_returns_it_everywhere(height: int, width: int, window: tuple[int, int]) -> None:
    window_px, overlap_px = window
    sums, total = np.zeros((height, width)), np.zeros((height, width))
    for place in grid(height, width, window_px, overlap_px):
        weights = blend_weights(place, height, width, overlap_px)
        assert weights.shape == (place.height, place.width)
        assert weights.dtype == np.float32
        assert weights.min() > 1e-5
        assert weights.max() <= 1
        sums[place.slices] += 0.3 * weights
        total[place.slices] += weights
    assert np.allclose(sums / total, 0.3, rtol=1e-6)


def test_weights_fall_towards_neighbours_and_not_towards_the_border() -> None:
    ramp, flat = [0.125, 0.375, 0.625, 0.875], [1.0] * 4
    first, second = grid(8, 12, 8, 4)
    assert np.allclose(blend_weights(first, 8, 12, 4), [flat + ramp[::-1]] * 8)
    assert np.allclose(blend_weights(second, 8, 12, 4), [ramp + flat] * 8)
    middle = Window(4, 4, 8, 8)
    assert np.allclose(blend_weights(middle, 100, 100, 4), np.outer(ramp + ramp[::-1], ramp + ramp[::-1]))


def test_weights_of_an_overlap_beyond_half_the_window_meet_in_the_middle() -> None:
    weights = blend_weights(Window(0, 5, 1, 6), 1, 100, 5)[0]
    assert np.allclose(weights, [0.1, 0.3, 0.5, 0.5, 0.3, 0.1])
