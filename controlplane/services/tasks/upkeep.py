"""Removes what nobody needs any more: tasks that ended long ago, old pins, streams of the gone.

Nothing here is urgent, so it is done in small batches now and then; every replica does it, and who
comes second finds nothing left.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice, repeat
from typing import Final

from controlplane.domain.errors import StoreUnavailable
from controlplane.services.families import PLANE
from controlplane.services.ports import (
    AuditEntry,
    Clock,
    Collection,
    Committed,
    Delete,
    Expect,
    Ledger,
    Step,
    Transaction,
)
from controlplane.services.read_model import NamespaceView
from controlplane.services.tasks.steps import removal_steps

RETENTION_SECONDS: Final = 1.0
"""Mean time between two rounds of removing old tasks."""

REMOVED_AT_ONCE: Final = 1_000
"""Old tasks removed in one round: as many per second as a busy namespace ends."""

PER_COMMIT: Final = 50
"""Records removed in one commit, up to four steps each."""

SCAN_SECONDS: Final = 30.0
"""Mean time between two scans of pins and streams; both outlive their use by hours otherwise."""

SCANNED_AT_ONCE: Final = 2_000
"""Pins and streams looked at in one call: about a millisecond."""

_METHOD: Final = "Sweep"


@dataclass(slots=True)
class _Namespace:
    """Where upkeep stands in a namespace."""

    retention_at: float = 0.0
    """Monotonic seconds."""
    scan_at: float = 0.0
    scan: Iterator[tuple[Collection, str]] = field(default_factory=lambda: iter(()))


class TaskUpkeep:
    """Does a bounded piece of the work whenever it is called."""

    def __init__(self, ledger: Ledger, clock: Clock, *, retention_ms: int, pin_ms: int) -> None:
        """Keep ended tasks for `retention_ms`, unused session pins for `pin_ms`."""
        self._ledger = ledger
        self._clock = clock
        self._retention_ms = retention_ms
        self._pin_ms = pin_ms
        self._random = random.Random()  # noqa: S311 - spreads load, protects nothing
        self._namespaces: dict[str, _Namespace] = {}

    async def round(self, view: NamespaceView) -> int:
        """Do what is due in a namespace; return how many records were removed.

        Raises:
            StoreUnavailable: the store did not answer; nothing is lost.
        """
        known = self._namespaces.setdefault(view.name, _Namespace())
        now = self._clock.monotonic()
        removed = 0
        if now >= known.retention_at:
            known.retention_at = now + self._soon(RETENTION_SECONDS)
            removed += await self._remove_old_tasks(view)
        if now >= known.scan_at:
            known.scan_at = now + self._soon(SCAN_SECONDS)
            # Only the keys are copied at once: there may be a million pins.
            known.scan = chain(
                zip(repeat(Collection.SESSION_PINS), tuple(view.work.pins)),
                zip(repeat(Collection.TASK_STREAMS), tuple(view.work.task_streams)),
            )
        removed += await self._scan(view, list(islice(known.scan, SCANNED_AT_ONCE)))
        return removed

    def _soon(self, seconds: float) -> float:
        return seconds * self._random.uniform(0.5, 1.5)

    async def _remove_old_tasks(self, view: NamespaceView) -> int:
        index = view.work.tasks
        due = index.ended.due(self._clock.store_ms() - self._retention_ms, REMOVED_AT_ONCE)
        steps = [removal_steps(index.all[task_id]) for task_id in due]
        return await self._commit(view.name, "tasks", "task.removed", steps)

    async def _scan(self, view: NamespaceView, records: Sequence[tuple[Collection, str]]) -> int:
        now_ms = self._clock.store_ms()
        pins: list[tuple[Step, ...]] = []
        streams: list[tuple[Step, ...]] = []
        for collection, key in records:
            if collection is Collection.SESSION_PINS:
                pin = view.work.pins.get(key)
                if pin is None or pin.used_at_ms + self._pin_ms > now_ms:
                    continue
                if pin.session_id not in view.work.tasks.by_session:
                    pins.append((Delete(collection, key, Expect(revision=pin.revision)),))
            else:
                stream = view.work.task_streams.get(key)
                if stream is not None and _is_gone(view, key, stream.generation_of_instance):
                    streams.append((Delete(collection, key, Expect(revision=stream.revision)),))
        removed = await self._commit(view.name, "pins", "", pins)
        return removed + await self._commit(view.name, "taskstreams", "", streams)

    async def _commit(
        self, namespace: str, what: str, event: str, removals: Sequence[tuple[Step, ...]]
    ) -> int:
        """Remove records, some in each commit; what somebody else has changed stays for now."""
        transactions: list[Transaction] = []
        sizes: list[int] = []
        for start in range(0, len(removals), PER_COMMIT):
            some = removals[start : start + PER_COMMIT]
            steps = tuple(step for steps in some for step in steps)
            audit = AuditEntry(
                actor=PLANE,
                method=_METHOD,
                object=what,
                event=event,
                reason="kept long enough",
                details={"removed": str(len(some))},
            )
            transactions.append(Transaction(namespace=namespace, steps=steps, audit=audit))
            sizes.append(len(some))
        if not transactions:
            return 0
        results = await self._ledger.commit_many(transactions)
        for result in results:
            if isinstance(result, StoreUnavailable):
                raise result
        pairs = zip(sizes, results, strict=True)
        return sum(size for size, result in pairs if isinstance(result, Committed))


def _is_gone(view: NamespaceView, instance_id: str, generation: int) -> bool:
    """Whether the process that opened a stream is no more."""
    live = view.instances.get(instance_id)
    return live is None or live.instance.generation != generation
