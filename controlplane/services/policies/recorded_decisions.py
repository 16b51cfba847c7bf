"""Finds recorded decisions: one by its id, many by what they have in common."""

from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass
from typing import Final

from controlplane.domain.decisions.query import FOREVER_MS, DecisionQuery
from controlplane.domain.decisions.records import (
    DecisionGap,
    DecisionName,
    DecisionRecord,
    parse_decision_id,
)
from controlplane.domain.decisions.refusals import DecisionNotFound
from controlplane.domain.errors import InvalidArgument
from controlplane.services.policies.decision_history import DecisionHistory, content_of
from controlplane.services.policies.decision_log_port import (
    DecisionBatch,
    DecisionLog,
    place_at,
)
from controlplane.services.policies.decision_packing import Columns, record_of
from controlplane.services.ports import Clock

LOCAL_SOURCE: Final = "local:"
"""How the sources of batches begin that agents have reported."""

LATE_MS: Final = 10 * 60 * 1000
"""How long after it was made a decision is looked for in the log by its time: the queue of a
replica holds that much of a store's absence. What came later still is found by other means than
its time."""

EARLY_MS: Final = 5 * 60 * 1000
"""How much earlier than it was made an agent may report one: the clocks of agents are not the
store's."""

ID_TIME_MS: Final = 60_000
"""By how much the time in an id that an agent has made may be another than that of its decision."""

LOOKED_AT: Final = 10_000
"""Decisions that are unpacked for one page: some 50 ms, between which others are served."""

SKIPPED: Final = 2_000
"""Batches that are looked at for one page or one id, most of them by their heads only."""

SETTLED_MS: Final = 15_000
"""A replica stores its decisions in their order but for this much."""

SKEW_MS: Final = 2_000
"""How much earlier than it was made a replica's decision may be stored: replicas estimate the clock
of the store, and a store that fails over goes on with another one."""

FRESH_MS: Final = 1_000
"""A decision this young may not be stored yet: it is looked for again ..."""

AGAIN_SECONDS: Final = 0.15
"""... after so long."""


@dataclass(frozen=True, slots=True)
class DecisionPage:
    """Some entries of the log, newest first."""

    entries: tuple[DecisionRecord | DecisionGap, ...]
    next_cursor: str
    """Where the next page begins; empty on the last one."""
    scanned: int
    """Decisions that were unpacked."""


class RecordedDecisions:
    """Searches the log of a namespace."""

    def __init__(self, log: DecisionLog, clock: Clock) -> None:
        self._history = DecisionHistory(log)
        self._clock = clock

    async def get(self, namespace: str, decision_id: str) -> DecisionRecord:
        """Return one decision.

        Raises:
            InvalidArgument: that is no decision_id.
            DecisionNotFound: it is not recorded, or not any more.
            StoreUnavailable: the store does not answer.
        """
        name = parse_decision_id(decision_id)
        if name is None:
            raise InvalidArgument.of("decision_id", "must be as PolicyDecision.decision_id says")
        while True:
            # Anybody may ask for ids of the future: they are not waited for.
            fresh = abs(self._clock.store_ms() - name.at_ms) < FRESH_MS
            found = await self._look_for(namespace, name, decision_id)
            if found is not None:
                return found
            if not fresh:
                raise DecisionNotFound(decision_id)
            await self._clock.sleep(AGAIN_SECONDS)

    async def _look_for(
        self, namespace: str, name: DecisionName, decision_id: str
    ) -> DecisionRecord | None:
        """Look where a replica stores it, then where an agent with a fast clock does.

        Agents choose the ids in their reports, so one may be that of a replica's decision: what
        a replica recorded goes first, wherever it stands.
        """
        own = (name.source, f"{name.source}-sync")
        reported: DecisionRecord | None = None
        looked_at, is_own = 0, False
        async for stored in self._history.stored_after(
            namespace, after=place_at(name.at_ms - SKEW_MS), to_ms=name.at_ms + LATE_MS
        ):
            batch = stored.batch
            looked_at += 1
            is_own = is_own or batch.source in own
            settled_ms = name.at_ms + SETTLED_MS
            if (
                looked_at > SKIPPED
                or (batch.source in own and batch.first_ms > settled_ms)
                or (reported is not None and not is_own and stored.at_ms > settled_ms)
            ):
                break
            found = _found_in(batch, name, own, decision_id)
            if found is not None and batch.source in own:
                return found
            reported = reported or found
        if is_own:
            return None  # an id of a replica: what an agent reports under it is another decision
        if reported is not None:
            return reported
        return await self._look_before(namespace, name, decision_id)

    async def _look_before(
        self, namespace: str, name: DecisionName, decision_id: str
    ) -> DecisionRecord | None:
        """Look among what was stored before the decision says that it was made."""
        own = (name.source, f"{name.source}-sync")
        looked_at = 0
        async for stored in self._history.batches(
            namespace,
            before=place_at(name.at_ms - SKEW_MS),
            from_ms=max(name.at_ms - EARLY_MS, 0),
        ):
            looked_at += 1
            if looked_at > SKIPPED:
                break
            found = _found_in(stored.batch, name, own, decision_id)
            if found is not None:
                return found
        return None

    async def query(
        self, namespace: str, query: DecisionQuery, *, cursor: str, limit: int
    ) -> DecisionPage:
        """Return entries after a cursor, newest first: decisions that are meant, and all gaps.

        Raises:
            InvalidArgument: a query that cannot be meant.
            StoreUnavailable: the store does not answer.
        """
        query.require_valid()
        scan = _Scan(query, limit)
        place, _, row = cursor.partition("/")
        below = int(row) if row else None
        before = _just_after(place) if place else _end(query)
        async for stored in self._history.batches(
            namespace, before=before, from_ms=max(query.from_ms - EARLY_MS, 0)
        ):
            rest = scan.take(stored.batch, below if stored.place == place else None)
            if rest is not None:
                return DecisionPage(tuple(scan.found), f"{stored.place}/{rest}", scan.unpacked)
        return DecisionPage(tuple(scan.found), "", scan.unpacked)


class _Scan:
    """Goes through batches until a page is full, or enough was looked at."""

    def __init__(self, query: DecisionQuery, limit: int) -> None:
        self._query = query
        self._limit = limit
        self._batches = 0
        self.found: list[DecisionRecord | DecisionGap] = []
        self.unpacked = 0

    def take(self, batch: DecisionBatch, below: int | None) -> int | None:
        """Look at a batch, at its rows below a number; return where to go on if it has to end."""
        rows = max(batch.count, 1) if below is None else below  # a gap is one row
        self._batches += 1
        if self._batches > SKIPPED or (self.unpacked and self.unpacked + batch.count > LOOKED_AT):
            return rows
        query = self._query
        if batch.last_ms < query.from_ms or batch.first_ms >= query.to_ms:
            return None
        content = content_of(batch)
        if isinstance(content, Columns):
            self.unpacked += rows
            return self._take_rows(content, rows)
        if content is not None and rows:
            if len(self.found) >= self._limit:
                return rows
            self.found.append(content)
        return None

    def _take_rows(self, columns: Columns, rows: int) -> int | None:
        for row in matching(self._query, columns, rows):
            if len(self.found) >= self._limit:
                return row + 1
            self.found.append(record_of(columns, row))
        return None


def matching(query: DecisionQuery, columns: Columns, below: int) -> Iterator[int]:
    """Yield the rows that are meant, last first, below a number.

    What repeats is judged once, in its table.
    """
    answers = {n for n, decision in enumerate(columns.answers) if query.wants(decision)}
    agents = {
        n
        for n, facts in enumerate(columns.facts)
        if query.agent_id in ("", facts.get("agent_id"))
        and query.agent_name in ("", facts.get("agent_name"))
    }
    if not answers or not agents:
        return
    actions = _actions(query.action_test(), columns)
    for row in range(below - 1, -1, -1):
        if (
            columns.answer_of[row] in answers
            and columns.facts_of[row] in agents
            and query.from_ms <= columns.at_ms[row] < query.to_ms
            and (actions is None or columns.action[row] in actions)
            and query.tool in ("", columns.tool[row])
            and query.session_id in ("", columns.session_id[row])
        ):
            yield row


def _actions(test: Callable[[str], bool] | None, columns: Columns) -> Container[str] | None:
    return None if test is None else {action for action in set(columns.action) if test(action)}


def _found_in(
    batch: DecisionBatch, name: DecisionName, own: tuple[str, str], decision_id: str
) -> DecisionRecord | None:
    if not _may_hold(batch, name, own):
        return None
    columns = content_of(batch)
    if not isinstance(columns, Columns) or decision_id not in columns.decision_id:
        return None
    return record_of(columns, columns.decision_id.index(decision_id))


def _may_hold(batch: DecisionBatch, name: DecisionName, own: tuple[str, str]) -> bool:
    slack = ID_TIME_MS if batch.source.startswith(LOCAL_SOURCE) else 0
    if not batch.first_ms - slack <= name.at_ms <= batch.last_ms + slack:
        return False
    return batch.source in own or bool(slack)


def _just_after(place: str) -> str:
    milliseconds, _, number = place.partition("-")
    return f"{milliseconds}-{int(number) + 1}"


def _end(query: DecisionQuery) -> str:
    """Return the place below which decisions made before the end of a query are recorded."""
    return place_at(query.to_ms + LATE_MS) if query.to_ms < FOREVER_MS else ""
