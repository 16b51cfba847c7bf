"""What the product is for, as stories told through the SDK against the real daemon."""

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from fleetplane import (
    Agent,
    AgentSpec,
    AgentStatus,
    AlreadyExists,
    ApprovalRequired,
    FleetClient,
    NotFound,
    PolicyAction,
    PolicyDenied,
    Reason,
    Scope,
)
from tests.fakes.daemon import Daemon, running_daemon
from tests.fakes.eventually import SOON_SECONDS, eventually

# The repository's root: the reference policies are the ones its users read.
REFERENCE = Path(__file__).parents[2] / "examples" / "policies" / "reference.yaml"

# An agent that is a process of its own, so that it can be killed without a goodbye.
AGENT = """
import asyncio, sys
from fleetplane import Agent

async def main(target, namespace, instance_id):
    async with Agent("worker", "1.0.0", target=target, namespace=namespace,
                     instance_id=instance_id, capabilities=["dig"]) as agent:
        print(agent.agent_id, agent.generation, flush=True)
        await agent.wait_ended()

asyncio.run(main(*sys.argv[1:]))
"""


@asynccontextmanager
async def agent_process(
    target: str, namespace: str, instance_id: str
) -> AsyncIterator[tuple[asyncio.subprocess.Process, str, int]]:
    """Run an agent; yield its process, agent_id and generation."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", AGENT, target, namespace, instance_id),
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(SOON_SECONDS):
            agent_id, generation = (await process.stdout.readline()).decode().split()
        yield process, agent_id, int(generation)
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGKILL)
        await process.wait()


def reference_policies() -> list[dict[str, Any]]:
    return list(yaml.safe_load(REFERENCE.read_text(encoding="utf-8"))["policies"])


async def _has_status(client: FleetClient, agent: Agent, wanted: AgentStatus) -> bool:
    return AgentStatus((await client.get_agent(agent.agent_id)).status) is wanted


async def install_reference_policies(client: FleetClient) -> None:
    for fields in reference_policies():
        policy_id = fields.pop("policy_id")
        fields["action"] = PolicyAction[fields["action"]]
        await client.create_policy(policy_id, **fields)


async def test_1_an_agent_registers_beats_becomes_active_and_is_discovered(
    client: FleetClient,
) -> None:
    """Story 1. An agent starts; an orchestrator that needs its capability finds it, and why."""
    with pytest.raises(NotFound) as nobody:
        await client.find_best_agent(capabilities=["summarize"])
    assert nobody.value.reason is Reason.NO_CANDIDATE

    async with Agent(
        "summarizer", "2.1.0", client=client, capabilities=["summarize"], tags={"env": "prod"}
    ) as agent:
        assert agent.may_work
        await eventually("it is ACTIVE", lambda: _has_status(client, agent, AgentStatus.ACTIVE))
        known = await client.get_agent(agent.agent_id)
        assert known.HasField("last_heartbeat")
        assert [i.instance_id for i in known.instances] == [agent.instance_id]

        found = [a async for a in client.discover(capabilities=["summarize"], tags={"env": "prod"})]
        assert [a.agent_id for a in found] == [agent.agent_id]
        assert [a async for a in client.discover(capabilities=["summarize", "fly"])] == []
        best = await client.find_best_agent(capabilities=["summarize"])
        assert best.agent.agent_id == agent.agent_id
        assert best.score.capability_match == pytest.approx(1.0)

        with pytest.raises(AlreadyExists) as twice:
            await client.register(AgentSpec(name="summarizer", version="2.1.0"), agent_id="another")
        assert twice.value.metadata["agent_id"] == agent.agent_id

    await eventually("it has left", lambda: _has_status(client, agent, AgentStatus.INACTIVE))
    assert [a async for a in client.discover(capabilities=["summarize"])] == []


async def test_2_a_configuration_arrives_at_the_agent_while_it_runs(client: FleetClient) -> None:
    """Story 2. An operator changes behaviour without a deployment, sees it run, takes it back."""
    applied: asyncio.Queue[float] = asyncio.Queue()
    async with Agent(
        "writer",
        "1.0.0",
        client=client,
        on_config=lambda config: applied.put_nowait(config.temperature),
    ) as agent:
        assert await applied.get() == pytest.approx(0.7)  # the documented default
        scope = Scope(agent_name="writer")
        change = await client.update_config({"temperature": 0.2}, scope=scope, reason="colder")
        async with asyncio.timeout(SOON_SECONDS):
            assert await applied.get() == pytest.approx(0.2)
        outcome = await client.wait_for_convergence(
            change.layer.revision, scope=scope, timeout=SOON_SECONDS
        )
        assert outcome.converged
        assert outcome.converged_instances == 1

        second = await client.update_config({"temperature": 0.9}, scope=scope)
        async with asyncio.timeout(SOON_SECONDS):
            assert await applied.get() == pytest.approx(0.9)
        back = await client.rollback_config(change.layer.revision, scope=scope, reason="too warm")
        assert back.restored_from == change.layer.revision
        assert back.revision > second.layer.revision
        async with asyncio.timeout(SOON_SECONDS):
            assert await applied.get() == pytest.approx(0.2)
        assert agent.config.temperature == pytest.approx(0.2)


async def test_3_a_refused_configuration_leaves_the_running_one_and_says_so(
    client: FleetClient,
) -> None:
    """Story 3. An agent cannot run what it is given; it keeps the old one and the plane knows."""

    def picky(config: Any) -> None:
        if config.model == "unknown-model":
            raise ValueError("no such model here")

    async with Agent("picky", "1.0.0", client=client, on_config=picky) as agent:
        change = await client.update_config(
            {"model": "unknown-model"}, scope=Scope(agent_id=agent.agent_id)
        )

        async def reported() -> bool:
            known = await client.get_agent(agent.agent_id)
            return "no such model here" in known.instances[0].config.error

        await eventually("the failed attempt is reported", reported)
        known = (await client.get_agent(agent.agent_id)).instances[0].config
        assert known.attempted_revision == change.layer.revision
        assert known.running_revision < change.layer.revision
        outcome = await client.wait_for_convergence(change.layer.revision, timeout=1.0)
        assert [laggard.agent_id for laggard in outcome.laggards] == [agent.agent_id]
        assert agent.config.model == "claude-sonnet-4-6"


async def test_4_the_reference_policies_stop_what_they_must(client: FleetClient) -> None:
    """Story 4. Three rules: production writes wait, expensive actions and leaks are refused."""
    await install_reference_policies(client)
    async with (
        Agent("inside", "1.0.0", client=client, tags={"scope": "internal"}) as inside,
        Agent("outside", "1.0.0", client=client, tags={"scope": "public"}) as outside,
    ):
        with pytest.raises(ApprovalRequired) as wait:
            await outside.require("database_write", environment="production")
        assert list(wait.value.decision.determining_policies) == ["prod-db-restrict"]
        assert await outside.require("database_write", environment="staging")

        with pytest.raises(PolicyDenied) as dear:
            await outside.require("search", estimated_cost=1.01)
        assert list(dear.value.decision.determining_policies) == ["cost-limit"]
        assert await outside.require("search", estimated_cost=1.0)

        with pytest.raises(PolicyDenied) as leak:
            await inside.require("external_api_call")
        assert list(leak.value.decision.determining_policies) == ["no-external-comms"]
        assert await outside.require("external_api_call")
        # What an agent claims about itself replaces nothing the registry knows.
        with pytest.raises(PolicyDenied):
            await inside.require("external_api_call", agent_tags={"scope": "public"})

        await client.update_policy("cost-limit", enabled=False)

        async def relaxed() -> bool:
            decision = await outside.check("search", estimated_cost=50.0)
            return PolicyAction(decision.action) is PolicyAction.ALLOW

        await eventually("the disabled policy stops nothing", relaxed)


async def test_5_a_killed_agent_degrades_is_lost_and_comes_back(namespace: str) -> None:
    """Story 5. The process dies without a goodbye; the plane notices, in steps; a new one heals."""
    with running_daemon(
        heartbeat_interval_seconds=0.3,
        degraded_after_seconds=1.2,
        lost_after_seconds=3.0,
        grace_seconds=1.0,
    ) as daemon:
        async with FleetClient(daemon.address, namespace=namespace) as client:
            await _a_life(client, daemon, namespace)


async def _a_life(client: FleetClient, daemon: Daemon, namespace: str) -> None:
    seen: list[AgentStatus] = []

    async def watch() -> None:
        async with client.watch_agents() as events:
            async for event in events:
                agents = getattr(event, "agents", ())
                for status in (AgentStatus(agent.status) for agent in agents):
                    if seen[-1:] != [status]:
                        seen.append(status)

    watching = asyncio.create_task(watch())
    try:
        async with agent_process(daemon.address, namespace, "box-1") as (process, _, generation):
            process.kill()
            await eventually(
                "the killed agent is lost", lambda: seen[-1:] == [AgentStatus.INACTIVE]
            )
        lost = [agent async for agent in client.list_agents()]
        assert [agent.status_reason for agent in lost] == ["LOST"]
        async with agent_process(daemon.address, namespace, "box-1") as (_, agent_id, newer):
            assert newer > generation, "a new process fences the old one"
            assert agent_id == lost[0].agent_id, "it is still the same agent"
            await eventually("the agent is back", lambda: seen[-1:] == [AgentStatus.ACTIVE])
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
    # The watch may skip states that passed quickly, but never turns them around.
    life = [
        AgentStatus.REGISTERED,
        AgentStatus.ACTIVE,
        AgentStatus.DEGRADED,
        AgentStatus.INACTIVE,
        AgentStatus.ACTIVE,
    ]
    assert AgentStatus.DEGRADED in seen
    rest = iter(life)
    assert all(status in rest for status in seen), seen


async def test_6_what_was_acknowledged_survives_a_kill_and_the_agent_returns_by_itself(
    namespace: str,
) -> None:
    """Story 6. The daemon is killed and started again: nothing to do for anybody."""
    with running_daemon(grace_seconds=1.0) as daemon:
        async with FleetClient(daemon.address, namespace=namespace) as client:
            await install_reference_policies(client)
            async with Agent("steady", "1.0.0", client=client, capabilities=["stay"]) as agent:
                change = await client.update_config({"extra.answer": 42})
                await daemon.arestart()
                config = await client.get_config(min_revision=change.layer.revision)
                assert json.loads(json.dumps(dict(config.extra))) == {"answer": 42}
                assert [p.policy_id async for p in client.list_policies()] == [
                    "prod-db-restrict",
                    "cost-limit",
                    "no-external-comms",
                ]
                found = [a.agent_id async for a in client.discover(capabilities=["stay"])]
                assert found == [agent.agent_id], "nobody is degraded because we were away"
                with pytest.raises(PolicyDenied):
                    await agent.require("search", estimated_cost=2.0)
                assert agent.may_work
