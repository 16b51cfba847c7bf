"""What a namespace sets for its policies as a whole: defaults, the decision log, approvals.

One record per namespace. Pure values and their rules; who reads them says so at each field.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NamedTuple

from controlplane.domain.errors import FieldViolation, InvalidArgument
from controlplane.domain.policies import Effect, OnMissing

SETTINGS_KEY: Final = "settings"
"""Storage key of the one record a namespace has."""

MAX_LOG_RULES: Final = 64
"""Rules of the decision log: each is tried in turn, once per distinct action."""

MAX_LOG_ACTIONS: Final = 64
"""Globs of one rule of the decision log."""

MAX_MASKED_PATHS: Final = 64
"""Paths of the context that are not recorded."""

MAX_CEILINGS: Final = 16
"""Attributes that an approval bounds from above instead of binding them exactly."""

MAX_PENDING_LIMIT: Final = 1_000
"""Highest `max_pending_per_agent`: beyond, nobody reads what waits for him."""

MAX_PATH_BYTES: Final = 256
"""Of a glob, a path or an attribute named in these settings."""


class Durability(StrEnum):
    """How certainly a decision is recorded.

    SYNC: the answer waits until it is. ASYNC: right after the answer; what a full queue loses is
    counted and leaves a gap record. SAMPLED: a share of them, recorded as ASYNC is.
    """

    SYNC = "SYNC"
    ASYNC = "ASYNC"
    SAMPLED = "SAMPLED"


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionLogRule:
    """How decisions on some actions are recorded."""

    actions: tuple[str, ...]
    """Globs as in the targets of policies; at least one."""
    durability: Durability = Durability.ASYNC
    sample_rate: float = 1.0
    """Of SAMPLED: the share that is recorded, above 0 and at most 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionLogSettings:
    """How decisions are recorded. The first rule that matches an action holds; none: ASYNC."""

    rules: tuple[DecisionLogRule, ...] = ()
    masked_paths: tuple[str, ...] = ()
    """Dotted paths of the context whose values are never recorded, such as `card.number`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovalSettings:
    """What holds for every approval of the namespace."""

    ceilings: tuple[str, ...] = ("estimated_cost",)
    """Attributes of the context that may be lower at use than when they were approved."""
    max_pending_per_agent: int = 20
    """Approvals that one agent may have waiting, 1-1,000."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicySettings:
    """The settings of a namespace. Immutable: a change is a new value."""

    default_effect: Effect | None = None
    """What is answered when no policy matches, ALLOW or DENY; None: as the daemon was told."""
    on_missing: OnMissing | None = None
    """What an absent attribute means to policies that do not say; None: as the daemon was told."""
    decision_log: DecisionLogSettings = DecisionLogSettings()
    approval: ApprovalSettings = ApprovalSettings()
    revision: int = 0
    """Revision of the namespace at which it was committed; 0: never. The store assigns it."""
    updated_by: str = ""
    """Who made this revision, as authenticated."""
    reason: str = ""
    """Why, in the author's words; may be empty."""
    updated_at_ms: int = 0
    """When, in milliseconds since the Unix epoch."""


class PolicyDefaults(NamedTuple):
    """What holds where neither a policy nor a namespace says anything: the daemon's settings."""

    effect: Effect = Effect.ALLOW
    on_missing: OnMissing = OnMissing.NO_MATCH

    def under(self, settings: PolicySettings | None) -> "PolicyDefaults":
        """Return what holds in a namespace with these settings (None: it has none)."""
        if settings is None:
            return self
        return PolicyDefaults(
            effect=settings.default_effect or self.effect,
            on_missing=settings.on_missing or self.on_missing,
        )


NO_DEFAULTS: Final = PolicyDefaults()
"""A daemon that was told nothing."""


def require_valid_settings(settings: PolicySettings) -> None:
    """Refuse settings that are not valid, naming fields as `settings.<path>`.

    Raises:
        InvalidArgument: with every violation.
    """
    violations = tuple(
        FieldViolation(f"settings.{field}", why) for field, why in _violations(settings)
    )
    if violations:
        raise InvalidArgument(*violations)


def _violations(settings: PolicySettings) -> Iterator[tuple[str, str]]:
    if settings.default_effect not in {None, Effect.ALLOW, Effect.DENY}:
        yield "default_action", "must be ALLOW or DENY"
    yield from _log_violations(settings.decision_log)
    yield from _texts("approval.ceilings", settings.approval.ceilings, MAX_CEILINGS)
    if not 1 <= settings.approval.max_pending_per_agent <= MAX_PENDING_LIMIT:
        yield "approval.max_pending_per_agent", f"must be 1-{MAX_PENDING_LIMIT:,}"


def _log_violations(log: DecisionLogSettings) -> Iterator[tuple[str, str]]:
    if len(log.rules) > MAX_LOG_RULES:
        yield "decision_log.rules", f"has more than {MAX_LOG_RULES} rules"
    for position, rule in enumerate(log.rules):
        here = f"decision_log.rules[{position}]"
        if not rule.actions:
            yield f"{here}.actions", "needs at least one glob"
        yield from _texts(f"{here}.actions", rule.actions, MAX_LOG_ACTIONS)
        if not 0 < rule.sample_rate <= 1:
            yield f"{here}.sample_rate", "must be above 0 and at most 1"
        elif rule.sample_rate != 1 and rule.durability is not Durability.SAMPLED:
            yield f"{here}.sample_rate", "is only for SAMPLED"
    yield from _texts("decision_log.masked_paths", log.masked_paths, MAX_MASKED_PATHS)


def _texts(field: str, texts: tuple[str, ...], most: int) -> Iterator[tuple[str, str]]:
    if len(texts) > most:
        yield field, f"has more than {most} entries"
    for position, text in enumerate(texts):
        if not text or len(text.encode(errors="replace")) > MAX_PATH_BYTES:
            yield f"{field}[{position}]", f"must be 1-{MAX_PATH_BYTES} bytes"
