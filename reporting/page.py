"""One page of one run or several: what it says, in the order it says it, and its bytes."""

import base64
import hashlib
from pathlib import Path
from typing import NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from comparison.groups import as_run, gather
from comparison.page import capital, method_words
from comparison.table import compare_groups
from data.tasks import TASKS
from memorization import page as panel_page
from memorization.page import Table
from reporting import figures, tables
from reporting.examples import all_examples, as_json, choose, columns_of, encode, short, spans_of
from reporting.figures import Compared, Shown, drawn
from reporting.gather import Records
from reporting.identity import identity
from reporting.svg import Sheet
from reporting.verdict import typeset, verdicts

HERE = Path(__file__).resolve().parent
SHOWN_ROWS = 25  # examples in the page itself, for readers without JavaScript
MOST_EPOCHS = 25  # of a seed's curve among the numbers to download


class Part(NamedTuple):
    """A chapter: for each run that has something to say its figures and tables."""

    id: str
    title: str
    lead: str
    runs: list  # (name, content) each


class Content(NamedTuple):
    figures: list[Shown]
    tables: list[tuple[str, Table]]  # id, table
    notes: list[str]


def render(records: list[Records]) -> str:
    """The whole page as HTML. The same records give the same bytes."""
    sheet, compared = Sheet(), side_by_side(records)
    parts = [p for p in all_parts(records, compared, sheet) if p.runs]
    rows, rule = choose(all_examples(records))
    shown = [figure for part in parts for _, content in part.runs for figure in content.figures]
    data = {
        "hover": {figure.id: figure.drawing.points for figure in shown},
        "examples": encode(rows) if rows else None,
        "raw": {
            "runs": {one.name: raw_numbers(one) for one in records},
            "comparison": rounded(compared.comparison.as_dict()) if compared else None,
        },
    }
    style = (HERE / "style.css").read_text(encoding="utf-8") + sheet.css()
    script = (HERE / "page.js").read_text(encoding="utf-8")
    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["pieces"] = pieces
    environment.filters["shown"] = shown_value
    environment.filters["typeset"] = typeset
    environment.filters["kinds"] = kinds_of_columns
    return environment.get_template("page.html.j2").render(
        title=" · ".join(one.name for one in records),
        runs=[(one.name, verdicts(one, list(TASKS))) for one in records],
        identities=[identity(one) for one in records],
        parts=parts,
        columns=columns_of(rows),
        rows=rows[:SHOWN_ROWS],
        n_rows=len(rows),
        rule=rule,
        style=style,
        script=script,
        data=in_script(data),
        style_hash=csp_hash(style),
        script_hash=csp_hash(script),
    )


def csp_hash(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def in_script(data: dict) -> str:
    """JSON that stands in a <script>: no text in it can end that element, or open another one."""
    return as_json(data).replace("<", "\\u003c")


# ------------------------------------------------------------------------------------------------
# parts
# ------------------------------------------------------------------------------------------------


def all_parts(records: list[Records], compared: Compared | None, sheet: Sheet) -> list[Part]:
    def each(build) -> list[tuple[str, Content]]:
        found = [(one.name, build(one, f"r{i}-")) for i, one in enumerate(records)]
        return [(name, content) for name, content in found if any(content)]

    return [
        Part(
            "memory",
            "Memory",
            "What the models know by rule, and what they know because they saw it.",
            each(lambda one, prefix: memory_content(one, prefix, sheet)),
        ),
        Part(
            "learning",
            "Learning",
            "How that came about over training.",
            each(lambda one, prefix: learning_content(one, prefix, sheet)),
        ),
        Part(
            "ood",
            "Out of distribution",
            "Examples unlike those trained on. What is wrong on the control was never learned.",
            each(lambda one, prefix: Content(drawn(figures.OOD, one, prefix, sheet), [], [])),
        ),
        Part(
            "compared",
            "Side by side",
            "Every two runs in every row, with the smallest difference that could have been seen.",
            compared_content(compared, sheet),
        ),
        Part(
            "limits",
            "Baselines, exclusions, limits",
            "What would be right without a rule, what is not counted, and what the numbers do not "
            "say.",
            each(limits_content),
        ),
    ]


def memory_content(one: Records, prefix: str, sheet: Sheet) -> Content:
    shown = drawn(figures.MEMORY, one, prefix, sheet)
    if not one.panel:
        return Content(shown, [], [])
    found = {
        "tests": panel_page.self_test_table(one.panel),
        "most": panel_page.most_memorized_table(one.panel),
        "limem": panel_page.limem_table(one.panel),
    }
    return Content(shown, [(prefix + key, table) for key, table in found.items() if table], [])


def learning_content(one: Records, prefix: str, sheet: Sheet) -> Content:
    shown, found = drawn(figures.LEARNING, one, prefix, sheet), []
    if one.panel:
        found.append((f"{prefix}dynamics", panel_page.dynamics_table(one.panel)))
    table = tables.learning_table(one.run)
    if table.rows and f"{prefix}learning" not in {figure.id for figure in shown}:
        found.append((f"{prefix}learning-table", table))
    return Content(shown, found, [])


def side_by_side(records: list[Records]) -> Compared | None:
    """Several runs, folders that differ in the seed alone taken together; None for one."""
    groups, notes = gather([one.run for one in records]) if len(records) > 1 else ([], [])
    if len(groups) < 2:
        return None
    return Compared([as_run(group) for group in groups], compare_groups(groups, notes))


def compared_content(compared: Compared | None, sheet: Sheet) -> list[tuple[str, Content]]:
    if compared is None:
        return []
    comparison = compared.comparison
    shown = drawn(figures.COMPARED, compared, "all-", sheet)
    found = [
        (f"all-pair-{i}", table) for i, table in enumerate(tables.difference_tables(comparison))
    ]
    said = [method_words(comparison)] if found else []
    return [("", Content(shown, found, [*said, *map(sentence_of, comparison.notes)]))]


def sentence_of(note: str) -> str:
    return f"{capital(note)}."


def limits_content(one: Records, prefix: str) -> Content:
    found = {
        "lookup": panel_page.lookup_table(one.panel) if one.panel else None,
        "baselines": None if one.panel else tables.baselines_table(one.run),
        "exclusions": tables.exclusions_table(one.run),
    }
    kept = [(prefix + key, table) for key, table in found.items() if table and table.rows]
    return Content([], kept, limits(one))


def limits(one: Records) -> list[str]:
    """What the numbers of this run do not say, in sentences."""
    said = []
    if one.panel:
        said += panel_page.header(one.panel)[1:]
        n_left_out = sum(row["n_left_out"] for row in one.panel["budget"])
        if n_left_out:
            said.append(f"{n_left_out:,} examples have replicas on one side only and are left out.")
    run = one.run
    said += [f"{note[0].upper()}{note[1:]}." for note in run.notes]
    audit = run.config.get("data", {}).get("audit", {})
    if audit.get("val_seen"):
        said.append(
            f"{audit['val_seen']:,} of {audit['val_rows']:,} validation rows stand in the training "
            "set; they are counted apart."
        )
    if len(run.seeds) == 1 and not one.panel:
        said.append("One seed: intervals are for other examples, and say nothing of other seeds.")
    elif not one.panel and len(run.seeds) < 4 and run.seeds:
        said.append(f"{len(run.seeds)} seeds: too few to tell how seeds differ.")
    if passed := run.ood.get("passed_over"):
        said.append(f"{len(passed)} seeds have no usable model and are passed over.")
    said.append(
        "The tasks are synthetic and the models small: nothing here says what a large language "
        "model does."
    )
    return said


# ------------------------------------------------------------------------------------------------
# numbers to download
# ------------------------------------------------------------------------------------------------


def raw_numbers(one: Records) -> dict:
    """What the page is made of, at four significant digits; the examples stand by themselves."""
    run = one.run
    by_count = [
        [{k: row[k] for k in ("group", "n", "exact_match", "loss") if k in row} for row in rows]
        for rows in (model["by_repeat_count"] for model in run.memorization)
    ]
    return rounded(
        {
            "config": run.config,
            "verdicts": [verdict.__dict__ for verdict in verdicts(one, list(TASKS))],
            "memorization": one.panel or None,
            "by_repeat_count": by_count,
            "learning": [curve_of_seed(rows) for rows in run.seeds],
            "ood": run.ood or None,
        }
    )


KEPT = ("epoch", "step", "examples_seen", "train_exact_match", "val_exact_match")
KEPT += ("train_loss", "val_loss")


def curve_of_seed(rows: list[dict]) -> dict:
    """Column -> values at no more than MOST_EPOCHS validated epochs, evenly and with the last."""
    rows = [row for row in rows if "val_loss" in row or "val_loss_seen" in row]
    places = sorted({round(i) for i in spread(len(rows), MOST_EPOCHS)})
    seed = rows[0].get("seed") if rows else None
    return {"seed": seed, **{key: [rows[i].get(key) for i in places] for key in KEPT}}


def spread(n: int, most: int) -> list[float]:
    if n <= most:
        return list(range(n))
    return [i * (n - 1) / (most - 1) for i in range(most)]


def rounded(value):
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(item) for item in value]
    return short(value) if isinstance(value, float) else value


# ------------------------------------------------------------------------------------------------
# cells of the example table
# ------------------------------------------------------------------------------------------------


def shown_value(value, kind: str) -> str:
    """A cell of the example table, as page.js writes it too."""
    if value is None:
        return "–"
    if kind == "share":
        return f"{100 * value:.0f} %"
    if kind == "bits":
        return f"{value:.2f}".replace("-", "−")
    return f"{value:,.0f}" if kind == "count" else str(value)


def kinds_of_columns(table: Table) -> list[str]:
    """Of each column of a table "name" where a cell begins with a letter, else "number"."""
    columns = zip(*table.rows, strict=True) if table.rows else [[] for _ in table.names]
    return [
        "name" if any(str(cell)[:1].isalpha() for cell in column) else "number"
        for column in columns
    ]


def pieces(row: dict) -> list[tuple[str, bool]]:
    """A prediction cut into (text, whether it is wrong); a missing character is ("", True)."""
    text, at, found = row["prediction"], 0, []
    for start, end in spans_of(row):
        found += [(text[at:start], False), (text[start:end], True)]
        at = end
    return [*found, (text[at:], False)]
