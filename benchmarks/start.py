"""Measure how long a command takes to start: `--help`, a mistake in a flag, the first steps.

    python benchmarks/start.py --rounds 5

`--dry_run` loads the data, audits them, plans, and makes six steps of the quick start's model. The
commands take turns. Processor seconds are all that a process used, of all its threads.
"""

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from runtime.cli import Parser, bounded, run_main  # noqa: E402

COMMANDS = {
    "python -c 'import torch'": (0, "-c", "import torch"),
    "train_minigpt_4070.py --help": (0, "train_minigpt_4070.py", "--help"),
    "evaluate_ood.py --help": (0, "evaluate_ood.py", "--help"),
    "train_minigpt_4070.py --canaries 5": (2, "train_minigpt_4070.py", "--canaries", "5"),
    "train_minigpt_4070.py --dry_run": (0, "train_minigpt_4070.py", "--dry_run"),
}


def measured(code: int, *words: str) -> tuple[float, float]:
    """(wall seconds, processor seconds) of a command that is to end with `code`."""
    import resource  # Windows has none

    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == code, done.stderr
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return wall, used


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f}–{max(values):.2f})"


def compare(args) -> None:
    found = {name: [] for name in COMMANDS}
    for round_ in range(args.rounds + 1):  # round 0 warms up
        for name, command in COMMANDS.items():
            times = measured(*command)
            if round_:
                found[name].append(times)
    load = f"load {os.getloadavg()[0]:.1f} at the end"
    print(f"{args.rounds} rounds, median (lowest–highest); {load}\n")
    print("| command | wall s | CPU s |\n|---|---|---|")
    for name, times in found.items():
        wall, used = zip(*times, strict=True)
        print(f"| `{name}` | {spread(wall)} | {spread(used)} |")


def build_parser():
    parser = Parser(__doc__)
    parser.add_argument("--rounds", type=bounded(int, 1, 1000), default=5, help="turns")
    return parser


def main(argv=None):
    return run_main(lambda: compare(build_parser().parse_args(argv)))


if __name__ == "__main__":
    sys.exit(main())
