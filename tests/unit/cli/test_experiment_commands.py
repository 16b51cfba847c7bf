"""`fleetplane experiments` over a scripted daemon."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.struct_pb2 import Value
from typer.testing import Result

from controlplane.cli.experiment_files import basis_points, experiment_in, variants_in
from controlplane.cli.outcomes import WrongInput
from fleetplane import ExperimentUnit, MetricDirection, MetricKind
from fleetplane.v1 import experiment_service_pb2 as pb
from tests.fakes.fleet_plane import Refusal
from tests.fakes.scripted_daemon import ScriptedDaemon

Run = Callable[..., Result]

FILE = """
key: greeting-tone
prompt: greeting
hypothesis: kinder is better
variants:
  - {name: brief, weight: 66.67, control: true, prompt_version: 3}
  - {name: kind, weight: 33.33, prompt_version: 4}
primary: {name: solved}
guardrails:
  - {name: cost, kind: numeric, min: 0, max: 2, direction: lower, margin: 0.05}
coverage: 20
unit: agent
max_duration: 7d
auto: {stop: true}
"""

VARIANTS = [
    pb.Variant(name="brief", weight_bp=5_000, control=True, prompt_version=3),
    pb.Variant(name="kind", weight_bp=5_000, prompt_version=4),
]
EXPERIMENT = pb.Experiment(
    key="greeting-tone",
    spec=pb.ExperimentSpec(
        subject=pb.ExperimentSubject(prompt="greeting"),
        variants=VARIANTS,
        primary=pb.ExperimentMetric(name="solved"),
        max_units=100_000,
        max_duration=Duration(seconds=2_592_000),
    ),
    state=pb.EXPERIMENT_STATE_RUNNING,
    phases=[pb.ExperimentPhase(number=1, variants=VARIANTS, coverage_bp=2_000)],
    conclusion=pb.ExperimentConclusion(verdict=pb.EXPERIMENT_VERDICT_SHIP, winner="kind"),
)
ANALYSIS = pb.ExperimentAnalysis(
    phase=1,
    verdict=pb.EXPERIMENT_VERDICT_SHIP,
    winner="kind",
    why="kind is better in solved",
    arms=[
        pb.ExperimentArm(
            variant=one.name,
            control=one.control,
            weight_bp=5_000,
            exposed=1_000,
            metrics=[pb.MetricCounts(metric="solved", count=900, mean=mean)],
        )
        for one, mean in zip(VARIANTS, (0.5, 0.75), strict=True)
    ],
    comparisons=[
        pb.MetricComparison(
            variant="kind",
            metric="solved",
            difference=0.25,
            lower=0.18,
            upper=0.32,
            standing=pb.METRIC_STANDING_BETTER,
        )
    ],
    sample_ratio_p=0.83,
    progress=0.42,
)


def always(answer: Any) -> Callable[[Any], Any]:
    """Answer every request alike."""
    return lambda _: answer


def written(tmp_path: Path, text: str = FILE) -> str:
    path = tmp_path / "experiment.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_a_file_says_everything_about_an_experiment(tmp_path: Path) -> None:
    key, spec = experiment_in(Path(written(tmp_path)))
    assert (key, spec.prompt, spec.coverage_bp) == ("greeting-tone", "greeting", 2_000)
    assert [one.weight_bp for one in spec.variants] == [6_667, 3_333]
    assert spec.unit is ExperimentUnit.AGENT
    (cost,) = spec.guardrails
    assert (cost.kind, cost.direction) == (MetricKind.NUMERIC, MetricDirection.LOWER)
    assert spec.max_duration == 7 * 86_400
    assert (spec.auto_stop, spec.auto_promote) == (True, False)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (FILE.replace("hypothesis", "hypothesys"), "hypothesys"),
        (FILE.replace("prompt: greeting", ""), "needs a prompt"),
        (FILE.replace("66.67", "66.667"), "weight must be 0-100 %"),
        (FILE.replace("coverage: 20", "coverage: 120"), "coverage must be 0-100 %"),
        (FILE.replace("kind: numeric", "kind: number"), "kind"),
        (FILE.replace("prompt_version: 4", "prompt_version: 4, value: 1"), "and a value"),
    ],
)
def test_a_wrong_file_is_refused_with_where_it_is_wrong(
    tmp_path: Path, text: str, said: str
) -> None:
    with pytest.raises(WrongInput, match=said):
        experiment_in(Path(written(tmp_path, text)))


def test_the_variants_of_a_phase_are_a_list_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "variants.yaml"
    path.write_text("- {name: a, weight: 100, control: true, value: [1, 2]}", encoding="utf-8")
    (only,) = variants_in(path)
    assert (only.weight_bp, only.config_value) == (10_000, [1, 2])


def test_percent_become_basis_points_exactly() -> None:
    assert [basis_points(one, "x") for one in (0, 0.01, 33.33, 100)] == [0, 1, 3_333, 10_000]


def test_an_experiment_is_created_and_started(
    daemon: ScriptedDaemon, run: Run, tmp_path: Path
) -> None:
    daemon.answers["CreateExperiment"] = always(pb.CreateExperimentResponse(experiment=EXPERIMENT))
    daemon.answers["StartExperiment"] = always(pb.StartExperimentResponse(experiment=EXPERIMENT))
    result = run("experiments", "create", written(tmp_path), "--start")
    assert "RUNNING" in result.output
    assert "prompt greeting" in result.output


def test_show_says_what_is_counted_and_what_it_means(daemon: ScriptedDaemon, run: Run) -> None:
    daemon.answers["GetExperiment"] = always(pb.GetExperimentResponse(experiment=EXPERIMENT))
    daemon.answers["AnalyzeExperiment"] = always(pb.AnalyzeExperimentResponse(analysis=ANALYSIS))
    shown = run("experiments", "show", "greeting-tone").output
    for part in ("SHIP kind", "p = 0.83", "42%", "+0.18 .. +0.32", "BETTER", "brief (control)"):
        assert part in shown
    as_json = json.loads(run("experiments", "show", "greeting-tone", "-o", "json").output)
    assert as_json["analysis"]["verdict"] == "EXPERIMENT_VERDICT_SHIP"
    alone = json.loads(run("experiments", "analyze", "greeting-tone", "-o", "json").output)
    assert alone["winner"] == "kind"


def test_list_shows_one_experiment_per_line(daemon: ScriptedDaemon, run: Run) -> None:
    daemon.answers["ListExperiments"] = always(pb.ListExperimentsResponse(experiments=[EXPERIMENT]))
    assert "20 %" in run("experiments", "list", "--state", "running").output
    daemon.answers["ListExperiments"] = always(pb.ListExperimentsResponse())
    assert "No experiment matches" in run("experiments", "list").output


def test_the_moves_of_an_operator_reach_the_daemon(
    daemon: ScriptedDaemon, run: Run, tmp_path: Path
) -> None:
    asked: dict[str, Any] = {}

    def noting(method: str, response: Any) -> None:
        def answer(request: Any) -> Any:
            asked[method] = request
            return response

        daemon.answers[method] = answer

    noting("GetExperiment", pb.GetExperimentResponse(experiment=EXPERIMENT))
    noting("SetCoverage", pb.SetCoverageResponse(experiment=EXPERIMENT))
    noting("StartNewPhase", pb.StartNewPhaseResponse(experiment=EXPERIMENT))
    noting("StopExperiment", pb.StopExperimentResponse(experiment=EXPERIMENT))
    noting("DeleteExperiment", pb.DeleteExperimentResponse(deleted=True))
    run("experiments", "ramp", "greeting-tone", "50")
    assert asked["SetCoverage"].coverage_bp == 5_000
    run("experiments", "phase", "greeting-tone", "--exclude-exposed", "--coverage", "10")
    phase = asked["StartNewPhase"]
    assert (phase.expected_phase, phase.exclude_exposed, phase.coverage_bp) == (1, True, 1_000)
    path = written(tmp_path)
    run("experiments", "phase", "greeting-tone", "--variants", path)
    assert [one.weight_bp for one in asked["StartNewPhase"].variants] == [6_667, 3_333]
    run("experiments", "stop", "greeting-tone", "--promote", "kind")
    assert asked["StopExperiment"].promote == "kind"
    assert "is gone" in run("experiments", "delete", "greeting-tone").output


def test_assign_says_what_a_unit_gets_and_why(daemon: ScriptedDaemon, run: Run) -> None:
    given = pb.VariantAssignment(
        key="warmth",
        phase=1,
        reason=pb.ASSIGNMENT_REASON_IN_EXPERIMENT,
        unit="s-1",
        variant=pb.Variant(name="warm", config_value=Value(number_value=0.9)),
    )
    daemon.answers["AssignVariant"] = always(pb.AssignVariantResponse(assignment=given))
    shown = run("experiments", "assign", "warmth", "s-1").output
    assert "IN_EXPERIMENT" in shown
    assert "0.9" in shown


def test_a_report_by_hand_says_what_became_of_it(daemon: ScriptedDaemon, run: Run) -> None:
    good = pb.RecordingResult(state=pb.RECORDING_STATE_RECORDED)
    bad = pb.RecordingResult()
    bad.error.message = "unit 's-1' was not exposed to this phase"
    daemon.answers["BatchRecordExposures"] = always(pb.BatchRecordExposuresResponse(results=[good]))
    daemon.answers["BatchRecordOutcomes"] = always(pb.BatchRecordOutcomesResponse(results=[bad]))
    record = ("experiments", "record", "warmth", "s-1")
    assert "RECORDED" in run(*record, "--exposed", "warm", "--digest", "d").output
    assert "not exposed" in run(*record, "--outcome", "solved=1", code=1).output
    assert "METRIC=NUMBER" in run(*record, "--outcome", "solved", code=2).output
    assert "is needed" in run(*record, code=2).output


def test_an_unknown_experiment_is_an_error(daemon: ScriptedDaemon, run: Run) -> None:
    refusal = Refusal(grpc.StatusCode.NOT_FOUND, "EXPERIMENT_NOT_FOUND", "there is none")
    daemon.answers["GetExperiment"] = always(refusal)
    assert "there is none" in run("experiments", "show", "nothing", code=1).output
