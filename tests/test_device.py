"""What the machine has."""

import os
import platform
import subprocess
import sys

import pytest
import torch

from runtime import device
from runtime.files import ROOT


def test_memory_is_what_the_machine_has_or_its_container_may_take(tmp_path, monkeypatch):
    pages = {"SC_PHYS_PAGES": 1000, "SC_PAGE_SIZE": 4096}
    monkeypatch.setattr(os, "sysconf", pages.__getitem__)
    monkeypatch.setattr(os, "sysconf_names", pages)
    cpu = torch.device("cpu")
    assert device.total_memory_bytes(cpu, tmp_path) == 4_096_000
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "sys/fs/cgroup/memory/a").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("4:memory:/a\n3:cpu:/\n0::/b\n")
    limits = [
        ("memory.max", "max", 4_096_000),
        ("memory.max", "9000000", 4_096_000),
        ("memory.max", "7000", 7000),
        ("memory/memory.limit_in_bytes", "9223372036854771712", 7000),  # version 1: none set
        ("memory/a/memory.limit_in_bytes", "5000", 5000),
    ]
    for name, text, expected in limits:
        (tmp_path / "sys/fs/cgroup" / name).write_text(text + "\n")
        assert device.total_memory_bytes(cpu, tmp_path) == expected
    monkeypatch.setattr(os, "sysconf_names", {})
    assert device.total_memory_bytes(cpu, tmp_path) is None


def threads_after_choice(monkeypatch, cores, **environment):
    """The threads that torch has after choose_device, of 4 before."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(device, "usable_cores", lambda: cores)
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        device.choose_device("cpu")
        return torch.get_num_threads()
    finally:
        torch.set_num_threads(before)


def test_at_most_a_thread_a_core_unless_the_environment_asks_for_more(monkeypatch):
    assert threads_after_choice(monkeypatch, 3) == 3
    assert threads_after_choice(monkeypatch, 8) == 4
    assert threads_after_choice(monkeypatch, 3, OMP_NUM_THREADS="4") == 4
    assert threads_after_choice(monkeypatch, 3, MKL_NUM_THREADS="4") == 4


@pytest.mark.parametrize(
    ("features", "isa"),
    [
        ({"amx_bf16": True, "avx512_bf16": True, "cpu_name": "Intel Xeon"}, "amx"),
        ({"amx_bf16": False, "avx512_bf16": True, "cpu_name": "Intel Xeon"}, ""),
        ({"amx_bf16": False, "avx512_bf16": True, "cpu_name": "AMD Zen 5"}, "avx512"),
        ({"avx512_bf16": True}, "avx512"),  # torch before it told the name
        ({"avx512_bf16": False, "cpu_name": "AMD Zen 3"}, ""),
        ({}, ""),
    ],
)
def test_bf16_is_for_processors_that_multiply_faster_in_it(monkeypatch, features, isa):
    monkeypatch.setattr(device, "cpu_features", lambda: features)
    assert device.cpu_bf16_instructions() == isa


AFTER_A_RUN = """
import os, sys
import torch, train_minigpt_4070 as trainer
flags = "--d_model 16 --n_layers 1 --n_heads 1 --epochs 1 --batch_size 1000 --no-show_samples"
code = trainer.main(["--device", "cpu", "--out_dir", sys.argv[1], *flags.split()])
small = torch.full((10**6,), 1e-40)
print("left", int((small * 1).count_nonzero()), code)
"""


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="may flush none")
def test_a_run_flushes_denormals_in_all_of_its_threads(tmp_path):
    """Torch's workers keep the mode of the thread that made them: it is set before any product."""
    command = [sys.executable, "-c", AFTER_A_RUN, tmp_path / "run"]
    two = {**os.environ, "OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "2"}
    done = subprocess.run(command, cwd=ROOT, env=two, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1] == "left 0 0", done.stderr


def test_denormals_stay_where_no_device_was_chosen():
    assert torch.full((1,), 1e-40).mul(1).item() > 0


def test_numpy_does_not_warn_of_missing_denormals():
    lines = "import numpy as np; from runtime.device import choose_device; choose_device('cpu')"
    lines += "; [np.finfo(kind).tiny for kind in (np.float16, np.float32, np.float64)]"
    command = [sys.executable, "-W", "error::UserWarning", "-c", lines]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
