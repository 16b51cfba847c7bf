"""The truth tables, and what policies make of unknown conditions."""

from itertools import product
from typing import Any

import pytest

from fleetplane_policy import (
    DecisionReason,
    Effect,
    OnMissing,
    Policy,
    PolicySet,
    Request,
    Truth,
)
from fleetplane_policy.attributes import DEFAULT_SCHEMA
from fleetplane_policy.compiler import ConditionCompiler
from fleetplane_policy.grammar import parse
from fleetplane_policy.truth import ERROR, FALSE, MISSING, TRUE

LEAVES: dict[int, dict[str, Any]] = {
    FALSE: {"claim.f": "x"},
    TRUE: {"claim.t": "x"},
    MISSING: {"claim.m": "x"},
    ERROR: {"claim.e": "x"},
}
REQUEST = Request(
    agent_id="a", action="act", facts={}, claims={"t": "x", "f": "y", "e": 1}, now_ms=0
)

ALL = {
    (FALSE, FALSE): FALSE,
    (FALSE, TRUE): FALSE,
    (FALSE, MISSING): FALSE,
    (FALSE, ERROR): FALSE,
    (TRUE, TRUE): TRUE,
    (TRUE, MISSING): MISSING,
    (TRUE, ERROR): ERROR,
    (MISSING, MISSING): MISSING,
    (MISSING, ERROR): ERROR,
    (ERROR, ERROR): ERROR,
}
ANY = {
    (FALSE, FALSE): FALSE,
    (FALSE, TRUE): TRUE,
    (FALSE, MISSING): MISSING,
    (FALSE, ERROR): ERROR,
    (TRUE, TRUE): TRUE,
    (TRUE, MISSING): TRUE,
    (TRUE, ERROR): TRUE,
    (MISSING, MISSING): MISSING,
    (MISSING, ERROR): ERROR,
    (ERROR, ERROR): ERROR,
}


def value_of(conditions: dict[str, Any]) -> int:
    node, violations = parse(conditions, DEFAULT_SCHEMA)
    assert not violations
    return ConditionCompiler().compile(node)(REQUEST)


@pytest.mark.parametrize(("one", "other"), list(product(LEAVES, repeat=2)))
def test_all_and_any_follow_their_tables_in_both_orders(one: int, other: int) -> None:
    key = (min(one, other), max(one, other))
    assert value_of({"all": [LEAVES[one], LEAVES[other]]}) == ALL[key]
    assert value_of({"any": [LEAVES[one], LEAVES[other]]}) == ANY[key]
    three = [LEAVES[one], LEAVES[other], LEAVES[one]]
    assert value_of({"all": three}) == ALL[key]


@pytest.mark.parametrize(
    ("value", "negated"), [(FALSE, TRUE), (TRUE, FALSE), (MISSING, MISSING), (ERROR, ERROR)]
)
def test_not_swaps_what_is_known_and_keeps_what_is_not(value: int, negated: int) -> None:
    assert value_of({"not": LEAVES[value]}) == negated


MATCHES = {
    (FALSE, OnMissing.NO_MATCH): set(),
    (FALSE, OnMissing.MATCH): set(),
    (TRUE, OnMissing.NO_MATCH): {Effect.ALLOW, Effect.DENY, Effect.REQUIRE_APPROVAL},
    (TRUE, OnMissing.MATCH): {Effect.ALLOW, Effect.DENY, Effect.REQUIRE_APPROVAL},
    (MISSING, OnMissing.NO_MATCH): set(),
    (MISSING, OnMissing.MATCH): {Effect.DENY, Effect.REQUIRE_APPROVAL},
    (ERROR, OnMissing.NO_MATCH): {Effect.DENY, Effect.REQUIRE_APPROVAL},
    (ERROR, OnMissing.MATCH): {Effect.DENY, Effect.REQUIRE_APPROVAL},
}


@pytest.mark.parametrize(
    ("value", "on_missing", "effect"),
    list(product(LEAVES, OnMissing, (Effect.ALLOW, Effect.DENY, Effect.REQUIRE_APPROVAL))),
)
def test_each_effect_answers_unknowns_in_its_own_way(
    value: int, on_missing: OnMissing, effect: Effect
) -> None:
    policy = Policy(policy_id="p", action=effect, conditions=LEAVES[value], on_missing=on_missing)
    decision = PolicySet.compile([policy], revision=1).evaluate(REQUEST)
    matched = effect in MATCHES[value, on_missing]
    assert decision.determining == (("p",) if matched else ())
    assert decision.indeterminate == (("p",) if value in {MISSING, ERROR} else ())
    if not matched:
        assert decision.reason is DecisionReason.DEFAULT
    elif value == TRUE:
        assert decision.reason is DecisionReason.POLICY
    else:
        assert decision.reason is DecisionReason.CONDITION_INDETERMINATE


@pytest.mark.parametrize(
    ("value", "on_missing"), list(product((TRUE, MISSING, ERROR, FALSE), OnMissing))
)
def test_log_only_is_observed_true_or_unknown_and_enforces_nothing(
    value: int, on_missing: OnMissing
) -> None:
    policy = Policy(
        policy_id="p", action=Effect.LOG_ONLY, conditions=LEAVES[value], on_missing=on_missing
    )
    decision = PolicySet.compile([policy], revision=1).evaluate(REQUEST)
    seen = [o.result for o in decision.observations]
    expected = {TRUE: [Truth.TRUE], FALSE: []}.get(value, [Truth.UNKNOWN])
    assert seen == expected
    assert decision.effect is (Effect.LOG_ONLY if value == TRUE else Effect.ALLOW)
    assert decision.determining == ()
