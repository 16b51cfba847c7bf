"""What sets of policies must refuse; see `bad_requests.py`."""

from collections.abc import Iterator
from typing import Any, Final

from google.protobuf.json_format import ParseDict

from fleetplane.v1 import policy_service_pb2 as pb
from tests.e2e.bad_requests import NOWHERE, Make, Row, refused, wrong

_POLICY: Final = {"policy_id": "p-new", "action": "POLICY_ACTION_DENY", "match_all": True}
_STALE: Final = 1_000_000


def _make(request: Any, **fields: Any) -> Make:
    return lambda w: ParseDict({"namespace": w.namespace} | fields, request())


def _candidates() -> Iterator[Row]:
    def create(**fields: Any) -> Make:
        return _make(pb.CreatePolicyCandidateRequest, **fields)

    wrong_policy = _POLICY | {"match_all": False, "conditions": {"enviroment": "x"}}
    test = {"name": "t", "action": "read", "expect": "POLICY_ACTION_DENY"}
    for what, named, fields in (
        ("nothing to change", "policies", {}),
        ("a policy without action", "policies*", {"policies": [_POLICY | {"action": 0}]}),
        ("a wrong condition", "policies*", {"policies": [wrong_policy]}),
        ("a policy twice", "policies", {"policies": [_POLICY, _POLICY]}),
        ("a deletion of nobody", "delete", {"delete": [NOWHERE]}),
        ("a deletion of a whole set", "delete", {"whole": True, "delete": ["p-1"]}),
        (
            "a policy that is put and deleted",
            "delete",
            {"policies": [_POLICY | {"policy_id": "p-1"}], "delete": ["p-1"]},
        ),
        ("a long description", "description", {"policies": [_POLICY], "description": "d" * 5_000}),
        ("a test without name", "tests*", {"tests": {"tests": [test | {"name": ""}]}}),
        ("a test twice", "tests*", {"tests": {"tests": [test, test]}}),
        ("a test that expects nothing", "tests*", {"tests": {"tests": [test | {"expect": 0}]}}),
        (
            "a test of two agents",
            "tests*",
            {"tests": {"tests": [test | {"agent_id": "a", "agent": {"name": "b"}}]}},
        ),
        ("201 tests", "tests", {"tests": {"tests": [test | {"name": f"{n}"} for n in range(201)]}}),
    ):
        yield wrong("CreatePolicyCandidate", what, named, create(**fields))
    yield refused(
        "CreatePolicyCandidate",
        "a stale revision",
        "ABORTED",
        "REVISION_CONFLICT",
        create(policies=[_POLICY], expected_revision=_STALE),
        expected_revision=str(_STALE),
    )
    for method, request in (
        ("GetPolicyCandidate", pb.GetPolicyCandidateRequest),
        ("DeletePolicyCandidate", pb.DeletePolicyCandidateRequest),
        ("ActivatePolicyRevision", pb.ActivatePolicyRevisionRequest),
    ):
        stage = {"stage": "POLICY_STAGE_KIND_FULL"} if method.startswith("Activate") else {}
        yield wrong(method, "no candidate", "candidate_id", _make(request, **stage))
        yield refused(
            method,
            "an unknown candidate",
            "NOT_FOUND",
            "POLICY_CANDIDATE_NOT_FOUND",
            _make(request, candidate_id=NOWHERE, **stage),
            candidate_id=NOWHERE,
        )
    activations: tuple[tuple[str, str, dict[str, Any]], ...] = (
        ("no stage", "stage", {}),
        ("an unknown stage", "stage", {"stage": 99}),
        ("no percentage", "percent", {"stage": "POLICY_STAGE_KIND_PERCENT"}),
        ("all agents by percentage", "percent", {"stage": 2, "percent": 100}),
        ("a percentage of the shadow", "percent", {"stage": 3, "percent": 5}),
        ("too many decisions", "limit", {"stage": 1, "limit": 100_001, "max_flips": 0}),
    )
    for what, named, fields in activations:
        make = _make(pb.ActivatePolicyRevisionRequest, candidate_id=NOWHERE, **fields)
        yield wrong("ActivatePolicyRevision", what, named, make)


def _revisions() -> Iterator[Row]:
    future = 1_000_000_000
    for method, request, field in (
        ("GetPolicyRevision", pb.GetPolicyRevisionRequest, "revision"),
        ("DiffPolicyRevisions", pb.DiffPolicyRevisionsRequest, "from_revision"),
        ("RollbackPolicyRevision", pb.RollbackPolicyRevisionRequest, "to_revision"),
    ):
        yield refused(
            method,
            "a revision of the future",
            "NOT_FOUND",
            "REVISION_NOT_FOUND",
            _make(
                request,
                **{field: future},
                **({"reason": "r"} if method.startswith("Rollback") else {}),
            ),
            revision=str(future),
        )
    rollback = pb.RollbackPolicyRevisionRequest
    method = "RollbackPolicyRevision"
    yield wrong(method, "no revision", "to_revision", _make(rollback, reason="r"))
    yield wrong(method, "no reason", "reason", _make(rollback, to_revision=1))
    yield refused(
        method,
        "a stale revision",
        "ABORTED",
        "REVISION_CONFLICT",
        _make(rollback, to_revision=1, reason="r", expected_revision=_STALE),
        expected_revision=str(_STALE),
    )


def _simulations() -> Iterator[Row]:
    def simulate(**fields: Any) -> Make:
        return _make(pb.SimulatePoliciesRequest, **fields)

    method, stated = "SimulatePolicies", {"policies": [_POLICY]}
    for what, named, fields in (
        ("nothing to try", "policies", {}),
        ("100,001 decisions", "limit", stated | {"limit": 100_001}),
        (
            "a range that ends before it begins",
            "to",
            stated | {"from": "2026-01-02T00:00:00Z", "to": "2026-01-01T00:00:00Z"},
        ),
        ("a candidate and policies", "candidate_id", stated | {"candidate_id": NOWHERE}),
    ):
        yield wrong(method, what, named, simulate(**fields))
    yield refused(
        method,
        "an unknown candidate",
        "NOT_FOUND",
        "POLICY_CANDIDATE_NOT_FOUND",
        simulate(candidate_id=NOWHERE),
        candidate_id=NOWHERE,
    )


def _settings() -> Iterator[Row]:
    def update(*paths: str, **fields: Any) -> Make:
        stated = {"settings": fields, "update_mask": ",".join(paths)}
        return _make(pb.UpdatePolicySettingsRequest, **stated)

    method, rule = "UpdatePolicySettings", {"actions": ["pay"]}
    for what, named, make in (
        ("no mask", "update_mask", update()),
        ("its revision", "update_mask", update("revision")),
        (
            "a default of approval",
            "settings.default_action",
            update("defaultAction", default_action="POLICY_ACTION_REQUIRE_APPROVAL"),
        ),
        (
            "an unknown default",
            "settings.default_action",
            update("defaultAction", default_action=99),
        ),
        (
            "a rule for nothing",
            "settings.decision_log*",
            update("decisionLog", decision_log={"rules": [{}]}),
        ),
        (
            "a share of two",
            "settings.decision_log*",
            update("decisionLog", decision_log={"rules": [rule | {"sample_rate": 2}]}),
        ),
        (
            "too many who wait",
            "settings.approval*",
            update("approval", approval={"max_pending_per_agent": 1_001}),
        ),
    ):
        yield wrong(method, what, named, make)
    yield refused(
        method,
        "a stale revision",
        "ABORTED",
        "REVISION_CONFLICT",
        lambda w: ParseDict(
            {"namespace": w.namespace, "updateMask": "approval", "expectedRevision": _STALE},
            pb.UpdatePolicySettingsRequest(),
        ),
        expected_revision=str(_STALE),
    )
    long = pb.PolicyTest(name="t", action="no action", expect=pb.POLICY_ACTION_DENY)
    yield wrong(
        "ReplacePolicyTests",
        "an action with a space",
        "tests[0].action",
        lambda w: pb.ReplacePolicyTestsRequest(namespace=w.namespace, tests=[long]),
    )
    yield refused(
        "ReplacePolicyTests",
        "a stale revision",
        "ABORTED",
        "REVISION_CONFLICT",
        _make(pb.ReplacePolicyTestsRequest, expected_revision=_STALE),
        expected_revision=str(_STALE),
    )
    yield wrong(
        "StopPolicyStage",
        "a long reason",
        "reason",
        _make(pb.StopPolicyStageRequest, reason="r" * 1_025),
    )


def _looks() -> Iterator[Row]:
    for method, request in (
        ("GetPolicySettings", pb.GetPolicySettingsRequest),
        ("GetPolicyTests", pb.GetPolicyTestsRequest),
        ("GetPolicyStage", pb.GetPolicyStageRequest),
        ("ListPolicyCandidates", pb.ListPolicyCandidatesRequest),
    ):
        yield wrong(
            method, "a malformed namespace", "namespace", _make(request, namespace="No Such")
        )


ROWS: Final = (*_candidates(), *_revisions(), *_simulations(), *_settings(), *_looks())
"""All of them."""
