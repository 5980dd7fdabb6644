"""Data sets and tokenizers as files: what loads, and what is refused in one sentence.

`pytest -m faults tests/faults/test_hostile_files.py` does the damage by the ten thousand, in a
process that is watched; what stands here is its short version.
"""

import json
import math
import os
import pickle
import pickletools
import random
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data import formats
from data.generate import (
    TASKS,
    build_tokenizer,
    canonical_key,
    draw_example,
    split_example,
    task_of_tag,
)

TOKENIZER_JSON = build_tokenizer((*TASKS, "sort_desc", "mul"))
TOKENIZER = formats.Tokenizer(TOKENIZER_JSON["itos"].values())
CHARACTERS = "".join(token for token in TOKENIZER.itos if len(token) == 1)


def words(text):
    """Names, without a quotation mark around each."""
    return text.split()


def draw_rows(n, seed):
    """n rows of the five tasks in turn."""
    rng = random.Random(seed)
    return [draw_example(rng, TASKS[i % len(TASKS)]) for i in range(n)]


def build(rows):
    return formats.build_examples(rows, TOKENIZER, "test")


# ----------------------------------------------------------------------------------------------
# Tokenizer
# ----------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.text(CHARACTERS))
def test_tokenizer_round_trip(text):
    ids = TOKENIZER.encode(text)
    assert len(ids) == len(text)
    assert ids.tolist() == [TOKENIZER_JSON["stoi"][c] for c in text]
    assert TOKENIZER.decode(ids) == text


@settings(deadline=None)
@given(st.text())
def test_unknown_characters_become_unk_and_nothing_else_does(text):
    ids = TOKENIZER.encode(text)
    assert [i == 1 for i in ids] == [c not in CHARACTERS for c in text]
    known = "".join(c if c in CHARACTERS else "\ufffd" for c in text)
    assert TOKENIZER.decode(ids) == known


def test_special_tokens_decode_to_one_replacement_character_each():
    assert TOKENIZER.decode([0, TOKENIZER.stoi["7"], 1, 2]) == "\ufffd7\ufffd\ufffd"


def test_tokenizer_of_the_earlier_program_gets_eos_as_the_next_id(tmp_path, capsys):
    stoi = {"<pad>": 0, "<unk>": 1, " ": 2, "|": 3, "7": 4}
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps({"stoi": stoi, "itos": {str(i): c for c, i in stoi.items()}}))
    tokenizer = formats.load_tokenizer(path)
    assert (tokenizer.pad, tokenizer.unk, tokenizer.eos, len(tokenizer)) == (0, 1, 5, 6)
    said = capsys.readouterr().out
    assert "<eos>" in said
    assert "id 5" in said
    path.write_text(json.dumps(TOKENIZER_JSON))
    assert formats.load_tokenizer(path).eos == 2
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "null",
        "[]",
        "{}",
        '{"stoi": {}}',
        '{"stoi": ["<pad>"]}',
        '{"stoi": {"<pad>": 0, "<unk>": 1}}',
        '{"stoi": {"<pad>": 0, "<unk>": 1, "a": 3}}',
        '{"stoi": {"<pad>": 0, "<unk>": 1, "a": 1}}',
        '{"stoi": {"<pad>": 0, "<unk>": 1, "a": "2"}}',
        '{"stoi": {"<pad>": 0, "<unk>": 1, "a": null}}',
        '{"stoi": {"<pad>": 0, "<unk>": 1, "a": [2]}}',
        '{"stoi": {"<unk>": 0, "<pad>": 1, "a": 2}}',
        '{"stoi": {"<pad>": 0, "<unk>": 1, "a": NaN}}',
        "\u00ff{",
        "[" * 100_000,
    ],
)
def test_malformed_tokenizers_are_user_errors(tmp_path, text):
    path = tmp_path / "tokenizer.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(formats.UserError, match=re.escape(str(path))):
        formats.load_tokenizer(path)


def test_missing_tokenizer_is_a_user_error(tmp_path):
    with pytest.raises(formats.UserError, match=r"absent\.json does not exist"):
        formats.load_tokenizer(tmp_path / "absent.json")


# ----------------------------------------------------------------------------------------------
# Examples and their files
# ----------------------------------------------------------------------------------------------

ROWS = ["[add] 41 + 465 | 506", "[sort_desc] 5 27 9 | 27 9 5", "[rev] 5 27 9 | 9 27 5"]


def encode_all(rows, tokenizer=TOKENIZER):
    return [tokenizer.encode(row).tolist() for row in rows]


def write_pickle(path, rows=ROWS, **content):
    path.write_bytes(pickle.dumps({"raw": rows, **content}))
    return path


def check_rows(examples, rows=ROWS):
    assert len(examples) == len(rows)
    for i, row in enumerate(rows):
        prompt, answer = row[: row.rindex(" | ") + 3], row[row.rindex(" | ") + 3 :]
        assert (examples.raw(i), examples.prompt(i), examples.answer(i)) == (row, prompt, answer)
        start, n = examples.starts[i], examples.lengths[i]
        assert n == len(row)
        assert examples.ids[start : start + n + 1].tolist() == [*TOKENIZER.encode(row), 2]
        assert examples.answer_start[i] == len(prompt)


def test_every_format_gives_the_same_examples(tmp_path):
    pkl = write_pickle(tmp_path / "a.pkl", encoded=encode_all(ROWS), labels=["add", "sort", "rev"])
    raw_only = write_pickle(tmp_path / "b.pkl")
    with_eos = write_pickle(tmp_path / "c.pkl", encoded=[[*ids, 2] for ids in encode_all(ROWS)])
    lines = tmp_path / "d.txt"
    lines.write_text("\n".join(ROWS) + "\n\n")
    raws = tmp_path / "e.jsonl"
    raws.write_text("".join(json.dumps({"raw": row}) + "\n" for row in ROWS))
    parts = tmp_path / "f.jsonl"
    with open(parts, "w") as file:
        for row in ROWS:
            tag, prompt, answer = re.fullmatch(r"\[(\w+)\] (.*) \| (.*)", row).groups()
            file.write(json.dumps({"task": tag, "prompt": prompt, "answer": answer}) + "\n")
    for path in (pkl, raw_only, with_eos, lines, raws, parts):
        examples = formats.load_examples(path, TOKENIZER)
        check_rows(examples)
        assert examples.tags.tolist() == ["add", "sort_desc", "rev"]
        assert examples.tasks.tolist() == ["add", "sort", "rev"]


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_pickles_of_every_protocol_load(tmp_path, protocol):
    rows = draw_rows(400, seed=0)  # more than 255 memo entries: LONG_BINPUT
    path = tmp_path / "a.pkl"
    content = {"encoded": encode_all(rows), "labels": [None] * len(rows), "raw": rows}
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    check_rows(formats.load_examples(path, TOKENIZER), rows)


def test_files_of_the_earlier_program_load_unchanged(tmp_path):
    """The shapes of `origin_format`: protocol 5, no <eos>, labels None; a suite with encoded []."""
    characters = " +0123456789[]ad|"
    stoi = {token: i for i, token in enumerate(["<pad>", "<unk>", *characters])}
    (tmp_path / "tokenizer.json").write_text(json.dumps({"stoi": stoi, "itos": {}}))
    tokenizer = formats.load_tokenizer(tmp_path / "tokenizer.json")
    rows = ["[add] 168 + 560 | 728", "[add] 403 + 715 | 1118"]
    content = {"encoded": [[stoi[c] for c in row] for row in rows], "raw": rows}
    content["labels"] = [None, None]
    (tmp_path / "val.pkl").write_bytes(pickle.dumps(content, protocol=5))
    examples = formats.load_examples(tmp_path / "val.pkl", tokenizer)
    assert examples.ids[examples.lengths[0]] == tokenizer.eos == 19
    assert [examples.answer(i) for i in range(2)] == ["728", "1118"]
    assert examples.with_unknown().tolist() == []

    suite = {"raw": ["[reversing_extrap] 24 16 | 16 24"], "category": "extrapolation", "count": 1}
    suite |= {"encoded": [], "labels": []}
    (tmp_path / "ood.pkl").write_bytes(pickle.dumps(suite, protocol=5))
    examples = formats.load_examples(tmp_path / "ood.pkl", tokenizer)
    assert (examples.category, examples.tasks.tolist()) == ("extrapolation", ["rev"])
    assert examples.with_unknown().tolist() == [0]


def test_rows_are_split_at_the_last_bar():
    examples = build(["[rev] [sort] 3 1 | 2 | 2 | 1", "[copy] 1:2 | 1"])
    assert (examples.prompt(0), examples.answer(0)) == ("[rev] [sort] 3 1 | 2 | 2 | ", "1")
    assert examples.tags.tolist() == ["rev", "copy"]
    assert examples.all_tags.tolist() == [("rev", "sort"), ("copy",)]


def test_encoded_that_disagrees_names_the_first_row(tmp_path):
    encoded = encode_all(ROWS)
    encoded[1], encoded[2] = encoded[1][:-1], []
    path = write_pickle(tmp_path / "a.pkl", encoded=encoded)
    with pytest.raises(formats.UserError, match=r"a\.pkl: row 1 .*tokenizer"):
        formats.load_examples(path, TOKENIZER)


@pytest.mark.parametrize(
    "content",
    [
        None,
        ROWS,
        {"encoded": [[1]]},
        {"raw": ROWS[0]},
        {"raw": {"a": ROWS[0]}},
        {"raw": []},
        {"raw": ["[copy] 1 1"]},
        {"raw": ["[copy] 1| 1"]},
        {"raw": ["copy 1 | 1"]},
        {"raw": ["[copy] 1\n | 1"]},
        {"raw": [5]},
        {"raw": [None]},
        {"raw": [b"[copy] 1 | 1"]},
        {"raw": [[ROWS[0]]]},
        {"raw": ROWS, "encoded": [[1]]},
        {"raw": ROWS, "encoded": 5},
        {"raw": ROWS, "encoded": "abc"},
        {"raw": ROWS, "encoded": [None] * 3},
        {"raw": ROWS, "level": 3},
        {"raw": ROWS, "level": [3]},
    ],
    ids=str,
)
def test_wrong_shapes_are_user_errors(tmp_path, content):
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps(content))
    with pytest.raises(formats.UserError, match=r"a\.pkl"):
        formats.load_examples(path, TOKENIZER)


def test_row_without_bar_is_named(tmp_path):
    path = write_pickle(tmp_path / "a.pkl", [*ROWS, "[copy] 5 5", "also bad"])
    with pytest.raises(formats.UserError, match=r"row 3 .*\[copy\] 5 5"):
        formats.load_examples(path, TOKENIZER)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.txt", ""),
        ("a.txt", "\n \n"),
        ("a.jsonl", ""),
        ("a.jsonl", "[1]\n"),
        ("a.jsonl", "{\n"),
        ("a.jsonl", '{"prompt": "1", "answer": "1"}\n'),
        ("a.jsonl", '{"raw": 7}\n'),
        ("a.jsonl", '{"task": "copy", "prompt": "1", "answer": "2 | 3"}\n'),
        ("a.jsonl", "[" * 100_000),
        ("a.jsonl", '{"raw": "[copy] \u00e9 | 1"}'.encode("latin-1")),
        ("a.txt", ROWS[0].encode("utf-16")),
        ("a.csv", ROWS[0]),
    ],
)
def test_malformed_text_files_are_user_errors(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(formats.UserError, match=re.escape(name)):
        formats.load_examples(path, TOKENIZER)


def test_text_files_are_cut_at_newlines_only(tmp_path):
    """str.splitlines would also cut at these."""
    row = "[copy] 1\u20282\u0085\x0b\x1c3 | 4"
    (tmp_path / "a.txt").write_text(f"{row}\r\n{ROWS[0]}\n", encoding="utf-8", newline="")
    line = json.dumps({"raw": row}, ensure_ascii=False)
    (tmp_path / "b.jsonl").write_text(f"{line}\n\n", encoding="utf-8")
    assert formats.load_examples(tmp_path / "a.txt", TOKENIZER).raw(0) == row
    assert formats.load_examples(tmp_path / "a.txt", TOKENIZER).raw(1) == ROWS[0]
    assert formats.load_examples(tmp_path / "b.jsonl", TOKENIZER).raw(0) == row


def test_byte_order_mark_is_no_part_of_the_first_row(tmp_path):
    (tmp_path / "a.txt").write_text(ROWS[0], encoding="utf-8-sig")
    assert formats.load_examples(tmp_path / "a.txt", TOKENIZER).raw(0) == ROWS[0]


def test_repeat_counts_go_by_canonical_key():
    examples = build(["[add] 1 + 2 | 3", "[copy] 1 | 1", "[add] 02 + 1 | 3", "[rev] 1 | 1"])
    first, counts = examples.distinct()
    assert sorted(zip(first.tolist(), counts.tolist(), strict=True)) == [(0, 2), (1, 1), (3, 1)]


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("protocol", range(6))
def test_pickle_that_names_a_global_is_refused_and_not_run(tmp_path, protocol):
    path = tmp_path / "a.pkl"
    payload = {"raw": ROWS, "labels": [Malicious(tmp_path / "ran")]}
    path.write_bytes(pickle.dumps(payload, protocol=protocol))
    with pytest.raises(formats.UserError, match=r"a\.pkl"):
        formats.load_examples(path, TOKENIZER)
    assert not (tmp_path / "ran").exists()


PLAIN = set(words("PROTO FRAME STOP MARK NONE NEWTRUE NEWFALSE MEMOIZE BINPUT LONG_BINPUT"))
PLAIN |= set(words("BINGET LONG_BINGET BININT BININT1 BININT2 LONG1 BINFLOAT SHORT_BINUNICODE"))
PLAIN |= set(words("BINUNICODE BINUNICODE8 EMPTY_LIST APPEND APPENDS LIST EMPTY_DICT SETITEM"))
PLAIN |= set(words("SETITEMS DICT EMPTY_TUPLE TUPLE1 TUPLE2 TUPLE3 TUPLE"))


@pytest.mark.parametrize(
    "opcode", [op for op in pickletools.opcodes if op.name not in PLAIN], ids=str
)
def test_each_forbidden_opcode_is_refused_by_name(tmp_path, opcode):
    path = tmp_path / "a.pkl"
    path.write_bytes(b"\x80\x04]" + opcode.code.encode("latin-1") + b"\x00" * 16 + b".")
    with pytest.raises(formats.UserError, match=rf"\b{opcode.name}\b"):
        formats.load_pickle(path)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"(.",
        b"\x80\x02]r\xff\xff\xff\x7f.",  # a memo of 2**31 slots
        b"\x80\x04\x95" + b"\xff" * 8 + b"}.",
        b"\x80\x04\x8d" + b"\xff" * 8 + b"a.",
        b"\x80\x04N(Ne.",
        b"\x80\x04NNa.",
        b"\x80\x04}]Ns.",
        b"\x80\x09}.",
        b"\x80\x04h\x05.",
        b"\x80\x04\x8c\x01\xff.",
    ],
    ids=repr,
)
def test_damaged_and_crafted_pickles_are_user_errors(tmp_path, data):
    path = tmp_path / "a.pkl"
    path.write_bytes(data)
    with pytest.raises(formats.UserError, match=r"a\.pkl"):
        formats.load_pickle(path)


def test_nested_tuples_as_a_key_are_refused():
    """Hashing them overflows the C stack, which nothing catches."""
    with pytest.raises(formats.UserError):
        formats.check_opcodes(b"\x80\x04})" + b"\x85" * 1_000_000 + b"Ns.")


def test_every_truncation_is_a_user_error(tmp_path):
    path = tmp_path / "a.pkl"
    whole = pickle.dumps({"raw": ROWS, "encoded": encode_all(ROWS)}, protocol=4)
    for n in range(len(whole)):
        path.write_bytes(whole[:n])
        with pytest.raises(formats.UserError):
            formats.load_examples(path, TOKENIZER)


def test_flipped_bytes_are_a_user_error_or_plain_data(tmp_path):
    rng, path = random.Random(0), tmp_path / "a.pkl"
    whole = pickle.dumps({"raw": ROWS, "encoded": encode_all(ROWS), "level": [1, 2, 3]}, protocol=4)
    n_refused = 0
    for _ in range(500):
        data = bytearray(whole)
        for _ in range(rng.randrange(1, 4)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        path.write_bytes(data)
        try:
            formats.load_examples(path, TOKENIZER)
        except formats.UserError:
            n_refused += 1
    assert n_refused > 300


def test_an_error_message_does_not_spell_out_what_it_found():
    """A list that shares its parts is small in memory and endless in print."""

    class Endless:
        def __repr__(self):
            raise AssertionError("spelled out")

    with pytest.raises(formats.UserError, match="row 0"):
        formats.build_examples([[Endless()]], TOKENIZER, "test")


def test_written_files_are_whole_and_leave_nothing_beside(tmp_path):
    path = tmp_path / "a.json"
    formats.write_json(path, {"a": 1})
    formats.write_json(path, {"a": 2})
    assert json.loads(path.read_text()) == {"a": 2}
    with pytest.raises(ValueError, match="JSON"):
        formats.write_json(path, {"a": math.nan})
    assert json.loads(path.read_text()) == {"a": 2}
    assert os.listdir(tmp_path) == ["a.json"]
