"""One block around an action: asked for, approved if it must be, used up once."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Final

from fleetplane._approval_states import ApprovalState
from fleetplane._approvals import LONGEST_WAIT
from fleetplane._calls import MAX_BACKOFF, MIN_BACKOFF, Backoff, new_request_id
from fleetplane._client import FleetClient
from fleetplane._enums import PolicyAction
from fleetplane._exceptions import (
    ApprovalRefused,
    ApprovalRequired,
    DeadlineExceeded,
    FailedPrecondition,
    PolicyDenied,
    Reason,
    Unavailable,
)
from fleetplane._values import JsonValue
from fleetplane.v1 import approval_service_pb2, policy_service_pb2

MAX_ROUNDS: Final = 5
"""How often the policies are asked anew because they changed between the answer and the action."""

_ASK_ANEW: Final = frozenset({Reason.APPROVAL_SUPERSEDED, Reason.ALREADY_CONSUMED})
"""The policies ask for more by now, or the same action was taken by somebody else: each needs its
own approval."""

OnWait = Callable[[approval_service_pb2.Approval], None]
"""Called when people have to be waited for, with what they are asked."""


@dataclass(frozen=True, slots=True)
class Permit:
    """Leave to act, once."""

    decision: policy_service_pb2.PolicyDecision
    """What the policies said."""
    approval: approval_service_pb2.Approval | None = None
    """What people said, if they had to be asked; it is used up."""

    @property
    def approval_id(self) -> str:
        """Id of the approval, fit to be the idempotency key of the action; empty without one."""
        return self.approval.approval_id if self.approval is not None else ""


class Permits:
    """The part of an agent that asks people."""

    @property
    def client(self) -> FleetClient:
        """The client of the agent."""
        raise NotImplementedError

    @property
    def agent_id(self) -> str:
        """Identity of the agent."""
        raise NotImplementedError

    def _decide_here(
        self,
        action: str,  # noqa: ARG002 - of those that can
        context: Mapping[str, JsonValue],  # noqa: ARG002 - same
        tool: str,  # noqa: ARG002 - same
    ) -> policy_service_pb2.PolicyDecision | None:
        """Decide in this process; None where that is not possible."""
        return None

    def permitted(
        self,
        action: str,
        params: Mapping[str, JsonValue] | None = None,
        /,
        *,
        tool: str = "",
        session_id: str = "",
        wait: float | None = None,
        on_wait: OnWait | None = None,
    ) -> AbstractAsyncContextManager[Permit]:
        """Enter a block only if this agent may take exactly this action now.

        The policies are asked, in this process where it can decide. If they leave it to people, the
        block waits for them and uses the approval up on entering, so that no second one can; what
        happens in the block is the action. The approval holds for these parameters only. After a
        restart the same call finds the same approval.

            async with agent.permitted("database_write", {"table": "users"}) as permit:
                await write(idempotency_key=permit.approval_id)

        Args:
            action: what it wants to do, such as `database_write`.
            params: everything about the action that policies or people may look at.
            tool: with which tool, optional.
            session_id: conversation or run that it belongs to, optional.
            wait: seconds to wait for people at most; None: until the approval ends. It stays open
                after that, and may be waited for again.
            on_wait: called when the waiting begins, with what people are asked.

        Raises:
            PolicyDenied: the policies refuse it.
            ApprovalRefused: people refused it, or did not decide in time.
            ApprovalRequired: `wait` has passed and nobody has decided yet.
            FailedPrecondition: the policies of today refuse what was approved (POLICY_NOW_DENIES).
            FleetError: nobody answers, or the question is malformed.
        """
        question = _Question(action, dict(params or {}), tool, session_id)
        return _permit(self, question, wait, on_wait)


@dataclass(frozen=True, slots=True)
class _Question:
    action: str
    params: Mapping[str, JsonValue]
    tool: str
    session_id: str


@asynccontextmanager
async def _permit(
    agent: Permits, question: _Question, wait: float | None, on_wait: OnWait | None
) -> AsyncIterator[Permit]:
    deadline = None if wait is None else asyncio.get_running_loop().time() + wait
    permit = None
    for _ in range(MAX_ROUNDS):
        decision = await _decide(agent, question)
        if PolicyAction(decision.action).permits:
            permit = Permit(decision)
            break
        if PolicyAction(decision.action) is not PolicyAction.REQUIRE_APPROVAL:
            raise PolicyDenied(decision)
        if not decision.approval_id:
            raise ApprovalRequired(decision)
        approval = await _decided(agent.client, decision, deadline, on_wait)
        if approval is None:
            continue
        used = await _consumed(agent, approval, question)
        if used is not None:
            permit = Permit(decision, used)
            break
    if permit is None:
        raise ApprovalRequired(decision)
    yield permit


async def _decide(agent: Permits, question: _Question) -> policy_service_pb2.PolicyDecision:
    here = agent._decide_here(question.action, question.params, question.tool)  # noqa: SLF001 - one class in two modules
    if here is not None and PolicyAction(here.action) is not PolicyAction.REQUIRE_APPROVAL:
        return here
    return await agent.client.evaluate_policy(
        agent.agent_id,
        question.action,
        tool=question.tool,
        context=question.params,
        session_id=question.session_id,
    )


async def _decided(
    client: FleetClient,
    decision: policy_service_pb2.PolicyDecision,
    deadline: float | None,
    on_wait: OnWait | None,
) -> approval_service_pb2.Approval | None:
    """Wait for people; return what was granted, None if another question must be asked.

    A plane that is away is waited for as well: the approval is durable.
    """
    clock = asyncio.get_running_loop().time
    backoff = Backoff(MIN_BACKOFF, MAX_BACKOFF)
    told = False
    while True:
        left = LONGEST_WAIT if deadline is None else min(deadline - clock(), LONGEST_WAIT)
        try:
            approval = await client.wait_approval(
                decision.approval_id, wait=max(left, 0.0) if told else 0.0
            )
        except (Unavailable, DeadlineExceeded) as error:
            if deadline is not None and clock() >= deadline:
                raise
            await asyncio.sleep(backoff.next(error.retry_after))
            continue
        match ApprovalState(approval.state):
            case ApprovalState.GRANTED:
                return approval
            case ApprovalState.SUPERSEDED | ApprovalState.CONSUMED:
                return None
            case ApprovalState.PENDING:
                if not told and on_wait is not None:
                    on_wait(approval)
                told = True
                if deadline is not None and clock() >= deadline:
                    raise ApprovalRequired(decision)
            case _:
                raise ApprovalRefused(approval)


async def _consumed(
    agent: Permits, approval: approval_service_pb2.Approval, question: _Question
) -> approval_service_pb2.Approval | None:
    """Use the grant up; None if another question must be asked."""
    try:
        return await agent.client.consume_approval(
            approval.approval_id,
            agent.agent_id,
            question.action,
            tool=question.tool,
            session_id=question.session_id,
            context=question.params,
            consume_id=new_request_id(),
        )
    except FailedPrecondition as refusal:
        if refusal.reason in _ASK_ANEW:
            return None
        raise
