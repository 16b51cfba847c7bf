"""Two answers about failure counts, without a library: how high is a rate, and which is worse?"""

from math import exp, lgamma, sqrt
from typing import Final

Z95: Final = 1.959963984540054
"""Standard normal quantile of a two-sided 95 % interval."""


def wilson_upper(failed: int, total: int, z: float = Z95) -> float:
    """Return the upper end of Wilson's score interval of a rate; 1.0 without any data."""
    if total <= 0:
        return 1.0
    rate, square = failed / total, z * z
    centre = rate + square / (2 * total)
    spread = z * sqrt(rate * (1 - rate) / total + square / (4 * total * total))
    return min(1.0, (centre + spread) / (1 + square / total))


def fisher_worse(failed: int, total: int, other_failed: int, other_total: int) -> float:
    """Return the one-sided p-value of "the first fails no more often than the other".

    Fisher's exact test: small values say that the first is worse. 1.0 if either has no data.
    """
    if total <= 0 or other_total <= 0:
        return 1.0
    everything, failures = total + other_total, failed + other_failed
    whole = _log_choose(everything, failures)
    p = sum(
        exp(_log_choose(total, k) + _log_choose(other_total, failures - k) - whole)
        for k in range(failed, min(total, failures) + 1)
        if failures - k <= other_total
    )
    return min(1.0, p)


def _log_choose(n: int, k: int) -> float:
    return lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1)
