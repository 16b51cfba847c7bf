"""Waiting for an approval, and following many. No approval holds a task of its own."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Final

from controlplane.domain.approvals.changes import next_end_ms, seen
from controlplane.domain.approvals.model import Approval, ApprovalState
from controlplane.services.approvals.parts import parts_of
from controlplane.services.approvals.records import ApprovalRecords
from controlplane.services.hub import Subscription, governance_topic, governed_topic
from controlplane.services.ports import Clock, Collection, Position
from controlplane.services.read_model import NamespaceView, ReadModel

LONGEST_WAIT_MS: Final = 55_000
"""Longest wait of one call: below the 60 s after which many proxies cut an idle one."""

POLL_AFTER_MS: Final = 1_000
"""When to ask again: soon, because the next call waits again."""

BOOKMARK_SECONDS: Final = 15.0
"""Silence after which a watcher is told how far it is: well below the 30 s of keepalive proxies."""

PART_SIZE: Final = 100
"""Approvals per message, and fewer of large ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Waited:
    """An approval at the end of a wait."""

    approval: Approval
    poll_after_ms: int
    """When to ask again; 0: there is nothing to wait for."""


class ApprovalWaits:
    """Waits for single approvals."""

    def __init__(self, read_model: ReadModel, records: ApprovalRecords, clock: Clock) -> None:
        self._read_model = read_model
        self._records = records
        self._clock = clock

    async def get(self, namespace: str, approval_id: str, *, min_revision: int) -> Approval:
        """Return an approval as it is now.

        Raises:
            ApprovalNotFound: there is none.
        """
        view = await self._records.heard(namespace, approval_id, min_revision)
        found: Approval | None = view.governance.table(Collection.APPROVALS).get(approval_id)
        if found is None:
            found = await self._records.stored(namespace, approval_id)
        return seen(found, self._clock.store_ms())

    async def wait(self, namespace: str, approval_id: str, *, wait_ms: int) -> Waited:
        """Return an approval once it can be used or has ended; as it is when the wait is over.

        Args:
            namespace: Tenant.
            approval_id: Which.
            wait_ms: How long, at most `LONGEST_WAIT_MS`.

        Raises:
            ApprovalNotFound: there is none.
        """
        until = self._clock.monotonic() + min(wait_ms, LONGEST_WAIT_MS) / 1000
        topic = governed_topic(namespace, Collection.APPROVALS, approval_id)
        with self._read_model.hub.subscribe((topic,)) as news:
            while True:
                news.take()  # what is known by now, the look sees
                approval = await self.get(namespace, approval_id, min_revision=0)
                now_ms = self._clock.store_ms()
                if not is_waited_for(approval, now_ms):
                    return Waited(approval=approval, poll_after_ms=0)
                left = until - self._clock.monotonic()
                if left <= 0:
                    return Waited(approval=approval, poll_after_ms=POLL_AFTER_MS)
                await heard(news, min(left, _changes_by_itself_in(approval, now_ms)), self._clock)


def is_waited_for(approval: Approval, now_ms: int) -> bool:
    """Return whether somebody who wants to use an approval has to wait for it still."""
    if approval.state is ApprovalState.GRANTED:
        return now_ms < approval.not_before_ms
    return approval.state is ApprovalState.PENDING


def _changes_by_itself_in(approval: Approval, now_ms: int) -> float:
    """Return in how many seconds time will make something else of an open approval."""
    waits_for_delay = approval.state is ApprovalState.GRANTED and now_ms < approval.not_before_ms
    at = approval.not_before_ms if waits_for_delay else next_end_ms(approval)
    return max(at - now_ms, 1) / 1000


async def heard(news: Subscription, seconds: float, clock: Clock) -> bool:
    """Wait for news, for at most so long on the clock; return whether there were any."""
    hearing = asyncio.ensure_future(news.wait())
    timer = asyncio.ensure_future(clock.sleep(seconds))
    try:
        done, _ = await asyncio.wait((hearing, timer), return_when=asyncio.FIRST_COMPLETED)
        return hearing in done
    finally:
        hearing.cancel()
        timer.cancel()
        await asyncio.gather(hearing, timer, return_exceptions=True)


Wanted = Callable[[Approval], bool]
"""Whether a watcher wants to see an approval now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotPart:
    """A part of the present state, by approval_id; with the last one it is `complete`."""

    approvals: tuple[Approval, ...]
    complete: bool
    position: Position


@dataclass(frozen=True, slots=True, kw_only=True)
class Delta:
    """Approvals that are new or changed, and ids that are gone or no longer wanted."""

    approvals: tuple[Approval, ...]
    removed_ids: tuple[str, ...]
    position: Position


@dataclass(frozen=True, slots=True, kw_only=True)
class Bookmark:
    """Everything up to the position was sent."""

    position: Position


WatchEvent = SnapshotPart | Delta | Bookmark


class ApprovalWatch:
    """Follows the approvals of a namespace that are wanted, for one stream.

    What is wanted may change with time (who may decide, what has expired), so each look compares
    what the watcher holds with what it should: `revision` of each approval it was sent.
    """

    def __init__(self, read_model: ReadModel, namespace: str, wanted: Wanted, clock: Clock) -> None:
        self._read_model = read_model
        self._namespace = namespace
        self._wanted = wanted
        self._clock = clock
        self._held: dict[str, tuple[int, ApprovalState]] = {}
        self._told = Position()
        """Everything up to here was sent."""

    async def events(
        self, epoch: str = "", revision: int = 0, *, bookmark_seconds: float = BOOKMARK_SECONDS
    ) -> AsyncGenerator[WatchEvent, None]:
        """Yield events for ever, to a watcher that holds `epoch` and `revision` ("" for nothing).

        One that resumes is sent what changed since; what was removed meanwhile had ended long
        before. A position of another epoch, or ahead of this replica, counts as none.

        Raises:
            NotReady: nothing is loaded yet.
        """
        topic = governance_topic(self._namespace, Collection.APPROVALS)
        with self._read_model.hub.subscribe((topic,)) as news:
            view = self._read_model.view(self._namespace)
            resumes = epoch == view.position.epoch and revision <= view.position.revision
            if epoch and resumes:
                self._hold_until(view, revision)
                self._told = Position(epoch, revision)
                owes_a_word = True
            else:
                for part in self._snapshot(view):
                    yield part
                owes_a_word = False
            while True:
                view = self._read_model.view(self._namespace)
                deltas = list(self._deltas(view))
                for delta in deltas:
                    yield delta
                if owes_a_word and not deltas:
                    yield Bookmark(position=view.position)
                pause = min(bookmark_seconds, self._next_end(view))
                owes_a_word = not await heard(news, pause, self._clock)

    def _approvals(self, view: NamespaceView) -> dict[str, Approval]:
        """Return what is wanted now, by id, in the order of the ids."""
        now_ms = self._clock.store_ms()
        table: Mapping[str, Approval] = view.governance.table(Collection.APPROVALS)
        shown = ((key, seen(table[key], now_ms)) for key in sorted(table))
        return {key: approval for key, approval in shown if self._wanted(approval)}

    def _hold_until(self, view: NamespaceView, revision: int) -> None:
        """Note what a watcher holds that was sent everything up to a revision."""
        table: Mapping[str, Approval] = view.governance.table(Collection.APPROVALS)
        self._held = {
            key: (approval.revision, approval.state)
            for key, approval in table.items()
            if approval.revision <= revision
        }

    def _snapshot(self, view: NamespaceView) -> Iterator[SnapshotPart]:
        position = self._told = view.position
        approvals = list(self._approvals(view).values())
        self._held = {one.approval_id: (one.revision, one.state) for one in approvals}
        left = len(approvals)
        for part in parts_of(approvals, PART_SIZE) if approvals else ((),):
            left -= len(part)
            yield SnapshotPart(approvals=part, complete=left == 0, position=position)

    def _deltas(self, view: NamespaceView) -> Iterator[Delta]:
        wanted = self._approvals(view)
        changed = [
            one for key, one in wanted.items() if self._held.get(key) != (one.revision, one.state)
        ]
        removed = sorted(self._held.keys() - wanted.keys())
        self._held = {key: (one.revision, one.state) for key, one in wanted.items()}
        before, self._told = self._told, view.position
        yield from _in_parts(changed, removed, before, view.position)

    def _next_end(self, view: NamespaceView) -> float:
        """Return in how many seconds time ends the next of the open approvals."""
        tables = view.governance
        table: Mapping[str, Approval] = tables.table(Collection.APPROVALS)
        ids = tables.table(Collection.OPEN_APPROVALS).values()
        now_ms = self._clock.store_ms()
        ends = (next_end_ms(table[one]) for one in ids if one in table)
        ahead = (end for end in ends if end > now_ms)
        return max(min(ahead, default=now_ms + 3_600_000) - now_ms, 1) / 1000


def _in_parts(
    changed: Sequence[Approval], removed: Sequence[str], before: Position, position: Position
) -> Iterator[Delta]:
    """Yield what fits into messages; only with the last one everything up to `position` is sent."""
    gone = [tuple(removed[at : at + PART_SIZE]) for at in range(0, len(removed), PART_SIZE)]
    parts = [*zip_longest(parts_of(changed, PART_SIZE), gone, fillvalue=())]
    for left, (approvals, ids) in zip(range(len(parts) - 1, -1, -1), parts, strict=True):
        reached = before if left else position
        yield Delta(approvals=approvals, removed_ids=ids, position=reached)
