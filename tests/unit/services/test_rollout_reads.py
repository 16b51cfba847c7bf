"""Rollouts are found, listed and followed."""

import asyncio
from contextlib import aclosing

import pytest

from controlplane.domain.rollouts.model import Phase, Rollout
from controlplane.domain.work_refusals import (
    RolloutNotFound,
)
from controlplane.services.ports import Position
from tests.fakes.plane import NS
from tests.fakes.rollout_world import NAME, OLD, RolloutWorld


@pytest.fixture
def world() -> RolloutWorld:
    return RolloutWorld()


async def test_a_rollout_is_found_by_id_and_by_name_the_active_one_first(world):
    first = await world.begun()
    second = await world.start(to_version="3.0.0", supersede=True)

    async def found(rollout_id: str = "", agent_name: str = "") -> str:
        known = await world.rollouts.get(
            NS, rollout_id=rollout_id, agent_name=agent_name, min_revision=0
        )
        return known.rollout_id

    assert await found(first.rollout_id) == first.rollout_id
    assert await found(agent_name=NAME) == second.rollout_id
    assert await found(first.rollout_id, NAME) == first.rollout_id
    for wrong in ({"rollout_id": "rol-none"}, {"agent_name": "nobody"}):
        with pytest.raises(RolloutNotFound):
            await found(**wrong)
    with pytest.raises(RolloutNotFound):
        await found(first.rollout_id, "nobody")


async def test_pages_hold_the_newest_first_and_lose_none(world):
    await world.agent(OLD)
    made = [await world.start()]
    made += [await world.start(to_version=f"{major}.0.0", supersede=True) for major in (3, 4, 5)]
    newest_first = [one.rollout_id for one in reversed(made)]
    wanted = {"agent_name": NAME, "phases": frozenset(), "active_only": False, "min_revision": 0}
    seen: list[str] = []
    cursor = ""
    while True:
        page = await world.rollouts.page(NS, after=cursor, limit=3, **wanted)
        assert page.total == 4
        seen.extend(one.rollout_id for one in page.rollouts)
        cursor = page.next_cursor
        if not cursor:
            break
    assert seen == newest_first
    active = await world.rollouts.page(NS, after="", limit=9, **wanted | {"active_only": True})
    assert [one.rollout_id for one in active.rollouts] == newest_first[:1]
    ended = wanted | {"phases": frozenset({Phase.SUPERSEDED})}
    assert (await world.rollouts.page(NS, after="", limit=9, **ended)).total == 3


async def test_a_watcher_sees_every_state_until_the_end(world):
    rollout = await world.begun()
    events = world.rollouts.watch(NS, rollout_id="", agent_name=NAME)
    phases: list[Phase] = []
    async with aclosing(events), asyncio.timeout(10):
        async for event in events:
            assert isinstance(event, Rollout)
            phases.append(event.phase)
            if len(phases) == 1:
                await world.stop_agent(rollout.to_agent_id)
            await world.tick()
    assert phases == [Phase.PROGRESSING, Phase.ABORTING, Phase.ROLLED_BACK]


async def test_a_watcher_hears_that_the_stream_is_alive(world):
    rollout = await world.begun()
    events = world.rollouts.watch(
        NS, rollout_id=rollout.rollout_id, agent_name="", bookmark_seconds=0.01
    )
    async with aclosing(events), asyncio.timeout(10):
        assert isinstance(await anext(events), Rollout)
        assert isinstance(await anext(events), Position)


async def test_watching_nothing_is_refused(world):
    await world.follow()
    events = world.rollouts.watch(NS, rollout_id="rol-none", agent_name="")
    async with aclosing(events):
        with pytest.raises(RolloutNotFound):
            await anext(events)
