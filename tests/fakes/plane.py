"""The use cases over the memory store, with a follower that follows when the test says so."""

from typing import Any

from controlplane.domain.agents import AgentSpec
from controlplane.domain.identity import Caller
from controlplane.domain.liveness import LivenessSettings
from controlplane.services.configs import Configs
from controlplane.services.hub import Hub
from controlplane.services.ids import TimeSortedIds
from controlplane.services.policies.decisions import Decisions
from controlplane.services.policies.policies import Policies
from controlplane.services.ports import Ledger
from controlplane.services.read_model import NamespaceView, ReadModel
from controlplane.services.registration import InstanceClaim, Registered, Registration
from controlplane.services.registry import Registry
from controlplane.storage.memory.change_feed import MemoryChangeFeed
from controlplane.storage.memory.ledger import MemoryLedger
from controlplane.storage.memory.store import MemoryStore
from tests.fakes.clock import FakeClock

NS = "default"
CALLER = Caller(name="ada")


class Plane:
    """A plane without a network. `ledger` may be wrapped to make it fail.

    `beside` another plane it is a second replica over the same store, on the same clock.
    """

    def __init__(self, wrap: Any = None, *, beside: "Plane | None" = None, **policies: Any) -> None:
        self.clock: FakeClock = beside.clock if beside is not None else FakeClock()
        self.store: MemoryStore = beside.store if beside is not None else MemoryStore(self.clock)
        self.ledger: Ledger = MemoryLedger(self.store)
        if wrap is not None:
            self.ledger = wrap(self.ledger)
        self.feed = MemoryChangeFeed(self.store)
        self.hub = Hub()
        self.read_model = ReadModel(self.hub)
        self.read_model.ready = True
        self.registry = Registry(self.ledger, self.read_model, TimeSortedIds(), LivenessSettings())
        self.configs = Configs(self.ledger, self.read_model, self.clock)
        self.policies = Policies(
            self.ledger, self.read_model, max_policies=policies.get("max_policies", 1000)
        )
        self.decisions = Decisions(self.read_model, self.clock)

    async def follow(self, namespace: str = NS) -> NamespaceView:
        """Bring the read model up to date, as the follower would."""
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

    async def register(
        self, name: str = "researcher", version: str = "1.0.0", **fields: Any
    ) -> Registered:
        """Register an agent and follow."""
        instance = fields.pop("instance", None)
        outcome = await self.registry.register(
            NS,
            Registration(
                spec=AgentSpec(name=name, version=version, **fields),
                instance=InstanceClaim(instance_id=instance) if instance else None,
            ),
            caller=CALLER,
        )
        await self.follow()
        return outcome
