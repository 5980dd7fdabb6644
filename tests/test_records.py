"""Records of a run that are not what they should be: one sentence with file and place, code 2."""

import json

import pytest

import plots
from data.formats import UserError
from runtime.records import load_run

GOOD = {
    "config.json": {"seeds": [0], "data": {"audit": {"val_unseen": 5}}, "derived": {"stages": []}},
    "metrics.jsonl": {"epoch": 1, "val_exact_match": 0.5, "val_n": 10, "tasks": ["add"]},
    "memorization.json": {
        "format": 2,
        "best": {"epoch": 3, "by_repeat_count": [{"group": 1, "n": 10, "exact_match": 0.5}]},
        "last": {"epoch": 9, "by_repeat_count": [{"group": 1, "n": 10, "exact_match": 0.7}]},
    },
    "ood_results/ood_results.json": {
        "headline": {"extrapolation": {"n": 2, "exact_match": 0.5, "failures": {"ran_on": 1}}},
        "suites": {"ood_x": {"category": "extrapolation", "left_out": {"untrained_tag": 0}}},
    },
}


def write(folder, **replaced):
    for name, content in GOOD.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        content = replaced.get(path.stem, content)
        text = content if isinstance(content, bytes) else json.dumps(content).encode()
        path.write_bytes(text + b"\n" if name.endswith("l") and content else text)
    return folder


def test_the_good_ones_load(tmp_path):
    run = load_run(write(tmp_path), "run")
    assert run.seeds[0][0]["val_exact_match"] == 0.5
    assert run.ood["headline"]["extrapolation"]["n"] == 2


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("config", [], "config.json should be an object, not []"),
        ("config", {"derived": []}, "config.json: derived should be an object"),
        ("config", {"derived": {"stages": [None]}}, "stages[0] should be an object, not None"),
        ("config", {"derived": {"stages": [{"tasks": [1]}]}}, "tasks[0] should be a text, not 1"),
        ("config", b"\x80\x04\x95junk", "config.json is not readable as JSON"),
        ("config", b"[" * 100_000, "config.json is not readable as JSON"),
        ("config", b'{"data": {"audit', "config.json is not readable as JSON"),
        ("metrics", {"epoch": "1"}, "metrics.jsonl, line 1: epoch should be a whole number"),
        ("metrics", {"epoch": True}, "not True"),
        ("metrics", {"val_loss": "nan"}, "val_loss should be a number, not 'nan'"),
        ("metrics", {"val_loss": 10**400}, "val_loss should be a number, not 1000"),
        ("metrics", {"val_exact_match": 1.5}, "should be a number from 0 to 1, not 1.5"),
        ("metrics", {"tasks": "add"}, "tasks should be a list, not 'add'"),
        ("metrics", {"val_exact_match_by_task": [1]}, "should be an object, not [1]"),
        ("metrics", {"val_n_by_task": {"a\nb": 1}}, "a key should be a text"),
        (
            "metrics",
            {"train_exact_match_by_repeat_count": {"often": 0.5}},
            "a key should be a whole number from 1 on as a text, not 'often'",
        ),
        ("metrics", {"train_n_by_repeat_count": {"0": 1}}, "from 1 on as a text, not '0'"),
        ("metrics", {"train_n_by_repeat_count": {"1": 0.5}}, "should be a whole number"),
        ("memorization", {"last": []}, "last should be an object, not []"),
        ("memorization", {"best": {"by_repeat_count": {}}}, "by_repeat_count should be a list"),
        ("memorization", {"last": {"by_repeat_count": ["x"]}}, "by_repeat_count[0] should be an"),
        ("memorization", {"last": {"by_repeat_count": [{"group": "once"}]}}, "not 'once'"),
        ("memorization", {"by_repeat_count": []}, "memorization.json is of an earlier version"),
        ("ood_results", {"headline": {"x": {"n": 2.5}}}, "headline: x: n should be a whole number"),
        ("ood_results", {"headline": {"x": {"failures": {"ran_on": -1}}}}, "from 0 on, not -1"),
        ("ood_results", {"suites": []}, "suites should be an object, not []"),
        ("ood_results", {"suites": {"s": 3}}, "suites: s should be an object, not 3"),
        ("ood_results", {"suites": {"s": {"by_level": [7]}}}, "by_level[0] should be an object"),
        ("ood_results", {"suites": {"s": {"category": "\ud800"}}}, "category should be a text"),
        ("ood_results", {"training_range": {"add": [1]}}, "add should be a pair of numbers"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, name, content, said, capsys):
    run = write(tmp_path / "run", **{name: content})
    assert plots.main([str(run), "--out_dir", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {run}")
    assert said in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_null_and_not_a_number_are_as_good_as_missing(tmp_path):
    rows = {"epoch": 1, "val_exact_match": None, "val_loss": float("nan"), "tasks": None}
    ood = {"headline": {"robustness": None}, "suites": {"ood_x": None}, "training_range": None}
    run = load_run(write(tmp_path, metrics=rows, ood_results=ood), "run")
    assert set(run.seeds[0][0]) <= {"epoch", "generalization_gap_low", "generalization_gap_high"}
    assert run.ood == {"headline": {}, "suites": {}}


def test_rows_of_repeat_counts_without_a_count_are_left_out(tmp_path):
    rows = [
        {"n": 1, "exact_match": 1},
        {"group": 2, "n": 0},
        {"group": 1, "n": 4, "exact_match": 1},
    ]
    record = {"format": 2, "last": {"by_repeat_count": rows}}
    run = load_run(write(tmp_path, memorization=record), "run")
    assert run.memorization[0]["by_repeat_count"] == rows[2:]


def test_memorization_is_that_of_the_last_model_or_of_the_best_where_no_seed_has_a_last(tmp_path):
    run = load_run(write(tmp_path / "one"), "run")
    assert run.memorization_of == "last"
    assert [report["epoch"] for report in run.memorization] == [9]
    best = {"format": 2, "best": GOOD["memorization.json"]["best"], "last": None}
    run = load_run(write(tmp_path / "diverged", memorization=best), "run")
    assert run.memorization_of == "best"
    assert [report["epoch"] for report in run.memorization] == [3]
    # Of two seeds the one that diverged has no last model: it stays out, or two kinds would be one.
    write(tmp_path / "two/seed_0")
    write(tmp_path / "two/seed_1", memorization=best)
    run = load_run(tmp_path / "two", "run")
    assert (run.memorization_of, len(run.memorization)) == ("last", 1)


def hashes(train="a", val="b"):
    return {"train": {"sha256": train}, "val": {"sha256": val}}


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"seed": 1, "data": hashes(), "arguments": {"lr": 1, "seed": 1, "device": "cuda"}}, ""),
        ({"seed": 0, "data": hashes(), "arguments": {"lr": 1}}, "both hold seed 0"),
        ({"seed": 1, "data": hashes(train="c"), "arguments": {"lr": 1}}, "its training set"),
        ({"seed": 1, "data": hashes(val="c"), "arguments": {"lr": 1}}, "its validation set"),
        ({"seed": 1, "data": hashes(), "arguments": {"lr": 2}}, "--lr (2 and 1)"),
    ],
)
def test_seeds_of_a_folder_must_be_of_one_run_and_distinct(tmp_path, other, said):
    first = {"seed": 0, "data": hashes(), "arguments": {"lr": 1, "seed": 0, "device": "cpu"}}
    for i, config in enumerate((first, other)):
        write(tmp_path / f"seed_{i}", config=config)
    if not said:
        assert len(load_run(tmp_path, "run").seeds) == 2
        return
    with pytest.raises(UserError) as error:
        load_run(tmp_path, "run")
    assert said in str(error.value)
    assert str(tmp_path / "seed_1") in str(error.value)


def test_a_folder_without_records_is_told(tmp_path):
    with pytest.raises(UserError, match=r"no epoch in a metrics.jsonl and no ood_results.json"):
        load_run(tmp_path, "run")
