"""Where a training step's time goes: kernels by time, and how busy the device is with them.

    python benchmarks/profile_step.py --replicas 1 16

The recommended model (d_model 256, 6 layers) on the five tasks, as the trainer runs it: on a GPU a
replayed CUDA graph, on a CPU the eager step. Steps are timed without the profiler, then some are
profiled. *Busy*, on a GPU, is the kernels' time over the step's; the rest is gaps between kernels
and waiting for the host. Padding is that of an epoch of --steps batches, which pads a little less
than a whole one. Prints a Markdown table for each number of replicas.
"""

import gc
import sys
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from runtime.cli import Parser, answer_early, bounded, run_main
from runtime.errors import UserError

N_PROFILED = 5  # steps


def build_parser():
    parser = Parser(__doc__)
    flag = parser.add_argument
    flag("--replicas", type=bounded(int, 1, 4096), nargs="+", default=[1, 16], help="models a step")
    flag("--batch", type=bounded(int, 1, 4096), default=8, help="examples of a step and replica")
    flag("--steps", type=bounded(int, 5, 1000), default=100, help="timed steps")
    flag("--kernels", type=bounded(int, 1, 1000), default=25, help="lines of a table")
    flag("--device", default="auto", help="auto, cpu, cuda or cuda:<n>")
    return parser


if __name__ == "__main__":  # --help and mistakes in flags need not wait for the imports below
    answer_early(build_parser().parse_args)

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from benchmarks import bench as B


@dataclass
class Kernel:
    """One kernel of a GPU, or operation of a CPU, over the profiled steps."""

    name: str
    count: int
    microseconds: float  # of the device alone, in all


def warm_step(bench, R, batch, n_steps):
    """(how it runs, the function of i that does step i) for R replicas, after `n_steps` of them."""
    ours = B.Ours(bench, R)
    ours.train(B.draw_rows(bench, 0, n_steps, batch, R), 1)
    noise = B.minigpt.dropout_noise(list(range(R)), n_steps)
    in_graph = getattr(ours.steps, "graph", None) is not None

    def step(i):
        ours.steps.step(i % n_steps, B.LEARNING_RATE, noise)

    return "a replayed graph" if in_graph else "eager", step


def milliseconds_a_step(bench, step, n_steps):
    """Steps one after the other, as the trainer does them."""
    bench.synchronize()
    start = time.perf_counter()
    for i in range(n_steps):
        step(i)
    bench.synchronize()
    return 1e3 * (time.perf_counter() - start) / n_steps


def profiled_kernels(bench, step):
    """What N_PROFILED steps ran, by time."""
    on_gpu = bench.device.type == "cuda"
    with profile(activities=[ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * on_gpu) as seen:
        for i in range(N_PROFILED):
            step(i)
        bench.synchronize()
    kind = DeviceType.CUDA if on_gpu else DeviceType.CPU
    time_of = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    found = [
        Kernel(event.key.replace("|", "/"), event.count, getattr(event, time_of))
        for event in seen.key_averages()
        if event.device_type == kind
    ]
    if not found:
        raise UserError("the profiler saw no kernel; it may not be allowed to on this machine")
    return sorted(found, key=lambda kernel: -kernel.microseconds)


def kernel_table(kernels, milliseconds, n_lines, on_gpu):
    """A sentence on all kernels of a step of `milliseconds`, and the slowest `n_lines` of them.

    On a CPU they are torch's operations, whose times hold the profiler's own cost too.
    """
    kind = "kernel" if on_gpu else "operation"
    n_kernels = sum(kernel.count for kernel in kernels) / N_PROFILED
    total = sum(kernel.microseconds for kernel in kernels) / N_PROFILED / 1e3
    rows = [
        [
            kernel.name[:90],
            f"{kernel.count / N_PROFILED:,.1f}",
            f"{kernel.microseconds / kernel.count:,.1f}",
            f"{kernel.microseconds / N_PROFILED / 1e3:.3f}",
            f"{kernel.microseconds / N_PROFILED / 1e3 / total:.1%}",
        ]
        for kernel in kernels[:n_lines]
    ]
    header = [kind, "a step", "µs each", "ms a step", f"of {kind}s"]
    busy = f", busy {total / milliseconds:.0%}" if on_gpu else ""
    return (
        f"{milliseconds:.3f} ms a step; {n_kernels:,.0f} {kind}s of {total:.3f} ms{busy}\n\n"
        f"{B.table(header, rows)}"
    )


def profile_one(bench, R, args):
    """The heading and table of R replicas; their model is gone when it returns."""
    how, step = warm_step(bench, R, args.batch, args.steps)
    milliseconds = milliseconds_a_step(bench, step, args.steps)
    kernels, on_gpu = profiled_kernels(bench, step), bench.device.type == "cuda"
    found = kernel_table(kernels, milliseconds, args.kernels, on_gpu)
    return f"**R = {R}, batch {args.batch}**, {how}: {found}"


def profile_steps(args):
    bench = B.prepare(args.device)
    if args.steps * args.batch > len(bench.examples):
        raise UserError(
            f"--steps {args.steps} of --batch {args.batch} need more than the "
            f"{len(bench.examples):,} examples there are; lower one of them"
        )
    where = B.machine(bench)
    device, threads = where["device"], where["threads"]
    print(f"{device}, {threads} threads, {bench.precision}; torch {torch.__version__}")
    for R in args.replicas:
        print(f"\n{profile_one(bench, R, args)}", flush=True)
        gc.collect()
        if bench.device.type == "cuda":
            torch.cuda.empty_cache()


def main(argv=None):
    return run_main(lambda: profile_steps(build_parser().parse_args(argv)))


if __name__ == "__main__":
    sys.exit(main())
