"""Approvals in the ledger: found, changed on condition that they are as they were seen.

At most one approval of an action is open at a time: `OPEN_APPROVALS` names it by the digest of the
action, and every commit that opens or ends one keeps that so. How many an agent has PENDING is
counted, in the same commits.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

from controlplane.domain.access.records import ApiToken
from controlplane.domain.access.subjects import TOKEN, USER
from controlplane.domain.approvals.changes import next_end_ms
from controlplane.domain.approvals.model import Approval, ApprovalState, Voter
from controlplane.domain.approvals.refusals import ApprovalExpired, ApprovalNotFound
from controlplane.domain.errors import StoreUnavailable
from controlplane.domain.identity import Caller, CallerKind
from controlplane.services.families import caught_up
from controlplane.services.ports import (
    AuditEntry,
    Collection,
    Committed,
    ConditionFailed,
    Count,
    Delete,
    Expect,
    Ledger,
    Put,
    RequireClock,
    Step,
    Transaction,
)
from controlplane.services.read_model import NamespaceView, ReadModel

MAX_ROUNDS: Final = 8
"""Rounds of read-decide-commit before contention is reported; each loses to a commit that won."""

DURABLE_STATES: Final = frozenset({ApprovalState.GRANTED, ApprovalState.CONSUMED})
"""What no power cut may undo: a grant that somebody relies on, and its use."""

Change = Callable[[Approval, int], Approval]
"""What becomes of an approval at a moment; the same one: nothing. May refuse."""


def pending_counter(agent_id: str) -> str:
    """Return the counter of what an agent has PENDING."""
    return f"approvals.pending/{agent_id}"


_NO_TOKENS: Final[Mapping[str, ApiToken]] = {}


def voter_of(
    caller: Caller,
    namespace: str,
    *,
    may_approve: bool,
    tokens: Mapping[str, ApiToken] = _NO_TOKENS,
) -> Voter:
    """Return who a caller is to the approvals of a namespace; `tokens` by id tell who made them."""
    agent = caller.agent
    return Voter(
        name=caller.name,
        subjects=caller.subjects,
        agent_name=agent.agent_name if agent is not None and agent.namespace == namespace else "",
        may_approve=may_approve,
        is_anybody=caller.kind is CallerKind.LOCAL_ADMIN,
        person=_person_behind(caller.name, tokens),
    )


def _person_behind(name: str, tokens: Mapping[str, ApiToken]) -> str:
    """Return who made an API token, directly or by another one; empty: no person, or no token."""
    known: set[str] = set()
    while name.startswith(TOKEN) and name not in known:
        known.add(name)
        token = tokens.get(name.removeprefix(TOKEN))
        name = token.created_by if token is not None else ""
    return name if known and name.startswith(USER) else ""


def change_steps(before: Approval, after: Approval) -> tuple[Step, ...]:
    """Return what turns one approval into another, on condition that it is as it was seen."""
    steps: list[Step] = [
        Put(Collection.APPROVALS, after.approval_id, after, Expect(revision=before.revision))
    ]
    if before.state.is_open and not after.state.is_open:
        steps.append(Delete(Collection.OPEN_APPROVALS, before.digest))
    pending = ApprovalState.PENDING
    if before.state is pending and after.state is not pending:
        steps.append(Count(pending_counter(before.action.agent_id), -1))
    return tuple(steps)


def approval_audit(after: Approval, method: str, event: str, actor: str, reason: str) -> AuditEntry:
    """Return the line of the audit about a change of an approval."""
    action = after.action
    details = {
        "state": str(after.state),
        "agent_id": action.agent_id,
        "action": action.action,
        "digest": after.digest,
    }
    if action.tool:
        details["tool"] = action.tool
    if after.entries:
        details["entry"] = after.entries[-1].digest
    return AuditEntry(
        actor=actor,
        method=method,
        object=f"approvals/{after.approval_id}",
        event=event,
        reason=reason,
        details=details,
    )


def stamped(approval: Approval, committed: Committed) -> Approval:
    """Return an approval with what the store added."""
    return replace(approval, revision=committed.revision)


class ApprovalRecords:
    """Reads and changes single approvals."""

    def __init__(self, ledger: Ledger, read_model: ReadModel) -> None:
        self._ledger = ledger
        self._read_model = read_model

    def voter(self, caller: Caller, namespace: str) -> Voter:
        """Return who a caller that has the permission to approve is to a namespace's approvals."""
        tokens = self._read_model.access.api_tokens
        return voter_of(caller, namespace, may_approve=True, tokens=tokens)

    async def heard(self, namespace: str, approval_id: str, revision: int = 0) -> NamespaceView:
        """Return the view once it knows an approval: this replica may not have heard of it yet.

        Raises:
            ApprovalNotFound: there is none.
            NotReady: this replica has not caught up within 5 s.
        """
        view = self._read_model.view(namespace)
        if approval_id not in view.governance.table(Collection.APPROVALS):
            revision = max(revision, (await self.stored(namespace, approval_id)).revision)
        return await self._read_model.at_least(namespace, revision)

    async def stored(self, namespace: str, approval_id: str) -> Approval:
        """Return an approval as the ledger has it.

        Raises:
            ApprovalNotFound: there is none.
        """
        (record,) = await self._ledger.read(namespace, Collection.APPROVALS, (approval_id,))
        if record is None:
            raise ApprovalNotFound(approval_id)
        approval: Approval = record.value
        return approval

    async def change(
        self,
        namespace: str,
        approval_id: str,
        change: Change,
        *,
        now_ms: Callable[[], int],
        method: str,
        event: Callable[[Approval], str],
        actor: str,
        reason: str,
    ) -> Approval:
        """Decide on what the ledger says and commit it, until nobody interferes.

        Raises:
            ApprovalNotFound: there is none.
            StoreUnavailable: too many callers change this approval at once.
            DomainError: what `change` raises.
        """
        for _ in range(MAX_ROUNDS):
            before = await self.stored(namespace, approval_id)
            after = change(before, now_ms())
            if after is before:
                return before
            transaction = Transaction(
                namespace=namespace,
                steps=(*change_steps(before, after), *in_time(before)),
                audit=approval_audit(after, method, event(after), actor, reason),
                durable=after.state in DURABLE_STATES,
            )
            try:
                committed = await self._ledger.commit(transaction)
            except ConditionFailed as lost:
                require_in_time(before, transaction.steps[lost.step])
                await caught_up(self._read_model, namespace, lost.current_revision)
                continue
            return stamped(after, committed)
        raise contended()


def in_time(before: Approval) -> tuple[Step, ...]:
    """Return the condition that what people do to an open approval is done in time."""
    if not before.state.is_open:
        return ()
    return (RequireClock(not_after_ms=next_end_ms(before)),)


def require_in_time(before: Approval, failed: Step) -> None:
    """Check that it was not the store's clock that kept a change of an approval from happening.

    Raises:
        ApprovalExpired: it was; to ask it again is of no use.
    """
    if isinstance(failed, RequireClock):
        raise ApprovalExpired(before.approval_id)


def contended() -> StoreUnavailable:
    """Return the refusal of who lost too often."""
    return StoreUnavailable("too many callers change this approval at once")
