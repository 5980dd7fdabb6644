"""Run folders: who may write, which run is there, checkpoints that show damage, whole lines."""

import errno
import hashlib
import io
import json
import os
import shutil
import zipfile
from contextlib import ExitStack, contextmanager

import torch
from filelock import FileLock, Timeout

from runtime.device import DTYPES, machine
from runtime.errors import Halt, UserError
from runtime.files import naming, write_atomically
from runtime.records import FREE_ARGUMENTS, seed_folder, seed_folders

RUN_FILES = ("config.json", "metrics.jsonl", "samples.jsonl", "memorization.json")
RUN_FILES += ("ledger.npz", "canaries.jsonl")
CHECKPOINTS = ("best_model.pth", "last.pth", "previous.pth", "next.pth")
BEGUN_FILES = ("metrics.jsonl", "best_model.pth", "last.pth", "previous.pth")
HASH_MARK = b"sha256:"  # a checkpoint is a zip archive whose comment is this and 64 hex digits
HASH_BYTES = len(HASH_MARK) + 64


def holds_run(folder):
    return any((folder / name).exists() for name in (*RUN_FILES, *CHECKPOINTS))


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
            f"{folder} holds a run already; continue it with --resume, replace it with "
            "--overwrite, or give another --out_dir"
        )


def clear_folder(folder):
    """Remove a run's files, and nothing else, from its folder."""
    for name in (*RUN_FILES, *CHECKPOINTS):
        (folder / name).unlink(missing_ok=True)
    for results in ("plots", "ood_results", "tensorboard"):
        shutil.rmtree(folder / results, ignore_errors=True)


def make_folder(folder):
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot make {folder} ({error.strerror}); give another --out_dir"
        ) from None


def claim_folders(folder, seeds, args, held):
    """Make and lock the folder and each seed's; refuse one in use, or clear it for --overwrite."""
    folders = [seed_folder(folder, seed, seeds) for seed in seeds]
    if not args.resume:
        in_use = [f for f in {folder, *folders, *seed_folders(folder)} if holds_run(f)]
        with ExitStack() as others:
            lock_folders([f for f in in_use if (f / ".lock").exists()], others)
            if not args.overwrite:
                refuse_folders(in_use, folder)
            for used in in_use:
                clear_folder(used)
        for used in set(in_use) - {folder, *folders}:
            if [path.name for path in used.iterdir()] in ([], [".lock"]):
                shutil.rmtree(used)
    # The folder first: whoever starts other seeds in it writes the same config.json.
    for f in dict.fromkeys((folder, *folders)):
        make_folder(f)
        lock_folders([f], held)
    if not args.resume:  # another process may have come and gone meanwhile
        refuse_folders([f for f in (folder, *folders) if holds_run(f)], folder)
    for f in folders:
        for torn in f.glob(".*.tmp"):  # what a killed process was writing
            torn.unlink(missing_ok=True)


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
    """Return the config the run in `folder` began with, {} where there is no run yet."""
    path = folder / "config.json"
    folders = [seed_folder(folder, seed, config["seeds"]) for seed in config["seeds"]]
    if not path.is_file():
        if any(holds_run(f) for f in (folder, *folders)):
            raise UserError(
                f"{folder} holds files of a run, but no config.json; restore it, or "
                "start again with --overwrite"
            )
        return {}
    try:
        began = json.loads(path.read_text(encoding="utf-8"))
        derived = began["derived"]
        if derived["precision"] not in DTYPES or "step_bytes" not in derived:
            raise ValueError(derived)
        if not (type(n := derived["micro_batches"]) is int and n > 0):
            raise ValueError(n)
        check_same_run(began, config, folder)
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path} is damaged; start again with --overwrite") from None
    return began


def hashes(files):
    """The SHA-256 of each of a run's data files."""
    return [files[name]["sha256"] for name in ("train", "val", "tokenizer")]


def check_same_run(old, new, folder):
    """Raise UserError if a resumed run's arguments or data differ from those it began with."""
    for name in ("train", "val", "tokenizer"):
        if old["data"][name]["sha256"] != new["data"][name]["sha256"]:
            raise UserError(
                f"{new['data'][name]['path']} has changed since the run in {folder} began; restore "
                "it, or start again with --overwrite"
            )
    before, now = (
        {**old["arguments"], "seeds": old["seeds"]},
        {**new["arguments"], "seeds": new["seeds"]},
    )
    for name in sorted(set(before) | set(now)):
        if name not in FREE_ARGUMENTS and before.get(name) != now.get(name):
            raise UserError(
                f"the run in {folder} began with --{name} {before.get(name)}, not {now.get(name)}; "
                "resume with the same arguments, or start again with --overwrite"
            )
    was, now = ({**config, **config["versions"]} for config in (old, new))
    for name in (*new["versions"], "processes", *machine(torch.device("cpu"))):
        if name in was and was[name] != now[name]:
            print(
                f"note: the run began with {name} {was[name]}, this is {now[name]}; the last bits "
                "of its results may differ"
            )


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
    """Return the whole ones of last.pth and previous.pth, {path: content}; name the others."""
    whole = {}
    for path in (folder / "last.pth", folder / "previous.pth"):
        if not path.exists():
            continue
        try:
            checkpoint = read(path)
        except UserError as error:
            print(f"note: {error}; the one before it is taken if there is one")
            continue
        if checkpoint.keys() >= {"step", "replica", "optimizer", "optimized"}:
            whole[path] = checkpoint
    return whole


def find_resumable(folders, read):
    """Return one training checkpoint a seed, all of the newest step that every seed has, or [] if
    the run was stopped before it had one of each.

    A run can be killed between two seeds' files, so each keeps its previous one. A seed that had
    finished before that step is returned at its own last one. What is chosen becomes last.pth: the
    next save must not push it out while another seed still stands there.
    """
    found = [training_checkpoints(own, read) for own in folders]
    lacking = [own for own, whole in zip(folders, found, strict=True) if not whole]
    if lacking:
        begun = any(c["step"] > 0 for own in found for c in own.values())
        if begun or any((own / name).exists() for own in lacking for name in BEGUN_FILES):
            raise UserError(
                f"nothing to resume in {lacking[0]}: no training checkpoint is whole there; start "
                "again with --overwrite"
            )
        return []
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
            return [own[paths[0]] for own, paths in zip(found, chosen, strict=True)]
    raise UserError(
        f"{', '.join(map(str, folders))} have no common step; resume with as many processes as the "
        "run began with, or start again with --overwrite"
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
