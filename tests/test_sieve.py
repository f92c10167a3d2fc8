"""The sieve by bands: to the byte what GDAL makes of the whole map, whatever the bands."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from landcover.errors import MaskError, UsageError
from landcover.legend import NODATA
from landcover.postprocess import sieve
from landcover.postprocess.sieve import SmallRegions, remove_small_regions, sieve_row_blocks

MAPS = hnp.arrays(
    np.uint8,
    st.tuples(st.integers(1, 12), st.integers(1, 12)),
    elements=st.sampled_from([0, 0, 1, 1, 2, NODATA]),
)


def sieved(index, min_pixels, band_rows=256, nodata=NODATA):
    reads = []

    def read_band(start, stop):
        reads.append((start, stop))
        return index[start:stop]

    bands = list(sieve_row_blocks(read_band, *index.shape, min_pixels, band_rows, nodata))
    once = [(s, min(s + band_rows, len(index))) for s in range(0, len(index), band_rows)]
    assert reads == once * (1 if min_pixels == 1 else 2)  # from top to bottom, and no third time
    assert [len(band) for band in bands] == [stop - start for start, stop in once]
    return np.concatenate(bands)


@settings(max_examples=200, deadline=None)
@given(index=MAPS, min_pixels=st.integers(1, 150), band_rows=st.integers(1, 13))
def test_equals_gdal_on_small_maps(index, min_pixels, band_rows):
    expected = remove_small_regions(index, min_pixels)
    np.testing.assert_array_equal(sieved(index, min_pixels, band_rows), expected)


def blobs(seed, shape, classes, scale):
    """Noise enlarged by steps and roughened: regions of every size."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, classes, (shape[0] // scale + 1, shape[1] // scale + 1))
    index = np.kron(coarse, np.ones((scale, scale), int))[: shape[0], : shape[1]]
    rough = rng.random(shape) < 0.2
    index[rough] = rng.integers(0, classes, rough.sum())
    index[rng.random(shape) < 0.03] = NODATA
    return index.astype(np.uint8)


def spiral(size):
    """Two arms that wind around each other: regions that touch every band many times."""
    index = np.zeros((size, size), np.uint8)
    top, left, bottom, right = 0, 0, size - 1, size - 1
    while top <= bottom and left <= right:
        index[top, left : right + 1] = 1
        index[top : bottom + 1, right] = 1
        index[bottom, left + 2 : right + 1] = 1
        index[top + 2 : bottom + 1, left + 2 : left + 3] = 1
        top, left, bottom, right = top + 2, left + 2, bottom - 2, right - 2
    return index


def shapes():
    rng = np.random.default_rng(5)
    yield "noise", rng.integers(0, 3, (70, 61)).astype(np.uint8)
    yield "blobs", blobs(1, (150, 131), 4, 9)
    yield "coarse blobs", blobs(2, (130, 170), 6, 20)
    yield "rows", np.repeat(rng.integers(0, 3, 64).astype(np.uint8)[:, None], 33, axis=1)
    yield "columns", np.repeat(rng.integers(0, 3, 64).astype(np.uint8)[None], 33, axis=0)
    yield (
        "comb",
        np.where((np.arange(60)[:, None] < 59) & (np.arange(41)[None] % 2 == 1), 1, 0).astype(np.uint8),
    )
    yield "spiral", spiral(61)
    yield "checkerboard", (np.indices((40, 41)).sum(axis=0) % 2).astype(np.uint8)
    yield "one column", rng.integers(0, 2, (90, 1)).astype(np.uint8)
    yield "one row", rng.integers(0, 2, (1, 90)).astype(np.uint8)
    yield "nodata alone", np.full((9, 8), NODATA, np.uint8)
    yield "one class", np.full((9, 8), 3, np.uint8)


@pytest.mark.parametrize(("name", "index"), list(shapes()), ids=[name for name, _ in shapes()])
def test_equals_gdal_on_shapes_that_are_hard(name, index):
    for min_pixels in (2, 3, 5, 12, 60, 300, index.size, index.size + 1, 10**9):
        expected = remove_small_regions(index, min_pixels)
        for band_rows in (1, 7, 64, 1000):
            np.testing.assert_array_equal(sieved(index, min_pixels, band_rows), expected)


def test_repeated_contacts_are_dropped_without_a_change(monkeypatch):
    """What bounds the memory of noisy maps must not change which contact came first."""
    monkeypatch.setattr(sieve, "_MANY", 10)
    for seed in range(4):
        index = blobs(seed, (60, 50), 3, 5)
        for min_pixels in (4, 30):
            expected = remove_small_regions(index, min_pixels)
            np.testing.assert_array_equal(sieved(index, min_pixels, 3), expected)


def test_another_value_can_be_nodata():
    index = np.random.default_rng(0).integers(0, 3, (30, 30)).astype(np.uint8)
    result = sieved(index, 6, 4, nodata=0)
    np.testing.assert_array_equal(result, remove_small_regions(index, 6, nodata=0))
    np.testing.assert_array_equal(result == 0, index == 0)


def test_no_rows_give_no_bands():
    assert list(sieve_row_blocks(lambda start, stop: np.empty((0, 4), np.uint8), 0, 4, 5)) == []


def test_bad_input():
    with pytest.raises(UsageError, match="expected at least 1"):
        sieve_row_blocks(lambda start, stop: np.zeros((1, 1), np.uint8), 1, 1, 0)
    with pytest.raises(UsageError, match="expected at least 1"):
        sieve_row_blocks(lambda start, stop: np.zeros((1, 1), np.uint8), 1, 1, 4, 0)
    for wrong in (np.zeros((2, 3), np.uint8), np.zeros((2, 4), np.int64), np.zeros(4, np.uint8)):
        with pytest.raises(MaskError, match=r"expected uint8 \(rows, 4\)"):
            list(sieve_row_blocks(lambda start, stop, wrong=wrong: wrong, 2, 4, 5))


def strictly(index, min_pixels, rows=256):
    blocks = sieve_row_blocks(
        lambda start, stop: index[start:stop], *index.shape, min_pixels, block_rows=rows, strict=True
    )
    return np.concatenate(list(blocks))


def label(mask):
    """Number the 4-connected regions of a mask by a search, from 1."""
    regions, count = np.zeros(mask.shape, int), 0
    for start in zip(*np.nonzero(mask), strict=True):
        if regions[start]:
            continue
        count += 1
        stack = [start]
        while stack:
            row, col = stack.pop()
            inside = 0 <= row < mask.shape[0] and 0 <= col < mask.shape[1]
            if inside and mask[row, col] and not regions[row, col]:
                regions[row, col] = count
                stack += [(row - 1, col), (row + 1, col), (row, col - 1), (row, col + 1)]
    return regions


def sizes(index):
    """Return the pixels of each region, by class."""
    values = [value for value in np.unique(index) if value != NODATA]
    return [np.bincount(label(index == value).ravel())[1:] for value in values]


@pytest.mark.parametrize("seed", range(30))
def test_strictly_no_small_region_remains(seed):
    rng = np.random.default_rng(seed)
    index = rng.integers(0, 4, rng.integers(1, 40, 2)).astype(np.uint8)
    index[rng.random(index.shape) < rng.choice([0, 0.1, 0.6])] = NODATA
    least = int(rng.choice([2, 5, 20, 300]))
    result, plain = strictly(index, least), remove_small_regions(index, least)
    assert np.array_equal(result, strictly(index, least, rows=3))
    assert all((size >= least).all() for size in sizes(result))
    assert (result[index == NODATA] == NODATA).all()
    # What the rule makes large enough stays.
    for value in np.unique(plain[plain != NODATA]):
        regions = label(plain == value)
        large = np.isin(regions, np.flatnonzero(np.bincount(regions.ravel()) >= least)) & (regions > 0)
        assert (result[large] == value).all()
    # Only islands that are too small become nodata.
    islands = label(index != NODATA)
    lost = np.unique(islands[(result == NODATA) & (index != NODATA)])
    assert all(np.count_nonzero(islands == island) < least for island in lost)
    counter = SmallRegions(index.shape[1])
    for row in range(0, len(plain), 3):
        counter.add(plain[row : row + 3])
    assert counter.count(least) == sum(int((size < least).sum()) for size in sizes(plain))


def test_stripes_that_are_all_small_join_or_disappear():
    stripes = (np.arange(60)[None] // 10).astype(np.uint8)
    assert np.array_equal(remove_small_regions(stripes, 1000), stripes)
    assert (strictly(stripes, 1000) == NODATA).all()
    joined = strictly(stripes, 20)
    assert all((size >= 20).all() for size in sizes(joined))
    assert NODATA not in joined
