"""Samples of the training set, by hand-worked cases."""

import random
from collections import Counter

import numpy as np
import pytest

from data.audit import key_texts, matched_sample, sample_by_count, validated_by_count
from data.formats import Tokenizer, build_examples
from data.generate import build_tokenizer
from data.tasks import TASKS

TOKENIZER = Tokenizer(build_tokenizer(TASKS)["itos"].values())


def build(rows):
    return build_examples(rows, TOKENIZER, "test")


def draw_rows(n, seed):
    """n rows of 2 to 5 items, copied and reversed in turn."""
    rng, rows = random.Random(seed), []
    for i in range(n):
        items = [str(rng.randrange(40)) for _ in range(rng.randrange(2, 6))]
        tag, answer = ("copy", items) if i % 2 else ("rev", items[::-1])
        rows.append(f"[{tag}] {' '.join(items)} | {' '.join(answer)}")
    return rows


def test_matched_sample_has_the_tags_and_lengths_asked_for():
    train = build(draw_rows(600, seed=1) + draw_rows(100, seed=1))
    val = build(draw_rows(60, seed=2))
    rows = np.arange(0, 60, 3)
    sample = matched_sample(train, val, rows)
    assert len(sample) == len(rows)
    assert len(np.unique(train.keys[sample])) == len(rows)

    def profile(examples, chosen):
        return sorted((examples.tags[i], int(examples.lengths[i])) for i in chosen)

    assert profile(train, sample) == profile(val, rows)
    assert sample.tolist() == matched_sample(train, val, rows).tolist()
    assert sample.tolist() != matched_sample(train, val, rows, seed=1).tolist()  # drawn at random


def test_matched_sample_takes_the_next_longer_row_where_none_is_left():
    train = build(
        ["[copy] 123 | 9", "[copy] 124 | 9", "[copy] 1234 | 9", "[copy] " + 30 * "1" + " | 9"]
    )
    val = build(["[copy] 777 | 9", "[copy] 8888 | 9", "[copy] 9999 | 9"])
    sample = matched_sample(train, val, np.array([1, 2]))
    assert sorted(train.lengths[sample].tolist()) == [15, 41]
    sample = matched_sample(train, val, np.array([0, 1, 2]))
    assert sorted(train.lengths[sample].tolist()) == [14, 15, 41]
    shorter = build(["[copy] 123 | 9", "[copy] 124 | 9", "[copy] 1234 | 9"])
    sample = matched_sample(shorter, val, np.array([1, 2]))
    assert sorted(shorter.lengths[sample].tolist()) == [14, 15]


def test_matched_sample_is_smaller_where_training_lacks_rows():
    train = build(["[copy] 1 | 1", "[copy] 1 | 1", "[rev] 1 2 | 2 1"])
    val = build(["[copy] 2 | 2", "[copy] 3 | 3", "[rev] 3 4 | 4 3", "[add] 1 + 1 | 2"])
    sample = matched_sample(train, val, np.arange(4))
    assert sorted(train.raw(i) for i in sample) == ["[copy] 1 | 1", "[rev] 1 2 | 2 1"]


def test_sample_by_count_takes_as_many_of_each_task():
    # Seen once: 5 copies, 3 reversals; five times, so with the fours: 2 and 1.
    rows = [f"[copy] {i} | {i}" for i in range(5)] + [f"[rev] {i} | {i}" for i in range(3)]
    rows += 5 * ["[copy] 10 | 10", "[copy] 11 | 11", "[rev] 12 | 12"]
    train = build(rows)

    def drawn(at_most):
        chosen, counts, grouped = sample_by_count(train, at_most)
        assert grouped
        assert len(set(chosen.tolist())) == len(chosen) == len(counts)
        return [(count, train.tasks[row]) for row, count in zip(chosen, counts, strict=True)]

    assert sorted(drawn(100)) == 3 * [(1, "copy")] + 3 * [(1, "rev")] + [(4, "copy"), (4, "rev")]
    assert sorted(drawn(8)) == 2 * [(1, "copy")] + 2 * [(1, "rev")] + [(4, "copy"), (4, "rev")]


def test_sample_by_count_leaves_out_a_count_that_a_task_lacks():
    rows = ["[copy] 1 | 1", "[rev] 1 | 1", *2 * ["[copy] 2 | 2"]]
    chosen, counts, grouped = sample_by_count(build(rows), 100)
    assert sorted(chosen.tolist()) == [0, 1]
    assert counts == [1, 1]
    assert not grouped


def test_a_stray_row_does_not_decide_which_counts_are_compared():
    rows = [f"[copy] {i} | {i}" for i in range(100)] + [f"[copy] {i} | {i}" for i in range(20)]
    _, counts, _ = sample_by_count(build([*rows, "[note] 1 | 2"]), 1000)
    assert Counter(counts) == {1: 80, 2: 20}
    _, counts, _ = sample_by_count(build([*rows, "[note] 1 | 2", "[note] 3 | 4"]), 1000)
    assert Counter(counts) == {1: 4}  # 2 of 102 examples are a task


def test_validation_takes_sixty_examples_of_each_repeat_count():
    rows = [f"[{tag}] {i} | {i}" for tag in ("copy", "rev") for i in range(200)]
    often = [f"[{tag}] {i} | {i}" for tag in ("copy", "rev") for i in range(200, 240)]
    train = build(rows + 2 * often + 3 * often[:20] + 3 * often[40:60])  # twice, or five times
    chosen, counts = validated_by_count(train)
    cells = Counter(zip(counts.tolist(), train.tasks[chosen].tolist(), strict=True))
    assert cells == {
        **{(1, task): 30 for task in ("copy", "rev")},
        **{(count, task): 20 for count in (2, 4) for task in ("copy", "rev")},
    }
    first, repeats = train.distinct()
    of_row = dict(zip(first.tolist(), repeats.tolist(), strict=True))
    assert {(count, of_row[row]) for row, count in zip(chosen.tolist(), counts, strict=True)} == {
        (1, 1),
        (2, 2),
        (4, 5),
    }


@pytest.mark.parametrize(
    ("rows", "n"),
    [
        ([f"[copy] {i} | {i}" for i in range(100)] + ["[copy] 0 | 0"], 0),  # 1 % stands twice
        ([f"[copy] {i} | {i}" for i in range(99)] + ["[copy] 0 | 0"], 61),
        (
            ["[copy] 1 | 1", *2 * ["[copy] 2 | 2"], "[rev] 1 | 1"],
            0,
        ),  # nothing of [rev] stands twice
    ],
)
def test_validation_scores_repeat_counts_only_where_examples_repeat(rows, n):
    chosen, counts = validated_by_count(build(rows))
    assert len(chosen) == len(counts) == n


def test_two_data_sets_that_share_examples_sample_the_same_ones():
    """What stands twice in one set and once in the other can be paired by the text of its key."""
    rows = [f"[copy] {i} | {i}" for i in range(40)]
    once, twice = build(rows), build(rows[:30] + rows[10:30] + rows[10:20])  # to three times
    of_once, _, _ = sample_by_count(once, 20)
    of_twice, counts, _ = sample_by_count(twice, 40)
    repeated = of_twice[np.array(counts) == 2]
    assert len(repeated) == len(of_once) == 20
    names = key_texts(once, np.arange(40))
    assert len(set(names)) == 40
    by_name = dict(zip(names, rows, strict=True))
    assert [by_name[name] for name in key_texts(twice, of_twice)] == [
        twice.raw(i) for i in of_twice
    ]
    every, _, _ = sample_by_count(once, 40)
    assert set(key_texts(twice, repeated)) <= set(key_texts(once, every))
    # Half of the examples: those of the lowest keys, in whichever set they stand.
    order = sorted(once.keys.tolist())
    assert sorted(once.keys[of_once].tolist()) == order[:20]


def test_a_matched_sample_of_rows_gives_examples_the_weight_of_their_copies():
    train = build(90 * ["[copy] 1 | 1"] + [f"[copy] {i % 8 + 2} | {i % 8 + 2}" for i in range(8)])
    val = build([f"[rev] {i} | {i}" for i in range(10)] + [f"[copy] {i} | {i}" for i in range(10)])
    rows = np.arange(10, 19)
    examples = matched_sample(train, val, rows)
    of_rows = matched_sample(train, val, rows, of_rows=True)
    assert len(set(of_rows.tolist())) == len(rows) == len(examples)  # no row twice
    copies = [
        (train.keys[matched_sample(train, val, rows, seed, True)] == train.keys[0]).mean()
        for seed in range(200)
    ]
    assert np.mean(copies) == pytest.approx(90 / 98, abs=0.02)
    assert (train.keys[examples] == train.keys[0]).sum() == 1
