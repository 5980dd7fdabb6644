"""What a run is: command, commit, data, machine, seeds, dates. Facts of config.json, in words."""

import math
import shlex
from typing import NamedTuple

from reporting.gather import Records
from runtime.cli import count_text

PATHS_OF_DATA = ("train", "val", "tokenizer")


class Identity(NamedTuple):
    name: str
    summary: str  # a line below the name
    command: str  # "" where the run does not say
    facts: list[tuple[str, str]]
    hashes: list[tuple[str, str, str]]  # data file, what it is, SHA-256
    arguments: list[tuple[str, str]]


def identity(records: Records) -> Identity:
    config = records.run.config
    derived, data = config.get("derived", {}), config.get("data", {})
    facts = [
        ("Commit", commit_words(config)),
        ("Model", model_words(derived)),
        ("Training", training_words(records)),
        ("Seeds", seeds_words(config.get("seeds", []))),
        ("Machine", machine_words(config)),
        ("Software", software_words(config.get("versions", {}))),
        ("Begun", config.get("begun", "")),
        ("Extended", extended_words(config)),
        ("Duration", duration_words(last_value(records, "seconds"))),
        ("Evaluated", evaluated_words(records)),
    ]
    hashes = [
        (file_words(data[name].get("path", "")), what + held_out_words(data[name]), sha)
        for name, what in zip(PATHS_OF_DATA, ("training", "validation", "tokenizer"), strict=True)
        if (sha := data.get(name, {}).get("sha256"))
    ]
    given = config.get("arguments", {})
    return Identity(
        name=records.name,
        summary=summary(records),
        command=command_words(config.get("command")),
        facts=[(what, said) for what, said in facts if said],
        hashes=hashes,
        arguments=[(f"--{name}", str(value)) for name, value in given.items() if value is not None],
    )


def file_words(path: str) -> str:
    """The last two parts of a path of any system.

    >>> file_words("/home/me/data/add_only/train.pkl"), file_words("mine.txt")
    ('add_only/train.pkl', 'mine.txt')
    """
    return "/".join(str(path).replace("\\", "/").split("/")[-2:])


def extended_words(config: dict) -> str:
    """`begun for 2 epochs, went on to 3`, which the command that began the run does not say."""
    before, now = config.get("epochs_before"), config.get("arguments", {}).get("epochs")
    if not before or not now:
        return ""
    later = ", ".join(map(str, [*before[1:], now]))
    return f"begun for {count_text(before[0], 'epoch')}, went on to {later}"


def held_out_words(file: dict) -> str:
    """` (6 of its rows, held out of training)` of a file that gave both sets, else ""."""
    n = file.get("held_out_rows")
    return f" ({n:,} of its rows, held out of training)" if n else ""


def command_words(command) -> str:
    known = isinstance(command, list) and all(isinstance(word, str) for word in command)
    return shlex.join(command) if known else ""


def summary(records: Records) -> str:
    """`32 replicas of 100,736 parameters, each trained on 1,000 of 2,000 examples`."""
    run, about = records.run, records.panel.get("panel")
    n_params = run.config.get("derived", {}).get("n_params")
    size = f" of {n_params:,} parameters" if n_params else ""
    if about:
        return (
            f"{about['replicas']} replicas{size}, each trained on its own random "
            f"{about['n_members']:,} of {about['n_distinct']:,} examples"
        )
    n = max(len(run.seeds), len(run.memorization), len(run.ood.get("seeds", [])), 1)
    audit = run.config.get("data", {}).get("audit", {})
    rows, examples = audit.get("train_rows"), audit.get("train_examples")
    trained = f", trained on {rows:,} rows of {examples:,} examples" if rows and examples else ""
    return f"{n} {'seeds' if n > 1 else 'model'}{size}{trained}"


def commit_words(config: dict) -> str:
    commit = config.get("git_commit")
    changed = " (with changes that are in no commit)" if config.get("git_changed") else ""
    return f"{commit[:12]}{changed}" if isinstance(commit, str) else ""


def model_words(derived: dict) -> str:
    if not {"n_layers", "d_model", "n_heads"} <= derived.keys():
        return ""
    form = "SwiGLU" if derived.get("swiglu") else "GELU"
    dropout = derived.get("dropout", 0)
    return (
        f"{count_text(derived['n_layers'], 'layer')}, width {derived['d_model']}, "
        f"{count_text(derived['n_heads'], 'head')}, "
        f"{derived.get('pos', '')}, {form}, dropout {dropout:g}"
    )


def training_words(records: Records) -> str:
    epoch, step = (last_value(records, key) for key in ("epoch", "step"))
    if not math.isfinite(epoch):
        return ""
    planned = records.run.config.get("derived", {}).get("steps_total")
    of = f" of {planned:,}" if planned and planned > step else ""
    batch = records.run.config.get("derived", {}).get("effective_batch")
    rows = f" of {batch:,} rows" if batch else ""
    steps = f", {step:,.0f}{of} steps{rows}" if math.isfinite(step) else ""
    return count_text(int(epoch), "epoch") + steps


def last_value(records: Records, key: str) -> float:
    """The highest value that a seed of the run reached; nan without any."""
    rows = [seed[-1] for seed in records.run.seeds if seed]
    return max((row[key] for row in rows if key in row), default=math.nan)


def seeds_words(seeds: list[int]) -> str:
    """`0 to 31 (32)`, or each of them."""
    if len(seeds) > 3 and list(seeds) == list(range(seeds[0], seeds[0] + len(seeds))):
        return f"{seeds[0]} to {seeds[-1]} ({len(seeds)})"
    return ", ".join(map(str, seeds))


def machine_words(config: dict) -> str:
    platform = config.get("versions", {}).get("platform", "")
    threads = config.get("threads")
    parts = [config.get("device"), config.get("cpu_capability"), platform]
    parts += [f"{threads} thread{'s' * (threads != 1)}"] if threads else []
    parts += [config.get("derived", {}).get("precision")]
    return ", ".join(str(part) for part in parts if part)


def software_words(versions: dict) -> str:
    names = {"python": "Python", "torch": "torch", "numpy": "numpy", "cuda": "CUDA"}
    return ", ".join(f"{names[key]} {versions[key]}" for key in names if versions.get(key))


def duration_words(seconds: float) -> str:
    """
    >>> duration_words(75), duration_words(7300), duration_words(9.4)
    ('1 min 15 s', '2 h 1 min', '9 s')
    """
    if not math.isfinite(seconds):
        return ""
    minutes, hours = int(seconds) // 60, int(seconds) // 3600
    if hours:
        return f"{hours} h {minutes % 60} min"
    return f"{minutes} min {int(seconds) % 60} s" if minutes else f"{int(seconds)} s"


def evaluated_words(records: Records) -> str:
    ood, parts = records.run.ood, []
    if records.panel:
        epoch, step = (records.panel["panel"][key][-1] for key in ("epochs", "steps"))
        parts.append(f"memorization after epoch {epoch:,} (step {step:,})")
    if ood.get("checkpoint"):
        parts.append(f"out of distribution: {ood['checkpoint']}")
    return "; ".join(parts)
