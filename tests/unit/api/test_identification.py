"""Who calls: by bearer token, by client certificate, by neither."""

import datetime as dt
import ipaddress
from typing import Any

import grpc
import pytest
import structlog
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from controlplane.api.concerns import standard_concerns
from controlplane.api.context import Call, current_caller
from controlplane.api.drain import Drain
from controlplane.api.gate import Gate
from controlplane.api.identification import LOGGED_PER_SECOND, Identification, Refusals
from controlplane.api.methods import METHODS
from controlplane.api.pipeline import Pipeline
from controlplane.api.streams import StreamKeeper
from controlplane.domain.access.permissions import Permission
from controlplane.domain.access.refusals import (
    CredentialExpired,
    CredentialInvalid,
    CredentialMissing,
    PermissionDenied,
)
from controlplane.domain.identity import ANONYMOUS, LOCAL_ADMIN
from controlplane.domain.token_bucket import BURST_SECONDS
from fleetplane.v1 import registry_service_pb2 as pb
from fleetplane.v1 import registry_service_pb2_grpc as pb_grpc
from tests.fakes.callers import Judge, KnownCallers, agent, showing, user
from tests.fakes.echo_service import EchoService, edge
from tests.fakes.fleet import Fleet

pytestmark = pytest.mark.timeout(20)

REGISTRY = "/fleetplane.v1.RegistryService/"
ANN, MINE = user("ann"), agent("mine")
PEM = b"-----BEGIN CERTIFICATE-----"


class Shown:
    """grpc's side of a call that shows something."""

    def __init__(self, *headers: str, pem: bytes | None = None) -> None:
        self._metadata = tuple(("authorization", header) for header in headers)
        self._pem = pem
        self.looked = 0

    def invocation_metadata(self) -> Any:
        return (("user-agent", "test"), *self._metadata)

    def auth_context(self) -> Any:
        self.looked += 1
        return {} if self._pem is None else {"x509_pem_cert": [self._pem]}

    def peer(self) -> str:
        return "ipv4:127.0.0.1:1"


def call_of(context: Any, name: str = "GetAgent") -> Call:
    return Call(METHODS[REGISTRY + name], context)


@pytest.fixture
def known():
    callers = KnownCallers(ann=ANN)
    callers.by_pem[PEM] = MINE
    return callers


@pytest.fixture
def identify(known):
    return Identification(known, reads_certificates=True)


def test_without_authentication_everybody_is_the_local_admin():
    identify = Identification(None, reads_certificates=True)
    shown = Shown("Bearer whatever", pem=PEM)
    assert identify(call_of(shown)) is LOCAL_ADMIN
    assert (identify.authenticates, shown.looked) == (False, 0)


@pytest.mark.parametrize("header", ["Bearer ann", "bearer ann", "BEARER  ann", "Bearer ann "])
def test_a_bearer_token_says_who_calls_before_any_certificate(identify, header):
    shown = Shown(header, pem=PEM)
    assert identify(call_of(shown)) is ANN
    assert shown.looked == 0


def test_a_certificate_says_it_where_no_token_is_shown(identify):
    assert identify(call_of(Shown(pem=PEM))) is MINE


@pytest.mark.parametrize(
    "headers",
    [
        ("Basic YTpi",),
        ("Bearer",),
        ("Bearer ",),
        ("ann",),
        ("",),
        ("Bearer ann more",),
        ("Bearer ann", "Bearer ann"),
        ("Bearer unknown",),
    ],
)
def test_a_bad_token_is_refused_whatever_the_certificate_says(identify, headers):
    with pytest.raises(CredentialInvalid) as caught:
        identify(call_of(Shown(*headers, pem=PEM)))
    assert "ann" not in caught.value.message
    assert "YTpi" not in caught.value.message


def test_nothing_shown_is_refused(known):
    for reads in (True, False):
        with pytest.raises(CredentialMissing):
            Identification(known, reads_certificates=reads)(call_of(Shown()))


def test_a_certificate_is_not_looked_for_where_no_port_demands_one(known):
    shown = Shown(pem=PEM)
    with pytest.raises(CredentialMissing):
        Identification(known, reads_certificates=False)(call_of(shown))
    assert shown.looked == 0


def test_what_needs_no_permission_looks_at_no_credential(identify):
    enroll = METHODS["/fleetplane.v1.IdentityService/Enroll"]
    context: Any = Shown("Bearer stale", pem=b"stale")
    assert identify(Call(enroll, context)) is ANONYMOUS


def test_refusals_are_counted_and_those_of_changes_are_logged_without_secrets(identify):
    refusals = identify.refusals
    expired = CredentialExpired("the token")
    with structlog.testing.capture_logs() as logged:
        refusals.note(call_of(Shown("Bearer s3cret"), "GetAgent"), expired)
        refusals.note(call_of(Shown("Bearer s3cret"), "UpdateAgent"), expired)
        refusals.note(call_of(Shown(), "UpdateAgent"), KeyError("a defect"))
        refusals.note(call_of(Shown(), "UpdateAgent"), None)
    assert refusals.by_reason == {"CREDENTIAL_EXPIRED": 2}
    assert logged == [
        {
            "event": "change refused",
            "log_level": "warning",
            "method": REGISTRY + "UpdateAgent",
            "caller": "local-admin",
            "peer": "ipv4:127.0.0.1:1",
            "reason": "CREDENTIAL_EXPIRED",
        }
    ]


@pytest.mark.parametrize(
    ("name", "lines"), [("GetAgent", 0), ("Discover", 0), ("Heartbeat", 1), ("Register", 1)]
)
def test_refused_changes_are_logged_however_often_they_are_made(name, lines):
    refusals = Refusals()
    with structlog.testing.capture_logs() as logged:
        refusals.note(call_of(Shown(), name), CredentialExpired("the token"))
    assert len(logged) == lines


def test_refused_work_is_logged_though_it_is_too_frequent_to_be_audited_by_address():
    submit: Any = METHODS["/fleetplane.v1.TaskService/SubmitTask"]
    shown: Any = Shown()
    refusals = Refusals()
    with structlog.testing.capture_logs() as logged:
        refusals.note(Call(submit, shown), CredentialExpired("the token"))
    assert [line["method"] for line in logged] == [submit.name]


def test_a_call_is_nobodys_until_it_is_known_who_makes_it():
    gate: Any = object()
    context: Any = Shown()
    assert Call(METHODS[REGISTRY + "GetAgent"], context, gate).caller is ANONYMOUS


def test_a_flood_of_refused_changes_is_logged_in_part_and_the_rest_is_told():
    now = 0.0
    refusals = Refusals(lambda: now)
    flood, other = call_of(Shown(), "UpdateAgent"), call_of(Shown(), "UpdateAgent")
    flood.caller, other.caller = ANN, MINE
    with structlog.testing.capture_logs() as logged:
        for _ in range(100):
            refusals.note(flood, CredentialExpired("the token"))
        refusals.note(other, CredentialExpired("the token"))
        now = 1.0
        refusals.note(flood, CredentialExpired("the token"))
    assert refusals.by_reason == {"CREDENTIAL_EXPIRED": 102}
    at_once = round(LOGGED_PER_SECOND * BURST_SECONDS)
    assert [line["caller"] for line in logged[at_once:]] == [MINE.name, ANN.name]
    assert [line.get("unlogged") for line in logged[at_once:]] == [100 - at_once, None]


async def test_refusals_of_the_gate_are_counted_as_well(identify):
    judge, fleet = Judge(), Fleet()
    judge.refusals["default"] = PermissionDenied("user:ann", Permission.READ, "default")
    gate = Gate(judge, fleet.replica.read_model, fleet.admin)
    async with edge(gate=gate, identification=identify) as it:
        for metadata in (showing("ann"), showing("wrong"), ()):
            with pytest.raises(grpc.aio.AioRpcError):
                await it.stub.GetAgent(pb.GetAgentRequest(), metadata=metadata)
    assert identify.refusals.by_reason == {
        "PERMISSION_DENIED": 1,
        "CREDENTIAL_INVALID": 1,
        "CREDENTIAL_MISSING": 1,
    }


def a_certificate(spiffe_id: str) -> tuple[bytes, bytes]:
    """Return a self-signed certificate for loopback and a SPIFFE id, and its key, in PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = dt.datetime.now(dt.UTC)
    names: list[x509.GeneralName] = [
        x509.UniformResourceIdentifier(spiffe_id),
        x509.DNSName("localhost"),
        x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
    ]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(minutes=1))
        .not_valid_after(now + dt.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    encoding = serialization.Encoding.PEM
    private = key.private_bytes(
        encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return certificate.public_bytes(encoding), private


async def tell_who_asks(_request: Any, _context: Any) -> pb.GetAgentResponse:
    response = pb.GetAgentResponse()
    response.agent.agent_id = current_caller().name
    return response


async def test_the_certificate_of_a_real_connection_arrives(known):
    """What grpc calls it, and that it is the PEM that the client has shown."""
    certificate, key = a_certificate("spiffe://fleetplane.local/ns/default/agent/mine")
    known.by_pem = {certificate: MINE}
    identification = Identification(known, reads_certificates=True)
    server, drain = grpc.aio.server(), Drain()
    registrar = Pipeline(standard_concerns(drain, identification)).registrar(server)
    service: Any = EchoService(StreamKeeper(drain=drain), answer=tell_who_asks)  # type: ignore[abstract]  # the others are not there
    pb_grpc.add_RegistryServiceServicer_to_server(service, registrar.server)
    registrar.seal()
    demanding = grpc.ssl_server_credentials(
        [(key, certificate)], root_certificates=certificate, require_client_auth=True
    )
    port = server.add_secure_port("127.0.0.1:0", demanding)
    await server.start()
    shown = grpc.ssl_channel_credentials(certificate, key, certificate)
    try:
        async with grpc.aio.secure_channel(f"127.0.0.1:{port}", shown) as channel:
            stub: Any = pb_grpc.RegistryServiceStub(channel)
            by_certificate = await stub.GetAgent(pb.GetAgentRequest())
            by_token = await stub.GetAgent(pb.GetAgentRequest(), metadata=showing("ann"))
    finally:
        await server.stop(0)
    assert by_certificate.agent.agent_id == MINE.name
    assert by_token.agent.agent_id == ANN.name
    assert known.shown == [certificate]
