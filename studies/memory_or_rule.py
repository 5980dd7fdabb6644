"""The study: where memory ends and the rule begins, and what a repetition is worth.

    python studies/memory_or_rule.py --list       # the cells and what each took
    python studies/memory_or_rule.py              # all cells, then table, figure and sentences
    python studies/memory_or_rule.py --only sums  # those whose name holds the word
    python studies/memory_or_rule.py --summary    # from the committed table; nothing is trained

A cell is a panel: replicas of one small model, each trained for the same number of steps on its own
random half of a training set. From cell to cell the number of distinct examples changes, and how
they repeat. What a replica knows of examples that it never saw is rule; what having seen them adds
is memory (docs/memorization.md). Give the same command again after an interruption: finished cells
are kept and the one at work goes on.

Every cell adds its lines to studies/memory_or_rule.csv, from which --summary draws
docs/memory_or_rule*.png and writes the sentences of studies/memory_or_rule.md.
"""

import math
import sys
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np

if __name__ == "__main__":  # Python looks for modules beside the script, not above it
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import metrics
from memorization.figures import PARTS as BUDGET_PARTS
from plots import caption, label_axes, legend_below, own_style, proportion_axis
from runtime.cli import Parser, bounded, run_main
from runtime.files import ROOT, write_atomically
from studies.cells import Table, named, parser_of, run_once, save_figure
from studies.commands import Workshop, made_by, read_json

HOME = Path(__file__).resolve().parent
TEXT = HOME / "memory_or_rule.md"
STEPS, BATCH, SHARE, REPLICAS = 4000, 32, 0.5, 16
MODEL = ["--d_model", "64", "--n_layers", "2", "--n_heads", "2", "--lr", "1e-4"]
TRAINING = ["--patience", "0", "--no-autoreg_eval", "--no-show_samples"]

# ------------------------------------------------------------------------------------------------
# The cells
# ------------------------------------------------------------------------------------------------

TASKS = {  # name -> flags of data/generate.py, and the rows of the cells
    "sums": ("--tasks add --sizes 2", (250, 500, 1000, 2000, 3000)),
    "sort": ("--tasks sort --sizes 3-4", (500, 1000, 2000, 8000, 32000)),
}
GROUPS = {"sums": "add", "sort": "sort"}  # the right answers' group in the results
REPETITIONS = {  # name -> flags of data/generate.py
    "once": "",
    "tenth 16 times": "--repeat_fraction 0.1 --repeat_count 16",
    "all twice": "--repeat_counts 2",
}
LEAST_ROWS = {"tenth 16 times": 1000}  # they repeat 6 examples; fewer spread too unevenly
VARIANTS = {  # at the most telling cell: name -> flags of data/generate.py, of the trainer
    "dropout 0.1": ("", "--dropout 0.1"),
    "weight decay 0.1": ("", "--weight_decay 0.1"),
    "initial weights 0.1": ("", "--init_std 0.1"),
    "a tenth wrong": ("--corrupt 0.1", ""),
}
TELLING = ("sums", 1000)  # of the cells the one where rule and memory are nearest in size


@dataclass(frozen=True)
class Cell:
    """One panel of the study."""

    task: str
    rows: int
    repetition: str = "once"
    variant: str = ""  # of VARIANTS; "" is the plain cell

    @property
    def name(self) -> str:
        return "_".join(str(v).replace(" ", "-") for v in vars(self).values() if v)

    @property
    def data_flags(self) -> list[str]:
        parts = TASKS[self.task][0], REPETITIONS[self.repetition], self.variant_flags[0]
        return [*" ".join(parts).split(), "--rows", str(self.rows), "--val_rows", "300"]

    @property
    def variant_flags(self) -> tuple[str, str]:
        return VARIANTS.get(self.variant, ("", ""))

    @property
    def training_flags(self) -> list[str]:
        dropout = [] if "--dropout" in self.variant_flags[1] else ["--dropout", "0"]
        return [*MODEL, *TRAINING, *dropout, *self.variant_flags[1].split()]

    @property
    def epochs(self) -> int:
        """As many passes over half of the rows as make STEPS, nearly."""
        return round(STEPS / max(1, self.rows * SHARE / BATCH))


def all_cells() -> list[Cell]:
    """In the order in which they tell most: an interrupted study has an answer too."""
    cells = {
        repetition: [
            Cell(task, rows, repetition)
            for task, (_, sizes) in TASKS.items()
            for rows in sizes
            if rows >= LEAST_ROWS.get(repetition, 0)
        ]
        for repetition in REPETITIONS
    }
    variants = [Cell(*TELLING, variant=variant) for variant in VARIANTS]
    return [*cells["once"], *cells["tenth 16 times"], *variants, *cells["all twice"]]


# ------------------------------------------------------------------------------------------------
# Running one
# ------------------------------------------------------------------------------------------------

BITS = ("rule", "memory", "unexplained")  # parts of an answer's bits
SHARES = ("right_by_rule", "right_by_memory", "wrong")  # of the answers, by exact match
COLUMNS = {  # of the table: one line a cell, group of examples and kept epoch
    "cell": str,
    "task": str,
    "rows": int,  # of the training set; a replica trains on half of its distinct examples
    "repetition": str,
    "variant": str,
    "group": str,  # right answers, or wrong ones
    "replicas": int,
    "distinct": int,  # examples that a replica trains on
    "trained_rows": int,  # with their copies
    "epoch": int,
    "step": int,
    "bits": float,
    **{f"{part}{end}": float for part in BITS + SHARES for end in ("", "_low", "_high")},
    "seconds": float,  # of the whole cell
    "commit": str,
    "device": str,
}
TABLE = Table(HOME / "memory_or_rule.csv", COLUMNS, [cell.name for cell in all_cells()])


def run_cell(cell: Cell, out: Path, seeds: str) -> list[dict]:
    """The table's lines of one cell."""
    shop = Workshop(out / cell.name)
    command = {"data": cell.data_flags, "training": cell.training_flags, "epochs": cell.epochs}
    command["seeds"] = seeds
    return run_once(shop.folder, command, lambda: measure(cell, shop, seeds))


def measure(cell: Cell, shop: Workshop, seeds: str) -> list[dict]:
    """Make the data, train the panel, measure it; the lines of the table."""
    data, run = shop.folder / "data", shop.folder / "run"
    shop.call("data/generate.py", *cell.data_flags, "--out", data)
    panel = ["--subset", SHARE, "--seeds", seeds, "--epochs", cell.epochs]
    shop.call(
        "train_minigpt_4070.py",
        *("--data", data / "train.pkl", "--out_dir", run, *panel, *cell.training_flags),
        *("--eval_every", cell.epochs, "--save_every", max(1, cell.epochs // 8), "--resume"),
    )
    shop.call("evaluate_memorization.py", "--model", run, "--ledger_only")
    results = read_json(run / "memorization/memorization_results.json")
    return lines_of(cell, results, made_by(run / "seed_0/config.json"), shop.seconds())


def lines_of(cell: Cell, results: dict, made: dict, seconds: float) -> list[dict]:
    """The table's lines of one measured panel."""
    panel = results["panel"]
    about = {
        "cell": cell.name,
        **vars(cell),
        "replicas": panel["replicas"],
        "distinct": panel["n_members"],
        "trained_rows": round(cell.rows * SHARE),
        "seconds": seconds,
        "commit": made["commit"],
        "device": made["device"],
    }
    return [
        {name: {**about, "group": group, **row}[name] for name in COLUMNS}
        for group, rows in results["budget_over_epochs"].items()
        for row in rows
    ]


# ------------------------------------------------------------------------------------------------
# What the table says
# ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Curve:
    """Bits and shares over the number of distinct examples, after the last step.

    Of one task and repetition. `means` and `errors` are {part: float [n]} for the parts BITS and
    SHARES; an error is a standard error over replicas. `reaches` are {part: float [2, n]}: how far
    the 95 % interval as it is told goes below and above the mean.
    """

    distinct: np.ndarray  # int [n], ascending
    trained_rows: np.ndarray  # int [n]
    degrees: np.ndarray  # int [n]: of freedom of the errors, one less than the replicas
    bits: np.ndarray  # float [n]: of an answer
    means: dict[str, np.ndarray] = field(default_factory=dict)
    errors: dict[str, np.ndarray] = field(default_factory=dict)
    reaches: dict[str, np.ndarray] = field(default_factory=dict)


def last_lines(lines: list[dict], **wanted) -> list[dict]:
    """Of each cell and group the line after the last step, by distinct examples."""
    last = {}
    for line in lines:
        if all(line[name] == value for name, value in wanted.items()):
            last[line["cell"], line["group"]] = line
    return sorted(last.values(), key=lambda line: line["distinct"])


def curve_of(lines: list[dict], task: str, repetition: str) -> Curve | None:
    """The curve of the plain cells; None where there are not two."""
    found = last_lines(lines, task=task, repetition=repetition, variant="", group=GROUPS[task])
    if len(found) < 2:
        return None

    def column(name):
        return np.array([line[name] for line in found])

    return Curve(
        distinct=column("distinct"),
        trained_rows=column("trained_rows"),
        degrees=column("replicas") - 1,
        bits=column("bits"),
        means={part: column(part) for part in BITS + SHARES},
        errors={part: np.array([error_of(line, part) for line in found]) for part in BITS + SHARES},
        reaches={
            part: np.array([reach_of(*ends_of(line, part)) for line in found]).T
            for part in BITS + SHARES
        },
    )


def reach_of(value: float, low: float, high: float) -> tuple[float, float]:
    return max(value - low, 0.0), max(high - value, 0.0)


def error_of(line: dict, part: str) -> float:
    """The standard error over replicas, from the ends of the interval."""
    return (
        (line[f"{part}_high"] - line[f"{part}_low"]) / 2 / metrics.t_quantile(line["replicas"] - 1)
    )


FIGURES = {  # parts -> file below docs/, and what it shows
    SHARES: (
        "memory_or_rule.png",
        "Answers right where the model never saw the example, those that having seen it adds, and "
        "the wrong ones. Tenth 16 times: a tenth of the rows are 16 copies each of a few examples.",
    ),
    BITS: (
        "memory_or_rule_bits.png",
        "The same in bits gained over an even guess. Memory begins where rule ends. The axis is "
        "cut where rule is far below 0; the numbers at its lower end say how far.",
    ),
}
DRAWS = 10_000  # of the intervals of crossings and of what a copy is worth


def drawn(
    means: np.ndarray, errors: np.ndarray, degrees: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """float [1 + DRAWS, n]: the means first, then Student's t times the errors about them."""
    noise = rng.standard_t(degrees, (DRAWS, len(means))) * errors
    return np.vstack([means, means + noise])


def excess_of(curve: Curve, parts: tuple) -> tuple[np.ndarray, np.ndarray]:
    """Rule minus memory, `parts` being BITS or SHARES: (means, standard errors), float [n] each.

    The same replicas give both, so their errors go together. But for constants rule is OUT, memory
    IN - OUT and the third part -IN, and rule - memory is 2 OUT - IN. The errors of the three give
    the covariance of IN and OUT, and with it V(2 OUT - IN) = 2 V(rule) + 2 V(memory) - V(third).
    """
    rule, memory, third = (curve.errors[part] ** 2 for part in parts)
    variances = np.maximum(2 * rule + 2 * memory - third, 0)  # below 0 by rounding alone
    return curve.means[parts[0]] - curve.means[parts[1]], np.sqrt(variances)


def interval_of(values: np.ndarray) -> tuple[float, float, float]:
    """(estimate, low, high) of [estimate, draws]; infinite where a draw has no finite value."""
    low, high = np.quantile(values[1:], (0.025, 0.975), method="nearest")
    return float(values[0]), float(low), float(high)


def crossing(curve: Curve, parts: tuple, rng: np.random.Generator) -> tuple[float, float, float]:
    """The number of distinct examples from which on rule is more than memory, with its interval.

    `parts` is BITS or SHARES. Between two cells they are taken as straight over the logarithm of
    the number. -infinite where rule is more from the first cell on, infinite where it is not in
    the last.
    """
    excess = drawn(*excess_of(curve, parts), curve.degrees, rng)
    x = np.log2(curve.distinct)
    found = np.full(len(excess), np.inf)
    for row, values in enumerate(excess):
        below = np.flatnonzero(values <= 0)
        if not len(below):
            found[row] = -np.inf
        elif (i := below[-1]) + 1 < len(x):
            share = -values[i] / (values[i + 1] - values[i])
            found[row] = 2 ** (x[i] + share * (x[i + 1] - x[i]))
    return interval_of(found)


def ascending(rows: np.ndarray) -> np.ndarray:
    """The nearest values that never fall, by least squares, of each row of float [m, n].

    Value i is the largest over j <= i of the smallest over k >= i of the mean of values j to k
    (Barlow et al. 1972). A running maximum would take noise for a rise.
    """
    n = rows.shape[1]
    means = {(j, k): rows[:, j : k + 1].mean(axis=1) for j in range(n) for k in range(j, n)}
    columns = [
        np.max([np.min([means[j, k] for k in range(i, n)], axis=0) for j in range(i + 1)], axis=0)
        for i in range(n)
    ]
    return np.stack(columns, axis=1)


def equal_number(once: Curve, repeated: Curve, i: int, rng) -> tuple[float, float, float]:
    """How many distinct examples, without repetition, have right by rule what cell i of `repeated`
    has, with its interval.

    Infinite, or -infinite, where the share is above, or below, all that was measured without
    repetition.
    """
    rule = SHARES[0]
    levels = ascending(drawn(once.means[rule], once.errors[rule], once.degrees, rng))
    wanted = drawn(repeated.means[rule], repeated.errors[rule], repeated.degrees, rng)[:, i]
    logs = np.array(
        [
            np.interp(w, row, np.log2(once.distinct), left=-math.inf, right=math.inf)
            for w, row in zip(wanted, levels, strict=True)
        ]
    )
    return interval_of(np.where(np.isneginf(logs), -math.inf, 2**logs))


def worth_of_a_copy(repeated: Curve, i: int, number: float) -> float:
    """How many distinct examples each further copy in cell i of `repeated` stands for, where the
    cell has as much by rule as `number` distinct examples without repetition.

    1 where a copy teaches the rule as a new example would, 0 where it teaches nothing, below 0
    where it does harm. The cell has to have copies.
    """
    distinct, rows = repeated.distinct[i], repeated.trained_rows[i]
    return (number - distinct) / (rows - distinct)


def with_ends(words: list[str]) -> str:
    """`a [b, c]` of estimate, low and high; `a` where all three are one word."""
    return words[0] if len(set(words)) == 1 else "{} [{}, {}]".format(*words)


def beyond_words(interval: tuple[float, float, float], low: str, high: str, form: str) -> str:
    """`354 [250, more than 500]`: -infinity, below all that was measured, is told as fewer than
    `low`, and infinity as more than `high`.
    """
    beyond = {-math.inf: f"fewer than {low}", math.inf: f"more than {high}"}
    return with_ends([beyond[n] if n in beyond else form.format(n) for n in interval])


def number_words(curve: Curve, interval: tuple[float, float, float]) -> str:
    """A number of distinct examples, as far as the curve goes."""
    first, last = (f"{curve.distinct[i]:,}" for i in (0, -1))
    return beyond_words(interval, first, last, "{:,.0f}")


def crossing_words(curve: Curve, parts: tuple) -> str:
    return number_words(curve, crossing(curve, parts, np.random.default_rng(0)))


def worth_words(once: Curve, curve: Curve, i: int) -> str:
    """Of cell i of `curve`: what it has by rule, and so the worth of a copy where that is known."""
    numbers = equal_number(once, curve, i, np.random.default_rng(0))
    said = (
        "as many answers right by rule as without repetition of "
        f"{number_words(once, numbers)} distinct examples"
    )
    if math.isinf(numbers[0]):
        return said
    ends = (*numbers, *once.distinct[[0, -1]])
    worth = [round(worth_of_a_copy(curve, i, n), 2) + 0.0 for n in ends]  # -0.0 + 0.0 is 0.0
    form = "{:+.2f}"
    words = beyond_words(worth[:3], *map(form.format, worth[3:]), form)
    copies = curve.trained_rows[i] - curve.distinct[i]
    return f"{said}, so each of {copies:,} further copies adds what {words} distinct examples add"


def sentences(lines: list[dict]) -> list[str]:
    """What the table says, one sentence each."""
    said = []
    for task in TASKS:
        once = curve_of(lines, task, "once")
        for repetition in REPETITIONS:
            curve = curve_of(lines, task, repetition)
            if once is None or curve is None:
                continue
            shares, bits = (crossing_words(curve, parts) for parts in (SHARES, BITS))
            said.append(
                f"{task}, {repetition}: more answers are right by rule than by memory from "
                f"{shares} distinct examples on, and more bits are from {bits} on."
            )
            said += [
                f"{task}, {repetition}, {n:,} distinct examples: {worth_words(once, curve, i)}."
                for i, n in enumerate(curve.distinct)
                if curve.trained_rows[i] > n
            ]
    return said + variant_sentences(lines)


def variant_sentences(lines: list[dict]) -> list[str]:
    """How each variant of the telling cell differs from the plain one, by rule and by memory."""
    task, rows = TELLING
    cells = {
        line["variant"]: line
        for line in last_lines(lines, task=task, rows=rows, repetition="once", group=GROUPS[task])
    }
    plain, said = cells.pop("", None), []
    for name, line in cells.items() if plain else ():
        points, bits = (
            " and ".join(
                f"{kind} {gain_words(line, plain, part, times)}"
                for kind, part in zip(("by rule", "by memory"), parts, strict=False)
            )
            for parts, times in ((SHARES, 100), (BITS, 1))
        )
        said.append(
            f"{task}, {line['distinct']:,} distinct examples, {name}: {points} points of right "
            f"answers than without; in bits {bits}."
        )
    return said


def gain_words(line: dict, plain: dict, part: str, times: float) -> str:
    """`+1.2 [-0.3, +2.7]`: so much more of the part, two panels as if independent.

    They share seeds; over seeds their rates correlated by -0.4 to 0.2 in three such pairs.
    """
    error = math.hypot(error_of(line, part), error_of(plain, part))
    reach = metrics.t_quantile(min(line["replicas"], plain["replicas"]) - 1) * error
    difference = line[part] - plain[part]
    return "{:+.1f} [{:+.1f}, {:+.1f}]".format(
        *(times * n for n in (difference, difference - reach, difference + reach))
    )


def ends_of(line: dict, part: str) -> tuple[float, float, float]:
    """Estimate, low and high as they are told.

    The table keeps what a standard error can be read from. A share lies between 0 and 1, one by
    memory between -1 and 1. Where replicas agree wholly on the answers that they saw, or on those
    that they did not see, Wilson's bound for their number stands in, also in what memory is.
    """
    value, low, high = (line[f"{part}{end}"] for end in ("", "_low", "_high"))
    if part not in SHARES:
        return value, low, high
    if part == "right_by_memory":
        out, wrong = ends_of(line, "right_by_rule"), ends_of(line, "wrong")
        seen = 1 - wrong[0], 1 - wrong[2], 1 - wrong[1]
        if agreed(line, "right_by_rule") or agreed(line, "wrong"):
            joined = metrics.difference_interval(seen, out)
            low, high = min(low, joined[0]), max(high, joined[1])
        return value, max(low, -1.0), min(high, 1.0)
    if agreed(line, part):
        low, high = metrics.wilson_interval(round(value) * line["replicas"], line["replicas"])
    return value, max(low, 0.0), min(high, 1.0)


def agreed(line: dict, part: str) -> bool:
    """All replicas have a share of 0, or all one of 1."""
    value, low, high = (line[f"{part}{end}"] for end in ("", "_low", "_high"))
    return high - low < 1e-9 and min(abs(value), abs(1 - value)) < 1e-9


def budget_rows(lines: list[dict]) -> list[list[str]]:
    """The cells after their last step, as a table for people."""

    def ends(line, part, times=1, digits=2):
        numbers = (round(times * number, digits) for number in ends_of(line, part))
        values = (f"{number + 0.0:.{digits}f}" for number in numbers)  # -0.0 + 0.0 is 0.0
        return "{} [{}, {}]".format(*values)

    return [
        [
            line["group"],
            line["repetition"] + (f", {line['variant']}" if line["variant"] else ""),
            f"{line['distinct']:,}",
            f"{line['trained_rows']:,}",
            *(ends(line, part, times=100, digits=1) for part in SHARES),
            f"{line['bits']:.2f}",
            *(ends(line, part) for part in BITS),
        ]
        for line in last_lines(lines)
    ]


HEADS = ["group", "repetition", "distinct", "rows", "right by rule, %", "by memory, %", "wrong, %"]
HEADS += ["bits", *BITS]


MIX = (
    "Every sum has two numbers of two digits. Lists differ: a set repeats no example by chance, "
    "and those of one-digit numbers alone are few, 17 % of 500 lists and 2 % of 32,000. So a "
    "larger set of lists is asked harder ones, which moves its crossing to larger numbers.\n\n"
    "Crossings, and numbers with as much by rule, are read between two cells on a straight line "
    "over the logarithm of the number; the intervals are over replicas and do not know how far the "
    "line is from the truth."
)


def replicas_words(lines: list[dict]) -> str:
    """`16`, or `8 to 16`."""
    ends = [f(line["replicas"] for line in lines) for f in (min, max)]
    return " to ".join(map(str, dict.fromkeys(ends)))


def markdown(lines: list[dict]) -> str:
    """studies/memory_or_rule.md."""
    devices = ", ".join(sorted({line["device"] for line in lines}))
    hours = sum({line["cell"]: line["seconds"] for line in lines}.values()) / 3600
    rows = [HEADS, ["---"] * len(HEADS), *budget_rows(lines)]
    return "\n".join(
        [
            "# Where memory ends and the rule begins",
            "",
            f"Written by `python studies/memory_or_rule.py`, from `{TABLE.file.name}`: "
            f"{len({line['cell'] for line in lines})} of {len(all_cells())} cells; {devices}; "
            f"{hours:.1f} hours in all. A model has width 64 and 2 layers and trains for about "
            f"{STEPS:,} steps of {BATCH}; {replicas_words(lines)} replicas a cell, each on its own "
            "half of the examples. Bits of an answer and its end, with 95 % intervals over "
            "replicas; where all of them agree, Wilson's for their number.",
            "",
            MIX,
            "",
            *(f"- {sentence}" for sentence in sentences(lines)),
            "",
            *("| " + " | ".join(row) + " |" for row in rows),
            "",
        ]
    )


# ------------------------------------------------------------------------------------------------
# The figure
# ------------------------------------------------------------------------------------------------


def figure(lines: list[dict], parts: tuple[str, ...]):
    """The parts, BITS or SHARES, as areas: tasks down, repetitions across."""
    from matplotlib.figure import Figure

    curves = {
        (task, repetition): curve
        for task in TASKS
        for repetition in REPETITIONS
        if (curve := curve_of(lines, task, repetition))
    }
    tasks = [task for task in TASKS if any(of == task for of, _ in curves)]
    across = [name for name in REPETITIONS if any(of == name for _, of in curves)]
    fig = Figure(figsize=(1.2 + 3.3 * len(across), 1.2 + 2.8 * len(tasks)), layout="constrained")
    axes = fig.subplots(len(tasks), len(across), squeeze=False, sharex="row", sharey="row")
    for row, task in zip(axes, tasks, strict=True):
        drawn_ones = []
        for ax, repetition in zip(row, across, strict=True):
            if curve := curves.get((task, repetition)):
                draw_areas(ax, curve, parts)
                label_axes(ax, f"{task}, {repetition}", "distinct examples a model trains on", "")
                drawn_ones.append((ax, curve))
            else:
                ax.set_visible(False)
        share_numbers(drawn_ones)
        drawn_ones[0][0].set_ylabel(
            "bits of an answer" if parts == BITS else "share of the answers"
        )
        drawn_ones[0][0].tick_params(labelleft=True)
    legend_below(drawn_ones[0][0])
    replicas = replicas_words(lines)
    caption(
        fig,
        f"{FIGURES[parts][1]} Error bars: 95 % over {replicas} replicas, as in the table.",
    )
    return fig


def draw_areas(ax, curve: Curve, parts: tuple[str, ...]) -> None:
    """Three areas from 0 up, each from where the one below ends; a rule below 0 shows."""
    x, start = curve.distinct, np.zeros(len(curve.distinct))
    apart = iter((0.985, 1.015))  # the bars of rule and of memory may have like ends
    for part, (colour, hatch) in zip(parts, BUDGET_PARTS.values(), strict=True):
        end, label = start + curve.means[part], part.replace("_", " ")
        ax.fill_between(x, start, end, color=colour, hatch=hatch, edgecolor="white", label=label)
        if part != parts[-1]:
            ax.plot(x, end, color="black", linewidth=1)
            bars = {"fmt": "none", "color": "black", "linewidth": 1, "capsize": 2.5}
            ax.errorbar(x * next(apart), end, yerr=curve.reaches[part], **bars)
        start = end
    if parts == BITS:  # far below 0 a model is sure of wrong answers, and by how much says little
        low = max(ax.get_ylim()[0], -curve.bits.max())
        ax.set_ylim(low, 1.05 * curve.bits.max())
        for n, rule in zip(x, curve.means[parts[0]], strict=True):
            if rule < low:
                at_the_end = {"transform": ax.get_xaxis_transform(), "va": "bottom"}
                text = f"↓{rule:.0f}".replace("-", "−")
                box = {"facecolor": "white", "edgecolor": "none", "pad": 1}
                ax.text(1.04 * n, 0.03, text, fontsize=8, bbox=box, **at_the_end)
    else:
        proportion_axis(ax.yaxis)
        ax.set_ylim(0, 1)
    ax.axhline(0, color="0.4", linewidth=0.8)
    ax.set_xscale("log", base=2)


def share_numbers(drawn_ones: list) -> None:
    """One axis of numbers for a row's (axes, curve), with ticks at the longest curve's cells.

    Ticks too near to the next one are left out.
    """
    longest = max((curve.distinct for _, curve in drawn_ones), key=len)
    ends = [f(curve.distinct[i] for _, curve in drawn_ones) for f, i in ((min, 0), (max, -1))]
    apart = (ends[1] / ends[0]) ** 0.15
    ticks = [n for n, after in pairwise([*longest, math.inf]) if after > apart * n]
    for ax, _ in drawn_ones:
        ax.set_xticks(ticks, [f"{n:,}" for n in ticks])
        ax.minorticks_off()
        ax.set_xlim(ends[0] * 0.92, ends[1] * 1.08)  # whole error bars at the ends


# ------------------------------------------------------------------------------------------------
# Command line
# ------------------------------------------------------------------------------------------------


def summarize(figure_folder: Path) -> None:
    """Sentences and figure from the table."""
    lines = TABLE.lines()
    write_atomically(TEXT, markdown(lines).encode())
    print(*sentences(lines), sep="\n")
    for parts, (name, _) in FIGURES.items():
        with own_style():
            save_figure(figure(lines, parts), figure_folder / name)
    print(f"wrote {TEXT} and, in {figure_folder}, {', '.join(n for n, _ in FIGURES.values())}")


def build_parser() -> Parser:
    parser = parser_of(__doc__, ROOT / "runs/memory_or_rule")
    parser.add_argument(
        "--replicas", type=bounded(int, 4, 1024), default=REPLICAS, help="models a cell"
    )
    return parser


def study(args) -> None:
    cells = named(all_cells(), args.only)
    if args.list:
        done = {line["cell"]: line["seconds"] for line in TABLE.read()}
        for cell in cells:
            state = f"{done[cell.name] / 60:.0f} min" if cell.name in done else "not run"
            print(f"{cell.name:32} {cell.epochs:>5} epochs  {state}")
        return
    if not args.summary:
        for cell in cells:
            TABLE.replace(run_cell(cell, args.out, f"0-{args.replicas - 1}"))
    summarize(ROOT / "docs")


def main(argv: list[str] | None = None) -> int:
    return run_main(lambda: study(build_parser().parse_args(argv)))


if __name__ == "__main__":
    sys.exit(main())
