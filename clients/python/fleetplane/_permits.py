"""One block around an action: asked for, approved if it must be, used up once."""

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from enum import Enum
from itertools import count
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
"""How often the policies are asked anew because they changed between the answer and the action.
Rounds that somebody else's same action has won do not count: each brings one of them on."""

_LOOK_AGAIN: Final = frozenset({Reason.APPROVAL_NOT_OPEN, Reason.APPROVAL_EXPIRED})
"""The approval is not what it was a moment ago, or its time has not come on the plane's clock."""

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


class _Waiting:
    """How long to wait, and the pauses before something is tried again."""

    def __init__(self, wait: float | None) -> None:
        self._clock = asyncio.get_running_loop().time
        self._deadline = None if wait is None else self._clock() + wait
        self._backoff = Backoff(MIN_BACKOFF, MAX_BACKOFF)

    @property
    def left(self) -> float:
        """Seconds that may pass yet; infinite without a bound."""
        if self._deadline is None:
            return math.inf
        return max(self._deadline - self._clock(), 0.0)

    async def pause(self, at_least: float | None = None) -> None:
        """Sleep before the next try; never beyond the end."""
        await asyncio.sleep(min(self._backoff.next(at_least), self.left))

    async def outlast(self, error: Unavailable | DeadlineExceeded) -> None:
        """Wait for a plane that is away: approvals are durable.

        Raises:
            Unavailable, DeadlineExceeded: `error`; the time is over.
        """
        if self.left <= 0:
            raise error
        await self.pause(error.retry_after)

    def begin_anew(self) -> None:
        """Note that something has worked: the next pause is short again."""
        self._backoff.reset()


@asynccontextmanager
async def _permit(
    agent: Permits, question: _Question, wait: float | None, on_wait: OnWait | None
) -> AsyncIterator[Permit]:
    waiting = _Waiting(wait)
    rounds, before = 0, ""
    while True:
        decision = await _decide(agent, question)
        if PolicyAction(decision.action).permits:
            permit = Permit(decision)
            break
        if PolicyAction(decision.action) is not PolicyAction.REQUIRE_APPROVAL:
            raise PolicyDenied(decision)
        if not decision.approval_id or rounds >= MAX_ROUNDS:
            raise ApprovalRequired(decision)
        if decision.approval_id == before:  # whoever answered has not heard yet that it is over
            rounds += 1
            await waiting.pause()
        before = decision.approval_id
        used = await _used(agent, decision, question, waiting, on_wait)
        if isinstance(used, approval_service_pb2.Approval):
            permit = Permit(decision, used)
            break
        rounds += used is _Anew.POLICIES
    yield permit


class _Anew(Enum):
    """Why another question must be asked."""

    POLICIES = "they ask for more by now, or the same was asked for with a higher ceiling"
    TAKEN = "the same action was taken by somebody else: each needs its own approval"


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


async def _used(
    agent: Permits,
    decision: policy_service_pb2.PolicyDecision,
    question: _Question,
    waiting: _Waiting,
    on_wait: OnWait | None,
) -> approval_service_pb2.Approval | _Anew:
    """Wait for people, and use up what they granted."""
    consume_id = new_request_id()
    for tries in count(1):
        state = await _decided(agent.client, decision, waiting, on_wait)
        if isinstance(state, _Anew):
            return state
        try:
            return await _consumed(agent, decision.approval_id, question, consume_id, waiting)
        except FailedPrecondition as refusal:
            if refusal.reason == Reason.ALREADY_CONSUMED:
                return _Anew.TAKEN
            if refusal.reason == Reason.APPROVAL_SUPERSEDED:
                return _Anew.POLICIES
            if tries == MAX_ROUNDS or refusal.reason not in _LOOK_AGAIN:
                raise
        on_wait = None
        await waiting.pause()
    raise AssertionError  # it counts for ever


async def _decided(
    client: FleetClient,
    decision: policy_service_pb2.PolicyDecision,
    waiting: _Waiting,
    on_wait: OnWait | None,
) -> ApprovalState | _Anew:
    """Wait for people, and until what they granted can be used."""
    patience = 0.0  # the first look does not wait, so that who asks is told at once
    while True:
        try:
            answer = await client.wait_approval_answer(decision.approval_id, wait=patience)
        except (Unavailable, DeadlineExceeded) as error:
            await waiting.outlast(error)
            continue
        waiting.begin_anew()
        state = ApprovalState(answer.approval.state)
        if not answer.HasField("poll_after"):
            return _ended(answer.approval)
        if state is ApprovalState.PENDING and on_wait is not None:
            on_wait(answer.approval)
            on_wait = None
        if waiting.left <= 0:
            raise ApprovalRequired(decision)
        patience = min(waiting.left, LONGEST_WAIT)


def _ended(approval: approval_service_pb2.Approval) -> ApprovalState | _Anew:
    """Return what to do about an approval that is not waited for any more.

    Raises:
        ApprovalRefused: it will not be granted.
    """
    match ApprovalState(approval.state):
        case ApprovalState.GRANTED:
            return ApprovalState.GRANTED
        case ApprovalState.SUPERSEDED:
            return _Anew.POLICIES
        case ApprovalState.CONSUMED:
            return _Anew.TAKEN
        case _:
            raise ApprovalRefused(approval)


async def _consumed(
    agent: Permits, approval_id: str, question: _Question, consume_id: str, waiting: _Waiting
) -> approval_service_pb2.Approval:
    """Use the grant up; a reply that was lost costs nothing, for the same use is answered again."""
    while True:
        try:
            return await agent.client.consume_approval(
                approval_id,
                agent.agent_id,
                question.action,
                tool=question.tool,
                session_id=question.session_id,
                context=question.params,
                consume_id=consume_id,
            )
        except (Unavailable, DeadlineExceeded) as error:
            await waiting.outlast(error)
