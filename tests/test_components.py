"""Connected components by bands: scipy's labels of the whole map, whatever the bands."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from landcover.errors import MaskError
from landcover.legend import NODATA
from landcover.postprocess.components import Labeller, join

MAPS = hnp.arrays(
    np.uint8,
    st.tuples(st.integers(1, 12), st.integers(1, 12)),
    elements=st.sampled_from([0, 0, 1, 1, 2, NODATA]),
)


def labels_of_the_whole(index):
    """Number the regions from 0 in the order of their first pixels; -1 is nodata."""
    labels = np.full(index.shape, -1)
    for value in np.unique(index[index != NODATA]):
        found, _ = ndimage.label(index == value)
        labels[found > 0] = found[found > 0] + labels.max()
    regions, first = np.unique(labels, return_index=True)
    first, regions = first[regions >= 0], regions[regions >= 0]
    number = np.full(labels.max() + 2, -1)
    number[regions[np.argsort(first)]] = np.arange(len(regions))
    return number[labels]


def label_twice(index, band_rows):
    """Number the regions by bands, as those who use it do."""
    bands = [index[start : start + band_rows] for start in range(0, len(index), band_rows)]
    first_pass, second_pass = Labeller(index.shape[1]), Labeller(index.shape[1])
    for band in bands:
        first_pass.label(band)
    regions = first_pass.regions()
    found = []
    for band in bands:
        runs = second_pass.label(band)
        check(runs, band)
        pixels = np.repeat(regions[runs.piece], runs.length).reshape(1 + len(band), -1)
        found.append(pixels[1:])
    return np.concatenate(found)


def check(runs, band):
    rows, width = band.shape
    assert runs.width == width
    assert runs.length.sum() == (1 + rows) * width
    own = slice(runs.above, None)
    np.testing.assert_array_equal(np.repeat(runs.value[own], runs.length[own]), band.ravel())
    np.testing.assert_array_equal(runs.piece == -1, runs.value == NODATA)
    # Every pair of pixels above each other lies in the pair of runs that `touch` says.
    pair = np.searchsorted(runs.touch, np.arange(rows * width), side="right") - 1
    run = np.repeat(np.arange(len(runs.start)), runs.length)
    np.testing.assert_array_equal(runs.upper[pair], run[: rows * width])
    np.testing.assert_array_equal(runs.lower[pair], run[width:])


@settings(max_examples=200, deadline=None)
@given(index=MAPS, band_rows=st.integers(1, 13))
def test_regions_are_those_of_the_whole_map_in_reading_order(index, band_rows):
    np.testing.assert_array_equal(label_twice(index, band_rows), labels_of_the_whole(index))


def test_pieces_that_meet_at_the_very_end_are_one_region():
    comb = np.ones((40, 31), np.uint8)
    comb[:-1, 1::2] = 0
    for band_rows in (1, 3, 40):
        np.testing.assert_array_equal(label_twice(comb, band_rows), labels_of_the_whole(comb))


def test_nothing_but_nodata_has_no_regions():
    labeller = Labeller(5)
    labeller.label(np.full((3, 5), NODATA, np.uint8))
    assert labeller.pieces == 0
    assert labeller.regions().tolist() == [-1]
    assert Labeller(5).regions().tolist() == [-1]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 29), st.integers(0, 29)), max_size=40))
def test_join_finds_the_smallest_node_of_each_component(links):
    smallest = list(range(30))
    for _ in links:  # one link a round at least
        for a, b in links:
            smallest[a] = smallest[b] = min(smallest[a], smallest[b])
    first, second = np.array(links, np.intp).reshape(-1, 2).T
    assert join(30, first, second).tolist() == smallest


@pytest.mark.parametrize("shape", [(0, 4), (2, 3), (4,)])
def test_bands_of_another_shape_are_refused(shape):
    with pytest.raises(MaskError, match=r"expected uint8 \(rows, 4\)"):
        Labeller(4).label(np.zeros(shape, np.uint8))
