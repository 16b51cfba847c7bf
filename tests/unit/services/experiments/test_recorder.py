"""Recording: once per unit, exact whoever repeats, interferes or takes back."""

import asyncio
import random
from typing import Any

import pytest

from controlplane.domain.access.refusals import ForeignAgent
from controlplane.domain.errors import InvalidArgument, InvalidTransition
from controlplane.domain.experiments.counters import Counters, PhaseCounts
from controlplane.domain.experiments.dealing import own_variant
from controlplane.domain.experiments.model import (
    FIXED_ONE,
    Direction,
    Exclusion,
    Experiment,
    ExperimentState,
    Metric,
    MetricKind,
    Phase,
    Plan,
    Subject,
    SubjectKind,
    Variant,
    unit_key,
    units_history,
)
from controlplane.domain.experiments.recording import Came, Recorded, Seen
from controlplane.domain.experiments.refusals import ExperimentNotFound, NotExposed
from controlplane.domain.identity import AgentIdentity, Caller
from controlplane.services.experiments.erasure import erase
from controlplane.services.experiments.recorder import Entry, Recorder, Result
from controlplane.services.experiments.store import audit_of, counts_of
from controlplane.services.ports import AuditEntry, Collection, Put, Transaction
from controlplane.services.store_clock import StoreClock
from controlplane.storage.memory.ledger import MemoryLedger
from controlplane.storage.memory.store import MemoryStore

NS, KEY = "default", "greeting"
ANN = Caller(name="ann")
VARIANTS = (
    Variant(name="a", weight_bp=5_000, control=True, prompt_version=1, digest="sha-a"),
    Variant(name="b", weight_bp=5_000, prompt_version=2, digest="sha-b"),
)
SOLVED = Metric(name="solved")
COST = Metric(name="cost", kind=MetricKind.NUMERIC, low=0.0, high=2.0, direction=Direction.LOWER)


def numbered(number: int, **fields) -> Phase:
    stated: dict[str, Any] = {
        "number": number,
        "variants": VARIANTS,
        "coverage_bp": 10_000,
        "started_at_ms": 1,
    }
    return Phase(**(stated | fields))


def experiment(**fields) -> Experiment:
    stated: dict[str, Any] = {
        "key": KEY,
        "subject": Subject(kind=SubjectKind.PROMPT, name=KEY),
        "plan": Plan(primary=SOLVED, guardrails=(COST,)),
        "variants": VARIANTS,
        "state": ExperimentState.RUNNING,
        "phases": (numbered(1),),
    }
    return Experiment(**(stated | fields))


class World:
    """A ledger with one experiment, and what records into it."""

    def __init__(self) -> None:
        self.ledger = MemoryLedger(MemoryStore(StoreClock()))
        self.recorder = Recorder(self.ledger, StoreClock())

    async def put(self, planned: Experiment) -> None:
        await self.ledger.commit(
            Transaction(
                namespace=NS,
                steps=(Put(Collection.EXPERIMENTS, KEY, planned),),
                audit=AuditEntry(actor="test", method="test", object="test"),
            )
        )
        self.planned = planned

    async def record(self, *reports, phase: int = 0, caller: Caller = ANN):
        entries = [Entry(report=report, phase=phase) for report in reports]
        return await self.recorder.record(NS, KEY, entries, caller=caller)

    async def counts(self, number: int = 1) -> PhaseCounts:
        phase = self.planned.phases[number - 1]
        return await counts_of(self.ledger, NS, self.planned, phase)

    async def said(self, *reports, phase: int = 0) -> list[Recorded]:
        results = await self.record(*reports, phase=phase)
        assert all(isinstance(one, Result) for one in results), results
        return [one.recorded for one in results]


@pytest.fixture
async def world() -> World:
    made = World()
    await made.put(experiment())
    return made


def own(unit: str, number: int = 1) -> Variant:
    found = own_variant(KEY, numbered(number), unit)
    assert found is not None
    return found


def seen(unit: str, number: int = 1, **fields) -> Seen:
    variant = own(unit, number)
    return Seen(**({"unit": unit, "variant": variant.name, "digest": variant.digest} | fields))


def other(unit: str) -> Seen:
    variant = next(one for one in VARIANTS if one is not own(unit))
    return Seen(unit=unit, variant=variant.name, digest=variant.digest)


async def test_a_unit_counts_once_however_often_it_is_reported(world):
    assert await world.said(seen("s-1")) == [Recorded.RECORDED]
    assert await world.said(seen("s-1"), seen("s-1")) == [Recorded.DUPLICATE] * 2
    assert (await world.counts()).exposed == 1
    before = (await world.ledger.commit(_nothing())).revision
    await world.said(seen("s-1"))
    assert (await world.ledger.commit(_nothing())).revision == before + 1  # nothing was written


def _nothing() -> Transaction:
    audit = AuditEntry(actor="test", method="test", object="test")
    return Transaction(namespace=NS, steps=(), audit=audit)


async def test_the_same_unit_twice_in_one_batch_counts_once(world):
    assert await world.said(seen("s-1"), seen("s-1")) == [Recorded.RECORDED, Recorded.DUPLICATE]
    assert (await world.counts()).exposed == 1


async def test_an_outcome_counts_once_unless_it_is_replaced(world):
    await world.said(seen("s-1"))
    first = Came(unit="s-1", metric="cost", value=0.5)
    second = Came(unit="s-1", metric="cost", value=1.0)
    assert await world.said(first, second) == [Recorded.RECORDED, Recorded.DUPLICATE]
    arm = _arm(await world.counts(), own("s-1").name)
    assert (arm.metrics["cost"].count, arm.metrics["cost"].total) == (1, FIXED_ONE // 4)
    again = Came(unit="s-1", metric="cost", value=1.0, replace=True)
    assert await world.said(again) == [Recorded.RECORDED]
    assert await world.said(again) == [Recorded.DUPLICATE]
    sums = _arm(await world.counts(), own("s-1").name).metrics["cost"]
    assert (sums.count, sums.total, sums.squares) == (1, FIXED_ONE // 2, (FIXED_ONE // 2) ** 2)


def _arm(counts: PhaseCounts, variant: str):
    return next(arm for arm in counts.arms if arm.variant == variant)


async def test_values_beyond_the_range_count_as_its_bound_and_are_told_of(world):
    await world.said(seen("s-1"))
    await world.said(Came(unit="s-1", metric="cost", value=7.0))
    sums = _arm(await world.counts(), own("s-1").name).metrics["cost"]
    assert (sums.mean, sums.clamped) == (1.0, 1)


async def test_only_exposed_units_have_outcomes(world):
    results = await world.record(seen("s-1"))
    results = await world.record(
        Came(unit="s-1", metric="solved", value=1), Came(unit="s-2", metric="solved", value=1)
    )
    assert results[0].recorded is Recorded.RECORDED
    assert isinstance(results[1], NotExposed)


async def test_a_unit_that_sees_two_variants_is_taken_out_with_what_came_of_it(world):
    await world.said(seen("s-1"), seen("s-2"))
    await world.said(*(Came(unit=u, metric="solved", value=1) for u in ("s-1", "s-2")))
    (result,) = await world.record(other("s-1"))
    assert (result.recorded, result.exclusion) == (Recorded.EXCLUDED, Exclusion.OTHER_VARIANT)
    counts = await world.counts()
    assert (counts.exposed, counts.conflicting) == (1, 1)
    assert sum(arm.metrics["solved"].count for arm in counts.arms) == 1
    late = Came(unit="s-1", metric="cost", value=1)
    assert await world.said(late, seen("s-1")) == [Recorded.EXCLUDED] * 2
    assert (await world.counts()) == counts


async def test_a_unit_that_was_served_other_content_is_excluded(world):
    (result,) = await world.record(seen("s-1", digest="sha-of-yesterday"))
    assert (result.recorded, result.exclusion) == (Recorded.EXCLUDED, Exclusion.OTHER_DIGEST)
    counts = await world.counts()
    assert (counts.exposed, counts.conflicting) == (0, 1)
    assert counts.clashes[Exclusion.OTHER_DIGEST] == 1


async def test_a_unit_beyond_the_coverage_has_no_variant_of_its_own(world):
    await world.put(experiment(phases=(numbered(1, coverage_bp=0),)))
    (result,) = await world.record(seen("s-1"))
    assert result.exclusion is Exclusion.OTHER_VARIANT


async def test_another_phase_counts_from_nothing_and_may_leave_out_who_was_exposed(world):
    await world.said(seen("s-1"))
    phases = (numbered(1), numbered(2, exclude_exposed=True))
    await world.put(experiment(phases=phases))
    assert await world.said(seen("s-9"), phase=1) == [Recorded.IGNORED]
    results = await world.record(seen("s-1", 2), seen("s-2", 2))
    assert [one.exclusion for one in results] == [Exclusion.EARLIER_PHASE, Exclusion.NONE]
    counts = await world.counts(2)
    assert (counts.exposed, counts.earlier, counts.conflicting) == (1, 1, 0)
    assert (await world.counts(1)).exposed == 1


async def test_a_full_phase_takes_no_more_units(world):
    await world.put(experiment(plan=Plan(primary=SOLVED, max_units=10)))
    said = await world.said(*(seen(f"s-{i}") for i in range(12)))
    assert said == [Recorded.RECORDED] * 10 + [Recorded.IGNORED] * 2
    assert await world.said(seen("s-0"), seen("s-11")) == [Recorded.DUPLICATE, Recorded.IGNORED]


async def test_what_is_wrong_with_one_report_does_not_hold_up_the_others(world):
    await world.said(seen("s-1"))
    results = await world.record(
        Came(unit="s-1", metric="solved", value=0.5),
        Came(unit="s-1", metric="cost", value=float("nan")),
        Came(unit="s-1", metric="unknown", value=1),
        Came(unit="", metric="solved", value=1),
        Came(unit="s-1", metric="solved", value=1),
    )
    assert [isinstance(one, InvalidArgument) for one in results] == [True] * 4 + [False]
    assert sum(arm.metrics["solved"].count for arm in (await world.counts()).arms) == 1
    wrong = await world.record(
        seen("s-3", digest=""), seen("s-3", variant="z"), seen("s-3"), phase=0
    )
    assert [isinstance(one, Result) for one in wrong] == [False, False, True]


async def test_a_phase_that_is_not_there_yet_is_refused(world):
    (result,) = await world.record(seen("s-1"), phase=2)
    assert isinstance(result, InvalidArgument)


async def test_a_stopped_experiment_takes_outcomes_and_no_exposures(world):
    await world.said(seen("s-1"))
    await world.put(experiment(state=ExperimentState.STOPPED))
    assert await world.said(Came(unit="s-1", metric="solved", value=1)) == [Recorded.RECORDED]
    with pytest.raises(InvalidTransition):
        await world.record(seen("s-2"))
    await world.put(experiment(state=ExperimentState.DRAFT, phases=()))
    with pytest.raises(InvalidTransition):
        await world.record(Came(unit="s-1", metric="solved", value=1))


async def test_an_unknown_experiment_and_empty_or_large_batches_are_refused(world):
    with pytest.raises(ExperimentNotFound):
        await world.recorder.record(NS, "other", [Entry(report=seen("s-1"))], caller=ANN)
    for count in (0, 501):
        with pytest.raises(InvalidArgument):
            await world.record(*[seen("s-1")] * count)


async def test_an_agent_speaks_only_of_units_that_it_has_exposed(world):
    mine, third = (
        Caller(name=name, agent=AgentIdentity(namespace=NS, agent_name=name))
        for name in ("mine", "third")
    )
    await world.record(seen("s-1", agent_name="mine"), caller=mine)
    outcome = Came(unit="s-1", metric="solved", value=1)
    assert isinstance((await world.record(outcome, caller=third))[0], ForeignAgent)
    assert (await world.record(outcome, caller=mine))[0].recorded is Recorded.RECORDED
    await world.record(seen("s-1", agent_name="third"), caller=third)
    later = Came(unit="s-1", metric="cost", value=1)
    assert (await world.record(later, caller=third))[0].recorded is Recorded.RECORDED


async def test_an_agent_that_it_is_not_for_exposes_nobody(world):
    await world.put(experiment(agents=("mine",)))
    stranger = Caller(name="x", agent=AgentIdentity(namespace=NS, agent_name="third"))
    results = await world.record(seen("s-1", agent_name="third"), caller=stranger)
    assert isinstance(results[0], ForeignAgent)


class Yielding(MemoryLedger):
    """Gives way at every call, so that callers interleave."""

    async def read(self, *args):
        await asyncio.sleep(0)
        return await super().read(*args)

    async def commit(self, transaction):
        await asyncio.sleep(0)
        return await super().commit(transaction)


async def test_counters_are_what_the_records_say_after_any_mixture_of_writers(world):
    """Two replicas, overlapping batches, repeated and contradicting reports, in any order."""
    generator = random.Random(7)
    store = MemoryStore(StoreClock())
    world.ledger = MemoryLedger(store)
    await world.put(experiment())
    replicas = [Recorder(Yielding(store), StoreClock()) for _ in range(2)]
    units = [f"s-{i}" for i in range(30)]

    def report():
        unit = generator.choice(units)
        match generator.randrange(6):
            case 0:
                return other(unit)
            case 1 | 2:
                return seen(unit)
            case _:
                metric = generator.choice(("solved", "cost"))
                value, again = generator.randrange(2), generator.random() < 0.5
                return Came(unit=unit, metric=metric, value=value, replace=again)

    async def write(recorder: Recorder) -> None:
        for _ in range(12):
            reports = [report() for _ in range(5)]
            exposures = [Entry(report=one) for one in reports if isinstance(one, Seen)]
            outcomes = [Entry(report=one) for one in reports if isinstance(one, Came)]
            for batch in (exposures, outcomes):
                if batch:
                    await recorder.record(NS, KEY, batch, caller=ANN)

    await asyncio.gather(*(write(replicas[i % 2]) for i in range(4)))
    keys = [unit_key(KEY, 1, unit) for unit in units]
    records = [one.value for one in await world.ledger.read(NS, Collection.EXPOSURES, keys) if one]
    counts = await world.counts()
    assert counts.conflicting == sum(bool(one.excluded) for one in records) > 0
    for arm in counts.arms:
        mine = [one for one in records if one.variant == arm.variant and not one.excluded]
        assert arm.exposed == len(mine)
        for name, sums in arm.metrics.items():
            values = [found.value for one in mine if (found := one.outcome(name))]
            assert (sums.count, sums.total) == (len(values), sum(values))
            assert sums.squares == sum(value * value for value in values)


async def test_all_that_was_recorded_can_be_removed(world):
    for start in range(0, 60, 20):
        await world.said(*(seen(f"s-{i}") for i in range(start, start + 20)))
    await world.said(*(Came(unit=f"s-{i}", metric="solved", value=1) for i in range(60)))
    audit = audit_of(KEY, method="test", event="deleted", actor="test")
    await erase(world.ledger, NS, world.planned, audit)
    keys = [unit_key(KEY, 1, f"s-{i}") for i in range(60)]
    assert not any(await world.ledger.read(NS, Collection.EXPOSURES, keys))
    assert not await world.ledger.read_history(NS, units_history(KEY))
    names = [*Counters(KEY, 1).names(world.planned, world.planned.phases[0])]
    assert not any(await world.ledger.read_counts(NS, [*names, Counters(KEY, 1).moves]))
