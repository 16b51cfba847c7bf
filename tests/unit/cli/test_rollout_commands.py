"""`fleetplane rollout` over a scripted daemon."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from typer.testing import Result

from controlplane.cli.outcomes import WrongInput
from controlplane.cli.rollout_plans import overlaid, plan_of
from fleetplane import AnalysisKind, AnalysisSource, OnInconclusive, RolloutStep
from fleetplane.v1 import rollout_service_pb2 as pb
from tests.fakes.fleet_plane import Refusal
from tests.fakes.scripted_daemon import ScriptedDaemon

Run = Callable[..., Result]

NOT_FOUND = Refusal(grpc.StatusCode.NOT_FOUND, "ROLLOUT_NOT_FOUND", "there is none")


def rollout(phase: pb.RolloutPhase.ValueType, revision: int = 1, **fields: Any) -> pb.Rollout:
    known: dict[str, Any] = {
        "rollout_id": "r1",
        "agent_name": "writer",
        "from_version": "2.0.0",
        "to_version": "2.1.0",
        "plan": pb.RolloutPlan(
            steps=[pb.RolloutStep(weight_bp=one) for one in (1000, 5000, 10_000)],
            analysis=pb.RolloutAnalysis(max_error_rate=0.05, min_tasks=50),
        ),
        "step_index": 1,
        "weight_bp": 5000,
        "canary": pb.OutcomeCounts(total=124, failed=3),
    }
    return pb.Rollout(phase=phase, revision=revision, **{**known, **fields})


GOING = rollout(pb.ROLLOUT_PHASE_PROGRESSING)
DONE = rollout(pb.ROLLOUT_PHASE_SUCCEEDED, 2)
BACK = rollout(pb.ROLLOUT_PHASE_ROLLED_BACK, 2, message="fails 30 % of 40 tasks")


def watches(*rollouts: pb.Rollout) -> list[pb.WatchRolloutResponse]:
    return [pb.WatchRolloutResponse(rollout=one) for one in rollouts]


def found_by_name(daemon: ScriptedDaemon, shown: pb.Rollout = GOING) -> None:
    """Let there be a rollout of `writer` and none with that id."""
    daemon.answers["GetRollout"] = lambda asked: (
        pb.GetRolloutResponse(rollout=shown)
        if "writer" in asked.agent_name or asked.rollout_id == "r1"
        else NOT_FOUND
    )


def test_a_rollout_is_started_with_a_plan_of_options(daemon: ScriptedDaemon, run: Run) -> None:
    daemon.says("StartRollout", pb.StartRolloutResponse(rollout=GOING))
    analysis = ["--analysis", "threshold", "--max-error-rate", "0.02", "--min-tasks", "40"]
    times = ["--observe", "3s", "--bake", "0s", "--max-dwell", "10m", "--drain-deadline", "1m"]
    others = ["--on-inconclusive", "rollback", "--evict-on-abort", "--supersede", "--from", "2.0.0"]
    result = run(
        "rollout",
        "start",
        "writer",
        "--to",
        "2.1.0",
        "--steps",
        "5,50,100",
        *analysis,
        *times,
        *others,
    )
    assert "✓ 10 %   ▶ 50 %   · 100 %" in result.stdout
    asked = daemon.last("StartRollout")
    assert (asked.to_version, asked.from_version, asked.supersede) == ("2.1.0", "2.0.0", True)
    plan = asked.plan
    assert [one.weight_bp for one in plan.steps] == [500, 5000, 10_000]
    assert plan.analysis.kind == pb.RolloutAnalysis.KIND_THRESHOLD
    assert (plan.analysis.max_error_rate, plan.analysis.min_tasks) == (0.02, 40)
    assert (plan.observe, plan.bake) == (Duration(seconds=3), Duration())
    assert plan.HasField("bake")
    assert plan.on_inconclusive == pb.ON_INCONCLUSIVE_ROLLBACK
    assert plan.evict_on_abort


def test_options_replace_what_a_file_says(daemon: ScriptedDaemon, run: Run, tmp_path: Path) -> None:
    daemon.says("StartRollout", pb.StartRolloutResponse(rollout=GOING))
    file = tmp_path / "plan.yaml"
    file.write_text(
        "steps: [5, {weight: 50, pause_after: true}, 100]\n"
        "observe: 2m\n"
        "analysis: {kind: sequential, min_tasks: 30, source: tasks}\n"
    )
    given = ("--plan", str(file), "--min-tasks", "99", "--observe", "10s")
    run("rollout", "start", "writer", "--to", "2.1.0", *given)
    plan = daemon.last("StartRollout").plan
    assert [one.pause_after for one in plan.steps] == [False, True, False]
    assert (plan.observe.seconds, plan.analysis.min_tasks) == (10, 99)
    assert plan.analysis.source == pb.RolloutAnalysis.SOURCE_TASKS


def test_a_plan_may_say_everything() -> None:
    plan = plan_of(
        {
            "steps": "100",
            "analysis": {"kind": "Threshold", "alpha": 0.02, "beta": 0.1, "source": "BEATS"},
            "max_pause": "2d",
            "progress_deadline": 90,
            "on_inconclusive": "promote",
            "min_fresh_instances": 3,
        }
    )
    assert plan.steps == [RolloutStep(weight_bp=10_000)]
    assert plan.analysis.kind is AnalysisKind.THRESHOLD
    assert plan.analysis.source is AnalysisSource.BEATS
    assert (plan.max_pause, plan.progress_deadline) == (172_800.0, 90.0)
    assert plan.on_inconclusive is OnInconclusive.PROMOTE
    assert plan.min_fresh_instances == 3
    assert overlaid({"analysis": {"beta": 1}}, {"analysis.kind": "x", "bake": "1s"}) == {
        "analysis": {"beta": 1, "kind": "x"},
        "bake": "1s",
    }


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"stesp": []}, "no field stesp"),
        ({"steps": 10}, "steps must be a list"),
        ({"steps": [{"weight": 10, "pause": True}]}, r"steps\[0\]: there is no field pause"),
        ({"steps": ["a tenth"]}, r"steps\[0\]: .* is not a share"),
        ({"steps": [{"weight": 10, "pause_after": "yes"}]}, "must be true or false"),
        ({"analysis": "strict"}, "analysis must be an object"),
        ({"analysis": {"kind": "guess"}}, "is none of SEQUENTIAL, THRESHOLD"),
        ({"analysis": {"max_error_rate": "low"}}, "analysis.max_error_rate must be a number"),
        ({"analysis": {"min_tasks": 1.5}}, "whole number"),
        ({"observe": "soon"}, "is not a duration"),
        ({"observe": True}, "observe must be a duration"),
    ],
)
def test_a_plan_that_makes_no_sense_is_refused(document: dict[str, Any], message: str) -> None:
    with pytest.raises(WrongInput, match=message):
        plan_of(document)


def test_a_declaration_goes_with_the_rollout(
    daemon: ScriptedDaemon, run: Run, tmp_path: Path
) -> None:
    daemon.says("StartRollout", pb.StartRolloutResponse(rollout=GOING))
    file = tmp_path / "writer.yaml"
    file.write_text("{name: writer, version: 2.1.0, capabilities: [summarize]}")
    run("rollout", "start", "writer", "--to", "2.1.0", "--canary", str(file))
    assert list(daemon.last("StartRollout").canary.capabilities) == ["summarize"]
    wrong = run("rollout", "start", "writer", "--to", "2.2.0", "--canary", str(file), code=2)
    assert "declares writer@2.1.0, not writer@2.2.0" in wrong.stderr


def test_a_rollout_that_is_watched_from_its_start_says_how_it_ended(
    daemon: ScriptedDaemon, run: Run
) -> None:
    daemon.says("StartRollout", pb.StartRolloutResponse(rollout=GOING))
    daemon.streams("WatchRollout", watches(GOING, BACK))
    result = run("rollout", "start", "writer", "--to", "2.1.0", "--watch", code=1)
    assert "writer 2.1.0 ROLLED_BACK: fails 30 % of 40 tasks" in result.stderr


def test_a_watch_ends_with_the_rollout(daemon: ScriptedDaemon, run: Run) -> None:
    found_by_name(daemon)
    daemon.streams("WatchRollout", watches(GOING, DONE))
    lines = run("rollout", "watch", "writer").stdout.splitlines()
    assert [line.split()[1] for line in lines] == ["PROGRESSING", "SUCCEEDED"]
    assert "step 2/3    50 %  new 3/124 (2.4 %)  old 0/0" in lines[0]
    assert not any("\x1b" in line for line in lines)
    assert daemon.last("WatchRollout").rollout_id == "r1"


@pytest.mark.parametrize(
    "phase",
    [pb.ROLLOUT_PHASE_ROLLED_BACK, pb.ROLLOUT_PHASE_FAILED, pb.ROLLOUT_PHASE_SUPERSEDED],
)
def test_a_watch_of_a_rollout_that_does_not_succeed_is_1(
    daemon: ScriptedDaemon, run: Run, phase: pb.RolloutPhase.ValueType
) -> None:
    found_by_name(daemon)
    looks = [pb.RolloutMeasurement(llr=one) for one in (1.0, 2.0)]
    daemon.streams("WatchRollout", watches(GOING, rollout(phase, 2, measurements=looks)))
    result = run("rollout", "watch", "r1", "-o", "json", code=1)
    values = [json.loads(one) for one in result.stdout.splitlines()]
    assert [one["revision"] for one in values] == ["1", "2"]
    assert [one["llr"] for one in values[1]["measurements"]] == [2.0]


def test_a_name_that_is_neither_is_answered_with_where_to_look(
    daemon: ScriptedDaemon, run: Run
) -> None:
    daemon.says("GetRollout", NOT_FOUND)
    result = run("rollout", "status", "wirter", code=1)
    assert "wirter is neither a rollout nor an agent that had one" in result.stderr


def test_status_shows_one_or_all_that_are_under_way(daemon: ScriptedDaemon, run: Run) -> None:
    look = pb.RolloutMeasurement(step_index=1, llr=-0.7, verdict=pb.ROLLOUT_VERDICT_CONTINUE)
    found_by_name(daemon, rollout(pb.ROLLOUT_PHASE_PROGRESSING, measurements=[look]))
    text = run("rollout", "status", "writer").stdout
    assert "3/124 (2.4 %)" in text
    assert "CONTINUE" in text
    daemon.says("ListRollouts", pb.ListRolloutsResponse(rollouts=[GOING], total_size=1))
    assert "PROGRESSING" in run("rollout", "status").stdout
    assert daemon.last("ListRollouts").active_only


def test_rollouts_are_listed_by_phase(daemon: ScriptedDaemon, run: Run) -> None:
    daemon.says("ListRollouts", pb.ListRolloutsResponse(rollouts=[BACK], total_size=4))
    given = ("--agent", "writer", "--phase", "rolled-back", "--limit", "1")
    result = run("rollout", "list", *given)
    assert "1 of 4 rollouts" in result.stderr
    assert list(daemon.last("ListRollouts").phases) == [pb.ROLLOUT_PHASE_ROLLED_BACK]
    daemon.says("ListRollouts", pb.ListRolloutsResponse())
    assert "No rollout matches" in run("rollout", "list", "--active").stderr


@pytest.mark.parametrize(
    ("command", "method", "response"),
    [
        ("pause", "PauseRollout", pb.PauseRolloutResponse(rollout=GOING)),
        ("resume", "ResumeRollout", pb.ResumeRolloutResponse(rollout=GOING)),
        ("abort", "AbortRollout", pb.AbortRolloutResponse(rollout=GOING)),
        ("retry", "RetryRollout", pb.RetryRolloutResponse(rollout=GOING)),
        ("promote", "PromoteRollout", pb.PromoteRolloutResponse(rollout=GOING)),
    ],
)
def test_an_operator_moves_a_rollout_by_the_name_of_its_agent(
    daemon: ScriptedDaemon, run: Run, command: str, method: str, response: Any
) -> None:
    found_by_name(daemon)
    daemon.says(method, response)
    assert "PROGRESSING" in run("rollout", command, "writer", "--reason", "why").stdout
    asked = daemon.last(method)
    assert (asked.rollout_id, asked.reason) == ("r1", "why")


def test_a_promotion_names_the_step_it_has_seen(daemon: ScriptedDaemon, run: Run) -> None:
    found_by_name(daemon)
    daemon.says("PromoteRollout", pb.PromoteRolloutResponse(rollout=GOING))
    run("rollout", "promote", "writer")
    assert daemon.last("PromoteRollout").expected_step_index == 1
    run("rollout", "promote", "writer", "--full")
    asked = daemon.last("PromoteRollout")
    assert asked.full
    assert not asked.HasField("expected_step_index")
