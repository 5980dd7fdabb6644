"""Measure how loading a data set grows with its rows: seconds, memory and the time of a batch.

    python benchmarks/load.py --rows 50000,500000,5000000

Draws each set from the tasks of data/generate.py into a temporary folder (5 million rows: 180 MiB
and two minutes), reads it in a process of its own, one thread, and prints a Markdown table. Seconds
are processor time, so that a busy machine does not count.
"""

import argparse
import json
import pickle
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from data.generate import build_tokenizer  # noqa: E402
from data.tasks import draw_example, standard_tasks  # noqa: E402
from runtime.cli import Parser, run_main  # noqa: E402
from runtime.files import write_json  # noqa: E402


def write_rows(path, n, seed):
    """n rows, the five tasks in turn, duplicates as they fall."""
    rng = random.Random(f"{seed} growth")
    with open(path, "w", encoding="utf-8") as file:
        file.writelines(draw_example(rng, standard_tasks()[i % 5]) + "\n" for i in range(n))


def write_pickle(path, text_path):
    """The same rows as a pickle with `encoded`, as the standard sets have it."""
    from data.formats import load_tokenizer

    tokenizer = load_tokenizer(path.with_name("tokenizer.json"))
    rows = text_path.read_text(encoding="utf-8").splitlines()
    encoded = [tokenizer.encode(row).tolist() for row in rows]
    path.write_bytes(pickle.dumps({"raw": rows, "encoded": encoded, "labels": [None] * len(rows)}))


def peak_mib():
    status = Path("/proc/self/status")
    if status.is_file():  # on Linux getrusage also counts what the parent had
        line = next(x for x in status.read_text().splitlines() if x.startswith("VmHWM:"))
        return int(line.split()[1]) / 2**10
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def measure(path, prepare):
    """Read `path` in this process; with `prepare` do all that a run does before its first step, and
    time batches.
    """
    import torch

    import train_minigpt_4070 as minigpt
    from data.formats import load_examples, load_tokenizer

    torch.set_num_threads(1)
    tokenizer, val = path.with_name("tokenizer.json"), path.with_name("val.txt")
    flags = ["--data", str(path), "--val_data", str(val)]
    flags += ["--warmup_steps", "0"]  # a small set has few steps
    args = minigpt.build_parser().parse_args([*flags, "--tokenizer", str(tokenizer)])
    before, started = peak_mib(), time.process_time()

    def so_far():
        return {"seconds": time.process_time() - started, "mib": peak_mib() - before}

    if not prepare:
        load_examples(path, load_tokenizer(tokenizer))
        return so_far()
    data = minigpt.load_data(args.data, args.val_data, args.tokenizer, args.max_len)
    minigpt.make_plan(args, data, 1)
    resident = minigpt.Resident(data.train, torch.device("cpu"))
    result = so_far()
    order = np.random.default_rng(0).integers(len(data.train), size=(200, 1, 32))
    started = time.process_time()
    for rows in order:
        minigpt.make_batch(resident, rows)
    return {**result, "batch_ms": (time.process_time() - started) / len(order) * 1000}


def measured(path, prepare=False):
    """`measure` in a fresh process."""
    command = [sys.executable, __file__, "--measure", str(path), *(["--prepare"] * prepare)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def build_parser():
    parser = Parser(__doc__.splitlines()[0])
    parser.add_argument("--rows", default="50000,500000,5000000", help="sizes")
    parser.add_argument(
        "--pickle_up_to", type=int, default=500_000, help="also as .pkl, up to here"
    )
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--prepare", action="store_true", help=argparse.SUPPRESS)
    return parser


def measure_sizes(args):
    if args.measure:
        print(json.dumps(measure(args.measure, args.prepare)))
        return
    print("| rows | file | MiB | load s | load peak MiB | to first step s | peak MiB | batch ms |")
    print("|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        write_json(Path(folder, "tokenizer.json"), build_tokenizer(standard_tasks()))
        write_rows(Path(folder, "val.txt"), 2500, seed=4243)
        for n in map(int, args.rows.split(",")):
            text, pickled = Path(folder, f"{n}.txt"), Path(folder, f"{n}.pkl")
            write_rows(text, n, seed=4242)
            if n <= args.pickle_up_to:
                write_pickle(pickled, text)
            for path in (text, pickled) if n <= args.pickle_up_to else (text,):
                load, whole = measured(path), measured(path, prepare=True)
                line = f"| {n:,} | {path.suffix} | {path.stat().st_size / 2**20:.1f} "
                line += f"| {load['seconds']:.1f} | {load['mib']:.0f} "
                line += f"| {whole['seconds']:.1f} | {whole['mib']:.0f} | {whole['batch_ms']:.2f} |"
                print(line, flush=True)


def main(argv=None):
    return run_main(lambda: measure_sizes(build_parser().parse_args(argv)))


if __name__ == "__main__":
    sys.exit(main())
