"""Suites of examples, and what can be said of each example before a model is asked."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.checks import Forms, form_differences
from data.formats import TAG, TAGS, Examples, Tokenizer, build_examples, load_examples
from data.generate import make_missing
from data.readers import PLAIN, RowFormat, kind_of, unprintable
from data.tasks import canonical_tags, size_of, spaced
from evaluation.training import Training
from runtime.errors import UserError
from runtime.records import CATEGORIES
from train_minigpt_4070 import RUN_ON

REASONS = {  # why an example is left out of the headline; of several the first one counts
    "untrained_tag": "have a tag that was never trained",
    "unknown_characters": "have characters the vocabulary lacks",
    "beyond_position_table": "are longer than the table of learned positions and cannot be run",
    "outside_training_range": "are outside the sizes or lengths trained on, so are no control",
    "in_training_set": "stand in the training set, so are no control",
}


@dataclass
class Suite:
    path: Path
    category: str
    examples: Examples
    tags: list  # of each prompt: ["rev", "sort"] for `[rev] [sort] 3 1 2 | 3 2 1`
    mapped: dict  # tags that --canonical_tags replaced -> those they became, as "sort copy"


# A suite's category is read from words of its name that begin so.
STEMS = ("interp", "extrap", "composit", "systematic", "edge", "robust", "novel")


def in_brackets(tags):
    return " ".join(f"[{tag}]" for tag in tags)


def category_of(given: str, name: str) -> str:
    """One of CATEGORIES for the category in a file, or else its name; else the file's own word.

    >>> category_of("ext", "ood_x"), category_of("", "ood_extrap_rev"), category_of("", "mine")
    ('extrapolation', 'extrapolation', 'other')
    >>> category_of("", "int_max"), category_of("", "extra_spaces")  # these words say nothing
    ('other', 'other')
    """
    words = [word for word in name.lower().split("_") if word.startswith(STEMS)]
    words = [given.lower(), *words] if len(given) > 2 else words
    found = [c for word in words for c in CATEGORIES if c.startswith(word)]
    return found[0] if found else given or "other"


def find_suites(folder: Path) -> list[Path]:
    """Paths of the data files in `folder`; the standard folder is filled if it has none."""
    if made := make_missing(folder):
        print(f"made the standard suites in {made[0].parent}", flush=True)
    if not folder.is_dir():
        is_what = "is a file" if folder.exists() else "does not exist"
        raise UserError(
            f"--ood_dir {folder} {is_what}; give a folder of suites, or leave it out for the "
            "standard ones"
        )
    kinds = (".pkl", ".jsonl", ".txt", ".csv", ".tsv")  # not .json: statistics stand there
    files = [p for p in sorted(folder.glob("*")) if kind_of(p) in kinds and p.name[0] != "."]
    for path in files:
        if not path.stem.isprintable():
            raise UserError(f"{folder} has a suite of the name {unprintable(path.stem)}")
    names = Counter(path.stem for path in files)
    if not names:
        raise UserError(f"--ood_dir {folder} holds no suite (no {', '.join(kinds)} file)")
    if names.most_common(1)[0][1] > 1:
        raise UserError(f"{folder} has two suites of the name {names.most_common(1)[0][0]}")
    return files


def tags_to_map(tags: Iterable[str], keep: Sequence[str]) -> dict[str, str]:
    """{tag: the canonical ones that it becomes, as "sort copy"} for those that are not in `keep`.

    >>> tags_to_map(["sorting_extrap", "rev"], keep=["rev"])
    {'sorting_extrap': 'sort'}
    """
    mapped = {tag: spaced(canonical_tags(tag)) for tag in set(tags).difference(keep)}
    return {tag: to for tag, to in mapped.items() if to != tag}


def map_tags(prompt: str, mapped: dict[str, str]) -> str:
    """The prompt with its tags as `tags_to_map` says."""

    def canonical(match):
        return in_brackets(mapped[match[1]].split()) if match[1] in mapped else match[0]

    head = TAGS.match(prompt)[0]
    return TAG.sub(canonical, head) + prompt[len(head) :]


def load_suite(
    path: Path,
    tokenizer: Tokenizer,
    map_tags_but: Sequence[str] | None = None,
    row_format: RowFormat = PLAIN,
) -> Suite:
    """Load a suite; with `map_tags_but` all tags but these become their canonical ones."""
    examples, mapped = load_examples(path, tokenizer, row_format), {}
    tags = [list(examples.all_tags[i]) for i in range(len(examples))]
    if map_tags_but:
        mapped = tags_to_map((tag for found in tags for tag in found), map_tags_but)
        raws = [
            map_tags(examples.prompt(i), mapped) + examples.answer(i) for i in range(len(examples))
        ]
        examples = build_examples(raws, tokenizer, path, examples.levels, examples.category)
        tags = [list(examples.all_tags[i]) for i in range(len(examples))]
    return Suite(path, category_of(str(examples.category), path.stem), examples, tags, mapped)


def suites_written_otherwise(suites, training, tokenizer):
    """checks.form_differences of every suite but those meant to be written otherwise."""
    found = []
    for suite in suites if training else ():
        if suite.category != "robustness":
            forms = Forms(suite.path.stem, suite.examples, tokenizer)
            found += form_differences(training.forms, forms)
    return [d for d in found if d["other"] == training.forms.name]


def within_sizes(suite: Suite, sizes: dict[str, list[int]]) -> np.ndarray:
    """Whether an example's size is one of those in the training set. bool [n]; True if unknown."""
    within = np.ones(len(suite.examples), dtype=bool)
    for i, tags in enumerate(suite.tags):
        if len(tags) == 1 and tags[0] in sizes:
            low, high = sizes[tags[0]]
            try:
                within[i] = low <= size_of(suite.examples.raw(i)) <= high
            except (ValueError, IndexError):  # prompts of another grammar have no size
                continue
    return within


def audit(suite: Suite, checkpoint: dict, training: Training | None) -> dict[str, np.ndarray]:
    """What can be said of each example before it is run: bool [n] each, by name."""
    examples, arch = suite.examples, checkpoint["arch"]
    trained = set(checkpoint["trained_tags"])
    limit = arch["max_len"] - RUN_ON if arch["pos"] == "learned" else np.inf
    beyond_length = examples.lengths > checkpoint["trained_length"]
    in_range = within_sizes(suite, training.sizes if training else {}) & ~beyond_length
    is_control = suite.category == "interpolation"
    facts = {
        "untrained_tag": np.array([not trained.issuperset(tags) for tags in suite.tags]),
        "unknown_characters": np.isin(np.arange(len(examples)), examples.with_unknown()),
        "beyond_position_table": examples.lengths > limit,
        "outside_training_range": ~in_range & is_control,
        "in_training_set": np.zeros(len(examples), bool),
        "in_training_range": in_range,
        "beyond_training_length": beyond_length,
    }
    if training is not None:
        facts["seen_in_training"] = np.isin(examples.keys, training.keys)
        facts["in_training_set"] = facts["seen_in_training"] & is_control
    return facts
