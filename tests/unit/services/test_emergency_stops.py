"""Emergency stops: agents, their tasks, and who has said that it stopped."""

import asyncio
from typing import Any

import pytest

from controlplane.domain.agents import LOST, AgentStatus
from controlplane.domain.errors import (
    InvalidArgument,
    StoreUnavailable,
)
from controlplane.domain.work_refusals import (
    StopNotFound,
)
from controlplane.services.ids import TimeSortedIds
from controlplane.services.lifecycle.emergency_stops import EmergencyStops, StopOutcome
from controlplane.services.lifecycle.stop_records import KEPT_MS
from controlplane.services.ports import RequestKey
from tests.fakes.fleet import NAMESPACE, FakeBeat
from tests.fakes.lifecycle_plane import FollowingLedger, LifecyclePlane

S = AgentStatus


@pytest.fixture
def plane():
    return LifecyclePlane()


def outcomes(report) -> dict[str, str]:
    return {one.instance_id: str(one.outcome) for one in report.answers}


async def test_what_matches_stops_and_nothing_else(plane):
    await plane.active("a", "i", tags={"team": "red", "tier": "1"})
    await plane.active("b", "j", tags={"team": "red"})
    await plane.active("c", "k")
    report = await plane.ops.stop(tags={"team": "red"}, names=("a", "c"))
    assert report.stop.agent_ids == ("a",)
    assert outcomes(report) == {"i": "WAITING"}
    statuses = {name: (await plane.agent(name)).status for name in "abc"}
    assert statuses == {"a": S.INACTIVE, "b": S.ACTIVE, "c": S.ACTIVE}
    report = await plane.ops.stop(everything=True)
    assert set(report.stop.agent_ids) == {"a", "b", "c"}
    assert (await plane.agent("c")).status_reason == "incident"
    assert [agent_id for agent_id, *_ in plane.ops.handed.asked] == ["a", "b", "c"]


async def test_what_could_come_back_by_itself_is_stopped_as_well(plane):
    await plane.register("a")
    await plane.register("b")
    await plane.register("c")
    await plane.register("d")
    await plane.change_agent("b", status=S.INACTIVE, status_reason=LOST)
    await plane.change_agent("c", status=S.INACTIVE, status_reason="night")
    await plane.change_agent("d", status=S.DECOMMISSIONED)
    report = await plane.ops.stop(everything=True)
    assert report.stop.agent_ids == ("a", "b", "c")
    reasons = [(await plane.agent(name)).status_reason for name in "abc"]
    assert reasons == ["incident", "incident", "night"]


async def test_the_selector_and_the_reason_are_required(plane):
    await plane.replica.follow()
    wrong: list[dict[str, Any]] = [
        {},
        {"everything": True, "names": ("a",)},
        {"everything": True, "reason": ""},
        {"everything": True, "reason": LOST},
        {"everything": True, "wait_ms": 60_001},
    ]
    for options in wrong:
        with pytest.raises(InvalidArgument):
            await plane.ops.stop(**options)


async def test_answers_are_timed_on_the_clock_of_the_store(plane):
    generations = await plane.active("a", "i", "j", "k")
    stop_id = (await plane.ops.stop(everything=True)).stop.stop_id
    plane.clock.shift(1.5)
    await plane.ops.stops.acknowledge(NAMESPACE, stop_id, "i", generations["i"])
    plane.clock.shift(1.0)
    await plane.replica.beat(FakeBeat("j", generations["j"], goodbye=True))
    report = await plane.ops.stops.get(NAMESPACE, stop_id)
    assert [(one.instance_id, one.outcome, one.after_ms) for one in report.answers] == [
        ("k", StopOutcome.WAITING, None),
        ("j", StopOutcome.LEFT, 2_500),
        ("i", StopOutcome.ACKNOWLEDGED, 1_500),
    ]
    assert (report.acknowledged, report.waiting, report.last_after_ms) == (2, 1, 2_500)


async def test_whoever_falls_silent_is_not_waited_for(plane):
    await plane.active("a", "i")
    report = await plane.ops.stop(everything=True)
    for _ in range(40):
        plane.clock.shift(1.0)
        await plane.replica.sweep()
    report = await plane.ops.stops.get(NAMESPACE, report.stop.stop_id)
    assert outcomes(report) == {"i": "SILENT"}
    assert (report.is_settled, report.waiting) == (True, 1)


async def test_only_the_process_that_was_told_acknowledges(plane):
    generations = await plane.active("a", "i", "j")
    stop_id = (await plane.ops.stop(everything=True)).stop.stop_id
    newer = await plane.join("a", "i")
    acknowledge = plane.ops.stops.acknowledge
    revision = plane.revision
    await acknowledge(NAMESPACE, stop_id, "i", generations["i"])
    await acknowledge(NAMESPACE, stop_id, "i", newer)
    await acknowledge(NAMESPACE, stop_id, "ghost", 1)
    await acknowledge(NAMESPACE, "ghost", "j", generations["j"])
    assert plane.revision == revision
    report = await plane.ops.stops.get(NAMESPACE, stop_id)
    assert outcomes(report) == {"i": "LEFT", "j": "WAITING"}


async def test_two_replicas_note_an_acknowledgement_once(plane):
    generations = await plane.active("a", "i", "j")
    stop_id = (await plane.ops.stop(everything=True)).stop.stop_id
    other = await plane.another("two")
    said = [(stop_id, name, generation) for name, generation in generations.items()]
    await plane.ops.stops.acknowledge_many(NAMESPACE, said[:1])
    plane.clock.shift(5)
    await other.stops.acknowledge_many(NAMESPACE, said)  # it has not heard of the first
    await plane.replica.follow()
    report = await plane.ops.stops.get(NAMESPACE, stop_id)
    assert [one.after_ms for one in report.answers] == [5_000, 0]


async def test_the_call_returns_with_the_last_acknowledgement(plane):
    generations = await plane.active("a", *(f"i{n}" for n in range(3)))
    asked = asyncio.ensure_future(plane.ops.stop(everything=True, wait_ms=30_000))
    async with asyncio.timeout(5):
        await plane.replica.read_model.at_least(NAMESPACE, plane.revision + 1)
    (stop_id,) = plane.replica.view.work.stops
    for name, generation in generations.items():
        assert not asked.done()
        await plane.ops.stops.acknowledge(NAMESPACE, stop_id, name, generation)
    async with asyncio.timeout(5):
        report = await asked
    assert (report.acknowledged, report.waiting) == (3, 0)


async def test_a_repeated_request_is_the_same_stop(plane):
    await plane.active("a", "i")
    first = await plane.ops.stop(everything=True, request=RequestKey("r", "d"))
    again = await plane.ops.stop(everything=True, request=RequestKey("r", "d"))
    assert again.stop.stop_id == first.stop.stop_id
    assert len(await plane.audits("emergency_stop.started")) == 1


async def test_an_unknown_stop_is_not_found(plane):
    await plane.replica.follow()
    with pytest.raises(StopNotFound):
        await plane.ops.stops.get(NAMESPACE, "stp-1")


async def test_another_replica_finishes_what_one_began(plane):
    await plane.active("a", "i")
    await plane.active("b", "j")
    heir = await plane.another("two")
    inner = plane.ops.stops._ledger

    class DyingLedger:
        def __getattr__(self, name: str) -> object:
            return getattr(inner, name)

        async def commit_many(self, _transactions: object) -> None:
            raise StoreUnavailable

    plane.ops.stops._ledger = DyingLedger()
    with pytest.raises(StoreUnavailable):
        await plane.ops.stop(everything=True)
    assert (await plane.agent("a")).status is S.ACTIVE
    await heir.replica.follow()
    assert await heir.stops.tick(NAMESPACE) == 1
    assert {(await plane.agent(name)).status for name in "ab"} == {S.INACTIVE}
    assert await heir.stops.tick(NAMESPACE) == 0


async def test_whoever_was_registered_at_another_replica_a_moment_ago_is_stopped_as_well(plane):
    lagging = await plane.another("two")
    await plane.active("a", "i", tags={"team": "red"})
    await plane.active("b", "j")
    report = await lagging.stop(tags={"team": "red"})
    assert outcomes(report) == {"i": "WAITING"}
    assert {name: (await plane.agent(name)).status for name in "ab"} == {
        "a": S.INACTIVE,
        "b": S.ACTIVE,
    }
    await lagging.replica.follow()
    (stop,) = lagging.replica.view.work.stops.values()
    assert (stop.agent_ids, stop.settled) == (("a",), True)


async def test_a_process_that_took_the_place_of_another_before_the_stop_is_waited_for(plane):
    await plane.active("a", "i")
    lagging = await plane.another("two")
    await plane.join("a", "i")  # the second replica knows only the former process
    report = await lagging.stop(everything=True)
    assert outcomes(report) == {"i": "WAITING"}


async def test_whoever_is_registered_after_a_stop_is_none_of_its_business(plane):
    await plane.active("a", "i")
    report = await plane.ops.stop(everything=True)
    await plane.active("b", "j")
    await plane.ops.stops.tick(NAMESPACE)
    report = await plane.ops.stops.get(NAMESPACE, report.stop.stop_id)
    assert (report.stop.agent_ids, (await plane.agent("b")).status) == (("a",), S.ACTIVE)


async def test_a_replica_that_shuts_down_answers_at_once(plane):
    await plane.active("a", "i")
    model, handed, ids = plane.replica.read_model, plane.ops.handed, TimeSortedIds()
    ledger = FollowingLedger(plane.replica)
    ending = False
    plane.ops.stops = EmergencyStops(
        ledger, model, handed, ids, plane.clock, is_draining=lambda: ending
    )
    asked = asyncio.ensure_future(plane.ops.stop(everything=True, wait_ms=60_000))
    await asyncio.sleep(0.01)
    assert not asked.done()
    ending = True
    async with asyncio.timeout(5):
        assert outcomes(await asked) == {"i": "WAITING"}
    assert (await plane.agent("a")).status is S.INACTIVE


async def test_old_stops_are_forgotten_once_nobody_is_told_any_more(plane):
    generations = await plane.active("a", "i", "j")
    stop_id = (await plane.ops.stop(everything=True)).stop.stop_id
    await plane.ops.stops.acknowledge(NAMESPACE, stop_id, "i", generations["i"])
    plane.clock.shift(KEPT_MS / 1000 + 1)
    assert await plane.ops.stops.forget_old(NAMESPACE) == 0
    await plane.replica.beat(FakeBeat("j", generations["j"], goodbye=True))
    assert await plane.ops.stops.forget_old(NAMESPACE) == 1
    await plane.replica.follow()
    work = plane.replica.view.work
    assert (work.stops, work.stop_acknowledgements) == ({}, {})


async def test_a_thousand_instances_are_stopped_and_counted(plane):
    generations: dict[str, int] = {}
    for n in range(20):
        generations |= await plane.active(f"a{n}", *(f"i{n}-{m}" for m in range(50)))
    report = await plane.ops.stop(everything=True)
    assert len(report.answers) == 1_000
    stop_id = report.stop.stop_id
    said = [(stop_id, name, generation) for name, generation in generations.items()]
    revision = plane.revision
    await plane.ops.stops.acknowledge_many(NAMESPACE, said)
    assert plane.revision == revision + 1
    report = await plane.ops.stops.get(NAMESPACE, stop_id)
    assert (report.acknowledged, report.waiting) == (1_000, 0)
    assert len(await plane.audits("agent.deactivated")) == 20
