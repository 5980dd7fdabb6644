"""One run in several processes, started by torchrun: who does what, and how they agree.

Seeds are shared out among the processes. Where seeds are fewer than processes, all processes
share each batch and add up their gradients. In a process that runs alone every function here does
nothing.
StopSignals takes signals, in whichever of the processes they come.
"""

import contextlib
import errno
import os
import signal
import sys
import threading
import time
import uuid
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from runtime.errors import Halt


@dataclass(frozen=True)
class World:
    """The processes that torchrun started for one run; a process started alone is World()."""

    rank: int = 0
    size: int = 1
    local_rank: int | None = None  # among those on this machine: the GPU that is its own

    @property
    def main(self) -> bool:
        """Whether this process prints, and writes what all have in common."""
        return self.rank == 0


ALONE = World()


@dataclass
class Standing:
    """Where this process stands with the others. `main` reads it when the work has ended."""

    before_start: bool  # others wait for it in `barrier` before they begin
    reports_errors: bool  # it prints why it ends

    @classmethod
    def of(cls, world: World) -> "Standing":
        return cls(before_start=world.size > 1, reports_errors=world.main)

    def started(self, team: World) -> None:
        """All have begun: from now on each team ends by itself."""
        self.before_start, self.reports_errors = False, team.main


class EndTogether(Exception):
    """Some process cannot begin, and all end as it does: (exit code, message)."""


def fresh_store(store: dist.Store, rank: int, size: int) -> dist.Store:
    """The part of torchrun's key-value store that belongs to these processes alone.

    After a restart it still holds the addresses of the dead ones, and who reads them before they
    are overwritten waits for ever (pytorch/pytorch#135712). Here each process asks by a name never
    used before, and the first one answers with the prefix of all keys from now on.
    """
    if rank:
        name = uuid.uuid4().hex
        store.set(f"asked_by_{rank}", name)
        prefix = store.get(f"answer_to_{name}").decode()
        store.add(f"{prefix}_here", 1)
        return dist.PrefixStore(prefix, store)
    prefix = uuid.uuid4().hex
    while store.add(f"{prefix}_here", 0) < size - 1:
        for other in range(1, size):
            if store.check([f"asked_by_{other}"]):
                store.set(f"answer_to_{store.get(f'asked_by_{other}').decode()}", prefix)
        time.sleep(0.05)
    return dist.PrefixStore(prefix, store)


def join_world() -> World:
    """Connect to the other processes, if torchrun's environment tells of any."""
    if int(os.environ.get("WORLD_SIZE", 1)) == 1 or "RANK" not in os.environ:
        return World()
    # Talk goes over the CPU, gradients where they are. A process may be done with its seeds days
    # before another, and torchrun itself sees one die: so hardly a limit of time.
    store, rank, size = next(dist.rendezvous("env://"))
    nccl = torch.cuda.is_available() and dist.is_nccl_available()
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if nccl else "gloo",
        store=fresh_store(store, rank, size),
        rank=rank,
        world_size=size,
        timeout=timedelta(weeks=3),
    )
    local_rank = int(os.environ["LOCAL_RANK"])
    return World(rank, size, local_rank)


def leave_world(world: World, code: int) -> None:
    """End this process with exit code `code` if it is one of several; alone, do nothing.

    An interpreter that shuts down beside gloo's threads sometimes aborts (SIGABRT), which torchrun
    would take for a failed run: so what is left is flushed, and the process ends here. One that
    failed leaves the group as it is: to destroy NCCL's may wait for processes that wait for it.
    """
    if world.size > 1:
        if code == 0:
            dist.destroy_process_group()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def gather(world: World, value: Any) -> list:
    """The `value` of every process, in the order of their ranks; each waits for all."""
    if world.size == 1:
        return [value]
    values = [None] * world.size
    dist.all_gather_object(values, value)
    return values


def barrier(world: World, failure: tuple[int, str] | None = None, value: Any = None) -> Any:
    """Return the first process's `value`. All come here, and wait, before they may begin.

    A process that cannot begin comes with its `failure` from `main`. Then EndTogether is raised in
    each: a mistake that one of them finds ends all, is reported once, and leaves none waiting.
    """
    answers = gather(world, (failure, value))
    failures = [failure for failure, _ in answers if failure]
    if failures:
        raise EndTogether(*failures[0])
    return answers[0][1]


def share_work(seeds: list[int], world: World) -> tuple[list[int], World]:
    """Return (the seeds that this process trains, the team that trains them together).

    Seeds are shared out in runs, and each process is a team of its own. Where they are fewer than
    the processes, all train all of them and share each batch.
    """
    if len(seeds) < world.size:
        return seeds, world
    share = np.array_split(seeds, world.size)[world.rank].tolist()
    return share, World(local_rank=world.local_rank)


@torch.no_grad()
def sum_over_processes(team: World, tensors: list[torch.Tensor]) -> None:
    """Add up each of the float tensors over the processes of `team`, in place, in one exchange."""
    if team.size == 1:
        return
    flat = torch.cat([t.flatten() for t in tensors])
    dist.all_reduce(flat)
    for t, total in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
        t.copy_(total.view_as(t))


def gradients(model: torch.nn.Module) -> list[torch.Tensor]:
    """Each parameter's gradient; zeros where no row of the batch fell to this process."""
    for p in model.parameters():
        if p.grad is None:
            p.grad = torch.zeros_like(p)
    return [p.grad for p in model.parameters()]


def from_first(team: World, value: Any) -> Any:
    """The `value` of the first process of `team`."""
    values = [value]
    if team.size > 1:
        dist.broadcast_object_list(values)
    return values[0]


def most_of_processes(team: World, value: int) -> int:
    """The greatest int >= 0 that any process of `team` gives."""
    if team.size == 1:
        return value
    greatest = torch.tensor([value])
    dist.all_reduce(greatest, dist.ReduceOp.MAX)  # on the CPU: a GPU is not made to wait
    return int(greatest)


class Terminal:
    """A text stream to a terminal. Once that is closed, what is written is lost, and no error."""

    def __init__(self, stream):
        self.stream = stream

    def __getattr__(self, name):
        return getattr(self.stream, name)

    def write(self, text):
        try:
            return self.stream.write(text)
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            return len(text)

    def flush(self):
        try:
            self.stream.flush()
        except OSError as error:
            if error.errno != errno.EIO:
                raise


class StopSignals:
    """Inside `with`, SIGINT, SIGTERM, SIGHUP and SIGUSR1 raise Halt at once. While `can_wait` is
    set they are only recorded: training saves after the current step, validation or report, and
    then stops.

    The first SIGINT is answered by a line on stderr, unless `answers` is false: `when` says what
    happens next. A second SIGINT interrupts at once. Signals that were ignored stay so (nohup), and
    only the main thread can take any.
    """

    received = None
    can_wait = False
    when = "saving after this step"

    def __init__(self, answers=True):
        self.answers = answers

    def __enter__(self):
        self.before = {}
        self.terminals = [fd for fd in (1, 2) if os.isatty(fd)]
        self.streams = sys.stdout, sys.stderr
        # A closed terminal refuses lines a moment before SIGHUP comes.
        sys.stdout, sys.stderr = (Terminal(s) if s.isatty() else s for s in self.streams)
        if threading.current_thread() is threading.main_thread():
            for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGBREAK"):
                number = getattr(signal, name, None)  # Windows and POSIX have different ones
                if number and signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self.before[number] = signal.signal(number, self.take)
        return self

    def __exit__(self, *_):
        sys.stdout, sys.stderr = self.streams
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def take(self, number, frame):
        if number == signal.SIGINT == self.received:
            raise KeyboardInterrupt
        self.received = number
        if number == getattr(signal, "SIGHUP", None):
            self.leave_terminals()
        if not self.can_wait:
            self.leave_if_asked("before training began")
        elif number == signal.SIGINT and self.answers:
            with contextlib.suppress(OSError):  # os.write: a print may be what was interrupted
                os.write(2, f"\n{self.when}; again to abort\n".encode())

    def leave_terminals(self):
        """Write to no terminal from now on: it is closed."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for fd in self.terminals:
            os.dup2(nowhere, fd)
        os.close(nowhere)

    def agreed(self, team: World) -> bool:
        """Whether to stop now: all processes of a team do, once one has received a signal."""
        number = most_of_processes(team, self.received or 0)
        self.received = self.received or number
        return number > 0

    def leave_if_asked(self, where: str) -> None:
        if self.received:
            raise Halt(128 + self.received, f"{signal.Signals(self.received).name} came {where}")
