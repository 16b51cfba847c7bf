"""What a rollout does next: a pure function of its record, of what was seen, and of the time.

    PENDING       new version gone, refused, or too late -> FAIL
                  fresh instances -> REQUEST_APPROVAL / ACTIVATE_CANARY -> ENTER_STEP
    PROGRESSING   lost or stopped -> ABORT; first work -> NOTE_TRAFFIC; outcomes -> MEASURE,
                  PASS_STEP, ABORT, PAUSE; passed -> ENTER_STEP, PAUSE or PROMOTE
    PAUSED        lost, stopped, worse, or too long -> ABORT
    PROMOTING     lost, stopped or worse -> ABORT; warm for long enough -> START_DRAIN_OLD
    DRAINING_OLD  the old version is INACTIVE -> SUCCEED; the new one stopped -> ABORT
    ABORTING      sessions of the new version are done -> START_DRAIN_NEW
    DRAINING_NEW  the new version is INACTIVE -> ROLLED_BACK

No data never promotes. While most of the fleet is silent the fault is probably ours, so nothing
moves but what an operator has decided. Skipping steps for a version that was good before (a
rollback window) is not done: every version passes its steps.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from math import ceil
from typing import Final

from controlplane.domain.agents import AgentStatus
from controlplane.domain.rollouts import transitions
from controlplane.domain.rollouts.analysis import judge
from controlplane.domain.rollouts.case import MASS_SILENCE, STOPPED_BY_OPERATOR, Case
from controlplane.domain.rollouts.deadlines import phase_deadline_ms, step_may_pass_at_ms
from controlplane.domain.rollouts.model import (
    Measurement,
    OnInconclusive,
    PauseReason,
    Phase,
    Rollout,
    Verdict,
)
from controlplane.domain.rollouts.observed import Approval, Observed, Version
from controlplane.domain.rollouts.retirement import aborting, draining_new, draining_old, retire_old
from controlplane.domain.rollouts.transitions import Transition, TransitionName
from controlplane.domain.routes import WHOLE_BP

__all__ = ["SUCCESSORS", "next_transition", "phase_deadline_ms", "step_may_pass_at_ms"]
"""Deadlines are kept in `deadlines`, and are asked for here."""

MEASURE_EVERY_MS: Final = 2_000
"""Time between two looks that are kept: a verdict is acted on at once, its history need not be
finer."""

MAX_ERRORS_IN_A_ROW: Final = 4
"""Looks that may fail; the next one pauses."""

HEADROOM: Final = 1.2
"""Slots that the new version must have for each that its share of the work takes."""

INSUFFICIENT_CAPACITY: Final = "INSUFFICIENT_CAPACITY"

SUCCESSORS: Final[Mapping[Phase, frozenset[Phase]]] = {
    Phase.PENDING: frozenset(
        {Phase.PROGRESSING, Phase.PROMOTING, Phase.PAUSED, Phase.ABORTING, Phase.FAILED}
    ),
    Phase.PROGRESSING: frozenset({Phase.PAUSED, Phase.PROMOTING, Phase.ABORTING}),
    Phase.PAUSED: frozenset({Phase.PENDING, Phase.PROGRESSING, Phase.ABORTING, Phase.FAILED}),
    Phase.PROMOTING: frozenset({Phase.PAUSED, Phase.DRAINING_OLD, Phase.SUCCEEDED, Phase.ABORTING}),
    Phase.DRAINING_OLD: frozenset({Phase.SUCCEEDED, Phase.ABORTING}),
    Phase.ABORTING: frozenset({Phase.DRAINING_NEW, Phase.ROLLED_BACK}),
    Phase.DRAINING_NEW: frozenset({Phase.ROLLED_BACK}),
    Phase.SUCCEEDED: frozenset(),
    Phase.ROLLED_BACK: frozenset(),
    Phase.FAILED: frozenset(),
    Phase.SUPERSEDED: frozenset(),
}
"""Which phase may follow which, operators included; SUPERSEDED may follow all that have not ended
but DRAINING_OLD."""


def next_transition(rollout: Rollout, seen: Observed, now_ms: int) -> Transition | None:
    """Return what is due now; None: nothing. The same input gives the same answer anywhere."""
    rule = _RULES.get(rollout.phase)
    return rule(Case(rollout, seen, now_ms)) if rule is not None else None


def _pending(case: Case) -> Transition | None:  # noqa: PLR0911 - a list of guards reads best flat
    rollout, canary = case.rollout, case.seen.canary
    if canary is None or canary.status is AgentStatus.DECOMMISSIONED:
        return transitions.fail(rollout, case.now_ms, "the new version is gone")
    if case.frozen():
        return case.hold_frozen()
    if canary.stopped and (rollout.activated or case.seen.emergency or not rollout.stopped_before):
        # Whoever stopped it did so after it was to be rolled out.
        return (
            case.abort(STOPPED_BY_OPERATOR, hard=True)
            if rollout.activated
            else transitions.fail(rollout, case.now_ms, STOPPED_BY_OPERATOR)
        )
    if rollout.approval_since_ms and canary.is_live:
        return transitions.approved(rollout, case.now_ms)
    if case.is_late:
        message = f"the new version did not come to work in time: {rollout.message}"
        return transitions.fail(rollout, case.now_ms, message, deactivate=canary.is_live)
    missing = _missing(case, canary)
    if missing:
        return case.hold(missing)
    if not canary.is_live:
        return _activation(case)
    if rollout.promote_requested:
        return _promotion(case, canary)
    return _entry(case, canary, rollout.step_index)


def _missing(case: Case, canary: Version) -> str:
    """Return what the new version lacks to be given work, in words; empty: nothing."""
    wanted = case.rollout.plan.min_fresh_instances
    if canary.fresh < wanted:
        return f"waits for fresh instances of {case.rollout.to_version}: {canary.fresh} of {wanted}"
    if canary.draining and canary.is_live:
        return "waits: the new version is being drained"
    return ""


def _activation(case: Case) -> Transition | None:
    rollout, seen = case.rollout, case.seen
    match seen.approval:
        case Approval.GRANTED:
            return transitions.activate(rollout, case.now_ms)
        case Approval.REFUSED:
            return transitions.fail(rollout, case.now_ms, seen.approval_detail)
        case Approval.WANTED:
            message = seen.approval_detail
            if not seen.approval_parked or not rollout.approval_since_ms:
                return transitions.request_approval(rollout, message, case.now_ms)
            return case.hold(message)
        case Approval.UNKNOWN:
            return None


def _entry(case: Case, canary: Version, step_index: int) -> Transition | None:
    """Enter a step, if the new version can carry its weight."""
    rollout, seen = case.rollout, case.seen
    weight = rollout.plan.steps[step_index].weight_bp
    wanted = ceil(weight * seen.demand * HEADROOM / WHOLE_BP)
    if canary.slots < wanted:
        return case.hold(
            f"{INSUFFICIENT_CAPACITY}: {weight / 100:g} % takes {wanted} slots of the new version, "
            f"it has {canary.slots}"
        )
    return transitions.enter_step(
        rollout,
        step_index,
        case.now_ms,
        baseline=seen.baseline,
        marks=seen.marks_at_entry,
        fresh=canary.fresh,
        silent=canary.silent,
    )


def _promotion(case: Case, canary: Version) -> Transition:
    return transitions.promote(
        case.rollout,
        case.now_ms,
        baseline=case.seen.baseline,
        marks=case.seen.marks_at_entry,
        fresh=canary.fresh,
        silent=canary.silent,
    )


def _hard_stop(case: Case) -> Transition | None:
    """Abort without statistics: the new version was stopped, or most of it is lost."""
    rollout, canary = case.rollout, case.seen.canary
    if canary is None or canary.stopped or (canary.draining and canary.is_live):
        return case.abort(STOPPED_BY_OPERATOR, hard=True)
    lost = canary.silent - rollout.silent_at_entry
    if not case.frozen() and lost * 2 > rollout.fresh_at_entry > 0:
        message = f"{lost} of {rollout.fresh_at_entry} instances of the new version were lost"
        return case.abort(message, hard=True)
    return None


def _progressing(case: Case) -> Transition | None:
    rollout, canary = case.rollout, case.seen.canary
    stopped = _hard_stop(case)
    if stopped is not None or canary is None:
        return stopped
    if case.frozen():
        return case.hold_frozen()
    if rollout.promote_requested or rollout.entering:
        missing = _missing(case, canary)
        due = (
            case.hold(missing)
            if missing
            else _promotion(case, canary)
            if rollout.promote_requested or rollout.step_passed
            else _entry(case, canary, rollout.step_index)
        )
        return _or_give_up(case, due)
    if not rollout.traffic_since_ms and case.seen.traffic:
        return transitions.note_traffic(rollout, case.now_ms)
    look = _look(case)
    return _on_verdict(case, canary, look)


def _or_give_up(case: Case, due: Transition | None) -> Transition | None:
    """Return what is due, or a pause if it only waits and has waited for too long."""
    waits = due is None or due.name is TransitionName.HOLD
    if waits and case.is_late:
        message = due.after.message if due is not None else case.rollout.message
        return case.pause(PauseReason.INCONCLUSIVE, message)
    return due


def _look(case: Case) -> Measurement:
    """Judge what was counted since the step was entered."""
    rollout, seen, now_ms = case.rollout, case.seen, case.now_ms
    if rollout.frozen is None:
        raise ValueError(f"rollout {rollout.rollout_id} is {rollout.phase} without hypotheses")
    verdict, llr, message = judge(
        rollout.plan,
        rollout.frozen,
        seen.canary_counts,
        seen.stable_counts,
        observed_ms=now_ms - rollout.traffic_since_ms if rollout.traffic_since_ms else 0,
        elapsed_ms=now_ms - rollout.step_entered_at_ms,
    )
    return Measurement(
        at_ms=now_ms,
        step_index=rollout.step_index,
        weight_bp=rollout.weight_bp,
        canary=seen.canary_counts,
        stable=seen.stable_counts,
        llr=llr,
        verdict=verdict,
        message=message,
    )


def _kept(case: Case, look: Measurement) -> Case:
    """Return the case with the look written down, for the transition that follows from it."""
    after = transitions.looked(case.rollout, look, marks=case.seen.marks)
    return replace(case, rollout=after)


def _on_verdict(case: Case, canary: Version, look: Measurement) -> Transition | None:  # noqa: PLR0911 - one line per verdict
    match look.verdict:
        case Verdict.BREACH:
            return _roll_back(_kept(case, look), look)
        case Verdict.ENVIRONMENT:
            return _kept(case, look).pause(PauseReason.ENVIRONMENT, look.message)
        case Verdict.ERROR:
            return _failed_look(case, look)
        case _ if case.rollout.step_passed:
            return _or_give_up(case, _onward(case, canary))
        case Verdict.PASS:
            return transitions.pass_step(_kept(case, look).rollout)
        case Verdict.INCONCLUSIVE:
            return _inconclusive(_kept(case, look), look)
        case _:
            return _measured(case, look)


def _roll_back(case: Case, look: Measurement) -> Transition:
    """Abort because of what was counted, if the old version is there to take over.

    Else it is a pause that leaves the weights, in which a breach is acted on as soon as it is.
    """
    stable = case.seen.stable
    if stable is not None and stable.is_live and stable.fresh:
        return case.abort(look.message, hard=False)
    message = f"{look.message}; {case.rollout.from_version} has no fresh instance to go back to"
    return case.pause(PauseReason.INCONCLUSIVE, message)


def _onward(case: Case, canary: Version) -> Transition | None:
    """Leave a step that has passed."""
    rollout = case.rollout
    step, last = rollout.plan.steps[rollout.step_index], len(rollout.plan.steps) - 1
    if step.pause_after:
        message = f"step {rollout.step_index + 1} has passed; the plan asks for a word"
        return case.pause(PauseReason.STEP, message)
    missing = _missing(case, canary)
    if missing:
        return case.hold(missing)
    if rollout.step_index >= last:
        return _promotion(case, canary)
    return _entry(case, canary, rollout.step_index + 1)


def _inconclusive(case: Case, look: Measurement) -> Transition:
    """Do what the plan says for a step without a verdict; without any outcome that is a pause."""
    match case.rollout.plan.on_inconclusive:
        case OnInconclusive.ROLLBACK:
            return _roll_back(case, look)
        case OnInconclusive.PROMOTE if look.canary.total > 0:
            return transitions.pass_step(case.rollout)
        case _:
            return case.pause(PauseReason.INCONCLUSIVE, look.message)


def _failed_look(case: Case, look: Measurement) -> Transition | None:
    rollout = case.rollout
    if case.now_ms - rollout.updated_at_ms < MEASURE_EVERY_MS:
        return None
    # What makes no sense must not be written down as counts.
    look = replace(look, canary=rollout.canary, stable=rollout.stable)
    errors = rollout.errors_in_a_row + 1
    if errors > MAX_ERRORS_IN_A_ROW:
        after = transitions.looked(rollout, look, marks=rollout.marks, errors_in_a_row=errors)
        return replace(case, rollout=after).pause(PauseReason.METRICS, look.message)
    return transitions.measure(rollout, look, marks=rollout.marks, errors_in_a_row=errors)


def _measured(case: Case, look: Measurement) -> Transition | None:
    """Keep a look that says nothing new but other numbers, every now and then."""
    rollout = case.rollout
    if rollout.message.startswith((MASS_SILENCE, INSUFFICIENT_CAPACITY)):
        return transitions.hold(rollout, look.message)
    known = (rollout.canary, rollout.stable) == (look.canary, look.stable) and (
        len(rollout.marks) == len(case.seen.marks)
    )
    if (known and not rollout.errors_in_a_row) or (
        case.now_ms - rollout.updated_at_ms < MEASURE_EVERY_MS
    ):
        return None
    return transitions.measure(rollout, look, marks=case.seen.marks)


_WATCHED_PAUSES: Final = frozenset(
    {PauseReason.OPERATOR, PauseReason.STEP, PauseReason.INCONCLUSIVE}
)
"""Pauses in which a breach still rolls back: sessions are still sent to the new version."""


def _paused(case: Case) -> Transition | None:  # noqa: PLR0911 - a list of guards reads best flat
    rollout, canary = case.rollout, case.seen.canary
    if rollout.step_token:
        stopped = _hard_stop(case)
        if stopped is not None:
            return stopped
    elif canary is None or canary.status is AgentStatus.DECOMMISSIONED:
        return transitions.fail(rollout, case.now_ms, "the new version is gone")
    if case.frozen():
        return case.hold_frozen()
    reason = rollout.pause.reason if rollout.pause is not None else PauseReason.NONE
    if reason in _WATCHED_PAUSES and rollout.weight_bp and rollout.frozen is not None:
        look = _look(case)
        due = _roll_back(_kept(case, look), look) if look.verdict is Verdict.BREACH else None
        if due is not None and due.name is TransitionName.ABORT:
            return due
    if case.is_late:
        return case.abort("nobody ended the pause in time", hard=False)
    if rollout.message.startswith(MASS_SILENCE) and rollout.pause is not None:
        return transitions.hold(rollout, rollout.pause.message)
    return None


def _promoting(case: Case) -> Transition | None:  # noqa: PLR0911 - a list of guards reads best flat
    rollout, canary = case.rollout, case.seen.canary
    stopped = _hard_stop(case)
    if stopped is not None or canary is None:
        return stopped
    if case.frozen():
        return case.hold_frozen()
    if not rollout.promote_requested:
        look = _look(case)
        match look.verdict:
            case Verdict.BREACH:
                return _roll_back(_kept(case, look), look)
            case Verdict.ENVIRONMENT:
                return _kept(case, look).pause(PauseReason.ENVIRONMENT, look.message)
            case Verdict.ERROR:
                return _failed_look(case, look)
            case _ if not case.is_late:
                return _measured(case, look)
    return retire_old(case, canary)


_RULES: Final[Mapping[Phase, Callable[[Case], Transition | None]]] = {
    Phase.PENDING: _pending,
    Phase.PROGRESSING: _progressing,
    Phase.PAUSED: _paused,
    Phase.PROMOTING: _promoting,
    Phase.DRAINING_OLD: draining_old,
    Phase.ABORTING: aborting,
    Phase.DRAINING_NEW: draining_new,
}
