"""The gate: what two evaluations of the same data set say about a candidate.

PASS          enough items, the interval of the mean difference lies above -max_drop, no critical
              item went from pass to fail, costs and latency grew within their bounds
REGRESSION    a critical item, costs or latency say so; or the mean fell by max_drop or more; or
              the interval lies below 0 and reaches below -max_drop
INSUFFICIENT  everything else: too few items, or too wide an interval
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from controlplane.domain.prompts.evaluations import Evaluation, ScoredItem, p95
from controlplane.domain.prompts.model import LabelGate
from controlplane.domain.prompts.refusals import NotComparable
from controlplane.domain.prompts.significance import RESAMPLES, mcnemar_p, paired_interval

MAX_REGRESSED: Final = 100
"""Items that are named; the count is exact."""

_ROUNDING: Final = 1e-9
"""What sums of thousands of numbers are off by: exactly the bound is within it."""


class Verdict(StrEnum):
    """What a comparison says."""

    PASS = "PASS"  # noqa: S105 - an outcome
    REGRESSION = "REGRESSION"
    INSUFFICIENT = "INSUFFICIENT"


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """An evaluation with its items."""

    run: Evaluation
    items: tuple[ScoredItem, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Regressed:
    """An item that went from pass to fail."""

    item_id: str
    critical: bool
    baseline: float
    candidate: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What was found; see the contract. `cost_growth` and `latency_growth` None: not known."""

    verdict: Verdict
    reasons: tuple[str, ...] = ()
    candidate_version: int = 0
    baseline_version: int = 0
    candidate_id: str = ""
    baseline_id: str = ""
    dataset_sha256: str = ""
    items: int = 0
    mean_difference: float = 0.0
    low: float = 0.0
    high: float = 0.0
    resamples: int = 0
    seed: int = 0
    worse: int = 0
    better: int = 0
    mcnemar_p: float = 1.0
    regressed: tuple[Regressed, ...] = ()
    cost_growth: float | None = None
    latency_growth: float | None = None


def compare(candidate: Side, baseline: Side, rules: LabelGate, *, seed: int) -> Comparison:
    """Compare two evaluations. Slow; see `significance`.

    Raises:
        NotComparable: they are of other data sets, scorers or items.
    """
    _require_same(candidate.run, baseline.run)
    pairs = _pairs(candidate, baseline)
    interval = paired_interval([new.mean - old.mean for new, old in pairs], seed)
    changes = _Changes(pairs, rules)
    findings = _Findings()
    _judge_items(findings, changes.regressed)
    _judge_missing(findings, candidate.items, rules)
    if len(pairs) < rules.min_items:
        findings.lacking(f"{len(pairs)} items are fewer than {rules.min_items}")
    elif interval.low <= -rules.max_drop:
        text = (
            f"the mean score changed by {interval.mean:+.4f} "
            f"(95 % interval {interval.low:+.4f} to {interval.high:+.4f}): "
            f"a fall by {rules.max_drop:g} is not ruled out"
        )
        fell = interval.mean < 0 and interval.mean <= -rules.max_drop + _ROUNDING
        is_worse = fell or interval.high < 0
        (findings.worse if is_worse else findings.lacking)(text)
    new_cost, old_cost = (_cost_of_a_trial(side) for side in (candidate, baseline))
    new_p95, old_p95 = (
        p95([item.latency_ms for item in side.items]) for side in (candidate, baseline)
    )
    cost = findings.growth("costs", new_cost, old_cost, rules.max_cost_growth)
    latency = findings.growth(
        "the 95th percentile of latency", new_p95, old_p95, rules.max_latency_growth
    )
    return Comparison(
        verdict=findings.verdict,
        reasons=tuple(findings.reasons) or (_passed(interval.low, rules),),
        candidate_version=candidate.run.version,
        baseline_version=baseline.run.version,
        candidate_id=candidate.run.evaluation_id,
        baseline_id=baseline.run.evaluation_id,
        dataset_sha256=candidate.run.dataset_sha256,
        items=len(pairs),
        mean_difference=interval.mean,
        low=interval.low,
        high=interval.high,
        resamples=RESAMPLES,
        seed=seed,
        worse=len(changes.regressed),
        better=changes.better,
        mcnemar_p=mcnemar_p(len(changes.regressed), changes.better),
        regressed=tuple(changes.regressed[:MAX_REGRESSED]),
        cost_growth=cost,
        latency_growth=latency,
    )


def judge_alone(candidate: Side, rules: LabelGate) -> Comparison:
    """Judge the first version of a label, which there is nothing to compare with.

    It passes with enough items, if every critical one passes.
    """
    findings = _Findings()
    failed = [
        Regressed(item_id=item.item_id, critical=True, baseline=0.0, candidate=item.mean)
        for item in candidate.items
        if (item.critical or item.item_id in rules.critical_items)
        and not item.passes(rules.pass_score)
    ]
    if failed:
        findings.worse(f"{len(failed)} critical items fail, such as {failed[0].item_id!r}")
    _judge_missing(findings, candidate.items, rules)
    if len(candidate.items) < rules.min_items:
        findings.lacking(f"{len(candidate.items)} items are fewer than {rules.min_items}")
    return Comparison(
        verdict=findings.verdict,
        reasons=tuple(findings.reasons) or ("there is no version to compare with",),
        candidate_version=candidate.run.version,
        candidate_id=candidate.run.evaluation_id,
        dataset_sha256=candidate.run.dataset_sha256,
        items=len(candidate.items),
        regressed=tuple(failed[:MAX_REGRESSED]),
    )


def unevaluated(version: int, baseline_version: int, rules: LabelGate, what: str) -> Comparison:
    """Return the verdict where an evaluation is missing; `what` says which."""
    return Comparison(
        verdict=Verdict.INSUFFICIENT,
        reasons=(what,),
        candidate_version=version,
        baseline_version=baseline_version,
        dataset_sha256=rules.dataset_sha256,
    )


def _cost_of_a_trial(side: Side) -> float:
    """Return what one trial of every item costs: one side may have tried more often."""
    return sum(item.cost / len(item.scores) for item in side.items)


def _passed(low: float, rules: LabelGate) -> str:
    return f"the mean score did not fall by {rules.max_drop:g} (lower end {low:+.4f})"


def _require_same(candidate: Evaluation, baseline: Evaluation) -> None:
    for what, one, other in (
        ("data set", candidate.dataset_sha256, baseline.dataset_sha256),
        ("scorer", candidate.scorer, baseline.scorer),
        ("version of the scorer", candidate.scorer_version, baseline.scorer_version),
    ):
        if one != other:
            raise NotComparable(f"they are of another {what}: {one!r} and {other!r}")


def _pairs(candidate: Side, baseline: Side) -> list[tuple[ScoredItem, ScoredItem]]:
    known: Mapping[str, ScoredItem] = {item.item_id: item for item in baseline.items}
    ids = {item.item_id for item in candidate.items}
    odd = sorted(ids ^ known.keys())
    if odd:
        # A run that leaves out what it fails at must not look better for it.
        raise NotComparable(f"{len(odd)} items are in one of them only, such as {odd[0]!r}")
    return [(item, known[item.item_id]) for item in candidate.items]


class _Changes:
    """Which items passed before and fail now, and the other way round."""

    def __init__(self, pairs: Sequence[tuple[ScoredItem, ScoredItem]], rules: LabelGate) -> None:
        critical = frozenset(rules.critical_items)
        self.better = 0
        found: list[Regressed] = []
        for new, old in pairs:
            passes, passed = new.passes(rules.pass_score), old.passes(rules.pass_score)
            self.better += passes and not passed
            if passed and not passes:
                is_critical = new.critical or old.critical or new.item_id in critical
                found.append(
                    Regressed(
                        item_id=new.item_id,
                        critical=is_critical,
                        baseline=old.mean,
                        candidate=new.mean,
                    )
                )
        self.regressed = sorted(found, key=lambda one: (not one.critical, one.item_id))


def _judge_items(findings: "_Findings", regressed: Sequence[Regressed]) -> None:
    critical = [one for one in regressed if one.critical]
    if critical:
        findings.worse(
            f"{len(critical)} critical items went from pass to fail, such as "
            f"{critical[0].item_id!r}"
        )


def _judge_missing(findings: "_Findings", items: Sequence[ScoredItem], rules: LabelGate) -> None:
    """Note critical items that nobody evaluated: both sides may have left out the same ones."""
    missing = set(rules.critical_items) - {item.item_id for item in items}
    if missing:
        findings.lacking(
            f"{len(missing)} critical items were not evaluated, such as {min(missing)!r}"
        )


class _Findings:
    """What speaks against a candidate."""

    def __init__(self) -> None:
        self.reasons: list[str] = []
        self.verdict = Verdict.PASS

    def worse(self, reason: str) -> None:
        """Note that it is worse."""
        self.verdict = Verdict.REGRESSION
        self.reasons.append(reason)

    def lacking(self, reason: str) -> None:
        """Note that there is not enough evidence."""
        if self.verdict is Verdict.PASS:
            self.verdict = Verdict.INSUFFICIENT
        self.reasons.append(reason)

    def growth(self, what: str, new: float, old: float, limit: float) -> float | None:
        """Judge how something grew; return it, None where it is not known."""
        if old <= 0:
            return None
        if new <= 0:
            self.lacking(f"{what} were recorded for the baseline only")
            return None
        grown = new / old - 1
        if grown > limit + _ROUNDING:
            self.worse(f"{what} grew by {grown:.1%}, more than {limit:.1%}")
        return grown
