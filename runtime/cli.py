"""What every command line does alike: one line a failure, one parser, one way out."""

import argparse
import os
import sys

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


EXIT_CODES = (
    "0 done, 2 a mistake in the command or its files, 3 a seed diverged, 4 the run folder is in "
    "use by another process, 5 a file cannot be read or a folder written, 130, 143 and 138 stopped "
    "by SIGINT, SIGTERM or SIGUSR1 (128 + its number), 141 broken pipe"
)
