"""Identities of agents: enrolled, kept on disk, renewed and exchanged without a failed beat."""

import asyncio
import json
import shutil
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from fleetplane import (
    Agent,
    AgentState,
    ChannelConfig,
    EnrolledIdentity,
    FleetClient,
    Scope,
    TaskContext,
    Unauthenticated,
    Unavailable,
)
from fleetplane._enrolment import _times
from fleetplane._switching import IDLE_CHECK
from fleetplane.v1.identity_service_pb2 import IssuedCertificate
from tests.fakes.eventually import eventually
from tests.fakes.fleet_plane import Refusal
from tests.fakes.secure_fleet import SECRET, Authority, SecureFleet

LIFE = 2.0
"""Seconds that certificates live where they are to end; up to one more, as X.509 knows no less."""

EXPIRED = Refusal(grpc.StatusCode.UNAUTHENTICATED, "CREDENTIAL_EXPIRED")

SPIFFE_ID = "spiffe://fleet/ns/research/agent/worker"


@pytest.fixture
async def fleet() -> AsyncIterator[SecureFleet]:
    async with SecureFleet() as running:
        yield running


def identity_of(fleet: SecureFleet, state_dir: Path, **changes: Any) -> EnrolledIdentity:
    arguments: dict[str, Any] = {
        "join_token": SECRET,
        "enroll_target": fleet.target,
        "ca": fleet.authority.root,
        "state_dir": state_dir,
    }
    return EnrolledIdentity("worker", **(arguments | changes))


async def test_an_agent_enrols_and_is_itself(fleet: SecureFleet, tmp_path: Path) -> None:
    identity = identity_of(fleet, tmp_path)
    assert (identity.namespace, identity.spiffe_id, identity.expires_at) == ("", "", None)
    async with FleetClient(fleet.mtls_target, identity=identity) as client:
        assert (await client.who_am_i()).name == SPIFFE_ID
        assert client.namespace == identity.namespace == "research"
    assert identity.spiffe_id == SPIFFE_ID
    assert identity.agent_name == "worker"
    assert identity.expires_at is not None
    assert identity.error is None


async def test_a_namespace_that_was_given_stays(fleet: SecureFleet, tmp_path: Path) -> None:
    identity = identity_of(fleet, tmp_path)
    async with FleetClient(fleet.mtls_target, namespace="other", identity=identity) as client:
        assert client.namespace == "other"


async def test_only_the_owner_can_read_what_is_kept(fleet: SecureFleet, tmp_path: Path) -> None:
    directory = tmp_path / "identities"
    directory.mkdir(mode=0o755)
    async with FleetClient(fleet.mtls_target, identity=identity_of(fleet, tmp_path)):
        pass
    assert directory.stat().st_mode & 0o777 == 0o700
    (file,) = directory.iterdir()
    assert file.stat().st_mode & 0o777 == 0o600


async def test_the_next_start_needs_no_join_token(fleet: SecureFleet, tmp_path: Path) -> None:
    for changes in ({}, {"join_token": "", "ca": None}):
        identity = identity_of(fleet, tmp_path, **changes)
        async with FleetClient(fleet.mtls_target, identity=identity) as client:
            assert (await client.who_am_i()).name == SPIFFE_ID
            assert client.namespace == "research"
    assert fleet.plane.calls["Enroll"] == 1


@pytest.mark.parametrize("damage", ["{", '{"private_key": 1}', None])
async def test_what_is_unreadable_or_has_ended_is_replaced(
    fleet: SecureFleet, tmp_path: Path, damage: str | None
) -> None:
    fleet.uses_left = 2
    async with FleetClient(fleet.mtls_target, identity=identity_of(fleet, tmp_path)):
        pass
    (file,) = (tmp_path / "identities").iterdir()
    ending = {"renew_at": time.time() - 100, "expires_at": time.time() + 1}
    ended = json.dumps(json.loads(file.read_text()) | ending)
    file.write_text(ended if damage is None else damage)
    async with FleetClient(fleet.mtls_target, identity=identity_of(fleet, tmp_path)) as client:
        assert (await client.who_am_i()).name == SPIFFE_ID
    assert fleet.plane.calls["Enroll"] == 2


async def test_a_join_token_and_authorities_may_be_files(
    fleet: SecureFleet, tmp_path: Path
) -> None:
    (tmp_path / "join").write_text(f"{SECRET}\n")
    (tmp_path / "ca.pem").write_bytes(fleet.authority.root)
    identity = identity_of(
        fleet, tmp_path, join_token=tmp_path / "join", ca=str(tmp_path / "ca.pem")
    )
    async with FleetClient(fleet.mtls_target, identity=identity) as client:
        assert (await client.who_am_i()).name == SPIFFE_ID


async def test_a_refused_or_missing_join_token_is_an_error(
    fleet: SecureFleet, tmp_path: Path
) -> None:
    with pytest.raises(Unauthenticated, match="run `fleetplane login`"):
        await FleetClient(
            fleet.mtls_target, identity=identity_of(fleet, tmp_path, join_token=SECRET[::-1])
        ).__aenter__()
    with pytest.raises(Unauthenticated, match="fleetplane tokens join create"):
        await FleetClient(
            fleet.mtls_target, identity=identity_of(fleet, tmp_path, join_token="")
        ).__aenter__()


async def test_the_join_token_is_not_shown_to_a_stranger(
    fleet: SecureFleet, tmp_path: Path
) -> None:
    identity = identity_of(fleet, tmp_path, ca=Authority("somebody else").root)
    config = ChannelConfig(default_timeout=0.5)
    with pytest.raises(Unavailable, match=r"pass ca=\.\.\."):
        await FleetClient(fleet.mtls_target, identity=identity, channel_config=config).__aenter__()
    assert fleet.plane.calls["Enroll"] == 0


async def test_no_use_of_a_join_token_is_spent_on_an_unwritable_directory(
    fleet: SecureFleet, tmp_path: Path
) -> None:
    (tmp_path / "identities").write_text("a file")
    with pytest.raises(OSError, match="identities"):
        await FleetClient(fleet.mtls_target, identity=identity_of(fleet, tmp_path)).__aenter__()
    assert fleet.uses_left == 1


async def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fleetplane._keys", None)
    with pytest.raises(ImportError, match=r"pip install fleetplane-client\[identity\]"):
        EnrolledIdentity("worker", enroll_target="x:1", state_dir=tmp_path)


async def test_certificates_are_exchanged_without_a_failed_beat(tmp_path: Path) -> None:
    """Through two ends of certificates: streams, beats, calls, tasks and configuration go on."""
    states: list[AgentState] = []
    async with SecureFleet(life=LIFE) as fleet:
        fleet.plane.ttl = 1.0
        agent = Agent(
            "worker",
            "1.0.0",
            capabilities=["echo"],
            target=fleet.mtls_target,
            join_token=SECRET,
            enroll_target=fleet.target,
            ca=fleet.authority.root,
            state_dir=tmp_path,
            on_state=lambda state, _: states.append(state),
        )

        @agent.task("echo")
        async def echo(task: TaskContext) -> bytes:
            return task.payload

        async with agent:
            assert agent.client.namespace == "research"
            watch = agent.client.watch_config(Scope(agent_id=agent.agent_id))
            updates = asyncio.create_task(_count(watch))

            async def exchanged_twice() -> bool:
                assert not agent.expired
                await agent.client.get_agent(agent.agent_id)
                return len(set(fleet.serials["Heartbeat"])) >= 3

            await eventually("three streams of beats, a certificate each", exchanged_twice)
            result = await agent.client.run_task(
                "echo", b"still here", capabilities="echo", timeout=5
            )
            assert result == b"still here"
            assert states == [AgentState.REGISTERING, AgentState.ACTIVE]
            await eventually(
                "replaced channels are closed",
                lambda: agent.client.connection.channel.replaced <= 1,
            )
            updates.cancel()
            await asyncio.gather(updates, return_exceptions=True)
            await watch.aclose()
    assert fleet.refused == {}
    assert fleet.uses_left == 0
    assert fleet.plane.calls["Enroll"] == 1


async def _count(watch: Any) -> None:
    async for _ in watch:
        pass


async def test_calls_in_flight_end_on_the_connection_they_began_on(
    fleet: SecureFleet, tmp_path: Path
) -> None:
    fleet.uses_left = 2
    other = identity_of(fleet, tmp_path / "other")
    async with FleetClient(fleet.mtls_target, identity=identity_of(fleet, tmp_path)) as client:
        watch = client.watch_agents()
        await anext(watch)
        waiting = asyncio.ensure_future(anext(watch))
        client.connection.exchange(await other.obtain(ChannelConfig()))
        assert (await client.who_am_i()).name == SPIFFE_ID
        assert fleet.serials["WatchAgents"] != fleet.serials["WhoAmI"]
        await asyncio.sleep(2 * IDLE_CHECK)  # as long as it takes to close an idle one
        assert client.connection.channel.replaced == 1
        fleet.plane.put_agent("new")
        assert await asyncio.wait_for(waiting, 5)
        assert fleet.plane.opened["WatchAgents"] == 1
        await watch.aclose()
        await eventually("the old one is closed", lambda: client.connection.channel.replaced == 0)


async def test_closing_a_client_closes_replaced_connections_too(
    fleet: SecureFleet, tmp_path: Path
) -> None:
    fleet.uses_left = 2
    other = identity_of(fleet, tmp_path / "other")
    async with FleetClient(fleet.mtls_target, identity=identity_of(fleet, tmp_path)) as client:
        watch = client.watch_agents()
        await anext(watch)
        client.connection.exchange(await other.obtain(ChannelConfig()))
    await eventually("the stream has ended", lambda: fleet.plane.streams["WatchAgents"] == 0)


async def test_an_agent_enrols_again_when_its_certificate_could_not_be_renewed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with SecureFleet(life=2.0, uses_left=2) as fleet:
        identity = identity_of(fleet, tmp_path)
        async with FleetClient(fleet.mtls_target, identity=identity) as client:
            refusal = Refusal(grpc.StatusCode.PERMISSION_DENIED, "AGENT_BANNED")
            fleet.plane.failures["RenewCertificate"].extend([refusal] * 1000)
            await eventually("it tries", lambda: identity.error is not None)
            await eventually("it enrols again", lambda: fleet.plane.calls["Enroll"] == 2)
            fleet.plane.failures["RenewCertificate"].clear()
            await eventually("it works", lambda: identity.error is None)
            assert (await client.who_am_i()).name == SPIFFE_ID
    assert "the certificate cannot be renewed" in caplog.text
    assert SECRET not in caplog.text


async def test_a_certificate_that_the_daemon_takes_for_ended_is_replaced_at_once(
    fleet: SecureFleet, tmp_path: Path
) -> None:
    identity = identity_of(fleet, tmp_path)
    async with FleetClient(fleet.mtls_target, identity=identity) as client:
        await client.who_am_i()
        first = fleet.serials["WhoAmI"][0]
        gate = fleet.plane.gate
        assert gate is not None

        def ended(method: str, context: Any) -> Any:
            refusal = gate(method, context)
            late = fleet.serials.get(method, [0])[-1] == first and method == "WhoAmI"
            return EXPIRED if late else refusal

        fleet.plane.gate = ended
        assert (await client.who_am_i()).name == SPIFFE_ID
        assert fleet.plane.calls["RenewCertificate"] == 1


async def test_a_certificate_that_stays_refused_is_not_replaced_again_and_again(
    fleet: SecureFleet, tmp_path: Path
) -> None:
    async with FleetClient(fleet.mtls_target, identity=identity_of(fleet, tmp_path)) as client:
        fleet.plane.failures["WhoAmI"].extend([EXPIRED] * 100)
        for _ in range(3):
            with pytest.raises(Unauthenticated):
                await client.who_am_i()
        assert fleet.plane.calls["RenewCertificate"] == 1


async def test_a_join_token_takes_over_when_the_daemon_refuses_to_renew(
    fleet: SecureFleet, tmp_path: Path
) -> None:
    fleet.uses_left = 2
    async with FleetClient(fleet.mtls_target, identity=identity_of(fleet, tmp_path)) as client:
        fleet.plane.failures["RenewCertificate"].append(EXPIRED)
        fleet.plane.failures["WhoAmI"].append(EXPIRED)
        assert (await client.who_am_i()).name == SPIFFE_ID
        assert fleet.plane.calls["Enroll"] == 2


async def test_a_certificate_is_used_even_if_it_cannot_be_kept(
    fleet: SecureFleet, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with FleetClient(fleet.mtls_target, identity=identity_of(fleet, tmp_path)) as client:
        before = client.connection.call.exchanges
        shutil.rmtree(tmp_path / "identities")
        fleet.plane.failures["WhoAmI"].append(EXPIRED)
        assert (await client.who_am_i()).name == SPIFFE_ID
        assert client.connection.call.exchanges == before + 1
    assert "cannot be kept" in caplog.text


@pytest.mark.parametrize("ahead", [-7200.0, -10.0, 0.0, 10.0, 7200.0])
def test_a_clock_that_differs_from_the_daemons_neither_hurries_nor_forgets(ahead: float) -> None:
    now, life = 1_000_000.0, 3600.0
    issued = IssuedCertificate(
        expires_at=Timestamp(seconds=int(now + life)),
        renew_after=Timestamp(seconds=int(now + life / 2)),
    )
    renew_at, expires_at = _times(issued, now + ahead)
    wait = renew_at - (now + ahead)
    assert life / 4 <= wait < life * 0.9
    assert renew_at < expires_at


def test_a_certificate_without_a_time_to_renew_is_renewed_at_half_its_life() -> None:
    issued = IssuedCertificate(expires_at=Timestamp(seconds=2000))
    renew_at, expires_at = _times(issued, 1000.0)
    assert 1500 <= renew_at <= 1550
    assert expires_at == 2000


async def test_the_authorities_are_those_that_the_daemon_sends(
    fleet: SecureFleet, tmp_path: Path
) -> None:
    fleet.bundle = fleet.authority.root + Authority("fleet 2").root
    fleet.uses_left = 2
    async with FleetClient(fleet.mtls_target, identity=identity_of(fleet, tmp_path)):
        pass
    (file,) = (tmp_path / "identities").iterdir()
    held = json.loads(file.read_text())
    assert held["trust_bundle"].encode() == fleet.bundle
    file.write_text(json.dumps(held | {"expires_at": 0.0}))
    identity = identity_of(fleet, tmp_path)  # enrols again with the roots given and those sent
    async with FleetClient(fleet.mtls_target, identity=identity) as client:
        assert (await client.who_am_i()).name == SPIFFE_ID


async def test_an_agent_waits_for_a_plane_that_is_away_when_it_enrols(tmp_path: Path) -> None:
    fleet = SecureFleet()
    async with fleet:
        pass  # has its ports now
    agent = Agent(
        "worker",
        "1.0.0",
        target=fleet.mtls_target,
        channel_config=ChannelConfig(max_reconnect_backoff=0.2, default_timeout=0.3),
        join_token=SECRET,
        enroll_target=fleet.target,
        ca=fleet.authority.root,
        state_dir=tmp_path,
    )
    starting = asyncio.create_task(agent.__aenter__())
    await asyncio.sleep(0.5)
    async with fleet:
        await asyncio.wait_for(starting, 15)
        assert agent.state is AgentState.ACTIVE
        await agent.aclose()


async def test_an_agent_with_a_wrong_join_token_does_not_wait(
    fleet: SecureFleet, tmp_path: Path
) -> None:
    agent = Agent(
        "worker",
        "1.0.0",
        target=fleet.mtls_target,
        join_token=SECRET[::-1],
        enroll_target=fleet.target,
        ca=fleet.authority.root,
        state_dir=tmp_path,
    )
    async with asyncio.timeout(5):
        with pytest.raises(Unauthenticated):
            await agent.__aenter__()


def test_arguments_of_an_identity_need_a_join_token() -> None:
    with pytest.raises(ValueError, match="go together"):
        Agent("a", "1.0.0", ca=b"pem")
    with pytest.raises(ValueError, match="go together"):
        Agent("a", "1.0.0", client=FleetClient(), join_token=SECRET)
