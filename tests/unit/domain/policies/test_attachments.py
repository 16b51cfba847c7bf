"""What policies carry besides their rule: bounded, handed on, joined in digests."""

from dataclasses import replace

import pytest

from fleetplane_policy import (
    ApprovalRequirement,
    ApprovalStage,
    DecisionReason,
    Effect,
    Escalation,
    Obligation,
    OnMissing,
    Policy,
    PolicySet,
    Request,
    digest_of,
    validate_policy,
)

REDACT, NOTIFY = Obligation(name="redact", params={"fields": ["ssn"]}), Obligation(name="notify")
TWO = ApprovalStage(name="security", quorum=2, eligible=("group:security",))


def asking(**approval: object) -> Policy:
    return Policy(
        policy_id="p",
        action=Effect.REQUIRE_APPROVAL,
        conditions={"action": "x"},
        approval=ApprovalRequirement(**approval),  # type: ignore[arg-type]  # as the test says
    )


def request(**claims: object) -> Request:
    return Request(agent_id="a", action="x", facts={}, claims=claims, now_ms=0)


def wrong(policy: Policy) -> list[str]:
    return [v.field for v in validate_policy(policy)]


def test_a_requirement_within_its_bounds_is_accepted() -> None:
    whole = asking(
        stages=(TWO, ApprovalStage(name="owner", eligible=("user:ann", "role:approver"))),
        ttl_ms=86_400_000,
        escalations=(Escalation(after_ms=60_000, eligible=("spiffe://x/oncall/*",)),),
    )
    assert not wrong(whole)


@pytest.mark.parametrize(
    ("policy", "field"),
    [
        (asking(stages=(replace(TWO, quorum=0),)), "approval.stages[0].quorum"),
        (asking(stages=(replace(TWO, deny_quorum=17),)), "approval.stages[0].deny_quorum"),
        (asking(stages=(TWO, TWO)), "approval.stages[1].name"),
        (asking(stages=(replace(TWO, eligible=("ann",)),)), "approval.stages[0].eligible[0]"),
        (
            asking(stages=(replace(TWO, eligible=("role:admin",)),)),
            "approval.stages[0].eligible[0]",
        ),
        (asking(stages=(TWO,) * 9), "approval.stages"),
        (asking(ttl_ms=0), "approval.ttl"),
        (asking(use_window_ms=86_400_001), "approval.use_window"),
        (asking(not_before_delay_ms=-1), "approval.not_before_delay"),
        (
            asking(escalations=(Escalation(after_ms=900_000, eligible=("user:a",)),)),
            "approval.escalations[0].after",
        ),
        (
            asking(escalations=(Escalation(after_ms=1_000, eligible=()),)),
            "approval.escalations[0].eligible",
        ),
        (replace(asking(), action=Effect.DENY), "approval"),
        (replace(asking(), obligations=(Obligation(name=""),)), "obligations[0].name"),
        (
            replace(asking(), obligations=(Obligation(name="n", params={"k": "v" * 5_000}),)),
            "obligations[0].params",
        ),
        (replace(asking(), obligations=(NOTIFY,) * 17), "obligations"),
    ],
)
def test_what_is_out_of_bounds_is_named(policy: Policy, field: str) -> None:
    assert field in wrong(policy)


def test_decisions_carry_the_obligations_of_those_that_determined_them_once() -> None:
    first = Policy(policy_id="a", action=Effect.DENY, match_all=True, obligations=(REDACT, NOTIFY))
    second = replace(first, policy_id="b", obligations=(NOTIFY,))
    loser = replace(first, policy_id="c", priority=-1, obligations=(Obligation(name="other"),))
    decision = PolicySet.compile((second, loser, first), revision=1).evaluate(request())
    assert decision.obligations == (REDACT, NOTIFY)


def test_the_default_for_absent_attributes_can_change_without_compiling() -> None:
    rule = Policy(policy_id="p", action=Effect.DENY, conditions={"environment": "x"})
    stated = replace(rule, policy_id="q", on_missing=OnMissing.NO_MATCH)
    rules = PolicySet.compile((rule, stated), revision=1)
    assert rules.evaluate(request()).effect is Effect.ALLOW
    strict = rules.with_defaults(
        default_effect=Effect.ALLOW, on_missing=OnMissing.MATCH, revision=2
    )
    decision = strict.evaluate(request())
    assert decision.effect is Effect.DENY
    assert decision.reason is DecisionReason.CONDITION_INDETERMINATE
    assert decision.determining == ("p",)
    assert decision == strict.evaluate_linear(request())
    assert rules.evaluate(request()).effect is Effect.ALLOW


def test_a_digest_says_what_the_policies_say_and_not_who_wrote_them() -> None:
    one, other = asking(), replace(asking(), policy_id="q")
    stamped = replace(one, revision=9, updated_at_ms=5, updated_by="ann")
    assert digest_of((one, other)) == digest_of((other, stamped))
    assert digest_of((one,)) != digest_of((replace(one, priority=1),))
    assert PolicySet.compile((one, other), revision=1).digest == digest_of((one, other))


def test_a_candidate_is_named_by_its_decisions_only() -> None:
    rule = Policy(policy_id="p", action=Effect.DENY, match_all=True)
    live = PolicySet.compile((), revision=7)
    staged = live.with_candidate("pcd-1", put=(rule,), delete=())
    assert staged.evaluate(request()).candidate_id == "pcd-1"
    assert staged.evaluate(request()).revision == 7
    assert live.evaluate(request()).candidate_id == ""
