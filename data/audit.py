"""Training and validation data side by side: what is unseen, and rows that stand for a set."""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from data.checks import (
    Forms,
    conflicting_labels,
    form_differences,
    form_notes,
    keyed_by_text,
    label_notes,
)
from data.formats import Examples, Tokenizer, load_examples, load_tokenizer
from data.sources import require_file
from data.subsets import PanelData
from runtime.errors import UserError
from runtime.files import sha256_of


def matched_sample(train, like, rows, seed=0):
    """Distinct training rows with the tags and lengths of `like[rows]`, int64 [<= len(rows)].

    The generalization gap compares equals: same tasks, same lengths. Where no row of a length is
    left the next longer one stands in, and at the end the longest.
    """
    rng = np.random.default_rng(seed)
    distinct = rng.permutation(train.distinct()[0])
    like_tags, chosen = like.tags[rows], []
    for tag in np.unique(like_tags):
        candidates = distinct[train.tags.isin([tag])[distinct]]
        candidates = candidates[np.argsort(train.lengths[candidates], kind="stable")]
        wanted = np.sort(like.lengths[rows][like_tags == tag])[: len(candidates)]
        at = np.searchsorted(train.lengths[candidates], wanted)
        steps = np.arange(len(wanted))
        at = np.maximum.accumulate(at - steps) + steps  # no row twice
        last = len(candidates) - len(wanted)
        chosen.append(candidates[np.minimum(at - steps, last) + steps])
    return np.concatenate(chosen) if chosen else np.empty(0, np.int64)


def key_texts(examples, rows):
    """The keys of `rows` as texts: an example has the same one in every data set.

    12 hexadecimal digits of the hash: that two of 50,000 examples share one has a chance of 4e-6.
    """
    return [f"{key % 2**48:012x}" for key in examples.keys[rows].tolist()]


def sample_by_count(train, at_most):
    """Distinct training rows at each repeat count, the same number of each task.

    Counts, grouped by powers of two, are compared over equal task mixes: a count that some task
    lacks is left out (by chance only short sums are drawn often). All counts get an equal share of
    the `at_most` rows. The order of the keys decides which examples are taken, so that two data
    sets that share examples choose the same ones. Returns the rows, the count of each, and whether
    grouping changed any count.
    """
    distinct, repeats = train.distinct()  # in the order of the keys, which are hashes
    groups, tasks = 2 ** np.log2(repeats).astype(int), train.tasks.codes[distinct]
    names, counts, chosen = sorted(train.tasks.names), [], []
    kinds = np.unique(groups)
    per_cell = at_most // (len(kinds) * len(names))
    for count in kinds:
        cells = [
            np.flatnonzero((groups == count) & (tasks == train.tasks.names.index(name)))
            for name in names
        ]
        size = min(per_cell, *(len(cell) for cell in cells))
        chosen += [distinct[cell[:size]] for cell in cells]
        counts += [int(count)] * size * len(names)
    return np.concatenate(chosen), counts, bool((groups != repeats).any())


def audit_notes(audit):
    """What the user should know of the data before training, one sentence each."""
    notes = []
    if audit["val_untrained_tags"]:
        tags = ", ".join(audit["val_untrained_tags"])
        notes.append(f"left out of validation, since never trained: {tags}")
    notes += form_notes(audit["form_differences"]) + label_notes(audit["labels"])
    if audit["keyed_by_text"]:
        tags = ", ".join(f"[{tag}] {n:,}" for tag, n in audit["keyed_by_text"].items())
        notes.append(
            f"{tags} rows ask the same only where their texts are the same: each tag may stand for "
            "another rule than its first word"
        )
    return notes


@dataclass
class Data:
    tokenizer: Tokenizer
    train: Examples
    val: Examples
    headline: np.ndarray  # distinct validation rows of the headline: the unseen ones, if any
    seen_rows: np.ndarray  # validation rows whose example is in the training set
    sample: np.ndarray  # training rows matched to `headline` by tag and length
    files: dict  # {"train" | "val" | "tokenizer": {"path", "sha256"}}
    audit: dict
    panel: PanelData | None = None  # where each seed trains on a part of its own

    @property
    def trained(self):
        """The Examples that training takes its rows from: `train`, and a panel's canaries."""
        return self.train if self.panel is None else self.panel.examples

    @cached_property
    def val_examples(self):
        """int64: the first row of each distinct validation example, by ascending key."""
        return np.unique(self.val.keys, return_index=True)[1]

    def in_sample(self, seed):
        """bool [len(sample)]: the rows of `sample` that `seed` trains on."""
        if self.panel is None:
            return np.ones(len(self.sample), bool)
        return np.isin(self.sample, self.panel.subsets.rows(seed))

    def of_seed(self, seed):
        """The same with the part of the training set that `seed` trains on."""
        if self.panel is None:
            return self
        train = self.train.take(self.panel.subsets.rows(seed))
        sample = matched_sample(train, self.val, self.headline)
        return replace(self, train=train, sample=sample, panel=None)

    @property
    def shown(self):
        """One headline row of each task, to look at."""
        return self.headline[np.unique(self.val.tasks[self.headline], return_index=True)[1]]


def load_data(train_path, val_path=None, tokenizer_path=None, max_len=None):
    """Load and audit the training and validation set; every mistake in them is a UserError.

    The validation set and the tokenizer are by default val.pkl and tokenizer.json beside the
    training set; no example may have more than `max_len` characters.
    """
    train_path = require_file(train_path, "the training set")
    val_path = val_path or train_path.with_name("val.pkl")
    val_path = require_file(val_path, "the validation set")
    tokenizer_path = tokenizer_path or train_path.with_name("tokenizer.json")
    tokenizer_path = require_file(tokenizer_path, "the tokenizer")
    tokenizer = load_tokenizer(tokenizer_path)
    train, val = load_examples(train_path, tokenizer), load_examples(val_path, tokenizer)
    for examples, path in ((train, train_path), (val, val_path)):
        unknown = examples.with_unknown()
        if len(unknown):
            first = unknown[0]
            raise UserError(
                f"{path} has characters that the tokenizer {tokenizer_path} lacks; rows concerned: "
                f"{len(unknown)}, the first is {examples.place(first)}: "
                f"{examples.raw(first)[:60]!r}; give the tokenizer the data was made with"
            )
        longest = int(examples.lengths.argmax())
        if max_len and examples.lengths[longest] > max_len:
            raise UserError(
                f"{examples.place(longest)} of {path} has {examples.lengths[longest]} characters, "
                f"more than --max_len {max_len}; raise it, or leave it out to fit the data"
            )
    seen = np.isin(val.keys, train.keys)
    first_of_key = np.zeros(len(val), bool)  # an example counts once, or its interval is too narrow
    first_of_key[np.unique(val.keys, return_index=True)[1]] = True
    untrained = sorted(set(val.tags.names) - set(train.tags.names))
    counted = first_of_key & ~val.tags.isin(untrained)
    if not counted.any():
        raise UserError(
            f"{val_path} has none of the training set's tags {sorted(train.tags.names)}, but "
            f"{untrained}; give --val_data of the same tasks"
        )
    headline = np.flatnonzero(counted & ~seen if (counted & ~seen).any() else counted)
    _, counts = train.distinct()
    sets = {"training": train, "validation": val}
    forms = [Forms(name, examples, tokenizer) for name, examples in sets.items()]
    forms[1].add_new_characters(val, forms[0])
    audit = {
        "train_rows": len(train),
        "train_examples": len(counts),
        "train_rows_by_task": train.tasks.counts(),
        "most_repeated": int(counts.max()),
        "val_rows": len(val),
        "val_seen": int(seen.sum()),
        "val_unseen": int((counted & ~seen).sum()),
        "val_repeated": len(val) - len(np.unique(val.keys)),
        "val_untrained_tags": untrained,
        "longest_example": int(max(train.lengths.max(), val.lengths.max())),
        "labels": conflicting_labels(sets),
        "keyed_by_text": keyed_by_text(sets),
        "form_differences": form_differences(*forms),
    }
    paths = {"train": train_path, "val": val_path, "tokenizer": tokenizer_path}
    files = {
        name: {"path": str(Path(p).resolve()), "sha256": sha256_of(p)} for name, p in paths.items()
    }
    sample = matched_sample(train, val, headline)
    return Data(tokenizer, train, val, headline, np.flatnonzero(seen), sample, files, audit)
