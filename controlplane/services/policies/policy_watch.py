"""The core of WatchPolicies: what decides for some agents, in order, complete, never lost.

Subscribe first, then read, then wait (so no change falls between). What a watcher holds is known by
digests: the facts of each agent, the set of policies that holds for it. After a wake-up the newest
state is read and only what differs is sent, so a slow watcher gets the latest and never a backlog.
"""

import asyncio
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from controlplane.domain.agents import Agent
from controlplane.services.hub import (
    Hub,
    Subscription,
    agent_topic,
    governance_topic,
    namespace_topic,
    policies_topic,
)
from controlplane.services.policies.decisions import facts_of
from controlplane.services.policies.published import (
    PublishedPolicy,
    PublishedSet,
    PublishedSets,
    facts_digest,
)
from controlplane.services.policies.staging import rules_for
from controlplane.services.ports import Clock, Collection, Position
from controlplane.services.read_model import NamespaceView, ReadModel

BOOKMARK_SECONDS: Final = 15.0
"""Silence after which a watcher is told how far it is: well below the 30 s of keepalive proxies."""

PART_BYTES: Final = 512 * 1024
"""Policies of one message, counted as JSON: a peer accepts 4 MiB, and one policy takes 300 KiB."""

PART_POLICIES: Final = 200
"""Policies of one message: putting them into it takes 10 ms, and others wait that long."""

PART_AGENTS: Final = 20
"""Agents of one message: the facts of one take 100 KiB at most."""

_GOVERNED: Final = (
    Collection.POLICY_SETTINGS,
    Collection.POLICY_CANDIDATES,
    Collection.POLICY_STAGES,
)
"""What else says which set holds for whom."""


@dataclass(frozen=True, slots=True)
class WatchedAgent:
    """An agent of a watch and what the watcher holds about it; empty digests: nothing."""

    agent_id: str
    facts_digest: str = ""
    set_id: str = ""


@dataclass(frozen=True, slots=True)
class SetPart:
    """A part of a set, or of what changed since `base`; shared between watchers."""

    wanted: PublishedSet
    base_set_id: str
    put: tuple[PublishedPolicy, ...]
    removed: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AgentNews:
    """What decides for one agent. `facts` None: as the watcher holds them."""

    agent_id: str
    absent: bool = False
    facts: Mapping[str, Any] | None = None
    facts_digest: str = ""
    set_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyEvent:
    """One message: a part of a set, or agents, or a bookmark."""

    position: Position
    now_ms: int
    age_seconds: float
    part: SetPart | None = None
    agents: tuple[AgentNews, ...] = ()
    complete: bool = False
    bookmark: bool = False


@dataclass(slots=True)
class _Told:
    """What one agent's entry was when the watcher was last told."""

    facts_digest: str
    set_id: str
    heading: tuple[object, ...] = ()
    agent: Agent | None = None
    absent: bool = False


class PolicyWatches:
    """Opens watches; what they share is here."""

    def __init__(self, read_model: ReadModel, hub: Hub, clock: Clock) -> None:
        self._read_model = read_model
        self._hub = hub
        self._clock = clock
        self._sets = PublishedSets()

    async def events(
        self,
        namespace: str,
        agents: Sequence[WatchedAgent],
        *,
        held: Position | None = None,
        bookmark_seconds: float = BOOKMARK_SECONDS,
    ) -> AsyncGenerator[PolicyEvent, None]:
        """Yield what differs from what the watcher holds, then every change, for ever.

        Raises:
            NotReady: nothing is loaded yet.
        """
        watch = _Watch(self._sets, agents)
        own = {agent_topic(namespace, one.agent_id): one.agent_id for one in agents}
        shared = {
            policies_topic(namespace),
            *(governance_topic(namespace, collection) for collection in _GOVERNED),
        }
        with self._hub.subscribe((*own, *shared)) as news:
            view = await self._caught_up(namespace, held)
            for event in self._rendered(view, watch.changes(view, None), first=True):
                yield event
            while True:
                topics = await _next_topics(news, bookmark_seconds)
                view = self._read_model.view(namespace)
                if topics is None:
                    yield self._event(view, bookmark=True)
                    continue
                touched = None if topics & shared else [own[topic] for topic in topics]
                await _counted(view)
                for event in self._rendered(view, watch.changes(view, touched)):
                    yield event

    async def _caught_up(self, namespace: str, held: Position | None) -> NamespaceView:
        """Return the view once this replica is not behind what the watcher has seen."""
        view = self._read_model.view(namespace)
        if held is not None and _behind(view, held):
            with self._hub.subscribe((namespace_topic(namespace),)) as news:
                while _behind(view := self._read_model.view(namespace), held):
                    await news.wait()
        await _counted(view)
        return self._read_model.view(namespace)

    def _rendered(
        self, view: NamespaceView, changes: "_Changes", *, first: bool = False
    ) -> Iterator[PolicyEvent]:
        """Cut changes into messages; the last one completes them."""
        if not (changes.parts or changes.agents or first):
            return
        for part in changes.parts:
            yield self._event(view, part=part)
        whole = len(changes.agents)
        for start in range(0, whole, PART_AGENTS):
            some = tuple(changes.agents[start : start + PART_AGENTS])
            if start + PART_AGENTS < whole:
                yield self._event(view, agents=some)
            else:
                yield self._event(view, agents=some, complete=True)
        if not whole:
            yield self._event(view, complete=True)

    def _event(self, view: NamespaceView, **fields: Any) -> PolicyEvent:
        return PolicyEvent(
            position=view.position,
            now_ms=self._clock.store_ms(),
            age_seconds=max(0.0, self._clock.monotonic() - self._read_model.confirmed_at),
            **fields,
        )


@dataclass(frozen=True, slots=True)
class _Changes:
    parts: list[SetPart]
    agents: list[AgentNews]


class _Watch:
    """What one watcher has been told."""

    def __init__(self, sets: PublishedSets, agents: Sequence[WatchedAgent]) -> None:
        self._sets = sets
        self._told = {one.agent_id: _Told(one.facts_digest, one.set_id) for one in agents}

    def changes(self, view: NamespaceView, touched: Iterable[str] | None) -> _Changes:
        """Return what the watcher has to be told, and note it as told; None: look at everybody."""
        held = {told.set_id for told in self._told.values() if told.set_id}
        wanted: dict[str, PublishedSet] = {}
        agents: list[AgentNews] = []
        for agent_id in self._told if touched is None else touched:
            told = self._told[agent_id]
            entry = view.agents.get(agent_id)
            if entry is None:
                if not told.absent:
                    self._told[agent_id] = _Told("", "", absent=True)
                    agents.append(AgentNews(agent_id, absent=True))
                continue
            published = self._sets.of(view.name, rules_for(view, agent_id))
            if told.heading != published.heading:
                wanted[published.set_id] = published
            news = _news(view.name, entry.agent, told, published)
            told.heading = published.heading
            if news is not None:
                agents.append(news)
        parts = [
            part for published in wanted.values() for part in self._parts(view, published, held)
        ]
        return _Changes(parts, agents)

    def _parts(
        self, view: NamespaceView, wanted: PublishedSet, held: Iterable[str]
    ) -> Iterator[SetPart]:
        """Tell a set as changes of one that the watcher holds, or all of it."""
        bases = [base for one in held if (base := self._sets.known(view.name, one)) is not None]
        difference, base = self._sets.difference(None, wanted), None
        for one in bases:
            smaller = self._sets.difference(one, wanted)
            if base is None or smaller.changes < difference.changes:
                difference, base = smaller, one
        base_set_id = base.set_id if base is not None else ""
        chunks = list(_chunks(difference.put)) or [()]
        for chunk in chunks[:-1]:
            yield SetPart(wanted, base_set_id, chunk, ())
        yield SetPart(wanted, base_set_id, chunks[-1], difference.removed)


def _news(namespace: str, agent: Agent, told: _Told, published: PublishedSet) -> AgentNews | None:
    """Return what to say about an agent, and note it as said; None: nothing is new."""
    facts: Mapping[str, Any] | None = None
    if agent is not told.agent:
        seen = facts_of(namespace, agent)
        digest = facts_digest(seen)
        facts = seen if digest != told.facts_digest else None
        told.agent, told.facts_digest, told.absent = agent, digest, False
    if facts is None and told.set_id == published.set_id:
        return None
    told.set_id = published.set_id
    return AgentNews(
        agent.agent_id,
        facts=facts,
        facts_digest=told.facts_digest,
        set_id=published.set_id,
    )


def _chunks(policies: Sequence[PublishedPolicy]) -> Iterator[tuple[PublishedPolicy, ...]]:
    chunk: list[PublishedPolicy] = []
    size = 0
    for one in policies:
        if chunk and (size + one.size > PART_BYTES or len(chunk) == PART_POLICIES):
            yield tuple(chunk)
            chunk, size = [], 0
        chunk.append(one)
        size += one.size
    if chunk:
        yield tuple(chunk)


def _behind(view: NamespaceView, held: Position) -> bool:
    position = view.position
    return position.epoch == held.epoch and position.revision < held.revision


async def _counted(view: NamespaceView) -> None:
    """Count the digests of what decides, with pauses: many policies must not hold up others."""
    for rules in (view.policy_set, view.staged_set):
        for _ in rules.count_digests() if rules is not None else ():
            await asyncio.sleep(0)


async def _next_topics(news: Subscription, seconds: float) -> set[str] | None:
    """Return the topics that changed, or None after so much silence."""
    try:
        async with asyncio.timeout(seconds):
            return await news.wait()
    except TimeoutError:
        return None
