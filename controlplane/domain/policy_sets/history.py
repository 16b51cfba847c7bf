"""The history of a namespace's policies: what each change did, and the set as it was then.

A change stores what it replaced and what it put there, so the set at revision R is the present one
with every later change taken back, newest first. Pure.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Final

from controlplane.domain.policies import Effect, OnMissing, Policy, same_content
from controlplane.domain.policy_sets.tests import PolicyTest

HISTORY: Final = "policies"
"""Name of the history in the ledger."""

HISTORY_KEPT: Final = 1_000
"""Changes kept: years of hand-made ones."""

HEAD_KEY: Final = "live"
"""Storage key of the head of the live set."""

_STAMPS: Final = frozenset(("revision", "updated_at_ms", "updated_by"))


class ChangeKind(StrEnum):
    """What made a revision."""

    CREATED = "CREATED"
    UPDATED = "UPDATED"
    DELETED = "DELETED"
    ACTIVATED = "ACTIVATED"
    ROLLED_BACK = "ROLLED_BACK"
    SETTINGS = "SETTINGS"
    TESTS = "TESTS"


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyHead:
    """The live set as one thing: its revision is that of its last change.

    Every change writes it, so whoever replaces the whole set can make sure that nothing changed.
    """

    kind: ChangeKind
    revision: int = 0
    updated_at_ms: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredDefaults:
    """What the settings of the namespace said about the policies; None: as the daemon was told."""

    effect: Effect | None = None
    on_missing: OnMissing | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyChange:
    """One revision: what it replaced, what is there since; None where there was, or is, nothing."""

    kind: ChangeKind
    before: Mapping[str, Policy | None] = field(default_factory=dict)
    after: Mapping[str, Policy | None] = field(default_factory=dict)
    actor: str = ""
    reason: str = ""
    candidate_id: str = ""
    """Of ACTIVATED: what was activated."""
    restored_from: int = 0
    """Of ROLLED_BACK: the revision whose content is back."""
    defaults_before: StoredDefaults | None = None
    """None: this change left the defaults alone."""
    defaults_after: StoredDefaults | None = None
    tests_before: tuple[PolicyTest, ...] | None = None
    """None: this change left the tests alone."""
    tests_after: tuple[PolicyTest, ...] | None = None
    revision: int = 0
    created_at_ms: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicySnapshot:
    """Everything that a revision stands for."""

    policies: Mapping[str, Policy]
    defaults: StoredDefaults = StoredDefaults()
    tests: tuple[PolicyTest, ...] = ()


def rebuilt(
    present: PolicySnapshot, changes: Iterable[PolicyChange], revision: int
) -> PolicySnapshot:
    """Return the set as it was at `revision`.

    `changes` are those up to the present, newest first; they may go on beyond `revision`, and none
    above it may be missing.
    """
    policies = dict(present.policies)
    defaults, tests = present.defaults, present.tests
    for change in changes:
        if change.revision <= revision:
            break
        take_back(policies, change)
        if change.defaults_before is not None:
            defaults = change.defaults_before
        if change.tests_before is not None:
            tests = change.tests_before
    return PolicySnapshot(policies=policies, defaults=defaults, tests=tests)


def take_back(policies: dict[str, Policy], change: PolicyChange) -> None:
    """Undo what a change did to the policies."""
    for policy_id, before in change.before.items():
        if before is None:
            policies.pop(policy_id, None)
        else:
            policies[policy_id] = before


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyDifference:
    """One policy that says something else in another set, or is in one of them only."""

    policy_id: str
    before: Policy | None
    after: Policy | None

    @property
    def fields(self) -> tuple[str, ...]:
        """Attributes of `Policy` that differ; empty when it is in one of the sets only."""
        before, after = self.before, self.after
        if before is None or after is None:
            return ()
        return tuple(
            one.name
            for one in fields(Policy)
            if one.name not in _STAMPS and getattr(before, one.name) != getattr(after, one.name)
        )


def differences(
    before: Mapping[str, Policy], after: Mapping[str, Policy]
) -> tuple[PolicyDifference, ...]:
    """Return what differs between two sets, by id; who wrote what and when does not count."""
    found = []
    for policy_id in sorted(before.keys() | after.keys()):
        one, other = before.get(policy_id), after.get(policy_id)
        if one is None or other is None or not same_content(one, other):
            found.append(PolicyDifference(policy_id=policy_id, before=one, after=other))
    return tuple(found)
