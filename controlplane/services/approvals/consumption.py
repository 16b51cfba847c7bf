"""Using a grant up: the one place that says "go"."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from controlplane.domain.agents import Agent
from controlplane.domain.approvals import changes
from controlplane.domain.approvals.model import Approval, ApprovalState
from controlplane.domain.approvals.refusals import (
    AlreadyConsumed,
    ApprovalExpired,
    ApprovalNotOpen,
    ApprovalSuperseded,
    DigestMismatch,
    PolicyNowDenies,
)
from controlplane.domain.approvals.requirements import is_covered
from controlplane.domain.errors import AgentNotFound, DomainError, RequestIdReused
from controlplane.domain.identity import Caller
from controlplane.domain.policies import Effect, validate_claims
from controlplane.services.approvals.asking import Asked, asked, judged, requirement_in
from controlplane.services.approvals.records import (
    MAX_ROUNDS,
    ApprovalRecords,
    approval_audit,
    change_steps,
    contended,
    stamped,
)
from controlplane.services.families import PLANE, caught_up
from controlplane.services.policies.staging import rules_for
from controlplane.services.ports import (
    ABSENT,
    Clock,
    Collection,
    ConditionFailed,
    Ledger,
    RequestKey,
    Require,
    RequireClock,
    Step,
    Transaction,
)
from controlplane.services.read_model import NamespaceView, ReadModel

METHOD: Final = "ConsumeApproval"


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """Somebody is about to do what was approved."""

    approval_id: str
    agent_id: str
    action: str
    tool: str
    session_id: str
    claims: Mapping[str, Any]
    consume_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Used:
    """The grant is used up: go."""

    approval: Approval
    replayed: bool
    """The same call has been answered before."""


class ApprovalConsumption:
    """Lets exactly one caller through each grant."""

    def __init__(
        self, ledger: Ledger, read_model: ReadModel, records: ApprovalRecords, clock: Clock
    ) -> None:
        self._ledger = ledger
        self._read_model = read_model
        self._records = records
        self._clock = clock

    async def consume(self, namespace: str, use: Use, *, caller: Caller) -> Used:
        """Use a grant up, if it is for this action and the policies of today agree.

        The same `consume_id` gets the same answer for as long as the store remembers requests
        (10 minutes). Everything is judged from memory and committed on condition that it was true;
        what this replica remembers wrongly is judged again on what the store says.

        Raises:
            ApprovalNotFound, ApprovalNotOpen, AlreadyConsumed, ApprovalExpired, DigestMismatch,
            PolicyNowDenies, ApprovalSuperseded: in this order, the first that holds.
            AgentNotFound: the agent does not exist.
            InvalidArgument: a malformed context.
        """
        view = self._read_model.view(namespace)
        entry = view.agents.get(use.agent_id)
        if entry is None:
            raise AgentNotFound(use.agent_id)
        claims = validate_claims(use.claims)
        approval: Approval | None
        approval = view.governance.table(Collection.APPROVALS).get(use.approval_id)
        fresh = approval is None or approval.state is not ApprovalState.GRANTED
        for _ in range(MAX_ROUNDS):
            if fresh or approval is None:
                approval = await self._records.stored(namespace, use.approval_id)
            about = asked(
                view,
                entry.agent,
                action=use.action,
                tool=use.tool,
                session_id=use.session_id,
                claims=claims,
            )
            try:
                return await self._attempt(view, entry.agent, approval, about, use, caller)
            except ConditionFailed as lost:
                view = await caught_up(self._read_model, namespace, lost.current_revision)
                fresh = True
        raise contended()

    async def _attempt(
        self,
        view: NamespaceView,
        agent: Agent,
        approval: Approval,
        about: Asked,
        use: Use,
        caller: Caller,
    ) -> Used:
        """Judge and commit.

        Raises:
            ConditionFailed: the approval is not as it was seen.
            DomainError: see `consume`.
        """
        now_ms = self._clock.store_ms()
        key = RequestKey(f"consume/{use.approval_id}/{use.consume_id}", _identity(about))
        if approval.state is ApprovalState.CONSUMED and approval.consume_id == use.consume_id:
            return await self._replayed(view.name, approval, about, key)
        changes.require_usable(approval, about.digest, about.action.ceilings, now_ms)
        await self._require_policies(view, agent, approval, about, now_ms)
        after = changes.consumed(approval, use.consume_id, by=caller.name, now_ms=now_ms)
        clock = RequireClock(
            not_before_ms=approval.not_before_ms, not_after_ms=approval.use_until_ms
        )
        steps: tuple[Step, ...] = (*change_steps(approval, after), clock)
        transaction = Transaction(
            namespace=view.name,
            steps=steps,
            audit=approval_audit(after, METHOD, "approval.consumed", caller.name, ""),
            request=key,
            answer=use.approval_id,
            durable=True,
        )
        try:
            committed = await self._ledger.commit(transaction)
        except RequestIdReused:
            raise DigestMismatch(
                use.approval_id, digest=about.digest, approved=approval.digest
            ) from None
        except ConditionFailed as failure:
            if steps[failure.step] is clock:
                raise _out_of_time(approval, now_ms) from None
            raise
        if committed.replayed:
            stored = await self._records.stored(view.name, use.approval_id)
            return Used(approval=stored, replayed=True)
        return Used(approval=stamped(after, committed), replayed=False)

    async def _replayed(
        self, namespace: str, approval: Approval, about: Asked, key: RequestKey
    ) -> Used:
        """Answer a repeated call, as long as the store remembers the first.

        Raises:
            AlreadyConsumed: it does not any more.
            DigestMismatch: the first call was about another action.
        """
        changes.require_same_action(approval, about.digest, about.action.ceilings)
        approval_id = approval.approval_id
        try:
            # A durable commit, for the first answer may have been lost before it was on the disk;
            # and one that is never carried out, if the first one is forgotten.
            await self._ledger.commit(
                Transaction(
                    namespace=namespace,
                    steps=(Require(Collection.APPROVALS, approval_id, ABSENT),),
                    audit=approval_audit(approval, METHOD, "approval.consumed", PLANE, ""),
                    request=key,
                    durable=True,
                )
            )
        except ConditionFailed:
            raise AlreadyConsumed(approval_id) from None
        except RequestIdReused:
            raise DigestMismatch(
                approval_id,
                digest=about.digest,
                approved=approval.digest,
                why="its ceilings are not those of the first call",
            ) from None
        return Used(approval=approval, replayed=True)

    async def _require_policies(
        self, view: NamespaceView, agent: Agent, approval: Approval, about: Asked, now_ms: int
    ) -> None:
        """Ask the policies of this moment, with the approval in hand.

        Raises:
            PolicyNowDenies: they refuse; the grant stays, for they may change again.
            ApprovalSuperseded: they ask for more than was given; the grant has ended.
        """
        rules = rules_for(view, agent.agent_id)
        decision = judged(rules, view.name, agent, about, now_ms)
        if decision.effect is Effect.DENY:
            raise PolicyNowDenies(approval.approval_id, decision.determining)
        if decision.effect is not Effect.REQUIRE_APPROVAL:
            return
        wanted = requirement_in(rules, decision)
        if is_covered(approval, wanted, now_ms):
            return
        why = "policies ask for more than this says"
        after = changes.superseded(approval, by=PLANE, reason=why, now_ms=now_ms)
        await self._ledger.commit(
            Transaction(
                namespace=view.name,
                steps=change_steps(approval, after),
                audit=approval_audit(after, METHOD, "approval.superseded", PLANE, why),
            )
        )
        raise ApprovalSuperseded(approval.approval_id)


def _out_of_time(approval: Approval, now_ms: int) -> DomainError:
    """Return the refusal of a use that the store's clock forbids, and this replica's allowed."""
    if now_ms - approval.not_before_ms < approval.use_until_ms - now_ms:
        return ApprovalNotOpen(approval.approval_id, approval.state, "it cannot be used yet")
    return ApprovalExpired(approval.approval_id)


def _identity(about: Asked) -> str:
    """Return what two calls with the same consume_id must have in common."""
    ceilings = sorted(about.action.ceilings.items())
    return hashlib.sha256(f"{about.digest} {ceilings!r}".encode()).hexdigest()
