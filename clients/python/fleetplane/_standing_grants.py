"""Grants in advance as the client offers them."""

from collections.abc import AsyncIterator, Mapping
from datetime import datetime

from fleetplane._calls import new_request_id
from fleetplane._connected import Connected
from fleetplane._values import JsonValue, to_struct, to_timestamp
from fleetplane.v1 import approval_service_pb2 as pb


class StandingGrantCalls(Connected):
    """Grants that hold for what matches, a few times and not for long.

    Every method takes `timeout`, its deadline in seconds over all attempts (None: the channel's
    default).
    """

    async def create_standing_grant(
        self,
        action: str,
        *,
        max_uses: int,
        expires_at: datetime,
        reason: str,
        agent_name: str = "",
        agent_id: str = "",
        tool: str = "",
        conditions: Mapping[str, JsonValue] | None = None,
        request_id: str = "",
        timeout: float | None = None,
    ) -> pb.StandingGrant:
        """Grant in advance; never holds for what a policy calls irreversible.

        Args:
            action: for which actions: a glob.
            max_uses: how often, 1-50.
            expires_at: until when, at most 8 h from now.
            reason: why.
            agent_name: for the agents of this name; or
            agent_id: for this agent.
            tool: with which tools: a glob. Empty: any, or none.
            conditions: for which contexts, in the grammar of policies. None: all.
            request_id: makes a retry safe. Empty: a new one.
            timeout: see the class.

        Raises:
            InvalidArgument: a bound is passed, or a condition is malformed; see `violations`.
        """
        connection = self.connection
        grant = pb.StandingGrant(
            agent_name=agent_name,
            agent_id=agent_id,
            action=action,
            tool=tool,
            conditions=to_struct(conditions) if conditions else None,
            max_uses=max_uses,
            expires_at=to_timestamp(expires_at),
            reason=reason,
        )
        request = pb.CreateStandingGrantRequest(
            namespace=self.namespace, grant=grant, request_id=request_id or new_request_id()
        )
        return (
            await connection.call(connection.approvals.CreateStandingGrant, request, timeout)
        ).grant

    async def list_standing_grants(
        self, *, active_only: bool = False, page_size: int = 0, timeout: float | None = None
    ) -> AsyncIterator[pb.StandingGrant]:
        """Iterate over standing grants, the newest first, page by page."""
        connection = self.connection
        token = ""
        while True:
            request = pb.ListStandingGrantsRequest(
                namespace=self.namespace,
                active_only=active_only,
                page_size=page_size,
                page_token=token,
            )
            page = await connection.call(connection.approvals.ListStandingGrants, request, timeout)
            for grant in page.grants:
                yield grant
            token = page.next_page_token
            if not token:
                return

    async def revoke_standing_grant(
        self, grant_id: str, *, reason: str = "", timeout: float | None = None
    ) -> pb.StandingGrant:
        """End a standing grant; what it granted already stays. Idempotent.

        Raises:
            NotFound: there is none with that id (STANDING_GRANT_NOT_FOUND).
        """
        connection = self.connection
        request = pb.RevokeStandingGrantRequest(
            namespace=self.namespace, grant_id=grant_id, reason=reason
        )
        return (
            await connection.call(connection.approvals.RevokeStandingGrant, request, timeout)
        ).grant
