"""Two reconcilers over one store, and one that dies at every transition: nothing is repeated."""

import asyncio
from dataclasses import replace

import pytest

from controlplane.domain.errors import StoreUnavailable
from controlplane.domain.rollouts.model import Phase, Plan, Rollout, Step
from controlplane.services.lifecycle.activation import ActivationVerdict
from tests.fakes.plane import NS
from tests.fakes.rollout_world import ADA, BRIEF, OLD, RolloutWorld

PLAN = replace(
    BRIEF,
    steps=(
        Step(weight_bp=1_000),
        Step(weight_bp=5_000, pause_after=True),
        Step(weight_bp=10_000),
    ),
    bake_ms=1_000,
)

GOOD = (
    "ACTIVATE_CANARY",
    "ENTER_STEP",
    "NOTE_TRAFFIC",
    "MEASURE",
    "PASS_STEP",
    "PAUSE",
    "PROMOTE",
    "START_DRAIN_OLD",
    "SUCCEED",
)
BAD = ("ABORT", "START_DRAIN_NEW", "ROLLED_BACK")
EARLY = ("HOLD", "FAIL")
APPROVAL = ("REQUEST_APPROVAL",)

Entries = list[str]


class Story:
    """Drives a rollout to its end by what it needs, whoever reconciles it."""

    def __init__(self, world: RolloutWorld, *, rate: float = 0.0, comes: bool = True) -> None:
        self.world = world
        self.rate = rate
        self.comes = comes
        self.fed: set[int] = set()
        self.came = False

    async def begin(self, plan: Plan = PLAN) -> None:
        await self.world.agent(OLD)
        await self.world.instance(f"agt-{OLD}")
        await self.world.start(plan)

    async def feed(self) -> None:
        """Do what agents, drains and operators would do now."""
        world, rollout = self.world, self.world.now()
        match rollout.phase:
            case Phase.PENDING if self.comes and rollout.message.startswith("waits for fresh"):
                if not self.came:
                    self.came = True
                    await world.arrive()
            case Phase.PROGRESSING if not rollout.entering:
                await self._outcomes(rollout)
            case Phase.PAUSED:
                await world.rollouts.resume(NS, rollout.rollout_id, reason="on", caller=ADA)
                await world.follow()
            case Phase.DRAINING_OLD:
                await self._finish(rollout.from_agent_id)
            case Phase.DRAINING_NEW:
                await self._finish(rollout.to_agent_id)
            case _:
                pass

    async def _outcomes(self, rollout: Rollout) -> None:
        if rollout.step_token in self.fed:
            if rollout.measurements and rollout.measurements[-1].canary.total == 10:
                await self.world.outcomes(new=(400, int(400 * self.rate)), old=(500, 2))
            return
        self.fed.add(rollout.step_token)
        await self.world.outcomes(new=(10, 0), old=(100, 1))

    async def _finish(self, agent_id: str) -> None:
        if self.world.view.agents[agent_id].agent.draining:
            await self.world.finish_drain(agent_id)


async def to_the_end(world: RolloutWorld, story: Story, tick) -> Rollout:
    for _ in range(300):
        if world.now().phase.is_terminal:
            return world.now()
        await story.feed()
        world.clock.shift(0.7)
        await tick()
        await world.follow()
    raise AssertionError(f"it never ended: {world.now()}")


async def entries_of(world: RolloutWorld) -> Entries:
    """Return what happened, without looks and messages, which may be more or fewer."""
    noise = {"rollout.measured", "rollout.held"}
    return [event for event in await world.events() if event not in noise]


async def told(*, rate: float = 0.0, comes: bool = True) -> tuple[Entries, Rollout]:
    """Return how the story goes when nothing goes wrong."""
    world = RolloutWorld()
    story = Story(world, rate=rate, comes=comes)
    await story.begin()
    ended = await to_the_end(world, story, lambda: world.reconciler.tick(NS))
    return await entries_of(world), ended


def outcome_of(rollout: Rollout) -> tuple[Phase, int, int, int]:
    return rollout.phase, rollout.step_index, rollout.step_token, rollout.weight_bp


class Killed(BaseException):
    """The process has ended here."""


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(
    ("name", "rate", "comes"),
    [
        *((name, 0.0, True) for name in GOOD),
        *((name, 0.9, True) for name in BAD),
        *((name, 0.0, False) for name in EARLY),
    ],
)
async def test_a_replica_that_dies_at_a_transition_changes_nothing_of_how_it_ends(
    name, rate, comes, when
):
    expected, ended = await told(rate=rate, comes=comes)
    world = RolloutWorld()
    story = Story(world, rate=rate, comes=comes)
    await story.begin()
    deaths = 0

    def die(_: str, call: str) -> None:
        nonlocal deaths
        if call == f"{when}:{name}" and deaths < 3:
            deaths += 1
            raise Killed

    world.reconciler._on_transition = die

    async def tick() -> None:
        try:
            await world.reconciler.tick(NS)
        except Killed:
            world.reconciler = world.new_reconciler()
            world.reconciler._on_transition = die

    again = await to_the_end(world, story, tick)
    assert deaths
    assert outcome_of(again) == outcome_of(ended)
    assert await entries_of(world) == expected


@pytest.mark.parametrize("happened", [False, True])
@pytest.mark.parametrize(
    ("name", "rate", "comes"),
    [
        *((name, 0.0, True) for name in GOOD),
        *((name, 0.9, True) for name in BAD),
        *((name, 0.0, False) for name in EARLY),
    ],
)
async def test_a_store_that_fails_at_a_transition_changes_nothing_of_how_it_ends(
    name, rate, comes, happened
):
    expected, ended = await told(rate=rate, comes=comes)
    world = RolloutWorld()
    story = Story(world, rate=rate, comes=comes)
    await story.begin()
    failures = 0

    def fail(_: str, call: str) -> None:
        nonlocal failures
        if call == f"before:{name}" and failures < 2:
            failures += 1
            if happened:
                world.faults.execute_then_fail()
            else:
                world.faults.fail_next()

    world.reconciler._on_transition = fail
    refused = 0

    async def tick() -> None:
        nonlocal refused
        try:
            await world.reconciler.tick(NS)
        except StoreUnavailable:
            refused += 1

    again = await to_the_end(world, story, tick)
    assert refused == failures > 0
    assert outcome_of(again) == outcome_of(ended)
    assert await entries_of(world) == expected


async def test_every_transition_of_the_reconciler_is_among_those_that_are_tested():
    seen: set[str] = set()
    for rate, comes in ((0.0, True), (0.9, True), (0.0, False)):
        world = RolloutWorld()
        story = Story(world, rate=rate, comes=comes)
        await story.begin()
        await to_the_end(world, story, lambda world=world: world.reconciler.tick(NS))
        seen |= {call.partition(":")[2] for call in world.calls}
    assert seen == {*GOOD, *BAD, *EARLY}


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_replica_that_dies_while_it_parks_an_activation_parks_it_once(when):
    world = RolloutWorld()
    await world.agent(OLD)
    await world.start()
    world.verdicts.verdict = ActivationVerdict(
        allowed=False,
        decision="REQUIRE_APPROVAL",
        policies=("pol-1",),
        detail="wants an approval",
        config_digest="abc",
    )
    await world.arrive()
    deaths = 0

    def die(_: str, call: str) -> None:
        nonlocal deaths
        if call == f"{when}:{APPROVAL[0]}" and not deaths:
            deaths += 1
            raise Killed

    world.reconciler._on_transition = die
    with pytest.raises(Killed):
        await world.reconciler.tick(NS)
    await world.follow()
    for _ in range(3):
        await world.tick()
    events = await world.events()
    assert events.count("rollout.approval_requested") == 1


@pytest.mark.parametrize("rate", [0.0, 0.9])
async def test_two_reconcilers_at_once_never_repeat_or_skip_a_step(rate):
    expected, ended = await told(rate=rate)
    world = RolloutWorld()
    story = Story(world, rate=rate)
    await story.begin()
    others = [world.new_reconciler(world.direct) for _ in range(2)]

    async def tick() -> None:
        await asyncio.gather(*(one.tick(NS) for one in others))

    again = await to_the_end(world, story, tick)
    assert outcome_of(again) == outcome_of(ended)
    entries = await entries_of(world)
    assert entries == expected
    assert sum(one.contested for one in others) > 0


async def test_a_replica_whose_copy_lags_loses_and_does_no_harm():
    world = RolloutWorld()
    await world.begun()
    stale = world.view.work.rollouts[world.now().rollout_id]
    await world.outcomes(new=(20, 15), old=(180, 2))
    world.clock.shift(1)
    await world.reconciler.tick(NS)
    assert world.now() is stale  # this replica has not followed yet
    assert await world.reconciler.tick(NS) == 0
    assert world.reconciler.contested == 1
    await world.follow()
    assert world.now().phase in {Phase.PROGRESSING, Phase.ABORTING}
