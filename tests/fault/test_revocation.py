"""What is taken away is gone within five seconds, on every replica, for open streams too."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any, Final

import grpc
import pytest
from google.rpc import error_details_pb2  # type: ignore[import-untyped]  # has no stubs
from grpc_status import rpc_status

from fleetplane.v1 import (
    access_service_pb2,
    access_service_pb2_grpc,
    agent_pb2,
    identity_service_pb2,
    identity_service_pb2_grpc,
    registry_service_pb2,
    registry_service_pb2_grpc,
)
from tests.fakes.eventually import eventually
from tests.fakes.secure_daemon import Identity, SecureDaemon, bearer, secure_daemon
from tests.fakes.valkey import valkey_server

pytestmark = [pytest.mark.fault, pytest.mark.xdist_group("revocation"), pytest.mark.timeout(180)]

HERE: Final = "acme"
PROMISED_SECONDS: Final = 5.0
STREAMS_PER_KIND_AND_DAEMON: Final = 15
CALL_SECONDS: Final = 20.0

Open = Callable[[], Any]


@dataclass
class Stream:
    """An open stream: how to open another one like it, and how it ended."""

    open: Open
    call: Any
    ended_at: float = 0.0
    reason: str = ""

    async def watch(self) -> None:
        try:
            while await self.call.read() is not grpc.aio.EOF:
                pass
            self.reason = (await self.call.code()).name
        except grpc.RpcError as error:
            self.reason = reason_of(error)
        self.ended_at = time.monotonic()


@dataclass
class Kind:
    """The streams of one credential, over both daemons."""

    streams: list[Stream] = field(default_factory=list)

    def ended(self) -> int:
        return sum(bool(stream.ended_at) for stream in self.streams)


def reason_of(error: Any) -> str:
    status = rpc_status.from_call(error)
    info = error_details_pb2.ErrorInfo()
    if status is None or not any(detail.Unpack(info) for detail in status.details):
        return f"{error.code().name}: {error.details()}"
    return str(info.reason)


class Crowd:
    """Everybody's streams."""

    def __init__(self, group: asyncio.TaskGroup, exits: contextlib.AsyncExitStack) -> None:
        self._group = group
        self._exits = exits
        self.tasks: list[asyncio.Task[None]] = []

    async def watchers(self, daemon: SecureDaemon, kind: Kind, token: str) -> None:
        """Open watches with a token."""
        credentials = grpc.ssl_channel_credentials(daemon.roots)
        channel = await self._exits.enter_async_context(
            grpc.aio.secure_channel(daemon.address, credentials)
        )
        stub: Any = registry_service_pb2_grpc.RegistryServiceStub(channel)

        def watch() -> Any:
            request = registry_service_pb2.WatchAgentsRequest(namespace=HERE)
            return stub.WatchAgents(request, metadata=bearer(token))

        await self._open(kind, watch)

    async def beating(self, daemon: SecureDaemon, kind: Kind, identity: Identity) -> None:
        """Open heartbeat streams with a certificate."""
        channel = await self._exits.enter_async_context(
            grpc.aio.secure_channel(daemon.mtls_address, identity.credentials)
        )
        stub: Any = registry_service_pb2_grpc.RegistryServiceStub(channel)

        def beat() -> Any:
            call = stub.Heartbeat()
            request = registry_service_pb2.HeartbeatRequest(namespace=HERE, batch=1)
            self.tasks.append(self._group.create_task(_said(call, request)))
            return call

        await self._open(kind, beat)

    async def _open(self, kind: Kind, make: Open) -> None:
        for _ in range(STREAMS_PER_KIND_AND_DAEMON):
            stream = Stream(make, make())
            await stream.call.read()
            kind.streams.append(stream)
            self.tasks.append(self._group.create_task(stream.watch()))


async def _said(call: Any, request: Any) -> None:
    with contextlib.suppress(grpc.RpcError, asyncio.InvalidStateError):
        await call.write(request)


@contextlib.asynccontextmanager
async def two_secure_daemons() -> AsyncIterator[tuple[SecureDaemon, SecureDaemon]]:
    async with valkey_server() as store:
        with (
            secure_daemon(store=store.url, grace_seconds=1.0) as first,
            secure_daemon(store=store.url, grace_seconds=1.0, ca_dir=str(first.ca_dir)) as second,
        ):
            # Both have the authority of the first, whose directory is the shared one.
            second.shares_authority_with(first)
            yield first, second


async def test_what_is_revoked_ends_everywhere_within_five_seconds_and_nothing_else_does() -> None:
    async with two_secure_daemons() as (first, second), contextlib.AsyncExitStack() as exits:
        first.make_namespace(HERE)
        token_id, revoked = first.api_token("viewer", HERE)
        unbound_id, unbound = first.api_token("operator", HERE)
        _, untouched = first.api_token("viewer", HERE)
        banned, good = first.enrol(HERE, "bad"), first.enrol(HERE, "good")
        kinds = {name: Kind() for name in ("revoked", "unbound", "banned", "token", "agent")}
        async with asyncio.TaskGroup() as group:
            crowd = Crowd(group, exits)
            for daemon in (first, second):
                await crowd.watchers(daemon, kinds["revoked"], revoked)
                await crowd.watchers(daemon, kinds["unbound"], unbound)
                await crowd.watchers(daemon, kinds["token"], untouched)
                await crowd.beating(daemon, kinds["banned"], banned)
                await crowd.beating(daemon, kinds["agent"], good)
            assert sum(len(kind.streams) for kind in kinds.values()) >= 100
            since = time.monotonic()
            await _take_away(first, token_id, unbound_id)
            victims = [kinds[name] for name in ("revoked", "unbound", "banned")]
            await eventually(
                "the streams end", lambda: all(k.ended() == len(k.streams) for k in victims)
            )
            _check(kinds["revoked"], "CREDENTIAL_REVOKED", since)
            _check(kinds["unbound"], "NAMESPACE_NOT_FOUND", since)
            _check(kinds["banned"], "AGENT_BANNED", since)
            for kind in victims:
                await _refused_again(kind)
            assert kinds["token"].ended() == 0
            assert kinds["agent"].ended() == 0
            for task in crowd.tasks:
                task.cancel()


async def _take_away(daemon: SecureDaemon, token_id: str, unbound_id: str) -> None:
    credentials = grpc.ssl_channel_credentials(daemon.roots)
    async with grpc.aio.secure_channel(daemon.address, credentials) as channel:
        identity: Any = identity_service_pb2_grpc.IdentityServiceStub(channel)
        access: Any = access_service_pb2_grpc.AccessServiceStub(channel)
        options: Any = {"metadata": daemon.as_admin, "timeout": CALL_SECONDS}
        bindings = await access.ListRoleBindings(
            access_service_pb2.ListRoleBindingsRequest(
                namespace=HERE, subject=f"token:{unbound_id}"
            ),
            **options,
        )
        (binding,) = bindings.bindings
        await asyncio.gather(
            identity.RevokeApiToken(
                identity_service_pb2.RevokeApiTokenRequest(namespace=HERE, token_id=token_id),
                **options,
            ),
            access.DeleteRoleBinding(
                access_service_pb2.DeleteRoleBindingRequest(
                    namespace=HERE, binding_id=binding.binding_id
                ),
                **options,
            ),
            identity.BanAgent(
                identity_service_pb2.BanAgentRequest(namespace=HERE, agent_name="bad"), **options
            ),
        )


def _check(kind: Kind, reason: str, since: float) -> None:
    assert {stream.reason for stream in kind.streams} == {reason}
    assert max(stream.ended_at for stream in kind.streams) - since <= PROMISED_SECONDS


async def _refused_again(kind: Kind) -> None:
    for stream in (kind.streams[0], kind.streams[-1]):
        again = Stream(stream.open, stream.open())
        async with asyncio.timeout(CALL_SECONDS):
            await again.watch()
        assert again.reason == stream.reason


async def test_a_certificate_cannot_register_what_its_agent_is_not() -> None:
    """The gate knows the agent by its certificate, on every replica."""
    async with two_secure_daemons() as (first, second):
        first.make_namespace(HERE)
        identity = first.enrol(HERE, "writer")
        for daemon in (first, second):
            async with grpc.aio.secure_channel(
                daemon.mtls_address, identity.credentials
            ) as channel:
                stub: Any = registry_service_pb2_grpc.RegistryServiceStub(channel)
                for name, wanted in (("writer", "OK"), ("reader", "FOREIGN_AGENT")):
                    spec = agent_pb2.AgentSpec(name=name, version="1.0.0")
                    request = registry_service_pb2.RegisterRequest(namespace=HERE, spec=spec)
                    try:
                        await stub.Register(request, timeout=CALL_SECONDS)
                        answer = "OK"
                    except grpc.RpcError as error:
                        answer = reason_of(error)
                    assert answer == wanted
