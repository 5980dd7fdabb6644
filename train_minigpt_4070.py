"""Train a small GPT on synthetic tasks and measure whether it memorizes them or learns the rule.

    python train_minigpt_4070.py                      # add_only, a few minutes on two CPU cores
    python train_minigpt_4070.py --data data/processed/train_normal.pkl \\
        --tokenizer data/processed/tokenizer.json --out_dir runs/normal --seeds 0-3
    torchrun --standalone --nproc_per_node=4 train_minigpt_4070.py --seeds 0-63 --resume
    python train_minigpt_4070.py --dry_run            # what would run: size, memory, time, audit
    python train_minigpt_4070.py --help               # every flag, with its unit and its effect

One example is one line, `[tag] prompt | answer`; characters are tokens. Only the answer and its
`<eos>` are trained and scored. Several seeds train side by side: every parameter has a leading
replica axis R, and replicas never mix.
"""

import argparse
import errno
import functools
import importlib.util
import io
import json
import math
import os
import pickle
import shlex
import subprocess
import sys
import time
import zipfile
from collections import defaultdict, deque, namedtuple
from collections.abc import Callable
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from data.readers import RowFormat, columns_flag, tag_flag
from runtime.cli import (
    Parser,
    answer_early,
    bounded,
    count_text,
    cut_middle,
    leave,
    outcome,
    path_text,
    printable,
)
from runtime.errors import Halt, NotFinite, UserError

# ----------------------------------------------------------------------------------------------
# Command line
# ----------------------------------------------------------------------------------------------


POSITIONS = ("rope", "nope", "alibi", "learned")
OPTIMIZERS = ("adamw", "muon")
MAX_SEED = 2**32 - 1


def seed_list(text):
    """`0-3`, `1,5,9` or a mixture -> a list of distinct seeds."""
    seeds = []
    for part in text.split(","):
        ends = part.split("-")
        if len(ends) > 2 or not all(end.isdecimal() and len(end) < 11 for end in ends):
            raise argparse.ArgumentTypeError(f"{text!r} is no list of seeds; write 0-3 or 1,5,9")
        first, last = int(ends[0]), int(ends[-1])
        if last < first or last > MAX_SEED or last - first >= 4096:
            raise argparse.ArgumentTypeError(
                f"{part!r} must count up, to at most {MAX_SEED}, over at most 4,096 seeds"
            )
        seeds.extend(range(first, last + 1))
    if len(set(seeds)) < len(seeds):
        raise argparse.ArgumentTypeError(f"{text!r} names a seed twice")
    return seeds


def build_parser():
    parser = Parser(
        "Train a small GPT and measure whether it memorizes or learns the rule. Without arguments\n"
        "it learns two-operand sums: a few minutes on two CPU cores."
    )
    count, natural = bounded(int, 1, 10**9), bounded(int, 0, 10**9)
    positive, share = bounded(float, 1e-12, 1e12), bounded(float, 0, 1)
    below_one = bounded(float, 0, 1 - 1e-9)
    switch = argparse.BooleanOptionalAction
    # fmt: off
    flag = parser.add_argument_group("data").add_argument
    flag("--data", default="data/add_only/train.pkl", type=path_text, metavar="FILE",
         help="training set: .txt, .jsonl, .json, .csv, .tsv or .pkl")
    flag("--val_data", type=path_text, metavar="FILE",
         help="validation set (default: val.* beside --data, or else a held-out tenth of --data)")
    flag("--tokenizer", type=path_text, metavar="FILE",
         help="tokenizer JSON (default: tokenizer.json beside --data, or else one made of the data "
              "and kept in --out_dir)")
    flag("--columns", type=columns_flag, metavar="prompt=COLUMN,answer=COLUMN[,task=COLUMN]",
         help="columns of a .csv, .tsv, .json or .jsonl (default: told by their names)")
    flag("--task", type=tag_flag, metavar="NAME",
         help="tag of the rows that name no task; it also reads lines without a tag: `12 + 5 | 17`,"
              " `12+5=17` and SCAN's `IN: … OUT: …`")
    flag("--out_dir", type=path_text, metavar="DIR",
         help="run folder to write (default: runs/<name of --data>; of the standard sums "
              "runs/step1_add_only)")

    flag = parser.add_argument_group("panel: what the models that saw an example know of it, "
                                     "beside those that did not").add_argument
    flag("--subset", type=bounded(float, 1e-6, 1), metavar="SHARE",
         help="each seed trains on its own random SHARE of the distinct examples; a ledger keeps "
              "what it knows of all of them (evaluate_memorization.py)")
    flag("--canaries", type=natural, default=0, metavar="N",
         help="plant N examples whose answer breaks the rule, each 0 to 32 times a seed; needs "
              "--subset")

    flag = parser.add_argument_group("model").add_argument
    flag("--d_model", type=count, default=128, help="width, channels")
    flag("--n_layers", type=bounded(int, 1, 1000), default=4, help="transformer blocks")
    flag("--n_heads", type=count, default=4,
         help="attention heads; d_model must be a multiple of twice as many")
    flag("--d_ff", type=count,
         help="hidden channels of the MLP (default: 4 x d_model; with SwiGLU 8/3 x d_model)")
    flag("--max_len", type=count,
         help="longest example allowed, characters (default: what the data needs)")
    flag("--pos", choices=POSITIONS, default="rope",
         help="position encoding")
    flag("--use_swiglu", action="store_true", help="SwiGLU instead of GELU in the MLP")
    flag("--dropout", type=bounded(float, 0, 0.99), default=0.1,
         help="dropout probability on embeddings and block outputs; regularizes")
    flag("--init_std", type=bounded(float, 1e-6, 10), default=0.02,
         help="standard deviation of the initial weights; large ones may make it memorize first")

    flag = parser.add_argument_group("optimization").add_argument
    flag("--epochs", type=bounded(int, 1, 10**6), default=30, help="passes over the training set")
    flag("--lr", type=positive, default=1e-4,
         help="peak learning rate at width 1024; scaled by 1024 / d_model")
    flag("--no_lr_scaling", action="store_true", help="take --lr literally at any width")
    flag("--warmup_steps", type=natural, default=200,
         help="steps of linear warm-up; at most a tenth of the run is taken")
    flag("--min_lr_ratio", type=share, default=0.1,
         help="learning rate at the end of the cosine, as a share of the peak")
    flag("--batch_size", type=count, default=32, help="examples in a micro-batch")
    flag("--accumulation_steps", type=count, default=1,
         help="micro-batches in an optimizer step; run at once where memory allows")
    flag("--optimizer", choices=OPTIMIZERS, default="adamw",
         help="muon: Muon on the matrices of the blocks, scaled to updates of AdamW's size, and "
              "AdamW on embeddings and biases")
    flag("--beta1", type=below_one, default=0.9, help="AdamW's decay rate of the first moment")
    flag("--beta2", type=below_one, default=0.95, help="AdamW's decay rate of the second moment")
    flag("--weight_decay", type=bounded(float, 0, 1e6), default=0.01,
         help="decoupled, on matrices only")
    flag("--max_grad_norm", type=bounded(float, 0, 1e12), default=1.0,
         help="clip each model's gradient to this norm; 0 never does")
    flag("--label_smoothing", type=bounded(float, 0, 0.99), default=0.0,
         help="share of the target's probability spread over all tokens")
    flag("--patience", type=natural, default=10,
         help="stop after this many epochs in which neither unseen exact match nor loss improved, "
              "or when every unseen example stayed right, in all validations, for as many steps as "
              "an epoch has; 0 never does")
    flag("--min_delta", type=bounded(float, 0, 1e6), default=1e-3,
         help="least improvement that counts: a share (exact match) or nats (loss)")

    flag = parser.add_argument_group("curriculum").add_argument
    flag("--task_curriculum", action="store_true",
         help="add the tasks one by one: copy, rev, add, sort, rel")
    flag("--task_curriculum_epochs", type=natural,
         help="epochs the stages are spread over (default: the first 40 %% of --epochs)")

    flag = parser.add_argument_group("evaluation").add_argument
    flag("--show_samples", action=switch, default=True,
         help="print a prediction for each task after each validation")
    flag("--autoreg_eval", action=switch, default=True,
         help="generate what failed: token accuracy, edit distance, kinds of failure")
    flag("--eval_every", type=count, metavar="EPOCHS",
         help="epochs between validations (default: 1, or none where validation is by steps). Of "
              "this and the two flags below each adds its own, and the last step is validated")
    flag("--eval_every_steps", type=natural, default=0, metavar="STEPS",
         help="optimizer steps between validations; 0 makes none")
    flag("--eval_log", type=bounded(int, 0, 1000), default=0, metavar="K",
         help="validate after log-spaced steps, K a decade: 10 ** (i / K), rounded (K = 6: 1, 2, "
              "3, 5, 7, 10, 15, 22, 32, 46, 68, 100, 147, ...); 0 makes none")

    flag = parser.add_argument_group("system").add_argument
    flag("--seed", type=bounded(int, 0, MAX_SEED), default=0,
         help="of initialisation, data order and dropout")
    flag("--seeds", type=seed_list, metavar="0-3",
         help="train these seeds side by side, each in its own folder; overrides --seed")
    flag("--device", default="auto", help="auto, cpu, cuda or cuda:<n>")
    flag("--amp", choices=("auto", "fp32", "bf16", "fp16"), default="auto",
         help="precision of matrix products; auto takes the fastest safe one")
    flag("--cuda_graph", action=switch, default=True,
         help="launch a GPU's training step as one CUDA graph, where the other flags allow it")
    flag("--use_checkpoint", action="store_true",
         help="recompute activations in the backward pass: less memory, slower")
    flag("--deterministic", action="store_true",
         help="on a GPU too the same bits each time, at some cost in speed")
    flag("--save_every", type=count, default=1, help="epochs between checkpoints to resume from")
    flag("--save_every_steps", type=natural, default=0,
         help="optimizer steps between further checkpoints, within an epoch; 0 makes none")
    flag("--resume", action="store_true",
         help="go on with the run in --out_dir, same arguments, or begin it if there is none; a "
              "finished one is left as it is")
    flag("--overwrite", action="store_true", help="replace the run in --out_dir")
    flag("--tensorboard", action="store_true",
         help="write the numbers of metrics.jsonl for TensorBoard too")
    flag("--dry_run", action="store_true",
         help="print model size, memory, steps, time and the data audit, and stop")
    # fmt: on
    return parser


def check_flags(args):
    """Raise UserError where flags need or exclude one another."""
    if args.tensorboard and importlib.util.find_spec("tensorboard") is None:
        raise UserError("--tensorboard needs the package tensorboard; pip install tensorboard")
    if args.task_curriculum_epochs is not None and not args.task_curriculum:
        raise UserError(
            "--task_curriculum_epochs needs --task_curriculum; add it, or leave both out"
        )
    if args.canaries and args.subset is None:
        raise UserError("--canaries needs --subset; add it (--subset 0.5), or leave --canaries out")
    if args.resume and args.overwrite:
        raise UserError("--resume goes on with a run and --overwrite replaces it; give one of them")
    if args.d_model % (2 * args.n_heads):
        raise UserError(
            f"--d_model {args.d_model} must be a multiple of 2 x --n_heads {args.n_heads}: "
            "each head has an even number of channels"
        )


def read_flags(argv=None):
    """The arguments on the command line, checked as far as they can be without the data."""
    args = build_parser().parse_args(argv)
    check_flags(args)
    return args


if __name__ == "__main__":  # --help and mistakes in flags need not wait for the imports below
    answer_early(read_flags)


# ----------------------------------------------------------------------------------------------
# Imports that take seconds
# ----------------------------------------------------------------------------------------------

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.adamw import adamw
from tqdm import tqdm

import metrics
from data.audit import (
    Data,
    audit_notes,
    key_texts,
    load_data,
    matched_sample,
    sample_by_count,
)
from data.baselines import chance_of, lookup_words, mean_lookup
from data.formats import Examples, Tokenizer
from data.sources import default_out_dir
from data.subsets import CANARY_COUNTS, PanelData, check_draw, make_panel
from data.tasks import TASKS, standard_tasks
from runtime.device import (
    DTYPES,
    choose_device,
    cpu_bf16_instructions,
    git_state,
    machine_facts,
    total_memory_bytes,
    versions,
)
from runtime.distributed import (
    ALONE,
    EndTogether,
    Standing,
    StopSignals,
    World,
    barrier,
    from_first,
    gather,
    gradients,
    join_world,
    leave_world,
    share_work,
    sum_over_processes,
)
from runtime.files import ROOT, check_archive, write_atomically, write_json
from runtime.ledger import CANARIES_FILE, LEDGER_FILE, Ledger, kept_epochs, read_ledger
from runtime.limits import CoreWatch
from runtime.records import read_epochs, seed_folder
from runtime.run_folder import (
    Work,
    append_lines,
    changed_arguments,
    check_bytes,
    claim_folders,
    cut_lines_after,
    decide_work,
    find_resumable,
    folder_problem,
    hashes,
    notes_on_machine,
    read_began,
    save_last,
    write_checkpoint,
    writing,
    written,
)

IGNORED = -1  # a target that is padding
RUN_ON = 8  # generation may run this many characters past the answer's length before it is cut


# ----------------------------------------------------------------------------------------------
# Batching: real tokens only
# ----------------------------------------------------------------------------------------------


GROUP_PADDING = 16  # positions worth one attention call less (measured on CPU, d_model 256)
# Positions, and the answers of a batch laid out by itself, come in multiples of it. oneDNN builds
# kernels for every shape that it has not seen of late: without this, steps with bf16 products took
# 1.2 times as long at batch 8.
ROUND = 16


def put(array, device):
    """The NumPy array as a tensor on `device`. A GPU is not waited for, as it would be with memory
    that is not pinned.
    """
    tensor = torch.from_numpy(array)
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


class Resident:
    """`examples` as tensors on `device`, and a last row of length 0, which fills short batches."""

    def __init__(self, examples, device):
        self.examples, self.device = examples, torch.device(device)
        self.ids = put(examples.ids, self.device)
        starts = np.append(examples.starts, examples.starts.dtype.type(0))
        lengths = np.append(examples.lengths, np.int32(0))
        answer_start = np.append(examples.answer_start, np.int32(0))
        self.starts, self.lengths, self.answer_start = (
            put(array, self.device) for array in (starts, lengths, answer_start)
        )


def resident(examples, device):
    """The Resident of `examples` on `device`, made once."""
    device = torch.device(device)
    if device not in examples.residents:
        examples.residents[device] = Resident(examples, device)
    return examples.residents[device]


@dataclass
class Layout:
    """How R batches of B examples lie end to end, longest example first.

    The k-th longest examples of all replicas share slot k; runs of equal slots are a group, and
    attention works group by group on views. Slots of almost the same length are made equal, so
    that groups are few. Causal attention never looks right, so padding needs no mask. What fills
    up the last of the N positions belongs to no group.
    """

    slots: np.ndarray  # int64 [B]: length of each slot, descending
    n_answers: int  # M, at least as many as any replica has answer tokens
    device: torch.device

    def __post_init__(self):
        _, first, counts = np.unique(-self.slots, return_index=True, return_counts=True)
        self.groups = [(int(b), int(self.slots[i])) for i, b in zip(first, counts, strict=True)]
        slot = np.repeat(np.arange(len(self.slots)), self.slots)
        pos = np.arange(len(slot)) - np.repeat(np.cumsum(self.slots) - self.slots, self.slots)
        filler = (0, -len(slot) % ROUND)
        slot = np.pad(slot, filler, constant_values=len(self.slots) - 1)
        # Filler positions point past the end of the last slot: they are no token of its example.
        pos = np.pad(pos, filler, constant_values=self.slots[-1])
        self.slot, self.pos = put(slot, self.device), put(pos, self.device)  # [N]


@dataclass
class Batch:
    """R batches of B examples, one a replica, in the order of a Layout."""

    ids: torch.Tensor  # int64 [R, N]
    pos: torch.Tensor  # int64 [N]: position within the example
    groups: list  # [(examples b, length T)], sum of b * T <= N: after them comes filler
    answer_at: torch.Tensor  # int64 [R, M]: positions in N whose next token is trained and scored
    targets: torch.Tensor  # int64 [R, M]: that next token; IGNORED where there are fewer than M
    slot: torch.Tensor  # int64 [R, M]: the slot each target belongs to
    order: np.ndarray = None  # int64 [R, B]: which of the rows asked for stands in each slot
    places: torch.Tensor = None  # int64 [R, N]: of each example in the effective batch; for dropout

    @property
    def n_targets(self):
        """int64 [R]: answer and <eos> tokens."""
        return (self.targets != IGNORED).sum(1)


def merge_lengths(lengths, padding):
    """Lengthen some of the descending `lengths`, int [B], so that few distinct ones remain.

    >>> merge_lengths(np.array([9, 8, 8, 3, 2]), padding=2).tolist()
    [9, 9, 9, 3, 3]
    """
    merged, longest, spent = lengths.copy(), lengths[0], 0
    for i, length in enumerate(lengths.tolist()):
        spent += longest - length
        if spent > padding:
            longest, spent = length, 0
        merged[i] = longest
    return merged


def lay_rows(data, rows, layout, prompts_only=False, places=None):
    """Gather `rows`, int64 [R, B] on the device and longest first, into a Batch.

    `places`, int64 [R, B], are those of the rows in the effective batch. The result's shapes depend
    on `layout` alone, and nothing waits for the device.
    """
    starts, lengths, answer_start = (
        t[rows].long() for t in (data.starts, data.lengths, data.answer_start)
    )
    slot, pos = layout.slot, layout.pos
    ends = answer_start if prompts_only else lengths
    real = pos < ends[:, slot]  # [R, N]
    source = torch.where(real, starts[:, slot] + pos, 0)
    ids = torch.where(real, data.ids[source], 0).long()
    wanted = (real & (pos >= answer_start[:, slot] - 1)).to(torch.uint8)
    answer_at = wanted.argsort(dim=1, descending=True, stable=True)[:, : layout.n_answers]
    next_ids = data.ids[source.gather(1, answer_at) + 1].long()
    targets = torch.where(wanted.gather(1, answer_at) > 0, next_ids, IGNORED)
    return Batch(
        ids=ids,
        pos=pos,
        groups=layout.groups,
        answer_at=answer_at,
        targets=targets,
        slot=slot[answer_at],
        places=None if places is None else places[:, slot],
    )


def make_batch(data, rows, prompts_only=False, places=None):
    """Gather `rows`, int [R, B], of a Resident into a Batch laid out by their own lengths.

    `places`, int64 [B], are those of the columns in the effective batch. With `prompts_only` the
    answers are left out and `answer_at` is the last prompt position.
    """
    examples = data.examples
    ends = (examples.answer_start if prompts_only else examples.lengths)[rows]  # [R, B]
    order = np.argsort(-ends, axis=1, kind="stable")
    n_answers = rows.shape[1]
    if not prompts_only:
        n_answers = (examples.lengths[rows] - examples.answer_start[rows] + 1).sum(1).max()
        n_answers += -n_answers % ROUND
    slots = merge_lengths(np.take_along_axis(ends, order, 1).max(0), GROUP_PADDING // len(rows))
    layout = Layout(slots, int(n_answers), data.device)
    sorted_rows = put(np.take_along_axis(rows, order, 1), data.device)
    sorted_places = None if places is None else put(places[order], data.device)
    batch = lay_rows(data, sorted_rows, layout, prompts_only, sorted_places)
    batch.order = order
    return batch


def fixed_slots(examples, orders, batch_size):
    """One layout for every batch of an epoch whose order is `orders`, int64 [R, n].

    Returns the rows of each step, longest first, int64 [steps, R, B], filled up with row
    len(examples), which has no length; the place of each in its batch, of the same shape; the slots
    [B] that hold them all; and the most answer tokens of any batch.
    """
    (R, n), B = orders.shape, min(batch_size, orders.shape[1])
    rows = np.pad(orders, ((0, 0), (0, -n % B)), constant_values=len(examples))
    rows = rows.reshape(R, -1, B).swapaxes(0, 1)
    lengths = np.append(examples.lengths, 0)[rows]
    n_answers = (lengths - np.append(examples.answer_start, 1)[rows] + 1).sum(2).max()
    order = np.argsort(-lengths, axis=2, kind="stable")
    slots = np.take_along_axis(lengths, order, 2).max((0, 1))
    slots = merge_lengths(slots, padding=max(GROUP_PADDING, slots.sum() // 128))
    return np.take_along_axis(rows, order, 2), order, slots, int(n_answers)


# ----------------------------------------------------------------------------------------------
# Model
# ----------------------------------------------------------------------------------------------
#
# Shapes:  R  replicas                     C  channels, d_model
#          B  examples of a batch          H  heads
#          N  positions of a batch         D  channels of a head, C / H
#          T  positions of an example      V  tokens of the vocabulary
#          M  answer tokens of a batch


@dataclass(frozen=True)
class GPTConfig:
    vocab_size: int
    max_len: int  # positions of the learned table, RUN_ON for generation included
    d_model: int
    n_layers: int
    n_heads: int
    d_ff: int
    pos: str = "rope"
    swiglu: bool = False
    dropout: float = 0.0


@contextmanager
def onednn_products():
    """Let oneDNN make fp32 products. Torch hands it those only that may be rounded to bf16.

    Whether it does round them, `onednn_keeps_fp32` finds out. Not around attention: each of its
    many small products would wait for oneDNN.
    """
    settings = torch.backends.mkldnn.matmul
    before, settings.fp32_precision = settings.fp32_precision, "bf16"
    try:
        yield
    finally:
        settings.fp32_precision = before


@functools.cache
def onednn_keeps_fp32():
    """Whether oneDNN makes fp32 products here without rounding them, though allowed to.

    With AMX it rounds. On an AMD EPYC (Zen 5) it makes 430 GFLOP/s, and MKL, torch's own choice,
    195: scoring became 1.6 times as fast, generation 1.4 times. Measured nowhere else.
    """
    if cpu_bf16_instructions() != "avx512":
        return False
    x, w = (torch.randn(1, 256, 256, generator=torch.Generator().manual_seed(i)) for i in (0, 1))
    with torch.no_grad(), onednn_products():
        error = torch.baddbmm(torch.zeros(1, 1, 256), x, w).double() - x.double() @ w.double()
    return float(error.abs().max()) < 1e-3  # 4e-5 in fp32, 0.1 in bf16


class CastTogether(torch.autograd.Function):
    """fp32 tensors in another dtype, and their gradients in fp32: a few kernels for all of them.

    One by one they would be two kernels for each, 96 in a step of 6 layers.
    """

    @staticmethod
    def forward(ctx, dtype, *tensors):
        cast = [torch.empty_like(t, dtype=dtype) for t in tensors]
        torch._foreach_copy_(cast, tensors)
        return tuple(cast)

    @staticmethod
    def backward(ctx, *gradients):
        cast = [torch.empty_like(g, dtype=torch.float32) for g in gradients]
        torch._foreach_copy_(cast, gradients)
        return None, *cast


def linear(x, w, b):
    """x [R, N, in] @ w [R, in, out] + b [R, 1, out], one product a replica, in w's dtype."""
    x = x.to(w.dtype)
    if x.is_cuda and len(w) == 1:  # this adds b inside the product; baddbmm copies it out first
        return torch.addmm(b.flatten(), x.squeeze(0), w.squeeze(0)).unsqueeze(0)
    # Below 4 million multiplications oneDNN's start, 20 microseconds, costs more than it saves.
    large = w.dtype == torch.float32 and w.numel() * x.shape[1] > 2**22
    large = large and x.device.type == "cpu"
    if large and onednn_keeps_fp32():
        with onednn_products():
            return torch.baddbmm(b, x, w)
    return torch.baddbmm(b, x, w)


# Dropout's bits are a hash of (replica's seed, step, site, place of the example in the effective
# batch, position, channel) and of nothing else. So a replica drops the same alone or among others,
# with the batch at once, in pieces or shared by processes, on CPU or GPU, and when a layer is
# computed again. Nothing needs saving to resume. Made of torch's integer products, which wrap
# around, the hash goes into a CUDA graph.
GOLDEN = 0x9E3779B97F4A7C15 - 2**64  # 2**64 over the golden ratio, odd, as int64
MIX_1, MIX_2 = 0xBF58476D1CE4E5B9 - 2**64, 0x94D049BB133111EB - 2**64  # splitmix64's
PLACE_BITS = 24  # positions in an example are fewer than 2**24


def mix(h: torch.Tensor) -> torch.Tensor:
    """A hash of each int64. Applied twice, every bit depends on every other.

    As in splitmix64 (Steele et al., 2014), with fewer shifts: each is a pass over memory.
    """
    h = h * MIX_1
    h ^= h >> 32
    h *= MIX_2
    return h


def dropout_noise(seeds: list[int], step: int) -> torch.Tensor:
    """What the dropout of each replica depends on in `step`: int64 [R], on the CPU."""
    return mix(mix(torch.tensor(seeds, dtype=torch.int64) + GOLDEN) + step)


def site_keys(noise: torch.Tensor, batch: Batch, n_sites: int) -> torch.Tensor:
    """A key for each site of dropout and each position: int64 [n_sites, R, N].

    `noise` is int64 [R], on the batch's device.
    """
    at = (batch.places << PLACE_BITS) + batch.pos  # [R, N]
    keys = mix(mix((at * GOLDEN) ^ noise[:, None]))
    sites = torch.arange(1, n_sites + 1, device=at.device) * GOLDEN
    return mix(keys ^ sites[:, None, None])


@functools.cache
def channel_keys(n: int, device: torch.device) -> torch.Tensor:
    """A key for each group of 4 channels: int64 [n]."""
    return mix(mix(torch.arange(1, n + 1) * GOLDEN)).to(device)


def dropout_masks(keys: torch.Tensor, C: int, p: float) -> torch.Tensor:
    """Masks of 0, with probability p, and of 1 / (1 - p): keys [..., N] -> float [..., N, C].

    Each element takes 16 bits, which meet p to 1 / 65536.
    """
    words = mix(keys[..., None] ^ channel_keys(-(-C // 4), keys.device))  # 4 elements each
    dropped = round(p * 65536)
    keep = words.view(torch.int16)[..., :C] >= dropped - 32768
    return keep.view(torch.uint8).float().mul_(65536 / (65536 - dropped))


def rotate(x, turns):
    """Rotary position embedding of x [..., D] by turns [..., D / 2] (Su et al., arXiv:2104.09864).

    Neighbouring pairs of x are complex numbers: one multiplication each way instead of four.
    """
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * turns).flatten(-2).type_as(x)


def rotary_turns(pos, head_dim):
    """exp(i * pos * theta_k) for q and k: complex64 [*pos.shape, 3, 1, head_dim / 2].

    For v, which goes along so that nothing is split and joined again, 1.
    """
    exponent = torch.arange(0, head_dim, 2, device=pos.device, dtype=torch.float32) / head_dim
    angles = pos.float()[..., None] * 10_000.0**-exponent
    angles = torch.stack([angles, angles, torch.zeros_like(angles)], -2)
    return torch.polar(torch.ones_like(angles), angles)[..., None, :]


def alibi_slopes(n_heads, device):
    """2 ** (-8 h / H) for h = 1 … H (Press et al., 2022, arXiv:2108.12409), float [H, 1, 1]."""
    exponent = torch.arange(1, n_heads + 1, device=device, dtype=torch.float32) * (-8 / n_heads)
    return torch.pow(2.0, exponent)[:, None, None]  # on a GPU exp2 needs a compiler at run time


Weights = namedtuple("Weights", "w_qkv b_qkv w_out b_out w_up b_up w_down b_down")


class Block(nn.Module):
    """Pre-norm attention and MLP. The norms have no gain or bias: the next matrix has both.

    `qkv` and `add_outputs` take this block's Weights in the precision of the products.
    """

    def __init__(self, config, R):
        super().__init__()
        C, hidden = config.d_model, config.d_ff
        self.config = config

        def matrix(n_in, n_out):
            return nn.Parameter(torch.empty(R, n_in, n_out)), nn.Parameter(torch.zeros(R, 1, n_out))

        self.w_qkv, self.b_qkv = matrix(C, 3 * C)
        self.w_out, self.b_out = matrix(C, C)
        self.w_up, self.b_up = matrix(C, hidden * (2 if config.swiglu else 1))
        self.w_down, self.b_down = matrix(hidden, C)

    def qkv(self, x, turns, weights):
        """x [R, N, C] -> q, k and v together, [R, N, 3, H, D], q and k rotated."""
        h = linear(F.layer_norm(x, x.shape[-1:]), weights.w_qkv, weights.b_qkv)
        if h.device.type == "cpu":  # attention in bf16 takes 9 times as long there as in fp32
            h = h.float()
        h = h.unflatten(-1, (3, self.config.n_heads, -1))
        return h if turns is None else rotate(h, turns)

    def add_outputs(self, x, y, weights, masks=None):
        """Add attention's output y [R, N, C] and the MLP's to the residual stream x.

        `masks`, float [2, R, N, C], are those of dropout.
        """
        attended = linear(y, weights.w_out, weights.b_out)
        x = x + (attended if masks is None else attended * masks[0])
        h = linear(F.layer_norm(x, x.shape[-1:]), weights.w_up, weights.b_up)
        if self.config.swiglu:
            gate, h = h.chunk(2, -1)
            h = F.silu(gate) * h
        else:
            h = F.gelu(h)
        h = linear(h, weights.w_down, weights.b_down)
        return x + (h if masks is None else h * masks[1])


class GPT(nn.Module):
    """Decoder-only transformer with a leading replica axis R on every parameter.

    `seeds` gives the initialisation of each replica: replica r is the same alone or among others.
    `init_std` is the standard deviation of its matrices, GPT-2's unless another is given.
    """

    def __init__(self, config, seeds, init_std=0.02):
        super().__init__()
        R = len(seeds)
        self.config = config
        self.use_checkpoint = False
        self.train_dtype = torch.float32
        self.w_tokens = nn.Parameter(torch.empty(R, config.vocab_size, config.d_model))
        if config.pos == "learned":
            self.w_positions = nn.Parameter(torch.empty(R, config.max_len, config.d_model))
        self.blocks = nn.ModuleList(Block(config, R) for _ in range(config.n_layers))
        self._initialise(seeds, init_std)

    @torch.no_grad()
    def _initialise(self, seeds, std):
        # As in GPT-2, smaller where a layer adds to the residual stream.
        residual_std = std / math.sqrt(2 * self.config.n_layers)
        for r, seed in enumerate(seeds):
            generator = torch.Generator().manual_seed(seed)
            for name, p in self.named_parameters():
                if p.is_meta:  # only its shape is wanted
                    continue
                if name.rpartition(".")[2].startswith("w_"):
                    residual = name.endswith(("w_out", "w_down"))
                    p[r].normal_(0, residual_std if residual else std, generator=generator)

    @property
    def R(self):
        return self.w_tokens.shape[0]

    def n_params(self):
        """Parameters of one replica."""
        return sum(p[0].numel() for p in self.parameters())

    def set_precision(self, precision):
        """Train with matrix products in "fp32", "bf16" or "fp16". Weights, residual stream and
        evaluation are always fp32.
        """
        self.train_dtype = DTYPES[precision]

    def block_weights(self):
        """The Weights of each block, in the precision of its products."""
        tensors = [getattr(block, name) for block in self.blocks for name in Weights._fields]
        if self.training and self.train_dtype != torch.float32:
            tensors = CastTogether.apply(self.train_dtype, *tensors)
        n = len(Weights._fields)
        return [Weights(*tensors[i : i + n]) for i in range(0, len(tensors), n)]

    def embed(self, ids, pos):
        """ids [R, N], pos [N] or [R, N] -> x [R, N, C]."""
        R, V, C = self.w_tokens.shape
        offset = torch.arange(R, device=ids.device)[:, None]
        x = F.embedding(ids + offset * V, self.w_tokens.view(R * V, C))
        if self.config.pos == "learned":
            table = self.w_positions.view(-1, C)
            x = x + F.embedding(pos + offset * self.config.max_len, table)
        return x

    def turns(self, pos):
        head_dim = self.config.d_model // self.config.n_heads
        return rotary_turns(pos, head_dim) if self.config.pos == "rope" else None

    def attend(self, qkv, groups):
        """Causal attention within each example: qkv [R, N, 3, H, D] -> [R, N, C].

        Splitting, rather than slicing, makes the backward pass one concatenation. Filler positions
        copy their own value vector: it is finite, and nothing reads it.
        """
        R, N, _, H, D = qkv.shape
        sizes = [b * T for b, T in groups]
        *parts, filler = qkv.split([*sizes, N - sum(sizes)], dim=1)
        outputs = []
        for (b, T), part in zip(groups, parts, strict=True):
            q, k, v = (t.reshape(R * b, T, H, D).transpose(1, 2) for t in part.unbind(2))
            if self.config.pos == "alibi":
                steps = torch.arange(T, device=qkv.device)
                behind = steps[:, None] - steps
                bias = -alibi_slopes(H, qkv.device) * behind
                bias = bias.masked_fill(behind < 0, -math.inf).to(q.dtype)
                y = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
            else:
                y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            outputs.append(y.transpose(1, 2).reshape(R, b * T, H * D))
        return torch.cat([*outputs, filler[:, :, 2].flatten(2)], 1)

    def forward(self, batch, cache=None, noise=None):
        """Return the logits at `batch.answer_at`, float [R, M, V].

        `cache`, a list, receives each layer's keys and values, [R, N, H, D] each. Training with
        dropout needs `noise`, int64 [R] from `dropout_noise`, on the batch's device, and the
        batch's places.
        """
        C, p = self.config.d_model, self.config.dropout if self.training else 0.0
        turns, x = self.turns(batch.pos), self.embed(batch.ids, batch.pos)
        keys = None
        if p:
            keys = site_keys(noise, batch, 1 + 2 * len(self.blocks))
            x = x * dropout_masks(keys[0], C, p)

        def block_step(layer, block, weights, x, last):
            qkv = block.qkv(x, turns, weights)
            if cache is not None:
                cache.append(qkv[:, :, 1:].unbind(2))
            y = self.attend(qkv, batch.groups)
            sites = keys[2 * layer + 1 : 2 * layer + 3] if p else None  # [2, R, N]
            if last:  # what follows is needed where a token is predicted, and nowhere else
                x, y = take_positions(x, batch.answer_at), take_positions(y, batch.answer_at)
                if p:
                    sites = sites.gather(2, batch.answer_at.expand(2, -1, -1))  # [2, R, M]
            return block.add_outputs(x, y, weights, dropout_masks(sites, C, p) if p else None)

        for layer, weights in enumerate(self.block_weights()):
            block, last = self.blocks[layer], layer == len(self.blocks) - 1
            if self.use_checkpoint and self.training:
                x = torch.utils.checkpoint.checkpoint(
                    block_step,
                    layer,
                    block,
                    weights,
                    x,
                    last,
                    use_reentrant=False,
                    preserve_rng_state=False,
                )
            else:
                x = block_step(layer, block, weights, x, last)
        return self.head(x)

    def head(self, x):
        """Tied output: x [R, M, C] -> logits [R, M, V]."""
        return torch.bmm(F.layer_norm(x, x.shape[-1:]), self.w_tokens.mT)


def take_positions(x, index):
    """x [R, N, C] at index [R, M] -> [R, M, C]."""
    R, N, C = x.shape
    rows = (index + torch.arange(R, device=x.device)[:, None] * N).flatten()
    return x.reshape(R * N, C).index_select(0, rows).view(R, -1, C)


def token_losses(logits, targets, label_smoothing=0.0):
    """Cross-entropy of each answer token, nats, float32 [R, M]; 0 where the target is IGNORED."""
    losses = F.cross_entropy(
        logits.flatten(0, 1).float(),
        targets.flatten(),
        ignore_index=IGNORED,
        label_smoothing=label_smoothing,
        reduction="none",
    )
    return losses.view(targets.shape)


def answer_loss(logits, targets, label_smoothing=0.0):
    """Sum of token_losses over each replica's answer tokens, float32 [R]."""
    return token_losses(logits, targets, label_smoothing).sum(1)


@torch.no_grad()
def keep_replicas(model, optimizer, keep):
    """Drop all replicas but those in the list `keep` from the model and its optimizer state."""
    for p in model.parameters():
        state = optimizer.state[p] if optimizer is not None else {}
        for name in state.keys() - {"step"}:
            state[name] = state[name][keep].clone()
        p.grad = None
        p.data = p.data[keep].clone()


# ----------------------------------------------------------------------------------------------
# Generation
# ----------------------------------------------------------------------------------------------


def attend_cached(config, qkv, cache, pos, S):
    """One query a row against its first S cached keys; writes this step's key and value first.

    qkv [R, B, 3, H, D], cache (K, V) [R, B, H, >= S, D] each, pos [R, B].
    """
    K, V = cache
    R, B, H, _, D = K.shape
    r, b = torch.arange(R, device=pos.device)[:, None], torch.arange(B, device=pos.device)
    q, k, v = qkv.unbind(2)
    K[r, b, :, pos], V[r, b, :, pos] = k, v
    behind = (pos[..., None] - torch.arange(S, device=pos.device)).view(R * B, 1, 1, S)
    slope = alibi_slopes(H, pos.device) if config.pos == "alibi" else 0.0
    mask = (-slope * behind.float()).masked_fill(behind < 0, -math.inf)
    q = q.reshape(R * B, H, 1, D)
    k, v = (t[:, :, :, :S].reshape(R * B, H, S, D) for t in (K, V))
    y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return y.reshape(R, B, H * D)


@dataclass
class Generation:
    ids: list  # [R][n] int lists, without <eos>
    log_prob: np.ndarray  # float [R, n]: of the greedy sequence, <eos> included, nats
    entropy: np.ndarray  # float [R, n]: mean over its steps of the next-token entropy, nats


def spread_caches(layers, prompt, longest):
    """Each layer's keys and values of a prompt Batch, [R, N, H, D], as [R, B, H, longest, D]."""
    (R, _, H, D), device = layers[0][0].shape, layers[0][0].device
    B = prompt.order.shape[1]
    slot = np.repeat(np.arange(B), [T for b, T in prompt.groups for _ in range(b)])
    n, slot = len(slot), put(slot, device)
    caches = []
    for k, v in layers:
        cache = tuple(torch.zeros(R, B, H, longest, D, device=device, dtype=v.dtype) for _ in "KV")
        for full, packed in zip(cache, (k, v), strict=True):
            full[:, slot, :, prompt.pos[:n]] = packed[:, :n].transpose(0, 1)
        caches.append(cache)
    return caches


def to_columns(t, order):
    """t [R, B] or [R, B, S] on slots -> an array in the columns of the rows asked for."""
    values = t.cpu().numpy()
    back = np.empty_like(values)
    order = order if values.ndim == 2 else order[..., None]
    np.put_along_axis(back, np.broadcast_to(order, values.shape), values, 1)
    return back


def generate_batch(model, data, rows, eos):
    """Greedy continuations of the prompts `rows`, int [R, B]: (ids, n_steps, log_prob, entropy).

    Cached and batched: each row goes on from its own length, so no row is padded on the left and
    every position is the one it had in training. Finished rows leave the batch.
    """
    R, B = rows.shape
    examples, device = data.examples, data.device
    prompt = make_batch(data, rows, prompts_only=True)
    lengths = np.take_along_axis(examples.answer_start[rows], prompt.order, 1)
    answers = np.take_along_axis(
        examples.lengths[rows] - examples.answer_start[rows], prompt.order, 1
    )
    caps = put(answers + RUN_ON, device)  # [R, B]
    longest = int((lengths + answers).max()) + RUN_ON

    if model.config.pos == "learned":  # one row further would read the next replica's table
        assert longest <= model.config.max_len, (longest, model.config.max_len)

    layers, weights = [], model.block_weights()
    logits = model(prompt, layers)
    caches = spread_caches(layers, prompt, longest)

    pos = put(lengths.astype(np.int64), device)  # where the next token goes
    column = torch.arange(B, device=device).expand(R, B)  # which slot a live row came from
    out = torch.zeros(R, B, int(answers.max()) + RUN_ON, dtype=torch.long, device=device)
    n_steps = torch.zeros(R, B, dtype=torch.long, device=device)
    log_prob, entropy = (torch.zeros(R, B, device=device) for _ in range(2))
    replica = torch.arange(R, device=device)[:, None]
    done = torch.zeros(R, B, dtype=torch.bool, device=device)
    for step in range(out.shape[2]):
        scores = logits.float().log_softmax(-1)  # [R, live, V]
        token = logits.argmax(-1)  # as in `score`: log_softmax can make ties
        best = scores.gather(-1, token[..., None])[..., 0]
        out[replica, column, step] = token
        n_steps[replica, column] += ~done
        log_prob[replica, column] += best.masked_fill(done, 0)
        entropy[replica, column] -= (scores.exp() * scores).sum(-1).masked_fill(done, 0)
        done = done | (token == eos) | (step + 1 >= caps.gather(1, column))
        # The one time in a step that a GPU is waited for.
        sizes = torch.stack([(~done).sum(1).max(), pos.masked_fill(done, 0).max() + 1])
        n_live, span = sizes.tolist()
        if n_live == 0:
            break
        if n_live <= 0.75 * done.shape[1]:
            keep = done.to(torch.uint8).argsort(dim=1, stable=True)[:, :n_live]
            token, pos, column, done = (t.gather(1, keep) for t in (token, pos, column, done))
            caches = [tuple(t[replica, keep] for t in cache) for cache in caches]
        x, turns = model.embed(token, pos), model.turns(pos)
        for block, products, cache in zip(model.blocks, weights, caches, strict=True):
            qkv = block.qkv(x, turns, products)
            y = attend_cached(model.config, qkv, cache, pos, span)
            x = block.add_outputs(x, y, products)
        logits = model.head(x)
        pos = pos + (~done)  # a finished row waits where it is

    return tuple(to_columns(t, prompt.order) for t in (out, n_steps, log_prob, entropy))


@torch.inference_mode()
def generate(model, examples, rows, eos, device, tokens_per_batch=16_384):
    """Decode greedily from the prompts of `rows`, int [R, n]; a row goes on for at most the length
    of its answer + RUN_ON characters. Returns a Generation.
    """
    model.eval()
    data = resident(examples, device)
    R, n = rows.shape
    result = Generation([[None] * n for _ in range(R)], np.zeros((R, n)), np.zeros((R, n)))
    by_length = np.argsort(examples.lengths[rows].max(0), kind="stable")
    longest = int(examples.lengths[rows].max(initial=1)) + RUN_ON
    size = max(1, tokens_per_batch // (R * longest))
    for start in range(0, n, size):
        columns = by_length[start : start + size]
        ids, n_steps, log_prob, entropy = generate_batch(model, data, rows[:, columns], eos)
        result.log_prob[:, columns] = log_prob
        result.entropy[:, columns] = entropy / n_steps
        for r in range(R):
            for i, column in enumerate(columns):
                tokens = ids[r, i, : n_steps[r, i]].tolist()
                result.ids[r][column] = tokens[:-1] if tokens[-1] == eos else tokens
    return result


# ----------------------------------------------------------------------------------------------
# Curriculum
# ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Stage:
    first_epoch: int  # counted from 1
    tasks: tuple
    rows: np.ndarray  # int64: the training rows of this stage


def curriculum_stage(epoch, n_stages, curriculum_epochs):
    """Stages spread evenly over the first `curriculum_epochs` epochs; the last goes on to the end.

    >>> [curriculum_stage(epoch, 5, 10) for epoch in range(1, 12)]
    [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 4]
    """
    if epoch > curriculum_epochs:
        return n_stages - 1
    return (epoch - 1) * n_stages // curriculum_epochs


def plan_stages(tasks, epochs, curriculum_epochs):
    """Cumulative stages in the order of TASKS; `tasks`, Labels, has each training row's family.

    Tasks outside TASKS join the last stage. With `curriculum_epochs` 0 there is one stage.
    """
    known = [task for task in TASKS if task in tasks.names]
    others = sorted(set(tasks.names) - set(known))
    if not known or curriculum_epochs == 0:
        return [Stage(1, (*known, *others), np.arange(len(tasks)))]
    stages = []
    for epoch in range(1, epochs + 1):
        n = curriculum_stage(epoch, len(known), curriculum_epochs) + 1
        in_stage = (*known[:n], *(others if n == len(known) else ()))
        if not stages or stages[-1].tasks != in_stage:
            stages.append(Stage(epoch, in_stage, np.flatnonzero(tasks.isin(in_stage))))
    return stages


# ----------------------------------------------------------------------------------------------
# Optimizers: AdamW, and Muon for the matrices within the blocks
# ----------------------------------------------------------------------------------------------


class AdamW:
    """torch.optim.AdamW(fused=True), bit for bit, by the function that it calls.

    Torch's class imports torch's compiler when the first one is made. That takes 1.2 s of processor
    time, nearly half of a start.
    """

    _step_supports_amp_scaling = True  # GradScaler then sets the two below during a step
    grad_scale = found_inf = None  # where found_inf is 1, the kernel skips the step

    def __init__(self, groups: list[dict], lr: float | torch.Tensor, betas: tuple[float, float]):
        self.param_groups = [{**group, "lr": lr, "betas": betas} for group in groups]
        self.state = defaultdict(dict)

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            self.update(group)

    def update(self, group: dict) -> None:
        moved = [p for p in group["params"] if p.grad is not None]
        for p in moved:
            if not self.state[p]:
                moments = {name: torch.zeros_like(p) for name in ("exp_avg", "exp_avg_sq")}
                self.state[p] = {"step": torch.zeros((), device=p.device), **moments}
        states = [self.state[p] for p in moved]
        beta1, beta2 = group["betas"]
        adamw(
            moved,
            [p.grad for p in moved],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            fused=True,
            amsgrad=False,
            beta1=beta1,
            beta2=beta2,
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=1e-8,
            maximize=False,
            grad_scale=self.grad_scale,
            found_inf=self.found_inf,
        )

    def zero_grad(self) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                p.grad = None


NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # Jordan et al. (2024), kellerjordan.github.io/posts/muon
# What is kept of each parameter.
MOMENTS = {"adamw": {"step", "exp_avg", "exp_avg_sq"}, "muon": {"momentum_buffer"}}


def updated_by(name: str, optimizer: str) -> str:
    """Which of OPTIMIZERS updates the parameter `name`: Muon hidden matrices and nothing else."""
    hidden = name.startswith("blocks.") and name.rpartition(".")[2].startswith("w_")
    return optimizer if hidden else "adamw"


def orthogonalize(x: torch.Tensor) -> torch.Tensor:
    """Bring the singular values of each matrix near 1 (0.7 to 1.2): x [n, a, b], a <= b, likewise.

    Five Newton-Schulz iterations of a quintic that is steep at 0.
    """
    a, b, c = NEWTON_SCHULZ
    x = x / torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


class MuonAndAdamW(AdamW):
    """Muon in the parameter groups that have "parts", AdamW in the others.

    A parameter [R, in, out] consists of that many matrices side by side (q, k and v are three), and
    matrices of one shape, whatever layer and replica they are of, are orthogonalized together. The
    rate is scaled by 0.2 sqrt(max(in, out)), which gives an update the size that AdamW's has: so
    both take the same rate and weight decay (Liu et al., 2025, arXiv:2502.16982, section 2.2).
    """

    _step_supports_amp_scaling = False  # GradScaler itself skips a step of both

    def update(self, group: dict, momentum: float = 0.95) -> None:
        if "parts" not in group:
            super().update(group)
            return
        params, lr = group["params"], group["lr"]
        for p in params:
            if not self.state[p]:
                self.state[p]["momentum_buffer"] = torch.zeros_like(p)
        grads, buffers = (
            [p.grad for p in params],
            [self.state[p]["momentum_buffer"] for p in params],
        )
        torch._foreach_lerp_(buffers, grads, 1 - momentum)
        updates = torch._foreach_lerp(grads, buffers, momentum)  # Nesterov's
        torch._foreach_mul_(params, 1 - lr * group["weight_decay"])
        by_shape = {}
        for p, update, parts in zip(params, updates, group["parts"], strict=True):
            for matrix, own in zip(p.chunk(parts, 2), update.chunk(parts, 2), strict=True):
                if matrix.shape[1] > matrix.shape[2]:
                    matrix, own = matrix.mT, own.mT
                by_shape.setdefault(matrix.shape, []).append((matrix, own))
        for (R, a, b), pairs in by_shape.items():
            x = torch.stack([own for _, own in pairs]).flatten(0, 1).to(group["dtype"])
            x = orthogonalize(x).float() * (lr * 0.2 * math.sqrt(b))  # [n R, a, b]
            torch._foreach_sub_([matrix for matrix, _ in pairs], list(x.view(-1, R, a, b)))


def make_optimizer(
    model,
    weight_decay,
    lr=0.0,
    betas=(0.9, 0.95),
    optimizer="adamw",
    precision="fp32",
):
    """AdamW that decays matrices only; or with "muon" that for what Muon does not update.

    A CUDA graph needs the learning rate as a tensor.
    """
    hidden, matrices, biases, parts = [], [], [], []
    for name, p in model.named_parameters():
        leaf = name.rpartition(".")[2]
        if updated_by(name, optimizer) == "muon":
            hidden.append(p)
            parts.append({"w_qkv": 3, "w_up": 2 if model.config.swiglu else 1}.get(leaf, 1))
        else:
            (biases if leaf.startswith("b_") else matrices).append(p)
    groups = [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": biases, "weight_decay": 0.0},
    ]
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    if hidden:
        muon = {"params": hidden, "parts": parts, "dtype": dtype, "weight_decay": weight_decay}
        groups.append(muon)
    return (MuonAndAdamW if hidden else AdamW)(groups, lr, betas)


def set_learning_rate(optimizer, lr):
    for group in optimizer.param_groups:
        if isinstance(group["lr"], torch.Tensor):
            group["lr"].fill_(lr)  # the tensor that a CUDA graph reads
        else:
            group["lr"] = lr


# ----------------------------------------------------------------------------------------------
# Plan: all that is decided before the first step
# ----------------------------------------------------------------------------------------------


def learning_rate(
    step: int, *, total_steps: int, warmup_steps: int, peak: float, min_ratio: float
) -> float:
    """Linear warm-up to `peak`, then a cosine to `min_ratio * peak` at the last step (0-based)."""
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, total_steps - 1 - warmup_steps)
    return peak * (min_ratio + (1 - min_ratio) * 0.5 * (1 + math.cos(math.pi * progress)))


def log_spaced(last: int, per_decade: int) -> np.ndarray:
    """The distinct round(10 ** (i / per_decade)), i = 0, 1, 2, …, up to `last`: int64, ascending.

    >>> log_spaced(300, 6).tolist()
    [1, 2, 3, 5, 7, 10, 15, 22, 32, 46, 68, 100, 147, 215]
    """
    exponents = np.arange(per_decade * len(str(last)) + 1) / per_decade
    steps = np.unique(np.rint(10**exponents).astype(np.int64))
    return steps[steps <= last]


def choose_precision(amp, device, d_model):
    """Return "fp32", "bf16" or "fp16".

    An RTX 4070 has bf16 tensor cores: twice the fp32 rate at half the bytes, and no loss scaling.
    On CPU bf16 serves only where the processor multiplies it in hardware, and the model is not
    tiny: at width 128 a run then took 0.6 of the time. No clock decides, or the same command would
    give now one result, now another.
    """
    if device.type == "cuda":
        if amp == "auto":
            return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
        return amp
    if amp == "fp16":
        raise UserError(
            "--amp fp16 needs a GPU; on a CPU start a run with auto, fp32 or bf16, and resume one "
            "that began in fp16 on a GPU"
        )
    if amp != "auto":
        return amp
    return "bf16" if cpu_bf16_instructions() and d_model >= 64 else "fp32"


def memory_bytes(
    config: GPTConfig,
    *,
    n_params: int,
    R: int,
    tokens: int,
    precision: str,
    device: torch.device,
    use_checkpoint: bool = False,
    in_pieces: bool = False,
    n_muon: int = 0,
) -> int:
    """Estimated peak of a training step with `tokens` positions (of all replicas), bytes. Where
    the batch runs `in_pieces`, `tokens` are those of one. Muon updates `n_muon` of the `n_params`.

    Weights and Adam's two moments in fp32, what each position keeps for the backward pass, and the
    weights once more in the products' precision. Gradients come in that precision as activations
    go, and at the end in fp32 too. Muon has one moment, and at the end its updates in fp32 and what
    orthogonalizes the matrices of one shape, three times their size.
    """
    C, d_ff, H = config.d_model, config.d_ff, config.n_heads
    s = 4 if precision == "fp32" else 2  # bytes of a product's operand
    a = s if device.type == "cuda" else 4  # attention's
    # Residual stream, normed input; q, k, v, attention's output and its normalizers.
    attention = 4 * C + s * C + 4 * a * C + 4 * H
    # Residual stream, inputs of two products, hidden channels, dropout masks.
    rest = 4 * C + 2 * s * C + (4 if config.swiglu else 2) * s * d_ff
    rest += 2 * 4 * C if config.dropout else 0
    # The last layer's rest is at answers alone, about 0.4 of it; one gradient is being worked on.
    per_token = config.n_layers * attention + (config.n_layers - 0.6) * rest + 4 * d_ff
    if use_checkpoint:  # a residual stream for each layer, and one layer that is computed again
        per_token = config.n_layers * 4 * C + attention + rest + 4 * d_ff
    copies = 0 if precision == "fp32" else s  # bytes a weight
    at_end = (4 + copies) * n_params * R + (4 + 3 * (2 if precision == "bf16" else 4)) * n_muon * R
    beside = max(int(tokens * per_token) + copies * n_params * R, at_end)
    libraries = 0
    if device.type == "cuda":  # cuBLAS has a buffer for the forward and one for the backward pass
        libraries = 2 * 2**20 * (32 if torch.cuda.get_device_capability(device)[0] >= 9 else 8)
    summed = 4 * n_params * R if in_pieces else 0  # the gradients so far
    return (12 * n_params - 4 * n_muon) * R + beside + summed + libraries


def model_config(args: argparse.Namespace, data: Data) -> GPTConfig:
    """The model that the arguments and the data ask for."""
    ff = args.d_ff or (
        4 * args.d_model if not args.use_swiglu else 32 * math.ceil(args.d_model / 12)
    )
    return GPTConfig(
        vocab_size=len(data.tokenizer),
        max_len=(args.max_len or data.audit["longest_example"]) + RUN_ON,
        d_model=args.d_model,
        n_layers=args.n_layers,
        n_heads=args.n_heads,
        d_ff=ff,
        pos=args.pos,
        swiglu=args.use_swiglu,
        dropout=args.dropout,
    )


@dataclass(frozen=True)
class Plan:
    """Every value that is decided before the first step. Nothing changes it later."""

    config: GPTConfig
    n_params: int  # of one replica
    device: torch.device
    device_bytes: int | None  # its whole memory, or this process's part of it; None: unknown
    precision: str  # of training's matrix products
    stages: list[Stage]
    curriculum_epochs: int  # 0 without a curriculum
    epoch_rows: list[int]  # of each stage: rows that a replica trains on in an epoch
    trained_tags: list[list[str]]  # of each stage
    ledger_epochs: list[int]  # at whose ends a panel's ledger is kept; [] without --subset
    init_std: float  # of the weights
    # Optimizer and schedule
    epochs: int
    batch_size: int  # examples of a micro-batch
    effective_batch: int  # examples of a step
    micro_batches: int  # pieces an effective batch is cut into
    step_bytes: int  # estimated peak memory
    lr: float  # as given
    peak_lr: float  # as scaled by the width
    min_lr_ratio: float
    warmup_steps: int  # at most a tenth of the run
    warmup_asked: int
    optimizer: str  # one of OPTIMIZERS
    betas: tuple[float, float]  # AdamW's
    weight_decay: float
    max_grad_norm: float  # 0: no clipping
    label_smoothing: float
    # Validation and early stopping
    eval_every: int  # epochs; 0: not by epochs
    eval_every_steps: int  # 0: not every so many steps
    eval_log: int  # log-spaced steps a decade; 0: none
    autoreg_eval: bool
    show_samples: bool
    patience: int
    min_delta: float
    # System
    save_every: int  # epochs
    save_every_steps: int
    use_checkpoint: bool
    cuda_graph: bool
    tensorboard: bool

    @property
    def memory_problem(self) -> str:
        """Why a training step cannot fit on the device, whatever is free, or ""."""
        if self.device_bytes is None or self.step_bytes <= self.device_bytes:
            return ""
        return (
            f"the model needs about {self.step_bytes / 2**20:,.0f} MiB for a training step, and "
            f"{self.device} has {self.device_bytes / 2**20:,.0f} MiB in all; take a smaller "
            "--d_model or --n_layers, fewer seeds side by side, --use_checkpoint, or a smaller "
            "--batch_size with more --accumulation_steps"
        )

    @property
    def check_every(self) -> int:
        """Steps between looks for a loss that is not finite. A look waits for a GPU's queue."""
        # fp16's seeds share a loss scale, which a diverged one drives down for all.
        return 1 if self.device.type == "cpu" or self.precision == "fp16" else 100

    @functools.cached_property
    def examples_before(self) -> np.ndarray:
        """int64 [epochs + 1]: examples that a replica has seen before epoch 1, 2, … and at last."""
        first = [stage.first_epoch for stage in self.stages]
        n_epochs = np.diff([*first, self.epochs + 1])  # of each stage
        return np.append(0, np.cumsum(np.repeat(self.epoch_rows, n_epochs)))

    @functools.cached_property
    def steps_before(self) -> np.ndarray:
        """int64 [epochs + 1]: steps made before epoch 1, 2, … and at last."""
        n_rows = np.diff(self.examples_before)
        return np.append(0, np.cumsum(-(-n_rows // self.effective_batch)))

    @property
    def total_steps(self) -> int:
        return int(self.steps_before[-1])

    def steps_in(self, epoch: int) -> int:
        return int(self.steps_before[epoch] - self.steps_before[epoch - 1])

    def place(self, step: int) -> tuple[int, int]:
        """Return (epoch, steps done in it) of a run that has made `step` steps."""
        epoch = int(np.searchsorted(self.steps_before, step, side="right"))
        return epoch, step - int(self.steps_before[epoch - 1])

    def ended_with(self, step: int) -> int:
        """The epoch whose last step is `step`, 0 where there is none."""
        epoch, done = self.place(step)
        return 0 if done else epoch - 1

    def epoch_of(self, step: int) -> int:
        """The epoch of the last of `step` steps, 1 before any."""
        return self.place(max(step - 1, 0))[0]

    @functools.cached_property
    def eval_steps(self) -> frozenset[int]:
        """The steps after which there is a validation. The last step is one."""
        ends, total = self.steps_before[1:], self.total_steps
        steps = [ends[-1:]]
        if self.eval_every:
            steps.append(ends[self.eval_every - 1 :: self.eval_every])
        if self.eval_every_steps:
            steps.append(np.arange(self.eval_every_steps, total, self.eval_every_steps))
        if self.eval_log:
            steps.append(log_spaced(total, self.eval_log))
        return frozenset(np.concatenate(steps).tolist())

    @property
    def by_step(self) -> bool:
        """Whether the steps validated are told by their number, not by epochs alone."""
        return bool(self.eval_every_steps or self.eval_log)

    def saves_after(self, step: int) -> bool:
        """Whether --save_every or --save_every_steps asks for a checkpoint after `step`."""
        by_steps = self.save_every_steps > 0 and step % self.save_every_steps == 0
        epoch = self.ended_with(step)
        return by_steps or (epoch > 0 and epoch % self.save_every == 0)

    def keeps_ledger_after(self, step: int) -> bool:
        return self.ended_with(step) in self.ledger_epochs

    def stage_of(self, epoch: int) -> int:
        """Index of the stage that `epoch` belongs to."""
        return max(i for i, stage in enumerate(self.stages) if stage.first_epoch <= epoch)

    def examples_at(self, step: int) -> int:
        """Examples that a replica has seen in `step` steps."""
        epoch, done = self.place(step)
        before = int(self.examples_before[epoch - 1])
        if not done:
            return before
        return min(before + done * self.effective_batch, int(self.examples_before[epoch]))

    def lr_at(self, step: int) -> float:
        return learning_rate(
            step,
            total_steps=self.total_steps,
            warmup_steps=self.warmup_steps,
            peak=self.peak_lr,
            min_ratio=self.min_lr_ratio,
        )


def epoch_orders(plan: Plan, data: Data, replicas: list, epoch: int) -> np.ndarray:
    """The rows of `data.trained` of `epoch` in each replica's order, int64 [R, n].

    They depend on the seed and the epoch alone: nothing to save, nothing to leak.
    """
    i = plan.stage_of(epoch)
    stage, n, orders = plan.stages[i], plan.epoch_rows[i], []
    for replica in replicas:
        rows = stage.rows
        if data.panel is not None:
            rows = data.panel.rows(replica.seed)
            rows = rows[data.trained.tasks.isin(stage.tasks)[rows]]
        generator = np.random.default_rng([replica.seed, epoch])
        orders.append(rows[generator.permutation(len(rows))[:n]])
    return np.stack(orders)


def curriculum_length(args: argparse.Namespace) -> int:
    """Epochs that the stages are spread over; 0 without a curriculum."""
    if not args.task_curriculum:
        return 0
    given = args.task_curriculum_epochs
    return round(0.4 * args.epochs) if given is None else given


def decide_stages(args: argparse.Namespace, data: Data) -> list[Stage]:
    """The stages that the arguments ask for; UserError if the epochs end before the last one, or if
    one may be without a row of a panel's seed.
    """
    curriculum_epochs = curriculum_length(args)
    stages = plan_stages(data.train.tasks, args.epochs, curriculum_epochs)
    if set(stages[-1].tasks) != set(data.train.tasks.names):
        raise UserError(
            f"the curriculum takes {curriculum_epochs} epochs, but --epochs {args.epochs} ends it "
            f"with {', '.join(stages[-1].tasks)}; raise --epochs or lower --task_curriculum_epochs"
        )
    for stage in stages if data.panel is not None else ():
        if not data.panel.subsets.epoch_rows(stage.tasks):
            raise UserError(
                f"--subset {args.subset:g} leaves no row of {', '.join(stage.tasks)} that is sure "
                "to be in each seed's part; give a larger share or training set"
            )
    return stages


AT_ONCE = 0.5  # share of the device's memory that an accumulated batch may take to run at once


def decide_batch(
    args: argparse.Namespace,
    data: Data,
    *,
    config: GPTConfig,
    n_params: int,
    n_muon: int,
    n_seeds: int,
    device: torch.device,
    device_bytes: int | None,
    precision: str,
    team: World,
    micro_batches: int | None,
) -> dict:
    """How an effective batch is cut, and the memory of a step: three fields of Plan.

    Accumulation exists to save memory. Where the effective batch takes less than half of the
    device's whole memory it runs at once, with the same gradients to rounding: every answer token
    weighs the same and dropout drops the same either way. What is free at the time decides nothing:
    the same command gives the same bits. A run that goes on gives the `micro_batches` that it began
    with: the machine may be another one, and another cut would give other bits.
    """
    effective, lengths = args.batch_size * args.accumulation_steps, data.train.lengths

    def step_bytes(rows, in_pieces=False):
        rows = math.ceil(min(rows, len(lengths)) / team.size)
        if device.type == "cpu":  # of many batches, one of the longest
            tokens = int(rows * lengths.mean() + 3 * rows**0.5 * lengths.std())
        else:
            order = np.random.default_rng(0).permutation(len(lengths))[None]
            tokens = int(fixed_slots(data.train, order, rows)[2].sum())
        return memory_bytes(
            config,
            n_params=n_params,
            R=n_seeds,
            tokens=n_seeds * tokens,
            precision=precision,
            device=device,
            use_checkpoint=args.use_checkpoint,
            in_pieces=in_pieces,
            n_muon=n_muon,
        )

    budget = AT_ONCE * (device_bytes or 4 * 2**30)
    whole = step_bytes(effective)
    if micro_batches is None:
        at_once = args.accumulation_steps == 1 or whole < budget
        micro_batches = 1 if at_once else args.accumulation_steps
    in_pieces = micro_batches > 1
    return {
        "effective_batch": effective,
        "micro_batches": micro_batches,
        "step_bytes": step_bytes(args.batch_size, in_pieces=True) if in_pieces else whole,
    }


def tags_of_rows(examples: Examples, rows: np.ndarray) -> list[str]:
    """Every tag that stands in `rows`, sorted."""
    return sorted({tag for tags in set(examples.all_tags[rows]) for tag in tags})


def make_plan(
    args: argparse.Namespace,
    data: Data,
    n_seeds: int,
    team: World = ALONE,
    micro_batches: int | None = None,
) -> Plan:
    """Decide all that follows from the arguments, the data and the device. May raise UserError.

    `micro_batches` is how a run that goes on has cut its batches.
    """
    device, config = choose_device(args.device, team), model_config(args, data)
    precision, stages = choose_precision(args.amp, device, args.d_model), decide_stages(args, data)
    with torch.device("meta"):
        model = GPT(config, [0])
    n_params, n_muon = model.n_params(), 0
    for name, p in model.named_parameters():
        n_muon += p.numel() if updated_by(name, args.optimizer) == "muon" else 0
    device_bytes = total_memory_bytes(device)
    if device_bytes and device.type == "cpu":  # the processes on this machine share its memory
        device_bytes //= int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    batch = decide_batch(
        args,
        data,
        device_bytes=device_bytes,
        config=config,
        n_params=n_params,
        n_muon=n_muon,
        n_seeds=n_seeds,
        device=device,
        precision=precision,
        team=team,
        micro_batches=micro_batches,
    )
    plan = Plan(
        config=config,
        n_params=n_params,
        device=device,
        device_bytes=device_bytes,
        precision=precision,
        stages=stages,
        curriculum_epochs=curriculum_length(args),
        epoch_rows=[
            len(stage.rows) if data.panel is None else data.panel.epoch_rows(stage.tasks)
            for stage in stages
        ],
        ledger_epochs=[] if data.panel is None else kept_epochs(args.epochs),
        trained_tags=[tags_of_rows(data.train, stage.rows) for stage in stages],
        init_std=args.init_std,
        epochs=args.epochs,
        batch_size=args.batch_size,
        **batch,
        lr=args.lr,
        peak_lr=args.lr if args.no_lr_scaling else args.lr * 1024 / args.d_model,
        min_lr_ratio=args.min_lr_ratio,
        warmup_steps=args.warmup_steps,
        warmup_asked=args.warmup_steps,
        optimizer=args.optimizer,
        betas=(args.beta1, args.beta2),
        weight_decay=args.weight_decay,
        max_grad_norm=args.max_grad_norm,
        label_smoothing=args.label_smoothing,
        eval_every=args.eval_every or (0 if args.eval_every_steps or args.eval_log else 1),
        eval_every_steps=args.eval_every_steps,
        eval_log=args.eval_log,
        autoreg_eval=args.autoreg_eval,
        show_samples=args.show_samples,
        # A panel is read at one step of all replicas, so none stops early.
        patience=args.patience if data.panel is None else 0,
        min_delta=args.min_delta,
        save_every=args.save_every,
        save_every_steps=args.save_every_steps,
        use_checkpoint=args.use_checkpoint,
        cuda_graph=args.cuda_graph,
        tensorboard=args.tensorboard,
    )
    if plan.warmup_steps > plan.total_steps // 10:  # as on a small set, or for few epochs
        plan = replace(plan, warmup_steps=plan.total_steps // 10)
    if plan.memory_problem and not args.dry_run:
        raise UserError(plan.memory_problem)
    return plan


def audit_lines(data: Data) -> list[str]:
    """What a run prints about its data before it starts."""
    audit = data.audit
    most, held_out = audit["most_repeated"], "held_out_rows" in data.files["val"]
    tasks = ", ".join(f"{task} {n:,}" for task, n in audit["train_rows_by_task"].items())
    lines = [
        f"data    {data.files['train']['path']}: "
        f"{count_text(audit['train_rows'], 'row')} ({tasks}), "
        f"{count_text(audit['train_examples'], 'distinct example')}; "
        + (f"the most frequent one stands there {most:,} times" if most > 1 else "none repeats"),
        f"unseen  {audit['val_unseen']:,} of {count_text(audit['val_rows'], 'row')} "
        + ("held out to validate" if held_out else f"of {data.files['val']['path']}")
        + (f"; in the training set: {audit['val_seen']:,}" if audit["val_seen"] else "")
        + (f"; repeated: {audit['val_repeated']:,}" if audit["val_repeated"] else "")
        + ("" if audit["val_unseen"] else "; the headline goes by the seen ones"),
    ]
    return lines + [f"note    {note}" for note in audit_notes(audit)]


def panel_lines(plan: Plan, data: Data) -> list[str]:
    """What --subset and --canaries come to; [] without them."""
    if data.panel is None:
        return []
    panel, epochs = data.panel, ", ".join(map(str, plan.ledger_epochs))
    n_canaries, n_rows = len(panel.canaries), int(panel.canary_counts(0).sum())
    n_scores = (len(panel.ledger_rows) + len(data.held_out_examples)) * len(plan.ledger_epochs)
    lines = [
        f"panel   each seed trains on its own {panel.subsets.n_drawn:,} of the "
        f"{panel.subsets.n_prompts:,} examples, {plan.epoch_rows[-1]:,} rows an epoch; early "
        "stopping is off",
        f"ledger  {panel.n_followed:,} training and {len(data.held_out_examples):,} held-out "
        f"examples after epochs {epochs}: about {n_scores * 2.2 / 2**20:,.1f} MiB a seed",
    ]
    mean_rows = panel.subsets.n_drawn / panel.subsets.n_prompts * len(data.train)
    left_out = 1 - panel.subsets.epoch_rows(data.train.tasks.names) / mean_rows
    if left_out > 0.05:
        lines.append(
            f"note    an epoch leaves out about {left_out:.0%} of a seed's rows, others each time: "
            "all seeds train on equally many, as many as each is sure to have"
        )
    if n_canaries:
        counts = " ".join(map(str, CANARY_COUNTS))
        lines.append(
            f"canary  {n_canaries} examples with an answer that breaks the rule, {n_rows} rows of "
            f"each seed's ({counts} times, dealt out anew for each seed)"
        )
    return lines


def plan_lines(plan: Plan, data: Data, seeds: list[int]) -> list[str]:
    """The lines that a run prints before it starts, and --dry_run instead of it."""
    c, lines = plan.config, [*audit_lines(data), *panel_lines(plan, data)]
    lines.append(
        f"model   {plan.n_params:,} parameters (d_model {c.d_model}, "
        f"{count_text(c.n_layers, 'layer')}, {count_text(c.n_heads, 'head')}, "
        f"d_ff {c.d_ff}, {c.pos}), vocabulary {c.vocab_size}, "
        f"examples of up to {c.max_len - RUN_ON} characters"
        + (f"; {len(seeds)} seeds side by side" if len(seeds) > 1 else "")
    )
    scaled = "" if plan.peak_lr == plan.lr else f" = {plan.lr:g} x 1024 / {c.d_model}"
    lines.append(
        f"steps   {plan.total_steps:,} of {plan.effective_batch} examples in "
        f"{count_text(plan.epochs, 'epoch')}, peak learning rate {plan.peak_lr:.2e}{scaled}"
        + ("; Muon on the blocks' matrices, AdamW on the rest" * (plan.optimizer == "muon"))
    )
    if plan.warmup_steps < plan.warmup_asked:
        lines.append(
            f"note    the warm-up of {plan.warmup_asked} steps is shortened to "
            f"{plan.warmup_steps}, a tenth of the run"
        )
    if plan.effective_batch > plan.batch_size:
        how = (
            "runs at once, since memory is enough"
            if plan.micro_batches == 1
            else "runs in pieces to save memory"
        )
        pieces = plan.effective_batch // plan.batch_size
        lines.append(f"batch   {plan.batch_size} x {pieces} accumulated {how}")
    if plan.curriculum_epochs:
        for i, stage in enumerate(plan.stages):
            n_steps = plan.steps_in(stage.first_epoch)
            lines.append(
                f"stage {i + 1} from epoch {stage.first_epoch}: {' '.join(stage.tasks)} "
                f"({plan.epoch_rows[i]:,} rows, {n_steps:,} steps an epoch)"
            )
        others = [task for task in plan.stages[-1].tasks if task not in TASKS]
        if others:
            lines.append(f"note    outside the curriculum, in its last stage: {', '.join(others)}")
    threads = torch.get_num_threads()
    lines.append(
        f"device  {plan.device}, {plan.precision}, {count_text(threads, 'thread')}; about "
        f"{plan.step_bytes / 2**20:,.0f} MiB for a training step"
    )
    if plan.memory_problem:
        lines.append(f"warning {plan.memory_problem}")
    return lines


# ----------------------------------------------------------------------------------------------
# Steps
# ----------------------------------------------------------------------------------------------


@torch.no_grad()
def clip_gradients(model, max_norm):
    """Scale each replica's gradients to a norm of at most `max_norm`; return the norms, [R].

    A `max_norm` of 0 stands for none.
    """
    grads = [p.grad for p in model.parameters()]
    max_norm = max_norm or torch.finfo(torch.float32).max
    # A norm of NaN scales by 0: what was finite stays so, and what was not can be named.
    if model.R == 1:  # torch's own way launches 94 kernels fewer in a step of 6 layers
        norm = nn.utils.get_total_norm(grads)
        nn.utils.clip_grads_with_norm_(
            model.parameters(), max_norm, norm.nan_to_num(nan=math.inf, posinf=math.inf)
        )
        return norm[None]
    norms = torch.stack([g.flatten(1).norm(dim=1) for g in grads]).norm(dim=0)
    scale = (max_norm / (norms + 1e-6)).clamp(max=1.0).nan_to_num(0.0)
    for g in grads:
        g.mul_(scale[:, None, None])
    return norms


def train_step(
    model: GPT,
    optimizer: AdamW,
    scaler: torch.amp.GradScaler,
    batches: list[Batch],
    *,
    label_smoothing: float = 0.0,
    max_grad_norm: float,
    noise: torch.Tensor | None = None,
    team: World = ALONE,
) -> tuple[torch.Tensor, torch.Tensor]:
    """One optimizer step over the micro-batches of an effective batch, or of a process's part.

    Every answer token of the effective batch weighs the same, however it is cut up. Returns the
    loss in nats per answer token and the gradient norm before clipping, float [R] each. `noise`,
    int64 [R], is what dropout depends on.
    """
    total, n_targets = torch.zeros(2, model.R, device=model.w_tokens.device)
    for batch in batches:
        n_targets += batch.n_targets
    sum_over_processes(team, [n_targets])
    n_targets.clamp_(min=1)
    for batch in batches:
        logits = model(batch, noise=noise)
        loss = answer_loss(logits, batch.targets, label_smoothing) / n_targets
        scaler.scale(loss.sum()).backward()  # a sum: replicas never mix
        total += loss.detach()
    if not batches:  # fewer examples than processes; the scaler wants to have been asked
        scaler.scale(total)
    sum_over_processes(team, [total, *gradients(model)])
    scaler.unscale_(optimizer)
    norms = clip_gradients(model, max_grad_norm)
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad()
    return total, norms


@dataclass
class EagerSteps:
    """The steps of an epoch, each batch laid out by its own lengths."""

    model: GPT
    optimizer: AdamW
    scaler: torch.amp.GradScaler
    data: Resident
    batch_size: int  # examples of a step and replica
    micro_batches: int = 1
    label_smoothing: float = 0.0
    max_grad_norm: float = 1.0
    team: World = ALONE  # each process of it takes its part of the examples

    def begin_epoch(self, orders):
        """`orders`, int64 [R, n]: the rows of each replica in the order of this epoch."""
        self.orders = orders

    def step(self, i, lr, noise):
        """Do step `i` of the epoch; returns (loss, gradient norm) as `train_step` does.

        `noise` is of `dropout_noise`.
        """
        set_learning_rate(self.optimizer, lr)
        noise = put(noise.numpy(), self.data.device)
        rows = self.orders[:, i * self.batch_size : (i + 1) * self.batch_size]
        share = np.array_split(np.arange(rows.shape[1]), self.team.size)[self.team.rank]
        pieces = [piece for piece in np.array_split(share, self.micro_batches) if len(piece)]
        batches = [make_batch(self.data, rows[:, piece], places=piece) for piece in pieces]
        return self.train_step(batches, noise)

    def train_step(self, batches, noise):
        return train_step(
            self.model,
            self.optimizer,
            self.scaler,
            batches,
            label_smoothing=self.label_smoothing,
            max_grad_norm=self.max_grad_norm,
            noise=noise,
            team=self.team,
        )


@dataclass
class StaticSteps(EagerSteps):
    """The same steps on tensors of fixed shape, so that a CUDA graph can replay them.

    A small model's step is hundreds of small kernels. At batch 8 and d_model 256 they hold some 8
    GFLOP, which an RTX 4070 (29 TFLOP/s in fp32) does in 0.3 ms, while each launch from Python
    costs about 10 microseconds: launches set the pace, and a graph launches all at once.

    All batches of an epoch share a layout, slot k as long as the longest k-th longest example of
    any. That pads small batches much (where launches would dominate) and large ones, whose
    lengths are all alike, less. Data and row numbers are on the device; nothing is read back.
    """

    use_graph: bool = True
    warm_up: int = 3  # steps before the first capture: libraries and the optimizer allocate
    shape: tuple = ()  # of the epoch's batches

    def begin_epoch(self, orders):
        device = self.data.device
        rows, places, slots, n_answers = fixed_slots(self.data.examples, orders, self.batch_size)
        self.rows = put(np.stack([rows, places], 1), device)  # [steps, 2, R, B]
        # Examples of one length have one layout. Then an epoch of ten steps needs no graph anew.
        before, self.shape = self.shape, (rows.shape[1:], slots.tolist(), n_answers)
        if before == self.shape:
            return
        self.layout = Layout(slots, n_answers, device)
        self.now = torch.empty_like(self.rows[0])  # the rows of the step, and their places
        self.noise = torch.zeros(len(orders), dtype=torch.int64, device=device)
        self.results = torch.zeros(2, len(orders), device=device)
        self.graph = None  # a new layout needs a new graph; capturing takes as long as one step
        # Attention meets new sizes, and may have to load what it needs for them.
        self.warm_up = max(self.warm_up, 1)

    def fixed_step(self):
        self.optimizer.zero_grad()  # what a capture that failed may have left
        rows, places = self.now.unbind()
        batch = lay_rows(self.data, rows, self.layout, places=places)
        self.results.copy_(torch.stack(self.train_step([batch], self.noise)))

    def step(self, i, lr, noise):
        self.noise.copy_(put(noise.numpy(), self.data.device))
        set_learning_rate(self.optimizer, lr)
        self.now.copy_(self.rows[i])
        if self.use_graph and not self.warm_up and self.graph is None:
            self.graph = capture(self.fixed_step, self.data.device)
            self.use_graph = self.graph is not None
        if self.graph is not None:
            self.graph.replay()
        elif self.use_graph:
            self.warm_up -= 1
            on_capture_stream(self.fixed_step, self.data.device)
        else:
            self.fixed_step()
        return self.results.unbind()


@functools.cache
def capture_stream(device):
    """The one stream of `device` that graphs are captured on: matrix libraries keep memory for each
    stream that they have seen, 64 MiB on Hopper.
    """
    return torch.cuda.Stream(device)


def on_capture_stream(step, device):
    """Do `step` there, after what was asked of the current stream and before what will be."""
    stream, home = capture_stream(device), torch.cuda.current_stream(device)
    stream.wait_stream(home)
    with torch.cuda.stream(stream):
        step()
    home.wait_stream(stream)


FAILED_CAPTURES = []  # torch's allocator goes on pointing to them


def capture(step, device):
    """Return `step`, which reads and writes fixed tensors only, as a CUDA graph: nothing is done
    until its replay. Where capturing fails, a line says why, and the result is None.
    """
    home, graph = torch.cuda.current_stream(device), torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph, stream=capture_stream(device)):
            step()
    except RuntimeError as error:
        FAILED_CAPTURES.append(graph)
        # Torch leaves its stream the current one, and in 2.11 the random numbers "being captured".
        torch.cuda.set_stream(home)
        generator = torch.cuda.default_generators[home.device_index]
        generator.graphsafe_set_state(generator.clone_state())
        reason = str(error).partition("\n")[0]
        tqdm.write(f"note: no CUDA graph, kernels are launched one by one: {reason}")
        return None
    return graph


def no_graph_because(plan: Plan, team: World = ALONE) -> str:
    """Why this run's steps cannot be one CUDA graph, or "" if they can."""
    if plan.device.type != "cuda":
        return "only a GPU has them"
    reasons = {
        "--no-cuda_graph was given": not plan.cuda_graph,
        "--use_checkpoint inside a graph is not tested": plan.use_checkpoint,
        "fp16's loss scale depends on each step's gradients": plan.precision == "fp16",
        "the batch runs in pieces to save memory": plan.micro_batches > 1,
        "processes share each batch": team.size > 1,
    }
    return next((reason for reason, holds in reasons.items() if holds), "")


# ----------------------------------------------------------------------------------------------
# Validation
# ----------------------------------------------------------------------------------------------


@dataclass
class Scores:
    """Teacher-forced scores of n examples by R replicas, each array [R, n]."""

    loss: np.ndarray  # float: nats per answer token
    exact: np.ndarray  # bool: every argmax right, so greedy decoding gives the answer and <eos>
    right: np.ndarray  # int: answer tokens whose argmax is right
    n_tokens: np.ndarray  # int: answer tokens, <eos> included


@torch.inference_mode()
def score(model, examples, rows, device, tokens_per_batch=None):
    """Score `rows`, int [n], by every replica in one forward pass each. Returns Scores.

    `tokens_per_batch` positions, those of all replicas and padding counted, go at once; None takes
    what suits the device.
    """
    if tokens_per_batch is None:  # on CPU activations stay in its cache: 1.25 times as fast
        tokens_per_batch = 4_096 if torch.device(device).type == "cpu" else 16_384
    model.eval()
    data = resident(examples, device)
    R, n = model.R, len(rows)
    sums = np.zeros((3, R, n))  # loss, right, tokens
    by_length = np.argsort(-examples.lengths[rows], kind="stable")
    size = max(1, tokens_per_batch // (R * int(examples.lengths[rows].max(initial=1))))
    for start in range(0, n, size):
        columns = by_length[start : start + size]
        batch = make_batch(data, np.broadcast_to(rows[columns], (R, len(columns))))
        logits, targets = model(batch).float(), batch.targets
        losses = token_losses(logits, targets)
        right = logits.argmax(-1) == targets
        counted = targets != IGNORED
        where = columns[np.take_along_axis(batch.order, batch.slot.cpu().numpy(), 1)]  # [R, M]
        replica = np.broadcast_to(np.arange(R)[:, None], where.shape)
        found = torch.stack([losses, right, counted]).cpu().numpy()
        for total, values in zip(sums, found, strict=True):
            np.add.at(total, (replica, where), values)
    loss, right, tokens = sums
    return Scores(loss / tokens, right == tokens, right.astype(int), tokens.astype(int))


def predict_texts(
    model: GPT,
    tokenizer: Tokenizer,
    examples: Examples,
    rows: np.ndarray,
    exact: np.ndarray,
    device: torch.device,
) -> list[dict[int, str]]:
    """Predicted texts of `rows`, int [n], by each replica: R dicts {row: text}.

    Where `exact`, bool [R, len(examples)], greedy decoding is known to give the answer; the rest is
    generated.
    """
    texts = [{row: examples.answer(row) for row in rows.tolist()} for _ in exact]
    failed = [rows[~exact_here[rows]] for exact_here in exact]
    width = max(len(wrong) for wrong in failed)
    if width:  # replicas fail on different rows: the shorter lists are filled up with anything
        asked = np.stack([np.resize(wrong if len(wrong) else rows[:1], width) for wrong in failed])
        generated = generate(model, examples, asked, tokenizer.eos, device)
        for wrong, text, ids in zip(failed, texts, generated.ids, strict=True):
            text.update((row, tokenizer.decode(ids[i])) for i, row in enumerate(wrong.tolist()))
    return texts


def part_record(scores, r, rows, trained, val, end):
    """What replica r scores on the validation examples `rows`, in keys that end in `end`.

    Means are over the rows where `trained`, bool [n], holds; the rate of each task is over all. A
    mean of nothing is None.
    """
    exact, loss = scores.exact[r, rows[trained]], scores.loss[r, rows[trained]]
    right, n_tokens = scores.right[r, rows[trained]], scores.n_tokens[r, rows[trained]]
    by_task = metrics.by_group(val.tasks[rows].tolist(), scores.exact[r, rows])
    rate = metrics.rate(exact)
    return {
        f"val_loss{end}": float(loss.mean()) if len(loss) else None,
        f"val_exact_match{end}": rate["exact_match"],
        f"val_exact_match{end}_low": rate["exact_match_low"],
        f"val_exact_match{end}_high": rate["exact_match_high"],
        f"val_n{end}": rate["n"],
        f"val_tf_token_acc{end}": float(right.sum() / n_tokens.sum()) if len(right) else None,
        f"val_exact_match_by_task{end}": {g["group"]: g["exact_match"] for g in by_task},
        f"val_n_by_task{end}": {g["group"]: g["n"] for g in by_task},
    }


def validation_records(scores, sample_scores, in_sample, seen_rows, data, predictions, tasks):
    """The validation part of each replica's line in metrics.jsonl, a list of R dicts.

    Means are over the tasks that are trained so far, `tasks`. Keys that end in `_seen` are about
    validation examples that stand in the training set, the others about unseen ones. Of the seen
    ones and of the training sample, those rows count that the replica trains on: `seen_rows` int64
    [R][n], `in_sample` bool [R][n]. Where `predictions`, from `predict_texts`, has only samples,
    what needs every one is left out.
    """
    records = []
    any_unseen, val = data.audit["val_unseen"] > 0, data.val
    unseen = data.headline if any_unseen else data.headline[:0]
    in_tasks = val.tasks.isin(tasks)
    trained = in_tasks[unseen]
    sample_trained = data.train.tasks.isin(tasks)[data.sample]
    shown = data.headline[in_tasks[data.headline]]
    answers = [val.answer(i) for i in shown]
    for r in range(len(scores.exact)):
        counted = in_sample[r] & sample_trained
        train_exact, train_loss = sample_scores.exact[r, counted], sample_scores.loss[r, counted]
        gap = metrics.generalization_gap(train_exact, scores.exact[r, unseen[trained]])
        record = {
            "train_loss": float(train_loss.mean()) if len(train_loss) else None,
            "train_exact_match": gap["train"],
            "train_n": gap["n_train"],
            **part_record(scores, r, unseen, trained, val, ""),
            **part_record(scores, r, seen_rows[r], in_tasks[seen_rows[r]], val, "_seen"),
            "generalization_gap": gap["gap"],
            "gap_low": gap["low"],
            "gap_high": gap["high"],
        }
        if not any_unseen:
            gap = metrics.generalization_gap(train_exact, scores.exact[r, shown])
            ends = {"gap_to_seen": "gap", "gap_to_seen_low": "low", "gap_to_seen_high": "high"}
            record |= {name: gap[key] for name, key in ends.items()}
        if len(predictions[r]) == len(data.headline):
            summary = metrics.summarize([predictions[r][i] for i in shown], answers)
            end = "" if any_unseen else "_seen"
            record[f"val_token_accuracy{end}"] = summary["token_accuracy"]
            record[f"val_edit_distance{end}"] = summary["edit_distance"]
            record[f"val_failures{end}"] = summary["failures"]
        records.append(record)
    return records


def repeat_count_record(exact, trained_on, data, tasks):
    """Exact match of one replica by repeat count, as keys of its line in metrics.jsonl.

    `exact`, bool [n], is of the training rows of `data.by_count`. Those count that the replica
    trains on, `trained_on` bool [n], and whose task is trained so far. Without any, no key.
    """
    rows, counts = data.by_count
    counted = trained_on & data.train.tasks.isin(tasks)[rows]
    table = metrics.by_group(counts[counted].tolist(), exact[counted])
    if not table:
        return {}
    ends = {"train_exact_match_by_repeat_count": "exact_match", "train_n_by_repeat_count": "n"}
    return {name: {str(row["group"]): row[key] for row in table} for name, key in ends.items()}


def headline_of(record):
    """("unseen", exact match, loss) of a validation; of "seen" examples where none is unseen."""
    kind = "seen" if record["val_exact_match"] is None else "unseen"
    end = "_seen" if kind == "seen" else ""
    return kind, record[f"val_exact_match{end}"], record[f"val_loss{end}"]


def require_finite(value, where: str = "") -> None:
    """Raise NotFinite where a number within `value`, of dicts and lists, is not finite."""
    if isinstance(value, dict):
        for key, item in value.items():
            require_finite(item, f"{where} {key}")
    elif isinstance(value, list):
        for item in value:
            require_finite(item, where)
    elif isinstance(value, float) and not math.isfinite(value):
        raise NotFinite(f"{value} as{where}")


def score_each(model, examples, row_sets, device):
    """(exact bool [n], loss [n]) of one replica for each array of rows; a row is scored once."""
    rows, places = np.unique(np.concatenate(row_sets), return_inverse=True)
    scores = score(model, examples, rows, device)
    if n := int((~np.isfinite(scores.loss)).sum()):
        raise NotFinite(f"no finite loss on {n} of {len(rows)} examples")
    ends = np.cumsum([len(rows) for rows in row_sets])[:-1]
    return [(scores.exact[0, at], scores.loss[0, at]) for at in np.split(places, ends)]


def rate_and_outcomes(exact, loss):
    """metrics.rate with the mean loss, and each example's outcome for `metrics.over_seeds`."""
    mean = float(loss.mean()) if len(loss) else None
    return {**metrics.rate(exact), "loss": mean, **metrics.outcomes(None, exact)}


def by_repeat_count(train_part, unseen_part):
    """metrics.by_group over repeat counts, with the rates of each task in "by_task".

    A part is (examples, rows, counts, exact, loss). The examples of a count stand in the order of
    its tasks, named by their keys, so that two runs can be compared on the examples they share.
    """
    parts = [part for part in (unseen_part, train_part) if len(part[1])]
    counts = np.concatenate([part[2] for part in parts])
    tasks = np.concatenate([examples.tasks[rows] for examples, rows, *_ in parts])
    keys = np.concatenate([key_texts(examples, rows) for examples, rows, *_ in parts])
    exact, loss = (np.concatenate([part[i] for part in parts]) for i in (3, 4))
    order = np.lexsort((tasks.astype(str), counts))
    tasks, counts = tasks[order], counts[order]
    exact, loss = exact[order], loss[order]
    table = metrics.by_group(counts, exact, loss, examples=keys[order])
    for row in table:
        own = counts == row["group"]
        of_tasks = metrics.by_group(tasks[own], exact[own], loss[own])
        row["by_task"] = [without(cell, "outcomes") for cell in of_tasks]
    return table


def with_baselines(by_task, data):
    """Add to each task's row the "chance" of a guess among the legal answers, and the "lookup".

    Chance is None for a task that is not in TASKS, or where an answer has not that task's form;
    lookup where none of the task was asked.
    """
    val, rows = data.val, data.headline
    tasks = val.tasks[rows]
    for row in by_task:
        own = rows[tasks == row["group"]]
        row["chance"] = chance_of(tasks[tasks == row["group"]], [val.answer(i) for i in own])
        row["lookup"] = data.lookup.rates(own)
    return by_task


def without(record, *keys):
    return {key: value for key, value in record.items() if key not in keys}


def gap_to_seen(train, seen, train_examples=None):
    """The gap where every validation example is in the training set, by the names of what it is."""
    gap = metrics.generalization_gap(train, seen, train_examples)
    return {{"unseen": "seen", "n_unseen": "n_seen"}.get(k, k): v for k, v in gap.items()}


# Distinct training examples of a report: scored by repeat count, and compared with predictions.
MOST_SCORED, MOST_COMPARED = 50_000, 500_000


def memorization_report(model, data, tokenizer, device):
    """What a model of one replica (R = 1) took from its training set.

    "held_out" says whether the validation examples of the tables are "unseen" or, where the
    training set has them all, "seen". Repeat counts are grouped by powers of two; 0 stands for the
    unseen validation examples. At most MOST_SCORED distinct training examples are scored for them,
    the same of every seed and of every data set that has them. Predictions are compared with at
    most MOST_COMPARED distinct training examples.
    """
    train, val, headline = data.train, data.val, data.headline
    rows = np.broadcast_to(headline, (1, len(headline)))
    generated = generate(model, val, rows, tokenizer.eos, device)
    predictions = [tokenizer.decode(ids) for ids in generated.ids[0]]
    answers = [val.answer(i) for i in headline]
    right = metrics.exact_match(predictions, answers)

    any_unseen = data.audit["val_unseen"] > 0
    unseen_rows = headline if any_unseen else headline[:0]
    chosen, counts, grouped = sample_by_count(train, MOST_SCORED)
    rows = data.sample
    if data.audit["train_rows"] > data.audit["train_examples"]:  # else the two gaps are one
        rows = matched_sample(train, val, headline, of_rows=True)
    sample, of_rows, counted = score_each(model, train, (data.sample, rows, chosen), device)
    held_out, unseen, seen = score_each(model, val, (headline, unseen_rows, data.seen_rows), device)
    gap_of = metrics.generalization_gap if any_unseen else gap_to_seen
    by_rows = gap_of(of_rows[0], held_out[0], train.keys[rows].tolist())
    distinct, _ = train.distinct()
    if len(distinct) > MOST_COMPARED:
        distinct = np.random.default_rng(0).choice(distinct, MOST_COMPARED, replace=False)
    return {
        "held_out": "unseen" if any_unseen else "seen",
        "train": without(rate_and_outcomes(*sample), "outcomes"),  # another sample in each seed
        "unseen": rate_and_outcomes(*unseen) if any_unseen else None,
        "seen": rate_and_outcomes(*seen) if len(data.seen_rows) else None,
        "by_task": with_baselines(
            metrics.by_group(val.tasks[headline].tolist(), right, held_out[1]), data
        ),
        "lookup": data.lookup.rates(headline),
        "gap": metrics.generalization_gap(sample[0], unseen[0]),
        "gap_to_seen": None if any_unseen else gap_to_seen(sample[0], held_out[0]),
        "gap_by_rows" if any_unseen else "gap_to_seen_by_rows": by_rows,
        "by_repeat_count": by_repeat_count(
            (train, chosen, counts, *counted), (val, unseen_rows, [0] * len(unseen_rows), *unseen)
        ),
        "repeat_counts_grouped": grouped,
        "n_compared_with": len(distinct),
        **metrics.compare_with_training(
            predictions,
            answers,
            [val.prompt(i) for i in headline],
            [val.tags[i] for i in headline],
            [train.answer(i) for i in distinct],
            [train.prompt(i) for i in distinct],
            [train.tags[i] for i in distinct],
        ),
        "entropy": metrics.compare_scores(generated.entropy[0], right),
        "confidence": metrics.compare_scores(np.exp(generated.log_prob[0]), right),
    }


# ----------------------------------------------------------------------------------------------
# Run folder and checkpoints
# ----------------------------------------------------------------------------------------------


ALL_EPOCHS = "all epochs done"


@dataclass
class Replica:
    """One seed's folder, and its progress: what early stopping and the best model go by."""

    seed: int
    folder: Path
    best_exact: float = -1.0
    best_loss: float = math.inf
    top_exact: float = -1.0  # for patience: the exact match and
    low_loss: float = math.inf  # the loss that the next gain is measured from
    gain_step: int = 0  # of the last gain
    stale_epochs: int = 0  # whole epochs since then, as of the last validation
    perfect_since: int = -1  # the step since which all unseen examples are right; -1: not now
    finished: str = ""  # why training ended, or "" while it goes on
    usable: bool = True  # whether its best model can be reported on

    def progress(self) -> dict:
        """What a checkpoint keeps."""
        return {k: v for k, v in vars(self).items() if k not in ("seed", "folder")}

    def restore(self, progress: dict) -> None:
        """Take up what a checkpoint kept; ValueError unless that is what `progress` gives."""
        known = self.progress()
        if not isinstance(progress, dict) or progress.keys() != known.keys():
            raise ValueError("its progress has other names, as of another version")
        for name, value in progress.items():
            if type(value) is not type(known[name]) or value != value:
                raise ValueError(f"its progress has a {name} that cannot be")
        vars(self).update(progress)

    def reopen(self, epoch: int, epochs: int, patience: int) -> None:
        """Train on after `epoch`, where neither --epochs nor --patience ends it any longer."""
        out_of_patience = self.finished.startswith("no improvement")
        more_patience = out_of_patience and not 0 < patience <= self.stale_epochs
        learned_on = self.finished.startswith("learned") and not patience
        if epoch < epochs and (self.finished == ALL_EPOCHS or more_patience or learned_on):
            self.finished = ""

    @property
    def diverged(self) -> bool:
        return self.finished.startswith("diverged")

    def update_early_stopping(
        self,
        record: dict,
        *,
        step: int,
        steps_an_epoch: int,
        all_tasks_in: bool,
        min_delta: float,
        patience: int,
    ) -> bool:
        """Take in the validation after `step`. Return whether this is now the best model.

        Until every task is in the curriculum the latest model is the best and patience rests.
        """
        kind, exact, loss = headline_of(record)
        if not all_tasks_in:
            return True
        more_exact = exact > self.top_exact + min_delta
        less_loss = loss < self.low_loss - min_delta
        # The marks move only when a gain counts, so that many small gains add up to one.
        self.top_exact = exact if more_exact else self.top_exact
        self.low_loss = loss if less_loss else self.low_loss
        if more_exact or less_loss:
            self.gain_step = step
        self.stale_epochs = (step - self.gain_step) // steps_an_epoch
        if exact < 1.0:
            self.perfect_since = -1
        elif self.perfect_since < 0:
            self.perfect_since = step
        # One perfect validation may be luck, and one a few steps later the same luck.
        learned = self.perfect_since >= 0 and step - self.perfect_since >= steps_an_epoch
        if patience and learned:
            self.finished = f"learned: every {kind} example stayed right for an epoch"
        elif patience and self.stale_epochs >= patience:
            self.finished = f"no improvement in {count_text(self.stale_epochs, 'epoch')}"
        best = (exact, -loss) > (self.best_exact, -self.best_loss)
        if best:
            self.best_exact, self.best_loss = exact, loss
        return best


@dataclass
class TrainingState:
    """All that training changes. The checkpoints hold it, one file a replica, so that it can go on
    from any step with the same bits.
    """

    model: GPT
    optimizer: AdamW
    scaler: torch.amp.GradScaler
    replicas: list[Replica]  # still training: replica r of the model is replicas[r]
    optimized: torch.Tensor  # float [R]: the training loss added up over this epoch's steps
    diverged_since: torch.Tensor  # int64 [R]: the step that first was not finite, 0 if all were
    team: World  # the processes that share each batch; the first one writes the files
    step: int = 0  # optimizer steps made
    seconds_before: float = 0.0  # of training, before this process
    started: float = 0.0

    @property
    def seconds(self) -> float:
        return self.seconds_before + time.perf_counter() - self.started

    def keep(self, keep: list[int]) -> None:
        """The replicas not in the list `keep` leave the stack."""
        self.replicas = [self.replicas[r] for r in keep]
        self.optimized, self.diverged_since = self.optimized[keep], self.diverged_since[keep]
        if keep:
            keep_replicas(self.model, self.optimizer, keep)


def model_state(model, r, tokenizer, facts):
    """The checkpoint of replica r as an ordinary R = 1 model: tensors and plain containers only."""
    weights = {name: p.detach()[r : r + 1].cpu().clone() for name, p in model.named_parameters()}
    arch = asdict(model.config)
    return {"format": 1, "arch": arch, "vocab": tokenizer.itos, "model": weights, **facts}


def resumable_state(state: TrainingState, r: int) -> dict:
    """What replica r needs, beside its weights, to go on from `state.step` with the same bits.

    The step alone says which epoch, stage and position in it is next (`Plan.place`).
    """
    moments = {}
    for name, p in state.model.named_parameters():
        own = state.optimizer.state.get(p)
        if own:  # none before the first step
            moments[name] = {
                key: float(value) if key == "step" else value[r : r + 1].cpu().clone()
                for key, value in own.items()
            }
    replica = state.replicas[r]
    content = {"step": state.step, "seconds": state.seconds}
    content |= {"optimized": float(state.optimized[r]), "seed": replica.seed}
    content |= {"replica": replica.progress(), "optimizer": moments}
    return {**content, "scaler": state.scaler.state_dict()}


def save_run(state: TrainingState, tokenizer: Tokenizer, facts: dict) -> None:
    """Write each replica's last.pth."""
    for r, replica in enumerate(state.replicas if state.team.main else []):
        content = {**facts, **resumable_state(state, r)}
        save_last(replica.folder, model_state(state.model, r, tokenizer, content))


def save_best(state: TrainingState, r: int, tokenizer: Tokenizer, facts: dict) -> None:
    """Write best_model.pth of replica r."""
    replica = state.replicas[r]
    facts = {**facts, "step": state.step, "seed": replica.seed}
    content = model_state(state.model, r, tokenizer, facts)
    write_checkpoint(replica.folder / "best_model.pth", content)


def read_checkpoint(path):
    """Return the dict of a checkpoint; UserError if it is absent, damaged or of another kind.

    OSError where it cannot be read now: that says nothing of the file.
    """
    if not Path(path).is_file():
        beside = sorted(map(str, Path(path).parent.glob("*.pth")))
        do = f"there are {', '.join(beside)}" if beside else "train a model first"
        if beside and Path(path).name == "best_model.pth":
            do = f"a run's first validation writes it, and --resume continues one; {do}"
        raise UserError(f"the checkpoint {path} does not exist; {do}")
    data = Path(path).read_bytes()
    try:
        check_archive(data)
        check_bytes(data)
        content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        weights, arch, vocab = content["model"], content["arch"], content["vocab"]
        GPTConfig(**arch)
        if not isinstance(weights, dict) or len(Tokenizer(vocab)) != arch["vocab_size"]:
            raise TypeError("its weights or vocabulary have the wrong shape")
        if arch["pos"] not in POSITIONS or not isinstance(content["trained_tags"], list):
            raise TypeError("its position encoding or tags are of no known kind")
        missing = {"seed", "epoch", "trained_length", "data"} - content.keys()
        if missing or "train" not in content["data"]:
            raise TypeError("a part of it is missing")
    except (pickle.UnpicklingError, RuntimeError, OSError, EOFError, LookupError):
        raise UserError(f"{path} is no checkpoint of this program, or damaged") from None
    except (TypeError, ValueError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is no checkpoint of this program, or damaged ({error})") from None
    return content


def check_training_part(content: dict) -> None:
    """Raise unless a checkpoint has all that training goes on from, in right types and shapes."""
    for name, kinds in {"step": (int,), "seconds": (int, float), "optimized": (float,)}.items():
        if type(content[name]) not in kinds or (name == "step" and content[name] < 0):
            raise ValueError(f"its {name} is no number that can be")
    weights, moments = content["model"], content["optimizer"]
    if moments and moments.keys() != weights.keys():
        raise ValueError("its optimizer is of other weights")
    for name, moment in moments.items():
        if moment.keys() not in MOMENTS.values():
            raise ValueError(f"its optimizer has other things of {name}")
        for tensor in (moment[key] for key in moment.keys() - {"step"}):
            if tensor.dtype != torch.float32 or tensor.shape != weights[name].shape:
                raise ValueError(f"its optimizer does not fit {name}")
        if type(moment.get("step", 0.0)) is not float:
            raise ValueError("its optimizer has no step")
    content["scaler"].items()


def read_training_checkpoint(path: Path, plan: Plan | None = None) -> dict:
    """A checkpoint that training can go on from; UserError if this is none.

    With `plan` its replica is finished only where that plan ends its training too.
    """
    content = read_checkpoint(path)
    try:
        check_arch(GPTConfig(**content["arch"]), content["model"])
        check_training_part(content)
        replica = Replica(content["seed"], Path(path).parent)
        replica.restore(content["replica"])
        if plan is not None:
            for name, moment in content["optimizer"].items():
                if moment.keys() != MOMENTS[updated_by(name, plan.optimizer)]:
                    raise ValueError(f"its optimizer is not {plan.optimizer}")
            replica.reopen(content["epoch"], plan.epochs, plan.patience)
            content["replica"] = replica.progress()
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:120]
        raise UserError(f"{path} is nothing that training can go on from ({reason})") from None
    return content


def check_arch(config, weights):
    """Raise TypeError unless an architecture is possible and its weights are what they seem."""
    sizes = (config.vocab_size, config.max_len, config.d_model, config.d_ff, config.n_layers)
    if not all(type(size) is int and size > 0 for size in (*sizes, config.n_heads)):
        raise TypeError("a size is no number above 0")
    if config.d_model % (2 * config.n_heads) or config.n_layers > len(weights):
        raise TypeError("its sizes do not go together")
    for weight in weights.values():  # one number can pose as a terabyte of equal ones
        if weight.dtype != torch.float32 or not weight.is_contiguous():
            raise TypeError("a weight is not stored number by number in fp32")


def load_model(path, device):
    """Return (model with R = 1 in eval mode, tokenizer, checkpoint dict)."""
    checkpoint = read_checkpoint(path)
    try:
        config = GPTConfig(**checkpoint["arch"])
        check_arch(config, checkpoint["model"])
        with torch.device("meta"):  # nothing is allocated for sizes that the weights do not have
            model = GPT(config, [0])
        model.load_state_dict(checkpoint["model"], assign=True)
    except (RuntimeError, ArithmeticError, AttributeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:120]
        raise UserError(f"{path} has weights that do not fit its architecture ({reason})") from None
    if not all(p.isfinite().all() for p in model.parameters()):
        raise NotFinite(f"{path} holds weights that are not finite; its training had diverged")
    return model.to(device).eval(), Tokenizer(checkpoint["vocab"]), checkpoint


@torch.no_grad()
def restore_state(state: TrainingState, keep: list[int], checkpoints: list[dict]) -> None:
    """Make `state` what `checkpoints` hold, one for each replica in the list `keep`."""
    keep_replicas(state.model, None, keep)
    state.replicas = [state.replicas[r] for r in keep]
    for name, p in state.model.named_parameters():
        p.copy_(torch.cat([c["model"][name] for c in checkpoints]))
        moments = [c["optimizer"].get(name) for c in checkpoints]
        for key, value in (moments[0] or {}).items():
            if key == "step":
                value = torch.tensor(value, device=p.device)
            else:
                value = torch.cat([m[key] for m in moments]).to(p.device)
            state.optimizer.state[p][key] = value
    saved, device = checkpoints[0], state.optimized.device
    state.step, state.seconds_before = saved["step"], saved["seconds"]
    state.optimized = torch.tensor([c["optimized"] for c in checkpoints], device=device)
    state.diverged_since = torch.zeros(len(keep), dtype=torch.int64, device=device)
    state.scaler.load_state_dict(saved["scaler"])


# ----------------------------------------------------------------------------------------------
# Training
# ----------------------------------------------------------------------------------------------


def make_deterministic():
    """Allow only kernels that add up in a fixed order; torch raises where it has none."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts
    torch.use_deterministic_algorithms(True)
    # Else it writes NaN into every new tensor first: 400 kernels more in a step of 6 layers.
    torch.utils.deterministic.fill_uninitialized_memory = False
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False


def run_config(plan: Plan, data: Data, arguments: dict, seeds: list[int], n_processes: int) -> dict:
    """The content of config.json."""
    stages = [
        {
            "epoch": stage.first_epoch,
            "tasks": list(stage.tasks),
            "rows": plan.epoch_rows[i],
            "steps_per_epoch": plan.steps_in(stage.first_epoch),
        }
        for i, stage in enumerate(plan.stages)
    ]
    arguments = {k: v for k, v in arguments.items() if k != "seeds"}
    return {
        "arguments": {**arguments, "seed": seeds[0]},
        "seeds": seeds,
        "seed": seeds[0],
        "side_by_side": seeds,
        "derived": {
            **asdict(plan.config),
            "n_params": plan.n_params,
            "lr_scaled": plan.peak_lr,
            "lr_min": plan.peak_lr * plan.min_lr_ratio,
            "steps_total": plan.total_steps,
            "stages": stages,
            "curriculum_epochs": plan.curriculum_epochs,
            "warmup_steps": plan.warmup_steps,
            "effective_batch": plan.effective_batch,
            "micro_batches": plan.micro_batches,
            "precision": plan.precision,
            "step_bytes": plan.step_bytes,
        },
        "data": {**data.files, "audit": data.audit},
        "versions": versions(),
        **machine_facts(plan.device),
        "processes": n_processes,
        **git_state(),
    }


def seed_config(config: dict, seed: int) -> dict:
    """config.json of one seed of several, whose folder is a run folder in its own right."""
    return {
        **config,
        "arguments": {**config["arguments"], "seed": seed},
        "seeds": [seed],
        "seed": seed,
        "side_by_side": [seed],
        "trained_with": config["side_by_side"],
    }


def extended_config(began: dict, config: dict, work: Work) -> dict:
    """`began` with what a command adds to it: seeds, or epochs and patience and what follows."""
    more = {"seeds": work.seeds, "side_by_side": work.training}
    if set(work.seeds) == set(began["seeds"]):
        more |= {"arguments": {**config["arguments"], "seed": began["seed"]}}
        more |= {"arguments_before": began["arguments"]}
        more |= {"derived": config["derived"]}
        before = began["arguments"]["epochs"]
        if config["arguments"]["epochs"] != before:
            more |= {"epochs_before": [*began.get("epochs_before", []), before]}
    return {**began, **more}


def record_samples(data, predictions, epoch, step, replicas, to_screen):
    """Record what each replica says to one held-out example a task, and print the first's.

    Printed predictions stand in quotes: one may be empty, or end in a space. Long texts are cut.
    """
    for r, replica in enumerate(replicas):
        samples = []
        for row in data.shown.tolist():
            prompt, answer = data.val.prompt(row), data.val.answer(row)
            prediction = predictions[r][row]
            sample = {"epoch": epoch, "step": step, "task": str(data.val.tasks[row])}
            sample |= {"prompt": prompt}
            sample |= {"answer": answer, "prediction": prediction, "correct": prediction == answer}
            samples.append(sample)
            if to_screen and r == 0:
                asked, said, expected = (cut_middle(x, 120) for x in (prompt, prediction, answer))
                verdict = "right" if prediction == answer else f'wrong, expected "{expected}"'
                tqdm.write(printable(f'    {asked}"{said}"    ({verdict})'))
        append_lines(replica.folder / "samples.jsonl", samples)


def duration(seconds: float) -> str:
    """In the unit that a reader would take: `40 s`, `25 min` or `3.2 h`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def epoch_line(now, end, tasks, records, seconds, unit="epoch"):
    """One line of at most 160 columns for five tasks: means over replicas, in per cent.

    `now` of `end` epochs are done, or of another `unit`.

    Behind the exact match on held-out examples stand its interval, or the lowest and the highest
    seed, and the rate of each task that is trained so far.
    """
    kind, exact, _ = headline_of(records[0])
    seen = "_seen" if kind == "seen" else ""

    def mean(key, form):
        values = [record[key] for record in records]
        return "none" if None in values else format(sum(values) / len(values), form)

    def percent(key):
        return mean(key, ".1%").removesuffix("%")

    line = f"{unit} {now:>{len(str(end))}}/{end}"
    line += f"  loss train {mean('train_loss', '.3f')} {kind} {mean('val_loss' + seen, '.3f')}"
    line += f"  exact match % train {percent('train_exact_match')}"
    line += f" {kind} {percent('val_exact_match' + seen)}"
    if exact is not None and len(records) == 1:
        low, high = (100 * records[0][f"val_exact_match{seen}_{side}"] for side in ("low", "high"))
        line += f" [{low:.1f}, {high:.1f}]"
    elif exact is not None:
        values = [100 * headline_of(record)[1] for record in records]
        line += f" ({len(values)} seeds {min(values):.1f}–{max(values):.1f})"
    by_task = [record[f"val_exact_match_by_task{seen}"] for record in records]
    rates = {
        task: 100 * sum(rates[task] for rates in by_task) / len(records)
        for task in tasks
        if task in by_task[0]
    }
    if len(by_task[0]) > 1 and len(rates) <= 6:
        line += ":" + "".join(f" {task} {rate:.0f}" for task, rate in rates.items())
    elif len(rates) > 6:
        extremes = {"lowest": min(rates, key=rates.get), "highest": max(rates, key=rates.get)}
        line += ":" + "".join(f" {e} {task} {rates[task]:.0f}" for e, task in extremes.items())
    return f"{line}  {duration(seconds)} so far"


def start_run(
    plan: Plan, replicas: list[Replica], checkpoints: list[dict], team: World = ALONE
) -> TrainingState:
    """Return the state at the first step, or as `checkpoints`, one a seed, left it."""
    seeds = [replica.seed for replica in replicas]
    model = GPT(plan.config, seeds, plan.init_std).to(plan.device)
    graph_lr = 0.0 if no_graph_because(plan, team) else torch.zeros((), device=plan.device)
    state = TrainingState(
        model=model,
        optimizer=make_optimizer(
            model,
            plan.weight_decay,
            graph_lr,
            betas=plan.betas,
            optimizer=plan.optimizer,
            precision=plan.precision,
        ),
        scaler=torch.amp.GradScaler(plan.device.type, enabled=plan.precision == "fp16"),
        replicas=replicas,
        optimized=torch.zeros(len(seeds), device=plan.device),
        diverged_since=torch.zeros(len(seeds), dtype=torch.int64, device=plan.device),
        team=team,
        started=time.perf_counter(),
    )
    if checkpoints:
        going = [r for r, replica in enumerate(replicas) if not replica.finished]
        restore_state(state, going, [checkpoints[r] for r in going])
        for replica in state.replicas if team.main else []:
            if not (replica.folder / "metrics.jsonl").exists() and plan.place(state.step)[0] > 1:
                print(f"note: {replica.folder / 'metrics.jsonl'} is gone; it begins again now")
            for name in ("metrics.jsonl", "samples.jsonl"):
                cut_lines_after(replica.folder / name, state.step)
    model.use_checkpoint = plan.use_checkpoint
    model.set_precision(plan.precision)
    return state


def make_stepper(plan: Plan, data: Data, state: TrainingState) -> EagerSteps:
    """EagerSteps, or StaticSteps in a CUDA graph where there can be one; else a line says why."""
    reason = no_graph_because(plan, state.team)
    if reason and plan.device.type == "cuda":
        print(f"note: steps are launched kernel by kernel, not as a CUDA graph: {reason}")
    return (EagerSteps if reason else StaticSteps)(
        model=state.model,
        optimizer=state.optimizer,
        scaler=state.scaler,
        data=resident(data.trained, plan.device),
        batch_size=plan.effective_batch,
        micro_batches=plan.micro_batches,
        label_smoothing=plan.label_smoothing,
        max_grad_norm=plan.max_grad_norm,
        team=state.team,
    )


def time_line(seconds: float, n_steps: int) -> str:
    """What `n_steps` steps of `seconds` each will take."""
    return (
        f"time    about {duration(seconds * n_steps)} for {count_text(n_steps, 'step')} of "
        f"{seconds:.2g} s, validation not counted"
    )


MEASURED = 5  # steps whose median estimates the time of all, after some that warm up


def unmeasured(device: torch.device) -> int:
    """Steps that say nothing of the others: libraries load, and a GPU's graph is captured."""
    return 1 if device.type == "cpu" else StaticSteps.warm_up + 1


SECONDS_A_LINE = 30  # between two lines of progress, at least


class Progress:
    """A bar where stdout is a terminal. Elsewhere a line, at most one in SECONDS_A_LINE, says how
    much is done, how fast it goes since the line before, and what time is left. After the first
    steps a line estimates the time of all.
    """

    def __init__(self, plan: Plan, state: TrainingState, clock: Callable = time.perf_counter):
        self.total, self.first, self.device = plan.total_steps, state.step, plan.device
        self.examples_at, self.state = plan.examples_at, state
        self.clock, self.done, self.began = clock, 0, clock()
        self.step_began = self.began
        self.said, self.said_at = self.began, state.step
        self.unmeasured = unmeasured(plan.device)
        self.first_steps, self.recent = [], deque(maxlen=5)  # seconds a step; of lines, with steps
        waits = plan.device.type == "cpu" and state.team.size == 1  # for its own threads alone
        self.cores = CoreWatch(torch.get_num_threads() if waits else 1)
        self.terminal = sys.stdout.isatty()
        self.bar = tqdm(
            total=self.total,
            initial=state.step,
            unit="step",
            file=sys.stdout,
            disable=not self.terminal,
            dynamic_ncols=True,
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.bar.close()

    def update(self) -> None:
        """One step more is done."""
        self.done += 1
        self.bar.update()
        if crowded := self.cores.step():
            tqdm.write(crowded)
        left = self.total - self.first - self.done
        if self.done <= self.unmeasured + MEASURED:
            synchronize(self.device)
        now = self.clock()
        if self.done <= self.unmeasured + MEASURED:
            self.first_steps.append(now - self.step_began)
        if self.done == self.unmeasured + MEASURED and left:
            tqdm.write(time_line(np.median(self.first_steps[self.unmeasured :]), left))
        self.step_began = now
        if not self.terminal and left and now - self.said >= SECONDS_A_LINE:
            tqdm.write(self.line(now, left))
            self.said, self.said_at = now, self.total - left

    def line(self, now: float, left: int) -> str:
        """How much is done with `left` steps to go, examples a second of a seed, and time left."""
        step = self.total - left
        n_examples = self.examples_at(step) - self.examples_at(self.said_at)
        speed = n_examples / (now - self.said)
        n_steps = step - self.said_at
        self.recent.append(((now - self.said) / n_steps, n_steps))
        # By steps, not by time: a few that waited for another job say nothing of the rest.
        paces, counts = zip(*self.recent, strict=True)
        rest = np.median(np.repeat(paces, counts)) * left
        n_seeds = len(self.state.replicas)
        each = f" for each of {n_seeds} seeds" if n_seeds > 1 else ""
        return (
            f"step {step:,} of {self.total:,} ({step / self.total:.0%}), "
            f"{speed:,.{0 if speed >= 10 else 1}f} examples/s{each}, about {duration(rest)} left"
        )

    def go_on(self) -> None:
        """A step begins after something else, as a validation."""
        self.step_began = self.clock()
        self.cores.begin()

    def clear(self) -> None:
        self.bar.clear()


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def note_divergence(state: TrainingState, loss: torch.Tensor, norms: torch.Tensor) -> None:
    """Record for which replicas the last step was the first whose loss or gradient is not finite.

    A diverged replica's update spoils its own weights alone: replicas never mix. fp16's scaler
    skips steps with infinite gradients by itself, so there only the loss counts.
    """
    # Below a scale of 1 no halving has helped: left alone it would reach 0, and spoil all replicas.
    scaled = state.scaler.is_enabled() and state.scaler.get_scale() >= 1
    finite = loss.isfinite() if scaled else (loss + norms).isfinite()
    known = finite | (state.diverged_since > 0)
    state.diverged_since = torch.where(known, state.diverged_since, state.step)


@torch.no_grad()
def has_finite_weights(model: GPT) -> torch.Tensor:
    """bool [R]."""
    return torch.stack([p.isfinite().flatten(1).all(1) for p in model.parameters()]).all(0)


def find_diverged(state: TrainingState, *, weights_too: bool) -> list[int]:
    """Replicas whose loss or gradient, or with `weights_too` a weight, is not finite."""
    diverged = state.diverged_since > 0
    if weights_too:
        diverged = diverged | ~has_finite_weights(state.model)
    return diverged.nonzero().flatten().tolist()


def first_not_finite(state: TrainingState, r: int, loss: torch.Tensor) -> str:
    """Say which tensor of replica r was not finite in the last step, as far as it shows."""
    if 0 < state.diverged_since[r] < state.step:  # noticed later, when nothing tells any more
        return "its loss or a gradient was not finite"
    if not math.isfinite(loss[r]):
        return f"its loss is {float(loss[r])}"
    for name, p in state.model.named_parameters():
        moment = state.optimizer.state[p]
        if not moment.get("exp_avg", moment.get("momentum_buffer"))[r].isfinite().all():
            return f"the gradient of {name} is not finite"
    return "a weight, or the norm of its gradient, is not finite"


def drop_diverged(plan: Plan, state: TrainingState, reasons: dict[int, str]) -> None:
    """Replicas that have diverged leave the stack: `reasons` has their places in it.

    Their weights may be spoiled. So last.pth keeps the weights it has; only its place in the run
    moves.
    """
    for r, reason in reasons.items():
        replica = state.replicas[r]
        path = replica.folder / "last.pth"
        kept = from_first(state.team, read_checkpoint(path) if state.team.main else None)
        step = int(state.diverged_since[r]) or state.step
        replica.finished = (
            f"diverged: {reason} at step {step} (epoch {plan.epoch_of(step)}, learning rate "
            f"{plan.lr_at(step - 1):.2e}); "
            f"last.pth keeps the weights of step {kept['step']}"
        )
        kept |= {"step": state.step, "replica": replica.progress()}
        if state.team.main:
            save_last(replica.folder, kept)
        tqdm.write(f"seed {replica.seed} {replica.finished}")
    state.keep([r for r in range(len(state.replicas)) if r not in reasons])


def take_steps(
    plan: Plan, state: TrainingState, stepper: EagerSteps, stop: StopSignals, bar: Progress
) -> None:
    """Make steps up to the end of the epoch, to a validation, to where the run is saved or until a
    replica has diverged. Diverged replicas leave.
    """
    epoch, done = plan.place(state.step)
    n_steps = plan.steps_in(epoch)
    state.model.train()
    if done == 0:
        state.optimized.zero_()
    bar.go_on()
    for i in range(done, n_steps):
        noise = dropout_noise([replica.seed for replica in state.replicas], state.step)
        loss, norms = stepper.step(i, plan.lr_at(state.step), noise)
        state.step += 1
        state.optimized += loss
        note_divergence(state, loss, norms)
        bar.update()
        # All save at the same steps, so that they have one in common to resume from.
        leaving = stop.agreed(state.team) or plan.saves_after(state.step)
        leaving = leaving or state.step in plan.eval_steps
        leaving = leaving or plan.keeps_ledger_after(state.step)
        diverged = []
        if leaving or state.step % plan.check_every == 0:
            diverged = find_diverged(state, weights_too=leaving)
        if leaving or diverged:
            break
    if diverged:
        drop_diverged(plan, state, {r: first_not_finite(state, r, loss) for r in diverged})


def validate(
    plan: Plan, data: Data, state: TrainingState, tasks: list[str]
) -> tuple[list[dict], list[dict[int, str]]]:
    """Score and ask each replica, always in fp32, as later evaluation does.

    Means are over `tasks`, those trained so far. Replicas whose loss is not finite leave. Returns
    the records and the predicted texts of those that stay.
    """

    def score_all():
        sets = [(data.val, np.arange(len(data.val)))]
        sets += [(data.train, rows) for rows in (data.sample, data.by_count[0])]
        return [score(state.model, examples, rows, plan.device) for examples, rows in sets]

    scores, sample_scores, count_scores = score_all()
    # An example of `by_count` that overflows counts as wrong. Its loss is not recorded.
    finite = np.isfinite(scores.loss).all(1) & np.isfinite(sample_scores.loss).all(1)
    if not finite.all():
        reason = "its validation loss is not finite"
        drop_diverged(plan, state, dict.fromkeys(np.flatnonzero(~finite).tolist(), reason))
        if not state.replicas:
            return [], []
        scores, sample_scores, count_scores = score_all()
    # Without --autoreg_eval only the samples to show are generated.
    rows = data.headline if plan.autoreg_eval else data.shown
    texts = predict_texts(state.model, data.tokenizer, data.val, rows, scores.exact, plan.device)
    in_sample = [data.in_sample(replica.seed) for replica in state.replicas]
    seen_rows = [data.seen_by(replica.seed) for replica in state.replicas]
    records = validation_records(scores, sample_scores, in_sample, seen_rows, data, texts, tasks)
    for record, replica, exact in zip(records, state.replicas, count_scores.exact, strict=True):
        trained_on = data.trains_on(replica.seed, data.by_count[0])
        record |= repeat_count_record(exact, trained_on, data, tasks)
    # One decision for all processes, whatever the last bits of their scores are.
    return from_first(state.team, records), texts


def keep_in_ledger(plan: Plan, data: Data, state: TrainingState, epoch: int) -> None:
    """Score every example that the ledger follows, and write each replica's ledger anew.

    What a run that was stopped had kept of later steps goes: it is scored again. A replica that
    overflows on an example keeps nothing of this epoch, so that no panel counts it.
    """
    model, device = state.model, plan.device
    scores = [
        score(model, data.trained, data.panel.ledger_rows, device),
        score(model, data.val, data.held_out_examples, device),
    ]
    bits = np.concatenate([s.loss * s.n_tokens for s in scores], 1) / math.log(2)
    exact = np.concatenate([s.exact for s in scores], 1)
    orders = epoch_orders(plan, data, state.replicas, epoch)
    for r, replica in enumerate(state.replicas):
        ledger = open_ledger(data, replica)
        ledger.cut_after(state.step - 1)
        if np.isfinite(bits[r]).all():
            before = int(plan.steps_before[epoch - 1])
            last_steps = last_presentations(data.panel, orders[r], before, plan.effective_batch)
            ledger.add(epoch, state.step, bits[r], exact[r], last_steps)
        else:
            tqdm.write(
                f"seed {replica.seed} overflows on an example of the ledger, which is without "
                f"epoch {epoch} of it"
            )
        ledger.write(replica.folder)


def last_presentations(
    panel: PanelData, order: np.ndarray, steps_before: int, batch: int
) -> np.ndarray:
    """The step of this epoch at which each example of a ledger was trained on for the last time.

    order int64 [n]: the epoch's rows of `panel.examples`, `batch` of them a step. Returns int32
    [training examples that the ledger follows, then canaries], 0 for those not in the epoch.
    """
    last = np.zeros(len(panel.ledger_rows), np.int32)
    columns = panel.ledger_columns[order]
    followed = columns >= 0
    steps = steps_before + 1 + np.arange(len(order)) // batch
    np.maximum.at(last, columns[followed], steps[followed].astype(np.int32))
    return last


def open_ledger(data: Data, replica: Replica) -> Ledger:
    """The replica's ledger, as it was written last or empty; UserError if it is of another draw."""
    panel = data.panel
    drawn = panel.subsets.members(replica.seed)[: panel.n_followed]
    if (path := replica.folder / LEDGER_FILE).exists():
        ledger = read_ledger(path)
        check_draw(ledger.members, drawn, replica.seed, path)
        return ledger
    trained, held_out = data.trained.keys[panel.ledger_rows], data.val.keys[data.held_out_examples]
    return Ledger.empty(
        seed=replica.seed,
        share=panel.subsets.share,
        keys=np.concatenate([trained, held_out]),
        members=drawn,
        canary_counts=panel.canary_counts(replica.seed),
    )


def write_canaries(data: Data, folder: Path) -> None:
    """canaries.jsonl: a line a canary, in the ledger's order."""
    lines = [json.dumps(asdict(canary)) + "\n" for canary in data.panel.canaries]
    write_atomically(folder / CANARIES_FILE, "".join(lines))


def seconds_a_step(
    plan: Plan,
    data: Data,
    seeds: list[int],
    team: World = ALONE,
) -> float:
    """Measured on a throwaway model: nothing is written, and no random state is touched."""
    state = start_run(plan, [Replica(seed, Path()) for seed in seeds], [], team)
    stepper, epoch = make_stepper(plan, data, state), plan.epochs  # with all tasks in
    state.model.train()
    stepper.begin_epoch(epoch_orders(plan, data, state.replicas, epoch))
    n_steps = plan.steps_in(epoch)
    seconds = []
    skipped = unmeasured(plan.device)
    for i in range(skipped + MEASURED):
        synchronize(plan.device)
        began = time.perf_counter()
        stepper.step(i % n_steps, lr=0.0, noise=dropout_noise(seeds, i))
        synchronize(plan.device)
        seconds.append(time.perf_counter() - began)
    return np.median(seconds[skipped:])


def checkpoint_facts(plan: Plan, data: Data, step: int) -> dict:
    """What a checkpoint made after `step` steps says of its training."""
    epoch = plan.epoch_of(step)
    stage = plan.stage_of(epoch)
    return {
        "epoch": epoch,
        "trained_tags": plan.trained_tags[stage],
        "trained_length": int(data.train.lengths[plan.stages[stage].rows].max()),
        "data": data.files,
        "subset": data.panel.subsets.share if data.panel else None,
    }


def scalar_writers(plan: Plan, state: TrainingState) -> dict:
    """TensorBoard's writer of each seed; {} without --tensorboard.

    What a stopped run wrote of later steps is hidden: it is written again.
    """
    if not plan.tensorboard or not state.team.main:
        return {}
    from torch.utils.tensorboard import SummaryWriter

    again = state.step + 1 if state.step else None
    return {
        r.seed: SummaryWriter(r.folder / "tensorboard", purge_step=again) for r in state.replicas
    }


def scalars_of(record: dict, inside: str = "") -> dict[str, float]:
    """The numbers of a line of metrics.jsonl by their keys, those in an object by both keys.

    >>> scalars_of({"lr": 0.1, "best": True, "tasks": ["add"], "val_n_by_task": {"add": 7}})
    {'lr': 0.1, 'best': 1.0, 'val_n_by_task/add': 7.0}
    """
    scalars = {}
    for name, value in record.items():
        if isinstance(value, dict):
            scalars |= scalars_of(value, f"{inside}{name}/")
        elif isinstance(value, (int, float)):
            scalars[f"{inside}{name}"] = float(value)
    return scalars


def add_scalars(writer, record: dict) -> None:
    """Write one seed's line of metrics.jsonl for TensorBoard, over the optimizer's steps."""
    for name, value in scalars_of(record).items():
        writer.add_scalar(name, value, record["step"])
    writer.flush()  # what waits in its queue is lost where the process is killed


def optimize(
    plan: Plan, data: Data, state: TrainingState, stop: StopSignals, bar: Progress
) -> None:
    """Take `state` from its step to the end, or to where every replica has finished."""
    alone, stepper = len(state.replicas) == 1, make_stepper(plan, data, state)
    writers, main = scalar_writers(plan, state), state.team.main
    # A checkpoint is there from the start: for --resume, and for a seed that diverges.
    save = not (state.replicas[-1].folder / "last.pth").exists()
    stopping, ordered = False, None
    while True:
        # The one place that saves.
        if save:
            save_run(state, data.tokenizer, checkpoint_facts(plan, data, state.step))

        # Finished replicas leave the stack.
        for replica in state.replicas:
            if replica.finished:
                who = "" if alone else f"seed {replica.seed}: "
                ended = plan.epoch_of(state.step)
                tqdm.write(f"{who}finished with epoch {ended}: {replica.finished}")
        going = [r for r, replica in enumerate(state.replicas) if not replica.finished]
        if len(going) < len(state.replicas):
            state.keep(going)
        if not state.replicas:
            break
        if stopping:
            stop.leave_if_asked(f"and the run is saved at step {state.step}")

        # The epoch's steps, up to its end, to a validation or to where the run is saved.
        epoch, _ = plan.place(state.step)
        if ordered != (epoch, len(state.replicas)):
            ordered = epoch, len(state.replicas)
            stepper.begin_epoch(epoch_orders(plan, data, state.replicas, epoch))
        n_going = len(state.replicas)
        take_steps(plan, state, stepper, stop, bar)
        if not state.replicas:
            break
        stage, last = plan.stage_of(epoch), state.step == plan.total_steps
        done = state.step - int(plan.steps_before[epoch - 1])

        # Validation.
        records, validated = [{} for _ in state.replicas], state.step in plan.eval_steps
        if validated:
            tasks = plan.stages[stage].tasks
            records, texts = validate(plan, data, state, tasks)
            if not state.replicas:
                break
            bar.clear()
            place = (state.step, plan.total_steps) if plan.by_step else (epoch, plan.epochs)
            unit = "step" if plan.by_step else "epoch"
            tqdm.write(epoch_line(*place, tasks, records, state.seconds, unit))
            if main:
                record_samples(data, texts, epoch, state.step, state.replicas, plan.show_samples)

        # The ledger of a panel.
        if plan.keeps_ledger_after(state.step) and main:
            keep_in_ledger(plan, data, state, epoch)

        # Early stopping, and the choice of the best model.
        for r, replica in enumerate(state.replicas if validated else []):
            records[r]["best"] = replica.update_early_stopping(
                records[r],
                step=state.step,
                steps_an_epoch=plan.steps_in(epoch),
                all_tasks_in=stage == len(plan.stages) - 1,
                min_delta=plan.min_delta,
                patience=plan.patience,
            )
            if last and not replica.finished:
                replica.finished = ALL_EPOCHS
            if records[r]["best"] and main:
                save_best(state, r, data.tokenizer, checkpoint_facts(plan, data, state.step))

        # Records: a line for each replica. By epochs those without a validation have one too.
        recorded = validated or (not plan.by_step and plan.ended_with(state.step))
        for r, replica in enumerate(state.replicas if recorded and main else []):
            mean_loss = float(state.optimized[r]) / done
            mean_loss = mean_loss if math.isfinite(mean_loss) else None  # a sum may overflow
            line = {"epoch": epoch, "step": state.step, "stage": stage}
            line |= {"tasks": plan.stages[stage].tasks, "lr": plan.lr_at(state.step - 1)}
            line |= {"examples_seen": plan.examples_at(state.step)}
            line |= {"seconds": round(state.seconds, 3), "seed": replica.seed}
            line |= {"optimized_loss": mean_loss, **records[r]}
            append_lines(replica.folder / "metrics.jsonl", [line])
            if replica.seed in writers:
                add_scalars(writers[replica.seed], line)

        # Whether to save: a signal may have come meanwhile.
        stopping = stop.agreed(state.team)
        finished = any(replica.finished for replica in state.replicas)
        diverged = len(state.replicas) < n_going
        save = diverged or finished or stopping or plan.saves_after(state.step)
    for writer in writers.values():
        writer.close()


def write_memorization(replica, data, device):
    """Report on a replica's best model and on the one after its last step: memorization.json.

    Early stopping and the choice of the best model select against memorization, so what is said of
    memorization reads "last"; it is None for a replica that diverged. Returns what is written: None
    where the best model overflows on an example that validation did not have.
    """
    if not replica.folder.is_dir():  # it has gone, which is no mistake in the command
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(replica.folder))
    reports, data = {}, data.of_seed(replica.seed)
    for name, file in (("best", "best_model.pth"), ("last", "last.pth")):
        if name == "last" and replica.diverged:
            continue
        try:
            model, tokenizer, checkpoint = load_model(replica.folder / file, device)
            place = {"epoch": checkpoint["epoch"], "step": checkpoint["step"]}
            if name == "last" and place["step"] == reports["best"]["step"]:
                reports[name] = reports["best"]
                continue
            report = memorization_report(model, data, tokenizer, device)
            require_finite(report)
        except NotFinite as error:
            set_aside_finished(replica, name, error)
            if name == "best":
                return None
        else:
            reports[name] = {**place, **report}
    record = {"format": 2, "last_is_best": reports.get("last") is reports["best"], "last": None}
    record |= reports
    if "last" in reports:  # which has the training examples, the same ones
        record["best"] = without_training_examples(record["best"])
    write_json(replica.folder / "memorization.json", record)
    return record


def set_aside_finished(replica: Replica, name: str, error: NotFinite) -> None:
    """A replica whose "best" or "last" model overflows only now has diverged all the same."""
    replica.finished = f"diverged: its {name} model overflows ({error})"
    replica.usable = name != "best"
    kept = read_checkpoint(replica.folder / "last.pth")
    save_last(replica.folder, {**kept, "replica": replica.progress()})
    (replica.folder / "memorization.json").unlink(missing_ok=True)
    print(f"seed {replica.seed} {replica.finished}")


def without_training_examples(report):
    """A report whose repeat counts above 0 have rates alone.

    The outcomes of unseen examples stay, by which two models are compared (McNemar's test).
    """
    names = ("examples", "outcomes", "losses")
    table = [without(row, *names) if row["group"] else row for row in report["by_repeat_count"]]
    return {**report, "by_repeat_count": table}


def table_columns(reports):
    """(heading, reports of that model, one a seed) for the best and the last model, or both in one.

    A seed that diverged has no last model.
    """
    best, last = ([r[name] for r in reports if r[name]] for name in ("best", "last"))
    if all(report["last_is_best"] for report in reports):
        return [("best and last model", best)]
    alone = len(reports) == 1
    columns = [
        (f"{name} model" + (f", epoch {of_model[0]['epoch']}" if alone else ""), of_model)
        for name, of_model in (("best", best), ("last", last))
        if of_model
    ]
    return [
        (heading if len(own) == len(reports) else f"{heading} of {len(own)} of the seeds", own)
        for heading, own in columns
    ]


def rates_of(report):
    """Rows of the table: each task's, and that of all where there are several."""
    rows = report["by_task"]
    if len(rows) == 1:
        return rows
    return [*rows, {"group": "all", **report[report["held_out"]], "lookup": report["lookup"]}]


def results_table(reports, seeds):
    """Lines to print of what `write_memorization` returned, one a seed."""
    many, columns = len(reports) > 1, table_columns(reports)
    over = f" over {len(reports)} seeds and examples" if many else ""
    lines = [f"exact match on {columns[0][1][0]['held_out']} examples, 95 % interval{over}"]
    headings = [heading for heading, _ in columns]
    width = max(10, *(len(row["group"]) for row in rates_of(columns[0][1][0])))
    lines.append(f"{'task':{width}}{'n':>6}" + "".join(f"  {h:24}" for h in [*headings, "lookup"]))
    by_model = [zip(*map(rates_of, own), strict=True) for _, own in columns]
    for cells in zip(*by_model, strict=True):
        line = f"{cells[0][0]['group']:{width}}{cells[0][0]['n']:>6}"
        rates = [metrics.over_seeds(of_model) for of_model in cells]
        for stats in rates:
            rate = f"{stats['mean']:.1%} [{stats['low']:.1%}, {stats['high']:.1%}]"
            line += f"  {rate:24}"
        line += f"  {lookup_words(mean_lookup([cell['lookup'] for cell in cells[0]])):14}"
        chance = cells[0][0].get("chance") or 0
        if chance >= 0.001 and any(chance >= s["low"] for s in rates):
            line += f"  chance is {chance:.1%}"
        lines.append(line)
    for seed, report in zip(seeds, reports, strict=True):
        who = f"seed {seed}, " if many else ""
        both = ("best",) if report["last_is_best"] or not report["last"] else ("best", "last")
        for name in both:
            model = "best and last" if report["last_is_best"] else name
            lines.append(
                f"{who}{model} model, epoch {report[name]['epoch']}: {gap_words(report[name])}"
            )
    return [line.rstrip() for line in lines]


def gap_words(report):
    kind = report["held_out"]
    name = "gap" if kind == "unseen" else "gap_to_seen"
    gap, by_rows = report[name], report[f"{name}_by_rows"]
    title = "generalization gap" if kind == "unseen" else "gap to seen examples"
    line = f"{title} {points(gap)}: {gap['train']:.1%} on training examples, "
    line += f"{gap[kind]:.1%} on {kind} ones"
    if by_rows != gap:
        line += f"; by rows, repeats counted, {points(by_rows)}"
    return line


def points(gap):
    """`+1.2 points [-0.5, +2.9]`"""
    difference, low, high = (100 * gap[key] for key in ("gap", "low", "high"))
    return f"{difference:+.1f} points [{low:+.1f}, {high:+.1f}]"


def result_files() -> dict[str, list[str]]:
    """{folder below a run's: patterns of the files that the scripts write there}."""
    from plots import COMPARISONS, EFFECTS, RUN_FIGURES

    figures = [*RUN_FIGURES, *COMPARISONS, *EFFECTS, FIGURES_DRAWN]
    results = ["ood_results.json", "predictions.jsonl", *figures]
    return {
        "plots": figures,
        "ood_results": results,
        "ood_results_*": results,
        "tensorboard": ["events.out.tfevents.*"],
    }


def reported(replicas: list[Replica]) -> list[Replica]:
    """Those with a model to report on: a replica may diverge before it has one."""
    return [
        r
        for r in replicas
        if r.usable and (not r.diverged or (r.folder / "best_model.pth").exists())
    ]


def read_report(replica: Replica) -> dict | None:
    """The report in memorization.json if the table can be made from it, else None."""
    try:
        report = json.loads((replica.folder / "memorization.json").read_bytes())
        results_table([report], [replica.seed])
    except (FileNotFoundError, ValueError, LookupError, TypeError, AttributeError):
        return None
    return report


def gather_reports(reports: list, stop: StopSignals, world: World) -> list:
    """The reports of all processes, for which this one waits. A signal to all ends the wait."""
    try:
        return [report for some in gather(world, reports) for report in some]
    except RuntimeError:  # another process has gone
        stop.leave_if_asked("while other processes trained")
        raise


def report_runs(
    work: Work,
    data: Data,
    replicas: list[Replica],
    *,
    trained: bool,
    plan: Plan,
    folder: Path,
    stop: StopSignals,
    world: World,
) -> None:
    """Report on each of `replicas`: anew where it was `trained` now, else where one is missing.

    When all are here, the first process prints the table, draws the figures and names the next
    command.
    """
    reports = []
    stop.when = "ending after this report"
    for replica in reported(replicas):
        stop.leave_if_asked("before the report was made")
        anew = trained and replica.seed in work.training
        report = None if anew else read_report(replica)
        report = report or write_memorization(replica, data, plan.device)
        if report:
            reports.append((replica.seed, report))
    reports = gather_reports(reports, stop, world)
    if not reports or not world.main:
        return
    seeds, reports = zip(*sorted(reports, key=lambda pair: pair[0]), strict=True)
    print("", *results_table(reports, seeds), sep="\n", flush=True)
    print(draw_run(folder))
    model = ["--model", folder.resolve()]
    if data.panel is not None:
        command = ["python", ROOT / "evaluate_memorization.py", *model]
    elif {tag for tags in plan.trained_tags for tag in tags} & set(standard_tasks()):
        command = ["python", ROOT / "evaluate_ood.py", *model]
        command += ["--tokenizer", Path(data.files["tokenizer"]["path"]).resolve()]
    else:  # no standard suite asks for these tags
        command = []
    if command:
        print("next:", shlex.join(map(str, command)))
    from report import page_line

    print(page_line(folder))


FIGURES_DRAWN = "figures.json"  # in plots/: the names of the figures drawn there, written last


def draw_run(folder: Path) -> str:
    """Draw a run's figures; returns what there is to say of them."""
    from plots import figures_or_notice

    figures, notice = figures_or_notice(folder, folder / "plots")
    if notice:
        return notice
    for torn in (folder / "plots").glob(f".{FIGURES_DRAWN}.*.tmp"):  # a killed process was writing
        torn.unlink()
    names = [path.name for path in figures]
    write_json(folder / "plots" / FIGURES_DRAWN, names)
    return f"figures in {folder / 'plots'}: {', '.join(names)}"


def has_figures(folder: Path) -> bool:
    """Whether all the figures that were drawn of a run are there."""
    try:
        names = json.loads((folder / "plots" / FIGURES_DRAWN).read_bytes())
        return all((folder / "plots" / name).exists() for name in names)
    except (FileNotFoundError, ValueError, TypeError):
        return False


def restore_best(replica: Replica, checkpoint: dict) -> None:
    """Make a lost best_model.pth again where last.pth has its weights; UserError where not."""
    path = replica.folder / "best_model.pth"
    chosen = (replica.finished and not replica.diverged) or replica.best_exact >= 0
    if path.exists() or replica.diverged or not chosen:
        return
    best = [row for row in read_epochs(replica.folder / "metrics.jsonl") if row.get("best")]
    if not best or best[-1]["step"] != checkpoint["step"]:
        raise UserError(
            f"{path} is gone, and last.pth has the weights of another epoch; restore it, or train "
            "anew with another --out_dir"
        )
    facts = ("format", "arch", "vocab", "model", "epoch", "trained_tags", "trained_length", "data")
    content = {name: checkpoint[name] for name in (*facts, "step", "seed") if name in checkpoint}
    write_checkpoint(path, content)


def restore_replicas(
    replicas: list[Replica], checkpoints: list[dict], plan: Plan, files: dict
) -> None:
    """Give each replica the progress in its checkpoint; UserError if that is of another run."""
    for replica, checkpoint in zip(replicas, checkpoints, strict=bool(checkpoints)):
        try:
            same = hashes(checkpoint["data"]) == hashes(files)
            same = same and checkpoint["arch"] == asdict(plan.config)
        except (LookupError, TypeError):
            same = False
        if checkpoint["seed"] != replica.seed or not same:
            raise UserError(
                f"{replica.folder / 'last.pth'} is of another run; restore the right one, give "
                "another --out_dir, or start again with --overwrite"
            )
        replica.restore(checkpoint["replica"])


def read_ended(folder: Path, seed: int) -> tuple[Replica, dict]:
    """A seed's Replica in `folder`, as its newest whole checkpoint has it, and that checkpoint."""
    checkpoints, _ = find_resumable([folder], read_training_checkpoint)
    replica = Replica(seed, folder)
    if not checkpoints:  # stopped before its first one
        return replica, {}
    replica.restore(checkpoints[0]["replica"])
    return replica, checkpoints[0]


def seeds_that_train_on(folder: Path, began: dict, arguments: dict | None) -> list[int]:
    """The seeds of a finished run that train on with `arguments`, all from one step; `arguments`
    None asks only whether the run is finished.
    """
    seeds, before, going, reasons = began["seeds"], began["arguments"], {}, []
    for seed in seeds:
        replica, checkpoint = read_ended(seed_folder(folder, seed, seeds), seed)
        if not replica.finished:
            raise UserError(
                f"the run in {folder} has not ended yet: let it end first {written('seeds', seeds)}"
                f" --epochs {before['epochs']} --patience {before['patience']}, or give another "
                "--out_dir"
            )
        reasons.append(f"seed {seed} {replica.finished.partition(':')[0]}")
        if arguments:
            replica.reopen(checkpoint["epoch"], arguments["epochs"], arguments["patience"])
        if not replica.finished:
            going[seed] = checkpoint["step"]
    if arguments and len(set(going.values())) != 1:
        raise UserError(
            f"the run in {folder} has ended ({', '.join(reasons)}) with --epochs "
            f"{before['epochs']} --patience {before['patience']}, and --epochs "
            f"{arguments['epochs']} --patience {arguments['patience']} would "
            + (
                "train on seeds at different steps, which cannot go side by side"
                if going
                else "train no seed of it on"
            )
            + "; give the flags it began with, or another --out_dir"
        )
    return list(going)


def as_begun(args: argparse.Namespace, began: dict) -> argparse.Namespace:
    """The arguments, with what a run that goes on decided when it began and more epochs or another
    machine would move: its curriculum, its warm-up and its precision.
    """
    if not began:
        return args
    derived = began["derived"]
    kept = {"warmup_steps": derived["warmup_steps"], "amp": derived["precision"]}
    if args.task_curriculum:
        kept["task_curriculum_epochs"] = derived["curriculum_epochs"]
    return argparse.Namespace(**{**vars(args), **kept})


def load_run_data(args: argparse.Namespace) -> Data:
    """The data that the arguments name; prints what there is to say of them."""
    data = load_data(
        args.data,
        val_path=args.val_data,
        tokenizer_path=args.tokenizer,
        max_len=args.max_len,
        row_format=RowFormat(args.columns, args.task),
        run_folder=Path(args.out_dir),
    )
    print(*(f"note    {notice}\n" for notice in data.notices), sep="", end="", flush=True)
    if args.subset is not None:
        data.panel = make_panel(
            data.train,
            data.val,
            share=args.subset,
            n_canaries=args.canaries,
            tokenizer=data.tokenizer,
        )
    return data


def open_run_folder(
    args: argparse.Namespace, work: Work, config: dict, data: Data, locks: ExitStack
) -> None:
    """Make and lock the run's folders, and write what says which run it is."""
    folder, seeds = Path(args.out_dir), work.seeds
    claim_folders(
        folder,
        seeds,
        resume=args.resume,
        overwrite=args.overwrite,
        results=result_files(),
        held=locks,
    )
    if args.resume and read_began(folder, seeds) != work.began:
        raise Halt(4, f"another process began or changed a run in {folder}; give the command again")
    if work.began:
        for note in notes_on_machine(work.began, config):
            print(note)
    if work.extended:  # first, so that nothing of the shorter run can stand for the longer one
        for seed in work.training:
            (seed_folder(folder, seed, seeds) / "memorization.json").unlink(missing_ok=True)
        (folder / "plots" / FIGURES_DRAWN).unlink(missing_ok=True)
    if work.extended or not work.began:
        whole = extended_config(work.began, config, work) if work.began else config
        if data.made_tokenizer and not work.began:
            write_atomically(Path(data.files["tokenizer"]["path"]), data.made_tokenizer)
        write_json(folder / "config.json", whole)
    # A kill after config.json may have prevented what follows: it is made now.
    if data.panel is not None and data.panel.canaries and not (folder / CANARIES_FILE).exists():
        write_canaries(data, folder)
    for seed in seeds if len(seeds) > 1 else []:
        write_seed_config(seed_folder(folder, seed, seeds), seed_config(config, seed), work)


def write_seed_config(folder: Path, config: dict, work: Work) -> None:
    """Write config.json of one seed of several where it lacks or is of the run before `work`."""
    path, trains = folder / "config.json", config["seed"] in work.training
    if not path.exists():
        if trains:
            write_json(path, config)
        return
    old = json.loads(path.read_bytes())
    if changed_arguments(old, config["arguments"]):
        # One that has ended has done so under the flags of now too.
        write_json(path, config if trains else {**old, "arguments": config["arguments"]})


def train(
    args: argparse.Namespace,
    stop: StopSignals,
    world: World = ALONE,
    standing: Standing | None = None,
    argv: list[str] | None = None,
) -> None:
    """Train every seed side by side and write each one's run folder.

    In one of several processes, train this one's part of the work (see `share_work`). The words of
    the command, `argv`, are kept in config.json.
    """
    standing = standing or Standing.of(world)
    if args.deterministic:
        make_deterministic()

    # The data, and the work: a new run, or one in the folder that goes on.
    folder, seeds = Path(args.out_dir), args.seeds or [args.seed]
    data = load_run_data(args)
    work = Work({}, seeds, seeds)
    if args.resume:
        if world.main:
            ended = functools.partial(seeds_that_train_on, folder)
            work = decide_work(folder, seeds, vars(args), data.files, ended)
            # Training would fail only at the next kept epoch.
            for seed in work.seeds if data.panel is not None else ():
                open_ledger(data, Replica(seed, seed_folder(folder, seed, work.seeds)))
        work = barrier(world, value=work)

    # The plan.
    seeds_here, team = share_work(work.training, world)
    cut = work.began["derived"]["micro_batches"] if work.began else None
    plan = make_plan(as_begun(args, work.began), data, len(seeds_here), team, micro_batches=cut)
    lines = "\n".join(plan_lines(plan, data, seeds_here))
    if args.dry_run:
        problem = folder_problem(folder, seeds, resume=args.resume, overwrite=args.overwrite)
        print(lines, *([f"warning {problem}"] if problem else ()), sep="\n", flush=True)
        if not plan.memory_problem:
            seconds = seconds_a_step(plan, data, seeds_here, team)
            print(time_line(seconds, plan.total_steps), flush=True)
        barrier(world)
        return

    with ExitStack() as locks, writing(folder):
        # The run folder.
        config = run_config(plan, data, vars(args), work.seeds, world.size)
        config["side_by_side"] = work.training
        config["command"] = ["python", Path(__file__).name, *(argv or [])]
        config["begun"] = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
        if world.main:
            open_run_folder(args, work, config, data, locks)
        barrier(world)

        # Where each seed stands.
        replicas = [Replica(seed, seed_folder(folder, seed, work.seeds)) for seed in seeds_here]
        read = functools.partial(read_training_checkpoint, plan=plan)
        checkpoints, notes = [], []
        if args.resume and team.main:
            checkpoints, notes = find_resumable([replica.folder for replica in replicas], read)
        barrier(world)
        standing.started(team)
        checkpoints = from_first(team, checkpoints)
        restore_replicas(replicas, checkpoints, plan, data.files)
        for replica, checkpoint in zip(replicas, checkpoints, strict=False) if team.main else ():
            restore_best(replica, checkpoint)
        others = []
        for seed in work.others if world.main else ():
            others.append(Replica(seed, seed_folder(folder, seed, work.seeds)))
            found, more = find_resumable([others[-1].folder], read)
            if not found:
                raise UserError(
                    f"{others[-1].folder}, a seed that had ended, has lost its checkpoints; "
                    "restore it, or give another --out_dir"
                )
            restore_replicas(others[-1:], found, plan, data.files)
            restore_best(others[-1], found[0])
            notes += more

        # What is there to do.
        print(*notes, lines, sep="\n", flush=True)
        if world.size > 1:
            how = "all share each batch" if team is world else "each trains its share of the seeds"
            print(f"torchrun {world.size} processes: {how}", flush=True)
        reporting = [*others, *replicas] if team.main else []
        over = all(replica.finished for replica in replicas)
        whole = all(map(read_report, reported(reporting)))
        whole = whole and (not world.main or not reported(reporting) or has_figures(folder))
        if all(gather(world, over and whole)):
            print(f"the run in {folder} is finished and left as it is")
        else:
            stop.can_wait = True  # libraries may take what a signal raises for their own error
            if over:
                print(f"the run in {folder} is finished; the report and figures it lacks are made")
            else:
                # Training.
                state = start_run(plan, replicas, checkpoints, team)
                if checkpoints:
                    print(f"resuming {folder} at step {state.step} of {plan.total_steps}")
                if work.extended and checkpoints:
                    print(
                        f"the schedule is planned anew: a cosine over all {plan.epochs} epochs, so "
                        f"the learning rate goes on at {plan.lr_at(state.step):.2e}"
                    )
                with Progress(plan, state) as bar:
                    optimize(plan, data, state, stop, bar)

            # Reports, table and figures.
            report_runs(
                work,
                data,
                reporting,
                trained=not over,
                plan=plan,
                folder=folder,
                stop=stop,
                world=world,
            )
    diverged = [f"seed {r.seed} {r.finished}" for r in [*others, *replicas] if r.diverged]
    if diverged:
        raise Halt(3, "; ".join(diverged))


# ----------------------------------------------------------------------------------------------
# Main
# ----------------------------------------------------------------------------------------------


def resume_command(argv, world=ALONE):
    """The command line that goes on with the run that `argv` began."""
    kept = [arg for arg in argv if not arg.startswith("--ov") and arg != "--resume"]
    join = subprocess.list2cmdline if os.name == "nt" else shlex.join
    command = join([sys.executable, __file__, *kept, "--resume"])
    return command if world.size == 1 else "the same torchrun command and --resume"


def run_training(argv: list[str], world: World, standing: Standing) -> None:
    args = read_flags(argv)
    args.out_dir = args.out_dir or default_out_dir(args.data)
    try:
        with StopSignals(answers=world.main) as stop:
            train(args, stop, world, standing, argv)
    except RuntimeError as error:
        if "out of memory" not in str(error) and "allocate memory" not in str(error):
            raise
        raise UserError(
            "the device ran out of memory; take a smaller --batch_size with more "
            "--accumulation_steps, a smaller model, or --use_checkpoint"
        ) from None
    except KeyboardInterrupt:
        raise Halt(130, f"interrupted; go on with: {resume_command(argv, world)}") from None
    except Halt as halt:
        if halt.code == 5 or halt.code > 128:
            message = f"{halt}; go on with: {resume_command(argv, world)}"
            raise Halt(halt.code, message) from None
        raise


def main(argv=None):
    argv = sys.argv[1:] if argv is None else argv
    world = join_world()
    standing = Standing.of(world)
    if not world.main:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    try:
        code, said = outcome(lambda: run_training(argv, world, standing))
        if code and standing.before_start:
            barrier(world, (code, said))
    except EndTogether as end:
        code, said = end.args
    code = leave(code, said if standing.reports_errors else "")
    leave_world(world, code)
    return code


if __name__ == "__main__":
    sys.exit(main())
