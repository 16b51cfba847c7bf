"""Rollouts between the wire and the domain."""

from collections.abc import Callable
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from hypothesis import given
from hypothesis import strategies as st

from controlplane.api.convert.rollouts import (
    order_from_proto,
    phases_from_proto,
    plan_from_proto,
    plan_to_proto,
    rollout_to_proto,
    watched_to_proto,
)
from controlplane.domain.errors import InvalidArgument
from controlplane.domain.rollouts.model import (
    Analysis,
    AnalysisKind,
    Counts,
    Frozen,
    Measurement,
    OnInconclusive,
    OutcomeSource,
    Pause,
    PauseReason,
    Phase,
    Plan,
    Rollout,
    Step,
    Verdict,
)
from controlplane.domain.rollouts.validation import validate_plan
from controlplane.services.ports import Position
from fleetplane.v1 import agent_pb2
from fleetplane.v1 import rollout_service_pb2 as pb

DURATIONS = st.integers(0, 30 * 86_400_000)
RATES = st.floats(0.0001, 0.5)
PLANS = st.builds(
    Plan,
    steps=st.lists(
        st.builds(Step, weight_bp=st.integers(1, 10_000), pause_after=st.booleans()),
        min_size=1,
        max_size=20,
    ).map(tuple),
    analysis=st.builds(
        Analysis,
        kind=st.sampled_from(AnalysisKind),
        max_error_rate=RATES,
        min_tasks=st.integers(1, 1_000_000),
        alpha=RATES,
        beta=RATES,
        source=st.sampled_from(OutcomeSource),
    ),
    observe_ms=DURATIONS,
    max_dwell_ms=DURATIONS,
    bake_ms=DURATIONS,
    progress_deadline_ms=DURATIONS,
    max_pause_ms=DURATIONS,
    drain_deadline_ms=DURATIONS,
    on_inconclusive=st.sampled_from(OnInconclusive),
    evict_on_abort=st.booleans(),
    min_fresh_instances=st.integers(1, 1_000),
)


def refused(call: Callable[[], Any]) -> list[str]:
    with pytest.raises(InvalidArgument) as refusal:
        call()
    return [violation.field for violation in refusal.value.violations]


@given(PLANS)
def test_a_plan_survives_the_round_trip(plan: Plan):
    assert plan_from_proto(plan_to_proto(plan)) == plan


def test_a_plan_that_says_nothing_is_the_plan_of_the_contract():
    plan = plan_from_proto(pb.RolloutPlan())
    assert plan == Plan()
    validate_plan(plan)
    assert [step.weight_bp for step in plan.steps] == [1_000, 5_000, 10_000]
    assert plan.analysis.min_tasks == 50


def test_a_threshold_needs_fewer_tasks_unless_it_says_how_many():
    threshold = pb.RolloutAnalysis(kind=pb.RolloutAnalysis.KIND_THRESHOLD)
    assert plan_from_proto(pb.RolloutPlan(analysis=threshold)).analysis.min_tasks == 20
    threshold.min_tasks = 7
    assert plan_from_proto(pb.RolloutPlan(analysis=threshold)).analysis.min_tasks == 7


def test_a_duration_that_is_sent_as_0_is_not_the_default():
    plan = plan_from_proto(pb.RolloutPlan(observe=Duration(), bake=Duration()))
    assert (plan.observe_ms, plan.bake_ms) == (0, 0)
    assert refused(lambda: validate_plan(plan)) == ["plan.observe"]


def test_a_number_that_is_sent_as_0_is_not_the_default():
    analysis = pb.RolloutAnalysis(max_error_rate=0, min_tasks=0, alpha=0, beta=0)
    plan = plan_from_proto(pb.RolloutPlan(analysis=analysis))
    assert refused(lambda: validate_plan(plan)) == [
        "plan.analysis.max_error_rate",
        "plan.analysis.alpha",
        "plan.analysis.beta",
        "plan.analysis.min_tasks",
    ]


def test_malformed_parts_of_a_plan_are_named_at_once():
    plan = pb.RolloutPlan(
        observe=Duration(seconds=-1),
        max_pause=Duration(nanos=-1),
        analysis=pb.RolloutAnalysis(kind=99),  # type: ignore[arg-type]  # unknown here
        on_inconclusive=99,  # type: ignore[arg-type]  # unknown here
    )
    assert refused(lambda: plan_from_proto(plan)) == [
        "plan.observe",
        "plan.max_pause",
        "plan.analysis.kind",
        "plan.on_inconclusive",
    ]


def test_an_order_needs_an_agent_and_a_version():
    request = pb.StartRolloutRequest(reason="r" * 1_025)
    assert refused(lambda: order_from_proto(request)) == ["agent_name", "to_version", "reason"]


def test_a_canary_need_not_repeat_its_name_and_version():
    canary = agent_pb2.AgentSpec(model="m")
    request = pb.StartRolloutRequest(agent_name="reader", to_version="2.0.0", canary=canary)
    spec = order_from_proto(request).canary
    assert spec is not None
    assert (spec.name_version, spec.model) == ("reader@2.0.0", "m")
    assert request.canary == canary


def test_a_canary_that_is_somebody_else_is_refused():
    request = pb.StartRolloutRequest(
        agent_name="reader",
        to_version="2.0.0",
        canary=agent_pb2.AgentSpec(name="writer", version="2.0.1"),
    )
    assert refused(lambda: order_from_proto(request)) == ["canary.name", "canary.version"]


def test_wrong_fields_of_a_canary_are_named_as_they_were_written():
    request = pb.StartRolloutRequest(
        agent_name="reader",
        to_version="two",
        canary=agent_pb2.AgentSpec(tools=["a", "a"]),
    )
    assert refused(lambda: order_from_proto(request)) == ["to_version", "canary.tools[1]"]


def test_an_unspecified_phase_means_any():
    assert phases_from_proto([pb.ROLLOUT_PHASE_UNSPECIFIED]) == frozenset(Phase)
    assert phases_from_proto([]) == frozenset()
    assert refused(lambda: phases_from_proto([pb.ROLLOUT_PHASE_PAUSED, 99])) == ["phases[1]"]


ROLLOUT = Rollout(
    rollout_id="rol-1",
    name="reader",
    from_version="1.0.0",
    to_version="2.0.0",
    from_agent_id="agt-1",
    to_agent_id="agt-2",
    phase=Phase.PAUSED,
    phase_since_ms=5_000,
    started_at_ms=1_000,
    weight_bp=1_000,
    canary=Counts(total=10, failed=2),
    llr=1.25,
    frozen=Frozen(p0=0.01, p1=0.05, accept_at=-3.0, reject_at=4.5, baseline=Counts(total=500)),
    pause=Pause(reason=PauseReason.OPERATOR, since_ms=5_000, by="ada", message="lunch"),
    measurements=(
        Measurement(
            at_ms=4_000,
            step_index=0,
            weight_bp=1_000,
            canary=Counts(total=10, failed=2),
            stable=Counts(total=90),
            llr=1.25,
            verdict=Verdict.CONTINUE,
        ),
    ),
    revision=9,
)


def test_a_rollout_is_rendered_with_all_that_is_known():
    message = rollout_to_proto(ROLLOUT, "tenant")
    assert (message.rollout_id, message.namespace, message.agent_name) == (
        "rol-1",
        "tenant",
        "reader",
    )
    assert message.phase == pb.ROLLOUT_PHASE_PAUSED
    assert message.plan == plan_to_proto(Plan())
    assert message.pause.reason == pb.ROLLOUT_PAUSE_REASON_OPERATOR
    assert message.hypotheses.baseline.total == 500
    assert (message.canary.total, message.canary.failed, message.llr) == (10, 2, 1.25)
    assert message.measurements[0].verdict == pb.ROLLOUT_VERDICT_CONTINUE
    assert not message.HasField("ended_at")
    assert not message.HasField("traffic_since")


def test_lists_leave_out_the_measurements():
    assert not rollout_to_proto(ROLLOUT, "tenant", with_measurements=False).measurements


@pytest.mark.parametrize("reason", PauseReason)
def test_every_reason_of_a_pause_has_a_word_on_the_wire(reason: PauseReason):
    paused = Rollout(
        rollout_id="r",
        name="n",
        from_version="1.0.0",
        to_version="2.0.0",
        from_agent_id="a",
        pause=Pause(reason=reason, since_ms=1),
    )
    name = pb.RolloutPauseReason.Name(rollout_to_proto(paused, "t").pause.reason)
    assert name == f"ROLLOUT_PAUSE_REASON_{reason.value or 'UNSPECIFIED'}"


def test_what_a_watcher_is_told():
    assert watched_to_proto(ROLLOUT, "tenant").rollout.rollout_id == "rol-1"
    assert watched_to_proto(Position("e", 4), "tenant").bookmark.revision == 4
