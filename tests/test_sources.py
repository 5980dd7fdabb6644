"""Files found: standard sets from any working directory, and `~` in every path flag."""

import argparse
import errno
import importlib
import io
import os
import tempfile
from pathlib import Path

import pytest

import train_minigpt_4070 as t
from data.audit import load_data
from data.sources import require_file, standard_path
from runtime import cli
from runtime.errors import UserError
from runtime.files import ROOT, check_writable, write_atomically
from runtime.run_folder import append_lines

STANDARD = "data/add_only/train.pkl"
PATH_FLAGS = {  # of each script: its path flags, and what else it must be given
    "train_minigpt_4070": (["data", "val_data", "tokenizer", "out_dir"], []),
    "evaluate_ood": (["model", "tokenizer", "ood_dir", "train_data", "out_dir"], []),
    "plots": (["out_dir"], ["a"]),
    "data.generate": (["out"], []),
    "recipes.sweep": (
        ["data", "tokenizer", "out_dir"],
        ["--d_model", "8", "--seeds", "0"],
    ),
}


def test_a_standard_set_is_found_from_any_folder_and_the_folder_wins(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert standard_path(STANDARD) == ROOT / STANDARD
    assert standard_path("data/processed/val.pkl") == ROOT / "data/processed/val.pkl"
    assert standard_path("ood_data_complete") == ROOT / "ood_data_complete"
    assert standard_path("data/add_only/mine.pkl") == Path("data/add_only/mine.pkl")
    assert standard_path(tmp_path / STANDARD) == tmp_path / STANDARD
    assert require_file(STANDARD, "the training set") == ROOT / STANDARD
    Path(STANDARD).parent.mkdir(parents=True)
    Path(STANDARD).write_text("")
    assert standard_path(STANDARD) == Path(STANDARD)
    assert require_file(STANDARD, "the training set") == Path(STANDARD)


def test_a_device_or_pipe_is_called_what_it_is():
    with pytest.raises(UserError, match=f"{os.devnull} is a pipe or a device; write it to a file"):
        require_file(os.devnull, "the training set")


def test_standard_sets_train_from_any_folder_with_the_tokenizer_beside(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for data in (STANDARD, "data/processed/train_normal.pkl"):
        assert t.main(["--data", data, "--dry_run", "--device", "cpu"]) == 0
        loaded = load_data(data)
        assert loaded.files["tokenizer"]["path"] == str(ROOT / Path(data).parent / "tokenizer.json")
        assert loaded.files["val"]["path"] == str(ROOT / Path(data).parent / "val.pkl")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("script", PATH_FLAGS)
def test_a_tilde_is_the_home_folder_in_every_path_flag(script, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    names, others = PATH_FLAGS[script]
    parser = importlib.import_module(script).build_parser()
    args = vars(parser.parse_args([*others, *(f"--{name}=~/x" for name in names)]))
    for name in names:
        given = args[name] if isinstance(args[name], list) else [args[name]]
        assert list(map(str, given)) == [str(tmp_path / "x")], name
    paths = [a for a in parser._actions if a.metavar in ("FILE", "DIR", "RUN")]
    assert [a.dest for a in paths if a.type not in (cli.path, cli.path_text)] == []


def test_runs_of_plots_may_begin_with_a_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    args = importlib.import_module("plots").build_parser().parse_args(["~/a", "b"])
    assert args.runs == [str(tmp_path / "a"), "b"]


def test_a_home_folder_that_does_not_exist_is_told():
    with pytest.raises(argparse.ArgumentTypeError, match="~nobody_of_this_name/x names a home"):
        cli.path("~nobody_of_this_name/x")


def no_space(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_is_told_with_the_path(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", no_space)
    for write in (
        lambda: write_atomically(tmp_path / "a.json", "1"),
        lambda: append_lines(tmp_path / "b.jsonl", [{"step": 1}]),
    ):
        with pytest.raises(OSError, match="No space left") as told:
            write()
        assert told.value.filename in (str(tmp_path / "a.json"), str(tmp_path / "b.jsonl"))
    assert [path.name for path in tmp_path.iterdir()] == ["b.jsonl"]


def test_a_full_disk_is_found_before_work(tmp_path, monkeypatch):
    """It takes a new file, but nothing in it."""

    class Full(io.BytesIO):
        flush = no_space

    monkeypatch.setattr(tempfile, "TemporaryFile", lambda dir: Full())
    with pytest.raises(UserError, match=r"--out_dir .*new cannot be written \(No space left"):
        check_writable(tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("call", ["mkdir", "open"])
def test_a_folder_that_cannot_be_written_is_told_with_the_path(tmp_path, monkeypatch, call):
    """A temporary file's name says nothing to the user."""
    if call == "mkdir":
        monkeypatch.setattr(Path, "mkdir", no_space)
    else:
        monkeypatch.setattr("builtins.open", no_space)
    with pytest.raises(OSError, match="No space left") as told:
        write_atomically(tmp_path / "a.json", "1")
    assert told.value.filename == str(tmp_path / "a.json")
