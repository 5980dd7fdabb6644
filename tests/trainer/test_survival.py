"""Runs that are killed, that lose their folder or that find the disk full.

The heavy versions are in tests/faults/test_survive.py.
"""

import os
import shutil
from pathlib import Path

import pytest
import torch

import train_minigpt_4070 as t
from trainer.helpers import (
    CPU,
    LONG,
    assert_same_run,
    at_step,
    command,
    full_disk_from,
    go,
    interrupt_at_step,
    kill_while_saving,
    resume,
)


@pytest.mark.parametrize("step", [1, 5, 17])
def test_resumed_inside_an_epoch_equals_uninterrupted(uninterrupted, world, monkeypatch, step):
    flags = [*LONG, "--save_every_steps", "2", "--save_every", "9"]
    with monkeypatch.context() as patch:
        interrupt_at_step(patch, step)
        assert go(world, *flags) == 130
    for seed in range(3):
        last = torch.load(world / f"run/seed_{seed}/last.pth", weights_only=True)
        assert last["step"] == step - step % 2
    assert resume(world, *flags) == 0
    assert_same_run(uninterrupted / "run", world / "run", range(3))


def test_killed_twice_between_the_files_of_two_seeds(uninterrupted, world, monkeypatch):
    """The second kill leaves no common step, if the first seed's file of the first one counts."""
    flags = [*LONG, "--save_every_steps", "1"]
    for resumed, nth in ((False, 8), (True, 2), (True, 3)):
        with monkeypatch.context() as patch:
            kill_while_saving(patch, nth)
            assert (resume if resumed else go)(world, *flags) == 130
    assert resume(world, *flags) == 0
    assert_same_run(uninterrupted / "run", world / "run", range(3))


@pytest.mark.skipif(os.name == "nt", reason="needs fork and POSIX signals")
def test_kill_9_changes_nothing(uninterrupted, world):
    from tests.faults.victims import Victims

    flags = [*LONG, "--save_every_steps", "2", "--resume"]
    with Victims() as victims:
        for job in ({"die_at": (5, "torn")}, {"die_at": (8, "renamed")}, {"after": 0.3}):
            code = victims.run(command(world, *flags), world / "log", **job)
            assert code in ((-9, 0) if "after" in job else (-9,)), (world / "log").read_text()
        assert victims.run(command(world, *flags), world / "log") == 0
    assert_same_run(uninterrupted / "run", world / "run", range(3))


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="names a file by its descriptor")
@pytest.mark.parametrize("name", ["next.pth", "best_model.pth", "metrics.jsonl"])
def test_full_disk_keeps_what_was_saved(uninterrupted, world, monkeypatch, capsys, name):
    kept = ("last.pth", "previous.pth")
    with monkeypatch.context() as patch:
        interrupt_at_step(patch, 14)
        assert go(world, *LONG) == 130
    folders = [world / f"run/seed_{seed}" for seed in range(3)]
    before = [[(f / name).read_bytes() for name in kept] for f in folders]
    with monkeypatch.context() as patch:
        full_disk_from(patch, name)
        capsys.readouterr()
        assert resume(world, *LONG) == 5
    error = capsys.readouterr().err
    assert error.startswith(
        f"stopped: cannot read or write in {world / 'run'} (No space left on device);"
    )
    assert error.count("\n") == 1
    assert [[(f / name).read_bytes() for name in kept] for f in folders] == before
    assert list(world.rglob("*.tmp")) == []
    for folder in folders:
        t.load_model(folder / "best_model.pth", CPU)
    assert resume(world, *LONG) == 0
    assert_same_run(uninterrupted / "run", world / "run", range(3))


def test_run_folder_that_vanishes_is_not_made_again(world, monkeypatch, capsys):
    at_step(monkeypatch, 3, lambda: shutil.rmtree(world / "run"))
    assert go(world, "--epochs", "2", "--save_every_steps", "1") == 5
    assert "cannot read or write in" in capsys.readouterr().err
    assert not (world / "run").exists()


def test_run_folder_that_vanishes_before_the_report_is_told_so(world, monkeypatch, capsys):
    original = t.write_memorization

    def vanished(replica, *args):
        shutil.rmtree(replica.folder)
        return original(replica, *args)

    monkeypatch.setattr(t, "write_memorization", vanished)
    assert go(world, "--epochs", "1") == 5
    assert "cannot read or write in" in capsys.readouterr().err
    assert not (world / "run").exists()
