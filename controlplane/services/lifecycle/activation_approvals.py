"""Activations that policies leave to people: an approval for exactly one agent and configuration.

Whoever wants to activate parks it on the agent: an operator, a first beat, a rollout. Here its
approval is opened, and found again by its digest; a grant is used up in the commit that activates.
"""

from dataclasses import dataclass

from controlplane.domain.agents import Agent, PendingActivation
from controlplane.domain.approvals import changes
from controlplane.domain.approvals.model import Approval, ApprovalDecision, ApprovalState
from controlplane.domain.approvals.refusals import (
    ApprovalExpired,
    ApprovalNotFound,
    ApprovalNotOpen,
)
from controlplane.domain.identity import LOCAL_ADMIN, Caller, CallerKind
from controlplane.services.approvals.asking import asked
from controlplane.services.approvals.deciding import ApprovalDecisions, Ballot
from controlplane.services.approvals.opening import ApprovalOpening, Opening
from controlplane.services.approvals.records import ApprovalRecords, change_steps
from controlplane.services.families import PLANE
from controlplane.services.lifecycle.activation import ACTIVATE, MAX_REASON_CHARACTERS, Judgement
from controlplane.services.ports import Clock, Collection, RequireClock, Step
from controlplane.services.read_model import NamespaceView

PURPOSE = "activation"
"""The consume_id of a grant that activated an agent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ActivationApprovals:
    """Opens approvals of activations, and knows what became of them."""

    opening: ApprovalOpening
    records: ApprovalRecords
    decisions: ApprovalDecisions
    clock: Clock

    async def approval_of(
        self, view: NamespaceView, agent: Agent, judgement: Judgement, caller: Caller
    ) -> Approval:
        """Return the approval that stands for an activation; open one if there is none.

        Raises:
            LimitExceeded: the agent has as many PENDING as it may.
        """
        about = asked(view, agent, action=ACTIVATE, tool="", session_id="", claims=judgement.claims)
        opening = Opening(
            agent=agent,
            asked=about,
            decision=judgement.decision,
            decision_id="",
            rules=judgement.rules,
            caller=caller,
        )
        return await self.opening.open_for(view.name, opening)

    async def confirm(self, namespace: str, approval: Approval, caller: Caller) -> Approval:
        """Vote for a parked activation, as DecideApproval would.

        Raises:
            DomainError: as `ApprovalDecisions.decide`.
        """
        ballot = Ballot(approval_id=approval.approval_id, decision=ApprovalDecision.GRANT)
        return await self.decisions.decide(namespace, ballot, caller=caller)

    async def withdraw(self, namespace: str, pending: PendingActivation, why: str) -> None:
        """Take the approval of an activation back that will not happen like that any more."""
        if not pending.approval_id:
            return

        def change(approval: Approval, now_ms: int) -> Approval:
            return changes.cancelled(approval, by=PLANE, reason=why, now_ms=now_ms)

        try:
            await self.records.change(
                namespace,
                pending.approval_id,
                change,
                now_ms=self.clock.store_ms,
                method="Activate",
                event=lambda _: "approval.cancelled",
                actor=PLANE,
                reason=why,
            )
        except (ApprovalExpired, ApprovalNotFound, ApprovalNotOpen):
            return  # it has ended by itself

    def using(self, approval: Approval, by: str) -> tuple[Step, ...] | None:
        """Return what uses a grant up; None: it is none, or cannot be used at this moment."""
        now_ms = self.clock.store_ms()
        usable = approval.not_before_ms <= now_ms < approval.use_until_ms
        if approval.state is not ApprovalState.GRANTED or not usable:
            return None
        after = changes.consumed(approval, PURPOSE, by=by, now_ms=now_ms)
        return (
            *change_steps(approval, after),
            RequireClock(not_before_ms=approval.not_before_ms, not_after_ms=approval.use_until_ms),
        )


def requester_of(pending: PendingActivation) -> Caller:
    """Return who an approval is asked for by the plane in the name of."""
    if pending.asked_by == LOCAL_ADMIN.name:
        return LOCAL_ADMIN
    return Caller(name=pending.asked_by, kind=CallerKind.USER)


def answer_to(view: NamespaceView, pending: PendingActivation | None) -> Approval | None:
    """Return the approval of a parked activation, as this replica knows it."""
    if pending is None or not pending.approval_id:
        return None
    found: Approval | None = view.governance.table(Collection.APPROVALS).get(pending.approval_id)
    return found


def refused_reason(approval: Approval) -> str:
    """Return the `status_reason` of an agent whose activation people did not allow."""
    return refusal_in_words(approval)[:MAX_REASON_CHARACTERS]


def refusal_in_words(approval: Approval) -> str:
    """Return why an activation does not happen."""
    said = [entry.comment for entry in approval.entries if entry.kind == "DENY" and entry.comment]
    why = f": {said[-1]}" if said else ""
    return f"activation was {approval.state.lower()}, {approval.state_reason}{why}"
