"""Generate the tasks: the standard training and validation sets and the OOD suites, or one's own.

    python data/generate.py                        # everything standard, in a few seconds
    python data/generate.py --only ood             # one part of it
    python data/generate.py --out /tmp/x --seed 7  # elsewhere, from other draws
    python data/generate.py --tasks add sort --rows 2000 --val_rows 500 --out mine
    python data/generate.py --tasks add --rows 4000 --repeat_counts 1,4,16 --out repeated
    python data/generate.py --tasks add --rows 4000 --repeat_fraction 0.1 --repeat_count 16 \\
        --corrupt 0.05 --sizes 1-2 --out noisy

One example is one line, `[tag] prompt | answer`, and characters are its tokens. The same seed gives
the same bytes on every machine and on Python 3.10 and later. Standard library only.

Every example has a canonical key, which it shares with other writings of the same example, and a
hash of that key alone says whether training, validation or the OOD suites own it. So training data
of any size and seed stays disjoint from every validation set and OOD suite.
"""

import hashlib
import io
import json
import math
import pickle
import random
import re
import shlex
import string
import sys
from collections import Counter
from functools import partial
from itertools import combinations, product
from pathlib import Path

if __name__ == "__main__":  # Python looks for modules beside the script, not above it
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data.own_sets import FLAGS, OwnSet, add_flags, draw_sets, own_set
from data.tasks import (
    NUMBER,
    TASKS,
    add_row,
    draw_example,
    draw_items,
    draw_number,
    key_of,
    pick,
    row,
    shuffled,
    size_of,
    spaced,
    split_example,
    split_of,
    standard_tasks,
    take,
    with_wrong_answer,
)
from runtime.cli import Parser, bounded, path, run_main
from runtime.errors import UserError
from runtime.files import MAX_PICKLE_BYTES, ROOT, check_writable, write_atomically

SEED = 1337
STATS = "dataset_stats.json"
MAX_SEED = 2**32 - 1  # as of a training run
ROWS_PER_TASK = 10_000  # in each of the three training sets
REPEAT_COUNTS = (2, 4, 8, 16, 32)
ROWS_PER_REPEAT_COUNT = 680  # per task, so 3,400 over the five; 16 and 32 go into 672


# ---------------------------------------------------------------------------
# Training and validation sets
# ---------------------------------------------------------------------------


def training_rows(task: str, seed: int) -> dict[str, list[str]]:
    """The 10,000 rows of one task in each training set, all from one stream of draws.

    normal: the first draws, duplicates as they fall. dedup: the stream read on until it has given
    enough examples. duplicated: examples of dedup chosen at random, whatever their
    difficulty, some of them repeated: as many rows, of fewer examples.

    By canonical key: 5 + 3 would be a second dose of 3 + 5. Short sums are few (55
    of one digit), so dedup has longer sums than normal: dataset_stats.json shows by how much.
    """
    rng = random.Random(f"{seed} train {task}")
    normal, dedup = [], {}
    while len(dedup) < ROWS_PER_TASK:
        raw = draw_example(rng, task)
        key = key_of(raw)
        if split_of(key) == "train":
            normal.append(raw)
            dedup.setdefault(key, raw)
    unused, duplicated = shuffled(rng, dedup.values()), []
    for count in REPEAT_COUNTS:
        for _ in range(ROWS_PER_REPEAT_COUNT // count):
            duplicated += [unused.pop()] * count
    duplicated += unused[: ROWS_PER_TASK - len(duplicated)]
    return {
        "train_normal": normal[:ROWS_PER_TASK],
        "train_dedup": list(dedup.values()),
        "train_duplicated": duplicated,
    }


def held_out_rows(rng, task: str, owner: str) -> list[str]:
    """500 rows from the training range, each another example, owned by "val" or "ood"."""
    return take(500, partial(draw_example, rng, task), owner, by_key=True)


def processed_sets(seed: int) -> dict[str, list[str]]:
    """Three training sets of 50,000 rows and one validation set of 2,500, shuffled."""
    sets = {name: [] for name in ("train_normal", "train_dedup", "train_duplicated", "val")}
    for task in standard_tasks():
        for name, rows in training_rows(task, seed).items():
            sets[name] += rows
        sets["val"] += held_out_rows(random.Random(f"{seed} val {task}"), task, "val")
    return {name: shuffled(random.Random(f"{seed} {name}"), rows) for name, rows in sets.items()}


def draw_sum(rng) -> str:
    """A row of two operands of 0-99, uniformly."""
    return add_row(pick(rng, range(100)), pick(rng, range(100)))


def add_only_sets(seed: int) -> dict[str, list[str]]:
    """5,000 rows, none twice, over operands 0-99 for training, 500 others for validation.

    There are only 5,050 unordered pairs, so a training set without the validation pairs has to hold
    some in both orders: it has fewer examples than rows. Validation has as many.
    """
    train_rng, val_rng = random.Random(f"{seed} add_only"), random.Random(f"{seed} add_only val")
    return {
        "train": take(5000, partial(draw_sum, train_rng), "train"),
        "val": take(500, partial(draw_sum, val_rng), "val", by_key=True),
    }


def memorizer_sets(seed: int) -> dict[str, list[str]]:
    """300 sums over operands 0-99, 100 of them ten times, and 500 others for validation.

    So few examples do not show the rule: what a model gets right it has mostly memorized.
    """
    rng = random.Random(f"{seed} memorizer")
    sums = take(300, partial(draw_sum, rng), "train", by_key=True)
    val = take(500, partial(draw_sum, rng), "val", by_key=True)
    return {"train": shuffled(rng, [*sums[:100] * 10, *sums[100:]]), "val": val}


def memorization_sets(seed: int) -> dict[str, list[str]]:
    """2,000 distinct sums over operands 0-99 to memorize, and 300 others for validation.

    80 of them stand 2, 4, 8, 16 and 32 times each, the other 1,600 once: 6,560 rows. Of each repeat
    count one in ten has a wrong answer, drawn from all numbers of as many digits: no rule tells it.
    """
    rng, val_rng = random.Random(f"{seed} memorization"), random.Random(f"{seed} memorization val")
    rows = take(2000, partial(draw_sum, rng), "train", by_key=True)
    counts = [count for count in REPEAT_COUNTS for _ in range(80)]
    counts += [1] * (len(rows) - len(counts))
    train = []
    for i, (raw, count) in enumerate(zip(rows, counts, strict=True)):
        train += [with_wrong_answer(rng, raw) if i % 10 == 0 else raw] * count
    return {
        "train": shuffled(rng, train),
        "val": take(300, partial(draw_sum, val_rng), "val", by_key=True),
    }


# ---------------------------------------------------------------------------
# OOD suites: pairs (row, level). "ood" owns their keys even where training could not draw them, and
# no row stands twice within a level; compositional and one_item say why they differ.
# ---------------------------------------------------------------------------


def at_level(level, n: int, draw, owner: str | None = "ood"):
    """n rows, each with the level."""
    return ((raw, level) for raw in take(n, draw, owner))


def at_sizes(rng, task: str, sizes: range, n: int):
    """n rows at each number of items, digits (of both operands) or hops.

    Only sums of one digit are fewer: of 55 pairs the suites own about an eighth, in both orders.
    """
    for size in sizes:
        yield from at_level(size, n, partial(draw_example, rng, task, range(size, size + 1)))


def extrapolation(rng, task: str):
    """Beyond training: 11-20 items, 4-5 digits, 4-6 hops, in equal parts."""
    sizes = TASKS[task].extrapolation
    return at_sizes(rng, task, sizes, math.ceil(500 / len(sizes)))


def systematic(rng):
    """One knob at a time: items 3-24, digits 1-6, hops 1-6, 100 rows at each value."""
    for task in standard_tasks():
        yield from at_sizes(rng, task, TASKS[task].systematic, 100)


def interpolation(rng):
    """The training range, unseen, drawn as validation is: a control that should equal it."""
    tasks = standard_tasks()
    return ((raw, size_of(raw)) for task in tasks for raw in held_out_rows(rng, task, "ood"))


def sequence_tasks() -> list[str]:
    """The tasks whose answer is a list of items as their prompt is, so that they can be chained."""
    return [task for task in standard_tasks() if TASKS[task].on_items]


def compositional(rng):
    """Trained tags in sequence, the right-most applied first; and sums of three.

    Not the whole but each step is held out: for `[rev] [sort] 3 1 2 | 3 2 1` training has neither
    `[sort] 3 1 2` nor `[rev] 1 2 3`. Only `rev sort` and `rev rev` need both rules; with the other
    pairs one rule alone gives the answer.
    """

    def draw_pair(outer, inner):
        while True:
            items = draw_items(rng)
            first = TASKS[inner].row(spaced(items))
            second = TASKS[outer].row(split_example(first)[2])
            if all(split_of(key_of(step)) == "ood" for step in (first, second)):
                return row(f"{outer}] [{inner}", spaced(items), split_example(second)[2])

    yield from at_level("three_addends", 100, lambda: add_row(*map(draw_number, [rng] * 3)))
    for outer, inner in product(sequence_tasks(), repeat=2):
        if outer != inner or outer == "rev":
            draw = partial(draw_pair, outer, inner)
            yield from at_level(f"{outer} {inner}", 100, draw, owner=None)


def novel_tasks(rng):
    """Untrained tags, a floor: difference, product, largest, how many, each once."""

    def draw(tag):
        small, large = sorted([draw_number(rng), draw_number(rng)])
        items = draw_items(rng)
        items = shuffled(rng, items[1:] + items[-1:])  # one at least occurs twice
        prompt, answer = {
            "sub": (f"{large} - {small}", [large - small]),
            "mul": (f"{large} * {small}", [large * small]),
            "max": (spaced(items), [max(items)]),
            "count": (spaced(items), [len(items)]),
            "dedup": (spaced(items), dict.fromkeys(items)),
        }[tag]
        return row(tag, prompt, spaced(answer))

    for tag in ("sub", "mul", "max", "count", "dedup"):
        yield from at_level(None, 100, partial(draw, tag))


def edge_cases(rng):
    """One item, all equal, sorted, reverse sorted; n + 0 and 0 + n; operands from 990 to 999.

    Single items are drawn whoever owns them: training starts at three items, and of the ten of one
    digit an eighth would leave one.
    """
    kinds = {
        "one_item": lambda items: items[:1],
        "all_equal": lambda items: items[:1] * len(items),
        "sorted": sorted,
        "reverse_sorted": lambda items: sorted(items, reverse=True),
    }

    def draw(task, kind):
        return TASKS[task].row(spaced(kinds[kind](draw_items(rng))))

    def draw_plus_zero():
        return add_row(*shuffled(rng, [draw_number(rng), 0]))

    def draw_largest():
        return add_row(pick(rng, range(990, 1000)), pick(rng, range(990, 1000)))

    yield from at_level("plus_zero", 100, draw_plus_zero)
    yield from at_level("largest", 100, draw_largest)
    for kind, task in product(kinds, sequence_tasks()):
        owner = None if kind == "one_item" else "ood"
        yield from at_level(kind, 50, partial(draw, task, kind), owner)


def robustness(rng):
    """Prompts written otherwise, answers as ever: wide gaps, leading zeros, no gaps around +."""
    kinds = {  # kind -> what it rewrites, into what
        "extra_spaces": (" ", lambda _: " " * pick(rng, (1, 2, 3))),
        "leading_zeros": (NUMBER, lambda number: "0" * pick(rng, (0, 1, 2)) + number[0]),
        "no_spaces": (" ", ""),
    }

    def draw(task, pattern, replacement):
        tag, prompt, answer = split_example(draw_example(rng, task))
        while (written := re.sub(pattern, replacement, prompt)) == prompt:
            pass
        return row(tag, written, answer)

    for kind, (pattern, replacement) in kinds.items():
        for task in (name for name in standard_tasks() if kind in TASKS[name].rewritings):
            yield from at_level(kind, 100, partial(draw, task, pattern, replacement))


SUITES = {  # suite -> its category and how it is drawn
    **{
        f"ood_extrap_{task}": ("extrapolation", partial(extrapolation, task=task))
        for task in standard_tasks()
    },
    "ood_interpolation": ("interpolation", interpolation),
    "ood_compositional": ("compositional", compositional),
    "ood_novel_tasks": ("novel_tasks", novel_tasks),
    "ood_edge_cases": ("edge_cases", edge_cases),
    "ood_robustness": ("robustness", robustness),
    "ood_systematic": ("systematic", systematic),
}


# ---------------------------------------------------------------------------
# Statistics
# ---------------------------------------------------------------------------


def file_statistics(pairs: list, content: bytes) -> dict:
    """What dataset_stats.json says of a file of (row, level) pairs: as a whole and by tag."""
    by_tag = {}
    for raw, level in pairs:
        by_tag.setdefault(split_example(raw)[0], []).append((raw, level))
    about = {"sha256": hashlib.sha256(content).hexdigest(), **row_statistics(pairs), "by_tag": {}}
    for tag, mine in sorted(by_tag.items()):
        digits = [
            len(number) for raw, _ in mine for number in NUMBER.findall(split_example(raw)[1])
        ]
        levels = [level for _, level in mine]
        about["by_tag"][tag] = row_statistics(mine) | {
            "rows_by_level": counted(levels),
            "prompt_numbers_by_digits": counted(digits),
        }
    return about


def row_statistics(pairs: list) -> dict:
    """Rows, examples, how often they repeat, and lengths in characters.

    A row is a line of the file. Rows whose canonical key and answer agree are one example.
    """
    raws = [raw for raw, _ in pairs]
    repeats = Counter((key_of(raw), split_example(raw)[2]) for raw in raws)
    prompts, answers = zip(*(split_example(raw)[1:] for raw in raws), strict=True)
    return {
        "rows": len(raws),
        "examples": len(repeats),
        "duplication_rate": round(1 - len(repeats) / len(raws), 4),
        "examples_by_repeat_count": counted(repeats.values()),
        "characters": {"prompt": spread(prompts), "answer": spread(answers), "row": spread(raws)},
    }


def spread(texts) -> dict:
    """Smallest, mean and largest length."""
    lengths = list(map(len, texts))
    mean = round(sum(lengths) / len(lengths), 2)
    return {"min": min(lengths), "mean": mean, "max": max(lengths)}


def counted(values) -> dict[str, int]:
    """How often each value occurs, in ascending order."""
    return {str(value): n for value, n in sorted(Counter(values).items())}


def overlaps(sets: dict[str, list]) -> list[dict]:
    """For every pair of files: keys in both, and the rows of each whose key is in both."""
    keys = {name: Counter(key_of(raw) for raw, _ in pairs) for name, pairs in sets.items()}
    return [
        {
            "files": [a, b],
            "shared_keys": len(shared := keys[a].keys() & keys[b].keys()),
            "rows_with_shared_keys": [sum(keys[name][key] for key in shared) for name in (a, b)],
        }
        for a, b in combinations(sets, 2)
    ]


# ---------------------------------------------------------------------------
# Files
# ---------------------------------------------------------------------------


def build_tokenizer(tasks) -> dict:
    """<pad> 0, <unk> 1, <eos> 2, then every character the tasks can have, by code point."""
    characters = set("[] |" + string.digits + "".join(tasks))
    characters.update(*(TASKS[name].characters for name in tasks if name in TASKS))
    itos = ["<pad>", "<unk>", "<eos>", *sorted(characters)]
    return {
        "stoi": {token: i for i, token in enumerate(itos)},
        "itos": {str(i): token for i, token in enumerate(itos)},
    }


def pickle_bytes(content: dict) -> bytes:
    """Without the memo, so that bytes depend on values and not on which strings are one object."""
    buffer = io.BytesIO()
    pickler = pickle.Pickler(buffer, protocol=4)
    pickler.fast = True
    pickler.dump(content)
    return buffer.getvalue()


def json_bytes(content: dict) -> bytes:
    return (json.dumps(content, indent=2) + "\n").encode("ascii")


def with_stats(
    files: dict[str, bytes], sets: dict[str, list], seed: int, options: dict | None = None
) -> dict[str, bytes]:
    """The files and dataset_stats.json, which describes those made of (row, level) pairs."""
    about = {name: file_statistics(pairs, files[name]) for name, pairs in sets.items()}
    stats = {"seed": seed, **(options or {}), "files": about, "overlap": overlaps(sets)}
    return files | {STATS: json_bytes(stats)}


def training_files(draw_sets, tasks, seed: int, options: dict | None = None) -> dict[str, bytes]:
    """File name -> content: a pickle for each set, the tokenizer and the statistics.

    The statistics begin with the seed and the options.
    """
    tokenizer = build_tokenizer(tasks)
    files, sets = {"tokenizer.json": json_bytes(tokenizer)}, {}
    for name, raws in draw_sets(seed).items():
        encoded = [[tokenizer["stoi"][character] for character in raw] for raw in raws]
        labels = [split_example(raw)[0] for raw in raws]
        files[f"{name}.pkl"] = pickle_bytes({"encoded": encoded, "labels": labels, "raw": raws})
        sets[f"{name}.pkl"] = [(raw, size_of(raw)) for raw in raws]
    return with_stats(files, sets, seed, options)


def own_files(spec: OwnSet, seed: int) -> dict[str, bytes]:
    """The files of one's own set. dataset_stats.json begins with what the set was asked to be."""
    by_count = {
        "examples_by_repeat_count": spec.examples,
        "corrupted_examples_by_repeat_count": spec.corrupted,
    }
    of_each_task = {
        "rows": spec.rows,
        "val_rows": spec.val_rows,
        **{key: dict(sorted(numbers.items())) for key, numbers in by_count.items()},
    }
    options = {
        "of_each_task": of_each_task,
        "corrupt": spec.corrupt,
        "sizes": {task: [sizes[0], sizes[-1]] for task, sizes in spec.sizes.items()},
    }
    return training_files(partial(draw_sets, spec), tuple(spec.sizes), seed, options)


def ood_files(seed: int) -> dict[str, bytes]:
    """The suites. `encoded` is empty: ids belong to one tokenizer, a suite serves every model."""
    files, sets = {}, {}
    for suite, (category, draw_suite) in SUITES.items():
        rng = random.Random(f"{seed} {suite}")
        pairs = shuffled(rng, draw_suite(rng))
        content = {
            "raw": [raw for raw, _ in pairs],
            "labels": [split_example(raw)[0] for raw, _ in pairs],
            "level": [level for _, level in pairs],
            "category": category,
            "count": len(pairs),
            "encoded": [],
        }
        files[f"{suite}.pkl"], sets[f"{suite}.pkl"] = pickle_bytes(content), pairs
    return with_stats(files, sets, seed)


PROCESSED = "train_normal.pkl train_dedup.pkl train_duplicated.pkl val.pkl tokenizer.json"
ADD_ONLY = "train.pkl val.pkl tokenizer.json"
PARTS = {  # part -> its folder, what makes its files, and which of them a command may ask for
    "processed": (
        "data/processed",
        partial(training_files, processed_sets, standard_tasks()),
        PROCESSED.split(),
    ),
    "add_only": (
        "data/add_only",
        partial(training_files, add_only_sets, ("add",)),
        ADD_ONLY.split(),
    ),
    "memorizer": (
        "data/memorizer",
        partial(training_files, memorizer_sets, ("add",)),
        ADD_ONLY.split(),
    ),
    "memorization": (
        "data/memorization",
        partial(training_files, memorization_sets, ("add",)),
        ADD_ONLY.split(),
    ),
    "ood": ("ood_data_complete", ood_files, [f"{suite}.pkl" for suite in SUITES]),
}


def make_standard_data(
    root: Path = ROOT, parts=tuple(PARTS), seed: int = SEED, only_missing: bool = False
) -> list[Path]:
    """Make the files of the given parts below root; return the paths written.

    A file that already holds the right bytes is left as it is, and with only_missing every file
    that exists. Several processes may do this at once.
    """
    return [
        path
        for part in parts
        for path in write_files(Path(root) / PARTS[part][0], PARTS[part][1](seed), only_missing)
    ]


def write_files(folder: Path, files: dict[str, bytes], only_missing: bool = False) -> list[Path]:
    """Write what is not there with the same bytes, or with only_missing not there at all."""
    written = []
    for name, content in files.items():
        path = folder / name
        if path.exists() and (only_missing or path.read_bytes() == content):
            continue
        write_atomically(path, content)
        written.append(path)
    return written


def make_missing(path: Path, root: Path = ROOT) -> list[Path]:
    """If path is a standard file that is missing, or the suites' folder without any suite, make it.

    Its part is made with it, files that exist are left alone. Returns the paths written: none where
    nothing is missing or path is no standard file.
    """
    path = Path(path).resolve()
    for part, (folder, _, names) in PARTS.items():
        home = (Path(root) / folder).resolve()
        files = [home / name for name in names]
        wanted = path in files and not path.exists()
        if wanted or (path == home and not any(home.glob("*.pkl"))):
            return make_standard_data(root, [part], only_missing=True)
    return []


# ---------------------------------------------------------------------------
# Command line
# ---------------------------------------------------------------------------


def tasks_text() -> str:
    """A line for each task."""
    lines = ["tasks, the sizes of their examples, and the sizes that --sizes may ask for:"]
    for name, task in TASKS.items():
        asked = f"{task.sizes[0]}-{task.sizes[-1]}"
        lines.append(f"  {name:12}  {task.help} ({task.sizes_text(task.training)}; {asked})")
    lines.append(f"The standard sets have {', '.join(standard_tasks())}.")
    return "\n".join(lines)


EXAMPLES = """\
    python data/generate.py                     # everything standard, in a few seconds
    python data/generate.py --only ood          # one part of it
    python data/generate.py --tasks add sort --out mine
    python data/generate.py --tasks add --rows 4000 --repeat_counts 1,4,16 --out repeated
"""


def build_parser() -> Parser:
    parser = Parser(
        "Write the standard training sets, validation sets and OOD suites, or with --tasks one's "
        f"own set.\n\n{EXAMPLES}\n{tasks_text()}"
    )
    only = {"nargs": "+", "choices": tuple(PARTS)}
    parser.add_argument("--only", **only, help="standard parts to write (default: all)")
    parser.add_argument(
        "--out",
        type=path,
        help="folder that gets data/ and ood_data_complete/ (default: beside the scripts); with "
        "--tasks, which need it, the folder that gets the files themselves",
    )
    seed = bounded(int, 0, MAX_SEED)
    parser.add_argument("--seed", type=seed, default=SEED, help="seed of every draw")
    add_flags(parser)
    return parser


def print_table(folder: Path, written: list[Path]) -> None:
    """One line for each file of rows."""
    stats = json.loads((folder / STATS).read_bytes())
    print(f"\n{folder!s:<44} {'rows':>7} {'examples':>8} {'kB':>6}")
    for name, file in stats["files"].items():
        kilobytes = (folder / name).stat().st_size // 1000
        state = "written" if folder / name in written else "unchanged"
        print(f"  {name:<42} {file['rows']:>7,} {file['examples']:>8,} {kilobytes:>6,}  {state}")


def check_replaceable(folder: Path, spec: OwnSet) -> None:
    """UserError where the folder has files that are of no own set, or of one with validation."""
    stats = folder / STATS
    own = stats.exists() and b'"of_each_task"' in stats.read_bytes()
    for name in (STATS, *ADD_ONLY.split()):
        stays = name == "val.pkl" and not spec.val_rows
        if (folder / name).exists() and (stays or not own):
            raise UserError(f"{folder / name} is of another set; move it or give another --out")


def check_readable(files: dict[str, bytes]) -> None:
    """UserError where a set has more bytes than a training run reads."""
    for name, flag in (("train.pkl", "--rows"), ("val.pkl", "--val_rows")):
        if len(files.get(name, b"")) > MAX_PICKLE_BYTES:
            raise UserError(
                f"{name} would have {len(files[name]):,} bytes, and a training run reads at most "
                f"{MAX_PICKLE_BYTES:,}; give fewer {flag} or smaller --sizes"
            )


def write_own_set(args) -> None:
    """Write one's own set and print what it holds; nothing is written where a flag is wrong."""
    if args.only:
        raise UserError("--only writes standard parts and --tasks one's own set; give one of them")
    if args.out is None:
        raise UserError("--tasks needs --out, the folder for its files")
    spec = own_set(args)
    check_writable(args.out, "--out")
    check_replaceable(args.out, spec)
    files = own_files(spec, args.seed)
    check_readable(files)
    # The statistics come first: they say whose the files are, also where the writing was cut short.
    files = dict(sorted(files.items(), key=lambda file: file[0] != STATS))
    print_table(args.out, write_files(args.out, files))
    if spec.corrupt:
        wrong, n = sum(spec.corrupted.values()), sum(spec.examples.values())
        print(f"wrong answers: {wrong:,} of {n:,} training examples of each task")
    command = ["python", ROOT / "train_minigpt_4070.py", "--data", args.out.resolve() / "train.pkl"]
    print("next:", shlex.join(map(str, command)))


def generate(args) -> None:
    """Write the parts asked for, or one's own set, and print what they hold."""
    if args.tasks:
        write_own_set(args)
        return
    for flag in FLAGS:
        if getattr(args, flag) is not None:
            raise UserError(f"--{flag} is of one's own set; name its --tasks")
    root = args.out or ROOT
    check_writable(root, "--out")
    for part in dict.fromkeys(args.only or PARTS):
        written = make_standard_data(root, [part], args.seed)
        print_table(root / PARTS[part][0], written)


def main(argv: list[str] | None = None) -> int:
    return run_main(lambda: generate(build_parser().parse_args(argv)))


if __name__ == "__main__":
    sys.exit(main())
