"""Small regions: the sieve against a slow transcript of its rule, and the properties that it promises."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from landcover.errors import MaskError, UsageError
from landcover.legend import NODATA
from landcover.postprocess.sieve import remove_small_regions

MAPS = hnp.arrays(
    np.uint8,
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
    elements=st.sampled_from([0, 0, 1, 1, 2, 6, NODATA]),
)
SIZES = st.integers(1, 20)


def draw(*rows):
    """Make a map from digits; ``.`` is nodata."""
    return np.array([[NODATA if c == "." else int(c) for c in row] for row in rows], np.uint8)


def regions_of(index):
    """Number the 4-connected regions from 1 (0 is nodata), and count their pixels."""
    labels = np.zeros(index.shape, np.int64)
    for value in np.unique(index[index != NODATA]):
        found, _ = ndimage.label(index == value)
        labels[found > 0] = found[found > 0] + labels.max()
    return labels, np.bincount(labels.ravel(), minlength=labels.max() + 1)


def sieve_by_hand(index, min_pixels):
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
def test_agrees_with_the_rule_step_by_step(index, min_pixels):
    np.testing.assert_array_equal(remove_small_regions(index, min_pixels), sieve_by_hand(index, min_pixels))


@given(index=MAPS)
def test_one_pixel_as_the_smallest_region_changes_nothing(index):
    np.testing.assert_array_equal(remove_small_regions(index, 1), index)


@given(index=MAPS)
def test_nothing_is_large_enough_then_everything_stays(index):
    np.testing.assert_array_equal(remove_small_regions(index, index.size + 1), index)


def test_fill_does_not_depend_on_what_stands_above():
    """The seed filled with the class above the first pixel, here 1; the region lies in 0."""
    index = draw("00100", "00200", "00000", "00000")
    assert remove_small_regions(index, 3)[1, 2] == 0


@example(index=draw("0.1", "..."), min_pixels=3)
@given(index=MAPS, min_pixels=SIZES)
def test_nodata_is_no_neighbour_whatever_lies_beneath(index, min_pixels):
    result = remove_small_regions(index, min_pixels)
    moved = np.where(index == NODATA, 77, index).astype(np.uint8)
    np.testing.assert_array_equal(
        np.where(result == NODATA, 77, result), remove_small_regions(moved, min_pixels, nodata=77)
    )


@pytest.mark.parametrize("shape", [(0, 5), (5, 0)])
def test_empty_maps_stay_empty(shape):
    assert remove_small_regions(np.empty(shape, np.uint8), 4).shape == shape


def test_bad_input():
    with pytest.raises(MaskError, match=r"expected uint8 \(height, width\)"):
        remove_small_regions(np.zeros((4, 4, 3), np.uint8), 4)
    with pytest.raises(MaskError, match="int64"):
        remove_small_regions(np.zeros((4, 4), np.int64), 4)
    with pytest.raises(UsageError, match="at least 1"):
        remove_small_regions(np.zeros((4, 4), np.uint8), 0)
