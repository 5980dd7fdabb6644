"""What denormals cost: forward and backward of a run's last models, with and without flushing them.

    OMP_NUM_THREADS=1 python benchmarks/denormals.py runs/step1_add_only

A number below 1.2e-38 is a denormal, and a processor that meets one in a product takes many times
as long. All seeds of the run take each batch of 32 training examples, side by side, without
dropout. The two ways take turns. One thread: torch's workers keep the mode that they were made in.
"""

import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from runtime.cli import Parser, answer_early, bounded, path, run_main


def build_parser():
    parser = Parser(__doc__)
    parser.add_argument("run", type=path, help="run folder, of one seed or several")
    parser.add_argument("--rounds", type=bounded(int, 1, 1000), default=5, help="each of 3 batches")
    return parser


if __name__ == "__main__":  # --help and mistakes in flags need not wait for the imports below
    answer_early(build_parser().parse_args)

import numpy as np
import torch

from data.formats import load_examples, load_tokenizer
from evaluation.models import load_replicas
from runtime.records import CONFIG, read_json, seed_folders
from train_minigpt_4070 import answer_loss, make_batch, resident


def measure(folder: Path, rounds: int) -> dict[bool, list[float]]:
    """{flushed: processor seconds of a batch, one a round}."""
    torch.set_num_threads(1)
    device = torch.device("cpu")
    homes = seed_folders(folder) or [folder]
    replicas, _ = load_replicas([home / "last.pth" for home in homes], device)
    files = read_json(folder / "config.json", CONFIG)["data"]
    tokenizer = load_tokenizer(Path(files["tokenizer"]["path"]))
    examples = load_examples(Path(files["train"]["path"]), tokenizer)
    data, model, rng = resident(examples, device), replicas.model.eval(), np.random.default_rng(0)
    batches = [make_batch(data, rng.integers(0, len(examples), (model.R, 32))) for _ in range(3)]
    found = {False: [], True: []}
    for _ in range(rounds + 1):
        for flushed, seconds in found.items():
            torch.set_flush_denormal(flushed)
            began = time.process_time()
            for batch in batches:
                (answer_loss(model(batch), batch.targets) / batch.n_targets).sum().backward()
                model.zero_grad()
            seconds.append((time.process_time() - began) / len(batches))
    torch.set_flush_denormal(False)
    return {flushed: seconds[1:] for flushed, seconds in found.items()}  # the first warms up


def main(argv: list[str] | None = None) -> int:
    def run():
        args = build_parser().parse_args(argv)
        for flushed, seconds in measure(args.run, args.rounds).items():
            middle, ends = statistics.median(seconds), (min(seconds), max(seconds))
            how = "flushed" if flushed else "kept"
            print(f"denormals {how:8} {middle:.3f} s a batch ({ends[0]:.3f}-{ends[1]:.3f})")

    return run_main(run)


if __name__ == "__main__":
    sys.exit(main())
