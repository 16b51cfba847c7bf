"""Carries drains on: any replica, any time.

Every write holds the drain's record to the revision it saw, so replicas that do the same at once do
it once, and a replica that dies leaves nothing half done: the next look finds what is left to do.
"""

import asyncio
from typing import Final

from controlplane.domain.agents import Agent
from controlplane.domain.drain_rules import done, observed
from controlplane.domain.drains import Drain, DrainPhase, DrainThen
from controlplane.services.families import PLANE, caught_up
from controlplane.services.lifecycle.deactivation import HandOver, deactivation
from controlplane.services.lifecycle.drain_deadline import end_leases
from controlplane.services.lifecycle.drain_steps import drain_object, forget_steps
from controlplane.services.lifecycle.drain_targets import Target, still_marked, target_of
from controlplane.services.ports import (
    AuditEntry,
    Clock,
    Collection,
    ConditionFailed,
    Expect,
    Ledger,
    Put,
    Require,
    Step,
    Transaction,
)
from controlplane.services.read_model import NamespaceView, ReadModel

KEPT_MS: Final = 86_400_000
"""How long the record of a drain that has ended stays, 24 h: processes come and go, and each that
was drained leaves one."""


DRAINS_AT_ONCE: Final = 50
"""Drains carried on side by side: a fleet that drains as a whole does not wait for one commit after
the other, and its writes share round trips."""


class DrainProgress:
    """Takes the next step of every drain."""

    def __init__(
        self, ledger: Ledger, read_model: ReadModel, clock: Clock, recovery: HandOver
    ) -> None:
        self._ledger = ledger
        self._read_model = read_model
        self._clock = clock
        self._recovery = recovery

    async def tick(self, namespace: str) -> int:
        """Carry on every drain of a namespace that is under way; return how many changed.

        Removes the records of drains that ended long ago.

        Raises:
            NotReady: this replica has nothing loaded.
            StoreUnavailable: what was not written is tried again by the next tick of any replica.
        """
        view, now_ms = self._read_model.view(namespace), self._clock.store_ms()
        due = [one for one in view.work.drains.values() if _is_due(view, one, now_ms)]
        changed = 0
        for start in range(0, len(due), DRAINS_AT_ONCE):
            some = due[start : start + DRAINS_AT_ONCE]
            try:
                async with asyncio.TaskGroup() as group:
                    steps = [group.create_task(self._step(view, one, now_ms)) for one in some]
            except ExceptionGroup as failures:
                raise failures.exceptions[0] from None
            changed += sum(step.result() for step in steps)
        return changed

    async def _step(self, view: NamespaceView, drain: Drain, now_ms: int) -> bool:
        if drain.phase is DrainPhase.DRAINING:
            return await self._carry_on(view, drain, now_ms)
        return await self._forget(view.name, drain, "drain.forgotten")

    async def _carry_on(self, view: NamespaceView, before: Drain, now_ms: int) -> bool:
        """Take the next step of one drain; return whether anything was written."""
        namespace, target = view.name, target_of(view, before)
        if target.is_over:
            return await self._forget(namespace, before, "drain.superseded")
        overdue = now_ms >= before.deadline_at_ms
        if target.is_gone:
            return await self._note(namespace, before, done(before, now_ms))
        if target.held and overdue:
            due = tuple(target.held.values())
            forced = await end_leases(self._ledger, namespace, before, due, now_ms)
            if forced.revision != before.revision:
                # Look again when this replica has seen what became of the tasks.
                await caught_up(self._read_model, namespace, forced.revision)
                return True
        after = observed(before, len(target.held), target.said(), now_ms)
        over = after.phase is DrainPhase.DRAINED or (overdue and not target.held)
        agent = _to_deactivate(before, target) if over else None
        if agent is not None and not await self._deactivate(namespace, before, agent):
            return False
        if after == before:
            return agent is not None
        return await self._note(namespace, before, after)

    async def _deactivate(self, namespace: str, drain: Drain, agent: Agent) -> bool:
        """Make the agent INACTIVE; False if it or the drain has changed meanwhile."""
        reason = drain.reason or "drained"
        transaction = deactivation(
            namespace,
            agent,
            agent.deactivated(reason),
            reason=reason,
            actor=drain.actor,
            method="Drain",
            holding=(Require(Collection.DRAINS, drain.key, Expect(revision=drain.revision)),),
        )
        if not await self._commit(transaction):
            return False
        await self._recovery.hand_over(namespace, agent.agent_id, reason=reason, actor=drain.actor)
        return True

    async def _note(self, namespace: str, before: Drain, after: Drain) -> bool:
        """Write what a look at the target has shown."""
        step = Put(Collection.DRAINS, after.key, after, Expect(revision=before.revision))
        ended = after.phase is DrainPhase.DRAINED
        return await self._write(namespace, after, (step,), "drain.completed" if ended else "")

    async def _forget(self, namespace: str, drain: Drain, event: str) -> bool:
        return await self._write(namespace, drain, forget_steps(drain), event)

    async def _write(
        self, namespace: str, drain: Drain, steps: tuple[Step, ...], event: str
    ) -> bool:
        counts = ("completed", "requeued", "failed", "extended")
        audit = AuditEntry(
            actor=PLANE,
            method="Drain",
            object=drain_object(drain),
            event=event,
            reason=drain.reason,
            details={name: str(getattr(drain, name)) for name in counts},
        )
        return await self._commit(Transaction(namespace=namespace, steps=steps, audit=audit))

    async def _commit(self, transaction: Transaction) -> bool:
        try:
            await self._ledger.commit(transaction)
        except ConditionFailed:
            return False
        return True


def _is_due(view: NamespaceView, drain: Drain, now_ms: int) -> bool:
    """Return whether a drain has a next step, from memory: one that only waits costs no task."""
    if drain.phase is not DrainPhase.DRAINING:
        return now_ms - drain.ended_at_ms > KEPT_MS and not still_marked(view, drain)
    target = target_of(view, drain)
    if target.is_over or target.is_gone:
        return True
    if now_ms >= drain.deadline_at_ms and (target.held or _to_deactivate(drain, target)):
        return True
    return observed(drain, len(target.held), target.said(), now_ms) != drain


def _to_deactivate(drain: Drain, target: Target) -> Agent | None:
    """Return the agent that a drain is to make INACTIVE at its end; None: it stays, or is so.

    One whose processes have gone home, or fell silent, is INACTIVE as well, but not by decision:
    the next process would bring it back.
    """
    agent = target.agent
    wanted = drain.then is DrainThen.DEACTIVATE and agent is not None and not agent.is_stopped
    return agent if wanted else None
