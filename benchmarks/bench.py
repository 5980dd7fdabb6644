"""Measure this project beside its peers: one command, one run, Markdown tables and a JSON file.

    pip install -r requirements-bench.txt
    python benchmarks/bench.py --out benchmarks/results.json   # all of it, several minutes
    python benchmarks/bench.py --quick --sections train        # a first look
    python benchmarks/bench.py --sections generate --rounds 9

Every contender is timed once a round on the same examples, one after the other, and starts from
another place in each round, so that a drifting machine hits all alike. Tables hold medians over the
rounds. README.md beside this file says what is measured and what was done to be fair to the peers.
"""

import argparse
import gc
import os
import platform
import statistics
import sys
import time
from contextlib import nullcontext
from copy import copy
from dataclasses import dataclass, field, replace
from datetime import date
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from runtime.cli import Parser, answer_early, run_main

# ----------------------------------------------------------------------------------------------
# Command line
# ----------------------------------------------------------------------------------------------


SECTIONS = ("train", "generate", "evaluate", "scoring", "growth", "large")


def section_list(text):
    sections = text.split(",")
    if unknown := set(sections) - set(SECTIONS):
        raise argparse.ArgumentTypeError(f"{', '.join(sorted(unknown))}: not one of {SECTIONS}")
    return sections


def build_parser():
    parser = Parser("Measure this project beside its peers.")
    flag = parser.add_argument
    flag("--sections", type=section_list, default=",".join(SECTIONS), help="what to measure")
    flag("--rounds", type=int, default=5, help="rounds; tables hold medians over them")
    flag("--steps", type=int, default=12, help="training steps of a turn at batch 8; half at 32")
    flag("--quick", action="store_true", help="two rounds of little work: a look, no measurement")
    flag("--device", default="auto", help="auto, cpu, cuda or cuda:<n>")
    flag("--out", metavar="JSON", help="write every round's figures here")
    return parser


if __name__ == "__main__":  # --help and mistakes in flags need not wait for the imports below
    answer_early(build_parser().parse_args)


# ----------------------------------------------------------------------------------------------
# Imports that take seconds
# ----------------------------------------------------------------------------------------------

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset

import train_minigpt_4070 as minigpt
from data import formats
from runtime import files

LEARNING_RATE, WEIGHT_DECAY, MAX_GRAD_NORM = 4e-4, 0.01, 1.0
IGNORED = -100  # what the peers' cross-entropy leaves out
OURS, ONE_BY_ONE = "this project", "one by one, uncached"
NO_EOS = -1  # an id no model predicts: every row then generates up to its cap


# ----------------------------------------------------------------------------------------------
# Data and setting, the same for all
# ----------------------------------------------------------------------------------------------


@dataclass
class Bench:
    """What every contender is given."""

    examples: formats.Examples
    tokenizer: formats.Tokenizer
    device: torch.device
    precision: str  # of the matrix products, ours and the peers'
    config: minigpt.GPTConfig

    @property
    def eos(self):
        return self.tokenizer.eos

    @property
    def more_steps(self):
        """Times as many steps in a turn: on a GPU it holds a step of warm-up and a capture."""
        return 33 if self.device.type == "cuda" else 1

    @property
    def clock(self):
        """Whose seconds count against the product peak: on a CPU other work takes no part of it."""
        return "seconds" if self.device.type == "cuda" else "cpu_seconds"

    def synchronize(self):
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def model_config(vocab_size, d_model=256, n_layers=6, head_dim=32, max_len=128):
    """The recommended model: d_model 256, 6 layers, 8 heads, dropout 0.1."""
    return minigpt.GPTConfig(
        vocab_size=vocab_size,
        max_len=max_len,
        d_model=d_model,
        n_layers=n_layers,
        n_heads=max(1, d_model // head_dim),
        d_ff=4 * d_model,
        dropout=0.1,
    )


def prepare(device_name):
    device = minigpt.choose_device(device_name)
    tokenizer = formats.load_tokenizer(ROOT / "data/processed/tokenizer.json")
    examples = formats.load_examples(ROOT / "data/processed/train_normal.pkl", tokenizer)
    config = model_config(len(tokenizer))
    precision = minigpt.choose_precision("auto", device, config.d_model)
    return Bench(examples, tokenizer, device, precision, config)


def draw_rows(bench, round_, steps, n, R=1):
    """The rows of `steps` batches in a round, int [steps, R, n]; replica 0 is what peers see."""
    n_rows = len(bench.examples)
    rows = [
        np.random.default_rng([r, round_]).permutation(n_rows)[: steps * n].reshape(steps, n)
        for r in range(R)
    ]
    return np.stack(rows, axis=1)


# ----------------------------------------------------------------------------------------------
# Contenders
# ----------------------------------------------------------------------------------------------


class Ours:
    """The trainer's own functions, batch construction included, as `train` calls them."""

    def __init__(self, bench, R=1, config=None):
        self.bench, self.R = bench, R
        self.model = minigpt.GPT(config or bench.config, list(range(R))).to(bench.device).train()
        self.model.set_precision(bench.precision)
        self.n_params = self.model.n_params()
        in_graph = bench.device.type == "cuda" and bench.precision != "fp16"
        lr = torch.zeros((), device=bench.device) if in_graph else 0.0
        optimizer = minigpt.make_optimizer(self.model, WEIGHT_DECAY, lr)
        scaler = torch.amp.GradScaler(bench.device.type, enabled=bench.precision == "fp16")
        kind = minigpt.StaticSteps if in_graph else minigpt.EagerSteps
        # Each turn brings its own data and batch size.
        self.steps = kind(
            model=self.model,
            optimizer=optimizer,
            scaler=scaler,
            data=None,
            batch_size=0,
            max_grad_norm=MAX_GRAD_NORM,
        )
        self.n_steps = 0

    def train(self, batches, micro_batches):
        """Optimize on `batches`, int [steps, R, n]; an effective batch that fits runs at once."""
        n_steps, R, n = batches.shape
        steps = self.steps
        steps.batch_size = n
        steps.data = minigpt.resident(self.bench.examples, self.bench.device)
        steps.begin_epoch(batches.swapaxes(0, 1).reshape(R, n_steps * n))
        for i in range(n_steps):
            self.n_steps += 1
            noise = minigpt.dropout_noise(list(range(R)), self.n_steps)
            steps.step(i, LEARNING_RATE, noise)


class Rows(Dataset):
    """Row i as (inputs, targets), int64 [length] each; targets are IGNORED before the answer."""

    def __init__(self, examples):
        self.examples = examples

    def __len__(self):
        return len(self.examples)

    def __getitem__(self, i):
        e = self.examples
        start, n = int(e.starts[i]), int(e.lengths[i])
        ids = torch.from_numpy(e.ids[start : start + n + 1].astype(np.int64))
        targets = ids[1:].clone()
        targets[: int(e.answer_start[i]) - 1] = IGNORED
        return ids[:-1], targets


def collate(rows):
    """Pad on the right to the longest of the batch: (inputs, targets), int64 [B, T] each."""
    inputs, targets = zip(*rows, strict=True)
    return (
        pad_sequence(inputs, batch_first=True, padding_value=0),
        pad_sequence(targets, batch_first=True, padding_value=IGNORED),
    )


class Peer:
    """A model trained by the usual loop: padded DataLoader, loss on the answer, clipping, AdamW.

    `logits` maps (model, ids [B, T]) to [B, T, V]. Right padding under a causal mask needs no
    attention mask, so none is passed: that lets every peer take its fastest attention. With R > 1
    the model is R models, their parameters stacked and their rows one after the other in `ids`.
    """

    def __init__(self, bench, model, logits, precision, *, R=1, compiled=False):
        self.bench, self.R, self.logits, self.precision = bench, R, logits, precision
        self.model = model.to(bench.device).train()
        parameters = list(self.model.parameters())
        self.n_params = sum(p.numel() for p in parameters) // R
        vector = 1 if R == 1 else 2  # dimensions of a bias or a gain
        groups = [
            {"params": [p for p in parameters if p.ndim > vector], "weight_decay": WEIGHT_DECAY},
            {"params": [p for p in parameters if p.ndim <= vector], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=(0.9, 0.95), fused=True)
        self.data = Rows(bench.examples)
        if compiled:  # lengths differ from batch to batch: one graph for all of them
            self.losses = torch.compile(self.losses, dynamic=True)

    def losses(self, inputs, targets):
        """The sum over each replica's answer tokens, [R]."""
        low = self.precision != "fp32"
        dtype = minigpt.DTYPES[self.precision] if low else None
        with torch.autocast(self.bench.device.type, dtype, enabled=low):
            logits = self.logits(self.model, inputs)
        logits, targets = logits.flatten(0, 1).float(), targets.flatten()
        if self.R == 1:
            loss = F.cross_entropy(logits, targets, ignore_index=IGNORED, reduction="sum")
            return loss[None]
        each = F.cross_entropy(logits, targets, ignore_index=IGNORED, reduction="none")
        return each.view(self.R, -1).sum(1)

    def clip(self):
        if self.R == 1:
            nn.utils.clip_grad_norm_(self.model.parameters(), MAX_GRAD_NORM)
            return
        grads = [p.grad.view(self.R, -1) for p in self.model.parameters()]
        norms = torch.stack([g.norm(dim=1) for g in grads]).norm(dim=0)
        scale = (MAX_GRAD_NORM / (norms + 1e-6)).clamp(max=1.0)[:, None]
        torch._foreach_mul_(grads, [scale] * len(grads))

    def train(self, batches, micro_batches):
        """Optimize on `batches`, int [steps, R, n], each cut into `micro_batches`."""
        pieces = [
            piece.flatten().tolist()
            for rows in batches
            for piece in np.split(rows, micro_batches, 1)
        ]
        pin = self.bench.device.type == "cuda"
        loader = iter(
            DataLoader(self.data, batch_sampler=pieces, collate_fn=collate, pin_memory=pin)
        )
        for _ in batches:
            micro = [next(loader) for _ in range(micro_batches)]
            n_targets = sum((targets != IGNORED).view(self.R, -1).sum(1) for _, targets in micro)
            weights = (1 / n_targets).to(self.bench.device)
            for inputs, targets in micro:
                inputs = inputs.to(self.bench.device, non_blocking=True)
                targets = targets.to(self.bench.device, non_blocking=True)
                (self.losses(inputs, targets) * weights).sum().backward()
            self.clip()
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)


class PlainBlock(nn.Module):
    def __init__(self, C, n_heads, p):
        super().__init__()
        self.n_heads = n_heads
        self.norm_1, self.norm_2 = nn.LayerNorm(C), nn.LayerNorm(C)
        self.qkv, self.out = nn.Linear(C, 3 * C), nn.Linear(C, C)
        self.up, self.down = nn.Linear(C, 4 * C), nn.Linear(4 * C, C)
        self.drop = nn.Dropout(p)

    def forward(self, x):
        B, T, C = x.shape
        qkv = self.qkv(self.norm_1(x)).view(B, T, 3, self.n_heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # [B, H, T, D] each
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.drop(self.out(y.transpose(1, 2).reshape(B, T, C)))
        return x + self.drop(self.down(F.gelu(self.up(self.norm_2(x)))))


class PlainGPT(nn.Module):
    """The GPT one would write by hand: learned positions, pre-norm, SDPA, tied output."""

    def __init__(self, config):
        super().__init__()
        C = config.d_model
        self.tokens = nn.Embedding(config.vocab_size, C)
        self.positions = nn.Embedding(config.max_len, C)
        self.drop = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(
            PlainBlock(C, config.n_heads, config.dropout) for _ in range(config.n_layers)
        )
        self.norm = nn.LayerNorm(C)
        nn.init.normal_(self.tokens.weight, std=0.02)
        nn.init.normal_(self.positions.weight, std=0.02)

    def forward(self, ids):
        x = self.tokens(ids) + self.positions.weight[: ids.shape[1]]
        x = self.drop(x)
        for block in self.blocks:
            x = block(x)
        return F.linear(self.norm(x), self.tokens.weight)


class Ensemble(nn.Module):
    """R models of one shape as one, by torch.func: what one would write to train many seeds."""

    def __init__(self, models):
        super().__init__()
        stacked, _ = torch.func.stack_module_state(models)
        self.names, self.R = list(stacked), len(models)
        self.stacked = nn.ParameterList(stacked.values())
        self.shape = [models[0]]  # in a list, where its own parameters are not this module's

    @classmethod
    def of(cls, config, R):
        return cls([PlainGPT(config) for _ in range(R)])

    def forward(self, ids):
        """ids [R * B, T] -> logits [R * B, T, V]"""

        def one(parameters, ids):
            return torch.func.functional_call(self.shape[0], parameters, (ids,))

        parameters = dict(zip(self.names, self.stacked, strict=True))
        ids = ids.view(self.R, -1, ids.shape[1])
        return torch.vmap(one, randomness="different")(parameters, ids).flatten(0, 1)


def gpt2(config, as_it_comes=False):
    """transformers' GPT-2 with attention by SDPA, its default.

    Its own settings add what this project has not, dropout on attention weights, and a GELU of
    eight kernels; the tuned one leaves out the first and takes the exact GELU in one kernel.
    """
    from transformers import GPT2Config, GPT2LMHeadModel

    tuned = {"attn_pdrop": 0.0, "activation_function": "gelu", "attn_implementation": "sdpa"}
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=config.vocab_size,
            n_positions=config.max_len,
            n_embd=config.d_model,
            n_layer=config.n_layers,
            n_head=config.n_heads,
            n_inner=config.d_ff,
            resid_pdrop=config.dropout,
            embd_pdrop=config.dropout,
            bos_token_id=None,
            eos_token_id=None,
            pad_token_id=None,
            **({} if as_it_comes else tuned),
        )
    )


def x_transformer(config):
    """x-transformers' decoder with rotary positions and flash attention."""
    from loguru import logger

    logger.disable("x_transformers")  # a warning about heads of 32 channels
    from x_transformers import Decoder, TransformerWrapper

    return TransformerWrapper(
        num_tokens=config.vocab_size,
        max_seq_len=config.max_len,
        use_abs_pos_emb=False,
        tie_embedding=True,
        emb_dropout=config.dropout,
        attn_layers=Decoder(
            dim=config.d_model,
            depth=config.n_layers,
            heads=config.n_heads,
            attn_dim_head=config.d_model // config.n_heads,
            rotary_pos_emb=True,
            attn_flash=True,
            ff_dropout=config.dropout,
        ),
    )


def not_compiled_because(device):
    """Why torch.compile cannot be used here, or "" where it can."""
    try:
        torch.compile(lambda x: x.sin() + 1)(torch.ones(8, device=device))
    except Exception as error:  # of whatever it lacks: a compiler, Triton, headers of Python
        return str(error).strip().splitlines()[0]
    return ""


def peer_builders(bench, replicas=(), compiled=True):
    """{name: function that builds the peer with fresh weights}, those whose packages are there.

    `replicas` are the sizes R > 1 of ensembles; `compiled` adds a loop under torch.compile.
    """
    config = bench.config

    def gpt2_logits(model, ids):
        return model(ids, use_cache=False).logits

    def call(model, ids):
        return model(ids)

    models = {}
    if find_spec("transformers"):
        models["transformers GPT-2, tuned"] = (gpt2, gpt2_logits, {})
        whole = partial(gpt2, as_it_comes=True)
        models["transformers GPT-2, as it comes"] = (whole, gpt2_logits, {})
    if find_spec("x_transformers"):
        models["x-transformers, rotary, flash"] = (x_transformer, call, {})
    models["plain PyTorch loop"] = (PlainGPT, call, {})
    if compiled:  # as karpathy/nanoGPT trains: its model is the plain one, its loss is compiled too
        models["plain PyTorch loop, torch.compile"] = (PlainGPT, call, {"compiled": True})
    for R in replicas:
        build = partial(Ensemble.of, R=R)
        models[f"torch.func ensemble, R = {R}"] = (build, call, {"R": R})
    # Autocast is not always the faster way on a CPU, so there every peer runs both ways.
    both = bench.device.type == "cpu" and bench.precision != "fp32"
    return {
        f"{name}, {precision}": lambda b=build, x=logits, p=precision, o=options: Peer(
            bench, b(config), x, p, **o
        )
        for name, (build, logits, options) in models.items()
        for precision in (("fp32", bench.precision) if both else (bench.precision,))
    }


# ----------------------------------------------------------------------------------------------
# Measuring
# ----------------------------------------------------------------------------------------------


@dataclass
class Series:
    """One line of a table: what a contender did in each round."""

    name: str
    seconds: list = field(default_factory=list)
    cpu_seconds: list = field(default_factory=list)
    examples: list = field(default_factory=list)
    tokens: list = field(default_factory=list)  # real ones, or generated ones
    facts: dict = field(default_factory=dict)

    def add(self, spent, examples, tokens):
        """`spent`: seconds of wall time and of processor time."""
        self.seconds.append(spent[0])
        self.cpu_seconds.append(spent[1])
        self.examples.append(int(examples))
        self.tokens.append(int(tokens))

    def rates(self, what, clock="seconds"):
        """`what` ("examples" or "tokens") a second of `clock`, one value a round."""
        return [n / s for n, s in zip(getattr(self, what), getattr(self, clock), strict=True)]

    def work(self, flops_a_token, peaks, clock):
        """FLOP/s, and the share of the product peaks (one a round, in seconds of `clock`)."""
        rates = zip(self.rates("tokens", clock), peaks, strict=True)
        return {
            "flops": flops_a_token * statistics.median(self.rates("tokens")),
            "share_of_peak": statistics.median(flops_a_token * rate / peak for rate, peak in rates),
        }

    def summary(self):
        examples, tokens = self.rates("examples"), self.rates("tokens")
        return {
            "name": self.name,
            "examples_per_second": statistics.median(examples),
            "examples_per_second_low": min(examples),
            "examples_per_second_high": max(examples),
            "examples_per_cpu_second": statistics.median(self.rates("examples", "cpu_seconds")),
            "tokens_per_second": statistics.median(tokens),
            **self.facts,
            "rounds": {
                k: getattr(self, k) for k in ("seconds", "cpu_seconds", "examples", "tokens")
            },
        }


def stopwatch(bench, work):
    """((wall seconds, processor seconds), what `work` returned); the device idle before and after.

    Processor time is that of all threads, so it does not grow with what else the machine does.
    """
    bench.synchronize()
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    bench.synchronize()
    return (time.perf_counter() - wall, time.process_time() - cpu), result


def time_training(series, contender, batches, micro_batches, keep):
    """Train on `batches`, int [1 + steps, R, n], and add the time of all but the first to `series`.

    What ran before has emptied the processor's caches; a run's next step finds them full. Without
    `keep` it only warms up.
    """
    bench = contender.bench
    contender.train(batches[:1], micro_batches)
    if keep:
        rest = batches[1:]
        spent = stopwatch(bench, partial(contender.train, rest, micro_batches))[0]
        series.add(spent, rest.size, bench.examples.lengths[rest].sum())


def in_turn(items, round_):
    """The items of a round, each round starting at another one."""
    at = round_ % len(items)
    return [*items[at:], *items[:at]]


def peak_memory(bench, work):
    """Largest sum of live tensors during `work`, which also builds what it needs, bytes.

    On CUDA the allocator knows it. On CPU the profiler reports every allocation and release; both
    count tensors only, not the buffers of a matrix library.
    """
    if bench.device.type == "cuda":
        gc.collect()  # models of earlier contenders may hang in cycles
        torch.cuda.empty_cache()
        before = torch.cuda.memory_allocated(bench.device)
        torch.cuda.reset_peak_memory_stats(bench.device)
        work()
        return torch.cuda.max_memory_allocated(bench.device) - before
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profiler:
        work()
    events = profiler.profiler.kineto_results.events()
    changes = [(e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]"]
    return int(np.cumsum([n for _, n in sorted(changes, key=lambda c: c[0])]).max(initial=0))


def product_shapes(config, n):
    """(rows, in, out) of the four matrix products of a layer on n tokens."""
    C, hidden = config.d_model, config.d_ff
    return [(n, C, 3 * C), (n, C, C), (n, C, hidden), (n, hidden, C)]


def matrix_product_peak(bench, config, n, *, precision, backward=True, repeats=3):
    """FLOP of bare matrix products in a second of `bench.clock`, on a layer's shapes for n tokens.

    Forward and both backward; without `backward` the forward ones alone.
    """
    dtype = minigpt.DTYPES[precision]
    products, flops = [], 0
    for a, b, c in product_shapes(config, n):
        x, w, grad = (
            torch.randn(*shape, device=bench.device, dtype=dtype)
            for shape in ((a, b), (b, c), (a, c))
        )
        for left, right in ((x, w), (grad, w.mT), (x.mT, grad))[: 3 if backward else 1]:
            products.append((left, right, left @ right))  # the result's memory is used again
            flops += 2 * a * b * c

    def work():
        for _ in range(repeats):
            for left, right, out in products:
                torch.mm(left, right, out=out)

    work()
    if bench.device.type == "cuda":  # where launching takes longer than the products of a batch
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            work()
        work = graph.replay
        work()
    wall, cpu = stopwatch(bench, work)[0]
    return repeats * flops / (wall if bench.clock == "seconds" else cpu)


# ----------------------------------------------------------------------------------------------
# Section: training
# ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Setting:
    name: str
    n: int  # examples in an effective batch
    micro_batches: int  # for the peers; this project runs it at once
    steps: int  # in a round
    replicas: tuple


def training_settings(bench, n_steps):
    """`n_steps` are those of a turn at batch 8."""
    more = (4,) if bench.device.type == "cpu" else (4, 16, 64)
    few, many = (n * bench.more_steps for n in (max(1, n_steps // 2), n_steps))
    return [
        Setting("batch 8", 8, 1, many, (1, *more)),
        Setting("batch 32", 32, 1, few, (1, *more)),
        Setting("batch 8 × 4 (accumulation)", 32, 4, few, (1,)),
    ]


def training(bench, settings, rounds, not_compiled=""):
    """Time every contender in every setting; `not_compiled` says why none of them is compiled.

    Returns {"peak_flops": one a round, "settings": {name: [summary, …]}, …}.
    """
    replicas = sorted({R for setting in settings for R in setting.replicas})
    builders = {f"{OURS}, R = {R}": (lambda R=R: Ours(bench, R)) for R in replicas}
    builders |= peer_builders(bench, [R for R in replicas if R > 1], compiled=not not_compiled)
    contenders = {name: build() for name, build in builders.items()}
    series = {
        setting: {name: Series(name) for name, c in contenders.items() if c.R in setting.replicas}
        for setting in settings
    }
    tokens = int(bench.examples.lengths.mean() * max(setting.n for setting in settings))
    peaks = []
    for round_ in range(rounds + 1):  # round 0 warms up
        peaks.append(matrix_product_peak(bench, bench.config, tokens, precision=bench.precision))
        for setting, lines in series.items():
            for name in in_turn(list(lines), round_):
                contender = contenders[name]
                rows = draw_rows(bench, round_, setting.steps + 1, setting.n, contender.R)
                time_training(lines[name], contender, rows, setting.micro_batches, keep=round_ > 0)
        progress(f"training: round {round_} of {rounds}")
    sizes = {name: (c.n_params, c.R) for name, c in contenders.items()}
    del contenders, contender
    result = {"peak_flops": peaks[1:], "not_compiled_because": not_compiled, "settings": {}}
    for setting, lines in series.items():
        for name, line in lines.items():
            n_params, R = sizes[name]
            line.facts = {"ours": name.startswith(OURS), "R": R, "n_params": n_params}
            line.facts |= line.work(6 * n_params, peaks[1:], bench.clock)
            line.facts["peak_memory_bytes"] = training_memory(bench, builders[name], setting, R)
        result["settings"][setting.name] = [line.summary() for line in lines.values()]
        progress(f"training: memory of {setting.name}")
    return result


def training_memory(bench, build, setting, R):
    """Peak bytes of building a contender and two steps: the second has AdamW's moments."""
    rows = draw_rows(bench, 0, 2, setting.n, R)
    return peak_memory(bench, lambda: build().train(rows, setting.micro_batches))


# ----------------------------------------------------------------------------------------------
# Section: generation
# ----------------------------------------------------------------------------------------------


def prompt_ids(examples, row):
    start = int(examples.starts[row])
    return examples.ids[start : start + int(examples.answer_start[row])].astype(np.int64)


def caps_of(examples, rows, beyond=minigpt.RUN_ON):
    """New tokens each row gets from everyone, int [n]: its answer's and `beyond`."""
    return examples.lengths[rows] - examples.answer_start[rows] + beyond


def generate_ours(bench, model, rows):
    """The trainer's generation -> [n] lists of new ids."""
    return minigpt.generate(model, bench.examples, rows[None], NO_EOS, bench.device).ids[0]


def generate_transformers(bench, model, rows, batch_size, beyond=minigpt.RUN_ON):
    """`generate`: batches of like length, padded on the left, cached -> [n] lists of new ids.

    A stopping criterion ends each row at its cap, as an end token would.
    """
    from transformers import StoppingCriteria, StoppingCriteriaList

    class Caps(StoppingCriteria):
        def __init__(self, caps, n_prompt):
            self.caps, self.n_prompt = caps, n_prompt

        def __call__(self, input_ids, scores, **_):
            return input_ids.shape[1] - self.n_prompt >= self.caps

    caps, found = caps_of(bench.examples, rows, beyond), [None] * len(rows)
    by_length = np.argsort(bench.examples.lengths[rows], kind="stable")
    for start in range(0, len(rows), batch_size):
        chosen = by_length[start : start + batch_size]
        prompts = [prompt_ids(bench.examples, rows[i]) for i in chosen]
        T = max(len(p) for p in prompts)
        ids = np.stack([np.pad(p, (T - len(p), 0)) for p in prompts])
        real = np.stack([np.arange(T) >= T - len(p) for p in prompts])
        row_caps = minigpt.put(caps[chosen], bench.device)
        with torch.inference_mode():  # in fp32, as this project evaluates
            out = model.generate(
                minigpt.put(ids, bench.device),
                attention_mask=minigpt.put(real.astype(np.int64), bench.device),
                do_sample=False,
                use_cache=True,
                pad_token_id=0,
                max_new_tokens=int(caps[chosen].max()),
                stopping_criteria=StoppingCriteriaList([Caps(row_caps, T)]),
            )
        new = out[:, T:].cpu().tolist()
        for i, ids_of_row in zip(chosen, new, strict=True):
            found[i] = ids_of_row[: caps[i]]
    return found


@torch.inference_mode()
def generate_one_by_one(bench, model, rows, eos=NO_EOS):
    """One prompt at a time, the whole text through the model for every token -> [n] lists."""
    found = []
    for row, cap in zip(rows, caps_of(bench.examples, rows), strict=True):
        ids = prompt_ids(bench.examples, row).tolist()
        n_prompt = len(ids)
        while len(ids) < n_prompt + cap and ids[-1] != eos:
            text = SimpleNamespace(
                ids=torch.tensor([ids], device=bench.device),
                pos=torch.arange(len(ids), device=bench.device),
                groups=[(1, len(ids))],
                answer_at=torch.tensor([[len(ids) - 1]], device=bench.device),
            )
            ids.append(int(model(text)[0, 0].argmax()))
        found.append(ids[n_prompt:])
    return found


def generation(bench, rounds, n, n_one_by_one, batch_size=128):
    """Time greedy decoding of `n` prompts; one by one a different part of them in each round."""
    rows = draw_rows(bench, 0, 1, n)[0, 0]
    by_length = np.argsort(bench.examples.lengths[rows], kind="stable")
    model = Ours(bench).model.eval()
    ways = {OURS: partial(generate_ours, bench, model)}
    if find_spec("transformers"):
        theirs = gpt2(bench.config).to(bench.device).eval()
        name = f"transformers generate, batches of {batch_size}"
        ways[name] = partial(generate_transformers, bench, theirs, batch_size=batch_size)
    ways[ONE_BY_ONE] = partial(generate_one_by_one, bench, model)
    lines = {name: Series(name) for name in ways}
    ours, same, compared = {}, 0, 0
    for round_ in range(rounds + 1):  # round 0 warms up
        every = max(1, n // n_one_by_one)
        part = rows[by_length[round_ % every :: every]]  # all lengths alike in every round
        for name in in_turn(list(ways), round_):
            chosen = part if name == ONE_BY_ONE or not round_ else rows
            spent, found = stopwatch(bench, partial(ways[name], chosen))
            assert [len(ids) for ids in found] == caps_of(bench.examples, chosen).tolist()
            if round_:
                lines[name].add(spent, len(chosen), sum(map(len, found)))
            if name == OURS:
                ours |= dict(zip(chosen.tolist(), found, strict=True))
            elif name == ONE_BY_ONE and round_:
                by_row = dict(zip(chosen.tolist(), found, strict=True))
        if round_:  # the same weights must say the same
            same += sum(ours[row] == ids for row, ids in by_row.items())
            compared += len(by_row)
        progress(f"generation: round {round_} of {rounds}")
    return {
        "prompts": n,
        "same_as_one_by_one": same,
        "compared_with_one_by_one": compared,
        "ways": [line.summary() for line in lines.values()],
    }


# ----------------------------------------------------------------------------------------------
# Section: evaluation
# ----------------------------------------------------------------------------------------------


def taught(bench, rows, share=0.9, max_epochs=300):
    """A model that has learned the answers of `rows` by heart until `share` of them are right."""
    pupil = Ours(bench, config=replace(bench.config, dropout=0.0))
    for epoch in range(max_epochs):
        order = np.random.default_rng(epoch).permutation(rows)
        pupil.model.train()
        pupil.train(order[: len(rows) // 32 * 32].reshape(-1, 1, 32), 1)
        if minigpt.score(pupil.model, bench.examples, rows, bench.device).exact.mean() >= share:
            break
    return pupil.model.eval()


def evaluate_ours(bench, model, rows):
    """What the trainer does after an epoch: one pass tells who is right, the rest is generated."""
    exact = np.zeros((1, len(bench.examples)), bool)
    exact[0, rows] = minigpt.score(model, bench.examples, rows, bench.device).exact[0]
    texts = minigpt.predict_texts(model, bench.tokenizer, bench.examples, rows, exact, bench.device)
    return [texts[0][row] for row in rows.tolist()]


def evaluation(bench, rounds, n, max_epochs=300):
    """Time the predictions of a trained model for `n` prompts, most of which it answers rightly."""
    rows, decode = draw_rows(bench, 0, 1, n)[0, 0], bench.tokenizer.decode
    model = taught(bench, rows, max_epochs=max_epochs)

    def one_by_one(rows):
        found = generate_one_by_one(bench, model, rows, bench.eos)
        return [decode(ids[:-1] if ids[-1] == bench.eos else ids) for ids in found]

    ways = {OURS: partial(evaluate_ours, bench, model)}
    if find_spec("transformers"):
        theirs = gpt2(bench.config).to(bench.device).eval()
        # Its weights are random; it is given the right number of tokens and stops there.
        ways["transformers generate, one batch"] = partial(
            generate_transformers, bench, theirs, batch_size=n, beyond=1
        )
    ways[ONE_BY_ONE] = one_by_one
    lines, said = {name: Series(name) for name in ways}, {}
    for round_ in range(rounds + 1):  # round 0 warms up
        for name in in_turn(list(ways), round_):
            if round_ or name != ONE_BY_ONE:
                spent, said[name] = stopwatch(bench, partial(ways[name], rows))
                if round_:
                    lines[name].add(spent, n, caps_of(bench.examples, rows, 1).sum())
        progress(f"evaluation: round {round_} of {rounds}")
    answers = [bench.examples.answer(row) for row in rows]
    same = sum(a == b for a, b in zip(said[OURS], said[ONE_BY_ONE], strict=True))
    return {
        "prompts": n,
        "right": sum(a == b for a, b in zip(said[OURS], answers, strict=True)),
        "same_as_one_by_one": same,
        "compared_with_one_by_one": n,
        "ways": [line.summary() for line in lines.values()],
    }


# ----------------------------------------------------------------------------------------------
# Section: scoring
# ----------------------------------------------------------------------------------------------


def scoring(bench, rounds, n, replicas=(1, 8)):
    """Time the two passes of evaluation by R models on `n` examples: what a ledger is made of, and
    what evaluate_ood.py does. An untrained model decodes each row up to its cap.
    """
    rows, examples = draw_rows(bench, 0, 1, n)[0, 0], bench.examples
    length = {
        "scoring": examples.lengths[rows].sum(),
        "decoding": (examples.answer_start[rows] + caps_of(examples, rows) - 1).sum(),
    }
    models = {R: Ours(bench, R).model.eval() for R in replicas}
    ways = {}
    for R, model in models.items():
        of_each = np.broadcast_to(rows, (R, n))
        ways["scoring", R] = partial(minigpt.score, model, examples, rows, bench.device)
        ways["decoding", R] = partial(
            minigpt.generate, model, examples, of_each, NO_EOS, bench.device
        )
    lines, peaks = {way: Series(f"{way[0]}, R = {way[1]}") for way in ways}, []
    products = minigpt.onednn_products if minigpt.onednn_keeps_fp32() else nullcontext
    for round_ in range(rounds + 1):  # round 0 warms up
        with products():
            peak = matrix_product_peak(bench, bench.config, 4096, precision="fp32", backward=False)
        peaks.append(peak)
        for way in in_turn(list(ways), round_):
            spent, _ = stopwatch(bench, ways[way])
            if round_:
                lines[way].add(spent, n * way[1], length[way[0]] * way[1])
        progress(f"scoring: round {round_} of {rounds}")
    for (_, R), line in lines.items():
        line.facts = {"R": R} | line.work(2 * models[R].n_params(), peaks[1:], bench.clock)
    return {"peak_flops": peaks[1:], "ways": [line.summary() for line in lines.values()]}


# ----------------------------------------------------------------------------------------------
# Section: growth
# ----------------------------------------------------------------------------------------------


def examples_of_length(bench, length, n):
    """`n` made-up copying examples of `length` characters, the answer about half of each."""
    tokenizer = formats.load_tokenizer(ROOT / "data/processed/tokenizer.json")
    rng = np.random.default_rng(length)
    n_items = (length - len("[copy]  | ")) // 2
    texts = ["".join(rng.choice(list("0123456789"), n_items)) for _ in range(n)]
    return formats.build_examples([f"[copy] {t} | {t}" for t in texts], tokenizer, "made up")


def growth(bench, rounds, quick):
    """Examples/s of this project over sequence length, batch, width and R: {axis: [summary]}."""
    cuda, V = bench.device.type == "cuda", bench.config.vocab_size
    lengths, batches = (32, 64, 128, 256, 512), (1, 4, 8, 16, 32, 64, 128)
    widths, replicas = (64, 128, 256, 512), (1, 2, 4, 8)
    if cuda:
        widths, replicas = (*widths, 1024), (*replicas, 16, 32, 64)
    if quick:
        lengths, batches, widths, replicas = (a[:3] for a in (lengths, batches, widths, replicas))
    same = Ours(bench)
    points = []  # (axis, value, contender, batch size)
    for length in lengths:
        made = replace(bench, examples=examples_of_length(bench, length, 2_000))
        other = copy(same)
        other.bench = made
        points.append(("sequence length", length, other, 8))
    points += [("batch", n, same, n) for n in batches]
    for width in widths:
        points.append(("width", width, Ours(bench, config=model_config(V, width)), 8))
    points += [("R", R, Ours(bench, R), 8) for R in replicas]
    lines = [Series(f"{axis} {value}") for axis, value, *_ in points]
    for round_ in range(rounds + 1):  # round 0 warms up
        for i in in_turn(range(len(points)), 5 * round_):
            axis, value, contender, n = points[i]
            rows = draw_rows(contender.bench, round_, 1 + 4 * bench.more_steps, n, contender.R)
            time_training(lines[i], contender, rows, 1, keep=round_ > 0)
        progress(f"growth: round {round_} of {rounds}")
    result = {}
    for (axis, value, contender, _), line in zip(points, lines, strict=True):
        flops = 6 * contender.n_params * statistics.median(line.rates("tokens"))
        line.facts = {"value": value, "n_params": contender.n_params, "flops": flops}
        result.setdefault(axis, []).append(line.summary())
    return result


# ----------------------------------------------------------------------------------------------
# Section: a large model (CUDA only)
# ----------------------------------------------------------------------------------------------


def large(bench, rounds):
    """d_model 512, 16 layers, batch 128: rates, share of its own matrix-product peak, memory."""
    config = model_config(bench.config.vocab_size, 512, 16, head_dim=64)
    tokens = int(bench.examples.lengths.mean() * 128)
    line, peaks = Series("this project, d_model 512, 16 layers, batch 128"), []
    model = Ours(bench, config=config)
    for round_ in range(rounds + 1):  # round 0 warms up
        peaks.append(matrix_product_peak(bench, config, tokens, precision=bench.precision))
        rows = draw_rows(bench, round_, 100 if round_ else 2, 128)
        spent = stopwatch(bench, partial(model.train, rows, 1))[0]
        if round_:
            line.add(spent, rows.size, bench.examples.lengths[rows].sum())
        progress(f"large: round {round_} of {rounds}")
    line.facts = {"n_params": model.n_params, "peak_flops": peaks[1:]}
    line.facts |= line.work(6 * model.n_params, peaks[1:], bench.clock)
    del model
    rows = draw_rows(bench, 0, 2, 128)
    work = lambda: Ours(bench, config=config).train(rows, 1)  # noqa: E731
    line.facts["peak_memory_bytes"] = peak_memory(bench, work)
    return line.summary()


# ----------------------------------------------------------------------------------------------
# Tables
# ----------------------------------------------------------------------------------------------


def progress(text):
    print(text, file=sys.stderr, flush=True)


def table(header, rows):
    """A Markdown table, the first column to the left, numbers to the right."""
    cells = [header, *rows]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    pad = [str.ljust, *[str.rjust] * (len(header) - 1)]
    lines = [
        "| " + " | ".join(p(c, w) for p, c, w in zip(pad, row, widths, strict=True)) + " |"
        for row in cells
    ]
    rule = "| " + " | ".join(
        "-" * w if i == 0 else "-" * (w - 1) + ":" for i, w in enumerate(widths)
    )
    return "\n".join([lines[0], rule + " |", *lines[1:]])


def spread(line):
    low, high = line["examples_per_second_low"], line["examples_per_second_high"]
    return f"{line['examples_per_second']:,.1f} ({low:,.1f}–{high:,.1f})"


def times_best(line, others, clock="seconds"):
    """How many times the best of `others` (by median), round by round: "median (low–high)".

    Speed is by "seconds" of wall time or "cpu_seconds" of processor time.
    """

    def rates(x):
        return [n / s for n, s in zip(x["rounds"]["tokens"], x["rounds"][clock], strict=True)]

    best = max(others, key=lambda other: statistics.median(rates(other)))
    ratios = [a / b for a, b in zip(rates(line), rates(best), strict=True)]
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})"


def peak_line(peaks, clock):
    """How fast bare products were, one of `peaks` a round."""
    of = {"seconds": "second", "cpu_seconds": "second of processor time"}[clock]
    return f"matrix products on these shapes: {statistics.median(peaks) / 1e9:,.0f} GFLOP a {of}"


def training_tables(result, clock):
    parts = [peak_line(result["peak_flops"], clock)]
    if result["not_compiled_because"]:
        parts.append(f"without torch.compile: {result['not_compiled_because']}")
    header = ["training", "parameters", "examples/s", "per CPU s", "real tokens/s", "GFLOP/s"]
    header += ["of peak", "peak MiB", "× best peer", "by CPU time"]
    for setting, lines in result["settings"].items():
        peers = [line for line in lines if not line["ours"]]
        rows = [
            [
                line["name"],
                f"{line['n_params']:,}" + (f" × {line['R']}" if line["R"] > 1 else ""),
                spread(line),
                f"{line['examples_per_cpu_second']:,.1f}",
                f"{line['tokens_per_second']:,.0f}",
                f"{line['flops'] / 1e9:,.1f}",
                f"{line['share_of_peak']:.1%}",
                f"{line['peak_memory_bytes'] / 2**20:,.0f}",
                times_best(line, peers),
                times_best(line, peers, "cpu_seconds"),
            ]
            for line in lines
        ]
        parts.append(f"**{setting}**\n\n{table(header, rows)}")
    return "\n\n".join(parts)


def generation_table(result, title):
    ways = result["ways"]
    header = [title, "prompts/s", "new tokens/s", "this project is × as fast", "by CPU time"]
    rows = [
        [
            w["name"],
            spread(w),
            f"{w['tokens_per_second']:,.0f}",
            times_best(ways[0], [w]),
            times_best(ways[0], [w], "cpu_seconds"),
        ]
        for w in ways
    ]
    same, compared = result["same_as_one_by_one"], result["compared_with_one_by_one"]
    return (
        f"{table(header, rows)}\n\nthe same answers as one by one: {same} of {compared} "
        f"(of {result['prompts']} prompts)"
    )


def scoring_table(result, clock):
    header = ["evaluation, fp32", "examples/s", "per CPU s", "GFLOP/s", "of peak"]
    rows = [
        [
            line["name"],
            spread(line),
            f"{line['examples_per_cpu_second']:,.1f}",
            f"{line['flops'] / 1e9:,.1f}",
            f"{line['share_of_peak']:.1%}",
        ]
        for line in result["ways"]
    ]
    return f"{peak_line(result['peak_flops'], clock)}\n\n{table(header, rows)}"


def growth_tables(result):
    parts = []
    for axis, lines in result.items():
        header = [axis, "examples/s", "real tokens/s", "GFLOP/s"]
        rows = [
            [
                str(line["value"]),
                spread(line),
                f"{line['tokens_per_second']:,.0f}",
                f"{line['flops'] / 1e9:,.1f}",
            ]
            for line in lines
        ]
        parts.append(table(header, rows))
    return "\n\n".join(parts)


def large_table(line):
    header = ["large", "examples/s", "real tokens/s", "TFLOP/s", "of peak", "peak MiB"]
    row = [line["name"], spread(line), f"{line['tokens_per_second']:,.0f}"]
    row += [f"{line['flops'] / 1e12:,.1f}", f"{line['share_of_peak']:.1%}"]
    return table(header, [[*row, f"{line['peak_memory_bytes'] / 2**20:,.0f}"]])


def load():
    """Processes that ran or waited to, on average over the last minute; None where unknown."""
    return round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None


def machine(bench):
    """What the figures were measured on."""
    name = platform.processor() or platform.machine()
    cpu_info = Path("/proc/cpuinfo")
    if cpu_info.exists():
        models = [x for x in cpu_info.read_text().splitlines() if x.startswith("model name")]
        name = models[0].partition(":")[2].strip() if models else name
    if bench.device.type == "cuda":
        name = torch.cuda.get_device_name(bench.device)
    packages = ("torch", "numpy", "transformers", "x-transformers")
    found = [p for p in packages if find_spec(p.replace("-", "_"))]
    return {
        "device": name,
        "instructions": minigpt.cpu_bf16_instructions(),
        "threads": torch.get_num_threads(),
        "load": load(),
        "precision": bench.precision,
        "python": platform.python_version(),
        "system": platform.platform(),
        "packages": {package: version(package) for package in found},
    }


# ----------------------------------------------------------------------------------------------
# Main
# ----------------------------------------------------------------------------------------------


def measure_sections(args):
    started = time.perf_counter()
    bench = prepare(args.device)
    rounds = 2 if args.quick else args.rounds
    torch.manual_seed(0)
    where = machine(bench)
    packages = ", ".join(f"{name} {v}" for name, v in where["packages"].items())
    print(
        f"{date.today()}: {where['device']}, {where['threads']} threads, {where['precision']}, "
        f"load {where['load']}; "
        f"Python {where['python']}, {packages}; {rounds} rounds, median (lowest–highest)"
    )
    result = {"date": str(date.today()), "arguments": vars(args), "machine": where}
    if "train" in args.sections:
        result["training"] = training(
            bench,
            training_settings(bench, 1 if args.quick else args.steps),
            rounds,
            not_compiled=not_compiled_because(bench.device),
        )
        print(f"\n{training_tables(result['training'], bench.clock)}", flush=True)
    if "generate" in args.sections:
        n, part = (64, 4) if args.quick else (500, 50)
        result["generation"] = generation(bench, rounds, n, part)
        table_ = generation_table(result["generation"], "greedy generation")
        print(f"\n{table_}", flush=True)
    if "evaluate" in args.sections:
        found = evaluation(bench, rounds, *((32, 20) if args.quick else (128,)))
        result["evaluation"] = found
        title = f"evaluation, {found['right'] / found['prompts']:.0%} right"
        print(f"\n{generation_table(found, title)}", flush=True)
    if "scoring" in args.sections:
        result["scoring"] = scoring(bench, rounds, 32 if args.quick else 128)
        print(f"\n{scoring_table(result['scoring'], bench.clock)}", flush=True)
    if "growth" in args.sections:
        result["growth"] = growth(bench, rounds, args.quick)
        print(f"\n{growth_tables(result['growth'])}", flush=True)
    if "large" in args.sections and bench.device.type == "cuda":
        result["large"] = large(bench, rounds)
        print(f"\n{large_table(result['large'])}", flush=True)
    result["seconds"] = round(time.perf_counter() - started, 1)
    result["load_at_the_end"] = load()
    print(f"\n{result['seconds']:.0f} s in all, load {load()} at the end")
    if args.out:
        files.write_json(Path(args.out), result)


def main(argv=None):
    return run_main(lambda: measure_sections(build_parser().parse_args(argv)))


if __name__ == "__main__":
    sys.exit(main())
