"""Every method of every service, called by everybody: one table says what they are answered."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import grpc
import pytest
from google.protobuf.message import Message
from google.rpc import error_details_pb2  # type: ignore[import-untyped]  # has no stubs
from grpc_status import rpc_status

from fleetplane.v1 import agent_pb2, identity_service_pb2, registry_service_pb2, task_service_pb2
from tests.e2e.access_approval import asked_for_approval
from tests.e2e.access_requests import METHODS, plain_request, speak_of
from tests.e2e.access_table import ROLES, TABLE, Line, Place
from tests.fakes.secure_daemon import SecureDaemon, bearer, secure_daemon

pytestmark = [pytest.mark.xdist_group("access"), pytest.mark.timeout(180)]

HERE, ELSEWHERE = "acme", "umbra"
DEADLINE: Final = 20.0  # seconds; an answer takes milliseconds

OTHER_NAMESPACE: Final = {"NAMESPACE_NOT_FOUND"}
UNKNOWN: Final = {"CREDENTIAL_INVALID"}
NOBODY: Final = {"CREDENTIAL_MISSING"}
NO_ROLE: Final = {"PERMISSION_DENIED"}
NOT_YOURS: Final = {"FOREIGN_AGENT", "PERMISSION_DENIED"}
REFUSALS: Final = OTHER_NAMESPACE | UNKNOWN | NOBODY | NO_ROLE | NOT_YOURS
SETTINGS: Final[dict[str, float]] = {"grace_seconds": 1.0, "wrong_credentials_per_second": 1000.0}
"""The walk shows four wrong credentials to each method, faster than anybody may who guesses."""


@dataclass(frozen=True, kw_only=True)
class Plane:
    """Two tenants, with an agent each in two names, and a credential of every kind."""

    secure: SecureDaemon
    open_channel: Any
    tokens: dict[tuple[str, str], str]
    """(role, namespace) -> secret"""
    agents: dict[tuple[str, str], Any]
    """(name, namespace) -> channel with its certificate"""
    task_id: str
    """A task for `reader`, which nobody works on."""
    approval_ids: list[str] = field(default_factory=list)
    """One, of what `reader` wants to do."""
    agent_ids: dict[tuple[str, str], str] = field(default_factory=dict)

    def reason(self, channel: Any, method: str, request: Message, token: str = "") -> str:
        """Call; return the reason of the refusal, `OK` for an answer."""
        descriptor = METHODS[method]
        path = f"/{descriptor.containing_service.full_name}/{descriptor.name}"
        options: Any = {"timeout": DEADLINE, "metadata": bearer(token) if token else None}
        raw = request.SerializeToString()
        try:
            if descriptor.client_streaming:
                call: Any = channel.stream_stream(path)(iter([raw]), **options)
            elif descriptor.server_streaming:
                call = channel.unary_stream(path)(raw, **options)
            else:
                channel.unary_unary(path)(raw, **options)
                return "OK"
            next(call, None)
            call.cancel()
        except grpc.RpcError as error:
            return reason_of(error)
        return "OK"


def reason_of(error: Any) -> str:
    status = rpc_status.from_call(error)
    info = error_details_pb2.ErrorInfo()
    if status is None or not any(detail.Unpack(info) for detail in status.details):
        return f"{error.code().name}: {error.details()}"
    return str(info.reason)


def request_about(plane: Plane, method: str, name: str, namespace: str = HERE) -> Message:
    """Return a request that speaks for, or about, one agent."""
    request: Any = plain_request(method, namespace)
    speak_of(request, method, name, plane.agent_ids.get((name, namespace), "none"))
    if method == "TaskService/GetTask" and name != "writer":
        request.task_id = plane.task_id
    if hasattr(request, "approval_id") and name != "writer":
        request.approval_id = plane.approval_ids[0]
    return request


@pytest.fixture(scope="module")
def plane() -> Iterator[Plane]:
    with secure_daemon(**SETTINGS) as secure, secure.channel() as channel:
        for namespace in (HERE, ELSEWHERE):
            secure.make_namespace(namespace)
        tokens = {
            (role, where): secure.api_token(role, where)[1]
            for role in ROLES
            for where in (HERE, ELSEWHERE)
        }
        identities = {
            (name, where): secure.enrol(where, name)
            for name in ("writer", "reader")
            for where in (HERE, ELSEWHERE)
        }
        channels = {key: secure.agent_channel(one) for key, one in identities.items()}
        plane = Plane(
            secure=secure,
            open_channel=channel,
            tokens=tokens,
            agents=channels,
            task_id=_submitted(channel, secure),
        )
        for (name, where), agent_channel in channels.items():
            plane.agent_ids[name, where] = _registered(agent_channel, name, where)
        plane.approval_ids.append(
            asked_for_approval(channel, secure, plane.agent_ids["reader", HERE], HERE)
        )
        yield plane
        for agent_channel in channels.values():
            agent_channel.close()


def _submitted(channel: Any, secure: SecureDaemon) -> str:
    spec = task_service_pb2.TaskSpec(kind="read", agent_name="reader")
    request = task_service_pb2.SubmitTaskRequest(namespace=HERE, spec=spec)
    answer = channel.unary_unary("/fleetplane.v1.TaskService/SubmitTask")(
        request.SerializeToString(), timeout=DEADLINE, metadata=secure.as_admin
    )
    return str(task_service_pb2.SubmitTaskResponse.FromString(answer).task.task_id)


def _registered(channel: grpc.Channel, name: str, namespace: str) -> str:
    stub: Any = registry_stub(channel)
    answer = stub.Register(
        registry_service_pb2.RegisterRequest(
            namespace=namespace,
            spec=agent_pb2.AgentSpec(name=name, version="1.0.0"),
            instance=registry_service_pb2.InstanceSpec(instance_id=f"{name}-1"),
        ),
        timeout=DEADLINE,
    )
    return str(answer.agent.agent_id)


def registry_stub(channel: grpc.Channel) -> Any:
    from fleetplane.v1 import registry_service_pb2_grpc  # noqa: PLC0415 - its stubs are untyped

    return registry_service_pb2_grpc.RegistryServiceStub(channel)


def test_the_table_has_a_line_for_every_method() -> None:
    assert sorted(line.method for line in TABLE) == sorted(METHODS)


def each_line() -> Any:
    return pytest.mark.parametrize("line", TABLE, ids=lambda line: line.method)


@each_line()
def test_without_a_credential_nothing_is_answered_but_enrolment(line: Line, plane: Plane) -> None:
    wanted = UNKNOWN if line.method == "IdentityService/Enroll" else NOBODY
    request = plain_request(line.method, HERE)
    assert plane.reason(plane.open_channel, line.method, request) in wanted


@each_line()
def test_a_wrong_credential_is_refused_as_such(line: Line, plane: Plane) -> None:
    request = plain_request(line.method, HERE)
    for wrong in ("nonsense", "at-0." + "A" * 43, "e30.e30.", plane.tokens["admin", HERE][:-1]):
        assert plane.reason(plane.open_channel, line.method, request, wrong) in UNKNOWN


@pytest.mark.parametrize("role", ROLES)
@each_line()
def test_a_role_permits_what_the_table_says(line: Line, role: str, plane: Plane) -> None:
    request = plain_request(line.method, HERE)
    reason = plane.reason(plane.open_channel, line.method, request, plane.tokens[role, HERE])
    if line.method == "IdentityService/Enroll":
        assert reason in UNKNOWN
    elif line.method == "IdentityService/RenewCertificate":
        assert reason in NOBODY
    elif role in line.roles or line.place is Place.ANYBODY:
        assert reason not in REFUSALS
    else:
        assert reason in NO_ROLE


@pytest.mark.parametrize("role", ROLES)
@each_line()
def test_a_role_in_another_namespace_does_not_even_see_this_one(
    line: Line, role: str, plane: Plane
) -> None:
    if line.place is not Place.NAMESPACE:
        pytest.skip("not about one namespace")
    request = plain_request(line.method, HERE)
    token = plane.tokens[role, ELSEWHERE]
    refusal = plane.reason(plane.open_channel, line.method, request, token)
    assert refusal in OTHER_NAMESPACE
    missing = plain_request(line.method, "never-made")
    assert plane.reason(plane.open_channel, line.method, missing, token) == refusal


@each_line()
def test_an_agent_speaks_for_itself_and_for_nobody_else(line: Line, plane: Plane) -> None:
    channel = plane.agents["writer", HERE]
    own = plane.reason(channel, line.method, request_about(plane, line.method, "writer"))
    if line.method == "IdentityService/Enroll":
        assert own in UNKNOWN
        return
    if not line.agent:
        assert own in NO_ROLE
        return
    assert own not in REFUSALS
    if line.place is not Place.NAMESPACE:
        return
    about_another = request_about(plane, line.method, "reader")
    reason = plane.reason(channel, line.method, about_another)
    assert reason in NOT_YOURS, (line.method, reason)


@each_line()
def test_an_agent_of_another_namespace_does_not_see_this_one(line: Line, plane: Plane) -> None:
    if line.place is not Place.NAMESPACE:
        pytest.skip("not about one namespace")
    channel = plane.agents["writer", ELSEWHERE]
    reason = plane.reason(channel, line.method, request_about(plane, line.method, "writer"))
    assert reason in OTHER_NAMESPACE


@each_line()
def test_the_administrator_of_everything_may_do_everything(line: Line, plane: Plane) -> None:
    if line.place is Place.NOBODY:
        pytest.skip("needs a certificate, or a secret of its own")
    if line.method == "NamespaceService/DeleteNamespace":
        pytest.skip("it would be obeyed")
    request = plain_request(line.method, HERE)
    token = plane.secure.admin_token
    assert plane.reason(plane.open_channel, line.method, request, token) not in REFUSALS


def test_identities_are_typed(plane: Plane) -> None:
    """A certificate names one agent; the daemon's own words about it."""
    stub = identity_service_pb2
    for (name, where), channel in plane.agents.items():
        answer = stub.WhoAmIResponse.FromString(
            channel.unary_unary("/fleetplane.v1.IdentityService/WhoAmI")(b"", timeout=DEADLINE)
        )
        assert (answer.namespace, answer.agent_name) == (where, name)
        assert answer.kind == stub.CALLER_KIND_AGENT
        assert answer.authentication


def test_a_header_proves_nothing(plane: Plane) -> None:
    request = plain_request("RegistryService/ListAgents", HERE).SerializeToString()
    for header in ("x-forwarded-client-cert", "x-forwarded-user", "x-spiffe-id", "user-agent"):
        metadata = ((header, "spiffe://fleetplane.local/ns/acme/agent/writer"),)
        with pytest.raises(grpc.RpcError) as refused:
            plane.open_channel.unary_unary("/fleetplane.v1.RegistryService/ListAgents")(
                request, timeout=DEADLINE, metadata=metadata
            )
        assert reason_of(refused.value) in NOBODY
