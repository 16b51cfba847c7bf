from typing import Any

import pytest
from google.rpc import (  # type: ignore[import-untyped]  # no py.typed
    code_pb2,
    error_details_pb2,
)

from controlplane.api import status
from controlplane.api.status import code_of, entry_error_of, reason_of, status_of
from controlplane.domain import errors, work_refusals
from controlplane.domain.access import refusals as refusals_of_access
from controlplane.domain.approvals import refusals as refusals_of_approvals
from controlplane.domain.audit import refusals as refusals_of_audit
from controlplane.domain.decisions import refusals as refusals_of_decisions
from controlplane.domain.errors import (
    AgentNotFound,
    DomainError,
    FieldViolation,
    InvalidArgument,
    LimitExceeded,
    NoCandidate,
    StoreUnavailable,
)
from controlplane.domain.experiments import refusals as refusals_of_experiments
from controlplane.domain.policy_sets import refusals as refusals_of_policy_sets
from controlplane.domain.prompts import refusals as refusals_of_prompts
from fleetplane.v1 import error_reason_pb2

MODULES = {
    one.__name__
    for one in (
        errors,
        refusals_of_access,
        refusals_of_approvals,
        refusals_of_audit,
        refusals_of_decisions,
        refusals_of_experiments,
        refusals_of_policy_sets,
        refusals_of_prompts,
        work_refusals,
    )
}
REASONS = [value.name for value in error_reason_pb2.ErrorReason.DESCRIPTOR.values]


def refusals() -> list[type[DomainError]]:
    """Every type that is raised: those with a reason of their own."""
    found: list[type[DomainError]] = []
    waiting = [DomainError]
    while waiting:
        kind = waiting.pop()
        waiting.extend(kind.__subclasses__())
        if kind.__module__ in MODULES:
            found.append(kind)
    parents = {base for kind in found for base in kind.__bases__}
    return [kind for kind in found if kind.reason or kind not in parents]


def details(answer: Any) -> dict[str, Any]:
    found = {}
    for kind in ("ErrorInfo", "RetryInfo", "BadRequest"):
        message = getattr(error_details_pb2, kind)()
        for packed in answer.details:
            if packed.Unpack(message):
                found[kind] = message
    return found


@pytest.mark.parametrize("kind", refusals(), ids=lambda kind: kind.__name__)
def test_every_refusal_has_a_code_a_reason_and_a_line_in_the_tree(kind):
    error = kind.__new__(kind)
    assert code_of(error) in status.CODES.values()
    assert f"ERROR_REASON_{kind.reason}" in REASONS
    lines = [line for line in (errors.__doc__ or "").splitlines() if f" {kind.__name__} " in line]
    assert len(lines) == 1
    assert kind.reason in lines[0]


def test_the_walk_finds_the_tree():
    assert len(refusals()) > 15


def test_a_reason_of_the_contract_is_never_unused():
    ours = {kind.reason for kind in refusals()} | {"UNSPECIFIED", "DEADLINE_EXCEEDED", "INTERNAL"}
    assert {name.removeprefix("ERROR_REASON_") for name in REASONS} == ours


def test_a_wrong_field_is_named_with_its_violation():
    answer = status_of(InvalidArgument.of("spec.name", "is required"), "r")
    found = details(answer)
    assert answer.code == code_pb2.INVALID_ARGUMENT
    assert found["ErrorInfo"].domain == "fleetplane.dev"
    assert found["ErrorInfo"].reason == "INVALID_FIELD"
    assert found["BadRequest"].field_violations[0].field == "spec.name"
    assert found["BadRequest"].field_violations[0].description == "is required"


def test_a_refusal_that_passes_by_waiting_says_how_long():
    found = details(status_of(StoreUnavailable(), "r"))
    assert found["RetryInfo"].retry_delay.ToMilliseconds() == 1000


def test_a_defect_tells_only_the_request_id():
    answer = status_of(ValueError("password=hunter2"), "req-7")
    assert answer.code == code_pb2.INTERNAL
    assert b"hunter2" not in answer.SerializeToString()
    assert dict(details(answer)["ErrorInfo"].metadata) == {"request_id": "req-7"}


def test_a_branch_of_the_tree_raised_by_mistake_is_a_defect():
    assert status_of(DomainError("vague"), "r").code == code_pb2.INTERNAL


def test_a_passed_deadline_has_its_own_reason():
    answer = status_of(TimeoutError(), "r")
    assert answer.code == code_pb2.DEADLINE_EXCEEDED
    assert reason_of(answer) == "DEADLINE_EXCEEDED"


def test_groups_with_one_cause_are_unwrapped():
    wrapped = BaseExceptionGroup("a", [ExceptionGroup("b", [AgentNotFound("x")])])
    assert status_of(wrapped, "r").code == code_pb2.NOT_FOUND


def test_a_group_with_two_causes_is_a_defect():
    group = ExceptionGroup("a", [AgentNotFound("x"), AgentNotFound("y")])
    assert status_of(group, "r").code == code_pb2.INTERNAL


def test_an_entry_of_a_batch_says_what_the_single_call_would_have_said():
    entry = entry_error_of(InvalidArgument.of("spec.version", "is not a version"))
    assert entry.code == code_pb2.INVALID_ARGUMENT
    assert entry.reason == error_reason_pb2.ERROR_REASON_INVALID_FIELD
    assert dict(entry.metadata) == {"field": "spec.version"}
    assert [(v.field, v.description) for v in entry.violations] == [
        ("spec.version", "is not a version")
    ]


def test_an_entry_carries_metadata():
    entry = entry_error_of(AgentNotFound("a-1"))
    assert entry.reason == error_reason_pb2.ERROR_REASON_AGENT_NOT_FOUND
    assert dict(entry.metadata) == {"agent_id": "a-1"}


def test_an_answer_always_fits_into_trailers():
    hostile = InvalidArgument(*(FieldViolation("f" * 5000, "é" * 5000) for _ in range(500)))
    chatty = NoCandidate("nobody", [(f"agent-{i}", "lacks it" * 50) for i in range(500)])
    assert len(status_of(chatty, "r").SerializeToString()) < 4096
    assert len(status_of(hostile, "r").SerializeToString()) < 4096


def test_an_unlimited_refusal_does_not_promise_that_waiting_helps():
    assert "RetryInfo" not in details(status_of(LimitExceeded("agents", limit=3), "r"))
