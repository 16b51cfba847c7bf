"""What the policies of a file carry besides their rule: who has to approve, and obligations.

    approval:
      stages: [{name: security, quorum: 2, eligible: ["group:security"]}]
      ttl: 30m
      escalations: [{after: 10m, eligible: ["group:on-call"]}]
    obligations: [{name: redact, params: {fields: [ssn]}}]

Time spans are texts such as `90s`, `15m` or `1h30m`, or numbers of seconds.
"""

from typing import Any

import msgspec
import typer

from controlplane.cli.durations import duration
from controlplane.domain import policies as engine
from fleetplane import ApprovalRequirement, ApprovalStage, Escalation, Obligation, from_struct
from fleetplane.v1 import policy_service_pb2 as pb

_DEFAULTS = engine.ApprovalRequirement()


class StageDocument(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One group of people who have to agree."""

    name: str = ""
    quorum: int = 1
    eligible: tuple[str, ...] = ()
    deny_quorum: int = 1


class EscalationDocument(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who may decide as well after a while."""

    after: str | float
    eligible: tuple[str, ...]

    def __post_init__(self) -> None:
        _in_seconds(self, "after")


class ApprovalDocument(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who has to agree, and how long it holds."""

    stages: tuple[StageDocument, ...] = ()
    ttl: str | float = _DEFAULTS.ttl_ms / 1000
    use_window: str | float = _DEFAULTS.use_window_ms / 1000
    prevent_owner: bool = False
    not_before_delay: str | float = 0.0
    escalations: tuple[EscalationDocument, ...] = ()
    irreversible: bool = False

    def __post_init__(self) -> None:
        _in_seconds(self, "ttl", "use_window", "not_before_delay")

    def to_engine(self) -> engine.ApprovalRequirement:
        """Return it as the engine carries it."""
        return engine.ApprovalRequirement(
            stages=tuple(
                engine.ApprovalStage(
                    name=stage.name,
                    quorum=stage.quorum,
                    eligible=stage.eligible,
                    deny_quorum=stage.deny_quorum,
                )
                for stage in self.stages
            ),
            ttl_ms=_milliseconds(self.ttl),
            use_window_ms=_milliseconds(self.use_window),
            prevent_owner=self.prevent_owner,
            not_before_delay_ms=_milliseconds(self.not_before_delay),
            escalations=tuple(
                engine.Escalation(after_ms=_milliseconds(one.after), eligible=one.eligible)
                for one in self.escalations
            ),
            irreversible=self.irreversible,
        )

    def to_sdk(self) -> ApprovalRequirement:
        """Return it in the words of the SDK."""
        return ApprovalRequirement(
            stages=[
                ApprovalStage(
                    name=stage.name,
                    quorum=stage.quorum,
                    eligible=stage.eligible,
                    deny_quorum=stage.deny_quorum,
                )
                for stage in self.stages
            ],
            ttl=_milliseconds(self.ttl) / 1000,
            use_window=_milliseconds(self.use_window) / 1000,
            prevent_owner=self.prevent_owner,
            not_before_delay=_milliseconds(self.not_before_delay) / 1000,
            escalations=[
                Escalation(after=_milliseconds(one.after) / 1000, eligible=one.eligible)
                for one in self.escalations
            ],
            irreversible=self.irreversible,
        )

    @classmethod
    def from_message(cls, approval: pb.ApprovalRequirement) -> "ApprovalDocument":
        """Return a stored requirement as a file would say it."""
        return cls(
            stages=tuple(
                StageDocument(
                    name=stage.name,
                    quorum=stage.quorum,
                    eligible=tuple(stage.eligible),
                    deny_quorum=stage.deny_quorum,
                )
                for stage in approval.stages
            ),
            ttl=approval.ttl.ToMilliseconds() / 1000,
            use_window=approval.use_window.ToMilliseconds() / 1000,
            prevent_owner=approval.prevent_owner,
            not_before_delay=approval.not_before_delay.ToMilliseconds() / 1000,
            escalations=tuple(
                EscalationDocument(
                    after=one.after.ToMilliseconds() / 1000, eligible=tuple(one.eligible)
                )
                for one in approval.escalations
            ),
            irreversible=approval.irreversible,
        )


class ObligationDocument(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What whoever goes ahead has to do besides."""

    name: str
    params: dict[str, Any] = msgspec.field(default_factory=dict)

    def to_engine(self) -> engine.Obligation:
        """Return it as the engine carries it."""
        return engine.Obligation(name=self.name, params=self.params)

    def to_sdk(self) -> Obligation:
        """Return it in the words of the SDK."""
        return Obligation(name=self.name, params=self.params)

    @classmethod
    def from_message(cls, obligation: pb.Obligation) -> "ObligationDocument":
        """Return a stored obligation as a file would say it."""
        return cls(name=obligation.name, params=from_struct(obligation.params))


def _in_seconds(document: msgspec.Struct, *names: str) -> None:
    """Read the time spans of a document, so that equal ones are equal however they are written.

    Raises:
        ValueError: one is none; msgspec adds where it stands.
    """
    for name in names:
        span = getattr(document, name)
        try:
            seconds = duration(span) if isinstance(span, str) else float(span)
        except typer.BadParameter as error:
            raise ValueError(error.message) from None
        msgspec.structs.force_setattr(document, name, seconds)


def _milliseconds(seconds: str | float) -> int:
    return round(float(seconds) * 1000)
