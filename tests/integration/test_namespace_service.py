"""NamespaceService through a real channel, over a replica in memory."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2  # type: ignore[import-untyped]  # has no stubs
from grpc_status import rpc_status as typed_rpc_status

from controlplane.api.concerns import standard_concerns
from controlplane.api.drain import Drain
from controlplane.api.pagination import PageTokens
from controlplane.api.pipeline import Pipeline
from controlplane.api.server import ServerOptions, bind, create_server
from controlplane.api.v1.namespace_service import NamespaceService
from controlplane.services.namespaces.removal import SETTLE_SECONDS
from fleetplane.v1 import namespace_service_pb2 as pb
from fleetplane.v1 import namespace_service_pb2_grpc as pb_grpc
from tests.fakes.eventually import SOON_SECONDS, eventually
from tests.fakes.namespace_plane import NamespacePlane

rpc_status: Any = typed_rpc_status  # the published stubs know only synchronous errors


class Served(NamespacePlane):
    """A plane that does not authenticate, with a stub of its service."""

    def __init__(self) -> None:
        super().__init__(authenticates=False)
        self.stub: Any = None

    def add_to(self, server: grpc.aio.Server) -> None:
        service = NamespaceService(self.namespaces, self.usage, PageTokens(b"s" * 16))
        pb_grpc.add_NamespaceServiceServicer_to_server(service, server)


@pytest.fixture
async def plane() -> AsyncIterator[Served]:
    plane, options = Served(), ServerOptions(address="127.0.0.1:0")
    server, _ = create_server(options, Pipeline(standard_concerns(Drain())), plane.add_to)
    address = bind(server, options)
    await server.start()
    try:
        async with grpc.aio.insecure_channel(address) as channel:
            plane.stub = pb_grpc.NamespaceServiceStub(channel)
            yield plane
    finally:
        await server.stop(0)


async def refusal_of(call: Any) -> tuple[grpc.StatusCode, str, dict[str, str]]:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call
    info = error_details_pb2.ErrorInfo()
    for packed in rpc_status.from_call(refused.value).details:
        if packed.Unpack(info):
            break
    return refused.value.code(), str(info.reason), dict(info.metadata)


async def test_a_namespace_is_made_read_changed_and_removed(plane: Served):
    quotas = pb.Quotas(agents=3, config_bytes=2**40)
    request = pb.CreateNamespaceRequest(
        name="team-a", description="A", labels={"owner": "ada"}, quotas=quotas, request_id="r1"
    )
    made = (await plane.stub.CreateNamespace(request)).namespace
    assert (made.name, made.created_by, made.quotas) == ("team-a", "local-admin", quotas)
    assert made.state == pb.NAMESPACE_STATE_ACTIVE
    assert made.created_at.seconds == made.updated_at.seconds > 0
    assert (await plane.stub.CreateNamespace(request)).namespace == made
    read = await plane.stub.GetNamespace(pb.GetNamespaceRequest(namespace="team-a"))
    assert read.namespace == made
    changed = await plane.stub.UpdateNamespace(
        pb.UpdateNamespaceRequest(
            namespace="team-a",
            description="",
            labels={"owner": "", "tier": "1"},
            expected_revision=made.revision,
        )
    )
    assert changed.namespace.description == ""
    assert dict(changed.namespace.labels) == {"tier": "1"}
    assert changed.namespace.quotas == quotas
    deletion = pb.DeleteNamespaceRequest(namespace="team-a", reason="done")
    removal = asyncio.ensure_future(plane.stub.DeleteNamespace(deletion))
    await eventually("it waits", lambda: plane.clock.sleepers == 1)
    marked = await plane.stub.GetNamespace(pb.GetNamespaceRequest(namespace="team-a"))
    assert marked.namespace.state == pb.NAMESPACE_STATE_TERMINATING
    await plane.clock.advance(SETTLE_SECONDS)
    async with asyncio.timeout(SOON_SECONDS):
        assert (await removal).removed
    assert not (await plane.stub.DeleteNamespace(deletion)).removed


async def test_every_refusal_is_typed(plane: Served):
    invalid, missing = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND
    await plane.create("team-a")
    await plane.register("team-b", "reader")
    create, get = plane.stub.CreateNamespace, plane.stub.GetNamespace
    update, delete = plane.stub.UpdateNamespace, plane.stub.DeleteNamespace
    forged = pb.ListNamespacesRequest(page_token="forged")  # noqa: S106 - not a password
    cases = [
        (create(pb.CreateNamespaceRequest(name="@a")), invalid, "INVALID_FIELD"),
        (create(pb.CreateNamespaceRequest()), invalid, "INVALID_FIELD"),
        (
            create(pb.CreateNamespaceRequest(name="team-a")),
            grpc.StatusCode.ALREADY_EXISTS,
            "NAMESPACE_EXISTS",
        ),
        (get(pb.GetNamespaceRequest(namespace="team-c")), missing, "NAMESPACE_NOT_FOUND"),
        (get(pb.GetNamespaceRequest(namespace="@system")), invalid, "INVALID_FIELD"),
        (
            update(pb.UpdateNamespaceRequest(namespace="team-c", description="C")),
            missing,
            "NAMESPACE_NOT_FOUND",
        ),
        (
            update(pb.UpdateNamespaceRequest(namespace="team-a", expected_revision=9)),
            grpc.StatusCode.ABORTED,
            "REVISION_CONFLICT",
        ),
        (delete(pb.DeleteNamespaceRequest()), invalid, "INVALID_FIELD"),
        (
            delete(pb.DeleteNamespaceRequest(namespace="team-b")),
            grpc.StatusCode.FAILED_PRECONDITION,
            "NAMESPACE_NOT_EMPTY",
        ),
        (
            plane.stub.ListNamespaces(forged),
            invalid,
            "INVALID_CURSOR",
        ),
        (
            plane.stub.GetUsage(pb.GetUsageRequest(namespace="team-c")),
            missing,
            "NAMESPACE_NOT_FOUND",
        ),
    ]
    for call, code, reason in cases:
        assert (await refusal_of(call))[:2] == (code, reason)


async def test_a_list_comes_in_pages_and_has_what_exists_by_its_use(plane: Served):
    await plane.create("team-b")
    await plane.register("team-a", "reader")
    first = await plane.stub.ListNamespaces(pb.ListNamespacesRequest(page_size=2))
    assert [one.name for one in first.namespaces] == ["default", "team-a"]
    assert not first.namespaces[1].HasField("created_at")
    last = await plane.stub.ListNamespaces(
        pb.ListNamespacesRequest(page_size=2, page_token=first.next_page_token)
    )
    assert [one.name for one in last.namespaces] == ["team-b"]
    assert not last.next_page_token


async def test_usage_is_told_beside_the_bounds(plane: Served):
    await plane.create("team-a")
    await plane.bound("team-a", agents=7)
    await plane.register("team-a", "reader", instance_id="box")
    usage = await plane.stub.GetUsage(pb.GetUsageRequest(namespace="team-a"))
    assert usage.used == pb.Quotas(agents=1, instances=1)
    assert usage.quotas == pb.Quotas(agents=7)
    assert usage.position.revision == 1
