"""Compare a panel of R seeds on half of the data with R / 2 runs of one seed on all of it.

    python benchmarks/panel.py --replicas 16 --epochs 2 --rounds 3

Both train the same number of rows. The commands take turns, each in a process of its own on one
thread; what the start takes is measured by a run of one epoch and taken off. Prints a Markdown
table of processor seconds a thousand training rows. The scoring of the panel's ledger is included,
after each epoch here and 12 times in a long run.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from runtime.cli import Parser, run_main  # noqa: E402

MODEL = "--d_model 64 --n_layers 2 --dropout 0 --no-autoreg_eval --no-show_samples --patience 0"


def cpu_seconds(flags, folder):
    """Processor seconds of a trainer command."""
    command = [sys.executable, str(ROOT / "train_minigpt_4070.py"), *MODEL.split(), *flags]
    before = os.times()
    subprocess.run(
        [*command, "--out_dir", str(folder)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        check=True,
    )
    after = os.times()
    used = after.children_user + after.children_system
    used -= before.children_user + before.children_system
    return used


def rows_trained(folder, seeds):
    """Rows that all replicas trained on, by the last line of a metrics.jsonl."""
    path = next(Path(folder).glob("**/metrics.jsonl"))
    return json.loads(path.read_text().splitlines()[-1])["examples_seen"] * seeds


def per_thousand_rows(flags, seeds, epochs, folder):
    """Processor seconds a thousand rows: a run of `epochs` less a run of one epoch.

    Both validate after their last epoch alone, so validation and start cancel.
    """
    used, rows = [], []
    for n in (1, epochs + 1):
        home = Path(folder, f"epochs_{n}")
        lengths = ["--epochs", str(n), "--eval_every", str(n), "--save_every", str(n)]
        used.append(cpu_seconds([*flags, *lengths, "--overwrite"], home))
        rows.append(rows_trained(home, seeds))
    return 1000 * (used[1] - used[0]) / (rows[1] - rows[0])


def compare(args):
    data = ["--data", args.data]
    contenders = {
        f"panel, R = {args.replicas}, half of the examples each": (
            [*data, "--subset", "0.5", "--seeds", f"0-{args.replicas - 1}"],
            args.replicas,
        ),
        "one seed, all examples": ([*data, "--seed", "0"], 1),
    }
    seconds = {name: [] for name in contenders}
    for _ in range(args.rounds):
        for name, (flags, seeds) in contenders.items():
            with tempfile.TemporaryDirectory() as folder:
                seconds[name].append(per_thousand_rows(flags, seeds, args.epochs, folder))
    print("| | CPU s a thousand rows, median [range] |")
    print("|---|---|")
    for name, values in seconds.items():
        ends = f"[{min(values):.2f}, {max(values):.2f}]"
        print(f"| {name} | {statistics.median(values):.2f} {ends} |")
    panel, single = seconds.values()
    ratios = [a / b for a, b in zip(panel, single, strict=True)]
    print(
        f"\nThe panel costs {statistics.median(ratios):.2f} [{min(ratios):.2f}, {max(ratios):.2f}] "
        f"of R / 2 = {args.replicas // 2} runs, the scoring of its ledger included"
    )


def build_parser():
    parser = Parser(__doc__)
    parser.add_argument("--data", default="data/add_only/train.pkl", help="training set")
    parser.add_argument("--replicas", type=int, default=16, help="seeds of the panel")
    parser.add_argument("--epochs", type=int, default=2, help="epochs that are measured")
    parser.add_argument("--rounds", type=int, default=3, help="turns")
    return parser


def main(argv=None):
    return run_main(lambda: compare(build_parser().parse_args(argv)))


if __name__ == "__main__":
    sys.exit(main())
