"""Policies as the client offers them: ask for decisions, write rules."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, TypedDict, Unpack

from google.protobuf.field_mask_pb2 import FieldMask

from fleetplane._batching import Batcher
from fleetplane._calls import new_request_id
from fleetplane._connected import Connected
from fleetplane._enums import BatchMode, ExplainLevel, OnMissing, PolicyAction
from fleetplane._exceptions import DeadlineExceeded, FleetError, error_from_entry
from fleetplane._requirements import ApprovalRequirement, Obligation
from fleetplane._values import JsonValue, one_of, to_struct, to_timestamp
from fleetplane.v1 import policy_service_pb2 as pb

MAX_BATCH: Final = 256
"""Items the daemon accepts in one batch of evaluations."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """One action to decide."""

    agent_id: str
    """Who wants to act."""
    action: str
    """What it wants to do."""
    tool: str = ""
    """With which tool, optional."""
    context: Mapping[str, JsonValue] = field(default_factory=dict)
    """Claims about the action."""


class PolicyFields(TypedDict, total=False):
    """The fields of a policy besides its id; see `fleetplane.v1.Policy`."""

    name: str
    description: str
    conditions: Mapping[str, JsonValue]
    action: PolicyAction
    priority: int
    enabled: bool
    guardrail: bool
    on_missing: OnMissing
    match_all: bool
    target_actions: str | Sequence[str]
    target_tools: str | Sequence[str]
    target_agents: str | Sequence[str]
    agent_name: str
    agent_id: str
    not_before: datetime | None
    not_after: datetime | None
    approval: ApprovalRequirement | None
    obligations: Sequence[Obligation]


_MASK_PATHS: Final = {
    "target_actions": "targets",
    "target_tools": "targets",
    "target_agents": "targets",
}


class PolicyCalls(Connected):
    """Central rules that decide what agents may do.

    `timeout` is the deadline of a call in seconds over all attempts (None: the channel's default).
    """

    _batchers: dict[tuple[ExplainLevel, bool], Batcher[pb.EvaluationItem, pb.PolicyDecision]]
    """One per level of explanation, and whether it is a dry run."""

    async def evaluate_policy(
        self,
        agent_id: str,
        action: str,
        *,
        tool: str = "",
        context: Mapping[str, JsonValue] | None = None,
        session_id: str = "",
        dry_run: bool = False,
        explain: ExplainLevel = ExplainLevel.NONE,
        timeout: float | None = None,
    ) -> pb.PolicyDecision:
        """Decide one action. Concurrent calls travel together, up to 256 in one message.

        Args:
            agent_id: who wants to act.
            action: what it wants to do, such as `database_write`.
            tool: with which tool, optional.
            context: claims about the action; they can never replace what the registry knows.
            session_id: conversation or run that it belongs to, optional.
            dry_run: leave no trace: nothing is recorded, and no approval is opened.
            explain: how much the decision explains.
            timeout: deadline in seconds, shorter than the channel's default, which bounds all.

        Raises:
            NotFound: no agent has that id.
            InvalidArgument: this item is malformed; others of the same batch are not affected.
        """
        item = pb.EvaluationItem(agent_id=agent_id, action=action, tool=tool, session_id=session_id)
        if context:
            item.context.MergeFrom(to_struct(context))
        batcher = self._batchers.get((explain, dry_run))
        if batcher is None:
            batcher = self._new_batcher(explain, dry_run=dry_run)
        if timeout is None:
            return await batcher.submit(item)
        try:
            async with asyncio.timeout(timeout):
                return await batcher.submit(item)
        except TimeoutError as error:
            raise DeadlineExceeded(f"no decision within {timeout:g} s") from error

    def _new_batcher(
        self, explain: ExplainLevel, *, dry_run: bool
    ) -> "Batcher[pb.EvaluationItem, pb.PolicyDecision]":
        connection = self.connection
        level = pb.ExplainLevel.ValueType(explain)

        async def send(
            items: Sequence[pb.EvaluationItem],
        ) -> Sequence[pb.PolicyDecision | FleetError]:
            request = pb.BatchEvaluatePolicyRequest(
                namespace=self._namespace, items=items, explain=level, dry_run=dry_run
            )
            response = await connection.call(connection.policies.BatchEvaluatePolicy, request)
            return _decisions(response)

        batcher = Batcher[pb.EvaluationItem, pb.PolicyDecision](send, max_items=MAX_BATCH)
        self._batchers[explain, dry_run] = batcher
        return batcher

    async def _close_batchers(self) -> None:
        batchers, self._batchers = self._batchers, {}
        for batcher in batchers.values():
            await batcher.aclose()

    async def batch_evaluate_policy(
        self,
        evaluations: Sequence[Evaluation],
        *,
        mode: BatchMode = BatchMode.EXECUTE_ALL,
        explain: ExplainLevel = ExplainLevel.NONE,
        timeout: float | None = None,
    ) -> list[pb.PolicyDecision | FleetError]:
        """Decide 1-256 actions on one revision of the policies, in order.

        Returns:
            One decision or error per decided item; fewer than items if `mode` stopped early.
        """
        connection = self.connection
        request = pb.BatchEvaluatePolicyRequest(
            namespace=self.namespace,
            items=[
                pb.EvaluationItem(
                    agent_id=one.agent_id,
                    action=one.action,
                    tool=one.tool,
                    context=to_struct(one.context) if one.context else None,
                )
                for one in evaluations
            ],
            mode=pb.BatchEvaluatePolicyRequest.Mode.ValueType(mode),
            explain=pb.ExplainLevel.ValueType(explain),
        )
        response = await connection.call(connection.policies.BatchEvaluatePolicy, request, timeout)
        return _decisions(response)

    async def create_policy(
        self,
        policy_id: str,
        *,
        reason: str = "",
        dry_run: bool = False,
        request_id: str = "",
        timeout: float | None = None,
        **fields: Unpack[PolicyFields],
    ) -> pb.CreatePolicyResponse:
        """Add a policy, enabled unless told otherwise; the answer has the linter's warnings.

        Args:
            policy_id: its identity.
            reason: why, for the audit.
            dry_run: validate and lint, write nothing.
            request_id: makes a retry safe. Empty: a new one.
            timeout: see the class.
            **fields: what it says; `action` is required.

        Raises:
            InvalidArgument: a condition is wrong; `violations` name `policy.conditions.<path>`.
            AlreadyExists: a policy has that id.
        """
        connection = self.connection
        request = pb.CreatePolicyRequest(
            namespace=self.namespace,
            policy=policy_message(policy_id, {"enabled": True, **fields}),
            reason=reason,
            request_id=request_id or new_request_id(),
            dry_run=dry_run,
        )
        return await connection.call(connection.policies.CreatePolicy, request, timeout)

    async def get_policy(
        self, policy_id: str, *, min_revision: int = 0, timeout: float | None = None
    ) -> pb.Policy:
        """Return one policy.

        Raises:
            NotFound: no policy has that id.
        """
        connection = self.connection
        request = pb.GetPolicyRequest(
            namespace=self.namespace, policy_id=policy_id, min_revision=min_revision
        )
        return (await connection.call(connection.policies.GetPolicy, request, timeout)).policy

    async def list_policies_page(
        self,
        *,
        enabled_only: bool = False,
        page_size: int = 0,
        page_token: str = "",
        min_revision: int = 0,
        timeout: float | None = None,
    ) -> pb.ListPoliciesResponse:
        """Return one page of policies, highest priority first."""
        connection = self.connection
        request = pb.ListPoliciesRequest(
            namespace=self.namespace,
            enabled_only=enabled_only,
            page_size=page_size,
            page_token=page_token,
            min_revision=min_revision,
        )
        return await connection.call(connection.policies.ListPolicies, request, timeout)

    async def list_policies(
        self,
        *,
        enabled_only: bool = False,
        page_size: int = 0,
        min_revision: int = 0,
        timeout: float | None = None,
    ) -> AsyncIterator[pb.Policy]:
        """Iterate over policies, highest priority first; `timeout` is that of one page."""
        token = ""
        while True:
            page = await self.list_policies_page(
                enabled_only=enabled_only,
                page_size=page_size,
                page_token=token,
                min_revision=min_revision,
                timeout=timeout,
            )
            for policy in page.policies:
                yield policy
            token = page.next_page_token
            if not token:
                return

    async def update_policy(
        self,
        policy_id: str,
        *,
        expected_revision: int = 0,
        reason: str = "",
        dry_run: bool = False,
        request_id: str = "",
        timeout: float | None = None,
        **changes: Unpack[PolicyFields],
    ) -> pb.UpdatePolicyResponse:
        """Change fields of a policy; those that are not named stay. Targets change as a whole.

        Raises:
            NotFound: no policy has that id.
            RevisionConflict: somebody else changed it.
            InvalidArgument: a condition is wrong.
        """
        if not changes:
            raise ValueError("no field to change was given")
        connection = self.connection
        request = pb.UpdatePolicyRequest(
            namespace=self.namespace,
            policy=policy_message(policy_id, changes),
            update_mask=FieldMask(paths=sorted({_MASK_PATHS.get(name, name) for name in changes})),
            expected_revision=expected_revision,
            reason=reason,
            request_id=request_id or new_request_id(),
            dry_run=dry_run,
        )
        return await connection.call(connection.policies.UpdatePolicy, request, timeout)

    async def delete_policy(
        self,
        policy_id: str,
        *,
        expected_revision: int = 0,
        reason: str = "",
        request_id: str = "",
        timeout: float | None = None,
    ) -> int:
        """Remove a policy; return the revision of the deletion.

        Raises:
            NotFound: no policy has that id.
            RevisionConflict: somebody else changed it.
        """
        connection = self.connection
        request = pb.DeletePolicyRequest(
            namespace=self.namespace,
            policy_id=policy_id,
            expected_revision=expected_revision,
            reason=reason,
            request_id=request_id or new_request_id(),
        )
        return (await connection.call(connection.policies.DeletePolicy, request, timeout)).revision


def _decisions(
    response: pb.BatchEvaluatePolicyResponse,
) -> list[pb.PolicyDecision | FleetError]:
    return [
        one.decision if one.HasField("decision") else error_from_entry(one.error)
        for one in response.results
    ]


def policy_message(policy_id: str, fields: Mapping[str, Any]) -> pb.Policy:
    """Build a policy from the keyword arguments of `PolicyFields`."""
    if unknown := set(fields) - set(PolicyFields.__annotations__):
        raise TypeError(f"a policy has no field {', '.join(sorted(unknown))}")
    policy = pb.Policy(policy_id=policy_id)
    for name, value in fields.items():
        match name:
            case "conditions":
                policy.conditions.CopyFrom(to_struct(value))
            case "target_actions" | "target_tools" | "target_agents":
                getattr(policy.targets, name.removeprefix("target_")).extend(one_of(value))
            case "approval":
                if value is not None:
                    policy.approval.CopyFrom(value.to_proto())
            case "obligations":
                policy.obligations.extend(one.to_proto() for one in value)
            case "not_before" | "not_after":
                if value is not None:
                    getattr(policy, name).CopyFrom(to_timestamp(value))
            case _:
                setattr(policy, name, value)
    return policy
