"""Whole command lines, and what their run folders hold."""

import json
import math
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch

import plots
import train_minigpt_4070 as t
from data import audit
from metrics import wilson_interval
from reference import TOKENIZER, reference_answer, reference_decode, reference_loss
from runtime import run_folder
from runtime.files import ROOT, sha256_of
from runtime.records import load_run
from trainer.helpers import (
    CPU,
    SCRIPT,
    SEEN_ROWS,
    TINY,
    TRAIN_ROWS,
    VAL_ROWS,
    all_files,
    assert_same_weights,
    build,
    go,
    lines_of,
    timeless,
    weights_of,
    words,
    write_pickle,
)

# 46 rows of copy, rev, add, sort_desc and mul; 10 of copy, and so on, and 4 repeats.
STAGES = [
    {"epoch": 1, "tasks": ["copy"], "rows": 11, "steps_per_epoch": 2},
    {"epoch": 2, "tasks": ["copy", "rev"], "rows": 22, "steps_per_epoch": 3},
    {"epoch": 3, "tasks": ["copy", "rev", "add"], "rows": 34, "steps_per_epoch": 5},
    {"epoch": 4, "tasks": ["copy", "rev", "add", "sort", "mul"], "rows": 47, "steps_per_epoch": 6},
]


def test_steps_and_schedule_cover_the_whole_stage_plan(shared):
    folder = shared[0] / "run"
    config = json.loads((folder / "config.json").read_text())
    derived = config["derived"]
    assert derived["stages"] == STAGES
    steps = [math.ceil(rows / 8) for rows in (11, 22, 34, *([47] * 7))]
    assert derived["steps_total"] == sum(steps)
    peak = 1e-3 * 1024 / 32
    assert derived["lr_scaled"] == pytest.approx(peak)
    assert derived["lr_min"] == pytest.approx(0.1 * peak)
    for line in lines_of(folder / "seed_1/metrics.jsonl"):
        epoch = line["epoch"]
        assert line["step"] == sum(steps[:epoch])
        assert line["examples_seen"] == sum([11, 22, 34, *([47] * 7)][:epoch])
        assert line["stage"] == min(epoch, 4) - 1
        assert line["tasks"] == STAGES[line["stage"]]["tasks"]
        assert line["lr"] == pytest.approx(
            t.learning_rate(
                line["step"] - 1, total_steps=sum(steps), warmup_steps=2, peak=peak, min_ratio=0.1
            )
        )
    assert line["lr"] == pytest.approx(0.1 * peak)
    assert "mul" in next(x for x in shared[1].splitlines() if "outside the curriculum" in x)


METRICS_KEYS = set(
    words(
        "epoch step seed stage tasks lr train_loss val_loss val_exact_match val_exact_match_low "
        "val_exact_match_high val_n val_exact_match_seen val_exact_match_by_task val_n_by_task "
        "val_tf_token_acc train_exact_match train_n generalization_gap gap_low gap_high "
        "examples_seen seconds best val_token_accuracy val_edit_distance val_failures"
    )
)


def test_run_folder_of_several_seeds(shared):
    world, said = shared
    run = world / "run"
    config = json.loads((run / "config.json").read_text())
    assert set(config) >= set(words("arguments derived data versions device threads git_commit"))
    derived = config["derived"]
    C, V, d_ff = 32, len(TOKENIZER), 128
    per_layer = C * 3 * C + 3 * C + C * C + C + C * d_ff + d_ff + d_ff * C + C
    assert derived["n_params"] == V * C + per_layer
    assert (derived["vocab_size"], derived["effective_batch"]) == (V, 8)
    assert derived["max_len"] == max(map(len, TRAIN_ROWS + VAL_ROWS)) + t.RUN_ON
    assert config["arguments"]["lr"] == 1e-3
    for name, file in (("train", "train.pkl"), ("val", "val.pkl"), ("tokenizer", "tokenizer.json")):
        assert config["data"][name]["sha256"] == sha256_of(world / file)
    for seed in range(3):
        folder = run / f"seed_{seed}"
        files = {p.name for p in folder.iterdir() if p.is_file()}
        expected = "config.json metrics.jsonl samples.jsonl memorization.json best_model.pth"
        assert files == {*expected.split(), "last.pth", "previous.pth", ".lock"}
        assert json.loads((folder / "config.json").read_text())["seed"] == seed
        lines = lines_of(folder / "metrics.jsonl")
        assert [line["epoch"] for line in lines] == list(range(1, 11))
        for line in lines:
            assert set(line) >= METRICS_KEYS
            assert not [k for k in line if "accuracy" in k and k != "val_token_accuracy"]
            assert line["seed"] == seed
            assert line["val_n"] == 3 * min(line["epoch"], 4)  # the tasks trained so far
            assert line["train_n"] == line["val_n"]
            rates = [
                line["val_exact_match_by_task"][task] for task in line["tasks"] if task != "mul"
            ]
            assert line["val_exact_match"] == pytest.approx(sum(rates) / len(rates))
            assert line["val_n_by_task"] == {"add": 3, "copy": 3, "rev": 3, "sort": 3}
            assert line["val_exact_match_low"] <= line["val_exact_match"]
            assert line["val_exact_match"] <= line["val_exact_match_high"]
            gap = line["train_exact_match"] - line["val_exact_match"]
            assert line["generalization_gap"] == pytest.approx(gap)
            assert line["gap_low"] <= gap <= line["gap_high"]
        samples = lines_of(folder / "samples.jsonl")
        assert len(samples) == 10 * 4
        assert set(samples[0]) == set(words("epoch step task prompt answer prediction correct"))
        for sample in samples:
            assert sample["prompt"] + sample["answer"] in VAL_ROWS[:12]
            assert sample["correct"] == (sample["prediction"] == sample["answer"])
    assert not (run / "metrics.jsonl").exists()
    assert "evaluate_ood.py --model" in said
    seeds = [weights_of(run / f"seed_{s}/best_model.pth")["w_tokens"] for s in range(3)]
    assert seeds[0].shape == (1, V, C)
    assert not torch.equal(seeds[0], seeds[1])


def test_checkpoints_hold_plain_containers_and_what_is_needed(shared):
    folder = shared[0] / "run/seed_2"
    for name in ("best_model.pth", "last.pth", "previous.pth"):
        checkpoint = torch.load(folder / name, weights_only=True)
        assert checkpoint["arch"]["d_model"] == 32
        assert checkpoint["vocab"] == TOKENIZER.itos
        assert checkpoint["seed"] == 2
    assert checkpoint["epoch"] == 9
    last = torch.load(folder / "last.pth", weights_only=True)
    assert (last["epoch"], last["trained_tags"]) == (10, ["add", "copy", "mul", "rev", "sort_desc"])
    assert last["trained_length"] == max(map(len, TRAIN_ROWS))
    model, tokenizer, _ = t.load_model(folder / "last.pth", CPU)
    assert (model.R, tokenizer.itos, model.training) == (1, TOKENIZER.itos, False)


def test_records_agree_with_naive_decoding(shared):
    """The best model, read back and decoded token by token, gives the numbers of its epoch."""
    folder = shared[0] / "run/seed_0"
    model, _, checkpoint = t.load_model(folder / "best_model.pth", CPU)
    line = lines_of(folder / "metrics.jsonl")[checkpoint["epoch"] - 1]
    assert line["best"] is True
    with torch.no_grad():
        right, predictions = {}, {}
        for row in VAL_ROWS:
            prompt, answer = row[: row.rindex("| ") + 2], row[row.rindex("| ") + 2 :]
            ids, _, _ = reference_decode(model, 0, prompt, len(answer))
            predictions[row] = TOKENIZER.decode(ids)
            right[row] = predictions[row] == answer
        unseen = VAL_ROWS[:12]
        assert line["val_exact_match"] == pytest.approx(sum(right[r] for r in unseen) / 12)
        seen = sum(right[row] for row in SEEN_ROWS) / len(SEEN_ROWS)
        assert line["val_exact_match_seen"] == pytest.approx(seen)
        losses = [float(reference_loss(model, 0, [row])) for row in unseen]
        assert line["val_loss"] == pytest.approx(sum(losses) / 12, rel=1e-3)
        hits = n = 0
        for row in unseen:
            logits, targets = reference_answer(model, 0, row)
            hits, n = hits + int((logits.argmax(-1) == targets).sum()), n + len(targets)
        assert line["val_tf_token_acc"] == pytest.approx(hits / n)
        distances = [
            1 - sum(a == b for a, b in zip(p, row.split("| ")[1], strict=False))
            / max(len(p), len(row.split("| ")[1]))
            for row, p in predictions.items()
            if row in unseen
        ]  # fmt: skip
        assert line["val_token_accuracy"] == pytest.approx(1 - sum(distances) / 12)
        for task, rate in line["val_exact_match_by_task"].items():
            rows = [row for row in unseen if row.startswith(f"[{task}")]
            assert rate == pytest.approx(sum(right[row] for row in rows) / len(rows))
        sample = audit.matched_sample(build(TRAIN_ROWS), build(VAL_ROWS), np.arange(12))
        known = []
        for row in (TRAIN_ROWS[i] for i in sample):
            logits, targets = reference_answer(model, 0, row)
            known.append(bool((logits.argmax(-1) == targets).all()))
        assert line["train_exact_match"] == pytest.approx(sum(known) / len(known))
    report = json.loads((folder / "memorization.json").read_text())["best"]
    assert report["epoch"] == checkpoint["epoch"]
    assert report["unseen"]["exact_match"] == pytest.approx(line["val_exact_match"])
    assert report["unseen"]["loss"] == pytest.approx(line["val_loss"], rel=1e-4)
    assert report["train"]["exact_match"] == pytest.approx(line["train_exact_match"])
    assert report["seen"]["exact_match"] == pytest.approx(line["val_exact_match_seen"])
    # Two of each of the five tasks; no row of [mul] is repeated, so 2 is left out.
    assert [(g["group"], g["n"]) for g in report["by_repeat_count"]] == [(0, 12), (1, 10)]


def test_a_seed_among_three_equals_the_same_seed_alone(world):
    flags = words("--epochs 3 --dropout 0 --task_curriculum")
    assert go(world, *flags, "--seeds", "0-2", out="three") == 0
    assert go(world, *flags, "--seed", "1", out="one") == 0
    assert go(world, *flags, "--seeds", "1", out="list") == 0
    for name in ("last.pth", "best_model.pth"):
        assert_same_weights(world / "three/seed_1" / name, world / "one" / name, exact=False)
        assert_same_weights(world / "list" / name, world / "one" / name)
    pairs = zip(
        timeless(world / "three/seed_1/metrics.jsonl"),
        timeless(world / "one/metrics.jsonl"),
        strict=True,
    )
    for among, alone in pairs:
        assert among.keys() == alone.keys()
        for key, value in alone.items():
            if isinstance(value, float):
                assert among[key] == pytest.approx(value, rel=1e-3, abs=1e-4), key
            elif not isinstance(value, dict):
                assert among[key] == value, key


def test_second_run_is_refused_and_overwrite_replaces_it(world, capsys):
    assert go(world, "--epochs", "2", "--seeds", "0,1") == 0
    before = all_files(world)
    capsys.readouterr()
    for flags in (["--seeds", "0,1"], ["--seed", "5"], ["--seeds", "5,6"]):
        assert go(world, "--epochs", "1", *flags) == 2
        error = capsys.readouterr().err
        assert all(word in error for word in ("holds a run", "--resume", "--out_dir"))
        assert all_files(world) == before
    (world / "run/plots/deeper").mkdir(parents=True)
    (world / "run/plots/deeper/old.png").write_text("old")
    (world / "run/mine.txt").write_text("kept")
    assert go(world, "--epochs", "1", "--seed", "5", "--overwrite") == 0
    assert len(lines_of(world / "run/metrics.jsonl")) == 1
    assert not run_folder.holds_run(world / "run/seed_0")
    assert not run_folder.holds_run(world / "run/seed_1")
    assert not (world / "run/seed_0").exists()
    assert torch.load(world / "run/previous.pth", weights_only=True)["step"] == 0
    assert (world / "run/mine.txt").read_text() == "kept"


def test_dry_run_writes_nothing_and_says_what_would_run(world, capsys):
    before = all_files(world)
    assert go(world, "--dry_run", "--epochs", "10", "--task_curriculum", "--seeds", "0-2") == 0
    assert all_files(world) == before
    assert not (world / "run").exists()
    said = capsys.readouterr().out
    C, V = 16, len(TOKENIZER)
    n_params = V * C + C * 3 * C + 3 * C + C * C + C + 2 * C * 4 * C + 4 * C + C
    steps = [math.ceil(rows / 8) for rows in (11, 22, 34, *([47] * 7))]
    facts = [f"{n_params:,} parameters", f"{sum(steps):,} of 8", "47 rows", "43 distinct examples"]
    facts += [f"12 of 16 rows of {world}/val.pkl; in the training set: 4", "MiB"]
    facts += [f"({stage['rows']} rows" for stage in STAGES]
    facts += [f"{3e-4 * 1024 / 16:.2e}"]
    assert [fact for fact in facts if fact not in said] == []


def test_a_dry_run_says_that_the_folder_is_taken(world, capsys):
    assert go(world, "--epochs", "1") == 0
    capsys.readouterr()
    assert go(world, "--epochs", "1", "--dry_run") == 0
    assert f"\nwarning {world}/run holds a run already; " in capsys.readouterr().out
    for flag in ("--resume", "--overwrite"):
        assert go(world, "--epochs", "1", "--dry_run", flag) == 0
        assert "warning" not in capsys.readouterr().out
    (world / "file").write_text("")
    assert go(world, "--dry_run", "--out_dir", world / "file") == 0
    assert f"warning cannot make {world}/file ({world}/file is a file)" in capsys.readouterr().out
    assert go(world, "--dry_run", "--out_dir", world / "file/run") == 0
    assert f"({world}/file is a file)" in capsys.readouterr().out
    (world / "other").mkdir()
    (world / "other/config.json").write_text("{}")
    assert go(world, "--dry_run", "--out_dir", world / "other") == 0
    assert f"warning {world}/other/config.json is not of a run; " in capsys.readouterr().out


def test_a_curriculum_of_one_stage_says_which_tasks_it_lacks(world, capsys):
    write_pickle(world / "train.pkl", ["[mul] 1 | 1", "[mul] 2 | 2", "[add] 1 + 1 | 2"])
    write_pickle(world / "val.pkl", ["[mul] 3 | 3"])
    assert go(world, "--dry_run", "--task_curriculum", "--epochs", "5") == 0
    said = capsys.readouterr().out
    assert "stage 1 from epoch 1: add mul (3 rows" in said
    assert "outside the curriculum, in its last stage: mul" in said


def test_no_lr_scaling_takes_the_rate_literally(world):
    assert go(world, "--epochs", "1", "--no_lr_scaling") == 0
    config = json.loads((world / "run/config.json").read_text())
    assert config["derived"]["lr_scaled"] == 3e-4
    assert lines_of(world / "run/metrics.jsonl")[0]["lr"] == pytest.approx(3e-5)


def test_init_std_is_that_of_the_first_weights(world):
    assert go(world, "--init_std", 0.5, "--epochs", 1, "--lr", 1e-9, "--no_lr_scaling") == 0
    model = t.load_model(world / "run/last.pth", CPU)[0]
    assert model.w_tokens.std().item() == pytest.approx(0.5, rel=0.1)


def test_without_generation_its_keys_are_absent(world):
    assert go(world, "--epochs", "1", "--no-autoreg_eval", "--no-show_samples") == 0
    line = lines_of(world / "run/metrics.jsonl")[0]
    generated = {"val_token_accuracy", "val_edit_distance", "val_failures"}
    assert METRICS_KEYS - set(line) == generated


def test_eval_every_validates_every_other_epoch_and_the_last(world):
    assert go(world, "--epochs", "5", "--eval_every", "2") == 0
    lines = lines_of(world / "run/metrics.jsonl")
    validated = [line["epoch"] for line in lines if line.get("val_exact_match") is not None]
    assert validated == [2, 4, 5]
    assert [line["epoch"] for line in lines] == [1, 2, 3, 4, 5]


def test_validation_is_split_into_seen_and_unseen(world, capsys):
    write_pickle(world / "val.pkl", SEEN_ROWS)
    assert go(world, "--epochs", "1") == 0
    said = capsys.readouterr().out
    assert f"unseen  0 of 4 rows of {world}/val.pkl; in the training set: 4" in said
    assert "the headline goes by the seen ones" in said
    assert "model, epoch 1: gap to seen examples " in said
    assert "generalization gap" not in said
    assert "exact match % train" in said
    assert re.search(r"loss train \d\.\d{3} seen \d\.\d{3}  .* seen \d+\.\d \[", said)
    line = lines_of(world / "run/metrics.jsonl")[0]
    # What is seen stands under no name of the unseen.
    for key in ("val_exact_match", "val_exact_match_low", "val_loss", "generalization_gap"):
        assert line[key] is None, key
    assert (line["val_n"], line["val_n_seen"], line["val_exact_match_by_task"]) == (0, 4, {})
    assert 0 <= line["val_exact_match_seen_low"] <= line["val_exact_match_seen"] <= 1
    assert sum(line["val_n_by_task_seen"].values()) == 4
    assert "val_failures" not in line
    assert sum(line["val_failures_seen"].values()) == 4 * (1 - line["val_exact_match_seen"])
    gap = line["train_exact_match"] - line["val_exact_match_seen"]
    assert line["gap_to_seen"] == pytest.approx(gap)
    assert line["gap_to_seen_low"] <= gap <= line["gap_to_seen_high"]
    run = load_run(world / "run", "run")
    figure = plots.learning_figure(run)
    (shown,) = [x for x in figure.axes[0].lines if x.get_label().startswith("seen")]
    assert shown.get_ydata().tolist() == [line["val_exact_match_seen"]]
    report = json.loads((world / "run/memorization.json").read_text())["last"]
    assert 0 not in [g["group"] for g in report["by_repeat_count"]]
    write_pickle(world / "val.pkl", VAL_ROWS[:12] + VAL_ROWS[:3])  # repeats count once
    assert go(world, "--epochs", "1", out="unseen") == 0
    line = lines_of(world / "unseen/metrics.jsonl")[0]
    assert (line["val_n"], line["val_exact_match_seen"]) == (12, None)


def test_best_model_holds_the_weights_of_its_epoch(world, monkeypatch):
    """Training is wrecked after the third epoch: the best weights must not be the last ones."""
    steps = math.ceil(len(TRAIN_ROWS) / 8)
    monkeypatch.setattr(t, "learning_rate", lambda step, **_: 0.01 if step < 3 * steps else 2.0)
    assert go(world, "--epochs", "5", out="five") == 0
    lines = lines_of(world / "five/metrics.jsonl")
    ranks = [(line["val_exact_match"], -line["val_loss"]) for line in lines]
    best = 1 + ranks.index(max(ranks))
    assert best <= 3
    checkpoint = torch.load(world / "five/best_model.pth", weights_only=True)
    assert checkpoint["epoch"] == best
    assert [line["epoch"] for line in lines if line["best"]][-1] == best
    assert go(world, "--epochs", str(best), out="short") == 0
    assert_same_weights(world / "five/best_model.pth", world / "short/last.pth")
    last = weights_of(world / "five/last.pth")["w_tokens"]
    assert not torch.equal(checkpoint["model"]["w_tokens"], last)


def test_positions_are_trained_with_each_kind_and_generation_fits_the_table(world):
    """The longest row is a validation row: generation past its end stays inside the table."""
    longest = "[copy] " + "1 " * 20 + "| " + "1 " * 20
    write_pickle(world / "val.pkl", [*VAL_ROWS, longest])
    assert go(world, "--epochs", "1", "--pos", "learned", "--seeds", "0,1") == 0
    examples = build([*VAL_ROWS, longest])
    models = [t.load_model(world / f"run/seed_{s}/last.pth", CPU)[0] for s in (0, 1)]
    both = t.GPT(models[0].config, [0, 1])
    with torch.no_grad():
        for p, *ps in zip(*(m.parameters() for m in (both, *models)), strict=True):
            p.copy_(torch.cat(ps))
    rows = np.broadcast_to(np.arange(len(examples)), (2, len(examples)))
    generated = t.generate(both, examples, rows, TOKENIZER.eos, CPU)
    for r in range(2):
        for i in range(len(examples)):
            prompt, n_answer = examples.prompt(i), len(examples.answer(i))
            assert generated.ids[r][i] == reference_decode(models[r], 0, prompt, n_answer)[0]


LOOKUP = {"n": 10, "n_train": 40, "nearest": 0.1, "suffix": 0.2, "majority": 0.2}


def file_of_rates(best, last, tasks=("add",), epoch=7):
    """memorization.json with these rates on 10 examples a task."""

    def model(rate, epoch):
        stats = {"n": 10, "exact_match": rate}
        gap = {"gap": 0.1, "low": 0.0, "high": 0.2, "train": 0.6, "unseen": 0.5}
        by_task = [{"group": task, **stats, "lookup": LOOKUP} for task in tasks]
        held_out = {"held_out": "unseen", "unseen": stats, "gap": gap, "gap_by_rows": gap}
        return {"epoch": epoch, "by_task": by_task, "lookup": LOOKUP, **held_out}

    same = last == best
    return {"best": model(best, epoch), "last": model(last, 20), "last_is_best": same}


def test_the_table_has_the_best_beside_the_last_model():
    title, heads, row, *gaps = t.results_table([file_of_rates(0.5, 0.9)], [4])
    assert title == "exact match on unseen examples, 95 % interval"
    headings = "task n best model, epoch 7 last model, epoch 20 lookup"
    assert " ".join(heads.split()) == headings
    cells = "add 10 50.0% [23.7%, 76.3%] 90.0% [59.6%, 98.2%] 20.0% suffix"  # Wilson's
    assert " ".join(row.split()) == cells
    assert gaps == [
        f"{name}: generalization gap +10.0 points [+0.0, +20.0]: 60.0% on training examples, "
        "50.0% on unseen ones"
        for name in ("best model, epoch 7", "last model, epoch 20")
    ]
    _, heads, row, gap = t.results_table([file_of_rates(0.5, 0.5)], [4])
    assert " ".join(heads.split()) == "task n best and last model lookup"
    assert " ".join(row.split()) == "add 10 50.0% [23.7%, 76.3%] 20.0% suffix"
    assert gap.startswith("best and last model, epoch 7: generalization gap +10.0 points")


def test_the_table_tells_seeds_apart_and_a_single_task_once():
    reports = [file_of_rates(0.5, 0.9, ("add", "rel")) for _ in range(2)]
    lines = t.results_table(reports, [4, 9])
    assert lines[0].endswith("95 % interval over 2 seeds and examples")
    assert [line.split()[0] for line in lines[2:5]] == ["add", "rel", "all"]
    # That both seeds are equal makes nothing surer than 10 examples do.
    cells = "10 50.0% [23.7%, 76.3%] 90.0% [59.6%, 98.2%] 20.0% suffix"
    assert all(" ".join(line.split()).endswith(cells) for line in lines[2:5])
    assert [line.split(":")[0] for line in lines[5:]] == [
        f"seed {seed}, {model}"
        for seed in (4, 9)
        for model in ("best model, epoch 7", "last model, epoch 20")
    ]


def test_lookup_beside_the_rates_is_the_mean_over_seeds_of_the_best_baseline():
    reports = [file_of_rates(0.5, 0.5, ("add", "rel")) for _ in range(2)]
    for report, nearest in zip(reports, (0.6, 0.1), strict=True):  # as a panel's seeds differ
        add, rel = report["best"]["by_task"]
        add["lookup"] = {**LOOKUP, "nearest": nearest}
        rel["lookup"] = None
        report["best"]["lookup"] = {**LOOKUP, "nearest": 0.0, "suffix": 0.0, "majority": 0.0}
    lines = t.results_table(reports, [4, 9])
    assert [line.partition("]")[2].strip() for line in lines[2:5]] == ["35.0% nearest", "-", "0.0%"]


def test_a_seed_without_a_last_model_leaves_the_column_of_the_last_ones():
    diverged = {**file_of_rates(0.1, 0.9), "last": None}
    lines = t.results_table([file_of_rates(0.5, 0.9), diverged], [0, 1])
    assert "  last model of 1 of the seeds" in lines[1]
    assert lines[2].split()[2] == "30.0%"
    assert lines[2].split()[5:8] == ["90.0%", "[59.6%,", "98.2%]"]
    assert [line.split(":")[0] for line in lines[3:]] == [
        "seed 0, best model, epoch 7",
        "seed 0, last model, epoch 20",
        "seed 1, best model, epoch 7",
    ]


def validated(exact, tasks, n=500):
    rates = dict(zip(tasks, (1.0, 1.0, 0.995, 0.375, 0.032), strict=True))
    low, high = wilson_interval(round(exact * n), n)
    record = {"train_loss": 12.3456, "val_loss": 10.1234, "train_exact_match": 0.9876}
    record |= {"val_exact_match": exact, "val_exact_match_low": low, "val_exact_match_high": high}
    return {**record, "val_exact_match_by_task": rates}


def test_the_epoch_line_labels_every_number_and_fits_160_columns_for_five_tasks():
    tasks = ["copy", "rev", "add", "sort", "rel"]
    line = t.epoch_line(100, 100, tasks, [validated(0.6804, tasks)], 12345.6)
    assert line == (
        "epoch 100/100  loss train 12.346 unseen 10.123  exact match % train 98.8 unseen 68.0 "
        "[63.8, 71.9]: copy 100 rev 100 add 100 sort 38 rel 3  3.4 h so far"
    )
    records = [validated(rate, tasks) for rate in (0.5, 0.6, *[0.7] * 14)]
    many = t.epoch_line(100, 100, tasks, records, 12345.6)
    assert "unseen 68.1 (16 seeds 50.0–70.0): copy" in many
    assert max(len(line), len(many)) <= 160
    # The tasks trained so far, and no others.
    early = t.epoch_line(2, 100, tasks[:2], [validated(1.0, tasks)], 3)
    assert "[99.2, 100.0]: copy 100 rev 100  3 s so far" in early


def test_an_epoch_line_without_a_held_out_example_of_the_trained_tasks_says_none():
    record = validated(0.5, ["copy", "rev", "add", "sort", "rel"])
    for key in ("val_loss", "val_exact_match"):
        record |= {key: None, f"{key}_seen": None}
    record["val_exact_match_by_task_seen"] = {}
    line = t.epoch_line(1, 9, ["mul"], [record], 3)
    assert "seen none  exact match % train 98.8 seen none  3 s so far" in line


def test_samples_stand_in_quotes_so_that_spaces_are_seen(tmp_path, capsys):
    train, val = build(["[copy] 1 | 1", "[rev] 1 | 1"]), build(["[copy] 2 | 2", "[rev] 4 5 | 5 4"])
    rows = np.arange(2)
    data = audit.Data(TOKENIZER, train, val, rows, rows[:0], rows, {}, {"val_unseen": 2}, [])
    said = [{0: "2", 1: "    "}]
    t.record_samples(data, said, 3, 70, [t.Replica(0, tmp_path)], to_screen=True)
    assert capsys.readouterr().out.splitlines() == [
        '    [copy] 2 | "2"    (right)',
        '    [rev] 4 5 | "    "    (wrong, expected "5 4")',
    ]
    assert [x["prediction"] for x in lines_of(tmp_path / "samples.jsonl")] == ["2", "    "]
    t.record_samples(data, [{0: "7" * 300, 1: ""}], 3, 70, [t.Replica(0, tmp_path)], to_screen=True)
    long = capsys.readouterr().out.splitlines()[0]
    assert long == f'    [copy] 2 | "{"7" * 59}…{"7" * 60}"    (wrong, expected "2")'
    assert lines_of(tmp_path / "samples.jsonl")[-2]["prediction"] == "7" * 300


def test_the_table_names_chance_beside_a_rate_near_it_and_the_gap_by_rows_beside_the_other():
    record = file_of_rates(0.0, 0.9, ("rel", "add"))
    for report in (record["best"], record["last"]):
        for row, chance in zip(report["by_task"], (1 / 26, 0.001), strict=True):
            row["chance"] = chance
    rel, add = t.results_table([record], [4])[2:4]
    assert rel.endswith("  chance is 3.8%")  # within [0, 27.8] of the best model
    assert add.endswith("  chance is 0.1%")
    below = file_of_rates(0.0, 0.0, ("rel", "add"))
    for report in (below["best"], below["last"]):
        report["by_task"][0] |= {"n": 500, "outcomes": "0" * 500, "chance": 1 / 26}
    assert t.results_table([below], [4])[2].endswith("  chance is 3.8%")  # of [0, 0.8]
    record["best"]["by_task"][1] |= {"exact_match": 0.5}
    record["last"]["gap_by_rows"] = {**record["last"]["gap"], "gap": 0.3, "low": 0.2, "high": 0.4}
    lines = t.results_table([record], [4])
    assert "chance" not in lines[3]
    assert lines[-1].endswith("; by rows, repeats counted, +30.0 points [+20.0, +40.0]")
    assert "by rows" not in lines[-2]


def test_a_warm_up_longer_than_a_tenth_of_the_run_is_shortened(world, capsys):
    assert go(world, *words("--epochs 5 --warmup_steps 200")) == 0
    note = "the warm-up of 200 steps is shortened to 3, a tenth of the run"
    assert note in capsys.readouterr().out
    assert json.loads((world / "run/config.json").read_text())["derived"]["warmup_steps"] == 3
    assert go(world, *words("--epochs 5 --warmup_steps 3"), out="three") == 0
    assert "shortened" not in capsys.readouterr().out
    assert_same_weights(world / "run/last.pth", world / "three/last.pth")


def test_the_next_command_can_count_something_and_works_from_anywhere(world, monkeypatch, capsys):
    monkeypatch.chdir(world)
    paths = words("--data train.pkl --tokenizer tokenizer.json --out_dir run")
    assert t.main([*TINY, *paths, "--epochs", "1"]) == 0
    *_, last, page = capsys.readouterr().out.strip().splitlines()
    assert page == shlex.join(["page:", *map(str, ("python", ROOT / "report.py", world / "run"))])
    script, _, model, _, tokenizer = shlex.split(last.removeprefix("next: python "))
    assert Path(script) == SCRIPT.with_name("evaluate_ood.py")
    assert (Path(model), Path(tokenizer)) == (world / "run", world / "tokenizer.json")
    for name in ("train", "val"):  # tags of the user's own: no suite asks for them
        write_pickle(
            world / f"{name}.pkl", [f"[mul] {i} 1 | {i}" for i in range(name == "val", 20, 2)]
        )
    assert t.main([*TINY, *paths[:-1], "own", "--epochs", "1"]) == 0
    assert "next:" not in capsys.readouterr().out
    panel = [*TINY, *paths[:-1], "panel", *words("--epochs 1 --subset 0.5 --seeds 0-1")]
    assert t.main(panel) == 0
    *_, last, _ = capsys.readouterr().out.strip().splitlines()
    script, *model = shlex.split(last.removeprefix("next: python "))
    assert Path(script) == SCRIPT.with_name("evaluate_memorization.py")
    assert model == ["--model", str(world / "panel")]


def test_the_run_keeps_its_command_and_when_it_began(world, monkeypatch):
    monkeypatch.setattr(t.time, "gmtime", lambda: (2026, 11, 27, 8, 5, 0, 4, 331, 0))
    paths = words(f"--data {world}/train.pkl --tokenizer {world}/tokenizer.json")
    argv = [*TINY, *paths, "--out_dir", str(world / "run"), "--epochs", "1"]
    assert t.main(argv) == 0
    config = json.loads((world / "run/config.json").read_text())
    assert config["command"] == ["python", "train_minigpt_4070.py", *argv]
    assert config["begun"] == "2026-11-27 08:05 UTC"
    monkeypatch.setattr(t.time, "gmtime", lambda: (2027, 1, 1, 0, 0, 0, 4, 1, 0))
    assert t.main([*argv[:-1], "2", "--resume"]) == 0  # goes on with what began then
    again = json.loads((world / "run/config.json").read_text())
    assert (again["command"], again["begun"]) == (config["command"], config["begun"])
