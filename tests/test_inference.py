"""From windows to a map in memory: spans, interpolation of the logit grid, and both together."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.ndimage import map_coordinates

from fake_runtime import AtFullSize, ColourRuntime, ConstantRuntime, make_card
from landcover.errors import ConfigError, ImageError, ModelError, UsageError
from landcover.inference import predict_index, predict_probabilities
from landcover.inference.grid import WHOLE_PX, axis, upsample, upsampled_argmax
from landcover.legend import DEEPGLOBE, LandClass, Legend
from landcover.windows import spans

quick = settings(max_examples=100)
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
def test_impossible_overlaps_and_an_empty_axis_are_refused(window, overlap):
    with pytest.raises(UsageError, match=rf"{window} px cannot overlap by {overlap} px"):
        spans(100, window, overlap)
    with pytest.raises(UsageError, match="axis of 0 positions"):
        spans(0, 64, 16)


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


RNG = np.random.default_rng(0)
sides = st.integers(1, 150)


def patches(height, width, cell=10):
    """Class indices in square cells."""
    cells = RNG.integers(0, 6, (-(-height // cell), -(-width // cell)), dtype=np.uint8)
    return cells.repeat(cell, 0).repeat(cell, 1)[:height, :width]


@settings(max_examples=60)
@given(
    sides,
    sides,
    st.sampled_from([None, 0, 1, 7, 48, 64]),
    st.floats(0, 0.95),
    st.sampled_from([None, 1.0, 0.31, 2.39]),
    st.integers(1, 3),
)
@example(1, 1, None, 0.0, None, 1)
@example(96, 96, 48, 0.0, None, 1)  # overlap 0 with the stride equal to the window: empty in a peer
@example(30, 130, 48, 0.5, None, 2)  # smaller than the window on one axis
def test_a_constant_model_returns_its_constant_everywhere(height, width, window_px, overlap, gsd, batch):
    if window_px == 1:
        height, width = min(height, 20), min(width, 20)
    overlap_px = int(overlap * window_px) if window_px else None
    overlap_px = min(overlap_px, 3 * window_px // 4) if window_px and overlap_px is not None else None
    image = np.zeros((height, width, 3), np.uint8)
    runtime = ConstantRuntime()
    options = {"gsd": gsd, "window_px": window_px, "overlap_px": overlap_px, "batch": batch}
    result = predict_probabilities(runtime, image, **options)
    assert result.shape == (6, height, width)
    assert result.dtype == np.float32
    assert np.allclose(result, np.array(runtime.values)[:, None, None], atol=1e-6)
    index = predict_index(runtime, image, **options)
    assert index.dtype == np.uint8
    assert np.array_equal(index, np.full((height, width), 2))


def test_overlapping_windows_average_probabilities_with_ramps():
    class Sides(AtFullSize):
        """Sure of class 0 in windows that begin black, sure of class 1 in others; its logits are huge."""

        card = make_card()
        device = "cpu"

        def probabilities(self, batch):
            result = np.zeros((len(batch), 6, *batch.shape[1:3]), np.float32)
            for one, image in zip(result, batch, strict=True):
                one[0 if image[0, 0, 0] == 0 else 1] = 1
            return result

    image = np.zeros((40, 60, 3), np.uint8)
    image[:, 20:] = 255
    result = predict_probabilities(Sides(), image, window_px=40, overlap_px=20)
    # The outer quarters of the overlap belong to the neighbour that sees more; between them lies the ramp.
    share = (np.arange(10) + 0.5) / 10
    assert np.allclose(result[1], np.concatenate([np.zeros(25), share, np.ones(25)]), atol=1e-6)
    assert np.allclose(result.sum(0), 1, atol=1e-6)


def test_index_is_the_argmax_in_legend_order():
    image = RNG.integers(0, 256, (90, 70, 3), dtype=np.uint8)
    for gsd in (1.0, 0.4, 3.0):
        probabilities = predict_probabilities(ColourRuntime(), image, gsd=gsd)
        assert np.array_equal(predict_index(ColourRuntime(), image, gsd=gsd), probabilities.argmax(0))


def test_unknown_is_never_predicted_wherever_it_stands_in_the_legend():
    classes = tuple(LandClass(f"c{i}", (i, i, i)) for i in range(7))
    runtime = ConstantRuntime(card=make_card(legend=Legend("middle", classes, unknown=2)))
    index = predict_index(runtime, np.zeros((9, 9, 3), np.uint8))
    assert (index == 3).all()  # the third channel, behind unknown


@pytest.mark.parametrize("gsd", [0.5, 1.0, 2.0, 0.837])
def test_maps_lie_on_the_images_own_grid(gsd):
    truth = patches(120, 180, cell=30)
    index = predict_index(ColourRuntime(), DEEPGLOBE.colours[truth], gsd=gsd)
    assert index.shape == truth.shape
    # Mixed colours along borders may be taken for a third class; inside its cell every pixel must be right.
    inside = np.zeros((30, 30), bool)
    inside[4:-4, 4:-4] = True
    assert (index == truth)[np.tile(inside, (4, 6))].all()


def test_the_network_sees_the_image_at_its_own_scale():
    image = np.zeros((239, 478, 3), np.uint8)
    for gsd, expected in [(0.5, (1, 100, 200, 3)), (1.195, (1, 239, 478, 3)), (None, (1, 239, 478, 3))]:
        runtime = ColourRuntime(make_card(gsd=1.195))
        predict_probabilities(runtime, image, gsd=gsd)
        assert runtime.shapes == [expected]


def test_large_images_go_through_the_windows_that_the_card_advises():
    runtime = ColourRuntime(make_card(window_px=900, overlap_px=100))
    predict_index(runtime, np.zeros((40, WHOLE_PX, 3), np.uint8))
    assert runtime.shapes == [(1, 40, WHOLE_PX, 3)]
    predict_index(runtime, np.zeros((40, WHOLE_PX + 1, 3), np.uint8))
    assert runtime.shapes[1:] == [(1, 40, 900, 3)] * 2
    predict_index(runtime, np.zeros((40, WHOLE_PX + 1, 3), np.uint8), window_px=0)
    assert runtime.shapes[3:] == [(1, 40, WHOLE_PX + 1, 3)]


def test_tiny_images_are_padded_for_the_network_and_cut_again():
    truth = patches(5, 3, cell=1)
    runtime = ColourRuntime()
    assert np.array_equal(predict_index(runtime, DEEPGLOBE.colours[truth]), truth)
    assert runtime.shapes == [(1, 32, 32, 3)]


@pytest.mark.parametrize("side", [9, 99])
def test_impossible_options_are_refused_whatever_the_image(side):
    image = np.zeros((side, side, 3), np.uint8)
    for window_px, overlap_px in [(64, 64), (64, -1), (None, -1), (None, 10**6), (0, -1), (10**6, -1)]:
        with pytest.raises(UsageError, match="cannot overlap"):
            predict_index(ColourRuntime(), image, window_px=window_px, overlap_px=overlap_px)
    with pytest.raises(UsageError, match="-5 px"):
        predict_index(ColourRuntime(), image, window_px=-5)
    with pytest.raises(ConfigError, match="ground sample distance"):
        predict_index(ColourRuntime(), image, gsd=-1)


@pytest.mark.parametrize("gsd", [10.1, 1e9, 1e308])
def test_imagery_in_which_nothing_can_be_seen_and_damaged_weights_make_no_map(gsd):
    image = np.zeros((100, 100, 3), np.uint8)
    with pytest.raises(ImageError, match="pass --gsd"):
        predict_index(ColourRuntime(), image, gsd=gsd)
    for broken in (float("nan"), float("inf")):
        with pytest.raises(ModelError, match="NaN"):
            predict_index(ConstantRuntime((broken, 0.2, 0.3, 0.15, 0.05, 0.2)), image)
