"""The shared corpus, run by the bare engine, with and without the index."""

import msgspec
import pytest

from fleetplane_policy import (
    Decision,
    Effect,
    ExplainLevel,
    Policy,
    PolicySet,
    Request,
    validate_claims,
)
from tests.policy_corpus.corpus import Case, Expected, Group, facts, groups

GROUPS = tuple(groups())
CASES = [
    pytest.param(group, case, id=f"{group.name}: {case.name}")
    for group in GROUPS
    for case in group.cases
]
RULES: dict[str, PolicySet] = {}


def rules_of(group: Group) -> PolicySet:
    if group.name not in RULES:
        RULES[group.name] = PolicySet.compile(
            msgspec.convert(list(group.policies), list[Policy]),
            revision=3,
            default_effect=Effect(group.default_effect),
        )
    return RULES[group.name]


def request_of(group: Group, case: Case) -> Request:
    return Request(
        agent_id=case.agent_id,
        action=case.action,
        tool=case.tool,
        facts=facts(group.agents[case.agent_id]),
        claims=validate_claims(case.context),
        now_ms=1_700_000_000_000,
    )


def shown(decision: Decision) -> Expected:
    return Expected(
        effect=decision.effect,
        reason=decision.reason,
        determining=decision.determining,
        overridden=decision.overridden,
        observations={o.policy_id: o.result for o in decision.observations},
        indeterminate=decision.indeterminate,
    )


@pytest.mark.parametrize(("group", "case"), CASES)
def test_the_engine_decides_as_the_corpus_says(group: Group, case: Case) -> None:
    rules, request = rules_of(group), request_of(group, case)
    assert shown(rules.evaluate(request)) == case.expected
    assert shown(rules.evaluate_linear(request)) == case.expected


@pytest.mark.parametrize(("group", "case"), CASES)
def test_explaining_changes_no_answer_and_agrees_with_it(group: Group, case: Case) -> None:
    rules, request = rules_of(group), request_of(group, case)
    decision = rules.evaluate(request, explain=ExplainLevel.FULL)
    assert shown(decision) == case.expected
    explained = {e.policy_id: e for e in decision.explanation or ()}
    enabled = {p.policy_id for p in rules.policies if p.enabled}
    assert explained.keys() == enabled
    taking_part = {*decision.determining, *decision.overridden}
    taking_part |= {o.policy_id for o in decision.observations if o.result == "T"}
    assert taking_part <= {i for i, e in explained.items() if e.matched}
    assert {i for i, e in explained.items() if e.result == "U"} == set(decision.indeterminate)
    for explanation in explained.values():
        if explanation.condition is not None:
            assert explanation.condition.result == explanation.result


def test_the_corpus_is_large_enough_to_mean_something() -> None:
    assert len(CASES) >= 60
