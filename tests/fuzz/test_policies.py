"""Conditions and questions that nobody would write, but somebody may send."""

import contextlib
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from fleetplane_policy import (
    Effect,
    ExplainLevel,
    MalformedInput,
    Policy,
    PolicySet,
    Request,
    Target,
    validate_policy,
)
from fleetplane_policy.claims import validate_claims
from fleetplane_policy.engine import OnError
from fleetplane_policy.globs import compile_glob, compile_regex
from fleetplane_policy.lint import lint
from fleetplane_policy.operators import OPERATORS
from tests.fakes.fuzzing import FUZZED, json_values, numbers, texts

_ATTRIBUTES = st.sampled_from([
    "action", "tool", "agent_id", "agent_tags", "claim.x", "claim", "now", "environment", "model",
    "estimated_cost", "capabilities", ["claim", "a.b"], "", ".", "claim..x", ["claim"], [1], None,
])  # fmt: skip

_windows = st.fixed_dictionaries(
    {}, optional={
        "start": texts | st.sampled_from(["00:00", "23:59", "24:00", "12:00:00"]),
        "end": texts | st.sampled_from(["00:00", "23:59", "24:00"]),
        "timezone": texts | st.sampled_from(["UTC", "Europe/Berlin", "../etc/passwd", "localtime"]),
        "days": st.lists(texts | st.sampled_from(["mon", "sun"]), max_size=3) | json_values,
    },
)  # fmt: skip

_leaves: st.SearchStrategy[Any] = st.fixed_dictionaries(
    {},
    optional={
        "attr": _ATTRIBUTES | texts,
        "op": st.sampled_from(sorted(OPERATORS)) | texts,
        "value": json_values | st.lists(numbers, min_size=2, max_size=2) | _windows,
        "if_missing": st.sampled_from(["error", "match", "no_match"]) | json_values,
    },
)

conditions: st.SearchStrategy[Any] = st.recursive(
    _leaves | json_values | st.fixed_dictionaries({"time_window": _windows}),
    lambda inner: st.one_of(
        st.dictionaries(
            st.sampled_from(["all", "any", "not", "action", "claim", "cost_exceeds"]) | texts,
            inner | st.lists(inner, max_size=3),
            max_size=3,
        ),
        st.fixed_dictionaries({"all": st.lists(inner, max_size=3)}),
        st.fixed_dictionaries({"not": inner}),
    ),
    max_leaves=8,
)

_globs = st.lists(texts, max_size=3).map(tuple)
targets = st.builds(Target, actions=_globs, tools=_globs, agents=_globs)


@FUZZED
@given(conditions=conditions, targets=targets, claims=json_values, action=texts, tool=texts)
def test_any_condition_is_refused_or_decides(
    conditions: Any, targets: Target, claims: Any, action: str, tool: str
) -> None:
    policy = Policy(policy_id="p", action=Effect.DENY, conditions=conditions, targets=targets)
    problems = validate_policy(policy)
    # A policy that an engine does not understand is kept, and fails closed.
    policies = PolicySet.compile([policy], revision=1, on_error=OnError.QUARANTINE)
    assert bool(policies.quarantined) == bool(problems)
    asked = {"context": claims}
    with contextlib.suppress(MalformedInput):
        asked = validate_claims(asked)
        request = Request(
            agent_id="a", action=action, tool=tool, facts={"agent_id": "a"}, claims=asked, now_ms=0
        )
        decided = policies.evaluate(request)
        assert decided.effect is policies.evaluate_linear(request).effect
        policies.evaluate(request, explain=ExplainLevel.FULL)
        policies.why_not("p", request)
    if not problems:
        lint([policy])


@FUZZED
@given(claims=json_values)
def test_any_claims_are_refused_or_plain(claims: Any) -> None:
    with contextlib.suppress(MalformedInput):
        validate_claims({"claims": claims})


@FUZZED
@given(pattern=st.text("ab*:./?[]{}()|+\\^$", max_size=200), repeated=texts)
def test_no_pattern_makes_a_match_slow(pattern: str, repeated: str) -> None:
    for build in (lambda: compile_glob(pattern, ":"), lambda: compile_regex(pattern)):
        with contextlib.suppress(ValueError):
            matches = build()
            matches((repeated or "a") * 2000)
