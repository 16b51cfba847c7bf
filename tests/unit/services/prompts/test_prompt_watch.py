import asyncio
from typing import Any

import pytest

from controlplane.services.config_watch import Held
from controlplane.services.prompts.watch import PromptEvent, Wanted
from tests.fakes.eventually import SOON_SECONDS
from tests.fakes.prompt_world import PROMPT, PromptWorld

OTHER = "farewell"


@pytest.fixture
async def world() -> PromptWorld:
    made = PromptWorld()
    await made.follow()
    for said in ("one", "two", "three"):
        await made.write(said)
    await made.move(1)
    return made


class Reader:
    """Reads a watch and keeps what a client would."""

    def __init__(self, world: PromptWorld, wanted: Wanted, *, bookmark: float = 60.0) -> None:
        self._events: Any = world.watch().events(wanted, bookmark_seconds=bookmark)
        self.contents: dict[tuple[str, int], str] = {}
        self.labels: dict[str, dict[str, int]] = {}
        self.held: dict[str, Held] = {}

    async def next(self) -> PromptEvent:
        async with asyncio.timeout(SOON_SECONDS):
            event = await anext(self._events)
        if event.content is not None:
            key = (event.content.prompt, event.content.version)
            self.contents[key] = event.content.content.text
        update = event.update
        if update is not None:
            known = {} if update.snapshot else self.labels.get(update.prompt, {})
            for label in update.removed_labels:
                del known[label]
            known |= {label: one.version for label, one in update.labels.items()}
            for version in known.values():
                assert (update.prompt, version) in self.contents
            self.labels[update.prompt] = known
            position = event.position
            self.held[update.prompt] = Held(position.epoch, position.revision, update.state.digest)
        return event

    async def update(self) -> Any:
        """Return the next update."""
        while True:
            event = await self.next()
            if event.update is not None:
                return event.update

    async def aclose(self) -> None:
        await self._events.aclose()


def wanting(*names: str, **fields: Any) -> Wanted:
    return Wanted(prompts=dict.fromkeys(names or (PROMPT,)), **fields)


async def test_a_watch_begins_with_contents_then_labels_then_it_is_up_to_date(world):
    reader = Reader(world, wanting(PROMPT, OTHER))
    events = [await reader.next() for _ in range(3)]
    assert reader.labels == {PROMPT: {"production": 1}, OTHER: {}}
    assert reader.contents == {(PROMPT, 1): "one"}
    assert [event.synced for event in events] == [False, False, True]
    assert events[2].update is not None
    assert not events[2].update.state.exists
    await reader.aclose()


async def test_a_move_is_told_with_the_content_it_needs_and_no_more(world):
    reader = Reader(world, wanting())
    await reader.update()
    await world.move(2)
    event = await reader.next()
    assert event.content is not None
    assert event.content.version == 2
    update = await reader.update()
    assert not update.snapshot
    assert reader.labels == {PROMPT: {"production": 2}}
    await reader.aclose()


async def test_moves_that_nobody_has_read_are_told_as_one(world):
    reader = Reader(world, wanting())
    await reader.update()
    for version in (2, 3, 1, 3):
        await world.move(version)
    await reader.update()
    assert reader.labels == {PROMPT: {"production": 3}}
    assert (PROMPT, 2) not in reader.contents
    await reader.aclose()


async def test_a_label_that_is_removed_is_a_tombstone(world):
    reader = Reader(world, wanting())
    await reader.update()
    await world.remove()
    update = await reader.update()
    assert update.removed_labels == ("production",)
    assert reader.labels == {PROMPT: {}}
    await reader.aclose()


async def test_a_prompt_that_comes_into_being_is_told(world):
    reader = Reader(world, wanting(OTHER))
    assert not (await reader.update()).state.exists
    await world.write("bye", OTHER)
    update = await reader.update()
    assert update.state.exists
    assert update.snapshot
    await reader.aclose()


async def test_the_label_of_the_agent_is_told_and_that_of_others_is_not(world):
    await world.move(2, "canary")
    reader = Reader(world, wanting(agent_name="writer"))
    await reader.update()
    assert reader.labels == {PROMPT: {"production": 1}}
    await world.give("reader", "canary")
    await world.give("writer", "canary")
    update = await reader.update()
    assert update.state.agent_label == "canary"
    assert reader.labels == {PROMPT: {"production": 1, "canary": 2}}
    await reader.aclose()


async def test_further_labels_are_told_when_they_are_asked_for(world):
    reader = Reader(world, wanting(labels=("staging", "latest")))
    await reader.update()
    assert reader.labels == {PROMPT: {"production": 1, "latest": 3}}
    await world.write("four")
    await reader.update()
    assert reader.labels[PROMPT]["latest"] == 4
    await reader.aclose()


async def test_what_a_watcher_holds_is_not_sent_again(world):
    first = Reader(world, wanting())
    await first.update()
    await first.aclose()
    again = Reader(world, Wanted(prompts=dict(first.held)))
    event = await again.next()
    assert event.synced
    assert event.update is None
    again.contents, again.labels = first.contents, first.labels
    await world.move(3)
    update = await again.update()
    assert not update.snapshot
    assert again.labels == {PROMPT: {"production": 3}}
    await again.aclose()


async def test_who_holds_something_else_gets_all_of_it(world):
    first = Reader(world, wanting())
    await first.update()
    await first.aclose()
    await world.move(2)
    again = Reader(world, Wanted(prompts=dict(first.held)))
    update = await again.update()
    assert update.snapshot
    assert again.labels == {PROMPT: {"production": 2}}
    await again.aclose()


async def test_a_replica_that_lags_behind_says_nothing_old(world):
    stale = world.beside()
    await stale.follow()
    await world.move(2)
    ahead = Reader(world, wanting())
    await ahead.update()
    await ahead.aclose()
    there = Reader(stale, Wanted(prompts=dict(ahead.held)))
    event = await there.next()
    assert event.update is None
    await stale.follow()
    there.contents, there.labels = ahead.contents, ahead.labels
    await world.move(3)
    await stale.follow()
    await there.update()
    assert there.labels == {PROMPT: {"production": 3}}
    await there.aclose()


async def test_silence_is_told(world):
    reader = Reader(world, wanting(), bookmark=0.01)
    await reader.update()
    event = await reader.next()
    assert event.update is None
    assert event.content is None
    assert event.position == world.view.position
    await reader.aclose()


async def test_other_changes_of_a_prompt_are_no_news(world):
    reader = Reader(world, wanting(), bookmark=0.05)
    await reader.update()
    await world.write("four")
    await world.move(2, "staging")
    await world.gate(label="staging")
    event = await reader.next()
    assert event.update is None
    await reader.aclose()
