"""What operators say to a rollout, as pure functions; None: it is so already.

Every refusal is an InvalidTransition that names the phase.
"""

from dataclasses import replace

from controlplane.domain.agents import AgentStatus
from controlplane.domain.errors import InvalidTransition
from controlplane.domain.rollouts import transitions
from controlplane.domain.rollouts.model import PauseReason, Phase, Rollout
from controlplane.domain.rollouts.observed import Version
from controlplane.domain.rollouts.transitions import Transition, TransitionName


def paused(rollout: Rollout, now_ms: int, *, reason: str, by: str) -> Transition | None:
    """Hold it where it is; weights stay."""
    if rollout.phase is Phase.PAUSED:
        return None
    if rollout.phase not in {Phase.PENDING, Phase.PROGRESSING}:
        raise _refused(rollout, Phase.PAUSED)
    message = reason or "paused by an operator"
    return transitions.pause(rollout, PauseReason.OPERATOR, now_ms, message=message, by=by)


def resumed(rollout: Rollout, now_ms: int) -> Transition | None:
    """Go on: the step is entered anew, or the next one after a pause that the plan asked for."""
    if rollout.phase in {Phase.PENDING, Phase.PROGRESSING}:
        return None
    if rollout.phase is not Phase.PAUSED:
        raise _refused(rollout, Phase.PROGRESSING)
    if not rollout.step_token:
        after = replace(
            rollout,
            phase=Phase.PENDING,
            phase_since_ms=now_ms,
            approval_since_ms=0,
            progress_since_ms=0,
            pause=None,
            message="resumed",
        )
        return Transition(name=TransitionName.RESUME, after=after)
    asked = rollout.pause is not None and rollout.pause.reason is PauseReason.STEP
    return _onward(rollout, now_ms, TransitionName.RESUME, by_one=asked, message="resumed")


def promoted(
    rollout: Rollout, now_ms: int, *, full: bool, expected_step_index: int | None
) -> Transition:
    """Go on to the next step, or (`full`) all the way, without a verdict.

    The old version is never asked. The new one must have its fresh instances; only `full` goes on
    without the capacity for the weight.
    """
    started = {Phase.PROGRESSING, Phase.PAUSED, Phase.PROMOTING}
    allowed = started | {Phase.PENDING} if full else started
    if rollout.phase not in allowed or not (full or rollout.step_token):
        raise _refused(rollout, Phase.PROMOTING)
    if expected_step_index not in {None, rollout.step_index}:
        raise InvalidTransition(
            f"rollout {rollout.rollout_id!r}",
            current=f"at step {rollout.step_index}",
            wanted=f"promoted from step {expected_step_index}",
        )
    message = "promoted by an operator"
    if full or rollout.phase is Phase.PROMOTING:
        return _all_the_way(rollout, now_ms, message)
    if rollout.entering:
        # That step is the next one: two callers must not skip two.
        raise InvalidTransition(
            f"rollout {rollout.rollout_id!r}",
            current=f"about to enter step {rollout.step_index + 1} of {len(rollout.plan.steps)}",
            wanted="promoted",
        )
    return _onward(rollout, now_ms, TransitionName.ADVANCE, by_one=True, message=message)


def _all_the_way(rollout: Rollout, now_ms: int, message: str) -> Transition:
    phase = rollout.phase
    if phase is Phase.PAUSED:
        phase = Phase.PROGRESSING if rollout.step_token else Phase.PENDING
    after = replace(
        rollout,
        phase=phase,
        phase_since_ms=rollout.phase_since_ms if phase is rollout.phase else now_ms,
        pause=None,
        promote_requested=True,
        message=message,
    )
    return Transition(name=TransitionName.ADVANCE, after=after)


def _onward(
    rollout: Rollout, now_ms: int, name: TransitionName, *, by_one: bool, message: str
) -> Transition:
    """Ask for a step to be entered, or after the last one (`step_passed`) for the promotion."""
    last = len(rollout.plan.steps) - 1
    after = replace(
        rollout,
        phase=Phase.PROGRESSING,
        phase_since_ms=now_ms,
        step_index=min(rollout.step_index + (1 if by_one else 0), last),
        step_passed=by_one and rollout.step_index >= last,
        entering=True,
        pause=None,
        message=message,
    )
    return Transition(name=name, after=after)


def aborted(
    rollout: Rollout, now_ms: int, *, reason: str, stable: Version | None
) -> Transition | None:
    """Roll back. While the old version drains that still works: its drain is cancelled."""
    if rollout.phase in {Phase.ABORTING, Phase.DRAINING_NEW, Phase.ROLLED_BACK}:
        return None
    message = reason or "aborted by an operator"
    draining = rollout.phase is Phase.DRAINING_OLD
    left = draining and (stable is None or not stable.is_live)
    if rollout.phase.is_terminal or left:
        raise _refused(rollout, Phase.ABORTING)
    return transitions.abort(rollout, now_ms, message, hard=False, old_is_draining=draining)


def superseded(
    rollout: Rollout, now_ms: int, *, by: str, same_target: bool, canary: Version | None
) -> Transition:
    """End in favour of the rollout `by`; the version that was coming drains by itself.

    `same_target`: the new rollout wants the same version, so it stays as it is.
    """
    if rollout.phase.is_terminal or rollout.phase is Phase.DRAINING_OLD:
        raise _refused(rollout, Phase.SUPERSEDED)
    leaves = canary is not None and not same_target and rollout.phase is not Phase.DRAINING_NEW
    drain = leaves and canary is not None and canary.is_live
    registered = canary is not None and canary.status is AgentStatus.REGISTERED
    return transitions.supersede(rollout, now_ms, by, drain=drain, deactivate=leaves and registered)


def _refused(rollout: Rollout, wanted: Phase) -> InvalidTransition:
    return InvalidTransition(
        f"rollout {rollout.rollout_id!r}", current=rollout.phase, wanted=wanted
    )
