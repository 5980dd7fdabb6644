"""The cores that a process may use, and what is said where its threads wait for them."""

import math
import os

import pytest

from runtime import limits
from runtime.limits import CoreWatch

CGROUPS = {
    "no groups": ({}, math.inf),
    "version 2, none set": (
        {"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "max 100000"},
        math.inf,
    ),
    "version 2, a container's own": (
        {"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "250000 100000"},
        2.5,
    ),
    "version 2, the narrowest of those above": (
        {
            "proc/self/cgroup": "0::/a/b",
            "sys/fs/cgroup/a/b/cpu.max": "max 100000",
            "sys/fs/cgroup/a/cpu.max": "300000 100000",
            "sys/fs/cgroup/cpu.max": "800000 100000",
            "sys/fs/cgroup/other/cpu.max": "100000 100000",
        },
        3,
    ),
    "version 1, whose paths a container lacks": (
        {
            "proc/self/cgroup": "4:memory:/docker/x\n3:cpu,cpuacct:/docker/x\n0::/",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "50000",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
        },
        0.5,
    ),
    "version 1, none set": (
        {
            "proc/self/cgroup": "3:cpu,cpuacct:/",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
        },
        math.inf,
    ),
}


@pytest.mark.parametrize(("files", "left"), CGROUPS.values(), ids=CGROUPS)
def test_cores_that_are_left_by_control_groups(tmp_path, monkeypatch, files, left):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    assert limits.cgroup_cores(tmp_path) == left
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(4)), raising=False)
    assert limits.usable_cores(tmp_path) == {math.inf: 4, 2.5: 2, 3: 3, 0.5: 1}[left]
    monkeypatch.delattr(os, "sched_getaffinity")  # macOS and Windows
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    assert limits.usable_cores(tmp_path) == {math.inf: 3, 2.5: 2, 3: 3, 0.5: 1}[left]


def said_of_steps(steps, threads=2):
    """What CoreWatch says after each of `steps`, pairs of wall and processor seconds."""
    now = [100.0, 7.0]
    watch = CoreWatch(threads, wall=lambda: now[0], processor=lambda: now[1])
    said = []
    for wall, processor in steps:
        now[0] += wall
        now[1] += processor
        said.append(watch.step())
    return said


def test_threads_that_wait_for_cores_are_told_of_once():
    assert said_of_steps([(1.0, 0.9)] * 100) == [""] * 100
    said = said_of_steps([(1.0, 0.2)] * 100)
    assert said[:7] + said[8:] == [""] * 99
    assert said[7] == (
        "note    other work takes the cores: a step takes 5 times its processor time, since 2 "
        "threads wait for each other; with OMP_NUM_THREADS=1 before the command they do not "
        "(Ctrl-C, and --resume goes on)"
    )
    assert said_of_steps([(1.0, 0.2)] * 100, threads=1) == [""] * 100
    # Fast steps are watched for some seconds; one step in which the process was stopped is not.
    assert [bool(text) for text in said_of_steps([(0.125, 0.03125)] * 50)].index(True) == 39
    assert said_of_steps([*[(1.0, 0.9)] * 3, (1000.0, 0.9), *[(1.0, 0.9)] * 20]) == [""] * 24
    # The machine may fill up later.
    said = said_of_steps([*[(1.0, 0.9)] * 40, *[(1.0, 0.25)] * 20])
    assert [i for i, text in enumerate(said) if text] == [47]


def test_what_passes_between_steps_is_no_step():
    now = [0.0, 0.0]
    watch = CoreWatch(2, wall=lambda: now[0], processor=lambda: now[1])
    for _ in range(50):
        now[0] += 10.0  # a checkpoint is written
        watch.begin()
        now[0], now[1] = now[0] + 1.0, now[1] + 1.0
        assert watch.step() == ""
