"""A trained panel, read back: what each replica trained on, what it knew, and the examples' texts.

Nothing is trained here. The ledgers say what each replica knew; the texts come from the data files
that the run names, by SHA-256; which replica trained on which example is drawn once more and must
be what the ledgers say. Whatever does not fit is one UserError.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from data.audit import hold_out
from data.formats import Examples, Tokenizer, load_examples, load_tokenizer
from data.readers import RowFormat
from data.subsets import Subsets, check_draw
from data.tasks import TASKS, split_example
from runtime.errors import UserError
from runtime.files import sha256_of
from runtime.ledger import CANARIES_FILE, LEDGER_FILE, Panel, read_panel
from runtime.records import seed_folder

HOW = "train_minigpt_4070.py --subset 0.5 --seeds 0-31"


@dataclass(frozen=True)
class Columns:
    """The N examples of the ledger, in its order: training, canaries, held-out."""

    tags: list[str]
    prompts: list[str]
    answers: list[str]


@dataclass(frozen=True)
class MeasuredPanel:
    """A panel of R replicas with the texts of its N examples."""

    folder: Path
    config: dict
    tokenizer: Tokenizer
    ledger: Panel
    columns: Columns
    repeat_counts: np.ndarray  # int64 [n_train]: rows of each training example in the whole set
    strata: np.ndarray  # int64 [n_train]: of the draw of members
    prompt_keys: np.ndarray  # int64 [n_asked]: equal where a rule gives the same answer
    n_distinct: int  # examples of the training set; the ledger may follow fewer, n_train
    n_members: int  # of them that a replica trains on, the mean where contradictory ones differ

    @property
    def n_train(self) -> int:
        return self.ledger.n_train

    @property
    def n_asked(self) -> int:
        """Training examples and canaries: the columns that some replicas train on."""
        return self.ledger.n_train + self.ledger.n_canaries

    @cached_property
    def members(self) -> np.ndarray:
        """bool [R, n_asked]: replica r trained on the example, or on at least one row of it."""
        return np.hstack([self.ledger.members, self.ledger.canary_counts > 0])

    @property
    def log2_probs(self) -> np.ndarray:
        """float64 [R, N]: of each whole answer after the last kept epoch, bits."""
        return -self.ledger.bits[-1].astype(np.float64)

    @property
    def exact(self) -> np.ndarray:
        """bool [R, N]: exact match after the last kept epoch."""
        return self.ledger.exact[-1]

    @cached_property
    def breaks_rule(self) -> np.ndarray:
        """bool [N]: the answer is not the rule's; False where no record of the tag knows the rule.

        So are all canaries.
        """
        rows = zip(self.columns.tags, self.columns.prompts, self.columns.answers, strict=True)
        wrong = np.array([not follows_rule(*row) for row in rows], dtype=bool)
        wrong[self.n_train : self.n_asked] = True
        return wrong


def follows_rule(tag: str, prompt: str, answer: str) -> bool:
    """The answer is the rule's, or there is no rule to tell.

    >>> follows_rule("add", "2 + 3", "5"), follows_rule("add", "2 + 3", "6")
    (True, False)
    """
    try:
        return tag not in TASKS or TASKS[tag].answer(prompt) == answer
    except ValueError:  # the prompt is outside the task's grammar
        return True


# ----------------------------------------------------------------------------------------------
# Reading
# ----------------------------------------------------------------------------------------------


def read_config(folder: Path) -> dict:
    """config.json of a folder in which a panel was trained; UserError for any other."""
    path = folder / "config.json"
    if not folder.is_dir():
        raise UserError(f"--model {folder} is no folder; give the folder of a panel, made by {HOW}")
    if not path.is_file():
        raise UserError(f"{folder} has no config.json, so it is no run; train a panel by {HOW}")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        share, seeds = config["arguments"].get("subset"), list(map(int, config["seeds"]))
        for name in ("train", "val", "tokenizer"):
            config["data"][name]["path"], config["data"][name]["sha256"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is damaged ({error!r}); restore it") from None
    if share is None or share == 1:
        raise UserError(
            f"{folder} was trained without --subset: every replica saw every example, so none "
            f"tells what is known of an example without it; train a panel by {HOW}"
        )
    if len(seeds) < 2:
        raise UserError(
            f"{folder} holds one replica, and memory is a difference between replicas with and "
            f"without an example; train at least 16 by {HOW}"
        )
    return config


def read_files(config: dict, data_dir: Path | None) -> tuple[Tokenizer, Examples, Examples]:
    """The run's tokenizer, training and validation set; UserError where they have changed."""
    paths = {}
    for name in ("tokenizer", "train", "val"):
        known = config["data"][name]
        path = Path(known["path"])
        paths[name] = path = data_dir / path.name if data_dir else path
        if not path.is_file():
            raise UserError(
                f"{path}, with which the panel was trained, is not there; --data_dir names the "
                "folder that holds its data files now"
            )
        if sha256_of(path) != known["sha256"]:
            raise UserError(
                f"{path} is not the file that the panel was trained with (its SHA-256 differs); "
                "restore it, or name the folder of the right one by --data_dir"
            )
    tokenizer = load_tokenizer(paths["tokenizer"])
    row_format = RowFormat.of(config["data"]["train"])
    train = load_examples(paths["train"], tokenizer, row_format)
    if config["data"]["val"].get("held_out_rows"):
        return tokenizer, *hold_out(train, paths["train"])
    return tokenizer, train, load_examples(paths["val"], tokenizer, row_format)


def check_draws(ledger: Panel, subsets: Subsets, folder: Path) -> int:
    """UserError unless the ledgers speak of these training examples, each seed of its own draw.

    Returns how many distinct examples a replica trains on, on average.
    """
    own, n, sizes = f"{folder}: the ledgers do not fit the run:", ledger.n_train, []
    if not np.array_equal(ledger.keys[:n], subsets.keys[:n]):
        raise UserError(f"{own} they hold other examples than its training set; train it again")
    for seed, members in zip(ledger.seeds, ledger.members, strict=True):
        drawn = subsets.members(seed)
        check_draw(members, drawn[:n], seed, folder)
        sizes.append(drawn.sum())
    return round(np.mean(sizes))


def read_canaries(folder: Path, ledger: Panel, tokenizer: Tokenizer) -> Examples | None:
    """The canaries in the ledger's order, None where the panel has none."""
    if not ledger.n_canaries:
        return None
    path = folder / CANARIES_FILE
    if not path.is_file():
        raise UserError(f"{path} is not there, but the ledgers hold canaries; restore it")
    canaries = load_examples(path, tokenizer)
    if not np.array_equal(canaries.keys, ledger.keys[ledger.n_train :][: ledger.n_canaries]):
        raise UserError(f"{path} holds other canaries than the ledgers do; restore it")
    return canaries


def held_out_rows(ledger: Panel, val: Examples, folder: Path) -> np.ndarray:
    """int64: the first validation row of each held-out example of the ledger."""
    keys, first = np.unique(val.keys, return_index=True)
    wanted = ledger.keys[ledger.held_out]
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    if not np.array_equal(keys[place], wanted):
        raise UserError(
            f"{folder}: the ledgers do not fit the run: they hold other held-out examples than its "
            "validation set; train it again"
        )
    return first[place]


def texts_of(parts: Sequence[tuple[Examples, np.ndarray]]) -> Columns:
    """Tags, prompts and answers of some rows of several Examples, one after the other."""
    raws = [examples.raw(row) for examples, rows in parts for row in rows]
    tags, prompts, answers = zip(*map(split_example, raws), strict=True)
    return Columns(list(tags), list(prompts), list(answers))


def read(folder: Path, data_dir: Path | None = None) -> tuple[MeasuredPanel, list[str]]:
    """Read the panel in `folder`; return it and notices. UserError for whatever does not fit."""
    config = read_config(folder)
    seeds = config["seeds"]
    folders = [seed_folder(folder, seed, seeds) for seed in seeds]
    lost = [own.name for own in folders if not own.is_dir()]
    if lost:
        raise UserError(f"{folder} has lost seeds it was trained with ({', '.join(lost)})")
    ledger, notices = read_panel(folders)
    if not set(ledger.seeds) <= set(seeds):
        odd = sorted(set(ledger.seeds) - set(seeds))
        raise UserError(
            f"{folder} holds a {LEDGER_FILE} of seed {odd[0]}, which is none of its seeds"
        )
    if len(ledger.seeds) < 2:
        raise UserError(f"{folder} has one replica that trained to the end; two are the least")
    tokenizer, train, val = read_files(config, data_dir)
    subsets = Subsets(train, ledger.share)
    n_members = check_draws(ledger, subsets, folder)
    canaries = read_canaries(folder, ledger, tokenizer)
    first_rows = subsets.first_rows[: ledger.n_train]  # those of the lowest keys, where not all
    parts = [(train, first_rows)]
    parts += [(canaries, np.arange(len(canaries)))] if canaries else []
    prompt_keys = np.concatenate([examples.prompt_keys[rows] for examples, rows in parts])
    parts += [(val, held_out_rows(ledger, val, folder))]
    panel = MeasuredPanel(
        folder=folder,
        config=config,
        tokenizer=tokenizer,
        ledger=ledger,
        columns=texts_of(parts),
        repeat_counts=subsets.repeat_counts[: ledger.n_train],
        strata=subsets.strata[: ledger.n_train],
        prompt_keys=prompt_keys,
        n_distinct=len(subsets.keys),
        n_members=n_members,
    )
    return panel, notices
