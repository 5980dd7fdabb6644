"""Runs are killed, signalled, damaged and starved, and must lose nothing.

    pytest -m faults tests/faults/test_survive.py -s      # prints the figures

Every run is compared with one that nothing happened to: each line of metrics.jsonl and
samples.jsonl but for the seconds, memorization.json, best_model.pth to the byte, and all that
last.pth holds.
"""

import json
import os
import random
import shutil
import signal
import tempfile
import time
from pathlib import Path

import pytest

if os.name == "nt":
    pytest.skip("needs fork and POSIX signals", allow_module_level=True)

import train_minigpt_4070 as t
from data.generate import build_tokenizer
from data.tasks import TASKS, draw_example, standard_tasks
from runtime import run_folder
from tests.faults.victims import Victims, fingerprint

pytestmark = pytest.mark.faults

FLAGS = """
  --d_model 16 --n_layers 1 --n_heads 2 --batch_size 2 --accumulation_steps 2 --lr 3e-4
  --warmup_steps 2 --device cpu --amp fp32 --epochs 6 --patience 0 --dropout 0.2 --seeds 4-6
  --task_curriculum --save_every_steps 3 --save_every 2
"""
CHECKPOINTS = ("last.pth", "previous.pth", "best_model.pth")


def draw_rows(n, rng):
    return [draw_example(rng, standard_tasks()[i % 5]) for i in range(n)]


@pytest.fixture(scope="module")
def world():
    """Data, and the fingerprint and seconds of a run that nothing happened to, open to any user."""
    with tempfile.TemporaryDirectory() as name, Victims() as victims:
        world, rng = Path(name), random.Random(0)
        world.chmod(0o777)
        for name, n in (("train", 60), ("val", 20)):
            (world / f"{name}.txt").write_text("\n".join(draw_rows(n, rng)) + "\n")
        (world / "tokenizer.json").write_text(json.dumps(build_tokenizer(TASKS)))
        assert victims.run(command(world, "whole"), world / "whole.log") == 0
        started = time.perf_counter()  # without the server's own start
        assert victims.run(command(world, "again"), world / "whole.log") == 0
        assert fingerprint(world / "again") == fingerprint(world / "whole")
        seconds = time.perf_counter() - started
        yield world, victims, fingerprint(world / "whole"), seconds


def command(world, out, *flags):
    paths = ["--data", world / "train.txt", "--val_data", world / "val.txt"]
    paths += ["--tokenizer", world / "tokenizer.json", "--out_dir", world / out]
    return [*paths, *FLAGS.split(), *flags]


def n_unloadable(run):
    """Checkpoints under their own name that cannot be read."""
    bad = 0
    for path in run.rglob("*.pth"):
        if path.name in CHECKPOINTS:
            try:
                t.read_checkpoint(path)
            except t.UserError as error:
                print(error)
                bad += 1
    return bad


def end_run(world, out):
    """Resume until the run is done, compare it with the undisturbed one, and remove it.

    Returns how many of its parts differ.
    """
    folder, victims, whole, _ = world
    assert victims.run(command(folder, out, "--resume"), folder / f"{out}.log") == 0
    found = fingerprint(folder / out)
    different = sorted(k for k in whole.keys() | found.keys() if whole.get(k) != found.get(k))
    if different:
        print(out, different, (folder / f"{out}.log").read_text())
    shutil.rmtree(folder / out)
    return len(different)


def test_50_kills_change_nothing(world):
    """`kill -9`, several times a run: at random moments, and inside the writing of a
    checkpoint. What survives a kill loads, and the run ends as one that was never killed.
    """
    folder, victims, _, seconds = world
    rng = random.Random(1)
    planned = ["moment"] * 28 + ["torn", "written", "renamed"] * 9
    rng.shuffle(planned)
    kills = {"moment": 0, "torn": 0, "written": 0, "renamed": 0}
    runs = differences = unloadable = 0
    while sum(kills.values()) < 50 or sum(kills.values()) - kills["moment"] < 20:
        runs += 1
        out = f"killed{runs}"
        for _ in range(rng.randint(2, 5)):
            how = planned.pop() if planned else rng.choice(list(kills))
            job = {"after": rng.uniform(0, 0.6) * seconds}
            if how != "moment":
                job = {"die_at": (rng.randint(1, 24), how)}
            code = victims.run(command(folder, out, "--resume"), folder / f"{out}.log", **job)
            assert code in (0, -signal.SIGKILL), (folder / f"{out}.log").read_text()
            kills[how] += code != 0
            unloadable += n_unloadable(folder / out)
        differences += end_run(world, out)
    inside = sum(kills.values()) - kills["moment"]
    print(
        f"\n{sum(kills.values())} kills over {runs} runs, {inside} of them inside the writing of a "
        f"checkpoint {kills}: {differences} differences, {unloadable} unloadable checkpoints"
    )
    assert inside >= 20
    assert (differences, unloadable) == (0, 0)


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGUSR1"])
def test_20_signals_change_nothing(world, name):
    folder, victims, _, seconds = world
    rng, number = random.Random(name), getattr(signal, name)
    signals = runs = differences = 0
    waits = []
    while signals < 20:
        runs += 1
        assert runs < 60, f"only {signals} of 60 runs' signals came before their end"
        out = f"{name}{runs}"
        for _ in range(rng.randint(2, 4)):
            log, after = folder / f"{out}.log", rng.uniform(0.1, 0.6) * seconds
            log.write_text("")
            started = time.perf_counter()
            code = victims.run(command(folder, out, "--resume"), log, after, number)
            if code == 0:
                break
            waits.append(time.perf_counter() - started - after)
            said = log.read_text().splitlines()[-1]
            assert code == 128 + number, (code, said)
            assert said.startswith(f"stopped: {name} came ")
            assert said.endswith("--resume")
            signals += 1
        differences += end_run(world, out)
    print(
        f"\n{signals} x {name} over {runs} runs: exit code {128 + number} each, {differences} "
        f"differences; from the signal to the exit {max(waits):.2f} s at most"
    )
    assert differences == 0


def test_every_truncation_and_1000_bit_flips_are_detected(world):
    folder, rng = world[0], random.Random(2)
    for name in ("last.pth", "best_model.pth"):
        whole = (folder / "whole/seed_5" / name).read_bytes()
        path = folder / "damaged.pth"
        cases = [whole[: len(whole) * percent // 100] for percent in range(100)]
        cases += [whole[:-1], whole[: -run_folder.HASH_BYTES], whole + b"\0"]
        n_cut = len(cases)
        for bit in rng.sample(range(8 * len(whole)), 1000):
            flipped = bytearray(whole)
            flipped[bit // 8] ^= 1 << bit % 8
            cases.append(bytes(flipped))
        detected = 0
        for case in cases:
            path.write_bytes(case)
            try:
                t.read_checkpoint(path)
            except t.UserError as error:
                detected += str(path) in str(error)
        path.write_bytes(whole)
        t.read_checkpoint(path)
        print(
            f"\n{name}, {len(whole):,} bytes: {detected} of {len(cases)} damages detected "
            f"({n_cut} lengths, 1000 bit flips)"
        )
        assert detected == len(cases)


def test_damaged_last_checkpoint_is_named_and_the_run_ends_the_same(world):
    folder, victims, _, seconds = world
    rng, differences = random.Random(3), 0
    for n in range(10):
        out, log = f"damaged{n}", folder / f"damaged{n}.log"
        after = rng.uniform(0.4, 0.7) * seconds
        assert victims.run(command(folder, out), log, after, signal.SIGTERM) == 143
        path = folder / out / f"seed_{rng.choice((4, 5, 6))}/last.pth"
        data = bytearray(path.read_bytes())
        if n % 2:
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        else:
            del data[rng.randrange(len(data)) :]
        path.write_bytes(data)
        with open(path.with_name("metrics.jsonl"), "a") as file:
            file.write('{"epoch": 2, "step": 7, "torn')
        log.write_text("")
        differences += end_run(world, out)
        assert f"note: {path} is no checkpoint of this program, or damaged" in log.read_text()
    print(f"\n10 runs resumed from previous.pth: {differences} differences")
    assert differences == 0


def protected(run):
    return {p: p.read_bytes() for p in run.rglob("*.pth") if p.name in ("last.pth", "previous.pth")}


def read_only(run):
    for path in (*run.rglob("*"), run):
        path.chmod(0o555 if path.is_dir() else 0o444)


def writable(run):
    for path in (run, *run.rglob("*")):
        path.chmod(0o777 if path.is_dir() else 0o666)


def test_failing_writes_keep_what_was_saved(world):
    """A limit on file sizes, in the place of a full disk; a read-only folder; a folder where a
    file should be.
    """
    folder, victims, *_ = world
    rng, differences, stopped = random.Random(4), 0, 0
    size = (folder / "whole/seed_4/last.pth").stat().st_size

    def refused(out, **job):
        """Resume and be refused: exit code 5, one sentence, the checkpoints as they were."""
        log = folder / f"{out}.log"
        log.write_text("")
        before = protected(folder / out)
        assert victims.run(command(folder, out, "--resume"), log, **job) == 5, log.read_text()
        error = [line for line in log.read_text().splitlines() if line.startswith("stopped: ")]
        assert len(error) == 1, log.read_text()
        assert f"cannot read or write in {folder / out}" in error[0]
        assert log.read_text().endswith(error[0] + "\n")
        assert "Traceback" not in log.read_text()
        assert protected(folder / out) == before
        return 1

    for n in range(12):
        out, die_at = (
            f"starved{n}",
            (1 + 3 * rng.randint(1, 10), "written"),
        )  # all seeds at one step
        run = folder / out
        log = folder / f"{out}.log"
        assert victims.run(command(folder, out), log, die_at=die_at) == -signal.SIGKILL
        if n < 6:
            # The limit holds for the log too, which has some 6 kB.
            stopped += refused(out, max_file_bytes=rng.randint(2**14, size - 1))
        elif n < 8:
            writable(run)
            read_only(run)
            stopped += refused(out, uid=65534 if os.getuid() == 0 else None)
            writable(run)
        elif n < 10:
            (run / "seed_4/next.pth").unlink(missing_ok=True)
            (run / "seed_4/next.pth").mkdir()
            stopped += refused(out)
            (run / "seed_4/next.pth").rmdir()
        else:
            (run / "seed_5/metrics.jsonl").rename(run / "aside")
            (run / "seed_5/metrics.jsonl").mkdir()
            stopped += refused(out)
            (run / "seed_5/metrics.jsonl").rmdir()
            (run / "aside").rename(run / "seed_5/metrics.jsonl")
        differences += end_run(world, out)
    print(f"\n{stopped} runs that could not write: exit code 5 each, {differences} differences")
    assert differences == 0


def test_a_run_folder_that_vanishes_is_told_and_not_made_again(world):
    folder, victims, _, seconds = world
    code, n = 0, 0
    while code == 0:  # the folder may go just when the run ends
        n += 1
        out, log = f"gone{n}", folder / f"gone{n}.log"
        victims.server.stdin.write(
            json.dumps({"argv": list(map(str, command(folder, out))), "log": str(log)}) + "\n"
        )
        victims.server.stdin.flush()
        victims.server.stdout.readline()
        time.sleep(seconds / 2)
        (folder / out).rename(folder / f"{out}.elsewhere")
        victims.server.stdin.write("\n")
        victims.server.stdin.flush()
        code = int(victims.server.stdout.readline())
    assert code == 5, log.read_text()
    assert not (folder / out).exists()
    (folder / f"{out}.elsewhere").rename(folder / out)
    assert end_run(world, out) == 0
    print("\na run whose folder was moved away: exit code 5; moved back and resumed: 0 differences")


def test_lock_goes_with_its_process(world):
    """A second process is refused with code 4 while the first lives, and not after `kill -9`."""
    folder, victims, _, seconds = world
    with Victims() as others:
        log = folder / "locked.log"
        for n in range(5):
            out = f"locked{n}"
            others.server.stdin.write(
                json.dumps({"argv": list(map(str, command(folder, out))), "log": str(log)}) + "\n"
            )
            others.server.stdin.flush()
            pid = int(others.server.stdout.readline())
            time.sleep(seconds / 3)
            for flags in (["--resume"], ["--overwrite"], []):
                assert victims.run(command(folder, out, *flags), log) == 4
            os.kill(pid, signal.SIGKILL)
            others.server.stdin.write("\n")
            others.server.stdin.flush()
            assert int(others.server.stdout.readline()) == -signal.SIGKILL
            assert end_run(world, out) == 0
    print("\n15 second processes refused with code 4 in 5 runs; after kill -9 none was")
