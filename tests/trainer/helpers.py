"""What the tests of the trainer share: rows, tiny models, tiny runs and interruptions."""

import errno
import json
import os
import pickle
import random
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

import plots
import train_minigpt_4070 as t
from data import formats
from data.tasks import standard_tasks
from reference import TOKENIZER

SCRIPT = Path(t.__file__)
CPU = torch.device("cpu")
SIGNALS = [n for n in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGHUP") if hasattr(signal, n)]
POSITIONS = ("rope", "nope", "alibi", "learned")

torch.set_num_threads(1)  # the models here are too small for more


def words(text):
    """Flags and names, without a quotation mark around each."""
    return text.split()


STANDARD = standard_tasks()


def draw_rows(n, seed, tags=STANDARD):
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


def batch_of(examples, rows):
    rows = np.asarray(rows)
    rows = rows if rows.ndim == 2 else rows[None]
    return t.make_batch(t.Resident(examples, CPU), rows, places=np.arange(rows.shape[1]))


def gradients(model, batch, label_smoothing=0.0, noise=None):
    model.zero_grad()
    logits = model(batch, noise=noise)
    loss = t.answer_loss(logits, batch.targets, label_smoothing) / batch.n_targets
    loss.sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters()}


def no_scaler():
    return torch.amp.GradScaler("cpu", enabled=False)


def step_of(model, optimizer, batches, max_norm=1e9):
    return t.train_step(model, optimizer, no_scaler(), batches, max_grad_norm=max_norm)


def encode_all(rows):
    return [TOKENIZER.encode(row).tolist() for row in rows]


def write_pickle(path, rows, **content):
    path.write_bytes(pickle.dumps({"raw": rows, **content}))
    return path


TINY = "--d_model 16 --n_layers 1 --n_heads 2 --batch_size 8 --warmup_steps 2 --device cpu"
TINY = (TINY + " --amp fp32 --lr 3e-4 --patience 0").split()
LONG = words("--seeds 0-2 --epochs 5 --task_curriculum --dropout 0.2")
TRAIN_ROWS = draw_rows(40, seed=20, tags=("copy", "rev", "sort_desc", "add"))
TRAIN_ROWS += [*TRAIN_ROWS[:4], "[mul] 2 3 | 6", "[mul] 2 4 | 8"]
SEEN_ROWS = [*TRAIN_ROWS[:3], "[add] 2 + 1 | 3"]
TRAIN_ROWS += ["[add] 1 + 02 | 3"]  # the same example as that of validation
VAL_ROWS = draw_rows(12, seed=21, tags=("copy", "rev", "sort_desc", "add")) + SEEN_ROWS


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

    def interrupted(now, **schedule):
        if now == step:
            raise KeyboardInterrupt
        return original(now, **schedule)

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
            assert moments.keys() == two["optimizer"][name].keys()
            for key, value in moments.items():
                assert torch.equal(
                    torch.as_tensor(value), torch.as_tensor(two["optimizer"][name][key])
                )
        reports = [json.loads((f / "memorization.json").read_text()) for f in (a, b)]
        assert reports[0] == reports[1]


def resume(world, *flags, out="run"):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plots, "write_figures", lambda *args, **kwargs: [])
        return go(world, *flags, "--resume", out=out)


def at_step(monkeypatch, step, act):
    """Call `act` as this step begins."""
    original = t.learning_rate

    def acting(now, **schedule):
        if now == step:
            act()
        return original(now, **schedule)

    monkeypatch.setattr(t, "learning_rate", acting)


def full_disk_from(monkeypatch, name):
    """From the first time that a file called `name` is written there is no room left."""
    full, original = [], os.fsync

    def fsync(fd):
        if full or name in os.path.basename(os.readlink(f"/proc/self/fd/{fd}")):
            full.append(fd)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        original(fd)

    monkeypatch.setattr(os, "fsync", fsync)


def spoil(name, content):
    def prepare(world):
        path = world / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())

    return prepare
