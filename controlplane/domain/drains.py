"""Drains and emergency stops: how work ends before an agent, or one instance of it, does.

Values only; the rules are in `drain_rules`.
"""

from dataclasses import dataclass, field
from enum import StrEnum


class DrainPhase(StrEnum):
    """How far a drain has come."""

    DRAINING = "DRAINING"
    """No new work; what is in flight may finish until the deadline."""
    DRAINED = "DRAINED"
    """Nothing is in flight: safe to stop."""
    CANCELLED = "CANCELLED"
    """Undone: the target takes work again."""


class DrainThen(StrEnum):
    """What follows when a drain is done."""

    STAY = "STAY"
    """The target stays drained until the drain is cancelled, or it is deactivated or leaves."""
    DEACTIVATE = "DEACTIVATE"
    """The agent becomes INACTIVE with the drain's reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drain:
    """The drain of an agent (`instance_id` empty) or of one instance. Times: the store's clock."""

    agent_id: str
    instance_id: str = ""
    phase: DrainPhase = DrainPhase.DRAINING
    then: DrainThen = DrainThen.STAY
    reason: str = ""
    actor: str = ""
    started_at_ms: int = 0
    deadline_at_ms: int = 0
    forced: bool = False
    """The deadline passed and the classes of the tasks decided."""
    quiet_since_ms: int = 0
    """When nothing was first seen in flight, by leases and by beats; 0: something is."""
    ended_at_ms: int = 0
    completed: int = 0
    """Tasks in flight at the start that ended by themselves."""
    requeued: int = 0
    failed: int = 0
    extended: int = 0
    """Tasks that the deadline did not end because their class is EXTEND."""
    held_at_start: int = 0
    """Tasks in flight, by leases, when it began."""
    instance_generation: int = 0
    """Of the instance when it began: a newer process under the same id is not drained."""
    revision: int = 0

    @property
    def key(self) -> str:
        """Return its key: one drain per agent, one per instance."""
        return drain_key(self.agent_id, self.instance_id)


def drain_key(agent_id: str, instance_id: str = "") -> str:
    """Return the key of the drain of an agent, or of one of its instances."""
    return f"instance/{instance_id}" if instance_id else f"agent/{agent_id}"


@dataclass(frozen=True, slots=True, kw_only=True)
class StopTarget:
    """One instance that must stop."""

    instance_id: str
    agent_id: str
    generation: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EmergencyStop:
    """Everything that matches stops now; who has acknowledged is kept beside it, per instance."""

    stop_id: str
    tags: dict[str, str] = field(default_factory=dict)
    """Selector: agents with all these tags; empty: the whole namespace."""
    names: tuple[str, ...] = ()
    """Selector: agents with one of these names; empty: any."""
    reason: str = ""
    actor: str = ""
    agent_ids: tuple[str, ...] = ()
    targets: tuple[StopTarget, ...] = ()
    """Instances that were known then."""
    started_at_ms: int = 0
    settled: bool = False
    """Every agent that matched is INACTIVE; until then any replica goes on with it."""
    generation: int = 0
    """Revision of the write that began it: processes registered later are not told."""
    revision: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class StopAcknowledgement:
    """One instance has stopped working: it said so, or it left."""

    stop_id: str
    instance_id: str
    acknowledged_at_ms: int
    left: bool = False
    """It said goodbye instead of acknowledging."""
    revision: int = 0


def acknowledgement_key(stop_id: str, instance_id: str) -> str:
    """Return the key of an acknowledgement."""
    return f"{stop_id}/{instance_id}"
