"""What is said about an agent at registration, and how agents are selected."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final, TypedDict

from google.protobuf.field_mask_pb2 import FieldMask

from fleetplane._enums import Activation, AgentStatus
from fleetplane._values import one_of, to_duration
from fleetplane.v1 import agent_pb2, registry_service_pb2


class SpecFields(TypedDict, total=False):
    """The fields of `AgentSpec` besides name and version, all optional; see there."""

    description: str
    owner: str
    capabilities: Sequence[str]
    tools: Sequence[str]
    model: str
    endpoint: str
    max_concurrency: int
    timeout_seconds: int
    tags: Mapping[str, str]
    activation: Activation
    degraded_after: float | timedelta | None
    lost_after: float | timedelta | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentSpec:
    """What the owner of an agent declares about it. Checked by the daemon."""

    name: str
    """Shared by the versions of the agent. 1-256 bytes of `[A-Za-z0-9._-]`."""
    version: str
    """Semantic version, such as `2.1.0`."""
    description: str = ""
    """What the agent is for; searched when the best agent for a task is wanted."""
    owner: str = ""
    """Team or person who answers for it."""
    capabilities: Sequence[str] = ()
    """What it can do. At most 64, without duplicates."""
    tools: Sequence[str] = ()
    """Tools it may call. At most 64, without duplicates."""
    model: str = ""
    """Model it was built for."""
    endpoint: str = ""
    """A2A URL, optional."""
    max_concurrency: int = 1
    """Tasks one instance works on at the same time. 1-100,000."""
    timeout_seconds: int = 30
    """How long a task may take. 1-86,400 seconds."""
    tags: Mapping[str, str] = field(default_factory=dict)
    """Labels. At most 64."""
    activation: Activation = Activation.AUTO
    """How it becomes ACTIVE."""
    degraded_after: float | timedelta | None = None
    """Seconds of silence before DEGRADED; None: the daemon's setting."""
    lost_after: float | timedelta | None = None
    """Seconds of silence before INACTIVE (LOST); None: the daemon's setting."""

    def to_message(self) -> agent_pb2.AgentSpec:
        """Return the declaration as it travels.

        Raises:
            TypeError: a value has the wrong type.
            ValueError: a number does not fit.
        """
        message = agent_pb2.AgentSpec()
        fill_spec(message, {name: getattr(self, name) for name in _SPEC_FIELDS})
        return message


_SPEC_FIELDS: Final = tuple(agent_pb2.AgentSpec.DESCRIPTOR.fields_by_name)


def fill_spec(message: agent_pb2.AgentSpec, values: Mapping[str, Any]) -> None:
    """Set fields of a declaration by name."""
    for name, value in values.items():
        match name:
            case "capabilities" | "tools":
                getattr(message, name).extend(one_of(value))
            case "tags":
                message.tags.update(value)
            case "degraded_after" | "lost_after":
                if duration := to_duration(value or None):
                    getattr(message, name).CopyFrom(duration)
            case _:
                setattr(message, name, value)


def spec_changes(changes: Mapping[str, Any]) -> tuple[agent_pb2.AgentSpec, FieldMask]:
    """Return new values and the mask that names them.

    Raises:
        TypeError: a field does not exist or cannot be changed.
        ValueError: nothing is changed.
    """
    if unknown := set(changes) - set(SpecFields.__annotations__):
        raise TypeError(f"an agent has no changeable field {', '.join(sorted(unknown))}")
    if not changes:
        raise ValueError("no field to change was given")
    message = agent_pb2.AgentSpec()
    fill_spec(message, changes)
    return message, FieldMask(paths=sorted(changes))


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceSpec:
    """The process that registers itself along with its agent."""

    instance_id: str = ""
    """Identity of this process, new at every start. Empty: the daemon makes one."""
    endpoint: str = ""
    """Where this process is reached, if it differs from the agent's endpoint."""
    generation: int = 0
    """Generation this process already holds; 0 for a new process."""

    def to_message(self) -> registry_service_pb2.InstanceSpec:
        """Return the process as it travels."""
        return registry_service_pb2.InstanceSpec(
            instance_id=self.instance_id, endpoint=self.endpoint, generation=self.generation
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    """One entry of a batch registration."""

    spec: AgentSpec
    """What is registered."""
    agent_id: str = ""
    """Identity to register under. Empty: that of the existing name@version, or a new one."""
    instance: InstanceSpec | None = None
    """The calling process. None: only the agent is recorded."""
    request_id: str = ""
    """Makes a retry safe. Empty: a new one."""


def agent_filter(
    *,
    capabilities: str | Sequence[str] = (),
    tags: Mapping[str, str] | None = None,
    statuses: Iterable[AgentStatus] = (),
    name: str = "",
    version_range: str = "",
    owner: str = "",
    model: str = "",
    tool: str = "",
) -> registry_service_pb2.AgentFilter:
    """Build the condition that lists, discovery and watches share; empty parts are ignored."""
    return registry_service_pb2.AgentFilter(
        capabilities=one_of(capabilities),
        tags=dict(tags or {}),
        statuses=[agent_pb2.AgentStatus.ValueType(status) for status in statuses],
        name=name,
        version_range=version_range,
        owner=owner,
        model=model,
        tool=tool,
    )


class FilterFields(TypedDict, total=False):
    """The conditions agents are selected by; all that are given must hold.

    `capabilities`: has all of them. `tags`: carries all of them with these values. `statuses`: is
    in one of them. `name`, `owner`, `model`: equals. `version_range`: comma-separated comparisons
    such as `>=1.2.0,<2.0.0`. `tool`: may call it.
    """

    capabilities: str | Sequence[str]
    tags: Mapping[str, str] | None
    statuses: Iterable[AgentStatus]
    name: str
    version_range: str
    owner: str
    model: str
    tool: str
