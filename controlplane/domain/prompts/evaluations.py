"""Evaluations: how a version did on a data set, item by item."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil, isfinite
from typing import Final

from controlplane.domain.errors import FieldViolation, InvalidArgument
from controlplane.domain.prompts.content import check_digest
from controlplane.domain.prompts.labels import MAX_CRITICAL_ITEMS, MAX_SCORER_BYTES
from controlplane.domain.prompts.model import LabelGate

MAX_ITEMS: Final = 10_000
"""Items of an evaluation: with 20 trials each it fits into one message of 4 MiB."""

MAX_TRIALS: Final = 20
"""Trials of an item."""

MAX_ITEM_ID_BYTES: Final = 256
MAX_VIOLATIONS: Final = 20
"""Wrong items that are named at once."""

MAX_COST: Final = 1e12
"""Largest cost, in whatever unit: keeps sums exact enough."""

MAX_LATENCY_MS: Final = 86_400_000.0
"""A day."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredItem:
    """How one item went.

    Attributes:
        item_id: Which.
        scores: Of every trial, 0-1.
        passed: Whether each trial passed; empty: by its score.
        critical: It must not go from pass to fail.
        cost: Of all trials.
        latency_ms: Mean of the trials.
    """

    item_id: str
    scores: tuple[float, ...]
    passed: tuple[bool, ...] = ()
    critical: bool = False
    cost: float = 0.0
    latency_ms: float = 0.0

    @property
    def mean(self) -> float:
        """Mean score of the trials."""
        return sum(self.scores) / len(self.scores)

    def passes(self, pass_score: float) -> bool:
        """Return whether most trials passed; half of them is not most."""
        outcomes = self.passed or tuple(score >= pass_score for score in self.scores)
        return 2 * sum(outcomes) > len(outcomes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """An evaluation without its items, which are kept apart.

    Attributes:
        items: How many.
        trials: Of each item.
        mean_score: Mean of the items' means.
        cost: Of all items; 0: not recorded.
        p95_latency_ms: 95th percentile of the items' latencies; 0: not recorded.
    """

    evaluation_id: str
    prompt: str
    version: int
    content_sha256: str
    dataset_sha256: str
    scorer: str
    scorer_version: str = ""
    model: str = ""
    seed: int = 0
    items: int = 0
    trials: int = 1
    mean_score: float = 0.0
    cost: float = 0.0
    p95_latency_ms: float = 0.0
    recorded_by: str = ""
    created_at_ms: int = 0
    revision: int = 0


def p95(values: Sequence[float]) -> float:
    """Return the 95th percentile, by nearest rank; 0 of nothing."""
    if not values:
        return 0.0
    return sorted(values)[ceil(0.95 * len(values)) - 1]


def check_items(items: Sequence[ScoredItem]) -> None:
    """Check the items of an evaluation.

    Raises:
        InvalidArgument: none or too many, one twice, a score out of range, trials that differ.
    """
    if not 1 <= len(items) <= MAX_ITEMS:
        raise InvalidArgument.of("items", f"must have 1-{MAX_ITEMS:,} entries")
    trials = len(items[0].scores)
    wrong: list[FieldViolation] = []
    seen: set[str] = set()
    for index, item in enumerate(items):
        path = f"items[{index}]"
        wrong.extend(_item_violations(item, path, trials))
        if item.item_id in seen:
            wrong.append(FieldViolation(f"{path}.item_id", "is there twice"))
        seen.add(item.item_id)
        if len(wrong) >= MAX_VIOLATIONS:
            break
    if wrong:
        raise InvalidArgument(*wrong)


def _item_violations(item: ScoredItem, path: str, trials: int) -> Iterator[FieldViolation]:
    if not 1 <= len(item.item_id.encode()) <= MAX_ITEM_ID_BYTES:
        yield FieldViolation(f"{path}.item_id", f"must be 1-{MAX_ITEM_ID_BYTES} bytes")
    if not 1 <= len(item.scores) <= MAX_TRIALS:
        yield FieldViolation(f"{path}.scores", f"must have 1-{MAX_TRIALS} entries")
    elif len(item.scores) != trials:
        yield FieldViolation(f"{path}.scores", f"must have {trials} entries, like the first item")
    if not all(0 <= score <= 1 for score in item.scores):  # NaN is not within either
        yield FieldViolation(f"{path}.scores", "must be 0-1")
    if item.passed and len(item.passed) != len(item.scores):
        yield FieldViolation(f"{path}.passed", "must be empty, or one per score")
    if not 0 <= item.cost <= MAX_COST:
        yield FieldViolation(f"{path}.cost", "must be 0 or more, and finite")
    if not 0 <= item.latency_ms <= MAX_LATENCY_MS:
        yield FieldViolation(f"{path}.latency_ms", "must be 0 - 86,400,000")


def check_run(dataset_sha256: str, scorer: str, scorer_version: str, model: str) -> None:
    """Check what an evaluation says of itself.

    Raises:
        InvalidArgument: the digest is none, the scorer is missing, or a text is too long.
    """
    check_digest(dataset_sha256, "dataset_sha256")
    if not scorer:
        raise InvalidArgument.of("scorer", "is required")
    for field, text in (("scorer", scorer), ("scorer_version", scorer_version), ("model", model)):
        if len(text.encode()) > MAX_SCORER_BYTES:
            raise InvalidArgument.of(field, f"is longer than {MAX_SCORER_BYTES} bytes")


def check_gate(gate: LabelGate) -> None:
    """Check a gate with its defaults filled in.

    Raises:
        InvalidArgument: naming `gate.<field>`.
    """
    wrong: list[FieldViolation] = []
    for name, value, low, high in (
        ("min_items", gate.min_items, 10, MAX_ITEMS),
        ("max_drop", gate.max_drop, 0, 0.5),
        ("pass_score", gate.pass_score, 0, 1),
        ("max_cost_growth", gate.max_cost_growth, 0, 10),
        ("max_latency_growth", gate.max_latency_growth, 0, 10),
    ):
        if not (isfinite(value) and low <= value <= high):
            wrong.append(FieldViolation(f"gate.{name}", f"must be {low} - {high:,}"))
    if len(gate.critical_items) > MAX_CRITICAL_ITEMS:
        limit = f"must have at most {MAX_CRITICAL_ITEMS:,} entries"
        wrong.append(FieldViolation("gate.critical_items", limit))
    if any(not 1 <= len(one.encode()) <= MAX_ITEM_ID_BYTES for one in gate.critical_items):
        wrong.append(FieldViolation("gate.critical_items", f"must be 1-{MAX_ITEM_ID_BYTES} bytes"))
    if wrong:
        raise InvalidArgument(*wrong)
    try:
        check_run(gate.dataset_sha256, gate.scorer, gate.scorer_version, "")
    except InvalidArgument as error:
        raise InvalidArgument(
            *(FieldViolation(f"gate.{v.field}", v.description) for v in error.violations)
        ) from None
