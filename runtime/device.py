"""The machine and the program: what the processor can do, free memory, what a run records."""

import os
import platform
import subprocess

import numpy as np
import torch

from runtime.files import ROOT

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def cpu_features():
    """What torch knows of this processor, {name: value}; {} where it cannot tell."""
    return torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}


def cpu_bf16_instructions():
    """The instructions this processor has for bf16 products: "amx", "avx512" or "" for none."""
    features = cpu_features()
    return next((isa for isa in ("amx", "avx512") if features.get(f"{isa}_bf16")), "")


def free_memory_bytes(device):
    """Of the GPU, or of this machine; 4 GiB where that cannot be told."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if hasattr(os, "sysconf") and "SC_AVPHYS_PAGES" in os.sysconf_names:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return 4 * 2**30  # Windows and macOS tell only through further packages


def versions():
    """Of everything that computes, {name: version}."""
    try:
        cudnn = torch.backends.cudnn.version()
    except RuntimeError as error:  # another one than torch was built for is found first
        cudnn = str(error)
    names = {"python": platform.python_version(), "torch": torch.__version__}
    names |= {"cuda": torch.version.cuda, "cudnn": cudnn}
    return {**names, "numpy": np.__version__, "platform": platform.platform()}


def machine(device):
    """What beside the versions can change the last bits of a result."""
    return {
        "device": "cpu" if device.type == "cpu" else torch.cuda.get_device_name(device),
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cpu_features": sorted(name for name, there in cpu_features().items() if there is True),
        "mkldnn": torch.backends.mkldnn.is_available(),
        "matmul_precision": torch.get_float32_matmul_precision(),
    }


def git_commit():
    command = ["git", "-C", str(ROOT), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
