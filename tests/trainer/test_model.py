"""The model against the plain reference: logits, gradients, dropout, checkpointing."""

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


@pytest.mark.parametrize("std", [0.02, 0.1])
def test_the_scale_of_initialisation_and_that_biases_are_zero(std):
    model = t.GPT(make_model(d_model=64).config, [0], *([] if std == 0.02 else [std]))
    for name, p in model.named_parameters():
        if name.rpartition(".")[2].startswith("b_"):
            assert (p == 0).all()
        else:
            residual = name.endswith(("w_out", "w_down"))
            expected = std / 2 if residual else std  # 2 layers: 1 / sqrt(4)
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
        found.append(gradients(model, batch, noise=t.dropout_noise([0, 1], 3)))
    for name, grad in found[0].items():
        torch.testing.assert_close(grad, found[1][name], rtol=1e-5, atol=1e-7)
