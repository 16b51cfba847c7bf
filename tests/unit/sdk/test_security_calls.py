"""The calls about identity, rights and namespaces say on the wire what they were told."""

from collections import defaultdict, deque
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import grpc
import pytest
from google.protobuf import message_factory
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message

from fleetplane import CallerKind, FleetClient, NamespaceState
from fleetplane.v1 import access_service_pb2, identity_service_pb2, namespace_service_pb2

SERVICES = {
    str(service.full_name): service
    for file in (identity_service_pb2, access_service_pb2, namespace_service_pb2)
    for service in file.DESCRIPTOR.services_by_name.values()
}


class Recorder(grpc.GenericRpcHandler):
    """Serves every method of the three services: notes the request, answers as it was told to."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, Any]] = []
        self.answers: defaultdict[str, deque[Message]] = defaultdict(deque)

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        name, _, method = details.method.removeprefix("/").partition("/")
        descriptor = SERVICES[name].methods_by_name[method]
        answer_class = message_factory.GetMessageClass(descriptor.output_type)

        async def answer(request: Message, _: Any) -> Message:
            self.requests.append((method, request))
            waiting = self.answers[method]
            return waiting.popleft() if waiting else answer_class()

        return grpc.unary_unary_rpc_method_handler(
            answer,
            request_deserializer=message_factory.GetMessageClass(descriptor.input_type).FromString,
            response_serializer=lambda message: message.SerializeToString(),
        )

    def last(self, method: str) -> Any:
        name, request = self.requests[-1]
        assert name == method
        return request


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
async def it(recorder: Recorder) -> AsyncIterator[FleetClient]:
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((recorder,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with FleetClient(f"127.0.0.1:{port}", namespace="research") as opened:
        yield opened
    await server.stop(None)


async def test_there_is_a_method_for_every_rpc() -> None:
    for service in SERVICES.values():
        for method in service.methods_by_name:
            name = "".join(
                f"_{letter.lower()}" if letter.isupper() else letter for letter in method
            )
            expected = {"who_am_i"} if method == "WhoAmI" else {name.removeprefix("_")}
            for one in expected:
                assert hasattr(FleetClient, one), f"{service.full_name}.{method}"
                paged = method.startswith("List") and method != "ListRoles"
                assert hasattr(FleetClient, f"{one}_page") is paged


async def test_join_tokens(it: FleetClient, recorder: Recorder) -> None:
    made = identity_service_pb2.CreateJoinTokenResponse(secret="jt-1.x")  # noqa: S106  # no secret
    recorder.answers["CreateJoinToken"].append(made)
    token = await it.create_join_token(
        "worker-*", max_uses=0, ttl=timedelta(minutes=5), description="for workers"
    )
    assert token.secret == "jt-1.x"  # noqa: S105  # no secret
    request = recorder.last("CreateJoinToken")
    assert (request.namespace, request.agent_name_pattern) == ("research", "worker-*")
    assert request.HasField("max_uses")
    assert (request.max_uses, request.ttl.seconds, request.description) == (0, 300, "for workers")
    assert request.request_id
    await it.create_join_token(namespace="other", request_id="r")
    request = recorder.last("CreateJoinToken")
    assert (request.namespace, request.agent_name_pattern) == ("other", "*")
    assert not request.HasField("max_uses")
    assert not request.HasField("ttl")
    assert request.request_id == "r"
    await it.revoke_join_token("jt-1", reason="leaked")
    request = recorder.last("RevokeJoinToken")
    assert (request.namespace, request.token_id, request.reason) == ("research", "jt-1", "leaked")


async def test_api_tokens(it: FleetClient, recorder: Recorder) -> None:
    await it.create_api_token("ci", "operator", ttl=0, namespace="*")
    request = recorder.last("CreateApiToken")
    assert (request.namespace, request.name, request.role) == ("*", "ci", "operator")
    assert request.HasField("ttl")  # zero is for ever, nothing is 90 days
    assert request.ttl == Duration()
    await it.create_api_token("ci", "operator")
    assert not recorder.last("CreateApiToken").HasField("ttl")
    await it.revoke_api_token("at-1", namespace="*", reason="old")
    request = recorder.last("RevokeApiToken")
    assert (request.namespace, request.token_id, request.reason) == ("*", "at-1", "old")


async def test_lists_go_on_page_by_page(it: FleetClient, recorder: Recorder) -> None:
    identity, access = identity_service_pb2, access_service_pb2
    pages: dict[str, tuple[Any, list[Message]]] = {
        "ListJoinTokens": (
            it.list_join_tokens(page_size=1),
            [
                identity.ListJoinTokensResponse(
                    tokens=[identity.JoinToken(token_id="a")],  # noqa: S106  # no secret
                    next_page_token="n",  # noqa: S106  # no secret
                ),
                identity.ListJoinTokensResponse(tokens=[identity.JoinToken(token_id="b")]),  # noqa: S106  # no secret
            ],
        ),
        "ListApiTokens": (
            it.list_api_tokens(page_size=1),
            [
                identity.ListApiTokensResponse(
                    tokens=[identity.ApiToken(token_id="a")],  # noqa: S106  # no secret
                    next_page_token="n",  # noqa: S106  # no secret
                ),
                identity.ListApiTokensResponse(tokens=[identity.ApiToken(token_id="b")]),  # noqa: S106  # no secret
            ],
        ),
        "ListBans": (
            it.list_bans(page_size=1),
            [
                identity.ListBansResponse(bans=[identity.Ban()], next_page_token="n"),  # noqa: S106  # no secret
                identity.ListBansResponse(bans=[identity.Ban()]),
            ],
        ),
        "ListRoleBindings": (
            it.list_role_bindings(page_size=1),
            [
                access.ListRoleBindingsResponse(
                    bindings=[access.RoleBinding()],
                    next_page_token="n",  # noqa: S106  # no secret
                ),
                access.ListRoleBindingsResponse(bindings=[access.RoleBinding()]),
            ],
        ),
        "ListNamespaces": (
            it.list_namespaces(page_size=1),
            [
                namespace_service_pb2.ListNamespacesResponse(
                    namespaces=[namespace_service_pb2.Namespace(name="a")],
                    next_page_token="n",  # noqa: S106  # no secret
                ),
                namespace_service_pb2.ListNamespacesResponse(
                    namespaces=[namespace_service_pb2.Namespace(name="b")]
                ),
            ],
        ),
    }
    for method, (listing, answers) in pages.items():
        recorder.answers[method].extend(answers)
        assert len([one async for one in listing]) == 2
        request = recorder.last(method)
        assert (request.page_size, request.page_token) == (1, "n")
        assert getattr(request, "namespace", "research") == "research"


async def test_bans_and_who_am_i(it: FleetClient, recorder: Recorder) -> None:
    await it.ban_agent("worker", reason="it misbehaves")
    request = recorder.last("BanAgent")
    assert (request.namespace, request.agent_name) == ("research", "worker")
    assert request.reason == "it misbehaves"
    recorder.answers["UnbanAgent"].append(identity_service_pb2.UnbanAgentResponse(removed=True))
    assert await it.unban_agent("worker") is True
    recorder.answers["WhoAmI"].append(
        identity_service_pb2.WhoAmIResponse(kind=identity_service_pb2.CALLER_KIND_AGENT)
    )
    assert CallerKind((await it.who_am_i()).kind) is CallerKind.AGENT


async def test_certificates(it: FleetClient, recorder: Recorder) -> None:
    issued = identity_service_pb2.IssuedCertificate(spiffe_id="spiffe://x/y")
    recorder.answers["RenewCertificate"].append(
        identity_service_pb2.RenewCertificateResponse(issued=issued)
    )
    assert await it.renew_certificate("csr") == issued
    await it.enroll("jt-1.x", "worker", "csr")
    request = recorder.last("Enroll")
    assert (request.join_token, request.agent_name, request.csr) == ("jt-1.x", "worker", "csr")


async def test_bindings_and_checks(it: FleetClient, recorder: Recorder) -> None:
    recorder.answers["ListRoles"].append(
        access_service_pb2.ListRolesResponse(roles=[access_service_pb2.Role(name="viewer")])
    )
    assert [role.name for role in await it.list_roles()] == ["viewer"]
    await it.create_role_binding("group:ops", "operator", namespace="*", ttl=60)
    request = recorder.last("CreateRoleBinding")
    assert (request.subject, request.role, request.namespace) == ("group:ops", "operator", "*")
    assert request.ttl.seconds == 60
    assert request.request_id
    await it.delete_role_binding("rb-1", reason="moved")
    assert recorder.last("DeleteRoleBinding").binding_id == "rb-1"
    await it.check_access("operate", subjects="user:ann")
    request = recorder.last("CheckAccess")
    assert (request.namespace, list(request.subjects)) == ("research", ["user:ann"])


async def test_namespaces(it: FleetClient, recorder: Recorder) -> None:
    await it.create_namespace("sales", labels={"team": "x"}, quotas={"agents": 10})
    request = recorder.last("CreateNamespace")
    assert (request.name, dict(request.labels), request.quotas.agents) == (
        "sales",
        {"team": "x"},
        10,
    )
    await it.update_namespace(quotas={"policies": 3}, expected_revision=7)
    request = recorder.last("UpdateNamespace")
    assert (request.namespace, request.quotas.policies) == ("research", 3)
    assert not request.HasField("description")
    assert request.expected_revision == 7
    await it.update_namespace("sales", description="")
    request = recorder.last("UpdateNamespace")
    assert request.HasField("description")
    assert not request.HasField("quotas")
    recorder.answers["GetNamespace"].append(
        namespace_service_pb2.GetNamespaceResponse(
            namespace=namespace_service_pb2.Namespace(state=NamespaceState.ACTIVE.value)  # type: ignore[arg-type]  # a number
        )
    )
    assert NamespaceState((await it.get_namespace()).state) is NamespaceState.ACTIVE
    assert recorder.last("GetNamespace").namespace == "research"
    assert await it.delete_namespace("sales", expected_revision=3) is False
    await it.get_usage()
    assert recorder.last("GetUsage").namespace == "research"
