"""Distances from class boundaries and the scores by them, against brute force."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from landcover.evaluation.boundary import (
    DISTANCE_BINS_M,
    at_boundary,
    boundary_measures,
    boundary_scores,
    count_boundaries,
    count_by_distance,
    distance_bins,
    squared_distance,
)
from landcover.evaluation.report import BoundaryScores
from landcover.legend import DEEPGLOBE, NODATA
from landcover.metrics import ConfusionMatrix

UNKNOWN = DEEPGLOBE.unknown
CLASSES = st.sampled_from([0, 1, 1, 1, 1, 3, 3, 6, NODATA])


def brute_force(truth):
    """Squared distance of each pixel from the nearest one that touches a boundary; infinity where none is."""
    height, width = truth.shape
    at_boundary = [
        (y, x)
        for y in range(height)
        for x in range(width)
        for v, u in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1))
        if 0 <= v < height and 0 <= u < width
        and truth[y, x] not in (6, NODATA) and truth[v, u] not in (6, NODATA) and truth[y, x] != truth[v, u]
    ]  # fmt: skip
    rows, cols = np.mgrid[:height, :width]
    squared = np.full(truth.shape, np.inf)
    for y, x in at_boundary:
        np.minimum(squared, (rows - y) ** 2 + (cols - x) ** 2, out=squared)
    return squared


@settings(max_examples=60)
@given(
    hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, max_side=12), elements=CLASSES),
    st.sampled_from([1, 2, 5, 11, 12, 200, 40_000]),
)
def test_distances_are_euclidean_up_to_the_reach(truth, reach):
    expected = brute_force(truth)
    found = squared_distance(at_boundary(DEEPGLOBE.channels[truth]), reach)
    near = expected < reach**2
    np.testing.assert_array_equal(found[near], expected[near])
    assert (found[~near].astype(np.int64) >= reach**2).all()


def test_distances_on_a_tile_with_few_boundaries(monkeypatch):
    from scipy.ndimage import distance_transform_edt

    random = np.random.default_rng(0)
    points, classes = random.integers(0, 150, (9, 2)), random.integers(0, 6, 9).astype(np.uint8)
    rows, cols = np.mgrid[:150, :130]
    nearest = ((rows[..., None] - points[:, 0]) ** 2 + (cols[..., None] - points[:, 1]) ** 2).argmin(-1)
    truth = classes[nearest]
    found = squared_distance(at_boundary(DEEPGLOBE.channels[truth]), 300)
    boundary = found == 0
    assert 0 < boundary.mean() < 0.2
    np.testing.assert_array_equal(found, np.rint(distance_transform_edt(~boundary) ** 2))
    monkeypatch.setattr("landcover.evaluation.boundary._BLOCK_PX", 1)
    np.testing.assert_array_equal(squared_distance(at_boundary(DEEPGLOBE.channels[truth]), 300), found)


def stripe(left, right, width=60):
    truth = np.full((4, width), left, np.uint8)
    truth[:, width // 2 :] = right
    return truth


def test_pixels_fall_into_bins_of_metres():
    """At 2 m per pixel those beside the boundary are at 1, 3, 5, ... metres."""
    found = distance_bins(stripe(0, 3), DEEPGLOBE, 2.0)[0, 30:]
    metres = 2.0 * (np.arange(30) + 0.5)
    assert found.tolist() == [int(np.searchsorted(DISTANCE_BINS_M, m, side="right")) - 1 for m in metres]
    assert set(found) == {0, 1, 2, 3, 4}
    assert found[2] == 1  # 5 m is no longer nearer than 5 m
    # Where half a pixel is more than a bin, that bin is empty.
    assert distance_bins(stripe(0, 3), DEEPGLOBE, 30.0).min() == 2


@pytest.mark.parametrize("other", [UNKNOWN, NODATA])
def test_unknown_regions_and_the_edge_make_no_boundary(other):
    assert (distance_bins(stripe(0, other), DEEPGLOBE, 1.0) == 4).all()
    assert (distance_bins(stripe(0, 0), DEEPGLOBE, 1.0) == 4).all()
    between = stripe(0, 3)
    between[:, 29:31] = other
    assert (distance_bins(between, DEEPGLOBE, 1.0) == 4).all()


def test_scores_of_a_bin_are_those_of_its_pixels():
    random = np.random.default_rng(1)
    truth = np.kron(random.integers(0, 7, (2, 2)), np.ones((50, 45))).astype(np.uint8)
    prediction = np.where(random.random(truth.shape) < 0.7, truth, random.integers(0, 6, truth.shape))
    prediction = prediction.astype(np.uint8)
    rows = boundary_scores(count_by_distance(truth, prediction, DEEPGLOBE, 1.0)).to_dict()["bins"]
    distance = np.sqrt(brute_force(truth)) + 0.5
    known = truth != UNKNOWN
    for row in rows:
        stop = np.inf if row["to_m"] is None else row["to_m"]
        inside = (distance >= row["from_m"]) & (distance < stop)
        beyond = distance >= row["from_m"]
        for scores, pixels in ((row, inside), (row["beyond"], beyond)):
            matrix = ConfusionMatrix(DEEPGLOBE)
            matrix.update(np.where(pixels, truth, NODATA).astype(np.uint8), prediction)
            expected = matrix.scores("challenge")
            assert (scores["miou"], scores["iou"]) == (expected.miou, expected.iou)
            assert scores["pixel_accuracy"] == expected.pixel_accuracy
            assert scores["pixels"] == (pixels & known).sum()
            assert scores["share"] == pytest.approx((pixels & known).sum() / known.sum())
    assert rows[0]["beyond"]["pixels"] == known.sum() == sum(row["pixels"] for row in rows)
    assert [row.name for row in BoundaryScores(bins=rows).bins][::4] == ["0 to 5 m", "over 40 m"]


def test_nothing_known_has_no_scores():
    truth = np.full((5, 5), NODATA, np.uint8)
    rows = boundary_scores(count_by_distance(truth, np.zeros((5, 5), np.uint8), DEEPGLOBE, 1.0)).to_dict()[
        "bins"
    ]
    assert {(row["pixels"], row["share"], row["miou"], row["pixel_accuracy"]) for row in rows} == {
        (0, None, None, None)
    }


def by_scipy(truth, prediction, tolerance):
    """Count as count_boundaries, by SciPy's distance transform and shifted copies."""
    from scipy.ndimage import distance_transform_edt

    unknown = (UNKNOWN, NODATA)
    prediction = np.where(np.isin(truth, unknown), NODATA, prediction)
    rows = []
    for value in DEEPGLOBE.scored:
        pixels = []
        for index in (prediction, truth):
            framed = np.pad(index, 1, constant_values=NODATA)
            edge = np.zeros(index.shape, bool)
            for row, col in ((0, 1), (2, 1), (1, 0), (1, 2)):
                other = framed[row : row + index.shape[0], col : col + index.shape[1]]
                edge |= (other != value) & ~np.isin(other, unknown)
            pixels.append(edge & (index == value))
        near = [
            distance_transform_edt(~other) <= tolerance if other.any() else np.zeros(other.shape, bool)
            for other in pixels[::-1]
        ]
        rows.append([n for one, by in zip(pixels, near, strict=True) for n in (one.sum(), (one & by).sum())])
    return np.array(rows)


@settings(deadline=None, max_examples=60)
@given(st.data(), st.sampled_from([0, 0.9, 1, 1.5, 2, 3.7, 40]))
def test_boundary_pixels_near_those_of_the_other_map_are_counted(data, tolerance):
    shape = data.draw(hnp.array_shapes(min_dims=2, max_dims=2, max_side=14))
    truth, prediction = (data.draw(hnp.arrays(np.uint8, shape, elements=CLASSES)) for _ in range(2))
    found = count_boundaries(truth, prediction, DEEPGLOBE, tolerance)
    np.testing.assert_array_equal(found, by_scipy(truth, prediction, tolerance))


def test_boundary_f1_of_a_shifted_edge_depends_on_the_tolerance():
    truth, prediction = (
        np.where(np.arange(20) < at, 0, 1).astype(np.uint8)[None].repeat(9, 0) for at in (8, 11)
    )
    for tolerance, f1 in ((2, 0.0), (3, 1.0)):
        measures = boundary_measures(count_boundaries(truth, prediction, DEEPGLOBE, tolerance))
        assert measures[0] == {"precision": f1, "recall": f1, "f1": f1}
        assert measures[2] == {"precision": None, "recall": None, "f1": None}
    alone = boundary_measures(count_boundaries(truth, np.zeros_like(truth), DEEPGLOBE, 3))
    assert alone[0] == {"precision": None, "recall": 0.0, "f1": 0.0}
    assert boundary_measures(np.array([[4, 1, 10, 10]]))[0]["f1"] == pytest.approx(0.4)
