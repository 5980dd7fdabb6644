"""--tensorboard: the event files, read back as TensorBoard reads them."""

import numpy as np
import pytest

import train_minigpt_4070 as t
from trainer.helpers import LONG, go, interrupt_at_step, lines_of, resume, words

reading = pytest.importorskip(
    "tensorboard.backend.event_processing.event_accumulator",
    reason="the package tensorboard is not installed",
)


def scalars_in(folder):
    """{name: [(step, value)]} as TensorBoard would draw them."""
    events = reading.EventAccumulator(str(folder), size_guidance={reading.SCALARS: 0})
    events.Reload()
    return {
        name: [(event.step, event.value) for event in events.Scalars(name)]
        for name in events.Tags()["scalars"]
    }


def expected(folder):
    """The same from metrics.jsonl, float32 as TensorBoard keeps numbers."""
    found = {}
    for line in lines_of(folder / "metrics.jsonl"):
        numbers = {key: value for key, value in line.items() if isinstance(value, (int, float))}
        for key, value in line.items():
            if isinstance(value, dict):
                numbers |= {f"{key}/{inner}": number for inner, number in value.items()}
        for name, value in numbers.items():
            found.setdefault(name, []).append((line["step"], float(np.float32(value))))
    return found


def test_scalars_are_the_numbers_of_metrics_jsonl_by_the_same_names(world):
    assert go(world, *words("--seeds 0-1 --epochs 2 --tensorboard")) == 0
    for seed in (0, 1):
        folder = world / f"run/seed_{seed}"
        found = scalars_in(folder / "tensorboard")
        assert found == expected(folder)
        assert {"lr", "val_exact_match", "val_exact_match_by_task/copy", "best"} <= found.keys()
        assert [step for step, _ in found["val_loss"]] == [6, 12]


def test_epochs_without_validation_are_there_too(world):
    assert go(world, *words("--epochs 3 --eval_every 3 --tensorboard")) == 0
    found = scalars_in(world / "run/tensorboard")
    assert [step for step, _ in found["optimized_loss"]] == [6, 12, 18]
    assert [step for step, _ in found["val_loss"]] == [18]


def test_a_resumed_run_draws_each_step_once(world, monkeypatch):
    flags = [*LONG, "--tensorboard", "--save_every", "9", "--save_every_steps", "4"]
    with monkeypatch.context() as patch:
        interrupt_at_step(patch, 14)  # saved at 12, and an epoch ended at 13
        assert go(world, *flags) == 130
    folder = world / "run/seed_1"
    assert [step for step, _ in scalars_in(folder / "tensorboard")["lr"]] == [2, 7, 13]
    assert resume(world, *flags) == 0
    assert scalars_in(folder / "tensorboard") == expected(folder)


def test_scalars_of_a_line_take_numbers_alone():
    line = {
        "seed": 3,
        "best": False,
        "tasks": ["add"],
        "val_loss": None,
        "inner": {"a": 1, "b": None},
    }
    assert t.scalars_of(line) == {"seed": 3.0, "best": 0.0, "inner/a": 1.0}
