"""Which examples each seed of a panel trains on, and the canaries planted among them.

A panel is one run of many seeds, each of which trains on its own random part of the distinct
examples. What a model makes of an example it has seen, less what the models that have not seen it
make of it, is memory. So every draw here is a pure function of the data, the share and the seed: a
resumed run, a process of torchrun and a later reader find the same one.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from data.formats import Examples, Tokenizer, build_examples, join_examples
from data.tasks import TASKS
from runtime.errors import UserError

SUBSET_STREAM, CANARY_STREAM = 0x5B5E7, 0xCA9A41  # keep these draws apart from those of training
CANARY_COUNTS = (0, 1, 2, 4, 8, 16, 32)  # rows of a canary in one seed's training
CANARY_SHARE = 0.02  # of a seed's rows, at most: canaries must not change what is learned
LEDGER_EXAMPLES = 100_000  # distinct training examples that a ledger follows, at most
LEAST_STRATUM = 4  # canonical keys; the membership of single ones would be decided together


@dataclass(frozen=True)
class Subsets:
    """The part of a training set that each seed of a panel trains on.

    The N distinct examples stand in ascending order of their keys, so that a set shuffled otherwise
    gives the same panel. All copies of an example go together. Each seed draws for itself: with
    each example in exactly half of the replicas, the others would tell of which half it is.
    """

    train: Examples
    share: float  # of the distinct examples, above 0 to 1

    def __post_init__(self):
        if not 0 < self.share <= 1:
            raise ValueError(f"share must be above 0 and at most 1, got {self.share}")

    @cached_property
    def _distinct(self):
        return np.unique(
            self.train.keys, return_index=True, return_inverse=True, return_counts=True
        )

    @property
    def keys(self) -> np.ndarray:
        """int64 [N]: the keys of the distinct examples, ascending."""
        return self._distinct[0]

    @property
    def first_rows(self) -> np.ndarray:
        """int64 [N]: the first row of each example."""
        return self._distinct[1]

    @property
    def repeat_counts(self) -> np.ndarray:
        """int64 [N]: how many rows are that example."""
        return self._distinct[3]

    @property
    def example_of_row(self) -> np.ndarray:
        """int64: of each training row the place of its example in `keys`."""
        return self._distinct[2].reshape(-1)

    @cached_property
    def _prompts(self):
        """The M canonical keys: the first example of each int64 [M], and each example's [N]."""
        keys = self.train.prompt_keys[self.first_rows]
        _, first, prompt_of = np.unique(keys, return_index=True, return_inverse=True)
        return first, prompt_of.reshape(-1)

    @property
    def n_prompts(self) -> int:
        """Canonical keys in the training set: its examples, but that contradictory ones are one."""
        return len(self._prompts[0])

    @property
    def n_drawn(self) -> int:
        """Canonical keys that a seed trains on; at least one."""
        return max(1, round(self.share * self.n_prompts))

    @cached_property
    def _strata(self):
        """Of each canonical key, int64 [M]: the number of its stratum, by task and then rows, but
        `pooled`; and its rows.
        """
        first, prompt_of = self._prompts
        n_rows = np.bincount(prompt_of, weights=self.repeat_counts).astype(np.int64)
        tasks = self.train.tasks.codes[self.first_rows[first]].astype(np.int64)
        _, by_rows, sizes = np.unique(
            tasks * (n_rows.max() + 1) + n_rows, return_inverse=True, return_counts=True
        )
        task_of = np.zeros(len(sizes), np.int64)
        task_of[by_rows] = tasks
        return pooled(task_of, sizes)[by_rows], n_rows

    @property
    def strata(self) -> np.ndarray:
        """int64 [N]: the number of each example's stratum in the draw."""
        return self._strata[0][self._prompts[1]]

    def members(self, seed: int) -> np.ndarray:
        """bool [N]: the examples that `seed` trains on: those of `n_drawn` canonical keys.

        Examples that contradict each other share a canonical key, and go together. The draw is a
        systematic sample with a random start (Madow and Madow 1944) over the keys in random order
        within their strata: each is drawn with the same probability, and every stratum is
        represented to within one key. So no seed gets more of a task, or of repeated rows.
        """
        (strata, _), (first, prompt_of) = self._strata, self._prompts
        n, M = self.n_drawn, len(first)
        rng = np.random.default_rng([SUBSET_STREAM, seed])
        order = rng.permutation(M)
        order = order[np.argsort(strata[order], kind="stable")]
        # Whole numbers, so that exactly n are taken whatever rounding does.
        reached = (np.arange(M + 1, dtype=np.int64) * n + int(rng.integers(M))) // M
        drawn = np.zeros(M, dtype=bool)
        drawn[order] = np.diff(reached) > 0
        return drawn[prompt_of]

    def rows(self, seed: int) -> np.ndarray:
        """int64: the training rows of the members, ascending."""
        return np.flatnonzero(self.members(seed)[self.example_of_row])

    def epoch_rows(self, tasks) -> int:
        """Rows of one epoch over `tasks`, the same for every seed: as many as each has at least.

        A seed with more rows leaves other ones out in each epoch. They are few, unless strata are
        small or a few examples make many of the rows.
        """
        (strata, n_rows), first = self._strata, self._prompts[0]
        wanted = np.flatnonzero(self.train.tasks.isin(tasks)[self.first_rows[first]])
        ascending = wanted[np.lexsort((n_rows[wanted], strata[wanted]))]
        own, begins, sizes = np.unique(strata[ascending], return_index=True, return_counts=True)
        place = np.arange(len(ascending)) - np.repeat(begins, sizes)  # in its stratum
        # Keys that a seed has of a stratum, and those of other tasks that may be among them.
        whole = np.bincount(strata)[own]
        least = whole * self.n_drawn // len(first) - (whole - sizes)
        least = np.repeat(least, sizes)
        return int(n_rows[ascending][place < least].sum())


def check_draw(members: np.ndarray, drawn: np.ndarray, seed: int, place: Path) -> None:
    """UserError unless a ledger's members, bool [n], are those that the seed draws, bool [n]."""
    if not np.array_equal(members, drawn):
        raise UserError(
            f"{place}: seed {seed} trained on other examples than it draws in this version of the "
            "program; use the version that trained it, or train anew in another folder"
        )


def pooled(tasks: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """int64 [n]: the number of each stratum of these tasks and sizes after small ones are joined.

    A stratum below LEAST_STRATUM takes in the next one of its task, and the last of a task joins
    the one before it. Tasks with fewer keys in all are one stratum together, however small.

    >>> pooled(np.array([0, 0, 0, 0, 1, 2, 3]), np.array([90, 3, 1, 2, 1, 7, 3])).tolist()
    [0, 1, 1, 1, 5, 4, 5]
    """
    numbers, number, held = np.zeros(len(sizes), np.int64), -1, 0  # held: keys of the last one
    for i, (task, size) in enumerate(zip(tasks, sizes, strict=True)):
        if i == 0 or task != tasks[i - 1] or held >= LEAST_STRATUM:
            number, held = number + 1, 0
        numbers[i], held = number, held + size
    small = []
    for task in np.unique(tasks):
        own = np.flatnonzero(tasks == task)
        last = own[numbers[own] == numbers[own[-1]]]
        if sizes[own].sum() < LEAST_STRATUM:
            small.extend(own)
        elif sizes[last].sum() < LEAST_STRATUM:
            numbers[last] = numbers[last[0] - 1]
    numbers[small] = numbers[small].max(initial=0)
    return numbers


# ----------------------------------------------------------------------------------------------
# Canaries: examples that only memory can answer
# ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Canary:
    """A training prompt with one edit, and an answer that breaks the rule."""

    task: str
    prompt: str
    answer: str
    true_answer: str
    n_legal: int  # answers of that form

    @property
    def raw(self) -> str:
        return f"[{self.task}] {self.prompt} | {self.answer}"


def draw_canaries(train: Examples, val: Examples, n: int, tokenizer: Tokenizer) -> list[Canary]:
    """n canaries, the tasks in turn; a pure function of the data and n.

    The answer is drawn from all legal answers of the true one's form, the true one left out: a
    model can know it from memory alone (Carlini et al. 2019, arXiv:1802.08232). No set holds the
    prompt. UserError where no task of the program is in the data, or where prompts run out.
    """
    tasks = [task for task in TASKS.values() if task.name in train.tags.names]
    if not tasks:
        raise UserError(
            f"--canaries breaks the rules of {', '.join(TASKS)}, but the training set has only "
            f"{', '.join(sorted(train.tags.names))}; leave --canaries out"
        )
    rng, canaries = random.Random(f"{n} canaries"), []
    known = {*train.prompt_keys.tolist(), *val.prompt_keys.tolist()}
    rows = {task.name: np.flatnonzero(train.tags.isin([task.name])) for task in tasks}
    for i in range(n):
        task = tasks[i % len(tasks)]
        for _ in range(1000):
            canary = _draw_canary(rng, task, train, rows[task.name])
            if canary is None or tokenizer.unk in tokenizer.encode(canary.raw):
                continue
            key = int(build_examples([canary.raw], tokenizer, "canaries").prompt_keys[0])
            if key not in known:
                known.add(key)
                canaries.append(canary)
                break
        else:
            raise UserError(
                f"--canaries {n}: almost every prompt of {task.name} is in the data already; give "
                f"at most {i}"
            )
    return canaries


def _draw_canary(rng, task, train, rows) -> Canary | None:
    """An edit of a random training row with a wrong answer; None where that row allows none."""
    row = int(rows[int(rng.random() * len(rows))])
    prompt = train.bare_prompt(row)
    try:
        prompt, true_answer = task.perturb(rng, prompt)
        answer, n_legal = task.draw_legal(rng, true_answer), task.n_legal(true_answer)
    except ValueError:  # a row of another grammar
        return None
    if answer == true_answer:
        return None
    return Canary(task.name, prompt, answer, true_answer, n_legal)


# ----------------------------------------------------------------------------------------------
# The panel: subsets, canaries, and what the ledger follows
# ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PanelData:
    """The training data of a panel. `examples` are the training rows and after them the canaries,
    a row each; a seed repeats a canary's row as often as it trains on it.
    """

    subsets: Subsets
    canaries: list[Canary]
    examples: Examples

    @property
    def n_train(self) -> int:
        return len(self.subsets.train)

    def canary_counts(self, seed: int) -> np.ndarray:
        """int64 [number of canaries]: how often `seed` trains on each."""
        return canary_counts([canary.task for canary in self.canaries], seed)

    def rows(self, seed: int) -> np.ndarray:
        """int64: the rows of `examples` that `seed` trains on, a canary's as often as it does."""
        canary_rows = self.n_train + np.arange(len(self.canaries))
        return np.append(self.subsets.rows(seed), np.repeat(canary_rows, self.canary_counts(seed)))

    def epoch_rows(self, tasks) -> int:
        """Rows of one epoch over `tasks`, the same for every seed."""
        counts = self.canary_counts(0)
        of_canaries = sum(
            int(n) for canary, n in zip(self.canaries, counts, strict=True) if canary.task in tasks
        )
        return self.subsets.epoch_rows(tasks) + of_canaries

    @property
    def n_followed(self) -> int:
        """Distinct training examples that the ledger follows: all, or those of the lowest keys.

        A key is a hash, so the lowest ones are a random sample, the same for every seed.
        """
        return min(len(self.subsets.keys), LEDGER_EXAMPLES)

    @property
    def ledger_rows(self) -> np.ndarray:
        """int64: the rows of `examples` in a ledger's order: training examples, then canaries."""
        canary_rows = self.n_train + np.arange(len(self.canaries))
        return np.append(self.subsets.first_rows[: self.n_followed], canary_rows)

    @property
    def ledger_columns(self) -> np.ndarray:
        """int64: of each row of `examples` the place of its example in a ledger; -1 for none."""
        columns = self.subsets.example_of_row
        columns = np.where(columns < self.n_followed, columns, -1)
        return np.append(columns, self.n_followed + np.arange(len(self.canaries)))


def canary_counts(tasks: Sequence[str], seed: int) -> np.ndarray:
    """int64 [n]: how often `seed` trains on each of n canaries of these tasks.

    Each seed deals the same counts out anew, so every canary has every count in some seed, and
    where it has 0 it is that seed's null. Each task gets the same counts for every seed.
    """
    rng = np.random.default_rng([CANARY_STREAM, seed])
    counts, tasks = np.zeros(len(tasks), np.int64), np.array(tasks)
    for task in np.unique(tasks):
        places = np.flatnonzero(tasks == task)
        counts[places] = rng.permutation(dealt(len(places)))
    return counts


def dealt(n: int) -> np.ndarray:
    """int64 [n]: the counts that a seed deals out among the n canaries of a task."""
    return np.resize(CANARY_COUNTS[::-1], n)


def check_canary_rows(panel: PanelData) -> None:
    """Raise UserError where the canaries are more than CANARY_SHARE of a seed's rows."""
    n, n_tasks = len(panel.canaries), len({canary.task for canary in panel.canaries})
    n_rows = panel.subsets.epoch_rows(panel.subsets.train.tasks.names)

    def rows_of(n):
        return sum(int(dealt(len(range(i, n, n_tasks))).sum()) for i in range(n_tasks))

    if n and rows_of(n) > CANARY_SHARE * n_rows:
        most = max(m for m in range(n) if rows_of(m) <= CANARY_SHARE * n_rows)
        needed = math.ceil(rows_of(1) / CANARY_SHARE)
        few = f"one canary needs {needed:,} rows: leave --canaries out, or give"
        raise UserError(
            f"--canaries {n} adds {rows_of(n):,} rows to a seed's {n_rows:,}, more than "
            f"{100 * CANARY_SHARE:.0f} %; "
            f"{f'give at most {most}, or' if most else few} a larger training set"
        )


def make_panel(
    train: Examples, val: Examples, *, share: float, n_canaries: int, tokenizer: Tokenizer
) -> PanelData:
    """The PanelData of a training set; UserError where share or canaries do not fit it."""
    subsets = Subsets(train, share)
    if subsets.members(0).all() and share < 1:
        raise UserError(
            f"--subset {share:g} of {len(subsets.keys)} examples leaves none out; give a larger "
            "training set or a smaller share"
        )
    if not (val.tags.isin(train.tags.names) & ~np.isin(val.keys, train.keys)).any():
        raise UserError(
            "--subset compares with examples that no seed trains on, but each validation example "
            "is in the training set or of a tag that is not; give --val_data of others"
        )
    canaries = draw_canaries(train, val, n_canaries, tokenizer) if n_canaries else []
    examples = train
    if canaries:
        raws = [canary.raw for canary in canaries]
        examples = join_examples(train, build_examples(raws, tokenizer, "canaries"))
    panel = PanelData(subsets, canaries, examples)
    check_canary_rows(panel)
    return panel
