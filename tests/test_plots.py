"""plots.py on synthetic run folders: plotted values, intervals, panels, files, errors."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

import plots
from metrics import newcombe_interval, outcomes, over_seeds, repeat_effects, wilson_interval

ROOT = Path(__file__).resolve().parent.parent
FIVE = ["copy", "rev", "add", "sort", "rel"]
STAGES = {1: FIVE[:1], 5: FIVE[:2], 9: FIVE[:3], 13: FIVE[:4], 17: FIVE}


# ------------------------------------------------------------------------------------------------
# synthetic run folders
# ------------------------------------------------------------------------------------------------


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def stats(k, n, ran_on=0):
    """What metrics.summarize returns, for k right of n; the other failures shared out."""
    low, high = wilson_interval(k, n)
    wrong = n - k - ran_on
    return {
        "n": n,
        "exact_match": k / n,
        "exact_match_low": low,
        "exact_match_high": high,
        "oracle_length_exact_match": (k + ran_on) / n,
        "token_accuracy": (1 + k / n) / 2,
        "edit_distance": (1 - k / n) / 2,
        "failures": {
            "stopped_early": wrong // 3,
            "ran_on": ran_on,
            "wrong_content": wrong - wrong // 3,
        },
    }


def write_json(path, record):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record))


def write_rows(folder, rows):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def epoch_row(epoch, epochs, unseen, train, rows_seen, by_task, tasks, seed=0, n=500):
    k, k_train = round(n * unseen), round(n * train)
    low, high = wilson_interval(k, n)
    gap_low, gap_high = newcombe_interval(k_train, n, k, n)
    return {
        "epoch": epoch,
        "step": rows_seen // 32,
        "seed": seed,
        "stage": len(tasks) - 1,
        "tasks": tasks,
        "lr": 1.2e-3 * (0.55 + 0.45 * np.cos(np.pi * epoch / epochs)),
        "train_loss": 2.4 * (1.001 - train) + 0.01,
        "val_loss": 2.4 * (1.001 - unseen) + 0.02,
        "val_exact_match": k / n,
        "val_exact_match_low": low,
        "val_exact_match_high": high,
        "val_n": n,
        "val_exact_match_seen": None,
        "val_exact_match_by_task": by_task,
        "val_n_by_task": dict.fromkeys(by_task, n // len(by_task)),
        "val_failures": {
            "stopped_early": (n - k) // 4,
            "ran_on": 0,
            "wrong_content": n - k - (n - k) // 4,
        },
        "train_exact_match": k_train / n,
        "train_n": n,
        "generalization_gap": (k_train - k) / n,
        "gap_low": gap_low,
        "gap_high": gap_high,
        "examples_seen": rows_seen,
        "seconds": 7.0 * epoch,
        "best": epoch == epochs,
    }


def add_only_rows(epochs=30, seed=0):
    """Train is learned first; unseen follows after about 50,000 examples."""
    rng, rows = np.random.default_rng(seed), []
    for epoch in range(1, epochs + 1):
        unseen = 0.985 * sigmoid((epoch - 15) / 1.4) + 0.004 * rng.random()
        train = 0.997 * sigmoid((epoch - 11) / 1.6)
        rows.append(
            epoch_row(epoch, epochs, unseen, train, 5000 * epoch, {"add": unseen}, ["add"], seed)
        )
    return rows


def curriculum_rows(epochs=50, seed=0, level=0.95, stages=STAGES):
    rng, rows = np.random.default_rng(seed), []
    for epoch in range(1, epochs + 1):
        tasks = stages[max(start for start in stages if start <= epoch)]
        by_task = {}
        for i, task in enumerate(FIVE):
            top = level - 0.08 * i * rng.uniform(0.6, 1.4)
            start = 1 + 4 * i
            by_task[task] = top * sigmoid((epoch - start - 5) / 2) if task in tasks else 0.0
        unseen = float(np.mean(list(by_task.values())))
        train = min(1, unseen * 1.04 + 0.01)
        rows.append(
            epoch_row(epoch, epochs, unseen, train, 40_000 * epoch, by_task, tasks, seed, 2500)
        )
    return rows


def memorization(seed=0, slope=0.09):
    rng = np.random.default_rng(seed)
    rows = []
    for i, count in enumerate([0, 1, 2, 4, 8, 16, 32]):
        n = 500 if count == 0 else 3400 // count
        k = round(n * min(1, 0.44 + slope * i + 0.02 * rng.standard_normal()))
        low, high = wilson_interval(k, n)
        rows.append(
            {
                "group": count,
                "n": n,
                "exact_match": k / n,
                "exact_match_low": low,
                "exact_match_high": high,
                "loss": 0.9 * 0.6**i,
            }
        )
    report = {"epoch": 50, "step": 700, "unseen": rows[0], "by_repeat_count": rows}
    return {"format": 2, "last_is_best": True, "best": report, "last": report}


def ood_results(scale=1.0, add_only=False):
    suites, headline = {}, {}
    for task in FIVE:
        rates = {"copy": 0.3, "rev": 0.1, "add": 0.01, "sort": 0.2, "rel": 0.35}
        s = stats(round(500 * rates[task] * scale), 500, ran_on=3)
        suites[f"ood_extrap_{task}"] = suite("extrapolation", {task: s}, s)
    headline["extrapolation"] = stats(round(480 * scale), 2500, ran_on=15)
    for name, rate in [
        ("interpolation", 0.94),
        ("compositional", 0.02),
        ("edge_cases", 0.8),
        ("robustness", 0.41),
    ]:
        headline[name] = stats(round(600 * rate * scale), 600, ran_on=20)
        by_task = {task: stats(round(120 * rate * scale), 120) for task in FIVE}
        suites[f"ood_{name}"] = suite(name, by_task, headline[name])
    suites["ood_compositional"]["left_out"]["untrained_tag"] = 120
    suites["ood_novel_tasks"] = suite("novel_tasks", {}, None, stats(0, 500, ran_on=4))
    suites["ood_novel_tasks"]["left_out"]["untrained_tag"] = 500
    headline["systematic"] = stats(round(2000 * scale), 4000, ran_on=100)
    suites["ood_systematic"] = suite("systematic", {}, headline["systematic"])
    ranges = {
        "copy": range(3, 25),
        "rev": range(3, 25),
        "sort": range(3, 25),
        "add": range(1, 7),
        "rel": range(1, 7),
    }
    for i, (task, levels) in enumerate(ranges.items()):
        edge = {"add": 3.5, "rel": 3.8}.get(task, 11.5 + 0.8 * i)
        for level in levels:
            k = round(100 * scale * 0.97 * sigmoid(-(level - edge) / (0.12 * edge)))
            row = {"task": task, "level": level, **stats(k, 100)}
            suites["ood_systematic"]["by_level"].append(row)
    if add_only:
        for name, record in suites.items():
            if name.startswith("ood_extrap_") and not name.endswith("add"):
                record.update(headline=None)
                record["left_out"]["untrained_tag"] = 500
        headline["extrapolation"] = suites["ood_extrap_add"]["headline"]
        levels = suites["ood_systematic"]["by_level"]
        suites["ood_systematic"]["by_level"] = [r for r in levels if r["task"] == "add"]
    return {"format": 1, "model": "best_model.pth", "headline": headline, "suites": suites}


def suite(category, by_task, headline, everything=None):
    left_out = {"untrained_tag": 0, "unknown_characters": 0, "beyond_position_table": 0}
    return {
        "category": category,
        "n": (everything or headline)["n"],
        "left_out": left_out,
        "all": everything or headline,
        "headline": headline,
        "by_task": by_task,
        "by_level": [],
    }


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


def study(root, epochs=50, n_seeds=3):
    """Three folders of seeds, one per data set."""
    levels = {"normal": (0.97, 0.085), "dedup": (0.99, 0.09), "duplicated": (0.9, 0.07)}
    for i, (name, (level, slope)) in enumerate(levels.items()):
        seeds = []
        for seed in range(n_seeds):
            folder = root / name / f"seed_{seed}"
            write_rows(folder, curriculum_rows(epochs, seed + 10 * i, level - 0.02 * seed))
            write_json(folder / "memorization.json", memorization(seed + 10 * i, slope))
            seeds.append(ood_results(level - 0.05 * seed))
        write_json(root / name / "config.json", {"arguments": {}})
        write_json(root / name / "ood_results" / "ood_results.json", over_seeds_results(seeds))
    return [root / name for name in levels]


def ends_over_seeds(values, n, less=None):
    """The interval of one rate a seed of n examples, or of its difference to the rates `less`."""
    rows, minus = (
        side if side is None else [{"exact_match": value, "n": n} for value in side]
        for side in (values, less)
    )
    interval = over_seeds(rows, minus)
    return interval["low"], interval["high"]


def over_seeds_results(seeds):
    results = {**seeds[0], "seeds": list(range(len(seeds)))}
    for category in results["headline"]:
        values = [record["headline"][category]["exact_match"] for record in seeds]
        low, high = ends_over_seeds(values, seeds[0]["headline"][category]["n"])
        results["headline"][category].update(
            exact_match=float(np.mean(values)),
            exact_match_low=low,
            exact_match_high=high,
            values=values,
        )
    return results


# ------------------------------------------------------------------------------------------------
# reading figures back
# ------------------------------------------------------------------------------------------------


def load(folder, name=None):
    return plots.load_run(folder, name or folder.name)


def lines(ax):
    """Label without its n -> line, for the lines that stand in a legend."""
    return {
        line.get_label().split(" (n")[0]: line
        for line in ax.lines
        if not line.get_label().startswith("_")
    }


def bands(ax):
    """[(x, low, high)] of each fill_between, in drawing order."""
    found = []
    for band in (c for c in ax.collections if type(c).__name__ == "FillBetweenPolyCollection"):
        points = band.get_paths()[0].vertices if band.get_paths() else np.empty((0, 2))
        xs = np.unique(points[:, 0])
        ends = [points[points[:, 0] == x, 1] for x in xs]
        found.append((xs, np.array([e.min() for e in ends]), np.array([e.max() for e in ends])))
    return found


def bars(ax):
    """The two ends, [2, x and y], of every interval bar; an empty array where there is none."""
    return [s for c in ax.collections if hasattr(c, "get_segments") for s in c.get_segments()]


def column(rows, key):
    return np.array([row[key] for row in rows], dtype=float)


def visible_texts(fig):
    """What is written on the figure, without major tick labels outside the axes' limits."""
    texts = [fig._suptitle, fig._supxlabel, *(t for leg in fig.legends for t in leg.get_texts())]
    for ax in fig.axes:
        texts += [ax.title, ax._left_title, ax.xaxis.label, ax.yaxis.label, *ax.texts]
        texts += ax.get_legend().get_texts() if ax.get_legend() else []
        for axis in (ax.xaxis, ax.yaxis):
            low, high = sorted(axis.get_view_interval())
            ticks = [t for t in axis.get_major_ticks() if low <= t.get_loc() <= high]
            texts += [t.label1 for t in (*ticks, *axis.get_minor_ticks())]
    return [t for t in texts if t is not None and t.get_visible() and t.get_text().strip()]


def assert_readable(fig):
    """No two texts overlap, none is cut off, smaller than 8 points or the source of a formula."""
    fig.draw_without_rendering()
    boxes = [(t, t.get_window_extent()) for t in visible_texts(fig)]
    for k, (text, box) in enumerate(boxes):
        assert text.get_fontsize() >= 8
        assert "$" not in text.get_text()
        outside = (*fig.bbox.min - box.min, *box.max - fig.bbox.max)
        assert max(outside) < 1, text.get_text()
        for other, second in boxes[k + 1 :]:
            apart = (
                min(box.x1, second.x1) - max(box.x0, second.x0) < 1
                or min(box.y1, second.y1) - max(box.y0, second.y0) < 1
            )
            assert apart, (text.get_text(), other.get_text())


# ------------------------------------------------------------------------------------------------
# one run
# ------------------------------------------------------------------------------------------------


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


# ------------------------------------------------------------------------------------------------
# seeds and several runs
# ------------------------------------------------------------------------------------------------


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
        assert {name for name in figures if "/" not in name} == set(plots.COMPARISONS)
        for figure in figures.values():
            assert_readable(figure)


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


# ------------------------------------------------------------------------------------------------
# files, command line, errors
# ------------------------------------------------------------------------------------------------


def command(*args):
    line = [sys.executable, str(ROOT / "plots.py"), *map(str, args)]
    return subprocess.run(line, capture_output=True, text=True, check=False)


def test_figures_without_data_are_not_written(tmp_path):
    results = tmp_path / "ood_results"
    write_json(results / "ood_results.json", ood_results())
    paths = plots.write_figures(results)
    assert [p.name for p in paths] == ["ood_by_category.png", "ood_by_level.png", "failures.png"]
    assert sorted((results / "plots").iterdir()) == sorted(paths)  # and no temporary file
    write_rows(tmp_path / "new", [{"epoch": 1, "train_loss": 2.0}, {"epoch": 2, "train_loss": 1.0}])
    assert [p.name for p in plots.write_figures(tmp_path / "new")] == ["learning.png"]


def test_command_line_writes_each_run_into_its_folder_and_comparisons_beside(add_only, five_tasks):
    out = add_only.parent / "figures"
    done = command(add_only, five_tasks, "--out_dir", out)
    assert (done.returncode, done.stderr) == (0, "")
    listed, table = done.stdout.split("\n\n")
    paths = [Path(line) for line in listed.splitlines()]
    assert sorted(p for p in out.rglob("*") if p.is_file()) == sorted(paths)
    assert table.startswith("exact match by times in the training set")
    names = {p.relative_to(out).as_posix() for p in paths}
    assert {"step1_add_only/learning.png", "compare_learning.png", "compare_ood.png"} <= names
    assert "step1_add_only/repeat_count.png" not in names
    head = (out / "compare_ood.png").read_bytes()[:8]
    assert head == b"\x89PNG\r\n\x1a\n"


def test_runs_of_one_name_are_told_apart(tmp_path):
    folders = [tmp_path / "a" / "seed_0", tmp_path / "b" / "seed_0"]
    assert plots.unique_names(folders) == ["a/seed_0", "b/seed_0"]


def test_import_and_help_leave_matplotlib_alone():
    code = "import sys, plots; sys.exit('matplotlib' in sys.modules or 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False)
    assert done.returncode == 0
    assert "learning.png" in command("--help").stdout


@pytest.mark.parametrize(
    ("prepare", "args", "said"),
    [
        (None, ["gone"], "gone is not a folder"),
        ("empty", ["run"], "run holds no run: no epoch in a metrics.jsonl and no ood_results.json"),
        ("empty", ["run"], "but nothing at all; name a run folder"),
        ("foreign", ["run"], "but a.csv, b.csv, c/, d.csv and 2 more; name a run folder"),
        ("foreign", ["run", "run/c", "--out_dir", "figures"], "run holds no run"),
        ("torn", ["run"], "no epoch in a metrics.jsonl"),
        ("broken", ["run"], "metrics.jsonl, line 1 should be an object, not [1]"),
        ("ood", ["run"], "ood_results.json is not readable as JSON"),
        ("good", ["run", "gone"], "add --out_dir"),
        ("good", ["run", "--out_dir", "run/metrics.jsonl"], "is a file, or lies in one"),
    ],
)
def test_mistakes_are_told_in_one_sentence_and_nothing_is_written(tmp_path, prepare, args, said):
    run = tmp_path / "run"
    run.mkdir()
    rows = {"torn": '{"epoch": 1, "tr', "broken": "[1]\n{}\n", "good": '{"epoch": 1, "lr": 1}\n'}
    if prepare in rows:
        (run / "metrics.jsonl").write_text(rows[prepare])
    if prepare == "foreign":
        (run / "c").mkdir()
        for name in "abdef":
            (run / f"{name}.csv").write_text("")
    if prepare == "ood":
        (run / "ood_results.json").write_text("{")
    before = sorted(tmp_path.rglob("*"))
    done = command(*(arg if arg.startswith("--") else tmp_path / arg for arg in args))
    assert done.returncode == 2
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_what_is_no_run_is_passed_over_beside_runs(tmp_path):
    write_rows(tmp_path / "sweep/a", add_only_rows(2))
    (tmp_path / "sweep/submitit").mkdir()
    (tmp_path / "sweep/submitit/1_log.out").write_text("")
    (tmp_path / "sweep/notes.txt").write_text("")
    done = command(*sorted((tmp_path / "sweep").iterdir()), "--out_dir", tmp_path / "figures")
    assert done.returncode == 0
    notes = done.stderr.splitlines()
    assert len(notes) == 2
    assert notes[0].startswith(f"note: passed over: {tmp_path}/sweep/notes.txt is a file")
    assert f"{tmp_path}/sweep/submitit holds no run" in notes[1]
    assert "but 1_log.out;" in notes[1]
    assert (tmp_path / "figures/learning.png").exists()


def test_seeds_of_other_data_are_not_averaged(tmp_path):
    for seed in range(2):
        write_rows(tmp_path / f"seed_{seed}", add_only_rows(2, seed))
        config = {"seed": seed, "data": {"train": {"sha256": f"{seed}"}}}
        write_json(tmp_path / f"seed_{seed}" / "config.json", config)
    done = command(tmp_path)
    assert done.returncode == 2
    said = f"{tmp_path}/seed_1 differs from {tmp_path}/seed_0 in its training set, so they are not"
    assert said in done.stderr


def test_what_repetition_is_worth_is_printed_and_written(tmp_path, monkeypatch, capsys):
    folders = study(tmp_path, 3)[:2]
    monkeypatch.setattr(plots, "save_figures", lambda runs, out_dir: [])
    assert plots.main([*map(str, folders), "--out_dir", str(tmp_path / "out")]) == 0
    written = json.loads((tmp_path / "out" / "repeat_effects.json").read_text())
    assert list(written) == ["normal", "dedup"]
    seeds = [memorization(seed, 0.085)["last"]["by_repeat_count"] for seed in range(3)]
    rows = [{row["group"]: row["exact_match"] for row in own} for own in seeds]
    values = [row[32] - row[1] for row in rows]
    effect = written["normal"][-1]
    assert (effect["repeat_count"], effect["minus"], effect["n_seeds"]) == (32, 1, 3)
    assert effect["values"] == values
    low, high = (repeat_effects(seeds)[-1][end] for end in ("low", "high"))
    assert (effect["low"], effect["high"]) == (low, high)
    shown = f"{100 * np.mean(values):+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"
    (line,) = [
        x for x in capsys.readouterr().out.splitlines() if x.split()[:3] == ["normal", "32", "1"]
    ]
    assert shown in line
    assert line.endswith("mean of 3 seeds")


def test_effect_lines_name_groups_of_counts_and_a_single_seed():
    effect = {"repeat_count": 4, "minus": 1, "n": 1200, "difference": 0.125, "grouped": True}
    one = {**effect, "n_seeds": 1, "low": -0.01, "high": 0.2}
    three = {**effect, "n_seeds": 3, "low": 0.1, "high": 0.15, "grouped": False}
    lines = plots.effect_lines({"a": [one], "b": [three], "none": []})
    assert lines[1].endswith("95 % interval, over seeds and examples")
    assert " ".join(lines[3].split()) == "a 4–7 1 1,200 +12.5 [-1.0, +20.0] one seed, Newcombe"
    assert " ".join(lines[4].split()) == "b 4 1 1,200 +12.5 [+10.0, +15.0] mean of 3 seeds"
    assert plots.effect_lines({"a": [one]})[1].endswith("95 % interval")
    assert plots.effect_lines({"none": []}) == []


def test_names_with_any_characters_are_drawn_as_they_are(tmp_path):
    results = ood_results()
    results["suites"]["ood_$x_$ {"] = {**results["suites"]["ood_robustness"], "category": "$\\a$"}
    write_json(tmp_path / "a$b^$" / "ood_results.json", results)
    assert plots.write_figures(tmp_path / "a$b^$")


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("MPLBACKEND", "module://matplotlib_inline.backend_inline"),
        ("MPLBACKEND", "nonsense"),
        ("MATPLOTLIBRC", "text.usetex: True\nfont.size: 40\nfigure.facecolor: black\n"),
    ],
)
def test_the_users_matplotlib_settings_change_nothing(tmp_path, monkeypatch, variable, value):
    write_rows(tmp_path / "run", add_only_rows(3))
    (plain,) = [p for p in plots.write_figures(tmp_path / "run") if p.name == "learning.png"]
    if variable == "MATPLOTLIBRC":
        (tmp_path / "matplotlibrc").write_text(value)
        value = str(tmp_path / "matplotlibrc")
    monkeypatch.setenv(variable, value)
    done = command(tmp_path / "run", "--out_dir", tmp_path / "again")
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "again" / "learning.png").read_bytes() == plain.read_bytes()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere names are Unicode")
def test_a_folder_whose_name_has_an_undecodable_byte(tmp_path):
    folders = [
        Path(os.fsdecode(os.fsencode(tmp_path / "run") + byte)) for byte in (b"\xff", b"\xfe")
    ]
    for folder in folders:
        write_rows(folder, add_only_rows(3))
    done = command(*folders, "--out_dir", tmp_path / "figures")
    assert (done.returncode, done.stderr) == (0, "")
    made = {path.name for path in (tmp_path / "figures").iterdir() if path.is_dir()}
    assert made == {"run\\xff", "run\\xfe"}


def test_what_drawing_raises_becomes_a_sentence_that_says_how_to_draw_again(tmp_path, monkeypatch):
    write_rows(tmp_path / "a run", add_only_rows(3))
    monkeypatch.chdir(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(plots, "new_figure", lambda *_: 1 / 0)
        paths, notice = plots.figures_or_notice(Path("a run"), Path("a run/plots"))
    assert paths == []
    assert notice.startswith("note: the figures could not be drawn (ZeroDivisionError: division by")
    assert notice.count("\n") == 0
    again = shlex.split(notice.split("draw them with: python ")[1])
    monkeypatch.chdir("/")
    assert command(*again[1:]).returncode == 0
    assert again[0] == str(ROOT / "plots.py")
    assert (tmp_path / "a run/plots/learning.png").exists()
    monkeypatch.setattr(plots, "write_atomically", mock.Mock(side_effect=OSError("full")))
    with pytest.raises(OSError, match="full"):
        plots.figures_or_notice(tmp_path / "a run", tmp_path / "x")


if __name__ == "__main__":  # figures to look at: PYTHONPATH=. python tests/test_plots.py DIR
    root = Path(sys.argv[1])
    write_rows(root / "step1_add_only", add_only_rows())
    write_json(root / "step1_add_only/ood_results/ood_results.json", ood_results(add_only=True))
    write_rows(root / "fix_run_01", curriculum_rows())
    write_json(root / "fix_run_01/memorization.json", memorization())
    write_json(root / "fix_run_01/ood_results/ood_results.json", ood_results())
    plots.write_figures(root / "step1_add_only")
    plots.write_figures(root / "fix_run_01")
    plots.write_figures(study(root), root / "study")
