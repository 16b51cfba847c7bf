"""What a counter may be, whichever store keeps it."""

from typing import Final

COUNT_CEILING: Final = 2**53 - 1
"""The highest value of a counter: the script on Redis counts in doubles, exact up to here."""


def ceiling(at_most: int | None) -> int:
    """Return what a counter must not be above after a step with this `at_most`.

    At least -1, which no counter can be: nothing that is counted fits below a negative limit.
    """
    return COUNT_CEILING if at_most is None else max(-1, min(at_most, COUNT_CEILING))
