"""The transitions of a rollout: each is the record afterwards, and what else the commit does.

Made by `machine`, for what follows by itself, and by `operations`, for what operators say. Nothing
here decides whether a transition is due.
"""

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from controlplane.domain.rollouts.analysis import freeze
from controlplane.domain.rollouts.model import (
    MAX_MEASUREMENTS,
    BeatMark,
    Counts,
    Measurement,
    Pause,
    PauseReason,
    Phase,
    Rollout,
)
from controlplane.domain.routes import WHOLE_BP


class TransitionName(StrEnum):
    """Every commit that changes a rollout, by name; also the last word of its public event."""

    START = "START"
    REQUEST_APPROVAL = "REQUEST_APPROVAL"
    """A policy wants the activation confirmed: it is parked on the agent."""
    ACTIVATE_CANARY = "ACTIVATE_CANARY"
    ENTER_STEP = "ENTER_STEP"
    NOTE_TRAFFIC = "NOTE_TRAFFIC"
    """The new version got its first work in the step: the observation begins."""
    MEASURE = "MEASURE"
    HOLD = "HOLD"
    """Only the message changed: what it waits for."""
    PASS_STEP = "PASS_STEP"  # noqa: S105 - a transition
    PAUSE = "PAUSE"
    RESUME = "RESUME"
    ADVANCE = "ADVANCE"
    """An operator wants the next step."""
    PROMOTE = "PROMOTE"
    """The new version has everything; the old one is kept warm."""
    START_DRAIN_OLD = "START_DRAIN_OLD"
    SUCCEED = "SUCCEED"
    ABORT = "ABORT"
    START_DRAIN_NEW = "START_DRAIN_NEW"
    ROLLED_BACK = "ROLLED_BACK"
    FAIL = "FAIL"
    SUPERSEDE = "SUPERSEDE"


class Effect(StrEnum):
    """What a commit does besides writing the rollout."""

    ROUTE = "ROUTE"
    """Write the route that `shares.route_of` gives the rollout."""
    PARK = "PARK"
    """Park the activation of the new version on its agent."""
    ACTIVATE_NEW = "ACTIVATE_NEW"
    DEACTIVATE_NEW = "DEACTIVATE_NEW"
    """At once, by decision, so that no beat brings it back; for a version that has no work."""
    DEACTIVATE_OLD = "DEACTIVATE_OLD"
    """The same of the old version."""
    DRAIN_NEW = "DRAIN_NEW"
    DRAIN_OLD = "DRAIN_OLD"
    UNDRAIN_OLD = "UNDRAIN_OLD"
    RELEASE_NEW = "RELEASE_NEW"
    """Free sessions that are pinned to the new version; a draining one does not hold them anyway,
    but it may be rolled out again."""
    RELEASE_OLD = "RELEASE_OLD"
    END = "END"
    """Give the agent name free for the next rollout, and forget the oldest ended ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Transition:
    """One commit: the record after it and what else it does."""

    name: TransitionName
    after: Rollout
    effects: frozenset[Effect] = frozenset()


MIN_DRAIN_MS: Final = 1_000
"""Shortest drain: what is left of the deadline may be less."""


def hold(rollout: Rollout, message: str) -> Transition:
    """Say what the rollout waits for."""
    return Transition(name=TransitionName.HOLD, after=replace(rollout, message=message))


def request_approval(rollout: Rollout, message: str, now_ms: int) -> Transition:
    """Park the activation of the new version, for an operator to confirm."""
    since = rollout.approval_since_ms or now_ms
    return Transition(
        name=TransitionName.REQUEST_APPROVAL,
        after=replace(rollout, message=message, approval_since_ms=since),
        effects=frozenset({Effect.PARK}),
    )


def activate(rollout: Rollout, now_ms: int) -> Transition:
    """Make the new version ACTIVE; its weight is 0 until the first step is entered."""
    rollout = approved(rollout, now_ms).after if rollout.approval_since_ms else rollout
    return Transition(
        name=TransitionName.ACTIVATE_CANARY,
        after=replace(rollout, activated=True, message="the new version is active"),
        effects=frozenset({Effect.ACTIVATE_NEW}),
    )


def approved(rollout: Rollout, now_ms: int) -> Transition:
    """Wait for nobody's approval any more: the progress deadline begins anew."""
    message = "the new version is active: its activation was confirmed"
    return hold(replace(rollout, approval_since_ms=0, progress_since_ms=now_ms), message)


def enter_step(
    rollout: Rollout,
    step_index: int,
    now_ms: int,
    *,
    baseline: Counts,
    marks: tuple[BeatMark, ...],
    fresh: int,
    silent: int,
) -> Transition:
    """Give the new version the weight of a step and begin to count anew."""
    weight = rollout.plan.steps[step_index].weight_bp
    after = _counting_anew(
        rollout,
        phase=Phase.PROGRESSING,
        phase_since_ms=(rollout.phase_since_ms if rollout.phase is Phase.PROGRESSING else now_ms),
        step_index=step_index,
        step_entered_at_ms=now_ms,
        weight_bp=weight,
        frozen=freeze(rollout.plan, baseline),
        marks=marks,
        fresh_at_entry=fresh,
        silent_at_entry=silent,
        activated=True,
        message=f"step {step_index + 1} of {len(rollout.plan.steps)} at {weight / 100:g} %: "
        "waits for traffic",
    )
    effects = frozenset({Effect.ROUTE})
    return Transition(name=TransitionName.ENTER_STEP, after=after, effects=effects)


def _counting_anew(rollout: Rollout, **changes: object) -> Rollout:
    # `replace` cannot be typed for keywords that are passed on; every caller names real fields.
    return replace(
        rollout,
        step_token=rollout.step_token + 1,
        traffic_since_ms=0,
        canary=Counts(),
        stable=Counts(),
        llr=0.0,
        errors_in_a_row=0,
        pause=None,
        entering=False,
        step_passed=False,
        **changes,  # type: ignore[arg-type]
    )


def note_traffic(rollout: Rollout, now_ms: int) -> Transition:
    """Begin the observation of the step."""
    message = f"observes step {rollout.step_index + 1} of {len(rollout.plan.steps)}"
    after = replace(rollout, traffic_since_ms=now_ms, message=message)
    return Transition(name=TransitionName.NOTE_TRAFFIC, after=after)


def measure(
    rollout: Rollout,
    look: Measurement,
    *,
    marks: tuple[BeatMark, ...],
    errors_in_a_row: int = 0,
) -> Transition:
    """Keep one look at the outcomes."""
    after = looked(rollout, look, marks=marks, errors_in_a_row=errors_in_a_row)
    return Transition(name=TransitionName.MEASURE, after=after)


def looked(
    rollout: Rollout,
    look: Measurement,
    *,
    marks: tuple[BeatMark, ...],
    errors_in_a_row: int = 0,
) -> Rollout:
    """Return the rollout with one more look at the outcomes, which explains where it stands."""
    return replace(
        rollout,
        canary=look.canary,
        stable=look.stable,
        llr=look.llr,
        marks=marks,
        errors_in_a_row=errors_in_a_row,
        measurements=(*rollout.measurements, look)[-MAX_MEASUREMENTS:],
        message=look.message,
    )


def pass_step(rollout: Rollout) -> Transition:
    """Note that the step has passed: no later look takes that back, except a breach."""
    return Transition(
        name=TransitionName.PASS_STEP,
        after=replace(rollout, step_passed=True, errors_in_a_row=0),
    )


def pause(
    rollout: Rollout, reason: PauseReason, now_ms: int, *, message: str, by: str = ""
) -> Transition:
    """Wait for an operator. An incident takes the weight back to that of the step before."""
    weight = rollout.weight_bp
    if reason is PauseReason.ENVIRONMENT:
        index = rollout.step_index
        weight = rollout.plan.steps[index - 1].weight_bp if index else 0
    after = replace(
        rollout,
        phase=Phase.PAUSED,
        phase_since_ms=now_ms,
        weight_bp=weight,
        pause=Pause(reason=reason, since_ms=now_ms, by=by, message=message),
        message=message,
        entering=False,
        promote_requested=False,
    )
    moved = frozenset({Effect.ROUTE}) if weight != rollout.weight_bp else frozenset()
    return Transition(name=TransitionName.PAUSE, after=after, effects=moved)


def promote(
    rollout: Rollout,
    now_ms: int,
    *,
    baseline: Counts,
    marks: tuple[BeatMark, ...],
    fresh: int,
    silent: int,
) -> Transition:
    """Give the new version everything; what is counted from now on is the old one's warm time."""
    after = _counting_anew(
        rollout,
        phase=Phase.PROMOTING,
        phase_since_ms=now_ms,
        step_index=len(rollout.plan.steps) - 1,
        weight_bp=WHOLE_BP,
        frozen=rollout.frozen or freeze(rollout.plan, baseline),
        marks=marks,
        fresh_at_entry=fresh,
        silent_at_entry=silent,
        activated=True,
        message="the new version has everything; the old one is kept warm",
    )
    if not rollout.plan.bake_ms:
        # Nothing more is judged: what the last step counted stays readable.
        after = replace(after, canary=rollout.canary, stable=rollout.stable, llr=rollout.llr)
    effects = frozenset({Effect.ROUTE})
    return Transition(name=TransitionName.PROMOTE, after=after, effects=effects)


def start_drain_old(rollout: Rollout, now_ms: int) -> Transition:
    """Let the old version finish its work."""
    after = replace(
        rollout,
        phase=Phase.DRAINING_OLD,
        phase_since_ms=now_ms,
        retire_by_ms=now_ms + rollout.plan.drain_deadline_ms,
        message="the old version finishes its work",
    )
    return Transition(
        name=TransitionName.START_DRAIN_OLD,
        after=after,
        effects=frozenset({Effect.ROUTE, Effect.DRAIN_OLD, Effect.RELEASE_OLD}),
    )


def succeed(rollout: Rollout, now_ms: int, message: str, *, deactivate: bool = False) -> Transition:
    """End well: the whole route belongs to the new version."""
    also = {Effect.DEACTIVATE_OLD} if deactivate else set()
    return _end(rollout, TransitionName.SUCCEED, Phase.SUCCEEDED, now_ms, message, also)


def abort(
    rollout: Rollout, now_ms: int, message: str, *, hard: bool, old_is_draining: bool = False
) -> Transition:
    """Give the old version everything again. `hard`: sessions leave the new one at once."""
    effects = {Effect.ROUTE}
    if old_is_draining:
        effects.add(Effect.UNDRAIN_OLD)
    after = replace(
        rollout,
        phase=Phase.ABORTING,
        phase_since_ms=now_ms,
        weight_bp=0,
        pause=None,
        entering=False,
        promote_requested=False,
        evicting=hard or rollout.plan.evict_on_abort,
        retire_by_ms=now_ms + rollout.plan.drain_deadline_ms,
        message=message,
    )
    return Transition(name=TransitionName.ABORT, after=after, effects=frozenset(effects))


def start_drain_new(rollout: Rollout, now_ms: int) -> Transition:
    """Let the new version finish its work. The message stays: it says why it goes."""
    after = replace(
        rollout,
        phase=Phase.DRAINING_NEW,
        phase_since_ms=now_ms,
        retire_by_ms=max(rollout.retire_by_ms, now_ms + MIN_DRAIN_MS),
    )
    return Transition(
        name=TransitionName.START_DRAIN_NEW,
        after=after,
        effects=frozenset({Effect.DRAIN_NEW, Effect.RELEASE_NEW}),
    )


def rolled_back(rollout: Rollout, now_ms: int, *, deactivate: bool = False) -> Transition:
    """End where it began. The message stays: it says why."""
    also = {Effect.DEACTIVATE_NEW} if deactivate else set()
    name, phase = TransitionName.ROLLED_BACK, Phase.ROLLED_BACK
    return _end(rollout, name, phase, now_ms, rollout.message, also)


def fail(rollout: Rollout, now_ms: int, message: str, *, deactivate: bool = False) -> Transition:
    """End before anything was shifted."""
    also = {Effect.DEACTIVATE_NEW} if deactivate else set()
    return _end(rollout, TransitionName.FAIL, Phase.FAILED, now_ms, message, also)


def supersede(
    rollout: Rollout, now_ms: int, by: str, *, drain: bool, deactivate: bool
) -> Transition:
    """End because another rollout, `by`, takes over the name and the route."""
    effects: set[Effect] = set()
    if drain:
        effects |= {Effect.DRAIN_NEW, Effect.RELEASE_NEW}
    if deactivate:
        effects.add(Effect.DEACTIVATE_NEW)
    after = replace(
        rollout,
        phase=Phase.SUPERSEDED,
        phase_since_ms=now_ms,
        ended_at_ms=now_ms,
        weight_bp=0,
        pause=None,
        entering=False,
        superseded_by=by,
        retire_by_ms=now_ms + rollout.plan.drain_deadline_ms,
        message=f"rollout {by} took over",
    )
    return Transition(name=TransitionName.SUPERSEDE, after=after, effects=frozenset(effects))


def _end(
    rollout: Rollout,
    name: TransitionName,
    phase: Phase,
    now_ms: int,
    message: str,
    also: set[Effect],
) -> Transition:
    after = replace(
        rollout,
        phase=phase,
        phase_since_ms=now_ms,
        ended_at_ms=now_ms,
        weight_bp=WHOLE_BP if phase is Phase.SUCCEEDED else 0,
        pause=None,
        entering=False,
        message=message,
    )
    effects = frozenset({Effect.ROUTE, Effect.END, *also})
    return Transition(name=name, after=after, effects=effects)
