"""What a run wrote of itself, read back and checked: the numbers that figures are drawn from.

A file may be missing, and so may any key in one. What is there must have the shape declared here,
or one UserError names the file, the place in it, and what should stand there.
"""

import json
import math
import os
import re
import reprlib
from dataclasses import dataclass, field, replace
from pathlib import Path

from runtime.errors import UserError
from runtime.ledger import CANARIES_FILE, LEDGER_FILE

CATEGORIES = (  # of OOD suites, in the order of tables and figures: the control first
    "interpolation",
    "extrapolation",
    "compositional",
    "systematic",
    "edge_cases",
    "robustness",
    "novel_tasks",
)
# Arguments that do not change the numbers of a run: a resumed run may change them.
FREE_ARGUMENTS = {"resume", "overwrite", "dry_run", "show_samples", "save_every", "tensorboard"}
FREE_ARGUMENTS |= {"save_every_steps"}
FREE_ARGUMENTS |= {"out_dir", "data", "val_data", "tokenizer"}  # paths; the content has its SHA-256

# ----------------------------------------------------------------------------------------------
# Shapes
# ----------------------------------------------------------------------------------------------


def is_number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e15


KINDS = {  # in words -> whether a value is one
    "a number": is_number,
    "a number from 0 to 1": lambda v: is_number(v) and 0 <= v <= 1,
    "a number from -1 to 1": lambda v: is_number(v) and -1 <= v <= 1,
    "a number from 0 on": lambda v: is_number(v) and v >= 0,
    "a whole number from 0 on": lambda v: is_number(v) and v >= 0 and v == int(v),
    "a pair of numbers": lambda v: isinstance(v, list) and len(v) == 2 and all(map(is_number, v)),
    "a text of 0 and 1": lambda v: isinstance(v, str) and set(v) <= set("01"),
    "a whole number from 1 on as a text": lambda v: re.fullmatch("[1-9][0-9]{0,14}", v) is not None,
    "a text": lambda v: isinstance(v, str) and v.isprintable(),
    "a text of any characters": lambda v: isinstance(v, str),
}
NUMBER, RATE, DIFFERENCE, AMOUNT, COUNT, PAIR, BITS, COUNT_KEY, TEXT, STRING = KINDS
EACH, EACH_COUNT = object(), object()  # stand for every key, which is a text or a COUNT_KEY


def with_ends(kind, *names):
    return {f"{name}{end}": kind for name in names for end in ("", "_low", "_high")}


CONFIG = {
    "seed": COUNT,
    "seeds": [COUNT],
    "arguments": {},
    "data": {
        "audit": dict.fromkeys(
            ("train_rows", "train_examples", "val_rows", "val_seen", "val_unseen"), COUNT
        ),
        **{name: {"sha256": TEXT} for name in ("train", "val", "tokenizer")},
    },
    "derived": {
        "stages": [{"tasks": [TEXT]}],
        **dict.fromkeys(("n_params", "n_layers", "d_model", "n_heads", "effective_batch"), COUNT),
        **{"steps_total": COUNT, "dropout": AMOUNT, "pos": TEXT, "precision": TEXT},
    },
    "versions": dict.fromkeys(("python", "torch", "numpy", "platform", "cuda"), TEXT),
    **{"threads": COUNT, "command": [STRING], "begun": TEXT, "git_commit": TEXT},
}
EPOCH = {
    **dict.fromkeys(("epoch", "step", "examples_seen", "val_n", "val_n_seen", "train_n"), COUNT),
    **dict.fromkeys(("lr", "train_loss", "val_loss", "val_loss_seen", "seconds"), NUMBER),
    "seed": COUNT,
    **with_ends(RATE, "val_exact_match", "train_exact_match", "val_exact_match_seen"),
    **with_ends(DIFFERENCE, "generalization_gap", "gap", "gap_to_seen"),
    "tasks": [TEXT],
    **{f"val_exact_match_by_task{end}": {EACH: RATE} for end in ("", "_seen")},
    **{f"val_n_by_task{end}": {EACH: COUNT} for end in ("", "_seen")},
    "train_exact_match_by_repeat_count": {EACH_COUNT: RATE},
    "train_n_by_repeat_count": {EACH_COUNT: COUNT},
    **{f"val_failures{end}": {EACH: AMOUNT} for end in ("", "_seen")},
}
RATES = {"n": COUNT, **with_ends(RATE, "exact_match"), "loss": NUMBER}
RATES |= {"examples": TEXT, "outcomes": BITS}  # which examples, and which of them are right
RATES |= {"chance": RATE, "lookup": {EACH: AMOUNT}}  # exact match without a model
BY_COUNT = {"group": COUNT, **RATES, "by_task": [{"group": TEXT, **RATES}]}
MODEL = {"epoch": COUNT, "step": COUNT, "held_out": TEXT, "by_repeat_count": [BY_COUNT]}
MODEL |= {"by_task": [{"group": TEXT, **RATES}]}
MEMORIZATION = {"format": COUNT, "best": MODEL, "last": MODEL}
STATS = {**RATES, "values": [RATE], "oracle_length_exact_match": RATE, "failures": {EACH: AMOUNT}}
SUITE = {
    "category": TEXT,
    "headline": STATS,
    "all": STATS,
    "by_task": {EACH: STATS},
    "by_level": [{"task": TEXT, **STATS}],
    "n": COUNT,
    "left_out": {EACH: COUNT},
    "n_outside_training_range": COUNT,
}
OOD_FILE = "ood_results.json"
OOD = {
    "headline": {EACH: STATS},
    "suites": {EACH: SUITE},
    "training_range": {EACH: PAIR},
    "seed": COUNT,
    "seeds": [COUNT],
    "checkpoint": TEXT,
    "passed_over": [STRING],
}


def check(value, shape, where):
    """UserError naming the place where `value` has another shape; unknown keys are ignored."""
    is_kind = isinstance(shape, str)
    what = shape if is_kind else "an object" if isinstance(shape, dict) else "a list"
    if not (KINDS[shape](value) if is_kind else isinstance(value, type(shape))):
        raise UserError(
            f"{where} should be {what}, not {reprlib.repr(value)}; write the file again"
        )
    if isinstance(shape, list):
        for i, item in enumerate(value):
            check(item, shape[0], f"{where}[{i}]")
    elif isinstance(shape, dict):
        every = next((each for each in (EACH, EACH_COUNT) if each in shape), None)
        for key, item in value.items():
            if every is not None:
                check(key, TEXT if every is EACH else COUNT_KEY, f"{where}: a key")
            if key in shape or every is not None:
                check(item, shape.get(key, shape.get(every)), f"{where}: {key}")


# ----------------------------------------------------------------------------------------------
# Run folders
# ----------------------------------------------------------------------------------------------


RUN_FILES = ("config.json", "metrics.jsonl", "samples.jsonl", "memorization.json")
RUN_FILES += (LEDGER_FILE, CANARIES_FILE)
CHECKPOINTS = ("best_model.pth", "last.pth", "previous.pth", "next.pth")
CONFIG_KEYS = {"arguments", "seeds", "derived", "data"}


def seed_folder(folder, seed, seeds):
    """A run of one seed is the folder itself; of several, each has its own in it."""
    return folder if len(seeds) == 1 else folder / f"seed_{seed}"


def seed_folders(folder):
    """The folders `seed_<s>` that hold a run, ascending in s; [] in the folder of one seed."""
    found = [p for p in Path(folder).glob("seed_*") if re.fullmatch("seed_[0-9]+", p.name)]
    return sorted(filter(holds_run, found), key=lambda p: int(p.name[5:]))


def is_run_config(path):
    """Whether this file, called config.json as many are, is one that a run wrote.

    One that cannot be read counts as damaged where a checkpoint stands beside it.
    """
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return any((path.parent / name).exists() for name in CHECKPOINTS)
    return isinstance(content, dict) and content.keys() >= CONFIG_KEYS


def holds_run(folder):
    """Whether a run wrote a file that stands in this folder."""
    names = {*RUN_FILES, *CHECKPOINTS} - {"config.json"}
    return any((folder / name).exists() for name in names) or is_run_config(folder / "config.json")


def check_seeds(folders):
    """Raise UserError unless these folders hold seeds of one run, which differ in the seed alone.

    Compared are their config.json files; what one of them does not say is not compared.
    """
    configs = [(folder, read_json(folder / "config.json", CONFIG)) for folder in folders]
    by_seed, first = {}, next(((f, c) for f, c in configs if c), (None, {}))
    for folder, config in configs:
        known = by_seed.setdefault(config.get("seed", folder), folder)
        if known != folder:
            raise UserError(
                f"{folder} and {known} both hold seed {config['seed']}, so a mean would count it "
                "twice; take one of them away"
            )
        if difference := config and how_runs_differ(config, first[1]):
            raise UserError(
                f"{folder} differs from {first[0]} in {difference}, so they are not seeds of one "
                "run; put them in folders of their own"
            )


def how_runs_differ(config, other):
    """The first difference between two configs that is more than the seed, in words, or ""."""
    for name, what in (("train", "training set"), ("val", "validation set")):
        here, there = (c.get("data", {}).get(name, {}).get("sha256") for c in (config, other))
        if here and there and here != there:
            return f"its {what}"
    free = {*FREE_ARGUMENTS, "seed", "device"}
    here, there = (c.get("arguments", {}) for c in (config, other))
    for name in sorted({*here, *there} - free) if here and there else ():
        if here.get(name) != there.get(name):
            return f"--{name} ({here.get(name)} and {there.get(name)})"
    return ""


@dataclass(frozen=True)
class Run:
    """`seeds` holds one entry per seed; a single run has one.

    `memorization` has those of the seeds' last models, or, where there is none, of their best, each
    with its "seed", None where config.json does not say.
    """

    name: str
    config: dict
    seeds: list[list[dict]]  # lines of metrics.jsonl: one a validation, or an epoch
    memorization: list[dict]
    memorization_of: str  # "last" or "best"
    ood: dict
    folder: Path
    notes: list[str] = field(default_factory=list)  # what of it was not taken


def parse(text):
    """JSON in bytes; null, NaN and Infinity are as good as missing. ValueError if it is none."""

    def known(record):
        return {key: value for key, value in record.items() if value is not None}

    try:
        return json.loads(text, object_hook=known, parse_constant=lambda _: None)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def read_json(path, shape):
    """The object in a file, of that shape; {} where there is no file."""
    if not path.exists():
        return {}
    try:
        record = parse(path.read_bytes())
    except ValueError as error:
        raise UserError(f"{path} is not readable as JSON ({error}); write it again") from None
    check(record, shape, f"{path}")
    return record


def place_of(row):
    """Where in its run a row of metrics.jsonl stands; several may be of one epoch."""
    return row["epoch"], row.get("step", 0)


def read_epochs(path):
    """Rows of metrics.jsonl, ascending in epoch and step; [] where there is no file.

    A torn last line (a run still writing) is ignored. After a resume from an earlier place the
    lines from there on appear twice; the later ones count.
    """
    rows = []
    lines = path.read_bytes().split(b"\n") if path.exists() else []
    lines = [(i, line) for i, line in enumerate(lines, start=1) if line.strip()]
    for i, line in lines:
        where = f"{path}, line {i}"
        try:
            row = parse(line)
        except ValueError:
            if i == lines[-1][0]:
                break
            raise UserError(f"{where}, is not a JSON object; remove it") from None
        check(row, EPOCH, where)
        row.setdefault("epoch", len(rows) + 1)
        for end in ("low", "high"):  # named as every other interval is
            row[f"generalization_gap_{end}"] = row.get(f"gap_{end}")
        while rows and place_of(rows[-1]) >= place_of(row):
            rows.pop()
        rows.append(row)
    return rows


def read_memorization(path):
    """What memorization.json says of each model, {"best": …, "last": …}, where it can be used.

    A model is there with those rows of "by_repeat_count" that are whole, if it has any.
    """
    record, models = read_json(path, MEMORIZATION), {}
    if record and record.get("format") != 2:
        raise UserError(
            f"{path} is of an earlier version; train the model again, or remove the file"
        )
    for name in ("best", "last"):
        rows = record.get(name, {}).get("by_repeat_count", [])
        rows = [row for row in rows if {"group", "n", "exact_match"} <= row.keys()]
        if rows:
            models[name] = {**record[name], "by_repeat_count": rows}
    return models


class NoRun(UserError):
    """A path where nothing of a run is found."""


def contents_of(folder):
    """What a folder holds, in a few words."""
    names = sorted(path.name + "/" * path.is_dir() for path in folder.iterdir())
    more = f" and {len(names) - 4:,} more" if len(names) > 4 else ""
    return ", ".join(names[:4]) + more if names else "nothing at all"


def unique_names(folders):
    """The last part of each path, with as many parents as tell them apart.

    A byte that is no UTF-8 stands as `\\xff`: no font draws it, and no new folder should have it.
    """
    paths = [folder.resolve() for folder in folders]
    depth = 2 if any(path.name == "ood_results" for path in paths) else 1
    while len({path.parts[-depth:] for path in paths}) < len(paths):
        depth += 1
    return [decoded_name("/".join(path.parts[-depth:])) for path in paths]


def decoded_name(name):
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def load_run(folder, name):
    """Read a run folder, a folder of seeds, or one that holds nothing but ood_results.json."""
    if folder.is_file():
        raise NoRun(f"{folder} is a file; name a run folder, as in runs/step1_add_only")
    if not folder.is_dir():
        raise UserError(f"{folder} does not exist; name a run folder, as in runs/step1_add_only")
    run = read_run(folder, name)
    if not (run.seeds or run.memorization or run.ood):
        runs_in_it = [path for path in sorted(folder.iterdir()) if holds_run(path)]
        do = f"let train_minigpt_4070.py --out_dir {folder} finish an epoch"
        if is_run_config(folder / "config.json"):
            do += ", with a lower --lr if it diverged"
        elif runs_in_it:
            do = f"one of the folders in {folder}, as {runs_in_it[0]}"
        raise NoRun(
            f"{folder} holds no run: no epoch in a metrics.jsonl and no ood_results.json, but "
            f"{contents_of(folder)}; name a run folder, or {do}"
        )
    return run


def ood_home(folder):
    """Where the results of the suites stand: `ood_results/` of a run, or the folder itself."""
    home = folder / "ood_results"
    return home if (home / OOD_FILE).exists() else folder


def read_run(folder, name):
    """What load_run reads, which may be nothing: a seed that diverged in its first epoch."""
    folders = seed_folders(folder) or [folder]
    check_seeds(folders)
    seeds = [read_epochs(home / "metrics.jsonl") for home in folders]
    models = [read_memorization(home / "memorization.json") for home in folders]
    model = "last" if any("last" in of_seed for of_seed in models) else "best"
    configs = [read_json(home / "config.json", CONFIG) for home in folders]
    run = Run(
        name=name,
        config=read_json(folder / "config.json", CONFIG),
        seeds=[rows for rows in seeds if rows],
        memorization=[
            {**of_seed[model], "seed": of_home.get("seed")}
            for of_seed, of_home in zip(models, configs, strict=True)
            if model in of_seed
        ],
        memorization_of=model,
        ood=read_json(ood_home(folder) / OOD_FILE, OOD),
        folder=folder,
    )
    note = evaluated_before(run)
    return replace(run, ood={}, notes=[note]) if note else run


def evaluated_before(run):
    """That the suites were asked of best models which the run, going on, has replaced; or ""."""
    if run.ood.get("checkpoint") != "best_model.pth":
        return ""
    then, now = run.ood.get("step"), {row.get("seed"): row.get("step") for row in best_rows(run)}
    seeds = run.ood.get("seeds", [run.ood.get("seed")])
    of_each = then if isinstance(then, list) else [then]
    for seed, step in zip(seeds, of_each, strict=False):
        if is_number(step) and is_number(now.get(seed)) and step != now[seed]:
            whose = f" of seed {seed}" if len(seeds) > 1 else ""
            return (
                f"the results of the suites are left out: they are of step {step:,}{whose}, and "
                f"best_model.pth is of step {now[seed]:,} now; run evaluate_ood.py again"
            )
    return ""


# ----------------------------------------------------------------------------------------------
# What a run says
# ----------------------------------------------------------------------------------------------


def held_out(runs):
    """What validation examples are: "unseen", or where all stand in the training set "seen"."""
    audits = [run.config.get("data", {}).get("audit", {}) for run in runs]
    words = {"seen" if audit.get("val_unseen") == 0 else "unseen" for audit in audits}
    return words.pop() if len(words) == 1 else "validation"


def held_out_key(run, name):
    """The key of `name` in metrics.jsonl on unseen examples, or on seen ones where all are seen."""
    if held_out([run]) != "seen":
        return name
    return "gap_to_seen" if name == "generalization_gap" else f"{name}_seen"


def best_rows(run):
    """Per seed the epoch of the best model; the last validated one where none is marked."""
    key = held_out_key(run, "val_exact_match")
    validated = [[r for r in rows if key in r] for rows in run.seeds]
    marked = [[r for r in rows if r.get("best")] or rows for rows in validated]
    return [rows[-1] for rows in marked if rows]


def value_at(record, *path):
    """The number at a path of keys, nan where there is none."""
    for key in path:
        record = record.get(key) if isinstance(record, dict) else None
    return float(record) if is_number(record) else math.nan


def in_order(names, first):
    return [n for n in first if n in names] + sorted(n for n in names if n not in first)


def stage_starts(run, key="epoch"):
    """The first epoch, or another place by its `key`, of each curriculum stage reached, with the
    tasks that are new in it.
    """
    starts, known = [], set()
    for row in run.seeds[0] if run.seeds else []:
        new = [task for task in row.get("tasks", []) if task not in known]
        known |= set(new)
        starts += [(row[key], new)] if new else []
    return starts
