"""Routes as the client offers them: which version of an agent gets how much."""

from collections.abc import AsyncIterator, Mapping

from fleetplane._calls import new_request_id
from fleetplane._connected import Connected
from fleetplane.v1 import routing_service_pb2 as pb


class RouteCalls(Connected):
    """Shares of the versions of one agent name, for operators.

    Every method takes `timeout`, its deadline in seconds over all attempts (None: the channel's
    default), and raises `FleetError` when it is refused or nobody answers. Writes are refused with
    `FailedPrecondition` (ROLLOUT_ACTIVE) while a rollout owns the route, and with
    `RevisionConflict` if it is not at `expected_revision` (0 does not check).
    """

    async def set_route(
        self,
        agent_name: str,
        shares: Mapping[str, int],
        *,
        reason: str = "",
        expected_revision: int = 0,
        request_id: str = "",
        timeout: float | None = None,
    ) -> pb.Route:
        """Set the shares of new sessions by version, in basis points that sum to 10,000.

        Args:
            agent_name: which agent.
            shares: 1-16 versions, such as `{"2.0.0": 1_000, "1.9.0": 9_000}`; the version that
                will grow comes first, so that growing only adds sessions to it.
            reason: why.
            expected_revision: see the class.
            request_id: makes a retry safe. Empty: a new one.
            timeout: see the class.

        Raises:
            NotFound: a version is not registered (AGENT_NOT_FOUND).
        """
        connection = self.connection
        request = pb.SetRouteRequest(
            namespace=self.namespace,
            agent_name=agent_name,
            shares=[
                pb.RouteShare(version=version, weight_bp=weight)
                for version, weight in shares.items()
            ],
            reason=reason,
            expected_revision=expected_revision,
            request_id=request_id or new_request_id(),
        )
        return (await connection.call(connection.routing.SetRoute, request, timeout)).route

    async def get_route(
        self, agent_name: str, *, min_revision: int = 0, timeout: float | None = None
    ) -> pb.Route:
        """Return the route of an agent name.

        Raises:
            NotFound: it has none (ROUTE_NOT_FOUND).
        """
        connection = self.connection
        request = pb.GetRouteRequest(
            namespace=self.namespace, agent_name=agent_name, min_revision=min_revision
        )
        return (await connection.call(connection.routing.GetRoute, request, timeout)).route

    async def list_routes_page(
        self,
        *,
        page_size: int = 0,
        page_token: str = "",
        min_revision: int = 0,
        timeout: float | None = None,
    ) -> pb.ListRoutesResponse:
        """Return one page of routes, by agent name."""
        connection = self.connection
        request = pb.ListRoutesRequest(
            namespace=self.namespace,
            page_size=page_size,
            page_token=page_token,
            min_revision=min_revision,
        )
        return await connection.call(connection.routing.ListRoutes, request, timeout)

    async def list_routes(
        self, *, page_size: int = 0, min_revision: int = 0, timeout: float | None = None
    ) -> AsyncIterator[pb.Route]:
        """Iterate over all routes, by agent name, page by page."""
        token = ""
        while True:
            page = await self.list_routes_page(
                page_size=page_size, page_token=token, min_revision=min_revision, timeout=timeout
            )
            for route in page.routes:
                yield route
            token = page.next_page_token
            if not token:
                return

    async def delete_route(
        self,
        agent_name: str,
        *,
        reason: str = "",
        expected_revision: int = 0,
        timeout: float | None = None,
    ) -> int:
        """Remove a route: every active version is eligible again; idempotent.

        Returns:
            The revision of the removal; 0 if there was no route.
        """
        connection = self.connection
        request = pb.DeleteRouteRequest(
            namespace=self.namespace,
            agent_name=agent_name,
            reason=reason,
            expected_revision=expected_revision,
        )
        return (await connection.call(connection.routing.DeleteRoute, request, timeout)).revision
