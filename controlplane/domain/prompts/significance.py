"""Paired statistics over items. Slow, and it loads scipy at its first use: call it in a thread."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Final

RESAMPLES: Final = 10_000
"""Resamples of the bootstrap: the ends of its interval repeat to about a hundredth of its width."""

CONFIDENCE: Final = 0.95

_AT_ONCE: Final = 1_000_000
"""Numbers drawn at once: 8 MiB, and a lock is given up in between."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A mean with its 95 % interval."""

    mean: float
    low: float
    high: float


def paired_interval(differences: Sequence[float], seed: int) -> Interval:
    """Return the mean of differences of pairs, and its BCa bootstrap interval.

    Args:
        differences: One per pair, at least one.
        seed: Repeats the draw.
    """
    mean = sum(differences) / len(differences)
    if len(differences) < 2 or max(differences) - min(differences) < 1e-12:  # noqa: PLR2004 - pairs
        # Nothing varies, so no resample differs; the bootstrap would divide by zero.
        return Interval(mean=mean, low=mean, high=mean)
    import numpy as np  # noqa: PLC0415 - 30 MiB and a second, only where somebody compares
    from scipy import stats  # type: ignore[import-untyped]  # noqa: PLC0415 - same; has no types

    found = stats.bootstrap(
        (np.asarray(differences),),
        np.mean,
        n_resamples=RESAMPLES,
        batch=max(1, _AT_ONCE // len(differences)),
        confidence_level=CONFIDENCE,
        method="BCa",
        vectorized=True,
        rng=np.random.default_rng(seed),
    ).confidence_interval
    low, high = float(found.low), float(found.high)
    if not (isfinite(low) and isfinite(high)):
        return Interval(mean=mean, low=-1.0, high=1.0)  # it could not tell: then nothing is known
    return Interval(mean=mean, low=low, high=high)


def mcnemar_p(worse: int, better: int) -> float:
    """Return the two-sided p-value of McNemar's exact test; 1 if no pair changed.

    Args:
        worse: Pairs that went from pass to fail.
        better: Pairs that went from fail to pass.
    """
    if worse + better == 0:
        return 1.0
    from scipy import stats  # noqa: PLC0415 - see above

    return float(stats.binomtest(worse, worse + better, 0.5).pvalue)
