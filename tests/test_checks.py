"""Contradictory labels and forms that differ between files, by hand-worked cases."""

import json
import random

import pytest

from data import checks
from data.audit import audit_notes, load_data
from data.checks import Forms, conflicting_labels, form_differences, form_notes, label_notes
from data.formats import Tokenizer, build_examples
from data.generate import build_tokenizer
from data.tasks import TASKS, draw_example

CHARACTERS = sorted(
    set("".join(build_tokenizer(TASKS)["stoi"])) | set("ADD_twice\t\xa0\uff11−é\u0301")
)
TOKENIZER = Tokenizer(["<pad>", "<unk>", "<eos>", *(c for c in CHARACTERS if len(c) == 1)])
PLAIN = [f"[add] {a} + {b} | {a + b}" for a in range(10) for b in range(5)]


def build(rows):
    return build_examples(rows, TOKENIZER, "test")


def differences(train, val):
    train, val = build(train), build(val)
    forms = [Forms("training", train, TOKENIZER), Forms("validation", val, TOKENIZER)]
    forms[1].add_new_characters(val, forms[0])
    return form_differences(*forms)


def test_contradictory_labels_are_counted_and_shown_within_and_across_files():
    train = ["[add] 2 + 2 | 4", "[add] 1 + 1 | 2", "[add] 1 +  1 | 3", "[add] 1 + 1 | 2"]
    val = ["[add] 2 + 2 | 5", "[add] 3 + 3 | 6"]
    labels = conflicting_labels({"training": build(train), "validation": build(val)})
    found = labels["contradictory"]
    assert found["rows"] == {"training": 4, "validation": 1}
    assert [(row["file"], row["place"], row["row"]) for row in found["first"]] == [
        ("training", "row 0", "[add] 2 + 2 | 4"),
        ("validation", "row 0", "[add] 2 + 2 | 5"),
    ]
    assert labels["other"] == {"rows": {"training": 0, "validation": 0}, "first": []}
    assert label_notes(labels) == [
        "5 rows (training 4, validation 1) contradict each other: the same prompt, another answer; "
        "the first: '[add] 2 + 2 | 4' (training, row 0) and '[add] 2 + 2 | 5' (validation, row 0)"
    ]


def test_rows_that_only_share_a_canonical_key_are_no_contradiction():
    train = ["[rev] 01 | 10", "[rev] 1 | 1", "[rev] 001 | 100", "[rev] 2 3 | 3 2"]
    labels = conflicting_labels({"training": build(train), "validation": build(["[rev] 1 | 1"])})
    assert sum(labels["contradictory"]["rows"].values()) == 0
    assert labels["other"]["rows"] == {"training": 3, "validation": 1}
    assert [row["row"] for row in labels["other"]["first"]] == ["[rev] 01 | 10", "[rev] 1 | 1"]
    (note,) = label_notes(labels)
    assert "4 rows (training 3, validation 1) share a canonical key with a row of another" in note


def test_other_writings_of_an_example_conflict_with_nothing():
    rows = ["[add] 041 + 1 | 42", "[add] 1 + 41 | 42", "[add] 1+41 | 42", "[sort] 2 1 | 1 2"]
    labels = conflicting_labels({"training": build(rows), "validation": build(rows)})
    assert label_notes(labels) == []
    # In a task of its own rule order may count: the texts are the keys, and nothing conflicts.
    rows = ["[add_twice] 3 + 5 | 13", "[add_twice] 5 + 3 | 11"]
    sets = {"training": build(rows), "validation": build(PLAIN)}
    assert label_notes(conflicting_labels(sets)) == []
    assert checks.keyed_by_text(sets) == {"add_twice": 2}


@pytest.mark.parametrize(
    ("written", "form"),
    [
        (lambda row: row + " ", "white space at the end of the answer"),
        (lambda row: row + "\xa0", "white space that is no plain space"),
        (lambda row: row.replace("| ", "|  "), "doubled or leading white space in the answer"),
        (lambda row: row.replace(" +", "  +"), "doubled or outer white space in the prompt"),
        (lambda row: row.replace("] ", "]  "), "doubled or outer white space in the prompt"),
        (lambda row: row.replace(" |", "  |"), "doubled or outer white space in the prompt"),
        (lambda row: row.replace(" + ", "\t+ "), "white space that is no plain space"),
        (lambda row: row.replace("1", "\uff11"), "characters of another Unicode form"),
        (lambda row: row.replace("1", "1\u0301"), "characters of another Unicode form"),
        (lambda row: row.replace(" + ", "+"), "signs without spaces around"),
        (lambda row: row.replace("| 1", "| 01"), "numbers with leading zeros"),
        (lambda row: row.replace("+", "−"), "characters that training lacks, as '−' (U+2212)"),
    ],
)
@pytest.mark.parametrize("block", [10, 2**22])
def test_a_form_of_one_file_only_is_told_with_its_rows_and_the_first(
    written, form, block, monkeypatch
):
    monkeypatch.setattr(checks, "IDS_AT_ONCE", block)
    train, val = PLAIN[::2], [written(row) for row in PLAIN[1::2]]
    changed = [i for i, row in enumerate(val) if row not in PLAIN]
    found = {d["form"]: d for d in differences(train, val)}
    d = found[form]
    assert (d["file"], d["rows"], d["of"]) == ("validation", len(changed), 25)
    assert (d["other"], d["other_rows"], d["other_of"]) == ("training", 0, 25)
    assert d["first"] == {
        "file": "validation",
        "place": f"row {changed[0]}",
        "row": val[changed[0]],
    }
    # The other way round it is the training set that has it.
    if not form.startswith("characters that"):
        swapped = {d["form"]: d for d in differences(val, train)}
        assert (swapped[form]["file"], swapped[form]["rows"]) == ("training", len(changed))
    assert differences(val, val) == []  # no difference that both files share
    notes = form_notes([d])
    assert f"none of 25 of training; the first is row {changed[0]}: {val[changed[0]]!r}" in notes[0]


def test_shares_of_a_form_may_differ_by_chance_and_by_task_mix():
    some = [row + " " * (i % 10 == 0) for i, row in enumerate(PLAIN)]  # a tenth of the rows
    assert differences(some, some[:33]) == []
    most = [row + " " * (i % 10 != 0) for i, row in enumerate(PLAIN)]
    (d,) = differences(some, most)
    assert (d["file"], d["rows"], d["other_rows"]) == ("validation", 45, 5)
    rel = ["[rel] A>B B>C ? up 1 C | B"]  # its signs stand without spaces in every row
    assert differences(PLAIN + rel, PLAIN[:5] + 20 * rel) == []
    assert differences(PLAIN, PLAIN + rel) == []  # a tag of one file is compared with nothing


def test_tags_in_another_case_are_told():
    val = [*PLAIN[:5], *(row.replace("add", "ADD") for row in PLAIN[5:9])]
    assert form_notes(differences(PLAIN, val)) == [
        "4 of 9 rows of validation have the tag 'ADD', which training writes 'add'"
    ]


def test_drawn_rows_of_every_task_differ_in_nothing():
    rng = random.Random(0)
    rows = [draw_example(rng, task) for task in TASKS for _ in range(300)]
    assert differences(rows[::2], rows[1::2]) == []


def test_notes_and_record_of_the_audit_of_two_files(tmp_path):
    (tmp_path / "tokenizer.json").write_text(
        json.dumps({"stoi": {token: i for i, token in enumerate(TOKENIZER.itos)}})
    )
    train = [*PLAIN[:40], "[add] 1 + 1 | 3", "[add_twice] 3 + 5 | 13", "[add_twice] 5 + 3 | 11"]
    (tmp_path / "train.txt").write_text("\n".join(train) + "\n")
    (tmp_path / "val.txt").write_text("\n".join(row + " " for row in PLAIN[38:]) + "\n")
    data = load_data(*(str(tmp_path / f) for f in ("train.txt", "val.txt", "tokenizer.json")))
    audit = json.loads(json.dumps(data.audit))  # goes into config.json
    assert (audit["train_rows"], audit["train_examples"]) == (43, 33)  # 10 sums stand there twice
    assert audit["val_unseen"] == 12  # "7 " is another answer than "7"
    notes = audit_notes(audit)
    assert notes[0] == (
        "12 of 12 rows of validation have white space at the end of the answer, none of 41 of "
        "training; the first is line 1: '[add] 7 + 3 | 10 '"
    )
    assert notes[1].startswith("6 rows (training 4, validation 2) contradict each other")
    assert notes[-1].startswith("[add_twice] 2 rows ask the same only where their texts are")


def test_empty_answers_are_told_with_the_first():
    train = build(["[a] 1 | x", "[a] 2 | ", "[a] 3 | z", "[a] 4 | "])
    sets = {"training": train, "validation": build(["[a] 5 | "])}
    assert checks.empty_notes(checks.empty_answers(sets)) == [
        "rows with an empty answer: training 2, validation 1; the first is row 1 of training: "
        "'[a] 2 | '"
    ]
    none = checks.empty_answers({"training": build(["[a] 1 | x"])})
    assert (none, checks.empty_notes(none)) == ({"rows": {"training": 0}, "first": None}, [])


def test_a_combining_mark_is_no_sign_and_one_row_holds_no_new_characters():
    marked = ["[a] e\u0301 + 1 | x", "[a] x + 1 | x"]
    assert "signs without spaces around" not in {d["form"] for d in differences(marked[1:], marked)}
    assert differences(["[add] 1 + 2 | 3"], ["[add] 1 + 2 | 3", "[add] 2 + 1 | 3"]) == []


def test_a_task_with_one_answer_is_told():
    rows = ["[a] 1 | 7", "[a] 2 | 7", "[b] 1 | 7", "[b] 2 | 8", "[c] 1 | 7", "[d] 1 | ", "[d] 2 | "]
    train = build(rows)
    assert checks.one_answer(train) == {"a": "7", "d": ""}
