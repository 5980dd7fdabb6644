"""What every command line does alike: exit codes, one line a failure, folders tried before work."""

import re
from pathlib import Path


def seed_folder(folder, seed, seeds):
    """A run of one seed is the folder itself; of several, each has its own in it."""
    return folder if len(seeds) == 1 else folder / f"seed_{seed}"


def seed_folders(folder):
    """The folders `seed_<s>` in that of a run of several seeds, ascending in s; [] of one seed."""
    found = [p for p in Path(folder).glob("seed_*") if re.fullmatch("seed_[0-9]+", p.name)]
    return sorted(found, key=lambda p: int(p.name[5:]))
