from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fake_runtime import ColourRuntime, ConstantRuntime, ContextRuntime, make_card
from landcover.errors import UsageError
from landcover.inference.engine import row_blocks
from landcover.inference.grid import make_grid
from landcover.inference.reading import ArraySource
from landcover.legend import DEEPGLOBE

RNG = np.random.default_rng(5)


def noise(height, width):
    return RNG.integers(0, 256, (height, width, 3), dtype=np.uint8)


def index_of(runtime, source, views=None, **options):
    grid = make_grid((source.height, source.width), runtime, **options)
    made = list(row_blocks(runtime, source, grid, views=views))
    assert made[0].start == 0
    assert made[-1].stop == source.height
    assert all(after.start == before.stop for before, after in pairwise(made))
    return np.concatenate([block.class_indices(DEEPGLOBE) for block in made])


def probabilities_of(runtime, source, views=None, **options):
    grid = make_grid((source.height, source.width), runtime, **options)
    made = row_blocks(runtime, source, grid, views=views)
    return np.concatenate([values for block in made for _, values in block.probabilities()], axis=1)


@settings(max_examples=25)
@given(
    st.integers(1, 330),
    st.integers(1, 330),
    st.sampled_from([96, 128, 148]),
    st.sampled_from([None, 0.5, 1.6]),
)
@example(300, 300, 128, 0.5)
@example(257, 511, 128, None)
def test_a_network_that_looks_no_farther_than_the_margin_makes_one_map_tiled_or_whole(
    height, width, window_px, gsd
):
    """A receptive field of 31 pixels, an overlap of 64: a quarter of it, 16 pixels, does not count."""
    source = ArraySource(noise(height, width))
    whole = probabilities_of(ContextRuntime(), source, gsd=gsd, window_px=0)
    tiled = probabilities_of(ContextRuntime(), source, gsd=gsd, window_px=window_px, overlap_px=64)
    assert np.abs(tiled - whole).max() < 1e-6  # weights sum to one but for rounding
    index = index_of(ContextRuntime(), source, gsd=gsd, window_px=window_px, overlap_px=64)
    chosen = np.take_along_axis(whole, index[None].astype(int), axis=0)[0]
    assert (chosen > whole.max(axis=0) - 1e-6).all()


def test_each_window_is_run_once_and_inside_the_scene():
    runtime = ContextRuntime()
    index_of(runtime, ArraySource(noise(500, 700)), window_px=128, overlap_px=32)
    assert runtime.windows == [(128, 128, 3)] * 5 * 7


def test_rows_are_read_once_from_top_to_bottom_in_small_steps():
    class Told(ArraySource):
        asked: list[tuple[int, int]] = []  # noqa: RUF012

        def read_rows(self, start, stop, cols):
            self.asked.append((start, stop))
            return super().read_rows(start, stop, cols)

    source = Told(noise(700, 9000))
    index_of(ColourRuntime(make_card(gsd=1.0)), source, gsd=0.5, window_px=256, overlap_px=64)
    assert source.asked[0][0] == 0
    assert source.asked[-1][1] == 700
    assert all(before[1] == after[0] for before, after in pairwise(source.asked))
    assert max(stop - start for start, stop in source.asked) < 270


@pytest.mark.parametrize("gsd", [None, 0.45, 0.5, 0.83, 2.0])
def test_a_network_is_shown_mirrored_ground_where_there_is_no_imagery(gsd):
    """At the model's scale and from a finer one, whose pixels at the edge are made of both."""

    class Looking(ColourRuntime):
        darkest: list[int]

        def probabilities(self, batch):
            self.darkest.append(int(batch.min()))
            return super().probabilities(batch)

    runtime = Looking(make_card(gsd=1.0))
    runtime.darkest = []
    image = np.full((300, 280, 3), 200, np.uint8)
    image[:, 40:] = 210
    valid = np.ones((300, 280), bool)
    valid[:, 90:], valid[130:170], image[~valid] = False, False, 0
    index_of(runtime, ArraySource(image, valid), gsd=gsd, window_px=64, overlap_px=16)
    assert runtime.darkest
    assert min(runtime.darkest) >= 200


def assert_same_blocks(found, expected):
    for one, other in zip(found, expected, strict=True):
        assert (one.number, one.start, one.stop) == (other.number, other.start, other.stop)
        assert np.array_equal(one.logit_grid, other.logit_grid)
        assert np.array_equal(one.rows.low, other.rows.low)
        assert (one.valid is None) == (other.valid is None)
        assert one.valid is None or np.array_equal(one.valid, other.valid)
        for (_, mine), (_, theirs) in zip(one.probabilities(), other.probabilities(), strict=True):
            assert np.array_equal(mine, theirs)


@pytest.mark.parametrize("first", [1, 2, 3, 5])
@pytest.mark.parametrize(("window_px", "overlap_px", "gsd"), [(128, 32, None), (128, 100, 0.7), (96, 0, 1.4)])
def test_a_range_of_blocks_has_the_same_bits_as_the_whole_scene(first, window_px, overlap_px, gsd):
    runtime, source = ContextRuntime(), ArraySource(noise(1100, 150), RNG.random((1100, 150)) > 0.1)
    grid = make_grid((1100, 150), runtime, gsd=gsd, window_px=window_px, overlap_px=overlap_px)
    straight = list(row_blocks(runtime, source, grid))
    for stop in (first + 1, len(grid.rows)):
        numbers = range(first, stop)
        assert_same_blocks(list(row_blocks(runtime, source, grid, numbers=numbers)), straight[first:stop])


@pytest.mark.parametrize("first", [2, 3, 4, 5])
def test_what_is_said_of_a_band_does_not_depend_on_how_rows_were_read(first):
    """A block within rows that were read together with one row of nodata, and, taken up, without it."""
    valid = np.ones((700, 64), bool)
    valid[128] = False
    runtime, source = ContextRuntime(), ArraySource(noise(700, 64), valid)
    grid = make_grid((700, 64), runtime, window_px=64, overlap_px=16)
    expected = list(row_blocks(runtime, source, grid))[first:]
    assert_same_blocks(
        list(row_blocks(runtime, source, grid, numbers=range(first, len(grid.rows)))), expected
    )


def test_pixels_that_are_not_square_are_brought_to_a_square_grid():
    runtime = ColourRuntime(make_card(gsd=1.0))
    grid = make_grid((300, 600), runtime, gsd=(1.0, 0.5), window_px=0)
    assert grid.model_size == (300, 300)
    truth = RNG.integers(0, 6, (10, 10), dtype=np.uint8).repeat(30, 0).repeat(60, 1)
    (block,) = row_blocks(runtime, ArraySource(DEEPGLOBE.colours[truth]), grid)
    inside = np.zeros((30, 60), bool)
    inside[4:-4, 8:-8] = True
    assert (block.class_indices(DEEPGLOBE) == truth)[np.tile(inside, (10, 10))].all()
    assert runtime.shapes == [(1, 300, 300, 3)]


def test_windows_without_imagery_are_not_run_and_do_not_touch_the_others():
    image = noise(300, 600)
    valid = np.zeros((300, 600), bool)
    valid[:, :130] = True
    all_there, some = ContextRuntime(), ContextRuntime()
    grid = make_grid((300, 600), some, window_px=128, overlap_px=64)
    whole = np.concatenate(
        [b.class_indices(DEEPGLOBE) for b in row_blocks(all_there, ArraySource(image), grid)]
    )
    made = list(row_blocks(some, ArraySource(image, valid), grid))
    assert len(some.windows) < len(all_there.windows) / 2
    found = np.concatenate([block.class_indices(DEEPGLOBE) for block in made])
    # 16 pixels inside the border, the network sees imagery only.
    assert (found[:, :110] == whole[:, :110]).mean() > 0.9999
    kept = [block.valid for block in made]
    assert all(part is not None for part in kept)
    assert np.array_equal(np.concatenate([part for part in kept if part is not None]), valid)


def test_what_stands_where_there_is_no_imagery_does_not_matter():
    valid = np.ones((200, 200), bool)
    valid[50:120, 80:] = False
    image = noise(200, 200)
    other = image.copy()
    other[~valid] = 255
    runtime = ContextRuntime()
    grid = make_grid((200, 200), runtime, window_px=128, overlap_px=32)
    first, second = (list(row_blocks(runtime, ArraySource(one, valid), grid)) for one in (image, other))
    assert all(np.array_equal(a.logit_grid, b.logit_grid) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("gsd", [None, 0.6])
def test_probabilities_sum_to_one_also_beside_windows_without_imagery(gsd):
    valid = np.zeros((200, 400), bool)
    valid[20:110, 30:129] = True
    runtime = ConstantRuntime()
    grid = make_grid((200, 400), runtime, gsd=gsd, window_px=64, overlap_px=0)
    for block in row_blocks(runtime, ArraySource(noise(200, 400), valid), grid):
        for rows, values in block.probabilities():
            inside = valid[block.start + rows.start : block.start + rows.stop]
            assert np.allclose(values[:, inside].T, runtime.values, atol=1e-6)


def test_turning_averages_over_the_eight_symmetries():
    """The map of a turned scene is the turned map, whatever the network."""
    image = noise(128, 128)
    runtime = ContextRuntime()
    grid = make_grid((128, 128), runtime)

    def cells(picture):
        (block,) = row_blocks(runtime, ArraySource(np.ascontiguousarray(picture)), grid, views=8)
        return block.logit_grid

    upright = cells(image)
    assert np.allclose(np.rot90(cells(np.rot90(image)), -1, axes=(1, 2)), upright, atol=1e-6)
    assert np.allclose(cells(image[:, ::-1])[:, :, ::-1], upright, atol=1e-6)
    (plain,) = row_blocks(runtime, ArraySource(image), grid)
    assert not np.allclose(plain.logit_grid, upright, atol=1e-3)


def many_views(**card):
    return ContextRuntime(make_card().model_copy(update=card))


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 5), st.integers(1, 5), st.sampled_from([2, 3, 8]), st.integers(0, 2**32 - 1))
def test_views_of_windows_at_whole_pixels_of_the_enlarged_one_make_one_map_tiled_or_whole(
    rows, cols, views, seed
):
    """Windows of 40 cells become 54; every 20th cell begins at a cell of the enlarged window: the 27th."""
    size = 80 * rows, 80 * cols, 3
    source = ArraySource(np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8))
    whole = probabilities_of(ContextRuntime(), source, views, window_px=0)
    tiled = probabilities_of(ContextRuntime(), source, views, window_px=160, overlap_px=80)
    assert np.abs(tiled - whole).max() < 1e-6


@pytest.mark.parametrize("views", [2, 3])
def test_views_of_any_windows_of_a_smooth_scene_are_nearly_the_whole(views):
    rows, cols = np.mgrid[:330, :290] / 40
    smooth = np.stack([128 + 120 * np.sin(rows + k) * np.cos(cols - k) for k in range(3)], -1)
    source, runtime = ArraySource(smooth.astype(np.uint8)), ColourRuntime()
    whole = probabilities_of(runtime, source, views, window_px=0)
    tiled = probabilities_of(runtime, source, views, window_px=101, overlap_px=37)
    assert np.abs(tiled - whole).max() < 0.03
    assert np.abs(whole - probabilities_of(runtime, source, 1, window_px=0)).max() < 0.03


@pytest.mark.parametrize("views", [1, 2, 3, 8])
@pytest.mark.parametrize("size", [(1, 1), (5, 130), (97, 203)])
def test_views_of_a_network_with_one_answer_are_that_answer(views, size):
    runtime, valid = ConstantRuntime(), np.ones(size, bool)
    valid[-1, -2:] = size == (1, 1)
    made = probabilities_of(runtime, ArraySource(noise(*size), valid), views, gsd=0.7)
    assert np.allclose(made[:, valid].T, runtime.values, atol=1e-6)


def test_a_mirrored_view_adds_nothing_to_a_network_that_does_not_know_left_from_right():
    """Three views then are two of the window and one enlarged."""
    source = ArraySource(noise(130, 170))
    one, two, three = (probabilities_of(ColourRuntime(), source, views) for views in (1, 2, 3))
    assert np.allclose(three, (one + 2 * two) / 3, atol=1e-6)
    left, right = noise(128, 128), None
    right = np.ascontiguousarray(left[:, ::-1])
    found, turned = (probabilities_of(ContextRuntime(), ArraySource(image), 3) for image in (left, right))
    plain, enlarged = (
        [probabilities_of(ContextRuntime(), ArraySource(image), views) for image in (left, right)]
        for views in (1, 2)
    )
    expected = (2 * enlarged[0] + plain[1][:, :, ::-1]) / 3
    assert np.allclose(found, expected, atol=1e-6)
    assert not np.allclose(found, turned[:, :, ::-1], atol=1e-3)


def test_each_view_is_run_once_for_each_window_at_its_size():
    runtime = ContextRuntime()
    index_of(runtime, ArraySource(noise(300, 200)), 3, window_px=128, overlap_px=32)
    tall, enlarged = (128, 128, 3), (172, 172, 3)  # 32 cells, and 43
    assert sorted(runtime.windows) == [tall] * 2 * 3 * 2 + [enlarged] * 3 * 2


@pytest.mark.parametrize("views", [2, 3, 8])
@pytest.mark.parametrize("batch", [1, 4])
def test_a_range_of_blocks_of_several_views_has_the_same_bits(views, batch):
    runtime, source = ContextRuntime(), ArraySource(noise(700, 150), RNG.random((700, 150)) > 0.1)
    grid = make_grid((700, 150), runtime, gsd=0.7, window_px=128, overlap_px=100)
    straight = list(row_blocks(runtime, source, grid, views=views))
    numbers = range(2, len(grid.rows))
    later = row_blocks(runtime, source, grid, numbers=numbers, views=views, batch=batch)
    assert_same_blocks(list(later), straight[2:])


def test_the_card_sets_the_views_unless_they_are_given():
    source = ArraySource(noise(90, 90))
    of_card = probabilities_of(many_views(views=3), source)
    assert np.array_equal(of_card, probabilities_of(ContextRuntime(), source, 3))
    assert np.array_equal(
        probabilities_of(many_views(views=3), source, 1), probabilities_of(many_views(), source)
    )
    with pytest.raises(UsageError, match=r"views is 4.*1, 2, 3 or 8"):
        probabilities_of(ContextRuntime(), source, 4)


def test_an_error_while_reading_reaches_the_caller_and_leaves_no_thread():
    import threading

    class Broken(ArraySource):
        def read_rows(self, start, stop, cols):
            if stop > 300:
                raise OSError("gone")
            return super().read_rows(start, stop, cols)

    runtime = ColourRuntime()
    before = threading.active_count()
    grid = make_grid((1000, 64), runtime, window_px=64, overlap_px=0)
    with pytest.raises(OSError, match="gone"):
        list(row_blocks(runtime, Broken(noise(1000, 64)), grid))
    assert threading.active_count() == before
