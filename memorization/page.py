"""The printed page: what memorization_results.json says, in tables and one sentence a group."""

from collections.abc import Sequence
from typing import NamedTuple

from data.baselines import LOOKUPS
from memorization.measures import CANARIES, WRONG
from metrics import LEAST_REPLICAS, Z_95


class Table(NamedTuple):
    """A title, columns by name with their rows of texts, and what is to be said below them."""

    title: str
    names: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    notes: Sequence[str] = ()


def page(results: dict) -> list[str]:
    """All lines of the page, from what was read to the self-tests."""
    tables = (
        budget_table,
        repeat_table,
        exposure_table,
        membership_table,
        extraction_table,
        limem_table,
        dynamics_table,
        lookup_table,
        most_memorized_table,
    )
    found = [table(results) for table in tables]
    blocks = [header(results), *(lines_of(table) for table in found if table)]
    blocks += [sentences(results), lines_of(self_test_table(results))]
    return [line for block in blocks for line in (*block, "")][:-1]


# ----------------------------------------------------------------------------------------------
# Numbers in words
# ----------------------------------------------------------------------------------------------


def bits(value: float | None) -> str:
    return "-" if value is None else no_minus_zero(f"{value:.2f}")


def rate(value: float | None) -> str:
    return "-" if value is None else no_minus_zero(f"{value:.1%}")


def no_minus_zero(text: str) -> str:
    """`0.0` where rounding leaves `-0.0`."""
    return text if text.strip("-0.%") else text.removeprefix("-")


def with_ends(row: dict, key: str, show=bits) -> str:
    """`1.20 [1.10, 1.30]`, without the interval where there is none."""
    low, high = row[f"{key}_low"], row[f"{key}_high"]
    ends = "" if low is None else f" [{show(low)}, {show(high)}]"
    return show(row[key]) + ends


def lines_of(table: Table) -> list[str]:
    """The title, the columns and the notes, indented by two."""
    columns = aligned(table.names, table.rows) if table.names else []
    return [table.title, *columns, *(f"  {note}" for note in table.notes)]


def aligned(names: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns as wide as they need, the first to the left, the others to the right."""
    lines = [list(names), *(list(map(str, row)) for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(names))]

    def cells(line):
        first, *others = zip(line, widths, strict=True)
        return [first[0].ljust(first[1]), *(text.rjust(width) for text, width in others)]

    return ["  " + "  ".join(cells(line)).rstrip() for line in lines]


def shorten(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


# ----------------------------------------------------------------------------------------------
# Sections
# ----------------------------------------------------------------------------------------------


def header(results: dict) -> list[str]:
    about, claims = results["panel"], results["claims"]
    carried = [name.replace("_", " ") for name, allowed in claims.items() if allowed]
    enough = (
        f"enough for claims about {', '.join(carried)}"
        if carried
        else f"too few for any claim: means of groups need {LEAST_REPLICAS['group_means']}"
    )
    canaries = f", {about['n_canaries']:,} canaries" if about["n_canaries"] else ""
    followed = ""
    if about["n_train"] < about["n_distinct"]:
        followed = f" (the ledgers follow {about['n_train']:,} of them, drawn by key)"
    return [
        f"{about['folder']}: {about['replicas']} replicas, each trained on its own random "
        f"{about['n_members']:,} of {about['n_distinct']:,} examples{followed}{canaries}; "
        f"{about['n_held_out']:,} held-out examples",
        f"These are models of {about['n_members']:,} examples, read after epoch "
        f"{about['epochs'][-1]:,} (step {about['steps'][-1]:,}), the last of all replicas.",
        "IN: replicas that trained on an example. OUT: those that did not. Intervals: 95 %, over "
        "replicas.",
        f"{about['replicas']} replicas are {enough}.",
    ]


def budget_table(results: dict) -> Table:
    rows = [
        (
            row["group"],
            f"{row['n']:,}",
            bits(row["bits"]),
            with_ends(row, "rule"),
            with_ends(row, "memory"),
            with_ends(row, "unexplained"),
            f"{bits(row['ngram_rule'])} of {bits(row['ngram_bits'])}",
        )
        for row in results["budget"]
    ]
    names = ("group", "n", "bits", "rule", "memory", "unexplained", "rule over a 3-gram")
    legal = {row["baseline"] for row in results["budget"]}
    n_left_out = sum(row["n_left_out"] for row in results["budget"])
    notes = [
        f"bits: the answer's under an even guess among {' or a '.join(sorted(legal))}; mean of an "
        "example"
    ]
    if n_left_out:
        notes += [f"n: without examples that every replica trained on, or none did: {n_left_out:,}"]
    return Table(
        "Bit budget: bits of an answer = rule (known without having seen it) + memory (added by "
        "having seen it) + unexplained",
        names,
        rows,
        notes,
    )


def repeat_table(results: dict) -> Table:
    names = ("answers", "repeats", "n", "IN", "OUT", "memory", "permuted ±", "memory, bits")
    rows = []
    for kind, table_rows in results["by_repeat_count"].items():
        for row in table_rows:
            exact, sd = row["exact"], row["exact"]["null"]["sd"]
            rows.append(
                (
                    kind,
                    row["repeat_count"],
                    f"{row['n']:,}",
                    rate(exact["in"]),
                    rate(exact["out"]),
                    with_ends(exact, "memory", rate),
                    "-" if sd is None else rate(Z_95 * sd),
                    with_ends(row["bits"], "memory"),
                )
            )
    return Table(
        "Memory by repeat count: exact match IN minus OUT, and bits; beside it what permuted masks "
        "give",
        names,
        rows,
    )


def exposure_table(results: dict) -> Table | None:
    found = results["exposure"]
    if not found:
        return None
    rows = [
        (
            row["repeat_count"],
            f"{row['n']:,}",
            row["n_canaries"],
            with_ends(row, "exposure"),
            bits(row["most"]),
            bits(row["expected"]),
            f"{bits(row['null_low'])} to {bits(row['null_high'])}",
        )
        for row in found["rows"]
    ]
    names = ("repeats", "pairs", "canaries", "exposure", "at most", "without memory")
    names += ("95 % of those",)
    how = f"all {found['most_candidates']:,} at most"
    if found["n_sampled"]:
        how = f"for {found['n_sampled']} canaries {found['sample']:,} of them drawn at random"
    return Table(
        "Exposure of canaries, bits: log2(candidates) - log2(rank). Candidates: the legal answers "
        f"of the canary's form but the true one ({how})",
        names,
        rows,
    )


def membership_table(results: dict) -> Table:
    found, rows = results["membership"], []
    for name, row in found["attacks"].items():
        null = found["null"][name]
        rows.append(
            (
                name,
                with_ends(row, "auc", "{:.3f}".format) if row["auc"] is not None else "-",
                with_ends(row, "tpr_at_fpr_0.01", rate),
                "-" if null["auc"] is None else f"{null['auc']:.3f}",
                rate(null["tpr_at_fpr_0.01"]),
            )
        )
    blind = found["blind"]
    rows.append(
        (
            "blind",
            with_ends(blind, "auc", "{:.3f}".format) if blind["auc"] is not None else "-",
            "",
            "",
            "",
        )
    )
    names = ("attack", "AUC", "TPR at 1 % FPR", "AUC, permuted", "TPR, permuted")
    return Table(
        "Membership inference: was this replica trained on this example? blind: from tag, lengths "
        "and 3-gram alone",
        names,
        rows,
        [
            "the interval of TPR takes pairs of replica and example for independent; that of blind "
            "is what permuted masks give"
        ],
    )


def extraction_table(results: dict) -> Table:
    notes, rows = [], []
    for kind, found in results["extraction"].items():
        for row in found["curve"]:
            rows.append(
                (
                    kind,
                    f"{row['samples']:,}",
                    with_ends(row, "in", rate),
                    with_ends(row, "out", rate),
                    with_ends(row, "memory", rate),
                )
            )
        slope = found["slope"]
        if slope["slope"] is not None:
            notes.append(
                f"{kind} answers: exact match IN minus OUT grows as repeat count to the power "
                f"of {with_ends(slope, 'slope')} ({slope['n_counts']} counts)"
            )
        elif weak := slope["weak_counts"]:
            notes.append(
                f"{kind} answers: no power of the repeat count; memory at "
                f"{', '.join(map(str, weak))} is not told from none"
            )
    names = ("answers", "samples", "IN", "OUT", "memory")
    return Table(
        "Extraction: examples whose answer is drawn within so many samples, with probability 1/2",
        names,
        rows,
        notes,
    )


def limem_table(results: dict) -> Table | None:
    found = results["limem"]
    if not found or found["train"] is None:
        return None
    said = (
        f"trained on {with_ends(found, 'train', rate)}, unseen {with_ends(found, 'unseen', rate)}, "
        f"difference {with_ends(found, 'difference', rate)}; {found['n']} and "
        f"{found['n_held_out']} examples"
    )
    return Table(
        "LiMem: right on an example, wrong on one like it (a rule gives 0, a lookup table its "
        "exact match)",
        notes=[said],
    )


def dynamics_table(results: dict) -> Table:
    rows = [
        (
            row["group"],
            rate(row["learned_in"]),
            number(row["median_epoch_in"]),
            rate(row["learned_out"]),
            number(row["median_epoch_out"]),
            bits(row["forgetting_events"]),
            bits(row["forgetting_expected"]),
        )
        for row in results["dynamics"]
    ]
    names = ("group", "learned IN", "epoch", "learned OUT", "epoch", "forgotten", "by chance")
    kept, replicas, unsure = results["panel"]["epochs"], results["panel"]["replicas"], []
    if not results["claims"]["distributions"]:
        few = f"{replicas} replicas are too few for distributions"
        unsure = [f"{few}: noise alone lifts some examples above one half"]
    about = (
        f"kept epochs: {', '.join(map(str, kept))}; forgotten: turns from right to wrong between "
        "them, per IN replica"
    )
    return Table(
        "Dynamics: examples that half of the replicas get right from some kept epoch on, and its "
        "median",
        names,
        rows,
        [about, *unsure, *order_notes(results)],
    )


def order_notes(results: dict) -> list[str]:
    """Whether what was trained on last is known best; [] where the ledgers do not say when."""
    measured = {k: row for k, row in results["order_effect"].items() if row["mean"] is not None}
    if not measured:
        return []
    each = "; ".join(
        f"{kind} answers {row['mean']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}]"
        if row["low"] is not None
        else f"{kind} answers {row['mean']:+.3f}"
        for kind, row in measured.items()
    )
    return [
        "order: rank correlation of the step at which a replica last trained on an example with "
        f"the log-probability of its answer: {each}; above 0, the last ones are known best"
    ]


def number(value: float | None) -> str:
    return "-" if value is None else f"{value:g}"


def lookup_table(results: dict) -> Table:
    keys = ("exact_match", *LOOKUPS, "chance")
    rows = [(row["group"], row["n"], *(rate(row[k]) for k in keys)) for row in results["lookup"]]
    names = ("held out", "n", "replicas", "nearest prompt", "longest suffix", "majority", "chance")
    return Table("What lookup in one replica's training rows would score:", names, rows)


def most_memorized_table(results: dict) -> Table:
    found, claims = results["most_memorized"], results["claims"]
    if not claims["group_means"] or not found["examples"]:
        return Table(
            f"Examples most memorized: none is named. That takes {LEAST_REPLICAS['group_means']} "
            "replicas, and in each half of them two that trained on an example and two that did "
            "not."
        )
    answered = any("out_answers" in row for row in found["examples"])
    rows = [
        (
            shorten(f"[{row['tag']}] {row['prompt']} | {row['answer']}", 40),
            row["repeat_count"],
            bits(row["chosen_bits"]),
            bits(found["null_maximum_high"]),
            with_ends(row, "measured_bits"),
            rate(row["exact_in"]),
            rate(row["exact_out"]),
            *([out_answers(row.get("out_answers", {}))] if answered else []),
        )
        for row in found["examples"]
    ]
    names = ["example", "repeats", "chosen at", "null maximum", "memory, bits", "IN", "OUT"]
    names += ["OUT replicas answer"] if answered else []
    kept = sum(row["measured_bits_low"] > 0 for row in found["examples"])
    replicas = results["panel"]["replicas"]
    notes = [
        "one half of the replicas chooses them, by the largest memory, which so is overstated; "
        f"what the other half measures is not: {kept} of {len(rows)} intervals lie above 0"
    ]
    if not claims["names"]:
        notes.append(
            f"{replicas} replicas are too few to name examples: other replicas may name others"
        )
    return Table(
        "Examples most memorized; null maximum: the largest memory among all examples that "
        "permuted masks give the half that chooses, 95 % quantile",
        names,
        rows,
        notes,
    )


def out_answers(counts: dict) -> str:
    """The commonest answers of OUT replicas: `506 12×, 507 3×`."""
    commonest = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:3]
    return ", ".join(f"{shorten(text, 20)} {n}×" for text, n in commonest)


def sentences(results: dict) -> list[str]:
    """One verdict a group, canaries last."""
    rows = right_answers_first(results["budget"])
    few = "" if results["claims"]["group_means"] else " (too few replicas to claim it)"
    return [f"In one sentence{few}:", *(f"  {sentence(row)}" for row in rows)]


def right_answers_first(rows: list[dict]) -> list[dict]:
    return sorted(rows, key=lambda row: row["group"].endswith((WRONG, CANARIES)))


def sentence(row: dict) -> str:
    """`add: 6.1 of 8.4 bits by rule [5.9, 6.3], 1.9 by memory [1.7, 2.1], 0.4 unexplained`."""
    if row["bits"] is None:
        return f"{row['group']}: no example has replicas on both sides"

    def one(value: float) -> str:
        return no_minus_zero(f"{value:.1f}")

    return (
        f"{row['group']}: {one(row['rule'])} of {one(row['bits'])} bits by rule"
        f"{interval(row, 'rule', one)}, {one(row['memory'])} by memory"
        f"{interval(row, 'memory', one)}, {one(row['unexplained'])} unexplained"
    )


def interval(row: dict, key: str, show) -> str:
    low, high = row[f"{key}_low"], row[f"{key}_high"]
    return "" if low is None else f" [{show(low)}, {show(high)}]"


def self_test_table(results: dict) -> Table:
    rows = []
    for test in results["self_tests"]:
        verdict = {True: "passed", False: "FAILED", None: "no value"}[test["passed"]]
        tolerance = "" if test["tolerance"] is None else f" ± {test['tolerance']:.3f}"
        found = "-" if test["value"] is None else no_minus_zero(f"{test['value']:.3f}")
        wanted = f"{'at most ' if test['at_most'] else ''}{test['expected']:.3g}{tolerance}"
        rows.append((test["name"], found, wanted, test["unit"], verdict))
    names = ("self-test", "found", "must be", "unit", "result")
    return Table("Self-tests: what must come out whatever the models do", names, rows)
