"""Signals: the run saves, ends and can be resumed."""

import contextlib
import os
import shlex
import signal
import sys
import threading

import pytest
import torch

import train_minigpt_4070 as t
from trainer.helpers import (
    LONG,
    SCRIPT,
    SIGNALS,
    assert_same_run,
    at_step,
    command,
    go,
    resume,
    words,
)


def test_a_signal_waits_for_the_report_that_is_made_again(world, monkeypatch):
    """Raised inside a library it can come out as another error, as from matplotlib."""
    flags = words("--epochs 1 --seeds 0,1")
    assert go(world, *flags) == 0
    reports = [world / f"run/seed_{seed}/memorization.json" for seed in (0, 1)]
    for report in reports:
        report.unlink()
    real = t.memorization_report

    def interrupted(*args, **kwargs):
        signal.raise_signal(signal.SIGTERM)
        return real(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(t, "memorization_report", interrupted)
        assert resume(world, *flags) == 128 + signal.SIGTERM
    assert [report.exists() for report in reports] == [True, False]
    assert resume(world, *flags) == 0
    assert all(report.exists() for report in reports)


@pytest.mark.skipif(os.name == "nt", reason="os.kill ends the process on Windows")
@pytest.mark.parametrize(("name", "step"), list(zip(SIGNALS, (4, 8, 19, 5), strict=False)))
def test_signal_saves_at_the_next_step(uninterrupted, world, monkeypatch, capsys, name, step):
    """Inside an epoch (4, 19), and in the last step of one (8, the 9th: its validation is made)."""
    number = getattr(signal, name)
    handlers = [signal.getsignal(getattr(signal, other)) for other in SIGNALS]
    with monkeypatch.context() as patch:
        at_step(patch, step, lambda: os.kill(os.getpid(), number))
        assert go(world, *LONG) == 128 + number
    assert [signal.getsignal(getattr(signal, other)) for other in SIGNALS] == handlers
    error = capsys.readouterr().err
    assert error.startswith(f"stopped: {name} came and the run is saved at step {step + 1}; ")
    assert error.count("\n") == 1
    assert torch.load(world / "run/seed_2/last.pth", weights_only=True)["step"] == step + 1
    *_, script, resumed = error.strip().partition(str(SCRIPT))
    assert script == str(SCRIPT)
    argv = shlex.split(resumed)
    assert argv == [*command(world, *LONG), "--resume"]
    assert t.main(argv) == 0
    assert_same_run(uninterrupted / "run", world / "run", range(3))


def test_ctrl_c_is_answered_at_once(capfd):
    for answers, said in ((True, "\nsaving after this step; again to abort\n"), (False, "")):
        with t.StopSignals(answers) as stop:
            stop.can_wait = True
            signal.raise_signal(signal.SIGINT)
            assert stop.received == signal.SIGINT
        assert capfd.readouterr() == ("", said)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a terminal that can be closed")
def test_a_closed_terminal_saves_the_run(world):
    """The kernel sends SIGHUP, and from then on every line to the terminal is an error."""
    import pty

    argv = [
        sys.executable,
        str(SCRIPT),
        *command(world, "--epochs", "10000", "--save_every", "10000"),
    ]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"}
    child, terminal = pty.fork()
    if not child:
        os.execve(argv[0], argv, env)
    said = b""
    while b"epoch     1/10000" not in said:
        said += os.read(terminal, 1000)
    os.close(terminal)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 129
    assert torch.load(world / "run/last.pth", weights_only=True)["step"] >= 6  # an epoch's


def test_second_ctrl_c_interrupts_at_once():
    with t.StopSignals() as stop:
        stop.can_wait = True
        stop.take(signal.SIGINT, None)
        with pytest.raises(KeyboardInterrupt):
            stop.take(signal.SIGINT, None)
    with t.StopSignals() as stop:
        stop.can_wait = True
        stop.take(signal.SIGTERM, None)
        stop.take(signal.SIGTERM, None)
        with pytest.raises(t.Halt) as halt:
            stop.leave_if_asked("now")
    assert halt.value.code == 128 + signal.SIGTERM


def test_signal_before_training_ends_the_run_at_once():
    with t.StopSignals() as stop, pytest.raises(t.Halt, match="SIGTERM came before") as halt:
        stop.take(signal.SIGTERM, None)
    assert halt.value.code == 128 + signal.SIGTERM


def test_a_signal_is_no_error_of_the_code_it_comes_in():
    with t.StopSignals() as stop, pytest.raises(t.Halt), contextlib.suppress(Exception):
        stop.take(signal.SIGTERM, None)  # the library that catches all gets out of the way


def test_signals_outside_the_main_thread_are_left_alone():
    before, seen = signal.getsignal(signal.SIGINT), []

    def work():
        with t.StopSignals() as stop:
            seen.append((signal.getsignal(signal.SIGINT), stop.received))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(before, None)]


@pytest.mark.skipif(os.name == "nt", reason="os.kill ends the process on Windows")
def test_signal_during_the_report_is_made_up_for(uninterrupted, world, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        original = t.memorization_report

        def signalled(*args):
            os.kill(os.getpid(), signal.SIGTERM)
            return original(*args)

        patch.setattr(t, "memorization_report", signalled)
        assert go(world, *LONG) == 143
    assert (world / "run/seed_0/memorization.json").exists()
    assert not (world / "run/seed_1/memorization.json").exists()
    assert resume(world, *LONG) == 0
    assert "the report and figures it lacks are made" in capsys.readouterr().out
    assert_same_run(uninterrupted / "run", world / "run", range(3))


@pytest.mark.skipif(os.name == "nt", reason="os.kill ends the process on Windows")
def test_signal_to_processes_of_which_one_waits_for_the_others(world, monkeypatch, capsys):
    """The others have saved and gone: who waits for their reports ends as they do, in one line."""
    original, calls = t.gather, []

    def others_go(everybody, value):
        calls.append(value)
        if len(calls) == 1:  # whether the run is over
            return original(everybody, value)
        os.kill(os.getpid(), signal.SIGTERM)
        raise RuntimeError("Connection closed by peer")

    with monkeypatch.context() as patch:
        patch.setattr(t, "gather", others_go)
        assert go(world, "--epochs", "1") == 128 + signal.SIGTERM
    error = capsys.readouterr().err
    assert error.startswith("stopped: SIGTERM came while other processes trained; go on with: ")
    assert error.count("\n") == 1
    assert resume(world, "--epochs", "1") == 0
