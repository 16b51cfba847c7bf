"""What `from fleetplane import` offers, and that its enums say what the contract says."""

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper

import fleetplane
from fleetplane.v1 import (
    agent_pb2,
    audit_service_pb2,
    identity_service_pb2,
    lifecycle_service_pb2,
    namespace_service_pb2,
    policy_service_pb2,
    prompt_service_pb2,
    registry_service_pb2,
    rollout_service_pb2,
    task_service_pb2,
)

ENUMS = {
    fleetplane.AgentStatus: (agent_pb2.AgentStatus, "AGENT_STATUS_"),
    fleetplane.Activation: (agent_pb2.Activation, "ACTIVATION_"),
    fleetplane.ConfigStatus: (agent_pb2.ConfigStatus, "CONFIG_STATUS_"),
    fleetplane.PolicyAction: (policy_service_pb2.PolicyAction, "POLICY_ACTION_"),
    fleetplane.OnMissing: (policy_service_pb2.OnMissing, "ON_MISSING_"),
    fleetplane.ExplainLevel: (policy_service_pb2.ExplainLevel, "EXPLAIN_LEVEL_"),
    fleetplane.BatchMode: (policy_service_pb2.BatchEvaluatePolicyRequest.Mode, "MODE_"),
    fleetplane.TaskState: (task_service_pb2.TaskState, "TASK_STATE_"),
    fleetplane.TaskReason: (task_service_pb2.TaskReason, "TASK_REASON_"),
    fleetplane.DrainAction: (task_service_pb2.DrainAction, "DRAIN_ACTION_"),
    fleetplane.DrainPhase: (lifecycle_service_pb2.DrainPhase, "DRAIN_PHASE_"),
    fleetplane.StopOutcome: (lifecycle_service_pb2.StopAnswer.Outcome, "OUTCOME_"),
    fleetplane.RouteRule: (registry_service_pb2.RouteDecision.Rule, "RULE_"),
    fleetplane.RolloutPhase: (rollout_service_pb2.RolloutPhase, "ROLLOUT_PHASE_"),
    fleetplane.RolloutPauseReason: (
        rollout_service_pb2.RolloutPauseReason,
        "ROLLOUT_PAUSE_REASON_",
    ),
    fleetplane.RolloutVerdict: (rollout_service_pb2.RolloutVerdict, "ROLLOUT_VERDICT_"),
    fleetplane.AnalysisKind: (rollout_service_pb2.RolloutAnalysis.Kind, "KIND_"),
    fleetplane.AnalysisSource: (rollout_service_pb2.RolloutAnalysis.Source, "SOURCE_"),
    fleetplane.CallerKind: (identity_service_pb2.CallerKind, "CALLER_KIND_"),
    fleetplane.NamespaceState: (namespace_service_pb2.NamespaceState, "NAMESPACE_STATE_"),
    fleetplane.AuditProblemKind: (audit_service_pb2.AuditProblemKind, "AUDIT_PROBLEM_KIND_"),
    fleetplane.GateVerdict: (prompt_service_pb2.GateVerdict, "GATE_VERDICT_"),
    fleetplane.PromptReason: (prompt_service_pb2.PromptReason, "PROMPT_REASON_"),
    fleetplane.OnInconclusive: (rollout_service_pb2.OnInconclusive, "ON_INCONCLUSIVE_"),
}


def test_all_is_sorted_and_complete() -> None:
    """For type checkers it imports what it gives away; programs import it at its first use."""
    tree = ast.parse(Path(fleetplane.__file__).read_text())
    (for_checkers,) = (
        node
        for node in tree.body
        if isinstance(node, ast.If)
        and not node.orelse
        and ast.unparse(node.test) == "TYPE_CHECKING"
    )
    imported = {
        alias.asname or alias.name: node.module
        for node in for_checkers.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert imported == fleetplane._HOME_OF
    assert set(fleetplane.__all__) == set(imported)
    assert len(fleetplane.__all__) == len(imported)
    assert all(hasattr(fleetplane, name) for name in fleetplane.__all__)


def test_whoever_needs_the_messages_only_does_not_import_the_rest() -> None:
    code = "import sys, fleetplane.v1.agent_pb2; print('fleetplane._client' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert answer.stdout == b"False\n"


def test_every_public_class_and_method_is_documented() -> None:
    for name in fleetplane.__all__:
        thing = getattr(fleetplane, name)
        if not inspect.isclass(thing):
            continue
        assert inspect.getdoc(thing), name
        for method, member in inspect.getmembers(thing, inspect.isfunction):
            if not method.startswith("_") and member.__module__.startswith("fleetplane"):
                assert inspect.getdoc(member), f"{name}.{method}"


@pytest.mark.parametrize("mirror", ENUMS)
def test_enums_mirror_the_contract(mirror: type[fleetplane.AgentStatus]) -> None:
    contract, prefix = ENUMS[mirror]
    assert isinstance(contract, EnumTypeWrapper)
    assert {member.name: member.value for member in mirror} == {
        name.removeprefix(prefix): number for name, number in contract.items()
    }


def test_a_number_of_a_newer_daemon_reads_as_unspecified() -> None:
    assert fleetplane.AgentStatus(99) is fleetplane.AgentStatus.UNSPECIFIED
    with pytest.raises(ValueError, match="not a valid"):
        fleetplane.AgentStatus("ACTIVE")  # type: ignore[arg-type]  # the point
