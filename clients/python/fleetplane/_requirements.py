"""What policies carry besides their rule, as it is written: who has to approve, and obligations."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from fleetplane._values import JsonValue, one_of, to_duration, to_struct
from fleetplane.v1 import policy_service_pb2 as pb


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovalStage:
    """One group of people who have to agree; stages are decided in their order."""

    name: str = ""
    """For people, and what stages of several policies are joined by."""
    quorum: int = 1
    """Votes that pass it, 1-16."""
    eligible: str | Sequence[str] = ()
    """`user:<name>`, `group:<name>`, `token:<id>`, a SPIFFE pattern, `role:approver`; nothing:
    whoever has the permission to approve."""
    deny_quorum: int = 1
    """Votes against it that end the request, 1-16."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Escalation:
    """Who may decide as well once a request has waited."""

    after: float | timedelta
    """Seconds, or a time span."""
    eligible: str | Sequence[str]
    """Who, as in stages."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovalRequirement:
    """Who has to agree, and how long it holds. Times are seconds or time spans."""

    stages: Sequence[ApprovalStage] = ()
    """None: one yes of anybody who may approve."""
    ttl: float | timedelta | None = None
    """How long there is to decide, 1 s - 24 h. None: 15 min."""
    use_window: float | timedelta | None = None
    """How long a grant can be used, 1 s - 24 h. None: 5 min."""
    prevent_owner: bool = False
    """The owner of the agent may not decide."""
    not_before_delay: float | timedelta | None = None
    """A grant can be used only so long after the request."""
    escalations: Sequence[Escalation] = ()
    """Shortest wait first."""
    irreversible: bool = False
    """No standing grant stands for it."""

    def to_proto(self) -> pb.ApprovalRequirement:
        """Return it as a message."""
        return pb.ApprovalRequirement(
            stages=[
                pb.ApprovalStage(
                    name=stage.name,
                    quorum=stage.quorum,
                    eligible=one_of(stage.eligible),
                    deny_quorum=stage.deny_quorum,
                )
                for stage in self.stages
            ],
            ttl=to_duration(self.ttl),
            use_window=to_duration(self.use_window),
            prevent_owner=self.prevent_owner,
            not_before_delay=to_duration(self.not_before_delay),
            escalations=[
                pb.Escalation(after=to_duration(one.after), eligible=one_of(one.eligible))
                for one in self.escalations
            ],
            irreversible=self.irreversible,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Obligation:
    """What whoever goes ahead has to do besides, such as `redact` or `notify`."""

    name: str
    """Which."""
    params: Mapping[str, JsonValue] = field(default_factory=dict)
    """With what."""

    def to_proto(self) -> pb.Obligation:
        """Return it as a message."""
        return pb.Obligation(name=self.name, params=to_struct(self.params))
