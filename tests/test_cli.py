"""What every script does alike: exit codes, a folder tried before work, the folders of seeds."""

import errno
import importlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from runtime.cli import answer_early, count_text, cut_middle, printable, run_main
from runtime.errors import EXIT_CODES, UserError
from runtime.files import check_writable
from runtime.records import seed_folder, seed_folders

ROOT = Path(__file__).resolve().parents[1]


def test_one_thing_is_no_plural():
    texts = [count_text(n, "step") for n in (0, 1, 2, 1000)]
    assert texts == ["0 steps", "1 step", "2 steps", "1,000 steps"]


def test_a_long_text_is_cut_to_its_ends():
    assert cut_middle("1234567", 7) == "1234567"
    assert cut_middle("12345678", 7) == "12…678"
    assert cut_middle("12345678", 6) == "12…678"


def raising(error):
    def work():
        raise error

    return work


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (UserError("x.pkl is empty; give another"), 2, "error: x.pkl is empty; give another\n"),
        (OSError(errno.ENOSPC, "No space left", "a/b"), 5, "error: a/b: No space left\n"),
        (OSError("odd"), 5, "error: output: odd\n"),
        (KeyboardInterrupt(), 130, "\nstopped: interrupted\n"),
        (BrokenPipeError(), 141, ""),
        (SystemExit(2), 2, ""),
    ],
)
def test_exit_codes_and_one_line(error, code, said, capsys):
    assert run_main(raising(error)) == code
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", said)


SCRIPTS = ["train_minigpt_4070", "evaluate_ood", "plots", "data.generate", "recipes.sweep"]
SCRIPTS += ["recipes.export", "benchmarks.bench", "benchmarks.load", "benchmarks.profile_step"]


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_of_every_script_ends_with_the_table_of_exit_codes(script, capsys):
    main = importlib.import_module(script).main
    assert main(["--help"]) == 0
    _, _, table = capsys.readouterr().out.partition("exit codes:\n")
    rows = [line.split(maxsplit=1) for line in table.splitlines()]
    assert [(int(code), meaning) for code, meaning in rows] == list(EXIT_CODES.items())
    assert main(["--no_such_flag"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.endswith("; --help lists every flag\n")


RUN = [
    path
    for folder in ("", "data", "recipes", "benchmarks")
    for path in (ROOT / folder).glob("*.py")
]
RUN = sorted(path for path in RUN if "__main__" in path.read_text(encoding="utf-8"))


def answer(script, *flags, **environment):
    """(exit code, stdout, stderr, top-level modules imported) of a script run with `flags`."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", script, *flags],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, **environment},
    )
    times, said = [], []
    for line in done.stderr.splitlines():
        (times if line.startswith("import time:") else said).append(line)
    modules = {line.rpartition("|")[2].strip().partition(".")[0] for line in times}
    return done.returncode, done.stdout, "\n".join(said), modules


@pytest.mark.parametrize("script", RUN, ids=lambda path: path.stem)
def test_help_and_wrong_flags_are_answered_before_the_imports_that_take_seconds(script):
    code, out, error, modules = answer(script, "--help")
    assert (code, error) == (0, "")
    assert "exit codes:" in out
    assert modules & {"torch", "matplotlib"} == set()
    assert "argparse" in modules
    code, out, error, modules = answer(script, "--no_such_flag")
    assert (code, out) == (2, "")
    assert error.startswith("error: ")
    assert error.endswith("; --help lists every flag")
    assert modules & {"torch", "matplotlib"} == set()


@pytest.mark.parametrize(
    ("script", "flags", "error"),
    [
        ("train_minigpt_4070.py", "--canaries 5", "--canaries needs --subset"),
        ("train_minigpt_4070.py", "--d_model 20 --n_heads 4", "--d_model 20 must be a multiple"),
        ("evaluate_memorization.py", "--capacity --model x", "--capacity trains a model of its"),
    ],
)
def test_flags_that_exclude_one_another_are_told_of_as_early(script, flags, error):
    code, out, said, modules = answer(ROOT / script, *flags.split())
    assert (code, out) == (2, "")
    assert said.startswith(f"error: {error}")
    assert "torch" not in modules


def test_one_process_of_torchrun_does_not_answer_early(monkeypatch):
    """The others must hear of the mistake too, and only one is to tell it."""
    monkeypatch.setenv("RANK", "0")
    answer_early(pytest.fail)


def test_done_is_zero_and_a_bug_keeps_its_traceback():
    assert run_main(lambda: "done") == 0
    with pytest.raises(ZeroDivisionError):
        run_main(lambda: 1 / 0)


LOUD = """
import sys
from runtime.cli import answer_early, run_main
from runtime.errors import EXIT_CODES, UserError
def work():
    print("x" * {n})
    if {fail}:
        raise UserError("told all the same")
sys.exit(run_main(work))
"""


def run_into(stdout, n, fail=False):
    command = [sys.executable, "-c", LOUD.format(n=n, fail=fail)]
    env = {**os.environ, "PYTHONUNBUFFERED": ""}
    return subprocess.run(
        command, cwd=ROOT, env=env, stdout=stdout, stderr=subprocess.PIPE, text=True, check=False
    )


@pytest.mark.skipif(os.name == "nt", reason="a closed pipe is another error on Windows")
@pytest.mark.parametrize("n", [1, 10**6])  # told at the flush, and while printing
def test_a_closed_pipe_is_quiet(n):
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as pipe:
        done = run_into(pipe, n)
        assert (done.returncode, done.stderr) == (141, "")
        failed = run_into(pipe, 1, fail=True)
        assert (failed.returncode, failed.stderr) == (2, "error: told all the same\n")


@pytest.mark.skipif(os.name == "nt", reason="Windows has another way to close a stream")
@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_a_stream_that_is_closed_from_the_start_is_no_fault(closed):
    script = ROOT / "train_minigpt_4070.py"
    command = f'exec "{sys.executable}" "{script}" --data nothere.txt {closed}'
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    said = "" if "2>&-" in closed else "error: the training set nothere.txt does not exist; "
    assert (done.returncode, done.stderr[: len(said) or None]) == (2, said)


@pytest.mark.skipif(os.name == "nt", reason="Windows has another way to close a stream")
def test_standard_input_that_is_closed_from_the_start_is_empty():
    program = (
        "import sys\nfrom runtime.cli import run_main\n"
        "run_main(lambda: print(sys.stdin.isatty(), list(sys.stdin)))"
    )
    command = f"exec \"{sys.executable}\" -c '{program}' <&-"
    done = subprocess.run(
        ["sh", "-c", command], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert (done.stdout, done.stderr) == ("False []\n", "")


def test_what_a_terminal_would_obey_is_shown_as_an_escape():
    assert printable("[add] 1 + 2 é 𝔸") == "[add] 1 + 2 é 𝔸"
    assert printable("\x1b[2J\r\x00\t\u202e\ufeff") == r"\x1b[2J\r\x00\t\u202e\ufeff"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_behind_stdout_is_one_line():
    with open("/dev/full", "w") as full:
        done = run_into(full, 1)
    assert done.returncode == 5
    assert "No space left" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_folder_is_tried_and_left_as_it_was(tmp_path, monkeypatch):
    check_writable(tmp_path / "a" / "b")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    for bad in ("file", "file/below"):
        with pytest.raises(UserError, match="is a file, or lies in one; give a folder"):
            check_writable(tmp_path / bad)
    denied = OSError(errno.EACCES, "Permission denied")
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda dir: raising(denied)())
    with pytest.raises(UserError, match=r"--out_dir .*a cannot be written \(Permission denied\)"):
        check_writable(tmp_path / "a")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_seed_folders_by_number(tmp_path):
    for name in ("seed_10", "seed_2", "seed_x", "seed_1.old", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.jsonl").write_text("")
    (tmp_path / "seed_3").mkdir()  # holds no run
    assert [path.name for path in seed_folders(tmp_path)] == ["seed_2", "seed_10"]
    assert seed_folders(tmp_path / "gone") == []


def test_seed_folder_is_one_of_those_found(tmp_path):
    assert seed_folder(tmp_path, 3, [3]) == tmp_path
    folder = seed_folder(tmp_path, 3, [3, 4])
    folder.mkdir()
    (folder / "last.pth").write_text("")
    assert seed_folders(tmp_path) == [folder]
