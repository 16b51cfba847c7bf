import asyncio
from dataclasses import replace
from time import perf_counter

import pytest

from controlplane.domain.errors import AgentNotFound, InvalidArgument, StoreUnavailable
from controlplane.domain.prompts.model import PromptReason, version_key
from controlplane.domain.prompts.refusals import (
    LabelNotFound,
    PromptNotFound,
    PromptVersionNotFound,
)
from controlplane.services.ports import Collection
from controlplane.services.prompts.ports import PromptUse, PromptVariant
from controlplane.services.prompts.resolution import Question
from controlplane.services.read_model import NamespaceView
from controlplane.tasks.prompt_pin_sweeper import PromptPinSweeper
from tests.fakes.faulty_store import FaultyLedger
from tests.fakes.no_experiments import NoExperiments
from tests.fakes.plane import NS, Plane
from tests.fakes.prompt_world import ADA, PIN_MS, PROMPT, PromptWorld


class Experiments(NoExperiments):
    """Gives version 3 to the sessions that it knows."""

    def __init__(self) -> None:
        self.sessions: dict[str, int] = {}
        self.seen: list[PromptUse] = []

    def is_active(self, view: NamespaceView, prompt: str) -> bool:  # noqa: ARG002 - of the port
        return bool(self.sessions)

    def assign(
        self,
        view: NamespaceView,  # noqa: ARG002 - of the port
        prompt: str,  # noqa: ARG002 - of the port
        *,
        agent_name: str,  # noqa: ARG002 - of the port
        unit: str,
    ) -> PromptVariant | None:
        version = self.sessions.get(unit)
        if version is None:
            return None
        return PromptVariant(experiment="exp", variant="b", version=version)

    async def exposed(self, namespace: str, use: PromptUse) -> bool:  # noqa: ARG002 - of the port
        self.seen.append(use)
        return True


@pytest.fixture
def experiments() -> Experiments:
    return Experiments()


@pytest.fixture
async def world(experiments: Experiments) -> PromptWorld:
    made = PromptWorld(experiments=experiments)
    await made.follow()
    for said in ("one", "two", "three"):
        await made.write(said)
    return made


async def test_without_a_label_nobody_gets_anything(world):
    with pytest.raises(LabelNotFound):
        await world.resolve()
    with pytest.raises(PromptNotFound):
        await world.resolution.resolve(NS, Question(prompt="nobody"), ADA)


async def test_everybody_gets_production(world):
    await world.move(2)
    found = await world.resolve()
    assert (found.version.version, found.label, found.reason) == (
        2,
        "production",
        PromptReason.PRODUCTION,
    )
    assert not found.pinned
    assert found.revision == world.prompt.revision


async def test_an_agent_with_a_label_gets_that(world):
    agent_id = (await world.plane.register("writer")).agent.agent_id
    other_id = (await world.plane.register("reader")).agent.agent_id
    await world.move(1)
    await world.give("writer", "canary")
    assert (await world.resolve(agent_id)).reason is PromptReason.PRODUCTION  # it is nowhere yet
    await world.move(3, "canary")
    found = await world.resolve(agent_id)
    assert (found.version.version, found.label, found.reason) == (
        3,
        "canary",
        PromptReason.AGENT_LABEL,
    )
    assert (await world.resolve(other_id)).version.version == 1
    await world.give("writer", "")
    assert (await world.resolve(agent_id)).version.version == 1
    with pytest.raises(AgentNotFound):
        await world.resolve("agt-nobody")


async def test_an_experiment_comes_before_labels(world, experiments):
    agent_id = (await world.plane.register("writer")).agent.agent_id
    await world.move(1)
    await world.move(2, "canary")
    await world.give("writer", "canary")
    experiments.sessions = {"s-1": 3}
    found = await world.resolve(agent_id, "s-1")
    assert (found.version.version, found.experiment, found.variant) == (3, "exp", "b")
    assert found.reason is PromptReason.EXPERIMENT
    assert (await world.resolve(agent_id, "s-2")).version.version == 2


async def test_a_variant_of_a_version_that_does_not_exist_is_none(world, experiments):
    await world.move(1)
    experiments.sessions = {"s-1": 9}
    assert (await world.resolve("", "s-1")).reason is PromptReason.PRODUCTION


async def test_a_conversation_never_changes_its_prompt(world, experiments):
    """Pitfall: one session, a thousand questions, and more than one answer."""
    await world.move(1)
    first = await world.resolve("", "s-1")
    assert first.pinned
    assert first.reason is PromptReason.PRODUCTION
    await world.move(2)
    experiments.sessions = {"s-1": 3}
    seen = {(await world.resolve("", "s-1")).version.version for _ in range(1_000)}
    assert seen == {1}
    again = await world.resolve("", "s-1")
    assert (again.reason, again.label, again.revision) == (
        PromptReason.SESSION_PIN,
        "production",
        first.revision,
    )
    await world.remove()
    assert (await world.resolve("", "s-1")).version.version == 1


async def test_agents_of_one_session_keep_their_own(world):
    agent_id = (await world.plane.register("writer")).agent.agent_id
    await world.move(1)
    await world.resolve("", "s-1")
    await world.move(2)
    assert (await world.resolve(agent_id, "s-1")).version.version == 2
    assert (await world.resolve("", "s-1")).version.version == 1


async def test_without_a_pin_nothing_is_kept_nor_looked_at(world):
    await world.move(1)
    found = await world.resolve("", "s-1", pin=False)
    assert not found.pinned
    assert not world.view.governance.table(Collection.PROMPT_PINS)
    await world.resolve("", "s-1")
    await world.move(2)
    assert (await world.resolve("", "s-1", pin=False)).version.version == 2


async def test_replicas_agree_on_what_a_session_begins_with(world):
    """The second one does not know of the pin, and has another state of the label."""
    await world.move(1)
    stale = world.beside()
    await stale.follow()
    await world.move(2)
    question = Question(prompt=PROMPT, session_id="s-1")
    fresh, old = await asyncio.gather(
        world.resolution.resolve(NS, question, ADA),
        _following(stale, stale.resolution.resolve(NS, question, ADA)),
    )
    assert fresh.version.version == old.version.version
    assert fresh.pinned
    assert old.pinned


async def _following(world, call):
    """Answer a call of a replica that follows meanwhile."""
    task = asyncio.ensure_future(call)
    while not task.done():
        await asyncio.sleep(0)
        await world.follow()
    return await task


async def test_a_pin_lasts_as_long_as_somebody_asks(world):
    await world.move(1)
    await world.resolve("", "s-1")
    await world.move(2)
    for _ in range(5):
        world.plane.clock.shift(PIN_MS / 1000 * 0.8)
        assert (await world.resolve("", "s-1")).version.version == 1
    world.plane.clock.shift(PIN_MS / 1000 + 1)
    assert (await world.resolve("", "s-1")).version.version == 2


async def test_a_pin_is_written_anew_rarely(world):
    await world.move(1)
    await world.resolve("", "s-1")
    before = world.view.position.revision
    for _ in range(10):
        await world.resolve("", "s-1")
    assert world.view.position.revision == before


async def test_pins_that_have_ended_are_swept_and_the_others_stay(world):
    await world.move(1)
    for number in range(250):
        await world.resolve("", f"old-{number}")
    world.plane.clock.shift(PIN_MS / 1000 + 1)
    await world.resolve("", "young")
    sweeper = PromptPinSweeper(world.pins, world.plane.read_model, world.plane.clock)
    assert await sweeper.round() == 250
    await world.follow()
    assert [
        pin.session_id for pin in world.view.governance.table(Collection.PROMPT_PINS).values()
    ] == ["young"]
    assert await sweeper.round() == 0


async def test_beyond_the_bound_nothing_is_kept():
    world = PromptWorld(max_pins=1)
    await world.follow()
    await world.write("one")
    await world.move(1)
    assert (await world.resolve("", "s-1")).pinned
    assert not (await world.resolve("", "s-2")).pinned


async def test_what_is_pinned_is_answered_while_the_store_is_away():
    faulty: list[FaultyLedger] = []

    def wrap(inner):
        faulty.append(FaultyLedger(inner))
        return faulty[0]

    world = PromptWorld(plane=Plane(wrap))
    await world.follow()
    await world.write("one")
    await world.move(1)
    await world.resolve("", "s-1")
    world.plane.clock.shift(PIN_MS / 1000 * 0.5)
    faulty[0].fail_next(times=5)
    assert (await world.resolve("", "s-1")).version.version == 1
    with pytest.raises(StoreUnavailable):
        await world.resolution.resolve(NS, Question(prompt=PROMPT, session_id="new"), ADA)


@pytest.mark.parametrize("session_id", ["s" * 257, "a\nb", "a\x1fb"])
async def test_malformed_sessions_are_refused(world, session_id):
    with pytest.raises(InvalidArgument):
        await world.resolve("", session_id)


async def test_rendering_is_of_production_unless_somebody_says_otherwise(world):
    await world.write("Hello {{name}}")
    await world.move(4)
    version, rendered = world.resolution.render(
        NS, PROMPT, version=0, label="", values={"name": "{{name}}"}
    )
    assert (version.version, rendered.messages[0].content) == (4, "Hello {{name}}")
    with pytest.raises(InvalidArgument) as caught:
        world.resolution.render(NS, PROMPT, version=4, label="", values={"nme": "Ada"})
    assert caught.value.violations[0].field == "variables.nme"
    with pytest.raises(InvalidArgument) as caught:
        world.resolution.render(NS, PROMPT, version=4, label="", values={})
    assert caught.value.violations[0].field == "variables.name"


def used(world: PromptWorld, version: int = 1, **fields) -> PromptUse:
    found = world.view.governance.table(Collection.PROMPT_VERSIONS)[version_key(PROMPT, version)]
    stated = {
        "prompt": PROMPT,
        "version": version,
        "content_sha256": found.content_sha256,
        "agent_name": "",
        "session_id": "s-1",
        "experiment": "exp",
        "variant": "b",
    }
    return PromptUse(**stated | fields)


async def test_what_is_used_is_told_to_the_experiment_with_its_digest(world, experiments):
    agent_id = (await world.plane.register("writer")).agent.agent_id
    use = used(world)
    assert await world.resolution.mark_used(NS, use, agent_id=agent_id, is_fallback=False)
    assert experiments.seen[0].agent_name == "writer"
    assert experiments.seen[0].content_sha256 == use.content_sha256
    fallback = used(world, version=1, content_sha256="sha256:" + "f" * 64)
    with pytest.raises(InvalidArgument, match="digest"):
        await world.resolution.mark_used(NS, fallback, agent_id="", is_fallback=False)
    with pytest.raises(InvalidArgument, match="must be 0"):
        await world.resolution.mark_used(NS, fallback, agent_id="", is_fallback=True)
    gone = replace(use, version=8)
    with pytest.raises(PromptVersionNotFound):
        await world.resolution.mark_used(NS, gone, agent_id="", is_fallback=False)


async def test_without_an_experiment_nothing_is_recorded(world, experiments):
    use = used(world, experiment="", variant="")
    assert not await world.resolution.mark_used(NS, use, agent_id="", is_fallback=False)
    assert experiments.seen == []


async def test_a_choice_from_memory_takes_microseconds(world):
    await world.move(1)
    view, prompt = world.view, world.prompt
    best = float("inf")
    for _ in range(20):
        start = perf_counter()
        for _ in range(100):
            world.resolution.choose(view, prompt, "writer", "")
        best = min(best, (perf_counter() - start) / 100)
    assert best < 100e-6  # about 3 us on an idle machine
