"""Namespaces that are removed while another replica writes into them, on a real store."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any

import pytest

from controlplane.domain.access.permissions import Permission
from controlplane.domain.access.records import SYSTEM_NAMESPACE
from controlplane.domain.access.refusals import (
    NamespaceNotEmpty,
    NamespaceNotFound,
    NamespaceTerminating,
)
from controlplane.domain.agents import AgentSpec, AgentStatus
from controlplane.domain.identity import Caller
from controlplane.domain.liveness import LivenessSettings
from controlplane.domain.namespaces import Namespace, NamespaceState
from controlplane.services.access.authoriser import Authoriser
from controlplane.services.hub import Hub
from controlplane.services.ids import TimeSortedIds
from controlplane.services.namespaces.namespaces import Namespaces
from controlplane.services.namespaces.removal import NamespaceRemoval
from controlplane.services.ports import AuditEntry, Collection, Put, Transaction
from controlplane.services.read_model import NamespaceView, ReadModel
from controlplane.services.registration import Registration
from controlplane.services.registry import Registry
from controlplane.services.store_clock import StoreClock
from controlplane.services.visible_ledger import VisibleLedger
from controlplane.storage.redis.change_feed import RedisChangeFeed
from controlplane.storage.redis.connection import StoreConnection
from controlplane.storage.redis.ledger import RedisLedger
from controlplane.tasks.follower import Follower
from tests.fakes.eventually import SOON_SECONDS, eventually
from tests.fakes.valkey import valkey_server

ADA = Caller(name="ada", is_admin=True)
SETTLE_SECONDS = 0.25
"""Followers here lag by milliseconds, also on a busy machine."""

RACES = 16


async def nothing_more(_namespace: str, _view: NamespaceView) -> None:
    """Beats are of no interest here."""


class Replica:
    """What removes namespaces, and what writes into them."""

    def __init__(self, connection: StoreConnection, feed: RedisChangeFeed) -> None:
        self.clock = StoreClock()
        self.read_model = ReadModel(Hub())
        self.follower = Follower(feed, self.read_model, self.clock, on_loaded=nothing_more)
        self.inner = RedisLedger(connection)
        self.ledger = VisibleLedger(self.inner, self.read_model, feed.hint)
        self.authoriser = Authoriser(self.read_model, self.clock, authenticates=True)
        removal = NamespaceRemoval(
            self.ledger, self.read_model, self.clock, settle_seconds=SETTLE_SECONDS
        )
        self.namespaces = Namespaces(self.ledger, self.read_model, self.authoriser, removal)
        self.registry = Registry(self.ledger, self.read_model, TimeSortedIds(), LivenessSettings())

    async def create(self, name: str) -> None:
        await self.namespaces.create(Namespace(name=name), request=None, caller=ADA)

    async def delete(self, name: str) -> bool:
        return await self.namespaces.delete(name, expected_revision=0, reason="", caller=ADA)

    async def register(self, name: str) -> Any:
        """Register an agent, as the edge would: only if the caller is let in."""
        self.authoriser.authorise(ADA, Permission.REPORT, name)
        registration = Registration(spec=AgentSpec(name="reader", version="1.0.0"))
        return await self.registry.register(name, registration, caller=ADA)

    def knows(self, name: str) -> bool:
        return self.state(name) is not None

    def state(self, name: str) -> NamespaceState | None:
        known = self.read_model.access.namespaces.get(name)
        return known.state if known is not None else None


@contextlib.asynccontextmanager
async def replica(url: str, name: str) -> AsyncIterator[Replica]:
    async with (
        StoreConnection(url) as connection,
        RedisChangeFeed(connection, replica_id=name) as feed,
    ):
        one = Replica(connection, feed)
        async with one.inner:
            following = asyncio.create_task(one.follower.run())
            try:
                async with asyncio.timeout(SOON_SECONDS):
                    await one.follower.caught_up.wait()
                yield one
            finally:
                following.cancel()
                await asyncio.gather(following, return_exceptions=True)


@pytest.fixture
async def replicas() -> AsyncIterator[tuple[Replica, Replica]]:
    async with (
        valkey_server(persistent=False) as server,
        replica(server.url, "r1") as one,
        replica(server.url, "r2") as other,
    ):
        yield one, other


async def outcome_of(call: Awaitable[Any]) -> Any:
    try:
        async with asyncio.timeout(SOON_SECONDS):
            return await call
    except (NamespaceNotEmpty, NamespaceNotFound, NamespaceTerminating) as refusal:
        return refusal


async def after(seconds: float, do: Callable[[], Awaitable[Any]]) -> Any:
    await asyncio.sleep(seconds)
    return await do()


async def test_a_write_that_is_answered_is_never_removed(replicas: tuple[Replica, Replica]):
    one, other = replicas
    moments = random.Random(7)
    for number in range(RACES):
        name = f"team-{number}"
        await one.create(name)
        await eventually("the other replica knows it", partial(other.knows, name))
        # Around the mark: later ones are all refused.
        write = after(moments.uniform(0, 0.01), partial(other.register, name))
        removed, written = await asyncio.gather(outcome_of(one.delete(name)), outcome_of(write))
        (record,) = await one.ledger.read(SYSTEM_NAMESPACE, Collection.NAMESPACES, (name,))
        if isinstance(written, Exception):
            assert removed is True
            assert record is None
        else:
            assert isinstance(removed, NamespaceNotEmpty)
            assert record is not None
            assert record.value.state is NamespaceState.ACTIVE


async def test_a_write_on_its_way_while_the_mark_is_set_restores_the_namespace(
    replicas: tuple[Replica, Replica],
):
    one, other = replicas
    await one.create("team-a")
    removal = asyncio.ensure_future(outcome_of(one.delete("team-a")))
    await eventually(
        "the mark is known", lambda: other.state("team-a") is NamespaceState.TERMINATING
    )
    with pytest.raises(NamespaceTerminating):
        await other.register("team-a")
    # Had been let in before, and arrives now.
    registration = Registration(spec=AgentSpec(name="reader", version="1.0.0"))
    await other.registry.register("team-a", registration, caller=ADA)
    assert isinstance(await removal, NamespaceNotEmpty)
    await eventually("it is in use", lambda: other.state("team-a") is NamespaceState.ACTIVE)
    await other.register("team-a")


async def test_what_has_ended_is_cleared_and_the_name_is_free_again(
    replicas: tuple[Replica, Replica],
):
    one, other = replicas
    await one.create("team-a")
    await eventually("the other replica knows it", partial(other.knows, "team-a"))
    agent = (await other.register("team-a")).agent
    gone = agent.moved(AgentStatus.DECOMMISSIONED, "")
    await other.ledger.commit(
        Transaction(
            namespace="team-a",
            steps=(Put(Collection.AGENTS, agent.agent_id, gone),),
            audit=AuditEntry(actor="ada", method="Decommission", object="agents"),
        )
    )
    # This replica counts what it has seen until it asks the ledger itself.
    await eventually("the end is known", lambda: is_gone(one, agent.agent_id))
    assert await one.delete("team-a") is True
    await eventually("the other replica knows", lambda: other.state("team-a") is None)
    with pytest.raises(NamespaceNotFound):
        await other.register("team-a")
    audit = await one.ledger.read_audit("team-a")
    assert [entry.event for _, _, entry in audit][-3:] == [
        "namespace.inspected",
        "namespace.cleared",
        "namespace.inspected",
    ]
    await other.create("team-a")
    again = await other.register("team-a")
    assert again.agent.status is AgentStatus.REGISTERED
    assert again.created


def is_gone(at: Replica, agent_id: str) -> bool:
    entry = at.read_model.view("team-a").agents.get(agent_id)
    return entry is not None and entry.agent.status is AgentStatus.DECOMMISSIONED
