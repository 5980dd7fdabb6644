"""The model against the plain reference: logits, gradients, dropout, checkpointing."""

import math

import numpy as np
import pytest
import torch

import train_minigpt_4070 as t
from reference import reference_answer, reference_loss
from trainer.helpers import POSITIONS, batch_of, build, draw_rows, gradients, make_model

SHAPES = [*((pos, False) for pos in POSITIONS), ("rope", True), ("learned", True)]


@pytest.mark.parametrize("R", [1, 2])
@pytest.mark.parametrize(("pos", "swiglu"), SHAPES)
def test_fast_path_equals_the_plain_reference(pos, swiglu, R):
    examples = build(draw_rows(20, seed=7))
    rows = np.random.default_rng(2).permutation(20).reshape(2, 10)[:R]
    model = make_model(pos, swiglu, seeds=range(R), std=0.3)
    batch = batch_of(examples, rows)
    logits = model(batch)
    for r in range(R):
        for s in range(10):
            expected, targets = reference_answer(model, r, examples.raw(rows[r, batch.order[r, s]]))
            mine = (batch.slot[r] == s) & (batch.targets[r] != t.IGNORED)
            assert batch.targets[r][mine].tolist() == targets.tolist()
            torch.testing.assert_close(logits[r][mine], expected, rtol=1e-4, atol=1e-5)

    smoothing = 0.1
    got = gradients(model, batch, smoothing)
    loss = t.answer_loss(model(batch), batch.targets, smoothing) / batch.n_targets
    model.zero_grad()
    expected = [
        reference_loss(model, r, [examples.raw(i) for i in rows[r]], smoothing) for r in range(R)
    ]
    torch.testing.assert_close(loss, torch.stack(expected), rtol=1e-5, atol=1e-6)
    sum(expected).backward()
    for name, p in model.named_parameters():
        torch.testing.assert_close(got[name], p.grad, rtol=1e-4, atol=2e-6)


def test_the_scale_of_initialisation_and_that_biases_are_zero():
    model = make_model(d_model=64)
    for name, p in model.named_parameters():
        if name.rpartition(".")[2].startswith("b_"):
            assert (p == 0).all()
        else:
            residual = name.endswith(("w_out", "w_down"))
            expected = 0.02 / 2 if residual else 0.02  # 2 layers: 1 / sqrt(4)
            assert p.std().item() == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_checkpointing_gives_the_same_gradients(dropout, precision):
    examples = build(draw_rows(12, seed=8))
    batch = batch_of(examples, np.arange(12).reshape(2, 6))
    model = make_model(seeds=(0, 1), dropout=dropout, std=0.2).train()
    model.set_precision(precision)
    found = []
    for model.use_checkpoint in (False, True):
        torch.manual_seed(3)
        found.append(gradients(model, batch))
    for name, grad in found[0].items():
        torch.testing.assert_close(grad, found[1][name], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_dropout_rate_scale_and_independence(p):
    rng = np.random.default_rng(0)
    x = torch.full((2, 300, 500), 3.0)
    y = t.dropout(x, p, rng)
    n, sigma = 150_000, math.sqrt(p * (1 - p) / 150_000)
    zero = y == 0
    assert zero[0].float().mean().item() == pytest.approx(p, abs=5 * sigma)
    torch.testing.assert_close(
        y[~zero], torch.full(((~zero).sum(),), 3 / (1 - p)), rtol=1e-4, atol=0
    )
    # Two replicas, and neighbouring elements, agree as often as independent draws do.
    agree, expected = (zero[0] == zero[1]).float().mean().item(), p * p + (1 - p) ** 2
    assert agree == pytest.approx(expected, abs=5 * math.sqrt(expected * (1 - expected) / n))
    neighbours = (zero[0, :, 1:] == zero[0, :, :-1]).float().mean().item()
    assert neighbours == pytest.approx(expected, abs=0.01)
    assert not torch.equal(t.dropout(x, p, rng), y)
    assert t.dropout(x, 0.0, rng) is x


def test_dropout_passes_gradients_where_it_keeps():
    rng = np.random.default_rng(0)
    x = torch.ones(7, 5, requires_grad=True)
    y = t.dropout(x, 0.5, rng)
    y.sum().backward()
    assert torch.equal(x.grad, y.detach())


@pytest.mark.parametrize("use_checkpoint", [False, True])
def test_dropout_is_decided_by_seed_step_and_piece_alone(use_checkpoint):
    examples = build(draw_rows(12, seed=8))
    batch = batch_of(examples, np.arange(12)[None])
    model = make_model(dropout=0.2, std=0.2).train()
    model.use_checkpoint = use_checkpoint

    def loss_and_gradient(noise):
        model.zero_grad()
        loss = t.answer_loss(model(batch, noise=noise), batch.targets).sum()
        loss.backward()
        return loss.item(), model.blocks[0].w_up.grad.clone()

    loss, grad = loss_and_gradient((7, 3, 0))
    torch.manual_seed(99)
    again, same_grad = loss_and_gradient((7, 3, 0))
    assert again == loss
    assert torch.equal(grad, same_grad)
    others = {loss_and_gradient(noise)[0] for noise in ((8, 3, 0), (7, 4, 0), (7, 3, 1))}
    assert len(others | {loss}) == 4
    model.eval()
    assert loss_and_gradient((7, 3, 0))[0] == loss_and_gradient((7, 4, 0))[0]
