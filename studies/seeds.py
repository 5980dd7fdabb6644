"""What several seeds say: their validations, and their means and steps in words."""

import math
from pathlib import Path

import numpy as np

import metrics
from runtime.records import read_epochs, seed_folders


def validations(run: Path) -> list[list[dict]]:
    """The lines of metrics.jsonl of each seed that hold a validation; other epochs have one too."""
    each = [read_epochs(folder / "metrics.jsonl") for folder in seed_folders(run)]
    return [[line for line in lines if "val_exact_match" in line] for lines in each]


def mean_with_ends(values: list[float], digits: int = 2) -> str:
    """`1.23 [1.10, 1.36]`: Student's t over seeds."""
    mean, reach = float(np.mean(values)), metrics.seed_half_width(values)
    return ends_words(mean, mean - reach, mean + reach, digits)


def ends_words(value: float, low: float, high: float, digits: int = 2) -> str:
    """`1.23 [1.10, 1.36]`: an estimate and the ends of its interval."""
    return f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def p_words(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def difference_words(found: dict, times: float = 1, digits: int = 4) -> str:
    """`+0.0123 [+0.0100, +0.0146], p = 0.012`, of a dict as metrics.compare_seeds returns it.

    `p` is "p_holm" where the dict has one. What does not exist is left out.
    """
    ends = [found[key] for key in ("difference", "low", "high")]
    words = [f"{times * end:+.{digits}f}" for end in ends if end is not None]
    p = found.get("p_holm", found.get("p"))
    said = words[0] + (f" [{words[1]}, {words[2]}]" if len(words) == 3 else "")
    return said if p is None else f"{said}, {p_words(p)}"


def first_step(lines: list[dict], key: str) -> int | None:
    """The first validated step at which the rate is at least 95 %."""
    return next((line["step"] for line in lines if line[key] >= 0.95), None)


def steps_words(steps: list[int | None], last: int, unit: str = "") -> str:
    """`1,234 [1,000, 1,500] steps (8 of 8 seeds)`, the unit being " steps".

    That is the geometric mean with Student's t on the logarithm. Where some seeds are not there at
    the `last` step, the mean of the others would say too little: then it is the median, to which
    those count as later.
    """
    n_reached = sum(step is not None for step in steps)
    of_seeds = f"({n_reached} of {len(steps)} seeds)"
    if n_reached == len(steps) > 1:
        return f"{ratio_words(steps, ',.0f')}{unit} {of_seeds}"
    median = float(np.median([math.inf if step is None else step for step in steps]))
    words = f"more than {last:,}" if math.isinf(median) else f"{median:,.0f}"
    return f"{words}{unit} in the median {of_seeds}"


def ratio_words(values: list[float], form: str) -> str:
    """`100 [90, 111]`: the geometric mean, Student's t on the logarithm."""
    logs = [math.log10(value) for value in values]
    mean, reach = float(np.mean(logs)), metrics.seed_half_width(logs)
    value, low, high = (f"{10**end:{form}}" for end in (mean, mean - reach, mean + reach))
    return f"{value} [{low}, {high}]"
