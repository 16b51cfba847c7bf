"""How a command ends: exit codes, and the errors that commands raise themselves."""

from typing import Final

REFUSED: Final = 1
"""The daemon refused, a test failed, a wait ended in vain."""

WRONG_USAGE: Final = 2
"""The command line or an input file is wrong; nothing was sent."""

UNREACHABLE: Final = 3
"""Nobody answered, or not in time: the same command may work later."""


class CommandFailed(Exception):
    """A command did not reach its end, for a reason that its message says completely.

    Args:
        message: what happened.
        hint: what to do about it.
        code: exit code of the process.
    """

    def __init__(self, message: str, *, hint: str = "", code: int = REFUSED) -> None:
        super().__init__(message)
        self.hint = hint
        self.code = code


class WrongInput(CommandFailed):
    """An argument or an input file cannot be used as it is."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message, hint=hint, code=WRONG_USAGE)
