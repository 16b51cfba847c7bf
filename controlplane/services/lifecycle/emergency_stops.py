"""Emergency stops: everything that matches stops now, and says so.

A stop is a record first: from its commit on every replica tells the instances, and any of them
finishes what the first one cannot (`tick`). Then the agents become INACTIVE, each for itself, so
that one that others change at the same time holds up nobody. Who is told follows from the record,
not from what one replica knew: every process of those agents that was registered before it.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Final

from controlplane.domain.agents import REVIVABLE_REASONS, Agent, AgentStatus
from controlplane.domain.drain_rules import require_reason
from controlplane.domain.drains import EmergencyStop
from controlplane.domain.errors import (
    InvalidArgument,
)
from controlplane.domain.identity import Caller
from controlplane.domain.work_refusals import (
    StopNotFound,
)
from controlplane.services.families import caught_up
from controlplane.services.hub import Subscription, agents_topic, stop_topic
from controlplane.services.lifecycle.deactivation import HandOver, deactivation
from controlplane.services.lifecycle.stop_answers import (
    StopAnswer,
    StopOutcome,
    StopReport,
    report,
)
from controlplane.services.lifecycle.stop_matches import completed, with_matches
from controlplane.services.lifecycle.stop_records import forget_old, note_answers
from controlplane.services.ports import (
    ABSENT,
    AuditEntry,
    Clock,
    Collection,
    Committed,
    ConditionFailed,
    Expect,
    IdSource,
    Ledger,
    Put,
    RequestKey,
    Transaction,
)
from controlplane.services.read_model import ReadModel

__all__ = ["EmergencyStops", "StopAnswer", "StopOutcome", "StopReport"]

MAX_WAIT_MS: Final = 60_000
"""Longest wait for acknowledgements in one call, by contract."""

AGENTS_AT_ONCE: Final = 200
"""Agents stopped in one round trip: a few milliseconds of the store."""

MAX_ROUNDS: Final = 5
"""Rounds in which agents that others change at the same time are decided again; what is left then
is finished by the next tick of any replica."""

LOOK_SECONDS: Final = 0.5
"""Longest pause between two looks of a call that waits: how late it finds that its replica shuts
down."""


class EmergencyStops:
    """Stops what matches, follows who has acknowledged."""

    def __init__(
        self,
        ledger: Ledger,
        read_model: ReadModel,
        recovery: HandOver,
        ids: IdSource,
        clock: Clock,
        *,
        is_draining: Callable[[], bool] = bool,
    ) -> None:
        """Hand over through `recovery`; calls wait for answers while `is_draining` says no."""
        self._ledger = ledger
        self._read_model = read_model
        self._recovery = recovery
        self._ids = ids
        self._clock = clock
        self._is_draining = is_draining

    async def stop(
        self,
        namespace: str,
        *,
        tags: Mapping[str, str],
        names: Sequence[str],
        everything: bool,
        reason: str,
        wait_ms: int,
        request: RequestKey | None,
        caller: Caller,
    ) -> StopReport:
        """Stop every agent with all these tags and one of these names, or (`everything`) all.

        Returns when everybody who can has acknowledged, or `wait_ms` have passed. The agents are
        stopped whatever becomes of the call after its first commit.

        Raises:
            InvalidArgument: no selector, one beside `everything`, a reason that is missing, too
                long or reserved, or a wait above a minute.
            StoreUnavailable: it may have begun; then any replica goes on with it.
        """
        _require_selector(tags, names, everything=everything)
        if not reason or reason in REVIVABLE_REASONS:
            raise InvalidArgument.of("reason", "is required, and no word of the plane")
        require_reason(reason)
        if not 0 <= wait_ms <= MAX_WAIT_MS:
            raise InvalidArgument.of("wait", "must be 0-60 s")
        wanted = EmergencyStop(
            stop_id=self._ids.new_id("stp"),
            tags=dict(tags),
            names=tuple(names),
            reason=reason,
            actor=caller.name,
            started_at_ms=self._clock.store_ms(),
        )
        stop = with_matches(self._read_model.view(namespace), wanted)
        committed = await self._ledger.commit(
            Transaction(
                namespace=namespace,
                steps=(Put(Collection.STOPS, stop.stop_id, stop, ABSENT),),
                audit=AuditEntry(
                    actor=caller.name,
                    method="EmergencyStop",
                    object=f"stops/{stop.stop_id}",
                    event="emergency_stop.started",
                    reason=reason,
                    request_id=request.request_id if request is not None else "",
                    details={
                        "agents": str(len(stop.agent_ids)),
                        "instances": str(len(stop.targets)),
                    },
                ),
                request=request,
                answer=stop.stop_id,
            )
        )
        if committed.replayed:
            stop = await self._stored(namespace, committed.answer)
        else:
            revision = committed.revision
            stop = replace(stop, revision=revision, generation=revision)
        # The tasks of large agents take their time: those who wait for the answers do not.
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._carry_out(namespace, stop))
                waiting = group.create_task(self._answers(namespace, stop, wait_ms))
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None
        return waiting.result()

    async def get(self, namespace: str, stop_id: str) -> StopReport:
        """Return a stop as it stands.

        Raises:
            StopNotFound: no such stop.
        """
        stop = self._read_model.view(namespace).work.stops.get(stop_id)
        if stop is None:
            stop = await self._stored(namespace, stop_id)
        return report(await caught_up(self._read_model, namespace, stop.revision), stop)

    async def acknowledge(
        self, namespace: str, stop_id: str, instance_id: str, generation: int
    ) -> None:
        """Note that a process has stopped working; see `acknowledge_many`."""
        await self.acknowledge_many(namespace, [(stop_id, instance_id, generation)])

    async def acknowledge_many(self, namespace: str, said: Iterable[tuple[str, str, int]]) -> None:
        """Note acknowledgements (stop_id, instance_id, generation); see `stop_records`."""
        await note_answers(self._ledger, self._read_model, self._clock, namespace, said)

    async def tick(self, namespace: str) -> int:
        """Finish stops that the replica which began them did not; return how many.

        Raises:
            NotReady: this replica has nothing loaded.
            StoreUnavailable: the next tick of any replica tries again.
        """
        finished = 0
        for stop in tuple(self._read_model.view(namespace).work.stops.values()):
            if not stop.settled:
                finished += await self._carry_out(namespace, stop)
        return finished

    async def forget_old(self, namespace: str) -> int:
        """Remove stops that ended long ago; return how many. See `stop_records`.

        Raises:
            NotReady: this replica has nothing loaded.
            StoreUnavailable: the next look of any replica tries again.
        """
        return await forget_old(self._ledger, self._read_model, self._clock, namespace)

    async def _carry_out(self, namespace: str, stop: EmergencyStop) -> bool:
        """Stop the agents that still work, and hand over their tasks; return whether all stopped.

        First all agents, then the tasks: nobody goes on because others have much to hand over.
        """
        stopped, contested = await self._stop_all(namespace, stop, stop.agent_ids)
        known = len(stop.agent_ids)
        whole = await self._completed(namespace, stop)
        if whole is not None and len(whole.agent_ids) > known:
            late = await self._stop_all(namespace, whole, whole.agent_ids[known:])
            stopped, contested = stopped + late[0], contested + late[1]
        for agent_id in stopped:
            await self._recovery.hand_over(
                namespace, agent_id, reason=stop.reason, actor=stop.actor
            )
        if whole is None or contested:
            return False
        return whole.settled or await self._settle(namespace, whole)

    async def _stop_all(
        self, namespace: str, stop: EmergencyStop, agent_ids: Sequence[str]
    ) -> tuple[list[str], list[str]]:
        """Stop agents; return those that it stopped, and those that others change all the time."""
        stopped: list[str] = []
        waiting = list(agent_ids)
        for _ in range(MAX_ROUNDS):
            contested: list[str] = []
            for start in range(0, len(waiting), AGENTS_AT_ONCE):
                some = waiting[start : start + AGENTS_AT_ONCE]
                done, failed = await self._stop_some(namespace, stop, some)
                stopped += done
                contested += failed
            waiting = contested
            if not waiting:
                break
        return stopped, waiting

    async def _completed(self, namespace: str, stop: EmergencyStop) -> EmergencyStop | None:
        """Add agents that another replica registered just before; None: not known yet."""
        view = await caught_up(self._read_model, namespace, stop.revision)
        if view.position.revision < stop.revision:
            return None
        whole = completed(view, stop)
        if whole is stop:
            return stop
        written = await self._write(namespace, stop, whole, "emergency_stop.widened")
        return replace(whole, revision=written.revision) if written is not None else None

    async def _stop_some(
        self, namespace: str, stop: EmergencyStop, agent_ids: Sequence[str]
    ) -> tuple[list[str], list[str]]:
        """Stop agents in one round trip; return those that it stopped, and the contested ones."""
        records = await self._ledger.read(namespace, Collection.AGENTS, agent_ids)
        transactions: dict[str, Transaction] = {}
        for record in records:
            if record is None or record.value.status is AgentStatus.DECOMMISSIONED:
                continue
            before: Agent = record.value
            after = before.deactivated(stop.reason)
            if after != before:
                transactions[before.agent_id] = deactivation(
                    namespace,
                    before,
                    after,
                    reason=stop.reason,
                    actor=stop.actor,
                    method="EmergencyStop",
                )
        stopped: list[str] = []
        contested: list[str] = []
        if transactions:
            outcomes = await self._ledger.commit_many(tuple(transactions.values()))
            for agent_id, outcome in zip(transactions, outcomes, strict=True):
                match outcome:
                    case Committed():
                        stopped.append(agent_id)
                    case ConditionFailed():
                        contested.append(agent_id)
                    case _:
                        raise outcome
        return stopped, contested

    async def _settle(self, namespace: str, stop: EmergencyStop) -> bool:
        """Note that nobody has to go on with it."""
        done = replace(stop, settled=True)
        return await self._write(namespace, stop, done, "emergency_stop.carried_out") is not None

    async def _write(
        self, namespace: str, before: EmergencyStop, after: EmergencyStop, event: str
    ) -> Committed | None:
        """Write a stop; None if another replica wrote it first."""
        transaction = Transaction(
            namespace=namespace,
            steps=(Put(Collection.STOPS, after.stop_id, after, Expect(revision=before.revision)),),
            audit=AuditEntry(
                actor=after.actor,
                method="EmergencyStop",
                object=f"stops/{after.stop_id}",
                event=event,
                reason=after.reason,
                details={"agents": str(len(after.agent_ids))},
            ),
        )
        try:
            return await self._ledger.commit(transaction)
        except ConditionFailed:
            return None

    async def _answers(self, namespace: str, stop: EmergencyStop, wait_ms: int) -> StopReport:
        """Wait until everybody who can has answered, or for so long; return how it stands.

        A replica that shuts down answers at once: what it would wait for can be asked elsewhere.
        """
        topics = (stop_topic(namespace, stop.stop_id), agents_topic(namespace))
        with self._read_model.hub.subscribe(topics) as news:
            view = await caught_up(self._read_model, namespace, stop.revision)
            stop = completed(view, stop)
            standing = report(view, stop)
            try:
                async with asyncio.timeout(wait_ms / 1000):
                    while not (standing.is_settled or self._is_draining()):
                        await _hear(news)
                        standing = report(self._read_model.view(namespace), stop)
            except TimeoutError:
                standing = report(self._read_model.view(namespace), stop)
        return standing

    async def _stored(self, namespace: str, stop_id: str) -> EmergencyStop:
        (record,) = await self._ledger.read(namespace, Collection.STOPS, (stop_id,))
        if record is None:
            raise StopNotFound(stop_id)
        stop: EmergencyStop = record.value
        return stop


def _require_selector(tags: Mapping[str, str], names: Sequence[str], *, everything: bool) -> None:
    if everything == bool(tags or names):
        raise InvalidArgument.of("all", "must be set exactly without tags and names")


async def _hear(news: Subscription) -> None:
    """Wait for news, or until it is time to look anyway."""
    try:
        async with asyncio.timeout(LOOK_SECONDS):
            await news.wait()
    except TimeoutError:
        return
