"""Damaged, lost and exchanged files of a run folder are noticed and named."""

import errno
import io
import json
import os
import pickle
import random
import shutil
import signal
import zipfile
from pathlib import Path

import pytest
import torch

import train_minigpt_4070 as t
from runtime import run_folder
from trainer.helpers import (
    CPU,
    LONG,
    all_files,
    assert_same_run,
    at_step,
    go,
    interrupt_at_step,
    resume,
)


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize(
    ("key", "value"), [("precision", "foo"), ("micro_batches", 0), ("warmup_steps", None)]
)
def test_config_that_was_tampered_with_is_told(world, capsys, key, value):
    assert go(world, "--epochs", "1") == 0
    path = world / "run/config.json"
    config = json.loads(path.read_text())
    if value is None:
        del config["derived"][key]
    else:
        config["derived"][key] = value
    path.write_text(json.dumps(config))
    assert resume(world, "--epochs", "1") == 2
    assert "config.json is damaged" in capsys.readouterr().err


def test_checkpoint_of_another_run_is_not_resumed(world, capsys):
    assert go(world, "--epochs", "1", out="other") == 0
    assert go(world, "--epochs", "1", "--seed", "3") == 0
    shutil.copy(world / "other/last.pth", world / "run/last.pth")
    (world / "run/memorization.json").unlink()
    assert resume(world, "--epochs", "1", "--seed", "3") == 2
    assert "last.pth is of another run" in capsys.readouterr().err


def test_lost_metrics_are_noted_on_resume(world, monkeypatch, capsys):
    at_step(monkeypatch, 8, lambda: os.kill(os.getpid(), signal.SIGINT))
    assert go(world, "--epochs", "3") == 130
    (world / "run/metrics.jsonl").unlink()
    capsys.readouterr()
    assert resume(world, "--epochs", "3") == 0
    assert "metrics.jsonl is gone" in capsys.readouterr().out


def test_every_truncation_and_bit_flip_of_a_checkpoint_is_noticed(shared, tmp_path):
    whole = (shared[0] / "run/seed_0/best_model.pth").read_bytes()
    run_folder.check_bytes(whole)
    rng = random.Random(0)
    for size in [
        *rng.sample(range(len(whole)), 40),
        len(whole) - run_folder.HASH_BYTES,
        len(whole) - 1,
    ]:
        with pytest.raises((ValueError, zipfile.BadZipFile)):
            run_folder.check_bytes(whole[:size])
    n_end = run_folder.HASH_BYTES + 22  # each bit of the archive's end and the hash, and 100 others
    bits = [
        *rng.sample(range(8 * len(whole)), 100),
        *range(8 * (len(whole) - n_end), 8 * len(whole)),
    ]
    for bit in bits:
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises((ValueError, zipfile.BadZipFile)):
            run_folder.check_bytes(bytes(flipped))
    path = tmp_path / "model.pth"
    path.write_bytes(bytes(flipped))
    with pytest.raises(t.UserError, match=r"model\.pth .* damaged .*hash"):
        t.load_model(path, CPU)


def test_checkpoint_without_a_hash_is_checked_by_the_sums_of_its_archive(shared, tmp_path):
    path, content = tmp_path / "model.pth", shared[0] / "run/seed_0/best_model.pth"
    torch.save(torch.load(content, weights_only=True), path)
    t.load_model(path, CPU)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(t.UserError, match=r"model\.pth .* damaged"):
        t.load_model(path, CPU)


@pytest.mark.parametrize("name", ["torn", "flipped"])
def test_damaged_checkpoint_is_named_and_the_one_before_it_taken(
    uninterrupted, world, monkeypatch, capsys, name
):
    with monkeypatch.context() as patch:
        interrupt_at_step(patch, 14)
        assert go(world, *LONG) == 130
    path = world / "run/seed_1/last.pth"
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 16
    path.write_bytes(data if name == "flipped" else data[: len(data) // 2])
    assert resume(world, *LONG) == 0
    notes = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note: ")]
    assert len(notes) == 1
    assert str(path) in notes[0]
    assert "the one before it is taken" in notes[0]
    assert_same_run(uninterrupted / "run", world / "run", range(3))


def test_a_checkpoint_that_cannot_be_read_just_now_stays_where_it_is(world, monkeypatch, capsys):
    """A disk that fails to read says nothing of the file: the one before it must not replace it."""
    with monkeypatch.context() as patch:
        interrupt_at_step(patch, 14)
        assert go(world, *LONG) == 130
    before, read = all_files(world), Path.read_bytes

    def failing(path):
        if path.name == "last.pth":
            raise OSError(errno.EIO, "Input/output error", str(path))
        return read(path)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", failing)
        assert resume(world, *LONG) == 5
    assert "cannot read or write in" in capsys.readouterr().err
    kept = {p: data for p, data in all_files(world).items() if p.suffix == ".pth"}
    assert kept == {p: data for p, data in before.items() if p.suffix == ".pth"}


def test_lines_that_are_no_records_are_cut(tmp_path):
    kept = '{"step": 3, "epoch": 1}\n'
    path = tmp_path / "metrics.jsonl"
    for line in (
        "5",
        "null",
        "[]",
        '"step"',
        "{}",
        '{"step": "3"}',
        '{"step": null}',
        '{"step": 4}',
    ):
        path.write_text(f"{line}\n{kept}{line}\n" + '{"step": 2, "to')
        t.cut_lines_after(path, 3)
        assert path.read_text() == kept, line


def test_damaged_checkpoints_are_user_errors(shared, tmp_path):
    whole = (shared[0] / "run/seed_0/best_model.pth").read_bytes()
    path = tmp_path / "model.pth"
    content = torch.load(shared[0] / "run/seed_0/best_model.pth", weights_only=True)
    cases = [
        b"",
        b"hello",
        whole[: len(whole) // 2],
        pickle.dumps({"model": Malicious("x")}, protocol=2),
    ]
    wrong_width = {**content, "arch": {**content["arch"], "d_model": 48}}
    for other in ([1], {**content, "arch": {}}, wrong_width, {**content, "model": {}}):
        buffer = io.BytesIO()
        torch.save(other, buffer)
        cases.append(buffer.getvalue())
    for case in cases:
        path.write_bytes(case)
        with pytest.raises(t.UserError, match=r"model\.pth"):
            t.load_model(path, CPU)
    buffer = io.BytesIO()
    torch.save({**content, "extra": Malicious(tmp_path / "ran")}, buffer)
    path.write_bytes(buffer.getvalue())
    with pytest.raises(t.UserError, match=r"model\.pth"):
        t.load_model(path, CPU)
    assert not (tmp_path / "ran").exists()
