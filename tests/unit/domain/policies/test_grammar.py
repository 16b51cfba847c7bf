"""How conditions are written, and everything that is refused when they are."""

from typing import Any

import pytest

from fleetplane_policy import (
    DEFAULT_SCHEMA,
    PRIORITY_LIMIT,
    Attribute,
    AttributeSchema,
    AttributeType,
    Effect,
    MalformedInput,
    Policy,
    PolicyScope,
    PolicySet,
    Request,
    Source,
    Target,
    require_valid_policy,
    validate_policy,
)


def refusals(conditions: Any, schema: AttributeSchema = DEFAULT_SCHEMA) -> dict[str, str]:
    policy = Policy(policy_id="p", action=Effect.DENY, conditions=conditions)
    return {v.field: v.description for v in validate_policy(policy, schema)}


def denies(
    conditions: dict[str, Any],
    claims: dict[str, Any],
    schema: AttributeSchema = DEFAULT_SCHEMA,
    **facts: Any,
) -> bool:
    policy = Policy(policy_id="p", action=Effect.DENY, conditions=conditions)
    rules = PolicySet.compile([policy], revision=1, schema=schema)
    request = Request(agent_id="a", action="act", facts=facts, claims=claims, now_ms=0)
    return rules.evaluate(request).effect is Effect.DENY


@pytest.mark.parametrize(
    ("conditions", "field", "near"),
    [
        ({"enviroment": "production"}, "conditions.enviroment", "environment"),
        (
            {"estimted_cost_exceeds": 1.0},
            "conditions.estimted_cost_exceeds",
            "estimated_cost_exceeds",
        ),
        ({"agent_tag": {"scope": "x"}}, "conditions.agent_tag.scope", "agent_tags"),
        ({"acton": "read"}, "conditions.acton", "action"),
        (
            {"all": [{"attr": "regio", "op": "eq", "value": "x"}]},
            "conditions.all[0]",
            "region",
        ),
        ({"not": {"any": [{"tol": "x"}]}}, "conditions.not.any[0].tol", "tool"),
        ({"fact.agent_own": "x"}, "conditions.fact.agent_own", "agent_owner"),
    ],
)
def test_a_misspelt_name_is_refused_with_the_nearest_names(
    conditions: dict[str, Any], field: str, near: str
) -> None:
    found = refusals(conditions)
    assert list(found) == [field]
    assert f"did you mean {near}" in found[field]


def test_a_name_near_nothing_is_refused_with_the_way_to_write_a_claim() -> None:
    assert refusals({"zzzzzz": 1}) == {
        "conditions.zzzzzz": "unknown attribute (claims nobody declared are written claim.zzzzzz)"
    }


@pytest.mark.parametrize(
    ("conditions", "field", "why"),
    [
        ({"environment": []}, "conditions.environment", "empty list"),
        ({"environment": {}}, "conditions.environment", "is empty"),
        ({"environment": {"ne": "x"}}, "conditions.environment.ne", "{attr, op, value}"),
        ({"environment": 5}, "conditions.environment", "could never match"),
        ({"environment": {1: "x"}}, "conditions.environment", "not a string"),
        ({1: "x"}, "conditions", "not a string"),
        ({"": "x"}, "conditions.", "empty name"),
        ({"agent_tags.": "x"}, "conditions.agent_tags.", "empty name"),
        ({"claim": "x"}, "conditions.claim", "whole source"),
        ({"claim.agent_tags": "x"}, "conditions.claim.agent_tags", "is a fact"),
        ({"claim.action": "x"}, "conditions.claim.action", "part of the request"),
        ({"fact.nothing_like_it": 1}, "conditions.fact.nothing_like_it", "unknown attribute"),
        ({"agent_tags": {"a": {"b": "x"}}}, "conditions.agent_tags.a.b", "are strings"),
        ({"agent_tags": {"a": 1}}, "conditions.agent_tags.a", "could never match"),
        ({"agent_tags": "x"}, "conditions.agent_tags", "name a field"),
        ({"environment_exceeds": 1}, "conditions.environment_exceeds", "does not apply"),
        ({"estimated_cost_exceeds": "much"}, "conditions.estimated_cost_exceeds", "finite number"),
        ({"all": []}, "conditions.all", "empty list"),
        ({"any": {}}, "conditions.any", "must be a list"),
        ({"any": ["x"]}, "conditions.any[0]", "must be an object"),
        ({"any": [{}]}, "conditions.any[0]", "is empty"),
        ({"not": []}, "conditions.not", "must be an object"),
        ({"attr": "tool", "op": "eq"}, "conditions.value", "is missing"),
        ({"attr": "tool", "value": "x"}, "conditions.op", "must name"),
        ({"attr": "tool", "op": "is", "value": "x"}, "conditions", "unknown operator"),
        ({"attr": 5, "op": "eq", "value": "x"}, "conditions.attr", "must be a path"),
        ({"op": "eq", "value": "x"}, "conditions.attr", "must be a path"),
        ({"attr": "tool", "op": "eq", "value": "x", "tool": "y"}, "conditions.tool", "belong"),
        (
            {"attr": "tool", "op": "eq", "value": "x", "if_missing": "deny"},
            "conditions.if_missing",
            "must be one of",
        ),
        (
            {"attr": "tool", "op": "eq", "value": "x", "if_missing": []},
            "conditions.if_missing",
            "must be one of",
        ),
        ({"time_window": {"start": "1"}}, "conditions.time_window", "must be {tz"),
        ({"environment": "x" * 4097}, "conditions.environment", "4096"),
        ({"environment": "\ud800"}, "conditions.environment", "malformed"),
        ([], "conditions", "must be an object"),
    ],
)
def test_a_malformed_condition_is_refused_where_it_stands(
    conditions: Any, field: str, why: str
) -> None:
    found = refusals(conditions)
    assert list(found) == [field]
    assert why in found[field]


def test_every_violation_is_reported_at_once() -> None:
    policy = Policy(
        policy_id="bad id",
        action=Effect.ALLOW,
        name="n" * 5000,
        guardrail=True,
        priority=PRIORITY_LIMIT + 1,
        conditions={"enviroment": "x", "any": [{"tol": "x"}]},
        targets=Target(actions=("a b", "***"), tools=("",), agents=("x" * 600,)),
        scope=PolicyScope(agent_id="a", agent_name="b"),
        not_before_ms=5,
        not_after_ms=5,
    )
    assert [v.field for v in validate_policy(policy)] == [
        "policy_id",
        "name",
        "scope",
        "priority",
        "guardrail",
        "not_after_ms",
        "targets.actions[0]",
        "targets.actions[1]",
        "targets.tools[0]",
        "targets.agents[0]",
        "conditions.any[0].tol",
        "conditions.enviroment",
    ]
    with pytest.raises(MalformedInput) as refused:
        require_valid_policy(policy)
    assert len(refused.value.violations) == 12


def test_a_valid_policy_is_not_refused() -> None:
    require_valid_policy(Policy(policy_id="p", action=Effect.DENY, conditions={"tool": "x"}))


def test_too_many_globs_are_refused() -> None:
    policy = Policy(
        policy_id="p",
        action=Effect.DENY,
        targets=Target(actions=tuple(f"a{i}" for i in range(257))),
    )
    assert [v.field for v in validate_policy(policy)] == ["targets.actions"]


def test_matching_everything_must_be_said() -> None:
    silent = Policy(policy_id="p", action=Effect.DENY)
    assert [v.field for v in validate_policy(silent)] == ["conditions"]
    assert not validate_policy(Policy(policy_id="p", action=Effect.DENY, match_all=True))
    targeted = Policy(policy_id="p", action=Effect.DENY, targets=Target(actions=("a",)))
    assert not validate_policy(targeted)
    both = Policy(policy_id="p", action=Effect.DENY, match_all=True, conditions={"tool": "x"})
    assert [v.field for v in validate_policy(both)] == ["match_all"]


def test_conditions_are_bounded_in_depth_and_size() -> None:
    deep: dict[str, Any] = {"tool": "x"}
    for _ in range(40):
        deep = {"not": deep}
    assert any("deeper than 32" in why for why in refusals(deep).values())
    nested: dict[str, Any] = {"k": 1}
    for _ in range(40):
        nested = {"k": nested}
    assert any("deeper than 32" in why for why in refusals({"claim": nested}).values())
    wide = {"any": [{"tool": "x"} for _ in range(513)]}
    assert any("512 comparisons" in why for why in refusals(wide).values())
    value: Any = "x"
    for _ in range(2000):
        value = [value]
    assert any("too deep" in why for why in refusals({"claim.x": value}).values())


def test_several_keys_are_all_required_and_forms_nest_in_each_other() -> None:
    conditions = {
        "environment": "production",
        "not": {"region": ["eu", "us"]},
        "any": [
            {"attr": "amount", "op": "gt", "value": 5},
            {"claim": {"urgent": True, "who": {"role": "root"}}},
        ],
    }
    base = {"environment": "production", "region": "asia"}
    assert denies(conditions, {**base, "amount": 6})
    assert denies(conditions, {**base, "amount": 1, "urgent": True, "who": {"role": "root"}})
    assert not denies(conditions, {**base, "amount": 1, "urgent": True, "who": {"role": "x"}})
    assert not denies(conditions, {**base, "amount": 6, "region": "eu"})
    assert not denies(conditions, {**base, "amount": 6, "environment": "dev"})


def test_a_whole_map_of_tags_needs_only_the_named_ones() -> None:
    conditions = {"agent_tags": {"scope": "internal", "example.com/team": ["a", "b"]}}
    tags = {"scope": "internal", "example.com/team": "b", "more": "x"}
    assert denies(conditions, {}, agent_tags=tags)
    assert not denies(conditions, {}, agent_tags={"scope": "internal"})


def test_a_tag_may_end_in_exceeds_and_a_number_may_exceed() -> None:
    assert denies({"agent_tags": {"limit_exceeds": "yes"}}, {}, agent_tags={"limit_exceeds": "yes"})
    assert denies({"claim.score_exceeds": 2}, {"score": 3})
    assert denies({"fact.estimated_cost_exceeds": 2}, {}, estimated_cost=3)
    assert not denies({"fact.estimated_cost_exceeds": 2}, {"estimated_cost": 3})


def test_a_time_window_needs_no_attribute() -> None:
    window = {"start": "00:00", "end": "01:00"}
    assert denies({"time_window": window}, {})
    assert denies({"op": "time_window", "value": window}, {})
    assert not denies({"time_window": {"start": "01:00", "end": "02:00"}}, {})


def test_text_is_compared_in_one_unicode_form() -> None:
    assert denies({"environment": "cafe\u0301"}, {"environment": "caf\u00e9"})


def test_facts_go_before_claims_and_prefixes_choose() -> None:
    assert denies({"environment": "x"}, {"environment": "y"}, environment="x")
    assert not denies({"environment": "x"}, {"environment": "x"}, environment="y")
    assert denies({"claim.environment": "x"}, {"environment": "x"}, environment="y")
    assert denies({"context.environment": "x"}, {"environment": "x"}, environment="y")
    assert not denies({"fact.environment": "x"}, {"environment": "x"})
    assert denies({"fact.agent_owner": "me"}, {"agent_owner": "you"}, agent_owner="me")


def test_a_namespace_may_declare_more_attributes() -> None:
    schema = DEFAULT_SCHEMA.extended(
        [
            Attribute(name="budget", type=AttributeType.DECIMAL, source=Source.FACT),
            Attribute(name="depth", type=AttributeType.NUMBER, default=0),
            Attribute(name="request", type=AttributeType.ANY),
            Attribute(name="grid", type=AttributeType.MAP, element=AttributeType.ANY),
            Attribute(name="environment", type=AttributeType.STRING, source=Source.FACT),
        ]
    )
    assert denies({"budget_exceeds": 5}, {"budget": 1}, schema, budget="5.01")
    assert denies({"depth": 0}, {}, schema), "a default stands in for an absence"
    assert not denies({"attr": "depth", "op": "exists"}, {}, schema), "but nothing exists"
    assert denies({"request.path.name": "x"}, {"request": {"path": {"name": "x"}}}, schema)
    assert denies({"grid": {"a": {"b": 1}}}, {"grid": {"a": {"b": 1}}}, schema)
    assert not denies({"environment": "x"}, {"environment": "x"}, schema)
    assert "budget" in refusals({"budgit": 5}, schema)["conditions.budgit"]


@pytest.mark.parametrize(
    ("attribute", "why"),
    [
        (Attribute(name="", type=AttributeType.STRING), "must be"),
        (Attribute(name="Big", type=AttributeType.STRING), "must be"),
        (Attribute(name="a.b", type=AttributeType.STRING), "must be"),
        (Attribute(name="all", type=AttributeType.STRING), "word of the condition grammar"),
        (Attribute(name="claim", type=AttributeType.STRING), "word of the condition grammar"),
        (Attribute(name="action", type=AttributeType.STRING), "cannot be redeclared"),
        (Attribute(name="agent_owner", type=AttributeType.STRING), "cannot be redeclared"),
        (Attribute(name="x", type=AttributeType.TIME), "built-in"),
        (Attribute(name="x", type=AttributeType.STRING, source=Source.REQUEST), "built-in"),
    ],
)
def test_a_schema_refuses_names_that_would_confuse(attribute: Attribute, why: str) -> None:
    with pytest.raises(MalformedInput, match=why):
        DEFAULT_SCHEMA.extended([attribute])
