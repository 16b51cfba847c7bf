import pytest

from controlplane.domain.decisions.why_not import WhyNotReason, why_not
from controlplane.domain.policies import Effect, ExplainLevel, OnMissing, Policy, PolicySet, Request

DENY = Policy(policy_id="deny", action=Effect.DENY, conditions={"action": "write"}, priority=9)


def policy(**fields):
    stated = {"action": Effect.ALLOW, "conditions": {"action": "write"}} | fields
    return Policy(policy_id="p", **stated)


@pytest.mark.parametrize(
    ("asked", "reason", "says"),
    [
        (policy(), WhyNotReason.OVERRIDDEN, "lost to deny"),
        (policy(enabled=False), WhyNotReason.DISABLED, "disabled"),
        (policy(not_before_ms=10**15), WhyNotReason.NOT_APPLICABLE, "do not cover"),
        (policy(conditions={"environment": "staging"}), WhyNotReason.CONDITION_FALSE, "not hold"),
        (policy(conditions={"region": "eu"}), WhyNotReason.CONDITION_UNKNOWN, "absent"),
        (policy(action=Effect.LOG_ONLY), WhyNotReason.OBSERVES, "observes"),
        (policy(action=Effect.DENY, priority=10), WhyNotReason.DECIDED, "did decide"),
        (
            policy(action=Effect.DENY, conditions={"region": "eu"}, on_missing=OnMissing.MATCH),
            WhyNotReason.OVERRIDDEN,
            "lost",
        ),
    ],
)
def test_the_reason_is_found_and_said(asked, reason, says):
    rules = PolicySet.compile([DENY, asked], revision=1)
    request = Request(
        agent_id="a", action="write", facts={}, claims={"environment": "production"}, now_ms=1
    )
    decision = rules.evaluate(request, explain=ExplainLevel.FULL)

    answer = why_not("p", rules.get("p"), rules.why_not("p", request), decision)

    assert answer.reason is reason
    assert says in answer.message


def test_nobody_is_why_not():
    rules = PolicySet.compile([DENY], revision=1)
    request = Request(agent_id="a", action="write", facts={}, claims={}, now_ms=1)

    answer = why_not("none", None, None, rules.evaluate(request))

    assert answer.reason is WhyNotReason.NOT_FOUND
    assert answer.explanation is None
