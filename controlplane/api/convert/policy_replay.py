"""Replays of decisions between the wire and the domain."""

from controlplane.api.convert.policies import EFFECTS
from controlplane.api.convert.values import moment, timestamp_to_ms
from controlplane.domain.policy_sets.replay import (
    MAX_GROUPS,
    Flip,
    NotReplayable,
    ReplayReport,
    most,
)
from controlplane.services.policies.simulation import DEFAULT_DECISIONS, Sample
from fleetplane.v1 import policy_service_pb2 as pb


def sample_from_proto(request: pb.SimulatePoliciesRequest) -> Sample:
    """Return which decisions to replay; bounds are judged by the use case.

    Raises:
        InvalidArgument: a malformed time.
    """
    begin = getattr(request, "from")  # a keyword here, not on the wire
    return Sample(
        limit=request.limit or DEFAULT_DECISIONS,
        from_ms=timestamp_to_ms(begin, "from") if request.HasField("from") else 0,
        to_ms=timestamp_to_ms(request.to, "to") if request.HasField("to") else 0,
    )


def report_to_proto(report: ReplayReport) -> pb.ReplayReport:
    """Return what a replay found as a message."""
    effects = sorted(report.by_effect.items(), key=lambda item: (-item[1], item[0]))
    agents = sorted(report.by_agent.items(), key=lambda item: (-item[1], item[0]))
    return pb.ReplayReport(
        made=report.made,
        recorded=report.recorded,
        replayed=report.replayed,
        masked=report.not_replayable[NotReplayable.MASKED],
        lost=report.not_replayable[NotReplayable.LOST],
        unreadable=report.not_replayable[NotReplayable.UNREADABLE],
        sampled=report.sampled,
        unsampled=report.unsampled,
        oldest_at=moment(report.oldest_ms),
        newest_at=moment(report.newest_ms),
        flips=report.flips,
        agreed_by_live=report.agreed_by_live,
        caused=round(report.caused),
        undecidable=round(report.undecidable),
        by_action=[
            pb.FlipCount(before=EFFECTS.to_wire(before), after=EFFECTS.to_wire(after), count=count)
            for (before, after), count in effects
        ],
        by_agent=[
            pb.AgentFlips(agent_id=agent_id, agent_name=name, count=count)
            for (agent_id, name), count in agents[:MAX_GROUPS]
        ],
        by_policy=[
            pb.PolicyFlips(policy_id=policy_id, count=count)
            for policy_id, count in most(report.by_policy)
        ],
        examples=[_example(flip) for flip in report.examples],
    )


def _example(flip: Flip) -> pb.FlipExample:
    return pb.FlipExample(
        decision_id=flip.decision_id,
        made_at=moment(flip.at_ms),
        agent_id=flip.agent_id,
        agent_name=flip.agent_name,
        action=flip.action,
        tool=flip.tool,
        before=EFFECTS.to_wire(flip.before.effect),
        before_policies=flip.before.determining,
        after=EFFECTS.to_wire(flip.after.effect),
        after_policies=flip.after.determining,
        message=flip.after.message,
    )
