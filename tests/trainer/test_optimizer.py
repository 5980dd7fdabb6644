"""Accumulation, weight decay, learning rate and curriculum."""

import subprocess
import sys

import numpy as np
import pytest
import torch

import train_minigpt_4070 as t
from data import formats
from data.tasks import standard_tasks
from reference import reference_loss
from trainer.helpers import SCRIPT, batch_of, build, command, make_model, step_of

NAMES = standard_tasks()  # in curriculum order


@pytest.mark.parametrize("R", [1, 2])
def test_accumulation_equals_one_large_batch(R):
    rows = [f"[copy] {'7' * n} | {'7' * n}" for n in (1, 2, 3, 5, 8, 13, 20, 1, 1, 2, 6, 9)]
    examples = build(rows)
    chosen = np.stack([np.random.default_rng(r).permutation(12) for r in range(R)])
    start = make_model(seeds=range(R), std=0.2)
    results = []
    for cuts in ([], [6], [1, 4, 9]):  # uneven pieces too
        model = make_model(seeds=range(R), std=0.2)
        pieces = np.split(chosen, cuts, axis=1)
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0)  # a step is minus the gradient
        loss, norms = step_of(model, optimizer, [batch_of(examples, piece) for piece in pieces])
        moved = [q - p for p, q in zip(model.parameters(), start.parameters(), strict=True)]
        results.append([loss, norms, *moved])
        assert all(p.grad is None for p in model.parameters())
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=2e-6)
    expected = [reference_loss(start, r, [rows[i] for i in chosen[r]]) for r in range(R)]
    torch.testing.assert_close(results[0][0], torch.stack(expected).detach(), rtol=1e-5, atol=1e-6)


def adamw_of_torch(ours):
    """torch.optim.AdamW with the groups of `ours`, which are of other parameters."""
    return torch.optim.AdamW(
        [{**g, "params": [p.detach().clone() for p in g["params"]]} for g in ours.param_groups],
        fused=True,
    )


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("R", [1, 2])
def test_adamw_is_torchs_own_bit_for_bit(R, scaled):
    """With fp16's scaler too, which has a step left out where a gradient is not finite."""
    model = make_model(seeds=range(R), std=0.2)
    ours = t.make_optimizer(model, 0.1, 1e-2, betas=(0.8, 0.9))
    theirs = adamw_of_torch(ours)
    scalers = [torch.amp.GradScaler("cpu", enabled=scaled) for _ in range(2)]
    pairs = [
        (p, q)
        for a, b in zip(ours.param_groups, theirs.param_groups, strict=True)
        for p, q in zip(a["params"], b["params"], strict=True)
    ]
    for step in range(6):
        generator = torch.Generator().manual_seed(step)
        for p, q in pairs:
            p.grad = torch.randn(p.shape, generator=generator)
            if scaled and step == 3 and p is pairs[2][0]:
                p.grad.flatten()[1] = torch.inf
            q.grad = p.grad.clone()
        t.set_learning_rate(ours, 1e-2 / (1 + step))
        t.set_learning_rate(theirs, 1e-2 / (1 + step))
        for scaler, optimizer in zip(scalers, (ours, theirs), strict=True):
            scaler.scale(torch.zeros(()))
            scaler.unscale_(optimizer)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
        for p, q in pairs:
            assert torch.equal(p, q)
            for name, value in theirs.state[q].items():
                assert torch.equal(ours.state[p][name], value), name
    assert {float(state["step"]) for state in ours.state.values()} == {5.0 if scaled else 6.0}


def test_a_run_does_not_import_torchs_compiler(world):
    run = [sys.executable, "-X", "importtime", SCRIPT, *command(world, "--epochs", "1")]
    done = subprocess.run(run, capture_output=True, text=True)
    assert (done.returncode, (world / "run/last.pth").exists()) == (0, True)
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "torch.optim.adamw" in imported
    assert "torch._dynamo" not in imported


def test_weight_decay_is_for_matrices_only():
    model = make_model("learned", std=0.2)
    optimizer = t.make_optimizer(model, 0.5)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for group in optimizer.param_groups:
        group["lr"] = 0.1
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    for name, p in model.named_parameters():
        bias = name.split(".")[-1].startswith("b_")
        torch.testing.assert_close(p.detach(), before[name] * (1 if bias else 0.95))


def test_learning_rate_at_its_boundaries():
    def lr(step):
        return t.learning_rate(step, total_steps=101, warmup_steps=10, peak=2.0, min_ratio=0.1)

    assert [lr(0), lr(4), lr(9), lr(10)] == pytest.approx([0.2, 1.0, 2.0, 2.0])
    assert lr(55) == pytest.approx(2.0 * (0.1 + 0.9 / 2))
    assert lr(100) == pytest.approx(0.2)
    assert all(lr(s) >= lr(s + 1) for s in range(10, 100))
    whole = {"warmup_steps": 0, "peak": 1.0, "min_ratio": 0.0}
    assert t.learning_rate(0, total_steps=5, **whole) == 1.0
    assert t.learning_rate(4, total_steps=5, **whole) == pytest.approx(0.0, abs=1e-12)
    assert t.learning_rate(0, total_steps=1, **whole) == 1.0


def test_stages_are_spread_evenly_and_the_last_goes_on():
    stages = [t.curriculum_stage(epoch, 5, 20) for epoch in range(1, 51)]
    assert stages == [0] * 4 + [1] * 4 + [2] * 4 + [3] * 4 + [4] * 34
    assert [t.curriculum_stage(e, 5, 7) for e in range(1, 9)] == [0, 0, 1, 2, 2, 3, 4, 4]
    assert [t.curriculum_stage(e, 5, 0) for e in (1, 2)] == [4, 4]
    assert [t.curriculum_stage(e, 1, 10) for e in (1, 10, 11)] == [0, 0, 0]


def test_stages_are_cumulative_in_curriculum_order():
    tasks = formats.Labels(["rel", "add", "copy", "sort", "rev"], np.array([0, 1, 2, 3, 4, 2]))
    stages = t.plan_stages(tasks, 50, 20)
    assert [stage.first_epoch for stage in stages] == [1, 5, 9, 13, 17]
    assert [stage.tasks for stage in stages] == [NAMES[: n + 1] for n in range(5)]
    assert [stage.rows.tolist() for stage in stages] == [
        [2, 5],
        [2, 4, 5],
        [1, 2, 4, 5],
        [1, 2, 3, 4, 5],
        [0, 1, 2, 3, 4, 5],
    ]
    # Too few epochs for all stages: some are passed over, none is lost.
    assert [s.tasks for s in t.plan_stages(tasks, 3, 2)] == [NAMES[:1], NAMES[:3], NAMES]
    assert [s.tasks for s in t.plan_stages(tasks, 50, 0)] == [NAMES]


def test_sort_tags_belong_to_the_sort_stage():
    rows = ["[sort_asc] 2 1 | 1 2", "[copy] 1 | 1", "[sort_desc] 1 2 | 2 1", "[sort] 3 | 3"]
    examples = build(rows)
    stages = t.plan_stages(examples.tasks, 10, 4)
    assert [stage.tasks for stage in stages] == [("copy",), ("copy", "sort")]
    assert stages[1].rows.tolist() == [0, 1, 2, 3]


def test_unknown_tags_join_the_last_stage():
    examples = build(["[mul] 2 3 | 6", "[copy] 1 | 1", "[max] 3 | 3", "[add] 1 + 1 | 2"])
    stages = t.plan_stages(examples.tasks, 10, 4)
    assert [stage.tasks for stage in stages] == [("copy",), ("copy", "add", "max", "mul")]
    assert t.plan_stages(build(["[mul] 2 3 | 6"]).tasks, 10, 4)[0].tasks == ("mul",)
