"""The training set of a checkpoint: what may be overlapped with, and what lookup looks in."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.audit import held_out_rows
from data.baselines import TrainingTexts, training_texts
from data.checks import Forms
from data.formats import Examples, Tokenizer, pack
from data.readers import RowFormat, read_rows
from data.sources import require_file, standard_path
from data.subsets import Subsets
from data.tasks import TASKS, size_of
from runtime.files import sha256_of


@dataclass
class Training:
    path: str
    sha256: str
    keys: np.ndarray  # int64: hashes of the canonical key and the answer of its examples
    sizes: dict  # task -> [smallest, largest]: items, digits or hops
    forms: Forms  # how its rows are written
    lookup: dict[int, TrainingTexts]  # seed -> the rows that lookup looks in


def lookup_texts(examples: Examples, checkpoints: Sequence[dict]) -> dict[int, TrainingTexts]:
    """seed -> the training rows to look in: of a panel the seed's own part, else all, shared."""
    seeds, share = [c["seed"] for c in checkpoints], checkpoints[0].get("subset")
    if share is None:
        return dict.fromkeys(seeds, training_texts(examples))
    subsets = Subsets(examples, share)
    return {seed: training_texts(examples.take(subsets.rows(seed))) for seed in seeds}


def load_training(
    checkpoints: Sequence[dict], override: str | None, tokenizer: Tokenizer
) -> tuple[Training | None, str]:
    """Return (Training, or None where its file is not at hand, and a notice or "")."""
    checkpoint = checkpoints[0]
    known = checkpoint["data"]["train"]
    path = standard_path(known["path"])
    if override:
        path = require_file(override, "the training set")
    elif not path.is_file():
        return None, (
            f"overlap with the training set and the sizes in it are unknown: {path} is not there, "
            f"as seen from {Path.cwd()}; --train_data says where it is now"
        )
    digest, notice = sha256_of(path), ""
    if digest != known["sha256"]:
        notice = f"{path} is not the file the model was trained on (its SHA-256 differs)"
        if not override:
            return None, f"{notice}; --train_data takes one all the same"
    examples, sizes = pack(read_rows(path, RowFormat.of(known)), tokenizer, path), {}
    if checkpoint["data"].get("val", {}).get("held_out_rows") and digest == known["sha256"]:
        examples = examples.take(np.flatnonzero(~held_out_rows(examples)))  # never trained on
    for task in TASKS:
        try:
            seen = {size_of(examples.raw(i)) for i in np.flatnonzero(examples.tags.isin([task]))}
        except (ValueError, IndexError):  # prompts of another grammar have no size
            continue
        if seen:
            sizes[task] = [min(seen), max(seen)]
    forms = Forms("the training set", examples, tokenizer)
    return Training(
        path=str(path),
        sha256=digest,
        keys=np.unique(examples.keys),
        sizes=sizes,
        forms=forms,
        lookup=lookup_texts(examples, checkpoints),
    ), notice
