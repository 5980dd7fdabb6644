"""The study: with which optimizer, rate, batch and dropout a model comes to the rule soonest.

    python studies/time_to_rule.py --list       # the cells and what each took
    python studies/time_to_rule.py --only sums  # those whose name holds the word
    python studies/time_to_rule.py --summary    # from the committed table; nothing is trained

A cell trains several seeds of one recommended model side by side. From cell to cell one or two
flags change; data and seeds stay, so cells are compared seed by seed. Time is processor time,
validation included: a crowded machine tells it truly. Give the same command again after an
interruption. The cells of the five tasks are for a GPU: on a CPU each takes a night.

Every cell adds its lines to studies/time_to_rule.csv, from which --summary draws
docs/time_to_rule.png and writes studies/time_to_rule.md.
"""

import math
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

if __name__ == "__main__":  # Python looks for modules beside the script, not above it
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import metrics
from plots import caption, label_axes, look, number_axis, own_style, proportion_axis
from runtime.cli import Parser, run_main
from runtime.files import ROOT, write_atomically
from studies.cells import Table, named, parser_of, run_once, save_figure
from studies.commands import Workshop, made_by
from studies.seeds import difference_words, p_words, steps_words, validations

HOME = Path(__file__).resolve().parent
TEXT, FIGURE = HOME / "time_to_rule.md", "time_to_rule.png"
SEEDS = 8
LEVELS = (0.9, 0.95, 0.99)  # of unseen exact match: the rule is there


# ------------------------------------------------------------------------------------------------
# The cells
# ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Task:
    """A recommended command: what its cells have in common."""

    data: str  # training set below data/, with a tokenizer.json beside it
    rows: int  # of that set
    unseen: int  # validation examples
    epochs: int  # of a cell
    readme_epochs: int
    lr: float  # that the README gives
    warmup: int  # examples
    flags: str


TASKS = {
    "sums": Task(
        data="add_only/train.pkl",
        rows=5000,
        unseen=500,
        epochs=16,
        readme_epochs=30,
        lr=1e-4,
        warmup=200 * 32,
        flags="--d_model 128 --n_layers 4 --n_heads 4",
    ),
    # All from the start: a stage that adds a task would move the share that is right.
    "five": Task(
        data="processed/train_normal.pkl",
        rows=50_000,
        unseen=2500,
        epochs=8,
        readme_epochs=50,
        lr=5e-5,
        warmup=1000 * 32,
        flags="--d_model 256 --n_layers 6 --n_heads 8 --label_smoothing 0.05",
    ),
}


@dataclass(frozen=True)
class Cell:
    """The recommended command with some flags changed, trained with SEEDS seeds."""

    task: str
    optimizer: str = "adamw"
    rate: float = 1  # times the recommended one
    dropout: float = 0.1  # on embeddings and block outputs
    batch: int = 32
    epochs: int = 0  # 0: those of the task's cells

    @property
    def name(self) -> str:
        epochs = f"_epochs-{self.epochs}" if self.epochs else ""
        return (
            f"{self.task}_{self.optimizer}_rate-{self.rate}_dropout-{self.dropout}"
            f"_batch-{self.batch}{epochs}"
        )

    @property
    def flags(self) -> list[str]:
        task = TASKS[self.task]
        return [
            *("--data", f"data/{task.data}", *task.flags.split()),
            *("--tokenizer", f"data/{Path(task.data).parent}/tokenizer.json"),
            *("--optimizer", self.optimizer, "--lr", f"{task.lr * self.rate:g}"),
            *("--dropout", str(self.dropout), "--batch_size", str(self.batch)),
            *("--warmup_steps", str(round(task.warmup / self.batch))),
            *("--epochs", str(self.epochs or task.epochs), "--patience", "0"),
            *("--eval_every_steps", str(round(task.rows / self.batch / 2))),
            *("--no-autoreg_eval", "--no-show_samples"),
        ]


def all_cells() -> list[Cell]:
    """Of each task the README's command first: the others are compared with it."""
    both = ("adamw", "muon")
    return [
        cell
        for task in TASKS
        for cell in (
            Cell(task, epochs=TASKS[task].readme_epochs),
            *(Cell(task, optimizer, rate) for rate in (1, 3, 10) for optimizer in both),
            *(Cell(task, optimizer, 3, dropout=0) for optimizer in both),
            Cell(task, dropout=0),
            *(Cell(task, optimizer, rate, batch=128) for rate in (3, 10) for optimizer in both),
        )
    ]


# ------------------------------------------------------------------------------------------------
# Running one
# ------------------------------------------------------------------------------------------------

COLUMNS = {  # of the table: one line a validation
    "cell": str,
    "task": str,
    "optimizer": str,
    "rate": float,
    "dropout": float,
    "batch": int,
    "epochs": int,  # 0: those of the task's cells
    "examples": int,  # that each seed has seen
    "cpu_seconds": float,  # of processor time that one seed took until then
    "unseen": str,  # exact match of each seed, in their order
    "commit": str,
    "device": str,
}


def run_cell(cell: Cell, out: Path) -> list[dict]:
    """The table's lines of one cell."""
    shop = Workshop(out / cell.name)
    command = [*cell.flags, "--seeds", f"0-{SEEDS - 1}"]
    return run_once(shop.folder, command, lambda: measure(cell, shop, command))


def measure(cell: Cell, shop: Workshop, command: list[str]) -> list[dict]:
    """Train the seeds side by side; the lines of the table."""
    run = shop.folder / "run"
    shop.call("train_minigpt_4070.py", *command, "--out_dir", run, "--resume")
    made = made_by(run / "seed_0/config.json")
    return lines_of(cell, validations(run), shop.seconds("cpu_seconds") / SEEDS, made)


def lines_of(cell: Cell, seeds: list[list[dict]], cpu_seconds: float, made: dict) -> list[dict]:
    """The table's lines, of `cpu_seconds` that one seed took from start to end."""
    end = seeds[0][-1]["examples_seen"]
    return [
        {
            "cell": cell.name,
            **vars(cell),
            "examples": now[0]["examples_seen"],
            "cpu_seconds": cpu_seconds * now[0]["examples_seen"] / end,
            "unseen": " ".join(f"{line['val_exact_match']:g}" for line in now),
            "commit": made["commit"],
            "device": made["device"],
        }
        for now in zip(*seeds, strict=True)
    ]


TABLE = Table(HOME / "time_to_rule.csv", COLUMNS, [cell.name for cell in all_cells()])


# ------------------------------------------------------------------------------------------------
# What the table says
# ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Curve:
    """One cell of the table over its V validations."""

    cell: Cell
    examples: np.ndarray  # int [V]: that each seed has seen
    cpu_seconds: np.ndarray  # float [V]: of one seed
    unseen: np.ndarray  # float [seeds, V]: exact match

    def examples_until(self, level: float) -> list[int | None]:
        """What each seed has seen at its first validation with that rate; None where none has."""
        return [
            int(self.examples[np.argmax(there)]) if there.any() else None
            for there in self.unseen >= level
        ]

    @property
    def seconds_an_example(self) -> float:
        return float(self.cpu_seconds[-1] / self.examples[-1])


def curves_of(lines: list[dict], task: str) -> list[Curve]:
    """Those of a task in the order of all_cells."""
    found = []
    for cell in all_cells():
        own = [line for line in lines if line["cell"] == cell.name and cell.task == task]
        if own:
            found.append(
                Curve(
                    cell=cell,
                    examples=np.array([line["examples"] for line in own]),
                    cpu_seconds=np.array([line["cpu_seconds"] for line in own]),
                    unseen=np.array([line["unseen"].split() for line in own], dtype=float).T,
                )
            )
    return found


def time_ratios(curves: list[Curve], level: float) -> dict[Cell, dict]:
    """Processor time until `level` over that of the first curve, paired over seeds.

    As metrics.compare_seeds returns it, of the logarithm, with "p_holm" over all of the curves but
    the first. Cells of which a seed does not reach the level are left out, and count as p = 1.
    Where a seed of the first curve does not, all times are restricted to the first curve's end
    (restricted mean survival time, Royston and Parmar 2013): a ratio below 1 is then nearer to 1
    than that of the times themselves.
    """
    if not curves:
        return {}
    first = curves[0]
    end = first.cpu_seconds[-1] if None in first.examples_until(level) else math.inf

    def logs(curve):
        until = [math.inf if n is None else n for n in curve.examples_until(level)]
        return np.log(np.minimum(end, np.array(until) * curve.seconds_an_example))

    found = {
        curve.cell: metrics.compare_seeds(logs(curve), logs(curves[0]), paired=True)
        for curve in curves[1:]
        if None not in curve.examples_until(level)
    }
    p_values = [found[c.cell]["p"] if c.cell in found else 1.0 for c in curves[1:]]
    adjusted = dict(zip((c.cell for c in curves[1:]), metrics.holm(p_values), strict=True))
    return {cell: row | {"p_holm": adjusted[cell]} for cell, row in found.items()}


def end_gains(curves: list[Curve]) -> dict[Cell, dict]:
    """Unseen exact match after the last epoch less that of the recommended settings after as many
    epochs, paired over seeds.

    As metrics.compare_seeds returns it, with "p_holm" over all of them.
    """
    plain = [curve for curve in curves if curve.cell == Cell(curve.cell.task)]
    found = {
        curve.cell: metrics.compare_seeds(curve.unseen[:, -1], base.unseen[:, -1], paired=True)
        for base in plain
        for curve in curves
        if curve is not base and not curve.cell.epochs
    }
    adjusted = metrics.holm([row["p"] for row in found.values()])
    return {
        cell: row | {"p_holm": p} for (cell, row), p in zip(found.items(), adjusted, strict=True)
    }


def ratio_of(row: dict | None) -> str:
    """`0.72 [0.68, 0.77], p = 0.003`: a row of time_ratios; "–" for None."""
    if row is None:
        return "–"
    ends = [row[key] for key in ("difference", "low", "high")]
    words = [f"{math.exp(end):.2f}" for end in ends if end is not None]
    said = f"{words[0]} [{words[1]}, {words[2]}]" if len(words) == 3 else words[0]
    p = row["p_holm"]
    return said if p is None else f"{said}, {p_words(p)}"


HEADS = ["optimizer", "rate", "dropout", "batch", "epochs"]
HEADS += [f"examples until {100 * level:.0f} %" for level in LEVELS]
HEADS += [
    "unseen at the end, %",
    "above the second row's, points",
    "ms an example",
    f"time until {100 * LEVELS[1]:.0f} %, × the first row's",
]


def rows_of(curves: list[Curve]) -> list[list[str]]:
    """A task's cells as a table for people."""
    ratios, gains, rows = time_ratios(curves, LEVELS[1]), end_gains(curves), []
    for curve in curves:
        cell, last = curve.cell, int(curve.examples[-1])
        n = TASKS[cell.task].unseen
        end = metrics.over_seeds([{"exact_match": rate, "n": n} for rate in curve.unseen[:, -1]])
        rows.append(
            [
                *(cell.optimizer, f"× {cell.rate:g}", f"{cell.dropout:g}", str(cell.batch)),
                str(cell.epochs or TASKS[cell.task].epochs),
                *(steps_words(curve.examples_until(level), last) for level in LEVELS),
                "{:.1f} [{:.1f}, {:.1f}]".format(*(100 * end[k] for k in ("mean", "low", "high"))),
                difference_words(gains[cell], times=100, digits=1) if cell in gains else "–",
                f"{1000 * curve.seconds_an_example:.2f}",
                "1" if curve is curves[0] else ratio_of(ratios.get(cell)),
            ]
        )
    return rows


def markdown(lines: list[dict]) -> str:
    """studies/time_to_rule.md."""
    devices = ", ".join(sorted({line["device"] for line in lines}))
    said = [
        "# How soon the rule is there",
        "",
        f"Written by `python studies/time_to_rule.py`, from `{TABLE.file.name}`: "
        f"{len({line['cell'] for line in lines})} of {len(all_cells())} cells; {devices}. "
        f"Unseen exact match of {SEEDS} seeds a cell, validated twice an epoch; at the end with "
        "the 95 % interval for other seeds and other examples. "
        "*rate* is over that of the README's command. *examples until* is the geometric mean over "
        "seeds with its 95 % interval; where a seed did not get there, the median. Time is "
        "processor time on one thread, validation included; its ratio is paired over seeds, with "
        "Holm's p over the task's rows, and so are the points at the end, above the recommended "
        "settings after as many epochs; both are of these examples. Where a seed of the first row "
        "does not get there, the times compared are restricted to that row's end (restricted mean "
        "survival time): a ratio below 1 is then nearer to 1 than that of the times themselves. "
        "What a cell takes an example was measured once, so the interval of a ratio is over seeds "
        "alone. docs/training.md says which cells were timed before denormals were flushed.",
        "",
    ]
    for task in TASKS:
        if curves := curves_of(lines, task):
            rows = [HEADS, ["---"] * len(HEADS), *rows_of(curves)]
            said += [f"## {task}", ""]
            said += ["| " + " | ".join(row) + " |" for row in rows] + [""]
    return "\n".join(said)


# ------------------------------------------------------------------------------------------------
# The figure
# ------------------------------------------------------------------------------------------------


def figure(lines: list[dict]):
    """Mean unseen exact match over examples and over time, of cells with the README's dropout."""
    from matplotlib.figure import Figure

    tasks = {task: found for task in TASKS if (found := curves_of(lines, task))}
    fig = Figure(figsize=(9.5, 0.6 + 3.2 * len(tasks)), layout="constrained")
    axes = fig.subplots(len(tasks), 2, squeeze=False, sharey=True)
    for row, (task, curves) in zip(axes, tasks.items(), strict=True):
        shown = [curve for curve in curves if curve.cell.dropout == Cell(task).dropout]
        for ax, key in zip(row, ("examples", "cpu_seconds"), strict=True):
            for i, curve in enumerate(shown):
                style = {**look(i), "markersize": 4, "markevery": (i % 4, 4)}
                ax.plot(getattr(curve, key), curve.unseen.mean(0), label=label_of(curve), **style)
            proportion_axis(ax.yaxis)
            ax.set_xlim(left=0)
        seen = number_axis(row[0], "examples_seen")
        label_axes(row[0], task, seen, "unseen exact match")
        label_axes(row[1], "", "processor seconds of one seed", "")
        row[1].legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.01, 1))
    epochs = " and ".join(f"{TASKS[task].epochs}" for task in tasks)
    caption(fig, f"Means over {SEEDS} seeds; batch 32 and {epochs} epochs where nothing is said.")
    return fig


def label_of(curve: Curve) -> str:
    """`muon, rate × 10, batch 128`: what differs from the cells of its task."""
    cell = curve.cell
    label = f"{cell.optimizer}, rate × {cell.rate:g}"
    label += f", batch {cell.batch}" if cell.batch != Cell(cell.task).batch else ""
    return label + (f", {cell.epochs} epochs" if cell.epochs else "")


# ------------------------------------------------------------------------------------------------
# Command line
# ------------------------------------------------------------------------------------------------


def summarize(figure_folder: Path) -> None:
    """Page and figure from the table."""
    lines = TABLE.lines()
    write_atomically(TEXT, markdown(lines).encode())
    with own_style():
        save_figure(figure(lines), figure_folder / FIGURE)
    print(f"wrote {TEXT} and {figure_folder / FIGURE}")


def build_parser() -> Parser:
    return parser_of(__doc__, ROOT / "runs/time_to_rule")


def study(args) -> None:
    cells = named(all_cells(), args.only)
    if args.list:
        done = {line["cell"]: SEEDS * line["cpu_seconds"] for line in TABLE.read()}
        for cell in cells:
            state = f"{done[cell.name] / 60:.0f} min" if cell.name in done else "not run"
            print(f"{cell.name:44} {state}")
        return
    if not args.summary:
        for cell in cells:
            TABLE.replace(run_cell(cell, args.out))
    summarize(ROOT / "docs")


def main(argv: list[str] | None = None) -> int:
    return run_main(lambda: study(build_parser().parse_args(argv)))


if __name__ == "__main__":
    sys.exit(main())
