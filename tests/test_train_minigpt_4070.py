"""The trainer, checked by naive loops, hand-worked cases and whole command lines.

The faults of the earlier program, and the test that keeps each one out:

no <eos>, generation ran past the answer      test_targets_are_the_answer_and_eos,
                                              test_decoding_equals_a_naive_loop
prompt tokens compared                        test_only_the_answer_is_scored
untrained tags and characters                 test_errors (unknown characters); test_evaluate_ood.py
sort not in the curriculum                    test_sort_tags_belong_to_the_sort_stage
schedule from the first stage only            test_steps_and_schedule_cover_the_whole_stage_plan
patience during early stages                  test_until_every_task_is_in_the_latest_is_best
best weights were the last weights            test_best_model_holds_the_weights_of_its_epoch
task read at ":"                              test_formats.py; test_generate.py
validation overlaps training                  test_validation_is_split_into_seen_and_unseen
dedup set smaller and harder                  test_generate.py
easy examples duplicated                      test_generate.py
one seed, no intervals                        test_run_folder_of_several_seeds
teacher-forced accuracy called accuracy       test_records_agree_with_naive_decoding
sequences cut at 128                          test_long_rows_are_never_cut
pickle.load of anything                       test_formats.py; tests/faults/test_hostile_files.py
"""

import ast
import contextlib
import errno
import io
import json
import math
import os
import pickle
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import hostile
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from filelock import FileLock
from hypothesis import given, settings
from hypothesis import strategies as st

import plots
import train_minigpt_4070 as t
from data import formats, run_folder, samples
from data.generate import TASKS, build_tokenizer, draw_example

SCRIPT = Path(t.__file__)
CPU = torch.device("cpu")
TOKENIZER_JSON = build_tokenizer((*TASKS, "sort_desc", "mul"))
TOKENIZER = formats.Tokenizer(TOKENIZER_JSON["itos"].values())
CHARACTERS = "".join(token for token in TOKENIZER.itos if len(token) == 1)
POSITIONS = ("rope", "nope", "alibi", "learned")

torch.set_num_threads(1)  # the models here are too small for more


@pytest.fixture(autouse=True)
def no_figures(monkeypatch):
    """Figures take longer than these runs, and have their own tests."""
    monkeypatch.setattr(plots, "write_figures", lambda *args, **kwargs: [])


def words(text):
    """Flags and names, without a quotation mark around each."""
    return text.split()


def draw_rows(n, seed, tags=TASKS):
    """n rows with short prompts, the tags in turn."""
    rng = random.Random(seed)
    rows = []
    for i in range(n):
        tag = tags[i % len(tags)]
        items = [rng.randrange(40) for _ in range(rng.randrange(2, 6))]
        a, b, people = rng.randrange(100), rng.randrange(100), rng.sample("ABCDEFGH", 2)
        parts = {
            "copy": (items, items),
            "rev": (items, items[::-1]),
            "sort": (items, sorted(items)),
            "sort_desc": (items, sorted(items, reverse=True)),
            "add": ([a, "+", b], [a + b]),
            "rel": ([f"{people[0]}>{people[1]} ? up 1 {people[1]}"], [people[0]]),
        }[tag]
        prompt, answer = (" ".join(map(str, part)) for part in parts)
        rows.append(f"[{tag}] {prompt} | {answer}")
    return rows


def build(rows):
    return formats.build_examples(rows, TOKENIZER, "test")


def make_model(pos="rope", swiglu=False, seeds=(0,), dropout=0.0, max_len=64, d_model=16, std=None):
    """A tiny model. With `std` every parameter, biases too, is drawn anew and nothing is near 0."""
    config = t.GPTConfig(len(TOKENIZER), max_len, d_model, 2, 2, 24, pos, swiglu, dropout)
    model = t.GPT(config, list(seeds))
    if std:
        with torch.no_grad():
            for name, p in model.named_parameters():
                for r, seed in enumerate(seeds):
                    generator = torch.Generator().manual_seed(hash((seed, len(name))) % 2**31)
                    p[r].normal_(0, std, generator=generator)
    return model


def reference_logits(model, r, ids):
    """Logits [T, V] of one sequence by replica r: whole attention matrices, one head at a time."""
    c, T = model.config, len(ids)
    p = {name: q[r] for name, q in model.named_parameters()}
    D = c.d_model // c.n_heads
    at = torch.arange(T)

    def norm(x):
        centred = x - x.mean(-1, keepdim=True)
        return centred / (centred.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt()

    def rotated(x):  # x [T, D]
        y = x.clone()
        for k in range(D // 2):
            angle = at * 10_000 ** (-2 * k / D)
            a, b = x[:, 2 * k], x[:, 2 * k + 1]
            y[:, 2 * k] = a * angle.cos() - b * angle.sin()
            y[:, 2 * k + 1] = a * angle.sin() + b * angle.cos()
        return y

    x = p["w_tokens"][torch.as_tensor(ids)]
    if c.pos == "learned":
        x = x + p["w_positions"][:T]
    for i in range(c.n_layers):
        b = {n.split(".")[2]: q for n, q in p.items() if n.startswith(f"blocks.{i}.")}
        q, k, v = (norm(x) @ b["w_qkv"] + b["b_qkv"]).split(c.d_model, 1)
        heads = []
        for h in range(c.n_heads):
            qh, kh, vh = (z[:, h * D : (h + 1) * D] for z in (q, k, v))
            if c.pos == "rope":
                qh, kh = rotated(qh), rotated(kh)
            scores = qh @ kh.T / math.sqrt(D)
            if c.pos == "alibi":
                scores = scores - 2 ** (-8 * (h + 1) / c.n_heads) * (at[:, None] - at)
            scores = scores.masked_fill(at[:, None] < at, -math.inf)
            heads.append(scores.softmax(-1) @ vh)
        x = x + torch.cat(heads, 1) @ b["w_out"] + b["b_out"]
        up = norm(x) @ b["w_up"] + b["b_up"]
        hidden = F.silu(up[:, : c.d_ff]) * up[:, c.d_ff :] if c.swiglu else F.gelu(up)
        x = x + hidden @ b["w_down"] + b["b_down"]
    return norm(x) @ p["w_tokens"].T


def reference_answer(model, r, raw):
    """(logits [len(answer) + 1, V], targets) of one row: every answer token and its <eos>."""
    ids = TOKENIZER.encode(raw).tolist()
    n_answer = len(raw) - raw.rindex(" | ") - 3
    targets = torch.tensor([*ids[len(ids) - n_answer :], TOKENIZER.eos])
    return reference_logits(model, r, ids)[-n_answer - 1 :], targets


def reference_loss(model, r, raws, label_smoothing=0.0):
    """Nats per answer token over all rows."""
    parts = [reference_answer(model, r, raw) for raw in raws]
    logits, targets = (torch.cat(z) for z in zip(*parts, strict=True))
    log_probs = logits.log_softmax(-1)
    right = log_probs[torch.arange(len(targets)), targets]
    smoothed = (1 - label_smoothing) * right + label_smoothing * log_probs.mean(-1)
    return -smoothed.mean()


@torch.no_grad()
def reference_decode(model, r, prompt, n_answer):
    """One greedy continuation, everything computed anew for each token: ids, log prob, entropy."""
    ids, out, log_prob, entropies = TOKENIZER.encode(prompt).tolist(), [], 0.0, []
    while len(out) < n_answer + 8:
        if model.config.pos == "learned" and len(ids) > model.w_positions.shape[1]:
            break
        scores = reference_logits(model, r, ids)[-1].log_softmax(-1)
        token = int(scores.argmax())
        log_prob += float(scores[token])
        entropies.append(float(-(scores.exp() * scores).sum()))
        if token == TOKENIZER.eos:
            break
        out.append(token)
        ids.append(token)
    return out, log_prob, sum(entropies) / len(entropies)


def batch_of(examples, rows):
    rows = np.asarray(rows)
    return t.make_batch(t.Resident(examples, CPU), rows if rows.ndim == 2 else rows[None])


def gradients(model, batch, label_smoothing=0.0):
    model.zero_grad()
    loss = t.answer_loss(model(batch), batch.targets, label_smoothing) / batch.n_targets
    loss.sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters()}


def no_scaler():
    return torch.amp.GradScaler("cpu", enabled=False)


def step_of(model, optimizer, batches, max_norm=1e9, label_smoothing=0.0):
    return t.train_step(model, optimizer, no_scaler(), batches, label_smoothing, max_norm)


# ----------------------------------------------------------------------------------------------
# Examples and their files (data/formats.py has its own tests in test_formats.py)
# ----------------------------------------------------------------------------------------------


def encode_all(rows):
    return [TOKENIZER.encode(row).tolist() for row in rows]


def write_pickle(path, rows, **content):
    path.write_bytes(pickle.dumps({"raw": rows, **content}))
    return path


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def test_long_rows_are_never_cut():
    digits = "1 " * 300 + "7"
    examples = build([f"[copy] {digits} | {digits}"])
    batch = batch_of(examples, [0])
    n = len("[copy]  | ") + 2 * len(digits)
    assert batch.groups == [(1, n)]
    assert TOKENIZER.decode(batch.ids[0, :n]) == examples.raw(0)


# ----------------------------------------------------------------------------------------------
# Batching
# ----------------------------------------------------------------------------------------------


def slots_of(batch, examples, rows, r):
    """(row, its length in this batch's slot, first position of the slot) for each slot."""
    rows, at = np.atleast_2d(rows), 0
    widths = [T for b, T in batch.groups for _ in range(b)]
    for s, width in enumerate(widths):
        yield rows[r, batch.order[r, s]], width, at
        at += width
    assert_only_filler(batch, at)


def assert_only_filler(batch, n):
    """Nothing but padding after position `n`: as little as makes a multiple of ROUND."""
    assert 0 <= batch.ids.shape[1] - n < t.ROUND
    assert batch.ids.shape[1] % t.ROUND == 0
    assert (batch.ids[:, n:] == 0).all()
    assert (batch.answer_at[batch.targets != t.IGNORED] < n).all()


def test_slots_hold_the_examples_and_little_more():
    examples = build(draw_rows(40, seed=3))
    rows = np.random.default_rng(0).permutation(40)[:17]
    batch = batch_of(examples, rows)
    assert batch.targets.shape[1] == -(-int(batch.n_targets) // t.ROUND) * t.ROUND
    padding = 0
    for row, width, at in slots_of(batch, examples, rows, 0):
        n = examples.lengths[row]
        assert TOKENIZER.decode(batch.ids[0, at : at + n]) == examples.raw(row)
        assert batch.pos[at : at + width].tolist() == list(range(width))
        padding += width - n
    assert 0 < padding <= t.GROUP_PADDING * len(batch.groups)
    assert len(batch.groups) < len(set(examples.lengths[rows].tolist()))


@given(st.lists(st.integers(1, 90), min_size=1, max_size=60), st.integers(0, 50))
def test_merged_lengths_cover_and_stay_within_their_padding(lengths, padding):
    lengths = np.array(sorted(lengths, reverse=True))
    merged = t.merge_lengths(lengths, padding)
    assert (merged >= lengths).all()
    assert (np.diff(merged) <= 0).all()
    for value in np.unique(merged):
        group = lengths[merged == value]
        assert group[0] == value
        assert (value - group).sum() <= padding
    if padding == 0:
        assert merged.tolist() == lengths.tolist()


@pytest.mark.parametrize("R", [1, 3])
def test_targets_are_the_answer_and_eos(R):
    examples = build(draw_rows(60, seed=4))
    rows = np.random.default_rng(1).permutation(60).reshape(3, 20)[:R]
    batch = batch_of(examples, rows)
    n_answer = (examples.lengths - examples.answer_start)[rows] + 1
    assert batch.n_targets.tolist() == n_answer.sum(1).tolist()
    for r in range(R):
        assert sorted(batch.order[r].tolist()) == list(range(20))
        for s, (row, width, at) in enumerate(slots_of(batch, examples, rows, r)):
            n = examples.lengths[row]
            assert n <= width
            assert TOKENIZER.decode(batch.ids[r, at : at + n]) == examples.raw(row)
            mine = (batch.slot[r] == s) & (batch.targets[r] != t.IGNORED)
            targets, places = batch.targets[r][mine], batch.answer_at[r][mine]
            assert targets.tolist() == [*TOKENIZER.encode(examples.answer(row)), TOKENIZER.eos]
            start = at + examples.answer_start[row] - 1
            assert places.tolist() == list(range(start, at + n))


def test_each_replica_keeps_its_own_order():
    examples = build(draw_rows(12, seed=5))
    rows = np.stack([np.arange(6), np.arange(6, 12), np.arange(11, 5, -1)])
    together = batch_of(examples, rows)
    for r in range(3):
        alone = batch_of(examples, rows[r])
        assert together.order[r].tolist() == alone.order[0].tolist()
        real = together.targets[r] != t.IGNORED
        alone_real = alone.targets[0] != t.IGNORED
        assert together.targets[r][real].tolist() == alone.targets[0][alone_real].tolist()
        assert together.slot[r][real].tolist() == alone.slot[0][alone_real].tolist()


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(st.text("0123 |", max_size=9), st.text("0123 ", max_size=9)), min_size=1),
    st.integers(1, 3),
    st.integers(1, 12),
    st.randoms(use_true_random=False),
    st.booleans(),
)
def test_every_batch_holds_each_real_token_once_and_in_order(parts, R, B, rng, prompts_only):
    examples = build([f"[copy] {prompt} | {answer}" for prompt, answer in parts])
    rows = np.array([[rng.randrange(len(parts)) for _ in range(B)] for _ in range(R)])
    batch = t.make_batch(t.Resident(examples, CPU), rows, prompts_only)
    for r in range(R):
        assert sorted(batch.order[r].tolist()) == list(range(B))
        start = 0
        slots = [T for b, T in batch.groups for _ in range(b)]
        for k, T in enumerate(slots):
            i = rows[r, batch.order[r, k]]
            n = int(examples.answer_start[i] if prompts_only else examples.lengths[i])
            ids = TOKENIZER.encode(examples.raw(i)[:n]).tolist()
            assert batch.ids[r, start : start + T].tolist() == ids + [0] * (T - n)
            assert batch.pos[start : start + T].tolist() == list(range(T))
            mine = (batch.slot[r] == k) & (batch.targets[r] != t.IGNORED)
            wanted = [*TOKENIZER.encode(examples.raw(i)).tolist(), TOKENIZER.eos]
            first = int(examples.answer_start[i])
            wanted = wanted[first : first + 1] if prompts_only else wanted[first:]
            assert batch.targets[r][mine].tolist() == wanted
            at = (batch.answer_at[r][mine] - start).tolist()
            assert at == list(range(first - 1, first - 1 + len(wanted)))
            start += T
    assert_only_filler(batch, start)
    assert not prompts_only or batch.targets.shape[1] == B


def test_prompts_only_leaves_the_answers_out():
    examples = build(draw_rows(10, seed=6))
    batch = t.make_batch(t.Resident(examples, CPU), np.arange(10)[None], prompts_only=True)
    for s, (row, _, at) in enumerate(slots_of(batch, examples, np.arange(10), 0)):
        n = examples.answer_start[row]
        assert TOKENIZER.decode(batch.ids[0, at : at + n]) == examples.prompt(row)
        assert batch.answer_at[0, s] == at + n - 1


# ----------------------------------------------------------------------------------------------
# The model against the plain reference
# ----------------------------------------------------------------------------------------------

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


# ----------------------------------------------------------------------------------------------
# Replicas
# ----------------------------------------------------------------------------------------------


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


# ----------------------------------------------------------------------------------------------
# Optimizer, accumulation, schedule, curriculum
# ----------------------------------------------------------------------------------------------


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
        return t.learning_rate(step, 101, 10, 2.0, 0.1)

    assert [lr(0), lr(4), lr(9), lr(10)] == pytest.approx([0.2, 1.0, 2.0, 2.0])
    assert lr(55) == pytest.approx(2.0 * (0.1 + 0.9 / 2))
    assert lr(100) == pytest.approx(0.2)
    assert all(lr(s) >= lr(s + 1) for s in range(10, 100))
    assert t.learning_rate(0, 5, 0, 1.0, 0.0) == 1.0
    assert t.learning_rate(4, 5, 0, 1.0, 0.0) == pytest.approx(0.0, abs=1e-12)
    assert t.learning_rate(0, 1, 0, 1.0, 0.5) == 1.0


def test_stages_are_spread_evenly_and_the_last_goes_on():
    stages = [t.stage_of_epoch(epoch, 5, 20) for epoch in range(1, 51)]
    assert stages == [0] * 4 + [1] * 4 + [2] * 4 + [3] * 4 + [4] * 34
    assert [t.stage_of_epoch(e, 5, 7) for e in range(1, 9)] == [0, 0, 1, 2, 2, 3, 4, 4]
    assert [t.stage_of_epoch(e, 5, 0) for e in (1, 2)] == [4, 4]
    assert [t.stage_of_epoch(e, 1, 10) for e in (1, 10, 11)] == [0, 0, 0]


def test_stages_are_cumulative_in_curriculum_order():
    tasks = formats.Labels(["rel", "add", "copy", "sort", "rev"], np.array([0, 1, 2, 3, 4, 2]))
    stages = t.plan_stages(tasks, 50, 20)
    assert [stage.first_epoch for stage in stages] == [1, 5, 9, 13, 17]
    assert [stage.tasks for stage in stages] == [TASKS[: n + 1] for n in range(5)]
    assert [stage.rows.tolist() for stage in stages] == [
        [2, 5],
        [2, 4, 5],
        [1, 2, 4, 5],
        [1, 2, 3, 4, 5],
        [0, 1, 2, 3, 4, 5],
    ]
    at = [t.stage_at(stages, epoch) for epoch in (1, 4, 5, 16, 17, 50)]
    assert at == [0, 0, 1, 3, 4, 4]
    # Too few epochs for all stages: some are passed over, none is lost.
    assert [s.tasks for s in t.plan_stages(tasks, 3, 2)] == [TASKS[:1], TASKS[:3], TASKS]
    assert [s.tasks for s in t.plan_stages(tasks, 50, 0)] == [TASKS]


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


# ----------------------------------------------------------------------------------------------
# Learning, decoding and scoring
# ----------------------------------------------------------------------------------------------

TAUGHT = draw_rows(10, seed=11)
ALL_ROWS = TAUGHT + draw_rows(25, seed=12) + ["[copy] 1 | 1", "[copy]  | "]
_taught = {}


def taught(pos, seeds=(0,)):
    """A model that has learned TAUGHT by heart, and the loss along the way."""
    if (pos, seeds) not in _taught:
        model = make_model(pos, seeds=seeds, d_model=32).train()
        batch = batch_of(build(TAUGHT), [range(10)] * len(seeds))
        optimizer = t.make_optimizer(model, 0.0)
        for step in range(600):
            for group in optimizer.param_groups:
                group["lr"] = min(1, (step + 1) / 20) * 5e-3
            loss, _ = step_of(model, optimizer, [batch], max_norm=1.0)
            if loss.max() < 0.01:
                break
        _taught[pos, seeds] = model.eval()
    return _taught[pos, seeds]


@pytest.mark.parametrize("pos", POSITIONS)
def test_one_batch_can_be_learned_by_heart(pos):
    scores = t.score(taught(pos), build(TAUGHT), np.arange(10), CPU)
    assert scores.exact.tolist() == [[True] * 10]
    assert scores.loss.max() < 0.3


@pytest.mark.parametrize("R", [1, 2])
@pytest.mark.parametrize("pos", POSITIONS)
def test_decoding_equals_a_naive_loop(pos, R):
    """Prompts of many lengths, rows that end at different steps, some at the run-on cap."""
    examples = build(ALL_ROWS)
    model = taught(pos)
    if R == 2:  # one that has learned and one that never ends
        both, wild = make_model(pos, seeds=(0, 1), d_model=32), make_model(pos, d_model=32, std=0.3)
        with torch.no_grad():
            for p, *ps in zip(*(m.parameters() for m in (both, model, wild)), strict=True):
                p.copy_(torch.cat(ps))
        model = both
    n = len(examples)
    rows = np.stack([np.random.default_rng(r).permutation(n)[: 36 // R] for r in range(R)])
    generated = t.generate(model, examples, rows, TOKENIZER.eos, CPU)
    lengths = set()
    for r in range(R):
        for j, row in enumerate(rows[r]):
            n_answer = len(examples.answer(row))
            ids, log_prob, entropy = reference_decode(model, r, examples.prompt(row), n_answer)
            assert generated.ids[r][j] == ids
            assert generated.log_prob[r, j] == pytest.approx(log_prob, rel=1e-3, abs=1e-4)
            assert generated.entropy[r, j] == pytest.approx(entropy, rel=1e-3, abs=1e-4)
            lengths.add("cap" if len(ids) == n_answer + t.RUN_ON else len(ids))
    assert len(lengths) > 3
    assert R == 1 or "cap" in lengths


def test_a_finished_row_waits_while_the_others_go_on():
    """A long prompt with a short answer ends first, and four of five are too many to regroup."""
    rows = ["[copy] " + "7" * 40 + " | 1"] + [f"[copy] {i} | " + "1" * 45 for i in range(4)]
    examples, model = build(rows), make_model(std=0.3)
    generated = t.generate(model, examples, np.arange(5)[None], TOKENIZER.eos, CPU)
    for i in range(5):
        expected = reference_decode(model, 0, examples.prompt(i), len(examples.answer(i)))[0]
        assert generated.ids[0][i] == expected
    assert [len(ids) for ids in generated.ids[0]] == [9, 53, 53, 53, 53]


def test_decoding_in_small_batches_changes_nothing():
    examples, model = build(ALL_ROWS), taught("rope")
    rows = np.arange(len(examples))[None]
    at_once = t.generate(model, examples, rows, TOKENIZER.eos, CPU)
    piecewise = t.generate(model, examples, rows, TOKENIZER.eos, CPU, tokens_per_batch=150)
    assert at_once.ids == piecewise.ids
    np.testing.assert_allclose(at_once.log_prob, piecewise.log_prob, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(at_once.entropy, piecewise.entropy, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("pos", POSITIONS)
def test_exact_match_from_one_forward_pass_equals_that_of_decoding(pos):
    examples, model = build(ALL_ROWS), taught(pos)
    n = len(examples)
    rows = np.random.default_rng(0).permutation(n)
    decoded = t.predict(model, TOKENIZER, examples, rows, np.zeros((1, n), bool), CPU)
    assert list(decoded[0]) == rows.tolist()
    right = [decoded[0][i] == examples.answer(i) for i in range(n)]
    scores = t.score(model, examples, np.arange(n), CPU)
    assert scores.exact[0].tolist() == right
    assert 10 <= sum(right) < n
    assert t.predict(model, TOKENIZER, examples, rows, scores.exact, CPU) == decoded
    some = t.predict(model, TOKENIZER, examples, rows[:7], scores.exact, CPU)
    assert some == [{i: decoded[0][i] for i in rows[:7].tolist()}]


def test_replicas_that_fail_on_different_rows_are_all_decoded():
    examples, model = build(ALL_ROWS), make_model(seeds=(0, 1, 2), std=0.3)
    rows = np.arange(6)
    decoded = t.predict(model, TOKENIZER, examples, rows, np.zeros((3, 37), bool), CPU)
    exact = np.zeros((3, 37), bool)
    exact[0, :6], exact[1, 1:] = True, True  # claimed, so the answer stands in for them
    texts = t.predict(model, TOKENIZER, examples, rows, exact, CPU)
    answers = {i: examples.answer(i) for i in range(6)}
    assert texts == [answers, {**answers, 0: decoded[1][0]}, decoded[2]]


def test_scores_equal_the_reference_also_in_small_batches():
    examples = build(ALL_ROWS)
    model = make_model(seeds=(0, 1), std=0.3)
    rows = np.random.default_rng(1).permutation(len(examples))
    scores = t.score(model, examples, rows, CPU)
    small = t.score(model, examples, rows, CPU, tokens_per_batch=200)
    np.testing.assert_allclose(scores.loss, small.loss, rtol=1e-4)
    for r in range(2):
        for j, row in enumerate(rows):
            logits, targets = reference_answer(model, r, examples.raw(row))
            loss = F.cross_entropy(logits, targets).item()
            assert scores.loss[r, j] == pytest.approx(loss, rel=1e-4)
            right = (logits.argmax(-1) == targets).sum().item()
            assert (scores.right[r, j], small.right[r, j]) == (right, right)
            assert scores.n_tokens[r, j] == len(targets)


class Oracle:
    """Answers a batch with the targets; `wrong` (slot, place in the answer) are missed."""

    R = 1

    def __init__(self, wrong=()):
        self.wrong = wrong

    def eval(self):
        return self

    def __call__(self, batch):
        logits = F.one_hot(batch.targets.clamp(min=0), len(TOKENIZER)).float()
        for slot, place in self.wrong:
            at = np.flatnonzero(batch.slot[0] == slot)[place]
            logits[0, at] = logits[0, at].roll(1)
        return logits


def test_only_the_answer_is_scored():
    """Right on the answer and <eos> is 1 whatever the prompt's predictions; one slip is 0."""
    examples = build(["[copy] 123 | 123"])
    rows = np.array([0])
    assert t.score(Oracle(), examples, rows, CPU).exact.tolist() == [[True]]
    for place in range(4):  # the fourth is <eos>
        scores = t.score(Oracle([(0, place)]), examples, rows, CPU)
        assert (scores.exact.tolist(), scores.right.tolist()) == ([[False]], [[3]])
    scores = t.score(Oracle([(0, place) for place in range(4)]), examples, rows, CPU)
    assert (scores.right.tolist(), scores.n_tokens.tolist()) == ([[0]], [[4]])


def test_prompt_predictions_bring_no_gradient():
    """The last prompt position predicts the answer; the loss depends on no earlier target."""
    examples = build(["[copy] 12 | 7", "[rev] 12 | 7"])
    batch = batch_of(examples, [0])
    real = batch.targets != t.IGNORED
    assert batch.targets[real].tolist() == [TOKENIZER.stoi["7"], TOKENIZER.eos]
    assert batch.answer_at[real].tolist() == [len("[copy] 12 | ") - 1, len("[copy] 12 | 7") - 1]


# ----------------------------------------------------------------------------------------------
# Best model and patience
# ----------------------------------------------------------------------------------------------


def judged(history, patience=3, min_delta=0.0, all_in_from=1):
    """Feed (exact, loss) epoch by epoch; return (best flags, replica)."""
    replica, flags = t.Replica(0, Path(".")), []
    for epoch, (exact, loss) in enumerate(history, 1):
        record = {"val_exact_match": exact, "val_loss": loss, "epoch": epoch}
        flags.append(replica.judge(record, 1, epoch >= all_in_from, min_delta, patience))
        if replica.finished:
            break
    return flags, replica


def test_best_is_the_highest_exact_match_then_the_lowest_loss():
    flags, replica = judged(
        [(0.1, 1.0), (0.1, 0.9), (0.2, 5.0), (0.1, 0.1), (0.2, 5.0), (0.2, 4.0)]
    )
    assert flags == [True, True, True, False, False, True]
    assert (replica.best_exact, replica.best_loss, replica.best_epoch) == (0.2, 4.0, 6)


def test_patience_counts_epochs_in_which_neither_improved():
    # Loss improves on its own (epoch 4) though the best model stays that of epoch 2.
    history = [(0.1, 1.0), (0.3, 0.9), (0.2, 0.95), (0.2, 0.8), (0.2, 0.9), (0.3, 0.8), (0.1, 2.0)]
    flags, replica = judged([*history, (0.1, 2.0)])
    assert flags[:2] == [True, True]
    assert replica.stale_epochs == 3
    assert "no improvement in 3 epochs" in replica.finished
    assert len(flags) == 7
    flags, replica = judged(history * 3, patience=0)
    assert (len(flags), replica.finished) == (21, "")


def test_until_every_task_is_in_the_latest_is_best():
    history = [(0.9, 0.1), (0.5, 0.5), (0.4, 0.6), (0.3, 0.7), (0.2, 0.8), (0.1, 0.9), (0.0, 1.0)]
    flags, replica = judged(history, patience=2, all_in_from=5)
    assert flags == [True, True, True, True, True, False, False]
    assert (replica.best_epoch, replica.best_exact) == (5, 0.2)
    assert "no improvement in 2 epochs" in replica.finished
    assert judged([(1.0, 0.1)] * 9, all_in_from=10)[1].finished == ""


def test_two_perfect_validations_running_end_the_run():
    flags, replica = judged([(1.0, 0.1), (0.9, 0.2), (1.0, 0.1), (1.0, 0.05), (1.0, 0.01)])
    assert (len(flags), replica.best_epoch) == (4, 4)
    assert "learned" in replica.finished


def test_small_steps_count_once_they_add_up_to_min_delta():
    flags, replica = judged([(0.0, 1 - 0.6 * k) for k in range(10)], patience=3, min_delta=1.0)
    assert (len(flags), replica.finished) == (10, "")
    _, replica = judged([(0.0, 1 - 0.1 * k) for k in range(10)], patience=3, min_delta=1.0)
    assert replica.best_epoch == 4  # any gain makes the best model
    assert "no improvement in 3 epochs" in replica.finished


# ----------------------------------------------------------------------------------------------
# The memorization report
# ----------------------------------------------------------------------------------------------


def data_of(train_rows, val_rows):
    train, val = build(train_rows), build(val_rows)
    seen = np.isin(val.keys, train.keys)
    headline = np.flatnonzero(~seen) if not seen.all() else np.arange(len(val))
    sample = samples.matched_sample(train, val, headline)
    audit = {"val_seen": int(seen.sum()), "val_unseen": int((~seen).sum())}
    return t.Data(TOKENIZER, train, val, headline, np.flatnonzero(seen), sample, {}, audit)


def report_of(monkeypatch, data, predictions, right_in_training=()):
    """The report on a model that says `predictions` to `data.val` and knows some training rows."""

    def generate(model, examples, rows, eos, device, **kwargs):
        assert examples is data.val
        ids = [TOKENIZER.encode(predictions[examples.raw(i)]).tolist() for i in rows[0]]
        log_prob = np.log([[0.9 if predictions[examples.raw(i)] else 0.5 for i in rows[0]]])
        return t.Generation([ids], log_prob, np.arange(len(ids), dtype=float)[None])

    def score(model, examples, rows, device, **kwargs):
        if examples is data.val:
            exact = [predictions[examples.raw(i)] == examples.answer(i) for i in rows]
        else:
            exact = [examples.raw(i) in right_in_training for i in rows]
        exact = np.array([exact], dtype=bool)
        n = np.ones(exact.shape, int)
        return t.Scores(np.where(exact, 0.5, 2.0), exact, exact.astype(int), n)

    monkeypatch.setattr(t, "generate", generate)
    monkeypatch.setattr(t, "score", score)
    report = t.memorization_report(None, data, TOKENIZER, CPU, 7)
    json.dumps(report, allow_nan=False)
    return report


def test_memorization_report_on_a_hand_made_case(monkeypatch):
    once, twice = "[copy] 1111 | 1111", "[copy] 2222 | 2222"
    thrice = "[copy] 3333 | 3333"
    train_rows = [once] + [twice] * 2 + [thrice] * 3
    train_rows += ["[rev] 12 | 21"] * 11 + ["[rev] 13 | 31"] + ["[rev] 14 | 41"] * 2
    predictions = {
        "[copy] 1112 | 1112": "1111",  # the answer of another training example
        "[copy] 4444 | 4444": "4444",
        "[copy] 2225 | 2225": "9999",  # wrong, and nobody's
        "[rev] 35 | 53": "1111",  # another tag's answer does not count
    }
    data = data_of(train_rows, list(predictions))
    report = report_of(monkeypatch, data, predictions, {twice, thrice})
    assert report["epoch"] == 7
    assert (report["unseen"]["n"], report["unseen"]["exact_match"]) == (4, 0.25)
    assert report["unseen"]["loss"] == pytest.approx((0.5 + 3 * 2.0) / 4)
    assert report["train"]["n"] == 4  # three distinct [copy] and one distinct [rev]
    assert report["train"]["exact_match"] == 0.5
    assert report["seen"] is None
    gap = report["gap"]
    assert (gap["train"], gap["unseen"], gap["gap"]) == (0.5, 0.25, 0.25)
    assert gap["low"] < 0.25 < gap["high"]
    counts = [(g["group"], g["n"], g["exact_match"]) for g in report["by_repeat_count"]]
    # One of each task at each count; 8 is left out, for [copy] lacks it. 3 is grouped with 2.
    assert counts == [(0, 4, 0.25), (1, 2, 0.0), (2, 2, 0.5)]
    assert report["repeat_counts_grouped"] is True
    losses = [g["loss"] for g in report["by_repeat_count"]]
    assert losses == pytest.approx([1.625, 2.0, 1.25])
    assert all(g["exact_match_low"] <= g["exact_match"] for g in report["by_repeat_count"])
    wrong = report["wrong_predictions"]
    assert (wrong["n"], wrong["answer_of_another_example"]) == (3, 1)
    # Prompts with their bar, "[copy] 1112 | " is 14 long: one slip; "4444" differs in four places.
    assert wrong["nearest_distance_right"] == pytest.approx(4 / 14)
    assert wrong["nearest_distance_wrong"] == pytest.approx((1 / 14 + 1 / 14 + 2 / 11) / 3)
    # 3-grams: "1111" and "9999" among the answers of [copy]; "1111" among "21" of [rev].
    overlap = report["ngram_overlap"]
    assert (overlap["n"], overlap["right"]) == (3, 0.0)
    assert overlap["wrong"] == pytest.approx((1 + 0 + 0) / 3)
    assert (report["entropy"]["n_right"], report["entropy"]["n_wrong"]) == (1, 3)
    assert report["confidence"]["right"] == pytest.approx(0.9)


def test_memorization_report_on_seen_and_unseen_examples(monkeypatch):
    predictions = {"[add] 2 + 1 | 3": "3", "[add] 5 + 5 | 10": "11", "[add] 8 + 1 | 9": "9"}
    data = data_of(["[add] 1 + 2 | 3", "[add] 3 + 4 | 7"], list(predictions))
    report = report_of(monkeypatch, data, predictions)
    assert (report["unseen"]["n"], report["unseen"]["exact_match"]) == (2, 0.5)
    assert (report["seen"]["n"], report["seen"]["exact_match"]) == (1, 1.0)
    assert report["by_repeat_count"][0]["n"] == 2


def test_memorization_report_calls_nothing_unseen_that_was_seen(monkeypatch):
    rows = ["[copy] 1 | 1", "[copy] 2 | 2"]
    data = data_of(rows, rows)
    report = report_of(monkeypatch, data, dict(zip(rows, "12", strict=True)), set(rows))
    assert [g["group"] for g in report["by_repeat_count"]] == [1]
    assert not report["unseen"]
    assert (report["seen"]["n"], report["seen"]["exact_match"]) == (2, 1.0)


# ----------------------------------------------------------------------------------------------
# Whole command lines
# ----------------------------------------------------------------------------------------------

TINY = "--d_model 16 --n_layers 1 --n_heads 2 --batch_size 8 --warmup_steps 2 --device cpu"
TINY = (TINY + " --amp fp32 --lr 3e-4 --patience 0").split()
TRAIN_ROWS = draw_rows(40, seed=20, tags=("copy", "rev", "sort_desc", "add"))
TRAIN_ROWS += [*TRAIN_ROWS[:4], "[mul] 2 3 | 6", "[mul] 2 4 | 8"]
SEEN_ROWS = [*TRAIN_ROWS[:3], "[add] 2 + 1 | 3"]
TRAIN_ROWS += ["[add] 1 + 02 | 3"]  # the same example as that of validation
VAL_ROWS = draw_rows(12, seed=21, tags=("copy", "rev", "sort_desc", "add")) + SEEN_ROWS


@pytest.fixture
def world(tmp_path):
    return make_world(tmp_path)


def make_world(folder, train_rows=TRAIN_ROWS, val_rows=VAL_ROWS):
    folder.mkdir(exist_ok=True)
    for name, rows in (("train", train_rows), ("val", val_rows)):
        write_pickle(folder / f"{name}.pkl", rows, encoded=encode_all(rows))
    (folder / "tokenizer.json").write_text(json.dumps(TOKENIZER_JSON))
    return folder


def command(world, *flags, out="run"):
    paths = ["--data", world / "train.pkl", "--tokenizer", world / "tokenizer.json"]
    return [str(a) for a in (*paths, "--out_dir", world / out, *TINY, *flags)]


def go(world, *flags, out="run"):
    return t.main(command(world, *flags, out=out))


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def timeless(folder):
    return [{k: v for k, v in line.items() if k != "seconds"} for line in lines_of(folder)]


def weights_of(path):
    return torch.load(path, weights_only=True)["model"]


def all_files(folder):
    return {p: p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def assert_same_weights(a, b, exact=True):
    a, b = weights_of(a), weights_of(b)
    assert a.keys() == b.keys()
    for name in a:
        if exact:
            assert torch.equal(a[name], b[name]), name
        else:
            torch.testing.assert_close(a[name], b[name], rtol=1e-3, atol=1e-4)


def interrupt_at_step(monkeypatch, step):
    """Ctrl-C as this step begins."""
    original = t.learning_rate

    def interrupted(now, *args):
        if now == step:
            raise KeyboardInterrupt
        return original(now, *args)

    monkeypatch.setattr(t, "learning_rate", interrupted)


def kill_while_saving(monkeypatch, nth):
    """Ctrl-C as the `nth` training checkpoint is written."""
    original, written = t.save_last, []

    def killed(folder, content):
        written.append(folder)
        if len(written) == nth:
            raise KeyboardInterrupt
        original(folder, content)

    monkeypatch.setattr(t, "save_last", killed)


@pytest.fixture(scope="session")
def shared(tmp_path_factory):
    """One run with three seeds, curriculum, dropout and figures: (world, what it printed)."""
    world = make_world(tmp_path_factory.mktemp("shared"))
    flags = words("--seeds 0-2 --epochs 10 --task_curriculum --d_model 32 --lr 1e-3")
    patch, out = pytest.MonkeyPatch(), io.StringIO()
    patch.setattr("sys.stdout", out)
    rc = go(world, *flags)
    patch.undo()
    assert rc == 0
    return world, out.getvalue()


# 46 rows of copy, rev, add, sort_desc and mul; 10 of copy, and so on, and 4 repeats.
STAGES = [
    {"epoch": 1, "tasks": ["copy"], "rows": 11},
    {"epoch": 2, "tasks": ["copy", "rev"], "rows": 22},
    {"epoch": 3, "tasks": ["copy", "rev", "add"], "rows": 34},
    {"epoch": 4, "tasks": ["copy", "rev", "add", "sort", "mul"], "rows": 47},
]


def test_steps_and_schedule_cover_the_whole_stage_plan(shared):
    folder = shared[0] / "run"
    config = json.loads((folder / "config.json").read_text())
    derived = config["derived"]
    assert derived["stages"] == STAGES
    steps = [math.ceil(rows / 8) for rows in (11, 22, 34, *([47] * 7))]
    assert derived["steps_per_epoch"] == steps
    assert derived["steps_total"] == sum(steps)
    peak = 1e-3 * 1024 / 32
    assert derived["lr_scaled"] == pytest.approx(peak)
    assert derived["lr_min"] == pytest.approx(0.1 * peak)
    for line in lines_of(folder / "seed_1/metrics.jsonl"):
        epoch = line["epoch"]
        assert line["step"] == sum(steps[:epoch])
        assert line["examples_seen"] == sum([11, 22, 34, *([47] * 7)][:epoch])
        assert line["stage"] == min(epoch, 4) - 1
        assert line["tasks"] == STAGES[line["stage"]]["tasks"]
        assert line["lr"] == pytest.approx(
            t.learning_rate(line["step"] - 1, sum(steps), 2, peak, 0.1)
        )
    assert line["lr"] == pytest.approx(0.1 * peak)
    assert "mul" in next(x for x in shared[1].splitlines() if "outside the curriculum" in x)


METRICS_KEYS = set(
    words(
        "epoch step seed stage tasks lr train_loss val_loss val_exact_match val_exact_match_low "
        "val_exact_match_high val_n val_exact_match_seen val_exact_match_by_task val_n_by_task "
        "val_tf_token_acc train_exact_match train_n generalization_gap gap_low gap_high "
        "examples_seen seconds best val_token_accuracy val_edit_distance val_failures"
    )
)


def test_run_folder_of_several_seeds(shared):
    world, said = shared
    run = world / "run"
    config = json.loads((run / "config.json").read_text())
    assert set(config) >= set(words("arguments derived data versions device threads git_commit"))
    derived = config["derived"]
    C, V, d_ff = 32, len(TOKENIZER), 128
    per_layer = C * 3 * C + 3 * C + C * C + C + C * d_ff + d_ff + d_ff * C + C
    assert derived["n_params"] == V * C + per_layer
    assert (derived["vocab_size"], derived["effective_batch"]) == (V, 8)
    assert derived["max_len"] == max(map(len, TRAIN_ROWS + VAL_ROWS)) + t.RUN_ON
    assert config["arguments"]["lr"] == 1e-3
    for name, file in (("train", "train.pkl"), ("val", "val.pkl"), ("tokenizer", "tokenizer.json")):
        assert config["data"][name]["sha256"] == t.sha256_of(world / file)
    for seed in range(3):
        folder = run / f"seed_{seed}"
        files = {p.name for p in folder.iterdir() if p.is_file()}
        expected = "config.json metrics.jsonl samples.jsonl memorization.json best_model.pth"
        assert files == {*expected.split(), "last.pth", "previous.pth", ".lock"}
        assert json.loads((folder / "config.json").read_text())["seed"] == seed
        lines = lines_of(folder / "metrics.jsonl")
        assert [line["epoch"] for line in lines] == list(range(1, 11))
        for line in lines:
            assert set(line) >= METRICS_KEYS
            assert not [k for k in line if "accuracy" in k and k != "val_token_accuracy"]
            assert line["seed"] == seed
            assert line["val_n"] == 12
            assert line["val_n_by_task"] == {"add": 3, "copy": 3, "rev": 3, "sort": 3}
            assert line["val_exact_match_low"] <= line["val_exact_match"]
            assert line["val_exact_match"] <= line["val_exact_match_high"]
            gap = line["train_exact_match"] - line["val_exact_match"]
            assert line["generalization_gap"] == pytest.approx(gap)
            assert line["gap_low"] <= gap <= line["gap_high"]
        samples = lines_of(folder / "samples.jsonl")
        assert len(samples) == 10 * 4
        assert set(samples[0]) == set(words("epoch step task prompt answer prediction correct"))
        for sample in samples:
            assert sample["prompt"] + sample["answer"] in VAL_ROWS[:12]
            assert sample["correct"] == (sample["prediction"] == sample["answer"])
    assert not (run / "metrics.jsonl").exists()
    assert "evaluate_ood.py --model" in said
    seeds = [weights_of(run / f"seed_{s}/best_model.pth")["w_tokens"] for s in range(3)]
    assert seeds[0].shape == (1, V, C)
    assert not torch.equal(seeds[0], seeds[1])


def test_checkpoints_hold_plain_containers_and_what_is_needed(shared):
    folder = shared[0] / "run/seed_2"
    for name in ("best_model.pth", "last.pth", "previous.pth"):
        checkpoint = torch.load(folder / name, weights_only=True)
        assert checkpoint["arch"]["d_model"] == 32
        assert checkpoint["vocab"] == TOKENIZER.itos
        assert checkpoint["seed"] == 2
    assert checkpoint["epoch"] == 9
    last = torch.load(folder / "last.pth", weights_only=True)
    assert (last["epoch"], last["trained_tags"]) == (10, ["add", "copy", "mul", "rev", "sort_desc"])
    assert last["trained_length"] == max(map(len, TRAIN_ROWS))
    model, tokenizer, _ = t.load_model(folder / "last.pth", CPU)
    assert (model.R, tokenizer.itos, model.training) == (1, TOKENIZER.itos, False)


def test_records_agree_with_naive_decoding(shared):
    """The best model, read back and decoded token by token, gives the numbers of its epoch."""
    folder = shared[0] / "run/seed_0"
    model, _, checkpoint = t.load_model(folder / "best_model.pth", CPU)
    line = lines_of(folder / "metrics.jsonl")[checkpoint["epoch"] - 1]
    assert line["best"] is True
    with torch.no_grad():
        right, predictions = {}, {}
        for row in VAL_ROWS:
            prompt, answer = row[: row.rindex("| ") + 2], row[row.rindex("| ") + 2 :]
            ids, _, _ = reference_decode(model, 0, prompt, len(answer))
            predictions[row] = TOKENIZER.decode(ids)
            right[row] = predictions[row] == answer
        unseen = VAL_ROWS[:12]
        assert line["val_exact_match"] == pytest.approx(sum(right[r] for r in unseen) / 12)
        seen = sum(right[row] for row in SEEN_ROWS) / len(SEEN_ROWS)
        assert line["val_exact_match_seen"] == pytest.approx(seen)
        losses = [float(reference_loss(model, 0, [row])) for row in unseen]
        assert line["val_loss"] == pytest.approx(sum(losses) / 12, rel=1e-3)
        hits = n = 0
        for row in unseen:
            logits, targets = reference_answer(model, 0, row)
            hits, n = hits + int((logits.argmax(-1) == targets).sum()), n + len(targets)
        assert line["val_tf_token_acc"] == pytest.approx(hits / n)
        distances = [
            1 - sum(a == b for a, b in zip(p, row.split("| ")[1], strict=False))
            / max(len(p), len(row.split("| ")[1]))
            for row, p in predictions.items()
            if row in unseen
        ]  # fmt: skip
        assert line["val_token_accuracy"] == pytest.approx(1 - sum(distances) / 12)
        for task, rate in line["val_exact_match_by_task"].items():
            rows = [row for row in unseen if row.startswith(f"[{task}")]
            assert rate == pytest.approx(sum(right[row] for row in rows) / len(rows))
        sample = samples.matched_sample(build(TRAIN_ROWS), build(VAL_ROWS), np.arange(12))
        known = []
        for row in (TRAIN_ROWS[i] for i in sample):
            logits, targets = reference_answer(model, 0, row)
            known.append(bool((logits.argmax(-1) == targets).all()))
        assert line["train_exact_match"] == pytest.approx(sum(known) / len(known))
    report = json.loads((folder / "memorization.json").read_text())
    assert report["epoch"] == checkpoint["epoch"]
    assert report["unseen"]["exact_match"] == pytest.approx(line["val_exact_match"])
    assert report["unseen"]["loss"] == pytest.approx(line["val_loss"], rel=1e-4)
    assert report["train"]["exact_match"] == pytest.approx(line["train_exact_match"])
    assert report["seen"]["exact_match"] == pytest.approx(line["val_exact_match_seen"])
    # Two of each of the five tasks; no row of [mul] is repeated, so 2 is left out.
    assert [(g["group"], g["n"]) for g in report["by_repeat_count"]] == [(0, 12), (1, 10)]


def test_a_seed_among_three_equals_the_same_seed_alone(world):
    flags = words("--epochs 3 --dropout 0 --task_curriculum")
    assert go(world, *flags, "--seeds", "0-2", out="three") == 0
    assert go(world, *flags, "--seed", "1", out="one") == 0
    assert go(world, *flags, "--seeds", "1", out="list") == 0
    for name in ("last.pth", "best_model.pth"):
        assert_same_weights(world / "three/seed_1" / name, world / "one" / name, exact=False)
        assert_same_weights(world / "list" / name, world / "one" / name)
    pairs = zip(
        timeless(world / "three/seed_1/metrics.jsonl"),
        timeless(world / "one/metrics.jsonl"),
        strict=True,
    )
    for among, alone in pairs:
        assert among.keys() == alone.keys()
        for key, value in alone.items():
            if isinstance(value, float):
                assert among[key] == pytest.approx(value, rel=1e-3, abs=1e-4), key
            elif not isinstance(value, dict):
                assert among[key] == value, key


def test_second_run_is_refused_and_overwrite_replaces_it(world, capsys):
    assert go(world, "--epochs", "2", "--seeds", "0,1") == 0
    before = all_files(world)
    capsys.readouterr()
    for flags in (["--seeds", "0,1"], ["--seed", "5"], ["--seeds", "5,6"]):
        assert go(world, "--epochs", "1", *flags) == 2
        error = capsys.readouterr().err
        assert all(word in error for word in ("holds a run", "--resume", "--overwrite"))
        assert all_files(world) == before
    (world / "run/plots/deeper").mkdir(parents=True)
    (world / "run/plots/deeper/old.png").write_text("old")
    (world / "run/mine.txt").write_text("kept")
    assert go(world, "--epochs", "1", "--seed", "5", "--overwrite") == 0
    assert len(lines_of(world / "run/metrics.jsonl")) == 1
    assert not run_folder.holds_run(world / "run/seed_0")
    assert not run_folder.holds_run(world / "run/seed_1")
    assert not (world / "run/seed_0").exists()
    assert torch.load(world / "run/previous.pth", weights_only=True)["step"] == 0
    assert (world / "run/mine.txt").read_text() == "kept"


def test_dry_run_writes_nothing_and_says_what_would_run(world, capsys):
    before = all_files(world)
    assert go(world, "--dry_run", "--epochs", "10", "--task_curriculum", "--seeds", "0-2") == 0
    assert all_files(world) == before
    assert not (world / "run").exists()
    said = capsys.readouterr().out
    C, V = 16, len(TOKENIZER)
    n_params = V * C + C * 3 * C + 3 * C + C * C + C + 2 * C * 4 * C + 4 * C + C
    steps = [math.ceil(rows / 8) for rows in (11, 22, 34, *([47] * 7))]
    facts = [f"{n_params:,} parameters", f"{sum(steps):,} of 8", "47 rows", "43 distinct"]
    facts += ["12 of 16 validation rows are unseen", "4 are in the training set", "MiB"]
    facts += [f"({stage['rows']} rows" for stage in STAGES]
    facts += [f"{3e-4 * 1024 / 16:.2e}"]
    assert [fact for fact in facts if fact not in said] == []


def test_no_lr_scaling_takes_the_rate_literally(world):
    assert go(world, "--epochs", "1", "--no_lr_scaling") == 0
    config = json.loads((world / "run/config.json").read_text())
    assert config["derived"]["lr_scaled"] == 3e-4
    assert lines_of(world / "run/metrics.jsonl")[0]["lr"] == pytest.approx(3e-5)


def test_without_generation_its_keys_are_absent(world):
    assert go(world, "--epochs", "1", "--no-autoreg_eval", "--no-show_samples") == 0
    line = lines_of(world / "run/metrics.jsonl")[0]
    generated = {"val_token_accuracy", "val_edit_distance", "val_failures"}
    assert METRICS_KEYS - set(line) == generated


def test_eval_every_validates_every_other_epoch_and_the_last(world):
    assert go(world, "--epochs", "5", "--eval_every", "2") == 0
    lines = lines_of(world / "run/metrics.jsonl")
    validated = [line["epoch"] for line in lines if line.get("val_exact_match") is not None]
    assert validated == [2, 4, 5]
    assert [line["epoch"] for line in lines] == [1, 2, 3, 4, 5]


def test_validation_is_split_into_seen_and_unseen(world, capsys):
    write_pickle(world / "val.pkl", SEEN_ROWS)
    assert go(world, "--epochs", "1") == 0
    said = capsys.readouterr().out
    assert "0 of 4 validation rows are unseen" in said
    assert "the headline goes by the seen ones" in said
    line = lines_of(world / "run/metrics.jsonl")[0]
    assert line["val_n"] == 4
    assert line["val_exact_match_seen"] == line["val_exact_match"]
    report = json.loads((world / "run/memorization.json").read_text())
    assert 0 not in [g["group"] for g in report["by_repeat_count"]]
    write_pickle(world / "val.pkl", VAL_ROWS[:12] + VAL_ROWS[:3])  # repeats count once
    assert go(world, "--epochs", "1", out="unseen") == 0
    line = lines_of(world / "unseen/metrics.jsonl")[0]
    assert (line["val_n"], line["val_exact_match_seen"]) == (12, None)


def test_best_model_holds_the_weights_of_its_epoch(world, monkeypatch):
    """Training is wrecked after the third epoch: the best weights must not be the last ones."""
    steps = math.ceil(len(TRAIN_ROWS) / 8)
    monkeypatch.setattr(t, "learning_rate", lambda step, *_: 0.01 if step < 3 * steps else 2.0)
    assert go(world, "--epochs", "5", out="five") == 0
    lines = lines_of(world / "five/metrics.jsonl")
    ranks = [(line["val_exact_match"], -line["val_loss"]) for line in lines]
    best = 1 + ranks.index(max(ranks))
    assert best <= 3
    checkpoint = torch.load(world / "five/best_model.pth", weights_only=True)
    assert checkpoint["epoch"] == best
    assert [line["epoch"] for line in lines if line["best"]][-1] == best
    assert go(world, "--epochs", str(best), out="short") == 0
    assert_same_weights(world / "five/best_model.pth", world / "short/last.pth")
    last = weights_of(world / "five/last.pth")["w_tokens"]
    assert not torch.equal(checkpoint["model"]["w_tokens"], last)


def test_positions_are_trained_with_each_kind_and_generation_fits_the_table(world):
    """The longest row is a validation row: generation past its end stays inside the table."""
    longest = "[copy] " + "1 " * 20 + "| " + "1 " * 20
    write_pickle(world / "val.pkl", [*VAL_ROWS, longest])
    assert go(world, "--epochs", "1", "--pos", "learned", "--seeds", "0,1") == 0
    examples = build([*VAL_ROWS, longest])
    models = [t.load_model(world / f"run/seed_{s}/last.pth", CPU)[0] for s in (0, 1)]
    both = t.GPT(models[0].config, [0, 1])
    with torch.no_grad():
        for p, *ps in zip(*(m.parameters() for m in (both, *models)), strict=True):
            p.copy_(torch.cat(ps))
    rows = np.broadcast_to(np.arange(len(examples)), (2, len(examples)))
    generated = t.generate(both, examples, rows, TOKENIZER.eos, CPU)
    for r in range(2):
        for i in range(len(examples)):
            prompt, n_answer = examples.prompt(i), len(examples.answer(i))
            assert generated.ids[r][i] == reference_decode(models[r], 0, prompt, n_answer)[0]


# ----------------------------------------------------------------------------------------------
# Resume
# ----------------------------------------------------------------------------------------------


def assert_same_run(whole, resumed, seeds):
    for seed in seeds:
        a, b = (f / f"seed_{seed}" if len(seeds) > 1 else f for f in (whole, resumed))
        assert timeless(a / "metrics.jsonl") == timeless(b / "metrics.jsonl")
        assert timeless(a / "samples.jsonl") == timeless(b / "samples.jsonl")
        for name in ("last.pth", "best_model.pth"):
            assert_same_weights(a / name, b / name)
        one, two = (torch.load(f / "last.pth", weights_only=True) for f in (a, b))
        for key, value in one["replica"].items():
            assert key == "folder" or two["replica"][key] == value, key
        for name, moments in one["optimizer"].items():
            assert moments["step"] == two["optimizer"][name]["step"]
            assert torch.equal(moments["exp_avg"], two["optimizer"][name]["exp_avg"])
        reports = [json.loads((f / "memorization.json").read_text()) for f in (a, b)]
        assert reports[0] == reports[1]


LONG = words("--seeds 0-2 --epochs 5 --task_curriculum --dropout 0.2")


@pytest.fixture(scope="session")
def uninterrupted(tmp_path_factory):
    world = make_world(tmp_path_factory.mktemp("uninterrupted"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plots, "write_figures", lambda *args, **kwargs: [])
        assert go(world, *LONG) == 0
    return world


def resume(world, *flags, out="run"):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plots, "write_figures", lambda *args, **kwargs: [])
        return go(world, *flags, "--resume", out=out)


@pytest.mark.parametrize("step", [3, 8, 14, 20])
def test_resumed_equals_uninterrupted(uninterrupted, world, monkeypatch, capsys, step):
    """Stopped inside epochs 2, 3 and 5 (stages differ); dropout on, three seeds."""
    with monkeypatch.context() as patch:
        interrupt_at_step(patch, step)
        assert go(world, *LONG) == 130
    with open(world / "run/seed_1/metrics.jsonl", "a") as file:
        file.write('{"epoch": 9, "torn')
    assert resume(world, *LONG) == 0
    assert "resuming" in capsys.readouterr().out
    assert_same_run(uninterrupted / "run", world / "run", range(3))


@pytest.mark.parametrize("nth", [5, 7, 8, 9, 12])
def test_resumed_after_a_kill_while_checkpoints_are_written(uninterrupted, world, monkeypatch, nth):
    """The seeds' files are then of two epochs, or one's last.pth is missing."""
    with monkeypatch.context() as patch:
        kill_while_saving(patch, nth)
        assert go(world, *LONG) == 130
    assert resume(world, *LONG) == 0
    assert_same_run(uninterrupted / "run", world / "run", range(3))


def finish_early(monkeypatch, seed, epoch):
    original = t.Replica.judge

    def judge(self, record, *args):
        best = original(self, record, *args)
        if (self.seed, record["epoch"]) == (seed, epoch):
            self.finished = "enough"
        return best

    monkeypatch.setattr(t.Replica, "judge", judge)


@pytest.mark.parametrize("nth", [None, 7, 8])
def test_resumed_equals_uninterrupted_where_one_seed_stops_earlier(world, monkeypatch, nth):
    """Seed 0 ends after epoch 3: stopped in epoch 4 (None), or while epoch 3 is being saved."""
    flags = words("--seeds 0,1 --epochs 5 --dropout 0.2")
    finish_early(monkeypatch, 0, 3)
    assert go(world, *flags, out="whole") == 0
    assert len(lines_of(world / "whole/seed_0/metrics.jsonl")) == 3
    assert len(lines_of(world / "whole/seed_1/metrics.jsonl")) == 5
    with monkeypatch.context() as patch:
        if nth is None:
            interrupt_at_step(patch, 20)
        else:
            kill_while_saving(patch, nth)
        assert go(world, *flags) == 130
    assert resume(world, *flags) == 0
    assert_same_run(world / "whole", world / "run", (0, 1))


def test_resume_remembers_when_it_last_validated(world, monkeypatch):
    flags = words("--epochs 8 --eval_every 2 --patience 4 --min_delta 100")
    assert go(world, *flags, out="whole") == 0
    assert len(lines_of(world / "whole/metrics.jsonl")) == 6  # stale after epochs 3 to 6
    with monkeypatch.context() as patch:
        interrupt_at_step(patch, 3 * math.ceil(len(TRAIN_ROWS) / 8) + 2)
        assert go(world, *flags) == 130
    assert resume(world, *flags) == 0
    assert_same_run(world / "whole", world / "run", (0,))


def test_resume_cuts_batches_as_the_run_began(world, monkeypatch):
    """Free memory and timings differ from one hour to the next; a run's numbers may not."""
    flags = words("--epochs 3 --accumulation_steps 2 --batch_size 4 --dropout 0.2")
    assert go(world, *flags, out="whole") == 0
    with monkeypatch.context() as patch:
        interrupt_at_step(patch, 8)
        assert go(world, *flags) == 130
    monkeypatch.setattr(t, "free_memory_bytes", lambda device: 1000)
    assert resume(world, *flags) == 0
    assert_same_run(world / "whole", world / "run", (0,))


def test_resume_writes_the_report_that_a_kill_prevented(world, monkeypatch):
    with monkeypatch.context() as patch:

        def killed(*args, **kwargs):
            raise KeyboardInterrupt

        patch.setattr(t, "memorization_report", killed)
        assert go(world, "--epochs", "2") == 130
    assert resume(world, "--epochs", "2") == 0
    assert json.loads((world / "run/memorization.json").read_text())["unseen"]["n"] == 12


def test_a_signal_waits_for_the_report_that_is_made_again(world, monkeypatch):
    """Raised inside a library it can come out as another error, as from matplotlib."""
    flags = words("--epochs 1 --seeds 0,1")
    assert go(world, *flags) == 0
    reports = [world / f"run/seed_{seed}/memorization.json" for seed in (0, 1)]
    for report in reports:
        report.unlink()
    real = t.memorization_report

    def interrupted(*args, **kwargs):
        signal.raise_signal(signal.SIGTERM)
        return real(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(t, "memorization_report", interrupted)
        assert resume(world, *flags) == 128 + signal.SIGTERM
    assert [report.exists() for report in reports] == [True, False]
    assert resume(world, *flags) == 0
    assert all(report.exists() for report in reports)


def test_resume_allows_what_does_not_change_the_numbers(uninterrupted, tmp_path, capsys):
    shutil.copytree(uninterrupted, tmp_path / "copy")
    free = words("--no-show_samples --save_every 2 --save_every_steps 7")
    assert resume(tmp_path / "copy", *LONG, *free) == 0
    assert "is finished and left as it is" in capsys.readouterr().out


def test_a_dry_run_tells_that_computing_again_takes_less_memory(world, capsys):
    def told(*flags):
        assert go(world, "--dry_run", "--batch_size", "32", *flags) == 0
        return float(re.search(r"about ([\d,.]+) MiB", capsys.readouterr().out)[1].replace(",", ""))

    wide = words("--d_model 64 --n_layers 8")
    assert told(*wide, "--use_checkpoint") < told(*wide)


def test_resume_of_a_finished_run_changes_nothing(uninterrupted):
    before = all_files(uninterrupted)
    assert resume(uninterrupted, *LONG) == 0
    assert {p: b for p, b in all_files(uninterrupted).items() if p.suffix != ".png"} == before


def test_resume_refuses_other_data_other_arguments_and_nothing(uninterrupted, tmp_path, capsys):
    world = tmp_path / "copy"
    shutil.copytree(uninterrupted, world)
    config = (world / "run/config.json").read_text()
    (world / "run/config.json").write_text(config.replace(str(uninterrupted), str(world)))
    before = all_files(world)

    def refused(*flags, out="run"):
        capsys.readouterr()
        assert resume(world, *flags, out=out) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert error.count("\n") == 1
        assert all_files(world) == before
        return error

    error = refused(*LONG, "--weight_decay", "0.3")
    assert all(word in error for word in ("--weight_decay", "0.01", "0.3"))
    assert "--seeds" in refused(*LONG[2:], "--seeds", "0-1")
    write_pickle(world / "train.pkl", TRAIN_ROWS[::-1])
    before = all_files(world)
    error = refused(*LONG)
    assert all(word in error for word in ("train.pkl", "changed", "--overwrite"))


@pytest.mark.parametrize("nth", [1, 2])
def test_resume_begins_a_run_that_was_killed_before_its_first_checkpoint(world, monkeypatch, nth):
    flags = words("--epochs 2 --seeds 0,1")
    assert go(world, *flags, out="whole") == 0
    with monkeypatch.context() as patch:
        kill_while_saving(patch, nth)
        assert go(world, *flags) == 130
    assert resume(world, *flags) == 0
    assert_same_run(world / "whole", world / "run", (0, 1))


def test_one_command_begins_goes_on_and_leaves_a_finished_run_alone(world, monkeypatch, capsys):
    flags = words("--epochs 3 --dropout 0.1")
    assert go(world, *flags, out="whole") == 0
    with monkeypatch.context() as patch:
        interrupt_at_step(patch, 8)
        assert resume(world, *flags) == 130
    assert resume(world, *flags) == 0
    assert_same_run(world / "whole", world / "run", (0,))
    before = all_files(world)
    capsys.readouterr()
    assert resume(world, *flags) == 0
    assert "finished and left as it is" in capsys.readouterr().out
    assert all_files(world) == before


def test_resume_never_begins_again_where_checkpoints_were_lost(world, capsys):
    flags = words("--epochs 2 --seeds 0,1")
    assert go(world, *flags) == 0
    for name in ("last.pth", "previous.pth"):
        (world / "run/seed_1" / name).unlink()
    before = all_files(world)
    assert resume(world, *flags) == 2
    assert "nothing to resume" in capsys.readouterr().err
    assert all_files(world) == before
    shutil.rmtree(world / "run/seed_1")
    assert resume(world, *flags) == 2
    assert "nothing to resume" in capsys.readouterr().err
    assert (world / "run/seed_0/last.pth").read_bytes() == before[world / "run/seed_0/last.pth"]
    (world / "run/config.json").unlink()
    assert resume(world, *flags) == 2
    assert "config.json" in capsys.readouterr().err


# ----------------------------------------------------------------------------------------------
# Survival: the heavy versions are in tests/faults/test_survive.py
# ----------------------------------------------------------------------------------------------


def at_step(monkeypatch, step, act):
    """Call `act` as this step begins."""
    original = t.learning_rate

    def acting(now, *args):
        if now == step:
            act()
        return original(now, *args)

    monkeypatch.setattr(t, "learning_rate", acting)


@pytest.mark.parametrize("step", [1, 5, 17])
def test_resumed_inside_an_epoch_equals_uninterrupted(uninterrupted, world, monkeypatch, step):
    flags = [*LONG, "--save_every_steps", "2", "--save_every", "9"]
    with monkeypatch.context() as patch:
        interrupt_at_step(patch, step)
        assert go(world, *flags) == 130
    for seed in range(3):
        last = torch.load(world / f"run/seed_{seed}/last.pth", weights_only=True)
        assert last["step"] == step - step % 2
    assert resume(world, *flags) == 0
    assert_same_run(uninterrupted / "run", world / "run", range(3))


def test_killed_twice_between_the_files_of_two_seeds(uninterrupted, world, monkeypatch):
    """The second kill leaves no common step, if the first seed's file of the first one counts."""
    flags = [*LONG, "--save_every_steps", "1"]
    for resumed, nth in ((False, 8), (True, 2), (True, 3)):
        with monkeypatch.context() as patch:
            kill_while_saving(patch, nth)
            assert (resume if resumed else go)(world, *flags) == 130
    assert resume(world, *flags) == 0
    assert_same_run(uninterrupted / "run", world / "run", range(3))


@pytest.mark.skipif(os.name == "nt", reason="needs fork and POSIX signals")
def test_kill_9_changes_nothing(uninterrupted, world):
    from tests.faults.victims import Victims

    flags = [*LONG, "--save_every_steps", "2", "--resume"]
    with Victims() as victims:
        for job in ({"die_at": (5, "torn")}, {"die_at": (8, "renamed")}, {"after": 0.3}):
            code = victims.run(command(world, *flags), world / "log", **job)
            assert code in ((-9, 0) if "after" in job else (-9,)), (world / "log").read_text()
        assert victims.run(command(world, *flags), world / "log") == 0
    assert_same_run(uninterrupted / "run", world / "run", range(3))


SIGNALS = [name for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name)]


@pytest.mark.skipif(os.name == "nt", reason="os.kill ends the process on Windows")
@pytest.mark.parametrize(("name", "step"), list(zip(SIGNALS, (4, 8, 19), strict=False)))
def test_signal_saves_at_the_next_step(uninterrupted, world, monkeypatch, capsys, name, step):
    """Inside an epoch (4, 19), and in the last step of one (8, the 9th: its validation is made)."""
    number = getattr(signal, name)
    handlers = [signal.getsignal(getattr(signal, other)) for other in SIGNALS]
    with monkeypatch.context() as patch:
        at_step(patch, step, lambda: os.kill(os.getpid(), number))
        assert go(world, *LONG) == 128 + number
    assert [signal.getsignal(getattr(signal, other)) for other in SIGNALS] == handlers
    error = capsys.readouterr().err
    assert error.startswith(f"stopped: {name} came and the run is saved at step {step + 1}; ")
    assert error.count("\n") == 1
    assert torch.load(world / "run/seed_2/last.pth", weights_only=True)["step"] == step + 1
    *_, script, resumed = error.strip().partition(str(SCRIPT))
    assert script == str(SCRIPT)
    argv = shlex.split(resumed)
    assert argv == [*command(world, *LONG), "--resume"]
    assert t.main(argv) == 0
    assert_same_run(uninterrupted / "run", world / "run", range(3))


def test_second_ctrl_c_interrupts_at_once():
    with t.StopSignals() as stop:
        stop.can_wait = True
        stop.take(signal.SIGINT, None)
        with pytest.raises(KeyboardInterrupt):
            stop.take(signal.SIGINT, None)
    with t.StopSignals() as stop:
        stop.can_wait = True
        stop.take(signal.SIGTERM, None)
        stop.take(signal.SIGTERM, None)
        with pytest.raises(t.Halt) as halt:
            stop.leave_if_asked("now")
    assert halt.value.code == 128 + signal.SIGTERM


@pytest.mark.parametrize(
    ("key", "value"), [("precision", "foo"), ("micro_batches", 0), ("step_bytes", None)]
)
def test_config_that_was_tampered_with_is_told(world, capsys, key, value):
    assert go(world, "--epochs", "1") == 0
    path = world / "run/config.json"
    config = json.loads(path.read_text())
    if value is None:
        del config["derived"][key]
    else:
        config["derived"][key] = value
    path.write_text(json.dumps(config))
    assert resume(world, "--epochs", "1") == 2
    assert "config.json is damaged" in capsys.readouterr().err


def test_checkpoint_of_another_run_is_not_resumed(world, capsys):
    assert go(world, "--epochs", "1", out="other") == 0
    assert go(world, "--epochs", "1", "--seed", "3") == 0
    shutil.copy(world / "other/last.pth", world / "run/last.pth")
    (world / "run/memorization.json").unlink()
    assert resume(world, "--epochs", "1", "--seed", "3") == 2
    assert "last.pth is of another run" in capsys.readouterr().err


def test_lost_metrics_are_noted_on_resume(world, monkeypatch, capsys):
    at_step(monkeypatch, 8, lambda: os.kill(os.getpid(), signal.SIGINT))
    assert go(world, "--epochs", "3") == 130
    (world / "run/metrics.jsonl").unlink()
    capsys.readouterr()
    assert resume(world, "--epochs", "3") == 0
    assert "metrics.jsonl is gone" in capsys.readouterr().out


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
        return b + x @ w

    monkeypatch.setattr(torch, "baddbmm", product)
    monkeypatch.setattr(t, "cpu_bf16_instructions", lambda: isa)
    t.onednn_keeps_fp32.cache_clear()
    try:
        assert t.onednn_keeps_fp32() is asked
    finally:
        t.onednn_keeps_fp32.cache_clear()


def test_signal_before_training_ends_the_run_at_once():
    with t.StopSignals() as stop, pytest.raises(t.Halt, match="SIGTERM came before") as halt:
        stop.take(signal.SIGTERM, None)
    assert halt.value.code == 128 + signal.SIGTERM


def test_a_signal_is_no_error_of_the_code_it_comes_in():
    with t.StopSignals() as stop, pytest.raises(t.Halt), contextlib.suppress(Exception):
        stop.take(signal.SIGTERM, None)  # the library that catches all gets out of the way


def test_signals_outside_the_main_thread_are_left_alone():
    before, seen = signal.getsignal(signal.SIGINT), []

    def work():
        with t.StopSignals() as stop:
            seen.append((signal.getsignal(signal.SIGINT), stop.received))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(before, None)]


@pytest.mark.skipif(os.name == "nt", reason="os.kill ends the process on Windows")
def test_signal_during_the_report_is_made_up_for(uninterrupted, world, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        original = t.memorization_report

        def signalled(*args):
            os.kill(os.getpid(), signal.SIGTERM)
            return original(*args)

        patch.setattr(t, "memorization_report", signalled)
        assert go(world, *LONG) == 143
    assert (world / "run/seed_0/memorization.json").exists()
    assert not (world / "run/seed_1/memorization.json").exists()
    assert resume(world, *LONG) == 0
    assert "its report and figures are made again" in capsys.readouterr().out
    assert_same_run(uninterrupted / "run", world / "run", range(3))


def test_command_to_resume_leaves_overwrite_out():
    line = t.resume_command(["--out_dir", "a b", "--overwrite", "--resume", "--epochs", "2"])
    assert shlex.split(line)[2:] == ["--out_dir", "a b", "--epochs", "2", "--resume"]


def test_every_truncation_and_bit_flip_of_a_checkpoint_is_noticed(shared, tmp_path):
    whole = (shared[0] / "run/seed_0/best_model.pth").read_bytes()
    run_folder.check_bytes(whole)
    rng = random.Random(0)
    for size in [
        *rng.sample(range(len(whole)), 40),
        len(whole) - run_folder.HASH_BYTES,
        len(whole) - 1,
    ]:
        with pytest.raises((ValueError, zipfile.BadZipFile)):
            run_folder.check_bytes(whole[:size])
    n_end = run_folder.HASH_BYTES + 22  # each bit of the archive's end and the hash, and 100 others
    bits = [
        *rng.sample(range(8 * len(whole)), 100),
        *range(8 * (len(whole) - n_end), 8 * len(whole)),
    ]
    for bit in bits:
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises((ValueError, zipfile.BadZipFile)):
            run_folder.check_bytes(bytes(flipped))
    path = tmp_path / "model.pth"
    path.write_bytes(bytes(flipped))
    with pytest.raises(t.UserError, match=r"model\.pth .* damaged .*hash"):
        t.load_model(path, CPU)


def test_checkpoint_without_a_hash_is_checked_by_the_sums_of_its_archive(shared, tmp_path):
    path, content = tmp_path / "model.pth", shared[0] / "run/seed_0/best_model.pth"
    torch.save(torch.load(content, weights_only=True), path)
    t.load_model(path, CPU)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(t.UserError, match=r"model\.pth .* damaged"):
        t.load_model(path, CPU)


@pytest.mark.parametrize("name", ["torn", "flipped"])
def test_damaged_checkpoint_is_named_and_the_one_before_it_taken(
    uninterrupted, world, monkeypatch, capsys, name
):
    with monkeypatch.context() as patch:
        interrupt_at_step(patch, 14)
        assert go(world, *LONG) == 130
    path = world / "run/seed_1/last.pth"
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 16
    path.write_bytes(data if name == "flipped" else data[: len(data) // 2])
    assert resume(world, *LONG) == 0
    notes = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note: ")]
    assert len(notes) == 1
    assert str(path) in notes[0]
    assert "the one before it is taken" in notes[0]
    assert_same_run(uninterrupted / "run", world / "run", range(3))


def full_disk_from(monkeypatch, name):
    """From the first time that a file called `name` is written there is no room left."""
    full, original = [], os.fsync

    def fsync(fd):
        if full or name in os.path.basename(os.readlink(f"/proc/self/fd/{fd}")):
            full.append(fd)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        original(fd)

    monkeypatch.setattr(os, "fsync", fsync)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="names a file by its descriptor")
@pytest.mark.parametrize("name", ["next.pth", "best_model.pth", "metrics.jsonl"])
def test_full_disk_keeps_what_was_saved(uninterrupted, world, monkeypatch, capsys, name):
    kept = ("last.pth", "previous.pth")
    with monkeypatch.context() as patch:
        interrupt_at_step(patch, 14)
        assert go(world, *LONG) == 130
    folders = [world / f"run/seed_{seed}" for seed in range(3)]
    before = [[(f / name).read_bytes() for name in kept] for f in folders]
    with monkeypatch.context() as patch:
        full_disk_from(patch, name)
        capsys.readouterr()
        assert resume(world, *LONG) == 5
    error = capsys.readouterr().err
    assert error.startswith(f"stopped: cannot write in {world / 'run'} (No space left on device);")
    assert error.count("\n") == 1
    assert [[(f / name).read_bytes() for name in kept] for f in folders] == before
    assert list(world.rglob("*.tmp")) == []
    for folder in folders:
        t.load_model(folder / "best_model.pth", CPU)
    assert resume(world, *LONG) == 0
    assert_same_run(uninterrupted / "run", world / "run", range(3))


def test_run_folder_that_vanishes_is_not_made_again(world, monkeypatch, capsys):
    at_step(monkeypatch, 3, lambda: shutil.rmtree(world / "run"))
    assert go(world, "--epochs", "2", "--save_every_steps", "1") == 5
    assert "cannot write in" in capsys.readouterr().err
    assert not (world / "run").exists()


def poison(monkeypatch, seed_index, step, name):
    """In the `step`-th step from now the gradient of one replica's parameter is not a number."""
    original, steps = t.clip_gradients, []

    def clip(model, max_norm):
        steps.append(1)
        if len(steps) == step:
            model.get_parameter(name).grad[seed_index].view(-1)[0] = math.nan
        return original(model, max_norm)

    monkeypatch.setattr(t, "clip_gradients", clip)


@pytest.mark.parametrize("step", [8, 12], ids=["inside an epoch", "at its end"])
def test_only_the_sick_replica_stops(world, monkeypatch, capsys, step):
    """Seed 5 of 4-6; the others go on as if its gradient had been sound to the end of that step."""
    flags = words("--seeds 4-6 --epochs 4 --save_every 4 --dropout 0.2")
    with monkeypatch.context() as patch:
        poison(patch, 1, step, "blocks.0.w_up")
        assert go(world, *flags, out="sick") == 3
    error = capsys.readouterr().err
    assert error.startswith("stopped: seed 5 diverged: the gradient of blocks.0.w_up is not finite")
    assert all(part in error for part in (f"at step {step} (epoch 2, ", "learning rate", "step 0"))
    assert error.count("\n") == 1
    last = torch.load(world / "sick/seed_5/last.pth", weights_only=True)
    assert all(p.isfinite().all() for p in last["model"].values())
    assert [line["epoch"] for line in lines_of(world / "sick/seed_5/metrics.jsonl")] == [1]
    for seed in (4, 5, 6):
        report = json.loads((world / f"sick/seed_{seed}/memorization.json").read_text())
        lines = lines_of(world / f"sick/seed_{seed}/metrics.jsonl")
        best = max(lines, key=lambda line: (line["val_exact_match"], -line["val_loss"]))
        assert report["epoch"] == best["epoch"]
        assert len(lines) == (1 if seed == 5 else 4)

    # The very same, but for a seed that is taken out of the stack with sound gradients.
    original = t.note_sick

    def taken_out(run, loss, norms):
        original(run, loss, norms)
        if run.step == step:
            run.sick_since[1] = step

    with monkeypatch.context() as patch:
        patch.setattr(t, "note_sick", taken_out)
        assert go(world, *flags, out="sound") == 3
    for seed in (4, 6):
        a, b = world / f"sick/seed_{seed}", world / f"sound/seed_{seed}"
        assert timeless(a / "metrics.jsonl") == timeless(b / "metrics.jsonl")
        assert_same_weights(a / "last.pth", b / "last.pth")

    before = all_files(world)
    assert resume(world, *flags, out="sick") == 3
    assert capsys.readouterr().err.splitlines()[-1].startswith("stopped: seed 5 diverged")
    assert all_files(world) == before


def test_resumed_equals_uninterrupted_where_a_seed_diverges(world, monkeypatch):
    """Killed while the sick seed, or one of the others, is saved: all are then as before it."""
    flags = words("--seeds 4-6 --epochs 3 --dropout 0.2 --save_every_steps 4")

    def train(call, out, nth=None):
        with monkeypatch.context() as patch:
            spoil = [lambda: poison(patch, 1, 1, "w_tokens")]
            at_step(patch, 9, lambda: spoil and spoil.pop()())
            if nth:
                kill_while_saving(patch, nth)
            return call(world, *flags, out=out)

    assert train(go, "whole") == 3
    # Saves: three each at steps 0, 4, 6 and 8, then the sick one's and the two others' at step 10.
    for nth in (13, 14, 15):
        assert train(go, f"run{nth}", nth) == 130
        assert train(resume, f"run{nth}") == 3
        for seed in (4, 5, 6):
            a, b = world / f"whole/seed_{seed}", world / f"run{nth}/seed_{seed}"
            assert timeless(a / "metrics.jsonl") == timeless(b / "metrics.jsonl")
            for name in ("last.pth", "best_model.pth"):
                assert_same_weights(a / name, b / name)


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


HOLD = """
import sys, time
from filelock import FileLock
with FileLock(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_folder_in_use_is_refused_until_its_process_is_gone(world, capsys):
    flags = words("--epochs 1 --seeds 0,1")
    assert go(world, *flags) == 0
    lock = world / "run/seed_1/.lock"
    child = subprocess.Popen([sys.executable, "-c", HOLD, lock], stdout=subprocess.PIPE)
    try:
        assert child.stdout.readline().strip() == b"held"
        before = all_files(world)
        for flag in ([], ["--resume"], ["--overwrite"]):
            capsys.readouterr()
            assert go(world, *flags, *flag) == 4
            error = capsys.readouterr().err
            assert "another process is training in" in error
            assert "seed_1" in error
            assert error.count("\n") == 1
            assert all_files(world) == before
    finally:
        child.kill()
        child.wait()
        child.stdout.close()
    assert go(world, *flags, "--resume") == 0


@pytest.mark.parametrize("flags", [[], ["--resume"], ["--overwrite"]])
def test_other_seeds_do_not_start_in_a_folder_where_a_run_is_starting(world, capsys, flags):
    """The first has its lock and no file yet: both would write config.json."""
    (world / "run").mkdir()
    with FileLock(world / "run/.lock"):
        assert go(world, *words("--epochs 1 --seeds 2,3"), *flags) == 4
        assert "another process is training in" in capsys.readouterr().err
        assert [path.name for path in (world / "run").iterdir()] == [".lock"]


@pytest.mark.skipif(sys.platform == "win32", reason="locks of Windows need no flock")
def test_a_file_system_without_locks_is_refused(world, monkeypatch, capsys):
    import fcntl

    def flock(*_):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", flock)
    assert go(world, *words("--epochs 1")) == 2
    assert "has no file locks" in capsys.readouterr().err


def test_lines_that_are_no_records_are_cut(tmp_path):
    kept = '{"step": 3, "epoch": 1}\n'
    path = tmp_path / "metrics.jsonl"
    for line in (
        "5",
        "null",
        "[]",
        '"step"',
        "{}",
        '{"step": "3"}',
        '{"step": null}',
        '{"step": 4}',
    ):
        path.write_text(f"{line}\n{kept}{line}\n" + '{"step": 2, "to')
        t.cut_lines_after(path, 3)
        assert path.read_text() == kept, line


# ----------------------------------------------------------------------------------------------
# Mistakes and mishaps
# ----------------------------------------------------------------------------------------------


def spoil(name, content):
    def prepare(world):
        path = world / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())

    return prepare


def rows_in(name, rows, **more):
    return lambda world: write_pickle(world / name, rows, **more)


def nothing(world):
    return None


SMALL_TOKENIZER = json.dumps({"stoi": {"<pad>": 0, "<unk>": 1, "7": 2}})
MISTAKES = {
    "no training set": (lambda w: (w / "train.pkl").unlink(), [], ["train.pkl", "exist"]),
    "no validation set": (lambda w: (w / "val.pkl").unlink(), [], ["val.pkl", "exist"]),
    "no tokenizer": (lambda w: (w / "tokenizer.json").unlink(), [], ["tokenizer.json", "exist"]),
    "wrong shape": (spoil("train.pkl", pickle.dumps([1])), [], ["train.pkl", "raw"]),
    "no pickle": (spoil("train.pkl", b"hello"), [], ["train.pkl"]),
    "a global": (
        spoil("val.pkl", pickle.dumps({"raw": [Path("x")]})),
        [],
        ["val.pkl", "lists, dicts"],
    ),
    "no tokenizer in it": (spoil("tokenizer.json", "{}"), [], ["tokenizer.json"]),
    "unknown characters": (
        rows_in("train.pkl", [*TRAIN_ROWS, "[copy] é | é"]),
        [],
        ["train.pkl", f"row {len(TRAIN_ROWS)}", "é", "tokenizer"],
    ),
    "unknown characters in validation": (
        rows_in("val.pkl", [*VAL_ROWS, "[copy] é | é"]),
        [],
        ["val.pkl", f"row {len(VAL_ROWS)}", "tokenizer"],
    ),
    "another tokenizer": (spoil("tokenizer.json", SMALL_TOKENIZER), [], ["row 0", "tokenizer"]),
    "row without a bar": (rows_in("train.pkl", ["[copy] 1 1"]), [], ["train.pkl", "row 0"]),
    "no rows": (rows_in("train.pkl", []), [], ["train.pkl", "no examples"]),
    "no validation rows": (rows_in("val.pkl", []), [], ["val.pkl", "no examples"]),
    "validation of another task": (
        rows_in("val.pkl", draw_rows(6, 0, ("rel",))),
        [],
        ["val.pkl", "tags"],
    ),
    "heads": (nothing, ["--n_heads", "3"], ["--d_model 16", "--n_heads"]),
    "too long": (nothing, ["--max_len", "20"], ["row", "train.pkl", "--max_len 20"]),
    "too long in validation": (
        rows_in("val.pkl", ["[copy] " + "1" * 99 + " | 1"]),
        ["--max_len", "60"],
        ["row 0", "val.pkl", "--max_len 60"],
    ),
    "no such GPU": (nothing, ["--device", "cuda:99"], ["--device cuda:99", "CUDA"]),
    "no such device": (nothing, ["--device", "toaster"], ["--device toaster"]),
    "fp16 on CPU": (nothing, ["--amp", "fp16"], ["--amp fp16"]),
    "curriculum too long": (
        nothing,
        ["--task_curriculum", "--epochs", "5", "--task_curriculum_epochs", "20"],
        ["20 epochs", "--epochs 5", "--task_curriculum_epochs"],
    ),
    "warm-up too long": (nothing, ["--warmup_steps", "5000"], ["--warmup_steps 5000"]),
    "a file as run folder": (spoil("run", "a file"), [], ["run"]),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_errors_are_one_sentence_and_write_nothing(world, capsys, mistake):
    prepare, flags, facts = MISTAKES[mistake]
    prepare(world)
    before = all_files(world)
    assert go(world, *flags) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert [fact for fact in facts if fact not in error] == []
    assert all_files(world) == before
    assert not (world / "run").is_dir()


@pytest.mark.parametrize(
    ("name", "local_rank", "index"),
    [("auto", None, 0), ("auto", 1, 1), ("cuda", 1, 1), ("cuda:1", None, 1)],
)
def test_a_gpu_goes_by_its_number_and_is_made_the_current_one(name, local_rank, index, monkeypatch):
    current = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    torch.backends.cuda.enable_cudnn_sdp(True)
    team = t.World(local_rank=local_rank)
    assert t.choose_device(name, team) == torch.device("cuda", index)
    assert current == [torch.device("cuda", index)]
    assert not torch.backends.cuda.cudnn_sdp_enabled()
    torch.backends.cuda.enable_cudnn_sdp(True)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is there")
def test_cuda_asked_for_and_absent(world, capsys):
    assert go(world, "--device", "cuda") == 2
    assert "--device cuda was asked for" in capsys.readouterr().err


@pytest.mark.parametrize(
    "flags",
    [
        ["--epochs", "0"],
        ["--lr", "0"],
        ["--lr", "nan"],
        ["--dropout", "1"],
        ["--dropout", "-0.1"],
        ["--batch_size", "2.5"],
        ["--min_lr_ratio", "1.5"],
        ["--seeds", "3-1"],
        ["--seeds", "1,1"],
        ["--seeds", "x"],
        ["--seed", "-1"],
        ["--pos", "sinus"],
        ["--no_such_flag"],
    ],
    ids=" ".join,
)
def test_impossible_values_are_refused_by_the_parser(world, flags):
    assert go(world, *flags) == 2
    assert not (world / "run").exists()


def test_seed_lists():
    assert t.seed_list("0-3") == [0, 1, 2, 3]
    assert t.seed_list("5") == [5]
    assert t.seed_list("1,4-6,9") == [1, 4, 5, 6, 9]


@pytest.mark.parametrize("flags", [[], ["--seeds", "4,7"]], ids=["one seed", "two seeds"])
def test_loss_that_is_not_a_number_stops_the_run(world, monkeypatch, capsys, flags):
    """The checkpoint of the last good epoch stays as it was."""
    steps = math.ceil(len(TRAIN_ROWS) / 8)
    with monkeypatch.context() as patch:
        patch.setattr(t, "learning_rate", lambda step, *_: 0.01 if step <= 2 * steps else math.inf)
        assert go(world, "--epochs", "4", *flags) == 3
    error = capsys.readouterr().err
    assert error.startswith("stopped: ")
    assert error.count("\n") == 1
    # The step with the infinite rate spoils the weights; the one after it shows.
    assert re.search(rf"\bstep {2 * steps + 3}\b", error)
    for folder in [world / "run/seed_4", world / "run/seed_7"] if flags else [world / "run"]:
        last = torch.load(folder / "last.pth", weights_only=True)
        assert last["epoch"] == 2
        assert all(w.isfinite().all() for w in last["model"].values())
        assert [line["epoch"] for line in lines_of(folder / "metrics.jsonl")] == [1, 2]


def test_loss_that_is_not_a_number_in_the_first_epoch_keeps_the_weights_of_the_start(
    world, monkeypatch, capsys
):
    monkeypatch.setattr(t, "learning_rate", lambda *_: math.inf)
    assert go(world, "--epochs", "2") == 3
    error = capsys.readouterr().err
    assert "step 2" in error
    assert "of step 0" in error
    start = t.GPT(t.load_model(world / "run/last.pth", CPU)[0].config, [0])
    for name, p in weights_of(world / "run/last.pth").items():
        assert torch.equal(p, start.get_parameter(name))
    assert not (world / "run/best_model.pth").exists()
    assert not (world / "run/memorization.json").exists()


def test_damaged_checkpoints_are_user_errors(shared, tmp_path):
    whole = (shared[0] / "run/seed_0/best_model.pth").read_bytes()
    path = tmp_path / "model.pth"
    content = torch.load(shared[0] / "run/seed_0/best_model.pth", weights_only=True)
    cases = [
        b"",
        b"hello",
        whole[: len(whole) // 2],
        pickle.dumps({"model": Malicious("x")}, protocol=2),
    ]
    wrong_width = {**content, "arch": {**content["arch"], "d_model": 48}}
    for other in ([1], {**content, "arch": {}}, wrong_width, {**content, "model": {}}):
        buffer = io.BytesIO()
        torch.save(other, buffer)
        cases.append(buffer.getvalue())
    for case in cases:
        path.write_bytes(case)
        with pytest.raises(t.UserError, match=r"model\.pth"):
            t.load_model(path, CPU)
    buffer = io.BytesIO()
    torch.save({**content, "extra": Malicious(tmp_path / "ran")}, buffer)
    path.write_bytes(buffer.getvalue())
    with pytest.raises(t.UserError, match=r"model\.pth"):
        t.load_model(path, CPU)
    assert not (tmp_path / "ran").exists()


def test_hostile_checkpoints_do_nothing_and_are_told(tmp_path, monkeypatch):
    """The short campaign, in this process; the long one is tests/faults/test_hostile_files.py."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.pth").write_bytes(hostile.saved(hostile.honest_checkpoint()))
    assert t.read_checkpoint("model.pth")["epoch"] == 1
    for name, data, what in hostile.craft_checkpoints(100):
        (tmp_path / "model.pth").write_bytes(data)
        try:
            t.read_checkpoint("model.pth")
        except t.UserError as error:
            assert "model.pth" in str(error), name  # noqa: PT017
        else:
            assert what == "any", name
    assert os.listdir(tmp_path) == ["model.pth"]


def test_an_archive_that_unpacks_to_more_than_its_size_is_refused(tmp_path):
    whole = hostile.saved(hostile.honest_checkpoint())
    path = tmp_path / "model.pth"
    for data in (
        hostile.rezipped(whole, zipfile.ZIP_DEFLATED),
        hostile.rezipped(whole, zipfile.ZIP_DEFLATED, data_pkl=b"N" * 2**24),
    ):
        path.write_bytes(data)
        with pytest.raises(t.UserError, match="larger inside"):
            t.read_checkpoint(path)


@pytest.mark.parametrize(
    ("change", "fact"),
    [
        ({"n_layers": 10**9}, "go together"),
        ({"n_heads": 3}, "go together"),
        ({"n_heads": 0}, "above 0"),
        ({"d_model": 8.0}, "above 0"),
        ({"d_ff": 10**9}, "size mismatch"),
        ({"d_model": 10**6}, "size mismatch"),
    ],
    ids=str,
)
def test_an_architecture_that_the_weights_do_not_have_allocates_nothing(tmp_path, change, fact):
    content = hostile.honest_checkpoint()
    content["arch"] |= change
    path = tmp_path / "model.pth"
    path.write_bytes(hostile.saved(content))
    with pytest.raises(t.UserError, match=rf"model\.pth .*{fact}"):
        t.load_model(path, CPU)


def test_a_weight_that_only_seems_large_is_refused(tmp_path):
    content = hostile.honest_checkpoint()
    content["arch"]["d_ff"] = 10**12
    content["model"]["blocks.0.w_up"] = torch.zeros(1).expand(1, 8, 10**12)
    path = tmp_path / "model.pth"
    path.write_bytes(hostile.saved(content))
    with pytest.raises(t.UserError, match=r"model\.pth .*number by number"):
        t.load_model(path, CPU)
    content["model"]["blocks.0.w_up"] = "a text"
    path.write_bytes(hostile.saved(content))
    with pytest.raises(t.UserError, match=r"model\.pth"):
        t.load_model(path, CPU)


def test_no_path_falls_back_to_unsafe_loading():
    """Every `torch.load` says weights_only=True, and pickles are read by data/formats.py alone."""
    scripts = [*SCRIPT.parent.glob("*.py"), *SCRIPT.parent.glob("data/*.py")]
    calls = [
        (path.name, node)
        for path in scripts
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
    ]
    loads = [(name, node) for name, node in calls if ast.unparse(node.func) == "torch.load"]
    assert loads
    for name, node in loads:
        options = {k.arg: ast.unparse(k.value) for k in node.keywords}
        assert options["weights_only"] == "True", (name, node.lineno)
    unsafe = {"pickle.load", "pickle.loads", "torch.jit.load", "np.load", "eval", "exec"}
    assert [(name, n.lineno) for name, n in calls if ast.unparse(n.func) in unsafe] == []


# ----------------------------------------------------------------------------------------------
# Flags
# ----------------------------------------------------------------------------------------------


def test_every_declared_flag_is_read():
    read = set(re.findall(r"\bargs\.(\w+)", SCRIPT.read_text(encoding="utf-8")))
    declared = {a.dest for a in t.build_parser()._actions} - {"help"}
    assert declared - read == set()
    assert read - declared == set()


USERS_FLAGS = (
    "data tokenizer out_dir epochs lr warmup_steps patience d_model n_layers n_heads batch_size "
    "accumulation_steps label_smoothing dropout task_curriculum show_samples autoreg_eval "
    "val_data seed seeds d_ff max_len pos use_swiglu weight_decay min_lr_ratio max_grad_norm "
    "min_delta task_curriculum_epochs eval_every save_every device amp compile use_checkpoint "
    "resume overwrite no_lr_scaling tensorboard dry_run"
)


def test_flags_asked_for_exist_and_the_second_command_is_the_default():
    defaults = vars(t.build_parser().parse_args([]))
    assert set(USERS_FLAGS.split()) <= set(defaults)
    second = """--data data/add_only/train.pkl --tokenizer data/add_only/tokenizer.json
      --out_dir runs/step1_add_only --epochs 30 --lr 1e-4 --warmup_steps 200 --patience 10
      --d_model 128 --n_layers 4 --n_heads 4 --batch_size 32 --accumulation_steps 1
      --label_smoothing 0.0 --dropout 0.1 --show_samples --autoreg_eval"""
    assert vars(t.build_parser().parse_args(second.split())) == defaults


def test_readme_names_only_flags_that_exist():
    readme = SCRIPT.with_name("README.md")
    if not readme.exists():
        pytest.skip("no README yet")
    rows = [
        line for line in readme.read_text(encoding="utf-8").splitlines() if line.startswith("|")
    ]
    named = {flag for row in rows for flag in re.findall(r"`--(\w+)", row)}
    assert named, "README has no table of flags"
    text = t.build_parser().format_help()
    assert [flag for flag in sorted(named) if f"--{flag}" not in text] == []


# ----------------------------------------------------------------------------------------------
# GPU
# ----------------------------------------------------------------------------------------------


def static_and_eager(device, dropout, R, precision="fp32", use_graph=False, n=30):
    """(losses and norms [steps, 2, R], model) of two epochs by StaticSteps, then by EagerSteps."""
    examples, found, device = build(draw_rows(n, seed=12)), [], t.choose_device(device)
    orders = [
        np.stack([np.random.default_rng([r, e]).permutation(n) for r in range(R)]) for e in range(2)
    ]
    for kind in (t.StaticSteps, t.EagerSteps):
        model = make_model(seeds=tuple(range(R)), dropout=dropout).to(device).train()
        model.set_precision(precision)
        lr = torch.zeros((), device=device) if use_graph else 0.0
        optimizer = t.make_optimizer(model, 0.01, lr if kind is t.StaticSteps else 0.0)
        scaler = torch.amp.GradScaler(device.type, enabled=False)
        steps = kind(model, optimizer, scaler, t.Resident(examples, device), 8, 1, 0.0, 1.0)
        steps.use_graph = use_graph
        results = []
        for epoch, order in enumerate(orders):
            steps.begin_epoch(order)
            for i in range(-(-n // 8)):  # the last batch has 6 of 8 rows, or 5
                loss, norms = steps.step(i, 1e-3 * (i + 1), (0, 4 * epoch + i))
                results.append(torch.stack([loss, norms]).cpu().clone())
        found.append((torch.stack(results), model))
    return found


@pytest.mark.parametrize(("R", "n"), [(1, 30), (3, 30), (2, 5)])
def test_steps_of_fixed_shape_equal_steps_of_their_own_shape(R, n):
    (static, one), (eager, other) = static_and_eager("cpu", 0.0, R, n=n)
    torch.testing.assert_close(static, eager, rtol=1e-4, atol=1e-5)
    for (name, p), q in zip(one.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-3, atol=2e-4, msg=name)


@pytest.mark.parametrize("captures", [True, False])
def test_a_graph_is_captured_after_warming_up_and_given_up_once_it_fails(monkeypatch, captures):
    told = []

    def on_capture_stream(step, device):
        told.append("warm-up")
        step()

    class Graph:
        def __init__(self, step):
            self.step = step

        def replay(self):
            told.append("replay")
            self.step()

    def capture(step, device):
        told.append("capture")
        return Graph(step) if captures else None

    monkeypatch.setattr(t, "on_capture_stream", on_capture_stream)
    monkeypatch.setattr(t, "capture", capture)
    (static, _), (eager, _) = static_and_eager("cpu", 0.0, 2, use_graph=True, n=48)
    torch.testing.assert_close(static, eager, rtol=1e-4, atol=1e-5)
    first = [*3 * ["warm-up"], "capture"]  # 6 steps an epoch
    later = [*3 * ["replay"], "warm-up", "capture", *5 * ["replay"]]
    assert told == (first + later if captures else first)


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("R", [1, 3])
def test_a_cuda_graph_does_the_eager_steps(R, precision, monkeypatch):
    monkeypatch.setattr(t.tqdm, "write", pytest.fail)  # so it says that there is no graph
    (graph, _), (eager, _) = static_and_eager("cuda", 0.0, R, precision, use_graph=True)
    tolerance = 1e-4 if precision == "fp32" else 2e-2
    torch.testing.assert_close(graph, eager, rtol=tolerance, atol=tolerance)


@pytest.mark.gpu
@needs_gpu
def test_a_cuda_graph_drops_something_else_at_each_step(monkeypatch):
    monkeypatch.setattr(t.tqdm, "write", pytest.fail)
    (graph, _), (eager, _) = static_and_eager("cuda", 0.5, 1, use_graph=True, n=64)
    assert len({round(float(loss), 6) for loss in graph[:, 0, 0]}) == len(graph)
    assert graph[:, 0].mean().item() == pytest.approx(eager[:, 0].mean().item(), rel=0.1)


@pytest.mark.gpu
@needs_gpu
def test_where_no_graph_can_be_captured_the_steps_are_the_same(monkeypatch, capsys):
    real = t.lay_rows

    def waits(data, rows, *args):
        float(rows.sum())  # no capture survives a read
        return real(data, rows, *args)

    monkeypatch.setattr(t, "lay_rows", waits)
    (graph, _), (eager, _) = static_and_eager("cuda", 0.0, 1, use_graph=True)
    torch.testing.assert_close(graph, eager, rtol=1e-4, atol=1e-4)
    assert capsys.readouterr().out.count("note: no CUDA graph") == 1
    assert torch.cuda.current_stream() == torch.cuda.default_stream()
    F.dropout(torch.ones(4, device="cuda")).sum().item()


@pytest.mark.gpu
@needs_gpu
def test_a_model_of_50_million_parameters_trains_at_batch_128_within_8_gb(monkeypatch):
    monkeypatch.setattr(t.tqdm, "write", pytest.fail)
    # The card the script is named after is sold with 8 GB (laptops) and 12 GB.
    rng = random.Random(1)
    examples = build([draw_example(rng, TASKS[i % len(TASKS)]) for i in range(2_000)])
    config = t.GPTConfig(len(TOKENIZER), 128, 512, 16, 8, 2048, dropout=0.1)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    device = t.choose_device("cuda")
    model = t.GPT(config, [0]).to(device).train()
    model.set_precision("bf16")
    optimizer = t.make_optimizer(model, 0.01, torch.zeros((), device=device))
    scaler = torch.amp.GradScaler("cuda", enabled=False)
    steps = t.StaticSteps(model, optimizer, scaler, t.Resident(examples, device), 128, 1, 0.0, 1.0)
    steps.begin_epoch(np.arange(2_000)[None])
    for i in range(8):
        steps.step(i, 1e-4, (0, i))
    torch.cuda.synchronize()
    assert model.n_params() > 50e6
    peak, n_tokens = torch.cuda.max_memory_reserved(), len(steps.layout.pos)
    assert peak < 8e9
    expected = t.memory_bytes(config, model.n_params(), 1, n_tokens, "bf16", device)
    assert torch.cuda.max_memory_allocated() == pytest.approx(expected, rel=0.15)


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_step_on_a_gpu_equals_one_on_the_cpu(precision):
    examples = build(["[copy] 1 2 3 | 1 2 3", "[add] 12 + 9 | 21", "[rev] 1 2 | 2 1"])
    rows, losses, norms = np.array([[0, 1, 2], [2, 0, 1]]), {}, {}
    for name in ("cpu", "cuda"):
        device = t.choose_device(name)
        model = make_model(seeds=(0, 1)).to(device).train()
        model.set_precision(precision)
        optimizer = t.make_optimizer(model, 0.01)
        t.set_learning_rate(optimizer, 1e-3)
        scaler = torch.amp.GradScaler(name, enabled=False)
        for _ in range(3):
            batches = [t.make_batch(t.Resident(examples, device), rows)]
            loss, norm = t.train_step(model, optimizer, scaler, batches, 0.0, 1.0)
        losses[name], norms[name] = loss.cpu(), norm.cpu()
    tolerance = 1e-4 if precision == "fp32" else 2e-2
    torch.testing.assert_close(losses["cuda"], losses["cpu"], rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(norms["cuda"], norms["cpu"], rtol=5 * tolerance, atol=5 * tolerance)


def test_the_table_tells_seeds_apart_and_a_single_task_once():
    def report(rate, tasks):
        stats = {"n": 10, "exact_match": rate, "exact_match_low": 0.1, "exact_match_high": 0.9}
        gap = {"gap": 0.1, "low": 0.0, "high": 0.2, "train": 0.6, "unseen": 0.5}
        by_task = [{"group": task, **stats} for task in tasks]
        return {"by_task": by_task, "unseen": stats, "seen": None, "gap": gap, "epoch": 7}

    _, row, gap = t.results_table([report(0.5, ["add"])], [4])
    assert row.split() == ["add", "10", "50.0%", "[10.0%,", "90.0%]"]
    assert gap.startswith("generalization gap +10.0% [+0.0%, +20.0%]: 60.0% on training")
    lines = t.results_table([report(0.5, ["add", "rel"]), report(0.5, ["add", "rel"])], [4, 9])
    assert [line.split()[0] for line in lines[1:4]] == ["add", "rel", "all"]
    assert all(line.endswith("50.0%  (seeds all equal)") for line in lines[1:4])
    assert [line.split(":")[0] for line in lines[4:]] == ["seed 4", "seed 9"]
