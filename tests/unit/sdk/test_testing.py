"""The fixture for users' tests starts the real daemon and leaves nothing behind."""

import asyncio
import os

import psutil
import pytest

from fleetplane import Agent, AgentStatus, Catalogue, PolicyAction, PolicyDenied
from fleetplane.testing import Fleet, FleetDidNotStart, fleet, fleet_server

__all__ = ["fleet_server"]


async def test_an_agent_lives_with_the_real_daemon(
    fleet_server: Fleet,
) -> None:
    async with fleet_server.client() as client, Catalogue(client) as catalogue:
        async with Agent(
            "summarizer", "2.1.0", client=client, capabilities=["summarize"], tags={"scope": "in"}
        ) as agent:
            assert agent.may_work
            changed = await client.update_config({"temperature": 0.1})
            done = await client.wait_for_convergence(changed.layer.revision, timeout=10)
            assert done.converged
            assert agent.config.temperature == 0.1
            await client.create_policy(
                "no-external",
                action=PolicyAction.DENY,
                conditions={"agent_tags": {"scope": "in"}, "action": "call"},
            )
            with pytest.raises(PolicyDenied):
                await agent.require("call")
            await catalogue.ready()
            best = await client.find_best_agent(capabilities="summarize")
            assert best.agent.agent_id == agent.agent_id
            assert best.instance.instance_id == agent.instance_id
        async with asyncio.timeout(5):
            while (left := catalogue.get(agent.agent_id)) is None or left.instances:
                await catalogue.reached(catalogue.position.revision + 1)
        assert AgentStatus(left.status) is AgentStatus.INACTIVE


async def test_nothing_stays_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEETPLANE_LISTEN", "nonsense")
    async with fleet() as running:
        assert psutil.pid_exists(running.pid)
        assert running.pid != os.getpid()
    assert not psutil.pid_exists(running.pid)


async def test_a_daemon_that_cannot_start_is_quoted() -> None:
    with pytest.raises(FleetDidNotStart, match="--no-such-option"):
        async with fleet("--no-such-option"):
            pass


async def test_without_the_daemon_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(FleetDidNotStart, match="pip install fleetplane"):
        async with fleet():
            pass
