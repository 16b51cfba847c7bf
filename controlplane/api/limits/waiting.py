"""How long a refused caller is told to wait."""

import math
import random
from collections.abc import Callable
from typing import Final

JITTER: Final = 0.1
"""Largest share that is added at random: who was refused together comes back apart."""

Draw = Callable[[], float]
"""Returns a number in [0, 1)."""

draw: Final[Draw] = random.random  # spreads load, guards nothing


def time_to_wait(seconds: float, draw: Draw = draw) -> float:
    """Return `seconds` with jitter, in whole milliseconds: never less than `seconds`."""
    return math.ceil(seconds * (1 + JITTER * draw()) * 1000) / 1000
