"""Recorded decisions in words."""

from google.protobuf.json_format import ParseDict

from controlplane.cli.decision_views import entry_line, explanation_text
from fleetplane.v1 import decision_service_pb2 as pb

RECORDED = {
    "decision": {
        "decisionId": "dec-019b76da8800-0a1b2c3d-00000001",
        "action": "POLICY_ACTION_DENY",
        "reason": "REASON_POLICY",
        "message": "DENY by policy no-writes",
        "determiningPolicies": ["no-writes"],
        "overriddenPolicies": ["may-write"],
        "policyRevision": 7,
    },
    "agentId": "agt-1",
    "agentName": "researcher",
    "agentVersion": "1.0.0",
    "action": "db:write",
    "madeAt": "2026-01-01T00:00:00Z",
    "origin": "DECISION_ORIGIN_LOCAL",
    "context": {"environment": "production"},
}


def leaf(attribute: str, result: str) -> dict[str, str]:
    return {
        "kind": "leaf",
        "attribute": attribute,
        "operator": "eq",
        "expected": "'x'",
        "observed": "'y'",
        "result": f"TRUTH_{result}",
    }


def explanation(**fields: object) -> pb.ExplainDecisionResponse:
    near = {
        "policyId": "near",
        "action": "POLICY_ACTION_DENY",
        "applies": True,
        "result": "TRUTH_FALSE",
        "condition": {
            "kind": "all",
            "result": "TRUTH_FALSE",
            "children": [leaf("environment", "TRUE"), leaf("region", "FALSE")],
        },
    }
    far = near | {
        "policyId": "far",
        "condition": {"kind": "all", "children": [leaf("a", "FALSE"), leaf("b", "FALSE")]},
    }
    stated = {
        "recorded": RECORDED,
        "replayed": RECORDED["decision"] | {"explanations": [near, far]},  # type: ignore[operator]  # a dictionary
        "explainedBy": "EXPLAINED_BY_RECORDED_REVISION",
    }
    return ParseDict(stated | fields, pb.ExplainDecisionResponse())


def test_a_decision_is_one_line():
    line = entry_line(ParseDict({"decision": RECORDED}, pb.DecisionEntry()))

    for part in ("dec-019b76da8800", "DENY", "researcher@1.0.0", "db:write", "by the agent"):
        assert part in line


def test_a_gap_says_how_many_are_missing_and_why():
    gap = {
        "numberLost": 9124,
        "firstAt": "2026-01-01T00:00:00Z",
        "lastAt": "2026-01-01T00:00:08Z",
        "cause": "DECISION_GAP_CAUSE_NOT_REPORTED",
        "source": "agt-1",
    }
    line = entry_line(ParseDict({"gap": gap}, pb.DecisionEntry()))

    assert "9124 decisions were not recorded" in line
    assert "not reported, agt-1" in line


def test_who_decided_who_lost_and_who_almost_matched_is_said():
    text = explanation_text(explanation())

    assert "It was DENY: DENY by policy no-writes." in text
    assert "Decided by no-writes." in text
    assert "Matched and lost: may-write." in text
    assert "Almost matched: near, but region eq 'x' does not hold: it is 'y'." in text
    assert "Almost matched: far" not in text
    assert "today" not in text


def test_an_explanation_by_other_policies_or_without_masked_values_says_so():
    text = explanation_text(
        explanation(
            explainedBy="EXPLAINED_BY_CURRENT_REVISION",
            notReplayablePolicies=["card"],
            whyNot={"policyId": "cost", "reason": "REASON_DISABLED", "message": "it is disabled"},
        )
    )

    assert "by those of today" in text
    assert "may have said something else then: card" in text
    assert "Why not cost: it is disabled." in text
