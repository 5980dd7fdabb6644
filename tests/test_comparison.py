"""comparison/: folders gathered into seeds, runs compared pairwise, the table as text and CSV."""

import csv
import doctest
import io
import json
from pathlib import Path

import numpy as np
import pytest
import scipy.stats

import plots
from comparison import groups
from comparison.groups import as_run, common_name, gather
from comparison.page import csv_text, lines, markdown, pair_sentences
from comparison.table import Difference, compare_groups
from metrics import outcomes, over_seeds, rate, wilson_interval
from run_folders import write_json, write_rows
from runtime.errors import UserError
from runtime.ledger import Ledger
from runtime.records import load_run

ALL = {"add": 60, "rel": 40}  # validation examples of each task
NOT_PAIRED = "not paired, since not both folders keep the outcome of each example"


def config_of(seed, **arguments):
    data = {
        name: {"sha256": f"{name} {arguments.pop(name, 'of all')}"} for name in ("train", "val")
    }
    arguments = {"d_model": 64, "lr": 1e-3, **arguments, "seed": seed, "out_dir": f"x{seed}"}
    return {"arguments": arguments, "seeds": [seed], "seed": seed, "derived": {}, "data": data}


def make_run(folder, seed, rates, tasks=ALL, first=0, names=True, **arguments):
    """A run folder of one seed whose best model has so many of each task's unseen examples right.

    rates: task -> bool [n], or the share that a generator of that seed draws. Examples are named
    from `first` on, and without `names` the outcomes are not kept.
    """
    rng, right = np.random.default_rng([seed, 7]), {}
    for task, n in tasks.items():
        given = rates[task]
        right[task] = rng.random(n) < given if np.isscalar(given) else np.asarray(given, bool)
    every = [r for of_task in right.values() for r in of_task.tolist()]
    row = {
        **{"epoch": 3, "step": 30, "seed": seed, "tasks": [*tasks], "best": True},
        **{"val_exact_match": float(np.mean(every)), "val_n": len(every)},
        "val_exact_match_by_task": {task: float(r.mean()) for task, r in right.items()},
        "val_n_by_task": {task: len(r) for task, r in right.items()},
    }
    write_rows(folder, [row])
    write_json(folder / "config.json", config_of(seed, **arguments))
    if names:
        named = [f"{task}{i}" for task, r in right.items() for i in range(first, first + len(r))]
        unseen = {"group": 0, **rate(every), **outcomes(named, every)}
        unseen["by_task"] = [{"group": task, **rate(r)} for task, r in right.items()]
        report = {"epoch": 3, "step": 30, "by_repeat_count": [unseen]}
        write_json(folder / "memorization.json", {"format": 2, "best": report, "last": None})
    return folder


def add_ood(folder, categories, seeds=None, sha256="a"):
    """Results out of distribution; categories: name -> bool [n], or [S, n] for `seeds`."""
    headline, suites, rows = {}, {}, []
    for category, right in categories.items():
        right = np.atleast_2d(right)
        stats = rate(right[0])
        if seeds:
            means = over_seeds([{**rate(r), **outcomes(None, r)} for r in right])
            stats |= {"exact_match": means["mean"], "values": means["values"]}
        headline[category] = stats
        suites[f"ood_{category}"] = {"category": category, "sha256": sha256, "left_out": {}}
        for seed, of_seed in zip(seeds or [None], right, strict=True):
            about = {"suite": f"ood_{category}", "category": category, "in_headline": True}
            rows += [
                {
                    "seed": seed,
                    **about,
                    "prompt": f"[add] {i}",
                    "answer": f"{i}",
                    "correct": bool(r),
                }
                for i, r in enumerate(of_seed)
            ]
    results = {"headline": headline, "suites": suites, "checkpoint": "best_model.pth"}
    results |= {"seeds": seeds} if seeds else {}
    write_json(folder / "ood_results/ood_results.json", results)
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "ood_results/predictions.jsonl").write_text(text)


def compared(*folders):
    return compare_groups(*gather([load_run(folder, folder.name) for folder in folders]))


def at(comparison, row, first=None):
    found = [d for d in comparison.differences if d.row == row and first in (None, d.first)]
    assert len(found) == 1, found
    return found[0]


# ------------------------------------------------------------------------------------------------
# two single models
# ------------------------------------------------------------------------------------------------


def test_two_models_are_compared_on_each_task_all_and_each_category(tmp_path):
    """McNemar's p by scipy's binomial test, from the outcomes in the two folders."""
    rng = np.random.default_rng(0)
    rights = {name: {t: rng.random(n) < p for t, n in ALL.items()} for name, p in PAIR.items()}
    ood = {name: rng.random(50) < p for name, p in PAIR.items()}
    for name in PAIR:
        make_run(tmp_path / name, 0, rights[name], lr={"good": 1e-3, "bad": 1e-4}[name])
        add_ood(tmp_path / name, {"interpolation": ood[name]})
    found = compared(tmp_path / "good", tmp_path / "bad")
    rows = ["unseen: add", "unseen: rel", "unseen: all", "interpolation (control)"]
    assert found.rows == rows
    assert [d.row for d in found.differences] == rows
    together = {name: np.concatenate([*of_tasks.values()]) for name, of_tasks in rights.items()}
    pairs = [*([rights[name][task] for name in PAIR] for task in ALL)]
    pairs += [[together[name] for name in PAIR], [ood[name] for name in PAIR]]
    for d, (a, b) in zip(found.differences, pairs, strict=True):
        only = int((a & ~b).sum()), int((b & ~a).sum())
        assert d.test == "McNemar"
        assert d.n == [len(a)] * 2
        assert d.difference == pytest.approx(a.mean() - b.mean())
        assert d.p == pytest.approx(scipy.stats.binomtest(only[0], sum(only)).pvalue)
        assert d.p_holm >= d.p
        assert d.note == ""
    add = next(r for r in found.rates if (r.row, r.run) == ("unseen: add", "good"))
    k = int(rights["good"]["add"].sum())
    assert (add.mean, add.n) == (k / 60, 60)
    assert (add.low, add.high) == pytest.approx(wilson_interval(k, 60))


PAIR = {"good": 0.8, "bad": 0.5}


def test_a_model_and_its_copy_do_not_differ(tmp_path):
    for name in ("one", "copy"):
        make_run(tmp_path / name, 0, {"add": 0.7, "rel": 0.2})
    found = compared(tmp_path / "one", tmp_path / "copy")
    assert {(d.difference, d.p, d.p_holm) for d in found.differences} == {(0.0, 1.0, 1.0)}
    assert found.notes == [
        "one and copy have the same settings and both hold seed 0, so their seeds are not put "
        "together"
    ]
    assert not any(d.stands_out for d in found.differences)
    assert "After Holm no difference stands out." in lines(found)


def test_models_that_share_part_of_their_examples_are_compared_on_those(tmp_path):
    right = np.arange(60) < 30
    make_run(tmp_path / "a", 0, {"add": right}, {"add": 60})
    make_run(tmp_path / "b", 0, {"add": right[20:]}, {"add": 40}, first=20, val="shorter")
    d = at(compared(tmp_path / "a", tmp_path / "b"), "unseen: add")
    assert (d.test, d.n, d.difference) == ("McNemar", [40, 40], 0.0)  # 30 of 60, but 10 of 40 each
    assert d.note == "on the 40 examples that both answered, of 60 and 40"


def test_models_without_a_shared_example_are_told_apart_by_fishers_test(tmp_path):
    make_run(tmp_path / "a", 0, {"add": np.arange(60) < 45}, {"add": 60})
    make_run(tmp_path / "b", 0, {"add": np.arange(60) < 30}, {"add": 60}, first=900, val="other")
    found = compared(tmp_path / "a", tmp_path / "b")
    d = at(found, "unseen: add")
    assert (d.test, d.difference) == ("Fisher's exact", 0.25)
    assert d.note == "no example is shared, so the difference of the examples counts too"
    assert "validation sets differ: a against b" in found.notes


def test_all_tasks_together_are_not_compared_with_all_of_others(tmp_path):
    make_run(tmp_path / "a", 0, {"add": 0.5, "sort": 0.5}, {"add": 30, "sort": 30}, names=False)
    rates = {"add": 0.5, "copy": 0.5}
    make_run(tmp_path / "b", 0, rates, {"add": 30, "copy": 30}, names=False, val="other")
    found = compared(tmp_path / "a", tmp_path / "b")
    assert [d.row for d in found.differences] == ["unseen: add"]
    assert "unseen: all" in found.rows


def test_what_could_have_stood_out_is_unknown_where_all_are_right_or_wrong(tmp_path):
    make_run(tmp_path / "a", 0, {"add": 0.0}, {"add": 50}, names=False)
    make_run(tmp_path / "b", 0, {"add": 1.0}, {"add": 6}, names=False, val="other")
    d = at(compared(tmp_path / "a", tmp_path / "b"), "unseen: add")
    assert d.stands_out
    assert d.sentence == (
        "with 50 and 6 examples all right or all wrong nothing is known of what would have stood "
        "out"
    )


def test_each_row_keeps_its_own_reason_why_nothing_is_known():
    about = {"first": "a", "second": "b", "difference": 0.0, "low": None, "high": None, "p": None}
    about |= {"p_holm": None, "detectable": None, "note": ""}
    rows = [
        ("one", "Fisher", [12, 12]),
        ("two", "Fisher", [500, 500]),
        ("three", "Fisher", [12, 12]),
    ]
    differences = [Difference(row=row, test=test, n=n, **about) for row, test, n in rows]
    said = pair_sentences(differences)
    assert [sentence.partition(": ")[2] for sentence in said[1:]] == ["one, three.", "two."]
    assert "12 examples" in said[1]
    assert "500 examples" in said[2]


def test_rates_alone_are_compared_and_it_is_said(tmp_path):
    for name, lr in (("a", 1), ("b", 2)):
        make_run(tmp_path / name, 0, {"add": 0.5}, {"add": 60}, names=False, lr=lr)
    d = at(compared(tmp_path / "a", tmp_path / "b"), "unseen: add")
    assert (d.test, d.note) == ("Fisher's exact", NOT_PAIRED)


def test_outcomes_of_another_epochs_model_are_not_taken_for_the_best_ones(tmp_path):
    """A run that goes on has a new best model before memorization.json is written again."""
    for name, lr in (("a", 1), ("b", 2)):
        make_run(tmp_path / name, 0, {"add": 0.5}, {"add": 60}, lr=lr)
    path = tmp_path / "a/memorization.json"
    report = json.loads(path.read_text())
    report["best"]["epoch"] = 2
    write_json(path, report)
    d = at(compared(tmp_path / "a", tmp_path / "b"), "unseen: add")
    assert (d.test, d.note) == ("Fisher's exact", NOT_PAIRED)


# ------------------------------------------------------------------------------------------------
# several seeds
# ------------------------------------------------------------------------------------------------


def seeds_of(folder, rates, seeds, **more):
    """A folder of seeds whose seed s has rates[s] of the unseen sums right."""
    for seed, share in zip(seeds, rates, strict=True):
        right = np.arange(100) < round(100 * share)
        make_run(folder / f"seed_{seed}", seed, {"add": right}, {"add": 100}, **more)
    write_json(folder / "config.json", {**config_of(seeds[0], **more), "seeds": [*seeds]})
    return folder


def test_runs_of_the_same_seeds_are_paired(tmp_path):
    a, b = [0.5, 0.6, 0.72], [0.4, 0.55, 0.6]
    seeds_of(tmp_path / "a", a, range(3))
    seeds_of(tmp_path / "b", b, range(3), lr=2)
    d = at(compared(tmp_path / "a", tmp_path / "b"), "unseen: add")
    assert (d.test, d.n) == ("paired t", [3, 3])
    assert d.p == pytest.approx(scipy.stats.ttest_rel(a, b).pvalue)
    assert (
        d.sentence
        == "with 3 seeds a difference under 11.8 points would not reliably have stood out"
    )
    assert d.detectable == pytest.approx(5.6535 * np.std([0.1, 0.05, 0.12], ddof=1) / 3**0.5, 1e-4)


def test_what_could_have_stood_out_is_one_sentence_from_row_to_row(tmp_path):
    """Standard errors of 1.1 and 3.3 points over three seeds, times 5.653."""
    spread = np.array([-1, 0, 1]) * 0.011 * 3**0.5
    for lr, name in enumerate("ab"):
        for seed in range(3):
            shares = {"add": 0.5 + lr * spread[seed], "rel": 0.5 + lr * 3 * spread[seed]}
            rights = {t: np.arange(10_000) < round(10_000 * s) for t, s in shares.items()}
            home = tmp_path / name / f"seed_{seed}"
            make_run(home, seed, rights, dict.fromkeys(shares, 10_000), lr=lr)
        write_json(tmp_path / name / "config.json", config_of(0, lr=lr))
    printed = " ".join(lines(compared(tmp_path / "a", tmp_path / "b")))
    ends = "6.2 points (unseen: add) to 18.7 points (unseen: rel)"
    assert f"With 3 seeds a difference under {ends} would not reliably have stood out." in printed


def test_runs_of_seeds_with_other_headlines_are_paired_on_what_all_answered(tmp_path):
    """Examples 0 to 59 against 20 to 79: only the 40 shared ones count."""
    rng, rights = np.random.default_rng(1), {}
    for i, name in enumerate("ab"):
        rights[name] = rng.random((3, 60)) < 0.5
        for seed in range(3):
            home, right = tmp_path / name / f"seed_{seed}", {"add": rights[name][seed]}
            make_run(home, seed, right, {"add": 60}, first=20 * i, lr=i)
        write_json(tmp_path / name / "config.json", config_of(0, lr=i))
    d = at(compared(tmp_path / "a", tmp_path / "b"), "unseen: add")
    shared = rights["a"][:, 20:].mean(axis=1), rights["b"][:, :40].mean(axis=1)
    assert d.p == pytest.approx(scipy.stats.ttest_rel(*shared).pvalue)
    assert d.note == "on the 40 examples that both answered, of 60 and 60"


def test_what_was_evaluated_otherwise_is_named(tmp_path):
    for lr, name in enumerate("ab"):
        make_run(tmp_path / name, 0, {"add": 0.5}, {"add": 60}, lr=lr)
        add_ood(tmp_path / name, {"interpolation": np.ones(5, bool)})
    path = tmp_path / "b/ood_results/ood_results.json"
    results = json.loads(path.read_text())
    write_json(path, {**results, "checkpoint": "last.pth", "canonical_tags": True})
    assert compared(tmp_path / "a", tmp_path / "b").notes == [
        "evaluated out of distribution are different checkpoints: a (best_model.pth) against b "
        "(last.pth)",
        "tags out of distribution are read in different ways: a (as written) against b "
        "(--canonical_tags)",
    ]
    write_json(
        path.parents[2] / "a/ood_results/ood_results.json", {**results, "checkpoint": "last.pth"}
    )
    write_json(path, {**results, "checkpoint": "last.pth"})
    assert compared(tmp_path / "a", tmp_path / "b").notes == [
        "evaluated out of distribution is last.pth, not the best model"
    ]


def test_a_seed_that_has_not_got_as_far_is_named(tmp_path):
    for seed in range(2):
        make_run(tmp_path / f"a_s{seed}", seed, {"add": 0.5}, {"add": 60})
    path = tmp_path / "a_s1/metrics.jsonl"
    write_rows(path.parent, [json.loads(path.read_text()), {"epoch": 1200, "step": 9}])
    (note,) = compared(*sorted(tmp_path.iterdir())).notes
    assert note.endswith("seeds 0, 1; they differ in how far they are, epochs 3 to 1,200")


def test_values_that_are_not_one_a_seed_are_one_sentence(tmp_path):
    for lr, name in enumerate("ab"):
        seeds_of(tmp_path / name, [0.5, 0.6, 0.7], range(3), lr=lr)
        add_ood(tmp_path / name, {"extrapolation": np.ones((2, 5), bool)}, seeds=[0, 1])
    path = tmp_path / "b/ood_results/ood_results.json"
    write_json(path, {**json.loads(path.read_text()), "seeds": [0, 1, 2]})
    with pytest.raises(
        UserError, match="has 2 values of extrapolation for 3 seeds; evaluate the m"
    ):
        compared(tmp_path / "a", tmp_path / "b")


def test_validation_examples_that_were_all_trained_on_are_compared_by_rates(tmp_path):
    for lr, name in enumerate("ab"):
        make_run(tmp_path / name, 0, {"add": 0.5}, {"add": 60}, names=False, lr=lr)
        config = config_of(0, lr=lr)
        config["data"]["audit"] = {"val_unseen": 0}
        write_json(tmp_path / name / "config.json", config)
        row = {
            "epoch": 3,
            "step": 9,
            "val_exact_match": None,
            "val_exact_match_seen": 0.25 + lr / 2,
        }
        row |= {"val_exact_match_by_task_seen": {"add": 0.25 + lr / 2}, "val_n_seen": 60}
        write_rows(tmp_path / name, [{**row, "val_n_by_task_seen": {"add": 60}}])
    found = compared(tmp_path / "a", tmp_path / "b")
    assert (found.rows, found.differences[0].difference) == (["seen: add"], -0.5)


def test_with_two_seeds_far_apart_nothing_could_have_stood_out(tmp_path):
    seeds_of(tmp_path / "a", [0.2, 0.9], range(2))
    seeds_of(tmp_path / "b", [0.5, 0.4], range(2), lr=2)
    found = compared(tmp_path / "a", tmp_path / "b")
    sentence = "with 2 seeds no difference would reliably have stood out"
    assert at(found, "unseen: add").sentence == sentence
    assert f"W{sentence[1:]} (unseen: add)." in lines(found)
    d = at(found, "unseen: add")
    assert (d.low, d.high) == (-1.0, 1.0)  # a rate cannot differ by more


def test_unequal_budgets_are_named(tmp_path):
    seeds_of(tmp_path / "a", [0.2, 0.9], range(2))
    seeds_of(tmp_path / "b", [0.5, 0.4], range(2), lr=2)
    for seed in range(2):
        path = tmp_path / f"b/seed_{seed}/metrics.jsonl"
        row = json.loads(path.read_text())
        write_rows(path.parent, [row, {"epoch": 9, "step": 90, "seed": seed}])
    notes = compared(tmp_path / "a", tmp_path / "b").notes
    assert notes == ["unequal budgets: epochs 3 to 9, steps 30 to 90"]


def test_runs_of_other_seeds_are_welchs(tmp_path):
    a, b = [0.5, 0.6, 0.72], [0.4, 0.55, 0.6, 0.5]
    seeds_of(tmp_path / "a", a, range(3))
    seeds_of(tmp_path / "b", b, range(3, 7), lr=2)
    d = at(compared(tmp_path / "a", tmp_path / "b"), "unseen: add")
    assert (d.test, d.n) == ("Welch's t", [3, 4])
    assert d.p == pytest.approx(scipy.stats.ttest_ind(a, b, equal_var=False).pvalue)


def test_seeds_that_only_one_run_has_are_left_out_of_pairs_and_named(tmp_path):
    a, b = [0.5, 0.6, 0.72], [0.4, 0.55, 0.6, 0.5]
    seeds_of(tmp_path / "a", a, range(3))
    seeds_of(tmp_path / "b", b, range(4), lr=2)
    d = at(compared(tmp_path / "a", tmp_path / "b"), "unseen: add")
    assert (d.test, d.n) == ("paired t", [3, 3])
    assert d.note == "over the 3 seeds that both have, of 3 and 4"
    # One shared of three is no pairing worth losing the others for.
    seeds_of(tmp_path / "c", a, range(3, 6), lr=3)
    d = at(compared(tmp_path / "b", tmp_path / "c"), "unseen: add")
    assert (d.test, d.n) == ("Welch's t", [4, 3])


def test_fewer_shared_seeds_than_half_make_no_pairs(tmp_path):
    """Two of five: a pair of them would leave one degree of freedom."""
    a, b = [0.5, 0.6, 0.72, 0.61, 0.55], [0.4, 0.55, 0.6, 0.5, 0.44]
    seeds_of(tmp_path / "a", a, range(5))
    seeds_of(tmp_path / "b", b, range(3, 8), lr=2)
    d = at(compared(tmp_path / "a", tmp_path / "b"), "unseen: add")
    assert (d.test, d.n) == ("Welch's t", [5, 5])
    assert d.p == pytest.approx(scipy.stats.ttest_ind(a, b, equal_var=False).pvalue)


def test_a_single_seed_beside_a_run_of_several_has_no_test_of_its_own_examples(tmp_path):
    seeds_of(tmp_path / "a", [0.5, 0.6, 0.72], range(3))
    make_run(tmp_path / "b", 0, {"add": 0.1}, {"add": 100}, lr=2)
    d = at(compared(tmp_path / "a", tmp_path / "b"), "unseen: add")
    assert (d.test, d.n) == ("unpaired t", [3, 1])


def test_seeds_that_do_not_vary_have_no_p_and_count_for_no_other(tmp_path):
    seeds_of(tmp_path / "a", [0.5, 0.6], range(2))
    seeds_of(tmp_path / "b", [0.3, 0.4], range(2), lr=2)
    seeds_of(tmp_path / "c", [0.3, 0.7], range(2), lr=3)
    found = compared(tmp_path / "a", tmp_path / "b", tmp_path / "c")
    same, *others = found.differences
    assert (same.difference, same.p, same.p_holm) == (pytest.approx(0.2), None, None)
    assert max(d.p_holm / d.p for d in others) == 2  # two tests were made, not three
    sentence = "With 2 seeds that do not vary nothing is known of what would have stood out"
    assert f"{sentence}: unseen: add." in lines(found)


@pytest.mark.parametrize("rows", [[], [{"epoch": 1, "step": 10, "val_exact_match": None}]])
def test_a_seed_that_diverged_is_left_out_and_named(tmp_path, rows):
    """In its first epoch, whose line is not written, or before any number was finite."""
    seeds_of(tmp_path / "a", [0.5, 0.6, 0.72], range(3))
    seeds_of(tmp_path / "b", [0.4, 0.55, 0.6], range(3), lr=2)
    write_rows(tmp_path / "b/seed_1", rows)
    (tmp_path / "b/seed_1/memorization.json").unlink()
    found = compared(tmp_path / "a", tmp_path / "b")
    d = at(found, "unseen: add")
    assert (d.test, d.n) == ("paired t", [2, 2])
    assert d.difference == pytest.approx((0.1 + 0.12) / 2)
    assert found.notes == [
        "b: seed 1 left out of unseen: add, without a number there; if training diverged, the mean "
        "of the others flatters the run"
    ]


def test_categories_of_a_folder_of_seeds_are_paired_over_seeds(tmp_path):
    rng = np.random.default_rng(3)
    rights = {name: rng.random((3, 80)) < p for name, p in PAIR.items()}
    for lr, name in enumerate(PAIR):
        seeds_of(tmp_path / name, [0.5, 0.6, 0.7], range(3), lr=lr)
        add_ood(tmp_path / name, {"extrapolation": rights[name]}, seeds=[0, 1, 2])
    found = compared(tmp_path / "good", tmp_path / "bad")
    d = at(found, "extrapolation")
    a, b = (rights[name].mean(axis=1) for name in PAIR)
    assert d.p == pytest.approx(scipy.stats.ttest_rel(a, b).pvalue)
    expected = over_seeds([{**rate(r), **outcomes(None, r)} for r in rights["good"]])
    good = next(r for r in found.rates if (r.row, r.run) == ("extrapolation", "good"))
    assert [good.mean, good.low, good.high] == [expected[key] for key in ("mean", "low", "high")]


def test_without_predictions_the_seeds_rates_are_compared_all_the_same(tmp_path):
    rng = np.random.default_rng(3)
    rights = {name: rng.random((3, 80)) < p for name, p in PAIR.items()}
    for lr, name in enumerate(PAIR):
        seeds_of(tmp_path / name, [0.5, 0.6, 0.7], range(3), lr=lr)
        sha256 = "a" if name == "good" else "b"
        add_ood(tmp_path / name, {"extrapolation": rights[name]}, seeds=[0, 1, 2], sha256=sha256)
        (tmp_path / name / "ood_results/predictions.jsonl").unlink()
    d = at(compared(tmp_path / "good", tmp_path / "bad"), "extrapolation")
    a, b = (rights[name].mean(axis=1) for name in PAIR)
    assert d.p == pytest.approx(scipy.stats.ttest_rel(a, b).pvalue)
    assert d.note == "different examples, so their difference counts too"


def test_the_memory_of_replicas_of_a_panel_is_paired_over_them(tmp_path):
    rng, memory = np.random.default_rng(5), {}
    for lr, (name, learned) in enumerate((("dropout", 0.6), ("none", 0.9))):
        values = []
        for seed in range(4):
            home = make_run(
                tmp_path / name / f"seed_{seed}", seed, {"add": 0.5}, {"add": 50}, lr=lr
            )
            members = rng.permutation(40) < 20
            exact = np.where(members, rng.random(40) < learned, rng.random(40) < 0.3)
            ledger = Ledger.empty(seed, 0.5, np.arange(40), members, np.empty(0, np.int64))
            ledger.add(3, 30, np.ones(40), exact, np.zeros(40, np.int32))
            ledger.write(home)
            values.append(exact[members].mean() - exact[~members].mean())
        memory[name] = values
        write_json(tmp_path / name / "config.json", {**config_of(0, lr=lr), "seeds": [0, 1, 2, 3]})
    found = compared(tmp_path / "dropout", tmp_path / "none")
    assert found.rows[-3:] == [*groups.PANEL_ROWS]
    d = at(found, "panel: memory")
    assert d.p == pytest.approx(scipy.stats.ttest_rel(*memory.values()).pvalue)
    assert d.difference == pytest.approx(np.mean(memory["dropout"]) - np.mean(memory["none"]))
    of_none = next(r for r in found.rates if (r.row, r.run) == ("panel: memory", "none"))
    half = scipy.stats.t.ppf(0.975, 3) * np.std(memory["none"], ddof=1) / 2
    assert of_none.high - of_none.mean == pytest.approx(half, rel=1e-3)


# ------------------------------------------------------------------------------------------------
# folders of single seeds
# ------------------------------------------------------------------------------------------------


def grid(root):
    """Three seeds of each of two learning rates, a folder each; and the paths."""
    found = []
    for lr in (1, 2):
        for seed in (2, 0, 1):
            right = np.random.default_rng([lr, seed]).random(100) < 0.2 * (lr + seed)
            home = make_run(root / f"lr{lr}_s{seed}", seed, {"add": right}, {"add": 100}, lr=lr)
            add_ood(home, {"extrapolation": right[:50]})
            found.append(home)
    return found


def test_a_grid_of_single_seeds_is_compared_as_two_folders_of_seeds_would_be(tmp_path):
    folders = grid(tmp_path / "grid")
    found = compared(*folders)
    for lr in (1, 2):
        for seed in range(3):
            home = tmp_path / f"side/lr{lr}/seed_{seed}"
            home.parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / f"grid/lr{lr}_s{seed}").rename(home)
        seeds = {**config_of(0, lr=lr), "seeds": [0, 1, 2]}
        write_json(tmp_path / f"side/lr{lr}/config.json", seeds)
    side = compared(tmp_path / "side/lr1", tmp_path / "side/lr2")
    assert found.runs == side.runs == ["lr1", "lr2"]
    assert found.seeds == side.seeds == {"lr1": [0, 1, 2], "lr2": [0, 1, 2]}
    assert found.rates == side.rates
    assert found.differences == side.differences
    assert at(found, "unseen: add").test == "paired t"
    assert found.notes == [
        "lr1 is lr1_s2, lr1_s0, lr1_s1: equal settings, seeds 0, 1, 2",
        "lr2 is lr2_s2, lr2_s0, lr2_s1: equal settings, seeds 0, 1, 2",
    ]


def test_folders_of_several_seeds_join_those_of_one(tmp_path):
    """A sweep with --seeds 0-1 2 makes them."""
    seeds_of(tmp_path / "wide_s0-1", [0.5, 0.6], range(2))
    make_run(tmp_path / "wide_s2", 2, {"add": 0.5}, {"add": 100})
    (group,), _ = gather([load_run(p, p.name) for p in sorted(tmp_path.iterdir())])
    assert (group.name, [model.seed for model in group.models]) == ("wide", [0, 1, 2])


def test_a_seed_held_twice_keeps_all_folders_of_the_settings_apart(tmp_path):
    for name, seed in (("a_s0", 0), ("a_s1", 1), ("again_s1", 1)):
        make_run(tmp_path / name, seed, {"add": 0.5}, {"add": 100})
    found = compared(*sorted(tmp_path.iterdir()))
    assert found.runs == ["a_s0", "a_s1", "again_s1"]
    assert found.notes == [
        "a_s1 and again_s1 have the same settings and both hold seed 1, so their seeds are not put "
        "together"
    ]


def test_a_run_that_went_on_is_not_put_together_with_one_planned_so(tmp_path):
    for name, seed in (("a_s0", 0), ("a_s1", 1)):
        make_run(tmp_path / name, seed, {"add": 0.5}, {"add": 100})
    assert compared(*sorted(tmp_path.iterdir())).runs == ["a"]
    path = tmp_path / "a_s0/config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"epochs_before": [4]}))
    assert compared(*sorted(tmp_path.iterdir())).runs == ["a_s0", "a_s1"]


@pytest.mark.parametrize("other", [{"d_model": 32}, {"train": "of a half"}, {"val": "of a half"}])
def test_other_settings_or_data_are_another_run(tmp_path, other):
    make_run(tmp_path / "a_s0", 0, {"add": 0.5}, {"add": 100})
    make_run(tmp_path / "a_s1", 1, {"add": 0.5}, {"add": 100}, **other)
    assert compared(*sorted(tmp_path.iterdir())).runs == ["a_s0", "a_s1"]


def test_folders_that_do_not_say_their_settings_stay_apart(tmp_path):
    for seed in range(2):
        make_run(tmp_path / f"s{seed}", seed, {"add": 0.5}, {"add": 100})
        write_json(tmp_path / f"s{seed}/config.json", {"seed": seed})
    assert compared(*sorted(tmp_path.iterdir())).runs == ["s0", "s1"]


def test_one_group_has_means_and_no_differences(tmp_path):
    for seed in range(3):
        make_run(tmp_path / f"a_s{seed}", seed, {"add": 0.5}, {"add": 100})
    found = compared(*sorted(tmp_path.iterdir()))
    assert (found.runs, found.differences) == (["a"], [])
    assert [(r.row, len(r.values)) for r in found.rates] == [("unseen: add", 3)]
    (line,) = csv.DictReader(io.StringIO(csv_text(found)))
    assert (line["row"], line["first"], line["second"]) == ("unseen: add", "a", "")
    assert "Differences" not in markdown(found)


def test_seeds_of_other_commits_are_put_together_with_a_word(tmp_path):
    for seed in range(2):
        home = make_run(tmp_path / f"a_s{seed}", seed, {"add": 0.5}, {"add": 100})
        write_json(home / "config.json", {**config_of(seed), "git_commit": f"{seed}"})
    (note,) = compared(*sorted(tmp_path.iterdir())).notes
    assert note.endswith("seeds 0, 1; they differ in the commit of the program")


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["wide_s0", "wide_s1"], "wide"),
        (["wide_s8", "wide_s9", "wide_s10"], "wide"),
        (["wide_s10", "wide_s11"], "wide"),
        (["add_only_train_d64_s0-3", "add_only_train_d64_s4-7"], "add_only_train_d64"),
        (["seed0_wide", "seed1_wide"], "wide"),
        (["wide-seed-0-v2", "wide-seed-1-v2"], "wide-v2"),
        (["d64", "d64b"], "d64"),
        (["class0", "class1"], "class"),
        (["0", "1"], "runs"),
        (["seed_0", "seed_1"], "runs"),
    ],
)
def test_the_name_of_a_group_is_what_its_folders_names_have_in_common(names, expected):
    assert common_name([Path("runs") / name for name in names]) == expected


def test_groups_of_one_name_are_told_apart(tmp_path):
    for lr in (1, 2):
        for seed in range(2):
            make_run(tmp_path / f"{2 * lr + seed}", seed, {"add": 0.5}, {"add": 100}, lr=lr)
    assert compared(*sorted(tmp_path.iterdir())).runs == ["2 and 1 more", "4 and 1 more"]


def test_doctests():
    assert doctest.testmod(groups).failed == 0


# ------------------------------------------------------------------------------------------------
# plots.py
# ------------------------------------------------------------------------------------------------


def test_plots_prints_and_writes_the_comparison_and_draws_groups(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(plots, "RUN_FIGURES", {"tasks_over_epochs.png": plots.tasks_figure})
    monkeypatch.setattr(plots, "DPI", 30)
    folders = grid(tmp_path)
    out = tmp_path / "figures"
    assert plots.main([*map(str, folders), "--out_dir", str(out)]) == 0
    printed = capsys.readouterr().out
    found = compared(*folders)
    assert "\n".join(lines(found)) in printed
    assert (out / "comparison.md").read_text() == markdown(found)
    assert (out / "comparison.csv").read_text() == csv_text(found)
    assert (out / "lr1_s0/tasks_over_epochs.png").exists()
    shown = [as_run(group) for group in gather([load_run(p, p.name) for p in folders])[0]]
    assert [(run.name, len(run.seeds)) for run in shown] == [("lr1", 3), ("lr2", 3)]
    assert {plots.ood_model(run) for run in shown} == {"best_model.pth"}
    (ax,) = plots.compare_ood_figure(shown).axes
    marks = {line.get_label(): line.get_xdata()[0] for line in ax.lines}
    for rate_of_run in found.rates:
        if rate_of_run.row == "extrapolation":
            assert marks[rate_of_run.run] == pytest.approx(rate_of_run.mean)


def test_the_csv_has_a_line_for_every_row_and_pair(tmp_path):
    for i, name in enumerate(("a", "b, quoted", "c")):
        seeds_of(tmp_path / name, [0.5, 0.6 + 0.1 * i, 0.72], range(3), lr=i)
    found = compared(*sorted(tmp_path.iterdir()))
    rows = list(csv.DictReader(io.StringIO(csv_text(found))))
    assert [(r["first"], r["second"]) for r in rows] == [
        ("a", "b, quoted"),
        ("a", "c"),
        ("b, quoted", "c"),
    ]
    for row, d in zip(rows, found.differences, strict=True):
        assert float(row["p"]) == d.p
        assert float(row["difference"]) == d.difference
        assert float(row["first_mean"]) - float(row["second_mean"]) == pytest.approx(d.difference)
        assert (row["first_seeds"], row["second_tested"]) == ("3", "3")
        assert row["sentence"] == d.sentence


def percent(ends):
    return {key: 100 * ends[key] for key in ("mean", "low", "high")}


def test_the_markdown_has_a_table_of_runs_and_one_of_each_pair(tmp_path):
    seeds_of(tmp_path / "plain_run", [0.50, 0.60, 0.72], range(3))
    seeds_of(tmp_path / "other|run", [0.41, 0.48, 0.60], range(3), lr=2)
    text = markdown(compared(tmp_path / "plain_run", tmp_path / "other|run"))
    assert "|  | n | plain\\_run (3 seeds) | other\\|run (3 seeds) |\n" in text
    cells = []
    for rates in ([0.50, 0.60, 0.72], [0.41, 0.48, 0.60]):
        right = [np.arange(100) < round(100 * share) for share in rates]
        ends = over_seeds([{**rate(r), **outcomes(None, r)} for r in right])
        cells.append("{mean:.1f} [{low:.1f}, {high:.1f}]".format(**percent(ends)))
    assert f"\n| unseen: add | 100 | {cells[0]} | {cells[1]} |\n" in text
    assert "## plain\\_run − other\\|run" in text
    row = "| unseen: add | +11.0 [+6.7, +15.3] | 0.008 | 0.008 | 5.7 | paired t, 3 seeds |"
    assert row in text
    assert "After Holm there stands out: unseen: add (+11.0 [+6.7, +15.3])." in text
    assert "With 3 seeds a difference under 5.7 points would not reliably have stood out (" in text


def test_of_many_pairs_only_what_stands_out_is_printed(tmp_path):
    for i, name in enumerate("abcde"):
        seeds_of(tmp_path / name, [0.5, 0.6 + 0.01 * i, 0.72], range(3), lr=i)
    found = compared(*sorted(tmp_path.iterdir()))
    assert len(found.differences) == 10
    assert not any("paired t, 3 seeds" in line for line in lines(found))
    assert markdown(found).count("paired t, 3 seeds") == 10


def test_a_comparison_is_plain_data_for_a_page(tmp_path):
    seeds_of(tmp_path / "a", [0.5, 0.6, 0.72], range(3))
    seeds_of(tmp_path / "b", [0.4, 0.55, 0.6], range(3), lr=2)
    found = json.loads(json.dumps(compared(tmp_path / "a", tmp_path / "b").as_dict()))
    assert found["rates"][0]["values"] == [0.5, 0.6, 0.72]
    assert found["differences"][0]["sentence"].startswith("with 3 seeds a difference under")


def test_a_line_that_is_no_prediction_is_one_sentence(tmp_path):
    for i, name in enumerate("ab"):
        make_run(tmp_path / name, 0, {"add": 0.5}, {"add": 60}, lr=i)
        add_ood(tmp_path / name, {"interpolation": np.ones(5, bool)})
    path = tmp_path / "b/ood_results/predictions.jsonl"
    path.write_text(path.read_text() + "{}\n")
    with pytest.raises(
        UserError, match=r"predictions.jsonl, line 6, is no prediction of evaluate_"
    ):
        compared(tmp_path / "a", tmp_path / "b")
