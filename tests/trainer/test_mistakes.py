"""A user's mistake is one sentence, exit code 2, and nothing written."""

import json
import pickle
from pathlib import Path

import pytest
import torch

import train_minigpt_4070 as t
from runtime.errors import UserError
from trainer.helpers import TRAIN_ROWS, VAL_ROWS, all_files, draw_rows, go, spoil, write_pickle


def rows_in(name, rows, **more):
    return lambda world: write_pickle(world / name, rows, **more)


def nothing(world):
    return None


SMALL_TOKENIZER = json.dumps({"stoi": {"<pad>": 0, "<unk>": 1, "7": 2}})
MISTAKES = {
    "no training set": (lambda w: (w / "train.pkl").unlink(), [], ["train.pkl", "exist"]),
    "no validation set": (nothing, ["--val_data", "absent.pkl"], ["absent.pkl", "exist"]),
    "no tokenizer": (lambda w: (w / "tokenizer.json").unlink(), [], ["tokenizer.json", "exist"]),
    "wrong shape": (spoil("train.pkl", pickle.dumps([1])), [], ["train.pkl", "raw"]),
    "no pickle": (spoil("train.pkl", b"hello"), [], ["train.pkl"]),
    "a global": (
        spoil("val.pkl", pickle.dumps({"raw": [Path("x")]})),
        [],
        ["val.pkl", "lists, dicts"],
    ),
    "no tokenizer in it": (spoil("tokenizer.json", "{}"), [], ["tokenizer.json"]),
    "unknown characters": (
        rows_in("train.pkl", [*TRAIN_ROWS, "[copy] é | é"]),
        [],
        ["train.pkl", f"row {len(TRAIN_ROWS)}", "é", "tokenizer"],
    ),
    "unknown characters in validation": (
        rows_in("val.pkl", [*VAL_ROWS, "[copy] é | é"]),
        [],
        ["val.pkl", f"row {len(VAL_ROWS)}", "tokenizer"],
    ),
    "another tokenizer": (spoil("tokenizer.json", SMALL_TOKENIZER), [], ["row 0", "tokenizer"]),
    "row without a bar": (rows_in("train.pkl", ["[copy] 1 1"]), [], ["train.pkl", "row 0"]),
    "no rows": (rows_in("train.pkl", []), [], ["train.pkl", "no examples"]),
    "no validation rows": (rows_in("val.pkl", []), [], ["val.pkl", "no examples"]),
    "validation of another task": (
        rows_in("val.pkl", draw_rows(6, 0, ("rel",))),
        [],
        ["val.pkl", "tags"],
    ),
    "heads": (nothing, ["--n_heads", "3"], ["--d_model 16", "--n_heads"]),
    "too long": (nothing, ["--max_len", "20"], ["row", "train.pkl", "--max_len 20"]),
    "too long in validation": (
        rows_in("val.pkl", ["[copy] " + "1" * 99 + " | 1"]),
        ["--max_len", "60"],
        ["row 0", "val.pkl", "--max_len 60"],
    ),
    "no such GPU": (nothing, ["--device", "cuda:99"], ["--device cuda:99", "CUDA"]),
    "no such device": (nothing, ["--device", "toaster"], ["--device toaster"]),
    "fp16 on CPU": (nothing, ["--amp", "fp16"], ["--amp fp16"]),
    "curriculum too long": (
        nothing,
        ["--task_curriculum", "--epochs", "5", "--task_curriculum_epochs", "20"],
        ["20 epochs", "--epochs 5", "--task_curriculum_epochs"],
    ),
    "a file as run folder": (spoil("run", "a file"), [], ["run"]),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_errors_are_one_sentence_and_write_nothing(world, capsys, mistake):
    prepare, flags, facts = MISTAKES[mistake]
    prepare(world)
    before = all_files(world)
    assert go(world, *flags) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert [fact for fact in facts if fact not in error] == []
    assert all_files(world) == before
    assert not (world / "run").is_dir()


@pytest.mark.parametrize(
    ("name", "local_rank", "index"),
    [("auto", None, 0), ("auto", 1, 1), ("cuda", 1, 1), ("cuda:1", None, 1)],
)
def test_a_gpu_goes_by_its_number_and_is_made_the_current_one(name, local_rank, index, monkeypatch):
    current = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    torch.backends.cuda.enable_cudnn_sdp(True)
    team = t.World(local_rank=local_rank)
    assert t.choose_device(name, team) == torch.device("cuda", index)
    assert current == [torch.device("cuda", index)]
    assert not torch.backends.cuda.cudnn_sdp_enabled()
    torch.backends.cuda.enable_cudnn_sdp(True)


def test_one_gpu_for_all_processes_is_refused():
    with pytest.raises(UserError, match="would put all processes on one GPU; give cuda"):
        t.choose_device("cuda:0", t.World(local_rank=1))


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is there")
def test_cuda_asked_for_and_absent(world, capsys):
    assert go(world, "--device", "cuda") == 2
    assert "--device cuda was asked for" in capsys.readouterr().err
