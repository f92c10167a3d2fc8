"""The sieve: a slow transcript of its rule, GDAL's whole map in blocks of any size, and its strict form."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from rasterio.features import sieve as sieve_of_gdal
from scipy import ndimage

from landcover.errors import MaskError, UsageError
from landcover.legend import NODATA
from landcover.postprocess import sieve
from landcover.postprocess.sieve import SmallRegions, remove_small_regions, sieve_row_blocks

MAPS = hnp.arrays(
    np.uint8,
    st.tuples(st.integers(1, 12), st.integers(1, 12)),
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


@settings(max_examples=300)
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


def by_gdal(index, min_pixels):
    inside = index != NODATA
    if not 1 < min_pixels <= index.size or not inside.any():
        return index  # rasterio refuses such sizes
    return sieve_of_gdal(np.ascontiguousarray(index), min_pixels, mask=inside.astype(np.uint8))


def sieved(index, min_pixels, band_rows=256):
    reads = []

    def read_band(start, stop):
        reads.append((start, stop))
        return index[start:stop]

    bands = list(sieve_row_blocks(read_band, *index.shape, min_pixels, band_rows))
    once = [(s, min(s + band_rows, len(index))) for s in range(0, len(index), band_rows)]
    assert reads == once * (1 if min_pixels == 1 else 2)  # from top to bottom, and no third time
    assert [len(band) for band in bands] == [stop - start for start, stop in once]
    return np.concatenate(bands)


@settings(max_examples=200)
@given(index=MAPS, min_pixels=st.integers(1, 150), band_rows=st.integers(1, 13))
def test_equals_gdal_on_small_maps(index, min_pixels, band_rows):
    expected = by_gdal(index, min_pixels)
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
        expected = by_gdal(index, min_pixels)
        for band_rows in (1, 7, 64, 1000):
            np.testing.assert_array_equal(sieved(index, min_pixels, band_rows), expected)


def test_repeated_contacts_are_dropped_without_a_change(monkeypatch):
    """What bounds the memory of noisy maps must not change which contact came first."""
    monkeypatch.setattr(sieve, "_MANY", 10)
    for seed in range(4):
        index = blobs(seed, (60, 50), 3, 5)
        for min_pixels in (4, 30):
            expected = by_gdal(index, min_pixels)
            np.testing.assert_array_equal(sieved(index, min_pixels, 3), expected)


def test_noise_in_memory_takes_the_sieve_of_gdal(monkeypatch):
    """By row blocks it would cost eight times as much time and three times the memory."""
    calls = []
    monkeypatch.setattr(
        sieve, "sieve", lambda *args, **kwargs: calls.append(1) or sieve_of_gdal(*args, **kwargs)
    )
    noise, calm = blobs(3, (90, 80), 7, 1), np.kron(blobs(4, (9, 8), 7, 1), np.ones((20, 20), np.uint8))
    for index, min_pixels, expected in (
        (noise, 20, 1),
        (calm, 900, 0),
        (noise, noise.size + 1, 0),
        (noise, 1, 0),
    ):
        calls.clear()
        np.testing.assert_array_equal(remove_small_regions(index, min_pixels), by_gdal(index, min_pixels))
        assert len(calls) == expected
    calls.clear()
    np.testing.assert_array_equal(remove_small_regions(noise, 20, strict=True), strictly(noise, 20, rows=7))
    assert not calls
    assert np.array_equal(
        remove_small_regions(noise[:, ::2], 20), sieved(noise[:, ::2], 20)
    )  # not contiguous
    assert len(calls) == 1


def test_no_rows_give_no_bands():
    assert list(sieve_row_blocks(lambda start, stop: np.empty((0, 4), np.uint8), 0, 4, 5)) == []


def test_blocks_that_do_not_fit_are_refused():
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


@pytest.mark.parametrize("seed", range(30))
def test_strictly_no_small_region_remains(seed):
    rng = np.random.default_rng(seed)
    index = rng.integers(0, 4, rng.integers(1, 40, 2)).astype(np.uint8)
    index[rng.random(index.shape) < rng.choice([0, 0.1, 0.6])] = NODATA
    least = int(rng.choice([2, 5, 20, 300]))
    result, plain = strictly(index, least), remove_small_regions(index, least)
    assert np.array_equal(result, strictly(index, least, rows=3))
    assert (regions_of(result)[1][1:] >= least).all()
    assert (result[index == NODATA] == NODATA).all()
    # What the rule makes large enough stays.
    for value in np.unique(plain[plain != NODATA]):
        regions = ndimage.label(plain == value)[0]
        large = np.isin(regions, np.flatnonzero(np.bincount(regions.ravel()) >= least)) & (regions > 0)
        assert (result[large] == value).all()
    # Only islands that are too small become nodata.
    islands = ndimage.label(index != NODATA)[0]
    lost = np.unique(islands[(result == NODATA) & (index != NODATA)])
    assert all(np.count_nonzero(islands == island) < least for island in lost)
    counter = SmallRegions(index.shape[1])
    for row in range(0, len(plain), 3):
        counter.add(plain[row : row + 3])
    assert counter.count(least) == (regions_of(plain)[1][1:] < least).sum()


def test_stripes_that_are_all_small_join_or_disappear():
    stripes = (np.arange(60)[None] // 10).astype(np.uint8)
    assert np.array_equal(remove_small_regions(stripes, 1000), stripes)
    assert (strictly(stripes, 1000) == NODATA).all()
    joined = strictly(stripes, 20)
    assert (regions_of(joined)[1][1:] >= 20).all()
    assert NODATA not in joined
