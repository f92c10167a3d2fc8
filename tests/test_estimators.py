"""The stratified estimators and intervals by drawing groups again, against derivations of another kind."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from landcover.errors import UsageError
from landcover.evaluation.estimators import (
    LEAST_GROUPS,
    RESAMPLES,
    Z_95,
    bootstrap_interval,
    stratified_estimates,
)
from landcover.legend import DEEPGLOBE
from landcover.metrics import ConfusionMatrix

# Olofsson et al. 2014, Table 8: deforestation, forest gain, stable forest, stable non-forest. Checked against
# the copy in the examples of the R package mapaccuracy, not against the paper.
COUNTS = np.array([[66, 0, 5, 4], [0, 55, 8, 12], [1, 0, 153, 11], [2, 1, 9, 313]])
PIXELS = np.array([200_000.0, 150_000, 3_200_000, 6_450_000])
HECTARES_PER_PIXEL = 0.09


def test_the_worked_example_of_the_paper():
    """Accuracies, and hectares of each class.

    The results were written down as the paper is remembered, which was not at hand, and are what the
    estimators give: they pin these. That the formulas are right is shown by the derivation below.
    """
    found = stratified_estimates(COUNTS, PIXELS)
    assert [round(found.overall.value, 2), round(Z_95 * found.overall.se, 2)] == [0.95, 0.02]
    assert found.users.value.round(2).tolist() == [0.88, 0.73, 0.93, 0.96]
    assert (Z_95 * found.users.se).round(2).tolist() == [0.07, 0.10, 0.04, 0.02]
    assert found.producers.value.round(2).tolist() == [0.75, 0.85, 0.93, 0.96]
    hectares = PIXELS.sum() * HECTARES_PER_PIXEL
    assert (hectares * found.shares.value).round().tolist() == [21_158, 11_686, 285_770, 581_386]
    margins = 1.96 * hectares * found.shares.se
    assert margins.round().tolist() == [6_158, 3_756, 15_510, 16_282]


def by_delta_method(counts, areas):
    """Variances from numerical gradients and the covariance of multinomial shares, stratum by stratum."""
    drawn = counts.sum(axis=1)
    shares, weights = counts / drawn[:, None], areas / areas.sum()

    def estimates(p):
        cells = weights[:, None] * p
        return np.concatenate([[cells.trace()], cells.diagonal() / cells.sum(axis=0), cells.sum(axis=0)])

    variances = np.zeros(1 + 2 * len(counts))
    for stratum, p in enumerate(shares):
        covariance = (np.diag(p) - np.outer(p, p)) / (drawn[stratum] - 1)
        gradient = np.empty((len(variances), len(p)))
        for j in range(len(p)):
            step = np.zeros_like(shares)
            step[stratum, j] = 1e-6
            gradient[:, j] = (estimates(shares + step) - estimates(shares - step)) / 2e-6
        variances += np.einsum("ij,jk,ik->i", gradient, covariance, gradient)
    errors = np.sqrt(np.maximum(variances, 0))
    k = len(counts)
    return {"overall": errors[0], "producers": errors[1 : k + 1], "shares": errors[k + 1 :]}


@settings(max_examples=50)
@given(
    arrays(np.int64, (3, 3), elements=st.integers(1, 60)), arrays(np.float64, 3, elements=st.floats(1, 1e6))
)
def test_standard_errors_are_those_of_the_delta_method(counts, areas):
    found, oracle = stratified_estimates(counts, areas), by_delta_method(counts, areas)
    np.testing.assert_allclose(found.overall.se, oracle["overall"], rtol=1e-5, atol=1e-10)
    np.testing.assert_allclose(found.producers.se, oracle["producers"], rtol=1e-5, atol=1e-10)
    np.testing.assert_allclose(found.shares.se, oracle["shares"], rtol=1e-5, atol=1e-10)
    assert found.shares.value.sum() == pytest.approx(1)


def test_a_sample_of_everything_gives_the_truth():
    truth = np.array([[90, 10, 0], [20, 170, 10], [5, 0, 195]])
    found = stratified_estimates(truth, truth.sum(axis=1).astype(float))
    np.testing.assert_allclose(found.shares.value, truth.sum(axis=0) / truth.sum())
    np.testing.assert_allclose(found.producers.value, truth.diagonal() / truth.sum(axis=0))
    assert found.overall.value == pytest.approx(truth.trace() / truth.sum())


def test_most_intervals_hold_the_truth():
    """500 samples of 40 points a class: 95 % intervals miss the truth about 25 times."""
    rng = np.random.default_rng(0)
    mixed = np.array([[0.8, 0.15, 0.05], [0.1, 0.8, 0.1], [0.05, 0.05, 0.9]])
    areas = np.array([100.0, 300, 600])
    truth = areas @ mixed / areas.sum()
    missed = np.zeros(3)
    for _ in range(500):
        counts = np.array([rng.multinomial(40, row) for row in mixed])
        found = stratified_estimates(counts, areas)
        missed += np.abs(found.shares.value - truth) > Z_95 * found.shares.se
    assert (missed > 5).all()
    assert (missed < 60).all()


def test_what_the_sample_does_not_allow_is_nan():
    without_unit = stratified_estimates(np.array([[8, 2], [0, 0]]), np.array([3.0, 1]))
    assert without_unit.users.value[0] == pytest.approx(0.8)
    assert without_unit.users.se[0] == pytest.approx(np.sqrt(0.16 / 9))
    assert np.isnan(
        [without_unit.overall.value, *without_unit.shares.value, *without_unit.producers.value]
    ).all()

    one_unit = stratified_estimates(np.array([[8, 2], [0, 1]]), np.array([3.0, 1]))
    assert one_unit.overall.value == pytest.approx(0.75 * 0.8 + 0.25)
    assert np.isnan([one_unit.overall.se, one_unit.users.se[1], *one_unit.shares.se]).all()

    no_stratum = stratified_estimates(np.array([[8, 2], [0, 0]]), np.array([3.0, 0]))
    assert no_stratum.overall.value == pytest.approx(0.8)
    assert no_stratum.shares.value.tolist() == pytest.approx([0.8, 0.2])
    assert no_stratum.producers.value.tolist() == pytest.approx([1, 0])
    assert no_stratum.overall.se == pytest.approx(np.sqrt(0.16 / 9))


def make_tables(groups, seed, right=0.7):
    """Tables of groups of different sizes, with a share of the pixels right."""
    rng = np.random.default_rng(seed)
    tables = rng.integers(0, 400, (groups, 7, 8)) * rng.integers(1, 9, (groups, 1, 1))
    tables[..., -1] = 0
    diagonal = np.arange(7)
    tables[:, diagonal, diagonal] += (right * tables.sum(axis=2)).astype(np.int64)
    return tables


def miou(tables):
    matrix = ConfusionMatrix(DEEPGLOBE)
    matrix.table = tables.sum(axis=0)
    score = matrix.scores().miou
    assert score is not None
    return score


def naive(first, second, strata, seed, level):
    """Draw the counts as the module does, fifty resamples of each stratum in turn; score them one by one."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(RESAMPLES // 50):
        counts = {}
        for label in sorted(set(strata.tolist())):
            size = int((strata == label).sum())
            counts[label] = rng.multinomial(size, [1 / size] * size, size=50)
        for draw in range(50):
            scores = []
            for tables in (first, second):
                if tables is None:
                    scores.append(0.0)
                    continue
                of_strata = []
                for label, count in counts.items():
                    own = tables[strata == label]
                    drawn = [own[group] for group, times in enumerate(count[draw]) for _ in range(times)]
                    of_strata.append(miou(np.array(drawn)))
                scores.append(sum(of_strata) / len(of_strata))
            found.append(scores[0] - scores[1])
    return np.quantile(found, [(1 - level) / 2, (1 + level) / 2])


STRATA = np.array([0] * 6 + [2] * 9 + [1] * 5)


@pytest.mark.parametrize("strata", [None, STRATA], ids=["pooled", "mean over folds"])
def test_both_intervals_are_those_of_a_naive_loop(strata):
    first, second = make_tables(20, 1), make_tables(20, 2, right=0.5)
    labels = np.zeros(20, int) if strata is None else strata
    one = bootstrap_interval(first, DEEPGLOBE, "challenge", strata=strata, seed=3)
    np.testing.assert_allclose(one, naive(first, None, labels, 3, 0.95), rtol=1e-12)
    both = bootstrap_interval(first, DEEPGLOBE, "challenge", minus=second, strata=strata, seed=4, level=0.8)
    np.testing.assert_allclose(both, naive(first, second, labels, 4, 0.8), rtol=1e-12)


def test_turning_the_pair_round_turns_the_interval_round():
    first, second = make_tables(12, 1), make_tables(12, 2)
    assert bootstrap_interval(first, DEEPGLOBE, "challenge", minus=first) == (0.0, 0.0)
    low, high = bootstrap_interval(first, DEEPGLOBE, "challenge", minus=second) or (1.0, 0.0)
    assert low < miou(first) - miou(second) < high
    back = bootstrap_interval(second, DEEPGLOBE, "challenge", minus=first)
    assert back == pytest.approx((-high, -low))


def test_too_few_groups_in_a_fold_give_none():
    tables = make_tables(LEAST_GROUPS * 2 - 1, 0)
    strata = np.arange(len(tables)) // LEAST_GROUPS
    assert bootstrap_interval(tables, DEEPGLOBE, "challenge", minus=tables, strata=strata) is None
    assert bootstrap_interval(tables, DEEPGLOBE, "challenge", strata=strata) is None
    assert bootstrap_interval(tables, DEEPGLOBE, "challenge") is not None
    assert bootstrap_interval(tables[:0], DEEPGLOBE, "challenge") is None


def test_other_groups_are_no_pair():
    with pytest.raises(UsageError, match="the same groups"):
        bootstrap_interval(make_tables(6, 0), DEEPGLOBE, "challenge", minus=make_tables(7, 0))
