"""Evaluate a trained model out of distribution: results, every prediction, figures.

    python evaluate_ood.py --model runs/step1_add_only/best_model.pth
    python evaluate_ood.py --model runs/normal              # a folder of seeds: means over seeds
    python evaluate_ood.py --model runs/x/best_model.pth --ood_dir my_suites --canonical_tags
    python evaluate_ood.py --help

Every example is decoded greedily, character by character, until the model writes `<eos>` or 8
characters more than the answer has. Files written into --out_dir:

    predictions.jsonl   one line an example: what was asked, answered and expected, how sure the
                        model was (log_prob of the whole prediction, mean entropy a token, nats)
    ood_results.json    per suite, category, task and level: exact match with a 95 % interval,
                        computed from those lines by metrics.summarize
    *.png               the same as figures

Headlines count the examples a model could be asked: those whose tags were all trained and whose
characters the vocabulary has, and which a table of learned positions can hold. What is left out is
counted by reason, and its numbers stand under "all".

A folder of seeds gets both files in each `seed_<s>/ood_results/` too; the results in --out_dir are
then means over seeds, with intervals over seeds. Files are written when every suite is done, each
whole or not at all.
"""

import json
import sys
from collections import Counter, defaultdict
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import numpy as np
import torch

import metrics
from data.formats import (
    TAG,
    Tokenizer,
    build_examples,
    load_examples,
    load_tokenizer,
    pack,
    read_rows,
)
from data.generate import make_missing
from data.sources import require_file, standard_path
from data.tasks import TASKS, canonical_tags, size_of, spaced
from plots import figures_or_notice
from runtime.cli import Parser, path_text, run_main
from runtime.device import choose_device
from runtime.errors import UserError
from runtime.files import ROOT, check_writable, sha256_of, write_atomically, write_json
from runtime.records import CATEGORIES, CONFIG, in_order, read_json, seed_folders
from train_minigpt_4070 import GPT, RUN_ON, generate, load_model

STANDARD_SUITES = ROOT / "ood_data_complete"
REASONS = {  # why an example is left out of the headline; of several the first one counts
    "untrained_tag": "have a tag that was never trained",
    "unknown_characters": "have characters the vocabulary lacks",
    "beyond_position_table": "are longer than the table of learned positions and cannot be run",
}
OF_A_PREDICTION = (
    *("prediction", "correct", "kind", "token_accuracy", "edit_distance"),
    *("log_prob", "entropy"),
)

# ----------------------------------------------------------------------------------------------
# Model: one checkpoint, or several seeds stacked as replicas
# ----------------------------------------------------------------------------------------------


def find_checkpoints(model):
    """The checkpoint at `model` itself, in the run folder `model`, or in each of its seed_<s>/."""
    seeds = seed_folders(model)
    if seeds:
        trained = read_json(model / "config.json", CONFIG).get("seeds", [])
        lost = [f"seed_{seed}" for seed in trained if model / f"seed_{seed}" not in seeds]
        if lost:
            raise UserError(
                f"{model} was trained with seeds whose folders are gone ({', '.join(lost)}); "
                "restore them, or give the others one by one"
            )
        return [p / "best_model.pth" for p in seeds]
    return [model / "best_model.pth" if model.is_dir() else model]


def load_replicas(paths, device):
    """Return (a GPT with one replica a checkpoint, the checkpoints).

    What decides which examples are asked, and how they are judged, must be the same in all.
    """
    loaded = [load_model(path, device) for path in paths]
    models, checkpoints = [model for model, *_ in loaded], [found[2] for found in loaded]
    for path, checkpoint in zip(paths, checkpoints, strict=True):
        for name in ("arch", "vocab", "trained_tags", "trained_length"):
            if checkpoint[name] != checkpoints[0][name]:
                raise UserError(
                    f"{path} differs from {paths[0]} in {name}, so they are not seeds of one run; "
                    "evaluate each by itself"
                )
    stacked = GPT(models[0].config, [0] * len(models)).to(device)
    for name, p in stacked.named_parameters():
        p.data = torch.cat([model.get_parameter(name).data for model in models])
    return stacked.eval(), checkpoints


def agreed_tokenizer(path, vocab, model_path):
    """The checkpoint's vocabulary, with which the tokenizer file at `path`, if any, must agree."""
    if path is not None:
        given = load_tokenizer(path).itos
        if given != vocab:
            odd = [i for i, pair in enumerate(zip_longest(given, vocab)) if len(set(pair)) == 2]
            raise UserError(
                f"the tokenizer {path} ({len(given)} tokens) is not the one that {model_path} was "
                f"trained with ({len(vocab)} tokens): they differ at id {odd[0]}; give that one, "
                "or leave --tokenizer out"
            )
    return Tokenizer(vocab)


# ----------------------------------------------------------------------------------------------
# Suites
# ----------------------------------------------------------------------------------------------


@dataclass
class Suite:
    path: Path
    category: str
    examples: object  # train_minigpt_4070.Examples
    tags: list  # of each prompt: ["rev", "sort"] for `[rev] [sort] 3 1 2 | 3 2 1`
    mapped: dict  # tags that --canonical_tags replaced -> those they became, as "sort copy"


def in_brackets(tags):
    return " ".join(f"[{tag}]" for tag in tags)


def category_of(given, name):
    """One of CATEGORIES for the category in a file, or else its name; else the file's own word.

    >>> category_of("ext", "ood_x"), category_of("", "ood_extrap_rev"), category_of("", "mine")
    ('extrapolation', 'extrapolation', 'other')
    """
    words = [given.lower(), *name.lower().split("_")]
    found = [c for word in words for c in CATEGORIES if len(word) > 2 and c.startswith(word)]
    return found[0] if found else given or "other"


def find_suites(folder):
    """Paths of the data files in `folder`; the standard folder is filled if it has none."""
    if made := make_missing(folder):
        print(f"made the standard suites in {made[0].parent}", flush=True)
    if not folder.is_dir():
        is_what = "is a file" if folder.exists() else "does not exist"
        raise UserError(
            f"--ood_dir {folder} {is_what}; give a folder of suites, or leave it out for the "
            "standard ones"
        )
    kinds = (".pkl", ".jsonl", ".txt")
    files = [p for p in sorted(folder.glob("*")) if p.suffix in kinds and p.name[0] != "."]
    names = Counter(path.stem for path in files)
    if not names:
        raise UserError(f"--ood_dir {folder} holds no suite (no .pkl, .jsonl or .txt file)")
    if names.most_common(1)[0][1] > 1:
        raise UserError(f"{folder} has two suites of the name {names.most_common(1)[0][0]}")
    return files


def load_suite(path, tokenizer, map_tags_but=None):
    """Load a suite; with `map_tags_but` all tags but these become their canonical ones."""
    examples, mapped = load_examples(path, tokenizer), {}
    tags = [list(examples.all_tags[i]) for i in range(len(examples))]
    if map_tags_but:
        others = {tag for found in tags for tag in found}.difference(map_tags_but)
        mapped = {tag: spaced(canonical_tags(tag)) for tag in others}
        mapped = {tag: to for tag, to in mapped.items() if to != tag}

        def canonical(match):
            return in_brackets(mapped[match[1]].split()) if match[1] in mapped else match[0]

        raws = [
            TAG.sub(canonical, examples.prompt(i)) + examples.answer(i)
            for i in range(len(examples))
        ]
        examples = build_examples(raws, tokenizer, path, examples.levels, examples.category)
        tags = [list(examples.all_tags[i]) for i in range(len(examples))]
    return Suite(path, category_of(str(examples.category), path.stem), examples, tags, mapped)


@dataclass
class Training:
    path: str
    sha256: str
    keys: np.ndarray  # int64: hashes of the canonical keys of its examples
    sizes: dict  # task -> [smallest, largest]: items, digits or hops


def load_training(checkpoint, override, tokenizer):
    """Return (Training, or None where its file is not at hand, and a notice or "")."""
    known = checkpoint["data"]["train"]
    path = override or known["path"]
    if override:
        path = require_file(path, "the training set")
    elif not Path(path).is_file():
        return None, (
            f"overlap with the training set is unknown: {path} is not there, as seen from "
            f"{Path.cwd()}; --train_data says where it is now"
        )
    digest, notice = sha256_of(path), ""
    if digest != known["sha256"]:
        notice = f"{path} is not the file the model was trained on (its SHA-256 differs)"
        if not override:
            return None, f"{notice}; --train_data takes one all the same"
    examples, sizes = pack(read_rows(path), tokenizer, path), {}
    for task in TASKS:
        try:
            seen = {size_of(examples.raw(i)) for i in np.flatnonzero(examples.tags.isin([task]))}
        except (ValueError, IndexError):  # prompts of another grammar have no size
            continue
        if seen:
            sizes[task] = [min(seen), max(seen)]
    return Training(str(path), digest, np.unique(examples.keys), sizes), notice


def audit(suite, checkpoint, training):
    """What can be said of each example before it is run: bool [n] each, by name."""
    examples, arch = suite.examples, checkpoint["arch"]
    trained = set(checkpoint["trained_tags"])
    limit = arch["max_len"] - RUN_ON if arch["pos"] == "learned" else np.inf
    facts = {
        "untrained_tag": np.array([not trained.issuperset(tags) for tags in suite.tags]),
        "unknown_characters": np.isin(np.arange(len(examples)), examples.with_unknown()),
        "beyond_position_table": examples.lengths > limit,
        "beyond_training_length": examples.lengths > checkpoint["trained_length"],
    }
    if training is not None:
        facts["seen_in_training"] = np.isin(examples.keys, training.keys)
    return facts


# ----------------------------------------------------------------------------------------------
# Predictions: the lines of predictions.jsonl, from which every result is computed
# ----------------------------------------------------------------------------------------------


def predict(model, tokenizer, examples, runnable, device):
    """What every replica makes of every example: [R] lists of n dicts, None for what is not run."""
    columns = np.flatnonzero(runnable)
    made = [[dict.fromkeys(OF_A_PREDICTION)] * len(runnable) for _ in range(model.R)]
    if not len(columns):
        return made
    rows = np.broadcast_to(columns, (model.R, len(columns)))
    generated = generate(model, examples, rows, tokenizer.eos, device)
    answers = [examples.answer(i) for i in columns]
    for r in range(model.R):
        texts = [tokenizer.decode(ids) for ids in generated.ids[r]]
        values = (
            texts,
            metrics.exact_match(texts, answers).tolist(),
            metrics.failure_kinds(texts, answers),
            metrics.token_accuracy(texts, answers).tolist(),
            metrics.edit_distance(texts, answers).tolist(),
            generated.log_prob[r].tolist(),
            generated.entropy[r].tolist(),
        )
        for i, *row in zip(columns, *values, strict=True):
            made[r][i] = dict(zip(OF_A_PREDICTION, row, strict=True))
    return made


def run_suite(model, tokenizer, suite, facts, seeds, device):
    """The lines of predictions.jsonl of every replica, [R] lists of n dicts."""
    examples, seen = suite.examples, facts.get("seen_in_training")
    made = predict(model, tokenizer, examples, ~facts["beyond_position_table"], device)
    lines = [[] for _ in seeds]
    for i in range(len(examples)):
        why = next((reason for reason in REASONS if facts[reason][i]), None)
        about = {
            "suite": suite.path.stem,
            "category": suite.category,
            "task": examples.tasks[i],
            "tag": examples.tags[i],
            "level": examples.levels[i] if examples.levels else None,
            "prompt": examples.prompt(i),
            "answer": examples.answer(i),
            "in_headline": why is None,
            "why_left_out": why,
            "seen_in_training": None if seen is None else bool(seen[i]),
        }
        for r, seed in enumerate(seeds):
            lines[r].append({"seed": seed, **about, **made[r][i]})
    return lines


# ----------------------------------------------------------------------------------------------
# Results
# ----------------------------------------------------------------------------------------------


def stats(rows):
    """metrics.summarize of those rows that were run; None if there are none.

    "outcomes" has the examples' own, in the order of the rows, for `over_seeds` to read and drop.
    """
    rows = [row for row in rows if row["prediction"] is not None]
    if not rows:
        return None
    predictions, answers = ([row[key] for row in rows] for key in ("prediction", "answer"))
    right = "".join("01"[p == a] for p, a in zip(predictions, answers, strict=True))
    return {**metrics.summarize(predictions, answers), "outcomes": right}


def grouped(rows, *keys):
    """Lists of rows by their values under `keys`, ascending, numbers before texts."""
    groups = defaultdict(list)
    for row in rows:
        groups[tuple(row[key] for key in keys)].append(row)
    return sorted(groups.items(), key=lambda item: [(isinstance(v, str), v) for v in item[0]])


def suite_results(suite, facts, rows, trained_tags):
    """What ood_results.json says of a suite. By task and level go over the headline, or over all
    examples where none is in it.
    """
    headline = [row for row in rows if row["in_headline"]]
    counted = [row for row in headline or rows if row["prediction"] is not None]
    with_level = [row for row in counted if row["level"] is not None]
    seen = facts.get("seen_in_training")
    return {
        "category": suite.category,
        "sha256": sha256_of(suite.path),
        "n": len(rows),
        "n_distinct": len(np.unique(suite.examples.keys)),
        "n_headline": len(headline),
        "left_out": {why: sum(row["why_left_out"] == why for row in rows) for why in REASONS},
        "untrained_tags": sorted({t for tags in suite.tags for t in tags} - set(trained_tags)),
        "mapped_tags": suite.mapped,
        "all": stats(rows),
        "headline": stats(headline),
        "by_task": {task: stats(group) for (task,), group in grouped(counted, "task")},
        "by_level": [
            {"task": task, "level": level, **stats(group)}
            for (task, level), group in grouped(with_level, "task", "level")
        ],
        "share_unk": float(facts["unknown_characters"].mean()),
        "share_untrained_tags": float(facts["untrained_tag"].mean()),
        "share_beyond_training_length": float(facts["beyond_training_length"].mean()),
        "overlap_with_training": None if seen is None else float(seen.mean()),
    }


def headline_by_category(rows):
    """category -> stats of its headline rows over all suites, None for one without any."""
    return {
        category: stats([row for row in group if row["in_headline"]])
        for (category,), group in grouped(rows, "category")
    }


def over_seeds(results):
    """Merge R like-shaped results: every set of stats in them becomes its mean over seeds.

    The interval of exact match is then that of `metrics.over_seeds`, for other seeds and other
    examples; "values" has each seed's rate, and n stays the examples of one seed. A single seed
    keeps Wilson's interval. What is no set of stats is the same in all and taken once. The results
    have no "outcomes": predictions.jsonl has every example.
    """
    first = results[0]
    if isinstance(first, list):
        return [over_seeds(rows) for rows in zip(*results, strict=True)]
    if not isinstance(first, dict):
        return first
    keys = [key for key in first if key != "outcomes"]
    merged = {key: over_seeds([result[key] for result in results]) for key in keys}
    if "exact_match" in first and len(results) > 1:
        means = metrics.over_seeds(results)
        for key, name in (("", "mean"), ("_low", "low"), ("_high", "high")):
            merged[f"exact_match{key}"] = means[name]
        merged["values"] = means["values"]
        for key in ("oracle_length_exact_match", "token_accuracy", "edit_distance"):
            merged[key] = float(np.mean([result[key] for result in results]))
        for kind in metrics.FAILURES:
            merged["failures"][kind] = float(np.mean([r["failures"][kind] for r in results]))
    return merged


# ----------------------------------------------------------------------------------------------
# What is printed
# ----------------------------------------------------------------------------------------------

HEADER = (
    f"{'suite':19}{'tasks':24}{'n':>6}   {'exact match, 95 % interval':28}"
    f"{'oracle length':>13}{'edit distance':>15}   most frequent failure"
)


def table_line(name, tasks, result):
    """One line of the table; `result` is a set of stats, or None where no example counts."""
    tasks = " ".join(in_order(tasks, TASKS))
    start = f"{name.removeprefix('ood_')[:18]:19}{tasks[:23]:24}"
    if result is None:
        return f"{start}{0:>6}   none counts: every example is left out, see below"
    interval = f" [{result['exact_match_low']:.1%}, {result['exact_match_high']:.1%}]"
    kind = max(result["failures"], key=result["failures"].get)
    share = result["failures"][kind] / result["n"]
    return (
        f"{start}{result['n']:>6,}   {result['exact_match']:6.1%}{interval:22}"
        f"{result['oracle_length_exact_match']:>13.1%}{result['edit_distance']:>15.3f}   "
        + (f"{kind.replace('_', ' ')} {share:.1%}" if share else "none")
    )


def remarks(results):
    """In plain words: tags mapped, examples left out of the headline and why, examples seen."""
    lines, suites = [results["notice"]] if results["notice"] else [], results["suites"]
    mapped = {tag: to for suite in suites.values() for tag, to in suite["mapped_tags"].items()}
    untrained = {tag for suite in suites.values() for tag in suite["untrained_tags"]}
    if mapped:
        pairs = [
            f"[{tag}] was read as {in_brackets(to.split())}" for tag, to in sorted(mapped.items())
        ]
        read = ", ".join(pairs)
        lines.append(f"--canonical_tags: {read}")
    n = sum(suite["n"] for suite in suites.values())
    for why, what in REASONS.items():
        counts = {name: suite["left_out"][why] for name, suite in suites.items()}
        if any(counts.values()):
            which = f" ({in_brackets(sorted(untrained))})" if why == "untrained_tag" else ""
            some = [name.removeprefix("ood_") for name, k in counts.items() if k]
            line = f"left out {sum(counts.values()):,} of {n:,} that {what}{which}, in "
            lines.append(line + ", ".join(some))
    for name, suite in suites.items():
        if share := suite["overlap_with_training"]:
            lines.append(f"{name}: {share:.1%} are examples of the training set (not left out)")
    for tag in sorted(untrained):
        if set(to := canonical_tags(tag)) <= set(results["trained_tags"]):
            lines.append(f"--canonical_tags would read [{tag}] as the trained {in_brackets(to)}")
    return lines


def control(results):
    """Unseen examples of the sizes trained on: (right, n) over the levels of interpolation."""
    right, n, sizes = 0.0, 0, results["training_range"] or {}
    for suite in results["suites"].values():
        if suite["category"] == "interpolation" and suite["headline"]:
            for row in suite["by_level"]:
                low, high = sizes.get(row["task"], (1, 0))
                if isinstance(row["level"], int) and low <= row["level"] <= high:
                    right, n = right + row["exact_match"] * row["n"], n + row["n"]
    return right, n


def advice(results, out_dir, figures):
    """Where the results are, and what to look at next."""
    files = ["ood_results.json", "predictions.jsonl", *(path.name for path in figures)]
    lines, (right, n) = [f"in {out_dir}: {', '.join(files)}"], control(results)
    if n:
        sizes = ", ".join(f"{t} {a} to {b}" for t, (a, b) in results["training_range"].items())
        lines.append(
            f"compare with {right / n:.1%}, the exact match on the {n:,} interpolation examples of "
            f"the sizes trained on ({sizes}): what is wrong there was not learned at all"
        )
    lines.append("where oracle length is above exact match, right answers end in the wrong place")
    return lines


# ----------------------------------------------------------------------------------------------
# Evaluation
# ----------------------------------------------------------------------------------------------


def find_out_dir(model, given, ood_dir):
    """--out_dir, by default `ood_results` beside the model; UserError if it cannot be that."""
    home = model if model.is_dir() else model.parent
    out_dir = Path(given) if given else home / "ood_results"
    if out_dir.resolve() == ood_dir.resolve():
        raise UserError(f"--out_dir {out_dir} is the folder of the suites; give another one")
    return out_dir


def write_results(folder, results, lines):
    text = "".join(json.dumps(line, allow_nan=False) + "\n" for line in lines)
    write_atomically(folder / "predictions.jsonl", text)
    write_json(folder / "ood_results.json", results)


def evaluate(args):
    """Run every suite, print the table and write the results. Returns those in --out_dir."""
    # Everything is loaded, and every mistake told, before anything is run or written.
    ood_dir = standard_path(args.ood_dir) if args.ood_dir else STANDARD_SUITES
    out_dir = find_out_dir(Path(args.model), args.out_dir, ood_dir)
    paths, device = find_checkpoints(Path(args.model)), choose_device(args.device)
    homes = [path.parent / "ood_results" for path in paths] if len(paths) > 1 else []
    model, checkpoints = load_replicas(paths, device)
    first, seeds = checkpoints[0], [checkpoint["seed"] for checkpoint in checkpoints]
    trained = first["trained_tags"]
    tokenizer = agreed_tokenizer(args.tokenizer, first["vocab"], paths[0])
    for folder in (out_dir, *homes):
        check_writable(folder)
    keep = trained if args.canonical_tags else None
    suites = [load_suite(path, tokenizer, keep) for path in find_suites(ood_dir)]
    places = in_order({suite.category for suite in suites}, CATEGORIES)
    suites.sort(key=lambda suite: (places.index(suite.category), suite.path.stem))
    training, notice = load_training(first, args.train_data, tokenizer)

    print(f"{args.model}, trained on {in_brackets(sorted(trained))}, on {device}")
    if len(seeds) > 1:
        listed = ", ".join(map(str, seeds))
        print(f"means over seeds {listed}; intervals for other seeds and other examples")
    print(f"\n{HEADER}", flush=True)
    lines, by_suite = [[] for _ in seeds], [{} for _ in seeds]  # [R] each
    for suite in suites:
        name, facts = suite.path.stem, audit(suite, first, training)
        run = run_suite(model, tokenizer, suite, facts, seeds, device)
        for r, rows in enumerate(run):
            lines[r] += rows
            by_suite[r][name] = suite_results(suite, facts, rows, trained)
        result = over_seeds([results[name] for results in by_suite])
        print(table_line(name, result["by_task"], result["headline"]), flush=True)

    common = {
        "format": 1,
        "trained_tags": trained,
        "trained_length": first["trained_length"],
        "ood_dir": str(ood_dir),
        "canonical_tags": args.canonical_tags,
        "training_set": training and {"path": training.path, "sha256": training.sha256},
        "training_range": training and training.sizes,
        "notice": notice,
    }
    each = []
    for r, path in enumerate(paths):
        about = {"model": str(path), "seed": seeds[r], "epoch": checkpoints[r]["epoch"], **common}
        each.append({**about, "headline": headline_by_category(lines[r]), "suites": by_suite[r]})
    together, each = over_seeds(each), [over_seeds([results]) for results in each]
    if len(seeds) > 1:
        for home, results, rows in zip(homes, each, lines, strict=True):
            write_results(home, results, rows)
        epochs = [results["epoch"] for results in each]
        together |= {"model": str(args.model), "seed": None, "seeds": seeds, "epoch": epochs}
    write_results(out_dir, together, [row for rows in lines for row in rows])
    figures, notice = figures_or_notice(out_dir, out_dir)
    said = [*remarks(together), *advice(together, out_dir, figures), *filter(None, [notice])]
    print("", *said, sep="\n")
    return together


# ----------------------------------------------------------------------------------------------
# Command line
# ----------------------------------------------------------------------------------------------


def build_parser():
    parser = Parser(__doc__)
    g = parser.add_argument_group("model")
    g.add_argument(
        "--model",
        type=path_text,
        required=True,
        help="checkpoint, run folder, or folder of seeds",
    )
    g.add_argument(
        "--tokenizer",
        type=path_text,
        help="tokenizer JSON that must agree with the checkpoint (default: none is needed)",
    )
    g.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:<n>")

    g = parser.add_argument_group("data")
    g.add_argument(
        "--ood_dir",
        type=path_text,
        help="folder of suites, .pkl, .jsonl or .txt (default: the standard suites, "
        "ood_data_complete/ beside this script, made if it has none)",
    )
    g.add_argument(
        "--canonical_tags",
        action="store_true",
        help="read untrained tags of the earlier program as trained ones: sorting_extrap as sort, "
        "copy_then_sort as [sort] [copy]",
    )
    g.add_argument(
        "--train_data",
        type=path_text,
        help="training set to look for overlap with (default: the one the checkpoint names)",
    )

    g = parser.add_argument_group("results")
    g.add_argument(
        "--out_dir",
        type=path_text,
        help="folder to write (default: ood_results beside the model)",
    )
    return parser


def main(argv=None):
    return run_main(lambda: evaluate(build_parser().parse_args(argv)))


if __name__ == "__main__":
    sys.exit(main())
