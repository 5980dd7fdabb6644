"""Generate the five tasks: the standard training and validation sets and the OOD suites.

    python data/generate.py                        # everything, in a few seconds
    python data/generate.py --only ood             # one part of it
    python data/generate.py --out /tmp/x --seed 7  # elsewhere, from other draws

One example is one line, `[tag] prompt | answer`, and characters are its tokens. The same seed gives
the same bytes on every machine and on Python 3.10 and later. Standard library only.

Every example has a canonical key, which it shares with other writings of the same example, and a
hash of that key alone says whether training, validation or the OOD suites own it. So training data
of any size and seed stays disjoint from every validation set and OOD suite.
"""

import argparse
import hashlib
import io
import json
import math
import pickle
import random
import re
import string
import sys
from collections import Counter
from functools import lru_cache, partial
from itertools import combinations, pairwise, product
from pathlib import Path

from runtime.files import ROOT, write_atomically

TASKS = ("copy", "rev", "add", "sort", "rel")  # in curriculum order
SEQUENCE_TASKS = ("copy", "rev", "sort")
SEED = 1337


def _sizes(items: range, digits: range, hops: range) -> dict[str, range]:
    return {"copy": items, "rev": items, "add": digits, "sort": items, "rel": hops}


TRAINING_SIZES = _sizes(items=range(3, 11), digits=range(1, 4), hops=range(1, 4))
EXTRAPOLATION_SIZES = _sizes(items=range(11, 21), digits=range(4, 6), hops=range(4, 7))
SYSTEMATIC_SIZES = _sizes(items=range(3, 25), digits=range(1, 7), hops=range(1, 7))
SHORTEST_CHAIN, LONGEST_CHAIN = 4, 8  # people in a rel chain
ROWS_PER_TASK = 10_000  # in each of the three training sets
REPEAT_COUNTS = (2, 4, 8, 16, 32)
ROWS_PER_REPEAT_COUNT = 680  # per task, so 3,400 over the five; 16 and 32 go into 672

# ---------------------------------------------------------------------------
# Examples: the parser, task families, canonical keys and who owns them
# ---------------------------------------------------------------------------


NUMBER = re.compile("[0-9]+")
EXAMPLE = re.compile(r"\[([^\[\]\n]+)\] (.*) \| (.*)")
REL_PROMPT = re.compile(r"([A-Z]>[A-Z](?: [A-Z]>[A-Z])*)\?(up|down) ([0-9]+) ([A-Z])")


def split_example(raw: str) -> tuple[str, str, str]:
    """Split `[tag] prompt | answer` into (tag, prompt, answer) at the last " | ".

    Prompt and answer come back character for character and may be empty. ValueError otherwise.

    >>> split_example("[rev] [sort] 3 1 2 | 3 2 1")
    ('rev', '[sort] 3 1 2', '3 2 1')
    """
    match = EXAMPLE.fullmatch(raw)
    if match is None:
        shown = raw if len(raw) <= 80 else raw[:77] + "..."
        raise ValueError(f"{shown!r} is not of the form '[tag] prompt | answer'")
    return match[1], match[2], match[3]


# A tag's family stands before its first underscore, by these names too in the earlier program.
ALIASES = {"copying": "copy", "reverse": "rev", "reversing": "rev", "adding": "add"}
ALIASES |= {"addition": "add", "sorting": "sort", "relation": "rel", "relational": "rel"}


def task_of_tag(tag: str) -> str | None:
    """The task family of a tag, None for an unknown one.

    >>> task_of_tag("sort_desc"), task_of_tag("sorting_extrap"), task_of_tag("max")
    ('sort', 'sort', None)
    """
    head = tag.split("_")[0]
    task = ALIASES.get(head, head)
    return task if task in TASKS else None


def canonical_tag(tag: str) -> str:
    """The trained tag for a tag of the earlier program; unknown tags come back unchanged.

    So does a descending sort: `sort` stands for another rule.

    >>> canonical_tag("reversing_extrap"), canonical_tag("sort_desc"), canonical_tag("max")
    ('rev', 'sort_desc', 'max')
    """
    return tag if "desc" in tag.split("_") else task_of_tag(tag) or tag


def canonical_key(tag: str, prompt: str) -> str:
    """A text that two prompts share exactly when they are writings of one example.

    add: the unordered pair; sort: the multiset; copy, rev: the sequence; rel: the set of facts and
    the question; all without leading zeros and spare spaces. A prompt outside its family's grammar,
    or of no family, keys on its text with every run of whitespace made one space. Never raises.

    >>> canonical_key("add", "465 + 041"), canonical_key("sort", "27 5  9")
    ('[add] 41 + 465', '[sort] 5 9 27')
    >>> canonical_key("rel", "K>A F>B B>K ? up 2 A")
    '[rel] B>K F>B K>A ? up 2 A'
    """
    task, text = task_of_tag(tag), " ".join(prompt.split())
    if task in SEQUENCE_TASKS and re.fullmatch(r"[0-9]+( [0-9]+)*", text):
        items = [plain_number(word) for word in text.split()]
        text = spaced(sorted(items, key=by_value) if task == "sort" else items)
    elif task == "add" and (match := re.fullmatch(r"([0-9]+) ?\+ ?([0-9]+)", text)):
        text = " + ".join(sorted(map(plain_number, match.groups()), key=by_value))
    elif task == "rel" and (match := REL_PROMPT.fullmatch(re.sub(r" ?([>?]) ?", r"\1", text))):
        facts, direction, hops, person = match.groups()
        facts = spaced(sorted(set(facts.split())))
        text = f"{facts} ? {direction} {plain_number(hops)} {person}"
    return f"[{tag}] {text}"


@lru_cache(maxsize=2**18)
def key_of(raw: str) -> str:
    """The canonical key of a whole row."""
    tag, prompt, _ = split_example(raw)
    return canonical_key(tag, prompt)


def plain_number(digits: str) -> str:
    """Without leading zeros; as text, because int() refuses very long numbers."""
    return digits.lstrip("0") or "0"


def by_value(digits: str) -> tuple[int, str]:
    """Orders plain numbers by value."""
    return len(digits), digits


def spaced(words) -> str:
    return " ".join(map(str, words))


# The largest sums, 999 + 999 among them, are an edge case to test: no training set may have them.
RESERVED_FOR_OOD = {f"[add] {a} + {b}" for a in range(990, 1000) for b in range(a, 1000)}


def split_of(key: str) -> str:
    """Who owns a canonical key: "train" (six eighths of all keys), "val" (one) or "ood" (one)."""
    if key in RESERVED_FOR_OOD:
        return "ood"
    eighth = hashlib.sha256(key.encode("utf-8", "replace")).digest()[0] // 32
    return {0: "val", 1: "ood"}.get(eighth, "train")


# ---------------------------------------------------------------------------
# The five tasks: what is answered
# ---------------------------------------------------------------------------


def answer_copy(items: list[int]) -> list[int]:
    """`[copy] 5 27 9 | 5 27 9`: the items in the order given.

    >>> answer_copy([5, 27, 9])
    [5, 27, 9]
    >>> answer_copy([0, 0, 314, 7])
    [0, 0, 314, 7]
    """
    return items


def answer_rev(items: list[int]) -> list[int]:
    """`[rev] 5 27 9 | 9 27 5`: the items from last to first; an item's digits keep their order.

    >>> answer_rev([5, 27, 9])
    [9, 27, 5]
    >>> answer_rev([0, 0, 314, 7])
    [7, 314, 0, 0]
    """
    return items[::-1]


def answer_add(addends: list[int]) -> int:
    """`[add] 41 + 465 | 506`: the sum; of two operands in training, of three in one OOD suite.

    >>> answer_add([41, 465])
    506
    >>> answer_add([12, 7, 105])
    124
    """
    return sum(addends)


def answer_sort(items: list[int]) -> list[int]:
    """`[sort] 5 27 9 | 5 9 27`: the items in ascending order of value, equal ones kept.

    >>> answer_sort([5, 27, 9])
    [5, 9, 27]
    >>> answer_sort([7, 314, 0, 7])
    [0, 7, 7, 314]
    """
    return sorted(items)


def answer_rel(facts: list[str], direction: str, hops: int, person: str) -> str:
    """`[rel] B>K F>B K>A ? up 2 A | B`: who is so many generations above or below a person.

    `X>Y` says that X is the parent of Y; `up 2 A` asks for A's grandparent, `down 2 A` for A's
    grandchild.

    >>> answer_rel(["B>K", "F>B", "K>A"], "up", 2, "A")
    'B'
    >>> answer_rel(["B>K", "Q>Z", "F>B"], "down", 1, "F")
    'B'
    """
    step = {}
    for parent, child in (fact.split(">") for fact in facts):
        step |= {child: parent} if direction == "up" else {parent: child}
    for _ in range(hops):
        person = step[person]
    return person


ANSWER_SEQUENCE = {"copy": answer_copy, "rev": answer_rev, "sort": answer_sort}

# ---------------------------------------------------------------------------
# The five tasks: how examples are drawn. Chance comes from Random.random() alone, whose stream no
# version of Python changes.
# ---------------------------------------------------------------------------


def pick(rng, choices):
    """One element of a sequence, uniformly."""
    return choices[int(rng.random() * len(choices))]


def shuffled(rng, values) -> list:
    """A shuffled copy (Fisher-Yates)."""
    values = list(values)
    for i in range(len(values) - 1, 0, -1):
        j = int(rng.random() * (i + 1))
        values[i], values[j] = values[j], values[i]
    return values


def draw_number(rng, n_digits: int | None = None) -> int:
    """A number of n_digits digits, uniformly; by default 1-3 digits, uniformly. 0 has one digit."""
    n_digits = n_digits or pick(rng, TRAINING_SIZES["add"])
    return pick(rng, range(10 ** (n_digits - 1) if n_digits > 1 else 0, 10**n_digits))


def draw_items(rng, n_items: int | None = None) -> list[int]:
    """Items of a sequence, by default 3-10: 60 % have one digit, 30 % two, 10 % three."""
    n_items = n_items or pick(rng, TRAINING_SIZES["copy"])
    return [draw_number(rng, pick(rng, (1,) * 6 + (2,) * 3 + (3,))) for _ in range(n_items)]


def draw_rel(rng, hops: int | None = None) -> str:
    """A rel row: the facts of one chain and 0-2 facts about other people, shuffled.

    The chain has 4-8 people, uniformly, but at least two more than hops: so the answer is never
    bound to be the end of the chain. At a given number of hops it has 8, so that nothing but the
    hops changes with them, and even 6 hops run along a chain no longer than trained ones. Direction
    and start are uniform over what the chain allows. Each further fact is about two fresh letters,
    so it cannot touch the answer.
    """
    shortest = LONGEST_CHAIN if hops else SHORTEST_CHAIN
    hops = hops or pick(rng, TRAINING_SIZES["rel"])
    n_people = pick(rng, range(max(shortest, hops + 2), LONGEST_CHAIN + 1))
    letters = shuffled(rng, string.ascii_uppercase)
    chain, others = letters[:n_people], letters[n_people:]
    pairs = [*pairwise(chain), (others[0], others[1]), (others[2], others[3])]
    n_facts = n_people - 1 + pick(rng, (0, 1, 2))
    facts = shuffled(rng, [f"{parent}>{child}" for parent, child in pairs[:n_facts]])
    direction = pick(rng, ("up", "down"))
    person = pick(rng, chain[hops:] if direction == "up" else chain[:-hops])
    answer = answer_rel(facts, direction, hops, person)
    return row("rel", f"{spaced(facts)} ? {direction} {hops} {person}", answer)


def draw_example(rng, task: str, size: int | None = None) -> str:
    """A row of a task from its training range, or at a given number of items, digits or hops."""
    if task == "add":
        return add_row(draw_number(rng, size), draw_number(rng, size))
    if task == "rel":
        return draw_rel(rng, size)
    return sequence_row(task, draw_items(rng, size))


def size_of(raw: str) -> int:
    """The number of items, digits (of the longer operand) or hops in a row of the five tasks."""
    task, prompt, _ = split_example(raw)
    words = prompt.split()
    if task == "add":
        return max(map(len, words))
    return int(words[-2]) if task == "rel" else len(words)


def row(tag: str, prompt: str, answer) -> str:
    return f"[{tag}] {prompt} | {spaced(answer) if isinstance(answer, list) else answer}"


def sequence_row(task: str, items: list[int]) -> str:
    return row(task, spaced(items), ANSWER_SEQUENCE[task](items))


def add_row(*addends: int) -> str:
    return row("add", " + ".join(map(str, addends)), answer_add(addends))


def take(n: int, draw, owner: str | None, by_key: bool = False) -> list[str]:
    """The first n new rows of draw() whose key `owner` owns; None takes every row.

    New is a row that was not there yet or, by key, an example that was not. Where n do not exist,
    it takes what does: it gives up after 3,000 draws without a new one.
    """
    rows, misses = {}, 0
    while len(rows) < n and misses < 3000:
        raw = draw()
        key = key_of(raw)
        misses += 1
        if owner in (None, split_of(key)) and (key if by_key else raw) not in rows:
            rows[key if by_key else raw] = raw
            misses = 0
    return list(rows.values())


# ---------------------------------------------------------------------------
# Training and validation sets
# ---------------------------------------------------------------------------


def training_rows(task: str, seed: int) -> dict[str, list[str]]:
    """The 10,000 rows of one task in each training set, all from one stream of draws.

    normal: the first draws, duplicates as they fall. dedup: the stream read on until it has given
    enough distinct examples. duplicated: examples of dedup chosen at random, whatever their
    difficulty, some of them repeated; so it differs from dedup only in which rows repeat.

    Distinct means by canonical key: 5 + 3 would be a second dose of 3 + 5. Short sums are few (55
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
    """500 rows from the training range with distinct keys, owned by "val" or "ood"."""
    return take(500, partial(draw_example, rng, task), owner, by_key=True)


def processed_sets(seed: int) -> dict[str, list[str]]:
    """Three training sets of 50,000 rows and one validation set of 2,500, shuffled."""
    sets = {name: [] for name in ("train_normal", "train_dedup", "train_duplicated", "val")}
    for task in TASKS:
        for name, rows in training_rows(task, seed).items():
            sets[name] += rows
        sets["val"] += held_out_rows(random.Random(f"{seed} val {task}"), task, "val")
    return {name: shuffled(random.Random(f"{seed} {name}"), rows) for name, rows in sets.items()}


def add_only_sets(seed: int) -> dict[str, list[str]]:
    """5,000 distinct sums over operands 0-99 for training, 500 others for validation.

    There are only 5,050 unordered pairs, so a training set without the validation pairs has to hold
    some in both orders: its rows are distinct, its keys are not. Those of validation are.
    """

    def draw(rng):
        return add_row(pick(rng, range(100)), pick(rng, range(100)))

    train_rng, val_rng = random.Random(f"{seed} add_only"), random.Random(f"{seed} add_only val")
    return {
        "train": take(5000, partial(draw, train_rng), "train"),
        "val": take(500, partial(draw, val_rng), "val", by_key=True),
    }


# ---------------------------------------------------------------------------
# OOD suites: pairs (row, level). "ood" owns their keys even where training could not draw them, and
# rows are distinct within a level; compositional and one_item say why they differ.
# ---------------------------------------------------------------------------


def at_level(level, n: int, draw, owner: str | None = "ood"):
    """n rows, each with the level."""
    return ((raw, level) for raw in take(n, draw, owner))


def at_sizes(rng, tasks, sizes: dict[str, range], n: int):
    """n rows at each number of items, digits (of both operands) or hops.

    Only sums of one digit are fewer: of 55 pairs the suites own about an eighth, in both orders.
    """
    for task in tasks:
        for size in sizes[task]:
            yield from at_level(size, n, partial(draw_example, rng, task, size))


def extrapolation(rng, task: str):
    """Beyond training: 11-20 items, 4-5 digits, 4-6 hops, in equal parts."""
    n = math.ceil(500 / len(EXTRAPOLATION_SIZES[task]))
    return at_sizes(rng, [task], EXTRAPOLATION_SIZES, n)


def systematic(rng):
    """One knob at a time: items 3-24, digits 1-6, hops 1-6, 100 rows at each value."""
    return at_sizes(rng, TASKS, SYSTEMATIC_SIZES, 100)


def interpolation(rng):
    """The training range, unseen, drawn as validation is: a control that should equal it."""
    return ((raw, size_of(raw)) for task in TASKS for raw in held_out_rows(rng, task, "ood"))


def compositional(rng):
    """Trained tags in sequence, the right-most applied first; and sums of three.

    Not the whole but each step is held out: for `[rev] [sort] 3 1 2 | 3 2 1` training has neither
    `[sort] 3 1 2` nor `[rev] 1 2 3`. Only `rev sort` and `rev rev` need both rules; with the other
    pairs one rule alone gives the answer.
    """

    def draw_pair(outer, inner):
        while True:
            items = draw_items(rng)
            between = ANSWER_SEQUENCE[inner](items)
            steps = sequence_row(inner, items), sequence_row(outer, between)
            if all(split_of(key_of(step)) == "ood" for step in steps):
                return row(f"{outer}] [{inner}", spaced(items), ANSWER_SEQUENCE[outer](between))

    yield from at_level("three_addends", 100, lambda: add_row(*map(draw_number, [rng] * 3)))
    for outer, inner in product(SEQUENCE_TASKS, repeat=2):
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
            "sub": (f"{large} - {small}", large - small),
            "mul": (f"{large} * {small}", large * small),
            "max": (spaced(items), max(items)),
            "count": (spaced(items), len(items)),
            "dedup": (spaced(items), list(dict.fromkeys(items))),
        }[tag]
        return row(tag, prompt, answer)

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
        return sequence_row(task, kinds[kind](draw_items(rng)))

    def draw_plus_zero():
        return add_row(*shuffled(rng, [draw_number(rng), 0]))

    def draw_largest():
        return add_row(pick(rng, range(990, 1000)), pick(rng, range(990, 1000)))

    yield from at_level("plus_zero", 100, draw_plus_zero)
    yield from at_level("largest", 100, draw_largest)
    for kind, task in product(kinds, SEQUENCE_TASKS):
        owner = None if kind == "one_item" else "ood"
        yield from at_level(kind, 50, partial(draw, task, kind), owner)


def robustness(rng):
    """Prompts written otherwise, answers as ever: wide gaps, leading zeros, no gaps around +."""
    numeric = ("copy", "rev", "add", "sort")
    kinds = {  # kind -> what it rewrites, into what, in which tasks
        "extra_spaces": (" ", lambda _: " " * pick(rng, (1, 2, 3)), TASKS),
        "leading_zeros": (NUMBER, lambda number: "0" * pick(rng, (0, 1, 2)) + number[0], numeric),
        "no_spaces": (" ", "", ("add",)),
    }

    def draw(task, pattern, replacement):
        tag, prompt, answer = split_example(draw_example(rng, task))
        while (written := re.sub(pattern, replacement, prompt)) == prompt:
            pass
        return row(tag, written, answer)

    for kind, (pattern, replacement, tasks) in kinds.items():
        for task in tasks:
            yield from at_level(kind, 100, partial(draw, task, pattern, replacement))


SUITES = {  # suite -> its category and how it is drawn
    **{f"ood_extrap_{t}": ("extrapolation", partial(extrapolation, task=t)) for t in TASKS},
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


def describe(pairs: list, content: bytes) -> dict:
    """What dataset_stats.json says of a file of (row, level) pairs: as a whole and by tag."""
    by_tag = {}
    for raw, level in pairs:
        by_tag.setdefault(split_example(raw)[0], []).append((raw, level))
    about = {"sha256": hashlib.sha256(content).hexdigest(), **describe_rows(pairs), "by_tag": {}}
    for tag, mine in sorted(by_tag.items()):
        digits = [
            len(number) for raw, _ in mine for number in NUMBER.findall(split_example(raw)[1])
        ]
        levels = [level for _, level in mine]
        about["by_tag"][tag] = describe_rows(mine) | {
            "rows_by_level": counted(levels),
            "prompt_numbers_by_digits": counted(digits),
        }
    return about


def describe_rows(pairs: list) -> dict:
    """Rows, duplicates and lengths in characters."""
    raws = [raw for raw, _ in pairs]
    repeats = Counter(raws)
    prompts, answers = zip(*(split_example(raw)[1:] for raw in raws), strict=True)
    return {
        "rows": len(raws),
        "distinct_rows": len(repeats),
        "distinct_keys": len(set(map(key_of, repeats))),
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
    characters |= set("+") if "add" in tasks else set()
    characters |= set(">?" + "up" + "down" + string.ascii_uppercase) if "rel" in tasks else set()
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


def with_stats(files: dict[str, bytes], sets: dict[str, list], seed: int) -> dict[str, bytes]:
    """The files and dataset_stats.json, which describes those made of (row, level) pairs."""
    about = {name: describe(pairs, files[name]) for name, pairs in sets.items()}
    stats = {"seed": seed, "files": about, "overlap": overlaps(sets)}
    return files | {"dataset_stats.json": json_bytes(stats)}


def training_files(draw_sets, tasks, seed: int) -> dict[str, bytes]:
    """File name -> content: a pickle for each set, the tokenizer and the statistics."""
    tokenizer = build_tokenizer(tasks)
    files, sets = {"tokenizer.json": json_bytes(tokenizer)}, {}
    for name, raws in draw_sets(seed).items():
        encoded = [[tokenizer["stoi"][character] for character in raw] for raw in raws]
        labels = [split_example(raw)[0] for raw in raws]
        files[f"{name}.pkl"] = pickle_bytes({"encoded": encoded, "labels": labels, "raw": raws})
        sets[f"{name}.pkl"] = [(raw, size_of(raw)) for raw in raws]
    return with_stats(files, sets, seed)


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
        partial(training_files, processed_sets, TASKS),
        PROCESSED.split(),
    ),
    "add_only": (
        "data/add_only",
        partial(training_files, add_only_sets, ("add",)),
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
    written = []
    for part in parts:
        folder, build, _ = PARTS[part]
        for name, content in build(seed).items():
            path = Path(root) / folder / name
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


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Write the standard training sets, validation sets and OOD suites.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    only = {"nargs": "+", "choices": tuple(PARTS), "default": tuple(PARTS)}
    parser.add_argument("--only", **only, help="the parts to write")
    out_help = "folder that gets data/ and ood_data_complete/"
    parser.add_argument("--out", type=Path, default=ROOT, help=out_help)
    parser.add_argument("--seed", type=int, default=SEED, help="seed of every draw")
    return parser


def print_table(folder: Path, written: list[Path]) -> None:
    """One line for each file of rows."""
    stats = json.loads((folder / "dataset_stats.json").read_bytes())
    print(f"\n{folder!s:<44} {'rows':>7} {'distinct':>8} {'kB':>6}")
    for name, file in stats["files"].items():
        kilobytes = (folder / name).stat().st_size // 1000
        state = "written" if folder / name in written else "unchanged"
        print(
            f"  {name:<42} {file['rows']:>7,} {file['distinct_rows']:>8,} {kilobytes:>6,}  {state}"
        )


def main() -> int:
    args = build_parser().parse_args()
    for part in dict.fromkeys(args.only):
        try:
            written = make_standard_data(args.out, [part], args.seed)
        except OSError as error:
            problem = f"{error.filename or args.out} cannot be written ({error.strerror})"
            print(f"error: {problem}; give --out a folder that can be.", file=sys.stderr)
            return 2
        print_table(args.out / PARTS[part][0], written)
    return 0


if __name__ == "__main__":
    sys.exit(main())
