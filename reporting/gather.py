"""What a page is made of: a run, and what the two evaluations wrote beside it."""

import csv
import json
from dataclasses import dataclass
from pathlib import Path

from plots import unique_names
from runtime.errors import UserError
from runtime.records import Run, load_run, ood_home, parse

RESULTS = "memorization_results.json"
RESULT_KEYS = {  # of memorization_results.json, as evaluate_memorization.py writes it
    *("panel", "claims", "budget", "budget_over_epochs", "by_repeat_count", "extraction"),
    *("membership", "dynamics", "order_effect", "lookup", "most_memorized", "exposure", "limem"),
    "self_tests",
}
TEXTS = ("task", "tag", "prompt", "answer", "nearest_training_prompt")
SWITCHES = ("canary", "wrong_answer")
NUMBERS = (  # of per_example.csv, those that a page shows
    *("repeat_count", "n_in", "n_out", "exact_in", "exact_out"),
    *("rule_bits", "memory_bits", "unexplained_bits", "nearest_training_distance"),
)


@dataclass(frozen=True)
class Records:
    """One run folder. `panel` and `predictions` are empty where no evaluation wrote them."""

    folder: Path
    run: Run
    panel: dict  # memorization_results.json
    examples: dict[str, list]  # column -> values of per_example.csv
    predictions: list[dict]  # lines of predictions.jsonl

    @property
    def name(self) -> str:
        return self.run.name


def gather(folders: list[Path]) -> list[Records]:
    """Read each folder once; UserError where one is no run or a file in it is damaged."""
    folders = list({folder.resolve(): folder for folder in folders}.values())
    return [read(folder, name) for folder, name in zip(folders, unique_names(folders), strict=True)]


def read(folder: Path, name: str) -> Records:
    run = load_run(folder, name)
    panel = read_results(folder / "memorization" / RESULTS)
    examples = read_examples(folder / "memorization" / "per_example.csv") if panel else {}
    predictions = read_predictions(ood_home(folder) / "predictions.jsonl") if run.ood else []
    return Records(folder, run, panel, examples, predictions)


def read_results(path: Path) -> dict:
    """memorization_results.json; {} where there is none."""
    if not path.is_file():
        return {}
    again = "write it again by evaluate_memorization.py"
    try:
        results = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not readable as JSON ({error}); {again}") from None
    if not isinstance(results, dict) or results.get("format") != 1:
        raise UserError(f"{path} should be an object of format 1; {again}")
    if missing := sorted(RESULT_KEYS - results.keys()):
        raise UserError(f"{path} lacks {', '.join(missing)}; {again}")
    return results


def read_examples(path: Path) -> dict[str, list]:
    """Column -> values of per_example.csv, None for an empty cell; {} where there is no file."""
    if not path.is_file():
        return {}
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    wanted = (*TEXTS, *SWITCHES, *NUMBERS)
    if rows and (missing := [name for name in wanted if name not in rows[0]]):
        raise UserError(
            f"{path} lacks the column {missing[0]}; write it again by evaluate_memorization.py"
        )
    columns = {name: [] for name in wanted}
    for line, row in enumerate(rows, start=2):
        try:
            for name in wanted:
                columns[name].append(cell(name, row[name]))
        except (TypeError, ValueError):
            raise UserError(
                f"{path}, row {line}, column {name} should be a number, not {row[name]!r}; write "
                "it again by evaluate_memorization.py"
            ) from None
    return columns


def cell(name: str, text: str):
    """A cell as evaluate_memorization.csv_cell took it.

    >>> cell("prompt", "'-3 + 1"), cell("canary", "0"), cell("exact_in", ""), cell("n_in", "7")
    ('-3 + 1', False, None, 7.0)
    """
    if name in TEXTS:
        return text.removeprefix("'")
    if name in SWITCHES:
        return bool(int(text))
    return float(text) if text else None


def read_predictions(path: Path) -> list[dict]:
    """The lines of predictions.jsonl; [] where there is no file."""
    if not path.is_file():
        return []
    lines = []
    for i, text in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            line = parse(text)
        except ValueError:
            line = None
        keys = ("suite", "task", "prompt", "answer")
        if not isinstance(line, dict) or any(not isinstance(line.get(k, ""), str) for k in keys):
            raise UserError(
                f"{path}, line {i}, is no prediction; write the file again by evaluate_ood.py"
            )
        lines.append(line)
    return lines
