"""The ledger: what each replica of a panel knew of every example, at a few epochs of its training.

One file a seed, `ledger.npz`, holds for each kept epoch the bits of the whole answer, -log2 of its
probability, and whether greedy decoding gives it. Everything that is said of memorization is a
function of these arrays, of the membership beside them, and of nothing else.
"""

import io
import tokenize
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from runtime.errors import UserError
from runtime.files import read_bytes, write_atomically

LEDGER_FILE, CANARIES_FILE = "ledger.npz", "canaries.jsonl"
FORMAT = 2
OLDER = 1  # without `last_steps`
MAX_BYTES = 2**30  # of one seed's file, and of the arrays in it
FIXED = ("format", "seed", "share", "n_train", "n_canaries", "keys", "members", "canary_counts")
# What zipfile and numpy raise for damaged bytes. RuntimeError: an archive that is encrypted, or
# (NotImplementedError) packed in an unknown way. TokenError: a header is no Python literal.
DAMAGE = (
    ValueError,
    KeyError,
    TypeError,
    OSError,
    EOFError,
    RuntimeError,
    zipfile.BadZipFile,
    zlib.error,
    tokenize.TokenError,
)
SERIES = ("epochs", "steps", "bits", "exact")


@dataclass
class Ledger:
    """The ledger of one seed: E kept epochs of N examples, in this order: the distinct training
    examples by ascending key, the canaries, and the held-out examples by ascending key.
    """

    seed: int
    share: float  # of the distinct examples that each seed trains on
    n_train: int
    n_canaries: int
    keys: np.ndarray  # int64 [N]
    members: np.ndarray  # bool [n_train]: this seed trains on the example
    canary_counts: np.ndarray  # int64 [n_canaries]: rows of the canary in this seed's training
    # int32 [n_train + n_canaries]: the step of the last kept epoch at which this seed trained on
    # the example for the last time; 0 where it did not, or where that was not written down.
    last_steps: np.ndarray
    epochs: np.ndarray  # int64 [E], ascending
    steps: np.ndarray  # int64 [E]
    bits: np.ndarray  # float16 [E, N]: -log2 probability of answer and <eos>, summed over tokens
    exact: np.ndarray  # bool [E, N]

    @classmethod
    def empty(cls, seed, share, keys, members, canary_counts):
        return cls(
            seed=seed,
            share=share,
            n_train=len(members),
            n_canaries=len(canary_counts),
            keys=keys,
            members=members,
            canary_counts=canary_counts,
            last_steps=np.zeros(len(members) + len(canary_counts), np.int32),
            epochs=np.empty(0, np.int64),
            steps=np.empty(0, np.int64),
            bits=np.empty((0, len(keys)), np.float16),
            exact=np.empty((0, len(keys)), bool),
        )

    def add(self, epoch, step, bits, exact, last_steps):
        """Append the scores of one epoch, float [N] and bool [N], and note its `last_steps`."""
        # float16 has 11 bits of precision and ends at 65,504: no answer comes near it.
        bits = np.minimum(bits, np.finfo(np.float16).max).astype(np.float16)
        self.epochs = np.append(self.epochs, epoch)
        self.steps = np.append(self.steps, step)
        self.bits = np.concatenate([self.bits, bits[None]])
        self.exact = np.concatenate([self.exact, np.asarray(exact, bool)[None]])
        self.last_steps = last_steps

    def cut_after(self, step):
        """Drop what was kept after `step`: a run that resumes there scores it again."""
        kept = self.steps <= step
        if not kept.all():
            self.last_steps = np.zeros_like(self.last_steps)
        self.epochs, self.steps = self.epochs[kept], self.steps[kept]
        self.bits, self.exact = self.bits[kept], self.exact[kept]

    def write(self, folder):
        """Write the file whole or not at all. Bools are packed, eight to a byte."""
        buffer = io.BytesIO()
        np.savez_compressed(
            buffer,
            format=FORMAT,
            seed=self.seed,
            share=self.share,
            n_train=self.n_train,
            n_canaries=self.n_canaries,
            keys=self.keys,
            members=np.packbits(self.members),
            canary_counts=self.canary_counts,
            last_steps=self.last_steps,
            epochs=self.epochs,
            steps=self.steps,
            bits=self.bits,
            exact=np.packbits(self.exact, axis=1),
        )
        write_atomically(Path(folder) / LEDGER_FILE, buffer.getvalue())


def read_ledger(path: Path) -> Ledger:
    """Read and check one seed's ledger; UserError where it is missing, damaged or out of shape."""
    if not path.is_file():
        raise UserError(f"{path} does not exist; train the panel with --subset first")
    data = read_bytes(path, MAX_BYTES, "that is no ledger of this program")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if sum(record.file_size for record in archive.infolist()) > MAX_BYTES:
                raise ValueError("it unpacks to more than 1 GiB")
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            names = [*FIXED, *SERIES, *({"last_steps"} & set(arrays))]  # in the older format not
            found = {name: arrays[name] for name in names}
        ledger = _checked(found)
    except DAMAGE as error:
        raise UserError(
            f"{path} is no ledger of this program, or damaged ({error}); restore it, or train the "
            "panel again in another --out_dir"
        ) from None
    return ledger


def _checked(found) -> Ledger:
    """The Ledger of the arrays in a file; ValueError where they do not go together."""
    format_, seed, n_train, n_canaries = (
        int(found[name]) for name in ("format", "seed", "n_train", "n_canaries")
    )
    if format_ not in (OLDER, FORMAT):
        raise ValueError(f"it has the format {format_}, this program reads {OLDER} and {FORMAT}")
    if format_ == OLDER:
        found["last_steps"] = np.zeros(n_train + n_canaries, np.int32)
    N, E = len(found["keys"]), len(found["epochs"])
    shapes = {
        "keys": (N,),
        "members": (-(-n_train // 8),),
        "canary_counts": (n_canaries,),
        "last_steps": (n_train + n_canaries,),
        "steps": (E,),
        "bits": (E, N),
        "exact": (E, -(-N // 8)),
    }
    for name, shape in shapes.items():
        if found[name].shape != shape:
            raise ValueError(f"{name} has the shape {found[name].shape}, not {shape}")
    kinds = {"keys": "i", "members": "u", "canary_counts": "i", "bits": "f", "exact": "u"}
    for name, kind in {**kinds, "last_steps": "i", "epochs": "i", "steps": "i"}.items():
        if found[name].dtype.kind != kind:
            raise ValueError(f"{name} holds {found[name].dtype}")
    if n_train + n_canaries > N or (np.diff(found["epochs"]) <= 0).any():
        raise ValueError("its counts or epochs contradict one another")
    if not (np.isfinite(found["bits"]).all() and (found["bits"] >= 0).all()):
        raise ValueError("its bits are not all numbers from 0 on")
    return Ledger(
        seed=seed,
        share=float(found["share"]),
        n_train=n_train,
        n_canaries=n_canaries,
        keys=found["keys"],
        members=np.unpackbits(found["members"], count=n_train).astype(bool),
        canary_counts=found["canary_counts"],
        last_steps=found["last_steps"],
        epochs=found["epochs"],
        steps=found["steps"],
        bits=found["bits"],
        exact=np.unpackbits(found["exact"], axis=1, count=N).astype(bool),
    )


def kept_epochs(n_epochs: int, n_kept: int = 12) -> list[int]:
    """About `n_kept` epochs from the first to the last, in equal ratios.

    >>> kept_epochs(100, 6)
    [1, 3, 6, 16, 40, 100]
    """
    return np.unique(np.round(np.geomspace(1, n_epochs, n_kept))).astype(int).tolist()


@dataclass(frozen=True)
class Panel:
    """The ledgers of R seeds over the same examples, at the same E epochs."""

    seeds: list[int]
    share: float
    n_train: int
    n_canaries: int
    keys: np.ndarray  # int64 [N]
    members: np.ndarray  # bool [R, n_train]
    canary_counts: np.ndarray  # int64 [R, n_canaries]
    last_steps: np.ndarray  # int32 [R, n_train + n_canaries], as in `Ledger`
    epochs: np.ndarray  # int64 [E]
    steps: np.ndarray  # int64 [E]
    bits: np.ndarray  # float16 [E, R, N]
    exact: np.ndarray  # bool [E, R, N]

    @property
    def R(self) -> int:
        return len(self.seeds)

    @property
    def held_out(self) -> slice:
        """Where the held-out examples stand among the N."""
        return slice(self.n_train + self.n_canaries, None)


def read_panel(folders: list[Path]) -> tuple[Panel, list[str]]:
    """The Panel of the ledgers in the seeds' `folders`, and notices.

    A seed that left early (it diverged), or that overflowed on an example, lacks epochs: it is left
    out, with a notice. Seeds whose ledgers speak of other examples are refused: they are not of one
    panel.
    """
    ledgers = [read_ledger(folder / LEDGER_FILE) for folder in folders]
    longest = max(ledgers, key=lambda ledger: len(ledger.epochs))
    whole, notices = [], []
    for folder, ledger in zip(folders, ledgers, strict=True):
        alike = (
            ledger.share == longest.share
            and ledger.n_train == longest.n_train
            and ledger.n_canaries == longest.n_canaries
            and np.array_equal(ledger.keys, longest.keys)
        )
        if not alike:
            raise UserError(
                f"{folder / LEDGER_FILE} speaks of other examples than the others do; give the "
                "folder of one panel"
            )
        if np.array_equal(ledger.steps, longest.steps):
            whole.append(ledger)
        else:
            end, others_end = (found.epochs.max(initial=0) for found in (ledger, longest))
            why = f"ends with epoch {end}, the others' with {others_end}"
            if end == others_end:  # it overflowed on an example, as `keep_in_ledger` says
                why = "lacks epochs that the others' have"
            notices.append(f"seed {ledger.seed} is left out: its ledger {why}")
    if len({ledger.seed for ledger in whole}) < len(whole):
        raise UserError(f"{folders[0].parent} holds one seed twice; remove the copy")
    if not len(longest.epochs):
        raise UserError(f"{folders[0] / LEDGER_FILE} holds no epoch yet; let the panel train on")
    panel = Panel(
        seeds=[ledger.seed for ledger in whole],
        share=longest.share,
        n_train=longest.n_train,
        n_canaries=longest.n_canaries,
        keys=longest.keys,
        members=np.stack([ledger.members for ledger in whole]),
        canary_counts=np.stack([ledger.canary_counts for ledger in whole]),
        last_steps=np.stack([ledger.last_steps for ledger in whole]),
        epochs=longest.epochs,
        steps=longest.steps,
        bits=np.stack([ledger.bits for ledger in whole], axis=1),
        exact=np.stack([ledger.exact for ledger in whole], axis=1),
    )
    return panel, notices
