"""Sets of policies as they change, between the wire and the domain."""

from collections.abc import Iterable
from typing import Final

from controlplane.api.convert.policies import policy_from_proto, policy_to_proto
from controlplane.api.convert.policy_replay import report_to_proto
from controlplane.api.convert.policy_tests import (
    failures_to_proto,
    test_list_to_proto,
    tests_from_proto,
)
from controlplane.api.convert.requests import reason_from_proto, required
from controlplane.api.convert.values import EnumPair, moment
from controlplane.domain.errors import FieldViolation, InvalidArgument
from controlplane.domain.policies import Policy
from controlplane.domain.policy_sets.candidates import PolicyCandidate, PolicyStage, StageKind
from controlplane.domain.policy_sets.history import ChangeKind, PolicyChange, PolicyDifference
from controlplane.services.policies.activations import Activated, Activation
from controlplane.services.policies.candidates import CandidateDraft, CandidateView
from controlplane.services.policies.revisions import RevisionSummary, SetAtRevision
from controlplane.services.policies.simulation import DEFAULT_DECISIONS, Sample
from controlplane.services.ports import RequestKey
from fleetplane.v1 import policy_service_pb2 as pb

MAX_DESCRIPTION_BYTES: Final = 4_096
"""Of a candidate."""

IDS_NAMED: Final = 100
"""Policies that a revision in a list names, of each kind of change."""

DIFFERENCES_BYTES: Final = 512 * 1024
"""Differences that are told whole beside other things: a candidate takes 3 MiB, and peers accept
messages of 4 MiB."""

DIFFERENCES_ALONE_BYTES: Final = 3 * 1024 * 1024
"""The same, where they are all there is in the message."""

_KINDS: Final = EnumPair(pb.PolicyChangeKind, "POLICY_CHANGE_KIND_", ChangeKind)
_STAGES: Final = EnumPair(pb.PolicyStageKind, "POLICY_STAGE_KIND_", StageKind)

_FIELD_NAMES: Final = {
    "scope": "agent_name, agent_id",
    "not_before_ms": "not_before",
    "not_after_ms": "not_after",
}
"""Attributes of `Policy` that are called otherwise on the wire."""


def policies_from_proto(policies: Iterable[pb.Policy]) -> tuple[Policy, ...]:
    """Return policies, naming what is wrong as `policies[<position>].<path>`.

    Raises:
        InvalidArgument: with every violation.
    """
    found: list[Policy] = []
    wrong: list[FieldViolation] = []
    for position, policy in enumerate(policies):
        try:
            found.append(policy_from_proto(policy))
        except InvalidArgument as error:
            wrong += [
                FieldViolation(v.field.replace("policy", f"policies[{position}]", 1), v.description)
                for v in error.violations
            ]
    if wrong:
        raise InvalidArgument(*wrong)
    return tuple(found)


def draft_from_proto(
    request: pb.CreatePolicyCandidateRequest, key: RequestKey | None
) -> CandidateDraft:
    """Return what CreatePolicyCandidate asks for.

    Raises:
        InvalidArgument: naming what is wrong.
    """
    if len(request.description.encode()) > MAX_DESCRIPTION_BYTES:
        raise InvalidArgument.of("description", f"is longer than {MAX_DESCRIPTION_BYTES} bytes")
    stated = stated_from_proto(request)
    tests = tests_from_proto(request.tests.tests, "tests") if request.HasField("tests") else None
    return CandidateDraft(
        whole=stated if request.whole else None,
        put=() if request.whole else stated,
        delete=tuple(request.delete),
        tests=tests,
        description=request.description,
        reason=reason_from_proto(request.reason),
        expected_revision=(
            request.expected_revision if request.HasField("expected_revision") else None
        ),
        dry_run=request.dry_run,
        request=key,
    )


def stated_from_proto(
    request: pb.CreatePolicyCandidateRequest | pb.SimulatePoliciesRequest,
) -> tuple[Policy, ...]:
    """Return the policies that a request states.

    Raises:
        InvalidArgument: with every violation; deletions beside a whole set.
    """
    if request.whole and request.delete:
        raise InvalidArgument.of("delete", "does not go with whole: leave those policies out")
    return policies_from_proto(request.policies)


def activation_from_proto(
    request: pb.ActivatePolicyRevisionRequest, key: RequestKey | None
) -> Activation:
    """Return what ActivatePolicyRevision asks for.

    Raises:
        InvalidArgument: no candidate, or no stage that is known.
    """
    full = request.stage == pb.POLICY_STAGE_KIND_FULL
    return Activation(
        candidate_id=required(request.candidate_id, "candidate_id"),
        stage=None if full else _STAGES.from_wire(request.stage, "stage"),
        percent=request.percent,
        expected_revision=(
            request.expected_revision if request.HasField("expected_revision") else None
        ),
        max_flips=request.max_flips if request.HasField("max_flips") else None,
        sample=Sample(limit=request.limit or DEFAULT_DECISIONS),
        reason=reason_from_proto(request.reason),
        dry_run=request.dry_run,
        request=key,
    )


def difference_to_proto(difference: PolicyDifference) -> pb.PolicyDifference:
    """Return one policy that differs as a message."""
    before, after = difference.before, difference.after
    return pb.PolicyDifference(
        policy_id=difference.policy_id,
        before=None if before is None else policy_to_proto(before),
        after=None if after is None else policy_to_proto(after),
        fields=[_FIELD_NAMES.get(name, name) for name in difference.fields],
    )


def differences_to_proto(
    found: Iterable[PolicyDifference], *, room: int = DIFFERENCES_BYTES
) -> list[pb.PolicyDifference]:
    """Return what differs as messages; beyond `room` bytes, policies by their ids only.

    What was done must not fail because it cannot be told.
    """
    told: list[pb.PolicyDifference] = []
    for one in found:
        message = difference_to_proto(one)
        room -= message.ByteSize()
        if room < 0:
            for side in ("before", "after"):
                if message.HasField(side):
                    getattr(message, side).CopyFrom(pb.Policy(policy_id=one.policy_id))
        told.append(message)
    return told


def revision_to_proto(change: PolicyChange, digest: str) -> pb.PolicyRevision:
    """Return one change of the live set as a message."""
    ids: dict[str, list[str]] = {"added": [], "changed": [], "removed": []}
    for policy_id in sorted(change.before.keys() | change.after.keys()):
        if change.before.get(policy_id) is None:
            ids["added"].append(policy_id)
        elif change.after.get(policy_id) is None:
            ids["removed"].append(policy_id)
        else:
            ids["changed"].append(policy_id)
    return pb.PolicyRevision(
        revision=change.revision,
        kind=_KINDS.to_wire(change.kind),
        made_at=moment(change.created_at_ms),
        made_by=change.actor,
        reason=change.reason,
        added=ids["added"][:IDS_NAMED],
        changed=ids["changed"][:IDS_NAMED],
        removed=ids["removed"][:IDS_NAMED],
        changes=sum(map(len, ids.values())),
        digest=digest,
        candidate_id=change.candidate_id,
        restored_from=change.restored_from,
    )


def summary_to_proto(summary: RevisionSummary) -> pb.PolicyRevision:
    """Return one revision of a list as a message."""
    return revision_to_proto(summary.change, summary.digest)


def set_to_proto(found: SetAtRevision) -> pb.GetPolicyRevisionResponse:
    """Return the whole set of a revision as a message."""
    policies = sorted(
        found.snapshot.policies.values(), key=lambda one: (-one.priority, one.policy_id)
    )
    change = found.change
    return pb.GetPolicyRevisionResponse(
        revision=None if change is None else revision_to_proto(change, found.digest),
        policies=[policy_to_proto(policy) for policy in policies],
        digest=found.digest,
        tests=test_list_to_proto(found.snapshot.tests),
    )


def candidate_to_proto(candidate: PolicyCandidate, *, whole: bool = True) -> pb.PolicyCandidate:
    """Return a candidate as a message; unless `whole`, without its policies and tests."""
    tests = candidate.tests if whole else None
    return pb.PolicyCandidate(
        candidate_id=candidate.candidate_id,
        description=candidate.description,
        base_revision=candidate.base_revision,
        put=[policy_to_proto(policy) for policy in candidate.put] if whole else (),
        delete=candidate.delete,
        tests=None if tests is None else test_list_to_proto(tests),
        created_by=candidate.created_by,
        created_at=moment(candidate.created_at_ms),
        reason=candidate.reason,
        revision=candidate.revision,
    )


def created_to_proto(shown: CandidateView) -> pb.CreatePolicyCandidateResponse:
    """Return what CreatePolicyCandidate answers."""
    return pb.CreatePolicyCandidateResponse(
        candidate=candidate_to_proto(shown.candidate),
        differences=differences_to_proto(shown.changes),
        digest=shown.digest,
        live_revision=shown.live_revision,
        warnings=shown.warnings,
        failures=failures_to_proto(shown.failed_tests),
    )


def shown_to_proto(shown: CandidateView) -> pb.GetPolicyCandidateResponse:
    """Return what GetPolicyCandidate answers."""
    return pb.GetPolicyCandidateResponse(
        candidate=candidate_to_proto(shown.candidate),
        differences=differences_to_proto(shown.changes),
        digest=shown.digest,
        live_revision=shown.live_revision,
        warnings=shown.warnings,
        failures=failures_to_proto(shown.failed_tests),
    )


def stage_to_proto(stage: PolicyStage) -> pb.PolicyStage:
    """Return a stage as a message."""
    return pb.PolicyStage(
        stage_id=stage.stage_id,
        kind=_STAGES.to_wire(stage.kind),
        candidate_id=stage.candidate_id,
        percent=stage.percent,
        started_by=stage.started_by,
        started_at=moment(stage.started_at_ms),
        updated_by=stage.updated_by,
        updated_at=moment(stage.updated_at_ms),
        reason=stage.reason,
        revision=stage.revision,
    )


def activated_to_proto(done: Activated) -> pb.ActivatePolicyRevisionResponse:
    """Return what an activation did as a message."""
    return pb.ActivatePolicyRevisionResponse(
        live_revision=done.live_revision,
        differences=differences_to_proto(done.changes),
        stage=None if done.stage is None else stage_to_proto(done.stage),
        report=None if done.report is None else report_to_proto(done.report),
    )
