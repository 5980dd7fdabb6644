"""Sweeps on a shared folder: the same command everywhere, locks and resume do the rest.

The campaign of 40 runs is in tests/faults/test_scale.py.
"""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

import train_minigpt_4070 as t
from recipes import sweep
from scaling import assert_same_run, run_sweep, sweep_commands, write_sets

EPOCHS = ["--epochs", "2"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the workers of this test fork")
def test_two_workers_share_a_folder_and_one_is_killed(tmp_path):
    """The serial runs are a worker's too: nothing that other tests leave behind can matter."""
    sets = write_sets(tmp_path / "sets")
    grid = [["train"], [16], range(4), *EPOCHS]
    serial = sweep_commands(sets, tmp_path / "serial", *grid)
    assert {code for _, code in run_sweep(serial, 1, 0, 0, tmp_path / "serial_logs")} == {0}
    parallel = sweep_commands(sets, tmp_path / "runs", *grid, "--resume")
    outcomes = run_sweep(parallel, 2, 1, 0.5, tmp_path / "logs")
    assert {code for _, code in outcomes} <= {0, 4, -signal.SIGKILL}
    assert [code for _, code in outcomes].count(0) == 2 * 4  # each worker saw each run finished
    for name in serial:
        assert_same_run(tmp_path / "serial" / name, tmp_path / "runs" / name)


def test_every_combination_is_the_trainers_command_with_resume(tmp_path):
    args = sweep.build_parser().parse_args(
        f"--data {tmp_path}/a.pkl {tmp_path}/b.pkl --d_model 16 32 --seeds 0 1-3 "
        f"--out_dir {tmp_path}/runs -- --epochs 2 --patience 0".split()
    )
    commands = sweep.commands(args)
    assert len(commands) == 8
    command = commands[f"{tmp_path.name}_b_d32_s1-3"]
    assert command[:2] == [sys.executable, str(sweep.TRAINER)]
    parsed = t.build_parser().parse_args(command[2:])
    assert (parsed.data, parsed.tokenizer) == (f"{tmp_path}/b.pkl", None)
    assert (parsed.d_model, parsed.seeds, parsed.epochs) == (32, [1, 2, 3], 2)
    assert parsed.resume
    assert parsed.out_dir == f"{tmp_path}/runs/{tmp_path.name}_b_d32_s1-3"
    assert len({t.build_parser().parse_args(c[2:]).out_dir for c in commands.values()}) == 8


def test_a_run_that_somebody_else_has_is_left_to_them():
    code = [sys.executable, "-c", "import sys; sys.exit(int(sys.argv[1]))"]
    assert sweep.SweepTask([*code, "0"])() == "done"
    assert sweep.SweepTask([*code, "4"])().startswith("left to somebody else")
    with pytest.raises(sweep.subprocess.CalledProcessError):
        sweep.SweepTask([*code, "2"])()


@pytest.mark.parametrize(
    ("asked", "threads", "taken"), [(None, 3, "3"), (None, None, "none"), ("2", 3, "2")]
)
def test_a_task_takes_its_share_of_the_cores_unless_told_otherwise(
    tmp_path, monkeypatch, asked, threads, taken
):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if asked:
        monkeypatch.setenv("OMP_NUM_THREADS", asked)
    code = "import os; open('taken', 'w').write(os.environ.get('OMP_NUM_THREADS', 'none'))"
    assert sweep.SweepTask([sys.executable, "-c", code], tmp_path, threads)() == "done"
    assert (tmp_path / "taken").read_text() == taken


@pytest.mark.parametrize(("workers", "threads"), [("1", 6), ("2", 3), ("4", 1), ("9", 1)])
def test_workers_on_one_machine_share_its_cores(tmp_path, monkeypatch, workers, threads):
    submitted = []

    class Executor:
        def submit(self, task):
            submitted.append(task.threads)
            return SimpleNamespace(done=lambda: True, exception=lambda: None, result=lambda: "done")

    monkeypatch.setattr(sweep, "usable_cores", lambda: 6)
    monkeypatch.setattr(sweep, "make_executor", lambda args: Executor())
    monkeypatch.setenv("PYTHONPATH", "")  # which a sweep extends
    flags = ["--data", "a.txt", "--d_model", "16", "--seeds", "0", "1", "--workers", workers]
    args = sweep.build_parser().parse_args([*flags, "--out_dir", str(tmp_path / "runs")])
    sweep.submit(args, sweep.commands(args))
    assert submitted == [threads] * 2


def test_paths_after_the_dashes_start_where_the_sweep_is_given(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    task = sweep.SweepTask([sys.executable, "-c", "open('here', 'w')"])
    monkeypatch.chdir(sweep.ROOT)  # where a task wakes up is not said
    assert task() == "done"
    assert (tmp_path / "here").exists()


def test_a_sweep_runs_from_any_folder(tmp_path):
    (tmp_path / "mine.txt").write_text("[add] 1 + 1 | 2\n")
    script = Path(sweep.__file__).resolve()
    flags = ["--data", "mine.txt", "--d_model", "16", "--seeds", "0", "--out_dir", "runs"]
    command = [sys.executable, script, *flags, "--", "--help"]  # the trainer only shows its help
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{tmp_path.name}_mine_d16_s0: done\n"


def test_two_sets_that_would_share_a_folder_are_refused(tmp_path, capsys):
    sets = [str(tmp_path / f"{name}/sets/train.pkl") for name in "ab"]
    flags = ["--d_model", "16", "--seeds", "0", "--out_dir", str(tmp_path / "runs")]
    assert sweep.main(["--data", *sets, *flags]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: two runs would have the folder {tmp_path}/runs/sets_train_d16")
    assert error.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def without_submitit(*flags):
    """The sweep as where submitit is not installed."""
    code = "import sys; sys.modules['submitit'] = None; from recipes import sweep; "
    command = [sys.executable, "-c", code + "sys.exit(sweep.main(sys.argv[1:]))", *map(str, flags)]
    return subprocess.run(command, capture_output=True, text=True, cwd=sweep.ROOT, check=False)


def test_help_needs_no_submitit_and_a_sweep_without_it_says_what_to_install(tmp_path):
    shown = without_submitit("--help")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "--workers" in shown.stdout
    flags = ["--data", tmp_path / "a.txt", "--d_model", 16, "--seeds", 0]
    done = without_submitit(*flags, "--out_dir", tmp_path / "runs")
    assert done.returncode == 2
    assert done.stderr == "error: sweep.py needs the package submitit; pip install submitit\n"
    assert not list(tmp_path.iterdir())


def test_a_missing_training_set_is_told_before_any_task_starts(tmp_path, capsys):
    flags = ["--d_model", "16", "--seeds", "0", "--out_dir", str(tmp_path / "runs")]
    assert sweep.main(["--data", str(tmp_path / "gone.pkl"), *flags]) == 2
    assert f"the training set {tmp_path}/gone.pkl does not exist" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_a_full_disk_names_the_folder(tmp_path, monkeypatch, capsys):
    def full(*_, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / "train.txt").write_text("[add] 1 + 1 | 2\n")
    monkeypatch.setattr(sweep.load_submitit(), "AutoExecutor", full)
    flags = ["--d_model", "16", "--seeds", "0", "--out_dir", str(tmp_path / "runs")]
    assert sweep.main(["--data", str(tmp_path / "train.txt"), *flags]) == 5
    said = f"stopped: cannot write in {tmp_path}/runs/submitit (No space left on device)\n"
    assert capsys.readouterr().err == said


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="Slurm's signal")
def test_a_preempted_task_waits_until_its_trainer_has_saved(tmp_path, monkeypatch):
    """Also where there is no os.waitid, as on macOS before Python 3.13."""
    monkeypatch.delattr(os, "waitid", raising=False)
    code = (
        "import signal, sys, time\n"
        "def save(*_):\n"
        "    time.sleep(0.3)\n"
        "    open('saved', 'w')\n"
        "    sys.exit()\n"
        "signal.signal(signal.SIGUSR1, save)\n"
        "open('ready', 'w')\n"
        "time.sleep(60)"
    )
    task = sweep.SweepTask([sys.executable, "-c", code], tmp_path)
    again = []

    def preempt(*_):
        while not (tmp_path / "ready").exists():
            time.sleep(0.01)
        again.append(task.checkpoint().function)
        raise SystemExit

    before = signal.signal(signal.SIGALRM, preempt)
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    try:
        with pytest.raises(SystemExit):
            task()
    finally:
        signal.signal(signal.SIGALRM, before)
    assert (tmp_path / "saved").exists()
    assert (again[0].command, again[0].folder) == (task.command, tmp_path)
