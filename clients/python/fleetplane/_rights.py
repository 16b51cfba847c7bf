"""What the policies let an agent do."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fleetplane._client import FleetClient
from fleetplane._enums import ExplainLevel, PolicyAction
from fleetplane._exceptions import (
    ApprovalRequired,
    DeadlineExceeded,
    FleetError,
    PolicyDenied,
    Unavailable,
)
from fleetplane._fail_modes import FailMode, LocalDecisions
from fleetplane._session import FleetSession
from fleetplane._values import JsonValue
from fleetplane.v1 import policy_service_pb2

if TYPE_CHECKING:  # needs the extra `policies`
    from fleetplane._local_policies import LocalPolicies


class Rights:
    """The part of an agent that asks the policies."""

    _local_options: LocalDecisions | None = None
    _local: "LocalPolicies | None" = None

    @property
    def client(self) -> FleetClient:
        """The client of the agent."""
        raise NotImplementedError

    @property
    def agent_id(self) -> str:
        """Identity of the agent."""
        raise NotImplementedError

    @property
    def local_policies(self) -> "LocalPolicies | None":
        """What decides in this process, once the agent runs with `local_policies`; else None."""
        return self._local

    def _follow_policies(self, session: FleetSession) -> None:
        """Begin to keep a copy of the policies, if that is wanted."""
        if self._local_options is not None:
            self._local = session.local_policies((self.agent_id,), self._local_options)

    async def _leave_policies(self) -> None:
        if self._local is not None:
            await self._local.aclose()

    async def decide(
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
        """Decide in this process if the agent runs with `local_policies`, else ask; see `check`.

        Asks too as long as this process has not heard yet what decides for the agent. A local
        answer comes within microseconds and opens no approval; `LocalDecisions` says what happens
        when the copy gets too old. `timeout` and `on_unavailable` are for asking.

        Raises:
            StalePolicies: the copy is too old, and the fail mode of the action is RAISE.
            FleetError: as `check`.
            RuntimeError: the agent is not running.
        """
        merged: dict[str, Any] = {**claims, **context} if claims else context
        here = self._decide_here(action, merged, tool, explain)
        if here is not None:
            return here
        return await self.check(
            action,
            tool=tool,
            claims=merged,
            explain=explain,
            on_unavailable=on_unavailable,
            timeout=timeout,
        )

    def _decide_here(
        self,
        action: str,
        context: Mapping[str, JsonValue],
        tool: str,
        explain: ExplainLevel = ExplainLevel.NONE,
    ) -> policy_service_pb2.PolicyDecision | None:
        """Decide in this process; None where that is not possible.

        Raises:
            FleetError: see `LocalPolicies.decide`.
        """
        local = self._local
        if local is None or not local.can_decide():
            return None
        return local.decide(action, context, tool=tool, explain=explain)

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
        """Return the decision if the policies permit an action, raise otherwise; see `decide`.

        Where this process finds that somebody must approve, the plane is asked to open that.

        Raises:
            PolicyDenied: the policies refuse it.
            ApprovalRequired: somebody must approve it first.
            FleetError: the question was refused, or nobody answered and the mode is RAISE.
        """
        merged: dict[str, Any] = {**claims, **context} if claims else context
        decision = await self.decide(
            action, tool=tool, claims=merged, on_unavailable=on_unavailable, timeout=timeout
        )
        if (
            self._local is not None
            and PolicyAction(decision.action) is PolicyAction.REQUIRE_APPROVAL
        ):
            decision = await self.check(
                action, tool=tool, claims=merged, on_unavailable=on_unavailable, timeout=timeout
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
