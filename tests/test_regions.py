"""Small regions: the sieve against a slow transcript of its rule, and the properties that it promises."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from landcover.errors import MaskError, UsageError
from landcover.legend import NODATA
from landcover.postprocess import remove_small_regions

Map = npt.NDArray[np.uint8]

MAPS = hnp.arrays(
    np.uint8,
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
    elements=st.sampled_from([0, 0, 1, 1, 2, 6, NODATA]),
)
SIZES = st.integers(1, 20)


def draw(*rows: str) -> Map:
    """Make a map from digits; ``.`` is nodata."""
    return np.array([[NODATA if c == "." else int(c) for c in row] for row in rows], np.uint8)


def regions_of(index: Map) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Number the 4-connected regions from 1 (0 is nodata), and count their pixels."""
    labels = np.zeros(index.shape, np.int64)
    for value in np.unique(index[index != NODATA]):
        found, _ = ndimage.label(index == value)
        labels[found > 0] = found[found > 0] + labels.max()
    return labels, np.bincount(labels.ravel(), minlength=labels.max() + 1)


def sieve_by_hand(index: Map, min_pixels: int) -> Map:
    labels, sizes = regions_of(index)
    largest_neighbour = np.zeros(len(sizes), int)
    for row in range(index.shape[0]):
        for col in range(index.shape[1]):
            for other_row, other_col in ((row - 1, col), (row, col - 1)):
                if min(other_row, other_col) < 0:
                    continue
                here, there = labels[row, col], labels[other_row, other_col]
                if here == there or 0 in (here, there):
                    continue
                for region, neighbour in ((here, there), (there, here)):
                    best = largest_neighbour[region]
                    if best == 0 or sizes[neighbour] > sizes[best]:
                        largest_neighbour[region] = neighbour
    result = index.copy()
    for region in range(1, len(sizes)):
        way = [region]
        while sizes[way[-1]] < min_pixels:
            following = int(largest_neighbour[way[-1]])
            if following == 0 or following in way:
                break
            way.append(following)
        if sizes[way[-1]] >= min_pixels:
            result[labels == region] = index[labels == way[-1]][0]
    return result


@settings(max_examples=300, deadline=None)
@given(index=MAPS, min_pixels=SIZES)
def test_agrees_with_the_rule_step_by_step(index: Map, min_pixels: int) -> None:
    np.testing.assert_array_equal(remove_small_regions(index, min_pixels), sieve_by_hand(index, min_pixels))


@given(index=MAPS, min_pixels=SIZES)
def test_only_pixels_of_small_regions_change_and_each_region_as_a_whole(index: Map, min_pixels: int) -> None:
    before = index.copy()
    result = remove_small_regions(index, min_pixels)
    np.testing.assert_array_equal(index, before)
    assert result.dtype == np.uint8
    assert set(np.unique(result)) <= set(np.unique(index))
    np.testing.assert_array_equal(result == NODATA, index == NODATA)
    labels, sizes = regions_of(index)
    for region in range(1, len(sizes)):
        values = np.unique(result[labels == region])
        assert len(values) == 1
        if sizes[region] >= min_pixels:
            assert values[0] == index[labels == region][0]


@given(index=MAPS, min_pixels=SIZES)
def test_what_stays_small_had_no_way_to_a_large_region(index: Map, min_pixels: int) -> None:
    """A small region that touches a large one never survives, since its largest neighbour is large."""
    labels, sizes = regions_of(index)
    result = remove_small_regions(index, min_pixels)
    large = sizes >= min_pixels
    large[0] = False
    for region in np.flatnonzero(~large[1:]) + 1:
        around = ndimage.binary_dilation(labels == region) & (labels != region)
        if large[labels[around]].any():
            touched = set(index[around & large[labels]].tolist())
            assert set(result[labels == region].tolist()) <= touched


@given(index=MAPS)
def test_one_pixel_as_the_smallest_region_changes_nothing(index: Map) -> None:
    np.testing.assert_array_equal(remove_small_regions(index, 1), index)


@given(index=MAPS)
def test_nothing_is_large_enough_then_everything_stays(index: Map) -> None:
    np.testing.assert_array_equal(remove_small_regions(index, index.size + 1), index)


def test_goes_to_the_largest_neighbour_not_to_the_longest_border() -> None:
    index = draw(
        "1111100000",
        "1122100000",
        "1122000000",
        "1111000000",
    )
    assert (remove_small_regions(index, 5)[1:3, 2:4] == 0).all()  # 22 pixels against 14


def test_neighbour_that_is_small_itself_passes_on_to_its_own_largest_neighbour() -> None:
    assert remove_small_regions(draw("0111222222"), 4).tolist() == [[2] * 10]


def test_corners_do_not_connect() -> None:
    index = draw("1000", "0100", "0010")
    assert not remove_small_regions(index, 2).any()


def test_region_at_the_origin_is_removed() -> None:
    """The seed's search never filled a region that holds pixel (0, 0)."""
    assert remove_small_regions(draw("1100", "0000"), 3).tolist() == [[0] * 4] * 2


def test_fill_does_not_depend_on_what_stands_above() -> None:
    """The seed filled with the class above the first pixel, here 1; the region lies in 0."""
    index = draw("00100", "00200", "00000", "00000")
    assert remove_small_regions(index, 3)[1, 2] == 0


@example(index=draw("0.1", "..."), min_pixels=3)
@given(index=MAPS, min_pixels=SIZES)
def test_nodata_is_no_neighbour_whatever_lies_beneath(index: Map, min_pixels: int) -> None:
    result = remove_small_regions(index, min_pixels)
    moved = np.where(index == NODATA, 77, index).astype(np.uint8)
    np.testing.assert_array_equal(
        np.where(result == NODATA, 77, result), remove_small_regions(moved, min_pixels, nodata=77)
    )


def test_island_in_nodata_stays() -> None:
    index = draw(".....", "..1..", ".....", "00000")
    np.testing.assert_array_equal(remove_small_regions(index, 5), index)


def test_two_passes_can_do_more_than_one() -> None:
    """The left 1 and the 2 are each other's largest neighbours (the first of equal ones): both stay."""
    once = remove_small_regions(draw("12100"), 2)
    assert once.tolist() == [[1, 2, 0, 0, 0]]
    assert remove_small_regions(once, 2).tolist() == [[0] * 5]


@pytest.mark.parametrize("shape", [(0, 5), (5, 0)])
def test_empty_maps_stay_empty(shape: tuple[int, int]) -> None:
    assert remove_small_regions(np.empty(shape, np.uint8), 4).shape == shape


def test_bad_input() -> None:
    with pytest.raises(MaskError, match=r"expected uint8 \(height, width\)"):
        remove_small_regions(np.zeros((4, 4, 3), np.uint8), 4)
    with pytest.raises(MaskError, match="int64"):
        remove_small_regions(np.zeros((4, 4), np.int64), 4)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="at least 1"):
        remove_small_regions(np.zeros((4, 4), np.uint8), 0)
