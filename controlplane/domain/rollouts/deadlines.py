"""When a phase ends by itself, and when a step can pass."""

from controlplane.domain.rollouts.model import Phase, Rollout


def step_may_pass_at_ms(rollout: Rollout) -> int:
    """Return the earliest time at which the present step can pass; 0: unknown."""
    observing = rollout.phase is Phase.PROGRESSING and not rollout.entering
    if not observing or not rollout.traffic_since_ms:
        return 0
    return rollout.traffic_since_ms + rollout.plan.observe_ms


def phase_deadline_ms(rollout: Rollout) -> int:  # noqa: PLR0911 - one line per phase
    """Return when the present phase ends by itself; 0: it does not."""
    plan = rollout.plan
    match rollout.phase:
        case Phase.PENDING if rollout.approval_since_ms:
            return rollout.approval_since_ms + plan.max_pause_ms
        case Phase.PENDING:
            since = rollout.progress_since_ms or rollout.phase_since_ms
            return since + plan.progress_deadline_ms
        case Phase.PROGRESSING if rollout.entering:
            return rollout.phase_since_ms + plan.max_dwell_ms
        case Phase.PROGRESSING:
            return rollout.step_entered_at_ms + plan.max_dwell_ms
        case Phase.PAUSED:
            return rollout.phase_since_ms + plan.max_pause_ms
        case Phase.PROMOTING:
            return rollout.phase_since_ms + plan.bake_ms
        case Phase.ABORTING | Phase.DRAINING_OLD | Phase.DRAINING_NEW:
            return rollout.retire_by_ms
        case _:
            return 0
