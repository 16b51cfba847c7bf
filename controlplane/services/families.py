"""An agent with its instances, and the one transaction that moves several of them at once.

Agent status follows from the states of all instances, so a decision about some of them must not
pass another one about the others (write skew). Therefore a transaction holds every record it relied
upon to the revision it saw.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from controlplane.domain.agents import Agent, AgentStatus, Instance, InstanceState
from controlplane.domain.liveness import LivenessSettings
from controlplane.services.ports import (
    AuditEntry,
    ClearDeadline,
    Collection,
    Delete,
    Expect,
    Ledger,
    Put,
    Require,
    RequireExpired,
    SetDeadline,
    Step,
)
from controlplane.services.read_model import NamespaceView

PLANE: Final = "fleetplane"
"""Actor in the audit of what the plane does by itself."""

MAX_BYSTANDERS: Final = 64
"""Instances held to their revision when an agent loses its last fresh one. An agent with more of
them that revives one in the very same millisecond is set right by that one's next beat."""

AGENT_EVENTS: Final[Mapping[AgentStatus, str]] = {
    AgentStatus.ACTIVE: "agent.activated",
    AgentStatus.DEGRADED: "agent.degraded",
    AgentStatus.INACTIVE: "agent.deactivated",
}
"""Public event of an agent that liveness brought into a status."""

MAX_NAMED: Final = 20
"""Instances named in one audit entry; the number of all is there as well."""


@dataclass(frozen=True, slots=True)
class Family:
    """An agent with all its instances, as of some moment."""

    agent: Agent
    instances: Mapping[str, Instance]

    def states_after(self, moves: Mapping[str, InstanceState | None]) -> list[InstanceState]:
        """Return the states of all instances once some have moved (None: are gone)."""
        states = (moves.get(name, one.state) for name, one in self.instances.items())
        return [state for state in states if state is not None]


def family_here(view: NamespaceView, agent_id: str) -> Family | None:
    """Return an agent with its instances from memory; None if it is unknown here."""
    entry = view.agents.get(agent_id)
    if entry is None:
        return None
    return Family(entry.agent, {name: live.instance for name, live in entry.instances.items()})


async def family_stored(
    ledger: Ledger, view: NamespaceView, agent_id: str, instance_ids: Iterable[str]
) -> Family | None:
    """Return an agent with those instances and the ones known here, as the ledger has them."""
    here = family_here(view, agent_id)
    names = list(dict.fromkeys([*instance_ids, *(here.instances if here is not None else ())]))
    (agent,) = await ledger.read(view.name, Collection.AGENTS, (agent_id,))
    records = await ledger.read(view.name, Collection.INSTANCES, names)
    if agent is None:
        return None
    found = {record.key: record.value for record in records if record is not None}
    return Family(
        agent.value, {name: one for name, one in found.items() if one.agent_id == agent_id}
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """Where some instances of a family go, and what becomes of the agent."""

    family: Family
    instances: Mapping[str, InstanceState | None]
    """Next state by instance_id; None removes it; its own state only sets a new deadline."""
    agent: Agent
    """The agent afterwards; equal to the family's if it stays."""

    @property
    def is_empty(self) -> bool:
        """Whether nothing changes."""
        return not self.instances and self.agent == self.family.agent

    def steps(
        self, settings: LivenessSettings, *, expired: bool, store_ms: int = 0
    ) -> tuple[Step, ...]:
        """Return the steps of the transaction.

        With `expired` it holds only if the deadlines of all moved instances have passed. `store_ms`
        is the store's time, for deadlines that continue.
        """
        steps: list[Step] = []
        for name, state in self.instances.items():
            if expired:
                steps.append(RequireExpired(name))
            steps.extend(self._instance_steps(name, state, settings, store_ms))
        before, agent_id = self.family.agent, self.family.agent.agent_id
        unchanged = Expect(revision=before.revision)
        if self.agent == before:
            steps.append(Require(Collection.AGENTS, agent_id, unchanged))
        else:
            steps.append(Put(Collection.AGENTS, agent_id, self.agent, unchanged))
        steps.extend(self._bystanders())
        return tuple(steps)

    def _instance_steps(
        self, name: str, state: InstanceState | None, settings: LivenessSettings, store_ms: int
    ) -> Iterable[Step]:
        instance, spec = self.family.instances[name], self.family.agent.spec
        unchanged = Expect(revision=instance.revision)
        if state is None:
            yield Delete(Collection.INSTANCES, name, unchanged)
            yield ClearDeadline(name)
        elif state is instance.state:
            left = settings.deadline_after(state, spec) - (store_ms - instance.registered_at_ms)
            yield Require(Collection.INSTANCES, name, unchanged)
            yield SetDeadline(name, max(left, 1))
        else:
            yield Put(Collection.INSTANCES, name, replace(instance, state=state), unchanged)
            yield SetDeadline(name, settings.deadline_after(state, spec))

    def _bystanders(self) -> Iterable[Step]:
        """Hold the instances that the agent's status relies upon.

        A fresh one that keeps it ACTIVE is enough. Without one, all: any might become fresh.
        """
        if not any(state is not InstanceState.FRESH for state in self.instances.values()):
            return  # Only new life: nobody else's state matters.
        others = [one for name, one in self.family.instances.items() if name not in self.instances]
        fresh = [one for one in others if one.state is InstanceState.FRESH]
        for one in (fresh[:1] or others)[:MAX_BYSTANDERS]:
            unchanged = Expect(revision=one.revision)
            yield Require(Collection.INSTANCES, one.instance_id, unchanged)

    def audit(self, method: str, *, event: str, actor: str = PLANE, reason: str = "") -> AuditEntry:
        """Return the audit entry of this move; `event` is used if the agent stays as it is."""
        before, after = self.family.agent, self.agent
        names = list(self.instances)
        details = {"instances": str(len(names)), "instance_ids": ",".join(names[:MAX_NAMED])}
        if after.status is not before.status:
            event = AGENT_EVENTS[after.status]
            details |= {"before": str(before.status), "after": str(after.status)}
        return AuditEntry(
            actor=actor,
            method=method,
            object=f"agents/{before.agent_id}",
            event=event,
            reason=reason or after.status_reason,
            details=details,
        )
