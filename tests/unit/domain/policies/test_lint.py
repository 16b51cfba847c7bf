"""Warnings about policies that are valid but probably not meant so."""

from typing import Any

import pytest

from fleetplane_policy import (
    Effect,
    LintCode,
    Obligation,
    OnMissing,
    Policy,
    PolicyScope,
    Target,
    lint,
)


def policy(policy_id: str, effect: Effect, conditions: dict[str, Any], **more: Any) -> Policy:
    return Policy(policy_id=policy_id, action=effect, conditions=conditions, **more)


def codes(*policies: Policy) -> list[tuple[LintCode, tuple[str, ...]]]:
    return [(w.code, w.policy_ids) for w in lint(policies)]


def test_a_clean_set_has_no_warnings() -> None:
    assert not codes(
        policy("a", Effect.DENY, {"action": "x", "agent_tags": {"scope": "internal"}}),
        policy("b", Effect.ALLOW, {"action": "y", "environment": "dev"}),
    )


@pytest.mark.parametrize(
    ("one", "other", "overlap"),
    [
        ({"action": "x"}, {"action": "x"}, True),
        ({"action": "x"}, {"action": "y"}, False),
        ({"action": ["x", "y"]}, {"action": "y"}, True),
        ({"action": "x"}, {"tool": "t"}, True),
        ({"action": "x", "agent_owner": "me"}, {"action": "x", "agent_owner": "you"}, False),
        ({"agent_tags": {"a": "1"}}, {"agent_tags": {"a": "2"}}, False),
        ({"agent_tags": {"a": "1"}}, {"agent_tags": {"b": "2"}}, True),
    ],
)
def test_equal_priorities_that_may_disagree_are_named(
    one: dict[str, Any], other: dict[str, Any], *, overlap: bool
) -> None:
    found = codes(policy("a", Effect.DENY, one), policy("b", Effect.ALLOW, other))
    assert found == ([(LintCode.EQUAL_PRIORITY_CONFLICT, ("a", "b"))] if overlap else [])


def test_different_priorities_effects_alike_and_disabled_policies_do_not_conflict() -> None:
    same = {"action": "x"}
    assert not codes(
        policy("a", Effect.DENY, same, priority=1), policy("b", Effect.ALLOW, same, priority=2)
    )
    assert not codes(policy("a", Effect.DENY, same), policy("b", Effect.DENY, same))
    assert not codes(policy("a", Effect.DENY, same), policy("b", Effect.ALLOW, same, enabled=False))
    assert not codes(policy("a", Effect.DENY, same), policy("b", Effect.LOG_ONLY, same))


def test_policies_of_two_agents_do_not_conflict() -> None:
    found = codes(
        policy("a", Effect.DENY, {"action": "x"}, scope=PolicyScope(agent_name="one")),
        policy("b", Effect.REQUIRE_APPROVAL, {"action": "x"}, scope=PolicyScope(agent_name="two")),
    )
    assert not found


def test_a_deny_that_hangs_on_a_claim_is_named() -> None:
    hanging = policy("p", Effect.DENY, {"environment": "production"})
    (warning,) = lint([hanging])
    assert warning.code is LintCode.UNGUARANTEED_ATTRIBUTE
    assert "environment" in warning.message
    negated = policy("p", Effect.DENY, {"not": {"environment": "dev"}})
    assert [w.code for w in lint([negated])] == [LintCode.UNGUARANTEED_ATTRIBUTE]
    closed = policy("p", Effect.DENY, {"environment": "x"}, on_missing=OnMissing.MATCH)
    assert not lint([closed])
    checked = policy(
        "p",
        Effect.DENY,
        {"all": [{"attr": "environment", "op": "exists"}, {"environment": "production"}]},
    )
    assert not lint([checked])


def test_a_guardrail_that_believes_the_caller_is_named() -> None:
    guard = policy(
        "p", Effect.DENY, {"environment": "x"}, guardrail=True, on_missing=OnMissing.MATCH
    )
    assert codes(guard) == [(LintCode.GUARDRAIL_READS_CLAIM, ("p",))]


@pytest.mark.parametrize(
    "contradiction",
    [
        policy("p", Effect.ALLOW, {"all": [{"action": "x"}, {"action": "y"}]}),
        policy("p", Effect.ALLOW, {"action": "x"}, targets=Target(actions=("y",))),
        policy("p", Effect.ALLOW, {"all": [{"region": "x"}, {"region": ["y", "z"]}]}),
    ],
)
def test_a_policy_that_can_never_match_is_named(contradiction: Policy) -> None:
    assert codes(contradiction) == [(LintCode.NEVER_MATCHES, ("p",))]


def test_an_agents_allow_is_named_because_it_cannot_widen() -> None:
    allow = policy("p", Effect.ALLOW, {"action": "x"}, scope=PolicyScope(agent_id="a"))
    assert codes(allow) == [(LintCode.AGENT_CANNOT_WIDEN, ("p",))]


def test_warnings_are_bounded() -> None:
    many = [
        policy(f"p{i}", (Effect.DENY, Effect.ALLOW)[i % 2], {"action": "x"}) for i in range(100)
    ]
    assert len(lint(many)) == 200


def test_a_policy_that_another_always_beats_is_named() -> None:
    everything = policy("all", Effect.ALLOW, {}, match_all=True, priority=9)
    assert (LintCode.SHADOWED, ("p", "all")) in codes(
        everything, policy("p", Effect.DENY, {"action": "x"})
    )
    # Not where it is a guardrail, of the same priority, or where the other one is limited.
    assert not codes(everything, policy("p", Effect.DENY, {"action": "x"}, guardrail=True))
    limited = policy("some", Effect.ALLOW, {}, targets=Target(agents=("a",)), priority=9)
    assert not codes(limited, policy("p", Effect.DENY, {"action": "x"}))


def test_a_target_shadows_only_what_it_covers() -> None:
    one = policy("one", Effect.ALLOW, {}, targets=Target(actions=("x",)), priority=9)
    assert codes(one, policy("p", Effect.DENY, {"action": "x"})) == [
        (LintCode.SHADOWED, ("p", "one"))
    ]
    assert not codes(one, policy("p", Effect.DENY, {"action": ["x", "y"]}))


def test_an_observation_that_tells_nothing_is_named() -> None:
    assert codes(policy("p", Effect.LOG_ONLY, {}, match_all=True)) == [
        (LintCode.OBSERVES_IN_VAIN, ("p",))
    ]
    idle = policy("p", Effect.LOG_ONLY, {"action": "x"}, obligations=(Obligation(name="n"),))
    assert codes(idle) == [(LintCode.IDLE_OBLIGATION, ("p",))]


def test_the_default_of_the_namespace_holds_for_those_that_do_not_say() -> None:
    rule = policy("p", Effect.DENY, {"environment": "x"})
    assert [w.code for w in lint([rule])] == [LintCode.UNGUARANTEED_ATTRIBUTE]
    assert not lint([rule], on_missing=OnMissing.MATCH)
