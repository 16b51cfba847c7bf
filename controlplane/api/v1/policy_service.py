"""Policies and decisions; the contract is protos/fleetplane/v1/policy_service.proto."""

from typing import Any

import grpc

from controlplane.api.context import Call, current_caller
from controlplane.api.convert.configs import position_to_proto
from controlplane.api.convert.decisions import DecisionBytes
from controlplane.api.convert.policies import (
    MAX_BATCH,
    explain_from_proto,
    mask_from_proto,
    policy_from_proto,
    policy_to_proto,
)
from controlplane.api.convert.policy_watch import (
    held_from_proto,
    policies_go_away,
    policy_event_to_proto,
    watched_agents_from_proto,
)
from controlplane.api.convert.questions import QuestionReader, decode_batch, decode_single
from controlplane.api.convert.requests import reason_from_proto, request_key, required
from controlplane.api.gate import confine, enter_namespace
from controlplane.api.pagination import PageTokens, digest_of_arguments, page_size
from controlplane.api.pipeline import raw_unary
from controlplane.api.streams import StreamKeeper, run_stream
from controlplane.api.v1.policy_sets import PolicySetCalls, PolicySetUseCases
from controlplane.api.v1.policy_settings import PolicySettingsCalls
from controlplane.domain.approvals.model import Approval
from controlplane.domain.errors import DomainError, InvalidArgument
from controlplane.domain.identity import Caller, namespace_of
from controlplane.domain.policies import Effect
from controlplane.services.approvals.opening import ApprovalOpening
from controlplane.services.policies.decisions import Answered, Asked, Decisions
from controlplane.services.policies.policies import Policies
from controlplane.services.policies.policy_watch import PolicyWatches
from controlplane.services.policies.settings import PolicySettingsKeeper
from fleetplane.v1 import policy_service_pb2 as pb

Context = grpc.aio.ServicerContext[Any, Any]

_STOP_AT_PERMITTED = {
    pb.BatchEvaluatePolicyRequest.MODE_UNSPECIFIED: None,
    pb.BatchEvaluatePolicyRequest.MODE_EXECUTE_ALL: None,
    pb.BatchEvaluatePolicyRequest.MODE_DENY_ON_FIRST_DENY: False,
    pb.BatchEvaluatePolicyRequest.MODE_PERMIT_ON_FIRST_PERMIT: True,
}


class PolicyService(PolicySettingsCalls, PolicySetCalls):
    """Parses, calls, renders; what has a module of its own is mixed in."""

    def __init__(
        self,
        policies: Policies,
        decisions: Decisions,
        watches: PolicyWatches,
        settings: PolicySettingsKeeper,
        sets: PolicySetUseCases,
        approvals: ApprovalOpening,
        tokens: PageTokens,
        keeper: StreamKeeper,
    ) -> None:
        self._policies = policies
        self._decisions = decisions
        self._watches = watches
        self._settings = settings
        self._sets = sets
        self._approvals = approvals
        self._tokens = tokens
        self._keeper = keeper
        self._questions = QuestionReader()
        self._rendered = DecisionBytes()

    @raw_unary
    async def EvaluatePolicy(self, raw: bytes, call: Call) -> bytes:  # type: ignore[override]  # raw
        request = decode_single(raw)
        namespace = enter_namespace(request.namespace)
        if call.confined:
            await confine(call, request)
        answer = self._decisions.evaluate(
            namespace,
            self._questions.single(raw, request),
            explain=explain_from_proto(request.explain),
            asked=Asked(call.caller.name, len(raw), request.dry_run),
        )
        if answer.recorded is not None:
            await answer.recorded
        if answer.decision.effect is not Effect.REQUIRE_APPROVAL or request.dry_run:
            return self._rendered.response(answer)
        approval = await self._approvals.open_answer(namespace, answer, caller=call.caller)
        return self._rendered.response(answer, approval)

    @raw_unary
    async def BatchEvaluatePolicy(  # type: ignore[override]  # raw
        self, raw: bytes, call: Call
    ) -> bytes:
        request = decode_batch(raw)
        call.entries = len(request.items)
        namespace = enter_namespace(request.namespace)
        if call.confined:
            await confine(call, request)
        if not 0 < len(request.items) <= MAX_BATCH:
            raise InvalidArgument.of("items", f"must hold 1-{MAX_BATCH} actions")
        if request.mode not in _STOP_AT_PERMITTED:
            raise InvalidArgument.of("mode", "is not known here")
        revision, answers, recorded = self._decisions.evaluate_many(
            namespace,
            self._questions.batch(raw, request),
            explain=explain_from_proto(request.explain),
            stop_at_permitted=_STOP_AT_PERMITTED[request.mode],
            asked=Asked(call.caller.name, len(raw), request.dry_run),
        )
        if recorded is not None:
            await recorded
        approvals = {}
        if not request.dry_run:
            approvals = await self._opened(namespace, answers, call.caller)
        return self._rendered.batch(revision, answers, approvals)

    async def _opened(
        self, namespace: str, answers: list[Answered | DomainError], caller: Caller
    ) -> dict[int, Approval]:
        """Open what has to be approved, by place; who may not ask for it is refused there."""
        approvals: dict[int, Approval] = {}
        for place, answer in enumerate(answers):
            if isinstance(answer, DomainError):
                continue
            if answer.decision.effect is not Effect.REQUIRE_APPROVAL:
                continue
            try:
                approval = await self._approvals.open_answer(namespace, answer, caller=caller)
            except DomainError as refusal:
                answers[place] = refusal
                continue
            if approval is not None:
                approvals[place] = approval
        return approvals

    async def WatchPolicies(  # type: ignore[override]  # writes by itself, see api/streams.py
        self, request: pb.WatchPoliciesRequest, context: Context
    ) -> None:
        events = self._watches.events(
            namespace_of(request.namespace),
            watched_agents_from_proto(request.agents),
            held=held_from_proto(request),
        )
        await run_stream(
            events,
            context,
            render=policy_event_to_proto,
            go_away=policies_go_away,
            keeper=self._keeper,
        )

    async def CreatePolicy(
        self, request: pb.CreatePolicyRequest, context: Context
    ) -> pb.CreatePolicyResponse:
        policy, warnings = await self._policies.create(
            namespace_of(request.namespace),
            policy_from_proto(request.policy),
            reason=reason_from_proto(request.reason),
            request=request_key(request, request.request_id),
            dry_run=request.dry_run,
            caller=current_caller(),
        )
        return pb.CreatePolicyResponse(policy=policy_to_proto(policy), warnings=warnings)

    async def GetPolicy(
        self, request: pb.GetPolicyRequest, context: Context
    ) -> pb.GetPolicyResponse:
        policy = await self._policies.get(
            namespace_of(request.namespace),
            required(request.policy_id, "policy_id"),
            min_revision=request.min_revision,
        )
        return pb.GetPolicyResponse(policy=policy_to_proto(policy))

    async def ListPolicies(
        self, request: pb.ListPoliciesRequest, context: Context
    ) -> pb.ListPoliciesResponse:
        namespace = namespace_of(request.namespace)
        size, digest = page_size(request.page_size), digest_of_arguments(request)
        cursor = self._tokens.decode(request.page_token, namespace, digest)
        page = await self._policies.page(
            namespace,
            enabled_only=request.enabled_only,
            min_revision=request.min_revision,
            after=cursor,
            limit=size,
        )
        response = pb.ListPoliciesResponse(
            policies=[policy_to_proto(policy) for policy in page.policies],
            total_size=page.total,
            position=position_to_proto(page.position),
        )
        if page.next_cursor:
            response.next_page_token = self._tokens.encode(namespace, digest, page.next_cursor)
        return response

    async def UpdatePolicy(
        self, request: pb.UpdatePolicyRequest, context: Context
    ) -> pb.UpdatePolicyResponse:
        required(request.policy.policy_id, "policy.policy_id")
        fields = mask_from_proto(request.update_mask.paths)
        policy, warnings = await self._policies.update(
            namespace_of(request.namespace),
            policy_from_proto(request.policy, mask=fields),
            fields,
            expected_revision=request.expected_revision,
            reason=reason_from_proto(request.reason),
            request=request_key(request, request.request_id),
            dry_run=request.dry_run,
            caller=current_caller(),
        )
        return pb.UpdatePolicyResponse(policy=policy_to_proto(policy), warnings=warnings)

    async def DeletePolicy(
        self, request: pb.DeletePolicyRequest, context: Context
    ) -> pb.DeletePolicyResponse:
        revision = await self._policies.delete(
            namespace_of(request.namespace),
            required(request.policy_id, "policy_id"),
            expected_revision=request.expected_revision,
            reason=reason_from_proto(request.reason),
            request=request_key(request, request.request_id),
            caller=current_caller(),
        )
        return pb.DeletePolicyResponse(revision=revision)
