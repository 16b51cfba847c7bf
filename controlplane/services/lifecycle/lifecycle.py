"""What operators do to the life of agents: activate, deactivate, decommission.

An operator's decision does not follow from what the instances of an agent do, so no roll is called
for it (see `families`): it is written on condition that the agent's record is as it was read, and
every commit that brings an instance to life holds that record too. Of the two that meet, the second
decides again, on the other's result; a beat then finds an agent that it may not revive.
Only decommissioning depends on the instances; see `retirement`.
"""

from dataclasses import dataclass
from typing import Final

from controlplane.domain.agents import REVIVABLE_REASONS, Agent, AgentStatus
from controlplane.domain.drain_rules import require_deadline, require_reason
from controlplane.domain.drains import DrainThen
from controlplane.domain.errors import (
    InvalidArgument,
)
from controlplane.domain.identity import Caller
from controlplane.services.families import caught_up
from controlplane.services.lifecycle.activating import Activating
from controlplane.services.lifecycle.agent_records import (
    MAX_ROUNDS,
    AgentRecords,
    contended,
    no_such_move,
    require_revision,
)
from controlplane.services.lifecycle.deactivation import (
    HandOver,
    deactivation,
    stored_as,
)
from controlplane.services.lifecycle.drains import DrainReport, Drains
from controlplane.services.lifecycle.retirement import remove_left, retirement
from controlplane.services.ports import (
    Clock,
    Ledger,
    RequestKey,
)
from controlplane.services.read_model import ReadModel

_WORKING: Final = frozenset({AgentStatus.ACTIVE, AgentStatus.DEGRADED})


@dataclass(frozen=True, slots=True, kw_only=True)
class Deactivated:
    """What came of a deactivation."""

    agent: Agent
    """INACTIVE, or still ACTIVE and draining."""
    drain: DrainReport | None = None
    requeued: int = 0
    """Tasks that wait for, or went to, another agent."""
    failed: int = 0
    """Tasks that failed because nobody else can take them."""


class Lifecycle:
    """Moves agents by decision. Idempotent: a move that was made already is answered as done."""

    def __init__(
        self,
        ledger: Ledger,
        read_model: ReadModel,
        activating: Activating,
        drains: Drains,
        recovery: HandOver,
        clock: Clock,
    ) -> None:
        self._ledger = ledger
        self._read_model = read_model
        self._records = AgentRecords(ledger, read_model)
        self._activating = activating
        self._drains = drains
        self._recovery = recovery
        self._clock = clock

    async def activate(
        self,
        namespace: str,
        agent_id: str,
        *,
        reason: str,
        expected_revision: int,
        confirm_pending: bool,
        request: RequestKey | None,
        caller: Caller,
    ) -> Agent:
        """Bring a REGISTERED or INACTIVE agent to ACTIVE; see `Activating.activate`."""
        return await self._activating.activate(
            namespace,
            agent_id,
            reason=reason,
            expected_revision=expected_revision,
            confirm_pending=confirm_pending,
            request=request,
            caller=caller,
        )

    async def deactivate(
        self,
        namespace: str,
        agent_id: str,
        *,
        reason: str,
        drain_ms: int | None,
        expected_revision: int,
        request: RequestKey | None,
        caller: Caller,
    ) -> Deactivated:
        """Bring an agent to INACTIVE by decision, at once or (`drain_ms`) when it is drained.

        Its tasks go to others or fail; a parked activation is taken back.

        Raises:
            InvalidArgument: no reason, one too long or reserved; a drain that is too short or long.
            AgentNotFound: no such agent.
            RevisionConflict: it is not at `expected_revision`.
            InvalidTransition: it is DECOMMISSIONED.
        """
        if not reason:
            raise InvalidArgument.of("reason", "is required")
        _require_free_reason(reason)
        if drain_ms is not None:
            require_deadline(drain_ms, field="drain_deadline")
        for _ in range(MAX_ROUNDS):
            current = await self._records.stored(namespace, agent_id)
            if await self._records.is_replay(namespace, request):
                drain = self._drains.known(namespace, agent_id) if drain_ms is not None else None
                return Deactivated(agent=current, drain=drain)
            require_revision(current, expected_revision)
            if drain_ms is not None and current.status in _WORKING:
                drain = await self._drains.start(
                    namespace,
                    agent_id=agent_id,
                    instance_id="",
                    deadline_ms=drain_ms,
                    then=DrainThen.DEACTIVATE,
                    reason=reason,
                    request=request,
                    caller=caller,
                    method="Deactivate",
                    expected_revision=expected_revision,
                )
                return Deactivated(
                    agent=await self._records.stored(namespace, agent_id), drain=drain
                )
            after = current.deactivated(reason)
            if after == current:
                return Deactivated(agent=current)
            transaction = deactivation(
                namespace,
                current,
                after,
                reason=reason,
                actor=caller.name,
                method="Deactivate",
                request=request,
            )
            committed = await self._records.committed(namespace, transaction)
            if committed is None:
                continue
            if committed.replayed:
                return Deactivated(agent=await self._records.stored(namespace, agent_id))
            await self._activating.take_back(namespace, current, reason)
            handed = await self._recovery.hand_over(
                namespace, agent_id, reason=reason, actor=caller.name
            )
            return Deactivated(
                agent=stored_as(after, committed), requeued=handed.requeued, failed=handed.failed
            )
        raise contended()

    async def decommission(
        self,
        namespace: str,
        agent_id: str,
        *,
        reason: str,
        force: bool,
        expected_revision: int,
        request: RequestKey | None,
        caller: Caller,
    ) -> tuple[Agent, int]:
        """Retire an agent for good; return it, and how many instances were removed.

        Its name@version stays taken. `force` also retires one that works: it is deactivated first,
        and its tasks are handed over.

        Raises:
            InvalidArgument: a reason that is too long or reserved.
            AgentNotFound: no such agent.
            RevisionConflict: it is not at `expected_revision`.
            InvalidTransition: it is ACTIVE or DEGRADED, without `force`.
        """
        _require_free_reason(reason)
        for _ in range(MAX_ROUNDS):
            current = await self._records.stored(namespace, agent_id)
            if await self._records.is_replay(namespace, request):
                return current, 0
            require_revision(current, expected_revision)
            if current.status is AgentStatus.DECOMMISSIONED:
                view = await caught_up(self._read_model, namespace, current.revision)
                removed = await remove_left(
                    self._ledger,
                    self._read_model,
                    current,
                    view,
                    caller,
                    self._clock.store_ms(),
                )
                return current, removed
            if current.status in _WORKING:
                if not force:
                    raise no_such_move(current, AgentStatus.DECOMMISSIONED)
                stopped = await self.deactivate(
                    namespace,
                    agent_id,
                    reason=reason or "decommissioned",
                    drain_ms=None,
                    expected_revision=expected_revision,
                    request=None,
                    caller=caller,
                )
                current, expected_revision = stopped.agent, 0
            view, now_ms = self._read_model.view(namespace), self._clock.store_ms()
            after, removed, transaction = retirement(view, current, reason, request, caller, now_ms)
            committed = await self._records.committed(namespace, transaction)
            if committed is None:
                continue
            if committed.replayed:
                return await self._records.stored(namespace, agent_id), 0
            after = stored_as(after, committed)
            view = await caught_up(self._read_model, namespace, committed.revision)
            left = await remove_left(self._ledger, self._read_model, after, view, caller, now_ms)
            return after, removed + left
        raise contended()


def _require_free_reason(reason: str) -> None:
    require_reason(reason)
    if reason in REVIVABLE_REASONS:
        raise InvalidArgument.of("reason", f"{reason} is a word of the plane")
