"""Two runs never write to one folder."""

import errno
import subprocess
import sys

import pytest
from filelock import FileLock

from trainer.helpers import all_files, go, words

HOLD = """
import sys, time
from filelock import FileLock
with FileLock(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_folder_in_use_is_refused_until_its_process_is_gone(world, capsys):
    flags = words("--epochs 1 --seeds 0,1")
    assert go(world, *flags) == 0
    lock = world / "run/seed_1/.lock"
    child = subprocess.Popen([sys.executable, "-c", HOLD, lock], stdout=subprocess.PIPE)
    try:
        assert child.stdout.readline().strip() == b"held"
        before = all_files(world)
        for flag in ([], ["--resume"], ["--overwrite"]):
            capsys.readouterr()
            assert go(world, *flags, *flag) == 4
            error = capsys.readouterr().err
            assert "another process is training in" in error
            assert "seed_1" in error
            assert error.count("\n") == 1
            assert all_files(world) == before
    finally:
        child.kill()
        child.wait()
        child.stdout.close()
    assert go(world, *flags, "--resume") == 0


@pytest.mark.parametrize("flags", [[], ["--resume"], ["--overwrite"]])
def test_other_seeds_do_not_start_in_a_folder_where_a_run_is_starting(world, capsys, flags):
    """The first has its lock and no file yet: both would write config.json."""
    (world / "run").mkdir()
    with FileLock(world / "run/.lock"):
        assert go(world, *words("--epochs 1 --seeds 2,3"), *flags) == 4
        assert "another process is training in" in capsys.readouterr().err
        assert [path.name for path in (world / "run").iterdir()] == [".lock"]


@pytest.mark.skipif(sys.platform == "win32", reason="locks of Windows need no flock")
def test_a_file_system_without_locks_is_refused(world, monkeypatch, capsys):
    import fcntl

    def flock(*_):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", flock)
    assert go(world, *words("--epochs 1")) == 2
    assert "has no file locks" in capsys.readouterr().err
