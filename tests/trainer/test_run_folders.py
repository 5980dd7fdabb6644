"""Whose files a run takes, leaves or replaces in its folder."""

import json

import pytest

from runtime.records import seed_folders
from trainer.helpers import all_files, go, resume, words


def test_a_refused_command_leaves_a_finished_run_as_it_was(world, capsys):
    assert go(world, "--epochs", "1") == 0
    before = sorted(world.rglob("*")), all_files(world)
    assert resume(world, *words("--epochs 1 --seeds 0-1")) == 2
    assert "--out_dir" in capsys.readouterr().err
    assert (sorted(world.rglob("*")), all_files(world)) == before
    (world / "run/seed_0").mkdir()  # as an earlier version left it
    assert seed_folders(world / "run") == []
    assert resume(world, "--epochs", "1") == 0


FOREIGN = ["plots/mine.png", "plots/deeper/learning.png", "tensorboard/notes.txt"]
FOREIGN += ["ood_results/mine.json", "seed_0/notes.txt", ".mine.tmp", "notes.txt"]
OURS = ["plots/learning.png", "plots/repeat_effects.json", "ood_results_last/ood_results.json"]
OURS += ["ood_results/predictions.jsonl", "tensorboard/events.out.tfevents.1.host"]


@pytest.mark.parametrize("flags", [["--overwrite"], ["--overwrite", "--seeds", "0,1"]])
def test_overwrite_removes_what_a_run_writes_and_nothing_else(world, flags):
    assert go(world, "--epochs", "2") == 0
    for name in (*FOREIGN, *OURS):
        (world / "run" / name).parent.mkdir(parents=True, exist_ok=True)
        (world / "run" / name).write_text(name)
    assert go(world, "--epochs", "1", *flags) == 0
    assert [name for name in FOREIGN if (world / "run" / name).read_text() != name] == []
    assert [name for name in OURS if (world / "run" / name).exists()] == []
    assert not (world / "run/ood_results_last").exists()  # empty
    assert (world / "run/tensorboard").exists()


@pytest.mark.parametrize("flags", [[], ["--resume"], ["--overwrite"], ["--seeds", "0,1"]])
def test_a_config_of_somebody_else_is_never_replaced(world, capsys, flags):
    (world / "run").mkdir()
    (world / "run/config.json").write_text(json.dumps({"model": "bert", "seeds": [0]}))
    before = sorted(world.rglob("*")), all_files(world)
    assert go(world, "--epochs", "1", *flags) == 2
    error = capsys.readouterr().err
    assert all(part in error for part in ("run/config.json is not of a run", "--out_dir"))
    assert (sorted(world.rglob("*")), all_files(world)) == before
