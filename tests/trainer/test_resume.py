"""Resumed runs equal uninterrupted ones; what cannot be resumed is refused."""

import json
import math
import re
import shlex
import shutil

import pytest

import train_minigpt_4070 as t
from trainer.helpers import (
    LONG,
    TRAIN_ROWS,
    all_files,
    assert_same_run,
    go,
    interrupt_at_step,
    kill_while_saving,
    lines_of,
    resume,
    words,
    write_pickle,
)


@pytest.mark.parametrize("step", [3, 8, 14, 20])
def test_resumed_equals_uninterrupted(uninterrupted, world, monkeypatch, capsys, step):
    """Stopped inside epochs 2, 3 and 5 (stages differ); dropout on, three seeds."""
    with monkeypatch.context() as patch:
        interrupt_at_step(patch, step)
        assert go(world, *LONG) == 130
    with open(world / "run/seed_1/metrics.jsonl", "a") as file:
        file.write('{"epoch": 9, "torn')
    assert resume(world, *LONG) == 0
    assert "resuming" in capsys.readouterr().out
    assert_same_run(uninterrupted / "run", world / "run", range(3))


@pytest.mark.parametrize("nth", [5, 7, 8, 9, 12])
def test_resumed_after_a_kill_while_checkpoints_are_written(uninterrupted, world, monkeypatch, nth):
    """The seeds' files are then of two epochs, or one's last.pth is missing."""
    with monkeypatch.context() as patch:
        kill_while_saving(patch, nth)
        assert go(world, *LONG) == 130
    assert resume(world, *LONG) == 0
    assert_same_run(uninterrupted / "run", world / "run", range(3))


def finish_early(monkeypatch, seed, epoch):
    original = t.Replica.update_early_stopping

    def update_early_stopping(self, record, **rest):
        best = original(self, record, **rest)
        path = self.folder / "metrics.jsonl"  # a line for each epoch before this one
        if (self.seed, len(lines_of(path) if path.exists() else [])) == (seed, epoch - 1):
            self.finished = "enough"
        return best

    monkeypatch.setattr(t.Replica, "update_early_stopping", update_early_stopping)


@pytest.mark.parametrize("nth", [None, 7, 8])
def test_resumed_equals_uninterrupted_where_one_seed_stops_earlier(world, monkeypatch, nth):
    """Seed 0 ends after epoch 3: stopped in epoch 4 (None), or while epoch 3 is being saved."""
    flags = words("--seeds 0,1 --epochs 5 --dropout 0.2")
    finish_early(monkeypatch, 0, 3)
    assert go(world, *flags, out="whole") == 0
    assert len(lines_of(world / "whole/seed_0/metrics.jsonl")) == 3
    assert len(lines_of(world / "whole/seed_1/metrics.jsonl")) == 5
    with monkeypatch.context() as patch:
        if nth is None:
            interrupt_at_step(patch, 20)
        else:
            kill_while_saving(patch, nth)
        assert go(world, *flags) == 130
    assert resume(world, *flags) == 0
    assert_same_run(world / "whole", world / "run", (0, 1))


def test_resume_remembers_when_it_last_validated(world, monkeypatch):
    flags = words("--epochs 8 --eval_every 2 --patience 4 --min_delta 100")
    assert go(world, *flags, out="whole") == 0
    assert len(lines_of(world / "whole/metrics.jsonl")) == 6  # stale after epochs 3 to 6
    with monkeypatch.context() as patch:
        interrupt_at_step(patch, 3 * math.ceil(len(TRAIN_ROWS) / 8) + 2)
        assert go(world, *flags) == 130
    assert resume(world, *flags) == 0
    assert_same_run(world / "whole", world / "run", (0,))


def test_resume_cuts_batches_as_the_run_began(world, monkeypatch):
    """Another machine may have less memory; a run's numbers may not follow it."""
    flags = words("--epochs 3 --accumulation_steps 2 --batch_size 4 --dropout 0.2")
    assert go(world, *flags, out="whole") == 0
    with monkeypatch.context() as patch:
        interrupt_at_step(patch, 8)
        assert go(world, *flags) == 130
    monkeypatch.setattr(t, "AT_ONCE", 0.0)
    assert resume(world, *flags) == 0
    assert_same_run(world / "whole", world / "run", (0,))


def test_resume_writes_the_report_that_a_kill_prevented(world, monkeypatch):
    with monkeypatch.context() as patch:

        def killed(*args, **kwargs):
            raise KeyboardInterrupt

        patch.setattr(t, "memorization_report", killed)
        assert go(world, "--epochs", "2") == 130
    assert resume(world, "--epochs", "2") == 0
    assert json.loads((world / "run/memorization.json").read_text())["last"]["unseen"]["n"] == 12


def test_resume_allows_what_does_not_change_the_numbers(uninterrupted, tmp_path, capsys):
    shutil.copytree(uninterrupted, tmp_path / "copy")
    free = words("--no-show_samples --save_every 2 --save_every_steps 7")
    assert resume(tmp_path / "copy", *LONG, *free) == 0
    assert "is finished and left as it is" in capsys.readouterr().out


def test_a_dry_run_tells_that_computing_again_takes_less_memory(world, capsys):
    def told(*flags):
        assert go(world, "--dry_run", "--batch_size", "32", *flags) == 0
        return float(re.search(r"about ([\d,.]+) MiB", capsys.readouterr().out)[1].replace(",", ""))

    wide = words("--d_model 64 --n_layers 8")
    assert told(*wide, "--use_checkpoint") < told(*wide)


def test_resume_of_a_finished_run_changes_nothing(uninterrupted):
    before = all_files(uninterrupted)
    assert resume(uninterrupted, *LONG) == 0
    assert {p: b for p, b in all_files(uninterrupted).items() if p.suffix != ".png"} == before


def test_resume_refuses_other_data_other_arguments_and_nothing(uninterrupted, tmp_path, capsys):
    world = tmp_path / "copy"
    shutil.copytree(uninterrupted, world)
    config = (world / "run/config.json").read_text()
    (world / "run/config.json").write_text(config.replace(str(uninterrupted), str(world)))
    before = all_files(world)

    def refused(*flags, out="run"):
        capsys.readouterr()
        assert resume(world, *flags, out=out) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert error.count("\n") == 1
        assert all_files(world) == before
        return error

    error = refused(*LONG, "--weight_decay", "0.3")
    assert all(word in error for word in ("--weight_decay", "0.01", "0.3"))
    assert "--seeds" in refused(*LONG[2:], "--seeds", "0-1")
    write_pickle(world / "train.pkl", TRAIN_ROWS[::-1])
    before = all_files(world)
    error = refused(*LONG)
    assert all(word in error for word in ("train.pkl", "changed", "--overwrite"))


@pytest.mark.parametrize("nth", [1, 2])
def test_resume_begins_a_run_that_was_killed_before_its_first_checkpoint(world, monkeypatch, nth):
    flags = words("--epochs 2 --seeds 0,1")
    assert go(world, *flags, out="whole") == 0
    with monkeypatch.context() as patch:
        kill_while_saving(patch, nth)
        assert go(world, *flags) == 130
    assert resume(world, *flags) == 0
    assert_same_run(world / "whole", world / "run", (0, 1))


def test_one_command_begins_goes_on_and_leaves_a_finished_run_alone(world, monkeypatch, capsys):
    flags = words("--epochs 3 --dropout 0.1")
    assert go(world, *flags, out="whole") == 0
    with monkeypatch.context() as patch:
        interrupt_at_step(patch, 8)
        assert resume(world, *flags) == 130
    assert resume(world, *flags) == 0
    assert_same_run(world / "whole", world / "run", (0,))
    before = all_files(world)
    capsys.readouterr()
    assert resume(world, *flags) == 0
    assert "finished and left as it is" in capsys.readouterr().out
    assert all_files(world) == before


def test_resume_never_begins_again_where_checkpoints_were_lost(world, capsys):
    flags = words("--epochs 2 --seeds 0,1")
    assert go(world, *flags) == 0
    for name in ("last.pth", "previous.pth"):
        (world / "run/seed_1" / name).unlink()
    before = all_files(world)
    assert resume(world, *flags) == 2
    assert "nothing to resume" in capsys.readouterr().err
    assert all_files(world) == before
    shutil.rmtree(world / "run/seed_1")
    assert resume(world, *flags) == 2
    assert "nothing to resume" in capsys.readouterr().err
    assert (world / "run/seed_0/last.pth").read_bytes() == before[world / "run/seed_0/last.pth"]
    (world / "run/config.json").unlink()
    assert resume(world, *flags) == 2
    assert "config.json" in capsys.readouterr().err


def test_command_to_resume_leaves_overwrite_out():
    line = t.resume_command(["--out_dir", "a b", "--overwrite", "--resume", "--epochs", "2"])
    assert shlex.split(line)[2:] == ["--out_dir", "a b", "--epochs", "2", "--resume"]
