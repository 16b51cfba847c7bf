"""What is written beside an emergency stop: who has answered, and in the end that it is over."""

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import islice
from typing import Final

from controlplane.domain.drains import EmergencyStop, acknowledgement_key
from controlplane.domain.errors import StoreUnavailable
from controlplane.services.families import PLANE
from controlplane.services.lifecycle.stop_answers import (
    acknowledgement_step,
    concerns,
    has_answered,
)
from controlplane.services.ports import (
    ABSENT,
    AuditEntry,
    Clock,
    Collection,
    ConditionFailed,
    Delete,
    Expect,
    Ledger,
    Step,
    Transaction,
)
from controlplane.services.read_model import NamespaceView, ReadModel

STORE_SECONDS: Final = 3.0
"""How long an acknowledgement waits for its commit; the instance repeats one that was not taken."""

KEPT_MS: Final = 604_800_000
"""How long a stop is kept, 7 days, and until nobody is left who must still be told: a stop of a
large fleet names thousands of processes, in the memory of every replica."""

ANSWERS_AT_ONCE: Final = 1_000
"""Answers removed in one commit: a few milliseconds of the store."""

Said = tuple[str, str, int]
"""stop_id, instance_id and generation of a process that says it has stopped."""


async def note_answers(
    ledger: Ledger, read_model: ReadModel, clock: Clock, namespace: str, said: Iterable[Said]
) -> None:
    """Note that processes have stopped working, all in one commit.

    Ignored: those of unknown stops, of processes that were not told or are not the current ones,
    and repetitions. Never fails for want of the store: whoever acknowledges is told to stop until
    it is known, and acknowledges again.
    """
    view = read_model.view(namespace)
    news = [one for one in dict.fromkeys(said) if _is_news(view, *one)]
    try:
        async with asyncio.timeout(STORE_SECONDS):
            while news:
                if await _note(ledger, namespace, news, clock.store_ms()):
                    return
                # Another replica was told some of them first.
                news = await _unknown(ledger, namespace, news)
    except (StoreUnavailable, TimeoutError):
        return


async def _note(ledger: Ledger, namespace: str, news: Sequence[Said], now_ms: int) -> bool:
    steps = tuple(
        replace(acknowledgement_step(stop_id, name, now_ms, left=False), expect=ABSENT)
        for stop_id, name, _ in news
    )
    transaction = Transaction(
        namespace=namespace,
        steps=steps,
        audit=AuditEntry(
            actor=PLANE,
            method="Heartbeat",
            object=f"stops/{news[0][0]}",
            event="emergency_stop.acknowledged",
            details={"instances": str(len(news))},
        ),
    )
    try:
        await ledger.commit(transaction)
    except ConditionFailed:
        return False
    return True


async def _unknown(ledger: Ledger, namespace: str, news: Sequence[Said]) -> list[Said]:
    keys = [acknowledgement_key(stop_id, name) for stop_id, name, _ in news]
    records = await ledger.read(namespace, Collection.STOP_ACKNOWLEDGEMENTS, keys)
    return [one for one, record in zip(news, records, strict=True) if record is None]


def _is_news(view: NamespaceView, stop_id: str, instance_id: str, generation: int) -> bool:
    stop, live = view.work.stops.get(stop_id), view.instances.get(instance_id)
    return (
        stop is not None
        and live is not None
        and live.instance.generation == generation
        and concerns(stop, live.instance)
        and not has_answered(view, stop_id, instance_id)
    )


async def forget_old(ledger: Ledger, read_model: ReadModel, clock: Clock, namespace: str) -> int:
    """Remove stops that began long ago and that nobody is told any more; return how many.

    A stop with very many answers takes several looks; its record goes last.
    """
    view, now_ms = read_model.view(namespace), clock.store_ms()
    forgotten = 0
    for stop in tuple(view.work.stops.values()):
        over = stop.settled and now_ms - stop.started_at_ms > KEPT_MS
        if over and not _is_told(view, stop):
            forgotten += await _forget(ledger, view, stop)
    return forgotten


def _is_told(view: NamespaceView, stop: EmergencyStop) -> bool:
    """Return whether a process that is still known has not answered."""
    entries = (view.agents.get(agent_id) for agent_id in stop.agent_ids)
    return any(
        concerns(stop, live.instance) and not has_answered(view, stop.stop_id, name)
        for entry in entries
        if entry is not None
        for name, live in entry.instances.items()
    )


async def _forget(ledger: Ledger, view: NamespaceView, stop: EmergencyStop) -> bool:
    """Remove answers, and the stop itself once they are all gone; return whether it went."""
    answers = view.work.stop_acknowledgements.get(stop.stop_id, {})
    steps: list[Step] = [
        Delete(Collection.STOP_ACKNOWLEDGEMENTS, acknowledgement_key(stop.stop_id, name))
        for name in islice(answers, ANSWERS_AT_ONCE)
    ]
    whole = len(steps) == len(answers)
    if whole:
        steps.append(Delete(Collection.STOPS, stop.stop_id, Expect(revision=stop.revision)))
    transaction = Transaction(
        namespace=view.name,
        steps=tuple(steps),
        audit=AuditEntry(
            actor=PLANE,
            method="EmergencyStop",
            object=f"stops/{stop.stop_id}",
            event="emergency_stop.forgotten" if whole else "",
        ),
    )
    try:
        await ledger.commit(transaction)
    except ConditionFailed:
        return False
    return whole
