"""evaluate_memorization.py: scripted panels with known answers, what is refused, files and figures.

The replicas of tests/panels.py are functions, so every measure has a value known beforehand. One
tiny panel is trained through the trainer's command line at the end.
"""

import csv
import io
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import evaluate_memorization as script
import metrics
from memorization import measures
from memorization.figures import FIGURES, map_figure
from memorization.page import bits, no_minus_zero, order_notes, page, rate, sentence
from memorization.panel import follows_rule, read
from panels import (
    EASY,
    HARD,
    lookup_table,
    mixture,
    noise,
    rule,
    sums,
    write_data,
    write_panel,
)
from reporting.gather import cell
from runtime.files import ROOT
from runtime.ledger import read_ledger

REPEATS = (1, 1, 2, 4, 8)


def texts(n_train=200, n_val=40, **how):
    rows = sums(np.random.default_rng(0), n_train, **how)
    seen = {raw.partition("|")[0] for raw in rows}
    others = [
        raw for raw in sums(np.random.default_rng(1), 400) if raw.partition("|")[0] not in seen
    ]
    return rows, others[:n_val]


def some_canaries(n=14):
    """Sums with the operand 100, which no other row has, and wrong answers of as many digits."""
    return [
        {
            "task": "add",
            "prompt": f"{a} + 100",
            "answer": str(900 - 7 * a),
            "true_answer": str(a + 100),
            "n_legal": 900,
        }
        for a in range(20, 20 + n)
    ]


@pytest.fixture(scope="module")
def scripted(tmp_path_factory):
    """A function to the MeasuredPanel of a scripted replica; one folder for each."""
    made = {}

    def panel(replica, **how):
        key = (replica, *sorted(how.items()))
        if key not in made:
            folder = tmp_path_factory.mktemp("panel")
            train, val = texts(repeats=REPEATS, wrong_share=how.pop("wrong_share", 0.0))
            write_panel(folder, replica, train, val, canaries=some_canaries(), **how)
            made[key] = read(folder)[0]
        return made[key]

    return panel


def budget_of(panel):
    groups = measures.group_names(panel)
    rows = measures.budget_table(panel, measures.baselines_of(panel), groups)
    return {row["group"]: row for row in rows}


# ------------------------------------------------------------------------------------------------
# Scripted replicas
# ------------------------------------------------------------------------------------------------


def test_a_lookup_table_is_all_memory_and_no_rule(scripted):
    panel = scripted(lookup_table)
    row = budget_of(panel)["add"]
    assert row["memory"] == pytest.approx(HARD - EASY)
    assert row["rule"] == pytest.approx(row["bits"] - HARD)  # below 0: worse than an even guess
    assert row["unexplained"] == pytest.approx(EASY)
    exact = measures.by_repeat_count(panel, measures.kinds_of_training(panel))["right"]
    for counted in exact:
        assert (counted["exact"]["in"], counted["exact"]["out"]) == (1.0, 0.0)
        assert counted["exact"]["memory"] == 1.0


def test_a_rule_is_no_memory(scripted):
    panel = scripted(rule)
    row = budget_of(panel)["add"]
    assert row["memory"] == pytest.approx(0, abs=1e-12)
    assert row["rule"] == pytest.approx(row["bits"] - EASY)
    found = measures.membership(panel, measures.baselines_of(panel).ngram)
    assert found["attacks"]["LOSS"]["auc"] == 0.5
    assert found["attacks"]["calibrated"]["auc"] == 0.5


def test_a_mixture_shows_its_share(scripted):
    panel = scripted(mixture(0.25))
    right = panel.exact[:, : panel.n_train]
    rates = metrics.counterfactual_memorization(right, panel.members[:, : panel.n_train])
    asked = panel.n_asked + len(panel.columns.tags) - panel.n_asked  # scripted over all columns
    n_known = int(np.ceil(0.25 * asked))
    assert np.nanmean(rates["memory"][:n_known]) == 0.0
    assert np.nanmean(rates["memory"][n_known:]) == 1.0


@pytest.mark.parametrize(
    ("replica", "known"), [(lookup_table, 0), (rule, 1), (mixture(0.25), 0.25)]
)
def test_answers_are_right_by_rule_by_memory_or_wrong(scripted, replica, known):
    panel = scripted(replica)
    results, _ = measures.measure(panel)
    first, *_, last = results["budget_over_epochs"]["add"]
    names = ("right_by_rule", "right_by_memory", "wrong")
    assert [first[name] for name in names] == [0, 0, 1]  # nothing is known yet
    # A mixture knows the first of all columns, canaries and held-out examples too.
    by_rule = np.mean(np.arange(panel.n_train) < known * len(panel.columns.tags))
    assert [last[name] for name in names] == pytest.approx([by_rule, 1 - by_rule, 0])
    for name in names:
        assert last[f"{name}_low"] <= last[name] <= last[f"{name}_high"]


def test_bits_of_an_answer_are_those_of_its_form(scripted):
    panel = scripted(rule)
    base = measures.baselines_of(panel)
    for answer, l0 in zip(panel.columns.answers[: panel.n_asked], base.l0, strict=True):
        assert l0 == -np.log2({1: 10, 2: 90, 3: 900}[len(answer)])
    assert set(base.kinds) == {"legal answers"}


def test_a_tag_without_a_record_is_measured_against_the_ngram(tmp_path):
    train, val = ([raw.replace("[add]", "[dad]") for raw in rows] for rows in texts(80, 20))
    panel, _ = read(write_panel(tmp_path, rule, train, val))
    base = measures.baselines_of(panel)
    assert set(base.kinds) == {"3-gram"}
    assert np.array_equal(base.l0, base.ngram)
    row = budget_of(panel)["dad"]
    assert row["rule"] == row["ngram_rule"]
    assert measures.lookup(panel)[0]["chance"] is None


def test_wrong_answers_stand_apart(scripted):
    panel = scripted(lookup_table, wrong_share=0.1)
    assert panel.breaks_rule[: panel.n_train].sum() == 20
    assert panel.breaks_rule[panel.n_train : panel.n_asked].all()
    rows = budget_of(panel)
    assert {g: row["n"] for g, row in rows.items()} == {
        "add": 180,
        "add, wrong answers": 20,
        "add, canaries": 14,
    }
    kinds = measures.kinds_of_training(panel)
    assert {k: len(v) for k, v in kinds.items()} == {"right": 180, "wrong": 20}


def test_the_null_is_permuted_within_the_strata_of_the_draw(scripted):
    """Within wrong answers replicas drew more or fewer; permuted there, the null is above 0."""
    panel = scripted(lookup_table, wrong_share=0.1)
    n, outcome = panel.n_train, panel.log2_probs
    how = {"n_permutations": 400, "seed": 3}
    members = panel.members[:, :n]
    groups = [
        f"{name} {count}"
        for name, count in zip(measures.group_names(panel), panel.repeat_counts, strict=False)
    ]
    biased = metrics.memory_null(outcome[:, :n], members, groups, **how)[-1]
    fair = metrics.memory_null(outcome[:, :n], members, None, strata=panel.strata, **how)[-1]
    assert abs(fair["mean"]) < 4 * fair["sd"] / 20
    assert biased["mean"] > 4 * biased["sd"] / 20


def test_repeat_counts_many_are_merged_by_powers_of_two():
    counts = np.array([1, 2, 3, 5, 6, 7, 9, 10, 12, 17, 33, 64, 100])
    merged = [1, 2, 2, 4, 4, 4, 8, 8, 8, 16, 32, 64, 64]
    assert measures.merged_counts(counts).tolist() == merged
    assert measures.merged_counts(counts[:12]) is not None
    assert measures.merged_counts(counts[:12]).tolist() == counts[:12].tolist()


def test_memory_that_doubles_with_the_repeats_has_slope_one():
    rng, counts = np.random.default_rng(0), np.repeat([1, 2, 4, 8], 50)
    members = rng.random((12, 200)) < 0.5
    found = metrics.repeat_slope(members * counts / 16, members, counts)
    assert found["slope"] == pytest.approx(1)
    assert found["slope_low"] == pytest.approx(1)
    assert found["n_counts"] == 4
    flat = metrics.repeat_slope(members * 0.5, members, counts)
    assert flat["slope"] == pytest.approx(0, abs=1e-12)
    assert metrics.repeat_slope(0 * members, members, counts)["slope"] is None


def test_a_count_without_memory_leaves_no_slope_of_the_others():
    """Noise decides which weak counts are above 0: a slope of those alone would be of the noise."""
    rng, counts = np.random.default_rng(0), np.repeat([1, 2, 4, 8], 50)
    members = rng.random((12, 200)) < 0.5
    none = np.where(counts == 1, 0.5, members * counts / 16) + rng.normal(0, 0.01, members.shape)
    found = metrics.repeat_slope(none, members, counts)
    assert (found["weak_counts"], found["slope"], found["slope_low"]) == ([1], None, None)


# ------------------------------------------------------------------------------------------------
# Properties
# ------------------------------------------------------------------------------------------------


@settings(max_examples=25)
@given(seed=st.integers(0, 10**6), R=st.integers(2, 9), n=st.integers(4, 40), E=st.integers(1, 4))
def test_parts_add_up_and_rates_stay_within_bounds(scripted, seed, R, n, E):
    """Any membership and any ledger, replicas that all had an example or none had, included."""
    rng = np.random.default_rng(seed)
    whole = scripted(noise)
    n_train, N = whole.n_train, len(whole.columns.tags)
    ledger = replace(
        whole.ledger,
        seeds=list(range(R)),
        members=rng.random((R, n_train)) < rng.random(),
        canary_counts=rng.integers(0, 3, (R, whole.ledger.n_canaries)),
        epochs=np.arange(1, E + 1),
        steps=10 * np.arange(1, E + 1),
        bits=(20 * rng.random((E, R, N)) ** 3).astype(np.float16),
        exact=rng.random((E, R, N)) < rng.random(),
    )
    panel = replace(whole, ledger=ledger)
    groups = measures.group_names(panel)
    for row in measures.budget_table(panel, measures.baselines_of(panel), groups):
        assert row["n"] + row["n_left_out"] == groups.count(row["group"])
        if row["bits"] is not None:
            parts = row["rule"] + row["memory"] + row["unexplained"]
            assert parts == pytest.approx(row["bits"])
            assert row["unexplained"] >= 0
        assert sentence(row)
    columns = measures.per_example(panel, measures.baselines_of(panel).l0)
    assert {len(values) for values in columns.values()} == {panel.n_asked}
    for i in range(panel.n_asked):
        assert columns["n_in"][i] + columns["n_out"][i] == R
        both = columns["n_in"][i] and columns["n_out"][i]
        assert (columns["memory"][i] is not None) == bool(both)
        if both:
            difference = columns["exact_in"][i] - columns["exact_out"][i]
            assert columns["memory"][i] == pytest.approx(difference)
    json.dumps(measures.dynamics(panel, groups), allow_nan=False)


# ------------------------------------------------------------------------------------------------
# Dynamics
# ------------------------------------------------------------------------------------------------


def test_dynamics_of_a_lookup_table(scripted):
    panel = scripted(lookup_table)
    rows = {row["group"]: row for row in measures.dynamics(panel, measures.group_names(panel))}
    row = rows["add"]
    assert (row["learned_in"], row["median_epoch_in"]) == (1.0, 2.0)  # nothing is known at epoch 1
    assert (row["learned_out"], row["median_epoch_out"]) == (0.0, None)
    assert row["forgetting_events"] == 0
    assert row["forgetting_expected"] == pytest.approx(4 * 0.75 * 0.25)


def test_forgetting_is_counted_over_the_replicas_that_trained_on_an_example(scripted):
    whole = scripted(lookup_table)
    exact = np.zeros_like(whole.ledger.exact)
    exact[0] = exact[2] = True  # right, wrong, right, wrong: forgotten twice
    panel = replace(whole, ledger=replace(whole.ledger, exact=exact))
    events, expected = measures.forgetting(panel)
    assert set(events.tolist()) == {2.0}
    assert set(np.round(expected, 12).tolist()) == {1.0}  # 3 * 1/4, times 4 / 3


def test_the_order_of_training_is_held_against_what_is_known(scripted):
    """Scripted: each example's bits fall by its step, but within repeat counts alone."""
    whole = scripted(mixture(0.5), wrong_share=0.2)
    steps, kinds = whole.ledger.last_steps, measures.kinds_of_training(whole)
    bits = np.zeros(whole.ledger.bits.shape)
    counts = whole.repeat_counts + 0.0
    bits[-1, :, : whole.n_train] = 30 - steps[:, : whole.n_train] / 100 - 4 * np.log2(counts)
    panel = replace(whole, ledger=replace(whole.ledger, bits=bits))
    for kind, row in measures.order_effect(panel, kinds).items():
        assert (row["n_replicas"], kind in kinds) == (whole.ledger.R, True)
        assert (row["mean"], row["low"], row["high"]) == pytest.approx((1, 1, 1))
    for row in measures.order_effect(whole, kinds).values():
        assert row["low"] is None or row["low"] < 0 < row["high"]
    unknown = replace(whole, ledger=replace(whole.ledger, last_steps=np.zeros_like(steps)))
    assert {r["mean"] for r in measures.order_effect(unknown, kinds).values()} == {None}
    results = {"order_effect": measures.order_effect(panel, kinds)}
    (note,) = order_notes(results)
    assert "right answers +1.000 [+1.000, +1.000]; wrong answers +1.000" in note
    assert order_notes({"order_effect": measures.order_effect(unknown, kinds)}) == []


# ------------------------------------------------------------------------------------------------
# Exposure, LiMem, membership
# ------------------------------------------------------------------------------------------------


def test_candidates_are_every_legal_answer_but_the_true_one():
    found = script.candidates("add", "41 + 5", "77")
    assert found[0] == "77"
    assert sorted(found) == [str(n) for n in range(10, 100) if n != 46]
    many = script.candidates("copy", "123 45 678", "111 22 333")  # 72.9 million
    assert len(many) == len(set(many)) == 1025
    assert many[0] == "111 22 333"
    assert "123 45 678" not in many
    assert {tuple(map(len, text.split())) for text in many} == {(3, 2, 3)}
    assert many == script.candidates("copy", "123 45 678", "111 22 333")


def test_exposure_of_uniform_ranks_is_inside_its_band_and_that_of_trained_canaries_above():
    rng, n_candidates = np.random.default_rng(0), np.full(40, 500)
    counts = rng.permuted(np.tile([0, 0, 4, 4], (16, 10)), axis=1)
    ranks = np.where(counts == 0, rng.integers(1, 501, (16, 40)), 1)
    rows, untrained = measures.exposure_table(np.log2(500) - np.log2(ranks), counts, n_candidates)
    assert [row["repeat_count"] for row in rows] == [0, 4]
    assert untrained is rows[0]
    assert untrained["expected"] == pytest.approx(metrics.expected_exposure(500))
    assert untrained["null_low"] < untrained["exposure"] < untrained["null_high"]
    assert rows[1]["exposure"] == pytest.approx(np.log2(500))
    assert (rows[0]["n"], rows[1]["n"]) == (320, 320)


def test_the_most_that_exposure_can_be_is_the_mean_over_its_canaries():
    """One of 899 candidates and three of 89: no mean over them reaches log2(899)."""
    n_candidates = np.array([899, 89, 89, 89])
    exposures = np.tile(np.log2(n_candidates), (6, 1))
    (row,), _ = measures.exposure_table(exposures, np.ones((6, 4), int), n_candidates)
    assert row["most"] == pytest.approx((np.log2(899) + 3 * np.log2(89)) / 4)
    assert row["exposure"] == pytest.approx(row["most"])


def test_limem_table_is_the_mean_difference_within_replicas():
    trained = [{"limem": v, "n": 10} for v in (0.8, 0.9, 1.0)]
    unseen = [{"limem": v, "n": 12} for v in (0.1, 0.2, 0.3)]
    found = measures.limem_table(trained, unseen)
    assert found["train"] == pytest.approx(0.9)
    assert found["difference"] == pytest.approx(0.7)
    assert found["difference_low"] == pytest.approx(0.7)
    assert (found["n_replicas"], found["n"], found["n_held_out"]) == (3, 10, 12)


def test_a_blind_baseline_finds_nothing_and_a_draw_by_length_is_found(scripted):
    panel = scripted(noise)
    ngram = measures.baselines_of(panel).ngram
    kinds = measures.alike(panel, ngram)
    honest = measures.blind_auc(kinds, panel.members[:, : panel.n_train], panel.strata)
    assert honest["auc_low"] < 0.5 < honest["auc_high"]
    by_length = np.array([len(a) == 3 for a in panel.columns.answers[: panel.n_train]])
    noise_of = np.random.default_rng(0).random((panel.ledger.R, panel.n_train)) < 0.1
    found = measures.blind_auc(kinds, by_length ^ noise_of, panel.strata)
    assert found["auc"] > 0.8


def test_the_blind_baseline_is_the_mean_auc_of_its_scores():
    rng = np.random.default_rng(1)
    kinds, members = rng.integers(0, 6, 40), rng.random((5, 40)) < 0.5
    aucs = []
    for r, own in enumerate(members):
        others = np.delete(members, r, axis=0)
        score = [others[:, kinds == kind].mean() for kind in kinds]
        aucs.append(metrics.auroc(score, own))
    assert measures.mean_blind_auc(kinds, members) == pytest.approx(np.mean(aucs))


def test_the_interval_of_the_blind_baseline_holds_a_half_where_nothing_is_to_find():
    """Student's t over the targets held it in 121 of these 150 panels."""
    rng, held = np.random.default_rng(0), 0
    kinds, strata = np.repeat(np.arange(8), 5), np.zeros(40, int)
    for _ in range(150):
        members = rng.permuted(np.tile([True, False], (6, 20)), axis=1)
        found = measures.blind_auc(kinds, members, strata, 60)
        held += found["auc_low"] <= 0.5 <= found["auc_high"]
    assert 138 <= held <= 149


def test_there_is_no_limem_where_the_ledger_follows_a_part_of_the_training_set(scripted):
    """Whether a replica trained on an edit is then not known."""
    panel = scripted(lookup_table)
    assert script.limem(replace(panel, n_distinct=panel.n_train + 1), None) is None


def test_known_to_finds_every_example_of_a_prompt(scripted):
    panel = scripted(lookup_table)
    keys = np.append(panel.prompt_keys, [np.int64(12345)])
    known = script.known_to(panel, keys)
    assert np.array_equal(known[:, :-1], panel.members)
    assert not known[:, -1].any()
    twice = replace(panel, prompt_keys=np.full_like(panel.prompt_keys, 7))
    assert np.array_equal(script.known_to(twice, np.array([7]))[:, 0], panel.members.any(axis=1))


# ------------------------------------------------------------------------------------------------
# Self-tests
# ------------------------------------------------------------------------------------------------


def self_tests_of(panel):
    results, _ = measures.measure(panel)
    return {test["name"]: test for test in measures.self_tests(panel, results)}


def test_self_tests_pass_on_scripted_panels(scripted):
    for replica in (lookup_table, noise, rule):
        assert all(test["passed"] for test in self_tests_of(scripted(replica)).values())


def test_a_ledger_with_more_bits_than_the_model_holds_fails_its_ceiling(scripted):
    panel = scripted(lookup_table)
    small = replace(panel, config={**panel.config, "derived": {"n_params": 200}})
    test = self_tests_of(small)["memory a parameter"]
    assert test["value"] == pytest.approx((HARD - EASY) * 100 / 200, rel=0.01)
    assert test["passed"] is False


# ------------------------------------------------------------------------------------------------
# Command line on ledgers alone
# ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    """(folder of a scripted panel, its results), evaluated through the command line."""
    folder = tmp_path_factory.mktemp("evaluated") / "panel"
    train, val = texts(repeats=REPEATS, wrong_share=0.1)
    write_panel(folder, mixture(0.3), train, val, canaries=some_canaries())
    assert script.main(["--model", str(folder), "--ledger_only"]) == 0
    return folder, json.loads((folder / "memorization/memorization_results.json").read_text())


def test_results_and_figures_are_written(evaluated):
    folder, results = evaluated
    files = {path.name for path in (folder / "memorization").iterdir()}
    drawn = set(FIGURES) - {"exposure.png"}  # needs the models
    assert files == {"memorization_results.json", "per_example.csv", *drawn}
    assert results["panel"]["replicas"] == 16
    assert results["panel"]["n_members"] == 100
    assert results["panel"]["epochs"] == [1, 2, 4, 8]
    assert [row["epoch"] for row in results["budget_over_epochs"]["add"]] == [1, 2, 4, 8]
    assert results["budget_over_epochs"]["add"][0]["memory"] == 0


def test_per_example_csv_is_a_table_of_typed_columns(evaluated):
    folder, _ = evaluated
    rows = list(csv.DictReader(io.StringIO((folder / "memorization/per_example.csv").read_text())))
    assert len(rows) == 214
    for name in ("n_in", "n_out", "canary", "wrong_answer"):
        assert all(row[name].isdigit() for row in rows)
    for name in ("memory", "rule_bits", "memory_bits_standard_error", "forgetting_events"):
        assert all(row[name] == "" or np.isfinite(float(row[name])) for row in rows)
    assert sum(row["canary"] == "1" for row in rows) == 14
    assert {row["repeat_count"] for row in rows if row["canary"] == "1"} == {""}
    assert {row["repeat_count"] for row in rows if row["canary"] == "0"} == set("1248")
    for row in rows[:5]:
        assert row["nearest_training_prompt"] != row["prompt"]
        assert int(row["nearest_training_distance"]) >= 1


def test_no_cell_is_a_formula_to_a_spreadsheet():
    columns = {"prompt": ["=1+1", "@x", "-5 + 3", "5 + 3", "+1"], "memory": [-0.5, None, 1, 2, 3]}
    rows = list(csv.reader(io.StringIO(script.csv_text(columns))))
    assert [row[0] for row in rows] == ["prompt", "'=1+1", "'@x", "'-5 + 3", "5 + 3", "'+1"]


@given(st.text(max_size=6) | st.sampled_from(["'-3 + 1", "'=x", "''", "-1", "'", ""]))
def test_a_text_comes_back_from_its_cell(text):
    assert cell("prompt", str(script.csv_cell(text))) == text


def test_numbers_stand_in_cells_as_they_are():
    columns = {"prompt": ["=1+1", "@x", "-5 + 3", "5 + 3", "+1"], "memory": [-0.5, None, 1, 2, 3]}
    rows = list(csv.reader(io.StringIO(script.csv_text(columns))))
    assert [row[1] for row in rows] == ["memory", "-0.5", "", "1", "2", "3"]


def test_the_page_names_examples_only_with_interval_and_null(evaluated):
    _, results = evaluated
    lines = page(results)
    assert any("16 replicas are too few to name examples" in line for line in lines)
    (head,) = (line for line in lines if "null maximum" in line and "repeats" in line)
    assert head.index("chosen at") < head.index("null maximum") < head.index("memory, bits")
    few = {**results, "claims": metrics.allowed_claims(8)}
    assert any("most memorized: none is named. That takes 16" in line for line in page(few))
    none = {**results, "most_memorized": {**results["most_memorized"], "examples": []}}
    assert any("most memorized: none is named. That takes 16" in line for line in page(none))


@pytest.mark.parametrize(("n_replicas", "unsure"), [(63, True), (64, False)])
def test_distributions_over_examples_say_where_replicas_do_not_carry_them(
    evaluated, n_replicas, unsure
):
    _, results = evaluated
    results = {**results, "claims": metrics.allowed_claims(n_replicas)}
    columns = {"exact_in": [1.0], "exact_out": [0.5], "canary": [False], "wrong_answer": [False]}
    said = "too few for distributions"
    assert any(said in line for line in page(results)) is unsure
    fig = map_figure(results, columns)
    assert (said in " ".join(fig.get_supxlabel().split())) is unsure


def test_nothing_is_minus_zero():
    assert [bits(-0.004), bits(-0.006), bits(None)] == ["0.00", "-0.01", "-"]
    assert [rate(-0.0004), rate(-0.0006), rate(-0.1)] == ["0.0%", "-0.1%", "-10.0%"]
    assert no_minus_zero("-0.000") == "0.000"


def test_the_page_ends_in_a_sentence_a_group_and_the_self_tests(evaluated):
    _, results = evaluated
    lines = page(results)
    start = lines.index("In one sentence:")
    row = {row["group"]: row for row in results["budget"]}["add"]
    assert lines[start + 1].startswith(
        f"  add: {row['rule']:.1f} of {row['bits']:.1f} bits by rule ["
    )
    assert [line.split(":")[0].strip() for line in lines[start + 1 : start + 4]] == [
        "add",
        "add, canaries",
        "add, wrong answers",
    ]
    assert sum(line.rstrip().endswith("passed") for line in lines[start:]) == 4


# ------------------------------------------------------------------------------------------------
# What is refused
# ------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    train, val = texts(60, 20)
    return write_panel(tmp_path / "panel", lookup_table, train, val, R=4)


def refusal(capsys, folder, *more):
    """The one line on stderr of a command that exits with 2 and writes nothing."""
    before = sorted(folder.rglob("*"))
    assert script.main(["--model", str(folder), "--ledger_only", *more]) == 2
    assert sorted(folder.rglob("*")) == before
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    return said


def edit_config(folder, change):
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize("share", [None, 1.0])
def test_a_panel_without_subset_is_refused(folder, capsys, share):
    edit_config(folder, lambda config: config["arguments"].update(subset=share))
    said = refusal(capsys, folder)
    assert "without --subset" in said
    assert "train a panel by" in said


def test_one_replica_is_refused(folder, capsys):
    edit_config(folder, lambda config: config.update(seeds=[0]))
    assert "one replica" in refusal(capsys, folder)


def test_a_folder_without_ledger_is_refused(folder, capsys):
    (folder / "seed_2/ledger.npz").unlink()
    assert "seed_2" in refusal(capsys, folder)
    shutil.rmtree(folder / "seed_2")
    assert "seed_2" in refusal(capsys, folder)


def test_no_folder_and_no_run_are_refused(tmp_path, capsys):
    assert script.main(["--model", str(tmp_path / "none")]) == 2
    assert "no folder" in capsys.readouterr().err
    assert "no config.json" in refusal(capsys, tmp_path)


def test_other_data_is_refused(folder, capsys):
    with open(folder / "data/train.txt", "a") as file:
        file.write("[add] 1 + 1 | 2\n")
    assert "SHA-256 differs" in refusal(capsys, folder)


def test_a_ledger_of_other_data_is_refused(folder, tmp_path, capsys):
    train, val = texts(60, 20, wrong_share=0.5)
    other = write_panel(tmp_path / "other", lookup_table, train, val, R=4)
    for seed in range(4):
        shutil.copy(other / f"seed_{seed}/ledger.npz", folder / f"seed_{seed}/ledger.npz")
    assert "other examples than its training set" in refusal(capsys, folder)


def test_a_ledger_of_other_seeds_is_refused(folder, capsys):
    for seed in range(4):
        (folder / f"seed_{seed}").rename(folder / f"seed_{seed + 10}")
    edit_config(folder, lambda config: config.update(seeds=[10, 11, 12, 13]))
    assert "seed 0" in refusal(capsys, folder)


def test_members_that_a_seed_does_not_draw_are_refused(folder, capsys):
    ledger = read_ledger(folder / "seed_1/ledger.npz")
    ledger.members = np.roll(ledger.members, 1)
    ledger.write(folder / "seed_1")
    assert "seed 1 trained on other examples than it draws" in refusal(capsys, folder)


def test_moved_data_is_found_by_data_dir(folder, tmp_path, capsys):
    moved = tmp_path / "moved"
    (folder / "data").rename(moved)
    assert "--data_dir" in refusal(capsys, folder)
    assert read(folder, moved)[0].n_train == 60


def test_capacity_and_model_do_not_go_together(folder, capsys):
    assert script.main(["--capacity", "--model", str(folder)]) == 2
    assert "leave --model out" in capsys.readouterr().err
    assert script.main(["--capacity", "--ledger_only"]) == 2
    assert "leave --ledger_only out" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["strings", "steps", "replicas"])
def test_flags_of_capacity_alone_say_so(name, folder, capsys):
    assert script.main(["--model", str(folder), f"--{name}", "7"]) == 2
    assert f"--{name} is for --capacity" in capsys.readouterr().err


def test_a_capacity_that_cannot_be_kept_is_not_measured(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(script, "train_on_strings", pytest.fail)
    (tmp_path / "file").touch()
    assert script.main(["--capacity", "--out_dir", str(tmp_path / "file/in")]) == 2
    assert "--out_dir" in capsys.readouterr().err


def test_a_prompt_outside_the_grammar_breaks_no_rule():
    assert follows_rule("add", "two + three", "5")
    assert follows_rule("max", "1 2", "1")
    assert not follows_rule("sort", "2 1", "2 1")


def test_an_unfinished_panel_is_read_with_a_notice(folder, capsys):
    edit_config(folder, lambda config: config["derived"].update(steps_total=10_000))
    assert script.main(["--model", str(folder), "--ledger_only"]) == 0
    assert "not trained to its end: step 80 of 10,000" in capsys.readouterr().out


# ------------------------------------------------------------------------------------------------
# Capacity
# ------------------------------------------------------------------------------------------------


def test_capacity_of_untrained_and_of_trained_strings(capsys):
    args = script.build_parser().parse_args(
        ["--capacity", "--strings", "4", "--steps", "300", "--device", "cpu"]
    )
    found = script.measure_capacity(args)
    assert found["ceiling"] == 4 * 32 * 4 - 4 * 2
    assert 0.9 * found["ceiling"] < found["stored"] <= found["ceiling"]
    assert f"stored {found['stored']:,.0f} of at most 504 bits" in capsys.readouterr().out
    assert found["bits_per_parameter_low"] is None
    args.steps = 1
    assert script.measure_capacity(args)["stored"] < 0.1 * 504


def test_capacity_of_replicas_side_by_side_and_its_interval(tmp_path, capsys):
    """Each learns strings of its own; the first what a model alone does."""

    def measured(n):
        flags = ["--capacity", "--strings", "3", "--steps", "30", "--device", "cpu"]
        flags += ["--replicas", str(n), "--out_dir", str(tmp_path / str(n))]
        return script.measure_capacity(script.build_parser().parse_args(flags))

    alone, found = measured(1), measured(3)
    strings = script.draw_strings(3, 3, torch.device("cpu"))
    assert len({strings.examples.answer(row) for row in range(9)}) == 9
    script.train_on_strings(strings, 30)
    each = [one["stored"] for one in script.stored_bits(strings)]
    assert each[0] == pytest.approx(alone["stored"], rel=1e-3)
    per_parameter = np.array(each) / found["n_params"]
    assert found["bits_per_parameter"] == pytest.approx(per_parameter.mean())
    reach = 4.303 * per_parameter.std(ddof=1) / 3**0.5
    assert found["bits_per_parameter_high"] == pytest.approx(per_parameter.mean() + reach, rel=1e-3)
    assert found["bits_per_parameter_low"] == pytest.approx(per_parameter.mean() - reach, rel=1e-3)
    low, high = (found[f"bits_per_parameter_{end}"] for end in ("low", "high"))
    assert f"[{low:.4f}, {high:.4f}] bits a parameter" in capsys.readouterr().out
    kept = json.loads((tmp_path / "3/capacity.json").read_text())
    assert (kept["replicas"], kept["device"], kept["n"]) == (3, "cpu", 3)


# ------------------------------------------------------------------------------------------------
# A whole panel, trained through the command line
# ------------------------------------------------------------------------------------------------


def test_a_tiny_panel_from_training_to_figures(tmp_path, capsys):
    # 6,300 rows, so that seven canaries are at most 2 % of a seed's half.
    train, val = texts(210, 30, repeats=(30,))
    data = write_data(tmp_path / "data", train, val)
    panel = tmp_path / "panel"
    command = [sys.executable, ROOT / "train_minigpt_4070.py", "--out_dir", panel]
    command += ["--data", data["train"]["path"], "--val_data", data["val"]["path"]]
    command += ["--tokenizer", data["tokenizer"]["path"], "--device", "cpu", "--seeds", "0-7"]
    command += ["--subset", "0.5", "--canaries", "7", "--d_model", "16", "--n_layers", "1"]
    command += ["--n_heads", "2", "--epochs", "2", "--batch_size", "256", "--dropout", "0"]
    command += ["--warmup_steps", "5", "--no-show_samples", "--no-autoreg_eval"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert script.main(["--model", str(panel), "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    assert "8 replicas are too few for any claim: means of groups need 16." in said
    results = json.loads((panel / "memorization/memorization_results.json").read_text())
    exposure = results["exposure"]
    assert [row["repeat_count"] for row in exposure["rows"]] == [0, 1, 2, 4, 8, 16, 32]
    assert [row["n"] for row in exposure["rows"]] == [8] * 7
    assert exposure["most_candidates"] in (89, 899)
    assert results["limem"]["n_replicas"] == 8
    assert (panel / "memorization/exposure.png").is_file()
    assert "out_answers" in results["most_memorized"]["examples"][0]

    ledger = read_ledger(panel / "seed_2/ledger.npz")
    ledger.bits[-1] += 4
    ledger.write(panel / "seed_2")
    assert script.main(["--model", str(panel), "--device", "cpu"]) == 2
    assert "the ledger of seed 2 does not fit its last.pth" in capsys.readouterr().err


def test_a_panel_of_own_data_is_read_as_it_was_trained(tmp_path):
    """Columns, a tag and a held-out tenth, which no file says but config.json."""
    rows = [f"{a} + 1,{a + 1}" for a in range(40)]
    (tmp_path / "mine.csv").write_text("\n".join(["q,a", *rows]) + "\n")
    command = [sys.executable, ROOT / "train_minigpt_4070.py", "--out_dir", tmp_path / "panel"]
    command += ["--data", tmp_path / "mine.csv", "--columns", "prompt=q,answer=a", "--task", "add"]
    command += ["--device", "cpu", "--seeds", "0-1", "--subset", "0.5", "--d_model", "16"]
    command += ["--n_layers", "1", "--n_heads", "2", "--epochs", "1", "--no-show_samples"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    panel, _ = read(tmp_path / "panel")
    assert len(panel.columns.tags) == 40
    assert (panel.n_train, set(panel.columns.tags)) == (36, {"add"})
    assert sorted(panel.columns.prompts) == sorted(f"{a} + 1" for a in range(40))


def named_examples(monkeypatch, outcome, members):
    """most_memorized of a panel of these arrays, float and bool [R, n], without its null."""
    null = {"all": {"maximum": 1, "maximum_high": 2}}
    monkeypatch.setattr(measures, "null_of", lambda *_, **__: null)
    panel = SimpleNamespace(n_train=outcome.shape[1], log2_probs=outcome, members=members)
    columns = {"n_in": members.sum(axis=0).tolist()}
    return measures.most_memorized(panel, columns)["examples"]


def test_a_named_example_is_measured_by_the_replicas_that_did_not_choose_it(monkeypatch):
    members = np.repeat([[True], [False]] * 5, 2, axis=0)[:18]  # chosen by 0, 2, …: 5 IN, 4 OUT
    rng = np.random.default_rng(4)
    outcome = rng.normal(size=(18, 1)) - 9 + 5 * members
    (row,) = named_examples(monkeypatch, outcome, members)
    known, trained = outcome[1::2, 0], members[1::2, 0]
    expected = scipy.stats.ttest_ind(known[trained], known[~trained], equal_var=False)
    error = (known[trained].mean() - known[~trained].mean()) / expected.statistic
    reach = scipy.stats.t.ppf(0.975, 3) * error  # the smaller side has 4
    middle = known[trained].mean() - known[~trained].mean()
    ends = [row[f"measured_bits{end}"] for end in ("", "_low", "_high")]
    assert ends == pytest.approx([middle, middle - reach, middle + reach], abs=1e-6)
    chose = outcome[::2, 0]
    assert row["chosen_bits"] == pytest.approx(
        chose[members[::2, 0]].mean() - chose[~members[::2, 0]].mean()
    )


def test_the_intervals_of_named_examples_hold_the_truth(monkeypatch):
    """Nothing is memorized: what is chosen as the largest of 300 is not what is measured."""
    rng, found = np.random.default_rng(9), []
    for _ in range(60):
        members = rng.random((16, 300)) < 0.5
        found += named_examples(monkeypatch, rng.normal(scale=2, size=(16, 300)), members)
    assert len(found) == 600
    held = np.mean([row["measured_bits_low"] <= 0 <= row["measured_bits_high"] for row in found])
    assert held > 0.94
    assert abs(np.mean([row["measured_bits"] for row in found])) < 0.2
    assert np.mean([row["chosen_bits"] for row in found]) > 3


def test_an_example_that_the_other_half_cannot_measure_is_not_named(monkeypatch):
    members = np.zeros((16, 2), dtype=bool)
    members[::4, 0] = members[1, 0] = True  # but one of the measuring half trained on it
    members[:8, 1] = True
    (row,) = named_examples(monkeypatch, -np.ones((16, 2)), members)
    assert row["column"] == 1
