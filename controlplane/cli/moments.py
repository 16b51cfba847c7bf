"""Times as people read them."""

import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:  # protobuf is imported by the SDK, when a command calls
    from google.protobuf.timestamp_pb2 import Timestamp

_STEPS = ((86_400.0, "d"), (3_600.0, "h"), (60.0, "m"))
"""Seconds of a unit, and its letter."""


ROUNDED_UP: Final = 0.01
"""Share of a time to come that may have passed without being subtracted, a minute at most."""


def ago(stamp: "Timestamp", now: float | None = None) -> str:
    """Return how long ago a time was, such as `4.2s` or `3h`; empty if it never was.

    Args:
        stamp: the time, on the daemon's clock.
        now: seconds since 1970; by default this machine's clock. A clock that is behind the
            daemon's shows `0.0s`.
    """
    if not stamp.seconds:
        return ""
    seconds = (time.time() if now is None else now) - stamp.seconds - stamp.nanos / 1e9
    return span(max(0.0, seconds))


def until(stamp: "Timestamp", now: float | None = None) -> str:
    """Return how long there is until a time, such as `in 3h`, or `over`; empty if there is none.

    Args:
        stamp: the time, on the daemon's clock.
        now: seconds since 1970; by default this machine's clock.
    """
    if not stamp.seconds:
        return ""
    seconds = stamp.seconds + stamp.nanos / 1e9 - (time.time() if now is None else now)
    if seconds <= 0:
        return "over"
    # What was asked to last 30 days and has just begun to ends in 30 days, not in 29.
    return f"in {span(seconds + min(seconds * ROUNDED_UP, 60.0))}"


def span(seconds: float) -> str:
    """Return a time span in its largest unit, such as `4.2s` or `3h`."""
    for size, letter in _STEPS:
        if seconds >= size:
            return f"{int(seconds // size)}{letter}"
    return f"{seconds:.1f}s"


def moment(stamp: "Timestamp") -> str:
    """Return a time in this machine's zone to the second; empty if there is none."""
    if not stamp.seconds:
        return ""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(stamp.seconds))


def clock() -> str:
    """Return the present time of day, for lines of a watch."""
    return time.strftime("%H:%M:%S")
