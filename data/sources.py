"""Which files a command means: standard sets from any working directory, and what stands beside."""

from dataclasses import dataclass
from pathlib import Path

from data.generate import PARTS, make_missing
from data.readers import KINDS, kind_of
from runtime.errors import UserError
from runtime.files import ROOT

STANDARD_SUMS = "data/add_only/train.pkl"


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


def make_standard(path: Path) -> None:
    """Make a standard file that is missing, and say so."""
    if make_missing(path):
        print(f"made the standard data in {path.parent}", flush=True)


def require_file(path: str | Path, what: str) -> Path:
    """Where the file `path` is; a standard one that is missing is made. UserError if it is none."""
    path = standard_path(path)
    make_standard(path)
    if path.is_dir():
        raise UserError(f"{what} {path} is a folder; give the path of a file in it")
    if path.exists() and not path.is_file():  # `<(zcat …)` of a shell: it can be read only once
        raise UserError(
            f"{what} {path} is a pipe or a device; write it to a file, and give its path"
        )
    if not path.is_file():
        raise UserError(f"{what} {path} does not exist; give the path of an existing file")
    return path


@dataclass(frozen=True)
class Sources:
    """The files of a run."""

    train: Path
    val: Path | None  # None: a tenth of the training set is held out
    tokenizer: Path | None  # None: one is made of the characters of the data

    @property
    def data(self) -> list[Path]:
        """The training set, and the validation set where it has a file of its own."""
        return [path for path in (self.train, self.val) if path]


def find_sources(train, val=None, tokenizer=None) -> Sources:
    """The files that are named, and for those that are not what stands beside the training set."""
    train = require_file(train, "the training set")
    return Sources(
        train,
        require_file(val, "the validation set") if val else find_val(train),
        require_file(tokenizer, "the tokenizer")
        if tokenizer
        else find_beside(train, "tokenizer.json"),
    )


def find_beside(train: Path, name: str) -> Path | None:
    """The file of that name in the folder of the training set; a standard one is made."""
    path = train.with_name(name)
    make_standard(path)
    return path if path.is_file() and path != train else None


def find_val(train: Path) -> Path | None:
    """The validation set `val.*` beside the training set, None where there is none."""
    make_standard(train.with_name("val.pkl"))
    beside = [p for p in sorted(train.parent.glob("val.*")) if p.stem == "val" and p.is_file()]
    kinds = list(dict.fromkeys((kind_of(train), *KINDS)))
    found = [path for path in beside if kind_of(path) in kinds and path != train]
    found.sort(key=lambda path: kinds.index(kind_of(path)))
    if len(found) > 1 and kind_of(found[0]) != kind_of(train):
        raise UserError(
            f"{train} has {' and '.join(path.name for path in found)} beside it; say by --val_data "
            "which is the validation set"
        )
    return found[0] if found else None


def default_out_dir(train) -> str:
    """The run folder where none is named: for the standard sums step1_add_only."""
    is_sums = standard_path(train).resolve() == (ROOT / STANDARD_SUMS).resolve()
    return str(Path("runs") / ("step1_add_only" if is_sums else Path(train).stem))
