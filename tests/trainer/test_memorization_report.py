"""The memorization report on hand-made cases."""

import json
import random

import numpy as np
import pytest

import plots
import train_minigpt_4070 as t
from comparison.groups import best_outcomes
from data import audit
from reference import TOKENIZER
from runtime.records import load_run
from trainer.conftest import make_world
from trainer.helpers import CPU, build, go, lines_of, words


def data_of(train_rows, val_rows):
    train, val = build(train_rows), build(val_rows)
    seen = np.isin(val.keys, train.keys)
    headline = np.flatnonzero(~seen) if not seen.all() else np.arange(len(val))
    sample = audit.matched_sample(train, val, headline)
    repeats = {"train_rows": len(train), "train_examples": len(np.unique(train.keys))}
    facts = repeats | {"val_seen": int(seen.sum()), "val_unseen": int((~seen).sum())}
    return audit.Data(TOKENIZER, train, val, headline, np.flatnonzero(seen), sample, {}, facts, [])


def report_of(monkeypatch, data, predictions, right_in_training=()):
    """The report on a model that says `predictions` to `data.val` and knows some training rows."""

    def generate(model, examples, rows, eos, device, **kwargs):
        assert examples is data.val
        ids = [TOKENIZER.encode(predictions[examples.raw(i)]).tolist() for i in rows[0]]
        log_prob = np.log([[0.9 if predictions[examples.raw(i)] else 0.5 for i in rows[0]]])
        return t.Generation([ids], log_prob, np.arange(len(ids), dtype=float)[None])

    def score(model, examples, rows, device, **kwargs):
        if examples is data.val:
            exact = [predictions[examples.raw(i)] == examples.answer(i) for i in rows]
        else:
            exact = [examples.raw(i) in right_in_training for i in rows]
        exact = np.array([exact], dtype=bool)
        n = np.ones(exact.shape, int)
        return t.Scores(np.where(exact, 0.5, 2.0), exact, exact.astype(int), n)

    monkeypatch.setattr(t, "generate", generate)
    monkeypatch.setattr(t, "score", score)
    report = t.memorization_report(None, data, TOKENIZER, CPU)
    json.dumps(report, allow_nan=False)
    return report


def test_memorization_report_on_a_hand_made_case(monkeypatch):
    once, twice = "[copy] 1111 | 1111", "[copy] 2222 | 2222"
    thrice = "[copy] 3333 | 3333"
    train_rows = [once] + [twice] * 2 + [thrice] * 3
    train_rows += ["[rev] 12 | 21"] * 11 + ["[rev] 13 | 31"] + ["[rev] 14 | 41"] * 2
    predictions = {
        "[copy] 1112 | 1112": "1111",  # the answer of another training example
        "[copy] 4444 | 4444": "4444",
        "[copy] 2225 | 2225": "9999",  # wrong, and nobody's
        "[rev] 35 | 53": "1111",  # another tag's answer does not count
    }
    data = data_of(train_rows, list(predictions))
    report = report_of(monkeypatch, data, predictions, {twice, thrice})
    assert (report["unseen"]["n"], report["unseen"]["exact_match"]) == (4, 0.25)
    assert report["unseen"]["loss"] == pytest.approx((0.5 + 3 * 2.0) / 4)
    assert report["train"]["n"] == 4  # three distinct [copy] and one distinct [rev]
    assert report["train"]["exact_match"] == 0.5
    assert report["seen"] is None
    gap = report["gap"]
    assert (gap["train"], gap["unseen"], gap["gap"]) == (0.5, 0.25, 0.25)
    assert gap["low"] < 0.25 < gap["high"]
    # Of the rows with these tags and lengths, one of six [copy] is unknown, and no [rev] is known.
    by_rows = report["gap_by_rows"]
    assert by_rows["n_train"] == 4
    assert by_rows["train"] >= 0.5
    # A number of four digits, and one of two.
    assert [row["chance"] for row in report["by_task"]] == pytest.approx([1 / 9000, 1 / 90])
    # "1112" and "2225" are nearest to 1111 and 2222; every prompt is its task's own answer reversed
    # or not, so no other baseline is right.
    none = dict.fromkeys(("nearest", "suffix", "majority"), 0.0)
    assert [row["lookup"] for row in report["by_task"]] == [
        {"n": 3, "n_train": 20, **none},
        {"n": 1, "n_train": 20, **none},
    ]
    assert report["lookup"] == {"n": 4, "n_train": 20, **none}
    counts = [(g["group"], g["n"], g["exact_match"]) for g in report["by_repeat_count"]]
    # One of each task at each count; 8 is left out, for [copy] lacks it. 3 is grouped with 2.
    assert counts == [(0, 4, 0.25), (1, 2, 0.0), (2, 2, 0.5)]
    assert report["repeat_counts_grouped"] is True
    losses = [g["loss"] for g in report["by_repeat_count"]]
    assert losses == pytest.approx([1.625, 2.0, 1.25])
    assert all(g["exact_match_low"] <= g["exact_match"] for g in report["by_repeat_count"])
    assert [g["outcomes"] for g in report["by_repeat_count"]] == ["0100", "00", "10"]
    row_of_key = {name: i for i, name in enumerate(audit.key_texts(data.train, np.arange(20)))}
    assert [g["losses"] for g in report["by_repeat_count"]] == ["2 0.5 2 2", "2 2", "0.5 2"]
    cells = {
        (g["group"], cell["group"]): cell
        for g in report["by_repeat_count"]
        for cell in g["by_task"]
    }
    assert {
        group: (cell["n"], cell["exact_match"], cell["loss"]) for group, cell in cells.items()
    } == {
        (0, "copy"): (3, 1 / 3, 1.5),
        (0, "rev"): (1, 0.0, 2.0),
        (1, "copy"): (1, 0.0, 2.0),
        (1, "rev"): (1, 0.0, 2.0),
        (2, "copy"): (1, 1.0, 0.5),
        (2, "rev"): (1, 0.0, 2.0),
    }
    for g in report["by_repeat_count"][1:]:  # the names in the order of the tasks
        rows = [row_of_key[name] for name in g["examples"].split()]
        assert [data.train.tasks[row] for row in rows] == ["copy", "rev"]
        repeats = [(data.train.keys == data.train.keys[row]).sum() for row in rows]
        assert all(g["group"] <= n < 2 * g["group"] for n in repeats)
    assert [g["outcomes"] for g in report["by_task"]] == ["010", "0"]
    assert report["unseen"]["outcomes"] == "0100"
    wrong = report["wrong_predictions"]
    assert (wrong["n"], wrong["answer_of_another_example"]) == (3, 1)
    # Prompts with their bar, "[copy] 1112 | " is 14 long: one slip; "4444" differs in four places.
    assert wrong["nearest_distance_right"] == pytest.approx(4 / 14)
    assert wrong["nearest_distance_wrong"] == pytest.approx((1 / 14 + 1 / 14 + 2 / 11) / 3)
    # 3-grams: "1111" and "9999" among the answers of [copy]; "1111" among "21" of [rev].
    overlap = report["ngram_overlap"]
    assert (overlap["n"], overlap["right"]) == (3, 0.0)
    assert overlap["wrong"] == pytest.approx((1 + 0 + 0) / 3)
    assert (report["entropy"]["n_right"], report["entropy"]["n_wrong"]) == (1, 3)
    assert report["confidence"]["right"] == pytest.approx(0.9)


def test_the_report_has_what_lookup_answers_beside_each_task(monkeypatch):
    train = ["[rel] ABC up 1 A | B", "[rel] ABC up 1 B | C", "[add] 1 + 2 | 3", "[add] 4 + 4 | 8"]
    train += ["[add] 70 + 1 | 71"] * 2
    val = ["[rel] ABC up 1 Z | C", "[rel] ABC up 1 A ? | B", "[add] 70 + 2 | 72", "[add] 7 + 1 | 8"]
    val += ["[add] 60 + 11 | 71"]
    data = data_of(train, val)
    report = report_of(monkeypatch, data, dict.fromkeys(val, ""))
    rates = {row["group"]: row["lookup"] for row in report["by_task"]}
    # Both rows are as near to "ABC up 1 Z", and the first wins.
    assert rates["rel"] == {"n": 2, "n_train": 6, "nearest": 0.5, "suffix": 0.5, "majority": 0.5}
    # Only the commonest answer, 71, is right, and once.
    assert rates["add"]["majority"] == 1 / 3
    assert report["lookup"]["n"] == 5
    assert report["lookup"]["majority"] == 2 / 5


def test_an_answer_that_is_none_of_its_task_has_no_chance(monkeypatch):
    predictions = {"[add] 2 + 1 | three": "3", "[mul] 2 4 | 8": "8", "[rel] B>K ? up 1 K | B": "B"}
    data = data_of(["[add] 3 + 4 | 7", "[mul] 2 3 | 6", "[rel] B>C ? up 1 C | B"], [*predictions])
    report = report_of(monkeypatch, data, predictions)
    chances = {row["group"]: row["chance"] for row in report["by_task"]}
    assert chances == {"add": None, "mul": None, "rel": pytest.approx(1 / 26)}


def test_chance_on_an_answer_of_400_digits_is_none_at_all(monkeypatch):
    long = "1" * 400
    data = data_of(["[copy] 7 | 7"], [f"[copy] {long} | {long}"])
    report = report_of(monkeypatch, data, {f"[copy] {long} | {long}": "1"})
    assert [row["chance"] for row in report["by_task"]] == [0.0]


def test_memorization_report_on_seen_and_unseen_examples(monkeypatch):
    predictions = {"[add] 2 + 1 | 3": "3", "[add] 5 + 5 | 10": "11", "[add] 8 + 1 | 9": "9"}
    data = data_of(["[add] 1 + 2 | 3", "[add] 3 + 4 | 7"], list(predictions))
    report = report_of(monkeypatch, data, predictions)
    assert (report["unseen"]["n"], report["unseen"]["exact_match"]) == (2, 0.5)
    assert (report["seen"]["n"], report["seen"]["exact_match"]) == (1, 1.0)
    assert report["by_repeat_count"][0]["n"] == 2


def test_memorization_report_calls_nothing_unseen_that_was_seen(monkeypatch):
    rows = ["[copy] 1 | 1", "[copy] 2 | 2"]
    data = data_of(rows, rows)
    report = report_of(monkeypatch, data, dict(zip(rows, "12", strict=True)), set(rows))
    assert [g["group"] for g in report["by_repeat_count"]] == [1]
    assert (report["held_out"], report["unseen"]) == ("seen", None)
    assert (report["seen"]["n"], report["seen"]["exact_match"]) == (2, 1.0)
    gap, to_seen = report["gap"], report["gap_to_seen"]
    assert (gap["train"], gap["unseen"], gap["gap"], gap["n_unseen"]) == (1.0, None, None, 0)
    assert (to_seen["train"], to_seen["seen"], to_seen["gap"], to_seen["n_seen"]) == (1, 1, 0, 2)
    assert not any("unseen" in key for key in to_seen)


def random_labels(n, seed):
    """n sums of distinct operands, whose answers are drawn at random."""
    rng = random.Random(seed)
    pairs = rng.sample([(a, b) for a in range(100) for b in range(a, 100)], n)
    return [f"[add] {a} + {b} | {rng.randrange(100, 1000)}" for a, b in pairs]


def test_the_last_model_shows_the_rote_learning_that_the_best_one_has_not_done_yet(
    tmp_path, capsys
):
    """Random labels: without a rule unseen loss is lowest early, while rote learning grows."""
    rows = random_labels(48, seed=3)
    world = make_world(tmp_path, rows[:24], rows[24:])
    flags = words(
        "--epochs 120 --d_model 64 --lr 2e-4 --no-autoreg_eval --dropout 0 --eval_every 3"
    )
    assert go(world, *flags) == 0
    record = json.loads((world / "run/memorization.json").read_text())
    lines = lines_of(world / "run/metrics.jsonl")
    judged = [line for line in lines if "val_loss" in line]
    best_line = max(judged, key=lambda line: (line["val_exact_match"], -line["val_loss"]))
    best, last = record["best"], record["last"]
    assert (record["format"], record["last_is_best"]) == (2, False)
    assert (best["epoch"], best["step"]) == (best_line["epoch"], best_line["step"])
    assert (last["epoch"], last["step"]) == (120, lines[-1]["step"])
    assert best["epoch"] < 40
    for report, line in ((best, best_line), (last, lines[-1])):
        assert report["train"]["exact_match"] == pytest.approx(line["train_exact_match"])
    assert best["train"]["exact_match"] < 0.1
    assert last["train"]["exact_match"] > 0.9
    assert last["unseen"]["exact_match"] < 0.1
    assert last["by_repeat_count"][-1]["exact_match"] > 0.9
    # Both score the same examples; the last model has the outcome of each.
    once = last["by_repeat_count"][1]
    assert once["outcomes"].count("1") == round(24 * once["exact_match"])
    assert len(set(once["examples"].split())) == len(once["losses"].split()) == 24
    assert not {"examples", "outcomes", "losses"} & best["by_repeat_count"][1].keys()
    # Of unseen examples both have it, by which two runs' best models are compared.
    unseen, same = (report["by_repeat_count"][0] for report in (best, last))
    assert unseen["examples"] == same["examples"]
    assert unseen["outcomes"] == best["unseen"]["outcomes"]
    named = zip(unseen["examples"].split(), unseen["outcomes"], strict=True)
    expected = {name: ("add", right == "1") for name, right in named}
    assert best_outcomes(load_run(world / "run", "run"), best["epoch"]) == expected
    said = capsys.readouterr().out
    assert f"best model, epoch {best['epoch']}" in said
    assert (
        f"last model, epoch 120: generalization gap +{100 * last['gap']['gap']:.1f} points" in said
    )
    run = load_run(world / "run", "run")
    assert run.memorization_of == "last"
    assert run.memorization[0]["train"] == last["train"]
    drawn = plots.repeat_points(run, "exact_match")
    assert drawn[1].value == last["by_repeat_count"][-1]["exact_match"]
    figure = plots.repeat_count_figure([run])
    assert "Model after the last step." in figure._supxlabel.get_text()


def test_a_last_model_that_is_the_best_is_scored_once_and_called_both(world, monkeypatch, capsys):
    scored, original = [], t.memorization_report
    monkeypatch.setattr(
        t, "memorization_report", lambda *a, **k: scored.append(1) or original(*a, **k)
    )
    assert go(world, "--epochs", "1") == 0
    record = json.loads((world / "run/memorization.json").read_text())
    assert len(scored) == 1
    assert record["last_is_best"] is True
    assert record["best"]["unseen"] == record["last"]["unseen"]
    assert record["best"]["step"] == record["last"]["step"] == 6
    assert "best and last model, epoch 1: generalization gap" in capsys.readouterr().out
