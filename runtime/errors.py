"""What ends a command otherwise than planned, and the exit code that says so."""

EXIT_CODES = {  # code -> meaning: of every script; `--help` and docs/robustness.md show this table
    0: "done",
    1: "a task of a sweep failed, or the program has a fault and shows its traceback",
    2: "a mistake in the command or its files; one sentence says which",
    3: "a seed diverged; the reports of all that have a usable model are made",
    4: "another process is training in the run folder",
    5: "a file cannot be read, or a folder not written; what was saved is kept",
    129: "stopped by SIGHUP, the end of the terminal; saved, go on with --resume",
    130: "stopped by SIGINT, Ctrl-C; saved, go on with --resume",
    138: "stopped by SIGUSR1 (158 on macOS); saved, go on with --resume",
    141: "what reads standard output closed it",
    143: "stopped by SIGTERM; saved, go on with --resume",
}


class UserError(Exception):
    """A mistake of the user's: one sentence, and exit code 2."""


class NotFinite(UserError):
    """A model that cannot be used, since its training had diverged."""


class Halt(BaseException):
    """Work ends otherwise than planned, with exit code `code`; the message says why.

    A signal raises it anywhere, so in code too that takes every Exception for an error of its own:
    torch's loading of weights does.
    """

    def __init__(self, code, message):
        super().__init__(message)
        self.code = code
