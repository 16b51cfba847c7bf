"""Agents, instances and filters: wire to domain and back."""

from collections.abc import Collection
from typing import Literal

from controlplane.api.convert.values import (
    EnumPair,
    duration_to_ms,
    ms_to_duration,
    ms_to_timestamp,
)
from controlplane.domain.agents import (
    Activation,
    Agent,
    AgentSpec,
    AgentStatus,
    InstanceState,
    PendingActivation,
)
from controlplane.domain.errors import FieldViolation, InvalidArgument
from controlplane.domain.registration import validate_spec
from controlplane.domain.selection import AgentFilter
from controlplane.services.live_instances import AgentEntry, LiveInstance
from fleetplane.v1 import agent_pb2 as pb
from fleetplane.v1 import registry_service_pb2 as registry_pb

STATUSES = EnumPair(pb.AgentStatus, "AGENT_STATUS_", AgentStatus)
ACTIVATIONS = EnumPair(pb.Activation, "ACTIVATION_", Activation)
INSTANCE_STATES = EnumPair(pb.InstanceState, "INSTANCE_STATE_", InstanceState)

_DEFAULT_CONCURRENCY = 1
"""What 0 means, by contract."""

_DEFAULT_TIMEOUT_SECONDS = 30
"""What 0 means, by contract."""

_MOST_KEPT_RECORDS = 50_000
"""Serialised records kept, some 600 bytes each; beyond, keeping starts anew."""


def spec_from_proto(
    spec: pb.AgentSpec, field: str = "spec", *, mask: Collection[str] | None = None
) -> AgentSpec:
    """Return what an owner declares, with the defaults of the contract filled in.

    With the `mask` of an update only the fields that it names count, and their limits are left to
    `apply_mask`, which knows the rest of the declaration.

    Raises:
        InvalidArgument: one violation for every broken limit, such as `spec.capabilities[3]`.
    """
    violations: list[FieldViolation] = []
    activation = Activation.AUTO
    if spec.activation and _counts("activation", mask):
        try:
            activation = ACTIVATIONS.from_wire(spec.activation, f"{field}.activation")
        except InvalidArgument as refusal:
            violations.extend(refusal.violations)
    declared = AgentSpec(
        name=spec.name,
        version=spec.version,
        description=spec.description,
        owner=spec.owner,
        capabilities=tuple(spec.capabilities),
        tools=tuple(spec.tools),
        model=spec.model,
        endpoint=spec.endpoint,
        max_concurrency=spec.max_concurrency or _DEFAULT_CONCURRENCY,
        timeout_seconds=spec.timeout_seconds or _DEFAULT_TIMEOUT_SECONDS,
        tags=dict(spec.tags),
        activation=activation,
        degraded_after_ms=_silence(spec, "degraded_after", field, mask, violations),
        lost_after_ms=_silence(spec, "lost_after", field, mask, violations),
    )
    if mask is None:
        violations.extend(validate_spec(declared, field))
    if violations:
        raise InvalidArgument(*violations)
    return declared


def _counts(name: str, mask: Collection[str] | None) -> bool:
    return mask is None or name in mask


def _silence(
    spec: pb.AgentSpec,
    name: Literal["degraded_after", "lost_after"],
    field: str,
    mask: Collection[str] | None,
    violations: list[FieldViolation],
) -> int | None:
    if not spec.HasField(name) or not _counts(name, mask):
        return None
    try:
        return duration_to_ms(getattr(spec, name), f"{field}.{name}")
    except InvalidArgument as refusal:
        violations.extend(refusal.violations)
        return None


def filter_from_proto(wanted: registry_pb.AgentFilter, field: str = "filter") -> AgentFilter:
    """Return the conditions; an unspecified status among the statuses means any.

    Raises:
        InvalidArgument: one violation for every wrong field, such as `filter.version_range`.
    """
    violations: list[FieldViolation] = []
    statuses: set[AgentStatus] = set()
    for index, number in enumerate(wanted.statuses):
        status = STATUSES.get(number)
        if status is not None:
            statuses.add(status)
        elif number == pb.AGENT_STATUS_UNSPECIFIED:
            statuses.update(AgentStatus)
        else:
            violations.append(FieldViolation(f"{field}.statuses[{index}]", "is not known here"))
    conditions = AgentFilter(
        capabilities=tuple(dict.fromkeys(wanted.capabilities)),
        tags=dict(wanted.tags),
        statuses=frozenset(statuses),
        name=wanted.name,
        version_range=wanted.version_range,
        owner=wanted.owner,
        model=wanted.model,
        tool=wanted.tool,
    )
    violations.extend(conditions.violations(field))
    if violations:
        raise InvalidArgument(*violations)
    return conditions


class _Records:
    """Serialised records: each is made once per revision, however many lists and watchers carry it.

    Reading one costs a quarter of making it.
    """

    def __init__(self) -> None:
        self._kept: dict[tuple[str, str], tuple[Agent, bytes]] = {}

    def message(self, agent: Agent, namespace: str) -> pb.Agent:
        """Return a new message of the record, without what its beats said."""
        key = namespace, agent.agent_id
        known = self._kept.get(key)
        if known is not None and known[0] is agent:
            return pb.Agent.FromString(known[1])
        message = pb.Agent(
            agent_id=agent.agent_id,
            namespace=namespace,
            spec=spec_to_proto(agent.spec),
            status=STATUSES.to_wire(agent.status),
            status_reason=agent.status_reason,
            registered_at=ms_to_timestamp(agent.registered_at_ms),
            updated_at=ms_to_timestamp(agent.updated_at_ms),
            revision=agent.revision,
            draining=agent.draining,
            pending_activation=_pending_to_proto(agent.pending) if agent.pending else None,
        )
        if len(self._kept) >= _MOST_KEPT_RECORDS:
            self._kept.clear()
        self._kept[key] = agent, message.SerializeToString()
        return message


def _pending_to_proto(pending: PendingActivation) -> pb.PendingActivation:
    return pb.PendingActivation(
        approval_id=pending.approval_id,
        policy_ids=pending.policies,
        asked_by=pending.asked_by,
        asked_at=ms_to_timestamp(pending.asked_at_ms),
    )


_RECORDS = _Records()


def agent_to_proto(entry: AgentEntry, namespace: str, *, include_instances: bool) -> pb.Agent:
    """Return an agent with what its beats said; instances by instance_id, if they are wanted."""
    message = _RECORDS.message(entry.agent, namespace)
    if entry.instances:
        last_beat_ms = entry.last_beat_ms
        if last_beat_ms:
            message.last_heartbeat.CopyFrom(ms_to_timestamp(last_beat_ms))
        if include_instances:
            message.instances.extend(
                instance_to_proto(live) for _, live in sorted(entry.instances.items())
            )
    return message


def spec_to_proto(spec: AgentSpec) -> pb.AgentSpec:
    """Return a declaration."""
    message = pb.AgentSpec(
        name=spec.name,
        version=spec.version,
        description=spec.description,
        owner=spec.owner,
        capabilities=spec.capabilities,
        tools=spec.tools,
        model=spec.model,
        endpoint=spec.endpoint,
        max_concurrency=spec.max_concurrency,
        timeout_seconds=spec.timeout_seconds,
        tags=spec.tags,
        activation=ACTIVATIONS.to_wire(spec.activation),
    )
    if spec.degraded_after_ms is not None:
        message.degraded_after.CopyFrom(ms_to_duration(spec.degraded_after_ms))
    if spec.lost_after_ms is not None:
        message.lost_after.CopyFrom(ms_to_duration(spec.lost_after_ms))
    return message


def instance_to_proto(live: LiveInstance) -> pb.Instance:
    """Return an instance with what its beats said about work and configuration."""
    instance = live.instance
    message = pb.Instance(
        instance_id=instance.instance_id,
        agent_id=instance.agent_id,
        endpoint=instance.endpoint,
        generation=instance.generation,
        state=INSTANCE_STATES.to_wire(instance.state),
        stalled=live.stalled,
        registered_at=ms_to_timestamp(instance.registered_at_ms),
        draining=instance.draining,
        tasks_held=live.held,
    )
    if live.last_beat_ms:
        message.last_heartbeat.CopyFrom(ms_to_timestamp(live.last_beat_ms))
        message.load.CopyFrom(
            pb.InstanceLoad(
                in_flight=live.in_flight,
                completed=live.completed,
                failed=live.failed,
                latency_ms=live.latency_ms,
                error_rate=live.error_rate,
            )
        )
    if live.config_attempted or live.config_running or live.config_status:
        message.config.CopyFrom(
            pb.ConfigAcknowledgement(
                attempted_revision=live.config_attempted,
                running_revision=live.config_running,
                # The read model keeps the number of the wire: 0 unknown ... 3 failed.
                status=pb.ConfigStatus.ValueType(live.config_status),
                error=live.config_error,
            )
        )
    return message
