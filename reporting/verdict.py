"""One sentence a task: learned the rule, memorized, both or undecided; what would decide it."""

import math
import re
from dataclasses import dataclass

from data.baselines import LOOKUPS
from memorization.page import interval, no_minus_zero, right_answers_first
from metrics import (
    LEAST_REPLICAS,
    WORTH_NAMING,
    difference_interval,
    is_there,
    verdict,
    wilson_interval,
)
from plots import percent, pool
from reporting.gather import Records
from runtime.records import in_order

HEADLINES = {
    "rule": "Learned the rule",
    "memory": "Memorized",
    "both": "Both; which is larger is open",
    "neither": "Neither yet",
    "undecided": "Undecided",
}
PARTLY = {"rule": "Learned a part of the rule", "memory": "Memorized a part"}  # less than half
PANEL = "A panel (--subset 0.5 --seeds 0-31) tells rule and memory apart, example by example."


@dataclass(frozen=True)
class Verdict:
    """`parts` are [(name, share)] of a bar from 0 to 1, [] where they cannot be drawn as one."""

    task: str
    headline: str
    sentence: str
    advice: str
    parts: list[tuple[str, float]]


def verdicts(records: Records, tasks: list[str]) -> list[Verdict]:
    """Of the panel where there is one, else of the last models; [] where neither was measured."""
    if records.panel:
        replicas = records.panel["panel"]["replicas"]
        rows = right_answers_first(records.panel["budget"])
        return [of_budget(row, replicas) for row in rows]
    return of_models(records, tasks)


# ------------------------------------------------------------------------------------------------
# a panel
# ------------------------------------------------------------------------------------------------


def of_budget(row: dict, replicas: int) -> Verdict:
    """The verdict of one group of a panel, from its bit budget."""
    if row["bits"] is None:
        return Verdict(
            row["group"], HEADLINES["undecided"], "No example has replicas on both sides.", "", []
        )
    least, parts = WORTH_NAMING * row["bits"], ("rule", "memory")
    known = {part: ends_of(row, part) for part in parts}
    enough = replicas >= LEAST_REPLICAS["group_means"]
    there = {part: is_there(*known[part], least) if enough else None for part in parts}
    sentence = typeset(
        f"Of {row['bits']:.1f} bits of an answer, the rule gives {one(row['rule'])}"
        f"{interval(row, 'rule', one)}, memory {one(row['memory'])}{interval(row, 'memory', one)}; "
        f"{row['unexplained']:.1f} stay unexplained. n = {row['n']:,} examples, "
        f"{replicas} replicas."
    )
    shares = [(part, row[part] / row["bits"]) for part in (*parts, "unexplained")]
    drawable = all(share >= 0 for _, share in shares)
    return Verdict(
        row["group"],
        headline(there["rule"], there["memory"], known["rule"], known["memory"], row["bits"]),
        sentence,
        advice_to_panel(there, replicas),
        shares if drawable else [],
    )


def typeset(text: str) -> str:
    """Minus signs where hyphens stand before digits, and no line break before a per cent sign.

    >>> typeset("-1.5 [-2, 1] of non-words"), typeset("5 % of it") == "5\\u00a0% of it"
    ('−1.5 [−2, 1] of non-words', True)
    """
    return re.sub(r"(?<!\w)-(?=\d)", "−", text).replace(" %", "\u00a0%")


def one(value: float) -> str:
    return no_minus_zero(f"{value:.1f}")


def ends_of(row: dict, part: str) -> tuple[float, float, float]:
    values = (row[f"{part}{end}"] for end in ("", "_low", "_high"))
    return tuple(math.nan if value is None else value for value in values)


def headline(rule: bool | None, memory: bool | None, rule_ends, memory_ends, whole: float) -> str:
    """The verdict in words; of both parts the larger one, where their intervals lie apart.

    A part that is there alone is called a part where it makes less than half of the `whole`.
    """
    said = verdict(rule, memory)
    values = {"rule": rule_ends[0], "memory": memory_ends[0]}
    named = {part: (HEADLINES if 2 * values[part] >= whole else PARTLY)[part] for part in values}
    if said == "undecided" and (rule or memory):
        known, other = ("rule", "memory") if rule else ("memory", "a rule")
        return f"{named[known]}; {other} undecided"
    if said in named:
        return named[said]
    if said == "both":
        if memory_ends[1] > rule_ends[2]:
            return "Both, mostly memory"
        if rule_ends[1] > memory_ends[2]:
            return "Both, mostly the rule"
    return HEADLINES[said]


def advice_to_panel(there: dict, replicas: int) -> str:
    least = LEAST_REPLICAS["group_means"]
    if replicas < least:
        return f"{replicas} replicas decide nothing; {least} are the least (--seeds 0-{least - 1})."
    if None in there.values():
        return f"More replicas than {replicas} would narrow these intervals and decide it."
    if not any(there.values()):
        return "Most of the answer is unexplained; longer training would tell."
    return ""


# ------------------------------------------------------------------------------------------------
# a run without a panel
# ------------------------------------------------------------------------------------------------


def of_models(records: Records, tasks: list[str]) -> list[Verdict]:
    """From exact match of each task: unseen against lookup, and training examples against unseen.

    Training examples are those that stand least often in the training set, mostly once.
    """
    found = [rows_of_model(model) for model in records.run.memorization]
    names = in_order(set.intersection(*map(set, found)), tasks) if found else []
    unseen = all(m.get("held_out", "unseen") == "unseen" for m in records.run.memorization)
    return [of_task(task, [rows[task] for rows in found], unseen) for task in names]


def rows_of_model(model: dict) -> dict[str, dict]:
    """Task -> {"held": its row on held-out examples, "counts": repeat count -> its row}."""
    rows = {row["group"]: {"held": row, "counts": {}} for row in model.get("by_task", [])}
    for group in model["by_repeat_count"]:
        for row in group.get("by_task", []):
            if group["group"] and row["group"] in rows:
                rows[row["group"]]["counts"][group["group"]] = row
    return rows


def of_task(task: str, seeds: list[dict], unseen: bool) -> Verdict:
    held = pool([rows["held"] for rows in seeds])
    n, of = seeds[0]["held"]["n"], "unseen" if unseen else "seen"
    right = f"{percent(held.value)} {span(held)} of {n:,} {of} examples are right"
    counts = sorted(set.intersection(*(set(rows["counts"]) for rows in seeds)))
    if not unseen or not counts:
        why = (
            "every validation example stands in the training set"
            if not unseen
            else "its tasks stand in the training set at no common count, so none were compared"
        )
        return Verdict(task, HEADLINES["undecided"], f"{right}, but {why}.", PANEL, [])
    once, most = ([rows["counts"][count] for rows in seeds] for count in (counts[0], counts[-1]))
    gap = pool(once, minus=[rows["held"] for rows in seeds])
    base, how = lookup_of([rows["held"] for rows in seeds])
    above = above_base(held, base)
    rule = is_there(*above, WORTH_NAMING)
    memory = is_there(*gap[:3], WORTH_NAMING)
    sentence = (
        f"{right}{how}; of training examples that stand {times(counts[0])}, "
        f"{percent(pool(once).value)}, a difference of {100 * gap.value:+.1f} points "
        f"{span(gap, signed=True)}"
    )
    said = headline(rule, memory, above, gap[:3], 1)
    repeated = pool(most, minus=once) if len(counts) > 1 else None
    if repeated and is_there(*repeated[:3], WORTH_NAMING):
        sentence += (
            f"; those that stand {times(counts[-1])} {100 * repeated.value:+.1f} more "
            f"{span(repeated, signed=True)}"
        )
        if verdict(rule, memory) == "rule":
            said += ", and memorized what repeats"
    seeds_words = f" Mean of {len(seeds)} seeds." if len(seeds) > 1 else ""
    advice = advice_to_models(rule, memory, n, base[0])
    rates = [("unseen", held.value), ("training", pool(once).value)]
    return Verdict(task, said, typeset(f"{sentence}.{seeds_words}"), advice, rates)


def lookup_of(rows: list[dict]) -> tuple[tuple[float, float, float], str]:
    """The best exact match without a rule with its 95 % interval, and how it is said; 0 if unknown.

    Of several seeds the mean. Lookup was measured on the held-out examples; chance is known.
    """
    found = {}
    for name in LOOKUPS:
        asked = [row["lookup"] for row in rows if name in row.get("lookup", {})]
        rate = sum(lookup[name] for lookup in asked) / len(asked) if asked else 0.0
        n = asked[0]["n"] if asked and "n" in asked[0] else rows[0]["n"]
        found[f"lookup ({name})"] = (rate, *wilson_interval(round(rate * n), n))
    chance = sum(row.get("chance", 0.0) for row in rows) / len(rows)
    found["chance"] = (chance,) * 3
    best = max(found, key=lambda name: found[name][0])
    known = any("lookup" in row or "chance" in row for row in rows)
    if not known:
        return (0.0,) * 3, ""
    return found[best], f", where {best} would give {percent(found[best][0])}"


def above_base(held, base: tuple[float, float, float]) -> tuple[float, float, float]:
    """Exact match less what needs no rule, (value, low, high)."""
    return held.value - base[0], *difference_interval((held.value, held.low, held.high), base)


def span(point, signed: bool = False) -> str:
    low, high = (f"{100 * end:{'+' if signed else ''}.1f}" for end in (point.low, point.high))
    return f"[{low}, {high}]"


def times(count: int) -> str:
    return "once" if count == 1 else f"{count:,} times"


def advice_to_models(rule: bool | None, memory: bool | None, n: int, base: float) -> str:
    if base > 1 - WORTH_NAMING:
        return (
            "What needs no rule is right already: these examples cannot show that one was learned."
        )
    if rule is None or memory is None:
        return f"More validation examples than {n:,}, or more seeds, would decide it. {PANEL}"
    if not rule and not memory:
        return "Nothing was learned that lookup does not give; longer training would tell."
    return ""
