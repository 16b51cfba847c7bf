"""The numbers behind a verdict, valid however often somebody looks.

The interval is the asymptotic confidence sequence of Waudby-Smith et al.: the true difference is in
ALL intervals of an experiment, the first to the last, with probability 1 - alpha. A t-test that is
repeated after every few units is wrong three times as often as it says; this is not.
"""

from dataclasses import dataclass
from math import erfc, exp, inf, log, pi, sqrt
from typing import Final

from controlplane.domain.experiments.model import FIXED_ONE

LEAST_EXPECTED: Final = 8
"""Units expected in every arm before their ratio is tested: below, chi-square does not fit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sums:
    """What is counted of one metric of one arm, in units of 1/10,000 of the metric's range."""

    count: int = 0
    total: int = 0
    squares: int = 0
    clamped: int = 0
    """Of these, how many were beyond the range of the metric."""

    @property
    def mean(self) -> float:
        """Return the mean, 0-1; 0 of nothing."""
        return self.total / (self.count * FIXED_ONE) if self.count else 0.0

    @property
    def variance(self) -> float:
        """Return the sample variance; 0 of fewer than two.

        Integers up to the last step: nothing cancels.
        """
        count = self.count
        if count < 2:  # noqa: PLR2004 - a variance takes two
            return 0.0
        scaled = count * self.squares - self.total * self.total
        return scaled / (count * (count - 1) * FIXED_ONE * FIXED_ONE)

    def cautious_variance(self, *, binary: bool) -> float:
        """Return the variance as if there had been one more outcome at either end of the range.

        Where all of a hundred units succeeded, the sample variance is 0 and the interval a point,
        however likely a few failures are: two thirds of the hundreds look like that at 1 in 250.
        Outcomes of NUMERIC metrics are taken as they are, unless none differs from another: on a
        wide range one at its end outweighs them all.
        """
        plain = self.variance
        if not binary and plain:
            return plain
        whole = FIXED_ONE
        wider = Sums(
            count=self.count + 2,
            total=self.total + whole,
            squares=self.squares + whole * whole,
        )
        return wider.variance


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """An estimate and what the truth is between."""

    estimate: float
    lower: float
    upper: float


def difference(
    treatment: Sums, control: Sums, *, alpha: float, n_star: int, binary: bool
) -> Interval:
    """Return the difference of two means, treatment - control, with its confidence sequence.

    Args:
        treatment: What was counted of one arm.
        control: What was counted of the other.
        alpha: Chance that any of the intervals ever misses the truth, on either side.
        n_star: Units of both arms at which the interval is to be narrowest.
        binary: Whether outcomes are 0 or 1; see `Sums.cautious_variance`.

    Returns:
        On the scale 0-1. Unbounded while an arm has fewer than two outcomes.
    """
    estimate = treatment.mean - control.mean
    if min(treatment.count, control.count) < 2:  # noqa: PLR2004 - a variance takes two
        return Interval(estimate=estimate, lower=-inf, upper=inf)
    n = treatment.count + control.count
    v = n * sum(arm.cautious_variance(binary=binary) / arm.count for arm in (treatment, control))
    narrow = -2 * log(alpha)
    rho2 = (narrow + log(narrow + 1)) / n_star
    grown = n * rho2 + 1
    half = sqrt(v) * sqrt(2 * grown / (n * n * rho2) * log(sqrt(grown) / alpha))
    return Interval(estimate=estimate, lower=estimate - half, upper=estimate + half)


def ratio_p_value(observed: tuple[int, ...], weights: tuple[int, ...]) -> float:
    """Return how likely counts as uneven as these are, if units are dealt by the weights.

    Pearson's chi-square with k - 1 degrees of freedom. 1 while an arm is expected to have fewer
    than 8, and with one arm.
    """
    total, whole = sum(observed), sum(weights)
    if len(observed) < 2 or total * min(weights) < LEAST_EXPECTED * whole:  # noqa: PLR2004 - arms
        return 1.0
    statistic = 0.0
    for count, weight in zip(observed, weights, strict=True):
        expected = total * weight / whole
        statistic += (count - expected) ** 2 / expected
    return chi_square_tail(statistic, len(observed) - 1)


def chi_square_tail(statistic: float, degrees: int) -> float:
    """Return the probability that a chi-square variable is at least `statistic`.

    Closed form for whole degrees of freedom: a sum of `degrees / 2` terms, and erfc if odd.
    """
    half = statistic / 2
    if degrees % 2:
        tail, term, step = erfc(sqrt(half)), sqrt(half) * exp(-half) * 2 / sqrt(pi), 1.5
    else:
        tail, term, step = 0.0, exp(-half), 1.0
    for _ in range(degrees // 2):
        tail += term
        term *= half / step
        step += 1
    return min(1.0, tail)
