"""Agents and instances as a replica knows them, without a store behind it."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from controlplane.domain.agents import Agent, AgentSpec, AgentStatus, Instance, InstanceState
from controlplane.services.hub import Hub
from controlplane.services.live_instances import LiveInstance
from controlplane.services.ports import Collection, Position, Record, Touched
from controlplane.services.read_model import NamespaceView, ReadModel

EPOCH = "epoch-1"


def an_agent(
    agent_id: str = "agt-1",
    *,
    status: AgentStatus = AgentStatus.ACTIVE,
    revision: int = 0,
    **spec: Any,
) -> Agent:
    """Return an agent named after its id; `spec` overrides what it declares."""
    declared = {"name": agent_id, "version": "1.0.0", **spec}
    return Agent(agent_id=agent_id, spec=AgentSpec(**declared), status=status, revision=revision)


def an_instance(
    instance_id: str = "ins-1",
    agent_id: str = "agt-1",
    *,
    state: InstanceState = InstanceState.FRESH,
    generation: int = 1,
) -> Instance:
    """Return an instance that beats in time."""
    return Instance(instance_id=instance_id, agent_id=agent_id, state=state, generation=generation)


def running(instance_id: str = "ins-1", agent_id: str = "agt-1", **said: Any) -> LiveInstance:
    """Return a fresh instance that said something about its work, such as `in_flight=3`."""
    live = LiveInstance(an_instance(instance_id, agent_id))
    for what, value in said.items():
        setattr(live, what, value)
    return live


class Replica:
    """A read model that follows what the test writes; every write is one commit."""

    def __init__(self, namespace: str = "default") -> None:
        self.hub = Hub()
        self.read_model = ReadModel(self.hub)
        self.namespace = namespace
        self.epoch = EPOCH
        self.revision = 0
        self.read_model.ready = True
        self.load(())

    @property
    def view(self) -> NamespaceView:
        return self.read_model.view(self.namespace)

    @property
    def position(self) -> Position:
        return Position(self.epoch, self.revision)

    def load(self, values: Iterable[Agent | Instance]) -> None:
        """Load everything anew, as after a start."""
        fresh = self.read_model.new_view(self.namespace)
        fresh.apply([self._touched(value) for value in values], self.position)
        fresh.index.journal.note((), self.revision)
        self.read_model.swap(fresh)

    def write(self, *values: Agent | Instance) -> None:
        """Commit records; they carry the revision of the commit."""
        self.revision += 1
        self._commit([self._touched(value) for value in values])

    def delete(self, collection: Collection, key: str) -> None:
        """Commit the removal of a record."""
        self.revision += 1
        self._commit([Touched(collection, key, None)])

    def pass_by(self) -> None:
        """Commit something that is no agent."""
        self.revision += 1
        self.read_model.patch(self.namespace, [], self.position)

    def _commit(self, touched: list[Touched]) -> None:
        agent_ids = {self._agent_of(item) for item in touched}
        self.read_model.patch(self.namespace, touched, self.position)
        self.view.index.journal.note(agent_ids, self.revision)

    def _agent_of(self, item: Touched) -> str:
        if item.collection is Collection.AGENTS:
            return item.key
        if item.record is not None:
            return str(item.record.value.agent_id)
        return self.view.instances[item.key].instance.agent_id

    def _touched(self, value: Agent | Instance) -> Touched:
        stored = replace(value, revision=self.revision)
        if isinstance(stored, Agent):
            collection, key = Collection.AGENTS, stored.agent_id
        else:
            collection, key = Collection.INSTANCES, stored.instance_id
        record = Record(key, stored, self.revision, self.revision, 0, 0)
        return Touched(collection, key, record)
