"""Training and validation data side by side: what is unseen, and rows that stand for a set."""

import hashlib
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from data.baselines import Lookup, look_up, training_texts
from data.checks import (
    Forms,
    conflicting_labels,
    empty_answers,
    empty_notes,
    form_differences,
    form_notes,
    keyed_by_text,
    label_notes,
    one_answer,
)
from data.formats import (
    Examples,
    Tokenizer,
    check_replaceable,
    load_examples,
    load_tokenizer,
    make_tokenizer,
    parse_tokenizer,
)
from data.readers import PLAIN, RECORDS, kind_of
from data.sources import find_sources
from data.subsets import PanelData
from runtime.errors import UserError
from runtime.files import sha256_of

# Training rows that a validation scores at each repeat count. On data/memorizer, 120 rows beside
# 800, they add 8 % to the processor time of a validation that generates; 15 % without generation.
VALIDATED_PER_COUNT = 60


def matched_sample(train, like, rows, seed=0, of_rows=False):
    """Distinct training rows with the tags and lengths of `like[rows]`, int64 [<= len(rows)].

    With `of_rows` any rows, so that an example has the weight of its copies. The generalization gap
    compares equals: same tasks, same lengths. Where no row of a length is
    left the next longer one stands in, and at the end the longest.
    """
    rng = np.random.default_rng(seed)
    distinct = rng.permutation(len(train) if of_rows else train.distinct()[0])
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


def count_groups(repeats):
    """The highest power of two up to each repeat count, int64 [n]."""
    return 2 ** np.log2(repeats).astype(int)


def sample_by_count(train, at_most):
    """Distinct training rows at each repeat count, the same number of each task.

    Counts, grouped by powers of two, are compared over equal task mixes: a count that some task
    lacks is left out (by chance only short sums are drawn often). Tasks of less than 1 % of the
    examples are left out instead: a stray row must not decide what is compared. All counts get an
    equal share of the `at_most` rows. The order of the keys decides which examples are taken, so
    that two data sets that share examples choose the same ones. Returns the rows, the count of
    each, and whether grouping changed any count.
    """
    distinct, repeats = train.distinct()  # in the order of the keys, which are hashes
    groups, tasks = count_groups(repeats), train.tasks.codes[distinct]
    shares = np.bincount(tasks, minlength=len(train.tasks.names)) / len(tasks)
    large = [name for name, share in zip(train.tasks.names, shares, strict=True) if share >= 0.01]
    names, counts, chosen = sorted(large or train.tasks.names), [], []
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


def validated_by_count(train):
    """(rows, counts), int64 [n] both: rows of `train` that validation scores by repeat count.

    They are those of `sample_by_count`, at most VALIDATED_PER_COUNT of a count. Empty where at most
    1 % of the examples stand more than once, or where no two counts can be compared.
    """
    _, repeats = train.distinct()
    if (repeats > 1).mean() > 0.01:
        at_most = VALIDATED_PER_COUNT * len(np.unique(count_groups(repeats)))
        rows, counts, _ = sample_by_count(train, at_most)
        if len(set(counts)) > 1:
            return rows, np.array(counts)
    return np.empty(0, np.int64), np.empty(0, np.int64)


def audit_notes(audit):
    """What the user should know of the data before training, one sentence each."""
    notes = []
    if audit["val_untrained_tags"]:
        tags = ", ".join(audit["val_untrained_tags"])
        notes.append(f"left out of validation, since never trained: {tags}")
    notes += empty_notes(audit["empty_answers"])
    notes += form_notes(audit["form_differences"]) + label_notes(audit["labels"])
    if audit["keyed_by_text"]:
        tags = ", ".join(f"[{tag}] {n:,}" for tag, n in audit["keyed_by_text"].items())
        notes.append(
            f"{tags} rows ask the same only where their texts are the same: each tag may stand for "
            "another rule than its first word"
        )
    for task, answer in audit["one_answer"].items():
        notes.append(
            f'every training answer of {task} is "{answer[:40]}": what learned the rule and what '
            "learned this text by heart say the same"
        )
    return notes


@dataclass
class Data:
    tokenizer: Tokenizer
    train: Examples
    val: Examples
    headline: np.ndarray  # distinct validation rows of the headline: the unseen ones, if any
    seen_rows: np.ndarray  # validation rows whose example is in the training set, each once
    sample: np.ndarray  # training rows matched to `headline` by tag and length
    # {"train" | "val" | "tokenizer": {"path", "sha256"}}; "train" also has the "columns" and "task"
    # that were given, "val" the "held_out_rows" where it is a part of the training set.
    files: dict
    audit: dict
    # How files were found and read, one sentence each.
    notices: list = field(default_factory=list)
    made_tokenizer: str | None = None  # the JSON to keep where `files` says the tokenizer is
    panel: PanelData | None = None  # where each seed trains on a part of its own

    @property
    def trained(self):
        """The Examples that training takes its rows from: `train`, and a panel's canaries."""
        return self.train if self.panel is None else self.panel.examples

    @cached_property
    def held_out_examples(self):
        """int64: the row of each unseen validation example of a trained tag, by ascending key."""
        unseen = np.setdiff1d(self.headline, self.seen_rows)
        return unseen[np.argsort(self.val.keys[unseen])]

    @cached_property
    def lookup(self) -> Lookup:
        """What pure lookup in `train` answers of `headline`: to stand beside a model's rate."""
        return look_up(self.val, self.headline, training_texts(self.train))

    @cached_property
    def by_count(self):
        """(rows, counts), int64 [n] both: the fixed training rows of `validated_by_count`."""
        return validated_by_count(self.train)

    def trains_on(self, seed, rows):
        """bool [len(rows)]: which of the training rows `rows` `seed` trains on."""
        if self.panel is None:
            return np.ones(len(rows), bool)
        return np.isin(rows, self.panel.subsets.rows(seed))

    def in_sample(self, seed):
        """bool [len(sample)]: the rows of `sample` that `seed` trains on."""
        return self.trains_on(seed, self.sample)

    def seen_by(self, seed):
        """int64: the rows of `seen_rows` whose example `seed` trains on."""
        if self.panel is None or not len(self.seen_rows):
            return self.seen_rows
        keys = self.train.keys[self.panel.subsets.rows(seed)]
        return self.seen_rows[np.isin(self.val.keys[self.seen_rows], keys)]

    def of_seed(self, seed):
        """The same with the part of the training set that `seed` trains on."""
        if self.panel is None:
            return self
        train = self.train.take(self.panel.subsets.rows(seed))
        sample = matched_sample(train, self.val, self.headline)
        return replace(self, train=train, sample=sample, seen_rows=self.seen_by(seed), panel=None)

    @property
    def shown(self):
        """One headline row of each task, to look at."""
        return self.headline[np.unique(self.val.tasks[self.headline], return_index=True)[1]]


def check_characters(examples, path, tokenizer_path):
    """Raise UserError naming the characters of a data set that the tokenizer lacks."""
    unknown = examples.unknown_characters()
    if unknown:
        first = int(examples.with_unknown()[0])
        some = ", ".join(
            f"{c!r} (U+{ord(c):04X}), {n:,} row{'s' * (n > 1)}" for c, n in unknown[:3]
        )
        more = f", and {len(unknown) - 3:,} others" if len(unknown) > 3 else ""
        raise UserError(
            f"{path} has characters that the tokenizer {tokenizer_path} lacks: {some}{more}; the "
            f"first is in {examples.place(first)}: {examples.raw(first)[:60]!r}; replace them, or "
            "give --tokenizer with the one the data was made with"
        )


def held_out_rows(examples):
    """bool [n]: the rows of a data set that are its validation set where it has no other.

    Of each tag a tenth of the distinct examples, at least one if there are two: those whose hashes
    of the canonical key are smallest. So all rows of an example are on one side, and neither the
    order of the rows nor a seed changes the choice.
    """
    held_out = np.zeros(len(examples), bool)
    for tag in examples.tags.names:
        of_tag = examples.tags.isin([tag])
        keys = np.unique(examples.prompt_keys[of_tag])
        n = max(len(keys) // 10, 1) if len(keys) > 1 else 0
        held_out |= of_tag & np.isin(examples.prompt_keys, keys[:n])
    return held_out


def hold_out(examples, path):
    """(training rows, validation rows) of a data set, as Examples."""
    held_out = held_out_rows(examples)
    if not held_out.any():
        raise UserError(
            f"{path} has no two examples of one tag, so that none can be held out to validate on; "
            "give --val_data"
        )
    return examples.take(np.flatnonzero(~held_out)), examples.take(np.flatnonzero(held_out))


def check_lengths(examples, path, max_len):
    longest = int(examples.lengths.argmax())
    if max_len and examples.lengths[longest] > max_len:
        raise UserError(
            f"{examples.place(longest)} of {path} has {examples.lengths[longest]} characters, "
            f"more than --max_len {max_len}; raise it, or leave it out to fit the data"
        )


def load_data(
    train_path, val_path=None, tokenizer_path=None, max_len=None, row_format=PLAIN, run_folder=None
):
    """Load and audit the training and validation set; every mistake in them is a UserError.

    Without a path the validation set and the tokenizer are `val.*` and tokenizer.json beside the
    training set. Where no `val.*` is there, a tenth of the training set is held out; where no
    tokenizer is, one is made of the data, and kept in `run_folder` by whoever trains. No example
    may have more than `max_len` characters.
    """
    sources = find_sources(train_path, val_path, tokenizer_path)
    if row_format.columns and kind_of(sources.train) not in RECORDS:
        raise UserError(
            f"{sources.train} has no columns; leave --columns out, or give {', '.join(RECORDS)}"
        )

    # The tokenizer, and with it the sets.
    tokenizer, tokenizer_path, made_tokenizer = open_tokenizer(sources, row_format, run_folder)
    paths = sources.data
    loaded = [load_examples(path, tokenizer, row_format) for path in paths]
    for examples, path in zip(loaded, paths, strict=True):
        check_characters(examples, path, tokenizer_path)
        check_lengths(examples, path, max_len)
    files = {
        "train": file_record(sources.train) | row_format.record(),
        "val": file_record(sources.val or sources.train),
        "tokenizer": file_record(tokenizer_path, made_tokenizer),
    }
    notices = [notice for examples in loaded for notice in examples.notices]
    if sources.val is None:
        train, val = hold_out(loaded[0], sources.train)
        files["val"]["held_out_rows"] = len(val)
        notices.append(
            f"no val.* is beside {sources.train}: a tenth of its examples, {len(val):,} of "
            f"{len(loaded[0]):,} rows, are held out to validate on; --val_data gives others"
        )
    else:
        train, val = loaded
    if made_tokenizer:
        notices.append(
            f"no tokenizer.json is beside {sources.train}: one of {len(tokenizer) - 3} characters "
            f"is made of the data, {tokenizer_path}"
        )

    # What is unseen, and what stands for the training set beside it.
    seen, counted = np.isin(val.keys, train.keys), countable(train, val, paths[-1])
    headline = np.flatnonzero(counted & ~seen if (counted & ~seen).any() else counted)
    return Data(
        tokenizer=tokenizer,
        train=train,
        val=val,
        headline=headline,
        seen_rows=np.flatnonzero(counted & seen),
        sample=matched_sample(train, val, headline),
        files=files,
        audit=audit_sets(train, val, tokenizer) | {"val_unseen": int((counted & ~seen).sum())},
        notices=notices,
        made_tokenizer=made_tokenizer,
    )


def open_tokenizer(sources, row_format, run_folder):
    """Return (the tokenizer, its path, the content of one that is made of the data or None)."""
    if sources.tokenizer is not None:
        return load_tokenizer(sources.tokenizer), sources.tokenizer, None
    path = Path(run_folder or sources.train.parent) / "tokenizer.json"
    made = make_tokenizer(sources.data, row_format)
    check_replaceable(path, made)
    return parse_tokenizer(made.encode(), path), path, made


def countable(train, val, val_path):
    """bool [len(val)]: the first row of each validation example whose tag is trained.

    An example counts once, or its interval would be too narrow. UserError where there is none.
    """
    first_of_key = np.zeros(len(val), bool)
    first_of_key[np.unique(val.keys, return_index=True)[1]] = True
    untrained = untrained_tags(train, val)
    counted = first_of_key & ~val.tags.isin(untrained)
    if not counted.any():
        raise UserError(
            f"{val_path} has none of the training set's tags {sorted(train.tags.names)}, but "
            f"{untrained}; give --val_data of the same tasks"
        )
    return counted


def untrained_tags(train, val):
    """The tags of validation that training lacks, sorted."""
    return sorted(set(val.tags.names) - set(train.tags.names))


def audit_sets(train, val, tokenizer):
    """What the two sets hold and how they differ: the audit in config.json and the plan's lines."""
    sets = {"training": train, "validation": val}
    forms = [Forms(name, examples, tokenizer) for name, examples in sets.items()]
    forms[1].add_new_characters(val, forms[0])
    _, counts = train.distinct()
    return {
        "train_rows": len(train),
        "train_examples": len(counts),
        "train_rows_by_task": train.tasks.counts(),
        "most_repeated": int(counts.max()),
        "val_rows": len(val),
        "val_seen": int(np.isin(val.keys, train.keys).sum()),
        "val_repeated": len(val) - len(np.unique(val.keys)),
        "val_untrained_tags": untrained_tags(train, val),
        "longest_example": int(max(train.lengths.max(), val.lengths.max())),
        "empty_answers": empty_answers(sets),
        "labels": conflicting_labels(sets),
        "keyed_by_text": keyed_by_text(sets),
        "one_answer": one_answer(train),
        "form_differences": form_differences(*forms),
    }


def file_record(path, content=None):
    """What config.json and checkpoints keep of a data file, or of one that will have `content`."""
    digest = hashlib.sha256(content.encode()).hexdigest() if content else sha256_of(path)
    return {"path": str(path.resolve()), "sha256": digest}
