"""The settings of a namespace's policies between the wire and the domain."""

from collections.abc import Iterable
from typing import Final

from controlplane.api.convert.policies import EFFECTS, ON_MISSING, on_missing_to_wire
from controlplane.api.convert.requests import reason_from_proto
from controlplane.api.convert.values import EnumPair, moment
from controlplane.domain.errors import FieldViolation, InvalidArgument
from controlplane.domain.policy_settings import (
    ApprovalSettings,
    DecisionLogRule,
    DecisionLogSettings,
    Durability,
    PolicySettings,
)
from controlplane.services.policies.settings import SettingsChange
from controlplane.services.ports import RequestKey
from fleetplane.v1 import policy_service_pb2 as pb

_DURABILITIES: Final = EnumPair(pb.DecisionDurability, "DECISION_DURABILITY_", Durability)

_FIELDS: Final = {
    "default_action": "default_effect",
    "on_missing": "on_missing",
    "decision_log": "decision_log",
    "decision_log.rules": "decision_log.rules",
    "decision_log.masked_paths": "decision_log.masked_paths",
    "approval": "approval",
    "approval.ceilings": "approval.ceilings",
    "approval.max_pending_per_agent": "approval.max_pending_per_agent",
}
"""Path of an update mask -> path of attributes of `PolicySettings`."""


def settings_change_from_proto(
    request: pb.UpdatePolicySettingsRequest, key: RequestKey | None
) -> SettingsChange:
    """Return what UpdatePolicySettings asks for; bounds are judged by the domain.

    Raises:
        InvalidArgument: a mask that is empty or names something else, an unknown enum value, a
            reason that is too long.
    """
    return SettingsChange(
        settings=_settings_from_proto(request.settings),
        fields=_fields(request.update_mask.paths),
        expected_revision=(
            request.expected_revision if request.HasField("expected_revision") else None
        ),
        reason=reason_from_proto(request.reason),
        dry_run=request.dry_run,
        request=key,
    )


def _fields(paths: Iterable[str]) -> tuple[str, ...]:
    named = list(dict.fromkeys(paths))
    if not named:
        raise InvalidArgument.of("update_mask", "must name at least one field")
    wrong = [
        FieldViolation("update_mask", f"{path!r} is not a field that can be changed")
        for path in named
        if path not in _FIELDS
    ]
    if wrong:
        raise InvalidArgument(*wrong)
    return tuple(_FIELDS[path] for path in named)


def _settings_from_proto(settings: pb.PolicySettings) -> PolicySettings:
    defaults = ApprovalSettings()
    return PolicySettings(
        default_effect=(
            EFFECTS.from_wire(settings.default_action, "settings.default_action")
            if settings.default_action
            else None
        ),
        on_missing=(
            ON_MISSING.from_wire(settings.on_missing, "settings.on_missing")
            if settings.on_missing
            else None
        ),
        decision_log=DecisionLogSettings(
            rules=tuple(
                DecisionLogRule(
                    actions=tuple(rule.actions),
                    durability=_DURABILITIES.from_wire(
                        rule.durability,
                        f"settings.decision_log.rules[{position}].durability",
                        unspecified=Durability.ASYNC,
                    ),
                    sample_rate=rule.sample_rate or 1.0,
                )
                for position, rule in enumerate(settings.decision_log.rules)
            ),
            masked_paths=tuple(settings.decision_log.masked_paths),
        ),
        approval=ApprovalSettings(
            ceilings=(
                tuple(settings.approval.ceilings)
                if settings.HasField("approval")
                else defaults.ceilings
            ),
            max_pending_per_agent=(
                settings.approval.max_pending_per_agent or defaults.max_pending_per_agent
            ),
        ),
    )


def settings_to_proto(settings: PolicySettings) -> pb.PolicySettings:
    """Return settings as a message."""
    log, approval = settings.decision_log, settings.approval
    return pb.PolicySettings(
        default_action=(
            EFFECTS.to_wire(settings.default_effect)
            if settings.default_effect
            else pb.POLICY_ACTION_UNSPECIFIED
        ),
        on_missing=on_missing_to_wire(settings.on_missing),
        decision_log=pb.DecisionLogSettings(
            rules=[
                pb.DecisionLogRule(
                    actions=rule.actions,
                    durability=_DURABILITIES.to_wire(rule.durability),
                    sample_rate=rule.sample_rate,
                )
                for rule in log.rules
            ],
            masked_paths=log.masked_paths,
        ),
        approval=pb.ApprovalSettings(
            ceilings=approval.ceilings, max_pending_per_agent=approval.max_pending_per_agent
        ),
        revision=settings.revision,
        updated_at=moment(settings.updated_at_ms),
        updated_by=settings.updated_by,
        reason=settings.reason,
    )
