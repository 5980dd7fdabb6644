"""A comparison as lines to print, as Markdown and as CSV."""

import csv
import io
import textwrap
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path

from comparison.groups import Rate
from comparison.table import Comparison, Difference
from runtime.files import write_atomically

MANY_PAIRS = 6  # more are printed by what stands out alone
COLUMNS = ("mean", "low", "high", "n", "seeds")  # of each of the two runs, in the CSV


def in_percent(rate: Rate | None) -> str:
    """`91.6 [58.5, 100.0]`, or "–" where a run has no number."""
    if rate is None:
        return "–"
    return f"{100 * rate.mean:.1f}" + interval(rate.low, rate.high, ".1f")


def interval(low: float | None, high: float | None, form: str) -> str:
    return "" if low is None else f" [{100 * low:{form}}, {100 * high:{form}}]"


def in_points(difference: Difference) -> str:
    ends = interval(difference.low, difference.high, "+.1f")
    return f"{100 * difference.difference:+.1f}{ends}"


def p_words(p: float | None) -> str:
    return "–" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


def test_words(difference: Difference) -> str:
    """`paired t, 3 seeds`."""
    return f"{difference.test}, {difference.counts}"


def detectable_words(difference: Difference) -> str:
    least = difference.detectable
    return "–" if least is None else "> 100" if least >= 1 else f"{100 * least:.1f}"


# ----------------------------------------------------------------------------------------------
# Tables of texts
# ----------------------------------------------------------------------------------------------


def rate_table(comparison: Comparison) -> list[list[str]]:
    """Heading and rows: name, n, and each run's mean with its interval, in %."""
    by_place = {(rate.row, rate.run): rate for rate in comparison.rates}
    heads = [run + seeds_words(comparison.seeds[run]) for run in comparison.runs]
    rows = [["", "n", *heads]]
    for row in comparison.rows:
        rates = [by_place.get((row, run)) for run in comparison.runs]
        ends = sorted({rate.n for rate in rates if rate})
        n = "–".join(f"{n:,}" for n in dict.fromkeys((ends[0], ends[-1])))
        rows.append([row, n, *map(in_percent, rates)])
    return rows


def seeds_words(seeds: Sequence[int | None]) -> str:
    return f" ({len(seeds)} seeds)" if len(seeds) > 1 else ""


def difference_table(differences: Sequence[Difference]) -> list[list[str]]:
    """Heading and rows of one pair of runs, in points."""
    rows = [["", "difference", "p", "p (Holm)", "detectable", "test"]]
    for d in differences:
        ps = (p_words(d.p), p_words(d.p_holm))
        rows.append([d.row, in_points(d), *ps, detectable_words(d), test_words(d)])
    return rows


def by_pair(comparison: Comparison) -> list[tuple[str, list[Difference]]]:
    """`first − second` and its rows, in the order of the table."""
    found = groupby(comparison.differences, lambda d: (d.first, d.second))
    return [(f"{first} − {second}", list(rows)) for (first, second), rows in found]


# ----------------------------------------------------------------------------------------------
# Sentences
# ----------------------------------------------------------------------------------------------


def rate_words(comparison: Comparison) -> str:
    several = any(len(seeds) > 1 for seeds in comparison.seeds.values())
    single = any(len(seeds) == 1 for seeds in comparison.seeds.values())
    what = "for other seeds and other examples" if several else "for other examples"
    alone = "; of a single seed for other examples" if several and single else ""
    mean = "mean over seeds" if several else "one model"
    return f"Exact match in %: {mean} [95 % interval, {what}{alone}]; n examples of one seed."


def method_words(comparison: Comparison) -> str:
    n = sum(d.p is not None for d in comparison.differences)
    tests = f"{n} test{'s' * (n != 1)}"
    said = (
        f"Differences in points [95 %]. Holm: p adjusted for the {tests} of this table. "
        "Detectable: the smallest difference that the test at 5 %, taken alone, finds in 80 % of "
        "cases."
    )
    if any(d.over_seeds for d in comparison.differences):
        said += " Tests over seeds are for other seeds on these examples."
    if not all(d.over_seeds for d in comparison.differences):
        said += " Tests of two models are for other examples, and say nothing of other seeds."
    return said


def pair_sentences(differences: Sequence[Difference]) -> list[str]:
    """What stands out, what could have, and what each test could not take for granted."""
    names = [f"{d.row} ({in_points(d)})" for d in differences if d.stands_out]
    said = [f"After Holm there stands out: {', '.join(names)}." if names else ""]
    said = said if names else ["After Holm no difference stands out."]
    known = [d for d in differences if d.detectable is not None]
    if known:
        ends = [f(known, key=lambda d: d.detectable) for f in (min, max)]
        said.append(could_have(*ends))
    unknown = rows_by((d.sentence, d.row) for d in differences if d.detectable is None)
    said += [f"{capital(sentence)}: {rows}." for sentence, rows in unknown.items()]
    notes = rows_by((d.note, d.row) for d in differences if d.note)
    return said + [f"{rows}: {note}." for note, rows in notes.items()]


def rows_by(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Each sentence of (sentence, row) -> its rows, as `one, two`."""
    found: dict[str, list[str]] = {}
    for sentence, row in pairs:
        found.setdefault(sentence, []).append(row)
    return {sentence: ", ".join(rows) for sentence, rows in found.items()}


def could_have(least: Difference, most: Difference) -> str:
    """One sentence for the rows of a pair, from the easiest to see to the hardest."""
    if least.row == most.row or most.detectable >= 1:
        alone = f"{capital(most.sentence)} ({most.row})."
        return (
            alone if least.row == most.row else f"{capital(least.sentence)} ({least.row}). {alone}"
        )
    ends = [
        f"{100 * d.detectable:.1f} points ({d.row}{'' if same_n else f', {d.counts}'})"
        for same_n in [least.counts == most.counts]
        for d in (least, most)
    ]
    start = f"With {least.counts} a" if least.counts == most.counts else "A"
    return f"{start} difference under {' to '.join(ends)} would not reliably have stood out."


def capital(sentence: str) -> str:
    return sentence[0].upper() + sentence[1:]


# ----------------------------------------------------------------------------------------------
# Printed, Markdown, CSV
# ----------------------------------------------------------------------------------------------


def lines(comparison: Comparison) -> list[str]:
    """What plots.py prints; of more than MANY_PAIRS pairs only what stands out."""
    said = [*wrap(rate_words(comparison)), *columns(rate_table(comparison))]
    pairs = by_pair(comparison)
    if pairs:
        said += ["", *wrap(method_words(comparison))]
    for name, differences in pairs:
        said += ["", name]
        if len(pairs) <= MANY_PAIRS:
            said += columns(difference_table(differences))
        said += [line for sentence in pair_sentences(differences) for line in wrap(sentence)]
    notes = [line for note in comparison.notes for line in wrap(f"note: {note}")]
    return [*said, *([""] if notes else []), *notes, ""]


def wrap(text: str) -> list[str]:
    return textwrap.wrap(text, 100, break_long_words=False, break_on_hyphens=False)


def columns(table: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if i != 1 or table[0][1] != "n" else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in table
    ]


def markdown(comparison: Comparison) -> str:
    said = ["# Comparison", "", rate_words(comparison), "", *pipes(rate_table(comparison))]
    pairs = by_pair(comparison)
    if pairs:
        said += ["", method_words(comparison)]
    for name, differences in pairs:
        said += ["", f"## {escaped(name)}", "", *pipes(difference_table(differences)), ""]
        said += [escaped(" ".join(pair_sentences(differences)))]
    said += ["", *(f"- {escaped(note)}" for note in comparison.notes)] if comparison.notes else []
    return "\n".join(said) + "\n"


def pipes(table: Sequence[Sequence[str]]) -> list[str]:
    rows = ["| " + " | ".join(map(escaped, row)) + " |" for row in table]
    return [rows[0], "|" + "---|" * len(table[0]), *rows[1:]]


def escaped(text: str) -> str:
    """Characters that Markdown would take for its own, in names of runs and suites."""
    for character in ("\\", "|", "<", "*", "`", "_"):
        text = text.replace(character, f"\\{character}")
    return text


def write(comparison: Comparison, folder: Path) -> list[Path]:
    """Write comparison.csv and comparison.md; the paths."""
    texts = {"comparison.csv": csv_text(comparison), "comparison.md": markdown(comparison)}
    for name, text in texts.items():
        write_atomically(folder / name, text)
    return [folder / name for name in texts]


def csv_text(comparison: Comparison) -> str:
    """A line for every two runs in every row; without a second run where there is but one.

    Rates and differences are proportions, not per cent.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    sides = [f"{side}_{name}" for side in ("first", "second") for name in COLUMNS]
    tested = ("test", "difference", "low", "high", "p", "p_holm", "detectable", "sentence", "note")
    writer.writerow(["row", "first", "second", *sides, *tested, "first_tested", "second_tested"])
    by_place = {(rate.row, rate.run): rate for rate in comparison.rates}
    for d in comparison.differences:
        rates = [by_place[d.row, run] for run in (d.first, d.second)]
        numbers = [number for rate in rates for number in numbers_of(rate)]
        writer.writerow(
            [d.row, d.first, d.second, *numbers, *(getattr(d, key) for key in tested), *d.n]
        )
    in_pairs = {(d.row, run) for d in comparison.differences for run in (d.first, d.second)}
    for rate in comparison.rates:
        if (rate.row, rate.run) not in in_pairs:
            rest = [""] * (len(COLUMNS) + len(tested) + 2)
            writer.writerow([rate.row, rate.run, "", *numbers_of(rate), *rest])
    return out.getvalue()


def numbers_of(rate: Rate) -> list:
    """The values under COLUMNS."""
    return [rate.mean, rate.low, rate.high, rate.n, len(rate.values)]
