"""Data files of every kind: what loads, and what a message says so that the user can go on."""

import argparse
import json
import pickle

import numpy as np
import pytest

from data import formats
from data.audit import load_data
from data.formats import Tokenizer, load_examples, load_tokenizer
from data.generate import build_tokenizer
from data.readers import RowFormat, columns_flag, read_rows
from data.tasks import TASKS
from runtime.errors import UserError

TOKENIZER = Tokenizer(build_tokenizer(TASKS)["itos"].values())
ROWS = ["[add] 1 + 2 | 3", "[add] 4 + 5 | 9"]
RECORDS = [{"prompt": "1 + 2", "answer": "3"}, {"prompt": "4 + 5", "answer": 9}]


def load(path, content, **row_format):
    """The rows of a file with this content, and what is said of it."""
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    examples = load_examples(path, TOKENIZER, RowFormat(**row_format))
    return [examples.raw(i) for i in range(len(examples))], examples.notices


def refused(path, content, *facts, **row_format):
    with pytest.raises(UserError) as told:
        load(path, content, **row_format)
    message = str(told.value)
    assert str(path) in message
    assert "\n" not in message
    assert [fact for fact in facts if fact not in message] == [], message


def renamed(prompt, answer, **more):
    return [{prompt: r["prompt"], answer: r["answer"], **more} for r in RECORDS]


# ----------------------------------------------------------------------------------------------
# What loads
# ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "pair",
    [("prompt", "answer"), ("input", "output"), ("question", "answer"), ("Prompt", " completion")],
)
def test_columns_are_told_by_their_names(tmp_path, pair):
    records = renamed(*pair)
    lines = "\n".join(map(json.dumps, records))
    table = [pair, *([r[pair[0]], r[pair[1]]] for r in records)]
    for name, content in {
        "a.jsonl": lines,
        "a.json": json.dumps(records),
        "a.csv": "".join(f"{a},{b}\r\n" for a, b in table),
        "b.csv": "".join(f'"{a}";"{b}"\n' for a, b in table),
        "a.tsv": "".join(f"{a}\t{b}\n" for a, b in table),
    }.items():
        rows, notices = load(tmp_path / name, content, task="add")
        assert rows == ROWS, name
        assert notices == [f"{tmp_path / name}: the prompt is {pair[0]!r}, the answer {pair[1]!r}"]


def test_a_row_without_a_task_has_a_tag_and_it_is_said(tmp_path):
    rows, notices = load(tmp_path / "a.jsonl", json.dumps({"input": "1", "output": "2", "id": 7}))
    assert rows == ["[task] 1 | 2"]
    assert notices == [
        f"{tmp_path / 'a.jsonl'}: the prompt is 'input', the answer 'output', every row's tag "
        "[task] (--task NAME gives another); not read: 'id'"
    ]


def test_a_task_column_is_the_tag(tmp_path):
    table = "task,input,output\nadd,1 + 2,3\nadd,4 + 5,9\n"
    assert load(tmp_path / "a.csv", table) == (ROWS, [])
    assert load(tmp_path / "a.csv", table, task="other") == (ROWS, [])
    table = "kind,q,a\nadd,1 + 2,3\nadd,4 + 5,9\n"
    columns = {"prompt": "q", "answer": "a", "task": "kind"}
    assert load(tmp_path / "a.csv", table, columns=columns) == (ROWS, [])
    assert load(tmp_path / "a.json", json.dumps([{"raw": ROWS[0]}, ROWS[1]])) == (ROWS, [])


def test_a_quoted_field_may_hold_commas_and_quotation_marks(tmp_path):
    table = 'prompt,answer\n"1, ""2""","3,4"\n\n5,6\n'
    rows, _ = load(tmp_path / "a.csv", table, task="t")
    assert rows == ['[t] 1, "2" | 3,4', "[t] 5 | 6"]


@pytest.mark.parametrize(
    ("line", "row"),
    [
        ("IN: jump twice OUT: I_JUMP I_JUMP", "[t] jump twice | I_JUMP I_JUMP"),
        ("12+5=17", "[t] 12+5 | 17"),
        ("12 + 5 = 17", "[t] 12 + 5 | 17"),
        ("12 + 5 | 17", "[t] 12 + 5 | 17"),
        ("[add] 1 + 2 | 3", "[add] 1 + 2 | 3"),
    ],
)
def test_a_task_reads_lines_without_a_tag(tmp_path, line, row):
    assert load(tmp_path / "a.txt", f"{line}\n", task="t") == ([row], [])
    if not line.startswith("["):
        refused(tmp_path / "a.txt", f"{line}\n", "line 1", "--task NAME", f"[NAME]{row[3:]}")


def test_a_tokenizer_with_a_byte_order_mark_loads(tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(build_tokenizer(TASKS)), encoding="utf-8-sig")
    assert load_tokenizer(path).itos == TOKENIZER.itos


# ----------------------------------------------------------------------------------------------
# What does not
# ----------------------------------------------------------------------------------------------


def test_a_message_ends_with_a_right_line(tmp_path):
    right = "a right line is `[add] 12 + 5 | 17`"
    refused(tmp_path / "a.txt", "[add] 1 + 2\n", "line 1", right)
    refused(tmp_path / "a.txt", "\n", "holds no examples", right)
    refused(tmp_path / "a.parquet", "", "is of no known kind", ".csv", right)
    refused(tmp_path / "a.txt", '{"raw": "x"}', ".jsonl", right)
    refused(tmp_path / "a.txt", "1 + 2\t3", ".tsv", right)
    right = 'a right line is {"task": "add", "prompt": "12 + 5", "answer": "17"}'
    refused(tmp_path / "a.jsonl", '{"prompt": "1"}', '"prompt" but no "answer"', right)


@pytest.mark.parametrize(
    ("line", "facts"),
    [
        ('{"input": "1"}', ['has "input" but no "output"']),
        ('{"answer": "1"}', ['has "answer" but no "prompt"']),
        ('{"task": "add", "prompt": "1", "answer": null}', ["'answer' is null"]),
        ('{"prompt": ["1"], "answer": "2"}', ["'prompt' is a list"]),
        ('{"prompt": "1", "answer": "2", "answer": "3"}', ["the key 'answer' stands there twice"]),
        ('{"prompt": "1", "answer" "2"}', ["Expecting ':' delimiter", "column 26"]),
        ('{"prompt": "1", "answer": NaN}', ["NaN is no JSON number"]),
        ('{"prompt": "1", "answer": "2", "completion": "3"}', ["more than one pair", "--columns"]),
        ('{"q": "1", "a": "2"}', ["it has 'q', 'a'", "--columns prompt=…,answer=…"]),
        ('{"prompt": "1\\n2", "answer": "2"}', ["'prompt' has a line break"]),
        ('{"prompt": "1", "answer": "2 | 3"}', ["'answer' has a bar"]),
        ("[1, 2]", ["is a list, not an object"]),
    ],
)
def test_a_record_that_is_no_row_says_what_is_wrong_with_it(tmp_path, line, facts):
    good = json.dumps(RECORDS[0])
    refused(tmp_path / "a.jsonl", f"{good}\n\n{line}\n", "line 3", "a right line is", *facts)


def test_a_json_file_that_is_no_list_of_records_is_told(tmp_path):
    refused(tmp_path / "a.json", '{"a": 1}', "holds an object (dict), not a list")
    refused(tmp_path / "a.json", '[\n  {"a" 1}]', "Expecting ':' delimiter at line 2, column 8")
    refused(tmp_path / "a.json", json.dumps([RECORDS[0], 5]), "row 1 is an integer, not an object")


@pytest.mark.parametrize(
    ("content", "facts"),
    [
        ("a,b\n1,2\n", ["no columns known", "it has 'a', 'b'", "--columns", "right lines are"]),
        ("input\n1\n", ['has "input" but no "output"']),
        ("input,output\n1,2\n1,2,3\n", ["line 3 has 3 columns, where the first line has 2"]),
        ("input,output\n1\n", ["line 2 has 1 columns, where the first line has 2"]),
        ('input,output\n1,2\n3,"4\n', ["line 3 opens a quotation mark that nothing closes"]),
        ("input,output,input\n1,2,3\n", ["names a column twice"]),
        ('input,output\n"1\n2",3\n', ["line 3", "'input' has a line break", "right lines are"]),
        ("", ["names no columns"]),
        ("input,output\n", ["holds no examples", "right lines are"]),
    ],
)
def test_a_table_that_is_no_data_set_says_why(tmp_path, content, facts):
    refused(tmp_path / "a.csv", content, *facts)


def test_columns_that_a_table_lacks_are_named(tmp_path):
    columns = {"prompt": "q", "answer": "b"}
    refused(tmp_path / "a.csv", "q,a\n1,2\n", "has no 'b'", "it has 'q', 'a'", columns=columns)
    refused(tmp_path / "a.jsonl", '{"q": 1}', "line 1 has no 'b'", columns=columns)
    (tmp_path / "a.txt").write_text("[add] 1 | 2")
    with pytest.raises(UserError, match=r"a\.txt has no columns; leave --columns out"):
        load_data(tmp_path / "a.txt", row_format=RowFormat(columns))


def test_a_byte_that_is_no_utf8_is_named_with_its_line(tmp_path):
    lines = [b"[copy] 1 | 1\n"] * 400 + [b"[copy] caf\xe9 | 1\n"] + [b"[copy] 1 | 1\n"] * 50
    refused(tmp_path / "a.txt", b"".join(lines), "line 401", "byte 0xe9 at byte 11", "UTF-8")
    table = b"input,output\n" + b"1,2\n" * 2000 + b"\xff,2\n"
    refused(tmp_path / "a.csv", table, "line 2002", "byte 0xff at byte 1")
    refused(tmp_path / "a.json", b'[\n"\x80"]', "line 2", "byte 0x80 at byte 2")
    tokenizer = tmp_path / "tokenizer.json"
    tokenizer.write_bytes(b'{"stoi\xff": 1}')
    with pytest.raises(UserError, match="byte 7 is 0xff, which is not UTF-8"):
        load_tokenizer(tokenizer)


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl"])
def test_lines_that_end_with_a_carriage_return_alone_are_refused(tmp_path, name):
    """Such a file would be one row, whose answer holds all others."""
    lines = [json.dumps(record) if name == "a.jsonl" else "[add] 1 + 1 | 2" for record in RECORDS]
    refused(tmp_path / name, "\r".join(lines), f"{name}: line 1 has a carriage return", "newline")


def test_one_column_cannot_be_prompt_and_answer():
    with pytest.raises(argparse.ArgumentTypeError, match="names one column twice"):
        columns_flag("prompt=q,answer=q")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.csv", "a.json"])
def test_utf16_is_called_by_its_name(tmp_path, encoding, name):
    content = "[copy] 1 | 1\n".encode(encoding)
    refused(tmp_path / name, content, "is UTF-16 text", "save it as UTF-8")


@pytest.mark.parametrize(
    ("tag", "facts"),
    [
        ("a\u00a0b", ["U+00A0 (no-break space)"]),
        ("a\u200b", ["U+200B (zero width space)"]),
        ("\x07", ["U+0007 (a control character)"]),
    ],
)
def test_a_tag_that_cannot_be_printed_is_refused_at_loading(tmp_path, tag, facts):
    """It used to train to the end, and the figures refused it then."""
    content = f"[copy] 1 | 1\n\n[{tag}] 1 | 1\n"
    refused(tmp_path / "a.txt", content, "line 3", ascii(tag), *facts)
    category = pickle.dumps({"raw": ["[copy] 1 | 1"], "category": tag})
    refused(tmp_path / "a.pkl", category, "the category", *facts)
    assert load(tmp_path / "b.txt", "[copy] 1\u00a02 | 1\n")[0] == ["[copy] 1\u00a02 | 1"]


def test_labels_of_the_wrong_length_are_refused(tmp_path):
    content = {"raw": ROWS, "labels": ["add"]}
    refused(tmp_path / "a.pkl", pickle.dumps(content), '"labels"', "2 rows, not 1")
    assert load(tmp_path / "a.pkl", pickle.dumps({"raw": ROWS, "labels": ["a", None]}))[0] == ROWS


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize(
    "content", [{"raw": ROWS, "level": np.arange(2)}, {"raw": ROWS, "level": [np.int64(3)] * 2}]
)
def test_a_pickle_with_numpy_in_it_says_which_global_and_tolist(tmp_path, protocol, content):
    data = pickle.dumps(content, protocol=protocol)
    refused(tmp_path / "a.pkl", data, "names the global numpy.", "by .tolist() before pickling")


def test_a_pickle_with_another_global_names_it(tmp_path):
    data = pickle.dumps({"raw": [print]}, protocol=4)
    refused(tmp_path / "a.pkl", data, "STACK_GLOBAL", "the global builtins.print")


@pytest.mark.parametrize(
    ("content", "fact"),
    [
        ("{", "it is no JSON (Expecting property name enclosed in double quotes at line 1"),
        ("[]", 'it has no object "stoi"'),
        ('{"stoi": {"<pad>": 0, "<unk>": 1, "a": null}}', "the id of 'a' is null, not a whole"),
        ('{"stoi": {"<pad>": 0, "<unk>": 1, "a": "2"}}', "the id of 'a' is \"2\", not a whole"),
        ('{"stoi": {"<pad>": 0, "a": 1, "a": 2}}', "the key 'a' stands there twice"),
        ('{"stoi": {"<pad>": 0, "<unk>": 1, "a": 2}, "itos": {"2": "b"}}', "disagree at id '2'"),
        ('{"stoi": {"<pad>": 0, "<unk>": 1, "\\ud800": 2}}', "half a surrogate pair"),
    ],
)
def test_a_tokenizer_that_is_none_is_told_in_words(tmp_path, content, fact):
    path = tmp_path / "tokenizer.json"
    path.write_text(content)
    with pytest.raises(UserError) as told:
        load_tokenizer(path)
    message = str(told.value)
    assert f"{path} is no tokenizer: " in message
    assert fact in message
    assert message.endswith('expected {"stoi": {"<pad>": 0, "<unk>": 1, "<eos>": 2, "a": 3, …}}')
    assert "Error" not in message


@pytest.mark.parametrize("at_once", [1, 2, 65_536])
def test_unknown_characters_are_named_the_most_frequent_first(tmp_path, monkeypatch, at_once):
    monkeypatch.setattr(formats, "ROWS_AT_ONCE", at_once)
    rows = ["[add] 1 − 2 − 3 | 0", "[add] 4 − 5 | é", *ROWS]
    (tmp_path / "train.txt").write_text("\n".join(rows), encoding="utf-8")
    (tmp_path / "val.txt").write_text("\n".join(ROWS))
    (tmp_path / "tokenizer.json").write_text(json.dumps(build_tokenizer(("add",))))
    with pytest.raises(UserError) as told:
        load_data(tmp_path / "train.txt", tmp_path / "val.txt", tmp_path / "tokenizer.json")
    assert "lacks: '−' (U+2212), 2 rows, 'é' (U+00E9), 1 row;" in str(told.value)
    assert "line 1: '[add] 1 − 2 − 3 | 0'" in str(told.value)


def test_rows_of_text_are_read_as_they_are_asked_for(tmp_path):
    (tmp_path / "a.jsonl").write_text(f"{json.dumps(RECORDS[0])}\nno JSON\n")
    rows = iter(read_rows(tmp_path / "a.jsonl").numbered)
    assert next(rows) == (1, "[task] 1 + 2 | 3")
    with pytest.raises(UserError, match="line 2 is no JSON"):
        next(rows)
