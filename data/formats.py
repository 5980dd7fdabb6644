"""Data sets and tokenizers on disk and in memory: what may be read, and the arrays it becomes.

Whatever is wrong with a file is one UserError that names it. Rows become flat arrays (Examples).
One example is one line, `[tag] prompt | answer`, and characters are tokens.
"""

import hashlib
import json
import re
from array import array
from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from data.readers import PLAIN, Rows, advice, read_rows, right_form, shown, unprintable
from data.sources import require_file
from data.tasks import canonical_key, split_example, task_of_tag
from runtime.errors import UserError
from runtime.files import STRICT_JSON, read_bytes

PAD, UNK, EOS = "<pad>", "<unk>", "<eos>"
TAG = re.compile(r"\[([^\[\]]+)\]")
# A row's tag, and further names in brackets right after it; `[max] [3, 1] | 3` has one tag.
TAGS = re.compile(r"\[[^\[\]]+\](?:\s*\[[^\W\d][\w -]*\])*")
MADE_BY = "train_minigpt_4070.py"  # a tokenizer that says so may be made anew
MAX_TOKENIZER_BYTES = 2**23
MAX_VOCABULARY = 2**16


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


def read_stoi(data, path):
    """The dict "stoi" of text -> id in the bytes of a tokenizer JSON; UserError if it has none."""

    def no_tokenizer(why):
        return UserError(
            f"{path} is no tokenizer: {why}; expected "
            '{"stoi": {"<pad>": 0, "<unk>": 1, "<eos>": 2, "a": 3, …}}'
        )

    try:
        content = STRICT_JSON.decode(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise no_tokenizer(
            f"byte {error.start + 1} is 0x{data[error.start]:02x}, which is not UTF-8"
        ) from None
    except json.JSONDecodeError as error:
        raise no_tokenizer(
            f"it is no JSON ({error.msg} at line {error.lineno}, column {error.colno})"
        ) from None
    except ValueError as error:  # a key given twice, or NaN
        raise no_tokenizer(str(error)) from None
    except RecursionError:
        raise no_tokenizer("it is nested too deeply") from None
    stoi = content.get("stoi") if isinstance(content, dict) else None
    if not isinstance(stoi, dict):
        raise no_tokenizer('it has no object "stoi"')
    for token, i in stoi.items():
        if type(i) is not int:
            raise no_tokenizer(f"the id of {shown(token)} is {shown_json(i)}, not a whole number")
        if not is_unicode(token):
            raise no_tokenizer(f"{shown(token)} is half a surrogate pair, which is no character")
    itos = content.get("itos") or {}
    if not isinstance(itos, dict):
        raise no_tokenizer('"itos" is no object')
    for token_id, token in itos.items():
        if not isinstance(token, str) or str(stoi.get(token)) != token_id:
            raise no_tokenizer(f'"itos" and "stoi" disagree at id {shown(token_id)}')
    return stoi


def shown_json(value):
    """A value in an error message: a text, number or null itself, of the rest what it is."""
    plain = value is None or isinstance(value, (str, float, bool))
    return json.dumps(value)[:60] if plain else shown(value)


def is_unicode(text):
    return text == text.encode(errors="replace").decode()


def load_tokenizer(path):
    """Read a tokenizer JSON. One without `<eos>` gets it as the next id, with a notice."""
    path = require_file(path, "the tokenizer")
    return parse_tokenizer(
        read_bytes(path, MAX_TOKENIZER_BYTES, "that is no tokenizer of characters"), path
    )


def parse_tokenizer(data, path):
    """The Tokenizer in the bytes of a tokenizer JSON, which stands at `path`."""
    stoi = read_stoi(data, path)
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


def make_tokenizer(paths, row_format=PLAIN):
    """The content of a tokenizer JSON with every character in these data sets, by code point."""
    characters = set()
    for path in paths:
        for _, row in read_rows(path, row_format).numbered:
            if isinstance(row, str):  # `pack` names one that is none
                characters.update(row)
    characters = set(filter(is_unicode, characters))
    if not characters:
        raise UserError(f"{paths[0]} holds no examples; {right_form(paths[0])}")
    itos = [PAD, UNK, EOS, *sorted(characters)]
    if len(itos) > MAX_VOCABULARY:
        raise UserError(
            f"{paths[0]} has {len(itos) - 3:,} different characters; at most {MAX_VOCABULARY:,} "
            "tokens are taken"
        )
    stoi = {token: i for i, token in enumerate(itos)}
    return json.dumps({"made_by": MADE_BY, "stoi": stoi}, indent=1) + "\n"


def check_replaceable(path, content):
    """Raise UserError if a tokenizer that is to be written at `path` would replace another's."""
    old = path.read_bytes() if path.is_file() else content.encode()
    if old != content.encode() and f'"made_by": "{MADE_BY}"'.encode() not in old:
        raise UserError(
            f"{path} would be replaced by a tokenizer made of the data; give it by --tokenizer, or "
            "give another --out_dir"
        )


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
    all_tags: Labels  # all that a row begins with: `[rev] [sort] 3 1 2 | 3 2 1` has ("rev", "sort")
    keys: np.ndarray  # int64 [n]: hash of canonical key and answer; equal: the same example
    prompt_keys: np.ndarray  # int64 [n]: hash of the canonical key alone
    unk: int
    levels: list = field(default_factory=list)
    category: str = ""
    lines: np.ndarray | None = None  # int32 [n]: where a row stands in its text file, from 1
    rows: np.ndarray | None = None  # int64 [n]: which rows of a file these are, None for all
    notices: list = field(default_factory=list)  # what to say of how the file was read
    residents: dict = field(default_factory=dict, repr=False)  # device -> the trainer's copy there

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

    def bare_prompt(self, i):
        """The prompt without tag and bar."""
        return self.prompt(i).removeprefix(f"[{self.tags[i]}] ").removesuffix(" | ")

    def answer(self, i):
        return self.raw(i)[self.answer_start[i] :]

    def place(self, i):
        """How an error message names row i: rows count from 0, lines of a text file from 1."""
        if self.lines is not None:
            return f"line {self.lines[i]}"
        return f"row {i if self.rows is None else self.rows[i]}"

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
            rows=rows if self.rows is None else self.rows[rows],
            notices=self.notices,
        )

    def with_unknown(self):
        """int64: the rows that have a character which the tokenizer lacks, ascending."""
        places = np.flatnonzero(self.ids == self.unk)
        return np.unique(np.searchsorted(self.starts, places, side="right") - 1)

    def unknown_characters(self):
        """[(character that the tokenizer lacks, rows that have it)], the most frequent first."""
        places, counts, last = np.flatnonzero(self.ids == self.unk), Counter(), {}
        for start in range(0, len(places), ROWS_AT_ONCE):  # a list of all may outgrow the memory
            some = places[start : start + ROWS_AT_ONCE]
            rows = np.searchsorted(self.starts, some, side="right") - 1
            for place, row in zip((some - rows).tolist(), rows.tolist(), strict=True):
                if last.get(self.text[place]) != row:  # rows ascend: a character counts once a row
                    last[self.text[place]] = row
                    counts[self.text[place]] += 1
        return counts.most_common()

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


def build_examples(raws, tokenizer, source, levels=(), category=""):
    """Pack a list of lines into Examples. Raises UserError naming the first bad row."""
    return pack(Rows(enumerate(raws), levels=list(levels), category=category), tokenizer, source)


def parse(raw):
    """(every tag it begins with, key, canonical key, length of the answer) of a row.

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
    tags = tuple(tags_of(raw)) if prompt.lstrip().startswith("[") else (tag,)
    canonical = canonical_key(tag, prompt)
    return tags, hash_of(f"{canonical} | {answer}"), hash_of(canonical), len(answer)


def tags_of(text):
    """The tags that a row or prompt begins with.

    >>> tags_of("[rev] [sort] 3 1 2 | 3 2 1"), tags_of("[max] [3, 1] | 3"), tags_of("[f] x [y] | 1")
    (['rev', 'sort'], ['max'], ['f'])
    """
    return TAG.findall(TAGS.match(text)[0])


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
            raise UserError(
                f"{source}: {rows.word} {number} {what}: {shown(raw)}; {advice(raw, source)}"
            ) from None
        if tags not in code_of and not tags[0].isprintable():
            raise UserError(
                f"{source}: {rows.word} {number} has the tag {unprintable(tags[0])}; "
                + right_form(source)
            )
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
        raise UserError(f"{source} holds no examples; {right_form(source)}")
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
        notices=rows.notices,
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


def load_examples(path, tokenizer, row_format=PLAIN):
    """Load a data set; `raw` is the truth, and `encoded`, where given, must agree with it."""
    rows = read_rows(path, row_format)
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
