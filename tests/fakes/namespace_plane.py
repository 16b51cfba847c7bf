"""Namespaces on the memory store: any number of replicas, each following when it is told to."""

import asyncio
from collections.abc import Sequence
from typing import Any

from controlplane.domain.access.records import SYSTEM_NAMESPACE
from controlplane.domain.agents import AgentSpec
from controlplane.domain.identity import Caller
from controlplane.domain.liveness import LivenessSettings
from controlplane.domain.namespaces import Namespace, Quotas
from controlplane.services.access.authoriser import Authoriser
from controlplane.services.configs import Configs
from controlplane.services.hub import Hub
from controlplane.services.ids import TimeSortedIds
from controlplane.services.namespaces.namespaces import NamespaceChange, Namespaces
from controlplane.services.namespaces.quotas import QuotaKeeper
from controlplane.services.namespaces.removal import NamespaceRemoval
from controlplane.services.namespaces.usage import ConfigBytes, Usage
from controlplane.services.policies.policies import Policies
from controlplane.services.ports import Committed, Ledger, Transaction
from controlplane.services.read_model import NamespaceView, ReadModel
from controlplane.services.registration import InstanceClaim, Registered, Registration
from controlplane.services.registry import Registry
from controlplane.storage.memory.change_feed import MemoryChangeFeed
from controlplane.storage.memory.ledger import MemoryLedger
from controlplane.storage.memory.store import MemoryStore
from tests.fakes.clock import FakeClock

ADA = Caller(name="ada", is_admin=True)


class NamespaceReplica:
    """One replica: it hears of its own commits at once, of those of others by `follow`."""

    def __init__(self, store: MemoryStore, clock: FakeClock, *, authenticates: bool) -> None:
        self.clock = clock
        self.store = store
        self.feed = MemoryChangeFeed(store)
        self.read_model = ReadModel(Hub())
        self.read_model.ready = True
        self.ledger: Ledger = _SeenAtOnce(self)
        self.authoriser = Authoriser(self.read_model, clock, authenticates=authenticates)
        self.removal = NamespaceRemoval(self.ledger, self.read_model, clock)
        self.namespaces = Namespaces(self.ledger, self.read_model, self.authoriser, self.removal)
        sizes = ConfigBytes()
        self.quotas = QuotaKeeper(self.read_model, sizes)
        self.usage = Usage(self.read_model, sizes)
        ids = TimeSortedIds()
        self.registry = Registry(self.ledger, self.read_model, ids, LivenessSettings(), self.quotas)
        self.configs = Configs(self.ledger, self.read_model, clock, self.quotas)
        self.policies = Policies(
            self.ledger, self.read_model, max_policies=1000, quotas=self.quotas
        )

    async def follow(self, namespace: str = SYSTEM_NAMESPACE) -> NamespaceView:
        """Bring this replica's copy of a namespace up to date."""
        position = self.read_model.position_of(namespace)
        if position is None:
            view = self.read_model.new_view(namespace)
            async for loaded, batch in self.feed.load(namespace):
                view.apply(batch, loaded)
            self.read_model.swap(view)
            position = view.position
        more = True
        while more:
            news = await self.feed.catch_up(namespace, position)
            assert not news.resync
            self.read_model.patch(namespace, news.touched, news.position)
            position, more = news.position, news.more
        return self.read_model.view(namespace)

    async def create(self, name: str, **fields: Any) -> Namespace:
        """Make a namespace."""
        return await self.namespaces.create(
            Namespace(name=name, **fields), request=None, caller=ADA
        )

    async def bound(self, name: str, **quotas: int) -> Namespace:
        """Give a namespace quotas."""
        change = NamespaceChange(labels={}, quotas=Quotas(**quotas))
        return await self.namespaces.update(name, change, caller=ADA)

    async def delete(self, name: str, *, expected_revision: int = 0) -> bool:
        """Remove a namespace."""
        return await self.namespaces.delete(
            name, expected_revision=expected_revision, reason="", caller=ADA
        )

    async def register(
        self, namespace: str, name: str, *, instance_id: str = "", agent_id: str = ""
    ) -> Registered:
        """Register version 1.0.0 of an agent, with an instance if it is named."""
        claim = InstanceClaim(instance_id=instance_id) if instance_id else None
        registration = Registration(
            spec=AgentSpec(name=name, version="1.0.0"), agent_id=agent_id, instance=claim
        )
        return await self.registry.register(namespace, registration, caller=ADA)

    async def audit(self, namespace: str = SYSTEM_NAMESPACE) -> list[str]:
        """Return the first hundred events of a namespace."""
        return [entry.event for _, _, entry in await self.ledger.read_audit(namespace)]


class NamespacePlane(NamespaceReplica):
    """The first replica; others can join."""

    def __init__(self, *, authenticates: bool = True) -> None:
        clock = FakeClock()
        super().__init__(MemoryStore(clock), clock, authenticates=authenticates)
        self._authenticates = authenticates

    def another(self) -> NamespaceReplica:
        """Return a replica on the same store."""
        return NamespaceReplica(self.store, self.clock, authenticates=self._authenticates)


class _SeenAtOnce(MemoryLedger):
    """A visible ledger whose replica follows at once."""

    def __init__(self, replica: NamespaceReplica) -> None:
        super().__init__(replica.store)
        self._replica = replica

    async def commit(self, transaction: Transaction) -> Committed:
        await asyncio.sleep(0)  # so that calls side by side decide before any of them is written
        committed = await super().commit(transaction)
        await self._replica.follow(transaction.namespace)
        return committed

    async def commit_many(self, transactions: Sequence[Transaction]) -> list[Committed | Exception]:
        await asyncio.sleep(0)
        outcomes = await super().commit_many(transactions)
        for namespace in {transaction.namespace for transaction in transactions}:
            await self._replica.follow(namespace)
        return outcomes
