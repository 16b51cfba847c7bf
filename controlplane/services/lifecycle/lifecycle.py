"""What operators do to the life of agents: activate, deactivate, decommission.

An operator's decision does not follow from what the instances of an agent do, so no roll is called
for it (see `families`): it is written on condition that the agent's record is as it was read, and
every commit that brings an instance to life holds that record too. Of the two that meet, the second
decides again, on the other's result; a beat then finds an agent that it may not revive.
Only decommissioning depends on the instances; see `retirement`.
"""

from dataclasses import dataclass, replace
from typing import Final

from controlplane.domain.agents import REVIVABLE_REASONS, Agent, AgentStatus
from controlplane.domain.configs import scopes_for_agent
from controlplane.domain.configs.extra_schema import EXTRA_SCHEMA_KEY
from controlplane.domain.drain_rules import require_deadline, require_reason
from controlplane.domain.drains import DrainThen
from controlplane.domain.errors import (
    ActivationPending,
    ActivationRefused,
    AgentNotFound,
    InvalidArgument,
    InvalidTransition,
    RevisionConflict,
    StoreUnavailable,
)
from controlplane.domain.identity import Caller
from controlplane.services.families import caught_up
from controlplane.services.lifecycle.activation import ActivationCheck, ActivationVerdict, judged
from controlplane.services.lifecycle.deactivation import (
    HandOver,
    agent_audit,
    deactivation,
    stored_as,
)
from controlplane.services.lifecycle.drains import DrainReport, Drains
from controlplane.services.lifecycle.retirement import remove_left, retirement
from controlplane.services.ports import (
    Clock,
    Collection,
    Committed,
    ConditionFailed,
    Expect,
    Ledger,
    Put,
    RequestKey,
    Require,
    Step,
    Transaction,
)
from controlplane.services.read_model import NamespaceView, ReadModel

MAX_ROUNDS: Final = 5
"""Rounds of read-decide-commit before contention is reported; each loses only to a commit that
won."""

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
        activation: ActivationCheck,
        drains: Drains,
        recovery: HandOver,
        clock: Clock,
    ) -> None:
        self._ledger = ledger
        self._read_model = read_model
        self._activation = activation
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
        """Bring a REGISTERED or INACTIVE agent to ACTIVE.

        With `confirm_pending` an approval that a policy wants counts as given, for exactly the
        configuration and the policies that the parked activation names; everything else is judged
        anew.

        Raises:
            AgentNotFound: no such agent.
            RevisionConflict: it is not at `expected_revision`.
            InvalidTransition: it is DEGRADED (only a beat helps) or DECOMMISSIONED.
            ActivationRefused: its configuration is invalid, or a policy says no.
            ActivationPending: a policy wants it confirmed; it is parked on the agent.
        """
        for _ in range(MAX_ROUNDS):
            current = await self._agent(namespace, agent_id)
            if await self._is_replay(namespace, request):
                return current
            _require_revision(current, expected_revision)
            if current.status is AgentStatus.ACTIVE:
                return current
            if current.status in {AgentStatus.DEGRADED, AgentStatus.DECOMMISSIONED}:
                raise _no_such_move(current, AgentStatus.ACTIVE)
            view = await caught_up(self._read_model, namespace, current.revision)
            verdict = self._activation.may_activate(view, current)
            if confirm_pending and verdict.confirmed_by(current.pending):
                verdict = replace(verdict, allowed=True)
            now_ms = self._clock.store_ms()
            after = judged(current, verdict, asked_by=caller.name, now_ms=now_ms)
            if not verdict.allowed and after.pending == current.pending:
                raise _refused(agent_id, verdict)
            # What a refusal notes is no answer to repeat.
            key = request if verdict.allowed else None
            transaction = _activation(view, current, after, verdict, reason, key, caller)
            committed = await self._committed(namespace, transaction)
            if committed is None:
                continue
            if not verdict.allowed:
                raise _refused(agent_id, verdict)
            if committed.replayed:
                return await self._agent(namespace, agent_id)
            return stored_as(after, committed)
        raise _contended()

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
            current = await self._agent(namespace, agent_id)
            if await self._is_replay(namespace, request):
                drain = self._drains.known(namespace, agent_id) if drain_ms is not None else None
                return Deactivated(agent=current, drain=drain)
            _require_revision(current, expected_revision)
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
                return Deactivated(agent=await self._agent(namespace, agent_id), drain=drain)
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
            committed = await self._committed(namespace, transaction)
            if committed is None:
                continue
            if committed.replayed:
                return Deactivated(agent=await self._agent(namespace, agent_id))
            handed = await self._recovery.hand_over(
                namespace, agent_id, reason=reason, actor=caller.name
            )
            return Deactivated(
                agent=stored_as(after, committed), requeued=handed.requeued, failed=handed.failed
            )
        raise _contended()

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
            current = await self._agent(namespace, agent_id)
            if await self._is_replay(namespace, request):
                return current, 0
            _require_revision(current, expected_revision)
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
                    raise _no_such_move(current, AgentStatus.DECOMMISSIONED)
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
            committed = await self._committed(namespace, transaction)
            if committed is None:
                continue
            if committed.replayed:
                return await self._agent(namespace, agent_id), 0
            after = stored_as(after, committed)
            view = await caught_up(self._read_model, namespace, committed.revision)
            left = await remove_left(self._ledger, self._read_model, after, view, caller, now_ms)
            return after, removed + left
        raise _contended()

    async def _agent(self, namespace: str, agent_id: str) -> Agent:
        (record,) = await self._ledger.read(namespace, Collection.AGENTS, (agent_id,))
        if record is None:
            raise AgentNotFound(agent_id)
        agent: Agent = record.value
        return agent

    async def _is_replay(self, namespace: str, request: RequestKey | None) -> bool:
        if request is None:
            return False
        return await self._ledger.find_request(namespace, request) is not None

    async def _committed(self, namespace: str, transaction: Transaction) -> Committed | None:
        """Commit; None if a condition failed, once this replica has heard of what it names."""
        try:
            return await self._ledger.commit(transaction)
        except ConditionFailed as failure:
            await caught_up(self._read_model, namespace, failure.current_revision)
            return None


def _activation(
    view: NamespaceView,
    before: Agent,
    after: Agent,
    verdict: ActivationVerdict,
    reason: str,
    request: RequestKey | None,
    caller: Caller,
) -> Transaction:
    """Return the commit of a verdict, on condition that what was judged is as it was."""
    event, details = "agent.activated", {}
    if not verdict.allowed:
        event = "agent.activation_pending" if after.pending else "agent.activation_refused"
    if verdict.wants_approval:
        details = {"policies": ",".join(verdict.policies), "config": verdict.config_digest}
    unchanged = Expect(revision=before.revision)
    return Transaction(
        namespace=view.name,
        steps=(
            Put(Collection.AGENTS, before.agent_id, after, unchanged),
            *_configuration_held(view, before),
        ),
        audit=agent_audit(
            before,
            after,
            event=event,
            method="Activate",
            actor=caller.name,
            reason=reason,
            request=request,
            **details,
        ),
        request=request,
        answer=before.agent_id,
    )


def _configuration_held(view: NamespaceView, agent: Agent) -> tuple[Step, ...]:
    """Return the conditions that its configuration is still the one that was judged."""
    layers = {
        scope.key: view.layers.get(scope.key)
        for scope in scopes_for_agent(agent.spec.name, agent.agent_id)
    }
    schema = view.extra_schema
    return (
        Require(
            Collection.CONFIG_SCHEMAS,
            EXTRA_SCHEMA_KEY,
            Expect(revision=schema.revision if schema is not None else 0),
        ),
        *(
            Require(
                Collection.CONFIG_LAYERS,
                key,
                Expect(revision=layer.revision if layer is not None else 0),
            )
            for key, layer in layers.items()
        ),
    )


def _refused(agent_id: str, verdict: ActivationVerdict) -> ActivationRefused | ActivationPending:
    if verdict.wants_approval:
        return ActivationPending(agent_id, policies=verdict.policies)
    # A policy is named by its id; what is wrong with a configuration takes words.
    detail = "" if verdict.policies else verdict.detail
    return ActivationRefused(
        agent_id, decision=verdict.decision, policies=verdict.policies, detail=detail
    )


def _require_free_reason(reason: str) -> None:
    require_reason(reason)
    if reason in REVIVABLE_REASONS:
        raise InvalidArgument.of("reason", f"{reason} is a word of the plane")


def _require_revision(agent: Agent, expected: int) -> None:
    if expected not in {0, agent.revision}:
        raise RevisionConflict(
            f"agent {agent.agent_id!r}", expected=expected, current=agent.revision
        )


def _no_such_move(agent: Agent, wanted: AgentStatus) -> InvalidTransition:
    return InvalidTransition(f"agent {agent.agent_id!r}", current=agent.status, wanted=wanted)


def _contended() -> StoreUnavailable:
    return StoreUnavailable("too many callers change this agent at once")
