"""Training processes to do damage to, each started in milliseconds.

Importing torch takes seconds, so one server process imports it, never trains itself, and forks a
child for each command line (POSIX only). A child can be told to kill itself inside the writing of a
checkpoint, to run under a file-size limit, or without root's right to write anywhere.
"""

import hashlib
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch
import torch._dynamo  # the first optimizer imports it, which would cost each child 2 s

import plots
import train_minigpt_4070 as trainer

ROOT = Path(__file__).resolve().parents[2]


class Victims:
    """Starts children one after the other: `with Victims() as victims: victims.run(argv, log)`."""

    def __enter__(self):
        command = [sys.executable, "-m", "tests.faults.victims"]
        pipe, env = subprocess.PIPE, {**os.environ, "OMP_NUM_THREADS": "1"}
        self.server = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, text=True, cwd=ROOT, env=env
        )
        return self

    def __exit__(self, *_):
        self.server.stdin.close()
        self.server.wait()
        self.server.stdout.close()

    def run(self, argv, log, after=None, number=signal.SIGKILL, **job):
        """Run the trainer, send it the signal `number` after so many seconds, and return its exit
        code: that of the process, or minus the signal it died of. Output is appended to `log`.
        """
        job |= {"argv": [str(arg) for arg in argv], "log": str(log)}
        self.server.stdin.write(json.dumps(job) + "\n")
        self.server.stdin.flush()
        pid = int(self.server.stdout.readline())
        if after is not None:
            time.sleep(after)
            os.kill(pid, number)  # the server has not waited for it yet: no other has this id
        self.server.stdin.write("\n")
        self.server.stdin.flush()
        return int(self.server.stdout.readline())


def fingerprint(folder):
    """All of a run that has to be the same to the last bit, {what: text or digest}."""
    parts = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.name == "memorization.json":
            parts[name] = path.read_text()
        elif path.suffix == ".jsonl":
            lines = [json.loads(line) for line in path.read_text().splitlines()]
            parts[name] = [{k: v for k, v in line.items() if k != "seconds"} for line in lines]
        elif path.name == "best_model.pth":
            parts[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        elif path.name == "last.pth":
            content = torch.load(path, weights_only=True)
            del content["seconds"]
            parts[name] = digest(content)
    return parts


def digest(value):
    """SHA-256 of nested containers of tensors, numbers and texts."""
    if isinstance(value, dict):
        return {str(key): digest(item) for key, item in value.items()}
    if isinstance(value, torch.Tensor):
        data = value.contiguous().numpy().tobytes()
        return hashlib.sha256(f"{value.dtype} {value.shape} ".encode() + data).hexdigest()
    return repr(value)


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def die_while_saving(nth, how):
    """Die at the `nth` training checkpoint: "torn", with a part of its file written; "written",
    before that has its name; or "renamed", between last.pth's new name and the new last.pth.
    """
    fsync, replace, seen = os.fsync, os.replace, {"torn": 0, "written": 0, "renamed": 0}

    def counted(kind):
        seen[kind] += 1
        return kind == how and seen[kind] == nth

    def fsync_or_die(fd):
        if "next.pth" in os.readlink(f"/proc/self/fd/{fd}") and counted("torn"):
            os.ftruncate(fd, random.randrange(os.fstat(fd).st_size))
            die()
        fsync(fd)

    def replace_or_die(source, target):
        names = Path(source).name, Path(target).name
        if names[1] == "next.pth" and counted("written"):
            die()
        if names == ("next.pth", "last.pth") and counted("renamed"):
            die()
        replace(source, target)

    os.fsync, os.replace = fsync_or_die, replace_or_die


def serve():
    """For each line of JSON: fork, print the child's id, and after another line its exit code."""
    torch.set_num_threads(1)
    plots.write_figures = lambda *args, **kwargs: []
    trainer.AT_ONCE = 0.0  # accumulated batches run in pieces
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            os._exit(be_victim(**json.loads(line)))
        print(pid, flush=True)
        sys.stdin.readline()
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


def be_victim(argv, log, die_at=None, max_file_bytes=None, uid=None):
    log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's `&` has it ignored
    if die_at:
        die_while_saving(*die_at)
    if max_file_bytes:
        resource.setrlimit(resource.RLIMIT_FSIZE, (max_file_bytes, max_file_bytes))
    if uid:  # root may write anywhere; another user may not import what is still to be imported
        claim_folders = trainer.claim_folders

        def claim_as_user(*args, **how):
            os.setuid(uid)
            return claim_folders(*args, **how)

        trainer.claim_folders = claim_as_user
    code = trainer.main(argv)
    sys.stdout.flush()
    sys.stderr.flush()
    return code


if __name__ == "__main__":
    serve()
