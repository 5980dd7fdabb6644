"""Processes and workers killed at random: every run must end as an undisturbed one, bit for bit.

pytest -m faults tests/faults/test_scale.py -s
"""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time

import pytest

import scaling
import train_minigpt_4070 as t
from recipes import sweep
from recipes.sweep import ROOT
from runtime.ledger import LEDGER_FILE, read_ledger, read_panel
from scaling import (
    SCRIPT,
    assert_same_run,
    children,
    environment,
    flags,
    lines_of,
    run_sweep,
    sweep_commands,
    torchrun,
    weights_of,
    write_sets,
)

pytestmark = [
    pytest.mark.faults,
    pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc"),
]

KILLS = 10
LONG = [
    "--epochs",
    "40",
    "--batch_size",
    "4",
    "--accumulation_steps",
    "2",
    "--dropout",
    "0.1",
    "--save_every_steps",
    "3",
]


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    return write_sets(tmp_path_factory.mktemp("sets"), ("train", "other"), n=80)


def finished(process, seconds=300):
    """(exit code, stdout, stderr) of a process."""
    out, err = process.communicate(timeout=seconds)
    return process.returncode, out, err


def run_one(arguments):
    command = [sys.executable, scaling.__file__, "train", *arguments]
    subprocess.run(command, env=environment(), check=True, capture_output=True)


def written(path):
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def kill_workers(process, kills, rng, ready):
    """Kill one worker of a torchrun after another, each some time after training began again.

    Returns how many died before the run was over.
    """
    killed = 0
    while killed < kills and process.poll() is None:
        seen = ready.stat().st_mtime_ns if ready.exists() else 0
        while (
            process.poll() is None and (ready.stat().st_mtime_ns if ready.exists() else 0) == seen
        ):
            time.sleep(0.02)  # until a checkpoint is written
        time.sleep(rng.uniform(0, 0.2))
        workers = children(process.pid)
        if process.poll() is None and len(workers) == 2:
            os.kill(rng.choice(workers), signal.SIGKILL)
            killed += 1
    return killed


@pytest.mark.parametrize("seeds", ["0", "0-1", "0-2"])
def test_killed_workers_restart_and_the_run_ends_as_undisturbed(sets, tmp_path, seeds):
    """One seed and two processes share batches; two seeds are one each; of three, one has two."""
    rng = random.Random(seeds)
    arguments = ["--seeds", seeds, *LONG, "--resume"]
    code, _, err = finished(torchrun(flags(sets, tmp_path / "calm", *arguments)))
    assert code == 0, err
    process = torchrun(flags(sets, tmp_path / "killed", *arguments), restarts=KILLS + 2)
    first = "" if seeds == "0" else "seed_0"
    killed = kill_workers(process, KILLS, rng, tmp_path / "killed" / first / "last.pth")
    code, _, err = finished(process)
    assert code == 0, err
    folders = [p.parent for p in sorted((tmp_path / "killed").rglob("metrics.jsonl"))]
    assert len(folders) == len(t.seed_list(seeds))
    for folder in folders:
        assert_same_run(tmp_path / "calm" / folder.relative_to(tmp_path / "killed"), folder)
    print(f"\n--seeds {seeds}: {killed} workers killed with -9, 0 differences")
    assert killed >= KILLS // 2


def test_shares_of_seeds_are_runs_of_their_own_bit_for_bit(sets, tmp_path):
    few = ["--epochs", "3", "--dropout", "0.1"]
    code, out, err = finished(torchrun(flags(sets, tmp_path / "two", "--seeds", "0-2", *few)))
    assert code == 0, err
    run_one(flags(sets, tmp_path / "a", "--seeds", "0-1", *few))
    run_one(flags(sets, tmp_path / "b", "--seeds", "2", *few))
    assert_same_run(tmp_path / "a" / "seed_0", tmp_path / "two" / "seed_0")
    assert_same_run(tmp_path / "a" / "seed_1", tmp_path / "two" / "seed_1")
    assert_same_run(tmp_path / "b", tmp_path / "two" / "seed_2")
    config = json.loads((tmp_path / "two" / "config.json").read_text())
    assert config["seeds"] == [0, 1, 2]
    assert out.count("next: ") == 1
    assert "95 % interval over 3 seeds" in out


@pytest.mark.parametrize("dropout", ["0", "0.2"])
@pytest.mark.parametrize("seeds", ["4", "4,6"])
def test_processes_that_share_batches_train_as_one(sets, tmp_path, seeds, dropout):
    """80 rows in batches of 9: unequal parts, and a last batch of 8."""
    n = len(t.seed_list(seeds)) + 1
    few = ["--seeds", seeds, "--epochs", "4", "--batch_size", "9", "--dropout", dropout]
    code, _, err = finished(torchrun(flags(sets, tmp_path / "many", *few), n))
    assert code == 0, err
    run_one(flags(sets, tmp_path / "one", *few))
    one, many = (
        sorted(p.relative_to(f) for p in f.rglob("*") if p.is_file())
        for f in (tmp_path / "one", tmp_path / "many")
    )
    assert one == many
    for path in (p for p in one if p.name == "metrics.jsonl"):
        a, b = lines_of(tmp_path / "one" / path), lines_of(tmp_path / "many" / path)
        assert [line["step"] for line in a] == [line["step"] for line in b] == [9, 18, 27, 36]
        for x, y in zip(a, b, strict=True):
            for name in ("train_loss", "val_loss", "optimized_loss"):
                assert y[name] == pytest.approx(x[name], rel=1e-4), name
    for path in (p for p in one if p.name == "last.pth"):
        a, b = weights_of(tmp_path / "one" / path), weights_of(tmp_path / "many" / path)
        worst = max(float((a[name] - b[name]).abs().max()) for name in a)
        print(f"\n{n} processes, {path}: largest difference of a weight {worst:.1e}")
        assert worst < 1e-4


def test_sigterm_saves_on_all_processes_at_one_step(sets, tmp_path):
    arguments = ["--seeds", "0", *LONG, "--resume"]
    assert finished(torchrun(flags(sets, tmp_path / "calm", *arguments)))[0] == 0
    folder, rng, stops = tmp_path / "stopped", random.Random(1), 0
    for _ in range(5):
        process = torchrun(flags(sets, folder, *arguments))
        seen = lines_in(folder)
        while process.poll() is None and lines_in(folder) == seen:
            time.sleep(0.02)
        time.sleep(rng.uniform(0, 0.3))
        process.send_signal(signal.SIGTERM)
        code, _, err = finished(process)
        stops += "SIGTERM came" in err
        assert err.count("SIGTERM came") <= 1
        if code == 0:
            break
    code, _, err = finished(torchrun(flags(sets, folder, *arguments)))
    assert code == 0, err
    assert_same_run(tmp_path / "calm", folder)
    print(f"\n{stops} runs stopped by SIGTERM at a common step and resumed, 0 differences")
    assert stops >= 1


def test_sigterm_while_one_process_waits_for_the_other(sets, tmp_path):
    """Seed 0 is finished, seed 1 trains anew: nothing else would keep one waiting for long."""
    arguments = ["--seeds", "0-1", "--epochs", "60", "--save_every", "1000", "--resume"]
    for run in ("calm", "stopped"):
        code, _, err = finished(torchrun(flags(sets, tmp_path / run, *arguments)))
        assert code == 0, err
    folder = tmp_path / "stopped/seed_1"
    (folder / "last.pth").unlink()  # previous.pth is of step 0
    process = torchrun(flags(sets, tmp_path / "stopped", *arguments))
    while process.poll() is None and not 0 < lines_in(folder) < 30:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, _, err = finished(process)
    assert err.count("stopped: SIGTERM came while other processes trained") == 1, err
    assert err.count("stopped: SIGTERM came and the run is saved") == 1
    assert "Connection closed" not in err
    code, _, err = finished(torchrun(flags(sets, tmp_path / "stopped", *arguments)))
    assert code == 0, err
    for seed in ("seed_0", "seed_1"):
        assert_same_run(tmp_path / "calm" / seed, tmp_path / "stopped" / seed)


def lines_in(folder):
    path = folder / "metrics.jsonl"
    return path.read_text().count("\n") if path.exists() else 0


@pytest.mark.parametrize(
    "mistake", [["--d_model", "15"], ["--epochs", "none"], ["--out_dir", "used"]]
)
def test_a_mistake_is_told_once_and_nobody_waits(sets, tmp_path, mistake):
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "metrics.jsonl").write_text("")  # only the first process looks here
    mistake = [str(tmp_path / "used") if part == "used" else part for part in mistake]
    code, _, err = finished(torchrun([*flags(sets, tmp_path / "run"), *mistake]), 60)
    assert code != 0
    told = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(told) == 1, err
    assert "EndTogether" not in err  # torchrun adds a traceback of its own
    assert "exitcode  : 2" in err


def test_four_workers_and_forty_runs_with_random_kills(sets, tmp_path):
    grid = [["train", "other"], [16, 32], range(10)]
    more = ["--epochs", "2", "--dropout", "0.1", "--save_every_steps", "2"]
    start = time.perf_counter()
    serial = run_sweep(
        sweep_commands(sets, tmp_path / "serial", *grid, *more), 1, 0, 0, tmp_path / "log"
    )
    assert [code for _, code in serial] == [0] * 40
    alone = time.perf_counter() - start
    commands = sweep_commands(sets, tmp_path / "runs", *grid, *more, "--resume")
    outcomes = run_sweep(commands, 4, 10, 1.5 * alone / 40, tmp_path / "logs")
    codes = [code for _, code in outcomes]
    assert set(codes) <= {0, 4, -signal.SIGKILL}
    killed, taken = codes.count(-signal.SIGKILL), codes.count(4)
    assert codes.count(0) == 4 * 40  # every worker went on until it saw each run finished
    for name in commands:
        assert_same_run(tmp_path / "serial" / name, tmp_path / "runs" / name)
        logs = "".join(p.read_text() for p in (tmp_path / "logs").glob(f"{name}.*.log"))
        assert logs.count("finished with epoch 2: all epochs done") >= 1
    print(
        f"\n40 runs by 4 workers: {killed} children killed with -9, {taken} times a folder was in "
        "use by another worker, 40 runs equal to serial ones, 0 differences"
    )
    assert killed >= 20


def test_sweep_with_submitit_on_this_machine(sets, tmp_path):
    """Two runs; the second time both are finished already."""
    command = [sys.executable, ROOT / "recipes/sweep.py", "--data", sets / "train.txt"]
    command += ["--d_model", "16", "--seeds", "0", "1-2", "--out_dir", tmp_path / "sweep"]
    command += ["--workers", "2", "--", "--val_data", sets / "val.txt", "--epochs", "2"]
    command += ["--n_layers", "1", "--n_heads", "2", "--warmup_steps", "2", "--device", "cpu"]
    for _ in range(2):
        done = subprocess.run(
            list(map(str, command)), env=environment(), capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stdout + done.stderr
        name = f"{sets.name}_train_d16_s"
        assert done.stdout.splitlines()[-2:] == [f"{name}0: done", f"{name}1-2: done"]
    for folder in (f"{name}0", f"{name}1-2/seed_1", f"{name}1-2/seed_2"):
        assert len(lines_of(tmp_path / "sweep" / folder / "metrics.jsonl")) == 2


def test_preempted_submitit_task_saves_and_goes_on(sets, tmp_path, monkeypatch):
    """What Slurm sends before a time limit: the trainer saves, the task is queued again.

    Nothing else would have saved: without it the run would begin again at step 0.
    """
    arguments = ["--epochs", "60", "--save_every", "1000", "--dropout", "0.1", "--resume"]
    run_one(flags(sets, tmp_path / "calm", *arguments))
    folder = tmp_path / "preempted"
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    executor = sweep.load_submitit().LocalExecutor(tmp_path / "logs")
    executor.update_parameters(timeout_min=60)
    job = executor.submit(
        sweep.SweepTask([sys.executable, str(SCRIPT), *flags(sets, folder, *arguments)])
    )
    while lines_in(folder) < 2:
        time.sleep(0.02)
    (task,) = children(int(job.job_id))
    os.kill(task, signal.SIGUSR1)
    assert job.result() == "done"
    at = int(re.search(r"resuming .* at step (\d+) of", job.stdout()).group(1))
    assert at >= 2 * 3  # two epochs of three steps were seen above
    assert_same_run(tmp_path / "calm", folder)


PANEL = ["--subset", "0.5", "--canaries", "0", "--epochs", "3", "--dropout", "0.1"]


def assert_same_ledger(a, b, *, exactly):
    """The same parts and epochs, and the same bits: as float16, or to its rounding."""
    one, two = (read_ledger(folder / LEDGER_FILE) for folder in (a, b))
    for name in ("keys", "members", "epochs", "steps"):
        assert (getattr(one, name) == getattr(two, name)).all(), name
    if exactly:
        assert (one.bits == two.bits).all()
        assert (one.exact == two.exact).all()
    assert two.bits == pytest.approx(one.bits, rel=2e-3)


def test_panel_of_two_processes_keeps_the_ledgers_of_one(sets, tmp_path):
    code, out, err = finished(torchrun(flags(sets, tmp_path / "two", "--seeds", "0-3", *PANEL)))
    assert code == 0, err
    assert "each trains its share of the seeds" in out
    run_one(flags(sets, tmp_path / "all", "--seeds", "0-3", *PANEL))
    for seeds in ((0, 1), (2, 3)):
        alone = tmp_path / f"from_{seeds[0]}"
        run_one(flags(sets, alone, "--seeds", "-".join(map(str, seeds)), *PANEL))
        for seed in (f"seed_{seed}" for seed in seeds):
            assert_same_run(alone / seed, tmp_path / "two" / seed)
            assert_same_ledger(alone / seed, tmp_path / "two" / seed, exactly=True)
            assert_same_ledger(tmp_path / "all" / seed, tmp_path / "two" / seed, exactly=False)
    panel, notices = read_panel([tmp_path / f"two/seed_{seed}" for seed in range(4)])
    assert (panel.seeds, panel.epochs.tolist(), notices) == ([0, 1, 2, 3], [1, 2, 3], [])


def test_panel_whose_processes_share_batches_keeps_the_ledger_of_one(sets, tmp_path):
    arguments = ["--seeds", "0-1", *PANEL]
    code, out, err = finished(torchrun(flags(sets, tmp_path / "many", *arguments), 3))
    assert code == 0, err
    assert "all share each batch" in out
    run_one(flags(sets, tmp_path / "one", *arguments))
    for seed in ("seed_0", "seed_1"):
        assert_same_ledger(tmp_path / "one" / seed, tmp_path / "many" / seed, exactly=False)
        a, b = (weights_of(tmp_path / run / seed / "last.pth") for run in ("one", "many"))
        assert max(float((a[name] - b[name]).abs().max()) for name in a) < 1e-4


@pytest.mark.parametrize("more", [[], PANEL[:4]])
def test_seeds_and_epochs_join_under_torchrun_as_in_one_process(sets, tmp_path, more):
    for seeds, epochs in [("0-1", "2"), ("0-3", "2"), ("0-3", "3")]:
        arguments = ["--seeds", seeds, "--epochs", epochs, "--dropout", "0.1", *more, "--resume"]
        code, out, err = finished(torchrun(flags(sets, tmp_path / "two", *arguments)))
        assert code == 0, err
        run_one(flags(sets, tmp_path / "one", *arguments))
    for seed in (f"seed_{seed}" for seed in range(4)):
        a, b = (lines_of(tmp_path / run / seed / "metrics.jsonl") for run in ("one", "two"))
        assert [line["epoch"] for line in b] == [1, 2, 3]
        for x, y in zip(a, b, strict=True):
            assert (y["step"], y["lr"]) == (x["step"], x["lr"])
            assert y["val_loss"] == pytest.approx(x["val_loss"], rel=1e-4)
        if more:
            assert_same_ledger(tmp_path / "one" / seed, tmp_path / "two" / seed, exactly=False)
    code, out, err = finished(torchrun(flags(sets, tmp_path / "two", *arguments)))
    assert code == 0, err
    assert "is finished and left as it is" in out
