"""Tiny untrained checkpoints, suites and a stand-in for `generate`, to test evaluate_ood.py."""

import json
import pickle
from dataclasses import asdict
from unittest import mock

import numpy as np
import torch

import evaluate_ood
from data.formats import Tokenizer
from data.generate import build_tokenizer
from runtime.files import sha256_of
from train_minigpt_4070 import GPT, Generation, GPTConfig

TASKS = ("copy", "rev", "add", "sort", "rel")
TRAIN = ["[add] 1 + 2 | 3", "[add] 30 + 4 | 34", "[rev] 1 2 3 | 3 2 1", "[sort] 3 1 2 | 1 2 3"]
SUITES = {  # name -> (rows, levels, category)
    "ood_extrap_add": (["[add] 1000 + 2 | 1002", "[add] 7 + 8 | 15"], [4, 1], "extrapolation"),
    "ood_extrap_rev": (["[rev] 1 2 3 4 | 4 3 2 1", "[rev] 5 6 | 6 5"], [4, 2], "extrapolation"),
    # Once more as in training (2 + 01 is 1 + 2), and once new.
    "ood_interpolation": (["[add] 2 + 01 | 3", "[add] 5 + 6 | 11"], [1, 1], "interpolation"),
    "ood_compositional": (
        ["[rev] [sort] 3 1 2 | 3 2 1", "[sort] [max] 3 1 | 3", "[copy] 1 2 | 1 2"],
        ["rev sort", "sort max", "copy"],
        "compositional",
    ),
    "ood_edge_cases": (["[add] 1 + 2€ | 3", "[add] 1 + 0 | 1"], [], "edge_cases"),
}


def vocabulary(tasks=TASKS):
    return list(build_tokenizer(tasks)["itos"].values())


def save_model(path, train, seed=0, tasks=TASKS, tags=("add", "rev", "sort"), **arch):
    """An untrained checkpoint; the weights are large, so that its predictions vary."""
    vocab = vocabulary(tasks)
    config = GPTConfig(**{**dict.fromkeys(("n_layers", "n_heads"), 2), "d_model": 16, "d_ff": 32}
                       | {"vocab_size": len(vocab), "max_len": 20, **arch})  # fmt: skip
    model = GPT(config, [seed])
    content = {"format": 1, "arch": asdict(config), "vocab": vocab, "seed": seed, "epoch": 3}
    content["model"] = {name: p.detach() * 12 for name, p in model.named_parameters()}
    content |= {"trained_tags": list(tags), "trained_length": 20, "step": 9}
    content["data"] = {"train": {"path": str(train), "sha256": sha256_of(train)}}
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path)
    return path


def make_home(home):
    """Training set, suites, a model in run/, three seeds in seeds/."""
    (home / "train.txt").write_text("\n".join(TRAIN))
    (home / "suites").mkdir()
    for name, (raw, level, category) in SUITES.items():
        content = {"raw": raw, "level": level, "category": category, "encoded": []}
        (home / "suites" / f"{name}.pkl").write_bytes(pickle.dumps(content, protocol=4))
    (home / "suites" / "dataset_stats.json").write_text("{}")
    (home / "tokenizer.json").write_text(json.dumps(build_tokenizer(TASKS)))
    save_model(home / "run/best_model.pth", home / "train.txt")
    for seed in range(3):
        save_model(home / f"seeds/seed_{seed}/best_model.pth", home / "train.txt", seed)
    return home


def evaluate(model, ood_dir, out_dir, *more):
    """Run it, but for the figures, from its own arguments; returns what `read` does."""
    argv = ["--model", model, "--ood_dir", ood_dir, "--out_dir", out_dir, "--device", "cpu", *more]
    args = evaluate_ood.build_parser().parse_args([str(a) for a in argv])
    with mock.patch("plots.write_figures", return_value=[]):
        evaluate_ood.evaluate(args)
    return read(out_dir)


def read(out_dir):
    """(results, lines of predictions.jsonl)."""
    lines = (out_dir / "predictions.jsonl").read_text().splitlines()
    results = json.loads((out_dir / "ood_results.json").read_text())
    return results, [json.loads(line) for line in lines]


def write_suite(folder, raws, name="suite", **more):
    folder.mkdir(parents=True, exist_ok=True)
    content = {"raw": raws, **more}
    (folder / f"{name}.pkl").write_bytes(pickle.dumps(content, protocol=4))
    return folder


def answering(make):
    """A stand-in for generate: replica r answers make(examples, row, r)."""
    tokenizer = Tokenizer(vocabulary())

    def generate(model, examples, rows, eos, device):
        ids = [
            [tokenizer.encode(make(examples, i, r)).tolist() for i in row]
            for r, row in enumerate(rows)
        ]
        return Generation(ids, np.full(rows.shape, -0.5), np.full(rows.shape, 0.25))

    return generate
