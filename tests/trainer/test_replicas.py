"""Replicas: one seed among several equals the same seed alone."""

import math

import numpy as np
import pytest
import torch

import train_minigpt_4070 as t
from trainer.helpers import batch_of, build, draw_rows, gradients, make_model, step_of


def orders(examples, seed, size=8):
    return np.random.default_rng(seed).permutation(len(examples))[:size]


@pytest.mark.parametrize("pos", ["rope", "learned"])
def test_a_replica_among_four_equals_the_same_seed_alone(pos):
    examples = build(draw_rows(40, seed=9))
    seeds, n_steps = [5, 6, 7, 8], 6

    def trained(some):
        model = make_model(pos, seeds=some)
        optimizer = t.make_optimizer(model, 0.1)
        for group in optimizer.param_groups:
            group["lr"] = 3e-3
        logged = []
        for step in range(n_steps):
            rows = np.stack([orders(examples, [seed, step]) for seed in some])
            loss, norms = step_of(model, optimizer, [batch_of(examples, rows)], max_norm=0.5)
            logged.append(torch.stack((loss, norms)))
        return model, torch.stack(logged)

    together, log = trained(seeds)
    for r, seed in enumerate(seeds):
        alone, alone_log = trained([seed])
        torch.testing.assert_close(log[:, :, r : r + 1], alone_log, rtol=1e-4, atol=1e-5)
        for name, p in alone.named_parameters():
            ours = dict(together.named_parameters())[name][r : r + 1]
            torch.testing.assert_close(ours, p, rtol=1e-3, atol=2e-5)
    assert not torch.equal(together.w_tokens[0], together.w_tokens[1])


def test_nothing_leaks_from_one_replica_to_another():
    rows = [f"[copy] {a} | {a}" for a in range(10, 30)]  # all of one length: same shapes throughout
    examples = build(rows)
    model = make_model(seeds=(0, 1), std=0.2)
    before = gradients(model, batch_of(examples, [range(8), range(8)]))
    other_data = gradients(model, batch_of(examples, [range(8), range(8, 16)]))
    with torch.no_grad():
        for p in model.parameters():
            p[1] = math.nan
    sick = gradients(model, batch_of(examples, [range(8), range(8)]))
    for name, grad in before.items():
        assert torch.equal(grad[0], other_data[name][0])
        assert torch.equal(grad[0], sick[name][0])
        assert not torch.equal(grad[1], other_data[name][1])
        assert sick[name][1].isnan().any()


def test_clipping_is_per_replica():
    model = make_model(seeds=(0, 1, 2))
    generator = torch.Generator().manual_seed(0)
    for p in model.parameters():
        p.grad = torch.randn(p.shape, generator=generator)
        p.grad[0] *= 1e-4
        p.grad[2] = math.nan
    grads = [p.grad.clone() for p in model.parameters()]
    naive = [math.sqrt(sum(float(g[r].pow(2).sum()) for g in grads)) for r in range(2)]
    norms = t.clip_gradients(model, 1.0)
    assert norms[:2].tolist() == pytest.approx(naive, rel=1e-5)
    assert naive[0] < 1 < naive[1]
    for p, g in zip(model.parameters(), grads, strict=True):
        assert torch.equal(p.grad[0], g[0])
        torch.testing.assert_close(p.grad[1], g[1] / naive[1], rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("size", [1e-4, 1.0, math.inf, math.nan])
def test_clipping_one_model_is_clipping_it_among_others(size):
    alone, two = make_model(), make_model(seeds=(0, 1))
    generator, finite = torch.Generator().manual_seed(0), math.isfinite(size)
    for p, q in zip(alone.parameters(), two.parameters(), strict=True):
        p.grad = torch.randn(p.shape, generator=generator) * (size if finite else 1.0)
        q.grad = torch.cat([p.grad, torch.ones_like(p)])
    if not finite:
        alone.w_tokens.grad[0, 1, 2] = two.w_tokens.grad[0, 1, 2] = size
    norm, norms = t.clip_gradients(alone, 1.0), t.clip_gradients(two, 1.0)
    torch.testing.assert_close(norm, norms[:1], equal_nan=True)
    for p, q in zip(alone.parameters(), two.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad[:1], equal_nan=True)
    if not finite:  # what was not finite is all that is not
        assert sum(int((~p.grad.isfinite()).sum()) for p in alone.parameters()) == 1


def test_kept_replicas_train_on_as_if_the_others_were_there():
    examples = build(draw_rows(30, seed=10))
    models = [make_model(seeds=(0, 1, 2)) for _ in range(2)]
    optimizers = [t.make_optimizer(model, 0.1) for model in models]
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = 1e-3
    for step in range(6):
        rows = np.stack([orders(examples, [seed, step]) for seed in range(3)])
        step_of(models[0], optimizers[0], [batch_of(examples, rows)])
        if step == 3:
            t.keep_replicas(models[1], optimizers[1], [0, 2])
        some = rows if step < 3 else rows[[0, 2]]
        step_of(models[1], optimizers[1], [batch_of(examples, some)])
    assert models[1].R == 2
    for p, q in zip(*(model.parameters() for model in models), strict=True):
        torch.testing.assert_close(p[[0, 2]], q, rtol=1e-3, atol=1e-5)
