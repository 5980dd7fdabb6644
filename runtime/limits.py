"""What a process may use of its machine, and threads that wait for a core. No torch."""

import math
import os
import time
from collections.abc import Callable
from pathlib import Path, PurePosixPath


def group_files(root: Path, controller: str, second: str, first: str) -> list[list[str]]:
    """The words in the files of this process's control groups: of its own and of all above it.

    `second` names the files in version 2 of control groups and `first` those in version 1, with
    spaces between them. A group that lacks one is left out: a container may show its own group as
    the root, so that the longer paths are missing.
    """
    membership, found = root / "proc/self/cgroup", []
    for line in membership.read_text().splitlines() if membership.is_file() else ():
        _, controllers, group = line.split(":", 2)
        if controllers and controller not in controllers.split(","):  # version 1 names them
            continue
        base = root / "sys/fs/cgroup" / (controller if controllers else "")
        names, path = (first if controllers else second).split(), PurePosixPath(group.lstrip("/"))
        for folder in (base / part for part in (path, *path.parents)):
            if all((folder / name).is_file() for name in names):
                found.append(" ".join((folder / name).read_text() for name in names).split())
    return found


def cgroup_cores(root: Path) -> float:
    """How many cores' time the control groups leave this process; inf where none limits it."""
    quotas = group_files(root, "cpu", "cpu.max", "cpu.cfs_quota_us cpu.cfs_period_us")
    limited = [int(quota) / int(period) for quota, period in quotas if quota not in ("max", "-1")]
    return min(limited, default=math.inf)


def cgroup_memory(root: Path) -> float:
    """How many bytes the control groups leave this process; inf where none limits it."""
    limits = group_files(root, "memory", "memory.max", "memory.limit_in_bytes")
    return min((int(limit) for [limit] in limits if limit != "max"), default=math.inf)


def usable_cores(root: Path = Path("/")) -> int:
    """How many cores this process may keep busy: by its affinity, and by its control groups."""
    n = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, int(min(n, cgroup_cores(root))))


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
