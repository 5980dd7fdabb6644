"""Exposure, membership inference, extraction, LiMem: closed forms, naive loops, scikit-learn."""

import json
import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import roc_auc_score
from sklearn.metrics import roc_curve as sklearn_roc_curve

from metrics import (
    attacks_intervals,
    calibrated_scores,
    expected_exposure,
    exposure,
    exposure_by_reference,
    exposure_tail,
    extraction_curve,
    jackknife_interval,
    limem,
    lira_scores,
    logit_scale,
    membership_inference,
    memorization_by_group,
    rmia_scores,
    roc_curve,
    samples_to_extract,
    wilson_interval,
)


def random_members(n_replicas, n, rng):
    """Each replica has half of the examples, drawn independently."""
    return np.array([rng.permutation(n) < n // 2 for _ in range(n_replicas)])


def balanced_members(n_replicas, n, rng):
    """Each example is in exactly half of the replicas."""
    return np.argsort(rng.random((n_replicas, n)), axis=0) < n_replicas // 2


# ------------------------------------------------------------------------------------------------
# exposure
# ------------------------------------------------------------------------------------------------


def test_exposure_is_log2_of_candidates_over_rank():
    log2_probs = np.array([[-1.0, -2.0, -3.0, -4.0]] * 4)
    found = exposure(log2_probs, canary=[0, 1, 2, 3])
    assert found == pytest.approx([2, 1, 2 - math.log2(3), 0])
    with pytest.raises(ValueError, match=r"0\.\.3"):
        exposure(log2_probs, canary=[0, 1, 2, 4])
    with pytest.raises(ValueError, match="finite"):
        exposure(log2_probs, canary=[0])


@pytest.mark.parametrize(("n", "mean"), [(10, 1.143), (100, 1.396), (1000, 1.436)])
def test_the_exposure_of_an_untrained_canary(n, mean):
    """Every rank is as likely: the mean, also of a model that tells no candidates apart."""
    assert expected_exposure(n) == pytest.approx(mean, abs=5e-4)
    every_rank = exposure(np.tile(np.arange(n), (n, 1)), canary=np.arange(n))
    assert every_rank.mean() == pytest.approx(expected_exposure(n))
    assert exposure(np.zeros((1, n)), canary=[3])[0] == pytest.approx(expected_exposure(n))
    for threshold in (0, 0.5, 1, 2, 3.3):
        assert exposure_tail(threshold, n) == (every_rank >= threshold - 1e-12).mean()
    assert expected_exposure(10**7) == pytest.approx(1 / math.log(2), abs=1e-5)
    assert [exposure_tail(k, 1024) for k in (0, 1, 5, 10, 11)] == [1, 0.5, 1 / 32, 1 / 1024, 0]


@given(hnp.arrays(np.int64, (3, 6), elements=st.integers(0, 3)), st.integers(0, 5))
def test_ties_are_averaged_over_all_ways_to_break_them(values, canary):
    found = exposure(values, canary=[canary] * 3)
    for row, value in zip(values, found, strict=True):
        better, alike = (row > row[canary]).sum(), (row == row[canary]).sum()
        ranks = np.arange(better + 1, better + alike + 1)
        assert value == pytest.approx(np.mean(np.log2(6 / ranks)))


def test_exposure_by_reference():
    references = np.arange(1, 17)
    found = exposure_by_reference([3.5, 0, 1, 20], references)
    assert found == pytest.approx([2, 4, 4, math.log2(16 / 17)])
    with pytest.raises(ValueError, match="at least one"):
        exposure_by_reference([1.0], [])


# ------------------------------------------------------------------------------------------------
# ROC
# ------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(-4, 4), st.booleans()), min_size=2, max_size=40))
def test_roc_is_that_of_scikit_learn(rows):
    scores = np.array([row[0] for row in rows], dtype=float)
    members = np.array([row[1] for row in rows])
    assume(members.any() and not members.all())
    fpr, tpr = roc_curve(scores, members)
    theirs = sklearn_roc_curve(members, scores, drop_intermediate=False)
    assert fpr == pytest.approx(theirs[0])
    assert tpr == pytest.approx(theirs[1])
    found = membership_inference(scores[None], members[None])
    assert found["auc"] == pytest.approx(roc_auc_score(members, scores))
    u = scipy.stats.mannwhitneyu(scores[members], scores[~members]).statistic
    assert found["auc"] == pytest.approx(u / (members.sum() * (~members).sum()))
    assert found["auc_low"] is None  # one replica has no interval
    assert found["tpr_at_fpr_0.01"] == pytest.approx(theirs[1][theirs[0] <= 0.01].max())


def test_two_unit_gaussians_at_distance_1():
    rng = np.random.default_rng(0)
    members = random_members(10, 40_000, rng)
    found = membership_inference(rng.normal(size=members.shape) + members, members)
    assert (found["n_members"], found["n_non_members"], found["n_left_out"]) == (
        200_000,
        200_000,
        0,
    )
    assert found["auc"] == pytest.approx(0.7602, abs=0.003)
    assert found["tpr_at_fpr_0.01"] == pytest.approx(0.0924, abs=0.006)
    assert found["tpr_at_fpr_0.001"] == pytest.approx(0.0183, abs=0.004)
    k = round(found["tpr_at_fpr_0.01"] * 200_000)
    interval = (found["tpr_at_fpr_0.01_low"], found["tpr_at_fpr_0.01_high"])
    assert interval == wilson_interval(k, 200_000)
    assert found["auc_low"] < found["auc"] < found["auc_high"] < found["auc"] + 0.004
    curve = dict(zip(found["curve"]["fpr"], found["curve"]["tpr"], strict=True))
    assert curve[0.01] == found["tpr_at_fpr_0.01"]
    assert curve[1] == 1
    few = membership_inference(rng.normal(size=(2, 9999)), np.arange(2)[:, None] == np.ones(9999))
    assert few["n_non_members"] == 9999
    assert few["tpr_at_fpr_0.001"] is few["tpr_at_fpr_0.001_low"] is None
    json.dumps([found, few], allow_nan=False)


def test_undefined_scores_are_left_out_and_empty_sides_are_none():
    scores = np.array([[1.0, np.nan, 3.0], [2.0, 0.0, np.nan]])
    members = np.array([[1, 1, 1], [0, 0, 0]], dtype=bool)
    found = membership_inference(scores, members)
    assert (found["n_members"], found["n_non_members"], found["n_left_out"]) == (2, 2, 2)
    assert found["auc"] == 0.75
    nothing = membership_inference(scores, np.zeros_like(members))
    assert nothing["auc"] is nothing["tpr_at_fpr_0.01"] is nothing["curve"]["tpr"] is None
    with pytest.raises(ValueError, match=r"\[R, N\]"):
        membership_inference(scores, members[:1])


def test_the_interval_of_auc_takes_replicas_as_clusters():
    """Some replicas memorize and others do not: intervals over pairs would be far too narrow."""
    rng = np.random.default_rng(1)
    held = []
    for _ in range(200):
        members = random_members(12, 60, rng)
        strength = rng.choice([0.0, 2.0], size=(12, 1))
        found = membership_inference(rng.normal(size=members.shape) + strength * members, members)
        # Of normal values at distance d, P(member > non-member) = Phi(d / sqrt 2).
        truth = (0.5 + scipy.stats.norm.cdf(math.sqrt(2))) / 2
        held.append(found["auc_low"] <= truth <= found["auc_high"])
    assert 0.9 <= np.mean(held) <= 0.99


@pytest.mark.parametrize("memory", [0.0, 1.0])
def test_the_interval_of_an_attack_by_others_holds_what_it_should(memory):
    """LiRA's score of a target hangs on the others: with them as clusters 80 to 90 % held it."""
    rng = np.random.default_rng(3)

    def panel():
        members = random_members(8, 60, rng)
        return rng.normal(size=members.shape) + memory * members - 10, members

    def lira(outcome, members):
        return {"LiRA": lira_scores(outcome, members)}

    panels = [panel() for _ in range(60)]
    truth = np.mean([membership_inference(lira(*p)["LiRA"], p[1])["auc"] for p in panels])
    held = []
    for outcome, members in panels:
        low, high = attacks_intervals(lira, outcome, members)["LiRA"]
        held.append(low <= truth <= high)
    assert np.mean(held) >= 0.88


def test_an_attack_leaves_replicas_out_by_groups():
    members = random_members(6, 30, np.random.default_rng(0))
    sizes = []

    def attack(outcome, own):
        sizes.append(len(own))
        return {"loss": outcome}

    outcome = np.random.default_rng(1).normal(size=members.shape) + 0.3 * members
    low, high = attacks_intervals(attack, outcome, members, n_groups=3)["loss"]
    assert sizes == [4, 4, 4, 6]
    each = [np.delete(np.arange(6), drop) for drop in ([0, 1], [2, 3], [4, 5])]
    left = [membership_inference(outcome[keep], members[keep])["auc"] for keep in each]
    auc = membership_inference(outcome, members)["auc"]
    assert (low, high) == pytest.approx(jackknife_interval(auc, left))
    nothing = attacks_intervals(attack, outcome, np.zeros_like(members), n_groups=3)["loss"]
    assert np.isnan(nothing).all()


# ------------------------------------------------------------------------------------------------
# attacks
# ------------------------------------------------------------------------------------------------


def naive_scores(outcome, members, gamma):
    """(calibrated, LiRA, RMIA) one target at a time, from the rows of the other replicas."""
    calibrated, lira, rmia = np.full((3, *outcome.shape), np.nan)
    n = members.shape[1]
    for target in range(len(outcome)):
        others = np.arange(len(outcome)) != target
        mean, squares, spare, p_mean = {}, {True: 0, False: 0}, {True: 0, False: 0}, {}
        for i in range(n):
            for side in (True, False):
                values = outcome[others & (members[:, i] == side), i]
                if len(values):
                    mean[side, i] = values.mean()
                    p_mean[side, i] = (2.0**values).mean()
                    squares[side] += ((values - values.mean()) ** 2).sum()
                    spare[side] += len(values) - 1
        for i in range(n):
            if (False, i) in mean:
                calibrated[target, i] = outcome[target, i] - mean[False, i]
            if (True, i) in mean and (False, i) in mean and spare[True] and spare[False]:
                sd = {side: math.sqrt(squares[side] / spare[side]) for side in (True, False)}
                if min(sd.values()) > 1e-3:
                    ours = (scipy.stats.norm(mean[s, i], sd[s]) for s in (True, False))
                    log_in, log_out = (density.logpdf(outcome[target, i]) for density in ours)
                    lira[target, i] = log_in - log_out
        known = [i for i in range(n) if (True, i) in mean and (False, i) in mean]
        ratio = {
            i: 2.0 ** outcome[target, i] / ((p_mean[True, i] + p_mean[False, i]) / 2) for i in known
        }
        for i in known:
            population = [z for z in known if not members[target, z]]
            if population:
                wins = [ratio[i] / gamma >= ratio[z] for z in population]
                rmia[target, i] = np.mean(wins)
    return calibrated, lira, rmia


@given(
    st.integers(2, 6), st.integers(1, 8), st.integers(0, 10**6), st.sampled_from([0.7, 1.0, 2.0])
)
def test_scores_are_those_of_a_naive_loop_over_targets(n_replicas, n, seed, gamma):
    rng = np.random.default_rng(seed)
    outcome = -rng.exponential(4, (n_replicas, n))
    members = rng.random((n_replicas, n)) < rng.choice([0.2, 0.5])
    calibrated, lira, rmia = naive_scores(outcome, members, gamma)
    assert calibrated_scores(outcome, members) == pytest.approx(calibrated, abs=1e-8, nan_ok=True)
    ours = lira_scores(outcome, members)
    assert (np.isnan(ours) <= np.isnan(lira)).all()
    assert ours[~np.isnan(lira)] == pytest.approx(lira[~np.isnan(lira)], rel=1e-4, abs=1e-6)
    assert rmia_scores(outcome, members, gamma) == pytest.approx(rmia, nan_ok=True)


def test_attacks_find_a_lookup_table_and_nothing_in_a_rule():
    rng = np.random.default_rng(2)
    members = random_members(8, 300, rng)
    lookup, rule = np.where(members, -0.1, -9.0), np.full(members.shape, -0.1)
    for scores in (
        lambda y: y,
        *(lambda y, f=f: f(y, members) for f in (calibrated_scores, lira_scores, rmia_scores)),
    ):
        assert membership_inference(scores(lookup), members)["auc"] > 0.999
        assert membership_inference(scores(rule), members)["auc"] == pytest.approx(0.5, abs=0.01)


def test_rmia_scores_a_member_and_a_non_member_of_one_ratio_alike():
    """Replica 0 knows half of the examples, whether it trained on them or not."""
    rng = np.random.default_rng(6)
    members = random_members(8, 300, rng)
    outcome = np.full(members.shape, -10.0)
    known = rng.random(300) < 0.5
    outcome[0, known] = -2.0
    scores, trained = rmia_scores(outcome, members)[0], members[0]
    defined = ~np.isnan(scores)
    beaten = (defined & ~trained & ~known).sum() / (defined & ~trained).sum()
    for side in (trained, ~trained):
        assert scores[defined & side & known] == pytest.approx(beaten)
        assert not scores[defined & side & ~known].any()


def test_attacks_that_know_the_example_beat_the_loss():
    """Examples differ in difficulty far more than training on them changes."""
    rng = np.random.default_rng(3)
    members = random_members(16, 1500, rng)
    outcome = rng.normal(-30, 8, 1500) + rng.normal(size=members.shape) + members
    loss = membership_inference(outcome, members)
    lira = membership_inference(lira_scores(outcome, members), members)
    calibrated = membership_inference(calibrated_scores(outcome, members), members)
    rmia = membership_inference(rmia_scores(outcome, members), members)
    assert loss["auc"] < 0.55
    # With many replicas both would reach 0.7602 and 0.0924: the means of the others are estimated.
    assert 0.72 < calibrated["auc"] < 0.765
    assert 0.70 < lira["auc"] < 0.765
    assert 0.70 < rmia["auc"] < 0.765
    assert lira["tpr_at_fpr_0.01"] > 0.04 > loss["tpr_at_fpr_0.01"]


def test_what_is_read_off_the_example_alone_tells_no_membership():
    """The blind baseline: length, task or n-gram score, the same for every replica."""
    rng = np.random.default_rng(9)
    members = random_members(32, 500, rng)
    lengths = rng.integers(3, 12, 500)
    found = membership_inference(np.tile(lengths, (32, 1)), members)
    assert found["auc"] == pytest.approx(0.5, abs=0.015)
    assert found["auc_low"] < 0.5 < found["auc_high"]


def test_masks_that_are_balanced_over_replicas_leak_into_lira():
    """Noise without memory: 0.5 for independent masks, below it for exactly half the replicas."""
    rng = np.random.default_rng(4)
    for n_replicas, leaked in ((8, 0.475), (16, 0.491)):
        noise = rng.normal(size=(n_replicas, 12_000))
        balanced = balanced_members(n_replicas, 12_000, rng)
        found = membership_inference(lira_scores(noise, balanced), balanced)["auc"]
        assert found == pytest.approx(leaked, abs=0.007)
        members = random_members(n_replicas, 12_000, rng)
        for scores in (noise, calibrated_scores(noise, members), lira_scores(noise, members)):
            found = membership_inference(scores, members)
            assert found["auc"] == pytest.approx(0.5, abs=0.006)
        found = membership_inference(rmia_scores(-abs(noise), members), members)
        assert found["auc"] == pytest.approx(0.5, abs=0.006)
        assert found["tpr_at_fpr_0.01"] == pytest.approx(0.01, abs=0.003)


def test_long_answers_whose_probability_underflows_are_scored():
    rng = np.random.default_rng(5)
    members = random_members(8, 200, rng)
    outcome = rng.normal(-5000, 1000, 200) + rng.normal(size=members.shape) + 3 * members
    found = membership_inference(rmia_scores(outcome, members), members)
    assert found["auc"] > 0.9
    assert 10 < found["n_left_out"] < 50


def test_logit_scale():
    p = np.array([0.5, 0.9, 1e-9])
    assert logit_scale(np.log2(p)) == pytest.approx(np.log2(p / (1 - p)))
    assert logit_scale(np.array([0.0, -5000.0])).tolist() == [30, -30]
    assert logit_scale(np.array([-1e-20]), cap=100) == pytest.approx(
        -math.log2(1e-20 * math.log(2))
    )


# ------------------------------------------------------------------------------------------------
# extraction, perturbation
# ------------------------------------------------------------------------------------------------


def test_samples_until_the_answer_is_drawn():
    """p_z = 0.01: 69 samples for p = 0.5, 230 for 0.9."""
    p_z = np.log2([0.01, 0.5, 0.75, 1.0])
    assert samples_to_extract(p_z, p=0.5).tolist() == [69, 1, 1, 1]
    assert samples_to_extract(p_z, p=0.9).tolist() == [230, 4, 2, 1]
    assert samples_to_extract(np.log2(0.5), p=0.875) == 3  # exactly 3: rounding must not make it 4
    assert samples_to_extract(np.array(-100.0)) == pytest.approx(2**100 * math.log(2))
    assert samples_to_extract(np.array(-5000.0)) == math.inf
    for log2_probs, p in ((0.1, 0.5), (-1.0, 0), (-1.0, 1)):
        with pytest.raises(ValueError, match="0 < p < 1"):
            samples_to_extract(np.array(log2_probs), p)


def test_extraction_curve_is_in_minus_out():
    rng = np.random.default_rng(6)
    members = random_members(8, 100, rng)
    log2_probs = np.where(members, np.log2(0.5), np.log2(0.01))
    curve = extraction_curve(log2_probs, members, budgets=(1, 68, 69))
    found = [(row["samples"], row["in"], row["out"], row["memory"]) for row in curve]
    assert found == [(1, 1, 0, 1), (68, 1, 0, 1), (69, 1, 1, 0)]
    mixed = log2_probs - 6 * rng.random(members.shape)
    (row,) = extraction_curve(mixed, members, budgets=(10,), p=0.5)
    (expected,) = memorization_by_group(samples_to_extract(mixed) <= 10, members)
    assert row == {"samples": 10, **{k: v for k, v in expected.items() if k != "group"}}
    assert row["memory_low"] < row["memory"] < row["memory_high"]


def test_limem_of_a_lookup_table_a_rule_and_between():
    correct = np.array([1, 1, 1, 0, 1], dtype=bool)
    lookup = limem(correct, np.zeros((5, 2)))
    assert (lookup["accuracy"], lookup["consistency"], lookup["limem"]) == (0.8, 0, 0.8)
    rule = limem(correct, np.ones((5, 2)))
    assert (rule["consistency"], rule["limem"]) == (1, 0)
    perturbed = np.array([[1, 0], [1, np.nan], [np.nan, np.nan], [0, 0], [0, 0]])
    found = limem(correct, perturbed)
    assert (found["n"], found["n_perturbed"]) == (5, 3)  # solved, and a perturbation is known
    assert found["consistency"] == pytest.approx((0.5 + 1 + 0) / 3)
    assert found["limem"] == pytest.approx(0.8 * 0.5)
    assert limem(correct, np.full((5, 1), np.nan))["limem"] is None
    nothing_right = limem(np.zeros(2, dtype=bool), np.ones((2, 1)))
    assert (nothing_right["consistency"], nothing_right["limem"]) == (None, 0)
    with pytest.raises(ValueError, match="0, 1 and nan"):
        limem(correct, np.full((5, 1), 0.5))
    with pytest.raises(ValueError, match=r"\[5, k\]"):
        limem(correct, np.zeros((4, 1)))
