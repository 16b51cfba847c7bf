"""How many tasks may wait, and what a plane that is full does with more."""

import asyncio
from typing import Any

import pytest

from controlplane.domain.errors import LimitExceeded
from controlplane.domain.tasks import Task, TaskSpec
from controlplane.services.tasks.tasks import Submission
from tests.fakes.plane import CALLER, NS
from tests.fakes.task_plane import TaskPlane, key

SPEC = TaskSpec(agent_name="researcher")


async def test_only_so_many_tasks_wait():
    plane = TaskPlane(max_waiting=2)
    first = await plane.submit(request="r1")
    outcomes = await plane.tasks.submit_many(NS, [Submission(spec=SPEC)] * 2, caller=CALLER)
    await plane.follow()
    assert isinstance(outcomes[0], Task)
    assert isinstance(outcomes[1], LimitExceeded)
    assert outcomes[1].metadata == {"limit": "2"}
    assert await plane.submit(request="r1") == first  # a repetition needs no room
    with pytest.raises(LimitExceeded, match="waiting tasks per namespace"):
        await plane.submit(request="r2")
    await plane.assign(first.task_id)
    await plane.follow()
    await plane.submit()


async def test_a_full_plane_asks_for_all_repetitions_of_a_batch_at_once(monkeypatch):
    plane = TaskPlane(max_waiting=1)
    first = await plane.submit(request="r1")
    together, inner = asyncio.Barrier(3), plane.ledger.find_request

    async def found(*args: Any) -> Any:
        await together.wait()  # for ever, if one is asked for after the other
        return await inner(*args)

    monkeypatch.setattr(plane.ledger, "find_request", found, raising=False)
    batch = [Submission(spec=SPEC, request=key(name)) for name in ("r1", "r2", "r3")]
    async with asyncio.timeout(5):
        outcomes = await plane.tasks.submit_many(NS, batch, caller=CALLER)
    assert outcomes[0] == first
    assert all(isinstance(one, LimitExceeded) for one in outcomes[1:])
