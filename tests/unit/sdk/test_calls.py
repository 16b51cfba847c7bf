"""The unary calls: arguments, retries, deadlines, coalescing."""

import asyncio
from datetime import UTC, datetime, timedelta

import grpc
import pytest

from fleetplane import (
    Activation,
    AgentSpec,
    AlreadyExists,
    BatchMode,
    ChannelConfig,
    DeadlineExceeded,
    Evaluation,
    ExplainLevel,
    FleetClient,
    FleetError,
    InstanceSpec,
    InvalidArgument,
    NotFound,
    PolicyAction,
    Registration,
    RetryPolicy,
    RevisionConflict,
    Scope,
    TlsConfig,
    Unavailable,
)
from fleetplane._channel import open_channel
from fleetplane.v1 import policy_service_pb2
from tests.fakes.fleet_plane import UNAVAILABLE, Plane, Refusal
from tests.fakes.fleet_server import FleetServer


async def test_an_agent_is_registered_read_changed_and_removed(client: FleetClient) -> None:
    spec = AgentSpec(
        name="w",
        version="1.0.0",
        capabilities=["a"],
        tags={"k": "v"},
        activation=Activation.MANUAL,
        degraded_after=timedelta(minutes=5),
        lost_after=600.5,
    )
    registered = await client.register(spec, instance=InstanceSpec(instance_id="i"))
    assert registered.created
    agent = await client.get_agent(registered.agent.agent_id)
    assert agent.spec.activation == Activation.MANUAL.value
    assert agent.spec.degraded_after.seconds == 300
    assert agent.spec.lost_after.nanos == 500_000_000
    changed = await client.update_agent(
        agent.agent_id, expected_revision=agent.revision, tags={"x": "y"}, degraded_after=None
    )
    assert dict(changed.spec.tags) == {"x": "y"}
    assert not changed.spec.HasField("degraded_after")
    assert list(changed.spec.capabilities) == ["a"]
    with pytest.raises(RevisionConflict) as conflict:
        await client.update_agent(agent.agent_id, expected_revision=1000, owner="me")
    assert conflict.value.metadata["current_revision"] == str(changed.revision)
    assert await client.deregister("i", generation=registered.instance.generation)
    assert not await client.deregister("i")


async def test_wrong_changes_are_refused_before_the_call(client: FleetClient) -> None:
    with pytest.raises(TypeError, match="no changeable field version"):
        await client.update_agent("a", version="2.0.0")  # type: ignore[call-arg]  # the point
    with pytest.raises(ValueError, match="no field to change"):
        await client.update_agent("a")


async def test_a_batch_of_registrations_fails_entry_by_entry(client: FleetClient) -> None:
    good = Registration(spec=AgentSpec(name="a", version="1.0.0"))
    bad = Registration(spec=AgentSpec(name="b", version=""))
    first, second, third = await client.batch_register([good, bad, good])
    assert not isinstance(first, FleetError)
    assert not isinstance(third, FleetError)
    assert isinstance(second, InvalidArgument)
    assert second.violations[0].field == "spec.version"


async def test_pages_are_followed_to_the_end(client: FleetClient, plane: Plane) -> None:
    for number in range(7):
        plane.put_agent(f"a{number}", capabilities=["x"])
    names = [agent.agent_id async for agent in client.list_agents(page_size=3)]
    assert names == [f"a{number}" for number in range(7)]
    assert len([agent async for agent in client.discover(capabilities="x", page_size=2)]) == 7
    page = await client.discover_page(tags={"no": "body"})
    assert page.total_size == 0
    revisions = [one.revision async for one in client.list_config_revisions(page_size=2)]
    assert revisions == [5, 4, 3, 2, 1]


async def test_the_best_agent_or_nobody(client: FleetClient, plane: Plane) -> None:
    plane.put_agent("a", capabilities=["x"])
    best = await client.find_best_agent(capabilities=["x"], max_explained=3, session_id="s")
    assert best.agent.agent_id == "a"
    with pytest.raises(NotFound) as nobody:
        await client.find_best_agent(capabilities=["y"])
    assert nobody.value.reason == "NO_CANDIDATE"


async def test_configuration_is_read_and_written(client: FleetClient) -> None:
    changed = await client.update_config({"temperature": 0.2}, scope=Scope(agent_id="a"))
    config = await client.get_config(Scope(agent_id="a"))
    assert (config.temperature, config.revision) == (0.2, changed.layer.revision)
    assert (await client.get_config()).temperature == 0.7
    assert (await client.explain_config()).position.epoch
    assert (await client.rollback_config(3, expected_revision=4)).restored_from == 3
    assert (await client.wait_for_convergence(1)).converged


async def test_policies_are_written_and_read(client: FleetClient) -> None:
    created = await client.create_policy(
        "no-drop",
        action=PolicyAction.DENY,
        priority=90,
        conditions={"action": "drop", "tables": ["a", "b"]},
        target_actions="drop",
        not_after=datetime(2030, 1, 1, tzinfo=UTC),
    )
    assert created.policy.enabled
    assert list(created.policy.targets.actions) == ["drop"]
    with pytest.raises(AlreadyExists):
        await client.create_policy("no-drop", action=PolicyAction.DENY)
    changed = await client.update_policy("no-drop", enabled=False, target_tools=["db"])
    assert not changed.policy.enabled
    assert changed.policy.priority == 90
    assert list(changed.policy.targets.tools) == ["db"]
    assert (await client.get_policy("no-drop")).policy_id == "no-drop"
    assert [one.policy_id async for one in client.list_policies(page_size=1)] == ["no-drop"]
    assert await client.delete_policy("no-drop") == 7
    with pytest.raises(NotFound):
        await client.get_policy("no-drop")
    with pytest.raises(ValueError, match="no field"):
        await client.update_policy("no-drop")
    with pytest.raises(TypeError, match="no field colour"):
        await client.create_policy("x", colour=1)  # type: ignore[call-arg]  # the point
    with pytest.raises(ValueError, match="time zone"):
        await client.create_policy("x", not_before=datetime(2030, 1, 1))  # noqa: DTZ001  # the point


async def test_a_write_is_repeated_with_one_request_id(client: FleetClient, plane: Plane) -> None:
    plane.failures["UpdateConfig"].extend([UNAVAILABLE, UNAVAILABLE])
    await client.update_config({"temperature": 0.1})
    assert plane.calls["UpdateConfig"] == 3
    assert len(plane.request_ids) == 3
    assert len(set(plane.request_ids)) == 1
    assert len(plane.request_ids[0]) == 32


async def test_a_refusal_is_not_repeated(client: FleetClient, plane: Plane) -> None:
    plane.failures["GetAgent"].append(Refusal(grpc.StatusCode.NOT_FOUND, "AGENT_NOT_FOUND"))
    with pytest.raises(NotFound):
        await client.get_agent("a")
    assert plane.calls["GetAgent"] == 1


async def test_a_rate_limit_that_names_a_time_is_waited_for(
    client: FleetClient, plane: Plane
) -> None:
    plane.put_agent("a")
    limited = Refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, "LIMIT_EXCEEDED", retry_after=0.01)
    plane.failures["GetAgent"].append(limited)
    assert (await client.get_agent("a")).agent_id == "a"


async def test_retries_end_at_the_deadline_with_the_last_refusal(
    client: FleetClient, plane: Plane
) -> None:
    plane.failures["GetAgent"].extend([UNAVAILABLE] * 1000)
    with pytest.raises(Unavailable) as caught:
        await client.get_agent("a", timeout=0.2)
    assert caught.value.reason == "STORE_UNAVAILABLE"
    assert isinstance(caught.value.__cause__, grpc.aio.AioRpcError)
    assert 2 < plane.calls["GetAgent"] < 100


async def test_retries_end_after_the_allowed_attempts(server: FleetServer, plane: Plane) -> None:
    plane.failures["GetAgent"].extend([UNAVAILABLE] * 10)
    once = ChannelConfig(retry=RetryPolicy(max_attempts=1))
    async with FleetClient(server.target, channel_config=once) as client:
        with pytest.raises(Unavailable):
            await client.get_agent("a")
    assert plane.calls["GetAgent"] == 1


async def test_calls_wait_for_a_server_that_comes_back(
    server: FleetServer, client: FleetClient, plane: Plane
) -> None:
    plane.put_agent("a")
    await client.get_agent("a")
    await server.stop()
    call = asyncio.create_task(client.get_agent("a"))
    await asyncio.sleep(0)
    await server.start()
    assert (await call).agent_id == "a"


async def test_sixty_four_callers_share_few_batches(client: FleetClient, plane: Plane) -> None:
    async def ask(caller: int) -> None:
        for turn in range(10):
            decision = await client.evaluate_policy(
                f"agent-{caller}", "read", tool=str(turn), context={"n": turn}
            )
            assert decision.decision_id == f"agent-{caller}/{turn}"

    await asyncio.gather(*(ask(caller) for caller in range(64)))
    assert sum(plane.batch_sizes) == 640
    assert len(plane.batch_sizes) <= 20
    assert plane.calls["EvaluatePolicy"] == 0


async def test_a_batch_holds_at_most_256_items(client: FleetClient, plane: Plane) -> None:
    await asyncio.gather(*(client.evaluate_policy("a", "read") for _ in range(600)))
    assert sorted(plane.batch_sizes) == [88, 256, 256]


async def test_an_error_of_one_item_reaches_only_its_caller(client: FleetClient) -> None:
    answers = await asyncio.gather(
        client.evaluate_policy("a", "read"),
        client.evaluate_policy("a", "malformed"),
        client.evaluate_policy("nobody", "read"),
        client.evaluate_policy("b", "read"),
        return_exceptions=True,
    )
    assert isinstance(answers[0], policy_service_pb2.PolicyDecision)
    assert isinstance(answers[1], InvalidArgument)
    assert isinstance(answers[2], NotFound)
    assert answers[2].metadata == {"agent_id": "nobody"}
    assert isinstance(answers[3], policy_service_pb2.PolicyDecision)


async def test_a_failed_batch_fails_every_caller_with_an_error_of_its_own(
    client: FleetClient, plane: Plane
) -> None:
    plane.failures["BatchEvaluatePolicy"].append(Refusal(grpc.StatusCode.INTERNAL, "INTERNAL"))
    answers = await asyncio.gather(
        *(client.evaluate_policy("a", "read") for _ in range(3)), return_exceptions=True
    )
    assert all(isinstance(answer, FleetError) for answer in answers)
    assert len({id(answer) for answer in answers}) == 3
    assert all(isinstance(answer.__cause__, grpc.aio.AioRpcError) for answer in answers)  # type: ignore[union-attr]  # all are errors


async def test_a_cancelled_caller_does_not_disturb_the_others(client: FleetClient) -> None:
    first = asyncio.create_task(client.evaluate_policy("a", "read"))
    second = asyncio.create_task(client.evaluate_policy("b", "read"))
    await asyncio.sleep(0)
    first.cancel()
    assert (await second).decision_id == "b/"
    with pytest.raises(asyncio.CancelledError):
        await first


async def test_levels_of_explanation_do_not_mix_and_claims_are_checked(
    client: FleetClient, plane: Plane
) -> None:
    await asyncio.gather(
        client.evaluate_policy("a", "read"),
        client.evaluate_policy("a", "read", explain=ExplainLevel.FULL),
    )
    assert plane.batch_sizes == [1, 1]
    with pytest.raises(TypeError, match="no counterpart"):
        await client.evaluate_policy("a", "read", context={"x": object()})


async def test_an_explicit_batch_answers_in_order(client: FleetClient) -> None:
    answers = await client.batch_evaluate_policy(
        [
            Evaluation(agent_id="a", action="read", context={"x": 1}),
            Evaluation(agent_id="a", action="malformed"),
        ],
        mode=BatchMode.EXECUTE_ALL,
    )
    assert isinstance(answers[0], policy_service_pb2.PolicyDecision)
    assert isinstance(answers[1], InvalidArgument)


async def test_a_question_has_a_deadline(server: FleetServer, client: FleetClient) -> None:
    await server.stop()
    with pytest.raises(DeadlineExceeded):
        await client.evaluate_policy("a", "read", timeout=0.1)


async def test_a_client_that_is_not_open_says_so(server: FleetServer) -> None:
    client = FleetClient(server.target)
    with pytest.raises(RuntimeError, match="closed"):
        await client.get_agent("a")
    async with client:
        with pytest.raises(RuntimeError, match="open already"):
            await client.__aenter__()
    await client.aclose()


async def test_a_token_travels_with_every_call_but_never_in_plain_text_to_others() -> None:
    config = ChannelConfig(token="secret")  # noqa: S106  # a test
    assert config.call_metadata() == (("authorization", "Bearer secret"),)
    assert "secret" not in repr(config)
    with pytest.raises(ValueError, match="needs TLS"):
        open_channel("plane.example.com:50051", config)
    for target in ("unix:/tmp/x.sock", "localhost:1", "[::1]:1", "dns:///127.0.0.1:1"):
        await open_channel(target, config).close()


def test_a_channel_config_refuses_what_cannot_work() -> None:
    with pytest.raises(ValueError, match="keepalive_time"):
        ChannelConfig(keepalive_time=0)
    with pytest.raises(ValueError, match="backoff"):
        RetryPolicy(initial_backoff=3, max_backoff=1)
    with pytest.raises(ValueError, match="max_attempts"):
        RetryPolicy(max_attempts=0)
    with pytest.raises(ValueError, match="belong together"):
        TlsConfig(certificate_chain=b"x")


def test_the_keepalive_of_the_client_is_slower_than_the_server_tolerates() -> None:
    options = dict(ChannelConfig().options())
    assert options["grpc.keepalive_time_ms"] == 30_000
    assert options["grpc.keepalive_timeout_ms"] == 10_000
    assert options["grpc.keepalive_permit_without_calls"] == 1
    assert int(options["grpc.keepalive_time_ms"]) > 20_000


def test_a_scope_is_one_thing() -> None:
    with pytest.raises(ValueError, match="scope"):
        Scope(agent_id="a", agent_name="b")
