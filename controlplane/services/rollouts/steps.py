"""What a transition of a rollout writes: always one commit, fenced by the record's revision.

The effects of a transition are taken from the copy in memory and held to the revisions seen there:
if the copy lags, the commit fails and the next look decides again.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import islice
from typing import Final

from controlplane.domain.agents import Agent
from controlplane.domain.drains import Drain, DrainPhase, DrainThen, drain_key
from controlplane.domain.rollouts.model import (
    KEPT_ENDED,
    Rollout,
    active_rollout_key,
    outcome_counter,
)
from controlplane.domain.rollouts.shares import route_of
from controlplane.domain.rollouts.transitions import Effect, Transition, TransitionName
from controlplane.services.families import PLANE
from controlplane.services.lifecycle.activation import ActivationVerdict, judged
from controlplane.services.lifecycle.drain_steps import cancel_steps, drain_steps, forget_steps
from controlplane.services.ports import (
    AuditEntry,
    Collection,
    Delete,
    Expect,
    Put,
    Require,
    ResetCount,
    Step,
)
from controlplane.services.read_model import NamespaceView

MAX_RELEASED: Final = 500
"""Pins removed with the start of a drain: a few milliseconds of the store. More are left to expire;
a version that drains or is INACTIVE does not hold its sessions anyway."""

MAX_FORGOTTEN: Final = 5
"""Ended rollouts removed with the end of another one; usually it is one."""

EVENTS: Final[Mapping[TransitionName, str]] = {
    TransitionName.START: "rollout.started",
    TransitionName.REQUEST_APPROVAL: "rollout.approval_requested",
    TransitionName.ACTIVATE_CANARY: "rollout.activated",
    TransitionName.ENTER_STEP: "rollout.step_entered",
    TransitionName.NOTE_TRAFFIC: "rollout.traffic_seen",
    TransitionName.MEASURE: "rollout.measured",
    TransitionName.HOLD: "rollout.held",
    TransitionName.PASS_STEP: "rollout.step_passed",
    TransitionName.PAUSE: "rollout.paused",
    TransitionName.RESUME: "rollout.resumed",
    TransitionName.ADVANCE: "rollout.advanced",
    TransitionName.PROMOTE: "rollout.promoted",
    TransitionName.START_DRAIN_OLD: "rollout.old_draining",
    TransitionName.SUCCEED: "rollout.succeeded",
    TransitionName.ABORT: "rollout.aborted",
    TransitionName.START_DRAIN_NEW: "rollout.new_draining",
    TransitionName.ROLLED_BACK: "rollout.rolled_back",
    TransitionName.FAIL: "rollout.failed",
    TransitionName.SUPERSEDE: "rollout.superseded",
}
"""Public events of transitions."""


def transition_steps(
    view: NamespaceView,
    before: Rollout,
    transition: Transition,
    *,
    now_ms: int,
    verdict: ActivationVerdict | None = None,
) -> tuple[Step, ...]:
    """Return all that a transition writes. `verdict`: what was said about the activation."""
    after, effects = transition.after, transition.effects
    unchanged = Expect(revision=before.revision)
    steps: list[Step] = [Put(Collection.ROLLOUTS, after.rollout_id, after, unchanged)]
    if Effect.ROUTE in effects:
        steps.append(Put(Collection.ROUTES, after.name, route_of(after)))
    if verdict is not None and effects & {Effect.PARK, Effect.ACTIVATE_NEW}:
        steps.extend(_activation(view, after, verdict, now_ms))
    for effect, make in _OF_ONE_VERSION.items():
        if effect in effects:
            steps.extend(make(view, after, now_ms))
    if Effect.END in effects:
        steps.append(Delete(Collection.ACTIVE_ROLLOUTS, active_rollout_key(after.name)))
        steps.extend(forget_oldest(view, after))
    return tuple(steps)


def _activation(
    view: NamespaceView, rollout: Rollout, verdict: ActivationVerdict, now_ms: int
) -> Iterator[Step]:
    entry = view.agents[rollout.to_agent_id]
    before = entry.agent
    after = judged(before, verdict, asked_by=rollout.started_by, now_ms=now_ms)
    if verdict.allowed:
        after = replace(after, draining=False)
        yield from forget_steps(view.work.drains.get(drain_key(before.agent_id)))
        for live in entry.fresh_instances()[:1]:
            instance = live.instance
            seen = Expect(revision=instance.revision)
            yield Require(Collection.INSTANCES, instance.instance_id, seen)
    yield Put(Collection.AGENTS, before.agent_id, after, Expect(revision=before.revision))


def _agent(view: NamespaceView, agent_id: str) -> Agent | None:
    entry = view.agents.get(agent_id)
    return entry.agent if entry is not None else None


def _deactivation(view: NamespaceView, agent_id: str, rollout: Rollout) -> Iterator[Step]:
    agent = _agent(view, agent_id)
    if agent is not None and not agent.is_stopped:
        after = agent.deactivated(reason_of(rollout))
        yield Put(Collection.AGENTS, agent_id, after, Expect(revision=agent.revision))


def _drain(view: NamespaceView, agent_id: str, rollout: Rollout, now_ms: int) -> tuple[Step, ...]:
    agent = _agent(view, agent_id)
    if agent is None:
        return ()
    drain = Drain(
        agent_id=agent_id,
        then=DrainThen.DEACTIVATE,
        reason=reason_of(rollout),
        actor=PLANE,
        started_at_ms=now_ms,
        deadline_at_ms=rollout.retire_by_ms,
        held_at_start=len(view.work.tasks.held_of_agent(agent_id)),
    )
    return drain_steps(agent, None, drain, view.work.drains.get(drain.key))


def _undrain(view: NamespaceView, agent_id: str, now_ms: int) -> tuple[Step, ...]:
    agent, known = _agent(view, agent_id), view.work.drains.get(drain_key(agent_id))
    if agent is None or known is None or not agent.draining:
        return ()
    cancelled = replace(known, phase=DrainPhase.CANCELLED, ended_at_ms=now_ms)
    return cancel_steps(agent, None, cancelled, known)


def reason_of(rollout: Rollout) -> str:
    """Return why a rollout stops a version; never one of the reasons that a beat undoes."""
    return f"rollout {rollout.rollout_id}: {rollout.from_version} to {rollout.to_version}"


def _release(view: NamespaceView, agent_id: str) -> list[Step]:
    keys = (key for key, pin in view.work.pins.items() if pin.agent_id == agent_id)
    return [Delete(Collection.SESSION_PINS, key) for key in islice(keys, MAX_RELEASED)]


_OF_ONE_VERSION: Final[Mapping[Effect, Callable[[NamespaceView, Rollout, int], Iterable[Step]]]] = {
    Effect.DEACTIVATE_NEW: lambda view, one, _: _deactivation(view, one.to_agent_id, one),
    Effect.DEACTIVATE_OLD: lambda view, one, _: _deactivation(view, one.from_agent_id, one),
    Effect.DRAIN_NEW: lambda view, one, now: _drain(view, one.to_agent_id, one, now),
    Effect.DRAIN_OLD: lambda view, one, now: _drain(view, one.from_agent_id, one, now),
    Effect.UNDRAIN_OLD: lambda view, one, now: _undrain(view, one.from_agent_id, now),
    Effect.RELEASE_NEW: lambda view, one, _: _release(view, one.to_agent_id),
    Effect.RELEASE_OLD: lambda view, one, _: _release(view, one.from_agent_id),
}


def forget_oldest(view: NamespaceView, ending: Rollout) -> Iterator[Step]:
    """Yield the steps that remove what is beyond the ended rollouts that are kept of a name."""
    ended = [
        one
        for one in view.work.rollouts.values()
        if one.name == ending.name and one.phase.is_terminal and one.rollout_id != ending.rollout_id
    ]
    excess = len(ended) + 1 - KEPT_ENDED
    if excess <= 0:
        return
    ended.sort(key=lambda one: (one.ended_at_ms, one.rollout_id))
    for one in ended[: min(excess, MAX_FORGOTTEN)]:
        yield Delete(Collection.ROLLOUTS, one.rollout_id)
        for counter in _counters(one):
            yield ResetCount(counter)


def _counters(rollout: Rollout) -> Iterable[str]:
    """Return every counter that a rollout ever had; token 0 is the wait for the first step."""
    return (
        name
        for token in range(rollout.step_token + 1)
        for name in counters_of(replace(rollout, step_token=token))
    )


def counters_of(rollout: Rollout) -> tuple[str, str, str, str]:
    """Return the counters of the present step: new version ok and failed, old one ok and failed."""
    cohort, new, old = rollout.cohort, rollout.to_agent_id, rollout.from_agent_id
    return (
        outcome_counter(cohort, new, "ok"),
        outcome_counter(cohort, new, "failed"),
        outcome_counter(cohort, old, "ok"),
        outcome_counter(cohort, old, "failed"),
    )


def transition_audit(
    before: Rollout,
    transition: Transition,
    *,
    method: str,
    actor: str = PLANE,
    reason: str = "",
    request_id: str = "",
) -> AuditEntry:
    """Return the audit entry of a transition."""
    after = transition.after
    details = {"step_index": str(after.step_index), "weight_bp": str(after.weight_bp)}
    if after.phase is not before.phase:
        details |= {"before": str(before.phase), "after": str(after.phase)}
    return AuditEntry(
        actor=actor,
        method=method,
        object=f"rollouts/{after.rollout_id}",
        event=EVENTS[transition.name],
        reason=reason or after.message,
        request_id=request_id,
        details=details,
    )
