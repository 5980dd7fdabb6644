"""The studies: their cells and rows as commands, and what they make of the results."""

import dataclasses
import json
import math
import os
import random
import re
import signal

import numpy as np
import pytest

import evaluate_memorization
import metrics
import train_minigpt_4070 as trainer
from data import generate, own_sets, tasks
from runtime.errors import Halt, UserError
from studies import memory_or_rule as study
from studies import reproduce, seeds
from studies.commands import Workshop

PARSERS = {
    "data/generate.py": generate.build_parser,
    "train_minigpt_4070.py": trainer.build_parser,
    "evaluate_memorization.py": evaluate_memorization.build_parser,
}


# ------------------------------------------------------------------------------------------------
# Commands
# ------------------------------------------------------------------------------------------------


def test_a_command_is_logged_and_timed(tmp_path, capsys):
    shop = Workshop(tmp_path / "a")
    assert shop.seconds() == 0
    shop.call(
        "data/generate.py", "--tasks", "add", "--rows", 10, "--val_rows", 0, "--out", tmp_path / "d"
    )
    assert capsys.readouterr().out.startswith("$ python data/generate.py --tasks add --rows 10 ")
    assert "train.pkl" in (tmp_path / "a/commands.log").read_text()
    (line,) = (tmp_path / "a/durations.jsonl").read_text().splitlines()
    assert json.loads(line)["seconds"] == shop.seconds() > 0


def test_a_failed_command_is_one_sentence_with_its_last_line(tmp_path):
    with pytest.raises(UserError, match=r"exit code 2 .*--tasks needs --out"):
        Workshop(tmp_path).call("data/generate.py", "--tasks", "add")


SAVES = """
import os, signal, sys, time
from pathlib import Path

def save(number, frame):
    Path(sys.argv[1]).write_text("saved")
    sys.exit(143)

signal.signal(signal.SIGTERM, save)
os.kill(int(sys.argv[2]), int(sys.argv[3]))
for _ in range(3000):
    time.sleep(0.01)
sys.exit(1)
"""


@pytest.mark.skipif(os.name == "nt", reason="sends signals of POSIX")
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_to_the_study_lets_the_command_save_and_stops_both(tmp_path, name):
    script, number = tmp_path / "saves.py", getattr(signal, name)
    script.write_text(SAVES)
    came = []
    before = signal.signal(number, lambda number, frame: came.append(number))  # nohup ignores HUP
    try:
        with pytest.raises(Halt, match="give the same command again") as halt:
            Workshop(tmp_path / "a").call(str(script), tmp_path / "state", os.getpid(), int(number))
        os.kill(os.getpid(), number)  # now it is the caller's again
    finally:
        signal.signal(number, before)
    assert came == [number]
    assert halt.value.code == 128 + number
    assert (tmp_path / "state").read_text() == "saved"
    assert len((tmp_path / "a/durations.jsonl").read_text().splitlines()) == 1


@pytest.mark.skipif(os.name == "nt", reason="sends signals of POSIX")
@pytest.mark.parametrize(("code", "expected"), [(130, 130), (143, 143), (-9, 137), (-15, 143)])
def test_a_stopped_command_stops_the_study_with_its_code(tmp_path, code, expected):
    end = f"sys.exit({code})" if code > 0 else f"os.kill(os.getpid(), {-code})"
    (tmp_path / "stops.py").write_text(f"import os, sys\n{end}")
    with pytest.raises(Halt) as halt:
        Workshop(tmp_path).call(str(tmp_path / "stops.py"))
    assert halt.value.code == expected


# ------------------------------------------------------------------------------------------------
# The study: cells and table
# ------------------------------------------------------------------------------------------------


def test_cells_are_different_commands_that_the_scripts_take():
    cells = study.all_cells()
    assert len({cell.name for cell in cells}) == len(cells)
    assert len({(*cell.data_flags, *cell.training_flags) for cell in cells}) == len(cells)
    for cell in cells:
        args = generate.build_parser().parse_args([*cell.data_flags, "--out", "x"])
        assert generate.own_set(args).rows == cell.rows
        args = trainer.build_parser().parse_args(cell.training_flags)
        assert args.dropout == (0.1 if "dropout" in cell.variant else 0)
        assert cell.epochs * math.ceil(cell.rows / 2 / study.BATCH) == pytest.approx(4000, rel=0.05)


def line_of(cell, step=4000, **values):
    line = dict.fromkeys(study.COLUMNS, 0.0) | vars(cell) | {"cell": cell.name, "step": step}
    line |= {"group": {"sums": "add"}.get(cell.task, cell.task), "replicas": 16}
    line |= {"distinct": cell.rows // 2, "trained_rows": cell.rows // 2, "bits": 8.0, "epoch": 1}
    return line | {"commit": "abc", "device": "x", "seconds": 60.0} | values


def test_the_table_comes_back_typed_and_a_cell_replaces_itself(tmp_path):
    first, second, *_ = study.all_cells()
    table = dataclasses.replace(study.TABLE, file=tmp_path / "t.csv")
    assert table.read() == []
    table.replace([line_of(second, rule=1.5)])
    table.replace([line_of(first, rule=2.5), line_of(first, step=10)])
    table.replace([line_of(second, rule=3.5)])
    lines = table.read()
    assert [(line["cell"], line["step"], line["rule"]) for line in lines] == [
        (first.name, 4000, 2.5),
        (first.name, 10, 0.0),
        (second.name, 4000, 3.5),
    ]
    assert all(type(line[name]) is kind for line in lines for name, kind in study.COLUMNS.items())


def test_a_cell_is_run_kept_and_not_run_twice(tmp_path, monkeypatch):
    monkeypatch.setattr(study, "STEPS", 8)
    monkeypatch.setattr(study, "MODEL", ["--d_model", "8", "--n_layers", "1", "--n_heads", "1"])
    cell = study.Cell("sums", 320, "tenth 16 times", "a tenth wrong")
    lines = study.run_cell(cell, tmp_path, "0-3")
    assert {line["group"] for line in lines} == {"add", "add, wrong answers"}
    assert {line["replicas"] for line in lines} == {4}
    for line in lines:
        assert sum(line[part] for part in study.BITS) == pytest.approx(line["bits"])
        assert sum(line[part] for part in study.SHARES) == pytest.approx(1)
    monkeypatch.setattr(Workshop, "call", None)
    assert study.run_cell(cell, tmp_path, "0-3") == lines
    with pytest.raises(UserError, match="another study"):
        study.run_cell(cell, tmp_path, "0-7")


# ------------------------------------------------------------------------------------------------
# The study: known answers
# ------------------------------------------------------------------------------------------------


def curve(rule, memory=None, distinct=(100, 200, 400, 800), rows=None, error=0.0):
    """A curve whose shares are given; its bits are ten times as many."""
    rule = np.array(rule, dtype=float)
    memory = 1 - rule if memory is None else np.array(memory, dtype=float)
    parts = [rule, memory, 1 - rule - memory]
    means = dict(zip(study.SHARES, parts, strict=True))
    means |= {name: 10 * part for name, part in zip(study.BITS, parts, strict=True)}
    distinct = np.array(distinct)
    return study.Curve(
        distinct=distinct,
        trained_rows=distinct if rows is None else np.array(rows),
        degrees=np.full(len(distinct), 15),
        bits=np.full(len(distinct), 10.0),
        means=means,
        errors={name: np.full(len(distinct), error) for name in means},
    )


def rng():
    return np.random.default_rng(1)


def test_rule_overtakes_memory_between_two_cells():
    found = study.crossing(curve([0.0, 0.25, 0.75, 1.0]), study.SHARES, rng())
    assert found == pytest.approx((200 * 2**0.5,) * 3)  # half-way in the logarithm
    assert study.crossing(curve([0.6, 0.7, 0.8, 0.9]), study.BITS, rng())[0] == -math.inf
    assert study.crossing(curve([0.1, 0.2, 0.3, 0.4]), study.BITS, rng())[0] == math.inf


def test_the_interval_of_a_crossing_is_that_of_its_errors():
    """Rule less memory is 2 r - 1, where r rises by 1 over 3 doublings; both errors count."""
    straight = curve([0.0, 1 / 3, 2 / 3, 1.0], error=0.02)
    value, low, high = study.crossing(straight, study.SHARES, rng())
    assert value == pytest.approx(100 * 2**1.5)
    # The error of the excess is 0.02 * sqrt(3), at the middle of two cells 1 / sqrt(2) of it. The
    # mean of two of Student's t with 15 degrees has its 97.5 % quantile at 1.48.
    reach = 1.48 * 0.02 * 3**0.5 / (2 / 3)
    assert math.log2(high / value) == pytest.approx(reach, rel=0.1)
    assert math.log2(value / low) == pytest.approx(reach, rel=0.1)


def test_errors_of_rule_and_memory_go_together_in_their_difference():
    """From the replicas themselves: OUT and IN of 16, and the difference 2 OUT - IN of each."""
    draws = np.random.default_rng(0)
    out = 0.3 + 0.1 * draws.standard_normal(16)
    mine = 0.9 + 0.02 * draws.standard_normal(16) + 0.1 * out
    replicas = {"right_by_rule": out, "right_by_memory": mine - out, "wrong": 1 - mine}
    errors = {part: np.array([values.std(ddof=1) / 4]) for part, values in replicas.items()}
    means = {part: np.array([values.mean()]) for part, values in replicas.items()}
    of_one = study.Curve(*map(np.array, ([8], [8], [15], [1.0])), means=means, errors=errors)
    mean, error = study.excess_of(of_one, study.SHARES)
    assert mean == pytest.approx(np.mean(2 * out - mine))
    assert error == pytest.approx(np.std(2 * out - mine, ddof=1) / 4)


@pytest.mark.parametrize(
    ("rule", "worth"),
    [
        (0.50, 0.0),  # as 200 distinct examples have: the copies teach nothing
        (0.75, 1.0),  # as 400 have: each of 200 copies is a new example
        (0.25, -0.5),  # as 100 have: harm
        (0.625, 2**0.5 - 1),
    ],
)
def test_a_copy_is_worth_what_it_adds_to_the_rule(rule, worth):
    once = curve([0.25, 0.50, 0.75, 1.0])
    repeated = curve([rule, rule], distinct=(200, 300), rows=(400, 600))
    numbers = study.equal_number(once, repeated, 0, rng())
    assert [study.worth_of_a_copy(repeated, 0, n) for n in numbers] == pytest.approx([worth] * 3)
    assert study.worth_words(once, repeated, 0) == (
        f"as many answers right by rule as without repetition of {200 + 200 * worth:.0f} distinct "
        f"examples, so each of 200 further copies adds what {worth:+.2f} distinct examples add"
    )


def test_a_share_outside_what_was_measured_is_beyond_it():
    once = curve([0.25, 0.50, 0.75, 0.9])
    for rule, worth, words in (
        (0.2, -math.inf, "fewer than 100"),
        (0.95, math.inf, "more than 800"),
    ):
        repeated = curve([rule, rule], distinct=(200, 300), rows=(400, 600))
        assert study.equal_number(once, repeated, 0, rng()) == (worth,) * 3
        assert study.worth_words(once, repeated, 0) == (
            f"as many answers right by rule as without repetition of {words} distinct examples"
        )


def test_levels_never_fall_and_noise_is_no_rise():
    rows = np.array([[1, 3, 2, 5], [1, 2, 3, 4], [4, 3, 2, 1], [0, 2, 2, 1]], dtype=float)
    expected = [[1, 2.5, 2.5, 5], [1, 2, 3, 4], [2.5] * 4, [0, 5 / 3, 5 / 3, 5 / 3]]
    assert study.ascending(rows) == pytest.approx(np.array(expected))


def test_draws_beyond_what_was_measured_bound_no_interval():
    """Half of the draws lie above all that was measured without repetition."""
    once = curve([0.25, 0.50, 0.75, 0.90], error=0.001)
    repeated = curve([0.8999, 0.9], distinct=(200, 300), rows=(400, 600), error=0.01)
    value, low, high = study.equal_number(once, repeated, 0, rng())
    assert 780 < value < 800
    assert low < 780
    assert high == math.inf
    ends = ", more than +3.00] distinct examples add"  # (800 - 200) / 200
    assert study.worth_words(once, repeated, 0).endswith(ends)
    repeated = curve([0.2501, 0.9], distinct=(200, 300), rows=(400, 600), error=0.01)
    assert study.equal_number(once, repeated, 0, rng())[1] == -math.inf
    assert "adds what -0.50 [fewer than -0.50, " in study.worth_words(once, repeated, 0)
    # As (sums, 2000, a tenth 16 times) came out: above all levels, but not beyond doubt.
    repeated = curve([0.92, 0.9], distinct=(200, 300), rows=(400, 600), error=0.05)
    value, low, _ = study.equal_number(once, repeated, 0, rng())
    assert value == math.inf
    assert 400 < low < 800


def test_a_crossing_beyond_the_cells_says_so():
    def words(rule, error=0.0):
        return study.crossing_words(curve(rule, error=error), study.SHARES)

    assert words([0.1, 0.2, 0.3, 0.4]) == "more than 800"
    assert words([0.6, 0.7, 0.8, 0.9]) == "fewer than 100"
    assert words([0.0, 0.25, 0.75, 1.0]) == "283"
    assert words([0.0, 0.25, 0.45, 0.51], error=0.03).endswith("more than 800]")


def test_a_variant_is_told_apart_from_the_plain_cell():
    """Standard errors of 1 point each: 2.131 of the 1.41 of their difference."""
    reach = 2.131 * 0.01
    ends = {"right_by_rule_low": -reach, "right_by_rule_high": reach, "right_by_rule": 0.0}
    other = {name: value + 0.05 for name, value in ends.items()}
    task, rows = study.TELLING
    lines = [
        line_of(study.Cell(task, rows), **ends),
        line_of(study.Cell(task, rows, variant="dropout 0.1"), **other),
    ]
    assert study.variant_sentences(lines) == [
        "sums, 500 distinct examples, dropout 0.1: by rule +5.0 [+2.0, +8.0] and by memory "
        "+0.0 [+0.0, +0.0] points of right answers than without; in bits by rule "
        "+0.0 [+0.0, +0.0] and by memory +0.0 [+0.0, +0.0]."
    ]
    assert study.variant_sentences(lines[1:]) == []  # nothing to compare with


def test_what_is_said_of_the_mix_of_lists_is_so():
    spec = own_sets.OwnSet(sizes={"sort": range(3, 5)}, examples={1: 32_000}, val_rows=0)
    rng = random.Random(f"{generate.SEED} own sort")
    rows = own_sets.draw_examples(rng, spec, "sort", 32_000, "train")
    short = [not re.search("[0-9]{2}", tasks.split_example(raw)[1]) for raw in rows]
    assert f"{100 * np.mean(short[:500]):.0f} % of 500 lists" in study.MIX
    assert f"{100 * np.mean(short):.0f} % of 32,000" in study.MIX
    sizes = study.TASKS["sort"][1]
    assert (min(sizes), max(sizes)) == (500, 32_000)


def scripted_lines():
    """Of every plain cell of two repetitions; the rule grows with the logarithm of the number."""
    lines = []
    for cell in study.all_cells():
        if cell.variant or cell.repetition == "all twice":
            continue
        share = min(1.0, math.log2(cell.rows / 200) / 8)
        ends = {"rule": 8 * share, "memory": 8 - 8 * share}
        ends |= {"right_by_rule": share, "right_by_memory": 1 - share}
        values = {f"{n}{end}": v for n, v in ends.items() for end in ("", "_low", "_high")}
        lines += [line_of(cell, step=10), line_of(cell, **values)]
    return lines


def test_sentences_table_and_figures_of_a_half_done_study(tmp_path):
    lines = scripted_lines()
    said = study.sentences(lines)
    assert any(said_of.startswith("sums, once: more answers are right by rule") for said_of in said)
    assert not any("further copies" in of for of in said)  # no cell has copies
    text = study.markdown([{**line, "replicas": 4 + 4 * (line["step"] > 10)} for line in lines])
    assert "4 to 8 replicas a cell" in text
    assert study.MIX in text
    assert text.count("\n| ") == 2 + len(lines) // 2
    for parts in study.FIGURES:
        fig = study.figure(lines, parts)
        assert [ax.get_title(loc="left") for ax in fig.axes if ax.get_visible()] == [
            f"{task}, {name}" for task in study.TASKS for name in ("once", "tenth 16 times")
        ]


def test_a_figure_with_gaps_has_its_legend_labels_and_all_numbers():
    """The last task was trained with repetition alone, the first half-way with it."""
    lines = [line for line in scripted_lines() if line["cell"] != "sums_250_tenth-16-times"]
    lines = [line for line in lines if (line["task"], line["repetition"]) != ("sort", "once")]
    fig = study.figure(lines, study.SHARES)
    once, tenth, gap, sort = fig.axes
    assert not gap.get_visible()
    assert [text.get_text() for text in sort.get_legend().get_texts()] == [
        *("right by rule", "right by memory", "wrong")
    ]
    assert sort.get_ylabel() == once.get_ylabel() == "share of the answers"
    assert tenth.get_ylabel() == ""
    for ax in (once, tenth):
        assert [text.get_text() for text in ax.get_xticklabels()] == study_ticks(lines, "sums")
        low, high = ax.get_xlim()
        assert low < min(map(number_of, study_ticks(lines, "sums")))
        assert high > max(map(number_of, study_ticks(lines, "sums")))


def study_ticks(lines, task):
    found = {line["distinct"] for line in lines if line["task"] == task}
    return [f"{n:,}" for n in sorted(found)]


def number_of(tick):
    return int(tick.replace(",", ""))


def test_shares_are_told_within_what_they_can_be_and_agreeing_replicas_by_their_number():
    ends = {"wrong": 0.01, "wrong_low": -0.02, "wrong_high": 0.04, "replicas": 16}
    assert study.ends_of(ends, "wrong") == (0.01, 0.0, 0.04)
    none, most = metrics.wilson_interval(0, 16)
    agree = dict.fromkeys(("wrong", "wrong_low", "wrong_high"), 0.0) | {"replicas": 16}
    assert study.ends_of(agree, "wrong") == (0.0, none, most)
    known = {"right_by_rule": (0.02, 0.01, 0.03), "right_by_memory": (0.98, 0.97, 0.99)}
    for part, values in known.items():
        agree |= {f"{part}{end}": v for end, v in zip(("", "_low", "_high"), values, strict=True)}
    joined = metrics.difference_interval((1.0, 1 - most, 1.0), (0.02, 0.01, 0.03))
    assert study.ends_of(agree, "right_by_memory") == (0.98, pytest.approx(joined[0]), 0.99)
    assert joined[0] < 0.8
    nothing = agree | {f"right_by_rule{end}": 0.0 for end in ("", "_low", "_high")}
    nothing |= {f"right_by_memory{end}": 0.0 for end in ("", "_low", "_high")}
    nothing |= {f"wrong{end}": 1.0 for end in ("", "_low", "_high")}
    joined = metrics.difference_interval((0.0, 0.0, most), (0.0, 0.0, most))
    assert study.ends_of(nothing, "right_by_memory") == pytest.approx((0.0, *joined))
    assert study.ends_of({"rule": 1.0, "rule_low": -9.0, "rule_high": 11.0}, "rule") == (1, -9, 11)


def test_what_is_committed_is_what_the_table_says():
    assert study.TEXT.read_text() == study.markdown(study.TABLE.read())
    assert reproduce.PAGE.read_text() == reproduce.page()


# ------------------------------------------------------------------------------------------------
# Published results
# ------------------------------------------------------------------------------------------------


class ScriptedShop(Workshop):
    """Checks every command against its script's own parser, and writes what the run would have."""

    def call(self, script, *flags):
        args = PARSERS[script]().parse_args(list(map(str, flags)))
        if script == "data/generate.py":
            generate.own_set(args)
        elif script == "train_minigpt_4070.py":
            for seed in args.seeds:
                self.write_run(args, seed)
        elif args.capacity:
            bits = {"": 1.5, "_low": 1.4, "_high": 1.6}
            found = {f"bits_per_parameter{end}": value for end, value in bits.items()}
            found |= {name: getattr(args, name) for name in ("strings", "steps", "replicas")}
            found |= {"exposures": 100, "share": 0.5, "device": "cpu", "threads": 1}
            found |= {"git_commit": "0123456789", "versions": {"torch": "2"}}
            args.out_dir.mkdir(parents=True, exist_ok=True)
            (args.out_dir / "capacity.json").write_text(json.dumps(found))
        else:
            slope = {"slope": 3.0, "slope_low": 2.5, "slope_high": 3.5, "n_counts": 5}
            results = {"extraction": {kind: {"slope": slope} for kind in ("right", "wrong")}}
            budget = {"bits": 18.0, "rule": 11.0, "memory": 4.0, "unexplained": 3.0}
            for part in ("rule", "memory", "unexplained"):
                budget |= {f"{part}_low": budget[part] - 1, f"{part}_high": budget[part] + 1}
            results["budget"] = [{"group": "sort", **budget}]
            memory = {"memory": 7.0, "memory_low": 6.0, "memory_high": 8.0}
            rows = [{"repeat_count": n, "n": 9, "bits": memory} for n in reproduce.REPEATS]
            results["by_repeat_count"] = {"right": rows}
            (args.model / "memorization").mkdir()
            (args.model / "memorization/memorization_results.json").write_text(json.dumps(results))

    def write_run(self, args, seed):
        """Training is right from step 100 on, what is unseen from step 10,000 on.

        As with --eval_every, epochs without a validation have a line too.
        """
        folder = self.folder / args.out_dir / f"seed_{seed}"
        folder.mkdir(parents=True)
        config = {"seeds": [seed], "derived": {"n_params": 400_128}, "device": "cpu", "threads": 1}
        config |= {"git_commit": "0123456789", "versions": {"torch": "2"}, "arguments": {}}
        (folder / "config.json").write_text(json.dumps(config))
        lines = [
            {"epoch": i, "step": 10**i, "val_exact_match": float(i >= 4), "val_n": 1000}
            | {"train_exact_match": float(i >= 2), "train_n": 500, "val_loss": 1.0 + seed}
            for i in range(1, 6)
        ]
        lines = [row for line in lines for row in ({"epoch": 0, "step": line["step"] - 1}, line)]
        lines = [{**row, "epoch": i} for i, row in enumerate(lines, 1)]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines))


def test_a_capacity_of_other_models_is_measured_anew_and_its_own_is_kept(tmp_path, monkeypatch):
    old = tmp_path / "strings_100_steps_1500/capacity.json"
    old.parent.mkdir()
    old.write_text(json.dumps({"strings": 100, "steps": 1500, "bits_per_parameter": 9.0}))
    said = reproduce.capacity(ScriptedShop(tmp_path))
    assert "1.5000 [1.4000, 1.6000]" in said[0]
    monkeypatch.setattr(ScriptedShop, "call", lambda *words: pytest.fail("measured again"))
    assert reproduce.capacity(ScriptedShop(tmp_path)) == said


EXPECTED = {  # row -> what its sentences hold
    "adder": ["right of 1,000: 1000, 1000, 1000", "400,128 parameters", "[99.2, 100.0] of a"],
    "grokking": ["after 100 [100, 100] steps (8 of 8 seeds)", ": 100.0 [100.0, 100.0] times"],
    "repeated-data": [
        "no repeat count has a higher loss than none",
        "answer 11.00 [10.00, 12.00] by rule, 4.00 [3.00, 5.00] by memory",
        "3.00 [2.00, 4.00] unexplained; of 9 repeated ones 7.00 [6.00, 8.00] by memory",
    ],
    "reversed": [
        "1,000 samples, rope positions: plain 100.0 % [",
        "reversed less plain +0.0 [-0.4, +0.4] points",
    ],
    "capacity": [
        "100 strings, 100 exposures each: 1.5000 [1.4000, 1.6000] bits a parameter, 50.0 %"
    ],
    "too-big-to-think": [
        "at some of 5 validations of 32 of 32",
        "width 14: all four right in the last model of 32 of 32 seeds (100 % [89, 100])",
    ],
    "regeneration": ["log-log slope 3.00 [2.50, 3.50]", "1000.0 times for ten times the copies"],
}


@pytest.mark.parametrize("row", reproduce.ROWS, ids=lambda row: row.name)
def test_every_row_is_made_of_valid_commands_and_reads_their_results(row, tmp_path, monkeypatch):
    monkeypatch.setattr(reproduce, "Workshop", ScriptedShop)
    monkeypatch.setattr(reproduce, "RESULTS", tmp_path / "results")
    (tmp_path / "results").mkdir()
    result = reproduce.reproduce(row, tmp_path)
    text = "; ".join(result["found"])
    for expected in EXPECTED[row.name]:
        assert expected in text
    assert reproduce.kept_result(row) == result
    assert row.tag in ("exact", "scaled", "shape")
    assert row.tag == "exact" or row.differs
    assert row.source in "\n".join(reproduce.row_lines(row, result))


def written(row, folder):
    """(tag, prompt, answer) of the rows that a row's data files hold, training first."""
    getattr(reproduce, row)(ScriptedShop(folder))
    files = [(folder / f"{name}.txt").read_text().splitlines() for name in ("train", "val")]
    return [[tasks.split_example(raw) for raw in raws] for raws in files]


def test_the_adder_has_mingpts_sums_and_split(tmp_path):
    """play_math.ipynb prints its first training sum: 4 7 1 7, then 0 6 4."""
    train, val = written("adder", tmp_path)
    assert (len(train), len(val), len({prompt for _, prompt, _ in train + val})) == (
        9000,
        1000,
        10**4,
    )
    assert train[0] == ("adder", "4717", "064")
    for _, prompt, answer in train + val:
        assert (len(prompt), len(answer)) == (4, 3)
        assert int(answer) == int(prompt[:2]) + int(prompt[2:])


def test_grokking_has_half_of_the_table(tmp_path):
    train, val = written("grokking", tmp_path)
    assert (len(train), len(val), len({prompt for _, prompt, _ in train + val})) == (
        4704,
        4705,
        9409,
    )
    for _, prompt, answer in train + val:
        a, b = (ord(number) - 0x100 for number in prompt.split("+"))
        assert ord(answer) - 0x100 == (a + b) % 97


def test_four_expressions_are_held_out_and_the_rest_is_trained_on(tmp_path):
    """The 196 of data/as_math/train.txt in the repository, whose 5+7, 7+5, 5-7, 7-5 are missing."""
    train, val = written("too_big_to_think", tmp_path)
    assert [row[1:] for row in val] == [("5+7", "12"), ("7+5", "12"), ("5-7", "-2"), ("7-5", "2")]
    assert (len(train), len({prompt for _, prompt, _ in train + val})) == (196, 200)
    for _, (a, sign, b), answer in train:
        assert int(answer) == int(a) + int(sign + b)


def test_the_best_validation_is_told_apart_from_the_last(tmp_path, monkeypatch):
    """Three seeds have all four at some time, one of them in the end; the fourth never."""
    rates = [[0.0, 1.0, 0.75], [1.0, 0.5, 0.0], [0.5, 1.0, 1.0], [0.0, 0.5, 0.25]]
    lines = [
        [{"val_exact_match": r, "train_exact_match": 1.0, "train_n": 196} for r in of_seed]
        for of_seed in rates
    ]
    monkeypatch.setattr(reproduce, "validations", lambda run: lines)
    said = reproduce.too_big_to_think(ScriptedShop(tmp_path))[0]
    low, high = (f"{100 * end:.0f}" for end in metrics.wilson_interval(1, 4))
    assert f"the last model of 1 of 4 seeds (25 % [{low}, {high}])" in said
    assert "at some of 3 validations of 3 of 4 seeds (75 % [" in said
    assert "a share of 0.50 [" in said


def test_steps_to_a_rate_are_those_of_the_seeds_that_reached_it():
    lines = [{"step": s, "val_exact_match": r} for s, r in ((1, 0.2), (10, 0.96), (100, 0.9))]
    assert seeds.first_step(lines, "val_exact_match") == 10
    assert seeds.first_step(lines[:1], "val_exact_match") is None
    assert seeds.steps_words([100, 10_000], 10_000).startswith("1,000 [")
    assert seeds.steps_words([100, 10_000], 10_000).endswith("(2 of 2 seeds)")


def test_seeds_that_never_get_there_count_as_later_than_the_others():
    """The mean of those that did would say 1,000, however many did not."""
    words = seeds.steps_words
    assert words([100, 10_000, None], 20_000) == "10,000 in the median (2 of 3 seeds)"
    assert words([100, 200, None], 900, " steps") == "200 steps in the median (2 of 3 seeds)"
    assert words([100, None, None], 20_000) == "more than 20,000 in the median (1 of 3 seeds)"
    delay = reproduce.delay_words
    assert delay([10, 10, 10], [1000, 1000, 1000], 5000) == ": 100.0 [100.0, 100.0] times"
    assert delay([10, 10, 10], [1000, None, None], 5000) == ": at least 500.0 times in the median"
    assert delay([10, 10, None], [1000, 1000, 5], 5000) == ""


def losses(**tops):
    """Four seeds at 1, 4, 16 and 64 copies; the seeds differ more than what is added to each."""
    seeds, noise = np.array([1.0, 1.5, 2.0, 2.5]), np.array([0.0, 0.01, -0.01, 0.005])
    return {int(n[1:]): (seeds + top + noise * (top > 0)).tolist() for n, top in tops.items()}


def test_a_peak_has_to_stand_out_from_both_ends_after_holm():
    found = losses(n1=0, n4=0.1, n16=0.3, n64=0.2)
    said = reproduce.peak_words(found)
    above_none = [metrics.compare_seeds(found[n], found[1], paired=True) for n in (4, 16, 64)]
    above_most = [metrics.compare_seeds(found[n], found[64], paired=True) for n in (4, 16)]
    adjusted = metrics.holm([test["p"] for test in (*above_none, *above_most)])
    assert said.startswith("the loss is highest at 16 copies: +0.3012 [+0.2")
    assert f"p {'< 0.001' if adjusted[1] < 0.001 else f'= {adjusted[1]:.3f}'}, above none" in said
    assert "+0.1000, above 64 copies" in said  # the same in every seed, so that t has no scale
    assert said.endswith("p by Holm over 5 comparisons")
    edge = reproduce.peak_words(losses(n1=0, n4=0.1, n16=0.2, n64=0.3))
    assert edge.endswith("that is the most copies, so no peak in between was seen")
    assert (
        reproduce.peak_words(losses(n1=0.5, n4=0)) == "no repeat count has a higher loss than none"
    )


def test_formats_differ_by_seeds_and_by_their_examples():
    plain, other = ([{"exact_match": v, "n": 500} for v in vs] for vs in ((0.5, 0.6), (0.7, 0.8)))
    rates = {("plain", "rope"): plain, ("reversed", "rope"): other, ("padded", "rope"): plain}
    said = reproduce.format_words(1000, "rope", rates)
    found = metrics.over_seeds(other, minus=plain)
    assert said.endswith(
        f"reversed less plain +20.0 [{100 * found['low']:+.1f}, {100 * found['high']:+.1f}] points"
    )
    assert found["low"] < 0.2 - 0.03  # equal differences of the seeds are not certain


def test_a_slope_without_an_interval_is_said_all_the_same(tmp_path, monkeypatch):
    slope = {"slope": 2.0, "slope_low": None, "slope_high": None, "n_counts": 3}
    results = {"extraction": {kind: {"slope": slope} for kind in ("right", "wrong")}}
    monkeypatch.setattr(Workshop, "call", lambda *args: None)
    folder = tmp_path / "run/memorization"
    folder.mkdir(parents=True)
    (folder / "memorization_results.json").write_text(json.dumps(results))
    wrong, _ = reproduce.regeneration(Workshop(tmp_path))
    assert wrong.startswith("wrong answers: log-log slope 2.00 over 3 repeat counts")
    assert wrong.endswith("100.0 times for ten times the copies")


def test_a_result_from_outside_a_checkout_has_no_commit():
    made = {"device": "x", "threads": 1, "commit": None, "torch": "2"}
    result = {"found": ["so"], "seconds": 60, "made_by": made}
    assert (
        "- x, 1 thread, commit unknown, 1 min."
        in reproduce.row_lines(reproduce.ROWS[0], result)[-2]
    )


@pytest.mark.parametrize(
    ("arguments", "code", "expected"),
    [
        (["nope"], 2, "no row is called nope; there are adder, "),
        ([], 2, "name a row, or --all"),
        (["--list"], 0, "minGPT adds two-digit numbers"),
    ],
)
def test_command_line(arguments, code, expected, capsys):
    assert reproduce.main(arguments) == code
    out = capsys.readouterr()
    assert expected in out.out + out.err


def test_the_studys_command_line_lists_and_refuses(capsys):
    assert study.main(["--list", "--only", "sort"]) == 0
    assert "sort_500_once" in capsys.readouterr().out
    assert study.main(["--only", "nothing"]) == 2
    assert "--list shows them" in capsys.readouterr().err
