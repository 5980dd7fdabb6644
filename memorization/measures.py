"""Everything that a panel's ledgers say of memorization, as one dict: memorization_results.json.

Pure functions of a MeasuredPanel. What needs the replicas' weights (exposure, LiMem, what OUT
replicas answer) is scored by evaluate_memorization.py and reduced here. Rates lie in 0..1.
Every interval "_low" to "_high" is a 95 % one over replicas, the panel's only independent units.
"""

import math
from dataclasses import dataclass

import numpy as np

import metrics
from data.audit import count_groups
from data.baselines import (
    TrainingTexts,
    chance_of,
    lookup_answers,
    nearest_neighbours,
    ngram_log2_probs,
)
from data.tasks import TASKS, task_of_tag
from memorization.panel import MeasuredPanel

MOST_COUNTS = 12  # repeat counts in a table; more are merged by powers of two
LEARNED = 0.5  # of the replicas on a side: the mean exact match at which an example is learned
MOST_DISTANCES = 10**9  # between prompts: about a minute of one core
MOST_NAMED = 10  # examples, the most memorized
HELD_OUT_LOOKUPS = 500  # held-out examples of a tag that lookup baselines answer
MOST_BITS_PER_PARAMETER = 3.8  # that a transformer was seen to hold (Morris et al. 2025)
ENDS = ("", "_low", "_high")
CHOOSING, MEASURING = slice(0, None, 2), slice(1, None, 2)  # replicas, of the most memorized
WRONG, CANARIES = ", wrong answers", ", canaries"  # after the tag, in the names of groups

# ----------------------------------------------------------------------------------------------
# Groups of examples, and what their answers cost without a model
# ----------------------------------------------------------------------------------------------


def group_names(panel: MeasuredPanel) -> list[str]:
    """The group of each training example and canary: its tag, wrong answers and canaries apart."""
    names = []
    for i in range(panel.n_asked):
        kind = CANARIES if i >= panel.n_train else WRONG if panel.breaks_rule[i] else ""
        names.append(panel.columns.tags[i] + kind)
    return names


def merged_counts(counts: np.ndarray) -> np.ndarray:
    """Repeat counts for a table: as they are, or where they are many the power of two below.

    >>> merged_counts(np.array([1, 3, 20])).tolist(), merged_counts(np.arange(1, 20))[-4:].tolist()
    ([1, 3, 20], [16, 16, 16, 16])
    """
    if len(np.unique(counts)) <= MOST_COUNTS:
        return counts
    return count_groups(counts)


@dataclass(frozen=True)
class Baselines:
    """log2-probability of each training example's and canary's answer without any model.

    l0 is even over the legal answers of the answer's form, whose length is given, so that <eos>
    costs nothing; for a tag without a record of its task it is the 3-gram.
    """

    l0: np.ndarray  # float [n_asked], bits
    ngram: np.ndarray  # float [n_asked], bits: of a 3-gram of the training answers
    kinds: list[str]  # which of the two l0 is


def baselines_of(panel: MeasuredPanel) -> Baselines:
    tags, answers = panel.columns.tags[: panel.n_asked], panel.columns.answers[: panel.n_asked]
    train = panel_texts(panel, np.ones(panel.n_train, dtype=np.int64))
    characters = sum(len(token) == 1 for token in panel.tokenizer.itos)
    ngram = ngram_log2_probs(answers, tags, train, characters)
    l0, kinds = ngram.copy(), ["3-gram"] * panel.n_asked
    for i, (tag, answer) in enumerate(zip(tags, answers, strict=True)):
        try:
            l0[i], kinds[i] = -math.log2(TASKS[tag].n_legal(answer)), "legal answers"
        except (KeyError, ValueError):  # no record, or an answer outside its form
            continue
    return Baselines(l0, ngram, kinds)


def panel_texts(panel: MeasuredPanel, copies: np.ndarray) -> TrainingTexts:
    """The training examples, each as often as `copies`, int [n_train], says."""
    rows = np.repeat(np.arange(panel.n_train), copies)
    of = panel.columns
    return TrainingTexts(
        *([column[i] for i in rows] for column in (of.tags, of.prompts, of.answers))
    )


# ----------------------------------------------------------------------------------------------
# Bit budget
# ----------------------------------------------------------------------------------------------


def budget(
    panel: MeasuredPanel, log2_probs: np.ndarray, l0: np.ndarray, groups: list
) -> list[dict]:
    """metrics.bit_budget_by_group of log2_probs float [R, N], of training examples and canaries."""
    return metrics.bit_budget_by_group(
        log2_probs[:, : panel.n_asked], panel.members, baseline=l0, groups=groups
    )


def budget_table(panel: MeasuredPanel, base: Baselines, groups: list[str]) -> list[dict]:
    """The bit budget of each group after the last kept epoch, and its rule bits over a 3-gram."""
    rows = budget(panel, panel.log2_probs, base.l0, groups)
    beside = budget(panel, panel.log2_probs, base.ngram, groups)
    kind_of = {}
    for group, kind in zip(groups, base.kinds, strict=True):
        kind_of.setdefault(group, set()).add(kind)
    return [
        {
            **row,
            "baseline": " and ".join(sorted(kind_of[row["group"]])),
            "ngram_bits": other["bits"],
            "ngram_rule": other["rule"],
        }
        for row, other in zip(rows, beside, strict=True)
    ]


def budget_over_epochs(
    panel: MeasuredPanel, base: Baselines, groups: list[str]
) -> dict[str, list[dict]]:
    """Group -> its bit budget at each kept epoch, and its answers' shares by exact match."""
    series = {group: [] for group in sorted(set(groups))}
    ledger = panel.ledger
    for k, (epoch, step) in enumerate(zip(ledger.epochs, ledger.steps, strict=True)):
        rows = budget(panel, -ledger.bits[k].astype(np.float64), base.l0, groups)
        for row, shares in zip(rows, exact_shares(panel, ledger.exact[k], groups), strict=True):
            about = {"epoch": int(epoch), "step": int(step)}
            own = {key: value for key, value in row.items() if key != "group"}
            series[row["group"]].append(about | own | shares)
    return series


def exact_shares(panel: MeasuredPanel, exact: np.ndarray, groups: list[str]) -> list[dict]:
    """Of each group the share of answers right by rule (OUT), by memory (IN - OUT), and wrong.

    exact bool [R, N]. They are a budget of 1 with exact match in the place of log-probability: what
    a model that is sure of a wrong answer loses is one answer here and may be many bits there.
    """
    ones = -np.ones(panel.n_asked)
    names = {"rule": "right_by_rule", "memory": "right_by_memory", "unexplained": "wrong"}
    return [
        {f"{name}{end}": row[f"{part}{end}"] for part, name in names.items() for end in ENDS}
        for row in budget(panel, exact - 1.0, ones, groups)
    ]


# ----------------------------------------------------------------------------------------------
# Repeat counts and extraction
# ----------------------------------------------------------------------------------------------


def kinds_of_training(panel: MeasuredPanel) -> dict[str, np.ndarray]:
    """ "right" and, where there are any, "wrong" answers -> columns of the training examples."""
    wrong = panel.breaks_rule[: panel.n_train]
    parts = {"right": np.flatnonzero(~wrong), "wrong": np.flatnonzero(wrong)}
    return {name: columns for name, columns in parts.items() if len(columns)}


def permutations_for(panel: MeasuredPanel) -> int:
    """100, and fewer where a permutation of the whole panel takes a second."""
    return 100 if panel.members.size < 10**6 else 20


def null_of(
    panel: MeasuredPanel,
    outcome: np.ndarray,
    groups: list | None = None,
    seed: int = 0,
    replicas: slice = slice(None),
) -> dict:
    """metrics.memory_null of the training examples' outcome, group -> its row."""
    rows = metrics.memory_null(
        outcome[replicas, : panel.n_train],
        panel.members[replicas, : panel.n_train],
        groups=groups,
        n_permutations=permutations_for(panel),
        seed=seed,
        strata=panel.strata,
    )
    return {row["group"]: {k: v for k, v in row.items() if k != "group"} for row in rows}


def by_repeat_count(panel: MeasuredPanel, kinds: dict[str, np.ndarray]) -> dict[str, list[dict]]:
    """Exact match and bits IN, OUT and memory of each repeat count, with the permuted-mask null.

    By kind of answer; the null is permuted within the strata of the draw, of all answers together.
    """
    counts, groups = merged_counts(panel.repeat_counts), [("", 0)] * panel.n_train
    for kind, columns in kinds.items():
        for i in columns.tolist():
            groups[i] = (kind, int(counts[i]))
    found = {}  # group -> {"n", "exact", "bits"}
    for name, outcome in (("exact", panel.exact), ("bits", panel.log2_probs)):
        nulls, asked = null_of(panel, outcome, groups), outcome[:, : panel.n_train]
        for row in metrics.memorization_by_group(asked, panel.members[:, : panel.n_train], groups):
            about = {k: v for k, v in row.items() if k not in ("group", "n", "n_left_out")}
            group = found.setdefault(row["group"], {"n": row["n"]})
            group[name] = about | {"null": nulls[row["group"]]}
    return {
        kind: [{"repeat_count": c, **found[k, c]} for k, c in sorted(found) if k == kind]
        for kind in kinds
    }


def extraction(panel: MeasuredPanel, columns: np.ndarray) -> dict:
    """What can be drawn out of IN and of OUT replicas, and how it grows with the repeat count."""
    members = panel.members[:, columns]
    return {
        "slope": metrics.repeat_slope(
            panel.exact[:, columns], members, panel.repeat_counts[columns]
        ),
        "curve": metrics.extraction_curve(panel.log2_probs[:, columns], members),
    }


# ----------------------------------------------------------------------------------------------
# Membership inference
# ----------------------------------------------------------------------------------------------


def attacks(log2_probs: np.ndarray, members: np.ndarray) -> dict[str, np.ndarray]:
    """Attack -> its scores [R, n]."""
    return {"LOSS": log2_probs, **attacks_by_others(log2_probs, members)}


def attacks_by_others(log2_probs: np.ndarray, members: np.ndarray) -> dict[str, np.ndarray]:
    """Those that hold the target beside the other replicas."""
    return {
        "calibrated": metrics.calibrated_scores(log2_probs, members),
        "LiRA": metrics.lira_scores(metrics.logit_scale(log2_probs), members),
        "RMIA": metrics.rmia_scores(log2_probs, members),
    }


def alike(panel: MeasuredPanel, ngram: np.ndarray) -> np.ndarray:
    """int64 [n_train]: equal for examples that look alike.

    They have one tag, lengths of prompt and answer, and quarter by the 3-gram of the answers.
    """
    n, of = panel.n_train, panel.columns
    quarter = np.searchsorted(np.quantile(ngram[:n], (0.25, 0.5, 0.75)), ngram[:n])
    looks = zip(of.tags[:n], of.prompts[:n], of.answers[:n], quarter.tolist(), strict=True)
    names = {}
    return np.array([names.setdefault((t, len(p), len(a), q), len(names)) for t, p, a, q in looks])


def membership(panel: MeasuredPanel, ngram: np.ndarray) -> dict:
    """Each attack's AUC and TPR at low FPR, those under permuted masks, and a blind baseline."""
    n = panel.n_train
    members, log2_probs = panel.members[:, :n], panel.log2_probs[:, :n]
    permuted = metrics.permuted_members(members, panel.strata, np.random.default_rng(0))
    n_groups = 20 if members.size < 10**6 else 10  # of replicas, each left out of all attacks

    def judged(mask: np.ndarray) -> dict[str, dict]:
        scores = attacks(log2_probs, mask)
        found = {name: metrics.membership_inference(s, mask) for name, s in scores.items()}
        ends = metrics.attacks_intervals(attacks_by_others, log2_probs, mask, n_groups)
        for name, (low, high) in ends.items():
            found[name] |= {"auc_low": _known(low), "auc_high": _known(high)}
        return found

    blind = blind_auc(alike(panel, ngram), members, panel.strata, permutations_for(panel))
    return {"attacks": judged(members), "null": judged(permuted), "blind": blind}


def blind_auc(
    kinds: np.ndarray, members: np.ndarray, strata: np.ndarray, n_permutations: int = 100
) -> dict:
    """AUC of guessing members without any model, with a 95 % interval.

    Each example's score is how often those of its kind are members of the other replicas; `kinds`
    and `strata` int64 [N], members bool [R, N]. A draw of members that looks at the examples would
    show here. The interval has the standard error that masks permuted within the strata give.

    The AUC is a mean over targets. Not over all pairs together: examples that look alike share
    their score but for the target's own members, so that between targets members score lower, and
    0.493 came out where nothing was to find. Two targets share what each says of the other, so that
    Student's t over their AUCs is too narrow: of its 95 % intervals 82 to 84 % held 0.5.
    """
    auc, rng = mean_blind_auc(kinds, members), np.random.default_rng(0)
    masks = (metrics.permuted_members(members, strata, rng) for _ in range(n_permutations))
    spread = float(np.std([mean_blind_auc(kinds, mask) for mask in masks], ddof=1))
    reach = metrics.t_quantile(n_permutations - 1) * spread
    return {"auc": _known(auc), "auc_low": _known(auc - reach), "auc_high": _known(auc + reach)}


def mean_blind_auc(kinds: np.ndarray, members: np.ndarray) -> float:
    """Mean over the replicas of the AUC of `blind_auc`; nan where no replica has both sides."""
    sizes = np.bincount(kinds)
    found = np.stack([np.bincount(kinds, row, len(sizes)) for row in members])  # [R, kinds]
    aucs = []
    for own, others in zip(found, found.sum(axis=0) - found, strict=True):
        _, place = np.unique(others / np.maximum(sizes, 1), return_inverse=True)
        inside, outside = (np.bincount(place, n) for n in (own, sizes - own))
        below = np.cumsum(outside) - outside / 2  # ties count half
        if pairs := inside.sum() * outside.sum():
            aucs.append((inside * below).sum() / pairs)
    return float(np.mean(aucs)) if aucs else math.nan


def mean_with_ends(name: str, values: np.ndarray) -> dict:
    """{name, name_low, name_high}: the mean over replicas and its 95 % interval by Student's t."""
    mean = float(values.mean()) if len(values) else math.nan
    half = metrics.seed_half_width(values) if len(values) > 1 else math.nan
    ends = {"": mean, "_low": mean - half, "_high": mean + half}
    return {f"{name}{end}": _known(value) for end, value in ends.items()}


# ----------------------------------------------------------------------------------------------
# Dynamics
# ----------------------------------------------------------------------------------------------


def side_means(outcome: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Mean over the replicas in the mask, [E, R, n] by [R, n] -> float [E, n], nan for none."""
    n = mask.sum(axis=0)
    sums = np.stack([(row & mask).sum(axis=0) for row in outcome])
    return np.where(n > 0, sums / np.maximum(n, 1), np.nan)


def learning_epochs(panel: MeasuredPanel) -> dict[str, np.ndarray]:
    """{"in", "out"} -> first kept epoch from which on at least half of the replicas are right.

    float [n_asked], nan for an example that is not learned to the end.
    """
    exact, members = panel.ledger.exact[:, :, : panel.n_asked], panel.members
    return {
        side: metrics.first_learned(side_means(exact, mask), panel.ledger.epochs, LEARNED)
        for side, mask in (("in", members), ("out", ~members))
    }


def forgetting(panel: MeasuredPanel) -> tuple[np.ndarray, np.ndarray]:
    """(events, events expected under independence) an IN replica, float [n_asked], nan without."""
    exact, members = panel.ledger.exact[:, :, : panel.n_asked], panel.members
    E, totals = len(exact), np.zeros((2, panel.n_asked))
    for r, trained in enumerate(members):
        own = exact[:, r]
        expected = metrics.expected_forgetting(own.mean(axis=0), E) * E / max(E - 1, 1)
        totals[:, trained] += np.stack([metrics.forgetting_events(own), expected])[:, trained]
    n_in = members.sum(axis=0)
    events, expected = np.where(n_in > 0, totals / np.maximum(n_in, 1), np.nan)
    return events, expected


def dynamics(panel: MeasuredPanel, groups: list[str]) -> list[dict]:
    """When the examples of each group are learned IN and OUT, and how often they are forgotten."""
    learned, (events, expected) = learning_epochs(panel), forgetting(panel)
    names, rows = np.array(groups), []
    for group in sorted(set(groups)):
        own = names == group
        row = {"group": group, "n": int(own.sum())}
        for side, epochs in learned.items():
            known = epochs[own][~np.isnan(epochs[own])]
            row[f"learned_{side}"] = len(known) / int(own.sum())
            row[f"median_epoch_{side}"] = float(np.median(known)) if len(known) else None
        has_in = own & ~np.isnan(events)
        row["forgetting_events"] = float(events[has_in].mean()) if has_in.any() else None
        row["forgetting_expected"] = float(expected[has_in].mean()) if has_in.any() else None
        rows.append(row)
    return rows


def order_effect(panel: MeasuredPanel, kinds: dict[str, np.ndarray]) -> dict[str, dict]:
    """metrics.order_effect of each kind of answer within tags and repeat counts.

    Of the last kept epoch. Replicas whose ledgers do not say when they saw what are left out.
    """
    groups = list(zip(panel.columns.tags, panel.repeat_counts.tolist(), strict=False))
    steps = panel.ledger.last_steps
    return {
        kind: metrics.order_effect(
            steps[:, columns],
            panel.log2_probs[:, columns],
            panel.members[:, columns] & (steps[:, columns] > 0),
            groups=[groups[i] for i in columns],
        )
        for kind, columns in kinds.items()
    }


# ----------------------------------------------------------------------------------------------
# Lookup baselines
# ----------------------------------------------------------------------------------------------


def lookup(panel: MeasuredPanel) -> list[dict]:
    """What lookup in the first replica's own training rows answers, beside that of all replicas.

    On at most HELD_OUT_LOOKUPS held-out examples of each tag, the first by key.
    """
    of, start = panel.columns, panel.ledger.held_out.start
    train = panel_texts(panel, panel.repeat_counts * panel.ledger.members[0])
    rows = []
    for tag in sorted(set(of.tags[start:])):
        asked = [i for i in range(start, len(of.tags)) if of.tags[i] == tag][:HELD_OUT_LOOKUPS]
        prompts, answers = ([column[i] for i in asked] for column in (of.prompts, of.answers))
        tags = [tag] * len(asked)
        found = lookup_answers(prompts, tags, train)
        rates = {name: float(metrics.exact_match(f, answers).mean()) for name, f in found.items()}
        rows.append(
            {
                "group": tag,
                "n": len(asked),
                "exact_match": float(panel.exact[:, asked].mean()),
                **rates,
                "chance": chance_of(tags, answers),
            }
        )
    return rows


# ----------------------------------------------------------------------------------------------
# Exposure and LiMem: reductions of what evaluate_memorization.py scores
# ----------------------------------------------------------------------------------------------


def exposure_table(
    exposures: np.ndarray, counts: np.ndarray, n_candidates: np.ndarray
) -> tuple[list[dict], dict]:
    """Mean exposure of the canaries by how often a replica trained on them, and the null.

    exposures float [R, n], bits; counts int [R, n], rows in that replica's training; n_candidates
    int [n]. Each row: {"repeat_count", "n" (pairs of replica and canary), "n_canaries",
    "exposure" with ends over replicas, "most" (what it is where every canary has rank 1),
    "expected" of canaries that were not trained on, "null_low" and "null_high"}. The null's band
    has the distinct canaries as units, since replicas rank one canary alike. The second value is
    the row of those that were not trained on.
    """
    rows = []
    for count in np.unique(counts):
        own = counts == count
        low, high = metrics.jackknife_interval(
            mean := exposures[own].mean(), _means_without_each_replica(exposures, own)
        )
        columns = np.flatnonzero(own.any(axis=0))
        weights = own.sum(axis=0)[columns] / own.sum()
        nulls = np.array([null_moments(int(c)) for c in n_candidates[columns]])
        expected, sd = weights @ nulls[:, 0], math.sqrt(weights**2 @ nulls[:, 1])
        rows.append(
            {
                "repeat_count": int(count),
                "n": int(own.sum()),
                "n_canaries": len(columns),
                "exposure": float(mean),
                "exposure_low": _known(low),
                "exposure_high": _known(high),
                "most": float(weights @ np.log2(n_candidates[columns])),
                "expected": float(expected),
                "null_low": float(max(0.0, expected - metrics.Z_95 * sd)),
                "null_high": float(expected + metrics.Z_95 * sd),
            }
        )
    untrained = next((row for row in rows if row["repeat_count"] == 0), None)
    return rows, untrained


def null_moments(n_candidates: int) -> tuple[float, float]:
    """Mean and variance of the exposure of a canary whose rank is uniform over 1..n_candidates."""
    logs = math.log2(n_candidates) - np.log2(np.arange(1, n_candidates + 1))
    return float(logs.mean()), float(logs.var())


def _means_without_each_replica(values: np.ndarray, mask: np.ndarray) -> np.ndarray:
    sums, n = (values * mask).sum(axis=1), mask.sum(axis=1)
    left = n.sum() - n
    return np.where(left > 0, (sums.sum() - sums) / np.maximum(left, 1), np.nan)


def limem_table(trained: list[dict], held_out: list[dict]) -> dict:
    """LiMem of each replica's own training examples minus that of unseen ones.

    trained and held_out hold `metrics.limem` of each replica. Means over replicas, by Student's t.
    """
    pairs = [
        (a["limem"], b["limem"])
        for a, b in zip(trained, held_out, strict=True)
        if None not in (a["limem"], b["limem"])
    ]
    values = np.array(pairs, dtype=np.float64).reshape(-1, 2)
    table = {"n_replicas": len(values), "n": trained[0]["n"], "n_held_out": held_out[0]["n"]}
    train, unseen = values.T
    parts = {"train": train, "unseen": unseen, "difference": train - unseen}
    for name, own in parts.items():
        table |= mean_with_ends(name, own)
    return table


# ----------------------------------------------------------------------------------------------
# Examples one by one
# ----------------------------------------------------------------------------------------------


def _known(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def per_example(panel: MeasuredPanel, l0: np.ndarray) -> dict[str, list]:
    """Column -> its values for the training examples and canaries: per_example.csv.

    None where there is no value: a rate without replicas, the repeat count of a canary (it differs
    between replicas), an epoch that does not come, a neighbour where there are too many to compare.
    """
    n, of, members = panel.n_asked, panel.columns, panel.members
    rates = metrics.counterfactual_memorization(panel.exact[:, :n], members)
    bits = metrics.bit_budget(panel.log2_probs[:, :n], members, l0)
    errors = metrics.counterfactual_memorization(panel.log2_probs[:, :n], members)
    learned, (events, _) = learning_epochs(panel), forgetting(panel)
    neighbour, distance = neighbours(panel)
    return {
        "task": [task_of_tag(tag) or tag for tag in of.tags[:n]],
        "tag": of.tags[:n],
        "prompt": of.prompts[:n],
        "answer": of.answers[:n],
        "repeat_count": panel.repeat_counts.tolist() + [None] * (n - panel.n_train),
        "canary": [i >= panel.n_train for i in range(n)],
        "wrong_answer": panel.breaks_rule[:n].tolist(),
        "n_in": rates["n_in"].tolist(),
        "n_out": rates["n_out"].tolist(),
        "exact_in": values_of(rates["mean_in"]),
        "exact_out": values_of(rates["mean_out"]),
        "memory": values_of(rates["memory"]),
        "memory_standard_error": values_of(rates["standard_error"]),
        "rule_bits": values_of(bits["rule"]),
        "memory_bits": values_of(bits["memory"]),
        "memory_bits_standard_error": values_of(errors["standard_error"]),
        "unexplained_bits": values_of(bits["unexplained"]),
        "first_learned_epoch_in": whole_values_of(learned["in"]),
        "first_learned_epoch_out": whole_values_of(learned["out"]),
        "forgetting_events": values_of(events),
        "nearest_training_prompt": [None if i < 0 else of.prompts[i] for i in neighbour],
        "nearest_training_distance": [None if i < 0 else int(i) for i in distance],
    }


def values_of(array: np.ndarray) -> list:
    return [_known(value) for value in array]


def whole_values_of(array: np.ndarray) -> list:
    return [int(value) if math.isfinite(value) else None for value in array]


def neighbours(panel: MeasuredPanel) -> tuple[np.ndarray, np.ndarray]:
    """The nearest other training prompt of each example, and its distance; -1 where too many."""
    n, of = panel.n_asked, panel.columns
    own_rows = np.append(np.arange(panel.n_train), np.full(n - panel.n_train, -1))
    tags, asked = np.unique(of.tags[:n], return_counts=True)
    trained = np.array([of.tags[: panel.n_train].count(tag) for tag in tags])
    if int(asked @ trained) > MOST_DISTANCES:
        return np.full(n, -1), np.full(n, -1)
    train = panel_texts(panel, np.ones(panel.n_train, dtype=np.int64))
    return nearest_neighbours(of.prompts[:n], of.tags[:n], train, own_rows)


def most_memorized(panel: MeasuredPanel, columns: dict[str, list]) -> dict:
    """The training examples with most memory bits: every other replica chooses, the rest measure.

    The largest of many noisy values overstates: simulated, by 2.3 bits with 16 replicas. What other
    replicas find of the same example does not. Examples that these cannot measure, having fewer
    than two IN or two OUT, are not chosen.

    {"null_maximum", "null_maximum_high" (bits: the largest memory of any example that noise gives
    the choosing half, mean and 95 % quantile), "examples"}. Each of these has its `columns`,
    "column", "chosen_bits" (by the half that chose) and "measured_bits" with "_low" and "_high" (by
    the other): Student's t over replicas, with the degrees of freedom of the smaller side, IN or
    OUT, which are never more than Welch's.
    """
    chosen, measured = (
        metrics.counterfactual_memorization(
            panel.log2_probs[half, : panel.n_train], panel.members[half, : panel.n_train]
        )
        for half in (CHOOSING, MEASURING)
    )
    smaller = np.minimum(measured["n_in"], measured["n_out"])
    memory = np.where((smaller >= 2) & ~np.isnan(chosen["memory"]), chosen["memory"], -np.inf)
    order = np.argsort(-memory, kind="stable")[: min(MOST_NAMED, int(np.isfinite(memory).sum()))]
    found = []
    for i in order.tolist():
        middle = float(measured["memory"][i])
        half = metrics.t_quantile(int(smaller[i]) - 1) * float(measured["standard_error"][i])
        found.append(
            {
                **{key: values[i] for key, values in columns.items()},
                "column": i,
                "chosen_bits": float(memory[i]),
                "measured_bits": middle,
                "measured_bits_low": middle - half,
                "measured_bits_high": middle + half,
            }
        )
    null = null_of(panel, panel.log2_probs, replicas=CHOOSING)["all"]
    return {
        "null_maximum": null["maximum"],
        "null_maximum_high": null["maximum_high"],
        "examples": found,
    }


# ----------------------------------------------------------------------------------------------
# Self-tests: what must come out whatever the models do
# ----------------------------------------------------------------------------------------------


def _test(name: str, expected: float, value: float | None, tolerance: float | None, unit: str):
    passed = None
    if value is not None and tolerance is not None:
        passed = bool(abs(value - expected) <= tolerance)
    return {
        "name": name,
        "expected": expected,
        "value": value,
        "tolerance": tolerance,
        "at_most": False,
        "unit": unit,
        "passed": passed,
    }


def _auc_test(name: str, found: dict) -> dict:
    """AUC 0.5 within twice its 95 % half width."""
    tolerance = None
    if found["auc_low"] is not None:
        tolerance = max(0.005, found["auc_high"] - found["auc_low"])
    return _test(name, 0.5, found["auc"], tolerance, "AUC")


def self_tests(panel: MeasuredPanel, results: dict) -> list[dict]:
    """Each with what must come out, what came out, and how far it may lie off by chance."""
    null, permutations = null_of(panel, panel.log2_probs, seed=1)["all"], permutations_for(panel)
    sd = null["sd"] if null["sd"] is not None else math.nan
    rounding = 1e-9  # of a panel whose replicas are all alike
    tolerance = _known(5 * sd / math.sqrt(permutations) + rounding)
    tests = [_test("memory under permuted masks", 0.0, null["mean"], tolerance, "bits")]
    tests += [_auc_test("LiRA under permuted masks", results["membership"]["null"]["LiRA"])]
    tests += [_auc_test("blind baseline, no model", results["membership"]["blind"])]
    if untrained := (results["exposure"] or {}).get("untrained"):
        band = untrained["null_high"] - untrained["expected"]
        tests += [
            _test(
                "exposure of canaries not trained on",
                untrained["expected"],
                untrained["exposure"],
                2 * band,
                "bits",
            )
        ]
    return [*tests, ceiling_test(panel, results)]


def ceiling_test(panel: MeasuredPanel, results: dict) -> dict:
    """A replica's memory, all its examples together, is below what its parameters can hold."""
    n_params = panel.config["derived"]["n_params"]
    rows = [row for row in results["budget"] if row["memory"] is not None]
    rows = [row for row in rows if not row["group"].endswith(CANARIES)]
    n = sum(row["n"] for row in rows)
    memory = sum(row["memory"] * row["n"] for row in rows) / n if n else math.nan
    value = _known(memory * panel.n_members / n_params)
    test = _test("memory a parameter", MOST_BITS_PER_PARAMETER, value, None, "bits")
    passed = None if value is None else value <= MOST_BITS_PER_PARAMETER
    return test | {"at_most": True, "passed": passed}


# ----------------------------------------------------------------------------------------------
# All of it
# ----------------------------------------------------------------------------------------------


def about_panel(panel: MeasuredPanel) -> dict:
    ledger = panel.ledger
    return {
        "folder": str(panel.folder),
        "replicas": ledger.R,
        "seeds": ledger.seeds,
        "share": ledger.share,
        "n_distinct": panel.n_distinct,
        "n_members": panel.n_members,
        "n_train": ledger.n_train,
        "n_canaries": ledger.n_canaries,
        "n_held_out": len(ledger.keys) - panel.n_asked,
        "n_params": panel.config["derived"]["n_params"],
        "epochs": ledger.epochs.tolist(),
        "steps": ledger.steps.tolist(),
    }


def measure(panel: MeasuredPanel) -> tuple[dict, dict[str, list]]:
    """(memorization_results.json, the columns of per_example.csv), all that needs no weights.

    "exposure", "limem" and "self_tests" are left to be filled in.
    """
    groups, kinds, base = group_names(panel), kinds_of_training(panel), baselines_of(panel)
    columns = per_example(panel, base.l0)
    results = {
        "format": 1,
        "panel": about_panel(panel),
        "claims": metrics.allowed_claims(panel.ledger.R),
        "budget": budget_table(panel, base, groups),
        "budget_over_epochs": budget_over_epochs(panel, base, groups),
        "by_repeat_count": by_repeat_count(panel, kinds),
        "extraction": {kind: extraction(panel, own) for kind, own in kinds.items()},
        "membership": membership(panel, base.ngram),
        "dynamics": dynamics(panel, groups),
        "order_effect": order_effect(panel, kinds),
        "lookup": lookup(panel),
        "most_memorized": most_memorized(panel, columns),
        "exposure": None,
        "limem": None,
        "self_tests": [],
    }
    return results, columns
