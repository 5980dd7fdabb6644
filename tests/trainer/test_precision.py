"""Precision of matrix products on CPU, and runs that are equal bit for bit."""

import json
import os

import numpy as np
import pytest
import torch

import train_minigpt_4070 as t
from trainer.helpers import (
    CPU,
    assert_same_weights,
    batch_of,
    build,
    draw_rows,
    go,
    gradients,
    make_model,
    resume,
    words,
)


def test_bf16_products_stay_close_to_fp32():
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    x, w, b, grad = normal(2, 50, 32), normal(2, 32, 24) / 6, normal(2, 1, 24), normal(2, 50, 24)
    results = []
    for dtype in (torch.float32, torch.bfloat16):
        inputs = [z.clone().requires_grad_() for z in (x, w, b)]
        y = t.linear(inputs[0], *t.CastTogether.apply(dtype, *inputs[1:]))
        assert y.dtype == dtype
        results.append([y.float(), *torch.autograd.grad(y, inputs, grad.to(dtype))])
    for plain, rounded in zip(*results, strict=True):
        assert rounded.dtype == torch.float32
        error = (plain - rounded).norm() / plain.norm()
        assert error < 0.01
    assert not torch.equal(results[0][0], results[1][0])


def test_bf16_serves_training_alone_and_its_gradients_stay_close():
    examples = build(draw_rows(12, seed=8))
    batch = batch_of(examples, np.arange(12).reshape(2, 6))
    model = make_model(seeds=(0, 1), std=0.2).train()
    exact, logits = gradients(model, batch), model.eval()(batch)
    model.set_precision("bf16")
    assert torch.equal(model(batch), logits)  # evaluation is always fp32
    rounded = gradients(model.train(), batch)
    for name, grad in exact.items():
        assert not torch.equal(rounded[name], grad), name
        assert (rounded[name] - grad).norm() / grad.norm() < 0.05, name


def test_precision_follows_the_processor_and_the_width_and_no_clock(monkeypatch):
    for bf16 in ("amx_bf16", "avx512_bf16", "avx2"):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda bf16=bf16: {bf16: True})
        chosen = {d: t.choose_precision("auto", CPU, d) for d in (16, 63, 64, 512)}
        wide = "fp32" if bf16 == "avx2" else "bf16"
        assert chosen == {16: "fp32", 63: "fp32", 64: wide, 512: wide}


@pytest.mark.parametrize("n", [3, 700])  # below and above what oneDNN is asked for
def test_fp32_products_are_not_rounded(n):
    """Whoever multiplies: rounding to bf16 would bring errors of 0.1."""
    g = torch.Generator().manual_seed(0)
    shapes = [(2, n, 64), (2, 64, 256), (2, 1, 256)]
    x, w, b = (torch.randn(*shape, generator=g) for shape in shapes)
    error = t.linear(x, w, b).double() - (x.double() @ w.double() + b.double())
    assert error.abs().max() < 1e-4


@pytest.mark.parametrize("keeps", [True, False])
def test_onednn_is_asked_for_large_products_only_and_the_setting_put_back(monkeypatch, keeps):
    matmul, product, asked = torch.backends.mkldnn.matmul, torch.baddbmm, []

    def spy(b, x, w):
        asked.append(matmul.fp32_precision == "bf16")
        return product(b, x, w)

    monkeypatch.setattr(torch, "baddbmm", spy)
    monkeypatch.setattr(t, "onednn_keeps_fp32", lambda: keeps)
    for n, dtype in ((16, torch.float32), (4096, torch.float32), (4096, torch.bfloat16)):
        t.linear(*(torch.zeros(1, size, 64, dtype=dtype) for size in (n, 64, 1)))
        assert matmul.fp32_precision == "none"
    assert asked == [False, keeps, False]


@pytest.mark.parametrize(
    ("isa", "rounds", "asked"),
    [("avx512", False, True), ("avx512", True, False), ("amx", False, False), ("", False, False)],
)
def test_onednn_is_asked_only_where_it_keeps_fp32(monkeypatch, isa, rounds, asked):
    def product(b, x, w):
        if rounds:
            x, w = (v.bfloat16().float() for v in (x, w))
        # In double: with AMX oneDNN would round this product too, allowed as it is here.
        return (b.double() + x.double() @ w.double()).float()

    monkeypatch.setattr(torch, "baddbmm", product)
    monkeypatch.setattr(t, "cpu_bf16_instructions", lambda: isa)
    t.onednn_keeps_fp32.cache_clear()
    try:
        assert t.onednn_keeps_fp32() is asked
    finally:
        t.onednn_keeps_fp32.cache_clear()


def test_deterministic_runs_are_equal_and_other_threads_are_noted(world, capsys):
    flags = words("--epochs 2 --dropout 0.2 --deterministic")
    try:
        for out in ("one", "two"):
            assert go(world, *flags, out=out) == 0
            assert torch.are_deterministic_algorithms_enabled()
            assert not torch.utils.deterministic.fill_uninitialized_memory
            assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    finally:
        torch.use_deterministic_algorithms(False)
        torch.backends.cudnn.deterministic = False
        del os.environ["CUBLAS_WORKSPACE_CONFIG"]
    one, two = (world / f"{out}/last.pth" for out in ("one", "two"))
    assert_same_weights(one, two)
    config = json.loads((world / "one/config.json").read_text())
    assert config["arguments"]["deterministic"] is True
    for name in words("threads cpu_capability cpu_features mkldnn matmul_precision device"):
        assert name in config, name
    config |= {"threads": 7, "versions": {**config["versions"], "torch": "2.10"}}
    (world / "one/config.json").write_text(json.dumps(config))
    capsys.readouterr()
    try:
        assert resume(world, *flags, out="one") == 0
    finally:
        torch.use_deterministic_algorithms(False)
        torch.utils.deterministic.fill_uninitialized_memory = True
    out = capsys.readouterr().out
    assert "note: the run began with threads 7, this is 1" in out
    assert f"note: the run began with torch 2.10, this is {torch.__version__}" in out
    assert out.count("note: ") == 2
