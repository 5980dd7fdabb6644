"""Scripted panels on disk: ledgers of replicas that look up, that know the rule, or that mix both.

No model is trained. A replica is a function of (replica, member bool [n]) to bits and exact match,
so every measure has a known answer.
"""

import json

import numpy as np

from data.formats import load_examples, load_tokenizer
from data.subsets import Subsets
from runtime.files import sha256_of
from runtime.ledger import Ledger

CHARACTERS = "[] |+0123456789ad"
HARD, EASY = 9.0, 0.125  # bits of an answer that a scripted replica does not know, and knows


def sums(rng, n, wrong_share=0.0, repeats=(1,)):
    """n training rows `[add] a + b | c` by distinct pairs, some wrong, repeated in turn."""
    pairs = [(a, b) for a in range(10, 100) for b in range(a, 100)]
    chosen = [pairs[i] for i in rng.choice(len(pairs), n, replace=False)]
    rows = []
    for i, (a, b) in enumerate(chosen):
        answer = a + b
        if i < wrong_share * n:
            other = int(rng.integers(100, 999)) if answer > 99 else int(rng.integers(10, 99))
            answer = other + (other >= answer)
        rows += [f"[add] {a} + {b} | {answer}"] * repeats[i % len(repeats)]
    return rows


def write_data(folder, train, val):
    folder.mkdir(parents=True, exist_ok=True)
    itos = ["<pad>", "<unk>", "<eos>", *sorted(set("".join([*train, *val, CHARACTERS])))]
    tokenizer = {"stoi": {token: i for i, token in enumerate(itos)}}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    (folder / "train.txt").write_text("\n".join(train) + "\n")
    (folder / "val.txt").write_text("\n".join(val) + "\n")
    names = {"train": "train.txt", "val": "val.txt", "tokenizer": "tokenizer.json"}
    return {
        name: {"path": str(folder / file), "sha256": sha256_of(folder / file)}
        for name, file in names.items()
    }


def lookup_table(r, member):
    """Knows what it trained on and nothing else."""
    return np.where(member, EASY, HARD), member


def rule(r, member):
    """Knows everything, whether it trained on it or not."""
    return np.full(len(member), EASY), np.ones(len(member), bool)


def mixture(share):
    """Knows the rule for a share of the examples, the first by key, and looks up the others."""

    def replica(r, member):
        known = member | (np.arange(len(member)) < share * len(member))
        return np.where(known, EASY, HARD), known

    return replica


def noise(r, member):
    """Outcomes that say nothing of membership."""
    rng = np.random.default_rng(r + 10_000)
    return 9 * rng.random(len(member)), rng.random(len(member)) < 0.5


def write_panel(
    folder,
    replica,
    train,
    val,
    R=16,
    share=0.5,
    canaries=(),
    canary_repeats=(0, 1, 2, 4),
    epochs=(1, 2, 4, 8),
    arguments=None,
):
    """Write a panel as the trainer does; `replica` scripts every kept epoch but the first, at which
    nothing is known. canaries are dicts as in canaries.jsonl. Returns the folder.
    """
    data = write_data(folder / "data", train, val)
    tokenizer = load_tokenizer(data["tokenizer"]["path"])
    subsets = Subsets(load_examples(data["train"]["path"], tokenizer), share)
    val_keys = np.unique(load_examples(data["val"]["path"], tokenizer).keys)
    keys = [subsets.keys]
    if canaries:
        (folder / "canaries.jsonl").write_text("".join(json.dumps(c) + "\n" for c in canaries))
        keys.append(load_examples(folder / "canaries.jsonl", tokenizer).keys)
    config = {
        "arguments": {"subset": share, "epochs": epochs[-1]} if arguments is None else arguments,
        "seeds": list(range(R)),
        "derived": {"n_params": 10_000, "steps_total": 10 * epochs[-1]},
        "data": data,
    }
    (folder / "config.json").write_text(json.dumps(config))
    for seed in range(R):
        members = subsets.members(seed)
        own = np.random.default_rng(seed).permutation(len(canaries))
        counts = np.resize(canary_repeats, len(canaries))[own] if len(canaries) else own
        ledger = Ledger.empty(
            seed=seed,
            share=share,
            keys=np.concatenate([*keys, val_keys]),
            members=members,
            canary_counts=counts,
        )
        asked = np.concatenate([members, counts > 0, np.zeros(len(val_keys), bool)])
        order = np.random.default_rng([7, seed])
        for i, epoch in enumerate(epochs):
            bits, exact = replica(seed, asked) if i else (np.full(len(asked), HARD), asked & False)
            seen = order.permutation(np.arange(1, len(members) + len(counts) + 1))
            ledger.add(epoch, 10 * epoch, bits, exact, np.where(asked[: len(seen)], seen, 0))
        home = folder / f"seed_{seed}"
        home.mkdir(exist_ok=True)
        ledger.write(home)
    return folder
