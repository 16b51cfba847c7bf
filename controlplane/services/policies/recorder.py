"""Records every decision: taken on the path of its answer, handed to the store off that path.

On the path a call costs one tuple. Encoding, masking and writing happen when
`tasks/decision_flusher` takes batches from here. What is lost when:

    SYNC      nothing that was answered
    ASYNC     what was answered in the last tenth of a second, if the process is killed; what a full
              queue sheds, which the log then says
    SAMPLED   as ASYNC, of the share that is recorded
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from itertools import count
from random import random
from typing import Final, NamedTuple

from controlplane.domain.decisions.masking import mask_of
from controlplane.domain.decisions.records import DecisionRecord, Origin
from controlplane.domain.policy_settings import DecisionLogRule, DecisionLogSettings, Durability
from controlplane.services.policies.answers import Answered
from controlplane.services.policies.decision_log_port import DecisionBatch
from controlplane.services.policies.decision_packing import ColumnsBuilder, gap_batch
from controlplane.services.policies.decision_queue import Bounds, DecisionQueue, Taken
from controlplane.services.policies.durability import DurabilityRules

CHUNK: Final = 1_000
"""Decisions of one batch: a few milliseconds to pack here, and to unpack for who reads it."""

CHUNK_BYTES: Final = 8 << 20
"""What the decisions of one batch hold in memory, about: at most 2 MiB in the store."""

RECORD_BYTES: Final = 1_200
"""What a decision without claims holds in memory while it waits: id, request, shared facts."""

CLAIM_FACTOR: Final = 5
"""Bytes in memory per byte of a request on the wire: values become objects."""

MAX_RECORDS: Final = 50_000
"""Decisions that wait for the store; half of a second at the highest rate one process reaches."""

MAX_BYTES: Final = 64 << 20
"""What they may hold in memory."""

_log: Final = logging.getLogger("fleetplane.decisions")

Listener = Callable[[str, Sequence[DecisionRecord]], None]
"""Is told of the decisions of a namespace as they were made: nothing is masked, so nothing of it
may be kept or shown. Called between other work, so it must be quick; what it raises is logged."""


def _always(_namespace: str) -> bool:
    return True


class SynchronousBatch(NamedTuple):
    """A batch that calls wait for."""

    batch: DecisionBatch
    calls: "Sequence[asyncio.Future[None]]"


class Recorder:
    """Keeps decisions until the store has them; one per replica."""

    def __init__(
        self,
        source: str,
        *,
        max_records: int = MAX_RECORDS,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        """Record as `source`, the replica's part of `DecisionIds`.

        The bounds hold for all namespaces together; one of them fills half of them at most.
        """
        self.source = source
        self.queues: dict[str, DecisionQueue] = {}
        self.bounds = Bounds(max_records, max_bytes)
        self.synchronous = asyncio.Event()
        """Set when a call waits for its record."""
        self._sequence = count(1)
        self._listeners: list[tuple[Listener, Callable[[str], bool]]] = []

    @property
    def lost(self) -> int:
        """Decisions that were not recorded since the process began, whatever the cause."""
        return self.bounds.lost

    def subscribe(
        self, listener: Listener, *, wanted: Callable[[str], bool] = _always
    ) -> Callable[[], None]:
        """Have `listener` told of every recorded decision; returns what ends that.

        It hears of namespaces that are `wanted` only, which is asked per batch: a record for
        somebody who does not look at it costs as much as the decision.
        """
        listening = listener, wanted
        self._listeners.append(listening)
        return lambda: self._listeners.remove(listening)

    def record(
        self,
        namespace: str,
        settings: DecisionLogSettings,
        answers: Sequence[Answered],
        *,
        caller: str,
        latency_ns: int,
        request_bytes: int,
    ) -> "asyncio.Future[None] | None":
        """Take the decisions of one call.

        Returns None, or what the call must await before it answers: the record itself if one of
        them is SYNC (fails with StoreUnavailable: nothing may be answered), else room in the queue
        (never fails).
        """
        queue = self.queues.get(namespace)
        if queue is None:
            queue = self.queues[namespace] = DecisionQueue(self.bounds, settings)
        elif queue.rules.settings is not settings:
            queue.rules = DurabilityRules(settings)
        taken = Taken(
            answers,
            caller,
            latency_ns,
            len(answers) * RECORD_BYTES + request_bytes * CLAIM_FACTOR,
            settings.masked_paths,
        )
        if queue.rules.all_async:
            return queue.put(taken)
        return self._by_rule(queue, taken)

    def _by_rule(self, queue: DecisionQueue, taken: Taken) -> "asyncio.Future[None] | None":
        groups: dict[int, tuple[DecisionLogRule, list[Answered]]] = {}
        for answered in taken.answers:
            rule = queue.rules.of(answered.request.action)
            groups.setdefault(id(rule), (rule, []))[1].append(answered)
        synchronous: list[Answered] = []
        room: asyncio.Future[None] | None = None
        for rule, answers in groups.values():
            if rule.durability is Durability.SYNC:
                synchronous += answers
                continue
            rate = 1.0
            if rule.durability is Durability.SAMPLED:
                rate = rule.sample_rate
                answers = [one for one in answers if random() < rate]  # noqa: S311, PLW2901 - a share, no secret
            if answers:
                share = taken.bytes * len(answers) // len(taken.answers)
                part = taken._replace(answers=answers, bytes=share, sample_rate=rate)
                room = queue.put(part) or room
        if not synchronous:
            return room
        stored = queue.put_synchronous(taken._replace(answers=synchronous))
        self.synchronous.set()
        return stored

    def waiting_namespaces(self) -> tuple[str, ...]:
        """Return the namespaces in which calls wait for their records."""
        return tuple(name for name, queue in self.queues.items() if queue.has_synchronous)

    def next_synchronous(self, namespace: str) -> SynchronousBatch | None:
        """Return the next batch that calls wait for; None: there is none.

        Sets `synchronous` again if more is left.
        """
        queue = self.queues.get(namespace)
        waiting = queue.take_synchronous(CHUNK, CHUNK_BYTES) if queue is not None else ()
        if queue is not None and queue.has_synchronous:
            self.synchronous.set()
        if not waiting:
            return None
        batch = self._packed(namespace, [taken for taken, _ in waiting], f"{self.source}-sync")
        return SynchronousBatch(batch, [stored for _, stored in waiting])

    def next_batch(
        self, namespace: str, now_ms: int, *, at_once: bool = False
    ) -> DecisionBatch | None:
        """Return the next batch of the others, or a gap; None: there is nothing (yet).

        `stored` is to be called once it is in the store. `at_once`: tell gaps without waiting for
        their end.
        """
        queue = self.queues[namespace]
        gap = queue.take_gap(self.source, now_ms, at_once=at_once and queue.is_empty)
        if gap is not None:
            _log.warning(
                "decisions were not recorded",
                extra={"namespace": namespace, "number_lost": gap.number_lost},
            )
            return gap_batch(gap, self.source, next(self._sequence))
        chunk = queue.take(CHUNK, CHUNK_BYTES)
        return self._packed(namespace, chunk, self.source) if chunk else None

    def stored(self, namespace: str) -> None:
        """Take note that the last `next_batch` is in the store."""
        self.queues[namespace].stored()

    def forget_idle(self) -> None:
        """Drop the queues that hold nothing."""
        for namespace, queue in tuple(self.queues.items()):
            if queue.is_idle:
                del self.queues[namespace]

    def _packed(self, namespace: str, chunk: Sequence[Taken], source: str) -> DecisionBatch:
        builder = ColumnsBuilder(Origin.SERVER)
        _add(builder, chunk)
        listeners = [one for one, wanted in self._listeners if _wants(wanted, namespace)]
        if listeners:
            _tell(listeners, namespace, chunk)
        return builder.batch(source, next(self._sequence))


def _wants(wanted: Callable[[str], bool], namespace: str) -> bool:
    try:
        return wanted(namespace)
    except Exception:  # noqa: BLE001 - the record must not depend on who listens
        _log.exception("a listener to decisions failed")
        return False


def _tell(listeners: Sequence[Listener], namespace: str, chunk: Sequence[Taken]) -> None:
    records = [
        DecisionRecord(
            decision_id=answered.decision_id,
            at_ms=answered.request.now_ms,
            action=answered.request.action,
            decision=answered.decision,
            tool=answered.request.tool,
            session_id=answered.session_id,
            claims=answered.request.claims,
            facts=answered.request.facts,
            caller=taken.caller,
            latency_ns=taken.latency_ns,
            sample_rate=taken.sample_rate,
        )
        for taken in chunk
        for answered in taken.answers
    ]
    for listener in listeners:
        try:
            listener(namespace, records)
        except Exception:  # noqa: BLE001 - the record must not depend on who listens
            _log.exception("a listener to decisions failed")


def _add(builder: ColumnsBuilder, chunk: Sequence[Taken]) -> None:
    """Add the decisions of some calls: column by column, a third of the price of row by row."""
    answers = [answered for taken in chunk for answered in taken.answers]
    decisions, ids, requests, rules, sessions, _ = zip(*answers, strict=True)
    builder.decision_id += ids
    builder.session_id += sessions
    builder.at_ms += [request.now_ms for request in requests]
    builder.action += [request.action for request in requests]
    builder.tool += [request.tool for request in requests]
    builder.claims += [request.claims for request in requests]
    builder.facts_of += builder.agents([request.facts for request in requests])
    builder.answer_of += builder.answers(decisions, lambda place: rules[place].digest)
    first = 0
    for taken in chunk:
        number = len(taken.answers)
        builder.caller_of += [builder.caller(taken.caller)] * number
        builder.latency_ns += [taken.latency_ns] * number
        rows = range(first, first + number)
        if taken.sample_rate < 1:
            builder.sample_rate.update(dict.fromkeys(rows, taken.sample_rate))
        if taken.masked_paths:
            builder.mask(mask_of(taken.masked_paths), rows)
        first += number
