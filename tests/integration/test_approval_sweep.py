"""Ten thousand approvals expire, on a real store, by two replicas at once."""

import time
from dataclasses import replace

import pytest

from controlplane.domain.approvals.model import Approval, ApprovalState
from controlplane.services.approvals.records import pending_counter
from controlplane.services.approvals.sweep import ApprovalSweep
from controlplane.services.hub import Hub
from controlplane.services.ports import ABSENT, Collection, Count, Put, Step, Transaction
from controlplane.services.read_model import ReadModel
from controlplane.services.store_clock import StoreClock
from controlplane.storage.redis.change_feed import RedisChangeFeed
from controlplane.storage.redis.connection import StoreConnection
from controlplane.storage.redis.ledger import RedisLedger
from tests.fakes.approvals import approval
from tests.fakes.transactions import AUDIT
from tests.fakes.valkey import valkey_server

NS = "crowded"
MANY = 10_000
SECONDS = 2.0
"""What one replica on an idle machine needs about half of."""

SLACK = 3.0
"""On a machine that runs other suites."""


def overdue(number: int, now_ms: int) -> Approval:
    one = approval(opened_at_ms=now_ms - 2_000, ttl_ms=1_000)
    return replace(one, approval_id=f"apr-{number:05}", digest=f"sha256:{number:064x}")


async def loaded(connection: StoreConnection) -> ReadModel:
    model = ReadModel(Hub())
    async with RedisChangeFeed(connection, replica_id="r") as feed:
        view = model.new_view(NS)
        async for position, touched in feed.load(NS):
            view.apply(touched, position)
    model.swap(view)
    model.ready = True
    return model


@pytest.mark.timeout(120)
async def test_ten_thousand_expire_in_two_seconds_once_each() -> None:
    async with (
        valkey_server() as server,
        StoreConnection(server.url) as connection,
        RedisLedger(connection) as ledger,
    ):
        clock = StoreClock()
        now_ms = clock.store_ms()
        for start in range(0, MANY, 500):
            steps: list[Step] = []
            for number in range(start, start + 500):
                one = overdue(number, now_ms)
                steps += [
                    Put(Collection.APPROVALS, one.approval_id, one, ABSENT),
                    Put(Collection.OPEN_APPROVALS, one.digest, one.approval_id, ABSENT),
                ]
            steps.append(Count(pending_counter("a"), 500))
            await ledger.commit(Transaction(namespace=NS, steps=tuple(steps), audit=AUDIT))
        models = [await loaded(connection) for _ in range(2)]
        sweeps = [ApprovalSweep(ledger, model, clock, retention_ms=10**9) for model in models]
        began = time.perf_counter()
        first = await sweeps[0].sweep(NS)
        took = time.perf_counter() - began
        assert first == MANY
        assert took < SECONDS * SLACK, took
        # The other replica has not heard of it, and does nothing a second time.
        assert await sweeps[1].sweep(NS) == 0
        after = await loaded(connection)
        tables = after.view(NS).governance
        states = {one.state for one in tables.table(Collection.APPROVALS).values()}
        assert states == {ApprovalState.EXPIRED}
        assert not tables.table(Collection.OPEN_APPROVALS)
        assert await ledger.read_counts(NS, [pending_counter("a")]) == [0]
