"""Approvals; the contract is protos/fleetplane/v1/approval_service.proto."""

from dataclasses import dataclass
from typing import Any

import grpc

from controlplane.api.context import May, current_caller
from controlplane.api.convert.approvals import (
    Render,
    approval_to_proto,
    approvals_go_away,
    ballot_from_proto,
    comment_from_proto,
    filter_from_proto,
    grant_from_proto,
    grant_to_proto,
    id_from_proto,
    moment_from_proto,
    wait_from_proto,
    watched_to_proto,
)
from controlplane.api.convert.configs import position_to_proto
from controlplane.api.convert.policies import question_from_proto
from controlplane.api.convert.requests import reason_from_proto, request_key, required
from controlplane.api.convert.values import ms_to_duration
from controlplane.api.drain import Drain
from controlplane.api.pagination import PageTokens, digest_of_arguments, page_size
from controlplane.api.patience import patience_ms, while_serving
from controlplane.api.status import entry_error_of
from controlplane.api.stream_guard import StreamGuard
from controlplane.api.streams import StreamKeeper, run_stream
from controlplane.domain.access.permissions import Permission
from controlplane.domain.approvals.model import Approval, Voter
from controlplane.domain.errors import DomainError, InvalidArgument
from controlplane.domain.identity import Caller, namespace_of
from controlplane.services.approvals.consumption import ApprovalConsumption, Use
from controlplane.services.approvals.deciding import MAX_BATCH, ApprovalDecisions, Ballot
from controlplane.services.approvals.pages import ApprovalPages
from controlplane.services.approvals.records import voter_of
from controlplane.services.approvals.standing import StandingGrantKeeper
from controlplane.services.approvals.waiting import ApprovalWaits, ApprovalWatch
from controlplane.services.ports import Clock
from controlplane.services.read_model import ReadModel
from fleetplane.v1 import approval_service_pb2 as pb
from fleetplane.v1 import approval_service_pb2_grpc as pb_grpc

Context = grpc.aio.ServicerContext[Any, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovalUseCases:
    """What the service calls."""

    waits: ApprovalWaits
    pages: ApprovalPages
    decisions: ApprovalDecisions
    consumption: ApprovalConsumption
    standing: StandingGrantKeeper


class ApprovalService(pb_grpc.ApprovalServiceServicer):
    """Parses, calls, renders."""

    def __init__(
        self,
        use_cases: ApprovalUseCases,
        read_model: ReadModel,
        clock: Clock,
        may: May,
        *,
        tokens: PageTokens,
        keeper: StreamKeeper,
        guard: StreamGuard,
        shutdown: Drain,
    ) -> None:
        self._waits = use_cases.waits
        self._pages = use_cases.pages
        self._decisions = use_cases.decisions
        self._consumption = use_cases.consumption
        self._standing = use_cases.standing
        self._read_model = read_model
        self._clock = clock
        self._may = may
        self._tokens = tokens
        self._keeper = keeper
        self._guard = guard
        self._shutdown = shutdown

    async def GetApproval(
        self, request: pb.GetApprovalRequest, context: Context
    ) -> pb.GetApprovalResponse:
        namespace = namespace_of(request.namespace)
        approval = await self._waits.get(
            namespace,
            required(request.approval_id, "approval_id"),
            min_revision=request.min_revision,
        )
        return pb.GetApprovalResponse(approval=self._render(namespace)(approval))

    async def ListApprovals(
        self, request: pb.ListApprovalsRequest, context: Context
    ) -> pb.ListApprovalsResponse:
        namespace, digest = namespace_of(request.namespace), digest_of_arguments(request)
        page = await self._pages.page(
            namespace,
            filter_from_proto(request.filter),
            self._voter(namespace),
            after=self._tokens.decode(request.page_token, namespace, digest),
            limit=page_size(request.page_size),
            min_revision=request.min_revision,
        )
        response = pb.ListApprovalsResponse(
            approvals=map(self._render(namespace), page.approvals),
            total_size=page.total,
            position=position_to_proto(page.position),
        )
        if page.next_cursor:
            response.next_page_token = self._tokens.encode(namespace, digest, page.next_cursor)
        return response

    async def WaitApproval(
        self, request: pb.WaitApprovalRequest, context: Context
    ) -> pb.WaitApprovalResponse:
        namespace = namespace_of(request.namespace)
        waiting = self._waits.wait(
            namespace,
            required(request.approval_id, "approval_id"),
            wait_ms=patience_ms(wait_from_proto(request), context.time_remaining()),
        )
        waited = await while_serving(self._shutdown, self._guard.while_permitted(waiting))
        response = pb.WaitApprovalResponse(approval=self._render(namespace)(waited.approval))
        if waited.poll_after_ms:
            response.poll_after.CopyFrom(ms_to_duration(waited.poll_after_ms))
        return response

    async def WatchApprovals(  # type: ignore[override]  # writes by itself, see api/streams.py
        self, request: pb.WatchApprovalsRequest, context: Context
    ) -> None:
        namespace = namespace_of(request.namespace)
        chosen, caller = filter_from_proto(request.filter), current_caller()

        def wanted(approval: Approval) -> bool:
            # What the caller may do can change while he watches.
            voter = self._voter(namespace, caller)
            return chosen.choosing(voter, self._clock.store_ms)(approval)

        watch = ApprovalWatch(self._read_model, namespace, wanted, self._clock)
        resume = request.resume_from
        await run_stream(
            watch.events(resume.epoch, resume.revision),
            context,
            render=lambda event: watched_to_proto(event, self._render(namespace, caller)),
            go_away=approvals_go_away,
            keeper=self._keeper,
        )

    async def DecideApproval(
        self, request: pb.DecideApprovalRequest, context: Context
    ) -> pb.DecideApprovalResponse:
        namespace = namespace_of(request.namespace)
        approval = await self._decisions.decide(
            namespace, ballot_from_proto(request), caller=current_caller()
        )
        return pb.DecideApprovalResponse(approval=self._render(namespace)(approval))

    async def BatchDecideApprovals(
        self, request: pb.BatchDecideApprovalsRequest, context: Context
    ) -> pb.BatchDecideApprovalsResponse:
        namespace = namespace_of(request.namespace)
        outcomes = await self._decisions.decide_many(
            namespace,
            _ballots(request, namespace),
            all_or_nothing=request.all_or_nothing,
            caller=current_caller(),
        )
        render = self._render(namespace)
        return pb.BatchDecideApprovalsResponse(outcomes=[_outcome(one, render) for one in outcomes])

    async def DelegateApproval(
        self, request: pb.DelegateApprovalRequest, context: Context
    ) -> pb.DelegateApprovalResponse:
        namespace = namespace_of(request.namespace)
        until_ms = 0
        if request.HasField("until"):
            until_ms = moment_from_proto(request.until, "until", given=True)
        approval = await self._decisions.delegate(
            namespace,
            required(request.approval_id, "approval_id"),
            required(request.delegate, "delegate"),
            until_ms=until_ms,
            comment=comment_from_proto(request.comment),
            expected_revision=request.expected_revision,
            caller=current_caller(),
        )
        return pb.DelegateApprovalResponse(approval=self._render(namespace)(approval))

    async def CancelApproval(
        self, request: pb.CancelApprovalRequest, context: Context
    ) -> pb.CancelApprovalResponse:
        namespace = namespace_of(request.namespace)
        approval = await self._decisions.cancel(
            namespace,
            required(request.approval_id, "approval_id"),
            reason=reason_from_proto(request.reason),
            caller=current_caller(),
        )
        return pb.CancelApprovalResponse(approval=self._render(namespace)(approval))

    async def RevokeApproval(
        self, request: pb.RevokeApprovalRequest, context: Context
    ) -> pb.RevokeApprovalResponse:
        namespace = namespace_of(request.namespace)
        approval = await self._decisions.revoke(
            namespace,
            required(request.approval_id, "approval_id"),
            reason=reason_from_proto(required(request.reason, "reason")),
            caller=current_caller(),
        )
        return pb.RevokeApprovalResponse(approval=self._render(namespace)(approval))

    async def ConsumeApproval(
        self, request: pb.ConsumeApprovalRequest, context: Context
    ) -> pb.ConsumeApprovalResponse:
        namespace = namespace_of(request.namespace)
        question = question_from_proto(request, request.ByteSize())
        use = Use(
            approval_id=required(request.approval_id, "approval_id"),
            agent_id=question.agent_id,
            action=required(question.action, "action"),
            tool=question.tool,
            session_id=question.session_id,
            claims=question.claims,
            consume_id=id_from_proto(required(request.consume_id, "consume_id"), "consume_id"),
        )
        used = await self._consumption.consume(namespace, use, caller=current_caller())
        return pb.ConsumeApprovalResponse(
            approval=self._render(namespace)(used.approval), replayed=used.replayed
        )

    async def ExtendApproval(
        self, request: pb.ExtendApprovalRequest, context: Context
    ) -> pb.ExtendApprovalResponse:
        namespace = namespace_of(request.namespace)
        approval = await self._decisions.extend(
            namespace,
            required(request.approval_id, "approval_id"),
            moment_from_proto(
                request.expires_at, "expires_at", given=request.HasField("expires_at")
            ),
            reason=reason_from_proto(required(request.reason, "reason")),
            caller=current_caller(),
        )
        return pb.ExtendApprovalResponse(approval=self._render(namespace)(approval))

    async def CreateStandingGrant(
        self, request: pb.CreateStandingGrantRequest, context: Context
    ) -> pb.CreateStandingGrantResponse:
        grant = await self._standing.create(
            namespace_of(request.namespace),
            grant_from_proto(request.grant),
            request=request_key(request, request.request_id),
            caller=current_caller(),
        )
        return pb.CreateStandingGrantResponse(grant=grant_to_proto(grant))

    async def ListStandingGrants(
        self, request: pb.ListStandingGrantsRequest, context: Context
    ) -> pb.ListStandingGrantsResponse:
        namespace, digest = namespace_of(request.namespace), digest_of_arguments(request)
        page = await self._standing.page(
            namespace,
            active_only=request.active_only,
            after=self._tokens.decode(request.page_token, namespace, digest),
            limit=page_size(request.page_size),
            min_revision=request.min_revision,
        )
        response = pb.ListStandingGrantsResponse(
            grants=map(grant_to_proto, page.grants),
            total_size=page.total,
            position=position_to_proto(page.position),
        )
        if page.next_cursor:
            response.next_page_token = self._tokens.encode(namespace, digest, page.next_cursor)
        return response

    async def RevokeStandingGrant(
        self, request: pb.RevokeStandingGrantRequest, context: Context
    ) -> pb.RevokeStandingGrantResponse:
        grant = await self._standing.revoke(
            namespace_of(request.namespace),
            required(request.grant_id, "grant_id"),
            reason=reason_from_proto(request.reason),
            caller=current_caller(),
        )
        return pb.RevokeStandingGrantResponse(grant=grant_to_proto(grant))

    def _voter(self, namespace: str, caller: Caller | None = None) -> Voter:
        """Return who a caller (None: the current one) is to the approvals of a namespace."""
        caller = caller or current_caller()
        may_approve = self._may(caller, Permission.APPROVE, namespace)
        tokens = self._read_model.access.api_tokens
        return voter_of(caller, namespace, may_approve=may_approve, tokens=tokens)

    def _render(self, namespace: str, caller: Caller | None = None) -> Render:
        """Return what shows approvals to a caller (None: the current one)."""
        voter, now_ms = self._voter(namespace, caller), self._clock.store_ms()
        return lambda approval: approval_to_proto(approval, namespace, now_ms, voter)


def _ballots(request: pb.BatchDecideApprovalsRequest, namespace: str) -> list[Ballot]:
    if not 0 < len(request.decisions) <= MAX_BATCH:
        raise InvalidArgument.of("decisions", f"must hold 1-{MAX_BATCH} votes")
    ballots: list[Ballot] = []
    known: set[str] = set()
    for place, one in enumerate(request.decisions):
        field = f"decisions[{place}]."
        if one.namespace and namespace_of(one.namespace) != namespace:
            raise InvalidArgument.of(f"{field}namespace", "must be that of the batch")
        ballot = ballot_from_proto(one, field)
        if ballot.approval_id in known:
            raise InvalidArgument.of(f"{field}approval_id", "is there twice")
        known.add(ballot.approval_id)
        ballots.append(ballot)
    return ballots


def _outcome(
    outcome: Approval | DomainError, render: Render
) -> pb.BatchDecideApprovalsResponse.Outcome:
    if isinstance(outcome, DomainError):
        return pb.BatchDecideApprovalsResponse.Outcome(error=entry_error_of(outcome))
    return pb.BatchDecideApprovalsResponse.Outcome(approval=render(outcome))
