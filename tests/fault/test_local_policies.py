"""An agent's process goes on deciding, whatever becomes of the daemon, and by what is newest."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import pytest

from fleetplane import (
    Agent,
    ChannelConfig,
    FleetClient,
    LocalDecisions,
    NotFound,
    PolicyAction,
    StalePolicies,
    from_struct,
)
from fleetplane.local import LocalPolicies
from fleetplane.v1 import decision_service_pb2 as decision_pb
from fleetplane.v1 import policy_service_pb2 as pb
from tests.fakes.daemon import Daemon, running_daemon
from tests.fakes.eventually import eventually
from tests.fakes.valkey import valkey_server

pytestmark = [
    pytest.mark.fault,
    pytest.mark.xdist_group("local policies"),
    pytest.mark.timeout(120),
]

QUICK = ChannelConfig(max_reconnect_backoff=0.3)
INTERNAL = {"agent_tags": {"scope": "internal"}, "action": "external_api_call"}


@dataclass
class Place:
    """A daemon, a client, and an agent that is registered there and then left alone."""

    daemon: Daemon
    client: FleetClient


@asynccontextmanager
async def place() -> AsyncIterator[Place]:
    with running_daemon(grace_seconds=1.0) as daemon:
        async with FleetClient(daemon.address, channel_config=QUICK) as client:
            yield Place(daemon, client)


@asynccontextmanager
async def two_replicas() -> AsyncIterator[tuple[Daemon, Daemon, FleetClient]]:
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(valkey_server())
        first, second = (
            stack.enter_context(running_daemon(store=store.url, grace_seconds=1.0))
            for _ in range(2)
        )
        target = f"ipv4:{first.address},{second.address}"
        client = await stack.enter_async_context(FleetClient(target, channel_config=QUICK))
        yield first, second, client


async def deny(client: FleetClient, policy_id: str, **conditions: str) -> int:
    """Write a policy; return the revision at which it is in force."""
    written = await client.create_policy(
        policy_id, conditions=conditions, action=PolicyAction.DENY, timeout=30
    )
    return written.policy.revision


def decided_by(policies: LocalPolicies, action: str) -> list[str]:
    return list(policies.decide(action).determining_policies)


async def test_changes_of_policies_and_of_the_agent_arrive() -> None:
    async with (
        place() as at,
        Agent("w", "1.0.0", client=at.client, agent_id="a", tags={"scope": "public"}),
        at.client.local_policies("a") as policies,
    ):
        assert policies.decide("read").reason == pb.PolicyDecision.REASON_NO_POLICY_LOADED
        await policies.reached(await deny(at.client, "p1", action="read"))
        assert decided_by(policies, "read") == ["p1"]
        await at.client.update_policy("p1", conditions={"action": "write"})
        await eventually("the change arrives", lambda: decided_by(policies, "read") == [])
        assert decided_by(policies, "write") == ["p1"]
        await policies.reached(await at.client.delete_policy("p1"))
        assert decided_by(policies, "write") == []

        await at.client.create_policy("tags", conditions=INTERNAL, action=PolicyAction.DENY)
        assert decided_by(policies, "external_api_call") == []
        changed = await at.client.update_agent("a", tags={"scope": "internal"})
        await policies.reached(changed.revision)
        assert decided_by(policies, "external_api_call") == ["tags"]


async def test_a_copy_outlives_the_daemon_and_catches_up_with_the_next() -> None:
    async with (
        place() as at,
        Agent("w", "1.0.0", client=at.client, agent_id="a"),
        at.client.local_policies("a") as policies,
    ):
        await policies.reached(await deny(at.client, "p1", action="read"))
        at.daemon.kill()
        await eventually("the loss is noticed", lambda: not policies.connected)
        assert decided_by(policies, "read") == ["p1"]
        age = policies.decide("read").snapshot_age_seconds
        await eventually("the copy is seen to age", lambda: policies.age > age + 0.2)
        await at.daemon.astart()
        await policies.reached(await deny(at.client, "p2", action="write"))
        assert (decided_by(policies, "read"), decided_by(policies, "write")) == (["p1"], ["p2"])
        assert policies.connected


async def test_a_copy_that_is_too_old_follows_the_fail_mode_until_the_daemon_is_back() -> None:
    async with (
        place() as at,
        Agent("w", "1.0.0", client=at.client, agent_id="a"),
        at.client.local_policies("a", max_staleness=20, fail_mode={"read.*": "allow"}) as policies,
    ):
        # A daemon that is there speaks every 15 s; this one does not get to.
        policies._max_staleness = 1.0
        at.daemon.kill()
        await eventually("the copy is too old", lambda: policies.age > 1.0)
        with pytest.raises(StalePolicies):
            policies.decide("write")
        answer = policies.decide("read.file")
        assert answer.reason == pb.PolicyDecision.REASON_SNAPSHOT_STALE
        assert answer.snapshot_age_seconds > 1.0
        policies._max_staleness = 20.0
        await at.daemon.astart()
        await eventually("the daemon is heard again", lambda: policies.connected)
        assert policies.decide("read.file").reason == pb.PolicyDecision.REASON_NO_POLICY_LOADED


async def test_decisions_made_here_are_in_the_log_even_if_the_daemon_was_away() -> None:
    async with (
        place() as at,
        Agent("w", "1.0.0", client=at.client, agent_id="a"),
        at.client.local_policies("a") as policies,
    ):
        await policies.reached(await deny(at.client, "p1", environment="production"))
        at.daemon.kill()
        context = {"environment": "production", "cost": 0.5}
        decision = policies.decide("write", context, tool="sql", session_id="s-1")
        await at.daemon.astart()
        await eventually("the decision was reported", lambda: policies.unreported == 0)
        request = decision_pb.GetDecisionRequest(decision_id=decision.decision_id)
        connection = at.client.connection

        async def recorded() -> bool:
            try:
                await connection.call(connection.decisions.GetDecision, request)
            except NotFound:
                return False
            return True

        await eventually("the decision is in the log", recorded)
        found = (await connection.call(connection.decisions.GetDecision, request)).decision
        assert found.origin == decision_pb.DECISION_ORIGIN_LOCAL
        assert (found.agent_id, found.action, found.tool) == ("a", "write", "sql")
        assert from_struct(found.context) == context
        assert found.session_id == "s-1"
        assert found.policy_digest.startswith("sha256:")
        assert list(found.decision.determining_policies) == ["p1"]
        assert policies.lost == 0


async def test_either_of_two_replicas_keeps_a_copy_up_to_date() -> None:
    async with (
        two_replicas() as (first, second, client),
        Agent("w", "1.0.0", client=client, agent_id="a"),
        client.local_policies("a") as policies,
    ):
        for number, (dying, staying) in enumerate([(first, second), (second, first)]):
            action = f"act-{number}"
            await policies.reached(await deny(client, f"p{number}", action=action))
            assert decided_by(policies, action) == [f"p{number}"]
            dying.kill()
            async with FleetClient(staying.address, channel_config=QUICK) as other:
                await policies.reached(await deny(other, f"q{number}", action=f"{action}-q"))
                remote = await other.evaluate_policy("a", f"{action}-q")
            assert decided_by(policies, f"{action}-q") == [f"q{number}"]
            assert list(remote.determining_policies) == [f"q{number}"]
            await dying.astart()


async def test_an_agent_decides_here_and_asks_while_it_does_not_know_yet() -> None:
    async with place() as at:
        await deny(at.client, "p1", action="read")
        agent = Agent("w", "1.0.0", client=at.client, agent_id="a", local_policies=LocalDecisions())
        async with agent:
            asked = await agent.decide("read")
            assert list(asked.determining_policies) == ["p1"]
            policies = agent.local_policies
            assert policies is not None
            await policies.ready()
            here = await agent.decide("read", environment="x")
            assert list(here.determining_policies) == ["p1"]
            assert policies.unreported or here.snapshot_age_seconds > 0
            at.daemon.kill()
            assert (await agent.decide("read")).policy_revision == here.policy_revision
            await at.daemon.astart()


async def test_the_agents_of_a_process_share_one_watch_and_are_told_apart() -> None:
    async with place() as at:
        names = [f"agent-{number}" for number in range(40)]
        async with AsyncExitStack() as stack:
            agents = [
                await stack.enter_async_context(
                    Agent(
                        name,
                        "1.0.0",
                        client=at.client,
                        agent_id=name,
                        tags={"n": str(number % 2)},
                        local_policies=LocalDecisions(),
                    )
                )
                for number, name in enumerate(names)
            ]
            revision = (
                await at.client.create_policy(
                    "odd", conditions={"agent_tags": {"n": "1"}}, action=PolicyAction.DENY
                )
            ).policy.revision
            for number, agent in enumerate(agents):
                policies = agent.local_policies
                assert policies is not None
                await policies.ready()
                await policies.reached(revision)
                assert decided_by(policies, "read") == (["odd"] if number % 2 else [])
            feeds = {id(agent.local_policies._feed) for agent in agents if agent.local_policies}
            assert len(feeds) == 1
