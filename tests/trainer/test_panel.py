"""A panel: each seed trains on its own part of the examples, and its ledger keeps what it knows."""

import json
import math
import re

import numpy as np
import pytest
import torch

import train_minigpt_4070 as t
from data.audit import load_data
from data.subsets import Subsets
from reference import reference_answer
from runtime.ledger import read_ledger, read_panel
from trainer.helpers import (
    assert_same_run,
    assert_same_weights,
    build,
    draw_rows,
    go,
    interrupt_at_step,
    kill_while_saving,
    lines_of,
    resume,
    words,
)

PANEL = words("--subset 0.5 --epochs 6 --no-autoreg_eval --no-show_samples --dropout 0.2")
ROWS = draw_rows(60, seed=30, tags=("copy", "rev", "add"))
ROWS += ROWS[:20] + ROWS[:6]


@pytest.fixture
def panel_world(world):
    (world / "train.txt").write_text("".join(row + "\n" for row in ROWS))
    return world


def start(world, *flags, out="run"):
    paths = ["--data", str(world / "train.txt"), "--val_data", str(world / "val.pkl")]
    return go(world, *PANEL, *flags, *paths, out=out)


def watch_orders(monkeypatch):
    """Collect the orders of every epoch that begins, int64 [R, n] each."""
    seen, original = [], t.EagerSteps.begin_epoch

    def begin_epoch(stepper, orders):
        seen.append(orders)
        original(stepper, orders)

    monkeypatch.setattr(t.EagerSteps, "begin_epoch", begin_epoch)
    return seen


def test_each_seed_trains_on_the_rows_of_its_part_and_on_no_others(panel_world, monkeypatch):
    orders = watch_orders(monkeypatch)
    assert start(panel_world, "--seeds", "3,5") == 0
    train = build(ROWS)
    subsets = Subsets(train, 0.5)
    assert len(orders) == 6
    for order in orders:
        assert order.shape == (2, subsets.epoch_rows(train.tasks.names))
        for rows, seed in zip(order, (3, 5), strict=True):
            assert set(rows) <= set(subsets.rows(seed))
            assert len(set(rows)) == len(rows)
    # Over the epochs every row of the part is seen, and the parts differ.
    assert {*np.concatenate([order[0] for order in orders])} == set(subsets.rows(3))
    assert set(subsets.rows(3)) != set(subsets.rows(5))


def test_a_curriculum_takes_each_stage_from_the_part(panel_world, monkeypatch):
    orders = watch_orders(monkeypatch)
    flags = words("--seed 4 --task_curriculum --task_curriculum_epochs 4")
    assert start(panel_world, *flags) == 0
    train = build(ROWS)
    inside = set(Subsets(train, 0.5).rows(4))
    tasks = [{train.tasks[row] for row in order[0]} for order in orders]
    assert tasks[0] == {"copy"}
    assert tasks[-1] == {"copy", "rev", "add"}
    assert all(set(order[0]) <= inside for order in orders)


def test_the_ledger_holds_what_the_last_model_knows_of_every_example(panel_world):
    assert start(panel_world, "--seeds", "3,5") == 0
    train, data = (
        build(ROWS),
        load_data(
            panel_world / "train.txt", panel_world / "val.pkl", panel_world / "tokenizer.json"
        ),
    )
    for seed in (3, 5):
        folder = panel_world / "run" / f"seed_{seed}"
        ledger = read_ledger(folder / "ledger.npz")
        subsets = Subsets(train, 0.5)
        assert np.array_equal(ledger.members, subsets.members(seed))
        assert ledger.epochs.tolist() == t.kept_epochs(6)
        assert ledger.steps[-1] == lines_of(folder / "metrics.jsonl")[-1]["step"]
        val_rows = np.unique(data.val.keys, return_index=True)[1]
        val_rows = val_rows[data.val.tags.isin(train.tags.names)[val_rows]]
        assert 0 < len(val_rows) < len(data.val)
        raws = [train.raw(i) for i in subsets.first_rows] + [data.val.raw(i) for i in val_rows]
        assert np.array_equal(
            ledger.keys, np.concatenate([train.keys[subsets.first_rows], data.val.keys[val_rows]])
        )
        model = t.load_model(folder / "last.pth", torch.device("cpu"))[0]
        for i, raw in enumerate(raws):
            logits, targets = reference_answer(model, 0, raw)
            log_probs = logits.log_softmax(-1)[torch.arange(len(targets)), targets]
            assert ledger.bits[-1, i] == pytest.approx(
                -log_probs.sum().item() / math.log(2), rel=2e-3
            )
            assert ledger.exact[-1, i] == bool((logits.argmax(-1) == targets).all())


def test_the_ledger_says_at_which_step_of_the_last_epoch_each_example_was_trained_on_last(
    panel_world, monkeypatch
):
    batches, original = [], t.make_batch

    def watch(data, rows, prompts_only=False, places=None):
        if places is not None:  # of a training step
            batches.append((data.examples, rows))
        return original(data, rows, prompts_only, places)

    monkeypatch.setattr(t, "make_batch", watch)
    monkeypatch.setattr("data.subsets.CANARY_SHARE", 9.0)
    assert start(panel_world, "--seeds", "3,5", "--canaries", "3") == 0
    n_steps = len(batches) // 6  # of an epoch
    for r, seed in enumerate((3, 5)):
        ledger = read_ledger(panel_world / "run" / f"seed_{seed}" / "ledger.npz")
        last = {}
        for step, (examples, rows) in enumerate(batches, start=1):
            if step > 5 * n_steps:
                last |= {int(examples.keys[row]): step for row in rows[r]}
        asked = ledger.keys[: ledger.n_train + ledger.n_canaries].tolist()
        assert ledger.last_steps.tolist() == [last.get(key, 0) for key in asked]
        trained = np.append(ledger.members, ledger.canary_counts > 0)
        assert not (ledger.last_steps > 0)[~trained].any()
        assert trained[ledger.n_train :].any()
        assert len(set(ledger.last_steps.tolist())) > n_steps / 2


def test_a_seed_of_a_panel_is_the_same_alone(panel_world):
    # A low rate: AdamW's first steps are of one size, also where a gradient is rounding alone.
    flags = words("--dropout 0 --lr 3e-5")
    assert start(panel_world, "--seeds", "3,5", *flags, out="both") == 0
    assert start(panel_world, "--seed", "5", *flags, out="alone") == 0
    both, alone = panel_world / "both" / "seed_5", panel_world / "alone"
    assert_same_weights(both / "last.pth", alone / "last.pth", exact=False)
    one, other = (read_ledger(folder / "ledger.npz") for folder in (both, alone))
    assert np.array_equal(one.members, other.members)
    assert one.bits.astype(float) == pytest.approx(other.bits.astype(float), rel=1e-2)


@pytest.mark.parametrize("step", [3, 11, 20])
def test_a_resumed_panel_keeps_the_same_ledger(panel_world, monkeypatch, step):
    assert start(panel_world, "--seeds", "3,5", out="whole") == 0
    with monkeypatch.context() as patch:
        interrupt_at_step(patch, step)
        assert start(panel_world, "--seeds", "3,5") == 130
    paths = ["--data", panel_world / "train.txt", "--val_data", panel_world / "val.pkl"]
    assert resume(panel_world, *PANEL, "--seeds", "3,5", *paths) == 0
    assert_same_run(panel_world / "whole", panel_world / "run", (3, 5))
    for seed in (3, 5):
        a, b = (
            read_ledger(panel_world / out / f"seed_{seed}" / "ledger.npz")
            for out in ("whole", "run")
        )
        assert np.array_equal(a.steps, b.steps)
        assert np.array_equal(a.bits, b.bits)
        assert np.array_equal(a.exact, b.exact)


def test_a_panel_whose_seeds_were_drawn_otherwise_does_not_go_on(panel_world, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        interrupt_at_step(patch, 11)
        assert start(panel_world, "--seeds", "3,5") == 130
    drawn = Subsets.members
    monkeypatch.setattr(Subsets, "members", lambda self, seed: drawn(self, seed + 1))
    paths = ["--data", panel_world / "train.txt", "--val_data", panel_world / "val.pkl"]
    assert resume(panel_world, *PANEL, "--seeds", "3,5", *paths) == 2
    said = "seed 3 trained on other examples than it draws in this version"
    assert said in capsys.readouterr().err
    monkeypatch.setattr(Subsets, "members", drawn)
    assert resume(panel_world, *PANEL, "--seeds", "3,5", *paths) == 0
    # Nor do more seeds join it.
    monkeypatch.setattr(Subsets, "members", lambda self, seed: drawn(self, seed + 1))
    assert resume(panel_world, *PANEL, "--seeds", "3,5,7", *paths) == 2
    assert said in capsys.readouterr().err


def test_a_plan_says_how_many_rows_an_epoch_leaves_out(panel_world, capsys):
    distinct = list(dict.fromkeys(ROWS))

    def share_left_out(rows):
        (panel_world / "train.txt").write_text("".join(row + "\n" for row in rows))
        assert start(panel_world, "--seeds", "0-3", "--dry_run") == 0
        said = capsys.readouterr().out
        found = re.search(r"an epoch leaves out about (\d+)% of a seed's rows", said)
        return found and int(found[1])

    assert share_left_out(distinct) is None
    rows = [row for i, row in enumerate(distinct) for _ in range(60 // (i + 1))]
    subsets = Subsets(build(rows), 0.5)
    mean = np.mean([len(subsets.rows(seed)) for seed in range(300)])
    epoch = subsets.epoch_rows(subsets.train.tasks.names)
    assert share_left_out(rows) == pytest.approx(100 * (1 - epoch / mean), abs=3)


def test_an_epoch_that_a_killed_panel_had_kept_already_is_scored_again(panel_world, monkeypatch):
    flags = words("--seed 3 --epochs 2")
    with monkeypatch.context() as patch:
        kill_while_saving(patch, 2)  # after the ledger of epoch 1; the first save is of step 0
        assert start(panel_world, *flags) == 130
    assert read_ledger(panel_world / "run/ledger.npz").epochs.tolist() == [1]
    paths = ["--data", panel_world / "train.txt", "--val_data", panel_world / "val.pkl"]
    assert resume(panel_world, *PANEL, *flags, *paths) == 0
    assert read_ledger(panel_world / "run/ledger.npz").epochs.tolist() == [1, 2]


@pytest.mark.parametrize("step", [11, 10**6])  # stopped, and finished
def test_a_damaged_ledger_is_told_before_training(panel_world, monkeypatch, capsys, step):
    with monkeypatch.context() as patch:
        interrupt_at_step(patch, step)
        start(panel_world, "--seed", "3")
    path = panel_world / "run/ledger.npz"
    path.write_bytes(path.read_bytes()[:100])
    lines = (panel_world / "run/metrics.jsonl").read_bytes()
    paths = ["--data", panel_world / "train.txt", "--val_data", panel_world / "val.pkl"]
    capsys.readouterr()
    assert resume(panel_world, *PANEL, "--seed", "3", *paths) == 2
    said = capsys.readouterr()
    assert "ledger.npz is no ledger of this program, or damaged" in said.err
    assert "resuming" not in said.out
    assert (panel_world / "run/metrics.jsonl").read_bytes() == lines


def test_a_panel_never_stops_early(panel_world):
    assert start(panel_world, "--seed", "3", "--patience", "1", "--min_delta", "100") == 0
    assert len(lines_of(panel_world / "run" / "metrics.jsonl")) == 6


def test_train_rates_are_of_the_rows_that_the_seed_trains_on(panel_world):
    assert start(panel_world, "--seeds", "3,5") == 0
    data = load_data(
        panel_world / "train.txt", panel_world / "val.pkl", panel_world / "tokenizer.json"
    )
    for seed in (3, 5):
        line = lines_of(panel_world / "run" / f"seed_{seed}" / "metrics.jsonl")[-1]
        inside = np.isin(data.sample, Subsets(data.train, 0.5).rows(seed))
        assert 0 < line["train_n"] == inside.sum() < len(inside)


def test_what_a_seed_has_not_trained_on_is_neither_seen_by_it_nor_held_out(panel_world):
    """Half of the validation set is in the training set, and a tag is none of its."""
    unseen = ["[add] 700 + 1 | 701", "[rev] 7 7 8 | 8 7 7", "[add] 3 + 700 | 703"]
    rows = [*ROWS[20:60], *unseen, unseen[0], "[mul] 2 3 | 6"]
    paths = ["--data", panel_world / "train.txt", "--val_data", panel_world / "other.txt"]
    (panel_world / "other.txt").write_text("".join(row + "\n" for row in rows))
    assert go(panel_world, *PANEL, "--seeds", "3,5", "--epochs", "1", *paths) == 0
    train, val = build(ROWS), build(rows)
    for seed in (3, 5):
        folder = panel_world / "run" / f"seed_{seed}"
        trained_on = set(train.keys[Subsets(train, 0.5).rows(seed)].tolist())
        n_seen = len(trained_on & set(val.keys.tolist()))
        line = lines_of(folder / "metrics.jsonl")[-1]
        assert 0 < n_seen < 40
        assert (line["val_n"], line["val_n_seen"]) == (3, n_seen)
        report = json.loads((folder / "memorization.json").read_text())["last"]
        assert (report["unseen"]["n"], report["seen"]["n"]) == (3, n_seen)
        ledger = read_ledger(folder / "ledger.npz")
        assert ledger.keys[ledger.n_train :].tolist() == sorted(build(unseen).keys.tolist())


def test_a_seed_that_overflows_on_one_example_is_left_out_of_the_panel(
    panel_world, monkeypatch, capsys
):
    original = t.score

    def score(model, examples, rows, device):
        scores = original(model, examples, rows, device)
        if len(rows) > 50 and model.R == 2:  # the ledger's, of both seeds
            scores.loss[1, 7] = math.nan
        return scores

    monkeypatch.setattr(t, "score", score)
    assert start(panel_world, "--seeds", "3,5", "--epochs", "2") == 0
    assert "seed 5 overflows on an example of the ledger" in capsys.readouterr().out
    panel, notices = read_panel([panel_world / "run" / f"seed_{seed}" for seed in (3, 5)])
    assert (panel.seeds, panel.epochs.tolist()) == ([3], [1, 2])
    assert len(notices) == 1
    assert notices[0].startswith("seed 5 is left out")


def test_a_panel_without_held_out_examples_is_refused(panel_world, capsys):
    (panel_world / "other.txt").write_text(ROWS[0] + "\n[mul] 2 3 | 6\n")
    paths = ["--data", panel_world / "train.txt", "--val_data", panel_world / "other.txt"]
    assert go(panel_world, *PANEL, *paths) == 2
    assert "each validation example is in the training set or of a tag" in capsys.readouterr().err
    assert not (panel_world / "run").exists()


def test_dry_run_says_what_the_panel_is_and_writes_nothing(panel_world, capsys):
    assert start(panel_world, "--seeds", "0-3", "--dry_run") == 0
    said = capsys.readouterr().out
    n = len(set(build(ROWS).keys.tolist()))
    assert f"panel   each seed trains on its own {round(n / 2)} of the {n} examples, " in said
    assert "early stopping is off" in said
    assert not (panel_world / "run").exists()


def test_a_panel_is_read_whole(panel_world):
    assert start(panel_world, "--seeds", "0-3") == 0
    panel, notices = read_panel([panel_world / "run" / f"seed_{seed}" for seed in range(4)])
    assert (panel.R, notices, panel.share) == (4, [], 0.5)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--subset", "0"], "--subset"),
        (["--subset", "1.5"], "--subset"),
        (["--subset", "0.999"], "leaves none out"),
        (["--subset", "0.02"], "that is sure to be in each seed's part; give a larger share"),
    ],
)
def test_a_share_that_makes_no_panel_is_refused(panel_world, capsys, flags, said):
    assert start(panel_world, *flags) == 2
    assert said in capsys.readouterr().err
    assert not (panel_world / "run").exists()


def test_overwrite_removes_the_ledger(panel_world):
    assert start(panel_world, "--seed", "3", "--epochs", "2") == 0
    assert (panel_world / "run" / "ledger.npz").exists()
    paths = ["--data", panel_world / "train.txt", "--val_data", panel_world / "val.pkl"]
    assert go(panel_world, "--overwrite", "--epochs", "1", *paths) == 0
    assert not (panel_world / "run" / "ledger.npz").exists()
    assert (
        json.loads((panel_world / "run" / "config.json").read_text())["arguments"]["subset"] is None
    )


def test_rows_taken_from_a_set_are_those_rows():
    examples = build(ROWS)
    rows = np.array([5, 0, 70, 71, 3])
    taken = examples.take(rows)
    assert [taken.raw(i) for i in range(5)] == [ROWS[i] for i in rows]
    again = build([ROWS[i] for i in rows])
    for name in ("offsets", "ids", "answer_start", "keys", "starts", "lengths"):
        assert np.array_equal(getattr(taken, name), getattr(again, name)), name
    assert taken.tags.tolist() == again.tags.tolist()


def test_a_panel_with_canaries_trains_on_them_and_scores_them(world, monkeypatch):
    """Memorized canaries need few bits where they were repeated, more where they were not."""
    rows = draw_rows(3300, seed=31, tags=("add",))
    (world / "train.txt").write_text("".join(row + "\n" for row in rows))
    flags = ["--canaries", "7", "--epochs", "2", "--subset", "1", "--seed", "3"]
    orders = watch_orders(monkeypatch)
    assert start(world, *flags) == 0
    canaries = lines_of(world / "run" / "canaries.jsonl")
    ledger = read_ledger(world / "run" / "ledger.npz")
    assert (len(canaries), ledger.n_canaries) == (7, 7)
    assert sorted(ledger.canary_counts) == [0, 1, 2, 4, 8, 16, 32]
    drawn = np.bincount(orders[0][0], minlength=3307)[3300:]
    assert drawn.tolist() == ledger.canary_counts.tolist()
    model = t.load_model(world / "run" / "last.pth", torch.device("cpu"))[0]
    for i, canary in enumerate(canaries):
        raw = f"[{canary['task']}] {canary['prompt']} | {canary['answer']}"
        logits, targets = reference_answer(model, 0, raw)
        log_probs = logits.log_softmax(-1)[torch.arange(len(targets)), targets]
        bits = -log_probs.sum().item() / math.log(2)
        assert ledger.bits[-1, ledger.n_train + i] == pytest.approx(bits, rel=2e-3)


def test_canaries_without_subset_are_refused(world, capsys):
    assert go(world, "--canaries", "3") == 2
    assert "--canaries needs --subset" in capsys.readouterr().err
