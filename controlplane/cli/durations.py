"""Time spans as operators type and read them: `90s`, `15m`, `1h30m`."""

import math
import re
from typing import TYPE_CHECKING, Final

import typer

if TYPE_CHECKING:  # protobuf is imported by the SDK, when a command calls
    from google.protobuf.duration_pb2 import Duration
    from google.protobuf.timestamp_pb2 import Timestamp

_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0}
"""Seconds of each unit."""

_PART: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_WHOLE: Final = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|s|m|h|d))+")


def duration(text: str) -> float:
    """Read a time span: numbers with ms, s, m, h or d, the largest first by custom; or seconds.

    Args:
        text: such as `90s`, `15m`, `1h30m`, `250ms`, or `90`, which means seconds.

    Returns:
        Seconds.

    Raises:
        typer.BadParameter: it is none, or not finite.
    """
    wanted = text.strip().lower()
    if _WHOLE.fullmatch(wanted):
        return sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(wanted))
    try:
        seconds = float(wanted)
    except ValueError:
        seconds = math.nan
    if not math.isfinite(seconds) or seconds < 0:
        raise typer.BadParameter(f"{text!r} is not a duration such as 90s, 15m or 1h30m")
    return seconds


def deadline(text: str) -> float:
    """Read a time span that is longer than nothing; see `duration`.

    Raises:
        typer.BadParameter: it is none, or zero.
    """
    seconds = duration(text)
    if seconds <= 0:
        raise typer.BadParameter(f"{text!r} leaves no time at all")
    return seconds


def compact(seconds: float) -> str:
    """Return a time span in its two largest units, such as `1h30m`, `42s` or `0.3s`."""
    if seconds < 10:  # noqa: PLR2004 - below, tenths matter to who is watching
        return f"{seconds:.1f}s"
    whole = round(seconds)
    for unit, below in (("d", "h"), ("h", "m"), ("m", "s")):
        size = int(_UNITS[unit])
        if whole >= size:
            count, rest = divmod(whole, size)
            lesser = rest // int(_UNITS[below])
            return f"{count}{unit}" + (f"{lesser}{below}" if lesser else "")
    return f"{whole}s"


def seconds_of(message: "Duration") -> float:
    """Return a duration of the contract in seconds."""
    return float(message.seconds + message.nanos / 1e9)


def between(start: "Timestamp", end: "Timestamp") -> float:
    """Return the seconds from one time to another, not below 0."""
    return max(0.0, end.seconds - start.seconds + (end.nanos - start.nanos) / 1e9)
