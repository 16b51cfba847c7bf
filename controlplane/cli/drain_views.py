"""Drains as sentences and tables."""

import time

from controlplane.cli.contract_words import word
from controlplane.cli.durations import between, compact
from controlplane.cli.moments import moment
from controlplane.cli.rendering import fields
from fleetplane import DrainPhase
from fleetplane.v1 import lifecycle_service_pb2 as pb


def target(drain: pb.Drain) -> str:
    """Return whose drain it is."""
    return drain.instance_id or drain.agent_id


def in_flight(drain: pb.Drain) -> str:
    """Return what still runs: `3 tasks and 1 other piece of work`, or `nothing`."""
    parts = []
    if drain.tasks_in_flight:
        parts.append(f"{drain.tasks_in_flight} task{'s' * (drain.tasks_in_flight != 1)}")
    if drain.other_in_flight:
        parts.append(f"{drain.other_in_flight} other piece{'s' * (drain.other_in_flight != 1)}")
    return " and ".join(parts) or "nothing"


def drain_sentence(drain: pb.Drain, now: float | None = None) -> str:
    """Return how far a drain has come, in a line.

    Args:
        drain: the drain.
        now: seconds since 1970; by default this machine's clock.
    """
    if drain.phase == pb.DRAIN_PHASE_CANCELLED:
        return "takes work again"
    if drain.safe_to_stop:
        took = compact(between(drain.started_at, drain.ended_at)) if drain.ended_at.seconds else ""
        return "safe to stop" + (f" after {took}" if took else "")
    left = drain.deadline_at.seconds - (time.time() if now is None else now)
    if drain.forced:
        when = f"{drain.extended} may outlive the deadline" if drain.extended else "forced"
    else:
        when = f"{compact(left)} left" if left > 0 else "its time is over"
    return f"draining, {in_flight(drain)} in flight ({when})"


def drain_details(drain: pb.Drain) -> str:
    """Lay out everything about a drain."""
    return fields(
        {
            "agent": drain.agent_id,
            "instance": drain.instance_id,
            "phase": word(DrainPhase, drain.phase),
            "safe to stop": "yes" if drain.safe_to_stop else "no",
            "in flight": in_flight(drain),
            "ended since": _since(drain),
            "why": drain.reason,
            "started": f"{moment(drain.started_at)} by {drain.actor or '-'}",
            "deadline": moment(drain.deadline_at) + (" (has decided)" if drain.forced else ""),
            "ended": moment(drain.ended_at),
            "then": "INACTIVE" if drain.then_deactivate else "",
        }
    )


def _since(drain: pb.Drain) -> str:
    counts = {
        "completed": drain.completed,
        "given to others": drain.requeued,
        "failed": drain.failed,
        "extended": drain.extended,
    }
    return ", ".join(f"{number} {what}" for what, number in counts.items() if number)
