"""An agent that pays, its approvals in memory, and everybody around it; a clock moved by hand."""

from dataclasses import replace
from typing import Any

from controlplane.domain.approvals.model import (
    Approval,
    ApprovalDecision,
)
from controlplane.domain.identity import Caller, CallerKind
from controlplane.domain.policies import Effect, Policy, Target
from controlplane.services.approvals.consumption import Use, Used
from controlplane.services.approvals.deciding import Ballot
from controlplane.services.approvals.records import pending_counter
from controlplane.services.policies.decisions import Decisions, Question
from controlplane.services.ports import Collection, Put
from tests.fakes.fleet import NAMESPACE
from tests.fakes.lifecycle_plane import FollowingLedger, LifecyclePlane

TTL, WINDOW = 900, 300  # seconds, by default


def person(name: str) -> Caller:
    return Caller(name=f"user:{name}", kind=CallerKind.USER, subjects=(f"user:{name}",))


ANN, BOB, CID = person("ann"), person("bob"), person("cid")


class Desk:
    """An agent that pays, and everybody around it."""

    def __init__(self) -> None:
        self.plane = LifecyclePlane()
        self.ledger = FollowingLedger(self.plane.replica)
        self.parts = self.plane.ops.approvals
        self.decisions = Decisions(self.plane.replica.read_model, self.plane.clock)

    async def policy(self, effect: Effect | None, **fields: Any) -> None:
        policy = Policy(
            policy_id="ask", action=effect or Effect.LOG_ONLY, targets=Target(actions=("pay",))
        )
        await self.plane.commit(Put(Collection.POLICIES, "ask", replace(policy, **fields)))
        await self.plane.replica.follow()

    async def ask(self, session: str = "s", *, who: Caller = ANN, **claims: Any) -> Approval:
        answer = self.decisions.evaluate(
            NAMESPACE, Question("a", "pay", {"to": "ann"} | claims, session_id=session)
        )
        approval = await self.parts.opening.open_answer(NAMESPACE, answer, caller=who)
        assert approval is not None
        return approval

    async def vote(
        self,
        approval: Approval,
        what: ApprovalDecision = ApprovalDecision.GRANT,
        *,
        who: Caller = BOB,
        **fields: Any,
    ) -> Approval:
        ballot = Ballot(approval_id=approval.approval_id, decision=what, **fields)
        return await self.parts.decisions.decide(NAMESPACE, ballot, caller=who)

    async def granted(self, session: str = "s", **claims: Any) -> Approval:
        return await self.vote(await self.ask(session, **claims))

    async def use(
        self, approval: Approval, consume_id: str = "c", *, session: str = "s", **claims: Any
    ) -> Used:
        use = Use(
            approval_id=approval.approval_id,
            agent_id="a",
            action="pay",
            tool="",
            session_id=session,
            claims={"to": "ann"} | claims,
            consume_id=consume_id,
        )
        return await self.parts.consumption.consume(NAMESPACE, use, caller=ANN)

    async def now(self, approval: Approval) -> Approval:
        return await self.parts.records.stored(NAMESPACE, approval.approval_id)

    async def sweep(self) -> int:
        swept = await self.parts.sweep.sweep(NAMESPACE)
        await self.plane.replica.follow()
        return swept

    async def open_ones(self) -> int:
        (count,) = await self.ledger.read_counts(NAMESPACE, [pending_counter("a")])
        return count


class LateClock:
    """A copy of the store's clock that is off."""

    def __init__(self, inner: Any, by_ms: int) -> None:
        self._inner = inner
        self._by_ms = by_ms

    def store_ms(self) -> int:
        return int(self._inner.store_ms()) + self._by_ms


async def desk_with_a_policy() -> Desk:
    """Return one whose agent has to ask before it pays."""
    desk = Desk()
    await desk.plane.register("a", "i")
    await desk.policy(Effect.REQUIRE_APPROVAL)
    return desk
