"""A set of one's own: any tasks and sizes, repeated examples, a share of wrong answers.

    spec = OwnSet(sizes={"add": range(1, 3)}, examples={16: 12, 1: 1808}, val_rows=500)
    draw_sets(spec, seed=7)["train"]  # 2,000 sums, 12 of them 16 times

`data/generate.py --tasks ...` writes such a set. Its flags stand here too. Standard library only.
"""

import argparse
import math
import random
import re
from dataclasses import dataclass

from data.tasks import TASKS, draw_example, shuffled, take, with_wrong_answer
from runtime.cli import Parser, bounded
from runtime.errors import UserError


@dataclass(frozen=True)
class OwnSet:
    """A training and a validation set. All numbers are of each task."""

    sizes: dict[str, range]  # task -> its sizes
    examples: dict[int, int]  # repeat count -> how many training examples have it
    val_rows: int
    corrupt: float = 0.0  # share of the training examples with a wrong answer

    @property
    def rows(self) -> int:
        """Training rows."""
        return sum(count * n for count, n in self.examples.items())

    @property
    def corrupted(self) -> dict[int, int]:
        """Repeat count -> how many training examples have a wrong answer."""
        return {count: part_of(n, self.corrupt) for count, n in self.examples.items()}


def part_of(n: int, share: float) -> int:
    """So many of n, rounded down: 29 of 100, though 0.29 * 100 is 28.999999999999996."""
    return math.floor(n * share + 1e-9)


def examples_by_count(
    rows: int, counts: tuple[int, ...], fraction: float | None = None
) -> dict[int, int]:
    """Repeat count -> how many examples have it; they make up exactly `rows` rows.

    Each count gets an equal part of the rows, or with a fraction this part of them. Rows that do
    not make a whole example of their count stand there once.

    >>> examples_by_count(2000, (1, 4, 16))
    {4: 166, 16: 41, 1: 680}
    >>> examples_by_count(2000, (16,), fraction=0.1)
    {16: 12, 1: 1808}
    """
    part = rows // len(counts) if fraction is None else part_of(rows, fraction)
    examples = {count: part // count for count in counts if count > 1}
    for count, n in examples.items():
        if n == 0 and fraction != 0:
            raise UserError(
                f"{part:,} of {rows:,} rows are too few for an example {count:,} times; give more "
                "--rows or a smaller count"
            )
    examples[1] = rows - sum(count * n for count, n in examples.items())
    return {count: n for count, n in examples.items() if n}


# ----------------------------------------------------------------------------------------------
# Drawing
# ----------------------------------------------------------------------------------------------


def draw_sets(spec: OwnSet, seed: int) -> dict[str, list[str]]:
    """The rows of "train" and "val", shuffled. Validation repeats nothing and is all right."""
    sets = {"train": [], "val": []}
    for task in spec.sizes:
        sets["train"] += training_rows(spec, task, seed)
        rng = random.Random(f"{seed} own {task} val")
        sets["val"] += draw_examples(rng, spec, task, spec.val_rows, owner="val")
    return {
        name: shuffled(random.Random(f"{seed} own {name}"), rows)
        for name, rows in sets.items()
        if rows
    }


def training_rows(spec: OwnSet, task: str, seed: int) -> list[str]:
    """The training rows of one task. No example has two repeat counts.

    The examples of a smaller set with the same seed are the first of a larger one. Which of them
    have which count is drawn anew: where short examples are few, those drawn first are shorter. The
    wrong answers are spread evenly over each repeat count. All copies of an example have the same
    answer.
    """
    rng, noise = random.Random(f"{seed} own {task}"), random.Random(f"{seed} own {task} noise")
    n_examples = sum(spec.examples.values())
    examples = draw_examples(rng, spec, task, n_examples, owner="train")
    if len(spec.examples) > 1:
        examples = shuffled(random.Random(f"{seed} own {task} counts"), examples)
    examples, rows = iter(examples), []
    for count, n in spec.examples.items():
        for i in range(n):
            raw = next(examples)
            wrong = part_of(i + 1, spec.corrupt) > part_of(i, spec.corrupt)
            rows += [with_wrong_answer(noise, raw) if wrong else raw] * count
    return rows


def draw_examples(rng, spec: OwnSet, task: str, n: int, owner: str) -> list[str]:
    """n different examples of one task; UserError where its sizes do not have as many."""
    sizes = spec.sizes[task]
    found = take(n, lambda: draw_example(rng, task, sizes), owner, by_key=True)
    if len(found) < n:
        kind, flag = {"train": ("training", "--rows"), "val": ("validation", "--val_rows")}[owner]
        raise UserError(
            f"{task} of {TASKS[task].sizes_text(sizes)} has only about {len(found):,} different "
            f"{kind} examples, not {n:,}; give larger --sizes or fewer {flag}"
        )
    return found


# ----------------------------------------------------------------------------------------------
# The flags
# ----------------------------------------------------------------------------------------------

SUM_FORMATS = {"reversed": "add_reversed", "padded": "add_padded"}  # --format -> what add becomes
FLAGS = ("rows", "val_rows", "sizes", "repeat_counts", "repeat_fraction", "repeat_count")
FLAGS += ("corrupt", "format")  # none of which is of the standard sets


def add_flags(parser: Parser) -> None:
    """The flags of one's own set, all None where not given."""
    own = parser.add_argument_group("one's own set (train.pkl, val.pkl, tokenizer.json in --out)")
    own.add_argument("--tasks", nargs="+", choices=tuple(TASKS), metavar="TASK", help="its tasks")
    rows = {"type": bounded(int, 1, 10_000_000), "metavar": "N"}
    own.add_argument("--rows", **rows, help="training rows of each task (default: 2000)")
    rows = {"type": bounded(int, 0, 10_000_000), "metavar": "N"}
    val_help = "validation rows of each task; 0: no val.pkl (default: 500)"
    own.add_argument("--val_rows", **rows, help=val_help)
    own.add_argument(
        "--sizes",
        type=size_range,
        nargs="+",
        metavar="[TASK=]LOW-HIGH",
        help="how many digits, items, hops or pairs the examples have, or their modulus; 1-2 is "
        "for all tasks, add=1-2 mod=113 for these (default: as listed above)",
    )
    own.add_argument(
        "--repeat_counts",
        type=repeat_counts,
        metavar="K,K",
        help="how often examples stand in training; each count gets an equal part of the rows "
        "(default: 1)",
    )
    fraction_help = "instead: this part of the rows are copies, --repeat_count of each example"
    fraction = bounded(float, 0, 1)
    own.add_argument("--repeat_fraction", type=fraction, metavar="F", help=fraction_help)
    count = bounded(int, 2, 1_000_000)
    own.add_argument("--repeat_count", type=count, metavar="K", help="see --repeat_fraction")
    own.add_argument(
        "--corrupt",
        type=bounded(float, 0, 1),
        metavar="SHARE",
        help="share of the training examples with a wrong answer of the right form (default: 0)",
    )
    own.add_argument(
        "--format",
        choices=("plain", *SUM_FORMATS),
        help="how sums are written: reversed has the answer's last digit first, padded has leading "
        "zeros; the tag says so: add_reversed, add_padded (default: plain)",
    )


def repeat_counts(text: str) -> tuple[int, ...]:
    """An argparse type: different repeat counts, with commas between them."""
    try:
        counts = tuple(bounded(int, 1, 1_000_000)(word) for word in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form 1,4,16") from None
    if len(set(counts)) < len(counts):
        raise argparse.ArgumentTypeError(f"{text} names a count twice")
    return counts


def size_range(text: str) -> tuple[str | None, range]:
    """An argparse type: `1-2`, `97` or, for one task, `add=1-2`."""
    match = re.fullmatch(r"(?:(\w+)=)?([0-9]{1,9})(?:-([0-9]{1,9}))?", text)
    low, high = (int(match[2]), int(match[3] or match[2])) if match else (1, 0)
    if low > high:
        raise argparse.ArgumentTypeError(f"{text} is not of the form 1-2, 97 or add=1-2")
    return match[1], range(low, high + 1)


def own_set(args) -> OwnSet:
    """What the flags say; UserError where they contradict each other."""
    if (args.repeat_fraction is None) != (args.repeat_count is None):
        raise UserError("--repeat_fraction and --repeat_count go together; give both or none")
    if args.repeat_count and args.repeat_counts:
        raise UserError("--repeat_counts and --repeat_fraction exclude each other; give one")
    counts = (args.repeat_count,) if args.repeat_count else args.repeat_counts or (1,)
    return OwnSet(
        sizes=sizes_of(tasks_of(args.tasks, args.format), args.sizes or []),
        examples=examples_by_count(args.rows or 2000, counts, args.repeat_fraction),
        val_rows=500 if args.val_rows is None else args.val_rows,
        corrupt=args.corrupt or 0.0,
    )


def tasks_of(tasks: list[str], sum_format: str | None) -> list[str]:
    """The tasks, each once, with sums in their format."""
    if sum_format in SUM_FORMATS:
        if "add" not in tasks:
            raise UserError(f"--format {sum_format} is of sums, and --tasks has no add")
        tasks = [SUM_FORMATS[sum_format] if task == "add" else task for task in tasks]
    return list(dict.fromkeys(tasks))


def sizes_of(tasks: list[str], given: list[tuple[str | None, range]]) -> dict[str, range]:
    """Task -> sizes: its own if given, else those given for all tasks, else those of training."""
    names = [name for name, _ in given]
    if twice := next((name or "all tasks" for name in names if names.count(name) > 1), None):
        raise UserError(f"--sizes has two ranges for {twice}; give one")
    for name in filter(None, names):  # add= is of its formats too
        if name not in tasks and not (name == "add" and set(SUM_FORMATS.values()) & set(tasks)):
            raise UserError(f"--sizes has a range for {name}, which is not in --tasks")
    ranges = dict(given)
    sizes = {}
    for task in tasks:
        of_sums = "add" if task in SUM_FORMATS.values() else task
        name = next((name for name in (task, of_sums, None) if name in ranges), None)
        sizes[task] = ranges.get(name, TASKS[task].training)
        check_sizes(task, sizes[task], alone=name is not None or len(tasks) == 1)
    return sizes


def check_sizes(task: str, sizes: range, alone: bool) -> None:
    """UserError where the task has no such sizes; `alone`: they were given for this task only."""
    allowed = TASKS[task].sizes
    if sizes[0] not in allowed or sizes[-1] not in allowed:
        given = "-".join(map(str, dict.fromkeys((sizes[0], sizes[-1]))))
        example = f"{task}={allowed[0]}-{allowed[1]}"
        hint = "" if alone else f"; for one task alone write {example}"
        raise UserError(f"--sizes {given}: {task} has {TASKS[task].sizes_text(allowed)}{hint}")
