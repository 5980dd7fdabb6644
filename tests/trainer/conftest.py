"""Fixtures of the trainer's tests: a folder with data, and whole runs that many tests read."""

import io
import json
import signal

import pytest

import plots
from reference import TOKENIZER_JSON
from trainer.helpers import (
    LONG,
    SIGNALS,
    TRAIN_ROWS,
    VAL_ROWS,
    encode_all,
    go,
    words,
    write_pickle,
)


@pytest.fixture(autouse=True)
def no_figures(monkeypatch):
    """Figures take longer than these runs, and have their own tests."""
    monkeypatch.setattr(plots, "write_figures", lambda *args, **kwargs: [])


@pytest.fixture
def world(tmp_path):
    return make_world(tmp_path)


def make_world(folder, train_rows=TRAIN_ROWS, val_rows=VAL_ROWS):
    folder.mkdir(exist_ok=True)
    for name, rows in (("train", train_rows), ("val", val_rows)):
        write_pickle(folder / f"{name}.pkl", rows, encoded=encode_all(rows))
    (folder / "tokenizer.json").write_text(json.dumps(TOKENIZER_JSON))
    return folder


@pytest.fixture(scope="session")
def shared(tmp_path_factory):
    """One run with three seeds, curriculum, dropout and figures: (world, what it printed)."""
    world = make_world(tmp_path_factory.mktemp("shared"))
    flags = words("--seeds 0-2 --epochs 10 --task_curriculum --d_model 32 --lr 1e-3")
    patch, out = pytest.MonkeyPatch(), io.StringIO()
    patch.setattr("sys.stdout", out)
    rc = go(world, *flags)
    patch.undo()
    assert rc == 0
    return world, out.getvalue()


@pytest.fixture(scope="session")
def uninterrupted(tmp_path_factory):
    world = make_world(tmp_path_factory.mktemp("uninterrupted"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plots, "write_figures", lambda *args, **kwargs: [])
        assert go(world, *LONG) == 0
    return world


@pytest.fixture(autouse=True)
def no_ignored_signals():
    """The program leaves ignored signals be: nohup ignores SIGHUP, a background shell SIGINT."""
    before = {n: signal.getsignal(n) for n in (getattr(signal, name) for name in SIGNALS)}
    for number, handler in before.items():
        if handler == signal.SIG_IGN:
            default = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
            signal.signal(number, default)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
