"""Runs as groups of seeds: what each model answered, and which folders are seeds of one run."""

import json
import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, takewhile
from pathlib import Path

import numpy as np

import metrics
from data.tasks import TASKS
from runtime.errors import UserError
from runtime.ledger import LEDGER_FILE, read_ledger
from runtime.records import (
    CATEGORIES,
    Run,
    best_rows,
    decoded_name,
    held_out,
    held_out_key,
    how_runs_differ,
    in_order,
    is_number,
    ood_home,
    parse,
    read_memorization,
    read_run,
    seed_folders,
    value_at,
)

PANEL_ROWS = ("panel: trained on", "panel: not trained on", "panel: memory")
MEMORY = PANEL_ROWS[-1]  # the first minus the second


@dataclass(frozen=True)
class Answers:
    """What one model made of the examples of one row of the table."""

    value: float  # exact match, 0..1; of MEMORY a difference of two
    n: int
    source: str  # equal where two models were asked the same examples
    right: dict[str, bool] | None = None  # example -> right; None where a rate is all that was kept


@dataclass(frozen=True)
class Model:
    """One seed of a run, its best model by validation. `seed` is None where config.json is silent.

    `answers` holds the rows of the table that this model has numbers for.
    """

    seed: int | None
    answers: dict[str, Answers]


@dataclass(frozen=True)
class Group:
    """Seeds of one run, from one folder or several."""

    name: str
    runs: list[Run]
    models: list[Model]

    def seeds_with(self, row: str) -> list[Model]:
        return [model for model in self.models if row in model.answers]


# ----------------------------------------------------------------------------------------------
# Answers of one model
# ----------------------------------------------------------------------------------------------


def read_models(run: Run) -> list[Model]:
    """The models of a run folder or a folder of seeds, in the order of their seeds."""
    homes = seed_folders(run.folder)
    each = [read_run(home, home.name) for home in homes] if homes else [run]
    ood = read_ood(run)
    if not run.ood:  # each seed may have been evaluated by itself
        ood = {seed: found for seed_run in each for seed, found in read_ood(seed_run).items()}
    seeds = [seed_run.config.get("seed") for seed_run in each]
    if not any(seed_run.seeds for seed_run in each) and ood:  # a folder of results alone
        return [Model(seed, answers) for seed, answers in ood.items()]
    return [
        Model(seed, validation_answers(seed_run) | ood.get(seed, {}) | panel_answers(seed_run))
        for seed, seed_run in zip(seeds, each, strict=True)
    ]


def validation_answers(run: Run) -> dict[str, Answers]:
    """`unseen: add` and so on, and `unseen: all` of several tasks, of one seed's best model.

    A task counts once it has been trained. Each example's outcome stands in memorization.json; a
    run folder without it, or one whose validation examples are all seen, has rates alone.
    """
    best, held = best_rows(run), held_out([run])
    if not best:
        return {}
    row, answers = best[0], {}
    rates, ns = (row.get(held_out_key(run, f"val_{k}_by_task"), {}) for k in ("exact_match", "n"))
    tasks = in_order([task for task in rates if task in row.get("tasks", rates)], TASKS)
    outcomes = best_outcomes(run, row["epoch"])
    sha256 = run.config.get("data", {}).get("val", {}).get("sha256", run.folder)
    for name in [*tasks, *(["all"] if len(tasks) > 1 else [])]:
        own = tasks if name == "all" else [name]
        n = sum(ns.get(task, 0) for task in own)
        rate, n_all = (row.get(held_out_key(run, key)) for key in ("val_exact_match", "val_n"))
        value, n = (rate, n_all or n) if name == "all" else (rates[name], n)
        right = {example: right for example, (task, right) in outcomes.items() if task in own}
        if right:
            value, n = float(np.mean([*right.values()])), len(right)
        if is_number(value) and n >= 1:
            source = f"{sha256} {n} {own}"
            answers[f"{held}: {name}"] = Answers(value, int(n), source, right or None)
    return answers


def best_outcomes(run: Run, epoch: int) -> dict[str, tuple[str, bool]]:
    """example -> (task, right) of the best model, that of `epoch`, on unseen examples."""
    models = read_memorization(run.folder / "memorization.json")
    best = models.get("best", {})
    for report in (best, models.get("last", {})):
        rows = [row for row in report.get("by_repeat_count", []) if row["group"] == 0]
        same_model = report.get("epoch") == best.get("epoch") == epoch
        if rows and same_model and (found := metrics.task_and_outcome(rows[0])):
            return found
    return {}


def ood_row(category: str) -> str:
    return category.replace("_", " ") + (" (control)" if category == "interpolation" else "")


def read_ood(run: Run) -> dict[int | None, dict[str, Answers]]:
    """seed -> rows of the headline of each OOD category; the seed of a single model may be None."""
    if not run.ood:
        return {}
    folder = ood_home(run.folder)
    rights, suites = read_predictions(folder / "predictions.jsonl"), run.ood.get("suites", {})
    seeds = run.ood.get("seeds") or [run.config.get("seed", run.ood.get("seed"))]
    found = {seed: {} for seed in seeds}
    for category, stats in run.ood.get("headline", {}).items():
        of_category = {name: s for name, s in suites.items() if s.get("category") == category}
        asked = [
            [name, suite.get("sha256"), {k: n for k, n in suite.get("left_out", {}).items() if n}]
            for name, suite in sorted(of_category.items())
        ]
        source = json.dumps([run.ood.get("canonical_tags"), asked])
        values = stats.get("values", [stats.get("exact_match")])
        if len(values) != len(seeds):
            raise UserError(
                f"{folder / 'ood_results.json'} has {len(values)} values of {category} for "
                f"{len(seeds)} seeds; evaluate the model again"
            )
        for i, seed in enumerate(seeds):
            of_seed = rights.get(seed) or (rights.get(None) if len(seeds) == 1 else None) or {}
            right, value, n = of_seed.get(category), values[i], stats.get("n", 0)
            if right:
                value, n = float(np.mean([*right.values()])), len(right)
            if is_number(value) and n >= 1:
                found[seed][ood_row(category)] = Answers(value, int(n), source, right)
    return found


def read_predictions(path: Path) -> dict[int | None, dict[str, dict[str, bool]]]:
    """seed -> category -> example -> right, of the headline rows; {} where there is no file.

    An example is its suite, prompt and answer: rows that say the same count once.
    """
    found = {}
    lines = path.read_bytes().splitlines() if path.exists() else []
    for i, line in enumerate(lines, start=1):
        try:
            row = parse(line)
            if not row["in_headline"] or "correct" not in row:
                continue
            of_seed = found.setdefault(row.get("seed"), {}).setdefault(row["category"], {})
            of_seed["\t".join((row["suite"], row["prompt"], row["answer"]))] = bool(row["correct"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"{path}, line {i}, is no prediction of evaluate_ood.py ({error!r}); evaluate the "
                "model again"
            ) from None
    return found


def panel_answers(run: Run) -> dict[str, Answers]:
    """Exact match of a replica of a panel on training examples that it did and did not train on.

    Which those are was drawn by lot, so that the difference is the replica's memory. Of the last
    epoch in the ledger.
    """
    path = run.folder / LEDGER_FILE
    ledger = read_ledger(path) if path.exists() else None
    if ledger is None or not len(ledger.epochs) or len(set(ledger.members.tolist())) < 2:
        return {}
    exact, members = ledger.exact[-1, : ledger.n_train], ledger.members
    sha256 = run.config.get("data", {}).get("train", {}).get("sha256", run.folder)
    rates, ns = [], []
    for part in (members, ~members):
        rates.append(float(exact[part].mean()))
        ns.append(int(part.sum()))
    values = (*rates, rates[0] - rates[1])
    rows = zip(PANEL_ROWS, values, (*ns, ledger.n_train), strict=True)
    source = f"{sha256} {ledger.share}"
    return {row: Answers(value, n, source) for row, value, n in rows}


# ----------------------------------------------------------------------------------------------
# Rates of a group
# ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rate:
    """One run in one row: the mean over its seeds, and its 95 % interval; None where not known.

    Of several seeds the interval is for other seeds and other examples, of one for other examples.
    n counts the examples of one seed.
    """

    row: str
    run: str
    mean: float
    low: float | None
    high: float | None
    n: int
    values: list[float]  # of each seed


def rate_of(group: Group, row: str) -> Rate:
    answers = [model.answers[row] for model in group.seeds_with(row)]
    values = [answer.value for answer in answers]
    mean, low, high = float(np.mean(values)), None, None
    if row != MEMORY:
        stats = metrics.over_seeds([as_rate(answer) for answer in answers])
        low, high = stats["low"], stats["high"]
    elif len(values) > 1:
        half = metrics.seed_half_width(values)
        low, high = mean - half, mean + half
    return Rate(row, group.name, mean, low, high, answers[0].n, values)


def as_rate(answer: Answers) -> dict:
    rate = {"exact_match": answer.value, "n": answer.n}
    if answer.right is None:
        return rate
    names = sorted(answer.right)
    outcomes = metrics.outcomes(None, [answer.right[name] for name in names])
    return {**rate, "examples": "\n".join(names), **outcomes}


# ----------------------------------------------------------------------------------------------
# Groups of seeds
# ----------------------------------------------------------------------------------------------


def gather(runs: Sequence[Run]) -> tuple[list[Group], list[str]]:
    """Put folders that differ in the seed alone together, in the order of their first; and notes.

    Compared are settings and data, by config.json. Folders that hold one seed twice stay apart.
    """
    parts: list[list[tuple[Run, list[Model]]]] = []
    for run in runs:
        here = (run, read_models(run))
        place = next((part for part in parts if is_same_run(part[0][0], run)), None)
        if place is None:
            parts.append([here])
        else:
            place.append(here)
    notes, groups = [], []
    for part in parts:
        if twice := seeds_held_twice(part):
            notes.append(twice)
        for apart in [[one] for one in part] if twice else [part]:
            models = [model for _, models in apart for model in models]
            members = [run for run, _ in apart]
            if len(members) > 1:
                models.sort(key=lambda model: (model.seed is None, model.seed or 0))
            groups.append((members, models))
    order = [id(run) for run in runs]
    groups.sort(key=lambda group: order.index(id(group[0][0])))
    names = group_names([members for members, _ in groups])
    found = [
        Group(name, members, models) for name, (members, models) in zip(names, groups, strict=True)
    ]
    return found, notes + [note for group in found if (note := gathered_words(group))]


def is_same_run(first: Run, second: Run) -> bool:
    """Whether two folders have the same settings and data, as far as config.json says so."""
    configs = (first.config, second.config)
    for config in configs:
        known = config.get("arguments") and config.get("data", {}).get("train", {}).get("sha256")
        if not known or not isinstance(config.get("seed", config.get("seeds")), (int, list)):
            return False
    tokenizers = {entry_at(config, "data", "tokenizer", "sha256") for config in configs}
    # One that went on to more epochs took another course of the learning rate.
    lengths = {json.dumps(config.get("epochs_before")) for config in configs}
    return len(tokenizers) == len(lengths) == 1 and not how_runs_differ(*configs)


def seeds_held_twice(part: list[tuple[Run, list[Model]]]) -> str:
    """A sentence about folders of the same settings that share a seed, or ""."""
    for (run, models), (other, others) in combinations(part, 2):
        if shared := {m.seed for m in models} & {m.seed for m in others}:
            return (
                f"{run.name} and {other.name} have the same settings and both hold seed "
                f"{min(shared)}, so their seeds are not put together"
            )
    return ""


def gathered_words(group: Group) -> str:
    """Which folders a group is made of, and whether program or machine differ among them."""
    if len(group.runs) < 2:
        return ""
    names = ", ".join(run.name for run in group.runs)
    seeds = ", ".join(str(model.seed) for model in group.models)
    said = f"{group.name} is {names}: equal settings, seeds {seeds}"
    differing = [
        what
        for what, path in ORIGINS.items()
        if len({json.dumps(entry_at(run.config, *path)) for run in group.runs}) > 1
    ]
    epochs = sorted(last_of(run, "epoch") for run in group.runs)
    if epochs[0] < epochs[-1]:  # by early stopping, or one is still in training
        differing.append(f"how far they are, epochs {epochs[0]:,.0f} to {epochs[-1]:,.0f}")
    return said + (f"; they differ in {' and '.join(differing)}" if differing else "")


ORIGINS = {
    "the commit of the program": ("git_commit",),
    "the version of torch": ("versions", "torch"),
    "device": ("device",),
    "precision": ("derived", "precision"),
}


def entry_at(record: dict, *path: str):
    """What stands at a path of keys, None where nothing does."""
    for key in path:
        record = record.get(key) if isinstance(record, dict) else None
    return record


def group_names(groups: list[list[Run]]) -> list[str]:
    """A single folder keeps its name; several have the common part of theirs."""
    names = [
        runs[0].name if len(runs) == 1 else common_name([run.folder for run in runs])
        for runs in groups
    ]
    taken = Counter(names)
    return [
        f"{runs[0].name} and {len(runs) - 1} more" if len(runs) > 1 and taken[name] > 1 else name
        for name, runs in zip(names, groups, strict=True)
    ]


def common_name(folders: Sequence[Path]) -> str:
    """The common part of the folders' names, without what announces a seed.

    >>> common_name([Path("runs/wide_s0"), Path("runs/wide_s1"), Path("runs/wide_s10")])
    'wide'
    >>> common_name([Path("runs/s0_wide"), Path("runs/s1_wide")])
    'wide'
    >>> common_name([Path("wide/seed_0"), Path("wide/seed_1")])
    'wide'
    """
    names = [folder.resolve().name for folder in folders]
    before = common_start(names)
    rests = [name[len(before) :] for name in names]
    after = common_start([rest[::-1] for rest in rests])[::-1]
    if any(rest[:1].isdigit() for rest in rests):  # of s10 and s11 the 1 is no common part
        before, after = before.rstrip("0123456789"), after.lstrip("0123456789")
    before = re.sub(r"(^|[_\-. ]+)(s|seeds?)?[_\-. ]*$", "", before)
    name = (before + after).strip("_-. ")
    if name:
        return decoded_name(name)
    parents = list(dict.fromkeys(folder.resolve().parent for folder in folders))
    if len(parents) == 1:
        return decoded_name(parents[0].name)
    return f"{decoded_name(names[0])} and {len(names) - 1} more"


def common_start(names: Sequence[str]) -> str:
    letters = zip(*names, strict=False)
    return "".join(first for first, *others in takewhile(lambda same: len({*same}) == 1, letters))


def as_run(group: Group) -> Run:
    """The group as one run of several seeds, which the figures of several runs draw.

    Its results out of distribution are the headlines alone.
    """
    if len(group.runs) == 1:
        return group.runs[0]
    models = {run.memorization_of for run in group.runs if run.memorization}
    model = "last" if "last" in models else "best"
    kept = [run for run in group.runs if run.memorization_of == model]
    rows = {row for model in group.models for row in model.answers}
    headline = {
        category: {"n": rate.n, "exact_match": rate.mean, "exact_match_low": rate.low}
        | {"exact_match_high": rate.high, "values": rate.values}
        for category in CATEGORIES
        if ood_row(category) in rows
        for rate in [rate_of(group, ood_row(category))]
    }
    checkpoints = {run.ood["checkpoint"] for run in group.runs if "checkpoint" in run.ood}
    ood = {"headline": headline, "seeds": [model.seed for model in group.models]}
    if len(checkpoints) == 1:
        ood["checkpoint"] = checkpoints.pop()
    return Run(
        name=group.name,
        config=group.runs[0].config,
        seeds=[rows for run in group.runs for rows in run.seeds],
        memorization=[record for run in kept for record in run.memorization],
        memorization_of=model,
        ood=ood,
        folder=group.runs[0].folder,
    )


def budget_words(runs: Sequence[Run]) -> str:
    """In which of epochs, steps, parameters and training rows runs side by side differ."""
    words = []
    for what, of_run in BUDGETS.items():
        values = [value for value in map(of_run, runs) if math.isfinite(value)]
        if len(set(values)) > 1:
            words.append(f"{what} {min(values):,.0f} to {max(values):,.0f}")
    return f" Unequal budgets: {', '.join(words)}." if words else ""


def last_of(run: Run, key: str) -> float:
    """The highest epoch or step that a seed of the run reached; nan without any."""
    return max((value_at(row, key) for rows in run.seeds for row in rows[-1:]), default=math.nan)


def training_rows(run: Run) -> float:
    stages = run.config.get("derived", {}).get("stages", [])
    return value_at(stages[-1], "rows") if stages else math.nan


BUDGETS = {
    "epochs": lambda run: last_of(run, "epoch"),
    "steps": lambda run: last_of(run, "step"),
    "parameters": lambda run: value_at(run.config, "derived", "n_params"),
    "training rows": training_rows,
}


def row_names(groups: Sequence[Group]) -> list[str]:
    """The rows that some model has, in the order of the table: tasks, all, OOD, panel."""
    names = {row for group in groups for model in group.models for row in model.answers}
    held = [f"{word}: {task}" for word in ("unseen", "seen", "validation") for task in TASKS]
    ends = [f"{word}: all" for word in ("unseen", "seen", "validation")]
    others = sorted(name for name in names if ": " in name and not name.startswith("panel"))
    others = [name for name in others if name not in (*held, *ends)]
    categories = [ood_row(category) for category in CATEGORIES]
    last = sorted(names - {*held, *others, *ends, *categories, *PANEL_ROWS})
    order = [*held, *others, *ends, *categories, *last, *PANEL_ROWS]
    return [name for name in order if name in names]
