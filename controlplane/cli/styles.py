"""How the command line looks: settings of every typer app, colours of a terminal."""

import os
import sys
from enum import StrEnum
from typing import Any, Final, TextIO

PLAIN: Final[dict[str, Any]] = {
    "rich_markup_mode": None,
    "pretty_exceptions_enable": False,
    "add_completion": False,
    "no_args_is_help": True,
    "context_settings": {"help_option_names": ["-h", "--help"], "max_content_width": 100},
}
"""Settings of every typer app here: help as plain text, which needs no import of rich (80 ms) and
reads the same everywhere; defects show an ordinary traceback; `-h` is `--help`."""


class Colour(StrEnum):
    """Colours of the terminal, by what they say."""

    GOOD = "32"
    """Green."""
    WARNING = "33"
    """Yellow."""
    BAD = "31"
    """Red."""
    FAINT = "2"
    """Dimmed."""
    STRONG = "1"
    """Bold."""


STATUS_COLOURS: Final = {
    "ACTIVE": Colour.GOOD,
    "FRESH": Colour.GOOD,
    "APPLIED": Colour.GOOD,
    "ALLOW": Colour.GOOD,
    "created": Colour.GOOD,
    "RUNNING": Colour.GOOD,
    "SUCCEEDED": Colour.GOOD,
    "ACKNOWLEDGED": Colour.GOOD,
    "PROGRESSING": Colour.GOOD,
    "PROMOTING": Colour.GOOD,
    "VALID": Colour.GOOD,
    "GRANTED": Colour.GOOD,
    "DEGRADED": Colour.WARNING,
    "SILENT": Colour.WARNING,
    "REQUIRE_APPROVAL": Colour.WARNING,
    "updated": Colour.WARNING,
    "ACTIVE (draining)": Colour.WARNING,
    "FRESH (draining)": Colour.WARNING,
    "REGISTERED (pending)": Colour.WARNING,
    "INACTIVE (pending)": Colour.WARNING,
    "PAUSED": Colour.WARNING,
    "PENDING": Colour.WARNING,
    "ABORTING": Colour.WARNING,
    "DRAINING_NEW": Colour.WARNING,
    "WAITING": Colour.WARNING,
    "TERMINATING": Colour.WARNING,
    "INACTIVE": Colour.BAD,
    "LOST": Colour.BAD,
    "FAILED": Colour.BAD,
    "DENIED": Colour.BAD,
    "DENY": Colour.BAD,
    "deleted": Colour.BAD,
    "ROLLED_BACK": Colour.BAD,
    "REVOKED": Colour.BAD,
    "DECOMMISSIONED": Colour.FAINT,
    "unchanged": Colour.FAINT,
    "CANCELLED": Colour.FAINT,
    "SUPERSEDED": Colour.FAINT,
    "LEFT": Colour.FAINT,
    "EXPIRED": Colour.FAINT,
    "USED UP": Colour.FAINT,
    "CONSUMED": Colour.FAINT,
}
"""Words that say how things are, and the colour that says it faster."""


def wants_colour(stream: TextIO) -> bool:
    """Return whether a stream is a terminal whose user has not switched colours off."""
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return False
    return stream.isatty()


def coloured(text: str, colour: Colour | None, stream: TextIO | None = None) -> str:
    """Return the text in a colour, if the stream (default: stdout) shows any."""
    if colour is None or not wants_colour(stream or sys.stdout):
        return text
    return f"\x1b[{colour}m{text}\x1b[0m"


def printable(text: str) -> str:
    r"""Return the text on one line without control characters, which could steer a terminal.

    Names and descriptions come from whoever registered an agent. Control and format characters are
    shown as `\x1b` would be.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
