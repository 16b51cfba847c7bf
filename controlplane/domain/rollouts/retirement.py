"""How the version that goes leaves: the old one after a promotion, the new one after an abort."""

from controlplane.domain.agents import AgentStatus
from controlplane.domain.drains import DrainPhase
from controlplane.domain.rollouts import transitions
from controlplane.domain.rollouts.case import STOPPED_BY_OPERATOR, Case
from controlplane.domain.rollouts.deadlines import phase_deadline_ms
from controlplane.domain.rollouts.observed import Version
from controlplane.domain.rollouts.transitions import Transition


def retire_old(case: Case, canary: Version) -> Transition | None:
    """PROMOTING: the old version goes, unless it would leave nobody behind."""
    rollout, stable = case.rollout, case.seen.stable
    if not canary.fresh:
        if case.now_ms >= phase_deadline_ms(rollout) + rollout.plan.progress_deadline_ms:
            return case.abort("every instance of the new version has left", hard=True)
        return case.hold("waits for the new version to come back: the old one is kept until then")
    if stable is None or not stable.is_live:
        returns = stable is not None and stable.may_come_back
        message = "the new version has everything; the old one had left already"
        return transitions.succeed(rollout, case.now_ms, message, deactivate=returns)
    return transitions.start_drain_old(rollout, case.now_ms)


def draining_old(case: Case) -> Transition | None:
    """DRAINING_OLD: the old version has left, so the rollout has succeeded.

    If the new one is stopped before that, the old one is still there to go on.
    """
    stable, canary = case.seen.stable, case.seen.canary
    stopped = canary is None or canary.stopped or (canary.draining and canary.is_live)
    if stopped and stable is not None and stable.is_live:
        message = STOPPED_BY_OPERATOR
        return transitions.abort(
            case.rollout, case.now_ms, message, hard=True, old_is_draining=True
        )
    if not _has_left(stable, case.seen.drain):
        return None
    message = "the new version has everything"
    if stable is not None and stable.is_live:
        message += "; the drain of the old one was cancelled, so it stays"
    returns = stable is not None and stable.may_come_back
    return transitions.succeed(case.rollout, case.now_ms, message, deactivate=returns)


def aborting(case: Case) -> Transition | None:
    """ABORTING: sessions finish on the new version, unless they are evicted, then it drains."""
    rollout, seen = case.rollout, case.seen
    canary = seen.canary
    if canary is None or not canary.is_live:
        returns = canary is not None and canary.may_come_back
        return transitions.rolled_back(rollout, case.now_ms, deactivate=returns)
    if not rollout.evicting and seen.pinned_work and not case.is_late:
        return None
    return transitions.start_drain_new(rollout, case.now_ms)


def draining_new(case: Case) -> Transition | None:
    """DRAINING_NEW: the new version has left, so the rollout is undone."""
    canary = case.seen.canary
    if not _has_left(canary, case.seen.drain):
        return None
    returns = canary is not None and canary.may_come_back
    return transitions.rolled_back(case.rollout, case.now_ms, deactivate=returns)


def _has_left(version: Version | None, drain: DrainPhase | None) -> bool:
    """Whether a version that is drained has finished, or was told to stay after all."""
    if version is None or version.status is AgentStatus.DECOMMISSIONED:
        return True
    flagged = version.is_live and version.draining
    return drain is not DrainPhase.DRAINING and not flagged
