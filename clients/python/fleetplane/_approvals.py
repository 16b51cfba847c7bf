"""Approvals as the client offers them: people decide what policies leave to them."""

from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from fleetplane._approval_states import ApprovalState, ApprovalVote
from fleetplane._approval_watch import ApprovalWatch
from fleetplane._calls import new_request_id
from fleetplane._connected import Connected
from fleetplane._exceptions import FleetError, error_from_entry
from fleetplane._values import JsonValue, to_duration, to_struct, to_timestamp
from fleetplane.v1 import approval_service_pb2 as pb
from fleetplane.v1 import watch_pb2

LONGEST_WAIT: Final = 55.0
"""Seconds that one call waits at most, by contract."""

_REPLY_SECONDS: Final = 5.0  # on top of what a call waits for: its own way there and back


@dataclass(frozen=True, slots=True)
class VoteOutcome:
    """What came of one vote of a batch: one of the two is set."""

    approval: pb.Approval | None
    error: FleetError | None


class ApprovalCalls(Connected):
    """Requests for approval, for agents that wait for them and for people who decide them.

    The SDK's `Agent.permitted` does all that an agent needs in one block. Every method takes
    `timeout`, its deadline in seconds over all attempts (None: the channel's default), and raises
    `NotFound` (APPROVAL_NOT_FOUND) for an approval that does not exist.
    """

    async def get_approval(
        self, approval_id: str, *, min_revision: int = 0, timeout: float | None = None
    ) -> pb.Approval:
        """Return an approval with its whole record."""
        connection = self.connection
        request = pb.GetApprovalRequest(
            namespace=self.namespace, approval_id=approval_id, min_revision=min_revision
        )
        return (await connection.call(connection.approvals.GetApproval, request, timeout)).approval

    async def list_approvals_page(
        self,
        *,
        states: Iterable[ApprovalState] = (),
        agent_id: str = "",
        agent_name: str = "",
        mine: bool = False,
        page_size: int = 0,
        page_token: str = "",
        min_revision: int = 0,
        timeout: float | None = None,
    ) -> pb.ListApprovalsResponse:
        """Return one page of approvals, the newest first; see `list_approvals`."""
        connection = self.connection
        request = pb.ListApprovalsRequest(
            namespace=self.namespace,
            filter=_filter(states, agent_id, agent_name, mine=mine),
            page_size=page_size,
            page_token=page_token,
            min_revision=min_revision,
        )
        return await connection.call(connection.approvals.ListApprovals, request, timeout)

    async def list_approvals(
        self,
        *,
        states: Iterable[ApprovalState] = (),
        agent_id: str = "",
        agent_name: str = "",
        mine: bool = False,
        page_size: int = 0,
        timeout: float | None = None,
    ) -> AsyncIterator[pb.Approval]:
        """Iterate over approvals, the newest first, page by page.

        Args:
            states: in one of these; empty: any.
            agent_id: of this agent.
            agent_name: of the agents of this name.
            mine: only those that the caller may decide now.
            page_size: approvals per page, 1-1,000; 0 means 100.
            timeout: deadline of one page.
        """
        wanted, token = tuple(states), ""
        while True:
            page = await self.list_approvals_page(
                states=wanted,
                agent_id=agent_id,
                agent_name=agent_name,
                mine=mine,
                page_size=page_size,
                page_token=token,
                timeout=timeout,
            )
            for approval in page.approvals:
                yield approval
            token = page.next_page_token
            if not token:
                return

    async def wait_approval(
        self, approval_id: str, *, wait: float = LONGEST_WAIT, timeout: float | None = None
    ) -> pb.Approval:
        """Wait until an approval is decided, and return it; it may still be PENDING.

        Args:
            approval_id: which.
            wait: seconds, at most 55.
            timeout: deadline of the call; None: a little more than `wait`.
        """
        return (await self.wait_approval_answer(approval_id, wait=wait, timeout=timeout)).approval

    async def wait_approval_answer(
        self, approval_id: str, *, wait: float = LONGEST_WAIT, timeout: float | None = None
    ) -> pb.WaitApprovalResponse:
        """Wait as `wait_approval`, and return whether to wait again, too.

        With `poll_after` it is PENDING still, or GRANTED and cannot be used yet.
        """
        connection = self.connection
        request = pb.WaitApprovalRequest(
            namespace=self.namespace, approval_id=approval_id, timeout=to_duration(wait)
        )
        deadline = wait + _REPLY_SECONDS if timeout is None else timeout
        return await connection.call(connection.approvals.WaitApproval, request, deadline)

    def watch_approvals(
        self,
        *,
        states: Iterable[ApprovalState] = (),
        agent_id: str = "",
        agent_name: str = "",
        mine: bool = False,
    ) -> ApprovalWatch:
        """Follow approvals: those that match, then every change, after any interruption too."""
        connection = self.connection
        request = pb.WatchApprovalsRequest(
            namespace=self.namespace, filter=_filter(states, agent_id, agent_name, mine=mine)
        )

        def open_at(held: watch_pb2.WatchPosition | None) -> object:
            request.ClearField("resume_from")
            if held is not None:
                request.resume_from.CopyFrom(held)
            return connection.approvals.WatchApprovals(request, metadata=connection.call.metadata)

        return ApprovalWatch(open_at, caller=connection.call)

    async def decide_approval(
        self,
        approval_id: str,
        vote: ApprovalVote,
        *,
        comment: str = "",
        vote_id: str = "",
        expected_revision: int = 0,
        timeout: float | None = None,
    ) -> pb.Approval:
        """Vote. Who votes is told from the credential of the client.

        Args:
            approval_id: which.
            vote: GRANT or DENY; ADVISE is recorded and never counted.
            comment: why, for the requester and the record.
            vote_id: makes a retry safe. Empty: a new one.
            expected_revision: refuse if it is not as it was shown; 0 does not check.
            timeout: see the class.

        Raises:
            PermissionDenied: the caller asked for it itself (SELF_APPROVAL), or is not among those
                who may decide now (NOT_ELIGIBLE).
            AlreadyExists: the caller has voted otherwise (VOTE_CONFLICT).
            FailedPrecondition: it is decided already, or the time is over.
            RevisionConflict: it is not at `expected_revision`.
        """
        connection = self.connection
        request = pb.DecideApprovalRequest(
            namespace=self.namespace,
            approval_id=approval_id,
            decision=pb.ApprovalDecision.ValueType(vote),
            comment=comment,
            vote_id=vote_id or new_request_id(),
            expected_revision=expected_revision,
        )
        return (
            await connection.call(connection.approvals.DecideApproval, request, timeout)
        ).approval

    async def decide_approvals(
        self,
        approval_ids: Iterable[str],
        vote: ApprovalVote,
        *,
        comment: str = "",
        all_or_nothing: bool = False,
        timeout: float | None = None,
    ) -> list[VoteOutcome]:
        """Vote the same on 1-100 approvals, each for itself or (`all_or_nothing`) in one step.

        Returns what came of each, in order; see `decide_approval`.
        """
        connection = self.connection
        decisions = [
            pb.DecideApprovalRequest(
                approval_id=approval_id,
                decision=pb.ApprovalDecision.ValueType(vote),
                comment=comment,
                vote_id=new_request_id(),
            )
            for approval_id in approval_ids
        ]
        request = pb.BatchDecideApprovalsRequest(
            namespace=self.namespace, decisions=decisions, all_or_nothing=all_or_nothing
        )
        response = await connection.call(
            connection.approvals.BatchDecideApprovals, request, timeout
        )
        return [_outcome(one) for one in response.outcomes]

    async def delegate_approval(
        self,
        approval_id: str,
        delegate: str,
        *,
        until: datetime | None = None,
        comment: str = "",
        timeout: float | None = None,
    ) -> pb.Approval:
        """Hand the caller's vote to one subject, such as `user:ann@example.com`; once.

        Raises:
            PermissionDenied: the caller has no vote to give (SELF_APPROVAL, NOT_ELIGIBLE).
        """
        connection = self.connection
        request = pb.DelegateApprovalRequest(
            namespace=self.namespace,
            approval_id=approval_id,
            delegate=delegate,
            until=None if until is None else to_timestamp(until),
            comment=comment,
        )
        return (
            await connection.call(connection.approvals.DelegateApproval, request, timeout)
        ).approval

    async def cancel_approval(
        self, approval_id: str, *, reason: str = "", timeout: float | None = None
    ) -> pb.Approval:
        """Take a PENDING approval back. Idempotent."""
        connection = self.connection
        request = pb.CancelApprovalRequest(
            namespace=self.namespace, approval_id=approval_id, reason=reason
        )
        return (
            await connection.call(connection.approvals.CancelApproval, request, timeout)
        ).approval

    async def revoke_approval(
        self, approval_id: str, *, reason: str, timeout: float | None = None
    ) -> pb.Approval:
        """Take a grant back that was not used yet. Idempotent."""
        connection = self.connection
        request = pb.RevokeApprovalRequest(
            namespace=self.namespace, approval_id=approval_id, reason=reason
        )
        return (
            await connection.call(connection.approvals.RevokeApproval, request, timeout)
        ).approval

    async def extend_approval(
        self, approval_id: str, until: datetime, *, reason: str, timeout: float | None = None
    ) -> pb.Approval:
        """Give those who decide more time, at most until 24 h after it was opened."""
        connection = self.connection
        request = pb.ExtendApprovalRequest(
            namespace=self.namespace,
            approval_id=approval_id,
            expires_at=to_timestamp(until),
            reason=reason,
        )
        return (
            await connection.call(connection.approvals.ExtendApproval, request, timeout)
        ).approval

    async def consume_approval(
        self,
        approval_id: str,
        agent_id: str,
        action: str,
        *,
        tool: str = "",
        session_id: str = "",
        context: Mapping[str, JsonValue] | None = None,
        consume_id: str = "",
        timeout: float | None = None,
    ) -> pb.Approval:
        """Use a grant up, directly before the action: the one answer that says "go".

        Args:
            approval_id: which; fit to be the idempotency key of the action itself.
            agent_id: who is about to act.
            action: what it is about to do.
            tool: with which tool.
            session_id: in which session, exactly as when it was asked for.
            context: all that it says about it, exactly as when it was asked for; ceilings such as
                `estimated_cost` may be lower.
            consume_id: one per attempt to act; repeats get the same success for 10 minutes. Empty:
                a new one.
            timeout: see the class.

        Raises:
            FailedPrecondition: it is not granted, was used, is over, is for another action
                (DIGEST_MISMATCH), or the policies of today refuse it or ask for more.
            PermissionDenied: it is another agent's.
        """
        connection = self.connection
        request = pb.ConsumeApprovalRequest(
            namespace=self.namespace,
            approval_id=approval_id,
            agent_id=agent_id,
            session_id=session_id,
            action=action,
            tool=tool,
            context=to_struct(context) if context else None,
            consume_id=consume_id or new_request_id(),
        )
        return (
            await connection.call(connection.approvals.ConsumeApproval, request, timeout)
        ).approval


def _filter(
    states: Iterable[ApprovalState], agent_id: str, agent_name: str, *, mine: bool
) -> pb.ApprovalFilter:
    return pb.ApprovalFilter(
        states=[pb.ApprovalState.ValueType(state) for state in states],
        agent_id=agent_id,
        agent_name=agent_name,
        mine=mine,
    )


def _outcome(message: pb.BatchDecideApprovalsResponse.Outcome) -> VoteOutcome:
    if message.WhichOneof("outcome") == "error":
        return VoteOutcome(None, error_from_entry(message.error))
    return VoteOutcome(message.approval, None)
