"""The core of WatchAgents: a snapshot, then every change, in order, never lost.

Subscribe first, then read, then wait, so that no change falls between. What a watcher holds is a
position; what it is sent are the agents that changed since, in their newest state. A slow watcher
has no backlog: while it is busy, changes of an agent become one.
"""

import asyncio
from collections.abc import AsyncGenerator, Collection, Iterator
from dataclasses import dataclass

from controlplane.domain.selection import AgentFilter
from controlplane.services.hub import Subscription, agents_topic
from controlplane.services.live_instances import AgentEntry
from controlplane.services.ports import Position
from controlplane.services.read_model import NamespaceView, ReadModel

BOOKMARK_SECONDS = 15.0
"""Silence after which a watcher is told how far it is: well below the 30 s of keepalive proxies."""

PART_SIZE = 500
"""Agents per part of a snapshot, and per delta: some 250 KiB, and a few ms without a pause."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotPart:
    """A part of the current state, by agent_id; with the last one the state is `complete`."""

    entries: tuple[AgentEntry, ...]
    complete: bool
    position: Position


@dataclass(frozen=True, slots=True, kw_only=True)
class Delta:
    """Agents that are new or changed, and ids that are gone or no longer match."""

    entries: tuple[AgentEntry, ...]
    removed_ids: tuple[str, ...]
    position: Position


@dataclass(frozen=True, slots=True, kw_only=True)
class Bookmark:
    """Everything up to the position was sent."""

    position: Position


WatchEvent = SnapshotPart | Delta | Bookmark
"""Render it before the next await: entries live."""


class AgentWatch:
    """Watches the agents of one namespace that match a valid filter, for one stream."""

    def __init__(
        self,
        read_model: ReadModel,
        namespace: str,
        wanted: AgentFilter,
        *,
        with_instances: bool = True,
        part_size: int = PART_SIZE,
    ) -> None:
        """Prepare a watch.

        Args:
            read_model: Where the agents are.
            namespace: Tenant.
            wanted: Which agents; of any status unless it names some.
            with_instances: A change of an instance counts as a change of its agent; False for a
                watcher that is not shown instances.
            part_size: Agents per event at most.
        """
        self._read_model = read_model
        self._namespace = namespace
        self._wanted = wanted
        self._with_instances = with_instances
        self._part_size = part_size
        self._held: set[str] | None = None
        """Ids that the watcher holds; None if that is not known, or if it holds all."""

    async def events(
        self, epoch: str = "", revision: int = 0, *, bookmark_seconds: float = BOOKMARK_SECONDS
    ) -> AsyncGenerator[WatchEvent, None]:
        """Yield events for ever, to a watcher that holds `epoch` and `revision` ("" for nothing).

        One that resumes is sent what changed since, or a bookmark if nothing did. If its
        position is of another epoch, ahead of this replica, or so old that changes of instances
        that it wants to see are forgotten, it is sent a snapshot as if it held nothing.

        Raises:
            NotReady: nothing is loaded yet.
        """
        sent = Position(epoch, revision) if epoch else None
        owes_a_word = True
        with self._read_model.hub.subscribe((agents_topic(self._namespace),)) as news:
            while True:
                view = self._read_model.view(self._namespace)
                deltas = None if sent is None else self._deltas(view, sent)
                sent = view.position
                if deltas is None:
                    for part in self._snapshot(view):
                        yield part
                    # What changed while the parts were written comes next.
                    owes_a_word = False
                    continue
                for delta in deltas:
                    yield delta
                if owes_a_word and not deltas:
                    yield Bookmark(position=sent)
                owes_a_word = not await _heard(news, bookmark_seconds)

    def _snapshot(self, view: NamespaceView) -> Iterator[SnapshotPart]:
        """Yield the state part by part; between two parts the view may change, never the order."""
        everybody = self._wanted == AgentFilter()
        held = self._held = None if everybody else set()
        position = view.position
        after_id, complete = "", False
        while not complete:
            ids = view.index.candidates(self._wanted).page(after_id, self._part_size + 1)
            complete = len(ids) <= self._part_size
            del ids[self._part_size :]
            if held is not None:
                held.update(ids)
            entries = tuple([view.agents[agent_id] for agent_id in ids])
            after_id = ids[-1] if ids else ""
            yield SnapshotPart(entries=entries, complete=complete, position=position)

    def _deltas(self, view: NamespaceView, sent: Position) -> list[Delta] | None:
        """Return what the watcher has to be sent, or None if only a snapshot can tell it."""
        position = view.position
        if sent.epoch != position.epoch or sent.revision > position.revision:
            return None
        changed: Collection[str] = ()
        if view.agents_revision > sent.revision:
            known = self._changed(view, sent.revision)
            if known is None:
                return None
            changed = known
        entries, removed = self._sorted_out(view, changed, sent.revision)
        self._note_held(view, entries, removed)
        return self._in_parts(entries, removed, sent, position)

    def _changed(self, view: NamespaceView, since: int) -> Collection[str] | None:
        changed = view.index.journal.since(since)
        if changed is not None:
            return changed
        if self._with_instances:
            # A removed instance leaves no trace in the records.
            return None
        return [agent_id for agent_id, entry in view.agents.items() if entry.agent.revision > since]

    def _sorted_out(
        self, view: NamespaceView, changed: Collection[str], since: int
    ) -> tuple[list[AgentEntry], list[str]]:
        """Return changed agents that match, and ids of changed ones that do not, in order."""
        entries: list[AgentEntry] = []
        removed: list[str] = []
        held = self._held
        for agent_id in sorted(changed):
            entry = view.agents.get(agent_id)
            if entry is not None:
                agent = entry.agent
                if agent.revision <= since and not self._with_instances:
                    continue
                if self._wanted.matches(agent):
                    entries.append(entry)
                    continue
            if held is None or agent_id in held:
                removed.append(agent_id)
        return entries, removed

    def _note_held(
        self, view: NamespaceView, entries: list[AgentEntry], removed: list[str]
    ) -> None:
        if self._held is not None:
            self._held.difference_update(removed)
            self._held.update(entry.agent.agent_id for entry in entries)
        elif self._wanted != AgentFilter():
            # A watcher that resumed has just been told of all that it may hold besides these.
            self._held = set(view.index.candidates(self._wanted).ids)

    def _in_parts(
        self, entries: list[AgentEntry], removed: list[str], sent: Position, position: Position
    ) -> list[Delta]:
        """Return deltas of bounded size; only with the last one the new position is reached."""
        size = self._part_size
        parts = -(-max(len(entries), len(removed)) // size)
        return [
            Delta(
                entries=tuple(entries[part * size : (part + 1) * size]),
                removed_ids=tuple(removed[part * size : (part + 1) * size]),
                position=position if part == parts - 1 else sent,
            )
            for part in range(parts)
        ]


async def _heard(news: Subscription, seconds: float) -> bool:
    """Wait for news; return whether there were any within so many seconds."""
    try:
        async with asyncio.timeout(seconds):
            await news.wait()
    except TimeoutError:
        return False
    return True
