"""Bringing agents to ACTIVE by decision: of operators, and of the people they have to ask."""

from contextlib import suppress
from dataclasses import dataclass, replace

from controlplane.domain.agents import Agent, AgentStatus
from controlplane.domain.approvals.model import Approval, ApprovalState
from controlplane.domain.configs import scopes_for_agent
from controlplane.domain.configs.extra_schema import EXTRA_SCHEMA_KEY
from controlplane.domain.errors import (
    ActivationPending,
    ActivationRefused,
    InvalidTransition,
)
from controlplane.domain.identity import Caller
from controlplane.services.families import PLANE, caught_up
from controlplane.services.lifecycle.activation import (
    ActivationCheck,
    ActivationVerdict,
    judged,
)
from controlplane.services.lifecycle.activation_approvals import (
    ActivationApprovals,
    answer_to,
    refused_reason,
    requester_of,
)
from controlplane.services.lifecycle.agent_records import (
    MAX_ROUNDS,
    AgentRecords,
    contended,
    no_such_move,
    require_revision,
)
from controlplane.services.lifecycle.deactivation import (
    agent_audit,
    stored_as,
)
from controlplane.services.ports import (
    Clock,
    Collection,
    Expect,
    Ledger,
    Put,
    RequestKey,
    Require,
    Step,
    Transaction,
)
from controlplane.services.read_model import NamespaceView, ReadModel


@dataclass(frozen=True, slots=True, kw_only=True)
class _Approved:
    """How the approval of an activation stands."""

    approval_id: str = ""
    uses: tuple[Step, ...] = ()
    """What uses its grant up; empty: there is none."""


class Activating:
    """Activates agents. Idempotent: what was done already is answered as done."""

    def __init__(
        self,
        ledger: Ledger,
        read_model: ReadModel,
        activation: ActivationCheck,
        clock: Clock,
        approvals: ActivationApprovals,
    ) -> None:
        self._records = AgentRecords(ledger, read_model)
        self._read_model = read_model
        self._activation = activation
        self._clock = clock
        self._approvals = approvals

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

        What policies want approved is parked on the agent, with an approval that is open for
        exactly this configuration; once it is granted, this (or `settle`) uses it up. With
        `confirm_pending` the caller votes for the approval that the parked activation names.

        Raises:
            AgentNotFound: no such agent.
            RevisionConflict: it is not at `expected_revision`.
            InvalidTransition: it is DEGRADED (only a beat helps) or DECOMMISSIONED.
            ActivationRefused: its configuration is invalid, or a policy says no.
            ActivationPending: a policy wants it approved; it is parked on the agent.
            LimitExceeded: the agent waits for too many approvals.
            DomainError: with `confirm_pending`, what `DecideApproval` would be refused with.
        """
        for _ in range(MAX_ROUNDS):
            current = await self._records.stored(namespace, agent_id)
            if await self._records.is_replay(namespace, request):
                return current
            require_revision(current, expected_revision)
            if current.status is AgentStatus.ACTIVE:
                return current
            if current.status in {AgentStatus.DEGRADED, AgentStatus.DECOMMISSIONED}:
                raise no_such_move(current, AgentStatus.ACTIVE)
            view = await caught_up(self._read_model, namespace, current.revision)
            verdict = self._activation.may_activate(view, current)
            approved = await self._approved(view, current, verdict, caller, confirm_pending)
            if approved.uses:
                verdict = replace(verdict, allowed=True)
            now_ms = self._clock.store_ms()
            after = judged(
                current,
                verdict,
                asked_by=caller.name,
                now_ms=now_ms,
                approval_id=approved.approval_id,
            )
            if not verdict.allowed and after.pending == current.pending:
                raise _refused(agent_id, verdict, approved.approval_id)
            # What a refusal notes is no answer to repeat.
            key = request if verdict.allowed else None
            transaction = _activation(view, current, after, verdict, reason, key, caller, approved)
            committed = await self._records.committed(namespace, transaction)
            if committed is None:
                continue
            await self._withdraw_other(namespace, current, after)
            if not verdict.allowed:
                raise _refused(agent_id, verdict, approved.approval_id)
            if committed.replayed:
                return await self._records.stored(namespace, agent_id)
            return stored_as(after, committed)
        raise contended()

    async def settle(self, namespace: str, agent_id: str) -> None:
        """Carry a parked activation on: open its approval, or use the grant, in its asker's name.

        What people refused, or nobody decided in time, stays: `Activate` asks anew.

        Raises:
            DomainError: see `activate`; that it still waits is none.
        """
        agent = await self._records.stored(namespace, agent_id)
        pending = agent.pending
        if pending is None:
            return
        view = await caught_up(self._read_model, namespace, agent.revision)
        approval = answer_to(view, pending)
        if approval is not None:
            if approval.state is ApprovalState.PENDING:
                return
            if approval.state not in {ApprovalState.GRANTED, ApprovalState.SUPERSEDED}:
                await self._note_refusal(agent, approval, namespace)
                return
        elif pending.approval_id:
            return  # not heard of yet, or long forgotten
        with suppress(ActivationPending, ActivationRefused, InvalidTransition):
            await self.activate(
                namespace,
                agent_id,
                reason="",
                expected_revision=0,
                confirm_pending=False,
                request=None,
                caller=requester_of(pending),
            )

    async def take_back(self, namespace: str, agent: Agent, why: str) -> None:
        """Take back the approval of an activation that an agent had parked, if it had one."""
        if agent.pending is not None:
            await self._approvals.withdraw(namespace, agent.pending, why)

    async def _approved(
        self,
        view: NamespaceView,
        agent: Agent,
        verdict: ActivationVerdict,
        caller: Caller,
        confirm: bool,  # noqa: FBT001 - handed on
    ) -> _Approved:
        """Find or open the approval of an activation that policies want approved."""
        if verdict.judgement is None:
            return _Approved()
        pending = agent.pending
        # Who confirms does not ask.
        asker = requester_of(pending) if confirm and pending is not None else caller
        approval = await self._approvals.approval_of(view, agent, verdict.judgement, asker)
        parked = pending.approval_id if pending is not None else ""
        if confirm and parked in {"", approval.approval_id} and verdict.confirmed_by(pending):
            approval = await self._approvals.confirm(view.name, approval, caller)
        uses = self._approvals.using(approval, caller.name)
        return _Approved(approval_id=approval.approval_id, uses=uses or ())

    async def _withdraw_other(self, namespace: str, before: Agent, after: Agent) -> None:
        """Take back the approval of what was parked, if something else is by now."""
        old, new = before.pending, after.pending
        if old is None or not old.approval_id or after.status is AgentStatus.ACTIVE:
            return
        if new is None or new.approval_id != old.approval_id:
            why = "the activation is asked for with another configuration"
            await self._approvals.withdraw(namespace, old, why)

    async def _note_refusal(self, agent: Agent, approval: Approval, namespace: str) -> None:
        """Write on a REGISTERED agent why it stays so; once."""
        said = refused_reason(approval)
        if agent.status is not AgentStatus.REGISTERED or agent.status_reason == said:
            return
        after = replace(agent, status_reason=said)
        audit = agent_audit(
            agent,
            after,
            event="agent.activation_refused",
            method="Activate",
            actor=PLANE,
            reason=said,
            request=None,
        )
        put = Put(Collection.AGENTS, agent.agent_id, after, Expect(revision=agent.revision))
        await self._records.committed(
            namespace, Transaction(namespace=namespace, steps=(put,), audit=audit)
        )


def _activation(
    view: NamespaceView,
    before: Agent,
    after: Agent,
    verdict: ActivationVerdict,
    reason: str,
    request: RequestKey | None,
    caller: Caller,
    approved: _Approved,
) -> Transaction:
    """Return the commit of a verdict, on condition that what was judged is as it was."""
    event, details = "agent.activated", {}
    if not verdict.allowed:
        event = "agent.activation_pending" if after.pending else "agent.activation_refused"
    if verdict.wants_approval:
        details = {"policies": ",".join(verdict.policies), "config": verdict.config_digest}
        if approved.approval_id:
            details["approval_id"] = approved.approval_id
    unchanged = Expect(revision=before.revision)
    return Transaction(
        namespace=view.name,
        steps=(
            Put(Collection.AGENTS, before.agent_id, after, unchanged),
            *_configuration_held(view, before),
            *approved.uses,
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
        durable=bool(approved.uses),
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


def _refused(
    agent_id: str, verdict: ActivationVerdict, approval_id: str
) -> ActivationRefused | ActivationPending:
    if verdict.wants_approval:
        return ActivationPending(agent_id, policies=verdict.policies, approval_id=approval_id)
    # A policy is named by its id; what is wrong with a configuration takes words.
    detail = "" if verdict.policies else verdict.detail
    return ActivationRefused(
        agent_id, decision=verdict.decision, policies=verdict.policies, detail=detail
    )
