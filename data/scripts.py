"""What every command line does alike: exit codes, one line a failure, folders tried before work."""

import argparse
import contextlib
import os
import re
import sys
import tempfile
from pathlib import Path

from runtime.errors import Halt, UserError


def outcome(work):
    """Call work() and return (exit code, what there is to say or "").

    0 done, 2 the user's mistake, 5 a file or disk that would not do, 130 Ctrl-C, 141 stdout was
    closed (`| head` had read enough), or what a Halt says. Any other exception is a bug and keeps
    its traceback.
    """
    try:
        work()
    except SystemExit as done:  # argparse: --help, or a mistake in a flag
        return done.code or 0, ""
    except UserError as error:
        return 2, f"error: {error}"
    except Halt as halt:
        return halt.code, f"stopped: {halt}"
    except BrokenPipeError:
        return 141, ""
    except OSError as error:
        return 5, f"error: {error.filename or 'output'}: {error.strerror or error}"
    except KeyboardInterrupt:
        return 130, "\nstopped: interrupted"
    return 0, ""


def leave(code, said):
    """Say `said` on stderr, after all of stdout is out, and return the exit code."""
    try:
        sys.stdout.flush()
    except OSError as error:
        # Python flushes once more at exit, and would report it as an exception ignored.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not code:
            code, said = (141, "") if isinstance(error, BrokenPipeError) else (5, f"error: {error}")
    if said:
        print(said, file=sys.stderr)
    return code


def run_main(work):
    """Call work() for a script and return its exit code; a failure is one line on stderr."""
    if hasattr(sys.stdout, "reconfigure"):  # a redirected Windows console lacks many characters
        sys.stdout.reconfigure(errors="replace")
    return leave(*outcome(work))


def check_writable(folder, flag="--out_dir"):
    """Raise UserError unless files can be written into `folder`; one that is missing stays so."""
    made = []
    try:
        made = [path for path in (folder, *folder.parents) if not path.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except (FileExistsError, NotADirectoryError):
        raise UserError(f"{flag} {folder} is a file, or lies in one; give a folder") from None
    except OSError as error:
        raise UserError(
            f"{flag} {folder} cannot be written ({error.strerror}); give another folder"
        ) from None
    finally:
        for path in made:
            with contextlib.suppress(OSError):
                path.rmdir()


def seed_folder(folder, seed, seeds):
    """A run of one seed is the folder itself; of several, each has its own in it."""
    return folder if len(seeds) == 1 else folder / f"seed_{seed}"


def seed_folders(folder):
    """The folders `seed_<s>` in that of a run of several seeds, ascending in s; [] of one seed."""
    found = [p for p in Path(folder).glob("seed_*") if re.fullmatch("seed_[0-9]+", p.name)]
    return sorted(found, key=lambda p: int(p.name[5:]))


def number(kind, low, high):
    """An argparse type: a `kind` in [low, high]."""

    def parse(text):
        value = kind(text)
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text} is not between {low:,} and {high:,}")
        return value

    parse.__name__ = kind.__name__
    return parse


class Parser(argparse.ArgumentParser):
    """Tells a mistake in one sentence; the usage of 45 flags would bury it."""

    def error(self, message):
        raise UserError(f"{message}; --help lists every flag")


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows a default where there is one to show."""

    def _get_help_string(self, action):
        plain = action.default is None or action.default is False
        return action.help if plain else super()._get_help_string(action)
