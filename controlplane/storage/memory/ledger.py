"""The ledger in memory. Nothing here awaits, so every commit is atomic by itself."""

from bisect import bisect_right
from collections import deque
from collections.abc import Sequence
from itertools import islice

from controlplane.domain.audit.chain import StoredEntry
from controlplane.domain.errors import RequestIdReused
from controlplane.services.audit.encoding import decode_entry, encode_entry
from controlplane.services.ports import (
    UNFOLLOWED,
    Append,
    AuditEntry,
    ClearDeadline,
    Collection,
    Committed,
    ConditionFailed,
    Count,
    Delete,
    Put,
    Record,
    RequestKey,
    Require,
    RequireClock,
    RequireExpired,
    ResetCount,
    SetDeadline,
    Step,
    Transaction,
)
from controlplane.storage.counts import ceiling
from controlplane.storage.memory.store import (
    REQUEST_TTL_MS,
    ChangeEntry,
    MemoryStore,
    NamespaceState,
    RememberedRequest,
    random_token,
)
from controlplane.storage.stamps import stamped


class MemoryLedger:
    """`services.ports.Ledger` on a `MemoryStore`."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    async def commit(self, transaction: Transaction) -> Committed:
        """Apply a transaction; see `Ledger.commit`."""
        return self._commit(transaction)

    async def commit_many(self, transactions: Sequence[Transaction]) -> list[Committed | Exception]:
        """Apply several transactions, each for itself; see `Ledger.commit_many`."""
        outcomes: list[Committed | Exception] = []
        for transaction in transactions:
            try:
                outcomes.append(self._commit(transaction))
            except (ConditionFailed, RequestIdReused) as refusal:
                outcomes.append(refusal)
        return outcomes

    async def read(
        self, namespace: str, collection: Collection, keys: Sequence[str]
    ) -> list[Record | None]:
        """Return the newest records; see `Ledger.read`."""
        records = self._store.namespaces[namespace].records[collection]
        return [records.get(key) for key in keys]

    async def read_counts(self, namespace: str, counters: Sequence[str]) -> list[int]:
        """Return counters, in order; see `Ledger.read_counts`."""
        counts = self._store.namespaces[namespace].counts
        return [counts.get(counter, 0) for counter in counters]

    async def read_history(
        self, namespace: str, history: str, *, before: int | None = None, limit: int = 100
    ) -> list[Record]:
        """Return entries of a history, newest first; see `Ledger.read_history`."""
        entries = self._store.namespaces[namespace].histories.get(history, ())
        older = (e for e in reversed(entries) if before is None or e.revision < before)
        return list(islice(older, max(limit, 0)))

    async def read_audit(
        self, namespace: str, *, after: int = 0, limit: int = 100
    ) -> list[tuple[int, int, AuditEntry]]:
        """Return (revision, at_ms, entry), oldest first; see `Ledger.read_audit`."""
        entries = self._store.namespaces[namespace].audit
        start = bisect_right(entries, after, key=lambda entry: entry.sequence)
        return [
            (stored.sequence, stored.at_ms, entry)
            for stored in entries[start : start + max(limit, 0)]
            if (entry := decode_entry(stored.data)) is not None
        ]

    async def find_request(self, namespace: str, request: RequestKey) -> Committed | None:
        """Return the remembered result of a request; see `Ledger.find_request`.

        Raises RequestIdReused if the request_id is known with another digest.
        """
        return self._replay(self._store.namespaces[namespace], request)

    def _commit(self, transaction: Transaction) -> Committed:
        state = self._store.namespaces[transaction.namespace]
        if transaction.request is not None:
            replay = self._replay(state, transaction.request)
            if replay is not None:
                return replay
        now_ms = self._store.now_ms()
        counted: dict[str, int] = {}
        for index, step in enumerate(transaction.steps):
            if isinstance(step, Count | ResetCount):
                _count(state, index, step, counted)
            else:
                _check(state, index, step, now_ms)
        if state.revision == 0:
            state.epoch = random_token()
        state.revision += 1
        for step in transaction.steps:
            _apply(state, step, now_ms)
        _store_counts(state, counted)
        committed = Committed(state.revision, now_ms, answer=transaction.answer)
        state.changes.append(ChangeEntry(state.revision, random_token(), _touched(transaction)))
        data = encode_entry(transaction.audit)
        state.audit.append(StoredEntry(sequence=state.revision, at_ms=now_ms, data=data))
        if transaction.request is not None:
            _remember(state, transaction.request, committed)
        self._store.announce(transaction.namespace)
        return committed

    def _replay(self, state: NamespaceState, request: RequestKey) -> Committed | None:
        known = state.requests.get(request.request_id)
        if known is None or known.expires_at_ms <= self._store.now_ms():
            return None
        if known.digest != request.digest:
            raise RequestIdReused(request.request_id)
        first = known.committed
        return Committed(first.revision, first.at_ms, replayed=True, answer=first.answer)


def _check(state: NamespaceState, index: int, step: Step, now_ms: int) -> None:
    """Raise ConditionFailed if the step's condition does not hold."""
    match step:
        case Put(collection, key, expect=expect) | Delete(collection, key, expect):
            pass
        case Require(collection, key, expect):
            pass
        case RequireExpired(instance_id):
            deadline = state.deadlines.get(instance_id)
            if deadline is None or deadline > now_ms:
                raise ConditionFailed(index)
            return
        case RequireClock(not_before_ms, not_after_ms):
            if now_ms < not_before_ms or 0 < not_after_ms <= now_ms:
                raise ConditionFailed(index)
            return
        case Append(history, _, keep) if keep < 0:
            raise ValueError(f"history {history!r} cannot keep {keep} entries")
        case _:
            return
    record = state.records[collection].get(key)
    revision, generation = (record.revision, record.generation) if record else (0, 0)
    if expect.revision not in {None, revision} or expect.generation not in {None, generation}:
        raise ConditionFailed(index, revision, generation)


def _count(
    state: NamespaceState, index: int, step: Count | ResetCount, counted: dict[str, int]
) -> None:
    """Count in `counted`, which has what the transaction makes of each counter it names.

    Raises ConditionFailed if the counter would get below 0 or above what the step allows.
    """
    present = state.counts.get(step.counter, 0)
    if isinstance(step, ResetCount):
        counted[step.counter] = 0
        return
    total = counted.get(step.counter, present) + step.delta
    if not 0 <= total <= ceiling(step.at_most):
        raise ConditionFailed(index, present)
    counted[step.counter] = total


def _store_counts(state: NamespaceState, counted: dict[str, int]) -> None:
    """Make the counters what they were counted to."""
    for counter, total in counted.items():
        if total:
            state.counts[counter] = total
        else:
            state.counts.pop(counter, None)


def _apply(state: NamespaceState, step: Step, now_ms: int) -> None:
    """Carry out the step under the state's revision."""
    match step:
        case Put():
            _put(state, step, now_ms)
        case Delete(collection, key):
            state.records[collection].pop(key, None)
        case Append(history, value, keep):
            stamps = (state.revision, state.revision, now_ms, now_ms)
            kept = deque(state.histories.get(history, ()), maxlen=keep)
            kept.append(Record(history, stamped(value, stamps), *stamps))
            state.histories[history] = kept
        case SetDeadline(instance_id, after_ms):
            state.deadlines[instance_id] = now_ms + after_ms
        case ClearDeadline(instance_id):
            state.deadlines.pop(instance_id, None)
        case Require() | RequireExpired() | RequireClock() | Count() | ResetCount():
            pass


def _put(state: NamespaceState, step: Put, now_ms: int) -> None:
    records = state.records[step.collection]
    known = records.get(step.key)
    if known is None or step.fresh_generation:
        generation, created_at_ms = state.revision, now_ms
    else:
        generation, created_at_ms = known.generation, known.created_at_ms
    stamps = (state.revision, generation, now_ms, created_at_ms)
    records[step.key] = Record(step.key, stamped(step.value, stamps), *stamps)


def _touched(transaction: Transaction) -> tuple[tuple[Collection, str], ...]:
    return tuple(
        (step.collection, step.key)
        for step in transaction.steps
        if isinstance(step, Put | Delete) and step.collection not in UNFOLLOWED
    )


def _remember(state: NamespaceState, request: RequestKey, committed: Committed) -> None:
    """Remember the result, and forget those that have expired (the oldest come first)."""
    # A request that expired is put anew at the end, so that the order stays by time.
    state.requests.pop(request.request_id, None)
    for request_id, known in tuple(islice(state.requests.items(), 2)):
        if known.expires_at_ms <= committed.at_ms:
            del state.requests[request_id]
    state.requests[request.request_id] = RememberedRequest(
        request.digest, committed, committed.at_ms + REQUEST_TTL_MS
    )
