"""The five tasks: what an example is, what is answered, how one is drawn, and who owns it.

One example is one line, `[tag] prompt | answer`, and characters are its tokens. Every example has a
canonical key, which it shares with other writings of the same example, and a hash of that key alone
says whether training, validation or the OOD suites own it. So training data of any size and seed
stays disjoint from every validation set and OOD suite. Standard library only.
"""

import hashlib
import re
import string
from functools import lru_cache
from itertools import pairwise

TASKS = ("copy", "rev", "add", "sort", "rel")  # in curriculum order
SEQUENCE_TASKS = ("copy", "rev", "sort")


def _sizes(items: range, digits: range, hops: range) -> dict[str, range]:
    return {"copy": items, "rev": items, "add": digits, "sort": items, "rel": hops}


TRAINING_SIZES = _sizes(items=range(3, 11), digits=range(1, 4), hops=range(1, 4))
EXTRAPOLATION_SIZES = _sizes(items=range(11, 21), digits=range(4, 6), hops=range(4, 7))
SYSTEMATIC_SIZES = _sizes(items=range(3, 25), digits=range(1, 7), hops=range(1, 7))
SHORTEST_CHAIN, LONGEST_CHAIN = 4, 8  # people in a rel chain


# ----------------------------------------------------------------------------------------------
# Examples: the parser, task families, canonical keys and who owns them
# ----------------------------------------------------------------------------------------------


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


# ----------------------------------------------------------------------------------------------
# What is answered
# ----------------------------------------------------------------------------------------------


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


# ----------------------------------------------------------------------------------------------
# How examples are drawn. Chance comes from Random.random() alone, whose stream no version of
# Python changes.
# ----------------------------------------------------------------------------------------------


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
