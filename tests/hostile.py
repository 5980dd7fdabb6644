"""Hostile files by the thousand, and a process that reads them while every side effect is counted.

`craft_pickles` and its like yield (name, bytes, what must happen): "refused" is a UserError, "any"
also allows plain data (a flipped bit may only change a digit). `read_all` reads the files of a
folder in a process of its own, with an audit hook: `python tests/hostile.py <kind> <folder>`.
"""

import io
import json
import os
import pickle
import pickletools
import random
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from data import formats  # noqa: E402
from data.generate import build_tokenizer  # noqa: E402
from data.tasks import TASKS, draw_example, standard_tasks  # noqa: E402
from runtime import errors  # noqa: E402

TOKENIZER_JSON = build_tokenizer(TASKS)
TOKENIZER = formats.Tokenizer(TOKENIZER_JSON["itos"].values())

# ----------------------------------------------------------------------------------------------
# Pickles
# ----------------------------------------------------------------------------------------------


def honest(rng, n=40):
    """What a data set holds: rows, ids, labels, levels."""
    rows = [draw_example(rng, standard_tasks()[i % 5]) for i in range(n)]
    return {
        "raw": rows,
        "encoded": [TOKENIZER.encode(row).tolist() for row in rows],
        "labels": [row[1:4] for row in rows],
        "level": [rng.choice([3, 2.5, "x", None]) for _ in rows],
        "category": "mine",
        "count": n,
    }


def call(rng):
    """(module, name, argument): what an attacker would want to run."""
    return rng.choice(
        [
            ("os", "system", "touch ran"),
            ("posix", "system", "touch ran"),
            ("nt", "system", "echo > ran"),
            ("builtins", "exec", "open('ran', 'w')"),
            ("builtins", "eval", "open('ran', 'w')"),
            ("builtins", "open", "ran"),
            ("subprocess", "getoutput", "touch ran"),
            ("importlib", "import_module", "colorsys"),
            ("runtime.files", "load_pickle", "ran"),
            ("socket", "gethostbyname", "localhost"),
            ("collections", "OrderedDict", ""),
            ("numpy", "array", "1"),
        ]
    )


def text(value):
    return b"\x8c" + bytes([len(value)]) + value.encode()


def gadgets(rng):
    """Each opcode that reaches a global or a persistent id, with what it takes: name -> bytes."""
    module, name, argument = call(rng)
    named = f"c{module}\n{name}\n".encode()
    stacked = text(module) + text(name) + b"\x93"
    found = rng.choice([named, stacked])
    argument = text(argument)
    return {
        "GLOBAL": named,
        "STACK_GLOBAL": stacked,
        "REDUCE": found + argument + b"\x85R",
        "REDUCE bare": b"NNR",
        "INST": b"(" + argument + f"i{module}\n{name}\n".encode(),
        "OBJ": b"(" + found + argument + b"o",
        "NEWOBJ": found + argument + b"\x85\x81",
        "NEWOBJ_EX": found + argument + b"\x85}\x92",
        "BUILD": found + b"}" + text("__setstate__") + found + b"sb",
        "BUILD on a list": b"]}b",
        "EXT1": b"\x82" + bytes([rng.randrange(256)]),
        "EXT2": b"\x83" + rng.randbytes(2),
        "EXT4": b"\x84" + rng.randbytes(4),
        "PERSID": b"P" + module.encode() + b"\n",
        "BINPERSID": argument + b"Q",
        "NEXT_BUFFER": b"\x97",
        "READONLY_BUFFER": b"N\x98",
        "tuple": b"N\x85",
        "set": b"\x8f",
        "frozenset": b"(N\x91",
        "bytes": b"C\x01a",
        "text number": b"I5\n",
        "old string": b"S'a'\n",
        "long": b"\x8b\xff\xff\xff\x7f",
        "dup": b"N2",
        "pop": b"N0",
    }


def spliced(rng, payload, protocol):
    """An honest pickle with `payload` between two of its opcodes."""
    whole = pickle.dumps(honest(rng, 5), protocol)
    places = [at for _, _, at in pickletools.genops(whole)][1:]
    at = rng.choice(places)
    return whole[:at] + payload + whole[at:]


def laughs(levels, fan_out, protocol=4):
    """A list of lists of … each level being one list, many times over."""
    value = ["ha"]
    for _ in range(levels):
        value = [value] * fan_out
    return value


def key_pairs(pairs):
    return b"\x80\x04}(" + b"".join(pairs) + b"u."


def bombs(rng):
    """Small files that would be large or slow: name -> bytes."""
    n = rng.choice([10, 1_000, 30_000, 300_000])
    rows = text("raw") + b"](" + text("[copy] 1 | 1") + b"e"
    colliding = [b"\x8a\x0b" + (k * (2**61 - 1)).to_bytes(11, "little") + b"N" for k in range(n)]
    opening, closing = rng.choice([(b"]", b"a"), (b"}" + text("a"), b"s"), (b"(", b"l")])
    deep = opening * n + b"]" + closing * n
    chain = b"]\x94" + b"".join(b"]\x94j" + struct.pack("<I", k) + b"a" for k in range(n))
    flood = rng.choice([b"]", b"}", b"(", b"N", b"]\x94", b"\x88", b"\x8c\x00", b"K\x01", b"G" * 9])
    inner = pickle.dumps(laughs(rng.randrange(2, 12), 10))[2:-1]
    return {
        "nested": b"\x80\x04" + deep + b".",
        "nested in raw": b"\x80\x04}" + text("raw") + deep + b"s.",
        "nested and unfinished": b"\x80\x04" + opening * n,
        "chain through the memo": b"\x80\x04" + chain + b".",
        "list in itself": b"\x80\x04]\x94h\x00a.",
        "list in its list": b"\x80\x04]\x94]h\x00ah\x00a.",
        "dict in itself": b"\x80\x04}\x94" + text("raw") + b"h\x00s.",
        "memo flood": b"\x80\x04N" + b"\x94" * n + b".",
        "memo far out": b"\x80\x04]r" + struct.pack("<I", rng.randrange(1, 2**32)) + b".",
        "memo put out of order": b"\x80\x04]q" + bytes([rng.randrange(1, 256)]) + b".",
        "memo get of nothing": b"\x80\x04j" + rng.randbytes(4) + b".",
        "flood": b"\x80\x04" + flood * n + b".",
        "flood in a list": b"\x80\x04](" + flood * n + b"e.",
        "laughs": b"\x80\x04" + inner + b".",
        "laughs as raw": key_pairs([text("raw"), inner]),
        "laughs as rows": key_pairs([text("raw"), b"](" + inner + b"e"]),
        "laughs as encoded": key_pairs([rows, text("encoded"), b"](" + inner + b"e"]),
        "laughs as level": key_pairs([rows, text("level"), b"](" + inner + b"e"]),
        "colliding keys": key_pairs(colliding),
        "a key twice": key_pairs([rows, rows]),
        "nan as key": key_pairs([rows, b"G" + struct.pack(">d", float("nan")) + b"N"]),
        "list as key": key_pairs([rows, b"]N"]),
        "dict as key": key_pairs([rows, b"}N"]),
        "None as key": key_pairs([rows, b"NN"]),
        "long text": b"\x80\x04X" + struct.pack("<I", 2**32 - 1) + b"a.",
        "longer text": b"\x80\x04\x8d"
        + struct.pack("<Q", rng.choice([2**63 - 1, 2**64 - 1, 2**40])),
        "long frame": b"\x80\x04\x95" + struct.pack("<Q", rng.choice([2**64 - 1, 2**40])) + b"].",
        "long number": b"\x80\x04\x8a\xff" + b"\xff" * 100,
        "no frame kept": b"\x80\x04\x95" + struct.pack("<Q", 3) + b"](K\x01K\x02e.",
        "protocol": b"\x80" + bytes([rng.randrange(6, 256)]) + b"}.",
        "nothing": b"\x80\x04.",
        "mark left": b"\x80\x04((.",
    }


def misshapen(rng):
    """Plain containers that are no data set: name -> content."""
    whole = honest(rng, 5)
    row = rng.randrange(5)

    def with_row(column, value):
        return {**whole, column: [value if i == row else v for i, v in enumerate(whole[column])]}

    odd = [7, None, [], {}, True, 1.5, float("nan"), [["a"]], {"a": 1}, laughs(3, 10)]
    return {
        **{f"raw has {v!r:.20}": with_row("raw", v) for v in odd},
        **{f"encoded has {v!r:.20}": with_row("encoded", v) for v in odd},
        **{
            f"level has {v!r:.20}": with_row("level", v)
            for v in [[], {}, True, float("inf"), 2**70]
        },
        "raw has half a surrogate pair": with_row("raw", "[copy] \ud800 | 1"),
        "an answer has half a surrogate pair": with_row("raw", "[copy] 1 | \udfff"),
        "a tag has half a surrogate pair": with_row("raw", "[\ud800] 1 | 1"),
        "a level has half a surrogate pair": with_row("level", "\ud800"),
        "many bars and a newline": with_row("raw", "[a] " + " | " * 50_000 + "\nx"),
        "two rows in one": with_row("raw", "[copy] 1 | 1\n[copy] 2 | 2"),
        "no raw": {k: v for k, v in whole.items() if k != "raw"},
        "short encoded": {**whole, "encoded": whole["encoded"][1:]},
        "short level": {**whole, "level": whole["level"][1:]},
        "raw is a dict": {**whole, "raw": {"a": "[copy] 1 | 1"}},
        "level is a dict": {**whole, "level": {str(i): 1 for i in range(5)}},
        "encoded is a text": {**whole, "encoded": "abcde"},
        "a list": [whole],
        "empty": {**whole, "raw": [], "encoded": [], "level": []},
    }


def craft_pickles(n, seed=0):
    """At least n pickles: a third gadgets, a third damage to honest ones, the rest bombs."""
    rng, made = random.Random(seed), 0
    while made < n:
        protocol = rng.randrange(6)
        whole = pickle.dumps(honest(rng, 12), protocol)
        cases = []
        for name, payload in gadgets(rng).items():
            cases.append((f"{name} alone", b"\x80\x04" + payload + b".", "refused"))
            cases.append(
                (f"{name} spliced", spliced(rng, payload, rng.choice([2, 4, 5])), "refused")
            )
        cases += [(name, data, "refused") for name, data in bombs(rng).items()]
        for name, content in misshapen(rng).items():
            cases.append((name, pickle.dumps(content, rng.choice([2, 4, 5])), "refused"))
        for _ in range(40):
            cases.append(("truncated", whole[: rng.randrange(len(whole))], "refused"))
            cases.append(("flipped", flipped(rng, whole), "any"))
            cases.append(("noise", b"\x80\x04" + rng.randbytes(rng.randrange(200)), "any"))
        yield from cases
        made += len(cases)


def flipped(rng, whole, most=4):
    """`whole` with one to `most` flipped bits."""
    data = bytearray(whole)
    for _ in range(rng.randrange(1, most + 1)):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(data)


# ----------------------------------------------------------------------------------------------
# Text files and tokenizers
# ----------------------------------------------------------------------------------------------


def craft_lines(n, seed=0):
    """Hostile .jsonl files."""
    rng, made = random.Random(seed), 0
    good = '{"task": "copy", "prompt": "1", "answer": "1"}'
    bad = [
        "[" * 200_000,
        '{"a":' * 200_000,
        '{"raw": ' + "[" * 900 + "]" * 900 + "}",
        '{"raw": "[copy] 1 | 1", "raw": "[copy] 2 | 2"}',
        '{"task": "copy", "prompt": NaN, "answer": "1"}',
        '{"task": "copy", "prompt": Infinity, "answer": "1"}',
        '{"task": "copy", "prompt": "1", "answer": ' + "9" * 100_000 + "}",
        '{"task": {"a": 1}, "prompt": "1", "answer": "1"}',
        '{"task": "copy", "prompt": [1], "answer": "1"}',
        '{"task": "copy", "prompt": true, "answer": "1"}',
        '{"task": "copy", "prompt": "1", "answer": null}',
        '{"task": "copy", "prompt": "1", "answer": "1 | 1"}',
        '{"task": "{0.__class__}", "prompt": "1"}',
        '{"task": "a] b", "prompt": "1", "answer": "1\\n"}',
        '{"task": "co\\npy", "prompt": "1", "answer": "1"}',
        '{"raw": "[copy] \\ud800 | 1"}',
        '{"raw": "[copy] 1 | \\udc00"}',
        '{"raw": "[a] ' + " | " * 50_000 + '\\nx"}',
        '{"raw": 7}',
        '{"raw": null}',
        '{"raw": {"raw": "[copy] 1 | 1"}}',
        '"raw"',
        "[]",
        "null",
        "7",
        "1e999",
        "\ufeff{",
        '{"raw": "[copy] 1 | 1"} x',
    ]
    whole = "\n".join([good] * 20).encode()
    while made < n:
        cases = []
        for line in bad:
            before, blank = rng.randrange(4), "\n" * rng.randrange(3)
            content = f"{good}\n" * before + blank + f"{line}\n{good}\n"
            cases.append((f"{line[:30]!r}", content.encode("utf-8", "surrogatepass"), "refused"))
        cases += [("flipped", flipped(rng, whole), "any") for _ in range(30)]
        cases += [("noise", rng.randbytes(rng.randrange(300)), "any") for _ in range(10)]
        cases.append(("not UTF-8", whole + b"\n\xff\xfe", "refused"))
        cases.append(("blank", b"\n" * rng.randrange(9), "refused"))
        yield from cases
        made += len(cases)


def craft_tokenizers(n, seed=0):
    """Hostile tokenizer JSON files."""
    rng, made = random.Random(seed), 0
    whole = json.dumps(TOKENIZER_JSON).encode()
    start = '{"stoi": {"<pad>": 0, "<unk>": 1, '
    bad = [
        start + '"a": 2, "a": 3}}',
        start + '"a": 2, "b": 2}}',
        start + '"a": 2}, "stoi": {"<pad>": 0, "<unk>": 1, "b": 2}}',
        *(
            start + f'"a": {i}}}}}'
            for i in ("true", "2.0", "-1", "null", '"2"', "[2]", "{}", "1e9")
        ),
        *(
            start + f'"a": {i}}}}}'
            for i in ("NaN", "Infinity", "-Infinity", "9" * 99_999, "2" * 4000)
        ),
        *(
            start + f'"a": 2}}, "itos": {i}}}'
            for i in ('["a"]', '{"2": 7}', '{"2": null}', '"a"', "7")
        ),
        *(start + f'"a": 2}}, "itos": {i}}}' for i in ('{"2": ["a"]}', '{"x": "a"}', '{"3": "a"}')),
        start + '"a": 2}, "itos": {"' + "9" * 99_999 + '": "a"}}',
        start + '"\\ud800": 2}}',
        start + '"a": 2}}' + "]",
        start + '"": 2}}',
        '{"stoi": ' * 100_000,
        "[" * 200_000,
        '{"stoi": {' + '"<pad>": {' * 50_000,
        '{"stoi": [["<pad>", 0]]}',
        '{"stoi": {"<pad>": 0}}',
        "[]",
        "7",
        "null",
        "",
    ]
    many = ", ".join(f'"{chr(0x4E00 + i % 20_000)}{i}": {i + 2}' for i in range(200_000))
    while made < n:
        cases = [(f"{content[-40:]!r}", content.encode(), "refused") for content in bad]
        cases += [("flipped", flipped(rng, whole), "any") for _ in range(30)]
        cases += [("truncated", whole[: rng.randrange(len(whole))], "refused") for _ in range(20)]
        if made == 0 and n >= 1_000:  # once in the long campaign
            cases.append(("200,000 entries", f"{start}{many}}}}}".encode(), "refused"))
            ten_million = b", ".join(b'"%d": %d' % (i, i) for i in range(10**7))
            cases.append(("10,000,000 entries", b'{"stoi": {' + ten_million + b"}}", "refused"))
        yield from cases
        made += len(cases)


# ----------------------------------------------------------------------------------------------
# Checkpoints
# ----------------------------------------------------------------------------------------------


def honest_checkpoint():
    """The content of a small checkpoint."""
    import torch

    import train_minigpt_4070 as t

    model = t.GPT(t.GPTConfig(len(TOKENIZER), 40, 8, 1, 2, 8), [0])
    facts = {"seed": 0, "epoch": 1, "step": 1, "trained_tags": ["copy"], "trained_length": 9}
    facts["data"] = {"train": {"path": "x", "sha256": "0"}}
    assert torch.isfinite(model.w_tokens).all()
    return t.model_state(model, 0, TOKENIZER, facts)


def saved(content, **options):
    import torch

    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


def rezipped(whole, compression=zipfile.ZIP_STORED, **replaced):
    """The archive again with other records: `data_pkl=b"…"` replaces data.pkl, None drops it."""
    buffer = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(whole)) as old,
        zipfile.ZipFile(buffer, "w", compression) as new,
    ):
        for item in old.infolist():
            name = item.filename.partition("/")[2].replace(".", "_").replace("/", "_")
            content = replaced.pop(name, old.read(item))
            if content is not None:
                new.writestr(item.filename, content)
        for name, content in replaced.items():
            new.writestr(name, content)
    return buffer.getvalue()


class Carried:
    """An object whose unpickling would run a command."""

    def __reduce__(self):
        return os.system, ("touch ran",)


def craft_checkpoints(n, seed=0):
    """Hostile .pth files, in torch's zip format and in its older one."""
    import collections
    import datetime
    import fractions

    import numpy as np
    import torch

    rng, made, content = random.Random(seed), 0, honest_checkpoint()
    whole, old = saved(content), saved(content, _use_new_zipfile_serialization=False)
    objects = [Carried(), Path("x"), np.arange(3), datetime.date(2000, 1, 1), torch.nn.ReLU()]
    objects += [fractions.Fraction(1, 3), print, os.system, collections.deque(), complex, Carried]
    while made < n:
        cases = []
        for value in objects:
            place = rng.choice(["model", "extra", "vocab", "epoch"])
            for zipped in (True, False):
                data = saved({**content, place: value}, _use_new_zipfile_serialization=zipped)
                cases.append((f"{value!r:.40} as {place}", data, "refused"))
        for name, payload in gadgets(rng).items():
            if name in ("tuple", "set", "bytes", "dup", "pop", "long", "text number"):
                continue  # plain values, which weights_only may read
            data = b"\x80\x02" + payload + b"."
            cases.append((f"{name} in a zip", rezipped(whole, data_pkl=data), "refused"))
            cases.append((f"{name} as a plain pickle", data, "refused"))
        for name, data in bombs(rng).items():
            cases.append((f"{name} in a zip", rezipped(whole, data_pkl=data), "refused"))
        for data in (whole, old):
            for _ in range(10):
                cases.append(("truncated", data[: rng.randrange(len(data))], "refused"))
                cases.append(("flipped", flipped(rng, data), "any"))
        cases += [("noise", rng.randbytes(rng.randrange(999)), "refused") for _ in range(5)]
        cases.append(("no data.pkl", rezipped(whole, data_pkl=None), "refused"))
        cases.append(("no tensor", rezipped(whole, data_0=None), "refused"))
        cases.append(("short tensor", rezipped(whole, data_0=b"x"), "refused"))
        cases.append(("escaping name", rezipped(whole, **{"../../ran": b"x"}), "any"))
        cases.append(("script", rezipped(whole, **{"archive/constants.pkl": b"N."}), "any"))
        cases.append(("other arch", saved({**content, "arch": {"vocab_size": -1}}), "refused"))
        if made == 0 and n >= 1_000:
            bomb = rezipped(whole, zipfile.ZIP_DEFLATED, data_pkl=b"N" * 2**30)
            cases.append(("a compressed gigabyte", bomb, "refused"))
        yield from cases
        made += len(cases)


def craft_unsafe(n, seed=0):
    """Pickles that run a command."""
    for protocol in range(n):
        yield f"protocol {protocol}", pickle.dumps(Carried(), protocol), "refused"


CRAFT = {
    "unsafe": (craft_unsafe, ".pkl"),
    "pickle": (craft_pickles, ".pkl"),
    "jsonl": (craft_lines, ".jsonl"),
    "tokenizer": (craft_tokenizers, ".json"),
    "checkpoint": (craft_checkpoints, ".pth"),
}

# ----------------------------------------------------------------------------------------------
# Reading under watch
# ----------------------------------------------------------------------------------------------

WATCHED = ("import", "open", "exec", "compile", "pickle.", "marshal.", "ctypes.", "socket.", "os.")
WATCHED += ("subprocess.", "shutil.", "urllib.", "tempfile.", "code.", "mmap.", "winreg.")


def readers(kind):
    """The function under test for a kind of file; "unsafe" shows what the watch would see."""
    if kind == "unsafe":
        return lambda path: pickle.loads(Path(path).read_bytes())
    if kind == "tokenizer":
        return formats.load_tokenizer
    if kind == "checkpoint":
        from train_minigpt_4070 import read_checkpoint

        return read_checkpoint
    return lambda path: formats.load_examples(path, TOKENIZER)


def peak_mib():
    """Highest resident memory of this process so far; 0.0 where it cannot be told."""
    status = Path("/proc/self/status")
    if status.is_file():  # on Linux getrusage also counts what the parent had
        line = next(x for x in status.read_text().splitlines() if x.startswith("VmHWM:"))
        return int(line.split()[1]) / 2**10
    try:
        import resource
    except ImportError:  # Windows
        return 0.0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def watch(kind, folder):
    """Read every file of `folder`, first its honest one; print a JSON line for each."""
    os.chdir(folder)
    sys.stdout.reconfigure(errors="replace")
    read, out = readers(kind), sys.stdout
    events, current = [], [None]

    def hook(event, arguments):
        if current[0] and event.startswith(WATCHED):
            own = event == "open" and str(arguments[0]) == current[0]
            if not own:
                events.append(f"{event} {arguments!r:.60}")

    def counted(frame, event, argument):
        calls[0] += event in ("call", "c_call")

    files, calls = sorted(path.name for path in Path().iterdir()), [0]
    "\xe9".encode("cp437")  # zipfile looks this encoding up for odd names
    for _ in range(2):  # the first read imports what reading needs
        read(files[0])
    sys.addaudithook(hook)
    before = peak_mib()
    for name in files:
        sys.stdout = io.StringIO()
        current[0], calls[0] = name, 0
        sys.setprofile(counted)
        try:
            read(name)
            outcome = "loaded"
        except errors.UserError as error:
            outcome = "refused"
            message = str(error)
            if name not in message or "\n" in message or len(message) > 600:
                outcome = f"badly told: {message[:300]!r}"
        except BaseException as error:
            outcome = f"{type(error).__name__}: {error}"[:200]
        finally:
            sys.setprofile(None)
        current[0] = None
        sys.stdout = out
        line = {
            "name": name,
            "outcome": outcome,
            "calls": calls[0],
            "bytes": os.path.getsize(name),
            "events": events,
        }
        print(json.dumps(line), flush=True)
        events.clear()
    print(json.dumps({"mib": peak_mib() - before}))


def work(line):
    """Calls that a file took, as a share of what it may take; no clock, whatever the machine."""
    return line["calls"] / (20_000 + 10 * line["bytes"])


def read_all(kind, folder, n):
    """Craft at least n files of a kind and read them under watch.

    Returns (what was found wrong, figures).
    """
    craft, suffix = CRAFT[kind]
    wanted = {}
    honest_file = {
        "unsafe": lambda: pickle.dumps(1),
        "pickle": lambda: pickle.dumps(honest(random.Random(0))),
        "jsonl": lambda: b'{"raw": "[copy] 1 | 1"}\n',
        "tokenizer": lambda: json.dumps(TOKENIZER_JSON).encode(),
        "checkpoint": lambda: saved(honest_checkpoint()),
    }
    cases = [("honest", honest_file[kind](), "loaded"), *craft(n)]
    for i, (name, data, what) in enumerate(cases):
        path = folder / f"{i:06}{suffix}"
        path.write_bytes(data)
        wanted[path.name] = (name, what)
    command = [sys.executable, __file__, kind, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=3600)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    wrong = [] if len(lines) == len(cases) + 1 else [f"died: {done.stderr[-2000:]}"]
    outcomes, most, n_events = {}, 0.0, 0
    for line in lines[: len(cases)]:
        name, what = wanted[line["name"]]
        allowed = ("refused", "loaded") if what == "any" else (what,)
        outcomes[line["outcome"]] = outcomes.get(line["outcome"], 0) + 1
        most, n_events = max(most, work(line)), n_events + len(line["events"])
        if line["outcome"] not in allowed or line["events"] or work(line) > 1:
            wrong.append(f"{line['name']} ({name}): {line}")
    mib = lines[-1].get("mib", float("inf")) if lines else float("inf")
    left = sorted({path.name for path in folder.iterdir()} - set(wanted))
    wrong += [f"{name} was made" for name in left]
    wrong += [f"{mib:.0f} MiB"] if mib > 512 else []
    figures = f"{kind}: {len(cases):,} files, {outcomes}, at most {most:.2f} of the calls allowed, "
    figures += f"{n_events} imports, opens and processes, {mib:.0f} MiB more than an honest file"
    return wrong, figures


if __name__ == "__main__":
    watch(sys.argv[1], sys.argv[2])
