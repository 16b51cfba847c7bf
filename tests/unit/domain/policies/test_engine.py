"""The policy set: revisions, quarantine, remembered answers, defects, explanations."""

from collections.abc import Mapping
from typing import Any

import pytest

from fleetplane_policy import (
    DEFAULT_SCHEMA,
    Attribute,
    AttributeType,
    DecisionReason,
    Effect,
    ExplainLevel,
    MalformedInput,
    OnError,
    Policy,
    PolicyScope,
    PolicySet,
    Request,
    Target,
)
from fleetplane_policy import engine as engine_module
from fleetplane_policy import index as index_module
from fleetplane_policy.compiled import CompiledPolicy
from fleetplane_policy.compiler import ConditionCompiler
from fleetplane_policy.index import PolicyIndex


def ask(action: str = "act", *, tool: str = "", now_ms: int = 0, **claims: Any) -> Request:
    facts = {"agent_name": "worker", "agent_tags": {"scope": "internal"}}
    return Request(
        agent_id="a1", action=action, tool=tool, facts=facts, claims=claims, now_ms=now_ms
    )


def deny(policy_id: str, conditions: Mapping[str, Any], **more: Any) -> Policy:
    return Policy(policy_id=policy_id, action=Effect.DENY, conditions=conditions, **more)


def test_an_invalid_policy_refuses_the_whole_set_naming_every_violation() -> None:
    policies = [
        deny("one", {"enviroment": "x"}),
        deny("two", {"tool": []}),
        deny("ok", {"tool": "x"}),
    ]
    with pytest.raises(MalformedInput) as refused:
        PolicySet.compile(policies, revision=1)
    assert [v.field for v in refused.value.violations] == [
        "policies[one].conditions.enviroment",
        "policies[two].conditions.tool",
    ]


def test_a_policy_id_twice_is_refused() -> None:
    twice = [deny("p", {"tool": "x"}), deny("p", {"tool": "y"})]
    with pytest.raises(MalformedInput, match="twice"):
        PolicySet.compile(twice, revision=1)
    with pytest.raises(MalformedInput, match="twice"):
        PolicySet.compile([], revision=1).with_changes(put=twice, revision=2)


def test_the_default_is_allow_or_deny() -> None:
    with pytest.raises(MalformedInput, match="ALLOW or DENY"):
        PolicySet.compile([], revision=1, default_effect=Effect.LOG_ONLY)


def test_a_quarantined_deny_fails_closed_where_its_readable_parts_apply() -> None:
    newer = {"action": "pay", "all": [{"attr": "amount", "op": "from_the_future", "value": 1}]}
    rules = PolicySet.compile([deny("p", newer)], revision=1, on_error=OnError.QUARANTINE)
    assert [q.policy_id for q in rules.quarantined] == ["p"]
    assert "unknown operator" in rules.quarantined[0].violations[0].description
    decision = rules.evaluate(ask("pay"))
    assert (decision.effect, decision.reason) == (
        Effect.DENY,
        DecisionReason.CONDITION_INDETERMINATE,
    )
    assert rules.evaluate(ask("read")).effect is Effect.ALLOW


@pytest.mark.parametrize(
    ("effect", "answer"),
    [
        (Effect.DENY, Effect.DENY),
        (Effect.REQUIRE_APPROVAL, Effect.REQUIRE_APPROVAL),
        (Effect.ALLOW, Effect.ALLOW),
        (Effect.LOG_ONLY, Effect.ALLOW),
    ],
)
def test_a_quarantined_policy_never_allows_by_itself(effect: Effect, answer: Effect) -> None:
    broken = Policy(policy_id="p", action=effect, conditions={"not": {"unheard": 1}})
    rules = PolicySet.compile([broken], revision=1, on_error=OnError.QUARANTINE)
    decision = rules.evaluate(ask())
    assert decision.effect is answer
    assert (decision.reason is DecisionReason.DEFAULT) == (answer is Effect.ALLOW)
    assert decision.indeterminate == ("p",)


def test_an_unreadable_target_counts_as_everything() -> None:
    broken = Policy(policy_id="p", action=Effect.DENY, targets=Target(actions=("a", "***")))
    rules = PolicySet.compile([broken], revision=1, on_error=OnError.QUARANTINE)
    assert rules.evaluate(ask("z")).effect is Effect.DENY
    full = rules.evaluate(ask("z"), explain=ExplainLevel.FULL).explanation
    assert full is not None
    assert full[0].condition is not None
    assert full[0].condition.children[-1].kind == "broken"


def test_changes_quarantine_and_leave_quarantine_too() -> None:
    rules = PolicySet.compile([], revision=1)
    with pytest.raises(MalformedInput):
        rules.with_changes(put=[deny("p", {"unheard": 1})], revision=2)
    broken = rules.with_changes(
        put=[deny("p", {"unheard": 1})], revision=2, on_error=OnError.QUARANTINE
    )
    assert broken.evaluate(ask()).effect is Effect.DENY
    mended = broken.with_changes(put=[deny("p", {"tool": "x"})], revision=3)
    assert not mended.quarantined
    assert mended.evaluate(ask()).effect is Effect.ALLOW


def test_only_what_changed_is_compiled_again(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[str] = []

    class Counting(CompiledPolicy):
        __slots__ = ()

        def __init__(self, policy: Policy, *args: Any) -> None:
            compiled.append(policy.policy_id)
            super().__init__(policy, *args)

    monkeypatch.setattr(engine_module, "CompiledPolicy", Counting)
    rules = PolicySet.compile([deny(f"p{i}", {"action": f"a{i}"}) for i in range(50)], revision=1)
    compiled.clear()
    same = deny("p7", {"action": "a7"})
    changed = rules.with_changes(
        put=[deny("p3", {"action": "other"}), same], delete=["p9", "unheard"], revision=2
    )
    assert compiled == ["p3"]
    assert len(changed) == 49
    assert changed.revision == 2
    assert changed.evaluate(ask("other")).determining == ("p3",)
    assert changed.evaluate(ask("a3")).effect is Effect.ALLOW
    assert changed.evaluate(ask("a9")).effect is Effect.ALLOW
    assert rules.evaluate(ask("a3")).determining == ("p3",), "the old revision stays as it was"
    assert rules.evaluate(ask("a3")).revision == 1


def test_a_set_whose_last_policy_goes_says_that_none_is_loaded() -> None:
    rules = PolicySet.compile([deny("p", {"tool": "x"})], revision=1)
    assert rules.evaluate(ask()).reason is DecisionReason.DEFAULT
    empty = rules.with_changes(delete=["p"], revision=2)
    assert empty.evaluate(ask()).reason is DecisionReason.NO_POLICY_LOADED


def test_equal_answers_are_one_object() -> None:
    rules = PolicySet.compile([deny("p", {"action": "act"}), deny("q", {"tool": "x"})], revision=1)
    assert rules.evaluate(ask(x=1)) is rules.evaluate(ask(y=2))
    assert rules.evaluate(ask("z")) is rules.evaluate(ask("other"))


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "DECISIONS_REMEMBERED", 3)
    monkeypatch.setattr(index_module, "PAIRS_REMEMBERED", 4)
    rules = PolicySet.compile([deny(f"p{i}", {"action": f"a{i}"}) for i in range(20)], revision=1)
    for _ in range(2):
        for i in range(20):
            assert rules.evaluate(ask(f"a{i}")).determining == (f"p{i}",)
    assert len(rules._decisions) <= 3
    assert len(rules._index._remembered) <= 4


def test_candidates_in_memory_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_module, "CANDIDATES_REMEMBERED", 10)
    wide = [Policy(policy_id=f"p{i}", action=Effect.DENY, match_all=True) for i in range(4)]
    rules = PolicySet.compile(wide, revision=1)
    for i in range(20):
        assert len(rules.evaluate(ask(f"a{i}")).determining) == 4
        assert rules._index._size <= 10


def test_judgements_in_memory_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "JUDGEMENTS_REMEMBERED", 10)
    rules = PolicySet.compile([deny(f"p{i}", {f"claim.x{i}": 1}) for i in range(4)], revision=1)
    for i in range(16):
        claims: dict[str, Any] = {f"x{n}": i >> n & 1 for n in range(4)}
        denied = tuple(f"p{n}" for n in range(4) if i >> n & 1)
        assert rules.evaluate(ask(**claims)).determining == denied
        assert sum(map(len, rules._decisions)) <= 10


@pytest.mark.parametrize("count", [10, 1_000])
def test_the_number_of_policies_asked_does_not_grow_with_the_set(count: int) -> None:
    policies = [deny(f"c{i}", {"action": f"a{i}"}) for i in range(count)]
    policies += [deny(f"l{i}", {"action": [f"a{i}", f"b{i}"]}) for i in range(count)]
    policies += [
        deny(f"t{i}", {}, targets=Target(actions=("run",), tools=(f"t{i}",))) for i in range(count)
    ]
    policies += [
        deny(f"s{i}", {"claim.x": 1}, scope=PolicyScope(agent_id=f"a{i}")) for i in range(count)
    ]
    index = PolicyIndex.of(CompiledPolicy(p, DEFAULT_SCHEMA, ConditionCompiler()) for p in policies)
    found = index.candidates("a3", "")
    assert (len(found.shared), len(found.by_id["a1"])) == (2, 1)
    assert len(index.candidates("run", "t3").shared) == 1
    assert len(index.candidates("unheard", "").shared) == 0


class Exploding(dict[str, Any]):
    """Claims that fail to be read."""

    def get(self, *_: Any) -> Any:
        raise RuntimeError("boom")


@pytest.mark.parametrize("scope", [PolicyScope(), PolicyScope(agent_id="a1")])
def test_a_defect_while_judging_fails_closed(scope: PolicyScope) -> None:
    policies = [
        deny("deny", {"environment": "x"}, scope=scope),
        Policy(policy_id="allow", action=Effect.ALLOW, conditions={"region": "x"}, priority=9),
    ]
    rules = PolicySet.compile(policies, revision=1)
    request = Request(agent_id="a1", action="act", facts={}, claims=Exploding(), now_ms=0)
    decision = rules.evaluate(request)
    assert (decision.effect, decision.determining) == (Effect.DENY, ("deny",))
    assert decision.indeterminate == ("allow", "deny")
    explained = rules.evaluate(request, explain=ExplainLevel.DETERMINING)
    assert explained.explanation is not None
    assert explained.explanation[0].result == "U"


def test_lone_surrogates_and_malformed_facts_never_crash_a_decision() -> None:
    rules = PolicySet.compile(
        [
            deny("regex", {"attr": "resource", "op": "regex", "value": "a+"}),
            deny("tags", {"agent_tags.scope": "x"}),
            deny("name", {"tool": "x"}, targets=Target(agents=("w*x",))),
        ],
        revision=1,
    )
    request = Request(
        agent_id="a",
        action="act",
        facts={"agent_name": 7, "agent_tags": "internal"},
        claims={"resource": "\ud800"},
        now_ms=0,
    )
    assert rules.evaluate(request).determining == ("regex", "tags")


def test_validity_is_half_open() -> None:
    rules = PolicySet.compile(
        [deny("p", {"action": "act"}, not_before_ms=100, not_after_ms=200)], revision=1
    )
    denied = [now for now in (99, 100, 199, 200) if rules.evaluate(ask(now_ms=now)).determining]
    assert denied == [100, 199]
    only_start = PolicySet.compile([deny("p", {"action": "act"}, not_before_ms=100)], revision=1)
    assert only_start.evaluate(ask(now_ms=10**12)).determining == ("p",)


def test_a_policy_can_be_looked_up() -> None:
    policy = deny("p", {"tool": "x"})
    rules = PolicySet.compile([policy, deny("q", {"tool": "y"}, priority=2)], revision=1)
    assert rules.get("p") is policy
    assert rules.get("z") is None
    assert [p.policy_id for p in rules.policies] == ["q", "p"]


def test_messages_name_the_policies_and_count_the_rest() -> None:
    policies = [deny(f"p{i}", {"action": "act"}, name="Stop" if i == 0 else "") for i in range(5)]
    message = PolicySet.compile(policies, revision=1).evaluate(ask()).message
    assert message == "DENY by policy p0 (Stop), p1, p2 and 2 more"


def test_determining_explanations_show_both_sides_of_every_comparison() -> None:
    conditions = {
        "action": "act",
        "not": {"environment": "dev"},
        "any": [{"estimated_cost_exceeds": 1.0}, {"agent_tags": {"scope": "public"}}],
    }
    rules = PolicySet.compile([deny("p", conditions), deny("q", {"tool": "x"})], revision=1)
    request = ask(environment="production", estimated_cost=2)
    assert rules.evaluate(request).explanation is None
    decision = rules.evaluate(request, explain=ExplainLevel.DETERMINING)
    assert decision.explanation is not None
    (explanation,) = decision.explanation
    assert (explanation.policy_id, explanation.applies, explanation.matched) == ("p", True, True)
    root = explanation.condition
    assert root is not None
    assert (root.kind, root.result) == ("all", "T")
    action, alternatives, negated = root.children  # in the order of the keys
    assert (action.attribute, action.operator, action.expected) == ("action", "eq", "'act'")
    assert (negated.kind, negated.children[0].observed, negated.result) == (
        "not",
        "'production'",
        "T",
    )
    assert [(c.attribute, c.observed, c.result) for c in alternatives.children] == [
        ("estimated_cost", "2", "T"),
        ("agent_tags.scope", "'internal'", "F"),
    ]


def test_full_explanations_cover_what_the_index_skipped() -> None:
    rules = PolicySet.compile(
        [
            deny("p", {"action": "other"}),
            deny("t", {}, targets=Target(tools=("x",))),
            deny("off", {"tool": "x"}, enabled=False),
            Policy(policy_id="w", action=Effect.LOG_ONLY, match_all=True, priority=-1),
        ],
        revision=1,
    )
    full = rules.evaluate(ask(), explain=ExplainLevel.FULL).explanation
    assert full is not None
    assert [(e.policy_id, e.applies, e.result, e.matched) for e in full] == [
        ("p", True, "F", False),
        ("t", False, "F", False),
        ("w", True, "T", True),
    ]


def test_why_not_explains_one_policy() -> None:
    rules = PolicySet.compile([deny("p", {"action": "act", "claim.x.y": 1})], revision=1)
    assert rules.why_not("unheard", ask()) is None
    missing = rules.why_not("p", ask())
    unreadable = rules.why_not("p", ask(x="text"))
    assert missing is not None
    assert missing.condition is not None
    assert missing.condition.children[1].observed == "(missing)"
    assert unreadable is not None
    assert unreadable.condition is not None
    assert unreadable.condition.children[1].observed == "(not a map)"


def test_explanations_hide_sensitive_values_and_cut_long_ones() -> None:
    schema = DEFAULT_SCHEMA.extended(
        [Attribute(name="iban", type=AttributeType.STRING, sensitive=True)]
    )
    policy = deny("p", {"iban": "a", "resource": "b"})
    rules = PolicySet.compile([policy], revision=1, schema=schema)
    explained = rules.why_not("p", ask(iban="DE02", resource="r" * 5000))
    assert explained is not None
    assert explained.condition is not None
    iban, resource = explained.condition.children
    assert iban.observed == "(hidden)"
    assert len(resource.observed) < 250
