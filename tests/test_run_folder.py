"""Run folders: what counts as one, what is removed from it, and what it records of the program."""

import argparse
import subprocess

from runtime import device
from runtime.run_folder import NO_FORM, written
from train_minigpt_4070 import build_parser


def git(folder, *arguments):
    name = ("-c", "user.name=a", "-c", "user.email=a@b")
    subprocess.run(["git", "-C", folder, *name, *arguments], check=True, capture_output=True)


def test_the_recorded_commit_says_whether_the_program_was_changed(tmp_path, monkeypatch):
    monkeypatch.setattr(device, "ROOT", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert device.git_state() == {"git_commit": None, "git_changed": None}
    git(tmp_path, "init")
    (tmp_path / "a.py").write_text("1")
    git(tmp_path, "add", "a.py")
    git(tmp_path, "commit", "-m", "first")
    commit = device.git_state()["git_commit"]
    assert len(commit) == 40
    (tmp_path / "notes.txt").write_text("not tracked")
    assert device.git_state() == {"git_commit": commit, "git_changed": False}
    (tmp_path / "a.py").write_text("2")
    assert device.git_state() == {"git_commit": commit, "git_changed": True}


def test_flags_are_named_as_a_command_gives_them():
    """As argparse knows them: which switches have a form that turns them off."""
    actions = build_parser()._actions
    assert {a.dest for a in actions if isinstance(a, argparse.BooleanOptionalAction)} == NO_FORM
    cases = [
        ("autoreg_eval", True, "with --autoreg_eval"),
        ("autoreg_eval", False, "with --no-autoreg_eval"),
        ("use_checkpoint", True, "with --use_checkpoint"),
        ("use_checkpoint", False, "without --use_checkpoint"),
        ("d_ff", None, "without --d_ff"),
        ("lr", 0.1, "with --lr 0.1"),
        ("seeds", [0, 3], "with --seeds 0,3"),
    ]
    assert [written(name, value) for name, value, _ in cases] == [text for *_, text in cases]
