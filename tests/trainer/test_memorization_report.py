"""The memorization report on hand-made cases."""

import json

import numpy as np
import pytest

import train_minigpt_4070 as t
from data import audit
from reference import TOKENIZER
from trainer.helpers import CPU, build


def data_of(train_rows, val_rows):
    train, val = build(train_rows), build(val_rows)
    seen = np.isin(val.keys, train.keys)
    headline = np.flatnonzero(~seen) if not seen.all() else np.arange(len(val))
    sample = audit.matched_sample(train, val, headline)
    facts = {"val_seen": int(seen.sum()), "val_unseen": int((~seen).sum())}
    return audit.Data(TOKENIZER, train, val, headline, np.flatnonzero(seen), sample, {}, facts)


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
    report = t.memorization_report(None, data, TOKENIZER, CPU, 7)
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
    assert report["epoch"] == 7
    assert (report["unseen"]["n"], report["unseen"]["exact_match"]) == (4, 0.25)
    assert report["unseen"]["loss"] == pytest.approx((0.5 + 3 * 2.0) / 4)
    assert report["train"]["n"] == 4  # three distinct [copy] and one distinct [rev]
    assert report["train"]["exact_match"] == 0.5
    assert report["seen"] is None
    gap = report["gap"]
    assert (gap["train"], gap["unseen"], gap["gap"]) == (0.5, 0.25, 0.25)
    assert gap["low"] < 0.25 < gap["high"]
    counts = [(g["group"], g["n"], g["exact_match"]) for g in report["by_repeat_count"]]
    # One of each task at each count; 8 is left out, for [copy] lacks it. 3 is grouped with 2.
    assert counts == [(0, 4, 0.25), (1, 2, 0.0), (2, 2, 0.5)]
    assert report["repeat_counts_grouped"] is True
    losses = [g["loss"] for g in report["by_repeat_count"]]
    assert losses == pytest.approx([1.625, 2.0, 1.25])
    assert all(g["exact_match_low"] <= g["exact_match"] for g in report["by_repeat_count"])
    unseen, _, repeated = report["by_repeat_count"]
    assert (unseen["examples"], unseen["outcomes"]) == ("0 1 2 3", "0100")
    rows = map(int, repeated["examples"].split())
    assert repeated["outcomes"] == "10"
    assert {data.train.raw(i) for i in rows} <= {twice, thrice, "[rev] 14 | 41"}
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
    assert not report["unseen"]
    assert (report["seen"]["n"], report["seen"]["exact_match"]) == (2, 1.0)
