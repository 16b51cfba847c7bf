"""Drains and emergency stops between the wire and the domain."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from google.protobuf.duration_pb2 import Duration

from controlplane.api.convert.requests import reason_from_proto
from controlplane.api.convert.values import EnumPair, bounded_ms, moment, ms_to_duration
from controlplane.domain.agents import REVIVABLE_REASONS
from controlplane.domain.drain_rules import MAX_DEADLINE_MS, MAX_REASON_BYTES, MIN_DEADLINE_MS
from controlplane.domain.drains import DrainPhase, DrainThen
from controlplane.domain.errors import InvalidArgument
from controlplane.services.lifecycle.drains import DrainReport
from controlplane.services.lifecycle.stop_answers import StopAnswer, StopOutcome, StopReport
from fleetplane.v1 import lifecycle_service_pb2 as pb

DEFAULT_DEADLINE_MS = 900_000
"""How long work in flight may finish unless the caller says otherwise: 15 min, by contract."""

LONGEST_DRAIN_WAIT_MS = 600_000
"""How long GetDrain waits at most: 10 min, by contract."""

DEFAULT_STOP_WAIT_MS = 10_000
"""How long EmergencyStop waits unless the caller says otherwise, by contract."""

LONGEST_STOP_WAIT_MS = 60_000
"""How long EmergencyStop waits at most, by contract."""

PHASES = EnumPair(pb.DrainPhase, "DRAIN_PHASE_", DrainPhase)
OUTCOMES = EnumPair(pb.StopAnswer.Outcome, "OUTCOME_", StopOutcome)


class Target(Protocol):
    """A request that names an agent, or one instance of it."""

    @property
    def agent_id(self) -> str:
        """Which agent; empty: that of the instance."""

    @property
    def instance_id(self) -> str:
        """Which instance; empty: all of the agent."""


def target_from_proto(request: Target) -> tuple[str, str]:
    """Return (agent_id, instance_id) of what is drained.

    Raises:
        InvalidArgument: field `agent_id`, if neither is named.
    """
    if not request.agent_id and not request.instance_id:
        raise InvalidArgument.of("agent_id", "is required, or an instance_id")
    return request.agent_id, request.instance_id


def short_reason_from_proto(reason: str) -> str:
    """Return a reason that agents or drains keep.

    Raises:
        InvalidArgument: longer than 512 bytes.
    """
    return reason_from_proto(reason, max_bytes=MAX_REASON_BYTES)


def status_reason_from_proto(reason: str) -> str:
    """Return a reason that becomes the `status_reason` of agents.

    Raises:
        InvalidArgument: empty, longer than 512 bytes, or a word by which the plane means that a
            beat brings the agent back.
    """
    if not reason:
        raise InvalidArgument.of("reason", "is required")
    if reason in REVIVABLE_REASONS:
        words = " and ".join(sorted(REVIVABLE_REASONS))
        raise InvalidArgument.of("reason", f"{words} are words of the plane")
    return short_reason_from_proto(reason)


def drain_deadline_from_proto(deadline: Duration, field: str) -> int:
    """Return how long work in flight may finish, in milliseconds.

    Raises:
        InvalidArgument: `field` is not 1 s - 24 h.
    """
    return bounded_ms(
        deadline, field, least=MIN_DEADLINE_MS, most=MAX_DEADLINE_MS, said="1 s - 24 h"
    )


def drain_wait_from_proto(request: pb.GetDrainRequest) -> int:
    """Return how long GetDrain waits, in milliseconds.

    Raises:
        InvalidArgument: field `wait`, above 10 minutes.
    """
    if not request.HasField("wait"):
        return 0
    return bounded_ms(request.wait, "wait", least=0, most=LONGEST_DRAIN_WAIT_MS, said="0-10 min")


def stop_wait_from_proto(request: pb.EmergencyStopRequest) -> int:
    """Return how long EmergencyStop waits, in milliseconds.

    Raises:
        InvalidArgument: field `wait`, above a minute.
    """
    if not request.HasField("wait"):
        return DEFAULT_STOP_WAIT_MS
    return bounded_ms(request.wait, "wait", least=0, most=LONGEST_STOP_WAIT_MS, said="0-60 s")


def require_selector(
    tags: Mapping[str, str],
    names: Sequence[str],
    everything: bool,  # noqa: FBT001 - a field of the request, passed on as it came
) -> None:
    """Check what an emergency stop is for: the whole namespace only by that word.

    Raises:
        InvalidArgument: field `all`: it is missing without tags and names, or set with them.
    """
    if everything and (tags or names):
        raise InvalidArgument.of("all", "must not be set together with tags or names")
    if not everything and not tags and not names:
        raise InvalidArgument.of("all", "must be set to stop the whole namespace")


def drain_to_proto(report: DrainReport) -> pb.Drain:
    """Return a drain as it stands."""
    drain = report.drain
    return pb.Drain(
        agent_id=drain.agent_id,
        instance_id=drain.instance_id,
        phase=PHASES.to_wire(drain.phase),
        safe_to_stop=report.safe_to_stop,
        reason=drain.reason,
        actor=drain.actor,
        started_at=moment(drain.started_at_ms),
        deadline_at=moment(drain.deadline_at_ms),
        ended_at=moment(drain.ended_at_ms),
        forced=drain.forced,
        then_deactivate=drain.then is DrainThen.DEACTIVATE,
        tasks_in_flight=report.tasks_in_flight,
        other_in_flight=report.other_in_flight,
        completed=drain.completed,
        requeued=drain.requeued,
        failed=drain.failed,
        extended=drain.extended,
        revision=drain.revision,
    )


def stop_to_proto(report: StopReport) -> pb.EmergencyStop:
    """Return an emergency stop as it stands."""
    stop, last = report.stop, report.last_after_ms
    return pb.EmergencyStop(
        stop_id=stop.stop_id,
        started_at=moment(stop.started_at_ms),
        reason=stop.reason,
        actor=stop.actor,
        agent_ids=stop.agent_ids,
        answers=[_answer_to_proto(answer) for answer in report.answers],
        acknowledged=report.acknowledged,
        waiting=report.waiting,
        last_acknowledged_after=ms_to_duration(last) if last is not None else None,
    )


def _answer_to_proto(answer: StopAnswer) -> pb.StopAnswer:
    after = answer.after_ms
    return pb.StopAnswer(
        instance_id=answer.instance_id,
        agent_id=answer.agent_id,
        outcome=OUTCOMES.to_wire(answer.outcome),
        after=ms_to_duration(after) if after is not None else None,
    )
