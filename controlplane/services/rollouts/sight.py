"""What the reconciler sees for the machine: versions, outcomes, demand, from memory and counters.

Only what the next decision can depend on is looked at: a rollout that waits costs microseconds.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Final

from controlplane.domain.agents import Agent, InstanceState
from controlplane.domain.approvals.model import ApprovalState
from controlplane.domain.drains import DrainPhase, drain_key
from controlplane.domain.rollouts.model import (
    NO_COUNTS,
    BeatMark,
    Counts,
    OutcomeSource,
    Phase,
    Rollout,
)
from controlplane.domain.rollouts.observed import Approval, Observed, Version
from controlplane.services.lifecycle.activation import ActivationVerdict
from controlplane.services.lifecycle.activation_approvals import answer_to, refusal_in_words
from controlplane.services.lifecycle.drain_targets import under_way
from controlplane.services.live_instances import AgentEntry, LiveInstance
from controlplane.services.read_model import NamespaceView

MAX_MARKS: Final = 500
"""Instances per version whose beats are counted: enough outcomes for any test, and a record that
stays below 100 KiB."""

Ask = Callable[[NamespaceView, AgentEntry], ActivationVerdict]
"""Asks configuration and policies about an activation."""


def is_counted(rollout: Rollout) -> bool:
    """Return whether outcomes of the present step matter to the next decision."""
    match rollout.phase:
        case Phase.PROGRESSING:
            return not rollout.entering
        case Phase.PAUSED:
            return bool(rollout.step_token and rollout.weight_bp)
        case Phase.PROMOTING:
            return not rollout.promote_requested
        case _:
            return False


def observe(
    view: NamespaceView,
    rollout: Rollout,
    counted: Sequence[int],
    ask: Ask,
    *,
    mass_silence: bool,
    pinned: "PinnedWork",
) -> tuple[Observed, ActivationVerdict | None]:
    """Return what is seen of a rollout, and what was said about the activation if it was asked.

    `counted`: the values of `rollout_steps.counters_of`; empty if `is_counted` says no.
    """
    new, old = view.agents.get(rollout.to_agent_id), view.agents.get(rollout.from_agent_id)
    seen = Observed(canary=version_of(new), stable=version_of(old), mass_silence=mass_silence)
    if counted:
        seen = _with_outcomes(view, rollout, counted, seen, new, old)
    match rollout.phase:
        case Phase.PENDING:
            verdict = _verdict(view, rollout, seen, new, ask)
            seen = replace(seen, emergency=_was_stopped_since(view, rollout, seen))
            if seen.canary is not None and seen.canary.fresh:
                seen = _ready_to_enter(view, rollout, seen, new, old)
            return _with_verdict(view, seen, new, verdict), verdict
        case Phase.PROGRESSING if (
            rollout.entering or rollout.step_passed or rollout.promote_requested
        ):
            seen = _ready_to_enter(view, rollout, seen, new, old)
        case Phase.ABORTING if not rollout.evicting:
            seen = replace(seen, pinned_work=pinned.holds(rollout.to_agent_id))
        case Phase.DRAINING_OLD:
            seen = replace(seen, drain=_drain_of(view, old))
        case Phase.DRAINING_NEW:
            seen = replace(seen, drain=_drain_of(view, new))
        case _:
            pass
    return seen, None


class PinnedWork:
    """Which versions have sessions pinned to them with a task that has not ended.

    Belongs to one look: found out at the first question, for all rollouts that ask.
    """

    __slots__ = ("_holders", "_view")

    def __init__(self, view: NamespaceView) -> None:
        self._view = view
        self._holders: frozenset[str] | None = None

    def holds(self, agent_id: str) -> bool:
        """Return whether a version has such sessions."""
        if self._holders is None:
            busy = self._view.work.tasks.by_session
            pins = self._view.work.pins.values()
            self._holders = frozenset(pin.agent_id for pin in pins if pin.session_id in busy)
        return agent_id in self._holders


def version_of(entry: AgentEntry | None) -> Version | None:
    """Return how a version stands; None: it is not known."""
    if entry is None:
        return None
    agent = entry.agent
    fresh = silent = free = 0
    for live in entry.instances.values():
        instance = live.instance
        if instance.state is InstanceState.FRESH:
            fresh += 1
            free += not instance.draining
        elif instance.state is not InstanceState.STARTING:
            silent += 1
    return Version(
        status=agent.status,
        stopped=agent.is_stopped,
        draining=agent.draining,
        fresh=fresh,
        silent=silent,
        slots=free * agent.spec.max_concurrency,
    )


def _was_stopped_since(view: NamespaceView, rollout: Rollout, seen: Observed) -> bool:
    """Whether an emergency stop since the rollout began is about the new version."""
    if seen.canary is None or not seen.canary.stopped:
        return False
    return any(
        stop.started_at_ms >= rollout.started_at_ms and rollout.to_agent_id in stop.agent_ids
        for stop in view.work.stops.values()
    )


def _verdict(
    view: NamespaceView, rollout: Rollout, seen: Observed, new: AgentEntry | None, ask: Ask
) -> ActivationVerdict | None:
    """Ask about the activation, once it is what the rollout waits for."""
    canary = seen.canary
    if new is None or canary is None or canary.is_live:
        return None
    return ask(view, new) if canary.fresh >= rollout.plan.min_fresh_instances else None


def _waited_for(
    view: NamespaceView, new: Agent, verdict: ActivationVerdict
) -> tuple[Approval, str]:
    """Return how an activation stands that people have to approve, in words as well."""
    pending = new.pending if verdict.confirmed_by(new.pending) else None
    answer = answer_to(view, pending)
    if answer is None:
        return Approval.WANTED, f"{verdict.detail}; its approval is being opened"
    named = f"approval {answer.approval_id}"
    if answer.state is ApprovalState.DENIED:
        return Approval.REFUSED, f"{refusal_in_words(answer)} ({named})"
    if answer.state.is_open:
        return Approval.WANTED, f"{verdict.detail}; waits for {named}"
    again = f"ask again with Activate(agent_id={new.agent_id!r})"
    return Approval.WANTED, f"{verdict.detail}; {named} is {answer.state}: {again}"


def _with_verdict(
    view: NamespaceView, seen: Observed, new: AgentEntry | None, verdict: ActivationVerdict | None
) -> Observed:
    if verdict is None or new is None:
        return seen
    approval, detail = Approval.REFUSED, verdict.detail
    if verdict.allowed:
        approval = Approval.GRANTED
    elif verdict.wants_approval:
        approval, detail = _waited_for(view, new.agent, verdict)
    return replace(
        seen,
        approval=approval,
        approval_detail=detail,
        approval_parked=verdict.confirmed_by(new.agent.pending),
    )


def _ready_to_enter(
    view: NamespaceView,
    rollout: Rollout,
    seen: Observed,
    new: AgentEntry | None,
    old: AgentEntry | None,
) -> Observed:
    """Add what the entry of a step depends on, and begins with."""
    total, failed = view.work.tasks.recent_outcomes(rollout.from_agent_id)
    marks: tuple[BeatMark, ...] = ()
    if rollout.plan.analysis.source is not OutcomeSource.TASKS:
        marks = (*_marks_now(new, canary=True), *_marks_now(old, canary=False))
    return replace(
        seen,
        baseline=Counts(total=total, failed=failed),
        demand=_demand(view, rollout, new, old),
        marks_at_entry=marks,
    )


def _demand(
    view: NamespaceView, rollout: Rollout, new: AgentEntry | None, old: AgentEntry | None
) -> int:
    """Return how many slots the work of the agent name takes: in flight, and waiting."""
    taken = sum(
        live.load for entry in (new, old) if entry is not None for live in entry.instances.values()
    )
    waiting = sum(
        len(group)
        for want, groups in view.work.tasks.waiting.by_want.items()
        if want.agent_name == rollout.name
        for group in groups.values()
    )
    return taken + waiting


def _with_outcomes(
    view: NamespaceView,
    rollout: Rollout,
    counted: Sequence[int],
    seen: Observed,
    new: AgentEntry | None,
    old: AgentEntry | None,
) -> Observed:
    """Add the outcomes of the step: of tasks, or of beats where there are no tasks."""
    source = rollout.plan.analysis.source
    new_ok, new_failed, old_ok, old_failed = counted
    has_work = _holds_work(view, rollout, rollout.to_agent_id)
    by_tasks = source is OutcomeSource.TASKS or (
        source is OutcomeSource.AUTO
        and (any(counted) or has_work or _holds_work(view, rollout, rollout.from_agent_id))
    )
    if by_tasks:
        return replace(
            seen,
            canary_counts=Counts(total=new_ok + new_failed, failed=new_failed),
            stable_counts=Counts(total=old_ok + old_failed, failed=old_failed),
            marks=rollout.marks,
            traffic=has_work or new_ok + new_failed > 0,
        )
    marks = _brought_up_to_date(rollout, new, old)
    canary = _sum(mark for mark in marks if mark.canary)
    works = new is not None and any(live.outside for live in new.instances.values())
    return replace(
        seen,
        canary_counts=canary,
        stable_counts=_sum(mark for mark in marks if not mark.canary),
        marks=marks,
        traffic=works or canary.total > 0,
    )


def _holds_work(view: NamespaceView, rollout: Rollout, agent_id: str) -> bool:
    """Whether a version works on a task that began in this step."""
    held = view.work.tasks.held_of_agent(agent_id)
    return bool(held) and any(task.cohort == rollout.cohort for task in held.values())


def _marks_now(entry: AgentEntry | None, *, canary: bool) -> list[BeatMark]:
    if entry is None:
        return []
    heard = [live for live in entry.instances.values() if _was_heard(live)]
    return [_mark(live, canary=canary, counts_all=False) for live in heard[:MAX_MARKS]]


def _was_heard(live: LiveInstance) -> bool:
    """Whether its counters are known here: after a restart they are not, until the next beat."""
    return bool(live.seq or live.completed or live.failed or live.in_flight)


def _mark(live: LiveInstance, *, canary: bool, counts_all: bool) -> BeatMark:
    """Begin to count an instance: from now on, or (`counts_all`) from the start of its process."""
    return BeatMark(
        instance_id=live.instance.instance_id,
        generation=live.instance.generation,
        canary=canary,
        completed_at_entry=0 if counts_all else live.completed,
        failed_at_entry=0 if counts_all else live.failed,
        completed=live.completed,
        failed=live.failed,
    )


def _brought_up_to_date(
    rollout: Rollout, new: AgentEntry | None, old: AgentEntry | None
) -> tuple[BeatMark, ...]:
    """Return the marks of the step with what beats say now.

    Processes that left keep what they said last; those that began within the step count in full.
    """
    marks = {(mark.instance_id, mark.generation): mark for mark in rollout.marks}
    for entry, canary in ((new, True), (old, False)):
        for live in entry.instances.values() if entry is not None else ():
            if not _was_heard(live):
                continue
            key = (live.instance.instance_id, live.instance.generation)
            mark = marks.get(key)
            if mark is None:
                if len(marks) < 2 * MAX_MARKS:
                    began_here = live.instance.registered_at_ms >= rollout.step_entered_at_ms
                    marks[key] = _mark(live, canary=canary, counts_all=began_here)
            elif (mark.completed, mark.failed) != (live.completed, live.failed):
                marks[key] = replace(
                    mark,
                    completed=max(live.completed, mark.completed),
                    failed=max(live.failed, mark.failed),
                )
    return tuple(marks.values())


def _sum(marks: Iterable[BeatMark]) -> Counts:
    completed = failed = 0
    for mark in marks:
        completed += mark.completed - mark.completed_at_entry
        failed += mark.failed - mark.failed_at_entry
    return Counts(total=completed + failed, failed=failed) if completed or failed else NO_COUNTS


def _drain_of(view: NamespaceView, entry: AgentEntry | None) -> DrainPhase | None:
    """Return the phase of the drain of a version, if it is about this life of it."""
    if entry is None:
        return None
    known = view.work.drains.get(drain_key(entry.agent.agent_id))
    if known is None or known.phase is not DrainPhase.DRAINING:
        return known.phase if known is not None else None
    return DrainPhase.DRAINING if under_way(known, entry.agent, None) is not None else None
