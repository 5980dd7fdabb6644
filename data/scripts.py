"""What every command line does alike: exit codes, one line a failure, folders tried before work."""

import contextlib
import re
import tempfile
from pathlib import Path

from runtime.errors import UserError


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
