"""Emergency stops: everything that matches stops now, and says so.

A stop is a record first: from its commit on every replica tells the instances, and any of them
finishes what the first one cannot (`tick`). Then the agents become INACTIVE, each for itself, so
that one that others change at the same time holds up nobody. Who is told follows from the record,
not from what one replica knew: every process of those agents that was registered before it.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Final

from controlplane.domain.agents import REVIVABLE_REASONS, Agent, AgentStatus
from controlplane.domain.drain_rules import require_reason
from controlplane.domain.drains import EmergencyStop, StopTarget, acknowledgement_key
from controlplane.domain.errors import InvalidArgument, StopNotFound, StoreUnavailable
from controlplane.domain.identity import Caller
from controlplane.services.deactivation import HandOver, deactivation
from controlplane.services.families import PLANE, caught_up
from controlplane.services.hub import agents_topic, stop_topic
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
from controlplane.services.read_model import NamespaceView, ReadModel
from controlplane.services.stop_answers import (
    StopAnswer,
    StopOutcome,
    StopReport,
    acknowledgement_step,
    concerns,
    has_answered,
    report,
)

__all__ = ["EmergencyStops", "StopAnswer", "StopOutcome", "StopReport"]

MAX_WAIT_MS: Final = 60_000
"""Longest wait for acknowledgements in one call, by contract."""

AGENTS_AT_ONCE: Final = 200
"""Agents stopped in one round trip: a few milliseconds of the store."""

MAX_ROUNDS: Final = 5
"""Rounds in which agents that others change at the same time are decided again; what is left then
is finished by the next tick of any replica."""

STORE_SECONDS: Final = 3.0
"""How long an acknowledgement waits for its commit; the instance repeats one that was not taken."""


class EmergencyStops:
    """Stops what matches, follows who has acknowledged."""

    def __init__(
        self,
        ledger: Ledger,
        read_model: ReadModel,
        recovery: HandOver,
        ids: IdSource,
        clock: Clock,
    ) -> None:
        self._ledger = ledger
        self._read_model = read_model
        self._recovery = recovery
        self._ids = ids
        self._clock = clock

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
        stop = self._matching(namespace, tags, names, reason, caller)
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
        """Note acknowledgements (stop_id, instance_id, generation), all in one commit.

        Ignored: those of unknown stops, of processes that were not told or are not the current
        ones, and repetitions. Never fails for want of the store: whoever acknowledges is told to
        stop until it is known, and acknowledges again.
        """
        view = self._read_model.view(namespace)
        news = [one for one in dict.fromkeys(said) if _is_news(view, *one)]
        try:
            async with asyncio.timeout(STORE_SECONDS):
                while news:
                    if await self._note(namespace, news):
                        return
                    # Another replica was told some of them first.
                    news = await self._unknown(namespace, news)
        except (StoreUnavailable, TimeoutError):
            return

    async def _note(self, namespace: str, news: Sequence[tuple[str, str, int]]) -> bool:
        now_ms = self._clock.store_ms()
        steps = [
            replace(acknowledgement_step(stop_id, name, now_ms, left=False), expect=ABSENT)
            for stop_id, name, _ in news
        ]
        transaction = Transaction(
            namespace=namespace,
            steps=tuple(steps),
            audit=AuditEntry(
                actor=PLANE,
                method="Heartbeat",
                object=f"stops/{news[0][0]}",
                event="emergency_stop.acknowledged",
                details={"instances": str(len(news))},
            ),
        )
        try:
            await self._ledger.commit(transaction)
        except ConditionFailed:
            return False
        return True

    async def _unknown(
        self, namespace: str, news: Sequence[tuple[str, str, int]]
    ) -> list[tuple[str, str, int]]:
        keys = [acknowledgement_key(stop_id, name) for stop_id, name, _ in news]
        records = await self._ledger.read(namespace, Collection.STOP_ACKNOWLEDGEMENTS, keys)
        return [one for one, record in zip(news, records, strict=True) if record is None]

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

    def _matching(
        self,
        namespace: str,
        tags: Mapping[str, str],
        names: Sequence[str],
        reason: str,
        caller: Caller,
    ) -> EmergencyStop:
        """Return the stop of what matches here now."""
        wanted = frozenset(names)
        agent_ids: list[str] = []
        targets: list[StopTarget] = []
        for agent_id, entry in self._read_model.view(namespace).agents.items():
            agent = entry.agent
            if agent.status is AgentStatus.DECOMMISSIONED or not _matches(agent, tags, wanted):
                continue
            agent_ids.append(agent_id)
            targets += [
                StopTarget(instance_id=name, agent_id=agent_id, generation=live.instance.generation)
                for name, live in entry.instances.items()
            ]
        return EmergencyStop(
            stop_id=self._ids.new_id("stp"),
            tags=dict(tags),
            names=tuple(names),
            reason=reason,
            actor=caller.name,
            agent_ids=tuple(agent_ids),
            targets=tuple(targets),
            started_at_ms=self._clock.store_ms(),
        )

    async def _carry_out(self, namespace: str, stop: EmergencyStop) -> bool:
        """Stop the agents that still work, and hand over their tasks; return whether all stopped.

        First all agents, then the tasks: nobody goes on because others have much to hand over.
        """
        waiting, stopped = list(stop.agent_ids), list[str]()
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
        for agent_id in stopped:
            await self._recovery.hand_over(
                namespace, agent_id, reason=stop.reason, actor=stop.actor
            )
        return not waiting and (stop.settled or await self._settle(namespace, stop))

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
        transaction = Transaction(
            namespace=namespace,
            steps=(Put(Collection.STOPS, stop.stop_id, done, Expect(revision=stop.revision)),),
            audit=AuditEntry(
                actor=stop.actor,
                method="EmergencyStop",
                object=f"stops/{stop.stop_id}",
                event="emergency_stop.carried_out",
                reason=stop.reason,
            ),
        )
        try:
            await self._ledger.commit(transaction)
        except ConditionFailed:
            return False
        return True

    async def _answers(self, namespace: str, stop: EmergencyStop, wait_ms: int) -> StopReport:
        """Wait until everybody who can has answered, or for so long; return how it stands."""
        topics = (stop_topic(namespace, stop.stop_id), agents_topic(namespace))
        with self._read_model.hub.subscribe(topics) as news:
            view = await caught_up(self._read_model, namespace, stop.revision)
            standing = report(view, stop)
            try:
                async with asyncio.timeout(wait_ms / 1000):
                    while not standing.is_settled:
                        await news.wait()
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


def _matches(agent: Agent, tags: Mapping[str, str], names: frozenset[str]) -> bool:
    spec = agent.spec
    if names and spec.name not in names:
        return False
    return all(spec.tags.get(key) == value for key, value in tags.items())


def _is_news(view: NamespaceView, stop_id: str, instance_id: str, generation: int) -> bool:
    stop, live = view.work.stops.get(stop_id), view.instances.get(instance_id)
    return (
        stop is not None
        and live is not None
        and live.instance.generation == generation
        and concerns(stop, live.instance)
        and not has_answered(view, stop_id, instance_id)
    )
