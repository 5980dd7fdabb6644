"""Flags: each is read, documented and checked."""

import re

import pytest

import train_minigpt_4070 as t
from data.sources import default_out_dir
from trainer.helpers import SCRIPT, go


@pytest.mark.parametrize(
    "flags",
    [
        ["--epochs", "0"],
        ["--lr", "0"],
        ["--lr", "nan"],
        ["--dropout", "1"],
        ["--dropout", "-0.1"],
        ["--batch_size", "2.5"],
        ["--min_lr_ratio", "1.5"],
        ["--seeds", "3-1"],
        ["--seeds", "1,1"],
        ["--seeds", "x"],
        ["--seed", "-1"],
        ["--pos", "sinus"],
        ["--no_such_flag"],
    ],
    ids=" ".join,
)
def test_impossible_values_are_refused_by_the_parser(world, flags):
    assert go(world, *flags) == 2
    assert not (world / "run").exists()


def test_seed_lists():
    assert t.seed_list("0-3") == [0, 1, 2, 3]
    assert t.seed_list("5") == [5]
    assert t.seed_list("1,4-6,9") == [1, 4, 5, 6, 9]


def test_every_declared_flag_is_read():
    read = set(re.findall(r"\bargs\.(\w+)", SCRIPT.read_text(encoding="utf-8")))
    declared = {a.dest for a in t.build_parser()._actions} - {"help"}
    assert declared - read == set()
    assert read - declared == set()


USERS_FLAGS = (
    "data tokenizer out_dir epochs lr warmup_steps patience d_model n_layers n_heads batch_size "
    "accumulation_steps label_smoothing dropout task_curriculum show_samples autoreg_eval "
    "val_data seed seeds d_ff max_len pos use_swiglu weight_decay min_lr_ratio max_grad_norm "
    "min_delta task_curriculum_epochs eval_every save_every device amp use_checkpoint "
    "resume overwrite no_lr_scaling tensorboard dry_run"
)


def test_flags_asked_for_exist_and_the_second_command_is_the_default():
    defaults = vars(t.build_parser().parse_args([]))
    assert set(USERS_FLAGS.split()) <= set(defaults)
    second = """--data data/add_only/train.pkl --tokenizer data/add_only/tokenizer.json
      --out_dir runs/step1_add_only --epochs 30 --lr 1e-4 --warmup_steps 200 --patience 10
      --d_model 128 --n_layers 4 --n_heads 4 --batch_size 32 --accumulation_steps 1
      --label_smoothing 0.0 --dropout 0.1 --show_samples --autoreg_eval"""
    # What is left out is found: the tokenizer beside the data, and the folder by its name.
    defaults["tokenizer"] = "data/add_only/tokenizer.json"
    defaults["out_dir"] = default_out_dir(defaults["data"])
    assert vars(t.build_parser().parse_args(second.split())) == defaults
