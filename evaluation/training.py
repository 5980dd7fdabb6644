"""The training set of a checkpoint: what may be overlapped with, and what lookup looks in."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from data.audit import held_out_rows
from data.baselines import TrainingTexts, nearest_neighbours, some_rows, training_texts
from data.checks import Forms
from data.formats import Examples, Tokenizer, join_examples, load_examples, pack
from data.readers import RowFormat, read_rows
from data.sources import require_file, standard_path
from data.subsets import Subsets, canary_counts
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


@dataclass(frozen=True)
class TrainingRows:
    path: str
    sha256: str
    examples: Examples  # those trained on: held-out rows of the file are none
    is_own: bool  # the very file that the model was trained on


def read_training(
    checkpoint: dict, override: str | None, tokenizer: Tokenizer
) -> tuple[TrainingRows | None, str]:
    """Return (TrainingRows, or None where the file is not at hand, and a notice or "")."""
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
    examples = pack(read_rows(path, RowFormat.of(known)), tokenizer, path)
    if checkpoint["data"].get("val", {}).get("held_out_rows") and digest == known["sha256"]:
        examples = examples.take(np.flatnonzero(~held_out_rows(examples)))  # never trained on
    return TrainingRows(str(path), digest, examples, digest == known["sha256"]), notice


def sizes_in(examples: Examples) -> dict[str, list[int]]:
    """task -> [smallest, largest] size of its examples; rows of another grammar have none."""
    sizes = {}
    for task in TASKS:
        seen = set()
        for i in np.flatnonzero(examples.tags.isin([task])):
            with suppress(ValueError, IndexError):
                seen.add(size_of(examples.raw(i)))
        if seen:
            sizes[task] = [min(seen), max(seen)]
    return sizes


def load_training(
    checkpoints: Sequence[dict], override: str | None, tokenizer: Tokenizer
) -> tuple[Training | None, str]:
    """Return (Training, or None where its file is not at hand, and a notice or "")."""
    rows, notice = read_training(checkpoints[0], override, tokenizer)
    if rows is None:
        return None, notice
    return Training(
        path=rows.path,
        sha256=rows.sha256,
        keys=np.unique(rows.examples.keys),
        sizes=sizes_in(rows.examples),
        forms=Forms("the training set", rows.examples, tokenizer),
        lookup=lookup_texts(rows.examples, checkpoints),
    ), notice


# ----------------------------------------------------------------------------------------------
# Looked up by prompt
# ----------------------------------------------------------------------------------------------

TRAINED = ("trained_rows", "trained_prompt_rows")


@dataclass
class TrainingIndex:
    """The training rows and after them a panel's canaries, to be looked up by prompt."""

    path: str
    examples: Examples
    n_train: int
    own: list[np.ndarray] | None  # uint8 [R][n]: how often a seed trains on the row; None: unknown
    is_panel: bool
    sizes: dict[str, list[int]]
    by_tag: dict = field(default_factory=dict)  # tag -> (rows searched, their texts), once made

    def facts(self, asked: Examples) -> dict:
        """What the training set has of the one row `asked`, whose answer is empty where none is
        known: rows that are this example, every answer of its prompt, and the nearest other one.
        """
        examples, found = self.examples, {}
        for row in np.flatnonzero(examples.prompt_keys == asked.prompt_keys[0]).tolist():
            one = found.setdefault(
                examples.answer(row), {"rows": 0, "first": examples.raw(row), "canary": False}
            )
            one["rows"] += row < self.n_train
            one["canary"] |= row >= self.n_train
        answer = asked.answer(0)
        return {
            "path": self.path,
            "n_rows": self.n_train,
            "rows": found.get(answer, {"rows": 0})["rows"] if answer else None,
            "answers": [{"answer": answer, **one} for answer, one in found.items()],
            "nearest": self.nearest(asked),
        }

    def trained_rows(self, asked: Examples, r: int) -> dict[str, int | None]:
        """How many rows of this example, and of its prompt, replica r trains on; None: unknown."""
        if self.own is None:
            return dict.fromkeys(TRAINED)
        same_prompt = self.examples.prompt_keys == asked.prompt_keys[0]
        same = same_prompt & (self.examples.keys == asked.keys[0])
        rows = int(self.own[r][same].sum()) if asked.answer(0) else None
        return dict(zip(TRAINED, (rows, int(self.own[r][same_prompt].sum())), strict=True))

    def nearest(self, asked: Examples) -> dict | None:
        """The training example of another prompt whose prompt is nearest by edit distance."""
        tag = asked.tags[0]
        if tag not in self.by_tag:
            first, _ = self.examples.distinct()
            rows = np.sort(first[self.examples.tags.isin([tag])[first] & (first < self.n_train)])
            rows = some_rows(self.examples, rows, 50_000, 3_000_000) if len(rows) else rows
            self.by_tag[tag] = rows, [self.examples.bare_prompt(row) for row in rows]
        rows, prompts = self.by_tag[tag]
        other = self.examples.prompt_keys[rows] != asked.prompt_keys[0]
        kept = [prompt for prompt, keep in zip(prompts, other, strict=True) if keep]
        texts = TrainingTexts([tag] * len(kept), kept, [""] * len(kept))
        at, distance = nearest_neighbours([asked.bare_prompt(0)], [tag], texts, [-1])
        if at[0] < 0:
            return None
        row = rows[other][at[0]]
        return {
            "row": self.examples.raw(row),
            "distance": int(distance[0]),
            "rows": int((self.examples.keys[: self.n_train] == self.examples.keys[row]).sum()),
            "n_searched": len(kept),
        }


def index_training(
    rows: TrainingRows,
    seeds: list[int],
    share: float | None,
    canary_file: Path | None,
    tokenizer: Tokenizer,
) -> TrainingIndex:
    """The TrainingIndex of these seeds; `share` is that of --subset, None without it.

    In a set that is not their own nobody can tell what they trained on.
    """
    examples = rows.examples
    n_train, sizes, own = len(examples), sizes_in(examples), None
    if rows.is_own and share is None:
        own = [np.ones(n_train, np.uint8)] * len(seeds)
    elif rows.is_own:
        own = own_rows(Subsets(examples, share), seeds)
        if canary_file:
            canaries = load_examples(canary_file, tokenizer)
            examples, tasks = join_examples(examples, canaries), canaries.tags.tolist()
            counts = [canary_counts(tasks, seed).astype(np.uint8) for seed in seeds]
            own = [np.append(rows, n) for rows, n in zip(own, counts, strict=True)]
    return TrainingIndex(rows.path, examples, n_train, own, share is not None, sizes)


def own_rows(subsets: Subsets, seeds: list[int]) -> list[np.ndarray]:
    """uint8 [R][n]: 1 where the seed trains on the row."""
    own = [np.zeros(len(subsets.train), np.uint8) for _ in seeds]
    for rows, seed in zip(own, seeds, strict=True):
        rows[subsets.rows(seed)] = 1
    return own
