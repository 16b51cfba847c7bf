"""Whatever is tried, the answer is the documented one, and the daemon is as it was."""

import contextlib
import socket
import ssl
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import grpc
import psutil
import pytest
from google.protobuf.message import Message
from google.rpc import error_details_pb2  # type: ignore[import-untyped]  # has no stubs
from grpc_status import rpc_status

from fleetplane.v1 import agent_pb2, identity_service_pb2, registry_service_pb2
from tests.e2e.abuse_table import ABUSES, ELSEWHERE, FLOODS, HERE, INVALID, TOO_FAST, Abuse
from tests.fakes.identity_provider import IdentityProvider
from tests.fakes.secure_daemon import (
    Identity,
    SecureDaemon,
    bearer,
    key_and_request,
    secure_daemon,
)

pytestmark = [pytest.mark.xdist_group("abuse"), pytest.mark.timeout(300)]

DEADLINE: Final = 20.0
HANDSHAKE_SECONDS: Final = 1.0
MEBIBYTE: Final = 1024 * 1024
IDLE_PERCENT: Final = 30.0
"""Of one processor: what a daemon takes that nobody calls, and what a busy machine adds."""


class Target:
    """A daemon under attack, and what its attackers have got hold of."""

    def __init__(self, secure: SecureDaemon, provider: IdentityProvider, channel: Any) -> None:
        self.secure = secure
        self.provider = provider
        self.channel = channel
        for namespace in (HERE, ELSEWHERE):
            secure.make_namespace(namespace)
        self.api_token = secure.api_token("viewer", HERE)[1]
        self.other_api_token = secure.api_token("viewer", HERE)[1]
        revoked_id, self.revoked_api_token = secure.api_token("viewer", HERE)
        self.jwt = provider.token()
        self.used_join_token = self.join_token()
        assert self.enrol(self.used_join_token, "used", key_and_request()[1]) == "OK"
        with secure.identities() as stub:
            options: Any = {"metadata": secure.as_admin, "timeout": DEADLINE}
            stub.RevokeApiToken(
                identity_service_pb2.RevokeApiTokenRequest(namespace=HERE, token_id=revoked_id),
                **options,
            )
            stub.BanAgent(
                identity_service_pb2.BanAgentRequest(namespace=HERE, agent_name="banned"), **options
            )
        for version in ("1.0.0", "2.0.0"):
            spec = agent_pb2.AgentSpec(name="reader", version=version)
            request = registry_service_pb2.RegisterRequest(namespace=HERE, spec=spec)
            assert self.as_admin("RegistryService/Register", request) == "OK"
        page = registry_service_pb2.ListAgentsRequest(namespace=HERE, page_size=1)
        raw = self._unary("RegistryService/ListAgents", page, secure.as_admin)
        self.cursor = registry_service_pb2.ListAgentsResponse.FromString(raw).next_page_token
        assert self.cursor

    def join_token(self, **fields: Any) -> str:
        return self.secure.join_token(HERE, **fields)[1]

    def enrol(self, join_token: str, agent_name: str, csr: str) -> str:
        request = identity_service_pb2.EnrollRequest(
            join_token=join_token, agent_name=agent_name, csr=csr
        )
        return self._answer("IdentityService/Enroll", request, ())

    def list_agents(self, *metadata: tuple[str, str]) -> str:
        request = registry_service_pb2.ListAgentsRequest(namespace=HERE)
        return self._answer("RegistryService/ListAgents", request, metadata)

    def list_agents_at_once(self, tokens: Iterable[str]) -> Counter[str]:
        """Return how often each answer was given."""
        request = registry_service_pb2.ListAgentsRequest(namespace=HERE)
        return self._at_once("RegistryService/ListAgents", request, map(bearer, tokens))

    def enrol_at_once(self, count: int) -> Counter[str]:
        """Guess at so many join tokens; return how often each answer was given."""
        guess = "jt-guess.guess"
        request = identity_service_pb2.EnrollRequest(join_token=guess, agent_name="w")
        return self._at_once("IdentityService/Enroll", request, [()] * count)

    def _at_once(self, method: str, request: Message, shown: Iterable[Any]) -> Counter[str]:
        call = self.channel.unary_unary(f"/fleetplane.v1.{method}")
        raw = request.SerializeToString()
        made = [call.future(raw, timeout=DEADLINE, metadata=metadata) for metadata in shown]
        return Counter("OK" if (e := one.exception()) is None else answer_of(e) for one in made)

    def call(self, method: str, request: Message | bytes, token: str) -> str:
        return self._answer(method, request, bearer(token))

    def as_admin(self, method: str, request: Message | bytes) -> str:
        return self._answer(method, request, self.secure.as_admin)

    def _unary(self, method: str, request: Message | bytes, metadata: Any) -> bytes:
        raw = request if isinstance(request, bytes) else request.SerializeToString()
        answer: bytes = self.channel.unary_unary(f"/fleetplane.v1.{method}")(
            raw, timeout=DEADLINE, metadata=metadata
        )
        return answer

    def _answer(self, method: str, request: Message | bytes, metadata: Any) -> str:
        try:
            self._unary(method, request, metadata)
        except grpc.RpcError as error:
            return answer_of(error)
        return "OK"

    @property
    def memory(self) -> int:
        return int(psutil.Process(self.secure.daemon.pid).memory_info().rss)


def answer_of(error: Any) -> str:
    code: str = error.code().name
    status = rpc_status.from_call(error)
    info = error_details_pb2.ErrorInfo()
    if status is not None and any(detail.Unpack(info) for detail in status.details):
        return f"{code}/{info.reason}"
    return code


@pytest.fixture(scope="module")
def target() -> Iterator[Target]:
    with tempfile.TemporaryDirectory() as directory, contextlib.ExitStack() as stack:
        provider = IdentityProvider(Path(directory))
        secure = stack.enter_context(
            secure_daemon(
                grace_seconds=1.0,
                handshake_seconds=HANDSHAKE_SECONDS,
                beats_per_second=500.0,
                streams_per_caller=50,
                calls_per_second=100.0,
                **provider.settings,
            )
        )
        # Messages of any size must leave the client to be refused by the daemon.
        channel = stack.enter_context(
            grpc.secure_channel(
                secure.address,
                grpc.ssl_channel_credentials(secure.roots),
                [("grpc.max_send_message_length", -1), ("grpc.max_metadata_size", MEBIBYTE)],
            )
        )
        yield Target(secure, provider, channel)


def test_the_table_is_long() -> None:
    assert len({abuse.what for abuse in ABUSES}) == len(ABUSES)
    assert len(ABUSES) >= 40


@pytest.mark.parametrize("abuse", ABUSES, ids=str)
def test_an_abuse_gets_its_documented_answer(abuse: Abuse, target: Target) -> None:
    assert abuse.act(target) == abuse.answer


def test_good_credentials_still_work(target: Target) -> None:
    """Else every row above would be worth nothing."""
    assert target.list_agents(("authorization", f"Bearer {target.api_token}")) == "OK"
    assert target.list_agents(("authorization", f"bearer {target.api_token}")) == "OK"
    answer = target.list_agents(("authorization", f"Bearer {target.jwt}"))
    assert answer == "NOT_FOUND/NAMESPACE_NOT_FOUND", "known, and without any role"


def test_a_signing_request_for_another_name_gets_only_ones_own(target: Target) -> None:
    key, request = key_and_request("spiffe://fleetplane.local/ns/umbra/agent/admin")
    with target.secure.identities() as stub:
        issued = stub.Enroll(
            identity_service_pb2.EnrollRequest(
                join_token=target.join_token(), agent_name="modest", csr=request
            ),
            timeout=DEADLINE,
        ).issued
    assert issued.spiffe_id == f"spiffe://fleetplane.local/ns/{HERE}/agent/modest"
    identity = Identity(
        chain=issued.certificate_chain.encode(), key=key, roots=issued.trust_bundle.encode()
    )
    with target.secure.agent_channel(identity) as channel:
        who = identity_service_pb2.WhoAmIResponse.FromString(
            _who_am_i(channel)(b"", timeout=DEADLINE)
        )
    assert (who.namespace, who.agent_name) == (HERE, "modest")


def _who_am_i(channel: Any) -> Any:
    return channel.unary_unary("/fleetplane.v1.IdentityService/WhoAmI")


def test_the_port_for_certificates_lets_nobody_in_without_one(target: Target) -> None:
    roots = target.secure.roots
    address = target.secure.mtls_address
    foreign_key, _ = key_and_request()
    credentials = (
        grpc.ssl_channel_credentials(roots),
        grpc.ssl_channel_credentials(roots, foreign_key, _self_signed(foreign_key)),
    )
    for credential in credentials:
        with grpc.secure_channel(address, credential) as channel:
            with pytest.raises(grpc.RpcError) as refused:
                _who_am_i(channel)(b"", timeout=DEADLINE)
            assert refused.value.code() is grpc.StatusCode.UNAVAILABLE


def _self_signed(key_pem: bytes) -> bytes:
    from datetime import UTC, datetime, timedelta  # noqa: PLC0415 - one forger

    from cryptography import x509  # noqa: PLC0415
    from cryptography.hazmat.primitives import hashes, serialization  # noqa: PLC0415

    key: Any = serialization.load_pem_private_key(key_pem, None)
    name = x509.Name([])
    uri = x509.UniformResourceIdentifier(f"spiffe://fleetplane.local/ns/{HERE}/agent/writer")
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([uri]), critical=True)
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM)


@pytest.mark.parametrize(
    ("what", "opening"),
    [
        ("nothing at all", b""),
        ("plain text", b"GET / HTTP/1.1\r\nHost: fleet\r\n\r\n"),
        ("HTTP/2 without TLS", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
        ("garbage", bytes(range(256)) * 16),
        ("half of a TLS greeting", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
    ],
)
def test_a_connection_that_never_becomes_one_is_closed(
    what: str, opening: bytes, target: Target
) -> None:
    host, _, port = target.secure.address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=DEADLINE) as connection:
        connection.sendall(opening)
        started = time.monotonic()
        with contextlib.suppress(ConnectionResetError):
            while connection.recv(4096):
                pass
        assert time.monotonic() - started < HANDSHAKE_SECONDS * 5, what


def test_a_connection_that_only_greets_is_closed(target: Target) -> None:
    """Slow loris: TLS is done, HTTP/2 never begins."""
    host, _, port = target.secure.address.rpartition(":")
    context = ssl.create_default_context(cadata=target.secure.roots.decode())
    context.check_hostname = False
    context.set_alpn_protocols(["h2"])
    with (
        socket.create_connection((host, int(port)), timeout=DEADLINE) as raw,
        context.wrap_socket(raw) as connection,
    ):
        started = time.monotonic()
        with contextlib.suppress(ConnectionResetError, ssl.SSLError):
            while connection.recv(4096):
                pass
        assert time.monotonic() - started < DEADLINE


def test_old_tls_is_refused(target: Target) -> None:
    host, _, port = target.secure.address.rpartition(":")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # old is the point
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    with (
        socket.create_connection((host, int(port)), timeout=DEADLINE) as raw,
        pytest.raises((ssl.SSLError, OSError)),
    ):
        context.wrap_socket(raw)


def test_too_many_beats_end_their_stream_and_nothing_else(target: Target) -> None:
    identity = target.secure.enrol(HERE, "drummer")
    request = registry_service_pb2.HeartbeatRequest(namespace=HERE, batch=1)
    for i in range(100):
        request.beats.add(instance_id=f"i-{i}", generation=1)
    raw = request.SerializeToString()
    with target.secure.agent_channel(identity) as channel:
        beat: Any = channel.stream_stream("/fleetplane.v1.RegistryService/Heartbeat")
        with pytest.raises(grpc.RpcError) as refused:
            for _ in beat((raw for _ in range(1000)), timeout=DEADLINE):
                pass
        assert answer_of(refused.value) == "RESOURCE_EXHAUSTED/RATE_LIMITED"
        assert _who_am_i(channel)(b"", timeout=DEADLINE)


def test_too_many_streams_of_one_caller_are_refused(target: Target) -> None:
    token = target.secure.api_token("viewer", HERE)[1]
    request = registry_service_pb2.WatchAgentsRequest(namespace=HERE).SerializeToString()
    watch: Any = target.channel.unary_stream("/fleetplane.v1.RegistryService/WatchAgents")
    calls = [watch(request, timeout=DEADLINE, metadata=bearer(token)) for _ in range(60)]
    answers = [_first(call) for call in calls]
    for call in calls:
        call.cancel()
    assert answers.count("OK") == 50
    assert answers.count("RESOURCE_EXHAUSTED/RATE_LIMITED") == 10


def _first(call: Any) -> str:
    try:
        next(call)
    except grpc.RpcError as error:
        return answer_of(error)
    return "OK"


def test_a_connection_that_pings_all_the_time_is_closed(target: Target) -> None:
    options = [
        ("grpc.keepalive_time_ms", 50),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
    ]
    credentials = grpc.ssl_channel_credentials(target.secure.roots)
    request = registry_service_pb2.WatchAgentsRequest(namespace=HERE).SerializeToString()
    with grpc.secure_channel(target.secure.address, credentials, options) as channel:
        watch: Any = channel.unary_stream("/fleetplane.v1.RegistryService/WatchAgents")
        with pytest.raises(grpc.RpcError) as refused:
            for _ in watch(request, timeout=DEADLINE, metadata=bearer(target.api_token)):
                pass
    error: Any = refused.value
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert "ping" in error.details().lower()


def test_ten_thousand_refused_calls_leave_nothing_behind(target: Target) -> None:
    def refuse(count: int) -> set[str]:
        """Be refused 500 times at once, again and again: who does not wait is told later."""
        answers: Counter[str] = Counter()
        for start in range(0, count, 500):
            tokens = [f"at-{i}.{'A' * 43}" for i in range(start, min(start + 500, count))]
            answers += target.list_agents_at_once(tokens)
        return set(answers)

    assert refuse(3_000) <= {INVALID, TOO_FAST}  # what a crowd takes at the same time stays taken
    before = target.memory
    assert refuse(10_000) <= {INVALID, TOO_FAST}
    assert target.memory - before < 16 * MEBIBYTE
    process = psutil.Process(target.secure.daemon.pid)
    process.cpu_percent()
    assert process.cpu_percent(interval=1.0) < IDLE_PERCENT


def test_no_secret_is_ever_written_down(target: Target) -> None:
    """Planted ones: every credential that was shown above."""
    log = target.secure.daemon.log
    for secret in (
        target.secure.admin_token,
        target.api_token,
        target.other_api_token,
        target.revoked_api_token,
        target.used_join_token,
    ):
        assert secret.split(".")[1] not in log
    assert target.jwt.rpartition(".")[2] not in log
    assert "PRIVATE KEY" not in log
    for path in target.secure.daemon.data_dir.rglob("*"):
        if path.is_file() and "ca" not in path.parts and path.name != "admin-token":
            contents = path.read_bytes()
            assert target.api_token.split(".")[1].encode() not in contents, path
            assert target.used_join_token.split(".")[1].encode() not in contents, path


@pytest.mark.parametrize("abuse", FLOODS, ids=str)
def test_a_flood_is_told_to_wait_and_shuts_nobody_out(abuse: Abuse, target: Target) -> None:
    assert abuse.act(target) == abuse.answer
    assert target.list_agents(("authorization", f"Bearer {target.api_token}")) == "OK"
