"""Planned ends are clean, insisted ends are quick, and neither leaves anything behind."""

import asyncio
import time
from typing import Any

import grpc
import pytest
from google.protobuf.struct_pb2 import Struct

from fleetplane import AgentSpec, FleetClient, Scope
from fleetplane.v1 import (
    agent_pb2,
    config_service_pb2,
    config_service_pb2_grpc,
    registry_service_pb2,
    registry_service_pb2_grpc,
    watch_pb2,
)
from tests.fakes.daemon import Daemon, is_running, running_daemon
from tests.fakes.eventually import eventually
from tests.fakes.valkey import valkey_server
from tests.fault.load import Writers

pytestmark = [pytest.mark.fault, pytest.mark.xdist_group("shutdown"), pytest.mark.timeout(120)]

DRAINING = watch_pb2.GoAway.REASON_DRAINING
QUICKLY = 8.0  # seconds: a drain takes a fraction of one, and a busy machine some more


async def test_streams_end_with_a_word_and_ok_when_the_daemon_is_asked_to_stop() -> None:
    with running_daemon(grace_seconds=30.0) as daemon:
        async with (
            FleetClient(daemon.address) as client,
            grpc.aio.insecure_channel(daemon.address) as channel,
        ):
            streams = [await open_stream(channel) for open_stream in _STREAMS for _ in range(10)]
            async with Writers([client]).running() as writers:
                await writers.more(50)
                started = time.monotonic()
                daemon.terminate()
                async with asyncio.timeout(QUICKLY):
                    ends = await asyncio.gather(*map(_last_word, streams))
                assert await daemon.await_end() == 0
                took = time.monotonic() - started
            for message, code in ends:
                assert message.go_away.reason == DRAINING
                assert message.go_away.HasField("retry_after")
                assert code is grpc.StatusCode.OK
    assert took < QUICKLY, "the grace is a bound, not a wait"


async def _heartbeat(channel: grpc.aio.Channel) -> Any:
    stub: Any = registry_service_pb2_grpc.RegistryServiceStub(channel)
    call = stub.Heartbeat()
    await call.write(registry_service_pb2.HeartbeatRequest(batch=1))
    await call.read()
    return call


async def _watch_agents(channel: grpc.aio.Channel) -> Any:
    stub: Any = registry_service_pb2_grpc.RegistryServiceStub(channel)
    call = stub.WatchAgents(registry_service_pb2.WatchAgentsRequest())
    await call.read()
    return call


async def _watch_config(channel: grpc.aio.Channel) -> Any:
    stub: Any = config_service_pb2_grpc.ConfigServiceStub(channel)
    scope = config_service_pb2.WatchedScope()
    call = stub.WatchConfig(config_service_pb2.WatchConfigRequest(scopes=[scope]))
    await call.read()
    return call


_STREAMS = (_heartbeat, _watch_agents, _watch_config)


async def _last_word(call: Any) -> tuple[Any, grpc.StatusCode]:
    """Read a stream to its end; return its last message and its status."""
    last = None
    while (message := await call.read()) is not grpc.aio.EOF:
        last = message
    return last, await call.code()


async def test_calls_in_flight_are_answered_before_the_daemon_ends() -> None:
    """The store stalls for a moment while it is asked to stop: the calls that wait are served."""
    async with valkey_server() as store:
        with running_daemon(store=store.url, grace_seconds=30.0) as daemon:
            async with grpc.aio.insecure_channel(daemon.address) as channel:
                stub: Any = config_service_pb2_grpc.ConfigServiceStub(channel)
                registry: Any = registry_service_pb2_grpc.RegistryServiceStub(channel)
                stream = await _heartbeat(channel)
                store.pause()
                try:
                    calls = [_write(stub, i) for i in range(8)]
                    calls += [_register(registry, i) for i in range(8)]
                    await _all_sent(calls)
                    daemon.terminate()
                    # The daemon waits 2 s for its store: poll for nothing meanwhile.
                    last_word, _ = await _last_word(stream)
                    assert last_word.go_away.reason == DRAINING
                    assert [await call.code() for call in calls if call.done()] == []
                finally:
                    store.resume()
                await _refuses_new_calls(daemon)
                async with asyncio.timeout(QUICKLY):
                    answers = await asyncio.gather(*calls)
                assert len(answers) == 16
                assert await daemon.await_end() == 0
            await daemon.astart()
            async with FleetClient(daemon.address) as client:
                agents = [agent.agent_id async for agent in client.list_agents()]
                assert len(agents) == 8
                for i in range(8):
                    config = await client.get_config(Scope(agent_name=f"layer-{i}"))
                    assert config.max_tokens == 100 + i


def _write(stub: Any, i: int) -> Any:
    values = Struct()
    values.update({"max_tokens": 100 + i})
    scope = config_service_pb2.ConfigScope(agent_name=f"layer-{i}")
    return stub.UpdateConfig(config_service_pb2.UpdateConfigRequest(scope=scope, set=values))


def _register(stub: Any, i: int) -> Any:
    spec = agent_pb2.AgentSpec(name=f"agent-{i}", version="1.0.0")
    return stub.Register(registry_service_pb2.RegisterRequest(spec=spec))


async def _all_sent(calls: list[Any]) -> None:
    """Wait until the daemon has taken the calls: it sends nothing before their answer.

    A loopback round trip takes 0.2 ms; what matters is that they precede the signal.
    """
    await asyncio.sleep(0.5)
    assert not any(call.done() for call in calls)


async def _refuses_new_calls(daemon: Daemon) -> None:
    async def refused() -> bool:
        async with grpc.aio.insecure_channel(daemon.address) as channel:
            stub: Any = config_service_pb2_grpc.ConfigServiceStub(channel)
            call = stub.GetConfig(config_service_pb2.GetConfigRequest(), timeout=2.0)
            # CANCELLED is what grpc's core says to a call that arrives in that very moment.
            return await call.code() in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}

    await eventually("new calls are refused", refused)


async def test_what_was_acknowledged_before_a_stop_under_load_is_there_afterwards() -> None:
    with running_daemon(grace_seconds=5.0) as daemon:
        async with (
            FleetClient(daemon.address) as client,
            Writers([client]).running() as writers,
        ):
            for _ in range(2):
                await writers.more(60)
                daemon.terminate()
                assert await daemon.await_end() == 0
                await daemon.astart()
            await writers.more(60)
            await writers.finish()
            await writers.verify(client)


async def test_a_second_signal_ends_the_daemon_at_once() -> None:
    """Somebody insists while a call is in flight and the grace is long."""
    async with valkey_server() as store:
        with running_daemon(store=store.url, grace_seconds=600.0) as daemon:
            async with grpc.aio.insecure_channel(daemon.address) as channel:
                stub: Any = config_service_pb2_grpc.ConfigServiceStub(channel)
                await stub.GetConfig(config_service_pb2.GetConfigRequest())
                store.pause()
                try:
                    call = _write(stub, 1)
                    await _all_sent([call])
                    daemon.terminate()
                    await _refuses_new_calls(daemon)
                    assert not call.done()
                    started = time.monotonic()
                    daemon.terminate()
                    assert await daemon.await_end() == 128 + 15
                    assert time.monotonic() - started < QUICKLY
                finally:
                    store.resume()
                with pytest.raises(grpc.aio.AioRpcError) as cut:
                    await call
                assert cut.value.code() is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize("how", ["asked", "insisted", "killed"])
async def test_the_embedded_store_ends_with_the_daemon_and_keeps_the_data(how: str) -> None:
    with running_daemon(grace_seconds=2.0) as daemon:
        async with FleetClient(daemon.address) as client:
            registered = await client.register(AgentSpec(name="kept", version="1.0.0"))
        store = daemon.store_pid()
        assert store is not None
        assert is_running(store)
        if how == "killed":
            daemon.kill()
        else:
            daemon.terminate()
            if how == "insisted":
                daemon.terminate()
            code = await daemon.await_end()
            assert code in ({0} if how == "asked" else {0, 128 + 15})
        await eventually("the store has ended", lambda: not is_running(store))
        left = daemon.sockets()
        await daemon.astart()
        async with FleetClient(daemon.address) as client:
            again = await client.get_agent(registered.agent.agent_id)
        assert again.revision == registered.agent.revision
    assert how != "asked" or not left, "a clean stop removes its socket"
