"""Data sets and tokenizers on disk and in memory: what may be read, and the arrays it becomes.

A file from a stranger is harmless: pickles may hold plain containers only, sizes are capped, and
whatever is wrong with a file is one UserError that names it. Rows become flat arrays (Examples);
one example is one line, `[tag] prompt | answer`, and characters are tokens.
"""

import contextlib
import hashlib
import io
import json
import os
import pickle
import pickletools
import re
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from data.generate import canonical_key, make_missing, split_example, task_of_tag, write_atomically

PAD, UNK, EOS = "<pad>", "<unk>", "<eos>"
TAG = re.compile(r"\[([^\[\]]+)\]")  # of a prompt, which may have several


class UserError(Exception):
    """A mistake of the user's: a script prints it as one sentence and exits with code 2."""


# ----------------------------------------------------------------------------------------------
# Files: read nothing that could run code, write nothing by halves
# ----------------------------------------------------------------------------------------------

MAX_PICKLE_BYTES = 2**30
PICKLE_OPCODES = {
    *("PROTO", "FRAME", "STOP", "MARK", "NONE", "NEWTRUE", "NEWFALSE", "MEMOIZE"),
    *("BINPUT", "LONG_BINPUT", "BINGET", "LONG_BINGET", "BININT", "BININT1", "BININT2", "LONG1"),
    *("SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "BINFLOAT"),
    *("EMPTY_LIST", "APPEND", "APPENDS", "LIST", "EMPTY_DICT", "SETITEM", "SETITEMS", "DICT"),
}


class _NoGlobals(pickle.Unpickler):
    def find_class(self, module, name):
        raise UserError(f"names the global {module}.{name}")


def check_opcodes(data):
    """Raise UserError if the pickle `data` has an opcode that plain containers do not need.

    Arguments are stepped over, not decoded as `pickletools.genops` would.
    """
    prefix_bytes = {-2: 1, -3: 4, -4: 4, -5: 8}  # pickletools' codes for length-prefixed arguments
    size_of = {}
    for opcode in pickletools.opcodes:
        if opcode.name in PICKLE_OPCODES:
            size_of[ord(opcode.code)] = opcode.arg.n if opcode.arg else 0
    at, n_memo, end, long_binput = 0, 0, len(data), ord("r")
    memo_codes = {ord("q"), ord("\x94"), long_binput}
    while at < end:
        code = data[at]
        size = size_of.get(code)
        if size is None:
            opcode = pickletools.code2op.get(chr(code))
            raise UserError(f"has the pickle opcode {opcode.name if opcode else code} at byte {at}")
        at += 1
        if code in memo_codes:
            # A huge memo index makes the unpickler allocate that many slots; honest ones count up.
            if code == long_binput and int.from_bytes(data[at : at + 4], "little") != n_memo:
                raise UserError(f"has a memo index out of order at byte {at}")
            n_memo += 1
        if size < 0:
            width = prefix_bytes[size]
            at += width + int.from_bytes(data[at : at + width], "little")
        else:
            at += size
        if code == 46:  # STOP
            return
    raise UserError("is cut short")


def load_pickle(path):
    """Return the plain containers in the pickle at `path`; refuse anything else (UserError)."""
    size = os.path.getsize(path)
    if size > MAX_PICKLE_BYTES:
        raise UserError(f"{path} has {size:,} bytes; at most {MAX_PICKLE_BYTES:,} are read")
    data = Path(path).read_bytes()
    try:
        check_opcodes(data)
        return _NoGlobals(io.BytesIO(data)).load()
    except UserError as error:
        raise UserError(
            f"{path} {error}; a data set holds only lists, dicts, texts and numbers"
        ) from None
    except (
        pickle.UnpicklingError,
        EOFError,
        ArithmeticError,
        AttributeError,
        LookupError,
    ) as error:
        raise UserError(f"{path} is no readable pickle ({error})") from None
    except (TypeError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is no readable pickle ({error})") from None


def write_json(path, value):
    write_atomically(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def sha256_of(path):
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def require_file(path, what):
    """Make a standard data file that is missing; raise UserError if `path` is another one."""
    if make_missing(path):
        print(f"made the standard data in {Path(path).parent}", flush=True)
    if not Path(path).is_file():
        raise UserError(f"{what} {path} does not exist; give the path of an existing file")


# ----------------------------------------------------------------------------------------------
# Tokenizer and examples
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
    require_file(path, "the tokenizer")
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        stoi = content["stoi"]
        itos = [token for token, _ in sorted(stoi.items(), key=lambda item: item[1])]
        ids = sorted(stoi.values())
        given = content.get("itos") or {}
        if any(stoi[token] != int(i) for i, token in given.items()):
            raise ValueError("itos and stoi disagree")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(
            f'{path} is no tokenizer ({error!r}); expected {{"stoi": {{text: id}}, "itos": …}}'
        ) from None
    if ids != list(range(len(ids))) or itos[:2] != [PAD, UNK]:
        raise UserError(f"{path} must number its tokens 0, 1, 2, … with {PAD} 0 and {UNK} 1")
    if not any(len(token) == 1 for token in itos):
        raise UserError(f"{path} has no character among its tokens")
    if EOS not in itos:
        print(f"note: {path} has no {EOS}; it is added as id {len(itos)}")
        itos.append(EOS)
    return Tokenizer(itos)


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
    tags: list  # the tag of each row, n texts
    keys: np.ndarray  # int64 [n]: hash of the canonical key
    unk: int
    levels: list = field(default_factory=list)
    category: str = ""

    def __post_init__(self):
        self.lengths = np.diff(self.offsets).astype(np.int64)
        self.starts = self.offsets[:-1] + np.arange(len(self))
        self.tasks = np.array([task_of_tag(tag) or tag for tag in self.tags])

    def __len__(self):
        return len(self.offsets) - 1

    def raw(self, i):
        return self.text[self.offsets[i] : self.offsets[i + 1]]

    def prompt(self, i):
        """The text the model is given: tag, prompt and the bar."""
        return self.raw(i)[: self.answer_start[i]]

    def answer(self, i):
        return self.raw(i)[self.answer_start[i] :]

    def tags_of(self, i):
        """Every bracketed tag of row i: `[rev] [sort] 3 1 2 | 3 2 1` has two."""
        return TAG.findall(self.prompt(i))

    def has_unknown(self):
        """bool [n]: the row has a character which the tokenizer lacks."""
        return np.add.reduceat(self.ids == self.unk, self.starts) > 0

    def repeat_counts(self):
        """int [n]: how many rows of this set are the same example, by canonical key."""
        _, inverse, counts = np.unique(self.keys, return_inverse=True, return_counts=True)
        return counts[inverse]


def build_examples(raws, tokenizer, source, levels=(), category=""):
    """Pack a list of lines into Examples. Raises UserError naming the first bad row."""
    if not raws:
        raise UserError(f"{source} holds no examples")
    tags, keys, answer_start = [], np.empty(len(raws), np.int64), np.empty(len(raws), np.int32)
    for i, raw in enumerate(raws):
        try:
            tag, prompt, answer = split_example(raw)
        except (ValueError, TypeError, AttributeError):
            shown = repr(raw[:60]) if isinstance(raw, str) else type(raw).__name__
            raise UserError(f"{source}: row {i} is not `[tag] prompt | answer`: {shown}") from None
        tags.append(sys.intern(tag))
        digest = hashlib.blake2b(canonical_key(tag, prompt).encode(), digest_size=8).digest()
        keys[i] = int.from_bytes(digest, "little", signed=True)
        answer_start[i] = len(raw) - len(answer)
    text = "".join(raws)
    offsets = np.concatenate(([0], np.cumsum([len(raw) for raw in raws])))
    dtype = np.uint8 if len(tokenizer) < 256 else np.int32
    ids = np.insert(tokenizer.encode(text).astype(dtype), offsets[1:], tokenizer.eos)
    return Examples(
        text, offsets, ids, answer_start, tags, keys, tokenizer.unk, list(levels), category
    )


def read_rows(path):
    """Return (rows, encoded rows or None, levels, category) of a .pkl, .jsonl or .txt file."""
    path = Path(path)
    if path.suffix not in (".pkl", ".jsonl", ".txt"):
        raise UserError(f"{path} is of no known kind; a data set is a .pkl, .jsonl or .txt file")
    if path.suffix == ".pkl":
        content = load_pickle(path)
        if not isinstance(content, dict) or not isinstance(content.get("raw"), list):
            raise UserError(f'{path} has the wrong shape; expected a dict with a list under "raw"')
        encoded, levels = content.get("encoded") or None, content.get("level") or []
        for name, column in (("encoded", encoded), ("level", levels)):
            if column and (not isinstance(column, list) or len(column) != len(content["raw"])):
                raise UserError(f'{path}: "{name}" must be a list as long as "raw"')
        return content["raw"], encoded, levels, str(content.get("category") or "")
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text ({error}); save it as UTF-8") from None
    lines = [line.rstrip("\r") for line in lines]
    if path.suffix == ".txt":
        return [line for line in lines if line.strip()], None, [], ""
    return (
        [raw_of_json(line, i, path) for i, line in enumerate(lines) if line.strip()],
        None,
        [],
        "",
    )


def raw_of_json(line, i, path):
    """The example in line `i` of a .jsonl file, given whole ("raw") or as task, prompt, answer."""
    try:
        row = json.loads(line)
        raw = row.get("raw") or "[{task}] {prompt} | {answer}".format(**row)
        if "raw" not in row and " | " in str(row["answer"]):
            raise ValueError("the answer has a bar")
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
        raise UserError(
            f'{path}: line {i + 1} is neither {{"raw": …}} nor '
            '{"task": …, "prompt": …, "answer": …} with no bar in the answer'
        ) from None
    return raw


def load_examples(path, tokenizer):
    """Load a data set; `raw` is the truth, and `encoded`, where given, must agree with it."""
    rows, encoded, levels, category = read_rows(path)
    examples = build_examples(rows, tokenizer, path, levels, category)
    if encoded is not None:
        for i, row in enumerate(encoded):
            start, n = examples.starts[i], examples.lengths[i]
            ours = examples.ids[start : start + n].tolist()
            if row != ours and row != [*ours, tokenizer.eos]:
                raise UserError(
                    f"{path}: row {i} is encoded otherwise than this tokenizer does "
                    f"({examples.raw(i)[:40]!r}); give the tokenizer the data was made with"
                )
    return examples


# ----------------------------------------------------------------------------------------------
# Scripts: what every command line does alike
# ----------------------------------------------------------------------------------------------


def run_main(work):
    """Call work() for a script and return its exit code; a failure is one line on stderr.

    0 done, 2 the user's mistake, 5 a file or disk that would not do, 130 Ctrl-C, 141 stdout was
    closed (`| head` had read enough). Any other exception is a bug and keeps its traceback.
    """
    code, said = 0, None
    if hasattr(sys.stdout, "reconfigure"):  # a redirected Windows console lacks many characters
        sys.stdout.reconfigure(errors="replace")
    try:
        work()
    except SystemExit as done:  # argparse: --help, or a mistake in a flag
        code = done.code
    except UserError as error:
        code, said = 2, f"error: {error}"
    except BrokenPipeError:
        code = 141
    except OSError as error:
        code, said = 5, f"error: {error.filename or 'output'}: {error.strerror or error}"
    except KeyboardInterrupt:
        code, said = 130, "\ninterrupted"
    try:
        sys.stdout.flush()
    except OSError as error:
        # Python flushes once more at exit, and would report it as an exception ignored.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        broken = isinstance(error, BrokenPipeError)
        code, said = (code, said) if code else (141, None) if broken else (5, f"error: {error}")
    if said:
        print(said, file=sys.stderr)
    return code


def check_writable(folder, flag="--out_dir"):
    """Raise UserError unless files can be written into `folder`; one that is missing stays so."""
    made = []
    try:
        made = [path for path in (folder, *folder.parents) if not path.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except (FileExistsError, NotADirectoryError):
        raise UserError(f"{flag} {folder} is a file, or lies in one; give a folder") from None
    except OSError as error:
        raise UserError(
            f"{flag} {folder} cannot be written ({error.strerror}); give another folder"
        ) from None
    finally:
        for path in made:
            with contextlib.suppress(OSError):
                path.rmdir()


def seed_folders(folder):
    """The folders `seed_<s>` in that of a run of several seeds, ascending in s; [] of one seed."""
    found = [p for p in Path(folder).glob("seed_*") if re.fullmatch("seed_[0-9]+", p.name)]
    return sorted(found, key=lambda p: int(p.name[5:]))
