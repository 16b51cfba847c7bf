"""Prompts in the agent's process: from memory, by session, while the plane is away."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from fleetplane import (
    LimitExceeded,
    NotFound,
    PermissionDenied,
    PromptCache,
    PromptMessage,
    PromptReason,
    PromptState,
    PromptVersion,
    ResolvedPrompt,
    Unavailable,
    VariableError,
    VariableSpec,
)
from fleetplane._exceptions import FleetError
from tests.fakes.eventually import eventually


def version(number: int, text: str = "Hello {{name}}") -> PromptVersion:
    return PromptVersion(
        prompt="greeting",
        version=number,
        messages=(PromptMessage("", text),),
        variables={"name": VariableSpec()},
        content_sha256=f"sha256:{number}",
    )


def state(labels: dict[str, int], **fields: Any) -> PromptState:
    known = {label: version(number) for label, number in labels.items()}
    stated: dict[str, Any] = {"prompt": "greeting", "exists": True, "labels": known}
    return PromptState(**stated | fields)


class Feed:
    """A watch that says what the test says."""

    def __init__(self) -> None:
        self.heard_at = 0.0
        self._events: asyncio.Queue[PromptState | FleetError] = asyncio.Queue()
        self.closed = False

    def say(self, event: PromptState | FleetError, at: float = 100.0) -> None:
        self.heard_at = at
        self._events.put_nowait(event)

    def __aiter__(self) -> "Feed":
        return self

    async def __anext__(self) -> PromptState:
        event = await self._events.get()
        if isinstance(event, FleetError):
            raise event
        return event

    async def aclose(self) -> None:
        self.closed = True


class Desk:
    """Feed, plane and clock of one cache."""

    def __init__(self) -> None:
        self.feed = Feed()
        self.now = 100.0
        self.asked: list[tuple[str, str]] = []
        self.answer: Callable[[str], ResolvedPrompt] = lambda session: ResolvedPrompt(
            version=version(1),
            reason=PromptReason.PRODUCTION,
            label="production",
            pinned=bool(session),
            session_id=session,
        )

    async def resolve(
        self, prompt: str, *, agent_id: str = "", session_id: str = ""
    ) -> ResolvedPrompt:
        self.asked.append((agent_id, session_id))
        assert prompt == "greeting"
        return self.answer(session_id)

    def cache(self, **how: Any) -> PromptCache:
        stated: dict[str, Any] = {"prompts": ["greeting"], "agent_id": "agt-1", "fallbacks": {}}
        return PromptCache(
            self.feed,  # type: ignore[arg-type]  # as much of a watch as is used
            self.resolve,
            clock=lambda: self.now,
            **stated | how,
        )


@pytest.fixture
async def desk() -> Desk:
    return Desk()


async def taken(cache: PromptCache, number: int) -> None:
    def is_there() -> bool:
        try:
            return cache.current("greeting").version.version == number
        except NotFound:
            return number == 0

    await eventually(f"version {number} is taken", is_there)


async def test_what_is_held_is_answered_without_asking(desk: Desk) -> None:
    desk.feed.say(state({"production": 3}))
    async with desk.cache() as cache:
        found = await cache.get("greeting")
        assert (found.version.version, found.reason) == (3, PromptReason.PRODUCTION)
        assert found.agent_id == "agt-1"
        assert found.render(name="{{name}}") == "Hello {{name}}"
        with pytest.raises(VariableError, match="nme"):
            found.render(nme="Ada")
    assert desk.asked == []
    assert desk.feed.closed


async def test_the_label_of_the_agent_comes_first_where_it_is_somewhere(desk: Desk) -> None:
    desk.feed.say(state({"production": 3, "canary": 4}, agent_label="canary"))
    async with desk.cache() as cache:
        assert cache.current("greeting").version.version == 4
        assert cache.current("greeting", label="production").version.version == 3
        desk.feed.say(state({"production": 3}, agent_label="canary"))
        await taken(cache, 3)


async def test_a_session_asks_once_and_keeps_the_answer(desk: Desk) -> None:
    desk.feed.say(state({"production": 1}))
    async with desk.cache() as cache:
        first = await cache.get("greeting", session_id="s-1")
        desk.feed.say(state({"production": 2}))
        await taken(cache, 2)
        assert await cache.get("greeting", session_id="s-1") is first
        assert desk.asked == [("agt-1", "s-1")]


async def test_an_experiment_has_the_plane_asked(desk: Desk) -> None:
    desk.feed.say(state({"production": 1}, experiment_active=True))
    async with desk.cache() as cache:
        await cache.get("greeting")
        await cache.get("greeting")
    assert len(desk.asked) == 2


async def test_a_tombstone_takes_effect_at_once(desk: Desk) -> None:
    desk.feed.say(state({"production": 1}))
    async with desk.cache(fallbacks={"greeting": "Hi."}) as cache:
        desk.feed.say(state({}))
        await taken(cache, 0)
        with pytest.raises(NotFound, match="no label 'production'"):
            cache.current("greeting")
        found = await cache.get("greeting")
        assert (found.is_fallback, found.version.version) == (True, 0)
        assert found.render(name="unused") == "Hi."
        desk.feed.say(state({}, exists=False))
        await eventually("it is gone", lambda: _says(cache, "no prompt"))


def _says(cache: PromptCache, words: str) -> bool:
    try:
        cache.current("greeting")
    except NotFound as refusal:
        return words in str(refusal)
    return False


async def test_the_last_known_state_is_used_for_so_long_and_then_the_fallback(desk: Desk) -> None:
    desk.feed.say(state({"production": 1}))
    async with desk.cache(max_stale=600) as cache:
        desk.now += 600
        assert (await cache.get("greeting")).version.version == 1
        desk.now += 1
        with pytest.raises(Unavailable, match="away for 601 s"):
            await cache.get("greeting")
        declared = await cache.get("greeting", fallback=[PromptMessage("system", "{{name}}?")])
        assert declared.is_fallback
        assert declared.render_messages(name=3) == (PromptMessage("system", "3?"),)


async def test_a_session_that_begins_while_the_plane_is_away_is_not_kept(desk: Desk) -> None:
    def away(_: str) -> ResolvedPrompt:
        raise Unavailable("nobody answers")

    desk.feed.say(state({"production": 1}))
    ordinarily, desk.answer = desk.answer, away
    async with desk.cache() as cache:
        found = await cache.get("greeting", session_id="s-1")
        assert (found.version.version, found.pinned) == (1, False)
        desk.answer = ordinarily
        assert (await cache.get("greeting", session_id="s-1")).pinned


async def test_a_refusal_is_the_fallback_only_if_there_is_one(desk: Desk) -> None:
    def refuse(_: str) -> ResolvedPrompt:
        raise LimitExceeded("too many")

    desk.feed.say(state({"production": 1}))
    desk.answer = refuse
    async with desk.cache() as cache:
        with pytest.raises(LimitExceeded):
            await cache.get("greeting", session_id="s-1")
        assert (await cache.get("greeting", session_id="s-1", fallback="Hi")).is_fallback


async def test_a_watch_that_is_refused_is_told_when_it_is_entered(desk: Desk) -> None:
    desk.feed.say(PermissionDenied("not yours"))
    with pytest.raises(PermissionDenied):
        async with desk.cache():
            pytest.fail("it was entered")
    assert desk.feed.closed


async def test_a_name_that_nobody_watches_is_a_mistake(desk: Desk) -> None:
    desk.feed.say(state({"production": 1}))
    async with desk.cache() as cache:
        with pytest.raises(KeyError):
            cache.current("another")


def test_a_fallback_has_a_digest_and_a_chat_is_no_text() -> None:
    chat = ResolvedPrompt(
        version=PromptVersion(
            prompt="p", version=1, messages=(PromptMessage("user", "a"), PromptMessage("user", "b"))
        )
    )
    with pytest.raises(TypeError, match="render_messages"):
        chat.render()
