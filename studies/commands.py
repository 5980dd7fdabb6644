"""Runs the project's own commands for a study, and says how long they took and where."""

import json
import os
import platform
import shlex
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from runtime.errors import EXIT_CODES, Halt, UserError
from runtime.files import ROOT

STOPPED = {128 + number for number in (1, 2, 10, 15)}  # by a signal, and saved


@dataclass(frozen=True)
class Workshop:
    """A folder for the runs of one part of a study. Everything in it may be made again."""

    folder: Path

    def call(self, script: str, *flags) -> None:
        """Run one of the project's scripts; its output goes to commands.log in the folder.

        UserError where it fails. A signal to the study stops the command, which saves, and one to
        the command stops the study: both go on where they were when they are given again.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        words = [script, *map(str, flags)]
        print("$ python", shlex.join(words), flush=True)
        log, start = self.folder / "commands.log", clocks()
        try:
            with open(log, "a") as out:
                print("$ python", shlex.join(words), file=out, flush=True)
                command = [sys.executable, str(ROOT / script), *words[1:]]
                code, received = run_to_end(command, out)
        finally:
            took = {name: round(now - start[name], 1) for name, now in clocks().items()}
            with open(self.folder / "durations.jsonl", "a") as out:
                out.write(json.dumps({"command": shlex.join(words), **took}) + "\n")
        if received or code in STOPPED or code < 0:
            number = received or (-code if code < 0 else code - 128)
            raise Halt(128 + number, "give the same command again to go on")
        if code:
            last = (log.read_text(errors="replace").strip().splitlines() or [""])[-1]
            raise UserError(
                f"python {shlex.join(words)} ended with exit code {code} "
                f"({EXIT_CODES.get(code, 'unknown')}): {last}; all it printed is in {log}"
            )

    def seconds(self, clock: str = "seconds") -> float:
        """How long the commands of this folder took, interrupted ones too, by one of the clocks."""
        path = self.folder / "durations.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return round(sum(json.loads(line)[clock] for line in lines), 1)


def clocks() -> dict[str, float]:
    """Seconds on the wall, and processor seconds of the commands that have ended."""
    times = os.times()
    return {
        "seconds": time.monotonic(),
        "cpu_seconds": times.children_user + times.children_system,
    }


def run_to_end(command: list[str], out) -> tuple[int, int | None]:
    """Run a command; return (its exit code, the signal that came meanwhile or None).

    `subprocess.run` kills the command on Ctrl-C before it can save, and a study that dies of
    another signal leaves it running. So each signal is passed on as SIGTERM, and the end awaited.
    """
    received, running, before = [], [], {}

    def pass_on(number, frame):
        received.append(number)
        for process in running:
            process.terminate()

    if threading.current_thread() is threading.main_thread():
        for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1"):
            number = getattr(signal, name, None)  # Windows lacks some
            if number and signal.getsignal(number) not in (signal.SIG_IGN, None):
                before[number] = signal.signal(number, pass_on)
    try:
        running.append(subprocess.Popen(command, stdout=out, stderr=out))
        if received:  # before there was a process to pass it on to
            running[0].terminate()
        return running[0].wait(), received[0] if received else None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def read_json(path: Path) -> dict:
    return json.loads(path.read_text())


def processor() -> str:
    """The processor's name, as the system tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def made_by(file: Path) -> dict:
    """What a run's config.json, or a capacity.json, says of its making: device, threads, commit,
    version of torch.
    """
    config = read_json(file)
    return {
        "device": processor() if config["device"] == "cpu" else config["device"],
        "threads": config["threads"],
        "commit": config["git_commit"],
        "torch": config["versions"]["torch"],
    }
