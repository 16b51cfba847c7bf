"""Policies: written with care, decided on facts, each item of a batch for itself."""

from dataclasses import replace
from typing import Any

import pytest

from controlplane.domain.errors import (
    AgentNotFound,
    InvalidArgument,
    LimitExceeded,
    PolicyExists,
    PolicyNotFound,
    RevisionConflict,
)
from controlplane.domain.policies import DecisionReason, Effect, Policy
from controlplane.services.policies.decisions import Answered, Question
from tests.fakes.plane import CALLER, NS, Plane

DENY_WRITES = Policy(
    policy_id="deny-writes", action=Effect.DENY, conditions={"action": "database_write"}
)


async def create(plane: Plane, policy: Policy, *, dry_run: bool = False) -> Policy:
    stored, _ = await plane.policies.create(
        NS, policy, reason="", request=None, dry_run=dry_run, caller=CALLER
    )
    await plane.follow()
    return stored


async def update(plane: Plane, policy: Policy, *fields: str, expected: int = 0) -> Policy:
    stored, _ = await plane.policies.update(
        NS,
        policy,
        fields,
        expected_revision=expected,
        reason="",
        request=None,
        dry_run=False,
        caller=CALLER,
    )
    await plane.follow()
    return stored


def ask(plane: Plane, agent_id: str, action: str, **claims: Any) -> Answered:
    return plane.decisions.evaluate(NS, Question(agent_id=agent_id, action=action, claims=claims))


async def test_a_stored_policy_decides_under_its_revision() -> None:
    plane = Plane()
    agent_id = (await plane.register()).agent.agent_id
    stored = await create(plane, DENY_WRITES)
    answer = ask(plane, agent_id, "database_write")
    assert answer.decision.effect is Effect.DENY
    assert answer.decision.determining == ("deny-writes",)
    assert answer.decision.revision == stored.revision
    assert ask(plane, agent_id, "database_read").decision.effect is Effect.ALLOW


async def test_every_decision_has_an_id_of_its_own() -> None:
    plane = Plane()
    agent_id = (await plane.register()).agent.agent_id
    ids = {ask(plane, agent_id, "read").decision_id for _ in range(100)}
    assert len(ids) == 100


async def test_facts_come_from_the_registry_and_not_from_the_caller() -> None:
    plane = Plane()
    agent_id = (await plane.register(tags={"scope": "internal"})).agent.agent_id
    await create(
        plane,
        Policy(
            policy_id="no-external",
            action=Effect.DENY,
            conditions={"agent_tags": {"scope": "internal"}, "action": "external_api_call"},
        ),
    )
    lied = ask(plane, agent_id, "external_api_call", agent_tags={"scope": "external"})
    assert lied.decision.effect is Effect.DENY


async def test_a_change_of_the_agent_changes_its_facts() -> None:
    plane = Plane()
    registered = await plane.register(tags={"scope": "internal"})
    agent = registered.agent
    await create(
        plane,
        Policy(
            policy_id="internal",
            action=Effect.DENY,
            conditions={"agent_tags": {"scope": "internal"}},
        ),
    )
    assert ask(plane, agent.agent_id, "x").decision.effect is Effect.DENY
    await plane.registry.update(
        NS,
        agent.agent_id,
        replace(agent.spec, tags={"scope": "external"}),
        ("tags",),
        expected_revision=0,
        reason="",
        request=None,
        caller=CALLER,
    )
    await plane.follow()
    assert ask(plane, agent.agent_id, "x").decision.effect is Effect.ALLOW


async def test_a_question_about_nobody_is_refused() -> None:
    with pytest.raises(AgentNotFound):
        ask(Plane(), "agt-none", "read")


@pytest.mark.parametrize("action", ["", "a b", "x" * 257, "é"])
async def test_a_malformed_action_is_refused(action: str) -> None:
    plane = Plane()
    agent_id = (await plane.register()).agent.agent_id
    with pytest.raises(InvalidArgument) as refusal:
        ask(plane, agent_id, action)
    assert refusal.value.violations[0].field == "action"


async def test_a_batch_is_decided_on_one_revision_and_each_item_fails_by_itself() -> None:
    plane = Plane()
    agent_id = (await plane.register()).agent.agent_id
    await create(plane, DENY_WRITES)
    revision, answers, _ = plane.decisions.evaluate_many(
        NS,
        [
            Question(agent_id=agent_id, action="database_write", claims={}),
            Question(agent_id="agt-none", action="read", claims={}),
            Question(agent_id=agent_id, action="read", claims={"cost": float("nan")}),
            Question(agent_id=agent_id, action="read", claims={}),
        ],
    )
    kinds = [type(answer).__name__ for answer in answers]
    assert kinds == ["Answered", "AgentNotFound", "InvalidArgument", "Answered"]
    assert revision == plane.read_model.view(NS).policy_set.revision


@pytest.mark.parametrize(("stop", "expected"), [(None, 3), (False, 2), (True, 1)])
async def test_a_batch_stops_where_its_mode_says(stop: bool | None, expected: int) -> None:
    plane = Plane()
    agent_id = (await plane.register()).agent.agent_id
    await create(plane, DENY_WRITES)
    questions = [
        Question(agent_id=agent_id, action=action, claims={})
        for action in ("read", "database_write", "read")
    ]
    _, answers, _ = plane.decisions.evaluate_many(NS, questions, stop_at_permitted=stop)
    assert len(answers) == expected


async def test_an_unknown_condition_is_refused_when_the_policy_is_written() -> None:
    wrong = Policy(policy_id="p", action=Effect.DENY, conditions={"estimted_cost_exceeds": 1.0})
    with pytest.raises(InvalidArgument) as refusal:
        await create(Plane(), wrong)
    violation = refusal.value.violations[0]
    assert violation.field == "policy.conditions.estimted_cost_exceeds"
    assert "estimated_cost" in violation.description


async def test_a_second_policy_under_the_same_id_is_refused() -> None:
    plane = Plane()
    await create(plane, DENY_WRITES)
    with pytest.raises(PolicyExists):
        await create(plane, DENY_WRITES)


async def test_a_dry_run_writes_nothing() -> None:
    plane = Plane()
    await create(plane, DENY_WRITES, dry_run=True)
    assert not (await plane.follow()).policies


async def test_a_namespace_holds_only_so_many_policies() -> None:
    plane = Plane(max_policies=1)
    await create(plane, DENY_WRITES)
    with pytest.raises(LimitExceeded) as refusal:
        await create(plane, replace(DENY_WRITES, policy_id="another"))
    assert refusal.value.metadata["limit"] == "1"


async def test_an_update_changes_only_its_fields_and_is_in_force_at_once() -> None:
    plane = Plane()
    agent_id = (await plane.register()).agent.agent_id
    stored = await create(plane, DENY_WRITES)
    changed = await update(plane, replace(DENY_WRITES, enabled=False, conditions={}), "enabled")
    assert changed.conditions == stored.conditions
    assert changed.revision > stored.revision
    assert ask(plane, agent_id, "database_write").decision.effect is Effect.ALLOW


async def test_a_stale_update_is_refused() -> None:
    plane = Plane()
    stored = await create(plane, DENY_WRITES)
    await update(plane, replace(DENY_WRITES, priority=1), "priority")
    with pytest.raises(RevisionConflict):
        await update(plane, replace(DENY_WRITES, priority=2), "priority", expected=stored.revision)


async def test_a_deleted_policy_decides_nothing_any_more() -> None:
    plane = Plane()
    agent_id = (await plane.register()).agent.agent_id
    await create(plane, DENY_WRITES)
    revision = await plane.policies.delete(
        NS, "deny-writes", expected_revision=0, reason="", request=None, caller=CALLER
    )
    await plane.follow()
    answer = ask(plane, agent_id, "database_write")
    assert answer.decision.reason is DecisionReason.NO_POLICY_LOADED
    assert answer.decision.revision == revision
    with pytest.raises(PolicyNotFound):
        await plane.policies.get(NS, "deny-writes", min_revision=0)


async def test_pages_are_in_order_and_stable_while_policies_come_and_go() -> None:
    plane = Plane()
    for number in range(6):
        await create(plane, replace(DENY_WRITES, policy_id=f"p-{number}", priority=number % 3))

    async def page(after: str) -> Any:
        return await plane.policies.page(
            NS, enabled_only=False, min_revision=0, after=after, limit=2
        )

    first = await page("")
    assert [p.policy_id for p in first.policies] == ["p-2", "p-5"]
    await plane.policies.delete(
        NS, "p-5", expected_revision=0, reason="", request=None, caller=CALLER
    )
    await plane.follow()
    second = await page(first.next_cursor)
    assert [p.policy_id for p in second.policies] == ["p-1", "p-4"]
    third = await page(second.next_cursor)
    assert [p.policy_id for p in third.policies] == ["p-0", "p-3"]
    assert third.next_cursor == ""
