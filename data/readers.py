"""Files of rows: .txt, .jsonl, .json, .csv, .tsv and .pkl. Whatever a file holds becomes Rows.

One row is one text, `[tag] prompt | answer`. A file of records (a line of .jsonl, an object in
.json, a line of .csv or .tsv below its header) has the row whole, in "raw", or in columns.
"""

import argparse
import csv
import json
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from runtime.errors import UserError
from runtime.files import STRICT_JSON, load_pickle, read_bytes

KINDS = (".txt", ".jsonl", ".json", ".csv", ".tsv", ".pkl")
RECORDS = (".jsonl", ".json", ".csv", ".tsv")
PAIRS = (  # the names of prompt and answer by which columns are told
    ("prompt", "answer"),
    ("input", "output"),
    ("question", "answer"),
    ("prompt", "completion"),
)
COLUMNS = {"prompt", "answer", "task"}
DEFAULT_TAG = "task"  # of records that name no task
RIGHT_LINE = "a right line is `[add] 12 + 5 | 17`"
RIGHT_RECORD = 'a right line is {"task": "add", "prompt": "12 + 5", "answer": "17"}'
RIGHT_CSV = "right lines are `prompt,answer` and below it `12 + 5,17`"
KIND_WORDS = {"dict": "an object (dict)", "int": "an integer", "NoneType": "null"}
MAX_JSON_BYTES = 2**28
SCAN = re.compile(r"IN: (.*) OUT: (.*)")
EQUATION = re.compile(r"([^=|]*[^=|\s])\s*=\s*([^=|]+)")


def kind_of(path: str | Path) -> str:
    """The suffix that says how a file is read: `.CSV` is `.csv`."""
    return Path(path).suffix.lower()


def right_form(path):
    """How an example is written in a file of this kind, for an error message."""
    suffix = kind_of(path)
    if suffix in (".csv", ".tsv"):
        return RIGHT_CSV
    return RIGHT_RECORD if suffix in (".json", ".jsonl") else RIGHT_LINE


def shown(value):
    """A bad row or value in an error message: short, and never spelled out in depth."""
    if isinstance(value, str):
        return ascii(value[:60])
    kind = type(value).__name__
    return KIND_WORDS.get(kind, f"a {kind}")


def unprintable(text):
    """What an error message says of a name that tables and figures cannot print."""
    bad = next(character for character in text if not character.isprintable())
    name = unicodedata.name(bad, "a control character").lower()
    return f"{text[:60]!a} with U+{ord(bad):04X} ({name}), which cannot be printed; leave it out"


@dataclass(frozen=True)
class RowFormat:
    """How rows are read where a file does not say it itself.

    `columns` names the columns of prompt, answer and, if there is one, task; None tells them by
    their names. `task` is the tag of every row that names none.
    """

    columns: dict | None = None
    task: str | None = None

    def record(self):
        """What config.json and checkpoints keep of it."""
        return {name: value for name, value in vars(self).items() if value}

    @classmethod
    def of(cls, record):
        """The RowFormat that `record()` kept, in a checkpoint that may hold anything."""
        named, task = record.get("columns"), record.get("task")
        is_columns = isinstance(named, dict) and {"prompt", "answer"} <= named.keys() <= COLUMNS
        return cls(named if is_columns else None, task if isinstance(task, str) else None)


PLAIN = RowFormat()


def columns_flag(text):
    """An argparse type: `prompt=question,answer=reply,task=kind`, the last one if there is one.

    >>> columns_flag("prompt=q,answer=a")
    {'prompt': 'q', 'answer': 'a'}
    """
    pairs = [part.partition("=")[::2] for part in text.split(",")]
    named = dict(pairs)
    if len(named) < len(pairs) or not {"prompt", "answer"} <= named.keys() <= COLUMNS:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not prompt=COLUMN,answer=COLUMN[,task=COLUMN]"
        )
    if len({*named.values()}) < len(named):
        raise argparse.ArgumentTypeError(f"{text!r} names one column twice; give each its own")
    return named


def tag_flag(text):
    """An argparse type: a tag, to stand in brackets."""
    if not text or not text.isprintable() or set(text) & set("[]"):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no tag: it needs printable characters, none of them a bracket"
        )
    return text


@dataclass
class Rows:
    """What a data file holds, its rows one after the other."""

    numbered: Iterable  # of (number, row)
    word: str = "row"  # what the numbers count: rows from 0, or the lines of a text file from 1
    encoded: list | None = None
    levels: list = field(default_factory=list)
    category: str = ""
    notices: list = field(default_factory=list)  # complete once every row was read


def read_rows(path, row_format=PLAIN):
    """Return the Rows of a data file; those of a text file are read as they are asked for."""
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{path} is a folder; give the path of a data set in it")
    if kind_of(path) == ".pkl":
        return rows_of_pickle(load_pickle(path), path, row_format)
    if kind_of(path) == ".txt":
        return Rows(((n, row_of_line(line, row_format)) for n, line in lines_of(path)), "line")
    if kind_of(path) == ".json":
        return rows_of_records(enumerate(json_records(path)), path, row_format, word="row")
    if kind_of(path) == ".jsonl":
        records = ((n, json_of(line, f"{path}: line {n}")) for n, line in lines_of(path))
        return rows_of_records(records, path, row_format)
    if kind_of(path) in (".csv", ".tsv"):
        return rows_of_records(csv_records(path, row_format), path, row_format)
    raise UserError(
        f"{path} is of no known kind ({', '.join(KINDS)}); write its rows into a .txt, where "
        + RIGHT_LINE
    )


# ----------------------------------------------------------------------------------------------
# Lines of text
# ----------------------------------------------------------------------------------------------


def refuse_other_encodings(path, head):
    """Raise UserError if the first bytes of a file show an encoding other than UTF-8."""
    if head[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" in head[:4]:
        raise UserError(f"{path} is UTF-16 text (or UTF-32); save it as UTF-8")


def utf8_error(path):
    """The UserError that names the first line of the file that is not UTF-8, and the byte."""
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            try:
                line.decode()
            except UnicodeDecodeError as error:
                byte, column = line[error.start], error.start + 1
                return UserError(
                    f"{path} is not UTF-8 text: line {number} has the byte 0x{byte:02x} at byte "
                    f"{column}; save it as UTF-8"
                )
    return UserError(f"{path} changed while it was read; start again")


def lines_of(path):
    """(number, line) for each line of a UTF-8 file that is not blank, counted from 1.

    Only a newline ends a line; `str.splitlines` would cut at other characters too. UserError for a
    carriage return elsewhere: some spreadsheets end each line so, and the file would be one row.
    """
    with open(path, "rb") as file:
        refuse_other_encodings(path, file.read(4))
    try:
        with open(path, encoding="utf-8-sig", newline="\n") as file:
            for number, line in enumerate(file, 1):
                line = line.rstrip("\r\n")
                if "\r" in line:
                    raise UserError(
                        f"{path}: line {number} has a carriage return within; save the file with a "
                        "newline at the end of each line"
                    )
                if line.strip():
                    yield number, line
    except UnicodeDecodeError:
        raise utf8_error(path) from None


def row_of_line(line, row_format):
    """The row in a line: as it stands, or with --task, which also reads the forms of `parts_of`."""
    if row_format.task and not line.startswith("["):
        if parts := parts_of(line):
            return "[{}] {} | {}".format(row_format.task, *parts)
        return f"[{row_format.task}] {line}"
    return line


def parts_of(line):
    """(prompt, answer) of a line without a tag, None where it has none of these forms.

    >>> parts_of("IN: jump twice OUT: I_JUMP I_JUMP"), parts_of("12+5=17"), parts_of("1 + 2 | 3")
    (('jump twice', 'I_JUMP I_JUMP'), ('12+5', '17'), ('1 + 2', '3'))
    """
    if match := SCAN.fullmatch(line):
        return match.groups()
    if " | " in line:
        return tuple(line.rsplit(" | ", 1))
    match = EQUATION.fullmatch(line.strip())
    return match and match.groups()


def advice(row, path):
    """What to do about a text that is no row of the file."""
    if not isinstance(row, str) or kind_of(path) in RECORDS:
        return right_form(path)
    if row.startswith("{"):
        return f"it looks like JSON: name the file .jsonl; in a .txt {RIGHT_LINE}"
    if not row.startswith("[") and (parts := parts_of(row)):
        prompt, answer = (part[:30] for part in parts)
        return f"--task NAME reads it as `[NAME] {shown(prompt)[1:-1]} | {shown(answer)[1:-1]}`"
    if "\t" in row:
        return f"name a file of columns .tsv, and its columns in its first line; {RIGHT_LINE}"
    return RIGHT_LINE


# ----------------------------------------------------------------------------------------------
# Records
# ----------------------------------------------------------------------------------------------


def rows_of_records(records, path, row_format, word="line"):
    """Rows of (number, dict or text) pairs; what was read from which columns is a notice."""
    rows = Rows((), word)

    def read():
        for number, record in records:
            where = f"{path}: {word} {number}"
            row, notice = row_of_record(record, where, row_format, right_form(path))
            if notice and not rows.notices:
                rows.notices.append(f"{path}: {notice}")
            yield number, row

    rows.numbered = read()
    return rows


def row_of_record(record, where, row_format=PLAIN, right=RIGHT_RECORD):
    """(row, what to say of it once or "") of a record; `right` is how one is written."""
    if isinstance(record, str):
        return row_of_line(record, row_format), ""
    if not isinstance(record, dict):
        raise UserError(f"{where} is {shown(record)}, not an object; {right}")
    if "raw" in record and not row_format.columns:
        if not isinstance(record["raw"], str):
            raise UserError(f'{where}: "raw" is {shown(record["raw"])}, not a text; {right}')
        return row_of_line(record["raw"], row_format), ""
    named = row_format.columns or told_columns(record, where, right)
    prompt, answer = (part_of(record, named[name], where, right) for name in ("prompt", "answer"))
    if " | " in f" | {answer}"[1:]:
        raise UserError(
            f"{where}: {shown(named['answer'])} has a bar between spaces ({shown(answer)}), "
            f"which ends a prompt; write the bar otherwise; {right}"
        )
    if "task" in named:
        return f"[{part_of(record, named['task'], where, right)}] {prompt} | {answer}", ""
    task = row_format.task or DEFAULT_TAG
    others = ", ".join(shown(name) for name in record if name not in named.values())
    notice = f"the prompt is {shown(named['prompt'])}, the answer {shown(named['answer'])}"
    notice += "" if row_format.task else f", every row's tag [{task}] (--task NAME gives another)"
    notice += f"; not read: {others}" if others else ""
    return f"[{task}] {prompt} | {answer}", notice


def told_columns(record, where, right=RIGHT_RECORD):
    """The columns of prompt, answer and task, told by their names; UserError where they are not."""
    names = {name.strip().lower(): name for name in record}
    found = [pair for pair in PAIRS if names.keys() >= set(pair)]
    if "task" in names and PAIRS[0] in found:  # this program's own
        found = PAIRS[:1]
    if len(found) == 1:
        named = {"prompt": names[found[0][0]], "answer": names[found[0][1]]}
        return named | ({"task": names["task"]} if "task" in names else {})
    if found:
        why = "has more than one pair of columns for prompt and answer"
    elif halves := [pair for pair in PAIRS if names.keys() & set(pair)]:
        has, lacks = sorted(halves[0], key=lambda name: name not in names)
        why = f'has "{has}" but no "{lacks}"'
    else:
        why = "has no columns known as prompt and answer"
    keys = ", ".join(shown(name) for name in list(record)[:8])
    raise UserError(
        f"{where} {why} (it has {keys or 'none'}); name them with --columns prompt=…,answer=…; "
        + right
    )


def part_of(record, name, where, right):
    """The text under `name` in a record; UserError if there is none."""
    if name not in record:
        raise UserError(f"{where} has no {shown(name)}; {right}")
    value = record[name]
    if type(value) not in (str, int, float):
        is_what = "null" if value is None else shown(value) + ", not a text or number"
        raise UserError(f"{where}: {shown(name)} is {is_what}; {right}")
    if "\n" in str(value) or "\r" in str(value):
        raise UserError(
            f"{where}: {shown(name)} has a line break ({shown(value)}), and an example is "
            f"one line; {right}"
        )
    return str(value)


def json_of(text, where):
    """The value in a JSON text; UserError saying where it breaks."""
    try:
        return STRICT_JSON.decode(text)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column" if "\n" in text else "column"
        raise UserError(
            f"{where} is no JSON: {error.msg} at {place} {error.colno}; {RIGHT_RECORD}"
        ) from None
    except ValueError as error:  # a key given twice, or NaN
        raise UserError(f"{where}: {error}; {RIGHT_RECORD}") from None
    except RecursionError:
        raise UserError(f"{where} is nested too deeply; {RIGHT_RECORD}") from None


def json_records(path):
    """The records of a .json file, which is a list of objects or of texts."""
    data = read_bytes(path, MAX_JSON_BYTES, "give a larger data set as .jsonl, one object a line")
    refuse_other_encodings(path, data[:4])
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise utf8_error(path) from None
    records = json_of(text, path)
    if not isinstance(records, list):
        raise UserError(
            f"{path} holds {shown(records)}, not a list of objects; a right one is "
            '[{"task": "add", "prompt": "12 + 5", "answer": "17"}]'
        )
    return records


# ----------------------------------------------------------------------------------------------
# Tables
# ----------------------------------------------------------------------------------------------


def csv_records(path, row_format):
    """(line, {column: text}) of a .csv or .tsv file, whose first line names the columns.

    Commas, semicolons or tabs part them, whichever gives columns that are told: a spreadsheet
    writes semicolons where the comma is the decimal sign.
    """
    with open(path, "rb") as file:
        refuse_other_encodings(path, file.read(4))
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            first = file.readline()
            file.seek(0)
            reader = csv.reader(file, delimiter=delimiter_of(first, path, row_format), strict=True)
            header, begins = next(reader, []), 2
            for fields in reader:
                begins = reader.line_num + 1  # the next row
                if fields:
                    where = f"{path}: line {reader.line_num}"
                    if len(fields) != len(header):
                        raise UserError(
                            f"{where} has {len(fields)} columns, where the first line has "
                            f"{len(header)}; put quotation marks around a text that holds the "
                            "separator; " + RIGHT_CSV
                        )
                    yield reader.line_num, dict(zip(header, fields, strict=True))
    except UnicodeDecodeError:
        raise utf8_error(path) from None
    except csv.Error as error:
        if "end of data" in str(error):
            raise UserError(
                f"{path}: line {begins} opens a quotation mark that nothing closes; {RIGHT_CSV}"
            ) from None
        raise UserError(f"{path}: line {reader.line_num}: {error}; {RIGHT_CSV}") from None


def delimiter_of(first_line, path, row_format):
    """The separator of columns, by the names in the first line; UserError if none will do."""
    if not first_line.strip():
        raise UserError(f"{path}: its first line names no columns; {RIGHT_CSV}")
    signs, mistake = (",;\t" if kind_of(path) == ".csv" else "\t,;"), None
    for sign in signs:
        try:
            header = next(csv.reader([first_line], delimiter=sign), [])
        except csv.Error:
            continue
        try:
            if len(set(header)) < len(header):
                raise UserError(f"{path}: its first line names a column twice; {RIGHT_CSV}")
            check_header(header, path, row_format)
            return sign
        except UserError as error:
            mistake = mistake if mistake and len(header) == 1 else error
    raise mistake or UserError(f"{path}: its first line is not closed; {RIGHT_CSV}")


def check_header(header, path, row_format):
    """Raise UserError unless these columns hold rows."""
    where = f"{path}: its first line, which names the columns,"
    if row_format.columns:
        lacking = [name for name in row_format.columns.values() if name not in header]
        if lacking:
            names = ", ".join(map(shown, header))
            raise UserError(f"{where} has no {shown(lacking[0])} (it has {names}); {RIGHT_CSV}")
    elif "raw" not in header:
        told_columns(dict.fromkeys(header), where, RIGHT_CSV)


# ----------------------------------------------------------------------------------------------
# Pickles
# ----------------------------------------------------------------------------------------------


def rows_of_pickle(content, path, row_format=PLAIN):
    if not isinstance(content, dict) or not isinstance(content.get("raw"), list):
        raise UserError(
            f'{path} has the wrong shape; expected a dict with a list under "raw", as in '
            '{"raw": ["[add] 12 + 5 | 17"]}'
        )
    raws, category = content["raw"], content.get("category")
    encoded, levels = content.get("encoded") or None, content.get("level") or []
    labels = content.get("labels")
    given = {"encoded": encoded, "level": levels, "labels": labels}
    for name, column in given.items():
        if name == "labels" and not isinstance(column, list):  # nothing reads them
            continue
        if column and (not isinstance(column, list) or len(column) != len(raws)):
            n = f" {len(column):,}" if isinstance(column, list) else ""
            raise UserError(
                f'{path}: "{name}" must be a list as long as "raw", which has {len(raws):,} rows'
                + (f", not{n}" if n else "")
            )
    for i, level in enumerate(levels):
        if not is_level(level):
            raise UserError(
                f"{path}: the level of row {i} is {shown(level)}; it must be a whole number, "
                "a finite number, a text or None"
            )
    category = category.encode(errors="replace").decode() if isinstance(category, str) else ""
    if not category.isprintable():
        raise UserError(f"{path} has the category {unprintable(category)}")
    if row_format.task:
        raws = [row_of_line(raw, row_format) if isinstance(raw, str) else raw for raw in raws]
    return Rows(enumerate(raws), "row", encoded, levels, category)


def is_level(value):
    """A level is a number that figures can draw, a text that files can hold, or None."""
    if type(value) in (int, float):
        return abs(value) <= 2**53  # not so for nan
    return value is None or (
        isinstance(value, str) and value == value.encode(errors="replace").decode()
    )
