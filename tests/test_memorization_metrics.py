"""The measures of memorization: scripted models, closed forms, naive loops, scipy, scikit-learn."""

import json
import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from metrics import (
    allowed_claims,
    bit_budget,
    bit_budget_by_group,
    capacity,
    counterfactual_memorization,
    expected_forgetting,
    first_learned,
    forgetting_events,
    jackknife_interval,
    memorization_by_group,
    memory_null,
    order_effect,
    permuted_members,
    spearman,
    wilson_interval,
)


def random_members(n_replicas, n, rng):
    """Each replica has half of the examples, drawn independently."""
    return np.array([rng.permutation(n) < n // 2 for _ in range(n_replicas)])


@st.composite
def panels(draw):
    """(outcome float [R, N], members bool [R, N]) with sides that may be empty."""
    shape = draw(st.tuples(st.integers(1, 6), st.integers(1, 8)))
    outcome = draw(hnp.arrays(np.float64, shape, elements=st.floats(-50, 0, width=32)))
    return outcome, draw(hnp.arrays(bool, shape))


# ------------------------------------------------------------------------------------------------
# bit budget and counterfactual memorization: scripted models
# ------------------------------------------------------------------------------------------------


def test_a_lookup_table_is_all_memory_and_a_rule_is_all_rule():
    """Exact match and bits of models that are known through and through."""
    rng = np.random.default_rng(0)
    members = random_members(8, 40, rng)
    lookup = members.astype(float)
    found = counterfactual_memorization(lookup, members)
    both = (found["n_in"] > 0) & (found["n_out"] > 0)
    assert both.sum() >= 38
    assert (found["memory"][both] == 1).all()
    assert (found["mean_out"][both] == 0).all()
    found = counterfactual_memorization(np.ones((8, 40)), members)
    assert (found["memory"][both] == 0).all()
    assert (found["standard_error"][both & (found["n_in"] > 1) & (found["n_out"] > 1)] == 0).all()

    # A lookup table guesses evenly (5 bits) where it has not seen the answer; a rule never does.
    baseline = np.full(40, -5.0)
    (row,) = bit_budget_by_group(np.where(members, 0.0, -5.0), members, baseline)
    assert (row["rule"], row["memory"], row["unexplained"], row["bits"]) == (0, 5, 0, 5)
    (row,) = bit_budget_by_group(np.zeros((8, 40)), members, baseline)
    assert (row["rule"], row["memory"], row["unexplained"], row["bits"]) == (5, 0, 0, 5)


@pytest.mark.parametrize("share", [0.25, 0.6])
def test_a_mixture_of_rule_and_lookup_shows_its_share(share):
    """Of 100 examples `share` are known by the rule, the others by lookup only."""
    members = random_members(12, 100, np.random.default_rng(1))
    by_rule = np.arange(100) < 100 * share
    (row,) = memorization_by_group(np.where(by_rule | members, 1.0, 0.0), members)
    assert row["n"] == 100
    assert row["memory"] == pytest.approx(1 - share)
    assert (row["in"], row["out"]) == (1, pytest.approx(share))
    known = np.where(by_rule | members, -0.5, -8.0)
    (row,) = bit_budget_by_group(known, members, np.full(100, -8.0))
    assert row["rule"] == pytest.approx(7.5 * share)
    assert row["memory"] == pytest.approx(7.5 * (1 - share))
    assert row["unexplained"] == pytest.approx(0.5)


def test_two_examples_by_hand():
    outcome = np.array([[-1.0, -4.0], [-2.0, -6.0], [-5.0, -1.0], [-9.0, -3.0]])
    members = np.array([[1, 0], [1, 0], [0, 1], [0, 0]], dtype=bool)
    budget = bit_budget(outcome, members, [-10.0, -3.0])
    assert budget["n_in"].tolist() == [2, 1]
    assert budget["n_out"].tolist() == [2, 3]
    assert budget["rule"] == pytest.approx([-7 + 10, -13 / 3 + 3])  # the second is negative
    assert budget["memory"] == pytest.approx([-1.5 + 7, -1 + 13 / 3])
    assert budget["unexplained"] == pytest.approx([1.5, 1])
    found = counterfactual_memorization(outcome, members)
    assert found["standard_error"][0] == pytest.approx(math.sqrt(0.5 / 2 + 8 / 2))
    assert math.isnan(found["standard_error"][1])  # one IN replica has no spread
    rows = bit_budget_by_group(outcome, members, [-10.0, -3.0], groups=["b", "a"])
    assert [row["group"] for row in rows] == ["a", "b"]
    assert [row["memory"] for row in rows] == pytest.approx([-1 + 13 / 3, 5.5])
    assert rows[0]["memory_low"] is None  # it hangs on one replica
    assert rows[1]["memory_low"] < 5.5 < rows[1]["memory_high"]
    json.dumps(rows, allow_nan=False)


@given(panels(), st.data())
def test_the_budget_adds_up_and_agrees_with_a_naive_loop(panel, data):
    """Per example and per group, whatever the masks; no clipping; examples left out are counted."""
    log2_probs, members = panel
    n = members.shape[1]
    baseline = data.draw(hnp.arrays(np.float64, n, elements=st.floats(-50, 0, width=32)))
    groups = data.draw(st.lists(st.sampled_from(["x", "y", 3, None]), min_size=n, max_size=n))
    budget = bit_budget(log2_probs, members, baseline)
    naive = {}
    for i in range(n):
        inside, outside = log2_probs[members[:, i], i], log2_probs[~members[:, i], i]
        parts = [budget[part][i] for part in ("rule", "memory", "unexplained")]
        if len(inside) and len(outside):
            naive[i] = [
                outside.mean() - baseline[i],
                inside.mean() - outside.mean(),
                -inside.mean(),
            ]
            assert parts == pytest.approx(naive[i])
            assert sum(parts) == pytest.approx(-baseline[i], abs=1e-9)
        else:
            assert np.isnan(parts).all()
    rows = bit_budget_by_group(log2_probs, members, baseline, groups)
    assert sum(row["n"] for row in rows) == len(naive)
    assert sum(row["n"] + row["n_left_out"] for row in rows) == n
    for row in rows:
        inside = [naive[i] for i in naive if groups[i] == row["group"]]
        if not inside:
            assert row["rule"] is row["memory"] is row["bits"] is row["rule_low"] is None
            continue
        parts = [row[part] for part in ("rule", "memory", "unexplained")]
        assert parts == pytest.approx(np.mean(inside, axis=0))
        assert sum(parts) == pytest.approx(row["bits"], abs=1e-9)


# ------------------------------------------------------------------------------------------------
# intervals over replicas
# ------------------------------------------------------------------------------------------------


def test_the_jackknife_of_a_mean_is_students_interval():
    values = np.array([0.1, 0.4, 0.35, 0.8, 0.55])
    left_out = [np.delete(values, r).mean() for r in range(5)]
    expected = scipy.stats.t.interval(0.95, 4, values.mean(), scipy.stats.sem(values))
    assert jackknife_interval(values.mean(), left_out) == pytest.approx(expected, abs=1e-3)
    many = np.random.default_rng(0).normal(size=90)
    left_out = [np.delete(many, r).mean() for r in range(90)]
    expected = scipy.stats.t.interval(0.95, 89, many.mean(), scipy.stats.sem(many))
    assert jackknife_interval(many.mean(), left_out) == pytest.approx(expected, abs=1e-3)
    assert np.isnan(jackknife_interval(0.5, [0.5])).all()
    assert np.isnan(jackknife_interval(0.5, [0.5, math.nan, 0.4])).all()


def test_leaving_a_replica_out_is_the_panel_without_it():
    """The interval of a group is the jackknife of the number itself, naively recomputed."""
    rng = np.random.default_rng(2)
    members, log2_probs = random_members(6, 30, rng), -rng.exponential(5, (6, 30))
    groups = rng.integers(0, 2, 30)
    rows = memorization_by_group(log2_probs, members, groups)
    for g, row in enumerate(rows):
        left_out = []
        for r in range(6):
            others = np.arange(6) != r
            memory = counterfactual_memorization(log2_probs[others], members[others])["memory"]
            left_out.append(np.nanmean(memory[groups == g]))
        low, high = jackknife_interval(row["memory"], left_out)
        assert (row["memory_low"], row["memory_high"]) == pytest.approx((low, high))


@pytest.mark.parametrize(("n_replicas", "bootstrap_holds"), [(8, (0.78, 0.9)), (16, (0.86, 0.94))])
def test_the_interval_holds_the_truth_as_often_as_it_says(n_replicas, bootstrap_holds):
    """Replicas and examples both have effects; a percentile bootstrap of replicas is too narrow."""
    rng = np.random.default_rng(3)
    n, n_panels, n_resamples = 40, 400, 200
    held = held_by_bootstrap = 0
    for _ in range(n_panels):
        members = random_members(n_replicas, n, rng)
        strength = rng.exponential(3, n)
        replica, replica_memory = rng.normal(size=(2, n_replicas, 1))
        outcome = rng.normal(-6, 3, n) + replica + members * (strength + replica_memory)
        outcome += rng.normal(size=outcome.shape)
        both = members.any(axis=0) & ~members.all(axis=0)
        truth = strength[both].mean()
        (row,) = memorization_by_group(outcome, members)
        held += row["memory_low"] <= truth <= row["memory_high"]
        weights = rng.multinomial(n_replicas, np.ones(n_replicas) / n_replicas, n_resamples)
        n_in = weights @ members.astype(float)
        sum_in, total = weights @ (outcome * members), weights @ outcome
        n_out = n_replicas - n_in
        with np.errstate(invalid="ignore", divide="ignore"):
            memory = np.where(
                (n_in > 0) & (n_out > 0), sum_in / n_in - (total - sum_in) / n_out, np.nan
            )
        low, high = np.quantile(np.nanmean(memory, axis=1), [0.025, 0.975])
        held_by_bootstrap += low <= truth <= high
    assert 0.93 <= held / n_panels <= 0.985
    assert bootstrap_holds[0] <= held_by_bootstrap / n_panels <= bootstrap_holds[1]


def test_panels_that_fit_no_masks_are_refused():
    members = np.zeros((2, 3), dtype=bool)
    with pytest.raises(ValueError, match=r"\(2, 4\) and \(2, 3\)"):
        counterfactual_memorization(np.zeros((2, 4)), members)
    with pytest.raises(ValueError, match="finite"):
        counterfactual_memorization(np.full((2, 3), -np.inf), members)
    with pytest.raises(ValueError, match="True and False"):
        counterfactual_memorization(np.zeros((2, 3)), np.full((2, 3), 0.5))
    with pytest.raises(ValueError, match="2 groups for 3"):
        memorization_by_group(np.zeros((2, 3)), members, ["a", "b"])
    with pytest.raises(ValueError, match="2 baselines for 3"):
        bit_budget(np.zeros((2, 3)), members, [0.0, 0.0])
    (row,) = memorization_by_group(np.zeros((2, 3)), members)  # a panel without --subset
    assert (row["n"], row["n_left_out"], row["memory"]) == (0, 3, None)


# ------------------------------------------------------------------------------------------------
# nulls
# ------------------------------------------------------------------------------------------------


def test_permuted_masks_find_nothing_with_the_predicted_error():
    """Noise of standard deviation 2: mean 0, and one example's error sqrt(4/n_in + 4/n_out)."""
    rng = np.random.default_rng(4)
    members, noise = random_members(16, 400, rng), rng.normal(0, 2, (16, 400))
    found = counterfactual_memorization(noise, permuted_members(members, None, rng))
    both = (found["n_in"] > 1) & (found["n_out"] > 1)
    memory, predicted = found["memory"][both], 4 / found["n_in"][both] + 4 / found["n_out"][both]
    assert abs((memory / np.sqrt(predicted)).mean()) < 3 / math.sqrt(len(memory))
    assert (memory / np.sqrt(predicted)).std() == pytest.approx(1, abs=0.1)
    stated = np.sqrt((found["standard_error"][both] ** 2).mean())
    assert stated == pytest.approx(memory.std(), rel=0.1)
    (row,) = memory_null(noise, members, n_permutations=60)
    assert (row["group"], row["n"]) == ("all", 400)
    # Memory of one example has variance 4/8 + 4/8; the mean over 400 examples a 400th of it.
    assert row["sd"] == pytest.approx(1 / math.sqrt(400), rel=0.3)
    assert abs(row["mean"]) < 4 * row["sd"] / math.sqrt(60)
    assert row["example_sd"] == pytest.approx(np.sqrt(predicted.mean()), rel=0.06)
    # The largest of 400 normal values lies near 3 standard deviations.
    assert 2.6 < row["maximum"] / row["example_sd"] < 3.8
    assert row["maximum"] < row["maximum_high"]


@given(panels(), st.data())
def test_permuting_keeps_how_much_of_each_group_a_replica_has(panel, data):
    _, members = panel
    n = members.shape[1]
    groups = data.draw(st.lists(st.integers(0, 2), min_size=n, max_size=n))
    permuted = permuted_members(
        members, groups, np.random.default_rng(data.draw(st.integers(0, 99)))
    )
    for group in set(groups):
        columns = np.array(groups) == group
        assert (permuted[:, columns].sum(1) == members[:, columns].sum(1)).all()


def test_permuting_draws_replicas_and_examples_apart():
    members = np.tile(np.arange(200) < 100, (50, 1))
    permuted = permuted_members(members, None, np.random.default_rng(0))
    assert abs(permuted.mean(axis=0) - 0.5).max() < 0.3
    assert abs(np.corrcoef(permuted[0], permuted[1])[0, 1]) < 0.3
    with pytest.raises(ValueError, match="at least 2"):
        memory_null(np.zeros((2, 2)), members[:2, :2], n_permutations=1)


def test_the_null_of_a_group_without_both_sides_is_empty():
    rows = memory_null(np.zeros((3, 4)), np.ones((3, 4), dtype=bool), ["a", "a", "b", "b"])
    assert [row["group"] for row in rows] == ["a", "b", "all"]
    assert rows[0]["mean"] is rows[0]["maximum"] is None


# ------------------------------------------------------------------------------------------------
# dynamics
# ------------------------------------------------------------------------------------------------


def test_first_learned_is_where_a_curve_passes_and_stays():
    curves = np.array(
        [
            [0.1, 0.9, 0.9, 0.5, 0.0, np.nan],
            [0.6, 0.9, 0.2, 0.5, 0.0, np.nan],
            [0.2, 0.9, 0.7, 0.5, 0.0, np.nan],
            [0.5, 0.9, 0.8, 0.5, 0.4, np.nan],
        ]
    )
    found = first_learned(curves, epochs=[1, 2, 5, 10], threshold=0.5)
    assert found.tolist()[:4] == [10, 1, 5, 1]
    assert np.isnan(found[4:]).all()
    with pytest.raises(ValueError, match="4 ascending"):
        first_learned(curves, epochs=[1, 2, 2, 10], threshold=0.5)


def test_forgetting_is_right_then_wrong():
    correct = np.array([[0, 1, 1, 0], [1, 0, 1, 0], [0, 1, 1, 0], [1, 0, 1, 0]])
    assert forgetting_events(correct).tolist() == [1, 2, 0, 0]
    assert expected_forgetting(0.3, 11) == pytest.approx(10 * 0.3 * 0.7)
    draws = np.random.default_rng(5).random((11, 200_000)) < 0.3
    assert forgetting_events(draws).mean() == pytest.approx(2.1, abs=0.01)
    # The rate that the same epochs show is short by 10 / 11, as the docstring says.
    shown = expected_forgetting(draws.mean(axis=0), 11).mean()
    assert shown * 11 / 10 == pytest.approx(2.1, abs=0.01)
    with pytest.raises(ValueError, match=r"0\.\.1"):
        expected_forgetting(1.5, 3)


@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3)), min_size=2, max_size=20))
def test_spearman_is_that_of_scipy(rows):
    a, b = [row[0] for row in rows], [row[1] for row in rows]
    if len(set(a)) == 1 or len(set(b)) == 1:
        assert math.isnan(spearman(a, b))
    else:
        assert spearman(a, b) == pytest.approx(scipy.stats.spearmanr(a, b)[0], abs=1e-12)


def test_order_effect_reads_members_within_groups():
    """Repeated examples come last and are known best; within a repeat count nothing follows."""
    rng = np.random.default_rng(6)
    n = 400
    repeats = np.where(np.arange(n) < 200, 1, 8)
    members = random_members(10, n, rng)
    positions = rng.random((10, n)) + (repeats == 8)
    log2_probs = rng.normal(-5, 1, (10, n)) + 3 * (repeats == 8) * members
    pooled = order_effect(positions, log2_probs, members)
    within = order_effect(positions, log2_probs, members, groups=repeats)
    assert pooled["mean"] > 0.4
    assert abs(within["mean"]) < 0.06
    assert within["low"] < within["mean"] < within["high"]
    first = [scipy.stats.spearmanr(positions[0, m], log2_probs[0, m])[0] for m in (members[0],)]
    assert pooled["values"][0] == pytest.approx(first[0])
    expected = scipy.stats.t.interval(
        0.95, 9, np.mean(pooled["values"]), scipy.stats.sem(pooled["values"])
    )
    assert (pooled["low"], pooled["high"]) == pytest.approx(expected, abs=1e-3)
    # Positions of examples that a replica did not train on are not read.
    positions[~members] = np.nan
    assert order_effect(positions, log2_probs, members) == pooled
    nothing = order_effect(positions, log2_probs, np.zeros_like(members))
    assert nothing == {"n_replicas": 0, "mean": None, "low": None, "high": None, "values": []}


# ------------------------------------------------------------------------------------------------
# capacity, claims
# ------------------------------------------------------------------------------------------------


def test_capacity_of_a_model_that_knows_its_strings_or_nothing():
    guessing = capacity([-32 * 4.0] * 300, length=32, vocabulary=16)
    assert guessing["stored"] == 0
    assert guessing["ceiling"] == pytest.approx(300 * 128 - 300 * math.log2(300))
    knows_the_set = capacity([-math.log2(300)] * 300, length=32, vocabulary=16)
    assert knows_the_set["share"] == pytest.approx(1)
    assert capacity([-130.0], length=32, vocabulary=16)["stored"] == pytest.approx(-2)
    assert capacity([-1.0, -1.0], length=1, vocabulary=2)["share"] is None
    for log2_probs in ([], [0.5], [-math.inf]):
        with pytest.raises(ValueError, match="log2_probs"):
            capacity(log2_probs, length=32, vocabulary=16)


def test_what_a_number_of_replicas_allows_to_say():
    allowed = [
        [name for name, yes in allowed_claims(n).items() if yes]
        for n in (1, 15, 16, 63, 64, 127, 128)
    ]
    means, distributions = ["group_means"], ["group_means", "distributions"]
    assert allowed == [
        [],
        [],
        means,
        means,
        distributions,
        distributions,
        [*distributions, "names"],
    ]
    with pytest.raises(ValueError, match="at least 1"):
        allowed_claims(0)


def test_the_errors_that_the_claims_rest_on():
    """The root mean square error of one example's memory that `allowed_claims` states."""
    rng = np.random.default_rng(7)
    for n_replicas, stated in ((16, 0.176), (64, 0.090), (128, 0.061)):
        members = random_members(n_replicas, 2000, rng)
        memorized = rng.random(2000) < 0.3
        rate = np.where(members & memorized, 0.9, 0.1)
        found = counterfactual_memorization(rng.random(rate.shape) < rate, members)["memory"]
        error = found - 0.8 * memorized
        assert np.sqrt(np.nanmean(error**2)) == pytest.approx(stated, rel=0.2)


def test_rates_stay_within_what_they_can_be_and_replicas_that_agree_are_not_certain():
    members = np.random.default_rng(0).random((12, 40)) < 0.5
    (row,) = memorization_by_group(members.astype(float), members)  # a lookup table
    low = wilson_interval(12, 12)[0]  # 12 replicas, which may fail as a whole
    assert (row["in"], row["out"], row["memory"]) == (1, 0, 1)
    assert (row["in_low"], row["in_high"]) == pytest.approx((low, 1))
    assert (row["out_low"], row["out_high"]) == pytest.approx((0, 1 - low))
    assert row["memory_low"] == pytest.approx(1 - 2**0.5 * (1 - low))
    assert row["memory_high"] == 1
    (one,) = memorization_by_group(members[:, :1].astype(float), members[:, :1])
    n_in = int(members[:, 0].sum())  # of one example fewer pairs than replicas
    assert one["in_low"] == pytest.approx(wilson_interval(n_in, n_in)[0])
    assert one["out_high"] == pytest.approx(wilson_interval(0, 12 - n_in)[1])
    half = np.where(np.arange(12)[:, None] < 6, members, 0.0)  # half of the replicas memorize
    (row,) = memorization_by_group(half, members)
    assert 0 <= row["in_low"] < row["in"] < row["in_high"] <= 1
    assert row["memory_high"] <= 1
