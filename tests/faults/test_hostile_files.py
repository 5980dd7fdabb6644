"""Files from strangers, by the ten thousand: `pytest -m faults tests/faults/test_hostile_files.py`.

Nothing may be imported, opened or started, nothing may take more calls than `hostile.work` allows
or 512 MiB, and each file must be refused by one UserError that names it; one with flipped bits may
also load as plain data.
"""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from hostile import read_all

pytestmark = pytest.mark.faults


@pytest.mark.parametrize(
    ("kind", "n"),
    [("pickle", 10_000), ("jsonl", 2_000), ("tokenizer", 2_000), ("checkpoint", 2_000)],
)
def test_hostile_files_do_nothing_and_are_told(tmp_path, kind, n, capsys):
    wrong, figures = read_all(kind, tmp_path, n)
    with capsys.disabled():
        print(f"\n{figures}")
    assert wrong == []
