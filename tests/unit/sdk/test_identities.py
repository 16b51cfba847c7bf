"""Whose identity is in a state directory, and what an agent makes of a ban."""

import json
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from fleetplane import Agent, AgentState, ChannelConfig, EnrolledIdentity, FleetClient, Reason
from tests.fakes.eventually import eventually
from tests.fakes.fleet_plane import Plane, Refusal
from tests.fakes.secure_fleet import SECRET, SecureFleet

OTHER = "jt-2.secret"

BANNED = Refusal(grpc.StatusCode.PERMISSION_DENIED, "AGENT_BANNED")


@pytest.fixture
async def fleet() -> AsyncIterator[SecureFleet]:
    async with SecureFleet(uses_left=9) as running:
        yield running


def identity_of(fleet: SecureFleet, state_dir: Path, join_token: str | Path) -> EnrolledIdentity:
    return EnrolledIdentity(
        "worker",
        join_token=join_token,
        enroll_target=fleet.target,
        ca=fleet.authority.root,
        state_dir=state_dir,
    )


async def namespace_with(fleet: SecureFleet, state_dir: Path, join_token: str | Path) -> str:
    identity = identity_of(fleet, state_dir, join_token)
    async with FleetClient(fleet.mtls_target, identity=identity) as client:
        return client.namespace


async def test_an_agent_is_in_the_namespace_of_the_join_token_that_it_is_given(
    fleet: SecureFleet, tmp_path: Path
) -> None:
    fleet.secrets[OTHER] = "sales"
    assert await namespace_with(fleet, tmp_path, SECRET) == "research"
    assert await namespace_with(fleet, tmp_path, OTHER) == "sales"
    for same in (OTHER, "", tmp_path / "missing"):
        assert await namespace_with(fleet, tmp_path, same) == "sales"
    assert fleet.plane.calls["Enroll"] == 2


async def test_an_identity_outlives_the_start_of_another_control_plane(tmp_path: Path) -> None:
    for secret in (SECRET, OTHER):  # the second one has an authority of its own
        async with SecureFleet() as fleet:
            fleet.secrets = {secret: "research"}
            identity = identity_of(fleet, tmp_path, secret)
            async with FleetClient(fleet.mtls_target, identity=identity) as client:
                assert (await client.who_am_i()).name.endswith("/agent/worker")


async def test_another_join_token_that_is_refused_leaves_the_identity_in_use(
    fleet: SecureFleet, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert await namespace_with(fleet, tmp_path, SECRET) == "research"
    assert await namespace_with(fleet, tmp_path, OTHER) == "research"
    assert "that identity stays in use" in caplog.text
    assert OTHER not in caplog.text


async def test_a_certificate_whose_root_was_retired_is_replaced_with_the_same_join_token(
    tmp_path: Path,
) -> None:
    async with SecureFleet() as before:
        assert await namespace_with(before, tmp_path, SECRET) == "research"
    async with SecureFleet() as after:  # trusts another root only, and the agent knows it
        (file,) = (tmp_path / "identities").iterdir()
        held = json.loads(file.read_text())
        held["trust_bundle"] = after.authority.root.decode()
        file.write_text(json.dumps(held))
        identity = identity_of(after, tmp_path, SECRET)
        config = ChannelConfig(default_timeout=20.0)
        async with FleetClient(
            after.mtls_target, identity=identity, channel_config=config
        ) as client:
            assert (await client.who_am_i()).name.endswith("/agent/worker")
        assert after.plane.calls["Enroll"] == 1


async def test_a_banned_agent_says_so_takes_no_work_and_comes_back(
    client: FleetClient, plane: Plane, caplog: pytest.LogCaptureFixture
) -> None:
    states: list[AgentState] = []
    async with Agent(
        "worker", "1.0.0", client=client, on_state=lambda state, _: states.append(state)
    ) as agent:
        plane.failures["Heartbeat"].extend([BANNED] * 4)
        plane.send_everybody_away()
        await eventually("it knows", lambda: agent.state is AgentState.INACTIVE)
        assert agent.error is not None
        assert agent.error.reason is Reason.AGENT_BANNED
        await eventually("it is back", lambda: agent.state is AgentState.ACTIVE, within=20)
        assert agent.error is None
        assert AgentState.REGISTERING not in states[2:]
    said = [one for one in caplog.records if one.levelno >= logging.WARNING]
    assert len([one for one in said if "heartbeat stream ended" in one.getMessage()]) == 1
