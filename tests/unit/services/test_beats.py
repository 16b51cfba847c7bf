"""Beats on the hot path, and on their way to the store."""

from math import inf, nan
from typing import Any

import pytest

from controlplane.domain.agents import AgentStatus, InstanceState
from tests.fakes.fleet import NAMESPACE, Ack, FakeBeat, Fleet


@pytest.fixture
async def fleet():
    return Fleet()


async def alive(
    fleet: Fleet, *instance_ids: str, agent_id: str = "a", **spec: Any
) -> dict[str, int]:
    generations = await fleet.register(agent_id, *instance_ids, **spec)
    for name, generation in generations.items():
        assert await fleet.replica.beat(FakeBeat(name, generation)) == []
    fleet.replica.intake.take_dirty()
    return generations


async def test_an_ordinary_beat_is_counted_without_touching_the_ledger(fleet):
    generation = (await alive(fleet, "i"))["i"]
    revision = fleet.revision
    fleet.clock.shift(7)
    beat = FakeBeat("i", generation, seq=1, in_flight=3, completed=5, failed=1, latency_ms=8.5)
    assert fleet.replica.intake.accept(fleet.replica.view, [beat]) == []
    live = fleet.replica.view.instances["i"]
    assert (live.in_flight, live.completed, live.failed, live.latency_ms) == (3, 5, 1, 8.5)
    assert live.last_beat_ms == fleet.clock.store_ms()
    await fleet.replica.flush()
    assert fleet.revision == revision


async def test_an_older_beat_is_ignored_and_one_with_the_same_number_counts(fleet):
    generation = (await alive(fleet, "i"))["i"]
    for seq, in_flight, expected in ((5, 1, 1), (4, 2, 1), (5, 3, 3)):
        beat = FakeBeat("i", generation, seq=seq, in_flight=in_flight)
        assert fleet.replica.intake.accept(fleet.replica.view, [beat]) == []
        assert fleet.replica.view.instances["i"].in_flight == expected


@pytest.mark.parametrize("latency_ms", [-1.0, nan, inf])
async def test_an_impossible_latency_is_invalid_and_not_counted(fleet, latency_ms):
    generation = (await alive(fleet, "i"))["i"]
    before = fleet.replica.view.instances["i"].last_beat_ms
    fleet.clock.shift(1)
    (answer,) = await fleet.replica.beat(FakeBeat("i", generation, latency_ms=latency_ms))
    assert answer.outcome == "INVALID"
    assert "latency_ms" in answer.detail
    assert fleet.replica.view.instances["i"].last_beat_ms == before


async def test_a_long_progress_token_is_invalid(fleet):
    generation = (await alive(fleet, "i"))["i"]
    (answer,) = await fleet.replica.beat(FakeBeat("i", generation, progress_token="x" * 65))
    assert "progress_token" in answer.detail


async def test_a_flush_prolongs_the_deadline_by_the_grant_of_each_agent(fleet):
    one = await alive(fleet, "i", agent_id="a")
    two = await alive(fleet, "j", agent_id="b", degraded_after_ms=5_000, lost_after_ms=60_000)
    fleet.clock.shift(3)
    await fleet.replica.beat(FakeBeat("i", one["i"]), FakeBeat("j", two["j"]))
    await fleet.replica.flush()
    assert fleet.deadline_of("i") == 30_000
    assert fleet.deadline_of("j") == 5_000


async def test_what_was_flushed_is_forgotten_and_what_was_put_back_is_not(fleet):
    generation = (await alive(fleet, "i"))["i"]
    fleet.replica.intake.accept(fleet.replica.view, [FakeBeat("i", generation)])
    assert fleet.replica.intake.take_dirty() == {NAMESPACE: {"i"}}
    assert fleet.replica.intake.take_dirty() == {}
    fleet.replica.intake.put_back(NAMESPACE, {"i"})
    assert fleet.replica.intake.take_dirty() == {NAMESPACE: {"i"}}


async def test_the_load_version_grows_only_when_a_load_changed(fleet):
    generation = (await alive(fleet, "i"))["i"]
    view, intake = fleet.replica.view, fleet.replica.intake
    versions = []
    for in_flight in (1, 1, 2):
        intake.accept(view, [FakeBeat("i", generation, in_flight=in_flight)])
        intake.publish_loads(view)
        versions.append(view.load_version)
    assert versions[1] == versions[0]
    assert versions[2] == versions[1] + 1


async def test_a_token_that_stands_still_while_tasks_are_in_flight_marks_the_instance(fleet):
    generation = (await alive(fleet, "i"))["i"]
    live = fleet.replica.view.instances["i"]

    async def beats(seconds: int, token: str, in_flight: int = 1) -> None:
        for _ in range(seconds // 10):
            fleet.clock.shift(10)
            await fleet.replica.beat(
                FakeBeat("i", generation, in_flight=in_flight, progress_token=token)
            )
            await fleet.replica.flush()

    await beats(600, "t", in_flight=0)
    await beats(60, "t")
    assert not live.stalled  # work began with the first of these beats
    await beats(10, "t")
    assert live.stalled
    await beats(10, "u")
    assert not live.stalled


async def test_the_error_rate_comes_from_the_counters(fleet):
    generation = (await alive(fleet, "i"))["i"]
    await fleet.replica.beat(FakeBeat("i", generation, completed=30, failed=10))
    await fleet.replica.flush()
    assert fleet.replica.view.instances["i"].error_rate == 0.25


async def test_an_acknowledgement_is_news_once_and_reaches_other_replicas(fleet):
    generation = (await alive(fleet, "i"))["i"]
    other = fleet.add_replica("two")
    await other.follow()
    cursor = (await other.beat_log.read_beats({NAMESPACE: ""}))[NAMESPACE][0]
    refused = Ack(attempted_revision=9, running_revision=7, status=3, error="no such model")
    for _ in range(2):
        await fleet.replica.beat(FakeBeat("i", generation, config=refused))
    assert fleet.replica.acknowledged == [(NAMESPACE, "a")]
    await fleet.replica.flush()
    _, beats = (await other.beat_log.read_beats({NAMESPACE: cursor}))[NAMESPACE]
    other.intake.merge(other.view, beats)
    live = other.view.instances["i"]
    assert (live.config_attempted, live.config_running, live.config_status) == (9, 7, 3)
    assert live.config_error == "no such model"
    assert other.acknowledged == [(NAMESPACE, "a")]


async def test_a_success_that_does_not_run_is_still_being_applied(fleet):
    generation = (await alive(fleet, "i"))["i"]
    claim = Ack(attempted_revision=9, running_revision=7, status=2)
    await fleet.replica.beat(FakeBeat("i", generation, config=claim))
    assert fleet.replica.view.instances["i"].config_status == 1


async def test_beats_of_other_replicas_are_taken_over_unless_they_are_behind(fleet):
    generation = (await alive(fleet, "i"))["i"]
    other = fleet.add_replica("two")
    await other.follow()
    fleet.replica.intake.accept(fleet.replica.view, [FakeBeat("i", generation, completed=5)])
    _, beats = fleet.replica.intake.pack(fleet.replica.view, {"i"})
    fleet.clock.shift(1)
    other.intake.merge(other.view, beats)
    assert other.view.instances["i"].completed == 5
    assert other.view.instances["i"].last_beat_ms == fleet.clock.store_ms()
    other.intake.accept(other.view, [FakeBeat("i", generation, completed=6)])
    other.intake.merge(other.view, beats)
    assert other.view.instances["i"].completed == 6


async def test_a_restarted_replica_learns_the_last_beats_from_the_deadlines(fleet):
    generation = (await alive(fleet, "i"))["i"]
    fleet.clock.shift(12)
    await fleet.replica.beat(FakeBeat("i", generation))
    await fleet.replica.flush()
    beaten_at = fleet.clock.store_ms()
    fleet.clock.shift(5)
    restarted = fleet.add_replica("two")
    view = await restarted.follow()
    restarted.intake.restore(view, await restarted.beat_log.deadlines(NAMESPACE))
    assert view.instances["i"].last_beat_ms == beaten_at


async def test_an_instance_that_left_is_not_flushed(fleet):
    generation = (await alive(fleet, "i"))["i"]
    fleet.replica.intake.accept(fleet.replica.view, [FakeBeat("i", generation)])
    await fleet.replica.beat(FakeBeat("i", generation, goodbye=True))
    assert fleet.replica.intake.pack(fleet.replica.view, {"i"}) == ({}, [])


async def test_beats_of_agents_that_do_not_work_are_counted_and_handed_back(fleet):
    generation = (await alive(fleet, "i"))["i"]
    await fleet.change_agent("a", status=AgentStatus.INACTIVE, status_reason="maintenance")
    fleet.clock.shift(1)
    (unusual,) = fleet.replica.intake.accept(fleet.replica.view, [FakeBeat("i", generation)])
    assert unusual.live is not None
    assert unusual.live.last_beat_ms == fleet.clock.store_ms()
    assert unusual.live.instance.state is InstanceState.FRESH
