"""plots.py on seeds and on several runs side by side."""

import json
from pathlib import Path

import numpy as np
import pytest

import plots
from metrics import outcomes, over_seeds
from run_folders import (
    FIVE,
    STAGES,
    add_only_rows,
    assert_readable,
    bands,
    bars,
    column,
    curriculum_rows,
    ends_over_seeds,
    lines,
    load,
    matched_run,
    memorization,
    ood_results,
    stats,
    study,
    write_json,
    write_rows,
)

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def add_only(tmp_path):
    folder = tmp_path / "step1_add_only"
    write_rows(folder, add_only_rows())
    write_json(folder / "ood_results" / "ood_results.json", ood_results(add_only=True))
    return folder


@pytest.fixture
def five_tasks(tmp_path):
    folder = tmp_path / "fix_run_01"
    write_rows(folder, curriculum_rows())
    write_json(folder / "memorization.json", memorization())
    write_json(folder / "ood_results" / "ood_results.json", ood_results())
    return folder


def test_a_folder_of_seeds_is_mean_and_interval_over_seeds(tmp_path):
    folder = study(tmp_path, 8, n_seeds=4)[0]
    run = load(folder)
    seeds = np.array([column(rows, "val_exact_match") for rows in run.seeds])  # [S, E]
    match, loss = plots.learning_figure(run).axes
    np.testing.assert_allclose(lines(match)["unseen"].get_ydata(), seeds.mean(axis=0))
    expected = [ends_over_seeds(values, 2500) for values in seeds.T]
    np.testing.assert_allclose(np.array(bands(match)[1][1:]).T, expected)
    losses = np.array([column(rows, "val_loss") for rows in run.seeds])
    np.testing.assert_allclose(lines(loss)["unseen"].get_ydata(), losses.mean(axis=0))
    np.testing.assert_allclose(bands(loss)[0][1], losses.min(axis=0))
    np.testing.assert_allclose(bands(loss)[0][2], losses.max(axis=0))
    by_seed = [[row["exact_match"] for row in m["by_repeat_count"]] for m in run.memorization]
    ax = plots.repeat_count_figure([run]).axes[0]
    np.testing.assert_allclose(ax.lines[0].get_ydata(), np.mean(by_seed, axis=0)[1:])
    ns = [row["n"] for row in run.memorization[0]["by_repeat_count"]]
    columns = zip(np.transpose(by_seed), ns, strict=True)
    expected = [ends_over_seeds(values, n) for values, n in columns]
    np.testing.assert_allclose(np.array(bars(ax))[:, :, 1], expected)
    assert "Mean of 4 seeds" in ax.figure._supxlabel.get_text()


def test_outcomes_of_the_same_examples_narrow_the_bars_of_repeat_counts(tmp_path):
    rng = np.random.default_rng(0)
    rights = rng.random((3, 400)) < 0.6  # seeds that err independently
    rows = [{**stats(int(right.sum()), 400), **outcomes(range(400), right)} for right in rights]
    for seed, row in enumerate(rows):
        record = {"format": 2, "last": {"by_repeat_count": [{"group": 1, **row}]}}
        write_json(tmp_path / f"seed_{seed}/memorization.json", record)
    point = plots.repeat_points(load(tmp_path), "exact_match")[1]
    expected = over_seeds(rows)
    assert (point.low, point.high) == (expected["low"], expected["high"])
    low, high = ends_over_seeds(rights.mean(axis=1), 400)
    assert low < point.low < point.high < high


def test_a_rate_over_seeds_without_its_n_has_no_interval(tmp_path):
    for seed in range(2):
        rows = add_only_rows(3, seed)
        for i, row in enumerate(rows):
            row["val_exact_match_seen"] = 0.5 + 0.1 * seed
            row |= {"val_n_seen": 40} if i < 2 else {}
        write_rows(tmp_path / f"seed_{seed}", rows)
    seen = plots.curve(load(tmp_path), "epoch", "val_exact_match_seen", n=("val_n_seen",))
    np.testing.assert_allclose(seen.value, 0.55)
    expected = ends_over_seeds((0.5, 0.6), 40)
    np.testing.assert_allclose([seen.low[0], seen.high[0]], expected)
    assert np.isnan(seen.low).tolist() == [False, False, True]


@pytest.mark.parametrize("n_seeds", [2, 3])
def test_two_or_three_seeds_are_thin_lines_in_place_of_an_interval(tmp_path, n_seeds):
    runs = [load(folder) for folder in study(tmp_path, 6, n_seeds)]
    match, loss = plots.learning_figure(runs[0]).axes
    assert len(bands(match)) == 1  # the gap
    assert not bands(loss)
    for ax, key in ((match, "val_exact_match"), (loss, "val_loss")):
        thin = [line.get_ydata() for line in ax.lines if line.get_linewidth() == 0.7][:n_seeds]
        np.testing.assert_allclose(thin, [column(rows, key) for rows in runs[0].seeds])
    assert match.figure._supxlabel.get_text() == f"Mean of {n_seeds} seeds. Thin: each seed."
    ax = plots.repeat_count_figure(runs[:1]).axes[0]
    assert not bars(ax)
    (ax,) = plots.compare_ood_figure(runs).axes
    assert not bars(ax)
    first = ood_results(0.97)["headline"]["interpolation"]["exact_match"]
    dashes = [line.get_xdata() for line in ax.lines if line.get_marker() == "|"]
    assert dashes[0][0] == first
    assert {len(xs) for xs in dashes} == {n_seeds}


@pytest.mark.parametrize(("scale", "end"), [(0.08, 0.1), (0.012, 0.02), (1.0, 1.0), (0.0, 0.01)])
def test_axes_end_where_small_values_can_be_told_apart(tmp_path, scale, end):
    rows = curriculum_rows(8)
    for row in rows:
        for key in ("val_exact_match", "val_exact_match_high", "train_exact_match"):
            row[key] = scale * row["epoch"] / 8
        row["val_exact_match_low"], row["train_n"] = 0, 10**6
        row["val_exact_match_by_task"] = dict.fromkeys(FIVE, row["val_exact_match"])
        row["val_n_by_task"] = dict.fromkeys(FIVE, 10**6)
    write_rows(tmp_path, rows)
    run = load(tmp_path)
    ax = plots.learning_figure(run).axes[0]
    np.testing.assert_allclose(ax.get_ylim(), (-0.03 * end, 1.03 * end))
    assert ax.get_yticks()[-1] == end
    heatmap = plots.heatmap_figure(run).axes[0]
    assert heatmap.images[0].get_clim() == (0, end)


def test_the_paired_effect_of_repetition_has_a_figure(tmp_path):
    runs = [load(folder) for folder in study(tmp_path, 2, n_seeds=3)]
    fig = plots.repeat_effects_figure(runs[:1])
    effects = plots.effects_of(runs[0])
    (ax,) = fig.axes
    dots = [line for line in ax.lines if line.get_marker() == "o"]
    np.testing.assert_allclose([d.get_ydata()[0] for d in dots], column(effects, "difference"))
    ends = np.array([segment[:, 1] for segment in bars(ax)])
    np.testing.assert_allclose(ends.T, [column(effects, "low"), column(effects, "high")])
    dashes = [line.get_ydata() for line in ax.lines if line.get_marker() == "_"]
    np.testing.assert_allclose(dashes, [effect["values"] for effect in effects])
    assert ax.get_ylabel() == "difference (points)"
    last = effects[-1]
    gain, low, high = (100 * last[key] for key in ("difference", "low", "high"))
    shown = f"{gain:+.1f} points [{low:+.1f}, {high:+.1f}]"
    assert shown in ax.get_title("left").replace("\n", " ")
    assert [t.get_text().split("\n")[1] for t in ax.get_xticklabels()][:2] == [
        "minus unseen",
        "minus 1",
    ]
    (ax,) = plots.repeat_effects_figure(runs).axes
    assert list(lines(ax)) == ["normal", "dedup", "duplicated"]


RATES = {0: 0.3, 1: 0.3, 2: 0.5, 8: 0.9}


def matched_runs(tmp_path, seeds=range(4)):
    """A run with repeats, and the same examples where they stand once; one seed more in each."""
    matched_run(tmp_path / "dup", seeds, RATES)
    once = dict.fromkeys(RATES, 0.3)
    matched_run(tmp_path / "dedup", [seed + 1 for seed in seeds], once, once=True)
    return [load(tmp_path / name) for name in ("dup", "dedup")]


def test_the_same_examples_repeated_and_once_are_compared_seed_by_seed(tmp_path):
    runs = matched_runs(tmp_path)
    (pair,) = plots.matched_effects_of(runs)  # the other way round nothing is repeated
    assert (pair["run"], pair["once_in"], pair["seeds"]) == ("dup", "dedup", [1, 2, 3])
    effects = {(e["repeat_count"], e["task"]): e for e in pair["effects"]}
    assert list(effects) == [(c, task) for c in RATES for task in ("all", "add", "rel")]
    dup, dedup = (
        {m["seed"]: {row["group"]: row for row in m["by_repeat_count"]} for m in run.memorization}
        for run in runs
    )
    for seed, value in zip((1, 2, 3), effects[8, "add"]["values"], strict=True):
        names = dedup[seed][1]["examples"].split()
        right = dict(zip(names, dedup[seed][1]["outcomes"], strict=True))
        once = np.mean([right[f"08add{i}"] == "1" for i in range(200)])
        (cell,) = [cell for cell in dup[seed][8]["by_task"] if cell["group"] == "add"]
        assert value == pytest.approx(cell["exact_match"] - once)
    assert effects[8, "add"]["difference"] == pytest.approx(0.6, abs=0.05)
    assert effects[1, "all"]["low"] < 0 < effects[1, "all"]["high"]


def test_the_matched_effects_have_a_figure_and_a_table(tmp_path, capsys):
    runs = matched_runs(tmp_path)
    (pair,) = plots.matched_effects_of(runs)
    (ax,) = plots.matched_repeats_figure(runs).axes
    drawn = [x.get_ydata()[0] for x in ax.lines if x.get_marker() == "o" and len(x.get_ydata())]
    overall = [e for e in pair["effects"] if e["task"] == "all"]
    np.testing.assert_allclose(drawn, column(overall, "difference")[: len(drawn)])
    ends = np.array([segment[:, 1] for segment in bars(ax)][: len(overall)])
    np.testing.assert_allclose(ends.T, [column(overall, "low"), column(overall, "high")])
    assert "dup minus dedup, the same examples: +4" in ax.get_title("left").replace("\n", " ")
    assert plots.matched_repeats_figure(runs[1:]) is None
    argv = [str(tmp_path / name) for name in ("dup", "dedup")]
    assert plots.main([*argv, "--out_dir", str(tmp_path / "out")]) == 0
    (written,) = json.loads((tmp_path / "out/matched_repeat_effects.json").read_text())
    assert written["effects"][-1]["values"] == pair["effects"][-1]["values"]
    last = pair["effects"][-1]
    shown = [f"{100 * last[key]:+.1f}" for key in ("difference", "low", "high")]
    said = capsys.readouterr().out
    assert "repeated in dup minus once in dedup" in said
    row = next(x for x in said.splitlines() if x.split()[:3] == ["8", "rel", "200"])
    assert row.endswith(f"{shown[0]} [{shown[1]}, {shown[2]}]")
    assert (tmp_path / "out/compare_matched_repeats.png").stat().st_size > 10_000


def test_runs_without_a_seed_in_common_are_not_matched(tmp_path):
    matched_run(tmp_path / "dup", [0], RATES)
    matched_run(tmp_path / "dedup", [1], dict.fromkeys(RATES, 0.3), once=True)
    assert plots.matched_effects_of([load(tmp_path / name) for name in ("dup", "dedup")]) == []


def test_unequal_budgets_are_said(tmp_path):
    sizes = {"small": (4, 800_000, 5000), "large": (6, 3_200_000, 5000)}
    for name, (epochs, n_params, rows) in sizes.items():
        write_rows(tmp_path / name, add_only_rows(8)[:epochs])
        derived = {"n_params": n_params, "stages": [{"tasks": ["add"], "rows": rows}]}
        write_json(tmp_path / name / "config.json", {"derived": derived})
    runs = [load(tmp_path / name) for name in sizes]
    said = plots.compare_learning_figure(runs)._supxlabel.get_text().replace("\n", " ")
    assert said.endswith(
        "Unequal budgets: epochs 4 to 6, steps 625 to 937, parameters 800,000 to 3,200,000."
    )
    assert plots.budget_words([runs[0], runs[0]]) == ""


def test_ood_figures_name_the_checkpoint(tmp_path):
    for name in ("best_model.pth", "last.pth"):
        results = {**ood_results(), "checkpoint": name, "step": 1560}
        results["suites"]["ood_edge_cases"]["n_outside_training_range"] = 175
        write_json(tmp_path / name[:4] / "ood_results.json", results)
    runs = [load(tmp_path / name) for name in ("best", "last")]
    for draw in (plots.ood_category_figure, plots.level_figure, plots.failures_figure):
        assert draw(runs[1])._suptitle.get_text().endswith("last.pth, step 1,560")
    (ax,) = plots.compare_ood_figure(runs).axes
    assert list(lines(ax)) == ["best\n(best_model.pth, step 1,560)", "last\n(last.pth, step 1,560)"]
    notes = [text.get_text() for text in plots.ood_category_figure(runs[0]).axes[0].texts]
    assert "n = 600; outside training range: 175" in notes


def test_seeds_of_different_length_are_averaged_over_the_epochs_that_all_have(tmp_path):
    for seed, epochs in enumerate((5, 9)):
        write_rows(tmp_path / f"seed_{seed}", add_only_rows(30, seed)[:epochs])
    (tmp_path / "seed_10").mkdir()  # not begun yet
    match = plots.learning_figure(load(tmp_path)).axes[0]
    np.testing.assert_array_equal(lines(match)["unseen"].get_xdata(), 5000 * np.arange(1, 6))


def test_runs_side_by_side(tmp_path):
    runs = [load(folder) for folder in study(tmp_path, 20, n_seeds=4)]
    names = ["normal", "dedup", "duplicated"]
    unseen, gap = plots.compare_learning_figure(runs).axes
    assert list(lines(unseen)) == list(lines(gap)) == names
    for run in runs:
        gaps = np.mean([column(rows, "generalization_gap") for rows in run.seeds], axis=0)
        np.testing.assert_allclose(lines(gap)[run.name].get_ydata(), gaps)
    last = [rows[-1] for rows in runs[0].seeds]
    train, val = ([row[f"{of}_exact_match"] for row in last] for of in ("train", "val"))
    expected = ends_over_seeds(train, 2500, less=val)
    np.testing.assert_allclose([end[-1] for end in bands(gap)[0][1:]], expected)
    match, _ = plots.repeat_count_figure(runs).axes
    assert list(lines(match)) == names
    (ax,) = plots.compare_ood_figure(runs).axes
    given = [run.ood["headline"]["robustness"] for run in runs]
    row = [t.get_text() for t in ax.get_yticklabels()].index("robustness\nn = 600")
    plotted = [lines(ax)[name].get_xdata()[row] for name in names]
    np.testing.assert_allclose(plotted, [stats["exact_match"] for stats in given])
    segments = np.array(bars(ax)).reshape(3, -1, 2, 2)[:, row, :, 0]
    ends = [[stats["exact_match_low"], stats["exact_match_high"]] for stats in given]
    np.testing.assert_allclose(segments, ends)
    (ax,) = plots.compare_tasks_figure(runs).axes
    last = [[rows[-1]["val_exact_match_by_task"]["add"] for rows in run.seeds] for run in runs]
    plotted = [lines(ax)[name].get_xdata()[FIVE.index("add")] for name in names]
    np.testing.assert_allclose(plotted, np.mean(last, axis=1))


def test_no_text_overlaps_or_is_cut_off(add_only, five_tasks, tmp_path):
    long = tmp_path / ("a_long_name_of_a_run_" * 6 + "normal")
    write_rows(long, curriculum_rows(50, stages=dict(enumerate(STAGES.values(), start=1))))
    one = tmp_path / "one_epoch"
    write_rows(one, curriculum_rows()[:1])
    folders = [add_only, five_tasks, long, one, *study(tmp_path / "study", 12)[:2]]
    runs = [load(folder) for folder in folders]
    with plots.own_style():  # as the files are written
        figures = plots.draw_figures(runs)
        matched = plots.matched_repeats_figure(matched_runs(tmp_path / "matched"))
        figures["compare_matched_repeats.png"] = matched
        assert {name for name in figures if "/" not in name} == set(plots.COMPARISONS)
        for figure in figures.values():
            assert_readable(figure)


def test_long_titles_and_many_runs_stay_on_the_page(tmp_path):
    """Counts of six kinds, long tags, and every two of four runs."""
    rows, counts = curriculum_rows()[:4], ("1", "2", "4", "8", "16", "32")
    for row in rows:
        row["train_exact_match_by_repeat_count"] = dict.fromkeys(counts, 1.0)
        row["train_n_by_repeat_count"] = dict.fromkeys(counts, 60)
        for key in ("val_exact_match_by_task", "val_n_by_task"):
            row[key] = {f"{task} of a rule with a long name": v for task, v in row[key].items()}
        row["tasks"] = list(row["val_exact_match_by_task"])
    write_rows(tmp_path / "run", rows)
    names = ["dup", "dedup", "again", "once more"]
    for i, name in enumerate(names):
        once = dict.fromkeys(RATES, 0.3)
        matched_run(tmp_path / name, range(4), once if i % 2 else RATES, once=bool(i % 2))
    matched = [load(tmp_path / name) for name in names]
    with plots.own_style():
        assert_readable(plots.repeat_counts_over_epochs_figure(load(tmp_path / "run")))
        assert_readable(plots.heatmap_figure(load(tmp_path / "run")))
        fig = plots.matched_repeats_figure(matched)
        assert_readable(fig)
    shown = [ax for ax in fig.axes if ax.get_visible()]
    assert (len(shown), len(fig.axes)) == (4, 6)  # three in a row
    (legend,) = (ax.get_legend() for ax in fig.axes if ax.get_legend())
    assert [text.get_text() for text in legend.get_texts()] == ["all", "add", "rel"]


def test_markers_of_many_runs_stay_with_their_count(tmp_path):
    names = [f"run{i}" for i in range(12)]
    for name in names:
        matched_run(tmp_path / name, [0], RATES)
    runs = [load(tmp_path / name) for name in names]
    for fig in (plots.repeat_effects_figure(runs), plots.repeat_count_figure(runs)):
        first = [line.get_xdata()[0] for line in lines(fig.axes[0]).values()]
        assert len(first) == len(names)
        assert np.ptp(first) < 1


@pytest.mark.parametrize("last", [0.1, 0.015, 2e-7])
def test_a_loss_over_decades_has_plain_numbers_on_its_axis(tmp_path, last):
    losses = np.geomspace(2.3, last, 30)
    rows = curriculum_rows()[:1] * 30
    rows = [
        {**row, "epoch": e, "examples_seen": 5000 * e, "val_loss": loss, "train_loss": loss * 0.85}
        for e, (row, loss) in enumerate(zip(rows, losses, strict=True), start=1)
    ]
    write_rows(tmp_path / "run", rows)
    with plots.own_style():
        fig = plots.learning_figure(load(tmp_path / "run"))
        assert_readable(fig)
    match, loss = fig.axes
    assert loss.get_yscale() == "log"
    low, high = loss.get_ylim()
    shown = [
        t.label1.get_text() for t in loss.yaxis.get_major_ticks() if low <= t.get_loc() <= high
    ]
    assert len(shown) >= 2
    assert [float(text) for text in shown] == pytest.approx(
        [t for t in loss.yaxis.get_majorticklocs() if low <= t <= high]
    )
    assert not any(t.label1.get_text() for t in loss.yaxis.get_minor_ticks())
    assert loss.get_position().width > 0.5 * match.get_position().width
