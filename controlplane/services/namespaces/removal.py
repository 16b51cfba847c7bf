"""How a namespace ends, in two phases, because no commit spans two namespaces.

1. Its record becomes TERMINATING. Every replica that knows it lets nothing in any more.
2. Once every replica knows, and what had been let in has arrived, the namespace is looked at again,
   behind a commit of its own: nothing in its history up to there is missed. If it is empty, what
   has come to its end in it is cleared, then the rights and credentials that hold in it, then its
   record. If it is not, its record is ACTIVE again.

Each step can be repeated by anybody: a replica that dies leaves a TERMINATING record, which the
others finish (`finish_abandoned`).
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Final

from controlplane.domain.access.records import SYSTEM_NAMESPACE
from controlplane.domain.identity import Caller
from controlplane.domain.namespace_rules import Content
from controlplane.domain.namespaces import Namespace, NamespaceState
from controlplane.services.access.view import AccessView
from controlplane.services.experiments.erasure import erase
from controlplane.services.families import PLANE
from controlplane.services.namespaces.leftovers import STEPS_AT_ONCE, ended_steps, rights_steps
from controlplane.services.namespaces.usage import content_of
from controlplane.services.ports import (
    AuditEntry,
    Clock,
    Collection,
    ConditionFailed,
    Delete,
    Expect,
    Ledger,
    Put,
    RequestKey,
    ResetCount,
    Step,
    Transaction,
)
from controlplane.services.read_model import NamespaceView, ReadModel

SETTLE_SECONDS: Final = 5.0
"""From the mark to the second look. A follower that missed its wake-up looks by itself within 2 s,
and a stream that may no longer write ends within 5 s; calls that were let in before end in
milliseconds. What a store that fails over holds up for longer arrives in a namespace that is gone,
and is found by whoever makes it again."""

ABANDONED_SECONDS: Final = 20.0
"""Age of a mark from which on any replica finishes it: longer than the call that set it lives."""

_BARRIER: Final = ResetCount("removal")
"""A step that changes nothing: its commit is the newest one, whatever came before."""


async def _nothing(_namespace: str) -> None:
    """Erase no log, where there is none."""


class NamespaceRemoval:
    """Removes namespaces. Any method may raise NotReady or StoreUnavailable."""

    def __init__(
        self,
        ledger: Ledger,
        read_model: ReadModel,
        clock: Clock,
        *,
        erase_decisions: Callable[[str], Awaitable[None]] = _nothing,
        settle_seconds: float = SETTLE_SECONDS,
        abandoned_seconds: float = ABANDONED_SECONDS,
    ) -> None:
        """Remove by commits, and what is outside of them, the log of decisions, as told."""
        self._ledger = ledger
        self._read_model = read_model
        self._clock = clock
        self._erase_decisions = erase_decisions
        self._settle_ms = round(settle_seconds * 1000)
        self._abandoned_ms = round(abandoned_seconds * 1000)

    async def begin(self, record: Namespace, *, reason: str, caller: Caller) -> Namespace:
        """Mark a namespace as TERMINATING; return its record.

        Raises:
            ConditionFailed: its record is not as it was seen; nothing was written.
        """
        marked = replace(record, state=NamespaceState.TERMINATING)
        audit = namespace_audit(
            caller.name, "DeleteNamespace", record.name, "terminating", reason=reason
        )
        transaction = Transaction(
            namespace=SYSTEM_NAMESPACE, steps=(_put(record, marked),), audit=audit
        )
        committed = await self._ledger.commit(transaction)
        return replace(marked, revision=committed.revision, updated_at_ms=committed.at_ms)

    async def settled(self, record: Namespace) -> None:
        """Wait until every replica knows of the mark, and nothing is on its way any more."""
        left_ms = record.updated_at_ms + self._settle_ms - self._clock.store_ms()
        if left_ms > 0:
            # No longer than the whole wait, should the two clocks disagree.
            await self._clock.sleep(min(left_ms, self._settle_ms) / 1000)

    async def finish(self, record: Namespace, *, actor: str) -> Content | None:
        """Remove what is marked, or restore it; return what it held (nothing: it is gone).

        Returns None if somebody interfered: read the record again.
        """
        name = record.name
        try:
            content = await self._inspected(name, actor)
            if not content.is_empty:
                await self._restore(record, content, actor)
                return content
            await self._clear_rights(self._read_model.access, name, actor)
            await self._erase_decisions(name)
            audit = namespace_audit(actor, "DeleteNamespace", name, "deleted")
            unchanged = Expect(revision=record.revision)
            steps = (Delete(Collection.NAMESPACES, name, unchanged),)
            revision = await self._commit(SYSTEM_NAMESPACE, steps, audit)
        except ConditionFailed:
            return None
        # What was bound or issued while all this was under way.
        view = await self._read_model.at_least(SYSTEM_NAMESPACE, revision)
        await self._clear_rights(view.access, name, actor)
        return content

    async def finish_abandoned(self) -> int:
        """Finish what was begun too long ago; return how many namespaces that were."""
        before_ms = self._clock.store_ms() - self._abandoned_ms
        marked = [
            record
            for record in self._read_model.access.namespaces.values()
            if record.state is NamespaceState.TERMINATING and record.updated_at_ms <= before_ms
        ]
        outcomes = [await self.finish(record, actor=PLANE) for record in marked]
        return sum(outcome is not None for outcome in outcomes)

    async def _inspected(self, name: str, actor: str) -> Content:
        """Return what a namespace holds; if nothing, what has come to its end in it is cleared.

        Raises:
            ConditionFailed: something was written into it meanwhile.
        """
        view = await self._seen_whole(name, actor)
        content = content_of(view)
        steps = tuple(ended_steps(view)) if content.is_empty else ()
        if not steps:
            return content
        audit = namespace_audit(actor, "DeleteNamespace", name, "cleared")
        for experiment in tuple(view.governance.table(Collection.EXPERIMENTS).values()):
            await erase(self._ledger, name, experiment, audit)
        await self._commit_in_pieces(name, steps, audit)
        return content_of(await self._seen_whole(name, actor))

    async def _restore(self, record: Namespace, content: Content, actor: str) -> None:
        audit = namespace_audit(
            actor,
            "DeleteNamespace",
            record.name,
            "restored",
            details={kind: str(count) for kind, count in content.holds().items()},
        )
        active = replace(record, state=NamespaceState.ACTIVE)
        await self._commit(SYSTEM_NAMESPACE, (_put(record, active),), audit)

    async def _seen_whole(self, name: str, actor: str) -> NamespaceView:
        """Return this replica's copy of a namespace once it has all that is in the ledger."""
        audit = namespace_audit(actor, "DeleteNamespace", name, "inspected")
        revision = await self._commit(name, (_BARRIER,), audit)
        return await self._read_model.at_least(name, revision)

    async def _clear_rights(self, access: AccessView, name: str, actor: str) -> None:
        """Remove the rights and credentials that hold in a namespace only.

        Otherwise whoever had them would have them in the next namespace of this name.
        """
        audit = namespace_audit(actor, "DeleteNamespace", name, "rights_removed")
        steps = tuple(rights_steps(access, name))
        await self._commit_in_pieces(SYSTEM_NAMESPACE, steps, audit)

    async def _commit_in_pieces(
        self, namespace: str, steps: tuple[Step, ...], audit: AuditEntry
    ) -> None:
        for start in range(0, len(steps), STEPS_AT_ONCE):
            await self._commit(namespace, steps[start : start + STEPS_AT_ONCE], audit)

    async def _commit(self, namespace: str, steps: tuple[Step, ...], audit: AuditEntry) -> int:
        transaction = Transaction(namespace=namespace, steps=steps, audit=audit)
        return (await self._ledger.commit(transaction)).revision


def namespace_audit(
    actor: str,
    method: str,
    name: str,
    event: str,
    *,
    reason: str = "",
    request: RequestKey | None = None,
    details: Mapping[str, str] | None = None,
) -> AuditEntry:
    """Return the audit entry of what happened to a namespace."""
    return AuditEntry(
        actor=actor,
        method=method,
        object=f"namespaces/{name}",
        event=f"namespace.{event}",
        reason=reason,
        request_id=request.request_id if request is not None else "",
        details=details or {},
    )


def _put(seen: Namespace, after: Namespace) -> Put:
    return Put(Collection.NAMESPACES, seen.name, after, Expect(revision=seen.revision))
