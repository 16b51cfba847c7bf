"""Agents and tenants kept apart, through a real channel, by a whole replica that authenticates."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from controlplane.domain.access.records import SYSTEM_NAMESPACE, Ban, ban_key
from controlplane.services.ports import AuditEntry, Collection, Put, Transaction
from fleetplane.v1 import config_service_pb2, lifecycle_service_pb2
from fleetplane.v1 import registry_service_pb2 as pb
from fleetplane.v1 import task_service_pb2 as tasks_pb
from tests.fakes.callers import bind, showing, unbind
from tests.fakes.eventually import eventually
from tests.fakes.two_agents import (
    ANN,
    AS_ANN,
    AS_BEN,
    AS_MINE,
    AS_OTHER,
    AS_ROOT,
    AS_TEAMS,
    MINE,
    Place,
    beat,
    beating,
    read_to_the_end,
    refused,
    registration,
    shown,
    two_agents,
)

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
async def place() -> AsyncIterator[Place]:
    async with two_agents() as made:
        yield made


async def test_an_agent_registers_nobody_but_itself(place):
    register, batch = place.replica.registry.Register, place.replica.registry.BatchRegister
    assert await refused(register(registration("third"), metadata=AS_MINE)) == "FOREIGN_AGENT"
    for stolen in (
        registration("mine", agent_id="other-1"),
        registration("mine", instance=pb.InstanceSpec(instance_id="box-other")),
    ):
        assert await refused(register(stolen, metadata=AS_MINE)) == "FOREIGN_AGENT"
    both = pb.BatchRegisterRequest(requests=[registration("mine"), registration("third")])
    assert await refused(batch(both, metadata=AS_MINE)) == "FOREIGN_AGENT"
    assert await refused(register(registration("mine"), metadata=AS_MINE)) == ""
    assert await refused(register(registration("third"), metadata=AS_ROOT)) == ""


async def test_an_agent_is_refused_before_it_can_learn_what_others_declare(place):
    """The refusal of the registry itself would name the other agent and its version."""
    stolen = registration("mine", agent_id="other-1")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await place.replica.registry.Register(stolen, metadata=AS_MINE)
    assert "other" not in (caught.value.details() or "")


async def test_an_agent_beats_for_itself_only(place):
    call = await beating(place, AS_MINE, beat(place.mine, seq=1))
    assert list((await call.read()).results) == []
    await call.write(pb.HeartbeatRequest(batch=2, beats=[pb.Beat(instance_id="x", generation=1)]))
    (result,) = (await call.read()).results
    assert result.outcome == pb.BeatResult.Outcome.OUTCOME_UNKNOWN
    goodbye = beat(place.other, seq=1, goodbye=True)
    await call.write(pb.HeartbeatRequest(batch=3, beats=[beat(place.mine, seq=2), goodbye]))
    assert await refused(call.read()) == "FOREIGN_AGENT"
    assert await shown(place, place.other, "other-1")


async def test_an_agent_removes_itself_only(place):
    deregister = place.replica.registry.Deregister

    def leaving(instance_id: str) -> Any:
        return deregister(pb.DeregisterRequest(instance_id=instance_id), metadata=AS_MINE)

    assert await refused(leaving("box-other")) == "FOREIGN_AGENT"
    assert await shown(place, place.other, "other-1")
    assert not (await leaving("unknown")).removed
    assert (await leaving("box-mine")).removed


async def test_an_agent_sees_itself_only(place):
    registry = place.replica.registry
    for agent_id, reason in (("mine-1", ""), ("other-1", "FOREIGN_AGENT"), ("no", "FOREIGN_AGENT")):
        request = pb.GetAgentRequest(agent_id=agent_id)
        assert await refused(registry.GetAgent(request, metadata=AS_MINE)) == reason
    for call in (
        registry.Discover(pb.DiscoverRequest(), metadata=AS_MINE),
        registry.FindBestAgent(pb.FindBestAgentRequest(), metadata=AS_MINE),
        registry.ListAgents(pb.ListAgentsRequest(), metadata=AS_MINE),
        registry.WatchAgents(pb.WatchAgentsRequest(), metadata=AS_MINE).read(),
    ):
        assert await refused(call) == "PERMISSION_DENIED"


async def test_an_agent_with_a_binding_sees_what_the_binding_shows_until_it_is_gone(place):
    binding = await bind(place.ledger, MINE, "viewer")
    registry = place.replica.registry

    async def may_discover() -> bool:
        return not await refused(registry.Discover(pb.DiscoverRequest(), metadata=AS_MINE))

    await eventually("the binding is known", may_discover)
    watch = registry.WatchAgents(pb.WatchAgentsRequest(), metadata=AS_MINE)
    await watch.read()
    beats = await beating(place, AS_MINE, beat(place.mine, seq=1))
    await beats.read()
    await unbind(place.ledger, binding)
    async with asyncio.timeout(5):
        assert await refused(read_to_the_end(watch)) == "PERMISSION_DENIED"
    await beats.write(pb.HeartbeatRequest(batch=2, beats=[beat(place.mine, seq=2)]))
    assert (await beats.read()).batch == 2  # beats rest on the certificate


async def test_an_agent_does_not_learn_who_changed_the_configuration_of_all_and_why(place):
    change = config_service_pb2.UpdateConfigRequest(
        scope=config_service_pb2.ConfigScope(), reason="secret plans"
    )
    change.set.update({"model": "small"})
    await place.replica.config.UpdateConfig(change, metadata=AS_ROOT)
    asked = config_service_pb2.GetConfigRequest(
        scope=config_service_pb2.ConfigScope(agent_name="mine"), explain=True
    )

    async def layer(who):
        answer = await place.replica.config.GetConfig(asked, metadata=who)
        (found,) = [one for one in answer.layers if one.revision]
        return found.values["model"], found.author, found.reason

    assert await layer(AS_ROOT) == ("small", "user:root", "secret plans")
    assert await layer(AS_MINE) == ("small", "", "")


async def test_an_agent_reads_and_watches_its_own_configuration_only(place):
    scope, config = config_service_pb2.ConfigScope, place.replica.config
    for wanted, reason in (
        (scope(agent_name="mine"), ""),
        (scope(agent_id="mine-1"), ""),
        (scope(agent_name="other"), "FOREIGN_AGENT"),
        (scope(agent_id="other-1"), "FOREIGN_AGENT"),
        (scope(), "FOREIGN_AGENT"),
    ):
        request = config_service_pb2.GetConfigRequest(scope=wanted)
        assert await refused(config.GetConfig(request, metadata=AS_MINE)) == reason
        scopes = [config_service_pb2.WatchedScope(scope=one) for one in (wanted,)]
        watch = config.WatchConfig(
            config_service_pb2.WatchConfigRequest(scopes=scopes), metadata=AS_MINE
        )
        assert await refused(watch.read()) == reason
        watch.cancel()


async def test_an_agent_takes_and_reports_its_own_tasks_only(place):
    tasks = place.replica.tasks
    generation = place.other.generation
    watch = tasks.WatchTasks(
        tasks_pb.WatchTasksRequest(instance_id="box-other", generation=generation), metadata=AS_MINE
    )
    assert await refused(watch.read()) == "FOREIGN_AGENT"
    lease = tasks_pb.TaskLease(task_id="t", instance_id="box-other", epoch=1)
    for call in (
        tasks.AcceptTask(tasks_pb.AcceptTaskRequest(lease=lease), metadata=AS_MINE),
        tasks.ReportProgress(tasks_pb.ReportProgressRequest(lease=lease), metadata=AS_MINE),
        tasks.CompleteTask(tasks_pb.CompleteTaskRequest(lease=lease), metadata=AS_MINE),
        tasks.FailTask(tasks_pb.FailTaskRequest(lease=lease), metadata=AS_MINE),
    ):
        assert await refused(call) == "FOREIGN_AGENT"


async def test_a_task_passes_from_its_submitter_to_the_agent_and_is_seen_by_nobody_else(place):
    await bind(place.ledger, ANN, "orchestrator")
    beats = await beating(place, AS_MINE, beat(place.mine, seq=1))
    await beats.read()
    tasks, spec = place.replica.tasks, tasks_pb.TaskSpec(agent_name="mine")
    watch = tasks.WatchTasks(
        tasks_pb.WatchTasksRequest(instance_id="box-mine", generation=place.mine.generation),
        metadata=AS_MINE,
    )
    submit = tasks_pb.SubmitTaskRequest(spec=spec, payload=b"payload")
    assert await refused(tasks.SubmitTask(submit, metadata=AS_MINE)) == "PERMISSION_DENIED"
    task = (await tasks.SubmitTask(submit, metadata=AS_ANN)).task
    while not (message := await watch.read()).HasField("assignment"):
        pass
    lease = tasks_pb.TaskLease(
        task_id=task.task_id, instance_id="box-mine", epoch=message.assignment.task.epoch
    )
    await tasks.AcceptTask(tasks_pb.AcceptTaskRequest(lease=lease), metadata=AS_MINE)
    asked = tasks_pb.GetTaskRequest(task_id=task.task_id, include_data=True)
    assert (await tasks.GetTask(asked, metadata=AS_MINE)).payload == b"payload"
    assert await refused(tasks.GetTask(asked, metadata=AS_OTHER)) == "FOREIGN_AGENT"
    watch.cancel()


async def test_a_namespace_that_somebody_may_not_see_does_not_exist_for_him(place):
    registry = place.replica.registry
    for who in (AS_MINE, AS_ANN):
        for namespace in ("team", "no-such"):
            request = pb.GetAgentRequest(namespace=namespace, agent_id="mine-1")
            reason = await refused(registry.GetAgent(request, metadata=who))
            assert reason == "NAMESPACE_NOT_FOUND"
            beats = await beating(place, who, beat(place.mine, seq=1), namespace=namespace)
            assert await refused(beats.read()) == "NAMESPACE_NOT_FOUND"


async def test_a_remembered_answer_is_given_only_to_those_who_may_ask(place):
    await bind(place.ledger, ANN, "viewer", "team")
    find = place.replica.registry.FindBestAgent
    await place.replica.registry.Register(
        registration("mine", namespace="team", instance=None), metadata=AS_TEAMS
    )
    question = pb.DiscoverRequest(namespace="team")
    best = pb.FindBestAgentRequest(namespace="team")

    async def is_answered() -> bool:
        return not await refused(place.replica.registry.Discover(question, metadata=AS_ANN))

    await eventually("ann may ask", is_answered)
    assert await refused(find(best, metadata=AS_ANN)) == "NO_CANDIDATE"
    for who, reason in (
        (AS_BEN, "NAMESPACE_NOT_FOUND"),
        (AS_MINE, "NAMESPACE_NOT_FOUND"),
        (AS_TEAMS, "PERMISSION_DENIED"),
        (showing("nobody"), "CREDENTIAL_INVALID"),
        ((), "CREDENTIAL_MISSING"),
        (AS_ANN, ""),
    ):
        assert await refused(place.replica.registry.Discover(question, metadata=who)) == reason


async def test_a_request_id_means_something_else_in_every_namespace(place):
    register = place.replica.registry.Register
    first = await register(registration("mine", request_id="same"), metadata=AS_MINE)
    there = registration("mine", request_id="same", namespace="team", agent_id="theirs-1")
    second = await register(there, metadata=AS_TEAMS)
    assert (first.agent.agent_id, second.agent.agent_id) == ("mine-1", "theirs-1")
    assert second.created


async def test_a_page_token_is_useless_in_another_namespace(place):
    for namespace in ("default", "team"):
        await bind(place.ledger, ANN, "viewer", namespace)
    lists = place.replica.registry.ListAgents
    ask = pb.ListAgentsRequest(page_size=1)

    async def is_answered() -> bool:
        everywhere = [
            await refused(lists(pb.ListAgentsRequest(namespace=one), metadata=AS_ANN))
            for one in ("default", "team")
        ]
        return everywhere == ["", ""]

    await eventually("ann may ask", is_answered)
    token = (await lists(ask, metadata=AS_ANN)).next_page_token
    moved = pb.ListAgentsRequest(namespace="team", page_size=1, page_token=token)
    assert token
    assert await refused(lists(moved, metadata=AS_ANN)) == "INVALID_CURSOR"


async def test_a_ban_ends_the_streams_of_the_agent_and_of_nobody_else(place):
    mine = await beating(place, AS_MINE, beat(place.mine, seq=1))
    other = await beating(place, AS_OTHER, beat(place.other, seq=1))
    silent = place.replica.registry.Heartbeat(metadata=AS_MINE)
    await mine.read()
    await other.read()
    ban = Ban(namespace="default", agent_name="mine")
    await place.ledger.commit(
        Transaction(
            namespace=SYSTEM_NAMESPACE,
            steps=(Put(Collection.BANS, ban_key("default", "mine"), ban),),
            audit=AuditEntry(actor="test", method="BanAgent", object="bans/mine"),
        )
    )
    async with asyncio.timeout(5):
        assert await refused(read_to_the_end(mine)) == "AGENT_BANNED"
        assert await refused(read_to_the_end(silent)) == "AGENT_BANNED"
    await other.write(pb.HeartbeatRequest(batch=2, beats=[beat(place.other, seq=2)]))
    assert (await other.read()).batch == 2


async def test_a_wait_ends_when_its_right_goes(place):
    binding = await bind(place.ledger, ANN, "operator")
    lifecycle = place.replica.lifecycle
    drain = lifecycle_service_pb2.DrainRequest(instance_id="box-mine")

    async def is_draining() -> bool:
        return not await refused(lifecycle.Drain(drain, metadata=AS_ANN))

    beats = await beating(place, AS_MINE, beat(place.mine, seq=1, in_flight=1))
    await beats.read()
    await eventually("the drain has begun", is_draining)
    request = lifecycle_service_pb2.GetDrainRequest(instance_id="box-mine")
    request.wait.FromSeconds(600)
    waits = lifecycle.GetDrain(request, metadata=AS_ANN)
    assert await refused(lifecycle.GetDrain(request, metadata=AS_OTHER)) == "FOREIGN_AGENT"
    await unbind(place.ledger, binding)
    async with asyncio.timeout(5):
        assert await refused(waits) == "NAMESPACE_NOT_FOUND"
