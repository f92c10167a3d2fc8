"""Reliability from a histogram, against all pixels sorted and cut."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from landcover.errors import UsageError
from landcover.evaluation.calibration import GROUPS, Reliability
from landcover.legend import IGNORE

NAMES = ("a", "b", "c")


def naive_groups(odds, truth):
    """Sort all pixels by confidence, cut them in 15: mean confidence, accuracy and size of each part."""
    confidence = odds.max(axis=0).astype(np.float64)
    right = odds.argmax(axis=0) == truth
    order = np.argsort(confidence, kind="stable")
    parts = [part for part in np.array_split(order, GROUPS) if part.size]
    return [(confidence[part].mean(), right[part].mean(), part.size) for part in parts]


def naive_ece(odds, truth):
    return sum(abs(a - c) * n for c, a, n in naive_groups(odds, truth)) / truth.size


def draw(seed, pixels, *, classes=3, sharpness=1.0):
    """Probabilities of any confidence, and a truth that follows them more or less."""
    random = np.random.default_rng(seed)
    logits = random.normal(0, 3, (classes, pixels))
    believed, real = (np.exp(scale * logits) for scale in (sharpness, 1.0))
    chosen = (real.cumsum(axis=0) / real.sum(axis=0) < random.random(pixels)).sum(axis=0)
    odds = (believed / believed.sum(axis=0)).astype(np.float32)
    return odds, chosen.astype(np.uint8)


def counted(odds, truth):
    reliability = Reliability(len(odds))
    reliability.update(odds, truth)
    return reliability


@pytest.mark.parametrize("sharpness", [0.3, 1.0, 3.0])
def test_the_histogram_gives_what_sorting_all_pixels_gives(sharpness):
    odds, truth = draw(1, 150_000, sharpness=sharpness)
    reliability = counted(odds, truth)
    assert reliability.ece() == pytest.approx(naive_ece(odds, truth), abs=2e-4)
    for channel in range(3):
        said = odds.argmax(axis=0) == channel
        assert reliability.ece(channel) == pytest.approx(naive_ece(odds[:, said], truth[said]), abs=5e-4)
    for group, (confidence, accuracy, _) in zip(reliability.groups(), naive_groups(odds, truth), strict=True):
        assert group.confidence == pytest.approx(confidence, abs=2e-4)
        assert group.accuracy == pytest.approx(accuracy, abs=3e-3)
        assert group.share == 1 / 15
    of_truth = np.maximum(odds[truth, np.arange(truth.size)], 1e-7)  # 0 where the model is sure and wrong
    assert reliability.summary(NAMES).nll == pytest.approx(-np.log(of_truth).mean(), rel=1e-5)
    found = reliability.summary(NAMES)
    assert found.accuracy == (odds.argmax(axis=0) == truth).mean()
    assert found.confidence == pytest.approx(odds.max(axis=0).mean(dtype=np.float64), rel=1e-9)


@settings(max_examples=40)
@given(st.integers(0, 10**6), st.integers(1, 400), st.sampled_from([0.2, 1.0, 5.0, 50.0]))
def test_any_pixels_give_groups_that_add_up(seed, pixels, sharpness):
    odds, truth = draw(seed, pixels, sharpness=sharpness)
    reliability = counted(odds, truth)
    groups = reliability.groups()
    assert sum(group.share for group in groups) == pytest.approx(1)
    means = [sum(g.share * getattr(g, name) for g in groups) for name in ("confidence", "accuracy")]
    assert means == pytest.approx([odds.max(axis=0).mean(), (odds.argmax(axis=0) == truth).mean()], abs=1e-5)
    confidences = [group.confidence for group in groups]
    assert confidences == sorted(confidences) or np.allclose(np.diff(confidences).clip(max=0), 0, atol=1e-9)
    assert all(-1e-9 <= group.accuracy <= 1 + 1e-9 for group in groups)
    # At least the distance of the means, at most the mean distance of single pixels.
    ece = reliability.ece()
    assert ece is not None
    assert abs(means[0] - means[1]) - 1e-6 <= ece <= 1
    if pixels % GROUPS == 0 and pixels > 30:  # one pixel more or less in a part is up to 1 / pixels
        assert ece == pytest.approx(naive_ece(odds, truth), abs=2 * GROUPS / pixels)


@settings(max_examples=20)
@given(st.integers(0, 10**6), st.lists(st.integers(0, 200), min_size=1, max_size=4))
def test_images_one_after_the_other_are_as_all_at_once(seed, sizes):
    odds, truth = draw(seed, sum(sizes))
    apart = Reliability(3)
    for part in np.split(np.arange(sum(sizes)), np.cumsum(sizes)[:-1]):
        apart.update(odds[:, part], truth[part])
    together = counted(odds, truth)
    np.testing.assert_array_equal(apart.pixels, together.pixels)
    np.testing.assert_allclose(apart.confidence, together.confidence)
    assert apart.loss == pytest.approx(together.loss)


def test_unknown_truth_is_left_out():
    odds, truth = draw(3, 900)
    hidden = truth.copy()
    hidden[::3] = IGNORE
    found, expected = (
        counted(odds.reshape(3, 30, 30), hidden.reshape(30, 30)),
        counted(odds[:, hidden != IGNORE], truth[hidden != IGNORE]),
    )
    assert found.summary(NAMES) == expected.summary(NAMES)
    assert found.summary(NAMES).pixels == 600


def test_hopeless_calibration_and_ties_at_one():
    """Sure and always wrong: an error of 1. Sure and right in a half, in any order: a half in each group."""
    odds = np.zeros((3, 10_000), np.float32)
    odds[0] = 1
    assert counted(odds, np.ones(10_000, np.uint8)).ece() == pytest.approx(1)
    half = counted(odds, (np.arange(10_000) < 5_000).astype(np.uint8))
    assert half.ece() == pytest.approx(0.5, abs=1e-12)
    assert {round(group.accuracy, 9) for group in half.groups()} == {0.5}
    assert half.summary(NAMES).nll == pytest.approx(
        0.5 * -np.log(1e-7)
    )  # certainty that is wrong costs, but not infinity


def test_confidences_near_one_are_told_apart():
    """Bins of equal width would see one group; these differ by a factor of 2 in what they lack to 1."""
    lacking = np.repeat(2.0 ** -np.arange(2, 17), 1000)
    odds = np.stack([1 - lacking, lacking, 0 * lacking]).astype(np.float32)
    groups = counted(odds, np.zeros(len(lacking), np.uint8)).groups()
    assert [1 - group.confidence for group in groups] == pytest.approx(np.unique(lacking)[::-1], rel=1e-3)


@pytest.mark.parametrize("value", [1 / 3, 0.5, 1 - 2**-24, 1.0, 1 + 2**-23])
def test_every_confidence_a_float_can_have_is_counted(value):
    reliability = counted(np.array([[value], [0.0], [0.0]], np.float32), np.zeros(1, np.uint8))
    assert reliability.pixels.sum() == 1
    assert reliability.groups()[0].confidence == pytest.approx(value)


def test_the_worst_class_and_absent_ones_are_named():
    odds = np.array([[0.9, 0.1, 0.0]] * 100 + [[0.3, 0.7, 0.0]] * 100, np.float32).T
    truth = np.array([0] * 90 + [2] * 10 + [1] * 20 + [0] * 80, np.uint8)
    found = counted(odds, truth).summary(NAMES).to_dict()
    assert found["worst_class"] == {"name": "b", "ece": pytest.approx(0.5)}
    assert found["per_class"]["a"] == {
        "ece": pytest.approx(0, abs=1e-6),
        "confidence": pytest.approx(0.9),
        "accuracy": 0.9,
        "share": 0.5,
    }
    assert found["per_class"]["c"] is None
    nothing = Reliability(3)
    nothing.update(odds, np.full(200, IGNORE, np.uint8))
    assert nothing.summary(NAMES).to_dict() == {
        "pixels": 0, "ece": None, "confidence": None, "accuracy": None, "nll": None, "worst_class": None,
        "per_class": {"a": None, "b": None, "c": None}, "bins": [], "temperature": None, "fitted_on": None,
    }  # fmt: skip


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(UsageError, match=r"\(3, 4, 5\).*\(4, 4\)"):
        Reliability(3).update(np.zeros((3, 4, 5), np.float32), np.zeros((4, 4), np.uint8))
    with pytest.raises(UsageError, match=r"expected \(2"):
        Reliability(2).update(np.zeros((3, 4), np.float32), np.zeros(4, np.uint8))
