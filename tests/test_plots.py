"""plots.py on one run: plotted values, intervals, panels."""

import doctest
import json
from pathlib import Path

import numpy as np
import pytest

import plots
from metrics import wilson_interval
from run_folders import (
    FIVE,
    STAGES,
    add_only_rows,
    assert_readable,
    bands,
    bars,
    column,
    curriculum_rows,
    lines,
    load,
    memorization,
    ood_results,
    stats,
    visible_texts,
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


def test_learning_shows_both_rates_with_their_intervals_the_gap_and_both_losses(add_only):
    rows = add_only_rows()
    fig = plots.learning_figure(load(add_only))
    match, loss = fig.axes
    seen = column(rows, "examples_seen")
    for name, key in (("unseen", "val_exact_match"), ("train", "train_exact_match")):
        np.testing.assert_allclose(lines(match)[name].get_xdata(), seen)
        np.testing.assert_allclose(lines(match)[name].get_ydata(), column(rows, key))
    gap, unseen, train = bands(match)
    np.testing.assert_allclose(gap[1], column(rows, "val_exact_match"))
    np.testing.assert_allclose(gap[2], column(rows, "train_exact_match"))
    np.testing.assert_allclose(unseen[1], column(rows, "val_exact_match_low"))
    np.testing.assert_allclose(unseen[2], column(rows, "val_exact_match_high"))
    wilson = [wilson_interval(round(500 * row["train_exact_match"]), 500) for row in rows]
    np.testing.assert_allclose(np.array(train[1:]).T, wilson)
    for name, key in (("unseen", "val_loss"), ("train", "train_loss")):
        np.testing.assert_allclose(lines(loss)[name].get_ydata(), column(rows, key))
    assert "unseen (n = 500)" in [t.get_text() for t in match.get_legend().get_texts()]
    gaps = 100 * (column(rows, "train_exact_match") - column(rows, "val_exact_match"))
    title = match.get_title("left").replace("\n", " ")
    assert f"{gaps.max():.1f} points at most" in title
    assert f"{gaps[-1]:.1f} at the end" in title
    assert match.get_ylim() == (-0.03, 1.03)
    assert match.yaxis.get_major_formatter()(0.2) == "20 %"


def test_rows_all_seen_in_training_are_never_called_unseen(tmp_path):
    rows = add_only_rows(4)
    for row in rows:
        row["val_exact_match_seen"] = row["val_exact_match"]
    write_rows(tmp_path, rows)
    write_json(tmp_path / "config.json", {"data": {"audit": {"val_unseen": 0}}})
    run = load(tmp_path)
    figures = plots.draw_figures([run])
    assert list(lines(figures["learning.png"].axes[0])) == ["seen", "train"]
    for figure in figures.values():
        assert not any("unseen" in text.get_text().lower() for text in visible_texts(figure))


def test_tasks_start_with_their_stage_and_stages_are_marked(five_tasks):
    rows = curriculum_rows()
    (ax,) = plots.tasks_figure(load(five_tasks)).axes
    for task, start in zip(FIVE, STAGES, strict=True):
        line, of_task = lines(ax)[task], [r["val_exact_match_by_task"][task] for r in rows]
        np.testing.assert_array_equal(line.get_xdata(), np.arange(start, 51))
        np.testing.assert_allclose(line.get_ydata(), of_task[start - 1 :])
    assert [t.get_text() for t in ax.texts] == ["copy", "+ rev", "+ add", "+ sort", "+ rel"]
    assert [t.xy[0] for t in ax.texts] == [start - 0.5 for start in STAGES]
    low, high = bands(ax)[0][1:]
    k = round(500 * rows[0]["val_exact_match_by_task"]["copy"])
    np.testing.assert_allclose((low[0], high[0]), wilson_interval(k, 500))


def test_heatmap_is_blank_and_hatched_before_a_task_comes_in(five_tasks):
    ax, bar = plots.heatmap_figure(load(five_tasks)).axes
    table = ax.images[0].get_array().filled(np.nan)
    assert table.shape == (5, 50)
    for i, (task, start) in enumerate(zip(FIVE, STAGES, strict=True)):
        assert np.isnan(table[i, : start - 1]).all()
        of_task = [r["val_exact_match_by_task"][task] for r in curriculum_rows()]
        np.testing.assert_allclose(table[i, start - 1 :], of_task[start - 1 :])
    assert ax.patch.get_hatch() == "///"
    assert [t.get_text() for t in ax.get_yticklabels()] == FIVE
    assert bar.get_ylim() == (0, 1)


def test_a_heatmap_below_90_percent_has_each_tasks_best_epoch_in_its_title(tmp_path):
    rows = curriculum_rows(20)
    for row in rows:
        for task in row["val_exact_match_by_task"]:
            row["val_exact_match_by_task"][task] *= 0.5
    write_rows(tmp_path, rows)
    best = {}
    for row in rows:
        for task, rate in row["val_exact_match_by_task"].items():
            best[task] = max(rate, best.get(task, 0))
    title = plots.heatmap_figure(load(tmp_path)).axes[0].get_title("left").replace("\n", " ")
    assert title.startswith("Unseen exact match at each task's best epoch: highest ")
    for end in (max, min):
        task = end(best, key=best.get)
        assert f"{100 * best[task]:.1f} % ({task})" in title


def test_a_live_run_shows_the_tasks_to_come_and_ignores_its_torn_line(tmp_path):
    write_rows(tmp_path, curriculum_rows()[:6])
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"epoch": 7, "val_exact')
    stages = [{"epoch": epoch, "tasks": tasks, "rows": 1} for epoch, tasks in STAGES.items()]
    write_json(tmp_path / "config.json", {"derived": {"stages": stages}})
    run = load(tmp_path)
    assert [row["epoch"] for row in run.seeds[0]] == [1, 2, 3, 4, 5, 6]
    table = plots.heatmap_figure(run).axes[0].images[0].get_array().filled(np.nan)
    assert np.isfinite(table).sum(axis=1).tolist() == [6, 2, 0, 0, 0]
    assert list(lines(plots.tasks_figure(run).axes[0])) == ["copy", "rev"]


def test_lines_written_again_after_a_resume_replace_the_earlier_ones(tmp_path):
    rows = add_only_rows(6)
    again = {**rows[3], "val_exact_match": 0.5}
    write_rows(tmp_path, [*rows, again])
    (kept,) = load(tmp_path).seeds
    assert [row["epoch"] for row in kept] == [1, 2, 3, 4]
    assert kept[-1]["val_exact_match"] == 0.5


def test_epochs_without_validation_and_missing_keys_leave_no_points(tmp_path):
    rows = curriculum_rows(12)
    for row in rows:
        if row["epoch"] % 3:
            row.update({key: None for key in row if key.startswith("val")})
        for key in ("examples_seen", "step", "tasks", "val_n_by_task", "gap_low"):
            del row[key]
    write_rows(tmp_path, rows)
    run = load(tmp_path)
    match = plots.learning_figure(run).axes[0]
    assert match.get_xlabel() == "epoch"
    np.testing.assert_array_equal(lines(match)["unseen"].get_xdata(), [3, 6, 9, 12])
    np.testing.assert_array_equal(lines(match)["train"].get_xdata(), np.arange(1, 13))
    np.testing.assert_array_equal(bands(match)[0][0], [3, 6, 9, 12])
    assert plots.heatmap_figure(run).axes[0].images[0].get_array().shape == (5, 4)
    for draw in (plots.tasks_figure, plots.learning_rate_figure, plots.failures_figure):
        assert_readable(draw(run))


def test_learning_rate_over_steps(add_only):
    (ax,) = plots.learning_rate_figure(load(add_only)).axes
    rows = add_only_rows()
    np.testing.assert_array_equal(ax.lines[0].get_xdata(), column(rows, "step"))
    np.testing.assert_allclose(ax.lines[0].get_ydata(), column(rows, "lr"))
    assert ax.get_xlabel() == "optimizer step"


def test_the_peak_of_the_rate_is_told_where_it_lies_between_two_lines(add_only):
    run = load(add_only)
    run.config.setdefault("derived", {})["lr_scaled"] = 0.0125
    (ax,) = plots.learning_rate_figure(run).axes
    assert ax.get_title(loc="left").startswith("Learning rate: 0.013 at its peak, ")


def test_repeat_counts_with_unseen_apart_and_no_interval_on_a_single_loss(five_tasks):
    given = memorization()["last"]["by_repeat_count"]
    match, loss = plots.repeat_count_figure([load(five_tasks)]).axes
    trained, unseen = match.lines
    np.testing.assert_allclose(trained.get_ydata(), column(given, "exact_match")[1:])
    np.testing.assert_allclose(unseen.get_ydata(), [given[0]["exact_match"]])
    assert unseen.get_markerfacecolor() == "white"
    segments = np.array(bars(match))  # [counts, 2 ends, x and y]
    np.testing.assert_allclose(segments[:, 0, 1], column(given, "exact_match_low"))
    np.testing.assert_allclose(segments[:, 1, 1], column(given, "exact_match_high"))
    labels = [t.get_text() for t in match.get_xticklabels()]
    assert labels[0] == "0\nn = 500"
    assert labels[-1] == "32\nn = 106"
    np.testing.assert_allclose(loss.lines[0].get_ydata(), column(given, "loss")[1:])
    assert all(np.isnan(segment).any() for segment in bars(loss) if len(segment))


def test_ood_rows_carry_interval_n_oracle_length_and_what_is_left_out(add_only):
    results = ood_results(add_only=True)
    (ax,) = plots.ood_category_figure(load(add_only)).axes
    labels = [t.get_text() for t in ax.get_yticklabels()]
    notes = dict(zip(labels, [t.get_text() for t in ax.texts], strict=True))
    assert labels[:4] == ["interpolation", "extrapolation", "extrap add", "extrap copy"]
    assert notes["interpolation"] == "n = 600"
    assert notes["compositional"] == "n = 600; left out: 120 untrained tag"
    assert notes["extrap copy"] == "n = 500; left out: 500 untrained tag"
    looks = {line.get_ydata()[0]: line for line in ax.lines if line.get_marker() != "D"}
    assert looks[labels.index("extrap copy")].get_marker() == "X"
    y = labels.index("robustness")
    stats = results["headline"]["robustness"]
    assert looks[y].get_xdata()[0] == stats["exact_match"]
    (oracle,) = [k for k in ax.lines if k.get_marker() == "D" and k.get_ydata()[0] == y]
    assert oracle.get_xdata()[0] == stats["oracle_length_exact_match"]
    assert oracle.get_markerfacecolor() == "none"
    (segment,) = [s for s in bars(ax) if s[0, 1] == y]
    np.testing.assert_allclose(segment[:, 0], [stats["exact_match_low"], stats["exact_match_high"]])


def test_levels_shade_the_training_range_and_average_either_side_of_it(five_tasks):
    rows = ood_results()["suites"]["ood_systematic"]["by_level"]
    fig = plots.level_figure(load(five_tasks))
    assert [ax.get_xlabel() for ax in fig.axes] == ["items", "digits", "hops"]
    assert [list(lines(ax)) for ax in fig.axes] == [["copy", "rev", "sort"], ["add"], ["rel"]]
    for ax, (low, high) in zip(fig.axes, [(3, 10), (1, 3), (1, 3)], strict=True):
        (span,) = [p for p in ax.patches if p.get_label() == "training range"]
        assert (span.get_x(), span.get_x() + span.get_width()) == (low - 0.5, high + 0.5)
    added = [row for row in rows if row["task"] == "add"]
    np.testing.assert_allclose(lines(fig.axes[1])["add"].get_ydata(), column(added, "exact_match"))
    np.testing.assert_allclose(bands(fig.axes[1])[0][1], column(added, "exact_match_low"))
    inside, outside = np.split(column(added, "exact_match"), [3])
    title = f"Digits: {100 * inside.mean():.1f} % inside, {100 * outside.mean():.1f} % outside"
    assert fig.axes[1].get_title("left").replace("\n", " ") == title


def repeat_count_rows(epochs=6, seed=0):
    """Of 60 examples, 10 an epoch are learned where they stand once, 20 where four times."""
    rows = add_only_rows(epochs, seed)
    for row in rows:
        right = {"1": min(60, 10 * row["epoch"] - seed), "4": min(60, 20 * row["epoch"])}
        row["train_exact_match_by_repeat_count"] = {count: k / 60 for count, k in right.items()}
        row["train_n_by_repeat_count"] = {"1": 60, "4": 60}
    return rows


def test_repeat_counts_over_epochs_have_wilson_intervals_beside_unseen(tmp_path):
    rows = repeat_count_rows()
    write_rows(tmp_path, rows)
    fig = plots.draw_figures([load(tmp_path)])["repeat_count_over_epochs.png"]
    (ax,) = fig.axes
    assert list(lines(ax)) == ["unseen", "once", "4–7 times"]
    expected = {"once": np.arange(1, 7) / 6, "4–7 times": [1 / 3, 2 / 3, 1, 1, 1, 1]}
    expected["unseen"] = column(rows, "val_exact_match")
    for name, values in expected.items():
        np.testing.assert_allclose(lines(ax)[name].get_xdata(), column(rows, "examples_seen"))
        np.testing.assert_allclose(lines(ax)[name].get_ydata(), values)
    once = bands(ax)[1]
    wilson = [wilson_interval(10 * epoch, 60) for epoch in range(1, 7)]
    np.testing.assert_allclose(np.array(once[1:]).T, wilson)
    title = ax.get_title("left").replace("\n", " ")
    assert title.endswith("once 100.0 %, 4–7 times 100.0 %")
    assert "4–7 times (n = 60)" in [t.get_text() for t in ax.get_legend().get_texts()]
    assert_readable(fig)


def test_repeat_counts_of_several_seeds_are_their_mean_and_missing_ones_are_left_out(tmp_path):
    for seed in (0, 6):
        rows = repeat_count_rows(seed=seed)
        if seed:
            del rows[2]["train_exact_match_by_repeat_count"]["4"]
            rows[3]["train_exact_match_by_repeat_count"] = None
        write_rows(tmp_path / f"seed_{seed}", rows)
        write_json(tmp_path / f"seed_{seed}" / "config.json", {"seed": seed})
    (ax,) = plots.repeat_counts_over_epochs_figure(load(tmp_path)).axes
    once, often = lines(ax)["once"], lines(ax)["4–7 times"]
    np.testing.assert_allclose(once.get_ydata(), (10 * np.array([1, 2, 3, 5, 6]) - 3) / 60)
    assert often.get_xdata().tolist() == [5000, 10_000, 25_000, 30_000]


def test_without_repeat_counts_there_is_no_figure_of_them(add_only):
    assert "repeat_count_over_epochs.png" not in plots.draw_figures([load(add_only)])


def test_levels_weigh_by_their_number_of_examples(tmp_path):
    results = ood_results(add_only=True)
    levels = [(1, 1, 10), (2, 99, 100), (4, 0, 30), (5, 10, 10)]
    rows = [{"task": "add", "level": level, **stats(k, n)} for level, k, n in levels]
    results["suites"]["ood_systematic"]["by_level"] = rows
    write_json(tmp_path / "ood_results.json", results)
    (ax,) = plots.level_figure(load(tmp_path)).axes
    title = ax.get_title("left").replace("\n", " ")
    assert title == "Digits: 90.9 % inside, 25.0 % outside"  # 100 of 110, 10 of 40


def test_levels_take_the_training_range_of_the_results_and_skip_tasks_without_rows(add_only):
    path = add_only / "ood_results" / "ood_results.json"
    write_json(path, {**json.loads(path.read_text()), "training_range": {"add": [1, 2]}})
    (ax,) = plots.level_figure(load(add_only)).axes
    (span,) = [p for p in ax.patches if p.get_label() == "training range"]
    assert (span.get_x(), span.get_width()) == (0.5, 2.0)


def test_tasks_of_one_axis_are_averaged_by_their_own_ranges(tmp_path):
    results = ood_results(add_only=True)
    levels = [("copy", 4, 10), ("copy", 8, 0), ("sort", 4, 10), ("sort", 8, 10), ("sort", 12, 0)]
    rows = [{"task": task, "level": level, **stats(k, 10)} for task, level, k in levels]
    results["suites"]["ood_systematic"]["by_level"] = rows
    results["training_range"] = {"copy": [3, 5], "sort": [3, 10]}
    write_json(tmp_path / "ood_results.json", results)
    (ax,) = plots.level_figure(load(tmp_path)).axes
    title = ax.get_title("left").replace("\n", " ")
    assert title == "Items: 100.0 % inside, 0.0 % outside"
    (span,) = [p for p in ax.patches if p.get_label() == "training range of copy"]
    assert (span.get_x(), span.get_width()) == (2.5, 3.0)


def test_levels_of_one_list_task_take_its_own_range(five_tasks):
    path = five_tasks / "ood_results" / "ood_results.json"
    results = ood_results()
    systematic = results["suites"]["ood_systematic"]
    systematic["by_level"] = [r for r in systematic["by_level"] if r["task"] == "sort"]
    write_json(path, {**results, "training_range": {"sort": [3, 6]}})
    (ax,) = plots.level_figure(load(five_tasks)).axes
    (span,) = [p for p in ax.patches if p.get_label() == "training range"]
    assert (span.get_x(), span.get_width()) == (2.5, 4.0)


def test_failures_stack_to_one_and_agree_with_the_counts(five_tasks):
    (ax,) = plots.failures_figure(load(five_tasks)).axes
    labels = [t.get_text() for t in ax.get_yticklabels()]
    assert labels[0] == "unseen examples (n = 2,500)"
    assert "extrapolation: sort (n = 500)" in labels
    widths = np.array([[bar.get_width() for bar in bars] for bars in ax.containers])
    np.testing.assert_allclose(widths.sum(axis=0), 1)
    given = ood_results()["headline"]["robustness"]
    shares = [given["exact_match"], *(k / given["n"] for k in given["failures"].values())]
    np.testing.assert_allclose(widths[:, labels.index("robustness (n = 600)")], shares)


def test_failures_of_several_seeds_have_the_n_of_one(tmp_path):
    for seed in range(3):
        write_rows(tmp_path / f"seed_{seed}", curriculum_rows(20))
    (label, n, shares), *_ = plots.failure_rows(load(tmp_path))
    alone = plots.failure_rows(load(tmp_path / "seed_0"))[0]
    assert (label, n) == alone[:2]
    assert shares == pytest.approx(alone[2])


def test_failures_name_the_model_they_are_of(five_tasks):
    """The best model is right where the last, which other figures show, is wrong."""
    run = load(five_tasks)
    (best,) = [row["epoch"] for row in run.seeds[0] if row.get("best")]
    words = plots.failures_figure(run)._supxlabel.get_text()
    assert words == f"Unseen examples: the best model of epoch {best}."


def test_losses_have_three_digits_whatever_they_end_in():
    assert [plots.loss_text(loss) for loss in (1.2, 1.19, 0.0503, 104.2)] == [
        "1.20",
        "1.19",
        "0.0503",
        "104",
    ]


def test_doctests():
    assert doctest.testmod(plots).failed == 0
