"""What policies carry besides their rule, between the wire and the domain."""

from collections.abc import Iterable
from typing import Final

from google.protobuf.duration_pb2 import Duration

from controlplane.api.convert.values import (
    duration_to_ms,
    json_to_struct,
    ms_to_duration,
    struct_to_json,
)
from controlplane.domain.errors import InvalidArgument
from controlplane.domain.policies import (
    ApprovalRequirement,
    ApprovalStage,
    Escalation,
    Obligation,
)
from fleetplane.v1 import policy_service_pb2 as pb

_DEFAULTS: Final = ApprovalRequirement()


def approval_from_proto(approval: pb.ApprovalRequirement, field: str) -> ApprovalRequirement:
    """Return who has to approve, defaults filled in; bounds are judged by the domain.

    Raises:
        InvalidArgument: a duration under `field` is malformed, or an escalation has none.
    """
    return ApprovalRequirement(
        stages=tuple(
            ApprovalStage(
                name=stage.name,
                quorum=stage.quorum or 1,
                eligible=tuple(stage.eligible),
                deny_quorum=stage.deny_quorum or 1,
            )
            for stage in approval.stages
        ),
        ttl_ms=_milliseconds(approval, "ttl", field, _DEFAULTS.ttl_ms),
        use_window_ms=_milliseconds(approval, "use_window", field, _DEFAULTS.use_window_ms),
        prevent_owner=approval.prevent_owner,
        not_before_delay_ms=_milliseconds(approval, "not_before_delay", field, 0),
        escalations=tuple(
            _escalation(one, f"{field}.escalations[{position}]")
            for position, one in enumerate(approval.escalations)
        ),
        irreversible=approval.irreversible,
    )


def _milliseconds(approval: pb.ApprovalRequirement, name: str, field: str, default: int) -> int:
    duration: Duration = getattr(approval, name)
    present = approval.HasField(name)  # type: ignore[arg-type]  # one of its three durations
    return duration_to_ms(duration, f"{field}.{name}") if present else default


def _escalation(escalation: pb.Escalation, field: str) -> Escalation:
    if not escalation.HasField("after"):
        raise InvalidArgument.of(f"{field}.after", "is required")
    return Escalation(
        after_ms=duration_to_ms(escalation.after, f"{field}.after"),
        eligible=tuple(escalation.eligible),
    )


def approval_to_proto(approval: ApprovalRequirement) -> pb.ApprovalRequirement:
    """Return who has to approve as a message."""
    return pb.ApprovalRequirement(
        stages=[
            pb.ApprovalStage(
                name=stage.name,
                quorum=stage.quorum,
                eligible=stage.eligible,
                deny_quorum=stage.deny_quorum,
            )
            for stage in approval.stages
        ],
        ttl=ms_to_duration(approval.ttl_ms),
        use_window=ms_to_duration(approval.use_window_ms),
        prevent_owner=approval.prevent_owner,
        not_before_delay=ms_to_duration(approval.not_before_delay_ms),
        escalations=[
            pb.Escalation(after=ms_to_duration(one.after_ms), eligible=one.eligible)
            for one in approval.escalations
        ],
        irreversible=approval.irreversible,
    )


def obligations_from_proto(
    obligations: Iterable[pb.Obligation], field: str
) -> tuple[Obligation, ...]:
    """Return obligations.

    Raises:
        InvalidArgument: parameters under `field` that are no JSON.
    """
    return tuple(
        Obligation(name=one.name, params=struct_to_json(one.params, f"{field}[{position}].params"))
        for position, one in enumerate(obligations)
    )


def obligations_to_proto(obligations: Iterable[Obligation]) -> list[pb.Obligation]:
    """Return obligations as messages."""
    return [pb.Obligation(name=one.name, params=json_to_struct(one.params)) for one in obligations]
