"""Which files a command means: standard sets from any working directory, and what stands beside."""

from pathlib import Path

from data.generate import PARTS, make_missing
from runtime.errors import UserError
from runtime.files import ROOT


def standard_path(path: str | Path, root: Path = ROOT) -> Path:
    """`path`, or the standard file or folder that it names where the working directory lacks it.

    A standard set is named from the folder of the scripts: `data/add_only/train.pkl` is found from
    any working directory. What the working directory has wins.
    """
    path = Path(path)
    if path.is_absolute() or path.exists():
        return path
    standard = {Path(folder) / name for folder, _, names in PARTS.values() for name in ("", *names)}
    return Path(root) / path if path in standard else path


def require_file(path: str | Path, what: str) -> Path:
    """Where the file `path` is; a standard one that is missing is made. UserError if it is none."""
    path = standard_path(path)
    if make_missing(path):
        print(f"made the standard data in {path.parent}", flush=True)
    if path.is_dir():
        raise UserError(f"{what} {path} is a folder; give the path of a file in it")
    if not path.is_file():
        raise UserError(f"{what} {path} does not exist; give the path of an existing file")
    return path
