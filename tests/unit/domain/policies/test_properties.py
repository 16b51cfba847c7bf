"""Laws that hold for all policies and all requests, tried on random ones."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from fleetplane_policy import (
    Decision,
    Effect,
    OnMissing,
    Policy,
    PolicyScope,
    PolicySet,
    Request,
    validate_policy,
)
from fleetplane_policy.combining import STRICTNESS
from tests.fakes.random_policies import defaults, json_values, leaves, policy_lists, requests


def decide(policies: list[Policy], request: Request, default: Effect) -> Decision:
    return PolicySet.compile(policies, revision=1, default_effect=default).evaluate(request)


@settings(max_examples=300, deadline=None)
@given(policy_lists(), st.lists(requests, min_size=1, max_size=5), defaults)
def test_the_index_changes_no_answer(
    policies: list[Policy], asked: list[Request], default: Effect
) -> None:
    rules = PolicySet.compile(policies, revision=1, default_effect=default)
    for request in asked + asked:  # the second round meets remembered answers
        assert rules.evaluate(request) == rules.evaluate_linear(request)


@settings(max_examples=150, deadline=None)
@given(policy_lists(), requests, defaults, st.randoms(use_true_random=False))
def test_insertion_order_never_matters(
    policies: list[Policy], request: Request, default: Effect, random: Any
) -> None:
    expected = decide(policies, request, default)
    random.shuffle(policies)
    assert decide(policies, request, default) == expected


@settings(max_examples=150, deadline=None)
@given(policy_lists(), policy_lists(), st.sets(st.integers(0, 7)), requests)
def test_changing_a_set_equals_compiling_it_anew(
    before: list[Policy], put: list[Policy], deleted: set[int], request: Request
) -> None:
    delete = [f"p{n}" for n in deleted]
    after = {p.policy_id: p for p in before if p.policy_id not in delete}
    after |= {p.policy_id: p for p in put}
    changed = PolicySet.compile(before, revision=1)
    changed.evaluate(request)
    changed = changed.with_changes(put=put, delete=delete, revision=2)
    fresh = PolicySet.compile(after.values(), revision=2)
    assert changed.evaluate(request) == fresh.evaluate(request) == changed.evaluate_linear(request)
    assert changed.policies == fresh.policies
    assert len(changed) == len(after)


@settings(max_examples=150, deadline=None)
@given(policy_lists(), requests)
def test_an_agents_own_policies_never_widen_what_the_namespace_says(
    policies: list[Policy], request: Request
) -> None:
    general = [p for p in policies if p.scope == PolicyScope()]
    wide = decide(general, request, Effect.ALLOW)
    narrow = decide(policies, request, Effect.ALLOW)
    if wide.determining:
        assert STRICTNESS[narrow.effect] >= STRICTNESS[wide.effect]


@settings(max_examples=150, deadline=None)
@given(policy_lists(), requests, defaults)
def test_log_only_policies_change_no_enforced_answer(
    policies: list[Policy], request: Request, default: Effect
) -> None:
    enforced = [p for p in policies if p.action is not Effect.LOG_ONLY]
    with_them = decide(policies, request, default)
    without = decide(enforced, request, default)
    permitted = {Effect.ALLOW, Effect.LOG_ONLY}
    assert (with_them.effect in permitted) == (without.effect in permitted)
    assert with_them.determining == without.determining
    assert with_them.overridden == without.overridden


@settings(max_examples=150, deadline=None)
@given(policy_lists(), requests, defaults)
def test_a_matching_guardrail_always_denies(
    policies: list[Policy], request: Request, default: Effect
) -> None:
    guards = [p for p in policies if p.guardrail]
    if decide(guards, request, Effect.ALLOW).effect is Effect.DENY:
        decision = decide(policies, request, default)
        assert decision.effect is Effect.DENY
        assert set(decision.determining) <= {p.policy_id for p in guards}


@settings(max_examples=150, deadline=None)
@given(leaves, leaves, requests)
def test_de_morgan_holds_for_unknowns_too(
    one: dict[str, Any], other: dict[str, Any], request: Request
) -> None:
    negated_any = {"not": {"any": [one, other]}}
    all_negated = {"all": [{"not": one}, {"not": other}]}
    for on_missing in OnMissing:
        answers = {
            decide(
                [Policy(policy_id="p", action=Effect.DENY, conditions=c, on_missing=on_missing)],
                request,
                Effect.ALLOW,
            )
            for c in (negated_any, all_negated)
        }
        assert len(answers) == 1


@settings(max_examples=200, deadline=None)
@given(json_values)
def test_validation_never_raises_whatever_the_conditions_are(conditions: Any) -> None:
    wrapped = {"conditions": conditions} if not isinstance(conditions, dict) else conditions
    policy = Policy(policy_id="p", action=Effect.DENY, conditions=wrapped)
    assert isinstance(validate_policy(policy), tuple)
