"""Reads the audit: pages of it, and what is added to it."""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Final, NamedTuple

from controlplane.domain.audit.chain import StoredEntry
from controlplane.domain.audit.filters import EVERYTHING, EventFilter
from controlplane.domain.audit.refusals import AuditTrimmed
from controlplane.services.audit.encoding import decode_entry
from controlplane.services.audit.keeping import AuditKeeper
from controlplane.services.audit.ports import AuditLog
from controlplane.services.audit.times import sequence_before
from controlplane.services.hub import Hub, Subscription, namespace_topic
from controlplane.services.transaction import AuditEntry

BATCH: Final = 500
"""Entries read at once: about 200 KB, and 2 ms of this replica to decode."""

LOOKED_AT_PER_PAGE: Final = 10_000
"""Entries that one page looks at, by contract: some tens of milliseconds, in pieces of `BATCH`."""

CLOCK_SLACK_MS: Final = 60_000
"""By how much times may go back from one entry to the next: a store that fails over goes on with
the clock of another machine."""

BOOKMARK_SECONDS: Final = 15.0
"""Silence after which a watcher is told how far it is, by contract."""


class AuditEvent(NamedTuple):
    """One entry of the audit."""

    sequence: int
    at_ms: int
    entry: AuditEntry | None
    """None: what is stored is no entry."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EventQuery:
    """Which entries a list shows. Zeros mean no bound.

    Attributes:
        filter: What must hold of them.
        after: Only higher sequences.
        before: Only lower ones.
        since_ms: Only from this moment on, in milliseconds since 1970.
        until_ms: Only before this moment.
        oldest_first: In ascending order.
    """

    filter: EventFilter = EVERYTHING
    after: int = 0
    before: int = 0
    since_ms: int = 0
    until_ms: int = 0
    oldest_first: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class EventPage:
    """One page of a list; `cursor` continues it, 0: there is nothing more."""

    events: tuple[AuditEvent, ...]
    cursor: int = 0


class AuditEvents:
    """Reads entries from the store: no replica has a copy. Methods may raise StoreUnavailable."""

    def __init__(self, log: AuditLog, keeper: AuditKeeper, hub: Hub) -> None:
        """Read `log`; `keeper` knows what was trimmed, `hub` tells of new entries."""
        self._log = log
        self._keeper = keeper
        self._hub = hub

    async def page(
        self, namespace: str, query: EventQuery, *, cursor: int, limit: int
    ) -> EventPage:
        """Return the next at most `limit` entries; looks at `LOOKED_AT_PER_PAGE` at most.

        Args:
            namespace: Whose audit.
            query: Which entries, and in which order.
            cursor: Of the page before; 0: the first page.
            limit: Entries in the page.

        Raises:
            AuditTrimmed: the list should begin where nothing is any more.
        """
        if query.after:
            await self._require_kept(namespace, query.after)
        at = cursor or await self._start(namespace, query)
        found: list[AuditEvent] = []
        looked_at = 0
        while looked_at < LOOKED_AT_PER_PAGE:
            batch = await self._batch(namespace, query, at)
            for stored in batch:
                looked_at += 1
                at = stored.sequence
                if _beyond(query, stored):
                    return EventPage(events=tuple(found))
                event = _event(stored)
                if _is_wanted(query, event):
                    found.append(event)
                    if len(found) == limit:
                        return EventPage(events=tuple(found), cursor=at)
            if len(batch) < BATCH:
                return EventPage(events=tuple(found))
        return EventPage(events=tuple(found), cursor=at)

    async def watch(
        self,
        namespace: str,
        wanted: EventFilter,
        *,
        after: int | None,
        bookmark_seconds: float = BOOKMARK_SECONDS,
    ) -> AsyncGenerator[AuditEvent | int, None]:
        """Yield entries as they are added, and bookmarks: through where everything was looked at.

        Reads from the store as fast as it is asked, whatever happens meanwhile.

        Args:
            namespace: Whose audit.
            wanted: Which entries.
            after: Begin after this sequence; None: with what happens from now on.
            bookmark_seconds: Silence before a bookmark.

        Raises:
            AuditTrimmed: entries after `after` were trimmed, before or while it watches.
        """
        with self._hub.subscribe((namespace_topic(namespace),)) as news:
            if after is None:
                after = (await self._log.extent(namespace)).last
            else:
                await self._require_kept(namespace, after)
            yield after
            loop = asyncio.get_running_loop()
            told = loop.time()
            while True:
                news.take()
                batch = await self._log.entries(namespace, after=after, limit=BATCH)
                if batch and batch[0].sequence > after + 1:
                    await self._require_kept(namespace, after)
                for stored in batch:
                    after = stored.sequence
                    event = _event(stored)
                    if _passes(wanted, event.entry):
                        yield event
                        told = loop.time()
                left = told + bookmark_seconds - loop.time()
                if left <= 0 or (not batch and not await _heard(news, left)):
                    yield after
                    told = loop.time()

    async def _start(self, namespace: str, query: EventQuery) -> int:
        """Return the cursor of a first page."""
        if not query.oldest_first:
            if not query.until_ms:
                return query.before or 2**63
            through = await sequence_before(self._log, namespace, query.until_ms + CLOCK_SLACK_MS)
            return min(query.before or 2**63, through + 1)
        if not query.since_ms:
            return query.after
        since = await sequence_before(self._log, namespace, query.since_ms - CLOCK_SLACK_MS)
        return max(query.after, since)

    async def _batch(self, namespace: str, query: EventQuery, at: int) -> list[StoredEntry]:
        if query.oldest_first:
            return await self._log.entries(namespace, after=at, limit=BATCH)
        return await self._log.entries_before(namespace, before=at, limit=BATCH)

    async def _require_kept(self, namespace: str, after: int) -> None:
        trimmed = (await self._keeper.kept(namespace)).trimmed_through
        if after < trimmed:
            raise AuditTrimmed(trimmed + 1)


async def _heard(news: Subscription, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            await news.wait()
    except TimeoutError:
        return False
    return True


def _event(stored: StoredEntry) -> AuditEvent:
    return AuditEvent(stored.sequence, stored.at_ms, decode_entry(stored.data))


def _beyond(query: EventQuery, stored: StoredEntry) -> bool:
    """Return whether nothing that is wanted comes after this entry."""
    if query.oldest_first:
        return bool(
            (query.before and stored.sequence >= query.before)
            or (query.until_ms and stored.at_ms >= query.until_ms + CLOCK_SLACK_MS)
        )
    return stored.sequence <= query.after or stored.at_ms < query.since_ms - CLOCK_SLACK_MS


def _is_wanted(query: EventQuery, event: AuditEvent) -> bool:
    return (
        event.at_ms >= query.since_ms
        and (not query.until_ms or event.at_ms < query.until_ms)
        and _passes(query.filter, event.entry)
    )


def _passes(wanted: EventFilter, entry: AuditEntry | None) -> bool:
    if wanted.is_empty:
        return True
    return entry is not None and wanted.passes(
        actor=entry.actor, method=entry.method, subject=entry.object, event=entry.event
    )
