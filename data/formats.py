"""Data sets and tokenizers on disk and in memory: what may be read, and the arrays it becomes.

Whatever is wrong with a file is one UserError that names it. Rows become flat arrays (Examples).
One example is one line, `[tag] prompt | answer`, and characters are tokens.
"""

import hashlib
import re
from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from data.sources import require_file
from data.tasks import canonical_key, split_example, task_of_tag
from runtime.errors import UserError
from runtime.files import STRICT_JSON, load_pickle, read_bytes

PAD, UNK, EOS = "<pad>", "<unk>", "<eos>"
TAG = re.compile(r"\[([^\[\]]+)\]")  # of a prompt, which may have several
MAX_TOKENIZER_BYTES = 2**23
MAX_VOCABULARY = 2**16


def shown(value):
    """A bad row or value in an error message: short, and never spelled out in depth."""
    return ascii(value[:60]) if isinstance(value, str) else f"a {type(value).__name__}"


# ----------------------------------------------------------------------------------------------
# Tokenizer
# ----------------------------------------------------------------------------------------------


class Tokenizer:
    """Characters to ids and back. `itos[i]` is the text of id i; 0 is `<pad>`, 1 is `<unk>`."""

    def __init__(self, itos):
        self.itos = list(itos)
        self.stoi = {token: i for i, token in enumerate(self.itos)}
        self.pad, self.unk, self.eos = (self.stoi[token] for token in (PAD, UNK, EOS))
        characters = [(ord(token), i) for i, token in enumerate(self.itos) if len(token) == 1]
        self._table = np.full(max(point for point, _ in characters) + 2, self.unk, dtype=np.int32)
        for point, i in characters:
            self._table[point] = i

    def __len__(self):
        return len(self.itos)

    def encode(self, text):
        """Return the ids of the characters of `text`, int32 [len(text)]; unknown ones are <unk>."""
        points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
        return self._table[np.minimum(points, len(self._table) - 1)]

    def decode(self, ids):
        """Return the text of `ids`; ids that are no character become U+FFFD."""
        return "".join(t if len(t) == 1 else "\ufffd" for t in (self.itos[int(i)] for i in ids))


def load_tokenizer(path):
    """Read a tokenizer JSON. One without `<eos>` gets it as the next id, with a notice."""
    path = require_file(path, "the tokenizer")
    data = read_bytes(path, MAX_TOKENIZER_BYTES, "that is no tokenizer of characters")
    try:
        content = STRICT_JSON.decode(data.decode("utf-8"))
        stoi, given = content["stoi"], content.get("itos") or {}
        if not all(type(i) is int for i in stoi.values()):
            raise ValueError("an id in stoi is no whole number")
        "".join(stoi).encode()  # half a surrogate pair is no character
        if any(stoi[token] != int(i) for i, token in given.items()):
            raise ValueError("itos and stoi disagree")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(
            f'{path} is no tokenizer ({repr(error)[:200]}); expected {{"stoi": {{text: id}}, '
            '"itos": …}'
        ) from None
    itos = sorted(stoi, key=stoi.get)
    if [stoi[token] for token in itos] != list(range(len(itos))) or itos[:2] != [PAD, UNK]:
        raise UserError(f"{path} must number its tokens 0, 1, 2, … with {PAD} 0 and {UNK} 1")
    if len(itos) > MAX_VOCABULARY:
        raise UserError(f"{path} has {len(itos):,} tokens; at most {MAX_VOCABULARY:,} are taken")
    if not any(len(token) == 1 for token in itos):
        raise UserError(f"{path} has no character among its tokens")
    if EOS not in itos:
        print(f"note: {path} has no {EOS}; it is added as id {len(itos)}")
        itos.append(EOS)
    return Tokenizer(itos)


# ----------------------------------------------------------------------------------------------
# Examples: flat arrays, no Python object a row, so that millions of rows fit
# ----------------------------------------------------------------------------------------------

ROWS_AT_ONCE = 65_536


class Labels:
    """A label for each of n rows, few of them different: row i has `names[codes[i]]`."""

    def __init__(self, names, codes):
        """`names` may repeat themselves; afterwards they are distinct, in order of appearance."""
        self.names, self.codes = list(dict.fromkeys(names)), codes  # int32 [n]
        if len(self.names) < len(names):
            number = {name: i for i, name in enumerate(self.names)}
            self.codes = np.array([number[name] for name in names], np.int32)[codes]
        self._names = np.fromiter(self.names, dtype=object, count=len(self.names))

    def __len__(self):
        return len(self.codes)

    def __getitem__(self, rows):
        """The label of one row, or an object array with those of several."""
        return self._names[self.codes[rows]]

    def tolist(self):
        return self[:].tolist()

    def take(self, rows):
        """The Labels of these rows, without names that none of them has."""
        codes, places = np.unique(self.codes[rows], return_inverse=True)
        return Labels([self.names[code] for code in codes], places.astype(np.int32))

    def isin(self, names):
        """bool [n]: the row's label is one of `names`."""
        return np.array([name in names for name in self.names], dtype=bool)[self.codes]

    def counts(self):
        """label -> how many rows have it, in ascending order of labels."""
        counts = np.bincount(self.codes, minlength=len(self.names)).tolist()
        return dict(sorted(zip(self.names, counts, strict=True)))


@dataclass
class Examples:
    """A data set in flat arrays: row i is `text[offsets[i]:offsets[i + 1]]`.

    `ids` holds the same rows, each with its `<eos>`: row i starts at `starts[i]` and has
    `lengths[i]` ids before the `<eos>`, which is also the number of positions it feeds to the
    model. Its answer starts at position `answer_start[i]`.
    """

    text: str
    offsets: np.ndarray  # int64 [n + 1]
    ids: np.ndarray  # uint8 or int32 [len(text) + n]
    answer_start: np.ndarray  # int32 [n]
    all_tags: Labels  # every bracketed tag: `[rev] [sort] 3 1 2 | 3 2 1` has ("rev", "sort")
    keys: np.ndarray  # int64 [n]: hash of canonical key and answer; equal: the same example
    prompt_keys: np.ndarray  # int64 [n]: hash of the canonical key alone
    unk: int
    levels: list = field(default_factory=list)
    category: str = ""
    lines: np.ndarray | None = None  # int32 [n]: where a row stands in its text file, from 1

    def __post_init__(self):
        self.lengths = np.diff(self.offsets).astype(np.int32)
        starts = self.offsets[:-1] + np.arange(len(self))
        self.starts = starts.astype(np.int32) if len(self.ids) < 2**31 else starts
        first = [tags[0] for tags in self.all_tags.names]
        self.tags = Labels(first, self.all_tags.codes)
        self.tasks = Labels([task_of_tag(tag) or tag for tag in first], self.all_tags.codes)

    def __len__(self):
        return len(self.offsets) - 1

    def raw(self, i):
        return self.text[self.offsets[i] : self.offsets[i + 1]]

    def prompt(self, i):
        """The text the model is given: tag, prompt and the bar."""
        return self.raw(i)[: self.answer_start[i]]

    def answer(self, i):
        return self.raw(i)[self.answer_start[i] :]

    def place(self, i):
        """How an error message names row i: rows count from 0, lines of a text file from 1."""
        return f"row {i}" if self.lines is None else f"line {self.lines[i]}"

    def take(self, rows):
        """The Examples of these rows, int64 [n], in this order."""
        lengths = self.lengths[rows]
        offsets = np.append(0, np.cumsum(lengths, dtype=np.int64))
        n_ids = np.append(0, np.cumsum(lengths + 1, dtype=np.int64))
        where = np.arange(n_ids[-1]) - np.repeat(n_ids[:-1] - self.starts[rows], lengths + 1)
        return Examples(
            text="".join(map(self.raw, rows)),
            offsets=offsets,
            ids=self.ids[where],
            answer_start=self.answer_start[rows],
            all_tags=self.all_tags.take(rows),
            keys=self.keys[rows],
            prompt_keys=self.prompt_keys[rows],
            unk=self.unk,
            levels=[self.levels[i] for i in rows] if self.levels else [],
            category=self.category,
            lines=None if self.lines is None else self.lines[rows],
        )

    def with_unknown(self):
        """int64: the rows that have a character which the tokenizer lacks, ascending."""
        places = np.flatnonzero(self.ids == self.unk)
        return np.unique(np.searchsorted(self.starts, places, side="right") - 1)

    def distinct(self):
        """The first row of each example and how many rows are that example, ascending by key.

        Two rows are one example where their canonical keys and their answers agree.
        """
        _, first, counts = np.unique(self.keys, return_index=True, return_counts=True)
        return first, counts


def join_examples(a, b):
    """The rows of two Examples of one tokenizer, `a` first."""
    codes = np.concatenate([a.all_tags.codes, b.all_tags.codes + len(a.all_tags.names)])
    return Examples(
        text=a.text + b.text,
        offsets=np.append(a.offsets, b.offsets[1:] + a.offsets[-1]),
        ids=np.concatenate([a.ids, b.ids]),
        answer_start=np.concatenate([a.answer_start, b.answer_start]),
        all_tags=Labels([*a.all_tags.names, *b.all_tags.names], codes),
        keys=np.concatenate([a.keys, b.keys]),
        prompt_keys=np.concatenate([a.prompt_keys, b.prompt_keys]),
        unk=a.unk,
    )


@dataclass
class Rows:
    """What a data file holds, its rows one after the other."""

    numbered: Iterable  # of (number, row)
    word: str = "row"  # what the numbers count: rows from 0, or the lines of a text file from 1
    encoded: list | None = None
    levels: list = field(default_factory=list)
    category: str = ""


def build_examples(raws, tokenizer, source, levels=(), category=""):
    """Pack a list of lines into Examples. Raises UserError naming the first bad row."""
    return pack(Rows(enumerate(raws), levels=list(levels), category=category), tokenizer, source)


def parse(raw):
    """(every bracketed tag, key, canonical key, length of the answer) of a row.

    The keys are hashes: of the canonical key and the answer, which make the example, and of the
    canonical key alone. `[rev] 01 | 10` and `[rev] 1 | 1` differ in their answers, so they are two
    examples, while `[add] 041 + 1 | 42` is `[add] 1 + 41 | 42`. ValueError or TypeError if the row
    is none.
    """
    if not isinstance(raw, str):
        raise TypeError("a row is a text")
    if "\n" in raw:  # the search for the last bar would start again at every bar before it
        raise ValueError("a row is one line")
    tag, prompt, answer = split_example(raw)
    tags = (tag, *TAG.findall(prompt)) if "[" in prompt else (tag,)
    canonical = canonical_key(tag, prompt)
    return tags, hash_of(f"{canonical} | {answer}"), hash_of(canonical), len(answer)


def hash_of(text):
    """A hash of 64 bits. UnicodeEncodeError for half a surrogate pair."""
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def pack(rows, tokenizer, source):
    """Pack Rows into Examples, one after the other. Raises UserError naming the first bad one."""
    texts, recent, code_of = [], [], {}
    numbers, lengths, answer_start, codes = (array("i") for _ in range(4))
    keys, prompt_keys = array("q"), array("q")
    for number, raw in rows.numbered:
        try:
            tags, key, canonical, n_answer = parse(raw)
        except (ValueError, TypeError) as error:
            halved = isinstance(error, UnicodeEncodeError)
            what = "holds half a surrogate pair" if halved else "is not `[tag] prompt | answer`"
            raise UserError(f"{source}: {rows.word} {number} {what}: {shown(raw)}") from None
        numbers.append(number)
        lengths.append(len(raw))
        answer_start.append(len(raw) - n_answer)
        codes.append(code_of.setdefault(tags, len(code_of)))
        keys.append(key)
        prompt_keys.append(canonical)
        recent.append(raw)
        if len(recent) == ROWS_AT_ONCE:
            texts.append("".join(recent))
            recent.clear()
    if not lengths:
        raise UserError(f"{source} holds no examples")
    text = "".join([*texts, *recent])
    del texts, recent  # as large as the text
    offsets = np.concatenate(([0], np.cumsum(lengths, dtype=np.int64)))
    return Examples(
        text,
        offsets,
        encode_rows(text, offsets, tokenizer),
        np.asarray(answer_start),
        Labels(code_of, np.asarray(codes)),
        np.asarray(keys),
        np.asarray(prompt_keys),
        unk=tokenizer.unk,
        levels=rows.levels,
        category=rows.category,
        lines=np.asarray(numbers) if rows.word == "line" else None,
    )


def encode_rows(text, offsets, tokenizer):
    """The ids of all rows, an <eos> after each."""
    n = len(offsets) - 1
    ids = np.empty(len(text) + n, np.uint8 if len(tokenizer) < 256 else np.int32)
    for i in range(0, n, ROWS_AT_ONCE):
        ends = offsets[i : i + ROWS_AT_ONCE + 1]
        j = i + len(ends) - 1
        own = tokenizer.encode(text[ends[0] : ends[-1]]).astype(ids.dtype)
        ids[ends[0] + i : ends[-1] + j] = np.insert(own, ends[1:] - ends[0], tokenizer.eos)
    return ids


def read_rows(path):
    """Return the Rows of a .pkl, .jsonl or .txt file; text files are read as the rows are."""
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{path} is a folder; give the path of a data set in it")
    if path.suffix == ".pkl":
        return rows_of_pickle(load_pickle(path), path)
    if path.suffix == ".txt":
        return Rows(lines_of(path), "line")
    if path.suffix == ".jsonl":
        return Rows(((n, raw_of_json(line, n, path)) for n, line in lines_of(path)), "line")
    raise UserError(f"{path} is of no known kind; a data set is a .pkl, .jsonl or .txt file")


def rows_of_pickle(content, path):
    if not isinstance(content, dict) or not isinstance(content.get("raw"), list):
        raise UserError(f'{path} has the wrong shape; expected a dict with a list under "raw"')
    raws, category = content["raw"], content.get("category")
    encoded, levels = content.get("encoded") or None, content.get("level") or []
    for name, column in (("encoded", encoded), ("level", levels)):
        if column and (not isinstance(column, list) or len(column) != len(raws)):
            raise UserError(f'{path}: "{name}" must be a list as long as "raw"')
    for i, level in enumerate(levels):
        if not is_level(level):
            raise UserError(
                f"{path}: the level of row {i} is {shown(level)}; it must be a whole number, "
                "a finite number, a text or None"
            )
    category = category.encode(errors="replace").decode() if isinstance(category, str) else ""
    return Rows(enumerate(raws), "row", encoded, levels, category)


def is_level(value):
    """A level is a number that figures can draw, a text that files can hold, or None."""
    if type(value) in (int, float):
        return abs(value) <= 2**53  # not so for nan
    return value is None or (
        isinstance(value, str) and value == value.encode(errors="replace").decode()
    )


def lines_of(path):
    """(number, line) for each line of a UTF-8 file that is not blank, counted from 1.

    Only a newline ends a line; `str.splitlines` would cut at other characters too.
    """
    number = 0
    try:
        with open(path, encoding="utf-8-sig", newline="\n") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield number, line.rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is not UTF-8 text ({error.reason} after line {number}); save it as UTF-8"
        ) from None


def raw_of_json(line, number, path):
    """The example in a line of a .jsonl file, given whole ("raw") or as task, prompt, answer."""
    try:
        row = STRICT_JSON.decode(line)
        if "raw" in row:
            if isinstance(row["raw"], str):
                return row["raw"]
            raise TypeError("raw is no text")
        parts = [row[name] for name in ("task", "prompt", "answer")]
        if not all(type(part) in (str, int, float) for part in parts) or " | " in str(parts[2]):
            raise ValueError("a part is neither text nor number, or has a bar")
        return "[{}] {} | {}".format(*parts)
    except (ValueError, KeyError, TypeError, RecursionError):
        raise UserError(
            f'{path}: line {number} is neither {{"raw": …}} nor '
            '{"task": …, "prompt": …, "answer": …} with no bar in the answer'
        ) from None


def load_examples(path, tokenizer):
    """Load a data set; `raw` is the truth, and `encoded`, where given, must agree with it."""
    rows = read_rows(path)
    examples = pack(rows, tokenizer, path)
    for i, row in enumerate(rows.encoded or ()):
        start, n = examples.starts[i], examples.lengths[i]
        ours = examples.ids[start : start + n].tolist()
        if row != ours and row != [*ours, tokenizer.eos]:
            raise UserError(
                f"{path}: row {i} is encoded otherwise than this tokenizer does "
                f"({examples.raw(i)[:40]!r}); give the tokenizer the data was made with"
            )
    return examples
