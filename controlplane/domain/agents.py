"""Agents and their instances: what is known, and which moves their life allows.

An agent is one `name@version`; an instance is one running process of it. Leases, beats and
generations belong to instances; status belongs to the agent.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from controlplane.domain.errors import InvalidTransition


class AgentStatus(StrEnum):
    """Where an agent is in its life."""

    REGISTERED = "REGISTERED"
    ACTIVE = "ACTIVE"
    DEGRADED = "DEGRADED"
    INACTIVE = "INACTIVE"
    DECOMMISSIONED = "DECOMMISSIONED"


class Activation(StrEnum):
    """How an agent becomes ACTIVE."""

    AUTO = "AUTO"
    MANUAL = "MANUAL"


class InstanceState(StrEnum):
    """How fresh an instance is."""

    STARTING = "STARTING"
    FRESH = "FRESH"
    SILENT = "SILENT"
    LOST = "LOST"


LOST = "LOST"
"""`status_reason` of an agent that is INACTIVE because every instance fell silent for too long."""

STOPPED = "STOPPED"
"""`status_reason` of an agent that is INACTIVE because its last instance said goodbye."""

REVIVABLE_REASONS = frozenset({LOST, STOPPED})
"""Reasons of INACTIVE that a beat undoes; any other was an operator's decision."""

_MOVES: Mapping[AgentStatus, frozenset[AgentStatus]] = {
    AgentStatus.REGISTERED: frozenset(
        {AgentStatus.ACTIVE, AgentStatus.INACTIVE, AgentStatus.DECOMMISSIONED}
    ),
    AgentStatus.ACTIVE: frozenset({AgentStatus.DEGRADED, AgentStatus.INACTIVE}),
    AgentStatus.DEGRADED: frozenset({AgentStatus.ACTIVE, AgentStatus.INACTIVE}),
    AgentStatus.INACTIVE: frozenset({AgentStatus.ACTIVE, AgentStatus.DECOMMISSIONED}),
    AgentStatus.DECOMMISSIONED: frozenset(),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentSpec:
    """What the owner of an agent declares; limits are in `domain/registration.py`."""

    name: str
    version: str
    description: str = ""
    owner: str = ""
    capabilities: tuple[str, ...] = ()
    tools: tuple[str, ...] = ()
    model: str = ""
    endpoint: str = ""
    max_concurrency: int = 1
    timeout_seconds: int = 30
    tags: Mapping[str, str] = field(default_factory=dict)
    activation: Activation = Activation.AUTO
    degraded_after_ms: int | None = None
    lost_after_ms: int | None = None

    @property
    def name_version(self) -> str:
        """Return `name@version`, unique in the namespace."""
        return f"{self.name}@{self.version}"


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingActivation:
    """An activation that a policy wants approved first, bound to the configuration asked about."""

    policies: tuple[str, ...]
    """Who wants the approval."""
    config_digest: str
    """Of the effective configuration; a grant holds for no other."""
    asked_by: str
    asked_at_ms: int
    approval_id: str = ""
    """The approval that stands for it; empty: it is not open yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Agent:
    """One `name@version`. Revision and times are the store's; 0 before it was stored."""

    agent_id: str
    spec: AgentSpec
    status: AgentStatus = AgentStatus.REGISTERED
    status_reason: str = ""
    draining: bool = False
    """It takes no new work: a drain is under way, or done."""
    pending: PendingActivation | None = None
    """An activation that waits for an approval; None: none does."""
    revision: int = 0
    registered_at_ms: int = 0
    updated_at_ms: int = 0

    def moved(self, status: AgentStatus, reason: str = "") -> "Agent":
        """Return the agent in another status.

        Raises:
            InvalidTransition: the lifecycle has no such move.
        """
        if status not in _MOVES[self.status]:
            raise InvalidTransition(f"agent {self.agent_id!r}", current=self.status, wanted=status)
        # Every move answers, or overtakes, an activation that waited for an approval.
        return replace(self, status=status, status_reason=reason, pending=None)

    def deactivated(self, reason: str) -> "Agent":
        """Return the agent INACTIVE by an operator's decision: no beat brings it back.

        One that is INACTIVE because it fell silent or went home becomes so by decision; one that
        already is so by decision stays as it is.

        Raises:
            InvalidTransition: it is DECOMMISSIONED.
        """
        if self.status is AgentStatus.INACTIVE:
            if not self.may_be_revived:
                return replace(self, draining=False, pending=None)
            return replace(self, status_reason=reason, draining=False, pending=None)
        return replace(self.moved(AgentStatus.INACTIVE, reason), draining=False)

    @property
    def is_stopped(self) -> bool:
        """Whether an operator stopped or retired it: it takes no work, whatever it says."""
        match self.status:
            case AgentStatus.INACTIVE:
                return self.status_reason not in REVIVABLE_REASONS
            case AgentStatus.DECOMMISSIONED:
                return True
            case _:
                return False

    @property
    def may_be_revived(self) -> bool:
        """Whether a beat may bring it to ACTIVE; never if an operator stopped or retired it."""
        match self.status:
            case AgentStatus.ACTIVE | AgentStatus.DEGRADED:
                return True
            case AgentStatus.INACTIVE:
                return self.status_reason in REVIVABLE_REASONS
            case AgentStatus.REGISTERED:
                return self.spec.activation is Activation.AUTO
            case AgentStatus.DECOMMISSIONED:
                return False


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """One running process of an agent.

    `generation` is the fencing token: the revision of the write that registered this process, so it
    grows with every registration in the namespace and can never repeat.
    """

    instance_id: str
    agent_id: str
    endpoint: str = ""
    state: InstanceState = InstanceState.STARTING
    draining: bool = False
    """It takes no new work: this process is about to stop."""
    generation: int = 0
    revision: int = 0
    registered_at_ms: int = 0
    updated_at_ms: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceLoad:
    """What an instance last said about its work; counters run since the start of its process."""

    in_flight: int = 0
    completed: int = 0
    failed: int = 0
    latency_ms: float = 0.0
    error_rate: float = 0.0
    stalled: bool = False
