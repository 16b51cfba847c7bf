"""Experiments in the process of an agent: the same variants as the daemon's, bounded reports."""

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.domain.experiments.dealing import deal
from controlplane.domain.experiments.model import (
    Experiment,
    ExperimentState,
    Metric,
    Phase,
    Plan,
    Subject,
    SubjectKind,
    UnitKind,
    Variant,
)
from fleetplane import AssignmentReason, InvalidArgument, Unavailable
from fleetplane._dealing import Dealer, DealtVariant, bucket
from fleetplane._exceptions import FleetError
from fleetplane._experiment_side import LocalExperiments
from fleetplane._reports import BATCH, MOST_WAITING, Reports
from fleetplane.v1 import experiment_service_pb2 as pb


def test_buckets_are_those_of_the_contract() -> None:
    assert bucket("exp:greeting:1", "ünïcode-✓") == 3389
    assert bucket("", "session-1") == 5508
    assert bucket("exp:greeting:1", "") == 8346


@given(
    unit=st.text(max_size=20),
    agent_name=st.sampled_from(["", "writer"]),
    coverage=st.integers(0, 10_000),
    cut=st.integers(1, 9_999),
    phase=st.integers(1, 50),
    by_agent=st.booleans(),
)
def test_an_agent_deals_what_the_daemon_deals(
    unit: str, agent_name: str, coverage: int, cut: int, phase: int, *, by_agent: bool
) -> None:
    variants = (
        Variant(name="a", weight_bp=cut, control=True, prompt_version=1, digest="x"),
        Variant(name="b", weight_bp=10_000 - cut, prompt_version=2, digest="y"),
    )
    experiment = Experiment(
        key="greeting",
        subject=Subject(kind=SubjectKind.PROMPT, name="greeting"),
        plan=Plan(primary=Metric(name="solved")),
        variants=variants,
        unit=UnitKind.AGENT if by_agent else UnitKind.SESSION,
        state=ExperimentState.RUNNING,
        phases=tuple(
            Phase(number=n, variants=variants, coverage_bp=coverage, started_at_ms=0)
            for n in (phase,)
        ),
    )
    dealt = pb.DealtExperiment(
        key="greeting",
        subject=pb.ExperimentSubject(prompt="greeting"),
        unit=pb.EXPERIMENT_UNIT_AGENT if by_agent else pb.EXPERIMENT_UNIT_SESSION,
        phase=phase,
        coverage_bp=coverage,
        variants=[
            pb.Variant(
                name=one.name,
                weight_bp=one.weight_bp,
                control=one.control,
                prompt_version=one.prompt_version,
                digest=one.digest,
            )
            for one in variants
        ],
    )
    there = deal(experiment, agent_name=agent_name, unit=unit)
    here = Dealer(dealt, agent_name).deal(unit)
    assert here.reason.name == there.reason.name
    assert here.variant == (there.variant.name if there.variant else "")
    assert (here.unit, here.phase) == (there.unit, there.phase)


class Plane:
    """Takes reports, or refuses them."""

    def __init__(self) -> None:
        self.experiments = self
        self.call = self
        self.taken: list[Any] = []
        self.calls: list[int] = []
        self.refusal: FleetError | None = None

    BatchRecordExposures = "exposures"
    BatchRecordOutcomes = "outcomes"
    metadata = ()

    async def __call__(self, method: str, request: Any) -> Any:
        if self.refusal is not None:
            raise self.refusal
        reports: Sequence[Any] = getattr(request, method)
        self.taken += reports
        self.calls.append(len(reports))
        result = pb.RecordingResult(state=pb.RECORDING_STATE_RECORDED)
        return pb.BatchRecordExposuresResponse(results=[result] * len(reports))


def reports(plane: Plane) -> Reports:
    return Reports(plane, "default", "writer")  # type: ignore[arg-type]  # a fake


async def test_reports_travel_in_order_and_in_batches() -> None:
    plane = Plane()
    waiting = reports(plane)
    for i in range(BATCH + 1):
        waiting.add("e", pb.Exposure(unit=f"s-{i}"))
    waiting.add("e", pb.Outcome(unit="s-0"))
    waiting.add("other", pb.Outcome(unit="s-1"))
    waiting.add("e", pb.Exposure(unit="last"))
    await waiting.send()
    assert plane.calls == [BATCH, 1, 1, 1, 1]
    assert [one.unit for one in plane.taken][-3:] == ["s-0", "s-1", "last"]
    assert (waiting.waiting, waiting.dropped) == (0, 0)


async def test_what_nobody_takes_waits_in_its_place_and_what_is_refused_is_dropped() -> None:
    plane = Plane()
    waiting = reports(plane)
    for unit in ("first", "second"):
        waiting.add("e", pb.Exposure(unit=unit))
    plane.refusal = Unavailable("away")
    with pytest.raises(Unavailable):
        await waiting.send()
    waiting.add("e", pb.Exposure(unit="third"))
    plane.refusal = None
    await waiting.send()
    assert [one.unit for one in plane.taken] == ["first", "second", "third"]
    waiting.add("e", pb.Exposure(unit="wrong"))
    plane.refusal = InvalidArgument("no such experiment")
    await waiting.send()
    assert (waiting.waiting, waiting.dropped) == (0, 1)


async def test_memory_is_bounded_and_the_newest_reports_stay() -> None:
    plane = Plane()
    waiting = reports(plane)
    for i in range(MOST_WAITING + 10):
        waiting.add("e", pb.Exposure(unit=f"s-{i}"))
    assert (waiting.waiting, waiting.dropped) == (MOST_WAITING, 10)
    plane.refusal = Unavailable("away")
    with pytest.raises(Unavailable):
        await waiting.send()
    assert (waiting.waiting, waiting.dropped) == (MOST_WAITING, 10)


def dealt_variant(**fields: Any) -> DealtVariant:
    stated: dict[str, Any] = {
        "experiment": "e",
        "phase": 1,
        "unit": "s-1",
        "variant": "a",
        "digest": "d",
    }
    stated["reason"] = AssignmentReason.IN_EXPERIMENT
    return DealtVariant(**(stated | fields))


async def test_an_exposure_is_sent_once_and_only_by_who_takes_part() -> None:
    plane = Plane()
    local = LocalExperiments(plane, "default", "writer")  # type: ignore[arg-type]  # a fake
    for _ in range(3):
        local.expose(dealt_variant())
    outside = dealt_variant(reason=AssignmentReason.NOT_COVERED)
    local.expose(outside)
    local.outcome(outside, "solved", 1)
    with pytest.raises(ValueError, match="digest"):
        local.expose(dealt_variant(prompt_version=2))
    local.expose(dealt_variant(prompt_version=2), digest="sent")
    local.outcome(dealt_variant(), "solved", value=True)
    await local.flush()
    assert [type(one).__name__ for one in plane.taken] == ["Exposure", "Exposure", "Outcome"]
    assert [one.digest for one in plane.taken[:2]] == ["d", "sent"]
    assert plane.taken[2].value == 1.0


async def test_without_an_experiment_the_configured_value_is_used() -> None:
    local = LocalExperiments(Plane(), "default", "writer")  # type: ignore[arg-type]  # a fake
    assert local.config_value("temperature", 0.7, unit="s-1") == 0.7
    assert local.assign(prompt="x", unit="s-1").reason is AssignmentReason.NOT_RUNNING
