"""The rows of what governs agents: sets of policies, decisions, approvals, prompts, experiments."""

from datetime import UTC, datetime, timedelta
from typing import Any, Final

from tests.e2e.audited_rows import Row, Step, World

AGENT: Final = "writer-1.0.0"
DATASET: Final = "sha256:" + "d" * 64


def _soon() -> str:
    return (datetime.now(UTC) + timedelta(minutes=5)).isoformat()


def _opened(name: str, *, granted: bool = False) -> Step:
    """Let the agent ask for something that people must allow; perhaps allow it."""

    def do(world: World) -> None:
        answer = world.call("PolicyService/EvaluatePolicy", _question(name), who="agent")
        world.seen[name] = answer.decision.approval_id
        if granted:
            world.call("ApprovalService/DecideApproval", _granting(name)(world))

    return Step(do)


def _question(name: str) -> dict[str, Any]:
    return {"agentId": AGENT, "action": "pay", "context": {"invoice": name}}


def _granting(name: str) -> Any:
    return lambda w: {"approvalId": w[name], "decision": "APPROVAL_DECISION_GRANT"}


def _of(name: str, **fields: Any) -> Any:
    return lambda w: {"approvalId": w[name]} | fields


def _later(name: str) -> Any:
    return lambda w: {"approvalId": w[name], "expiresAt": _soon(), "reason": "lunch"}


def _policy(policy_id: str, action: str, **fields: Any) -> dict[str, Any]:
    return {"policyId": policy_id, "action": f"POLICY_ACTION_{action}", "enabled": True} | fields


_LOGGING: Final = _policy("noted", "LOG_ONLY", targets={"actions": ["note"]})
_ASKING: Final = _policy("ask", "REQUIRE_APPROVAL", targets={"actions": ["pay"]})


def _keep_candidate(world: World, answer: Any) -> None:
    world.seen["candidate"] = answer.candidate.candidate_id


def _new_candidate(world: World) -> None:
    request = {"policies": [_LOGGING | {"description": "again"}]}
    _keep_candidate(world, world.call("PolicyService/CreatePolicyCandidate", request))


_POLICY_SETS: Final = (
    Row(
        "PolicyService/UpdatePolicySettings",
        lambda _: {"settings": {"onMissing": "ON_MISSING_MATCH"}, "updateMask": "onMissing"},
    ),
    Row(
        "PolicyService/ReplacePolicyTests",
        lambda _: {
            "tests": [{"name": "others", "action": "other", "expect": "POLICY_ACTION_ALLOW"}]
        },
    ),
    Row(
        "PolicyService/CreatePolicyCandidate",
        lambda _: {"policies": [_LOGGING]},
        keep=_keep_candidate,
    ),
    Row("PolicyService/DeletePolicyCandidate", lambda w: {"candidateId": w["candidate"]}),
    Step(_new_candidate),
    Row(
        "PolicyService/ActivatePolicyRevision",
        lambda w: {
            "candidateId": w["candidate"],
            "stage": "POLICY_STAGE_KIND_PERCENT",
            "percent": 10,
        },
    ),
    Row("PolicyService/StopPolicyStage", lambda _: {}),
    Step(
        lambda w: w.seen.update(
            live=w.call("PolicyService/ListPolicyRevisions", {}).revisions[-1].revision
        )
    ),
    Row(
        "PolicyService/RollbackPolicyRevision",
        lambda w: {"toRevision": w["live"], "reason": "a drill"},
    ),
)


def _decided() -> dict[str, Any]:
    now = datetime.now(UTC)
    made = {
        "decisionId": f"dec-{round(now.timestamp() * 1000):012x}-0000abcd-1",
        "action": "POLICY_ACTION_ALLOW",
        "reason": "REASON_DEFAULT",
    }
    return {"action": "note", "madeAt": now.isoformat(), "decision": made}


_DECISIONS: Final = (
    Row(
        "DecisionService/RecordDecisions",
        lambda _: {"agentId": AGENT, "batchId": "b-1", "decisions": [_decided()]},
        who="agent",
        entries=0,
        why="what agents decide by themselves has a log of its own",
    ),
)


def _keep_grant(world: World, answer: Any) -> None:
    world.seen["grant"] = answer.grant.grant_id


_APPROVALS: Final = (
    Step(lambda w: w.call("PolicyService/CreatePolicy", {"policy": _ASKING}) and None),
    _opened("first"),
    Row("ApprovalService/DecideApproval", _granting("first")),
    Row(
        "ApprovalService/ConsumeApproval",
        lambda w: _question("first") | {"approvalId": w["first"], "consumeId": "attempt-1"},
        who="agent",
    ),
    _opened("second"),
    _opened("third"),
    Row(
        "ApprovalService/BatchDecideApprovals",
        lambda w: {
            "decisions": [
                _granting("second")(w),
                {"approvalId": w["third"], "decision": "APPROVAL_DECISION_DENY"},
            ]
        },
        entries=2,
        says="DecideApproval",
        why="one for each approval",
    ),
    Row("ApprovalService/RevokeApproval", _of("second", reason="a drill")),
    _opened("fourth"),
    Row(
        "ApprovalService/ExtendApproval",
        _later("fourth"),
    ),
    Row("ApprovalService/DelegateApproval", _of("fourth", delegate="user:ann")),
    Row("ApprovalService/CancelApproval", _of("fourth", reason="a drill")),
    Row(
        "ApprovalService/CreateStandingGrant",
        lambda _: {
            "grant": {
                "agentName": "writer",
                "action": "pay",
                "maxUses": 5,
                "expiresAt": _soon(),
                "reason": "the night run",
            }
        },
        keep=_keep_grant,
    ),
    Row("ApprovalService/RevokeStandingGrant", lambda w: {"grantId": w["grant"]}),
)


def _keep_version(world: World, answer: Any) -> None:
    world.seen["digest"] = answer.version.content_sha256


def _greeting(**fields: Any) -> Any:
    return lambda _: {"prompt": "greeting", "reason": "a drill"} | fields


_PROMPTS: Final = (
    Row(
        "PromptService/CreatePromptVersion",
        _greeting(type="PROMPT_TYPE_TEXT", text="Good morning."),
        keep=_keep_version,
    ),
    Row("PromptService/MoveLabel", _greeting(label="production", version=1)),
    Step(
        lambda w: (
            w.call("PromptService/CreatePromptVersion", _greeting(text="Good evening.")(w)) and None
        )
    ),
    Row("PromptService/RestorePromptVersion", _greeting(version=1)),
    Row("PromptService/SetAgentLabel", _greeting(agentName="writer", label="production")),
    Row("PromptService/UnsetAgentLabel", _greeting(agentName="writer")),
    Row(
        "PromptService/RecordEvaluation",
        lambda _: {
            "prompt": "greeting",
            "version": 1,
            "datasetSha256": DATASET,
            "scorer": "exact",
            "scorerVersion": "1",
            "items": [{"itemId": str(number), "scores": [1.0]} for number in range(3)],
        },
    ),
    Row(
        "PromptService/SetLabelGate",
        _greeting(
            gate={
                "label": "staging",
                "datasetSha256": DATASET,
                "scorer": "exact",
                "scorerVersion": "1",
            }
        ),
    ),
    Row("PromptService/RemoveLabel", _greeting(label="production")),
    Row(
        "PromptService/MarkPromptUsed",
        lambda w: {
            "prompt": "greeting",
            "version": 1,
            "contentSha256": w["digest"],
            "agentId": AGENT,
            "sessionId": "s-1",
        },
        who="agent",
        entries=0,
        why="what agents use is counted, not audited",
    ),
)

_SPEC: Final = {
    "subject": {"configPath": "temperature"},
    "variants": [
        {"name": "cold", "weightBp": 5000, "control": True, "configValue": 0.2},
        {"name": "warm", "weightBp": 5000, "configValue": 0.9},
    ],
    "coverageBp": 1000,
    "primary": {"name": "solved"},
}


def _exposures(world: World, *units: str) -> list[dict[str, Any]]:
    dealt: list[dict[str, Any]] = []
    for unit in units:
        request = {"key": "warmth", "unit": unit}
        assignment = world.call("ExperimentService/AssignVariant", request).assignment
        variant = assignment.variant
        dealt.append({"unit": unit, "variant": variant.name, "digest": variant.digest})
    return dealt


_EXPERIMENTS: Final = (
    Row("ExperimentService/CreateExperiment", lambda _: {"key": "warmth", "spec": _SPEC}),
    Row("ExperimentService/StartExperiment", lambda _: {"key": "warmth"}),
    Row("ExperimentService/SetCoverage", lambda _: {"key": "warmth", "coverageBp": 10_000}),
    Row(
        "ExperimentService/RecordExposure",
        lambda w: {"key": "warmth", "exposure": _exposures(w, "s-1")[0]},
    ),
    Row(
        "ExperimentService/BatchRecordExposures",
        lambda w: {"key": "warmth", "exposures": _exposures(w, "s-2", "s-3")},
        says="RecordExposure",
        why="one for the experiment",
    ),
    Row(
        "ExperimentService/RecordOutcome",
        lambda _: {"key": "warmth", "outcome": {"unit": "s-1", "metric": "solved", "value": 1}},
    ),
    Row(
        "ExperimentService/BatchRecordOutcomes",
        lambda _: {
            "key": "warmth",
            "outcomes": [{"unit": unit, "metric": "solved", "value": 1} for unit in ("s-2", "s-3")],
        },
        says="RecordOutcome",
        why="one for the experiment",
    ),
    Row("ExperimentService/StartNewPhase", lambda _: {"key": "warmth", "expectedPhase": 1}),
    Row("ExperimentService/StopExperiment", lambda _: {"key": "warmth"}),
    Row(
        "ExperimentService/DeleteExperiment",
        lambda _: {"key": "warmth"},
        entries=4,
        why="what it has recorded is removed first, phase by phase",
    ),
)

ROWS: Final[tuple[Row | Step, ...]] = (
    *_POLICY_SETS,
    *_DECISIONS,
    *_APPROVALS,
    *_PROMPTS,
    *_EXPERIMENTS,
)
