"""A candidate, from its draft to all agents and back, on real daemons: it does as foretold."""

import asyncio
from collections.abc import Iterator

import pytest

from controlplane.domain.routes import bucket
from fleetplane import (
    AgentSpec,
    Evaluation,
    FailedPrecondition,
    FleetClient,
    PolicyAction,
    PolicyFields,
    PolicyStageKind,
    PolicyTest,
    PolicyTestAgent,
    RevisionConflict,
)
from fleetplane.v1 import policy_service_pb2 as pb
from tests.fakes.daemon import Daemon, running_daemon
from tests.fakes.eventually import eventually
from tests.fakes.valkey import valkey_server

pytestmark = [pytest.mark.xdist_group("policy changes"), pytest.mark.timeout(240)]

DECISIONS = 10_000
BATCH = 250
AGENTS = 20

LIVE: dict[str, PolicyFields] = {
    "costly": {"action": PolicyAction.DENY, "conditions": {"estimated_cost_exceeds": 9}},
    "writes": {
        "action": PolicyAction.REQUIRE_APPROVAL,
        "conditions": {"action": "write", "environment": "production"},
        "priority": 10,
    },
}
CHANGE: dict[str, PolicyFields] = {
    "costly": {"action": PolicyAction.DENY, "conditions": {"estimated_cost_exceeds": 4}},
    "reads": {
        "action": PolicyAction.DENY,
        "conditions": {"action": "read", "environment": "staging"},
    },
}


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with running_daemon(grace_seconds=2.0) as one:
        yield one


async def agents_of(client: FleetClient, name: str = "worker", count: int = AGENTS) -> list[str]:
    specs = [AgentSpec(name=name, version=f"1.0.{number}") for number in range(count)]
    return [(await client.register(spec)).agent.agent_id for spec in specs]


def questions(agents: list[str]) -> list[Evaluation]:
    """Return 10,000 questions that policies answer in every way."""
    return [
        Evaluation(
            agent_id=agents[n % len(agents)],
            action=("read", "write", "call")[n % 3],
            context={
                "environment": ("production", "staging")[n % 2],
                "estimated_cost": n % 13,
            },
        )
        for n in range(DECISIONS)
    ]


async def answers(client: FleetClient, asked: list[Evaluation]) -> list[pb.PolicyDecision]:
    found: list[pb.PolicyDecision] = []
    for start in range(0, len(asked), BATCH):
        for one in await client.batch_evaluate_policy(asked[start : start + BATCH]):
            assert isinstance(one, pb.PolicyDecision), one
            found.append(one)
    return found


async def create(client: FleetClient, policies: dict[str, PolicyFields]) -> int:
    for policy_id, fields in policies.items():
        await client.create_policy(policy_id, **fields)
    return (await client.get_policy_revision()).revision.revision


async def test_the_flips_of_a_replay_are_those_of_the_enforced_candidate(daemon: Daemon) -> None:
    async with FleetClient(daemon.address, namespace="foretold") as client:
        agents = await agents_of(client)
        live = await create(client, LIVE)
        asked = questions(agents)
        before = await answers(client, asked)
        candidate = (await client.create_policy_candidate(CHANGE)).candidate

        async def recorded() -> bool:
            found = await client.simulate_policies(candidate.candidate_id, timeout=60)
            return found.report.recorded == DECISIONS

        await eventually("every decision is in the log", recorded)
        told = await client.simulate_policies(candidate.candidate_id, timeout=60)
        report = told.report
        assert report.made == report.replayed == DECISIONS
        assert report.masked == report.lost == report.unreadable == 0
        assert told.live_revision == live
        await client.activate_policies(candidate.candidate_id, expected_revision=live)
        after = await answers(client, asked)
        differ = {
            was.decision_id: (was.action, now.action)
            for was, now in zip(before, after, strict=True)
            if was.action != now.action
        }
        assert report.flips == len(differ) > 1_000
        assert {(one.before, one.after): one.count for one in report.by_action} == {
            pair: sum(pair == other for other in differ.values()) for pair in differ.values()
        }
        assert sum(one.count for one in report.by_agent) == len(differ)
        assert len(report.examples) == 50
        assert all(differ[one.decision_id] == (one.before, one.after) for one in report.examples)


async def test_a_flip_budget_stops_an_activation(daemon: Daemon) -> None:
    async with FleetClient(daemon.address, namespace="budget") as client:
        agents = await agents_of(client, count=2)
        await create(client, LIVE)
        await answers(client, questions(agents)[:500])
        candidate = (await client.create_policy_candidate(CHANGE)).candidate

        async def refused() -> bool:
            try:
                await client.activate_policies(
                    candidate.candidate_id, max_flips=1, dry_run=True, timeout=60
                )
            except FailedPrecondition as error:
                return error.reason == "TOO_MANY_FLIPS"
            return False

        await eventually("more flips are found than allowed", refused)
        done = await client.activate_policies(candidate.candidate_id, max_flips=500, timeout=60)
        assert 0 < done.report.flips <= 500


async def test_tests_that_fail_block_and_are_named(daemon: Daemon) -> None:
    async with FleetClient(daemon.address, namespace="tested") as client:
        await create(client, LIVE)
        works = PolicyTest(
            name="reads in staging work",
            action="read",
            expect=PolicyAction.ALLOW,
            agent=PolicyTestAgent(name="worker"),
            context={"environment": "staging"},
        )
        kept = await client.replace_policy_tests([works])
        assert not kept.failures
        shown = await client.create_policy_candidate(CHANGE)
        assert [one.name for one in shown.failures] == ["reads in staging work"]
        with pytest.raises(FailedPrecondition, match="reads in staging work") as refused:
            await client.activate_policies(shown.candidate.candidate_id)
        assert refused.value.reason == "POLICY_TESTS_FAILED"


async def test_two_editors_do_not_overwrite_one_another(daemon: Daemon) -> None:
    async with FleetClient(daemon.address, namespace="editors") as client:
        live = await create(client, LIVE)
        first = (await client.create_policy_candidate(CHANGE)).candidate
        second = (await client.create_policy_candidate(delete="writes")).candidate
        outcomes = await asyncio.gather(
            client.activate_policies(first.candidate_id, expected_revision=live),
            client.activate_policies(second.candidate_id, expected_revision=live),
            return_exceptions=True,
        )
        refused = [one for one in outcomes if isinstance(one, RevisionConflict)]
        assert len(refused) == 1


async def test_a_rollback_restores_and_says_from_where(daemon: Daemon) -> None:
    async with FleetClient(daemon.address, namespace="back") as client:
        live = await create(client, LIVE)
        digest = (await client.get_policy_revision()).digest
        candidate = (await client.create_policy_candidate(CHANGE)).candidate
        await client.activate_policies(candidate.candidate_id, expected_revision=live)
        done = await client.rollback_policies(live, reason="too strict")
        now = await client.get_policy_revision()
        assert now.digest == digest
        assert now.revision.restored_from == live
        assert now.revision.revision == done.live_revision > live
        assert now.revision.reason == "too strict"
        assert not (await client.diff_policy_revisions(live)).differences
        kinds = [one.kind async for one in client.list_policy_revisions()]
        assert kinds == [
            pb.POLICY_CHANGE_KIND_ROLLED_BACK,
            pb.POLICY_CHANGE_KIND_ACTIVATED,
            pb.POLICY_CHANGE_KIND_CREATED,
            pb.POLICY_CHANGE_KIND_CREATED,
        ]


async def test_a_share_of_the_agents_stays_the_same_after_a_restart() -> None:
    with running_daemon(grace_seconds=2.0) as daemon:
        async with FleetClient(daemon.address) as client:
            agents = await agents_of(client, count=60)
            await create(client, LIVE)
            candidate = (await client.create_policy_candidate(CHANGE)).candidate
            staged = await client.activate_policies(
                candidate.candidate_id, PolicyStageKind.PERCENT, percent=30
            )
            chosen = await decided_by(client, agents, candidate.candidate_id)
            assert chosen == {
                one for one in agents if bucket(f"policy:{staged.stage.stage_id}", one) < 3_000
            }
            stage = await client.get_policy_stage()
            assert (stage.agents, stage.agents_total) == (len(chosen), 60)
        await daemon.arestart()
        async with FleetClient(daemon.address) as client:
            assert await decided_by(client, agents, candidate.candidate_id) == chosen
            await client.activate_policies(
                candidate.candidate_id, PolicyStageKind.PERCENT, percent=80
            )
            assert chosen < await decided_by(client, agents, candidate.candidate_id)
            await client.stop_policy_stage(reason="enough")
            assert not await decided_by(client, agents, candidate.candidate_id)


async def decided_by(client: FleetClient, agents: list[str], candidate_id: str) -> set[str]:
    """Return the agents for whom a candidate decides."""
    asked = [Evaluation(agent_id=one, action="read") for one in agents]
    found = await client.batch_evaluate_policy(asked)
    assert all(isinstance(one, pb.PolicyDecision) for one in found)
    return {
        agent
        for agent, one in zip(agents, found, strict=True)
        if isinstance(one, pb.PolicyDecision) and one.candidate_id == candidate_id
    }


async def test_a_shadow_tells_what_it_would_have_decided(daemon: Daemon) -> None:
    async with FleetClient(daemon.address, namespace="shadow") as client:
        agents = await agents_of(client, count=2)
        await create(client, LIVE)
        candidate = (await client.create_policy_candidate(CHANGE)).candidate
        await client.activate_policies(candidate.candidate_id, PolicyStageKind.SHADOW)
        before = await answers(client, questions(agents)[:500])
        assert not any(one.candidate_id for one in before)

        async def compared() -> bool:
            seen = await client.get_policy_stage()
            return seen.report.replayed + seen.dropped >= len(before)

        await eventually("every decision is compared", compared)
        found = await client.get_policy_stage()
        assert found.dropped == 0
        assert found.report.flips > 0


async def test_two_replicas_choose_the_same_agents_and_see_one_revision() -> None:
    async with valkey_server() as store:
        with (
            running_daemon(store=store.url, grace_seconds=1.0) as one,
            running_daemon(store=store.url, grace_seconds=1.0) as other,
        ):
            async with FleetClient(one.address) as first, FleetClient(other.address) as second:
                agents = await agents_of(first, count=60)
                live = await create(first, LIVE)
                candidate = (await first.create_policy_candidate(CHANGE)).candidate
                staged = await first.activate_policies(
                    candidate.candidate_id, PolicyStageKind.PERCENT, percent=40
                )
                seen = staged.stage.revision
                there = await second.get_policy_stage(min_revision=seen)
                assert there.stage == staged.stage
                chosen = await decided_by(first, agents, candidate.candidate_id)
                assert chosen
                assert await decided_by(second, agents, candidate.candidate_id) == chosen
                # Whoever looks at the other replica edits on what the first one wrote.
                assert (await second.get_policy_revision()).revision.revision == live
                done = await second.activate_policies(
                    candidate.candidate_id, expected_revision=live
                )
                with pytest.raises(RevisionConflict):
                    await first.activate_policies(candidate.candidate_id, expected_revision=live)
                answer = await first.get_policy_revision(min_revision=done.live_revision)
                assert answer.revision.revision == done.live_revision
                assert answer.digest == (await second.get_policy_revision()).digest
