from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from rich.console import Console

from controlplane.cli.rollout_screen import screen
from controlplane.cli.rollout_views import (
    change_line,
    evidence_bar,
    pause_line,
    rollout_details,
    steps_line,
    times_line,
    verdict_of,
    weight_bar,
)
from fleetplane.v1 import lifecycle_service_pb2
from fleetplane.v1 import rollout_service_pb2 as pb

NOW = 10_000.0

STEPS = [
    pb.RolloutStep(weight_bp=1000),
    pb.RolloutStep(weight_bp=5000, pause_after=True),
    pb.RolloutStep(weight_bp=10_000),
]


def rollout(
    phase: pb.RolloutPhase.ValueType = pb.ROLLOUT_PHASE_PROGRESSING,
    kind: pb.RolloutAnalysis.Kind.ValueType = pb.RolloutAnalysis.KIND_SEQUENTIAL,
    **fields: Any,
) -> pb.Rollout:
    analysis = pb.RolloutAnalysis(kind=kind, max_error_rate=0.05)
    known: dict[str, Any] = {
        "agent_name": "writer",
        "from_version": "2.0.0",
        "to_version": "2.1.0",
        "plan": pb.RolloutPlan(steps=STEPS, analysis=analysis),
        "phase": phase,
    }
    return pb.Rollout(**{**known, **fields})


def test_steps_show_what_has_passed_what_is_on_and_what_is_to_come() -> None:
    assert steps_line(rollout(step_index=1)) == "✓ 10 %   ▶ 50 % (pause)   · 100 %"
    assert steps_line(rollout(pb.ROLLOUT_PHASE_SUCCEEDED, step_index=2)).count("✓") == 3
    back = steps_line(rollout(pb.ROLLOUT_PHASE_ROLLED_BACK, step_index=1))
    assert back == "✓ 10 %   ✗ 50 % (pause)   · 100 %"
    assert "▶" not in steps_line(rollout(pb.ROLLOUT_PHASE_SUPERSEDED, step_index=1))


def test_the_weight_is_a_bar() -> None:
    assert weight_bar(rollout(weight_bp=5000), 10) == "█████░░░░░"


@pytest.mark.parametrize(("llr", "at"), [(-3.0, 0), (1.0, 5), (5.0, 10), (99.0, 10), (-99.0, 0)])
def test_the_evidence_moves_between_a_pass_and_a_breach(llr: float, at: int) -> None:
    known = pb.RolloutHypotheses(accept_at=-3, reject_at=5)
    seen = pb.OutcomeCounts(total=9)
    bar = evidence_bar(rollout(llr=llr, hypotheses=known, canary=seen), 11)
    assert bar.index("●") == at
    assert f"LLR {llr:+.2f} in -3.00 .. 5.00" in bar


def test_a_threshold_is_the_middle_of_its_bar() -> None:
    judged = rollout(
        kind=pb.RolloutAnalysis.KIND_THRESHOLD, canary=pb.OutcomeCounts(total=20, failed=1)
    )
    assert evidence_bar(judged, 11) == "─────●─────  5.0 % of 5.0%"


def test_without_evidence_there_is_no_bar() -> None:
    assert evidence_bar(rollout()) == ""
    assert evidence_bar(rollout(kind=pb.RolloutAnalysis.KIND_THRESHOLD)) == ""
    known = pb.RolloutHypotheses(accept_at=-3, reject_at=5)
    assert evidence_bar(rollout(hypotheses=known)) == ""


def test_a_verdict_belongs_to_its_step() -> None:
    look = pb.RolloutMeasurement(step_index=1, verdict=pb.ROLLOUT_VERDICT_BREACH, message="30 %")
    assert verdict_of(rollout(step_index=1, measurements=[look])) == "BREACH: 30 %"
    assert verdict_of(rollout(step_index=2, measurements=[look])) == ""


@pytest.mark.parametrize(
    ("shown", "line"),
    [
        (rollout(), "waits for the first work of 2.1.0"),
        (rollout(step_may_pass_at=Timestamp(seconds=10_042)), "may pass in 42s"),
        (rollout(step_may_pass_at=Timestamp(seconds=9_000)), "observed long enough"),
        (
            rollout(pb.ROLLOUT_PHASE_PAUSED, phase_deadline=Timestamp(seconds=13_600)),
            "aborts in 1h",
        ),
        (rollout(pb.ROLLOUT_PHASE_SUCCEEDED, phase_deadline=Timestamp(seconds=1)), ""),
    ],
)
def test_time_left_depends_on_the_phase(shown: pb.Rollout, line: str) -> None:
    assert times_line(shown, NOW) == line


def test_a_pause_says_why_and_by_whom() -> None:
    pause = pb.RolloutPause(reason=pb.ROLLOUT_PAUSE_REASON_OPERATOR, by="ops", message="wait")
    pause.since.GetCurrentTime()
    line = pause_line(rollout(pb.ROLLOUT_PHASE_PAUSED, pause=pause))
    assert line.startswith("OPERATOR by ops 0.")
    assert line.endswith(" ago: wait")
    assert pause_line(rollout(pause=pause)) == ""


def test_a_line_says_how_a_rollout_stands() -> None:
    shown = rollout(weight_bp=1000, llr=0.5, hypotheses=pb.RolloutHypotheses(reject_at=5))
    assert change_line(shown) == "PROGRESSING    step 1/3    10 %  new 0/0  old 0/0"
    shown.canary.total, shown.canary.failed = 8, 1
    line = "PROGRESSING    step 1/3    10 %  new 1/8 (12.5 %)  old 0/0  LLR +0.50"
    assert change_line(shown) == line


def test_details_of_a_rollout_that_has_just_begun_are_shown() -> None:
    text = rollout_details(rollout(pb.ROLLOUT_PHASE_PENDING))
    assert "PENDING" in text
    assert "not registered yet" in text


def drawn(shown: pb.Rollout, drain: lifecycle_service_pb2.Drain | None = None) -> str:
    console = Console(width=120, color_system=None)
    with console.capture() as capture:
        console.print(screen(shown, drain, NOW))
    return capture.get()


def test_a_screen_shows_both_versions_and_the_evidence() -> None:
    picture = drawn(
        rollout(
            weight_bp=1000,
            canary=pb.OutcomeCounts(total=40, failed=12),
            stable=pb.OutcomeCounts(total=300, failed=3),
            hypotheses=pb.RolloutHypotheses(accept_at=-3, reject_at=5),
            phase_since=Timestamp(seconds=1),
        )
    )
    for part in ("writer 2.0.0 → 2.1.0", "PROGRESSING", "30.0 %", "1.0 %", "LLR", "10 % of new"):
        assert part in picture


def test_a_screen_shows_the_drain_of_the_version_that_retires() -> None:
    drain = lifecycle_service_pb2.Drain(
        agent_id="a1",
        phase=lifecycle_service_pb2.DRAIN_PHASE_DRAINING,
        tasks_in_flight=3,
        deadline_at=Timestamp(seconds=10_060),
    )
    picture = drawn(rollout(pb.ROLLOUT_PHASE_DRAINING_OLD, weight_bp=10_000), drain)
    assert "a1: draining, 3 tasks in flight (1m left)" in picture


def test_names_cannot_steer_the_terminal() -> None:
    assert "\x1b" not in drawn(rollout(agent_name="\x1b[2J", message="\x1b[31m"))
