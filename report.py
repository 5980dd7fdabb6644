"""One page of a run: a file that opens by a double click, needs no network and no server.

    python report.py runs/panel                        # writes runs/panel/report.html
    python report.py runs/a runs/b --out report.html   # several runs in one page

The page says in one sentence a task whether the models learned the rule or memorized, and shows
what that rests on: what the run is, memory, learning, other distributions, every example (at most
5,000) to filter and sort, several runs side by side, baselines, exclusions and limits. Parts whose
records are not there are left out. It reads what train_minigpt_4070.py, evaluate_ood.py and
evaluate_memorization.py wrote, and computes no number that these or plots.py do not. Every table
can be saved as CSV, and the numbers as JSON. The same records give the same bytes.
"""

import shlex
import sys
from pathlib import Path

from runtime.cli import Parser, path, run_main
from runtime.errors import UserError
from runtime.files import ROOT, check_writable, write_atomically


def build_parser() -> Parser:
    parser = Parser(__doc__)
    parser.add_argument(
        "runs", nargs="+", type=path, metavar="RUN", help="run folder, or folder of seeds"
    )
    parser.add_argument(
        "--out",
        type=path,
        metavar="FILE",
        help="the page to write (default: report.html in the one run)",
    )
    return parser


def page_line(folder: Path) -> str:
    """How the page of a run folder is made: the last line of the scripts that write its records."""
    command = shlex.join(["python", str(ROOT / "report.py"), str(folder.resolve())])
    return f"page: {command}"


def write_report(runs: list[Path], out: Path | None = None) -> Path:
    """Write the page of these run folders; returns where it is."""
    if out is None and len(runs) > 1:
        raise UserError("several runs need a place for their page; add --out report.html")
    out = runs[0] / "report.html" if out is None else out
    if out.is_dir():
        raise UserError(f"--out {out} is a folder; name a file, as in --out {out / 'report.html'}")
    if out.suffix.lower() not in (".html", ".htm"):  # no record of a run is overwritten
        raise UserError(f"--out {out} is no name of a page; name a file that ends in .html")
    from reporting.gather import gather  # after --help and mistakes in flags are answered

    records = gather(runs)
    check_writable(out.parent, "--out")
    from reporting.page import render

    write_atomically(out, render(records))
    return out


def make(args) -> None:
    out = write_report(args.runs, args.out)
    print(f"{out} ({out.stat().st_size / 1000:,.0f} kB): open it in a browser")


def main(argv: list[str] | None = None) -> int:
    return run_main(lambda: make(build_parser().parse_args(argv)))


if __name__ == "__main__":
    sys.exit(main())
