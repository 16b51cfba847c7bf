"""What the policies let an agent do."""

from collections.abc import Mapping
from typing import Any

from fleetplane._client import FleetClient
from fleetplane._enums import ExplainLevel, PolicyAction
from fleetplane._exceptions import (
    ApprovalRequired,
    DeadlineExceeded,
    FleetError,
    PolicyDenied,
    Unavailable,
)
from fleetplane._fail_modes import FailMode
from fleetplane._values import JsonValue
from fleetplane.v1 import policy_service_pb2


class Rights:
    """The part of an agent that asks the policies."""

    @property
    def client(self) -> FleetClient:
        """The client of the agent."""
        raise NotImplementedError

    @property
    def agent_id(self) -> str:
        """Identity of the agent."""
        raise NotImplementedError

    async def check(
        self,
        action: str,
        /,
        *,
        tool: str = "",
        claims: Mapping[str, JsonValue] | None = None,
        explain: ExplainLevel = ExplainLevel.NONE,
        on_unavailable: FailMode = FailMode.RAISE,
        timeout: float | None = None,
        **context: JsonValue,
    ) -> policy_service_pb2.PolicyDecision:
        """Ask the policies whether this agent may do something.

        Args:
            action: what it wants to do, such as `database_write`.
            tool: with which tool, optional.
            claims: claims about the action whose names are no identifiers, or are taken here.
            explain: how much the decision explains.
            on_unavailable: the answer while nobody can answer.
            timeout: deadline in seconds; None: the channel's default.
            **context: claims about the action, such as `environment="production"`.

        Raises:
            FleetError: the question was refused, or nobody answered and the mode is RAISE.
            RuntimeError: the agent is not running.
        """
        merged: dict[str, Any] = {**claims, **context} if claims else context
        try:
            return await self.client.evaluate_policy(
                self.agent_id, action, tool=tool, context=merged, explain=explain, timeout=timeout
            )
        except (Unavailable, DeadlineExceeded) as error:
            if on_unavailable is FailMode.RAISE:
                raise
            return _substitute(on_unavailable, error)

    async def require(
        self,
        action: str,
        /,
        *,
        tool: str = "",
        claims: Mapping[str, JsonValue] | None = None,
        on_unavailable: FailMode = FailMode.RAISE,
        timeout: float | None = None,
        **context: JsonValue,
    ) -> policy_service_pb2.PolicyDecision:
        """Return the decision if the policies permit an action, raise otherwise; see `check`.

        Raises:
            PolicyDenied: the policies refuse it.
            ApprovalRequired: somebody must approve it first.
            FleetError: the question was refused, or nobody answered and the mode is RAISE.
        """
        decision = await self.check(
            action,
            tool=tool,
            claims=claims,
            on_unavailable=on_unavailable,
            timeout=timeout,
            **context,
        )
        verdict = PolicyAction(decision.action)
        if verdict is PolicyAction.REQUIRE_APPROVAL:
            raise ApprovalRequired(decision)
        if not verdict.permits:
            raise PolicyDenied(decision)
        return decision


def _substitute(mode: FailMode, error: FleetError) -> policy_service_pb2.PolicyDecision:
    """Make the decision that stands in for the one nobody could make."""
    action = PolicyAction.ALLOW if mode is FailMode.ALLOW else PolicyAction.DENY
    return policy_service_pb2.PolicyDecision(
        action=policy_service_pb2.PolicyAction.ValueType(action),
        message=f"the plane could not be asked ({error.message}); fail mode {mode}",
    )
