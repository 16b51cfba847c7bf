"""`fleetplane agents activate | deactivate | drain | ... | stop` over a scripted daemon."""

import json
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from typer.testing import Result

from fleetplane.v1 import agent_pb2
from fleetplane.v1 import lifecycle_service_pb2 as pb
from fleetplane.v1 import registry_service_pb2 as registry_pb
from tests.fakes.fleet_plane import Refusal
from tests.fakes.scripted_daemon import ScriptedDaemon

Run = Callable[..., Result]


def agent(status: agent_pb2.AgentStatus.ValueType, **fields: Any) -> agent_pb2.Agent:
    spec = agent_pb2.AgentSpec(name="writer", version="2.1.0")
    return agent_pb2.Agent(agent_id="a1", spec=spec, status=status, **fields)


ACTIVE = agent(agent_pb2.AGENT_STATUS_ACTIVE)
INACTIVE = agent(agent_pb2.AGENT_STATUS_INACTIVE)


def drain(**fields: Any) -> pb.Drain:
    known: dict[str, Any] = {
        "agent_id": "a1",
        "phase": pb.DRAIN_PHASE_DRAINING,
        "started_at": Timestamp(seconds=1000),
        "deadline_at": Timestamp(seconds=4_000_000_000),
    }
    return pb.Drain(**{**known, **fields})


SAFE = drain(phase=pb.DRAIN_PHASE_DRAINED, safe_to_stop=True, ended_at=Timestamp(seconds=1042))


def test_an_agent_is_activated_by_name_and_version(daemon: ScriptedDaemon, run: Run) -> None:
    other = agent(agent_pb2.AGENT_STATUS_ACTIVE)
    other.agent_id, other.spec.version = "a0", "2.0.0"
    daemon.says("ListAgents", registry_pb.ListAgentsResponse(agents=[other, ACTIVE]))
    daemon.says("Activate", pb.ActivateResponse(agent=ACTIVE))
    result = run("agents", "activate", "writer@2.1.0", "--confirm", "--reason", "reviewed")
    assert result.stdout == "writer@2.1.0 (a1) is ACTIVE\n"
    asked = daemon.last("Activate")
    assert (asked.agent_id, asked.confirm_pending, asked.reason) == ("a1", True, "reviewed")


def test_a_version_that_is_not_there_is_answered_with_those_that_are(
    daemon: ScriptedDaemon, run: Run
) -> None:
    daemon.says("ListAgents", registry_pb.ListAgentsResponse(agents=[ACTIVE]))
    result = run("agents", "activate", "writer@9.9.9", code=1)
    assert "writer has 2.1.0" in result.stderr
    assert daemon.count("Activate") == 0


@pytest.mark.parametrize("name", ["writer@", "@1.0.0"])
def test_half_a_name_is_wrong_usage(run: Run, name: str) -> None:
    assert "neither an id nor name@version" in run("agents", "activate", name, code=2).stderr


def test_a_parked_activation_says_where_it_is_approved(daemon: ScriptedDaemon, run: Run) -> None:
    parked = Refusal(
        grpc.StatusCode.FAILED_PRECONDITION, "ACTIVATION_PENDING", "policy p1 wants approval"
    )
    daemon.says("Activate", parked)
    assert "approvals list" in run("agents", "activate", "a1", code=1).stderr


def test_a_deactivation_says_what_became_of_the_tasks(daemon: ScriptedDaemon, run: Run) -> None:
    daemon.says(
        "Deactivate", pb.DeactivateResponse(agent=INACTIVE, tasks_requeued=3, tasks_failed=1)
    )
    result = run("agents", "deactivate", "a1", "--reason", "answers nonsense")
    assert result.stdout == "writer@2.1.0 (a1) is INACTIVE\n"
    assert "3 go to others, 1 failed" in result.stderr
    asked = daemon.last("Deactivate")
    assert asked.reason == "answers nonsense"
    assert not asked.HasField("drain_deadline")


def test_a_deactivation_may_drain_first(daemon: ScriptedDaemon, run: Run) -> None:
    begun = drain(tasks_in_flight=2, then_deactivate=True)
    daemon.says("Deactivate", pb.DeactivateResponse(agent=ACTIVE, drain=begun))
    result = run("agents", "deactivate", "a1", "--reason", "old", "--drain", "1m30s")
    assert daemon.last("Deactivate").drain_deadline == Duration(seconds=90)
    assert "draining, 2 tasks in flight" in result.stdout


def test_a_deactivation_needs_a_reason(run: Run) -> None:
    assert "--reason" in run("agents", "deactivate", "a1", code=2).stderr


def test_a_wait_for_a_drain_ends_when_it_is_safe_to_stop(daemon: ScriptedDaemon, run: Run) -> None:
    daemon.says("Drain", pb.DrainResponse(drain=drain(tasks_in_flight=1, other_in_flight=2)))
    daemon.says(
        "GetDrain",
        pb.GetDrainResponse(drain=drain(tasks_in_flight=1)),
        pb.GetDrainResponse(drain=SAFE),
    )
    result = run("agents", "drain", "a1", "--deadline", "10m", "--wait", "--timeout", "30s")
    assert result.stdout == "a1: safe to stop after 42s\n"
    assert "a1: draining, 1 task in flight" in result.stderr
    assert daemon.last("Drain").deadline == Duration(seconds=600)
    assert daemon.last("GetDrain").wait == Duration(seconds=5)


def test_a_wait_for_a_drain_outlives_a_daemon_that_is_away(
    daemon: ScriptedDaemon, run: Run
) -> None:
    away = Refusal(grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE", "the store is away")
    daemon.says("Drain", pb.DrainResponse(drain=drain(tasks_in_flight=1)))
    daemon.says("GetDrain", away, away, away, away, away, pb.GetDrainResponse(drain=SAFE))
    result = run("agents", "drain", "--instance", "i1", "--wait", "--timeout", "30")
    assert "asking again" in result.stderr
    assert "safe to stop" in result.stdout


def test_a_drain_that_is_not_done_in_time_is_1(daemon: ScriptedDaemon, run: Run) -> None:
    busy = drain(tasks_in_flight=1, instance_id="i1")
    daemon.says("Drain", pb.DrainResponse(drain=busy))
    daemon.says("GetDrain", pb.GetDrainResponse(drain=busy))
    result = run("agents", "drain", "--instance", "i1", "--wait", "--timeout", "50ms", code=1)
    assert "i1: draining, 1 task in flight" in result.stdout
    assert "not safe to stop after 0.05 s" in result.stderr


def test_a_drain_needs_somebody(run: Run) -> None:
    for command in ("drain", "drain-status", "undrain"):
        assert "name an agent, or a process" in run("agents", command, code=2).stderr


def test_a_drain_is_shown_with_all_it_did(daemon: ScriptedDaemon, run: Run) -> None:
    shown = drain(completed=3, requeued=1, forced=True, extended=1, tasks_in_flight=1, actor="ops")
    daemon.says("GetDrain", pb.GetDrainResponse(drain=shown))
    text = run("agents", "drain-status", "a1").stdout
    assert "3 completed, 1 given to others, 1 extended" in text
    assert "(has decided)" in text
    assert json.loads(run("agents", "drain-status", "a1", "-o", "json").stdout)["completed"] == 3


def test_a_drain_is_undone(daemon: ScriptedDaemon, run: Run) -> None:
    undone = drain(phase=pb.DRAIN_PHASE_CANCELLED, instance_id="i1")
    daemon.says("CancelDrain", pb.CancelDrainResponse(drain=undone))
    assert run("agents", "undrain", "--instance", "i1").stdout == "i1: takes work again\n"


def test_nobody_is_retired_without_a_word(daemon: ScriptedDaemon, run: Run) -> None:
    assert "say --yes" in run("agents", "decommission", "a1", code=2).stderr
    assert daemon.asked == []
    gone = agent(agent_pb2.AGENT_STATUS_DECOMMISSIONED)
    daemon.says("Decommission", pb.DecommissionResponse(agent=gone, instances_removed=2))
    result = run("agents", "decommission", "a1", "--force", "--yes")
    assert "DECOMMISSIONED" in result.stdout
    assert "2 instances" in result.stderr
    assert daemon.last("Decommission").force


def stopped(*outcomes: pb.StopAnswer.Outcome.ValueType) -> pb.EmergencyStop:
    answers = [
        pb.StopAnswer(instance_id=f"i{number}", agent_id="a1", outcome=one)
        for number, one in enumerate(outcomes)
    ]
    if answers:
        answers[0].after.CopyFrom(Duration(nanos=31_000_000))
    return pb.EmergencyStop(
        stop_id="s1",
        agent_ids=["a1"] if outcomes else [],
        answers=answers,
        acknowledged=1,
        last_acknowledged_after=Duration(nanos=31_000_000),
    )


def test_a_stop_says_who_has_acknowledged_and_how_fast(daemon: ScriptedDaemon, run: Run) -> None:
    answer = stopped(pb.StopAnswer.OUTCOME_ACKNOWLEDGED, pb.StopAnswer.OUTCOME_LEFT)
    daemon.says("EmergencyStop", pb.EmergencyStopResponse(stop=answer))
    result = run(
        "agents",
        "stop",
        "--tag",
        "team=content",
        "--name",
        "writer",
        "--reason",
        "r",
        "--wait",
        "3s",
    )
    assert "31ms" in result.stdout
    assert "the last after 31 ms" in result.stdout
    asked = daemon.last("EmergencyStop")
    assert (dict(asked.tags), list(asked.names), asked.all) == (
        {"team": "content"},
        ["writer"],
        False,
    )
    assert asked.wait == Duration(seconds=3)


@pytest.mark.parametrize("outcome", [pb.StopAnswer.OUTCOME_WAITING, pb.StopAnswer.OUTCOME_SILENT])
def test_a_stop_that_somebody_did_not_acknowledge_is_1(
    daemon: ScriptedDaemon, run: Run, outcome: pb.StopAnswer.Outcome.ValueType
) -> None:
    answer = stopped(pb.StopAnswer.OUTCOME_ACKNOWLEDGED, outcome)
    daemon.says("EmergencyStop", pb.EmergencyStopResponse(stop=answer))
    daemon.says("GetEmergencyStop", pb.GetEmergencyStopResponse(stop=answer))
    result = run("agents", "stop", "--all", "--reason", "r", "-o", "json", code=1)
    assert json.loads(result.stdout)["stop_id"] == "s1"
    assert "i1 did not acknowledge" in result.stderr
    assert "i1 did not acknowledge" in run("agents", "stop-status", "s1", code=1).stderr


def test_a_stop_that_matches_nobody_is_1(daemon: ScriptedDaemon, run: Run) -> None:
    daemon.says("EmergencyStop", pb.EmergencyStopResponse(stop=stopped()))
    result = run("agents", "stop", "--name", "wirter", "--reason", "r", code=1)
    assert "nothing was stopped" in result.stderr


@pytest.mark.parametrize("whom", [[], ["--all", "--name", "writer"], ["--all", "--tag", "a=b"]])
def test_a_stop_names_somebody_or_everybody(run: Run, whom: list[str]) -> None:
    assert "say whom" in run("agents", "stop", "--reason", "r", *whom, code=2).stderr


def test_tables_show_who_drains_and_who_waits_for_a_word(daemon: ScriptedDaemon, run: Run) -> None:
    instance = agent_pb2.Instance(
        instance_id="i1", state=agent_pb2.INSTANCE_STATE_FRESH, draining=True, tasks_held=4
    )
    pending = agent_pb2.PendingActivation(policy_ids=["p1"], asked_by="fleetplane")
    agents = [
        agent(agent_pb2.AGENT_STATUS_ACTIVE, draining=True, instances=[instance]),
        agent(agent_pb2.AGENT_STATUS_REGISTERED, pending_activation=pending),
    ]
    daemon.says("ListAgents", registry_pb.ListAgentsResponse(agents=agents, total_size=2))
    table = run("agents", "list").stdout
    assert "ACTIVE (draining)" in table
    assert "REGISTERED (pending)" in table
    assert "FRESH (draining)" in run("agents", "list", "--instances").stdout
    daemon.says("GetAgent", registry_pb.GetAgentResponse(agent=agents[1]))
    assert "p1 wants a confirmation" in run("agents", "get", "a1").stdout
