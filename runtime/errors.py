"""What ends a command otherwise than planned: a mistake of the user's, or a halt with its code."""


class UserError(Exception):
    """A mistake of the user's: one sentence, and exit code 2."""


class Halt(BaseException):
    """Work ends otherwise than planned, with exit code `code`; the message says why.

    A signal raises it anywhere, so in code too that takes every Exception for an error of its own:
    torch's loading of weights does.
    """

    def __init__(self, code, message):
        super().__init__(message)
        self.code = code
