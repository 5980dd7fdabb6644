"""Measure what a panel memorized: rule, memory and unexplained bits, and how sure that is.

    python evaluate_memorization.py                     # a first answer, data and training included
    python evaluate_memorization.py --model runs/panel  # trained by train_minigpt_4070.py --subset
    python evaluate_memorization.py --capacity          # how many random bits a small model holds

A panel is one run of many seeds, each trained on its own random part of the examples. So for every
example some replicas had it (IN) and some had not (OUT), and what IN knows above OUT is memory.
Nothing is trained again: everything is read off the ledgers in the seeds' folders, after the last
step of all replicas and never at the best one, which early stopping would choose against memory.
Written into --out_dir, by default <panel>/memorization:

    memorization_results.json   every number of the printed page
    per_example.csv             a row an example: rates IN and OUT, memory, bits, when learned
    *.png                       bit budget, map of examples, repeats, exposure, ROC, extraction

Every interval is a 95 % one over replicas. docs/memorization.md explains the page.
"""

import csv
import io
import math
import random
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from runtime.cli import Parser, answer_early, bounded, path, run_main
from runtime.errors import Halt, UserError

# ----------------------------------------------------------------------------------------------
# Command line
# ----------------------------------------------------------------------------------------------


def build_parser() -> Parser:
    parser = Parser(__doc__)
    g = parser.add_argument_group("panel")
    g.add_argument(
        "--model",
        type=path,
        metavar="DIR",
        help="folder of a panel (default: a small one is trained first, in a few minutes)",
    )
    g.add_argument(
        "--data_dir",
        type=path,
        metavar="DIR",
        help="folder of the panel's data files, where they were moved",
    )
    g.add_argument(
        "--ledger_only",
        action="store_true",
        help="read no model: without exposure, LiMem and the answers of OUT replicas",
    )
    g.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:<n>")
    g.add_argument(
        "--out_dir",
        type=path,
        metavar="DIR",
        help="folder to write (default: memorization/ in the panel's)",
    )
    g = parser.add_argument_group("capacity self-test")
    g.add_argument(
        "--capacity",
        action="store_true",
        help="train a model on random strings instead, and print the bits that it stored",
    )
    g.add_argument(
        "--strings", type=bounded(int, 2, 10**6), default=100, help="random strings to store"
    )
    g.add_argument("--steps", type=bounded(int, 1, 10**7), default=1500, help="optimizer steps")
    g.add_argument(
        "--replicas",
        type=bounded(int, 1, 1024),
        default=1,
        help="models side by side, each on strings of its own; several give an interval",
    )
    return parser


def read_flags(argv=None):
    parser = build_parser()
    args = parser.parse_args(argv)
    given = {n for n, v in vars(args).items() if v != parser.get_default(n)}
    own = {"strings", "steps", "replicas"}
    if args.capacity and (others := given - own - {"capacity", "device", "out_dir"}):
        raise UserError(f"--capacity trains a model of its own; leave --{min(others)} out")
    if not args.capacity and (given := given & own):
        raise UserError(f"--{min(given)} is for --capacity; a panel has what it was trained with")
    return args


if __name__ == "__main__":  # --help and mistakes in flags need not wait for the imports below
    answer_early(read_flags)


# ----------------------------------------------------------------------------------------------
# Imports that take seconds
# ----------------------------------------------------------------------------------------------

import numpy as np
import torch

import metrics
from data.formats import Tokenizer, build_examples
from data.tasks import TASKS, row
from evaluation.models import load_replicas
from memorization.figures import write_figures
from memorization.measures import exposure_table, limem_table, measure, self_tests
from memorization.page import page
from memorization.panel import MeasuredPanel, read
from report import page_line
from runtime.device import choose_device, git_state, machine_facts, versions
from runtime.files import check_writable, write_atomically, write_json
from runtime.records import seed_folder
from train_minigpt_4070 import (
    GPT,
    RUN_ON,
    GPTConfig,
    answer_loss,
    generate,
    learning_rate,
    make_batch,
    make_optimizer,
    resident,
    score,
    set_learning_rate,
)
from train_minigpt_4070 import main as train_main

MOST_CANDIDATES, SAMPLED_CANDIDATES = 4096, 1024
ROWS_AT_ONCE = 2**16  # scored, by all replicas together
PERTURBED_EXAMPLES, PERTURBATIONS = 500, 4

# ----------------------------------------------------------------------------------------------
# The replicas after their last step, and what they make of further texts
# ----------------------------------------------------------------------------------------------


@dataclass
class LastModels:
    model: GPT
    tokenizer: Tokenizer
    device: torch.device


def load_last(panel: MeasuredPanel, device: torch.device) -> LastModels:
    """The replicas of the ledgers as last.pth has them; UserError if that is of another step."""
    seeds, last = panel.config["seeds"], int(panel.ledger.steps[-1])
    paths = [seed_folder(panel.folder, s, seeds) / "last.pth" for s in panel.ledger.seeds]
    loaded, unusable = load_replicas(paths, device)
    if unusable:
        raise UserError(f"{unusable[0]}; restore it, or give --ledger_only")
    for file, checkpoint in zip(paths, loaded.checkpoints, strict=True):
        if checkpoint.get("step") != last:
            raise UserError(
                f"{file} is of step {checkpoint.get('step')}, its ledger ends at step {last}; let "
                "the panel train to its end with --resume, or give --ledger_only"
            )
    replicas = LastModels(loaded.model, panel.tokenizer, device)
    check_ledger(panel, replicas)
    return replicas


def check_ledger(panel: MeasuredPanel, replicas: LastModels) -> None:
    """UserError unless the models score some examples as their ledgers say."""
    of, some = panel.columns, np.linspace(0, panel.n_asked - 1, 64).astype(int)
    bits, _ = score_texts(replicas, [row(of.tags[i], of.prompts[i], of.answers[i]) for i in some])
    known = -panel.log2_probs[:, some]
    apart = np.abs(bits - known).mean(axis=1)
    limits = 0.25 + 0.1 * known.mean(axis=1)  # the ledger keeps float16, of another machine maybe
    for seed, found, limit in zip(panel.ledger.seeds, apart, limits, strict=True):
        if found > limit:
            raise UserError(
                f"{panel.folder}: the ledger of seed {seed} does not fit its last.pth: their bits "
                f"of an answer lie {found:.2f} apart; train the panel again"
            )


def score_texts(replicas: LastModels, raws: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """(bits, exact) of rows `[tag] prompt | answer` by every replica, [R, n] each."""
    examples = build_examples(raws, replicas.tokenizer, "rows to score")
    scores = score(replicas.model, examples, np.arange(len(examples)), replicas.device)
    return scores.loss * scores.n_tokens / math.log(2), scores.exact


# ----------------------------------------------------------------------------------------------
# Exposure of canaries
# ----------------------------------------------------------------------------------------------


def candidates(tag: str, prompt: str, answer: str) -> list[str]:
    """Answers that a canary's rank is taken among, its own first.

    All legal answers of its form but the true one, which the rule prefers; where these are more
    than MOST_CANDIDATES, SAMPLED_CANDIDATES different ones drawn evenly, and the canary's own.
    """
    task = TASKS[tag]
    true_answer = task.answer(prompt)
    if task.n_legal(answer) <= MOST_CANDIDATES:
        return [answer, *(a for a in task.legal_answers(answer) if a not in (answer, true_answer))]
    rng, drawn = random.Random(f"candidates [{tag}] {prompt} | {answer}"), {answer: None}
    while len(drawn) < SAMPLED_CANDIDATES + 1:
        if (other := task.draw_legal(rng, answer)) != true_answer:
            drawn[other] = None
    return list(drawn)


def expose_canaries(panel: MeasuredPanel, replicas: LastModels) -> dict | None:
    """Exposure of every canary in every replica, by how often the replica trained on it."""
    columns = range(panel.n_train, panel.n_asked)
    if not columns:
        return None
    of, exposures, n_candidates, rows, ends = panel.columns, [], [], [], []

    def score_rows():
        bits, _ = score_texts(replicas, rows)
        for part in np.split(-bits, ends[:-1], axis=1):  # [R, candidates]
            exposures.append(metrics.exposure(part, np.zeros(len(part), dtype=int)))
        rows.clear()
        ends.clear()

    for i in columns:
        tag, prompt, answer = of.tags[i], of.prompts[i], of.answers[i]
        answers = candidates(tag, prompt, answer)
        n_candidates.append(len(answers))
        rows += [row(tag, prompt, other) for other in answers]
        ends.append(len(rows))
        if len(rows) >= ROWS_AT_ONCE:
            score_rows()
    if rows:
        score_rows()
    table, untrained = exposure_table(
        np.stack(exposures, axis=1), panel.ledger.canary_counts, np.array(n_candidates)
    )
    n_sampled = sum(TASKS[of.tags[i]].n_legal(of.answers[i]) > MOST_CANDIDATES for i in columns)
    return {
        "rows": table,
        "untrained": untrained,
        "least_candidates": min(n_candidates),
        "most_candidates": max(n_candidates),
        "n_sampled": n_sampled,
        "sample": SAMPLED_CANDIDATES,
    }


# ----------------------------------------------------------------------------------------------
# LiMem: right on an example, wrong on one like it
# ----------------------------------------------------------------------------------------------


def perturbations(panel: MeasuredPanel, columns: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Some of the columns that their tasks can perturb, and PERTURBATIONS rows for each.

    At most PERTURBED_EXAMPLES; only answers that follow the rule.
    """
    of, rng, kept, raws = panel.columns, random.Random("perturbations"), [], []
    for i in np.random.default_rng(0).permutation(columns).tolist():
        if of.tags[i] not in TASKS or panel.breaks_rule[i] or len(kept) == PERTURBED_EXAMPLES:
            continue
        task = TASKS[of.tags[i]]
        try:
            edits = [task.perturb(rng, of.prompts[i]) for _ in range(PERTURBATIONS)]
        except ValueError:  # no such edit is left, or the prompt is of another grammar
            continue
        kept.append(i)
        raws += [row(task.name, *edit) for edit in edits]
    return np.array(kept, dtype=int), raws


def known_to(panel: MeasuredPanel, keys: np.ndarray) -> np.ndarray:
    """bool [R, n]: the replica trained on an example with that prompt key."""
    order = np.argsort(panel.prompt_keys, kind="stable")
    ascending = panel.prompt_keys[order]
    known = np.zeros((len(panel.members), len(keys)), dtype=bool)
    first, last = (np.searchsorted(ascending, keys, side) for side in ("left", "right"))
    for k in range(int((last - first).max(initial=0))):  # a prompt may have several answers
        there = first + k < last
        known[:, there] |= panel.members[:, order[(first + k)[there]]]
    return known


def limem_of(panel: MeasuredPanel, replicas: LastModels, columns: np.ndarray) -> list[dict]:
    """metrics.limem of each replica on its own ones of the columns, or on all held-out ones."""
    kept, raws = perturbations(panel, columns)
    if not len(kept):
        return []
    keys = build_examples(raws, replicas.tokenizer, "perturbed rows").prompt_keys
    _, exact = score_texts(replicas, raws)
    right = np.where(known_to(panel, keys), np.nan, exact)
    right = right.reshape(len(exact), len(kept), PERTURBATIONS)
    found = []
    for r, perturbed in enumerate(right):
        own = kept >= panel.n_asked
        own[~own] = panel.members[r, kept[~own]]
        found.append(metrics.limem(panel.exact[r, kept[own]], perturbed[own]))
    return found


def limem(panel: MeasuredPanel, replicas: LastModels) -> dict | None:
    """LiMem of trained minus unseen examples; None where no task of the data can be perturbed.

    And where the ledger follows a part of the training set: then it is not known whether a replica
    trained on an edit.
    """
    if panel.n_train < panel.n_distinct:
        return None
    keys, n = panel.ledger.keys, panel.n_train
    unseen = panel.n_asked + np.flatnonzero(~np.isin(keys[panel.n_asked :], keys[:n]))
    trained, held_out = (limem_of(panel, replicas, some) for some in (np.arange(n), unseen))
    return limem_table(trained, held_out) if trained and held_out else None


# ----------------------------------------------------------------------------------------------
# What OUT replicas answer
# ----------------------------------------------------------------------------------------------


def add_out_answers(panel: MeasuredPanel, replicas: LastModels, examples: list[dict]) -> None:
    """Give each example {"out_answers": {text: how many OUT replicas decode it}}."""
    if not examples:
        return
    of = panel.columns
    columns = [example["column"] for example in examples]
    raws = [row(of.tags[i], of.prompts[i], of.answers[i]) for i in columns]
    asked = build_examples(raws, replicas.tokenizer, "rows to decode")
    rows = np.broadcast_to(np.arange(len(raws)), (replicas.model.R, len(raws)))
    eos = replicas.tokenizer.eos
    generated = generate(replicas.model, asked, rows, eos, replicas.device)
    for k, (i, example) in enumerate(zip(columns, examples, strict=True)):
        texts = [
            replicas.tokenizer.decode(generated.ids[r][k])
            for r in np.flatnonzero(~panel.members[:, i])
        ]
        example["out_answers"] = dict(Counter(texts).most_common())


# ----------------------------------------------------------------------------------------------
# Results
# ----------------------------------------------------------------------------------------------


def csv_cell(value):
    """A value as a cell: None is empty, and no text is a formula to a spreadsheet.

    >>> csv_cell("=1+1"), csv_cell(None), csv_cell(-0.5), csv_cell(True)
    ("'=1+1", '', -0.5, 1)
    """
    if value is None:
        return ""
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, str) and value[:1] in ("'", "=", "+", "-", "@", "\t", "\r"):
        return "'" + value
    return value


def csv_text(columns: dict[str, list]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(map(csv_cell, row) for row in zip(*columns.values(), strict=True))
    return buffer.getvalue()


def evaluate(folder: Path, args) -> dict:
    """Read the panel in `folder`, write the results and print the page. Returns the results."""
    panel, notices = read(folder, args.data_dir)
    device = choose_device(args.device)
    out_dir = args.out_dir or folder / "memorization"
    check_writable(out_dir)
    replicas = None if args.ledger_only else load_last(panel, device)
    last, planned = int(panel.ledger.steps[-1]), panel.config["derived"]["steps_total"]
    if last < planned:
        notices.append(f"the panel is not trained to its end: step {last:,} of {planned:,} is read")
    for notice in notices:
        print(f"note: {notice}", flush=True)

    results, columns = measure(panel)
    if replicas:
        results["exposure"] = expose_canaries(panel, replicas)
        results["limem"] = limem(panel, replicas)
        add_out_answers(panel, replicas, results["most_memorized"]["examples"])
    results["self_tests"] = self_tests(panel, results)

    write_json(out_dir / "memorization_results.json", results)
    write_atomically(out_dir / "per_example.csv", csv_text(columns))
    figures = write_figures(results, columns, out_dir)
    files = ["memorization_results.json", "per_example.csv", *(file.name for file in figures)]
    print("\n".join([*page(results), "", f"in {out_dir}: {', '.join(files)}"]))
    if out_dir == folder / "memorization":  # where report.py looks
        print(page_line(folder))
    return results


# ----------------------------------------------------------------------------------------------
# Capacity: random strings, which no rule can tell
# ----------------------------------------------------------------------------------------------

SYMBOLS, STRING_LENGTH = "0123456789abcdef", 32
KNOWN_CAPACITIES = "Morris et al. 2025: 3.5 to 3.8 after long training; Allen-Zhu and Li 2024: 2"


@dataclass
class Strings:
    """n random strings a replica, as examples with an empty prompt, and the models to train.

    Replica r's strings are rows r * n to (r + 1) * n - 1 of `examples`.
    """

    examples: object  # data.formats.Examples
    model: GPT
    device: torch.device

    @property
    def rows(self) -> np.ndarray:
        """int [R, n]"""
        return np.arange(len(self.examples)).reshape(self.model.R, -1)


def draw_strings(n: int, R: int, device: torch.device) -> Strings:
    draws = [np.random.default_rng(r).choice(list(SYMBOLS), (n, STRING_LENGTH)) for r in range(R)]
    raws = [row("r", "", "".join(symbols)) for symbols in np.concatenate(draws)]
    itos = ["<pad>", "<unk>", "<eos>", *sorted(set("[]| r" + SYMBOLS))]
    examples = build_examples(raws, Tokenizer(itos), "random strings")
    config = GPTConfig(
        vocab_size=len(itos),
        max_len=int(examples.lengths.max()) + RUN_ON,
        d_model=32,
        n_layers=2,
        n_heads=4,
        d_ff=128,
        pos="learned",  # a string has nothing but places to go by: rope stored a third as much
    )
    return Strings(examples, GPT(config, list(range(R))).to(device), device)


STRINGS_A_STEP = 256


def train_on_strings(strings: Strings, steps: int):
    """Adam without weight decay, a cosine from 3e-3 to 0, whole epochs in random order, fp32."""
    model, (R, n) = strings.model, strings.rows.shape
    batch_size = min(STRINGS_A_STEP, n)
    data = resident(strings.examples, strings.device)
    rngs = [np.random.default_rng(r) for r in range(R)]
    optimizer, left = make_optimizer(model, weight_decay=0.0), np.empty((R, 0), dtype=int)
    model.train()
    for step in range(steps):
        while left.shape[1] < batch_size:
            epoch = [rng.permutation(own) for rng, own in zip(rngs, strings.rows, strict=True)]
            left = np.hstack([left, epoch])
        rows, left = np.split(left, [batch_size], axis=1)
        batch = make_batch(data, rows)
        loss = answer_loss(model(batch), batch.targets) / batch.n_targets
        loss.sum().backward()
        lr = learning_rate(step, total_steps=steps, warmup_steps=50, peak=3e-3, min_ratio=0.0)
        set_learning_rate(optimizer, lr)
        optimizer.step()
        optimizer.zero_grad()


def stored_bits(strings: Strings) -> list[dict]:
    """What metrics.capacity finds for each replica and its own strings."""
    found = []
    for r, rows in enumerate(strings.rows):  # all replicas score them, and one is asked
        scores = score(strings.model, strings.examples, rows, strings.device)
        bits = scores.loss[r] * scores.n_tokens[r] / math.log(2)
        found.append(metrics.capacity(-bits, STRING_LENGTH, len(SYMBOLS)))
    return found


def over_replicas(replicas: list[dict], n_params: int) -> dict:
    """Means over the dicts of metrics.capacity; "_low" and "_high" are the ends of Student's t
    interval of the bits a parameter, None for one replica.
    """
    means = {key: float(np.mean([each[key] for each in replicas])) for key in ("stored", "share")}
    bits = [each["stored"] / n_params for each in replicas]
    middle, reach = float(np.mean(bits)), metrics.seed_half_width(bits)
    several = len(replicas) > 1
    return {
        **replicas[0],
        **means,
        "replicas": len(replicas),
        "n_params": n_params,
        "bits_per_parameter": middle,
        "bits_per_parameter_low": middle - reach if several else None,
        "bits_per_parameter_high": middle + reach if several else None,
    }


def measure_capacity(args) -> dict:
    """Train on random strings and print the bits stored beside the ceiling. Returns them, as
    over_replicas does, and how and where they came out.
    """
    if args.out_dir:
        check_writable(Path(args.out_dir))
    strings = draw_strings(args.strings, args.replicas, choose_device(args.device))
    made_by = {"versions": versions(), **machine_facts(strings.device), **git_state()}
    n_params = strings.model.n_params()
    models = "a model" if args.replicas == 1 else f"{args.replicas} models"
    print(
        f"{args.strings:,} random strings of {STRING_LENGTH} symbols out of {len(SYMBOLS)}, "
        f"{models} of {n_params:,} parameters, {args.steps:,} steps on {strings.device}",
        flush=True,
    )
    train_on_strings(strings, args.steps)
    replicas = stored_bits(strings)
    if any(each["stored"] > each["ceiling"] for each in replicas):
        raise AssertionError(f"more bits stored than there are: {replicas}")
    found = {
        **over_replicas(replicas, n_params),
        "strings": args.strings,
        "steps": args.steps,
        "exposures": args.steps * min(STRINGS_A_STEP, args.strings) / args.strings,
        **made_by,
    }
    middle, *ends = (found[f"bits_per_parameter{end}"] for end in ("", "_low", "_high"))
    interval = " [{:.4f}, {:.4f}]".format(*ends) if args.replicas > 1 else ""
    print(
        f"stored {found['stored']:,.0f} of at most {found['ceiling']:,.0f} bits "
        f"({found['share']:.1%}); {middle:.4f}{interval} bits a parameter\n"
        + "less than none: surer of wrong symbols than chance is; --steps longer would tell\n"
        * (found["stored"] < 0)
        + f"({KNOWN_CAPACITIES}, where strings are more than a model holds: raise --strings)"
    )
    if args.out_dir:
        write_json(Path(args.out_dir) / "capacity.json", found)
    return found


# ----------------------------------------------------------------------------------------------
# The first answer
# ----------------------------------------------------------------------------------------------

FIRST_FOLDER = Path("runs/memorization_first")
FIRST_PANEL = {  # arguments of train_minigpt_4070.py
    "data": "data/memorization/train.pkl",
    "subset": 0.5,
    "canaries": 7,
    "seeds": "0-15",
    "d_model": 64,
    "n_layers": 2,
    "dropout": 0,
    "epochs": 20,
    "eval_every": 20,
    "save_every": 2,
}


def first_panel(args) -> Path:
    """Train a small panel on sums, or go on with it; return its folder."""
    argv = [f"--{name}={value}" for name, value in FIRST_PANEL.items()]
    argv += [f"--out_dir={FIRST_FOLDER}", f"--device={args.device}", "--resume"]
    print(f"no --model: training a first panel in {FIRST_FOLDER}", flush=True)
    code = train_main([*argv, "--no-show_samples", "--no-autoreg_eval"])
    if code:
        raise Halt(code, "the first panel was not trained to its end; the same command goes on")
    return FIRST_FOLDER


# ----------------------------------------------------------------------------------------------
# Main
# ----------------------------------------------------------------------------------------------


def run(args) -> None:
    if args.capacity:
        measure_capacity(args)
        return
    evaluate(args.model or first_panel(args), args)


def main(argv: list[str] | None = None) -> int:
    return run_main(lambda: run(read_flags(argv)))


if __name__ == "__main__":
    sys.exit(main())
