"""Session pins: a session stays with the version that accepted its first task.

A pin is written by the acceptance of a task, in its commit. It is confirmed rarely, not with every
task: a busy session would otherwise write it all the time.
"""

from controlplane.domain.routes import SessionPin, pin_key
from controlplane.domain.tasks import Task
from controlplane.services.ports import ABSENT, Clock, Collection, Expect, Ledger, Put, Step
from controlplane.services.read_model import NamespaceView, ReadModel
from controlplane.services.routing.choice import pin_holds


class SessionPins:
    """Says what the acceptance of a task writes about its session."""

    def __init__(self, ledger: Ledger, read_model: ReadModel, clock: Clock, *, pin_ms: int) -> None:
        """Pin sessions for `pin_ms` after their last confirmation."""
        self._ledger = ledger
        self._read_model = read_model
        self._clock = clock
        self._pin_ms = pin_ms

    async def steps(self, namespace: str, task: Task, *, stored: bool) -> tuple[Step, ...]:
        """Return the steps by which an accepted task pins its session, or confirms its pin.

        None if the task is of no session, or if the pin needs nothing: one to another version stays
        while it holds (see `pin_holds`) and was confirmed within `pin_ms`; one to this version is
        confirmed when half of that has passed.

        The pin is taken from memory, or with `stored` from the ledger. The commit fails with
        ConditionFailed if it has changed since.
        """
        view = self._read_model.view(namespace)
        entry = view.agents.get(task.agent_id)
        if not task.spec.session_id or entry is None:
            return ()
        name, session_id = entry.agent.spec.name, task.spec.session_id
        key = pin_key(name, session_id)
        known = await self._stored(namespace, key) if stored else view.work.pins.get(key)
        now_ms = self._clock.store_ms()
        if known is not None and not self._due(view, known, task.agent_id, now_ms):
            return ()
        pin = SessionPin(
            name=name, session_id=session_id, agent_id=task.agent_id, used_at_ms=now_ms
        )
        expect = ABSENT if known is None else Expect(revision=known.revision)
        return (Put(Collection.SESSION_PINS, key, pin, expect),)

    def _due(self, view: NamespaceView, pin: SessionPin, agent_id: str, now_ms: int) -> bool:
        """Whether a task that this agent accepted has to confirm or replace the pin."""
        age_ms = now_ms - pin.used_at_ms
        if pin.agent_id == agent_id:
            return age_ms >= self._pin_ms // 2
        return age_ms >= self._pin_ms or not pin_holds(view, pin)

    async def _stored(self, namespace: str, key: str) -> SessionPin | None:
        (record,) = await self._ledger.read(namespace, Collection.SESSION_PINS, (key,))
        return record.value if record is not None else None
