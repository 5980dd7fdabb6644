"""Checkpoints made to do harm are refused."""

import ast
import os
import zipfile

import hostile
import pytest
import torch

import train_minigpt_4070 as t
from trainer.helpers import CPU, SCRIPT


def test_hostile_checkpoints_do_nothing_and_are_told(tmp_path, monkeypatch):
    """The short campaign, in this process; the long one is tests/faults/test_hostile_files.py."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.pth").write_bytes(hostile.saved(hostile.honest_checkpoint()))
    assert t.read_checkpoint("model.pth")["epoch"] == 1
    for name, data, what in hostile.craft_checkpoints(100):
        (tmp_path / "model.pth").write_bytes(data)
        try:
            t.read_checkpoint("model.pth")
        except t.UserError as error:
            assert "model.pth" in str(error), name  # noqa: PT017
        else:
            assert what == "any", name
    assert os.listdir(tmp_path) == ["model.pth"]


def test_an_archive_that_unpacks_to_more_than_its_size_is_refused(tmp_path):
    whole = hostile.saved(hostile.honest_checkpoint())
    path = tmp_path / "model.pth"
    for data in (
        hostile.rezipped(whole, zipfile.ZIP_DEFLATED),
        hostile.rezipped(whole, zipfile.ZIP_DEFLATED, data_pkl=b"N" * 2**24),
    ):
        path.write_bytes(data)
        with pytest.raises(t.UserError, match="larger inside"):
            t.read_checkpoint(path)


@pytest.mark.parametrize(
    ("change", "fact"),
    [
        ({"n_layers": 10**9}, "go together"),
        ({"n_heads": 3}, "go together"),
        ({"n_heads": 0}, "above 0"),
        ({"d_model": 8.0}, "above 0"),
        ({"d_ff": 10**9}, "size mismatch"),
        ({"d_model": 10**6}, "size mismatch"),
    ],
    ids=str,
)
def test_an_architecture_that_the_weights_do_not_have_allocates_nothing(tmp_path, change, fact):
    content = hostile.honest_checkpoint()
    content["arch"] |= change
    path = tmp_path / "model.pth"
    path.write_bytes(hostile.saved(content))
    with pytest.raises(t.UserError, match=rf"model\.pth .*{fact}"):
        t.load_model(path, CPU)


def test_a_weight_that_only_seems_large_is_refused(tmp_path):
    content = hostile.honest_checkpoint()
    content["arch"]["d_ff"] = 10**12
    content["model"]["blocks.0.w_up"] = torch.zeros(1).expand(1, 8, 10**12)
    path = tmp_path / "model.pth"
    path.write_bytes(hostile.saved(content))
    with pytest.raises(t.UserError, match=r"model\.pth .*number by number"):
        t.load_model(path, CPU)
    content["model"]["blocks.0.w_up"] = "a text"
    path.write_bytes(hostile.saved(content))
    with pytest.raises(t.UserError, match=r"model\.pth"):
        t.load_model(path, CPU)


def test_no_path_falls_back_to_unsafe_loading():
    """Every `torch.load` says weights_only=True, and pickles are read by data/formats.py alone."""
    scripts = [*SCRIPT.parent.glob("*.py"), *SCRIPT.parent.glob("data/*.py")]
    calls = [
        (path.name, node)
        for path in scripts
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
    ]
    loads = [(name, node) for name, node in calls if ast.unparse(node.func) == "torch.load"]
    assert loads
    for name, node in loads:
        options = {k.arg: ast.unparse(k.value) for k in node.keywords}
        assert options["weights_only"] == "True", (name, node.lineno)
    unsafe = {"pickle.load", "pickle.loads", "torch.jit.load", "np.load", "eval", "exec"}
    assert [(name, n.lineno) for name, n in calls if ast.unparse(n.func) in unsafe] == []
