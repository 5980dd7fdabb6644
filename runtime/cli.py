"""What every command line does alike: one line a failure, one parser, one way out."""

import argparse
import os
import sys
from pathlib import Path

from runtime.errors import EXIT_CODES, Halt, UserError


def outcome(work):
    """Call work() and return (exit code as in EXIT_CODES, what there is to say or "").

    An exception that is none of these is a bug and keeps its traceback.
    """
    # A stream that was closed at the start (`>&-`) is None. Opened at once, os.devnull takes its
    # number, which otherwise the next file would get, and with it what a library prints.
    if sys.stdin is None:
        sys.stdin = open(os.devnull)  # noqa: SIM115
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    if hasattr(sys.stdout, "reconfigure"):  # a redirected Windows console lacks many characters
        sys.stdout.reconfigure(errors="replace")
    try:
        work()
    except SystemExit as done:  # argparse: --help, or a mistake in a flag
        return done.code or 0, ""
    except UserError as error:
        return 2, f"error: {error}"
    except Halt as halt:
        return halt.code, f"stopped: {halt}"
    except BrokenPipeError:  # `| head` has read enough
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
    return leave(*outcome(work))


def printable(text):
    """The text with everything a terminal would obey or hide as an escape: `\\x1b` for ESC.

    >>> printable("[add] 1\\t+ 2 é")
    '[add] 1\\\\t+ 2 é'
    """
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def cut_middle(text: str, width: int) -> str:
    """The text, or where it is longer than `width` both of its ends.

    >>> cut_middle("[copy] 1 2 3 4 5 6 7 8 9", 12)
    '[copy… 7 8 9'
    """
    if len(text) <= width:
        return text
    return f"{text[: width // 2 - 1]}…{text[-(width // 2) :]}"


def answer_early(read_flags):
    """Call read_flags(); exit where that is all there is to do: --help, or a mistake in a flag.

    A script calls it before the imports that take seconds, and only when it is run. Processes of
    torchrun go on: there `main` lets one of them speak for all.
    """
    if "RANK" in os.environ:
        return
    read = []
    code = run_main(lambda: read.append(read_flags()))
    if not read:
        sys.exit(code)


def bounded(kind, low, high):
    """An argparse type: a `kind` in [low, high]."""

    def parse(text):
        value = kind(text)
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text} is not between {low:,} and {high:,}")
        return value

    parse.__name__ = kind.__name__
    return parse


def path(text):
    """An argparse type: a Path, in which `~` stands for the home folder.

    A shell replaces `~` in `--data ~/x`, but not in `--data=~/x`, nor in a list of arguments.
    """
    return Path(path_text(text))


def path_text(text):
    """An argparse type: what `path` gives, as text."""
    if not text:  # as of a shell's variable that is not set
        raise argparse.ArgumentTypeError("the path is empty; the folder itself is .")
    expanded = os.path.expanduser(text)
    if text.startswith("~") and expanded == text and not os.path.lexists(text):
        raise argparse.ArgumentTypeError(f"{text} names a home folder that does not exist")
    return expanded


def count_text(n: int, what: str) -> str:
    """`1 layer`, `4 layers`, `1,000 steps`."""
    return f"{n:,} {what}" + "s" * (n != 1)


class HelpFormatter(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    """Shows a default where there is one to show, and leaves the lines of a docstring alone."""

    def _get_help_string(self, action):
        plain = action.default is None or action.default is False
        return action.help if plain else super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """Every script's: its help ends with the exit codes, and a mistake is told in one sentence."""

    def __init__(self, description):
        codes = "".join(f"\n  {code:>3}  {meaning}" for code, meaning in EXIT_CODES.items())
        super().__init__(
            description=description,
            epilog=f"exit codes:{codes}",
            formatter_class=HelpFormatter,
        )

    def error(self, message):  # the usage of all flags would bury it
        raise UserError(f"{message}; --help lists every flag")
