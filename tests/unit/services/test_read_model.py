"""The copy in memory: whole commits, woken watchers, and beats that survive a reload."""

import asyncio

import pytest

from controlplane.domain.agents import AgentStatus, InstanceState
from controlplane.domain.errors import NotReady
from controlplane.domain.selection import AgentFilter
from controlplane.services.hub import Hub, agent_topic, agents_topic, namespace_topic
from controlplane.services.ports import Collection, Position
from controlplane.services.read_model import ReadModel
from tests.fakes.registered import EPOCH, Replica, an_agent, an_instance

NS = "default"


@pytest.fixture
def replica():
    return Replica()


def test_an_agent_is_found_by_id_name_and_index(replica):
    replica.write(an_agent("a", name="researcher", version="1.0.0"))

    view = replica.view
    assert view.agents["a"].agent.spec.name == "researcher"
    assert view.agent_id_of == {"researcher@1.0.0": "a"}
    assert view.ids_of_name == {"researcher": {"a"}}
    assert set(view.index.candidates(AgentFilter(name="researcher")).ids) == {"a"}


def test_a_changed_agent_leaves_no_trace_of_what_it_was(replica):
    replica.write(an_agent("a", status=AgentStatus.REGISTERED))
    replica.write(an_agent("a", status=AgentStatus.ACTIVE))

    registered = AgentFilter(statuses=frozenset({AgentStatus.REGISTERED}))
    assert not replica.view.index.candidates(registered)
    assert len(replica.view.index) == 1


def test_a_deleted_agent_is_gone_everywhere(replica):
    replica.write(an_agent("a"))
    replica.delete(Collection.AGENTS, "a")

    view = replica.view
    assert (view.agents, view.agent_id_of, view.ids_of_name) == ({}, {}, {})
    assert len(view.index) == 0


def test_an_instance_that_is_loaded_before_its_agent_finds_it(replica):
    replica.load([an_instance("i", "a"), an_agent("a")])

    assert list(replica.view.agents["a"].instances) == ["i"]
    assert replica.view.agents["a"].instances["i"] is replica.view.instances["i"]


def test_only_instances_that_beat_in_time_are_fresh(replica):
    replica.write(
        an_agent("a"),
        an_instance("fresh", "a"),
        an_instance("silent", "a", state=InstanceState.SILENT),
    )

    fresh = replica.view.agents["a"].fresh_instances()
    assert [live.instance.instance_id for live in fresh] == ["fresh"]


def test_the_last_beat_of_an_agent_is_that_of_any_instance(replica):
    replica.write(an_agent("a"), an_instance("i", "a"), an_instance("j", "a"))
    assert replica.view.agents["a"].last_beat_ms == 0

    replica.view.instances["i"].last_beat_ms = 7

    assert replica.view.agents["a"].last_beat_ms == 7


def test_a_new_state_of_an_instance_keeps_what_its_beats_said(replica):
    replica.write(an_agent("a"), an_instance("i", "a"))
    replica.view.instances["i"].in_flight = 3

    replica.write(an_instance("i", "a", state=InstanceState.SILENT))

    assert replica.view.instances["i"].in_flight == 3


def test_a_new_generation_of_an_instance_starts_from_nothing(replica):
    replica.write(an_agent("a"), an_instance("i", "a", generation=1))
    replica.view.instances["i"].in_flight = 3

    replica.write(an_instance("i", "a", generation=2))

    assert replica.view.instances["i"].in_flight == 0
    assert replica.view.agents["a"].instances["i"].instance.generation == 2


def test_a_new_generation_may_belong_to_another_agent(replica):
    replica.write(an_agent("a"), an_agent("b"), an_instance("i", "a", generation=1))

    replica.write(an_instance("i", "b", generation=2))

    assert replica.view.agents["a"].instances == {}
    assert list(replica.view.agents["b"].instances) == ["i"]


def test_a_removed_instance_is_gone_from_its_agent(replica):
    replica.write(an_agent("a"), an_instance("i", "a"))
    replica.delete(Collection.INSTANCES, "i")

    assert replica.view.agents["a"].instances == {}
    assert replica.view.instances == {}


def test_the_revision_of_agents_moves_with_agents_and_instances_only(replica):
    replica.write(an_agent("a"))
    replica.pass_by()
    assert (replica.view.agents_revision, replica.view.position) == (1, Position(EPOCH, 2))

    replica.write(an_instance("i", "a"))

    assert replica.view.agents_revision == 3


def test_a_change_wakes_those_whom_it_concerns(replica):
    topics = [agent_topic(NS, "a"), agent_topic(NS, "b"), agents_topic(NS), namespace_topic(NS)]
    with replica.hub.subscribe(topics) as news:
        replica.write(an_agent("a"))
        assert news.take() == {agent_topic(NS, "a"), agents_topic(NS), namespace_topic(NS)}

        replica.write(an_instance("i", "b"))
        assert agent_topic(NS, "b") in news.take()

        replica.pass_by()
        assert news.take() == {namespace_topic(NS)}


def test_a_reload_keeps_what_beats_said_and_wakes_everybody(replica):
    replica.write(an_agent("a"), an_agent("gone"), an_instance("i", "a"))
    replica.view.instances["i"].in_flight = 3
    before = replica.view.load_version

    with replica.hub.subscribe([agent_topic(NS, "a"), agent_topic(NS, "gone")]) as news:
        replica.load([an_agent("a"), an_instance("i", "a")])
        assert news.take() == {agent_topic(NS, "a"), agent_topic(NS, "gone")}

    assert replica.view.instances["i"].in_flight == 3
    assert replica.view.agents["a"].instances["i"] is replica.view.instances["i"]
    assert replica.view.load_version > before


def test_a_reload_does_not_carry_beats_over_to_another_generation(replica):
    replica.write(an_agent("a"), an_instance("i", "a", generation=1))
    replica.view.instances["i"].in_flight = 3

    replica.load([an_agent("a"), an_instance("i", "a", generation=2)])

    assert replica.view.instances["i"].in_flight == 0


def test_a_namespace_nobody_wrote_to_is_empty_once_the_replica_is_ready():
    read_model = ReadModel(Hub())
    with pytest.raises(NotReady):
        read_model.view("new")

    read_model.ready = True

    assert read_model.view("new").agents == {}
    assert read_model.position_of("new") is None
    assert read_model.views() == {}


async def test_a_revision_that_was_reached_is_not_waited_for(replica):
    replica.write(an_agent("a"))

    assert await replica.read_model.at_least(NS, 1) is replica.view


async def test_a_wait_for_a_revision_ends_when_it_is_reached(replica):
    waiting = asyncio.create_task(replica.read_model.at_least(NS, 2))
    replica.pass_by()
    await asyncio.sleep(0)
    assert not waiting.done()

    replica.pass_by()

    async with asyncio.timeout(5):
        assert (await waiting).position.revision == 2
    assert replica.hub.listener_count == 0
