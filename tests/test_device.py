"""What the machine has."""

import os

import pytest
import torch

from runtime import device


def test_memory_is_what_the_machine_has_or_its_container_may_take(tmp_path, monkeypatch):
    pages = {"SC_PHYS_PAGES": 1000, "SC_PAGE_SIZE": 4096}
    monkeypatch.setattr(os, "sysconf", pages.__getitem__)
    monkeypatch.setattr(os, "sysconf_names", pages)
    cpu, limit = torch.device("cpu"), tmp_path / "memory.max"
    assert device.total_memory_bytes(cpu, limit) == 4_096_000
    for text, expected in (("max\n", 4_096_000), ("9000000\n", 4_096_000), ("5000\n", 5000)):
        limit.write_text(text)
        assert device.total_memory_bytes(cpu, limit) == expected
    monkeypatch.setattr(os, "sysconf_names", {})
    assert device.total_memory_bytes(cpu, limit) is None


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
