"""Validation by step: which steps, what a line says, patience, and resuming within an epoch."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest

import plots
import train_minigpt_4070 as t
from reporting import tables
from runtime.ledger import read_ledger
from runtime.records import load_run
from trainer.helpers import (
    LONG,
    TRAIN_ROWS,
    assert_same_run,
    assert_same_weights,
    command,
    go,
    interrupt_at_step,
    kill_while_saving,
    lines_of,
    resume,
    words,
)

STEPS = math.ceil(len(TRAIN_ROWS) / 8)  # of an epoch without curriculum: 6, the last one of 7 rows
BY_STEP = words("--seeds 0-2 --epochs 3 --dropout 0.2 --eval_every_steps 4")


def plan_of(world, *flags):
    args = t.build_parser().parse_args(command(world, *flags))
    return t.make_plan(args, t.load_run_data(args), 1)


def steps_validated(folder):
    return [line["step"] for line in lines_of(folder / "metrics.jsonl")]


def test_log_spaced_steps_are_the_distinct_rounded_powers():
    assert t.log_spaced(300, 6).tolist() == [1, 2, 3, 5, 7, 10, 15, 22, 32, 46, 68, 100, 147, 215]
    assert t.log_spaced(1000, 1).tolist() == [1, 10, 100, 1000]
    assert t.log_spaced(999, 1).tolist() == [1, 10, 100]
    assert t.log_spaced(1, 10).tolist() == [1]
    dense = t.log_spaced(10**6, 100)
    assert dense[:12].tolist() == list(range(1, 13))
    assert (np.diff(dense) > 0).all()
    assert dense[[-101, -1]].tolist() == [10**5, 10**6]


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("", [6, 12, 18, 24, 30]),
        ("--eval_every 2", [12, 24, 30]),
        ("--eval_every_steps 7", [7, 14, 21, 28, 30]),
        ("--eval_every_steps 6", [6, 12, 18, 24, 30]),
        ("--eval_every_steps 100", [30]),
        ("--eval_log 3", [1, 2, 5, 10, 22, 30]),
        ("--eval_log 3 --eval_every_steps 12", [1, 2, 5, 10, 12, 22, 24, 30]),
        ("--eval_log 1 --eval_every 3", [1, 10, 18, 30]),
    ],
)
def test_which_steps_are_validated(world, flags, expected):
    plan = plan_of(world, "--epochs", "5", *words(flags))
    assert plan.steps_in(1) == STEPS == 6
    assert sorted(plan.eval_steps) == expected


def test_a_line_says_what_was_done_up_to_its_step(world):
    flags = words("--epochs 2 --eval_every_steps 4")
    assert go(world, *flags, "--eval_log", "1") == 0
    lines = lines_of(world / "run/metrics.jsonl")
    places = [(line["epoch"], line["step"], line["examples_seen"]) for line in lines]
    n = len(TRAIN_ROWS)
    assert places == [(1, 1, 8), (1, 4, 32), (2, 8, n + 16), (2, 10, n + 32), (2, 12, 2 * n)]
    plan = plan_of(world, *flags)
    assert [line["lr"] for line in lines] == [plan.lr_at(line["step"] - 1) for line in lines]
    assert all(line["val_exact_match"] is not None for line in lines)
    assert {s["step"] for s in lines_of(world / "run/samples.jsonl")} == {1, 4, 8, 10, 12}
    # The mean over the epoch's steps so far: after one step, that step's loss; nothing else moved.
    assert go(world, *words("--epochs 2 --eval_every_steps 1"), out="each") == 0
    each = [line["optimized_loss"] for line in lines_of(world / "each/metrics.jsonl")]
    first = np.diff(np.array(each[:6]) * np.arange(1, 7), prepend=0)  # each step's own
    assert lines[1]["optimized_loss"] == pytest.approx(first[:4].mean(), rel=1e-5)
    assert lines[4]["optimized_loss"] == pytest.approx(each[11])
    assert go(world, "--epochs", "2", out="by_epoch") == 0
    assert_same_weights(world / "run/last.pth", world / "by_epoch/last.pth")
    last = lines_of(world / "by_epoch/metrics.jsonl")[-1]
    timed = ("seconds", "best")
    assert {k: v for k, v in last.items() if k not in timed} == {
        k: v for k, v in lines[-1].items() if k not in timed
    }


def test_the_screen_names_the_step(world, capsys):
    assert go(world, *words("--epochs 2 --eval_every_steps 7 --no-show_samples")) == 0
    said = capsys.readouterr().out
    assert "\nstep  7/12  loss train" in said
    assert "\nstep 12/12  loss train" in said
    assert "epoch 1/2" not in said


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    from trainer.conftest import make_world

    world = make_world(tmp_path_factory.mktemp("by_step"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plots, "write_figures", lambda *args, **kwargs: [])
        assert go(world, *BY_STEP) == 0
    assert steps_validated(world / "run/seed_0") == [4, 8, 12, 16, 18]
    return world


@pytest.mark.parametrize("step", [5, 9, 17])
@pytest.mark.parametrize("saving", ["", "--save_every_steps 3", "--save_every_steps 4"])
def test_resumed_between_a_validation_and_the_end_of_its_epoch(
    whole, world, monkeypatch, step, saving
):
    """The checkpoint is older than the last validation, of the same step, or newer."""
    with monkeypatch.context() as patch:
        interrupt_at_step(patch, step)
        assert go(world, *BY_STEP, *words(saving)) == 130
    assert steps_validated(world / "run/seed_2")[-1] < step
    assert resume(world, *BY_STEP, *words(saving)) == 0
    assert_same_run(whole / "run", world / "run", range(3))


@pytest.mark.parametrize("nth", [4, 5, 6, 8, 11])
def test_resumed_after_a_kill_while_it_saves(whole, world, monkeypatch, nth):
    with monkeypatch.context() as patch:
        kill_while_saving(patch, nth)
        assert go(world, *BY_STEP, *words("--save_every_steps 4")) == 130
    assert resume(world, *BY_STEP) == 0
    assert_same_run(whole / "run", world / "run", range(3))


def test_resumed_by_step_with_a_curriculum(world, monkeypatch):
    flags = [*LONG, *words("--eval_log 4")]
    assert go(world, *flags, out="whole") == 0
    with monkeypatch.context() as patch:
        interrupt_at_step(patch, 11)
        assert go(world, *flags) == 130
    assert resume(world, *flags) == 0
    assert_same_run(world / "whole", world / "run", range(3))


def test_a_seed_that_ends_within_an_epoch_leaves_the_others_as_they_are(world, monkeypatch):
    flags = words("--epochs 3 --dropout 0.2 --eval_every_steps 4")
    assert go(world, *flags, "--seed", "1", out="alone") == 0
    original = t.Replica.update_early_stopping

    def ends(self, record, **rest):
        best = original(self, record, **rest)
        if self.seed == 0 and lines_of(self.folder / "samples.jsonl")[-1]["step"] == 8:
            self.finished = "enough"
        return best

    monkeypatch.setattr(t.Replica, "update_early_stopping", ends)
    assert go(world, *flags, "--seeds", "0,1") == 0
    assert steps_validated(world / "run/seed_0") == [4, 8]
    assert steps_validated(world / "run/seed_1") == [4, 8, 12, 16, 18]
    assert_same_weights(world / "run/seed_1/last.pth", world / "alone/last.pth", exact=False)
    with monkeypatch.context() as patch:
        interrupt_at_step(patch, 10)
        assert go(world, *flags, "--seeds", "0,1", out="again") == 130
    assert resume(world, *flags, "--seeds", "0,1", out="again") == 0
    assert_same_run(world / "run", world / "again", (0, 1))


def test_the_ledger_stays_with_the_epochs(world, monkeypatch):
    panel = words("--subset 0.5 --seeds 0,1 --epochs 3")
    assert go(world, *panel, out="by_epoch") == 0
    flags = [*panel, *words("--eval_every_steps 2 --save_every 5")]
    with monkeypatch.context() as patch:
        interrupt_at_step(patch, 8)
        assert go(world, *flags) == 130
    assert resume(world, *flags) == 0
    for seed in ("seed_0", "seed_1"):
        one, two = (read_ledger(world / out / seed / "ledger.npz") for out in ("by_epoch", "run"))
        assert one.epochs.tolist() == two.epochs.tolist() == [1, 2, 3]
        assert one.steps.tolist() == two.steps.tolist()
        np.testing.assert_array_equal(one.bits, two.bits)


def test_an_epoch_without_validation_scores_saves_and_writes_nothing(world, monkeypatch):
    calls = {"score": [], "save_last": [], "append_lines": [], "has_finite_weights": []}
    state = {"step": 0}
    for name, made in calls.items():
        original = getattr(t, name)

        def counted(*args, original=original, made=made, **kwargs):
            made.append(state["step"])
            return original(*args, **kwargs)

        monkeypatch.setattr(t, name, counted)
    original = t.dropout_noise

    def noise(seeds, step):
        state["step"] = step + 1
        return original(seeds, step)

    monkeypatch.setattr(t, "dropout_noise", noise)
    monkeypatch.setattr(t, "write_memorization", lambda *args: None)
    assert go(world, *words("--epochs 20 --eval_log 1 --save_every 9 --no-autoreg_eval")) == 0
    assert set(calls["score"]) == {1, 10, 100, 120}
    assert calls["save_last"] == [0, 54, 108, 120]
    assert calls["append_lines"] == [s for s in (1, 10, 100, 120) for _ in ("samples", "metrics")]
    assert set(calls["has_finite_weights"]) == {1, 10, 54, 100, 108, 120}


def fed(history, patience):
    """Feed (exact match, step) validation by validation, 4 steps an epoch."""
    replica = t.Replica(0, None)
    for i, (exact, step) in enumerate(history, 1):
        replica.update_early_stopping(
            {"val_exact_match": exact, "val_loss": 1.0},
            step=step,
            steps_an_epoch=4,
            all_tasks_in=True,
            min_delta=0.0,
            patience=patience,
        )
        if replica.finished:
            return i, replica.finished
    return None, ""


def test_patience_counts_epochs_however_often_they_are_validated():
    often = [(0.5, step) for step in range(1, 14)]
    assert fed(often, patience=2) == (9, "no improvement in 2 epochs")
    assert fed(often, patience=0) == (None, "")
    seldom = [(0.5, step) for step in (1, 2, 5, 10, 22)]  # whatever lies between two validations
    assert fed(seldom, patience=5) == (5, "no improvement in 5 epochs")


def test_a_run_validated_by_steps_runs_out_of_patience_by_epochs(world):
    """The loss of step 2 is the one gain; two epochs of 6 steps follow it."""
    assert go(world, *words("--epochs 8 --eval_every_steps 2 --patience 2 --min_delta 100")) == 0
    assert steps_validated(world / "run") == [2, 4, 6, 8, 10, 12, 14]


def test_perfect_validations_within_an_epoch_are_one_stroke_of_luck():
    """Also where an epoch ends between them: what counts is an epoch's worth of steps."""
    assert fed([(1.0, step) for step in (2, 3, 4, 5)], patience=9) == (None, "")
    n, why = fed([(1.0, step) for step in (2, 3, 4, 5, 6, 7)], patience=9)
    assert n == 5
    assert why.startswith("learned")
    assert fed([(1.0, 2), (0.9, 3), (1.0, 4), (1.0, 6)], patience=9) == (None, "")
    assert fed([(1.0, 2), (0.9, 3), (1.0, 4), (1.0, 6), (1.0, 8)], patience=9)[0] == 5
    assert fed([(1.0, 12), (1.0, 24)], patience=9)[0] == 2


def test_a_run_validated_at_each_step_is_learned_after_an_epoch_of_right_ones(world, monkeypatch):
    original = t.validate

    def right_from_step_4(plan, data, state, tasks):
        records, texts = original(plan, data, state, tasks)
        return [r | {"val_exact_match": float(state.step >= 4)} for r in records], texts

    monkeypatch.setattr(t, "validate", right_from_step_4)
    assert go(world, *words("--epochs 8 --eval_every_steps 1 --patience 10")) == 0
    assert steps_validated(world / "run") == list(range(1, 4 + STEPS + 1))


def test_betas_reach_adamw_and_clipping_can_be_off(world):
    plan = plan_of(world, *words("--beta1 0.8 --beta2 0.98 --max_grad_norm 0"))
    state = t.start_run(plan, [t.Replica(0, world)], [])
    assert [g["betas"] for g in state.optimizer.param_groups] == [(0.8, 0.98)] * 2
    assert plan_of(world).betas == (0.9, 0.95)
    for p in state.model.parameters():
        p.grad = torch_full(p, 1e4)
    norms = t.clip_gradients(state.model, plan.max_grad_norm)
    n = sum(p.numel() for p in state.model.parameters())
    assert float(norms) == pytest.approx(1e4 * math.sqrt(n), rel=1e-5)
    assert all((p.grad == 1e4).all() for p in state.model.parameters())


def torch_full(p, value):
    return p.detach().new_full(p.shape, value)


def test_the_rate_can_be_constant_after_the_warm_up(world):
    flags = words("--epochs 20 --lr 1e-3 --no_lr_scaling --min_lr_ratio 1 --warmup_steps 10")
    plan = plan_of(world, *flags)
    assert plan.lr_at(0) == pytest.approx(1e-4)
    assert {plan.lr_at(step) for step in range(9, plan.total_steps)} == {1e-3}


def test_figures_take_several_validations_of_an_epoch_and_a_log_axis(world):
    assert go(world, *words("--epochs 20 --eval_log 3 --seeds 0,1")) == 0
    run = load_run(world / "run", "run")
    steps = [1, 2, 5, 10, 22, 46, 100, 120]
    c = plots.curve(run, "step", "val_exact_match", n=("val_n",))
    assert c.x.tolist() == steps
    assert plots.epoch_or_step(run) == "step"
    figure = plots.learning_figure(run)
    seen = [8, 16, 40, 47 + 32, 3 * 47 + 32, 7 * 47 + 32, 16 * 47 + 32, 20 * 47]
    for ax in figure.axes[:2]:
        assert ax.get_xscale() == "log"
        assert ax.lines[0].get_xdata().tolist() == seen
    for draw in (plots.tasks_figure, plots.learning_rate_figure):
        ax = draw(run).axes[0]
        assert (ax.get_xscale(), ax.get_xlabel()) == ("log", "optimizer step")
        assert ax.lines[0].get_xdata().tolist() == steps
    assert plots.heatmap_figure(run).axes[0].get_xlabel() == "step"
    for table in (tables.learning_table(run), tables.tasks_table(run)):
        assert table.names[0] == "step"
        assert [row[0] for row in table.rows] == [str(step) for step in steps]
    seldom = replace(run, seeds=[rows[4:] for rows in run.seeds])  # at most once an epoch
    assert plots.epoch_or_step(seldom) == "step"
    config = json.loads((world / "run/config.json").read_text())
    config["arguments"]["eval_log"] = 0
    assert plots.epoch_or_step(replace(seldom, config=config)) == "epoch"
    run = replace(run, config=config)
    assert plots.learning_figure(run).axes[0].get_xscale() == "linear"
