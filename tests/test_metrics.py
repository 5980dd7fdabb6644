"""metrics.py against hand-worked cases, naive loops, and scipy, scikit-learn and statsmodels."""

import doctest
import json
import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score
from statsmodels.stats.proportion import confint_proportions_2indep, proportion_confint

import metrics
from metrics import (
    FAILURES,
    auroc,
    by_group,
    compare_scores,
    copied_answers,
    edit_distance,
    exact_match,
    failure_kinds,
    generalization_gap,
    nearest_training_example,
    newcombe_interval,
    ngram_overlap,
    oracle_length_exact_match,
    rate,
    summarize,
    token_accuracy,
    wilson_interval,
)

# Few characters, so that equal texts, prefixes and shifts all come up.
texts = st.text(alphabet="12 \ufffd", max_size=6)
pairs = st.lists(st.tuples(texts, texts), max_size=20)
counts = st.integers(0, 300).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))
some_counts = counts.filter(lambda kn: kn[1] > 0)


def unzip(rows):
    return [row[0] for row in rows], [row[1] for row in rows]


def naive_edit_distance(a, b):
    """The full table of the textbook, normalized by the longer length."""
    table = [[i + j if i * j == 0 else 0 for j in range(len(b) + 1)] for i in range(len(a) + 1)]
    for i in range(1, len(a) + 1):
        for j in range(1, len(b) + 1):
            table[i][j] = min(
                table[i - 1][j] + 1,
                table[i][j - 1] + 1,
                table[i - 1][j - 1] + (a[i - 1] != b[j - 1]),
            )
    return table[-1][-1] / max(len(a), len(b), 1)


# ------------------------------------------------------------------------------------------------
# one prediction against its answer
# ------------------------------------------------------------------------------------------------

#   prediction, answer, kind, oracle length, token accuracy, edit distance
CASES = [
    ("46", "46", "correct", True, 1.0, 0.0),
    ("4", "46", "stopped_early", False, 1 / 2, 1 / 2),
    ("", "46", "stopped_early", False, 0.0, 1.0),
    ("4623", "46", "ran_on", True, 1 / 2, 1 / 2),
    ("46 ", "46", "ran_on", True, 2 / 3, 1 / 3),
    ("47", "46", "wrong_content", False, 1 / 2, 1 / 2),
    ("046", "46", "wrong_content", False, 0.0, 1 / 3),  # a shift: no place right, one edit
    ("4\ufffd", "46", "wrong_content", False, 1 / 2, 1 / 2),
    ("5 9 27", "5 27 9", "wrong_content", False, 2 / 6, 4 / 6),
    ("", "", "correct", True, 1.0, 0.0),
    ("4", "", "ran_on", True, 0.0, 1.0),
]


@pytest.mark.parametrize(("prediction", "answer", "kind", "oracle", "accuracy", "distance"), CASES)
def test_hand_worked_predictions(prediction, answer, kind, oracle, accuracy, distance):
    one = [prediction], [answer]
    assert failure_kinds(*one) == [kind]
    assert exact_match(*one).tolist() == [kind == "correct"]
    assert oracle_length_exact_match(*one).tolist() == [oracle]
    assert token_accuracy(*one).tolist() == [accuracy]
    assert edit_distance(*one).tolist() == [distance]
    assert naive_edit_distance(prediction, answer) == distance


def test_types_and_shapes_of_per_example_values():
    predictions, answers = ["1", "2", "3"], ["1", "2", "4"]
    for function, dtype in [
        (exact_match, np.bool_),
        (oracle_length_exact_match, np.bool_),
        (token_accuracy, np.float64),
        (edit_distance, np.float64),
    ]:
        for n in (3, 0):
            values = function(predictions[:n], answers[:n])
            assert (values.dtype, values.shape) == (dtype, (n,))
    assert failure_kinds([], []) == []


@given(pairs)
def test_predictions_keep_their_identities(rows):
    predictions, answers = unzip(rows)
    kinds = failure_kinds(predictions, answers)
    exact = exact_match(predictions, answers)
    oracle = oracle_length_exact_match(predictions, answers)
    accuracy = token_accuracy(predictions, answers)
    distance = edit_distance(predictions, answers)
    assert set(kinds) <= {"correct", *FAILURES}
    assert exact.tolist() == [kind == "correct" for kind in kinds]
    assert oracle.tolist() == [kind in ("correct", "ran_on") for kind in kinds]
    assert ((accuracy >= 0) & (accuracy <= 1)).all()
    assert ((distance >= 0) & (distance <= 1)).all()
    assert (accuracy == 1).tolist() == exact.tolist()
    assert (distance == 0).tolist() == exact.tolist()
    assert (distance <= 1 - accuracy + 1e-12).all()  # substitutions at each place are one way
    assert distance.tolist() == [naive_edit_distance(p, a) for p, a in rows]
    # Symmetric, except that what stopped early one way round ran on the other.
    np.testing.assert_array_equal(distance, edit_distance(answers, predictions))
    np.testing.assert_array_equal(accuracy, token_accuracy(answers, predictions))
    swap = {"stopped_early": "ran_on", "ran_on": "stopped_early"}
    assert failure_kinds(answers, predictions) == [swap.get(kind, kind) for kind in kinds]


# ------------------------------------------------------------------------------------------------
# intervals
# ------------------------------------------------------------------------------------------------


def test_wilson_hand_worked():
    # k = 0, n = 10: high = (z²/n) / (1 + z²/n) with z² = 3.8414588.
    low, high = wilson_interval(0, 10)
    assert low == 0.0
    assert high == pytest.approx(0.38414588 / 1.38414588, abs=1e-8)
    assert wilson_interval(490, 500) == pytest.approx((0.96358, 0.98910), abs=1e-5)


@given(some_counts)
def test_wilson_equals_statsmodels(kn):
    expected = proportion_confint(*kn, method="wilson")
    assert wilson_interval(*kn) == pytest.approx(expected, abs=1e-12)


@given(some_counts)
def test_wilson_contains_the_rate_and_mirrors(kn):
    k, n = kn
    low, high = wilson_interval(k, n)
    assert 0 <= low <= k / n <= high <= 1
    assert (low == 0) == (k == 0)
    assert (high == 1) == (k == n)
    assert wilson_interval(n - k, n) == pytest.approx((1 - high, 1 - low), abs=1e-12)


def test_newcombe_published_example():
    # Newcombe 1998, table II, contrast (a): 56/70 - 48/80, method 10.
    assert newcombe_interval(56, 70, 48, 80) == pytest.approx((0.0524, 0.3339), abs=5e-5)


@given(some_counts, some_counts)
def test_newcombe_equals_statsmodels(kn_1, kn_2):
    expected = confint_proportions_2indep(*kn_1, *kn_2, compare="diff", method="newcomb")
    assert newcombe_interval(*kn_1, *kn_2) == pytest.approx(expected, abs=1e-12)


@given(some_counts, some_counts)
def test_newcombe_contains_the_difference_and_mirrors(kn_1, kn_2):
    low, high = newcombe_interval(*kn_1, *kn_2)
    difference = kn_1[0] / kn_1[1] - kn_2[0] / kn_2[1]
    assert -1 <= low <= difference <= high <= 1
    assert newcombe_interval(*kn_2, *kn_1) == pytest.approx((-high, -low), abs=1e-12)


def test_intervals_that_do_not_exist_are_nan():
    intervals = [
        wilson_interval(0, 0),
        newcombe_interval(0, 0, 1, 2),
        newcombe_interval(1, 2, 0, 0),
    ]
    assert all(math.isnan(low) and math.isnan(high) for low, high in intervals)


# ------------------------------------------------------------------------------------------------
# tables
# ------------------------------------------------------------------------------------------------


def plain(value):
    """True if JSON would give the value back, types included."""
    if isinstance(value, dict):
        return all(type(k) is str and plain(v) for k, v in value.items())
    if isinstance(value, list):
        return all(plain(v) for v in value)
    return value is None or type(value) in (int, str) or (type(value) is float and value == value)


def test_summarize_hand_worked():
    predictions, answers, *_ = zip(*CASES, strict=True)
    stats = summarize(predictions, answers)
    low, high = wilson_interval(2, 11)
    assert stats == {
        "n": 11,
        "exact_match": 2 / 11,
        "exact_match_low": low,
        "exact_match_high": high,
        "oracle_length_exact_match": 5 / 11,
        "token_accuracy": pytest.approx((2 + 4 * 1 / 2 + 2 / 3 + 2 / 6) / 11),
        "edit_distance": pytest.approx((2 + 4 * 1 / 2 + 1 / 3 + 1 / 3 + 4 / 6) / 11),
        "failures": {"stopped_early": 2, "ran_on": 3, "wrong_content": 4},
    }
    assert plain(stats)


def test_summarize_of_nothing():
    stats = summarize([], [])
    assert stats.pop("n") == 0
    assert stats.pop("failures") == dict.fromkeys(FAILURES, 0)
    assert set(stats.values()) == {None}


@given(pairs)
def test_summarize_counts_add_up_and_survive_json(rows):
    stats = summarize(*unzip(rows))
    assert plain(stats)
    assert json.loads(json.dumps(stats, allow_nan=False)) == stats
    if rows:
        right = round(stats["exact_match"] * stats["n"])
        assert right + sum(stats["failures"].values()) == stats["n"] == len(rows)
        oracle = (right + stats["failures"]["ran_on"]) / len(rows)
        assert stats["oracle_length_exact_match"] == pytest.approx(oracle)


def test_rate_hand_worked():
    low, high = wilson_interval(3, 4)
    expected = {"n": 4, "exact_match": 0.75, "exact_match_low": low, "exact_match_high": high}
    assert rate([True, True, False, True]) == expected
    assert rate(np.array([1, 1, 0, 1])) == expected
    empty = {"n": 0, "exact_match": None, "exact_match_low": None, "exact_match_high": None}
    assert rate([]) == empty


def test_by_group_hand_worked():
    rows = by_group(np.array([32, 1, 2, 1]), [True, False, True, True], [0.5, 1.0, 0.0, 2.0])
    assert [row["group"] for row in rows] == [1, 2, 32]
    assert [row["n"] for row in rows] == [2, 1, 1]
    assert [row["exact_match"] for row in rows] == [0.5, 1.0, 1.0]
    assert [row["loss"] for row in rows] == [1.5, 0.0, 0.5]
    assert (rows[0]["exact_match_low"], rows[0]["exact_match_high"]) == wilson_interval(1, 2)
    assert plain(rows)


@given(st.lists(st.tuples(st.sampled_from(["a", "b", "c"]), st.booleans()), min_size=1))
def test_groups_part_the_examples_and_each_interval_holds_its_rate(rows):
    groups, correct = unzip(rows)
    table = by_group(groups, correct)
    assert [row["group"] for row in table] == sorted(set(groups))
    assert sum(row["n"] for row in table) == len(rows)
    whole = rate(correct)
    total = sum(row["exact_match"] * row["n"] for row in table)
    assert total == pytest.approx(whole["exact_match"] * len(rows))
    for row in [*table, whole]:
        low, high = row["exact_match_low"], row["exact_match_high"]
        assert 0 <= low <= row["exact_match"] <= high <= 1
    for row in table:
        assert row["exact_match"] == np.mean([c for g, c in rows if g == row["group"]])


answers = st.lists(st.booleans(), min_size=1, max_size=40)


@given(answers, answers)
def test_the_gap_holds_its_value_and_changes_sign_with_its_sides(train, unseen):
    gap, back = generalization_gap(train, unseen), generalization_gap(unseen, train)
    assert -1 <= gap["low"] <= gap["gap"] <= gap["high"] <= 1
    assert gap["gap"] == pytest.approx(np.mean(train) - np.mean(unseen))
    assert (back["gap"], back["low"], back["high"]) == pytest.approx(
        (-gap["gap"], -gap["high"], -gap["low"]), abs=1e-12
    )


def test_by_group_orders_numbers_then_texts_then_none():
    rows = by_group(["one_item", None, 10, 9, np.int64(10), "all_equal"], [True] * 6)
    assert [row["group"] for row in rows] == [9, 10, "all_equal", "one_item", None]
    assert [row["n"] for row in rows] == [1, 2, 1, 1, 1]
    assert {row["loss"] for row in rows} == {None}
    assert by_group([], []) == []


def test_generalization_gap_hand_worked():
    gap = generalization_gap([True] * 56 + [False] * 14, [True] * 48 + [False] * 32)
    low, high = newcombe_interval(56, 70, 48, 80)
    assert gap == {
        "train": 0.8,
        "unseen": 0.6,
        "gap": pytest.approx(0.2),
        "low": low,
        "high": high,
        "n_train": 70,
        "n_unseen": 80,
    }
    assert plain(gap)


def test_generalization_gap_without_one_side():
    gap = generalization_gap([True, False], [])
    assert gap.pop("train") == 0.5
    assert gap == {
        "unseen": None, "gap": None, "low": None, "high": None, "n_train": 2, "n_unseen": 0
    }  # fmt: skip


# ------------------------------------------------------------------------------------------------
# memorization
# ------------------------------------------------------------------------------------------------


def test_copied_answers_hand_worked():
    train_answers = ["46", "12", "12"]
    predictions = ["46", "12", "46", "99", ""]
    answers = ["46", "46", "12", "98", "1"]
    copied = copied_answers(predictions, answers, train_answers)
    assert copied.tolist() == [False, True, True, False, False]
    assert copied_answers(predictions, answers, []).tolist() == [False] * 5
    assert (copied_answers([], [], train_answers).dtype, copied_answers([], [], []).shape) == (
        bool,
        (0,),
    )


def test_nearest_training_example_hand_worked():
    train_texts = ["[add] 1 + 1 | 2", "[rev] 1 2 | 2 1", "[rev] 1 2 | 2 1", "[rev] 1 3 | 3 1"]
    texts = ["[rev] 1 2 | 2 1", "[rev] 1 4 | 4 1", "[add] 1 + 1 | 3"]
    distance, index = nearest_training_example(texts, train_texts)
    assert distance == pytest.approx([0, 2 / 15, 1 / 15])
    assert index.tolist() == [1, 1, 0]  # ties go to the lowest row
    assert (distance.dtype, index.dtype) == (np.float64, np.int64)


@given(st.lists(texts, max_size=8), st.lists(texts, min_size=1, max_size=12))
def test_nearest_training_example_equals_a_loop(queries, train_texts):
    distance, index = nearest_training_example(queries, train_texts)
    table = [[naive_edit_distance(q, t) for t in train_texts] for q in queries]
    assert distance.tolist() == [min(row) for row in table]
    assert index.tolist() == [row.index(min(row)) for row in table]


def test_nearest_training_example_crosses_blocks():
    rng = random.Random(0)
    train_texts = [f"{rng.randrange(10**6):06d}" for _ in range(9_000)]
    train_texts += [train_texts[0], "abcdef"]
    queries = [f"{rng.randrange(10**6):06d}" for _ in range(600)] + ["abcdeX", train_texts[0]]
    distance, index = nearest_training_example(queries, train_texts)
    assert (distance[-2], index[-2]) == (pytest.approx(1 / 6), len(train_texts) - 1)
    assert (distance[-1], index[-1]) == (0, 0)
    assert edit_distance(queries, [train_texts[i] for i in index]).tolist() == distance.tolist()
    for row in (0, 511, 512, 599):  # either side of the block of 512 texts
        to_all = edit_distance([queries[row]] * len(train_texts), train_texts)
        assert (distance[row], index[row]) == (to_all.min(), to_all.argmin())


def test_nearest_training_example_of_nothing():
    for train_texts in ([], ["1"]):
        distance, index = nearest_training_example([], train_texts)
        assert (distance.shape, index.shape) == ((0,), (0,))
    with pytest.raises(ValueError, match="no training text to compare 2 texts"):
        nearest_training_example(["1", "2"], [])


def test_ngram_overlap_hand_worked():
    # The 3-grams of "1 2 3" are "1 2", " 2 ", "2 3".
    overlap = ngram_overlap(["1 2 3", "1 2", "1 2 4", "999", "12", ""], ["1 2 3", "7"])
    np.testing.assert_array_equal(overlap, [1, 1, 2 / 3, 0, np.nan, np.nan])
    # Repeats count: "111" holds "11" twice, "112" holds it once of two.
    assert ngram_overlap(["111", "112"], ["11"], n=2).tolist() == [1, 1 / 2]
    assert ngram_overlap(["12"], [], n=1).tolist() == [0]


@given(st.lists(texts, max_size=8), st.lists(texts, max_size=8), st.integers(1, 4))
def test_ngram_overlap_range(predictions, train_answers, n):
    overlap = ngram_overlap(predictions, train_answers, n)
    assert np.isnan(overlap).tolist() == [len(p) < n for p in predictions]
    defined = overlap[~np.isnan(overlap)]
    assert ((defined >= 0) & (defined <= 1)).all()
    own = ngram_overlap(predictions, predictions, n)
    assert (own[~np.isnan(own)] == 1).all()


# ------------------------------------------------------------------------------------------------
# scores
# ------------------------------------------------------------------------------------------------


@given(
    st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=2, max_size=30).filter(
        lambda rows: len({correct for _, correct in rows}) == 2
    )
)
def test_auroc_equals_sklearn_with_ties(rows):
    scores, correct = unzip(rows)
    assert auroc(scores, correct) == pytest.approx(roc_auc_score(correct, scores), abs=1e-12)
    mirrored = auroc([-score for score in scores], correct)
    assert auroc(scores, correct) + mirrored == pytest.approx(1, abs=1e-12)


def test_auroc_hand_worked():
    # Of the 4 pairs right against wrong, 0.9 beats both, 0.4 ties with one and beats one.
    assert auroc([0.9, 0.4, 0.4, 0.1], [True, True, False, False]) == 3.5 / 4
    assert auroc([0.5, 0.5], [True, False]) == 0.5
    assert math.isnan(auroc([0.5, 0.6], [True, True]))
    assert math.isnan(auroc([], []))


def test_compare_scores_hand_worked():
    table = compare_scores([0.9, 0.4, 0.4, 0.1, np.nan], [True, True, False, False, True])
    assert table == {"right": 0.65, "wrong": 0.25, "n_right": 2, "n_wrong": 2, "auroc": 0.875}
    assert plain(table)
    one_side = {"right": 0.5, "wrong": None, "n_right": 1, "n_wrong": 0, "auroc": None}
    assert compare_scores([0.5, np.nan], [True, False]) == one_side
    nothing = {"right": None, "wrong": None, "n_right": 0, "n_wrong": 0, "auroc": None}
    assert compare_scores([], []) == nothing


# ------------------------------------------------------------------------------------------------
# wrong input
# ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "function",
    [
        exact_match,
        oracle_length_exact_match,
        token_accuracy,
        edit_distance,
        failure_kinds,
        summarize,
    ],
)
def test_texts_that_do_not_pair_are_refused(function):
    with pytest.raises(ValueError, match=r"'predictions': 3, 'answers': 2"):
        function(["1", "2", "3"], ["1", "2"])
    with pytest.raises(ValueError, match="single text '12'"):
        function("12", ["1", "2"])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: wilson_interval(6, 5), "6 of 5"),
        (lambda: wilson_interval(-1, 5), "-1 of 5"),
        (lambda: wilson_interval(0.98, 500), "0.98 of 500"),
        (lambda: wilson_interval(math.nan, 5), "nan of 5"),
        (lambda: wilson_interval(1, math.inf), "1 of inf"),
        (lambda: newcombe_interval(1, 2, 3, 2), "3 of 2"),
        (lambda: rate([True, 2]), "2"),
        (lambda: rate([0.5]), "0.5"),
        (lambda: rate([[True]]), r"\(1, 1\)"),
        (lambda: generalization_gap([True], [0.5]), "unseen_correct .*0.5"),
        (lambda: by_group([1, 2], [True]), "'groups': 2, 'correct': 1"),
        (lambda: by_group([1], [True], [1.0, 2.0]), "'groups': 1, 'loss': 2"),
        (lambda: by_group([1], [True], [math.nan]), "loss .*nan"),
        (lambda: copied_answers(["1"], ["1", "2"], []), "'predictions': 1, 'answers': 2"),
        (lambda: copied_answers(["1"], ["1"], "12"), "single text '12'"),
        (lambda: nearest_training_example("12", ["1"]), "single text '12'"),
        (lambda: ngram_overlap(["1"], ["1"], n=0), "got 0"),
        (lambda: auroc([1.0, math.nan], [True, False]), "nan"),
        (lambda: auroc([1.0], [True, False]), "'scores': 1, 'correct': 2"),
        (lambda: compare_scores([math.inf], [True]), "inf"),
        (lambda: compare_scores([1.0], [True, False]), "'scores': 1, 'correct': 2"),
    ],
)
def test_wrong_input_is_refused_with_its_values(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_the_examples_of_the_module_docstring_hold():
    result = doctest.testmod(metrics, optionflags=doctest.ELLIPSIS)
    assert (result.attempted, result.failed) == (5, 0)
