"""One corpus, one answer: the calls, the SDK, its own decision point and the bare engine agree.

Each group of the corpus becomes a namespace of a real daemon, with its agents alive in it.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import grpc
import msgspec
import pytest
from google.protobuf.json_format import ParseDict

from controlplane.domain.policies import Effect, Policy, PolicySet, Request, validate_claims
from fleetplane import Agent, Evaluation, ExplainLevel, FleetClient, FleetError
from fleetplane.v1 import policy_service_pb2 as pb
from fleetplane.v1 import policy_service_pb2_grpc
from tests.fakes.daemon import Daemon, running_daemon
from tests.fakes.eventually import eventually
from tests.policy_corpus.corpus import Case, Expected, Group, facts, groups

pytestmark = pytest.mark.xdist_group("policy corpus")

GROUPS = tuple(groups())

Shown = tuple[str, str, tuple[str, ...], tuple[str, ...], tuple[str, ...], tuple[str, ...]]
"""Effect, reason, and the determining, overridden, observed and indeterminate policies."""


@pytest.fixture(scope="module")
def daemons() -> Iterator[dict[str, Daemon]]:
    """One daemon per default effect: it is a setting."""
    with _daemon("ALLOW") as allowing, _daemon("DENY") as denying:
        yield {"ALLOW": allowing, "DENY": denying}


@contextmanager
def _daemon(default: str) -> Iterator[Daemon]:
    with running_daemon(policy_default=default, grace_seconds=2.0) as daemon:
        yield daemon


def expected(case: Case) -> Shown:
    said: Expected = case.expected
    return (
        said.effect,
        "OBSERVED" if said.reason == "LOG_ONLY" else said.reason,
        said.determining,
        said.overridden,
        tuple(sorted(k for k, truth in said.observations.items() if truth == "T")),
        said.indeterminate,
    )


def shown(decision: pb.PolicyDecision) -> Shown:
    return (
        pb.PolicyAction.Name(decision.action).removeprefix("POLICY_ACTION_"),
        pb.PolicyDecision.Reason.Name(decision.reason).removeprefix("REASON_"),
        tuple(decision.determining_policies),
        tuple(decision.overridden_policies),
        tuple(sorted(decision.observed_policies)),
        tuple(decision.indeterminate_policies),
    )


def by_the_bare_engine(group: Group, namespace: str) -> dict[str, Shown]:
    rules = PolicySet.compile(
        msgspec.convert(list(group.policies), list[Policy]),
        revision=1,
        default_effect=Effect(group.default_effect),
    )
    answers = {}
    for case in group.cases:
        decision = rules.evaluate(
            Request(
                agent_id=case.agent_id,
                action=case.action,
                tool=case.tool,
                facts=facts(group.agents[case.agent_id]) | {"namespace": namespace},
                claims=validate_claims(case.context),
                now_ms=1_700_000_000_000,
            )
        )
        reason = "OBSERVED" if decision.reason == "LOG_ONLY" else str(decision.reason)
        answers[case.name] = (
            str(decision.effect),
            reason,
            decision.determining,
            decision.overridden,
            tuple(sorted(o.policy_id for o in decision.observations if o.result == "T")),
            decision.indeterminate,
        )
    return answers


def policy_message(policy: Any) -> pb.Policy:
    """Return a policy of the corpus as the wire has it."""
    fields = {k: v for k, v in policy.items() if k != "scope"} | policy.get("scope", {})
    fields.setdefault("enabled", True)
    fields["action"] = f"POLICY_ACTION_{fields['action']}"
    if "on_missing" in fields:
        fields["on_missing"] = f"ON_MISSING_{fields['on_missing']}"
    return ParseDict(fields, pb.Policy())


@asynccontextmanager
async def fleet_of(group: Group, client: FleetClient) -> AsyncIterator[None]:
    """Have the agents of a group alive and ACTIVE."""
    agents = [
        Agent(
            spec["name"],
            spec["version"],
            client=client,
            agent_id=agent_id,
            tags=spec["tags"],
            capabilities=spec.get("capabilities", ()),
            tools=spec.get("tools", ()),
        )
        for agent_id, spec in group.agents.items()
    ]
    await asyncio.gather(*(agent.__aenter__() for agent in agents))
    try:

        async def all_active() -> bool:
            return len([a async for a in client.discover()]) == len(agents)

        # Where the default is DENY nobody may `activate` before a policy allows it.
        if group.default_effect == "ALLOW":
            await eventually("all agents are ACTIVE", all_active)
        yield
    finally:
        await asyncio.gather(*(agent.aclose() for agent in agents))


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: group.name)
async def test_every_decision_point_gives_the_same_answer(
    group: Group, daemons: dict[str, Daemon]
) -> None:
    target = daemons[group.default_effect].address
    namespace = re.sub(r"[^a-z0-9]+", "-", group.name.lower()).strip("-")
    async with (
        grpc.aio.insecure_channel(target) as channel,
        FleetClient(target, namespace=namespace) as client,
        fleet_of(group, client),
    ):
        # The generated annotations make an asynchronous stub of an asynchronous channel.
        stub = policy_service_pb2_grpc.PolicyServiceStub(channel)
        for policy in group.policies:
            await stub.CreatePolicy(
                pb.CreatePolicyRequest(namespace=namespace, policy=policy_message(policy))
            )
        wanted = {case.name: expected(case) for case in group.cases}
        assert by_the_bare_engine(group, namespace) == wanted
        assert await _one_by_one(group, namespace, stub) == wanted
        assert await _in_a_batch(group, client) == wanted
        assert await _through_the_sdk(group, client) == wanted
        assert await _in_this_process(group, client, stub) == wanted


async def _one_by_one(
    group: Group, namespace: str, stub: "policy_service_pb2_grpc.PolicyServiceAsyncStub"
) -> dict[str, Shown]:
    answers = {}
    for case in group.cases:
        request = pb.EvaluatePolicyRequest(
            namespace=namespace, agent_id=case.agent_id, action=case.action, tool=case.tool
        )
        request.context.update(case.context)
        answers[case.name] = shown((await stub.EvaluatePolicy(request)).decision)
    return answers


async def _in_a_batch(group: Group, client: FleetClient) -> dict[str, Shown]:
    decisions = await client.batch_evaluate_policy(
        [
            Evaluation(
                agent_id=case.agent_id, action=case.action, tool=case.tool, context=case.context
            )
            for case in group.cases
        ]
    )
    answers = {}
    for case, decision in zip(group.cases, decisions, strict=True):
        assert not isinstance(decision, FleetError), (case.name, decision)
        answers[case.name] = shown(decision)
    return answers


async def _in_this_process(
    group: Group, client: FleetClient, stub: "policy_service_pb2_grpc.PolicyServiceAsyncStub"
) -> dict[str, Shown]:
    """Decide here, on what the daemon sends; each answer is its answer, explanation and all."""
    answers = {}
    async with client.local_policies(*group.agents) as policies:
        for case in group.cases:
            request = pb.EvaluatePolicyRequest(
                namespace=client.namespace,
                agent_id=case.agent_id,
                action=case.action,
                tool=case.tool,
                explain=pb.EXPLAIN_LEVEL_FULL,
            )
            request.context.update(case.context)
            there = (await stub.EvaluatePolicy(request)).decision
            await policies.reached(there.policy_revision)
            here = policies.decide(
                case.action,
                case.context,
                tool=case.tool,
                agent_id=case.agent_id,
                explain=ExplainLevel.FULL,
            )
            answers[case.name] = shown(here)
            assert _in_full(here) == _in_full(there), case.name
    return answers


def _in_full(decision: pb.PolicyDecision) -> list[str]:
    """Show all of an answer but what is its own: id, age, approval, and the time it read."""
    assert decision.decision_id
    for own in ("decision_id", "snapshot_age_seconds", "approval_id", "approval_state"):
        decision.ClearField(own)
    return re.sub(r'observed: "\d{13}"', 'observed: "now"', str(decision)).splitlines()


async def _through_the_sdk(group: Group, client: FleetClient) -> dict[str, Shown]:
    """Ask all at once: they travel together."""
    decisions = await asyncio.gather(
        *(
            client.evaluate_policy(case.agent_id, case.action, tool=case.tool, context=case.context)
            for case in group.cases
        )
    )
    return {c.name: shown(d) for c, d in zip(group.cases, decisions, strict=True)}
