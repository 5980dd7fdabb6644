"""Sets of one's own: what `data/generate.py --tasks` draws, writes, says of it and refuses."""

import csv
import hashlib
import json
import math
import os
import pickle
import shlex
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import evaluate_memorization
import plots
import train_minigpt_4070 as t
from data import generate, own_sets, tasks
from data.own_sets import OwnSet, draw_sets, examples_by_count
from runtime.errors import UserError
from solvers import halves, own_key, own_keys, solve

SCRIPT = Path(generate.__file__)
NAMES = ["dataset_stats.json", "tokenizer.json", "train.pkl", "val.pkl"]


def go(out, flags):
    return generate.main([*flags.split(), "--out", str(out)])


def rows(folder, name="train"):
    return pickle.loads((folder / f"{name}.pkl").read_bytes())["raw"]


def of_task(raws, task):
    return [raw for raw in raws if raw.startswith(f"[{task}] ")]


def drawn(seed=7, **spec):
    return draw_sets(OwnSet(**{"examples": {1: 200}, "val_rows": 50, **spec}), seed)


def stats_of(folder):
    return json.loads((folder / "dataset_stats.json").read_bytes())


# ----------------------------------------------------------------------------------------------
# What is drawn
# ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", tasks.TASKS)
def test_answers_are_right_keys_are_owned_and_no_example_stands_twice(task):
    sets = drawn(sizes={task: tasks.TASKS[task].training})
    assert {name: len(raws) for name, raws in sets.items()} == {"train": 200, "val": 50}
    for name, raws in sets.items():
        assert len(own_keys(raws)) == len(raws)
        for raw in raws:
            tag, prompt, answer = halves(raw)
            assert (tag, solve(tag, prompt)) == (task, answer)
            assert tasks.split_of(tasks.key_of(raw)) == name
            assert tasks.size_of(raw) in tasks.TASKS[task].training
    assert not own_keys(sets["train"]) & own_keys(sets["val"])
    other = drawn(seed=8, sizes={task: tasks.TASKS[task].training})
    assert not own_keys(other["train"]) & own_keys(sets["val"])


@given(
    st.integers(1, 5000),
    st.lists(st.integers(1, 40), min_size=1, max_size=5, unique=True),
    st.none() | st.integers(0, 100),
)
def test_repeat_counts_make_up_exactly_the_rows(n, counts, percent):
    if percent is not None:
        counts = [counts[0] + 1]
    fraction = None if percent is None else percent / 100
    part = n // len(counts) if percent is None else n * percent // 100
    if part < max(counts) and max(counts) > 1 and fraction != 0:
        with pytest.raises(UserError, match=f"^{part:,} of {n:,} rows are too few"):
            examples_by_count(n, tuple(counts), fraction)
        return
    examples = examples_by_count(n, tuple(counts), fraction)
    assert sum(count * k for count, k in examples.items()) == n
    repeated = {count: part // count for count in counts if count > 1 and part}
    assert {count: k for count, k in examples.items() if count > 1} == repeated


@pytest.mark.parametrize("corrupt", [0.0, 0.1, 0.25, 1.0])
def test_copies_and_wrong_answers_are_as_many_as_asked_for(corrupt):
    examples = {2: 40, 8: 20, 1: 60}
    sizes = {"add": range(1, 4), "recall": range(2, 9), "rel": range(1, 4)}
    sets = drawn(sizes=sizes, examples=examples, corrupt=corrupt)
    assert len(sets["train"]) == 3 * (80 + 160 + 60)
    for task in sizes:
        counts = Counter(of_task(sets["train"], task))  # whole rows: copies have one answer
        assert Counter(counts.values()) == examples
        assert len(own_keys(counts)) == len(counts)
        wrong = Counter()
        for raw, count in counts.items():
            tag, prompt, answer = halves(raw)
            right = solve(tag, prompt)
            wrong[count] += answer != right
            assert len(answer) == len(right)
            assert answer.isdigit() == right.isdigit()
        assert wrong == {count: int(n * corrupt) for count, n in examples.items()}
    for raw in sets["val"]:
        tag, prompt, answer = halves(raw)
        assert solve(tag, prompt) == answer
    spec = OwnSet(sizes=sizes, examples=examples, val_rows=0, corrupt=corrupt)
    assert (spec.rows, spec.corrupted) == (300, {2: wrong[2], 8: wrong[8], 1: wrong[1]})


def test_a_share_is_the_decimal_that_was_written():
    assert [own_sets.part_of(100, share) for share in (0.29, 0.57, 0.07, 1, 0)] == [
        29,
        57,
        7,
        100,
        0,
    ]


def test_a_smaller_set_has_the_first_examples_of_a_larger_one():
    sizes = {"add": range(1, 3), "gcd": range(1, 3)}
    small, large = (drawn(sizes=sizes, examples={1: n}, val_rows=n // 4) for n in (100, 400))
    for name in ("train", "val"):
        assert set(small[name]) < set(large[name])
    first = own_sets.training_rows(OwnSet(sizes, {1: 100}, 0, corrupt=0.1), "add", 7)
    more = own_sets.training_rows(OwnSet(sizes, {1: 400}, 0, corrupt=0.1), "add", 7)
    assert more[:100] == first
    repeated = drawn(sizes=sizes, examples={4: 25})["train"]
    assert own_keys(repeated) < own_keys(large["train"])
    assert set(drawn(seed=8, sizes=sizes)["train"]) != set(drawn(sizes=sizes)["train"])


def test_which_examples_repeat_is_a_random_choice():
    """Those drawn first are shorter, where a set of distinct examples runs out of short ones."""
    counts = examples_by_count(8000, (1, 4, 16))
    n = sum(counts.values())
    in_order = own_sets.training_rows(OwnSet({"add": range(1, 3)}, {1: n}, 0), "add", generate.SEED)
    rank = {raw: i / n for i, raw in enumerate(in_order)}
    spec = OwnSet({"add": range(1, 3)}, counts, 0)
    copies = Counter(own_sets.training_rows(spec, "add", generate.SEED))
    assert copies.keys() == rank.keys()
    for count, n_count in counts.items():
        ranks = [rank[raw] for raw, copies_of in copies.items() if copies_of == count]
        assert len(ranks) == n_count
        assert abs(sum(ranks) / n_count - 0.5) < 4 / (12 * n_count) ** 0.5


def test_sums_of_other_formats_are_written_as_they_say():
    sizes = {"add_reversed": range(2, 4), "add_padded": range(2, 4)}
    for raw in drawn(sizes=sizes)["train"]:
        tag, prompt, answer = halves(raw)
        a, b = prompt.split(" + ")
        if tag == "add_padded":
            assert (len(a), len(b), len(answer)) == (3, 3, 4)
            assert int(answer) == int(a) + int(b)
        else:
            assert {len(a), len(b)} <= {2, 3}
            assert int(answer[::-1]) == int(a) + int(b)


# ----------------------------------------------------------------------------------------------
# The files
# ----------------------------------------------------------------------------------------------

FLAGS = (
    "--tasks add sort mod --rows 300 --val_rows 40 --seed 5 --repeat_counts 1,4,16 --corrupt 0.1"
)
FLAGS += " --sizes 2-3 mod=50-60"
SHA256 = "8e2c61448d2c"


@pytest.fixture(scope="module")
def mine(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own") / "mine"
    assert go(folder, FLAGS) == 0
    return folder


def test_the_number_of_wrong_answers_is_said_also_where_it_is_none(tmp_path, capsys):
    for share, n in ((0.25, 3), (0.05, 0)):
        flags = f"--tasks add --rows 12 --val_rows 2 --corrupt {share}"
        assert go(tmp_path / f"{n}", flags) == 0
        said = capsys.readouterr().out
        assert f"\nwrong answers: {n} of 12 training examples of each task\n" in said


def test_files_are_known_byte_for_byte_under_any_hash_seed(mine, tmp_path):
    assert sorted(path.name for path in mine.iterdir()) == NAMES
    content = b"".join((mine / name).read_bytes() for name in NAMES)
    assert hashlib.sha256(content).hexdigest()[:12] == SHA256
    command = [sys.executable, SCRIPT, *FLAGS.split(), "--out", tmp_path / "again"]
    environment = {**os.environ, "PYTHONHASHSEED": "12345"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert b"".join((tmp_path / "again" / name).read_bytes() for name in NAMES) == content


def test_the_flags_are_what_the_files_hold(mine):
    train, val = rows(mine), rows(mine, "val")
    for task, sizes in (("add", {2, 3}), ("sort", {2, 3}), ("mod", set(range(50, 61)))):
        counts = Counter(of_task(train, task))
        assert Counter(counts.values()) == {1: 300 - 25 * 4 - 6 * 16, 4: 25, 16: 6}
        assert sum(counts.values()) == 300
        wrong = Counter(
            count for raw, count in counts.items() if solve(*halves(raw)[:2]) != halves(raw)[2]
        )
        assert wrong == {1: 10, 4: 2}
        assert {tasks.size_of(raw) for raw in counts} == sizes
        assert len(own_keys(of_task(val, task))) == 40
    labels = pickle.loads((mine / "train.pkl").read_bytes())["labels"]
    tenth = Counter(labels[:90])
    assert min(tenth[task] for task in ("add", "sort", "mod")) >= 15  # shuffled


def test_every_character_is_in_the_tokenizer_and_ids_are_the_rows(mine):
    tokenizer = json.loads((mine / "tokenizer.json").read_text())["stoi"]
    assert list(tokenizer)[:3] == ["<pad>", "<unk>", "<eos>"]
    for name in ("train", "val"):
        content = pickle.loads((mine / f"{name}.pkl").read_bytes())
        for raw, ids, label in zip(
            *(content[k] for k in ("raw", "encoded", "labels")), strict=True
        ):
            assert ids == [tokenizer[character] for character in raw]
            assert label == halves(raw)[0]


def test_statistics_are_true(mine):
    stats = stats_of(mine)
    assert stats["seed"] == 5
    assert stats["corrupt"] == 0.1
    assert stats["sizes"] == {"add": [2, 3], "sort": [2, 3], "mod": [50, 60]}
    assert stats["of_each_task"] == {
        "rows": 300,
        "val_rows": 40,
        "examples_by_repeat_count": {"1": 104, "4": 25, "16": 6},
        "corrupted_examples_by_repeat_count": {"1": 10, "4": 2, "16": 0},
    }
    for name in ("train", "val"):
        about, raws = stats["files"][f"{name}.pkl"], rows(mine, name)
        assert about["sha256"] == hashlib.sha256((mine / f"{name}.pkl").read_bytes()).hexdigest()
        assert (about["rows"], about["examples"]) == (len(raws), len(own_keys(raws)))
        assert set(about["by_tag"]) == {"add", "sort", "mod"}
        levels = Counter(str(tasks.size_of(raw)) for raw in of_task(raws, "mod"))
        assert about["by_tag"]["mod"]["rows_by_level"] == levels
    assert stats["files"]["train.pkl"]["examples_by_repeat_count"] == {"1": 312, "4": 75, "16": 18}
    assert stats["overlap"] == [
        {"files": ["train.pkl", "val.pkl"], "shared_keys": 0, "rows_with_shared_keys": [0, 0]}
    ]


def test_defaults(tmp_path):
    assert go(tmp_path, "--tasks gcd add gcd") == 0
    train, val = rows(tmp_path), rows(tmp_path, "val")
    assert Counter(map(tag_of, train)) == {"gcd": 2000, "add": 2000}
    assert Counter(map(tag_of, val)) == {"gcd": 500, "add": 500}
    assert len(own_keys(train)) == 4000
    stats = stats_of(tmp_path)
    assert (stats["seed"], stats["corrupt"]) == (1337, 0.0)
    assert stats["sizes"] == {"gcd": [1, 3], "add": [1, 3]}


def tag_of(raw):
    return halves(raw)[0]


@pytest.mark.parametrize(
    ("flags", "counts"),
    [
        ("--repeat_fraction 0.1 --repeat_count 16", {16: 12, 1: 1808}),
        ("--repeat_fraction 1 --repeat_count 3", {3: 666, 1: 2}),
        ("--repeat_fraction 0 --repeat_count 16", {1: 2000}),
        ("--repeat_fraction 0.29 --repeat_count 2", {2: 290, 1: 1420}),
        ("--repeat_counts 2", {2: 1000}),
        ("--repeat_counts 16,4", {16: 62, 4: 250, 1: 8}),
    ],
)
def test_a_part_of_the_rows_repeats_and_the_total_stays(tmp_path, flags, counts):
    assert go(tmp_path, f"--tasks add {flags} --val_rows 0") == 0
    train = rows(tmp_path)
    assert len(train) == 2000
    assert Counter(Counter(own_key(*halves(raw)[:2]) for raw in train).values()) == counts


@pytest.mark.parametrize(
    ("flags", "tags"),
    [
        ("--tasks add --format plain", {"add"}),
        ("--tasks sort add --format reversed", {"sort", "add_reversed"}),
        ("--tasks add add_padded --format padded --sizes add=1-2", {"add_padded"}),
    ],
)
def test_the_format_of_sums_is_in_the_tag(tmp_path, flags, tags):
    assert go(tmp_path, f"{flags} --rows 60 --val_rows 5") == 0
    assert set(map(tag_of, rows(tmp_path))) == tags
    sizes = stats_of(tmp_path)["sizes"]
    assert sizes.get("add_padded", [1, 2]) == [1, 2]


def test_a_range_for_one_task_goes_before_one_for_all(tmp_path):
    flags = "--tasks add add_reversed sort --sizes 2 add=3 add_reversed=4 --rows 20 --val_rows 0"
    assert go(tmp_path, flags) == 0
    assert stats_of(tmp_path)["sizes"] == {"add": [3, 3], "add_reversed": [4, 4], "sort": [2, 2]}
    assert {(tag_of(raw), tasks.size_of(raw)) for raw in rows(tmp_path)} == {
        ("add", 3),
        ("add_reversed", 4),
        ("sort", 2),
    }


def test_no_validation_rows_make_no_file(tmp_path):
    assert go(tmp_path, "--tasks recall --rows 30 --val_rows 0") == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == [n for n in NAMES if n != "val.pkl"]


def test_a_second_run_changes_nothing_and_other_flags_replace_the_set(tmp_path, capsys):
    flags = "--tasks add --rows 40 --val_rows 5"
    for flags_, state in (
        (flags, "written"),
        (flags, "unchanged"),
        (f"{flags} --seed 2", "written"),
    ):
        assert go(tmp_path, flags_) == 0
        out = capsys.readouterr().out.splitlines()
        trainer = str(generate.ROOT / "train_minigpt_4070.py")
        data = str(tmp_path.resolve() / "train.pkl")
        assert shlex.split(out.pop()) == ["next:", "python", trainer, "--data", data]
        lines = [line.split() for line in out if ".pkl" in line]
        assert [(*line[:3], line[-1]) for line in lines] == [
            ("train.pkl", "40", "40", state),
            ("val.pkl", "5", "5", state),
        ]
    # A set whose writing was cut short after any file is written whole by the next call.
    whole = {name: (tmp_path / name).read_bytes() for name in NAMES}
    for name in ("tokenizer.json", "train.pkl", "val.pkl"):
        (tmp_path / name).unlink()
        assert go(tmp_path, f"{flags} --seed 2") == 0
        assert {name: (tmp_path / name).read_bytes() for name in NAMES} == whole


def test_the_statistics_are_written_first(tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr(generate, "write_atomically", lambda path, _: written.append(path.name))
    monkeypatch.setattr(generate, "print_table", lambda *_: None)
    assert go(tmp_path, "--tasks add --rows 40 --val_rows 5") == 0
    assert written == NAMES


# ----------------------------------------------------------------------------------------------
# Mistakes
# ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ("--tasks add --only ood", "--only writes standard parts and --tasks one's own set"),
        ("--rows 5", "--rows is of one's own set; name its --tasks"),
        ("--corrupt 0", "--corrupt is of one's own set; name its --tasks"),
        ("--format plain", "--format is of one's own set; name its --tasks"),
        ("--tasks sort --format padded", "--format padded is of sums, and --tasks has no add"),
        ("--tasks add --repeat_fraction 0.1", "go together; give both or none"),
        ("--tasks add --repeat_count 4", "go together; give both or none"),
        (
            "--tasks add --repeat_counts 1,4 --repeat_fraction 0.1 --repeat_count 4",
            "--repeat_counts and --repeat_fraction exclude each other; give one",
        ),
        (
            "--tasks add --rows 100 --repeat_counts 1,4,64",
            "33 of 100 rows are too few for an example 64 times; give more --rows or a smaller",
        ),
        (
            "--tasks add --rows 100 --repeat_fraction 0.1 --repeat_count 16",
            "10 of 100 rows are too few for an example 16 times",
        ),
        ("--tasks mod --sizes 1-2", "--sizes 1-2: mod has moduli 2-9,999"),
        (
            "--tasks add mod --sizes 1-2",
            "mod has moduli 2-9,999; for one task alone write mod=2-3",
        ),
        ("--tasks rel --sizes 7", "--sizes 7: rel has 1-6 hops"),
        ("--tasks gcd --sizes 16", "--sizes 16: gcd has 1-15 digits"),
        ("--tasks recall --sizes 1-27", "--sizes 1-27: recall has 1-26 pairs"),
        ("--tasks sort --sizes 0", "--sizes 0: sort has 1-100 items"),
        ("--tasks add --sizes 1 2", "--sizes has two ranges for all tasks; give one"),
        ("--tasks add --sizes add=1 add=2", "--sizes has two ranges for add; give one"),
        ("--tasks add --sizes sort=3", "--sizes has a range for sort, which is not in --tasks"),
        ("--tasks sort --sizes add=3", "--sizes has a range for add, which is not in --tasks"),
        (
            "--tasks add --sizes 1 --rows 100",
            "add of 1 digit has only about 44 different training examples, not 100; give larger "
            "--sizes or fewer --rows",
        ),
        (
            "--tasks mod --sizes 7 --rows 60 --val_rows 100",
            "different validation examples, not 100; give larger --sizes or fewer --val_rows",
        ),
    ],
)
def test_a_mistake_is_one_sentence_and_nothing_is_written(tmp_path, capsys, flags, sentence):
    assert go(tmp_path / "mine", flags) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ("--tasks nothing", "invalid choice: 'nothing'"),
        ("--tasks add --rows 0", "0 is not between 1 and 10,000,000"),
        ("--tasks add --val_rows -1", "-1 is not between 0 and"),
        ("--tasks add --corrupt 1.5", "1.5 is not between 0 and 1"),
        ("--tasks add --corrupt nan", "nan is not between 0 and 1"),
        ("--tasks add --repeat_counts 1,1", "1,1 names a count twice"),
        ("--tasks add --repeat_counts 0,2", "0 is not between 1 and"),
        ("--tasks add --repeat_counts 2,x", "'2,x' is not of the form 1,4,16"),
        ("--tasks add --repeat_counts 1,", "'1,' is not of the form 1,4,16"),
        ("--tasks add --repeat_fraction 2 --repeat_count 2", "2 is not between 0 and 1"),
        ("--tasks add --repeat_fraction 0.5 --repeat_count 1", "1 is not between 2 and"),
        ("--tasks add --sizes 3-1", "3-1 is not of the form 1-2, 97 or add=1-2"),
        ("--tasks add --sizes a-b", "a-b is not of the form 1-2, 97 or add=1-2"),
        ("--tasks add --sizes ٣", "is not of the form 1-2, 97 or add=1-2"),
        ("--tasks add --format other", "invalid choice: 'other'"),
    ],
)
def test_a_flag_that_cannot_be_read_is_one_sentence(tmp_path, capsys, flags, sentence):
    assert go(tmp_path / "mine", flags) == 2
    assert sentence in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("flags", ["--rows 200 --val_rows 20", "--rows 20 --val_rows 200"])
def test_a_set_that_training_could_not_read_is_not_written(tmp_path, capsys, monkeypatch, flags):
    monkeypatch.setattr(generate, "MAX_PICKLE_BYTES", 8000)  # 200 rows have 11,000 bytes or more
    assert go(tmp_path / "mine", f"--tasks add {flags}") == 2
    name, flag = ("train", "--rows") if "rows 200 " in flags else ("val", "--val_rows")
    error = capsys.readouterr().err
    assert error.startswith(f"error: {name}.pkl would have 1")
    assert f" bytes, and a training run reads at most 8,000; give fewer {flag} or " in error
    assert list(tmp_path.iterdir()) == []
    assert go(tmp_path / "mine", "--tasks add --rows 20 --val_rows 20") == 0


def test_own_sets_need_a_folder(capsys):
    assert generate.main(["--tasks", "add"]) == 2
    assert "--tasks needs --out, the folder for its files" in capsys.readouterr().err


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_with_files_of_another_set_is_refused(tmp_path, capsys, name):
    (tmp_path / name).write_bytes(b"{}")
    assert go(tmp_path, "--tasks add --rows 40 --val_rows 5") == 2
    error = capsys.readouterr().err
    assert f"{tmp_path / name} is of another set; move it or give another --out" in error
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_bytes() == b"{}"


def test_standard_sets_are_not_replaced_and_no_validation_set_is_left_of_another(tmp_path, capsys):
    assert generate.main(["--only", "add_only", "--out", str(tmp_path)]) == 0
    folder = tmp_path / "data" / "add_only"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert go(folder, "--tasks add --rows 40") == 2
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    mine = tmp_path / "mine"
    assert go(mine, "--tasks add --rows 40 --val_rows 5") == 0
    capsys.readouterr()
    assert go(mine, "--tasks add --rows 40 --val_rows 0") == 2
    assert f"{mine / 'val.pkl'} is of another set" in capsys.readouterr().err


# ----------------------------------------------------------------------------------------------
# What is made can be trained on and measured
# ----------------------------------------------------------------------------------------------

TINY = "--d_model 16 --n_layers 1 --n_heads 2 --batch_size 32 --warmup_steps 2 --device cpu"
TINY += " --amp fp32"


def train(data, out, flags):
    arguments = ["--data", data / "train.pkl", "--out_dir", out]
    assert t.main([*map(str, arguments), *TINY.split(), *flags.split()]) == 0


@pytest.fixture
def no_figures(monkeypatch):
    monkeypatch.setattr(plots, "write_figures", lambda *args, **kwargs: [])


def test_a_run_trains_and_evaluates_on_the_tasks(tmp_path, no_figures, capsys):
    data, out = tmp_path / "data", tmp_path / "run"
    flags = "--tasks mod gcd recall add --format reversed --rows 150 --val_rows 20"
    assert go(data, flags) == 0
    train(data, out, "--epochs 5 --task_curriculum --task_curriculum_epochs 4 --autoreg_eval")
    names = ["mod", "gcd", "recall", "add_reversed"]  # in curriculum order
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert sorted(lines[-1]["val_exact_match_by_task"]) == sorted(names)
    assert all(0 <= value <= 1 for value in lines[-1]["val_exact_match_by_task"].values())
    config = json.loads((out / "config.json").read_text())
    stages = [stage["tasks"] for stage in config["derived"]["stages"]]
    assert stages == [names[:n] for n in (1, 2, 3, 4)]
    report = json.loads((out / "memorization.json").read_text())
    chances = {row["group"]: row["chance"] for row in report["best"]["by_task"]}
    assert chances["recall"] == pytest.approx(0.1)  # one of ten digits
    for task in ("mod", "gcd", "add_reversed"):
        n_legal = [len(raw.rsplit("| ")[1]) for raw in of_task(rows(data, "val"), task)]
        n_legal = [10 if n == 1 else 9 * 10 ** (n - 1) for n in n_legal]
        assert chances[task] == pytest.approx(sum(1 / n for n in n_legal) / 20)


def test_a_panel_knows_rule_baselines_and_canaries_of_the_tasks(tmp_path, no_figures):
    data, out = tmp_path / "data", tmp_path / "panel"
    flags = "--tasks mod gcd recall --rows 2400 --repeat_counts 2 --val_rows 40 --corrupt 0.1"
    assert go(data, flags) == 0
    train(data, out, "--epochs 1 --subset 0.75 --seeds 0-3 --canaries 3")
    planted = [json.loads(line) for line in (out / "canaries.jsonl").read_text().splitlines()]
    assert len(planted) == 3
    assert evaluate_memorization.main(["--model", str(out)]) == 0
    results = json.loads((out / "memorization" / "memorization_results.json").read_text())
    names = ["gcd", "mod", "recall"]
    groups = {row["group"]: row for row in results["budget"]}
    assert set(groups) == {
        f"{task}{kind}" for task in names for kind in ("", ", canaries", ", wrong answers")
    }
    assert {row["baseline"] for row in groups.values()} == {"legal answers"}
    with (out / "memorization" / "per_example.csv").open(encoding="utf-8") as file:
        breaking = Counter(row["tag"] for row in csv.DictReader(file) if row["wrong_answer"] == "1")
    assert breaking == dict.fromkeys(names, 120 + 1)  # of 1,200 examples, and a canary
    assert groups["recall"]["bits"] == pytest.approx(math.log2(10))  # one of ten digits
    lookup = {row["group"]: row for row in results["lookup"]}
    assert list(lookup) == names
    for task in names:
        widths = [len(halves(raw)[2]) for raw in of_task(rows(data, "val"), task)]
        chance = sum(1 / (10 if n == 1 else 9 * 10 ** (n - 1)) for n in widths) / 40
        assert lookup[task]["chance"] == pytest.approx(chance)
    assert results["limem"]["n"] > 100
    assert results["exposure"]["least_candidates"] >= 9


def test_the_page_has_every_task_with_its_examples_and_sizes():
    page = (SCRIPT.parents[1] / "docs" / "formats.md").read_text(encoding="utf-8")
    for name, task in tasks.TASKS.items():
        line = next(line for line in page.splitlines() if line.startswith(f"| `{name}` |"))
        first, second = (f"`{example}`".replace("|", r"\|") for example in task.examples)
        ranges = ((sizes[0], sizes[-1]) for sizes in (task.training, task.sizes))
        shown = ["-".join(map(str, dict.fromkeys(ends))) for ends in ranges]
        assert line.split(" | ")[1] == f"{first}, {second}"
        assert line.removesuffix(" |").split(" | ")[3:] == shown
