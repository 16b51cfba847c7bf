"""What happens between a look and a commit: phases that end, experiments that go, others' units."""

from dataclasses import replace
from typing import Any

import pytest

from controlplane.domain.access.refusals import ForeignAgent
from controlplane.domain.errors import InvalidTransition, RevisionConflict
from controlplane.domain.experiments.counters import Counters
from controlplane.domain.experiments.dealing import own_variant
from controlplane.domain.experiments.model import (
    Automation,
    Experiment,
    ExperimentState,
    Metric,
    Plan,
    Subject,
    SubjectKind,
    UnitKind,
    Variant,
    unit_key,
)
from controlplane.domain.experiments.recording import Came, Recorded, Seen
from controlplane.domain.experiments.refusals import ExperimentNotFound
from controlplane.domain.identity import AgentIdentity, Caller
from controlplane.services.experiments.analyst import Analyst
from controlplane.services.experiments.experiments import Experiments, PhaseOrder
from controlplane.services.experiments.prompt_uses import PromptUses
from controlplane.services.experiments.recorder import Entry, Recorder, Result
from controlplane.services.experiments.subjects import Subjects
from controlplane.services.ports import AuditEntry, Collection, Put, Transaction
from controlplane.services.prompts.ports import PromptUse
from controlplane.storage.memory.ledger import MemoryLedger
from tests.fakes.plane import CALLER, NS, Plane

KEY = "warmth"
WARMTH = Experiment(
    key=KEY,
    subject=Subject(kind=SubjectKind.CONFIG, name="temperature"),
    plan=Plan(primary=Metric(name="solved"), automation=Automation(promote=True)),
    variants=(
        Variant(name="cold", weight_bp=5_000, control=True, config_value=0.2),
        Variant(name="warm", weight_bp=5_000, config_value=0.9),
    ),
)
HOT = (WARMTH.variants[0], replace(WARMTH.variants[1], config_value=2.0))
WHY: dict[str, Any] = {"reason": "", "request": None, "caller": CALLER}


class Interrupted(MemoryLedger):
    """Lets something happen just before the next commit of one kind."""

    def __init__(self, inner: MemoryLedger) -> None:
        super().__init__(inner._store)
        self.before: dict[str, Any] = {}

    async def commit(self, transaction: Transaction) -> Any:
        happens = self.before.pop(transaction.audit.method, None)
        if happens is not None:
            await happens()
        return await super().commit(transaction)


class NoPrompts:
    """There are none."""

    async def promote(self, *_: Any, **__: Any) -> None:
        raise AssertionError("there are no prompts here")


class World:
    """One replica with a running experiment."""

    def __init__(self) -> None:
        self.plane = Plane(Interrupted)
        self.ledger: Any = self.plane.ledger
        subjects = Subjects(self.plane.configs, NoPrompts())
        clock, copy = self.plane.clock, self.plane.read_model
        self.experiments = Experiments(self.ledger, copy, clock, subjects)
        self.recorder = Recorder(self.ledger, clock)
        self.analyst = Analyst(self.ledger, copy, clock, self.experiments)

    async def begin(self, planned: Experiment = WARMTH) -> None:
        await self.plane.follow()
        await self.experiments.create(NS, planned, request=None, caller=CALLER)
        await self.plane.follow()
        await self.experiments.start(NS, KEY, **WHY)
        await self.plane.follow()

    async def stored(self) -> Experiment:
        return await self.experiments.get(NS, KEY)

    async def next_phase(self, *variants: Variant) -> None:
        await self.experiments.next_phase(
            NS, KEY, PhaseOrder(variants=variants), request=None, caller=CALLER
        )

    async def record(self, *reports: Seen | Came, caller: Caller = CALLER) -> list[Any]:
        return await self.recorder.record(
            NS, KEY, [Entry(report=one) for one in reports], caller=caller
        )

    async def seen(self, unit: str) -> Seen:
        variant = own_variant(KEY, (await self.stored()).phases[-1], unit)
        assert variant is not None
        return Seen(unit=unit, variant=variant.name, digest=variant.digest)

    async def let_warm_win(self) -> None:
        seen = [await self.seen(f"s-{i}") for i in range(400)]
        await self.record(*seen)
        came = [
            Came(unit=one.unit, metric="solved", value=float(one.variant == "warm")) for one in seen
        ]
        await self.record(*came)
        await self.plane.follow()

    async def counters(self) -> list[int]:
        experiment = await self.stored()
        names = list(Counters(KEY, 1).names(experiment, experiment.phases[0]))
        found: list[int] = await self.ledger.read_counts(NS, names)
        return found


@pytest.fixture
async def world() -> World:
    made = World()
    await made.begin()
    return made


async def test_a_winner_is_not_promoted_as_what_its_name_means_in_the_next_phase(world):
    await world.let_warm_win()

    async def another_phase() -> None:
        await world.next_phase(*HOT)

    # The look says SHIP for 0.9; before it is acted upon, `warm` becomes 2.0.
    world.ledger.before["AnalyzeExperiment"] = another_phase
    await world.analyst.round(NS)
    await world.plane.follow()
    now = await world.stored()
    assert now.state is ExperimentState.RUNNING
    assert [phase.number for phase in now.phases] == [1, 2]


async def test_a_phase_that_begins_during_a_promotion_is_not_ended_with_it(world):
    async def another_phase() -> None:
        await world.next_phase(*HOT)

    world.ledger.before["StopExperiment"] = another_phase
    with pytest.raises(RevisionConflict):
        await world.experiments.stop(NS, KEY, promote="warm", caller=CALLER)
    now = await world.ledger.read(NS, Collection.EXPERIMENTS, (KEY,))
    assert now[0].value.state is ExperimentState.RUNNING


async def test_a_report_that_is_late_leaves_nothing_behind_for_the_next_of_that_key(world):
    seen = await world.seen("s-1")

    async def gone() -> None:
        await world.experiments.stop(NS, KEY, caller=CALLER)
        assert await world.experiments.delete(NS, KEY, reason="", caller=CALLER)
        await world.plane.follow()
        await world.begin()

    world.ledger.before["RecordExposure"] = gone
    (result,) = await world.record(seen)
    assert result.recorded is Recorded.RECORDED  # of the new one, as the second round sees it
    assert sum(await world.counters()) == 1


async def test_a_report_that_is_late_does_not_outlive_its_experiment(world):
    seen = await world.seen("s-1")

    async def gone() -> None:
        await world.experiments.stop(NS, KEY, caller=CALLER)
        await world.experiments.delete(NS, KEY, reason="", caller=CALLER)

    world.ledger.before["RecordExposure"] = gone
    with pytest.raises(ExperimentNotFound):
        await world.record(seen)
    (record,) = await world.ledger.read(NS, Collection.EXPOSURES, (unit_key(KEY, 1, "s-1"),))
    assert record is None


async def test_a_draft_that_is_started_while_it_is_removed_loses_nothing():
    world = World()
    await world.plane.follow()
    await world.experiments.create(NS, WARMTH, request=None, caller=CALLER)
    await world.plane.follow()

    async def started() -> None:
        await world.experiments.start(NS, KEY, **WHY)
        await world.plane.follow()
        await world.record(await world.seen("s-1"))

    world.ledger.before["DeleteExperiment"] = started
    with pytest.raises(InvalidTransition):
        await world.experiments.delete(NS, KEY, reason="", caller=CALLER)
    assert sum(await world.counters()) == 1
    (record,) = await world.ledger.read(NS, Collection.EXPOSURES, (unit_key(KEY, 1, "s-1"),))
    assert record is not None


async def test_where_units_are_agents_none_speaks_for_another():
    world = World()
    await world.begin(replace(WARMTH, unit=UnitKind.AGENT))
    seen = await world.seen("writer")
    reader = Caller(name="reader", agent=AgentIdentity(namespace=NS, agent_name="reader"))
    (refused,) = await world.record(seen, caller=reader)
    assert isinstance(refused, ForeignAgent)
    writer = Caller(name="writer", agent=AgentIdentity(namespace=NS, agent_name="writer"))
    (taken,) = await world.record(seen, caller=writer)
    assert isinstance(taken, Result)


GREETING = replace(
    WARMTH,
    subject=Subject(kind=SubjectKind.PROMPT, name="greeting"),
    variants=(
        Variant(name="cold", weight_bp=5_000, control=True, prompt_version=1, digest="sha-1"),
        Variant(name="warm", weight_bp=5_000, prompt_version=2, digest="sha-2"),
    ),
    agents=("writer*",),
)


async def put(world: World, experiment: Experiment) -> None:
    await world.ledger.commit(
        Transaction(
            namespace=NS,
            steps=(Put(Collection.EXPERIMENTS, KEY, experiment),),
            audit=AuditEntry(actor="test", method="test", object="test"),
        )
    )


def use(seen: Seen, **fields: Any) -> PromptUse:
    stated: dict[str, Any] = {
        "prompt": "greeting",
        "version": 2,
        "content_sha256": seen.digest,
        "agent_name": "writer",
        "session_id": seen.unit,
        "experiment": KEY,
        "variant": seen.variant,
        "phase": 1,
    }
    return PromptUse(**(stated | fields))


async def test_the_use_of_another_prompt_or_by_another_agent_is_no_exposure(world):
    running = await world.stored()
    phase = replace(running.phases[0], variants=GREETING.variants)
    await put(world, replace(GREETING, state=ExperimentState.RUNNING, phases=(phase,)))
    await world.plane.follow()
    uses = PromptUses(world.ledger, world.recorder)
    seen = await world.seen("s-1")
    assert not await uses.exposed(NS, use(seen, prompt="farewell"))
    assert not await uses.exposed(NS, use(seen, agent_name="reader"))
    assert await uses.exposed(NS, use(seen))


async def test_what_a_session_keeps_of_an_earlier_phase_is_told_by_its_phase(world):
    running = await world.stored()
    first = replace(running.phases[0], variants=GREETING.variants)
    second = replace(first, number=2)
    both = replace(GREETING, state=ExperimentState.RUNNING, phases=(first, second))
    await put(world, both)
    await world.plane.follow()
    # A unit with the same variant in both: its hash does not tell which one it was resolved in.
    unit = next(
        f"s-{n}"
        for n in range(100)
        if own_variant(KEY, first, f"s-{n}") == own_variant(KEY, second, f"s-{n}")
    )
    seen = await world.seen(unit)
    uses = PromptUses(world.ledger, world.recorder)
    assert not await uses.exposed(NS, use(seen, phase=1))
    assert await uses.exposed(NS, use(seen, phase=2))
