"""Agents, filters and answers between the wire and the domain."""

import pytest
from google.protobuf.duration_pb2 import Duration

from controlplane.api.convert.agents import (
    agent_to_proto,
    filter_from_proto,
    instance_to_proto,
    spec_from_proto,
    spec_to_proto,
)
from controlplane.api.convert.discovery import (
    best_query_from_proto,
    discover_response,
    find_best_response,
    list_agents_response,
    watch_event_to_proto,
)
from controlplane.domain.agents import Activation, AgentSpec, AgentStatus
from controlplane.domain.errors import InvalidArgument
from controlplane.domain.selection import AgentFilter
from controlplane.services.agent_watch import Bookmark, Delta, SnapshotPart
from controlplane.services.discovery import BestAgentQuery, Discovery
from controlplane.services.ports import Position
from fleetplane.v1 import agent_pb2, registry_service_pb2
from tests.fakes.registered import EPOCH, Replica, an_agent, an_instance, running

FULL = AgentSpec(
    name="researcher",
    version="2.1.0",
    description="Finds sources",
    owner="team-a",
    capabilities=("search", "cite"),
    tools=("web",),
    model="claude",
    endpoint="https://agents.example.com/a2a",
    max_concurrency=8,
    timeout_seconds=60,
    tags={"env": "prod"},
    activation=Activation.MANUAL,
    degraded_after_ms=15_000,
    lost_after_ms=61_500,
)


def fields_of(refusal):
    return [violation.field for violation in refusal.value.violations]


def test_a_declaration_survives_the_round_trip():
    assert spec_from_proto(spec_to_proto(FULL)) == FULL


def test_what_is_not_said_has_the_defaults_of_the_contract():
    spec = spec_from_proto(agent_pb2.AgentSpec(name="a", version="1.0.0"))

    assert spec == AgentSpec(name="a", version="1.0.0")
    assert (spec.max_concurrency, spec.timeout_seconds, spec.activation) == (
        1,
        30,
        Activation.AUTO,
    )


def test_every_broken_limit_is_named_at_once():
    message = agent_pb2.AgentSpec(
        name="a",
        version="one",
        capabilities=["x", "x"],
        max_concurrency=100_001,
        activation=agent_pb2.Activation.ValueType(99),
        degraded_after=Duration(seconds=-1),
        lost_after=Duration(seconds=1, nanos=2_000_000_000),
    )

    with pytest.raises(InvalidArgument) as refusal:
        spec_from_proto(message, "requests[3].spec")

    assert sorted(fields_of(refusal)) == [
        "requests[3].spec.activation",
        "requests[3].spec.capabilities[1]",
        "requests[3].spec.degraded_after",
        "requests[3].spec.lost_after",
        "requests[3].spec.max_concurrency",
        "requests[3].spec.version",
    ]


def test_an_update_reads_the_masked_fields_only():
    message = agent_pb2.AgentSpec(
        owner="new", activation=agent_pb2.Activation.ValueType(99), lost_after=Duration(seconds=-1)
    )

    assert spec_from_proto(message, mask=("owner",)).owner == "new"
    with pytest.raises(InvalidArgument) as refusal:
        spec_from_proto(message, mask=("activation", "lost_after"))

    assert fields_of(refusal) == ["spec.activation", "spec.lost_after"]


def test_a_filter_is_read_field_by_field():
    message = registry_service_pb2.AgentFilter(
        capabilities=["a", "b", "a"],
        tags={"env": "prod"},
        statuses=[agent_pb2.AGENT_STATUS_ACTIVE, agent_pb2.AGENT_STATUS_DEGRADED],
        name="n",
        version_range=">=1.0.0",
        owner="o",
        model="m",
        tool="t",
    )

    assert filter_from_proto(message) == AgentFilter(
        capabilities=("a", "b"),
        tags={"env": "prod"},
        statuses=frozenset({AgentStatus.ACTIVE, AgentStatus.DEGRADED}),
        name="n",
        version_range=">=1.0.0",
        owner="o",
        model="m",
        tool="t",
    )


def test_an_unspecified_status_means_any():
    message = registry_service_pb2.AgentFilter(statuses=[agent_pb2.AGENT_STATUS_UNSPECIFIED])

    assert filter_from_proto(message).statuses == frozenset(AgentStatus)


def test_every_wrong_field_of_a_filter_is_named():
    message = registry_service_pb2.AgentFilter(
        statuses=[agent_pb2.AGENT_STATUS_ACTIVE, agent_pb2.AgentStatus.ValueType(77)],
        capabilities=[""],
        version_range="newest",
    )

    with pytest.raises(InvalidArgument) as refusal:
        filter_from_proto(message)

    assert fields_of(refusal) == [
        "filter.statuses[1]",
        "filter.capabilities[0]",
        "filter.version_range",
    ]


def test_an_agent_carries_its_record_and_its_last_beat():
    replica = Replica()
    replica.write(an_agent("a", owner="o"), an_instance("j", "a"), an_instance("i", "a"))
    replica.view.instances["j"].last_beat_ms = 1_700_000_000_123
    entry = replica.view.agents["a"]

    alone = agent_to_proto(entry, "default", include_instances=False)
    whole = agent_to_proto(entry, "default", include_instances=True)

    assert (alone.agent_id, alone.namespace, alone.spec.owner, alone.revision) == (
        "a",
        "default",
        "o",
        1,
    )
    assert alone.status == agent_pb2.AGENT_STATUS_ACTIVE
    assert alone.last_heartbeat.ToMilliseconds() == 1_700_000_000_123
    assert [instance.instance_id for instance in whole.instances] == ["i", "j"]
    assert not alone.instances


def test_an_agent_that_never_beat_has_no_last_beat():
    replica = Replica()
    replica.write(an_agent("a"))

    message = agent_to_proto(replica.view.agents["a"], "default", include_instances=True)

    assert not message.HasField("last_heartbeat")


def test_a_changed_record_is_rendered_anew_and_an_answer_can_be_changed():
    replica = Replica()
    replica.write(an_agent("a", owner="old"))
    first = agent_to_proto(replica.view.agents["a"], "default", include_instances=False)
    first.spec.owner = "scribbled"
    again = agent_to_proto(replica.view.agents["a"], "default", include_instances=False)
    elsewhere = agent_to_proto(replica.view.agents["a"], "other", include_instances=False)

    replica.write(an_agent("a", owner="new"))
    changed = agent_to_proto(replica.view.agents["a"], "default", include_instances=False)

    assert (again.spec.owner, elsewhere.namespace, changed.spec.owner) == ("old", "other", "new")


def test_an_instance_carries_what_its_beats_said():
    live = running(
        "i",
        in_flight=3,
        completed=10,
        failed=1,
        latency_ms=12.5,
        error_rate=0.25,
        stalled=True,
        last_beat_ms=5,
        config_attempted=7,
        config_running=6,
        config_status=3,
        config_error="no such model",
    )

    message = instance_to_proto(live)

    assert message.state == agent_pb2.INSTANCE_STATE_FRESH
    assert (message.instance_id, message.agent_id, message.generation) == ("i", "agt-1", 1)
    assert message.stalled
    assert (message.load.in_flight, message.load.error_rate) == (3, 0.25)
    assert message.config == agent_pb2.ConfigAcknowledgement(
        attempted_revision=7,
        running_revision=6,
        status=agent_pb2.CONFIG_STATUS_FAILED,
        error="no such model",
    )


def test_an_instance_that_said_nothing_says_nothing():
    message = instance_to_proto(running("i"))

    for field in ("load", "config", "last_heartbeat"):
        assert not message.HasField(field)


async def test_a_query_for_the_best_agent_explains_ten_unless_told_otherwise():
    request = registry_service_pb2.FindBestAgentRequest(
        prefer_low_latency=True, task_description="t", session_id="s", min_revision=4
    )

    assert best_query_from_proto(request) == BestAgentQuery(
        namespace="default",
        prefer_low_latency=True,
        task_description="t",
        session_id="s",
        max_explained=10,
        min_revision=4,
    )
    request.max_explained = 0
    assert best_query_from_proto(request).max_explained == 0


async def test_pages_carry_agents_total_token_and_position():
    replica = Replica()
    replica.write(an_agent("a"), an_agent("b"), an_instance("i", "a"))
    page = await Discovery(replica.read_model).list_agents("default", AgentFilter(), page_size=1)

    found = await discover_response(page, "default", "token")
    listed = await list_agents_response(page, "default", "token", True)

    for response in (found, listed):
        assert [agent.agent_id for agent in response.agents] == ["a"]
        assert (response.next_page_token, response.total_size) == ("token", 2)
        assert (response.position.epoch, response.position.revision) == (EPOCH, 1)
    assert not found.agents[0].instances
    assert [instance.instance_id for instance in listed.agents[0].instances] == ["i"]


async def test_the_best_agent_comes_with_reasons():
    replica = Replica()
    replica.write(an_agent("a", capabilities=("x",)), an_instance("i", "a"), an_agent("b"))
    query = BestAgentQuery(namespace="default", filter=AgentFilter(capabilities=("x",)))
    best = await Discovery(replica.read_model).find_best(query)

    message = find_best_response(best, "default")

    assert (message.agent.agent_id, message.instance.instance_id) == ("a", "i")
    assert message.score.score == pytest.approx(0.5 + 0.4 + 0.1 / 30)
    assert (message.score.name_version, message.score.speed_weight) == ("a@1.0.0", 0.1)
    assert message.candidate_count == 1
    assert [(miss.agent_id, miss.reason) for miss in message.rejected] == [
        ("b", registry_service_pb2.REJECTION_REASON_CAPABILITY)
    ]
    assert message.position.revision == 1


def test_events_of_a_watch_become_messages():
    replica = Replica()
    replica.write(an_agent("a"))
    entries = (replica.view.agents["a"],)
    position = Position("e", 9)

    snapshot = watch_event_to_proto(
        SnapshotPart(entries=entries, complete=True, position=position), "default", False
    )
    empty = watch_event_to_proto(
        SnapshotPart(entries=(), complete=False, position=position), "default", False
    )
    delta = watch_event_to_proto(
        Delta(entries=entries, removed_ids=("b",), position=position), "default", False
    )
    bookmark = watch_event_to_proto(Bookmark(position=position), "default", False)

    assert [agent.agent_id for agent in snapshot.snapshot.agents] == ["a"]
    assert snapshot.snapshot.complete
    assert empty.WhichOneof("event") == "snapshot"
    assert list(delta.delta.removed_agent_ids) == ["b"]
    assert bookmark.WhichOneof("event") == "bookmark"
    assert bookmark.position.revision == 9
