"""Evaluate a trained model out of distribution, or ask it one prompt.

    python evaluate_ood.py --model runs/step1_add_only/best_model.pth
    python evaluate_ood.py --model runs/normal              # a folder of seeds: means over seeds
    python evaluate_ood.py --model runs/x/best_model.pth --ood_dir my_suites --canonical_tags
    python evaluate_ood.py --model runs/x --prompt '[add] 12 + 30'    # one question, or - for many
    python evaluate_ood.py --help

--prompt prints each character's probability, whether the example was in training and how often, the
nearest training example, and in a panel what those models say that did not train on it. Nothing is
written. Without it the suites are run.

Every example is decoded greedily, character by character, until the model writes `<eos>` or 8
characters more than the answer has. Files written into --out_dir, by default `ood_results` beside
the model; of another checkpoint than best_model.pth or of other suites than the standard ones into
a folder that says so, as `ood_results_last` or `ood_results_my_suites`:

    predictions.jsonl   one line an example: what was asked, answered and expected, how sure the
                        model was (log_prob of the whole prediction, mean entropy a token, nats)
    ood_results.json    per suite, category, task and level: exact match with a 95 % interval,
                        computed from those lines by metrics.summarize
    *.png               the same as figures

Headlines count the examples a model could be asked: those whose tags were all trained and whose
characters the vocabulary has, and which a table of learned positions can hold. Interpolation is the
control, so its headline has only sizes and lengths that this model was trained on. What is left out
is counted by reason, and its numbers stand under "all".

A folder of seeds gets both files in each `seed_<s>/` too, in a folder of the same name; the results
in --out_dir are then means over seeds, with intervals for other seeds and other examples. A seed
without a usable model is passed over with a note. Files are written when every suite is done, each
whole or not at all.
"""

import json
import sys
from collections import defaultdict
from contextlib import redirect_stdout
from pathlib import Path

from runtime.cli import Parser, answer_early, path_text, run_main

# ----------------------------------------------------------------------------------------------
# Command line
# ----------------------------------------------------------------------------------------------


def build_parser() -> Parser:
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

    g = parser.add_argument_group("a prompt instead of suites")
    g.add_argument(
        "--prompt",
        metavar="TEXT",
        help="ask `[tag] prompt`, or `[tag] prompt | answer` to compare; - reads a line each from "
        "the terminal or a pipe",
    )
    g.add_argument("--json", action="store_true", help="answer with a JSON object a prompt")

    g = parser.add_argument_group("data")
    g.add_argument(
        "--ood_dir",
        type=path_text,
        help="folder of suites, .pkl, .jsonl, .txt, .csv or .tsv (default: the standard suites, "
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
    g.add_argument("--out_dir", type=path_text, help="folder to write (default: see above)")
    return parser


if __name__ == "__main__":  # --help and mistakes in flags need not wait for the imports below
    answer_early(build_parser().parse_args)


# ----------------------------------------------------------------------------------------------
# Imports that take seconds
# ----------------------------------------------------------------------------------------------

import numpy as np
import torch

import metrics
from data.baselines import (
    LOOKUPS,
    chance_of,
    look_up,
    lookup_words,
    mean_lookup,
)
from data.checks import form_notes
from data.formats import (
    Tokenizer,
)
from data.readers import RowFormat
from data.sources import standard_path
from data.tasks import TASKS, canonical_tags
from evaluation.ask import Session, converse
from evaluation.models import Replicas, agreed_tokenizer, find_checkpoints, load_replicas
from evaluation.suites import (
    REASONS,
    Suite,
    audit,
    find_suites,
    in_brackets,
    load_suite,
    suites_written_otherwise,
)
from evaluation.training import Training, index_training, load_training, read_training
from plots import figures_or_notice, remove_figures
from report import page_line
from runtime.device import choose_device
from runtime.errors import UserError
from runtime.files import ROOT, check_writable, sha256_of, write_atomically, write_json
from runtime.ledger import CANARIES_FILE
from runtime.records import CATEGORIES, CONFIG, in_order, read_json
from train_minigpt_4070 import GPT, generate

STANDARD_SUITES = ROOT / "ood_data_complete"
OF_A_PREDICTION = (
    *("prediction", "correct", "kind", "token_accuracy", "edit_distance"),
    *("log_prob", "entropy"),
)

# ----------------------------------------------------------------------------------------------
# Predictions: the lines of predictions.jsonl, from which every result is computed
# ----------------------------------------------------------------------------------------------


class PredictionsNotFinite(Exception):
    """The scores of the replicas `rows` overflowed, though their weights are finite."""

    def __init__(self, rows: list[int]):
        super().__init__(rows)
        self.rows = rows


def predict_rows(
    model: GPT, tokenizer: Tokenizer, examples, runnable: np.ndarray, device: torch.device
) -> list[list[dict]]:
    """What every replica makes of every example: [R] lists of n dicts, None for what is not run."""
    columns = np.flatnonzero(runnable)
    made = [[dict.fromkeys(OF_A_PREDICTION)] * len(runnable) for _ in range(model.R)]
    if not len(columns):
        return made
    rows = np.broadcast_to(columns, (model.R, len(columns)))
    generated = generate(model, examples, rows, tokenizer.eos, device)
    finite = (np.isfinite(generated.log_prob) & np.isfinite(generated.entropy)).all(axis=1)
    if not finite.all():
        raise PredictionsNotFinite(np.flatnonzero(~finite).tolist())
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


def lookup_right(suite: Suite, training: Training | None, seeds: list[int]) -> list[dict]:
    """{row: the baselines of LOOKUPS that answer it} for each seed; without rows not asked."""
    if training is None:
        return [{}] * len(seeds)
    found = {}  # by the training rows, which all seeds but those of a panel share
    for train in (training.lookup[seed] for seed in seeds):
        if id(train) not in found:
            lookup = look_up(suite.examples, np.arange(len(suite.examples)), train)
            found[id(train)] = {
                int(row): [name for name in LOOKUPS if lookup.right[name][i]]
                for i, row in enumerate(lookup.rows)
            }
    return [found[id(training.lookup[seed])] for seed in seeds]


def run_suite(
    replicas: Replicas,
    tokenizer: Tokenizer,
    suite: Suite,
    facts: dict[str, np.ndarray],
    lookup: list[dict[int, list[str]]],
    device: torch.device,
) -> list[list[dict]]:
    """The lines of predictions.jsonl of every replica, [R] lists of n dicts; lookup [R] too."""
    examples, seen = suite.examples, facts.get("seen_in_training")
    runnable = ~facts["beyond_position_table"]
    made = predict_rows(replicas.model, tokenizer, examples, runnable, device)
    lines = [[] for _ in replicas.seeds]
    for i in range(len(examples)):
        why = next((reason for reason in REASONS if facts[reason][i]), None)
        level = examples.levels[i] if examples.levels else None
        about = {
            "suite": suite.path.stem,
            "category": suite.category,
            "task": examples.tasks[i],
            "tag": examples.tags[i],
            "level": None if isinstance(level, str) else level,
            "level_text": level if isinstance(level, str) else None,  # a column has one type
            "prompt": examples.prompt(i),
            "answer": examples.answer(i),
            "in_headline": why is None,
            "why_left_out": why,
            "in_training_range": bool(facts["in_training_range"][i]),
            "seen_in_training": None if seen is None else bool(seen[i]),
        }
        for r, seed in enumerate(replicas.seeds):
            looked_up = {"lookup_right": lookup[r].get(i)}
            lines[r].append({"seed": seed, **about, **looked_up, **made[r][i]})
    return lines


# ----------------------------------------------------------------------------------------------
# Results
# ----------------------------------------------------------------------------------------------


def lookup_of(rows: list[dict]) -> dict | None:
    """{"n", and the exact match of each of LOOKUPS} on the rows that were asked; None if none."""
    right = [row["lookup_right"] for row in rows if row["lookup_right"] is not None]
    rates = {name: sum(name in found for found in right) / len(right) for name in LOOKUPS if right}
    return {"n": len(right), **rates} if right else None


def distinct(rows: list[dict]) -> list[dict]:
    """The first of each row that stands several times in a suite: all would narrow intervals."""
    first = {}
    for row in rows:
        first.setdefault((row["suite"], row["prompt"], row["answer"]), row)
    return list(first.values())


def stats(rows: list[dict]) -> dict | None:
    """metrics.summarize of those rows that were run; None if there are none.

    "outcomes" has the examples' own, in the order of the rows, for `merge_seeds` to read and drop.
    """
    rows = [row for row in rows if row["prediction"] is not None]
    if not rows:
        return None
    predictions, answers = ([row[key] for row in rows] for key in ("prediction", "answer"))
    right = "".join("01"[p == a] for p, a in zip(predictions, answers, strict=True))
    summary = metrics.summarize(predictions, answers)
    chance = chance_of([row["task"] for row in rows], [row["answer"] for row in rows])
    beside = {"chance": chance, "lookup": lookup_of(rows)}
    return {**summary, **beside, "outcomes": right}


def grouped(rows, *keys):
    """Lists of rows by their values under `keys`, ascending, numbers before texts."""
    groups = defaultdict(list)
    for row in rows:
        groups[tuple(row[key] for key in keys)].append(row)
    return sorted(groups.items(), key=lambda item: [(isinstance(v, str), v) for v in item[0]])


def suite_results(
    suite: Suite, facts: dict[str, np.ndarray], rows: list[dict], trained_tags: list[str]
) -> dict:
    """What ood_results.json says of a suite. By task and level go over the headline, or over all
    examples where none is in it.
    """
    n_rows, rows = len(rows), distinct(rows)
    headline = [row for row in rows if row["in_headline"]]
    counted = [row for row in headline or rows if row["prediction"] is not None]
    levels = [row["level"] if row["level_text"] is None else row["level_text"] for row in counted]
    with_level = [
        {**row, "level": level}
        for row, level in zip(counted, levels, strict=True)
        if level is not None
    ]
    seen = facts.get("seen_in_training")
    return {
        "category": suite.category,
        "sha256": sha256_of(suite.path),
        "n_rows": n_rows,
        "n": len(rows),
        "n_distinct": len(np.unique(suite.examples.keys)),
        "n_headline": len(headline),
        "left_out": {why: sum(row["why_left_out"] == why for row in rows) for why in REASONS},
        "n_outside_training_range": sum(not row["in_training_range"] for row in headline),
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


def headline_by_category(rows: list[dict]) -> dict[str, dict | None]:
    """category -> stats of its headline rows over all suites, None for one without any."""
    return {
        category: stats([row for row in group if row["in_headline"]])
        for (category,), group in grouped(distinct(rows), "category")
    }


def merge_seeds(results: list) -> object:
    """Merge R like-shaped results: every set of stats in them becomes its mean over seeds.

    The interval of exact match is then that of `metrics.over_seeds`, for other seeds and other
    examples; "values" has each seed's rate, and n stays the examples of one seed. A single seed
    keeps Wilson's interval. What is no set of stats is the same in all and taken once. The results
    have no "outcomes": predictions.jsonl has every example.
    """
    first = results[0]
    if isinstance(first, list):
        return [merge_seeds(rows) for rows in zip(*results, strict=True)]
    if not isinstance(first, dict):
        return first
    keys = [key for key in first if key != "outcomes"]
    merged = {key: merge_seeds([result[key] for result in results]) for key in keys}
    if "exact_match" in first and len(results) > 1:
        means = metrics.over_seeds(results)
        for key, name in (("", "mean"), ("_low", "low"), ("_high", "high")):
            merged[f"exact_match{key}"] = means[name]
        merged["values"] = means["values"]
        merged["lookup"] = mean_lookup([result["lookup"] for result in results])
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
    f"{'lookup':15}{'oracle length':>13}{'edit distance':>15}   most frequent failure"
)


def table_line(name: str, tasks, result: dict | None) -> str:
    """One line of the table; `result` is a set of stats, or None where no example counts."""
    tasks = " ".join(in_order(tasks, TASKS))
    start = f"{name.removeprefix('ood_')[:18]:19}{tasks[:23]:24}"
    if result is None:
        return f"{start}{0:>6}   none counts: every example is left out, see below"
    interval = f" [{result['exact_match_low']:.1%}, {result['exact_match_high']:.1%}]"
    kind = max(result["failures"], key=result["failures"].get)
    share = result["failures"][kind] / result["n"]
    chance = result["chance"] or 0
    near = chance >= 0.001 and chance >= result["exact_match_low"]
    return (
        f"{start}{result['n']:>6,}   {result['exact_match']:6.1%}{interval:22}"
        f"{lookup_words(result['lookup']):15}"
        f"{result['oracle_length_exact_match']:>13.1%}{result['edit_distance']:>15.3f}   "
        + (f"{kind.replace('_', ' ')} {share:.1%}" if share else "none")
        + (f"; chance is {chance:.1%}" if near else "")
    )


def range_remarks(suites: dict[str, dict]) -> list[str]:
    """Which headlines mix examples inside and outside the sizes and lengths trained on."""
    lines = []
    for where in ("outside", "within"):  # of extrapolation, what lies within is the surprise
        counts = []
        for name, suite in suites.items():
            outside, n = suite["n_outside_training_range"], suite["n_headline"]
            of_kind = outside if where == "outside" else n - outside
            extrapolates = suite["category"] == "extrapolation"
            if of_kind and extrapolates == (where == "within"):
                counts.append(f"{name.removeprefix('ood_')} {of_kind:,} of {n:,}")
        if counts:
            lines.append(
                f"{where} the sizes or lengths trained on, and counted: {', '.join(counts)}"
            )
    return lines


def remarks(results: dict) -> list[str]:
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
    lines += range_remarks(suites)
    for name, suite in suites.items():
        if (share := suite["overlap_with_training"]) and not suite["left_out"]["in_training_set"]:
            lines.append(f"{name}: {share:.1%} are examples of the training set (not left out)")
    lines += form_notes(results["form_differences"])
    for tag in sorted(untrained):
        if set(to := canonical_tags(tag)) <= set(results["trained_tags"]):
            lines.append(f"--canonical_tags would read [{tag}] as the trained {in_brackets(to)}")
    return lines


def advice(results: dict, out_dir: Path, figures: list[Path]) -> list[str]:
    """Where the results are, and what to look at next."""
    files = ["ood_results.json", "predictions.jsonl", *(path.name for path in figures)]
    lines = [f"in {out_dir}: {', '.join(files)}"]
    control, ranges = results["headline"].get("interpolation"), results["training_range"]
    if control and ranges:
        sizes = ", ".join(f"{task} {low} to {high}" for task, (low, high) in ranges.items())
        lines.append(
            f"compare with {control['exact_match']:.1%}, the exact match on the {control['n']:,} "
            f"interpolation examples of the sizes trained on ({sizes}): what is wrong there was "
            "not learned at all"
        )
    if any(results["headline"].values()):
        lines.append(
            "where oracle length is above exact match, right answers end in the wrong place"
        )
    else:
        lines.append(
            "no example counts, for the reasons above; --ood_dir reads a folder of your own "
            f"suites, such as .txt files with lines `{in_brackets(results['trained_tags'][:1])} "
            "prompt | answer`"
        )
    return lines


# ----------------------------------------------------------------------------------------------
# Evaluation
# ----------------------------------------------------------------------------------------------


def results_folder_name(model: Path, ood_dir: Path) -> str:
    """`ood_results`, which names the checkpoint and the suites where they are not the usual ones.

    >>> results_folder_name(Path("runs/x/last.pth"), Path("my_suites"))
    'ood_results_last_my_suites'
    """
    parts = ["ood_results"]
    if not model.is_dir() and model.name != "best_model.pth":
        parts.append(model.stem)
    if ood_dir.resolve() != STANDARD_SUITES.resolve():
        parts.append(ood_dir.resolve().name)
    return "_".join(parts)


def find_out_dir(model: Path, given: str | None, ood_dir: Path) -> Path:
    """--out_dir, by default beside the model; UserError if it cannot be that."""
    home = model if model.is_dir() else model.parent
    out_dir = Path(given) if given else home / results_folder_name(model, ood_dir)
    if out_dir.resolve() == ood_dir.resolve():
        raise UserError(f"--out_dir {out_dir} is the folder of the suites; give another one")
    return out_dir


def write_results(folder: Path, results: dict, lines: list[dict]) -> None:
    text = "".join(json.dumps(line, allow_nan=False) + "\n" for line in lines)
    write_atomically(folder / "predictions.jsonl", text)
    write_json(folder / "ood_results.json", results)
    remove_figures(folder)  # those of earlier results


def evaluate_suites(
    replicas: Replicas,
    tokenizer: Tokenizer,
    suites: list[Suite],
    training: Training | None,
    device: torch.device,
) -> tuple[list[list[dict]], list[dict]]:
    """Run every suite and print its line of the table: (lines of predictions, results), [R] each.

    PredictionsNotFinite names the replicas whose scores overflow.
    """
    first = replicas.checkpoints[0]
    print(f"\n{HEADER}", flush=True)
    lines, by_suite = [[] for _ in replicas.seeds], [{} for _ in replicas.seeds]
    for suite in suites:
        name, facts = suite.path.stem, audit(suite, first, training)
        lookup = lookup_right(suite, training, replicas.seeds)
        run = run_suite(replicas, tokenizer, suite, facts, lookup, device)
        for r, rows in enumerate(run):
            lines[r] += rows
            by_suite[r][name] = suite_results(suite, facts, rows, first["trained_tags"])
        result = merge_seeds([results[name] for results in by_suite])
        print(table_line(name, result["by_task"], result["headline"]), flush=True)
    return lines, by_suite


def usable_replicas(paths: list[Path], device: torch.device) -> Replicas:
    replicas, notes = load_replicas(paths, device)
    for note in notes:
        print(f"note: {note}; this seed is passed over")
    return replicas


def opening(model: Path, replicas: Replicas, device: torch.device) -> str:
    """What is asked: the checkpoint, its epoch and step, the tags it was trained on."""
    first, seeds = replicas.checkpoints[0], replicas.seeds
    what = f"{replicas.paths[0]} (epoch {first['epoch']}, step {first['step']:,})"
    if len(seeds) > 1:
        what = f"{model}, {replicas.paths[0].name} of each of {len(seeds)} seeds"
    return f"{what}, trained on {in_brackets(first['trained_tags'])}, on {device}"


def print_opening(model: Path, replicas: Replicas, device: torch.device) -> None:
    seeds = replicas.seeds
    print(opening(model, replicas, device))
    if len(seeds) > 1:
        listed = ", ".join(map(str, seeds))
        print(f"means over seeds {listed}; intervals for other seeds and other examples")


def about_training(training: Training | None, seed: int) -> dict:
    """What results say of the training set that they compare with."""
    if training is None:
        return {"training_set": None, "training_range": None}
    of = {"path": training.path, "sha256": training.sha256}
    of["lookup_rows"] = len(training.lookup[seed].tags)
    return {"training_set": of, "training_range": training.sizes}


def without_diverged(replicas: Replicas, rows: list[int], device: torch.device) -> Replicas:
    """The replicas but those in `rows`, with a notice; UserError where none is left."""
    bad = [replicas.paths[r] for r in rows]
    predict, their = ("predicts", "its") if len(bad) == 1 else ("predict", "their")
    who = ", ".join(map(str, bad))
    problem = f"{who} {predict} no finite numbers; {their} training had diverged"
    left = [path for path in replicas.paths if path not in bad]
    if not left:
        raise UserError(f"{problem}; train again with a lower --lr")
    print(f"note: {problem}; passed over, and the table begins again")
    return usable_replicas(left, device)


def evaluate(args) -> dict:
    """Run every suite, print the table and write the results. Returns those in --out_dir."""
    # Everything is loaded, and every mistake reported, before anything is run or written.
    ood_dir = standard_path(args.ood_dir) if args.ood_dir else STANDARD_SUITES
    model = Path(args.model)
    out_dir = find_out_dir(model, args.out_dir, ood_dir)
    paths, device = find_checkpoints(model), choose_device(args.device)
    replicas = usable_replicas(paths, device)
    first = replicas.checkpoints[0]
    tokenizer = agreed_tokenizer(args.tokenizer, first["vocab"], replicas.paths[0])
    name = results_folder_name(model, ood_dir)
    homes = {path: path.parent / name for path in paths} if len(paths) > 1 else {}
    for folder in (out_dir, *homes.values()):
        check_writable(folder)
    keep = first["trained_tags"] if args.canonical_tags else None
    row_format = RowFormat.of(first["data"]["train"])  # suites have the columns of the training set
    suites = [load_suite(path, tokenizer, keep, row_format) for path in find_suites(ood_dir)]
    places = in_order({suite.category for suite in suites}, CATEGORIES)
    suites.sort(key=lambda suite: (places.index(suite.category), suite.path.stem))
    training, notice = load_training(replicas.checkpoints, args.train_data, tokenizer)

    # A seed that predicts no finite numbers leaves, and the others are asked again.
    while True:
        print_opening(model, replicas, device)
        try:
            lines, by_suite = evaluate_suites(replicas, tokenizer, suites, training, device)
            break
        except PredictionsNotFinite as error:
            replicas = without_diverged(replicas, error.rows, device)

    # The results: of each seed beside its checkpoint, and of all together.
    common = {
        "format": 1,
        "checkpoint": replicas.paths[0].name,
        "trained_tags": first["trained_tags"],
        "trained_length": first["trained_length"],
        "ood_dir": str(ood_dir),
        "canonical_tags": args.canonical_tags,
        **about_training(training, replicas.seeds[0]),
        "form_differences": suites_written_otherwise(suites, training, tokenizer),
        "notice": notice,
    }
    each = []
    for r, (path, checkpoint) in enumerate(zip(replicas.paths, replicas.checkpoints, strict=True)):
        about = {"model": str(path), **{key: checkpoint[key] for key in ("seed", "epoch", "step")}}
        headline = headline_by_category(lines[r])
        each.append({**about, **common, "headline": headline, "suites": by_suite[r]})
    together, each = merge_seeds(each), [merge_seeds([results]) for results in each]
    if homes:
        for path, results, rows in zip(replicas.paths, each, lines, strict=True):
            write_results(homes[path], results, rows)
        when = {key: [results[key] for results in each] for key in ("epoch", "step")}
        together |= {"model": str(model), "seed": None, "seeds": replicas.seeds, **when}
        together["passed_over"] = [str(path) for path in paths if path not in replicas.paths]
    write_results(out_dir, together, [row for rows in lines for row in rows])
    figures, not_drawn = figures_or_notice(out_dir, out_dir)
    home = out_dir.parent if out_dir.name == "ood_results" else out_dir
    said = [*remarks(together), *advice(together, out_dir, figures), *filter(None, [not_drawn])]
    said.append(page_line(home))
    print("", *said, sep="\n")
    return together


# ----------------------------------------------------------------------------------------------
# A prompt instead of suites
# ----------------------------------------------------------------------------------------------


def subset_in_config(folder: Path) -> float | None:
    """--subset of the run in `folder`: None without it, or where the folder does not say."""
    return read_json(folder / "config.json", CONFIG).get("arguments", {}).get("subset")


def find_canaries(home: Path) -> Path | None:
    """canaries.jsonl of the run, or of the seed of a run, in `home`; None where it has none."""
    found = (folder / CANARIES_FILE for folder in (home, home.parent))
    return next(filter(Path.is_file, found), None)


def open_session(args) -> Session:
    """Load the models and find their training set, from which all prompts are answered."""
    model, device = Path(args.model), choose_device(args.device)
    paths = find_checkpoints(model)
    if len(paths) > 1 and subset_in_config(model) is not None:  # memory is read at the last step
        paths = [path.with_name("last.pth") for path in paths]
    replicas = usable_replicas(paths, device)
    first = replicas.checkpoints[0]
    tokenizer = agreed_tokenizer(args.tokenizer, first["vocab"], replicas.paths[0])
    rows, notice = read_training(first, args.train_data, tokenizer)
    home = replicas.paths[0].parent
    share = first.get("subset", subset_in_config(home))
    index = rows and index_training(rows, replicas.seeds, share, find_canaries(home), tokenizer)
    if not args.json:
        said = [opening(model, replicas, device), *([f"note: {notice}"] if notice else [])]
        print(*said, sep="\n", flush=True)
    return Session(replicas, tokenizer, device, index, notice, args.canonical_tags)


def ask(args) -> None:
    """Answer --prompt; nothing is written."""
    if args.ood_dir or args.out_dir:
        raise UserError(
            "--prompt asks no suites and writes nothing; leave out --ood_dir, --out_dir"
        )
    # What loading says is no answer, for a program that reads the answers.
    with redirect_stdout(sys.stderr if args.json else sys.stdout):
        session = open_session(args)
    converse(session, args.prompt, args.json)


# ----------------------------------------------------------------------------------------------
# Main
# ----------------------------------------------------------------------------------------------


def run(args) -> None:
    if args.json and args.prompt is None:
        raise UserError("--json is of --prompt; evaluation writes ood_results.json")
    if args.prompt is None:
        evaluate(args)
    else:
        ask(args)


def main(argv: list[str] | None = None) -> int:
    return run_main(lambda: run(build_parser().parse_args(argv)))


if __name__ == "__main__":
    sys.exit(main())
