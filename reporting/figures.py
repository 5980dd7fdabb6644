"""The figures of a page: each with a heading, what it shows, and its numbers as a table."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from comparison.table import Comparison
from memorization import figures as panel_figures
from memorization import page as panel_page
from memorization.page import Table
from plots import (
    compare_learning_figure,
    compare_ood_figure,
    compare_tasks_figure,
    curve,
    examples_or_epoch,
    failures_figure,
    learning_figure,
    level_figure,
    look,
    ood_category_figure,
    own_style,
    repeat_count_figure,
    repeat_counts_over_epochs_figure,
    repeat_effects_figure,
    shows_each,
    tasks_figure,
)
from reporting import tables
from reporting.gather import Records
from reporting.svg import RC, Drawing, Sheet, draw
from runtime.records import Run, held_out_key

MOST_PLACES = 60  # of the map, in its table
MOST_POINTS = 50  # of a seed's curve


class Kind(NamedTuple):
    """A figure that a page may have: drawn from Records, None where its records are not there."""

    name: str
    heading: str
    about: str
    figure: Callable
    table: Callable
    inverted: bool = False  # its colours stand for an amount


class Compared(NamedTuple):
    """Several runs, seeds of one run taken together, and what was found of every two."""

    runs: list[Run]
    comparison: Comparison


class Shown(NamedTuple):
    id: str
    heading: str
    about: str
    drawing: Drawing
    table: Table
    seeds: list[int]  # whose curves can be hidden


def of_panel(function: Callable) -> Callable:
    return lambda records: function(records.panel, records.examples) if records.panel else None


def panel_table(function: Callable) -> Callable:
    return lambda records: function(records.panel)


def map_of(records: Records):
    return panel_figures.map_figure(records.panel, records.examples) if records.examples else None


def map_table(records: Records) -> Table:
    """Places of the map by the examples there."""
    places = [
        (int(n), kind, f"{at[1]:.0%}", f"{at[0]:.0%}")
        for kind, (rates, counts) in panel_figures.places_on_map(records.examples).items()
        for at, n in zip(rates, counts, strict=True)
    ]
    places.sort(key=lambda place: -place[0])
    rows = [(kind, at_in, at_out, f"{n:,}") for n, kind, at_in, at_out in places[:MOST_PLACES]]
    left = len(places) - len(rows)
    notes = (
        [f"{left:,} places more have fewer examples; the list of examples has each"] if left else []
    )
    names = ("answers", "IN", "OUT", "examples at this place")
    return Table("Examples by exact match of IN and OUT replicas", names, rows, notes)


def bits_table(records: Records) -> Table:
    """The bit budget at each kept epoch."""
    rows = [
        (group, f"{row['epoch']:,}", *(panel_page.with_ends(row, part) for part in PARTS))
        for group, of_group in records.panel["budget_over_epochs"].items()
        for row in of_group
        if row["bits"] is not None
    ]
    return Table("Bit budget at each kept epoch", ("group", "epoch", *PARTS), rows)


PARTS = ("rule", "memory", "unexplained")


def without_panel(function: Callable) -> Callable:
    return lambda records: None if records.panel else function(records.run)


def learning_of(records: Records):
    """plots.learning_figure; of several seeds with a thin line for each, which can be hidden."""
    run = records.run
    once = all(sum("val_loss" in row for row in rows) < 2 for rows in run.seeds)
    if records.panel and once:  # a point is no curve, and the table has its numbers
        return None
    figure = learning_figure(run)
    if figure is None or len(run.seeds) < 2:
        return figure
    ax = figure.axes[0]
    if shows_each(len(run.seeds)):  # drawn as lines without a name: they get theirs below
        for line in [line for line in ax.lines if line.get_marker() == "."]:
            line.remove()
    key, limits = examples_or_epoch([run]), (ax.get_xlim(), ax.get_ylim())
    for i, path in enumerate((held_out_key(run, "val_exact_match"), "train_exact_match")):
        for seed, one in zip(seeds_of(run), run.seeds, strict=True):
            c = curve(Run(**{**vars(run), "seeds": [one]}), key, path)
            places = np.unique(np.linspace(0, len(c.x) - 1, MOST_POINTS).round().astype(int))
            places = places if len(c.x) > MOST_POINTS else slice(None)
            style = {"color": look(i)["color"], "lw": 0.8, "alpha": 0.55, "label": "_"}
            style |= {"marker": "." if len(c.x) == 1 else "", "ms": 2, "gid": f"seed-{seed}"}
            ax.plot(c.x[places], c.value[places], **style)
    ax.set(xlim=limits[0], ylim=limits[1])
    return figure


def seeds_of(run: Run) -> list[int]:
    """The seed of each of run.seeds, as its rows say it."""
    return [rows[0].get("seed", i) for i, rows in enumerate(run.seeds)]


def many_tasks(records: Records):
    return tasks_figure(records.run) if len(tables.task_curves(records.run)) > 1 else None


MEMORY = (
    Kind(
        "budget",
        "Bit budget",
        "How many bits of an answer the models know by rule, how many having seen the example "
        "adds, and how many are left.",
        of_panel(panel_figures.budget_figure),
        panel_table(panel_page.budget_table),
    ),
    Kind(
        "map",
        "The map of examples",
        "Each example by how often replicas are right that did not train on it (across) and that "
        "did (up).",
        map_of,
        map_table,
        inverted=True,
    ),
    Kind(
        "repeats",
        "Memory by repeat count",
        "What having seen an example adds, by how often it stands in the training set.",
        of_panel(panel_figures.repeats_figure),
        panel_table(panel_page.repeat_table),
    ),
    Kind(
        "exposure",
        "Exposure of canaries",
        "Planted examples with random answers: how far up their own answer ranks among all that "
        "it could be.",
        of_panel(panel_figures.exposure_figure),
        panel_table(panel_page.exposure_table),
    ),
    Kind(
        "roc",
        "Membership inference",
        "How well an attack tells whether a replica trained on an example.",
        of_panel(panel_figures.roc_figure),
        panel_table(panel_page.membership_table),
    ),
    Kind(
        "extraction",
        "Extraction",
        "The share of answers that come out within so many samples.",
        of_panel(panel_figures.extraction_figure),
        panel_table(panel_page.extraction_table),
    ),
    Kind(
        "counts",
        "Exact match by repeat count",
        "How often the last model is right, by how often the example stands in its training set.",
        without_panel(lambda run: repeat_count_figure([run])),
        lambda records: tables.repeats_table(records.run),
    ),
    Kind(
        "effects",
        "What repetition is worth",
        "The same as differences within each model.",
        without_panel(lambda run: repeat_effects_figure([run])),
        lambda records: tables.effects_table(records.run),
    ),
)
LEARNING = (
    Kind(
        "bits",
        "Rule and memory over training",
        "The bit budget at each kept epoch.",
        of_panel(panel_figures.budget_epochs_figure),
        bits_table,
    ),
    Kind(
        "learning",
        "Train and unseen",
        "Exact match on training examples and on unseen ones, and the loss.",
        learning_of,
        lambda records: tables.learning_table(records.run),
    ),
    Kind(
        "tasks",
        "Each task",
        "Exact match of each task; a dotted line marks a stage of a curriculum.",
        many_tasks,
        lambda records: tables.tasks_table(records.run),
    ),
    Kind(
        "val-failures",
        "Kinds of failure",
        "What is wrong about the wrong answers.",
        lambda records: None if records.run.ood else failures_figure(records.run),
        lambda records: tables.failures_table(records.run),
    ),
    Kind(
        "counts-over-epochs",
        "Repeat counts over training",
        "Exact match of training examples by how often they stand in the training set.",
        lambda records: repeat_counts_over_epochs_figure(records.run),
        lambda records: tables.counts_over_epochs_table(records.run),
    ),
)
OOD = (
    Kind(
        "forest",
        "Categories and suites",
        "Exact match with its interval. Interpolation is the control: sizes trained on, examples "
        "not seen.",
        lambda records: ood_category_figure(records.run),
        lambda records: tables.ood_table(records.run),
    ),
    Kind(
        "levels",
        "Length, digits and hops",
        "Exact match over the size of the example; shaded are the sizes trained on.",
        lambda records: level_figure(records.run),
        lambda records: tables.levels_table(records.run),
    ),
    Kind(
        "failures",
        "Kinds of failure",
        "What is wrong about the wrong answers.",
        lambda records: failures_figure(records.run) if records.run.ood else None,
        lambda records: tables.failures_table(records.run),
    ),
)


COMPARED = (  # of several runs
    Kind(
        "learning",
        "Learning side by side",
        "Exact match on unseen examples, and how far training examples are above it.",
        lambda compared: compare_learning_figure(compared.runs),
        lambda compared: tables.compared_learning_table(compared.runs),
    ),
    Kind(
        "tasks",
        "Tasks side by side",
        "The best model of each run, chosen by validation.",
        lambda compared: compare_tasks_figure(compared.runs),
        lambda compared: tables.rates_table(compared.comparison, of_tasks=True),
    ),
    Kind(
        "ood",
        "Out of distribution, side by side",
        "Categories of suites; interpolation is the control.",
        lambda compared: compare_ood_figure(compared.runs),
        lambda compared: tables.rates_table(compared.comparison, of_tasks=False),
    ),
)


def drawn(
    kinds: tuple[Kind, ...], records: Records | Compared, prefix: str, sheet: Sheet
) -> list[Shown]:
    """The figures of these kinds that the records have the data for."""
    from matplotlib import rc_context

    found = []
    for kind in kinds:
        with own_style(), rc_context(RC):
            figure = kind.figure(records)
            if figure is None:
                continue
            name = f"{prefix}{kind.name}"
            drawing = draw(figure, name, sheet, kind.inverted)
        seeds = []
        if kind.figure is learning_of and len(records.run.seeds) > 1:
            seeds = seeds_of(records.run)
        table = kind.table(records)
        found.append(Shown(name, kind.heading, kind.about, drawing, table, seeds))
    return found
