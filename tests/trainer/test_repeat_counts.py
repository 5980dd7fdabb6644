"""What a validation says of each repeat count in the training set."""

import json
from collections import Counter

import numpy as np
import pytest
import torch

import train_minigpt_4070 as t
from data.audit import load_data, validated_by_count
from data.subsets import Subsets
from reference import TOKENIZER, reference_decode
from trainer.helpers import (
    CPU,
    assert_same_run,
    build,
    draw_rows,
    go,
    interrupt_at_step,
    lines_of,
    resume,
    words,
)

RATES, NUMBERS = "train_exact_match_by_repeat_count", "train_n_by_repeat_count"
# Of each task 8 examples once and 8 five times, on which a small model is right now and then.
OFTEN = [f"[{tag}] {i} | {i}" for tag in ("copy", "rev") for i in range(1, 9)]
ROWS = draw_rows(16, seed=40, tags=("copy", "rev")) + 5 * OFTEN
FLAGS = words("--epochs 4 --eval_every 1 --lr 2e-3 --no-show_samples --dropout 0")


@pytest.fixture
def repeats(world):
    (world / "train.txt").write_text("".join(row + "\n" for row in ROWS))
    return world


def paths_of(world):
    return ["--data", str(world / "train.txt"), "--val_data", str(world / "val.pkl")]


def start(world, *flags, out="run"):
    return go(world, *FLAGS, *flags, *paths_of(world), out=out)


def test_rates_at_each_repeat_count_agree_with_naive_decoding(repeats):
    assert start(repeats, "--epochs", "12") == 0
    line = lines_of(repeats / "run/metrics.jsonl")[-1]
    model, _, _ = t.load_model(repeats / "run/last.pth", CPU)
    right = {"1": [], "4": []}
    for row, copies in Counter(ROWS).items():
        prompt, answer = row[: row.rindex("| ") + 2], row[row.rindex("| ") + 2 :]
        with torch.no_grad():
            ids, _, _ = reference_decode(model, 0, prompt, len(answer))
        right["1" if copies == 1 else "4"].append(TOKENIZER.decode(ids) == answer)
    assert line[NUMBERS] == {"1": 16, "4": 16} == {k: len(found) for k, found in right.items()}
    assert line[RATES] == pytest.approx({k: np.mean(found) for k, found in right.items()})
    assert line[RATES]["4"] > 0
    report = json.loads((repeats / "run/memorization.json").read_text())["last"]
    table = {str(row["group"]): row["exact_match"] for row in report["by_repeat_count"]}
    assert line[RATES] == pytest.approx({count: table[count] for count in ("1", "4")})


def test_a_task_counts_from_the_epoch_that_trains_it(repeats):
    assert start(repeats, "--task_curriculum") == 0
    numbers = [line[NUMBERS] for line in lines_of(repeats / "run/metrics.jsonl")]
    assert numbers == [{"1": 8, "4": 8}] + 3 * [{"1": 16, "4": 16}]


def test_in_a_panel_the_rows_count_that_the_seed_trains_on(repeats):
    assert start(repeats, "--subset", "0.5", "--seeds", "3,5", "--epochs", "1") == 0
    train = load_data(repeats / "train.txt", repeats / "val.pkl", repeats / "tokenizer.json").train
    rows, counts = validated_by_count(train)
    for seed in (3, 5):
        inside = np.isin(rows, Subsets(train, 0.5).rows(seed))
        (line,) = lines_of(repeats / "run" / f"seed_{seed}" / "metrics.jsonl")
        expected = {str(count): int(inside[counts == count].sum()) for count in (1, 4)}
        assert line[NUMBERS] == expected
        assert 0 < sum(expected.values()) < len(rows)


def test_only_rows_that_count_enter_the_rates():
    """Of count 1 row 0 is right, which the replica does not train on; of count 4 one of two."""
    data = t.Data(None, build(ROWS), None, *4 * [None], {})
    data.by_count = np.array([0, 2, 16, 17]), np.array([1, 1, 4, 4])
    exact, trained_on = np.array([True, False, True, False]), np.array([False, True, True, True])
    record = t.repeat_count_record(exact, trained_on, data, ["copy", "rev"])
    assert record == {RATES: {"1": 0.0, "4": 0.5}, NUMBERS: {"1": 1, "4": 2}}
    nothing = np.zeros(4, bool)
    assert t.repeat_count_record(exact, nothing, data, ["copy", "rev"]) == {}


def test_no_key_where_nothing_repeats(repeats):
    (repeats / "train.txt").write_text("".join(row + "\n" for row in dict.fromkeys(ROWS)))
    assert start(repeats, "--epochs", "1") == 0
    (line,) = lines_of(repeats / "run/metrics.jsonl")
    assert "train_exact_match" in line
    assert [key for key in line if "repeat_count" in key] == []


def test_a_resumed_run_has_the_same_rates(repeats, monkeypatch):
    assert start(repeats, "--seeds", "0,1", out="whole") == 0
    with monkeypatch.context() as patch:
        interrupt_at_step(patch, 15)
        assert start(repeats, "--seeds", "0,1") == 130
    assert resume(repeats, *FLAGS, "--seeds", "0,1", *paths_of(repeats)) == 0
    assert_same_run(repeats / "whole", repeats / "run", (0, 1))
    for line in lines_of(repeats / "run/seed_1/metrics.jsonl"):
        assert line[NUMBERS] == {"1": 16, "4": 16}
