"""What a drain is about, and how it stands, from memory."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from controlplane.domain.agents import Agent, AgentStatus, Instance, InstanceState
from controlplane.domain.drain_rules import Said, ended_by_themselves
from controlplane.domain.drains import Drain, DrainPhase
from controlplane.domain.tasks import Task
from controlplane.services.live_instances import LiveInstance
from controlplane.services.read_model import NamespaceView

WORKING = frozenset({AgentStatus.ACTIVE, AgentStatus.DEGRADED})
"""Statuses of agents that take work."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainReport:
    """A drain as it stands."""

    drain: Drain
    safe_to_stop: bool
    """Nothing is in flight any more, by leases and by beats: the process may end."""
    tasks_in_flight: int
    """Now, by leases."""
    other_in_flight: int
    """Now, not assigned by the plane, as the instances say."""


@dataclass(frozen=True, slots=True)
class Target:
    """The instances that a drain is about. Belongs to one look: it holds live records."""

    agent: Agent | None
    instances: tuple[LiveInstance, ...]
    held: Mapping[str, Task]
    """Leases of the target, by task_id."""
    is_gone: bool
    """The instance has left, or the agent is not known any more."""
    is_over: bool
    """The target has begun another life: a newer process, or an agent that was brought back."""

    def said(self) -> list[Said]:
        """Return the word of the instances that beat in time: the others cannot be waited for."""
        return [
            Said(heard_at_ms=live.last_beat_ms, outside=live.outside)
            for live in self.instances
            if live.instance.state is InstanceState.FRESH
        ]

    def outside(self) -> int:
        """Return how much other work is in flight, as the instances say."""
        return sum(word.outside for word in self.said())


def target_of(view: NamespaceView, drain: Drain) -> Target:
    """Return what a drain is about, as it is known here."""
    entry = view.agents.get(drain.agent_id)
    agent = entry.agent if entry is not None else None
    if not drain.instance_id:
        taken_up = (
            drain.phase is not DrainPhase.CANCELLED
            and agent is not None
            and agent.status in WORKING
            and not agent.draining
        )
        return Target(
            agent,
            tuple(entry.instances.values()) if entry is not None else (),
            view.work.tasks.held_of_agent(drain.agent_id),
            is_gone=agent is None,
            is_over=taken_up,
        )
    live = view.instances.get(drain.instance_id)
    return Target(
        agent,
        (live,) if live is not None else (),
        view.work.tasks.held_by(drain.instance_id),
        is_gone=live is None,
        is_over=live is not None and live.instance.generation != drain.instance_generation,
    )


def under_way(known: Drain | None, agent: Agent, instance: Instance | None) -> Drain | None:
    """Return the drain of a target that goes on, from the records as they were read."""
    if known is None or known.phase is not DrainPhase.DRAINING:
        return None
    if instance is not None:
        return known if instance.generation == known.instance_generation else None
    return known if agent.draining else None


def still_marked(view: NamespaceView, drain: Drain) -> bool:
    """Return whether the target still takes no work because of this drain."""
    target = target_of(view, drain)
    if target.is_gone or target.is_over:
        return False
    if drain.instance_id:
        return any(live.instance.draining for live in target.instances)
    return target.agent is not None and target.agent.draining


def report(view: NamespaceView, drain: Drain) -> DrainReport:
    """Return a drain as it stands here."""
    target = target_of(view, drain)
    held = 0 if target.is_gone else len(target.held)
    # Whoever is not known yet has not gone.
    known = view.position.revision >= drain.revision
    if drain.phase is DrainPhase.DRAINING:
        drain = replace(drain, completed=ended_by_themselves(drain, held))
    return DrainReport(
        drain=drain,
        safe_to_stop=drain.phase is DrainPhase.DRAINED or (target.is_gone and known),
        tasks_in_flight=held,
        other_in_flight=target.outside(),
    )
