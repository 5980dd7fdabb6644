"""Trained models to ask: one checkpoint, or several seeds stacked as replicas."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import torch

from data.formats import Tokenizer, load_tokenizer
from runtime.errors import NotFinite, UserError
from runtime.records import CONFIG, check_seeds, read_json, seed_folders
from train_minigpt_4070 import GPT, load_model


def find_checkpoints(model: Path) -> list[Path]:
    """The checkpoint at `model` itself, in the run folder `model`, or in each of its seed_<s>/."""
    seeds = seed_folders(model)
    if seeds:
        trained = read_json(model / "config.json", CONFIG).get("seeds", [])
        lost = [f"seed_{seed}" for seed in trained if model / f"seed_{seed}" not in seeds]
        if lost:
            raise UserError(
                f"{model} was trained with seeds whose folders are gone ({', '.join(lost)}); "
                "restore them, or give the others one by one"
            )
        check_seeds(seeds)
        return [p / "best_model.pth" for p in seeds]
    return [model / "best_model.pth" if model.is_dir() else model]


@dataclass(frozen=True)
class Replicas:
    """Checkpoints of one shape, stacked into one model."""

    model: GPT  # [R]
    paths: list[Path]  # [R]
    checkpoints: list[dict]  # [R]

    @property
    def seeds(self) -> list[int]:
        return [checkpoint["seed"] for checkpoint in self.checkpoints]


def load_replicas(paths: Sequence[Path], device: torch.device) -> tuple[Replicas, list[str]]:
    """Return (the usable checkpoints as Replicas, why each of the other seeds is passed over).

    A seed that diverged before its first validation has no best model, or has one whose weights are
    not finite. UserError where no checkpoint is usable, or where they are no seeds of one run.
    """
    loaded, notes = {}, []
    for path in paths:
        try:
            if len(paths) > 1 and not path.is_file():
                raise NotFinite(f"{path} does not exist")
            loaded[path] = load_model(path, device)
        except NotFinite as error:
            notes.append(str(error))
    if not loaded:
        also = f"; so it is with all {len(paths)} seeds" if len(paths) > 1 else ""
        raise UserError(f"{notes[0]}{also}; train again with a lower --lr")
    paths = list(loaded)
    models = [model for model, *_ in loaded.values()]
    checkpoints = [checkpoint for *_, checkpoint in loaded.values()]
    check_checkpoints(paths, checkpoints)
    stacked = GPT(models[0].config, [0] * len(models)).to(device)
    for name, p in stacked.named_parameters():
        p.data = torch.cat([model.get_parameter(name).data for model in models])
    return Replicas(stacked.eval(), paths, checkpoints), notes


def check_checkpoints(paths: Sequence[Path], checkpoints: Sequence[dict]) -> None:
    """UserError unless the seeds are distinct, and all that decides what is asked is the same."""
    first, seeds = checkpoints[0], {}
    for path, checkpoint in zip(paths, checkpoints, strict=True):
        known = seeds.setdefault(checkpoint["seed"], path)
        if known != path:
            raise UserError(
                f"{path} and {known} are both of seed {checkpoint['seed']}, so a mean would count "
                "it twice; take one of them away"
            )
        for name in ("arch", "vocab", "trained_tags", "trained_length"):
            if checkpoint[name] != first[name]:
                raise UserError(
                    f"{path} differs from {paths[0]} in {name}, so they are not seeds of one run; "
                    "evaluate each by itself"
                )
        if checkpoint["data"]["train"]["sha256"] != first["data"]["train"]["sha256"]:
            raise UserError(
                f"{path} was trained on another training set than {paths[0]} (its SHA-256 "
                "differs), so they are not seeds of one run; evaluate each by itself"
            )


def agreed_tokenizer(path: str | None, vocab: list[str], model_path: Path) -> Tokenizer:
    """The checkpoint's vocabulary, with which the tokenizer file at `path`, if any, must agree."""
    if path is not None:
        given = load_tokenizer(path).itos
        if given != vocab:
            odd = [i for i, pair in enumerate(zip_longest(given, vocab)) if len(set(pair)) == 2]
            raise UserError(
                f"the tokenizer {path} ({len(given)} tokens) is not the one that {model_path} was "
                f"trained with ({len(vocab)} tokens): they differ at id {odd[0]}; give that one, "
                "or leave --tokenizer out"
            )
    return Tokenizer(vocab)
