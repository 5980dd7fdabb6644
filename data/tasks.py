"""The tasks, one record each: what an example is, what is answered, how one is drawn, who owns it.

One example is one line, `[tag] prompt | answer`, and characters are its tokens. Every example has a
canonical key, which it shares with other writings of the same example, and a hash of that key alone
says whether training, validation or the OOD suites own it. So training data of any size and seed
stays disjoint from every validation set and OOD suite.

A new task is one more record in TASKS, at the end of this file. The generator, the keys, the split,
the tokenizer, the curriculum, the figures, the suites and --help follow. Standard library only.
"""

import hashlib
import itertools
import math
import re
import string
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise

ITEMS, DIGITS, HOPS = range(3, 11), range(1, 4), range(1, 4)  # in training
SHORTEST_CHAIN, LONGEST_CHAIN = 4, 8  # people in a rel chain


# ----------------------------------------------------------------------------------------------
# Rows and their parts
# ----------------------------------------------------------------------------------------------


NUMBER = re.compile("[0-9]+")
EXAMPLE = re.compile(r"\[([^\[\]\n]+)\] (.*) \| (.*)")
ITEMS_PROMPT = re.compile(r"[0-9]+( [0-9]+)*")
ADD_PROMPT = re.compile(r"([0-9]+) ?\+ ?([0-9]+)")
REL_PROMPT = re.compile(r"([A-Z]>[A-Z](?: [A-Z]>[A-Z])*)\?(up|down) ([0-9]+) ([A-Z])")
MOD_PROMPT = re.compile(r"([0-9]+) ?([-+*]) ?([0-9]+) mod ([0-9]+)")
RECALL_PROMPT = re.compile(r"([A-Z][0-9](?: [A-Z][0-9])*) ?\? ?([A-Z])")
QUESTION = re.compile(r"(up|down)(\s+)([0-9]+)(\s+)([A-Z])(?=\s*$)")  # at the end of a prompt


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


def row(tag: str, prompt: str, answer: str) -> str:
    return f"[{tag}] {prompt} | {answer}"


def plain_number(digits: str) -> str:
    """Without leading zeros; as text, because int() refuses very long numbers."""
    return digits.lstrip("0") or "0"


def by_value(digits: str) -> tuple[int, str]:
    """Orders plain numbers by value."""
    return len(digits), digits


def spaced(words) -> str:
    return " ".join(map(str, words))


# ----------------------------------------------------------------------------------------------
# Chance. It comes from Random.random() alone, whose stream no version of Python changes.
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


def one_of(rng, sizes: range) -> int:
    """One size, uniformly; a single one needs no chance."""
    return sizes[0] if len(sizes) == 1 else pick(rng, sizes)


def draw_number(rng, n_digits: int | None = None) -> int:
    """A number of n_digits digits, uniformly; by default 1-3 digits, uniformly. 0 has one digit."""
    n_digits = n_digits or pick(rng, DIGITS)
    if n_digits > 15:  # more numbers than random() has values
        further = (pick(rng, string.digits) for _ in range(n_digits - 15))
        return int(str(draw_number(rng, 15)) + "".join(further))
    return pick(rng, range(10 ** (n_digits - 1) if n_digits > 1 else 0, 10**n_digits))


def draw_items(rng, sizes: range = ITEMS) -> list[int]:
    """Items of a sequence: 60 % have one digit, 30 % two, 10 % three."""
    n_items = one_of(rng, sizes)
    return [draw_number(rng, pick(rng, (1,) * 6 + (2,) * 3 + (3,))) for _ in range(n_items)]


# ----------------------------------------------------------------------------------------------
# Legal answers. Memorization is measured against chance over all answers of an answer's form:
# numbers with as many digits, or a letter.
# ----------------------------------------------------------------------------------------------


def widths(answer: str) -> list[int]:
    """How many digits each number of an answer has.

    ValueError where the answer is not a list of numbers, one space between two, none with leading
    zeros: it is then no legal answer of its own form.

    >>> widths("5 27 0 314")
    [1, 2, 1, 3]
    """
    words = answer.split(" ")
    if not all(NUMBER.fullmatch(word) and word == plain_number(word) for word in words):
        raise ValueError(f"{answer[:80]!r} is not a list of plain numbers")
    return list(map(len, words))


def n_number_lists(answer: str) -> int:
    """How many lists have as many numbers as `answer`, each with as many digits.

    There are 10 numbers of one digit and 9 * 10 ** (d - 1) of d digits.

    >>> n_number_lists("7"), n_number_lists("506"), n_number_lists("5 27")
    (10, 900, 900)
    """
    return math.prod(10 if d == 1 else 9 * 10 ** (d - 1) for d in widths(answer))


def draw_number_list(rng, answer: str) -> str:
    """One of those lists, uniformly: digit by digit, so that a number may have any length."""

    def draw(n_digits):
        first = pick(rng, "0123456789" if n_digits == 1 else "123456789")
        return first + "".join(pick(rng, "0123456789") for _ in range(n_digits - 1))

    return spaced(map(draw, widths(answer)))


def number_lists(answer: str) -> Iterator[str]:
    """All of those lists in ascending order; n_number_lists(answer) says beforehand how many.

    >>> list(number_lists("7 3"))[8:12]
    ['0 8', '0 9', '1 0', '1 1']
    """
    words = (("0" if d == 1 else "1" + "0" * (d - 1), "9" * d) for d in widths(answer))
    ranges = [range(int(low), int(high) + 1) for low, high in words]
    return _lists(ranges)


def _lists(ranges: list[range]) -> Iterator[str]:
    """As itertools.product, which would first write out every range."""
    if not ranges:
        yield ""
        return
    for first in ranges[0]:
        for rest in _lists(ranges[1:]):
            yield f"{first} {rest}" if rest else str(first)


def n_letters(answer: str) -> int:
    """26, for an answer of one capital letter; ValueError for another.

    >>> n_letters("B")
    26
    """
    if len(answer) != 1 or answer not in string.ascii_uppercase:
        raise ValueError(f"{answer[:80]!r} is not a capital letter")
    return len(string.ascii_uppercase)


def draw_letter(rng, answer: str) -> str:
    """A capital letter, uniformly."""
    n_letters(answer)
    return pick(rng, string.ascii_uppercase)


def letters(answer: str) -> Iterator[str]:
    """A to Z."""
    n_letters(answer)
    return iter(string.ascii_uppercase)


# ----------------------------------------------------------------------------------------------
# The record
# ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Task:
    """Everything the program knows of a task. A size is a number of `unit`."""

    name: str  # also its trained tag
    help: str  # what is answered, in a few words
    examples: tuple[str, str]  # two worked rows
    unit: str  # what a size counts: items, digits (of the longer operand), hops, pairs, modulus
    training: range  # sizes in training and validation
    sizes: range  # sizes that a command may ask for
    draw: Callable[..., str]  # (rng, sizes) -> prompt of one of these sizes
    answer: Callable[[str], str]  # prompt -> answer; ValueError where the prompt has none
    # A prompt without spare spaces -> what all writings of the example share; None where the prompt
    # is outside the task's grammar.
    key: Callable[[str], str | None]
    size_of: Callable[[str], int]  # prompt -> size; ValueError where it has none
    edit: Callable[..., str]  # (rng, prompt) -> prompt of another key, under the same rule
    characters: str = ""  # of prompts and answers, besides digits and spaces
    standard: bool = False  # one of the tasks of the standard sets and of the suites
    extrapolation: range = range(0)  # sizes beyond training, in the suite ood_extrap_<name>
    systematic: range = range(0)  # sizes in ood_systematic
    aliases: tuple[str, ...] = ()  # the task's names in the earlier program
    same_rule: tuple[str, ...] = ()  # words after the tag's first that keep the rule
    same_key: tuple[str, ...] = ()  # words that change the rule, but not which prompts are equal
    # How the robustness suite may write a prompt otherwise while the answer stays (see generate).
    rewritings: tuple[str, ...] = ("extra_spaces", "leading_zeros")
    # The rule from a list of items to a list of items; such tasks can follow each other.
    on_items: Callable[[list[int]], list[int]] | None = None
    # Of an answer's form: how many answers there are, one of them uniformly, and all of them.
    # ValueError where the answer is not of the task's form. Whoever enumerates bounds the number.
    n_legal: Callable[[str], int] = n_number_lists
    draw_legal: Callable[..., str] = draw_number_list  # (rng, answer) -> answer
    legal_answers: Callable[[str], Iterator[str]] = number_lists

    def row(self, prompt: str) -> str:
        """The row of a prompt, with the rule's answer."""
        return row(self.name, prompt, self.answer(prompt))

    def sizes_text(self, sizes: range) -> str:
        """`1-2 digits`, `1 digit`, `modulus 97`: a modulus is no number of anything."""
        text = "-".join(f"{size:,}" for size in dict.fromkeys((sizes[0], sizes[-1])))
        if self.unit == "modulus":
            return f"{'moduli' if len(sizes) > 1 else 'modulus'} {text}"
        return f"{text} {self.unit if sizes[-1] > 1 else self.unit.removesuffix('s')}"

    def perturb(self, rng, prompt: str) -> tuple[str, str]:
        """(prompt, answer) of another example: a small edit, answered by the same rule.

        ValueError where the prompt has no answer, or no edit is left.
        """
        self.answer(prompt)
        edited = self.edit(rng, prompt)
        return edited, self.answer(edited)


TASKS: dict[str, Task] = {}  # name -> record in curriculum order; filled at the end of this file


def standard_tasks() -> tuple[str, ...]:
    """The names of the tasks that the standard sets and the OOD suites are made of."""
    return tuple(name for name, task in TASKS.items() if task.standard)


# ----------------------------------------------------------------------------------------------
# Tags, canonical keys and who owns them
# ----------------------------------------------------------------------------------------------

# Words of a tag after its first that say where an example is from, and change no rule.
NEUTRAL_WORDS = frozenset({"extrap", "extrapolation", "interp", "interpolation", "ood", "id"})
NEUTRAL_WORDS |= {"long", "longer", "short", "shorter", "train", "val", "test"}


def task_of_tag(tag: str) -> str | None:
    """The task family of a tag, by its first words, as many as make the name of a task; None for
    an unknown one, and for a composition of the earlier program (`copy_then_sort`).

    >>> task_of_tag("sort_desc"), task_of_tag("sorting_extrap"), task_of_tag("max")
    ('sort', 'sort', None)
    >>> task_of_tag("add_twice"), task_of_tag("add_reversed_extrap")
    ('add', 'add_reversed')
    """
    return _task_and_words(tag)[0]


def _task_and_words(tag: str) -> tuple[str | None, list[str]]:
    """The task family of a tag and the tag's further words."""
    words = tag.split("_")
    if "then" not in words or tag in TASKS:
        for n in range(len(words), 0, -1):
            head = "_".join(words[:n])
            for name, task in TASKS.items():
                if head in (name, *task.aliases):
                    return name, words[n:]
    return None, words


def _has_only(words, tag: str) -> bool:
    return NEUTRAL_WORDS.union(words).issuperset(_task_and_words(tag)[1])


def canonical_tags(tag: str) -> tuple[str, ...]:
    """The trained tags for a tag of the earlier program, the right-most applied first.

    One for a task, several for a composition. A tag with any word that may change the rule comes
    back unchanged, as does an unknown one.

    >>> canonical_tags("reversing_extrap"), canonical_tags("copy_then_sort")
    (('rev',), ('sort', 'copy'))
    >>> canonical_tags("sort_desc"), canonical_tags("add_twice"), canonical_tags("max")
    (('sort_desc',), ('add_twice',), ('max',))
    """
    if tag in TASKS:
        return (tag,)
    parts, tasks = tag.split("_then_"), []
    for part in parts:
        task = TASKS.get(task_of_tag(part))
        if task is None or not _has_only(task.same_rule, part):
            return (tag,)
        if len(parts) > 1 and task.on_items is None:
            return (tag,)
        tasks.append(task.name)
    return tuple(reversed(tasks))


@lru_cache(maxsize=4096)  # asked for every row, of few tags
def keyed_task(tag: str) -> Task | None:
    """The task by whose rule prompts of a tag are equal.

    None for an unknown tag, and for one whose further words may stand for another rule: in
    `[add_twice] 3 + 5` order counts, in `[sort_first] 3 1 2` too.
    """
    task = TASKS.get(task_of_tag(tag))
    if task and (tag == task.name or _has_only(task.same_rule + task.same_key, tag)):
        return task
    return None


def canonical_key(tag: str, prompt: str) -> str:
    """A text that two prompts share exactly when they are writings of one example.

    add and its formats, gcd: the unordered pair; sort: the multiset; copy, rev: the sequence; rel,
    recall: the set of facts or pairs, and the question; mod: operands, whose order counts in a
    difference only, operator and modulus; all without leading zeros and spare spaces. A prompt
    outside its task's grammar, or whose tag may stand for another rule, keys on its text with every
    run of whitespace made one space. Never raises.

    >>> canonical_key("add", "465 + 041"), canonical_key("sort", "27 5  9")
    ('[add] 41 + 465', '[sort] 5 9 27')
    >>> canonical_key("rel", "K>A F>B B>K ? up 2 A"), canonical_key("add_twice", "5 + 03")
    ('[rel] B>K F>B K>A ? up 2 A', '[add_twice] 5 + 03')
    """
    task, text = keyed_task(tag), " ".join(prompt.split())
    return f"[{tag}] {(task and task.key(text)) or text}"


@lru_cache(maxsize=2**18)
def key_of(raw: str) -> str:
    """The canonical key of a whole row."""
    tag, prompt, _ = split_example(raw)
    return canonical_key(tag, prompt)


# The largest sums, 999 + 999 among them, are an edge case to test: no training set may have them.
RESERVED_FOR_OOD = {f"[add] {a} + {b}" for a in range(990, 1000) for b in range(a, 1000)}


def split_of(key: str) -> str:
    """Who owns a canonical key: "train" (six eighths of all keys), "val" (one) or "ood" (one)."""
    if key in RESERVED_FOR_OOD:
        return "ood"
    eighth = hashlib.sha256(key.encode("utf-8", "replace")).digest()[0] // 32
    return {0: "val", 1: "ood"}.get(eighth, "train")


def draw_example(rng, task: str, sizes: range | None = None) -> str:
    """A row of a task, of one of the sizes or of its training range."""
    return TASKS[task].row(TASKS[task].draw(rng, sizes or TASKS[task].training))


def size_of(raw: str) -> int:
    """The size of a row whose tag is a task; ValueError where it has none."""
    tag, prompt, _ = split_example(raw)
    if tag not in TASKS:
        raise ValueError(f"[{tag}] is no task with sizes")
    return TASKS[tag].size_of(prompt)


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


def with_wrong_answer(rng, raw: str) -> str:
    """The row with another answer of the same form."""
    tag, prompt, answer = split_example(raw)
    while (other := TASKS[tag].draw_legal(rng, answer)) == answer:
        pass
    return row(tag, prompt, other)


def change_one_digit(rng, prompt: str) -> str:
    """The prompt with one digit of one number changed; the number keeps its length.

    Its value changes, so the sequence, the multiset and the unordered pair do.
    """
    number = pick(rng, list(NUMBER.finditer(prompt)))
    at = pick(rng, range(number.start(), number.end()))
    leading = at == number.start() and len(number[0]) > 1
    digits = ("123456789" if leading else "0123456789").replace(prompt[at], "")
    return prompt[:at] + pick(rng, digits) + prompt[at + 1 :]


# ----------------------------------------------------------------------------------------------
# copy, rev, sort: a list of items
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


def answer_sort(items: list[int]) -> list[int]:
    """`[sort] 5 27 9 | 5 9 27`: the items in ascending order of value, equal ones kept.

    >>> answer_sort([5, 27, 9])
    [5, 9, 27]
    >>> answer_sort([7, 314, 0, 7])
    [0, 7, 7, 314]
    """
    return sorted(items)


def draw_sequence(rng, sizes: range) -> str:
    return spaced(draw_items(rng, sizes))


def items_of(prompt: str) -> list[int]:
    """The items of a prompt; ValueError where one is no whole number."""
    text = " ".join(prompt.split())
    if not ITEMS_PROMPT.fullmatch(text):
        raise ValueError(f"{prompt[:80]!r} is not a list of numbers")
    return list(map(int, text.split()))


def sequence_key(text: str) -> str | None:
    if ITEMS_PROMPT.fullmatch(text):
        return spaced(map(plain_number, text.split()))
    return None


def multiset_key(text: str) -> str | None:
    if ITEMS_PROMPT.fullmatch(text):
        return spaced(sorted(map(plain_number, text.split()), key=by_value))
    return None


def count_words(prompt: str) -> int:
    return len(prompt.split())


def sequence_task(name: str, on_items: Callable, **record) -> Task:
    """The record of a task from a list of items to a list of items."""
    return Task(
        name=name,
        unit="items",
        training=ITEMS,
        sizes=range(1, 101),
        extrapolation=range(11, 21),
        systematic=range(3, 25),
        draw=draw_sequence,
        answer=lambda prompt: spaced(on_items(items_of(prompt))),
        size_of=count_words,
        edit=change_one_digit,
        on_items=on_items,
        **record,
    )


# ----------------------------------------------------------------------------------------------
# add: the sum of two numbers
# ----------------------------------------------------------------------------------------------


def answer_add(addends: list[int]) -> int:
    """`[add] 41 + 465 | 506`: the sum; of two operands in training, of three in one OOD suite.

    >>> answer_add([41, 465])
    506
    >>> answer_add([12, 7, 105])
    124
    """
    return sum(addends)


def draw_operands(rng, sizes: range) -> tuple[int, int]:
    """Two numbers, the digits of each drawn for itself."""
    a = draw_number(rng, one_of(rng, sizes))
    return a, draw_number(rng, one_of(rng, sizes))


def draw_sum(rng, sizes: range) -> str:
    a, b = draw_operands(rng, sizes)
    return f"{a} + {b}"


def addends_of(prompt: str) -> list[int]:
    """The numbers of a sum; ValueError where it is none."""
    words = [word.strip() for word in prompt.split("+")]
    if len(words) < 2 or not all(map(NUMBER.fullmatch, words)):
        raise ValueError(f"{prompt[:80]!r} is not a sum of numbers")
    return list(map(int, words))


def answer_of_sum(prompt: str) -> str:
    return str(answer_add(addends_of(prompt)))


def pair_key(text: str) -> str | None:
    if match := ADD_PROMPT.fullmatch(text):
        return " + ".join(sorted(map(plain_number, match.groups()), key=by_value))
    return None


def longest_number(prompt: str) -> int:
    """The digits of the longest number."""
    return max(map(len, NUMBER.findall(prompt)))


def add_row(*addends: int) -> str:
    return row("add", " + ".join(map(str, addends)), str(answer_add(list(addends))))


# ----------------------------------------------------------------------------------------------
# rel: a walk along a chain of parents and children
# ----------------------------------------------------------------------------------------------


def answer_rel(facts: list[str], direction: str, hops: int, person: str) -> str:
    """`[rel] B>K F>B K>A ? up 2 A | B`: who is so many generations above or below a person.

    `X>Y` says that X is the parent of Y; `up 2 A` asks for A's grandparent, `down 2 A` for A's
    grandchild. KeyError where the facts do not reach that far, or name two.

    >>> answer_rel(["B>K", "F>B", "K>A"], "up", 2, "A")
    'B'
    >>> answer_rel(["B>K", "Q>Z", "F>B"], "down", 1, "F")
    'B'
    """
    pairs = [fact.split(">") for fact in facts]
    step = {one: set() for pair in pairs for one in pair}
    for parent, child in pairs:
        one, other = (child, parent) if direction == "up" else (parent, child)
        step[one].add(other)
    if person not in step:
        raise KeyError(person)
    for _ in range(hops):
        if len(step[person]) != 1:
            raise KeyError(person)
        (person,) = step[person]
    return person


def draw_rel(rng, sizes: range) -> str:
    """The facts of one chain and 0-2 facts about other people, shuffled, and a question.

    The chain has 4-8 people, uniformly, but at least two more than hops: so the answer is never
    bound to be the end of the chain. At a single number of hops it has 8, so that nothing but the
    hops changes with them, and even 6 hops run along a chain no longer than trained ones. Direction
    and start are uniform over what the chain allows. Each further fact is about two fresh letters,
    so it cannot touch the answer.
    """
    shortest = LONGEST_CHAIN if len(sizes) == 1 else SHORTEST_CHAIN
    hops = one_of(rng, sizes)
    n_people = pick(rng, range(max(shortest, hops + 2), LONGEST_CHAIN + 1))
    people = shuffled(rng, string.ascii_uppercase)
    chain, others = people[:n_people], people[n_people:]
    pairs = [*pairwise(chain), (others[0], others[1]), (others[2], others[3])]
    n_facts = n_people - 1 + pick(rng, (0, 1, 2))
    facts = shuffled(rng, [f"{parent}>{child}" for parent, child in pairs[:n_facts]])
    direction = pick(rng, ("up", "down"))
    person = pick(rng, chain[hops:] if direction == "up" else chain[:-hops])
    return f"{spaced(facts)} ? {direction} {hops} {person}"


def rel_parts(prompt: str) -> tuple[list[str], str, str, str] | None:
    """(facts, direction, hops, person) of a prompt, None outside the grammar."""
    text = re.sub(r" ?([>?]) ?", r"\1", " ".join(prompt.split()))
    match = REL_PROMPT.fullmatch(text)
    return match and (match[1].split(), match[2], match[3], match[4])


def answer_of_rel(prompt: str) -> str:
    parts = rel_parts(prompt)
    if parts is None:
        raise ValueError(f"{prompt[:80]!r} is not a question about facts")
    facts, direction, hops, person = parts
    try:
        # Only people among their own ancestors are reached by more hops than there are facts.
        if by_value(plain_number(hops)) > by_value(str(len(facts))):
            raise KeyError(hops)
        return answer_rel(facts, direction, int(hops), person)
    except KeyError:
        raise ValueError(f"the facts of {prompt[:80]!r} do not answer its question") from None


def facts_key(text: str) -> str | None:
    if parts := rel_parts(text):
        facts, direction, hops, person = parts
        return f"{spaced(sorted(set(facts)))} ? {direction} {plain_number(hops)} {person}"
    return None


def hops_of(prompt: str) -> int:
    if parts := rel_parts(prompt):
        return int(parts[2])
    raise ValueError(f"{prompt[:80]!r} asks for no number of hops")


def edit_rel(rng, prompt: str) -> str:
    """Rename one person, or ask another question that the facts answer; half of each.

    Another question has another direction, person or number of hops, up to the present number or
    the largest of training. Where one kind of edit is not left, it is the other.
    """
    facts, *asked = rel_parts(prompt)
    people = sorted({person for fact in facts for person in fact.split(">")})
    fresh = sorted(set(string.ascii_uppercase) - set(people))
    hops = range(1, max(HOPS[-1], min(int(asked[1]), len(facts))) + 1)
    questions = []
    for question in itertools.product(("up", "down"), hops, people):
        try:
            answer_rel(facts, *question)
        except KeyError:
            continue
        if question != (asked[0], int(asked[1]), asked[2]):
            questions.append(question)
    if fresh and (not questions or rng.random() < 0.5):
        return prompt.translate(str.maketrans(pick(rng, people), pick(rng, fresh)))
    if not questions:
        raise ValueError(f"{prompt[:80]!r} leaves no name and no other question")
    direction, n, person = pick(rng, questions)
    return QUESTION.sub(rf"{direction}\g<2>{n}\g<4>{person}", prompt)


# ----------------------------------------------------------------------------------------------
# mod, gcd: arithmetic whose rule does not show in the digits
# ----------------------------------------------------------------------------------------------


def answer_mod(a: int, operator: str, b: int, p: int) -> int:
    """`[mod] 57 + 88 mod 97 | 48`: a + b, a - b or a * b modulo p, from 0 to p - 1.

    >>> answer_mod(57, "+", 88, 97)
    48
    >>> answer_mod(3, "-", 5, 97)
    95
    """
    return {"+": a + b, "-": a - b, "*": a * b}[operator] % p


def mod_parts(prompt: str) -> tuple[int, str, int, int]:
    """(a, operator, b, p) of a prompt; ValueError outside the grammar and for p = 0."""
    match = MOD_PROMPT.fullmatch(" ".join(prompt.split()))
    if match is None or plain_number(match[4]) == "0":
        raise ValueError(f"{prompt[:80]!r} is not of the form 'a + b mod p', with +, - or *")
    return int(match[1]), match[2], int(match[3]), int(match[4])


def answer_of_mod(prompt: str) -> str:
    return str(answer_mod(*mod_parts(prompt)))


def draw_mod(rng, sizes: range) -> str:
    """Each operator as often, both operands below the modulus."""
    p = one_of(rng, sizes)
    a, operator, b = pick(rng, range(p)), pick(rng, "+-*"), pick(rng, range(p))
    return f"{a} {operator} {b} mod {p}"


def mod_key(text: str) -> str | None:
    """a + b and b + a are one example, and so are the products."""
    if not (match := MOD_PROMPT.fullmatch(text)):
        return None
    operands = [plain_number(match[1]), plain_number(match[3])]
    if match[2] != "-":
        operands.sort(key=by_value)
    return f"{operands[0]} {match[2]} {operands[1]} mod {plain_number(match[4])}"


def modulus(prompt: str) -> int:
    return mod_parts(prompt)[3]


def edit_mod(rng, prompt: str) -> str:
    """Another first operand below the modulus."""
    a, operator, b, p = mod_parts(prompt)
    if p == 1:
        raise ValueError(f"{prompt[:80]!r} leaves no other operand")
    while (other := pick(rng, range(min(p, 10**15)))) == a:
        pass
    return f"{other} {operator} {b} mod {p}"


def answer_gcd(a: int, b: int) -> int:
    """`[gcd] 84 36 | 12`: the greatest common divisor of two numbers above 0.

    >>> answer_gcd(84, 36)
    12
    >>> answer_gcd(7, 9)
    1
    """
    return math.gcd(a, b)


def gcd_parts(prompt: str) -> list[int]:
    """The two numbers of a prompt; ValueError where they are not two, or one is 0."""
    numbers = items_of(prompt)
    if len(numbers) != 2 or not all(numbers):
        raise ValueError(f"{prompt[:80]!r} is not two numbers above 0")
    return numbers


def answer_of_gcd(prompt: str) -> str:
    return str(answer_gcd(*gcd_parts(prompt)))


def draw_gcd(rng, sizes: range) -> str:
    """Two multiples of one number, which has 1 to as many digits as the shorter, each as often.

    Of two numbers drawn each for itself, 61 % would have no common divisor but 1.
    """
    lengths = [one_of(rng, sizes) for _ in range(2)]
    divisor = max(1, draw_number(rng, pick(rng, range(1, min(lengths) + 1))))
    ranges = [range(-(-(10 ** (n - 1)) // divisor), (10**n - 1) // divisor + 1) for n in lengths]
    return spaced(divisor * pick(rng, factors) for factors in ranges)


def edit_gcd(rng, prompt: str) -> str:
    """One digit changed, neither number made 0."""
    gcd_parts(prompt)
    while not all(items_of(edited := change_one_digit(rng, prompt))):
        pass
    return edited


# ----------------------------------------------------------------------------------------------
# recall: associative recall (Ba et al., arXiv:1610.06258)
# ----------------------------------------------------------------------------------------------


def answer_recall(digit_of: dict[str, str], letter: str) -> str:
    """`[recall] K7 B3 Q1 ? B | 3`: the digit that stands behind a letter.

    >>> answer_recall({"K": "7", "B": "3", "Q": "1"}, "B")
    '3'
    >>> answer_recall({"Z": "0"}, "Z")
    '0'
    """
    return digit_of[letter]


def recall_parts(prompt: str) -> tuple[dict[str, str], str]:
    """(letter -> digit, the letter asked for).

    ValueError outside the grammar, where a letter stands twice, and for a letter that is not there.
    """
    match = RECALL_PROMPT.fullmatch(" ".join(prompt.split()))
    pairs = match[1].split() if match else []
    digit_of = dict(pairs)
    if match is None or len(digit_of) < len(pairs) or match[2] not in digit_of:
        raise ValueError(f"{prompt[:80]!r} does not ask for one of its different letters")
    return digit_of, match[2]


def answer_of_recall(prompt: str) -> str:
    return answer_recall(*recall_parts(prompt))


def draw_recall(rng, sizes: range) -> str:
    """Different letters, each with a digit of its own draw, and one of the letters."""
    letters = shuffled(rng, string.ascii_uppercase)[: one_of(rng, sizes)]
    return f"{spaced(x + pick(rng, string.digits) for x in letters)} ? {pick(rng, letters)}"


def recall_key(text: str) -> str | None:
    """The order of the pairs changes no example."""
    try:
        digit_of, letter = recall_parts(text)
    except ValueError:
        return None
    return f"{spaced(sorted(map(''.join, digit_of.items())))} ? {letter}"


def n_pairs(prompt: str) -> int:
    return len(recall_parts(prompt)[0])


def edit_recall(rng, prompt: str) -> str:
    """Another digit behind one letter."""
    recall_parts(prompt)
    return change_one_digit(rng, prompt)


# ----------------------------------------------------------------------------------------------
# add_reversed, add_padded: sums whose digits are written otherwise (Lee et al., arXiv:2307.03381)
# ----------------------------------------------------------------------------------------------


def answer_add_reversed(addends: list[int]) -> str:
    """`[add_reversed] 41 + 465 | 605`: the sum, its last digit first.

    >>> answer_add_reversed([41, 465])
    '605'
    >>> answer_add_reversed([60, 40])
    '001'
    """
    return str(answer_add(addends))[::-1]


def answer_of_reversed(prompt: str) -> str:
    return answer_add_reversed(addends_of(prompt))


def answer_add_padded(addends: list[int], n_digits: int) -> str:
    """`[add_padded] 041 + 465 | 0506`: the sum, with zeros before it up to n_digits digits.

    >>> answer_add_padded([41, 465], 4)
    '0506'
    >>> answer_add_padded([7, 5], 2)
    '12'
    """
    return str(answer_add(addends)).zfill(n_digits)


def answer_of_padded(prompt: str) -> str:
    """One digit more than the longest operand is written with."""
    return answer_add_padded(addends_of(prompt), longest_number(prompt) + 1)


def draw_padded(rng, sizes: range) -> str:
    """A sum whose operands are all written with as many digits as the largest size."""
    return " + ".join(str(number).zfill(sizes[-1]) for number in draw_operands(rng, sizes))


def longest_plain_number(prompt: str) -> int:
    """The digits of the longest number, without leading zeros."""
    return max(len(plain_number(number)) for number in NUMBER.findall(prompt))


def n_digit_strings(answer: str) -> int:
    """How many texts of digits are as long; ValueError where the answer is none.

    >>> n_digit_strings("0506")
    10000
    """
    if not NUMBER.fullmatch(answer):
        raise ValueError(f"{answer[:80]!r} is not a text of digits")
    return 10 ** len(answer)


def draw_digit_string(rng, answer: str) -> str:
    """One of those texts, uniformly."""
    n_digit_strings(answer)
    return "".join(pick(rng, string.digits) for _ in answer)


def digit_strings(answer: str) -> Iterator[str]:
    """All of those texts in ascending order."""
    return (f"{i:0{len(answer)}d}" for i in range(n_digit_strings(answer)))


def sum_format(name: str, **record) -> Task:
    """The record of add with its digits written otherwise, which no standard set has."""
    return replace(
        ADD,
        name=name,
        standard=False,
        extrapolation=range(0),
        systematic=range(0),
        aliases=(),
        **record,
    )


# ----------------------------------------------------------------------------------------------
# The records, in curriculum order
# ----------------------------------------------------------------------------------------------

COPY = sequence_task(
    "copy",
    answer_copy,
    standard=True,
    help="the items in the order given",
    examples=("[copy] 5 27 9 | 5 27 9", "[copy] 0 0 314 7 | 0 0 314 7"),
    key=sequence_key,
    aliases=("copying",),
)
REV = sequence_task(
    "rev",
    answer_rev,
    standard=True,
    help="the items from last to first",
    examples=("[rev] 5 27 9 | 9 27 5", "[rev] 0 0 314 7 | 7 314 0 0"),
    key=sequence_key,
    aliases=("reverse", "reversing"),
)
ADD = Task(
    name="add",
    help="the sum of two numbers",
    examples=("[add] 41 + 465 | 506", "[add] 7 + 0 | 7"),
    unit="digits",
    training=DIGITS,
    sizes=range(1, 101),
    standard=True,
    extrapolation=range(4, 6),
    systematic=range(1, 7),
    draw=draw_sum,
    answer=answer_of_sum,
    key=pair_key,
    size_of=longest_number,
    edit=change_one_digit,
    characters="+",
    aliases=("adding", "addition"),
    rewritings=("extra_spaces", "leading_zeros", "no_spaces"),
)
SORT = sequence_task(
    "sort",
    answer_sort,
    standard=True,
    help="the items in ascending order",
    examples=("[sort] 5 27 9 | 5 9 27", "[sort] 7 314 0 7 | 0 7 7 314"),
    key=multiset_key,
    aliases=("sorting",),
    same_rule=("asc", "ascending"),
    same_key=("desc", "descending"),
)
REL = Task(
    name="rel",
    help="who is so many generations up or down; X>Y: X is the parent of Y",
    examples=("[rel] B>K F>B K>A ? up 2 A | B", "[rel] B>K Q>Z F>B ? down 1 F | B"),
    unit="hops",
    training=HOPS,
    sizes=range(1, LONGEST_CHAIN - 1),
    standard=True,
    extrapolation=range(4, 7),
    systematic=range(1, 7),
    draw=draw_rel,
    answer=answer_of_rel,
    key=facts_key,
    size_of=hops_of,
    edit=edit_rel,
    characters=">?" + "up" + "down" + string.ascii_uppercase,
    aliases=("relation", "relational"),
    rewritings=("extra_spaces",),
    n_legal=n_letters,
    draw_legal=draw_letter,
    legal_answers=letters,
)
MOD = Task(
    name="mod",
    help="a sum, difference or product modulo a number",
    examples=("[mod] 57 + 88 mod 97 | 48", "[mod] 3 - 5 mod 97 | 95"),
    unit="modulus",
    training=range(97, 98),
    sizes=range(2, 10_000),
    draw=draw_mod,
    answer=answer_of_mod,
    key=mod_key,
    size_of=modulus,
    edit=edit_mod,
    characters="+-*" + "mod",
)
GCD = Task(
    name="gcd",
    help="the greatest common divisor of two numbers",
    examples=("[gcd] 84 36 | 12", "[gcd] 7 9 | 1"),
    unit="digits",
    training=DIGITS,
    sizes=range(1, 16),
    draw=draw_gcd,
    answer=answer_of_gcd,
    key=multiset_key,
    size_of=longest_number,
    edit=edit_gcd,
)
RECALL = Task(
    name="recall",
    help="the digit that stands behind a letter",
    examples=("[recall] K7 B3 Q1 ? B | 3", "[recall] Z0 ? Z | 0"),
    unit="pairs",
    training=range(2, 9),
    sizes=range(1, 27),
    draw=draw_recall,
    answer=answer_of_recall,
    key=recall_key,
    size_of=n_pairs,
    edit=edit_recall,
    characters="?" + string.ascii_uppercase,
    rewritings=("extra_spaces",),
)
ADD_REVERSED = sum_format(
    "add_reversed",
    help="the sum of two numbers, its last digit first",
    examples=("[add_reversed] 41 + 465 | 605", "[add_reversed] 60 + 40 | 001"),
    answer=answer_of_reversed,
    n_legal=lambda answer: n_number_lists(answer[::-1]),
    draw_legal=lambda rng, answer: draw_number_list(rng, answer[::-1])[::-1],
    legal_answers=lambda answer: (legal[::-1] for legal in number_lists(answer[::-1])),
)
# Another width is another answer. The key is the pair all the same: the widths of a sum are too
# much alike for training to have one and validation another.
ADD_PADDED = sum_format(
    "add_padded",
    help="the sum of two numbers, all written with leading zeros",
    examples=("[add_padded] 041 + 465 | 0506", "[add_padded] 7 + 5 | 12"),
    draw=draw_padded,
    answer=answer_of_padded,
    size_of=longest_plain_number,
    rewritings=("extra_spaces", "no_spaces"),
    n_legal=n_digit_strings,
    draw_legal=draw_digit_string,
    legal_answers=digit_strings,
)
RECORDS = (COPY, REV, ADD, SORT, REL, MOD, GCD, RECALL, ADD_REVERSED, ADD_PADDED)
TASKS |= {task.name: task for task in RECORDS}
