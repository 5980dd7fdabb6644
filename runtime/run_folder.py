"""Run folders: who may write, which run is there, checkpoints that show damage, whole lines."""

import contextlib
import errno
import hashlib
import io
import json
import os
import shutil
import zipfile
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch
from filelock import FileLock, Timeout

from runtime.device import DTYPES, machine
from runtime.errors import Halt, UserError
from runtime.files import naming, write_atomically
from runtime.records import (
    CHECKPOINTS,
    FREE_ARGUMENTS,
    RUN_FILES,
    holds_run,
    is_run_config,
    seed_folder,
    seed_folders,
)

NO_FORM = {"autoreg_eval", "show_samples", "cuda_graph"}  # switches with a --no- form
BEGUN_FILES = ("metrics.jsonl", "best_model.pth", "last.pth", "previous.pth")
HASH_MARK = b"sha256:"  # a checkpoint is a zip archive whose comment is this and 64 hex digits
HASH_BYTES = len(HASH_MARK) + 64


def lock_folders(folders, held):
    """Lock each folder until the ExitStack `held` closes, or the process dies in whatever way."""
    for folder in folders:
        try:
            held.enter_context(FileLock(folder / ".lock", timeout=0, fallback_to_soft=False))
        except Timeout:
            raise Halt(
                4,
                f"another process is training in {folder}; wait for it, or give another --out_dir",
            ) from None
        except OSError as error:
            if error.errno != errno.ENOSYS:
                raise
            # A lock that is a file alone outlives a killed process, or is taken from a live one.
            raise UserError(
                f"the file system of {folder} has no file locks, which keep two processes from one "
                "run; give an --out_dir on another"
            ) from None


def refuse_folders(in_use, folder):
    if in_use:
        raise UserError(
            f"{folder} holds a run already; continue it with --resume, give another --out_dir, or "
            "replace it with --overwrite"
        )


def refuse_foreign_config(folders):
    """A run would write over a config.json that is somebody else's."""
    for folder in folders:
        path = folder / "config.json"
        if path.exists() and not is_run_config(path):
            raise UserError(f"{path} is not of a run; move it away, or give another --out_dir")


def remove_torn(folder):
    """Remove what a killed process was writing in a run's folder."""
    for name in (*RUN_FILES, *CHECKPOINTS):
        for torn in folder.glob(f".{name}.*.tmp"):
            torn.unlink(missing_ok=True)


def clear_folder(folder, results):
    """Remove a run's files from its folder, and folders that are empty then.

    `results`, {folder's pattern: patterns of files}, says what the scripts write below it. Whatever
    else stands there stays.
    """
    for name in (*RUN_FILES, *CHECKPOINTS):
        (folder / name).unlink(missing_ok=True)
    for below, patterns in results.items():
        for home in filter(Path.is_dir, folder.glob(below)):
            for pattern in patterns:
                for path in home.glob(pattern):
                    path.unlink()
            with contextlib.suppress(OSError):  # it holds something else
                home.rmdir()


def make_folder(folder):
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot make {folder} ({error.strerror}); give another --out_dir"
        ) from None


def claim_folders(folder, seeds, *, resume, overwrite, results, held):
    """Make and lock the folder and each seed's until the ExitStack `held` closes.

    One that holds a run is refused, or cleared for `overwrite` (`results` as in `clear_folder`);
    for `resume` it is left to `find_run`. Nothing is made where something is refused.
    """
    folders = [seed_folder(folder, seed, seeds) for seed in seeds]
    refuse_foreign_config(dict.fromkeys((folder, *folders)))
    if not resume:
        in_use = [f for f in {folder, *folders, *seed_folders(folder)} if holds_run(f)]
        with ExitStack() as others:
            lock_folders([f for f in in_use if (f / ".lock").exists()], others)
            if not overwrite:
                refuse_folders(in_use, folder)
            for used in in_use:
                clear_folder(used, results)
        for used in set(in_use) - {folder, *folders}:
            if [path.name for path in used.iterdir()] in ([], [".lock"]):
                shutil.rmtree(used)
    # The folder first: whoever starts other seeds in it writes the same config.json.
    for f in dict.fromkeys((folder, *folders)):
        make_folder(f)
        lock_folders([f], held)
    if not resume:  # another process may have come and gone meanwhile
        refuse_folders([f for f in (folder, *folders) if holds_run(f)], folder)
    for f in folders:
        remove_torn(f)


@contextmanager
def writing(folder):
    """Inside, nothing but the run folder is written: where that fails, the run ends with code 5."""
    try:
        yield
    except BrokenPipeError:  # standard output's
        raise
    except OSError as error:
        raise Halt(
            5, f"cannot write in {folder} ({error.strerror or error}); what was saved is kept"
        ) from None


def find_run(folder, config):
    """Return the config the run in `folder` began with, {} where there is no run yet, and notes."""
    path = folder / "config.json"
    refuse_foreign_config([folder])
    folders = [seed_folder(folder, seed, config["seeds"]) for seed in config["seeds"]]
    if not path.is_file():
        if any(holds_run(f) for f in (folder, *folders)):
            raise UserError(
                f"{folder} holds files of a run, but no config.json; restore it, give another "
                "--out_dir, or start again with --overwrite"
            )
        return {}, []
    try:
        began = json.loads(path.read_text(encoding="utf-8"))
        derived = began["derived"]
        if derived["precision"] not in DTYPES or "step_bytes" not in derived:
            raise ValueError(derived)
        if not (type(n := derived["micro_batches"]) is int and n > 0):
            raise ValueError(n)
        notes = check_same_run(began, config, folder)
    except (ValueError, KeyError, TypeError):
        raise UserError(
            f"{path} is damaged; restore it, give another --out_dir, or start again with "
            "--overwrite"
        ) from None
    return began, notes


def hashes(files):
    """The SHA-256 of each of a run's data files."""
    return [files[name]["sha256"] for name in ("train", "val", "tokenizer")]


def written(name, value):
    """How a flag that has this value is given in a command, as "with --lr 0.1"."""
    if value is None or (value is False and name not in NO_FORM):
        return f"without --{name}"
    if isinstance(value, bool):
        return f"with --{name}" if value else f"with --no-{name}"
    return f"with --{name} {','.join(map(str, value)) if isinstance(value, list) else value}"


def check_same_run(old, new, folder):
    """Raise UserError if a resumed run's arguments or data differ from those it began with.

    Returns notes on what can change the last bits of its results.
    """
    for name in ("train", "val", "tokenizer"):
        if old["data"][name]["sha256"] != new["data"][name]["sha256"]:
            raise UserError(
                f"{new['data'][name]['path']} has changed since the run in {folder} began; restore "
                "it, give another --out_dir, or start again with --overwrite"
            )
    before, now = (
        {**old["arguments"], "seeds": old["seeds"]},
        {**new["arguments"], "seeds": new["seeds"]},
    )
    for name in sorted(set(before) | set(now)):
        if name not in FREE_ARGUMENTS and before.get(name) != now.get(name):
            raise UserError(
                f"the run in {folder} began {written(name, before.get(name))}, and this command is "
                f"{written(name, now.get(name))}; resume with the same flags, give another "
                "--out_dir, or start again with --overwrite"
            )
    was, now = ({**config, **config["versions"]} for config in (old, new))
    return [
        f"note: the run began with {name} {was[name]}, this is {now[name]}; the last bits of its "
        "results may differ"
        for name in (*new["versions"], "processes", *machine(torch.device("cpu")))
        if name in was and was[name] != now[name]
    ]


def write_checkpoint(path, content):
    """Save `content` with the SHA-256 of the file, as the comment that a zip archive may end in."""
    if not path.parent.is_dir():  # write_atomically would make a vanished run folder again
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path.parent))
    buffer = io.BytesIO()
    torch.save(content, buffer)
    archive = buffer.getvalue()[:-2] + HASH_BYTES.to_bytes(2, "little")  # the comment's length
    digest = hashlib.sha256(archive).hexdigest().encode()
    write_atomically(path, archive + HASH_MARK + digest)


def check_bytes(data):
    """Raise ValueError unless `data` is a checkpoint as it was written, to the last bit.

    One with an empty comment has no hash (an earlier version wrote it, or `torch.save` alone); then
    the sums that the archive keeps of its records must do.
    """
    if data[-22:-18] == b"PK\5\6" and data[-2:] == b"\0\0":
        damaged = zipfile.ZipFile(io.BytesIO(data)).testzip()
    else:
        digest = hashlib.sha256(data[:-HASH_BYTES]).hexdigest().encode()
        damaged = data[-HASH_BYTES:] != HASH_MARK + digest
    if damaged:
        raise ValueError("its bytes do not have the hash they were written with")


def save_last(folder, content):
    """Make `content` the folder's last.pth, and what that was previous.pth.

    Nothing is renamed before all is written: on a full disk both stay as they were.
    """
    write_checkpoint(folder / "next.pth", content)
    if (folder / "last.pth").exists():
        os.replace(folder / "last.pth", folder / "previous.pth")
    os.replace(folder / "next.pth", folder / "last.pth")


def training_checkpoints(folder, read):
    """Return the whole ones of last.pth and previous.pth, {path: content}, and a note on each other
    one.
    """
    whole, notes = {}, []
    for path in (folder / "last.pth", folder / "previous.pth"):
        if not path.exists():
            continue
        try:
            checkpoint = read(path)
        except UserError as error:
            notes.append(f"note: {error}; the one before it is taken if there is one")
            continue
        if checkpoint.keys() >= {"step", "replica", "optimizer", "optimized"}:
            whole[path] = checkpoint
    return whole, notes


def find_resumable(folders, read):
    """Return one training checkpoint a seed, all of the newest step that every seed has, or [] if
    the run was stopped before it had one of each; and notes on those that are damaged.

    A run can be killed between two seeds' files, so each keeps its previous one. A seed that had
    finished before that step is returned at its own last one. What is chosen becomes last.pth: the
    next save must not push it out while another seed still stands there.
    """
    found, notes = zip(*(training_checkpoints(own, read) for own in folders), strict=True)
    notes = [note for some in notes for note in some]
    lacking = [own for own, whole in zip(folders, found, strict=True) if not whole]
    if lacking:
        begun = any(c["step"] > 0 for own in found for c in own.values())
        if begun or any((own / name).exists() for own in lacking for name in BEGUN_FILES):
            raise UserError(
                f"nothing to resume in {lacking[0]}: no training checkpoint is whole there; give "
                "another --out_dir, or start again with --overwrite"
            )
        return [], notes
    for step in sorted({c["step"] for own in found for c in own.values()}, reverse=True):
        chosen = [
            [
                path
                for path, c in own.items()
                if c["step"] == step or (c["replica"]["finished"] and c["step"] < step)
            ]
            for own in found
        ]
        if all(chosen):
            for (path, *_), own in zip(chosen, folders, strict=True):
                if path.name != "last.pth":
                    os.replace(path, own / "last.pth")
            return [own[paths[0]] for own, paths in zip(found, chosen, strict=True)], notes
    raise UserError(
        f"{', '.join(map(str, folders))} have no common step; resume with as many processes as the "
        "run began with, give another --out_dir, or start again with --overwrite"
    )


def append_lines(path, records):
    with naming(path), open(path, "a", encoding="utf-8") as file:
        file.write("".join(json.dumps(record, allow_nan=False) + "\n" for record in records))
        file.flush()
        os.fsync(file.fileno())  # no checkpoint may outlive the lines of its epoch


def cut_lines_after(path, step):
    """Drop the records of later steps, and a torn last line, from a .jsonl file."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except (ValueError, KeyError, TypeError):  # whole JSON may still be no record: `5`
            continue
    write_atomically(path, "".join(kept))
