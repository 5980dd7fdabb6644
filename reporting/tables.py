"""Tables of a page: the numbers behind its figures, in words."""

import math

import numpy as np

from comparison import page as compared
from comparison.table import Comparison
from data.baselines import LOOKUPS
from memorization.page import Table
from plots import (
    LEVELS,
    Curve,
    Point,
    curve,
    effects_of,
    epoch_or_step,
    failure_rows,
    level_curves,
    loss_text,
    ood_rows,
    ood_suites,
    percent,
    repeat_count_curves,
    repeat_points,
    task_curves,
    times_words,
    value_at,
    words,
)
from runtime.records import Run, held_out, held_out_key

MOST_ROWS = 60  # of a table over epochs


def percent_or_dash(value: float) -> str:
    return "–" if math.isnan(value) else percent(value)


def with_interval(point: Point) -> str:
    """`99.6 % [98.6, 99.9]`."""
    if math.isnan(point.value):
        return "–"
    ends = "" if math.isnan(point.low) else f" [{100 * point.low:.1f}, {100 * point.high:.1f}]"
    return percent(point.value) + ends


def in_points(point: Point) -> str:
    """A difference of rates: `+1.2 [-0.5, +2.9]`."""
    if math.isnan(point.value):
        return "–"
    ends = "" if math.isnan(point.low) else f" [{100 * point.low:+.1f}, {100 * point.high:+.1f}]"
    return f"{100 * point.value:+.1f}{ends}"


def points_of(c: Curve) -> dict[float, Point]:
    return {
        x: Point(value, low, high, n)
        for x, value, low, high, n in zip(c.x, c.value, c.low, c.high, c.n, strict=True)
    }


def thinned(rows: list, most: int = MOST_ROWS) -> list:
    """At most `most` of the rows, evenly and with the last."""
    if len(rows) <= most:
        return rows
    places = np.linspace(0, len(rows) - 1, most).round().astype(int)
    return [rows[i] for i in np.unique(places)]


def learning_table(run: Run) -> Table:
    """Train and held-out exact match with their gap, and losses, at each validation."""
    held, key, place = held_out([run]), held_out_key, epoch_or_step(run)
    curves = {
        "train": curve(run, place, "train_exact_match", n=("train_n",)),
        held: curve(run, place, key(run, "val_exact_match"), n=(key(run, "val_n"),)),
    }
    gap = points_of(curve(run, place, key(run, "generalization_gap")))
    losses = {
        "train loss": curve(run, place, "train_loss"),
        f"{held} loss": curve(run, place, key(run, "val_loss")),
    }
    at = {name: points_of(c) for name, c in (curves | losses).items()}
    seen = points_of(curve(run, place, "examples_seen"))
    rows = []
    for x in thinned(sorted(set().union(*(at[name] for name in curves)))):
        row = [f"{x:.0f}", f"{seen[x].value:,.0f}" if x in seen else "–"]
        row += [with_interval(at[name].get(x, Point(math.nan))) for name in curves]
        row.append(in_points(gap.get(x, Point(math.nan))))
        values = [at[name].get(x, Point(math.nan)).value for name in losses]
        rows.append([*row, *("–" if math.isnan(v) else loss_text(v) for v in values)])
    names = (place, "examples seen", *curves, "gap, points", *losses)
    return Table(f"Exact match and loss at each validated {place}", names, rows)


def tasks_table(run: Run) -> Table:
    """Held-out exact match of each task at each validation."""
    curves = {task: points_of(c) for task, c in task_curves(run).items()}
    places = thinned(sorted(set().union(*curves.values())))
    rows = [
        [f"{x:.0f}", *(with_interval(at.get(x, Point(math.nan))) for at in curves.values())]
        for x in places
    ]
    return Table("Exact match of each task", (epoch_or_step(run), *curves), rows)


def repeats_table(run: Run) -> Table:
    """Exact match and loss of the last model by how often an example stands in the training set."""
    matches, losses = repeat_points(run, "exact_match"), repeat_points(run, "loss")
    grouped = any(effect["grouped"] for effect in effects_of(run))
    rows = []
    for count, point in matches.items():
        loss = losses[count].value if count in losses else math.nan
        n = f"{point.n:,.0f}" if math.isfinite(point.n) else "–"
        row = (times_words(count, grouped), n, with_interval(point))
        rows.append((*row, "–" if math.isnan(loss) else loss_text(loss)))
    return Table(
        "Exact match by repeat count", ("times in training", "n", "exact match", "loss"), rows
    )


def effects_table(run: Run) -> Table:
    """What repetition is worth: exact match at each repeat count minus that at another."""
    rows = []
    for effect in effects_of(run):
        difference, low, high = (100 * effect[key] for key in ("difference", "low", "high"))
        base = "once" if effect["minus"] else "unseen"
        times = times_words(effect["repeat_count"], effect["grouped"])
        said = f"{difference:+.1f} [{low:+.1f}, {high:+.1f}]"
        rows.append((times, base, f"{effect['n']:,}", said))
    names = ("times in training", "minus", "n", "difference, points")
    return Table("Differences of exact match within a model", names, rows)


def counts_over_epochs_table(run: Run) -> Table:
    """Exact match at each repeat count at each validation."""
    place = epoch_or_step(run)
    curves = {name: points_of(c) for name, c in repeat_count_curves(run, place).items()}
    rows = [
        [f"{x:,.0f}", *(with_interval(at.get(x, Point(math.nan))) for at in curves.values())]
        for x in thinned(sorted(set().union(*curves.values())))
    ]
    return Table("Exact match by times in the training set", (place, *curves), rows)


def ood_table(run: Run) -> Table:
    """Each category and suite with interval, lookup and what is left out."""
    rows = []
    for label, kind, stats, note in ood_rows(run):
        point = Point(*(value_at(stats, f"exact_match{end}") for end in ("", "_low", "_high")))
        lookup, chance = stats.get("lookup", {}), value_at(stats, "chance")
        best = max(
            (lookup[name] for name in LOOKUPS if name in lookup),
            default=math.nan,
        )
        name = label if kind == "category" else f"· {label}"
        rows.append(
            (
                f"{name} (not in headlines)" if kind == "left out" else name,
                f"{value_at(stats, 'n'):,.0f}",
                with_interval(point),
                percent_or_dash(value_at(stats, "oracle_length_exact_match")),
                percent_or_dash(best),
                percent_or_dash(chance),
                note.removeprefix("; ") or "–",
            )
        )
    names = ("category, suite", "n", "exact match", "oracle length", "lookup", "chance", "notes")
    return Table("Exact match out of distribution", names, rows)


def levels_table(run: Run) -> Table:
    """Exact match of each task at each length, number of digits or hops."""
    curves, rows = level_curves(run), []
    for unit, tasks in LEVELS.items():
        for task in tasks:
            for level, point in points_of(curves[task]).items():
                size = f"{level:g} {unit if level != 1 else unit.removesuffix('s')}"
                rows.append((task, size, f"{point.n:,.0f}", with_interval(point)))
    return Table("Exact match by size", ("task", "size", "n", "exact match"), rows)


def failures_table(run: Run) -> Table:
    rows = [
        (label, f"{n:,.0f}", *(percent(share) for share in shares.values()))
        for label, n, shares in failure_rows(run)
    ]
    shares = failure_rows(run)[0][2] if rows else {}
    return Table("Kinds of failure", ("examples", "n", *map(words, shares)), rows)


def baselines_table(run: Run) -> Table:
    """What lookup and chance would give on held-out examples of each task, a mean over seeds."""
    by_task: dict[str, list[dict]] = {}
    for row in (row for model in run.memorization for row in model.get("by_task", [])):
        by_task.setdefault(row["group"], []).append(row)
    rows = []
    for task, of_task in by_task.items():
        found = [mean_of([row["lookup"] for row in of_task if "lookup" in row], n) for n in LOOKUPS]
        rates = [mean_of(of_task, "exact_match"), *found, mean_of(of_task, "chance")]
        rows.append((task, f"{of_task[0]['n']:,}", *map(percent_or_dash, rates)))
    names = (held_out([run]), "n", "model", *LOOKUPS, "chance")
    return Table("What lookup in the training set would score", names, rows)


def mean_of(rows: list[dict], key: str) -> float:
    values = [row[key] for row in rows if key in row]
    return sum(values) / len(values) if values else math.nan


def exclusions_table(run: Run) -> Table:
    """Examples of the suites that headlines leave out, by reason."""
    rows = [
        (words(name), f"{suite.get('n', 0):,}", words(why), f"{n:,}")
        for suites in ood_suites(run).values()
        for name, suite in suites.items()
        for why, n in suite.get("left_out", {}).items()
        if n
    ]
    return Table("Left out of headlines", ("suite", "n", "reason", "left out"), rows)


# ------------------------------------------------------------------------------------------------
# several runs
# ------------------------------------------------------------------------------------------------


def compared_learning_table(runs: list[Run]) -> Table:
    """Held-out exact match and the gap of each run at its validations."""
    rows = []
    for run in runs:
        place = epoch_or_step(run)
        held = curve(run, place, held_out_key(run, "val_exact_match"), n=(held_n(run),))
        gaps = points_of(curve(run, place, held_out_key(run, "generalization_gap")))
        for x, point in thinned(list(points_of(held).items()), MOST_ROWS // len(runs)):
            gap = in_points(gaps.get(x, Point(math.nan)))
            rows.append((run.name, f"{place} {x:,.0f}", with_interval(point), gap))
    names = ("run", "at", f"exact match, {held_out(runs)}", "train minus it, points")
    return Table("Exact match over training", names, rows)


def held_n(run: Run) -> str:
    return held_out_key(run, "val_n")


def rates_table(comparison: Comparison, of_tasks: bool) -> Table:
    """The rates of each run: on held-out examples of each task, or on each category of suites."""
    (_, *names), *rows = compared.rate_table(comparison)
    held = ("unseen:", "seen:", "validation:")
    rows = [row for row in rows if not row[0].startswith("panel:")]
    chosen = [row for row in rows if row[0].startswith(held) is of_tasks]
    return Table("Exact match in %", ("row", *names), chosen, [compared.rate_words(comparison)])


def difference_tables(comparison: Comparison) -> list[Table]:
    """Every two runs in every row: difference, test, and the smallest that could be seen."""
    found = []
    for pair, differences in compared.by_pair(comparison):
        (_, *names), *rows = compared.difference_table(differences)
        said = compared.pair_sentences(differences)
        found.append(Table(f"{pair}, in points", ("row", *names), rows, said))
    return found
