"""How many drains are carried on at once."""

import asyncio

from controlplane.services.lifecycle.drain_progress import DRAINS_AT_ONCE, DrainProgress
from controlplane.services.ports import Collection, Committed, Delete, Transaction
from tests.fakes.fleet import NAMESPACE, Replica
from tests.fakes.lifecycle_plane import FollowingLedger, LifecyclePlane


class GatheringLedger(FollowingLedger):
    """A ledger that notes how many commits were under way at the same time."""

    def __init__(self, replica: Replica) -> None:
        super().__init__(replica)
        self._now = 0
        self.most = 0

    async def commit(self, transaction: Transaction) -> Committed:
        self._now += 1
        self.most = max(self.most, self._now)
        await asyncio.sleep(0)
        try:
            return await super().commit(transaction)
        finally:
            self._now -= 1


async def test_many_drains_are_carried_on_side_by_side():
    plane = LifecyclePlane()
    names = [f"i{n}" for n in range(DRAINS_AT_ONCE + 1)]
    await plane.active("a", *names)
    for name in names:
        await plane.ops.drain("", name)
    ledger = GatheringLedger(plane.replica)
    progress = DrainProgress(ledger, plane.replica.read_model, plane.clock, plane.ops.handed)
    for name in names:
        await plane.commit(Delete(Collection.INSTANCES, name))
    await plane.replica.follow()
    assert await progress.tick(NAMESPACE) == len(names)
    assert ledger.most == DRAINS_AT_ONCE
