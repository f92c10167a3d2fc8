"""Intervals by drawing scenes anew: against a loop that adds up tables one draw at a time."""

import numpy as np
import pytest

from landcover.errors import UsageError
from landcover.evaluation.estimators import LEAST_GROUPS, RESAMPLES, bootstrap_interval
from landcover.legend import DEEPGLOBE
from landcover.metrics import ConfusionMatrix


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
