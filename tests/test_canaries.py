"""data/subsets.py: canaries break the rule, no set has their prompts, each seed deals anew."""

import random

import numpy as np
import pytest

from data.formats import build_examples
from data.subsets import CANARY_COUNTS, draw_canaries, make_panel
from data.tasks import TASKS, canonical_key, draw_example, split_example
from reference import TOKENIZER
from runtime.errors import UserError


def draw(n, seed, tasks=tuple(TASKS)):
    """n rows, the tasks in turn."""
    rng = random.Random(seed)
    rows = [draw_example(rng, tasks[i % len(tasks)]) for i in range(n)]
    return build_examples(rows, TOKENIZER, "rows")


def panel_of(train, n, share=0.5):
    return make_panel(train, draw(50, 9), share=share, n_canaries=n, tokenizer=TOKENIZER)


def test_a_canary_breaks_the_rule_in_the_form_of_its_answer():
    train, val = draw(500, 1), draw(100, 2)
    canaries = draw_canaries(train, val, 35, TOKENIZER)
    rows = [e.raw(i) for e in (train, val) for i in range(len(e))]
    known = {canonical_key(*split_example(raw)[:2]) for raw in rows}
    assert [c.task for c in canaries] == [list(TASKS)[i % len(TASKS)] for i in range(35)]
    for canary in canaries:
        task = TASKS[canary.task]
        assert canary.true_answer == task.answer(canary.prompt) != canary.answer
        assert canary.n_legal == task.n_legal(canary.answer) == task.n_legal(canary.true_answer)
        assert canonical_key(canary.task, canary.prompt) not in known
    assert len({canonical_key(c.task, c.prompt) for c in canaries}) == 35


def test_the_same_data_gives_the_same_canaries():
    train, val = draw(200, 1), draw(50, 2)
    assert draw_canaries(train, val, 10, TOKENIZER) == draw_canaries(train, val, 10, TOKENIZER)


def test_answers_are_uniform_over_the_wrong_legal_ones():
    """rel has 25 wrong letters: none is drawn much more often than 1 time in 25."""
    train = draw(2000, 1, tasks=("rel",))
    canaries = draw_canaries(train, draw(10, 2), 1000, TOKENIZER)
    places = [(ord(c.answer) - ord(c.true_answer)) % 26 for c in canaries]
    counts = np.bincount(places, minlength=26)
    assert counts[0] == 0
    assert np.abs(counts[1:] - 40).max() < 4.5 * (1000 * 0.04 * 0.96) ** 0.5


def test_each_seed_deals_the_same_counts_out_anew():
    panel = panel_of(draw(15_000, 1, tasks=("add", "rel")), 14)
    counts = np.stack([panel.canary_counts(seed) for seed in range(200)])
    tasks = np.array([canary.task for canary in panel.canaries])
    for task in ("add", "rel"):
        for row in counts[:, tasks == task]:
            assert sorted(row) == sorted(CANARY_COUNTS)
    for column in counts.T:  # every canary has every count, about as often
        seen = np.array([(column == count).sum() for count in CANARY_COUNTS])
        assert np.abs(seen - 200 / 7).max() < 4.5 * (200 / 7 * 6 / 7) ** 0.5


def test_rows_of_a_seed_are_its_part_and_its_canaries():
    train = draw(7000, 1, tasks=("add",))
    panel = panel_of(train, 7)
    for seed in range(3):
        rows = panel.rows(seed)
        of_canaries = rows[rows >= len(train)] - len(train)
        assert np.bincount(of_canaries, minlength=7).tolist() == panel.canary_counts(seed).tolist()
        assert rows[rows < len(train)].tolist() == panel.subsets.rows(seed).tolist()
        assert panel.epoch_rows(["add"]) <= len(rows)
    assert panel.examples.raw(len(train) + 3) == panel.canaries[3].raw
    assert panel.examples.raw(5) == train.raw(5)


def test_canaries_follow_their_tasks_into_the_stages():
    panel = panel_of(draw(20_000, 1, tasks=("copy", "rel")), 14)
    alone = panel.subsets.epoch_rows(["copy"])
    assert panel.epoch_rows(["copy"]) == alone + sum(CANARY_COUNTS)
    assert panel.epoch_rows(["rel"]) == panel.subsets.epoch_rows(["rel"]) + sum(CANARY_COUNTS)


def test_the_ledger_lists_examples_then_canaries():
    train = draw(7000, 1, tasks=("add",))
    panel = panel_of(train, 7)
    rows = panel.ledger_rows
    keys = panel.examples.keys[rows]
    assert keys[:-7].tolist() == sorted({*train.keys.tolist()})
    assert rows[-7:].tolist() == [len(train) + i for i in range(7)]


def test_too_many_canaries_are_refused_with_a_number_that_fits():
    train = draw(7000, 1, tasks=("add",))
    with pytest.raises(UserError, match="more than 2 %; give at most") as refused:
        panel_of(train, 50)
    most = int(str(refused.value).partition("give at most ")[2].partition(",")[0])
    assert panel_of(train, most).canaries
    with pytest.raises(UserError, match=f"give at most {most}"):
        panel_of(train, most + 1)


def test_where_not_one_canary_fits_the_rows_that_it_needs_are_told():
    train = draw(1000, 1, tasks=("add",))
    with pytest.raises(UserError, match="leave --canaries out, or give a larger") as refused:
        panel_of(train, 1)
    assert "adds 32 rows to a seed's" in str(refused.value)
    assert "one canary needs 1,600 rows" in str(refused.value)


def test_tags_of_no_known_rule_have_no_canaries():
    def build_mine(start, end):
        return build_examples([f"[mine] {i} | {i}" for i in range(start, end)], TOKENIZER, "rows")

    train = build_mine(0, 100)
    with pytest.raises(UserError, match="but the training set has only mine"):
        make_panel(train, build_mine(100, 120), share=0.5, n_canaries=3, tokenizer=TOKENIZER)
