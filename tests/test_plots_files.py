"""plots.py: files, command line, errors, and what of the user changes nothing."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

import plots
from metrics import repeat_effects
from run_folders import (
    add_only_rows,
    curriculum_rows,
    memorization,
    ood_results,
    study,
    write_json,
    write_rows,
)
from runtime.records import load_run

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def add_only(tmp_path):
    folder = tmp_path / "step1_add_only"
    write_rows(folder, add_only_rows())
    write_json(folder / "ood_results" / "ood_results.json", ood_results(add_only=True))
    return folder


@pytest.fixture
def five_tasks(tmp_path):
    folder = tmp_path / "fix_run_01"
    write_rows(folder, curriculum_rows())
    write_json(folder / "memorization.json", memorization())
    write_json(folder / "ood_results" / "ood_results.json", ood_results())
    return folder


def command(*args):
    line = [sys.executable, str(ROOT / "plots.py"), *map(str, args)]
    return subprocess.run(line, capture_output=True, text=True, check=False)


def test_figures_without_data_are_not_written(tmp_path):
    results = tmp_path / "ood_results"
    write_json(results / "ood_results.json", ood_results())
    paths = plots.write_figures(results)
    assert [p.name for p in paths] == ["ood_by_category.png", "ood_by_level.png", "failures.png"]
    assert sorted((results / "plots").iterdir()) == sorted(paths)  # and no temporary file
    write_rows(tmp_path / "new", [{"epoch": 1, "train_loss": 2.0}, {"epoch": 2, "train_loss": 1.0}])
    assert [p.name for p in plots.write_figures(tmp_path / "new")] == ["learning.png"]


def test_command_line_writes_each_run_into_its_folder_and_comparisons_beside(add_only, five_tasks):
    out = add_only.parent / "figures"
    done = command(add_only, five_tasks, "--out_dir", out)
    assert (done.returncode, done.stderr) == (0, "")
    listed, table, compared = done.stdout.split("\n\n", 2)
    paths = [Path(line) for line in listed.splitlines()]
    assert sorted(p for p in out.rglob("*") if p.is_file()) == sorted(paths)
    assert table.startswith("exact match by times in the training set")
    assert compared.startswith("Exact match in %: one model [95 % interval")
    names = {p.relative_to(out).as_posix() for p in paths}
    assert {"step1_add_only/learning.png", "compare_learning.png", "compare_ood.png"} <= names
    assert "step1_add_only/repeat_count.png" not in names
    head = (out / "compare_ood.png").read_bytes()[:8]
    assert head == b"\x89PNG\r\n\x1a\n"


def test_runs_of_one_name_are_told_apart(tmp_path):
    folders = [tmp_path / "a" / "seed_0", tmp_path / "b" / "seed_0"]
    assert plots.unique_names(folders) == ["a/seed_0", "b/seed_0"]


def test_import_and_help_leave_matplotlib_alone():
    code = "import sys, plots; sys.exit('matplotlib' in sys.modules or 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False)
    assert done.returncode == 0
    assert "learning.png" in command("--help").stdout


@pytest.mark.parametrize(
    ("prepare", "args", "said"),
    [
        (None, ["gone"], "gone does not exist"),
        ("empty", ["run"], "run holds no run: no epoch in a metrics.jsonl and no ood_results.json"),
        ("empty", ["run"], "but nothing at all; name a run folder"),
        ("foreign", ["run"], "but a.csv, b.csv, c/, d.csv and 2 more; name a run folder"),
        ("foreign", ["run", "run/c", "--out_dir", "figures"], "run holds no run"),
        ("above", ["run"], "or one of the folders in {run}, as {run}/b"),
        ("begun", ["run"], "finish an epoch, with a lower --lr if it diverged"),
        ("torn", ["run"], "no epoch in a metrics.jsonl"),
        ("broken", ["run"], "metrics.jsonl, line 1 should be an object, not [1]"),
        ("ood", ["run"], "ood_results.json is not readable as JSON"),
        ("good", ["run", "gone"], "add --out_dir"),
        ("good", ["run", "--out_dir", "run/metrics.jsonl"], "is a file, or lies in one"),
    ],
)
def test_mistakes_are_told_in_one_sentence_and_nothing_is_written(tmp_path, prepare, args, said):
    run = tmp_path / "run"
    run.mkdir()
    rows = {"torn": '{"epoch": 1, "tr', "broken": "[1]\n{}\n", "good": '{"epoch": 1, "lr": 1}\n'}
    if prepare in rows:
        (run / "metrics.jsonl").write_text(rows[prepare])
    if prepare == "foreign":
        (run / "c").mkdir()
        for name in "abdef":
            (run / f"{name}.csv").write_text("")
    if prepare in ("above", "begun"):
        home = run / "b" if prepare == "above" else run
        home.mkdir(exist_ok=True)
        config = {"arguments": {}, "seeds": [0], "derived": {}, "data": {}}
        (home / "config.json").write_text(json.dumps(config))
    if prepare == "ood":
        (run / "ood_results.json").write_text("{")
    before = sorted(tmp_path.rglob("*"))
    done = command(*(arg if arg.startswith("--") else tmp_path / arg for arg in args))
    assert done.returncode == 2
    assert said.format(run=run) in done.stderr
    assert done.stderr.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_what_is_no_run_is_passed_over_beside_runs(tmp_path):
    write_rows(tmp_path / "sweep/a", add_only_rows(2))
    (tmp_path / "sweep/submitit").mkdir()
    (tmp_path / "sweep/submitit/1_log.out").write_text("")
    (tmp_path / "sweep/notes.txt").write_text("")
    done = command(*sorted((tmp_path / "sweep").iterdir()), "--out_dir", tmp_path / "figures")
    assert done.returncode == 0
    notes = done.stderr.splitlines()
    assert len(notes) == 2
    assert notes[0].startswith(f"note: passed over: {tmp_path}/sweep/notes.txt is a file")
    assert f"{tmp_path}/sweep/submitit holds no run" in notes[1]
    assert "but 1_log.out;" in notes[1]
    assert (tmp_path / "figures/learning.png").exists()


def test_suites_asked_of_a_model_that_was_replaced_are_left_out_with_a_note(tmp_path):
    rows = [row | {"best": row["epoch"] in (2, 5), "seed": 0} for row in add_only_rows(6)]
    write_rows(tmp_path / "run", rows)
    home, old, new = tmp_path / "run/ood_results/ood_results.json", rows[1]["step"], rows[4]["step"]
    results = ood_results(add_only=True) | {"checkpoint": "best_model.pth", "seed": 0, "step": new}
    write_json(home, results)
    run = load_run(tmp_path / "run", "run")
    assert (bool(run.ood), run.notes) == (True, [])
    write_json(home, results | {"step": old})
    run = load_run(tmp_path / "run", "run")
    assert run.ood == {}
    assert f"they are of step {old:,}, and best_model.pth is of step {new:,} now" in run.notes[0]
    done = command(tmp_path / "run")
    assert done.stderr.startswith("note: run: the results of the suites are left out: ")
    assert not (tmp_path / "run/plots/ood_by_category.png").exists()
    # Where it is not known, or of the last model, whose step metrics.jsonl may not have.
    for other in ({"step": "?"}, {"seed": 7}, {"checkpoint": "last.pth"}):
        write_json(home, results | {"step": old} | other)
        assert load_run(tmp_path / "run", "run").notes == []


def test_one_replaced_model_of_several_seeds_is_enough(tmp_path):
    best = {0: 2, 1: 5, 2: 2}
    for seed, epoch in best.items():
        rows = [
            row | {"best": row["epoch"] in (2, epoch), "seed": seed} for row in add_only_rows(6)
        ]
        write_rows(tmp_path / f"seed_{seed}", rows)
        write_json(tmp_path / f"seed_{seed}/config.json", {"seed": seed})
    step = {epoch: add_only_rows(6)[epoch - 1]["step"] for epoch in (2, 5)}
    about = {"checkpoint": "best_model.pth", "seeds": [0, 1], "step": [step[2], step[2]]}
    write_json(tmp_path / "ood_results/ood_results.json", ood_results(add_only=True) | about)
    (note,) = load_run(tmp_path, "run").notes
    assert f"of step {step[2]:,} of seed 1, and best_model.pth is of step {step[5]:,} now" in note
    about["step"] = [step[2], step[5]]
    write_json(tmp_path / "ood_results/ood_results.json", ood_results(add_only=True) | about)
    assert load_run(tmp_path, "run").notes == []


def test_seeds_of_other_data_are_not_averaged(tmp_path):
    for seed in range(2):
        write_rows(tmp_path / f"seed_{seed}", add_only_rows(2, seed))
        config = {"seed": seed, "data": {"train": {"sha256": f"{seed}"}}}
        write_json(tmp_path / f"seed_{seed}" / "config.json", config)
    done = command(tmp_path)
    assert done.returncode == 2
    said = f"{tmp_path}/seed_1 differs from {tmp_path}/seed_0 in its training set, so they are not"
    assert said in done.stderr


def test_what_repetition_is_worth_is_printed_and_written(tmp_path, monkeypatch, capsys):
    folders = study(tmp_path, 3)[:2]
    monkeypatch.setattr(plots, "save_figures", lambda runs, out_dir, groups: [])
    assert plots.main([*map(str, folders), "--out_dir", str(tmp_path / "out")]) == 0
    written = json.loads((tmp_path / "out" / "repeat_effects.json").read_text())
    assert list(written) == ["normal", "dedup"]
    seeds = [memorization(seed, 0.085)["last"]["by_repeat_count"] for seed in range(3)]
    rows = [{row["group"]: row["exact_match"] for row in own} for own in seeds]
    values = [row[32] - row[1] for row in rows]
    effect = written["normal"][-1]
    assert (effect["repeat_count"], effect["minus"], effect["n_seeds"]) == (32, 1, 3)
    assert effect["values"] == values
    low, high = (repeat_effects(seeds)[-1][end] for end in ("low", "high"))
    assert (effect["low"], effect["high"]) == (low, high)
    shown = f"{100 * np.mean(values):+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"
    (line,) = [
        x for x in capsys.readouterr().out.splitlines() if x.split()[:3] == ["normal", "32", "1"]
    ]
    assert shown in line
    assert line.endswith("mean of 3 seeds")


def test_effect_lines_name_groups_of_counts_and_a_single_seed():
    effect = {"repeat_count": 4, "minus": 1, "n": 1200, "difference": 0.125, "grouped": True}
    one = {**effect, "n_seeds": 1, "low": -0.01, "high": 0.2}
    three = {**effect, "n_seeds": 3, "low": 0.1, "high": 0.15, "grouped": False}
    lines = plots.effect_lines({"a": [one], "b": [three], "none": []})
    assert lines[1].endswith("95 % interval, over seeds and examples")
    assert " ".join(lines[3].split()) == "a 4–7 1 1,200 +12.5 [-1.0, +20.0] one seed, Newcombe"
    assert " ".join(lines[4].split()) == "b 4 1 1,200 +12.5 [+10.0, +15.0] mean of 3 seeds"
    assert plots.effect_lines({"a": [one]})[1].endswith("95 % interval")
    assert plots.effect_lines({"none": []}) == []


def test_names_with_any_characters_are_drawn_as_they_are(tmp_path):
    results = ood_results()
    results["suites"]["ood_$x_$ {"] = {**results["suites"]["ood_robustness"], "category": "$\\a$"}
    write_json(tmp_path / "a$b^$" / "ood_results.json", results)
    assert plots.write_figures(tmp_path / "a$b^$")


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("MPLBACKEND", "module://matplotlib_inline.backend_inline"),
        ("MPLBACKEND", "nonsense"),
        ("MATPLOTLIBRC", "text.usetex: True\nfont.size: 40\nfigure.facecolor: black\n"),
    ],
)
def test_the_users_matplotlib_settings_change_nothing(tmp_path, monkeypatch, variable, value):
    write_rows(tmp_path / "run", add_only_rows(3))
    (plain,) = [p for p in plots.write_figures(tmp_path / "run") if p.name == "learning.png"]
    if variable == "MATPLOTLIBRC":
        (tmp_path / "matplotlibrc").write_text(value)
        value = str(tmp_path / "matplotlibrc")
    monkeypatch.setenv(variable, value)
    done = command(tmp_path / "run", "--out_dir", tmp_path / "again")
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "again" / "learning.png").read_bytes() == plain.read_bytes()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere names are Unicode")
def test_a_folder_whose_name_has_an_undecodable_byte(tmp_path):
    folders = [
        Path(os.fsdecode(os.fsencode(tmp_path / "run") + byte)) for byte in (b"\xff", b"\xfe")
    ]
    for folder in folders:
        write_rows(folder, add_only_rows(3))
    done = command(*folders, "--out_dir", tmp_path / "figures")
    assert (done.returncode, done.stderr) == (0, "")
    made = {path.name for path in (tmp_path / "figures").iterdir() if path.is_dir()}
    assert made == {"run\\xff", "run\\xfe"}


def test_what_drawing_raises_becomes_a_sentence_that_says_how_to_draw_again(tmp_path, monkeypatch):
    write_rows(tmp_path / "a run", add_only_rows(3))
    monkeypatch.chdir(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(plots, "new_figure", lambda *_: 1 / 0)
        paths, notice = plots.figures_or_notice(Path("a run"), Path("a run/plots"))
    assert paths == []
    assert notice.startswith("note: the figures could not be drawn (ZeroDivisionError: division by")
    assert notice.count("\n") == 0
    again = shlex.split(notice.split("draw them with: python ")[1])
    monkeypatch.chdir("/")
    assert command(*again[1:]).returncode == 0
    assert again[0] == str(ROOT / "plots.py")
    assert (tmp_path / "a run/plots/learning.png").exists()
    monkeypatch.setattr(plots, "write_atomically", mock.Mock(side_effect=OSError("full")))
    with pytest.raises(OSError, match="full"):
        plots.figures_or_notice(tmp_path / "a run", tmp_path / "x")
