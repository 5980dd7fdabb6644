"""Batches: every token once, in order, with little padding, and the targets they carry."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import train_minigpt_4070 as t
from reference import TOKENIZER
from trainer.helpers import CPU, batch_of, build, draw_rows


def test_long_rows_are_never_cut():
    digits = "1 " * 300 + "7"
    examples = build([f"[copy] {digits} | {digits}"])
    batch = batch_of(examples, [0])
    n = len("[copy]  | ") + 2 * len(digits)
    assert batch.groups == [(1, n)]
    assert TOKENIZER.decode(batch.ids[0, :n]) == examples.raw(0)


def slots_of(batch, examples, rows, r):
    """(row, its length in this batch's slot, first position of the slot) for each slot."""
    rows, at = np.atleast_2d(rows), 0
    widths = [T for b, T in batch.groups for _ in range(b)]
    for s, width in enumerate(widths):
        yield rows[r, batch.order[r, s]], width, at
        at += width
    assert_only_filler(batch, at)


def assert_only_filler(batch, n):
    """Nothing but padding after position `n`: as little as makes a multiple of ROUND."""
    assert 0 <= batch.ids.shape[1] - n < t.ROUND
    assert batch.ids.shape[1] % t.ROUND == 0
    assert (batch.ids[:, n:] == 0).all()
    assert (batch.answer_at[batch.targets != t.IGNORED] < n).all()


def test_slots_hold_the_examples_and_little_more():
    examples = build(draw_rows(40, seed=3))
    rows = np.random.default_rng(0).permutation(40)[:17]
    batch = batch_of(examples, rows)
    assert batch.targets.shape[1] == -(-int(batch.n_targets) // t.ROUND) * t.ROUND
    padding = 0
    for row, width, at in slots_of(batch, examples, rows, 0):
        n = examples.lengths[row]
        assert TOKENIZER.decode(batch.ids[0, at : at + n]) == examples.raw(row)
        assert batch.pos[at : at + width].tolist() == list(range(width))
        padding += width - n
    assert 0 < padding <= t.GROUP_PADDING * len(batch.groups)
    assert len(batch.groups) < len(set(examples.lengths[rows].tolist()))


@given(st.lists(st.integers(1, 90), min_size=1, max_size=60), st.integers(0, 50))
def test_merged_lengths_cover_and_stay_within_their_padding(lengths, padding):
    lengths = np.array(sorted(lengths, reverse=True))
    merged = t.merge_lengths(lengths, padding)
    assert (merged >= lengths).all()
    assert (np.diff(merged) <= 0).all()
    for value in np.unique(merged):
        group = lengths[merged == value]
        assert group[0] == value
        assert (value - group).sum() <= padding
    if padding == 0:
        assert merged.tolist() == lengths.tolist()


@pytest.mark.parametrize("R", [1, 3])
def test_targets_are_the_answer_and_eos(R):
    examples = build(draw_rows(60, seed=4))
    rows = np.random.default_rng(1).permutation(60).reshape(3, 20)[:R]
    batch = batch_of(examples, rows)
    n_answer = (examples.lengths - examples.answer_start)[rows] + 1
    assert batch.n_targets.tolist() == n_answer.sum(1).tolist()
    for r in range(R):
        assert sorted(batch.order[r].tolist()) == list(range(20))
        for s, (row, width, at) in enumerate(slots_of(batch, examples, rows, r)):
            n = examples.lengths[row]
            assert n <= width
            assert TOKENIZER.decode(batch.ids[r, at : at + n]) == examples.raw(row)
            mine = (batch.slot[r] == s) & (batch.targets[r] != t.IGNORED)
            targets, places = batch.targets[r][mine], batch.answer_at[r][mine]
            assert targets.tolist() == [*TOKENIZER.encode(examples.answer(row)), TOKENIZER.eos]
            start = at + examples.answer_start[row] - 1
            assert places.tolist() == list(range(start, at + n))


def test_each_replica_keeps_its_own_order():
    examples = build(draw_rows(12, seed=5))
    rows = np.stack([np.arange(6), np.arange(6, 12), np.arange(11, 5, -1)])
    together = batch_of(examples, rows)
    for r in range(3):
        alone = batch_of(examples, rows[r])
        assert together.order[r].tolist() == alone.order[0].tolist()
        real = together.targets[r] != t.IGNORED
        alone_real = alone.targets[0] != t.IGNORED
        assert together.targets[r][real].tolist() == alone.targets[0][alone_real].tolist()
        assert together.slot[r][real].tolist() == alone.slot[0][alone_real].tolist()


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.text("0123 |", max_size=9), st.text("0123 ", max_size=9)), min_size=1),
    st.integers(1, 3),
    st.integers(1, 12),
    st.randoms(use_true_random=False),
    st.booleans(),
)
def test_every_batch_holds_each_real_token_once_and_in_order(parts, R, B, rng, prompts_only):
    examples = build([f"[copy] {prompt} | {answer}" for prompt, answer in parts])
    rows = np.array([[rng.randrange(len(parts)) for _ in range(B)] for _ in range(R)])
    batch = t.make_batch(t.Resident(examples, CPU), rows, prompts_only)
    for r in range(R):
        assert sorted(batch.order[r].tolist()) == list(range(B))
        start = 0
        slots = [T for b, T in batch.groups for _ in range(b)]
        for k, T in enumerate(slots):
            i = rows[r, batch.order[r, k]]
            n = int(examples.answer_start[i] if prompts_only else examples.lengths[i])
            ids = TOKENIZER.encode(examples.raw(i)[:n]).tolist()
            assert batch.ids[r, start : start + T].tolist() == ids + [0] * (T - n)
            assert batch.pos[start : start + T].tolist() == list(range(T))
            mine = (batch.slot[r] == k) & (batch.targets[r] != t.IGNORED)
            wanted = [*TOKENIZER.encode(examples.raw(i)).tolist(), TOKENIZER.eos]
            first = int(examples.answer_start[i])
            wanted = wanted[first : first + 1] if prompts_only else wanted[first:]
            assert batch.targets[r][mine].tolist() == wanted
            at = (batch.answer_at[r][mine] - start).tolist()
            assert at == list(range(first - 1, first - 1 + len(wanted)))
            start += T
    assert_only_filler(batch, start)
    assert not prompts_only or batch.targets.shape[1] == B


def test_prompts_only_leaves_the_answers_out():
    examples = build(draw_rows(10, seed=6))
    batch = t.make_batch(t.Resident(examples, CPU), np.arange(10)[None], prompts_only=True)
    for s, (row, _, at) in enumerate(slots_of(batch, examples, np.arange(10), 0)):
        n = examples.answer_start[row]
        assert TOKENIZER.decode(batch.ids[0, at : at + n]) == examples.prompt(row)
        assert batch.answer_at[0, s] == at + n - 1
