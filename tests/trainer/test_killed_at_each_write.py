"""Runs that die at one of their writes, and must end as one that nothing happened to.

    pytest -m faults tests/trainer/test_killed_at_each_write.py      # at each write in turn

A kill is an exception at the n-th call that makes, renames or removes a file; after it every such
call fails, as those of a dead process are never made. The kills by signal are in tests/faults.
"""

import json
import os
from pathlib import Path

import numpy as np
import pytest

import plots
from tests.faults.victims import fingerprint
from trainer.helpers import draw_rows, go, resume, words, write_pickle

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/fd").exists(), reason="names a file by its descriptor"
)

FEW = words("--d_model 8 --batch_size 16 --no-show_samples")


class Killed(BaseException):
    pass


def die_at(monkeypatch, nth, what=""):
    """Raise Killed at the `nth` write from now on whose name begins with `what`, and at all later
    ones. Returns the names.

    A file that is synchronized then is left torn: it lacks its last bytes.
    """
    calls, dead = [], []

    def mortal(original):
        def call(target, *args, **kwargs):
            name = target
            if original is fsync:
                name = os.readlink(f"/proc/self/fd/{target}")
            calls.append(f"{original.__name__} {Path(name).name}")
            if dead:
                raise Killed
            if sum(name.startswith(what) for name in calls) == nth:
                dead.append(calls[-1])
                if original is fsync:
                    os.ftruncate(target, os.fstat(target).st_size - 3)
                raise Killed
            return original(target, *args, **kwargs)

        return call

    fsync = os.fsync
    for name in ("fsync", "replace", "unlink", "mkdir"):
        monkeypatch.setattr(os, name, mortal(getattr(os, name)))
    return calls


def without_place(config):
    """A config.json without where the run is, and its command, when it came and to what program."""
    apart = ("git_commit", "git_changed", "command", "begun")
    content = {name: value for name, value in config.items() if name not in apart}
    for name in ("arguments", "arguments_before"):
        if name in content:
            content[name] = {**content[name], "resume": None, "out_dir": None}
    return content


def everything(run):
    """All that a run's folder holds, but for seconds and the lock: {file: content}."""
    parts = fingerprint(run)
    for path in sorted(p for p in run.rglob("*") if p.is_file()):
        name = str(path.relative_to(run))
        if path.name == "config.json":
            parts[name] = without_place(json.loads(path.read_text()))
        elif path.name == "ledger.npz":
            with np.load(path) as arrays:
                parts[name] = {key: arrays[key].tolist() for key in arrays}
        elif path.name not in (".lock", "previous.pth", "next.pth"):
            parts.setdefault(name, path.read_bytes())
    return parts


def draw(run, out_dir):
    """A figure that shows how many epochs there are in the run's folder."""
    n = sum(path.read_text().count("\n") for path in run.rglob("metrics.jsonl"))
    out_dir.mkdir(exist_ok=True)
    (out_dir / "learning.png").write_text(f"{n} epochs")
    return [out_dir / "learning.png"], ""


SCENARIOS = {  # the commands of a run, one after the other; the last one is killed
    "panel": ["--seeds 0-1 --subset 0.5 --canaries 1 --batch_size 512 --epochs 2"],
    "save_every_2": ["--epochs 3 --save_every 2 --save_every_steps 4 --dropout 0.2"],
    "stops_early": ["--seeds 0-1 --epochs 4 --patience 1 --min_delta 0.15 --lr 1e-4"],
    "more_epochs": ["--seeds 0-1 --epochs 1", "--seeds 0-1 --epochs 2"],
    "more_epochs_of_one": ["--epochs 1", "--epochs 2"],
    "more_patience": [f"--epochs 4 --min_delta 0.9 --patience {n}" for n in (1, 2)],
    "more_seeds": ["--seeds 0-1 --epochs 1", "--seeds 0-3 --epochs 1"],
    "more_seeds_of_a_panel": [
        "--seeds 0-1 --subset 0.5 --canaries 1 --batch_size 512 --epochs 1",
        "--seeds 0-3 --subset 0.5 --canaries 1 --batch_size 512 --epochs 1",
    ],
}


@pytest.fixture
def begin(world, monkeypatch):
    """A function that gives a scenario's commands but the last to a folder, and returns the last.

    It makes the undisturbed run too, in `whole`.
    """
    monkeypatch.setattr(plots, "figures_or_notice", draw)
    write_pickle(world / "val.pkl", draw_rows(8, seed=21, tags=("copy", "add")))

    def give(name, out):
        n_rows = 3300 if "panel" in name else 40  # canaries are at most 2 % of a seed's rows
        write_pickle(world / "train.pkl", draw_rows(n_rows, seed=20, tags=("copy", "add")))
        *before, last = ([*FEW, *words(flags)] for flags in SCENARIOS[name])
        for flags in before:
            assert resume(world, *flags, out=out) == 0
        if not (world / "whole").exists():
            for flags in [*before, last]:
                assert resume(world, *flags, out="whole") == 0
        return last

    return give


def kill_and_resume(world, flags, out, nth, what=""):
    """(The write that the run died at, or "" if it did not; what is not as in `whole`)."""
    with pytest.MonkeyPatch.context() as patch:
        calls = die_at(patch, nth, what)
        try:
            assert go(world, *flags, "--resume", out=out) == 0
            return "", []
        except Killed:
            died = [name for name in calls if name.startswith(what)][nth - 1]
    assert resume(world, *flags, out=out) == 0
    whole, found = everything(world / "whole"), everything(world / out)
    return died, sorted(k for k in whole.keys() | found.keys() if whole.get(k) != found.get(k))


@pytest.mark.parametrize(
    ("name", "what", "nth"),
    [
        ("more_epochs", "replace .config.json", 2),  # the run's has the new epochs, no seed's has
        ("more_epochs", "unlink .memorization.json", 2),  # the figures are those of fewer epochs
        ("panel", "replace .canaries.jsonl", 1),  # config.json is there
        ("more_epochs_of_one", "fsync metrics.jsonl", 1),
    ],
)
def test_killed_between_two_files_that_belong_together(world, begin, name, what, nth):
    died, different = kill_and_resume(world, begin(name, "killed"), "killed", nth, what)
    assert died.startswith(what)
    assert different == []


@pytest.mark.faults
@pytest.mark.parametrize("name", SCENARIOS)
def test_killed_at_each_write_and_resumed_equals_undisturbed(world, begin, capsys, name):
    different, n, died = {}, 0, "before any"
    while died:
        n += 1
        died, parts = kill_and_resume(world, begin(name, f"killed_{n}"), f"killed_{n}", n)
        if parts:
            different[n, died] = parts
    with capsys.disabled():
        print(f"\n{name}: killed at each of {n - 1} writes, {len(different)} runs differ")
    assert different == {}
