"""What recorded decisions would come out as under other policies: judged one by one, tallied. Pure.

A flip is a decision whose effect would be another one. A record is judged on the facts, claims and
time that it has; one that lacks what a policy would look at is counted, and not judged. Whether a
policy is in force is judged today: one that begins tomorrow would flip nothing of yesterday.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final

from controlplane.domain.decisions.records import DecisionRecord
from controlplane.domain.policies import (
    Decision,
    Effect,
    Policy,
    PolicySet,
    Request,
    Truth,
    claims_read,
    overlaps,
    same_content,
    settled,
)

MAX_EXAMPLES: Final = 50
"""Flips that are shown one by one."""

MAX_GROUPS: Final = 100
"""Agents and policies that flips are counted by in a report; the most frequent ones."""

NO_POLICY: Final = "(default)"
"""Stands for the default where no policy determined an answer."""


class NotReplayable(StrEnum):
    """Why a decision could not be judged again.

    MASKED: a policy would look at a value that was not stored. LOST: it was made and not recorded.
    UNREADABLE: its record is damaged, or of a newer release.
    """

    MASKED = "MASKED"
    LOST = "LOST"
    UNREADABLE = "UNREADABLE"


@dataclass(frozen=True, slots=True, kw_only=True)
class Flip:
    """One decision that would come out otherwise."""

    decision_id: str
    at_ms: int
    agent_id: str
    agent_name: str
    action: str
    tool: str
    before: Decision
    after: Decision


@dataclass(slots=True)
class ReplayReport:
    """What a replay found; grows while it runs."""

    recorded: int = 0
    """Decisions that were found in the log."""
    replayed: int = 0
    """Of those, decisions that were judged again."""
    not_replayable: Counter[NotReplayable] = field(default_factory=Counter)
    """Decisions that were not judged; LOST ones come on top of `recorded`."""
    sampled: int = 0
    """Of `replayed`, records that stand for several decisions."""
    unsampled: float = 0.0
    """Decisions that those stand for besides themselves."""
    oldest_ms: int = 0
    newest_ms: int = 0
    flips: int = 0
    agreed_by_live: int = 0
    """Of `flips`, decisions that the live policies of today answer as the candidate does."""
    caused: float = 0.0
    """Decisions behind the flips that are not agreed by live; a sampled one stands for several."""
    undecidable: float = 0.0
    """Decisions behind MASKED ones that hang on a policy which is not live: they may flip."""
    by_effect: Counter[tuple[Effect, Effect]] = field(default_factory=Counter)
    by_agent: Counter[tuple[str, str]] = field(default_factory=Counter)
    """By (agent_id, agent_name)."""
    by_policy: Counter[str] = field(default_factory=Counter)
    """By the policies that determine one of the two answers and not the other."""
    examples: list[Flip] = field(default_factory=list)

    @property
    def made(self) -> int:
        """Decisions that were made, as far as the log knows."""
        return self.recorded + self.not_replayable[NotReplayable.LOST]

    def within(self, max_flips: int) -> bool:
        """Whether no more decisions than that come out otherwise, for all that can be told.

        What may flip counts as if it did, and a replay that could judge nothing proves nothing.
        """
        blind = self.made > 0 and not self.replayed
        return not blind and self.caused + self.undecidable <= max_flips

    def seen(self, record: DecisionRecord) -> None:
        """Count a record that was found."""
        self.recorded += 1
        self.oldest_ms = min(self.oldest_ms, record.at_ms) if self.oldest_ms else record.at_ms
        self.newest_ms = max(self.newest_ms, record.at_ms)

    def add(self, flip: Flip, *, live: Decision | None, stands_for: float) -> None:
        """Count a decision that would come out otherwise."""
        before, after = flip.before, flip.after
        self.flips += 1
        if live is not None and live.effect is after.effect:
            self.agreed_by_live += 1
        else:
            self.caused += stands_for
        self.by_effect[before.effect, after.effect] += 1
        self.by_agent[flip.agent_id, flip.agent_name] += 1
        self.by_policy.update(involved(before, after))
        if len(self.examples) < MAX_EXAMPLES:
            self.examples.append(flip)


def involved(before: Decision, after: Decision) -> frozenset[str]:
    """Return the policies behind a flip: those that determine one answer and not the other."""
    ours = frozenset(before.determining or (NO_POLICY,))
    theirs = frozenset(after.determining or (NO_POLICY,))
    return ours ^ theirs or theirs


class Judge:
    """Judges records under one set of policies. Not shared between threads."""

    def __init__(self, rules: PolicySet, live: PolicySet | None = None) -> None:
        """Judge under `rules`; `live` (None: do not ask) says which flips are none any more."""
        self._rules = rules
        self._live = live
        self._reads = {
            policy.policy_id: paths
            for policy in rules.policies
            if policy.enabled and (paths := claims_read(policy))
        }
        self._fresh = frozenset(
            policy_id for policy_id in self._reads if not _holds(live, rules, policy_id)
        )
        """Of those, policies that are not live as they are."""

    def judge(self, records: Iterable[DecisionRecord], report: ReplayReport) -> None:
        """Judge records and add to the report what comes of it."""
        for record in records:
            report.seen(record)
            request = Request(
                agent_id=record.agent_id,
                action=record.action,
                facts=record.facts,
                claims=record.claims,
                now_ms=record.at_ms,
                tool=record.tool,
            )
            stands_for = 1 / record.sample_rate
            hangs_on = self._hangs_on_masked(record, request) if record.masked_paths else set()
            if hangs_on:
                report.not_replayable[NotReplayable.MASKED] += 1
                if not hangs_on.isdisjoint(self._fresh):
                    report.undecidable += stands_for
                continue
            report.replayed += 1
            if record.sample_rate < 1:
                report.sampled += 1
                report.unsampled += stands_for - 1
            after = self._rules.evaluate(request)
            if after.effect is record.decision.effect:
                continue
            live = self._live.evaluate(request) if self._live is not None else None
            report.add(flip_of(record, after), live=live, stands_for=stands_for)

    def _hangs_on_masked(self, record: DecisionRecord, request: Request) -> set[str]:
        """Return the policies whose condition cannot be told without what is masked."""
        found = set()
        masked = [tuple(path.split(".")) for path in record.masked_paths]
        for policy_id, paths in self._reads.items():
            if not any(overlaps(path, masked) for path in paths):
                continue
            explained = self._rules.why_not(policy_id, request)
            if explained is None or explained.condition is None:
                continue
            if settled(explained.condition, masked) is Truth.UNKNOWN:
                found.add(policy_id)
        return found


def in_force(policies: Iterable[Policy], now_ms: int) -> list[Policy]:
    """Return the policies that are in force now or later, as if they had always been."""
    return [
        replace(one, not_before_ms=None, not_after_ms=None)
        for one in policies
        if one.not_after_ms is None or now_ms < one.not_after_ms
    ]


def _holds(live: PolicySet | None, rules: PolicySet, policy_id: str) -> bool:
    """Whether the live set has a policy with the same content."""
    one = rules.get(policy_id)
    other = None if live is None else live.get(policy_id)
    return one is not None and other is not None and same_content(one, other)


def flip_of(record: DecisionRecord, after: Decision) -> Flip:
    """Return a flip as a report shows it."""
    return Flip(
        decision_id=record.decision_id,
        at_ms=record.at_ms,
        agent_id=record.agent_id,
        agent_name=record.agent_name,
        action=record.action,
        tool=record.tool,
        before=record.decision,
        after=after,
    )


def most(counted: Mapping[str, int]) -> list[tuple[str, int]]:
    """Return the most frequent, most first, then by name; at most `MAX_GROUPS`."""
    return sorted(counted.items(), key=lambda item: (-item[1], item[0]))[:MAX_GROUPS]
