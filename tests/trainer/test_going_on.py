"""More of a finished run: more epochs, patience or seeds, and what it lacks."""

import json
import math
import os
import shutil

import pytest
import torch

import plots
import train_minigpt_4070 as t
from trainer.helpers import (
    TRAIN_ROWS,
    all_files,
    assert_same_run,
    assert_same_weights,
    full_disk_from,
    go,
    interrupt_at_step,
    kill_while_saving,
    lines_of,
    resume,
    timeless,
    words,
)

STEPS = math.ceil(len(TRAIN_ROWS) / 8)  # of an epoch


def refused(world, capsys, *flags):
    """What a refused command says; nothing was changed."""
    before = sorted(world.rglob("*")), all_files(world)
    capsys.readouterr()
    assert resume(world, *flags) == 2
    assert (sorted(world.rglob("*")), all_files(world)) == before
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


def cosine(step, total):
    """The learning rate of TINY's flags."""
    low, high = 3e-4 * 1024 / 16 * 0.1, 3e-4 * 1024 / 16
    return low + (high - low) * (1 + math.cos(math.pi * (step - 2) / (total - 3))) / 2


def test_more_epochs_go_on_by_the_schedule_of_all_of_them(world, capsys):
    """The curriculum stays where it was, and the learning rate is the new cosine's."""
    flags = words("--task_curriculum --dropout 0.2 --seeds 0,1")
    assert go(world, *flags, "--epochs", "5") == 0
    before = timeless(world / "run/seed_1/metrics.jsonl")
    capsys.readouterr()
    assert resume(world, *flags, "--epochs", "8") == 0
    said = capsys.readouterr().out
    config = json.loads((world / "run/config.json").read_text())
    steps = config["derived"]["steps_total"]
    assert f"resuming {world / 'run'} at step {before[-1]['step']} of {steps}" in said
    lines = timeless(world / "run/seed_1/metrics.jsonl")
    assert lines[:5] == before
    assert [line["epoch"] for line in lines] == [*range(1, 9)]
    assert lines[-1]["step"] == steps == before[-1]["step"] + 3 * STEPS
    for line in lines[5:]:
        assert line["lr"] == pytest.approx(cosine(line["step"] - 1, steps))
    first = cosine(before[-1]["step"], steps)
    assert f"the learning rate goes on at {first:.2e}" in said
    assert config["arguments"]["epochs"] == 8
    assert config["derived"]["curriculum_epochs"] == 2
    report = json.loads((world / "run/seed_1/memorization.json").read_text())
    best = [line for line in lines if line["best"]][-1]
    assert (report["best"]["epoch"], report["last"]["epoch"]) == (best["epoch"], 8)
    assert refused(world, capsys, *flags, "--epochs", "5").count("--epochs 8") == 1
    assert resume(world, *flags, "--epochs", "8") == 0
    assert "finished and left as it is" in capsys.readouterr().out


def test_one_seed_of_several_does_not_go_on_alone(world, capsys):
    """Longer than the others it would be no seed of their run."""
    assert go(world, "--seeds", "0,1", "--epochs", "1") == 0
    before = all_files(world)
    flags = ("--seed", "1", "--epochs", "2", "--resume")
    assert go(world, *flags, out="run/seed_1") == 2
    assert f"is a seed of the run in {world / 'run'}" in capsys.readouterr().err
    assert all_files(world) == before


def test_more_epochs_that_are_interrupted_end_with_the_same_bits(world, monkeypatch):
    flags = words("--dropout 0.2 --seeds 0,1")
    for out in ("whole", "run"):
        assert go(world, *flags, "--epochs", "2", out=out) == 0
    more = [*flags, "--epochs", "4"]
    assert resume(world, *more, out="whole") == 0
    with monkeypatch.context() as patch:  # before its first checkpoint of its own
        interrupt_at_step(patch, 2 * STEPS + 1)
        assert resume(world, *more) == 130
    with monkeypatch.context() as patch:
        kill_while_saving(patch, 2)
        assert resume(world, *more) == 130
    assert resume(world, *more) == 0
    assert_same_run(world / "whole", world / "run", (0, 1))


def test_more_patience_goes_on_where_there_is_one_step_to_go_on_from(world, capsys):
    flags = words("--epochs 9 --min_delta 100")
    assert go(world, *flags, "--patience", "2") == 0
    assert [line["epoch"] for line in lines_of(world / "run/metrics.jsonl")] == [1, 2, 3]
    error = refused(world, capsys, *words("--epochs 12 --min_delta 100 --patience 2"))
    assert all(part in error for part in ("no improvement", "--out_dir"))
    assert resume(world, *flags, "--patience", "4") == 0
    assert [line["epoch"] for line in lines_of(world / "run/metrics.jsonl")] == [1, 2, 3, 4, 5]
    assert resume(world, *flags, "--patience", "0") == 0
    assert [line["epoch"] for line in lines_of(world / "run/metrics.jsonl")] == [*range(1, 10)]


def test_no_epoch_counts_twice_for_the_patience_of_a_longer_run(world):
    """The shorter run was validated after epoch 5, which --eval_every 2 passes over."""
    flags = words("--eval_every 2 --min_delta 100")
    assert go(world, *flags, "--epochs", "5", "--patience", "6") == 0
    assert resume(world, *flags, "--epochs", "12", "--patience", "6") == 0
    lines = lines_of(world / "run/metrics.jsonl")
    validated = [line["epoch"] for line in lines if "val_exact_match" in line]
    assert validated == [2, 4, 5, 6, 8]
    replica, _ = t.read_ended(world / "run", 1337)
    assert replica.finished == "no improvement in 6 epochs"  # since epoch 2


def test_a_run_that_has_not_ended_takes_no_more(world, monkeypatch, capsys):
    flags = words("--seeds 0,1 --epochs")
    with monkeypatch.context() as patch:
        interrupt_at_step(patch, 8)
        assert go(world, *flags, "3") == 130
    error = refused(world, capsys, *flags, "4")
    assert all(part in error for part in ("has not ended", "--epochs 3", "--out_dir"))
    error = refused(world, capsys, *words("--seeds 0-3 --epochs 3"))
    assert "has not ended" in error


def test_a_run_of_an_earlier_version_is_told_apart_from_one_of_other_flags(world, capsys):
    assert go(world, "--epochs", "1") == 0
    path = world / "run/config.json"
    config = json.loads(path.read_text())
    del config["arguments"]["beta1"]
    path.write_text(json.dumps(config | {"git_commit": "abc123"}))
    error = refused(world, capsys, "--epochs", "1")
    assert "an earlier version of this program, which had no --beta1;" in error
    assert "(commit abc123)" in error


def test_more_seeds_join_a_finished_run(world, monkeypatch, capsys):
    flags = words("--epochs 2 --dropout 0.2")
    assert go(world, *flags, "--seeds", "0,1") == 0
    before = {p: b for p, b in all_files(world).items() if "seed_" in str(p)}
    assert "--seeds 0,1" in refused(world, capsys, *flags, "--seeds", "1,2")
    with monkeypatch.context() as patch:
        interrupt_at_step(patch, 8)
        assert resume(world, *flags, "--seeds", "0-3") == 130
    capsys.readouterr()
    assert resume(world, *flags, "--seeds", "0-3") == 0
    said = capsys.readouterr().out
    assert [f"seed {s}, " in said for s in range(4)] == [True] * 4
    after = all_files(world)
    assert {p: after[p] for p in before} == before
    assert go(world, *flags, "--seeds", "2,3", out="alone") == 0
    for seed in (2, 3):
        folder = world / f"run/seed_{seed}"
        assert_same_weights(folder / "last.pth", world / f"alone/seed_{seed}/last.pth")
        config = json.loads((folder / "config.json").read_text())
        assert (config["seed"], config["seeds"], config["trained_with"]) == (seed, [seed], [2, 3])
        assert config["arguments"]["seed"] == seed
    assert json.loads((world / "run/config.json").read_text())["seeds"] == [0, 1, 2, 3]
    assert resume(world, *flags, "--seeds", "0-3") == 0
    assert "finished and left as it is" in capsys.readouterr().out
    assert resume(world, *words("--epochs 3 --dropout 0.2 --seeds 0-3")) == 0  # all side by side
    assert [len(lines_of(world / f"run/seed_{s}/metrics.jsonl")) for s in range(4)] == [3] * 4
    # A fifth seed would have the learning rates of 3 epochs from the start.
    error = refused(world, capsys, *words("--epochs 3 --dropout 0.2 --seeds 0-4"))
    assert all(part in error for part in ("planned for 2 and then 3 epochs", "--out_dir"))


def test_a_seed_folder_is_a_run_folder_in_its_own_right(world, capsys):
    flags = words("--epochs 2")
    assert go(world, *flags, "--seeds", "4,7") == 0
    assert resume(world, *flags, "--seed", "7", out="run/seed_7") == 0
    assert "finished and left as it is" not in capsys.readouterr().err
    assert resume(world, *flags, "--seeds", "4,7") == 0


def test_seeds_of_other_runs_are_not_taken_for_seeds_of_this_one(world, capsys):
    flags = words("--epochs 1 --seeds 0,1")
    assert go(world, *flags) == 0
    assert go(world, *flags, "--lr", "1e-3", out="other") == 0
    shutil.copytree(world / "run/seed_1", world / "kept")
    shutil.copytree(world / "run/seed_1", world / "run/seed_2")
    assert "seed_2 differs" in refused(world, capsys, *flags)
    shutil.rmtree(world / "run/seed_2")
    for source, what in (("run/seed_0", "its seed"), ("other/seed_1", "--lr")):
        shutil.rmtree(world / "run/seed_1")
        shutil.copytree(world / source, world / "run/seed_1")
        error = refused(world, capsys, *flags)
        assert all(part in error for part in ("seed_1 differs", what, "--out_dir"))
    (world / "run/seed_1/config.json").unlink()
    (world / "run/seed_1/memorization.json").unlink()
    assert resume(world, *flags) == 0  # the same architecture and data: nothing tells by itself


def test_what_a_finished_run_lacks_is_made(world, monkeypatch, capsys):
    drawn = []

    def draw(folder, out_dir):
        out_dir.mkdir(exist_ok=True)
        (out_dir / "learning.png").write_bytes(b"png")
        drawn.append(folder)
        return [out_dir / "learning.png"], ""

    monkeypatch.setattr(plots, "figures_or_notice", draw)
    flags = words("--epochs 2 --seeds 0,1")
    assert go(world, *flags) == 0
    before = all_files(world)
    best = {
        s: [r for r in lines_of(world / f"run/seed_{s}/metrics.jsonl") if r["best"]][-1]
        for s in (0, 1)
    }
    lost = ["plots/learning.png", "plots/figures.json", "seed_1/memorization.json"]
    lost += [f"seed_{s}/best_model.pth" for s in (0, 1) if best[s]["epoch"] == 2]
    assert len(lost) > 3
    for name in lost:
        (world / "run" / name).unlink()
        assert t.main([*command_of(world, *flags), "--resume"]) == 0
        assert all_files(world).keys() == before.keys(), name
        assert "are made" in capsys.readouterr().out or name.endswith(".pth")
    assert_reports = json.loads((world / "run/seed_1/memorization.json").read_text())
    assert assert_reports == json.loads(before[world / "run/seed_1/memorization.json"])
    assert len(drawn) == 4


def command_of(world, *flags):
    from trainer.helpers import command

    return command(world, *flags)


def test_a_seed_that_had_ended_and_is_gone_is_told(world, capsys):
    assert go(world, "--seeds", "0,1", "--epochs", "1") == 0
    assert resume(world, "--seeds", "0-2", "--epochs", "1") == 0
    shutil.rmtree(world / "run/seed_0")
    assert resume(world, "--seeds", "0-2", "--epochs", "1") == 2
    error = capsys.readouterr().err
    assert str(world / "run/seed_0") in error
    assert "--out_dir" in error


def test_a_best_model_that_cannot_be_made_again_is_told(world, monkeypatch, capsys):
    monkeypatch.setattr(t, "learning_rate", lambda step, **_: 0.01 if step < 2 * STEPS else 2.0)
    assert go(world, "--epochs", "3") == 0
    (world / "run/best_model.pth").unlink()
    assert resume(world, "--epochs", "3") == 2
    error = capsys.readouterr().err
    assert all(part in error for part in ("best_model.pth is gone", "--out_dir"))


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="names a file by its descriptor")
def test_a_full_disk_while_figures_are_drawn_is_made_up_for(world, monkeypatch, capsys):
    def draw(folder, out_dir):
        t.write_json(out_dir / "learning.png", [])
        return [out_dir / "learning.png"], ""

    monkeypatch.setattr(plots, "figures_or_notice", draw)
    with monkeypatch.context() as patch:
        full_disk_from(patch, "learning.png")
        assert go(world, "--epochs", "1") == 5
    captured = capsys.readouterr()
    assert "exact match on unseen examples" in captured.out  # the table comes first
    assert "No space left" in captured.err
    assert t.main([*command_of(world, "--epochs", "1"), "--resume"]) == 0
    assert (world / "run/plots/learning.png").exists()
    capsys.readouterr()
    assert t.main([*command_of(world, "--epochs", "1"), "--resume"]) == 0
    assert "finished and left as it is" in capsys.readouterr().out


BAD_PROGRESS = {
    "a list": [1],
    "a folder": {"folder": "/tmp"},
    "a number for a text": {"finished": 3},
    "a text for a number": {"stale_epochs": "0"},
    "no number": {"best_loss": math.nan},
}


@pytest.mark.parametrize("case", [*BAD_PROGRESS, "optimizer", "step", "scaler"])
def test_a_checkpoint_with_an_impossible_training_part_is_told(world, capsys, case):
    assert go(world, "--epochs", "1") == 0
    (world / "run/previous.pth").unlink()
    path = world / "run/last.pth"
    content = torch.load(path, weights_only=True)
    if case in BAD_PROGRESS:
        bad = BAD_PROGRESS[case]
        content["replica"] = {**content["replica"], **bad} if isinstance(bad, dict) else bad
    else:
        content[case] = {"optimizer": {"w_tokens": {}}, "step": "3", "scaler": 5}[case]
    t.write_checkpoint(path, content)
    assert resume(world, "--epochs", "1") == 2
    captured = capsys.readouterr()
    assert "last.pth is nothing that training can go on from" in captured.err
    assert captured.err.count("\n") == 1
