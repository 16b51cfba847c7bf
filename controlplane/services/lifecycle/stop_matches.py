"""Which agents and processes an emergency stop is about."""

from collections.abc import Iterator
from dataclasses import replace

from controlplane.domain.agents import Agent, AgentStatus
from controlplane.domain.drains import EmergencyStop, StopTarget
from controlplane.services.live_instances import AgentEntry
from controlplane.services.read_model import NamespaceView


def with_matches(view: NamespaceView, stop: EmergencyStop) -> EmergencyStop:
    """Return a stop, not yet written, with all that its selector matches here now."""
    matching = dict(_matching(view, stop))
    return replace(
        stop,
        agent_ids=tuple(matching),
        targets=tuple(one for entry in matching.values() for one in _targets(entry)),
    )


def completed(view: NamespaceView, stop: EmergencyStop) -> EmergencyStop:
    """Return a stop with the agents that were registered before it, unheard of where it began.

    `view` has followed the stop's first write; agents registered after that are none of its
    business.
    """
    known = set(stop.agent_ids)
    late = {
        agent_id: entry
        for agent_id, entry in _matching(view, stop)
        if agent_id not in known and _is_older(entry, stop)
    }
    if not late:
        return stop
    return replace(
        stop,
        agent_ids=(*stop.agent_ids, *late),
        targets=(*stop.targets, *(one for entry in late.values() for one in _targets(entry))),
    )


def _matching(view: NamespaceView, stop: EmergencyStop) -> Iterator[tuple[str, AgentEntry]]:
    for agent_id, entry in view.agents.items():
        if entry.agent.status is not AgentStatus.DECOMMISSIONED and _is_meant(stop, entry.agent):
            yield agent_id, entry


def _is_meant(stop: EmergencyStop, agent: Agent) -> bool:
    spec = agent.spec
    if stop.names and spec.name not in stop.names:
        return False
    return all(spec.tags.get(key) == value for key, value in stop.tags.items())


def _is_older(entry: AgentEntry, stop: EmergencyStop) -> bool:
    """Return whether an agent, or a process of it, was registered before a stop."""
    began = stop.generation
    return entry.agent.revision < began or any(
        live.instance.generation < began for live in entry.instances.values()
    )


def _targets(entry: AgentEntry) -> Iterator[StopTarget]:
    for name, live in entry.instances.items():
        yield StopTarget(
            instance_id=name,
            agent_id=entry.agent.agent_id,
            generation=live.instance.generation,
        )
