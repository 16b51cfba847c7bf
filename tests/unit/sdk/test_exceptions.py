"""Every reason of the contract arrives as the right class, with everything that was said."""

import ast
import copy
import subprocess
import sys
from pathlib import Path

import grpc
import pytest
from google.protobuf import any_pb2
from google.rpc import (  # type: ignore[import-untyped]  # it comes without stubs
    error_details_pb2,
    status_pb2,
)

import fleetplane
from fleetplane import FieldViolation, FleetClient, FleetError, Reason
from fleetplane._details import NO_DETAILS, StatusDetails, parse_status
from fleetplane._exceptions import error_from_entry
from fleetplane.v1 import error_reason_pb2, policy_service_pb2
from tests.fakes.fleet_plane import Plane, Refusal

CLASSES: dict[str, tuple[grpc.StatusCode, type[FleetError]]] = {
    "INVALID_FIELD": (grpc.StatusCode.INVALID_ARGUMENT, fleetplane.InvalidArgument),
    "INVALID_CURSOR": (grpc.StatusCode.INVALID_ARGUMENT, fleetplane.InvalidArgument),
    "AGENT_NOT_FOUND": (grpc.StatusCode.NOT_FOUND, fleetplane.NotFound),
    "INSTANCE_NOT_FOUND": (grpc.StatusCode.NOT_FOUND, fleetplane.NotFound),
    "POLICY_NOT_FOUND": (grpc.StatusCode.NOT_FOUND, fleetplane.NotFound),
    "REVISION_NOT_FOUND": (grpc.StatusCode.NOT_FOUND, fleetplane.NotFound),
    "NO_CANDIDATE": (grpc.StatusCode.NOT_FOUND, fleetplane.NotFound),
    "TASK_NOT_FOUND": (grpc.StatusCode.NOT_FOUND, fleetplane.NotFound),
    "ROUTE_NOT_FOUND": (grpc.StatusCode.NOT_FOUND, fleetplane.NotFound),
    "DRAIN_NOT_FOUND": (grpc.StatusCode.NOT_FOUND, fleetplane.NotFound),
    "STOP_NOT_FOUND": (grpc.StatusCode.NOT_FOUND, fleetplane.NotFound),
    "ROLLOUT_NOT_FOUND": (grpc.StatusCode.NOT_FOUND, fleetplane.NotFound),
    "AGENT_EXISTS": (grpc.StatusCode.ALREADY_EXISTS, fleetplane.AlreadyExists),
    "POLICY_EXISTS": (grpc.StatusCode.ALREADY_EXISTS, fleetplane.AlreadyExists),
    "REQUEST_ID_REUSED": (grpc.StatusCode.ALREADY_EXISTS, fleetplane.AlreadyExists),
    "REVISION_CONFLICT": (grpc.StatusCode.ABORTED, fleetplane.RevisionConflict),
    "INVALID_TRANSITION": (grpc.StatusCode.FAILED_PRECONDITION, fleetplane.FailedPrecondition),
    "INSTANCE_FENCED": (grpc.StatusCode.FAILED_PRECONDITION, fleetplane.FailedPrecondition),
    "ACTIVATION_REFUSED": (grpc.StatusCode.FAILED_PRECONDITION, fleetplane.FailedPrecondition),
    "ACTIVATION_PENDING": (grpc.StatusCode.FAILED_PRECONDITION, fleetplane.FailedPrecondition),
    "LEASE_FENCED": (grpc.StatusCode.FAILED_PRECONDITION, fleetplane.LeaseFenced),
    "ROLLOUT_ACTIVE": (grpc.StatusCode.FAILED_PRECONDITION, fleetplane.FailedPrecondition),
    "LIMIT_EXCEEDED": (grpc.StatusCode.RESOURCE_EXHAUSTED, fleetplane.LimitExceeded),
    "STORE_UNAVAILABLE": (grpc.StatusCode.UNAVAILABLE, fleetplane.Unavailable),
    "NOT_READY": (grpc.StatusCode.UNAVAILABLE, fleetplane.Unavailable),
    "DRAINING": (grpc.StatusCode.UNAVAILABLE, fleetplane.Unavailable),
    "DEADLINE_EXCEEDED": (grpc.StatusCode.DEADLINE_EXCEEDED, fleetplane.DeadlineExceeded),
    "INTERNAL": (grpc.StatusCode.INTERNAL, fleetplane.InternalError),
    "RATE_LIMITED": (grpc.StatusCode.RESOURCE_EXHAUSTED, fleetplane.LimitExceeded),
    "QUOTA_EXCEEDED": (grpc.StatusCode.RESOURCE_EXHAUSTED, fleetplane.LimitExceeded),
    "OVERLOADED": (grpc.StatusCode.UNAVAILABLE, fleetplane.Unavailable),
    "CREDENTIAL_MISSING": (grpc.StatusCode.UNAUTHENTICATED, fleetplane.Unauthenticated),
    "CREDENTIAL_INVALID": (grpc.StatusCode.UNAUTHENTICATED, fleetplane.Unauthenticated),
    "CREDENTIAL_EXPIRED": (grpc.StatusCode.UNAUTHENTICATED, fleetplane.Unauthenticated),
    "CREDENTIAL_REVOKED": (grpc.StatusCode.UNAUTHENTICATED, fleetplane.Unauthenticated),
    "AGENT_BANNED": (grpc.StatusCode.PERMISSION_DENIED, fleetplane.PermissionDenied),
    "PERMISSION_DENIED": (grpc.StatusCode.PERMISSION_DENIED, fleetplane.PermissionDenied),
    "FOREIGN_AGENT": (grpc.StatusCode.PERMISSION_DENIED, fleetplane.PermissionDenied),
    "NO_CERTIFICATE_AUTHORITY": (
        grpc.StatusCode.FAILED_PRECONDITION,
        fleetplane.FailedPrecondition,
    ),
    "NAMESPACE_NOT_FOUND": (grpc.StatusCode.NOT_FOUND, fleetplane.NotFound),
    "TOKEN_NOT_FOUND": (grpc.StatusCode.NOT_FOUND, fleetplane.NotFound),
    "NAMESPACE_EXISTS": (grpc.StatusCode.ALREADY_EXISTS, fleetplane.AlreadyExists),
    "NAMESPACE_NOT_EMPTY": (grpc.StatusCode.FAILED_PRECONDITION, fleetplane.FailedPrecondition),
    "NAMESPACE_TERMINATING": (grpc.StatusCode.FAILED_PRECONDITION, fleetplane.FailedPrecondition),
    "APPROVAL_NOT_FOUND": (grpc.StatusCode.NOT_FOUND, fleetplane.NotFound),
    "APPROVAL_NOT_OPEN": (grpc.StatusCode.FAILED_PRECONDITION, fleetplane.FailedPrecondition),
    "ALREADY_CONSUMED": (grpc.StatusCode.FAILED_PRECONDITION, fleetplane.FailedPrecondition),
    "APPROVAL_EXPIRED": (grpc.StatusCode.FAILED_PRECONDITION, fleetplane.FailedPrecondition),
    "DIGEST_MISMATCH": (grpc.StatusCode.FAILED_PRECONDITION, fleetplane.FailedPrecondition),
    "POLICY_NOW_DENIES": (grpc.StatusCode.FAILED_PRECONDITION, fleetplane.FailedPrecondition),
    "APPROVAL_SUPERSEDED": (grpc.StatusCode.FAILED_PRECONDITION, fleetplane.FailedPrecondition),
    "SELF_APPROVAL": (grpc.StatusCode.PERMISSION_DENIED, fleetplane.PermissionDenied),
    "NOT_ELIGIBLE": (grpc.StatusCode.PERMISSION_DENIED, fleetplane.PermissionDenied),
    "VOTE_CONFLICT": (grpc.StatusCode.ALREADY_EXISTS, fleetplane.AlreadyExists),
    "STANDING_GRANT_NOT_FOUND": (grpc.StatusCode.NOT_FOUND, fleetplane.NotFound),
    "DECISION_NOT_FOUND": (grpc.StatusCode.NOT_FOUND, fleetplane.NotFound),
    "POLICY_CANDIDATE_NOT_FOUND": (grpc.StatusCode.NOT_FOUND, fleetplane.NotFound),
    "POLICY_TESTS_FAILED": (grpc.StatusCode.FAILED_PRECONDITION, fleetplane.FailedPrecondition),
    "TOO_MANY_FLIPS": (grpc.StatusCode.FAILED_PRECONDITION, fleetplane.FailedPrecondition),
    "PROMPT_NOT_FOUND": (grpc.StatusCode.NOT_FOUND, fleetplane.NotFound),
    "PROMPT_VERSION_NOT_FOUND": (grpc.StatusCode.NOT_FOUND, fleetplane.NotFound),
    "LABEL_NOT_FOUND": (grpc.StatusCode.NOT_FOUND, fleetplane.NotFound),
    "GATE_BLOCKED": (grpc.StatusCode.FAILED_PRECONDITION, fleetplane.FailedPrecondition),
    "EVALUATION_NOT_FOUND": (grpc.StatusCode.NOT_FOUND, fleetplane.NotFound),
    "NOT_COMPARABLE": (grpc.StatusCode.FAILED_PRECONDITION, fleetplane.FailedPrecondition),
    "EXPERIMENT_NOT_FOUND": (grpc.StatusCode.NOT_FOUND, fleetplane.NotFound),
    "EXPERIMENT_EXISTS": (grpc.StatusCode.ALREADY_EXISTS, fleetplane.AlreadyExists),
    "EXPERIMENT_ACTIVE": (grpc.StatusCode.FAILED_PRECONDITION, fleetplane.FailedPrecondition),
    "NOT_EXPOSED": (grpc.StatusCode.NOT_FOUND, fleetplane.NotFound),
    "AUDIT_TRIMMED": (grpc.StatusCode.OUT_OF_RANGE, fleetplane.InvalidArgument),
    "AUDIT_NOT_EXPORTED": (grpc.StatusCode.FAILED_PRECONDITION, fleetplane.FailedPrecondition),
}

LATER = {"STORE_UNAVAILABLE", "NOT_READY", "DRAINING", "OVERLOADED", "RATE_LIMITED"}
"""Reasons that the daemon sends with a time to retry after."""


def test_every_reason_of_the_contract_has_a_member_and_a_class() -> None:
    values = error_reason_pb2.ErrorReason.DESCRIPTOR.values
    contract = {value.name.removeprefix("ERROR_REASON_") for value in values}
    assert {str(reason) for reason in Reason} == contract
    assert set(CLASSES) | {"UNSPECIFIED"} == contract


@pytest.mark.parametrize("reason", CLASSES)
async def test_a_refused_call_raises_the_class_of_its_reason(
    client: FleetClient, plane: Plane, reason: str
) -> None:
    code, family = CLASSES[reason]
    retry_after = 0.05 if reason in LATER else None
    refusal = Refusal(
        code, reason, "in words", {"key": "value"}, retry_after, (("spec.name", "is missing"),)
    )
    plane.failures["GetAgent"].extend([refusal] * 50)
    with pytest.raises(FleetError) as caught:
        await client.get_agent("a", timeout=0.1)
    error = caught.value
    assert type(error) is family
    assert error.reason is Reason(reason)
    assert error.metadata == {"key": "value"}
    assert error.violations == (FieldViolation("spec.name", "is missing"),)
    assert error.retry_after == retry_after
    assert error.message == "in words"
    assert str(error) == (f"in words; {error.hint}" if error.hint else "in words")
    assert isinstance(error.__cause__, grpc.aio.AioRpcError)
    assert error.retryable is (reason in LATER)


@pytest.mark.parametrize(
    ("reason", "help_"),
    [
        ("CREDENTIAL_MISSING", "pass token=..."),
        ("CREDENTIAL_MISSING", "`fleetplane login`"),
        ("CREDENTIAL_REVOKED", "`fleetplane tokens join create`"),
        ("QUOTA_EXCEEDED", "`fleetplane namespaces usage`"),
        ("FOREIGN_AGENT", "join_token=..."),
    ],
)
def test_refusals_about_rights_end_with_what_helps(reason: str, help_: str) -> None:
    code, _ = CLASSES[reason]
    assert help_ in str(error_from_entry(Refusal(code, reason, "no").entry()))


def test_a_copy_of_an_error_says_the_same() -> None:
    error = error_from_entry(
        Refusal(grpc.StatusCode.UNAUTHENTICATED, "CREDENTIAL_MISSING", "no").entry()
    )
    assert str(copy.copy(error)) == str(error)
    assert copy.copy(error).reason is Reason.CREDENTIAL_MISSING


@pytest.mark.parametrize("reason", CLASSES)
def test_a_refused_entry_is_the_error_of_the_single_call(reason: str) -> None:
    code, family = CLASSES[reason]
    entry = Refusal(code, reason, "words", {"k": "v"}, violations=(("f", "d"),)).entry()
    error = error_from_entry(entry)
    assert type(error) is family
    assert error.reason is Reason(reason)
    assert error.metadata == {"k": "v"}
    assert error.violations == (FieldViolation("f", "d"),)


@pytest.mark.parametrize(
    ("code", "family"),
    [
        (grpc.StatusCode.UNAUTHENTICATED, fleetplane.Unauthenticated),
        (grpc.StatusCode.PERMISSION_DENIED, fleetplane.PermissionDenied),
        (grpc.StatusCode.UNIMPLEMENTED, fleetplane.Unimplemented),
        (grpc.StatusCode.DATA_LOSS, FleetError),
    ],
)
async def test_codes_without_a_reason_have_their_class_too(
    client: FleetClient, plane: Plane, code: grpc.StatusCode, family: type[FleetError]
) -> None:
    plane.failures["GetAgent"].append(Refusal(code, "SOMETHING_NEWER"))
    with pytest.raises(FleetError) as caught:
        await client.get_agent("a")
    assert type(caught.value) is family
    assert caught.value.reason is Reason.UNSPECIFIED


async def test_a_call_that_a_daemon_cancels_as_it_shuts_down_is_repeated(
    client: FleetClient, plane: Plane
) -> None:
    plane.failures["GetAgent"].extend([Refusal(grpc.StatusCode.CANCELLED, "")] * 2)
    with pytest.raises(fleetplane.NotFound):  # what the plane answers in the end
        await client.get_agent("a")
    assert not plane.failures["GetAgent"]


def test_details_of_others_and_unreadable_ones_are_ignored() -> None:
    status = status_pb2.Status(code=5)
    for detail in (
        error_details_pb2.ErrorInfo(domain="example.com", reason="THEIRS"),
        error_details_pb2.Help(),
    ):
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    assert parse_status(status.SerializeToString()) == StatusDetails()
    assert parse_status(b"\xff\xff\xff") is NO_DETAILS


@pytest.mark.parametrize(
    "imports",
    [
        "import google.rpc.status_pb2, google.rpc.error_details_pb2, fleetplane",
        "import fleetplane, google.rpc.status_pb2, google.rpc.error_details_pb2",
    ],
)
def test_the_private_messages_live_beside_the_public_ones(imports: str) -> None:
    subprocess.run([sys.executable, "-c", imports], check=True, timeout=30)


OPTIONAL = {
    ("_keys.py", "cryptography"),  # the extra `identity`
    ("_claims.py", "fleetplane_policy"),  # the extra `policies`
    ("_local_policies.py", "fleetplane_policy"),
    ("_policy_copy.py", "fleetplane_policy"),
    ("_policy_messages.py", "fleetplane_policy"),
}


def test_the_sdk_imports_grpcio_and_protobuf_only() -> None:
    # `fleetplane_prompts` comes with it, and needs the standard library only.
    allowed = {
        *sys.stdlib_module_names,
        "fleetplane",
        "fleetplane_prompts",
        "grpc",
        "google.protobuf",
    }
    for path in Path(fleetplane.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            else:
                continue
            for name in names:
                top = name.partition(".")[0]
                known = top in allowed or name.startswith("google.protobuf")
                optional = (path.name, top) in OPTIONAL
                assert known or optional or path.name == "testing.py", f"{path.name} imports {name}"


def test_a_verdict_names_its_policies() -> None:
    decision = policy_service_pb2.PolicyDecision(message="no", determining_policies=["p"])
    assert str(fleetplane.PolicyDenied(decision)) == "denied: no [p]"
    assert str(fleetplane.ApprovalRequired(decision)).startswith("approval required")
