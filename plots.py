"""Figures and comparisons of run folders: what was learned, when, and how far it carries.

    python plots.py runs/step1_add_only
    python plots.py runs/normal runs/dedup runs/duplicated --out_dir runs/figures

A run folder is what train_minigpt_4070.py writes; one still in training works, and so does a
folder of seeds (`seed_0/`, `seed_1/`, ...; drawn as mean and 95 % interval for other seeds and
other examples) or one that holds nothing but ood_results.json. A figure whose data is not there is
not drawn.
One run writes into --out_dir (by default `<run>/plots`):

    learning.png            exact match, train against unseen, with the gap; loss
    tasks_over_epochs.png   unseen exact match per task, curriculum stages marked
    task_epoch_heatmap.png  the same as a map
    learning_rate.png       learning rate over optimizer steps
    repeat_count.png        exact match and loss by repeat count in the training set (0 = unseen)
    repeat_count_over_epochs.png  exact match at each repeat count over training
    repeat_effects.png      what repetition is worth: the differences described below
    ood_by_category.png     exact match per category and suite; oracle-length exact match beside it
    ood_by_level.png        exact match over length, digits and hops, training range shaded
    failures.png            kinds of failure

Several runs write these into one folder each below --out_dir, and side by side into --out_dir:
compare_learning.png, compare_tasks.png, compare_repeat_count.png, compare_repeat_effects.png,
compare_matched_repeats.png, compare_ood.png. Folders that differ in the seed alone stand there as
one run of several seeds. Of several paths those that are no run are passed over with a note. Where
runs side by side differ in epochs, steps, parameters or training rows, the figures say so. With two
or three seeds a figure shows each seed in place of an interval, which would be too wide to tell
anything.

What repetition is worth is printed, and written to repeat_effects.json in --out_dir: exact match
at each repeat count minus that of examples seen once, and of those minus unseen ones, taken within
each seed; with a 95 % interval for other seeds and other examples, or Newcombe's for a single seed.
Where another run has the repeated examples once, each count and task is also compared with the very
same examples there, seed by seed: matched_repeat_effects.json, compare_matched_repeats.png.

Several runs are also compared, `runs/wide_s* runs/deep_s*` as two runs of several seeds: a table of
their rates with 95 % intervals, and for every two of them the difference in each row, its p
(McNemar's test for two models, Student's t over seeds), p adjusted for the whole table (Holm), and
the smallest difference that could have stood out. It is printed, and written to comparison.md and
comparison.csv in --out_dir. docs/metrics.md explains the tests.
"""

import io
import math
import os
import re
import shlex
import sys
import textwrap
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import chain, permutations
from pathlib import Path
from typing import NamedTuple

import numpy as np

from comparison.groups import Group, as_run, budget_words, gather
from comparison.page import lines as comparison_lines
from comparison.page import write as write_comparison
from comparison.table import compare_groups
from data.tasks import TASKS
from metrics import matched_repeat_effects, over_seeds, repeat_effects, wilson_interval
from runtime.cli import Parser, count_text, cut_middle, path_text, run_main
from runtime.errors import UserError
from runtime.files import ROOT, check_writable, write_atomically, write_json
from runtime.records import (
    CATEGORIES,
    NoRun,
    Run,
    best_rows,
    held_out,
    held_out_key,
    in_order,
    is_number,
    load_run,
    place_of,
    stage_starts,
    unique_names,
    value_at,
)

# What `level` counts, for which tasks, and the range of the standard training data.
UNITS = dict.fromkeys(task.unit for task in TASKS.values())
LEVELS = {unit: tuple(n for n, task in TASKS.items() if task.unit == unit) for unit in UNITS}
STANDARD_RANGE = {n: (task.training[0], task.training[-1]) for n, task in TASKS.items()}
# Okabe and Ito (2008) without yellow, which print loses; neighbours differ in colour, line, marker.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
LINES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D", "v")
OUTCOMES = {  # colour and hatch: apart in greyscale too
    "correct": ("#EAEAEA", ""),
    "stopped_early": ("#56B4E9", "///"),
    "ran_on": ("#E69F00", "..."),
    "wrong_content": ("#0072B2", ""),
}
OOD_LOOKS = {  # colour, marker, size, legend
    "category": (COLOURS[0], "o", 7, "exact match"),
    "suite": (COLOURS[5], "o", 5, "exact match, one suite"),
    "left out": ("0.45", "X", 7, "exact match, not in headlines"),
}
DPI = 200
# Where installed, for what DejaVu Sans lacks: Chinese, Japanese and Korean, Arabic and others.
FONTS = (
    *(f"Noto Sans CJK {region}" for region in ("SC", "JP", "KR", "TC")),
    *("PingFang SC", "Hiragino Sans", "Microsoft YaHei", "Yu Gothic", "Malgun Gothic"),
    *("WenQuanYi Zen Hei", "Noto Sans Arabic", "Noto Sans Devanagari", "Arial Unicode MS"),
)


# ------------------------------------------------------------------------------------------------
# numbers
# ------------------------------------------------------------------------------------------------


class Point(NamedTuple):
    """A number with its interval and n; nan where not known."""

    value: float
    low: float = math.nan
    high: float = math.nan
    n: float = math.nan
    each: tuple[float, ...] = ()  # the value of each of several seeds


class Curve(NamedTuple):
    """Points along x as arrays [E]; no entries where a run folder lacks the number.

    `each` [E, S] has the values of S seeds, S = 0 for a single one.
    """

    x: np.ndarray
    value: np.ndarray
    low: np.ndarray
    high: np.ndarray
    n: np.ndarray
    each: np.ndarray


def curve_of(xs: Iterable[float], points: list[Point]) -> Curve:
    numbers = np.array([point[:4] for point in points], dtype=float).reshape(-1, 4)
    n_seeds = max((len(point.each) for point in points), default=0)
    each = np.full((len(points), n_seeds), np.nan)
    for row, point in zip(each, points, strict=True):
        row[: len(point.each)] = point.each
    return Curve(np.array([*xs], dtype=float), *numbers.T, each)


def shows_each(n_seeds: int) -> bool:
    """Whether seeds are drawn one by one: Student's t is 4.3 with 3 seeds and 12.7 with 2."""
    return 2 <= n_seeds <= 3


def read_point(record: dict, *path: str, n: tuple[str, ...] = ("n",)) -> Point:
    """With the interval that stands beside the number; a rate without one gets Wilson's from n."""
    value, n = value_at(record, *path), value_at(record, *n)
    low, high = (value_at(record, *path[:-1], f"{path[-1]}_{end}") for end in ("low", "high"))
    if "exact_match" in path[0] and math.isnan(low) and value >= 0 and n > 0:
        low, high = wilson_interval(round(value * n), n)
    each = record.get("values", ()) if path == ("exact_match",) else ()
    return Point(value, low, high, n, tuple(each))


def combine(points: list[Point], name: str) -> Point:
    """One seed keeps its interval; several give the mean and its interval over seeds and examples.

    A loss or learning rate, which has no upper bound, gets the lowest and highest seed instead.
    """
    points = [point for point in points if math.isfinite(point.value)]
    if len(points) < 2:
        return points[0] if points else Point(math.nan)
    if "exact_match" in name:
        return pool([{"exact_match": point.value, "n": point.n} for point in points])
    values = np.array([point.value for point in points])
    return Point(values.mean(), values.min(), values.max(), points[0].n, tuple(values))


def pool(rows: list[dict], minus: list[dict] | None = None) -> Point:
    """metrics.over_seeds of one rate a seed as a Point, without an interval where an n is unknown.

    Rows of memorization.json have outcomes; those of metrics.jsonl have rates and n alone, so their
    intervals are the wider ones.
    """
    both = [*rows, *(minus or [])]
    below = [row["exact_match"] for row in minus] if minus else [0] * len(rows)
    each = tuple(row["exact_match"] - b for row, b in zip(rows, below, strict=True))
    if not all(row["n"] >= 1 for row in both):
        return Point(float(np.mean(each)), each=each)
    stats, n = over_seeds(rows, minus), math.nan if minus else rows[0]["n"]
    return Point(stats["mean"], stats["low"], stats["high"], n, each)


def gap_point(rows: list[dict], name: str) -> Point:
    """Train minus unseen (or seen) exact match of one epoch, one row of metrics.jsonl a seed."""
    if len(rows) == 1:
        return read_point(rows[0], name)
    end = "_seen" if name == "gap_to_seen" else ""
    keys = (("train_exact_match", "train_n"), (f"val_exact_match{end}", f"val_n{end}"))
    train, held = (
        [{"exact_match": value_at(row, rate), "n": value_at(row, n)} for row in rows]
        for rate, n in keys
    )
    return pool(train, minus=held)


def curve(run: Run, x: str, *path: str, n: tuple[str, ...] = ("none",)) -> Curve:
    """One number over the validations for which every seed has it; its n stands at the path `n`."""

    def point(rows: list[dict]) -> Point:
        if path[0] in ("generalization_gap", "gap_to_seen"):
            return gap_point(rows, path[0])
        return combine([read_point(row, *path, n=n) for row in rows], path[0])

    seeds = [
        {place_of(r): r for r in rows if math.isfinite(value_at(r, *path))} for rows in run.seeds
    ]
    places = sorted(set.intersection(*map(set, seeds))) if seeds else []
    points = [point([rows[place] for rows in seeds]) for place in places]
    xs = [value_at(seeds[0][place], x) for place in places]
    return curve_of(xs, points)


def examples_or_epoch(runs: list[Run]) -> str:
    rows = chain(*(rows for run in runs for rows in run.seeds))
    return (
        "epoch" if any(math.isnan(value_at(r, "examples_seen")) for r in rows) else "examples_seen"
    )


def epoch_or_step(run: Run) -> str:
    """The key that says where a run was validated: "step" where that was within epochs."""
    epochs, asked = [row["epoch"] for row in chain(*run.seeds[:1])], run.config.get("arguments", {})
    by_step = asked.get("eval_every_steps") or asked.get("eval_log")
    return "step" if by_step or len(set(epochs)) < len(epochs) else "epoch"


def task_names(run):
    """Every task that the run validates, trains or will train, in curriculum order."""
    names = set()
    for row in chain(*run.seeds):
        for key in ("val_exact_match_by_task", "val_exact_match_by_task_seen"):
            names |= row.get(key, {}).keys()
        names |= set(row.get("tasks", []))
    for stage in run.config.get("derived", {}).get("stages", []):
        names |= set(stage.get("tasks", []))
    return in_order(names, TASKS)


# ------------------------------------------------------------------------------------------------
# drawing
# ------------------------------------------------------------------------------------------------


@contextmanager
def own_style() -> Iterator[None]:
    """matplotlib's own defaults, whatever the user's matplotlibrc or MPLBACKEND says.

    A notebook's MPLBACKEND names a module that may be missing here, and then matplotlib refuses to
    be imported; `text.usetex` needs LaTeX. PNG files are drawn by Agg, without any backend chosen.
    Characters that the default font lacks come from FONTS; one that none has is drawn as a box.
    """
    backend = os.environ.pop("MPLBACKEND", None)
    try:
        from matplotlib import rc_context, rcParamsDefault
        from matplotlib.font_manager import get_font_names
    finally:
        if backend is not None:
            os.environ["MPLBACKEND"] = backend
    style = {key: value for key, value in rcParamsDefault.items() if key != "backend"}
    style["text.parse_math"] = False  # a name may have any characters
    style["font.family"] = ["sans-serif", *(f for f in FONTS if f in get_font_names())]
    with rc_context(style), warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from font")
        yield


def new_figure(
    runs: list[Run],
    width: float,
    height: float,
    widths: tuple[float, ...] = (1,),
    model: str = "",
    rows: int = 1,
):
    """Figure and its axes in `rows`, on the object-oriented API: no pyplot, no global state.

    `widths` are those of the axes of a row. `model` says which of a run's models is shown, where a
    run has more than one.
    """
    from matplotlib.figure import Figure

    fig = Figure(figsize=(width, height), layout="constrained")
    name = runs[0].name if len(runs) == 1 else f"{len(runs)} runs"
    title = shorten(name, int(11 * width) - len(model)) + (f" · {model}" if model else "")
    fig.suptitle(title, fontsize=9, color="0.35", x=0.01, ha="left")
    axes = fig.subplots(rows, len(widths), squeeze=False, width_ratios=widths).flatten()
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(color="0.9", linewidth=0.6)
        ax.set_axisbelow(True)
    return fig, axes


def fill(text: str, inches: float, size: float) -> str:
    """Wrapped to lines of some `inches` in letters of `size`, not between a number and its unit.

    >>> fill("lowest 0.5 % of all", 0.8, 10).splitlines()
    ['lowest', '0.5 % of', 'all']
    """
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextToPath

    held = re.sub(r"(?<=\d) (?=%|points|times)", "\u00a0", " ".join(text.split()))
    font = FontProperties(size=size)
    points = TextToPath().get_text_width_height_descent(held or " ", font, ismath=False)[0]
    # Some lines have wider letters than the text in the mean.
    letters = int(0.95 * len(held) * 72 * inches / max(points, 1))
    return textwrap.fill(held, max(letters, 1)).replace("\u00a0", " ")


def label_axes(ax, title: str, x: str, y: str, pad: float = 6) -> None:
    # As wide as the axes and the space on their right, where a legend stands lower.
    inches = 1.13 * ax.figure.get_figwidth() * ax.get_position().width
    ax.set_title(fill(title, inches, 10.5), loc="left", fontsize=10.5, pad=pad)
    ax.set_xlabel(x)
    ax.set_ylabel(y)


def caption(fig, text: str) -> None:
    text = fill(text, 0.98 * fig.get_figwidth(), 8)
    fig.supxlabel(text, fontsize=8, color="0.3", x=0.01, ha="left")


def interval_words(runs: list[Run], what: str) -> str:
    """What the interval means for runs of one seed and of several."""
    numbers = {max(len(r.seeds), len(r.memorization), len(r.ood.get("seeds", [])), 1) for r in runs}
    if numbers == {1}:
        return f"{what}: 95 % Wilson interval."
    mean = f"Mean of {min(numbers)} seeds." if len(numbers) == 1 else "Means over seeds."
    if all(map(shows_each, numbers)):
        return f"{mean} Thin: each seed."
    each = " Thin, of 2 or 3 seeds: each seed." if any(map(shows_each, numbers)) else ""
    if len(numbers) == 1:
        return f"{mean} {what}: 95 %, for other seeds and examples."
    single = "Wilson for a single seed, " if 1 in numbers else ""
    many = "of several for other seeds and examples" if max(numbers) > 3 else ""
    return f"{what}: 95 %; {single}{many}".rstrip("; ,") + f".{each}"


def spread_words(runs: list[Run]) -> str:
    """What is drawn about a loss, which has no interval."""
    numbers = [max(len(run.seeds), len(run.memorization)) for run in runs]
    return " Loss: lowest to highest seed." if max(numbers) > 3 else " Loss: no interval."


def words(name: str) -> str:
    return name.removeprefix("ood_").removesuffix(".pkl").replace("_", " ")


def shorten(name: str, width: int = 32) -> str:
    """Cut in the middle, since runs differ at their ends; a first `_` would hide a legend entry."""
    name = cut_middle(name, width)
    return " " + name if name.startswith("_") else name


def percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def count_words(counts: Iterable[float]) -> str:
    """`n = 500`, or `n = 400–500`; empty where no count is known."""
    known = [int(n) for n in counts if math.isfinite(n)]
    ends = sorted({min(known), max(known)}) if known else []
    return "n = " + "–".join(f"{n:,}" for n in ends) if known else ""


def points(value: float) -> str:
    return f"{100 * value:+.1f} points"


def loss_text(value: float) -> str:
    """Three digits, zeros too: `1.20` beside `1.19`, `104`."""
    return f"{value:#.3g}".rstrip(".")


def extremes(values: dict[str, float], show: Callable[[float], str] = percent) -> str:
    """`highest 99.0 % (copy), lowest 41.0 % (rel)`."""
    if len(values) < 2:
        return "".join(f"{name} {show(value)}" for name, value in values.items())
    top, bottom = max(values, key=values.get), min(values, key=values.get)
    if show(values[top]) == show(values[bottom]):
        return f"all {show(values[top])}"
    return f"highest {show(values[top])} ({top}), lowest {show(values[bottom])} ({bottom})"


def highest_shown(highest: float) -> float:
    """Where an axis of proportions ends: near the highest one if all are small, else at 1."""
    ends = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5)
    return next((end for end in ends if highest <= 0.97 * end), 1.0)


def proportion_axis(axis, end: float | None = None) -> None:
    """From 0 to `end`, by default to 100 %, or to less where all that is drawn is small."""
    from matplotlib.ticker import PercentFormatter

    set_limits, (_, highest) = (
        (axis.axes.set_xlim, axis.axes.dataLim.intervalx)
        if axis.axis_name == "x"
        else (axis.axes.set_ylim, axis.axes.dataLim.intervaly)
    )
    end = highest_shown(highest) if end is None else end
    set_limits(-0.03 * end, 1.03 * end)
    axis.set_ticks(np.linspace(0, end, 6))
    decimals = 0 if round(100 * end) % 5 == 0 else 1
    axis.set_major_formatter(PercentFormatter(xmax=1, decimals=decimals, symbol=" %"))


def points_axis(axis) -> None:
    """Differences of proportions, in points."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axis.set_major_formatter(
        FuncFormatter(lambda v, _: f"{100 * v:+.3g}" if abs(v) > 1e-9 else "0")
    )


def training_axis(ax, key: str, runs: list[Run]) -> str:
    """number_axis, logarithmic where validation was log-spaced, as grokking is to be seen."""
    from matplotlib.ticker import NullFormatter

    label = number_axis(ax, key)
    if key != "epoch" and all(run.config.get("arguments", {}).get("eval_log") for run in runs):
        ticks = ax.xaxis.get_major_formatter()
        ax.set_xscale("log")
        ax.xaxis.set_major_formatter(ticks)
        ax.xaxis.set_minor_formatter(NullFormatter())
    return label


def number_axis(ax, key: str) -> str:
    """Ticks for examples seen, steps, or small whole numbers; returns the axis label."""
    from matplotlib.ticker import EngFormatter, MaxNLocator

    first, last = ax.dataLim.intervalx
    if first == last > 0:  # a single epoch: no ticks at its fractions
        ax.set_xlim(0, 2 * last)
    if key in ("examples_seen", "step"):
        ax.xaxis.set_major_locator(MaxNLocator("auto", integer=True, steps=(1, 2, 2.5, 5, 10)))
        ax.xaxis.set_major_formatter(EngFormatter(sep=""))
        return "training examples seen" if key == "examples_seen" else "optimizer step"
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    return key


def log_axis(axis, low: float, high: float) -> None:
    """Plain numbers at powers of ten, and between them where those are few."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    set_scale = axis.axes.set_xscale if axis.axis_name == "x" else axis.axes.set_yscale
    set_scale("log")
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 100 * low else (1,)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def look(i: int) -> dict:
    return {"color": COLOURS[i % 7], "linestyle": LINES[i % 4], "marker": MARKERS[i % 5]}


def draw_curves(ax, curves: dict[str, Curve]) -> None:
    """Lines with bands, and some markers, so that a single epoch shows too. Empty ones keep their
    colour free, so that a task looks alike in every figure."""
    for i, (name, c) in enumerate(curves.items()):
        if not len(c.x):
            continue
        label = f"{shorten(name)} ({count_words(c.n)})".replace(" ()", "")
        every = math.ceil(len(c.x) / 12)
        ax.plot(c.x, c.value, label=label, markersize=4.5, markevery=every, **look(i))
        if shows_each(c.each.shape[1]):
            draw_each(ax, np.repeat(c.x[:, None], c.each.shape[1], axis=1), c.each, i)
            continue
        ax.fill_between(c.x, c.low, c.high, color=look(i)["color"], alpha=0.18, lw=0)
        if len(c.x) == 1:  # where a band has no width
            ax.vlines(c.x, c.low, c.high, look(i)["color"])


def draw_each(ax, x: np.ndarray, y: np.ndarray, i: int) -> None:
    """Each seed of the i-th curve as a thin line over x, y [E, S]."""
    style = {"color": look(i)["color"], "linewidth": 0.7, "alpha": 0.65, "marker": "."}
    ax.plot(x, y, markersize=3, **style)


def mark_stages(ax, run: Run, epochs: np.ndarray, xs: np.ndarray) -> float:
    """A dotted line where a stage begins, and above it what it adds; nothing without curriculum.

    xs [E] are the places of `epochs` (or steps) [E] on the axis; a stage begins half a place before
    its first. Returns the room in points that the axes' title has to leave.
    """
    starts = stage_starts(run, epoch_or_step(run))
    starts = [(np.searchsorted(epochs, place), new) for place, new in starts]
    starts = [(xs[i] - 0.5, ", ".join(new)) for i, new in starts if i < len(xs)]
    if len(starts) < 2:
        return 6
    longest = max(len(new) for _, new in starts) + 2
    narrow = np.diff([x for x, _ in starts]).min() < 0.01 * longest * np.ptp(ax.get_xlim())
    style = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points", "fontsize": 8}
    style |= {"rotation": 90, "ha": "center"} if narrow else {"ha": "left"}
    for i, (x, new) in enumerate(starts):
        ax.axvline(x, color="0.35", linestyle=":", linewidth=1.2, zorder=1.5)
        ax.annotate(f"+ {new}" if i else new, (x, 1), (0, 4), va="bottom", **style)
    return 10 + 5 * longest if narrow else 20


# ------------------------------------------------------------------------------------------------
# training
# ------------------------------------------------------------------------------------------------


def learning_figure(run: Run):
    """Exact match on train and unseen examples with the gap between them; loss beside it."""
    key, held, of = examples_or_epoch([run]), held_out([run]), partial(held_out_key, run)
    matches = {
        held: curve(run, key, of("val_exact_match"), n=(of("val_n"),)),
        "train": curve(run, key, "train_exact_match", n=("train_n",)),
    }
    if held == "unseen":
        matches["seen"] = curve(run, key, "val_exact_match_seen", n=("val_n_seen",))
    losses = {held: curve(run, key, of("val_loss")), "train": curve(run, key, "train_loss")}
    panels = [any(len(c.x) for c in curves.values()) for curves in (matches, losses)]
    if not any(panels):
        return None
    fig, axes = new_figure([run], 9.5, 4.2, (1.6, 1) if all(panels) else (1,))
    if panels[0]:
        title = draw_gap(axes[0], matches["train"], matches[held], held)
        draw_curves(axes[0], matches)
        proportion_axis(axes[0].yaxis)
        label_axes(axes[0], title, training_axis(axes[0], key, [run]), "exact match")
        note = spread_words([run]) if len(run.seeds) > 3 and panels[1] else ""
        caption(fig, interval_words([run], "Bands") + note)
    if panels[1]:
        draw_curves(axes[-1], losses)
        values = np.concatenate([c.value for c in losses.values()])
        if values.min() > 0 and values.max() > 20 * values.min():
            log_axis(axes[-1].yaxis, values.min(), values.max())
        ends = ", ".join(
            f"{name} {loss_text(c.value[-1])}" for name, c in losses.items() if len(c.x)
        )
        x = training_axis(axes[-1], key, [run])
        label_axes(axes[-1], f"Final loss: {ends}", x, "loss (nats per token)")
    for ax in axes:
        ax.legend(fontsize=9)
    return fig


def draw_gap(ax, train: Curve, validation: Curve, held: str) -> str:
    """Shade between the curves where both are known; returns the title that says how far apart."""
    xs, i, j = np.intersect1d(train.x, validation.x, return_indices=True)
    if not len(xs):
        return "Exact match over training"
    upper, lower = train.value[i], validation.value[j]
    if len(xs) > 1:  # hatched: the bands of the curves are grey where they overlap
        look = {"facecolor": "none", "edgecolor": "0.8", "hatch": "//", "linewidth": 0}
        ax.fill_between(xs, lower, upper, label="gap", **look)
    gap = 100 * (upper - lower)
    return (
        f"Train minus {held} exact match: {gap.max():.1f} points at most, {gap[-1]:.1f} at the "
        f"end, where {percent(lower[-1])} of the {held} are right"
    )


def task_curves(run: Run) -> dict[str, Curve]:
    """Unseen exact match of each task, from the validation at which the curriculum has it in."""
    curves, key = {}, epoch_or_step(run)
    starts = stage_starts(run, key)
    first = {task: place for place, new in starts for task in new}
    for task in task_names(run):
        path, n = (
            (held_out_key(run, name), task) for name in ("val_exact_match_by_task", "val_n_by_task")
        )
        c = curve(run, key, *path, n=n)
        start = first.get(task, math.inf) if starts else 0
        curves[task] = Curve(*(values[c.x >= start] for values in c))
    return curves


def tasks_figure(run: Run):
    """Unseen exact match per task over epochs, or steps."""
    curves = task_curves(run)
    last = {task: c.value[-1] for task, c in curves.items() if len(c.x)}
    if not last:
        return None
    fig, (ax,) = new_figure([run], 9.5, 4.2)
    draw_curves(ax, curves)
    epochs = np.unique(np.concatenate([c.x for c in curves.values()]))
    pad = mark_stages(ax, run, epochs, epochs)
    proportion_axis(ax.yaxis)
    held = held_out([run])
    title = f"{held.capitalize()} exact match at the end: {extremes(last)}"
    x = training_axis(ax, epoch_or_step(run), [run])
    label_axes(ax, title, x, f"exact match, {held}", pad)
    ax.legend(fontsize=9, loc="upper left", bbox_to_anchor=(1.01, 1))
    note = " Dotted: a curriculum stage begins." if len(stage_starts(run)) > 1 else ""
    caption(fig, interval_words([run], "Bands") + note)
    return fig


def heatmap_figure(run: Run):
    """Tasks by validations; hatched where the curriculum has not brought the task in."""
    curves, key = task_curves(run), epoch_or_step(run)
    epochs = np.unique(np.concatenate([np.empty(0), *(c.x for c in curves.values())]))
    if not len(epochs):
        return None
    table = np.full((len(curves), len(epochs)), np.nan)  # [tasks, E]
    for row, c in zip(table, curves.values(), strict=True):
        row[np.searchsorted(epochs, c.x)] = c.value
    fig, (ax,) = new_figure([run], 9.5, 2.3 + 0.36 * len(curves))
    ax.grid(False)
    ax.patch.set(facecolor="0.93", hatch="///", edgecolor="0.7")
    end = highest_shown(np.nanmax(table))
    image = ax.imshow(table, aspect="auto", cmap="cividis", vmin=0, vmax=end, interpolation="none")
    proportion_axis(fig.colorbar(image, label="exact match", pad=0.01).ax.yaxis, end)
    image.colorbar.ax.set_ylim(0, end)
    every = math.ceil(len(epochs) * max(3, len(f"{epochs[-1]:.0f}")) / 51)  # labels have room
    shown = range((len(epochs) - 1) % every, len(epochs), every)
    for (i, j), value in np.ndenumerate(table):
        if j in shown and math.isfinite(value):
            style = {"ha": "center", "va": "center"}
            style["color"] = "white" if value < 0.5 * end else "black"
            ax.text(j, i, f"{100 * value:.{int(end <= 0.1)}f}", fontsize=8, **style)
    ax.set_xticks(shown, [f"{epochs[j]:.0f}" for j in shown])
    ax.set_yticks(range(len(curves)), [shorten(task, 20) for task in curves])
    pad = mark_stages(ax, run, epochs, np.arange(len(epochs)))
    reached = [(task, epochs[row >= 0.9]) for task, row in zip(curves, table, strict=True)]
    reached = " · ".join(f"{task} {e[0]:.0f}" if len(e) else f"{task} –" for task, e in reached)
    title = f"First {key} with 90 % {held_out([run])} exact match: {reached}"
    if np.nanmax(table) < 0.9:
        highest = {
            task: np.nanmax(row)
            for task, row in zip(curves, table, strict=True)
            if np.isfinite(row).any()
        }
        of = f"each task's best {key}" if len(highest) > 1 else f"the best {key}"
        title = f"{held_out([run]).capitalize()} exact match at {of}: {extremes(highest)}"
    label_axes(ax, title, key, "", pad)
    notes = [f"Mean of {len(run.seeds)} seeds."] * (len(run.seeds) > 1) + ["Numbers in per cent."]
    notes += ["Hatched: task not in the curriculum yet."] * bool(np.isnan(table).any())
    caption(fig, " ".join(notes))
    return fig


def learning_rate_figure(run: Run):
    """Learning rate at the steps that metrics.jsonl has a line of, and its peak between them."""
    rows = list(chain(*run.seeds))
    key = "epoch" if any(math.isnan(value_at(row, "step")) for row in rows) else "step"
    c = curve(run, key, "lr")
    if not len(c.x):
        return None
    fig, (ax,) = new_figure([run], 6.5, 3.4)
    draw_curves(ax, {"learning rate": c})
    ax.set_ylim(0, 1.08 * c.value.max() or 1)
    peak = np.fmax(value_at(run.config, "derived", "lr_scaled"), c.value.max())
    title = f"Learning rate: {peak:.2g} at its peak, {c.value[-1]:.2g} at the end"
    label_axes(ax, title, training_axis(ax, key, [run]), "learning rate")
    caption(fig, "At the last step of each epoch, and before each validation.")
    return fig


# ------------------------------------------------------------------------------------------------
# memorization
# ------------------------------------------------------------------------------------------------


def repeat_points(run: Run, name: str) -> dict[int, Point]:
    """Repeat count -> "exact_match" or "loss" of the last model on examples repeated so often."""
    by_count = {}
    for row in chain(*(record["by_repeat_count"] for record in run.memorization)):
        by_count.setdefault(row["group"], []).append(row)
    points = {}
    for count, rows in sorted(by_count.items()):
        if name == "exact_match" and len(rows) > 1:
            points[count] = pool(rows)
        else:
            points[count] = combine([read_point(row, name) for row in rows], name)
    return {count: point for count, point in points.items() if math.isfinite(point.value)}


def repeat_count_figure(runs: list[Run]):
    """Exact match, and loss where given, by how often an example stands in the training set."""
    panels = {}
    for name, unit in (("exact_match", "exact match"), ("loss", "loss (nats per token)")):
        panels[unit] = {run.name: repeat_points(run, name) for run in runs}
    panels = {unit: points for unit, points in panels.items() if any(points.values())}
    if not panels:
        return None
    width = (1.5 if len(runs) == 1 else 3.5) + 4.2 * len(panels)  # beside several runs, a legend
    fig, axes = new_figure(runs, width, 4.2, (1,) * len(panels))
    for ax, (unit, points) in zip(axes, panels.items(), strict=True):
        draw_repeat_counts(ax, points, unit)
        if any(grouped_counts(m) for run in runs for m in run.memorization):
            ax.set_xlabel("times in the training set, at least (in powers of two)")
    if len(runs) > 1:
        axes[-1].legend(fontsize=9, loc="upper left", bbox_to_anchor=(1.01, 1))
    note = spread_words(runs) if any("loss" in unit for unit in panels) else ""
    note += f" Open, at 0: {held_out(runs)} examples. {model_words(runs)}"
    note += budget_words(runs) if len(runs) > 1 else ""
    caption(fig, interval_words(runs, "Bars") + note)
    return fig


def model_words(runs: list[Run]) -> str:
    """Which model the repeat counts are of: the last one, or the best where none has a last."""
    models = {run.memorization_of for run in runs if run.memorization}
    of = {"last": "after the last step", "best": "best by validation: no last one is finite"}
    return f"Model {' or '.join(of[model] for model in sorted(models))}."


def grouped_counts(memorization: dict) -> bool:
    """Whether a drawn count stands for more than itself: 2 for 2 and 3, 4 for 4 to 7, …"""
    counts = [row["group"] for row in memorization["by_repeat_count"]]
    return bool(memorization.get("repeat_counts_grouped")) and max(counts, default=0) > 1


def draw_repeat_counts(ax, points: dict[str, dict[int, Point]], unit: str) -> None:
    counts = sorted(set().union(*points.values()))
    known = [i for i, by_count in enumerate(points.values()) if by_count]
    for k, i in enumerate(known):
        run, by_count = list(points.items())[i]
        xs = np.array([counts.index(count) for count in by_count])
        xs = xs + min(0.12, 0.8 / len(known)) * (k - (len(known) - 1) / 2)
        c = curve_of(xs, list(by_count.values()))
        value, seen = c.value, np.array(list(by_count)) > 0
        if shows_each(n_each := c.each.shape[1]):
            for part in (seen, ~seen):  # no line from unseen examples to those seen once
                draw_each(ax, np.repeat(xs[part, None], n_each, axis=1), c.each[part], i)
        else:
            ax.vlines(xs, c.low, c.high, look(i)["color"], lw=1.5)
        ax.plot(xs[seen], value[seen], label=shorten(run), markersize=6, **look(i))
        ax.plot(xs[~seen], value[~seen], markersize=7, markerfacecolor="white", **look(i))
    ns = [count_words(p[c].n for p in points.values() if c in p) for c in counts]
    ns = [n.replace("–", "–\n") for n in ns]
    labels = [f"{c:g}\n{n}".strip() for c, n in zip(counts, ns, strict=True)]
    ax.set_xticks(range(len(counts)), labels, fontsize=8)
    name = unit.split(" (")[0]
    title = f"{name.capitalize()} by repeat count"
    if len(points) == 1:
        show = percent if name == "exact match" else loss_text
        title += ": " + ", ".join(f"{show(value[i])} at {counts[i]:g}" for i in (0, -1))
    if name == "exact match":
        proportion_axis(ax.yaxis)
    else:  # from 0, or a difference of a hundredth would look like a cliff
        ax.set_ylim(0, 1.08 * ax.dataLim.y1 or 1)
    label_axes(ax, title, "times in the training set", unit)


def repeat_count_curves(run: Run, x: str) -> dict[str, Curve]:
    """Exact match over training at each repeat count, which stands for those up to its double."""
    key, n = "train_exact_match_by_repeat_count", "train_n_by_repeat_count"
    counts = {int(count) for row in chain(*run.seeds) for count in row.get(key, {})}
    curves = {}
    for count in sorted(counts):
        name = "once" if count == 1 else f"{count}–{2 * count - 1} times"
        curves[name] = curve(run, x, key, str(count), n=(n, str(count)))
    return curves


def repeat_counts_over_epochs_figure(run: Run):
    """Exact match over training, a line for each repeat count; unseen examples beside them."""
    key = examples_or_epoch([run])
    curves = {name: c for name, c in repeat_count_curves(run, key).items() if len(c.x)}
    if not curves:
        return None
    unseen = curve(run, key, "val_exact_match", n=("val_n",))
    curves = ({"unseen": unseen} if len(unseen.x) else {}) | curves
    fig, (ax,) = new_figure([run], 9.5, 4.2)
    draw_curves(ax, curves)
    proportion_axis(ax.yaxis)
    ends = ", ".join(f"{name} {percent(c.value[-1])}" for name, c in curves.items())
    title = f"Exact match by repeat count, at the end: {ends}"
    label_axes(ax, title, training_axis(ax, key, [run]), "exact match")
    ax.legend(title="in the training set", loc="upper left", bbox_to_anchor=(1.01, 1), fontsize=9)
    caption(fig, interval_words([run], "Bands"))
    return fig


def repeat_effects_figure(runs: list[Run]):
    """What repetition is worth: differences within each model, with interval and each seed."""
    effects = {run.name: effects_of(run) for run in runs}
    places = sorted({effect["repeat_count"] for of_run in effects.values() for effect in of_run})
    known = [i for i, of_run in enumerate(effects.values()) if of_run]
    if not places or (len(runs) > 1 and len(known) < 2):
        return None
    fig, (ax,) = new_figure(runs, 7.5 if len(runs) == 1 else 10, 4.2)
    ax.axhline(0, color="0.3", lw=1)
    for k, i in enumerate(known):
        for effect in effects[runs[i].name]:
            apart = min(0.16, 0.8 / len(known))  # or a run would stand at its neighbours' count
            x = places.index(effect["repeat_count"]) + apart * (k - (len(known) - 1) / 2)
            label = shorten(runs[i].name) if effect is effects[runs[i].name][0] else None
            style = {**look(i), "linestyle": "none"}
            ax.plot(x, effect["difference"], label=label, markersize=6.5, **style)
            if effect["n_seeds"] != 2:
                ax.vlines(x, effect["low"], effect["high"], look(i)["color"], lw=1.5)
            if 1 < effect["n_seeds"] <= 10:
                style |= {"marker": "_", "markersize": 7, "alpha": 0.7}
                ax.plot([x + 0.05] * effect["n_seeds"], effect["values"], **style)
    ax.set_xticks(range(len(places)), [effect_name(c, effects) for c in places], fontsize=8.5)
    points_axis(ax.yaxis)
    label_axes(ax, effects_title(effects), "times in the training set", "difference (points)")
    if len(runs) > 1:
        ax.legend(fontsize=8.5, loc="upper left", bbox_to_anchor=(1.01, 1))
    note = budget_words(runs) if len(runs) > 1 else ""
    caption(fig, f"{effects_caption(effects)} {model_words(runs)}{note}")
    return fig


def times_words(count: int, grouped: bool) -> str:
    if not count:
        return "unseen"
    return f"{count}–{2 * count - 1}" if grouped and count > 1 else f"{count}"


def effect_name(count: int, effects: dict[str, list[dict]]) -> str:
    """`4–7\nminus 1\nn = 850` below the axis."""
    found = [e for of_run in effects.values() for e in of_run if e["repeat_count"] == count]
    times = times_words(count, found[0]["grouped"])
    minus = "1" if found[0]["minus"] else "unseen"
    return f"{times}\nminus {minus}\n" + count_words(e["n"] for e in found).replace("–", "–\n")


def effects_title(effects: dict[str, list[dict]]) -> str:
    last = {name: of_run[-1] for name, of_run in effects.items() if of_run}
    if len(last) > 1:
        return "Exact match gained by repetition, within each model"
    (effect,) = last.values()
    low, high = (100 * effect[key] for key in ("low", "high"))
    base = "seen once" if effect["minus"] else "unseen"
    interval = f" [{low:+.1f}, {high:+.1f}]" if effect["n_seeds"] != 2 else ", mean of two seeds"
    return (
        f"Exact match at {count_text(effect['repeat_count'], 'time')}, against {base}: "
        f"{points(effect['difference'])}{interval}"
    )


def effects_caption(effects: dict[str, list[dict]]) -> str:
    numbers = {effect["n_seeds"] for of_run in effects.values() for effect in of_run}
    parts = ["Difference of exact match within a model."]
    if numbers - {1, 2}:
        parts.append("Bars: 95 %, for other seeds and other examples.")
    if 1 in numbers:
        parts.append("Bars of a single seed: 95 %, Newcombe.")
    if 2 in numbers:
        parts.append("Two seeds: too few for a bar; repeat_effects.json has the interval.")
    if numbers - {1}:
        parts.append("Dashes: each seed.")
    return " ".join(parts)


def effects_of(run: Run) -> list[dict]:
    """metrics.repeat_effects of a run; "grouped" if 2 stands for 2 and 3, 4 for 4 to 7, …"""
    grouped = any(map(grouped_counts, run.memorization))
    effects = repeat_effects([record["by_repeat_count"] for record in run.memorization])
    return [{**effect, "grouped": grouped} for effect in effects]


def effect_lines(effects: dict[str, list[dict]]) -> list[str]:
    """The table of differences between repeat counts: one line for each run and count."""
    rows = [(shorten(name, 24), effect) for name, of_run in effects.items() for effect in of_run]
    if not rows:
        return []
    title = "exact match by times in the training set, difference in points with its 95 % interval"
    if any(effect["n_seeds"] > 1 for _, effect in rows):
        title += ", over seeds and examples"
    lines = ["", title, f"{'run':26}{'times':>9}  {'less':8}{'n':>6}  difference"]
    for name, effect in rows:
        count, minus = effect["repeat_count"], effect["minus"]
        times = times_words(count, effect["grouped"])
        difference, low, high = (100 * effect[key] for key in ("difference", "low", "high"))
        seeds = effect["n_seeds"]
        how = f"mean of {seeds} seeds" if seeds > 1 else "one seed, Newcombe"
        interval = f"[{low:+.1f}, {high:+.1f}]"
        less = "1" if minus else "unseen"
        number = f"{difference:+6.1f} {interval:16}"
        lines.append(f"{name:26}{times:>9}  {less:8}{effect['n']:>6,}  {number}  {how}")
    return [*lines, ""]


def matched_effects_of(runs: list[Run]) -> list[dict]:
    """metrics.matched_repeat_effects of every two runs where one repeats what the other has once.

    {"run", "once_in", "seeds" (those that both have), "grouped", "effects"} each.
    """
    found = []
    for run, other in permutations(runs, 2):
        by_seed = [
            {m["seed"]: m["by_repeat_count"] for m in r.memorization if m["seed"] is not None}
            for r in (run, other)
        ]
        seeds = sorted(set.intersection(*map(set, by_seed)))
        effects = matched_repeat_effects(*([of[seed] for seed in seeds] for of in by_seed))
        if any(effect["repeat_count"] > 1 for effect in effects):
            grouped = any(map(grouped_counts, run.memorization))
            about = {"run": run.name, "once_in": other.name, "seeds": seeds, "grouped": grouped}
            found.append({**about, "effects": effects})
    return found


def matched_lines(matched: list[dict]) -> list[str]:
    """The table of differences on the same examples: a line for each count and task."""
    lines = []
    for pair in matched:
        n = len(pair["seeds"])
        how = f"over {n} seeds and examples" if n > 1 else "pairs of one seed, Agresti and Min"
        lines.append(
            f"the same examples, repeated in {pair['run']} minus once in {pair['once_in']}: exact "
            f"match, difference in points with its 95 % interval ({how})"
        )
        lines.append(f"{'times':>9}  {'task':10}{'n':>6}{'repeated':>10}{'once':>8}  difference")
        for effect in pair["effects"]:
            times = times_words(effect["repeat_count"], pair["grouped"])
            difference, low, high = (100 * effect[key] for key in ("difference", "low", "high"))
            lines.append(
                f"{times:>9}  {effect['task']:10}{effect['n']:>6,}{effect['repeated']:>10.1%}"
                f"{effect['once']:>8.1%}  {difference:+6.1f} [{low:+.1f}, {high:+.1f}]"
            )
        lines += ["unseen and 1 show how the runs differ where neither repeats an example", ""]
    return lines


def matched_repeats_figure(runs: list[Run]):
    """Difference of exact match on the same examples, by repeat count, all together and by task."""
    matched = matched_effects_of(runs)
    if not matched:
        return None
    across = min(3, len(matched))
    rows = math.ceil(len(matched) / across)
    fig, axes = new_figure(runs, 2.5 + 5.5 * across, 4.2 * rows, (1,) * across, rows=rows)
    tasks = in_order({e["task"] for pair in matched for e in pair["effects"]} - {"all"}, TASKS)
    for ax, pair in zip(axes, matched, strict=False):
        draw_matched(ax, pair, ["all", *tasks])
    for ax in axes[len(matched) :]:
        ax.set_visible(False)
    for i, task in enumerate(["all", *tasks]):
        axes[across - 1].plot([], [], label=task, **{**look(i), "linestyle": "none"})
    axes[across - 1].legend(fontsize=8.5, loc="upper left", bbox_to_anchor=(1.01, 1))
    note = "Each example is compared with itself in the other run, seed by seed. "
    two = {len(pair["seeds"]) for pair in matched} == {2}
    note += "Dashes: each of two seeds. " if two else "Bars: 95 %. "
    note += "Open, at unseen and 1: the runs differ, but neither repeats the example."
    caption(fig, f"{note} {model_words(runs)}{budget_words(runs)}")
    return fig


def draw_matched(ax, pair: dict, tasks: list[str]) -> None:
    counts = sorted({effect["repeat_count"] for effect in pair["effects"]})
    ax.axhline(0, color="0.3", lw=1)
    known = [task for task in tasks if any(e["task"] == task for e in pair["effects"])]
    for k, task in enumerate(known):
        style = {**look(tasks.index(task)), "linestyle": "none"}
        for effect in (e for e in pair["effects"] if e["task"] == task):
            count = effect["repeat_count"]
            x = counts.index(count) + 0.7 * (k - (len(known) - 1) / 2) / len(known)
            face = "white" if count < 2 else style["color"]
            size = 6.5 if task == "all" else 4
            ax.plot(x, effect["difference"], markersize=size, markerfacecolor=face, **style)
            if effect["n_seeds"] == 2:
                each = {**style, "marker": "_", "markersize": 7, "alpha": 0.7}
                ax.plot([x] * 2, effect["values"], **each)
            else:
                ax.vlines(x, effect["low"], effect["high"], style["color"], lw=1.5)
    first = {e["repeat_count"]: e["n"] for e in reversed(pair["effects"])}  # of all tasks
    labels = [f"{times_words(c, pair['grouped'])}\nn = {first[c]:,}" for c in counts]
    ax.set_xticks(range(len(counts)), labels, fontsize=8)
    points_axis(ax.yaxis)
    effect = next(e for e in pair["effects"] if e["repeat_count"] == counts[-1])
    title = f"{shorten(pair['run'])} minus {shorten(pair['once_in'])}, the same examples: "
    title += f"{points(effect['difference'])} at {times_words(counts[-1], pair['grouped'])} times"
    label_axes(ax, title, f"times in {shorten(pair['run'])}", "difference (points)")


# ------------------------------------------------------------------------------------------------
# out of distribution
# ------------------------------------------------------------------------------------------------


def ood_suites(run: Run) -> dict[str, dict[str, dict]]:
    """category -> suite -> its results, in the order of CATEGORIES."""
    by_category = {category: {} for category in run.ood.get("headline", {})}
    for name, suite in sorted(run.ood.get("suites", {}).items()):
        by_category.setdefault(suite.get("category", "other"), {})[name] = suite
    return {category: by_category[category] for category in in_order(by_category, CATEGORIES)}


def ood_rows(run: Run) -> list[tuple[str, str, dict, str]]:
    """(label, kind, stats, note) for each category, then its suites and what is left out.

    Kinds "category" and "suite" are over headline rows; "left out" is a suite without any, with
    the stats of all its rows. The note counts the left-out rows by reason.
    """
    rows = []
    for category, suites in ood_suites(run).items():
        notes = {}
        for name, suite in suites.items():
            counts = {words(why): k for why, k in suite.get("left_out", {}).items() if k}
            listed = ", ".join(f"{k:,.0f} {why}" for why, k in counts.items())
            notes[name] = f"; left out: {listed}" if listed else ""
            outside = value_at(suite, "n_outside_training_range")
            if outside > 0 and category != "extrapolation":
                notes[name] += f"; outside training range: {outside:,.0f}"
        note = "".join(notes.values()) if len(suites) == 1 else ""
        stats = run.ood.get("headline", {}).get(category, {})
        rows.append((words(category), "category", stats, note))
        for name, suite in suites.items():
            if not suite.get("headline"):
                rows.append((words(name), "left out", suite.get("all", {}), notes[name]))
            elif len(suites) > 1:
                rows.append((words(name), "suite", suite["headline"], notes[name]))
    return [row for row in rows if math.isfinite(value_at(row[2], "exact_match"))]


def ood_category_figure(run: Run):
    """Exact match per category and suite with interval and n; oracle-length exact match beside."""
    rows = ood_rows(run)
    if not rows:
        return None
    fig, (ax,) = new_figure([run], 11, 2.4 + 0.27 * len(rows), model=ood_model(run))
    for y, (_, kind, stats, note) in enumerate(rows):
        point, oracle = (
            read_point(stats, "exact_match"),
            value_at(stats, "oracle_length_exact_match"),
        )
        colour, marker, size, label = OOD_LOOKS[kind]
        draw_spread(ax, y, point, colour)
        ax.plot(point.value, y, marker, color=colour, ms=size, label=label)
        ax.plot(oracle, y, "D", color=colour, ms=9, mfc="none", label="oracle-length exact match")
        text, place = count_words([point.n]) + note, ("axes fraction", "data")
        ax.annotate(text, (1.02, y), xycoords=place, va="center", fontsize=8)
    row_axis(ax, [label for label, *_ in rows])
    for text, (_, kind, *_) in zip(ax.get_yticklabels(), rows, strict=True):
        text.set_fontweight("bold" if kind == "category" else "normal")
    headline = {label: stats["exact_match"] for label, kind, stats, _ in rows if kind == "category"}
    title = f"Out of distribution: {extremes(headline) or 'no headline rows'}"
    label_axes(ax, title, "exact match", "")
    legend_below(ax, ncols=2)
    caption(fig, interval_words([run], "Bars"))
    return fig


def draw_spread(ax, y: float, point: Point, colour: str) -> None:
    """The interval of a row as a bar, or with two or three seeds a dash for each."""
    if shows_each(len(point.each)):
        ax.plot(point.each, [y] * len(point.each), "|", color=colour, ms=9, mew=1.2)
    else:
        ax.hlines(y, point.low, point.high, colour, lw=1.8)


def ood_model(run: Run) -> str:
    """Which checkpoint ood_results.json is of, "" where it does not say."""
    name, step = run.ood.get("checkpoint", ""), value_at(run.ood, "step")
    return name + (f", step {step:,.0f}" if name and math.isfinite(step) else "")


def row_axis(ax, labels: list[str]) -> None:
    """A row per label, the first on top, and proportions from left to right."""
    ax.set_yticks(range(len(labels)), labels, fontsize=9)
    ax.set_ylim(len(labels) - 0.5, -0.5)
    proportion_axis(ax.xaxis)


def legend_below(ax, ncols: int = 4) -> None:
    """Half an inch below the axes, each label once."""
    from matplotlib.transforms import ScaledTranslation

    handles = dict(zip(*reversed(ax.get_legend_handles_labels()), strict=True))
    place = ax.transAxes + ScaledTranslation(0, -0.5, ax.figure.dpi_scale_trans)
    style = {"loc": "upper center", "bbox_to_anchor": (0.5, 0), "bbox_transform": place}
    ax.legend(handles.values(), handles, ncols=ncols, fontsize=8, **style)


def level_curves(run: Run) -> dict[str, Curve]:
    """Exact match of each of TASKS over `level`, from the headline rows of systematic suites."""
    points: dict[str, dict[float, Point]] = {task: {} for task in TASKS}
    for suite in ood_suites(run).get("systematic", {}).values():
        for row in suite.get("by_level", []) if suite.get("headline") else []:
            if row.get("task") in TASKS and is_number(row.get("level")) and "exact_match" in row:
                points[row["task"]][row["level"]] = read_point(row, "exact_match")
    ordered = {task: dict(sorted(by_level.items())) for task, by_level in points.items()}
    return {task: curve_of(by, list(by.values())) for task, by in ordered.items()}


def level_figure(run: Run):
    """Exact match over items, digits and hops, with the training range shaded.

    The range is the standard data's unless ood_results.json has {"training_range": {task: [low,
    high]}}.
    """
    curves = level_curves(run)
    panels = {unit: tasks for unit, tasks in LEVELS.items() if any(len(curves[t].x) for t in tasks)}
    if not panels:
        return None
    known = bool(run.ood.get("training_range"))
    given = run.ood["training_range"] if known else STANDARD_RANGE
    widths = tuple(1.4 if unit == "items" else 1 for unit in panels)
    fig, axes = new_figure([run], 1.5 + 3 * sum(widths), 4, widths, model=ood_model(run))
    for ax, (unit, tasks) in zip(axes, panels.items(), strict=True):
        ranges = {t: tuple(given[t]) for t in tasks if len(curves[t].x) and given.get(t)}
        ranges = ranges or {tasks[0]: STANDARD_RANGE[tasks[0]]}
        shaded, (low, high) = next(iter(ranges.items()))
        label = "training range" + f" of {shaded}" * (len(set(ranges.values())) > 1)
        ax.axvspan(low - 0.5, high + 0.5, color="0.88", lw=0, zorder=0, label=label)
        none = curve_of([], [])
        draw_curves(ax, {task: c if task in tasks else none for task, c in curves.items()})
        value, n = (np.concatenate([getattr(curves[t], k) for t in tasks]) for k in ("value", "n"))
        ends = [(curves[t].x, ranges.get(t, (low, high))) for t in tasks]
        inside = np.concatenate([(x >= least) & (x <= most) for x, (least, most) in ends])
        n = np.nan_to_num(n, nan=1.0)  # levels without an n count alike
        means = ", ".join(
            f"{percent(np.average(value[side], weights=n[side]))} {name}"
            for name, side in (("inside", inside), ("outside", ~inside))
            if n[side].sum()
        )
        proportion_axis(ax.yaxis)
        y = "exact match" if ax is axes[0] else ""
        label_axes(ax, f"{unit.capitalize()}: {means}", number_axis(ax, unit), y)
        ax.legend(fontsize=8.5)
    source = "training range" if known else "training range of the standard data"
    note = f"Shaded: {source}; titles: all examples inside and outside it, each task's own; "
    note += "n: per level."
    caption(fig, f"{interval_words([run], 'Bands')} {note}")
    return fig


def failure_rows(run: Run) -> list[tuple[str, float, dict[str, float]]]:
    """(label, n of a seed, kind -> share): validation, OOD categories, tasks in extrapolation."""
    rows, headline = best_rows(run), run.ood.get("headline", {})
    n, failures = (held_out_key(run, name) for name in ("val_n", "val_failures"))
    groups = [(f"{held_out([run])} examples", r.get(n), r.get(failures)) for r in rows]
    for category in in_order(headline, CATEGORIES):
        stats = headline[category]
        groups.append((words(category), stats.get("n"), stats.get("failures")))
    for suite in ood_suites(run).get("extrapolation", {}).values():
        by_task = suite.get("by_task", {}) if suite.get("headline") else {}
        for task, stats in by_task.items():
            groups.append((f"extrapolation: {task}", stats.get("n"), stats.get("failures")))
    totals: dict[str, Counter] = {}
    for label, n, failures in groups:
        if n and failures:
            correct = n - sum(failures.values())
            counted = {"n": n, "parts": 1, "correct": correct, **failures}
            totals.setdefault(label, Counter()).update(counted)
    return [
        (label, total["n"] / total["parts"], {k: total[k] / total["n"] for k in OUTCOMES})
        for label, total in totals.items()
    ]


def failures_figure(run: Run):
    """Share of right answers and of each kind of failure."""
    rows = failure_rows(run)
    if not rows:
        return None
    model = f"out of distribution: {ood_model(run)}" if ood_model(run) else ""
    fig, (ax,) = new_figure([run], 8.5, 2 + 0.34 * len(rows), model=model)
    left = np.zeros(len(rows))
    for kind, (colour, hatch) in OUTCOMES.items():
        width = np.array([shares[kind] for *_, shares in rows])
        style = {"color": colour, "hatch": hatch, "edgecolor": "0.2", "linewidth": 0.5}
        ax.barh(range(len(rows)), width, left=left, height=0.72, label=words(kind), **style)
        left += width
    row_axis(ax, [f"{label} (n = {n:,.0f})" for label, n, _ in rows])
    ax.set_xlim(0, 1)
    wrong = {words(k): sum(n * shares[k] for _, n, shares in rows) for k in list(OUTCOMES)[1:]}
    most = max(wrong, key=wrong.get)
    title = f"Most frequent failure: {most}" if wrong[most] else "No failures"
    label_axes(ax, title, "share of examples", "")
    legend_below(ax)
    if epochs := {row["epoch"] for row in best_rows(run)}:
        which = f" of epoch {epochs.pop():,}" if len(epochs) == 1 else " of each seed"
        caption(fig, f"{held_out([run]).capitalize()} examples: the best model{which}.")
    return fig


# ------------------------------------------------------------------------------------------------
# several runs side by side
# ------------------------------------------------------------------------------------------------


def compare_learning_figure(runs: list[Run]):
    """Unseen exact match, and train minus unseen, over examples seen."""
    key = examples_or_epoch(runs)
    held = held_out(runs)
    panels = {
        f"exact match, {held}": {
            r.name: curve(r, key, held_out_key(r, "val_exact_match"), n=(held_out_key(r, "val_n"),))
            for r in runs
        },
        f"train minus {held} exact match (points)": {
            r.name: curve(r, key, held_out_key(r, "generalization_gap")) for r in runs
        },
    }
    panels = {y: curves for y, curves in panels.items() if any(len(c.x) for c in curves.values())}
    if not panels:
        return None
    fig, axes = new_figure(runs, 5.5 * len(panels), 4.4, (1,) * len(panels))
    for ax, (y, curves) in zip(axes, panels.items(), strict=True):
        draw_curves(ax, curves)
        difference = y.startswith("train")
        (points_axis if difference else proportion_axis)(ax.yaxis)
        if difference:
            ax.axhline(0, color="0.3", lw=1, zorder=1.5)
        at_end = {shorten(name): c.value[-1] for name, c in curves.items() if len(c.x)}
        ends = extremes(at_end, show=points if difference else percent)
        label_axes(ax, f"At the end: {ends}", training_axis(ax, key, runs), y)
    axes[0].legend(fontsize=8.5)
    single = any(len(run.seeds) == 1 for run in runs) and len(panels) > 1
    note = " Difference in a single seed: Newcombe." if single else ""
    caption(fig, interval_words(runs, "Bands") + note + budget_words(runs))
    return fig


def compare_rows(
    runs: list[Run], rows: dict[str, list[Point]], title: str, models: list[str] | None = None
):
    """A row per category or task, a marker per run; None unless two runs have numbers."""
    known = [i for i in range(len(runs)) if any(math.isfinite(p[i].value) for p in rows.values())]
    if len(known) < 2:
        return None
    fig, (ax,) = new_figure(runs, 9, 2 + len(rows) * (0.3 + 0.13 * len(known)))
    for k, i in enumerate(known):
        ys = np.arange(len(rows)) + 0.75 * ((k + 0.5) / len(known) - 0.5)
        of_run = [points[i] for points in rows.values()]
        for y, point in zip(ys, of_run, strict=True):
            draw_spread(ax, y, point, look(i)["color"])
        style = {**look(i), "linestyle": "none"}
        name = shorten(runs[i].name) + (f"\n({models[i]})" if models and models[i] else "")
        ax.plot([point.value for point in of_run], ys, label=name, markersize=6, **style)
    row_axis(ax, [f"{name}\n{count_words(p.n for p in points)}" for name, points in rows.items()])
    ax.grid(visible=False, axis="y")
    for y in range(1, len(rows)):
        ax.axhline(y - 0.5, color="0.8", lw=0.8)
    label_axes(ax, title, "exact match", "")
    ax.legend(fontsize=8.5, loc="upper left", bbox_to_anchor=(1.01, 1))
    caption(fig, interval_words(runs, "Bars") + budget_words(runs))
    return fig


def best_point(run: Run, task: str) -> Point:
    """Exact match of the best models on a task, of those that were trained on it by then."""
    rate, n = (held_out_key(run, f"val_{name}_by_task") for name in ("exact_match", "n"))
    rows = [r for r in best_rows(run) if task in (r.get("tasks") or [task])]
    return combine([read_point(r, rate, task, n=(n, task)) for r in rows], rate)


def compare_tasks_figure(runs: list[Run]):
    """Unseen exact match of each run's best model on the tasks it was trained on by then."""
    rows = {}
    for task in in_order(set(chain(*map(task_names, runs))), TASKS):
        points = [best_point(run, task) for run in runs]
        if any(math.isfinite(point.value) for point in points):
            rows[task] = points
    title = f"{held_out(runs).capitalize()} exact match of the best model, by task"
    return compare_rows(runs, rows, title)


def compare_ood_figure(runs: list[Run]):
    """Headline exact match per OOD category of each run."""
    headlines, rows = [run.ood.get("headline", {}) for run in runs], {}
    for category in in_order(set(chain(*headlines)), CATEGORIES):
        points = [read_point(h.get(category, {}), "exact_match") for h in headlines]
        if any(math.isfinite(point.value) for point in points):
            rows[words(category)] = points
    models = [ood_model(run) for run in runs]
    title = "Exact match out of distribution, by category"
    return compare_rows(runs, rows, title, models if len(set(models)) > 1 else None)


# ------------------------------------------------------------------------------------------------
# writing
# ------------------------------------------------------------------------------------------------


RUN_FIGURES = {
    "learning.png": learning_figure,
    "tasks_over_epochs.png": tasks_figure,
    "task_epoch_heatmap.png": heatmap_figure,
    "learning_rate.png": learning_rate_figure,
    "repeat_count.png": lambda run: repeat_count_figure([run]),
    "repeat_count_over_epochs.png": repeat_counts_over_epochs_figure,
    "repeat_effects.png": lambda run: repeat_effects_figure([run]),
    "ood_by_category.png": ood_category_figure,
    "ood_by_level.png": level_figure,
    "failures.png": failures_figure,
}
COMPARISONS = {
    "compare_learning.png": compare_learning_figure,
    "compare_tasks.png": compare_tasks_figure,
    "compare_repeat_count.png": repeat_count_figure,
    "compare_repeat_effects.png": repeat_effects_figure,
    "compare_matched_repeats.png": matched_repeats_figure,
    "compare_ood.png": compare_ood_figure,
}
EFFECTS = ("repeat_effects.json", "matched_repeat_effects.json")


def run_folders(runs: list[Run]) -> list[str]:
    """The folder of each run's own figures below --out_dir, `""` for a single run."""
    return [f"{run.name.replace('/', '_')}/" for run in runs] if len(runs) > 1 else [""]


def draw_figures(runs: list[Run], groups: Sequence[Run] = ()) -> dict:
    """File name -> figure, for all that the run folders have the data for.

    Side by side stand the groups of seeds, or the runs where there are no two groups.
    """
    figures = {}
    for run, folder in zip(runs, run_folders(runs), strict=True):
        figures |= {folder + name: draw(run) for name, draw in RUN_FIGURES.items()}
    if len(runs) > 1:
        apart = groups if len(groups) > 1 else runs
        figures |= {name: draw(apart) for name, draw in COMPARISONS.items()}
    return {name: figure for name, figure in figures.items() if figure is not None}


def load_runs(run_dirs, out_dir=None) -> tuple[list[Run], Path, list[str]]:
    """The runs of one path or several, the folder for figures, and why each other path is no run.

    out_dir is by default `<run>/plots` and must be given for several runs. UserError where no path
    is a run, one does not exist, or a run cannot be read.
    """
    run_dirs = [run_dirs] if isinstance(run_dirs, (str, Path)) else run_dirs
    folders = list({Path(folder).resolve(): Path(folder) for folder in run_dirs}.values())
    if out_dir is None and len(folders) > 1:
        raise UserError("several runs need a folder of their own for figures; add --out_dir")
    runs, no_runs = [], []
    for folder, name in zip(folders, unique_names(folders), strict=True):
        try:
            runs.append(load_run(folder, name))
        except NoRun as error:  # `sweep/*` names the logs too
            no_runs.append(error)
    if not runs:
        raise no_runs[0]
    out_dir = folders[0] / "plots" if out_dir is None else Path(out_dir)
    check_writable(out_dir)
    notes = [f"note: passed over: {error}" for error in no_runs]
    notes += [f"note: {run.name}: {note}" for run in runs for note in run.notes]
    return runs, out_dir, notes


def write_figures(run_dirs, out_dir=None) -> list[Path]:
    """Draw run folders (one path or several) and return the PNG files written.

    All figures are drawn before the first is written, each by a temporary file and a rename.
    """
    runs, out_dir, _ = load_runs(run_dirs, out_dir)
    return save_figures(runs, out_dir, [as_run(group) for group in gathered(runs)[0]])


def gathered(runs: list[Run]) -> tuple[list[Group], list[str]]:
    """Several runs as groups of seeds, with notes; a single one has nothing to be compared with."""
    return gather(runs) if len(runs) > 1 else ([], [])


def remove_figures(folder: Path, but: Iterable[Path] = ()) -> None:
    """Remove the figures of one run in `folder`, but these: they show results that are no more."""
    for path in (folder / name for name in RUN_FIGURES):
        if path not in but:
            path.unlink(missing_ok=True)


def figures_or_notice(run_dir: Path, out_dir: Path) -> tuple[list[Path], str]:
    """write_figures at the end of another command, whose results stand whatever drawing raises.

    Returns the files written and "", or no files and a sentence that says how to draw them again.
    An error of the file system passes.
    """
    try:
        return write_figures(run_dir, out_dir), ""
    except OSError:
        raise
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:120]
        paths = [ROOT / "plots.py", run_dir.resolve(), "--out_dir", out_dir.resolve()]
        again = shlex.join(["python", *map(str, paths)])
        return [], f"note: the figures could not be drawn ({reason}); draw them with: {again}"


def save_figures(runs: list[Run], out_dir: Path, groups: Sequence[Run] = ()) -> list[Path]:
    images = {}
    with own_style():
        for name, figure in draw_figures(runs, groups).items():
            images[out_dir / name] = io.BytesIO()
            figure.savefig(images[out_dir / name], format="png", dpi=DPI)
    for path, image in images.items():
        write_atomically(path, image.getvalue())
    for folder in run_folders(runs):
        remove_figures(out_dir / folder, but=images)
    return list(images)


def build_parser() -> Parser:
    parser = Parser(__doc__)
    parser.add_argument(
        "runs",
        nargs="+",
        type=path_text,
        metavar="RUN",
        help="run folder, folder of seeds, or folder of results",
    )
    parser.add_argument(
        "--out_dir",
        type=path_text,
        metavar="DIR",
        help="where the figures go (default: plots/ in the one run)",
    )
    return parser


def draw(args) -> None:
    """Write the figures and the effect of repetition of the runs named; print both."""
    runs, out_dir, notes = load_runs(args.runs, args.out_dir)
    print(*notes, sep="\n", end="\n" if notes else "", file=sys.stderr)
    groups, found = gathered(runs)
    together = [as_run(group) for group in groups]
    paths = save_figures(runs, out_dir, together)
    effects = {run.name: effects_of(run) for run in together or runs}
    if any(effects.values()):
        paths.append(out_dir / EFFECTS[0])
        write_json(paths[-1], effects)
    matched = matched_effects_of(together)
    if matched:
        paths.append(out_dir / EFFECTS[1])
        write_json(paths[-1], matched)
    said = [*effect_lines(effects), *matched_lines(matched)]
    if groups:
        said = said or [""]
        comparison = compare_groups(groups, found)
        paths += write_comparison(comparison, out_dir)
        said += comparison_lines(comparison)
    print(*paths, sep="\n")
    print(*said, sep="\n", end="")


def main(argv: list[str] | None = None) -> int:
    return run_main(lambda: draw(build_parser().parse_args(argv)))


if __name__ == "__main__":
    sys.exit(main())
