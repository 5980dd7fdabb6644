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
import tracemalloc

import numpy as np
import pytest
from hostile import read_all
from hypothesis import given
from hypothesis import strategies as st

from data import formats, sources
from data.generate import build_tokenizer, ood_files
from data.tasks import TASKS, canonical_key, draw_example, split_example, task_of_tag
from evaluation.suites import map_tags
from runtime import errors, files

TOKENIZER_JSON = build_tokenizer((*TASKS, "sort_desc", "mul"))
TOKENIZER = formats.Tokenizer(TOKENIZER_JSON["itos"].values())
CHARACTERS = "".join(token for token in TOKENIZER.itos if len(token) == 1)


def words(text):
    """Names, without a quotation mark around each."""
    return text.split()


def draw_rows(n, seed):
    """n rows of the five tasks in turn."""
    rng = random.Random(seed)
    return [draw_example(rng, list(TASKS)[i % len(TASKS)]) for i in range(n)]


def build(rows):
    return formats.build_examples(rows, TOKENIZER, "test")


# ----------------------------------------------------------------------------------------------
# Tokenizer
# ----------------------------------------------------------------------------------------------


@given(st.text(CHARACTERS))
def test_tokenizer_round_trip(text):
    ids = TOKENIZER.encode(text)
    assert len(ids) == len(text)
    assert ids.tolist() == [TOKENIZER_JSON["stoi"][c] for c in text]
    assert TOKENIZER.decode(ids) == text


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
    with pytest.raises(errors.UserError, match=re.escape(str(path))):
        formats.load_tokenizer(path)


def test_missing_tokenizer_is_a_user_error(tmp_path):
    with pytest.raises(errors.UserError, match=r"absent\.json does not exist"):
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
    capitals = [path.with_name(path.name.upper()) for path in (pkl, lines, raws)]
    for path, named in zip((pkl, lines, raws), capitals, strict=True):
        named.write_bytes(path.read_bytes())
    for path in (pkl, raw_only, with_eos, lines, raws, parts, *capitals):
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


@pytest.mark.parametrize(
    ("row", "tags"),
    [
        ("[rev] [sort] 3 1 2 | 3 2 1", ("rev", "sort")),
        ("[copy]  [sort_desc] 3 1 | 3 1", ("copy", "sort_desc")),
        ("[copy] [sort desc] 3 1 | 3 1", ("copy", "sort desc")),
        ("[sort] [3, 1] | 1 3", ("sort",)),
        ("[sort] [3] | 3", ("sort",)),
        ("[sort] 3 [copy] | 3", ("sort",)),
        ("[sort] [sort] [1] 2 | 2", ("sort", "sort")),
    ],
)
def test_a_row_has_the_tags_it_begins_with_and_a_list_is_none(row, tags):
    tokenizer = formats.Tokenizer([*TOKENIZER.itos, ","])
    examples = formats.build_examples([row], tokenizer, "rows")
    assert examples.all_tags[0] == tags
    mapped = map_tags(examples.prompt(0), {"sort": "rev", "copy": "rev"})
    assert mapped.count("[rev]") == len([tag for tag in tags if tag in ("rev", "sort", "copy")])


def test_encoded_that_disagrees_names_the_first_row(tmp_path):
    encoded = encode_all(ROWS)
    encoded[1], encoded[2] = encoded[1][:-1], []
    path = write_pickle(tmp_path / "a.pkl", encoded=encoded)
    with pytest.raises(errors.UserError, match=r"a\.pkl: row 1 .*tokenizer"):
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
    with pytest.raises(errors.UserError, match=r"a\.pkl"):
        formats.load_examples(path, TOKENIZER)


def test_row_without_bar_is_named(tmp_path):
    path = write_pickle(tmp_path / "a.pkl", [*ROWS, "[copy] 5 5", "also bad"])
    with pytest.raises(errors.UserError, match=r"row 3 .*\[copy\] 5 5"):
        formats.load_examples(path, TOKENIZER)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.txt", ""),
        ("a.txt", "\n \n"),
        ("a.jsonl", ""),
        ("a.jsonl", "[1]\n"),
        ("a.jsonl", "{\n"),
        ("a.jsonl", '{"prompt": "1"}\n'),
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
    with pytest.raises(errors.UserError, match=re.escape(name)):
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


@pytest.mark.parametrize(
    ("rows", "n_examples"),
    [
        (["[rev] 01 | 10", "[rev] 1 | 1", "[rev] 001 | 100", "[rev] 0001 | 1000"], 4),
        (["[copy] 007 | 007", "[copy] 7 | 7"], 2),
        (["[add_twice] 3 + 5 | 13", "[add_twice] 5 + 3 | 11"], 2),
        (["[sort_first] 3 1 2 | 3", "[sort_first] 3 2 1 | 3"], 2),  # though the answers agree
        (["[sort_desc] 1 3 2 | 3 2 1", "[sort_desc] 2 1  3 | 3 2 1"], 1),
        (["[add] 1 + 1 | 2", "[add] 1 + 1 | 3"], 2),
        # The robustness suite writes prompts otherwise and keeps the answers.
        (["[add] 041 + 1 | 42", "[add] 1 + 41 | 42", "[add] 1+41 | 42", "[add]  41 +  1 | 42"], 1),
        (["[rev] 05  27 | 27 5", "[rev] 5 27 | 27 5"], 1),
    ],
)
def test_rows_are_one_example_where_canonical_key_and_answer_agree(rows, n_examples):
    tokenizer = formats.Tokenizer(["<pad>", "<unk>", "<eos>", *sorted(set("".join(rows)))])
    assert len(formats.build_examples(rows, tokenizer, "test").distinct()[0]) == n_examples
    # The key depends on the row alone, so files loaded apart agree.
    for row in rows:
        alone = formats.build_examples([row], tokenizer, "test").keys[0]
        assert alone in formats.build_examples(rows, tokenizer, "test").keys


def test_the_robustness_suite_is_recognised_as_examples_of_the_training_set():
    content = pickle.loads(ood_files(7)["ood_robustness.pkl"])
    plain = []
    for raw in content["raw"]:
        tag, prompt, answer = split_example(raw)
        prompt = re.sub(r"0*([0-9]+)", r"\1", " ".join(prompt.split()))
        plain.append(f"[{tag}] {re.sub(r' ?[+] ?', ' + ', prompt)} | {answer}")
    suite, train = build(content["raw"]), build(plain)
    assert suite.keys.tolist() == train.keys.tolist()


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
    with pytest.raises(errors.UserError, match=r"a\.pkl"):
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
    with pytest.raises(errors.UserError, match=rf"\b{opcode.name}\b"):
        files.load_pickle(path)


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
    with pytest.raises(errors.UserError, match=r"a\.pkl"):
        files.load_pickle(path)


def test_nested_tuples_as_a_key_are_refused():
    """Hashing them overflows the C stack, which nothing catches."""
    with pytest.raises(errors.UserError):
        files.check_opcodes(b"\x80\x04})" + b"\x85" * 1_000_000 + b"Ns.")


def test_every_truncation_is_a_user_error(tmp_path):
    path = tmp_path / "a.pkl"
    whole = pickle.dumps({"raw": ROWS, "encoded": encode_all(ROWS)}, protocol=4)
    for n in range(len(whole)):
        path.write_bytes(whole[:n])
        with pytest.raises(errors.UserError):
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
        except errors.UserError:
            n_refused += 1
    assert n_refused > 300


def test_an_error_message_does_not_spell_out_what_it_found():
    """A list that shares its parts is small in memory and endless in print."""

    class Endless:
        def __repr__(self):
            raise AssertionError("spelled out")

    with pytest.raises(errors.UserError, match="row 0"):
        formats.build_examples([[Endless()]], TOKENIZER, "test")


def test_written_files_are_whole_and_leave_nothing_beside(tmp_path):
    path = tmp_path / "a.json"
    files.write_json(path, {"a": 1})
    files.write_json(path, {"a": 2})
    assert json.loads(path.read_text()) == {"a": 2}
    with pytest.raises(ValueError, match="JSON"):
        files.write_json(path, {"a": math.nan})
    assert json.loads(path.read_text()) == {"a": 2}
    assert os.listdir(tmp_path) == ["a.json"]


# ----------------------------------------------------------------------------------------------
# Hostile files, the short campaign
# ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["pickle", "jsonl", "tokenizer"])
def test_hostile_files_do_nothing_and_are_told(tmp_path, kind):
    wrong, figures = read_all(kind, tmp_path, 250)
    assert wrong == [], figures


def test_the_watch_sees_what_an_unsafe_reader_does(tmp_path):
    wrong, _ = read_all("unsafe", tmp_path, 6)
    assert sum("os.system" in line for line in wrong) == 6
    assert "ran was made" in wrong


def refused(path, *facts, tokenizer=TOKENIZER):
    """Loading `path` is one sentence that has every fact."""
    with pytest.raises(errors.UserError) as told:
        formats.load_examples(path, tokenizer)
    message = str(told.value)
    assert path.name in message
    assert "\n" not in message
    assert [fact for fact in facts if fact not in message] == []


@pytest.mark.parametrize("depth", [1, 8, 9, 100_000])
def test_nesting_is_bounded(depth):
    nested = b"\x80\x04" + b"]" * depth + b"a" * (depth - 1) + b"."
    chain = b"".join(b"]\x94j" + k.to_bytes(4, "little") + b"a" for k in range(depth - 1))
    for data in (nested, b"\x80\x04]\x94" + chain + b"."):
        if depth <= files.MAX_DEPTH:
            assert files.check_opcodes(data) == 0
        else:
            with pytest.raises(errors.UserError, match=r"more than 8 deep|more containers"):
                files.check_opcodes(data)


def test_containers_are_bounded_by_size():
    """An empty list takes 1 byte in a pickle and 56 in memory."""
    with pytest.raises(errors.UserError, match="more containers"):
        files.check_opcodes(b"\x80\x04](" + b"]" * 10_000 + b"e.")


@pytest.mark.parametrize("flood", [b"N", b"(", b"K\x01", b"\x88", b"](", b"\x8c\x00"])
def test_values_that_wait_on_the_stack_are_bounded(flood, monkeypatch):
    """A pointer takes 8 bytes in memory, here and once more on the unpickler's own stack."""
    monkeypatch.setattr(files, "MAX_WAITING", 2**13)  # the true one takes long under tracemalloc
    data = b"\x80\x04" + flood * (2**20 // len(flood)) + b"."
    tracemalloc.start()
    try:
        with pytest.raises(errors.UserError, match=r"in no container|more containers"):
            files.check_opcodes(data)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_a_long_list_that_is_filled_in_batches_does_not_wait():
    values = [None] * (2 * files.MAX_WAITING)
    assert files.check_opcodes(pickle.dumps({"raw": values})) == 1


def test_shared_lists_load_and_a_list_in_itself_does_not(tmp_path):
    """Repeated rows may share their ids, as a data set with duplicates made in memory does."""
    ids = encode_all(ROWS[:1])[0]
    path = write_pickle(tmp_path / "a.pkl", ROWS[:1] * 50, encoded=[ids] * 50)
    assert formats.load_examples(path, TOKENIZER).distinct()[1].tolist() == [50]
    cycle = []
    cycle.append(cycle)
    path.write_bytes(pickle.dumps({"raw": cycle}))
    refused(path, "complete")


@pytest.mark.parametrize(
    ("key", "fact"),
    [(7, "no text"), (None, "no text"), (math.nan, "no text"), (2.5, "no text"), (True, "no text")],
)
def test_dict_keys_are_texts(tmp_path, key, fact):
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps({"raw": ROWS, key: 1}))
    refused(path, fact)


def test_a_key_given_twice_is_refused(tmp_path):
    path = tmp_path / "a.pkl"
    raws = [pickle.dumps(rows)[11:-1] for rows in (ROWS[:1], ROWS)]  # without PROTO, FRAME, STOP
    one, two = (b"\x8c\x03raw" + raw.replace(b"\x94", b"") for raw in raws)
    path.write_bytes(b"\x80\x04}(" + two + b"u.")
    check_rows(formats.load_examples(path, TOKENIZER))
    path.write_bytes(b"\x80\x04}(" + one + two + b"u.")
    refused(path, "key twice")


@pytest.mark.parametrize("levels", [[1, 2.5, None], ["a", "b", "c"], [0, -(2**53), 2.0**53]])
def test_levels_may_be_numbers_texts_and_none(tmp_path, levels):
    path = write_pickle(tmp_path / "a.pkl", level=levels)
    assert formats.load_examples(path, TOKENIZER).levels == levels


@pytest.mark.parametrize(
    "level", [math.nan, math.inf, -math.inf, [1], {"a": 1}, True, 2**53 + 1, "\ud800"], ids=repr
)
def test_other_levels_name_the_first_bad_row(tmp_path, level):
    refused(write_pickle(tmp_path / "a.pkl", level=[1, level, level]), "row 1", "level")


@pytest.mark.parametrize("value", [None, 7, 2.5, [], {"a": 1}, "", True], ids=repr)
def test_category_count_and_labels_of_any_type_load(tmp_path, value):
    path = write_pickle(tmp_path / "a.pkl", category=value, count=value, labels=value)
    assert formats.load_examples(path, TOKENIZER).category == ""


def test_a_category_without_characters_for_all_of_it_loads(tmp_path):
    path = write_pickle(tmp_path / "a.pkl", category="edge\ud800")
    assert formats.load_examples(path, TOKENIZER).category == "edge?"


@pytest.mark.parametrize("row", ["[a\ud800] 1 | 1", "[copy] \udcff | 1", "[copy] 1 | \ud800"])
def test_half_a_surrogate_pair_names_its_row(tmp_path, row):
    refused(write_pickle(tmp_path / "a.pkl", [ROWS[0], row]), "row 1", "surrogate")
    line = tmp_path / "a.jsonl"
    line.write_text(f"{json.dumps({'raw': ROWS[0]})}\n\n\n{json.dumps({'raw': row})}\n")
    refused(line, "line 4", "surrogate")


def test_lines_are_counted_from_one_and_blank_ones_too(tmp_path, monkeypatch):
    monkeypatch.setattr(formats, "ROWS_AT_ONCE", 2)
    text = tmp_path / "a.txt"
    text.write_text(f"\n{ROWS[0]}\n\n{ROWS[1]}\r\n\n \n{ROWS[2]}\n")
    examples = formats.load_examples(text, TOKENIZER)
    check_rows(examples)
    assert [examples.place(i) for i in range(3)] == ["line 2", "line 4", "line 7"]
    assert build(ROWS).place(2) == "row 2"
    text.write_text(f"\n{ROWS[0]}\n\n[copy] 1\n")
    refused(text, "line 4", "[copy] 1")
    lines = tmp_path / "a.jsonl"
    lines.write_text(f'\n{{"raw": "{ROWS[0]}"}}\n\n{{"raw": 7}}\n')
    refused(lines, "line 4")
    text.write_bytes(b"\n[copy] 1 | 1\n\xff\n")
    refused(text, "UTF-8")


def test_folders_are_told_as_such(tmp_path):
    with pytest.raises(errors.UserError, match="is a folder"):
        formats.load_tokenizer(tmp_path)
    with pytest.raises(errors.UserError, match="is a folder"):
        sources.require_file(tmp_path, "the training set")
    (tmp_path / "a.pkl").mkdir()
    refused(tmp_path / "a.pkl", "is a folder")


def test_files_too_large_are_told_what_to_use_instead(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "MAX_PICKLE_BYTES", 100)
    refused(write_pickle(tmp_path / "a.pkl", ROWS * 9), "100 bytes", ".txt")
    monkeypatch.setattr(formats, "MAX_TOKENIZER_BYTES", 100)
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(TOKENIZER_JSON))
    with pytest.raises(errors.UserError, match="more than 100 bytes"):
        formats.load_tokenizer(path)
    monkeypatch.undo()
    monkeypatch.setattr(formats, "MAX_VOCABULARY", len(TOKENIZER) - 1)
    with pytest.raises(errors.UserError, match=f"{len(TOKENIZER)} tokens"):
        formats.load_tokenizer(path)


def test_json_values_become_the_text_of_a_row(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"task": "add", "prompt": "2 + 3", "answer": 5}\n')
    assert formats.load_examples(path, TOKENIZER).raw(0) == "[add] 2 + 3 | 5"


# ----------------------------------------------------------------------------------------------
# Properties
# ----------------------------------------------------------------------------------------------

line = st.text(st.characters(codec="utf-8", exclude_characters="\n"), max_size=12)
tag = st.text(st.characters(codec="utf-8", exclude_characters="[]\n"), min_size=1, max_size=5)
tag = tag.filter(str.isprintable)  # others are refused: tests/test_loading.py
answer = line.filter(lambda text: " | " not in f" | {text}"[1:])
rows_of_any_kind = st.lists(st.tuples(tag, line, answer), min_size=1, max_size=12)


@given(st.sets(st.characters(codec="utf-8"), min_size=1, max_size=30), st.data())
def test_any_tokenizer_brings_its_own_characters_back(characters, data):
    own = formats.Tokenizer(["<pad>", "<unk>", *sorted(characters), "<eos>"])
    text = data.draw(st.text(st.sampled_from(sorted(characters))))
    ids = own.encode(text)
    assert own.decode(ids) == text
    assert len(ids) == len(text)
    assert not set(ids.tolist()) & {own.pad, own.unk, own.eos}


@given(rows_of_any_kind, st.integers(1, 5))
def test_examples_give_back_every_row_and_agree_with_the_parser(parts, rows_at_once):
    rows = [f"[{tag}] {prompt} | {answer}" for tag, prompt, answer in parts]
    before, formats.ROWS_AT_ONCE = formats.ROWS_AT_ONCE, rows_at_once
    try:
        examples = build(rows)
    finally:
        formats.ROWS_AT_ONCE = before
    assert [examples.raw(i) for i in range(len(rows))] == rows
    assert examples.ids[examples.starts + examples.lengths].tolist() == [TOKENIZER.eos] * len(rows)
    for i, row in enumerate(rows):
        own, prompt, answer = split_example(row)
        assert examples.answer(i) == answer
        assert examples.prompt(i) == f"[{own}] {prompt} | "
        assert examples.tags[i] == own
        assert list(examples.all_tags[i]) == re.findall(r"\[([^\[\]]+)\]", examples.prompt(i))
        assert examples.tasks[i] == (task_of_tag(own) or own)
        ids = examples.ids[examples.starts[i] :][: examples.lengths[i]]
        assert ids.tolist() == TOKENIZER.encode(row).tolist()
    canonical = [canonical_key(*split_example(row)[:2]) for row in rows]
    assert (examples.prompt_keys[:, None] == examples.prompt_keys).tolist() == [
        [a == b for b in canonical] for a in canonical
    ]
    same = [(key, examples.answer(i)) for i, key in enumerate(canonical)]
    assert (examples.keys[:, None] == examples.keys).tolist() == [
        [a == b for b in same] for a in same
    ]
    unknown = [i for i, row in enumerate(rows) if not set(row) <= set(CHARACTERS)]
    assert examples.with_unknown().tolist() == unknown
    first, counts = examples.distinct()
    assert sorted(first.tolist()) == sorted(same.index(key) for key in set(same))
    assert [counts[first.tolist().index(same.index(key))] for key in same] == [
        same.count(key) for key in same
    ]


@given(st.one_of(st.text(max_size=40), line.map(lambda text: f"[a] {text}"), st.binary(max_size=9)))
def test_any_row_is_an_example_or_the_one_error(row):
    try:
        examples = build([row])
    except errors.UserError as error:
        assert "row 0" in str(error)  # noqa: PT017
    else:
        assert examples.raw(0) == row


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner),
        max_leaves=30,
    ),
    st.integers(2, 5),
)
def test_plain_data_loads_as_it_was_and_any_file_is_data_or_the_one_error(
    tmp_path_factory, value, n
):
    path = tmp_path_factory.mktemp("x", numbered=True) / "a.pkl"
    path.write_bytes(pickle.dumps(value, n))
    try:
        assert repr(files.load_pickle(path)) == repr(value)
    except errors.UserError as error:  # deeper than a data set is, or a number beyond 255 bytes
        assert re.search("deep|LONG4", str(error))  # noqa: PT017
    with pytest.raises(errors.UserError):
        formats.load_examples(write_pickle(path, [value]), TOKENIZER)


@given(st.lists(st.sampled_from(["a", "b", "c", "ab"]), min_size=1), st.data())
def test_labels_are_a_compact_list(labels, data):
    names = data.draw(st.permutations(sorted(set(labels))))
    task = {"a": "x", "ab": "x", "b": "y", "c": "c"}
    codes = np.array([names.index(label) for label in labels], np.int32)
    own = formats.Labels(names, codes)
    merged = formats.Labels([task[name] for name in names], codes)
    assert own.tolist() == labels
    assert merged.tolist() == [task[label] for label in labels]
    assert len(merged.names) == len(set(merged.tolist()))
    assert own.isin(["a", "c"]).tolist() == [label in ("a", "c") for label in labels]
    assert merged.counts() == {name: merged.tolist().count(name) for name in sorted(merged.names)}
    assert own[np.array([len(labels) - 1, 0])].tolist() == [labels[-1], labels[0]]


def test_examples_keep_no_python_object_a_row():
    """What grows with the rows is one text and arrays of numbers."""
    examples, n = build(draw_rows(3_000, seed=1)), 3_000
    kept = [value for value in vars(examples).values() if hasattr(value, "__len__")]
    kept += [part for x in kept if isinstance(x, formats.Labels) for part in vars(x).values()]
    per_row = [x for x in kept if len(x) >= n and not isinstance(x, (str, formats.Labels))]
    assert all(isinstance(x, np.ndarray) and x.dtype.kind in "iu" for x in per_row)
    n_bytes = sum(x.nbytes for x in {id(x): x for x in per_row}.values()) - len(examples.ids)
    assert n_bytes <= 44 * n
