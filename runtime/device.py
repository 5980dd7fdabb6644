"""The machine and the program: what the processor can do, total memory, what a run records."""

import os
import platform
import subprocess
from pathlib import Path

import numpy as np
import torch

from runtime.distributed import ALONE
from runtime.errors import UserError
from runtime.files import ROOT
from runtime.limits import cgroup_memory, usable_cores

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


def total_memory_bytes(device: torch.device, root: Path = Path("/")) -> int | None:
    """All that the GPU has, or this machine or container; None where that cannot be told.

    What is free at the moment does not count: the same command is to do the same each time.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return None  # Windows tells only through further packages
    return int(min(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), cgroup_memory(root)))


def limit_threads(cores: int) -> None:
    """Take at most a thread a core; but as many as the environment asks for, if it does.

    Torch knows the affinity of the process and no quota: in a container that may use 2 cores of 64
    it would start 64 threads.
    """
    asked = {"OMP_NUM_THREADS", "MKL_NUM_THREADS"} & os.environ.keys()
    if not asked and cores < torch.get_num_threads():
        torch.set_num_threads(cores)


def flush_denormals() -> None:
    """Let this thread, and those made from now on, take numbers below 1.2e-38 for 0.

    Where activations saturate, as at a high learning rate, matrix products meet many such numbers,
    and a Xeon took 2.9 times as long for a step. Torch's workers take the mode over when they are
    made: set before the first product it holds for all of them, later for none.
    """
    for kind in (np.float32, np.float64):  # numpy keeps what it finds, and would warn afterwards
        np.finfo(kind)
    torch.set_flush_denormal(True)  # False where the processor has no such mode


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
    if name.startswith("cuda") and team.local_rank is not None:
        if name != "cuda":
            raise UserError(
                f"--device {name} would put all processes on one GPU; give cuda, and each takes "
                "its own"
            )
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
        flush_denormals()
    if device.type == "cuda":
        device = torch.device("cuda", device.index or 0)
        torch.cuda.set_device(device)  # streams, graphs and seeds go by the current one
        # Torch prefers cuDNN's attention on Hopper and Blackwell. That plans anew for each shape,
        # on a B200 for a second (modelscope/FunASR#3704), and most batches bring new ones.
        torch.backends.cuda.enable_cudnn_sdp(False)
    return device
