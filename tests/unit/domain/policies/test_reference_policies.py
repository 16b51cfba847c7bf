"""The three policies every installation starts from, loaded from the shipped example."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from fleetplane_policy import DecisionReason, Effect, Policy, PolicySet, Request, lint

EXAMPLE = Path(__file__).parents[4] / "examples" / "policies" / "reference.yaml"


@pytest.fixture(scope="module")
def policies() -> list[Policy]:
    document = yaml.safe_load(EXAMPLE.read_text(encoding="utf-8"))
    return msgspec.convert(document["policies"], list[Policy])


@pytest.fixture(scope="module")
def rules(policies: list[Policy]) -> PolicySet:
    return PolicySet.compile(policies, revision=1)


def ask(
    action: str, *, tags: dict[str, str] | None = None, claims: dict[str, Any] | None = None
) -> Request:
    return Request(
        agent_id="agent-1",
        action=action,
        facts={"agent_name": "writer", "agent_tags": tags or {}},
        claims=claims or {},
        now_ms=1_700_000_000_000,
    )


def test_the_example_holds_exactly_the_three_policies(policies: list[Policy]) -> None:
    assert [(p.policy_id, p.action, p.priority, p.enabled) for p in policies] == [
        ("prod-db-restrict", Effect.REQUIRE_APPROVAL, 100, True),
        ("cost-limit", Effect.DENY, 90, True),
        ("no-external-comms", Effect.DENY, 80, True),
    ]


def test_a_write_to_the_production_database_requires_approval(rules: PolicySet) -> None:
    decision = rules.evaluate(ask("database_write", claims={"environment": "production"}))
    assert decision.effect is Effect.REQUIRE_APPROVAL
    assert decision.reason is DecisionReason.POLICY
    assert decision.determining == ("prod-db-restrict",)
    assert decision.revision == 1


@pytest.mark.parametrize("claims", [{"environment": "staging"}, {}])
def test_a_write_elsewhere_is_allowed_by_default(rules: PolicySet, claims: dict[str, Any]) -> None:
    decision = rules.evaluate(ask("database_write", claims=claims))
    assert (decision.effect, decision.reason) == (Effect.ALLOW, DecisionReason.DEFAULT)


def test_a_read_of_the_production_database_is_allowed(rules: PolicySet) -> None:
    decision = rules.evaluate(ask("database_read", claims={"environment": "production"}))
    assert decision.effect is Effect.ALLOW


@pytest.mark.parametrize(
    ("cost", "effect"),
    [
        (0, Effect.ALLOW),
        (1, Effect.ALLOW),
        (1.0, Effect.ALLOW),
        (1.0000000001, Effect.DENY),
        (2, Effect.DENY),
        ("1.00", Effect.ALLOW),
        ("1.01", Effect.DENY),
        ("lots", Effect.DENY),
        (True, Effect.DENY),
        (float("nan"), Effect.DENY),
        (None, Effect.DENY),
    ],
)
def test_the_cost_limit_is_strict_and_fails_closed(
    rules: PolicySet, cost: object, effect: Effect
) -> None:
    assert rules.evaluate(ask("search", claims={"estimated_cost": cost})).effect is effect


def test_an_action_that_names_no_cost_is_not_denied(rules: PolicySet) -> None:
    decision = rules.evaluate(ask("search"))
    assert decision.effect is Effect.ALLOW
    assert decision.indeterminate == ("cost-limit",)


def test_an_approval_of_higher_priority_beats_the_cost_limit_and_says_so(rules: PolicySet) -> None:
    decision = rules.evaluate(
        ask("database_write", claims={"environment": "production", "estimated_cost": 5})
    )
    assert decision.effect is Effect.REQUIRE_APPROVAL
    assert decision.overridden == ("cost-limit",)


def test_internal_agents_may_not_call_external_apis(rules: PolicySet) -> None:
    tags = {"scope": "internal", "team": "search"}
    decision = rules.evaluate(ask("external_api_call", tags=tags))
    assert (decision.effect, decision.determining) == (Effect.DENY, ("no-external-comms",))
    assert rules.evaluate(ask("external_api_call", tags={"scope": "public"})).effect is Effect.ALLOW
    assert rules.evaluate(ask("internal_call", tags=tags)).effect is Effect.ALLOW


@pytest.mark.parametrize("claimed", [{}, {"scope": "public"}, {"scope": "internal"}])
def test_tags_a_caller_claims_are_never_read(rules: PolicySet, claimed: dict[str, str]) -> None:
    claims = {"agent_tags": claimed}
    inside = ask("external_api_call", tags={"scope": "internal"}, claims=claims)
    outside = ask("external_api_call", tags={"scope": "public"}, claims=claims)
    assert rules.evaluate(inside).effect is Effect.DENY
    assert rules.evaluate(outside).effect is Effect.ALLOW


def test_the_linter_says_that_leaving_the_claims_out_avoids_two_of_them(
    policies: list[Policy],
) -> None:
    assert {w.policy_ids for w in lint(policies)} == {
        ("prod-db-restrict",),
        ("cost-limit",),
    }
