"""The tables that runs write have the columns of docs/formats.md, in the types given there."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest

import evaluate_memorization
import evaluate_ood
import plots
from ood_models import make_home, save_model
from panels import mixture, sums, write_panel
from trainer.conftest import make_world
from trainer.helpers import SEEN_ROWS, draw_rows, go, words

PAGE = Path(evaluate_ood.__file__).parent / "docs/formats.md"
NEVER = "–"


def number(value):
    return type(value) in (int, float)


def whole(value):
    return type(value) is int


def share(value):
    return number(value) and 0 <= value <= 1


def text(value):
    return type(value) is str


def object_of(kind):
    return lambda value: type(value) is dict and all(map(kind, value.values()))


KINDS = {  # a type in the page -> whether a value of JSON has it
    "whole number": whole,
    "number": number,
    "share": share,
    "text": text,
    "true or false": lambda value: type(value) is bool,
    "list of texts": lambda value: type(value) is list and all(map(text, value)),
    "object of shares": object_of(share),
    "object of whole numbers": object_of(whole),
}
READ = {  # a type in the page -> how a cell of CSV is read; ValueError where it has another
    "whole number": int,
    "number": float,
    "share": float,
    "text": str,
    "0 or 1": lambda cell: {"0": False, "1": True}[cell],
}


def schema(file):
    """{column: (type, when null)} in the page's table of a file."""
    section = re.search(rf"^### {re.escape(file)}\n(.*?)(?=^##)", PAGE.read_text(), re.M | re.S)[1]
    columns = {}
    for line in re.findall(r"^\| (`.*) \|$", section, re.M):
        names, kind, _unit, null, _meaning = (cell.strip() for cell in line.split(" |", 4))
        for name in re.findall(r"`(\w+)`", names):
            assert name not in columns, name
            columns[name] = kind, null
    return columns


def columns_of(rows, file):
    """Hold each row, a dict, to the schema; the columns that have a value somewhere."""
    columns, valued = schema(file), set()
    for row in rows:
        assert set(row) <= set(columns), sorted(set(row) - set(columns))
        for name, (kind, null) in columns.items():
            value = row.get(name)
            if value is None:
                assert null != NEVER, f"{name} is null or absent in {row}"
            else:
                assert KINDS[kind](value), f"{name} should be {kind}, not {value!r}"
                valued.add(name)
    return valued


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


# ----------------------------------------------------------------------------------------------
# real runs
# ----------------------------------------------------------------------------------------------


PANEL = "--epochs 2 --eval_every 2 --seeds 0-5 --subset 0.5 --canaries 1 --batch_size 64"


@pytest.fixture(scope="module")
def worlds(tmp_path_factory):
    """{name: world with a run}: usual, all validation seen, repeats, a panel with canaries."""
    found = {}
    rows = draw_rows(600, seed=40, tags=("add", "copy"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plots, "write_figures", lambda *args, **kwargs: [])
        for name, flags, sets in (
            ("usual", "--epochs 4 --task_curriculum --eval_every 2", {}),
            ("seen", "--epochs 2 --eval_log 3", {"val_rows": SEEN_ROWS}),
            ("repeats", "--epochs 1", {"train_rows": [*rows[:60], *rows[:30], *rows[:30]]}),
            ("panel", PANEL, {"train_rows": rows * 6}),
        ):
            found[name] = make_world(tmp_path_factory.mktemp(name), **sets)
            assert go(found[name], *words(flags)) == 0
    return found


def test_metrics(worlds):
    rows = [
        row
        for name in ("usual", "seen", "repeats")
        for row in lines_of(worlds[name] / "run/metrics.jsonl")
    ]
    rows += [row for f in worlds["panel"].glob("run/seed_*/metrics.jsonl") for row in lines_of(f)]
    assert columns_of(rows, "metrics.jsonl") == set(schema("metrics.jsonl"))


def test_predictions(tmp_path, monkeypatch):
    home = make_home(tmp_path)
    monkeypatch.setattr(plots, "write_figures", lambda *args, **kwargs: [])
    rows = []
    learned = save_model(home / "learned/best_model.pth", home / "train.txt", pos="learned")
    for model in (home / "run", home / "seeds", learned):
        argv = ["--model", model, "--ood_dir", home / "suites", "--out_dir", tmp_path / "out"]
        assert evaluate_ood.main([str(a) for a in [*argv, "--device", "cpu"]]) == 0
        rows += lines_of(tmp_path / "out/predictions.jsonl")
    (home / "train.txt").rename(home / "moved.txt")  # what is seen is unknown then
    assert evaluate_ood.main([str(a) for a in [*argv, "--device", "cpu"]]) == 0
    rows += lines_of(tmp_path / "out/predictions.jsonl")
    assert columns_of(rows, "predictions.jsonl") == set(schema("predictions.jsonl"))
    for name in ("seen_in_training", "lookup_right", "prediction", "level", "level_text"):
        assert {row[name] is None for row in rows} == {False, True}, name


@pytest.fixture(scope="module")
def per_example(worlds):
    """per_example.csv of the panel."""
    folder = worlds["panel"] / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluate_memorization, "write_figures", lambda *args: [])
        assert evaluate_memorization.main(["--model", str(folder), "--device", "cpu"]) == 0
    return folder / "memorization/per_example.csv"


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    """per_example.csv of a scripted panel: the one of the real run learns nothing so soon."""
    folder, rows = tmp_path_factory.mktemp("learned"), sums(np.random.default_rng(0), 60)
    write_panel(folder, mixture(0.5), rows[:50], rows[50:], R=4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluate_memorization, "write_figures", lambda *args: [])
        assert evaluate_memorization.main(["--model", str(folder), "--ledger_only"]) == 0
    return folder / "memorization/per_example.csv"


def test_examples_of_a_panel(per_example, learned):
    columns, valued, rows = schema("per_example.csv"), set(), []
    for path in (per_example, learned):
        with open(path, newline="", encoding="utf-8") as file:
            rows += csv.DictReader(file)
        assert list(rows[-1]) == list(columns)
    for row in rows:
        for name, (kind, null) in columns.items():
            if row[name] == "":
                assert null != NEVER, f"{name} is empty in {row}"
            else:
                value = READ[kind](row[name])
                assert kind != "share" or 0 <= value <= 1, name
                valued.add(name)
    assert valued == set(columns)
    assert {row["canary"] for row in rows} == {"0", "1"}
    assert all((row["repeat_count"] == "") is (row["canary"] == "1") for row in rows)


def test_pandas_keeps_the_types(worlds, per_example, tmp_path, monkeypatch):
    """The code of the page, on files of these runs."""
    pd = pytest.importorskip("pandas", reason="the package pandas is not installed")
    home = make_home(tmp_path)
    monkeypatch.setattr(plots, "write_figures", lambda *args, **kwargs: [])
    argv = ["--model", home / "run", "--ood_dir", home / "suites", "--device", "cpu"]
    assert evaluate_ood.main([str(a) for a in [*argv, "--out_dir", tmp_path / "ood"]]) == 0
    code = re.search(r"^```python\n(import pandas.*?)^```", PAGE.read_text(), re.M | re.S)[1]
    for named, path in (
        ("runs/x/metrics.jsonl", worlds["usual"] / "run/metrics.jsonl"),
        ("runs/x/ood_results/predictions.jsonl", tmp_path / "ood/predictions.jsonl"),
        ("runs/x/memorization/per_example.csv", per_example),
    ):
        assert named in code
        code = code.replace(named, str(path))
    names = {}
    exec(code, names)
    assert names["epochs"]["epoch"].tolist() == [1, 2, 3, 4]
    assert names["epochs"]["val_loss"].isna().tolist() == [True, False, True, False]
    assert set(map(type, names["said"]["answer"])) == {str}
    for column, (kind, _) in schema("per_example.csv").items():
        is_number = pd.api.types.is_numeric_dtype(names["examples"][column].dtype)
        assert is_number is (kind != "text"), column
