"""Run folders: what counts as one, what is removed from it, and what it records of the program."""

import subprocess

from runtime import device


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
