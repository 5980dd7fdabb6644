"""What is decided before the first step, and what is said of memory and time."""

import dataclasses
import io
import json
import math
import re
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import train_minigpt_4070 as t
from runtime.limits import CoreWatch
from trainer.helpers import all_files, assert_same_weights, command, go, words


def plan_of(world, *flags):
    args = t.build_parser().parse_args(command(world, *flags))
    data = t.load_data(args.data, tokenizer_path=args.tokenizer, val_path=args.val_data)
    return t.make_plan(args, data, 1), data


class Counted(list):
    """A list that counts how often one of its elements is asked for."""

    asked = 0

    def __iter__(self):
        for stage in super().__iter__():
            self.asked += 1
            yield stage

    def __getitem__(self, i):
        self.asked += 1
        return super().__getitem__(i)


def test_every_step_has_its_epoch_and_its_place_in_it(world):
    plan, _ = plan_of(world, *words("--epochs 9 --task_curriculum --task_curriculum_epochs 6"))
    rows = {s.first_epoch: len(s.rows) for s in plan.stages}
    n_rows = [rows[max(e for e in rows if e <= epoch)] for epoch in range(1, 10)]
    steps = [math.ceil(n / 8) for n in n_rows]
    assert len(set(steps)) > 2
    expected = [(e, i) for e, n in enumerate(steps, 1) for i in range(n)]
    assert [plan.place(step) for step in range(sum(steps))] == expected
    assert plan.place(sum(steps)) == (10, 0)
    assert plan.total_steps == sum(steps)
    assert [plan.steps_in(e) for e in range(1, 10)] == steps
    assert plan.examples_before.tolist() == [sum(n_rows[:e]) for e in range(10)]
    at = [plan.epoch_of(step) for step in (0, 1, steps[0], steps[0] + 1, sum(steps))]
    assert at == [1, 1, 1, 2, 9]


def test_a_step_takes_no_more_work_in_a_run_of_many_epochs(world):
    """It once summed the steps of all epochs: 59 ms a step at 30,000."""
    plan, _ = plan_of(world, *words("--epochs 30000"))
    plan = dataclasses.replace(plan, stages=Counted(plan.stages))
    assert plan.total_steps == 30_000 * 6
    plan.stages.asked = 0
    for step in range(0, 180_000, 1000):
        plan.lr_at(step)
        plan.place(step)
        plan.epoch_of(step)
        int(plan.examples_before[plan.place(step)[0]])
    assert plan.stages.asked == 0


def test_a_plan_cannot_be_changed_and_a_resumed_run_takes_what_it_began_with(world):
    plan, _ = plan_of(world)
    with pytest.raises(dataclasses.FrozenInstanceError):
        plan.micro_batches = 3
    assert (plan.micro_batches, plan.precision) == (1, "fp32")
    args = t.read_flags(command(world, "--accumulation_steps", "4", "--amp", "auto"))
    derived = {"micro_batches": 4, "precision": "bf16", "warmup_steps": 1, "lr_scaled": 99.0}
    begun = t.as_begun(args, {"derived": derived})
    data = t.load_run_data(args)
    anew, alone, many = (
        t.make_plan(begun, data, n_seeds, micro_batches=cut)
        for n_seeds, cut in ((1, None), (1, 4), (62, 4))
    )
    assert (anew.micro_batches, alone.micro_batches, many.micro_batches) == (1, 4, 4)
    assert (alone.precision, alone.warmup_steps) == ("bf16", 1)
    assert alone.peak_lr == plan.peak_lr
    # More seeds take more memory, whatever the run began with.
    assert many.step_bytes > 20 * alone.step_bytes


def test_an_epochs_orders_go_by_seed_and_epoch_alone(world):
    plan, data = plan_of(world, *words("--epochs 6 --task_curriculum"))
    replicas = [t.Replica(seed, world) for seed in (3, 8)]
    for epoch in (1, 6):
        orders = t.epoch_orders(plan, data, replicas, epoch)
        rows = plan.stages[plan.stage_of(epoch)].rows
        assert orders.dtype == np.int64
        assert orders.shape == (2, len(rows))
        assert (np.sort(orders, 1) == rows).all()
        assert (t.epoch_orders(plan, data, replicas[1:], epoch) == orders[1:]).all()
    assert not (orders[0] == orders[1]).all()


def test_a_model_that_the_device_cannot_hold_is_refused(world, monkeypatch, capsys):
    """By what it has, not by what is free; --dry_run only warns."""
    monkeypatch.setattr(t, "total_memory_bytes", lambda device: 100 * 2**20)
    large = words("--d_model 1024 --n_layers 2")
    assert go(world, *large) == 2
    error = capsys.readouterr().err
    assert "MiB for a training step, and cpu has 100 MiB in all" in error
    assert "--d_model" in error
    assert not (world / "run").exists()
    assert go(world, *large, "--dry_run") == 0
    assert "MiB for a training step, and cpu has 100 MiB in all" in capsys.readouterr().out
    assert go(world, "--dry_run") == 0
    assert "in all" not in capsys.readouterr().out
    monkeypatch.setattr(t, "total_memory_bytes", lambda device: None)  # cannot be told
    assert go(world, *large, "--dry_run") == 0
    assert "in all" not in capsys.readouterr().out


def test_derived_values_of_a_long_run_stay_small(world):
    assert go(world, *words("--epochs 3")) == 0
    derived = json.loads((world / "run/config.json").read_text())["derived"]
    assert derived["stages"][0]["steps_per_epoch"] * 3 == derived["steps_total"] == 18
    assert "steps_per_epoch" not in derived


class Terminal(io.StringIO):
    def isatty(self):
        return True


def progress_of(world, monkeypatch, *flags, seeds=1, terminal=False, slow=None):
    """What Progress writes during 300 steps of 0.5 s, the first of them of 10 s, others as long as
    `slow` says. An epoch is 6 steps over 47 examples.
    """
    plan, _ = plan_of(world, *words("--epochs 50"), *flags)
    assert (plan.total_steps, plan.examples_at(300)) == (300, 50 * 47)
    now, out = [1000.0], Terminal() if terminal else io.StringIO()
    state = t.start_run(plan, [t.Replica(seed, world) for seed in range(seeds)], [])
    monkeypatch.setattr("sys.stdout", out)
    with t.Progress(plan, state, clock=lambda: now[0]) as progress:
        for step in range(300):
            if slow and step in (1, 2, 3, 4):  # validated before it
                now[0] += 25
                progress.go_on()
            now[0] += {0: 10, **(slow or {})}.get(step, 0.5)
            progress.update()
            if step == 150:
                state.replicas = state.replicas[:1]
    return out.getvalue()


ESTIMATE = "time    about 2 min for 294 steps of 0.5 s, validation not counted"


def test_progress_without_a_terminal_is_a_line_in_half_a_minute(world, monkeypatch):
    # 10 + 40 * 0.5 s, in which 6 epochs of 47 examples and 5 steps of 8 are done; then 60 steps
    # each, which are 10 epochs.
    assert progress_of(world, monkeypatch).splitlines() == [
        ESTIMATE,
        "step 41 of 300 (14%), 11 examples/s, about 3 min left",
        "step 101 of 300 (34%), 16 examples/s, about 100 s left",
        "step 161 of 300 (54%), 16 examples/s, about 70 s left",
        "step 221 of 300 (74%), 16 examples/s, about 40 s left",
        "step 281 of 300 (94%), 16 examples/s, about 10 s left",
    ]


def test_progress_says_for_how_many_seeds_it_speaks(world, monkeypatch):
    lines = progress_of(world, monkeypatch, seeds=2).splitlines()
    assert lines[2] == (
        "step 101 of 300 (34%), 16 examples/s for each of 2 seeds, about 100 s left"
    )
    assert lines[3] == "step 161 of 300 (54%), 16 examples/s, about 70 s left"  # one has finished


def test_a_slow_beginning_or_a_pause_does_not_spoil_the_estimates(world, monkeypatch):
    """Two of the first steps wait for another job; a laptop sleeps at step 150."""
    lines = progress_of(world, monkeypatch, slow={1: 60, 4: 60, 150: 9000}).splitlines()
    assert ESTIMATE in lines
    left = [line.rpartition(", about ")[2] for line in lines if line.startswith("step ")]
    # After steps 64, 124, 151, 211 and 271.
    assert left[-5:] == ["2 min left", "88 s left", "74 s left", "44 s left", "14 s left"]


def test_progress_in_a_terminal_is_a_bar(world, monkeypatch):
    out = progress_of(world, monkeypatch, terminal=True)
    assert ESTIMATE in out
    assert "300/300" in out
    assert "of 300 (" not in out


def test_examples_seen_at_a_step_count_the_short_last_batch_of_an_epoch(world):
    plan, _ = plan_of(world, *words("--epochs 50"))
    assert [plan.examples_at(step) for step in (0, 1, 5, 6, 7, 300)] == [0, 8, 40, 47, 55, 2350]


def test_durations_have_a_unit_that_suits_them():
    texts = [t.duration(s) for s in (0.4, 99, 150, 5990, 6000, 90_000)]
    assert texts == ["0 s", "99 s", "2 min", "100 min", "1.7 h", "25.0 h"]


def test_the_time_of_a_gpus_steps_is_that_of_what_its_graph_replays(world, monkeypatch):
    """Three steps warm up, and one captures the graph."""
    plan, data = plan_of(world)
    state, now, made = t.start_run(plan, [t.Replica(0, world)], []), [0.0], []

    def step(*args, **kwargs):
        made.append(kwargs)
        now[0] += 10.0 if len(made) <= 4 else 1.0

    stepper = SimpleNamespace(step=step, begin_epoch=lambda orders: None)
    monkeypatch.setattr(t, "start_run", lambda *args: state)
    monkeypatch.setattr(t, "make_stepper", lambda *args: stepper)
    monkeypatch.setattr(t, "synchronize", lambda device: None)
    monkeypatch.setattr(t.time, "perf_counter", lambda: now[0])
    on_gpu = dataclasses.replace(plan, device=torch.device("cuda"))
    assert t.seconds_a_step(on_gpu, data, [0]) == 1.0
    assert len(made) == 9


def test_a_dry_run_estimates_the_time_and_changes_nothing(world, capsys):
    assert go(world, "--epochs", "2", out="plain") == 0
    assert "so far" in capsys.readouterr().out
    before = all_files(world)
    assert go(world, "--epochs", "2", "--dry_run") == 0
    out = capsys.readouterr().out
    assert re.search(r"^time    about \d+ s for 12 steps of \S+ s, validation not", out, re.M)
    assert all_files(world) == before
    assert go(world, "--epochs", "2", out="after") == 0
    assert_same_weights(world / "plain/last.pth", world / "after/last.pth")


def test_a_crowded_machine_is_told_of_in_the_run_once(world, monkeypatch, capsys):
    """Every step takes ten times its processor time."""
    now = iter(range(10**6))
    crowded = partial(CoreWatch, wall=lambda: next(now), processor=lambda: next(now) / 10)
    monkeypatch.setattr(t, "CoreWatch", lambda threads: crowded(2))
    assert go(world, *words("--epochs 4")) == 0
    note = "note    other work takes the cores: a step takes 10 times its processor time"
    assert capsys.readouterr().out.count(note) == 1
