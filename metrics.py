"""What is measured, and how: pure functions from predictions, answers and scores to numbers.

    >>> from metrics import failure_kinds, summarize, wilson_interval
    >>> summarize(["46", "1"], ["46", "123"])
    {'n': 2, 'exact_match': 0.5, ... 'failures': {'stopped_early': 1, 'ran_on': 0, ...}}
    >>> failure_kinds(["4", "467"], ["46", "46"])
    ['stopped_early', 'ran_on']
    >>> wilson_interval(490, 500)
    (0.96357..., 0.98910...)

A `prediction` is the text that greedy decoding wrote after the prompt, up to but without `<eos>`,
or up to a cap longer than the answer where no `<eos>` came; a token that is no character stands in
it as U+FFFD. So a prediction equals its answer as text exactly when the model also stopped in the
right place. Characters are the tokens.

Functions of one example return one value per example (numpy). Functions that end in a table return
a dict of plain Python values, ready for JSON, in which a number that does not exist is None; plain
functions return nan for it. Wrong input raises ValueError with the offending values. Nothing here
reads files, prints, or draws unseeded random numbers.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Sequence
from functools import lru_cache
from operator import eq
from statistics import NormalDist

import numpy as np
from rapidfuzz.distance import Levenshtein
from rapidfuzz.process import cdist

CORRECT = "correct"
FAILURES = ("stopped_early", "ran_on", "wrong_content")

# ------------------------------------------------------------------------------------------------
# checks
# ------------------------------------------------------------------------------------------------


def _check_same_length(**columns: Sequence) -> None:
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"lengths differ: {lengths}")


def _texts(name: str, texts: Sequence[str]) -> list[str]:
    if isinstance(texts, str):
        raise ValueError(f"{name} must be a sequence of texts, got the single text {texts!r}")
    return list(texts)


def _pairs(predictions: Sequence[str], answers: Sequence[str]) -> list[tuple[str, str]]:
    predictions, answers = _texts("predictions", predictions), _texts("answers", answers)
    _check_same_length(predictions=predictions, answers=answers)
    return list(zip(predictions, answers, strict=True))


def _as_bool(name: str, values: Sequence[bool]) -> np.ndarray:
    array = np.asarray(values)
    other = array[~np.isin(array, (0, 1))]
    if array.ndim != 1 or other.size:
        raise ValueError(f"{name} must be [n] of True and False, got {array.shape} with {other}")
    return array.astype(bool)


def _as_finite(name: str, values: Sequence[float]) -> np.ndarray:
    array = np.asarray(values, dtype=np.float64)
    other = array[~np.isfinite(array)]
    if array.ndim != 1 or other.size:
        raise ValueError(f"{name} must be [n] and finite, got {array.shape} with {other}")
    return array


def _within(means: float | np.ndarray, values: np.ndarray) -> float | np.ndarray:
    # Rounding can put the mean of equal values just outside them, and error bars below 0.
    return np.clip(means, values.min(), values.max())


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


# ------------------------------------------------------------------------------------------------
# one prediction against its answer
# ------------------------------------------------------------------------------------------------


def exact_match(predictions: Sequence[str], answers: Sequence[str]) -> np.ndarray:
    """The prediction is the answer, character for character, `<eos>` included. bool [n]."""
    return np.array([p == a for p, a in _pairs(predictions, answers)], dtype=bool)


def oracle_length_exact_match(predictions: Sequence[str], answers: Sequence[str]) -> np.ndarray:
    """The first len(answer) characters are right, whatever follows. bool [n].

    What exact match would be if the model were told where to stop; never below it. The two differ
    by the predictions that ran on (`failure_kinds`).
    """
    return np.array([p.startswith(a) for p, a in _pairs(predictions, answers)], dtype=bool)


def token_accuracy(predictions: Sequence[str], answers: Sequence[str]) -> np.ndarray:
    """Characters that are right at their position, over the longer length. float64 [n], 0..1.

    1 exactly when the prediction is the answer (two empty texts: 1). Missing and surplus characters
    count as wrong. Measured on the decoded text, so an early slip shifts all that follows;
    `edit_distance` forgives shifts.
    """
    return np.array(
        [
            sum(map(eq, p, a)) / max(len(p), len(a)) if p or a else 1.0
            for p, a in _pairs(predictions, answers)
        ],
        dtype=np.float64,
    )


def edit_distance(predictions: Sequence[str], answers: Sequence[str]) -> np.ndarray:
    """Levenshtein distance over the longer length. float64 [n], 0 (equal) .. 1 (nothing kept).

    Fewest insertions, deletions and substitutions of one character, each at cost 1 (Levenshtein
    1966), divided by max(len(prediction), len(answer)); two empty texts: 0.
    """
    distances = [Levenshtein.normalized_distance(p, a) for p, a in _pairs(predictions, answers)]
    return np.array(distances, dtype=np.float64)


def failure_kinds(predictions: Sequence[str], answers: Sequence[str]) -> list[str]:
    """For each prediction one of `correct`, `stopped_early`, `ran_on`, `wrong_content`.

    stopped_early: a proper prefix of the answer (the empty prediction is one of every answer).
    ran_on: the answer is a proper prefix of the prediction. wrong_content: neither. The four are
    exclusive, and `correct` or `ran_on` is the same as oracle-length exact match.
    """

    def kind(prediction: str, answer: str) -> str:
        if prediction == answer:
            return CORRECT
        if answer.startswith(prediction):
            return "stopped_early"
        return "ran_on" if prediction.startswith(answer) else "wrong_content"

    return [kind(p, a) for p, a in _pairs(predictions, answers)]


# ------------------------------------------------------------------------------------------------
# intervals
# ------------------------------------------------------------------------------------------------


SIGNIFICANCE = 0.05  # two-sided: of tests, and what 95 % intervals leave out
Z_95 = NormalDist().inv_cdf(1 - SIGNIFICANCE / 2)


def _score_interval(p: float, n: float) -> tuple[float, float]:
    """Wilson's interval of the rate p of n examples; n need not be whole."""
    z = Z_95
    center = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    # At the edges the ends are exactly 0 and 1; rounding would leave them 1e-17 inside or outside.
    return 0.0 if p == 0 else center - half, 1.0 if p == 1 else center + half


def wilson_interval(successes: int, n: int) -> tuple[float, float]:
    """Wilson's 95 % score interval for one rate, (low, high) within 0..1; (nan, nan) for n = 0.

    With p = successes / n and z = 1.96, the normal quantile at 0.975:
    (p + z²/2n ± z sqrt(p(1 - p)/n + z²/4n²)) / (1 + z²/n). Unlike p ± z·se it keeps its width at
    rates of 0 and 1. Assumes n independent examples: repeated rows must be counted once. Wilson
    1927; recommended by Brown, Cai and DasGupta 2001. ValueError unless successes and n are whole
    numbers with 0 <= successes <= n (a rate in place of a count is refused, unless it is 0 or 1).
    """
    if not (0 <= successes <= n < math.inf and successes == int(successes) and n == int(n)):
        raise ValueError(f"need whole numbers 0 <= successes <= n, got {successes} of {n}")
    if n == 0:
        return math.nan, math.nan
    return _score_interval(int(successes) / int(n), int(n))


def newcombe_interval(k1: int, n1: int, k2: int, n2: int) -> tuple[float, float]:
    """95 % interval for p1 - p2 = k1/n1 - k2/n2, independent samples; (low, high) within -1..1.

    `difference_interval` of the Wilson intervals of both rates: Newcombe 1998, method 10.
    (nan, nan) if either n is 0. ValueError as in `wilson_interval`.
    """
    ends1, ends2 = wilson_interval(k1, n1), wilson_interval(k2, n2)
    if n1 == 0 or n2 == 0:
        return math.nan, math.nan
    return difference_interval((float(k1 / n1), *ends1), (float(k2 / n2), *ends2))


def difference_interval(
    first: tuple[float, float, float], second: tuple[float, float, float]
) -> tuple[float, float]:
    """Interval for p1 - p2 from (p, l, u) of two independent estimates with their own intervals.

    low = d - sqrt((p1 - l1)² + (u2 - p2)²), high = d + sqrt((u1 - p1)² + (p2 - l2)²), d = p1 - p2:
    MOVER (Howe 1974; Zou and Donner 2008). Where both intervals are 95 % ones, so is this.
    """
    (p1, low1, high1), (p2, low2, high2) = first, second
    d = p1 - p2
    return d - math.hypot(p1 - low1, high2 - p2), d + math.hypot(high1 - p1, p2 - low2)


def t_tail(t: float, degrees: float, shift: float = 0.0) -> float:
    """P(|T| >= |t|) of Student's t, for a `shift` other than 0 of the noncentral t.

    T = (Z + shift) / S with Z standard normal and S = sqrt(chi²(degrees) / degrees); `degrees` need
    not be whole. The normal tail is averaged over S, by the trapezoidal rule in log S: there the
    integrand decays at both ends, so that the error falls faster than any power of the step.
    ValueError for degrees <= 0 or nan.
    """
    if not degrees > 0 or math.isnan(t) or math.isnan(shift):
        raise ValueError(f"need numbers and degrees > 0, got {t}, {degrees} and {shift}")
    reach = math.sqrt(45 / degrees)  # beyond it S has a share below e^-45
    log_s = np.linspace(-45 / degrees - 2 * reach, reach, 2001)
    weights = np.exp(degrees * (log_s - np.expm1(2 * log_s) / 2))
    tails = np.zeros(len(log_s))
    for side in (-1, 1):
        beyond = (abs(t) * np.exp(log_s) - side * shift) / math.sqrt(2)
        tails += [math.erfc(z) / 2 for z in beyond.tolist()]
    return min(1.0, float(weights @ tails / weights.sum()))


def _least(holds: Callable[[float], bool], most: float) -> float:
    """The smallest x from 0 to `most` from which on `holds` is true, within `most` / 2^30."""
    low, high = 0.0, most
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


@lru_cache(maxsize=1024)
def t_quantile(degrees: float) -> float:
    """The t that |T| exceeds in 5 % of cases; degrees >= 1."""
    return _least(lambda t: t_tail(t, degrees) <= SIGNIFICANCE, 20.0)


def seed_half_width(values: Sequence[float]) -> float:
    """Half of the 95 % interval for the mean of one value per seed, if examples were never redrawn.

    Student's t * s / sqrt(n) with n - 1 degrees of freedom; 0 for a single seed, which says nothing
    of others. A percentile bootstrap, the usual choice, is too narrow for few seeds: of nominal
    95 % intervals of normal values, measured, 75 % held the true mean with 3 seeds and 84 % with 5;
    of these, 95 %.
    """
    values = _as_finite("values", values)
    n = len(values)
    if n < 2 or not np.ptp(values):  # rounding would give equal values a spread
        return 0.0
    return float(t_quantile(n - 1) * values.std(ddof=1) / math.sqrt(n))


def example_interval(rights: np.ndarray) -> tuple[float, float]:
    """95 % interval for the mean rate of these S seeds on other examples of the same kind.

    rights bool [S, n]: the same n examples in every seed. Wilson's interval with n over the design
    effect in place of n (Kish 1965): the variance over examples of the share of seeds that are
    right, over what it would be if all seeds were right on the same examples. So n counts S times
    where seeds err on different examples, once where they err on the same. z²/2 examples that all
    seeds have right and as many that all have wrong are added to estimate it: a few errors prove no
    difference between seeds. For one seed this is `wilson_interval`.
    """
    shares, n, z = rights.mean(axis=0), rights.shape[1], Z_95  # shares [n]
    p = (shares.sum() + z * z / 2) / (n + z * z)
    design_effect = ((shares @ shares + z * z / 2) / (n + z * z) - p * p) / (p - p * p)
    return _score_interval(float(shares.mean()), n / design_effect)


def paired_interval(differences: Sequence[float]) -> tuple[float, float]:
    """95 % interval for how much more often one model is right than another on the same examples.

    differences float [n], -1..1: of each example right in the one (1 or 0) minus right in the
    other, or the mean of that over seeds. Half an example is added to each of the four outcomes of
    a pair (Agresti and Min 2005), so that a few pairs that agree do not look certain. Only examples
    that the two answer differently widen it, as in McNemar's test. (nan, nan) for none.
    """
    d = _as_finite("differences", differences)
    if not len(d):
        return math.nan, math.nan
    n = len(d) + 2
    mean = d.sum() / n
    half = Z_95 * math.sqrt(((d @ d + 1) / n - mean * mean) / n)
    return max(-1.0, float(mean - half)), min(1.0, float(mean + half))


# ------------------------------------------------------------------------------------------------
# tables: rates with n and interval
# ------------------------------------------------------------------------------------------------


def rate(correct: Sequence[bool]) -> dict:
    """{"n", "exact_match", "exact_match_low", "exact_match_high"} of bool [n], Wilson 95 %."""
    correct = _as_bool("correct", correct)
    n, k = len(correct), int(correct.sum())
    low, high = wilson_interval(k, n)
    return {
        "n": n,
        "exact_match": k / n if n else None,
        "exact_match_low": _or_none(low),
        "exact_match_high": _or_none(high),
    }


def summarize(predictions: Sequence[str], answers: Sequence[str]) -> dict:
    """Every metric of a set of predictions in one dict.

    The keys of `rate`; "oracle_length_exact_match", "token_accuracy" and "edit_distance" (means
    over the n examples, 0..1); "failures", the number of each kind in FAILURES. For n = 0 the means
    are None and the counts 0.
    """
    n = len(answers)
    kinds = Counter(failure_kinds(predictions, answers))

    def mean(values: np.ndarray) -> float | None:
        return float(values.mean()) if n else None

    return {
        **rate(exact_match(predictions, answers)),
        "oracle_length_exact_match": mean(oracle_length_exact_match(predictions, answers)),
        "token_accuracy": mean(token_accuracy(predictions, answers)),
        "edit_distance": mean(edit_distance(predictions, answers)),
        "failures": {kind: kinds[kind] for kind in FAILURES},
    }


def outcomes(
    examples: Sequence[Hashable] | None,
    correct: Sequence[bool],
    loss: Sequence[float] | None = None,
) -> dict:
    """What `over_seeds` reads beside a rate, as texts: {"examples": "a b d", "outcomes": "101"}.

    examples [n] are names without spaces that mean the same example in every seed and run; None
    where they are the same without saying. correct bool [n]. With loss float [n], "losses" to 4
    digits.
    """
    correct = _as_bool("correct", correct)
    _check_same_length(correct=correct, **({} if examples is None else {"examples": examples}))
    named = {} if examples is None else {"examples": " ".join(map(str, examples))}
    losses = {} if loss is None else {"losses": " ".join(f"{value:.4g}" for value in loss)}
    return {**named, "outcomes": "".join("1" if c else "0" for c in correct), **losses}


def by_group(
    groups: Sequence[Hashable],
    correct: Sequence[bool],
    loss: Sequence[float] | None = None,
    examples: Sequence[Hashable] | None = None,
) -> list[dict]:
    """`rate` for each group, with "group" and the group's mean "loss" (None if not given), sorted.

    groups [n] holds repeat counts, levels or names; numbers come before texts, None comes last.
    correct bool [n]; loss float [n] in nats, finite. Each group has its "outcomes", and with
    examples [n], their names, all keys of `outcomes`. For repeat counts give each distinct example
    once: copies of a row are answered alike, and would only narrow the interval.
    """
    correct = _as_bool("correct", correct)
    groups = [g.item() if isinstance(g, np.generic) else g for g in groups]
    _check_same_length(groups=groups, correct=correct)
    if loss is not None:
        loss = _as_finite("loss", loss)
        _check_same_length(groups=groups, loss=loss)
    if examples is not None:
        _check_same_length(groups=groups, examples=examples)
    rows = defaultdict(list)
    for row, group in enumerate(groups):
        rows[group].append(row)

    def of_group(own: list[int]) -> dict:
        losses = None if loss is None else loss[own]
        if examples is None:
            texts = outcomes(None, correct[own])
        else:
            texts = outcomes([examples[i] for i in own], correct[own], losses)
        mean = None if losses is None else float(losses.mean())
        return {**rate(correct[own]), "loss": mean, **texts}

    ordered = sorted(rows, key=lambda g: (g is None, isinstance(g, str), g))
    return [{"group": group, **of_group(rows[group])} for group in ordered]


def generalization_gap(
    train_correct: Sequence[bool],
    unseen_correct: Sequence[bool],
    train_examples: Sequence[Hashable] | None = None,
) -> dict:
    """Train exact match minus unseen exact match, with Newcombe's 95 % interval.

    Returns {"train", "unseen", "gap", "low", "high", "n_train", "n_unseen"}; gap, low and high in
    -1..1, None where either sample is empty. Both samples should have the same task mix and
    lengths, or the gap measures those as well. Unseen examples should be distinct. Where training
    rows are not, train_examples [n_train] says which are of one example: these are answered alike,
    so the interval takes n² / sum(k²) rows in place of n, k rows of an example (Kish 1965).
    """
    train = _as_bool("train_correct", train_correct)
    unseen = _as_bool("unseen_correct", unseen_correct)
    p_train, p_unseen = rate(train)["exact_match"], rate(unseen)["exact_match"]
    if train_examples is None:
        low, high = newcombe_interval(int(train.sum()), len(train), int(unseen.sum()), len(unseen))
    elif p_train is None or p_unseen is None:
        low = high = math.nan
    else:
        _check_same_length(train_correct=train, train_examples=train_examples)
        rows_of_each = np.array(list(Counter(train_examples).values()))
        n = len(train) ** 2 / (rows_of_each @ rows_of_each)
        low, high = difference_interval(
            (p_train, *_score_interval(p_train, n)),
            (p_unseen, *_score_interval(p_unseen, len(unseen))),
        )
    return {
        "train": p_train,
        "unseen": p_unseen,
        "gap": None if p_train is None or p_unseen is None else p_train - p_unseen,
        "low": _or_none(low),
        "high": _or_none(high),
        "n_train": len(train),
        "n_unseen": len(unseen),
    }


def _shared_outcomes(rows: Sequence[dict]) -> np.ndarray | None:
    """bool [S, n] of rows that have `outcomes` of the same n examples; None where they have not."""
    if not all("outcomes" in row for row in rows):
        return None
    texts = [row["outcomes"] for row in rows]
    same = len({(row.get("examples"), len(text)) for row, text in zip(rows, texts, strict=True)})
    return np.array([np.array(list(text)) == "1" for text in texts]) if same == 1 else None


def _reach(rows: Sequence[dict]) -> tuple[float, float]:
    """How far below and above its mean a rate of these seeds may lie on other examples."""
    rights = _shared_outcomes(rows)
    if rights is not None:
        low, high = example_interval(rights)
        return float(rights.mean()) - low, high - float(rights.mean())
    # Standard deviations of a mean are at most the mean of standard deviations, whatever the seeds
    # have in common.
    rates = [(row["exact_match"], *_score_interval(row["exact_match"], row["n"])) for row in rows]
    below, above = np.mean([(p - low, high - p) for p, low, high in rates], axis=0)
    return float(below), float(above)


def _paired_reach(rows: Sequence[dict], minus: Sequence[dict]) -> tuple[float, float] | None:
    """How far a difference on the same named examples may lie from its mean on other examples."""
    if not all(row.get("examples") for row in (*rows, *minus)):
        return None
    right, right_minus = _shared_outcomes(rows), _shared_outcomes(minus)
    if right is None or right_minus is None or rows[0]["examples"] != minus[0]["examples"]:
        return None
    differences = right.mean(axis=0) - right_minus.mean(axis=0)
    low, high = paired_interval(differences)
    return max(0.0, differences.mean() - low), max(0.0, high - differences.mean())


def over_seeds(rows: Sequence[dict], minus: Sequence[dict] | None = None) -> dict:
    """Mean over seeds of a rate, or of its difference to the rate in `minus`, other examples there.

    rows holds one dict a seed, as `rate` returns it: "exact_match" 0..1 and "n" >= 1, and for a
    narrower interval the keys of `outcomes`. Returns {"n_seeds", "mean", "low", "high", "values"}.

    The 95 % interval is for new seeds and new examples of the same kind, both drawn at random. The
    seeds share their examples, so Student's t over seeds alone is too narrow: with 20 seeds that
    find the same examples hard it held the true rate in 40 % of simulated cases. The variance over
    other examples is added: low = mean - sqrt(t² s²/S + (p - l)²), high alike, where l is from
    `example_interval`, or without outcomes the mean over seeds of their Wilson intervals, which are
    about as wide or wider. A difference has the example term of both sides (MOVER: Howe 1974; Zou
    and Donner 2008), or, where both name the same "examples", that of `paired_interval`. So one
    seed has Wilson's interval, or Newcombe's, and equal seeds do not look
    certain. tests/test_intervals.py simulates how often it holds the true rate.
    """
    for row in (*rows, *(minus or ())):
        if not (0 <= row["exact_match"] <= 1 and 1 <= row["n"] < math.inf):
            raise ValueError(f"need exact_match within 0..1 and n >= 1: {row}")
    if minus is not None:
        _check_same_length(rows=rows, minus=minus)
    if not rows:
        return {"n_seeds": 0, "mean": None, "low": None, "high": None, "values": []}
    values = np.array([row["exact_match"] for row in rows], dtype=np.float64)
    below, above = _reach(rows)
    if minus is not None:
        values = values - [row["exact_match"] for row in minus]
        base_below, base_above = _reach(minus)
        apart = math.hypot(below, base_above), math.hypot(above, base_below)
        below, above = _paired_reach(rows, minus) or apart
    half = seed_half_width(values)
    mean = float(_within(values.mean(), values))
    return {
        "n_seeds": len(rows),
        "mean": mean,
        "low": max(0.0 if minus is None else -1.0, mean - math.hypot(half, below)),
        "high": min(1.0, mean + math.hypot(half, above)),
        "values": values.tolist(),
    }


def repeat_effects(seeds: Sequence[Sequence[dict]]) -> list[dict]:
    """What repetition is worth: exact match at each repeat count minus that at count 1.

    seeds holds, for each seed of one run, its rows of `by_group` over repeat counts, 0 for unseen
    examples. One dict for each count above 1 that every seed has, ascending; the first compares
    count 1 with 0. Returns {"repeat_count", "minus", "n", "n_minus", "n_seeds", "difference",
    "low", "high", "values"}: n are the examples of one seed. The difference is taken within each
    seed ("values"), so that how good the seed is overall cancels; the interval is that of
    `over_seeds`, for other seeds and other examples, and Newcombe's if there is one seed.
    """
    by_count = [{row["group"]: row for row in rows if row["n"]} for rows in seeds]
    shared = sorted(set.intersection(*map(set, by_count))) if by_count else []
    effects = []
    for count, base in [(count, min(count - 1, 1)) for count in shared if count >= 1]:
        if base not in shared:
            continue
        repeated, fewer = ([rows[group] for rows in by_count] for group in (count, base))
        stats = over_seeds(repeated, minus=fewer)
        effects.append(
            {
                "repeat_count": count,
                "minus": base,
                "n": repeated[0]["n"],
                "n_minus": fewer[0]["n"],
                "n_seeds": stats["n_seeds"],
                "difference": stats["mean"],
                **{key: stats[key] for key in ("low", "high", "values")},
            }
        )
    return effects


def task_and_outcome(row: dict) -> dict[str, tuple[str, bool]]:
    """example -> (task, right) of a row of repeat counts; {} where its examples have no names."""
    names, outcomes_of_row = row.get("examples", "").split(), row.get("outcomes", "")
    cells = [(cell["group"], int(cell.get("n", 0))) for cell in row.get("by_task", ())]
    if not len(names) == len(outcomes_of_row) == sum(n for _, n in cells):
        return {}
    tasks = [task for task, n in cells for _ in range(n)]
    rights = (character == "1" for character in outcomes_of_row)
    return dict(zip(names, zip(tasks, rights, strict=True), strict=True))


def matched_repeat_effects(repeated: Sequence[Sequence[dict]], once: Sequence[Sequence[dict]]):
    """What repetition is worth on the very same examples: right where repeated minus where once.

    repeated and once hold, for the same seeds in the same order, the rows of `by_group` over repeat
    counts of two runs, with "examples", "outcomes" and in "by_task" the "group" and "n" of each
    task, in that order. One dict for each count of `repeated` and each task, "all" of them first:
    {"repeat_count", "task", "n", "n_seeds", "repeated", "once" (mean exact match), "difference",
    "low", "high", "values"}, over the examples that stand once in the other run and that every seed
    has. Count 1 and 0 (unseen in both) compare the runs where nothing differs but their training as
    a whole: what the repeated examples gain beyond that is repetition. The interval is that of
    `over_seeds` on paired examples.
    """
    effects = []
    tables = [[{row["group"]: row for row in rows} for rows in run] for run in (repeated, once)]
    counts = set.intersection(*map(set, tables[0])) if tables[0] else set()
    for count in sorted(counts):
        pair = [
            [task_and_outcome(rows.get(group, {})) for rows in run]
            for run, group in zip(tables, (count, min(count, 1)), strict=True)
        ]
        shared = set.intersection(*(set(found) for found in (*pair[0], *pair[1])))
        names = [name for name in pair[0][0] if name in shared]
        task_of = {name: pair[0][0][name][0] for name in names}
        tasks = sorted(set(task_of.values()))
        for task in ["all", *tasks] if len(tasks) > 1 else tasks:
            own = [name for name in names if task in ("all", task_of[name])]
            with_repeats, without = ([_rate_of(found, own) for found in seeds] for seeds in pair)
            effects.append({"repeat_count": count, "task": task, "n": len(own)})
            effects[-1] |= _difference(with_repeats, without)
    return effects


def _rate_of(found: dict[str, tuple[str, bool]], names: list[str]) -> dict:
    right = [found[name][1] for name in names]
    return {**rate(right), **outcomes(names, right)}


def _difference(repeated: Sequence[dict], once: Sequence[dict]) -> dict:
    stats = over_seeds(repeated, minus=once)
    means = {
        name: float(np.mean([row["exact_match"] for row in rows]))
        for name, rows in (("repeated", repeated), ("once", once))
    }
    ends = {key: stats[key] for key in ("low", "high", "values")}
    return {"n_seeds": stats["n_seeds"], **means, "difference": stats["mean"], **ends}


# ------------------------------------------------------------------------------------------------
# comparisons: which of two is right more often, and what difference could have been seen
# ------------------------------------------------------------------------------------------------

POWER = 0.8  # the share of repetitions in which a test finds the difference


@lru_cache(maxsize=1024)
def t_detectable(degrees: float) -> float:
    """The difference in standard errors that a t test at 5 %, two-sided, finds in 80 % of cases.

    The shift of the noncentral t that lies beyond `t_quantile` with probability 0.8 (Cohen 1988,
    chapter 2; what TTestPower and TTestIndPower of statsmodels solve). 5.65 for 3 paired seeds,
    2.80 for very many; degrees >= 1.
    """
    t = t_quantile(degrees)
    return _least(lambda shift: t_tail(t, degrees, shift) >= POWER, 20.0)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """p values adjusted for all that stand here, in their order; None where no test was made.

    The i-th smallest of m is multiplied by m + 1 - i, and none is below a smaller one's (Holm
    1979). Whatever the tests have in common, an adjusted p below 0.05 anywhere comes by chance in
    at most 5 % of such tables.
    """
    made = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    adjusted, highest = [None] * len(p_values), 0.0
    for rank, (p, i) in enumerate(made):
        if not 0 <= p <= 1:
            raise ValueError(f"p must lie between 0 and 1, got {p}")
        highest = max(highest, min(1.0, (len(made) - rank) * p))
        adjusted[i] = highest
    return adjusted


def mcnemar_p(only_first: int, only_second: int) -> float:
    """Exact two-sided p of McNemar's test: of the examples that only one of two models has right.

    If both were as good, each of these would fall to either by a fair coin: twice the binomial
    probability of a split at least as uneven (McNemar 1947; Fay 2010). 1 where there are none.
    """
    if not (only_first >= 0 and only_second >= 0):
        raise ValueError(f"need counts >= 0, got {only_first} and {only_second}")
    n, fewer = int(only_first + only_second), int(min(only_first, only_second))
    logs = _log2_factorials(n)
    k = np.arange(fewer + 1)
    return min(1.0, float(2 * np.exp2(logs[n] - logs[k] - logs[n - k] - n).sum()))


def _comparison(test: str, n: tuple[int, int], difference: float, **found: float) -> dict:
    keys = ("low", "high", "p", "detectable")
    beside = {key: _or_none(found.get(key, math.nan)) for key in keys}
    return {"test": test, "n": list(n), "difference": float(difference), **beside}


def compare_models(first: Sequence[bool], second: Sequence[bool]) -> dict:
    """Two models on the same n examples, bool [n] each: McNemar's exact test.

    Returns {"test", "n" [n, n], "difference" (first minus second, -1..1), "low", "high" (95 %, of
    `paired_interval`), "p", "detectable"}; None where a number does not exist. All of it is about
    these two models on other examples, and says nothing of other seeds.

    "detectable" is the smallest difference d that the test at 5 % would find in 80 % of such sets
    of examples. It solves n d² = (1.960 sqrt(q) + 0.842 sqrt(q - d²))² (Connor 1987), where q is
    the share of examples that only one of the two has right, as observed and at least d. The
    formula is of the test without a correction for whole numbers: the exact test finds d in 75 to
    80 % (50 to 2,500 examples).
    """
    first, second = _as_bool("first", first), _as_bool("second", second)
    _check_same_length(first=first, second=second)
    n = len(first)
    if not n:
        raise ValueError("need at least one example")
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    low, high = paired_interval(first.astype(float) - second)
    z_power = NormalDist().inv_cdf(POWER)

    def found(d: float) -> bool:
        q = max((only_first + only_second) / n, d)
        return n * d * d >= (Z_95 * math.sqrt(q) + z_power * math.sqrt(q - d * d)) ** 2

    return _comparison(
        "McNemar",
        (n, n),
        (only_first - only_second) / n,
        low=low,
        high=high,
        p=mcnemar_p(only_first, only_second),
        detectable=_least(found, 1.0) if found(1.0) else math.nan,
    )


FISHER = "Fisher's exact"


def fisher_p(k1: int, n1: int, k2: int, n2: int) -> float:
    """Fisher's exact two-sided p of k1 of n1 and k2 of n2, at any n.

    Of the ways to share out all k1 + k2 right answers, the probability of those that are no
    likelier than what was seen (Fisher 1922).
    """
    k = k1 + k2
    first, last = max(0, k - n2), min(k, n1)  # right ones of the first side
    x = np.arange(first, last, dtype=float)
    # P(x + 1) / P(x) = (k - x) (n1 - x) / ((x + 1) (n2 - k + x + 1))
    steps = np.log((k - x) * (n1 - x)) - np.log((x + 1) * (n2 - k + x + 1))
    logs = np.concatenate([[0.0], np.cumsum(steps)])
    likelihood = np.exp(logs - logs.max())
    seen = likelihood[k1 - first]
    no_likelier = likelihood <= seen * (1 + 1e-7)  # rounding parts what is equal
    return float(likelihood[no_likelier].sum() / likelihood.sum())


def compare_rates(k1: int, n1: int, k2: int, n2: int) -> dict:
    """Two models on different examples, k1 of n1 and k2 of n2 right: Fisher's exact test.

    As `compare_models`, with Newcombe's interval. "detectable" is 2.80 of the standard errors
    sqrt(p1 (1 - p1)/n1 + p2 (1 - p2)/n2), None where both are 0 (Cohen 1988, chapter 6, at the
    observed rates): of the test without a correction for whole numbers. ValueError as in
    `wilson_interval`, and for n = 0.
    """
    low, high = newcombe_interval(k1, n1, k2, n2)
    if n1 == 0 or n2 == 0:
        raise ValueError(f"need at least one example each, got {n1} and {n2}")
    p1, p2 = k1 / n1, k2 / n2
    spread = math.sqrt(p1 * (1 - p1) / n1 + p2 * (1 - p2) / n2)
    return _comparison(
        FISHER,
        (int(n1), int(n2)),
        p1 - p2,
        low=low,
        high=high,
        p=fisher_p(k1, n1, k2, n2),
        detectable=(Z_95 + NormalDist().inv_cdf(POWER)) * spread or math.nan,
    )


def compare_seeds(first: Sequence[float], second: Sequence[float], paired: bool) -> dict:
    """Means over seeds of two runs, one value a seed: Student's t.

    As `compare_models`; "n" are the seeds. "test" is "paired t" where `paired`: first [S] and
    second [S] are of the same seeds, in the same order. Otherwise it is "Welch's t" (Welch 1947),
    or "unpaired t" with the variance of the larger side where one has a single seed. All of it is
    for other seeds on the same examples.

    "detectable" is `t_detectable` times the observed standard error of the difference. A spread
    seen in few seeds is itself uncertain: the true one of 3 may be 0.5 to 6.3 times it (95 %).
    Where the values have no spread, t has no scale: "p" is 1 if the means are equal and otherwise
    None, as are the interval and "detectable". ValueError for fewer than 2 seeds in all, or in a
    pair.
    """
    a, b = _as_finite("first", first), _as_finite("second", second)
    sizes = len(a), len(b)
    if paired:
        _check_same_length(first=a, second=b)
    if min(sizes) < 1 or max(sizes) < 2:
        raise ValueError(f"need 2 seeds on a side and one on the other, got {sizes}")
    difference = float((a - b).mean() if paired else a.mean() - b.mean())
    error, degrees = _standard_error(a, b, paired)
    test = "paired t" if paired else "Welch's t" if min(sizes) > 1 else "unpaired t"
    if not error:
        same = math.isclose(a.mean(), b.mean(), abs_tol=1e-12)
        return _comparison(test, sizes, 0.0 if same else difference, p=1.0 if same else math.nan)
    half = t_quantile(degrees) * error
    return _comparison(
        test,
        sizes,
        difference,
        low=difference - half,
        high=difference + half,
        p=t_tail(difference / error, degrees),
        detectable=t_detectable(degrees) * error,
    )


def _standard_error(a: np.ndarray, b: np.ndarray, paired: bool) -> tuple[float, float]:
    """(standard error of the difference of means, degrees of freedom); 0 without any spread."""

    def variance(values: np.ndarray) -> float:  # rounding would give equal values a spread
        return float(values.var(ddof=1)) if np.ptp(values) > 1e-12 else 0.0

    if paired:
        return math.sqrt(variance(a - b) / len(a)), len(a) - 1.0
    if min(len(a), len(b)) == 1:
        longer = max(a, b, key=len)
        return math.sqrt(variance(longer) * (1 + 1 / len(longer))), len(longer) - 1.0
    parts = np.array([variance(a) / len(a), variance(b) / len(b)])
    total = float(parts.sum())
    if not total:
        return 0.0, math.nan
    return math.sqrt(total), total**2 / float((parts**2 / [len(a) - 1, len(b) - 1]).sum())


# ------------------------------------------------------------------------------------------------
# memorization: predictions against the training set
# ------------------------------------------------------------------------------------------------


def copied_answers(
    predictions: Sequence[str], answers: Sequence[str], train_answers: Sequence[str]
) -> np.ndarray:
    """The prediction is wrong and is the answer of another training example. bool [n].

    Where answers are few (sums of small numbers, single letters) most wrong predictions are some
    training answer by chance: read the share per task, beside how many of `answers` themselves
    occur among the training answers.
    """
    in_train = set(_texts("train_answers", train_answers))
    return np.array([p != a and p in in_train for p, a in _pairs(predictions, answers)], dtype=bool)


def nearest_training_example(
    texts: Sequence[str], train_texts: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Distance to the nearest training text, and the first row that has it.

    Returns distance float64 [n] in 0..1 (Levenshtein over the longer length, as `edit_distance`)
    and index int64 [n] into train_texts. Exact, ties to the lowest index. Compare like with like:
    whole lines `[tag] prompt | prediction` with whole training lines, or prompts with prompts; a
    bare answer is near to some training answer whatever the model learned. ValueError if there are
    texts but no train_texts.

    Memory is bounded by blocks of 512 x 4096 distances (16 MiB); uses every core.
    """
    texts, train_texts = _texts("texts", texts), _texts("train_texts", train_texts)
    if texts and not train_texts:
        raise ValueError(f"no training text to compare {len(texts)} texts with")
    first_row = {}
    for row, text in enumerate(train_texts):
        first_row.setdefault(text, row)
    distinct, rows = list(first_row), np.array(list(first_row.values()), dtype=np.int64)
    scorer = Levenshtein.normalized_distance
    distance = np.full(len(texts), np.inf)
    index = np.zeros(len(texts), dtype=np.int64)
    for i in range(0, len(texts), 512):
        block_distance, block_index = distance[i : i + 512], index[i : i + 512]  # views
        for j in range(0, len(distinct), 4096):
            block, train_block = texts[i : i + 512], distinct[j : j + 4096]
            table = cdist(block, train_block, scorer=scorer, dtype=np.float64, workers=-1)
            column = table.argmin(axis=1)
            nearest = table[np.arange(len(table)), column]
            closer = nearest < block_distance
            block_distance[closer] = nearest[closer]
            block_index[closer] = rows[j + column[closer]]
    return distance, index


def ngram_overlap(
    predictions: Sequence[str], train_answers: Sequence[str], n: int = 3
) -> np.ndarray:
    """Share of a prediction's character n-grams that occur in some training answer.

    float64 [number of predictions], 0..1; nan for a prediction shorter than n. N-grams are counted
    at each position, repeats included. One minus the novelty of McCoy et al. 2023 ("How much do
    language models copy from their training data?"). ValueError for n < 1.
    """
    predictions = _texts("predictions", predictions)
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")

    def ngrams(text: str) -> list[str]:
        return [text[i : i + n] for i in range(len(text) - n + 1)]

    distinct_answers = set(_texts("train_answers", train_answers))
    in_train = {gram for answer in distinct_answers for gram in ngrams(answer)}
    rows = [[gram in in_train for gram in ngrams(prediction)] for prediction in predictions]
    return np.array([sum(row) / len(row) if row else np.nan for row in rows], dtype=np.float64)


MOST_SEARCHED = 500  # prompts whose nearest training prompt is searched


def compare_with_training(
    predictions: Sequence[str],
    answers: Sequence[str],
    prompts: Sequence[str],
    tags: Sequence[str],
    train_answers: Sequence[str],
    train_prompts: Sequence[str],
    train_tags: Sequence[str],
) -> dict:
    """How predictions for unseen prompts lean on the training set; like with like, tag by tag.

    Returns {"wrong_predictions": {"n", "answer_of_another_example" (count of `copied_answers`),
    "true_answers_in_training" (its base rate: how many of the answers they should have been are
    the answer of a training example too), "nearest_distance_right",
    "nearest_distance_wrong"}, "ngram_overlap": {"n", "right", "wrong"}}. Distances are means of
    `nearest_training_example` between prompts, of at most MOST_SEARCHED prompts chosen at random:
    the search is quadratic. None where nothing was there to average.
    """
    right = exact_match(predictions, answers)
    tags, train_tags = (
        np.asarray(_texts("tags", tags)),
        np.asarray(_texts("train_tags", train_tags)),
    )
    _check_same_length(predictions=predictions, prompts=prompts, tags=tags)
    _check_same_length(answers=train_answers, prompts=train_prompts, tags=train_tags)
    searched = np.random.default_rng(0).permutation(len(right))[:MOST_SEARCHED]
    copied = np.zeros(len(right), dtype=bool)
    known = np.zeros(len(right), dtype=bool)
    overlap, distance = (np.full(len(right), np.nan) for _ in range(2))
    for tag in np.unique(tags):
        rows, train_rows = np.flatnonzero(tags == tag), np.flatnonzero(train_tags == tag)
        theirs = [train_answers[i] for i in train_rows]
        ours, truth = [predictions[i] for i in rows], [answers[i] for i in rows]
        copied[rows] = copied_answers(ours, truth, theirs)
        known[rows] = np.isin(truth, theirs)
        overlap[rows] = ngram_overlap(ours, theirs)
        near = np.intersect1d(rows, searched)
        if len(near) and len(train_rows):
            distance[near] = nearest_training_example(
                [prompts[i] for i in near], [train_prompts[i] for i in train_rows]
            )[0]
    nearest, grams = compare_scores(distance, right), compare_scores(overlap, right)
    return {
        "wrong_predictions": {
            "n": int((~right).sum()),
            "answer_of_another_example": int(copied.sum()),
            "true_answers_in_training": int((known & ~right).sum()),
            "nearest_distance_right": nearest["right"],
            "nearest_distance_wrong": nearest["wrong"],
        },
        "ngram_overlap": {"n": 3, "right": grams["right"], "wrong": grams["wrong"]},
    }


# ------------------------------------------------------------------------------------------------
# scores: how sure the model was
# ------------------------------------------------------------------------------------------------


def _mid_ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1; equal values share their mean rank. float64 [n]."""
    _, place, ties = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(ties) - (ties - 1) / 2)[place]


def auroc(scores: Sequence[float], correct: Sequence[bool]) -> float:
    """Probability that a right prediction scores above a wrong one, ties counting half. 0..1.

    Area under the ROC curve by mean ranks (Mann and Whitney 1947; Hanley and McNeil 1982): 0.5 says
    that the score tells nothing, below 0.5 that wrong predictions score higher. nan if all are
    right or all are wrong. scores float [n], finite; correct bool [n].
    """
    scores, correct = _as_finite("scores", scores), _as_bool("correct", correct)
    _check_same_length(scores=scores, correct=correct)
    n_right = int(correct.sum())
    n_wrong = len(correct) - n_right
    if not (n_right and n_wrong):
        return math.nan
    return float(
        (_mid_ranks(scores)[correct].sum() - n_right * (n_right + 1) / 2) / (n_right * n_wrong)
    )


def compare_scores(scores: Sequence[float], correct: Sequence[bool]) -> dict:
    """Mean score of right and of wrong predictions, and how well the score tells them apart.

    Returns {"right", "wrong", "n_right", "n_wrong", "auroc"}. A nan score (undefined, such as the
    overlap of a prediction that is too short) is left out, of the counts as well. None where a side
    is empty. ValueError for an infinite score.
    """
    scores, correct = np.asarray(scores, dtype=np.float64), _as_bool("correct", correct)
    _check_same_length(scores=scores, correct=correct)
    defined = ~np.isnan(scores)
    scores, correct = _as_finite("scores", scores[defined]), correct[defined]
    right, wrong = scores[correct], scores[~correct]
    return {
        "right": float(right.mean()) if len(right) else None,
        "wrong": float(wrong.mean()) if len(wrong) else None,
        "n_right": len(right),
        "n_wrong": len(wrong),
        "auroc": _or_none(auroc(scores, correct)),
    }


# ------------------------------------------------------------------------------------------------
# panels: many models, each trained on its own part of the examples
#
# `members` bool [R, N]: replica r trained on example i (IN) or did not (OUT). `outcome` [R, N]:
# what replica r makes of example i at one fixed step, either exact match (0 or 1) or `log2_probs`,
# the log2-probability of the whole answer and its <eos> in bits, <= 0: a sum over its tokens.
# ------------------------------------------------------------------------------------------------


def _panel(outcome: np.ndarray, members: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    outcome, members = np.asarray(outcome, dtype=np.float64), np.asarray(members)
    if outcome.ndim != 2 or outcome.shape != members.shape or not len(outcome):
        raise ValueError(
            f"outcome and members must both be [R, N] with R >= 1, got {outcome.shape} and "
            f"{members.shape}"
        )
    if not np.isin(members, (0, 1)).all():
        raise ValueError("members must hold only True and False")
    if not np.isfinite(outcome).all():
        raise ValueError(f"outcome must be finite, got {outcome[~np.isfinite(outcome)]}")
    return outcome, members.astype(bool)


def _places(groups: Sequence[Hashable] | None, n: int) -> tuple[list, np.ndarray]:
    """Names of the groups, sorted as in `by_group`, and the place of each example's among them."""
    if groups is None:
        return ["all"], np.zeros(n, dtype=np.int64)
    groups = [g.item() if isinstance(g, np.generic) else g for g in groups]
    if len(groups) != n:
        raise ValueError(f"lengths differ: {len(groups)} groups for {n} examples")
    names = sorted(set(groups), key=lambda g: (g is None, isinstance(g, str), g))
    place = {name: i for i, name in enumerate(names)}
    return names, np.array([place[g] for g in groups], dtype=np.int64)


def _divide(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a / b, nan where b is 0 or less."""
    a, b = np.broadcast_arrays(np.asarray(a, dtype=np.float64), b)
    return np.divide(a, b, out=np.full(a.shape, np.nan), where=b > 0)


def _in_and_out(outcome: np.ndarray, members: np.ndarray) -> tuple[np.ndarray, ...]:
    """(n_in, n_out, sum_in, sum_out) of each example, [N] each."""
    n_in, sum_in = members.sum(axis=0), outcome.sum(axis=0, where=members)
    return n_in, len(members) - n_in, sum_in, outcome.sum(axis=0, where=~members)


def jackknife_interval(estimate: float, left_out: Sequence[float]) -> tuple[float, float]:
    """95 % interval over replicas, (low, high), for a number computed from all R of them.

    left_out float [R]: the same number with replica r left out. estimate ∓ t sqrt((R - 1) / R
    sum_r (left_out_r - their mean)²), Student's t with R - 1 degrees of freedom (Tukey 1958; Efron
    and Tibshirani 1993, chapter 11). (nan, nan) for fewer than 2 replicas, and where some number is
    nan because it hangs on a single replica.

    All examples share the R models, so the replicas are the unit, never the examples. The usual
    percentile bootstrap over replicas is too narrow for few of them. Measured on simulated panels
    of 100 examples with effects of replicas and of examples, nominal 95 %: the bootstrap held the
    true group mean in 83 to 87 % of the panels with R = 8 and in 91 to 92 % with 16, this interval
    in 96 %. With skewed effects of replicas (exponential) the bootstrap held 81 to 83 and 87 to
    89 %, this interval 92 and 92 to 94 %. For R = 4 the bootstrap leaves examples without any IN
    replica in most resamples; this interval held 93 to 97 %. Of a single example, a side of few
    replicas sets the errors: with R = 4, or a share of 0.9 of 16, it held 81 to 94 %.
    """
    left_out = np.asarray(left_out, dtype=np.float64)
    n = len(left_out)
    if n < 2 or not np.isfinite(left_out).all():
        return math.nan, math.nan
    half = t_quantile(n - 1) * math.sqrt(n - 1) * left_out.std()
    return float(estimate - half), float(estimate + half)


def _group_means(
    outcome: np.ndarray, members: np.ndarray, place: np.ndarray, n_groups: int, baseline: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Group means over examples of mean IN, mean OUT and baseline, which all measures are made of.

    Returns how many examples of each group have both IN and OUT replicas, int [G], the only ones
    that count; the means float64 [3, G]; and the means with each replica left out [R, 3, G]. There
    an example whose only IN (or OUT) replica is left out drops out of its group's mean.
    """

    def means(n_in, n_out, sum_in, sum_out):
        both = (n_in > 0) & (n_out > 0)
        at = place[both]
        columns = (sum_in[both] / n_in[both], sum_out[both] / n_out[both], baseline[both])
        n = np.bincount(at, minlength=n_groups)
        return n, np.stack([_divide(np.bincount(at, column, n_groups), n) for column in columns])

    n_in, n_out, sum_in, sum_out = _in_and_out(outcome, members)
    n, all_replicas = means(n_in, n_out, sum_in, sum_out)
    left_out = np.empty((len(outcome), 3, n_groups))
    for r, (row, trained) in enumerate(zip(outcome, members, strict=True)):
        own_in, own_out = np.where(trained, row, 0.0), np.where(trained, 0.0, row)
        left_out[r] = means(n_in - trained, n_out - ~trained, sum_in - own_in, sum_out - own_out)[1]
    return n, all_replicas, left_out


def _group_rows(
    names: list,
    place: np.ndarray,
    counted: np.ndarray,
    parts: dict[str, tuple[np.ndarray, np.ndarray]],
) -> list[dict]:
    """One dict a group: n, n_left_out and each part with its interval. parts: [G] and [R, G]."""
    n = np.bincount(place, minlength=len(names))
    rows = []
    for g, name in enumerate(names):
        row = {"group": name, "n": int(counted[g]), "n_left_out": int(n[g] - counted[g])}
        for part, (all_replicas, left_out) in parts.items():
            low, high = jackknife_interval(all_replicas[g], left_out[:, g])
            row |= {
                part: _or_none(all_replicas[g]),
                f"{part}_low": _or_none(low),
                f"{part}_high": _or_none(high),
            }
        rows.append(row)
    return rows


# ------------------------------------------------------------------------------------------------
# bit budget: rule, memory, unexplained
# ------------------------------------------------------------------------------------------------


def _baseline(baseline: Sequence[float], n: int) -> np.ndarray:
    baseline = _as_finite("baseline", baseline)
    if len(baseline) != n:
        raise ValueError(f"lengths differ: {len(baseline)} baselines for {n} examples")
    return baseline


def bit_budget(
    log2_probs: np.ndarray, members: np.ndarray, baseline: Sequence[float]
) -> dict[str, np.ndarray]:
    """How many bits of each answer are rule, memory and unexplained.

    With l0 = baseline[i], and l_out and l_in the mean log2_probs of the OUT and the IN replicas:

        -l0  =  (l_out - l0)  +  (l_in - l_out)  +  (-l_in)
         all     rule             memory             unexplained

    Rule: what the models know of an example that they never saw. Memory: what having seen it adds,
    which is counterfactual memorization (Zhang et al. 2021, arXiv:2112.12938) in log space, and
    unintended memorization (Morris et al. 2025, arXiv:2505.24832) with the OUT replicas as the
    reference model. The parts add up exactly since log-probabilities are averaged and nothing is
    clipped. Rule is negative where the rule speaks against the answer; memory may be negative.

    log2_probs float [R, N] and baseline float [N], bits, finite: the log2-probability of the answer
    under a fixed baseline, such as -log2 of the number of legal answers, or `ngram_log2_probs`.
    members bool [R, N]. Returns {"n_in", "n_out"} int [N] and {"rule", "memory", "unexplained"}
    float64 [N], bits; all three nan where n_in or n_out is 0. ValueError for other shapes.
    """
    log2_probs, members = _panel(log2_probs, members)
    l0 = _baseline(baseline, log2_probs.shape[1])
    n_in, n_out, sum_in, sum_out = _in_and_out(log2_probs, members)
    l_in, l_out = _divide(sum_in, n_in), _divide(sum_out, n_out)
    memory = l_in - l_out
    return {
        "n_in": n_in,
        "n_out": n_out,
        "rule": np.where(n_in > 0, l_out - l0, np.nan),
        "memory": memory,
        "unexplained": np.where(n_out > 0, -l_in, np.nan),
    }


def bit_budget_by_group(
    log2_probs: np.ndarray,
    members: np.ndarray,
    baseline: Sequence[float],
    groups: Sequence[Hashable] | None = None,
) -> list[dict]:
    """Mean `bit_budget` of each group of examples, with intervals over replicas.

    groups [N] holds tasks, repeat counts or names (one group "all" if not given), sorted as in
    `by_group`. One dict a group: {"group", "n", "n_left_out", "bits" (mean -l0), and "rule",
    "memory", "unexplained", each with "_low" and "_high"}. Examples without IN or without OUT
    replicas are left out of every mean, and counted. rule + memory + unexplained = bits. The
    intervals are `jackknife_interval`; None where there is none. Takes R passes over [N].
    """
    log2_probs, members = _panel(log2_probs, members)
    names, place = _places(groups, log2_probs.shape[1])
    l0 = _baseline(baseline, log2_probs.shape[1])
    n, means, left_out = _group_means(log2_probs, members, place, len(names), l0)

    def parts(l_in: np.ndarray, l_out: np.ndarray, l0: np.ndarray) -> tuple[np.ndarray, ...]:
        return l_out - l0, l_in - l_out, -l_in

    both = zip(parts(*means), parts(*left_out.swapaxes(0, 1)), strict=True)
    rows = _group_rows(
        names=names,
        place=place,
        counted=n,
        parts=dict(zip(("rule", "memory", "unexplained"), both, strict=True)),
    )
    return [row | {"bits": _or_none(-means[2, g])} for g, row in enumerate(rows)]


# ------------------------------------------------------------------------------------------------
# counterfactual memorization, and its null
# ------------------------------------------------------------------------------------------------


def counterfactual_memorization(outcome: np.ndarray, members: np.ndarray) -> dict[str, np.ndarray]:
    """What having trained on an example adds to its outcome, example by example.

    memory_i = mean(outcome_i of IN replicas) - mean(outcome_i of OUT replicas), with standard error
    sqrt(s_in² / n_in + s_out² / n_out), s² with n - 1 (Feldman and Zhang 2020, arXiv:2008.03703;
    Zhang et al. 2021, arXiv:2112.12938). -1..1 for exact match; bits for log2-probabilities. The
    largest of N such values is large by noise alone: read it beside `memory_null`.

    outcome float [R, N], members bool [R, N]. Returns {"n_in", "n_out"} int [N] and {"mean_in",
    "mean_out", "memory", "standard_error"} float64 [N], nan where there are no replicas on a side;
    standard_error also where there is only one.
    """
    outcome, members = _panel(outcome, members)
    n_in, n_out, sum_in, sum_out = _in_and_out(outcome, members)
    mean_in, mean_out = _divide(sum_in, n_in), _divide(sum_out, n_out)
    squares = (outcome - np.where(members, mean_in, mean_out)) ** 2  # [R, N]
    variance_in = _divide(squares.sum(axis=0, where=members), n_in - 1)
    variance_out = _divide(squares.sum(axis=0, where=~members), n_out - 1)
    return {
        "n_in": n_in,
        "n_out": n_out,
        "mean_in": mean_in,
        "mean_out": mean_out,
        "memory": mean_in - mean_out,
        "standard_error": np.sqrt(_divide(variance_in, n_in) + _divide(variance_out, n_out)),
    }


def memorization_by_group(
    outcome: np.ndarray, members: np.ndarray, groups: Sequence[Hashable] | None = None
) -> list[dict]:
    """Mean `counterfactual_memorization` of each group of examples, with intervals over replicas.

    One dict a group: {"group", "n", "n_left_out", and "in", "out", "memory", each with "_low" and
    "_high"}; groups, left-out examples and intervals as in `bit_budget_by_group`. Those of outcomes
    0 and 1 stay within what rates can be, and have a width where all replicas agree. With exact
    match of greedy decoding, memory is what can be extracted because it was trained on: IN minus
    OUT.
    """
    outcome, members = _panel(outcome, members)
    names, place = _places(groups, outcome.shape[1])
    n, means, left_out = _group_means(
        outcome, members, place, len(names), baseline=np.zeros(outcome.shape[1])
    )
    mean_in, mean_out = means[0], means[1]
    left_in, left_out = left_out[:, 0], left_out[:, 1]
    parts = {
        "in": (mean_in, left_in),
        "out": (mean_out, left_out),
        "memory": (mean_in - mean_out, left_in - left_out),
    }
    rows = _group_rows(names=names, place=place, counted=n, parts=parts)
    if np.isin(outcome, (0, 1)).all():
        n_in = np.bincount(place, members.sum(axis=0), len(names))
        n_out = np.bincount(place, (~members).sum(axis=0), len(names))
        for row, *pairs in zip(rows, n_in, n_out, strict=True):
            _bound_rates(row, [min(len(outcome), int(n)) for n in pairs])
    return rows


def _bound_rates(row: dict, trials: Sequence[int]) -> None:
    """Keep the intervals of rates within what rates can be, and no surer than the replicas are.

    Where all replicas are right, or all wrong, their spread is 0. The next one may be otherwise:
    Wilson's bound stands in, for `trials` IN and OUT: as many as replicas, for one may fail at all
    examples, or as pairs of replica and example where those are fewer.
    """
    alike = False
    for key, n in zip(("in", "out"), trials, strict=True):
        low, high = row[f"{key}_low"], row[f"{key}_high"]
        if low is None:
            continue
        if high - low < 1e-9 and min(row[key], 1 - row[key]) < 1e-9:
            alike = True
            low, high = wilson_interval(round(row[key]) * n, n)
        row[f"{key}_low"], row[f"{key}_high"] = max(low, 0.0), min(high, 1.0)
    low, high = row["memory_low"], row["memory_high"]
    if low is None:
        return
    if alike and row["in_low"] is not None and row["out_low"] is not None:
        joined = difference_interval(
            *((row[key], row[f"{key}_low"], row[f"{key}_high"]) for key in ("in", "out"))
        )
        low, high = min(low, joined[0]), max(high, joined[1])
    row["memory_low"], row["memory_high"] = max(low, -1.0), min(high, 1.0)


def repeat_slope(
    outcome: np.ndarray, members: np.ndarray, repeat_counts: Sequence[int]
) -> dict[str, float | int | None]:
    """How steeply memory grows with the repeat count, on logarithmic axes.

    The least-squares slope of log2(memory) on log2(repeat count), memory being the mean IN minus
    OUT outcome of the examples of each count (`memorization_by_group`). 1: twice the repeats, twice
    the memory; near its ceiling of 1 the slope flattens. outcome and members [R, N]; repeat_counts
    int [N], from 1 on. Returns {"n_counts", "weak_counts", "slope", "slope_low", "slope_high"}: the
    interval is `jackknife_interval` over replicas.

    There is a slope where at least three counts have memory whose interval lies above 0 and no
    count lacks it: "weak_counts" are those that do. Without them a slope would be of the counts
    that noise lifted: simulated, 0.4 to 0.9 where the truth was 1.2.
    """
    outcome, members = _panel(outcome, members)
    names, place = _places(repeat_counts, outcome.shape[1])
    rows = memorization_by_group(outcome, members, repeat_counts)
    weak = [row["group"] for row in rows if row["memory_low"] is None or row["memory_low"] <= 0]
    found = {"n_counts": len(names), "weak_counts": weak}
    if weak or len(names) < 3:
        return found | dict.fromkeys(("slope", "slope_low", "slope_high"))
    _, means, left_out = _group_means(
        outcome, members, place, len(names), baseline=np.zeros(outcome.shape[1])
    )
    x = np.log2(np.array(names, dtype=np.float64))
    x -= x.mean()

    def slope(memory: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.log2(memory) @ x / (x @ x)

    middle = float(slope(means[0] - means[1]))
    low, high = jackknife_interval(middle, slope(left_out[:, 0] - left_out[:, 1]))
    return found | {"slope": middle, "slope_low": _or_none(low), "slope_high": _or_none(high)}


def permuted_members(
    members: np.ndarray, groups: Sequence[Hashable] | None, rng: np.random.Generator
) -> np.ndarray:
    """Membership that says nothing: each replica's, shuffled among the examples of each group.

    bool [R, N]. Each replica keeps how many examples of each group it has; which ones is random,
    and independent between replicas. So differences between replicas and between groups stay, and
    only the tie between an example's membership and its own outcome is cut.
    """
    members = np.asarray(members, dtype=bool)
    names, place = _places(groups, members.shape[1])
    permuted = np.empty_like(members)
    for g in range(len(names)):
        columns = np.flatnonzero(place == g)
        permuted[:, columns] = rng.permuted(members[:, columns], axis=1)
    return permuted


def memory_null(
    outcome: np.ndarray,
    members: np.ndarray,
    groups: Sequence[Hashable] | None = None,
    n_permutations: int = 100,
    seed: int = 0,
    strata: Sequence[Hashable] | None = None,
) -> list[dict]:
    """What `counterfactual_memorization` shows by noise alone: under `permuted_members`.

    Membership is permuted within strata, by default within groups. Give those of the draw: within a
    part of which replicas drew more or fewer, those with more know it better, and the null is above
    0 (measured: 0.04 bits, where memory was 5.3).

    One dict a group, and a last one "all" over all examples: {"group", "n", "mean" and "sd" (of
    the group mean over permutations), "example_sd" (root mean square of one example's memory),
    "maximum" (mean of the largest memory of an example), "maximum_high" (its 95 % quantile)}. A
    largest memory below maximum_high is no finding. Examples without IN or OUT replicas under a
    permutation are left out of it. ValueError for fewer than 2 permutations.
    """
    outcome, members = _panel(outcome, members)
    if n_permutations < 2:
        raise ValueError(f"n_permutations must be at least 2, got {n_permutations}")
    names, place = _places(groups, outcome.shape[1])
    rng = np.random.default_rng(seed)
    rows_of = {name: np.flatnonzero(place == g) for g, name in enumerate(names)}
    rows_of["all"] = np.arange(len(place))
    found = {name: [] for name in rows_of}  # of each permutation: mean, mean square, maximum
    for _ in range(n_permutations):
        permuted = permuted_members(members, place if strata is None else strata, rng)
        n_in, n_out, sum_in, sum_out = _in_and_out(outcome, permuted)
        memory = _divide(sum_in, n_in) - _divide(sum_out, n_out)
        for name, rows in rows_of.items():
            values = memory[rows][~np.isnan(memory[rows])]
            if len(values):
                found[name].append((values.mean(), (values**2).mean(), values.max()))

    def row(name: Hashable, values: np.ndarray) -> dict:
        means, squares, maxima = values.T if len(values) >= 2 else np.full((3, 2), np.nan)
        return {
            "group": name,
            "n": len(rows_of[name]),
            "mean": _or_none(means.mean()),
            "sd": _or_none(means.std(ddof=1)),
            "example_sd": _or_none(math.sqrt(squares.mean())),
            "maximum": _or_none(maxima.mean()),
            # A next one is above this in 5 %, above one interpolated within 20 in 9 %.
            "maximum_high": _or_none(np.quantile(maxima, 0.95, method="weibull")),
        }

    return [row(name, np.array(values)) for name, values in found.items()]


# ------------------------------------------------------------------------------------------------
# exposure of canaries
# ------------------------------------------------------------------------------------------------


def _log2_factorials(n: int) -> np.ndarray:
    """log2(k!) for k = 0..n. float64 [n + 1]."""
    return np.concatenate([[0.0], np.cumsum(np.log2(np.arange(1, n + 1)))])


def exposure(candidate_log2_probs: np.ndarray, canary: Sequence[int]) -> np.ndarray:
    """log2(candidates) - log2(rank) of each canary among all candidates. float64 [n], bits.

    candidate_log2_probs float [n, C], finite: log2-probability of every candidate answer; canary
    int [n]: the column of the canary's own. Rank 1 is the most probable, so 0 .. log2(C) (Carlini
    et al. 2019, arXiv:1802.08232, definition 5). Ties are broken at random and log2(rank) is
    averaged over the ways to break them, so that a model to which all candidates are alike has
    exactly the `expected_exposure` of one that was not trained on the canary. ValueError for other
    shapes, and for columns that are not there.
    """
    values, canary = np.asarray(candidate_log2_probs, dtype=np.float64), np.asarray(canary)
    if values.ndim != 2 or canary.shape != values.shape[:1] or not np.isfinite(values).all():
        raise ValueError(
            f"need finite [n, C] and canary [n], got {values.shape} and {canary.shape}"
        )
    n_candidates = values.shape[1]
    if ((canary < 0) | (canary >= n_candidates)).any():
        raise ValueError(f"canary must lie within 0..{n_candidates - 1}, got {canary}")
    own = values[np.arange(len(values)), canary][:, None]
    better, alike = (values > own).sum(axis=1), (values == own).sum(axis=1)
    factorials = _log2_factorials(n_candidates)
    return math.log2(n_candidates) - (factorials[better + alike] - factorials[better]) / alike


def expected_exposure(n_candidates: int) -> float:
    """Mean exposure of a canary that was not trained on: log2(C) - log2(C!) / C. Bits.

    Its rank is uniform over 1..C. 1.143 for 10 candidates, 1.396 for 100, 1.436 for 1,000, towards
    1 / ln 2 = 1.4427. ValueError for fewer than 1 candidate.
    """
    if n_candidates < 1:
        raise ValueError(f"n_candidates must be at least 1, got {n_candidates}")
    return math.log2(n_candidates) - math.lgamma(n_candidates + 1) / math.log(2) / n_candidates


def exposure_tail(threshold: float, n_candidates: int) -> float:
    """P(exposure >= threshold) of a canary that was not trained on. 0..1.

    floor(C 2^-threshold) / C, which is 2^-threshold where that is a whole number of ranks, and
    never above it. So 5 bits or more come from noise once in 32 canaries. ValueError for fewer than
    1 candidate.
    """
    if n_candidates < 1:
        raise ValueError(f"n_candidates must be at least 1, got {n_candidates}")
    return min(1.0, math.floor(n_candidates * 2.0**-threshold) / n_candidates)


def exposure_by_reference(losses: Sequence[float], reference_losses: Sequence[float]) -> np.ndarray:
    """Exposure against a sample of other answers, where candidates are too many. float64 [n], bits.

    log2(m) - log2(1 + how many of the m references have a smaller loss): log2(m) at most, and
    log2(m / (m + 1)), just below 0, if every reference is better. losses float [n] and
    reference_losses float [m], in any one unit, finite: minus the log-probability of the canaries,
    and of answers drawn as theirs were but not trained on. Cannot exceed log2(m): draw many.
    ValueError without references.
    """
    losses = _as_finite("losses", losses)
    references = np.sort(_as_finite("reference_losses", reference_losses))
    if not len(references):
        raise ValueError("exposure by reference needs at least one reference loss")
    return math.log2(len(references)) - np.log2(1 + np.searchsorted(references, losses))


# ------------------------------------------------------------------------------------------------
# membership inference: which examples was this replica trained on
#
# Each replica is the target in turn. What is known of an example comes from the other replicas
# only. A score is higher the more the target seems to have trained on the example. The score of the
# LOSS attack (Yeom et al. 2018, arXiv:1709.01604) is the outcome itself.
# ------------------------------------------------------------------------------------------------


def _without_rounding_errors(scores: np.ndarray) -> np.ndarray:
    # Equal examples reach their scores by different sums. Their last digits would break ties, and
    # not evenly between members and non-members: a constant model had an AUC of 0.41.
    return np.round(scores, 9)


def calibrated_scores(log2_probs: np.ndarray, members: np.ndarray) -> np.ndarray:
    """The target's log2_probs minus the mean of the other OUT replicas. float64 [R, N], bits.

    Takes away how hard the example is (Watson et al. 2022, arXiv:2111.08440). nan where no other
    replica is OUT.
    """
    outcome, members = _panel(log2_probs, members)
    _, n_out, _, sum_out = _in_and_out(outcome, members)
    scores = np.empty_like(outcome)
    for r, (row, out) in enumerate(zip(outcome, ~members, strict=True)):
        scores[r] = row - _divide(sum_out - np.where(out, row, 0.0), n_out - out)
    return _without_rounding_errors(scores)


def logit_scale(log2_probs: np.ndarray, cap: float = 30.0) -> np.ndarray:
    """log2(p / (1 - p)) of the answer, cut at ±cap. float64, shape of log2_probs, bits.

    Carlini et al. 2022 apply LiRA to it because it is close to Gaussian, while log2(p) piles up
    at 0 for answers that the model is sure of. An answer of p = 1 has no logit: hence the cap.
    """
    log2_probs = np.asarray(log2_probs, dtype=np.float64)
    with np.errstate(divide="ignore"):
        logits = log2_probs - np.log2(-np.expm1(log2_probs * math.log(2)))
    return np.clip(logits, -cap, cap)


LEAST_SD = 1e-3  # in LiRA, for equal outcomes; float16 tells bits apart no better


def lira_scores(outcome: np.ndarray, members: np.ndarray) -> np.ndarray:
    """Log likelihood ratio of IN to OUT for the target's outcome. float64 [R, N], nats.

    log N(y; mean_in, sd_in²) - log N(y; mean_out, sd_out²), online LiRA (Carlini et al. 2022,
    arXiv:2112.03570, algorithm 1). The means are those of the example over the other replicas. The
    variances are pooled: one for IN and one for OUT, over all examples and other replicas, around
    the examples' means; with few replicas a variance of its own for each example costs more than it
    gives. outcome float [R, N]: best `logit_scale` of log2-probabilities. nan where no other
    replica is IN, or none OUT; nan everywhere if no example has two other replicas on a side.

    The masks must be drawn independently for each replica. If each example is in exactly R / 2 of
    them, the other replicas' count tells the target's membership, and the score of data without any
    memory has an AUC below 0.5 (measured on Gaussian noise: 0.475 for R = 8, 0.491 for 16; with a
    variance of its own for each example 0.44 and 0.49).
    """
    outcome, members = _panel(outcome, members)
    # Sums of squares around the examples' means: the outcomes themselves would lose digits.
    outcome = outcome - outcome.mean(axis=0)
    sides = []
    for side in (members, ~members):
        totals = (side.sum(axis=0), *((outcome**k).sum(axis=0, where=side) for k in (1, 2)))
        sides.append((side, totals))

    def log_density(target: int, side: np.ndarray, totals: tuple[np.ndarray, ...]) -> np.ndarray:
        y, own = outcome[target], side[target]
        powers = (1.0, y, y**2)
        n, first, second = (
            total - np.where(own, power, 0.0) for total, power in zip(totals, powers, strict=True)
        )
        mean = _divide(first, n)
        squares = np.where(n > 1, second - first * np.nan_to_num(mean), 0.0).sum()
        variance = _divide(squares, np.maximum(n - 1, 0).sum())
        variance = np.maximum(variance, LEAST_SD**2)  # keeps nan
        return -((y - mean) ** 2) / (2 * variance) - np.log(variance) / 2

    scores = np.empty_like(outcome)
    for target in range(len(outcome)):
        log_in, log_out = (log_density(target, *side) for side in sides)
        scores[target] = log_in - log_out
    return _without_rounding_errors(scores)


def rmia_scores(log2_probs: np.ndarray, members: np.ndarray, gamma: float = 2.0) -> np.ndarray:
    """Share of the target's non-members that the example clearly beats. float64 [R, N], 0..1.

    P_z(ratio(x) / ratio(z) >= gamma), where ratio(x) = p_target(x) / ((p_in(x) + p_out(x)) / 2),
    p_in and p_out are the mean probabilities of the other IN and OUT replicas, and z runs over the
    target's non-members: online RMIA (Zarifzadeh et al. 2024, arXiv:2312.03262). x is not left out
    of them: a share of one fewer would tell non-members from members of the same ratio. It
    estimates no variance, so it needs few replicas. log2_probs float [R, N], bits; gamma > 0. nan
    where no other replica is IN, or none OUT, and for a target without such non-members.
    """
    log2_probs, members = _panel(log2_probs, members)
    # Probabilities relative to the example's largest, since 2^l underflows for long answers.
    excess = log2_probs - log2_probs.max(axis=0)
    relative = np.exp2(excess)
    n_in, n_out, sum_in, sum_out = _in_and_out(relative, members)
    scores = np.full_like(relative, np.nan)
    for target, (p, trained) in enumerate(zip(relative, members, strict=True)):
        p_in = _divide(sum_in - np.where(trained, p, 0), n_in - trained)
        p_out = _divide(sum_out - np.where(trained, 0, p), n_out - ~trained)
        average = np.maximum((p_in + p_out) / 2, np.finfo(np.float64).tiny)
        ratio = _without_rounding_errors(excess[target] - np.log2(average))  # log2, [N]
        known = ~np.isnan(ratio)
        population = np.sort(ratio[known & ~trained])
        least = _without_rounding_errors(ratio[known] - math.log2(gamma))
        beaten = np.searchsorted(population, least, side="right")
        scores[target, known] = _divide(beaten, len(population))
    return scores


def _scored_pairs(scores: np.ndarray, members: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    scores, members = np.asarray(scores, dtype=np.float64), np.asarray(members, dtype=bool)
    if scores.shape != members.shape:
        raise ValueError(f"shapes differ: scores {scores.shape}, members {members.shape}")
    defined = ~np.isnan(scores)
    return scores[defined], members[defined]


def _tie_groups(scores: np.ndarray, members: np.ndarray) -> tuple[np.ndarray, ...]:
    """The ascending order of scores [n]; the pairs, and the members, at each distinct score."""
    order = np.argsort(scores)
    ordered = scores[order]
    ends = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True)) + 1 if len(order) else order
    n_in = np.append(0, np.cumsum(members[order]))[ends]
    return order, np.diff(ends, prepend=0), np.diff(n_in, prepend=0)


def roc_curve(scores: np.ndarray, members: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(fpr, tpr), float64 [distinct scores + 1] each, from (0, 0) to (1, 1).

    At each point the pairs of replica and example that score some value or more are called members.
    fpr is the share of non-members among whom that is wrong, tpr the share of members found. scores
    float and members bool have any one shape; nan scores are left out. nan where a side is empty.
    """
    scores, members = _scored_pairs(scores, members)
    _, sizes, n_in = _tie_groups(scores, members)
    found, wrong = np.cumsum(n_in[::-1]), np.cumsum((sizes - n_in)[::-1])
    fpr, tpr = _divide(wrong, (~members).sum()), _divide(found, members.sum())
    return np.append(0.0, fpr), np.append(0.0, tpr)


def _auc_interval(scores: np.ndarray, members: np.ndarray) -> tuple[float, float, float]:
    """(auc, low, high) over all pairs of a panel [R, N], with replicas as clusters."""
    n = len(scores)
    replica = np.broadcast_to(np.arange(n)[:, None], scores.shape)[~np.isnan(scores)]
    scores, members = _scored_pairs(scores, members)
    order, sizes, n_in = _tie_groups(scores, members)
    n_out = sizes - n_in
    if not (n_in.any() and n_out.any()):
        return math.nan, math.nan, math.nan
    # How much of the other side a pair beats, ties counting half.
    above_out = (np.cumsum(n_out) - n_out / 2) / n_out.sum()  # of a member at each distinct score
    below_in = 1 - (np.cumsum(n_in) - n_in / 2) / n_in.sum()  # of a non-member
    auc = float(above_out @ n_in / n_in.sum())
    if n < 2:
        return auc, math.nan, math.nan
    weights = np.where(
        members[order],
        np.repeat((above_out - auc) / n_in.sum(), sizes),
        np.repeat((below_in - auc) / n_out.sum(), sizes),
    )
    own = np.bincount(replica[order], weights, minlength=n)  # what each replica adds to the auc
    half = t_quantile(n - 1) * math.sqrt(n / (n - 1) * (own**2).sum())
    return auc, max(0.0, auc - half), min(1.0, auc + half)


def attacks_intervals(
    attacks: Callable[[np.ndarray, np.ndarray], dict[str, np.ndarray]],
    log2_probs: np.ndarray,
    members: np.ndarray,
    n_groups: int = 20,
) -> dict[str, tuple[float, float]]:
    """95 % intervals (low, high) of the AUC of attacks whose scores depend on other replicas.

    `attacks` returns name -> scores [R, N] of log2_probs and members [R, N]. A score of LiRA or of
    RMIA holds the target beside the other replicas, so replicas as clusters are not independent: of
    95 % intervals that took them so, 80 to 90 % held the truth. So each of `n_groups` groups of
    replicas leaves in turn, the others are attacked anew, and `jackknife_interval` joins the AUCs:
    a delete-a-group jackknife (Kott 2001), by the single replica where R is no more than that.
    (nan, nan) where an attack is undefined without a group.
    """
    R = len(members)

    def aucs(keep: np.ndarray) -> dict[str, float]:
        scores = attacks(log2_probs[keep], members[keep])
        return {name: auroc(*_scored_pairs(own, members[keep])) for name, own in scores.items()}

    groups = np.array_split(np.arange(R), min(R, n_groups))
    left_out = [aucs(np.setdiff1d(np.arange(R), group)) for group in groups]
    found = {}
    for name, auc in aucs(np.arange(R)).items():
        low, high = jackknife_interval(auc, [without[name] for without in left_out])
        found[name] = tuple(np.clip((low, high), 0, 1).tolist())  # nan stays
    return found


CURVE_FPR = tuple(10 ** (k / 10) for k in range(-50, 1))  # for logarithmic axes


def membership_inference(scores: np.ndarray, members: np.ndarray) -> dict:
    """How well the scores of an attack tell members from non-members, over all targets together.

    scores float [R, N], nan where undefined; members bool [R, N]. Returns {"n_members",
    "n_non_members", "n_left_out", "auc", "auc_low", "auc_high", "tpr_at_fpr_0.01",
    "tpr_at_fpr_0.01_low", "tpr_at_fpr_0.01_high", the same for 0.001, "curve": {"fpr", "tpr"}}.

    auc: probability that a member scores above a non-member, ties counting half; its interval takes
    the replicas as clusters (Obuchowski 1997, with Student's t of R - 1): for scores that depend on
    no other replica, others have `attacks_intervals`. tpr_at_fpr: the largest
    share of members found with at most that share of non-members called members. Its interval is
    Wilson's: it takes pairs of replica and example for independent, and is too narrow where
    replicas differ. At 0.001 None with fewer than 10,000 non-members, whose ten highest decide.
    curve holds tpr at 51 rates from 1e-5 to 1 for plots. None where a side is empty. Takes some 100
    bytes of memory a pair; 128 replicas of 50,000 examples take 3 seconds.
    """
    scores, members = np.asarray(scores, dtype=np.float64), np.asarray(members, dtype=bool)
    if scores.ndim != 2 or scores.shape != members.shape:
        raise ValueError(
            f"scores and members must be [R, N], got {scores.shape} and {members.shape}"
        )
    fpr, tpr = roc_curve(scores, members)
    defined = ~np.isnan(scores)
    n_members = int((members & defined).sum())
    n_non_members = int((~members & defined).sum())

    def tpr_at(level: float) -> float:
        return float(tpr[np.searchsorted(fpr, level, side="right") - 1])

    auc, low, high = _auc_interval(scores, members)
    found = {
        "n_members": n_members,
        "n_non_members": n_non_members,
        "n_left_out": int(scores.size - n_members - n_non_members),
        "auc": _or_none(auc),
        "auc_low": _or_none(low),
        "auc_high": _or_none(high),
    }
    both = n_members > 0 and n_non_members > 0
    for level, least in ((0.01, 1), (0.001, 10_000)):
        share = tpr_at(level) if both and n_non_members >= least else None
        ends = (None, None)
        if share is not None:
            ends = wilson_interval(round(share * n_members), n_members)
        key = f"tpr_at_fpr_{level}"
        found |= {key: share, f"{key}_low": ends[0], f"{key}_high": ends[1]}
    curve = [tpr_at(level) for level in CURVE_FPR] if both else None
    return found | {"curve": {"fpr": list(CURVE_FPR), "tpr": curve}}


# ------------------------------------------------------------------------------------------------
# extraction, perturbation
# ------------------------------------------------------------------------------------------------


def samples_to_extract(log2_probs: np.ndarray, p: float = 0.5) -> np.ndarray:
    """How many samples contain the answer at least once with probability p. float64, at least 1.

    n = ln(1 - p) / ln(1 - p_z), rounded up, where p_z = 2^log2_probs is the probability that one
    sample at temperature 1 is the whole answer ((n, p)-discoverable extraction, Hayes et al. 2024,
    arXiv:2410.19482). Of the shape of log2_probs; infinite where p_z is too small for a float64.
    ValueError unless 0 < p < 1 and log2_probs <= 0.
    """
    log2_probs = np.asarray(log2_probs, dtype=np.float64)
    if not 0 < p < 1 or not (log2_probs <= 0).all():
        raise ValueError(f"need 0 < p < 1 and log2_probs <= 0, got p = {p} and {log2_probs}")
    # 1 - 2^l by expm1, or it would round to 1 for improbable and lose digits for sure answers.
    with np.errstate(divide="ignore", over="ignore"):
        miss = np.where(
            log2_probs < -1,
            np.log1p(-np.exp2(log2_probs)),
            np.log(-np.expm1(log2_probs * math.log(2))),
        )
        n = math.log1p(-p) / miss
    # A quotient that is whole but for rounding counts as whole.
    return np.maximum(np.ceil(n * (1 - 1e-12)), 1.0)


def extraction_curve(
    log2_probs: np.ndarray,
    members: np.ndarray,
    budgets: Sequence[int] = (1, 10, 100, 1000, 10_000),
    p: float = 0.5,
) -> list[dict]:
    """Share of examples within reach of so many samples, for IN and for OUT replicas.

    One dict for each of budgets: {"samples", and of `memorization_by_group` of the outcome
    "`samples_to_extract` is at most that many", "n", "n_left_out", "in", "out", "memory" with
    intervals over replicas}. OUT is what the rule alone gives away; memory is what training on
    the example adds. log2_probs float [R, N], bits, <= 0.
    """
    needed = samples_to_extract(log2_probs, p)
    curve = []
    for budget in budgets:
        (row,) = memorization_by_group(needed <= budget, members)
        curve.append({"samples": budget, **{k: v for k, v in row.items() if k != "group"}})
    return curve


def limem(correct: Sequence[bool], perturbed_correct: np.ndarray) -> dict:
    """Local-inconsistency memorization: right on the example, wrong on one like it.

    LiMem = accuracy * (1 - CR), the consistency ratio CR being the share of solved examples still
    solved after a perturbation that keeps the rule (Xie et al. 2024, arXiv:2410.23123). A rule
    scores 0, a lookup table its accuracy. Read train minus unseen: a weak rule is inconsistent too.

    correct bool [n]; perturbed_correct float [n, k], 1 right, 0 wrong, nan unknown (no such
    perturbation, or this replica trained on it). CR averages over the known perturbations of each
    solved example, then over the solved examples that have any. Returns {"n", "n_perturbed" (those
    examples), "accuracy", "consistency", "limem"}, 0..1; consistency None if none is known, and
    limem too unless accuracy is 0. ValueError for other shapes or values.
    """
    correct = _as_bool("correct", correct)
    perturbed = np.asarray(perturbed_correct, dtype=np.float64)
    known = ~np.isnan(perturbed)
    if perturbed.ndim != 2 or len(perturbed) != len(correct):
        raise ValueError(f"perturbed_correct must be [{len(correct)}, k], got {perturbed.shape}")
    if not np.isin(perturbed[known], (0, 1)).all():
        raise ValueError("perturbed_correct must hold only 0, 1 and nan")
    rates = _divide(perturbed.sum(axis=1, where=known), known.sum(axis=1))[correct]
    rates = rates[~np.isnan(rates)]
    accuracy = float(correct.mean()) if len(correct) else math.nan
    consistency = float(rates.mean()) if len(rates) else math.nan
    return {
        "n": len(correct),
        "n_perturbed": len(rates),
        "accuracy": _or_none(accuracy),
        "consistency": _or_none(consistency),
        "limem": 0.0 if accuracy == 0 else _or_none(accuracy * (1 - consistency)),
    }


# ------------------------------------------------------------------------------------------------
# dynamics: when an example is learned, and forgotten
# ------------------------------------------------------------------------------------------------


def _curves(name: str, values: np.ndarray) -> np.ndarray:
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 2 or not len(values):
        raise ValueError(f"{name} must be [E, N] with E >= 1, got shape {values.shape}")
    return values


def first_learned(curves: np.ndarray, epochs: Sequence[float], threshold: float) -> np.ndarray:
    """First kept epoch at which an example reaches the threshold and stays there. float64 [N].

    curves float [E, N]: at each kept epoch the mean outcome of an example over its IN (or its OUT)
    replicas, nan where it has none; epochs float [E], ascending. A value stays if it and all later
    ones are at least threshold. nan for an example that never stays; the true epoch lies after the
    kept one before. ValueError for other shapes, and for epochs that do not ascend.
    """
    curves, epochs = _curves("curves", curves), _as_finite("epochs", epochs)
    if len(epochs) != len(curves) or (np.diff(epochs) <= 0).any():
        raise ValueError(f"epochs must be {len(curves)} ascending numbers, got {epochs}")
    below = ~(curves >= threshold)  # written so that nan is below as well
    stays = np.where(below.any(axis=0), len(curves) - below[::-1].argmax(axis=0), 0)
    return np.append(epochs, np.nan)[stays]


def forgetting_events(correct: np.ndarray) -> np.ndarray:
    """How often each example turns from right to wrong between kept epochs. int64 [N].

    correct bool [E, N]: one replica's exact match at each kept epoch, in order (Toneva et al. 2019,
    arXiv:1812.05159). 0 for an example that is never right as well. Fewer epochs see fewer events:
    compare with `expected_forgetting` of the same number.
    """
    correct = _curves("correct", correct).astype(bool)
    return (correct[:-1] & ~correct[1:]).sum(axis=0)


def expected_forgetting(rate: np.ndarray, n_epochs: int) -> np.ndarray:
    """Forgetting events if each epoch were right independently, with probability rate.

    (E - 1) rate (1 - rate), of the shape of rate float, 0..1. With the rate estimated from the
    same E epochs this is short of the truth by (E - 1) / E: multiply it by E / (E - 1). Far fewer
    events than expected say that what is right stays right. ValueError for rates outside 0..1.
    """
    rate = np.asarray(rate, dtype=np.float64)
    if not ((rate >= 0) & (rate <= 1)).all() or n_epochs < 1:
        raise ValueError(f"need rates in 0..1 and n_epochs >= 1, got {rate} and {n_epochs}")
    return (n_epochs - 1) * rate * (1 - rate)


def spearman(a: Sequence[float], b: Sequence[float]) -> float:
    """Rank correlation, Pearson's r of mean ranks (Spearman 1904). -1..1; nan if one is constant.

    a and b float [n], finite.
    """
    a, b = _as_finite("a", a), _as_finite("b", b)
    _check_same_length(a=a, b=b)
    if len(a) < 2:
        return math.nan
    x, y = _mid_ranks(a) - (len(a) + 1) / 2, _mid_ranks(b) - (len(b) + 1) / 2
    spread = math.sqrt((x @ x) * (y @ y))
    return float(x @ y / spread) if spread else math.nan


def order_effect(
    last_position: np.ndarray,
    log2_probs: np.ndarray,
    members: np.ndarray,
    groups: Sequence[Hashable] | None = None,
) -> dict:
    """Are the examples remembered best that were presented last? Spearman over IN examples.

    last_position float [R, N]: step or row at which replica r last saw example i (read for members
    only); log2_probs and members [R, N]. Each replica has its own order, so it is randomised.
    Within each replica the correlation is taken within each of groups and averaged with the numbers
    of its members: a repeated example comes last later and is learned better, whatever the order,
    so give repeat counts. Returns {"n_replicas", "mean", "low", "high", "values"}: the mean over
    replicas with its 95 % interval by Student's t, None where there is none. Replicas without two
    different positions and outcomes in any group are left out.
    """
    log2_probs, members = _panel(log2_probs, members)
    positions = np.asarray(last_position, dtype=np.float64)
    if positions.shape != members.shape:
        raise ValueError(f"last_position must be {members.shape}, got {positions.shape}")
    names, place = _places(groups, members.shape[1])
    values = []
    for position, row, trained in zip(positions, log2_probs, members, strict=True):
        columns = [np.flatnonzero(trained & (place == g)) for g in range(len(names))]
        found = [(spearman(position[c], row[c]), len(c)) for c in columns]
        found = [(rho, n) for rho, n in found if not math.isnan(rho)]
        if found:
            values.append(sum(rho * n for rho, n in found) / sum(n for _, n in found))
    mean = float(np.mean(values)) if values else math.nan
    n = len(values)
    half = seed_half_width(values)
    return {
        "n_replicas": n,
        "mean": _or_none(mean),
        "low": _or_none(max(-1.0, mean - half) if n > 1 else math.nan),
        "high": _or_none(min(1.0, mean + half) if n > 1 else math.nan),
        "values": values,
    }


# ------------------------------------------------------------------------------------------------
# capacity, and what a number of replicas allows to say
# ------------------------------------------------------------------------------------------------


def capacity(log2_probs: Sequence[float], length: int, vocabulary: int) -> dict:
    """Bits that a model has stored of random strings, which no rule can tell it.

    stored = N S log2 V - sum of -log2 p: what uniform guessing would need, less what the model
    needs. ceiling = N S log2 V - N log2 N: a model that knows the set of strings still has to say
    which one comes (Morris et al. 2025, arXiv:2505.24832). stored exceeds the ceiling only if the
    strings were given an order. log2_probs float [N], bits, <= 0: of each whole string of length S
    over V symbols, all symbols drawn at random. Returns {"n", "stored", "ceiling", "share" (stored
    / ceiling)} in bits; stored is below 0 for a model worse than guessing; share None if the
    ceiling is 0 or less. ValueError for an empty or infinite input, or positive log2_probs.
    """
    log2_probs = _as_finite("log2_probs", log2_probs)
    n = len(log2_probs)
    if not n or (log2_probs > 0).any() or length < 1 or vocabulary < 2:
        raise ValueError(
            f"need log2_probs <= 0 of some strings, length >= 1 and vocabulary >= 2, got "
            f"{log2_probs}, {length} and {vocabulary}"
        )
    guessing = n * length * math.log2(vocabulary)
    stored, ceiling = guessing + float(log2_probs.sum()), guessing - n * math.log2(n)
    return {
        "n": n,
        "stored": stored,
        "ceiling": ceiling,
        "share": stored / ceiling if ceiling > 0 else None,
    }


LEAST_REPLICAS = {"group_means": 16, "distributions": 64, "names": 128}


def allowed_claims(n_replicas: int) -> dict[str, bool]:
    """Which claims R replicas carry: {"group_means", "distributions", "names"}, see LEAST_REPLICAS.

    Simulated with 30 % of the examples memorized, the error of one example's memory (root mean
    square, exact match) is 0.176 for R = 16, 0.124 for 32, 0.090 for 64 and 0.061 for 128, and of
    the examples that are not memorized 12.7, 5.5, 1.3 and 0.03 % show more than 0.25. So means of
    groups need 16, distributions over examples 64, and naming an example 128; with fewer than 64
    none may be named without its interval and `memory_null` beside it. ValueError for R < 1.
    """
    if n_replicas < 1:
        raise ValueError(f"n_replicas must be at least 1, got {n_replicas}")
    return {claim: n_replicas >= least for claim, least in LEAST_REPLICAS.items()}


# ------------------------------------------------------------------------------------------------
# verdicts
# ------------------------------------------------------------------------------------------------


WORTH_NAMING = 0.05  # of an answer's bits, or of exact match: less is no part of a verdict


def is_there(value: float, low: float, high: float, least: float) -> bool | None:
    """Whether a quantity with the 95 % interval [low, high] is there, and worth naming.

    True where its interval lies above 0 and its value is at least `least`; False where the whole
    interval lies below `least`; None where neither holds, so that the data do not decide.
    """
    if not all(map(math.isfinite, (value, low, high))):
        return None
    if low > 0 and value >= least:
        return True
    return False if high < least else None


def verdict(rule: bool | None, memory: bool | None) -> str:
    """ "rule", "memory", "both", "neither" or "undecided", from two answers of `is_there`."""
    if rule is None or memory is None:
        return "undecided"
    return {(1, 0): "rule", (0, 1): "memory", (1, 1): "both", (0, 0): "neither"}[rule, memory]


def wrong_spans(prediction: str, answer: str) -> list[tuple[int, int]]:
    """Where a prediction differs from the answer: [(start, end)] of its characters, ascending.

    By a shortest sequence of edits (Levenshtein). start == end where a character of the answer is
    missing before prediction[start]. [] where the two are equal.

    >>> wrong_spans("1234", "1934"), wrong_spans("134", "1234"), wrong_spans("12345", "123")
    ([(1, 2)], [(1, 1)], [(3, 5)])
    """
    edits = Levenshtein.opcodes(prediction, answer)
    return [(edit.src_start, edit.src_end) for edit in edits if edit.tag != "equal"]
