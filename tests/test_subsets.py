"""data/subsets.py: random parts of a training set, one a seed, whole examples, fixed in size."""

import doctest
import itertools
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data import subsets as module
from data.formats import build_examples
from data.subsets import Subsets
from data.tasks import draw_example, standard_tasks
from metrics import auroc, memory_null
from reference import TOKENIZER


def build(raws):
    return build_examples(raws, TOKENIZER, "rows")


def repeated(n, seed=0, tasks=("add", "sort")):
    """n examples of `tasks`, in turn repeated 1, 2, 4 and 8 times, shuffled."""
    rng = random.Random(seed)
    raws = list(dict.fromkeys(draw_example(rng, tasks[i % len(tasks)]) for i in range(n)))
    rows = [raw for i, raw in enumerate(raws) for _ in range(2 ** (i // 2 % 4))]
    rng.shuffle(rows)
    return build(rows)


@settings(max_examples=40)
@given(st.integers(1, 60), st.floats(0.01, 1), st.integers(0, 2**32 - 1))
def test_size_is_fixed_and_copies_stay_together(n, share, seed):
    train = repeated(n)
    subsets = Subsets(train, share)
    member = subsets.members(seed)
    assert member.sum() == subsets.n_drawn == max(1, round(share * len(subsets.keys)))
    rows = subsets.rows(seed)
    inside, outside = train.keys[rows], np.delete(train.keys, rows)
    assert not set(inside) & set(outside)
    assert set(inside) == set(subsets.keys[member])
    assert subsets.epoch_rows(train.tasks.names) <= len(rows)


def test_each_stratum_is_represented_to_within_one_example():
    train = repeated(400)
    subsets = Subsets(train, 0.5)
    tasks = train.tasks.codes[subsets.first_rows]
    for seed in range(20):
        member = subsets.members(seed)
        for task in np.unique(tasks):
            for count in np.unique(subsets.repeat_counts):
                stratum = (tasks == task) & (subsets.repeat_counts == count)
                assert abs(member[stratum].sum() - stratum.sum() / 2) < 1


def test_the_same_data_share_and_seed_give_the_same_part_whatever_the_order_of_rows():
    rng = random.Random(1)
    rows = [draw_example(rng, "add") for _ in range(300)]
    a, b = Subsets(build(rows), 0.3), Subsets(build(rows[::-1]), 0.3)
    assert np.array_equal(a.members(7), b.members(7))
    assert not np.array_equal(a.members(7), a.members(8))


def test_every_example_is_drawn_with_the_same_probability():
    subsets = Subsets(repeated(40), 0.35)
    drawn = np.mean([subsets.members(seed) for seed in range(4000)], axis=0)
    share = subsets.n_drawn / len(subsets.keys)
    error = (share * (1 - share) / 4000) ** 0.5
    assert np.abs(drawn - share).max() < 4.5 * error


def test_seeds_draw_independently_so_the_others_do_not_tell_who_is_a_member():
    """With each example in exactly half of 8 replicas the AUC would be 0.445 or less."""
    subsets = Subsets(repeated(600), 0.5)
    members = np.stack([subsets.members(seed) for seed in range(64)])
    aucs = []
    for start in range(0, 64, 8):
        panel = members[start : start + 8]
        others = panel.sum(0) - panel
        aucs += [auroc(count, own) for count, own in zip(others, panel, strict=True)]
    assert np.mean(aucs) == pytest.approx(0.5, abs=4 * np.std(aucs) / 8)
    assert np.mean(aucs) > 0.475


def test_examples_of_rare_repeat_counts_are_drawn_independently_too():
    """A stratum of one key follows the others: one draw would decide them all."""
    raws = list(dict.fromkeys(draw_example(random.Random(3 * i), "add") for i in range(30)))
    train = build([raw for i, raw in enumerate(raws) for _ in range(400 // (i + 1))])
    subsets = Subsets(train, 0.5)
    assert len(np.unique(subsets.repeat_counts)) > 15
    members = np.stack([subsets.members(seed) for seed in range(400)])
    assert abs(members.mean(axis=0) - 0.5).max() < 4.5 * (0.25 / 400) ** 0.5
    apart = np.corrcoef(members.T)[np.triu_indices(members.shape[1], 1)]
    assert apart.min() > -1 / 3 - 4 / 20  # two of four are drawn
    assert np.abs(apart).mean() < 0.1
    counts = [np.isin(subsets.example_of_row, np.flatnonzero(own)).sum() for own in members[:50]]
    assert subsets.epoch_rows(["add"]) <= min(counts)
    # Permuting membership within the strata cuts the tie to every example, but for what seeds that
    # drew 3 of 5 know more than those that drew 2: 1/25 of it.
    knows = np.where(members[:32], 6.0, 0.0)
    null = memory_null(knows, members[:32], n_permutations=200, strata=subsets.strata)[-1]
    assert 0 <= null["mean"] < 6 / 25
    assert null["maximum_high"] < 6


def test_tasks_of_a_single_example_are_drawn_together_and_not_alike():
    tags = ["".join(pair) for pair in itertools.product("copyrst", "ade")]
    rows = [f"[{tag}] 1 | 2" for tag in tags] + [f"[add] {n} + 1 | {n + 1}" for n in range(40)]
    train = build(rows)
    subsets = Subsets(train, 0.5)
    members = np.stack([subsets.members(seed) for seed in range(400)])
    single = np.isin(train.tags[subsets.first_rows], tags)
    assert len(np.unique(subsets.strata[single])) == 1
    apart = np.corrcoef(members[:, single].T)[np.triu_indices(len(tags), 1)]
    assert np.abs(apart).max() < 0.3
    null = memory_null(np.where(members[:32], 6.0, 0.0), members[:32], strata=subsets.strata)[-1]
    assert null["mean"] < 6 / 100
    for wanted in (tags[:5], tags, ["add"], [*tags[:3], "add"]):  # rows of a part of a stratum
        of_task = train.tasks.isin(wanted)
        least = min(of_task[subsets.rows(seed)].sum() for seed in range(400))
        assert subsets.epoch_rows(wanted) <= least
    assert subsets.epoch_rows(["add"]) == 40 * subsets.n_drawn // subsets.n_prompts


def test_an_epoch_has_the_same_rows_for_every_seed_and_leaves_few_out():
    train = repeated(2000, tasks=standard_tasks())
    subsets = Subsets(train, 0.5)
    for tasks in (["copy"], ["copy", "rel"], standard_tasks()):
        wanted = train.tasks.isin(tasks)
        sizes = [int(wanted[subsets.rows(seed)].sum()) for seed in range(10)]
        assert subsets.epoch_rows(tasks) <= min(sizes)
        assert max(sizes) - subsets.epoch_rows(tasks) <= 15 * len(tasks)


def test_examples_that_contradict_each_other_go_together():
    rows = [f"[add] {a} + 7 | {a + wrong}" for a in range(30) for wrong in (7, 8)]
    subsets = Subsets(build(rows), 0.5)
    assert len(subsets.keys) == 60
    for seed in range(5):
        inside = {rows[i].partition(" | ")[0] for i in subsets.rows(seed)}
        assert len(subsets.rows(seed)) == 30 == 2 * len(inside)


def test_the_whole_set_is_every_row():
    train = repeated(100)
    subsets = Subsets(train, 1.0)
    assert subsets.rows(3).tolist() == list(range(len(train)))
    assert subsets.epoch_rows(train.tasks.names) == len(train)


@pytest.mark.parametrize("share", [0, -0.5, 1.01, float("nan")])
def test_a_share_that_is_none_is_refused(share):
    with pytest.raises(ValueError, match="share must be"):
        Subsets(repeated(10), share)


def test_doctests():
    assert doctest.testmod(module) == (0, 1)
