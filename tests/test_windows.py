from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from landcover.errors import UsageError
from landcover.windows import spans

quick = settings(max_examples=100, deadline=None)
lengths = st.integers(1, 60)
windows_and_overlaps = st.integers(1, 40).flatmap(lambda w: st.tuples(st.just(w), st.integers(0, w - 1)))


@quick
@given(lengths, windows_and_overlaps)
@example(1, (512, 400))
@example(300, (512, 128))  # mmsegmentation gave negative offsets here
@example(2448, (512, 112))  # and repeated the last window here
@example(512, (512, 400))  # and ran one window four times here
@example(130, (64, 0))
def test_windows_cover_the_axis_once_each_inside_it_and_none_is_needless(total, window):
    length, overlap = window
    found = spans(total, length, overlap)
    starts = [span.start for span in found]
    assert starts == sorted(set(starts))
    assert starts[0] == 0
    assert found[-1].stop == total
    assert {span.length for span in found} == {min(length, total)}
    assert all(after - before <= length - overlap for before, after in pairwise(starts))
    assert len(starts) == 1 + max(0, -(-(total - length) // (length - overlap)))


@quick
@given(lengths, windows_and_overlaps)
@example(1, (1, 0))
@example(600, (256, 64))  # a peer lost 2,396 pixels of this one
def test_the_weights_at_a_position_sum_to_one(total, window):
    sums = np.zeros(total)
    for span in spans(total, *window):
        assert span.weights.shape == (span.length,)
        assert span.weights.dtype == np.float32
        assert span.weights.min() >= 0
        sums[span.start : span.stop] += span.weights
    assert np.allclose(sums, 1, atol=1e-6)


def test_weights_fall_towards_neighbours_and_not_towards_the_ends():
    first, middle, last = spans(24, 12, 6)
    ramp = [0, 0.125, 0.375, 0.625, 0.875, 1]  # the outer quarter of the overlap counts for nothing
    assert np.allclose(first.weights, [1] * 6 + ramp[::-1])
    assert np.allclose(middle.weights, ramp + ramp[::-1])
    assert np.allclose(last.weights, ramp + [1] * 6)


@quick
@given(lengths, windows_and_overlaps)
def test_no_answer_from_the_edge_of_a_window_counts(total, window):
    length, overlap = window
    for span in spans(total, length, overlap):
        margin = overlap // 4
        if span.start > 0:
            assert not span.weights[:margin].any()
        if span.stop < total:
            assert not span.weights[span.length - margin :].any()


@pytest.mark.parametrize(("window", "overlap"), [(64, 64), (64, 65), (64, -1), (0, 0), (-8, 0)])
def test_impossible_overlaps_are_refused(window, overlap):
    with pytest.raises(UsageError, match=rf"{window} px cannot overlap by {overlap} px"):
        spans(100, window, overlap)


def test_an_empty_axis_is_refused():
    with pytest.raises(UsageError, match="axis of 0 positions"):
        spans(0, 64, 16)
