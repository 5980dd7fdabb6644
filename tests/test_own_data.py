"""From own data to a model in one step: the tokenizer that is made, the tenth that is held out."""

import json
import pickle
import random

import numpy as np
import pytest

import evaluate_ood
import plots
import train_minigpt_4070 as t
from data.audit import held_out_rows, load_data
from data.formats import load_examples, load_tokenizer
from data.readers import RowFormat, columns_flag
from data.sources import default_out_dir
from data.tasks import key_of
from runtime.errors import UserError
from runtime.files import ROOT, sha256_of

TINY = "--d_model 16 --n_layers 1 --n_heads 2 --warmup_steps 2 --epochs 2 --device cpu --amp fp32"


def draw_rows(n, seed=0):
    """n rows of two tags; sums repeat, in both orders and with leading zeros."""
    rng, rows = random.Random(seed), []
    for i in range(n):
        a, b = rng.randrange(12), rng.randrange(12)
        rows.append(f"[add] {a:02} + {b} | {a + b}" if i % 3 else f"[copy] {a} {b} | {a} {b}")
    return rows


def write_lines(path, rows):
    path.write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """The working directory, with nothing in it but mine.txt."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plots, "write_figures", lambda *args, **kwargs: [])
    return write_lines(tmp_path / "mine.txt", draw_rows(300))


def go(*flags):
    return t.main([*map(str, flags), *TINY.split()])


def raws(examples):
    return [examples.raw(i) for i in range(len(examples))]


# ----------------------------------------------------------------------------------------------
# The held-out tenth
# ----------------------------------------------------------------------------------------------


def test_a_tenth_of_each_tag_is_held_out_and_no_example_is_on_both_sides(mine):
    data = load_data(mine)
    train, val = (set(map(key_of, raws(part))) for part in (data.train, data.val))
    assert sorted(raws(data.train) + raws(data.val)) == sorted(draw_rows(300))
    assert train & val == set()
    assert data.audit["val_unseen"] == len(val)
    for tag in ("add", "copy"):
        mine_of = [key for key in train | val if key.startswith(f"[{tag}]")]
        assert sum(key in val for key in mine_of) == len(mine_of) // 10
    assert len(raws(data.val)) > len(val)  # all rows of an example are held out
    assert data.files["val"]["held_out_rows"] == len(data.val)
    assert data.files["val"]["path"] == data.files["train"]["path"] == str(mine)


def test_neither_the_order_of_rows_nor_the_format_changes_what_is_held_out(mine, tmp_path):
    rows = draw_rows(300)
    held_out = sorted(raws(load_data(mine).val))
    (tmp_path / "other").mkdir()
    again = write_lines(tmp_path / "other" / "b.txt", random.Random(1).sample(rows, len(rows)))
    assert sorted(raws(load_data(again).val)) == held_out
    (tmp_path / "c.pkl").write_bytes(pickle.dumps({"raw": rows}))
    assert sorted(raws(load_data(tmp_path / "c.pkl").val)) == held_out


def test_a_held_out_row_is_named_as_it_stands_in_its_file(mine, tmp_path):
    rows = draw_rows(300)
    (tmp_path / "c.pkl").write_bytes(pickle.dumps({"raw": rows}))
    val = load_data(tmp_path / "c.pkl").val
    assert all(rows[int(val.place(i).removeprefix("row "))] == val.raw(i) for i in range(len(val)))
    val = load_data(mine).val
    lines = mine.read_text().splitlines()
    assert all(
        lines[int(val.place(i).removeprefix("line ")) - 1] == val.raw(i) for i in range(len(val))
    )


def test_few_examples_hold_one_out_and_a_single_one_is_refused(tmp_path):
    path = write_lines(tmp_path / "a.txt", ["[add] 1 + 2 | 3", "[add] 3 + 4 | 7", "[rev] 1 | 1"])
    data = load_data(path)
    assert (len(data.train), len(data.val)) == (2, 1)
    assert raws(data.val)[0].startswith("[add]")
    write_lines(path, ["[add] 1 + 2 | 3", "[add] 2 + 1 | 3", "[rev] 1 | 1"])
    with pytest.raises(UserError, match=r"a\.txt has no two examples of one tag.*give --val_data"):
        load_data(path)


def test_a_validation_set_beside_is_taken_whatever_its_kind(mine, tmp_path):
    (tmp_path / "val.jsonl").write_text(json.dumps({"raw": "[add] 50 + 1 | 51"}))
    data = load_data(mine)
    assert raws(data.val) == ["[add] 50 + 1 | 51"]
    assert len(data.train) == 300
    assert "held_out_rows" not in data.files["val"]
    (tmp_path / "val.csv").write_text("task,prompt,answer\nadd,60 + 1,61\n")
    with pytest.raises(UserError, match=r"val\.jsonl and val\.csv beside it; say by --val_data"):
        load_data(mine)
    write_lines(tmp_path / "val.txt", ["[add] 70 + 1 | 71"])
    assert raws(load_data(mine).val) == ["[add] 70 + 1 | 71"]  # the kind of the training set
    assert raws(load_data(mine, tmp_path / "val.csv").val) == ["[add] 60 + 1 | 61"]


# ----------------------------------------------------------------------------------------------
# The tokenizer
# ----------------------------------------------------------------------------------------------


def test_a_tokenizer_is_made_of_the_training_and_the_validation_set(mine, tmp_path):
    write_lines(tmp_path / "val.txt", ["[add] 1 + 2 | drei €"])
    data = load_data(mine, run_folder=tmp_path / "run")
    characters = set("".join(draw_rows(300)) + "drei €")
    assert data.tokenizer.itos == ["<pad>", "<unk>", "<eos>", *sorted(characters)]
    assert data.files["tokenizer"]["path"] == str(tmp_path / "run" / "tokenizer.json")
    assert not (tmp_path / "run").exists()  # whoever trains writes it
    (tmp_path / "tokenizer.json").write_text(data.made_tokenizer)
    beside = load_data(mine, run_folder=tmp_path / "run")
    assert beside.made_tokenizer is None
    assert beside.files["tokenizer"]["path"] == str(tmp_path / "tokenizer.json")
    assert beside.files["tokenizer"]["sha256"] == data.files["tokenizer"]["sha256"]


def test_a_tokenizer_of_somebody_else_is_not_replaced(mine, tmp_path, capsys):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "tokenizer.json").write_text('{"stoi": {}}')
    assert go("--data", mine, "--out_dir", tmp_path / "run", "--overwrite") == 2
    assert "give it by --tokenizer, or give another --out_dir" in capsys.readouterr().err
    assert (tmp_path / "run" / "tokenizer.json").read_text() == '{"stoi": {}}'
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["tokenizer.json"]


# ----------------------------------------------------------------------------------------------
# Whole commands
# ----------------------------------------------------------------------------------------------


def test_a_run_does_not_go_on_with_other_data_and_says_how_they_differ(mine, tmp_path, capsys):
    assert go("--data", "mine.txt", "--out_dir", "run") == 0
    began, other = mine.read_bytes(), write_lines(tmp_path / "other.txt", draw_rows(300, seed=1))

    def refusal(*flags):
        assert go("--resume", "--out_dir", "run", *flags) == 2
        return capsys.readouterr().err

    assert (
        f"error: the run in run began with {mine}, not with {other}; give --data {mine}, or "
        in (refusal("--data", other))
    )
    write_lines(mine, draw_rows(300, seed=2))
    assert f"error: {mine} has changed since the run in run began; restore it" in (
        refusal("--data", mine)
    )
    mine.write_bytes(began)
    val = write_lines(tmp_path / "val.txt", draw_rows(20, seed=3))
    assert (
        f"error: the run in run validates on held-out rows, not on {val}; leave --val_data out"
        in (refusal("--data", mine))
    )
    val.unlink()
    assert go("--resume", "--out_dir", "run", "--data", mine) == 0


def test_one_command_trains_resumes_and_evaluates(mine, tmp_path, monkeypatch, capsys):
    assert go("--data", "mine.txt") == 0
    said, run = capsys.readouterr().out, tmp_path / "runs" / "mine"
    n_held_out = json.loads((run / "config.json").read_text())["data"]["val"]["held_out_rows"]
    assert f"a tenth of its examples, {n_held_out} of 300 rows, are held out" in said
    assert "tokenizer.json" in said
    config = json.loads((run / "config.json").read_text())
    tokenizer = config["data"]["tokenizer"]
    assert tokenizer == {
        "path": str(run / "tokenizer.json"),
        "sha256": sha256_of(run / "tokenizer.json"),
    }
    before = (run / "metrics.jsonl").read_bytes()
    assert go("--data", "mine.txt", "--resume") == 0
    assert "is finished and left as it is" in capsys.readouterr().out
    assert (run / "metrics.jsonl").read_bytes() == before
    assert go("--data", "mine.txt") == 2  # the folder is in use

    whole = load_examples(mine, load_tokenizer(run / "tokenizer.json"))
    held_out = held_out_rows(whole)
    (tmp_path / "suites").mkdir()
    write_lines(tmp_path / "suites" / "out.txt", [whole.raw(i) for i in np.flatnonzero(held_out)])
    write_lines(tmp_path / "suites" / "in.txt", [whole.raw(i) for i in np.flatnonzero(~held_out)])
    monkeypatch.setattr(evaluate_ood, "figures_or_notice", lambda *args: ([], ""))
    argv = ["--model", str(run), "--ood_dir", "suites", "--out_dir", "ood", "--device", "cpu"]
    assert evaluate_ood.main(argv) == 0
    results = json.loads((tmp_path / "ood" / "ood_results.json").read_text())["suites"]
    assert results["out"]["overlap_with_training"] == 0.0
    assert results["in"]["overlap_with_training"] == 1.0


def test_a_table_trains_and_its_columns_are_found_again(mine, tmp_path, monkeypatch):
    lines = ["q;a;note", *(f"{i} + 1;{i + 1};x" for i in range(60))]
    (tmp_path / "t.csv").write_text("\n".join(lines))
    columns = "prompt=q,answer=a"
    assert go("--data", "t.csv", "--columns", columns, "--task", "add") == 0
    run = tmp_path / "runs" / "t"
    data = json.loads((run / "config.json").read_text())["data"]
    assert data["train"]["columns"] == {"prompt": "q", "answer": "a"}
    assert data["train"]["task"] == "add"
    (tmp_path / "suites").mkdir()
    (tmp_path / "suites" / "mine.csv").write_text("q;a\n5 + 1;6\n0100 + 1;101\n")
    monkeypatch.setattr(evaluate_ood, "figures_or_notice", lambda *args: ([], ""))
    argv = ["--model", str(run), "--ood_dir", "suites", "--out_dir", "ood", "--device", "cpu"]
    assert evaluate_ood.main(argv) == 0
    lines = (tmp_path / "ood" / "predictions.jsonl").read_text().splitlines()
    assert [json.loads(line)["prompt"] for line in lines] == ["[add] 5 + 1 | ", "[add] 0100 + 1 | "]


def test_a_dry_run_with_own_data_writes_nothing(mine, tmp_path, capsys):
    assert go("--data", "mine.txt", "--dry_run") == 0
    assert "held out to validate on" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_run_folder_is_called_as_its_data(tmp_path, monkeypatch):
    assert default_out_dir("data/add_only/train.pkl") == "runs/step1_add_only"
    assert default_out_dir("mine/x.txt") == "runs/x"
    monkeypatch.chdir(tmp_path)
    assert default_out_dir(ROOT / "data/add_only/train.pkl") == "runs/step1_add_only"
    assert default_out_dir("data/processed/train_normal.pkl") == "runs/train_normal"


def test_flags_of_columns_and_task():
    args = t.build_parser().parse_args(["--columns", "prompt=q,answer=a,task=k"])
    assert args.columns == {"prompt": "q", "answer": "a", "task": "k"}
    assert columns_flag("answer=a,prompt=q") == {"prompt": "q", "answer": "a"}
    for bad in ("q,a", "prompt=q", "prompt=q,answer=a,x=y", "prompt=q,answer=a,prompt=b"):
        with pytest.raises(UserError, match="is not prompt=COLUMN"):
            t.build_parser().parse_args(["--columns", bad])
    for bad in ("", "a]b", "a\u00a0b"):
        with pytest.raises(UserError, match="is no tag"):
            t.build_parser().parse_args(["--task", bad])


def test_a_checkpoint_may_hold_any_row_format():
    assert RowFormat.of({"columns": [1], "task": 5}) == RowFormat()
    assert RowFormat.of({"columns": {"prompt": "q"}}) == RowFormat()
    kept = RowFormat({"prompt": "q", "answer": "a"}, "t")
    assert RowFormat.of(kept.record()) == kept
    assert RowFormat().record() == {}
