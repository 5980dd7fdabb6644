"""Train every combination of data sets, widths and seeds: one submitit task each.

    python recipes/sweep.py --data data/processed/train_{normal,dedup,duplicated}.pkl \\
        --d_model 64 128 --seeds 0-3 4-7 --out_dir runs/sweep --workers 2 -- --epochs 10
    python recipes/sweep.py (the same) --cluster slurm --workers 16 --gpus 1 --hours 12

Each task is the trainer's command with --resume and a folder of its own below --out_dir; what
follows `--` goes to every one. Give the same sweep again after whatever happened: finished runs are
skipped, half-done ones go on, and one that somebody else trains is left to them. Paths, also those
after `--`, start where the command is given. On this machine every task sees the same first --gpus
GPUs, and the --workers share its cores unless OMP_NUM_THREADS says how many threads each takes; on
Slurm, SBATCH_PARTITION chooses the partition. Needs `pip install submitit`.
"""

import contextlib
import itertools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from data.sources import require_file, standard_path  # noqa: E402
from runtime.cli import Parser, bounded, path, run_main  # noqa: E402
from runtime.errors import Halt, UserError  # noqa: E402
from runtime.files import check_writable  # noqa: E402
from runtime.limits import usable_cores  # noqa: E402

TRAINER = ROOT / "train_minigpt_4070.py"
OUTCOMES = {0: "done", 4: "left to somebody else, who has the folder"}


def load_submitit():
    """The package submitit, which nothing but a sweep needs; UserError where it is missing."""
    # The signal before a time limit or a preemption reaches the trainer too, which knows this one.
    os.environ.setdefault("SUBMITIT_PREEMPT_SIGNAL", "USR1")
    try:
        import submitit
    except ImportError:
        raise UserError(
            f"{Path(__file__).name} needs the package submitit; pip install submitit"
        ) from None
    return submitit


class SweepTask:
    """The trainer's command in a process of its own, in the folder the sweep began in.

    `threads` is how many it takes where the environment does not say it; None leaves that to it.
    """

    trainer = None

    def __init__(self, command: list[str], folder: Path | None = None, threads: int | None = None):
        self.command, self.folder, self.threads = command, folder or Path.cwd(), threads

    def __call__(self) -> str:
        share = {"OMP_NUM_THREADS": str(self.threads)} if self.threads else {}
        environment = {**share, **os.environ}
        self.trainer = subprocess.Popen(self.command, cwd=self.folder, env=environment)
        code = self.trainer.wait()
        if code not in OUTCOMES:
            raise subprocess.CalledProcessError(code, self.command)
        return OUTCOMES[code]

    def checkpoint(self):
        """The trainer saves and ends, and the task is queued again; submitit calls this."""
        if self.trainer is not None:
            self.trainer.send_signal(signal.SIGUSR1)
            # Not `wait()`, whose lock is held by the call above; this one interrupts it for good.
            with contextlib.suppress(ChildProcessError):  # unless that had the exit code already
                os.waitpid(self.trainer.pid, 0)
        again = SweepTask(self.command, self.folder, self.threads)
        return load_submitit().helpers.DelayedSubmission(again)


def build_parser() -> Parser:
    parser = Parser(__doc__)
    flag = parser.add_argument
    flag("--data", nargs="+", type=path, required=True, help="training sets")
    flag("--tokenizer", type=path, help="their tokenizer (default: as the trainer finds it)")
    flag("--d_model", nargs="+", type=bounded(int, 1, 10**6), required=True, help="widths")
    flag("--seeds", nargs="+", required=True, help="one run each: 0 1 2, or side by side: 0-3 4-7")
    flag("--out_dir", type=path, required=True, help="folder of the run folders")
    flag("--cluster", choices=("local", "slurm"), default="local", help="where")
    flag("--workers", type=bounded(int, 1, 10_000), default=1, help="tasks at a time")
    flag("--gpus", type=bounded(int, 0, 1000), default=0, help="GPUs of a task")
    flag(
        "--cpus",
        type=bounded(int, 1, 10_000),
        default=4,
        help="Slurm: processors of a task",
    )
    flag(
        "--hours",
        type=bounded(float, 0.01, 10_000),
        default=24,
        help="time limit of a task",
    )
    flag("trainer", nargs="*", metavar="-- flags", help="flags for the trainer")
    return parser


def commands(args) -> dict[str, list[str]]:
    """{folder name: command} of every run."""
    runs = {}
    for data, width, seeds in itertools.product(args.data, args.d_model, args.seeds):
        data = standard_path(data).resolve()
        name = f"{data.parent.name}_{data.stem}_d{width}_s{seeds}"
        flags = {"data": data, "d_model": width, "seeds": seeds}
        flags |= {"out_dir": (args.out_dir / name).resolve()}
        if args.tokenizer:
            flags |= {"tokenizer": standard_path(args.tokenizer).resolve()}
        given = [str(part) for key, value in flags.items() for part in (f"--{key}", value)]
        if name in runs:
            raise UserError(
                f"two runs would have the folder {args.out_dir / name}; give no set twice, and "
                "sets of one file name in folders of different names"
            )
        runs[name] = [sys.executable, str(TRAINER), *given, "--resume", *args.trainer]
    return runs


def make_executor(args):
    executor = load_submitit().AutoExecutor(
        args.out_dir / "submitit", cluster=args.cluster, slurm_max_num_timeout=1000
    )
    executor.update_parameters(
        timeout_min=int(60 * args.hours), gpus_per_node=args.gpus, name="sweep"
    )
    if args.cluster == "slurm":
        executor.update_parameters(cpus_per_task=args.cpus, slurm_array_parallelism=args.workers)
    return executor


@contextlib.contextmanager
def writing(folder):
    """An error that names no file, as of a full disk, names this folder."""
    try:
        yield
    except BrokenPipeError:  # standard output's
        raise
    except OSError as error:
        raise Halt(5, f"cannot write in {folder} ({error.strerror or error})") from None


def sweep(args) -> None:
    """Start every run; on this machine also wait for them and tell how each ended."""
    load_submitit()
    runs = commands(args)
    for data in args.data:
        require_file(data, "the training set")  # and make a standard one, once for all tasks
    check_writable(args.out_dir)
    with writing(args.out_dir / "submitit"):
        submit(args, runs)


def submit(args, runs):
    # A task's process starts where the command is given, and imports what the scripts import.
    search = (str(ROOT), os.environ.get("PYTHONPATH"))
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, search))
    executor, jobs = make_executor(args), {}
    if args.cluster == "slurm":
        with executor.batch():
            jobs = {name: executor.submit(SweepTask(command)) for name, command in runs.items()}
        print(f"{len(jobs)} runs submitted as Slurm array; logs in {args.out_dir / 'submitit'}")
        return
    # Workers with a thread a core each would wait for each other's at every product.
    threads = max(1, usable_cores() // args.workers)
    for name, command in runs.items():
        while sum(not job.done() for job in jobs.values()) >= args.workers:
            time.sleep(0.2)
        jobs[name] = executor.submit(SweepTask(command, threads=threads))
    errors = {name: job.exception() for name, job in jobs.items()}  # waits for each
    for name, job in jobs.items():
        error = f"failed; see {job.paths.stderr}" if errors[name] else job.result()
        print(f"{name}: {error}")
    if failed := [name for name, error in errors.items() if error]:
        raise Halt(1, f"{len(failed)} of {len(jobs)} runs failed")


def main(argv: list[str] | None = None) -> int:
    return run_main(lambda: sweep(build_parser().parse_args(argv)))


if __name__ == "__main__":
    sys.exit(main())
