"""Run folders: who may write, which run is there, checkpoints that show damage, whole lines."""

import contextlib
import errno
import hashlib
import io
import json
import os
import shlex
import shutil
import zipfile
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from filelock import FileLock, Timeout

from runtime.device import DTYPES, machine_facts
from runtime.errors import Halt, UserError
from runtime.files import naming, write_atomically
from runtime.records import (
    CHECKPOINTS,
    CONFIG,
    FREE_ARGUMENTS,
    RUN_FILES,
    holds_run,
    how_runs_differ,
    is_run_config,
    read_json,
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


def in_use_problem(in_use, folder):
    """Why a new run cannot be in `folder`, where the folders `in_use` hold a run; "" for none."""
    if not in_use:
        return ""
    return (
        f"{folder} holds a run already; continue it with --resume, give another --out_dir, or "
        "replace it with --overwrite"
    )


def foreign_config_problem(folders):
    """A run would write over a config.json that is somebody else's; "" where there is none."""
    for folder in folders:
        path = folder / "config.json"
        if path.exists() and not is_run_config(path):
            return f"{path} is not of a run; move it away, or give another --out_dir"
    return ""


def folder_problem(folder, seeds, *, resume, overwrite):
    """Why `claim_folders` would refuse these folders, as far as a look can tell, or ""."""
    folders = [folder, *(seed_folder(folder, seed, seeds) for seed in seeds)]
    above = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not above.is_dir():
        return f"cannot make {folder} ({above} is a file); give another --out_dir"
    in_use = [] if resume or overwrite else folders_in_use(folder, folders)
    return foreign_config_problem(folders) or in_use_problem(in_use, folder)


def folders_in_use(folder, folders):
    """Those that hold a run, of these folders and of any seed's in `folder`."""
    return [used for used in {*folders, *seed_folders(folder)} if holds_run(used)]


def refuse(problem):
    if problem:
        raise UserError(problem)


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
    folders = list(dict.fromkeys((folder, *(seed_folder(folder, seed, seeds) for seed in seeds))))
    refuse(foreign_config_problem(folders))
    if not resume:
        in_use = folders_in_use(folder, folders)
        with ExitStack() as others:
            lock_folders([f for f in in_use if (f / ".lock").exists()], others)
            if not overwrite:
                refuse(in_use_problem(in_use, folder))
            for used in in_use:
                clear_folder(used, results)
        for used in set(in_use) - set(folders):
            if [path.name for path in used.iterdir()] in ([], [".lock"]):
                shutil.rmtree(used)
    # The folder first: whoever starts other seeds in it writes the same config.json.
    for f in folders:
        make_folder(f)
        lock_folders([f], held)
    if not resume:  # another process may have come and gone meanwhile
        refuse(in_use_problem([f for f in folders if holds_run(f)], folder))
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
            5,
            f"cannot read or write in {folder} ({error.strerror or error}); what was saved is kept",
        ) from None


def read_began(folder, seeds):
    """The config of the run in `folder`, which goes on; {} where there is no run yet."""
    path = folder / "config.json"
    refuse(foreign_config_problem([folder]))
    folders = [folder, *(seed_folder(folder, seed, seeds) for seed in seeds)]
    if not path.is_file():
        if any(map(holds_run, folders)):
            raise UserError(
                f"{folder} holds files of a run, but no config.json; restore it, give another "
                "--out_dir, or start again with --overwrite"
            )
        return {}
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        check_config(config)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(
            f"{path} is damaged; restore it, give another --out_dir, or start again with "
            "--overwrite"
        ) from None
    return config


def check_config(config):
    """Raise ValueError, KeyError or TypeError where a config lacks what a resumed run reads."""
    derived, seeds = config["derived"], config["seeds"]
    if derived["precision"] not in DTYPES:
        raise ValueError(derived)
    for number in (derived["micro_batches"], derived["warmup_steps"], config["processes"]):
        if type(number) is not int or number < 0:
            raise ValueError(number)
    if not all(type(seed) is int for seed in seeds) or not set(seeds) >= {*config["side_by_side"]}:
        raise ValueError(seeds)
    if not derived["micro_batches"] or not seeds or not config["side_by_side"]:
        raise ValueError(config)
    hashes(config["data"])
    for name in ("arguments", "versions"):
        if not isinstance(config[name], dict):
            raise ValueError(f"{name} is {config[name]!r}")


@dataclass(frozen=True)
class Work:
    """What a command has to train. `began` is the config of the run that goes on, or {}."""

    began: dict
    seeds: list[int]  # all that the run folder holds then
    training: list[int]  # those that train side by side now
    extended: bool = False  # by more seeds, epochs or patience than the run had

    @property
    def others(self):
        """Seeds that were finished before."""
        return [seed for seed in self.seeds if seed not in self.training]


def decide_work(folder, seeds, arguments, files, ended):
    """The Work of a command whose run goes on: as it began, or where it is finished with more.

    `arguments` and `files` are those of the command. `ended(config, arguments)` returns the seeds
    that train on, and raises UserError where the run is not finished or none does.
    """
    began = read_began(folder, seeds)
    if not began:
        return Work({}, seeds, seeds)
    check_same_data(began, files, folder)
    check_seed_folders(folder, began)
    changed = changed_arguments(began, arguments)
    if not changed and seeds == began["seeds"]:
        return Work(began, seeds, began["side_by_side"])
    more_seeds = set(seeds) > set(began["seeds"])
    if changed and (seeds != began["seeds"] or not {*changed} <= {"epochs", "patience"}):
        name = next((n for n in changed if n not in ("epochs", "patience")), changed[0])
        if name not in began["arguments"]:
            raise UserError(
                f"the run in {folder} was begun by an earlier version of this program, which had "
                f"no --{name}; go on with that version (commit {began.get('git_commit')}), give "
                "another --out_dir, or start again with --overwrite"
            )
        refuse_difference(folder, name, began["arguments"].get(name), arguments.get(name))
    if changed:
        refuse_one_of_several(folder)
        return Work(began, seeds, ended(began, arguments), extended=True)
    if not more_seeds:
        refuse_difference(folder, "seeds", began["seeds"], seeds)
    if len(began["seeds"]) == 1:
        raise UserError(
            f"the run in {folder} is of one seed, whose files stand in the folder itself, so no "
            "other can join it; give another --out_dir"
        )
    if began.get("epochs_before"):
        lengths = " and then ".join(map(str, (*began["epochs_before"], arguments["epochs"])))
        raise UserError(
            f"the run in {folder} was planned for {lengths} epochs, so its learning rate took a "
            "course that new seeds would not take; give another --out_dir"
        )
    ended(began, None)
    new = [seed for seed in seeds if seed not in began["seeds"]]
    return Work(began, [*began["seeds"], *new], new, extended=True)


def refuse_one_of_several(folder):
    """Raise UserError where a run is one seed of another: longer alone it is no seed of that."""
    own = Path(folder).resolve()
    above = own.parent
    if (above / "config.json").exists() and own in seed_folders(above):
        raise UserError(
            f"{folder} is a seed of the run in {above}; give --out_dir {above} to train all of its "
            "seeds on, or copy the folder elsewhere to train this one on"
        )


def check_same_data(began, files, folder):
    """Raise UserError if the data are no longer those that the run began with."""
    for name, flag in {"train": "data", "val": "val_data", "tokenizer": "tokenizer"}.items():
        then, now = began["data"][name], files[name]
        if then["sha256"] == now["sha256"]:
            continue
        path = then.get("path", now["path"])
        if path == now["path"]:
            what, do = f"{now['path']} has changed since the run in {folder} began", "restore it"
        elif "held_out_rows" in then:
            what = f"the run in {folder} validates on held-out rows, not on {now['path']}"
            do = "leave --val_data out, or move a val.* beside the training set away"
        else:
            what = f"the run in {folder} began with {path}, not with {now['path']}"
            do = f"give --{flag} {shlex.quote(path)}"
        raise UserError(f"{what}; {do}, or use another --out_dir or --overwrite")


def check_seed_folders(folder, config):
    """Raise UserError unless all seed folders below a run's folder are seeds of that run.

    The run may have been killed as it was extended, between its config.json and theirs: then theirs
    still have the arguments before.
    """
    before = {**config, "arguments": config.get("arguments_before", config["arguments"])}
    for home in seed_folders(folder):
        own = read_json(home / "config.json", CONFIG)
        seed = int(home.name[5:])
        difference = how_runs_differ(own, config)
        if difference and not how_runs_differ(own, before):
            difference = ""
        if seed not in config["seeds"] or own.get("seed", seed) != seed:
            difference = "its seed"
        if difference:
            raise UserError(
                f"{home} differs from the run in {folder} in {difference}, so it is no seed of "
                "that; move it away, or give another --out_dir"
            )


def written(name, value):
    """How a flag that has this value is given in a command, as "with --lr 0.1"."""
    if value is None or (value is False and name not in NO_FORM):
        return f"without --{name}"
    if isinstance(value, bool):
        return f"with --{name}" if value else f"with --no-{name}"
    return f"with --{name} {','.join(map(str, value)) if isinstance(value, list) else value}"


def changed_arguments(began, arguments):
    """The names of the arguments that differ and change the numbers of a run."""
    before = began["arguments"]
    names = (before.keys() | arguments.keys()) - FREE_ARGUMENTS - {"seed", "seeds"}
    return sorted(name for name in names if before.get(name) != arguments.get(name))


def refuse_difference(folder, name, before, now):
    raise UserError(
        f"the run in {folder} began {written(name, before)}, and this command is "
        f"{written(name, now)}; resume with the same flags, give another --out_dir, or start "
        "again with --overwrite"
    )


def notes_on_machine(old, new):
    """Notes on what differs between two configs and can change the last bits of results."""
    was, now = ({**config, **config["versions"]} for config in (old, new))
    return [
        f"note: the run began with {name} {was[name]}, this is {now[name]}; the last bits of its "
        "results may differ"
        for name in (*new["versions"], "processes", *machine_facts(torch.device("cpu")))
        if name in was and was[name] != now[name]
    ]


def hashes(files):
    """The SHA-256 of each of a run's data files."""
    return [files[name]["sha256"] for name in ("train", "val", "tokenizer")]


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
    """Return {path: content} of the undamaged ones of last.pth and previous.pth, and a note on each
    damaged one.
    """
    whole, notes = {}, []
    for path in (folder / "last.pth", folder / "previous.pth"):
        if not path.exists():
            continue
        try:
            checkpoint = read(path)
        except UserError as error:
            notes.append(str(error))
            continue
        whole[path] = checkpoint
    return whole, notes


def find_resumable(folders, read):
    """Return one training checkpoint a seed, all of the newest step that every seed has, or [] if
    the run was stopped before it had one of each; and notes on those that are damaged.

    A run can be killed between two seeds' files, so each keeps its previous one. A seed that had
    finished before that step is returned at its own last one. What is chosen becomes last.pth: the
    next save must not push it out while another seed still stands there.
    """
    found, problems = zip(*(training_checkpoints(own, read) for own in folders), strict=True)
    notes = [
        f"note: {problem}; the one before it is taken if there is one"
        for some in problems
        for problem in some
    ]
    lacking = [own for own, whole in zip(folders, found, strict=True) if not whole]
    if lacking:
        begun = any(c["step"] > 0 for own in found for c in own.values())
        if begun or any((own / name).exists() for own in lacking for name in BEGUN_FILES):
            why = "; ".join(problems[folders.index(lacking[0])])
            raise UserError(
                f"nothing to resume in {lacking[0]}: "
                f"{why or 'no training checkpoint is whole there'}; give another --out_dir, or "
                "start again with --overwrite"
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
