"""What several policies ask for together, and whether what was said is enough for it."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Final, Protocol

from controlplane.domain.approvals.model import (
    ANY_APPROVER,
    VOTES,
    Approval,
    Entry,
    EntryKind,
    Escalation,
    Requirement,
    Stage,
)
from controlplane.domain.approvals.people import is_among, is_owner
from controlplane.domain.policies import ApprovalRequirement

DEFAULT_STAGE: Final = "approval"
"""Name of a stage that has none."""

_ASKS: Final = ApprovalRequirement()


class Asking(Protocol):
    """A policy that may want an approval."""

    @property
    def approval(self) -> ApprovalRequirement | None:
        """What it asks for; None: one yes of anybody who may."""


def joined(policies: Iterable[Asking]) -> Requirement:
    """Return what satisfies each of some policies, in the order that they come in.

    Stages of the same name and the same people become one, with the higher quorum and the lower
    quorum of denials; all others stay, one after the other. The shortest times hold, and the
    longest delay; whatever one policy forbids is forbidden.
    """
    asked = [policy.approval or _ASKS for policy in policies] or [_ASKS]
    stages: list[Stage] = []
    for requirement in asked:
        for stage in _stages_of(requirement):
            _add(stages, stage)
    return Requirement(
        stages=_named_apart(stages),
        ttl_ms=min(one.ttl_ms for one in asked),
        use_window_ms=min(one.use_window_ms for one in asked),
        delay_ms=max(one.not_before_delay_ms for one in asked),
        prevent_owner=any(one.prevent_owner for one in asked),
        irreversible=any(one.irreversible for one in asked),
    )


def _stages_of(requirement: ApprovalRequirement) -> Iterable[Stage]:
    escalations = tuple(
        Escalation(after_ms=one.after_ms, eligible=one.eligible) for one in requirement.escalations
    )
    if not requirement.stages:
        yield Stage(name=DEFAULT_STAGE, escalations=escalations)
    for stage in requirement.stages:
        yield Stage(
            name=stage.name or DEFAULT_STAGE,
            quorum=max(stage.quorum, 1),
            deny_quorum=max(stage.deny_quorum, 1),
            eligible=stage.eligible or (ANY_APPROVER,),
            escalations=escalations,
        )


def _add(stages: list[Stage], stage: Stage) -> None:
    for place, known in enumerate(stages):
        if (known.name, set(known.eligible), known.escalations) == (
            stage.name,
            set(stage.eligible),
            stage.escalations,
        ):
            stages[place] = replace(
                known,
                quorum=max(known.quorum, stage.quorum),
                deny_quorum=min(known.deny_quorum, stage.deny_quorum),
            )
            return
    stages.append(stage)


def _named_apart(stages: Iterable[Stage]) -> tuple[Stage, ...]:
    """Return stages whose names differ: those of other people get a number."""
    named: list[Stage] = []
    taken: set[str] = set()
    for stage in stages:
        name, number = stage.name, 1
        while name in taken:
            number += 1
            name = f"{stage.name}-{number}"
        taken.add(name)
        named.append(replace(stage, name=name))
    return tuple(named)


def is_covered(approval: Approval, wanted: Requirement, now_ms: int) -> bool:
    """Return whether the votes of a granted approval satisfy what is asked for by now.

    Each vote counts once, for one stage, if its voter is eligible there; in which stage he voted
    does not matter any more. A standing grant satisfies everything but what is irreversible.
    """
    if now_ms < approval.opened_at_ms + wanted.delay_ms:
        return False
    if approval.standing_grant_id:
        return not wanted.irreversible
    if wanted.stages == approval.requirement.stages and (
        approval.requirement.prevent_owner or not wanted.prevent_owner
    ):
        return True
    votes = [
        entry
        for entry in approval.entries
        if entry.kind is EntryKind.GRANT
        and not (wanted.prevent_owner and _is_of_owner(approval, entry))
    ]
    denied = sum(entry.kind is EntryKind.DENY for entry in approval.entries)
    if denied and any(denied >= stage.deny_quorum for stage in wanted.stages):
        return False
    return _can_fill(approval, wanted.stages, votes)


def _is_of_owner(approval: Approval, vote: Entry) -> bool:
    """Return whether the voter, or who handed him the vote, owns the agent."""
    givers = (
        entry
        for entry in approval.entries
        if entry.kind is EntryKind.DELEGATED and entry.by == vote.delegate
    )
    return any(
        is_owner(approval.agent_owner, one.by, (*one.subjects, one.person))
        for one in (vote, *givers)
    )


def _can_fill(approval: Approval, stages: Sequence[Stage], votes: Sequence[Entry]) -> bool:
    """Return whether each stage can have its quorum of the votes, none of them used twice."""
    seats = [stage for stage in stages for _ in range(stage.quorum)]
    if len(votes) < len(seats):
        return False
    taken: dict[int, int] = {}

    def seated(seat: int, tried: set[int]) -> bool:
        for place, vote in enumerate(votes):
            if place in tried or not _fits(approval, seats[seat], vote):
                continue
            tried.add(place)
            if place not in taken or seated(taken[place], tried):
                taken[place] = seat
                return True
        return False

    return all(seated(seat, set()) for seat in range(len(seats)))


def _fits(approval: Approval, stage: Stage, vote: Entry) -> bool:
    """Return whether the voter, or who handed him the vote, is eligible in a stage."""
    eligible = eligible_in(stage, vote.at_ms - approval.opened_at_ms)
    if is_among(eligible, vote.by, vote.subjects, may_approve=True):
        return True
    return any(
        is_among(eligible, entry.by, entry.subjects, may_approve=True)
        for entry in approval.entries
        if entry.kind is EntryKind.DELEGATED and entry.by == vote.delegate
    )


def eligible_in(stage: Stage, waited_ms: int) -> tuple[str, ...]:
    """Return who may vote in a stage once a request has waited for so long."""
    added = (
        subject
        for escalation in stage.escalations
        if waited_ms >= escalation.after_ms
        for subject in escalation.eligible
    )
    return tuple(dict.fromkeys((*stage.eligible, *added)))


def votes_in(approval: Approval, stage: Stage, kind: EntryKind) -> int:
    """Return how many said one thing in a stage."""
    return sum(
        entry.kind is kind and entry.stage == stage.name
        for entry in approval.entries
        if entry.kind in VOTES
    )


def open_stage(approval: Approval) -> Stage | None:
    """Return the stage whose turn it is; None once all are complete."""
    for stage in approval.requirement.stages:
        if votes_in(approval, stage, EntryKind.GRANT) < stage.quorum:
            return stage
    return None
