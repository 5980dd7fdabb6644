"""What the tests of torchrun and of sweeps share: tiny runs, launched, killed and compared."""

import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch
import torch._dynamo  # the first optimizer imports it, which would cost each fork 2 s

import plots
import train_minigpt_4070 as t
from data.generate import build_tokenizer
from data.tasks import TASKS

SCRIPT = Path(t.__file__)
SMALL = "--n_layers 1 --n_heads 2 --warmup_steps 2 --device cpu --amp fp32 --lr 3e-4 --patience 0"
SMALL = (SMALL + " --no-show_samples --no-autoreg_eval").split()


def write_sets(folder, names=("train",), n=40):
    """Sums as .txt, with a validation set and a tokenizer beside them. Returns the folder."""
    folder.mkdir(exist_ok=True)
    rng = random.Random(5)
    pairs = [(a, b) for a in range(30) for b in range(30)]
    for name in (*names, "val"):
        drawn = [pairs.pop(rng.randrange(len(pairs))) for _ in range(n)]
        lines = [f"[add] {a} + {b} | {a + b}\n" for a, b in drawn]
        (folder / f"{name}.txt").write_text("".join(lines))
    (folder / "tokenizer.json").write_text(json.dumps(build_tokenizer(TASKS)))
    return folder


def flags(sets, out, *more, data="train", d_model=16):
    paths = ["--data", sets / f"{data}.txt", "--val_data", sets / "val.txt"]
    paths += ["--tokenizer", sets / "tokenizer.json", "--out_dir", out, "--d_model", d_model]
    return [str(part) for part in (*paths, *SMALL, *more)]


def environment():
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(SCRIPT.parent)}


def torchrun(arguments, n=2, restarts=0):
    """Start the trainer as n processes; returns the Popen of torchrun."""
    launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={n}"]
    launch += [f"--max-restarts={restarts}", "--monitor-interval=0.1"]
    return subprocess.Popen(
        [sys.executable, *launch, __file__, "train", *arguments],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def children(pid):
    try:
        return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:  # it has ended
        return []


def lines_of(path):
    """The records of a .jsonl without what a clock wrote."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "seconds"} for line in lines]


def weights_of(path):
    return torch.load(path, weights_only=True)["model"]


def assert_same_run(a, b):
    """The same numbers in every epoch and the same bits in the last and the best weights."""
    assert lines_of(a / "metrics.jsonl") == lines_of(b / "metrics.jsonl"), (a, b)
    for name in ("last.pth", "best_model.pth"):
        x, y = weights_of(a / name), weights_of(b / name)
        assert x.keys() == y.keys()
        for key in x:
            assert torch.equal(x[key], y[key]), (a, b, name, key)


def main_in_child(command, log):
    """Run one command as a child; returns its pid. A fork spares the import of torch."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        with open(log, "a") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
            without_figures()
            code = t.main(command)
            sys.stdout.flush()
    finally:
        os._exit(code)


def sweep_commands(sets, out, names, widths, seeds, *more):
    """{run name: command} of a small sweep."""
    grid = itertools.product(names, widths, seeds)
    return {
        f"{data}_d{d}_s{s}": flags(
            sets, out / f"{data}_d{d}_s{s}", "--seed", s, *more, data=data, d_model=d
        )
        for data, d, s in grid
    }


def sweep_worker(commands, number, kills, longest, log_dir):
    """What one worker of a sweep does: every command in turn, again until each is done.

    The first `kills` children that it starts are killed with -9 after up to `longest` seconds.
    Returns the exit codes in order, [(run, code)], -9 for a killed one.
    """
    rng, found, left = random.Random(number), [], list(commands)
    torch.set_num_threads(1)
    while left:
        for name in list(left):
            pid = main_in_child(commands[name], Path(log_dir) / f"{name}.{number}.log")
            if kills > 0:
                kills -= 1
                time.sleep(rng.uniform(0, longest))
                os.kill(pid, signal.SIGKILL)
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            found.append((name, code))
            if code == 0:
                left.remove(name)
            elif code not in (4, -signal.SIGKILL):
                return found
    return found


def run_sweep(commands, workers, kills, longest, folder):
    """Several such workers at once, each beginning elsewhere; returns their outcomes as one list.

    `kills` and `longest` are those of `sweep_worker`.
    """
    folder.mkdir()
    names, started = list(commands), []
    for number in range(workers):
        first = number * len(names) // workers
        own = {name: commands[name] for name in names[first:] + names[:first]}
        plan = folder / f"worker{number}.json"
        plan.write_text(json.dumps([own, number, kills, longest, str(folder)]))
        command = [sys.executable, __file__, plan]
        started.append(
            subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, text=True)
        )
    return [tuple(pair) for worker in started for pair in json.loads(worker.communicate()[0])]


def without_figures():
    """They take longer than these runs, and have their own tests."""
    plots.write_figures = lambda *args, **kwargs: []


if __name__ == "__main__":
    if sys.argv[1] == "train":
        without_figures()
        sys.exit(t.main(sys.argv[2:]))
    print(json.dumps(sweep_worker(*json.loads(Path(sys.argv[1]).read_text()))))
