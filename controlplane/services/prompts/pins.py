"""What sessions began with, kept so that every replica gives the same answer.

A pin is written on condition that there is none. Who comes second reads the first one, so all
replicas agree whatever their copies knew. A pin that was not asked for in a while has ended: it is
ignored from then on, and swept some time later.
"""

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from typing import Final

from controlplane.domain.errors import StoreUnavailable
from controlplane.domain.identity import Caller
from controlplane.domain.prompts.model import PromptPin, pin_key
from controlplane.services.families import PLANE
from controlplane.services.ports import (
    ABSENT,
    AuditEntry,
    Clock,
    Collection,
    Committed,
    ConditionFailed,
    Delete,
    Expect,
    Ledger,
    Put,
    Record,
    Step,
    Transaction,
)
from controlplane.services.prompts.catalogue import pins_of
from controlplane.services.read_model import NamespaceView

MAX_ROUNDS: Final = 5
"""Rounds of write-or-read before contention is reported: pins are rarely written twice."""

RENEWED_AT: Final = 0.1
"""Share of its life after which a pin that is asked for is written anew."""

RENEWAL_SECONDS: Final = 1.0
"""Longest wait for that: the answer does not depend on it."""

SWEPT_AT_ONCE: Final = 1_000
"""Pins looked at before others have their turn: about a millisecond."""

PER_COMMIT: Final = 100
"""Pins removed in one commit."""


class PromptPins:
    """Keeps pins for `life_ms` after they were last asked for, `limit` of each namespace."""

    def __init__(self, ledger: Ledger, clock: Clock, *, life_ms: int, limit: int) -> None:
        self._ledger = ledger
        self._clock = clock
        self._life_ms = life_ms
        self._limit = limit

    def find(
        self, view: NamespaceView, prompt: str, agent_name: str, session_id: str
    ) -> PromptPin | None:
        """Return what a session keeps, as far as this replica knows."""
        pin = pins_of(view).get(pin_key(prompt, agent_name, session_id))
        return pin if pin is not None and self._is_alive(pin) else None

    def _is_alive(self, pin: PromptPin) -> bool:
        return pin.used_at_ms + self._life_ms > self._clock.store_ms()

    async def keep(self, view: NamespaceView, fresh: PromptPin, caller: Caller) -> PromptPin | None:
        """Write a pin, or return the one that somebody else was faster with.

        None: the namespace holds too many, so that nothing is kept for the session.

        Raises:
            StoreUnavailable: the store does not answer, or the pin comes and goes.
        """
        key = pin_key(fresh.prompt, fresh.agent_name, fresh.session_id)
        known = pins_of(view).get(key)
        if known is None and len(pins_of(view)) >= self._limit:
            return None
        expect = ABSENT if known is None else Expect(revision=known.revision)
        fresh = replace(fresh, used_at_ms=self._clock.store_ms())
        for _ in range(MAX_ROUNDS):
            try:
                committed = await self._write(view.name, key, fresh, expect, caller.name)
            except ConditionFailed:
                record = await self._read(view.name, key)
                if record is not None and self._is_alive(record.value):
                    winner: PromptPin = record.value
                    return winner
                expect = ABSENT if record is None else Expect(revision=record.revision)
                continue
            return replace(fresh, revision=committed.revision)
        raise StoreUnavailable(f"too many callers begin session {fresh.session_id!r} at once")

    async def renew(self, namespace: str, pin: PromptPin, caller: Caller) -> None:
        """Prolong a pin that is asked for, if it is time; not being able to is no failure."""
        now = self._clock.store_ms()
        if now - pin.used_at_ms < self._life_ms * RENEWED_AT:
            return
        key = pin_key(pin.prompt, pin.agent_name, pin.session_id)
        expect = Expect(revision=pin.revision)
        with suppress(ConditionFailed, StoreUnavailable, TimeoutError):
            async with asyncio.timeout(RENEWAL_SECONDS):
                fresh = replace(pin, used_at_ms=now)
                await self._write(namespace, key, fresh, expect, caller.name)

    async def sweep(self, view: NamespaceView) -> int:
        """Remove pins that have ended; return how many.

        Raises:
            StoreUnavailable: the store does not answer; nothing is lost.
        """
        keys = iter(tuple(pins_of(view)))
        count = 0
        while some := tuple(islice(keys, SWEPT_AT_ONCE)):
            ended = list(self._ended(view, some))
            for start in range(0, len(ended), PER_COMMIT):
                count += await self._remove(view.name, tuple(ended[start : start + PER_COMMIT]))
            await asyncio.sleep(0)
        return count

    def _ended(self, view: NamespaceView, keys: tuple[str, ...]) -> Iterator[Step]:
        pins = pins_of(view)
        for key in keys:
            pin = pins.get(key)
            if pin is not None and not self._is_alive(pin):
                yield Delete(Collection.PROMPT_PINS, key, Expect(revision=pin.revision))

    async def _remove(self, namespace: str, steps: tuple[Step, ...]) -> int:
        audit = AuditEntry(
            actor=PLANE,
            method="Sweep",
            object="promptpins",
            reason="not asked for any more",
            details={"removed": str(len(steps))},
        )
        try:
            await self._ledger.commit(Transaction(namespace=namespace, steps=steps, audit=audit))
        except ConditionFailed:
            return 0  # another replica sweeps as well, or one was renewed: the next look decides
        return len(steps)

    async def _read(self, namespace: str, key: str) -> Record | None:
        (record,) = await self._ledger.read(namespace, Collection.PROMPT_PINS, (key,))
        return record

    async def _write(
        self, namespace: str, key: str, pin: PromptPin, expect: Expect, actor: str
    ) -> Committed:
        return await self._ledger.commit(
            Transaction(
                namespace=namespace,
                steps=(Put(Collection.PROMPT_PINS, key, pin, expect),),
                audit=AuditEntry(
                    actor=actor,
                    method="ResolvePrompt",
                    object=f"prompts/{pin.prompt}",
                    details={"version": str(pin.version), "agent_name": pin.agent_name},
                ),
            )
        )
