"""What naive policy engines get wrong. Each test fails on the naive behaviour that it names."""

import asyncio
import itertools
import math
import random
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from controlplane.domain.errors import InvalidArgument, NotReady
from controlplane.domain.policies import (
    DecisionReason,
    Effect,
    OnMissing,
    Policy,
    PolicySet,
    Request,
    validate_claims,
)
from controlplane.services.hub import Hub
from controlplane.services.policies.decisions import Decisions, Question
from controlplane.services.read_model import ReadModel
from tests.fakes.clock import FakeClock
from tests.fakes.plane import CALLER, NS, Plane

FACTS = {"agent_name": "worker", "agent_tags": {"scope": "internal", "team": "search"}}


def ask(policies: list[Policy], /, *, action: str = "pay", **claims: Any) -> Any:
    """Decide as the daemon does: claims are checked first."""
    request = Request(
        agent_id="a1", action=action, facts=FACTS, claims=validate_claims(claims), now_ms=0
    )
    return PolicySet.compile(policies, revision=1).evaluate(request)


def rule(policy_id: str, action: Effect, conditions: Mapping[str, Any], **more: Any) -> Policy:
    return Policy(policy_id=policy_id, action=action, conditions=conditions, **more)


async def write(plane: Plane, policy: Policy) -> None:
    await plane.policies.create(NS, policy, reason="", request=None, dry_run=False, caller=CALLER)
    await plane.follow()


def test_01_a_rule_that_only_logs_does_not_end_the_scan() -> None:
    decision = ask(
        [
            rule("log", Effect.LOG_ONLY, {"action": "pay"}, priority=1000),
            rule("deny", Effect.DENY, {"action": "pay"}, priority=1),
        ]
    )
    assert decision.effect is Effect.DENY
    assert decision.determining == ("deny",)
    assert [o.policy_id for o in decision.observations] == ["log"]


async def test_02_a_misspelt_condition_is_refused_and_not_decoration() -> None:
    with pytest.raises(InvalidArgument) as refused:
        await write(Plane(), rule("typo", Effect.DENY, {"enviroment": "prod"}))
    (violation,) = refused.value.violations
    assert violation.field == "policy.conditions.enviroment"
    assert "environment" in violation.description  # the nearest name that exists


def test_03_null_is_a_value_and_absence_is_none() -> None:
    null = rule(
        "null",
        Effect.DENY,
        {"attr": "environment", "op": "is_null", "value": True},
        on_missing=OnMissing.NO_MATCH,
    )
    assert ask([null], environment=None).effect is Effect.DENY
    assert ask([null]).effect is Effect.ALLOW


def test_04_omitting_the_cost_is_no_way_around_a_limit_that_fails_closed() -> None:
    limit = rule("limit", Effect.DENY, {"estimated_cost_exceeds": 1.0}, on_missing=OnMissing.MATCH)
    decision = ask([limit])
    assert decision.effect is Effect.DENY
    assert decision.reason is DecisionReason.CONDITION_INDETERMINATE
    # By default a policy about costs says nothing about actions without any, but does not hide it.
    lenient = ask([replace(limit, on_missing=OnMissing.NO_MATCH)])
    assert lenient.effect is Effect.ALLOW
    assert lenient.indeterminate == ("limit",)


def test_05_a_string_is_not_a_list_of_its_letters() -> None:
    member = rule("in", Effect.DENY, {"environment": ["production"]})
    assert ask([member], environment="prod").effect is Effect.ALLOW
    assert ask([member], environment="production").effect is Effect.DENY
    with pytest.raises(ValueError, match="substr"):
        PolicySet.compile(
            [rule("c", Effect.DENY, {"attr": "action", "op": "contains", "value": "prod"})],
            revision=1,
        )


FOUND: tuple[Any, ...] = (True, False, 0, 1, 2, -1, 1.0, 0.5, "1")
WANTED: tuple[Any, ...] = FOUND[:7]


@pytest.mark.parametrize(("found", "wanted"), list(itertools.product(FOUND, WANTED)))
def test_06_values_of_different_types_are_never_equal_by_accident(found: Any, wanted: Any) -> None:
    equal = rule("eq", Effect.DENY, {"claim.x": wanted}, on_missing=OnMissing.MATCH)
    decision = ask([equal], x=found)
    same_kind = isinstance(found, bool) == isinstance(wanted, bool) and isinstance(
        found, str
    ) == isinstance(wanted, str)
    if not same_kind:
        assert decision.indeterminate == ("eq",), "a type mismatch is unknown, not false"
    else:
        assert (decision.effect is Effect.DENY) is (found == wanted)


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_07_what_is_no_number_never_reaches_a_comparison(number: float) -> None:
    with pytest.raises(InvalidArgument):
        ask([rule("limit", Effect.DENY, {"estimated_cost_exceeds": 1.0})], estimated_cost=number)


def test_08_equal_priorities_do_not_depend_on_who_came_first() -> None:
    policies = [
        rule("allow", Effect.ALLOW, {"action": "pay"}),
        rule("deny", Effect.DENY, {"action": "pay"}),
        rule("ask", Effect.REQUIRE_APPROVAL, {"action": "pay"}),
        rule("also", Effect.DENY, {"action": "pay"}),
    ]
    dice = random.Random(8)
    answers = set()
    for _ in range(100):
        dice.shuffle(policies)
        decision = ask(policies)
        answers.add((decision.effect, decision.determining, decision.overridden))
    assert len(answers) == 1
    assert ask(policies).determining == ("also", "deny")


def test_09_a_tag_more_does_not_break_a_match() -> None:
    assert ask([rule("in", Effect.DENY, {"agent_tags": {"scope": "internal"}})]).effect is (
        Effect.DENY
    )


async def test_10_a_decision_sees_all_of_a_revision_or_nothing() -> None:
    plane = Plane()
    agent_id = (await plane.register()).agent.agent_id
    switch = [
        rule("a", Effect.DENY, {"action": "pay"}, enabled=True),
        rule("b", Effect.DENY, {"action": "pay"}, enabled=False),
    ]
    for policy in switch:
        await write(plane, policy)
    question = Question(agent_id=agent_id, action="pay", claims={})
    torn: list[set[tuple[str, ...]]] = []

    async def edit() -> None:
        for round_ in range(50):
            for policy, enabled in zip(switch, (round_ % 2 == 0, round_ % 2 == 1), strict=True):
                await plane.policies.update(
                    NS,
                    replace(policy, enabled=not enabled),
                    ("enabled",),
                    expected_revision=0,
                    reason="",
                    request=None,
                    dry_run=False,
                    caller=CALLER,
                )
                await plane.follow()

    async def decide() -> None:
        for _ in range(200):
            _, answers, _ = plane.decisions.evaluate_many(NS, [question] * 20)
            torn.append({answer.decision.determining for answer in answers})  # type: ignore[union-attr]  # none is refused
            await asyncio.sleep(0)

    async with asyncio.timeout(30), asyncio.TaskGroup() as both:
        both.create_task(edit())
        both.create_task(decide())
    assert all(len(answers) == 1 for answers in torn)


async def test_11_without_a_copy_of_the_policies_nothing_is_permitted() -> None:
    model = ReadModel(Hub())
    with pytest.raises(NotReady):
        Decisions(model, FakeClock()).evaluate(NS, Question(agent_id="a1", action="pay", claims={}))
    # And a namespace without policies does not pretend that one permitted it.
    plane = Plane()
    agent_id = (await plane.register()).agent.agent_id
    answer = plane.decisions.evaluate(NS, Question(agent_id=agent_id, action="pay", claims={}))
    assert answer.decision.reason is DecisionReason.NO_POLICY_LOADED


class Exploding(dict[str, Any]):
    """Claims that fail to be read."""

    def get(self, *_: Any) -> Any:
        raise RuntimeError("a defect in an operator")


def test_12_a_defect_while_deciding_denies_and_is_named() -> None:
    policies = PolicySet.compile(
        [
            rule("deny", Effect.DENY, {"environment": "production"}),
            rule("allow", Effect.ALLOW, {"region": "eu"}, priority=9),
        ],
        revision=1,
    )
    request = Request(agent_id="a1", action="pay", facts=FACTS, claims=Exploding(), now_ms=0)
    decision = policies.evaluate(request)
    assert (decision.effect, decision.determining) == (Effect.DENY, ("deny",))
    assert decision.indeterminate == ("allow", "deny")
