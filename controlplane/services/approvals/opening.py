"""Opening approvals: once per action, however many ask, unless something was granted in advance."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

from controlplane.domain.agents import Agent
from controlplane.domain.approvals import changes
from controlplane.domain.approvals.digest import within_ceilings
from controlplane.domain.approvals.model import (
    MAX_WAITERS,
    Approval,
    ApprovalState,
    Requirement,
    StandingGrant,
)
from controlplane.domain.approvals.requirements import is_covered
from controlplane.domain.errors import AgentNotFound, LimitExceeded
from controlplane.domain.identity import Caller, CallerKind
from controlplane.domain.policies import Decision, Effect, PolicySet
from controlplane.services.approvals.asking import Asked, asked, requirement_in
from controlplane.services.approvals.records import (
    MAX_ROUNDS,
    ApprovalRecords,
    approval_audit,
    change_steps,
    contended,
    pending_counter,
    stamped,
)
from controlplane.services.approvals.standing import StandingGrantBook
from controlplane.services.families import PLANE, caught_up
from controlplane.services.policies.decisions import Answered, facts_of
from controlplane.services.policies.settings import settings_of
from controlplane.services.ports import (
    ABSENT,
    Clock,
    Collection,
    ConditionFailed,
    Count,
    Expect,
    IdSource,
    Ledger,
    Put,
    RequireClock,
    Step,
    Transaction,
)
from controlplane.services.read_model import NamespaceView, ReadModel

SUPERSEDED_BY_POLICY: Final = "policies ask for more than this says"
SUPERSEDED_BY_CEILING: Final = "the same was asked for with a higher ceiling"


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """Why an approval is wanted."""

    agent: Agent
    asked: Asked
    decision: Decision
    decision_id: str
    rules: PolicySet
    """The policies that decided."""
    caller: Caller


@dataclass(frozen=True, slots=True)
class _Known:
    """What is open for an action already: the record that says so, and what it names."""

    index_revision: int | None
    """None: as this replica remembers, which has no revision for it."""
    approval: Approval | None


class ApprovalOpening:
    """Finds or makes the one approval that stands for an action."""

    def __init__(
        self,
        ledger: Ledger,
        read_model: ReadModel,
        records: ApprovalRecords,
        standing: StandingGrantBook,
        ids: IdSource,
        clock: Clock,
    ) -> None:
        self._ledger = ledger
        self._read_model = read_model
        self._records = records
        self._standing = standing
        self._ids = ids
        self._clock = clock

    async def open_answer(
        self, namespace: str, answer: Answered, *, caller: Caller
    ) -> Approval | None:
        """Return the approval of what was answered; None: nobody has to approve it.

        Raises:
            DomainError: see `open_for`.
        """
        request, rules = answer.request, answer.rules
        if answer.decision.effect is not Effect.REQUIRE_APPROVAL:
            return None
        view = self._read_model.view(namespace)
        entry = view.agents.get(request.agent_id)
        if entry is None:
            raise AgentNotFound(request.agent_id)
        about = asked(
            view,
            entry.agent,
            action=request.action,
            tool=request.tool,
            session_id=answer.session_id,
            claims=request.claims,
        )
        opening = Opening(
            agent=entry.agent,
            asked=about,
            decision=answer.decision,
            decision_id=answer.decision_id,
            rules=rules,
            caller=caller,
        )
        return await self.open_for(namespace, opening)

    async def open_for(self, namespace: str, opening: Opening) -> Approval:
        """Return the approval of an action that policies want approved.

        One that is PENDING, or GRANTED and not used, is returned again, be it that another replica
        or another life of the requester has asked. One that expired, that says less than policies
        ask for by now, or that was for a lower ceiling, makes room for a new one.

        Raises:
            LimitExceeded: the agent has as many PENDING as it may, or too many wait for this one.
            StoreUnavailable: too many callers ask for the same at once, or the store is away.
        """
        view = self._read_model.view(namespace)
        known = self._remembered(view, opening.asked.digest)
        for _ in range(MAX_ROUNDS + MAX_WAITERS):  # each of those takes a round from all others
            now_ms = self._clock.store_ms()
            requirement = requirement_in(opening.rules, opening.decision)
            before = known.approval
            objection: str | None = ""
            if before is not None and before.state.is_open:
                objection = _objection(before, opening.asked, requirement, now_ms)
            try:
                if before is not None and objection is None:
                    return await self._joined(namespace, before, opening.caller)
                return await self._opened(view, opening, requirement, known, now_ms)
            except ConditionFailed as lost:
                view = await caught_up(self._read_model, namespace, lost.current_revision)
            known = await self._stored(namespace, opening.asked.digest)
        raise contended()

    def _remembered(self, view: NamespaceView, digest: str) -> _Known:
        tables = view.governance
        approval_id = tables.table(Collection.OPEN_APPROVALS).get(digest)
        if approval_id is None:
            return _Known(0, None)
        return _Known(None, tables.table(Collection.APPROVALS).get(approval_id))

    async def _stored(self, namespace: str, digest: str) -> _Known:
        (record,) = await self._ledger.read(namespace, Collection.OPEN_APPROVALS, (digest,))
        if record is None:
            return _Known(0, None)
        (found,) = await self._ledger.read(namespace, Collection.APPROVALS, (record.value,))
        return _Known(record.revision, None if found is None else found.value)

    async def _joined(self, namespace: str, approval: Approval, caller: Caller) -> Approval:
        """Note that somebody else waits, too: whoever asks does not decide.

        Raises:
            ConditionFailed: the approval is not as it was seen.
            LimitExceeded: too many wait already.
        """
        after = changes.joined_by(approval, caller.name)
        if after is approval or approval.state is not ApprovalState.PENDING:
            return approval
        audit = approval_audit(after, "EvaluatePolicy", "approval.joined", caller.name, "")
        transaction = Transaction(
            namespace=namespace, steps=change_steps(approval, after), audit=audit
        )
        return stamped(after, await self._ledger.commit(transaction))

    async def _opened(
        self,
        view: NamespaceView,
        opening: Opening,
        requirement: Requirement,
        known: _Known,
        now_ms: int,
        *,
        ask: bool = False,
    ) -> Approval:
        """Commit a new approval; with `ask`, nothing that was granted in advance holds for it.

        Raises:
            ConditionFailed: somebody else was faster.
            LimitExceeded: the agent has as many PENDING as it may.
        """
        grant = None if ask else self._granted_in_advance(view, opening, requirement, now_ms)
        fresh = changes.opened(
            _blank(self._ids.new_id("apr"), opening, requirement, now_ms),
            standing_grant_id=grant.grant_id if grant is not None else "",
            plane=PLANE,
        )
        limit = settings_of(view).approval.max_pending_per_agent
        steps = (
            *_opening_steps(fresh, known, opening.asked, requirement, now_ms),
            *_use_of(grant),
            *_pending(fresh, limit),
        )
        transaction = Transaction(
            namespace=view.name,
            steps=steps,
            audit=approval_audit(
                fresh, "EvaluatePolicy", "approval.requested", opening.caller.name, ""
            ),
            durable=grant is not None,
        )
        try:
            committed = await self._ledger.commit(transaction)
        except ConditionFailed as failure:
            if isinstance(steps[failure.step], RequireClock):
                # The grant in advance is over on the store's clock, which this replica lags behind.
                return await self._opened(view, opening, requirement, known, now_ms, ask=True)
            if isinstance(steps[failure.step], Count):
                raise LimitExceeded(
                    f"approvals that agent {opening.agent.agent_id!r} waits for", limit=limit
                ) from None
            raise
        return stamped(fresh, committed)

    def _granted_in_advance(
        self, view: NamespaceView, opening: Opening, requirement: Requirement, now_ms: int
    ) -> StandingGrant | None:
        if requirement.irreversible:
            return None
        asked = opening.asked
        facts = facts_of(view.name, opening.agent)
        found = self._standing.matching(view, asked.action, asked.claims, facts, now_ms)
        return next(iter(found), None)


def _blank(approval_id: str, opening: Opening, requirement: Requirement, now_ms: int) -> Approval:
    caller, decision = opening.caller, opening.decision
    return Approval(
        approval_id=approval_id,
        action=opening.asked.action,
        digest=opening.asked.digest,
        requirement=requirement,
        requested_by=caller.name,
        unauthenticated=caller.kind is CallerKind.LOCAL_ADMIN,
        agent_owner=opening.agent.spec.owner,
        policies=decision.determining,
        decision_id=opening.decision_id,
        policy_revision=decision.revision,
        opened_at_ms=now_ms,
        expires_at_ms=0,
    )


def _objection(approval: Approval, asked: Asked, wanted: Requirement, now_ms: int) -> str | None:
    """Return why an open approval does not stand for an action; None: it does."""
    if now_ms >= (approval.use_until_ms or approval.expires_at_ms):
        return "its time is over"
    if not within_ceilings(asked.action.ceilings, approval.action.ceilings):
        return SUPERSEDED_BY_CEILING
    if approval.state is ApprovalState.GRANTED:
        usable = max(now_ms, approval.not_before_ms)
        return None if is_covered(approval, wanted, usable) else SUPERSEDED_BY_POLICY
    known = approval.requirement
    as_strict = (
        known.stages == wanted.stages
        and known.prevent_owner >= wanted.prevent_owner
        and known.irreversible >= wanted.irreversible
        and known.delay_ms >= wanted.delay_ms
    )
    return None if as_strict else SUPERSEDED_BY_POLICY


def _opening_steps(
    fresh: Approval, known: _Known, asked: Asked, wanted: Requirement, now_ms: int
) -> Iterable[Step]:
    """Yield what puts a new approval in the place of what is there, which ends by it."""
    before = known.approval
    yield Put(Collection.APPROVALS, fresh.approval_id, fresh, ABSENT)
    if before is not None and before.state.is_open:
        ended = changes.due(before, now_ms, plane=PLANE)
        if ended is None or ended.state.is_open:
            why = _objection(before, asked, wanted, now_ms) or SUPERSEDED_BY_POLICY
            ended = changes.superseded(
                before, by=PLANE, reason=f"{why}: {fresh.approval_id}", now_ms=now_ms
            )
        yield from change_steps(before, ended)
        # Whoever changes what is open changes that record, too, which is as it was seen.
        expect = Expect()
    else:
        expect = Expect(revision=known.index_revision or 0)
    yield Put(Collection.OPEN_APPROVALS, fresh.digest, fresh.approval_id, expect)


def _use_of(grant: StandingGrant | None) -> Iterable[Step]:
    if grant is not None:
        used = replace(grant, uses=grant.uses + 1)
        unchanged = Expect(revision=grant.revision)
        yield Put(Collection.STANDING_GRANTS, grant.grant_id, used, unchanged)
        yield RequireClock(not_after_ms=grant.expires_at_ms)


def _pending(fresh: Approval, limit: int) -> Iterable[Step]:
    if fresh.state is ApprovalState.PENDING:
        yield Count(pending_counter(fresh.action.agent_id), 1, at_most=limit)
