"""Tokens and certificates that are passed to a client, and that change while it is open."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509

from fleetplane import (
    Agent,
    AgentState,
    ChannelConfig,
    EnrolledIdentity,
    FleetClient,
    TaskContext,
    TlsConfig,
    Unauthenticated,
    Unavailable,
)
from fleetplane._credentials import CredentialFiles
from fleetplane._environment import read_environment
from tests.fakes.eventually import eventually
from tests.fakes.fleet_plane import Plane, Refusal
from tests.fakes.fleet_server import FleetServer
from tests.fakes.secure_fleet import Authority, SecureFleet

OLD, NEW = "at-1.old", "at-1.new"
INVALID = Refusal(grpc.StatusCode.UNAUTHENTICATED, "CREDENTIAL_INVALID")
QUICK = ChannelConfig(default_timeout=0.5)


@pytest.fixture
async def fleet() -> AsyncIterator[SecureFleet]:
    async with SecureFleet() as running:
        yield running


@pytest.fixture
def no_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a refusal has files looked at, not the second that passes."""
    monkeypatch.setattr("fleetplane._credentials.CHECK", 3600.0)


def bearer_of(context: Any) -> str:
    return str(dict(context.invocation_metadata()).get("authorization", ""))


def only(plane: Plane, token: str) -> None:
    """Refuse every other token."""
    plane.gate = lambda _, context: None if bearer_of(context) == f"Bearer {token}" else INVALID


def write(path: Path, data: bytes | str) -> Path:
    """Replace a file the way careful programs do."""
    fresh = path.with_suffix(".fresh")
    fresh.write_bytes(data if isinstance(data, bytes) else data.encode())
    fresh.replace(path)
    return path


def client_pair(fleet: SecureFleet, name: str) -> tuple[bytes, bytes]:
    return fleet.authority.pair(
        x509.UniformResourceIdentifier(f"spiffe://fleet/ns/research/agent/{name}")
    )


async def test_a_token_goes_with_every_call(fleet: SecureFleet) -> None:
    async with FleetClient(fleet.target, token=OLD, ca=fleet.authority.root) as client:
        assert (await client.who_am_i()).name == f"Bearer {OLD}"
        assert client.namespace == "default"


@pytest.mark.usefixtures("no_look")
async def test_a_refused_token_is_read_again_at_once(
    server: FleetServer, plane: Plane, tmp_path: Path
) -> None:
    file = write(tmp_path / "token", f"{OLD}\n")
    only(plane, OLD)
    async with FleetClient(server.target, token=file) as client:
        plane.put_agent("a")
        await client.get_agent("a")
        write(file, NEW)
        only(plane, NEW)
        await client.get_agent("a")
        assert plane.calls["GetAgent"] == 3


@pytest.mark.usefixtures("no_look")
async def test_crowds_of_refused_calls_look_once_and_all_go_on(
    server: FleetServer, plane: Plane, tmp_path: Path
) -> None:
    file = write(tmp_path / "token", OLD)
    plane.put_agent("a")
    async with FleetClient(server.target, token=file) as client:
        write(file, NEW)
        only(plane, NEW)
        await asyncio.gather(*(client.get_agent("a") for _ in range(20)))
        assert client.connection.call.exchanges == 1


@pytest.mark.usefixtures("no_look")
async def test_the_streams_of_an_agent_go_on_with_the_new_token(
    server: FleetServer, plane: Plane, tmp_path: Path
) -> None:
    file = write(tmp_path / "token", OLD)
    only(plane, OLD)
    states: list[AgentState] = []
    streams = ("Heartbeat", "WatchConfig", "WatchTasks")
    async with FleetClient(server.target, token=file) as client:
        agent = Agent("worker", "1.0.0", client=client, on_state=lambda new, _: states.append(new))

        @agent.task
        async def work(task: TaskContext) -> None:
            del task

        async with agent:
            await eventually("all are open", lambda: all(plane.opened[one] for one in streams))
            write(file, NEW)
            only(plane, NEW)
            plane.sent_away += 1
            plane.touch()
            await eventually(
                "all are open again", lambda: all(plane.opened[one] >= 2 for one in streams)
            )
            assert states == [AgentState.REGISTERING, AgentState.ACTIVE]
            assert client.connection.call.exchanges == 1


async def test_a_token_that_is_simply_wrong_is_not_tried_again(
    server: FleetServer, plane: Plane, tmp_path: Path
) -> None:
    only(plane, NEW)
    async with FleetClient(server.target, token=write(tmp_path / "token", OLD)) as client:
        with pytest.raises(Unauthenticated, match="`fleetplane login`"):
            await client.get_agent("a")
        assert plane.calls["GetAgent"] == 1


@pytest.mark.usefixtures("no_look")
async def test_a_watch_goes_on_with_the_new_token(
    server: FleetServer, plane: Plane, tmp_path: Path
) -> None:
    file = write(tmp_path / "token", OLD)
    only(plane, OLD)
    async with FleetClient(server.target, token=file) as client, client.watch_agents() as watch:
        await anext(watch)
        write(file, NEW)
        only(plane, NEW)
        plane.sent_away += 1
        plane.touch()
        plane.put_agent("a")
        event = await asyncio.wait_for(anext(watch), 5)
        assert [agent.agent_id for agent in event.agents] == ["a"]  # type: ignore[union-attr]  # a change
        only(plane, OLD)
        plane.sent_away += 1
        plane.touch()
        with pytest.raises(Unauthenticated):
            await asyncio.wait_for(anext(watch), 5)


async def test_a_known_agent_does_not_give_up_over_a_credential_that_has_ended(
    client: FleetClient, plane: Plane
) -> None:
    async with Agent("worker", "1.0.0", client=client) as agent:
        ended = Refusal(grpc.StatusCode.UNAUTHENTICATED, "CREDENTIAL_EXPIRED")
        plane.failures["BatchRegister"].extend([ended] * 2)
        plane.instances.clear()
        await eventually("it tried", lambda: not plane.failures["BatchRegister"])
        await eventually("it is back", lambda: agent.state is AgentState.ACTIVE)


async def test_certificates_are_read_again_when_they_change(
    fleet: SecureFleet, tmp_path: Path
) -> None:
    key, chain = client_pair(fleet, "one")
    cert_file, key_file = write(tmp_path / "c.pem", chain), write(tmp_path / "k.pem", key)
    ca_file = write(tmp_path / "ca.pem", fleet.authority.root)
    async with FleetClient(
        fleet.mtls_target, ca=str(ca_file), cert=cert_file, key=key_file
    ) as client:
        assert (await client.who_am_i()).name.endswith("/one")
        key, chain = client_pair(fleet, "two")
        write(cert_file, chain)  # with the key of the old one: not yet
        write(key_file, key)
        write(ca_file, fleet.authority.root + Authority("next").root)

        async def two() -> bool:
            return (await client.who_am_i()).name.endswith("/two")

        await eventually("the new certificate is used", two)


async def test_half_written_files_leave_the_last_credentials_in_use(
    fleet: SecureFleet, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    key, chain = client_pair(fleet, "one")
    cert, key_path = write(tmp_path / "c.pem", chain), write(tmp_path / "k.pem", key)
    token, ca = write(tmp_path / "token", OLD), write(tmp_path / "ca.pem", fleet.authority.root)
    files = CredentialFiles(token=token, ca=ca, cert=cert, key=key_path)
    first = await files.obtain(ChannelConfig())
    assert await files.look() is None
    other_key, other_chain = client_pair(fleet, "two")
    write(cert, other_chain)
    assert await files.look() is None
    write(key_path, other_key)
    write(ca, "half a")
    assert await files.look() is None
    write(ca, fleet.authority.root)
    write(token, " \n")
    assert await files.look() is None
    token.unlink()
    assert await files.look() is None
    assert await files.look() is None
    write(token, NEW)
    newer = await files.look()
    assert newer is not None
    assert newer.token == NEW
    assert newer.tls is not None
    assert first.tls is not None
    assert newer.tls.certificate_chain == other_chain
    assert await files.look() is None
    os.utime(token)
    assert await files.look() is None  # touched, and the same
    assert caplog.text.count("the last ones stay in use") == 4
    assert NEW not in caplog.text


async def test_a_port_that_demands_a_certificate_is_named_as_such(fleet: SecureFleet) -> None:
    async with FleetClient(
        fleet.mtls_target, ca=fleet.authority.root, channel_config=QUICK
    ) as client:
        with pytest.raises(Unavailable, match=r"demand a client certificate: pass cert=\.\.\."):
            await client.who_am_i()


async def test_a_port_that_speaks_tls_or_does_not_is_named_as_such(
    fleet: SecureFleet, server: FleetServer
) -> None:
    async with FleetClient(fleet.target, channel_config=QUICK) as client:
        with pytest.raises(Unavailable, match=r"speak TLS only: pass ca=\.\.\."):
            await client.who_am_i()
    async with FleetClient(server.target, ca=fleet.authority.root, channel_config=QUICK) as plain:
        with pytest.raises(Unavailable, match="does not speak TLS"):
            await plain.who_am_i()
    stranger = Authority("stranger").root
    async with FleetClient(fleet.target, ca=stranger, channel_config=QUICK) as distrustful:
        with pytest.raises(Unavailable, match="not signed by a known authority"):
            await distrustful.who_am_i()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"cert": "c"}, "belong together"),
        ({"ca": b"x", "channel_config": ChannelConfig(tls=TlsConfig())}, "leave out ca"),
        ({"token": "x", "channel_config": ChannelConfig(token="y")}, "a token already"),  # noqa: S106  # no secret
    ],
)
def test_credentials_that_contradict_each_other_are_refused(
    arguments: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        FleetClient("x:1", **arguments)


def test_an_identity_has_all_credentials(tmp_path: Path) -> None:
    identity = EnrolledIdentity("a", enroll_target="x:1", state_dir=tmp_path)
    for arguments in ({"token": "x"}, {"ca": b"x"}, {"channel_config": ChannelConfig(token="x")}):  # noqa: S106  # no secret
        with pytest.raises(ValueError, match="has all credentials: leave out"):
            FleetClient("x:1", identity=identity, **arguments)


async def test_what_holds_no_credentials_is_refused_when_the_client_opens(tmp_path: Path) -> None:
    key, chain = Authority("one").pair()
    write(tmp_path / "k.pem", key)
    write(tmp_path / "c.pem", chain)
    other = write(tmp_path / "other.pem", Authority("two").pair()[0])
    empty = write(tmp_path / "empty", "")
    for arguments in (
        {"token": empty},
        {"ca": empty},
        {"cert": tmp_path / "c.pem", "key": other},
    ):
        with pytest.raises(ValueError, match="no "):
            await FleetClient("127.0.0.1:1", **arguments).__aenter__()  # type: ignore[arg-type]  # of any kind
    with pytest.raises(FileNotFoundError):
        await FleetClient("127.0.0.1:1", token=tmp_path / "missing").__aenter__()
    with pytest.raises(ValueError, match=r"pass ca=\.\.\."):
        await FleetClient("plane.example:50051", token=OLD).__aenter__()


def test_the_environment_describes_a_client(tmp_path: Path) -> None:
    assert read_environment({}, "") == {
        "target": "127.0.0.1:50051",
        "namespace": "",
        "token": "",
        "ca": None,
        "cert": None,
        "key": None,
        "identity": None,
    }
    said = read_environment(
        {
            "FLEETPLANE_ADDRESS": "plane:1",
            "FLEETPLANE_NAMESPACE": "research",
            "FLEETPLANE_TOKEN_FILE": "/run/token",
            "FLEETPLANE_CA": "ca.pem",
            "FLEETPLANE_CERT": "c.pem",
            "FLEETPLANE_KEY": "k.pem",
        },
        "",
    )
    assert said["token"] == Path("/run/token")
    assert (said["ca"], said["cert"], said["key"]) == (Path("ca.pem"), Path("c.pem"), Path("k.pem"))
    assert (said["target"], said["namespace"]) == ("plane:1", "research")
    agent = {"FLEETPLANE_JOIN_TOKEN": "jt-1.x", "FLEETPLANE_STATE_DIR": str(tmp_path)}
    identity = read_environment(agent, "worker")["identity"]
    assert identity is not None
    assert identity.agent_name == "worker"
    with pytest.raises(ValueError, match="pass agent_name"):
        read_environment(agent, "")
    for both in ("TOKEN", "JOIN_TOKEN"):
        with pytest.raises(ValueError, match="not both"):
            read_environment({f"FLEETPLANE_{both}": "a", f"FLEETPLANE_{both}_FILE": "b"}, "worker")
    with pytest.raises(ValueError, match="pass agent_name"):
        read_environment({"FLEETPLANE_JOIN_TOKEN_FILE": "/run/join"}, "")


async def test_a_client_from_the_environment_works(
    fleet: SecureFleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLEETPLANE_ADDRESS", fleet.target)
    monkeypatch.setenv("FLEETPLANE_CA", str(write(tmp_path / "ca.pem", fleet.authority.root)))
    monkeypatch.setenv("FLEETPLANE_TOKEN", OLD)
    async with FleetClient.from_environment(channel_config=QUICK) as client:
        assert (await client.who_am_i()).name == f"Bearer {OLD}"
