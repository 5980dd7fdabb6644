"""The naive reference model: what the trainer computes, one sequence and one head at a time.

`reference_logits` is the whole model in plain sums: embeddings, pre-norm blocks of attention and a
two-layer network, and logits by the embedding matrix again. It knows no batches, caches, fused
kernels or mixed precision, and it computes every attention matrix whole. It takes only weights and
shapes from the trained model. `reference_loss` is the loss over answer tokens, `reference_answer`
the logits and targets that it averages, `reference_decode` greedy decoding without a cache.

A reader who wants to know what is computed starts here. The tests hold the fast paths of the
trainer to these functions.
"""

import math

import torch
import torch.nn.functional as F

from data import formats
from data.generate import build_tokenizer
from data.tasks import TASKS

# Every task, and two more tags that the tests train on.
TOKENIZER_JSON = build_tokenizer((*TASKS, "sort_desc", "mul"))
TOKENIZER = formats.Tokenizer(TOKENIZER_JSON["itos"].values())


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
