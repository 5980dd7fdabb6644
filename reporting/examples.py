"""The examples that a page lists: of a panel those of its ledgers, of evaluations the predictions.

A page holds at most MOST examples and MOST_BYTES of them. Where there are more, each source (a
suite, or a part of a training set) gives as many as the others, those whose texts have the
smallest SHA-256: a random part, and the same one each time.
"""

import hashlib
import json
import math
from collections import defaultdict
from typing import NamedTuple

from metrics import wrong_spans
from reporting.gather import Records

MOST, MOST_BYTES = 5000, 450_000
OUTCOMES = {"correct": "right", "stopped_early": "stopped early", "ran_on": "ran on"}
OUTCOMES |= {"wrong_content": "wrong content", None: "not run"}


class Column(NamedTuple):
    """kind: "name" has few values and a filter, "code" is a text of the data; others: numbers."""

    key: str
    label: str
    kind: str
    about: str = ""


COLUMNS = (
    Column("prompt", "prompt", "code"),
    Column("answer", "answer", "code"),
    Column("prediction", "prediction", "code", "wrong characters marked"),
    Column("outcome", "outcome", "name"),
    Column("right", "seeds right", "share"),
    Column("source", "source", "name", "suite, or part of the training set"),
    Column("repeats", "repeats", "count", "rows in the whole training set"),
    Column("exact_in", "IN", "share", "exact match of replicas that trained on it"),
    Column("exact_out", "OUT", "share", "exact match of replicas that did not"),
    Column("rule", "rule", "bits", "bits of the answer known without having seen it"),
    Column("memory", "memory", "bits", "bits added by having seen it"),
    Column("unexplained", "unexplained", "bits", "bits that are left"),
    Column("log_prob", "log-prob.", "bits", "of the whole prediction, bits"),
    Column("neighbour", "nearest in training", "code", "the nearest other training prompt"),
    Column("distance", "edits", "count", "between the two prompts"),
    Column("task", "task", "name"),
    Column("run", "run", "name"),
)


def all_examples(records: list[Records]) -> list[dict]:
    rows = []
    for one in records:
        rows += of_panel(one) + of_predictions(one)
    return rows


def of_panel(records: Records) -> list[dict]:
    """A row for each training example and canary of a panel, most memory first."""
    table, rows = records.examples, []
    for i in range(len(table.get("prompt", ()))):
        source = "training"
        if table["canary"][i]:
            source = "canaries"
        elif table["wrong_answer"][i]:
            source = "training, wrong answers"
        rows.append(
            {
                "run": records.name,
                "source": source,
                "task": table["task"][i],
                "prompt": f"[{table['tag'][i]}] {table['prompt'][i]}",
                "answer": table["answer"][i],
                "repeats": table["repeat_count"][i],
                "exact_in": table["exact_in"][i],
                "exact_out": table["exact_out"][i],
                "rule": table["rule_bits"][i],
                "memory": table["memory_bits"][i],
                "unexplained": table["unexplained_bits"][i],
                "neighbour": table["nearest_training_prompt"][i] or None,
                "distance": table["nearest_training_distance"][i],
            }
        )
    return sorted(rows, key=lambda row: (row["memory"] is None, -(row["memory"] or 0)))


def of_predictions(records: Records) -> list[dict]:
    """A row for each example of the suites: the first seed's prediction, the share of seeds right.

    The lines of a seed stand in the same order in each, which evaluate_ood.py writes.
    """
    by_seed = defaultdict(list)
    for line in records.predictions:
        by_seed[line.get("seed", 0)].append(line)
    seeds = list(by_seed.values())
    alike = len(seeds) > 1 and all(len(lines) == len(seeds[0]) for lines in seeds)
    rows = []
    for i, line in enumerate(seeds[0] if seeds else ()):
        prediction, answer = line.get("prediction"), line.get("answer", "")
        n_right = sum(bool(lines[i].get("correct")) for lines in seeds) if alike else 0
        rows.append(
            {
                "run": records.name,
                "source": line.get("suite", "").removeprefix("ood_").replace("_", " "),
                "task": line.get("task"),
                "prompt": line.get("prompt", "").removesuffix(" | "),
                "answer": answer,
                "prediction": prediction,
                "outcome": OUTCOMES.get(line.get("kind"), line.get("kind")),
                "right": n_right / len(seeds) if alike else None,
                "log_prob": bits_of(line.get("log_prob")),
            }
        )
    return rows


def bits_of(nats: float | None) -> float | None:
    return None if nats is None else nats / math.log(2)


# ------------------------------------------------------------------------------------------------
# choice
# ------------------------------------------------------------------------------------------------


class Chosen(NamedTuple):
    rows: list[dict]
    rule: str  # how they were chosen


def choose(rows: list[dict], most: int = MOST, most_bytes: int = MOST_BYTES) -> Chosen:
    """At most `most` rows, and at most about `most_bytes` of them; the rows keep their order."""
    n, chosen = most, evenly(rows, most)
    while len(chosen) > 1 and (size := len(as_json(encode(chosen)).encode())) > most_bytes:
        n = int(0.95 * len(chosen) * most_bytes / size)
        chosen = evenly(rows, n)
    if len(chosen) == len(rows):
        return Chosen(chosen, f"All {len(rows):,} examples.")
    return Chosen(
        chosen,
        f"{len(chosen):,} of {len(rows):,} examples: each suite gives as many as the others, as "
        "far as it has them, those whose texts have the smallest SHA-256. The table sorts and "
        "filters these alone.",
    )


def as_json(value) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def evenly(rows: list[dict], most: int) -> list[dict]:
    if len(rows) <= most:
        return rows
    sources = defaultdict(list)
    for i, row in enumerate(rows):
        sources[row["run"], row["source"]].append(i)
    kept, left = [], most
    for k, (_, own) in enumerate(sorted(sources.items(), key=lambda item: len(item[1]))):
        n = left // (len(sources) - k)
        kept += sorted(own, key=lambda i: digest(rows[i]))[:n]
        left -= min(n, len(own))
    return [rows[i] for i in sorted(kept)]


def digest(row: dict) -> str:
    return hashlib.sha256(f"{row['prompt']} | {row['answer']}".encode()).hexdigest()


# ------------------------------------------------------------------------------------------------
# in the page
# ------------------------------------------------------------------------------------------------


def columns_of(rows: list[dict]) -> list[Column]:
    """The columns in which a row has a value; the run only where there are several."""
    known = {key for row in rows for key, value in row.items() if value is not None}
    if len({row["run"] for row in rows}) < 2:
        known.discard("run")
    return [column for column in COLUMNS if column.key in known]


def encode(rows: list[dict]) -> dict:
    """{"columns": [{"key", "label", "kind", "about", "values", "names"}], "wrong": [spans]}.

    Values of the kind "name" are places in "names"; numbers have four significant digits. "wrong"
    has for each row the places of wrong characters in its prediction, [start, end, …], or 0.
    """
    columns = []
    for column in columns_of(rows):
        values = [row.get(column.key) for row in rows]
        found = {**column._asdict()}
        if column.kind == "name":
            names = sorted({value for value in values if value is not None})
            place = {name: i for i, name in enumerate(names)}
            values = [place.get(value) for value in values]
            found["names"] = names
        elif column.kind != "code":
            values = [short(value) for value in values]
        columns.append({**found, "values": values})
    wrong = [[at for span in spans_of(row) for at in span] or 0 for row in rows]
    return {"columns": columns, "wrong": wrong}


def spans_of(row: dict) -> list[tuple[int, int]]:
    """Where the prediction of a row is wrong; [] where it is right or there is none."""
    prediction = row.get("prediction")
    return [] if prediction is None else wrong_spans(prediction, row["answer"])


def short(value: float | None) -> float | int | None:
    """A number of four significant digits, whole where it is.

    >>> short(3.0), short(0.123456), short(None)
    (3, 0.1235, None)
    """
    if value is None:
        return None
    value = float(f"{value:.4g}")
    return int(value) if value == int(value) else value
