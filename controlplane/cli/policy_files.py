"""Policies as operators write them: files, and what is made of them.

    policies:
      - policy_id: cost-limit
        description: An action whose estimated cost is above 1.0 is denied.
        conditions: {estimated_cost_exceeds: 1.0}
        action: DENY
        priority: 90

A file holds a list under `policies`, a bare list, or one policy. The fields are those of
`fleetplane.v1.Policy`; `enabled` is true unless it says otherwise.
"""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from controlplane.cli.arguments import check_numbers, read_document
from controlplane.cli.outcomes import WrongInput
from controlplane.cli.policy_attachments import ApprovalDocument, ObligationDocument
from controlplane.domain import policies as engine
from controlplane.domain.policies import Effect
from fleetplane import OnMissing, PolicyAction, PolicyFields, from_struct
from fleetplane.v1 import policy_service_pb2

SUFFIXES = frozenset({".yaml", ".yml", ".json"})
"""Names of files that a directory of policies is made of."""


class Targets(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a policy is about."""

    actions: tuple[str, ...] = ()
    tools: tuple[str, ...] = ()
    agents: tuple[str, ...] = ()


class PolicyDocument(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One policy of a file; the fields of `fleetplane.v1.Policy` that can be written."""

    policy_id: str
    action: Effect
    name: str = ""
    description: str = ""
    conditions: dict[str, Any] = msgspec.field(default_factory=dict)
    priority: int = 0
    enabled: bool = True
    guardrail: bool = False
    on_missing: engine.OnMissing | None = None
    match_all: bool = False
    targets: Targets = Targets()
    agent_name: str = ""
    agent_id: str = ""
    not_before: datetime | None = None
    not_after: datetime | None = None
    approval: ApprovalDocument | None = None
    obligations: tuple[ObligationDocument, ...] = ()

    def to_fields(self) -> PolicyFields:
        """Return every field in the words of the SDK."""
        return {
            "name": self.name,
            "description": self.description,
            "conditions": self.conditions,
            "action": PolicyAction[self.action.name],
            "priority": self.priority,
            "enabled": self.enabled,
            "guardrail": self.guardrail,
            "on_missing": (
                OnMissing[self.on_missing.name] if self.on_missing else OnMissing.UNSPECIFIED
            ),
            "match_all": self.match_all,
            "target_actions": self.targets.actions,
            "target_tools": self.targets.tools,
            "target_agents": self.targets.agents,
            "agent_name": self.agent_name,
            "agent_id": self.agent_id,
            "not_before": self.not_before,
            "not_after": self.not_after,
            "approval": self.approval.to_sdk() if self.approval is not None else None,
            "obligations": [one.to_sdk() for one in self.obligations],
        }

    def to_policy(self) -> engine.Policy:
        """Return it as the engine reads it."""
        return engine.Policy(
            policy_id=self.policy_id,
            action=self.action,
            name=self.name,
            description=self.description,
            conditions=self.conditions,
            priority=self.priority,
            enabled=self.enabled,
            guardrail=self.guardrail,
            on_missing=self.on_missing,
            match_all=self.match_all,
            targets=engine.Target(
                actions=self.targets.actions, tools=self.targets.tools, agents=self.targets.agents
            ),
            scope=engine.PolicyScope(agent_name=self.agent_name, agent_id=self.agent_id),
            not_before_ms=_milliseconds(self.not_before),
            not_after_ms=_milliseconds(self.not_after),
            approval=self.approval.to_engine() if self.approval is not None else None,
            obligations=tuple(one.to_engine() for one in self.obligations),
        )

    @classmethod
    def from_message(cls, policy: policy_service_pb2.Policy) -> "PolicyDocument":
        """Return a stored policy as a file would say it."""
        return cls(
            policy_id=policy.policy_id,
            action=Effect[PolicyAction(policy.action).name],
            name=policy.name,
            description=policy.description,
            conditions=from_struct(policy.conditions),
            priority=policy.priority,
            enabled=policy.enabled,
            guardrail=policy.guardrail,
            on_missing=(
                engine.OnMissing[OnMissing(policy.on_missing).name] if policy.on_missing else None
            ),
            match_all=policy.match_all,
            targets=Targets(
                actions=tuple(policy.targets.actions),
                tools=tuple(policy.targets.tools),
                agents=tuple(policy.targets.agents),
            ),
            agent_name=policy.agent_name,
            agent_id=policy.agent_id,
            not_before=_moment(policy, "not_before"),
            not_after=_moment(policy, "not_after"),
            approval=(
                ApprovalDocument.from_message(policy.approval)
                if policy.HasField("approval")
                else None
            ),
            obligations=tuple(ObligationDocument.from_message(one) for one in policy.obligations),
        )


def _milliseconds(moment: datetime | None) -> int | None:
    return None if moment is None else round(moment.timestamp() * 1000)


def _moment(policy: policy_service_pb2.Policy, field: str) -> datetime | None:
    if not policy.HasField(field):  # type: ignore[arg-type]  # one of two literals
        return None
    moment: datetime = getattr(policy, field).ToDatetime(UTC)
    return moment


def policies_at(path: Path) -> list[PolicyDocument]:
    """Read the policies of a file, or of all YAML and JSON files of a directory, in order.

    Raises:
        WrongInput: nothing is there, a file or field is wrong, or an id is there twice.
        InvalidArgument: the engine would refuse a policy; with every violation.
    """
    files = _files(path)
    found: dict[str, tuple[Path, PolicyDocument]] = {}
    for file in files:
        for policy in parse_policies(read_document(file), str(file)):
            if policy.policy_id in found:
                first = found[policy.policy_id][0]
                raise WrongInput(f"{file}: policy {policy.policy_id!r} is in {first} already")
            found[policy.policy_id] = (file, policy)
    if not found:
        raise WrongInput(f"{path}: holds no policy")
    documents = [policy for _, policy in found.values()]
    engine.compile_policies((one.to_policy() for one in documents), revision=0)
    return documents


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    files = sorted(one for one in path.rglob("*") if one.suffix in SUFFIXES and one.is_file())
    if not files:
        raise WrongInput(f"{path}: holds no .yaml, .yml or .json file")
    return files


def parse_policies(document: Any, where: str) -> list[PolicyDocument]:
    """Read a parsed file: a list under `policies`, a bare list, or one policy.

    Raises:
        WrongInput: a field is unknown, missing or of the wrong type; the message has its path.
    """
    entries = document
    if isinstance(document, Mapping) and "policies" in document:
        if extra := [str(key) for key in document if key != "policies"]:
            raise WrongInput(f"{where}: nothing may stand beside `policies`: {', '.join(extra)}")
        entries = document["policies"]
    if isinstance(entries, Mapping):
        entries = [entries]
    if not isinstance(entries, list):
        raise WrongInput(f"{where}: must hold a list under `policies`, a list, or one policy")
    try:
        documents = msgspec.convert(entries, list[PolicyDocument])
    except msgspec.ValidationError as error:
        raise WrongInput(f"{where}: {error}".replace("$", "policies")) from error
    for one in documents:
        check_numbers(one.conditions, f"{where}: {one.policy_id}.conditions")
        for moment in (one.not_before, one.not_after):
            if moment is not None and moment.tzinfo is None:
                raise WrongInput(f"{where}: {one.policy_id}: times need a time zone, such as Z")
    return documents


def as_document(policies: Iterable[PolicyDocument]) -> dict[str, Any]:
    """Return policies as a file that `policies apply` reads; what is default is left out."""
    kept = []
    for one in policies:
        values = msgspec.to_builtins(one)
        defaults = msgspec.to_builtins(PolicyDocument(policy_id=one.policy_id, action=one.action))
        kept.append(
            {
                key: value
                for key, value in values.items()
                if key in {"policy_id", "action", "priority"} or value != defaults[key]
            }
        )
    return {"policies": kept}
