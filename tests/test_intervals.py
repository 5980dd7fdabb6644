"""Intervals over seeds that share their examples: hand-worked cases, and by simulation how often
they hold the true rate of new seeds on new examples.
"""

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from metrics import (
    by_group,
    example_interval,
    generalization_gap,
    matched_repeat_effects,
    newcombe_interval,
    outcomes,
    over_seeds,
    paired_interval,
    rate,
    repeat_effects,
    seed_half_width,
    wilson_interval,
)


def rows_of(rights, known=True):
    """The rows of `rate` of rights bool [S, n], with outcomes where they are `known`."""
    rows = [rate(right) for right in rights]
    if known:
        named = range(rights.shape[1])
        rows = [{**row, **outcomes(named, own)} for row, own in zip(rows, rights, strict=True)]
    return rows


def rates(*values, n):
    return [{"exact_match": value, "n": n} for value in values]


def ends(stats):
    return stats["low"], stats["high"]


# ------------------------------------------------------------------------------------------------
# the part of the seeds
# ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [2, 3, 10, 31, 32, 40, 200])
def test_seed_half_width_agrees_with_scipy(n):
    values = np.random.default_rng(n).uniform(0.4, 0.6, size=n)
    low, high = scipy.stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert seed_half_width(values) == pytest.approx((high - low) / 2, abs=1e-6)


def test_seed_half_width_hand_worked():
    # s = 0.1, t(2) = 4.303: 4.303 * 0.1 / sqrt(3)
    assert seed_half_width([0.4, 0.5, 0.6]) == pytest.approx(0.248414, abs=1e-6)
    # numpy's mean of three times 0.1 is 0.10000000000000002: equal seeds have no spread.
    assert seed_half_width([0.1, 0.1, 0.1]) == seed_half_width([0.7]) == seed_half_width([]) == 0
    with pytest.raises(ValueError, match="nan"):
        seed_half_width([0.1, math.nan])


# ------------------------------------------------------------------------------------------------
# the part of the examples
# ------------------------------------------------------------------------------------------------


@given(st.lists(st.booleans(), min_size=1, max_size=60), st.integers(1, 5))
def test_seeds_that_err_on_the_same_examples_are_one(right, n_seeds):
    low, high = example_interval(np.array([right] * n_seeds))
    expected = wilson_interval(sum(right), len(right))
    assert (low, high) == pytest.approx(expected, abs=1e-12)


def test_seeds_that_err_on_other_examples_count_apart():
    # 2 seeds, 400 examples, each right on its own half: every example has the share 1/2, so the
    # variance over examples is that of the z²/2 + z²/2 examples added alone, z² = 3.8415, and the
    # design effect 3.8415 / 403.8415 = 0.0095124.
    half = np.arange(400) < 200
    low, high = example_interval(np.stack([half, ~half]))
    n = 400 / 0.0095124
    expected = scipy.stats.norm.ppf(0.975) * math.sqrt(0.25 / (n + 3.8415))
    assert (low, high) == pytest.approx((0.5 - expected, 0.5 + expected), abs=1e-6)
    # Independent seeds: n counts once a seed.
    rights = np.random.default_rng(0).random((4, 20_000)) < 0.7
    expected = wilson_interval(round(rights.mean() * 80_000), 80_000)
    assert example_interval(rights) == pytest.approx(expected, abs=1e-4)


def test_one_error_of_one_seed_proves_no_difference_between_seeds():
    rights = np.ones((20, 105), dtype=bool)
    rights[3, 7] = False
    assert example_interval(rights)[0] < 0.965  # 20 * 105 independent answers would say 0.997


# ------------------------------------------------------------------------------------------------
# both
# ------------------------------------------------------------------------------------------------


def test_over_seeds_hand_worked():
    stats = over_seeds(rates(0.4, 0.5, 0.6, n=100))
    assert (stats["n_seeds"], stats["mean"], stats["values"]) == (3, 0.5, [0.4, 0.5, 0.6])
    # Wilson of 40, 50 and 60 of 100 reaches 0.0906, 0.0962, 0.0980 below and 0.0980, 0.0962, 0.0906
    # above, mean 0.0949; seeds 0.24843; sqrt(0.0949² + 0.24843²) = 0.26595.
    assert ends(stats) == pytest.approx((0.5 - 0.26595, 0.5 + 0.26595), abs=1e-4)
    assert {type(value) for value in stats.values()} == {int, float, list}


def test_a_difference_has_the_examples_of_both_sides():
    more, less = rates(0.5, 0.6, n=100), rates(0.4, 0.5, n=200)
    stats = over_seeds(more, minus=less)
    assert stats["values"] == pytest.approx([0.1, 0.1])
    # Seeds agree on the difference; Wilson: 50 and 60 of 100, 80 and 100 of 200.
    sides = [wilson_interval(k, n) for k, n in ((50, 100), (60, 100), (80, 200), (100, 200))]
    reach = [
        (p - low, high - p) for p, (low, high) in zip((0.5, 0.6, 0.4, 0.5), sides, strict=True)
    ]
    (a, b), (c, d) = np.mean(reach[:2], axis=0), np.mean(reach[2:], axis=0)
    below, above = math.hypot(a, d), math.hypot(b, c)
    assert ends(stats) == pytest.approx((0.1 - below, 0.1 + above), abs=1e-9)
    assert over_seeds(rates(0.0, 0.1, n=9), minus=rates(1.0, 0.9, n=9))["low"] == -1.0


@given(st.integers(0, 50), st.integers(0, 80))
def test_one_seed_has_wilson_or_newcombe(k, k_less):
    row, less = rates(k / 50, n=50), rates(k_less / 80, n=80)
    assert ends(over_seeds(row)) == pytest.approx(wilson_interval(k, 50), abs=1e-9)
    expected = newcombe_interval(k, 50, k_less, 80)
    assert ends(over_seeds(row, minus=less)) == pytest.approx(expected, abs=1e-9)
    known = rows_of(np.arange(50)[None] < k)
    assert ends(over_seeds(known)) == pytest.approx(wilson_interval(k, 50), abs=1e-9)


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("right", [True, False])
def test_equal_seeds_without_or_with_every_error_are_as_sure_as_one(known, right):
    rows = rows_of(np.full((5, 100), right), known)
    stats = over_seeds(rows)
    assert stats["mean"] == right
    assert ends(stats) == pytest.approx(wilson_interval(100 * right, 100), abs=1e-12)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=9), st.randoms(use_true_random=False))
def test_over_seeds_ignores_their_order_and_holds_the_mean(values, rng):
    mixed = list(values)
    rng.shuffle(mixed)
    one, other = over_seeds(rates(*values, n=30)), over_seeds(rates(*mixed, n=30))
    for key in ("mean", "low", "high"):
        assert one[key] == pytest.approx(other[key], abs=1e-9)
    assert 0 <= one["low"] <= one["mean"] <= one["high"] <= 1
    assert min(values) <= one["mean"] <= max(values)


def test_outcomes_count_only_where_all_seeds_have_those_of_the_same_examples():
    rights = np.random.default_rng(0).random((4, 200)) < 0.6  # so known outcomes are narrower
    rows, bare = rows_of(rights), rows_of(rights, known=False)
    assert over_seeds(rows)["high"] < over_seeds(bare)["high"] - 0.02
    others = [*rows[:3], {**rows[3], **outcomes(range(1, 201), rights[3])}]
    fewer = [*rows[:3], rows_of(rights[3:, :150])[0]]
    for mixed in (others, [*rows[:3], bare[3]], fewer):
        without = [{key: row[key] for key in ("exact_match", "n")} for row in mixed]
        assert over_seeds(mixed) == over_seeds(without)
    # Of different n each seed has its own width: 0.5 of 100 and of 400.
    unequal = over_seeds([*rates(0.5, n=100), *rates(0.5, n=400)])
    half = np.mean([0.5 - wilson_interval(50, 100)[0], 0.5 - wilson_interval(200, 400)[0]])
    assert ends(unequal) == pytest.approx((0.5 - half, 0.5 + half), abs=1e-9)


def test_no_seeds_have_no_mean():
    none = {"n_seeds": 0, "mean": None, "low": None, "high": None, "values": []}
    assert over_seeds([]) == none


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (rates(1.2, n=5), "1.2"),
        (rates(math.nan, n=5), "nan"),
        (rates(0.5, n=0), "n >= 1"),
        (rates(0.5, n=math.nan), "n >= 1"),
    ],
)
def test_impossible_rates_are_refused(rows, said):
    with pytest.raises(ValueError, match=said):
        over_seeds(rows)
    with pytest.raises(ValueError, match="lengths differ"):
        over_seeds(rates(0.5, n=5), minus=[])


def test_groups_keep_the_outcomes_of_their_examples():
    rows = by_group(["b", "a", "b"], [True, False, False], examples=[4, 7, 11])
    kept = [(row["group"], row["examples"], row["outcomes"]) for row in rows]
    assert kept == [("a", "7", "0"), ("b", "4 11", "10")]
    assert by_group(["a", "a"], [True, False])[0]["outcomes"] == "10"
    (row,) = by_group([3, 3], [True, False], [0.00012344, 12.34567], examples=["x", "y"])
    assert (row["examples"], row["outcomes"], row["losses"]) == ("x y", "10", "0.0001234 12.35")
    with pytest.raises(ValueError, match="lengths differ"):
        by_group(["a"], [True], examples=[1, 2])


# ------------------------------------------------------------------------------------------------
# repetition
# ------------------------------------------------------------------------------------------------


def test_repeat_effects_hand_worked():
    def rows(*values):  # unseen, once, twice, 4 times
        counts, ns = (0, 1, 2, 4), (500, 100, 50, 20)
        return [
            {"group": c, **rates(r, n=n)[0]} for c, n, r in zip(counts, ns, values, strict=True)
        ]

    seeds = [rows(0.5, 0.5, 0.5, 0.8), rows(0.6, 0.5, 0.6, 0.7), rows(0.1, 0.3, 0.5, 0.9)]
    once, twice, four = repeat_effects(seeds)
    assert (once["repeat_count"], once["minus"]) == (1, 0)
    assert (once["n"], once["n_minus"], once["n_seeds"]) == (100, 500, 3)
    assert once["values"] == pytest.approx([0, -0.1, 0.2])
    assert once["difference"] == pytest.approx(1 / 30)
    assert (twice["repeat_count"], twice["minus"], twice["n"]) == (2, 1, 50)
    assert (four["repeat_count"], four["minus"], four["n"]) == (4, 1, 20)
    assert four["difference"] == pytest.approx(11 / 30)
    # 0.3, 0.2, 0.6: s = 0.208167, half 4.303 * s / sqrt(3) = 0.517155; examples beside it.
    assert four["low"] < 11 / 30 - 0.5171
    for i, effect in enumerate((once, twice, four)):
        base = (0, 1, 1)[i]
        expected = over_seeds([s[i + 1] for s in seeds], minus=[s[base] for s in seeds])
        assert ends(effect) == ends(expected)


def test_repeat_effects_of_one_seed_are_newcombe_and_counts_that_a_seed_lacks_stay_out():
    # Newcombe (1998), table II, row a: 56 of 70 against 48 of 80, 0.2 [0.0524, 0.3339].
    rows = [{"group": 1, "n": 80, "exact_match": 0.6}, {"group": 8, "n": 70, "exact_match": 0.8}]
    (effect,) = repeat_effects([rows])
    assert (effect["repeat_count"], effect["minus"], effect["n_seeds"]) == (8, 1, 1)
    assert effect["difference"] == pytest.approx(0.2)
    assert ends(effect) == pytest.approx((0.0524, 0.3339), abs=1e-4)
    assert repeat_effects([rows, rows[:1]]) == repeat_effects([rows[1:]]) == []
    assert repeat_effects([]) == repeat_effects([[]]) == []
    empty = [rows[0], {"group": 8, "n": 0, "exact_match": None}]
    assert repeat_effects([empty]) == []


# ------------------------------------------------------------------------------------------------
# coverage, simulated: seeds differ, examples differ, and both are drawn anew each time
# ------------------------------------------------------------------------------------------------

DRAWS = 200
LEAST = 0.92  # two standard errors of 200 draws below 0.95


def draw(rng, abilities, n, level, spread):
    """rights bool [S, n]: log-odds are level + the seed's ability + the example's ease."""
    odds = level + abilities[:, None] + rng.normal(0, spread, n)
    return rng.random(odds.shape) < 1 / (1 + np.exp(-odds))


def true_rate(level, spread):
    x = np.linspace(-8, 8, 4001)
    weight = np.exp(-x * x / 2)
    return float((weight / (1 + np.exp(-level - spread * x))).sum() / weight.sum())


def held(intervals, truth):
    low, high = np.array(intervals).T
    return float(((low <= truth) & (truth <= high)).mean())


CASES = [  # examples; level, spread over seeds, over examples
    pytest.param(105, 0, 0, 0, id="all alike"),
    pytest.param(105, 0, 0, 2, id="examples differ"),
    pytest.param(105, 0, 0.3, 2, id="both differ"),
    pytest.param(105, 4, 0.3, 2, id="most are right"),
    pytest.param(600, 0, 0.3, 2, id="both differ, 600 examples"),
]


@pytest.mark.parametrize(("n", "level", "over", "spread"), CASES)
@pytest.mark.parametrize("n_seeds", [2, 3, 5, 20])
def test_the_interval_of_a_rate_holds_the_truth(n_seeds, n, level, over, spread):
    rng, truth = np.random.default_rng([n_seeds, n]), true_rate(level, math.hypot(over, spread))
    known, bare = [], []
    for _ in range(DRAWS):
        rights = draw(rng, rng.normal(0, over, n_seeds), n, level, spread)
        known.append(ends(over_seeds(rows_of(rights))))
        bare.append(ends(over_seeds(rows_of(rights, known=False))))
    assert held(known, truth) >= LEAST
    assert held(bare, truth) >= LEAST
    assert np.diff(known).mean() <= np.diff(bare).mean()  # what outcomes are kept for


@pytest.mark.parametrize("n_seeds", [2, 3, 5, 20])
def test_the_interval_of_no_effect_of_repetition_holds_zero(n_seeds):
    """105 examples repeated 32 times against 1,700 seen once; a seed is as good on both."""
    rng, known, bare = np.random.default_rng(n_seeds), [], []
    student = []
    for _ in range(DRAWS // 2):  # 1,805 examples a seed take their time
        abilities = rng.normal(0, 0.3, n_seeds)
        groups = {32: draw(rng, abilities, 105, 0, 2), 1: draw(rng, abilities, 1700, 0, 2)}
        for intervals, keep in ((known, True), (bare, False)):
            rows = {count: rows_of(rights, keep) for count, rights in groups.items()}
            seeds = [[{"group": c, **rows[c][s]} for c in (1, 32)] for s in range(n_seeds)]
            (effect,) = repeat_effects(seeds)
            intervals.append(ends(effect))
        half = seed_half_width(effect["values"])
        student.append((effect["difference"] - half, effect["difference"] + half))
    assert held(known, 0) >= LEAST - 0.02
    assert held(bare, 0) >= LEAST
    if n_seeds >= 5:  # the interval over seeds alone, as it was
        assert held(student, 0) < 0.85
    if n_seeds == 20:
        assert held(student, 0) < 0.55


@pytest.mark.parametrize("n_seeds", [2, 20])
def test_a_few_hopeless_examples_are_not_forgotten_where_the_rest_is_nearly_sure(n_seeds):
    """One example in 100 is beyond every seed, and of 105 a third has none of those."""
    rng, intervals = np.random.default_rng(n_seeds), []
    for _ in range(DRAWS):
        hopeless = rng.random(105) < 0.01
        rights = (rng.random((n_seeds, 105)) < 0.999) & ~hopeless
        intervals.append(ends(over_seeds(rows_of(rights))))
    assert held(intervals, 0.99 * 0.999) >= LEAST


@pytest.mark.parametrize("rate_of_repeated", [0.3, 0.9])
def test_the_interval_of_a_gap_by_rows_holds_the_truth(rate_of_repeated):
    """Half of the rows are of examples that stand there 32 times, sampled at one row in ten."""
    rng, held, blind = np.random.default_rng(0), 0, 0
    copies = np.repeat([1, 32], [1600, 50])
    example_of_row = np.repeat(np.arange(1650), copies)  # [3200]
    chance_right = np.where(copies > 1, rate_of_repeated, 0.3)
    truth = (chance_right @ copies) / copies.sum() - 0.3
    for _ in range(1000):
        right = rng.random(1650) < chance_right  # new examples each time
        rows = example_of_row[rng.permutation(3200)[:320]]
        unseen = rng.random(320) < 0.3
        gap = generalization_gap(right[rows], unseen, rows.tolist())
        held += gap["low"] <= truth <= gap["high"]
        naive = generalization_gap(right[rows], unseen)
        assert naive["gap"] == gap["gap"]
        blind += naive["low"] <= truth <= naive["high"]
    assert 0.935 <= held / 1000 <= 0.99
    assert blind < held


# ------------------------------------------------------------------------------------------------
# the same examples in two runs
# ------------------------------------------------------------------------------------------------


def test_the_paired_interval_by_hand():
    """Agresti and Min: half an example more in each cell. 12 pairs: 3 gained, 1 lost, 8 alike."""
    differences = [1, 1, 1, -1] + [0] * 8
    mean = (3.5 - 1.5) / 14
    half = 1.959964 * math.sqrt((3.5 + 1.5) / 14 - mean**2) / math.sqrt(14)
    assert paired_interval(differences) == pytest.approx((mean - half, mean + half), abs=1e-6)
    low, high = paired_interval([0] * 10)
    assert (low, high) == pytest.approx((-0.1633, 0.1633), abs=1e-4)  # 1.96 sqrt(1 / 12) / sqrt(12)
    assert all(math.isnan(end) for end in paired_interval([]))


def test_the_same_examples_in_both_runs_are_paired():
    """Both err on the same hard half: pairs that agree say nothing of the difference."""
    names, right = [f"e{i}" for i in range(400)], np.arange(400) < 200
    more = right | (np.arange(400) < 212)

    def row(names, right):
        return {**rate(right), **outcomes(names, right)}

    paired = over_seeds([row(names, more)], minus=[row(names, right)])
    apart = over_seeds([row(names, more)], minus=[row(names[::-1], right)])
    unnamed = over_seeds([row(None, more)], minus=[row(None, right)])
    assert paired["mean"] == apart["mean"] == unnamed["mean"] == pytest.approx(0.03)
    low, high = paired_interval(more.astype(float) - right)
    assert (paired["low"], paired["high"]) == pytest.approx((low, high))
    assert paired["low"] > 0.01 > apart["low"] == unnamed["low"]


@pytest.mark.parametrize(("n_seeds", "n", "gain"), [(1, 200, 0.05), (1, 30, 0.0), (4, 200, 0.05)])
def test_the_interval_of_the_same_examples_holds_the_true_difference(n_seeds, n, gain):
    """Examples differ in difficulty, seeds in how good they are, in both runs alike."""
    rng, held, trials = np.random.default_rng(0), 0, 400
    for _ in range(trials):
        easy = rng.beta(0.5, 0.5, n) * (1 - gain)
        names = [str(i) for i in range(n)]
        rows = [[], []]
        for _ in range(n_seeds):
            for run, chance in zip(rows, (easy + gain, easy), strict=True):
                right = rng.random(n) < chance
                run.append({**rate(right), **outcomes(names, right)})
        found = over_seeds(rows[0], minus=rows[1])
        held += found["low"] <= gain <= found["high"]
    assert 0.93 <= held / trials <= 1


def counted(group, tasks):
    """A row of `by_group` over repeat counts: {task: {example: right}}."""
    names = [name for of_task in tasks.values() for name in of_task]
    right = [r for of_task in tasks.values() for r in of_task.values()]
    cells = [{"group": task, **rate(list(of.values()))} for task, of in tasks.items()]
    return {"group": group, **rate(right), **outcomes(names, right), "by_task": cells}


def test_matched_repeat_effects_hand_worked():
    repeated = [
        [
            counted(0, {"add": {"u": 0}}),
            counted(1, {"add": {"a": 0}, "rel": {"x": 1}}),
            counted(4, {"add": {"b": 1, "c": 1, "gone": 1}, "rel": {"y": 1}}),
        ]
    ]
    once = [
        [
            counted(0, {"add": {"u": 1}}),
            counted(1, {"add": {"c": 1, "b": 0, "a": 0, "more": 1}, "rel": {"y": 0, "x": 1}}),
        ]
    ]
    effects = matched_repeat_effects(repeated, once)
    assert [(e["repeat_count"], e["task"], e["n"], e["difference"]) for e in effects] == [
        (0, "add", 1, -1.0),
        (1, "all", 2, 0.0),
        (1, "add", 1, 0.0),
        (1, "rel", 1, 0.0),
        (4, "all", 3, pytest.approx(2 / 3)),
        (4, "add", 2, 0.5),
        (4, "rel", 1, 1.0),
    ]
    four = effects[4]
    assert (four["repeated"], four["once"], four["n_seeds"]) == (1.0, pytest.approx(1 / 3), 1)
    assert (four["low"], four["high"]) == pytest.approx(paired_interval([1, 0, 1]))


def test_matched_repeat_effects_are_over_the_examples_that_every_seed_has():
    def seed(*names, right):
        return [counted(2, {"add": dict.fromkeys(names, right)})]

    def control(*names):
        return [counted(1, {"add": dict.fromkeys(names, 0)})]

    repeated = [seed("a", "b", right=1), seed("b", "c", right=0)]
    (effect,) = matched_repeat_effects(repeated, [control("a", "b"), control("b", "c")])
    assert (effect["n"], effect["values"], effect["difference"]) == (1, [1.0, 0.0], 0.5)
    # Repeated in the other run too, or of a run that does not name its examples: no pair is left.
    assert matched_repeat_effects(repeated, repeated) == []
    nameless = [[{"group": 1, "n": 2, "exact_match": 0.5}]] * 2
    assert matched_repeat_effects(repeated, nameless) == []
    assert matched_repeat_effects([], []) == []
