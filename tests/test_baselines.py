"""Lookup baselines against hand-worked cases and naive searches; the standard sets' own values."""

import itertools
import math
import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rapidfuzz.distance import Levenshtein

from data.baselines import (
    TrainingTexts,
    chance_exact_match,
    look_up,
    lookup_words,
    majority_answers,
    mean_lookup,
    nearest_answers,
    nearest_neighbours,
    ngram_log2_probs,
    some_rows,
    suffix_answers,
    training_texts,
)
from data.formats import Tokenizer, build_examples
from data.generate import SEED, add_only_sets, build_tokenizer, processed_sets
from data.tasks import TASKS, split_example

CHARACTERS = list(build_tokenizer(TASKS)["itos"].values())
texts = st.text(alphabet="12 ", max_size=5)
rows = st.lists(st.tuples(st.sampled_from("ab"), texts, texts), min_size=1, max_size=12)


def of_rows(rows):
    return TrainingTexts(*(list(column) for column in zip(*rows, strict=True)))


ADD = of_rows(
    [
        ("add", "1 + 2", "3"),
        ("add", "1 + 3", "4"),
        ("add", "11 + 3", "14"),
        ("add", "2 + 2", "4"),
        ("rev", "1 + 2", "2 + 1"),
    ]
)


def test_the_nearest_prompts_of_the_same_tag_vote():
    assert nearest_answers(["1 + 2", "1 + 2"], ["add", "rev"], ADD) == ["3", "2 + 1"]
    # One edit from "1 + 2" and "1 + 3" (and "2 + 2"): 4 has two votes of three.
    assert nearest_answers(["1 + 4", "2 + 3"], ["add", "add"], ADD) == ["3", "4"]
    assert nearest_answers(["1 + 2"], ["sort"], ADD) == [""]
    with pytest.raises(ValueError, match="1 queries, 2 tags"):
        nearest_answers(["1"], ["add", "add"], ADD)
    with pytest.raises(ValueError, match="differ in length"):
        TrainingTexts(["a"], [], [])


def test_majority_and_chance():
    assert majority_answers(["add", "rev", "sort", "add"], ADD) == ["4", "2 + 1", "", "4"]
    tied = of_rows([("add", "1", "9"), ("add", "2", "10")])
    assert majority_answers(["add"], tied) == ["10"]  # the first by code points
    assert chance_exact_match([10, 10, 100]) == pytest.approx(0.07)
    assert chance_exact_match([4, 10**400]) == 0.125  # an answer of 400 digits
    assert math.isnan(chance_exact_match([]))
    with pytest.raises(ValueError, match="1 or more"):
        chance_exact_match([3, 0])


def test_the_longest_suffix_goes_on():
    train = of_rows([("t", "ab", "1"), ("t", "cb", "22"), ("t", "xb", "22"), ("t", "q", "7")])
    # "ab | " was seen whole; of "zb | " only "b | ", which goes on with 2 more often than with 1.
    assert suffix_answers(["ab", "zb", "z"], ["t"] * 3, train) == ["1", "22", "22"]
    tied = of_rows([("t", "b", "2"), ("t", "ab", "1")])
    assert suffix_answers(["cb"], ["t"], tied) == ["1"]  # by code point
    # The start of the longest suffix decides anew at each character, but never leaves the lines.
    parted = of_rows([("t", "a", "12"), ("t", "a | 1", "3")])
    assert suffix_answers(["a", "b | 1"], ["t", "t"], parted) == ["1 | 3", "3"]
    with pytest.raises(ValueError, match="line break"):
        suffix_answers(["a\nb"], ["t"], train)


def naive_suffix_answer(prompt, rows):
    """Search every suffix in every line, the longest first."""
    lines = [f"{p} | {a}\n" for p, a in rows]
    answer = ""
    while True:
        context = f"{prompt} | {answer}"
        for start in range(len(context) + 1):
            suffix = context[start:]
            followers = Counter(
                line[place + len(suffix)]
                for line in lines
                for place in range(len(line) - len(suffix))
                if line.startswith(suffix, place)
            )
            if followers:
                break
        character = min(followers, key=lambda c: (-followers[c], c))
        if character == "\n":
            return answer
        answer += character
    return answer


@given(rows, st.lists(st.tuples(st.sampled_from("ab"), texts), max_size=6))
def test_lookups_agree_with_naive_searches(rows, queries):
    train = of_rows(rows)
    prompts, tags = [prompt for _, prompt in queries], [tag for tag, _ in queries]
    nearest, suffix = nearest_answers(prompts, tags, train), suffix_answers(prompts, tags, train)
    for (tag, prompt), near, text in zip(queries, nearest, suffix, strict=True):
        own = [(p, a) for t, p, a in rows if t == tag]
        if not own:
            assert near == text == ""
            continue
        distances = [Levenshtein.distance(prompt, p) for p, _ in own]
        votes = [a for d, (_, a) in zip(distances, own, strict=True) if d == min(distances)]
        assert near == max(votes, key=votes.count)  # the first of those with most votes
        assert text == naive_suffix_answer(prompt, own)


def test_the_nearest_prompt_is_found_across_blocks():
    """More training rows than one block of queries can hold at once."""
    numbers = random.Random(0).sample(range(10**6), 3000)
    train = of_rows([("t", str(n), f"a{n}") for n in numbers])
    queries = [str(n) for n in numbers]
    assert nearest_answers(queries, ["t"] * 3000, train) == [f"a{n}" for n in numbers]


@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_the_ngram_of_answers_is_a_distribution(order):
    """All answers over the alphabet: those up to 7 characters hold nearly all, none too much."""
    train = of_rows([("t", "", "12"), ("t", "", "1"), ("t", "", "2"), ("u", "", "2222222222")])
    answers = ["".join(s) for n in range(8) for s in itertools.product("123", repeat=n)]
    p = np.exp2(ngram_log2_probs(answers, ["t"] * len(answers), train, 3, order=order))
    by_length = [p[[len(a) == n for a in answers]].sum() for n in range(8)]
    assert (p > 0).all()
    assert 0.97 < p.sum() < 1
    # What is left falls by a constant rate: with all lengths the sum is 1.
    assert p.sum() + by_length[7] ** 2 / (by_length[6] - by_length[7]) == pytest.approx(1, abs=2e-3)


def test_the_ngram_by_hand():
    """Answers 1, 1, 2 and 3 characters: Witten and Bell's weights at each step."""
    train = of_rows([("t", "", "1"), ("t", "", "1"), ("t", "", "2")])
    (unigram,) = ngram_log2_probs(["1"], ["t"], train, 3, order=1)
    one, end = (2 + 3 / 4) / 9, (3 + 3 / 4) / 9  # 6 characters of 3 kinds: 1, 1, 2, end, end, end
    assert unigram == pytest.approx(math.log2(one * end))
    (bigram,) = ngram_log2_probs(["1"], ["t"], train, 3, order=2)
    assert bigram == pytest.approx(math.log2(one * (2 + end) / 3))
    (other,) = ngram_log2_probs(["13"], ["other"], train, 3)
    assert other == pytest.approx(-3 * 2)  # even over 3 characters and the end
    with pytest.raises(ValueError, match="n_characters >= 2"):
        ngram_log2_probs(["1"], ["t"], train, 1)
    with pytest.raises(ValueError, match="lengths differ"):
        ngram_log2_probs(["1"], [], train, 3)


# ------------------------------------------------------------------------------------------------
# nearest neighbours
# ------------------------------------------------------------------------------------------------


def test_a_neighbour_is_another_row_of_the_same_tag():
    train = of_rows([("a", "12", "x"), ("b", "13", "x"), ("a", "19", "x"), ("a", "777", "x")])
    prompts, tags, own_rows = (
        ["12", "19", "13", "12", "5"],
        ["a", "a", "b", "a", "c"],
        [0, 2, 1, -1, -1],
    )
    nearest, distance = nearest_neighbours(prompts, tags, train, own_rows)
    assert nearest.tolist() == [2, 0, -1, 0, -1]  # the only row of b, and no row of c
    assert distance.tolist() == [1, 1, -1, 0, -1]


@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.text("123", max_size=4)), min_size=1, max_size=12)
)
def test_neighbours_equal_a_search_by_hand(rows):
    train = of_rows([(tag, prompt, "x") for tag, prompt in rows])
    nearest, distance = nearest_neighbours(train.prompts, train.tags, train, range(len(rows)))
    for i, (tag, prompt) in enumerate(rows):
        others = [j for j in range(len(rows)) if j != i and rows[j][0] == tag]
        if not others:
            assert (nearest[i], distance[i]) == (-1, -1)
            continue
        best = min(others, key=lambda j: (Levenshtein.distance(prompt, rows[j][1]), j))
        assert (nearest[i], distance[i]) == (best, Levenshtein.distance(prompt, rows[best][1]))


# ------------------------------------------------------------------------------------------------
# the standard sets
# ------------------------------------------------------------------------------------------------


def exact_match_by_tag(train_rows, val_rows, lookup):
    train = of_rows([split_example(raw) for raw in train_rows])
    tags, prompts, answers = zip(*map(split_example, val_rows), strict=True)
    found = lookup(prompts, tags, train)
    right = Counter(tag for tag, a, b in zip(tags, found, answers, strict=True) if a == b)
    return {tag: 100 * right[tag] / tags.count(tag) for tag in sorted(set(tags))}


def test_an_empty_answer_of_an_untrained_tag_is_no_hit():
    tokenizer = Tokenizer(CHARACTERS)
    train = build_examples(["[add] 1 + 1 | 2", "[rel] 1 | "], tokenizer, "train")
    val = build_examples(["[sort] 1 | ", "[copy] 2 | ", "[rel] 3 | "], tokenizer, "val")
    found = look_up(val, np.arange(3), training_texts(train))
    assert found.right["nearest"].tolist() == [False, False, True]  # rel's answers are empty
    assert found.rates(np.arange(2))["nearest"] == 0


def test_what_pure_lookup_scores_on_the_standard_sets():
    """Percent of 500 unseen examples a task: the baselines beside every rate of the README."""
    sets, sums = processed_sets(SEED), add_only_sets(SEED)
    nearest = exact_match_by_tag(sets["train_dedup"], sets["val"], nearest_answers)
    assert nearest == {"add": 0.4, "copy": 0, "rel": 7.8, "rev": 0, "sort": 0}
    suffix = exact_match_by_tag(sets["train_dedup"], sets["val"], suffix_answers)
    assert suffix == {"add": 0, "copy": 0, "rel": 7.4, "rev": 0, "sort": 0}
    tokenizer = Tokenizer(CHARACTERS)
    train, val = (build_examples(sets[name], tokenizer, name) for name in ("train_dedup", "val"))
    found = look_up(val, np.arange(len(val)), training_texts(train))
    of_rel = found.rates(np.flatnonzero(val.tags.isin(["rel"])))
    assert of_rel == {
        "n": 500,
        "n_train": 50_000,
        "nearest": 0.078,
        "suffix": 0.074,
        "majority": 0.03,
    }
    assert found.rates(np.arange(2500))["nearest"] == (39 + 2) / 2500
    for lookup in (nearest_answers, suffix_answers):
        assert exact_match_by_tag(sums["train"], sums["val"], lookup) == {"add": 0}


def test_what_is_looked_up_is_a_fixed_part_of_many_rows_and_long_ones():
    raws = [f"[copy] {i:06d} | {i:06d}" for i in range(3000)]
    examples = build_examples(raws, Tokenizer(CHARACTERS), "x")
    rows = np.arange(0, 3000, 2)
    some = some_rows(examples, rows, 100, 10**6)
    assert len(some) == 100
    assert (np.diff(some) > 0).all()
    assert (some % 2 == 0).all()
    assert (some == some_rows(examples, rows, 100, 10**6)).all()
    length = int(examples.lengths[0])
    assert len(some_rows(examples, rows, 100, 10 * length)) == 10
    assert len(some_rows(examples, rows, 100, 1)) == 1
    assert (some_rows(examples, rows, 1500, 1500 * length) == rows).all()
    # 2,500 queries at most; what is not asked does not count as wrong.
    found = look_up(examples, np.arange(3000), training_texts(examples))
    rates = found.rates(np.arange(3000))
    majority = float(np.mean(found.rows == 0))  # all answers occur once: the first by code points
    asked = {"n": 2500, "n_train": 3000}
    assert rates == {**asked, "nearest": 1, "suffix": 1, "majority": majority}
    assert found.rates(np.setdiff1d(np.arange(3000), found.rows)) is None


def test_the_lookup_of_seeds_is_averaged_and_the_best_baseline_named():
    rates = [
        {"n": 4, "n_train": 9, "nearest": near, "suffix": 0.5, "majority": 0.25}
        for near in (1, 0.5)
    ]
    mean = mean_lookup([rates[0], None, rates[1]])
    assert mean == {"n": 4, "n_train": 9, "nearest": 0.75, "suffix": 0.5, "majority": 0.25}
    assert mean_lookup([None, None]) is None
    assert lookup_words(mean) == "75.0% nearest"
    assert lookup_words({**mean, "nearest": 0.0}) == "50.0% suffix"
    assert lookup_words(dict.fromkeys(("nearest", "suffix", "majority"), 0.0)) == "0.0%"
    assert lookup_words(None) == "-"
