"""Files: nothing is read that could run code, nothing is written by halves.

Pickles and checkpoints may hold plain containers only, sizes are capped, and whatever is wrong with
a file is one UserError that names it.
"""

import contextlib
import hashlib
import io
import json
import os
import pickle
import pickletools
import re
import tempfile
import zipfile
from pathlib import Path

from runtime.errors import UserError

ROOT = Path(__file__).resolve().parents[1]


MAX_PICKLE_BYTES = 2**28  # two million rows with `encoded`; a .txt may have any size
MAX_DEPTH = 8  # containers within containers; those of a data set are 3 deep
MAX_WAITING = 2**20  # values and marks on the stack; a pickler fills a container by the thousand
PICKLE_OPCODES = {
    *("PROTO", "FRAME", "STOP", "MARK", "NONE", "NEWTRUE", "NEWFALSE", "MEMOIZE"),
    *("BINPUT", "LONG_BINPUT", "BINGET", "LONG_BINGET", "BININT", "BININT1", "BININT2", "LONG1"),
    *("SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "BINFLOAT"),
    *("EMPTY_LIST", "APPEND", "APPENDS", "LIST", "EMPTY_DICT", "SETITEM", "SETITEMS", "DICT"),
}
# torch.save needs these as well, because it writes a tensor as a call.
TORCH_OPCODES = {"GLOBAL", "REDUCE", "BINPERSID", "EMPTY_TUPLE", "TUPLE"}
TORCH_OPCODES |= {"TUPLE1", "TUPLE2", "TUPLE3"}
TORCH_GLOBAL = re.compile(
    rb"(torch._utils\n_rebuild_tensor_v2|torch\n[A-Z][A-Za-z0-9]*Storage|collections\nOrderedDict)\n"
)
PREFIX_BYTES = {-2: 1, -3: 4, -4: 4, -5: 8}  # pickletools' codes for length-prefixed arguments
OPCODES = {}  # code -> (name, bytes of its argument, bytes of the argument's length or 0)
for op in pickletools.opcodes:
    if op.name in PICKLE_OPCODES | TORCH_OPCODES:
        n = op.arg.n if op.arg else 0
        OPCODES[ord(op.code)] = (op.name, max(n, 0), PREFIX_BYTES.get(n, 0))
# A row of `encoded` is a run of small numbers, and `labels` may be one of None. Both are cut: the
# matcher remembers each repetition of a group, and the stack may not grow at once.
BININT1, NONE = ord("K"), ord("N")
RUN = re.compile(rb"(?:K.){1,4096}|N{1,4096}", re.DOTALL)
SCALAR, TEXT = 0, -1  # kinds of values; containers are numbered from 1
CLOSED = 128


class _NoGlobals(pickle.Unpickler):
    def find_class(self, module, name):
        raise UserError(f"names the global {module}.{name}")


class _Shape:
    """Runs the opcodes of a pickle on kinds in place of values, so that nothing is built.

    A container that stands in another one takes no more: a pickler fills it first, unless the data
    has a cycle. So a depth is final once it counts, and no container holds itself.
    """

    def __init__(self, n_bytes):
        self.stack, self.marks, self.memo = [], [], []
        self.depth = bytearray(1)  # of each container, and CLOSED once it stands in another
        self.pairs = {}  # of each dict: how often a key was set
        self.most = 64 + n_bytes // 8  # an empty list takes 1 byte here and 56 in memory

    def pop_to_mark(self):
        mark = self.marks.pop()
        items = self.stack[mark:]
        del self.stack[mark:]
        return items

    def new(self, is_dict):
        self.stack.append(len(self.depth))
        self.depth.append(1)
        if is_dict:
            self.pairs[self.stack[-1]] = 0
        if len(self.depth) > self.most:
            raise UserError("holds more containers than its size allows")

    def add(self, items, is_dict):
        """Put `items` into the container on top; into a dict, keys and values in turn."""
        if is_dict and any(key != TEXT for key in items[::2]):  # numbers can be made to collide
            raise UserError("has a dict key that is no text")
        container, deepest = self.stack[-1], 0
        for item in items:
            if item > 0:
                deepest = max(deepest, self.depth[item] & ~CLOSED)
                self.depth[item] |= CLOSED
        if container <= 0 or self.depth[container] & CLOSED:
            raise UserError("adds to a value that is no container or is complete")
        self.depth[container] = max(self.depth[container], deepest + 1)
        if self.depth[container] > MAX_DEPTH:
            raise UserError(f"nests containers more than {MAX_DEPTH} deep")
        if is_dict:
            self.pairs[container] = self.pairs.get(container, 0) + len(items) // 2

    def run(self, name, argument):
        stack = self.stack
        if name in ("SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"):
            stack.append(TEXT)
        elif name in ("MEMOIZE", "BINPUT", "LONG_BINPUT"):
            # A huge index makes the unpickler allocate that many slots; honest ones count up.
            if name != "MEMOIZE" and argument != len(self.memo):
                raise UserError("has a memo index out of order")
            self.memo.append(stack[-1])
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(self.memo[argument])
        elif name == "MARK":
            self.marks.append(len(stack))
        elif name in ("EMPTY_LIST", "EMPTY_DICT"):
            self.new(name == "EMPTY_DICT")
        elif name in ("APPENDS", "SETITEMS"):
            self.add(self.pop_to_mark(), name == "SETITEMS")
        elif name in ("LIST", "DICT"):
            items = self.pop_to_mark()
            self.new(name == "DICT")
            self.add(items, name == "DICT")
        elif name == "APPEND":
            self.add([stack.pop()], False)
        elif name == "SETITEM":
            value, key = stack.pop(), stack.pop()
            self.add([key, value], True)
        elif name in TORCH_OPCODES:
            self.run_torch(name)
        elif name not in ("PROTO", "FRAME", "STOP"):
            stack.append(SCALAR)

    def run_torch(self, name):
        if name in ("REDUCE", "BINPERSID"):  # a tensor or its storage, of (callable and) arguments
            del self.stack[-2 if name == "REDUCE" else -1 :]
            self.stack.append(SCALAR)
        elif name == "GLOBAL":
            self.stack.append(SCALAR)
        else:
            size = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}.get(name)
            if size is not None:
                self.marks.append(len(self.stack) - size)
            items = self.pop_to_mark()
            self.new(False)
            self.add(items, False)


STACKED = re.compile(rb"[\x8c].([\w.]{1,99})\x94?[\x8c].([\w.]{1,99})\x94?\Z", re.DOTALL)
NAMED = re.compile(rb"c([\w.]{1,99})\n([\w.]{1,99})\n")


def named_global(data, at):
    """What an error message says of the opcode at byte `at`, if a global's name stands there."""
    match = NAMED.match(data, at) or STACKED.search(data, at - 210, at)
    if data[at : at + 1] not in (b"c", b"\x93") or not match:
        return ""
    module, name = (part.decode("ascii", "replace") for part in match.groups())
    advice = ""
    if module.split(".")[0] == "numpy":
        advice = "; turn numpy's arrays and numbers into plain ones by .tolist() before pickling"
    return f", which names the global {module}.{name}{advice}"


def check_opcodes(data, allowed=frozenset(PICKLE_OPCODES)):
    """Raise UserError unless `data` is a pickle of plain and shallow containers.

    Returns how many pairs its outermost dict is given; it has fewer if a key comes twice.
    """
    shape, at, end = _Shape(len(data)), 0, len(data)
    left = 64 + end // 2  # steps; a data set of short rows takes one in 3 bytes
    while at < end:
        if len(shape.stack) + len(shape.marks) > MAX_WAITING:
            raise UserError(f"has more than {MAX_WAITING:,} values that are in no container yet")
        code, left = data[at], left - 1
        if not left:
            raise UserError("has more opcodes than its size allows")
        if code in (BININT1, NONE) and (run := RUN.match(data, at)):
            shape.stack += [SCALAR] * ((run.end() - at) // (2 if code == BININT1 else 1))
            at = run.end()
            continue
        if code not in OPCODES or OPCODES[code][0] not in allowed:
            opcode = pickletools.code2op.get(chr(code))
            named = named_global(data, at) if opcode else ""
            raise UserError(
                f"has the pickle opcode {opcode.name if opcode else code} at byte {at}{named}"
            )
        name, size, prefix = OPCODES[code]
        argument = int.from_bytes(data[at + 1 : at + 1 + (prefix or size)], "little")
        at += 1 + (prefix + argument if prefix else size)
        if name == "GLOBAL":
            known = TORCH_GLOBAL.match(data, at)
            if not known:
                raise UserError(f"names a global at byte {at}")
            at = known.end()
        try:
            shape.run(name, argument)
        except IndexError:
            raise UserError(f"takes what is not there, before byte {at}") from None
        if name == "STOP":
            return shape.pairs.get(shape.stack[-1], 0) if shape.stack else 0
    raise UserError("is cut short")


def read_bytes(path, most, advice):
    """The content of the file at `path`; UserError if it has more than `most` bytes."""
    with open(path, "rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise UserError(f"{path} has more than {most:,} bytes; {advice}")
    return data


def load_pickle(path):
    """Return the plain containers in the pickle at `path`; refuse anything else (UserError)."""
    data = read_bytes(path, MAX_PICKLE_BYTES, "give a larger data set as .txt, one row a line")
    try:
        n_pairs = check_opcodes(data)
        # Through a buffer, or protocols without frames are read byte by byte.
        content = _NoGlobals(io.BufferedReader(io.BytesIO(data), 2**20)).load()
        if isinstance(content, dict) and len(content) != n_pairs:
            raise UserError("gives a dict key twice")
        return content
    except UserError as error:
        raise UserError(
            f"{path} {error}; a data set holds only lists, dicts, texts and numbers"
        ) from None
    except (
        *(pickle.UnpicklingError, EOFError, ArithmeticError, AttributeError, LookupError),
        *(TypeError, ValueError, RecursionError, MemoryError),
    ) as error:
        raise UserError(f"{path} is no readable pickle ({str(error)[:200]})") from None


def check_archive(data):
    """Raise ValueError unless `data` is an archive as torch.save writes one.

    Nothing in it is compressed or stands there twice, so it unpacks to no more than its size, and
    its pickle has text keys and few levels: torch's own reader is slow on anything else.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            records = archive.infolist()
            n_bytes = sum(max(record.file_size, record.compress_size) for record in records)
            stored = all(record.compress_type == zipfile.ZIP_STORED for record in records)
            if not stored or n_bytes > len(data):
                raise ValueError("its archive is larger inside than outside")
            pickles = [record for record in records if record.filename.endswith(".pkl")]
            if len(pickles) != 1 or len({record.filename for record in records}) < len(records):
                raise ValueError("its archive has not one pickle, or two records of one name")
            content = archive.read(pickles[0])
            if content[:2] != b"\x80\x02":
                raise ValueError("its pickle is not of the protocol that torch.save takes")
            check_opcodes(content, PICKLE_OPCODES | TORCH_OPCODES)
    except UserError as error:
        raise ValueError(f"its pickle {error}") from None
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
        raise ValueError(f"it is no archive of torch.save: {error}") from None


def _unique(pairs):
    content = {}
    for key, value in pairs:
        if key in content:
            raise ValueError(f"the key {key[:40]!r} stands there twice")
        content[key] = value
    return content


def _no_constant(name):
    raise ValueError(f"{name} is no JSON number")


# Python's own reader keeps the last of equal keys and takes NaN.
STRICT_JSON = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant)


def write_json(path, value):
    write_atomically(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def sha256_of(path):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(2**20):
            digest.update(piece)
    return digest.hexdigest()


@contextlib.contextmanager
def naming(path):
    """Inside, an OSError names `path`: that of a full disk names nothing, or a temporary file."""
    try:
        yield
    except OSError as error:
        if error.errno is not None:
            error.filename = str(path)
        raise


def write_atomically(path: Path, content: bytes | str) -> None:
    """Write beside the file, then rename: readers see the old file or the new one, never a part.

    Where that fails, the OSError names `path`.
    """
    temporary = path.with_name(f".{path.name}.{os.urandom(6).hex()}.tmp")
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(temporary, "wb") as file:
                file.write(content.encode() if isinstance(content, str) else content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def check_writable(folder, flag="--out_dir"):
    """Raise UserError unless files can be written into `folder`; one that is missing stays so."""
    made = []
    try:
        made = [path for path in (folder, *folder.parents) if not path.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(4096))  # a full disk takes a file, but nothing in it
            file.flush()
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
