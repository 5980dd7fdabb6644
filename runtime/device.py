"""The machine and the program: what the processor can do, free memory, what a run records."""

import math
import os
import platform
import subprocess
import time
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import numpy as np
import torch

from runtime.distributed import ALONE
from runtime.errors import UserError
from runtime.files import ROOT

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def cpu_features():
    """What torch knows of this processor, {name: value}; {} where it cannot tell."""
    return torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}


def cpu_bf16_instructions():
    """The instructions by which this processor multiplies faster in bf16 than in fp32.

    "amx", "avx512" or "" for none. An Intel without AMX, or in a virtual machine that hides it, has
    avx512_bf16 too and gains nothing: a Xeon (Emerald Rapids) makes 80 GFLOP/s a thread in bf16 and
    136 in fp32, products of 1,000 x 256 x 1,024.
    """
    features = cpu_features()
    if features.get("amx_bf16"):
        return "amx"
    intel = str(features.get("cpu_name", "")).startswith("Intel")
    return "avx512" if features.get("avx512_bf16") and not intel else ""


def total_memory_bytes(device: torch.device, limit="/sys/fs/cgroup/memory.max") -> int | None:
    """All that the GPU has, or this machine or container; None where that cannot be told.

    What is free at the moment does not count: the same command is to do the same each time.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return None  # Windows tells only through further packages
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    allowed = Path(limit).read_text().strip() if Path(limit).is_file() else "max"
    return min(total, int(allowed)) if allowed.isdecimal() else total


def cgroup_cores(root: Path) -> float:
    """How many cores' time the control groups of this process leave it; inf where none limits it.

    Each group from the process's own up to the root may set a quota. A container may show its own
    group as the root, so that the longer paths are missing.
    """
    membership, quotas = root / "proc/self/cgroup", [math.inf]
    for line in membership.read_text().splitlines() if membership.is_file() else ():
        _, controllers, group = line.split(":", 2)
        first = controllers == "cpu" or "cpu" in controllers.split(",")  # version 1 names them
        if controllers and not first:
            continue
        base = root / "sys/fs/cgroup" / ("cpu" if first else "")
        path = PurePosixPath(group.lstrip("/"))
        for folder in (base / part for part in (path, *path.parents)):
            names = ("cpu.cfs_quota_us", "cpu.cfs_period_us") if first else ("cpu.max",)
            if all((folder / name).is_file() for name in names):
                quota, period = " ".join((folder / name).read_text() for name in names).split()
                if quota not in ("max", "-1"):
                    quotas.append(int(quota) / int(period))
    return min(quotas)


def usable_cores(root: Path = Path("/")) -> int:
    """How many cores this process may keep busy: by its affinity, and by its control groups."""
    n = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, int(min(n, cgroup_cores(root))))


def limit_threads(cores: int) -> None:
    """Take at most a thread a core; but as many as the environment asks for, if it does.

    Torch knows the affinity of the process and no quota: in a container that may use 2 cores of 64
    it would start 64 threads.
    """
    asked = {"OMP_NUM_THREADS", "MKL_NUM_THREADS"} & os.environ.keys()
    if not asked and cores < torch.get_num_threads():
        torch.set_num_threads(cores)


class CoreWatch:
    """Tells once that the `threads` of a run wait for cores which other work takes.

    The thread that makes a step computes, or spins until the others have done their parts: on a
    quiet machine its processor time is nearly the wall time. Where each thread gets a part of a
    core, every product waits for the thread that is not running. Two threads then made 0.4 steps/s
    and one made 8 (two cores, load 6, d_model 64).
    """

    SECONDS, STEPS = 5.0, 8  # least window; its longest step does not count: it may hold a Ctrl-Z

    def __init__(
        self,
        threads: int,
        wall: Callable[[], float] = time.perf_counter,
        processor: Callable[[], float] = time.thread_time,
    ):
        self.threads, self.wall, self.processor = threads, wall, processor
        self.watching, self.steps = threads > 1, []  # one thread waits for no other
        self.begin()

    def begin(self) -> None:
        """A step begins now."""
        self.at = self.wall(), self.processor()

    def step(self) -> str:
        """A step has ended, and the next one begins; returns what there is to say, or ""."""
        if not self.watching:
            return ""
        wall, processor = self.at
        self.begin()
        self.steps.append((self.at[0] - wall, self.at[1] - processor))
        if len(self.steps) < self.STEPS or sum(wall for wall, _ in self.steps) < self.SECONDS:
            return ""
        wall, processor = map(sum, zip(*sorted(self.steps)[:-1], strict=True))
        self.steps = []
        self.watching = wall < 2 * processor
        if self.watching:
            return ""
        return (
            f"note    other work takes the cores: a step takes {wall / processor:.0f} times its "
            f"processor time, since {self.threads} threads wait for each other; with "
            "OMP_NUM_THREADS=1 before the command they do not (Ctrl-C, and --resume goes on)"
        )


def versions():
    """Of everything that computes, {name: version}."""
    try:
        cudnn = torch.backends.cudnn.version()
    except RuntimeError as error:  # another one than torch was built for is found first
        cudnn = str(error)
    names = {"python": platform.python_version(), "torch": torch.__version__}
    names |= {"cuda": torch.version.cuda, "cudnn": cudnn}
    return {**names, "numpy": np.__version__, "platform": platform.platform()}


def machine_facts(device):
    """What beside the versions can change the last bits of a result."""
    return {
        "device": "cpu" if device.type == "cpu" else torch.cuda.get_device_name(device),
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cpu_features": sorted(name for name, there in cpu_features().items() if there is True),
        "mkldnn": torch.backends.mkldnn.is_available(),
        "matmul_precision": torch.get_float32_matmul_precision(),
    }


def ask_git(*question):
    """What git answers about this program; None where it is no checkout, or git is missing."""
    command = ["git", "-C", str(ROOT), *question]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def git_state():
    """The commit of this program, and whether a file that git tracks differs from it."""
    changes = ask_git("status", "--porcelain", "--untracked-files=no")
    return {
        "git_commit": ask_git("rev-parse", "HEAD"),
        "git_changed": None if changes is None else changes != "",
    }


def choose_device(name, team=ALONE):
    """Return the torch.device that `name` means, made ready; UserError if there is none."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and team.local_rank is not None:
        name = f"cuda:{team.local_rank}"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"--device {name} is no device; use auto, cpu, cuda or cuda:<n>") from None
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"--device {name} is not supported; use auto, cpu, cuda or cuda:<n>")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(
            f"--device {name} was asked for, but this torch ({torch.__version__}) sees "
            f"{torch.cuda.device_count()} CUDA devices; docs/training.md tells of CUDA builds"
        )
    if device.type == "cpu":
        limit_threads(usable_cores())
    if device.type == "cuda":
        device = torch.device("cuda", device.index or 0)
        torch.cuda.set_device(device)  # streams, graphs and seeds go by the current one
        # Torch prefers cuDNN's attention on Hopper and Blackwell. That plans anew for each shape,
        # on a B200 for a second (modelscope/FunASR#3704), and most batches bring new ones.
        torch.backends.cuda.enable_cudnn_sdp(False)
    return device
