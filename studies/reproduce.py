"""Published results, here, side by side, through the project's own commands.

    python studies/reproduce.py --list           # the rows, what each costs, and which were run
    python studies/reproduce.py adder capacity   # these rows
    python studies/reproduce.py --all            # all of them, a night on two cores
    python studies/reproduce.py --table          # studies/README.md again, from the kept results

A row trains what a paper or repository trained, as near as the flags allow, and prints what was
published beside what came out here, with its interval and one tag: *exact* (same data, model and
optimizer), *scaled* (smaller, or written otherwise) or *shape* (the direction only). What differs
is said. An interrupted row goes on when it is given again. Results are kept as
studies/results/<row>.json and shown in studies/README.md.
"""

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

if __name__ == "__main__":  # Python looks for modules beside the script, not above it
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import metrics
from runtime.cli import Parser, count_text, path, run_main
from runtime.errors import UserError
from runtime.files import ROOT, write_atomically, write_json
from runtime.records import seed_folders
from studies.commands import Workshop, made_by, read_json
from studies.seeds import (
    difference_words,
    ends_words,
    first_step,
    mean_with_ends,
    ratio_words,
    steps_words,
    validations,
)

HOME = Path(__file__).resolve().parent
RESULTS, PAGE = HOME / "results", HOME / "README.md"
QUIET = ["--patience", "0", "--no-autoreg_eval", "--no-show_samples"]
TRAIN = "train_minigpt_4070.py"


@dataclass(frozen=True)
class Row:
    """One published result."""

    name: str
    title: str
    source: str  # paper, table or file
    published: str
    tag: str  # exact, scaled or shape
    differs: str  # from the original, "" for nothing
    minutes: int  # about, on one core
    run: Callable[[Workshop], list[str]]  # trains, and returns sentences on what came out


# ------------------------------------------------------------------------------------------------
# Small tools
# ------------------------------------------------------------------------------------------------


def write_rows(file: Path, rows: list[str]) -> Path:
    write_atomically(file, ("\n".join(rows) + "\n").encode())
    return file


def last_rates(run: Path, key: str = "val_exact_match") -> list[dict]:
    """Exact match of each seed after the last step, as metrics.over_seeds takes it."""
    n_key = "val_n" if key == "val_exact_match" else "train_n"
    lines = [seed[-1] for seed in validations(run)]
    return [{"exact_match": line[key], "n": line[n_key]} for line in lines]


def percent_over_seeds(rows: list[dict]) -> str:
    """`99.6 % [98.6, 99.9]`: the mean over seeds and its 95 % interval."""
    row = metrics.over_seeds(rows)
    return percent_words(row["mean"], row["low"], row["high"], digits=1)


def percent_words(value: float, low: float, high: float, digits: int = 0) -> str:
    """`47 % [31, 64]` of shares."""
    value, low, high = (f"{100 * share:.{digits}f}" for share in (value, low, high))
    return f"{value} % [{low}, {high}]"


def share_of_seeds(n: int, of: int) -> str:
    """`15 of 32 seeds (47 % [31, 64])`, with Wilson's interval."""
    return f"{n} of {of} seeds ({percent_words(n / of, *metrics.wilson_interval(n, of))})"


# ------------------------------------------------------------------------------------------------
# minGPT's adder
# ------------------------------------------------------------------------------------------------

ADDER_SEEDS = 3


def adder(shop: Workshop) -> list[str]:
    """All 10,000 sums of two numbers below 100; minGPT's own split."""
    pairs = np.random.RandomState(1337).permutation(10_000)
    rows = [f"[adder] {i:04d} | {i // 100 + i % 100:03d}" for i in pairs]
    val, train = shop.folder / "val.txt", shop.folder / "train.txt"
    write_rows(val, rows[:1000])
    write_rows(train, rows[1000:])
    run = shop.folder / "run"
    shop.call(
        TRAIN,
        *("--data", train, "--val_data", val, "--out_dir", run, "--resume"),
        *("--seeds", f"0-{ADDER_SEEDS - 1}", "--pos", "learned", "--d_model", 128),
        *("--n_layers", 2, "--n_heads", 4, "--epochs", 50, "--batch_size", 512, "--lr", "6e-4"),
        *("--no_lr_scaling", "--warmup_steps", 1, "--weight_decay", 0.1, "--beta2", 0.95),
        *("--dropout", 0.1, "--eval_every", 5, *QUIET),
    )
    unseen = last_rates(run)
    rights = [round(row["exact_match"] * row["n"]) for row in unseen]
    n_params = read_json(seed_folders(run)[0] / "config.json")["derived"]["n_params"]
    return [
        f"unseen {percent_over_seeds(unseen)} over {ADDER_SEEDS} seeds; right of 1,000: "
        + ", ".join(map(str, rights)),
        f"training sums {percent_over_seeds(last_rates(run, 'train_exact_match'))} of a sample",
        f"{n_params:,} parameters",
    ]


# ------------------------------------------------------------------------------------------------
# Grokking
# ------------------------------------------------------------------------------------------------

PRIME, GROK_SEEDS, GROK_STEPS = 97, 8, 3000
GROK_RUNS = ((0.02, 0), (0.1, 0), (0.1, 1))  # standard deviation of the first weights, decay


def grokking(shop: Workshop) -> list[str]:
    """a + b modulo 97, half of the 9,409 equations, one character a number."""
    numbers = [chr(0x100 + n) for n in range(PRIME)]
    equations = [
        f"[m] {numbers[a]}+{numbers[b]} | {numbers[(a + b) % PRIME]}"
        for a in range(PRIME)
        for b in range(PRIME)
    ]
    order = np.random.RandomState(0).permutation(len(equations))
    half = len(equations) // 2
    train = write_rows(shop.folder / "train.txt", [equations[i] for i in order[:half]])
    val = write_rows(shop.folder / "val.txt", [equations[i] for i in order[half:]])
    said = []
    for std, decay in GROK_RUNS:
        run = shop.folder / f"std_{std}_decay_{decay}"
        steps_an_epoch = math.ceil(half / 512)
        shop.call(
            TRAIN,
            *("--data", train, "--val_data", val, "--out_dir", run, "--resume"),
            *("--seeds", f"0-{GROK_SEEDS - 1}", "--pos", "learned", "--d_model", 128),
            *("--n_layers", 2, "--n_heads", 4, "--epochs", GROK_STEPS // steps_an_epoch),
            *("--batch_size", 512, "--lr", "1e-3", "--no_lr_scaling", "--min_lr_ratio", 1),
            *("--warmup_steps", 10, "--beta1", 0.9, "--beta2", 0.98, "--weight_decay", decay),
            *("--init_std", std, "--max_grad_norm", 0, "--dropout", 0, "--eval_log", 12),
            *("--save_every", 25, *QUIET),
        )
        seeds = validations(run)
        last = max(seed[-1]["step"] for seed in seeds)
        train_steps = [first_step(seed, "train_exact_match") for seed in seeds]
        val_steps = [first_step(seed, "val_exact_match") for seed in seeds]
        said.append(
            f"weights of {std} at the start, weight decay {decay}: 95 % of training equations "
            f"after {steps_words(train_steps, last, ' steps')}, of unseen ones after "
            f"{steps_words(val_steps, last, ' steps')}" + delay_words(train_steps, val_steps, last)
        )
    return said


def delay_words(train_steps: list[int | None], val_steps: list[int | None], last: int) -> str:
    """How many times as many steps unseen equations take; "" where a seed has not learned its own.

    A seed without the unseen ones at the `last` step would take more still.
    """
    if None in train_steps or len(train_steps) < 2:
        return ""
    ratios = [(val or last) / train for train, val in zip(train_steps, val_steps, strict=True)]
    if None in val_steps:
        return f": at least {np.median(ratios):,.1f} times in the median"
    return f": {ratio_words(ratios, ',.1f')} times"


# ------------------------------------------------------------------------------------------------
# Repeated data
# ------------------------------------------------------------------------------------------------

REPEATS, REPEATED_SEEDS = (1, 4, 16, 64, 256, 1024), 8
REPEATED_ROWS = 256_000  # of which a replica sees half


def repeated_data(shop: Workshop) -> list[str]:
    """A tenth of the rows are copies of few examples; each row is seen once, in equal steps.

    Every replica trains on its own half of the distinct examples, so what it knows of the rest is
    rule and what having seen one adds is memory.
    """
    found, said = {}, []
    for count in REPEATS:
        home = shop.folder / f"repeat_{count}"
        repeat = ["--repeat_fraction", 0.1, "--repeat_count", count] if count > 1 else []
        shop.call(
            "data/generate.py",
            *("--tasks", "sort", "--sizes", "3-4", "--rows", REPEATED_ROWS, "--val_rows", 1000),
            *(*repeat, "--out", home / "data"),
        )
        shop.call(
            TRAIN,
            *("--data", home / "data/train.pkl", "--out_dir", home / "run", "--resume"),
            *("--subset", 0.5, "--seeds", f"0-{REPEATED_SEEDS - 1}"),
            *("--d_model", 64, "--n_layers", 2),
            *("--n_heads", 2, "--dropout", 0, "--epochs", 1, "--save_every_steps", 1000, *QUIET),
        )
        shop.call("evaluate_memorization.py", "--model", home / "run", "--ledger_only")
        lines = [seed[-1] for seed in validations(home / "run")]
        found[count] = [line["val_loss"] for line in lines]
        rates = percent_over_seeds(last_rates(home / "run"))
        loss = mean_with_ends(found[count], 4)
        results = read_json(home / "run/memorization/memorization_results.json")
        said.append(
            f"{count:,} times: loss on unseen {loss} nats a token, exact match {rates}; "
            f"{budget_words(results, count)}"
        )
    return [*said, peak_words(found)]


def budget_words(results: dict, count: int) -> str:
    """The bit budget over all distinct examples, nearly all of which stand once, and what those
    that stand `count` times have by memory.
    """

    def ends(row, part):
        return ends_words(*(row[f"{part}{end}"] for end in ("", "_low", "_high")))

    row = results["budget"][0]
    said = (
        f"of the {row['bits']:.2f} bits of a distinct example's answer {ends(row, 'rule')} by "
        f"rule, {ends(row, 'memory')} by memory, {ends(row, 'unexplained')} unexplained"
    )
    rows = [row for row in results["by_repeat_count"]["right"] if row["repeat_count"] == count]
    if count == 1 or not rows:
        return said
    n, bits = rows[0]["n"], rows[0]["bits"]
    return f"{said}; of {n:,} repeated ones {ends(bits, 'memory')} by memory"


def peak_words(losses: dict[int, list[float]]) -> str:
    """Whether the loss peaks in between, from repeat count -> loss of each seed, in their order.

    The peak is chosen after looking. So Holm's p is over every count against none and against the
    most copies, paired over seeds.
    """
    none, most = min(losses), max(losses)
    pairs = [(count, end) for end in (none, most) for count in losses if count not in (none, most)]
    pairs.append((most, none))
    tests = [metrics.compare_seeds(losses[a], losses[b], paired=True) for a, b in pairs]
    p_values = metrics.holm([test["p"] for test in tests])
    tested = {
        pair: test | {"p_holm": p} for pair, test, p in zip(pairs, tests, p_values, strict=True)
    }
    peak = max(losses, key=lambda count: np.mean(losses[count]))
    if peak == none:
        return "no repeat count has a higher loss than none"
    above = difference_words(tested[peak, none])
    said = f"the loss is highest at {peak:,} copies: {above}, above none"
    if peak == most:
        return f"{said}; that is the most copies, so no peak in between was seen"
    return (
        f"{said}; {difference_words(tested[peak, most])}, above {most:,} copies; intervals over "
        f"seeds, p by Holm over {len(pairs)} comparisons"
    )


# ------------------------------------------------------------------------------------------------
# Reversed sums
# ------------------------------------------------------------------------------------------------

SAMPLES, FORMATS, REVERSED_SEEDS = (1000, 2500, 5000, 10_000), ("plain", "reversed", "padded"), 8


def reversed_sums(shop: Workshop) -> list[str]:
    """Sums of up to three digits, written three ways, at equal steps."""
    said = []
    for rows in SAMPLES:
        rates = {}
        for form in FORMATS:
            for positions in ("rope", "learned"):
                home = shop.folder / f"{form}_{rows}"
                run = home / positions
                shop.call(
                    "data/generate.py",
                    *("--tasks", "add", "--format", form, "--rows", rows, "--val_rows", 500),
                    *("--out", home / "data"),
                )
                shop.call(
                    TRAIN,
                    *("--data", home / "data/train.pkl", "--out_dir", run, "--resume"),
                    *("--seeds", f"0-{REVERSED_SEEDS - 1}", "--d_model", 64, "--n_layers", 2),
                    *("--n_heads", 2, "--dropout", 0, "--pos", positions, "--batch_size", 128),
                    *("--epochs", round(4000 * 128 / rows), "--eval_every", 1000, *QUIET),
                )
                rates[form, positions] = last_rates(run)
        said += [format_words(rows, positions, rates) for positions in ("rope", "learned")]
    return said


def format_words(rows: int, positions: str, rates: dict[tuple[str, str], list[dict]]) -> str:
    """One sentence from (format, positions) -> rate of each seed; the formats' examples differ."""
    own = {form: rates[form, positions] for form in FORMATS}
    found = metrics.over_seeds(own["reversed"], minus=own["plain"])
    points = difference_words({**found, "difference": found["mean"]}, times=100, digits=1)
    each = "; ".join(f"{form} {percent_over_seeds(own[form])}" for form in FORMATS)
    return f"{rows:,} samples, {positions} positions: {each}; reversed less plain {points} points"


# ------------------------------------------------------------------------------------------------
# Capacity
# ------------------------------------------------------------------------------------------------

CAPACITIES = ((100, 1500), (300, 1500), (300, 6000), (1200, 4000))  # strings, steps
CAPACITY_REPLICAS = 4


def capacity(shop: Workshop) -> list[str]:
    """Bits of random strings that a model of 27,424 parameters stores."""
    said = []
    for strings, steps in CAPACITIES:
        home = shop.folder / f"strings_{strings}_steps_{steps}"
        done = home / "capacity.json"
        wanted = {"strings": strings, "steps": steps, "replicas": CAPACITY_REPLICAS}
        if not done.exists() or not wanted.items() <= read_json(done).items():
            flags = [word for name, value in wanted.items() for word in (f"--{name}", value)]
            shop.call("evaluate_memorization.py", "--capacity", *flags, "--out_dir", home)
        found = read_json(done)
        bits = (found[f"bits_per_parameter{end}"] for end in ("", "_low", "_high"))
        said.append(
            f"{strings:,} strings, {found['exposures']:,.0f} exposures each: "
            f"{ends_words(*bits, digits=4)} bits a parameter, {100 * found['share']:.1f} % of what "
            "these strings hold"
        )
    return said


# ------------------------------------------------------------------------------------------------
# Too Big to Think
# ------------------------------------------------------------------------------------------------

WIDTHS, THINK_SEEDS, THINK_STEPS = (14, 28, 56), 32, 6000
HELD_OUT = ((5, "+", 7), (7, "+", 5), (5, "-", 7), (7, "-", 5))


def too_big_to_think(shop: Workshop) -> list[str]:
    """Sums and differences of two digits without four expressions; one layer of several widths."""
    expressions = [(a, sign, b) for sign in "+-" for a in range(10) for b in range(10)]

    def row(a, sign, b):
        return f"[m] {a}{sign}{b} | {a + b if sign == '+' else a - b}"

    kept = [expression for expression in expressions if expression not in HELD_OUT]
    train = write_rows(shop.folder / "train.txt", [row(*e) for e in kept])
    val = write_rows(shop.folder / "val.txt", [row(*e) for e in HELD_OUT])
    said = []
    for width in WIDTHS:
        run = shop.folder / f"width_{width}"
        shop.call(
            TRAIN,
            *("--data", train, "--val_data", val, "--out_dir", run, "--resume"),
            *("--seeds", f"0-{THINK_SEEDS - 1}", "--pos", "learned", "--d_model", width),
            *("--n_layers", 1, "--n_heads", 1, "--d_ff", width, "--lr", 0.01, "--no_lr_scaling"),
            *("--min_lr_ratio", 0.01, "--beta2", 0.99, "--weight_decay", 0, "--dropout", 0),
            *("--batch_size", len(kept), "--epochs", THINK_STEPS, "--eval_every", 250),
            *("--save_every", 1000, *QUIET),
        )
        seeds = validations(run)
        last = [seed[-1]["val_exact_match"] for seed in seeds]
        best = [max(line["val_exact_match"] for line in seed) for seed in seeds]
        all_four = share_of_seeds(sum(rate == 1 for rate in last), len(last))
        ever = share_of_seeds(sum(rate == 1 for rate in best), len(best))
        trained = last_rates(run, "train_exact_match")
        said.append(
            f"width {width}: all four right in the last model of {all_four}, at some of "
            f"{len(seeds[0])} validations of {ever}; a share of {mean_with_ends(last)} right; "
            f"of the {trained[0]['n']} training expressions that were asked "
            f"{percent_over_seeds(trained)}"
        )
    return said


# ------------------------------------------------------------------------------------------------
# Regeneration by copies
# ------------------------------------------------------------------------------------------------


def regeneration(shop: Workshop) -> list[str]:
    """Extraction, IN minus OUT, against the repeat count, of sums with a wrong answer."""
    run = shop.folder / "run"
    shop.call(
        TRAIN,
        *("--data", ROOT / "data/memorization/train.pkl", "--out_dir", run, "--resume"),
        *("--subset", 0.5, "--seeds", "0-15", "--d_model", 64, "--n_layers", 2, "--dropout", 0),
        *("--epochs", 20, "--eval_every", 20, "--save_every", 2, *QUIET),
    )
    shop.call("evaluate_memorization.py", "--model", run, "--ledger_only")
    results = read_json(run / "memorization/memorization_results.json")
    said = []
    for kind in ("wrong", "right"):
        found = results["extraction"][kind]["slope"]
        if found["slope"] is None:
            weak = ", ".join(f"{n:,}" for n in found["weak_counts"])
            why = f"memory at {weak} copies is not told from none" if weak else "too few counts"
            said.append(f"{kind} answers: no slope, {why}")
            continue
        slope, *ends = (found[f"slope{end}"] for end in ("", "_low", "_high"))
        interval = "" if None in ends else " [{:.2f}, {:.2f}]".format(*ends)
        said.append(
            f"{kind} answers: log-log slope {slope:.2f}{interval} over {found['n_counts']} repeat "
            f"counts, {10**slope:.1f} times for ten times the copies"
        )
    return said


# ------------------------------------------------------------------------------------------------
# The rows
# ------------------------------------------------------------------------------------------------

ROWS = (
    Row(
        name="adder",
        title="minGPT adds two-digit numbers",
        source="karpathy/minGPT, play_math.ipynb at commit 8b6e3a0",
        published="9,000 of 9,000 training sums and 999 of 1,000 others right; 400,128 parameters",
        tag="scaled",
        differs="The same sums, split, width, depth, batch, epochs, peak rate and optimizer. A tag "
        "and separators frame the digits, the output matrix is the embedding and decays with the "
        "other matrices, dropout is on the embedding and the blocks' outputs but not on attention "
        "weights, the end of the answer counts in the loss, and the rate's cosine ends at a tenth "
        "instead of being cut off there.",
        minutes=15,
        run=adder,
    ),
    Row(
        name="grokking",
        title="Grokking: a + b modulo 97 from half the table",
        source="Power et al., arXiv:2201.02177; openai/grok, grok/training.py",
        published="unseen accuracy follows training accuracy after up to decades of steps; weight "
        "decay shortens the delay most",
        tag="scaled",
        differs="Same table, share, width, depth, heads, batch, rate, betas, warm-up, and loss on "
        "the answer alone. 3,000 steps instead of 100,000, validated at twelve of each decade, so "
        "that a step is known to a factor of 1.2. The model normalizes before its blocks and not "
        "after, has GELU instead of ReLU, biases, learned positions instead of sines and a tied "
        "output matrix; weight decay is on matrices only; a tag and separators frame the equation. "
        "Theirs starts from torch's own weights, of standard deviation 1 in the embedding and some "
        "0.05 in the matrices; here all have one, GPT-2's 0.02 or 0.1: large ones make the delay "
        "(Liu et al., arXiv:2210.01117).",
        minutes=225,
        run=grokking,
    ),
    Row(
        name="repeated-data",
        title="A tenth of the data repeated",
        source="Hernandez et al., arXiv:2205.10487; Chudnovsky et al., arXiv:2606.24998",
        published="at equal compute the loss on unseen data peaks at an intermediate repeat count",
        tag="shape",
        differs="Lists of three and four numbers to sort instead of text, a model of 100,800 "
        "parameters, about 128,000 rows seen once each.",
        minutes=90,
        run=repeated_data,
    ),
    Row(
        name="reversed",
        title="Sums with the answer's last digit first",
        source="Lee et al., arXiv:2307.03381; lee-ny/teaching_arithmetic, config2/addition",
        published="at a few thousand samples reversed sums are far ahead of plain ones",
        tag="scaled",
        differs="Width 64 and 2 layers instead of 384 and 6, 4,000 steps of 128 instead of 10,000 "
        "(reversed: 5,000) of 256, no dropout instead of 0.2, rate 1.6e-3 instead of 1e-3, loss on "
        "the answer alone, one sum a sequence, digit counts drawn uniformly, other examples for "
        "each format.",
        minutes=240,
        run=reversed_sums,
    ),
    Row(
        name="capacity",
        title="Bits a parameter",
        source="Morris et al., arXiv:2505.24832; Allen-Zhu and Li, arXiv:2404.05405",
        published="3.5 to 3.8 bits a parameter of random strings; of facts 2 bits at 1,000 "
        "exposures and about 1 at 100",
        tag="scaled",
        differs="27,424 parameters, strings of 32 symbols of 16 kinds, 853 to 5,120 exposures; "
        "four models of each, with strings of their own.",
        minutes=60,
        run=capacity,
    ),
    Row(
        name="too-big-to-think",
        title="Width 14 gets the held-out sums",
        source="Barron and White, arXiv:2506.09099; Josh-ee/Too-Big-to-Think, "
        "config/train_math_mini_14.py and Results/results_final.csv",
        published="width 14 has all four held-out expressions (1.000 of all), widths 28, 56 and "
        "384 none (0.978); one run a size, the best of its evaluations",
        tag="scaled",
        differs="Same expressions, layer, head, peak rate, betas and no decay; widths 14, 28 and "
        "56. Whole expressions instead of windows of the text, all of them in each step, 6,000 "
        "steps instead of 30,000, a warm-up of 200 instead of 2,000, loss on the answer alone, "
        "biases, a frame of tag and separators.",
        minutes=90,
        run=too_big_to_think,
    ),
    Row(
        name="regeneration",
        title="Regeneration grows faster than the number of copies",
        source="Kandpal et al., arXiv:2202.06539, abstract",
        published="a sequence that stands ten times is generated about 1,000 times as often as one "
        "that stands once: a log-log slope of about 3",
        tag="shape",
        differs="The statistic alone: greedy extraction of an answer, IN minus OUT, of sums. It is "
        "a share of examples, which ends at 1, where theirs is a number of generations, which does "
        "not: near 1 the slope flattens.",
        minutes=15,
        run=regeneration,
    ),
)


# ------------------------------------------------------------------------------------------------
# Results and their page
# ------------------------------------------------------------------------------------------------


def reproduce(row: Row, out: Path) -> dict:
    """Run one row and keep its result."""
    shop = Workshop(out / row.name)
    shop.folder.mkdir(parents=True, exist_ok=True)
    found = row.run(shop)
    made = [*sorted(shop.folder.rglob("config.json")), *sorted(shop.folder.rglob("capacity.json"))]
    result = {
        "found": found,
        "seconds": shop.seconds(),
        "made_by": made_by(made[0]) if made else None,
    }
    write_json(RESULTS / f"{row.name}.json", result)
    print(*row_lines(row, result), sep="\n")
    return result


def kept_result(row: Row) -> dict | None:
    file = RESULTS / f"{row.name}.json"
    return read_json(file) if file.exists() else None


def row_lines(row: Row, result: dict | None) -> list[str]:
    """The row's part of the page."""
    lines = [
        f"## {row.title}",
        "",
        f"- **Published** ({row.source}): {row.published}.",
        f"- **Tag**: *{row.tag}*. {row.differs}",
    ]
    if result is None:
        return [*lines, f"- **Here**: not run yet; `python studies/reproduce.py {row.name}`.", ""]
    lines += [f"- **Here**: {sentence}." for sentence in result["found"]]
    made, minutes = result["made_by"], result["seconds"] / 60
    where = ""
    if made:
        commit = made["commit"][:7] if made["commit"] else "unknown"  # outside a git checkout
        threads = count_text(made["threads"], "thread")
        where = f"{made['device']}, {threads}, commit {commit}, "
    return [*lines, f"- {where}{minutes:,.0f} min. `python studies/reproduce.py {row.name}`", ""]


def page() -> str:
    """studies/README.md."""
    lines = [
        "# Published results, here",
        "",
        "Written by `python studies/reproduce.py`. Intervals are 95 % ones over seeds; a rate of "
        "several seeds joins them with the examples' own (docs/metrics.md). Tags: *exact*: same "
        "data, model and optimizer; *scaled*: smaller, or written otherwise; *shape*: the "
        "direction only. "
        "The studies of this project: [where memory ends and the rule begins](memory_or_rule.md), "
        "and [how soon the rule is there](time_to_rule.md), by optimizer, rate, batch and dropout.",
        "",
    ]
    for row in ROWS:
        lines += row_lines(row, kept_result(row))
    return "\n".join(lines).rstrip() + "\n"


# ------------------------------------------------------------------------------------------------
# Command line
# ------------------------------------------------------------------------------------------------


def build_parser() -> Parser:
    parser = Parser(__doc__)
    flag = parser.add_argument
    flag("names", nargs="*", metavar="ROW", help="rows to run")
    flag("--all", action="store_true", help="run every row")
    flag("--list", action="store_true", help="print the rows and stop")
    flag("--table", action="store_true", help="write studies/README.md again and stop")
    flag("--out", type=path, default=ROOT / "runs/reproduce", help="folder for the runs")
    return parser


def print_rows() -> None:
    for row in ROWS:
        result = kept_result(row)
        state = f"run, {result['seconds'] / 60:.0f} min" if result else f"about {row.minutes} min"
        print(f"{row.name:17} {row.tag:6} {state:14} {row.title}")


def main_work(args) -> None:
    rows = {row.name: row for row in ROWS}
    unknown = [name for name in args.names if name not in rows]
    if unknown:
        raise UserError(f"no row is called {unknown[0]}; there are {', '.join(rows)}")
    if args.list:
        print_rows()
        return
    names = list(rows) if args.all else list(dict.fromkeys(args.names))
    if not names and not args.table:
        raise UserError("name a row, or --all; --list shows them")
    for name in names:
        reproduce(rows[name], args.out)
        write_atomically(PAGE, page().encode())
    write_atomically(PAGE, page().encode())


def main(argv: list[str] | None = None) -> int:
    return run_main(lambda: main_work(build_parser().parse_args(argv)))


if __name__ == "__main__":
    sys.exit(main())
