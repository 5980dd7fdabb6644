"""Losses that are not finite: which seeds stop, and what is kept."""

import json
import math
import re
from types import SimpleNamespace

import pytest
import torch

import train_minigpt_4070 as t
from trainer.helpers import (
    CPU,
    TRAIN_ROWS,
    all_files,
    assert_same_weights,
    at_step,
    go,
    kill_while_saving,
    lines_of,
    resume,
    timeless,
    weights_of,
    words,
)


def poison(monkeypatch, seed_index, step, name):
    """In the `step`-th step from now the gradient of one replica's parameter is not a number."""
    original, steps = t.clip_gradients, []

    def clip(model, max_norm):
        steps.append(1)
        if len(steps) == step:
            model.get_parameter(name).grad[seed_index].view(-1)[0] = math.nan
        return original(model, max_norm)

    monkeypatch.setattr(t, "clip_gradients", clip)


@pytest.mark.parametrize("step", [8, 12], ids=["inside an epoch", "at its end"])
def test_only_the_diverged_replica_stops(world, monkeypatch, capsys, step):
    """Seed 5 of 4-6; the others go on as if its gradient had been sound to the end of that step."""
    flags = words("--seeds 4-6 --epochs 4 --save_every 4 --dropout 0.2")
    with monkeypatch.context() as patch:
        poison(patch, 1, step, "blocks.0.w_up")
        assert go(world, *flags, out="diverged") == 3
    error = capsys.readouterr().err
    assert error.startswith("stopped: seed 5 diverged: the gradient of blocks.0.w_up is not finite")
    assert all(part in error for part in (f"at step {step} (epoch 2, ", "learning rate", "step 0"))
    assert error.count("\n") == 1
    last = torch.load(world / "diverged/seed_5/last.pth", weights_only=True)
    assert all(p.isfinite().all() for p in last["model"].values())
    assert [line["epoch"] for line in lines_of(world / "diverged/seed_5/metrics.jsonl")] == [1]
    for seed in (4, 5, 6):
        report = json.loads((world / f"diverged/seed_{seed}/memorization.json").read_text())
        lines = lines_of(world / f"diverged/seed_{seed}/metrics.jsonl")
        best = max(lines, key=lambda line: (line["val_exact_match"], -line["val_loss"]))
        assert report["best"]["epoch"] == best["epoch"]
        # What diverged has no last model: last.pth keeps the weights of an earlier step.
        assert (report["last"] is None) == (seed == 5)
        assert len(lines) == (1 if seed == 5 else 4)

    # The very same, but for a seed that is taken out of the stack with sound gradients.
    original = t.note_divergence

    def taken_out(state, loss, norms):
        original(state, loss, norms)
        if state.step == step:
            state.diverged_since[1] = step

    with monkeypatch.context() as patch:
        patch.setattr(t, "note_divergence", taken_out)
        assert go(world, *flags, out="sound") == 3
    for seed in (4, 6):
        a, b = world / f"diverged/seed_{seed}", world / f"sound/seed_{seed}"
        assert timeless(a / "metrics.jsonl") == timeless(b / "metrics.jsonl")
        assert_same_weights(a / "last.pth", b / "last.pth")

    before = all_files(world)
    assert resume(world, *flags, out="diverged") == 3
    assert capsys.readouterr().err.splitlines()[-1].startswith("stopped: seed 5 diverged")
    assert all_files(world) == before


def test_divergence_noticed_later_is_told_with_the_step_and_epoch_in_which_it_was(
    world, monkeypatch, capsys
):
    """A GPU is looked at every 100 steps. An epoch has 6."""
    monkeypatch.setattr(t.Plan, "check_every", property(lambda plan: 100))
    poison(monkeypatch, 1, 8, "blocks.0.w_up")
    assert go(world, *words("--seeds 4-6 --epochs 4 --eval_every 4 --save_every 4")) == 3
    assert "at step 8 (epoch 2, learning rate " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("scale", "noticed"), [(None, [0, 5, 5]), (65536.0, [0, 0, 5]), (0.5, [0, 5, 5])]
)
def test_fp16s_scaler_skips_infinite_gradients_until_no_scale_helps(scale, noticed):
    scaler = SimpleNamespace(is_enabled=lambda: scale is not None, get_scale=lambda: scale)
    state = SimpleNamespace(scaler=scaler, step=5, diverged_since=torch.zeros(3, dtype=torch.int64))
    loss, norms = torch.tensor([1.0, 1.0, math.nan]), torch.tensor([1.0, math.inf, 1.0])
    t.note_divergence(state, loss, norms)
    assert state.diverged_since.tolist() == noticed


def test_resumed_equals_uninterrupted_where_a_seed_diverges(world, monkeypatch):
    """Killed while the diverged seed, or one of the others, is saved: all are then as before it."""
    flags = words("--seeds 4-6 --epochs 3 --dropout 0.2 --save_every_steps 4")

    def train(call, out, nth=None):
        with monkeypatch.context() as patch:
            spoil = [lambda: poison(patch, 1, 1, "w_tokens")]
            at_step(patch, 9, lambda: spoil and spoil.pop()())
            if nth:
                kill_while_saving(patch, nth)
            return call(world, *flags, out=out)

    assert train(go, "whole") == 3
    # Saves: three each at steps 0, 4, 6, 8, then the diverged one's and the others' at step 10.
    for nth in (13, 14, 15):
        assert train(go, f"run{nth}", nth) == 130
        assert train(resume, f"run{nth}") == 3
        for seed in (4, 5, 6):
            a, b = world / f"whole/seed_{seed}", world / f"run{nth}/seed_{seed}"
            assert timeless(a / "metrics.jsonl") == timeless(b / "metrics.jsonl")
            for name in ("last.pth", "best_model.pth"):
                assert_same_weights(a / name, b / name)


@pytest.mark.parametrize("flags", [[], ["--seeds", "4,7"]], ids=["one seed", "two seeds"])
def test_loss_that_is_not_a_number_stops_the_run(world, monkeypatch, capsys, flags):
    """The checkpoint of the last good epoch stays as it was."""
    steps = math.ceil(len(TRAIN_ROWS) / 8)
    with monkeypatch.context() as patch:
        patch.setattr(t, "learning_rate", lambda step, **_: 0.01 if step <= 2 * steps else math.inf)
        assert go(world, "--epochs", "4", *flags) == 3
    error = capsys.readouterr().err
    assert error.startswith("stopped: ")
    assert error.count("\n") == 1
    # The step with the infinite rate spoils the weights; the one after it shows.
    assert re.search(rf"\bstep {2 * steps + 3}\b", error)
    for folder in [world / "run/seed_4", world / "run/seed_7"] if flags else [world / "run"]:
        last = torch.load(folder / "last.pth", weights_only=True)
        assert last["epoch"] == 2
        assert all(w.isfinite().all() for w in last["model"].values())
        assert [line["epoch"] for line in lines_of(folder / "metrics.jsonl")] == [1, 2]


def test_loss_that_is_not_a_number_in_the_first_epoch_keeps_the_weights_of_the_start(
    world, monkeypatch, capsys
):
    monkeypatch.setattr(t, "learning_rate", lambda step, **_: math.inf)
    assert go(world, "--epochs", "2") == 3
    error = capsys.readouterr().err
    assert "step 2" in error
    assert "of step 0" in error
    start = t.GPT(t.load_model(world / "run/last.pth", CPU)[0].config, [0])
    for name, p in weights_of(world / "run/last.pth").items():
        assert torch.equal(p, start.get_parameter(name))
    assert not (world / "run/best_model.pth").exists()
    assert not (world / "run/memorization.json").exists()


@pytest.mark.parametrize("model", ["best", "last"])
def test_a_model_that_overflows_in_its_report_is_set_aside_alone(world, monkeypatch, capsys, model):
    """Validation was finite, and the report reads more: some example has no finite loss."""
    flags = words("--seeds 0-2 --epochs 2")
    name = f"{model}_model.pth" if model == "best" else "last.pth"
    original = t.load_model

    def overflowing(path, device):
        loaded = original(path, device)
        if path.parent.name == "seed_1" and path.name == name:
            with torch.no_grad():
                loaded[0].w_tokens.mul_(1e38)
        return loaded

    if model == "last":  # else both are one
        monkeypatch.setattr(t, "learning_rate", lambda step, **_: 0.01 if step < 6 else 2.0)
    monkeypatch.setattr(t, "load_model", overflowing)
    assert go(world, *flags) == 3
    captured = capsys.readouterr()
    assert captured.err.startswith(f"stopped: seed 1 diverged: its {model} model overflows")
    assert captured.err.count("\n") == 1
    assert "exact match on unseen examples" in captured.out
    made = [(world / f"run/seed_{s}/memorization.json").exists() for s in range(3)]
    assert made == [True, model == "last", True]
    before = all_files(world)
    assert resume(world, *flags) == 3
    assert all_files(world) == before


def test_scores_that_are_not_finite_are_found_wherever_they_stand():
    t.require_finite({"a": [1.0, {"b": None}], "c": "nan"})
    with pytest.raises(t.NotFinite, match="nan as a b"):
        t.require_finite({"a": [1.0, {"b": math.nan}]})
