"""The study of how soon the rule is there: its cells as commands, and what it makes of results."""

import math

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

import train_minigpt_4070 as trainer
from runtime.errors import UserError
from studies import time_to_rule as study
from studies.commands import Workshop

MADE = {"commit": "abc", "device": "x"}


def test_cells_are_different_commands_that_the_trainer_takes():
    cells = study.all_cells()
    assert len({cell.name for cell in cells}) == len({tuple(cell.flags) for cell in cells})
    for cell in cells:
        args = trainer.build_parser().parse_args(cell.flags)
        task = study.TASKS[cell.task]
        assert (args.optimizer, args.dropout) == (cell.optimizer, cell.dropout)
        assert args.lr == pytest.approx(task.lr * cell.rate)
        assert args.warmup_steps * args.batch_size == task.warmup
        steps = math.ceil(task.rows / args.batch_size)
        assert steps / args.eval_every_steps == pytest.approx(2, abs=0.06)


def test_the_first_cell_is_the_readmes_command():
    """But for its patience, and what it shows."""
    quick = vars(trainer.build_parser().parse_args([]))
    first = vars(trainer.build_parser().parse_args(study.all_cells()[0].flags))
    changed = {name for name in quick if quick[name] != first[name]}
    assert changed <= {"patience", "eval_every_steps", "autoreg_eval", "show_samples"} | {
        "data",
        "tokenizer",
    }


def test_a_cell_is_run_kept_and_not_run_twice(tmp_path, monkeypatch):
    tiny = dict(vars(study.TASKS["sums"]), epochs=1, flags="--d_model 8 --n_layers 1 --n_heads 1")
    monkeypatch.setitem(study.TASKS, "sums", study.Task(**tiny))
    monkeypatch.setattr(study, "SEEDS", 2)
    lines = study.run_cell(study.Cell("sums", "muon", batch=1000), tmp_path)
    assert [line["examples"] for line in lines] == [2000, 4000, 5000]
    assert all(len(line["unseen"].split()) == 2 for line in lines)
    seconds = [line["cpu_seconds"] for line in lines]
    assert seconds[0] > 0
    assert seconds[-1] == pytest.approx(2.5 * seconds[0])
    monkeypatch.setattr(Workshop, "call", None)
    assert study.run_cell(study.Cell("sums", "muon", batch=1000), tmp_path) == lines
    monkeypatch.setattr(study, "SEEDS", 3)
    with pytest.raises(UserError, match="another study"):
        study.run_cell(study.Cell("sums", "muon", batch=1000), tmp_path)


def scripted(cell, thresholds, seconds=8.0):
    """The lines of a cell of which seed i is right from `thresholds[i]` examples on; 20 in all."""
    seeds = [
        [{"examples_seen": n, "val_exact_match": float(n >= at)} for n in range(1, 21)]
        for at in thresholds
    ]
    return study.lines_of(cell, seeds, seconds, MADE)


def test_time_until_the_rule_is_examples_times_what_one_takes():
    base, fast, slow = study.all_cells()[:3]
    thresholds = {base: (10, 12, 16), fast: (5, 6, 7), slow: (9, 13, 18)}
    took = {base: 8.0, fast: 12.0, slow: 8.0}  # seconds for 20 examples
    lines = [x for cell in thresholds for x in scripted(cell, thresholds[cell], took[cell])]
    curves = study.curves_of(lines, "sums")
    assert curves[1].examples_until(0.95) == [5, 6, 7]
    assert curves[1].seconds_an_example == pytest.approx(0.6)

    def logs(cell):
        return np.log(np.array(thresholds[cell]) * took[cell] / 20)

    found = study.time_ratios(curves, 0.95)
    p_values = []
    for cell in (fast, slow):
        expected = stats.ttest_rel(logs(cell), logs(base))
        interval = expected.confidence_interval()
        row = found[cell]
        assert row["p"] == pytest.approx(expected.pvalue)
        assert (row["low"], row["high"]) == pytest.approx((interval.low, interval.high))
        p_values.append(expected.pvalue)
    adjusted = multipletests(p_values, method="holm")[1]
    assert [found[cell]["p_holm"] for cell in (fast, slow)] == pytest.approx(adjusted)
    ratio = math.exp(np.mean(logs(fast) - logs(base)))
    assert study.rows_of(curves)[1][-1].startswith(f"{ratio:.2f} [")
    assert study.rows_of(curves)[0][-1] == "1"


def test_a_cell_of_which_a_seed_never_gets_there_has_no_ratio():
    base, other = study.all_cells()[:2]
    curves = study.curves_of([*scripted(base, (10, 12)), *scripted(other, (5, 99))], "sums")
    assert curves[1].examples_until(0.95) == [5, None]
    assert study.time_ratios(curves, 0.95) == {}
    row = dict(zip(study.HEADS, study.rows_of(curves)[1], strict=True))
    assert row["examples until 95 %"] == "more than 20 in the median (1 of 2 seeds)"
    assert row["unseen at the end, %"].startswith("50.0 [")
    assert study.rows_of(curves)[1][-1] == "–"


def test_the_points_at_the_end_are_paired_over_seeds():
    readme, base, better, worse = study.all_cells()[:4]
    ends = {readme: (5, 5, 5), base: (99, 99, 16), better: (5, 6, 7), worse: (99, 99, 99)}
    curves = study.curves_of([x for cell in ends for x in scripted(cell, ends[cell])], "sums")
    found = study.end_gains(curves)
    expected = stats.ttest_rel([1, 1, 1], [0, 0, 1])
    assert found[better]["difference"] == pytest.approx(2 / 3)
    assert found[better]["p"] == pytest.approx(expected.pvalue)
    assert found[better]["p_holm"] == pytest.approx(min(1, 2 * expected.pvalue))
    assert [row[-3][:6] for row in study.rows_of(curves)] == ["–", "–", "+66.7 ", "-33.3 "]
    assert study.end_gains(curves[:1]) == {}


def test_where_the_first_does_not_get_there_times_are_restricted_to_its_end():
    base, fast, slow = study.all_cells()[:3]
    thresholds = {base: (99, 99, 16), fast: (5, 6, 7), slow: (19, 18, 20)}
    lines = [x for cell in thresholds for x in scripted(cell, thresholds[cell], 8.0)]
    slower = [x | {"cpu_seconds": 1.1 * x["cpu_seconds"]} for x in lines if x["cell"] == slow.name]
    kept = [x for x in lines if x["cell"] != slow.name]
    curves = study.curves_of([*kept, *slower], "sums")
    found = study.time_ratios(curves, 0.95)
    truth = stats.ttest_rel(np.log([5, 6, 7]), np.log([20, 20, 16]))
    assert found[fast]["p"] == pytest.approx(truth.pvalue)
    # 19, 18 and 20 examples at 1.1 times the time each: beyond 20 nothing counts.
    late = np.log([20, 1.1 * 18, 20]) - np.log([20, 20, 16])
    assert found[slow]["difference"] == pytest.approx(late.mean())
    assert study.time_ratios([], 0.95) == {}


def test_equal_times_have_a_ratio_and_no_interval():
    base, other = study.all_cells()[:2]
    curves = study.curves_of([*scripted(base, (10, 12)), *scripted(other, (10, 12))], "sums")
    assert study.rows_of(curves)[1][-1] == "1.00, p = 1.000"


def test_the_figure_shows_what_differs_over_examples_and_time():
    cells = [study.Cell("sums", epochs=30), study.Cell("sums", "muon", 3, batch=128)]
    cells.append(study.Cell("sums", dropout=0))
    left, right = study.figure([x for c in cells for x in scripted(c, (10, 12))]).axes
    for ax, last in ((left, 20), (right, 8.0)):
        labels = [line.get_label() for line in ax.lines]
        assert labels == ["adamw, rate × 1, 30 epochs", "muon, rate × 3, batch 128"]
        assert all(line.get_xdata()[-1] == last for line in ax.lines)
    assert left.lines[0].get_ydata().tolist() == [0] * 9 + [0.5] * 2 + [1] * 9


def test_what_is_committed_is_what_the_table_says():
    lines = study.TABLE.read()
    assert study.TEXT.exists() == bool(lines)
    if lines:
        assert study.TEXT.read_text() == study.markdown(lines)


def test_the_command_line_lists_and_refuses(capsys):
    assert study.main(["--list", "--only", "sums_muon"]) == 0
    assert "sums_muon_rate-3_dropout-0.1_batch-32" in capsys.readouterr().out
    assert study.main(["--only", "nothing"]) == 2
    assert "--list shows them" in capsys.readouterr().err
