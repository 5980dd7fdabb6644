"""Synthetic run folders, and figures read back: what the tests of plots.py share."""

import json
import sys
from pathlib import Path

import numpy as np

import plots
from metrics import newcombe_interval, outcomes, over_seeds, wilson_interval
from metrics import rate as rate_of

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


def matched_run(folder, seeds, rates, once=False, n=200, tasks=("add", "rel")):
    """A run whose seeds are right on the same named examples with rates[count], of each task.

    With `once` all but the unseen examples stand there once.
    """
    for seed in seeds:
        rng, cells = np.random.default_rng([seed, once]), {}
        for count, rate in rates.items():
            group = min(count, 1) if once else count
            by_task = cells.setdefault(group, {task: ([], []) for task in tasks})
            for k, task in enumerate(tasks):  # a later task is right less often
                by_task[task][0].extend(f"{count:02d}{task}{i}" for i in range(n))
                by_task[task][1].extend((rng.random(n) < rate / (k + 1)).tolist())
        rows = []
        for group, by_task in sorted(cells.items()):
            names = [name for named, _ in by_task.values() for name in named]
            right = [r for _, rights in by_task.values() for r in rights]
            row = {"group": group, "loss": 1.0, **rate_of(right), **outcomes(names, right)}
            row["by_task"] = [{"group": t, **rate_of(r)} for t, (_, r) in by_task.items()]
            rows.append(row)
        report = {"epoch": 5, "step": 70, "by_repeat_count": rows}
        home = folder / f"seed_{seed}"
        write_json(home / "memorization.json", {"format": 2, "best": report, "last": report})
        write_json(home / "config.json", {"seed": seed})
    return folder


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


if __name__ == "__main__":  # figures to look at: PYTHONPATH=. python tests/run_folders.py DIR
    root = Path(sys.argv[1])
    write_rows(root / "step1_add_only", add_only_rows())
    write_json(root / "step1_add_only/ood_results/ood_results.json", ood_results(add_only=True))
    write_rows(root / "fix_run_01", curriculum_rows())
    write_json(root / "fix_run_01/memorization.json", memorization())
    write_json(root / "fix_run_01/ood_results/ood_results.json", ood_results())
    plots.write_figures(root / "step1_add_only")
    plots.write_figures(root / "fix_run_01")
    plots.write_figures(study(root), root / "study")
