"""Several runs compared: rates with intervals, and every two runs in every row."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import combinations

import metrics
from comparison.groups import (
    MEMORY,
    Answers,
    Group,
    Model,
    Rate,
    as_run,
    budget_words,
    entry_at,
    rate_of,
    row_names,
)


@dataclass(frozen=True)
class Difference:
    """`first` minus `second` in one row, as metrics.compare_models, _seeds and _rates return it.

    `n` are the seeds of both sides, or, of single models, their examples. `p_holm` is adjusted for
    every test of the table. `detectable` is the smallest difference that the test would find in
    80 % of cases. None where a number does not exist. `note` says what the test could not take for
    granted, such as the same examples.
    """

    row: str
    first: str
    second: str
    test: str
    n: list[int]
    difference: float
    low: float | None
    high: float | None
    p: float | None
    p_holm: float | None
    detectable: float | None
    note: str

    @property
    def over_seeds(self) -> bool:
        return self.test in ("paired t", "Welch's t", "unpaired t")

    @property
    def stands_out(self) -> bool:
        return self.p_holm is not None and self.p_holm < metrics.SIGNIFICANCE

    @property
    def counts(self) -> str:
        """`3 seeds`, or `3 and 4 seeds`, or `500 examples`."""
        unit = "seed" if self.over_seeds else "example"
        each = dict.fromkeys(f"{n:,}" for n in self.n)
        return f"{' and '.join(each)} {unit}{'s' * (self.n != [1, 1])}"

    @property
    def sentence(self) -> str:
        """What this many seeds or examples could have shown in 80 % of cases, taken alone."""
        which = f"with {self.counts}"
        if self.detectable is None and self.over_seeds:
            return f"{which} that do not vary nothing is known of what would have stood out"
        if self.detectable is None and self.test == metrics.FISHER:
            return f"{which} all right or all wrong nothing is known of what would have stood out"
        if self.detectable is None or self.detectable >= 1:
            return f"{which} no difference would reliably have stood out"
        points = 100 * self.detectable
        return f"{which} a difference under {points:.1f} points would not reliably have stood out"


@dataclass(frozen=True)
class Comparison:
    """`runs` in the order of the table, `seeds` of each of them, `rows` from top to bottom."""

    runs: list[str]
    seeds: dict[str, list[int | None]]
    rows: list[str]
    rates: list[Rate]
    differences: list[Difference]
    notes: list[str]

    def as_dict(self) -> dict:
        """Plain dicts and lists, ready for JSON or a template; differences with their sentence."""
        differences = [{**asdict(d), "sentence": d.sentence} for d in self.differences]
        return {**asdict(self), "differences": differences}


def compare_groups(groups: Sequence[Group], notes: Sequence[str] = ()) -> Comparison:
    """Compare what `gather` found.

    Two single models: McNemar's test on the examples that both answered. Otherwise Student's t over
    seeds, paired over those that both have if they are at least half of the smaller run's. Holm
    over all tests of the table.
    """
    rows = row_names(groups)
    rates = [rate_of(group, row) for row in rows for group in groups if group.seeds_with(row)]
    tests = [
        difference_in(first, second, row)
        for first, second in combinations(groups, 2)
        for row in rows
        if first.seeds_with(row) and second.seeds_with(row)
    ]
    tests = [test for test in tests if test is not None]
    adjusted = metrics.holm([test["p"] for test in tests])
    return Comparison(
        runs=[group.name for group in groups],
        seeds={group.name: [model.seed for model in group.models] for group in groups},
        rows=rows,
        rates=rates,
        differences=[Difference(**test, p_holm=p) for test, p in zip(tests, adjusted, strict=True)],
        notes=[*notes, *caveats(groups, rows)],
    )


# ----------------------------------------------------------------------------------------------
# One row of two runs
# ----------------------------------------------------------------------------------------------


def difference_in(first: Group, second: Group, row: str) -> dict | None:
    """The test of two runs in one row, without Holm.

    None for the memory of two single replicas, and for all tasks together where they are others.
    """
    models = [group.seeds_with(row) for group in (first, second)]
    answers = [[model.answers[row] for model in side] for side in models]
    names, note = shared_examples(answers)
    if names is None and len({tasks_of(model, row) for side in models for model in side}) > 1:
        return None
    values = [
        [answer.value if names is None else mean_right(answer, names) for answer in side]
        for side in answers
    ]
    if any(len(side) > 1 for side in models):
        found, more = difference_over_seeds(models, values)
    elif row == MEMORY:
        return None
    elif names is not None:
        rights = ([side[0].right[name] for name in names] for side in answers)
        found, more = metrics.compare_models(*rights), ""
    else:
        (a,), (b,) = answers
        found = metrics.compare_rates(round(a.value * a.n), a.n, round(b.value * b.n), b.n)
        more = "" if note else "not paired, since not both folders keep the outcome of each example"
    ends = {key: found[key] for key in ("low", "high") if found[key] is not None}
    found |= {key: max(-1.0, min(1.0, end)) for key, end in ends.items()}
    notes = "; ".join(filter(None, (note, more)))
    return {"row": row, "first": first.name, "second": second.name, **found, "note": notes}


def tasks_of(model: Model, row: str) -> frozenset:
    """The rows of single tasks that the model's row of all tasks joins; none for another row."""
    if not row.endswith(": all"):
        return frozenset()
    return frozenset(name for name in model.answers if name.startswith(row.removesuffix("all")))


def mean_right(answer: Answers, names: Sequence[str]) -> float:
    return sum(answer.right[name] for name in names) / len(names)


def shared_examples(answers: Sequence[Sequence[Answers]]) -> tuple[list[str] | None, str]:
    """The named examples that every model answered, None where unknown or none, and what to say."""
    each = [answer for side in answers for answer in side]
    if any(answer.right is None for answer in each):
        same = len({answer.source for answer in each}) == 1
        return None, "" if same else "different examples, so their difference counts too"
    shared = set.intersection(*(set(answer.right) for answer in each))
    if not shared:
        return None, "no example is shared, so the difference of the examples counts too"
    sizes = [len(side[0].right) for side in answers]
    all_shared = all(len(answer.right) == len(shared) for answer in each)
    note = f"on the {len(shared):,} examples that both answered, of {sizes[0]:,} and {sizes[1]:,}"
    return sorted(shared), "" if all_shared else note


def difference_over_seeds(
    models: Sequence[Sequence[Model]], values: Sequence[Sequence[float]]
) -> tuple[dict, str]:
    """metrics.compare_seeds of two runs, and what is to be said of seeds that only one has."""
    by_seed = [
        {model.seed: value for model, value in zip(side, of_side, strict=True)}
        for side, of_side in zip(models, values, strict=True)
    ]
    shared = sorted({seed for seed in by_seed[0] if seed is not None} & by_seed[1].keys())
    fewest, most = sorted(map(len, values))
    if len(shared) < max(2, fewest / 2):
        return metrics.compare_seeds(*values, paired=False), ""
    found = metrics.compare_seeds(*([of[seed] for seed in shared] for of in by_seed), paired=True)
    some = f"over the {len(shared)} seeds that both have, of {len(values[0])} and {len(values[1])}"
    return found, some if len(shared) < most else ""


# ----------------------------------------------------------------------------------------------
# What a reader has to know
# ----------------------------------------------------------------------------------------------


def caveats(groups: Sequence[Group], rows: Sequence[str]) -> list[str]:
    """Sentences on data, checkpoints and seeds that are not alike."""
    runs = [(group.name, run) for group in groups for run in group.runs]
    validation = [(name, entry_at(run.config, "data", "val", "sha256") or "") for name, run in runs]
    evaluated = [(name, run.ood) for name, run in runs if run.ood]
    checkpoints = [(name, ood.get("checkpoint", "")) for name, ood in evaluated]
    tags = [
        (name, "as written" if not ood.get("canonical_tags") else "--canonical_tags")
        for name, ood in evaluated
    ]
    notes = sides("validation sets differ", validation, named=False)
    notes += sides("evaluated out of distribution are different checkpoints", checkpoints)
    notes += sides("tags out of distribution are read in different ways", tags)
    if {checkpoint for _, checkpoint in checkpoints} == {"last.pth"}:
        notes.append("evaluated out of distribution is last.pth, not the best model")
    if unequal := budget_words([as_run(group) for group in groups]):
        notes.append(unequal.strip(" .").replace("U", "u", 1))
    return notes + [note for group in groups for note in lacking(group, rows)]


def sides(what: str, values: Sequence[tuple[str, str]], named: bool = True) -> list[str]:
    """A sentence that says which runs have which of several values; an unknown one is ""."""
    places = defaultdict(dict)
    for name, value in values:
        if value:
            places[value][name] = None
    if len(places) < 2:
        return []
    each = [", ".join(names) + (f" ({value})" if named else "") for value, names in places.items()]
    return [f"{what}: {' against '.join(each)}"]


def lacking(group: Group, rows: Sequence[str]) -> list[str]:
    """Which seeds of a run are left out of which rows that others of it have."""
    left_out = defaultdict(list)
    for row in rows:
        if len(have := group.seeds_with(row)) and len(have) < len(group.models):
            seeds = tuple(str(m.seed) for m in group.models if row not in m.answers)
            left_out[seeds].append(row)
    notes = []
    for seeds, of_rows in left_out.items():
        which = f"seed{'s' * (len(seeds) > 1)} {', '.join(seeds)}"
        where = of_rows[0] + (f" and {len(of_rows) - 1} more rows" if len(of_rows) > 1 else "")
        notes.append(
            f"{group.name}: {which} left out of {where}, without a number there; if training "
            "diverged, the mean of the others flatters the run"
        )
    return notes
