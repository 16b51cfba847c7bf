"""Drains: work ends before the agent, or one process of it, does.

A drain is a record and a flag, written together (`drain_steps`); whatever replica is alive carries
it on (`drain_progress`). What ends a drain is in `domain/drain_rules`.
"""

import asyncio
from dataclasses import replace
from typing import Final

from controlplane.domain.agents import Agent, Instance
from controlplane.domain.drain_rules import (
    ended_by_themselves,
    require_deadline,
    require_reason,
)
from controlplane.domain.drains import Drain, DrainPhase, DrainThen, drain_key
from controlplane.domain.errors import (
    AgentNotFound,
    InstanceNotFound,
    InvalidArgument,
    InvalidTransition,
    RevisionConflict,
    StoreUnavailable,
)
from controlplane.domain.identity import Caller
from controlplane.domain.work_refusals import (
    DrainNotFound,
)
from controlplane.services.families import caught_up
from controlplane.services.hub import drain_topic
from controlplane.services.lifecycle.deactivation import HandOver
from controlplane.services.lifecycle.drain_progress import DrainProgress
from controlplane.services.lifecycle.drain_steps import cancel_steps, drain_object, drain_steps
from controlplane.services.lifecycle.drain_targets import (
    WORKING,
    DrainReport,
    report,
    target_of,
    under_way,
)
from controlplane.services.ports import (
    AuditEntry,
    Clock,
    Collection,
    Committed,
    ConditionFailed,
    Ledger,
    RequestKey,
    Step,
    Transaction,
)
from controlplane.services.read_model import ReadModel

__all__ = ["DrainReport", "Drains"]

MAX_ROUNDS: Final = 5
"""Rounds of read-decide-commit before contention is reported; each loses only to a commit that
won."""

MAX_WAIT_MS: Final = 600_000
"""Longest wait for a drain in one call, 10 min by contract."""


class Drains:
    """Starts, follows and undoes drains, and carries them on."""

    def __init__(
        self, ledger: Ledger, read_model: ReadModel, clock: Clock, recovery: HandOver
    ) -> None:
        """Hand over through `recovery` the tasks of agents that a drain ends."""
        self._ledger = ledger
        self._read_model = read_model
        self._clock = clock
        self._progress = DrainProgress(ledger, read_model, clock, recovery)

    async def start(
        self,
        namespace: str,
        *,
        agent_id: str,
        instance_id: str,
        deadline_ms: int,
        then: DrainThen,
        reason: str,
        request: RequestKey | None,
        caller: Caller,
        method: str = "Drain",
        expected_revision: int = 0,
    ) -> DrainReport:
        """Start to drain an agent, or (`instance_id`) one instance of it.

        One that is under way goes on with a new deadline, and with the agent's deactivation at its
        end if either asked for it. `method` and `expected_revision` (of the agent; 0: any) are for
        calls that start one on their way.

        Raises:
            InvalidArgument: no target, a deadline out of range, or a reason that is too long.
            AgentNotFound, InstanceNotFound: no such target.
            InvalidTransition: the agent as a whole takes no work anyway.
            RevisionConflict: the agent is not at `expected_revision`.
        """
        require_deadline(deadline_ms)
        require_reason(reason)
        for _ in range(MAX_ROUNDS):
            agent, instance = await self._target(namespace, agent_id, instance_id)
            known = await self._stored(namespace, drain_key(agent.agent_id, instance_id))
            if request is not None and await self._ledger.find_request(namespace, request):
                if known is not None:
                    # The first answer may have come from another replica.
                    await caught_up(self._read_model, namespace, known.revision)
                return self._standing(namespace, known, agent.agent_id, instance_id)
            if expected_revision not in {0, agent.revision}:
                raise RevisionConflict(
                    f"agent {agent.agent_id!r}",
                    expected=expected_revision,
                    current=agent.revision,
                )
            if instance is None and agent.status not in WORKING:
                raise InvalidTransition(
                    f"agent {agent.agent_id!r}", current=agent.status, wanted="drained"
                )
            now_ms = self._clock.store_ms()
            drain = Drain(
                agent_id=agent.agent_id,
                instance_id=instance_id,
                then=then,
                reason=reason,
                actor=caller.name,
                started_at_ms=now_ms,
                deadline_at_ms=now_ms + deadline_ms,
                instance_generation=instance.generation if instance is not None else 0,
            )
            held = len(target_of(self._read_model.view(namespace), drain).held)
            drain = replace(drain, held_at_start=held)
            before = under_way(known, agent, instance)
            if before is not None:
                drain = _continued(before, drain)
            committed = await self._commit(
                namespace,
                drain_steps(agent, instance, drain, known),
                drain,
                event="drain.changed" if before is not None else "drain.started",
                method=method,
                actor=caller.name,
                reason=reason,
                request=request,
            )
            if committed is None:
                continue
            return await self._written(namespace, drain, committed)
        raise _contended()

    async def get(
        self, namespace: str, *, agent_id: str, instance_id: str, wait_ms: int
    ) -> DrainReport:
        """Return a drain as it stands: when it is safe to stop, or `wait_ms` have passed.

        Raises:
            InvalidArgument: no target, or a wait of more than 10 minutes.
            DrainNotFound: nothing is or was drained there, or the target has begun another life.
        """
        if not 0 <= wait_ms <= MAX_WAIT_MS:
            raise InvalidArgument.of("wait", "must be at most 10 min")
        _require_target(agent_id, instance_id)
        known = await self._stored(namespace, drain_key(agent_id, instance_id))
        topic = drain_topic(namespace, drain_key(agent_id, instance_id))
        with self._read_model.hub.subscribe((topic,)) as news:
            if known is not None:
                # The record may be newer than this replica's copy of the target.
                await caught_up(self._read_model, namespace, known.revision)
            standing = self._standing(namespace, known, agent_id, instance_id)
            try:
                async with asyncio.timeout(wait_ms / 1000):
                    while not standing.safe_to_stop and standing.drain.phase is DrainPhase.DRAINING:
                        await news.wait()
                        standing = self._now(namespace, agent_id, instance_id)
            except TimeoutError:
                standing = self._now(namespace, agent_id, instance_id)
        return standing

    def known(self, namespace: str, agent_id: str, instance_id: str = "") -> DrainReport | None:
        """Return a drain as this replica knows it; None if there is none."""
        try:
            return self._now(namespace, agent_id, instance_id)
        except DrainNotFound:
            return None

    async def cancel(
        self, namespace: str, *, agent_id: str, instance_id: str, reason: str, caller: Caller
    ) -> DrainReport:
        """Undo a drain: the agent or instance takes work again.

        Raises:
            InvalidArgument: no target, or a reason that is too long.
            DrainNotFound: nothing is or was drained there, or the target has begun another life.
            InvalidTransition: the agent has left ACTIVE, or the instance has left.
        """
        _require_target(agent_id, instance_id)
        require_reason(reason)
        for _ in range(MAX_ROUNDS):
            known = await self._stored(namespace, drain_key(agent_id, instance_id))
            if known is None:
                raise DrainNotFound(agent_id, instance_id)
            if known.phase is DrainPhase.CANCELLED:
                return report(self._read_model.view(namespace), known)
            agent, instance = await self._drained(namespace, known)
            held = len(target_of(self._read_model.view(namespace), known).held)
            cancelled = replace(
                known,
                phase=DrainPhase.CANCELLED,
                quiet_since_ms=0,
                ended_at_ms=self._clock.store_ms(),
                completed=ended_by_themselves(known, held),
            )
            committed = await self._commit(
                namespace,
                cancel_steps(agent, instance, cancelled, known),
                cancelled,
                event="drain.cancelled",
                method="CancelDrain",
                actor=caller.name,
                reason=reason,
            )
            if committed is not None:
                return await self._written(namespace, cancelled, committed)
        raise _contended()

    async def tick(self, namespace: str) -> int:
        """Carry on every drain of a namespace that is under way; see `DrainProgress.tick`."""
        return await self._progress.tick(namespace)

    async def _target(
        self, namespace: str, agent_id: str, instance_id: str
    ) -> tuple[Agent, Instance | None]:
        _require_target(agent_id, instance_id)
        instance: Instance | None = None
        if instance_id:
            instance = await self._instance(namespace, instance_id)
            if instance is None or agent_id not in {"", instance.agent_id}:
                raise InstanceNotFound(instance_id)
            agent_id = instance.agent_id
        return await self._agent(namespace, agent_id), instance

    async def _drained(self, namespace: str, known: Drain) -> tuple[Agent, Instance | None]:
        """Return the target of a drain that may be undone."""
        agent = await self._agent(namespace, known.agent_id)
        if not known.instance_id:
            if agent.status not in WORKING:
                what = f"agent {agent.agent_id!r}"
                raise InvalidTransition(what, current=agent.status, wanted="undrained")
            if not agent.draining:
                raise DrainNotFound(known.agent_id)
            return agent, None
        instance = await self._instance(namespace, known.instance_id)
        if instance is None:
            what = f"instance {known.instance_id!r}"
            raise InvalidTransition(what, current="gone", wanted="undrained")
        if instance.generation != known.instance_generation:
            raise DrainNotFound(known.agent_id, known.instance_id)
        return agent, instance

    async def _agent(self, namespace: str, agent_id: str) -> Agent:
        (record,) = await self._ledger.read(namespace, Collection.AGENTS, (agent_id,))
        if record is None:
            raise AgentNotFound(agent_id)
        agent: Agent = record.value
        return agent

    async def _instance(self, namespace: str, instance_id: str) -> Instance | None:
        (record,) = await self._ledger.read(namespace, Collection.INSTANCES, (instance_id,))
        return record.value if record is not None else None

    async def _stored(self, namespace: str, key: str) -> Drain | None:
        (record,) = await self._ledger.read(namespace, Collection.DRAINS, (key,))
        return record.value if record is not None else None

    def _now(self, namespace: str, agent_id: str, instance_id: str) -> DrainReport:
        drains = self._read_model.view(namespace).work.drains
        known = drains.get(drain_key(agent_id, instance_id))
        return self._standing(namespace, known, agent_id, instance_id)

    def _standing(
        self, namespace: str, known: Drain | None, agent_id: str, instance_id: str
    ) -> DrainReport:
        """Return how a drain stands; DrainNotFound if it does not describe its target any more."""
        view = self._read_model.view(namespace)
        if known is None or target_of(view, known).is_over:
            raise DrainNotFound(agent_id, instance_id)
        return report(view, known)

    async def _written(self, namespace: str, drain: Drain, committed: Committed) -> DrainReport:
        """Return a drain that was just written, by what this replica knows of its target then."""
        drain = replace(drain, revision=committed.revision)
        return report(await caught_up(self._read_model, namespace, drain.revision), drain)

    async def _commit(
        self,
        namespace: str,
        steps: tuple[Step, ...],
        drain: Drain,
        *,
        event: str,
        method: str,
        actor: str,
        reason: str,
        request: RequestKey | None = None,
    ) -> Committed | None:
        """Write a drain; None if something is not as it was read."""
        transaction = Transaction(
            namespace=namespace,
            steps=steps,
            audit=AuditEntry(
                actor=actor,
                method=method,
                object=drain_object(drain),
                event=event,
                reason=reason,
                request_id=request.request_id if request is not None else "",
                details={"agent_id": drain.agent_id, "then": str(drain.then)},
            ),
            request=request,
            answer=drain.key,
        )
        try:
            return await self._ledger.commit(transaction)
        except ConditionFailed:
            return None


def _continued(known: Drain, wanted: Drain) -> Drain:
    """Return a drain that is under way, with the deadline of one that was asked for anew."""
    deactivate = DrainThen.DEACTIVATE in {known.then, wanted.then}
    return replace(
        known,
        then=DrainThen.DEACTIVATE if deactivate else DrainThen.STAY,
        reason=wanted.reason or known.reason,
        actor=wanted.actor,
        deadline_at_ms=wanted.deadline_at_ms,
        forced=False,
    )


def _require_target(agent_id: str, instance_id: str) -> None:
    if not agent_id and not instance_id:
        raise InvalidArgument.of("agent_id", "is required, or instance_id")


def _contended() -> StoreUnavailable:
    return StoreUnavailable("too many callers change this agent at once")
