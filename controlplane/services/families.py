"""An agent with its instances, and the one transaction that moves several of them at once.

Agent status follows from the states of all instances, so a decision about some of them must not
pass another one about the others (write skew). Two rules make that impossible, however far the
copy in memory lags:

* A commit that leaves the agent as it is holds the agent, and one instance that keeps it so (the
  witness), to the revisions it saw.
* Every commit that makes an instance FRESH writes the agent's NAMES record again, unchanged and
  without a condition, so that revivals never contend. The revision of that record is the ROLL: when
  somebody last came to life. Whoever lowers an agent's status reads the roll, waits until its copy
  has come that far, and commits on condition that the roll is still the same. So it knew of every
  fresh instance, one that another replica registered and revived a moment ago included.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from controlplane.domain.agents import Agent, AgentStatus, Instance, InstanceState
from controlplane.domain.errors import DomainError, NotReady
from controlplane.domain.liveness import LivenessSettings
from controlplane.services.ports import (
    AuditEntry,
    ClearDeadline,
    Collection,
    Committed,
    ConditionFailed,
    Delete,
    Expect,
    Ledger,
    Put,
    Require,
    RequireExpired,
    SetDeadline,
    Step,
    Transaction,
)
from controlplane.services.read_model import NamespaceView, ReadModel

PLANE: Final = "fleetplane"
"""Actor in the audit of what the plane does by itself."""

CATCH_UP_SECONDS: Final = 1.0
"""How long a decision waits until this replica has heard of what it depends on; followers lag by
milliseconds, so a longer wait means a store that is away, or that has lost what was registered."""

AGENT_EVENTS: Final[Mapping[AgentStatus, str]] = {
    AgentStatus.ACTIVE: "agent.activated",
    AgentStatus.DEGRADED: "agent.degraded",
    AgentStatus.INACTIVE: "agent.deactivated",
}
"""Public event of an agent that liveness brought into a status."""

_LIVELIEST: Final = (
    InstanceState.FRESH,
    InstanceState.SILENT,
    InstanceState.STARTING,
    InstanceState.LOST,
)

MAX_NAMED: Final = 20
"""Instances named in one audit entry; the number of all is there as well."""


@dataclass(frozen=True, slots=True)
class Family:
    """An agent with all its instances, as of some moment."""

    agent: Agent
    instances: Mapping[str, Instance]
    roll: int = 0
    """When an instance last became FRESH, as a revision; 0 where it was not asked for, and the
    status of the agent is then never lowered."""

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


async def families_stored(
    ledger: Ledger, view: NamespaceView, wanted: Mapping[str, Iterable[str]]
) -> dict[str, Family | None]:
    """Return agents (agent_id -> instance ids) with those instances and the ones known here.

    As the ledger has them, in two round trips; None: the ledger has no such agent.
    """
    names: dict[str, None] = {}
    for agent_id, instance_ids in wanted.items():
        names.update(dict.fromkeys(instance_ids))
        entry = view.agents.get(agent_id)
        if entry is not None:
            names.update(dict.fromkeys(entry.instances))
    agents = await ledger.read(view.name, Collection.AGENTS, list(wanted))
    records = await ledger.read(view.name, Collection.INSTANCES, list(names))
    members: dict[str, dict[str, Instance]] = {agent_id: {} for agent_id in wanted}
    for record in records:
        if record is not None and record.value.agent_id in members:
            members[record.value.agent_id][record.key] = record.value
    return {
        agent_id: Family(agent.value, members[agent_id]) if agent is not None else None
        for agent_id, agent in zip(wanted, agents, strict=True)
    }


async def families_called(
    ledger: Ledger,
    read_model: ReadModel,
    namespace: str,
    wanted: Mapping[str, Iterable[str]],
    *,
    stored: bool,
) -> dict[str, Family]:
    """Return families complete enough to lower their agents' status: the roll was called.

    From memory, or (`stored`) from the ledger. Left out: agents unknown here, and those of whose
    newest life this replica does not hear within `CATCH_UP_SECONDS`; it must not judge them.
    """
    view = read_model.view(namespace)
    known = [agent_id for agent_id in wanted if agent_id in view.agents]
    names = [view.agents[agent_id].agent.spec.name_version for agent_id in known]
    records = await ledger.read(namespace, Collection.NAMES, names)
    rolls = {
        agent_id: record.revision if record is not None else 0
        for agent_id, record in zip(known, records, strict=True)
    }
    view = await caught_up(read_model, namespace, max(rolls.values(), default=0))
    heard = {a: wanted[a] for a, roll in rolls.items() if roll <= view.position.revision}
    families = (
        await families_stored(ledger, view, heard)
        if stored
        else {agent_id: family_here(view, agent_id) for agent_id in heard}
    )
    return {
        agent_id: replace(family, roll=rolls[agent_id])
        for agent_id, family in families.items()
        if family is not None
    }


async def caught_up(read_model: ReadModel, namespace: str, revision: int) -> NamespaceView:
    """Return the view: at `revision`, or as it is after waiting `CATCH_UP_SECONDS` for that."""
    try:
        async with asyncio.timeout(CATCH_UP_SECONDS):
            return await read_model.at_least(namespace, revision)
    except (TimeoutError, NotReady):
        return read_model.view(namespace)


async def commit_each(
    ledger: Ledger, transactions: Sequence[Transaction]
) -> list[Committed | Exception]:
    """Commit each for itself, in one round trip; a lone one shares it with those of other calls."""
    if len(transactions) > 1:
        return await ledger.commit_many(transactions)
    try:
        return [await ledger.commit(transaction) for transaction in transactions]
    except (ConditionFailed, DomainError) as refusal:
        return [refusal]


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
        steps.extend(self._roll_steps())
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

    def _roll_steps(self) -> Iterable[Step]:
        """Answer the roll, or hold what the verdict on the agent relies upon."""
        before, name = self.family.agent, self.family.agent.spec.name_version
        if InstanceState.FRESH in self.instances.values():
            # Only new life: nobody else's state matters.
            yield Put(Collection.NAMES, name, before.agent_id)
            return
        if self.agent.status is not before.status and self.agent.status is not AgentStatus.ACTIVE:
            yield Require(Collection.NAMES, name, Expect(revision=self.family.roll))
        witness = self._witness()
        if witness is not None:
            unchanged = Expect(revision=witness.revision)
            yield Require(Collection.INSTANCES, witness.instance_id, unchanged)

    def _witness(self) -> Instance | None:
        """Return the liveliest of the others: what keeps the agent from falling lower."""
        others = (one for name, one in self.family.instances.items() if name not in self.instances)
        liveliest = min(others, key=lambda one: _LIVELIEST.index(one.state), default=None)
        lost = liveliest is None or liveliest.state is InstanceState.LOST
        return None if lost else liveliest

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
