"""Experiments on a whole replica: prompts, configuration, verdicts and what follows from them."""

import asyncio
import functools
from collections.abc import AsyncIterator
from typing import Any

import pytest
from google.protobuf.json_format import ParseDict

from controlplane.tasks.experiment_watcher import ExperimentWatcher
from controlplane.wiring import governance
from fleetplane.v1 import config_service_pb2, prompt_service_pb2, prompt_service_pb2_grpc
from fleetplane.v1 import experiment_service_pb2 as pb
from tests.fakes.eventually import eventually
from tests.fakes.memory_replica import MemoryReplica, memory_replica
from tests.fakes.refused_call import refused

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
async def replica(monkeypatch) -> AsyncIterator[MemoryReplica]:
    quick = functools.partial(ExperimentWatcher, period_seconds=0.05)
    monkeypatch.setattr(governance, "ExperimentWatcher", quick)
    async with memory_replica() as made:
        yield made


def spec(**fields: Any) -> pb.ExperimentSpec:
    stated: dict[str, Any] = {
        "subject": {"configPath": "temperature"},
        "variants": [
            {"name": "cold", "weightBp": 5000, "control": True, "configValue": 0.2},
            {"name": "warm", "weightBp": 5000, "configValue": 0.9},
        ],
        "primary": {"name": "solved"},
    }
    return ParseDict(stated | fields, pb.ExperimentSpec())


async def started(replica: MemoryReplica, key: str = "warmth", **fields: Any) -> pb.Experiment:
    stub = replica.experiments
    await stub.CreateExperiment(pb.CreateExperimentRequest(key=key, spec=spec(**fields)))
    answer = await stub.StartExperiment(pb.StartExperimentRequest(key=key))
    experiment: pb.Experiment = answer.experiment
    return experiment


async def assigned(replica: MemoryReplica, unit: str, **fields: Any) -> pb.VariantAssignment:
    request = pb.AssignVariantRequest(**({"key": "warmth", "unit": unit} | fields))
    answer = await replica.experiments.AssignVariant(request)
    assignment: pb.VariantAssignment = answer.assignment
    return assignment


async def played(replica: MemoryReplica, count: int, key: str = "warmth", **rates: float) -> None:
    """Expose units to what they are dealt; a share of each variant succeeds."""
    stub = replica.experiments
    for start in range(0, count, 500):
        exposures, outcomes, good = [], [], dict.fromkeys(rates, 0.0)
        for i in range(start, min(count, start + 500)):
            unit = f"s-{i}"
            dealt = await assigned(replica, unit, key=key)
            name = dealt.variant.name
            good[name] += rates[name]
            success = good[name] >= 1
            good[name] -= success
            exposures.append(pb.Exposure(unit=unit, variant=name, digest=dealt.variant.digest))
            outcomes.append(pb.Outcome(unit=unit, metric="solved", value=float(success)))
        batch = pb.BatchRecordExposuresRequest(key=key, exposures=exposures)
        results = (await stub.BatchRecordExposures(batch)).results
        assert {one.state for one in results} == {pb.RECORDING_STATE_RECORDED}
        await stub.BatchRecordOutcomes(pb.BatchRecordOutcomesRequest(key=key, outcomes=outcomes))


async def analysed(replica: MemoryReplica, key: str = "warmth") -> pb.ExperimentAnalysis:
    answer = await replica.experiments.AnalyzeExperiment(pb.AnalyzeExperimentRequest(key=key))
    analysis: pb.ExperimentAnalysis = answer.analysis
    return analysis


async def shown(replica: MemoryReplica, key: str = "warmth") -> pb.Experiment:
    answer = await replica.experiments.GetExperiment(pb.GetExperimentRequest(key=key))
    experiment: pb.Experiment = answer.experiment
    return experiment


async def temperature(replica: MemoryReplica, name: str = "") -> float:
    scope = config_service_pb2.ConfigScope(agent_name=name)
    request = config_service_pb2.GetConfigRequest(scope=scope)
    answer = await replica.config.GetConfig(request)
    return float(answer.config.temperature)


async def test_an_experiment_runs_from_its_plan_to_a_verdict(replica):
    begun = await started(replica)
    assert begun.state == pb.EXPERIMENT_STATE_RUNNING
    assert [one.digest != "" for one in begun.phases[0].variants] == [True, True]
    await played(replica, 1_000, cold=0.5, warm=0.8)
    analysis = await analysed(replica)
    assert (analysis.verdict, analysis.winner) == (pb.EXPERIMENT_VERDICT_SHIP, "warm")
    assert sum(arm.exposed for arm in analysis.arms) == 1_000
    (comparison,) = analysis.comparisons
    assert comparison.lower < comparison.difference < comparison.upper
    assert comparison.difference == pytest.approx(0.3, abs=0.02)

    async def concluded() -> bool:
        return (await shown(replica)).conclusion.winner == "warm"

    await eventually("the replica says that it is better", concluded)
    assert (await shown(replica)).state == pb.EXPERIMENT_STATE_RUNNING  # nobody allowed more
    request = pb.StopExperimentRequest(key="warmth", promote="warm", reason="it is better")
    stopped = (await replica.experiments.StopExperiment(request)).experiment
    assert (stopped.state, stopped.promoted) == (pb.EXPERIMENT_STATE_STOPPED, "warm")
    assert await temperature(replica) == 0.9
    again = (await replica.experiments.StopExperiment(request)).experiment
    assert again.revision == stopped.revision
    assert (await assigned(replica, "s-1")).reason == pb.ASSIGNMENT_REASON_NOT_RUNNING


async def test_what_is_allowed_to_end_by_itself_does(replica):
    await started(replica, auto={"promote": True, "stop": True}, agents=["writer"])

    found = [await assigned(replica, f"s-{i}", agent_name="writer") for i in range(400)]
    exposures = [
        pb.Exposure(unit=one.unit, variant=one.variant.name, digest=one.variant.digest)
        for one in found
    ]
    outcomes = [
        pb.Outcome(unit=one.unit, metric="solved", value=float(one.variant.name == "warm"))
        for one in found
    ]
    await replica.experiments.BatchRecordExposures(
        pb.BatchRecordExposuresRequest(key="warmth", agent_name="writer", exposures=exposures)
    )
    await replica.experiments.BatchRecordOutcomes(
        pb.BatchRecordOutcomesRequest(key="warmth", outcomes=outcomes)
    )

    async def ended() -> bool:
        return (await shown(replica)).state == pb.EXPERIMENT_STATE_STOPPED

    await eventually("it ends by itself", ended)
    end = await shown(replica)
    assert (end.promoted, end.stopped_by) == ("warm", "fleetplane")
    assert await temperature(replica, "writer") == 0.9
    assert await temperature(replica) != 0.9


async def test_one_experiment_at_a_time_runs_on_a_subject(replica):
    await started(replica)
    create = pb.CreateExperimentRequest(key="second", spec=spec())
    await replica.experiments.CreateExperiment(create)
    start = replica.experiments.StartExperiment
    assert await refused(start(pb.StartExperimentRequest(key="second"))) == "EXPERIMENT_ACTIVE"
    assert await refused(start(pb.StartExperimentRequest(key="warmth"))) == "INVALID_TRANSITION"
    assert await refused(replica.experiments.CreateExperiment(create)) == "EXPERIMENT_EXISTS"
    await replica.experiments.StopExperiment(pb.StopExperimentRequest(key="warmth"))
    assert await refused(start(pb.StartExperimentRequest(key="second"))) == ""


async def test_a_repeated_request_is_the_same_request(replica):
    request = pb.CreateExperimentRequest(key="warmth", spec=spec(), request_id="r-1")
    first = (await replica.experiments.CreateExperiment(request)).experiment
    assert (await replica.experiments.CreateExperiment(request)).experiment == first
    start = pb.StartExperimentRequest(key="warmth", request_id="r-2")
    begun = (await replica.experiments.StartExperiment(start)).experiment
    assert (await replica.experiments.StartExperiment(start)).experiment == begun
    phase = pb.StartNewPhaseRequest(key="warmth", request_id="r-3")
    for _ in range(2):
        await replica.experiments.StartNewPhase(phase)
    assert len((await shown(replica)).phases) == 2


async def test_coverage_grows_and_never_shrinks(replica):
    await started(replica, coverageBp=1000)
    units = [f"s-{i}" for i in range(300)]
    before = {unit: (await assigned(replica, unit)).variant.name for unit in units}
    ramp = replica.experiments.SetCoverage
    await ramp(pb.SetCoverageRequest(key="warmth", coverage_bp=6_000))
    after = {unit: (await assigned(replica, unit)).variant.name for unit in units}
    assert all(after[unit] == name for unit, name in before.items() if name)
    assert sum(map(bool, before.values())) < sum(map(bool, after.values())) < 300
    less = pb.SetCoverageRequest(key="warmth", coverage_bp=5_999)
    assert await refused(ramp(less)) == "INVALID_FIELD"


async def test_a_new_phase_deals_anew_and_leaves_out_who_was_exposed(replica):
    await started(replica)
    await played(replica, 100, cold=0.5, warm=0.5)
    request = pb.StartNewPhaseRequest(
        key="warmth", exclude_exposed=True, expected_phase=1, reason="a bug"
    )
    begun = (await replica.experiments.StartNewPhase(request)).experiment
    assert [one.number for one in begun.phases] == [1, 2]
    assert begun.phases[0].HasField("ended_at")
    assert await refused(replica.experiments.StartNewPhase(request)) == "REVISION_CONFLICT"
    dealt = await assigned(replica, "s-1")
    assert (dealt.reason, dealt.exclusion) == (
        pb.ASSIGNMENT_REASON_EXCLUDED,
        pb.EXCLUSION_REASON_EARLIER_PHASE,
    )
    fresh = await assigned(replica, "s-1000")
    assert (fresh.reason, fresh.phase) == (pb.ASSIGNMENT_REASON_IN_EXPERIMENT, 2)
    late = pb.Outcome(unit="s-1", metric="solved", value=1, phase=1)
    answer = await replica.experiments.RecordOutcome(
        pb.RecordOutcomeRequest(key="warmth", outcome=late)
    )
    assert answer.result.state == pb.RECORDING_STATE_IGNORED
    old = await replica.experiments.AnalyzeExperiment(
        pb.AnalyzeExperimentRequest(key="warmth", phase=1)
    )
    assert sum(arm.exposed for arm in old.analysis.arms) == 100


async def test_a_watcher_hears_of_what_is_dealt_and_of_nothing_else(replica):
    call = replica.experiments.WatchExperiments(pb.WatchExperimentsRequest(agent_name="writer"))
    assert not (await call.read()).dealt.experiments
    await started(replica, agents=["reader"])
    await started(
        replica,
        "other",
        subject={"configPath": "max_tokens"},
        variants=[
            {"name": "a", "weightBp": 5000, "control": True, "configValue": 100},
            {"name": "b", "weightBp": 5000, "configValue": 200},
        ],
    )
    (dealt,) = (await call.read()).dealt.experiments
    assert (dealt.key, dealt.phase, dealt.coverage_bp) == ("other", 1, 10_000)
    await replica.experiments.StopExperiment(pb.StopExperimentRequest(key="other"))
    assert not (await call.read()).dealt.experiments
    call.cancel()


async def test_a_removed_experiment_leaves_nothing(replica):
    await started(replica)
    await played(replica, 50, cold=0.5, warm=0.5)
    delete = replica.experiments.DeleteExperiment
    request = pb.DeleteExperimentRequest(key="warmth")
    assert await refused(delete(request)) == "INVALID_TRANSITION"
    await replica.experiments.StopExperiment(pb.StopExperimentRequest(key="warmth"))
    assert (await delete(request)).deleted
    assert not (await delete(request)).deleted
    await started(replica)
    assert sum(arm.exposed for arm in (await analysed(replica)).arms) == 0
    assert (await assigned(replica, "s-1")).reason == pb.ASSIGNMENT_REASON_IN_EXPERIMENT


class Prompted:
    """A prompt with two versions, the first in production, and an experiment on it."""

    def __init__(self, replica: MemoryReplica) -> None:
        self.replica = replica
        self.stub: Any = prompt_service_pb2_grpc.PromptServiceStub(replica.channel)
        self.agent_id = ""

    async def begin(self, **fields: Any) -> pb.Experiment:
        prompts = prompt_service_pb2
        for text in ("Be brief.", "Be kind."):
            await self.stub.CreatePromptVersion(
                prompts.CreatePromptVersionRequest(
                    prompt="tone", type=prompts.PROMPT_TYPE_TEXT, text=text, reason="try"
                )
            )
        await self.stub.MoveLabel(
            prompts.MoveLabelRequest(prompt="tone", label="production", version=1, reason="go")
        )
        variants = [
            {"name": "brief", "weightBp": 5000, "control": True, "promptVersion": 1},
            {"name": "kind", "weightBp": 5000, "promptVersion": 2},
        ]
        return await started(
            self.replica, "tone", subject={"prompt": "tone"}, variants=variants, **fields
        )

    async def resolve(self, session: str) -> prompt_service_pb2.ResolvePromptResponse:
        request = prompt_service_pb2.ResolvePromptRequest(prompt="tone", session_id=session)
        answer: prompt_service_pb2.ResolvePromptResponse = await self.stub.ResolvePrompt(request)
        return answer

    async def use(self, session: str) -> bool:
        found = await self.resolve(session)
        request = prompt_service_pb2.MarkPromptUsedRequest(
            prompt="tone",
            version=found.version.version,
            content_sha256=found.version.content_sha256,
            session_id=session,
            experiment=found.experiment,
            variant=found.variant,
        )
        return bool((await self.stub.MarkPromptUsed(request)).recorded)


async def test_a_prompt_is_resolved_and_recorded_by_its_experiment(replica):
    prompted = Prompted(replica)
    await prompted.begin()
    seen = {unit: (await prompted.resolve(unit)).version.version for unit in map(str, range(40))}
    assert set(seen.values()) == {1, 2}
    for unit, version in seen.items():
        again = await prompted.resolve(unit)
        assert again.version.version == version
        assigned_to = await assigned(replica, unit, key="tone")
        assert assigned_to.variant.prompt_version == version
        assert await prompted.use(unit)
    analysis = await analysed(replica, "tone")
    assert (sum(arm.exposed for arm in analysis.arms), analysis.conflicting) == (40, 0)
    dealt = await assigned(replica, "other", key="tone")
    stale = pb.Exposure(unit="other", variant=dealt.variant.name, digest="sha256:" + "0" * 64)
    await replica.experiments.RecordExposure(pb.RecordExposureRequest(key="tone", exposure=stale))
    assert (await analysed(replica, "tone")).other_digest == 1


async def test_a_promoted_prompt_moves_its_label(replica):
    prompted = Prompted(replica)
    await prompted.begin()
    request = pb.StopExperimentRequest(key="tone", promote="kind")
    await replica.experiments.StopExperiment(request)
    assert (await prompted.resolve("fresh")).version.version == 2
    assert (await prompted.resolve("fresh")).label == "production"


async def test_what_a_session_keeps_from_an_earlier_phase_is_no_conflict_in_the_next(replica):
    prompted = Prompted(replica)
    await prompted.begin()
    for unit in map(str, range(30)):
        assert await prompted.use(unit)
    await replica.experiments.StartNewPhase(pb.StartNewPhaseRequest(key="tone"))
    for unit in map(str, range(30)):
        await prompted.use(unit)
    analysis = await analysed(replica, "tone")
    assert (analysis.phase, analysis.conflicting) == (2, 0)
    assert 0 < sum(arm.exposed for arm in analysis.arms) < 30


async def test_many_callers_ask_and_report_at_once(replica):
    await started(replica)

    async def one(unit: str) -> str:
        dealt = await assigned(replica, unit)
        exposure = pb.Exposure(unit=unit, variant=dealt.variant.name, digest=dealt.variant.digest)
        request = pb.RecordExposureRequest(key="warmth", exposure=exposure)
        await replica.experiments.RecordExposure(request)
        return str(dealt.variant.name)

    names = await asyncio.gather(*(one(f"s-{i % 10}") for i in range(60)))
    assert len({(i % 10, name) for i, name in enumerate(names)}) == 10
    assert sum(arm.exposed for arm in (await analysed(replica)).arms) == 10
