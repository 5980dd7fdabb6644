"""metrics.py's tests of two models or runs against scipy and statsmodels, and hand-worked cases."""

import math
from itertools import pairwise

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import fisher_exact, norm
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import NormalIndPower, TTestIndPower, TTestPower

import metrics
from metrics import (
    compare_models,
    compare_rates,
    compare_seeds,
    fisher_p,
    holm,
    mcnemar_p,
    newcombe_interval,
    paired_interval,
    t_detectable,
    t_quantile,
    t_tail,
)

RATES = st.lists(st.floats(0, 1), min_size=2, max_size=8)


def models(both, only_first, only_second, neither):
    """The outcomes of two models on so many examples of each kind."""
    kinds = [(1, 1)] * both + [(1, 0)] * only_first + [(0, 1)] * only_second + [(0, 0)] * neither
    return np.array(kinds, dtype=bool).T


# ------------------------------------------------------------------------------------------------
# Student's t
# ------------------------------------------------------------------------------------------------


def noncentral_tail(t, degrees, shift):
    """P(|T| >= t) by scipy's quadrature; scipy.stats.nct is nan for some of these."""
    chi = scipy.stats.chi(degrees, scale=degrees**-0.5)

    def part(s):
        return chi.pdf(s) * (norm.sf(t * s - shift) + norm.sf(t * s + shift))

    edges = [0, 0.01, 0.1, 0.5, 0.9, 1, 1.1, 2, 40]
    return sum(quad(part, low, high, limit=200)[0] for low, high in pairwise(edges))


@pytest.mark.parametrize("degrees", [1, 1.5, 2, 7.3, 30, 1000])
def test_t_tail_is_that_of_scipy_into_the_far_tail(degrees):
    for t in (0, 0.1, 1, 2, 5, 20):
        expected = 2 * scipy.stats.t.sf(t, degrees)
        assert t_tail(-t, degrees) == pytest.approx(expected, rel=1e-9)
        for shift in (0.5, 8) if 0 < t < 10 else ():
            expected = noncentral_tail(t, degrees, shift)
            assert t_tail(t, degrees, shift) == pytest.approx(expected, abs=1e-8)


def test_t_tail_refuses_what_has_no_tail():
    for wrong in ((1, 0), (math.nan, 3), (1, math.nan), (1, 3, math.nan)):
        with pytest.raises(ValueError, match="need numbers and degrees > 0"):
            t_tail(*wrong)


@pytest.mark.parametrize("n", [3, 4, 5, 8, 16, 64])
def test_the_smallest_detectable_difference_is_that_of_statsmodels(n):
    paired = TTestPower().solve_power(nobs=n, alpha=0.05, power=0.8)
    assert t_detectable(n - 1) / math.sqrt(n) == pytest.approx(paired, rel=1e-5)
    unpaired = TTestIndPower().solve_power(nobs1=n, ratio=1, alpha=0.05, power=0.8)
    assert t_detectable(2 * n - 2) * math.sqrt(2 / n) == pytest.approx(unpaired, rel=1e-5)


@pytest.mark.parametrize("degrees", [1, 1.7, 2, 5, 40])
def test_a_difference_as_large_as_detectable_is_found_in_four_of_five_repetitions(degrees):
    t = t_quantile(degrees)
    assert t == pytest.approx(scipy.stats.t.ppf(0.975, degrees), rel=1e-6)
    shift = t_detectable(degrees)
    assert noncentral_tail(t, degrees, shift) == pytest.approx(0.8, abs=1e-6)


# ------------------------------------------------------------------------------------------------
# Runs of several seeds
# ------------------------------------------------------------------------------------------------


@given(RATES, st.integers(0, 2**32 - 1))
def test_paired_seeds_are_scipys_ttest_rel(first, seed):
    second = np.random.default_rng(seed).random(len(first))
    found = compare_seeds(first, second, paired=True)
    expected = scipy.stats.ttest_rel(first, second)
    assert found["test"] == "paired t"
    assert found["n"] == [len(first)] * 2
    assert found["difference"] == pytest.approx(np.mean(first) - second.mean(), abs=1e-12)
    assert found["p"] == pytest.approx(expected.pvalue, rel=1e-6)
    ends = expected.confidence_interval(0.95)
    assert [found["low"], found["high"]] == pytest.approx([ends.low, ends.high], abs=1e-5)


def test_seeds_that_are_not_shared_are_scipys_welch():
    first, second = [0.31, 0.35, 0.42], [0.5, 0.9, 0.71, 0.66]
    found = compare_seeds(first, second, paired=False)
    expected = scipy.stats.ttest_ind(first, second, equal_var=False)
    assert found["test"] == "Welch's t"
    assert found["n"] == [3, 4]
    assert found["p"] == pytest.approx(expected.pvalue, rel=1e-9)
    ends = expected.confidence_interval(0.95)
    assert [found["low"], found["high"]] == pytest.approx([ends.low, ends.high], abs=1e-6)


def test_a_single_seed_beside_several_borrows_their_variance():
    first, second = [0.9], [0.5, 0.6, 0.71, 0.66]
    for sides, sign in (((first, second), 1), ((second, first), -1)):
        found = compare_seeds(*sides, paired=False)
        expected = scipy.stats.ttest_ind(*sides, equal_var=True)
        assert found["test"] == "unpaired t"
        assert found["p"] == pytest.approx(expected.pvalue, rel=1e-9)
        assert found["difference"] == pytest.approx(sign * (0.9 - 0.6175))
        solved = TTestIndPower().solve_power(nobs1=1, ratio=4, alpha=0.05, power=0.8)
        assert found["detectable"] == pytest.approx(solved * np.std(second, ddof=1), rel=1e-4)


def test_the_difference_that_three_seeds_could_have_shown():
    """s = 0.01 of the differences: 5.653 x 0.01 / sqrt(3) = 3.26 points."""
    found = compare_seeds([0.51, 0.50, 0.49], [0.40, 0.40, 0.40], paired=True)
    assert found["detectable"] == pytest.approx(0.0326398, abs=1e-6)
    assert found["p"] == pytest.approx(0.0033, abs=1e-4)
    # Side by side the spread of both counts: 2 x 0.01² / 3, df 4 in place of 2.
    apart = compare_seeds([0.51, 0.50, 0.49], [0.41, 0.40, 0.39], paired=False)
    solved = TTestIndPower().solve_power(nobs1=3, ratio=1, alpha=0.05, power=0.8)
    assert apart["detectable"] == pytest.approx(0.01 * solved, rel=1e-5)


def test_seeds_without_any_spread_have_no_scale():
    same = compare_seeds([0.3, 0.4], [0.3, 0.4], paired=True)
    assert (same["difference"], same["p"], same["detectable"]) == (0.0, 1.0, None)
    shifted = compare_seeds([0.1, 0.2, 0.3], [0.2, 0.3, 0.4], paired=True)  # rounding apart
    assert shifted["difference"] == pytest.approx(-0.1)
    assert [shifted[key] for key in ("p", "low", "high", "detectable")] == [None] * 4
    flat = compare_seeds([1.0, 1.0], [0.0, 0.0, 0.0], paired=False)
    assert (flat["difference"], flat["p"]) == (1.0, None)


@pytest.mark.parametrize("sides", [([0.5], [0.5]), ([], [0.1, 0.2]), ([0.1, math.nan], [0.1, 1])])
def test_too_few_seeds_and_values_that_are_not_finite_are_refused(sides):
    with pytest.raises(ValueError, match=r"need 2 seeds|finite"):
        compare_seeds(*sides, paired=False)
    with pytest.raises(ValueError, match=r"need 2 seeds|finite|lengths"):
        compare_seeds(*sides, paired=True)


# ------------------------------------------------------------------------------------------------
# Two models
# ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", [(0, 0), (0, 1), (5, 5), (0, 6), (3, 14), (40, 70), (900, 1000)])
def test_mcnemars_p_is_that_of_statsmodels_and_of_scipys_binomial_test(split):
    first, second = split
    assert mcnemar_p(first, second) == mcnemar_p(second, first)
    if first + second:
        expected = scipy.stats.binomtest(first, first + second).pvalue
        assert mcnemar_p(first, second) == pytest.approx(expected, rel=1e-9)
        table = [[10, first], [second, 20]]
        assert mcnemar_p(first, second) == pytest.approx(mcnemar(table, exact=True).pvalue)
    else:
        assert mcnemar_p(first, second) == 1


def test_two_models_on_the_same_examples_by_hand():
    """9 examples only the first has right and 1 only the second: p = 2 x 11 / 2^10."""
    first, second = models(both=50, only_first=9, only_second=1, neither=40)
    found = compare_models(first, second)
    assert (found["test"], found["n"]) == ("McNemar", [100, 100])
    assert found["difference"] == pytest.approx(0.08)
    assert found["p"] == pytest.approx(22 / 1024)
    expected = paired_interval(first.astype(int) - second)
    assert (found["low"], found["high"]) == expected


def exact_power(n, share, difference):
    """How often the exact test finds the difference where `share` of n are answered otherwise."""
    found, fair = 0.0, (1 + difference / share) / 2
    for m in range(1, n + 1):
        splits = np.arange(m + 1)
        tested = np.array([mcnemar_p(k, m - k) <= 0.05 for k in splits])
        found += (
            scipy.stats.binom.pmf(m, n, share) * scipy.stats.binom.pmf(splits, m, fair) @ tested
        )
    return found


@pytest.mark.parametrize("counts", [(0, 0), (3, 3), (10, 6), (15, 25)])
def test_what_two_models_could_have_shown_is_found_by_the_exact_test(counts):
    n = 80
    found = compare_models(*models(10, *counts, n - 10 - sum(counts)))["detectable"]
    power = exact_power(n, max(sum(counts) / n, found), found)
    assert 0.74 < power < 0.81


def test_equal_models_and_a_single_example():
    same = compare_models(*models(300, 0, 0, 200))
    assert (same["difference"], same["p"]) == (0.0, 1.0)
    assert same["detectable"] == pytest.approx(7.8 / 500, abs=2e-4)  # 8 examples of 500, one way
    assert compare_models([True], [False])["detectable"] is None  # no size of it is found
    with pytest.raises(ValueError, match="at least one example"):
        compare_models([], [])


def test_models_on_different_examples_are_told_apart_by_fishers_test():
    found = compare_rates(45, 100, 120, 200)
    assert found["test"] == "Fisher's exact"
    assert found["n"] == [100, 200]
    assert found["p"] == pytest.approx(fisher_exact([[45, 55], [120, 80]]).pvalue)
    assert (found["low"], found["high"]) == newcombe_interval(45, 100, 120, 200)
    even = compare_rates(50, 100, 50, 100)  # standard deviation 0.5
    solved = NormalIndPower().solve_power(nobs1=100, ratio=1, alpha=0.05, power=0.8)
    assert even["detectable"] == pytest.approx(0.5 * solved, rel=1e-4)
    certain = compare_rates(10, 10, 20, 20)
    assert (certain["p"], certain["detectable"]) == (1.0, None)


@given(st.data())
def test_fishers_p_is_scipys(data):
    n1, n2 = (data.draw(st.integers(1, 60)) for _ in range(2))
    k1, k2 = (data.draw(st.integers(0, n)) for n in (n1, n2))
    expected = fisher_exact([[k1, n1 - k1], [k2, n2 - k2]]).pvalue
    assert fisher_p(k1, n1, k2, n2) == pytest.approx(expected, rel=1e-6)


def test_fishers_p_of_many_examples_and_of_few_right():
    assert fisher_p(1, 150, 1, 13) == pytest.approx(0.1537, abs=1e-4)  # by Pearson's test 0.027
    expected = fisher_exact([[24_000, 26_000], [24_500, 25_500]]).pvalue
    assert fisher_p(24_000, 50_000, 24_500, 50_000) == pytest.approx(expected, rel=1e-6)


# ------------------------------------------------------------------------------------------------
# Many tests in one table
# ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 5, 40])
def test_holm_is_that_of_statsmodels(n):
    p_values = np.random.default_rng(n).choice([0, 0.001, 0.01, 0.012, 0.2, 0.7, 1], n).tolist()
    expected = multipletests(p_values, method="holm")[1]
    np.testing.assert_allclose(holm(p_values), expected, rtol=1e-9)


def test_holm_leaves_out_what_was_not_tested():
    assert holm([0.01, None, 0.04, 0.03]) == pytest.approx([0.03, None, 0.06, 0.06])
    assert holm([None]) == [None]
    with pytest.raises(ValueError, match="between 0 and 1"):
        holm([1.2])


def test_outcomes_whose_numbers_do_not_go_together_are_none():
    row = {"examples": "a b", "outcomes": "10", "by_task": [{"group": "add", "n": 2}]}
    assert metrics.task_and_outcome(row) == {"a": ("add", True), "b": ("add", False)}
    for by_task in ([{"group": "add"}], [{"group": "add", "n": 10**15}], []):
        assert metrics.task_and_outcome({**row, "by_task": by_task}) == {}
