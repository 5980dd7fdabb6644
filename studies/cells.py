"""A study of cells: its committed table, and each cell run once."""

import csv
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from plots import DPI
from runtime.cli import Parser, path
from runtime.errors import UserError
from runtime.files import write_atomically, write_json
from studies.commands import read_json


@dataclass(frozen=True)
class Table:
    """A CSV of which each cell has some lines; "cell" is one of the columns."""

    file: Path
    columns: dict[str, type]
    order: list[str]  # of the cells

    def read(self) -> list[dict]:
        """The lines, each column of its type; none where there is no file yet."""
        if not self.file.exists():
            return []
        with open(self.file, newline="") as lines:
            return [
                {n: self.columns[n](v) for n, v in row.items()} for row in csv.DictReader(lines)
            ]

    def lines(self) -> list[dict]:
        """What `read` gives; UserError where that is nothing."""
        if found := self.read():
            return found
        raise UserError(f"{self.file} is not there yet; run a cell first")

    def replace(self, lines: list[dict]) -> None:
        """Replace what the table has of the same cells, keep the rest; in their order."""
        cells = {line["cell"] for line in lines}
        kept = [line for line in self.read() if line["cell"] not in cells]
        place = {name: i for i, name in enumerate(self.order)}
        rows = sorted(kept + lines, key=lambda line: place.get(line["cell"], len(place)))
        text = io.StringIO()
        writer = csv.DictWriter(text, self.columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(
            {n: f"{v:.6g}" if isinstance(v, float) else v for n, v in row.items()} for row in rows
        )
        write_atomically(self.file, text.getvalue().encode())


def run_once(folder: Path, command, run: Callable[[], list[dict]]) -> list[dict]:
    """The lines of a cell: as kept in its folder, or what `run` returns, which are kept then.

    `command` is all that the lines depend on; UserError where others were kept.
    """
    done = folder / "cell.json"
    if done.exists():
        made = read_json(done)
        if made["command"] != command:
            raise UserError(f"{folder} holds a cell of another study; take another --out")
        return made["lines"]
    lines = run()
    write_json(done, {"command": command, "lines": lines})
    return lines


def save_figure(figure, file: Path) -> None:
    """Write a matplotlib figure as the same bytes on each day."""
    picture = io.BytesIO()
    figure.savefig(picture, dpi=DPI, metadata={"Software": None})
    write_atomically(file, picture.getvalue())


def parser_of(doc: str, out: Path) -> Parser:
    """The flags that every study of cells has."""
    parser = Parser(doc)
    flag = parser.add_argument
    flag("--only", metavar="WORD", help="run the cells whose name holds this")
    flag(
        "--out",
        type=path,
        default=out,
        help="folder for the runs; table and figure have their place",
    )
    flag("--list", action="store_true", help="print the cells and stop")
    flag("--summary", action="store_true", help="train nothing; from the table alone")
    return parser


def named(cells: list, word: str | None) -> list:
    """The cells whose name holds the word; UserError where there is none."""
    found = [cell for cell in cells if (word or "") in cell.name]
    if not found:
        raise UserError(f"no cell's name holds {word!r}; --list shows them")
    return found
