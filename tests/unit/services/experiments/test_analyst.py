"""The watch over experiments: it looks when something moved, says what is new, does what it may."""

from dataclasses import replace
from typing import Any

import pytest

from controlplane.domain.configs import LayerKind
from controlplane.domain.errors import StoreUnavailable
from controlplane.domain.experiments.dealing import own_variant
from controlplane.domain.experiments.model import (
    Automation,
    Experiment,
    ExperimentState,
    Metric,
    Plan,
    Subject,
    SubjectKind,
    Variant,
    Verdict,
)
from controlplane.domain.experiments.recording import Came, Seen
from controlplane.domain.prompts.refusals import GateBlocked
from controlplane.services.experiments.analyst import Analyst
from controlplane.services.experiments.experiments import Experiments
from controlplane.services.experiments.recorder import Entry, Recorder
from controlplane.services.experiments.subjects import Subjects, layer_of
from controlplane.services.ports import Collection
from controlplane.storage.memory.ledger import MemoryLedger
from controlplane.tasks.experiment_watcher import ExperimentWatcher
from tests.fakes.plane import CALLER, NS, Plane

DAY_S = 86_400.0
WARMTH = Experiment(
    key="warmth",
    subject=Subject(kind=SubjectKind.CONFIG, name="temperature"),
    plan=Plan(primary=Metric(name="solved"), max_ms=2 * 86_400_000),
    variants=(
        Variant(name="cold", weight_bp=5_000, control=True, config_value=0.2),
        Variant(name="warm", weight_bp=5_000, config_value=0.9),
    ),
)


class NoPrompts:
    """There are none."""

    async def promote(self, *_: Any, **__: Any) -> None:
        raise AssertionError("there are no prompts here")


class Counting(MemoryLedger):
    """Counts what is read, and may be away."""

    def __init__(self, inner: MemoryLedger) -> None:
        super().__init__(inner._store)
        self.counters: list[int] = []
        self.is_away = False

    async def read_counts(self, namespace, counters):
        if self.is_away:
            raise StoreUnavailable("away")
        self.counters.append(len(counters))
        return await super().read_counts(namespace, counters)


class Replica:
    """One replica that watches experiments."""

    def __init__(self, beside: "Replica | None" = None) -> None:
        other: Plane | None = beside.plane if beside is not None else None
        self.plane: Plane = Plane(Counting, beside=other)
        plane = self.plane
        self.ledger: Any = plane.ledger
        self.subjects = Subjects(plane.configs, NoPrompts())
        self.experiments = Experiments(plane.ledger, plane.read_model, plane.clock, self.subjects)
        self.analyst = Analyst(plane.ledger, plane.read_model, plane.clock, self.experiments)
        self.recorder = Recorder(plane.ledger, plane.clock)

    async def begin(self, **plan: Any) -> None:
        await self.plane.follow()
        planned = replace(WARMTH, plan=replace(WARMTH.plan, **plan))
        await self.experiments.create(NS, planned, request=None, caller=CALLER)
        await self.plane.follow()
        await self.experiments.start(NS, "warmth", reason="", request=None, caller=CALLER)
        await self.plane.follow()

    async def play(self, good: str, count: int = 400) -> None:
        """Let all units of one variant succeed, and all others fail."""
        phase = (await self.stored()).phases[-1]
        exposures, outcomes = [], []
        for i in range(count):
            variant = own_variant("warmth", phase, f"s-{i}")
            assert variant is not None
            seen = Seen(unit=f"s-{i}", variant=variant.name, digest=variant.digest)
            exposures.append(Entry(report=seen))
            value = float(variant.name == good)
            outcomes.append(Entry(report=Came(unit=f"s-{i}", metric="solved", value=value)))
        for entries in (exposures, outcomes):
            await self.recorder.record(NS, "warmth", entries, caller=CALLER)

    async def stored(self) -> Experiment:
        (record,) = await self.ledger.read(NS, Collection.EXPERIMENTS, ("warmth",))
        found: Experiment = record.value
        return found

    async def look(self) -> int:
        await self.plane.follow()
        changed = await self.analyst.round(NS)
        await self.plane.follow()
        return changed

    async def events(self) -> list[str]:
        return [entry.event for _, _, entry in await self.ledger.read_audit(NS)]


async def test_it_looks_closely_only_when_something_was_recorded():
    replica = Replica()
    await replica.begin()
    assert await replica.look() == 1  # CONTINUE, for the first time
    assert await replica.look() == 0  # its own commit has changed the record
    replica.ledger.counters.clear()
    for _ in range(3):
        assert await replica.look() == 0
    assert replica.ledger.counters == [1, 1, 1]
    await replica.play("warm")
    assert await replica.look() == 1
    conclusion = (await replica.stored()).conclusion
    assert conclusion is not None
    assert (conclusion.verdict, conclusion.winner) == (Verdict.SHIP, "warm")
    assert (await replica.stored()).state is ExperimentState.RUNNING


async def test_two_replicas_conclude_once():
    first = Replica()
    await first.begin()
    second = Replica(first)
    await second.plane.follow()
    await first.play("warm")
    await first.plane.follow()
    changed = [await one.analyst.round(NS) for one in (first, second)]
    assert sum(changed) == 1
    assert (await first.events()).count("experiment.concluded") == 1
    assert await second.look() == 0


@pytest.mark.parametrize(
    ("good", "allowed", "promoted"),
    [
        ("warm", Automation(promote=True), "warm"),
        ("cold", Automation(stop=True), ""),
    ],
)
async def test_what_it_may_do_it_does_and_the_audit_says_so(good, allowed, promoted):
    replica = Replica()
    await replica.begin(automation=allowed)
    await replica.play(good)
    await replica.look()
    ended = await replica.stored()
    assert (ended.state, ended.promoted) == (ExperimentState.STOPPED, promoted)
    assert ended.stopped_by == "fleetplane"
    assert (await replica.events())[-1] == "experiment.stopped"
    (held,) = await replica.ledger.read(NS, Collection.ACTIVE_EXPERIMENTS, ("CONFIG/temperature",))
    assert held is None


@pytest.mark.parametrize(
    ("good", "allowed"), [("warm", Automation(stop=True)), ("cold", Automation(promote=True))]
)
async def test_what_it_may_not_do_it_only_says(good, allowed):
    replica = Replica()
    await replica.begin(automation=allowed)
    await replica.play(good)
    await replica.look()
    assert (await replica.stored()).state is ExperimentState.RUNNING


async def test_a_promotion_that_is_refused_leaves_it_running_and_is_tried_again(monkeypatch):
    replica = Replica()
    await replica.begin(automation=Automation(promote=True))
    await replica.play("warm")
    promote = replica.subjects.promote
    tried = 0

    async def refuse(*_: Any, **__: Any) -> None:
        nonlocal tried
        tried += 1
        raise GateBlocked("x", "production", "INSUFFICIENT", "no evaluation")

    monkeypatch.setattr(Subjects, "promote", refuse)
    for _ in range(3):
        await replica.look()
    assert tried == 3
    assert (await replica.stored()).state is ExperimentState.RUNNING
    monkeypatch.setattr(Subjects, "promote", lambda _, *a, **k: promote(*a, **k))
    await replica.look()
    assert (await replica.stored()).promoted == "warm"


async def test_a_stop_that_died_after_its_promotion_is_finished_by_the_next():
    replica = Replica()
    await replica.begin()
    running = await replica.stored()
    warm = running.phases[0].variants[1]
    await replica.subjects.promote(NS, running, warm, reason="", caller=CALLER)
    await replica.plane.follow()
    ended = await replica.experiments.stop(NS, "warmth", promote="warm", caller=CALLER)
    assert ended.promoted == "warm"
    assert [event for event in await replica.events() if event.startswith("config")] == [
        "config.updated"
    ]


async def test_time_that_is_up_keeps_the_control_though_nothing_was_recorded():
    replica = Replica()
    await replica.begin(automation=Automation(stop=True))
    await replica.look()
    await replica.plane.clock.advance(2 * DAY_S)
    await replica.look()
    ended = await replica.stored()
    assert ended.state is ExperimentState.STOPPED
    assert ended.conclusion is not None
    assert ended.conclusion.verdict is Verdict.KEEP_CONTROL


async def test_the_loop_outlives_a_store_that_is_away():
    replica = Replica()
    await replica.begin()
    watcher = ExperimentWatcher(replica.analyst, replica.plane.read_model, replica.plane.clock)
    replica.ledger.is_away = True
    await watcher.round()
    assert (watcher.failures, watcher.conclusions) == (1, 0)
    replica.ledger.is_away = False
    await watcher.round()
    assert watcher.conclusions == 1


def test_a_value_is_promoted_for_the_one_agent_name_that_it_was_tried_on():
    assert layer_of(WARMTH).kind is LayerKind.NAMESPACE
    for agents in (("writer", "reader"), ("writ*",)):
        assert layer_of(replace(WARMTH, agents=agents)).kind is LayerKind.NAMESPACE
    assert layer_of(replace(WARMTH, agents=("writer",))).target == "writer"
